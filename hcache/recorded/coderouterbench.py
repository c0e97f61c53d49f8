"""CodeRouterBench (arXiv 2606.22902): coding tasks, eight models, a row for each of both.

Files `*_results_long.csv` of tasks in distribution (`score`) and of 176 agentic ones out of it
(`resolved`), with `*_tasks.jsonl` beside them, of which only the latter hold prompts. Costs in USD.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from hcache.errors import DataError
from hcache.recorded.files import find_files, need, number, read_table
from hcache.recorded.recording import IMPORTERS, Recording

SPLITS = {"id_test": "test", "probing": "train/train/train/valid"}
SUFFIX = "_results_long.csv"


@IMPORTERS.register("coderouterbench")
def coderouterbench(paths: Sequence[Path], *, part: str = "") -> Recording:
    """All parts that there are, or the one that is named: ood176, id_test, id_probing."""
    files = [
        file
        for file in find_files(paths, f"*{SUFFIX}")
        if not part or file.name == f"{part}{SUFFIX}"
    ]
    if not files:
        raise DataError(f"{paths[0]}: has no {part}{SUFFIX}.", "Correct the path, or the part.")
    cells = pl.concat([_cells(file) for file in files], how="diagonal_relaxed")
    tasks = [_tasks(file) for file in files]
    known = pl.concat(tasks).unique("id", keep="first", maintain_order=True)
    questions = cells.select("id", "dataset", "kind", "split", item="task_id").unique(
        "id", keep="first", maintain_order=True
    )
    questions = questions.join(known, "id", "left").with_columns(
        question=pl.coalesce("question", "item")
    )
    silent = int((questions["question"] == questions["item"]).sum())
    notes = (f"{silent:,} tasks are given without their prompt: their id stands for it",)
    return Recording("coderouterbench", questions, cells, notes=notes if silent else ())


def _cells(file: Path) -> pl.DataFrame:
    table = read_table(file)
    score = "score" if "score" in table.columns else "resolved"
    inputs, outputs = (
        ("input_tokens", "output_tokens") if score == "score" else ("in_tok", "out_tok")
    )
    need(table, ["task_id", "model", "dimension", score, "cost_usd", "cost_source", inputs], file)
    unknown = pl.col("cost_source").str.starts_with("missing")  # and 0 stands in its place
    dataset = "ood176" if score == "resolved" else "id"
    return table.with_columns(
        id=pl.concat_str(pl.lit(f"{dataset}/"), "task_id"),
        dataset=pl.lit(dataset),
        kind="dimension",
        split=pl.col("split").replace_strict(SPLITS, default=None)
        if "split" in table.columns
        else pl.lit(None, pl.String),
        sequence=pl.concat_list("model"),
        sample=0,
        score=number(table, score),
        cost=pl.when(unknown).then(None).otherwise(number(table, "cost_usd")),
        prompt_tokens=pl.when(unknown).then(None).otherwise(number(table, inputs)),
        output_tokens=pl.when(unknown).then(None).otherwise(number(table, outputs)),
    ).drop("source_split", strict=False)


def _tasks(file: Path) -> pl.DataFrame:
    """Prompts by id, where there are any."""
    tasks = file.with_name(file.name.replace(SUFFIX, "_tasks.jsonl"))
    empty = pl.DataFrame(schema={"id": pl.String, "question": pl.String})
    if not tasks.is_file():
        return empty
    table = read_table(tasks)
    if "prompt" not in table.columns:
        return empty
    dataset = "ood176" if file.name.startswith("ood") else "id"
    return table.select(
        pl.concat_str(pl.lit(f"{dataset}/"), "task_id").alias("id"),
        pl.col("prompt").alias("question"),
    )
