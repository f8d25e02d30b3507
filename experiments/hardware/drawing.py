"""What the figures of a hardware study share: looks of profiles and controls, and points by group, across, scattered.

Native profiles are dots, emulated ones triangles, controls grey. Groups go from the most training images to the fewest.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from experiments.hardware.results import Comparison, Hardware, Series
from experiments.reporting import drawing
from experiments.reporting.drawing import COLORS, Points
from experiments.reporting.series import over_seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONTROLS = {"ulp": ("#8a8a8a", "x"), "repeat": ("#8a8a8a", "+"), "order": ("#b8b8b8", "D")}


class Row(NamedTuple):
    """A series of points: one value a seed, (s,), or one a seed and group, (s, g), in the groups' own order."""

    label: str
    color: str
    marker: str
    values: np.ndarray


def rows_of(hardware: Hardware, comparison: Comparison, of: Callable[[Series], np.ndarray]) -> list[Row]:
    """Return a value of each series of a comparison, the reference first; a profile looks alike in every figure."""
    labels = [series.label for series in hardware.comparisons[0].profiles]
    rows = []
    for series in comparison.every:
        look = CONTROLS.get(series.control.rstrip("0123456789"))
        if look is None and series is comparison.reference:
            look = COLORS[0], "s"
        elif look is None:
            i = labels.index(series.label) if series.label in labels else len(labels)
            look = COLORS[1:][i % (len(COLORS) - 1)], "o" if series.kind == "native" else "^"
        rows.append(Row(series.label, *look, of(series)))
    return rows


def by_group(axes: "Axes", hardware: Hardware, rows: Sequence[Row], *, zero: bool = False) -> None:
    """Draw one point a row and group with its interval, groups from large to small; ``zero`` adds a line there."""
    points = [Points(row.label, row.color, row.marker, over_seeds(row.values)) for row in rows]
    drawing.by_group(axes, hardware.groups, points, zero=zero)


def across(axes: "Axes", rows: Sequence[Row]) -> None:
    """Draw one value a row with its interval, names at the left, from top to bottom."""
    for y, row in enumerate(rows):
        drawing.errorbar(axes, over_seeds(row.values), y, row.color, row.marker)
    axes.set_yticks(range(len(rows)), [row.label for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")


def scatter(hardware: Hardware, parts: Mapping[str, np.ndarray], pairs: Sequence[tuple[str, str]]) -> "Figure":
    """Draw pairs of quantities (s, g), a point each group with both intervals and its name.

    Args:
        hardware: whose groups they are.
        parts: the quantities, by what is written at their axis.
        pairs: x and y of each panel.
    """
    figure, grid = drawing.subplots(1, len(pairs), 4.2, 3.8)
    drawing.group_legend(figure, hardware.groups)
    found = {name: over_seeds(values) for name, values in parts.items()}
    for axes, pair in zip(grid[0], pairs, strict=True):
        drawing.scatter(axes, hardware.groups, *(found[name] for name in pair))
        for which in "xy":
            drawing.scale([axes], which)
        axes.set(xlabel=pair[0], ylabel=pair[1])
    for axes, (x, y) in zip(grid[0], pairs, strict=True):
        drawing.name_points(figure, axes, found[x].mean, found[y].mean, hardware.groups.short_names())
    return figure
