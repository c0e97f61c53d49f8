"""Rows of states and leaves become the arrays of a tree.

A state or leaf gets an integer for the tree that it is in and the path that leads there: the number
of the tree times (K+1)^L, for K arms and at most L hops, plus the arms of the path as digits 1 to K
in base K+1. A parent's code is that of its child without the last digit, so edges are found by
binary search instead of joins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from hcache.replay.pruned import Links, Rule, asked_for
from hcache.replay.tree import NONE, Partial, Tree

Ints = npt.NDArray[np.int64]

Bools = npt.NDArray[np.bool_]

STATE_COLUMNS = ("context_id", "role", "arms", "stop", "cost")
LEAF_COLUMNS = ("quality", "cost")


class Assembly:
    """States and leaves with integer codes, and the tree that they make."""

    def __init__(
        self,
        states: pl.DataFrame,
        leaves: pl.DataFrame,
        queries: pl.DataFrame,
        *,
        arms: int,
        hops: int,
        replicas: int,
        regular: bool,
        rule: Rule | None = None,
    ) -> None:
        """`rule` says how the trees may be pruned; all that it asks for must be there then."""
        self.arms, self.hops, self.replicas, self.regular = arms, hops, replicas, regular
        self.base = arms + 1  # digit 0 is left over, so paths of different lengths differ
        self.span = self.base**hops  # codes of one tree
        self.queries = queries
        # A level of the tree is a slice.
        columns = [*STATE_COLUMNS, *(["offered"] if "offered" in states.columns else [])]
        self.states = self._coded(states, columns).sort("hop", "code")
        self.leaves = self._coded(leaves, LEAF_COLUMNS).sort("code")
        self.code_N, self.code_M = self.states["code"].to_numpy(), self.leaves["code"].to_numpy()
        self._link()
        self.rule = rule
        self.whole = self.complete = self._whole_queries()
        self.kept_N = self.whole[self.states["query"].to_numpy()]
        self.kept_M = self.whole[self.leaves["query"].to_numpy()]
        if rule is not None and not self.whole.all():
            self._add_pruned(rule)

    @property
    def begun(self) -> Bools:
        """Mask of the queries of which an outcome is there."""
        found = np.bincount(self.leaves["query"].to_numpy(), minlength=len(self.queries))
        begun: Bools = found > 0
        return begun

    @property
    def contexts(self) -> list[str]:
        """Context ids of the states that are kept."""
        return self.states.filter(self.kept_N)["context_id"].to_list()

    @property
    def roles(self) -> list[str]:
        """Roles assigned in the states that are kept; empty where the workflow has no roles."""
        return self.states.filter(self.kept_N)["role"].to_list()

    def _coded(self, frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
        """Some columns, with the query's number, `hop`, and `code`, which holds tree and path.

        The code is tree · span + the path's arms as digits 1..K, base K+1.
        """
        frame = frame.join(self.queries.with_row_index("query"), on="query_id", how="inner")
        digits = [
            pl.col("path").list.get(hop, null_on_oob=True).fill_null(0).cast(pl.Int64)
            for hop in range(self.hops)
        ]
        code: Any = pl.lit(0, dtype=pl.Int64)
        for digit in digits:
            code = pl.when(digit > 0).then(code * self.base + digit).otherwise(code)
        tree = pl.col("query").cast(pl.Int64) * self.replicas + pl.col("replica")
        hop = pl.col("path").list.len().cast(pl.Int64)
        return frame.select("query", *columns, hop=hop, code=tree * self.span + code)

    def _link(self) -> None:
        """Fill child_NA and leaf_NA, by looking parents up among the sorted codes."""
        shape = (len(self.code_N), self.base)
        self.child_NA = np.full(shape, NONE, dtype=np.int64)
        self.leaf_NA = np.full(shape, NONE, dtype=np.int64)
        order = np.argsort(self.code_N)  # states are sorted by hop first
        hop_N, hop_M = self.states["hop"].to_numpy(), self.leaves["hop"].to_numpy()
        # In a regular tree a leaf of fewer hops ends in STOP, or a longer one was not sampled yet.
        leaf_of = np.nonzero(hop_M == self.hops if self.regular else hop_M > 0)[0]
        parent, action, found = self._parents(self.code_M[leaf_of], order)
        self.leaf_NA[parent[found], action[found]] = leaf_of[found]
        state_of = np.nonzero(hop_N > 0)[0]
        parent, action, found = self._parents(self.code_N[state_of], order)
        self.child_NA[parent[found], action[found]] = state_of[found]
        # Of a state and a leaf behind one action the state counts: the leaf is the state's STOP.
        self.leaf_NA[self.child_NA >= 0] = NONE
        # STOP leaves the path as it is, so the leaf of STOP has the code of its state.
        index, found = _find(self.code_M, np.arange(len(self.code_M)), self.code_N)
        stops = found & self.states["stop"].to_numpy()
        self.leaf_NA[stops, self.arms] = index[stops]

    def _parents(self, codes: Ints, order: Ints) -> tuple[Ints, Ints, Bools]:
        tree, path = codes // self.span, codes % self.span
        parent, found = _find(self.code_N[order], order, tree * self.span + path // self.base)
        return parent, path % self.base - 1, found

    def _whole_queries(self) -> Bools:
        """Mask of the queries with a root for each replica and all outcomes of each state."""
        filled_NA = (self.child_NA >= 0) | (self.leaf_NA >= 0)
        offered_N = self.arms if self.regular else self.states["arms"].to_numpy()
        lacking_N: Bools = filled_NA[:, : self.arms].sum(axis=1) != offered_N
        lacking_N |= ~filled_NA[:, self.arms] & self.states["stop"].to_numpy()
        return self._queries_without(lacking_N)

    def _queries_without(self, lacking_N: Bools) -> Bools:
        """Mask of the queries with a root for each replica and none of these states."""
        query_N = self.states["query"].to_numpy()
        broken = np.bincount(query_N[lacking_N], minlength=len(self.queries)) > 0
        roots = np.bincount(
            query_N[self.states["hop"].to_numpy() == 0], minlength=len(self.queries)
        )
        complete: Bools = (roots == self.replicas) & ~broken
        return complete

    def _add_pruned(self, rule: Rule) -> None:
        """Keep of the queries that are not whole what a rule asks for, where all of that is there.

        What else is there of them is cut off.
        """
        links = Links(
            self.child_NA,
            self.leaf_NA,
            self._offered_NA(),
            self.states["hop"].to_numpy(),
            self.code_N // self.span,
            self.states["cost"].to_numpy(),
            self.leaves["quality"].to_numpy(),
            self.leaves["cost"].to_numpy(),
        )
        of_tree = self.queries["query_id"].gather(
            np.arange(len(self.queries) * self.replicas) // self.replicas
        )
        asked_NA, reached_N = asked_for(links, rule, of_tree.to_list())
        missing_NA = asked_NA & (self.child_NA < 0) & (self.leaf_NA < 0)
        self.complete = self.whole | self._queries_without(missing_NA.sum(axis=1) > 0)
        pruned_N = (self.complete & ~self.whole)[self.states["query"].to_numpy()]
        cut_NA = pruned_N[:, None] & ~asked_NA
        self.child_NA[cut_NA] = self.leaf_NA[cut_NA] = NONE
        self.kept_N |= pruned_N & reached_N
        leaf_NA = self.leaf_NA[pruned_N & reached_N]
        self.kept_M[leaf_NA[leaf_NA >= 0]] = True

    def _offered_NA(self) -> Bools:
        """Mask of the actions that each state has by its workflow."""
        offered_NA = np.ones((len(self.states), self.base), dtype=np.bool_)
        offered_NA[:, self.arms] = self.states["stop"].to_numpy()
        if not self.regular:
            offered = self.states["offered"]
            for arm in range(self.arms):
                offered_NA[:, arm] = offered.list.contains(arm + 1).to_numpy()
        return offered_NA

    def partial(self, trajectories: int) -> Partial | None:
        """Facts on the trees that are kept, if partial; a whole one has so many trajectories."""
        pruned = int((self.complete & ~self.whole).sum())
        if self.rule is None or not pruned:
            return None
        most = int(self.complete.sum()) * self.replicas * trajectories
        return Partial(
            queries=pruned,
            share=int(self.kept_M.sum()) / most,
            at_random=self.rule.alpha is None,
            exact_at=self.rule.alpha if self.rule.width is None else None,
        )

    def tree(self, names: tuple[str, ...], features_ND: npt.NDArray[Any]) -> Tree:
        """The complete queries as tensors."""
        keep_N, keep_M = self.kept_N, self.kept_M
        states, leaves = self.states.filter(keep_N), self.leaves.filter(keep_M)
        queries = self.queries.filter(self.complete)
        new_N, new_M = _renumber(keep_N), _renumber(keep_M)
        tree_N = self.code_N[keep_N] // self.span
        roots = np.nonzero(states["hop"].to_numpy() == 0)[0]
        new_Q = _renumber(self.complete)
        return Tree(
            arms=names,
            queries=tuple(queries["query_id"]),
            datasets=tuple(queries["dataset"]),
            kinds=tuple(queries["kind"]),
            query_T=_tensor(new_Q[tree_N[roots] // self.replicas]),
            replica_T=_tensor(tree_N[roots] % self.replicas),
            root_T=_tensor(roots),
            child_NA=_tensor(new_N[self.child_NA[keep_N]]),
            leaf_NA=_tensor(new_M[self.leaf_NA[keep_N]]),
            hop_N=_tensor(states["hop"].to_numpy()),
            cost_N=_tensor(states["cost"].to_numpy()),
            features_ND=_tensor(features_ND),
            quality_M=_tensor(leaves["quality"].to_numpy()),
            cost_M=_tensor(leaves["cost"].to_numpy()),
            path_ML=_tensor(self._paths(self.code_M[keep_M], leaves["hop"].to_numpy())),
        )

    def _paths(self, code_M: Ints, hop_M: Ints) -> Ints:
        """Arms on the way to each leaf, the digits of its code; NONE behind the last, [M, L]."""
        place_ML = hop_M[:, None] - 1 - np.arange(self.hops)  # of the digit, from the right
        arm_ML = code_M[:, None] // self.base ** place_ML.clip(min=0) % self.base - 1
        arm_ML[place_ML < 0] = NONE
        paths_ML: Ints = arm_ML
        return paths_ML


def _find(values: Ints, numbers: Ints, wanted: Ints) -> tuple[Ints, Bools]:
    """The `numbers` of those among the sorted `values` that are `wanted`, and which are there."""
    if not len(values):
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=bool)
    index = np.searchsorted(values, wanted).clip(max=len(values) - 1)
    return numbers[index], values[index] == wanted


def _renumber(keep: Bools) -> Ints:
    """New numbers of the kept, and NONE for the rest; index −1 gives NONE too."""
    numbers = np.where(keep, np.cumsum(keep) - 1, NONE)
    return np.append(numbers, NONE).astype(np.int64)


def _tensor(values: npt.NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.require(values, requirements=["C", "W"]))  # copied if it must be
