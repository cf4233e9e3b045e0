"""SQLite: the default, in one file, shared by the processes of one machine."""

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from headgate.store.database import Idle, Parameters, Row, StoreAway, Transaction, give_way
from headgate.store.queries import many_at_once, queries, statements

BUSY_TIMEOUT_MS = 5_000
ROWS_AT_ONCE = 20  # in one statement
ROWS_AT_A_STRETCH = 40  # a fifth of a millisecond, then whoever waits for the processor has it
# What a caller can only wait out. Any other sqlite3 error is a mistake of ours.
AWAY_CODES = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PROTOCOL,
}


class SqliteTransaction:
    def __init__(self, connection: sqlite3.Connection, clock: Callable[[], float]) -> None:
        self._connection = connection
        self._clock = clock
        self._sql = queries("sqlite")

    def query(self, name: str, parameters: Parameters | None = None) -> list[Row]:
        return self._connection.execute(self._sql[name], parameters or {}).fetchall()

    def execute(self, name: str, parameters: Parameters | None = None) -> int:
        return self._connection.execute(self._sql[name], parameters or {}).rowcount

    def execute_each(self, name: str, rows: Sequence[Parameters]) -> list[int]:
        sql, execute = self._sql[name], self._connection.execute
        return [execute(sql, row).rowcount for row in rows]

    def insert(self, name: str, rows: Sequence[Row]) -> None:
        for first in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[first : first + ROWS_AT_ONCE]
            sql = many_at_once(name, len(some))
            self._connection.execute(sql, list(chain.from_iterable(some)))
            if first % ROWS_AT_A_STRETCH == 0 and first:
                give_way()

    def script(self, sql: str) -> None:
        # sqlite3's executescript would commit first.
        for statement in statements(sql, "sqlite"):
            self._connection.execute(statement)

    def now_s(self) -> float:
        return self._clock()


class Sqlite:
    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._clock = clock
        self._idle = Idle(self._connect, sqlite3.Connection.close)

    @contextlib.contextmanager
    def transaction(self, *, write: bool = True, durable: bool = True) -> Iterator[Transaction]:
        try:
            with self._idle.borrowed() as connection:
                connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                # A write lock taken late can fail where waiting would have done.
                connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                yield SqliteTransaction(connection, self._clock)
                connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in AWAY_CODES:
                raise
            raise StoreAway(f"SQLite at {self.path}: {error}") from error

    def lock_migrations(self, transaction: Transaction) -> None:
        """BEGIN IMMEDIATE has locked out every other writer already."""

    def close(self) -> None:
        self._idle.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_MS / 1e3
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")
        return connection
