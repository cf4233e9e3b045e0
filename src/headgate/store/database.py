"""What both databases can do: transactions over statements that are called by name."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Generic, Protocol, TypeVar

REST_S = 0.00005
Row = tuple[Any, ...]
Parameters = Mapping[str, Any]
Connection = TypeVar("Connection")


def give_way() -> None:
    """Let whoever waits for the processor have it.

    A short sleep, because Linux may let a thread that only yields finish its slice.
    """
    time.sleep(REST_S)


class StoreAway(Exception):  # noqa: N818 - a state of the world, told as one
    """The store cannot be asked now: it is stopped, unreachable, locked or out of space."""


class Transaction(Protocol):
    """Statements that happen together or not at all."""

    def query(self, name: str, parameters: Parameters | None = None) -> list[Row]:
        """All rows of a statement."""
        ...

    def execute(self, name: str, parameters: Parameters | None = None) -> int:
        """Run a statement; the number of rows it changed."""
        ...

    def execute_each(self, name: str, rows: Sequence[Parameters]) -> list[int]:
        """Run a statement for each row; the number of rows changed by each."""
        ...

    def insert(self, name: str, rows: Sequence[Row]) -> None:
        """Run a plain insert for rows whose values are in the order of its columns."""
        ...

    def script(self, sql: str) -> None:
        """Run the statements of a migration."""
        ...

    def now_s(self) -> float:
        """The store's own clock, seconds since 1970: one clock for all gateways."""
        ...


class Database(Protocol):
    """A store of facts. Methods block: call them off the event loop."""

    def transaction(
        self, *, write: bool = True, durable: bool = True
    ) -> AbstractContextManager[Transaction]:
        """Commit at the end of the block, roll back on an exception.

        Without `write` all queries see the store as it was at one moment.

        A transaction that is not `durable` may be forgotten after a loss of power, never after
        a crash of a process. Raises StoreAway when the store cannot be asked.
        """
        ...

    def lock_migrations(self, transaction: Transaction) -> None:
        """Keep other processes from migrating until the transaction ends."""
        ...

    def close(self) -> None: ...


class Idle(Generic[Connection]):
    """Connections at rest, so that each transaction has one to itself and few are opened."""

    def __init__(self, connect: Callable[[], Connection], close: Callable[[Connection], None]):
        self._connect = connect
        self._close = close
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._closed = False

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[Connection]:
        """A connection; one that saw an exception it did not survive is not used again."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = self._connect()
        try:
            yield connection
        except BaseException:
            self._close(connection)
            raise
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        self._close(connection)

    def forget(self) -> None:
        """Close what is idle: they all lead to a server that went away."""
        with self._lock:
            stale, self._idle = self._idle, []
        for connection in stale:
            self._close(connection)

    def close(self) -> None:
        self._closed = True
        self.forget()
