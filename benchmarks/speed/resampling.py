"""Paired bootstrap of routers, beside a loop in NumPy and SciPy's function.

Intervals of the differences from the first router. The slow ones draw fewer resamples, rates are
scaled, and the ends of their intervals must agree up to Monte Carlo error.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from scipy.stats import bootstrap

from hcache.evaluation.statistics import LEVEL, Array, resampled_means

from .contest import Action, Figures, contest

ROUTERS, QUERIES, RESAMPLES, FEWER = 20, 5000, 10_000, 500
ENDS = (1 - LEVEL) / 2, (1 + LEVEL) / 2
# Standard error of such a quantile of 500 normal draws, in standard deviations, from its density.
ERROR = (ENDS[0] * ENDS[1] / FEWER) ** 0.5 / 0.0584
MOST = 5 * ERROR


def rows(rounds: int, work: Path) -> list[Figures]:
    """Resamples of all routers per second."""
    value_QR = np.random.default_rng(0).random((QUERIES, ROUTERS))
    value_QR[:, 1:] = 0.7 * value_QR[:, :1] + 0.3 * value_QR[:, 1:]  # routers agree in part
    ways = {"hcache": (ours, RESAMPLES), "a NumPy loop": (loop, FEWER), "SciPy": (scipy_s, FEWER)}
    ends = {name: way(value_QR, count) for name, (way, count) in ways.items()}
    error_R = (value_QR[:, 1:] - value_QR[:, :1]).std(axis=0) / QUERIES**0.5
    apart = {
        name: float((np.abs(found - ends["hcache"]) / error_R).max())
        for name, found in ends.items()
    }
    assert max(apart.values()) < MOST, f"intervals differ by {apart} standard errors"
    actions: dict[str, Action] = {
        f"{name}, {count:,} resamples": partial(played, way, value_QR, count)
        for name, (way, count) in ways.items()
    }
    found = contest("resampling", "resamples/s", actions, rounds)
    return [row | {"ends apart, in standard errors": apart} for row in found]


def played(way: object, value_QR: Array, count: int) -> float:
    """Resamples that were drawn."""
    assert callable(way)
    way(value_QR, count)
    return float(count)


def ours(value_QR: Array, resamples: int) -> Array:
    """Ends of the intervals of the differences, [2, R − 1], by hcache."""
    mean_BR = resampled_means(value_QR, resamples, seed=1)
    return quantiles(mean_BR)


def loop(value_QR: Array, resamples: int) -> Array:
    """The same, a resample at a time."""
    rng = np.random.default_rng(2)
    means = [value_QR[rng.integers(QUERIES, size=QUERIES)].mean(axis=0) for _ in range(resamples)]
    return quantiles(np.array(means))


def scipy_s(value_QR: Array, resamples: int) -> Array:
    """The same by SciPy, on the differences."""
    found = bootstrap(
        ((value_QR[:, 1:] - value_QR[:, :1]).T,),
        np.mean,
        axis=-1,
        n_resamples=resamples,
        batch=20,
        method="percentile",
        confidence_level=LEVEL,
        rng=np.random.default_rng(3),
    )
    return np.array(found.confidence_interval)


def quantiles(mean_BR: Array) -> Array:
    """Ends of the intervals of the differences from the first router, [2, R − 1]."""
    ends: Array = np.quantile(mean_BR[:, 1:] - mean_BR[:, :1], ENDS, axis=0)
    return ends
