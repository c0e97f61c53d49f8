"""Bootstrap intervals over queries, and what they say about a router.

Queries are resampled with replacement; quantities that are compared are resampled together
(paired), since a router and a static sequence are evaluated on the same queries. A resample is a
vector of counts, one per query, so that every mean of every resample is one matrix product
(Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 6, 13 and 16).

Seeds are a second axis: with values [seeds, Q] the estimate is the mean over both, the interval
is over queries with the seeds averaged, and the spread over seeds is given with it.

Axes in names: B resamples, Q queries, V quantities. All sums are float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

CHUNK = 2_000_000  # counts held at once (16 MB)
ZERO = 1e-12  # a denominator this small is none
FEW = 10  # with fewer queries an interval decides nothing


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval; NaN where there is none, and `note` says why."""

    estimate: float
    low: float = math.nan
    high: float = math.nan
    spread: float = math.nan  # standard deviation over seeds; NaN with one seed
    note: str = ""


def bootstrap_mean(
    values: ArrayLike, *, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Mean of [Q] or [seeds, Q] values, with a percentile interval over queries.

    Raises:
        ValueError: if there are no values, or some are not finite.
    """
    values_SQ = _seeds_by_queries(values)
    draws_BV = resampled_means(values_SQ.mean(axis=0)[:, None], resamples, seed)
    return interval_of_mean(values_SQ, draws_BV[:, 0], level)


def bootstrap_difference(
    a: ArrayLike, b: ArrayLike, *, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Mean of a − b, paired by query; each is [Q] or [seeds, Q]."""
    difference = _seeds_by_queries(a) - _seeds_by_queries(b)
    return bootstrap_mean(difference, resamples=resamples, level=level, seed=seed)


def resampled_means(columns_QV: Array, resamples: int, seed: int) -> Array:
    """Means of V quantities in each of B resamples of the queries, [B, V].

    The draw of queries depends on Q, `resamples` and `seed` only, so calls with equal ones are
    paired.
    """
    queries = len(columns_QV)
    rng = np.random.default_rng(seed)
    means_BV = np.empty((resamples, columns_QV.shape[1]))
    rows = max(1, CHUNK // queries)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        means_BV[start : start + size] = _counts(rng, size, queries) @ columns_QV / queries
    return means_BV


def interval_of_mean(values_SQ: Array, draws_B: Array, level: float) -> Interval:
    """The interval of a mean from its resampled means."""
    estimate, spread = float(values_SQ.mean()), _spread(values_SQ.mean(axis=1))
    if values_SQ.shape[1] < 2:
        return Interval(estimate, spread=spread, note="one query has no interval")
    low, high = _percentiles(draws_B, level)
    return Interval(estimate, low, high, spread)


def interval_of_ratio(
    top_SQ: Array, bottom_Q: Array, top_B: Array, bottom_B: Array, level: float
) -> Interval:
    """The interval of a ratio of means from the resampled means of both.

    A ratio has no sensible interval once its denominator can be 0: if it is 0 within 1e-12, or
    has the other sign, in any resample, `low` and `high` are NaN and `note` says in how many. If
    it is 0 on the queries themselves, the estimate is NaN as well.
    """
    bottom = float(bottom_Q.mean())
    if abs(bottom) <= ZERO:
        return Interval(math.nan, note="the denominator is 0")
    ratio_S = top_SQ.mean(axis=1) / bottom
    estimate, spread = float(ratio_S.mean()), _spread(ratio_S)
    if top_SQ.shape[1] < 2:
        return Interval(estimate, spread=spread, note="one query has no interval")
    vanishing = float(np.mean(bottom_B * math.copysign(1.0, bottom) <= ZERO))
    if vanishing > 0:
        note = f"the denominator vanishes in {vanishing:.2%} of the resamples"
        return Interval(estimate, spread=spread, note=note)
    low, high = _percentiles(top_B / bottom_B, level)
    return Interval(estimate, low, high, spread)


def interval_of_draws(estimate: float, draws_B: Array, queries: int, level: float) -> Interval:
    """The percentile interval of any statistic from its values in the resamples."""
    if queries < 2:
        return Interval(estimate, note="one query has no interval")
    return Interval(estimate, *_percentiles(draws_B, level))


def smallest_effect(values_SQ: Array, level: float = 0.95, power: float = 0.8) -> float:
    """The smallest mean that a two-sided test at `level` would find with chance `power`.

    (z_{(1+level)/2} + z_power) · s / √Q, with s the standard deviation over queries of the seeds'
    mean (Cohen, Statistical Power Analysis, 1988, chapter 2). NaN with one query.
    """
    value_Q = values_SQ.mean(axis=0)
    if len(value_Q) < 2:
        return math.nan
    normal = NormalDist()
    factor = normal.inv_cdf((1 + level) / 2) + normal.inv_cdf(power)
    return factor * float(value_Q.std(ddof=1)) / math.sqrt(len(value_Q))


def verdict(difference: Interval, queries: int) -> str:
    """Answer to whether a paired difference is above 0: yes, no, or cannot tell."""
    if queries < FEW or math.isnan(difference.low):
        return "cannot tell"
    if difference.low > 0:
        return "yes"
    return "no" if difference.high <= 0 else "cannot tell"


def in_words(answer: str, difference: Interval) -> str:
    """A verdict with the 95% interval of the difference in reward that it rests on."""
    found = f"{answer} (difference in reward {difference.estimate:+.4f}"
    if math.isnan(difference.low):
        return f"{found})"
    return f"{found}, 95% interval {difference.low:+.4f} to {difference.high:+.4f})"


def _counts(rng: np.random.Generator, resamples: int, queries: int) -> Array:
    """Draws of each query in each resample: multinomial counts, [resamples, Q]."""
    drawn = rng.integers(queries, size=(resamples, queries))
    drawn += np.arange(resamples)[:, None] * queries
    counts = np.bincount(drawn.ravel(), minlength=resamples * queries)
    return counts.reshape(resamples, queries).astype(np.float64)


def _seeds_by_queries(values: ArrayLike) -> Array:
    values_SQ = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if values_SQ.ndim != 2 or values_SQ.size == 0:
        raise ValueError(f"values have shape {np.shape(values)}; they must be [Q] or [seeds, Q]")
    if not np.isfinite(values_SQ).all():
        raise ValueError("values hold NaN or infinity; leave queries without an outcome out")
    return values_SQ


def _percentiles(draws_B: Array, level: float) -> tuple[float, float]:
    tail = (1 - level) / 2
    low, high = np.quantile(draws_B, [tail, 1 - tail])
    return float(low), float(high)


def _spread(mean_S: Array) -> float:
    return float(mean_S.std(ddof=1)) if len(mean_S) > 1 else math.nan
