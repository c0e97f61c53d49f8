"""Rows of each table as a frame of its types, on their way into the database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

TEXT, TEXTS, INT = pl.String, pl.List(pl.String), pl.Int32
ASKS = pl.List(
    pl.Struct(
        {
            "arm": TEXT, "generation": TEXT, "prompt_tokens": INT, "output_tokens": INT,
            "role": TEXT,
        }
    )
)  # fmt: skip
SCHEMAS: dict[str, dict[str, Any]] = {
    "queries": {
        "query_id": TEXT, "dataset": TEXT, "kind": TEXT, "question": TEXT, "references": TEXTS,
        "item": TEXT,
        "instruction": TEXT,
        "examples": TEXT,
        "tests": TEXT,
    },
    "arms": {"arm_id": TEXT, "name": TEXT, "fingerprint": TEXT, "settings": TEXT},
    "experiments": {
        "experiment": TEXT, "workflow": TEXT, "hops": INT, "replicas": INT, "config": TEXT,
    },
    "pools": {
        "experiment": TEXT, "position": INT, "arm_id": TEXT, "input_price": pl.Float64,
        "output_price": pl.Float64,
    },
    "splits": {
        "experiment": TEXT, "query_id": TEXT, "split": TEXT, "extractor": TEXT, "quality": TEXT,
    },
    "messages": {"messages_id": TEXT, "messages": TEXT},
    "generations": {
        "generation_id": TEXT, "fingerprint": TEXT, "messages_id": TEXT, "sample": INT,
        "text": TEXT, "token_ids": pl.List(INT), "prompt_tokens": INT, "output_tokens": INT,
        "cached_tokens": INT, "finish_reason": TEXT, "logprobs": pl.List(pl.Float32),
        "seconds": pl.Float64, "provenance_id": TEXT, "created": pl.Datetime,
        "thinking": pl.Boolean, "prompt_key": TEXT, "reasoning_tokens": INT,
    },
    "provenance": {"provenance_id": TEXT, "facts": TEXT},
    "texts": {"text_id": TEXT, "text": TEXT},
    "states": {
        "query_id": TEXT, "workflow": TEXT, "replica": INT, "decisions": TEXTS, "depth": INT,
        "role": TEXT, "context_id": TEXT, "context": TEXTS, "actions": TEXTS,
        "stop": pl.Boolean, "asks": ASKS, "costs": pl.List(pl.Float64),
    },
    "trajectories": {
        "trajectory_id": TEXT, "query_id": TEXT, "workflow": TEXT, "replica": INT,
        "decisions": TEXTS, "depth": INT, "sequence": TEXT, "output": TEXT, "notes": TEXTS,
        "asks": ASKS, "costs": pl.List(pl.Float64), "unit": TEXT,
    },
    "scores": {
        "trajectory_id": TEXT, "extractor": TEXT, "metric": TEXT, "answer": TEXT,
        "value": pl.Float64, "version": TEXT,
    },
    "conflicts": {
        "conflict_id": TEXT, "table_name": TEXT, "key": TEXT, "content": TEXT, "facts": TEXT,
        "origin": TEXT,
    },
}  # fmt: skip


def frame_of(table: str, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows of a table as a frame; a column that a row lacks is null in it.

    It is what `pl.DataFrame(rows, schema=…)` makes, column by column: polars builds a series for
    each list of each row, which takes most of the time of a commit.
    """
    return pl.DataFrame(
        [
            _series(name, dtype, [row.get(name) for row in rows])
            for name, dtype in SCHEMAS[table].items()
        ]
    )


def _series(name: str, dtype: Any, values: Sequence[Any]) -> pl.Series:
    if not isinstance(dtype, pl.List):
        return pl.Series(name, values, dtype=dtype)
    flat = [item for value in values if value for item in value]
    lengths = [-1 if value is None else len(value) for value in values]
    return _lists(name, _items(dtype.inner, flat), lengths)


def _items(dtype: Any, items: Sequence[Any]) -> pl.Series:
    if not isinstance(dtype, pl.Struct):
        return pl.Series("", items, dtype=dtype)
    fields = [
        pl.Series(field.name, [item[field.name] for item in items], dtype=field.dtype)
        for field in dtype.fields
    ]
    return pl.DataFrame(fields).to_struct("")


def _lists(name: str, items: pl.Series, lengths: Sequence[int]) -> pl.Series:
    """Items dealt into lists of these lengths, in order; -1 is no list."""
    rows = pl.DataFrame({"length": pl.Series(lengths, dtype=pl.Int64)}).with_row_index("row")
    owner = rows.filter(pl.col("length") > 0).select(
        pl.col("row").repeat_by(pl.col("length").cast(pl.UInt32)).explode()
    )
    filled = owner.with_columns(items.alias("items")).group_by("row").agg("items")
    empty = pl.lit([], dtype=pl.List(items.dtype))
    lists = rows.join(filled, on="row", how="left", maintain_order="left").select(
        pl.when(pl.col("length") == 0).then(empty).otherwise(pl.col("items")).alias(name)
    )
    return lists.to_series()
