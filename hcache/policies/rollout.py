"""Where routers, static sequences and the oracle end in each tree; all of it exact.

Axes in names: T trees (query × replica), Q queries, N states, A actions, M leaves, L hops,
S static sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hcache.errors import DataError, RunError
from hcache.policies import Policy
from hcache.tree import NONE, Tree, backward, follow, greedy, oracle, returns

TIE = 1e-12  # rewards this close are equal


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


def static_leaves(tree: Tree, paths: Sequence[Sequence[int]]) -> Tensor:
    """The leaf of each tree under each static sequence, which stops at its end, int64 [T, S].

    A tree whose workflow ends earlier than the sequence ends there. NONE where a tree lacks an
    action of the sequence, STOP included.
    """
    action_SL = torch.full((len(paths), tree.hops), tree.stop, device=tree.root_T.device)
    for row, path in enumerate(paths):
        action_SL[row, : len(path)] = torch.tensor(path)[: tree.hops]
    state_TS = tree.root_T[:, None].repeat(1, len(paths))
    leaf_TS = torch.full_like(state_TS, NONE)
    for hop in range(tree.hops):
        on_TS = state_TS != NONE
        at_TS = state_TS.clamp(min=0)
        action_TS = action_SL[:, hop].expand_as(at_TS)
        leaf_TS = torch.where(on_TS, tree.leaf_NA[at_TS, action_TS], leaf_TS)
        state_TS = torch.where(on_TS, tree.child_NA[at_TS, action_TS], state_TS)
    return leaf_TS


def only_best(tree: Tree, reward_M: Tensor) -> Tree:
    """The same forest with nothing left but the actions that are best in their state, ties too."""
    q_NA = backward(tree, reward_M)
    worse_NA = q_NA < q_NA.max(dim=1, keepdim=True).values - TIE
    return replace(
        tree,
        child_NA=tree.child_NA.masked_fill(worse_NA, NONE),
        leaf_NA=tree.leaf_NA.masked_fill(worse_NA, NONE),
    )


def oracle_leaves(tree: Tree, reward_M: Tensor) -> Tensor:
    """The best leaf of each tree, int64 [T]; of equals the cheapest, then the first."""
    return follow(tree, oracle(only_best(tree, reward_M), -tree.cost_M))


def random_means(tree: Tree, value_M: Tensor) -> Tensor:
    """Expected value of the leaf under uniformly random valid actions, float64 [T], exactly."""
    valid_NA = tree.valid_NA.double()
    probs_NA = valid_NA / valid_NA.sum(dim=1, keepdim=True)
    return returns(tree, value_M.double(), probs_NA)


def hops_of(tree: Tree) -> Tensor:
    """Number of model calls on the way to each leaf, int64 [M]."""
    return (tree.path_ML >= 0).sum(dim=1)


def mean_by_query(tree: Tree, value_T: Tensor) -> Tensor:
    """Mean over the replicas of each query, float64 [Q]; extra axes behind T are kept.

    Raises:
        DataError: if a query has no tree.
    """
    count_Q = torch.bincount(tree.query_T, minlength=len(tree.queries))
    if not bool((count_Q > 0).all()):
        name = tree.queries[int((count_Q == 0).nonzero()[0])]
        raise DataError(f"query {name} has no tree.", "Load the split again.")
    sum_Q = torch.zeros((len(count_Q), *value_T.shape[1:]), dtype=torch.float64)
    sum_Q.index_add_(0, tree.query_T.cpu(), value_T.double().cpu())
    return sum_Q / count_Q.cpu().view(-1, *[1] * (value_T.dim() - 1))


def _check_arms(policy: Policy, tree: Tree) -> None:
    if tuple(policy.arms) != tuple(tree.arms):
        raise RunError(
            f"the policy routes among {', '.join(policy.arms)}, the tree among "
            f"{', '.join(tree.arms)}.",
            "Train a policy on this pool, or evaluate on the pool it was trained on.",
        )
