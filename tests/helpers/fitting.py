"""Fitting any trainer on small synthetic trees, for tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from hcache.replay.tree import Tree
from hcache.trainers import TRAINERS, Fitted, fit
from helpers.forest import synthetic_forest

ALPHA = 0.02
torch.set_num_threads(1)


@cache
def small(split: str) -> Tree:
    seeds = {"train": 1, "valid": 2, "test": 3}
    return synthetic_forest(16, seed=seeds[split], features=16, hops=2, prefix=split)


NAMES = sorted(name for name in TRAINERS if not TRAINERS[name].unfit(small("train")))
"""Trainers that need no more than such trees; those that read have tests of their own."""


def run(
    trainer: Any, iterations: int = 6, on_metrics: Callable[..., None] | None = None, **options: Any
) -> tuple[Fitted, list[dict[str, float]]]:
    lines: list[dict[str, float]] = []

    def record(metrics: dict[str, float]) -> None:
        lines.append(metrics)
        if on_metrics:
            on_metrics(metrics)

    defaults: dict[str, Any] = {"evaluate_every": 2, "patience": 0}
    fitted = fit(
        trainer, small("valid"), iterations=iterations, on_metrics=record, **defaults | options
    )
    return fitted, lines


def fresh(name: str, seed: int = 0, **values: Any) -> Any:
    cls = TRAINERS[name]
    return cls(small("train"), cls.Settings(**values), alpha=ALPHA, seed=seed)


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
