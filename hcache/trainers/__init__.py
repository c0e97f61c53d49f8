"""Trainers: one algorithm a file, one loop for all.

A trainer is one file in this folder with a class under `@register("name")`, its settings beside
it; every module here is imported with the package, so nothing else needs an edit. A router that
needs a policy of its own kind has it in the same file, under `hcache.policies.register`.
"""

from __future__ import annotations

import importlib
import pkgutil

from hcache.trainers.base import TRAINERS, Trainer, greedy_metrics, register
from hcache.trainers.loop import Fitted, OnMetrics, fit

__all__ = ["TRAINERS", "Fitted", "OnMetrics", "Trainer", "fit", "greedy_metrics", "register"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
