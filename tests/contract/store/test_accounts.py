"""Tenants and keys, on both stores."""

import msgspec
import pytest

from headgate.core.errors import InputError
from headgate.ledger.accounts import Budget, Limit, Tenant
from headgate.store.database import Database
from headgate.store.migrate import migrate, migrations
from headgate.store.tenants import KEY_PREFIX, Tenants, digest_of

ACME = Tenant("acme", limits={"*": Limit(requests_per_min=60)}, budgets=(Budget(money=5.0),))


def test_migrations_run_once_and_are_numbered_without_gaps(database: Database) -> None:
    assert migrate(database) == 0
    assert [number for number, _ in migrations()] == list(range(1, len(migrations()) + 1))


def test_a_tenant_comes_back_as_it_was_put(database: Database) -> None:
    tenants = Tenants(database)
    tenants.put(ACME)
    assert tenants.get("acme") == ACME
    assert tenants.all() == [ACME]


def test_a_key_is_kept_as_its_hash_alone(database: Database) -> None:
    tenants = Tenants(database)
    tenants.put(ACME)
    secret, key = tenants.add_key("acme", label="laptop")
    assert secret.startswith(KEY_PREFIX)
    assert len(secret) >= 40
    [kept] = tenants.snapshot().keys
    assert kept.digest == digest_of(secret)
    assert kept.id == key.id
    assert secret not in repr(tenants.keys())
    assert [(k.label, k.revoked_s) for k in tenants.keys("acme")] == [("laptop", None)]


def test_a_revoked_key_is_valid_no_more_and_its_neighbours_are(database: Database) -> None:
    tenants = Tenants(database)
    tenants.put(ACME)
    _, first = tenants.add_key("acme")
    _, second = tenants.add_key("acme")
    tenants.revoke_key(first.id)
    assert [key.id for key in tenants.snapshot().keys] == [second.id]
    with pytest.raises(InputError, match="No valid key"):
        tenants.revoke_key(first.id)


def test_every_change_changes_the_version_and_nothing_else_does(database: Database) -> None:
    tenants = Tenants(database)
    versions = [tenants.version()]

    def changed() -> bool:
        versions.append(tenants.version())
        return versions[-1] != versions[-2]

    tenants.put(ACME)
    assert changed()
    tenants.seed([ACME], from_config=False)
    assert not changed()
    _, key = tenants.add_key("acme")
    assert changed()
    tenants.revoke_key(key.id)
    assert changed()
    tenants.keys()
    assert not changed()
    tenants.drop("acme")
    assert changed()


class Given(msgspec.Struct, frozen=True):
    id: str
    tenant: str
    sha256: str
    admin: bool = False


def test_a_key_of_the_config_is_valid_as_long_as_the_config_declares_it(
    database: Database,
) -> None:
    tenants = Tenants(database)
    first, second = Given("k1", "acme", "00" * 32), Given("k2", "acme", "11" * 32, admin=True)

    def valid() -> list[tuple[str, str, bool]]:
        return sorted((key.id, key.digest.hex(), key.admin) for key in tenants.snapshot().keys)

    tenants.seed([ACME], [first, second])
    _, other = tenants.add_key("acme")
    both = [("k1", "00" * 32, False), ("k2", "11" * 32, True)]
    assert valid()[:2] == both
    version = tenants.version()
    tenants.seed([ACME], [first, second])
    assert tenants.version() == version
    tenants.seed([ACME], [Given("k1", "acme", "22" * 32)])
    assert [entry[:2] for entry in valid()] == [("k1", "22" * 32), (other.id, valid()[1][1])]
    tenants.seed([ACME], [first, second])
    assert valid()[:2] == both
    with pytest.raises(InputError, match="No tenant is called 'nobody'"):
        tenants.seed([ACME], [Given("k3", "nobody", "33" * 32)])


def test_an_unknown_tenant_is_a_sentence(database: Database) -> None:
    with pytest.raises(InputError, match="No tenant is called 'nobody'"):
        Tenants(database).add_key("nobody")


def test_names_and_labels_are_data_never_sql(database: Database) -> None:
    tenants = Tenants(database)
    wicked = Tenant("x'; DROP TABLE tenants; -- %s :name")
    tenants.put(wicked)
    _, key = tenants.add_key(wicked.name, label="%(a)s '\"")
    assert tenants.get(wicked.name) == wicked
    assert tenants.keys(wicked.name) == [key]
