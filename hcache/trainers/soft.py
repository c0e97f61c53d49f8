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

A state counts as much as the current policy reaches it, and `floor` more. Without a floor, what is
hardly reached is hardly learned: its Q^π stays low, and so it is never reached. The critic is left
as it is.

Axes in names: T trees, N states, A actions, M leaves, B states of a minibatch.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from hcache.policies import Policy
from hcache.policies.mlp import MLPPolicy, MLPSettings
from hcache.trainers import load_training_state, register, training_state
from hcache.trainers.device import Device, pick_device
from hcache.tree import Tree, backward, reach, returns

Target = Literal["soft", "optimal"]


class SoftSettings(MLPSettings):
    """Settings of soft policy iteration; an iteration is one evaluation, one pass over states."""

    target: Target = Field("soft", description="Q-values to learn: the policy's or the oracle's")
    temperature: float = Field(0.02, gt=0, description="τ of softmax(Q/τ), in units of the reward")
    floor: float = Field(0.05, ge=0, description="weight of a state beside its chance of reach")
    lr: float = Field(3e-3, gt=0, description="learning rate of Adam")
    batch_size: int = Field(256, ge=1, description="states of a minibatch")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay")
    device: Device = Field("auto", description="where to train")


@register("soft")
class Soft:
    """Cross-entropy of the actor to softmax(Q/τ) at every state, Q exact on the training trees."""

    Settings = SoftSettings

    def __init__(
        self,
        train: Tree,
        settings: SoftSettings | None = None,
        *,
        alpha: float,
        seed: int,
        init: Policy | None = None,
    ) -> None:
        self.settings = settings or SoftSettings()
        self.seed = seed
        self.device = pick_device(self.settings.device)
        policy = MLPPolicy.for_training(train, self.settings, seed=seed, init=init)
        self.policy = policy.to(self.device)
        self.tree = train.to(self.device)
        self.reward_M = self.tree.reward_M(alpha)
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(),
            lr=self.settings.lr,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
        self.generator = torch.Generator().manual_seed(seed)

    def step(self) -> dict[str, float]:
        """Evaluate the policy exactly, then one pass over the states in random order."""
        probs_NA = self.policy.probs(self.tree.states)
        reward_T = returns(self.tree, self.reward_M, probs_NA)
        loss = self._improve(self.targets(probs_NA).float(), self.weights(probs_NA).float())
        return {"train_reward": float(reward_T.mean()), "loss": loss}

    def targets(self, probs_NA: Tensor) -> Tensor:
        """softmax(Q/τ) of every state, float64 [N, A]; exactly 0 where an action is not valid."""
        learned = probs_NA if self.settings.target == "soft" else None
        q_NA = backward(self.tree, self.reward_M, learned)
        return (q_NA / self.settings.temperature).softmax(dim=1)

    def weights(self, probs_NA: Tensor) -> Tensor:
        """Chance that the policy passes each state, plus the floor, float64 [N]; mean 1."""
        weight_N = reach(self.tree, probs_NA) + self.settings.floor
        return weight_N / weight_N.mean()

    def state(self) -> dict[str, Tensor]:
        """Weights, moments of AdamW, and the generator."""
        return training_state(self.policy, self.optimizer, self.generator)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        load_training_state(state, self.policy, self.optimizer, self.generator)

    def _improve(self, target_NA: Tensor, weight_N: Tensor) -> float:
        """One pass over the states; the mean of the weighted cross-entropy on the way."""
        order_N = torch.randperm(len(weight_N), generator=self.generator).to(self.device)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for state_B in order_N.split(self.settings.batch_size):
            logprobs_BA = self.policy.logits(self.tree.states[state_B]).log_softmax(dim=1)
            cross_B = -(target_NA[state_B] * logprobs_BA).sum(dim=1)
            loss = (weight_N[state_B] * cross_B).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.detach() * len(state_B)
        return float(total) / len(order_N)
