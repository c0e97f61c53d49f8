"""Exact values on a tree: backward induction, the oracle, static sequences.

The oracle, the return of any policy and its Q-values follow from one backward pass (Puterman,
Markov Decision Processes, 1994, section 4.5). Axes in names as in `hcache.replay.tree`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hcache.errors import DataError
from hcache.replay.tree import NONE, Tree

TIE = 1e-12  # rewards this close are equal


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


def backward(tree: Tree, reward_M: Tensor, probs_NA: Tensor | None = None) -> Tensor:
    """Q-values of every state and action, float64 [N, A]; −inf where an action is not valid.

    With `probs_NA` they are those of that policy, Q^π; without, those of the oracle, Q*.
    """
    q_NA = torch.full(tree.leaf_NA.shape, -torch.inf, dtype=torch.float64, device=reward_M.device)
    value_N = torch.zeros(len(tree.hop_N), dtype=torch.float64, device=reward_M.device)
    for level in reversed(tree.levels):
        leaf, child = tree.leaf_NA[level], tree.child_NA[level]
        q = q_NA[level]
        q = torch.where(child >= 0, value_N[child.clamp(min=0)], q)
        q = torch.where(leaf >= 0, reward_M[leaf.clamp(min=0)], q)
        q_NA[level] = q
        value_N[level] = state_values(q, None if probs_NA is None else probs_NA[level])
    return q_NA


def state_values(q_NA: Tensor, probs_NA: Tensor | None = None) -> Tensor:
    """Value of each state under a policy, or of its best action, float64 [N]."""
    if probs_NA is None:
        return q_NA.max(dim=1).values
    return (probs_NA.double() * q_NA.masked_fill(q_NA == -torch.inf, 0.0)).sum(dim=1)


def returns(tree: Tree, reward_M: Tensor, probs_NA: Tensor) -> Tensor:
    """Expected return of a stochastic policy in each tree, float64 [T], exactly."""
    q_NA = backward(tree, reward_M, probs_NA)
    return state_values(q_NA, probs_NA)[tree.root_T]


def reach(tree: Tree, probs_NA: Tensor) -> Tensor:
    """Probability that a policy passes each state of its tree, float64 [N]."""
    reach_N = torch.zeros(len(tree.hop_N), dtype=torch.float64, device=tree.hop_N.device)
    reach_N[tree.root_T] = 1.0
    for level in tree.levels[:-1]:
        child = tree.child_NA[level]
        flow = reach_N[level, None] * probs_NA[level].double()
        reach_N.index_add_(0, child[child >= 0], flow[child >= 0])
    return reach_N


def follow(tree: Tree, action_N: Tensor) -> Tensor:
    """The leaf that each tree ends in under a deterministic policy, int64 [T]."""
    state_T = tree.root_T.clone()
    leaf_T = torch.full_like(state_T, NONE)
    for _ in range(tree.hops):
        open_T = leaf_T == NONE
        action_T = action_N[state_T]
        leaf_T = torch.where(open_T, tree.leaf_NA[state_T, action_T], leaf_T)
        child_T = tree.child_NA[state_T, action_T]
        state_T = torch.where((leaf_T == NONE) & (child_T >= 0), child_T, state_T)
    return leaf_T


def oracle(tree: Tree, reward_M: Tensor) -> Tensor:
    """The best action of every state, int64 [N]: a router that knew the outcome."""
    return backward(tree, reward_M).argmax(dim=1)


def sequences(tree: Tree) -> list[tuple[int, ...]]:
    """Static sequences of arms that lead to some leaf, shortest first, then by the arms' order."""
    reachable = tree.leaf_NA[tree.leaf_NA >= 0].unique()
    distinct = tree.path_ML[reachable].unique(dim=0).tolist()
    paths = [tuple(arm for arm in path if arm != NONE) for path in distinct]
    return sorted(paths, key=lambda path: (len(path), path))
