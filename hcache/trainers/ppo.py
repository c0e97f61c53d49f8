"""PPO on stored trees: the trainer of HierRouter (arXiv 2511.09873).

Routing is a finite-horizon MDP with γ = 1. The state is (c_t, hop, C_t), an action is the next
arm or STOP, and the reward comes once, at the end: R = Q − α·C. (Charging α·δ_t at each hop sums
to the same.) Thousands of episodes advance at once, a hop of all of them is a gather on the tree.
Clipped surrogate, GAE and the names of the settings follow Schulman et al. (arXiv 1707.06347,
arXiv 1506.02438) and CleanRL (github.com/vwxyzjn/cleanrl).

The advantage of a step, and what the critic learns:
    gae     estimated from the episode and the critic; the critic learns advantage + old value
    exact   Q^π(s, a) − V^π(s) of the policy that played, by one backward pass over the trees; the
            critic learns V^π(s), of use to a later run that starts from this policy with gae

Axes in names: L hops, E episodes, B steps of a batch, A actions, N states, M leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from hcache.replay.exact import backward, state_values
from hcache.replay.tree import Tree
from hcache.trainers.base import TRAINERS
from hcache.trainers.network import NetworkSettings, NetworkTrainer

Advantage = Literal["gae", "exact"]


class PPOSettings(NetworkSettings):
    """Settings of PPO."""

    episodes: int = Field(1024, ge=1, description="episodes of an iteration, spread over the trees")
    update_epochs: int = Field(4, ge=1, description="passes over the episodes of an iteration")
    minibatches: int = Field(8, ge=1, description="minibatches of a pass")
    clip_coef: float = Field(0.2, gt=0, description="ε of the clipped surrogate")
    advantage: Advantage = Field("gae", description="estimated, or exact Q^π − V^π by the tree")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="λ of generalised advantage estimation")
    ent_coef: float = Field(0.02, ge=0, description="weight of the entropy bonus")
    vf_coef: float = Field(0.5, ge=0, description="weight of the value loss")
    max_grad_norm: float = Field(0.5, gt=0, description="gradients are clipped to this norm")
    norm_adv: bool = Field(False, description="normalise the advantages of each minibatch")
    anneal_lr: bool = Field(
        True, description="lower lr to 0 in a straight line over the iterations"
    )


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
class PPO(NetworkTrainer):
    """Proximal policy optimisation of an actor-critic on the training trees."""

    Settings = PPOSettings
    settings: PPOSettings
    adam_eps = 1e-5

    def step(self) -> dict[str, float]:
        """Play `episodes`, then `update_epochs` passes over them."""
        if self.settings.anneal_lr:
            self.optimizer.param_groups[0]["lr"] = self.settings.lr * (1 - self.done)
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
        if self.settings.advantage == "gae":
            advantage_LE = gae(
                rollout.reward_LE, rollout.value_LE, rollout.live_LE, self.settings.gae_lambda
            )
            return advantage_LE, advantage_LE + rollout.value_LE
        probs_NA = self.policy.probs(self.tree.states)
        advantage_NA, value_N = exact_advantages(self.tree, self.reward_M, probs_NA)
        state_LE = rollout.state_LE
        return advantage_NA[state_LE, rollout.action_LE].float(), value_N[state_LE].float()

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
        sums: dict[str, Tensor] = {}
        updates = 0
        for _ in range(self.settings.update_epochs):
            order = self.permutation(len(batch.state_B))
            for part in order.chunk(self.settings.minibatches):
                losses = self._losses(batch[part])
                norm = self.descend_clipped(losses["loss"], self.settings.max_grad_norm)
                losses["grad_norm"] = norm
                sums = {name: sums.get(name, 0.0) + v.detach() for name, v in losses.items()}
                updates += 1
        explained = explained_variance(rollout.value_LE[live_LE], batch.return_B)
        *totals, explained_now = torch.stack([*sums.values(), explained]).tolist()
        means = {name: total / updates for name, total in zip(sums, totals, strict=True)}
        return {**means, "explained_variance": explained_now}

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
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
        clipped_B = ratio_B.clamp(1 - settings.clip_coef, 1 + settings.clip_coef)
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


def exact_advantages(tree: Tree, reward_M: Tensor, probs_NA: Tensor) -> tuple[Tensor, Tensor]:
    """A^π = Q^π − V^π, float64 [N, A], −inf where an action is not valid, and V^π, float64 [N]."""
    q_NA = backward(tree, reward_M, probs_NA)
    value_N = state_values(q_NA, probs_NA)
    return q_NA - value_N[:, None], value_N
