"""Estimates with their intervals, and every reason why a log cannot answer."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.logs import some_policy
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.learning.forest import forest
from hcache.errors import DataError
from hcache.evaluation.statistics import Interval
from hcache.logged.estimate import Estimates, Support, by_query, estimate
from hcache.logged.log import Log, draw
from hcache.replay.exact import returns

ALPHA = 0.25
TREE = forest(400, seed=5, features=8)
TARGET = some_policy(TREE, 1)


def logged(episodes: int = 2000, seed: int = 0, logging_NA: Tensor | None = None) -> Log:
    tree_E = torch.randint(len(TREE), (episodes,), generator=torch.Generator().manual_seed(seed))
    return draw(TREE, some_policy(TREE, 2) if logging_NA is None else logging_NA, tree_E, seed)


def reasons(found: Estimates) -> str:
    assert not found.answers
    for row in found.rows.values():
        for interval in row.values():
            assert math.isnan(interval.estimate) and math.isnan(interval.low) and interval.note
    return "; ".join(found.support.reasons)


def test_a_good_log_answers_near_the_exact_value() -> None:
    found = estimate(TREE, logged(), TARGET, ALPHA)
    assert found.answers and found.rows == found.computed
    exact = {
        "quality": float(returns(TREE, TREE.quality_M, TARGET).mean()),
        "cost": float(returns(TREE, TREE.cost_M, TARGET).mean()),
        "reward": float(returns(TREE, TREE.reward_M(ALPHA), TARGET).mean()),
    }
    for name, row in found.rows.items():
        for quantity, interval in row.items():
            assert interval.low < interval.estimate < interval.high
            distance = abs(interval.estimate - exact[quantity])
            assert distance < interval.high - interval.low, (name, quantity)
        parts = row["quality"].estimate - ALPHA * row["cost"].estimate
        assert row["reward"].estimate == pytest.approx(parts)


@given(st.integers(0, 500))
def test_the_variance_is_that_of_clusters(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    query_E = torch.randint(9, (30,), generator=generator)
    value_E = torch.randn(30, generator=generator, dtype=torch.float64)
    found_Q = by_query(value_E, query_E)
    mean, sums = float(value_E.mean()), dict[int, float]()
    for query, value in zip(query_E.tolist(), value_E.tolist(), strict=True):
        sums[query] = sums.get(query, 0.0) + value - mean
    assert float(found_Q.mean()) == pytest.approx(mean)
    count = len(sums)
    variance = count / (count - 1) * sum(total**2 for total in sums.values()) / 30**2
    assert float(found_Q.var() / count) == pytest.approx(variance)


def test_episodes_of_one_query_are_no_new_evidence() -> None:
    """An exact copy of every episode narrows nothing."""
    log = logged(500)
    twice = Log(*(torch.cat([part, part]) for part in vars(log).values()))
    for name in ("IPS", "SNIPS", "per-decision IPS"):
        one = estimate(TREE, log, TARGET, ALPHA).computed[name]["reward"]
        two = estimate(TREE, twice, TARGET, ALPHA).computed[name]["reward"]
        assert (two.low, two.high) == pytest.approx((one.low, one.high))


def test_an_arm_that_was_never_tried_is_named() -> None:
    logging_NA = some_policy(TREE, 2)
    logging_NA[:, 2] = 0.0
    logging_NA /= logging_NA.sum(dim=1, keepdim=True)
    found = estimate(TREE, logged(8000, logging_NA=logging_NA), TARGET, ALPHA)
    said = reasons(found)
    assert "on actions that were never taken at their step" in said
    # It is the chance that the target plays the arm anywhere on its way.
    without = torch.where(torch.arange(4) == 2, 0.0, TARGET)
    ones_M = torch.ones_like(TREE.quality_M)
    exact = 1 - float(returns(TREE, ones_M, without).mean())
    assert found.support.untried == pytest.approx(exact, abs=0.05)


def test_support_that_is_missing_in_places_shows_in_the_mean_weight() -> None:
    """Every action is tried somewhere, but in half of the queries one is not."""
    logging_NA = some_policy(TREE, 2)
    logging_NA[::2, 1] = 0.0
    logging_NA /= logging_NA.sum(dim=1, keepdim=True)
    found = estimate(TREE, logged(8000, logging_NA=logging_NA), TARGET, ALPHA)
    assert found.support.untried < 0.01
    assert "hardly ever does" in reasons(found)


def test_propensities_that_are_too_small_show_in_the_mean_weight() -> None:
    log = logged(4000)
    wrong = replace(log, propensity_EL=log.propensity_EL * 0.8)
    assert "propensities are smaller" in reasons(estimate(TREE, wrong, TARGET, ALPHA))


def test_weights_that_are_worth_little_are_refused() -> None:
    log = logged(300)
    assert "its weights are worth" in reasons(estimate(TREE, log, _greedy(TARGET), ALPHA))


def test_few_queries_are_refused() -> None:
    log = draw(TREE, TARGET, torch.arange(29).repeat(50), 0)
    assert "it has 29 queries" in reasons(estimate(TREE, log, TARGET, ALPHA))


def test_a_log_of_other_actions_altogether_has_no_number() -> None:
    never_NA = _greedy(torch.where(_greedy(TARGET) > 0, 0.0, TARGET))
    found = estimate(TREE, logged(200, logging_NA=_greedy(TARGET)), never_NA, ALPHA)
    assert reasons(found) and found.support.effective == 0
    assert math.isnan(found.support.largest)
    assert found.computed["SNIPS"]["reward"].note == "all weights are 0"
    assert found.to_dict()["rows"]["IPS"]["reward"] == {"estimate": None, "low": None, "high": None}


def test_an_empty_log_is_refused() -> None:
    empty = Log(*(part[:0] for part in vars(logged(3)).values()))
    with pytest.raises(DataError, match="no episode"):
        estimate(TREE, empty, TARGET, ALPHA)


def test_effective_queries_are_not_more_than_there_are() -> None:
    log = draw(TREE, TARGET, torch.arange(40).repeat(50), 0)
    support = estimate(TREE, log, TARGET, ALPHA).support
    assert support.effective == pytest.approx(40) and support.episodes == 2000
    assert support.largest == pytest.approx(1 / 2000)


def test_reasons_are_at_their_limits() -> None:
    sound = Support(100, 30, 20.0, 0.1, 0.01, Interval(1.0, 1.0, 1.0))
    assert not sound.reasons
    for change in (
        {"queries": 29}, {"effective": 19.9}, {"untried": 0.011},
        {"mean_weight": Interval(0.9, 0.8, 0.99)}, {"mean_weight": Interval(1.1, 1.01, 1.2)},
    ):  # fmt: skip
        assert len(replace(sound, **change).reasons) == 1


def _greedy(probs_NA: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(probs_NA.argmax(dim=1), probs_NA.shape[1]).double()


def test_intervals_hold_the_exact_value_as_often_as_they_say() -> None:
    exact = float(returns(TREE, TREE.reward_M(ALPHA), TARGET).mean())
    held: dict[str, list[bool]] = {}
    for seed in range(60):
        for name, row in estimate(TREE, logged(300, seed), TARGET, ALPHA).computed.items():
            interval = row["reward"]
            held.setdefault(name, []).append(interval.low <= exact <= interval.high)
    for name, hits in held.items():
        assert np.mean(hits) > 0.85, name  # 0.95 less three standard errors and a half
