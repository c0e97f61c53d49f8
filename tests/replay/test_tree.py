"""Everything exact on the tree, against plain loops over nested nodes."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.forest import Forest, Leaf, Node, leaves_of, nodes_of, random_forest, small_forests
from helpers.policies import RandomPolicy, SequencePolicy
from hypothesis import given, settings
from hypothesis import strategies as st

from hcache.errors import DataError, RunError
from hcache.policies.rollout import greedy_leaves
from hcache.replay.exact import (
    backward,
    follow,
    hops_of,
    mean_by_query,
    only_best,
    oracle,
    oracle_leaves,
    random_means,
    reach,
    returns,
    sequences,
    static_leaves,
)
from hcache.replay.tree import NONE, greedy, tree_of_leaf, tree_of_state

forests = small_forests(seeds=10**6, hops=4)
alphas = st.sampled_from([0.0, 0.05, 0.3])
quick = settings(max_examples=60, deadline=None)


def some_probs(forest: Forest) -> torch.Tensor:
    valid = forest.tree.valid_NA
    chance = torch.rand(valid.shape, generator=torch.Generator().manual_seed(0)).double()
    chance = chance.masked_fill(~valid, 0.0) + 1e-3 * valid
    return chance / chance.sum(dim=1, keepdim=True)


def value_twin(target: Node | Leaf, reward: list[float], probs: list[list[float]] | None) -> float:
    if isinstance(target, Leaf):
        return reward[target.index]
    values = {a: value_twin(t, reward, probs) for a, t in target.actions.items()}
    if probs is None:
        return max(values.values())
    return sum(probs[target.index][a] * value for a, value in values.items())


@quick
@given(forests, alphas, st.booleans())
def test_backward_equals_recursion(forest: Forest, alpha: float, best: bool) -> None:
    tree = forest.tree
    reward_M = tree.reward_M(alpha)
    probs_NA = None if best else some_probs(forest)
    q_NA = backward(tree, reward_M, probs_NA)
    probs = None if probs_NA is None else probs_NA.tolist()
    for root in forest.roots:
        for node in nodes_of(root):
            for action in range(tree.actions):
                target = node.actions.get(action)
                wanted = (
                    -math.inf if target is None else value_twin(target, reward_M.tolist(), probs)
                )
                assert q_NA[node.index, action].item() == pytest.approx(wanted, abs=1e-12)


@quick
@given(forests, alphas)
def test_returns_and_reach_equal_walks(forest: Forest, alpha: float) -> None:
    tree, probs_NA = forest.tree, some_probs(forest)
    reward_M = tree.reward_M(alpha)
    reach_N = reach(tree, probs_NA)
    returns_T = returns(tree, reward_M, probs_NA)

    def walk(target: Node | Leaf, chance: float) -> float:
        if isinstance(target, Leaf):
            return chance * float(reward_M[target.index])
        assert reach_N[target.index].item() == pytest.approx(chance, abs=1e-12)
        steps = target.actions.items()
        return sum(walk(t, chance * float(probs_NA[target.index, a])) for a, t in steps)

    for index, root in enumerate(forest.roots):
        assert returns_T[index].item() == pytest.approx(walk(root, 1.0), abs=1e-12)


@quick
@given(forests, alphas)
def test_follow_and_greedy_equal_a_walk(forest: Forest, alpha: float) -> None:
    tree = forest.tree
    action_N = greedy(some_probs(forest), tree.valid_NA)
    leaf_T = follow(tree, action_N)
    for index, root in enumerate(forest.roots):
        place: Node | Leaf = root
        while isinstance(place, Node):
            place = place.actions[int(action_N[place.index])]
        assert leaf_T[index].item() == place.index


@quick
@given(forests)
def test_sequences_are_the_paths_of_the_leaves(forest: Forest) -> None:
    paths = {leaf.path for root in forest.roots for leaf in leaves_of(root)}
    assert sequences(forest.tree) == sorted(paths, key=lambda path: (len(path), path))


@quick
@given(forests)
def test_static_leaves_equal_a_walk(forest: Forest) -> None:
    tree = forest.tree
    paths = sequences(tree)
    leaf_TS = static_leaves(tree, paths)
    for t, root in enumerate(forest.roots):
        for s, path in enumerate(paths):
            place: Node | Leaf | None = root
            for action in (*path, *[tree.stop] * tree.hops):
                if isinstance(place, Node):
                    place = place.actions.get(action)
            assert leaf_TS[t, s].item() == (place.index if isinstance(place, Leaf) else NONE)


@quick
@given(forests, alphas)
def test_oracle_is_the_best_leaf_and_the_cheapest_of_equals(forest: Forest, alpha: float) -> None:
    tree = forest.tree
    reward_M = tree.reward_M(alpha)
    leaf_T = oracle_leaves(tree, reward_M)
    assert follow(tree, oracle(tree, reward_M)).shape == leaf_T.shape
    for t, root in enumerate(forest.roots):
        leaves = list(leaves_of(root))
        best = max(float(reward_M[leaf.index]) for leaf in leaves)
        tied = [leaf for leaf in leaves if float(reward_M[leaf.index]) >= best - 1e-12]
        chosen = int(leaf_T[t])
        assert chosen in {leaf.index for leaf in tied}
        assert float(tree.cost_M[chosen]) == min(leaf.cost for leaf in tied)


@quick
@given(forests, alphas)
def test_only_best_keeps_exactly_the_best_actions(forest: Forest, alpha: float) -> None:
    tree = forest.tree
    q_NA = backward(tree, tree.reward_M(alpha))
    kept_NA = only_best(tree, tree.reward_M(alpha)).valid_NA
    for row, kept in zip(q_NA.tolist(), kept_NA.tolist(), strict=True):
        assert kept == [value >= max(row) - 1e-12 for value in row]


@quick
@given(forests, alphas)
def test_oracle_beats_all_and_chance_is_between(forest: Forest, alpha: float) -> None:
    tree = forest.tree
    reward_M = tree.reward_M(alpha)
    best_T = reward_M[oracle_leaves(tree, reward_M)]
    for leaf_T in static_leaves(tree, sequences(tree)).T:
        has = leaf_T >= 0
        assert bool((best_T[has] >= reward_M[leaf_T[has]] - 1e-12).all())
    chance_T = random_means(tree, reward_M)
    assert bool((best_T >= chance_T - 1e-12).all())
    uniform = RandomPolicy(tree.arms).probs(tree.states)
    assert torch.allclose(chance_T, returns(tree, reward_M, uniform), atol=1e-12)


@quick
@given(forests)
def test_greedy_leaves_equal_following_all_states(forest: Forest) -> None:
    tree = forest.tree
    policy = SequencePolicy(tree.arms, [0])
    action_N = greedy(policy.probs(tree.states), tree.valid_NA)
    assert torch.equal(greedy_leaves(policy, tree), follow(tree, action_N))


@quick
@given(forests)
def test_owners_hops_and_means_over_replicas(forest: Forest) -> None:
    tree = forest.tree
    owner_N = tree_of_state(tree)
    for t, root in enumerate(forest.roots):
        assert all(int(owner_N[node.index]) == t for node in nodes_of(root))
        for leaf in leaves_of(root):
            assert int(hops_of(tree)[leaf.index]) == len(leaf.path)
    value_T = torch.arange(len(tree)).double()
    per_query = [value_T[tree.query_T == q].mean() for q in range(len(tree.queries))]
    assert torch.allclose(mean_by_query(tree, value_T), torch.stack(per_query))
    both = mean_by_query(tree, torch.stack([value_T, 2 * value_T], dim=1))
    assert torch.allclose(both[:, 1], 2 * both[:, 0])


@quick
@given(forests)
def test_levels_partition_the_states(forest: Forest) -> None:
    tree = forest.tree
    for hop, level in enumerate(tree.levels):
        assert bool((tree.hop_N[level] == hop).all())
    assert sum(level.stop - level.start for level in tree.levels) == len(tree.hop_N)


def test_without_stop_nobody_stops() -> None:
    tree = random_forest(1, ragged=False).tree
    assert {len(path) for path in sequences(tree)} == {1, 2, 3}
    assert {len(path) for path in sequences(tree.without_stop())} == {3}


def test_to_keeps_everything() -> None:
    tree = random_forest(1).tree
    moved = tree.to("cpu")
    assert moved.arms == tree.arms
    assert torch.equal(moved.child_NA, tree.child_NA)


def test_a_policy_for_other_arms_is_refused() -> None:
    tree = random_forest(1, arms=2).tree
    with pytest.raises(RunError, match="routes among a, z"):
        greedy_leaves(RandomPolicy(("a", "z")), tree)


def test_a_state_without_actions_is_refused() -> None:
    tree = random_forest(1, arms=2, ragged=False).tree
    tree.child_NA[tree.root_T[0]] = NONE
    with pytest.raises(DataError, match="no action"):
        greedy_leaves(RandomPolicy(tree.arms), tree)


def test_a_query_without_a_tree_is_refused() -> None:
    tree = random_forest(1, queries=2, ragged=False).tree
    tree.query_T[:] = 0
    with pytest.raises(DataError, match="q1 has no tree"):
        mean_by_query(tree, torch.zeros(len(tree)))


@given(forests, alphas, st.integers(1, 4))
def test_some_trees_are_a_forest_like_the_whole(forest: Forest, alpha: float, count: int) -> None:
    """Whatever follows from a forest follows from some of its trees in the same way."""
    tree = forest.tree
    index_B = torch.randperm(len(tree), generator=torch.Generator().manual_seed(count))[:count]
    some = tree.some(index_B)
    reward_M, mine_M = tree.reward_M(alpha), some.reward_M(alpha)
    whole, part = (each.valid_NA / each.valid_NA.sum(dim=1, keepdim=True) for each in (tree, some))
    assert torch.equal(returns(some, mine_M, part), returns(tree, reward_M, whole)[index_B])
    best, mine = oracle_leaves(tree, reward_M)[index_B], oracle_leaves(some, mine_M)
    for name in ("quality_M", "cost_M", "path_ML"):
        assert torch.equal(getattr(some, name)[mine], getattr(tree, name)[best])
    for name in ("query_T", "replica_T"):
        assert torch.equal(getattr(some, name), getattr(tree, name)[index_B])
    for owner in (tree_of_state, tree_of_leaf):
        sizes = owner(tree).bincount(minlength=len(tree))
        assert torch.equal(owner(some).bincount(minlength=len(index_B)), sizes[index_B])
    assert torch.equal(some.features_ND[some.root_T], tree.features_ND[tree.root_T[index_B]])
