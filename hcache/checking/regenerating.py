"""Generations made again with the models, and compared token by token with the stored ones.

Equal content has equal keys, and an engine is asked for the same key with the same seed. Where a
reply comes out otherwise, the versions and devices of then and now are told beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from hcache.checking.findings import OnProgress
from hcache.engines import Engine, EngineFactory, Generation, Request, make_engine
from hcache.experiment import Experiment
from hcache.models.arms import Arm
from hcache.store import Store
from hcache.store.checks import DRAWN
from hcache.workflows import Message


@dataclass
class Regenerated:
    """Outcome of making an arm's generations again."""

    arm: str
    equal: int = 0
    different: list[str] = field(default_factory=list)  # keys of generations
    first: str = ""  # where the first that differs does so
    changed: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Entries of provenance that differ between then and now, of generations that differ."""

    @property
    def made(self) -> int:
        """Generations that were made again."""
        return self.equal + len(self.different)

    def __str__(self) -> str:
        if not self.made:
            return f"{self.arm}: the database holds no generation of it"
        text = f"{self.arm}: {self.equal} of {self.made} generations are equal"
        if not self.different:
            return text
        changed = [f"{name} was {then}, is {now}" for name, (then, now) in self.changed.items()]
        why = "; ".join(changed) or "what is recorded of versions and device is the same"
        return f"{text}; {self.first}; {why}"


def regenerate(
    store: Store,
    experiment: Experiment,
    count: int,
    seed: int = 0,
    factory: EngineFactory = make_engine,
    on_progress: OnProgress = lambda what, done, total: None,
) -> Iterator[Regenerated]:
    """Make `count` stored generations of each arm again, drawn by `seed`; one model at a time.

    Raises:
        EngineError: a model cannot be loaded or has failed.
    """
    for arm in experiment.all_arms:
        drawn = store.sql(DRAWN, [arm.fingerprint, str(seed), count])
        found = Regenerated(arm.name)
        if len(drawn):
            engine = factory(arm, experiment.config.sampling.logprobs)
            try:
                _compare(engine, arm, drawn, found, on_progress)
            finally:
                engine.close()
        yield found


def _compare(
    engine: Engine, arm: Arm, drawn: pl.DataFrame, found: Regenerated, on_progress: OnProgress
) -> None:
    rows = {row["generation_id"]: row for row in drawn.iter_rows(named=True)}
    for row in rows.values():
        messages = tuple(Message(**message) for message in json.loads(row["messages"]))
        engine.submit(Request(row["generation_id"], arm, messages, "", row["sample"]))
    while found.made < len(rows):
        for again in engine.step():
            _judge(rows[again.key], again, engine.provenance | dict(again.facts), found)
            on_progress(arm.name, found.made, len(rows))


def _judge(
    row: dict[str, Any], again: Generation, provenance: dict[str, str], found: Regenerated
) -> None:
    token_ids = tuple(row["token_ids"])
    if (token_ids, row["text"], row["finish_reason"]) == (
        again.token_ids, again.text, again.finish_reason
    ):  # fmt: skip
        found.equal += 1
        return
    if not found.different:
        found.first = f"{again.key} differs {_where(token_ids, again.token_ids)}"
    found.different.append(again.key)
    then, now = _facts(json.loads(row["facts"])), _facts(provenance)
    if row["prompt_key"]:
        then, now = then | {"prompt": row["prompt_key"]}, now | {"prompt": again.prompt_key}
    for name in sorted(then.keys() & now.keys() - {"arguments.model"}):  # a path; files are keyed
        if then[name] != now[name]:
            found.changed[name] = then[name], now[name]


def _facts(provenance: Mapping[str, str]) -> dict[str, str]:
    """Provenance with each argument under a name of its own."""
    facts: dict[str, str] = {}
    for name, text in provenance.items():
        inner = json.loads(text) if text.startswith("{") else None
        if isinstance(inner, dict):
            facts |= {f"{name}.{key}": str(value) for key, value in inner.items()}
        else:
            facts[name] = text
    return facts


def _where(then: tuple[int, ...], now: tuple[int, ...]) -> str:
    if then == now:
        return "in its text alone"
    pairs = zip(then, now, strict=False)
    place = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(then), len(now)))
    return f"from token {place + 1} of {len(then)} on"
