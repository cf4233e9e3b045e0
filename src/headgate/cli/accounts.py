"""`headgate tenants` and `headgate keys`: who may ask, and with what."""

import json
import time
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from headgate.cli.store import as_json, show, with_database
from headgate.core.errors import InputError
from headgate.ledger.accounts import ANY_MODEL, Budget, Limit, Tenant
from headgate.store.database import Database
from headgate.store.tenants import Tenants

DAY_S = 86_400


@click.group()
def tenants() -> None:
    """Who pays: tenants, their limits and budgets."""


def _terms(command: Any) -> Any:
    """The options that `add` and `change` share."""
    options = [
        click.option("--class", "class_", help="The class it belongs to."),
        click.option("--weight", type=float, help="Its share beside others of the class."),
        click.option("--model", "models", multiple=True, help="A model it may use; repeatable."),
        click.option("--tier", "tiers", multiple=True, help="A tier it may ask for; repeatable."),
        click.option("--default-tier", help='What the service_tier "auto" means for it.'),
        click.option("--requests-per-min", type=click.IntRange(1), help="For each model."),
        click.option("--tokens-per-min", type=click.IntRange(1), help="For each model."),
        click.option("--budget", type=click.FloatRange(0), help="Money it may spend a month."),
        click.option("--token-budget", type=click.IntRange(0), help="Tokens it may use a month."),
        click.option(
            "--document",
            type=click.File(),
            help="All of it as JSON instead: limits by model, budgets, reserved throughput.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@tenants.command("add")
@click.argument("name")
@_terms
@with_database
def add(database: Database, name: str, **terms: Any) -> None:
    """Add a tenant."""
    store = Tenants(database)
    if any(known.name == name for known in store.all()):
        raise InputError(f"There is a tenant {name!r} already; `headgate tenants change` it.")
    store.put(changed(Tenant(name), **terms))
    click.echo(f"Added {name}; `headgate keys create {name}` makes it a key.")


@tenants.command("change")
@click.argument("name")
@_terms
@with_database
def change(database: Database, name: str, **terms: Any) -> None:
    """Change what is named of a tenant, within a second at every gateway."""
    store = Tenants(database)
    store.put(changed(store.get(name), **terms))
    click.echo(f"Changed {name}.")


def changed(
    tenant: Tenant,
    *,
    document: Any = None,
    models: tuple[str, ...] = (),
    tiers: tuple[str, ...] = (),
    requests_per_min: int | None = None,
    tokens_per_min: int | None = None,
    budget: float | None = None,
    token_budget: int | None = None,
    **named: Any,
) -> Tenant:
    """The tenant with what was named on the command line."""
    if document is not None:
        try:
            tenant = msgspec.json.decode(document.read(), type=Tenant)
        except msgspec.MsgspecError as error:
            raise InputError(f"--document: {error}.") from None
    named = {name: value for name, value in named.items() if value is not None}
    if models:
        named["models"] = models
    if tiers:
        named["tiers"] = tiers
    if requests_per_min is not None or tokens_per_min is not None:
        limit = tenant.limits.get(ANY_MODEL) or Limit()
        limit = msgspec.structs.replace(
            limit,
            requests_per_min=requests_per_min or limit.requests_per_min,
            tokens_per_min=tokens_per_min or limit.tokens_per_min,
        )
        named["limits"] = {**tenant.limits, ANY_MODEL: limit}
    if budget is not None or token_budget is not None:
        kept = tuple(one for one in tenant.budgets if one.period != "month")
        month = next((one for one in tenant.budgets if one.period == "month"), Budget())
        month = msgspec.structs.replace(
            month,
            money=month.money if budget is None else budget,
            tokens=month.tokens if token_budget is None else token_budget,
        )
        named["budgets"] = (*kept, month)
    return msgspec.structs.replace(tenant, **named)


@tenants.command("list")
@as_json
@with_database
def list_tenants(database: Database, as_json: bool) -> None:
    """The tenants there are."""
    found = Tenants(database).all()
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=1))
        return
    rows = [
        (
            tenant.name,
            tenant.class_,
            tenant.weight,
            ", ".join(tenant.models) or "all",
            "; ".join(f"{model}: {_limit(limit)}" for model, limit in tenant.limits.items()),
            "; ".join(map(_budget, tenant.budgets)),
        )
        for tenant in found
    ]
    show(["tenant", "class", "weight", "models", "limits", "budgets"], rows, as_json=False)


@tenants.command("show")
@click.argument("name")
@with_database
def show_tenant(database: Database, name: str) -> None:
    """One tenant as JSON, as `--document` takes it."""
    tenant = Tenants(database).get(name)
    click.echo(json.dumps(msgspec.to_builtins(tenant), indent=1))


@tenants.command("remove")
@click.argument("name")
@with_database
def remove(database: Database, name: str) -> None:
    """Remove a tenant and its keys; its usage stays."""
    Tenants(database).drop(name)
    click.echo(f"Removed {name}.")


@click.group()
def keys() -> None:
    """API keys: make, list, revoke. The store has their hashes alone."""


@keys.command("create")
@click.argument("tenant")
@click.option("--label", default="", help="What it is for.")
@click.option("--admin", is_flag=True, help="It may use the admin API.")
@click.option("--days", type=click.FloatRange(0, min_open=True), help="After which it ends.")
@with_database
def create(database: Database, tenant: str, label: str, admin: bool, days: float | None) -> None:
    """Make a key and print it, this once."""
    expires_s = None if days is None else time.time() + days * DAY_S
    secret, key = Tenants(database).add_key(tenant, label=label, admin=admin, expires_s=expires_s)
    click.echo(secret)
    click.echo(f"{key.id} of {tenant}; the key is not shown again.", err=True)


@keys.command("list")
@click.argument("tenant", required=False)
@as_json
@with_database
def list_keys(database: Database, tenant: str | None, as_json: bool) -> None:
    """The keys of a tenant, or of all."""
    rows = [
        (
            key.id,
            key.tenant,
            f"{key.hint}…",
            key.label,
            bool(key.admin),
            _when(key.created_s),
            _when(key.expires_s),
            _when(key.revoked_s),
        )
        for key in Tenants(database).keys(tenant)
    ]
    headings = ["id", "tenant", "key", "label", "admin", "created", "expires", "revoked"]
    show(headings, rows, as_json=as_json)


@keys.command("revoke")
@click.argument("key")
@with_database
def revoke(database: Database, key: str) -> None:
    """Refuse a key, by its id, from now on."""
    Tenants(database).revoke_key(key)
    click.echo(f"Revoked {key}.")


def _when(at_s: float | None) -> str | None:
    if at_s is None:
        return None
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M")


def _limit(limit: Limit) -> str:
    parts = []
    if limit.requests_per_min is not None:
        parts.append(f"{limit.requests_per_min:,} requests/min")
    if limit.tokens_per_min is not None:
        parts.append(f"{limit.tokens_per_min:,} tokens/min")
    if limit.growth_per_min is not None:
        parts.append(f"growth {limit.growth_per_min:g}/min")
    return ", ".join(parts)


def _budget(budget: Budget) -> str:
    parts = []
    if budget.money is not None:
        parts.append(f"{budget.money:g}")
    if budget.tokens is not None:
        parts.append(f"{budget.tokens:,} tokens")
    return f"{' and '.join(parts)} a {budget.period}"
