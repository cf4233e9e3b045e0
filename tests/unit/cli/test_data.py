import shutil

import pytest
from click.testing import CliRunner
from tests.data import data_dir, needs_data

from headgate.cli.data import data
from headgate.core.errors import InputError
from headgate.sim.traces.catalogue import TABLES


def run(*words):
    return CliRunner().invoke(data, [str(word) for word in words])


def test_the_list_names_every_table():
    said = run("list").output
    assert all(name[:8] in said for name in TABLES)


def test_a_folder_without_any_table_is_bad_input(tmp_path):
    caught = run("check", tmp_path)
    assert isinstance(caught.exception, InputError)
    assert "holds none of the" in str(caught.exception)


@needs_data
def test_a_damaged_table_fails_the_check_and_a_missing_one_does_not(tmp_path):
    (tmp_path / "llm").mkdir()
    name = "llm/arxiv_summarization_lengths.csv.gz"
    shutil.copy(data_dir() / name, tmp_path / name)
    whole = run("check", tmp_path)
    assert whole.exit_code == 0
    assert "28,257 rows, the known file" in whole.output
    assert "not there" in whole.output
    (tmp_path / name).chmod(0o644)
    (tmp_path / name).write_bytes((data_dir() / name).read_bytes()[:5000])
    damaged = run("check", tmp_path)
    assert damaged.exit_code == 1
    assert "damaged" in damaged.output


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_every_table_says_where_it_comes_from_and_under_what_licence(table):
    assert table.source.startswith("github.com/")
    assert table.licence[0] in "ABC"
    assert table.cite
    assert len(table.sha256) == 64
