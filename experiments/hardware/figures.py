"""Figures of a hardware study, with intervals over seeds; what cannot be drawn says why.

Native profiles are dots, emulated ones triangles, controls grey. Groups go from the most training images to the fewest.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from experiments.hardware import tables as numbers
from experiments.hardware.differences import differences
from experiments.hardware.results import Comparison, Hardware, Series
from experiments.reporting import drawing
from experiments.reporting.drawing import (
    AT_ONCE,
    BARS,
    COLORS,
    GREY,
    IMAGES,
    LARGE,
    OVER_SEEDS,
    SMALL,
    Drawing,
    Drawn,
    Points,
)
from experiments.reporting.sampling import SAID
from experiments.reporting.series import Estimate, over_seeds, right
from experiments.reporting.verdicts import Missing
from jaxfair.intervals import Scale
from jaxfair.sensitivity import SpreadTest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONTROLS = {"ulp": ("#8a8a8a", "x"), "repeat": ("#8a8a8a", "+"), "order": ("#b8b8b8", "D"), "batch": ("#b8b8b8", "P")}
ULPS = "one-ulp controls"
NAMES = {"top_eigenvalue": "largest Hessian eigenvalue", "gradient_norm": "gradient norm", "delta": "Delta (nats)"}
FREE = {"top_eigenvalue": "largest Hessian eigenvalue\nat equal image counts"}
FREE |= {"gradient_norm": "gradient norm without\nits sampling part"}
NAMES |= {"softmax_gap": "distance to the boundary\n(softmax gap)", "impurity": "impurity, 1 - sum of squared scores"}


class Segment(NamedTuple):
    """Every group's loss between two networks.

    Attributes:
        points: 0 is the reference, 1 the other profile.
        losses: shape (t, g), in nats.
        label: of the other profile.
    """

    points: np.ndarray
    losses: np.ndarray
    label: str


def write(hardware: Hardware, folder: Path, segment: Callable[[], Segment]) -> list[Drawn]:
    """Draw all figures as PNG and SVG into ``folder``; equal results give equal files.

    Args:
        hardware: of a study.
        folder: is there.
        segment: computes the losses of the figure of that name, or raises ``Missing``.

    Returns:
        Every figure, those too that the results are too few for.
    """
    rows = list(DRAWINGS.items())
    place = list(DRAWINGS).index("curvature_and_boundary")  # which is Fig. 5
    rows.insert(place, ("segment", Drawing(ON_SEGMENT, "", lambda h: along_segment(h, segment()))))
    return drawing.draw_all(dict(rows), hardware, folder)


def differences_by_group(hardware: Hardware) -> "Figure":
    """Draw how much more each group lost on other hardware than the reference group, a panel each profile, sorted."""
    found, names = differences(hardware), hardware.groups.wrapped(28)
    labels = dict.fromkeys(series.label for series in hardware.comparisons[0].elsewhere)
    rows = {label: [(names[d.group], d.points, d.beyond) for d in found if d.where == label] for label in labels}
    name = hardware.groups.names[hardware.reference]
    return drawing.caterpillars(rows, f"relative accuracy drop - that of {name} (percentage points)")


def accuracy_by_group(hardware: Hardware) -> "Figure":
    """Draw group accuracy, a row each profile and control, and its difference from the reference (Fig. 1)."""
    plain, groups = hardware.comparisons[0], hardware.groups
    every, columns = plain.every, 1 + (len(plain.every) > 1)
    figure, grid = drawing.group_panels(groups, len(every), columns, width=4.6, height=1.05, sharey="col")
    for row, series in zip(grid, every, strict=True):
        drawing.by_size(row[0], groups, numbers.accuracies(hardware, series))
        row[0].margins(y=0.15)
        row[-1].margins(y=0.15)
        row[0].set_title(series.label, fontsize=9, loc="left")
        row[0].set_ylabel("accuracy", fontsize=8.5)
        if series is plain.reference:
            row[-1].set_visible(columns == 1)
            continue
        drawing.by_size(row[1], groups, numbers.gains(hardware, series, plain.reference))
        row[1].axhline(0, color=GREY, linewidth=0.8)
        row[1].set_ylabel("difference\n(points)", fontsize=8.5)
    drawing.group_legend(figure, groups)
    return figure


def reference_and_distance(hardware: Hardware) -> "Figure":
    """Draw the parameters' distances from the reference, and gradients and Hessians there (Fig. 2)."""
    plain = hardware.comparisons[0]
    rows = _points(hardware, plain.every[1:], [series.distance for series in plain.every[1:]], "positive")
    if not rows:
        raise Missing("there is nothing to compare the reference with")
    found = [_at_reference(hardware, name) for name in ("gradient_norm", "top_eigenvalue")]
    figure, grid = drawing.group_panels(
        hardware.groups, 1, 3, width=4.4, height=2.5, labelled=(1, 2), least=1.0 + 0.2 * len(rows)
    )
    drawing.across(grid[0, 0], rows)
    grid[0, 0].set_xlabel("L2 distance of the parameters\nfrom the reference's; the largest is rho")
    for axes, (name, value) in zip(grid[0, 1:], found, strict=True):
        drawing.by_size(axes, hardware.groups, value)
        axes.set_ylabel(name)
    drawing.group_legend(figure, hardware.groups)
    return figure


def size_gradient_sensitivity(hardware: Hardware) -> "Figure":
    """Draw gradient norm and Delta over all profiles by group, and against each other (Fig. 3).

    Groups stand side by side, from large to small ones: on an axis of their size those of one size would hide others.
    """
    plain, groups = hardware.comparisons[0], hardware.groups
    gradient, found = _at_reference(hardware, "gradient_norm")
    parts = {gradient: found, NAMES["delta"]: over_seeds(numbers.delta(plain, plain.profiles), "positive")}
    names, note = drawing.point_names(groups)
    figure, grid = drawing.group_panels(
        groups, 1, 3, width=4.2, height=3.2, least=3.8 + 0.15 * len(note), labelled=(0, 1)
    )
    for axes, (label, value) in zip(grid[0], parts.items(), strict=False):
        drawing.by_size(axes, groups, value)
        drawing.scale([axes], "y")
        axes.set_ylabel(label)
    _scattered(figure, hardware, [grid[0, 2]], parts, [(gradient, NAMES["delta"])], names, note)
    return figure


def along_segment(hardware: Hardware, segment: Segment) -> "Figure":
    """Draw each group's loss between the parameters of two profiles, seed 0 (Fig. 4)."""
    figure, panels = drawing.panels(hardware.groups.titles, "loss (nats)")
    for axes, g in zip(panels, hardware.groups.order, strict=True):
        axes.plot(segment.points, segment.losses[:, g], color=LARGE if hardware.groups.large[g] else SMALL)
        ends = np.isin(segment.points, (0, 1))
        axes.plot(segment.points[ends], segment.losses[ends, g], "o", color="#222222", markersize=4)
    figure.supxlabel(f"from the reference's parameters (0) to those of {segment.label} (1)", fontsize=9.5)
    drawing.group_legend(figure, hardware.groups)
    return figure


def curvature_and_boundary(hardware: Hardware) -> "Figure":
    """Draw each group's largest Hessian eigenvalue against how near the decision boundary it is (Fig. 5)."""
    parts = dict(_at_reference(hardware, name) for name in ("softmax_gap", "impurity", "top_eigenvalue"))
    gap, impurity, top = parts
    names, note = drawing.point_names(hardware.groups)
    figure, grid = drawing.subplots(1, 2, 4.2, 3.8 + 0.15 * len(note))
    _scattered(figure, hardware, list(grid[0]), parts, [(gap, top), (impurity, top)], names, note)
    return figure


def divergence(hardware: Hardware) -> "Figure":
    """Draw how far each training is from the reference over its first steps, and when it is as far as the controls."""
    plain, after = hardware.comparisons[0], np.asarray(hardware.steps) > 0
    recorded = [(series, series.curve) for series in plain.every[1:] if series.curve is not None]
    if not after.any() or not np.isfinite(plain.moved).all():
        raise Missing("the first steps of the trainings were not recorded; use --steps")
    if not recorded:
        raise Missing("no other training is followed step by step; give another profile, --ulps or --controls")
    joined = numbers.rejoining(hardware, plain)
    figure, grid = drawing.subplots(1, 1, 8.0, 4.6)
    axes, steps = grid[0, 0], np.asarray(hardware.steps)[after]
    for series, curve in recorded:
        color, marker = _look(hardware, series)
        name = f"{plain.reference.label}, {ULPS}" if series.control.startswith("ulp") else series.label  # look alike
        relative = (curve / plain.moved[:, None])[:, after]
        values = np.where(relative > 0, relative, np.nan)  # 0 has no place on a logarithmic axis
        if np.isnan(values).all():
            axes.plot([], [], color=color, marker=marker, label=f"{name}: 0, the same bits")
            continue
        middle = np.median(relative, axis=0)
        middle[middle == 0] = np.nan
        axes.plot(steps, middle, color=color, marker=marker, markersize=4, linewidth=1.2, label=name)
        ends = np.fmin.reduce(values), np.fmax.reduce(values)
        axes.fill_between(steps, *ends, color=color, alpha=0.12, linewidth=0)
        if np.isin(step := joined.get(series.label, np.nan), steps):
            at = middle[steps == step]
            axes.plot(step, at, "o", markersize=12, markerfacecolor="none", color=color, markeredgewidth=1.4)
    axes.set(yscale="log", xlabel="training step", ylabel="distance / what training moved")
    drawing.log_axis(axes, steps.tolist(), ",")
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:.0e}")
    entries = {name: handle for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(entries.values()), list(entries), loc="outside upper center", ncols=2, fontsize=8.5)
    return figure


def spread_against_rounding(hardware: Hardware) -> "Figure":
    """Draw each profile's mean |difference| from the reference, its excess over the one-ulp controls', and p-values."""
    plain, groups = hardware.comparisons[0], hardware.groups
    figure, grid = drawing.group_panels(groups, 3, 2, width=6.2, height=2.5)
    for (name, unit), (spread, excess, tested) in zip(
        {"loss": "nats", "accuracy": "share"}.items(), grid.T, strict=True
    ):
        test, control = numbers.spread_test(plain, name), numbers.differences(plain, plain.ulps, name).mean(axis=0)
        apart = numbers.differences(plain, plain.elsewhere, name)
        rows = _points(hardware, plain.elsewhere, apart, "positive")
        rows.append(Points(f"{ULPS}, mean", *CONTROLS["ulp"], over_seeds(control, "positive")))
        drawing.by_group(spread, groups, rows)
        rows = _points(hardware, plain.elsewhere, apart - control)
        drawing.by_group(excess, groups, rows, zero=True)
        _p_values(tested, hardware, test, rows)
        spread.set_title(name, fontsize=10)
        spread.set_ylabel(f"mean |difference| ({unit})")
        excess.set_ylabel(f"excess over controls ({unit})")
    drawing.finish(figure, list(grid[0]), "")
    return figure


def _p_values(axes: "Axes", hardware: Hardware, test: SpreadTest, rows: Sequence[Points]) -> None:
    """Draw each profile's p-value by group, and hollow that of the family of all groups."""
    order, places = hardware.groups.order, np.arange(len(hardware.groups.order))
    for row, shift, alone, family in zip(
        rows, drawing.shifts(len(rows)), test.p_value, test.family_p_value, strict=True
    ):
        axes.plot(places + shift, alone[order], row.marker, color=row.color, markersize=4)
        axes.plot(places + shift, family[order], row.marker, color=row.color, markersize=6, markerfacecolor="none")
    levels = sorted([(0.05, "0.05"), (test.smallest_p_value, "least\npossible")])
    near = levels[1][0] < 4 * levels[0][0]  # then one is written above its line and the other one below
    for (level, text), side in zip(levels, ("top", "bottom") if near else ("center", "center"), strict=True):
        axes.axhline(level, color=GREY, linewidth=0.8, linestyle="--")
        axes.annotate(text, (1.01, level), xycoords=("axes fraction", "data"), va=side, fontsize=7.5)
    axes.set_yscale("log")
    axes.set_ylim(top=1.5)
    axes.minorticks_off()  # whose labels would need the parser of mathematics
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("p-value")


def alignment(hardware: Hardware) -> "Figure":
    """Draw Delta, xi and accuracy with and without the alignment of the groups' distances to the boundary."""
    found = [c for c in hardware.comparisons if c.mitigation != "none" and c.budget is None]
    if not found:
        raise Missing("no network was trained with alignment; use --mitigation")
    return _compared(hardware, [hardware.comparisons[0], *found])


def linearized(hardware: Hardware) -> "Figure":
    """Draw Delta, xi and accuracy of the full and the linearized networks."""
    found = [c for c in hardware.comparisons if c.budget is not None]
    if not found:
        raise Missing("no network was linearized; use --budgets")
    return _compared(hardware, [hardware.comparisons[0], *found])


def _look(hardware: Hardware, series: Series) -> tuple[str, str]:
    """Return colour and marker of a series of the plain training; a profile looks alike in every figure."""
    if (control := series.control.rstrip("0123456789")) in CONTROLS:
        return CONTROLS[control]
    labels = [other.label for other in hardware.comparisons[0].profiles]
    if series.label not in labels:
        return COLORS[0], "s"  # the reference
    return COLORS[1:][labels.index(series.label) % (len(COLORS) - 1)], "o" if series.kind == "native" else "^"


def _points(
    hardware: Hardware, found: Sequence[Series], values: Iterable[np.ndarray], scale: Scale = "real"
) -> list[Points]:
    """Return a value of each series of the plain training, given by seed, or by seed and group, as points."""
    looks = [(series.label, *_look(hardware, series)) for series in found]
    return [Points(*look, over_seeds(value, scale)) for look, value in zip(looks, values, strict=True)]


def _at_reference(hardware: Hardware, name: str) -> tuple[str, Estimate]:
    """Return a quantity of the plain training's reference, free of sampling where that was measured, and its name."""
    _, value, how = numbers.measured(hardware.comparisons[0].reference, name)
    return FREE[name] if how in SAID.values() else NAMES[name], value


def _scattered(
    figure: "Figure",
    hardware: Hardware,
    panels: Sequence["Axes"],
    parts: Mapping[str, Estimate],
    pairs: Sequence[tuple[str, str]],
    names: Sequence[str],
    note: Sequence[str],
) -> None:
    """Draw pairs of quantities, a point each group with both intervals and its name.

    Args:
        figure: that has the panels, as soon as all others of it are drawn.
        hardware: whose groups they are.
        panels: one for each pair.
        parts: the quantities of each group, by what is written at their axis.
        pairs: x and y of each panel.
        names: see ``drawing.point_names``.
        note: see there.
    """
    figure.supxlabel("\n".join(note), fontsize=8.5)
    drawing.group_legend(figure, hardware.groups)
    for axes, (x, y) in zip(panels, pairs, strict=True):
        drawing.scatter(axes, hardware.groups, parts[x], parts[y])
        for which in "xy":
            drawing.scale([axes], which)
        axes.set(xlabel=x, ylabel=y)
    for axes, (x, y) in zip(panels, pairs, strict=True):
        drawing.name_points(figure, axes, parts[x].mean, parts[y].mean, names)


def _compared(hardware: Hardware, comparisons: Sequence[Comparison]) -> "Figure":
    """Draw Delta and accuracy by group, and xi, of several kinds of training, over profiles and among controls."""
    delta, xi, by_group, accuracy = [], [], [], []
    for comparison, color in zip(comparisons, COLORS, strict=False):
        for others, marker, name in ((comparison.elsewhere, "o", "profiles"), (comparison.ulps, "x", ULPS)):
            if others:
                look = f"{comparison.title}, {name}", color, marker
                delta.append(Points(*look, over_seeds(numbers.delta(comparison, others), "positive")))
                xi.append(Points(*look, over_seeds(numbers.pair_xi(comparison, others), "positive")))
        look = comparison.title, color, "s"
        by_group.append(Points(*look, numbers.accuracies(hardware, comparison.reference)))
        accuracy.append(Points(*look, right([comparison.reference.correct])))
    figure, grid = drawing.group_panels(hardware.groups, 2, 2, width=5.6, height=2.5, labelled=(0,))
    drawing.by_group(grid[0, 0], hardware.groups, delta)
    drawing.by_group(grid[1, 0], hardware.groups, by_group)
    drawing.across(grid[0, 1], xi)
    drawing.across(grid[1, 1], accuracy)
    grid[0, 0].set_ylabel(NAMES["delta"])
    grid[0, 1].set_xlabel("xi between the reference and one other, mean (nats)")
    grid[1, 0].set_ylabel("accuracy at the reference")
    grid[1, 1].set_xlabel("accuracy at the reference, all test images")
    drawing.finish(figure, list(grid[:, 0]), "")
    return figure


FREED = "those of norms and eigenvalues that are free of sampling over seeds and test images together."
BOTH = "Bars: 95 % intervals over seeds, those of accuracy over test images too."
ON_SEGMENT = (
    "Fig. 4: loss of each group's test images between the parameters of the reference and of the profile that changes "
    "the groups' losses most unequally; seed 0 alone, so without intervals; both on the reference's arithmetic"
)
"""The title of the one figure that is not of results alone."""
XI = "xi is the range of Delta over the groups, of two runs at a time."
DELTA = "Delta is the largest difference of a group's mean TEST loss from the reference's, over all profiles"
# fmt: off
DRAWINGS = {
    "differences_by_group": Drawing(
        "Who loses more than whom on other hardware: relative accuracy drop of each group, from the reference hardware "
        "to another one, minus that of the reference group",
        f"Black: beyond noise; grey: within it, or too few seeds to say. {AT_ONCE.format('groups and profiles')}",
        differences_by_group),
    "accuracy_by_group": Drawing(
        "Fig. 1: accuracy of each group, a row each hardware and control, and its difference from the reference",
        IMAGES, accuracy_by_group),
    "reference_and_distance": Drawing(
        "Fig. 2: how far apart parameters end (permuted networks count as far); gradient norm and largest Hessian "
        "eigenvalue of each group's loss at the reference", f"{OVER_SEEDS}, {FREED}", reference_and_distance),
    "size_gradient_sensitivity": Drawing(
        "Fig. 3: group size, gradient norm at the reference, and sensitivity to hardware",
        f"Groups from the most training images to the fewest. {DELTA}. {OVER_SEEDS}, {FREED}",
        size_gradient_sensitivity),
    "curvature_and_boundary": Drawing(
        "Fig. 5: largest Hessian eigenvalue of each group against its distance to the decision boundary (softmax gap: "
        "0 is on it) and its impurity (0 is far from it), at the reference", f"{OVER_SEEDS}, {FREED}",
        curvature_and_boundary),
    "divergence": Drawing(
        "How trainings part: L2 distance to the reference's parameters after each step, over how far these had moved "
        "by the last step shown", "Median and range over seeds. Circle: from there on the profile's median is within "
        "the range of the one-ulp controls.", divergence),
    "spread_against_rounding": Drawing(
        "How far each profile moves every group, and how far beyond what rounding alone does",
        "Each profile's mean |difference| from the reference, of test loss and accuracy; the excess over what one-ulp "
        "controls show; p-values of a permutation test, hollow: corrected for the number "
        f"of groups. {BARS} Not corrected for the number of profiles.", spread_against_rounding),
    "alignment": Drawing(
        "Mitigation: with and without alignment of the groups' distances to the boundary", f"{DELTA} or all one-ulp "
        f"controls: compare like with like, not maxima over different numbers of runs; {XI} {BOTH}", alignment),
    "linearized": Drawing(
        "Both papers at once: the full and the linearized networks", f"{DELTA} or all one-ulp controls; {XI} {BOTH}",
        linearized),
}
# fmt: on
