"""Result of an importer: questions and cells as frames, the same for every format.

A cell is one call: on a question, of the last arm of a sequence, with the calls before it as cells
of their own. A score of null is a hole: the outcome was not recorded. A cell with a `failure` is no
outcome either, whatever its score says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from hcache.plugins import Registry

TEXT = pl.String

QUESTIONS: dict[str, Any] = {
    "id": TEXT,  # by which cells name it; of this recording alone
    "dataset": TEXT,
    "question": TEXT,
    "references": pl.List(TEXT),
    "kind": TEXT,
    "item": TEXT,  # its own name in the source; null where the source gives none
    "split": TEXT,  # null where the source does not say
}
CELLS: dict[str, Any] = {
    "id": TEXT,
    "sequence": pl.List(TEXT),
    "sample": pl.Int32,  # which of several calls with the same sequence, from 0
    "reply": TEXT,  # null where it was not recorded
    "score": pl.Float64,
    "cost": pl.Float64,  # of this call alone
    "prompt_tokens": pl.Int64,
    "output_tokens": pl.Int64,
    "failure": TEXT,  # why there is no outcome
    "file": TEXT,
    "row": pl.Int64,  # in the file, from 1; a header is row 1
}


@dataclass(frozen=True)
class Evaluation:
    """Scoring of a data set's answers anew: by an extractor and a metric."""

    extract: str
    metric: str


@dataclass(frozen=True)
class Own:
    """Facts that hcache knew of outcomes when it wrote them."""

    arms: tuple[str, ...]  # in their order
    sequences: tuple[tuple[str, ...], ...]  # that could be chosen, whether or not they were made


@dataclass(frozen=True)
class Recording:
    """Content of files, with nothing made of it yet; columns that a format lacks are null."""

    source: str  # whose arms these are: the same name there is the same arm
    questions: pl.DataFrame
    cells: pl.DataFrame
    unit: str = "USD"  # of the costs
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)  # by data set
    notes: tuple[str, ...] = ()
    own: Own | None = None  # of what hcache itself has written: names and replies are sound

    def __post_init__(self) -> None:
        object.__setattr__(self, "questions", _whole(self.questions, QUESTIONS))
        object.__setattr__(self, "cells", _whole(self.cells, CELLS))


Importer = Callable[..., Recording]
"""(paths, **options) to what they say."""
IMPORTERS: Registry[Importer] = Registry("format", "hcache.importers")


def _whole(frame: pl.DataFrame, schema: Mapping[str, Any]) -> pl.DataFrame:
    """The columns of a schema, in its order; those that are missing are null."""
    return frame.select(
        (pl.col(name) if name in frame.columns else pl.lit(None)).cast(kind).alias(name)
        for name, kind in schema.items()
    )
