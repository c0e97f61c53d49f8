"""A group of a report as a table for the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hcache.evaluation.report import Group, Report, Row
from hcache.evaluation.statistics import Interval

if TYPE_CHECKING:
    from rich.table import Table

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


def table(report: Report, group: int = 0) -> Table:
    """A group as a table for the terminal."""
    from rich.table import Table

    shown = report.groups[group]
    out = Table(title=title(report, shown), caption="\n".join(footnotes(shown)) or None)
    for name in HEADER:
        out.add_column(name, justify="left" if name == "who" else "right")
    for row in shown.rows:
        out.add_row(*_line(row))
    return out


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


def _line(row: Row) -> tuple[str, ...]:
    spread = row.reward.spread
    return (
        label(row),
        cell(row.quality),
        cell(row.cost),
        cell(row.reward) + ("" if math.isnan(spread) else f" ± {spread:.3f}"),
        f"{row.hops:.2f}",
        cell(row.difference),
        cell(row.gap_closed),
        "-" if math.isnan(row.aiq.estimate) else f"{row.aiq.estimate:.3f}",
    )
