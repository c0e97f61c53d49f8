"""Labels next to points, placed so that they cover neither each other nor the points.

Each label in turn tries places around its point, near ones first, and takes the one that costs
least: other labels and the edge cost most, marked points less, the small points least. One that
stands apart from its point is tied to it by a thin line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RADII = (6, 12, 20, 30, 42, 56, 72)  # points of type from the edge of a label to its point
ANGLES = [math.radians(15 * step) for step in range(24)]
TIED = 9  # further away, there is a line


@dataclass(frozen=True)
class Label:
    """A text that belongs to a point."""

    x: float
    y: float
    text: str
    colour: str
    bold: bool = False


def place(
    axes: Axes, labels: Sequence[Label], points: Floats, covered: Sequence[Bbox] = ()
) -> None:
    """Write the labels, the first one with the first choice; `points` [n, 2] stay uncovered.

    `covered` are parts of the figure, in pixels, where no label may stand.
    """
    figure = axes.get_figure(root=True)
    if figure is None or not labels:
        return
    figure.draw_without_rendering()  # settles where the axes stand
    unit = figure.dpi / 72
    small = _thinned(axes.transData.transform(points), 3 * unit)
    marked = axes.transData.transform(np.array([(label.x, label.y) for label in labels]))
    taken = list(covered)
    for label, at in zip(labels, marked, strict=True):
        text = axes.annotate(
            label.text,
            (label.x, label.y),
            (0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            color=label.colour,
            fontweight="bold" if label.bold else "normal",
            arrowprops={"arrowstyle": "-", "color": label.colour, "linewidth": 0.6, "shrinkB": 4},
            zorder=5,
        )
        text.set_in_layout(False)
        size = Text.get_window_extent(text)  # without its line
        radius, box = _best(at, (size.width, size.height), unit, axes.bbox, taken, marked, small)
        taken.append(box)
        middle = ((box.x0 + box.x1) / 2 - at[0], (box.y0 + box.y1) / 2 - at[1])
        text.set_position((middle[0] / unit, middle[1] / unit))
        if radius <= TIED and text.arrow_patch is not None:
            text.arrow_patch.set_visible(False)


def _best(
    at: Floats,
    size: tuple[float, float],
    unit: float,
    inside: Bbox,
    taken: Sequence[Bbox],
    marked: Floats,
    small: Floats,
) -> tuple[float, Bbox]:
    def price(candidate: tuple[float, Bbox]) -> float:
        radius, box = candidate
        outside = not (inside.contains(*box.min) and inside.contains(*box.max))
        covered = sum(bool(box.padded(unit).overlaps(other)) for other in taken)
        near = _covered(box.padded(5 * unit), marked)
        return 1000 * (covered + outside) + 60 * near + 8 * _covered(box, small) + radius

    candidates = [
        (radius, _box(at, size, radius * unit, angle)) for radius in RADII for angle in ANGLES
    ]
    return min(candidates, key=price)


def _box(at: Floats, size: tuple[float, float], radius: float, angle: float) -> Bbox:
    x = at[0] + math.cos(angle) * (radius + size[0] / 2)
    y = at[1] + math.sin(angle) * (radius + size[1] / 2)
    return Bbox.from_bounds(x - size[0] / 2, y - size[1] / 2, *size)


def _thinned(points: Floats, size: float) -> Floats:
    """One point for each cell of a grid that holds some."""
    return np.unique(np.round(points / size), axis=0) * size


def _covered(box: Bbox, points: Floats) -> int:
    inside = (points >= (box.x0, box.y0)) & (points <= (box.x1, box.y1))
    return int(np.count_nonzero(inside.all(axis=1)))
