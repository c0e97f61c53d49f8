"""Every trajectory of a tree as flat arrays of transitions, for offline learning.

In: a `RoutingMDP`. Out: B transitions, trajectory by trajectory in the order of the leaves, hop by
hop. Found from the leaves up, a level at a time, with no loop over rows.

Axes in names as in `hcache.envs.mdp`; B transitions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hcache.envs.mdp import RoutingMDP
from hcache.replay.tree import NONE, Tree


@dataclass(frozen=True)
class Transitions:
    """Transitions (s, a, r, s'); observations and masks are gathered when asked for."""

    mdp: RoutingMDP
    leaf_B: Tensor  # int64, the leaf of the trajectory, which tells trajectories apart
    state_B: Tensor  # int64
    action_B: Tensor  # int64
    reward_B: Tensor  # float64, R at the end of a trajectory, else 0
    next_B: Tensor  # int64, state; the end after the last action
    terminal_B: Tensor  # bool, the last of its trajectory

    def __len__(self) -> int:
        return len(self.state_B)

    @property
    def observation_BW(self) -> Tensor:
        """Observations, float32 [B, W]."""
        return self.mdp.observation_NW[self.state_B]

    @property
    def next_observation_BW(self) -> Tensor:
        """Observations after the action, float32 [B, W]; zero after the last one."""
        return self.mdp.observation_NW[self.next_B]

    @property
    def mask_BA(self) -> Tensor:
        """Valid actions, bool [B, A]."""
        return self.mdp.valid_NA[self.state_B]

    @property
    def next_mask_BA(self) -> Tensor:
        """Valid actions after the action, bool [B, A]; all after the last one."""
        return self.mdp.valid_NA[self.next_B]


def transitions(mdp: RoutingMDP) -> Transitions:
    """All trajectories of a tree; those that share states repeat the transitions they share."""
    tree = mdp.tree
    last_M, stop_M = (tree.leaf_NA >= 0).nonzero(as_tuple=True)
    leaf_M, order = tree.leaf_NA[last_M, stop_M].sort()
    state_ML, action_ML = _walk_up(tree, last_M[order], stop_M[order])
    played_ML = state_ML != NONE
    state_B, action_B = state_ML[played_ML], action_ML[played_ML]
    next_B, reward_B, terminal_B = mdp.step(state_B, action_B)
    leaf_B = leaf_M[:, None].expand_as(state_ML)[played_ML]
    return Transitions(mdp, leaf_B, state_B, action_B, reward_B, next_B, terminal_B)


def _walk_up(tree: Tree, state_M: Tensor, action_M: Tensor) -> tuple[Tensor, Tensor]:
    """States and actions from the root to the given last ones, [M, L], NONE behind them."""
    parent_N, arrival_N = _parents(tree)
    state_ML = torch.full((len(state_M), tree.hops), NONE, device=state_M.device)
    action_ML = torch.full_like(state_ML, NONE)
    row = torch.arange(len(state_M), device=state_M.device)
    while len(row):
        hop = tree.hop_N[state_M]
        state_ML[row, hop], action_ML[row, hop] = state_M, action_M
        below = parent_N[state_M] != NONE
        row, child_M = row[below], state_M[below]
        state_M, action_M = parent_N[child_M], arrival_N[child_M]
    return state_ML, action_ML


def _parents(tree: Tree) -> tuple[Tensor, Tensor]:
    """The state before each state and the action between them, int64 [N]; NONE at a root."""
    parent_N = torch.full_like(tree.hop_N, NONE)
    arrival_N = torch.full_like(tree.hop_N, NONE)
    state, action = (tree.child_NA >= 0).nonzero(as_tuple=True)
    child = tree.child_NA[state, action]
    parent_N[child], arrival_N[child] = state, action
    return parent_N, arrival_N
