"""The figures of a report, drawn small: legible on a phone, two in a row on a laptop.

In: a report and training curves. Out: each figure as SVG, as PNG, and in words. The same input
gives the same bytes. Names come from users and data: they are drawn as they are, never as markup.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from hcache.evaluation.baselines import STOP
from hcache.evaluation.report import Group, Report, Row
from hcache.reporting.numbers import number, short
from hcache.reporting.plane import draw_plane
from hcache.reporting.style import ARMS, GREY, INK, MARKS, STYLE, colours, error_bar
from hcache.runs.methods import Curve, Method

WIDTH, HEIGHT = 4.6, 3.4  # inches
PANELS = 12  # of one figure, at most
OTHER_SCALE = " A dashed line is of a router for any α: its mean over several α, on another scale."
COMPARED = ("static", "static per kind", "router", "oracle")  # roles that get a bar


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
    svg, png = rendered(size, draw)
    return Picture(name, title, caption, words, svg, png)


def rendered(size: tuple[float, float], draw: Callable[[Figure], None]) -> tuple[bytes, bytes]:
    """A figure of a size in inches, as SVG and as PNG; the same drawing gives the same bytes."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from")  # names in other scripts
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        files = []
        for kind, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": ""})):
            file = BytesIO()
            figure.savefig(file, format=kind, dpi=200, metadata=metadata)
            files.append(file.getvalue())
    return files[0], files[1]


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
        lambda figure: draw_plane(figure.add_subplot(), report),
    )


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
    error = error_bar(value.estimate, value.low, value.high)
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
    height = math.ceil(len(rows) / 2) * (0.21 * _hops(rows) + 0.34) + 0.5
    height += 0.18 * (len(_actions(rows)) // 3)
    return _picture(
        "flows",
        "Where queries go",
        "The share of the queries that each model gets, hop by hop; a query ends when the router "
        "takes STOP, or with its last hop.",
        words,
        (WIDTH, max(height, 1.8)),
        lambda figure: _draw_flows(figure, rows),
    )


def _hops(rows: Sequence[Row]) -> int:
    return max(len(row.flow) for row in rows)


def _actions(rows: Sequence[Row]) -> list[str]:
    """The models of all rows and, last, STOP; routers of other workflows may have their own."""
    found = dict.fromkeys(name for row in rows for share in row.flow for name in share)
    return [*(name for name in found if name != STOP), STOP]


def _draw_flows(figure: Figure, rows: Sequence[Row]) -> None:
    columns = min(2, len(rows))
    every = figure.subplots(
        math.ceil(len(rows) / columns), columns, sharex=True, sharey=True, squeeze=False
    ).ravel()
    actions = _actions(rows)
    style = {name: ARMS[i % len(ARMS)] for i, name in enumerate(actions)} | {STOP: "#555555"}
    for axes, row in zip(every, rows, strict=False):
        for hop, share in enumerate(row.flow):
            _stack(axes, hop, share, style)
        axes.set_title(short(row.name))
        axes.set_yticks(range(_hops(rows)), [f"hop {hop + 1}" for hop in range(_hops(rows))])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    every[0].invert_yaxis()
    every[0].set_xlim(0, 1)
    every[0].set_xticks([])
    for axes in every[len(rows) :]:
        axes.remove()
    _legend(figure, {short(name, 18): shade for name, shade in style.items()})


def _stack(axes: Axes, hop: int, share: Mapping[str, float], style: Mapping[str, str]) -> None:
    left = 0.0
    for name, part in share.items():
        axes.barh(hop, part, left=left, height=0.8, color=style[name], linewidth=0)
        if part >= 0.1:
            middle = left + part / 2
            ink = _ink(style[name])
            axes.text(middle, hop, f"{part:.0%}", ha="center", va="center", color=ink, fontsize=7)
        left += part
    axes.barh(hop, 1 - left, left=left, height=0.8, color="#eeeeee", linewidth=0)


def _legend(figure: Figure, style: Mapping[str, str]) -> None:
    shown = {**style, "ended": "#eeeeee"}
    handles: list[Artist] = [Patch(color=shade) for shade in shown.values()]
    legend = figure.legend(
        handles,
        ["x" * len(name) for name in shown],
        loc="outside upper center",
        ncols=max(1, min(len(shown), 52 // (5 + max(map(len, shown))))),
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
