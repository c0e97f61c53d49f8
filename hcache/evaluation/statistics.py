"""Intervals and verdicts that carry both seeds and queries.

A router in S seeds on Q queries gives a table of values [S, Q], crossed: every seed meets the same
queries. What is estimated is the mean over new seeds *and* new queries, under
x_sq = μ + seed_s + query_q + rest_sq. With the mean squares of the two-way layout (Searle, Casella
and McCulloch, Variance Components, 1992, chapter 4)

    V_seeds = variance of the S means / S         V_queries = variance of the Q means / Q
    V_rest  = mean square of the rest / (S Q)     V = V_seeds + max(0, V_queries − V_rest)

V estimates the variance of the mean. Of V the part w = V_seeds / V rests on S − 1 degrees of
freedom and the other on those of the queries, so |mean − μ| / √V = T has the p-value

    p(T) = w · P(|t_{S−1}| > T) + (1 − w) · P(|t_ν| > T)

the two t-tests mixed by what each contributes: Cochran and Cox's solution of the Behrens–Fisher
problem with tail probabilities in place of quantiles, which holds its level in far tails as well.
It is never less than that of the t-test over queries, T = |mean − μ| / √V_queries with ν degrees:
few differences make ties, and seeds that happen to have the same mean do not show that seeds do
not vary. An interval is where p is not below 1 − level, so intervals and verdicts never disagree.
Where seeds are equal, or there is one alone, both tests are the same. ν is Q − 1 for normal
values and less for sparse ones, whose variance is less well known: Var(s²) = σ⁴ (2 / (Q − 1) +
(κ − 3) / Q), as that of a chi-square with ν = 2 / (2 / (Q − 1) + max(0, κ − 3) / Q) degrees.
docs/statistics.md has the coverage.

Ratios are inverted by Fieller's theorem: r is inside where 0 is inside for top − r · bottom. What
is no mean (AIQ) takes its components from resampled queries (Efron and Tibshirani, An Introduction
to the Bootstrap, 1993).

Axes in names: B resamples, S seeds, Q queries, V quantities, R routers. All sums are float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import stdtr, stdtrit

Array = NDArray[np.float64]

LEVEL = 0.95
CHUNK = 2_000_000  # counts held at once (16 MB)
ZERO = 1e-12  # a difference this small is none
FEW = 30  # with fewer queries nothing is said

BETTER, WORSE, EQUAL = "better", "worse", "equal"
CANNOT_TELL, TOO_FEW, TWO_SEEDS = "cannot tell", "too few queries", "too few seeds"

ONE_QUERY = "one query has no interval"
VANISHES = "the interval of its denominator includes 0"


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval; NaN where there is none, and `note` says why."""

    estimate: float
    low: float = math.nan
    high: float = math.nan
    spread: float = math.nan  # standard deviation over seeds; NaN with one seed
    note: str = ""

    @property
    def excludes_zero(self) -> bool:
        """True if it lies on one side of 0; False where there is none."""
        return self.low > ZERO or self.high < -ZERO


@dataclass(frozen=True)
class Variance:
    """Variance of a mean by its two parts, each with its degrees of freedom."""

    seeds: float
    queries: float
    same_seeds: float  # of the mean of these very seeds over new queries
    seed_degrees: float
    query_degrees: float

    def p_value(self, distance: float) -> float:
        """Two-sided p-value of an estimate that lies so far from the mean assumed."""
        of_queries = _two_sided(distance, self.same_seeds, self.query_degrees)
        return max(of_queries, self._mixed(distance))

    def reach(self, level: float) -> float:
        """Largest distance whose p-value is not below 1 − level."""
        t_seeds, t_queries = (-float(stdtrit(df, (1 - level) / 2)) for df in self._degrees)
        of_queries = t_queries * math.sqrt(self.same_seeds)
        error = math.sqrt(self.seeds + self.queries)
        low, high = sorted((t_seeds * error, t_queries * error))
        if high <= of_queries or high - low <= ZERO * error:
            return max(high, of_queries)
        # Rounding may put the root an ulp beyond an end.
        ends = (1 - 1e-6) * low, (1 + 1e-6) * high
        return max(of_queries, float(brentq(lambda d: self._mixed(d) - (1 - level), *ends)))

    @property
    def _degrees(self) -> tuple[float, float]:
        return self.seed_degrees if self.seeds > 0 else self.query_degrees, self.query_degrees

    def _mixed(self, distance: float) -> float:
        """The t-tests with the degrees of seeds and of queries, mixed by their parts."""
        whole = self.seeds + self.queries
        share = self.seeds / whole if whole else 0.0
        by_seeds, by_queries = (_two_sided(distance, whole, df) for df in self._degrees)
        return share * by_seeds + (1 - share) * by_queries


def _two_sided(distance: float, variance: float, degrees: float) -> float:
    """P-value of Student's t-test; without variance any distance is too far."""
    if variance == 0:
        return float(abs(distance) <= ZERO)
    return 2 * float(stdtr(degrees, -abs(distance) / math.sqrt(variance)))


def interval_of_mean(values: ArrayLike, level: float = LEVEL) -> Interval:
    """Mean of [Q] or [S, Q] values; the interval is over queries, and over seeds where several.

    Raises:
        ValueError: if there are no values, or some are not finite.
    """
    values_SQ = _seeds_by_queries(values)
    estimate, spread = float(values_SQ.mean()), _spread(values_SQ.mean(axis=1))
    if values_SQ.shape[1] < 2:
        return Interval(estimate, spread=spread, note=ONE_QUERY)
    reach = variance_of_mean(values_SQ).reach(level)
    return Interval(estimate, estimate - reach, estimate + reach, spread)


def interval_of_ratio(top: ArrayLike, bottom: ArrayLike, level: float = LEVEL) -> Interval:
    """mean(top) / mean(bottom), paired by query; `top` is [Q] or [S, Q], `bottom` [Q].

    No number, and a note, unless the interval of the denominator is on one side of 0.

    Raises:
        ValueError: if there are no values, or some are not finite.
    """
    top_SQ, bottom_1Q = _seeds_by_queries(top), _seeds_by_queries(bottom)
    under = interval_of_mean(bottom_1Q, level)
    if not under.excludes_zero:
        return Interval(math.nan, note=under.note or VANISHES)
    ratio_S = top_SQ.mean(axis=1) / under.estimate
    ratio, spread = float(ratio_S.mean()), _spread(ratio_S)
    parts = _Parts.of(top_SQ - ratio * bottom_1Q)
    second, fourth = (_moment(parts.value_Q, bottom_1Q[0], order) for order in (2, 4))

    def excess(beyond: float) -> float:
        """P-value of the ratio so far beyond the estimate, less that of the level."""
        variance = parts.variance(second(beyond), fourth(beyond))
        return variance.p_value(under.estimate * beyond) - (1 - level)

    step = parts.own.reach(level) / abs(under.estimate)
    low, high = (ratio + _last_above_zero(excess, sign * step) for sign in (-1, 1))
    return Interval(ratio, low, high, spread)


def interval_of_draws(
    estimate: float, value_S: Array, draws_BS: Array, queries: int, level: float = LEVEL
) -> Interval:
    """The interval of any statistic from its value in each seed, and that in resamples of queries.

    `draws_BS` are the statistic of each seed in the same resamples. The components of variance are
    those of a mean: the seeds', that of the seeds' mean over resamples, and what is left.
    """
    spread = _spread(value_S)
    if queries < 2:
        return Interval(estimate, spread=spread, note=ONE_QUERY)
    seeds = len(value_S)
    by_queries = _or_zero(float(draws_BS.mean(axis=1).var(ddof=1)))
    by_seeds = spread**2 / seeds if seeds > 1 else 0.0
    # A seed alone varies by (query + rest) / Q, the mean of seeds by (query + rest / S) / Q.
    own = float(draws_BS.var(axis=0, ddof=1).mean())
    rest = max(0.0, own - by_queries) / (seeds - 1) if seeds > 1 else 0.0
    new_queries = max(0.0, by_queries - rest)
    variance = Variance(by_seeds, new_queries, by_queries, seeds - 1, queries - 1)
    reach = variance.reach(level)
    return Interval(estimate, estimate - reach, estimate + reach, spread)


def variance_of_mean(values_SQ: Array) -> Variance:
    """Variance of the mean of crossed values over new seeds and new queries; Q is 2 or more."""
    return _Parts.of(values_SQ).own


@dataclass(frozen=True)
class _Parts:
    """A crossed table: V_seeds, V_rest, and the means of the queries."""

    seeds: float
    rest: float
    seed_degrees: int
    value_Q: Array  # mean over seeds, less the mean of all

    @classmethod
    def of(cls, values_SQ: Array) -> _Parts:
        seeds, queries = values_SQ.shape
        mean_S, mean_Q = values_SQ.mean(axis=1), values_SQ.mean(axis=0)
        value_Q = mean_Q - mean_Q.mean()
        if seeds == 1:
            return cls(0.0, 0.0, 0, value_Q)
        rest_SQ = values_SQ - mean_S[:, None] - value_Q
        rest = float((rest_SQ**2).sum()) / ((seeds - 1) * (queries - 1) * seeds * queries)
        return cls(_or_zero(float(mean_S.var(ddof=1)) / seeds), rest, seeds - 1, value_Q)

    @property
    def own(self) -> Variance:
        """The variance of the mean of this table."""
        square_Q = self.value_Q**2
        return self.variance(float(square_Q.mean()), float((square_Q**2).mean()))

    def variance(self, second: float, fourth: float) -> Variance:
        """The variance of the mean, given the central moments over queries."""
        count = len(self.value_Q)
        second = _or_zero(second)
        kurtosis = min(fourth / second**2, count) if second else 3.0
        degrees = 2 / (2 / (count - 1) + max(0.0, kurtosis - 3) / count)
        same_seeds = _or_zero(second / (count - 1))
        queries = max(0.0, same_seeds - self.rest)
        return Variance(self.seeds, queries, same_seeds, self.seed_degrees, degrees)


def _moment(value_Q: Array, bottom_Q: Array, order: int) -> Callable[[float], float]:
    """Central moment of value − r · bottom as a function of r, a polynomial."""
    centred_Q = bottom_Q - bottom_Q.mean()
    products = (value_Q ** (order - k) * (-centred_Q) ** k for k in range(order + 1))
    terms = [math.comb(order, k) * float(each_Q.mean()) for k, each_Q in enumerate(products)]
    return lambda r: sum(term * r**k for k, term in enumerate(terms))


def _last_above_zero(excess: Callable[[float], float], step: float) -> float:
    """The end of the interval around 0 where `excess` is not negative, in the way of a step."""
    if step == 0:
        return 0.0
    inner, outer = 0.0, step
    while excess(outer) >= 0:
        inner, outer = outer, 3 * outer
    return float(brentq(excess, inner, outer))


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


def smallest_effect(values_SQ: Array, level: float = LEVEL, power: float = 0.8) -> float:
    """The smallest mean that the two-sided test at `level` would find with chance `power`.

    The reach of the interval and that of a one-sided test at `power` (Cohen, Statistical Power
    Analysis, 1988, chapter 2), with the variance of seeds and queries. NaN with one query.
    """
    if values_SQ.shape[1] < 2:
        return math.nan
    variance = variance_of_mean(values_SQ)
    return variance.reach(level) + variance.reach(2 * power - 1)


def p_value(values_SQ: Array) -> float:
    """Two-sided p-value of a mean of 0; NaN with one query."""
    if values_SQ.shape[1] < 2:
        return math.nan
    return variance_of_mean(values_SQ).p_value(float(values_SQ.mean()))


def holm(p_R: Sequence[float]) -> list[float]:
    """P-values corrected for their number; NaN stays, and counts for nothing.

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.
    """
    order = sorted((p, index) for index, p in enumerate(p_R) if not math.isnan(p))
    corrected = [math.nan] * len(p_R)
    highest = 0.0
    for rank, (p, index) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - rank)))
        corrected[index] = highest
    return corrected


def verdict(difference_SQ: Array, p: float, level: float = LEVEL) -> str:
    """Verdict on a paired difference, by its corrected p-value: better, worse, equal, or nothing.

    Better and worse are strict. Equal is a statement about these queries alone: not one paired
    difference in any seed. Closeness within a margin is none, since no margin is right for every
    study; the interval tells how close. Below 30 queries nothing is said, nor of two seeds that
    differ: one degree of freedom does not keep to the level.
    """
    if difference_SQ.shape[1] < FEW:
        return TOO_FEW
    if bool((np.abs(difference_SQ) <= ZERO).all()):
        return EQUAL
    if len(difference_SQ) == 2 and np.ptp(difference_SQ, axis=0).max() > ZERO:
        return TWO_SEEDS
    if math.isnan(p) or p >= 1 - level:
        return CANNOT_TELL
    return BETTER if difference_SQ.mean() > 0 else WORSE


def in_words(answer: str, difference: Interval) -> str:
    """A verdict with the difference in reward that it rests on, and its 95% interval."""
    if answer == EQUAL:
        return f"{answer} (the same reward on every query)"
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


def _or_zero(variance: float) -> float:
    return variance if variance > ZERO**2 else 0.0


def _spread(mean_S: Array) -> float:
    return float(mean_S.std(ddof=1)) if len(mean_S) > 1 else math.nan
