"""Style of the figures: sizes, colours that the colour-blind tell apart, marks."""

from __future__ import annotations

import math
from typing import Any

from hcache.evaluation.report import Report

INK, GREY, PALE = "#222222", "#777777", "#c8c8c8"
METHODS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B07D00", "#3A9BD0")  # Okabe and Ito
MARKS = ("o", "s", "D", "^", "v", "P", "X")  # one more than colours: 42 routers differ
ARMS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377")  # Tol, bright
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "Helvetica", "sans-serif"],
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "hcache",
    "text.parse_math": False,
}


def colours(report: Report) -> dict[str, str]:
    """A colour for each row: routers by their order, whatever they are compared with in greys."""
    routers = [row.name for row in report.groups[0].rows if row.role == "router"]
    return {name: METHODS[index % len(METHODS)] for index, name in enumerate(routers)}


def error_bar(estimate: float, low: float, high: float) -> list[list[float]] | None:
    """Reach of an interval to either side, as matplotlib takes it; None without an interval."""
    if math.isnan(low) or math.isnan(high):
        return None
    return [[max(0.0, estimate - low)], [max(0.0, high - estimate)]]
