"""Slow twins of the figures of a cost-quality plane."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

from hcache.evaluation.fronts import pareto

Points = list[tuple[float, float]]


def columns(points: Points) -> tuple[list[float], list[float]]:
    return [cost for cost, _ in points], [quality for _, quality in points]


def front_of(points: Points) -> Points:
    return [point for point, kept in zip(points, pareto(*columns(points)), strict=True) if kept]


def pareto_twin(points: Points) -> list[bool]:
    kept = []
    for i, (cost, quality) in enumerate(points):
        dominated = False
        for j, (other_cost, other_quality) in enumerate(points):
            if other_cost <= cost and other_quality >= quality:
                differs = other_cost < cost or other_quality > quality
                dominated |= differs or j < i
        kept.append(not dominated)
    return kept


def area_twin(points: Points, reference: float) -> float:
    inside = sorted(point for point in points if point[0] <= reference)
    ends = [cost for cost, _ in inside[1:]] + [reference]
    total = 0.0
    for place, end in enumerate(ends[: len(inside)]):
        best = max(quality for _, quality in inside[: place + 1])
        total += best * (end - inside[place][0])
    return total / reference


def hull_twin(points: Points) -> list[tuple[Fraction, Fraction]]:
    """Upper hull by Andrew's monotone chain, without its decreasing tail, in exact numbers."""
    chain: list[tuple[Fraction, Fraction]] = []
    for x, y in sorted((Fraction(cost), Fraction(quality)) for cost, quality in points):
        if chain and chain[-1][0] == x:
            chain.pop()
        while len(chain) >= 2:
            (x1, y1), (x2, y2) = chain[-2:]
            if (x2 - x1) * (y - y1) < (y2 - y1) * (x - x1):
                break
            chain.pop()
        chain.append((x, y))
    while len(chain) >= 2 and chain[-1][1] <= chain[-2][1]:
        chain.pop()
    return chain


def aiq_twin(points: Points, reference: float) -> float:
    end, total = Fraction(reference), Fraction(0)
    hull = hull_twin(points)
    for (x1, y1), (x2, y2) in pairwise(hull):
        if x1 < end:
            stop = min(x2, end)
            y_stop = y1 + (y2 - y1) * (stop - x1) / (x2 - x1)
            total += (y1 + y_stop) / 2 * (stop - x1)
    last_x, last_y = hull[-1]
    return float((total + last_y * max(end - last_x, Fraction(0))) / end)


def apgr_cpt_twin(score: list[float], weak: list[float], strong: list[float]) -> list[float]:
    """APGR, CPT at 20, 50 and 80 percent, in exact numbers, a threshold at a time."""
    curve = [(Fraction(0), sum(map(Fraction, weak)))]
    for threshold in sorted(set(score), reverse=True):
        sent = [s >= threshold for s in score]
        rows = zip(sent, weak, strong, strict=True)
        quality = sum(Fraction(s if is_sent else w) for is_sent, w, s in rows)
        curve.append((Fraction(sum(sent), len(score)), quality))
    low, gap = curve[0][1], curve[-1][1] - curve[0][1]
    if gap <= 0:
        return [math.nan] * 4
    parts = [(share, (quality - low) / gap) for share, quality in curve]
    pieces = list(pairwise(parts))
    found = [sum((b - a) * (y + z) / 2 for (a, y), (b, z) in pieces)]
    for goal in (Fraction(1, 5), Fraction(1, 2), Fraction(4, 5)):
        at = [a + (b - a) * (goal - y) / (z - y) for (a, y), (b, z) in pieces if y < goal <= z]
        found.append(min(at))
    return [float(value) for value in found]
