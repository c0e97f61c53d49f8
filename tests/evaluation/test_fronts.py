"""Numbers of a cost-quality plane, worked out by hand and against plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from helpers.fronts import (
    Points,
    aiq_twin,
    apgr_cpt_twin,
    area_twin,
    columns,
    front_of,
    pareto_twin,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from hcache.evaluation.fronts import TwoModels, aiq, aiq_draws, apgr_cpt, area, pareto

# Few values, so that equal costs, equal qualities and duplicates are common; and any values.
COARSE = st.tuples(st.integers(0, 6).map(float), st.integers(-2, 4).map(lambda v: v / 4))
FINE = st.tuples(st.floats(0, 10), st.floats(-1, 1))
POINTS = st.lists(COARSE, min_size=1, max_size=8) | st.lists(FINE, min_size=1, max_size=8)
REFERENCE = st.sampled_from([0.5, 2.0, 3.5, 6.0, 9.0])


def close(value: Any) -> Any:
    return pytest.approx(value, rel=1e-9, abs=1e-9, nan_ok=True)


# Pareto front


def test_pareto_by_hand() -> None:
    cost = [3.0, 1.0, 2.0, 2.0, 1.0, 4.0, 3.0]
    quality = [0.9, 0.5, 0.5, 0.7, 0.5, 0.8, 0.6]
    # (2, .5) is beaten by (1, .5), the second (1, .5) is a duplicate, (4, .8) and (3, .6) are
    # beaten by (3, .9).
    assert pareto(cost, quality).tolist() == [True, True, False, True, False, False, False]


@settings(deadline=None)
@given(POINTS)
def test_pareto_equals_the_plain_loop(points: Points) -> None:
    assert pareto(*columns(points)).tolist() == pareto_twin(points)


# Area under the staircase


def test_area_by_hand() -> None:
    # 0 up to 1, then 0.4 up to 3, then 0.8 up to 4; (2, .3) is dominated, (5, 1) too dear.
    cost, quality = [3.0, 1.0, 2.0, 5.0], [0.8, 0.4, 0.3, 1.0]
    assert area(cost, quality, 4.0) == pytest.approx((0.4 * 2 + 0.8 * 1) / 4)
    assert area(cost, quality, 3.0) == pytest.approx(0.4 * 2 / 3)
    assert area(cost, quality, 1.0) == area(cost, quality, 0.5) == 0


@settings(deadline=None)
@given(POINTS, REFERENCE)
def test_area_equals_the_plain_loop(points: Points, reference: float) -> None:
    assert area(*columns(points), reference) == close(area_twin(points, reference))


# AIQ


@pytest.mark.parametrize(
    ("points", "reference", "expected"),
    [
        # One point: nothing up to 1, then flat to 4.
        ([(1, 0.6)], 4, 0.6 * 3 / 4),
        # Free from the start: its quality.
        ([(0, 0.6)], 4, 0.6),
        # Two points: a trapezoid from 1 to 3, then flat to 4.
        ([(1, 0.2), (3, 0.8)], 4, ((0.2 + 0.8) / 2 * 2 + 0.8) / 4),
        # (2, .1) is dominated by (1, .2).
        ([(1, 0.2), (2, 0.1), (3, 0.8)], 4, ((0.2 + 0.8) / 2 * 2 + 0.8) / 4),
        # (2, .4) is dominated by none, but the chord has 0.5 there.
        ([(1, 0.2), (2, 0.4), (3, 0.8)], 4, ((0.2 + 0.8) / 2 * 2 + 0.8) / 4),
        # (2, .7) is above the chord.
        ([(1, 0.2), (2, 0.7), (3, 0.8)], 4, ((0.2 + 0.7) / 2 + (0.7 + 0.8) / 2 + 0.8) / 4),
        # After the peak at 2 the curve stays at 0.8.
        ([(1, 0.2), (2, 0.8), (4, 0.5)], 4, ((0.2 + 0.8) / 2 + 0.8 * 2) / 4),
        # At the reference, 2, the way from (1, .2) to (3, .8) is at 0.5.
        ([(1, 0.2), (3, 0.8)], 2, (0.2 + 0.5) / 2 / 2),
        # Of two points at one cost the better one counts, wherever they stand.
        ([(1, 0.4), (1, 0.2), (3, 0.6), (3, 0.8)], 4, ((0.4 + 0.8) / 2 * 2 + 0.8) / 4),
        # Nothing can be paid for.
        ([(2, 0.5), (3, 0.8)], 2, 0.0),
        ([(2, 0.5), (3, 0.8)], 1, 0.0),
    ],
)
def test_aiq_by_hand(points: Points, reference: float, expected: float) -> None:
    for order in (points, points[::-1]):
        assert aiq(*columns(order), reference) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(POINTS, REFERENCE)
def test_aiq_equals_the_monotone_chain(points: Points, reference: float) -> None:
    assert aiq(*columns(points), reference) == close(aiq_twin(points, reference))


def test_aiq_is_the_mean_height_of_the_best_mixture() -> None:
    """By definition: at every budget the best coin between two points that it pays for."""
    points = [(0.5, 0.1), (1.0, 0.45), (1.7, 0.5), (2.0, 0.8), (3.5, 0.9), (5.0, 0.7)]
    steps, total = 4000, 0.0
    for step in range(steps):
        budget, best = (step + 0.5) * 3 / steps, 0.0
        for c1, q1 in points:
            for c2, q2 in points:
                if c1 <= budget:
                    share = 1.0 if c2 <= budget else (budget - c1) / (c2 - c1)
                    best = max(best, q1 + share * (q2 - q1))
        total += best / steps
    assert aiq(*columns(points), 3.0) == pytest.approx(total, abs=1e-4)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 7), st.integers(0, 1000), REFERENCE)
def test_draws_are_one_aiq_each(draws: int, size: int, seed: int, reference: float) -> None:
    rng = np.random.default_rng(seed)
    cost_BP, quality_BP = rng.integers(0, 8, (draws, size)), rng.normal(size=(draws, size))
    found = aiq_draws(cost_BP, quality_BP, reference)
    assert found.shape == (draws,) and found.dtype == np.float64
    for b in range(draws):
        points = [(float(c), float(q)) for c, q in zip(cost_BP[b], quality_BP[b], strict=True)]
        assert found[b] == close(aiq_twin(points, reference))


# What holds for any points


@settings(deadline=None)
@given(POINTS, REFERENCE, st.integers(0, 7), st.floats(0, 3), st.floats(0, 1))
def test_a_dominated_point_changes_nothing(
    points: Points, reference: float, place: int, dearer: float, worse: float
) -> None:
    cost, quality = points[place % len(points)]
    more = [*points, (cost + dearer, quality - worse)]
    assert pareto(*columns(more)).tolist() == [*pareto(*columns(points)).tolist(), False]
    for number in (area, aiq):
        before = number(*columns(points), reference)
        assert number(*columns(more), reference) == close(before)


@settings(deadline=None)
@given(POINTS, REFERENCE)
def test_the_front_is_all_that_counts(points: Points, reference: float) -> None:
    for number in (area, aiq):
        whole = number(*columns(points), reference)
        assert number(*columns(front_of(points)), reference) == close(whole)


@settings(deadline=None)
@given(POINTS, REFERENCE)
def test_mixing_never_loses(points: Points, reference: float) -> None:
    assert aiq(*columns(points), reference) >= area(*columns(points), reference) - 1e-9


@settings(deadline=None)
@given(POINTS, REFERENCE, st.randoms(use_true_random=False))
def test_order_does_not_matter(points: Points, reference: float, random: Any) -> None:
    mixed = random.sample(points, len(points))
    for number in (area, aiq):
        before = number(*columns(points), reference)
        assert number(*columns(mixed), reference) == close(before)
    assert sorted(front_of(mixed)) == sorted(front_of(points))


@settings(deadline=None)
@given(POINTS, REFERENCE, st.sampled_from([0.25, 3.0, 1e-6]))
def test_the_unit_of_cost_does_not_matter(points: Points, reference: float, unit: float) -> None:
    cost, quality = columns(points)
    for number in (area, aiq):
        scaled = number([c * unit for c in cost], quality, reference * unit)
        assert scaled == close(number(cost, quality, reference))


# Two models


def test_two_models_by_hand() -> None:
    # Sent in the order 0.9, 0.7, 0.4, 0.1, the gains are 1, 1, 0, 0 of 4 queries: the part of
    # the gap is 0, .5, 1, 1, 1 at shares 0, .25, .5, .75, 1.
    found = apgr_cpt([0.1, 0.9, 0.4, 0.7], [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 1.0])
    assert found.apgr == pytest.approx(0.25 * (0.25 + 0.75 + 1 + 1))
    assert found.cpt20 == pytest.approx(0.25 * 0.2 / 0.5)
    assert found.cpt50 == pytest.approx(0.25)
    assert found.cpt80 == pytest.approx(0.25 + 0.25 * 0.3 / 0.5)


def test_quality_may_fall_as_more_is_sent() -> None:
    # Gains 1, -1, 1, 1: the part is 0, .5, 0, .5, 1. It is 0.5 at the first quarter already.
    found = apgr_cpt([4, 3, 2, 1], [0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 1.0])
    assert found.apgr == pytest.approx(0.25 * (0.25 + 0.25 + 0.25 + 0.75))
    assert (found.cpt20, found.cpt50, found.cpt80) == pytest.approx((0.1, 0.25, 0.9))


def test_more_than_all_of_the_gap_can_be_recovered() -> None:
    # Gains 1, 1, -1 against a gap of 1: the part is 0, 1, 2, 1.
    found = apgr_cpt([3, 2, 1], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0])
    assert found.apgr == pytest.approx((0.5 + 1.5 + 1.5) / 3)
    assert found.cpt80 == pytest.approx(0.8 / 3)


def test_equal_scores_are_a_coin() -> None:
    for strong in ([1.0, 0.0, 1.0], [0.0, 1.0, 1.0]):
        found = apgr_cpt([0.5, 0.5, 0.5], [0.0, 0.0, 0.0], strong)
        assert (found.apgr, found.cpt20, found.cpt50, found.cpt80) == pytest.approx(
            (0.5, 0.2, 0.5, 0.8)
        )


def test_a_goal_missed_by_rounding_alone_is_reached() -> None:
    # Eight gains of a tenth come to 0.7999999999999999 of a gap of 1; then a fall, and a rise.
    gain = np.array([0.1] * 8 + [-0.25, 0.45])
    assert 0.8 - 1e-15 < np.cumsum(gain)[7] / np.cumsum(gain)[9] < 0.8
    found = apgr_cpt(-np.arange(10), np.zeros(10), gain)
    assert found.cpt80 == pytest.approx(0.8)
    # Missed by 2e-12 after one query and by 5e-13 after two: reached at the second, not beyond.
    gain = np.array([0.8 - 2e-12, 1.5e-12, -0.5, 0.7 + 5e-13])
    assert apgr_cpt(-np.arange(4), np.zeros(4), gain).cpt80 == pytest.approx(0.5)


@pytest.mark.parametrize("strong", [[0.3, 0.6], [0.6, 0.3], [0.0, 0.0], [0.1 + 0.2, 0.6]])
def test_no_gap_is_no_number(strong: list[float]) -> None:
    found = apgr_cpt([1.0, 0.0], [0.6, 0.3], strong)
    assert all(math.isnan(v) for v in (found.apgr, found.cpt20, found.cpt50, found.cpt80))


QUALITY = st.sampled_from([0.0, 0.25, 0.5, 1.0])
QUERIES = st.lists(
    st.tuples(st.integers(0, 5).map(float), QUALITY, QUALITY), min_size=1, max_size=12
)


@settings(deadline=None)
@given(QUERIES, st.randoms(use_true_random=False))
def test_two_models_equal_the_plain_loop(
    queries: list[tuple[float, float, float]], random: Any
) -> None:
    for some in (queries, random.sample(queries, len(queries))):
        score, weak, strong = ([row[i] for row in some] for i in range(3))
        found = apgr_cpt(score, weak, strong)
        assert [found.apgr, found.cpt20, found.cpt50, found.cpt80] == close(
            apgr_cpt_twin(score, weak, strong)
        )


def test_only_the_order_of_scores_counts() -> None:
    rng = np.random.default_rng(0)
    score, weak, strong = rng.normal(size=50), rng.random(50), rng.random(50) + 0.2
    found: TwoModels = apgr_cpt(score, weak, strong)
    assert apgr_cpt(np.exp(score), weak, strong) == found
    assert apgr_cpt(-score, weak, strong) != found
    assert apgr_cpt(strong - weak, weak, strong).apgr > max(0.5, found.apgr)


# What cannot be answered


@pytest.mark.parametrize(
    ("cost", "quality", "reference", "says"),
    [
        ([], [], 1.0, "not empty"),
        ([1.0], [1.0, 2.0], 1.0, "one shape"),
        ([[1.0]], [[1.0]], 1.0, "of 1 axes"),
        ([1.0, math.nan], [1.0, 2.0], 1.0, "NaN or infinity"),
        ([1.0, 2.0], [1.0, math.inf], 1.0, "NaN or infinity"),
        ([1.0], [1.0], 0.0, "reference cost is 0.0"),
        ([1.0], [1.0], -1.0, "reference cost is -1.0"),
        ([1.0], [1.0], math.nan, "reference cost is nan"),
        ([1.0], [1.0], math.inf, "reference cost is inf"),
        ([1.0, -0.1], [1.0, 1.0], 1.0, "a cost is negative"),
    ],
)
def test_bad_points_are_refused(
    cost: list[Any], quality: list[Any], reference: float, says: str
) -> None:
    for number in (area, aiq):
        refused(partial(number, cost, quality, reference), says)
    if "cost" not in says:
        refused(lambda: pareto(cost, quality), says)


def test_bad_draws_and_queries_are_refused() -> None:
    refused(lambda: aiq_draws([1.0], [1.0], 1.0), "of 2 axes")
    refused(lambda: aiq_draws(np.ones((0, 2)), np.ones((0, 2)), 1.0), "not empty")
    refused(lambda: aiq_draws(np.ones((3, 2)), np.ones((2, 3)), 1.0), "one shape")
    refused(lambda: apgr_cpt([], [], []), "not empty")
    refused(lambda: apgr_cpt([1.0], [1.0], [1.0, 2.0]), "one shape")
    refused(lambda: apgr_cpt([math.nan], [1.0], [1.0]), "NaN or infinity")


def refused(call: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)
