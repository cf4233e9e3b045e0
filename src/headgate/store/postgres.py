"""PostgreSQL through psycopg 3: when several gateways share one fleet."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from headgate.core.errors import InputError
from headgate.store.database import Idle, Parameters, Row, StoreAway, Transaction
from headgate.store.queries import from_json, queries, statements

try:
    import psycopg
except ImportError as error:  # pragma: no cover - depends on what is installed
    raise InputError(
        "state.url names PostgreSQL, but its driver is not installed; "
        "run `pip install headgate[postgres]`, or use a sqlite:/// url."
    ) from error

CONNECT_TIMEOUT_S = 3
STATEMENT_TIMEOUT_MS = 20_000
# A server that vanished without a word is noticed in seconds, not after TCP's two hours.
KEEPALIVE: dict[str, Any] = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
MIGRATION_LOCK = 0x68656164  # "head"


class PostgresTransaction:
    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self._connection = connection
        self._sql = queries("postgres")

    def query(self, name: str, parameters: Parameters | None = None) -> list[Row]:
        return self._run(self._sql[name], parameters).fetchall()

    def execute(self, name: str, parameters: Parameters | None = None) -> int:
        return self._run(self._sql[name], parameters).rowcount

    def execute_each(self, name: str, rows: Sequence[Parameters]) -> list[int]:
        if not rows:
            return []
        # In pipeline mode: one round trip for many rows.
        with self._connection.pipeline():
            cursors = [self._run(self._sql[name], row) for row in rows]
        return [cursor.rowcount for cursor in cursors]

    def insert(self, name: str, rows: Sequence[Row]) -> None:
        if rows:
            sql, columns = from_json(name)
            objects = [dict(zip(columns, row, strict=True)) for row in rows]
            self._run(sql, {"rows": msgspec.json.encode(objects).decode()})

    def script(self, sql: str) -> None:
        for statement in statements(sql, "postgres"):
            self._run(statement)

    def now_s(self) -> float:
        [(now_s,)] = self._run("SELECT extract(epoch FROM clock_timestamp())::float8").fetchall()
        return float(now_s)

    def _run(self, sql: str, parameters: Parameters | None = None) -> psycopg.Cursor[Row]:
        return self._connection.execute(sql.encode(), parameters or {})


class Postgres:
    def __init__(self, url: str) -> None:
        self.url = url
        self._idle = Idle(self._connect, psycopg.Connection.close)

    @contextlib.contextmanager
    def transaction(self, *, write: bool = True, durable: bool = True) -> Iterator[Transaction]:
        try:
            with self._idle.borrowed() as connection, connection.transaction():
                if not write:
                    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                elif not durable:
                    connection.execute("SET LOCAL synchronous_commit = off")
                yield PostgresTransaction(connection)
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            self._idle.forget()
            raise StoreAway(f"PostgreSQL: {str(error).strip()}") from error

    def lock_migrations(self, transaction: Transaction) -> None:
        transaction.query("lock_migrations", {"lock": MIGRATION_LOCK})

    def close(self) -> None:
        self._idle.close()

    def _connect(self) -> psycopg.Connection[Row]:
        return psycopg.connect(
            self.url,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            options=f"-c statement_timeout={STATEMENT_TIMEOUT_MS}",
            application_name="headgate",
            **KEEPALIVE,
        )
