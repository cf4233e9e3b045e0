"""The kernel and its plain twin against Vidur's own results, request by request."""

import numpy as np
import polars as pl
import pytest
from tests.data import data_dir, needs_data
from tests.unit.kernels.serving.twin import Replica, Request, run_one, vidur_step_s

from headgate.model.scheduling import Scheduler
from headgate.sim.serving.replay import replay
from headgate.sim.serving.service import Settings, SimulatedService
from headgate.sim.serving.stepfiles import load_step_tables
from headgate.sim.serving.workload import Workload, load_workload

pytestmark = needs_data

FOLDER = data_dir() / "serving_ref"
RUNS = [("qps1", 1), ("qps4", 4)]


@pytest.mark.parametrize(("run", "replicas"), RUNS)
def test_every_request_takes_as_long_as_in_vidur(run: str, replicas: int) -> None:
    path = FOLDER / f"ref_vidur_{run}.csv.gz"
    reference = pl.read_csv(path)
    service = SimulatedService(
        Settings(Scheduler("vidur", chunk=512, batch_cap=128)),
        [load_step_tables(FOLDER / "vidur_step_tables.npz")],
        replicas,
        kv_blocks=4096,
    )
    replayed = replay(service, load_workload(path))
    for ours, theirs in ((replayed.ttft_s, "ttft_s"), (replayed.e2e_s, "e2e_s")):
        assert np.max(np.abs(ours - reference[theirs].to_numpy())) < 1e-6


@pytest.mark.parametrize(
    ("blocks", "chunk", "cap"), [(420, 512, 128), (420, 100, 128), (450, 512, 8)]
)
def test_every_request_takes_as_long_as_in_the_twin_when_memory_is_short(
    blocks: int, chunk: int, cap: int
) -> None:
    whole = load_workload(FOLDER / "w_10k_qps1.csv.gz")
    n = 800
    workload = Workload(whole.arrived_s[:n] * 1.2, whole.prefill[:n], whole.decode[:n])
    tables = FOLDER / "vidur_step_tables.npz"
    settings = Settings(Scheduler("vidur", chunk, cap))
    service = SimulatedService(settings, [load_step_tables(tables)], 1, blocks)
    replayed = replay(service, workload)
    with np.load(tables) as held:
        step_s = vidur_step_s({name: held[name].tolist() for name in held.files})
    columns = zip(workload.arrived_s, workload.prefill, workload.decode, strict=True)
    requests = [Request(i, float(at), int(p), int(d)) for i, (at, p, d) in enumerate(columns)]
    run_one(Replica(step_s, blocks, chunk, cap, truncate_on_restart=True), requests)
    assert sum(request.preemptions for request in requests) > 100
    for request, ttft_s, e2e_s in zip(requests, replayed.ttft_s, replayed.e2e_s, strict=True):
        assert request.first_token_at is not None
        assert request.finished_at is not None
        assert abs(request.first_token_at - request.arrived_at - ttft_s) < 1e-6
        assert abs(request.finished_at - request.arrived_at - e2e_s) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(("run", "replicas"), RUNS)
def test_the_plain_twin_agrees_with_vidur_too(run: str, replicas: int) -> None:
    rows = pl.read_csv(FOLDER / f"ref_vidur_{run}.csv.gz").rows(named=True)
    with np.load(FOLDER / "vidur_step_tables.npz") as held:
        step_s = vidur_step_s({name: held[name].tolist() for name in held.files})
    for r in range(replicas):
        mine = rows[r::replicas]
        requests = [Request(x["id"], x["arrived_at"], x["prefill"], x["decode"]) for x in mine]
        run_one(Replica(step_s, blocks=4096, truncate_on_restart=True), requests)
        for request, row in zip(requests, mine, strict=True):
            assert request.first_token_at is not None
            assert request.finished_at is not None
            assert abs(request.first_token_at - request.arrived_at - row["ttft_s"]) < 1e-6
            assert abs(request.finished_at - request.arrived_at - row["e2e_s"]) < 1e-6
