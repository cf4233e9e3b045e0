"""Real engines for tests that talk to one. A session starts each engine at most once."""

import os
from collections.abc import Iterator

import pytest
from tools.vllm_cpu import environment
from tools.vllm_cpu.server import Setup, VllmCpu


def skip_or_fail(reason: str) -> None:
    """Skip where an engine cannot be had; fail where HEADGATE_REQUIRE_ENGINES says it must be."""
    if os.environ.get("HEADGATE_REQUIRE_ENGINES"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def vllm_installed() -> None:
    """vLLM's environment, built on first use (two minutes, 3.4 GB in the user's cache)."""
    try:
        environment.install(os.environ.get("HEADGATE_TORCH_INDEX"))
    except environment.NoEngineError as refused:
        skip_or_fail(f"vLLM cannot be installed here: {refused}")


@pytest.fixture(scope="session")
def vllm(vllm_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmCpu]:
    """A running vLLM at `vllm.url`; the model is called `tiny`."""
    setup = Setup(batch_cap=8)  # soon full, so that its queue matters
    with VllmCpu(setup, log=tmp_path_factory.mktemp("vllm") / "vllm.log") as engine:
        yield engine
