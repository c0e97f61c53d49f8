"""Pickled tables, read without running what is in them.

A pickle names functions to call. Those that rebuild a pandas frame of numbers and texts are called;
any other name is refused before anything of the file has run.
"""

from __future__ import annotations

import gzip
import pickle
import re
from pathlib import Path
from typing import Any

import polars as pl

from hcache.errors import DataError

_ALLOWED = re.compile(
    r"pandas\.(core\.frame\.)?DataFrame"
    r"|pandas\.(core\.series\.)?Series"
    r"|pandas\.(RangeIndex|Index|StringDtype)"
    r"|pandas\.core\.arrays\.string_\.(StringDtype|StringArray)"
    r"|pandas\.(core\.arrays\.string_\.|arrays\.)(Arrow)?StringArray"
    r"|pyarrow\.lib\.(type_for_alias|_restore_array|chunked_array|py_buffer|large_string|string)"
    r"|pandas\._libs\.arrays\.__pyx_unpickle_NDArrayBacked"
    r"|pandas\.core\.internals\.managers\.(BlockManager|SingleBlockManager)"
    r"|pandas\.core\.internals\.blocks\.new_block"
    r"|pandas\._libs\.internals\._unpickle_block"
    r"|pandas\.core\.indexes\.base\.(Index|_new_Index)"
    r"|pandas\.core\.indexes\.(range\.RangeIndex|numeric\.Int64Index)"
    r"|numpy\.(_core|core)\.multiarray\.(_reconstruct|scalar)"
    r"|numpy\.(_core|core)\.numeric\._frombuffer"
    r"|numpy\.(ndarray|dtype)"
    r"|builtins\.slice"
)


class _Restricted(pickle.Unpickler):
    """An unpickler that knows only what a frame is made of."""

    def find_class(self, module: str, name: str) -> Any:
        """See `pickle.Unpickler`."""
        if _ALLOWED.fullmatch(f"{module}.{name}"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it would run {module}.{name}")


def read_pickle(path: Path) -> pl.DataFrame:
    """The table of a pickled pandas frame; cells that are neither number nor text become text.

    Raises:
        DataError: it cannot be read, holds something else, or would run code.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            frame = _Restricted(file).load()
        columns = {str(name): list(frame[name]) for name in frame.columns}
    except ImportError as error:
        raise DataError(f"{path}: needs pandas to be read.", "pip install pandas") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}).", "Check the path.") from error
    except Exception as error:  # whatever a broken pickle raises
        text = " ".join(str(error).split())[:200]
        raise DataError(
            f"{path}: is no pickled table of numbers and texts: {text}.",
            "Do not open it otherwise unless you trust it; ask for CSV or parquet.",
        ) from error
    return pl.DataFrame({name: _plain(values) for name, values in columns.items()})


def _plain(values: list[Any]) -> pl.Series:
    """A column of numbers as it is, any other as texts."""
    if all(isinstance(value, int | float) for value in values):
        return pl.Series([float(value) for value in values], dtype=pl.Float64)
    texts = [None if value is None or value != value else str(value) for value in values]
    return pl.Series(texts, dtype=pl.String)
