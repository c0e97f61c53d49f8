"""Static sequences: one path of actions for all queries, and which is best."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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


FEWEST = 20  # queries that must have a sequence which others lack


def best_static(
    trees: Sequence[Tree], alpha: float, kind: str | None = None, within: Sequence[Tree] = ()
) -> Path:
    """The static sequence with the highest mean reward over the queries of all trees.

    With `kind`, over the queries of that kind alone. Of equals the cheapest, then the shortest,
    then the first in the order of the arms. Of sequences that every tree has, those of `within`
    included; where chance alone has left some out of the trees, of `estimated` ones too.

    Raises:
        DataError: if no sequence is possible in every tree.
    """
    if all(tree.partial is None for tree in (*trees, *within)):
        within = ()
    paths = common_paths([*trees, *within])
    at_random = [tree.partial is None or tree.partial.at_random for tree in trees]
    if all(at_random) and any(tree.partial is not None for tree in trees):
        return _best_estimated(trees, alpha, kind, within, paths)
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


@dataclass(frozen=True)
class Estimate:
    """The mean reward of a static sequence over all queries, told by those that have it."""

    path: Path
    reward: float
    error: float  # standard error, for want of the others; 0 where all have it
    queries: int  # that have it

    @property
    def low(self) -> float:
        """The estimate less its error, so that few queries do not win by luck."""
        return self.reward - self.error


def estimated(
    trees: Sequence[Tree], alpha: float, kind: str | None, paths: Sequence[Path]
) -> Iterator[Estimate]:
    """Estimates of those sequences that all queries have, or FEWEST of them.

    Of a sequence that some queries lack, the mean difference on the same queries to what they have
    in common, which chance makes that of all queries, is added to the mean of the latter.
    """
    common = common_paths(trees)
    kinds = [kind is None or kind == own for tree in trees for own in tree.kinds]
    base_Q = (
        _rewards(trees, alpha, common)[kinds].mean(dim=1) if common else torch.zeros(sum(kinds))
    )
    reward_QS = _rewards(trees, alpha, paths)[kinds]
    for path, reward_Q in zip(paths, reward_QS.T, strict=True):
        has_Q = ~reward_Q.isnan()
        count, every = int(has_Q.sum()), len(has_Q)
        if count < min(FEWEST, every):
            continue
        difference_q = (reward_Q - base_Q)[has_Q]
        spread = float(difference_q.std()) if count > 1 else 0.0
        error = spread * math.sqrt((1 - count / every) / count)
        yield Estimate(path, float(difference_q.mean() + base_Q.mean()), error, count)


def _best_estimated(
    trees: Sequence[Tree],
    alpha: float,
    kind: str | None,
    within: Sequence[Tree],
    common: Sequence[Path],
) -> Path:
    """The sequence whose estimate is highest, less its standard error; of equals the shortest."""
    paths = set(common_paths(within)) if within else None
    known = [path for path in often(trees) if paths is None or path in paths]
    known = sorted({*common, *known}, key=lambda path: (len(path), path))
    found = list(estimated(trees, alpha, kind, known))
    if not found:
        raise DataError(
            "no static sequence is possible in enough of the selection trees.",
            "Sample more queries, or with a larger sampling.width.",
        )
    highest = max(one.low for one in found)
    return next(one.path for one in found if one.low >= highest - TIE)


def often(trees: Sequence[Tree]) -> list[Path]:
    """Sequences that FEWEST outcomes or more end, over all trees."""
    counts: Counter[Path] = Counter()
    for tree in trees:
        rows_SL, count_S = tree.path_ML.unique(dim=0, return_counts=True)
        for row, count in zip(rows_SL.tolist(), count_S.tolist(), strict=True):
            counts[tuple(arm for arm in row if arm != NONE)] += count
    return [path for path, count in counts.items() if path and count >= FEWEST]


def _rewards(trees: Sequence[Tree], alpha: float, paths: Sequence[Path]) -> Tensor:
    """Reward of each sequence on each query, float64 [Q, S]; NaN where a replica lacks it."""
    parts = []
    for tree in trees:
        leaf_TS = static_leaves(tree, paths)
        reward_TS = tree.reward_M(alpha)[leaf_TS.clamp(min=0)]
        parts.append(mean_by_query(tree, reward_TS.masked_fill(leaf_TS == NONE, torch.nan)))
    return torch.cat(parts)


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
