"""Soft policy iteration with α as an input: one run gives the whole cost-quality front.

It is `soft` with an α for each tree of a minibatch. α is drawn by u = α / (α + α₀), uniform up to
MOST; the reward is R / (1 + α/α₀) = (1 − u)·Q − u·α₀·C, whose range does not grow with α.
Validation takes the mean of that over a grid of α.

Axes in names: T trees, N states, M leaves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hcache.policies import Policy
from hcache.policies.mlp import ConditionedPolicy
from hcache.replay.tree import Tree, tree_of_leaf, tree_of_state
from hcache.trainers.base import TRAINERS, greedy_metrics
from hcache.trainers.soft import Soft

MOST = 0.95  # of u: α up to 19 · α₀
GRID = (0.0, 0.25, 0.5, 0.75, MOST)  # of u, in validation


@TRAINERS.register("front")
class Front(Soft):
    """Soft policy iteration of a policy that takes α as an input."""

    policy: ConditionedPolicy

    def make_policy(self, train: Tree, init: Policy | None) -> ConditionedPolicy:
        """See `Trainer`; α₀ of a fresh policy is the α of this training."""
        policy = ConditionedPolicy.for_training(train, self.settings, seed=self.seed, init=init)
        return policy.centred_at(self.alpha) if init is None else policy

    def task(self, tree: Tree) -> tuple[ConditionedPolicy, Tensor]:
        """The policy at an α drawn for each of these trees, and their rewards at it."""
        chance_T = torch.rand(
            len(tree), generator=self.generator, dtype=torch.float64, device=self.device
        )
        u_T = MOST * chance_T
        alpha_T = u_T / (1 - u_T) * self.policy.alpha_0
        owner_N, owner_M = tree_of_state(tree), tree_of_leaf(tree)
        reward_M = (1 - u_T[owner_M]) * tree.reward_M(alpha_T[owner_M])
        return self.policy.at(alpha_T[owner_N]), reward_M

    def validate(self, valid: Tree) -> dict[str, float]:
        """Quality, cost and hops at the α of this training; the reward over the grid of α."""
        metrics = greedy_metrics(self.policy.at(self.alpha), valid, self.alpha)
        total = 0.0
        for u in GRID:
            alpha = self._alpha(u)
            total += (1 - u) * greedy_metrics(self.policy.at(alpha), valid, alpha)["reward"]
        return metrics | {"reward": total / len(GRID)}

    def _alpha(self, u: float) -> float:
        return u / (1 - u) * float(self.policy.alpha_0)
