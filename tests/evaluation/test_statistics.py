"""The bootstrap against plain loops over resamples, and its edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from hcache.evaluation import statistics
from hcache.evaluation.statistics import (
    Interval,
    bootstrap_difference,
    bootstrap_mean,
    interval_of_draws,
    interval_of_ratio,
    resampled_means,
    smallest_effect,
    verdict,
)

B = 40


def draws_twin(queries: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [[int(q) for q in row] for row in rng.integers(queries, size=(B, queries))]


def percentiles_twin(draws: list[float], level: float) -> tuple[float, float]:
    ordered, ends = sorted(draws), []
    for share in ((1 - level) / 2, 1 - (1 - level) / 2):
        place = share * (len(ordered) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        ends.append(ordered[low] + (place - low) * (ordered[high] - ordered[low]))
    return ends[0], ends[1]


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def ratio(top: ArrayLike, bottom: ArrayLike, resamples: int = B, seed: int = 0) -> Interval:
    """mean(top) / mean(bottom), paired by query; top is [Q] or [seeds, Q]."""
    top_SQ, bottom_Q = np.atleast_2d(top), np.asarray(bottom)
    columns_QV = np.stack([top_SQ.mean(axis=0), bottom_Q], axis=1)
    draws_BV = resampled_means(columns_QV, resamples, seed)
    return interval_of_ratio(top_SQ, bottom_Q, draws_BV[:, 0], draws_BV[:, 1], 0.95)


def values_of(queries: int, seed: int) -> list[float]:
    return [float(v) for v in np.random.default_rng(seed + 1).normal(size=queries)]


@settings(deadline=None)
@given(st.integers(2, 12), st.integers(0, 1000), st.sampled_from([0.5, 0.9, 0.95]))
def test_mean_and_difference_equal_the_plain_loop(queries: int, seed: int, level: float) -> None:
    a, b = values_of(queries, seed), values_of(queries, seed + 1)
    draws = draws_twin(queries, seed)
    slow = percentiles_twin([mean([a[q] for q in row]) for row in draws], level)
    fast = bootstrap_mean(a, resamples=B, level=level, seed=seed)
    assert fast.estimate == pytest.approx(mean(a))
    assert (fast.low, fast.high) == pytest.approx(slow)
    slow = percentiles_twin([mean([a[q] - b[q] for q in row]) for row in draws], level)
    fast = bootstrap_difference(a, b, resamples=B, level=level, seed=seed)
    assert (fast.low, fast.high) == pytest.approx(slow)


@settings(deadline=None)
@given(st.integers(2, 12), st.integers(0, 1000))
def test_ratio_equals_the_plain_loop(queries: int, seed: int) -> None:
    top = values_of(queries, seed)
    bottom = [abs(v) + 0.5 for v in values_of(queries, seed + 1)]
    draws = [
        mean([top[q] for q in row]) / mean([bottom[q] for q in row])
        for row in draws_twin(queries, seed)
    ]
    fast = ratio(top, bottom, resamples=B, seed=seed)
    assert fast.estimate == pytest.approx(mean(top) / mean(bottom))
    assert (fast.low, fast.high) == pytest.approx(percentiles_twin(draws, 0.95))
    assert fast.note == ""


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = np.random.default_rng(0).normal(size=(7, 3))
    whole = resampled_means(columns, 101, seed=5)
    monkeypatch.setattr(statistics, "CHUNK", 50)
    assert np.allclose(resampled_means(columns, 101, seed=5), whole, rtol=0, atol=1e-15)


def test_equal_seeds_repeat() -> None:
    values = values_of(30, 0)
    one, two, other = (bootstrap_mean(values, resamples=200, seed=s) for s in (1, 1, 2))
    assert one.low == two.low
    assert one.low != other.low


def test_intervals_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        interval = bootstrap_mean(rng.normal(size=60), resamples=400, level=0.9, seed=trial)
        hits += interval.low <= 0 <= interval.high
    assert 0.84 <= hits / 300 <= 0.95


def test_seeds_are_averaged_and_their_spread_is_told() -> None:
    values_SQ = np.array([[0.0, 1.0, 2.0, 3.0], [2.0, 3.0, 4.0, 5.0]])
    both = bootstrap_mean(values_SQ, resamples=500)
    averaged = bootstrap_mean(values_SQ.mean(axis=0), resamples=500)
    assert (both.estimate, both.low, both.high) == (averaged.estimate, averaged.low, averaged.high)
    assert both.spread == pytest.approx(math.sqrt(2))
    assert math.isnan(averaged.spread)
    against = bootstrap_difference(values_SQ, [1.0, 1.0, 1.0, 1.0], resamples=500)
    assert against.estimate == pytest.approx(1.5)
    assert ratio(values_SQ, np.ones(4), resamples=50).spread == pytest.approx(math.sqrt(2))


def test_a_vanishing_denominator_has_no_interval() -> None:
    nothing = ratio([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    assert math.isnan(nothing.estimate)
    assert nothing.note == "the denominator is 0"
    rare = ratio(np.ones(20), np.eye(20)[0], resamples=500)
    assert rare.estimate == pytest.approx(20)
    assert math.isnan(rare.low) and math.isnan(rare.high)
    assert "vanishes in" in rare.note
    signs = ratio(np.ones(4), [-1.0, 1.0, 1.0, 1.0], resamples=500)
    assert math.isnan(signs.low)


def test_one_query_has_no_interval() -> None:
    for interval in (bootstrap_mean([0.5]), ratio([0.5], [1.0])):
        assert interval.estimate == 0.5
        assert math.isnan(interval.low)
        assert interval.note == "one query has no interval"


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [[[1.0]]], [math.inf]])
def test_bad_values_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="values"):
        bootstrap_mean(values)


def test_verdicts() -> None:
    assert verdict(Interval(0.2, 0.1, 0.3), 50) == "yes"
    assert verdict(Interval(0.0, -0.1, 0.3), 50) == "cannot tell"
    assert verdict(Interval(-0.2, -0.3, -0.1), 50) == "no"
    assert verdict(Interval(0.0, 0.0, 0.0), 50) == "no"
    assert verdict(Interval(0.2, 0.1, 0.3), 5) == "cannot tell"
    assert verdict(Interval(0.2), 50) == "cannot tell"


@pytest.mark.parametrize(("level", "power"), [(0.95, 0.8), (0.9, 0.5)])
def test_the_smallest_effect_is_found_as_often_as_it_says(level: float, power: float) -> None:
    """By t-tests on many draws whose true mean it is, and by the intervals of a few of them."""
    rng = np.random.default_rng(0)
    queries, draws, deviation = 100, 4000, 2.0
    noise = rng.normal(size=queries)
    noise = deviation * (noise - noise.mean()) / noise.std(ddof=1)
    effect = smallest_effect(noise[None], level, power)
    values = rng.normal(effect, deviation, size=(draws, queries))
    z = values.mean(axis=1) / (values.std(axis=1, ddof=1) / math.sqrt(queries))
    threshold = {0.95: 1.959964, 0.9: 1.644854}[level]
    assert float((abs(z) > threshold).mean()) == pytest.approx(power, abs=0.03)
    found = [
        bootstrap_mean(row, resamples=300, level=level, seed=trial).low > 0
        for trial, row in enumerate(values[:400])
    ]
    assert sum(found) / len(found) == pytest.approx(power, abs=0.08)
    nothing = values - effect
    z = nothing.mean(axis=1) / (nothing.std(axis=1, ddof=1) / math.sqrt(queries))
    assert float((abs(z) > threshold).mean()) == pytest.approx(1 - level, abs=0.02)


@settings(deadline=None)
@given(st.integers(2, 12), st.integers(1, 3), st.integers(0, 1000))
def test_the_smallest_effect_equals_its_formula(queries: int, seeds: int, seed: int) -> None:
    rows = [values_of(queries, seed + i) for i in range(seeds)]
    averaged = [mean(list(column)) for column in zip(*rows, strict=True)]
    variance = math.fsum((v - mean(averaged)) ** 2 for v in averaged) / (queries - 1)
    error = math.sqrt(variance / queries)
    values_SQ = np.array(rows)
    assert smallest_effect(values_SQ) == pytest.approx((1.9599639845 + 0.8416212336) * error)
    assert smallest_effect(values_SQ, 0.9, 0.9) == pytest.approx(
        (1.6448536270 + 1.2815515655) * error
    )


def test_the_smallest_effect_at_its_edges() -> None:
    assert math.isnan(smallest_effect(np.array([[0.5]])))
    assert math.isnan(smallest_effect(np.array([[0.5], [0.1]])))
    assert smallest_effect(np.array([[0.5, 0.5, 0.5]])) == 0
    # Seeds are averaged first: where they cancel out there is nothing to find.
    assert smallest_effect(np.array([[1.0, -1.0], [-1.0, 1.0]])) == 0


def test_draws_of_any_statistic_have_an_interval() -> None:
    draws = values_of(37, 0)
    for level in (0.5, 0.95):
        found = interval_of_draws(0.25, np.array(draws), 2, level)
        assert (found.low, found.high) == pytest.approx(percentiles_twin(draws, level))
        assert (found.estimate, found.note) == (0.25, "")
        assert math.isnan(found.spread)
    alone = interval_of_draws(0.25, np.array(draws), 1, 0.95)
    assert alone.estimate == 0.25
    assert math.isnan(alone.low) and math.isnan(alone.high)
    assert alone.note == "one query has no interval"
