"""Soft policy iteration on the tree: exact Q-values in place of sampled returns.

The tree is complete, so evaluation is no estimate: one backward pass gives Q^π(s, a) of the
current policy everywhere. Improvement is a projection, as in Haarnoja et al. (arXiv 1801.01290,
equation 4): the actor learns, by cross-entropy, the Boltzmann policy over the valid actions,

    π'(a | s) ∝ exp(Q(s, a) / τ)

Q is the plain expected return, without the entropy of soft Q-learning, and π' has no prior π, as
MPO's E-step has (Abdolmaleki et al., arXiv 1806.06920): the fixed point is Boltzmann in the reward
R = Q − α·C that is reported, and greedy as τ → 0.

    soft      Q = Q^π of the current policy: what an action brings with the mistakes made after it
    optimal   Q = Q* of the oracle: SFT on soft targets, which stay the same from start to end

States are drawn as often as the current policy reaches them, and by `floor` more: most states of a
tree are far from any good path, and a pass over all would mostly learn what never happens. Without
a floor, what is hardly reached is hardly learned: its Q^π stays low, and it is never reached. The
critic is left as it is.

Axes in names: T trees, N states, A actions, M leaves, K drawn states, B of a minibatch.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from hcache.policies.mlp import MLPPolicy
from hcache.replay.exact import backward, reach, returns
from hcache.trainers.base import TRAINERS
from hcache.trainers.network import NetworkSettings, NetworkTrainer

Target = Literal["soft", "optimal"]


class SoftSettings(NetworkSettings):
    """Settings of soft policy iteration; an iteration evaluates, then draws T·L states."""

    target: Target = Field("soft", description="Q-values to learn: the policy's or the oracle's")
    temperature: float = Field(0.05, gt=0, description="τ of softmax(Q/τ), in units of the reward")
    floor: float = Field(
        0.05, ge=0, description="weight of a state, added to its probability of being reached"
    )
    lr: float = Field(1e-2, gt=0, description="learning rate of Adam")
    batch_size: int = Field(64, ge=1, description="states of a minibatch")


@TRAINERS.register("soft")
class Soft(NetworkTrainer):
    """Cross-entropy of the actor to softmax(Q/τ) at every state, Q exact on the training trees."""

    Settings = SoftSettings
    settings: SoftSettings

    def step(self) -> dict[str, float]:
        """Evaluate the policy exactly, then learn at states that it reaches."""
        probs_NA = self.policy.probs(self.tree.states)
        reward_T = returns(self.tree, self.reward_M, probs_NA)
        loss = self.improve(self.targets(probs_NA, self.reward_M), self.weights(probs_NA))
        return {"train_reward": float(reward_T.mean()), "loss": loss}

    def targets(self, probs_NA: Tensor, reward_M: Tensor) -> Tensor:
        """softmax(Q/τ) of every state, float64 [N, A]; exactly 0 where an action is not valid."""
        learned = probs_NA if self.settings.target == "soft" else None
        q_NA = backward(self.tree, reward_M, learned)
        return (q_NA / self.settings.temperature).softmax(dim=1)

    def weights(self, probs_NA: Tensor) -> Tensor:
        """Chance that the policy passes each state, plus the floor, float64 [N]; mean 1."""
        weight_N = reach(self.tree, probs_NA) + self.settings.floor
        return weight_N / weight_N.mean()

    def improve(self, target_NA: Tensor, weight_N: Tensor) -> float:
        """One pass over states drawn by weight, T·L of them; the mean cross-entropy on the way."""
        target_NA = target_NA.float()
        draws = len(self.tree) * self.tree.hops
        drawn_K = self._drawn(weight_N, draws)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for state_B in drawn_K.split(self.settings.batch_size):
            logits_BA = self.policy_for(state_B).logits(self.tree.states[state_B])
            loss = -(target_NA[state_B] * logits_BA.log_softmax(dim=1)).sum(dim=1).mean()
            self.descend(loss)
            total += loss.detach() * len(state_B)
        return float(total) / draws

    def _drawn(self, weight_N: Tensor, draws: int) -> Tensor:
        """States with chances as their weights; torch.multinomial takes 2²⁴ of them at most."""
        chance_K = torch.rand(
            draws, generator=self.generator, dtype=torch.float64, device=self.device
        )
        ends_N = weight_N.cumsum(dim=0)
        drawn_K = torch.searchsorted(ends_N, chance_K * ends_N[-1], right=True)
        return drawn_K.clamp(max=len(weight_N) - 1)

    def policy_for(self, state_B: Tensor) -> MLPPolicy:
        """The policy that learns at these states."""
        return self.policy
