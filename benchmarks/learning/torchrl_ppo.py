"""The rival of TorchRL: PPO of its parts, in hcache's TorchRL environment.

ClipPPOLoss, GAE, a masked categorical and rollouts of `EnvBase`, with the sizes of PPO in
CleanRL's style.
"""

from __future__ import annotations

import torch
from tensordict.nn import TensorDictModule
from torchrl.modules import MaskedCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from hcache.envs.torchrl import TorchRLRoutingEnv
from hcache.replay.tree import Tree

from .learner import ALPHA, Scored, at_rates
from .plain_ppo import (
    CLIP,
    ENTROPY,
    ENVIRONMENTS,
    GAMMA,
    LAMBDA,
    NORM,
    RATES,
    STEPS,
    VALUE,
    network,
)


class TorchRLPPO:
    """PPO of TorchRL's parts, one rollout and its passes a step."""

    def __init__(self, tree: Tree, seed: int, rate: float) -> None:
        torch.manual_seed(seed)
        self.env = TorchRLRoutingEnv(tree, ALPHA, num_envs=ENVIRONMENTS, seed=seed)
        width = self.env.mdp.observation_NW.shape[1]
        actor, critic = network(width, tree.actions, 0.01), network(width, 1, 1.0)
        self.actor = ProbabilisticActor(
            TensorDictModule(actor, ["observation"], ["logits"]),
            in_keys={"logits": "logits", "mask": "action_mask"},
            spec=self.env.action_spec,
            distribution_class=MaskedCategorical,
            return_log_prob=True,
        )
        value = ValueOperator(critic)
        self.advantages = GAE(gamma=GAMMA, lmbda=LAMBDA, value_network=value)
        self.loss = ClipPPOLoss(
            self.actor,
            value,
            clip_epsilon=CLIP,
            entropy_coeff=ENTROPY,
            critic_coeff=VALUE,
            normalize_advantage=True,
        )
        self.weights = [*self.loss.parameters()]
        self.optimizer = torch.optim.Adam(self.weights, lr=rate, eps=1e-5)
        self.policy = Scored(tree.arms, self.env.mdp.observations, actor)

    def step(self) -> None:
        """One rollout, and four passes of four minibatches."""
        with torch.no_grad():
            played = self.env.rollout(STEPS, self.actor, break_when_any_done=False)
            self.advantages(played)
        steps = played.reshape(-1)
        for _ in range(4):
            for part in torch.randperm(len(steps)).chunk(4):
                losses = self.loss(steps[part])
                self.optimizer.zero_grad()
                sum(losses[f"loss_{of}"] for of in ("objective", "critic", "entropy")).backward()
                torch.nn.utils.clip_grad_norm_(self.weights, NORM)
                self.optimizer.step()


LEARNERS = at_rates("TorchRL PPO", RATES, TorchRLPPO)
