"""What all figures share: panels, points with intervals, names of groups and points, and the files."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments.linearization.results import Results
from jaxfair.groups import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LARGE, SMALL = "#33608c", "#c8502d"
STYLE: dict[Any, Any] = {
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "text.parse_math": False,  # a group may be called $x$
    "svg.fonttype": "path",
    "svg.hashsalt": "jaxfair",  # equal figures give equal files
}
# Inches at 8 points: a letter's width, and how far apart upright names, and slanted ones of two lines, have to stand.
LETTER, UPRIGHT, SLANTED = 0.066, 0.16, 0.56
DIRECTIONS = np.array([(x, y) for x in (1, -1, 0) for y in (0, 1, -1) if x or y])


def subplots(
    rows: int, columns: int, width: float, height: float, *, sharex: bool = False, sharey: bool = False
) -> tuple["Figure", np.ndarray]:
    """Return a figure and its axes, an array (rows, columns) of axes with room of so many inches each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False)


def by_size(axes: "Axes", results: Results, mean: np.ndarray, interval: Interval) -> None:
    """Draw one value a group, in the order of ``results.order``, coloured by whether the group is large."""
    for members, color in ((results.large, LARGE), (~results.large, SMALL)):
        chosen = np.flatnonzero(members[results.order])
        if len(chosen):
            index = results.order[chosen]
            part = Interval(interval.low[index], interval.high[index])
            errorbar(axes, chosen, mean[index], part, color, "o", "none", "")


def panels(titles: Sequence[str], label: str) -> tuple["Figure", list["Axes"]]:
    """Return equal panels that share their axes, at most five in a row."""
    columns = -(-len(titles) // (rows := -(-len(titles) // 5)))
    figure, grid = subplots(rows, columns, max(2.1, 5 / columns), 2.1, sharex=True, sharey=True)
    for i, axes in enumerate(grid.flat):
        axes.set_visible(i < len(titles))
        axes.set_title(titles[i] if i < len(titles) else "", fontsize=9)
        axes.tick_params(labelbottom=i + columns >= len(titles))
    figure.supylabel(label, fontsize=9.5)
    return figure, list(grid.flat)[: len(titles)]


def errorbar(
    axes: "Axes", x: Any, mean: np.ndarray, interval: Interval, color, marker: str, line: str, label: str, size=5.0
) -> None:
    """Draw points with their intervals, which may be NaN."""
    # An interval that cannot be had (one seed) is not drawn; one that misses the mean by rounding has no length.
    ends = np.nan_to_num(np.maximum([mean - interval.low, interval.high - mean], 0.0))
    axes.errorbar(
        x, mean, yerr=ends, color=color, marker=marker, linestyle=line, label=label, markersize=size, linewidth=1.2
    )


class GroupLabels(NamedTuple):
    """How the groups are written below an axis.

    Attributes:
        names: with the number of training images, from the most of these to the fewest.
        rotation: in degrees.
        extra: inches that they need in height, beyond what lying ones do.
    """

    names: list[str]
    rotation: int
    extra: float


def width_of_groups(results: Results) -> float:
    """Return how many inches wide an axis must be to write all groups below it."""
    return 0.9 + UPRIGHT * len(results.group_names)


def short_names(results: Results, longest: int = 18) -> list[str]:
    """Return the groups' names with their middles cut, as short as leaves them different, from ``longest`` on."""
    for limit in count(longest):
        end = limit // 3
        cut = [n if len(n) <= limit else f"{n[: limit - end - 3]}...{n[-end:]}" for n in results.group_names]
        if len(set(cut)) == len(set(results.group_names)):
            break
    return cut


def group_labels(results: Results, width: float) -> GroupLabels:
    """Return the groups' labels: lying where they fit into ``width`` inches, else slanted, else upright."""
    names = short_names(results)
    shown = [(names[g], f"{results.train_count[g]:,}") for g in results.order]
    longest, pitch = max(len(part) for label in shown for part in label), (width - 0.9) / len(names)
    if longest * LETTER < pitch:
        return GroupLabels(["\n".join(label) for label in shown], 0, 0.0)
    if pitch > SLANTED:
        return GroupLabels(["\n".join(label) for label in shown], 30, 0.0)
    names = short_names(results, 24)
    one_line = [f"{names[g]} ({results.train_count[g]:,})" for g in results.order]
    return GroupLabels(one_line, 90, max(0.0, LETTER * max(map(len, one_line)) - 0.5))


def label_groups(axes: "Axes", labels: GroupLabels) -> None:
    """Write the groups below an axis on which they stand at 0, 1, 2, ..."""
    place: dict[str, Any] = {0: {}, 30: {"ha": "right"}, 90: {"ha": "right", "va": "center"}}[labels.rotation]
    axes.set_xticks(range(len(labels.names)), labels.names, fontsize=8, rotation=labels.rotation, **place)
    if labels.rotation:
        for text in axes.get_xticklabels():
            text.set_rotation_mode("anchor")
    axes.set_xlim(-0.5, len(labels.names) - 0.5)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("group, and its number of training images", fontsize=8.5)


def group_legend(figure: "Figure", results: Results) -> None:
    """Write above a figure which colour is for large groups and which for small ones, if there are any."""
    from matplotlib.lines import Line2D

    entries = [
        Line2D([], [], color=LARGE, marker="o", linestyle="none", label="large group (training share at least average)")
    ]
    if (~results.large).any():
        entries.append(Line2D([], [], color=SMALL, marker="o", linestyle="none", label="small group"))
    figure.legend(handles=entries, loc="outside upper center", ncols=2)


def log_axis(axes: "Axes", numbers: Sequence[float], form: str) -> np.ndarray:
    """Make x logarithmic with ticks at the numbers, labelled where there is room; return where they stand."""
    at = np.array(numbers, float)
    at[at == 0] = min(at[at > 0], default=4.0) / 4  # 0 has no place on a logarithmic axis; it stands at its left end
    if not axes.xaxis.get_tick_params().get("labelbottom", True):
        return at  # shares the axis of a panel below, whose ticks are slow to set again
    labels, last = {}, np.inf
    for place, number in sorted(zip(at, numbers, strict=True), reverse=True):
        room = last / place > (at.max() / at.min()) ** 0.11
        labels.setdefault(place, format(number, form) if room else "")
        last = place if room else last
    axes.set_xscale("log")
    axes.set_xticks(list(labels), list(labels.values()), rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    axes.minorticks_off()
    return at


def scale(panels: Sequence[Any], which: str) -> None:
    """Make the axis logarithmic if the points span a decade; intervals that reach 0 then run out of the panel."""
    values = np.concatenate([c.lines[0].get_xydata() for axes in panels for c in axes.containers])[:, "xy".index(which)]
    if np.nanmin(values) > 0 and np.nanmax(values) > 10 * np.nanmin(values):
        for axes in panels:
            axes.set(**{f"{which}scale": "log"})
            axis = getattr(axes, f"{which}axis")
            axis.set_major_formatter("{x:g}")  # powers as mathematics would need its parser
            axis.set_minor_formatter("")
            axes.set(**{f"{which}lim": (max(getattr(axes, f"get_{which}lim")()[0], np.nanmin(values) / 3), None)})


def finish(figure: "Figure", panels: Sequence["Axes"], label: str) -> None:
    """Write one legend above all panels, and what their x is below them."""
    entries = {name: handle for axes in panels for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(entries.values()), list(entries), loc="outside upper center", ncols=4)
    figure.supxlabel(label, fontsize=9.5)


def name_points(figure: "Figure", axes: Any, x: np.ndarray, y: np.ndarray, names: Sequence[str]) -> None:
    """Write each point's name where it covers the least of points, intervals and other names."""
    figure.draw_without_rendering()  # only then is it known where things are
    at, taken = axes.transData.transform(np.c_[x, y]), [axes.get_window_extent().extents]  # left, bottom, right, top
    bars = [axes.transData.transform(b) for c in axes.containers for part in c.lines[2] for b in part.get_segments()]
    taken += [np.r_[p - 5, p + 5] for p in at] + [np.r_[b.min(axis=0) - 2, b.max(axis=0) + 2] for b in bars if len(b)]
    for point, target, name in zip(at, zip(x, y, strict=True), names, strict=True):
        if not name or not np.isfinite(point).all():
            continue
        size, others = np.array([5 * len(name), 9]) * figure.dpi / 72, np.array(taken)
        offsets = np.concatenate([DIRECTIONS * (size / 2 + distance) for distance in (7, 14, 24)])
        boxes = np.hstack([point + offsets - size / 2, point + offsets + size / 2])
        ends = np.minimum(boxes[:, None, 2:], others[:, 2:]) - np.maximum(boxes[:, None, :2], others[:, :2])
        shared = np.nan_to_num(np.maximum(ends, 0)).prod(axis=-1)
        best = int(np.argmin(shared[:, 1:].sum(axis=1) - 9 * shared[:, 0] + np.abs(offsets).sum(axis=1)))
        taken.append(boxes[best])
        place = offsets[best] * 72 / figure.dpi
        axes.annotate(name, target, place, "data", "offset points", ha="center", va="center", size=8, in_layout=False)


def save(figure: "Figure", path: Path) -> Path:
    """Write a figure as PNG and SVG and return the SVG; equal figures give equal files.

    Args:
        figure: laid out here, once for both files.
        path: of the files without their suffix.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # each file would have it done again
    box = figure.get_tightbbox().padded(0.1)
    svg = path.with_name(f"{path.name}.svg")
    figure.savefig(path.with_name(f"{path.name}.png"), bbox_inches=box)
    figure.savefig(svg, bbox_inches=box, metadata={"Date": None})
    return svg
