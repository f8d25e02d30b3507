"""Figures of Das et al. 2024 that ``figures`` lacks, with intervals over seeds; what cannot be drawn is left out."""

import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import figures, tables
from experiments.tables import Results, Variant
from jaxfair.errors import JaxfairError
from jaxfair.groups import Interval, seed_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that the colour-blind can tell apart (Okabe and Ito 2008); markers differ as well.
SERIES = (("#222222", "s"), ("#0072B2", "o"), ("#D55E00", "D"), ("#009E73", "^"), ("#CC79A7", "v"), ("#56B4E9", "P"))
METHODS = {"full": ("full network", *SERIES[0]), "snl": ("SNL", *SERIES[1]), "deepreduce": ("DeepReDuce", *SERIES[2])}
QUANTITIES = {
    "accuracy": "accuracy",
    "drop": "relative accuracy drop (%)",
    "gradient_norm": "gradient norm",
    "top_eigenvalue": "largest Hessian eigenvalue",
    "softmax_gap": "distance to the boundary (softmax gap)",
}
DIRECTIONS = np.array([(x, y) for x in (1, -1, 0) for y in (0, 1, -1) if x or y])
Value = tuple[np.ndarray, Interval]
Comparisons = Mapping[str, Mapping[str, Variant]]


class Missing(JaxfairError):
    """The results do not hold what a figure shows."""


def write(
    results: Results, folder: Path, comparisons: Comparisons | None = None, rates: Mapping[float, Variant] | None = None
) -> list[Path]:
    """Draw all figures as PNG and SVG into ``folder`` and return the files; equal results give equal files.

    Where figures are left out, the last file is ``left_out.txt``: a line with name and reason for each.
    """
    import matplotlib as mpl

    mpl.use("agg")
    drawings: dict[str, tuple[Callable[..., Figure], Any]] = {
        "fig3_gradient_norm": (by_group_and_relus, ["gradient_norm"]),
        "fig4_top_eigenvalue": (by_group_and_relus, ["top_eigenvalue"]),
        "fig5_global_accuracy": (global_accuracy, []),
        "fig8_accuracy": (distance_and_causes, ["accuracy"]),
        "fig8_drop": (distance_and_causes, ["drop"]),
        "fig9_mitigation_accuracy": (mitigation_by_group, [comparisons or {}, "accuracy"]),
        "fig9_mitigation_drop": (mitigation_by_group, [comparisons or {}, "drop"]),
        "fig13_mitigation_gradient_norm": (mitigation_by_group, [comparisons or {}, "gradient_norm"]),
        "fig14_mitigation_distance": (mitigation_by_group, [comparisons or {}, "softmax_gap"]),
        "figD2_mitigation_rate": (mitigation_by_rate, [rates or {}]),
    }
    folder.mkdir(parents=True, exist_ok=True)
    files, reasons = [], []
    with mpl.rc_context(figures.STYLE):
        for name, (draw, arguments) in drawings.items():
            try:
                figure = draw(results, *arguments)
            except Missing as missing:
                reasons.append(f"{name}: {missing}\n")
                continue
            files += [folder / f"{name}.png", folder / f"{name}.svg"]
            figure.savefig(files[-2], bbox_inches="tight")
            figure.savefig(files[-1], bbox_inches="tight", metadata={"Date": None})
    if reasons:
        files.append(folder / "left_out.txt")
        files[-1].write_text("".join(reasons), encoding="utf-8")
    return files


def by_group_and_relus(results: Results, quantity: str) -> "Figure":
    """Draw a quantity of ``QUANTITIES`` against the ReLUs kept, a panel each group (Das et al. 2024, Fig. 3 and 4)."""
    variants = [results.variants[0], *_linearized(results)]
    mean, interval = _of_groups(results, variants, quantity)
    figure, panels = _panels(_titles(results), QUANTITIES[quantity])
    for g, axes in enumerate(panels):
        _by_relus(axes, variants, (mean[:, g], Interval(interval.low[:, g], interval.high[:, g])), others=mean)
    _scale(panels, "y")
    _finish(figure, panels, "ReLUs kept")
    return figure


def global_accuracy(results: Results) -> "Figure":
    """Draw accuracy on all test images by ReLUs kept, DeepReDuce configurations named (Das et al. 2024, Fig. 5)."""
    _tightest(results)
    figure, grid = figures._subplots(1, 1, 6.0, 3.8)
    axes, variants = grid[0, 0], [results.variants[0], *_linearized(results)]
    value = _over_seeds([v.accuracy for v in variants])
    x = _by_relus(axes, variants, value)
    axes.set_ylabel("accuracy on all test images")
    _finish(figure, [axes], "ReLUs kept")
    names = [v.label.removeprefix("DeepReDuce ") if v.method == "deepreduce" else "" for v in variants]
    _name_points(figure, axes, x, value[0], names)
    return figure


def distance_and_causes(results: Results, effect: str, variant: Variant | None = None) -> "Figure":
    """Draw ||theta_r - theta|| by ReLUs kept, and what groups lose against its causes (Das et al. 2024, Fig. 8).

    Args:
        results: of a study.
        effect: "accuracy", against causes on the same network, or "drop", against those on the full one (Thm 4.4).
        variant: whose groups are shown; by default that with the fewest ReLUs, of SNL's if there are any.
    """
    variant = variant or _tightest(results)
    known = [v for v in _linearized(results) if np.isfinite(v.parameter_distance).all()]
    figure, grid = figures._subplots(1, 2 + bool(known), 4.0, 3.8)
    if known:
        _by_relus(grid[0, 0], known, _over_seeds([v.parameter_distance for v in known]))
        grid[0, 0].set(xlabel="ReLUs kept", ylabel="parameter distance from the full network", ylim=(0, None))
        grid[0, 0].legend(loc="best")
    other = [v.label for v in _linearized(results) if v not in known]
    note = [f"Of another size, so without a distance: {', '.join(other)}"] * bool(other)
    names = [title.rsplit(" ", 1)[0] for title in _titles(results)]
    if len(names) > 10:  # too many to write beside their points
        note += textwrap.wrap(", ".join(f"{i}: {name}" for i, name in enumerate(names, 1)), 150)
        names = [str(i) for i in range(1, len(names) + 1)]
    figure.supxlabel("\n".join(note), fontsize=8.5)
    figures._group_legend(figure, results)
    measured, large = variant if effect == "accuracy" else results.variants[0], results.large[results.order]
    (y,), (low, high) = _of_groups(results, [variant], effect)
    for axes, cause in zip(grid[0, -2:], ("gradient_norm", "softmax_gap"), strict=True):
        (x,), (left, right) = _of_groups(results, [measured], cause)
        ends = np.nan_to_num(np.maximum([[y - low[0], high[0] - y], [x - left[0], right[0] - x]], 0))
        for chosen, color in ((large, figures.LARGE), (~large, figures.SMALL)):
            axes.errorbar(x[chosen], y[chosen], *ends[:, :, chosen], "o", color=color, markersize=5, linewidth=1)
        _scale([axes], "x")
        axes.set(xlabel=f"{QUANTITIES[cause]},\n{measured.label}", ylabel=f"{QUANTITIES[effect]}, {variant.label}")
        _name_points(figure, axes, x, y, names)
    return figure


def mitigation_by_group(results: Results, comparisons: Comparisons, quantity: str) -> "Figure":
    """Draw a quantity of ``QUANTITIES`` by group with and without mitigation (Das et al. 2024, Fig. 9, 13 and 14).

    Args:
        results: of the study; drops are relative to its first network.
        comparisons: for each panel's title, the networks by how they were mitigated: "without", "with".
        quantity: what is drawn.
    """
    if not comparisons or not all(comparisons.values()):
        raise Missing("There are no networks with and without mitigation to compare.")
    figure, grid = figures._subplots(len(comparisons), 1, 8.6, 2.4, sharex=True, sharey=True)
    style = dict(zip(dict.fromkeys(name for compared in comparisons.values() for name in compared), cycle(SERIES)))
    for axes, (title, compared) in zip(grid[:, 0], comparisons.items(), strict=True):
        mean, interval = _of_groups(results, compared.values(), quantity)
        for i, name in enumerate(compared):
            x = np.arange(mean.shape[1]) + (i - (len(compared) - 1) / 2) * 0.7 / len(compared)
            figures._errorbar(axes, x, mean[i], Interval(*(end[i] for end in interval)), *style[name], "none", name)
        axes.set_title(title, fontsize=9.5)
        axes.grid(visible=False, axis="x")
    _scale(list(grid[:, 0]), "y")
    figures._label_groups(grid[-1, 0], results)
    figure.supylabel(QUANTITIES[quantity], fontsize=9.5)
    _finish(figure, list(grid[:, 0]), "")
    return figure


def mitigation_by_rate(results: Results, rates: Mapping[float, Variant]) -> "Figure":
    """Draw accuracy, on all test images and by group, against the multipliers' rate (Das et al. 2024, D.2).

    Args:
        results: of the study; groups are named and ordered as there.
        rates: the network mitigated at each rate mu; that of 0 is without mitigation.
    """
    if not rates:
        raise Missing("There are no networks that were mitigated at several rates.")
    found = [rates[rate] for rate in sorted(rates)]
    mean, interval = _of_groups(results, found, "accuracy")
    everyone, ends = _over_seeds([variant.accuracy for variant in found])
    figure, panels = _panels(["all test images", *_titles(results)], "accuracy")
    parts = [(everyone, *ends), *zip(mean.T, interval.low.T, interval.high.T, strict=True)]
    for i, (axes, (value, low, high)) in enumerate(zip(panels, parts, strict=True)):
        x, name = _log_axis(axes, sorted(rates), "g"), "the panel's group" if i else "all test images"
        axes.plot(x, mean, color="#d6d6d6", zorder=1, label=["all groups"] + [""] * (mean.shape[1] - 1))
        figures._errorbar(axes, x, value, Interval(low, high), *SERIES[i > 0], "-", name)
    _finish(figure, panels, "rate of the multipliers (0: without mitigation)")
    return figure


def _linearized(results: Results, *methods: str) -> list[Variant]:
    """Networks that the papers compare, of all methods or of some; mitigated ones have figures of their own."""
    return [variant for variant in results.variants[1:] if variant.method in (methods or METHODS)]


def _tightest(results: Results) -> Variant:
    if found := _linearized(results, "snl") or _linearized(results):
        return min(found, key=lambda v: v.relu_count)
    raise Missing("No network of the study is linearized.")


def _over_seeds(values: Sequence[np.ndarray]) -> Value:
    """Return means and intervals, shape (variants, ...), of values (seeds, ...) of each variant."""
    return np.stack([v.mean(axis=0) for v in values]), seed_interval(np.stack(values, axis=1))


def _of_groups(results: Results, variants: Collection[Variant], quantity: str) -> Value:
    """Return means and intervals, shape (variants, groups), groups from large to small."""
    for variant in variants:
        if variant.seeds != results.variants[0].seeds:
            raise JaxfairError(f"'{variant.label}' has other seeds than the full network; compare the same seeds.")
        stored = "relative_drop_percent" if quantity == "drop" else quantity
        if not np.isfinite(variant.groups.get(stored, np.nan)).all(axis=0).any():
            raise Missing(f"The analyses of '{variant.label}' have no finite {stored} for any group.")
    if quantity != "drop":
        return _over_seeds([variant.groups[quantity][:, results.order] for variant in variants])
    means, intervals = zip(*(tables.drops(results, variant) for variant in variants), strict=True)
    return np.stack(means)[:, results.order], Interval(*np.stack(intervals, axis=1)[:, :, results.order])


def _titles(results: Results) -> list[str]:
    short = [name if len(name) <= 18 else f"{name[:9]}...{name[-6:]}" for name in results.group_names]
    return [f"{short[g]} ({results.train_count[g]:,})" for g in results.order]


def _panels(titles: Sequence[str], label: str) -> tuple["Figure", list["Axes"]]:
    """Return equal panels that share their axes, at most five in a row."""
    columns = -(-len(titles) // (rows := -(-len(titles) // 5)))
    figure, grid = figures._subplots(rows, columns, max(2.1, 5 / columns), 2.1, sharex=True, sharey=True)
    for i, axes in enumerate(grid.flat):
        axes.set_visible(i < len(titles))
        axes.set_title(titles[i] if i < len(titles) else "", fontsize=9)
        axes.tick_params(labelbottom=i + columns >= len(titles))
    figure.supylabel(label, fontsize=9.5)
    return figure, list(grid.flat)[: len(titles)]


def _by_relus(axes: "Axes", variants: list[Variant], value: Value, others: np.ndarray | None = None) -> np.ndarray:
    """Draw a value of each variant and return where; SNL's and the full network's are joined, ``others`` in grey."""
    x, (mean, interval) = _log_axis(axes, [v.relu_count for v in variants], ","), value
    path = [i for i in np.argsort(x, kind="stable") if variants[i].method != "deepreduce"]
    if others is not None:
        axes.plot(x[path], others[path], color="#d6d6d6", zorder=1, label=["all groups"] + [""] * (others.shape[1] - 1))
    axes.plot(x[path], mean[path], color=METHODS["snl"][1], linewidth=1.2, zorder=2)
    for method, (label, color, marker) in METHODS.items():
        if mine := [i for i, v in enumerate(variants) if v.method == method]:
            ends = Interval(interval.low[mine], interval.high[mine])
            figures._errorbar(axes, x[mine], mean[mine], ends, color, marker, "none", label)
    return x


def _log_axis(axes: "Axes", numbers: Sequence[float], form: str) -> np.ndarray:
    """Make x logarithmic with ticks at the numbers, labelled where there is room; return where they stand."""
    at = np.array(numbers, float)
    at[at == 0] = min(at[at > 0], default=4.0) / 4  # 0 has no place on a logarithmic axis; it stands at its left end
    labels, last = {}, np.inf
    for place, number in sorted(zip(at, numbers, strict=True), reverse=True):
        room = last / place > (at.max() / at.min()) ** 0.11
        labels.setdefault(place, format(number, form) if room else "")
        last = place if room else last
    axes.set_xscale("log")
    axes.set_xticks(list(labels), list(labels.values()), rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    axes.minorticks_off()
    return at


def _scale(panels: Sequence[Any], which: str) -> None:
    """Make the axis logarithmic if the points span a decade; intervals that reach 0 then run out of the panel."""
    values = np.concatenate([c.lines[0].get_xydata() for axes in panels for c in axes.containers])[:, "xy".index(which)]
    if np.nanmin(values) > 0 and np.nanmax(values) > 10 * np.nanmin(values):
        for axes in panels:
            axes.set(**{f"{which}scale": "log"})
            getattr(axes, f"{which}axis").set_major_formatter("{x:g}")  # powers as mathematics would need its parser
            axes.set(**{f"{which}lim": (max(getattr(axes, f"get_{which}lim")()[0], np.nanmin(values) / 3), None)})


def _finish(figure: "Figure", panels: Sequence["Axes"], label: str) -> None:
    """Write one legend above all panels, and what their x is below them."""
    entries = {name: handle for axes in panels for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(entries.values()), list(entries), loc="outside upper center", ncols=4)
    figure.supxlabel(label, fontsize=9.5)


def _name_points(figure: "Figure", axes: Any, x: np.ndarray, y: np.ndarray, names: Sequence[str]) -> None:
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
