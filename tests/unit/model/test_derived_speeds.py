"""The bundled speeds are what the measurements give today."""

import tomllib

import pytest
from tests.data import ROOT, data_dir, needs_data
from tools import derive_speeds

SPEEDS = ROOT / "src" / "headgate" / "scenarios" / "speeds.toml"


@needs_data
def test_the_bundled_speeds_are_those_that_the_tool_derives():
    assert derive_speeds.toml(data_dir()) == SPEEDS.read_text()


@pytest.mark.parametrize("name", ["small", "mid", "large", "reasoning"])
def test_newer_generations_serve_more_for_each_accelerator(name):
    service = tomllib.loads(SPEEDS.read_text())["services"][name]
    per_gpu = [r["tokens_per_s"] / r["gpus"] for r in service["replica"].values()]
    assert per_gpu == sorted(per_gpu)
    assert len(per_gpu) >= 2
