"""The simulation against a vLLM that is started for the purpose."""

from pathlib import Path

import pytest
from tools.vllm_cpu import recording
from tools.vllm_cpu.server import Setup

from headgate.sim.serving.levels import predict_levels

pytestmark = pytest.mark.engine

WITHIN_PERCENT = 10.0


def test_load_levels_of_a_live_vllm_are_predicted_from_its_grid(
    vllm_installed: None, tmp_path: Path
) -> None:
    setup = Setup(batch_cap=32, max_model_len=1024, chunk=512)
    recording.record(tmp_path, setup, loads=[0.4, 0.7], requests=90, seed=11)
    found = predict_levels(tmp_path)
    assert set(found.errors) == {"level-0.4", "level-0.7"}
    steady = {k: e for k, e in found.errors.items() if abs(found.drift_percent[k]) < WITHIN_PERCENT}
    if not steady:
        pytest.skip(f"the engine's own speed drifted: {found.drift_percent} %; use a quiet machine")
    for level, errors in steady.items():
        # No prediction can do better than the engine agrees with itself.
        bound = WITHIN_PERCENT + abs(found.drift_percent[level])
        for measure in ("ttft", "tpot", "e2e"):
            assert abs(errors[measure]["mean"]) < bound, (level, measure, found)
