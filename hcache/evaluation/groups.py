"""Groups of a report: the statistics of all candidates over the same resamples of some queries.

Axes in names: Q queries of the group, S static sequences, L hops, A actions, F points of a front,
B resamples, V quantities, P those of PAIRED; leading `seeds` axis where a router comes in several
seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hcache.evaluation.baselines import STOP, Candidate
from hcache.evaluation.fronts import aiq, aiq_draws
from hcache.evaluation.report import Group, Point, Row
from hcache.evaluation.statistics import (
    Array,
    Interval,
    interval_of_draws,
    interval_of_mean,
    interval_of_ratio,
    resampled_means,
    smallest_effect,
    verdict,
)
from hcache.replay.tree import Tree

LEVEL = 0.95
PAIRED = ("quality", "cost", "reward", "difference", "regret")  # means with draws of their own

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class _Entry:
    """A candidate on the queries of a group."""

    candidate: Candidate
    values: dict[str, Array]  # of each of PAIRED, [seeds, Q]
    cost_QF: Array
    quality_QF: Array

    @property
    def means_QP(self) -> Array:
        """Mean over seeds of each of PAIRED."""
        return np.stack([self.values[key].mean(axis=0) for key in PAIRED], axis=1)


def masks(tree: Tree) -> Iterator[tuple[str, str, Mask]]:
    """(by, name, mask over queries): all, then each data set and kind where there are several."""
    yield "all", "all", np.ones(len(tree.queries), dtype=bool)
    for by, labels in (("dataset", tree.datasets), ("kind", tree.kinds)):
        distinct = sorted(set(labels))
        for label in distinct if len(distinct) > 1 else ():
            yield by, label, np.array([own == label for own in labels])


def group_of(
    named: tuple[str, str, Mask],
    candidates: Sequence[Candidate],
    static_cost_QS: Array,
    resamples: int,
    seed: int,
) -> Group:
    """Rows of all candidates over the queries of a mask; one of them is static, one the oracle."""
    by, name, mask_Q = named
    reference_cost = float(static_cost_QS[mask_Q].mean(axis=0).max())
    static, oracle = (
        next(c for c in candidates if c.role == role).reward[:, mask_Q]
        for role in ("static", "oracle")
    )
    entries = [_entry(candidate, mask_Q, static, oracle) for candidate in candidates]
    gap_Q = (oracle - static)[0]
    blocks = [gap_Q[:, None], *(entry.means_QP for entry in entries)]
    blocks += [points for entry in entries for points in (entry.cost_QF, entry.quality_QF)]
    gap_B1, *drawn = _resampled(blocks, resamples, seed)
    gaps = (gap_Q, gap_B1[:, 0])
    means, points = drawn[: len(entries)], drawn[len(entries) :]
    rows = [
        _row(entry, mask_Q, gaps, drawn_BP, _aiq(entry, cost_BF, quality_BF, reference_cost))
        for entry, drawn_BP, cost_BF, quality_BF in zip(
            entries, means, points[::2], points[1::2], strict=True
        )
    ]
    return Group(by, name, int(mask_Q.sum()), reference_cost, tuple(rows))


def _entry(candidate: Candidate, mask_Q: Mask, static: Array, oracle: Array) -> _Entry:
    quality, cost, reward = (
        array[:, mask_Q] for array in (candidate.quality, candidate.cost, candidate.reward)
    )
    values = (quality, cost, reward, reward - static, oracle - reward)
    return _Entry(candidate, dict(zip(PAIRED, values, strict=True)), *_points(candidate, mask_Q))


def _points(candidate: Candidate, mask_Q: Mask) -> tuple[Array, Array]:
    """Cost and quality per query of the points that a candidate has, [Q, F] each."""
    if candidate.front is not None:
        return candidate.front.cost_QF[mask_Q], candidate.front.quality_QF[mask_Q]
    own = (candidate.cost, candidate.quality)
    cost_QF, quality_QF = (value[:, mask_Q].mean(axis=0)[:, None] for value in own)
    return cost_QF, quality_QF


def _resampled(blocks: Sequence[Array], resamples: int, seed: int) -> list[Array]:
    """Means of each block of columns in the same resamples, from [Q, V] to [B, V]."""
    ends = np.cumsum([block.shape[1] for block in blocks])
    return np.split(resampled_means(np.hstack(blocks), resamples, seed), ends[:-1], axis=1)


def _row(
    entry: _Entry, mask_Q: Mask, gaps: tuple[Array, Array], drawn_BP: Array, aiq: Interval
) -> Row:
    """The row of a candidate; `gaps` of oracle and static sequence are by query, by resample."""
    candidate, values = entry.candidate, entry.values
    draws = dict(zip(PAIRED, drawn_BP.T, strict=True))
    intervals = {key: interval_of_mean(values[key], draws[key], LEVEL) for key in PAIRED}
    difference, (gap_Q, gap_B) = values["difference"], gaps
    flow = _flow(candidate, mask_Q)
    return Row(
        name=candidate.name,
        role=candidate.role,
        sequence=candidate.sequence,
        seeds=len(candidate.reward),
        **intervals,
        hops=float(candidate.hops[:, mask_Q].mean()),
        stops=sum(share[STOP] for share in flow) if flow else math.nan,
        gap_closed=interval_of_ratio(difference, gap_Q, draws["difference"], gap_B, LEVEL),
        aiq=aiq,
        smallest_effect=smallest_effect(difference),
        verdict=_verdict(candidate.role, intervals["difference"], len(gap_Q)),
        flow=flow,
        front=_front(entry),
    )


def _aiq(entry: _Entry, cost_BF: Array, quality_BF: Array, reference: float) -> Interval:
    if reference <= 0:
        return Interval(math.nan, note="every sequence is free")
    cost_F, quality_F = entry.cost_QF.mean(axis=0), entry.quality_QF.mean(axis=0)
    draws_B = aiq_draws(cost_BF, quality_BF, reference)
    return interval_of_draws(aiq(cost_F, quality_F, reference), draws_B, len(entry.cost_QF), LEVEL)


def _flow(candidate: Candidate, mask_Q: Mask) -> tuple[dict[str, float], ...]:
    """The share of the trees that take each action, hop by hop; nothing for chance."""
    if candidate.flow_QLA is None:
        return ()
    share_LA = candidate.flow_QLA[mask_Q].mean(axis=0)
    return tuple(dict(zip(candidate.actions, share, strict=True)) for share in share_LA.tolist())


def _front(entry: _Entry) -> tuple[Point, ...]:
    candidate = entry.candidate
    if candidate.front is None:
        return ()
    means = (array_QF.mean(axis=0).tolist() for array_QF in (entry.cost_QF, entry.quality_QF))
    triples = zip(*means, candidate.front.alphas, strict=True)
    return tuple(Point(candidate.name, *triple) for triple in triples)


def _verdict(role: str, difference: Interval, queries: int) -> str:
    return verdict(difference, queries) if role == "router" else ""
