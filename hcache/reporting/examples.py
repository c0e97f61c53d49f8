"""Examples: the queries on which a router gained and lost most, with both trajectories to read.

In: a tree, the leaves that the router and the best static sequence end in, and the store. Out:
what was asked, and on either side who replied what, at which cost, and how good the answer was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from hcache.config.schema import ExperimentConfig
from hcache.replay.exact import sequences, static_leaves
from hcache.replay.tree import Tree, path_name
from hcache.store import Store
from hcache.store.queries import OUTCOME, QUESTION

COUNT = 3  # gains, and losses
EQUAL = 1e-9  # rewards this close are neither


@dataclass(frozen=True)
class Hop:
    """One call: who replied, what, at which cost."""

    arm: str
    role: str  # in the workflow; empty where it has none
    reply: str
    prompt_tokens: int
    output_tokens: int
    cost: float


@dataclass(frozen=True)
class Side:
    """One trajectory and its outcome."""

    who: str
    sequence: str
    hops: tuple[Hop, ...]
    answer: str
    quality: float
    cost: float
    reward: float
    notes: tuple[str, ...]
    trajectory_id: str


@dataclass(frozen=True)
class Example:
    """A query with both trajectories; `gain` is the router's reward less the other's."""

    query_id: str
    dataset: str
    kind: str
    question: str
    references: tuple[str, ...]
    gain: float
    sides: tuple[Side, Side]  # the router, the static sequence


@dataclass(frozen=True)
class Examples:
    """The largest gains and losses of a router against a static sequence."""

    router: str
    static: str
    gains: tuple[Example, ...]  # the largest first
    losses: tuple[Example, ...]


def leaves_of_sequence(tree: Tree, name: str) -> Tensor:
    """Leaf that a static sequence, given by its name, ends in, of each tree."""
    path = next(path for path in sequences(tree) if path_name(path, tree.arms) == name)
    return static_leaves(tree, [path])[:, 0]


def tell(
    store: Store,
    config: ExperimentConfig,
    tree: Tree,
    router: tuple[str, Tensor],
    static: tuple[str, Tensor],
    count: int = COUNT,
) -> Examples:
    """The `count` queries with the largest gains and losses of a router.

    Each query stands there once, and where there are several kinds of question the largest of each
    kind goes before the second of any.

    `router` and `static` are a name each, and a leaf of every tree, [T].
    """
    reward_M = tree.reward_M(config.train.alpha)
    gain_T = reward_M[router[1]] - reward_M[static[1]]
    reader = _Reader(store, config, tree)

    def example(index: int) -> Example:
        sides = [reader.side(name, index, int(leaf_T[index])) for name, leaf_T in (router, static)]
        return reader.example(index, float(gain_T[index]), (sides[0], sides[1]))

    return Examples(
        router=router[0],
        static=static[0],
        gains=tuple(example(index) for index in _largest(tree, gain_T, count)),
        losses=tuple(example(index) for index in _largest(tree, -gain_T, count)),
    )


def _largest(tree: Tree, value_T: Tensor, count: int) -> list[int]:
    """The trees of the largest values above 0: of different queries, and of many kinds."""
    order = torch.argsort(value_T, descending=True, stable=True).tolist()
    of_query: dict[int, int] = {}
    for index in order:
        if value_T[index] > EQUAL:
            of_query.setdefault(int(tree.query_T[index]), index)
    of_kind: dict[tuple[str, str], int] = {}
    for query, index in of_query.items():
        of_kind.setdefault((tree.datasets[query], tree.kinds[query]), index)
    chosen = list(dict.fromkeys([*of_kind.values(), *of_query.values()]))[:count]
    return sorted(chosen, key=order.index)


class _Reader:
    """Reads queries and trajectories of an experiment."""

    def __init__(self, store: Store, config: ExperimentConfig, tree: Tree) -> None:
        self.store, self.config, self.tree = store, config, tree
        arms = store.pool(config.name).select("name", "arm_id")
        self.arm_ids: dict[str, str] = dict(arms.iter_rows())

    def example(self, index: int, gain: float, sides: tuple[Side, Side]) -> Example:
        query = self._query(index)
        asked = self.store.sql(QUESTION, [self.tree.queries[query]]).row(0, named=True)
        return Example(
            query_id=self.tree.queries[query],
            dataset=self.tree.datasets[query],
            kind=self.tree.kinds[query],
            question=asked["question"],
            references=tuple(asked["references"]),
            gain=gain,
            sides=sides,
        )

    def side(self, who: str, index: int, leaf: int) -> Side:
        path = self.tree.path_ML[leaf].tolist()
        decisions = [self.arm_ids[self.tree.arms[action]] for action in path if action >= 0]
        query, replica = self.tree.queries[self._query(index)], int(self.tree.replica_T[index])
        found = self.store.sql(OUTCOME, [self.config.name, query, replica, decisions])
        outcome = found.row(0, named=True)
        return Side(
            who=who,
            sequence=path_name(path, self.tree.arms),
            hops=tuple(self._hops(outcome["trajectory_id"])),
            answer=outcome["answer"] or "",
            quality=float(self.tree.quality_M[leaf]),
            cost=float(self.tree.cost_M[leaf]),
            reward=float(self.tree.reward_M(self.config.train.alpha)[leaf]),
            notes=tuple(outcome["notes"]),
            trajectory_id=outcome["trajectory_id"],
        )

    def _hops(self, trajectory: str) -> Iterator[Hop]:
        calls = self.store.calls(trajectory, self.config.name)
        names = [field.name for field in fields(Hop)]
        for row in calls.select(names).iter_rows():
            yield Hop(*row)

    def _query(self, index: int) -> int:
        return int(self.tree.query_T[index])
