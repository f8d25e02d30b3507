"""Figures of a study, from finished analyses only. Every point has its interval where there are several seeds."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import tables
from experiments.tables import Results, Variant
from jaxfair.groups import Interval, seed_interval

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


def draw_all(results: Results, folder: Path) -> dict[str, Path]:
    """Draw every figure as PNG and SVG into ``folder``; return the SVG of each by name."""
    import matplotlib as mpl

    mpl.use("agg")
    drawn = {}
    with mpl.rc_context(STYLE):
        for name, draw in (
            ("accuracy_drop_by_group", accuracy_drop_by_group),
            ("accuracy_by_budget", accuracy_by_budget),
            ("curvature_by_group", curvature_by_group),
        ):
            figure = draw(results)
            figure.savefig(folder / f"{name}.png", bbox_inches="tight")
            figure.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
            drawn[name] = folder / f"{name}.svg"
    return drawn


def accuracy_drop_by_group(results: Results) -> "Figure":
    """Draw each linearized network's relative accuracy drop by group (Das et al. 2024, Fig. 1 and 6)."""
    variants = results.variants[1:]
    columns = min(3, len(variants))
    figure, grid = _subplots(-(-len(variants) // columns), columns, 3.5, 2.6, sharey=True)
    for axes, variant in zip(grid.flat, variants, strict=False):
        mean, interval = tables.drops(results, variant)
        _by_group(axes, results, mean, interval)
        axes.axhline(0, color="#888888", linewidth=0.8)
        axes.set_title(_title(variant), fontsize=9.5)
    for axes in grid.flat[len(variants) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("relative accuracy drop (%)")
    _group_legend(figure, results)
    return figure


def accuracy_by_budget(results: Results) -> "Figure":
    """Draw accuracy of all, large and small groups against the ReLUs kept (Das et al. 2024, Fig. 5)."""
    figure, grid = _subplots(1, 1, 5.6, 3.4)
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
            _errorbar(axes, x, mean, interval, color, marker, line, label)
    axes.set_xscale("symlog", linthresh=1)
    ticks = sorted({v.relu_count for v in results.variants})
    axes.set_xticks([max(t, 0.5) for t in ticks], [f"{t:,}" for t in ticks], rotation=40, ha="right")
    axes.minorticks_off()
    axes.set_xlabel("ReLUs kept")
    axes.set_ylabel("mean accuracy of the groups")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def curvature_by_group(results: Results) -> "Figure":
    """Draw gradient norm, largest Hessian eigenvalue and boundary distance by group (Das et al. 2024, Fig. 3, 4, 8)."""
    labels = {
        "gradient_norm": "gradient norm",
        "top_eigenvalue": "largest Hessian\neigenvalue",
        "softmax_gap": "distance to the boundary\n(softmax gap)",
    }
    figure, grid = _subplots(len(labels), 1, 8.6, 2.2, sharex=True)
    count = len(results.variants)
    for axes, (name, label) in zip(grid[:, 0], labels.items(), strict=True):
        for i, variant in enumerate(results.variants):
            values = variant.groups[name][:, results.order]
            x = np.arange(values.shape[1]) + (i - (count - 1) / 2) * 0.8 / count
            color, marker = _variant_style(results, i)
            interval = seed_interval(values)
            _errorbar(axes, x, values.mean(axis=0), interval, color, marker, "none", _title(variant), size=3.5)
        axes.set_ylabel(label)
        axes.grid(visible=False, axis="x")
        for boundary in np.arange(values.shape[1] - 1) + 0.5:
            axes.axvline(boundary, color="#eeeeee", linewidth=0.8, zorder=0)
    _label_groups(grid[-1, 0], results)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _subplots(
    rows: int, columns: int, width: float, height: float, *, sharex: bool = False, sharey: bool = False
) -> tuple["Figure", np.ndarray]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False)


def _by_group(axes: "Axes", results: Results, mean: np.ndarray, interval: Interval) -> None:
    for members, color in ((results.large, LARGE), (~results.large, SMALL)):
        chosen = np.flatnonzero(members[results.order])
        if len(chosen):
            index = results.order[chosen]
            part = Interval(interval.low[index], interval.high[index])
            _errorbar(axes, chosen, mean[index], part, color, "o", "none", "")
    _label_groups(axes, results)


def _errorbar(
    axes: "Axes", x: Any, mean: np.ndarray, interval: Interval, color, marker: str, line: str, label: str, size=5.0
) -> None:
    # An interval that cannot be had (one seed) is not drawn; one that misses the mean by rounding has no length.
    ends = np.nan_to_num(np.maximum([mean - interval.low, interval.high - mean], 0.0))
    axes.errorbar(
        x, mean, yerr=ends, color=color, marker=marker, linestyle=line, label=label, markersize=size, linewidth=1.2
    )


def _label_groups(axes: "Axes", results: Results) -> None:
    shown = [textwrap.shorten(name, 18, placeholder="...") if " " in name else name for name in results.group_names]
    shown = [name if len(name) <= 18 else name[:15] + "..." for name in shown]
    names = [f"{shown[g]}\n{results.train_count[g]}" for g in results.order]
    long = max(map(len, shown)) > 6
    axes.set_xticks(range(len(names)), names, fontsize=8)
    if long:
        axes.tick_params(axis="x", labelrotation=30)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("group, and its number of training images", fontsize=8.5)


def _group_legend(figure: "Figure", results: Results) -> None:
    from matplotlib.lines import Line2D

    entries = [
        Line2D([], [], color=LARGE, marker="o", linestyle="none", label="large group (training share at least average)")
    ]
    if (~results.large).any():
        entries.append(Line2D([], [], color=SMALL, marker="o", linestyle="none", label="small group"))
    figure.legend(handles=entries, loc="outside upper center", ncols=2)


def _title(variant: Variant) -> str:
    if variant.method == "full":
        return f"{variant.label}: {variant.relu_count:,} ReLUs"
    share = 100 * variant.relu_count / variant.unit_count
    label = variant.label if variant.method != "snl" else "SNL"
    shown = "100" if share > 99 else f"{share:.2g}"  # which would be 1e+02
    return f"{label}: {variant.relu_count:,} ReLUs ({shown} %)"


def _variant_style(results: Results, index: int) -> tuple[object, str]:
    import matplotlib as mpl

    variant = results.variants[index]
    if variant.method == "full":
        return "#222222", "s"
    family = [v.label for v in results.variants if v.method == variant.method]
    shade = 0.85 - 0.5 * family.index(variant.label) / max(len(family) - 1, 1)
    snl = variant.method == "snl"
    return mpl.colormaps["Blues" if snl else "Oranges"](shade), "o" if snl else "D"
