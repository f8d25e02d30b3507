"""Who lost more than whom, network by network: the differences of ``reporting.comparisons`` of a study's results.

What a group lost is counted from the network's control, which was trained as it was with all its ReLUs, where the study
has it, and from the full network otherwise. So what further training does is not taken for what the change does.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.analyses.quantities import drop_contrast, drop_values, has_drop, points_lost
from experiments.analyses.results import Results, Variant
from experiments.reporting import comparisons, series
from experiments.reporting.comparisons import SELDOM, Difference, compare
from experiments.reporting.series import UNKNOWN, Estimate
from experiments.reporting.verdicts import Missing, order_beyond_noise
from jaxfair.judging import LEVEL, SEEDS, Judged, judge_together
from jaxfair.paired import extremes


@functools.lru_cache(maxsize=256)
def differences(results: Results, network: Variant) -> tuple[Difference, ...]:
    """Compare every group that has a relative drop with the reference group, from the one that lost most.

    Raises:
        Missing: there is nothing to compare.
    """
    reference, known = results.reference, has_drop(network)
    if not known[reference]:
        name = results.groups.names[reference]
        raise Missing(f"the full network or a control is {SELDOM} in group {name}, the reference; name another one")
    others = [int(g) for g in np.flatnonzero(known) if g != reference]
    if not others:
        raise Missing("there is no second group to compare with")
    estimates = [drop_contrast(results, (network, _unit(results, g) - _unit(results, reference))) for g in others]
    return compare(others, estimates, _lost(network, others, results.reference), len(network.seeds))


@functools.lru_cache(maxsize=256)  # each suspect asks again
def order_of_drops(results: Results, network: Variant) -> np.ndarray:
    """Return the order of the groups that have a drop by what they lost beyond noise (``order_beyond_noise``)."""
    known = [_unit(results, int(g)) for g in np.flatnonzero(has_drop(network))]
    return order_beyond_noise(len(known), lambda a, b: drop_contrast(results, (network, known[a] - known[b])))


def worst(results: Results, network: Variant) -> tuple[int, Estimate]:
    """Return the group that lost most and its relative drop, with an interval that allows for having been picked."""
    known = np.flatnonzero(has_drop(network))
    if not len(known):
        raise Missing(f"the full network of some seed is {SELDOM} in every group")
    group, _ = _ends(results, network, known)
    drop = drop_contrast(results, (network, _unit(results, group)))
    return group, series.of(drop, "percent", 1 - LEVEL / len(known))


def largest_gap(results: Results, network: Variant) -> tuple[int, int, Judged]:
    """Return the groups that lost most and least and the difference, which allows for the choice of the pair."""
    known = np.flatnonzero(has_drop(network))
    if len(known) < 2:
        raise Missing("there is no second group to compare with")
    most, least = _ends(results, network, known)
    gap = drop_contrast(results, (network, _unit(results, most) - _unit(results, least)))
    pairs = len(known) * (len(known) - 1) // 2
    return most, least, judge_together([gap], len(network.seeds), among=pairs)[0]


def _ends(results: Results, network: Variant, known: np.ndarray) -> tuple[int, int]:
    """Return the numbers of the groups that lost most and least, of those with a drop."""
    lost = drop_values(network, controlled=True)[:, known].mean(axis=0)
    most, least = extremes(lost, results.groups.test_count[known])
    return int(known[most]), int(known[least])


def nothing_to_explain(results: Results, network: Variant) -> str:
    """Say so if groups do not differ in what they lost beyond noise and the controls; empty if they do, or who knows.

    Where a trained network has no control that was trained alike, it is the full network with the fine-tuning alone, if
    the study has that.
    """
    alone = network.control is None and "saves" not in network.about  # what saves weights or bits names its control
    controls = [v for v in results.variants if v.method == "control" and alone][:1]
    known, reference = has_drop(network), results.reference
    others = [int(g) for g in np.flatnonzero(known) if g != reference]
    if not known[reference] or not others:
        return ""
    apart = [_unit(results, g) - _unit(results, reference) for g in others]
    found = [drop_contrast(results, (network, by), *((control, -by) for control in controls)) for by in apart]
    seeds = len(network.seeds)
    if seeds >= SEEDS and any(of.verdict in ("more", "less") for of in judge_together(found, seeds)):
        return ""
    than = " than they do in the control" if controls else ""
    return f"no group lost more or less than {results.groups.names[reference]}, beyond noise{than}"


GAPS = {"more": "beyond noise", "less": "beyond noise", "within noise": "within noise", "too few": "too few seeds"}
"""What is said of the largest gap between two groups, by its verdict."""
ALIKE = "none: all alike"


def _lost(network: Variant, groups: Sequence[int], reference: int) -> list[tuple[float, float]]:
    """Return the relative drops of each group and of the reference, in percent."""
    drop = drop_values(network, controlled=True).mean(axis=0)
    return [(float(drop[g]), float(drop[reference])) for g in groups]


def _unit(results: Results, group: int) -> np.ndarray:
    return np.eye(len(results.groups.names))[group]


def rows(results: Results) -> list[dict[str, Any]]:
    """Return one row a changed network and group, as ``differences`` orders them; none where there are none."""
    names, found = results.groups.names, []
    for network in results.variants[1:]:
        try:
            compared = differences(results, network)
        except Missing:
            continue
        for of in compared:
            row: dict[str, Any] = {"network": network.label, "relus": network.relu_count, "group": names[of.group]}
            row |= {"reference": names[results.reference], "seeds": len(network.seeds), "difference_points": of.points}
            found.append(row | {"p_value": of.p_value, "corrected": of.corrected, "lost": of.verdict})
    return found


def extreme_rows(results: Results) -> list[dict[str, Any]]:
    """Return one row a changed network: the group that lost most, and the largest gap between two."""
    names, found = results.groups.names, []
    for network in results.variants[1:]:
        try:
            group, drop = worst(results, network)
        except Missing:
            continue
        row: dict[str, Any] = {"network": network.label, "relus": network.relu_count, "worst_group": names[group]}
        row |= {"worst_drop_percent": drop, "least_lost": "", "gap_points": UNKNOWN, "gap": ""}
        if has_drop(network).sum() > 1:
            _, least, gap = largest_gap(results, network)
            verdict = "too few seeds" if len(network.seeds) < SEEDS else GAPS[gap.verdict]
            row |= {"least_lost": names[least], "gap_points": Estimate(gap.value, gap.low, gap.high), "gap": verdict}
            if not gap.value:  # which of them would be chance
                row |= {"worst_group": ALIKE, "least_lost": ALIKE}
        found.append(row)
    return found


def without_drop(results: Results) -> list[str]:
    """Return the groups of which nothing is known: the full network of some seed is right too seldom."""
    lost = np.any([~has_drop(network) for network in results.variants], axis=0)
    return [results.groups.names[g] for g in results.groups.order if lost[g]]


def answer(results: Results, network: Variant, *more: str) -> str:
    """Say in two sentences who lost more than whom at a network; what else there is has a paragraph of its own."""
    try:
        found = differences(results, network)
    except Missing as missing:
        return f"At {network.label}, nobody can be said to lose more than others. The reason: {missing}."
    names, alike = results.groups.names, network.control is not None
    at = f"At {network.label}" + ", against the full network trained alike" * alike
    said = comparisons.answer(found, names, results.reference, len(network.seeds), at)
    unknown = [int(g) for g in results.groups.order if not has_drop(network)[g]]
    which = f"the full network{' or the control' if alike else ''} of some seed"
    lost = comparisons.in_points({names[g]: points_lost(results, network, g) for g in unknown}, which)
    return comparisons.paragraphs(said, lost, *more)
