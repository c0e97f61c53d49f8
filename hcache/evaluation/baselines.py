"""Candidates: routers and what they are compared with, and what each comes to on every query.

Whatever ends each tree in a leaf becomes a `Candidate`: its quality, cost, reward and hops per
query, how it got there, and where it can serve any α, its front. Choices between static sequences
are made on selection trees; the one candidate that is chosen on test says so in its name.

Axes in names: T trees, Q queries, S static sequences, M leaves, L hops, A actions, F points of a
front; leading `seeds` axis where a router comes in several seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hcache.errors import DataError
from hcache.evaluation.partial import name_of_bound
from hcache.evaluation.statistics import Array
from hcache.policies import AnyAlpha, Policy, at_alpha
from hcache.policies.rollout import greedy_leaves
from hcache.replay.exact import (
    hops_of,
    mean_by_query,
    oracle_leaves,
    random_means,
    sequences,
    static_leaves,
)
from hcache.replay.static import Path, best_static, common_paths, single_paths, static_mean
from hcache.replay.tree import NONE, Tree, path_name

BEST_STATIC = "best static sequence"
BEST_ON_TEST = "best static, chosen here (not attainable)"
PER_KIND = "best static sequence per kind"
CHEAPEST, MOST_EXPENSIVE = "cheapest model", "most expensive model"
RANDOM, ORACLE, STOP = "random", "oracle", "STOP"
BEST_QUALITY = "oracle of quality, then cost"
HALVES = "oracle, chosen on half of the replicas"

ASSIGNMENTS = 16  # most that a table lists

GRID = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0)
"""Points of a front: multiples of the α that is evaluated (of 1 where that is 0)."""


@dataclass(frozen=True)
class Front:
    """Quality and cost per seed and query at several α, [seeds, Q, F]."""

    alphas: tuple[float, ...]
    quality: Array
    cost: Array


@dataclass(frozen=True)
class Candidate:
    """A row before its statistics: per-query values, [seeds, Q]."""

    name: str
    role: str
    quality: Array
    cost: Array
    reward: Array
    hops: Array
    sequence: str = ""
    flow_QLA: Array | None = None  # share of the trees of a query that take an action at a hop
    actions: tuple[str, ...] = ()  # names of these actions
    front: Front | None = None
    leaves: tuple[Tensor, ...] = ()  # that each tree ends in, [T], for each seed


class Evaluator:
    """Turns whatever ends in leaves of the evaluated trees into a candidate.

    `queries` gives the order of the queries, where the trees are those of another workflow.
    """

    def __init__(self, tree: Tree, alpha: float, queries: Sequence[str] | None = None) -> None:
        self.tree = tree
        self.alpha = alpha
        self.reward_M = tree.reward_M(alpha)
        self.order_Q = _order(tree.queries, tree.queries if queries is None else queries)
        self.alphas = tuple(factor * (alpha or 1.0) for factor in GRID)

    def static(self, name: str, role: str, path: Path) -> Candidate:
        """One static sequence for all queries.

        Raises:
            DataError: if some trees lack it.
        """
        leaf_T = static_leaves(self.tree, [path])[:, 0]
        sequence = path_name(path, self.tree.arms)
        if bool((leaf_T == NONE).any()):
            raise DataError(
                f"{int((leaf_T == NONE).sum())} test trees lack the sequence {sequence}.",
                "Sample the missing trajectories, or leave their queries out.",
            )
        return self._of_leaves(name, role, [leaf_T], "" if role == "single" else sequence)

    def per_kind(self, selection: Sequence[Tree]) -> Iterator[Candidate]:
        """The rule that knows each query's kind, and takes the best sequence of that kind.

        Nothing where there is one kind only, or one that selection has not seen.
        """
        kinds = sorted(set(self.tree.kinds))
        if len(kinds) < 2 or not all(any(k in t.kinds for t in selection) for k in kinds):
            return
        paths = [best_static(selection, self.alpha, kind, [self.tree]) for kind in kinds]
        leaf_TK = static_leaves(self.tree, paths)
        kind_T = torch.tensor([kinds.index(kind) for kind in self.tree.kinds])[self.tree.query_T]
        leaf_T = leaf_TK.gather(1, kind_T[:, None])[:, 0]
        yield self._of_leaves(PER_KIND, "static per kind", [leaf_T])

    def router(self, name: str, policies: Sequence[Policy]) -> Candidate:
        """A router in one seed or several, with its front where it serves any α."""
        leaves = [greedy_leaves(at_alpha(p, self.alpha), self.tree) for p in policies]
        found = self._of_leaves(name, "router", leaves)
        if not all(isinstance(policy, AnyAlpha) for policy in policies):
            return found
        at_each = [
            leaves
            if alpha == self.alpha
            else [greedy_leaves(at_alpha(policy, alpha), self.tree) for policy in policies]
            for alpha in self.alphas
        ]
        return replace(found, front=self._front(at_each))

    def oracle(self) -> Candidate:
        """The best leaf of each tree, and the front of the best leaves at several α."""
        name = name_of_bound(ORACLE, self.tree, self.alpha)
        found = self._of_leaves(name, "oracle", [oracle_leaves(self.tree, self.reward_M)])
        at_each = [[oracle_leaves(self.tree, self.tree.reward_M(alpha))] for alpha in self.alphas]
        return replace(found, front=self._front(at_each))

    def best_quality(self) -> Candidate:
        """The cheapest of the leaves of highest quality of each tree."""
        leaf_T = oracle_leaves(self.tree, self.tree.quality_M)
        name = name_of_bound(BEST_QUALITY, self.tree)
        return self._of_leaves(name, "oracle of quality", [leaf_T])

    def halves(self) -> Iterator[Candidate]:
        """Each query's best sequence, chosen on one half of its replicas, scored on the other.

        An oracle over single samples is in part luck; this one is not. Both ways round, averaged.
        Nothing where there is one replica only.
        """
        replica_T = self.tree.replica_T
        if len(replica_T.unique()) < 2:
            return
        one, two = ((replica_T % 2 == half).nonzero()[:, 0] for half in (0, 1))
        leaf_TS = static_leaves(self.tree, sequences(self.tree))
        leaf_T = torch.empty_like(replica_T)
        leaf_T[two] = self._chosen_on(leaf_TS, one, two)
        leaf_T[one] = self._chosen_on(leaf_TS, two, one)
        if bool((leaf_T != NONE).all()):  # else a query has no sequence that all its replicas have
            yield self._of_leaves(HALVES, "oracle of halves", [leaf_T])

    def random(self) -> Candidate:
        """Chance over the valid actions, as an exact expectation."""
        return self._candidate(RANDOM, "random", lambda value_M: [random_means(self.tree, value_M)])

    def statics(self, paths: Sequence[Path]) -> tuple[Array, Array]:
        """Quality and cost of each static sequence on each query, [Q, S]."""
        leaf_TS = static_leaves(self.tree, paths)
        values = (self.tree.quality_M[leaf_TS], self.tree.cost_M[leaf_TS])
        quality_QS, cost_QS = (self.by_query(value_TS) for value_TS in values)
        return quality_QS, cost_QS

    def _chosen_on(self, leaf_TS: Tensor, chosen: Tensor, scored: Tensor) -> Tensor:
        """Leaves of the `scored` trees under the sequence that is best on the `chosen` ones."""
        query_T = self.tree.query_T
        reward_TS = self.reward_M[leaf_TS.clamp(min=0)].masked_fill(leaf_TS < 0, -torch.inf)
        sum_QS = torch.zeros((len(self.tree.queries), leaf_TS.shape[1]), dtype=torch.float64)
        sum_QS.index_add_(0, query_T[chosen], reward_TS[chosen])
        lacks_QS = torch.zeros_like(sum_QS)
        lacks_QS.index_add_(0, query_T[scored], (leaf_TS[scored] < 0).double())
        best_Q = sum_QS.masked_fill(lacks_QS > 0, -torch.inf).max(dim=1)
        leaf_T = leaf_TS[scored, best_Q.indices[query_T[scored]]]
        return leaf_T.masked_fill(best_Q.values[query_T[scored]] == -torch.inf, NONE)

    def _front(self, at_each: Sequence[Sequence[Tensor]]) -> Front:
        """The front of leaves [α][seed]."""

        def points(value_M: Tensor) -> Array:
            values = [
                np.stack([self.by_query(value_M[leaf_T]) for leaf_T in seeds]) for seeds in at_each
            ]
            return np.stack(values, axis=2)

        return Front(self.alphas, points(self.tree.quality_M), points(self.tree.cost_M))

    def _of_leaves(
        self, name: str, role: str, leaves: Sequence[Tensor], sequence: str = ""
    ) -> Candidate:
        found = self._candidate(
            name, role, lambda value_M: [value_M[at] for at in leaves], sequence
        )
        flows = [self.by_query(self._flow(leaf_T)) for leaf_T in leaves]
        actions = (*self.tree.arms, STOP)
        flow_QLA = np.mean(flows, axis=0)
        return replace(found, flow_QLA=flow_QLA, actions=actions, leaves=tuple(leaves))

    def _flow(self, leaf_T: Tensor) -> Tensor:
        """The action taken at each hop on the way to a leaf, one-hot, float64 [T, L, A]."""
        tree = self.tree
        by_stop_M = torch.zeros(len(tree.quality_M), dtype=torch.bool)
        by_stop_M[tree.leaf_NA[:, tree.stop][tree.leaf_NA[:, tree.stop] >= 0]] = True
        action_TL = tree.path_ML[leaf_T]
        hop_T = hops_of(tree)[leaf_T]
        stops_TL = (torch.arange(action_TL.shape[1]) == hop_T[:, None]) & by_stop_M[leaf_T][:, None]
        action_TL = torch.where(stops_TL, tree.stop, action_TL)
        taken = torch.nn.functional.one_hot(action_TL.clamp(min=0), tree.actions).double()
        return taken * (action_TL >= 0)[:, :, None]

    def _candidate(
        self, name: str, role: str, per_tree: Callable[[Tensor], list[Tensor]], sequence: str = ""
    ) -> Candidate:
        """`per_tree` takes a value of the leaves to its value in each tree, for each seed."""

        def values(value_M: Tensor) -> Array:
            return np.stack([self.by_query(value_T) for value_T in per_tree(value_M)])

        return Candidate(
            name=name,
            role=role,
            quality=values(self.tree.quality_M),
            cost=values(self.tree.cost_M),
            reward=values(self.reward_M),
            hops=values(hops_of(self.tree).double()),
            sequence=sequence,
        )

    def by_query(self, value_T: Tensor) -> Array:
        """Mean over the replicas of each query, in the order asked for; axes behind T are kept."""
        mean_Q: Array = mean_by_query(self.tree, value_T)[self.order_Q].numpy()
        return mean_Q


def in_seeds(candidates: Sequence[Candidate]) -> Candidate:
    """Candidates of one router, evaluated on trees of their own, as one in several seeds."""
    first, *others = candidates
    if not others:
        return first
    values = {
        name: np.concatenate([getattr(one, name) for one in candidates])
        for name in ("quality", "cost", "reward", "hops")
    }
    flows = [one.flow_QLA for one in candidates if one.flow_QLA is not None]
    return replace(first, **values, flow_QLA=np.mean(flows, axis=0), front=None)


def singles(evaluator: Evaluator) -> Iterator[Candidate]:
    """One row per arm alone, where every tree has that outcome."""
    for path in single_paths([evaluator.tree]):
        yield evaluator.static(path_name(path, evaluator.tree.arms), "single", path)


def role_assignments(evaluator: Evaluator) -> Iterator[Candidate]:
    """One row per assignment of different arms, where any arm may have any role, to the last hop.

    Nothing where there are more than ASSIGNMENTS of them, or where a trajectory may end before.
    """
    tree = evaluator.tree
    paths = common_paths([tree])
    if tree.hops < 2 or len(paths) > ASSIGNMENTS or len(paths) != len(tree.arms) ** tree.hops:
        return
    if any(len(path) < tree.hops for path in paths):
        return
    for path in paths:
        if len(set(path)) > 1:
            yield replace(
                evaluator.static(path_name(path, tree.arms), "role assignment", path), sequence=""
            )


def cheapest_and_most_expensive(
    evaluator: Evaluator, selection: Sequence[Tree]
) -> Iterator[Candidate]:
    """The arm that costs least alone on the selection trees, and the one that costs most."""
    paths = single_paths([evaluator.tree, *selection])
    if not paths:
        return
    costs = [static_mean([tree.cost_M for tree in selection], selection, path) for path in paths]
    yield evaluator.static(CHEAPEST, "cheapest", paths[int(np.argmin(costs))])
    yield evaluator.static(MOST_EXPENSIVE, "most expensive", paths[int(np.argmax(costs))])


def _order(own: Sequence[str], wanted: Sequence[str]) -> Tensor:
    """Place of each wanted query among a tree's own.

    Raises:
        DataError: if one is not there.
    """
    index = {query: index for index, query in enumerate(own)}
    missing = [query for query in wanted if query not in index]
    if missing:
        raise DataError(
            f"{len(missing)} of the evaluated queries are not complete in another experiment.",
            "Sample it to the end, on the same questions.",
        )
    return torch.tensor([index[query] for query in wanted])
