import gzip

import polars as pl
import pytest

from headgate.core.errors import InputError
from headgate.sim.traces.tables import Column, Table, locate, read

JOBS = Table(
    name="jobs",
    path="cluster/jobs.csv.gz",
    about="",
    columns=(
        Column("at", "time"),
        Column("gpus", "whole", least=1),
        Column("wait_s", "number", may_be_empty=True),
        Column("tenant", "text"),
    ),
    source="github.com/someone/jobs at 1a2b3c, jobs.csv",
    licence="A",
    cite="",
    rows=2,
    sha256="",
)
WHOLE = """at,gpus,wait_s,tenant,unread
2017-10-09 07:01:55,1,2.5,red,x
2017-10-09 07:01:56.25,8.0,,blue,y
"""


def put(folder, text, name="jobs.csv.gz"):
    (folder / "cluster").mkdir(exist_ok=True)
    raw = text.encode()
    (folder / "cluster" / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    return folder


@pytest.mark.parametrize("name", ["jobs.csv.gz", "jobs.csv"])
def test_a_table_is_read_packed_or_not(tmp_path, name):
    frame = read(put(tmp_path, WHOLE, name), JOBS)
    assert frame.columns == ["at", "gpus", "wait_s", "tenant"]
    assert frame["gpus"].to_list() == [1, 8]
    assert frame["wait_s"].to_list() == [2.5, None]
    assert frame["at"].dt.microsecond().to_list() == [0, 250_000]


def test_a_missing_file_says_which_where_and_whence(tmp_path):
    with pytest.raises(InputError) as caught:
        read(tmp_path, JOBS)
    said = str(caught.value)
    assert "cluster/jobs.csv.gz is not there" in said
    assert str(tmp_path / "cluster" / "jobs.csv") in said
    assert "github.com/someone/jobs at 1a2b3c" in said


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("07:01:55,1,", "07:01:55,-1,", "column gpus is -1 in row 1; it must be a whole number of"),
        ("07:01:55,1,", "07:01:55,0,", "column gpus is 0 in row 1"),
        ("07:01:55,1,", "07:01:55,1.5,", "column gpus is 1.5 in row 1"),
        ("07:01:55,1,", "07:01:55,,", "column gpus is empty in row 1"),
        (
            "07:01:55,1,",
            "07:01:55,1e40,",
            "column gpus is 1e40 in row 1; it must be a whole number",
        ),
        ("1,2.5", "1,NaN", "column wait_s is NaN in row 1; it must be a number of at least 0."),
        ("1,2.5", "1,inf", "column wait_s is inf in row 1"),
        ("1,2.5", "1,soon", "column wait_s is soon in row 1"),
        (",blue", ",", "column tenant is empty in row 2"),
        ("2017-10-09 07:01:56.25", "yesterday", "column at is yesterday in row 2"),
        ("gpus", "cards", "there is no column gpus among at, cards, wait_s, tenant, unread"),
        ("8.0,,blue,y", "", "column gpus is empty in row 2"),  # a line cut short
        (WHOLE, "at,gpus,wait_s,tenant\n", "holds no rows"),
        (WHOLE, "", "cannot be read"),
    ],
)
def test_a_damaged_cell_is_one_sentence_with_file_column_row_and_value(tmp_path, old, new, said):
    assert old in WHOLE
    with pytest.raises(InputError) as caught:
        read(put(tmp_path, WHOLE.replace(old, new)), JOBS)
    assert said in str(caught.value)
    assert str(tmp_path / "cluster" / "jobs.csv.gz") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_truncated_archive_is_refused(tmp_path, keep):
    path = locate(put(tmp_path, WHOLE + "2017-10-09 07:01:57,1,1,red,z\n" * 500), JOBS)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * keep)])
    with pytest.raises(InputError, match="damaged"):
        read(tmp_path, JOBS)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_truncated_parquet_is_refused(tmp_path, keep):
    table = Table("pdfs", "pdfs.parquet", "", (Column("p", "numbers"),), "the web", "A", "", 1, "")
    path = tmp_path / "pdfs.parquet"
    pl.DataFrame({"p": [[0.5, 0.5]] * 1000}).write_parquet(path)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * keep)])
    with pytest.raises(InputError, match="damaged"):
        read(tmp_path, table)


@pytest.mark.parametrize("bad", [[0.5, -0.5], [0.5, float("nan")], [0.5, None], None])
def test_a_bad_number_inside_a_list_is_refused(tmp_path, bad):
    table = Table("pdfs", "pdfs.parquet", "", (Column("p", "numbers"),), "the web", "A", "", 1, "")
    pl.DataFrame({"p": [[1.0], bad]}).write_parquet(tmp_path / "pdfs.parquet")
    with pytest.raises(InputError, match=r"column p is [^\n]* in row 2"):
        read(tmp_path, table)


def test_rows_out_of_order_are_refused_where_a_loader_counts_on_order(tmp_path):
    rising = Table(
        **{name: getattr(JOBS, name) for name in JOBS.__slots__}
        | {"columns": (Column("gpus", "whole", rises=True),)}
    )
    assert len(read(put(tmp_path, WHOLE), rising)) == 2
    with pytest.raises(InputError, match="column gpus falls from 1 to 0 in row 2"):
        read(put(tmp_path, WHOLE.replace(",8.0,", ",0,")), rising)
