"""The figures of a report, drawn small: legible on a phone, two in a row on a laptop.

In: a report and training curves. Out: each figure as SVG, as PNG, and in words. The same input
gives the same bytes. Names come from users and data: they are drawn as they are, never as markup.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from hcache.evaluation import STOP, Group, Point, Report, Row
from hcache.fronts import pareto
from hcache.reporting.labels import Label, place
from hcache.reporting.methods import Curve, Method
from hcache.reporting.numbers import number, short

Floats = NDArray[np.float64]

WIDTH, HEIGHT = 4.6, 3.4  # inches
INK, GREY, PALE = "#222222", "#777777", "#c8c8c8"
METHODS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B07D00", "#3A9BD0")  # Okabe and Ito
MARKS = ("o", "s", "D", "^", "v", "P")
ARMS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377")  # Tol, bright
PANELS = 12  # of one figure, at most
OTHER_SCALE = " A dashed line is of a router for any α: its mean over several α, on another scale."
COMPARED = ("static", "static per kind", "router", "oracle")  # roles that get a bar
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


@dataclass(frozen=True)
class Picture:
    """A figure as files, and in words for those who do not see it."""

    name: str
    title: str
    caption: str
    words: str
    svg: bytes
    png: bytes


def pictures(report: Report, methods: Sequence[Method]) -> list[Picture]:
    """All figures that the report has something to show in."""
    curves = {method: curve for method in methods if (curve := method.curve())}
    drawn = [_plane(report)]
    drawn += [_training(report, curves)] if curves else []
    drawn += [_flows(report)] if _flowing(report) else []
    drawn += [_rewards(report)]
    return drawn


def _picture(
    name: str,
    title: str,
    caption: str,
    words: str,
    size: tuple[float, float],
    draw: Callable[[Figure], None],
) -> Picture:
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from")  # names in other scripts
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        files = {}
        for kind, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": ""})):
            file = BytesIO()
            figure.savefig(file, format=kind, dpi=200, metadata=metadata)
            files[kind] = file.getvalue()
    return Picture(name, title, caption, words, files["svg"], files["png"])


def colours(report: Report) -> dict[str, str]:
    """A colour for each row: routers by their order, whatever they are compared with in greys."""
    routers = [row.name for row in report.groups[0].rows if row.role == "router"]
    return {name: METHODS[place % len(METHODS)] for place, name in enumerate(routers)}


def _plane(report: Report) -> Picture:
    rows = report.groups[0].rows
    words = "; ".join(
        f"{row.name}: cost {number(row.cost.estimate)}, quality {number(row.quality.estimate)}"
        for row in rows
        if row.role in (*COMPARED, "single")
    )
    return _picture(
        "plane",
        "Cost and quality",
        "Each grey point is a static sequence of models, the steps are the best of them within a "
        "budget. Bars at a router are its intervals; a line through it is what it does at other "
        "α, the dashed line what an oracle does. Up and to the left is better.",
        words,
        (WIDTH, HEIGHT),
        lambda figure: _draw_plane(figure.add_subplot(), report),
    )


def _draw_plane(axes: Axes, report: Report) -> None:
    rows = report.groups[0].rows
    statics = report.plane.statics
    cost = np.array([point.cost for point in statics])
    quality = np.array([point.quality for point in statics])
    kept = np.flatnonzero(pareto(cost, quality))
    kept = kept[np.argsort(cost[kept])]
    axes.scatter(cost, quality, s=9, color=PALE, zorder=1)
    ends = (np.append(cost[kept], cost.max()), np.append(quality[kept], quality[kept[-1]]))
    axes.step(*ends, where="post", color=GREY, linewidth=1, zorder=1)
    labels = [*_routers(axes, report), *_landmarks(axes, rows)]
    if cost.min() > 0 and cost.max() > 8 * cost.min():
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.set_xlabel("mean cost")
    axes.set_ylabel("mean quality")
    axes.margins(0.09, 0.11)
    drawn = [(line.get_xdata(), line.get_ydata()) for line in axes.get_lines()]
    steps = [
        _along(np.asarray(x, float), np.asarray(y, float)) for x, y in [*drawn, _corners(*ends)]
    ]
    place(axes, labels, np.vstack([np.column_stack([cost, quality]), *steps]))


def _corners(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The line that `step(where="post")` draws."""
    return np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]


def _along(x: Floats, y: Floats) -> Floats:
    """Points all along a line, [n, 2]: labels are not to cover it."""
    at = np.linspace(0, len(x) - 1, 30 * (len(x) - 1) + 1)
    return np.column_stack([np.interp(at, np.arange(len(x)), own) for own in (x, y)])


def _routers(axes: Axes, report: Report) -> Iterator[Label]:
    shades = colours(report)
    routers = [row for row in report.groups[0].rows if row.role == "router"]
    for place_, row in enumerate(routers):
        shade = shades[row.name]
        if row.front:
            axes.plot(*_line(row.front), color=shade, linewidth=1.1, zorder=2)
        axes.errorbar(
            row.cost.estimate,
            row.quality.estimate,
            xerr=_error(row.cost.estimate, row.cost.low, row.cost.high),
            yerr=_error(row.quality.estimate, row.quality.low, row.quality.high),
            fmt=MARKS[place_ % len(MARKS)],
            color=shade,
            markersize=5,
            elinewidth=0.8,
            zorder=4,
        )
        yield Label(row.cost.estimate, row.quality.estimate, short(row.name), shade, bold=True)


def _landmarks(axes: Axes, rows: Sequence[Row]) -> Iterator[Label]:
    """The oracle, the best static sequence and the single models."""
    oracle = next(row for row in rows if row.role == "oracle")
    axes.plot(*_line(oracle.front), color=INK, linewidth=0.9, linestyle=(0, (4, 2)), zorder=2)
    axes.plot(oracle.cost.estimate, oracle.quality.estimate, "*", color=INK, markersize=8, zorder=3)
    yield Label(oracle.cost.estimate, oracle.quality.estimate, "oracle", INK)
    static = next(row for row in rows if row.role == "static")
    at = (static.cost.estimate, static.quality.estimate)
    axes.plot(*at, "o", color="none", markeredgecolor=INK, markersize=9, zorder=3)
    yield Label(*at, f"best static: {short(static.sequence)}", INK)
    for row in rows:
        if row.role != "single":
            continue
        at = (row.cost.estimate, row.quality.estimate)
        axes.plot(*at, "o", color=GREY, markersize=4, zorder=2)
        if row.name != static.sequence:
            yield Label(*at, short(row.name), GREY)


def _line(front: Sequence[Point]) -> tuple[list[float], list[float]]:
    points = sorted((point.cost, point.quality) for point in front)
    return [cost for cost, _ in points], [quality for _, quality in points]


def _error(estimate: float, low: float, high: float) -> list[list[float]] | None:
    """How far an interval reaches to either side, as matplotlib takes it; None without one."""
    if math.isnan(low) or math.isnan(high):
        return None
    return [[max(0.0, estimate - low)], [max(0.0, high - estimate)]]


def panels(report: Report) -> list[Group]:
    """All queries, then each data set, or each kind where there is one data set alone."""
    groups = report.groups
    parts = [group for group in groups if group.by == "dataset"]
    parts = parts or [group for group in groups if group.by == "kind"]
    largest = sorted(parts, key=lambda group: -group.queries)[: PANELS - 1]
    return [groups[0], *(group for group in parts if group in largest)]


def _rewards(report: Report) -> Picture:
    groups = panels(report)
    compared = [row for row in groups[0].rows if row.role in COMPARED]
    words = "; ".join(
        f"{_heading(group)}: "
        + ", ".join(f"{row.name} {number(row.reward.estimate)}" for row in _compared(group))
        for group in groups
    )
    lines = math.ceil(len(groups) / 2) if len(groups) > 1 else 1
    height = lines * (0.155 * len(compared) + 0.36) + 0.1
    return _picture(
        "rewards",
        "Reward",
        f"Mean reward R = Q − {report.alpha:g}·C with {report.level:.0%} intervals, over all "
        "queries and part by part"
        + (f"; the {PANELS - 1} largest parts." if _cut(report) else "."),
        words,
        (WIDTH, max(height, 1.6)),
        lambda figure: _draw_rewards(figure, report, groups),
    )


def _cut(report: Report) -> bool:
    parts = {group.by for group in report.groups}
    by = "dataset" if "dataset" in parts else "kind"
    return sum(group.by == by for group in report.groups) > PANELS - 1


def _compared(group: Group) -> list[Row]:
    return [row for row in group.rows if row.role in COMPARED]


def _heading(group: Group) -> str:
    name = "all" if group.by == "all" else short(group.name, 20)
    return f"{name} ({group.queries:,})"


SHORTER = {"static": "best static", "static per kind": "best per kind"}


def _draw_rewards(figure: Figure, report: Report, groups: Sequence[Group]) -> None:
    columns = min(2, len(groups))
    lines = math.ceil(len(groups) / columns)
    every = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    shades = colours(report)
    for axes, group in zip(every, groups, strict=False):
        rows = _compared(group)
        for place_, row in enumerate(rows):
            _bar(axes, place_, row, shades.get(row.name, INK if row.role == "oracle" else GREY))
        names = [SHORTER.get(row.role) or short(row.name, 14) for row in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.set_title(_heading(group), fontweight="bold" if group.by == "all" else "normal")
        axes.tick_params(axis="y", length=0)
        axes.spines[:].set_visible(False)
        axes.axvline(0, color=GREY, linewidth=0.6)
    every[0].invert_yaxis()
    every[0].set_xlim(*_reach(groups))
    every[0].set_xticks([])  # each bar has its figure
    for axes in every[len(groups) :]:
        axes.remove()


def _bar(axes: Axes, place_: int, row: Row, shade: str) -> None:
    value = row.reward
    axes.barh(place_, value.estimate, height=0.74, color=shade, alpha=0.75)
    error = _error(value.estimate, value.low, value.high)
    if error is not None:
        axes.errorbar(value.estimate, place_, xerr=error, color=INK, elinewidth=0.9)
    right = max(0.0, value.estimate, value.estimate if math.isnan(value.high) else value.high)
    axes.annotate(
        f"{round(value.estimate, 2) + 0.0:.2f}",  # and no -0.00
        (right, place_),
        (3, 0),
        textcoords="offset points",
        va="center",
        fontsize=7,
        color=INK,
    )


def _reach(groups: Sequence[Group]) -> tuple[float, float]:
    """Limits that leave room for the figures behind the bars."""
    every = [row.reward for group in groups for row in _compared(group)]
    values = [v for r in every for v in (r.estimate, r.low, r.high, 0.0) if not math.isnan(v)]
    low, high = min(values), max(values)
    width = (high - low) or 1.0
    return (low - 0.03 * width if low < 0 else 0.0), high + 0.27 * width


def _training(report: Report, curves: Mapping[Method, Curve]) -> Picture:
    words = "; ".join(
        f"{method.name}: {number(curve[-1][1])} after {curve[-1][0]:.0f} iterations, "
        f"at best {number(max(point[1] for point in curve))}"
        for method, curve in curves.items()
    )
    return _picture(
        "training",
        "Training",
        "Reward on the validation queries over iterations: mean over seeds, as far as all of them "
        "were trained; the band reaches from the worst seed to the best. A point is a router that "
        "is fitted at once." + (OTHER_SCALE if any(method.any_alpha for method in curves) else ""),
        words,
        (WIDTH, HEIGHT),
        lambda figure: _draw_training(figure.add_subplot(), colours(report), curves),
    )


def _draw_training(axes: Axes, shades: Mapping[str, str], curves: Mapping[Method, Curve]) -> None:
    ends = []
    for place_, (method, curve) in enumerate(curves.items()):
        iteration, mean, low, high = (list(column) for column in zip(*curve, strict=True))
        shade, mark = shades[method.name], MARKS[place_ % len(MARKS)]
        dashes = "--" if method.any_alpha else "-"
        axes.plot(iteration, mean, dashes, color=shade, linewidth=1.4)
        axes.plot(iteration[-1], mean[-1], mark, color=shade, markersize=5)
        axes.fill_between(iteration, low, high, color=shade, alpha=0.18, linewidth=0)
        ends.append((mean[-1], short(method.name, 16), shade))
    axes.set_xlabel("iteration")
    axes.set_ylabel("validation reward")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _beside(axes, ends)


def _beside(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names at the right edge, each at the height of its line, or as near as the others let it."""
    low, high = axes.get_ylim()
    gap = (high - low) * 0.062
    heights: list[float] = []
    for value, name, shade in sorted(ends, reverse=True):
        height = min(value, heights[-1] - gap) if heights else min(value, high)
        heights.append(height)
        axes.annotate(
            name,
            (1.0, value),
            (1.05, height),
            xycoords=axes.get_yaxis_transform(),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            color=shade,
            fontweight="bold",
            arrowprops={"arrowstyle": "-", "color": shade, "linewidth": 0.7, "shrinkB": 0},
        )


def _flowing(report: Report) -> list[Row]:
    rows = [row for row in report.groups[0].rows if row.flow]
    routers = [row for row in rows if row.role == "router"][: PANELS - 1]
    return [*routers, *(row for row in rows if row.role == "oracle")]


def _flows(report: Report) -> Picture:
    rows = _flowing(report)
    words = "; ".join(
        f"{row.name}, hop {hop}: " + ", ".join(f"{a} {s:.0%}" for a, s in share.items() if s > 0)
        for row in rows
        for hop, share in enumerate(row.flow, 1)
    )
    lines = math.ceil(len(rows) / 2)
    height = lines * (0.21 * len(rows[0].flow) + 0.34) + 0.5 + 0.18 * (len(rows[0].flow[0]) // 3)
    return _picture(
        "flows",
        "Where queries go",
        "The share of the queries that each model gets, hop by hop; a query ends when the router "
        "takes STOP, or with its last hop.",
        words,
        (WIDTH, max(height, 1.8)),
        lambda figure: _draw_flows(figure, rows),
    )


def _draw_flows(figure: Figure, rows: Sequence[Row]) -> None:
    columns = min(2, len(rows))
    every = figure.subplots(
        math.ceil(len(rows) / columns), columns, sharex=True, sharey=True, squeeze=False
    ).ravel()
    actions = list(rows[0].flow[0])
    looks = {name: ARMS[i % len(ARMS)] for i, name in enumerate(actions)} | {STOP: "#555555"}
    for axes, row in zip(every, rows, strict=False):
        for hop, share in enumerate(row.flow):
            _stack(axes, hop, share, looks)
        axes.set_title(short(row.name))
        axes.set_yticks(range(len(row.flow)), [f"hop {hop + 1}" for hop in range(len(row.flow))])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    every[0].invert_yaxis()
    every[0].set_xlim(0, 1)
    every[0].set_xticks([])
    for axes in every[len(rows) :]:
        axes.remove()
    _legend(figure, {short(name): shade for name, shade in looks.items()})


def _stack(axes: Axes, hop: int, share: Mapping[str, float], looks: Mapping[str, str]) -> None:
    left = 0.0
    for name, part in share.items():
        axes.barh(hop, part, left=left, height=0.8, color=looks[name], linewidth=0)
        if part >= 0.1:
            middle = left + part / 2
            ink = _ink(looks[name])
            axes.text(middle, hop, f"{part:.0%}", ha="center", va="center", color=ink, fontsize=7)
        left += part
    axes.barh(hop, 1 - left, left=left, height=0.8, color="#eeeeee", linewidth=0)


def _legend(figure: Figure, looks: Mapping[str, str]) -> None:
    shown = {**looks, "ended before": "#eeeeee"}
    handles: list[Artist] = [Patch(color=shade) for shade in shown.values()]
    legend = figure.legend(
        handles,
        ["x" * min(len(name), 14) for name in shown],
        loc="outside upper center",
        ncols=min(3, len(shown)),
        frameon=False,
        handlelength=1.0,
        handleheight=1.0,
        fontsize=8,
    )
    for text, name in zip(legend.get_texts(), shown, strict=True):
        text.set_text(name)  # matplotlib leaves out names that begin with _


def _ink(shade: str) -> str:
    """White or black, whichever is read better on a colour."""
    red, green, blue = (int(shade[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.6 else INK
