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
from headgate.sim.serving.workload import load_workload

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
