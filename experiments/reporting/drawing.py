"""What all figures share: the drawing table, panels, points with intervals, names of groups and points, and files."""

import math
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from experiments.reporting.groups import LARGE, SMALL, Groups
from experiments.reporting.series import Estimate
from experiments.reporting.verdicts import Missing
from experiments.running.progress import say
from jaxfair.words import FROM_LEFT, in_order

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that the colour-blind can tell apart (Okabe and Ito 2008); markers differ as well, so there are 42 pairs.
COLORS = ("#222222", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
LOOKS = tuple(islice(zip(cycle(COLORS), cycle("soD^vP"), strict=False), 42))
GREY, PALE = "#888888", "#d6d6d6"
OTHER_SCRIPTS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans Devanagari", "Noto Sans Arabic", "Noto Sans Hebrew")
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
# Inches at 8 points: a letter's width, how far apart upright names, and slanted ones of two lines, have to stand, and
# what a further line takes.
LETTER, UPRIGHT, SLANTED, LINE = 0.066, 0.16, 0.56, 0.13
SLANTED_LETTERS, UPRIGHT_LETTERS, LYING_LINES = 18, 26, 4
SLANTED_LINE = 0.155  # inches along a logarithmic axis from one slanted number to the next
BESIDE = 0.15  # of a logarithmic axis that all series at one place take, where the next place is far
WIDE = 4  # times as long as the median: an interval that may run out of its panel
DIRECTIONS = np.array([(x, y) for x in (1, -1, 0) for y in (0, 1, -1) if x or y])


CLIPPED, MOST_POINTS = "clipped", 10
ARROW = "An arrow: an interval goes on outside of its panel."
ABSENT = "No point: not known, as the drop of a group that a network is right on too seldom."
OVER_SEEDS = "Bars: 95 % intervals over seeds"
BARS = f"{OVER_SEEDS}; of one seed there are none."
IMAGES = f"{OVER_SEEDS} and test images together, of one seed over these alone."
AT_ONCE = IMAGES[:-1] + "; they hold for all {} at once."


class Drawing(NamedTuple):
    """A row of a study's table of figures.

    Attributes:
        title: what is shown, a sentence without its full stop; of a figure of a paper it begins with "Fig. 3: ".
        rest: of the caption.
        draw: makes the figure of a study's results; raises ``Missing`` where they are too few for it.
    """

    title: str
    rest: str
    draw: Callable[[Any], "Figure"]

    @property
    def caption(self) -> str:
        """What stands below the figure."""
        return f"{self.title}{'' if self.title.endswith('?') else '.'} {self.rest}".strip()


class Drawn(NamedTuple):
    """A figure that was drawn, or why it was not.

    Attributes:
        name: of its files.
        title, caption: see ``Drawing``; the caption of a figure with arrows says ``ARROW``, of one that lacks points
            ``ABSENT``.
        file: as SVG, beside which it lies as PNG; None if it cannot be drawn.
        reason: why it cannot be drawn, one sentence.
    """

    name: str
    title: str
    caption: str
    file: Path | None
    reason: str = ""


def draw_all(drawings: Mapping[str, Drawing], results: Any, folder: Path) -> list[Drawn]:
    """Draw a table of figures by name as PNG and SVG; equal results give equal files.

    Args:
        drawings: the table.
        results: what each of its functions takes.
        folder: of the files; made if it is not there.

    Returns:
        Every figure in the table's order, those too that the results are too few for.
    """
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    found = []
    with mpl.rc_context({**STYLE, "font.family": _fonts()}), _said_once():
        for name, drawing in drawings.items():
            try:
                figure = drawing.draw(results)
                clip(figure)
                arrows = any(line.get_gid() == CLIPPED for axes in figure.axes for line in axes.lines)
                more = f" {ARROW}" * arrows + f" {ABSENT}" * _lacks_points(figure)
                file, reason = save(figure, folder / name), ""
            except Missing as missing:
                file, reason, more = None, str(missing), ""
            found.append(Drawn(name, drawing.title, drawing.caption + more, file, reason))
    return found


def _lacks_points(figure: "Figure") -> bool:
    """Whether some of a figure's series have points without a value, which leave empty places."""
    drawn: list[Any] = [container for axes in figure.axes for container in axes.containers]
    return not all(np.isfinite(container.lines[0].get_xydata()).all() for container in drawn)


def _fonts() -> list[str]:
    """Return the figures' font, and those for other scripts that this machine has."""
    from matplotlib import font_manager

    there = set(font_manager.get_font_names())
    return ["DejaVu Sans", *(name for name in OTHER_SCRIPTS if name in there)]


@contextmanager
def _said_once() -> Iterator[None]:
    """Say in one line each what Matplotlib says for each letter and file: that fonts lack letters, or room is short."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield
    lines = {
        "missing from font": "Names have letters that no font for figures on this machine has; tables show them, "
        "figures do not.",
        "layout not applied": "A figure has more in it than room; parts of it overlap, and tables have the numbers.",
    }
    known = [next((part for part in lines if part in str(one.message)), "") for one in said]
    for one, part in zip(said, known, strict=True):
        if not part:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    for part in dict.fromkeys(filter(None, known)):
        say(lines[part])


def subplots(
    rows: int,
    columns: int,
    width: float,
    height: float,
    *,
    sharex: bool = False,
    sharey: bool | Literal["col"] = False,
) -> tuple["Figure", np.ndarray]:
    """Return a figure and its axes, an array (rows, columns) of axes with room of so many inches each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False)


def filled(
    count: int, most: int, width: float, height: float, *, sharex: bool = False, sharey: bool = False
) -> tuple["Figure", list["Axes"]]:
    """Return a figure and its panels, at most ``most`` in a row of so many inches each; the last row's fill it too."""
    from matplotlib.figure import Figure

    rows = -(-count // most)
    columns = -(-count // rows)
    last = count - columns * (rows - 1)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    grid, found = figure.add_gridspec(rows, math.lcm(columns, last)), []
    for i in range(count):
        row, place = divmod(i, columns)
        span = grid.ncols // (last if row == rows - 1 else columns)
        shared = {"sharex": found[0] if found and sharex else None, "sharey": found[0] if found and sharey else None}
        axes = figure.add_subplot(grid[row, place * span : (place + 1) * span], **shared)
        axes.tick_params(labelbottom=not sharex or row == rows - 1 or last < columns, labelleft=not sharey or not place)
        found.append(axes)
    return figure, found


def panels(titles: Sequence[str], label: str) -> tuple["Figure", list["Axes"]]:
    """Return panels that share their axes, at most five in a row."""
    lines, around = max(title.count("\n") for title in titles), 0.8  # inches of the legend and what is below
    height = 2.1 + 0.15 * lines + around / -(-len(titles) // 5)
    figure, found = filled(len(titles), 5, max(2.1, 5 / len(titles)), height, sharex=True, sharey=True)
    for axes, title in zip(found, titles, strict=True):
        axes.set_title(title, fontsize=9)
    label_side(figure, label)
    return figure, found


def panel_each(groups: Groups, count: int) -> tuple["Figure", list["Axes"], float]:
    """Return a panel with a place for each group for each of several networks, and a panel's width in inches.

    Several stand in a row where the groups' names leave room for that.
    """
    width = max(3.5, width_of_groups(groups))
    labels = group_labels(groups, width)
    if (most := int(10.5 / width)) < 2:
        figure, grid = group_panels(groups, count, height=2.0, sharey=True)
        return figure, list(grid[:, 0]), width
    figure, found = filled(count, most, width, 2.6 + labels.extra, sharey=True)
    for axes in found:
        label_groups(axes, labels)
    return figure, found, width


def label_side(figure: "Figure", label: str) -> None:
    """Write on the left what all panels show, in as many lines as the figure's height needs."""
    figure.supylabel(_wrapped(label, figure.get_figheight()), fontsize=9.5)


def _wrapped(label: str, inches: float) -> str:
    return "\n".join(part for line in label.split("\n") for part in textwrap.wrap(line, int(inches / 0.08)))


def errorbar(
    axes: "Axes", x: Any, y: Any, color: Any, marker: str = "o", line: str = "none", label: str = "", size: float = 5.0
) -> None:
    """Draw points; an estimate as ``x`` or ``y`` has error bars, of no length where its interval is not known."""
    places = {"x": x, "y": y}
    bars = {f"{which}err": value.reach.reshape(2, -1) for which, value in places.items() if isinstance(value, Estimate)}
    at = [value.mean if isinstance(value, Estimate) else value for value in places.values()]
    look: Any = {"color": color, "marker": marker, "linestyle": line, "markersize": size, "linewidth": 1.2}
    axes.errorbar(*at, **bars, **look, label=label)


class Points(NamedTuple):
    """A series of points and how they look.

    Attributes:
        label: in the legend.
        color, marker: of the points.
        value: one for each group, in the groups' own order, or one number.
    """

    label: str
    color: Any
    marker: str
    value: Estimate


def by_size(axes: "Axes", groups: Groups, value: Estimate) -> None:
    """Draw one value a group, from large groups to small ones, coloured by whether the group is large."""
    for part in groups.parts:
        chosen = np.flatnonzero(part.members[groups.order])
        errorbar(axes, chosen, value.at(groups.order[chosen]), part.color)


def by_group(axes: "Axes", groups: Groups, rows: Sequence[Points], *, zero: bool = False) -> None:
    """Draw several values a group side by side, from large groups to small ones; ``zero`` adds a line there."""
    for row, shift in zip(rows, shifts(len(rows)), strict=True):
        x = np.arange(len(groups.order)) + shift
        errorbar(axes, x, row.value.at(groups.order), row.color, row.marker, label=row.label, size=4.0)
    axes.grid(visible=False, axis="x")
    for boundary in np.arange(len(groups.order) - 1) + 0.5:
        axes.axvline(boundary, color="#eeeeee", linewidth=0.8, zorder=0)
    if zero:
        axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)


def across(axes: "Axes", rows: Sequence[Points]) -> None:
    """Draw one value a row, names at the left, from top to bottom."""
    for y, row in enumerate(rows):
        errorbar(axes, row.value, y, row.color, row.marker)
    axes.set_yticks(range(len(rows)), [row.label for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")


def shifts(count: int) -> np.ndarray:
    """Return how far from a group's place each of several series stands."""
    return (np.arange(count) - (count - 1) / 2) * 0.7 / count


def scatter(axes: "Axes", groups: Groups, x: Estimate, y: Estimate) -> None:
    """Draw one value against another, a point each group, coloured by whether the group is large."""
    for part in groups.parts:
        errorbar(axes, x.at(part.members), y.at(part.members), part.color)


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


def width_of_groups(groups: Groups) -> float:
    """Return how many inches wide an axis must be to write all groups below it."""
    lines = max(name.count("\n") for name in _upright(groups))
    return 0.9 + (UPRIGHT + LINE * lines) * len(groups.names)


def _upright(groups: Groups) -> list[str]:
    names = [f"{name} ({count:,})" for name, count in zip(groups.names, groups.train_count, strict=True)]
    return [groups._replace(names=tuple(names)).wrapped(UPRIGHT_LETTERS)[g] for g in groups.order]


def group_labels(groups: Groups, width: float) -> GroupLabels:
    """Return the groups' labels: lying where their words fit into ``width`` inches, else slanted, else upright."""
    pitch = (width - 0.9) / len(groups.names)
    letters, counts = int(pitch / LETTER) - 1, [f"{groups.train_count[g]:,}" for g in groups.order]
    if letters >= max(len(word) for text in (*groups.names, *counts) for word in text.split() or [""]):
        names = groups.wrapped(letters)
        lines = max(name.count("\n") for name in names)
        if lines < LYING_LINES:
            shown = [f"{names[g]}\n{count}" for g, count in zip(groups.order, counts, strict=True)]
            return GroupLabels(shown, 0, LINE * lines)
    if pitch > SLANTED and max(map(len, groups.names)) <= SLANTED_LETTERS:
        shown = [f"{groups.names[g]}\n{count}" for g, count in zip(groups.order, counts, strict=True)]
        return GroupLabels(shown, 30, 0.0)
    names = _upright(groups)
    longest = max(len(line) for name in names for line in name.split("\n"))
    return GroupLabels(names, 90, max(0.0, LETTER * longest - 0.5))


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


def group_panels(
    groups: Groups,
    rows: int,
    columns: int = 1,
    *,
    width: float = 8.6,
    height: float = 2.4,
    least: float = 0.0,
    sharey: bool | Literal["col"] = False,
    labelled: Sequence[int] | None = None,
) -> tuple["Figure", np.ndarray]:
    """Return panels of which the last in each of the ``labelled`` columns (all) has the groups' names below it.

    Args:
        groups: shown in each of these columns.
        rows: of panels.
        columns: of panels.
        width: of a panel in inches; more if the groups' names need it.
        height: of a panel in inches, to which is added what the names need.
        least: inches of height at least.
        sharey: whether all panels, or those of each column, have one axis.
        labelled: columns of which the panels have a place for each group.
    """
    width = max(width, width_of_groups(groups))
    labels = group_labels(groups, width)
    figure, grid = subplots(rows, columns, width, max(least, height + labels.extra / rows), sharey=sharey)
    for column in range(columns) if labelled is None else labelled:
        for axes in grid[:-1, column]:
            axes.set_xticks(range(len(labels.names)), [""] * len(labels.names))
            axes.set_xlim(-0.5, len(labels.names) - 0.5)
        label_groups(grid[-1, column], labels)
    return figure, grid


def group_legend(figure: "Figure", groups: Groups) -> None:
    """Write above a figure which colour is for large groups and which for small ones, if there are any."""
    from matplotlib.lines import Line2D

    names = {LARGE: "large group (training share at least average)", SMALL: "small group"}
    look: Any = {"marker": "o", "linestyle": "none"}
    handles = [Line2D([], [], color=part.color, label=names[part.color], **look) for part in groups.parts]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)


def log_axis(axes: "Axes", numbers: Sequence[float], form: str) -> np.ndarray:
    """Make x logarithmic with ticks at the numbers, labelled where there is room; return where they stand."""
    at = np.array(numbers, float)
    at[at == 0] = min(at[at > 0], default=4.0) / 4  # 0 has no place on a logarithmic axis; it stands at its left end
    if not axes.xaxis.get_tick_params().get("labelbottom", True):
        return at  # shares the axis of a panel below, whose ticks are slow to set again
    labels, last = {}, np.inf
    figure: Any = axes.get_figure()
    inches = axes.get_position().width * figure.get_figwidth()
    for place, number in sorted(zip(at, numbers, strict=True), reverse=True):
        room = last / place > (at.max() / at.min()) ** (SLANTED_LINE / inches)
        labels.setdefault(place, format(number, form) if room else "")
        last = place if room else last
    labels = dict(sorted(labels.items()))
    axes.set_xscale("log")
    axes.set_xticks(list(labels), list(labels.values()), rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    axes.minorticks_off()
    around = at if np.ptp(at) else at[:1] * [[0.5], [2.0]]  # or rounding alone would say how wide the axis is
    axes.update_datalim(np.c_[around, around], updatey=False)  # points beside a tick at an end would leave it out
    return at


def places_beside(at: np.ndarray, count: int) -> np.ndarray:
    """Return where points of several series stand beside the places of a logarithmic axis, shape (count, places).

    Else one series' interval would hide another's. Points are nearer to their own place than to the next one.
    """
    places, which = np.unique(np.log(at), return_inverse=True)
    gaps = np.diff(places, prepend=-np.inf, append=np.inf)
    room = np.minimum(np.minimum(gaps[:-1], gaps[1:]), BESIDE * np.ptp(places) or 0.3)
    return at * np.exp(np.outer(shifts(count), room[which]))


def scale(panels: Sequence[Any], which: str) -> None:
    """Make the axis logarithmic if the points span a decade; intervals that reach 0 then run out of the panel."""
    from matplotlib.ticker import LogLocator

    values = np.concatenate([c.lines[0].get_xydata() for axes in panels for c in axes.containers])[:, "xy".index(which)]
    if np.nanmin(values) > 0 and np.nanmax(values) > 10 * np.nanmin(values):
        for axes in panels:
            axes.set(**{f"{which}scale": "log"})
            axis = getattr(axes, f"{which}axis")
            if np.nanmax(values) < 100 * np.nanmin(values):  # of which one decade alone may have a tick
                axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter("{x:g}")  # powers as mathematics would need its parser
            axis.set_minor_formatter("")
            axes.set(**{f"{which}lim": (max(getattr(axes, f"get_{which}lim")()[0], np.nanmin(values) / 3), None)})


def finish(figure: "Figure", panels: Sequence["Axes"], label: str) -> None:
    """Write one legend above all panels, and what their x is below them."""
    entries = {name: handle for axes in panels for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(entries.values()), list(entries), loc="outside upper center", ncols=4)
    figure.supxlabel(label, fontsize=9.5)


def clip(figure: "Figure") -> None:
    """Let intervals much wider than most run out of their panel, so that others are seen; each that does has arrows."""
    for which in "xy":
        seen: set[int] = set()
        for axes in figure.axes:
            together = getattr(axes, f"get_shared_{which}_axes")().get_siblings(axes)
            if id(axes) not in seen:
                _clip(together, which)
            seen |= {id(other) for other in together}


ARROWS = {"x": "<>", "y": "v^"}
"""Markers at the lower and the upper limit of an axis."""


class _Bar(NamedTuple):
    """An interval in a panel: where it stands on the other axis, and its ends."""

    axes: Any
    color: Any
    at: float
    low: float
    high: float


def _bars(axes: Any, which: str) -> Iterator[_Bar]:
    for drawn in axes.containers:
        if getattr(drawn, f"has_{which}err", False):
            (collection,) = drawn.lines[2][:1] if which == "x" or not drawn.has_xerr else drawn.lines[2][1:]
            for ends in collection.get_segments():
                if len(ends) and np.isfinite(ends).all():
                    own, other = "xy".index(which), "yx".index(which)
                    yield _Bar(axes, drawn.lines[0].get_color(), ends[0, other], *np.sort(ends[:, own]))


def _clip(panels: Sequence["Axes"], which: str) -> None:
    bars = [bar for axes in panels for bar in _bars(axes, which)]
    logarithmic = getattr(panels[0], f"get_{which}scale")() == "log"

    def place(values: Any) -> np.ndarray:
        return np.log10(np.maximum(values, 1e-30)) if logarithmic else np.asarray(values, float)

    ends = place([[bar.low, bar.high] for bar in bars]).reshape(-1, 2)
    if not (ends[:, 0] < ends[:, 1]).any() or any(_is_arrow(line, which) for axes in panels for line in axes.lines):
        return
    if (narrower := _usual(panels, which, ends, place)) is not None:
        for axes in panels:
            axes.set(**{f"{which}lim": 10**narrower if logarithmic else narrower})
    limits = np.sort(place(getattr(panels[0], f"get_{which}lim")()))  # a logarithmic axis may have been cut before
    for bar, (start, end) in zip(bars, ends, strict=True):
        for beyond, limit, marker in ((start < limits[0], 0, ARROWS[which][0]), (end > limits[1], 1, ARROWS[which][1])):
            if beyond:
                at = {which: 10 ** limits[limit] if logarithmic else limits[limit], "yx"["xy".index(which)]: bar.at}
                look = {"color": bar.color, "marker": marker, "markersize": 5, "clip_on": False}
                bar.axes.plot(at["x"], at["y"], **look, gid=CLIPPED)


def _is_arrow(line: Any, which: str) -> bool:
    return line.get_gid() == CLIPPED and line.get_marker() in ARROWS[which]


def _usual(panels: Sequence["Axes"], which: str, ends: np.ndarray, place: Callable[..., np.ndarray]) -> Any:
    """Return the limits that all but a few wide intervals need, as ``place`` has them; None if they need no others."""
    long = ends[:, 1] - ends[:, 0]
    drawn: list[Any] = [container for axes in panels for container in axes.containers]
    middles = place(np.concatenate([container.lines[0].get_xydata() for container in drawn])[:, "xy".index(which)])
    middles = middles[np.isfinite(middles)]
    # Where nearly all are wide, as of two seeds, the shortest and the points themselves say what is usual.
    usual = long <= WIDE * min(np.median(long[long > 0]), max(np.ptp(middles), long[long > 0].min()))
    if usual.all():
        return None
    core = np.concatenate([middles, ends[usual].ravel(), [0.0] * _crosses_zero(panels, which)])
    low, high = core.min(), core.max()
    if high - low > 0.6 * np.ptp(np.append(ends, core)):
        return None
    return np.array([low, high]) + np.array([-0.07, 0.07]) * (high - low)


def _crosses_zero(panels: Sequence["Axes"], which: str) -> bool:
    """Whether a line is drawn across the panels at 0."""
    found = (np.asarray(getattr(line, f"get_{which}data")(), float) for axes in panels for line in axes.lines)
    return any(len(at) == 2 and not at.any() for at in found)


def caterpillars(parts: Mapping[str, Sequence[tuple[str, Estimate, bool]]], label: str) -> "Figure":
    """Draw values with their names at the left, a panel each part, black where they are beyond noise and else grey.

    Args:
        parts: rows from top to bottom by the panel's title: name, value, and whether it is beyond noise.
        label: of the values.
    """
    lines = [[name.count("\n") + 1 for name, *_ in rows] for rows in parts.values()]
    longest = max(len(line) for rows in parts.values() for name, *_ in rows for line in name.split("\n"))
    width = max(2.2 + LETTER * longest, 4.5 / len(parts))  # of one panel with a label that is not too narrow for it
    titles = [_wrapped(title, width - 0.3) for title in parts]  # which stay apart from those beside them
    above = 0.8 + LINE * max(title.count("\n") + 1 for title in titles)  # and below: the label and the ticks
    height = above + max(sum(LINE * n + 0.08 for n in rows) for rows in lines)
    figure, panels = filled(len(parts), max(1, int(11.5 / width)), width, height, sharex=True)
    for axes, title, rows, of_rows in zip(panels, titles, parts.values(), lines, strict=True):
        high = (LINE * np.array(of_rows) + 0.08) / (LINE + 0.08)  # of one line is 1
        places = np.cumsum(high) - high / 2 - 0.5
        for place, (_, value, beyond) in zip(places, rows, strict=True):
            errorbar(axes, value, place, LOOKS[0][0] if beyond else GREY, "o" if beyond else ".")
        axes.set_yticks(places, [name for name, *_ in rows], fontsize=8)
        axes.set_ylim(high.sum() - 0.5, -0.5)
        axes.axvline(0, color=GREY, linewidth=0.8)
        axes.grid(visible=False, axis="y")
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelbottom=True)
    figure.supxlabel(_wrapped(label, figure.get_figwidth()), fontsize=9.5)
    return figure


def point_names(groups: Groups) -> tuple[list[str], list[str]]:
    """Return what is written beside each group's point, and the lines of a note if these are numbers."""
    names = groups.wrapped()
    if len(names) <= MOST_POINTS and max(name.count("\n") for name in names) < 2:
        return names, []
    rank = {int(g): str(place) for place, g in enumerate(groups.order, 1)}
    said = ", ".join(f"{rank[int(g)]}: {groups.names[g]}" for g in groups.order)
    note = textwrap.wrap(in_order(said), 120)
    if in_order(said) != said:  # or a line that begins with such a name would be read from the right
        note = [FROM_LEFT + line for line in note]
    return [rank[g] for g in range(len(names))], note


def name_points(figure: "Figure", axes: Any, x: np.ndarray, y: np.ndarray, names: Sequence[str]) -> None:
    """Write each point's name where it covers the least of points, intervals and other names."""
    clip(figure)
    figure.draw_without_rendering()  # only then is it known where things are
    at, taken = axes.transData.transform(np.c_[x, y]), [axes.get_window_extent().extents]  # left, bottom, right, top
    bars = [axes.transData.transform(b) for c in axes.containers for part in c.lines[2] for b in part.get_segments()]
    taken += [np.r_[p - 5, p + 5] for p in at] + [np.r_[b.min(axis=0) - 2, b.max(axis=0) + 2] for b in bars if len(b)]
    for point, target, name in zip(at, zip(x, y, strict=True), names, strict=True):
        if not name or not np.isfinite(point).all():
            continue
        lines = name.split("\n")
        size, others = np.array([5 * max(map(len, lines)), 9 * len(lines)]) * figure.dpi / 72, np.array(taken)
        offsets = np.concatenate([DIRECTIONS * (size / 2 + distance) for distance in (7, 14, 24)])
        boxes = np.hstack([point + offsets - size / 2, point + offsets + size / 2])
        ends = np.minimum(boxes[:, None, 2:], others[:, 2:]) - np.maximum(boxes[:, None, :2], others[:, :2])
        shared = np.nan_to_num(np.maximum(ends, 0)).prod(axis=-1)
        best = int(np.argmin(shared[:, 1:].sum(axis=1) - 9 * shared[:, 0] + np.abs(offsets).sum(axis=1)))
        taken.append(boxes[best] + [-4, 0, 4, 0])  # or two numbers side by side would be read as one
        place = offsets[best] * 72 / figure.dpi
        axes.annotate(name, target, place, "data", "offset points", ha="center", va="center", size=8, in_layout=False)
        away = np.linalg.norm(np.clip(at, *boxes[best].reshape(2, 2)) - at, axis=1)
        own = (at == point).all(axis=1)
        if np.nanmin(away[~own], initial=np.inf) <= away[own].min():  # or it would be read as that of another point
            look: Any = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2}
            start = (np.clip(point, *boxes[best].reshape(2, 2)) - point) * 72 / figure.dpi
            axes.annotate("", target, start, "data", "offset points", arrowprops=look, in_layout=False)


def lay_out(figure: "Figure") -> None:
    """Give every part of a figure its place, and three numbers at least to a linear axis.

    Two would leave a short axis with one at its end, and none on the side where its points are.
    """
    from matplotlib.ticker import AutoLocator, MaxNLocator

    figure.draw_without_rendering()  # only then is it known how long an axis is, and so how many numbers it has
    short = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) if _numbers(axis) < 3]
    short = [axis for axis in short if type(axis.get_major_locator()) is AutoLocator]
    for axis in short:
        axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 4, 5, 10], min_n_ticks=3))
    if short:
        figure.draw_without_rendering()


def _numbers(axis: Any) -> int:
    """Return at how many places of an axis there is a tick."""
    low, high = sorted(axis.get_view_interval())
    return sum(low <= at <= high for at in axis.get_majorticklocs())


def save(figure: "Figure", path: Path) -> Path:
    """Write a figure as PNG and SVG and return the SVG; equal figures give equal files.

    Args:
        figure: laid out here, once for both files.
        path: of the files without their suffix.
    """
    lay_out(figure)
    figure.set_layout_engine(None)  # each file would have it done again
    box = figure.get_tightbbox().padded(0.1)
    svg = path.with_name(f"{path.name}.svg")
    figure.savefig(path.with_name(f"{path.name}.png"), bbox_inches=box)
    figure.savefig(svg, bbox_inches=box, metadata={"Date": None})
    return svg
