"""Adaptive anytime routing on GSM8K: up to four calls of one model, and a stop after any of them.

Files `dev.jsonl` and `test.jsonl` of one seed, a row for each question and call `t`. What a call
used was not recorded, only the budget of new tokens that it had: that is its cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from hcache.errors import DataError
from hcache.recorded.files import defect, find_files, need, number, read_table
from hcache.recorded.recording import IMPORTERS, TEXT, Evaluation, Recording

SPLITS = {"dev.jsonl": "train/train/train/valid", "test.jsonl": "test"}
COLUMNS = ("uid", "t", "max_new_tokens", "problem", "gold", "raw_text", "correct")
MOST_CALLS = 8


@IMPORTERS.register("anytime_gsm8k")
def anytime_gsm8k(paths: Sequence[Path], *, model: str = "student") -> Recording:
    """The splits of one seed: name its folder, as in data/router_splits_seeds/seed0."""
    files = [file for file in find_files(paths, "*.jsonl") if file.name in SPLITS]
    if not files:
        raise DataError(f"{paths[0]}: has no {' or '.join(SPLITS)}.", "Correct the path.")
    if len({file.parent for file in files}) > 1:
        folders = sorted({file.parent.name for file in files})
        raise DataError(
            f"{paths[0]}: there are {len(folders)} splits of the same questions "
            f"({', '.join(folders)}).",
            "Name the folder of one seed.",
        )
    cells = pl.concat([_cells(file, model) for file in files], how="diagonal_relaxed")
    return Recording(
        "anytime_gsm8k", cells, cells, "budgeted tokens", {"gsm8k": Evaluation("number", "numeric")}
    )


def _cells(file: Path, model: str) -> pl.DataFrame:
    table = read_table(file)
    need(table, COLUMNS, file)
    call = number(table, "t")
    wrong = table.filter((call < 1) | (call > MOST_CALLS) | (call % 1 != 0) | call.is_null())
    if len(wrong):
        raise defect(wrong, f"t is {wrong['t'][0]}, no number of a call from 1 to {MOST_CALLS}")
    return table.with_columns(
        id=pl.col("uid").cast(TEXT),
        item=pl.col("uid").cast(TEXT),
        dataset=pl.lit("gsm8k"),
        question=pl.col("problem"),
        references=pl.concat_list(pl.col("gold").cast(TEXT)),
        split=pl.lit(SPLITS[file.name]),
        sequence=pl.lit(model).repeat_by(call.cast(pl.Int64)),
        sample=0,
        reply=pl.col("raw_text").fill_null(""),
        score=number(table, "correct"),
        cost=number(table, "max_new_tokens"),
    )
