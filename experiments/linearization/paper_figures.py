"""Figures of Das et al. 2024 that ``figures`` lacks, with intervals over seeds; what cannot be drawn says why."""

import textwrap
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from experiments.linearization import results as tables
from experiments.linearization.results import Results, Variant
from experiments.reporting import drawing
from jaxfair.errors import JaxfairError
from jaxfair.groups import Interval, seed_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that the colour-blind can tell apart (Okabe and Ito 2008); markers differ as well, so there are 42 pairs.
COLORS = ("#222222", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
SERIES = tuple(islice(zip(cycle(COLORS), cycle("soD^vP"), strict=False), 42))
METHODS = {"full": ("full network", *SERIES[0]), "snl": ("SNL", *SERIES[1]), "deepreduce": ("DeepReDuce", *SERIES[2])}
QUANTITIES = {
    "accuracy": "accuracy",
    "drop": "relative accuracy drop (%)",
    "gradient_norm": "gradient norm",
    "top_eigenvalue": "largest Hessian eigenvalue",
    "softmax_gap": "distance to the boundary (softmax gap)",
}
Value = tuple[np.ndarray, Interval]


class Missing(JaxfairError):
    """The results do not hold what a figure shows."""


class Drawn(NamedTuple):
    """A figure of the paper.

    Attributes:
        name: of its files.
        caption: what it shows.
        file: as SVG, beside which it lies as PNG; None if it cannot be drawn.
        reason: why it cannot be drawn, one sentence.
    """

    name: str
    caption: str
    file: Path | None
    reason: str = ""


def write(results: Results, folder: Path) -> list[Drawn]:
    """Draw all figures as PNG and SVG into ``folder``; equal results give equal files.

    Returns:
        Every figure in the paper's order, those too that the results are too few for.
    """
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    found = []
    with mpl.rc_context(drawing.STYLE):
        for name, (caption, draw) in DRAWINGS.items():
            try:
                found.append(Drawn(name, caption, drawing.save(draw(results), folder / name)))
            except Missing as missing:
                found.append(Drawn(name, caption, None, str(missing)))
    return found


def comparisons(results: Results) -> dict[str, dict[str, Variant]]:
    """Return the networks that were mitigated beside those without it, by these and then by mitigation.

    Raises:
        Missing: no network was mitigated.
    """
    found = {}
    for base in results.variants:
        mitigated = [v for v in results.variants if v.mitigation is not None and v.base == base.label]
        if mitigated:
            names = {v.label.removeprefix(f"{base.label} + "): v for v in mitigated}
            found[base.label] = {"without mitigation": base, **names}
    if not found:
        raise Missing("No network of the study was fine-tuned with mitigation.")
    return found


def rates(results: Results) -> dict[float, Variant]:
    """Return the tightest SNL network that the Lagrangian mitigated at several rates mu, by mu; 0 is without it.

    Raises:
        Missing: there is none.
    """
    for base in sorted(_linearized(results, "snl"), key=lambda v: v.relu_count):
        of_base = [(v, v.mitigation) for v in results.variants if v.mitigation and v.base == base.label]
        found = {float(how["rate"]): v for v, how in of_base if how["method"] == "lagrangian"}
        if len(found) > 1:
            return {0.0: base, **found}
    raise Missing("No SNL network was mitigated by the Lagrangian at two rates mu or more.")


def by_group_and_relus(results: Results, quantity: str) -> "Figure":
    """Draw a quantity of ``QUANTITIES`` against the ReLUs kept, a panel each group (Das et al. 2024, Fig. 3 and 4)."""
    variants = [results.variants[0], *_linearized(results)]
    mean, interval = _of_groups(results, variants, quantity)
    figure, panels = drawing.panels(_titles(results), QUANTITIES[quantity])
    for g, axes in enumerate(panels):
        _by_relus(axes, variants, (mean[:, g], Interval(interval.low[:, g], interval.high[:, g])), others=mean)
    drawing.scale(panels, "y")
    drawing.finish(figure, panels, "ReLUs kept")
    return figure


def global_accuracy(results: Results) -> "Figure":
    """Draw accuracy on all test images by ReLUs kept, DeepReDuce configurations named (Das et al. 2024, Fig. 5)."""
    _tightest(results)
    figure, grid = drawing.subplots(1, 1, 6.0, 3.8)
    axes, variants = grid[0, 0], [results.variants[0], *_linearized(results)]
    value = _over_seeds([v.accuracy for v in variants])
    x = _by_relus(axes, variants, value)
    axes.set_ylabel("accuracy on all test images")
    drawing.finish(figure, [axes], "ReLUs kept")
    names = [v.label.removeprefix("DeepReDuce ") if v.method == "deepreduce" else "" for v in variants]
    drawing.name_points(figure, axes, x, value[0], names)
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
    other = [v.label for v in _linearized(results) if v not in known]
    note = textwrap.wrap(f"Of another size, so without a distance: {', '.join(other)}", 150) if other else []
    names = [title.rsplit(" ", 1)[0] for title in _titles(results)]
    if len(names) > 10:  # too many to write beside their points
        note += textwrap.wrap(", ".join(f"{i}: {name}" for i, name in enumerate(names, 1)), 150)
        names = [str(i) for i in range(1, len(names) + 1)]
    figure, grid = drawing.subplots(1, 2 + bool(known), 4.0, 3.8 + 0.15 * len(note))
    if known:
        _by_relus(grid[0, 0], known, _over_seeds([v.parameter_distance for v in known]))
        grid[0, 0].set(xlabel="ReLUs kept", ylabel="parameter distance from the full network", ylim=(0, None))
        grid[0, 0].legend(loc="best")
    figure.supxlabel("\n".join(note), fontsize=8.5)
    drawing.group_legend(figure, results)
    measured, large = variant if effect == "accuracy" else results.variants[0], results.large[results.order]
    (y,), (low, high) = _of_groups(results, [variant], effect)
    for axes, cause in zip(grid[0, -2:], ("gradient_norm", "softmax_gap"), strict=True):
        (x,), (left, right) = _of_groups(results, [measured], cause)
        ends = np.nan_to_num(np.maximum([[y - low[0], high[0] - y], [x - left[0], right[0] - x]], 0))
        for chosen, color in ((large, drawing.LARGE), (~large, drawing.SMALL)):
            axes.errorbar(x[chosen], y[chosen], *ends[:, :, chosen], "o", color=color, markersize=5, linewidth=1)
        drawing.scale([axes], "x")
        axes.set(xlabel=f"{QUANTITIES[cause]},\n{measured.label}", ylabel=f"{QUANTITIES[effect]}, {variant.label}")
        drawing.name_points(figure, axes, x, y, names)
    return figure


def mitigation_by_group(results: Results, quantity: str) -> "Figure":
    """Draw a quantity of ``QUANTITIES`` by group with and without mitigation (Das et al. 2024, Fig. 9, 13 and 14)."""
    panels = comparisons(results)
    width = max(8.6, drawing.width_of_groups(results))
    labels = drawing.group_labels(results, width)
    figure, grid = drawing.subplots(len(panels), 1, width, 2.4 + labels.extra / len(panels), sharex=True, sharey=True)
    style = dict(zip(dict.fromkeys(name for compared in panels.values() for name in compared), cycle(SERIES)))
    for axes, (title, compared) in zip(grid[:, 0], panels.items(), strict=True):
        mean, interval = _of_groups(results, compared.values(), quantity)
        for i, name in enumerate(compared):
            x = np.arange(mean.shape[1]) + (i - (len(compared) - 1) / 2) * 0.7 / len(compared)
            drawing.errorbar(axes, x, mean[i], Interval(*(end[i] for end in interval)), *style[name], "none", name)
        axes.set_title(title, fontsize=9.5)
        axes.grid(visible=False, axis="x")
    drawing.scale(list(grid[:, 0]), "y")
    drawing.label_groups(grid[-1, 0], labels)
    figure.supylabel(QUANTITIES[quantity], fontsize=9.5)
    drawing.finish(figure, list(grid[:, 0]), "")
    return figure


def mitigation_by_rate(results: Results) -> "Figure":
    """Draw accuracy, on all test images and by group, against the multipliers' rate (Das et al. 2024, D.2)."""
    by_rate = dict(sorted(rates(results).items()))
    found = list(by_rate.values())
    mean, interval = _of_groups(results, found, "accuracy")
    everyone, ends = _over_seeds([variant.accuracy for variant in found])
    figure, panels = drawing.panels(["all test images", *_titles(results)], "accuracy")
    parts = [(everyone, *ends), *zip(mean.T, interval.low.T, interval.high.T, strict=True)]
    for i, (axes, (value, low, high)) in enumerate(zip(panels, parts, strict=True)):
        x, name = drawing.log_axis(axes, list(by_rate), "g"), "the panel's group" if i else "all test images"
        axes.plot(x, mean, color="#d6d6d6", zorder=1, label=["all groups"] + [""] * (mean.shape[1] - 1))
        drawing.errorbar(axes, x, value, Interval(low, high), *SERIES[i > 0], "-", name)
    drawing.finish(figure, panels, f"rate mu of the multipliers, {found[0].label} (0: without mitigation)")
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
    short = drawing.short_names(results)
    return [f"{short[g]} ({results.train_count[g]:,})" for g in results.order]


def _by_relus(axes: "Axes", variants: list[Variant], value: Value, others: np.ndarray | None = None) -> np.ndarray:
    """Draw a value of each variant and return where; SNL's and the full network's are joined, ``others`` in grey."""
    x, (mean, interval) = drawing.log_axis(axes, [v.relu_count for v in variants], ","), value
    path = [i for i in np.argsort(x, kind="stable") if variants[i].method != "deepreduce"]
    if others is not None:
        axes.plot(x[path], others[path], color="#d6d6d6", zorder=1, label=["all groups"] + [""] * (others.shape[1] - 1))
    axes.plot(x[path], mean[path], color=METHODS["snl"][1], linewidth=1.2, zorder=2)
    for method, (label, color, marker) in METHODS.items():
        if mine := [i for i, v in enumerate(variants) if v.method == method]:
            ends = Interval(interval.low[mine], interval.high[mine])
            drawing.errorbar(axes, x[mine], mean[mine], ends, color, marker, "none", label)
    return x


BARS = "Bars: 95 % t intervals over seeds."
MITIGATED = "of each group with and without fine-tuning against unequal losses, a panel each network."
# fmt: off
DRAWINGS: dict[str, tuple[str, Callable[[Results], "Figure"]]] = {
    "fig3_gradient_norm": (
        f"Fig. 3: gradient norm of each group by the number of ReLUs kept. {BARS}",
        partial(by_group_and_relus, quantity="gradient_norm")),
    "fig4_top_eigenvalue": (
        f"Fig. 4: largest Hessian eigenvalue of each group by the number of ReLUs kept. {BARS}",
        partial(by_group_and_relus, quantity="top_eigenvalue")),
    "fig5_global_accuracy": (
        f"Fig. 5: accuracy on all test images by the number of ReLUs kept; names are DeepReDuce's. {BARS}",
        global_accuracy),
    "fig8_accuracy": (
        "Fig. 8: parameter distance from the full network by the number of ReLUs kept; accuracy of each group at the "
        f"tightest budget against its gradient norm and its distance to the boundary there. {BARS}",
        partial(distance_and_causes, effect="accuracy")),
    "fig8_drop": (
        "Fig. 8, as Theorem 4.4 has it: what each group loses against its gradient norm and its distance to the "
        "boundary on the full network. Bars: 95 % intervals over seeds, those of the drop over test images too.",
        partial(distance_and_causes, effect="drop")),
    "fig9_mitigation_accuracy": (
        f"Fig. 9: accuracy {MITIGATED} {BARS}", partial(mitigation_by_group, quantity="accuracy")),
    "fig9_mitigation_drop": (
        f"Fig. 9: relative accuracy drop {MITIGATED} Bars: 95 % intervals over seeds and test images together.",
        partial(mitigation_by_group, quantity="drop")),
    "fig13_mitigation_gradient_norm": (
        f"Fig. 13: gradient norm {MITIGATED} {BARS}", partial(mitigation_by_group, quantity="gradient_norm")),
    "fig14_mitigation_distance": (
        f"Fig. 14: distance to the decision boundary {MITIGATED} {BARS}",
        partial(mitigation_by_group, quantity="softmax_gap")),
    "figD2_mitigation_rate": (
        f"Fig. D.2: accuracy by the rate mu of the multipliers, on all test images and of each group. {BARS}",
        mitigation_by_rate),
}
# fmt: on
