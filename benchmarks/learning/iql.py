"""Implicit Q-learning for discrete actions on every transition of the training trees.

After Kostrikov et al., arXiv 2110.06169: V by expectile regression on a slowly following Q, Q by
r + V(s'), and the policy by advantage-weighted regression. Written here since d3rlpy 2.8 has IQL
for continuous actions alone; τ and the limit of weights are d3rlpy's, the expectile is the larger
one of the paper, and its temperature of 3 is tried beside 100, since rewards differ by hundredths.
"""

from __future__ import annotations

import copy
from itertools import chain

import torch

from hcache.replay.tree import Tree

from .learner import Scored, Start, at_rates
from .offline import RATES, UPDATES, Batch, Batches
from .plain_ppo import network

EXPECTILE, HEAVIEST, FOLLOW = 0.9, 100.0, 0.005
TEMPERATURES = (3.0, 100.0)


class IQL:
    """Discrete IQL, some updates a step."""

    def __init__(self, tree: Tree, seed: int, rate: float, temperature: float) -> None:
        torch.manual_seed(seed)
        self.temperature = temperature
        self.batches = Batches(tree, seed)
        width = self.batches.mdp.observation_NW.shape[1]
        self.actor, self.q = network(width, tree.actions, 0.01), network(width, tree.actions, 1.0)
        self.v, self.target = network(width, 1, 1.0), copy.deepcopy(self.q)
        weights = chain.from_iterable(each.parameters() for each in (self.actor, self.q, self.v))
        self.optimizer = torch.optim.Adam(weights, lr=rate)
        self.policy = Scored(tree.arms, self.batches.mdp.observations, self.actor)

    def step(self) -> None:
        """Some updates."""
        for _ in range(UPDATES):
            self.update(self.batches.next())

    def update(self, batch: Batch) -> None:
        """One step of all three networks, and a small one of the target's."""
        seen, action_B1 = batch.observation_BW, batch.action_B[:, None]
        with torch.no_grad():
            target_B = self.target(seen).gather(1, action_B1)[:, 0]
            follows_B = batch.reward_B + (1 - batch.over_B) * self.v(batch.next_BW)[:, 0]
        gain_B = target_B - self.v(seen)[:, 0]
        expectile_B = torch.where(gain_B > 0, EXPECTILE, 1 - EXPECTILE)
        v_loss = (expectile_B * gain_B.square()).mean()
        q_loss = (self.q(seen).gather(1, action_B1)[:, 0] - follows_B).square().mean()
        weight_B = (self.temperature * gain_B.detach()).exp().clamp(max=HEAVIEST)
        log_B = self.actor(seen).log_softmax(dim=1).gather(1, action_B1)[:, 0]
        self.optimizer.zero_grad()
        (v_loss + q_loss - (weight_B * log_B).mean()).backward()
        self.optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.q.parameters(), strict=True):
                slow.lerp_(fast, FOLLOW)


def _iql(temperature: float) -> dict[str, Start]:
    name = f"discrete IQL, temperature {temperature:g}"
    return at_rates(name, RATES, lambda tree, seed, rate: IQL(tree, seed, rate, temperature))


LEARNERS = {name: start for t in TEMPERATURES for name, start in _iql(t).items()}
