"""Figures of a hardware study, with intervals over seeds; what cannot be drawn says why.

Looks are those of ``hardware_drawing``.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from experiments.hardware import drawing as looks
from experiments.hardware import tables as numbers
from experiments.hardware.drawing import CONTROLS, Row
from experiments.hardware.results import Comparison, Hardware, Series
from experiments.reporting import drawing
from experiments.reporting.drawing import BARS, COLORS, LARGE, SMALL, Drawing, Drawn
from experiments.reporting.series import over_seeds
from experiments.reporting.verdicts import Missing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ULPS = "one-ulp controls"
NAMES = {"top_eigenvalue": "largest Hessian eigenvalue", "gradient_norm": "gradient norm", "delta": "Delta (nats)"}
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
    drawings = DRAWINGS | {"segment": DRAWINGS["segment"]._replace(draw=lambda h: along_segment(h, segment()))}
    return drawing.draw_all(drawings, hardware, folder)


def accuracy_by_group(hardware: Hardware) -> "Figure":
    """Draw group accuracy on every profile and control, and its difference from the reference (Fig. 1)."""
    plain = hardware.comparisons[0]
    figure, grid = drawing.group_panels(hardware.groups, 2, height=2.5)
    rows = looks.rows_of(hardware, plain, lambda series: series.groups["accuracy"])
    looks.by_group(grid[0, 0], hardware, rows)
    base = plain.reference.groups["accuracy"]
    looks.by_group(
        grid[1, 0], hardware, [row._replace(values=100 * (row.values - base)) for row in rows[1:]], zero=True
    )
    grid[0, 0].set_ylabel("accuracy")
    grid[1, 0].set_ylabel("difference from the\nreference (points)")
    drawing.finish(figure, list(grid[:, 0]), "")
    return figure


def reference_and_distance(hardware: Hardware) -> "Figure":
    """Draw the parameters' distances from the reference, and gradients and Hessians there (Fig. 2)."""
    plain = hardware.comparisons[0]
    rows = looks.rows_of(hardware, plain, lambda series: series.distance)[1:]
    if not rows:
        raise Missing("there is nothing to compare the reference with")
    found = [numbers.quantity(plain.reference, name) for name in ("gradient_norm", "top_eigenvalue")]
    figure, grid = drawing.group_panels(
        hardware.groups, 1, 3, width=4.4, height=2.5, labelled=(1, 2), least=1.0 + 0.2 * len(rows)
    )
    looks.across(grid[0, 0], rows)
    grid[0, 0].set_xlabel("L2 distance of the parameters\nfrom the reference's; the largest is rho")
    for axes, name, values in zip(grid[0, 1:], ("gradient_norm", "top_eigenvalue"), found, strict=True):
        drawing.by_size(axes, hardware.groups, over_seeds(values))
        axes.set_ylabel(NAMES[name])
    drawing.group_legend(figure, hardware.groups)
    return figure


def size_gradient_sensitivity(hardware: Hardware) -> "Figure":
    """Draw group size, gradient norm and Delta over all profiles against each other (Fig. 3)."""
    plain = hardware.comparisons[0]
    gradient, delta = numbers.quantity(plain.reference, "gradient_norm"), numbers.delta(plain, plain.profiles)
    size = np.broadcast_to(np.asarray(hardware.train_count, float), delta.shape)
    parts = {"training images of the group": size, NAMES["gradient_norm"]: gradient, NAMES["delta"]: delta}
    x, y, z = parts
    return looks.scatter(hardware, parts, [(x, y), (x, z), (y, z)])


def along_segment(hardware: Hardware, segment: Segment) -> "Figure":
    """Draw each group's loss between the parameters of two profiles, seed 0 (Fig. 4)."""
    figure, panels = drawing.panels(hardware.groups.titles, "loss (nats)")
    for axes, g in zip(panels, hardware.order, strict=True):
        axes.plot(segment.points, segment.losses[:, g], color=LARGE if hardware.large[g] else SMALL)
        ends = np.isin(segment.points, (0, 1))
        axes.plot(segment.points[ends], segment.losses[ends, g], "o", color="#222222", markersize=4)
    figure.supxlabel(f"from the reference's parameters (0) to those of {segment.label} (1)", fontsize=9.5)
    drawing.group_legend(figure, hardware.groups)
    return figure


def curvature_and_boundary(hardware: Hardware) -> "Figure":
    """Draw each group's largest Hessian eigenvalue against how near the decision boundary it is (Fig. 5)."""
    names = ("softmax_gap", "impurity", "top_eigenvalue")
    parts = {NAMES[name]: numbers.quantity(hardware.comparisons[0].reference, name) for name in names}
    gap, impurity, top = parts
    return looks.scatter(hardware, parts, [(gap, top), (impurity, top)])


def divergence(hardware: Hardware) -> "Figure":
    """Draw how far each training is from the reference over its first steps, and when it is as far as the controls."""
    plain = hardware.comparisons[0]
    after = np.asarray(hardware.steps) > 0
    recorded = plain._replace(**{k: tuple(s for s in getattr(plain, k) if s.curve is not None) for k in PARTS})
    rows = looks.rows_of(hardware, recorded, lambda series: _curve(series) / plain.moved[:, None])[1:]
    if not after.any() or not rows or not np.isfinite(plain.moved).all():
        raise Missing("the first steps of the trainings were not recorded; use --steps")
    joined = numbers.rejoining(hardware, plain)
    figure, grid = drawing.subplots(1, 1, 8.0, 4.6)
    axes, steps = grid[0, 0], np.asarray(hardware.steps)[after]
    for row in rows:
        values = np.where(row.values > 0, row.values, np.nan)[:, after]  # 0 has no place on a logarithmic axis
        if np.isnan(values).all():
            axes.plot([], [], color=row.color, marker=row.marker, label=f"{row.label}: 0, the same bits")
            continue
        middle = np.median(row.values, axis=0)[after]
        middle[middle == 0] = np.nan
        axes.plot(steps, middle, color=row.color, marker=row.marker, markersize=4, linewidth=1.2, label=row.label)
        ends = np.fmin.reduce(values), np.fmax.reduce(values)
        axes.fill_between(steps, *ends, color=row.color, alpha=0.12, linewidth=0)
        if np.isin(step := joined.get(row.label, np.nan), steps):
            at = middle[steps == step]
            axes.plot(step, at, "o", markersize=12, markerfacecolor="none", color=row.color, markeredgewidth=1.4)
    axes.set(xscale="log", yscale="log", xlabel="training step", ylabel="distance / what training moved")
    axes.set_xticks(steps, [f"{step:,}" for step in steps])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:.0e}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=8.5)
    return figure


def spread_against_rounding(hardware: Hardware) -> "Figure":
    """Draw each profile's mean |difference| from the reference, its excess over the one-ulp controls', and p-values."""
    plain = hardware.comparisons[0]
    figure, grid = drawing.group_panels(hardware.groups, 3, 2, width=6.2, height=2.5)
    for name, axes in (("loss", grid[:, 0]), ("accuracy", grid[:, 1])):
        test, control = numbers.spread_test(plain, name), numbers.differences(plain, plain.ulps, name).mean(axis=0)
        only = plain._replace(ulps=(), others=())
        rows = looks.rows_of(hardware, only, lambda s, n=name: numbers.differences(plain, [s], n)[0])[1:]
        looks.by_group(axes[0], hardware, [*rows, Row(f"{ULPS}, mean", *CONTROLS["ulp"], control)])
        looks.by_group(axes[1], hardware, [row._replace(values=row.values - control) for row in rows], zero=True)
        for i, row in enumerate(rows):
            x = np.arange(len(hardware.order)) + (i - (len(rows) - 1) / 2) * 0.7 / len(rows)
            axes[2].plot(x, test.p_value[i][hardware.order], row.marker, color=row.color, markersize=4)
            family = test.family_p_value[i][hardware.order]
            axes[2].plot(x, family, row.marker, color=row.color, markersize=6, markerfacecolor="none")
        for level, text in ((0.05, "0.05"), (test.smallest_p_value, "least\npossible")):
            axes[2].axhline(level, color="#888888", linewidth=0.8, linestyle="--")
            axes[2].annotate(text, (1.01, level), xycoords=("axes fraction", "data"), va="center", fontsize=7.5)
        axes[2].set_yscale("log")
        axes[2].set_ylim(top=1.5)
        axes[2].minorticks_off()  # whose labels would need the parser of mathematics
        axes[2].yaxis.set_major_formatter("{x:g}")
        unit = "nats" if name == "loss" else "share"
        axes[0].set_title("loss" if name == "loss" else "accuracy", fontsize=10)
        axes[0].set_ylabel(f"mean |difference| ({unit})")
        axes[1].set_ylabel(f"excess over controls ({unit})")
        axes[2].set_ylabel("p-value")
    drawing.finish(figure, list(grid[0]), "")
    return figure


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


PARTS = ("profiles", "ulps", "others")


def _curve(series: Series) -> np.ndarray:
    return np.zeros((len(series.accuracy), 1)) if series.curve is None else series.curve


def _compared(hardware: Hardware, comparisons: Sequence[Comparison]) -> "Figure":
    """Draw Delta and accuracy by group, and xi, of several kinds of training, over profiles and among controls."""
    delta, xi, accuracy = [], [], []
    for comparison, color in zip(comparisons, COLORS, strict=False):
        for others, marker, name in ((comparison.profiles, "o", "profiles"), (comparison.ulps, "x", ULPS)):
            if others:
                row = Row(f"{comparison.title}, {name}", color, marker, numbers.delta(comparison, others))
                delta.append(row)
                xi.append(row._replace(values=numbers.pair_xi(comparison, others)))
        accuracy.append(Row(comparison.title, color, "s", comparison.reference.groups["accuracy"]))
    figure, grid = drawing.group_panels(hardware.groups, 2, 2, width=5.6, height=2.5, labelled=(0,))
    looks.by_group(grid[0, 0], hardware, delta)
    looks.by_group(grid[1, 0], hardware, accuracy)
    looks.across(grid[0, 1], xi)
    looks.across(
        grid[1, 1],
        [row._replace(values=c.reference.accuracy) for row, c in zip(accuracy, comparisons, strict=True)],
    )
    grid[0, 0].set_ylabel(NAMES["delta"])
    grid[0, 1].set_xlabel("xi between the reference and one other, mean (nats)")
    grid[1, 0].set_ylabel("accuracy at the reference")
    grid[1, 1].set_xlabel("accuracy at the reference, all test images")
    drawing.finish(figure, list(grid[:, 0]), "")
    return figure


DELTA = "Delta is the largest difference of a group's mean TEST loss from the reference's, over all profiles"
# fmt: off
DRAWINGS = {
    "accuracy_by_group": Drawing(
        "Fig. 1: accuracy of each group on every hardware and control, and its difference from the reference", BARS,
        accuracy_by_group),
    "reference_and_distance": Drawing(
        "Fig. 2: how far apart parameters end (permuted networks count as far); gradient norm and largest Hessian "
        "eigenvalue of each group's loss at the reference", BARS, reference_and_distance),
    "size_gradient_sensitivity": Drawing(
        "Fig. 3: group size, gradient norm at the reference, and sensitivity to hardware", f"{DELTA}. {BARS}",
        size_gradient_sensitivity),
    "segment": Drawing(
        "Fig. 4: loss of each group's test images between the parameters of the reference and of the profile with the "
        "largest xi; seed 0 alone, so without intervals; both on the reference's arithmetic", "", accuracy_by_group),
    "curvature_and_boundary": Drawing(
        "Fig. 5: largest Hessian eigenvalue of each group against its distance to the decision boundary (softmax gap: "
        "0 is on it) and its impurity (0 is far from it), at the reference", BARS, curvature_and_boundary),
    "divergence": Drawing(
        "How trainings part: L2 distance to the reference's parameters after each step, over how far these had moved "
        "by the last step shown", "Median and range over seeds. Circle: from there on the profile's median is within "
        "the range of the one-ulp controls.", divergence),
    "spread_against_rounding": Drawing(
        "Is it more than rounding?", "Each profile's mean |difference| from the reference, of test loss and accuracy; "
        "the excess over what one-ulp controls show; p-values of a permutation test, hollow: corrected for the number "
        f"of groups. {BARS} Not corrected for the number of profiles.", spread_against_rounding),
    "alignment": Drawing(
        "Mitigation: with and without alignment of the groups' distances to the boundary", f"{DELTA} or all one-ulp "
        f"controls: compare like with like, not maxima over different numbers of runs. {BARS}", alignment),
    "linearized": Drawing(
        "Both papers at once: the full and the linearized networks", f"{DELTA} or all one-ulp controls. {BARS}",
        linearized),
}
# fmt: on
