"""Bring a store to the newest schema: numbered files of SQL, each run once, in order."""

from pathlib import Path

from headgate.core.errors import InputError
from headgate.store.database import Database, Transaction

FOLDER = Path(__file__).parent / "migrations"


def migrations() -> list[tuple[int, str]]:
    """(number, SQL) of every migration, in order."""
    return [(int(path.name[:4]), path.read_text()) for path in sorted(FOLDER.glob("*.sql"))]


def migrate(database: Database) -> int:
    """Run what is missing, all or nothing; the number of migrations run.

    Several gateways may start at once: the first one migrates and the others wait for it.
    """
    wanted = migrations()
    with database.transaction(write=False) as transaction:
        if _version(transaction) == wanted[-1][0]:
            return 0
    with database.transaction() as transaction:
        database.lock_migrations(transaction)
        version = _version(transaction)
        if version > wanted[-1][0]:
            raise InputError(
                f"The store has schema {version}, but this Headgate knows schemas up to "
                f"{wanted[-1][0]}; install a newer Headgate, or give another store."
            )
        missing = [(number, sql) for number, sql in wanted if number > version]
        for number, sql in missing:
            transaction.script(sql)
            transaction.execute("put_schema_version", {"version": number})
    return len(missing)


def _version(transaction: Transaction) -> int:
    if not transaction.query("has_schema_table"):
        return 0
    [(version,)] = transaction.query("schema_version")
    return int(version)
