"""Files of others as frames, each cell with its place; errors in one line with file and row.

CSV is read as text, so that an id keeps its zeros; numbers are made of it where a column is one.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from hcache.errors import DataError

FIX = "Correct the file, or name its columns with --option."
TRUTH = {"true": "1", "false": "0"}
ROWS_BEFORE = {".csv": 2, ".tsv": 2}  # number of the first row; a header counts as one


def read_table(path: Path) -> pl.DataFrame:
    """A CSV, TSV, JSON-lines or parquet file, with the columns `file` and `row` in front.

    Raises:
        DataError: it cannot be read, or is of another kind.
    """
    kind = _kind(path)
    if kind not in _READERS:
        raise DataError(f"{path}: not a table.", f"Give a file that ends in {ENDINGS}.")
    frame: pl.DataFrame = _read(path, _READERS[kind])
    if frame.is_empty():
        raise DataError(f"{path}: holds no rows.", "Check that the file was written in full.")
    taken = [name for name in ("file", "row") if name in frame.columns]
    frame = frame.drop(taken).with_row_index("row", ROWS_BEFORE.get(kind, 1))
    return frame.with_columns(pl.col("row").cast(pl.Int64), file=pl.lit(str(path)))


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        DataError: it cannot be read, or is no JSON.
    """
    return _read(path, lambda file: json.loads(file.read_text(encoding="utf-8")))


def find_files(paths: Sequence[Path], pattern: str) -> list[Path]:
    """Files that are named, and those below the folders that are named, in order.

    Raises:
        DataError: there is none.
    """
    found: list[Path] = []
    for path in paths:
        found += sorted(path.rglob(pattern)) if path.is_dir() else [path]
    missing = [path for path in [*paths, *found] if not path.exists()]
    if missing or not found:
        where = missing[0] if missing else ", ".join(map(str, paths))
        raise DataError(f"{where}: no such file, or none like {pattern}.", "Correct the path.")
    return found


def find_tables(paths: Sequence[Path]) -> list[Path]:
    """Files that are named, and the tables below the folders that are named, in order.

    Raises:
        DataError: there is none.
    """
    found = find_files(paths, "*.*")
    tables = [file for file in found if file in paths or _kind(file) in _READERS]
    if not tables:
        raise DataError(f"{paths[0]}: holds no table.", f"Give files that end in {ENDINGS}.")
    return tables


def need(frame: pl.DataFrame, columns: Iterable[str], path: Path) -> None:
    """Refuse a table that lacks a column.

    Raises:
        DataError: naming what it has.
    """
    for column in columns:
        if column not in frame.columns:
            have = ", ".join(name for name in frame.columns if name not in ("file", "row"))
            raise DataError(f"{path}: has no column {column!r}; it has {have[:300]}.", FIX)


def number(frame: pl.DataFrame, column: str) -> pl.Series:
    """A column as float64; empty cells are null, true and false are 1 and 0.

    Raises:
        DataError: a cell is no number, naming its row.
    """
    values = frame[column]
    if values.dtype.is_numeric() or values.dtype in (pl.Null, pl.Boolean):
        return values.cast(pl.Float64)
    if values.dtype != pl.String:
        raise defect(frame.head(1), f"{column} is no number")
    text = values.str.strip_chars().replace({"": None})
    text = text.str.to_lowercase().replace(TRUTH)
    made = text.cast(pl.Float64, strict=False)
    wrong = frame.filter(made.is_null() & text.is_not_null())
    if len(wrong):
        raise defect(wrong, f"{column} is {str(wrong[column][0])[:60]!r}, no number")
    return made


def texts(frame: pl.DataFrame, column: str) -> pl.Series:
    """A column as texts, numbers among them as they are written.

    Raises:
        DataError: it holds lists, objects or bytes.
    """
    values = frame[column]
    if values.dtype.is_nested() or values.dtype in (pl.Binary, pl.Object):
        raise defect(frame.head(1), f"{column} is no text")
    return values.cast(pl.String)


def defect(rows: pl.DataFrame, message: str, hint: str = FIX) -> DataError:
    """The error of the first of some rows."""
    file, row = rows.row(0, named=True)["file"], rows.row(0, named=True)["row"]
    more = f" ({len(rows):,} rows are like that)" if len(rows) > 1 else ""
    return DataError(f"{file}, row {row}: {message}{more}.", hint)


def _kind(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    return suffixes[-1] if suffixes else ""


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    """Result of a reader on a file, its errors as ours."""
    try:
        with _quietly():
            return reader(path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}).", "Check the path."
        ) from error
    except (ValueError, RecursionError, pl.exceptions.PolarsError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)  # advice follows
        text = " ".join(first.split())[:200].rstrip(".")
        raise DataError(f"{path}: cannot be read: {text}.", "Check that it is whole.") from error
    except pl.exceptions.PanicException as error:
        raise DataError(f"{path}: cannot be read.", "Check that it is whole.") from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep a panic of polars off the terminal, where it prints its own trace; it is raised too."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _read_csv(path: Path, separator: str = ",") -> pl.DataFrame:
    try:
        return pl.read_csv(path, infer_schema=False, separator=separator)
    except pl.exceptions.ComputeError:
        _refuse_ragged(path, separator)
        raise


def _refuse_ragged(path: Path, separator: str) -> None:
    """Name the first row that has more cells than the header.

    Raises:
        DataError: there is one.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", errors="replace", newline="") as file:
        rows = csv.reader(file, delimiter=separator)
        try:
            width = len(next(rows, []))
            wide = next(((n, len(row)) for n, row in enumerate(rows, 2) if len(row) > width), None)
        except csv.Error:
            return
    if wide is not None:
        raise DataError(
            f"{path}, row {wide[0]}: has {wide[1]} cells, the header {width}.",
            "Put cells that hold the separator, or a line break, in double quotes.",
        )


_READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".csv": _read_csv,
    ".tsv": lambda path: _read_csv(path, "\t"),
    ".jsonl": lambda path: pl.read_ndjson(path, infer_schema_length=None),
    ".ndjson": lambda path: pl.read_ndjson(path, infer_schema_length=None),
    ".parquet": pl.read_parquet,
}
ENDINGS = f"{', '.join(_READERS)} (or .gz)"
