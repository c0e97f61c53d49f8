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
from hcache.recorded.cells import MOST
from hcache.recorded.files import defect, find_tables, need, number, read_table, texts
from hcache.recorded.recording import IMPORTERS, TEXT, Evaluation, Recording

SPLIT_NAMES = {"training": "train", "validation": "valid", "val": "valid", "dev": "valid"}
NUMBERS = ("score", "cost", "input_tokens", "output_tokens", "sample")
TEXTS = ("query", "arm", "reply", "failure", "kind", "item", "split")
PATTERNS = ("score", "reply", "cost", "input_tokens", "output_tokens")  # by model, in wide tables
COLUMNS = (*TEXTS, *NUMBERS, "reference")
"""Options that name a column, which is called so if they do not."""


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
    named = _named(locals()) | ({"arm": ""} if sequence else {})
    required = {"query", "score", *(() if sequence else ("arm",))}
    parts = []
    for path in find_tables(paths):
        table = read_table(path)
        frame = _columns(table, named, required, path)
        if sequence:
            need(table, [sequence], path)
        arms = _sequence(table, sequence) if sequence else _alone(frame)
        parts.append(_typed(frame).with_columns(arms))
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
    named = _named(locals())
    patterns = {name: named.pop(name) for name in PATTERNS}
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
            parts.append(_typed(frame).with_columns(sequence=pl.lit([model], pl.List(TEXT))))
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
    """A recording from rows with the columns of `COLUMNS` that there are, and `sequence`.

    Raises:
        ConfigError: the scale is none.
        DataError: a number is none, or a text.
    """
    if not 0 < scale < float("inf"):
        raise ConfigError(f"scale is {scale:g}.", "Give the largest score there can be.")
    rows = _typed(rows)
    for name in ("sample", "input_tokens", "output_tokens"):
        _check_whole(rows, name)
    missing = {name: pl.lit(None, TEXT) for name in TEXTS if name not in rows.columns}
    rows = rows.with_columns(**missing).with_columns(
        pl.col("query").str.strip_chars().alias("question"),
        pl.lit(dataset or source).alias("dataset"),
        _split(rows),
        score=pl.col("score") / scale,
        sample=_samples(rows),
        prompt_tokens=pl.col("input_tokens") if "input_tokens" in rows.columns else None,
    ).with_columns(
        id=pl.concat_str(
            [pl.col("item").fill_null(""), pl.col("question").fill_null(""),
             pl.col("references").list.join("\x1f").fill_null("")],
            separator="\x1e",
        ),
    )  # fmt: skip
    evaluations = {} if evaluation is None else {dataset or source: evaluation}
    return Recording(source, rows, rows, unit, evaluations)


def _named(options: Mapping[str, object]) -> dict[str, str]:
    """Names of columns by option."""
    return {name: str(options[name]) for name in COLUMNS if name in options}


def _typed(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with their numbers and texts as such, whatever a file has made of them."""
    there = rows.columns
    return rows.with_columns(
        *(number(rows, name).alias(name) for name in NUMBERS if name in there),
        *(texts(rows, name) for name in TEXTS if name in there),
        _references(rows),
    )


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
        if column and (name in required or column != name)
    ]
    need(table, asked, path)
    there = {name: column for name, column in named.items() if column in table.columns}
    return table.select("file", "row", *(pl.col(c).alias(name) for name, c in there.items()))


def _alone(frame: pl.DataFrame) -> pl.Series:
    """Sequences of the one arm of each row."""
    return frame.select(sequence=pl.concat_list(texts(frame, "arm"))).to_series()


def _sequence(frame: pl.DataFrame, column: str) -> pl.Series:
    """Arms of each row in order, from a column of lists or of texts such as a>b."""
    if isinstance(frame.schema[column], pl.List):
        return _lists(frame, column).alias("sequence")
    parts = texts(frame, column).str.split(">").alias("sequence")
    return parts.list.eval(pl.element().str.strip_chars())


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


def _references(rows: pl.DataFrame) -> pl.Series:
    """Lists of answers: as they stand in a list, or of one text."""
    if "references" in rows.columns:
        return rows["references"]
    if "reference" not in rows.columns:
        return pl.Series("references", [[]] * len(rows), pl.List(TEXT))
    if isinstance(rows.schema["reference"], pl.List):
        return _lists(rows, "reference").fill_null([]).alias("references")
    text = texts(rows, "reference")
    lists = pl.when(text.is_null()).then(pl.lit([], pl.List(TEXT))).otherwise(pl.concat_list(text))
    return pl.select(lists.alias("references")).to_series()


def _lists(rows: pl.DataFrame, column: str) -> pl.Series:
    """A column of lists of texts.

    Raises:
        DataError: the lists hold something else.
    """
    kind = rows.schema[column]
    assert isinstance(kind, pl.List)
    if kind.inner.is_nested() or kind.inner in (pl.Binary, pl.Object):
        raise defect(rows.head(1), f"{column} is no list of texts")
    return rows[column].cast(pl.List(TEXT))


def _split(rows: pl.DataFrame) -> pl.Expr:
    text = pl.col("split").str.strip_chars().str.to_lowercase()
    return text.replace(SPLIT_NAMES).replace({"": None})


def _samples(rows: pl.DataFrame) -> pl.Series:
    """Numbers of samples without gaps, from 0 where a source counts from 1; negative ones stay.

    Raises:
        DataError: a row has none, though another has.
    """
    if "sample" not in rows.columns:
        return pl.Series([0] * len(rows))
    sample = rows["sample"]
    if len(without := rows.filter(sample.is_null())):
        raise defect(without, "sample is empty", "Number the calls in every row, or in none.")
    if (sample < 0).any():
        return sample
    return sample.rank("dense").cast(pl.Int64) - 1


def _check_whole(rows: pl.DataFrame, name: str) -> None:
    """Refuse numbers of tokens, or of samples, that are none."""
    if name not in rows.columns:
        return
    values = rows[name]
    wrong = rows.filter((values % 1 != 0) | values.is_infinite() | (values.abs() > MOST))
    if len(wrong):
        raise defect(wrong, f"{name} is no whole number")


def _evaluation(extract: str, metric: str) -> Evaluation | None:
    return Evaluation(extract or "text", metric) if metric else None
