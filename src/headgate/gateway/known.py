"""Heads that came before: what llhttp made of a head, kept by its bytes.

A client, or an engine, sends the same head again and again; what differs is the length of the
body. So a head is kept without the digits of its content-length: where the same bytes stand
around other digits, the parser would say the same again, and is not asked. Only messages that
came whole in one read are kept or found here, so the parser always stands between two messages,
and everything out of the ordinary goes the long way.
"""

from collections.abc import Callable
from time import monotonic
from typing import Final, Generic, TypeVar

KEPT_MAX: Final = 1000
KEPT_FOR_S: Final = 60.0  # a head not seen for so long, or twice that, is forgotten
HEAD_MAX: Final = 4096
BODY_MAX: Final = 65_536  # what is larger may not be sent by strangers
DIGITS_MAX: Final = 5

H = TypeVar("H")


class Form(Generic[H]):
    """The bytes of a head around its content-length, and what is known of such a head."""

    __slots__ = ("after", "age", "before", "head")

    def __init__(self, before: bytes, after: bytes, head: H, age: int) -> None:
        self.before = before
        self.after = after
        self.head = head
        self.age = age  # of the `Known` that holds it; another age, and it is forgotten

    def body_of(self, data: bytes) -> bytes | None:
        """The body, if `data` is one message with this head."""
        if not data.startswith(self.before):
            return None
        size = len(data)
        at = end = len(self.before)
        most = min(size, at + DIGITS_MAX)
        length = 0
        while end < most:
            digit = data[end] - 48
            if not 0 <= digit <= 9:
                break
            length = length * 10 + digit
            end += 1
        cut = end + len(self.after)
        if end == at or length != size - cut or data[end:cut] != self.after:
            return None
        return data[cut:]


class Known(Generic[H]):
    """Heads, in two generations: the older is forgotten all at once."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.age = 0  # grows when all is forgotten
        self._young: dict[tuple[bytes, bytes], Form[H]] = {}
        self._old: dict[tuple[bytes, bytes], Form[H]] = {}
        self._clock = clock
        self._began_s = clock()

    def find(self, data: bytes) -> Form[H] | None:
        """The form of the head of `data`; whether it fits, its `body_of` says."""
        cut = data.find(b"\r\n\r\n")
        at = data.rfind(b"ength: ", 0, cut) + 7
        if cut < 0 or at < 7:
            return None
        key = (data[:at], data[data.find(b"\r\n", at) : cut + 4])
        form = self._young.get(key)
        if form is None:
            form = self._old.get(key)
            if form is not None:
                self._young[key] = form
        return form

    def keep(self, data: bytes, head: H) -> Form[H] | None:
        """Remember the head of `data`, which the parser has found to be one whole message."""
        cut = data.find(b"\r\n\r\n")
        at = data.rfind(b"ength: ", 0, cut) + 7
        if not 7 < at < cut <= HEAD_MAX:
            return None
        before = data[:at]
        name = before[before.rfind(b"\n") + 1 :]
        form = Form(before, data[data.find(b"\r\n", at) : cut + 4], head, self.age)
        if name.lower() != b"content-length: " or form.body_of(data) is None:
            return None
        now_s = self._clock()
        if len(self._young) >= KEPT_MAX or now_s - self._began_s > KEPT_FOR_S:
            self._old, self._young = self._young, {}
            self._began_s = now_s
        self._young[before, form.after] = form
        return form

    def forget(self) -> None:
        self.age += 1
        self._young.clear()
        self._old.clear()
