"""The simulation against a vLLM that is started for the purpose."""

import math
from pathlib import Path

import pytest
from tools.vllm_cpu import recording
from tools.vllm_cpu.server import Setup

from headgate.sim.serving.levels import predict_levels

pytestmark = pytest.mark.engine

MEASURES = ("ttft", "tpot", "e2e")


def test_load_levels_of_a_live_vllm_are_predicted_from_its_grid(
    vllm_installed: None, tmp_path: Path
) -> None:
    """From recording to signed errors on a real engine.

    How small the errors are depends on how steady the machine is while it records (a shared one
    drifts by tens of percent), so `headgate bench serving --live` measures them and no test does.
    """
    setup = Setup(batch_cap=32, max_model_len=1024, chunk=512)
    recording.record(tmp_path, setup, loads=[0.4, 0.7], requests=90, seed=11)
    found = predict_levels(tmp_path)
    assert set(found.errors) == set(found.drift_percent) == {"level-0.4", "level-0.7"}
    for errors in found.errors.values():
        for measure in MEASURES:
            # A predicted time is positive: no error can be -100 % or worse.
            assert -100.0 < errors[measure]["mean"] < math.inf
