"""Trainers: one algorithm a file, one loop for all.

A trainer is one file in this folder with a class under `@TRAINERS.register("name")`, its settings
with it; every module here is imported with the package, so nothing else needs an edit.
"""

from hcache.plugins import load_package
from hcache.trainers.base import TRAINERS, Trainer, greedy_metrics
from hcache.trainers.loop import Fitted, OnMetrics, fit

__all__ = ["TRAINERS", "Fitted", "OnMetrics", "Trainer", "fit", "greedy_metrics"]

load_package(__name__, __path__)
