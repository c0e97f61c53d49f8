"""A group of a report as a table for the terminal."""

from __future__ import annotations

import math

from hcache.evaluation.report import Group, Report, Row
from hcache.evaluation.statistics import Interval

HEADER = (
    "who",
    "quality",
    "cost",
    "reward (± seeds)",
    "hops",
    "against best static",
    "gap closed",
    "AIQ",
)


def title(report: Report, group: Group) -> str:
    """Title of a group: its queries, their number, and α."""
    name = "all queries" if group.by == "all" else f"{group.by} {group.name or '(none)'}"
    return f"{name}: {group.queries} queries, α = {report.alpha:g}"


def lines(group: Group, wide: bool = False) -> list[dict[str, str]]:
    """A group as rows of texts: what decides, or with `wide` every figure with its interval."""
    return [_wide(row) if wide else _short(row) for row in group.rows]


def footnotes(group: Group) -> list[str]:
    """Why there is no number where a dash stands, a sentence for each column."""
    columns = {
        "gap closed": [row.gap_closed for row in group.rows],
        "AIQ": [row.aiq for row in group.rows],
    }
    found = {
        f"No {name}: {interval.note}."
        for name, intervals in columns.items()
        for interval in intervals
        if math.isnan(interval.estimate) and interval.note
    }
    return sorted(found, reverse=True)


def cell(interval: Interval) -> str:
    """An estimate with its interval, to three digits."""
    if math.isnan(interval.estimate):
        return "-"
    if math.isnan(interval.low):
        return f"{interval.estimate:.3f}"
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def label(row: Row) -> str:
    """The name of a row with its sequence or the number of its seeds."""
    name = f"{row.name}: {row.sequence}" if row.sequence else row.name
    return f"{name} ({row.seeds} seeds)" if row.seeds > 1 else name


def share(interval: Interval) -> str:
    """A share of the gap; what lies more than the whole gap below the best static is said so."""
    if math.isnan(interval.estimate):
        return "-"
    return "< -1" if interval.estimate < -1 else f"{interval.estimate:.3f}"


def _alone(interval: Interval) -> str:
    return "-" if math.isnan(interval.estimate) else f"{interval.estimate:.3f}"


def _short(row: Row) -> dict[str, str]:
    return {
        "who": label(row),
        "quality": _alone(row.quality),
        "cost": _alone(row.cost),
        "reward": _alone(row.reward),
        "against best static": cell(row.difference),
        "gap closed": share(row.gap_closed),
    }


def _wide(row: Row) -> dict[str, str]:
    spread = row.reward.spread
    figures = (
        label(row),
        cell(row.quality),
        cell(row.cost),
        cell(row.reward) + ("" if math.isnan(spread) else f" ± {spread:.3f}"),
        f"{row.hops:.2f}",
        cell(row.difference),
        share(row.gap_closed) if row.gap_closed.estimate < -1 else cell(row.gap_closed),
        _alone(row.aiq),
    )
    return dict(zip(HEADER, figures, strict=True))
