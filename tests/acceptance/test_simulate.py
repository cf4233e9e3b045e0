"""`headgate simulate` as a person runs it: results, errors, Ctrl-C, a policy of one's own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headgate.cli.main import main
from tests.data import data_dir, needs_data
from tests.scenarios import SMALL, broken

HEADGATE = Path(sys.executable).parent / "headgate"
KEYS = {
    "value",
    "busy_share",
    "goodput_tokens",
    "attainment",
    "valley_harvest",
    "lost_work_share",
    "guarantee_broken_s",
    "ledger_residual",
}
# Rounding alone: shares of billions of GPU-seconds, added up in doubles.
ROUNDING = 1e-9


def simulate(folder: Path, *words: object, small: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder that holds the small scenario."""
    (folder / "small.toml").write_text(SMALL)
    given = ["small.toml", *map(str, words)] if small else [*map(str, words)]
    return subprocess.run(
        [HEADGATE, "simulate", *given],
        cwd=folder, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


def told(folder: Path, *words: object, small: bool = True) -> dict:
    """The JSON of a run that must succeed."""
    ran = simulate(folder, *words, "--json", "out.json", "--report", "out.html", small=small)
    assert ran.returncode == 0, ran.stderr
    return json.loads((folder / "out.json").read_text())


def holds_together(result: dict) -> None:
    """What must be true of one policy's figures whatever the policy."""
    assert set(result) >= KEYS
    for share in ("busy_share", "attainment", "lost_work_share"):
        assert 0 <= result[share] <= 1, share
    assert result["goodput_tokens"] >= 0
    assert result["guarantee_broken_s"] >= 0
    assert result["ledger_residual"] < ROUNDING
    assert result["value"] == pytest.approx(sum(result["value_usd"].values()))
    ledger = result["ledger_gpu_hours"]
    parts = sum(sum(spent.values()) for spent in ledger["classes"].values())
    assert parts + sum(ledger["idle"].values()) == pytest.approx(ledger["fleet"], rel=ROUNDING)
    assert min(ledger["idle"].values()) >= -ROUNDING * ledger["fleet"]
    assert not result["partial"]


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The bundled scenario, as `headgate simulate` runs it, for a few hours."""
    folder = tmp_path_factory.mktemp("day")
    return folder, told(folder, "--days", 0.2, small=False)


def test_the_bundled_scenario_compares_policies(day: tuple[Path, dict]) -> None:
    _, outcome = day
    assert set(outcome["policies"]) >= {"silos", "fifo", "priority", "headgate"}
    for result in outcome["policies"].values():
        holds_together(result)


def test_the_report_opens_without_a_network(day: tuple[Path, dict]) -> None:
    page = (day[0] / "out.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert 'src="http' not in page
    assert "@import" not in page.split("</style>")[0]


@needs_data
@pytest.mark.slow
def test_a_day_of_the_week_is_replayed_from_traces(tmp_path: Path) -> None:
    outcome = told(
        tmp_path, "pool-week", "--data", data_dir(), "--days", 1, "--policy", "fifo",
        "--policy", "headgate", small=False,
    )  # fmt: skip
    assert outcome["demand"] == "replayed from traces"
    for result in outcome["policies"].values():
        holds_together(result)
        assert result["facts"] > 5000


def without_walls(outcome: dict) -> str:
    for result in outcome["policies"].values():
        del result["wall_s"]
    return json.dumps(outcome)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_story(tmp_path: Path) -> None:
    first = told(tmp_path, "--seed", 3, "--log", "one", "--policy", "headgate")
    second = told(tmp_path, "--seed", 3, "--log", "two", "--policy", "headgate")
    other = told(tmp_path, "--seed", 4, "--policy", "headgate")
    result = first["policies"]["headgate"]
    holds_together(result)
    logs = [(tmp_path / log / "headgate.jsonl").read_bytes() for log in ("one", "two")]
    assert logs[0] == logs[1]
    assert logs[0].count(b"\n") == result["facts"] + 1
    assert other["policies"]["headgate"]["value"] != result["value"]
    assert without_walls(first) == without_walls(second)


POLICY = """
from dataclasses import dataclass, field
from headgate.policy.baselines import Fifo


class Mine(Fifo):
    def __init__(self, classes, preset):
        super().__init__()
        assert classes == ("training", "maas", "internal", "external")
        assert preset == "internal_first"
"""


def test_a_policy_of_ones_own_runs_from_a_file_and_from_a_module(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(POLICY)
    names = ("mine.py:Mine", "mine:Mine", "fifo")
    outcome = told(tmp_path, *(word for name in names for word in ("--policy", name)))
    figures = [without_walls({"policies": {"": outcome["policies"][name]}}) for name in names]
    assert figures[0] == figures[1] == figures[2]


WRONG = {
    "no such scenario": (["none.toml"], "none.toml cannot be read"),
    "no such policy": (["small.toml", "--policy", "best"], "silos, fifo, priority, headgate"),
    "no such policy file": (["small.toml", "--policy", "none.py:X"], "cannot be imported"),
    "no such class": (["small.toml", "--policy", "mine.py:Yours"], "has no Yours"),
    "a policy that is none": (["small.toml", "--policy", "os:getcwd"], "cannot be made"),
    "a policy that breaks": (["small.toml", "--policy", "breaks.py:X"], "division by zero"),
    "no such data": (["small.toml", "--data", "nowhere"], "no folder"),
    "empty data": (["small.toml", "--data", "."], ""),
    "days that never end": (["small.toml", "--days", "inf"], "--days is inf"),
    "no days": (["small.toml", "--days", "nan"], "--days is nan"),
    "less than a window": (["small.toml", "--days", "1e-6"], "at least one window"),
    "a seed below nothing": (["small.toml", "--seed", "-1"], "-1"),
    "a folder for the figures": (["small.toml", "--json", "."], "is a folder"),
    "figures in no folder": (["small.toml", "--json", "no/out.json"], "folder does not exist"),
    "a report in no folder": (["small.toml", "--report", "no/o.html"], "folder does not exist"),
    "a file for the logs": (["small.toml", "--log", "small.toml"], "is a file"),
    "an unknown key": (["unknown.toml"], "pools[0].nods is not known; allowed there are name"),
    "a gang too large": (["large.toml"], "more than any pool it may use holds (48)"),
}


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "small.toml").write_text(SMALL)
    (folder / "unknown.toml").write_text(broken('A"\nnodes = 4', 'A"\nnods = 4'))
    (folder / "large.toml").write_text(broken("gpus = 16\n", "gpus = 64\n"))
    (folder / "mine.py").write_text(POLICY)
    (folder / "breaks.py").write_text("X = 1 / 0\n")
    return folder


def sentence(said: str) -> str:
    """What was said, in one line; never a traceback."""
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) <= 4
    return " ".join(said.split())


@pytest.mark.parametrize(("words", "expected"), WRONG.values(), ids=WRONG.keys())
def test_bad_input_ends_with_status_2_and_a_sentence(
    wrong: Path,
    words: list[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(wrong)
    monkeypatch.setattr(sys, "argv", ["headgate", "simulate", *words])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert expected in sentence(capsys.readouterr().err)
    assert not (wrong / "headgate-report.html").exists()


def test_bad_input_ends_so_outside_of_tests_too(tmp_path: Path) -> None:
    ran = simulate(tmp_path, "none.toml", small=False)
    assert ran.returncode == 2
    assert "none.toml cannot be read" in sentence(ran.stderr)


def test_ctrl_c_keeps_what_was_simulated_and_says_so(tmp_path: Path) -> None:
    """The signal goes to the whole group, as from a terminal."""
    (tmp_path / "small.toml").write_text(SMALL)
    words = ["small.toml", "--days", "300", "--policy", "priority", "--policy", "fifo"]
    process = subprocess.Popen(
        [HEADGATE, "simulate", *words, "--json", "out.json", "--log", "logs"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        until_s = time.monotonic() + 240
        # A log of some size says that windows have been simulated.
        while not any(log.stat().st_size > 200_000 for log in tmp_path.glob("logs/*.jsonl")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until_s
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        out, said = process.communicate(timeout=240)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, said
    assert "partial" in said
    assert "Traceback" not in said
    assert "value" in out
    results = json.loads((tmp_path / "out.json").read_text())["policies"]
    stopped = [result for result in results.values() if result["partial"]]
    assert stopped
    for result in stopped:
        assert 0 < result["simulated_s"] < 300 * 86_400
        assert result["ledger_residual"] < ROUNDING
