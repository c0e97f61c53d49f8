"""Rows become the frame that polars makes of them, for any lists in them."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcache.store.frames import SCHEMAS, frame_of

VALUES: dict[Any, st.SearchStrategy[Any]] = {
    pl.String: st.text(max_size=3),
    pl.Int32: st.integers(-9, 9),
    pl.Float64: st.floats(allow_nan=False),
    pl.Float32: st.floats(width=32, allow_nan=False),
    pl.Boolean: st.booleans(),
    pl.Datetime: st.datetimes(),
}


def values(dtype: Any) -> st.SearchStrategy[Any]:
    """Any value of a type, or none."""
    if isinstance(dtype, pl.List):
        return st.none() | st.lists(items(dtype.inner), max_size=3)
    return st.none() | VALUES[dtype if isinstance(dtype, type) else type(dtype)]


def items(dtype: Any) -> st.SearchStrategy[Any]:
    """Any item of a list of a type."""
    if not isinstance(dtype, pl.Struct):
        return values(dtype)
    return st.fixed_dictionaries({field.name: values(field.dtype) for field in dtype.fields})


@pytest.mark.parametrize("table", SCHEMAS)
@given(data=st.data())
def test_the_frame_that_polars_makes(table: str, data: st.DataObject) -> None:
    row = st.fixed_dictionaries(
        {}, optional={name: values(dtype) for name, dtype in SCHEMAS[table].items()}
    )
    rows = data.draw(st.lists(row, max_size=5))
    wanted = pl.DataFrame(rows, schema=SCHEMAS[table])
    found = frame_of(table, rows)
    assert found.schema == wanted.schema
    assert found.equals(wanted)
