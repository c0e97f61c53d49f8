"""Benchmarks of routers: RouterBench, LLMRouterBench, RouterArena, EmbedLLM, dialogue assignments.

Written after the formats' own code and documentation; tested on hand-made files alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from hcache.data.queries import SPLITS
from hcache.errors import DataError
from hcache.recorded.files import find_files, need, read_json, read_table
from hcache.recorded.pickles import read_pickle
from hcache.recorded.recording import IMPORTERS, TEXT, Recording
from hcache.recorded.tables import SPLIT_NAMES, recording_of

RESPONSE, TOTAL_COST = "|model_response", "|total_cost"
ASSIGNMENTS = ("teacher", "student")


@IMPORTERS.register("routerbench")
def routerbench(paths: Sequence[Path], *, kind: str = "eval_name") -> Recording:
    """RouterBench's wide table (`routerbench_0shot.pkl`, or as parquet or CSV), costs in USD.

    The pickle is read by a loader that runs nothing.
    """
    parts = []
    for path in find_files(paths, "routerbench_*shot*"):
        table = read_pickle(path) if ".pkl" in path.suffixes else read_table(path)
        if "row" not in table.columns:
            table = table.with_row_index("row", 1).with_columns(file=pl.lit(str(path)))
        need(table, ["sample_id", "prompt", kind], path)
        models = [name.removesuffix(RESPONSE) for name in table.columns if name.endswith(RESPONSE)]
        if not models:
            raise DataError(f"{path}: has no column MODEL{RESPONSE}.", "Take the 0-shot file.")
        for model in models:
            need(table, [model, model + TOTAL_COST], path)
            parts.append(table.select(
                "file", pl.col("row").cast(pl.Int64), pl.col("sample_id").cast(TEXT).alias("item"),
                pl.col(kind).alias("kind"), score=pl.col(model), cost=pl.col(model + TOTAL_COST),
                query=pl.col("prompt").map_elements(_first_text, TEXT),
                reply=pl.col(model + RESPONSE).map_elements(_first_text, TEXT),
                sequence=pl.lit([model], pl.List(TEXT)),
            ))  # fmt: skip
    return recording_of(pl.concat(parts, how="vertical_relaxed"), "routerbench", "routerbench")


@IMPORTERS.register("llmrouterbench")
def llmrouterbench(paths: Sequence[Path], *, split: str = "") -> Recording:
    """LLMRouterBench's result files; of several of one data set, split and model the newest counts.

    `raw_output` that begins as an error is a failure, as in every format.
    """
    newest: dict[tuple[str, str, str], tuple[Path, dict[str, Any]]] = {}
    for file in find_files(paths, "*.json"):
        result = read_json(file)
        if not isinstance(result, dict) or "records" not in result or result.get("demo"):
            continue
        key = tuple(str(result.get(name, "")) for name in ("dataset_name", "split", "model_name"))
        if not split or key[1] == split:  # names end in a date, and files come in their order
            newest[key[0], key[1], key[2]] = file, result
    rows = [row for file, result in newest.values() for row in _records(file, result)]
    if not rows:
        raise DataError(f"{paths[0]}: has no results with records.", "Correct the path.")
    return recording_of(pl.DataFrame(rows, infer_schema_length=None), "llmrouterbench",
                        "llmrouterbench")  # fmt: skip


def _records(file: Path, result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    number = 0
    try:
        for number, record in enumerate(result["records"], 1):
            raw = record.get("raw_output")
            truth = record.get("ground_truth")
            yield {
                "file": str(file), "row": number,
                "item": f"{result['dataset_name']}/{result['split']}/{record['index']}",
                "kind": str(result["dataset_name"]), "query": str(record["origin_query"]),
                "sequence": [str(result["model_name"])],
                "reply": raw if isinstance(raw, str) else record.get("prediction"),
                "score": _float(record["score"]), "cost": _float(record.get("cost")),
                "input_tokens": record.get("prompt_tokens"),
                "output_tokens": record.get("completion_tokens"),
                "reference": [] if truth is None else [str(truth)],
            }  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{file}, record {number}: is none ({type(error).__name__}: {error}).",
            "It has index, origin_query, score and raw_output.",
        ) from error


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


@IMPORTERS.register("routerarena")
def routerarena(paths: Sequence[Path]) -> Recording:
    """RouterArena's `cached_results/MODEL.jsonl`; what has no `success` is a failure."""
    parts = []
    for file in find_files(paths, "*.jsonl"):
        table = read_table(file)
        need(table, ["global_index", "question", "generated_answer", "success"], file)
        result = _field(table, "evaluation_result", "score")
        parts.append(table.select(
            "file", "row", pl.col("global_index").cast(TEXT).alias("item"),
            query="question", reply=pl.col("generated_answer").cast(TEXT), score=result,
            cost=_field(table, "evaluation_result", "inference_cost"),
            input_tokens=_field(table, "token_usage", "input_tokens"),
            output_tokens=_field(table, "token_usage", "output_tokens"),
            failure=pl.when(pl.col("success").fill_null(False)).then(None)
            .otherwise(pl.lit("no success")),
            sequence=pl.lit([file.stem], pl.List(TEXT)),
        ))  # fmt: skip
    return recording_of(pl.concat(parts, how="vertical_relaxed"), "routerarena", "routerarena")


def _field(table: pl.DataFrame, column: str, field: str) -> pl.Expr:
    """A number in an object, or null where there is none."""
    kind = table.schema.get(column)
    if not isinstance(kind, pl.Struct) or field not in {each.name for each in kind.fields}:
        return pl.lit(None, pl.Float64)
    return pl.col(column).struct.field(field).cast(pl.Float64, strict=False)


@IMPORTERS.register("embedllm")
def embedllm(paths: Sequence[Path]) -> Recording:
    """EmbedLLM's `train.csv`, `val.csv` and `test.csv`: right or wrong, no replies, no costs."""
    parts = []
    for file in find_files(paths, "*.csv"):
        table = read_table(file)
        need(table, ["prompt_id", "prompt", "label"], file)
        model = "model_name" if "model_name" in table.columns else "model_id"
        need(table, [model], file)
        parts.append(table.select(
            "file", "row", pl.col("prompt_id").cast(TEXT).alias("item"), query="prompt",
            score="label", sequence=pl.concat_list(pl.col(model).cast(TEXT)),
            kind=pl.col("category") if "category" in table.columns else pl.lit(None, TEXT),
            split=_split_of(file.stem),
        ))  # fmt: skip
    return recording_of(pl.concat(parts, how="vertical_relaxed"), "embedllm", "embedllm")


@IMPORTERS.register("assignments")
def assignments(paths: Sequence[Path], *, score: str = "f1") -> Recording:
    """Dialogues of a teacher and a student: `baseline.jsonl` of SPLIT folders, a row a question and
    assignment. Both calls are one decision each; the first has no outcome of its own."""
    parts = []
    for file in find_files(paths, "baseline.jsonl"):
        table = read_table(file)
        need(table, ["qid", "question", *ASSIGNMENTS, "answer", "ground_truth", score], file)
        who = [pl.format("model {}", pl.col(role).cast(TEXT)) for role in ASSIGNMENTS]
        both = table.with_columns(
            item=pl.col("qid").cast(TEXT), query=pl.col("question"),
            reference=pl.concat_list(pl.col("ground_truth").cast(TEXT)),
            split=_split_of(file.parent.name),
        )  # fmt: skip
        own = ["file", "row", "item", "query", "reference", "split"]
        first = both.select(*own, score=pl.lit(None, pl.Float64), reply=pl.lit(None, TEXT),
                            sequence=pl.concat_list(who[0]))  # fmt: skip
        second = both.select(
            *own,
            score=pl.col(score).cast(pl.Float64),
            reply=pl.col("answer").cast(TEXT),
            sequence=pl.concat_list(who),
        )
        parts += [first.unique(["item", "sequence"], keep="first", maintain_order=True), second]
    return recording_of(pl.concat(parts, how="vertical_relaxed"), "assignments", "assignments")


def _split_of(name: str) -> pl.Expr:
    """The split that a file or folder is named after, or null."""
    split = SPLIT_NAMES.get(name, name)
    return pl.lit(split if split in SPLITS else None, TEXT)


def _first_text(text: str) -> str:
    """The text of a Python list of texts, as RouterBench has prompts and responses."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    return text
