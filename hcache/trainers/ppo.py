"""PPO on stored trees: the trainer of HierRouter (arXiv 2511.09873).

Routing is a finite-horizon MDP with γ = 1. The state is (c_t, hop, C_t), an action is the next
arm or STOP, and the reward comes once, at the end: R = Q − α·C. (Charging α·δ_t at each hop sums
to the same.) Clipped surrogate, GAE and the names of the settings follow Schulman et al. (arXiv
1707.06347, arXiv 1506.02438) and CleanRL (github.com/vwxyzjn/cleanrl).

Where the advantages of an update come from:
    exact   from the tree: A^π(s, a) = Q^π(s, a) − V^π(s) of every action in every state of a
            minibatch of whole trees, by one backward pass. The surrogate is its expectation over
            all episodes that the policy could play there (with a floor under how often a state is
            passed, as in `soft`), so nothing is drawn and no critic needed
    gae     from episodes: thousands advance at once, a hop of all of them is a gather on the tree;
            the critic estimates, and learns advantage + old value

Axes in names: L hops, E episodes, B steps of a batch, A actions, N states, M leaves, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from hcache.replay.exact import backward, reach, state_values
from hcache.replay.tree import Tree
from hcache.trainers.base import TRAINERS
from hcache.trainers.network import DropoutSettings, DropoutTrainer, state_weights

Advantage = Literal["exact", "gae"]
Losses = dict[str, Tensor]


class PPOSettings(DropoutSettings):
    """Settings of PPO."""

    lr: float = Field(6e-3, gt=0, description="learning rate of Adam")
    advantage: Advantage = Field("exact", description="by the tree, or estimated from episodes")
    update_epochs: int = Field(4, ge=1, description="updates from the same trees or episodes")
    batch_size: int = Field(128, ge=1, description="exact: trees of a minibatch")
    floor: float = Field(
        0.02, ge=0, description="exact: weight of a state, added to its probability of being passed"
    )
    episodes: int = Field(1024, ge=1, description="gae: episodes of an iteration, over the trees")
    minibatches: int = Field(8, ge=1, description="gae: minibatches of a pass over the episodes")
    feature_dropout: float = Field(
        0.1, ge=0, lt=1, description="exact: share of the text features a minibatch does without"
    )
    clip_coef: float = Field(0.2, gt=0, description="ε of the clipped surrogate")
    ent_coef: float = Field(0.03, ge=0, description="weight of the entropy bonus")
    max_grad_norm: float = Field(0.5, gt=0, description="gradients are clipped to this norm")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="gae: λ of the estimate")
    vf_coef: float = Field(0.5, ge=0, description="gae: weight of the value loss")
    norm_adv: bool = Field(False, description="gae: normalise the advantages of each minibatch")
    anneal_lr: bool = Field(
        True, description="lower lr to 0 in a straight line over the iterations"
    )


@dataclass(frozen=True)
class Evaluated:
    """Exact values of a policy on some trees, before the updates that learn from them."""

    logprob_NA: Tensor
    advantage_NA: Tensor  # 0 where an action is not valid
    weight_N: Tensor  # as `state_weights` gives it
    reward: Tensor  # mean return, a scalar
    hops: Tensor  # mean number of arms asked, a scalar


@dataclass(frozen=True)
class Rollout:
    """Episodes played by one policy; steps after the end of an episode are not live."""

    state_LE: Tensor
    action_LE: Tensor
    logprob_LE: Tensor
    value_LE: Tensor
    reward_LE: Tensor
    live_LE: Tensor


@dataclass(frozen=True)
class Batch:
    """Live steps of a rollout, flat."""

    state_B: Tensor
    action_B: Tensor
    logprob_B: Tensor
    advantage_B: Tensor
    return_B: Tensor

    def __getitem__(self, index: Tensor) -> Batch:
        return Batch(*(value[index] for value in vars(self).values()))


@TRAINERS.register("ppo")
class PPO(DropoutTrainer):
    """Proximal policy optimisation of a policy on the training trees."""

    Settings = PPOSettings
    settings: PPOSettings
    adam_eps = 1e-5

    def step(self) -> dict[str, float]:
        """A pass over all trees, or over `episodes` of them."""
        if self.settings.anneal_lr:
            self.optimizer.param_groups[0]["lr"] = self.settings.lr * (1 - self.done)
        return self._trees() if self.settings.advantage == "exact" else self._episodes()

    def _trees(self) -> dict[str, float]:
        """Learn from all trees, in minibatches of whole ones."""
        updates: list[Losses] = []
        for index_B in self.permutation(len(self.tree)).split(self.settings.batch_size):
            updates += self._learn_from(self.tree.some(index_B))
        return means(updates)

    def _learn_from(self, tree: Tree) -> list[Losses]:
        """`update_epochs` updates from the exact advantages of the policy as it is now."""
        gain_D, updates = self.gain_D(), []
        before: Evaluated | None = None
        for _ in range(self.settings.update_epochs):
            logprob_NA = self.policy.logits(tree.states, gain_D).log_softmax(dim=1)
            before = before or evaluated(
                tree, tree.reward_M(self.alpha), logprob_NA.detach(), self.settings.floor
            )
            losses = self.expected_losses(before, logprob_NA)
            losses["grad_norm"] = self.descend_clipped(losses["loss"], self.settings.max_grad_norm)
            figures = {"train_reward": before.reward, "train_hops": before.hops, **losses}
            updates.append({name: figure.detach() for name, figure in figures.items()})
        return updates

    def expected_losses(self, before: Evaluated, logprob_NA: Tensor) -> Losses:
        """L = −surrogate − ent_coef · entropy, expectations over the states and actions of π_old.

        The surrogate of a state is Σ_a π_old(a | s) · min(r·A, clip(r)·A) with r = π / π_old.
        """
        log_ratio_NA = logprob_NA - before.logprob_NA
        ratio_NA, chance_NA = log_ratio_NA.exp(), before.logprob_NA.exp()
        clipped_NA = self._clip(ratio_NA)
        advantage_NA = before.advantage_NA
        least_NA = torch.minimum(ratio_NA * advantage_NA, clipped_NA * advantage_NA)

        def mean(value_NA: Tensor) -> Tensor:
            return (before.weight_N * value_NA.sum(dim=1)).mean()

        surrogate = mean(chance_NA * least_NA)
        entropy = mean(-logprob_NA.exp() * logprob_NA)
        return {
            "loss": -surrogate - self.settings.ent_coef * entropy,
            "policy_loss": -surrogate,
            "entropy": entropy,
            "clip_fraction": mean(chance_NA * (ratio_NA != clipped_NA)),
            "approx_kl": mean(-chance_NA * log_ratio_NA.detach()),
        }

    def _clip(self, ratio: Tensor) -> Tensor:
        return ratio.clamp(1 - self.settings.clip_coef, 1 + self.settings.clip_coef)

    def _episodes(self) -> dict[str, float]:
        """Play `episodes`, then `update_epochs` passes over them."""
        rollout = self.rollout()
        losses = self._update(rollout, *self.estimate(rollout))
        asked_LE = rollout.live_LE & (rollout.action_LE != self.tree.stop)
        return {
            "train_reward": float(rollout.reward_LE.sum(dim=0).double().mean()),
            "train_hops": float(asked_LE.sum(dim=0).double().mean()),
            **losses,
        }

    @torch.no_grad()
    def rollout(self) -> Rollout:
        """Sample actions from root to leaf, all episodes at once."""
        root_E = self.tree.root_T[self._draw_trees()]
        hops, episodes = self.tree.hops, len(root_E)
        shape = (hops, episodes)
        state_LE = torch.zeros(shape, dtype=torch.int64, device=self.device)
        action_LE = torch.zeros_like(state_LE)
        logprob_LE = torch.zeros(shape, device=self.device)
        value_LE, reward_LE = torch.zeros_like(logprob_LE), torch.zeros_like(logprob_LE)
        live_LE = torch.zeros(shape, dtype=torch.bool, device=self.device)
        open_E, state = torch.arange(episodes, device=self.device), root_E
        for hop in range(hops):
            states = self.tree.states[state]
            logits, value = self.policy.logits_and_values(states)
            action = self._sample(logits)
            logprob = logits.log_softmax(dim=1).gather(1, action[:, None])[:, 0]
            leaf = self.tree.leaf_NA[state, action]
            done = leaf >= 0
            state_LE[hop, open_E], action_LE[hop, open_E] = state, action
            logprob_LE[hop, open_E] = logprob
            value_LE[hop, open_E] = value
            reward_LE[hop, open_E[done]] = self.reward_M[leaf[done]].float()
            live_LE[hop, open_E] = True
            open_E, state = open_E[~done], self.tree.child_NA[state, action][~done]
        return Rollout(state_LE, action_LE, logprob_LE, value_LE, reward_LE, live_LE)

    def estimate(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Advantages and the critic's targets, [L, E]; of no meaning on steps not live."""
        settings, live_LE = self.settings, rollout.live_LE
        advantage_LE = gae(rollout.reward_LE, rollout.value_LE, live_LE, settings.gae_lambda)
        return advantage_LE, advantage_LE + rollout.value_LE

    def _draw_trees(self) -> Tensor:
        """Trees of the next episodes: whole random passes over all, the last one cut."""
        trees, episodes = len(self.tree), self.settings.episodes
        passes = [self.permutation(trees) for _ in range(-(-episodes // trees))]
        return torch.cat(passes)[:episodes]

    def _sample(self, logits: Tensor) -> Tensor:
        """One action per row by the Gumbel-max trick; a masked action cannot win."""
        exponential = torch.empty_like(logits).exponential_(generator=self.generator)
        return (logits - exponential.log()).argmax(dim=1)

    def _update(
        self, rollout: Rollout, advantage_LE: Tensor, return_LE: Tensor
    ) -> dict[str, float]:
        live_LE = rollout.live_LE
        batch = Batch(
            state_B=rollout.state_LE[live_LE],
            action_B=rollout.action_LE[live_LE],
            logprob_B=rollout.logprob_LE[live_LE],
            advantage_B=advantage_LE[live_LE],
            return_B=return_LE[live_LE],
        )
        explained = explained_variance(rollout.value_LE[live_LE], batch.return_B)
        updates: list[Losses] = []
        for _ in range(self.settings.update_epochs):
            order = self.permutation(len(batch.state_B))
            for part in order.chunk(self.settings.minibatches):
                losses = self._losses(batch[part])
                norm = self.descend_clipped(losses["loss"], self.settings.max_grad_norm)
                figures = {**losses, "grad_norm": norm, "explained_variance": explained}
                updates.append({name: figure.detach() for name, figure in figures.items()})
        return means(updates)

    def _losses(self, batch: Batch) -> Losses:
        """L = −surrogate + vf_coef · value loss − ent_coef · entropy, each a mean over steps."""
        settings = self.settings
        logits_BA, value_B = self.policy.logits_and_values(self.tree.states[batch.state_B])
        logprobs_BA = logits_BA.log_softmax(dim=1)
        logprob_B = logprobs_BA.gather(1, batch.action_B[:, None])[:, 0]
        advantage_B = batch.advantage_B
        if settings.norm_adv and len(advantage_B) > 1:
            advantage_B = (advantage_B - advantage_B.mean()) / (advantage_B.std() + 1e-8)
        log_ratio_B = logprob_B - batch.logprob_B
        ratio_B = log_ratio_B.exp()
        clipped_B = self._clip(ratio_B)
        surrogate = torch.minimum(ratio_B * advantage_B, clipped_B * advantage_B).mean()
        value_loss = 0.5 * (value_B - batch.return_B).square().mean()
        entropy = -(logprobs_BA.exp() * logprobs_BA).sum(dim=1).mean()
        return {
            "loss": -surrogate + settings.vf_coef * value_loss - settings.ent_coef * entropy,
            "policy_loss": -surrogate,
            "value_loss": value_loss,
            "entropy": entropy,
            "clip_fraction": (ratio_B != clipped_B).float().mean(),
            "approx_kl": approx_kl(log_ratio_B.detach()),
        }


def gae(reward_LE: Tensor, value_LE: Tensor, live_LE: Tensor, gae_lambda: float) -> Tensor:
    """Generalised advantage estimates with γ = 1, [L, E]; 0 on steps that are not live.

    A_t = δ_t + λ·A_{t+1} with δ_t = r_t + V_{t+1} − V_t; after the end, V and A are 0.
    """
    advantage_LE = torch.zeros_like(reward_LE)
    next_value_E = torch.zeros_like(reward_LE[0])
    next_advantage_E = torch.zeros_like(reward_LE[0])
    for hop in reversed(range(len(reward_LE))):
        delta_E = reward_LE[hop] + next_value_E - value_LE[hop]
        advantage_LE[hop] = torch.where(live_LE[hop], delta_E + gae_lambda * next_advantage_E, 0.0)
        next_value_E = torch.where(live_LE[hop], value_LE[hop], 0.0)
        next_advantage_E = advantage_LE[hop]
    return advantage_LE


def approx_kl(log_ratio_B: Tensor) -> Tensor:
    """Estimate of KL(old ‖ new) from actions of the old policy, a scalar, never negative.

    The mean of r − 1 − log r with r = new / old, which is k3 of John Schulman's "Approximating KL
    Divergence" (joschu.net/blog/kl-approx.html); `expm1` keeps what small ratios would lose.
    """
    return (log_ratio_B.expm1() - log_ratio_B).mean()


def explained_variance(value_B: Tensor, return_B: Tensor) -> Tensor:
    """1 − Var(return − value) / Var(return), a scalar; 0 where the returns do not differ."""
    variance = return_B.var(correction=0)
    left = (return_B - value_B).var(correction=0)
    return torch.where(variance > 0, 1 - left / variance, 0.0)


def evaluated(tree: Tree, reward_M: Tensor, logprob_NA: Tensor, floor: float) -> Evaluated:
    """The policy's exact advantages and returns on some trees, by one backward pass."""
    probs_NA = logprob_NA.double().exp()
    q_NA = backward(tree, reward_M, probs_NA)
    value_N = state_values(q_NA, probs_NA)
    asked_N = reach(tree, probs_NA) * (1 - probs_NA[:, tree.stop])
    return Evaluated(
        logprob_NA=logprob_NA,
        advantage_NA=(q_NA - value_N[:, None]).masked_fill(~tree.valid_NA, 0.0).float(),
        weight_N=state_weights(tree, probs_NA, floor).float(),
        reward=value_N[tree.root_T].mean(),
        hops=asked_N.sum() / len(tree),
    )


def means(updates: Sequence[Losses]) -> dict[str, float]:
    """The mean of each figure over some updates; they leave the device together."""
    columns = [torch.stack([losses[name] for losses in updates]).mean() for name in updates[0]]
    values = torch.stack([column.double() for column in columns]).tolist()
    return dict(zip(updates[0], values, strict=True))
