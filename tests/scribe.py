"""Whole records, as tests tell of them, to what takes them in two parts."""

from collections.abc import Callable
from pathlib import Path

from headgate.ledger.ports import Bundle, Meter
from headgate.ledger.usage import Heading, Opened, Progress, UsageRecord, parted
from headgate.store.spool import SEGMENT_BYTES, Durable, Writer


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
                bundle = self._bundles.get(heading) or Bundle(heading)
                self._bundles[heading] = bundle
                packed.setdefault(bundle.number, (bundle, []))[1].append(item)
        notes = [entry for entry in entries if not isinstance(entry, UsageRecord)]
        self.write(notes, list(packed.values()), durable or [])


def record_to(meter: Meter, usage: UsageRecord, durable: Durable | None = None) -> None:
    """Give a meter a whole record."""
    heading, item = parted(usage)
    meter.record(usage.request, Bundle(heading), item, durable)
