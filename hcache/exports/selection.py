"""Input and output of an exporter: a selection of stored outcomes, and files made of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

import polars as pl

from hcache.config.schema import ExperimentConfig
from hcache.config.stored import stored_config
from hcache.errors import ConfigError, StoreError
from hcache.plugins import Registry
from hcache.store import Store
from hcache.store.exporting import CALLS_OF, exported

Encode = Callable[[pl.DataFrame], bytes]
QUESTIONS = ("item", "question", "references")
"""Columns that only leave the database where somebody says that they may."""
ROLES = frozenset({"system", "user", "assistant"})


@dataclass(frozen=True)
class Export:
    """Output: the content of a file, or of the files of a folder by their paths in it."""

    content: bytes | Mapping[str, bytes]
    said: str  # what it is, in words: "12 trajectories of demo"
    notes: tuple[str, ...] = ()


Exporter = Callable[..., Export]
"""(selection, out, **options) to what goes out; `out` is only asked for its name."""
EXPORTERS: Registry[Exporter] = Registry("format", "hcache.exporters")


@dataclass(frozen=True)
class Selection:
    """Outcomes of one experiment that may leave its database."""

    store: Store
    experiment: str
    splits: tuple[str, ...] = ()  # none: those that the format takes by itself
    questions: bool = False

    @cached_property
    def config(self) -> ExperimentConfig:
        """The settings of the experiment as they were stored.

        Raises:
            StoreError: they are none that this version knows.
        """
        [text] = self.store.rows_of("experiments", self.experiment)["config"]
        try:
            return stored_config(json.loads(text))
        except ValueError as error:  # also pydantic's
            raise StoreError(
                f"{self.store.path}: the settings of {self.experiment} are not of this version.",
                "Run `hcache sample` with its file again; it generates what is missing alone.",
            ) from error

    def require_questions(self, kind: str) -> None:
        """Refuse a format that is made of prompts where these have to stay.

        Raises:
            ConfigError: nobody has said that questions may leave.
        """
        if not self.questions:
            raise ConfigError(
                f"format {kind!r} is made of questions, whose licence may forbid copies.",
                "Where it does not, say so with --questions.",
            )

    def outcomes(self, splits: Sequence[str] = ()) -> pl.DataFrame:
        """Every trajectory, see `exported`; of these splits where the selection names none.

        Raises:
            StoreError: there are none.
        """
        frame = self.store.sql(exported(self.store.metrics()), [self.experiment])
        if chosen := self.splits or splits:
            frame = frame.filter(pl.col("split").is_in(chosen))
        if frame.is_empty():
            where = f" in split {', '.join(chosen)}" if chosen else ""
            raise StoreError(
                f"{self.store.path} holds no trajectories of {self.experiment}{where}.",
                "Fill it with: hcache sample EXPERIMENT.yaml",
            )
        return frame

    def calls(self, outcomes: pl.DataFrame, last: bool = False) -> pl.DataFrame:
        """Calls of the pool in these trajectories, all or the last of each; see `CALLS_OF`."""
        chosen = outcomes.select("trajectory_id")
        return self.store.sql(CALLS_OF, [self.experiment, last], chosen=chosen)


def messages_of(text: str) -> list[dict[str, str]]:
    """The messages of a prompt; none where the roles are not those of a chat."""
    messages: list[dict[str, str]] = json.loads(text)
    return messages if all(message["role"] in ROLES for message in messages) else []


def encoder(out: Path) -> Encode:
    """The form of a file of rows, by the ending of its name.

    Raises:
        ConfigError: there is none for it.
    """
    if out.suffix not in FORMS:
        raise ConfigError(f"{out}: unknown format {out.suffix!r}.", f"Known: {', '.join(FORMS)}.")

    def encode(frame: pl.DataFrame) -> bytes:
        data = BytesIO()
        FORMS[out.suffix](frame, data)
        return data.getvalue()

    return encode


FORMS: dict[str, Callable[[pl.DataFrame, BytesIO], None]] = {
    ".jsonl": pl.DataFrame.write_ndjson,
    ".parquet": pl.DataFrame.write_parquet,
}
