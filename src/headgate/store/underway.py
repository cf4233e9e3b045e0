"""Requests that have begun and not ended, as their door's files tell it."""

from collections.abc import Iterator, Sequence
from operator import attrgetter

from headgate.ledger.usage import NAME_LENGTH, Item, Opened, Progress

_NAME = attrgetter("name")


class UnderWay:
    """Learns from notes and records, in the order in which they were written."""

    def __init__(self) -> None:
        # By prefix and name, so that a group of records is asked for them in one go: nearly all
        # of its requests ended before it was noted that they began.
        self._open: dict[str, dict[str, tuple[Opened, int]]] = {}

    def note(self, note: Opened | Progress) -> None:
        prefix, name = note.request[:-NAME_LENGTH], note.request[-NAME_LENGTH:]
        if type(note) is Opened:
            self._open.setdefault(prefix, {})[name] = (note, 0)
        elif type(note) is Progress and name in self._open.get(prefix, ()):
            self._open[prefix][name] = (self._open[prefix][name][0], note.output_tokens)

    def end(self, prefix: str, items: Sequence[Item]) -> None:
        """Their records are there."""
        those = self._open.get(prefix)
        if those:
            for name in those.keys() & map(_NAME, items):
                del those[name]

    def __iter__(self) -> Iterator[tuple[Opened, int]]:
        """What began, and how many tokens of it the client has been handed."""
        for those in self._open.values():
            yield from those.values()
