"""Leaves that a policy ends in, exactly.

Axes in names: T trees (query × replica), N states, A actions, L hops.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hcache.errors import DataError, RunError
from hcache.policies.base import Policy
from hcache.policies.rules import all_on
from hcache.replay.tree import NONE, Tree, greedy


@torch.no_grad()
def greedy_leaves(policy: Policy, tree: Tree) -> Tensor:
    """The leaf of each tree under the policy's most probable actions, int64 [T].

    Only the states on the way are shown to the policy: T·L rows, not N.

    Raises:
        RunError: if the policy was made for other arms.
        DataError: if a state has no action at all.
    """
    _check_arms(policy, tree)
    leaf_T = torch.full_like(tree.root_T, NONE)
    open_T = torch.arange(len(tree), device=tree.root_T.device)
    state_T = tree.root_T
    while len(open_T):
        states = tree.states[state_T]
        if not bool(states.valid_NA.any(dim=1).all()):
            raise DataError("a state of the tree has no action.", "Load the split again.")
        action_T = greedy(policy.probs(states), states.valid_NA)
        leaf = tree.leaf_NA[state_T, action_T]
        leaf_T[open_T] = leaf
        goes_on = leaf == NONE
        open_T, state_T = open_T[goes_on], tree.child_NA[state_T, action_T][goes_on]
    return leaf_T


@torch.no_grad()
def greedy_probs(policy: Policy, tree: Tree) -> Tensor:
    """All probability on the policy's most probable action of each state, float64 [N, A].

    Raises:
        RunError: if the policy was made for other arms.
    """
    _check_arms(policy, tree)
    return all_on(greedy(policy.probs(tree.states), tree.valid_NA), tree.valid_NA)


def _check_arms(policy: Policy, tree: Tree) -> None:
    if tuple(policy.arms) != tuple(tree.arms):
        raise RunError(
            f"the policy routes among {', '.join(policy.arms)}, the tree among "
            f"{', '.join(tree.arms)}.",
            "Train a policy on this pool, or evaluate on the pool it was trained on.",
        )
