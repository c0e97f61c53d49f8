"""Forests for tests: random ragged ones, and a synthetic routing task with known structure.

Trees are first built as nested nodes, which the slow twins of the tests walk, and then laid out
as the flat arrays of `hcache.replay.tree.Tree`.

The synthetic task: every query belongs to one of eight families, seen in the features of its text
up to noise. Seven families are solved by a static sequence of their own; in the eighth the right
second arm is revealed by the reply of the first only. An arm more than needed costs tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from hypothesis import strategies as st

from hcache.replay.tree import NONE, Tree


@dataclass
class Leaf:
    """The end of a trajectory."""

    quality: float
    cost: float
    path: tuple[int, ...]
    index: int = NONE


@dataclass
class Node:
    """A choice; `actions` leads to nodes and leaves, with STOP as the last index."""

    features: Sequence[float] | np.ndarray
    cost: float
    hop: int
    actions: dict[int, Node | Leaf] = field(default_factory=dict)
    index: int = NONE


@dataclass
class Forest:
    """Nested trees and the same as arrays."""

    roots: list[Node]
    tree: Tree


def nodes_of(root: Node) -> Iterator[Node]:
    """All nodes of a tree, parents first."""
    yield root
    for child in root.actions.values():
        if isinstance(child, Node):
            yield from nodes_of(child)


def leaves_of(root: Node) -> Iterator[Leaf]:
    """All leaves of a tree."""
    for child in root.actions.values():
        if isinstance(child, Leaf):
            yield child
        else:
            yield from leaves_of(child)


def lay_out(
    roots: list[Node],
    arms: Sequence[str],
    *,
    hops: int,
    replicas: int = 1,
    datasets: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    prefix: str = "q",
) -> Forest:
    """Number nodes by hop and write the arrays; trees come query by query, replica by replica."""
    nodes = sorted((node for root in roots for node in nodes_of(root)), key=lambda n: n.hop)
    leaves = [leaf for root in roots for leaf in leaves_of(root)]
    for index, node in enumerate(nodes):
        node.index = index
    for index, leaf in enumerate(leaves):
        leaf.index = index
    child_NA = torch.full((len(nodes), len(arms) + 1), NONE)
    leaf_NA = torch.full_like(child_NA, NONE)
    for node in nodes:
        for action, target in node.actions.items():
            table = child_NA if isinstance(target, Node) else leaf_NA
            table[node.index, action] = target.index
    path_ML = torch.full((len(leaves), hops), NONE)
    for leaf in leaves:
        path_ML[leaf.index, : len(leaf.path)] = torch.tensor(leaf.path, dtype=torch.int64)
    count = len(roots) // replicas
    tree = Tree(
        arms=tuple(arms),
        queries=tuple(f"{prefix}{i}" for i in range(count)),
        datasets=tuple(datasets or ["made"] * count),
        kinds=tuple(kinds or [""] * count),
        query_T=torch.arange(len(roots)) // replicas,
        replica_T=torch.arange(len(roots)) % replicas,
        root_T=torch.tensor([root.index for root in roots]),
        child_NA=child_NA,
        leaf_NA=leaf_NA,
        hop_N=torch.tensor([node.hop for node in nodes]),
        cost_N=torch.tensor([node.cost for node in nodes], dtype=torch.float64),
        features_ND=torch.tensor(np.array([node.features for node in nodes]), dtype=torch.float32),
        quality_M=torch.tensor([leaf.quality for leaf in leaves], dtype=torch.float64),
        cost_M=torch.tensor([leaf.cost for leaf in leaves], dtype=torch.float64),
        path_ML=path_ML,
    )
    return Forest(roots, tree)


def random_forest(
    seed: int,
    *,
    queries: int = 3,
    arms: int = 2,
    hops: int = 3,
    features: int = 4,
    replicas: int = 1,
    ragged: bool = True,
    stop: bool = True,
    prefix: str = "q",
) -> Forest:
    """A forest of chance. Ragged: some arms are missing, some episodes end early."""
    rng = random.Random(seed)
    names = tuple("abcdefgh"[:arms])

    def grow(path: tuple[int, ...], cost: float) -> Node:
        hop = len(path)
        node = Node([rng.gauss(0, 1) for _ in range(features)], cost, hop)
        present = [a for a in range(arms) if not ragged or rng.random() < 0.8]
        for action in present or [rng.randrange(arms)]:
            longer, paid = (*path, action), cost + rng.randint(1, 5)
            ends = hop + 1 == hops or (ragged and rng.random() < 0.2)
            node.actions[action] = end(longer, paid) if ends else grow(longer, paid)
        if stop and hop > 0 and (not ragged or rng.random() < 0.8):
            node.actions[arms] = end(path, cost)
        return node

    def end(path: tuple[int, ...], cost: float) -> Leaf:
        return Leaf(rng.choice([0.0, 0.5, 1.0]), cost, path)  # few values, so that ties happen

    roots = [grow((), 0.0) for _ in range(queries * replicas)]
    datasets = [("x", "y")[i % 2] for i in range(queries)]
    kinds = [("k", "l", "m")[i % 3] for i in range(queries)]
    return lay_out(
        roots, names, hops=hops, replicas=replicas, datasets=datasets, kinds=kinds, prefix=prefix
    )


FAMILIES: tuple[tuple[int, ...] | None, ...] = (
    (0,),
    (1,),
    (2,),
    (0, 1),
    (1, 2),
    (2, 0),
    (0, 1, 2),
    None,  # arm 0 first, then the arm that its reply names
)


def synthetic_forest(
    queries: int,
    *,
    seed: int,
    world: int = 0,
    features: int = 256,
    noise: float = 1.0,
    hops: int = 3,
    prefix: str = "q",
) -> Tree:
    """Queries of the synthetic task; `world` fixes the families, `seed` the queries."""
    meaning = np.random.default_rng(world)
    families_FD = meaning.normal(size=(len(FAMILIES), features))
    arms_D = meaning.normal(size=(3, features))
    hints_D = meaning.normal(size=(3, features))
    rates = (1.0, 1.5, 3.0)
    rng = np.random.default_rng(seed)

    def text(mean_D: np.ndarray) -> np.ndarray:
        raw_D = mean_D + noise * rng.normal(size=features)
        return raw_D / np.linalg.norm(raw_D)

    def grow(
        base_D: np.ndarray, need: tuple[int, ...], hinted: bool, path: tuple[int, ...], cost: float
    ) -> Node:
        node = Node(text(base_D), cost, len(path))
        for action in range(3):
            longer = (*path, action)
            paid = cost + rates[action] * (1.0 + 0.25 * len(path))
            reply_D = base_D + 0.5 * arms_D[action]
            if hinted and longer == (0,):
                reply_D = reply_D + hints_D[need[1]]
            node.actions[action] = (
                end(need, longer, paid)
                if len(longer) == hops
                else grow(reply_D, need, hinted, longer, paid)
            )
        if path:
            node.actions[3] = end(need, path, cost)
        return node

    def end(need: tuple[int, ...], path: tuple[int, ...], cost: float) -> Leaf:
        done = 0
        for action in path:
            done += done < len(need) and action == need[done]
        return Leaf(float(done == len(need)), cost, path)

    roots, kinds = [], []
    for index in range(queries):
        family = index % len(FAMILIES)
        pattern = FAMILIES[family]
        need = pattern or (0, int(rng.integers(3)))
        base_D = families_FD[family] + 0.5 * rng.normal(size=features)
        roots.append(grow(base_D, need, pattern is None, (), 0.0))
        kinds.append(f"family {family}")
    return lay_out(roots, "abc", hops=hops, kinds=kinds, prefix=prefix).tree


def small_forests(seeds: int, hops: int) -> st.SearchStrategy[Forest]:
    """Random forests of a few queries, of seeds and numbers of hops up to these."""
    return st.builds(
        random_forest,
        st.integers(0, seeds),
        queries=st.integers(1, 4),
        arms=st.integers(1, 3),
        hops=st.integers(1, hops),
        replicas=st.integers(1, 2),
        ragged=st.booleans(),
        stop=st.booleans(),
    )
