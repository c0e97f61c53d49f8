"""Flat tables: a trajectory a row (`table`), or a question a row as RouterBench has it."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from hcache.exports.selection import EXPORTERS, QUESTIONS, Export, Selection, encoder
from hcache.recorded.benchmarks import RESPONSE, TOTAL_COST
from hcache.recorded.rows import UNRECORDED


@EXPORTERS.register("table")
def table(selection: Selection, out: Path) -> Export:
    """Every trajectory with its replies, scores and cost, one a row."""
    encode = encoder(out)
    frame = selection.outcomes()
    said = f"{len(frame)} trajectories of {selection.experiment}"
    repeating = frame["repeats"].sum()
    kept = frame.drop("repeats", *(() if selection.questions else QUESTIONS))
    notes = (f"in {repeating} of them a reply repeats the question",)
    return Export(encode(kept), said, notes if repeating and not selection.questions else ())


@EXPORTERS.register("routerbench")
def routerbench(selection: Selection, out: Path) -> Export:
    """RouterBench's wide table: for each sequence its score, the last reply, and the cost.

    A text stands in the table as RouterBench has it, in a list written in Python. Of several
    replicas each is a sample of its own.
    """
    selection.require_questions("routerbench")
    encode = encoder(out)
    frame = selection.outcomes()
    last = pl.col("steps").list.last().struct
    spoken = last.field("finish_reason") != UNRECORDED
    sample = pl.col("query_id")
    if frame["replica"].max():
        sample = pl.concat_str("query_id", "replica", separator=".")
    frame = frame.select(
        "sequence", "quality", "cost", sample_id=sample, prompt=_listed("question"),
        eval_name=pl.when(pl.col("kind") != "").then("kind").otherwise("dataset"),
        reply=pl.when(spoken).then(last.field("reply")),
    ).with_columns(reply=_listed("reply"))  # fmt: skip
    index = ["sample_id", "prompt", "eval_name"]
    wide = frame.select(index).unique(maintain_order=True)
    for (sequence,), rows in frame.group_by("sequence", maintain_order=True):
        own = {"quality": f"{sequence}", "reply": f"{sequence}{RESPONSE}",
               "cost": f"{sequence}{TOTAL_COST}"}  # fmt: skip
        columns = rows.select("sample_id", *own).rename(own)
        wide = wide.join(columns, "sample_id", "left", maintain_order="left")
    sequences = frame["sequence"].n_unique()
    return Export(
        encode(wide), f"{len(wide)} samples of {selection.experiment}, {sequences} sequences each"
    )


def _listed(column: str) -> pl.Expr:
    """Texts as lists of one, written in Python."""
    return pl.col(column).map_elements(lambda text: repr([text]), pl.String)
