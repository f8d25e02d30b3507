"""What the figures of a hardware study share: looks of profiles and controls, and points by group, across, scattered.

Native profiles are dots, emulated ones triangles, controls grey. Groups go from the most training images to the fewest.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from experiments.hardware.claims import grouping
from experiments.hardware.results import Comparison, Hardware, Series
from experiments.linearization.paper_figures import COLORS
from experiments.reporting import drawing
from experiments.reporting.drawing import LARGE, SMALL
from jaxfair.groups import seed_interval

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


def group_panels(
    hardware: Hardware, rows: int, columns: int, width=8.6, *, labelled: Sequence[int] | None = None, least=0.0
) -> tuple["Figure", np.ndarray]:
    """Return panels of which the last in each of the ``labelled`` columns has the groups' names below it."""
    groups = grouping(hardware)
    width = max(width, drawing.width_of_groups(groups))
    labels = drawing.group_labels(groups, width)
    figure, grid = drawing.subplots(rows, columns, width, max(least, 2.5 + labels.extra / rows))
    for column in range(columns) if labelled is None else labelled:
        for axes in grid[:-1, column]:
            axes.set_xticks(range(len(labels.names)), [""] * len(labels.names))
            axes.set_xlim(-0.5, len(labels.names) - 0.5)
        drawing.label_groups(grid[-1, column], labels)
    return figure, grid


def by_group(axes: "Axes", hardware: Hardware, rows: Sequence[Row], *, zero: bool = False) -> None:
    """Draw one point a row and group with its interval, groups from large to small; ``zero`` adds a line there."""
    for i, row in enumerate(rows):
        values = row.values[:, hardware.order]
        x = np.arange(values.shape[1]) + (i - (len(rows) - 1) / 2) * 0.7 / len(rows)
        interval = seed_interval(values)
        drawing.errorbar(axes, x, values.mean(axis=0), interval, row.color, row.marker, "none", row.label, size=4)
    axes.grid(visible=False, axis="x")
    for boundary in np.arange(len(hardware.order) - 1) + 0.5:
        axes.axvline(boundary, color="#eeeeee", linewidth=0.8, zorder=0)
    if zero:
        axes.axhline(0, color="#888888", linewidth=0.8)


def across(axes: "Axes", rows: Sequence[Row]) -> None:
    """Draw one value a row with its interval, names at the left, from top to bottom."""
    for y, row in enumerate(rows):
        ends = _ends(row.values)[:, None]
        axes.errorbar(row.values.mean(), y, xerr=ends, color=row.color, marker=row.marker, markersize=5, linewidth=1.2)
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
    groups = grouping(hardware)
    figure, grid = drawing.subplots(1, len(pairs), 4.2, 3.8)
    drawing.group_legend(figure, groups)
    mean = {name: values.mean(axis=0) for name, values in parts.items()}
    for axes, pair in zip(grid[0], pairs, strict=True):
        x, y = (mean[name] for name in pair)
        across, up = (_ends(parts[name]) for name in pair)
        for chosen, color in ((hardware.large, LARGE), (~hardware.large, SMALL)):
            bars = up[:, chosen], across[:, chosen]
            axes.errorbar(x[chosen], y[chosen], *bars, "o", color=color, markersize=5, linewidth=1)
        for which in "xy":
            drawing.scale([axes], which)
        axes.set(xlabel=pair[0], ylabel=pair[1])
    for axes, (x, y) in zip(grid[0], pairs, strict=True):
        drawing.name_points(figure, axes, mean[x], mean[y], drawing.short_names(groups))
    return figure


def _ends(values: np.ndarray) -> np.ndarray:
    """Return how far the interval of the mean over seeds reaches down and up, shape (2, ...); 0 where there is none."""
    mean, interval = values.mean(axis=0), seed_interval(values)
    return np.nan_to_num(np.maximum([mean - interval.low, interval.high - mean], 0.0))
