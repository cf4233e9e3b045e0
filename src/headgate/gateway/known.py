"""Heads that came before: what llhttp made of a head, kept by its bytes.

A client, or an engine, sends the same head again and again; what differs is the length of the
body. So a head is kept without the digits of its content-length: where the same bytes stand
around other digits, the parser would say the same again, and is not asked. Only messages that
came whole in one read are kept or found here, so the parser always stands between two messages,
and everything out of the ordinary goes the long way.
"""

from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

KEPT_MAX = 1000
KEPT_FOR_S = 60.0  # a head not seen for so long, or twice that, is forgotten
HEAD_MAX = 4096
BODY_MAX = 65_536  # what is larger may not be sent by strangers
DIGITS_MAX = 5

H = TypeVar("H")


class Known(Generic[H]):
    """Heads, in two generations: the older is forgotten all at once."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._young: dict[tuple[bytes, bytes], H] = {}
        self._old: dict[tuple[bytes, bytes], H] = {}
        self._clock = clock
        self._began_s = clock()

    def find(self, data: bytes) -> tuple[H, bytes] | None:
        """What is known of the head and the body, if `data` is one message with a known head."""
        cut = data.find(b"\r\n\r\n")
        at = data.rfind(b"ength: ", 0, cut) + 7
        if cut < 0 or at < 7:
            return None
        end = data.find(b"\r\n", at)
        digits = data[at:end]
        cut += 4
        if not digits.isdigit() or end - at > DIGITS_MAX or int(digits) != len(data) - cut:
            return None
        key = (data[:at], data[end:cut])
        head = self._young.get(key)
        if head is None:
            head = self._old.get(key)
            if head is None:
                return None
            self._young[key] = head
        return head, data[cut:]

    def keep(self, data: bytes, head: H) -> None:
        """Remember the head of `data`, which the parser has found to be one whole message."""
        cut = data.find(b"\r\n\r\n")
        at = data.rfind(b"ength: ", 0, cut) + 7
        if not 7 < at < cut <= HEAD_MAX:
            return
        end = data.find(b"\r\n", at)
        name = data[data.rfind(b"\n", 0, at) + 1 : at]
        digits = data[at:end]
        cut += 4
        if name.lower() != b"content-length: " or not digits.isdigit():
            return
        if len(digits) > DIGITS_MAX or int(digits) != len(data) - cut:
            return
        now_s = self._clock()
        if len(self._young) >= KEPT_MAX or now_s - self._began_s > KEPT_FOR_S:
            self._old, self._young = self._young, {}
            self._began_s = now_s
        self._young[data[:at], data[end:cut]] = head

    def forget(self) -> None:
        self._young.clear()
        self._old.clear()
