"""`/admin`: tenants, keys, usage and batches of all, for whoever holds an admin key."""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headgate.core.errors import InputError
from headgate.gateway.admin.answers import Page, admit_admin, body_of, desk_of, none_such, said
from headgate.gateway.admin.batches import shown as shown_batch
from headgate.gateway.admin.desk import in_thread
from headgate.gateway.errors import Problem
from headgate.ledger.accounts import Tenant
from headgate.ledger.calendar import first_and_last_day
from headgate.ledger.sums import dimensions_of
from headgate.store.tenants import Key


class NewKey(msgspec.Struct, forbid_unknown_fields=True):
    label: str = ""
    admin: bool = False
    expires_at: float | None = None


def _key(key: Key) -> dict[str, Any]:
    return msgspec.structs.asdict(key) | {"admin": bool(key.admin)}


async def tenants(request: Request) -> Response:
    return said(await in_thread(desk_of(request).tenants.all))


async def tenant(request: Request) -> Response:
    desk, name = desk_of(request), request.path_params["tenant"]
    if request.method == "PUT":
        given = await body_of(request, Tenant)
        if given.name != name:
            raise Problem(400, "invalid_value", "The name differs from the address's.", "name")
        await in_thread(lambda: desk.tenants.put(given))
    try:
        if request.method == "DELETE":
            await in_thread(lambda: desk.tenants.drop(name))
            return said({"name": name, "deleted": True})
        return said(await in_thread(lambda: desk.tenants.get(name)))
    except InputError:
        none_such("tenant", name)


async def keys(request: Request) -> Response:
    desk, name = desk_of(request), request.path_params["tenant"]
    try:
        if request.method == "POST":
            given = await body_of(request, NewKey)
            secret, key = await in_thread(
                lambda: desk.tenants.add_key(
                    name, label=given.label, admin=given.admin, expires_s=given.expires_at
                )
            )
            return said(_key(key) | {"key": secret}, 201)
        return said([_key(key) for key in await in_thread(lambda: desk.tenants.keys(name))])
    except InputError:
        none_such("tenant", name)


async def revoke(request: Request) -> Response:
    desk, key = desk_of(request), request.path_params["key"]
    try:
        await in_thread(lambda: desk.tenants.revoke_key(key))
    except InputError:
        none_such("valid key", key)
    return said({"id": key, "revoked": True})


async def usage(request: Request) -> Response:
    """Sums by `by` (names joined by commas), from one date to another, of one tenant or all."""
    desk, query = desk_of(request), request.query_params
    by = dimensions_of(query.get("by", "tenant"))
    first, last = first_and_last_day(query.get("from"), query.get("to"))
    sums = await in_thread(
        lambda: desk.usage.sums(by, tenant=query.get("tenant", ""), first_day=first, last_day=last)
    )
    return said(
        [
            dict(zip(by, names, strict=True)) | msgspec.structs.asdict(one)
            for names, one in sums.items()
        ]
    )


async def batches(request: Request) -> Response:
    desk = desk_of(request)
    found = await in_thread(lambda: desk.batches.all(request.query_params.get("tenant", "")))
    return said([shown_batch(batch) | {"tenant": batch.tenant} for batch in found])


def _for_admins(page: Page) -> Page:
    async def guarded(request: Request) -> Response:
        await admit_admin(request)
        return await page(request)

    return guarded


ROUTES = [
    Route("/admin/tenants", _for_admins(tenants), methods=["GET"]),
    Route("/admin/tenants/{tenant}", _for_admins(tenant), methods=["GET", "PUT", "DELETE"]),
    Route("/admin/tenants/{tenant}/keys", _for_admins(keys), methods=["GET", "POST"]),
    Route("/admin/keys/{key}", _for_admins(revoke), methods=["DELETE"]),
    Route("/admin/usage", _for_admins(usage), methods=["GET"]),
    Route("/admin/batches", _for_admins(batches), methods=["GET"]),
]
