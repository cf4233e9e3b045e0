"""A store by its url."""

from pathlib import Path

from headgate.core.errors import InputError
from headgate.store.database import Database
from headgate.store.migrate import migrate
from headgate.store.sqlite import Sqlite


def connect(url: str) -> Database:
    """The database a url names, not asked for anything yet.

    `sqlite:///relative.db`, `sqlite:////absolute.db` or `postgresql://user@host/name`.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        path = Path(rest[1:])
        path.parent.mkdir(parents=True, exist_ok=True)
        return Sqlite(path)
    if scheme in ("postgresql", "postgres"):
        # Only here, so that SQLite's users need no driver and pay no import.
        from headgate.store.postgres import Postgres

        return Postgres(url)
    raise InputError(
        f"state.url is {url!r}; give sqlite:///path/to/file.db or postgresql://user@host/name."
    )


def open_database(url: str) -> Database:
    """The database a url names, with the newest schema. Raises StoreAway when it is away."""
    database = connect(url)
    migrate(database)
    return database
