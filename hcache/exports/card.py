"""The card of a folder of outcomes: a header for programs, a page for people.

Nothing of the machine is in it: no key, no value of the environment, no address, and of a model's
folder its name alone. Names that others chose stand in YAML, which quotes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import polars as pl
import yaml

import hcache
from hcache.config.schema import ArmConfig, ModelConfig
from hcache.data.metrics import RECORDED
from hcache.data.visible import one_line
from hcache.exports.selection import Selection
from hcache.recorded.huggingface import KEY, Facts, Scoring
from hcache.store.digest import content_digest
from hcache.store.exporting import MADE_BY, OFFERED, UNIT

OPEN = ("engine", "vllm", "torch", "device", "hcache", "format", "source", "commit")
"""Entries of a provenance that a card repeats."""
PRICED = "units of the prices"
PAGE = """\
---
{header}---

# Outcomes of {arms} language models on {queries} questions

A row is a trajectory: who was called on a question, what was said (`steps`), how good the answer
was (`quality`) and what it took (`cost`, tokens). Made with hcache {version}.

```python
from datasets import load_dataset

outcomes = load_dataset("FOLDER")
```

{again}

## What they were made by

````yaml
{facts}````

## Columns

- `split`, `dataset`, `kind`, `query_id`, and with them `item`, `question` and `references` where
  the folder has them: the question, its own name where its source gives one, and reference answers.
- `trajectory_id`, `replica`, `sequence`, `depth`: the arms chosen, in order; replicas are draws.
- `steps`: each call with its arm, role, reply, tokens, reason to end, cost, and the decision
  (`hop`) that it follows. A reply with the reason `unrecorded` is not known.
- `answer`, `quality`, a column for each metric: what was taken out of the last reply, its scores.
"""
AGAIN = """\
The same trees, to train and evaluate routers on: `hcache import hf FOLDER --db mine.duckdb`."""
WITHOUT = """\
Questions, references and prompts are left out, whose licence may forbid copies."""


def card(selection: Selection, parts: Mapping[str, pl.DataFrame], license: str) -> str:
    """The text of a card of these rows by split, whose file is that of `file_of`."""
    config = selection.config
    facts = _facts(selection)
    files = [{"split": split, "path": file_of(split)} for split in parts]
    splits = [
        {"name": split, "num_bytes": rows.estimated_size(), "num_examples": len(rows)}
        for split, rows in parts.items()
    ]
    header = {
        "license": license,
        "pretty_name": config.name,
        "tags": ["llm-routing", KEY],
        "configs": [{"config_name": "default", "data_files": files}],
        "dataset_info": {"features": features(next(iter(parts.values()))), "splits": splits},
        KEY: facts.model_dump(mode="json"),
    }
    return PAGE.format(
        header=_yaml(header),
        arms=len(facts.arms),
        queries=sum(rows["query_id"].n_unique() for rows in parts.values()),
        version=hcache.__version__,
        again=AGAIN if selection.questions else WITHOUT,
        facts=_yaml(_made_by(selection, facts.arms)),
    )


def file_of(split: str) -> str:
    """The file of a split, by its path in the folder."""
    return f"data/{split}-00000-of-00001.parquet"


def features(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Columns and their types as the header of a card states them."""
    return [{"name": name, **_feature(kind)} for name, kind in frame.schema.items()]


def _feature(kind: Any) -> dict[str, Any]:
    if isinstance(kind, pl.Struct):
        return {"struct": [{"name": part.name, **_feature(part.dtype)} for part in kind.fields]}
    if isinstance(kind, pl.List):
        [inner] = _feature(kind.inner).values()
        return {"list": inner}
    return {"dtype": str(kind).lower()}


def _facts(selection: Selection) -> Facts:
    config, store = selection.config, selection.store
    unit = store.sql(UNIT, [config.name]).item() if config.cost == RECORDED else None
    arms = dict(store.pool(config.name).select("arm_id", "name").iter_rows())
    return Facts(
        experiment=config.name,
        arms=tuple(arms.values()),
        sequences=tuple(_sequences(selection, arms)),
        unit=unit or PRICED,
        digest=content_digest(store).digest,
        scoring={
            name: Scoring(extract=data.extract, metrics=data.metrics)
            for name, data in config.data.items()
        },
    )


def _sequences(selection: Selection, arms: Mapping[str, str]) -> list[str]:
    """Sequences of arms that could be chosen: up to a STOP, or to a call that is the last."""
    offered = selection.store.sql(OFFERED, [selection.experiment, list(arms)]).rows()
    paths = {tuple(path) for path, _, _ in offered}
    ends = {tuple(path) for path, _, stop in offered if stop}
    calls = {(*path, arm) for path, actions, _ in offered for arm in actions if arm in arms}
    return sorted(">".join(arms[arm] for arm in path) for path in ends | (calls - paths))


def _made_by(selection: Selection, arms: Sequence[str]) -> dict[str, Any]:
    """Arms with their models and settings, and where their generations are from."""
    config = selection.config
    made = selection.store.sql(MADE_BY, [config.name]).iter_rows(named=True)
    return {
        "workflow": config.workflow["name"],
        "arms": {
            name: _arm(config.arms[name], config.models[config.arms[name].model]) for name in arms
        },
        "generations": [
            {"from": row["first"], "to": row["last"], **_said(row["facts"])} for row in made
        ],
    }


def _arm(arm: ArmConfig, model: ModelConfig) -> dict[str, Any]:
    """The settings of an arm without those of its machine and without its prompts."""
    path = PurePath(model.path)
    sampled = arm.model_dump(mode="json", include={"max_tokens", "temperature", "top_p"})
    sampled["price"] = arm.price.model_dump(mode="json", include={"input", "output", "per"})
    return {
        "model": path.name if path.is_absolute() else model.path,
        "engine": model.engine,
        **({} if model.engine == RECORDED else {"dtype": model.dtype, **sampled}),
    }


def _said(facts: str) -> dict[str, str]:
    """The part of a provenance that may be repeated."""
    found = json.loads(facts)
    return {key: one_line(str(found[key])) for key in OPEN if found.get(key)}


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
