"""Figures of what groups lost by any change of a network; what cannot be drawn says why."""

from collections import Counter
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from experiments.analyses import imbalance, quantities
from experiments.analyses.differences import differences
from experiments.analyses.results import Results, Variant
from experiments.reporting import drawing, series
from experiments.reporting.comparisons import COUNTED_FROM
from experiments.reporting.drawing import AT_ONCE, GREY, IMAGES, LOOKS, Drawing
from experiments.reporting.verdicts import Missing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DROP_LABEL = "relative accuracy drop\nfrom the full network (%)"
HARM_LABEL = "relative accuracy drop\nfrom the control (%)"


def plain(results: Results) -> list[Variant]:
    """Return the changed networks but for mitigated ones, which have figures and rows of their own."""
    return [variant for variant in results.variants[1:] if not variant.base]


def accuracy_drop_by_group(results: Results, *, controlled: bool = False) -> "Figure":
    """Draw each changed network's relative accuracy drop by group (Das et al. 2024, Fig. 1 and 6).

    Args:
        results: of a study.
        controlled: from the network that was trained alike, instead of from the full one.
    """
    variants, groups = plain(results) or results.variants, results.groups
    if controlled:
        variants = [variant for variant in variants if variant.control is not None]
        if not variants:
            raise Missing("No network of the study has a control that was trained as it was.")
    figure, panels, width = drawing.panel_each(groups, len(variants))
    for axes, variant in zip(panels, variants, strict=True):
        drawing.by_size(axes, groups, quantities.drops(results, variant, controlled=controlled))
        axes.axhline(0, color=GREY, linewidth=0.8)
        title = variant.title
        axes.set_title(title if len(title) < 12 * width else title.replace(": ", ":\n"), fontsize=9.5)
    drawing.label_side(figure, HARM_LABEL if controlled else DROP_LABEL)
    drawing.group_legend(figure, groups)
    return figure


def differences_by_group(results: Results) -> "Figure":
    """Draw how much more each group lost than the reference group, a panel each changed network, sorted."""
    variants = [v for v in plain(results) if v.method != "matched"]  # what others are compared with
    names = results.groups.wrapped(28)
    if not variants:
        raise Missing("No network of the study is changed.")
    rows = {
        variant.title.replace(": ", "\n"): [
            (names[of.group], of.points, of.beyond) for of in differences(results, variant)
        ]
        for variant in variants
    }
    name = results.groups.names[results.reference]
    return drawing.caterpillars(rows, f"relative accuracy drop - that of {name} (percentage points)")


def harm_by_imbalance(results: Results) -> "Figure":
    """Draw how much more small groups lost than large ones by how many times as many training images these have."""
    rows = [row for row in imbalance.rows(results) if np.isfinite(row["difference_points"].mean)]
    on = Counter(row["network"] for row in rows)
    rows = [row for row in rows if on[row["network"]] > 1]
    if not rows:
        raise Missing("No difference of small and large groups is known on two kinds of data; see --data-controls.")
    figure, grid = drawing.subplots(1, 1, 6.4, 3.6)
    axes = grid[0][0]
    at = drawing.log_axis(axes, [row["ratio"] for row in rows], ".3g")
    names = list(dict.fromkeys(row["network"] for row in rows))
    for name, look, x in zip(names, cycle(LOOKS), drawing.places_beside(at, len(names)), strict=False):
        mine = sorted((i for i, row in enumerate(rows) if row["network"] == name), key=lambda i: at[i])
        points = series.stack([rows[i]["difference_points"] for i in mine])
        drawing.errorbar(axes, x[mine], points, *look, "-", label=name)
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_ylabel("drop of small - of large groups (points)")
    drawing.finish(figure, [axes], "training images of a large group / of a small one")
    return figure


# fmt: off
DRAWINGS = {
    "differences_by_group": Drawing(
        "Who lost more than whom: relative accuracy drop of each group minus that of the reference group",
        f"{COUNTED_FROM} Black: beyond noise; grey: within it, or too few seeds to say. "
        f"{AT_ONCE.format('groups of a network')}",
        differences_by_group),
    "accuracy_drop_by_group": Drawing(
        "Relative accuracy drop of each group against the full network of the same seed",
        f"Above zero a group lost accuracy. {IMAGES}", accuracy_drop_by_group),
    "accuracy_drop_from_control": Drawing(
        "Relative accuracy drop of each group against the network that was trained alike, without the change",
        f"Above zero a group lost accuracy by the change alone. {IMAGES}",
        partial(accuracy_drop_by_group, controlled=True)),
    "harm_by_imbalance": Drawing(
        "How much more small groups lose than large ones, by how many times as many training images these have",
        f"Drops from the network that was trained alike, on each data. {IMAGES}", harm_by_imbalance),
}
# fmt: on
