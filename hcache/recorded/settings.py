"""The experiment that an import is: its settings, and the file in which people change them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hcache.data.metrics import RECORDED
from hcache.data.visible import one_line
from hcache.files import replace_file
from hcache.recorded.cells import Checked
from hcache.recorded.recording import Evaluation

HEAD = """\
# Outcomes that others have recorded, in {db}: the experiment that `hcache import` has made of
# them. Change what you like below, as in any experiment (docs/experiment.md): fewer arms, another
# alpha, `cost: tokens` with prices. What was recorded stays in the database.
# {unit}
"""
STATED = "Costs are as recorded, in {unit}, and so is the C of R = Q - alpha * C."
COUNTED = """\
No costs were recorded: C of R = Q - alpha * C is made of tokens, at 1 for 1,000 of them, unless
# `arms.NAME.price` says what those of a model cost."""


def settings_of(
    checked: Checked, name: str, db: Path, splits: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Settings of the experiment; `splits` are those that each data set has."""
    recording = checked.recording
    source = recording.source
    drawn = {"temperature": 1.0} if checked.samples > 1 else {}
    priced = recording.cells["cost"].is_not_null().any()
    return {
        "name": name,
        "db": str(db),
        "workflow": _workflow(checked),
        "models": {
            arm: {"path": there, "engine": RECORDED, "engine_args": {"source": source}}
            for there, arm in checked.arms.items()
        },
        "arms": {arm: {"model": arm, **drawn} for arm in checked.arms.values()},
        "data": {
            dataset: _data(name, db, recording.evaluations.get(dataset), own)
            for dataset, own in splits.items()
        },
        "quality": RECORDED,
        "cost": "recorded" if priced else "tokens",
        "sampling": {"replicas": checked.samples},
    }


def _workflow(checked: Checked) -> dict[str, Any]:
    sequences = sorted([checked.arms[arm] for arm in found] for found in _sequences(checked))
    hops = max(map(len, sequences), default=1)
    if hops == 1:
        return {"name": RECORDED}
    return {"name": RECORDED, "hops": hops, "sequences": sequences}


def _sequences(checked: Checked) -> Sequence[Sequence[str]]:
    """Sequences that can be chosen: those that a source says there are, or those with a score."""
    if (own := checked.recording.own) is not None:
        return own.sequences
    cells = checked.recording.cells
    scored = cells.filter(cells["score"].is_not_null())["sequence"]
    return list(scored.unique(maintain_order=True).to_list())


def _data(
    name: str, db: Path, evaluation: Evaluation | None, splits: Sequence[str]
) -> dict[str, Any]:
    again = {} if evaluation is None else {"extract": evaluation.extract}
    return {
        "reader": RECORDED,
        "options": {"experiment": name},
        "sources": {split: {"path": db.name} for split in splits},
        **again,
        "metrics": [RECORDED, *([] if evaluation is None else [evaluation.metric])],
        "on_duplicate": "drop",
    }


def write_settings(file: Path, raw: Mapping[str, Any], unit: str) -> bool:
    """Write the experiment file, unless there is one, which stays; whether it was written.

    `unit` is that of the costs that were recorded.
    """
    if file.exists():
        return False
    text = yaml.safe_dump(dict(raw), sort_keys=False, allow_unicode=True, width=100)
    said = STATED.format(unit=one_line(unit)) if raw["cost"] == "recorded" else COUNTED
    replace_file(file, (HEAD.format(db=raw["db"], unit=said) + text).encode())
    return True
