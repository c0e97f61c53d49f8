"""Intervals and verdicts against plain loops, their invariants, coverage, and their edges."""

from __future__ import annotations

import math
import random
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from hcache.evaluation import statistics
from hcache.evaluation.statistics import (
    BETTER,
    CANNOT_TELL,
    EQUAL,
    ONE_QUERY,
    TOO_FEW,
    TWO_SEEDS,
    VANISHES,
    WORSE,
    Interval,
    holm,
    in_words,
    interval_of_draws,
    interval_of_mean,
    interval_of_ratio,
    p_value,
    resampled_means,
    smallest_effect,
    verdict,
)

Array = NDArray[np.float64]
Table = list[list[float]]  # [seeds][queries]

quick = settings(max_examples=20, deadline=None)
shapes = (st.integers(1, 4), st.integers(2, 12), st.integers(0, 1000))


def table_of(seeds: int, queries: int, seed: int, spread: float = 0.3) -> Table:
    """Seeds by queries with effects of both."""
    rng = random.Random(seed)
    query = [rng.gauss(0.2, 1) for _ in range(queries)]
    found = []
    for _ in range(seeds):
        own = rng.gauss(0, spread)
        found.append([own + value + rng.gauss(0, 0.5) for value in query])
    return found


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def columns(table: Table) -> list[list[float]]:
    return [list(column) for column in zip(*table, strict=True)]


# Plain loops


def variance_twin(table: Table) -> tuple[float, float, float, float, float]:
    """Variance of the mean by seeds, by queries and of queries alone; degrees of freedom."""
    seeds, queries = len(table), len(table[0])
    whole = mean([mean(row) for row in table])
    of_seeds, of_queries = [mean(row) for row in table], [mean(c) for c in columns(table)]
    by_seeds = rest = 0.0
    if seeds > 1:
        by_seeds = sum((v - whole) ** 2 for v in of_seeds) / (seeds - 1) / seeds
        for s, q in product(range(seeds), range(queries)):
            rest += (table[s][q] - of_seeds[s] - of_queries[q] + whole) ** 2
        rest /= (seeds - 1) * (queries - 1) * seeds * queries
    by_queries = sum((v - whole) ** 2 for v in of_queries) / (queries - 1) / queries
    second = mean([(v - whole) ** 2 for v in of_queries])
    fourth = mean([(v - whole) ** 4 for v in of_queries])
    excess = max(0.0, fourth / second**2 - 3) if second > 1e-24 else 0.0
    degrees = 2 / (2 / (queries - 1) + excess / queries)
    return by_seeds, max(0.0, by_queries - rest), by_queries, seeds - 1, degrees


def p_twin(table: Table, assumed: float = 0.0) -> float:
    by_seeds, by_queries, alone, seed_degrees, degrees = variance_twin(table)
    whole, distance = by_seeds + by_queries, abs(mean([mean(row) for row in table]) - assumed)
    statistic = distance / math.sqrt(whole)
    found = by_queries / whole * 2 * stats.t.sf(statistic, degrees)
    if by_seeds:
        found += by_seeds / whole * 2 * stats.t.sf(statistic, seed_degrees)
    return max(float(found), float(2 * stats.t.sf(distance / math.sqrt(alone), degrees)))


def end_twin(table: Table, start: float, way: float, level: float) -> float:
    """Where the p-value falls below that of the level, by halving."""
    inner, outer = 0.0, way
    while p_twin(table, start + outer) >= 1 - level:
        outer *= 2
    for _ in range(34):
        middle = (inner + outer) / 2
        inside = p_twin(table, start + middle) >= 1 - level
        inner, outer = (middle, outer) if inside else (inner, middle)
    return start + inner


@quick
@given(*shapes, st.sampled_from([0.5, 0.9, 0.95]))
def test_an_interval_equals_the_plain_loop(
    seeds: int, queries: int, seed: int, level: float
) -> None:
    table = table_of(seeds, queries, seed)
    found = interval_of_mean(table, level)
    assert found.estimate == pytest.approx(mean([mean(row) for row in table]))
    for way, end in ((-1.0, found.low), (1.0, found.high)):
        assert end == pytest.approx(end_twin(table, found.estimate, way, level), abs=1e-7)
    assert p_value(np.array(table)) == pytest.approx(p_twin(table))


@quick
@given(*shapes)
def test_a_ratio_holds_what_cannot_be_told_from_it(seeds: int, queries: int, seed: int) -> None:
    """Fieller: r is inside where 0 is inside the interval of top − r · bottom."""
    top = table_of(seeds, queries, seed)
    rng = random.Random(seed + 1)
    bottom = [rng.uniform(0.9, 1.1) for _ in range(queries)]
    found = interval_of_ratio(top, bottom)
    below = interval_of_mean(bottom)
    if not below.excludes_zero:
        assert math.isnan(found.estimate)
        return
    assert found.estimate == pytest.approx(mean([mean(row) for row in top]) / mean(bottom))
    for end in (found.low, found.high):
        shifted = [[t - end * b for t, b in zip(row, bottom, strict=True)] for row in top]
        assert p_twin(shifted) == pytest.approx(0.05, abs=1e-6)


@quick
@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=12))
def test_holm_equals_its_steps(values: list[float]) -> None:
    """Reject the smallest while it is below 5% over the number of those left."""
    left = sorted((p, i) for i, p in enumerate(values) if not math.isnan(p))
    rejected = set()
    while left and left[0][0] * len(left) < 0.05:
        rejected.add(left.pop(0)[1])
    found = holm(values)
    assert {i for i, p in enumerate(found) if p < 0.05} == rejected
    assert [math.isnan(p) for p in found] == [math.isnan(p) for p in values]


# Invariants


@quick
@given(*shapes, st.floats(-5, 5), st.floats(0.1, 10), st.booleans())
def test_shift_and_scale(
    seeds: int, queries: int, seed: int, shift: float, scale: float, turned: bool
) -> None:
    table = np.array(table_of(seeds, queries, seed))
    scale = -scale if turned else scale
    before, after = interval_of_mean(table), interval_of_mean(scale * table + shift)
    ends = sorted([scale * before.low + shift, scale * before.high + shift])
    assert [after.low, after.high] == pytest.approx(ends, abs=1e-8)


@quick
@given(*shapes)
def test_order_means_nothing(seeds: int, queries: int, seed: int) -> None:
    table = np.array(table_of(seeds, queries, seed))
    rng = np.random.default_rng(seed)
    moved = table[rng.permutation(seeds)][:, rng.permutation(queries)]
    one, two = interval_of_mean(table), interval_of_mean(moved)
    assert (one.low, one.high) == pytest.approx((two.low, two.high))


@quick
@given(*shapes)
def test_equal_seeds_add_nothing(seeds: int, queries: int, seed: int) -> None:
    once = table_of(1, queries, seed)
    one, several = interval_of_mean(once), interval_of_mean(once * (seeds + 1))
    assert (one.low, one.high) == pytest.approx((several.low, several.high))
    assert several.spread == pytest.approx(0, abs=1e-12)


@quick
@given(*shapes)
def test_verdicts_and_intervals_agree(seeds: int, queries: int, seed: int) -> None:
    table = np.array(table_of(seeds, 30 + queries, seed))
    found, said = interval_of_mean(table), verdict(table, p_value(table))
    expected = BETTER if found.low > 0 else WORSE if found.high < 0 else CANNOT_TELL
    assert said == (TWO_SEEDS if seeds == 2 else expected)
    assert verdict(-table, p_value(-table)) == {BETTER: WORSE, WORSE: BETTER}.get(said, said)


def test_seeds_that_differ_widen_an_interval() -> None:
    """Twenty seeds' worth of queries say little about seeds: three are three."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(1, 2000)) + np.array([[-0.2], [0.0], [0.2]])
    found = interval_of_mean(table)
    by_seeds = 4.302653 * 0.2 / math.sqrt(3)  # t with two degrees of freedom
    assert (found.high - found.low) / 2 == pytest.approx(by_seeds, rel=0.05)
    assert found.spread == pytest.approx(0.2)


# Coverage


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_hold_the_truth_of_new_seeds(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    hits = 0
    for _ in range(300):
        query, own = rng.normal(0, 0.12, size=(1, 400)), rng.normal(0, 0.015, size=(seeds, 1))
        found = interval_of_mean(query + own + rng.normal(0, 0.08, size=(seeds, 400)))
        hits += found.low <= 0 <= found.high
    assert 0.91 <= hits / 300 <= 0.985


def test_routers_without_effect_get_no_verdict() -> None:
    rng = np.random.default_rng(0)
    said = 0
    for _ in range(100):
        shared = rng.normal(0, 0.1, size=(1, 200))
        tables = [
            shared + rng.normal(0, 0.02, size=(3, 1)) + rng.normal(0, 0.1, size=(3, 200))
            for _ in range(11)
        ]
        corrected = holm([p_value(table) for table in tables])
        answers = {verdict(table, p) for table, p in zip(tables, corrected, strict=True)}
        said += answers != {CANNOT_TELL}
    assert said <= 8


@pytest.mark.parametrize(
    ("seeds", "queries", "share", "at_most"),
    [(2, 50, 0.02, 0), (3, 50, 0.02, 5), (3, 100, 0.05, 5)],
)
def test_a_few_wins_of_seeds_that_tie_are_no_effect(
    seeds: int, queries: int, share: float, at_most: int
) -> None:
    rng = np.random.default_rng(0)
    said = 0
    for _ in range(100):
        drawn = rng.random((11, seeds, queries))
        tables = (drawn < share).astype(float) - (drawn > 1 - share)
        corrected = holm([p_value(table) for table in tables])
        answers = {verdict(table, p) for table, p in zip(tables, corrected, strict=True)}
        said += not answers.isdisjoint({BETTER, WORSE})
    assert said <= at_most


# Verdicts


def values(mean_of: float, queries: int) -> Array:
    return np.array([[mean_of + (-1) ** q * 0.1 for q in range(queries)]])


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (values(0.5, 30), BETTER),
        (values(-0.5, 30), WORSE),
        (values(0.01, 30), CANNOT_TELL),
        (values(0.5, 29), TOO_FEW),
        (np.zeros((1, 29)), TOO_FEW),
        (np.zeros((3, 30)), EQUAL),
        (np.full((3, 30), 1e-17), EQUAL),
        (np.full((1, 30), 0.1), BETTER),
        (np.array([[1.0] * 3 + [0.0] * 7]), TOO_FEW),  # three wins of ten
        (np.array([[0.0] * 29 + [0.01]]), CANNOT_TELL),
        (np.array([[0.5] * 30, [0.4] * 30]), TWO_SEEDS),
        (np.vstack([values(0.5, 30), values(0.5, 30)]), BETTER),  # two seeds that are one
    ],
)
def test_verdicts(table: Array, said: str) -> None:
    assert verdict(table, p_value(table)) == said


@pytest.mark.parametrize(
    ("seeds", "queries", "size"), [(2, 30, 1.0), (3, 40, 1.0), (4, 200, 0.02), (2, 1000, -0.001)]
)
def test_one_win_in_each_seed_proves_nothing(seeds: int, queries: int, size: float) -> None:
    table = np.zeros((seeds, queries))
    table[np.arange(seeds), np.arange(seeds) * 3] = size
    assert verdict(table, p_value(table)) == (TWO_SEEDS if seeds == 2 else CANNOT_TELL)
    found = interval_of_mean(table)
    assert found.low < 0 < found.high
    ratio = interval_of_ratio(table, np.full(queries, 0.5) + np.arange(queries) % 2)
    assert ratio.low < 0 < ratio.high


def test_a_corrected_verdict_is_stricter() -> None:
    table = np.array([[0.0] * 28 + [1.0] * 8 + [-0.4] * 4])
    alone = p_value(table)
    assert 0.025 < alone < 0.05
    assert verdict(table, alone) == BETTER
    assert verdict(table, holm([alone, 0.5])[0]) == CANNOT_TELL


def test_one_query_has_no_p_value() -> None:
    assert math.isnan(p_value(np.array([[0.3]])))
    assert verdict(np.array([[0.3]]), math.nan) == TOO_FEW


def test_a_verdict_in_words() -> None:
    found = Interval(0.25, 0.125, 0.375)
    assert in_words(BETTER, found) == (
        "better (difference in reward +0.2500, 95% interval +0.1250 to +0.3750)"
    )
    assert in_words(TOO_FEW, Interval(0.25)) == "too few queries (difference in reward +0.2500)"
    assert in_words(EQUAL, Interval(0.0, 0.0, 0.0)) == "equal (the same reward on every query)"


# Ratios


@pytest.mark.parametrize(
    "bottom",
    [
        [0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 1.0],
        [-1.0, 1.0, 1.0, 1.0],
        [0.1, -0.1, 0.1, -0.1],
    ],
)
def test_no_ratio_where_the_denominator_may_be_zero(bottom: list[float]) -> None:
    found = interval_of_ratio([[1.0, 2.0, 3.0, 4.0]] * 2, bottom)
    assert math.isnan(found.estimate) and math.isnan(found.low) and math.isnan(found.high)
    assert found.note == VANISHES


def test_ratios_that_cannot_vary() -> None:
    bottom = [0.4, 0.6, 0.5, 0.7]
    for factor in (0.0, 1.0, -0.5):
        found = interval_of_ratio([factor * value for value in bottom], bottom)
        assert (found.estimate, found.low, found.high) == pytest.approx((factor,) * 3, abs=1e-7)
    assert interval_of_ratio([0.5, 0.7, 0.6], [-1.0, -1.0, -1.0]).estimate == pytest.approx(-0.6)


# Draws


def draws_twin(queries: int, resamples: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [[int(q) for q in row] for row in rng.integers(queries, size=(resamples, queries))]


@quick
@given(st.integers(2, 12), st.integers(0, 1000))
def test_resampled_means_equal_the_plain_loop(queries: int, seed: int) -> None:
    table = table_of(3, queries, seed)
    found = resampled_means(np.array(table).T, 40, seed)
    for b, draw in enumerate(draws_twin(queries, 40, seed)):
        assert found[b].tolist() == pytest.approx([mean([row[q] for q in draw]) for row in table])


@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_draws_of_means_give_the_interval_of_the_mean(seeds: int) -> None:
    """The components of variance from resamples are those of the mean squares."""
    table = np.array(table_of(seeds, 300, seeds, spread=0.05))
    drawn = resampled_means(table.T, 4000, 0)
    direct = interval_of_mean(table)
    found = interval_of_draws(direct.estimate, table.mean(axis=1), drawn, 300)
    assert found.high - found.low == pytest.approx(direct.high - direct.low, rel=0.06)
    assert found.spread == pytest.approx(direct.spread, nan_ok=True) and not found.note


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.random.default_rng(0).normal(size=(7, 3))
    whole = resampled_means(table, 101, seed=5)
    monkeypatch.setattr(statistics, "CHUNK", 50)
    assert np.allclose(resampled_means(table, 101, seed=5), whole, rtol=0, atol=1e-15)


# Edges


def test_one_query_has_no_interval() -> None:
    found = interval_of_mean([0.5])
    assert found.estimate == 0.5 and math.isnan(found.low) and found.note == ONE_QUERY
    ratio = interval_of_ratio([0.5], [1.0])  # and so its denominator may be 0
    assert math.isnan(ratio.estimate) and ratio.note == ONE_QUERY
    drawn = interval_of_draws(0.25, np.array([0.25]), np.full((9, 1), 0.25), 1)
    assert drawn.estimate == 0.25 and math.isnan(drawn.high) and drawn.note == ONE_QUERY


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [[[1.0]]], [math.inf]])
def test_bad_values_are_refused(bad: ArrayLike) -> None:
    with pytest.raises(ValueError, match="values"):
        interval_of_mean(bad)


@pytest.mark.parametrize("seeds", [1, 4])
def test_the_smallest_effect_is_found_as_often_as_it_says(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    noise = rng.normal(size=(1, 100)).repeat(seeds, axis=0)
    effect = smallest_effect((noise - noise.mean()) / noise.std())
    tables = rng.normal(effect, 1, size=(500, 1, 100)).repeat(seeds, axis=1)
    found = [interval_of_mean(table).low > 0 for table in tables]
    assert sum(found) / len(found) == pytest.approx(0.8, abs=0.12)


@quick
@given(*shapes)
def test_the_smallest_effect_is_two_reaches(seeds: int, queries: int, seed: int) -> None:
    table = np.array(table_of(seeds, queries, seed))
    wide, narrow = interval_of_mean(table, 0.95), interval_of_mean(table, 0.6)
    wanted = (wide.high - wide.low + narrow.high - narrow.low) / 2
    assert smallest_effect(table) == pytest.approx(wanted)
    assert smallest_effect(table, power=0.5) == pytest.approx((wide.high - wide.low) / 2)


def test_the_smallest_effect_at_its_edges() -> None:
    assert math.isnan(smallest_effect(np.array([[0.5], [0.1]])))
    assert smallest_effect(np.array([[0.5, 0.5, 0.5]])) == 0
