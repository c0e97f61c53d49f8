"""Replies to fine-tune on, in the conversational forms of TRL.

A router's choice is no text, so these are pairs of prompts and replies: the best ones to imitate
(`sft`), or better and worse ones to the same prompt (`preferences`). Only training queries are
taken unless other splits are named. A call is left out where its prompt is not known (one that
others have recorded says who spoke before, not how the model was asked) or its reply was cut,
withheld or not recorded.
See https://huggingface.co/docs/trl/dataset_formats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from hcache.config.file import parse_settings
from hcache.config.schema import TrainConfig
from hcache.errors import ConfigError, StoreError
from hcache.exports.selection import EXPORTERS, Export, Selection, encoder, messages_of

Row = dict[str, Any]
MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
SFT: dict[str, Any] = {
    "prompt": MESSAGES, "completion": MESSAGES, "query_id": pl.String, "arm": pl.String
}  # fmt: skip
PREFERENCES: dict[str, Any] = {
    "prompt": MESSAGES, "chosen": MESSAGES, "rejected": MESSAGES,
    "score_chosen": pl.Float64, "score_rejected": pl.Float64, "query_id": pl.String,
    "arm_chosen": pl.String, "arm_rejected": pl.String,
}  # fmt: skip
TRAIN = ("train",)
NEAR = 1e-9  # qualities that differ by less are equal


@EXPORTERS.register("sft")
def sft(selection: Selection, out: Path, *, alpha: str = "") -> Export:
    """Every call of the best trajectory of each question, as prompt and completion.

    Best is by R = quality − α · cost, at the experiment's α where none is given; then cheapest,
    shortest. A question on which nobody scored is left out.
    """
    selection.require_questions("sft")
    encode = encoder(out)
    outcomes = selection.outcomes(TRAIN)
    given = {"alpha": alpha or selection.config.train.alpha}
    best = _best(outcomes, parse_settings(TrainConfig, given, "--option ").alpha)
    calls = selection.calls(best).unique("generation_id", keep="first", maintain_order=True)
    used = _usable(calls.join(best, "trajectory_id", maintain_order="left"))
    rows = [
        {"prompt": row["prompt"], "completion": _said(row), "query_id": row["query_id"],
         "arm": row["arm"]}
        for row in used
    ]  # fmt: skip
    _refuse_none(rows, selection, "no call whose prompt and whole reply are known")
    frame = pl.DataFrame(rows, SFT)
    queries = outcomes["query_id"].n_unique()
    said = f"{len(frame)} replies on {frame['query_id'].n_unique()} of {queries} questions"
    return Export(encode(frame), said, _left_out(len(calls) - len(frame)))


@EXPORTERS.register("preferences")
def preferences(selection: Selection, out: Path, *, margin: float = 0.0) -> Export:
    """The best reply to each prompt, with each one that is worse by more than `margin`.

    A reply is as good as the trajectory that ends with it. Cost has no say in it: it is of who
    replied, not of what was said.
    """
    selection.require_questions("preferences")
    if not 0 <= margin < 1:
        raise ConfigError(f"margin is {margin:g}.", "Give a difference of qualities, 0 or more.")
    encode = encoder(out)
    outcomes = selection.outcomes(TRAIN).drop_nulls("quality")
    calls = selection.calls(outcomes, last=True)
    used = _usable(calls.join(outcomes, "trajectory_id", maintain_order="left"))
    rows = [
        pair for replies in _by_prompt(used).values() for pair in _pairs(replies, max(margin, NEAR))
    ]
    _refuse_none(rows, selection, "no two replies to one prompt of which one is better")
    frame = pl.DataFrame(rows, PREFERENCES)
    said = f"{len(frame)} pairs on {frame['query_id'].n_unique()} questions"
    return Export(encode(frame), said, _left_out(len(calls) - len(used)))


def _best(outcomes: pl.DataFrame, alpha: float) -> pl.DataFrame:
    """The best trajectory of each question that has one with a quality above 0."""
    reward = pl.col("quality") - alpha * pl.col("cost")
    order = ["reward", "cost", "depth", "sequence", "replica"]
    return (
        outcomes.with_columns(reward=reward)
        .drop_nulls("reward")
        .sort(order, descending=[True, *[False] * 4], maintain_order=True)
        .unique("query_id", keep="first", maintain_order=True)
        .filter(pl.col("quality") > 0)
    )


def _usable(calls: pl.DataFrame) -> list[Row]:
    """Calls with their prompts as messages, in an order of their own."""
    ended = calls.filter(finish_reason="stop").filter(pl.col("reply") != "")
    rows = ended.sort("query_id", "trajectory_id", maintain_order=True).iter_rows(named=True)
    found = [row | {"prompt": messages_of(row["messages"])} for row in rows]
    return [row for row in found if row["prompt"]]


def _by_prompt(rows: list[Row]) -> dict[tuple[str, str], list[Row]]:
    """Replies by question and prompt, best first, each text once."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in sorted(rows, key=lambda row: (-row["quality"], row["arm"], row["sample"])):
        found.setdefault((row["query_id"], row["messages_id"]), {}).setdefault(row["reply"], row)
    return {key: list(found[key].values()) for key in sorted(found)}


def _pairs(replies: list[Row], margin: float) -> Iterator[Row]:
    best = replies[0]
    for other in replies[1:]:
        if best["quality"] - other["quality"] > margin:
            yield {
                "prompt": best["prompt"], "chosen": _said(best), "rejected": _said(other),
                "score_chosen": best["quality"], "score_rejected": other["quality"],
                "query_id": best["query_id"], "arm_chosen": best["arm"],
                "arm_rejected": other["arm"],
            }  # fmt: skip


def _said(row: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": row["reply"]}]


def _refuse_none(rows: list[Row], selection: Selection, what: str) -> None:
    if not rows:
        raise StoreError(
            f"{selection.store.path}: {selection.experiment} has {what}.",
            "Name other splits with --split, or sample several arms or replicas.",
        )


def _left_out(count: int) -> tuple[str, ...]:
    words = "calls left out, whose prompt is not known or whose reply is not whole"
    return (f"{count} {words}",) if count else ()
