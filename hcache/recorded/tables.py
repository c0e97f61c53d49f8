"""Tables with columns of any name: one row for each call (`long`), or for each question (`wide`).

Every option names a column. A column that an option leaves at its default may be missing; one that
is named has to be there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from hcache.errors import ConfigError
from hcache.recorded.files import defect, find_tables, need, number, read_table
from hcache.recorded.recording import IMPORTERS, TEXT, Evaluation, Recording

SPLIT_NAMES = {"training": "train", "validation": "valid", "val": "valid", "dev": "valid"}
DEFAULTS = {
    "query": "query", "arm": "arm", "reply": "reply", "score": "score", "cost": "cost",
    "input_tokens": "input_tokens", "output_tokens": "output_tokens", "failure": "failure",
    "reference": "reference", "kind": "kind", "item": "item", "split": "split", "sample": "sample",
}  # fmt: skip


@IMPORTERS.register("long")
def long(
    paths: Sequence[Path],
    *,
    query: str = "query",
    arm: str = "arm",
    sequence: str = "",
    reply: str = "reply",
    score: str = "score",
    cost: str = "cost",
    input_tokens: str = "input_tokens",
    output_tokens: str = "output_tokens",
    failure: str = "failure",
    reference: str = "reference",
    kind: str = "kind",
    item: str = "item",
    split: str = "split",
    sample: str = "sample",
    dataset: str = "",
    source: str = "",
    unit: str = "USD",
    scale: float = 1.0,
    extract: str = "",
    metric: str = "",
) -> Recording:
    """Rows of one call each; `sequence` names a column of arms in order, as a list or as a>b.

    A row says what its last arm said, scored and cost; calls before it are rows of their own.
    `scale` is the largest score there can be, `extract` and `metric` score the replies again.
    """
    named = {
        "query": query, "arm": "" if sequence else arm, "reply": reply, "score": score,
        "cost": cost, "input_tokens": input_tokens, "output_tokens": output_tokens,
        "failure": failure, "reference": reference, "kind": kind, "item": item, "split": split,
        "sample": sample,
    }  # fmt: skip
    required = {"query", "score", *(() if sequence else ("arm",))}
    parts = []
    for path in find_tables(paths):
        frame = _columns(read_table(path), named, required, path)
        if sequence:
            need(frame, [sequence], path)
        parts.append(frame.with_columns(_sequence(frame, sequence)))
    rows = pl.concat(parts, how="diagonal_relaxed")
    return recording_of(rows, dataset, source or dataset or paths[0].stem, unit, scale,
                        _evaluation(extract, metric))  # fmt: skip


@IMPORTERS.register("wide")
def wide(
    paths: Sequence[Path],
    *,
    query: str = "query",
    models: str = "",
    score: str = "{model}",
    reply: str = "{model}_response",
    cost: str = "{model}_cost",
    input_tokens: str = "{model}_input_tokens",
    output_tokens: str = "{model}_output_tokens",
    reference: str = "reference",
    kind: str = "kind",
    item: str = "item",
    split: str = "split",
    dataset: str = "",
    source: str = "",
    unit: str = "USD",
    scale: float = 1.0,
    extract: str = "",
    metric: str = "",
) -> Recording:
    """Rows of one question each, with columns for each model, in whose names {model} stands for it.

    `models` are their names with commas; otherwise all that have a column named like `reply`.
    """
    named = {"query": query, "reference": reference, "kind": kind, "item": item, "split": split}
    patterns = {
        "score": score, "reply": reply, "cost": cost, "input_tokens": input_tokens,
        "output_tokens": output_tokens,
    }  # fmt: skip
    for option, pattern in patterns.items():
        if pattern.count("{model}") != 1:
            raise ConfigError(
                f"format 'wide': option {option!r} is {pattern!r}.",
                "Put {model} where the model's name stands.",
            )
    parts = []
    for path in find_tables(paths):
        table = read_table(path)
        for model in _models(table, models, reply, path):
            own = {name: pattern.replace("{model}", model) for name, pattern in patterns.items()}
            need(table, [own["score"]], path)
            frame = _columns(table, named | own, {"query", "score"}, path, given=named)
            parts.append(frame.with_columns(sequence=pl.lit([model], pl.List(TEXT))))
    rows = pl.concat(parts, how="diagonal_relaxed")
    return recording_of(rows, dataset, source or dataset or paths[0].stem, unit, scale,
                        _evaluation(extract, metric))  # fmt: skip


def recording_of(
    rows: pl.DataFrame,
    dataset: str,
    source: str,
    unit: str = "USD",
    scale: float = 1.0,
    evaluation: Evaluation | None = None,
) -> Recording:
    """A recording from rows with the columns of `DEFAULTS` that there are, and `sequence`.

    Raises:
        ConfigError: the scale is none.
        DataError: a number is none, or a reference is no text.
    """
    if not 0 < scale < float("inf"):
        raise ConfigError(f"scale is {scale:g}.", "Give the largest score there can be.")
    numbers = {
        name: number(rows, column) if column in rows.columns else None
        for name, column in (
            ("score", "score"), ("cost", "cost"), ("prompt_tokens", "input_tokens"),
            ("output_tokens", "output_tokens"), ("sample", "sample"),
        )
    }  # fmt: skip
    for name in ("sample", "prompt_tokens", "output_tokens"):
        _check_whole(rows, name, numbers[name])
    sample = numbers["sample"]
    numbers["sample"] = pl.Series([0] * len(rows)) if sample is None else _from_zero(sample)
    texts = {
        name: rows[name].cast(TEXT) if name in rows.columns else pl.lit(None, TEXT)
        for name in ("kind", "item", "failure", "reply")
    }
    rows = rows.with_columns(
        pl.col("query").cast(TEXT).str.strip_chars().alias("question"),
        pl.lit(dataset or source).alias("dataset"),
        _references(rows).alias("references"),
        *(values.alias(name) for name, values in numbers.items() if values is not None),
        **texts,
        split=_split(rows),
    ).with_columns(
        score=pl.col("score") / scale,
        id=pl.concat_str(
            [pl.col("item").fill_null(""), pl.col("question").fill_null(""),
             pl.col("references").list.join("\x1f").fill_null("")],
            separator="\x1e",
        ),
    )  # fmt: skip
    evaluations = {} if evaluation is None else {dataset or source: evaluation}
    return Recording(source, rows, rows, unit, evaluations)


def _columns(
    table: pl.DataFrame,
    named: Mapping[str, str],
    required: set[str],
    path: Path,
    given: Mapping[str, str] | None = None,
) -> pl.DataFrame:
    """The columns that options name, by the names of the options; defaults may be missing."""
    asked = [
        column
        for name, column in (named if given is None else given).items()
        if column and (name in required or column != DEFAULTS[name])
    ]
    need(table, asked, path)
    there = {name: column for name, column in named.items() if column in table.columns}
    extra = [pl.col(column).alias(name) for name, column in there.items()]
    rest = [column for column in table.columns if column not in there]
    return table.select(*(pl.col(c) for c in rest), *extra)


def _sequence(frame: pl.DataFrame, column: str) -> pl.Expr:
    if not column:
        return pl.concat_list(pl.col("arm").cast(TEXT)).alias("sequence")
    if isinstance(frame.schema[column], pl.List):
        return pl.col(column).cast(pl.List(TEXT)).alias("sequence")
    parts = pl.col(column).cast(TEXT).str.split(">")
    return parts.list.eval(pl.element().str.strip_chars()).alias("sequence")


def _models(table: pl.DataFrame, models: str, reply: str, path: Path) -> list[str]:
    if models:
        return [name.strip() for name in models.split(",")]
    pattern = re.compile(re.escape(reply).replace(re.escape("{model}"), "(.+)"))
    found = [match[1] for name in table.columns if (match := pattern.fullmatch(name))]
    if not found:
        raise ConfigError(
            f"{path}: no column is named like {reply}.", "Name the models: --option models=a,b"
        )
    return found


def _references(rows: pl.DataFrame) -> pl.Expr:
    if "reference" not in rows.columns:
        return pl.lit([], pl.List(TEXT))
    if isinstance(rows.schema["reference"], pl.List):
        return pl.col("reference").cast(pl.List(TEXT)).fill_null([])
    text = pl.col("reference").cast(TEXT)
    return pl.when(text.is_null()).then(pl.lit([], pl.List(TEXT))).otherwise(pl.concat_list(text))


def _split(rows: pl.DataFrame) -> pl.Expr:
    if "split" not in rows.columns:
        return pl.lit(None, TEXT)
    text = pl.col("split").cast(TEXT).str.strip_chars().str.to_lowercase()
    return text.replace(SPLIT_NAMES).replace({"": None})


def _from_zero(sample: pl.Series) -> pl.Series:
    """Numbers of samples without gaps, from 0 where a source counts from 1; negative ones stay."""
    if (sample < 0).any():
        return sample
    return sample.rank("dense").cast(pl.Int64) - 1


def _check_whole(rows: pl.DataFrame, name: str, values: pl.Series | None) -> None:
    """Refuse numbers of tokens, or of samples, that are none."""
    if values is None:
        return
    values = values.cast(pl.Float64)
    wrong = rows.filter((values % 1 != 0) | values.is_infinite() | (values.abs() > 2**31 - 1))
    if len(wrong):
        raise defect(wrong, f"{name} is no whole number")


def _evaluation(extract: str, metric: str) -> Evaluation | None:
    return Evaluation(extract or "text", metric) if metric else None
