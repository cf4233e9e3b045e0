"""The answers of a batch outlive any crash, each once."""

from pathlib import Path

import pytest

from headgate.gateway.admin.journal import Journal


def paths(folder: Path) -> tuple[Path, Path]:
    return folder / "output", folder / "error"


def test_answers_are_known_when_the_batch_is_taken_up_again(tmp_path: Path) -> None:
    first = Journal(*paths(tmp_path))
    first.add("output", "a", b'{"custom_id":"a"}')
    first.add("error", "b", b'{"custom_id":"b"}')
    again = Journal(*paths(tmp_path))  # the first one's process was killed
    assert "a" in again
    assert "b" in again
    assert "c" not in again
    assert len(again) == 2
    again.add("output", "c", b'{"custom_id":"c"}')
    again.sync()
    for journal in (first, again):
        journal.close()
    assert (tmp_path / "output").read_bytes() == b'{"custom_id":"a"}\n{"custom_id":"c"}\n'


@pytest.mark.parametrize("cut", range(1, 18))
def test_a_torn_last_line_is_cut_off_and_not_counted(tmp_path: Path, cut: int) -> None:
    whole = b'{"custom_id":"a"}\n'
    (tmp_path / "output").write_bytes(whole + whole.replace(b"a", b"b", 1)[:-cut])
    journal = Journal(*paths(tmp_path))
    assert journal.done["output"] == {"a"}
    journal.close()
    assert (tmp_path / "output").read_bytes() == whole


def test_a_file_nothing_was_written_to_goes(tmp_path: Path) -> None:
    journal = Journal(*paths(tmp_path))
    journal.add("output", "a", b'{"custom_id":"a"}')
    journal.close()
    assert [path.name for path in tmp_path.iterdir()] == ["output"]
