"""The cascade: spines against a walk, thresholds and orders against brute force."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.forest import Forest, Leaf, Node, lay_out, nodes_of, random_forest
from hypothesis import given, settings
from hypothesis import strategies as st

from hcache.errors import RunError
from hcache.policies import load_policy
from hcache.policies.rollout import greedy_leaves
from hcache.trainers import threshold
from hcache.trainers.base import greedy_metrics
from hcache.trainers.threshold import (
    Cascade,
    best_cascade,
    best_cut,
    best_thresholds,
    orders,
    spine,
)

ALPHA = 0.05


def forest_and_scores(seed: int, **options: Any) -> tuple[Forest, torch.Tensor]:
    forest = random_forest(seed, arms=2, **options)
    generator = torch.Generator().manual_seed(seed)
    score_N = torch.randint(0, 5, (len(forest.tree.hop_N),), generator=generator) / 4
    return forest, score_N.double()


def walk(
    node: Node, order: tuple[int, ...], scores: list[float], tau: list[float], stop: int
) -> Leaf:
    """Where a cascade ends, a node at a time."""
    while True:
        action = order[node.hop] if node.hop < len(order) else min(node.actions)
        if action not in node.actions:
            action = min(node.actions)
        if stop in node.actions and scores[node.index] >= tau[node.hop]:
            action = stop
        child = node.actions[action]
        if isinstance(child, Leaf):
            return child
        node = child


def reward(forest: Forest, order: tuple[int, ...], scores: list[float], tau: list[float]) -> float:
    leaves = [walk(root, order, scores, tau, forest.tree.stop) for root in forest.roots]
    return sum(leaf.quality - ALPHA * leaf.cost for leaf in leaves) / len(leaves)


def cuts(scores: list[float]) -> list[float]:
    return [-math.inf, *sorted(set(scores)), math.inf]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.sampled_from([-math.inf, 0.3, 0.6, math.inf])))
def test_a_spine_follows_the_order(seed: int, start: list[float]) -> None:
    forest, score_N = forest_and_scores(seed, queries=4, hops=3)
    tree = forest.tree
    tau = [*start, 0.5, 0.5, 0.5][: tree.hops]
    for order in itertools.product(range(2), repeat=2):
        way = spine(tree, order, score_N, tree.reward_M(ALPHA))
        outcome_T = way.outcome(torch.tensor(tau, dtype=torch.float64))
        slow = reward(forest, order, score_N.tolist(), tau)
        assert float(outcome_T.mean()) == pytest.approx(slow, abs=1e-9)
        assert bool((way.bound() >= outcome_T - 1e-12).all())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 8))
def test_the_best_cut_equals_brute_force(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    score_K = torch.randint(0, 4, (count,), generator=generator).double()
    gain_K = torch.randn(count, generator=generator, dtype=torch.float64)
    values = {tau: float(gain_K[score_K >= tau].sum()) for tau in cuts(score_K.tolist())}
    assert values[best_cut(score_K, gain_K)] == pytest.approx(max(values.values()), abs=1e-9)


def test_never_and_always_are_said_so() -> None:
    score_K = torch.tensor([0.2, 0.9], dtype=torch.float64)
    assert best_cut(score_K, -torch.ones(2)) == math.inf
    assert best_cut(score_K, torch.ones(2)) == -math.inf
    assert best_cut(score_K, torch.tensor([-1.0, 1.0])) == 0.9


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_one_threshold_and_the_order_equal_brute_force(seed: int) -> None:
    forest, score_N = forest_and_scores(seed, queries=5, hops=2)
    tree, scores = forest.tree, score_N.tolist()
    order, threshold_L = best_cascade(tree, score_N, tree.reward_M(ALPHA))
    found = reward(forest, tuple(order), scores, threshold_L.tolist())
    brute = max(
        reward(forest, other, scores, [math.inf] * (tree.hops - 1) + [tau])
        for other in orders(tree)
        for tau in cuts(scores)
    )
    assert found == pytest.approx(brute, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_no_single_threshold_improves_the_cascade(seed: int) -> None:
    forest, score_N = forest_and_scores(seed, queries=5, hops=3)
    tree, scores = forest.tree, score_N.tolist()
    weight_T = torch.full((len(tree),), 1 / len(tree), dtype=torch.float64)
    for order in orders(tree)[:4]:
        way = spine(tree, order, score_N, tree.reward_M(ALPHA))
        tau = best_thresholds(way, weight_T).tolist()
        found = reward(forest, order, scores, tau)
        for hop, value in itertools.product(range(tree.hops), cuts(scores)):
            changed = [*tau[:hop], value, *tau[hop + 1 :]]
            assert reward(forest, order, scores, changed) <= found + 1e-9


def test_orders_are_the_longest_sequences() -> None:
    tree = random_forest(0, arms=2, hops=3, ragged=False).tree
    assert orders(tree) == list(itertools.product(range(2), repeat=3))
    assert orders(tree.without_stop()) == orders(tree)


def test_of_very_many_orders_the_promising_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    forest, _ = forest_and_scores(3, queries=6, hops=3, ragged=False)
    tree = forest.tree
    reward_M = tree.reward_M(ALPHA)
    score_N = torch.rand(len(tree.hop_N), dtype=torch.float64)
    every, _ = best_cascade(tree, score_N, reward_M)
    bounds = {
        order: float(spine(tree, order, score_N, reward_M).bound().mean()) for order in orders(tree)
    }
    monkeypatch.setattr(threshold, "ORDERS", 1)
    one, _ = best_cascade(tree, score_N, reward_M)
    assert bounds[tuple(one)] == max(bounds.values())
    assert bounds[tuple(one)] >= bounds[tuple(every)]


def seen_quality(queries: int, replicas: int) -> Forest:
    """Arm 0 is cheap and right where the feature of its answer says so; arm 1 always is."""
    rng = torch.Generator().manual_seed(0)
    roots = []
    for index in range(queries * replicas):
        good = float(index % 2)
        root = Node(torch.randn(2, generator=rng).tolist(), 0.0, 0)
        for action, quality, cost in ((0, good, 1.0), (1, 1.0, 5.0)):
            later = Node([4 * quality - 2, float(torch.randn((), generator=rng))], cost, 1)
            later.actions = {
                0: Leaf(good, cost + 1, (action, 0)),
                1: Leaf(1.0, cost + 5, (action, 1)),
                2: Leaf(quality, cost, (action,)),
            }
            root.actions[action] = later
        roots.append(root)
    return lay_out(roots, "ab", hops=2, replicas=replicas)


@pytest.mark.parametrize("replicas", [1, 2])
def test_it_stops_where_the_answer_is_good(replicas: int, tmp_path: Path) -> None:
    tree = seen_quality(20, replicas).tree
    policy = Cascade(tree, alpha=ALPHA, seed=0).policy
    leaf_T = greedy_leaves(policy, tree)
    assert bool((tree.quality_M[leaf_T] == 1).all())
    assert set(tree.cost_M[leaf_T].tolist()) == {1.0, 6.0}
    assert greedy_metrics(policy, tree, ALPHA)["reward"] == pytest.approx(1 - ALPHA * 3.5)
    policy.save(tmp_path)
    assert torch.equal(load_policy(tmp_path).probs(tree.states), policy.probs(tree.states))
    free = Cascade(tree, alpha=0.0, seed=0).policy
    assert bool((tree.quality_M[greedy_leaves(free, tree)] == 1).all())
    dear = Cascade(tree, alpha=100.0, seed=0).policy
    assert bool((tree.cost_M[greedy_leaves(dear, tree)] == 1).all())


@pytest.mark.parametrize("seed", range(8))
def test_the_policy_walks_as_the_loop_does(seed: int) -> None:
    forest = random_forest(seed, queries=6, arms=3, hops=3, replicas=2)
    tree = forest.tree
    one, two = (Cascade(tree, alpha=ALPHA, seed=1).policy for _ in range(2))
    assert all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())
    probs_NA = one.probs(tree.states)
    assert bool((probs_NA[~tree.valid_NA] == 0).all())
    assert bool((probs_NA.sum(dim=1) == 1).all())
    scores = one.scores(tree.features_ND, tree.hop_N).tolist()
    order = tuple(one.order_L[one.order_L >= 0].tolist())
    tau = one.threshold_L.tolist()
    leaves = [walk(root, order, scores, tau, tree.stop).index for root in forest.roots]
    assert greedy_leaves(one, tree).tolist() == leaves


def test_scores_that_choose_thresholds_come_from_other_queries() -> None:
    forest = seen_quality(20, 2)
    trainer = Cascade(forest.tree, alpha=ALPHA, seed=0)
    before_N = trainer._cross_fit(forest.tree)
    mine = {node.index for root in forest.roots[:2] for node in nodes_of(root)}
    changed_M = forest.tree.quality_M.clone()
    for root in forest.roots[:2]:
        for node in nodes_of(root):
            for child in node.actions.values():
                if isinstance(child, Leaf):
                    changed_M[child.index] = 1 - changed_M[child.index]
    forest.tree.quality_M.copy_(changed_M)
    same_N = (trainer._cross_fit(forest.tree) == before_N).tolist()
    assert all(same_N[index] for index in mine)
    assert not all(same_N)


def test_without_stop_it_says_why_not() -> None:
    tree = random_forest(0, queries=4, ragged=False).tree
    assert Cascade.unfit(tree) == ""
    assert "no state offers STOP" in Cascade.unfit(tree.without_stop())
    policy = Cascade(tree.without_stop(), alpha=ALPHA, seed=0).policy
    assert bool((policy.threshold_L == math.inf).all())


def test_a_single_query_is_enough() -> None:
    tree = random_forest(1, queries=1, ragged=False).tree
    assert math.isfinite(
        greedy_metrics(Cascade(tree, alpha=ALPHA, seed=0).policy, tree, 0.1)["reward"]
    )


def test_states_of_another_kind_are_refused() -> None:
    policy = Cascade(random_forest(0, hops=2, ragged=False).tree, alpha=ALPHA, seed=0).policy
    with pytest.raises(RunError, match="the policy knows 2"):
        policy.probs(random_forest(0, hops=3, ragged=False).tree.states)
