"""Small tables from files: CSV (packed or not), Parquet, NPZ, JSON lines."""

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headgate.core.errors import InputError

GZIP = b"\x1f\x8b"  # what packed files begin with


def read_table(path: Path) -> dict[str, NDArray]:  # type: ignore[type-arg]
    """A file's columns by name; an unreadable file is one sentence."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a file with one row for each request.")
    name = path.name.removesuffix(".gz")
    try:
        if name.endswith(".npz"):
            with np.load(path, allow_pickle=False) as held:
                return {key: held[key] for key in held.files}
        if name.endswith(".parquet"):
            frame = pl.read_parquet(path)
        elif name.endswith((".jsonl", ".ndjson")):
            held = unpacked(path)
            if not held.strip():
                raise InputError(f"{path.name}: is empty; give a line for each request.")
            frame = pl.read_ndjson(held, infer_schema_length=None)
        elif name.endswith(".csv"):
            frame = pl.read_csv(unpacked(path), infer_schema_length=None)
        else:
            raise InputError(
                f"{path.name}: is of no known kind; give .csv, .csv.gz, .parquet, .npz or .jsonl."
            )
    except InputError:
        raise
    except pl.exceptions.NoDataError:
        raise InputError(f"{path.name}: is empty; give a header and a row a request.") from None
    except Exception as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path.name}: cannot be read ({said}); check that the file is whole."
        ) from None
    return {column: frame[column].to_numpy() for column in frame.columns}


def unpacked(path: Path) -> bytes:
    """A file's bytes, unpacked where they are packed, whatever its name says."""
    held = path.read_bytes()
    if not held.startswith(GZIP):
        return held
    import gzip
    import zlib

    try:
        return gzip.decompress(held)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise InputError(
            f"{path.name}: is packed, but its packed data end early or are damaged; copy it again."
        ) from None
