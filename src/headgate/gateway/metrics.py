"""Counters and their Prometheus page. Counting is a few additions on a request's last step."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from headgate.ledger.usage import Outcome

if TYPE_CHECKING:
    from headgate.gateway.exchange import Exchange

BOUNDS_S: Final[tuple[float, ...]] = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25),
    *(0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)
BOUNDS: Final = len(BOUNDS_S)
MIDDLE: Final = 6
MIDDLE_S: Final = BOUNDS_S[MIDDLE - 1]

Samples = dict[str, float]
"""Values by their Prometheus name with labels; those of several processes are summed."""


class Histogram:
    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        at = 0 if seconds <= MIDDLE_S else MIDDLE  # compiled, a tenth of what bisect takes
        while at < BOUNDS and seconds > BOUNDS_S[at]:
            at += 1
        self.counts[at] += 1
        self.sum_s += seconds

    def samples(self, name: str, labels: str, into: Samples) -> None:
        below = 0
        for bound, count in zip((*BOUNDS_S, "+Inf"), self.counts, strict=True):
            below += count
            into[f'{name}_bucket{{{labels},le="{bound}"}}'] = below
        into[f"{name}_sum{{{labels}}}"] = self.sum_s
        into[f"{name}_count{{{labels}}}"] = below


class Stats:
    """What happened to the requests of one model, class and tier."""

    __slots__ = ("cached", "done", "fed", "first", "labels", "made", "outcomes", "queued", "took")

    def __init__(self, model: str, class_: str, tier: str) -> None:
        self.labels = f'model="{_quoted(model)}",class="{_quoted(class_)}",tier="{tier}"'
        self.done = 0
        self.outcomes: dict[str, int] = {}  # the others
        self.fed = self.cached = self.made = 0
        self.queued = Histogram()
        self.first = Histogram()
        self.took = Histogram()

    def count(
        self,
        exchange: "Exchange",
        outcome: Outcome,
        fed: int,
        cached: int,
        made: int,
        now_s: float,
    ) -> None:
        if outcome == "done":
            self.done += 1
        else:
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        self.fed += fed
        self.cached += cached
        self.made += made
        if outcome == "done":
            self.queued.add(exchange.queued_s)
            self.first.add(exchange.first_byte_s)
            self.took.add(now_s - exchange.began_s)

    def samples(self, into: Samples) -> None:
        outcomes = {"done": self.done, **self.outcomes} if self.done else self.outcomes
        for outcome, count in outcomes.items():
            into[f'headgate_requests_total{{{self.labels},outcome="{outcome}"}}'] = count
        for kind, tokens in (("input", self.fed), ("cached", self.cached), ("output", self.made)):
            into[f'headgate_tokens_total{{{self.labels},kind="{kind}"}}'] = tokens
        self.queued.samples("headgate_queue_seconds", self.labels, into)
        self.first.samples("headgate_first_byte_seconds", self.labels, into)
        self.took.samples("headgate_request_seconds", self.labels, into)


class Metrics:
    """All counters of one process."""

    def __init__(self) -> None:
        self.stats: dict[tuple[str, str, str], Stats] = {}
        self.rejected = 0  # what could not be read as a request
        self.unknown_keys = 0

    def of(self, model: str, class_: str, tier: str) -> Stats:
        key = (model, class_, tier)
        found = self.stats.get(key)
        if found is None:
            found = self.stats[key] = Stats(model, class_, tier)
        return found

    def samples(self) -> Samples:
        into: Samples = {
            "headgate_rejected_requests_total": self.rejected,
            "headgate_unknown_keys_total": self.unknown_keys,
        }
        for stats in self.stats.values():
            stats.samples(into)
        return into


HISTOGRAMS: Final = (
    "headgate_queue_seconds",
    "headgate_first_byte_seconds",
    "headgate_request_seconds",
)


def page(samples: Samples) -> bytes:
    """Prometheus text format, one TYPE line before each family."""
    lines: list[str] = []
    family = ""
    for name, value in sorted(samples.items(), key=lambda item: _family(item[0])):
        current = _family(name)
        if current != family:
            family = current
            lines.append(f"# TYPE {family} {_type(family)}")
        lines.append(f"{name} {value!r}" if value != int(value) else f"{name} {int(value)}")
    return "\n".join(lines).encode() + b"\n"


def read(text: bytes) -> Samples:
    """The samples of another process's page."""
    samples: Samples = {}
    for line in text.decode().splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            samples[name] = float(value)
    return samples


NOT_SUMMED: Final = ("headgate_engine_up", "headgate_engine_token_seconds")


def merged(pages: Sequence[Samples]) -> Samples:
    """Samples of several processes as of one: sums, but for what each measures of the same."""
    into: Samples = {}
    for samples in pages:
        for name, value in samples.items():
            if name.startswith(NOT_SUMMED):
                into[name] = max(value, into.get(name, value))
            else:
                into[name] = into.get(name, 0.0) + value
    return into


def _family(name: str) -> str:
    bare = name.partition("{")[0]
    for suffix in ("_bucket", "_sum", "_count"):
        if bare.endswith(suffix) and bare.removesuffix(suffix) in HISTOGRAMS:
            return bare.removesuffix(suffix)
    return bare


def _type(family: str) -> str:
    if family in HISTOGRAMS:
        return "histogram"
    return "counter" if family.endswith("_total") else "gauge"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
