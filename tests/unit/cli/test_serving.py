"""The command line of serving: bad input is one sentence, never a traceback or a hang."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from headgate.cli.serving import serving
from headgate.core.errors import InputError

WORKLOAD = "arrived_at,num_prefill_tokens,num_decode_tokens\n0,5,2\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "neither of --step-tables and --step-model"),
        (["--profile", "nope"], "profile is 'nope'"),
        (["--chunk", "0"], "chunk is 0"),
        (["--batch-cap", "0"], "batch_cap is 0"),
        (["--block-tokens", "24"], "block_tokens is 24"),
        (["--ttft-limit", "-1"], "--ttft-limit is -1"),
        (["--step-model", "nowhere.json"], "no such file"),
        (["--step-tables", "nowhere.npz"], "no such file"),
    ],
)
def test_bad_options_are_said_in_one_sentence(
    tmp_path: Path, options: list[str], said: str
) -> None:
    path = tmp_path / "w.csv"
    path.write_text(WORKLOAD)
    ran = CliRunner().invoke(serving, ["replay", str(path), *options])
    assert isinstance(ran.exception, InputError)
    assert said in str(ran.exception)
