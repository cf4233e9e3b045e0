"""Read a table of a trace, or say in one sentence what is wrong with which cell of it.

Row numbers in messages count from 1 and leave out the header.
"""

import gzip
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import polars as pl

from headgate.core.errors import InputError

Kind = Literal["whole", "number", "text", "time", "wholes", "numbers"]

# Of whole numbers: room for nanoseconds since 1970, and for a sum of two in 64 bits.
LARGEST = 4 * 10**18

_DTYPES: dict[str, pl.DataType] = {
    "whole": pl.Int64(),
    "number": pl.Float64(),
    "text": pl.String(),
    "time": pl.Datetime("us"),
    "wholes": pl.List(pl.Int64),
    "numbers": pl.List(pl.Float64),
}
_WANTED = {
    "whole": "a whole number",
    "number": "a number",
    "text": "text",
    "time": "a time like 2017-10-09 07:01:55",
    "wholes": "a list of whole numbers",
    "numbers": "a list of numbers",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column that a loader relies on; columns it does not name are left unread."""

    name: str
    kind: Kind
    means: str = ""
    least: float | None = 0.0  # the smallest value allowed; None for any
    may_be_empty: bool = False
    rises: bool = False  # rows are in order of this column, and a loader counts on it

    @property
    def wanted(self) -> str:
        bounded = self.kind in ("whole", "number", "wholes", "numbers") and self.least is not None
        return _WANTED[self.kind] + (f" of at least {self.least:g}" if bounded else "")


@dataclass(frozen=True, slots=True)
class Table:
    """One file of a trace: what it holds, where it comes from, and what to know about it."""

    name: str
    path: str  # below the data folder; a .csv.gz may also lie there unpacked, as .csv
    about: str
    columns: tuple[Column, ...]
    source: str  # public repository, commit and path
    licence: str  # class (A may be redistributed, B research, C none stated) and name
    cite: str
    rows: int  # of the file whose digest is `sha256`
    sha256: str
    quirks: str = ""


def locate(data_dir: Path, table: Table) -> Path:
    """The file of `table`, packed or not; InputError says where it was looked for."""
    for path in candidates(data_dir, table):
        if path.is_file():
            return path
    looked = " and ".join(str(path) for path in candidates(data_dir, table))
    raise InputError(
        f"{table.path} is not there (looked for {looked}); make it from {table.source}, as "
        f"docs/reference/traces.md says, or give another folder with --data."
    )


def candidates(data_dir: Path, table: Table) -> tuple[Path, ...]:
    path = data_dir / table.path
    return (path, path.with_suffix("")) if path.suffix == ".gz" else (path,)


def read(data_dir: Path, table: Table, where: pl.Expr | None = None) -> pl.DataFrame:
    """The named columns of `table`, in file order, each cell checked; kinds set the types.

    `where` keeps some rows only; the rest go unchecked, and row numbers count the rows kept.
    """
    path = locate(data_dir, table)
    raw = _raw(path, table)
    for column in table.columns:
        if column.name not in raw.columns:
            raise InputError(
                f"{path}: there is no column {column.name} among {', '.join(raw.columns)}; "
                f"{table.name} needs it ({column.wanted})."
            )
    raw = raw.select(column.name for column in table.columns)
    if where is not None:
        raw = raw.filter(where)
    return pl.DataFrame([_checked(path, raw[column.name], column) for column in table.columns])


def _raw(path: Path, table: Table) -> pl.DataFrame:
    """The file as it is: CSV cells all as text, Parquet with its own types."""
    try:
        if path.suffix == ".parquet":
            frame = pl.read_parquet(path)
        else:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                frame = pl.read_csv(file.read(), infer_schema=False)
    except (OSError, EOFError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path} cannot be read, it is damaged or not a {path.suffix} file ({reason}); "
            f"fetch it again from {table.source}."
        ) from error
    if frame.is_empty():
        raise InputError(f"{path} holds no rows; {table.name} needs at least one.")
    return frame


def _checked(path: Path, cells: pl.Series, column: Column) -> pl.Series:
    if cells.dtype == pl.String and column.kind != "text":
        # Only an unquoted or quoted nothing counts as empty; a blank is damage.
        cells = cells.set(cells == "", None)
    values = _cast(cells, column.kind)
    wrong = values.is_null() & cells.is_not_null()
    if not column.may_be_empty:
        wrong = values.is_null()
    wrong = wrong | _out_of_range(values, column)
    if wrong.any():
        row = int(wrong.arg_max() or 0)
        raise _refusal(path, column, row, cells[row])
    if column.rises and not values.is_sorted():
        row = int((values < values.shift(1)).arg_max() or 0)
        raise InputError(
            f"{path}: column {column.name} falls from {values[row - 1]} to {values[row]} in row "
            f"{row + 1}; rows must be in order of time, so sort the file by {column.name}."
        )
    return values


def _cast(cells: pl.Series, kind: Kind) -> pl.Series:
    if kind == "time" and cells.dtype == pl.String:
        return cells.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False)
    if kind == "whole" and cells.dtype == pl.String:
        # "8.0" is whole too: tables that passed through a data frame write counts so.
        numbers = cells.cast(pl.Float64, strict=False)
        whole = numbers.is_finite() & (numbers == numbers.round()) & (numbers.abs() <= LARGEST)
        return numbers.set(~whole, None).cast(pl.Int64)
    return cells.cast(_DTYPES[kind], strict=False)


def _out_of_range(values: pl.Series, column: Column) -> pl.Series:
    """Where a value is below the least allowed, or is not a finite number."""
    least = -float("inf") if column.least is None else column.least
    never = pl.Series([False]).new_from_index(0, len(values))
    if column.kind in ("wholes", "numbers"):
        items = values.explode(empty_as_null=False, keep_nulls=False)
        if items.is_empty() or not _out_of_range(items, replace(column, kind="number")).any():
            bad = never if items.null_count() == 0 else values.list.contains(None)
        else:
            bad = values.list.eval(~(pl.element() >= least) | ~pl.element().is_finite()).list.any()
    elif column.kind == "number":
        bad = (values < least) | ~values.is_finite()
    elif column.kind == "whole":
        bad = values < least
    else:
        bad = never
    return bad.fill_null(False)


def _refusal(path: Path, column: Column, row: int, value: object) -> InputError:
    shown = "empty" if value is None else str(value)
    if isinstance(value, pl.Series):
        shown = ", ".join(str(item) for item in value.head(8)) + (", ..." if len(value) > 8 else "")
    most = f", and at most {LARGEST:g}" if column.kind == "whole" else ""
    return InputError(
        f"{path}: column {column.name} is {shown} in row {row + 1}; it must be "
        f"{column.wanted}{most}."
    )
