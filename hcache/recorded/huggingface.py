"""Folders that `hcache export --to hf` has written: the same trees again.

A row is a trajectory with its calls. Each of its hops becomes a cell: what was said last, and what
its calls cost together. The card says what the rows do not: the arms in their order, the unit of
costs, how answers are scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from pydantic import Field, ValidationError, model_validator

from hcache.config.section import Section
from hcache.config.yaml import load_yaml
from hcache.data.extractors import EXTRACTORS
from hcache.data.metrics import METRICS, RECORDED
from hcache.data.queries import Query
from hcache.errors import DataError
from hcache.recorded.files import defect, find_files, need, read_table
from hcache.recorded.recording import IMPORTERS, TEXT, Evaluation, Own, Recording
from hcache.recorded.rows import UNRECORDED

CARD, KEY = "README.md", "hcache"
"""The card of a folder, and the key of its header under which the facts stand."""
AGAIN = "Take a folder that `hcache export FOLDER --to hf --questions` has written."
STEP = pl.Struct({"reply": TEXT, "finish_reason": TEXT, "hop": pl.Int64, "cost": pl.Float64,
                  "prompt_tokens": pl.Int64, "output_tokens": pl.Int64})  # fmt: skip
COLUMNS: dict[str, Any] = {
    "query_id": TEXT, "dataset": TEXT, "kind": TEXT, "item": TEXT, "question": TEXT,
    "references": pl.List(TEXT), "split": TEXT, "replica": pl.Int32, "sequence": TEXT,
    "steps": pl.List(STEP), "quality": pl.Float64,
}  # fmt: skip
"""Columns that are read, by name, with their types."""


class Scoring(Section):
    """Scoring of a data set's answers."""

    extract: str
    metrics: tuple[str, ...]


class Facts(Section):
    """Statements of the card on the rows."""

    experiment: str
    arms: tuple[str, ...] = Field(min_length=1)
    sequences: tuple[str, ...]  # a>b, whether or not an outcome is there
    unit: str
    digest: str
    scoring: dict[str, Scoring]

    @model_validator(mode="after")
    def _arms_are_there(self) -> Facts:
        if {arm for path in self.sequences for arm in path.split(">")} - {*self.arms}:
            raise ValueError("a sequence has an arm that is not there")
        return self


@IMPORTERS.register("hf")
def hf(paths: Sequence[Path]) -> Recording:
    """A folder of `hcache export --to hf --questions`; it needs no options."""
    folder = paths[0]
    if len(paths) > 1:
        raise DataError(f"{paths[1]}: one folder is imported at a time.", AGAIN)
    facts = read_facts(folder)
    if facts is None:
        raise DataError(f"{folder}: has no {CARD} with what hcache says of its rows.", AGAIN)
    rows = pl.concat([_read(file) for file in find_files([folder / "data"], "*.parquet")])
    return Recording(
        f"{facts.experiment}@{facts.digest}",
        _questions(rows),
        _cells(rows, facts.arms),
        facts.unit,
        _evaluations(facts.scoring),
        own=Own(facts.arms, tuple(tuple(path.split(">")) for path in facts.sequences)),
    )


def read_facts(folder: Path) -> Facts | None:
    """Statements of a folder's card on its rows; None where it is no folder of hcache."""
    try:
        text = (folder / CARD).read_text(encoding="utf-8")
        header = load_yaml(text.removeprefix("---\n").split("\n---\n")[0])
        return Facts.model_validate(header[KEY])
    except (OSError, ValueError, IndexError, KeyError, TypeError, yaml.YAMLError, ValidationError):
        return None


def _read(file: Path) -> pl.DataFrame:
    """The rows of a file, with those columns alone that are read."""
    table = read_table(file)
    if "question" not in table.columns:
        raise DataError(f"{file}: was written without questions, so nothing can be asked.", AGAIN)
    need(table, COLUMNS, file)
    rows = table.select("file", "row", *(pl.col(name).cast(as_) for name, as_ in COLUMNS.items()))
    for name in ("query_id", "dataset", "split", "replica", "sequence"):
        if len(missing := rows.filter(pl.col(name).is_null())):
            raise defect(missing, f"{name} is missing", AGAIN)
    return rows


def _questions(rows: pl.DataFrame) -> pl.DataFrame:
    """The questions; one whose key is not that of its content keeps the key as its name."""
    said = ["query_id", "question", "kind", "split"]
    found = rows.unique(said, keep="first", maintain_order=True)
    items = [_item(row) for row in found.iter_rows(named=True)]
    return found.with_columns(id="query_id", item=pl.Series(items, dtype=pl.String))


def _item(row: Mapping[str, Any]) -> str | None:
    item: str | None = row["item"]
    references = tuple(row["references"] or ())
    query = Query(row["question"] or "", references, row["dataset"], item=item or "")
    return item if query.id == row["query_id"] else str(row["query_id"])


def _cells(rows: pl.DataFrame, arms: Sequence[str]) -> pl.DataFrame:
    """A cell for each hop of each trajectory, each hop once; the last has the score."""
    rows = (
        rows.with_row_index("at")
        .with_columns(id="query_id", sample="replica", sequence=pl.col("sequence").str.split(">"))
        .with_columns(depth=pl.col("sequence").list.len())
    )
    unknown = rows.filter(~pl.col("sequence").list.eval(pl.element().is_in(arms)).list.all())
    if len(unknown):
        raise defect(unknown, f"an arm is none of {', '.join(arms)[:200]}", AGAIN)
    hops = rows.with_columns(hop=pl.int_ranges(1, pl.col("depth") + 1)).explode("hop")
    cells = hops.join(_said(rows), ["at", "hop"], "left", maintain_order="left").with_columns(
        pl.col("cost", "prompt_tokens", "output_tokens").fill_null(0),  # where nobody was called
        sequence=pl.col("sequence").list.head("hop"),
        score=pl.when(pl.col("hop") == pl.col("depth")).then("quality"),
    )
    cells = cells.with_columns(
        cost=pl.when(~pl.col("unpriced").fill_null(False)).then("cost"),
        path=pl.col("sequence").list.join(">"),
    )
    cell = ["id", "path", "sample"]
    ends = cells.filter(pl.col("hop") == pl.col("depth"))
    passed = cells.join(ends, cell, "anti").unique(cell, keep="first", maintain_order=True)
    return pl.concat([ends, passed])


def _said(rows: pl.DataFrame) -> pl.DataFrame:
    """By trajectory and hop: the last reply, and what its calls took together."""
    steps = rows.select("at", "steps").explode("steps").unnest("steps")
    silent = pl.col("finish_reason") == UNRECORDED
    return steps.group_by("at", "hop", maintain_order=True).agg(
        pl.when(~silent).then("reply").last(),
        pl.col("cost", "prompt_tokens", "output_tokens").sum(),
        unpriced=pl.col("cost").is_null().any(),
    )


def _evaluations(scoring: Mapping[str, Scoring]) -> dict[str, Evaluation]:
    """By data set, the first metric by which its answers can be scored again."""
    return {
        dataset: Evaluation(how.extract, metric)
        for dataset, how in scoring.items()
        if how.extract in EXTRACTORS
        for metric in reversed(how.metrics)
        if metric != RECORDED and metric in METRICS
    }
