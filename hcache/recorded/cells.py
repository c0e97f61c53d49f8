"""Cells checked: each once, in its range, with the calls before it; holes and failures counted."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Literal

import polars as pl

from hcache.errors import DataError
from hcache.plugins import plain_name
from hcache.recorded.files import defect
from hcache.recorded.recording import Recording

MOST = 2**31 - 1  # tokens that the store can count of one call
CELL = ("id", "path", "sample")
SAID = ("reply", "score", "cost", "prompt_tokens", "output_tokens", "failure")
FAILED = (
    r"(?i)^\s*(API[ _]error\b|error code: \d|processing failed:|generation failed:|"
    r"unexpected error:|request timed out|litellm\.\w*|openai\.\w*error|<error>)"
)
"""Beginnings of replies that are errors of whoever made the calls, not answers of a model."""


@dataclass(frozen=True)
class Checked:
    """Cells that can be written, and the numbers of those that cannot."""

    recording: Recording
    arms: dict[str, str]  # name that an arm can have, by its name in the source
    samples: int  # of each sequence
    repeated: int  # rows that say what another says
    failures: dict[str, int]  # by arm
    holes: dict[str, int]  # cells that some question has and another lacks, by sequence


def check(recording: Recording) -> Checked:
    """Refuse what cannot be meant, and take out what is no outcome.

    Raises:
        DataError: in one line with file and row.
    """
    cells = recording.cells.with_columns(path=pl.col("sequence").list.join(">"))
    if cells.is_empty():
        raise DataError("there are no outcomes.", "Check the paths and the format.")
    _check_questions(recording.questions, cells)
    own = recording.own
    arms = _arm_names(cells) if own is None else {arm: arm for arm in own.arms}
    _check_ranges(cells)
    single, repeated = _each_once(cells)
    failed = _failed(single, said=own is None)
    lost = single.filter(failed)
    kept = _with_calls_before(single.filter(~failed), lost)
    if kept["score"].is_null().all():
        raise DataError("no row has an outcome.", "Check the column of scores, and failures.")
    samples = 1 + max(kept["sample"].unique().to_list(), default=0)
    return Checked(
        replace(recording, cells=kept.drop("path")),
        arms,
        samples,
        repeated,
        _by_arm(lost),
        _holes(kept, recording.questions, samples),
    )


def _check_questions(questions: pl.DataFrame, cells: pl.DataFrame) -> None:
    empty = questions.filter(pl.col("question").str.strip_chars().fill_null("") == "")
    if len(empty):
        rows = cells.join(empty, "id", "semi")
        raise (
            defect(rows, "the question is empty")
            if len(rows)
            else DataError(f"question {empty['id'][0]}: it is empty.", "Correct the file.")
        )
    unknown = cells.join(questions, "id", "anti")
    if len(unknown):
        raise defect(unknown, f"there is no question {unknown['id'][0]!r}")


def _arm_names(cells: pl.DataFrame) -> dict[str, str]:
    """Names for arms, by their names in the source: the last part of a path, if that is enough."""
    nobody = cells.filter(
        (pl.col("sequence").list.len().fill_null(0) == 0)
        | pl.col("sequence").list.eval(pl.element().fill_null("") == "").list.any()
    )
    if len(nobody):
        raise defect(nobody, "the arm is empty")
    arms = cells["sequence"].explode().unique(maintain_order=True).to_list()
    alike: dict[str, list[str]] = defaultdict(list)
    for arm in arms:
        alike[arm.strip().casefold()].append(arm)
    for names in alike.values():
        if len(names) > 1:
            row = cells.filter(pl.col("sequence").list.contains(names[1]))
            raise defect(
                row, f"the arm {names[1]!r} is called {names[0]!r} elsewhere", "Give it one name."
            )
    short = [arm.strip().rsplit("/", 1)[-1] for arm in arms]
    names = short if len(set(short)) == len(arms) else [arm.strip() for arm in arms]
    plain = [name.replace("/", "_").replace(">", "_") for name in names]
    found = dict(zip(arms, plain, strict=True))
    for arm, name in found.items():
        if plain.count(name) > 1:
            row = cells.filter(pl.col("sequence").list.contains(arm))
            raise defect(row, f"another arm would be called {name!r} too", "Rename the arm.")
        try:
            plain_name(name)
        except ValueError as error:
            row = cells.filter(pl.col("sequence").list.contains(arm))
            raise defect(row, f"{error}", "Rename the arm.") from error
        if name == "STOP":
            row = cells.filter(pl.col("sequence").list.contains(arm))
            raise defect(row, "an arm cannot be called STOP", "Rename the arm.")
    return found


def _check_ranges(cells: pl.DataFrame) -> None:
    score, cost = pl.col("score"), pl.col("cost")
    for name, wrong, what in (
        ("score", score.is_nan() | score.is_infinite(), "is no number"),
        ("score", (score < 0) | (score > 1), "is not between 0 and 1"),
        ("cost", cost.is_nan() | cost.is_infinite() | (cost < 0), "is no cost"),
        ("prompt_tokens", ~pl.col("prompt_tokens").is_between(0, MOST), "is no number of tokens"),
        ("output_tokens", ~pl.col("output_tokens").is_between(0, MOST), "is no number of tokens"),
        ("sample", pl.col("sample") < 0, "is no sample index"),
    ):
        rows = cells.filter(wrong)
        if len(rows):
            hint = (
                "Name the largest score there can be: --option scale=100"
                if name == "score" and (rows[name] >= 0).all()
                else "Correct the row, or take it out."
            )
            raise defect(rows, f"{name} {rows[name][0]:g} {what}", hint)


def _each_once(cells: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Cells without repetitions; what is said twice has to be said alike."""
    single = cells.unique(CELL, keep="first", maintain_order=True)
    repeated = len(cells) - len(single)
    if repeated:
        pairs = cells.join(single, list(CELL), suffix="_first")
        differ = pairs.filter(
            ~pl.all_horizontal(pl.col(name).eq_missing(pl.col(f"{name}_first")) for name in SAID)
        )
        if len(differ):
            first = differ.row(0, named=True)
            raise defect(
                differ,
                f"{first['path']} has another outcome on the question of "
                f"{first['file_first']}, row {first['row_first']}",
                "Keep one of them; several calls of one arm need a column `sample`.",
            )
    return single, repeated


def _failed(cells: pl.DataFrame, said: bool) -> pl.Series:
    """Mask of the calls that failed; `said` if a reply may say so."""
    stated = cells["failure"].fill_null("") != ""
    return stated | cells["reply"].fill_null("").str.contains(FAILED) if said else stated


def _with_calls_before(kept: pl.DataFrame, lost: pl.DataFrame) -> pl.DataFrame:
    """Cells whose earlier calls are there; those after a failure go, any other gap is wrong."""
    depth = pl.col("sequence").list.len()
    good = kept.filter(depth == 1)
    lengths = sorted(kept["sequence"].list.len().unique().to_list())
    for length in (length for length in lengths if length > 1):
        before = pl.col("sequence").list.slice(0, length - 1).list.join(">")
        level = kept.filter(depth == length).with_columns(before=before)
        orphans = _joined(_joined(level, good, "anti"), lost, "anti")
        if len(orphans):
            first = orphans.row(0, named=True)
            raise defect(orphans, f"{first['path']} is there, but no row of {first['before']}")
        lost = pl.concat([lost, _joined(level, lost, "semi").drop("before")])
        good = pl.concat([good, _joined(level, good, "semi").drop("before")])
    return good


def _joined(
    level: pl.DataFrame, others: pl.DataFrame, how: Literal["semi", "anti"]
) -> pl.DataFrame:
    """The cells whose call before is among others, or is not."""
    return level.join(others, left_on=["id", "before", "sample"], right_on=list(CELL), how=how)


def _by_arm(lost: pl.DataFrame) -> dict[str, int]:
    counts = lost.group_by(arm=pl.col("sequence").list.last()).len().sort("arm")
    return dict(counts.iter_rows())


def _holes(kept: pl.DataFrame, questions: pl.DataFrame, samples: int) -> dict[str, int]:
    """Number of questions that lack an outcome which others have; failures included."""
    scored = kept.filter(pl.col("score").is_not_null())
    counts = scored.group_by("path").len().sort("path")
    whole = len(questions) * samples
    return {path: whole - count for path, count in counts.iter_rows() if count < whole}
