"""Policies side by side on one story: each in a process of its own, the same seed and demand."""

import multiprocessing
import os
import signal
import time
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.managers import SyncManager
from pathlib import Path
from typing import Any

import numpy as np

from headgate.control.factlog import LogWriter
from headgate.control.machine import Machine
from headgate.core.facts import Fact, NodeJoined, WindowClosed, Wish, WorkSubmitted
from headgate.core.fleet import Fleet, Pool, Service, Shape, Tenant
from headgate.policy.headgate import Headgate
from headgate.policy.rules import Rank
from headgate.sim.driver import Watcher, run
from headgate.sim.lawful import Lawful
from headgate.sim.nature import Nature
from headgate.sim.policies import make
from headgate.sim.record import Recorder
from headgate.sim.requests import RequestTraffic
from headgate.sim.results import Figures
from headgate.sim.story import Story
from headgate.sim.traffic import Objectives, Traffic

Told = Callable[[str, float], None]  # (policy, share of the span simulated)


@dataclass(frozen=True, slots=True)
class Settings:
    """How to run, apart from what."""

    seed: int = 0
    log_dir: Path | None = None  # where to write each policy's fact log
    timed: bool = False  # note how long every fact takes the machine


class TimedMachine(Machine):
    """A machine that notes how long each close of a window takes it: the facts at which it plans,
    scales and decides about everything. Other facts take microseconds."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.took_s = array("d")
        self.planned = array("b")  # 1: prices were made anew in it

    def handle(self, fact: Fact) -> list[Wish]:
        if type(fact) is not WindowClosed:
            return super().handle(fact)
        began_s = time.perf_counter()
        wishes = super().handle(fact)
        self.took_s.append(time.perf_counter() - began_s)
        self.planned.append(self.prices is not None and self.prices.planned_s == fact.at_s)
        return wishes


def round_times(machine: TimedMachine) -> dict[str, float]:
    """Milliseconds of the rounds at windows' closes, the first apart: it fills an empty fleet."""
    took_ms = np.array(machine.took_s)[1:] * 1e3
    plans_ms = took_ms[np.array(machine.planned, np.bool_)[1:]]
    times = {
        "p50": float(np.quantile(took_ms, 0.5)),
        "p99": float(np.quantile(took_ms, 0.99)),
        "max": float(took_ms.max()),
    }
    if len(plans_ms):
        times["plan_p50"] = float(np.quantile(plans_ms, 0.5))
        times["plan_p99"] = float(np.quantile(plans_ms, 0.99))
    return times


def run_policy(
    name: str,
    story: Story,
    settings: Settings,
    told: Told | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Simulate one policy; its figures, and `partial` when it was stopped before the end."""
    began_s = time.perf_counter()
    scenario = story.scenario
    machine, nature = stage(name, story, settings)
    truth, traffic = nature.truth, nature.traffic
    windows = round(scenario.span_s / scenario.window_s)
    record = Recorder(machine, traffic, windows)
    log = _log(name, story, machine, settings)
    # The log first: a law that breaks must leave the fact that broke it to be replayed.
    watchers: tuple[Watcher, ...] = (() if log is None else (log,)) + (record, Lawful(machine))

    def watched() -> bool:
        if told is not None and record.count % 60 == 0 and record.count:
            told(name, record.count / windows)
        return stopped()

    facts = run(machine, nature, watchers, watched)
    until_s = scenario.span_s if record.count == windows else machine.now_s
    nature.until_s = until_s
    nature.settle()
    if log is not None:
        log.close()
    result = Figures(story, machine, truth, record, until_s).all()
    result["facts"] = facts
    if isinstance(machine, TimedMachine):
        result["round_ms"] = round_times(machine)
    result["wall_s"] = time.perf_counter() - began_s
    result["partial"] = record.count < windows
    result["simulated_s"] = until_s
    return result


def stage(name: str, story: Story, settings: Settings) -> tuple[Machine, Nature]:
    """The machine under a policy, and the nature it meets, before the first fact."""
    scenario = story.scenario
    made = TimedMachine if settings.timed else Machine
    machine = made(story.fleet, make(name, story), dict(scenario.order.standing))
    traffic = None
    if story.fleet.services:
        objectives = Objectives(
            np.array([part.wait_s for part in scenario.services]),
            np.array([part.patience_s for part in scenario.services]),
        )
        traffic = _traffic(story, objectives, settings.seed)
    nature = Nature(
        story.fleet, iter(story.facts), story.submitted(),
        until_s=scenario.span_s, seed=settings.seed, live_s=story.live_s,
        gone_s=story.gone_s, failures=story.failures, traffic=traffic, window_s=scenario.window_s,
        stop_s=scenario.stop_s,
    )  # fmt: skip
    return machine, nature


def _traffic(story: Story, objectives: Objectives, seed: int) -> Traffic:
    """The windows of traffic in the scenario's fidelity."""
    scenario = story.scenario
    if scenario.fidelity == "windows":
        return Traffic(scenario.window_s, story.arrived, objectives)
    return RequestTraffic(
        scenario.window_s,
        story.arrived,
        objectives,
        parts=scenario.services,
        demands=story.demands,
        pools={pool.name: pool.gpus for pool in story.fleet.pools},
        seed=seed,
    )


def warm_up() -> None:
    """Compile the kernels, or load them; the first time after an installation takes a while.

    Ctrl-C waits meanwhile: in the middle of a callback of LLVM's it would end in a crash.
    """
    with unheard():
        _touch_every_kernel()


def _touch_every_kernel() -> None:
    fleet = Fleet(
        pools=(Pool(name="pool", generation="any", nodes=1),),
        classes=("training",),
        tenants=(Tenant(name="tenant", class_=0),),
        shapes=(Shape(name="one", gpus=(1,), speed=(1.0,), start_s=(0.0,)),),
        services=(Service(name="service", class_=0, tenant=0, shape=0),),
    )
    machine = Machine(fleet, Headgate(fleet.classes))
    traffic = Traffic(60.0, np.ones((1, 1)), Objectives(np.ones(1), np.ones(1)))
    machine.handle(NodeJoined(0.0, 0))
    machine.handle(WorkSubmitted(0.0, "work", "gang", 0, 0))
    machine.ground.move(0, Rank(1, 0.0), fill=False, mode=0)
    machine.handle(traffic.close(1.0, machine))


def _log(name: str, story: Story, machine: Machine, settings: Settings) -> LogWriter | None:
    if settings.log_dir is None:
        return None
    settings.log_dir.mkdir(parents=True, exist_ok=True)
    path = settings.log_dir / f"{name.replace('/', '_').replace(':', '_')}.jsonl"
    return LogWriter(path.open("wb"), story.fleet, name, story.scenario.order.preset, machine)


def _child(name: str, story: Story, settings: Settings, progress: Any, stop: Any) -> dict[str, Any]:
    """What a worker process runs."""
    last = [0.0]

    def told(policy: str, share: float) -> None:
        if share != last[0]:
            last[0] = share
            progress[policy] = share

    checked = [0]

    def stopped() -> bool:
        checked[0] += 1
        return checked[0] % 2048 == 0 and bool(stop.is_set())

    return run_policy(name, story, settings, told, stopped)


def run_policies(
    names: tuple[str, ...],
    story: Story,
    settings: Settings,
    told: Told | None = None,
    workers: int | None = None,
) -> dict[str, dict[str, Any]]:
    """Simulate every policy; on Ctrl-C, what they have got to by then, marked partial."""
    workers = min(workers or os.cpu_count() or 1, len(names))
    context = multiprocessing.get_context("spawn")
    with unheard():
        manager = context.Manager()
    with manager, ProcessPoolExecutor(workers, mp_context=context) as executor:
        assert isinstance(manager, SyncManager)
        progress, stop = manager.dict(), manager.Event()
        with unheard():
            # The last named are the most elaborate and take longest: were they to begin last, a
            # core would stand idle while they end.
            begun: dict[str, Future[dict[str, Any]]] = {
                name: executor.submit(_child, name, story, settings, progress, stop)
                for name in reversed(names)
            }
            futures = {name: begun[name] for name in names}
        try:
            _watch(futures, progress, told)
        except KeyboardInterrupt:
            stop.set()
            for future in futures.values():
                future.cancel()
        return {name: future.result() for name, future in futures.items() if not future.cancelled()}


@contextmanager
def unheard() -> Iterator[None]:
    """Put Ctrl-C off until this is over. Processes begun in here never hear it, though a terminal
    sends it to all: the parent alone answers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watch(futures: dict[str, Future[dict[str, Any]]], progress: Any, told: Told | None) -> None:
    while not all(future.done() for future in futures.values()):
        time.sleep(0.1)
        for future in futures.values():
            if future.done() and future.exception() is not None:
                future.result()
        if told is not None:
            for name, share in dict(progress).items():
                told(name, share)
    if told is not None:
        for name in futures:
            told(name, 1.0)
