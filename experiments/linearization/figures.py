"""Figures of a study, from finished analyses only; what cannot be drawn says why.

``DRAWINGS`` are what every reader sees first, ``PAPER`` the other figures of Das et al. 2024. Every point has its
interval where there are several seeds.
"""

import textwrap
from collections.abc import Collection, Sequence
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.analyses import figures, quantities
from experiments.analyses.results import Results, Variant
from experiments.reporting import drawing, series
from experiments.reporting.drawing import BARS, IMAGES, LOOKS, OVER_SEEDS, PALE, Drawing, Points
from experiments.reporting.series import Estimate, over_seeds
from experiments.reporting.verdicts import Missing
from experiments.running.settings import FURTHER
from jaxfair.errors import JaxfairError
from jaxfair.intervals import FEW

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAMILIES = {
    "snl": ("Blues", "o"),
    "deepreduce": ("Oranges", "D"),
    "control": ("Purples", "v"),
    "random": ("Greens", "^"),
}
METHODS = {"full": ("full network", *LOOKS[0]), "snl": ("SNL", *LOOKS[1]), "deepreduce": ("DeepReDuce", *LOOKS[2])}
METHODS_NAMED = {
    **{method: METHODS[method][0] for method in ("snl", "deepreduce")},
    "senet": "SENet",
    "bcd": "BCD",
    "snl-balanced": "SNL (balanced)",
    "senet-balanced": "SENet (balanced)",
    "bcd-loss": "BCD (loss)",
    "bcd-worst-group": "BCD (worst group)",
    "bcd-cvar": "BCD (CVaR)",
    "random-matched": "random ReLUs, trained as SNL",
    "random": "random ReLUs",
}
"""All that keep some of the ReLUs, in the order of the figure that compares them."""
QUANTITIES = {
    "accuracy": "accuracy",
    "drop": figures.DROP_LABEL,
    "gradient_norm": "gradient norm",
    "top_eigenvalue": "largest Hessian eigenvalue",
    "softmax_gap": "distance to the boundary (softmax gap)",
}


def accuracy_by_budget(results: Results) -> "Figure":
    """Draw accuracy of all, large and small groups against the ReLUs kept (Das et al. 2024, Fig. 5)."""
    figure, grid = drawing.subplots(1, 1, 5.6, 3.4)
    axes, variants = grid[0, 0], sorted(results.variants, key=lambda v: v.relu_count)
    at = drawing.log_axis(axes, [v.relu_count for v in variants], ",")
    families = (("SNL", ("full", "snl"), "o", "-"), ("DeepReDuce", ("deepreduce",), "D", "none"))
    shown: list[tuple[Any, ...]] = []
    for part in results.groups.parts:
        for method, of, marker, line in families:
            chosen = [(i, v) for i, v in enumerate(variants) if v.method in of]
            of_method = method if any(v.method != "full" for _, v in chosen) else "full network"
            shown.append((part, of_method, marker, line, chosen))
        alike = [(i, v.control) for i, v in enumerate(variants) if v.method == "snl" and v.control is not None]
        shown.append((part, "trained as SNL with all ReLUs", "_", ":", alike))
    shown = [row for row in shown if row[-1]]
    for (part, method, marker, line, chosen), x in zip(shown, drawing.places_beside(at, len(shown)), strict=True):
        values = [quantities.accuracy(results, v, np.flatnonzero(part.members)) for _, v in chosen]
        place, name = x[[i for i, _ in chosen]], f"{part.name}, {method}"
        drawing.errorbar(axes, place, series.stack(values), part.color, marker, line, name)
    axes.set_xlabel("ReLUs kept")
    axes.set_ylabel("mean accuracy of the groups")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def accuracy_by_method(results: Results) -> "Figure":
    """Draw accuracy on all test images and in the worst group against the ReLUs kept, a line each method."""
    found = {method: _linearized(results, method) for method in METHODS_NAMED}
    found = {method: several for method, several in found.items() if several}
    if not found:
        raise Missing("No network of the study is linearized.")
    full, shown = results.variants[0], [v for several in found.values() for v in several]
    figure, grid = drawing.subplots(1, 2, 4.6, 3.8)
    worst = partial(quantities.worst_accuracy, results)
    titles = {"all test images": quantities.whole_accuracy, "the worst group": worst}
    for axes, (title, value) in zip(grid[0], titles.items(), strict=True):
        places = drawing.log_axis(axes, [v.relu_count for v in [full, *shown]], ",")
        labels, beside = [v.label for v in [full, *shown]], drawing.places_beside(places, len(found))
        drawing.errorbar(axes, places[:1], series.stack([value(full)]), *LOOKS[0], label="full network")
        for (method, several), look, at in zip(found.items(), LOOKS[1:], beside, strict=False):
            several = sorted(several, key=lambda v: v.relu_count)
            line = "none" if method == "deepreduce" else "-"
            x, points = at[[labels.index(v.label) for v in several]], series.stack([value(v) for v in several])
            drawing.errorbar(axes, x, points, *look, line, METHODS_NAMED[method], 4.0)
        axes.set_title(title, fontsize=9.5)
    grid[0, 0].set_ylabel("accuracy")
    drawing.finish(figure, list(grid[0]), "ReLUs kept")
    return figure


def harm_by_training(results: Results) -> "Figure":
    """Draw the accuracy of large and small groups after so many epochs of fine-tuning, linearized and not."""
    if not results.followed:
        raise Missing("No fine-tuning was followed through its epochs; give --follow.")
    parts = results.groups.parts
    figure, grid = drawing.subplots(1, len(parts), 4.2, 3.6, sharey=True)
    panels = list(grid[0])
    for axes, part in zip(panels, parts, strict=True):
        axes.set_title(part.name, fontsize=9.5)
        at = drawing.log_axis(axes, [int(epoch) for epoch in results.followed[0].epochs], ",")
        for of, look, x in zip(results.followed, cycle(LOOKS), drawing.places_beside(at, len(results.followed))):
            seen = [results.variants[0]._replace(correct=correct) for correct in of.correct]
            points = [quantities.accuracy(results, network, np.flatnonzero(part.members)) for network in seen]
            line = "--" if of.method == "matched" else "-"
            drawing.errorbar(axes, x, series.stack(points), *look, line, label=of.label)
    panels[0].set_ylabel("mean accuracy of the groups")
    drawing.finish(figure, panels, "epochs of fine-tuning")
    return figure


def curvature_by_group(results: Results) -> "Figure":
    """Draw gradient norm, largest Hessian eigenvalue and boundary distance by group (Das et al. 2024, Fig. 3, 4, 8).

    Mitigated networks are in ``mitigation_by_group``.
    """
    labels = {
        "gradient_norm": "gradient norm",
        "top_eigenvalue": "largest Hessian\neigenvalue",
        "softmax_gap": "distance to the boundary\n(softmax gap)",
    }
    figure, grid = drawing.group_panels(results.groups, len(labels), height=2.2)
    apart = ("mitigated", "matched", "random-matched", *FURTHER)
    variants = [variant for variant in results.variants if variant.method not in apart]
    for axes, (name, label) in zip(grid[:, 0], labels.items(), strict=True):
        looks = [(variant.title, *_look(results, variant)) for variant in variants]
        values = [quantities.measured(variant, name, results) for variant in variants]
        drawing.by_group(axes, results.groups, [Points(*look, v) for look, v in zip(looks, values, strict=True)])
        axes.set_ylabel(label)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _look(results: Results, variant: Variant) -> tuple[object, str]:
    """Return colour and marker: a method's networks have one marker, and the first of them is the darkest."""
    import matplotlib as mpl

    if variant.method == "full":
        return "#222222", "s"
    family = [v.label for v in results.variants if v.method == variant.method]
    shade = 0.85 - 0.5 * family.index(variant.label) / max(len(family) - 1, 1)
    colors, marker = FAMILIES.get(variant.method, ("Greys", "P"))
    return mpl.colormaps[colors](shade), marker


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
    value = _of_groups(results, variants, quantity)
    figure, panels = drawing.panels(results.groups.titles, QUANTITIES[quantity])
    for axes, g in zip(panels, results.groups.order, strict=True):
        _by_relus(axes, variants, value.at(np.s_[:, g]), others=value.mean)
    drawing.scale(panels, "y")
    drawing.finish(figure, panels, "ReLUs kept")
    return figure


def global_accuracy(results: Results) -> "Figure":
    """Draw accuracy on all test images by ReLUs kept, DeepReDuce configurations named (Das et al. 2024, Fig. 5)."""
    _tightest(results)
    figure, grid = drawing.subplots(1, 1, 6.0, 3.8)
    axes, variants = grid[0, 0], [results.variants[0], *_linearized(results)]
    value = series.stack([quantities.whole_accuracy(v) for v in variants])
    x = _by_relus(axes, variants, value)
    axes.set_ylabel("accuracy on all test images")
    drawing.finish(figure, [axes], "ReLUs kept")
    names = [v.label.removeprefix("DeepReDuce ") if v.method == "deepreduce" else "" for v in variants]
    drawing.name_points(figure, axes, x, value.mean, names)
    return figure


def distance_and_causes(results: Results, effect: str, variant: Variant | None = None) -> "Figure":
    """Draw ||theta_r - theta|| by ReLUs kept, and what groups lose against its causes (Das et al. 2024, Fig. 8).

    Args:
        results: of a study.
        effect: "accuracy", against causes on the same network, or "drop", against those on the full one (Thm 4.4).
        variant: whose groups are shown; by default that with the fewest ReLUs, of SNL's if there are any.
    """
    variant, groups = variant or _tightest(results), results.groups
    known = [v for v in _linearized(results) if np.isfinite(v.parameter_distance).all()]
    other = [v.label for v in _linearized(results) if v not in known]
    note = textwrap.wrap(f"Of another size, so without a distance: {', '.join(other)}", 150) if other else []
    names, who = drawing.point_names(groups)
    note += who
    figure, grid = drawing.subplots(1, 2 + bool(known), 4.0, 3.8 + 0.15 * len(note))
    if known:
        _by_relus(grid[0, 0], known, series.stack([over_seeds(v.parameter_distance, "positive") for v in known]))
        grid[0, 0].update_datalim([(0, 0)], updatex=False)  # before the margin, or points would touch the upper edge
        grid[0, 0].set(xlabel="ReLUs kept", ylabel="parameter distance from the full network", ylim=(0, None))
        grid[0, 0].legend(loc="best")
    figure.supxlabel("\n".join(note), fontsize=8.5)
    drawing.group_legend(figure, groups)
    measured = variant if effect == "accuracy" else results.variants[0]
    y = _of_groups(results, [variant], effect).at(0)
    for axes, cause in zip(grid[0, -2:], ("gradient_norm", "softmax_gap"), strict=True):
        x = _of_groups(results, [measured], cause).at(0)
        drawing.scatter(axes, groups, x, y)
        drawing.scale([axes], "x")
        axes.set(xlabel=f"{QUANTITIES[cause]},\n{measured.label}", ylabel=f"{QUANTITIES[effect]},\n{variant.label}")
        drawing.name_points(figure, axes, x.mean, y.mean, names)
    return figure


def mitigation_by_group(results: Results, quantity: str) -> "Figure":
    """Draw a quantity of ``QUANTITIES`` by group with and without mitigation (Das et al. 2024, Fig. 9, 13 and 14)."""
    compared = comparisons(results)
    figure, panels, _ = drawing.panel_each(results.groups, len(compared))
    looks = dict(zip(dict.fromkeys(name for variants in compared.values() for name in variants), cycle(LOOKS)))
    for axes, (title, variants) in zip(panels, compared.items(), strict=True):
        value = _of_groups(results, variants.values(), quantity)
        rows = [Points(name, *looks[name], value.at(i)) for i, name in enumerate(variants)]
        drawing.by_group(axes, results.groups, rows)
        axes.set_title(title, fontsize=9.5)
    if quantity != "accuracy":  # a share of all images, in which 0.1 and 0.01 are nearly the same
        drawing.scale(panels, "y")
    drawing.label_side(figure, QUANTITIES[quantity])
    drawing.finish(figure, panels, "")
    return figure


def mitigation_by_rate(results: Results) -> "Figure":
    """Draw accuracy, on all test images and by group, against the multipliers' rate (Das et al. 2024, D.2)."""
    by_rate = dict(sorted(rates(results).items()))
    found = list(by_rate.values())
    value = _of_groups(results, found, "accuracy")
    everyone = series.stack([quantities.whole_accuracy(variant) for variant in found])
    figure, panels = drawing.panels(["all test images", *results.groups.titles], "accuracy")
    of_groups = [value.at(np.s_[:, g]) for g in results.groups.order]
    for i, (axes, part) in enumerate(zip(panels, [everyone, *of_groups], strict=True)):
        x, name = drawing.log_axis(axes, list(by_rate), "g"), "the panel's group" if i else "all test images"
        _in_grey(axes, x, value.mean)
        drawing.errorbar(axes, x, part, *LOOKS[i > 0], "-", name)
    drawing.finish(figure, panels, f"rate mu of the multipliers, {found[0].label} (0: without mitigation)")
    return figure


def _linearized(results: Results, *methods: str) -> list[Variant]:
    """Networks that the papers compare, of all methods or of some; mitigated ones have figures of their own."""
    return [variant for variant in results.variants[1:] if variant.method in (methods or METHODS)]


def _tightest(results: Results) -> Variant:
    if found := _linearized(results, "snl") or _linearized(results):
        return min(found, key=lambda v: v.relu_count)
    raise Missing("No network of the study is linearized.")


def _of_groups(results: Results, variants: Collection[Variant], quantity: str) -> Estimate:
    """Return a quantity of each variant and group, shape (variants, groups)."""
    for variant in variants:
        if variant.seeds != results.variants[0].seeds:
            raise JaxfairError(f"'{variant.label}' has other seeds than the full network; compare the same seeds.")
        stored = "relative_drop_percent" if quantity == "drop" else quantity
        if not np.isfinite(variant.by_group.get(stored, np.nan)).all(axis=0).any():
            raise Missing(f"The analyses of '{variant.label}' have no finite {stored} for any group.")
    if quantity == "drop":
        return series.stack([quantities.drops(results, variant) for variant in variants])
    if quantity == "accuracy":
        return series.stack([quantities.accuracies(results, variant) for variant in variants])
    return series.stack([quantities.measured(variant, quantity, results) for variant in variants])


def _by_relus(axes: "Axes", variants: Sequence[Variant], value: Estimate, others: Any = None) -> np.ndarray:
    """Draw a value of each variant and return where; SNL's and the full network's are joined, ``others`` in grey.

    Where SNL and DeepReDuce keep as many ReLUs they stand side by side.
    """
    at = drawing.log_axis(axes, [v.relu_count for v in variants], ",")
    fresh = np.array([v.method == "deepreduce" for v in variants])
    x = drawing.places_beside(at, 2)[fresh.astype(int), np.arange(len(at))] if fresh.any() and not fresh.all() else at
    path = [i for i in np.argsort(x, kind="stable") if not fresh[i]]
    if others is not None:
        _in_grey(axes, x[path], others[path])
    axes.plot(x[path], value.mean[path], color=METHODS["snl"][1], linewidth=1.2, zorder=2)
    for method, (label, color, marker) in METHODS.items():
        if mine := [i for i, v in enumerate(variants) if v.method == method]:
            drawing.errorbar(axes, x[mine], value.at(mine), color, marker, label=label)
    return x


def _in_grey(axes: "Axes", x: np.ndarray, values: np.ndarray) -> None:
    """Draw a line each group, shape (points, groups), behind what a panel is about."""
    axes.plot(x, values, color=PALE, zorder=1, label=["all groups"] + [""] * (values.shape[1] - 1))


DISTANCES = (
    f"{OVER_SEEDS}, of distances over test images too, but for groups of fewer than {FEW} in all, which have none."
)
MITIGATED = "of each group with and without fine-tuning against unequal losses, a panel each network"
# fmt: off
DRAWINGS = {
    **figures.DRAWINGS,
    "accuracy_by_budget": Drawing(
        "Mean accuracy of the large and the small groups by the number of ReLUs kept", IMAGES, accuracy_by_budget),
    "accuracy_by_method": Drawing(
        "Accuracy on all test images, and in the worst group of each seed, by method and the number of ReLUs kept",
        f"{IMAGES} The worst group is picked by other images than those it is measured on, as by these it looks worse; "
        "where groups of few images are about as accurate it may be another one, which is better.",
        accuracy_by_method),
    "harm_by_training": Drawing(
        "Accuracy of the large and the small groups by the epochs of fine-tuning, linearized and with all ReLUs",
        f"One long fine-tuning, looked at on the way. {IMAGES}", harm_by_training),
    "curvature_by_group": Drawing(
        "What the papers hold responsible: gradient norm, largest Hessian eigenvalue and distance to the decision "
        "boundary of every group, for the full and the linearized networks", DISTANCES, curvature_by_group),
}
PAPER = {
    "fig3_gradient_norm": Drawing(
        "Fig. 3: gradient norm of each group by the number of ReLUs kept", BARS,
        partial(by_group_and_relus, quantity="gradient_norm")),
    "fig4_top_eigenvalue": Drawing(
        "Fig. 4: largest Hessian eigenvalue of each group by the number of ReLUs kept", BARS,
        partial(by_group_and_relus, quantity="top_eigenvalue")),
    "fig5_global_accuracy": Drawing(
        "Fig. 5: accuracy on all test images by the number of ReLUs kept",
        f"Points with names are DeepReDuce's. {IMAGES}",
        global_accuracy),
    "fig8_accuracy": Drawing(
        "Fig. 8: parameter distance from the full network by the number of ReLUs kept; accuracy of each group at the "
        "tightest budget against its gradient norm and its distance to the boundary there",
        f"{OVER_SEEDS}, those of accuracies and distances over test images too.",
        partial(distance_and_causes, effect="accuracy")),
    "fig8_drop": Drawing(
        "Fig. 8, as Theorem 4.4 has it: what each group loses against its gradient norm and its distance to the "
        "boundary on the full network",
        f"Drops are counted from the full network. {OVER_SEEDS}, those of drops and distances over test images too.",
        partial(distance_and_causes, effect="drop")),
    "fig9_mitigation_accuracy": Drawing(
        f"Fig. 9: accuracy {MITIGATED}", IMAGES, partial(mitigation_by_group, quantity="accuracy")),
    "fig9_mitigation_drop": Drawing(
        f"Fig. 9: relative accuracy drop {MITIGATED}",
        f"Drops are counted from the full network. {IMAGES}", partial(mitigation_by_group, quantity="drop")),
    "fig13_mitigation_gradient_norm": Drawing(
        f"Fig. 13: gradient norm {MITIGATED}", BARS, partial(mitigation_by_group, quantity="gradient_norm")),
    "fig14_mitigation_distance": Drawing(
        f"Fig. 14: distance to the decision boundary {MITIGATED}", DISTANCES,
        partial(mitigation_by_group, quantity="softmax_gap")),
    "figD2_mitigation_rate": Drawing(
        "Fig. D.2: accuracy by the rate mu of the multipliers, on all test images and of each group", IMAGES,
        mitigation_by_rate),
}
# fmt: on
