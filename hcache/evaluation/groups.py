"""Groups of a report: the statistics of all candidates on some queries.

The routers of a group are one family: their verdicts are corrected for their number.

Axes in names: Q queries of the group, S static sequences (of a candidate: seeds), L hops,
A actions, F points of a front, B resamples, V quantities; leading `seeds` axis where a router
comes in several seeds.
"""

from __future__ import annotations

import math
from collections import Counter
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
    holm,
    interval_of_draws,
    interval_of_mean,
    interval_of_ratio,
    p_value,
    resampled_means,
    smallest_effect,
    verdict,
)
from hcache.replay.tree import Tree

MOST = 60
"""Data sets, and kinds, that have rows of their own; of more, those with most queries."""
LONGEST = 100  # characters of the name of a group
MEANS = ("quality", "cost", "reward", "difference", "regret")

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class _Entry:
    """A candidate on the queries of a group."""

    candidate: Candidate
    values: dict[str, Array]  # of each of MEANS, [seeds, Q]
    cost: Array  # of the points that it has, [seeds, Q, F]
    quality: Array

    @property
    def columns_QV(self) -> Array:
        """Cost, then quality, of every seed and point."""
        both = np.concatenate([self.cost, self.quality]).transpose(1, 0, 2)
        return both.reshape(len(both), -1)


def masks(tree: Tree) -> Iterator[tuple[str, str, Mask]]:
    """(by, name, mask over queries): all, then each data set and kind where there are several."""
    yield "all", "all", np.ones(len(tree.queries), dtype=bool)
    for by, labels in (("dataset", tree.datasets), ("kind", tree.kinds)):
        counts = Counter(labels)
        codes = {label: code for code, label in enumerate(counts)}
        code_Q = np.array([codes[label] for label in labels])
        largest = sorted(sorted(counts), key=counts.__getitem__, reverse=True)[:MOST]
        for label in sorted(largest) if len(counts) > 1 else ():
            shown = label if len(label) <= LONGEST else f"{label[:LONGEST]}…"
            yield by, shown, code_Q == codes[label]


def groups_left_out(tree: Tree) -> Iterator[str]:
    """Sentences about data sets and kinds that have no rows of their own."""
    for by, labels in (("data set", tree.datasets), ("kind", tree.kinds)):
        if (several := len(set(labels))) > MOST:
            yield f"Of {several:,} {by}s the {MOST} with most queries have tables of their own."


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
    blocks = [entry.columns_QV for entry in entries]
    aiqs = [
        _aiq(entry, drawn_BV, reference_cost)
        for entry, drawn_BV in zip(entries, _resampled(blocks, resamples, seed), strict=True)
    ]
    ps = holm([_p_value(entry) for entry in entries])
    gap_Q = (oracle - static)[0]
    rows = [_row(*each, mask_Q, gap_Q) for each in zip(entries, aiqs, ps, strict=True)]
    return Group(by, name, int(mask_Q.sum()), reference_cost, tuple(rows))


def _entry(candidate: Candidate, mask_Q: Mask, static: Array, oracle: Array) -> _Entry:
    quality, cost, reward = (
        array[:, mask_Q] for array in (candidate.quality, candidate.cost, candidate.reward)
    )
    values = (quality, cost, reward, reward - static, oracle - reward)
    return _Entry(candidate, dict(zip(MEANS, values, strict=True)), *_points(candidate, mask_Q))


def _points(candidate: Candidate, mask_Q: Mask) -> tuple[Array, Array]:
    """Cost and quality of the points that a candidate has, [seeds, Q, F] each."""
    if candidate.front is not None:
        return candidate.front.cost[:, mask_Q], candidate.front.quality[:, mask_Q]
    return candidate.cost[:, mask_Q, None], candidate.quality[:, mask_Q, None]


def _resampled(blocks: Sequence[Array], resamples: int, seed: int) -> list[Array]:
    """Means of each block of columns in the same resamples, from [Q, V] to [B, V]."""
    ends = np.cumsum([block.shape[1] for block in blocks])
    return np.split(resampled_means(np.hstack(blocks), resamples, seed), ends[:-1], axis=1)


def _p_value(entry: _Entry) -> float:
    """The p-value of a router's difference; NaN for others, which get no verdict."""
    return p_value(entry.values["difference"]) if entry.candidate.role == "router" else math.nan


def _row(entry: _Entry, aiq: Interval, p: float, mask_Q: Mask, gap_Q: Array) -> Row:
    """The row of a candidate; `p` is corrected, `gap_Q` that of oracle and static sequence."""
    candidate, values = entry.candidate, entry.values
    difference = values["difference"]
    flow = _flow(candidate, mask_Q)
    return Row(
        name=candidate.name,
        role=candidate.role,
        sequence=candidate.sequence,
        seeds=len(candidate.reward),
        **{key: interval_of_mean(values[key]) for key in MEANS},
        hops=float(candidate.hops[:, mask_Q].mean()),
        stops=sum(share[STOP] for share in flow) if flow else math.nan,
        gap_closed=interval_of_ratio(difference, gap_Q),
        aiq=aiq,
        smallest_effect=smallest_effect(difference),
        p_value=p,
        verdict=verdict(difference, p) if candidate.role == "router" else "",
        flow=flow,
        front=_front(entry),
    )


def _aiq(entry: _Entry, drawn_BV: Array, reference: float) -> Interval:
    if reference <= 0:
        return Interval(math.nan, note="every sequence is free")
    seeds, queries, points = entry.cost.shape
    cost_SF, quality_SF = entry.cost.mean(axis=1), entry.quality.mean(axis=1)
    estimate = aiq(cost_SF.mean(axis=0), quality_SF.mean(axis=0), reference)
    cost_BSF, quality_BSF = np.split(drawn_BV.reshape(-1, 2 * seeds, points), 2, axis=1)
    drawn = [aiq_draws(cost_BSF[:, s], quality_BSF[:, s], reference) for s in range(seeds)]
    value_S = aiq_draws(cost_SF, quality_SF, reference)
    return interval_of_draws(estimate, value_S, np.stack(drawn, axis=1), queries)


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
    means = (array.mean(axis=(0, 1)).tolist() for array in (entry.cost, entry.quality))
    triples = zip(*means, candidate.front.alphas, strict=True)
    return tuple(Point(candidate.name, *triple) for triple in triples)
