"""Figures of a study, from finished analyses only. Every point has its interval where there are several seeds."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.linearization import results as tables
from experiments.linearization.results import Results, Variant
from experiments.reporting import drawing
from experiments.reporting.drawing import LARGE, SMALL, STYLE
from jaxfair.groups import seed_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAMILIES = {"snl": ("Blues", "o"), "deepreduce": ("Oranges", "D")}


def draw_all(results: Results, folder: Path) -> dict[str, Path]:
    """Draw every figure as PNG and SVG into ``folder``; return the SVG of each by name."""
    import matplotlib as mpl

    drawn = {}
    with mpl.rc_context(STYLE):
        for name, draw in (
            ("accuracy_drop_by_group", accuracy_drop_by_group),
            ("accuracy_by_budget", accuracy_by_budget),
            ("curvature_by_group", curvature_by_group),
        ):
            drawn[name] = drawing.save(draw(results), folder / name)
    return drawn


def accuracy_drop_by_group(results: Results) -> "Figure":
    """Draw each linearized network's relative accuracy drop by group (Das et al. 2024, Fig. 1 and 6)."""
    variants = results.variants[1:] or results.variants
    width = max(3.5, drawing.width_of_groups(results))
    columns = min(max(1, int(10.5 / width)), len(variants))
    labels = drawing.group_labels(results, width)
    figure, grid = drawing.subplots(-(-len(variants) // columns), columns, width, 2.6 + labels.extra, sharey=True)
    for axes, variant in zip(grid.flat, variants, strict=False):
        mean, interval = tables.drops(results, variant)
        drawing.by_size(axes, results, mean, interval)
        drawing.label_groups(axes, labels)
        axes.axhline(0, color="#888888", linewidth=0.8)
        title = _title(variant)
        axes.set_title(title if len(title) < 12 * width else title.replace(": ", ":\n"), fontsize=9.5)
    for axes in grid.flat[len(variants) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("relative accuracy drop (%)")
    drawing.group_legend(figure, results)
    return figure


def accuracy_by_budget(results: Results) -> "Figure":
    """Draw accuracy of all, large and small groups against the ReLUs kept (Das et al. 2024, Fig. 5)."""
    figure, grid = drawing.subplots(1, 1, 5.6, 3.4)
    axes = grid[0, 0]
    series = [("large groups", results.large, LARGE), ("small groups", ~results.large, SMALL)]
    path = [v for v in results.variants if v.method in ("full", "snl")]
    others = [v for v in results.variants if v.method == "deepreduce"]
    for name, members, color in series:
        if not members.any():
            continue
        for chosen, marker, line in ((path, "o", "-"), (others, "D", "none")):
            chosen = sorted(chosen, key=lambda v: v.relu_count)
            values = [v.groups["accuracy"][:, members].mean(axis=1) for v in chosen]
            if not values:
                continue
            mean = np.array([value.mean() for value in values])
            interval = seed_interval(np.stack(values, axis=1))
            # Zero ReLUs have no place on a logarithmic axis; they stand at its left end.
            x = [max(v.relu_count, 0.5) for v in chosen]
            label = f"{name}, {'SNL' if marker == 'o' else 'DeepReDuce'}"
            drawing.errorbar(axes, x, mean, interval, color, marker, line, label)
    axes.set_xscale("symlog", linthresh=1)
    ticks = sorted({v.relu_count for v in results.variants})
    axes.set_xticks([max(t, 0.5) for t in ticks], [f"{t:,}" for t in ticks], rotation=40, ha="right")
    axes.minorticks_off()
    axes.set_xlabel("ReLUs kept")
    axes.set_ylabel("mean accuracy of the groups")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def curvature_by_group(results: Results) -> "Figure":
    """Draw gradient norm, largest Hessian eigenvalue and boundary distance by group (Das et al. 2024, Fig. 3, 4, 8).

    Mitigated networks are in ``paper_figures.mitigation_by_group``.
    """
    labels = {
        "gradient_norm": "gradient norm",
        "top_eigenvalue": "largest Hessian\neigenvalue",
        "softmax_gap": "distance to the boundary\n(softmax gap)",
    }
    width = max(8.6, drawing.width_of_groups(results))
    group_names = drawing.group_labels(results, width)
    figure, grid = drawing.subplots(len(labels), 1, width, 2.2 + group_names.extra / len(labels), sharex=True)
    variants = [variant for variant in results.variants if variant.method != "mitigated"]
    for axes, (name, label) in zip(grid[:, 0], labels.items(), strict=True):
        for i, variant in enumerate(variants):
            values = variant.groups[name][:, results.order]
            x = np.arange(values.shape[1]) + (i - (len(variants) - 1) / 2) * 0.8 / len(variants)
            color, marker = _variant_style(results, variant)
            interval = seed_interval(values)
            drawing.errorbar(axes, x, values.mean(axis=0), interval, color, marker, "none", _title(variant), size=3.5)
        axes.set_ylabel(label)
        axes.grid(visible=False, axis="x")
        for boundary in np.arange(values.shape[1] - 1) + 0.5:
            axes.axvline(boundary, color="#eeeeee", linewidth=0.8, zorder=0)
    drawing.label_groups(grid[-1, 0], group_names)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _title(variant: Variant) -> str:
    if variant.method == "full":
        return f"{variant.label}: {variant.relu_count:,} ReLUs"
    share = 100 * variant.relu_count / variant.unit_count
    label = variant.label if variant.method != "snl" else "SNL"
    shown = "100" if share > 99 else f"{share:.2g}"  # which would be 1e+02
    return f"{label}: {variant.relu_count:,} ReLUs ({shown} %)"


def _variant_style(results: Results, variant: Variant) -> tuple[object, str]:
    import matplotlib as mpl

    if variant.method == "full":
        return "#222222", "s"
    family = [v.label for v in results.variants if v.method == variant.method]
    shade = 0.85 - 0.5 * family.index(variant.label) / max(len(family) - 1, 1)
    colors, marker = FAMILIES.get(variant.method, ("Purples", "v"))
    return mpl.colormaps[colors](shade), marker
