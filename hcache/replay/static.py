"""Static sequences: one path of actions for all queries, and which is best."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hcache.errors import DataError
from hcache.replay.exact import (
    TIE,
    mean_by_query,
    sequences,
    static_leaves,
)
from hcache.replay.tree import NONE, Tree

Path = tuple[int, ...]  # actions of a static sequence, STOP left out


def best_static(trees: Sequence[Tree], alpha: float, kind: str | None = None) -> Path:
    """The static sequence with the highest mean reward over the queries of all trees.

    With `kind`, over the queries of that kind alone. Of equals the cheapest, then the shortest,
    then the first in the order of the arms.

    Raises:
        DataError: if no sequence is possible in every tree.
    """
    paths = common_paths(trees)
    if not paths:
        raise DataError(
            "no static sequence is possible in every selection tree.",
            "Sample the missing trajectories, or leave their queries out.",
        )
    leaves = [static_leaves(tree, paths) for tree in trees]
    rewards = [mean_by_query(t, t.reward_M(alpha)[at]) for t, at in zip(trees, leaves, strict=True)]
    costs = [mean_by_query(t, t.cost_M[at]) for t, at in zip(trees, leaves, strict=True)]
    kinds = [kind is None or kind == own for tree in trees for own in tree.kinds]
    reward_S = torch.cat(rewards)[kinds].mean(dim=0)
    cost_S = torch.cat(costs)[kinds].mean(dim=0)
    tied = (reward_S >= reward_S.max() - TIE).nonzero()[:, 0].tolist()
    best: int = min(tied, key=lambda s: (round(float(cost_S[s]), 9), s))
    return paths[best]


def single_paths(trees: Sequence[Tree]) -> list[Path]:
    """Each arm alone: after one hop, else at every hop, where all trees have that outcome."""
    found: list[Path] = []
    for arm in range(len(trees[0].arms)):
        paths: list[Path] = [(arm,), (arm,) * trees[0].hops]
        found += [path for path in paths if _possible(trees, path)][:1]
    return found


def _possible(trees: Sequence[Tree], path: Path) -> bool:
    return all(bool((static_leaves(tree, [path]) != NONE).all()) for tree in trees)


def best_single(trees: Sequence[Tree], alpha: float) -> Path | None:
    """The arm that is best alone on the selection trees; of equals the cheapest."""
    scores = [
        (
            -round(static_mean([tree.reward_M(alpha) for tree in trees], trees, path), 12),
            round(static_mean([tree.cost_M for tree in trees], trees, path), 9),
            path,
        )
        for path in single_paths(trees)
    ]
    return min(scores)[2] if scores else None


def static_mean(values: Sequence[Tensor], trees: Sequence[Tree], path: Path) -> float:
    """Mean over the queries of all trees of a value of the leaves, [M] for each tree."""
    parts = [
        mean_by_query(tree, value_M[static_leaves(tree, [path])[:, 0]])
        for tree, value_M in zip(trees, values, strict=True)
    ]
    return float(torch.cat(parts).mean())


def common_paths(trees: Sequence[Tree]) -> list[Path]:
    """Static sequences that are possible in every tree, shortest first."""
    found = {path for tree in trees for path in sequences(tree)}
    paths = sorted((path for path in found if path), key=lambda path: (len(path), path))
    possible = torch.stack([(static_leaves(t, paths) != NONE).all(dim=0) for t in trees])
    return [path for path, ok in zip(paths, possible.all(dim=0).tolist(), strict=True) if ok]
