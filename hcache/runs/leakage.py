"""Leakage: what questions a run was trained and selected on, and none of these to evaluate it on.

A run keeps the keys of these questions' wording in `queries.json`, with those of the run that it
started from. Splits may change afterwards; what a run has seen does not. A run from before that
file was kept has seen what its database holds, as long as its training data there are unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import TypeAdapter

from hcache.artefacts import refuse_endless
from hcache.config.schema import TrainConfig
from hcache.config.stored import stored_config
from hcache.data.queries import wording_key
from hcache.errors import HcacheError, RunError
from hcache.files import replace_file
from hcache.keys import digest
from hcache.replay.loading import load_replay
from hcache.runs.folder import Run
from hcache.store import Store
from hcache.store.queries import QUESTIONS_OF

REFUSED = {"train": (), "valid": ("train",), "test": ("train", "valid")}
"""Seen as what a question must not be evaluated as, by split: a split may be asked for by name."""

AGAIN = "Train it again on the splits as they are."

Asked = Mapping[str, str]
"""Questions by the key of their wording."""


@dataclass(frozen=True)
class Seen:
    """Keys of the questions that a run was trained and selected on."""

    train: frozenset[str]
    valid: frozenset[str]
    whole: bool = True  # False where it started from a run of which this is not known

    def of(self, split: str) -> frozenset[str]:
        """Keys of what it has seen as a split; none of test."""
        return {"train": self.train, "valid": self.valid}.get(split, frozenset())

    def with_start(self, start: Seen | None) -> Seen:
        """Together with what the run that it started from has seen, None if not known."""
        if start is None:
            return Seen(self.train, self.valid, whole=False)
        whole = self.whole and start.whole
        return Seen(self.train | start.train, self.valid | start.valid, whole)

    def to_dict(self) -> dict[str, Any]:
        """As JSON, in an order of its own."""
        return {"train": sorted(self.train), "valid": sorted(self.valid), "whole": self.whole}


SEEN = TypeAdapter(Seen)


def asked_of(db: Path, queries: Iterable[str]) -> dict[str, str]:
    """The questions of some queries, given by id, by the key of their wording."""
    chosen = pl.DataFrame({"query_id": list(queries)}, schema={"query_id": pl.String})
    with Store(db) as store:
        questions = store.sql(QUESTIONS_OF, chosen=chosen)["question"]
    return {wording_key(question): question for question in questions}


def seen_in(db: Path, queries: Mapping[str, Iterable[str]]) -> Seen:
    """Questions seen in training on queries of a database, given by split and id."""
    keys = {split: frozenset(asked_of(db, ids)) for split, ids in queries.items()}
    return Seen(keys["train"], keys["valid"])


def write_seen(run: Run, seen: Seen) -> str:
    """Keep with a run what it has seen; the digest that its manifest has."""
    text = json.dumps(seen.to_dict())
    replace_file(run.queries_file, text.encode())
    return digest(seen.to_dict())


def seen_of(run: Run) -> Seen | None:
    """Questions that a run has seen; None where that is not known any more.

    Raises:
        RunError: the run's list is missing or damaged.
    """
    if (known := run.manifest.get("queries")) is None:
        return _seen_before(run)
    try:
        refuse_endless(run.queries_file)
        seen = SEEN.validate_json(run.queries_file.read_bytes(), strict=True)
    except (OSError, ValueError) as error:
        raise _damaged(run) from error
    if digest(seen.to_dict()) != known:
        raise _damaged(run)
    return seen


def without_leakage(
    runs: Sequence[Run], db: Path, queries: Iterable[str], split: str
) -> tuple[list[Run], list[str]]:
    """The runs that may be evaluated on queries of a database, and what is to be said of the rest.

    Raises:
        RunError: there is but one run, and it must not.
    """
    asked = asked_of(db, queries) if runs else {}
    kept, refusals, unknown, in_sample = [], [], [], False
    for run in runs:
        try:
            seen = seen_of(run)
            refusal = _refusal(run, seen, asked, split)
        except RunError as error:
            refusal = RunError(f"{run.name}: {error.message}", error.hint)
        if refusal is not None:
            refusals.append(refusal)
            continue
        kept.append(run)
        unknown += [] if seen is not None and seen.whole else [run.name]
        in_sample |= seen is not None and not seen.of(split).isdisjoint(asked)
    if len(refusals) == len(runs) == 1:
        raise refusals[0]
    notes = [f"Left out: {refusal}" for refusal in refusals]
    if unknown and split != "train":
        notes.append(
            f"Whether they know questions of {split} cannot be checked, as they are of an older "
            f"version and their data have changed since; train them again: {', '.join(unknown)}."
        )
    if in_sample:
        how = {"train": "trained", "valid": "selected"}[split]
        notes.append(f"In-sample: routers were {how} on these questions.")
    return kept, notes


def refuse_leakage(runs: Iterable[Run], db: Path, queries: Iterable[str], split: str) -> None:
    """Refuse runs that must not be evaluated on queries of a database.

    Raises:
        RunError: naming the first of them, and why.
    """
    asked = asked_of(db, queries)
    for run in runs:
        if refusal := _refusal(run, seen_of(run), asked, split):
            raise refusal


def _refusal(run: Run, seen: Seen | None, asked: Asked, split: str) -> RunError | None:
    """The error of a run that must not be evaluated on questions as a split, if it must not."""
    if seen is None:
        return None
    shared = {s: sorted(seen.of(s) & asked.keys()) for s in REFUSED[split]}
    known = {key for keys in shared.values() for key in keys}
    if not known:
        return None
    how = " or ".join(
        {"train": "trained", "valid": "selected"}[s] for s, keys in shared.items() if keys
    )
    example = asked[min(known)][-80:]
    return RunError(
        f"{run.name}: it was {how} on {len(known)} of the {len(asked)} questions of {split}, "
        f"{example!r} among them.",
        AGAIN,
    )


def _seen_before(run: Run) -> Seen | None:
    """Questions that a run without a list has seen, from its database, if that has not changed."""
    data, init = run.manifest["identity"]["data"], run.manifest["init"]
    try:
        experiment = run.experiment()
        modified = experiment.db.stat().st_mtime_ns
        config = experiment.config.model_copy(update={"train": TrainConfig()}).model_dump_json()
        stored = {split: _stored(experiment.db, modified, config, split) for split in data}
        start = None if init is None else seen_of(Run(Path(init)))
    except (HcacheError, OSError):
        return None
    if any(stored[split][0] != fingerprint for split, fingerprint in data.items()):
        return None
    seen = seen_in(experiment.db, {split: queries for split, (_, queries) in stored.items()})
    return seen if init is None else seen.with_start(start)


@lru_cache(maxsize=16)
def _stored(db: Path, modified: int, config: str, split: str) -> tuple[str, tuple[str, ...]]:
    """Fingerprint and queries of a split as a database holds it; `modified` tells its states."""
    with Store(db) as store:
        loaded = load_replay(store, stored_config(json.loads(config)), split)
    return loaded.fingerprint, loaded.tree.queries


def _damaged(run: Run) -> RunError:
    return RunError(
        f"{run.queries_file} is missing or damaged, so that nothing says what it was trained on.",
        "Train it again.",
    )
