"""The fact log: a head with the fleet and the policy, then a line for every fact and its wishes.

JSON lines, so that a person can read them; a simulation writes the same log as the live fleet, so
replay and explain work on both. An absent field has its default.
"""

from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from headgate.control.machine import Machine
from headgate.core.errors import InputError
from headgate.core.facts import Fact, Wish
from headgate.core.fleet import Fleet

VERSION = 1


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must be known to make the machine again."""

    headgate: int
    policy: str
    preset: str
    standing: dict[str, float]
    fleet: Fleet
    # Silos are sized from the demand, which a log does not hold; their sizes stand here.
    caps: tuple[tuple[int, ...], ...] = ()
    peaks: tuple[float, ...] = ()


class Entry(msgspec.Struct, frozen=True, array_like=True):
    fact: Fact
    wishes: list[Wish]


# Times and tokens may be infinite, which JSON cannot say; they are defaults and stay out.
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Entry)


class LogWriter:
    """A watcher of the driver that writes every fact with its wishes."""

    def __init__(
        self, file: BinaryIO, fleet: Fleet, policy: str, preset: str, machine: Machine
    ) -> None:
        caps = getattr(machine.policy, "caps", None)
        peaks = getattr(machine.policy, "peaks", None)
        self.file = file
        self._line(
            Head(
                headgate=VERSION,
                policy=policy,
                preset=preset,
                standing=machine.weights,
                fleet=fleet,
                caps=() if caps is None else tuple(tuple(row) for row in caps.tolist()),
                peaks=() if peaks is None else tuple(peaks.tolist()),
            )
        )

    def _line(self, what: Head | Entry) -> None:
        self.file.write(_encoder.encode(what))
        self.file.write(b"\n")

    def __call__(self, fact: Fact, wishes: list[Wish]) -> None:
        self._line(Entry(fact, wishes))

    def close(self) -> None:
        self.file.close()


def read_head(file: BinaryIO, name: str) -> Head:
    """The first line; InputError when the file is no fact log."""
    try:
        head = msgspec.json.decode(file.readline(), type=Head)
    except msgspec.DecodeError as error:
        raise InputError(
            f"{name} is not a fact log ({error}); give a file that `headgate simulate --log` wrote."
        ) from None
    if head.headgate != VERSION:
        raise InputError(
            f"{name} is a log of version {head.headgate}; this release reads {VERSION}."
        )
    return head


def entries(file: BinaryIO, name: str) -> Iterator[Entry]:
    """Every fact with the wishes it led to, in order."""
    for number, line in enumerate(file, start=2):
        try:
            yield _decoder.decode(line)
        except msgspec.DecodeError as error:
            raise InputError(
                f"{name}, line {number} cannot be read ({error}); the log is cut off or damaged "
                f"there: replay the part before it, or write it again."
            ) from None
