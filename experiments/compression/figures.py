"""Figures of a compression study, from finished analyses only; what cannot be drawn says why."""

import textwrap
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from experiments.analyses import figures, quantities
from experiments.analyses.results import Results, Variant
from experiments.compression.claims import FAMILIES, kept, networks
from experiments.reporting import drawing, series
from experiments.reporting.drawing import GREY, IMAGES, LOOKS, PALE, Drawing
from experiments.reporting.verdicts import Missing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHANGES = {
    "snl": "SNL: ReLUs",
    "deepreduce": "DeepReDuce: ReLUs",
    "pruned-global-tuned": "pruned at once: weights",
    "pruned-layer-tuned": "pruned by layer: weights",
    "pruned-gradual-tuned": "pruned gradually: weights",
    "quantized": "quantized, not trained: bits of a weight",
    "format": "float format, not trained: bits of a weight",
}
"""Changes by method, and what of the network they save."""


def saving(network: Variant) -> float:
    """Return the share that is kept of what a network saves: of its ReLUs, its weights, or their 32 bits."""
    return kept(network) if "saves" in network.about else network.relu_count / network.unit_count


def changes_side_by_side(results: Results) -> "Figure":
    """Draw what large and small groups lose against the share that each kind of change keeps of what it saves."""
    found = {method: [v for v in results.variants if v.method == method] for method in CHANGES}
    looks, found = dict(zip(CHANGES, LOOKS, strict=False)), {method: of for method, of in found.items() if of}
    if not found:
        raise Missing("No network of the study is changed.")
    shown = [network for several in found.values() for network in several]
    parts = results.groups.parts
    figure, grid = drawing.subplots(1, len(parts), 9.6 / len(parts), 4.2, sharey=True)
    for axes, part in zip(grid[0], parts, strict=True):
        at = drawing.log_axis(axes, [100 * saving(v) for v in shown], ".3g")
        members = np.flatnonzero(part.members)
        for (method, several), x in zip(found.items(), drawing.places_beside(at, len(found)), strict=True):
            path = sorted(several, key=saving)
            lost = [quantities.joint_drop(results, v, members, controlled=True) for v in path]
            line, places = "none" if method == "deepreduce" or len(path) == 1 else "-", [shown.index(v) for v in path]
            drawing.errorbar(axes, x[places], series.stack(lost), *looks[method], line, CHANGES[method])
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.set_title(part.name, fontsize=9.5)
    grid[0, 0].set_ylabel(figures.HARM_LABEL)
    drawing.finish(figure, list(grid[0]), "share kept of what the legend names, of bits: of 32 (%)")
    return figure


def foretold_and_actual(results: Results) -> "Figure":
    """Draw the rise of each group's loss against what both terms foretell, a panel each network without training.

    Seeds stand apart, since each has a change of its own; the table beside has the intervals over them.
    """
    shown = [network for family in FAMILIES.values() for network in _raw(results, family.raw)]
    if not shown:
        raise Missing("No network was compressed without training, so that nothing is foretold of it.")
    figure, panels = drawing.filled(len(shown), 4, 2.9, 2.7)
    for axes, network in zip(panels, shown, strict=True):
        foretold, rise = network.by_group["first_term"] + network.by_group["second_term"], network.by_group["loss_rise"]
        for part in results.groups.parts:
            x, y = foretold[:, part.members].ravel(), rise[:, part.members].ravel()
            drawing.errorbar(axes, x, y, part.color, size=3.5)
        ends = [min(foretold.min(), rise.min()), max(foretold.max(), rise.max())]
        axes.plot(ends, ends, color=PALE, linewidth=1.2, zorder=1)
        axes.set_title("\n".join(textwrap.wrap(network.title, 28)), fontsize=9.5)
        axes.locator_params(nbins=4)
    drawing.group_legend(figure, results.groups)
    figure.supxlabel("what both terms foretell (nats)", fontsize=9.5)
    figure.supylabel("rise of the loss (nats)", fontsize=9.5)
    return figure


def _raw(results: Results, method: str) -> list[Variant]:
    """Return the networks of a method that are expanded, from the weakest change to the strongest."""
    try:
        found = networks(results, method)
    except Missing:
        return []
    return [network for network in reversed(found) if "loss_rise" in network.by_group]


def strongest(results: Results) -> Results:
    """Return the full network and, of every method, the network that keeps least: so many fit on a page."""
    full, *others = results.variants
    found = {}
    for network in others:
        if network.method in CHANGES and not network.base:
            best = found.get(network.method, network)
            found[network.method] = min(best, network, key=saving)
    return results._replace(variants=(full, *found.values()))


def _of_strongest(results: Results, name: str) -> "Figure":
    return figures.DRAWINGS[name].draw(strongest(results))


# fmt: off
DRAWINGS = {
    "differences_by_group": Drawing(
        "Who lost more than whom at the strongest change of each kind: drop of each group minus that of the reference",
        figures.DRAWINGS["differences_by_group"].rest, partial(_of_strongest, name="differences_by_group")),
    "changes_side_by_side": Drawing(
        "All changes side by side: what large and small groups lose, from the network trained alike without the change",
        "To the right little is saved. Shares of ReLUs, of weights and of bits are of different worth, and fine-tuning "
        f"is of different length; compare within a kind. {IMAGES}", changes_side_by_side),
    "foretold_and_actual": Drawing(
        "Change of each group's loss: what the gradient and the Hessian of the full network foretell, and what came",
        "A point is a group of one seed; on the line both agree. Networks before any training. ReLU kinks make the "
        "Hessian miss some of the change (arXiv 2411.16914). R2 with its interval is in the table.",
        foretold_and_actual),
    "accuracy_drop_by_group": Drawing(
        "Relative accuracy drop of each group against the full network of the same seed, at the strongest changes",
        figures.DRAWINGS["accuracy_drop_by_group"].rest, partial(_of_strongest, name="accuracy_drop_by_group")),
    "harm_by_imbalance": figures.DRAWINGS["harm_by_imbalance"],
}
# fmt: on
