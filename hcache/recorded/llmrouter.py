"""LLMRouter (ulab-uiuc): scores of its candidates, as prepared for RouterDC, and routing tables.

`train.json` and `test.json` are lists of a question and a score by model. Tasks and reference
answers are taken from `default_query_*.jsonl` of the same copy. Routing tables (`*.jsonl` with
`model_name`) have a row for each call, with the response; their responses of failed calls begin
with "API Error", which is no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from hcache.errors import DataError
from hcache.recorded.files import need, number, read_json, read_table
from hcache.recorded.recording import CELLS, IMPORTERS, TEXT, Recording

SPLITS = {"train.json": "train/train/train/valid", "test.json": "test"}
ROUTING = ("query", "model_name", "response", "performance")


@IMPORTERS.register("llmrouter")
def llmrouter(paths: Sequence[Path]) -> Recording:
    """A copy of the repository, a folder with both files, or routing tables."""
    files = [
        file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
    ]
    parts = [_scores(file) for file in files if file.name in SPLITS]
    if not parts:
        tables = [file for file in files if file.suffix == ".jsonl"]
        parts = [_routing(file) for file in tables if "model_name" in read_table(file).columns]
    if not parts:
        raise DataError(
            f"{paths[0]}: has neither train.json and test.json nor a routing table.",
            "Correct the path.",
        )
    cells = pl.concat(parts, how="diagonal_relaxed")
    tasks = [_tasks(file) for file in files if file.name.startswith("default_query_")]
    questions = cells.unique("id", keep="first", maintain_order=True)
    if tasks and "kind" not in questions.columns:
        known = pl.concat(tasks).unique("question", keep="first")
        questions = questions.join(known, "question", "left", maintain_order="left")
    return Recording("llmrouter", questions, cells)


def _scores(file: Path) -> pl.DataFrame:
    rows = read_json(file)
    try:
        cells = [
            (f"{file.name}/{row}", str(each["question"]).strip(), [str(model)], float(score), row)
            for row, each in enumerate(rows, 1)
            for model, score in each["scores"].items()
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{file}: is no list of questions with scores ({type(error).__name__}: {error}).",
            "Each has a question, and scores by model.",
        ) from error
    schema = {"id": TEXT, "question": TEXT, **{n: CELLS[n] for n in ("sequence", "score", "row")}}
    return pl.DataFrame(cells, schema, orient="row").with_columns(
        file=pl.lit(str(file)), dataset=pl.lit("llmrouter"), split=pl.lit(SPLITS[file.name]),
        sample=0, item="id",  # a question of both files has other scores in one than in the other
    )  # fmt: skip


def _routing(file: Path) -> pl.DataFrame:
    table = read_table(file)
    need(table, ROUTING, file)
    reference = pl.col("ground_truth") if "ground_truth" in table.columns else pl.lit(None)
    return table.with_columns(
        id=pl.concat_str(*(pl.col(c).cast(TEXT).fill_null("") for c in ("query", "ground_truth")
                           if c in table.columns), separator="\x1e"),
        question=pl.col("query").str.strip_chars(), dataset=pl.lit("llmrouter"),
        kind=pl.col("task_name") if "task_name" in table.columns else pl.lit(None),
        references=pl.concat_list(reference.cast(TEXT).fill_null("")),
        sequence=pl.concat_list(pl.col("model_name").cast(TEXT)), sample=0,
        reply=pl.col("response").cast(TEXT), score=number(table, "performance"),
        prompt_tokens=number(table, "input_tokens") if "input_tokens" in table.columns else None,
        output_tokens=number(table, "output_tokens") if "output_tokens" in table.columns else None,
    )  # fmt: skip


def _tasks(file: Path) -> pl.DataFrame:
    table = read_table(file)
    need(table, ["query", "task_name", "ground_truth"], file)
    return table.select(
        question=pl.col("query").str.strip_chars(),
        kind="task_name",
        references=pl.concat_list(pl.col("ground_truth").cast(TEXT).fill_null("")),
    )
