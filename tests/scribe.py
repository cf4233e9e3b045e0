"""A writer of usage files that takes whole records, as tests tell of them."""

from collections.abc import Callable
from pathlib import Path

from headgate.ledger.usage import Heading, Opened, Progress, UsageRecord, parted
from headgate.store.spool import SEGMENT_BYTES, Bundle, Durable, Writer


class Scribe(Writer):
    def __init__(
        self,
        folder: Path,
        name: str,
        committed: Callable[[list[Durable]], None],
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        super().__init__(folder, name, committed, segment_bytes)
        self._bundles: dict[Heading, Bundle] = {}

    def say(
        self, entries: list[Opened | Progress | UsageRecord], durable: list[Durable] | None = None
    ) -> None:
        """Write notes and records as one group."""
        packed: dict[int, tuple[Bundle, list]] = {}
        for entry in entries:
            if isinstance(entry, UsageRecord):
                heading, item = parted(entry)
                bundle = self._bundles.setdefault(heading, Bundle(len(self._bundles), heading))
                packed.setdefault(bundle.number, (bundle, []))[1].append(item)
        notes = [entry for entry in entries if not isinstance(entry, UsageRecord)]
        self.write(notes, list(packed.values()), durable or [])
