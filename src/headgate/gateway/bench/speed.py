"""How fast: saturation, latency, streams, large prompts, memory, start."""

import contextlib
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from headgate.core.errors import InputError
from headgate.gateway.bench import doors, load, upstream
from headgate.gateway.bench.doors import Running

DOOR_CORE, LOAD_CORE = 0, 1
CONNECTIONS = 64
STREAMS = 250
READ_EVERY_S = 0.003
PACED_STREAMS = (1000, 750, 500, 350, 250, 150, 100, 50)
TOKENS_PER_S = 100.0
PACE_KEPT = 1.1  # times the ideal


@dataclass
class Plan:
    """How much of everything; the full size is what the project quotes."""

    peers: tuple[str, ...]
    repeats: int = 5
    seconds: float = 2.0
    requests: int = 500_000
    fault_requests: int = 100_000
    folder: Path = field(default_factory=Path)

    @property
    def doors(self) -> tuple[str, ...]:
        return ("headgate", *self.peers)


@contextlib.contextmanager
def canned(folder: Path) -> Iterator[int]:
    """The canned upstream on the load's core."""
    port = doors.free_port()
    command = upstream.canned_command(port, folder) or _python_upstream(port, 0.0)
    with doors.running("upstream", command, port, LOAD_CORE, folder):
        yield port


@contextlib.contextmanager
def streaming(folder: Path, rate_per_s: float) -> Iterator[int]:
    port = doors.free_port()
    command = _python_upstream(port, rate_per_s)
    with doors.running("streams", command, port, LOAD_CORE, folder):
        yield port


def _python_upstream(port: int, rate_per_s: float) -> list[str]:
    module = "headgate.gateway.bench.upstream"
    return [sys.executable, "-m", module, str(port), str(rate_per_s)]


Figures = dict[str, dict[str, float]]


def saturation(plan: Plan) -> Figures:
    """Requests a second, one process on one core; medians of interleaved rounds."""
    with canned(plan.folder) as engine:
        return _rounds(plan, "saturation_rps", plan.doors, engine, load.SMALL, CONNECTIONS)


def large_prompts(plan: Plan) -> Figures:
    """Requests a second with prompts of 200 KB."""
    names = tuple(n for n in plan.doors if n in ("headgate", "vllm_router"))
    with canned(plan.folder) as engine:
        return _rounds(plan, "rps_200kb", names, engine, load.large(200), 16)


def _rounds(
    plan: Plan, figure: str, names: tuple[str, ...], engine: int, body: bytes, connections: int
) -> Figures:
    """Each door in turn, again and again, so that a change of the machine meets all alike.

    Requests a second: the median, the least and the most of the rounds; and the processor time
    that a request took of all the door's processes, in microseconds, over all rounds.
    """
    rates: dict[str, list[float]] = {name: [] for name in names}
    cpu_us: dict[str, list[float]] = {name: [] for name in names}
    with contextlib.ExitStack() as stack:
        made = {n: stack.enter_context(_door(plan, n, engine)) for n in names}
        for number in range(plan.repeats + 1):
            for name, door in made.items():
                # The slowest needs seconds for a round of its connections.
                many, seconds = (8, 5.0) if name == "litellm" else (connections, plan.seconds)
                before_s = door.cpu_s()
                rate = load.saturate(door.port, door.key, body, plan.folder, many, seconds)
                if number:  # the first round warms up
                    rates[name].append(rate)
                    cpu_us[name].append((door.cpu_s() - before_s) / (rate * seconds) * 1e6)
    figures = _spread(figure, rates)
    figures[f"{figure}_cpu_us"] = {n: statistics.median(found) for n, found in cpu_us.items()}
    return figures


def _spread(name: str, found: dict[str, list[float]]) -> Figures:
    """The median of each door's rounds, and beside it the least and the most."""
    found = {door: rounds for door, rounds in found.items() if rounds}
    return {
        name: {door: statistics.median(rounds) for door, rounds in found.items()},
        f"{name}_least": {door: min(rounds) for door, rounds in found.items()},
        f"{name}_most": {door: max(rounds) for door, rounds in found.items()},
    }


def _door(
    plan: Plan, name: str, engine: int, **options: object
) -> contextlib.AbstractContextManager[Running]:
    return doors.door(name, engine, plan.folder / name, DOOR_CORE, **options)


def chunks(plan: Plan) -> Figures:
    """Streamed events a second through each door: every event a write of its own upstream."""
    # LiteLLM goes on reading streams whose client has left, which would starve the others.
    names = tuple(name for name in plan.doors if name != "litellm")
    rates: dict[str, list[float]] = {name: [] for name in names}
    with streaming(plan.folder, 0.0) as engine, contextlib.ExitStack() as stack:
        made = {n: stack.enter_context(_door(plan, n, engine)) for n in names}
        for number in range(plan.repeats + 1):
            for name, door in made.items():
                try:
                    seen = load.read_streams(
                        door.port,
                        door.key,
                        STREAMS,
                        upstream.ENDLESS,
                        plan.seconds,
                        0.5,
                        READ_EVERY_S,
                    )
                except InputError:
                    continue  # it gave its streams up; what it does otherwise is still told
                finally:
                    door.let_rest()
                if number:
                    rates[name].append(seen.chunks / seen.took_s)
    return _spread("chunks_per_s", rates)


def paced(plan: Plan) -> dict[str, float]:
    """The time between tokens of many paced streams, P99 as a share of the ideal.

    As many streams as the upstream and the reader keep pace with when nothing stands between
    them, up to a thousand; through the doors as many; and the most through our own.
    """
    found: dict[str, float] = {}
    with streaming(plan.folder, TOKENS_PER_S) as engine:
        streams, found["direct_p99"] = _most_kept(plan, engine, "", PACED_STREAMS)
        found["direct_streams_kept"] = streams
        streams = streams or PACED_STREAMS[-1]
        for name in [n for n in plan.doors if n in ("headgate", "nginx")]:
            with _door(plan, name, engine) as door:
                found[f"{name}_p99"], kept = _paced(plan, door.port, door.key, streams)
                most = streams
                if not kept:
                    fewer = tuple(n for n in PACED_STREAMS if n < streams)
                    most, _ = _most_kept(plan, door.port, door.key, fewer)
                found[f"{name}_streams_kept"] = most
    return found


def _most_kept(plan: Plan, port: int, key: str, tries: tuple[int, ...]) -> tuple[int, float]:
    """The most of these numbers of streams whose pace is kept, 0 if none, and the last P99."""
    p99 = 0.0
    for streams in tries:
        p99, kept = _paced(plan, port, key, streams)
        if kept:
            return streams, p99
    return 0, p99


def _paced(plan: Plan, port: int, key: str, streams: int) -> tuple[float, bool]:
    """P99 between tokens over the ideal, and whether the pace was kept."""
    seen = load.read_streams(port, key, streams, upstream.ENDLESS, plan.seconds * 2, 2.0)
    time.sleep(0.5)  # the upstream forgets those streams
    p99 = load.percentile(seen.gaps_ms, 0.99) * TOKENS_PER_S / 1e3
    none_behind = seen.chunks >= 0.98 * seen.took_s * streams * TOKENS_PER_S
    return p99, none_behind and p99 <= PACE_KEPT


def latency(plan: Plan, name: str = "headgate") -> dict[str, float]:
    """Milliseconds added over asking the upstream itself; interleaved rounds, medians."""
    found: dict[str, list[float]] = {k: [] for k in ("c1_p50", "c1_p99", "r10_p50", "r10_p99")}
    with canned(plan.folder) as engine, _door(plan, name, engine) as door:
        load.latencies_ms(door.port, door.key, load.SMALL, 500, 0)
        for _ in range(plan.repeats):
            for label, count, rate in (("c1", 2000, 0.0), ("r10", 60, 10.0)):
                direct = load.latencies_ms(engine, "", load.SMALL, count, rate)
                through = load.latencies_ms(door.port, door.key, load.SMALL, count, rate)
                for mark, share in (("p50", 0.5), ("p99", 0.99)):
                    added = load.percentile(through, share) - load.percentile(direct, share)
                    found[f"{label}_{mark}"].append(added)
    return {key: statistics.median(values) for key, values in found.items()}


def memory(plan: Plan) -> dict[str, float]:
    """The serving process at rest, after a warm-up, and after many requests."""
    with canned(plan.folder) as engine, _door(plan, "headgate", engine) as door:
        time.sleep(1.0)
        found = {"idle": door.rss_mb()}
        rate = load.saturate(
            door.port, door.key, load.SMALL, plan.folder, CONNECTIONS, plan.seconds
        )
        done = rate * plan.seconds
        while done < plan.requests * 0.1:
            done += 10 * load.saturate(
                door.port, door.key, load.SMALL, plan.folder, CONNECTIONS, 10
            )
        found["after_warm_up"] = door.rss_mb()
        while done < plan.requests:
            done += 10 * load.saturate(
                door.port, door.key, load.SMALL, plan.folder, CONNECTIONS, 10
            )
        found["after_2m"] = door.rss_mb()
        found["requests"] = done
    return found


def start(plan: Plan) -> float:
    """Seconds from the command to the first answer; the median of several starts."""
    with canned(plan.folder) as engine:
        times = []
        for _ in range(max(3, plan.repeats)):
            with _door(plan, "headgate", engine) as door:
                times.append(door.started_s)
        return statistics.median(times)


def two_processes(plan: Plan) -> float:
    """Rate of two workers over one, all on the same two cores as the load."""
    with canned(plan.folder) as engine, contextlib.ExitStack() as stack:
        one = stack.enter_context(
            doors.door("headgate", engine, plan.folder / "one", DOOR_CORE, workers=1)
        )
        two = stack.enter_context(
            doors.door("headgate", engine, plan.folder / "two", -1, workers=2)
        )
        ratios = []
        for _ in range(plan.repeats):
            a, b = (
                load.saturate(d.port, d.key, load.SMALL, plan.folder, CONNECTIONS, plan.seconds)
                for d in (one, two)
            )
            ratios.append(b / a)
    return statistics.median(ratios)
