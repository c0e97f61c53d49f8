"""Figures of a cost-quality plane, each one number for all prices together.

A router with a knob (a price weight, a threshold) is not one point but a curve of quality over
cost, and two curves that cross cannot be ranked by any one of their points. Here are the
numbers that the literature puts in their place, each defined on plain arrays: the Pareto front
and the area under it, RouterBench's AIQ, RouteLLM's APGR and CPT.

An area is taken from cost 0 to a reference cost and divided by it, so it is the mean quality
over budgets drawn evenly from that range. Areas compare only under the same reference cost.

Axes in names: B resamples, P points, K knots (the points and the reference, by cost), Q queries.
All sums are float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

ZERO = 1e-12  # a gap this small is none, and a goal missed by so little is reached


@dataclass(frozen=True)
class TwoModels:
    """RouteLLM's metrics; NaN in all of them where there is no gap, and `note` says why."""

    apgr: float  # mean share of the gap recovered, over all shares of strong calls
    cpt20: float  # smallest share of strong calls, 0 to 1, that recovers 20% of the gap
    cpt50: float
    cpt80: float
    note: str = ""


def no_gap(note: str) -> TwoModels:
    """Metrics where there is no gap: all NaN, and why."""
    return TwoModels(math.nan, math.nan, math.nan, math.nan, note)


def pareto(cost_P: ArrayLike, quality_P: ArrayLike) -> NDArray[np.bool_]:
    """Mask of the points that are not dominated, [P].

    A point is dominated if another costs no more, is no worse, and differs in one of them. Of
    points that are equal in both, the first is kept.

    Source: Kung, Luccio and Preparata, On Finding the Maxima of a Set of Vectors, 1975,
    https://doi.org/10.1145/321906.321910.

    Raises:
        ValueError: if there are no points, the shapes differ, or a value is not finite.
    """
    cost_P, quality_P = _matched(1, cost_P, quality_P)
    order_P = np.lexsort((-quality_P, cost_P))
    best_P = np.maximum.accumulate(quality_P[order_P])
    kept_P = np.zeros(len(cost_P), dtype=np.bool_)
    kept_P[order_P] = np.append(True, best_P[1:] > best_P[:-1])
    return kept_P


def area(cost_P: ArrayLike, quality_P: ArrayLike, reference_cost: float) -> float:
    """Mean quality that single points reach within a budget, over budgets up to the reference.

    The area under the staircase of the Pareto front between cost 0 and `reference_cost`, divided
    by the latter. Budgets below the cheapest point count 0; points dearer than the reference
    count for nothing. Unlike `aiq` it does not mix points.

    Source: the hypervolume of Zitzler and Thiele, Multiobjective Evolutionary Algorithms, 1999,
    https://doi.org/10.1109/4235.797969, in two dimensions, over (reference cost, quality 0).

    Raises:
        ValueError: if there are no points, the shapes differ, a value is not finite, a cost is
            negative, or the reference cost is not positive and finite.
    """
    cost_P, quality_P = _matched(1, cost_P, quality_P)
    cost_BK, quality_BK = _staircase(cost_P[None], quality_P[None], reference_cost)
    width_BK = np.diff(np.minimum(cost_BK, reference_cost))
    return float((quality_BK[:, :-1] * width_BK).sum() / reference_cost)


def aiq(cost_P: ArrayLike, quality_P: ArrayLike, reference_cost: float) -> float:
    """RouterBench's average improvement in quality: the area under the hull of the points.

    The hull is the smallest concave, non-decreasing curve above all points: what a coin that
    mixes two of them reaches on average. It is followed from the cheapest point to
    `reference_cost`, flat beyond its peak; points dearer than the reference count as far as
    mixtures with them cost no more than it. Budgets below the cheapest point count 0. The area
    is divided by the reference cost.

    Theirs takes as reference the largest cost among the routers compared, so that a router's
    AIQ depends on which others are there; here the caller fixes it. This follows their code; the
    paper's formula divides by the range of costs, largest less smallest.

    Source: Hu et al., RouterBench, https://arxiv.org/abs/2403.12031, computed in
    https://github.com/withmartian/routerbench/blob/main/evaluation/AIQ.py.

    Raises:
        ValueError: if there are no points, the shapes differ, a value is not finite, a cost is
            negative, or the reference cost is not positive and finite.
    """
    cost_P, quality_P = _matched(1, cost_P, quality_P)
    return float(aiq_draws(cost_P[None], quality_P[None], reference_cost)[0])


def aiq_draws(cost_BP: ArrayLike, quality_BP: ArrayLike, reference_cost: float) -> Array:
    """`aiq` of each of B resamples of the same P points under one reference cost, [B].

    Takes O(B P³) steps, in O(P²) array operations: for up to some tens of points.

    Raises:
        ValueError: as `aiq`.
    """
    cost_BP, quality_BP = _matched(2, cost_BP, quality_BP)
    cost_BK, quality_BK = _staircase(cost_BP, quality_BP, reference_cost)
    hull_BK = _hull(cost_BK, quality_BK)
    width_BK = np.diff(np.minimum(cost_BK, reference_cost))
    middle_BK = (hull_BK[:, 1:] + hull_BK[:, :-1]) / 2
    return np.asarray((middle_BK * width_BK).sum(axis=1) / reference_cost, dtype=np.float64)


def apgr_cpt(score_Q: ArrayLike, weak_Q: ArrayLike, strong_Q: ArrayLike) -> TwoModels:
    """RouteLLM's APGR and CPT of a router between two models.

    Queries go to the strong model from the highest score down. At every share of strong calls
    the router recovers a part of the gap between the weak model's mean quality W and the strong
    one's, S. APGR is the mean of that part over all shares, (AUC − W) / (S − W); CPT(x) is the
    smallest share at which it reaches x. One score for all queries, a coin, has APGR 0.5 and
    CPT(x) = x.

    Between thresholds, and so within queries of one score, the curve is linear, as it is when a
    coin decides which of them go. All thresholds are used (theirs: eleven by default), and
    quality may fall as the share grows (theirs interpolates over accuracy as if it never did).

    Source: Ong et al., RouteLLM, https://arxiv.org/abs/2406.18665, computed in
    https://github.com/lm-sys/RouteLLM/blob/main/routellm/evals/evaluate.py.

    Raises:
        ValueError: if there are no queries, the shapes differ, or a value is not finite.
    """
    score_Q, weak_Q, strong_Q = _matched(1, score_Q, weak_Q, strong_Q)
    share_K, gain_K = _gains(score_Q, strong_Q - weak_Q)
    gap = gain_K[-1]
    if gap <= ZERO:
        return no_gap("the strong model is not better")
    part_K = gain_K / gap
    apgr = float((np.diff(share_K) * (part_K[1:] + part_K[:-1]) / 2).sum())
    cpt20, cpt50, cpt80 = (_first_share(share_K, part_K, x) for x in (0.2, 0.5, 0.8))
    return TwoModels(apgr, cpt20, cpt50, cpt80)


def _matched(axes: int, *values: ArrayLike) -> tuple[Array, ...]:
    arrays = tuple(np.asarray(value, dtype=np.float64) for value in values)
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1 or arrays[0].ndim != axes or arrays[0].size == 0:
        raise ValueError(
            f"shapes {sorted(shapes)}: all must be one shape of {axes} axes, not empty"
        )
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("values hold NaN or infinity; leave out what has no outcome")
    return arrays


def _staircase(cost_BP: Array, quality_BP: Array, reference_cost: float) -> tuple[Array, Array]:
    """Points by cost with the best quality up to each, the reference among them, [B, K] both.

    The reference enters as a point no better than any other: a knot that raises nothing.
    """
    if not 0 < reference_cost < math.inf:
        raise ValueError(f"the reference cost is {reference_cost}; it must be positive and finite")
    if (cost_BP < 0).any():
        raise ValueError("a cost is negative; areas begin at cost 0")
    cost_BK = np.pad(cost_BP, ((0, 0), (0, 1)), constant_values=reference_cost)
    worst_B1 = quality_BP.min(axis=1, keepdims=True)
    quality_BK = np.concatenate([quality_BP, worst_B1], axis=1)
    order_BK = np.argsort(cost_BK, axis=1, kind="stable")
    cost_BK = np.take_along_axis(cost_BK, order_BK, axis=1)
    best_BK = np.maximum.accumulate(np.take_along_axis(quality_BK, order_BK, axis=1), axis=1)
    return cost_BK, best_BK


def _hull(cost_BK: Array, quality_BK: Array) -> Array:
    """Height of the concave hull at every knot: the highest chord between two knots around it."""
    hull_BK = quality_BK.copy()
    knots = cost_BK.shape[1]
    for left in range(knots):
        for right in range(left + 2, knots):
            inner_BK = cost_BK[:, left + 1 : right] - cost_BK[:, left, None]
            span_B1 = (cost_BK[:, right] - cost_BK[:, left])[:, None]
            weight_BK = inner_BK / np.where(span_B1 > 0, span_B1, 1)
            rise_B1 = (quality_BK[:, right] - quality_BK[:, left])[:, None]
            chord_BK = quality_BK[:, left, None] + weight_BK * rise_B1
            below_BK = hull_BK[:, left + 1 : right]
            np.maximum(below_BK, chord_BK, out=below_BK)
    return hull_BK


def _gains(score_Q: Array, gain_Q: Array) -> tuple[Array, Array]:
    """Share of strong calls and mean gain over the weak model at every distinct threshold."""
    order_Q = np.argsort(-score_Q, kind="stable")
    score_Q = score_Q[order_Q]
    last_Q = np.append(score_Q[1:] != score_Q[:-1], True)  # of the queries with its score
    share_K = np.append(0, np.flatnonzero(last_Q) + 1) / len(score_Q)
    gain_K = np.append(0, np.cumsum(gain_Q[order_Q])[last_Q]) / len(score_Q)
    return share_K, gain_K


def _first_share(share_K: Array, part_K: Array, goal: float) -> float:
    """Smallest share at which the piecewise linear part, from 0 to 1, reaches a goal between."""
    right = int(np.argmax(part_K >= goal - ZERO))
    low, high = part_K[right - 1], part_K[right]
    weight = min(1.0, (goal - low) / (high - low))
    return float(share_K[right - 1] + weight * (share_K[right] - share_K[right - 1]))
