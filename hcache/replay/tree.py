"""A split of sampled queries as tensors.

A split of sampled queries is a forest of complete decision trees. A state is a `Choose`; an
action is an arm or, last, STOP; a leaf is a finished trajectory with its quality and its cost.
One step of the environment is a gather.

Axes in names: T trees (query × replica), N states, M leaves, A actions (arms, then STOP),
D features, L hops, S static sequences, Q queries. States are ordered by hop, so that a level is
a slice. Rewards and costs are float64: sums of them are reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

NONE = -1  # no such child, leaf or action


@dataclass(frozen=True)
class States:
    """View of n states that a policy gets: text features, hop, cost so far, valid actions."""

    features_ND: Tensor  # float32, or float16 as they are stored
    hop_N: Tensor  # int64
    cost_N: Tensor  # float64, in units of the price table
    valid_NA: Tensor  # bool

    def __len__(self) -> int:
        return len(self.hop_N)

    def __getitem__(self, index: Tensor) -> Self:
        rows: dict[str, Any] = {
            name: value[index] for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **rows)


class Texts:
    """Texts of states, by number, loaded together on first access.

    `fetch` gives the parts of each text, as `to_read` makes them.
    """

    def __init__(self, fetch: Callable[[], Sequence[Sequence[str]]]) -> None:
        self.fetch = fetch

    def __getitem__(self, numbers: Tensor) -> list[Sequence[str]]:
        return [self._all[number] for number in numbers.tolist()]

    @cached_property
    def _all(self) -> Sequence[Sequence[str]]:
        return self.fetch()


def to_read(context: Sequence[str], role: str) -> Sequence[str]:
    """Text for a policy that reads, in parts: the context, then the role to assign, if any."""
    return [*context, f"{role}:"] if role else context


@dataclass(frozen=True)
class ReadableStates(States):
    """States with their texts, for a policy that reads."""

    text_N: Tensor  # int64, number of the text of each state
    texts: Texts

    def read(self) -> list[Sequence[str]]:
        """The text of each state, in parts."""
        return self.texts[self.text_N]


@dataclass(frozen=True)
class Partial:
    """Facts on trees of which pruned sampling has left a part out."""

    queries: int  # whose trees are not whole
    share: float  # of the trajectories that whole trees have, over all queries
    at_random: bool  # whether chance alone has decided what is missing
    exact_at: float | None  # α at which the oracle's reward is that of whole trees nevertheless


@dataclass(frozen=True)
class Tree:
    """A split of queries as flat arrays; build it with `hcache.replay.loading`."""

    arms: tuple[str, ...]
    queries: tuple[str, ...]  # ids of the Q queries
    datasets: tuple[str, ...]  # of each query
    kinds: tuple[str, ...]  # of each query
    query_T: Tensor  # index of the query of a tree
    replica_T: Tensor
    root_T: Tensor  # state where a tree starts
    child_NA: Tensor  # next state, or NONE
    leaf_NA: Tensor  # leaf, or NONE
    hop_N: Tensor
    cost_N: Tensor  # cost so far, C_t
    features_ND: Tensor
    quality_M: Tensor
    cost_M: Tensor
    path_ML: Tensor  # actions that lead to a leaf, STOP left out, padded with NONE
    texts: Texts | None = field(default=None, kw_only=True)  # of the N states, where there are any
    partial: Partial | None = field(default=None, kw_only=True)  # None where all trees are whole

    def __len__(self) -> int:
        return len(self.root_T)

    @property
    def actions(self) -> int:
        """A, the number of actions: one per arm, and STOP."""
        return len(self.arms) + 1

    @property
    def stop(self) -> int:
        """Index of the action STOP."""
        return len(self.arms)

    @cached_property
    def hops(self) -> int:
        """L, the largest number of hops of a trajectory; of partial trees, that asked for."""
        if self.partial is not None:
            return self.path_ML.shape[1]
        return int(self.hop_N.max()) + 1

    @cached_property
    def valid_NA(self) -> Tensor:
        """Mask of the actions that each state has."""
        return (self.child_NA >= 0) | (self.leaf_NA >= 0)

    @cached_property
    def levels(self) -> list[slice]:
        """The states of each hop, as slices."""
        counts = torch.bincount(self.hop_N, minlength=self.hops).tolist()
        ends = torch.tensor(counts).cumsum(0).tolist()
        return [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]

    @cached_property
    def _states_TW(self) -> Tensor:
        """The states of each tree, filled up with NONE."""
        tree_N = tree_of_state(self)
        count_T = torch.bincount(tree_N, minlength=len(self))
        first_T = count_T.cumsum(dim=0) - count_T
        order_N = tree_N.argsort(stable=True)
        owner_N = tree_N[order_N]
        place_N = torch.arange(len(tree_N), device=tree_N.device) - first_T[owner_N]
        table_TW = torch.full((len(self), int(count_T.max())), NONE, device=tree_N.device)
        table_TW[owner_N, place_N] = order_N
        return table_TW

    @cached_property
    def states(self) -> States:
        """All states, as a policy sees them."""
        seen = self.features_ND, self.hop_N, self.cost_N, self.valid_NA
        if self.texts is None:
            return States(*seen)
        numbers_N = torch.arange(len(self.hop_N), device=self.hop_N.device)
        return ReadableStates(*seen, numbers_N, self.texts)

    def reward_M(self, alpha: float | Tensor) -> Tensor:
        """R = Q − α·C of each leaf (HierRouter, arXiv 2511.09873)."""
        return self.quality_M - alpha * self.cost_M

    def without_stop(self) -> Tree:
        """The same forest where every trajectory runs to its last hop."""
        leaf_NA = self.leaf_NA.clone()
        leaf_NA[:, self.stop] = NONE
        return replace(self, leaf_NA=leaf_NA)

    def some(self, index_B: Tensor) -> Tree:
        """The forest of some trees alone, int64 [B], each at most once.

        States and leaves keep their order and are numbered anew; texts are left out.
        """
        state_n = _filled(self._states_TW[index_B])
        leaf_m = _filled(self.leaf_NA[state_n])
        return replace(
            self,
            query_T=self.query_T[index_B],
            replica_T=self.replica_T[index_B],
            root_T=_places(self.root_T[index_B], state_n),
            child_NA=_places(self.child_NA[state_n], state_n),
            leaf_NA=_places(self.leaf_NA[state_n], leaf_m),
            hop_N=self.hop_N[state_n],
            cost_N=self.cost_N[state_n],
            features_ND=self.features_ND[state_n],
            quality_M=self.quality_M[leaf_m],
            cost_M=self.cost_M[leaf_m],
            path_ML=self.path_ML[leaf_m],
            texts=None,
        )

    def to(self, device: str | torch.device) -> Tree:
        """The same forest on another device."""
        moved: dict[str, Any] = {
            name: value.to(device)
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and name in self.__dataclass_fields__
        }
        return replace(self, **moved)


def _filled(numbers: Tensor) -> Tensor:
    """Numbers that are not NONE, in order."""
    return numbers[numbers != NONE].sort().values


def _places(numbers: Tensor, kept_n: Tensor) -> Tensor:
    """Place of each number among those kept, which are in order; NONE for NONE."""
    return torch.searchsorted(kept_n, numbers).masked_fill(numbers == NONE, NONE)


def greedy(probs_NA: Tensor, valid_NA: Tensor) -> Tensor:
    """The most probable valid action of each state; the first of equals."""
    return probs_NA.masked_fill(~valid_NA, -torch.inf).argmax(dim=1)


def path_name(path: Sequence[int], arms: Sequence[str]) -> str:
    """A path as people read it: `reader>solver`."""
    return ">".join(arms[action] for action in path if action >= 0)


def tree_of_state(tree: Tree) -> Tensor:
    """Index of the tree that each state stands in, int64 [N]."""
    tree_N = torch.zeros_like(tree.hop_N)
    tree_N[tree.root_T] = torch.arange(len(tree), device=tree_N.device)
    for level in tree.levels[:-1]:
        child = tree.child_NA[level]
        owner = tree_N[level, None].expand_as(child)
        tree_N[child[child >= 0]] = owner[child >= 0]
    return tree_N


def tree_of_leaf(tree: Tree) -> Tensor:
    """Index of the tree that each leaf ends, int64 [M]."""
    tree_M = torch.zeros(len(tree.quality_M), dtype=torch.int64, device=tree.hop_N.device)
    has = tree.leaf_NA >= 0
    tree_M[tree.leaf_NA[has]] = tree_of_state(tree)[:, None].expand_as(tree.leaf_NA)[has]
    return tree_M
