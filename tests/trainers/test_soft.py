"""Soft policy iteration: targets and weights against a plain loop, and where it converges to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from helpers.forest import Node, random_forest, synthetic_forest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hcache.config.file import parse_settings
from hcache.errors import ConfigError
from hcache.evaluation.evaluator import evaluate
from hcache.policies.rollout import greedy_leaves
from hcache.replay.exact import backward, oracle_leaves
from hcache.replay.tree import Tree
from hcache.trainers import fit
from hcache.trainers.network import state_weights
from hcache.trainers.soft import Soft, SoftSettings

ALPHA = 0.1
torch.set_num_threads(1)

Table = Sequence[Sequence[float]]  # states × actions


def value(node: Node, probs: Table, target: str) -> float:
    """What a node brings under the policy, or under the oracle."""
    q = q_values(node, probs, target)
    if target == "optimal":
        return max(q.values())
    return sum(probs[node.index][action] * q[action] for action in q)


def q_values(node: Node, probs: Table, target: str) -> dict[int, float]:
    return {
        action: value(child, probs, target)
        if isinstance(child, Node)
        else child.quality - ALPHA * child.cost
        for action, child in node.actions.items()
    }


def boltzmann(q: dict[int, float], temperature: float) -> dict[int, float]:
    highest = max(q.values())
    powers = {action: math.exp((q[action] - highest) / temperature) for action in q}
    return {action: power / sum(powers.values()) for action, power in powers.items()}


def reached(node: Node, probs: Table, weight: float = 1.0) -> Iterator[tuple[Node, float]]:
    """All nodes below, with the chance that the policy passes them."""
    yield node, weight
    for action, child in node.actions.items():
        if isinstance(child, Node):
            yield from reached(child, probs, weight * probs[node.index][action])


def targets(trainer: Soft, probs_NA: Tensor) -> Tensor:
    """What the trainer wants of every state where the policy is as given."""
    tree, reward_M = trainer.tree, trainer.reward_M
    return trainer.targets(tree, reward_M, backward(tree, reward_M, probs_NA))


class Watched(Soft):
    """Remembers the trees that it learned at, minibatch by minibatch."""

    batches: list[list[str]]

    def improve(self, tree: Tree) -> Tensor:
        pairs = zip(tree.query_T.tolist(), tree.replica_T.tolist(), strict=True)
        names = [f"{query} {replica}" for query, replica in pairs]
        self.batches = [*getattr(self, "batches", []), names]
        return super().improve(tree)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    target=st.sampled_from(["soft", "optimal"]),
    temperature=st.sampled_from([0.005, 0.02, 1.0]),
    floor=st.sampled_from([0.0, 0.05, 2.0]),
    replicas=st.integers(1, 2),
    stop=st.booleans(),
)
def test_targets_weights_and_loss_equal_the_plain_loop(
    seed: int, target: Any, temperature: float, floor: float, replicas: int, stop: bool
) -> None:
    forest = random_forest(seed, queries=3, arms=3, hops=3, replicas=replicas, stop=stop)
    tree = forest.tree
    chosen = SoftSettings(
        target=target, temperature=temperature, floor=floor, batch_size=10**6, feature_dropout=0
    )
    trainer = Soft(tree, chosen, alpha=ALPHA, seed=0)
    with torch.no_grad():  # far from uniform
        list(trainer.policy.actor.parameters())[-2].mul_(100)
    probs_NA = trainer.policy.probs(tree.states)
    target_NA = targets(trainer, probs_NA)
    weight_N = state_weights(tree, probs_NA, floor)
    logprobs = trainer.policy.logits(tree.states).log_softmax(dim=1).tolist()
    probs = probs_NA.tolist()
    reaches = [pair for root in forest.roots for pair in reached(root, probs)]
    total = sum(chance + floor for _, chance in reaches)
    loss = 0.0
    for node, chance in reaches:
        wanted = boltzmann(q_values(node, probs, target), temperature)
        row = [wanted.get(action, 0.0) for action in range(tree.actions)]
        assert target_NA[node.index].tolist() == pytest.approx(row, abs=1e-9)
        weight = (chance + floor) / total
        assert float(weight_N[node.index]) == pytest.approx(weight * len(weight_N), abs=1e-9)
        loss -= weight * sum(p * logprobs[node.index][a] for a, p in wanted.items())
    metrics = trainer.step()
    assert metrics["loss"] == pytest.approx(loss, rel=1e-4, abs=1e-7)
    returns = [value(root, probs, "soft") for root in forest.roots]
    assert metrics["train_reward"] == pytest.approx(sum(returns) / len(returns), abs=1e-9)


def watched(seed: int, batch_size: int = 4) -> Watched:
    """A trainer after one iteration."""
    tree = random_forest(3, queries=5, arms=2, hops=3, replicas=2).tree
    trainer = Watched(tree, SoftSettings(batch_size=batch_size), alpha=ALPHA, seed=seed)
    trainer.step()
    return trainer


def test_an_iteration_passes_each_tree_once() -> None:
    for seed in range(20):
        trainer = watched(seed)
        assert [len(batch) for batch in trainer.batches] == [4, 4, 2]
        assert len({name for batch in trainer.batches for name in batch}) == 10


def test_the_order_follows_the_seed() -> None:
    one, two, other = (watched(seed) for seed in (1, 1, 2))
    assert one.batches == two.batches != other.batches
    for name, value in one.policy.state_dict().items():
        assert torch.equal(value, two.policy.state_dict()[name])
    one.step()
    assert one.batches[3:] != two.batches  # every iteration has an order of its own


@pytest.mark.parametrize("target", ["soft", "optimal"])
@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("replicas", [1, 3])
def test_a_small_forest_is_learned_to_the_oracle(target: Any, stop: bool, replicas: int) -> None:
    tree = random_forest(5, queries=4, arms=3, hops=3, features=32, replicas=replicas).tree
    tree = tree if stop else tree.without_stop()
    trainer = Soft(tree, SoftSettings(target=target, lr=1e-2), alpha=ALPHA, seed=0)
    for _ in range(150):
        metrics = trainer.step()
    reward_M = tree.reward_M(ALPHA)
    best_T = reward_M[oracle_leaves(tree, reward_M)]
    leaf_T = greedy_leaves(trainer.policy, tree)
    assert torch.allclose(reward_M[leaf_T], best_T, rtol=0, atol=1e-9)
    assert metrics["train_reward"] == pytest.approx(float(best_T.mean()), abs=0.02)


def test_a_later_mistake_is_reckoned_with() -> None:
    """Q^π of a policy that never does what is best afterwards prefers another first action."""
    tree = random_forest(0, queries=1, arms=2, hops=2, ragged=False, stop=False).tree
    root, (left, right) = 0, tree.child_NA[0, :2].tolist()
    tree.cost_M[:] = 0.0
    for state, action, quality in (
        (left, 0, 1.0),
        (left, 1, 0.0),
        (right, 0, 0.5),
        (right, 1, 0.5),
    ):
        tree.quality_M[tree.leaf_NA[state, action]] = quality
    probs_NA = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).repeat(3, 1)
    probs_NA[left] = torch.tensor([0.1, 0.9, 0.0])
    for target, first in (("soft", 1), ("optimal", 0)):
        chosen = parse_settings(SoftSettings, {"target": target}, "here")
        trainer = Soft(tree, chosen, alpha=ALPHA, seed=0)
        assert int(targets(trainer, probs_NA)[root].argmax()) == first


@pytest.mark.parametrize(("target", "share"), [("soft", 0.95), ("optimal", 0.9)])
def test_it_closes_the_gap_on_unseen_queries(target: Any, share: float) -> None:
    train, valid, test = (
        synthetic_forest(count, seed=seed, features=64, noise=0.5, prefix=str(seed))
        for seed, count in enumerate((300, 80, 200))
    )
    fitted = fit(
        Soft(train, SoftSettings(target=target), alpha=0.02, seed=0),
        valid,
        iterations=40,
        evaluate_every=2,
        patience=0,
        on_metrics=lambda metrics: None,
    )
    report = evaluate(
        test, {"soft": fitted.policy}, alpha=0.02, selection=[train, valid], resamples=1000
    )
    (row,) = (row for row in report.groups[0].rows if row.role == "router")
    assert row.gap_closed.estimate >= share
    assert row.verdict == "better"


def test_settings_are_checked() -> None:
    for name, wrong in (("temperature", 0), ("target", "best"), ("batch_size", 0), ("lr", 0)):
        with pytest.raises(ConfigError, match=f"here: {name}: "):
            parse_settings(SoftSettings, {name: wrong}, "here")
