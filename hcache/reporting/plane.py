"""The cost-quality plane: static sequences with their front, routers with theirs, the oracle's.

Where routers crowd in a small part of the plane, that part is shown again, enlarged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike, NDArray

from hcache.evaluation.fronts import pareto
from hcache.evaluation.report import Point, Report, Row
from hcache.reporting.labels import Label, place
from hcache.reporting.numbers import short
from hcache.reporting.style import GREY, INK, MARKS, PALE, colours, error_bar

Floats = NDArray[np.float64]

CROWD, CROWDED = 4, 0.2  # routers and oracle: so many, within such a part of the axes
ZOOM, TICKS = (0.43, 0.37), (0.11, 0.09)  # sizes of the enlargement and of its ticks
CORNERS = [(x, y) for y in (0.35, 0.45, 0.25, 0.13, 0.03) for x in (0.46, 0.29, 0.03)]


def draw_plane(axes: Axes, report: Report) -> None:
    """Draw it with its labels."""
    rows = report.groups[0].rows
    statics = report.plane.statics
    cost = np.array([point.cost for point in statics])
    quality = np.array([point.quality for point in statics])
    kept = np.flatnonzero(pareto(cost, quality))
    kept = kept[np.argsort(cost[kept])]
    axes.scatter(cost, quality, s=9, color=PALE, zorder=1)
    ends = (np.append(cost[kept], cost.max()), np.append(quality[kept], quality[kept[-1]]))
    axes.step(*ends, where="post", color=GREY, linewidth=1, zorder=1)
    evaluated = [*_routers(axes, report), _oracle(axes, rows)]
    landmarks = [*_landmarks(axes, rows)]
    _scale(axes, cost)
    fronts = [_line(row.front) for row in rows if row.front]
    lines = [_along(x, y) for x, y in [*fronts, *_bars(rows)]]
    drawn = np.vstack([np.column_stack([cost, quality]), _along(*_corners(*ends)), *lines])
    covered = _enlarged(axes, report, evaluated, drawn)
    labels = landmarks if covered else [*evaluated, *landmarks]
    place(axes, labels, drawn, covered)


def _scale(axes: Axes, cost: Floats) -> None:
    """Costs on a logarithmic axis where they differ much."""
    if cost.min() > 0 and cost.max() > 8 * cost.min():
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.set_xlabel("mean cost")
    axes.set_ylabel("mean quality")
    axes.margins(0.09, 0.11)


def _enlarged(axes: Axes, report: Report, evaluated: Sequence[Label], drawn: Floats) -> list[Bbox]:
    """Show routers and oracle again, enlarged, where they crowd and there is room; what it covers.

    Nothing where they do not, or with less than three routers.
    """
    figure = axes.get_figure(root=True)
    if figure is None or len(evaluated) < CROWD:
        return []
    figure.draw_without_rendering()  # settles where the axes stand
    to_axes = axes.transData + axes.transAxes.inverted()
    places = to_axes.transform([(label.x, label.y) for label in evaluated])
    low, high = places.min(axis=0), places.max(axis=0)
    room = _room(to_axes.transform(drawn))
    if room is None or max(high - low) > CROWDED:
        return []
    middle, half = (low + high) / 2, 0.95 * max(*(high - low), 0.02)
    limits = to_axes.inverted().transform([middle - half, middle + half])
    inset = axes.inset_axes((room.x0 + TICKS[0], room.y0 + TICKS[1], *ZOOM))
    _draw_inset(inset, report, axes.get_xscale(), limits)
    axes.indicate_inset_zoom(inset, edgecolor=GREY, alpha=0.6)
    place(inset, evaluated, drawn)
    return [room.transformed(axes.transAxes)]


def _draw_inset(inset: Axes, report: Report, scale: str, limits: Floats) -> None:
    _routers(inset, report)
    _oracle(inset, report.groups[0].rows)
    inset.set(xscale=scale, xlim=limits[:, 0], ylim=limits[:, 1])
    for axis in (inset.xaxis, inset.yaxis):
        axis.set_major_locator(MaxNLocator(3))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axis.set_minor_formatter(NullFormatter())
    inset.tick_params(labelsize=7, which="both", length=2)
    inset.spines[:].set(visible=True, color=PALE)


def _room(drawn: Floats) -> Bbox | None:
    """Place for the enlargement and its ticks that covers nothing, in parts of the axes."""
    for corner in CORNERS:
        room = Bbox.from_bounds(*corner, ZOOM[0] + TICKS[0], ZOOM[1] + TICKS[1])
        if not bool(((drawn >= room.min) & (drawn <= room.max)).all(axis=1).any()):
            return room
    return None


def _bars(rows: Sequence[Row]) -> Iterator[tuple[list[float], list[float]]]:
    """The lines that the intervals of routers are drawn as."""
    for row in rows:
        cost, quality = row.cost, row.quality
        if row.role == "router" and not math.isnan(cost.low + quality.low):
            yield [cost.low, cost.high], [quality.estimate] * 2
            yield [cost.estimate] * 2, [quality.low, quality.high]


def _corners(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The line that `step(where="post")` draws."""
    return np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]


def _along(x: ArrayLike, y: ArrayLike) -> Floats:
    """Points all along a line, [n, 2]: labels are not to cover it."""
    x_K, y_K = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    index_K = np.arange(len(x_K))
    at = np.linspace(0, len(x_K) - 1, 30 * (len(x_K) - 1) + 1)
    return np.column_stack([np.interp(at, index_K, own) for own in (x_K, y_K)])


def _routers(axes: Axes, report: Report) -> list[Label]:
    labels = []
    shades = colours(report)
    routers = [row for row in report.groups[0].rows if row.role == "router"]
    for place_, row in enumerate(routers):
        shade = shades[row.name]
        if row.front:
            axes.plot(*_line(row.front), color=shade, linewidth=1.1, zorder=2)
        axes.errorbar(
            row.cost.estimate,
            row.quality.estimate,
            xerr=error_bar(row.cost.estimate, row.cost.low, row.cost.high),
            yerr=error_bar(row.quality.estimate, row.quality.low, row.quality.high),
            fmt=MARKS[place_ % len(MARKS)],
            color=shade,
            markersize=5,
            elinewidth=0.7,
            zorder=4,
        )
        at = (row.cost.estimate, row.quality.estimate)
        labels.append(Label(*at, short(row.name), shade, bold=True))
    return labels


def _oracle(axes: Axes, rows: Sequence[Row]) -> Label:
    oracle = next(row for row in rows if row.role == "oracle")
    axes.plot(*_line(oracle.front), color=INK, linewidth=0.9, linestyle=(0, (4, 2)), zorder=2)
    axes.plot(oracle.cost.estimate, oracle.quality.estimate, "*", color=INK, markersize=8, zorder=3)
    return Label(oracle.cost.estimate, oracle.quality.estimate, short(oracle.name), INK)


def _landmarks(axes: Axes, rows: Sequence[Row]) -> Iterator[Label]:
    """The best static sequence and the single models."""
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
