"""The return of a stochastic policy in each tree, beside a plain loop and beside sampling."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from benchmarks.learning.forest import forest
from benchmarks.learning.learner import ALPHA
from hcache.replay.exact import returns
from hcache.replay.tree import Tree

from .contest import Action, Figures, contest

QUESTIONS = 2000
EPISODES = 1000  # of each tree, where they are sampled


def rows(rounds: int, work: Path) -> list[Figures]:
    """Trees per second; the loop must come to the same."""
    tree = forest(QUESTIONS, seed=0)
    reward_M = tree.reward_M(ALPHA)
    scores_NA = torch.randn(tree.valid_NA.shape, generator=torch.Generator().manual_seed(0))
    probs_NA = scores_NA.double().masked_fill(~tree.valid_NA, -torch.inf).softmax(dim=1)
    plain = Plain(tree, reward_M, probs_NA)
    looped_T = torch.tensor(plain.returns(), dtype=torch.float64)
    apart = float((returns(tree, reward_M, probs_NA) - looped_T).abs().max())
    assert apart < 1e-12, f"the loop differs by {apart}"
    actions: dict[str, Action] = {
        "exactly, by one backward pass": lambda: len(returns(tree, reward_M, probs_NA)),
        "exactly, by a loop": lambda: len(plain.returns()),
        f"{EPISODES:,} episodes of each tree": lambda: sampled(tree, reward_M, probs_NA),
    }
    return [
        row | {"largest difference of the loop": apart}
        for row in contest("evaluation", "trees/s", actions, rounds)
    ]


class Plain:
    """Trees as lists, and their values by recursion."""

    def __init__(self, tree: Tree, reward_M: Tensor, probs_NA: Tensor) -> None:
        self.roots, self.rewards = tree.root_T.tolist(), reward_M.tolist()
        lists = tree.child_NA.tolist(), tree.leaf_NA.tolist(), probs_NA.tolist()
        self.rows = [[*zip(*row, strict=True)] for row in zip(*lists, strict=True)]

    def returns(self) -> list[float]:
        """The return in each tree."""
        return [self.value(root) for root in self.roots]

    def value(self, state: int) -> float:
        """The return from a state on."""
        value = 0.0
        for child, leaf, prob in self.rows[state]:
            if leaf >= 0:
                value += prob * self.rewards[leaf]
            elif child >= 0:
                value += prob * self.value(child)
        return value


def sampled(tree: Tree, reward_M: Tensor, probs_NA: Tensor) -> float:
    """Trees whose return was estimated by episodes, which advance together.

    Of the episodes a hundredth is played, which counts as that share of the trees.
    """
    sum_T = torch.zeros(len(tree), dtype=torch.float64)
    for _ in range(EPISODES // 100):
        sum_T += reward_M[ends(tree, probs_NA)]
    return len(tree) / 100


def ends(tree: Tree, probs_NA: Tensor) -> Tensor:
    """The leaf of an episode of each tree, int64 [T]."""
    state = tree.root_T
    leaf = torch.full_like(state, -1)
    for _ in range(tree.hops):
        action = torch.multinomial(probs_NA[state], 1)[:, 0]
        leaf = torch.where(leaf < 0, tree.leaf_NA[state, action], leaf)
        state = tree.child_NA[state, action].clamp(min=0)
    return leaf
