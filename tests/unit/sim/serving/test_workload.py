"""Workloads: what is read, and what each kind of damage says."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from headgate.core.errors import InputError
from headgate.sim.serving.workload import load_workload

HEADER = "arrived_at,num_prefill_tokens,num_decode_tokens\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "w.csv"
    path.write_text(text)
    return path


def test_a_workload_is_three_columns(tmp_path: Path) -> None:
    workload = load_workload(written(tmp_path, HEADER + "0,5,2\n1.5,7,1\n"))
    assert workload.arrived_s.tolist() == [0.0, 1.5]
    assert workload.prefill.tolist() == [5, 7]
    assert workload.decode.tolist() == [2, 1]


def test_the_names_of_public_traces_and_npz_are_read(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    np.savez(path, timestamp_ms=[0, 1500], input_length=[5, 7], output_length=[2, 1])
    assert load_workload(path).arrived_s.tolist() == [0.0, 1.5]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        (HEADER, "has no requests"),
        (HEADER + "0,0,2\n", "row 1: num_prefill_tokens is 0"),
        (HEADER + "0,5,0\n", "row 1: num_decode_tokens is 0"),
        (HEADER + "0,5,2\n1,-3,2\n", "row 2: num_prefill_tokens is -3"),
        (HEADER + "0,5,2\n1,2.5,2\n", "row 2: num_prefill_tokens is 2.5"),
        (HEADER + "2,5,2\n1,5,2\n", "row 2: arrived_at is 1, before the 2"),
        (HEADER + "0,5,2\nnan,5,2\n", "row 2: arrived_at is nan"),
        (HEADER + "0,5,2\n,5,2\n", "row 2: arrived_at is nan"),
        (HEADER + "0,5,2\ninf,5,2\n", "row 2: arrived_at is inf"),
        (HEADER + "0,5,x\n", "num_decode_tokens is not made of numbers"),
        ("when,num_prefill_tokens,num_decode_tokens\n0,5,2\n", "none of the columns arrived_at"),
    ],
)
def test_damage_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_workload(written(tmp_path, text))


def test_a_packed_file_is_read_by_what_it_holds_and_a_broken_one_said_to_be(tmp_path: Path) -> None:
    whole = gzip.compress((HEADER + "0,5,2\n" * 100).encode())
    path = tmp_path / "w.csv.gz"
    path.write_bytes(whole)
    assert len(load_workload(path)) == 100
    path.write_text(HEADER + "0,5,2\n")
    assert len(load_workload(path)) == 1
    path.write_bytes(whole[:-20])
    with pytest.raises(InputError, match=r"w\.csv\.gz: is packed, but"):
        load_workload(path)


def test_a_missing_file_and_an_unknown_kind_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_workload(tmp_path / "nowhere.csv")
    odd = tmp_path / "w.xls"
    odd.write_text("x")
    with pytest.raises(InputError, match="is of no known kind"):
        load_workload(odd)
