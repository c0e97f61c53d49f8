"""Estimators against their definitions, and against exact values over all logs there can be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers.forest import Forest, small_forests
from helpers.logs import every_episode, ratios, some_policy
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hcache.logged.estimators import (
    doubly_robust,
    effective_size,
    ips,
    per_decision,
    self_normalised,
    weights,
)
from hcache.logged.log import Log, draw
from hcache.replay.exact import follow, returns
from hcache.replay.tree import Tree

FORESTS, SEEDS = small_forests(2000, 3), st.integers(0, 2000)


def some_model(log: Log, probs_NA: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Any Q of the states of a log: of the actions taken, and its value under a policy."""
    generator = torch.Generator().manual_seed(seed)
    q_NAV = torch.randn(*probs_NA.shape, 2, generator=generator, dtype=torch.float64)
    on_EL11 = log.taken_EL[..., None]
    at_EL = log.state_EL.clamp(min=0)
    taken_ELV = q_NAV[at_EL, log.action_EL.clamp(min=0)] * on_EL11
    return taken_ELV, (probs_NA[..., None] * q_NAV).sum(dim=1)[at_EL] * on_EL11


def all_values(log: Log, probs_NA: Tensor, seed: int) -> dict[str, Tensor]:
    ratio_EL, reward_ELV = ratios(log, probs_NA), log.reward_ELV
    return {
        "ips": ips(ratio_EL, reward_ELV),
        "per-decision": per_decision(ratio_EL, reward_ELV),
        "dr": doubly_robust(ratio_EL, reward_ELV, *some_model(log, probs_NA, seed)),
    }


def exact(tree: Tree, probs_NA: Tensor) -> list[float]:
    """Value of a policy, summed over the trees: quality, cost."""
    return [float(returns(tree, x, probs_NA).sum()) for x in (tree.quality_M, tree.cost_M)]


@given(FORESTS, SEEDS)
def test_over_all_logs_there_can_be_the_mean_is_the_exact_value(forest: Forest, seed: int) -> None:
    """With any target, any model for the doubly robust one, and a log that covers the target."""
    tree = forest.tree
    target_NA, logging_NA = some_policy(tree, seed, zeros=True), some_policy(tree, seed + 1)
    log, chance_E = every_episode(tree, logging_NA)
    assert float(chance_E.sum()) == pytest.approx(len(tree))
    for name, value_EV in all_values(log, target_NA, seed).items():
        mean_V = (chance_E[:, None] * value_EV).sum(dim=0).tolist()
        assert mean_V == pytest.approx(exact(tree, target_NA), abs=1e-9), name


@given(FORESTS, SEEDS)
def test_mean_weight_is_the_share_of_the_target_that_the_log_covers(
    forest: Forest, seed: int
) -> None:
    tree = forest.tree
    target_NA, logging_NA = some_policy(tree, seed), some_policy(tree, seed + 1, zeros=True)
    log, chance_E = every_episode(tree, logging_NA)
    seen = chance_E > 0
    ratio_EL = ratios(log, target_NA)[seen]
    mean = float((chance_E[seen] * weights(ratio_EL)).sum()) / len(tree)
    _, of_target_E = every_episode(tree, target_NA)
    assert mean == pytest.approx(float(of_target_E[seen].sum()) / len(tree))


@given(FORESTS, SEEDS)
def test_own_log_gives_the_mean_of_the_outcomes(forest: Forest, seed: int) -> None:
    tree, probs_NA = forest.tree, some_policy(forest.tree, seed)
    log = draw(tree, probs_NA, torch.arange(len(tree)).repeat(3), seed)
    outcome_V = log.reward_ELV.sum(dim=1).mean(dim=0).tolist()
    ratio_EL = ratios(log, probs_NA)
    for estimator in (ips, per_decision, self_normalised):
        found_V = estimator(ratio_EL, log.reward_ELV).mean(dim=0).tolist()
        assert found_V == pytest.approx(outcome_V)


@given(FORESTS, SEEDS)
def test_estimators_equal_plain_loops(forest: Forest, seed: int) -> None:
    tree, target_NA = forest.tree, some_policy(forest.tree, seed, zeros=True)
    log = draw(tree, some_policy(tree, seed + 1), torch.arange(len(tree)).repeat(4), seed)
    ratio_EL, reward_ELV = ratios(log, target_NA), log.reward_ELV
    taken_ELV, value_ELV = some_model(log, target_NA, seed)
    found = all_values(log, target_NA, seed)
    whole, weighted = 0.0, [0.0, 0.0]
    for e in range(len(log)):
        weight, before = 1.0, 1.0
        total, by_step, corrected = [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]
        for step in range(int(log.taken_EL[e].sum())):
            before, weight = weight, weight * float(ratio_EL[e, step])
            for v in (0, 1):
                reward = float(reward_ELV[e, step, v])
                total[v] += reward
                by_step[v] += weight * reward
                corrected[v] += before * float(value_ELV[e, step, v])
                corrected[v] += weight * (reward - float(taken_ELV[e, step, v]))
        whole += weight
        weighted = [w + weight * t for w, t in zip(weighted, total, strict=True)]
        assert found["ips"][e].tolist() == pytest.approx([weight * t for t in total])
        assert found["per-decision"][e].tolist() == pytest.approx(by_step)
        assert found["dr"][e].tolist() == pytest.approx(corrected)
    normalised_V = self_normalised(ratio_EL, reward_ELV).mean(dim=0).tolist()
    if whole == 0:
        assert all(math.isnan(value) for value in normalised_V)
        return
    assert normalised_V == pytest.approx([w / whole for w in weighted])


def test_spread_of_snips_is_that_of_its_jackknife() -> None:
    generator = torch.Generator().manual_seed(0)
    ratio_EL = torch.rand(4000, 2, generator=generator, dtype=torch.float64) * 2
    reward_ELV = torch.rand(4000, 2, 2, generator=generator, dtype=torch.float64)
    value_EV = self_normalised(ratio_EL, reward_ELV)
    weight_E1, total_EV = weights(ratio_EL)[:, None], reward_ELV.sum(dim=1)
    top_V, below = (weight_E1 * total_EV).sum(dim=0), weight_E1.sum()
    without_EV = (top_V - weight_E1 * total_EV) / (below - weight_E1)
    jackknife_V = (len(value_EV) - 1) * without_EV.std(dim=0)
    assert value_EV.std(dim=0).tolist() == pytest.approx(jackknife_V.tolist(), rel=0.01)


@given(FORESTS, SEEDS)
def test_a_drawn_log_is_what_the_policy_does(forest: Forest, seed: int) -> None:
    tree, probs_NA = forest.tree, some_policy(forest.tree, seed, zeros=True)
    tree_E = torch.arange(len(tree)).repeat(3)
    log = draw(tree, probs_NA, tree_E, seed)
    every, _ = every_episode(tree, probs_NA)
    known = {
        (tuple(s), tuple(a)): (q, c, p)
        for s, a, q, c, p in zip(
            every.state_EL.tolist(), every.action_EL.tolist(), every.quality_E.tolist(),
            every.cost_EL.tolist(), every.propensity_EL.tolist(), strict=True,
        )
    }  # fmt: skip
    for e, (s, a) in enumerate(zip(log.state_EL.tolist(), log.action_EL.tolist(), strict=True)):
        quality, costs, chances = known[tuple(s), tuple(a)]
        assert float(log.quality_E[e]) == quality
        assert log.cost_EL[e].tolist() == pytest.approx(costs)
        assert log.propensity_EL[e].tolist() == chances
        assert min(chance for chance, state in zip(chances, s, strict=True) if state >= 0) > 0
        assert s[0] == int(tree.root_T[tree_E[e]])
    assert log.query_E.tolist() == tree.query_T[tree_E].tolist()


@given(FORESTS, SEEDS)
def test_a_deterministic_policy_ends_where_it_is_followed_to(forest: Forest, seed: int) -> None:
    tree = forest.tree
    action_N = some_policy(tree, seed).argmax(dim=1)
    probs_NA = torch.nn.functional.one_hot(action_N, tree.actions).double()
    log = draw(tree, probs_NA, torch.arange(len(tree)), seed)
    leaf_T = follow(tree, action_N)
    assert log.quality_E.tolist() == tree.quality_M[leaf_T].tolist()
    assert log.cost_EL.sum(dim=1).tolist() == pytest.approx(tree.cost_M[leaf_T].tolist())


@given(st.lists(st.floats(0, 10), min_size=1, max_size=9))
def test_effective_size_is_kish(values: list[float]) -> None:
    weight_n = torch.tensor(values, dtype=torch.float64)
    found = effective_size(weight_n)
    squares = sum(value**2 for value in values)
    assert found == pytest.approx(sum(values) ** 2 / squares if squares else 0.0)
    assert found <= len(values) + 1e-9
    assert effective_size(torch.full((len(values),), 0.3)) == pytest.approx(len(values))


@pytest.mark.parametrize("seed", range(20))
def test_estimators_of_one_step_equal_those_of_open_bandit_pipeline(seed: int) -> None:
    obp = pytest.importorskip("obp.ope", reason="obp is not installed", exc_type=ImportError)
    rng = np.random.default_rng(seed)
    episodes, arms = rng.integers(5, 400), rng.integers(2, 6)
    logged_EA, asked_EA = (rng.dirichlet(np.ones(arms), episodes) for _ in range(2))
    arm_E = np.array([rng.choice(arms, p=own) for own in logged_EA])
    every_E = np.arange(episodes)
    reward_E, model_EA = rng.random(episodes), rng.random((episodes, arms))
    log = {
        "reward": reward_E, "action": arm_E, "pscore": logged_EA[every_E, arm_E],
        "action_dist": asked_EA[:, :, None],
    }  # fmt: skip
    ratio_E1 = torch.from_numpy(asked_EA[every_E, arm_E] / log["pscore"])[:, None]
    steps_E11 = torch.from_numpy(reward_E)[:, None, None]
    taken_E11 = torch.from_numpy(model_EA[every_E, arm_E])[:, None, None]
    value_E11 = torch.from_numpy((asked_EA * model_EA).sum(axis=1))[:, None, None]
    theirs = [
        obp.InverseProbabilityWeighting().estimate_policy_value(**log),
        obp.SelfNormalizedInverseProbabilityWeighting().estimate_policy_value(**log),
        obp.DoublyRobust().estimate_policy_value(
            **log, estimated_rewards_by_reg_model=model_EA[:, :, None]
        ),
    ]
    ours = [
        ips(ratio_E1, steps_E11),
        self_normalised(ratio_E1, steps_E11),
        doubly_robust(ratio_E1, steps_E11, taken_E11, value_E11),
    ]
    assert [float(own.mean()) for own in ours] == pytest.approx(theirs, abs=1e-14)
