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

A minibatch is whole trees. Their Q^π is that of the weights of this very step, and every state of
the forward pass is learned at, with the chance that the policy reaches it as its weight, and
`floor` more. The critic is left as it is.

Axes in names: T trees, N states, A actions, M leaves, B trees of a minibatch.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from hcache.policies.mlp import MLPPolicy
from hcache.replay.exact import backward, state_values
from hcache.replay.tree import Tree
from hcache.trainers.base import TRAINERS
from hcache.trainers.network import DropoutSettings, DropoutTrainer, state_weights

Target = Literal["soft", "optimal"]


class SoftSettings(DropoutSettings):
    """Settings of soft policy iteration; an iteration is a pass over all trees."""

    target: Target = Field("soft", description="Q-values to learn: the policy's or the oracle's")
    temperature: float = Field(0.02, gt=0, description="τ of softmax(Q/τ), in units of the reward")
    floor: float = Field(
        0.02, ge=0, description="weight of a state, added to its probability of being reached"
    )
    lr: float = Field(4e-3, gt=0, description="learning rate of Adam")
    batch_size: int = Field(64, ge=1, description="trees of a minibatch")


@TRAINERS.register("soft")
class Soft(DropoutTrainer):
    """Cross-entropy of the actor to softmax(Q/τ) at every state, Q exact on the training trees."""

    Settings = SoftSettings
    settings: SoftSettings

    def step(self) -> dict[str, float]:
        """A pass over all trees, in minibatches; means of the return and the loss on the way."""
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        for index_B in self.permutation(len(self.tree)).split(self.settings.batch_size):
            sums += self.improve(self.tree.some(index_B)) * len(index_B)
        reward, loss = (sums / len(self.tree)).tolist()
        return {"train_reward": reward, "loss": loss}

    def improve(self, tree: Tree) -> Tensor:
        """Evaluate the policy on these trees exactly and learn at their states.

        The mean return before, and the weighted mean cross-entropy, float64 [2].
        """
        policy, reward_M = self.task(tree)
        logits_NA = policy.logits(tree.states, self.gain_D())
        probs_NA = logits_NA.detach().double().softmax(dim=1)
        q_NA = backward(tree, reward_M, probs_NA)
        target_NA = self.targets(tree, reward_M, q_NA).float()
        weight_N = state_weights(tree, probs_NA, self.settings.floor).float()
        loss_N = -(target_NA * logits_NA.log_softmax(dim=1)).sum(dim=1)
        loss = (weight_N * loss_N).mean()
        self.descend(loss)
        value_T = state_values(q_NA, probs_NA)[tree.root_T]
        return torch.stack([value_T.mean(), loss.detach().double()])

    def task(self, tree: Tree) -> tuple[MLPPolicy, Tensor]:
        """The policy that learns on these trees, and their rewards [M]."""
        return self.policy, tree.reward_M(self.alpha)

    def targets(self, tree: Tree, reward_M: Tensor, q_NA: Tensor) -> Tensor:
        """softmax(Q/τ) of every state, float64 [N, A], where Q^π is known."""
        learned_NA = q_NA if self.settings.target == "soft" else backward(tree, reward_M)
        return (learned_NA / self.settings.temperature).softmax(dim=1)
