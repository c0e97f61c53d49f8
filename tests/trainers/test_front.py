"""The trainer of a policy that takes α as an input: one training, every α."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.forest import Forest, Leaf, Node, leaves_of, random_forest, synthetic_forest
from hypothesis import given, settings
from hypothesis import strategies as st

from hcache.policies import AnyAlpha, at_alpha, load_policy
from hcache.policies.mlp import SPAN, ConditionedPolicy
from hcache.policies.rollout import greedy_leaves
from hcache.replay.exact import oracle_leaves
from hcache.replay.tree import Tree
from hcache.trainers.front import GRID, MOST, Front
from hcache.trainers.soft import SoftSettings

ALPHA = 0.1
ALPHAS = (0.0, 0.01, 0.1, 1.0, 50.0)
torch.set_num_threads(1)


def loud(policy: ConditionedPolicy) -> ConditionedPolicy:
    """Far from uniform, so that α makes a difference to what is most probable."""
    with torch.no_grad():
        list(policy.actor.parameters())[-2].mul_(100)
    return policy


def fresh(seed: int = 0, alpha: float = ALPHA) -> tuple[Forest, ConditionedPolicy]:
    forest = random_forest(seed, queries=6, arms=3, hops=3, replicas=2)
    policy = ConditionedPolicy.for_tree(forest.tree, seed=seed)
    return forest, loud(policy.centred_at(alpha))


def probs(policy: Any, tree: Tree) -> torch.Tensor:
    found: torch.Tensor = policy.probs(tree.states)
    return found


def test_alpha_makes_a_difference() -> None:
    forest, policy = fresh()
    found = [probs(policy.at(alpha), forest.tree) for alpha in ALPHAS]
    for one, two in pairwise(found):
        assert (one - two).abs().max() > 1e-3
    assert torch.equal(probs(policy, forest.tree), probs(policy.at(ALPHA), forest.tree))


def test_a_view_shares_the_weights_and_keeps_its_alpha() -> None:
    forest, policy = fresh()
    view = policy.at(1.0)
    assert isinstance(policy, AnyAlpha)
    assert type(at_alpha(policy, 1.0)) is ConditionedPolicy
    for name, value in policy.named_parameters():
        assert dict(view.named_parameters())[name] is value
    before = probs(view, forest.tree)
    own = probs(policy, forest.tree)
    policy.at(0.0), view.at(3.0)
    assert torch.equal(probs(view, forest.tree), before)
    assert torch.equal(probs(policy, forest.tree), own)
    assert torch.equal(probs(view.at(ALPHA), forest.tree), own)
    other = loud(ConditionedPolicy.for_tree(forest.tree, seed=9)).centred_at(2.0)
    policy.load_state_dict(other.state_dict())
    assert torch.equal(probs(view, forest.tree), probs(other.at(1.0), forest.tree))
    assert not torch.equal(probs(view, forest.tree), before)


def test_alpha_is_seen_as_its_share() -> None:
    """u = α / (α + α₀), at the end of the inputs, from −2 to 2."""
    forest, policy = fresh(alpha=0.5)
    plain = policy.at(0.0).inputs(forest.tree.states).rest_NR
    for alpha in ALPHAS:
        inputs = policy.at(alpha).inputs(forest.tree.states).rest_NR
        assert torch.equal(inputs[:, :-1], plain[:, :-1])
        wanted = 4 * (alpha / (alpha + 0.5)) - 2
        assert inputs[:, -1].tolist() == pytest.approx([wanted] * len(inputs), abs=1e-6)
    assert policy.inputs(forest.tree.states).rest_NR[0, -1] == 0  # u = ½ at α₀


def test_an_alpha_for_each_state_equals_separate_calls() -> None:
    forest, policy = fresh()
    states = forest.tree.states
    generator = torch.Generator().manual_seed(0)
    place_N = torch.randint(len(ALPHAS), (len(states),), generator=generator)
    alpha_N = torch.tensor(ALPHAS, dtype=torch.float64)[place_N]
    together = policy.at(alpha_N).probs(states)
    values = policy.at(alpha_N).values(states)
    for place, alpha in enumerate(ALPHAS):
        mine = place_N == place
        assert mine.any()
        alone = policy.at(alpha)
        assert torch.allclose(together[mine], alone.probs(states)[mine], rtol=0, atol=1e-6)
        assert torch.allclose(values[mine], alone.values(states)[mine], rtol=0, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.02, 3.0])
def test_saving_keeps_the_centre(alpha: float, tmp_path: Path) -> None:
    forest, policy = fresh(alpha=alpha)
    assert float(policy.alpha_0) == (alpha if alpha > 0 else 1.0)
    policy.save(tmp_path / "own")
    policy.at(7.0).save(tmp_path / "view")
    for name in ("own", "view"):  # what a view was asked about is not saved
        again = load_policy(tmp_path / name)
        assert isinstance(again, ConditionedPolicy)
        assert again.alpha_0.dtype == torch.float64
        assert float(again.alpha_0) == float(policy.alpha_0)
        assert torch.equal(probs(again, forest.tree), probs(policy, forest.tree))
        for at in ALPHAS:
            assert torch.equal(probs(again.at(at), forest.tree), probs(policy.at(at), forest.tree))


def test_the_centre_is_the_alpha_of_training_but_for_a_start() -> None:
    tree = random_forest(0, arms=3).tree
    assert float(Front(tree, alpha=0.3, seed=0).policy.alpha_0) == 0.3
    assert float(Front(tree, alpha=0.0, seed=0).policy.alpha_0) == 1.0
    start = Front(tree, alpha=0.3, seed=0).policy
    assert float(Front(tree, alpha=0.7, seed=0, init=start).policy.alpha_0) == 0.3


def greedy_leaf(node: Node, table: list[list[float]]) -> Leaf:
    action = max(node.actions, key=lambda a: (table[node.index][a], -a))
    child = node.actions[action]
    return child if isinstance(child, Leaf) else greedy_leaf(child, table)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.1, 0.5]), st.booleans())
def test_validation_is_the_plain_mean_over_its_grid(seed: int, alpha: float, centred: bool) -> None:
    forest, start = fresh(seed, 0.25)
    trainer = Front(forest.tree, alpha=alpha, seed=0, init=start if centred else None)
    loud(trainer.policy)
    centre = 0.25 if centred else alpha or 1.0
    rewards = []
    for u in (0.0, 0.25, 0.5, 0.75, 0.95):
        at = centre * u / (1 - u)
        table = probs(trainer.policy.at(at), forest.tree).tolist()
        leaves = [greedy_leaf(root, table) for root in forest.roots]
        rewards += [(1 - u) * (leaf.quality - at * leaf.cost) for leaf in leaves]
    found = trainer.validate(forest.tree)
    assert found["reward"] == pytest.approx(math.fsum(rewards) / len(rewards), abs=1e-9)
    table = probs(trainer.policy.at(alpha), forest.tree).tolist()
    leaves = [greedy_leaf(root, table) for root in forest.roots]
    for name in ("quality", "cost"):
        wanted = sum(getattr(leaf, name) for leaf in leaves) / len(leaves)
        assert found[name] == pytest.approx(wanted)
    assert found["hops"] == pytest.approx(sum(len(leaf.path) for leaf in leaves) / len(leaves))


def expected(node: Node | Leaf, table: list[list[float]], alpha: float) -> float:
    if isinstance(node, Leaf):
        return node.quality - alpha * node.cost
    return sum(
        table[node.index][action] * expected(child, table, alpha)
        for action, child in node.actions.items()
    )


@pytest.mark.parametrize("seed", range(3))
def test_trees_learn_each_at_an_alpha_of_its_own(seed: int) -> None:
    """Mean return and loss of an iteration against the plain loop, at the α of each tree."""
    forest, start = fresh(seed, 0.25)
    taken: dict[tuple[int, int], float] = {}

    class Watched(Front):
        def task(self, tree: Tree) -> tuple[ConditionedPolicy, torch.Tensor]:
            policy, reward_M = super().task(tree)
            trees = zip(tree.query_T.tolist(), tree.replica_T.tolist(), strict=True)
            u_T = (policy.inputs(tree.states).rest_NR[tree.root_T, -1] / SPAN + 0.5).double()
            taken.update(zip(trees, (0.25 * u_T / (1 - u_T)).tolist(), strict=True))
            return policy, reward_M

    chosen = SoftSettings(batch_size=10**6, temperature=0.05, floor=0.1, feature_dropout=0)
    metrics = Watched(forest.tree, chosen, alpha=0.25, seed=seed, init=start).step()
    trees = zip(forest.tree.query_T.tolist(), forest.tree.replica_T.tolist(), strict=True)
    alphas = [taken[pair] for pair in trees]
    assert len(set(alphas)) == len(forest.roots)
    rewards, losses, weights = [], [], []
    for root, alpha in zip(forest.roots, alphas, strict=True):
        u, table = alpha / (alpha + 0.25), probs(start.at(alpha), forest.tree).tolist()
        assert 0 <= u <= MOST
        rewards.append((1 - u) * expected(root, table, alpha))
        for node, chance in passed(root, table):
            q = {a: (1 - u) * expected(c, table, alpha) for a, c in node.actions.items()}
            powers = {a: math.exp((v - max(q.values())) / 0.05) for a, v in q.items()}
            total = sum(powers.values())
            losses.append(
                -sum(p / total * math.log(table[node.index][a]) for a, p in powers.items())
            )
            weights.append(chance + 0.1)
    assert metrics["train_reward"] == pytest.approx(sum(rewards) / len(rewards), abs=1e-4)
    loss = sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-3)


def passed(node: Node, table: list[list[float]], chance: float = 1.0) -> list[tuple[Node, float]]:
    """All nodes below, with the chance that the policy passes them."""
    found = [(node, chance)]
    for action, child in node.actions.items():
        if isinstance(child, Node):
            found += passed(child, table, chance * table[node.index][action])
    return found


def test_one_training_serves_quality_and_cost_and_what_is_between() -> None:
    """Few queries, told apart by their text: at each α the policy comes near that α's oracle."""
    alpha = 0.5
    tree = synthetic_forest(32, seed=0, features=32, noise=0.2, hops=2)
    trainer = Front(tree, SoftSettings(batch_size=4), alpha=alpha, seed=0)
    rewards = [trainer.validate(tree)["reward"]]
    for _ in range(80):
        trainer.step()
    rewards.append(trainer.validate(tree)["reward"])
    assert rewards[1] > rewards[0]

    def means(leaf_T: torch.Tensor) -> tuple[float, float]:
        return float(tree.quality_M[leaf_T].mean()), float(tree.cost_M[leaf_T].mean())

    large = alpha * MOST / (1 - MOST)
    at_0, at_large = (means(greedy_leaves(trainer.policy.at(a), tree)) for a in (0.0, large))
    best = means(oracle_leaves(tree, tree.quality_M))
    cheapest = means(oracle_leaves(tree, -tree.cost_M))
    assert at_0[0] >= best[0] - 0.04  # one query of 32
    assert at_large[1] <= cheapest[1] + 0.05
    assert best[0] > cheapest[0] + 0.5 and best[1] > cheapest[1] + 0.5  # these are far apart
    assert at_0[1] > at_large[1] + 0.5
    for u in GRID:
        at = alpha * u / (1 - u)
        reward_M = tree.reward_M(at)
        mine = reward_M[greedy_leaves(trainer.policy.at(at), tree)].mean()
        oracle = reward_M[oracle_leaves(tree, reward_M)].mean()
        assert (1 - u) * float(oracle - mine) <= 0.05


def test_more_weight_on_cost_never_costs_much_more() -> None:
    tree = synthetic_forest(16, seed=1, features=32, noise=0.2, hops=2)
    trainer = Front(tree, SoftSettings(batch_size=4), alpha=0.5, seed=0)
    for _ in range(60):
        trainer.step()
    costs = []
    for u in (0.0, 0.2, 0.4, 0.6, 0.8, MOST):
        leaf_T = greedy_leaves(trainer.policy.at(0.5 * u / (1 - u)), tree)
        costs.append(float(tree.cost_M[leaf_T].mean()))
    assert all(later <= cost + 0.1 for cost, later in pairwise(costs))
    assert costs[0] > costs[-1] + 0.5


def test_the_forest_of_these_tests_ends_in_many_ways() -> None:
    forest, policy = fresh()
    table = probs(policy, forest.tree).tolist()
    ends = {greedy_leaf(root, table).path for root in forest.roots}
    assert len(ends) > 2
    assert all(len(list(leaves_of(root))) > 1 for root in forest.roots)
