"""Matrix factorisation: its loss against a plain loop, and that it learns, resumes, goes on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.fitting import fresh, run, same, small
from helpers.forest import random_forest
from hypothesis import given, settings
from hypothesis import strategies as st

from hcache.errors import RunError
from hcache.policies import load_policy
from hcache.replay.exact import static_leaves
from hcache.trainers.base import greedy_metrics
from hcache.trainers.factorisation import Factorisation, FactorisationSettings, preference_loss


def plain_loss(
    scores: list[list[float]], rewards: list[list[float]], pairs: list[list[int]], weights: str
) -> float:
    total = weight_sum = 0.0
    for score, reward in zip(scores, rewards, strict=True):
        for one, two in pairs:
            if math.isnan(reward[one]) or math.isnan(reward[two]):
                continue
            gain = reward[one] - reward[two]
            target = 0.5 if abs(gain) <= 1e-12 else float(gain > 0)
            chance = 1 / (1 + math.exp(score[two] - score[one]))
            weight = abs(gain) if weights == "stake" else 1.0
            total -= weight * (target * math.log(chance) + (1 - target) * math.log(1 - chance))
            weight_sum += weight
    return total / weight_sum if weight_sum else 0.0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from(["stake", "equal"]))
def test_the_loss_equals_the_plain_loop(seed: int, plans: int, weights: Any) -> None:
    generator = torch.Generator().manual_seed(seed)
    score_BS = torch.randn(4, plans, generator=generator, dtype=torch.float64)
    reward_BS = torch.randint(0, 3, (4, plans), generator=generator).double() / 2
    reward_BS[torch.rand(4, plans, generator=generator) < 0.3] = torch.nan
    pair_P2 = torch.combinations(torch.arange(plans))
    slow = plain_loss(score_BS.tolist(), reward_BS.tolist(), pair_P2.tolist(), weights)
    fast = float(preference_loss(score_BS, reward_BS, pair_P2, weights))
    assert fast == pytest.approx(slow, abs=1e-9)


@pytest.mark.parametrize("weights", ["stake", "equal"])
def test_it_learns(weights: str) -> None:
    trainer = fresh("factorisation", weights=weights, lr=0.01)
    fitted, lines = run(trainer, iterations=60, evaluate_every=20)
    assert lines[-1]["loss"] < lines[1]["loss"] / 2
    train = small("train")
    static = train.reward_M(0.02)[static_leaves(train, [(0,), (1,), (2,), (0, 1)])].mean(dim=0)
    assert greedy_metrics(fitted.policy, train, 0.02)["reward"] > float(static.max()) + 0.3


@pytest.mark.parametrize("pairs", [3, 1024])
def test_a_resumed_run_has_the_same_bits(pairs: int) -> None:
    whole, half, rest = (fresh("factorisation", seed=2, pairs=pairs) for _ in range(3))
    for _ in range(2):
        half.step()
    rest.load_state(half.state())
    metrics = [whole.step() for _ in range(4)][2:]
    assert [rest.step() for _ in range(2)] == metrics
    assert same(whole.state(), rest.state())


def test_more_pairs_than_wanted_are_drawn() -> None:
    trainer = fresh("factorisation", pairs=5)
    every = {tuple(pair) for pair in torch.combinations(torch.arange(12)).tolist()}
    drawn = [{tuple(pair) for pair in trainer._pairs(0).tolist()} for _ in range(2)]
    assert [len(pairs) for pairs in drawn] == [5, 5]
    assert drawn[0] | drawn[1] <= every
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("seed", range(4))
def test_ragged_forests_with_and_without_stop(seed: int, tmp_path: Path) -> None:
    tree = random_forest(seed, queries=4, arms=3, hops=3).tree
    for index, train in enumerate((tree, tree.without_stop())):
        trainer = Factorisation(train, alpha=0.1, seed=0)
        assert math.isfinite(trainer.step()["loss"])
        probs_NA = trainer.policy.probs(train.states)
        assert bool((probs_NA[~train.valid_NA] == 0).all())
        trainer.policy.save(tmp_path / str(index))
        again = load_policy(tmp_path / str(index))
        assert torch.equal(again.probs(train.states), probs_NA)


def test_a_start_of_other_continuations_is_refused() -> None:
    start = Factorisation(small("train"), alpha=0.1, seed=0).policy
    with pytest.raises(RunError, match="other arms, features or continuations"):
        Factorisation(small("train").without_stop(), alpha=0.1, seed=0, init=start)
    other = FactorisationSettings(factors=3)
    again = Factorisation(small("train"), other, alpha=0.1, seed=1, init=start).policy
    assert again is not start
    assert again.factors == 128
