"""Minibatches for offline learners: every transition of the training trees once a pass."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hcache.envs.mdp import RoutingMDP
from hcache.replay.tree import Tree

from .learner import ALPHA

BATCH = 256
RATES = (1e-3, 3e-3, 1e-2)
UPDATES = 32  # of a step


class Batch(NamedTuple):
    """Some transitions; R comes at the end of an episode, before it rewards are 0."""

    observation_BW: Tensor  # float32
    action_B: Tensor  # int64
    reward_B: Tensor  # float32
    next_BW: Tensor  # float32
    over_B: Tensor  # float32, 1 at the end of an episode


class Batches:
    """Transitions in random order, again and again."""

    def __init__(self, tree: Tree, seed: int) -> None:
        self.mdp = RoutingMDP(tree, ALPHA)
        self.state, self.action = tree.valid_NA.nonzero(as_tuple=True)
        self.generator = torch.Generator().manual_seed(seed)
        self.left: list[Tensor] = []

    def next(self) -> Batch:
        """The next ones of this pass, or the first of another."""
        if not self.left:
            order = torch.randperm(len(self.state), generator=self.generator)
            self.left = [*order.split(BATCH)]
        rows = self.left.pop()
        state_B, action_B = self.state[rows], self.action[rows]
        next_B, reward_B, over_B = self.mdp.step(state_B, action_B)
        seen = self.mdp.observation_NW
        return Batch(seen[state_B], action_B, reward_B.float(), seen[next_B], over_B.float())
