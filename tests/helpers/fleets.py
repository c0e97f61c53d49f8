"""Experiments whose scripted models load something, and so run in workers (`weighty.py`)."""

from __future__ import annotations

import json

from hcache.experiment import Experiment
from helpers.experiments import SPLITS, Raw, settings, table
from helpers.paths import ROOT

PLUGIN = ROOT / "tests/helpers/weighty.py"
ALL = sum(SPLITS.values()) * 6  # generations of two arms and two hops


def weighty(workers: int | str = 2, schedule: str = "resident", **how: object) -> Raw:
    """Settings whose models load something, and behave as `how` says."""
    sampling = {"workers": workers, "schedule": schedule}
    raw = settings("ab", plugins=[str(PLUGIN)], sampling=sampling)
    for model in raw["models"].values():
        model |= {"engine": "weighty", "engine_args": how}
    return raw


def processes(experiment: Experiment) -> set[int]:
    """The processes that have answered, by provenance."""
    facts = table(experiment.db, "provenance")["facts"]
    return {int(json.loads(each)["process"]) for each in facts}
