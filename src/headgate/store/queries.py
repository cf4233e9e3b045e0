"""SQL in files of its own, read by name.

A file under `sql/` holds statements headed `-- name: put_tenant`. They are written in the SQL
that SQLite and PostgreSQL share, with `:name` parameters; where the two differ, a statement
headed `-- name: put_tenant (postgres)` is the other's.
"""

import re
from functools import cache
from pathlib import Path
from typing import Literal

Dialect = Literal["sqlite", "postgres"]

FOLDER = Path(__file__).parent / "sql"
_HEAD = re.compile(r"^-- name: (\w+)(?: \((sqlite|postgres)\))?\n", re.MULTILINE)
_VALUES = re.compile(r"VALUES\s*(\([^)]*\))")
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]\w*)")
_INTO = re.compile(r"INSERT INTO (\w+) \(([^)]*)\)")
_ONLY = re.compile(r"^-- \((sqlite|postgres)\)$", re.MULTILINE)


@cache
def queries(dialect: Dialect) -> dict[str, str]:
    """All statements by name, with parameters in the dialect's own style."""
    shared: dict[str, str] = {}
    own: dict[str, str] = {}
    for path in sorted(FOLDER.glob("*.sql")):
        _, *parts = _HEAD.split(path.read_text())
        for name, only, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            if only in (None, dialect):
                target = shared if only is None else own
                assert name not in target, f"{path.name}: {name} is defined twice"
                target[name] = in_dialect(text.strip(), dialect)
    return shared | own


@cache
def many_at_once(name: str, rows: int) -> str:
    """SQLite's insert of one row as an insert of so many, their values by position.

    One statement for many rows spares SQLite's beginning and ending each, and binding twenty
    parameters by name takes it longer than all else about a small row.
    """
    before, values, after = _VALUES.split(_PARAMETER.sub("?", queries("sqlite")[name]), 1)
    return f"{before}VALUES {', '.join([values] * rows)}{after}"


@cache
def from_json(name: str) -> tuple[str, list[str]]:
    """PostgreSQL's insert of one row as an insert of all rows of `rows`, and their columns.

    `rows` is a JSON array of objects: one parameter, which is some twenty times as fast as
    twenty for each row.
    """
    before, _, after = _VALUES.split(queries("sqlite")[name], 1)
    found = _INTO.search(before)
    assert found is not None, f"{name} is no plain insert"
    table, columns = found.groups()
    select = f"SELECT {columns} FROM json_populate_recordset(NULL::{table}, %(rows)s::json)"
    return f"{before}{select}{after}", [column.strip() for column in columns.split(",")]


def statements(script: str, dialect: Dialect) -> list[str]:
    """The statements of a migration; `-- (postgres)` above one keeps it to that database."""
    found = []
    for text in script.split(";\n"):
        only = _ONLY.search(text)
        if text.strip() and (only is None or only[1] == dialect):
            found.append(in_dialect(text, dialect))
    return found


def in_dialect(sql: str, dialect: Dialect) -> str:
    """`:name` parameters as the dialect's driver wants them."""
    if dialect == "sqlite":
        return sql
    return _PARAMETER.sub(r"%(\1)s", sql.replace("%", "%%"))
