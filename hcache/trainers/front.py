"""Soft policy iteration with α as an input: one run gives the whole cost-quality front.

Every iteration draws some α, takes exact Q^π of the policy at each of them by backward passes, and
learns softmax(Q^π/τ) as `soft` does, each state at one of the α, drawn. α is drawn by
u = α / (α + α₀), uniform up to MOST; the reward is R / (1 + α/α₀) = (1 − u)·Q − u·α₀·C, whose range
does not grow with α. Validation takes the mean of that over a grid of α.

Axes in names: N states, A actions, M leaves, K values of α, B states of a minibatch.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from hcache.policies import Policy
from hcache.policies.mlp import ConditionedPolicy
from hcache.replay.exact import returns
from hcache.replay.tree import Tree
from hcache.trainers.base import TRAINERS, greedy_metrics
from hcache.trainers.soft import Soft, SoftSettings

MOST = 0.95  # of u: α up to 19 · α₀
GRID = (0.0, 0.25, 0.5, 0.75, MOST)  # of u, in validation


class FrontSettings(SoftSettings):
    """Settings of soft policy iteration over α."""

    alphas: int = Field(4, ge=1, description="values of α of an iteration, K")


@TRAINERS.register("front")
class Front(Soft):
    """Soft policy iteration of a policy that takes α as an input."""

    Settings = FrontSettings
    settings: FrontSettings
    policy: ConditionedPolicy

    def make_policy(self, train: Tree, init: Policy | None) -> ConditionedPolicy:
        """See `Trainer`; α₀ of a fresh policy is the α of this training."""
        policy = ConditionedPolicy.for_training(train, self.settings, seed=self.seed, init=init)
        return policy.centred_at(self.alpha) if init is None else policy

    def step(self) -> dict[str, float]:
        """Evaluate the policy exactly at K values of α, then learn at states drawn."""
        u_K = MOST * torch.rand(
            self.settings.alphas,
            generator=self.generator,
            dtype=torch.float64,
            device=self.device,
        )
        targets, weights, rewards = zip(*(self._evaluate(u) for u in u_K.tolist()), strict=True)
        states = len(self.tree.hop_N)
        drawn_N = torch.randint(len(u_K), (states,), generator=self.generator, device=self.device)
        every_N = torch.arange(states, device=self.device)
        self.alpha_N = (u_K / (1 - u_K) * self.policy.alpha_0)[drawn_N]
        loss = self.improve(
            torch.stack(targets)[drawn_N, every_N], torch.stack(weights)[drawn_N, every_N]
        )
        return {"train_reward": sum(rewards) / len(rewards), "loss": loss}

    def policy_for(self, state_B: Tensor) -> ConditionedPolicy:
        """The policy at the α that was drawn for each of these states."""
        return self.policy.at(self.alpha_N[state_B])

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

    def _evaluate(self, u: float) -> tuple[Tensor, Tensor, float]:
        """Targets [N, A], weights [N] and the mean reward at one α."""
        alpha = self._alpha(u)
        reward_M = (1 - u) * self.tree.reward_M(alpha)
        probs_NA = self.policy.at(alpha).probs(self.tree.states)
        reward = float(returns(self.tree, reward_M, probs_NA).mean())
        return self.targets(probs_NA, reward_M), self.weights(probs_NA), reward
