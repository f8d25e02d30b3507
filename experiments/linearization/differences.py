"""Who lost more than whom: differences of groups' relative drops, corrected for how many of them are looked at.

All intervals are over seeds and test images together, at the level 1 - 0.05 / k of k comparisons (Bonferroni), so that
all k hold at once with 95 % and one may be picked among them; p-values are corrected by Holm (1979).
"""

import functools
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.linearization.results import DROP, Results, Variant, drop_contrast
from experiments.reporting import series
from experiments.reporting.series import UNKNOWN, Estimate
from experiments.reporting.verdicts import LEVEL, SEEDS, Missing
from jaxfair.intervals import holm

Verdict = Literal["more", "less", "within noise", "too few seeds"]
NAMED = 3  # groups that the answer names; the others are counted


class Difference(NamedTuple):
    """What a group lost beyond the reference group.

    Attributes:
        group: by number.
        points: its relative drop less that of the reference, in percentage points.
        p_value: two-sided, of Student's t test that it is 0.
        corrected: the same by Holm's correction for all groups of the network.
        verdict: more or less: the interval is wholly on that side of 0, and the corrected p-value below 5 %.
    """

    group: int
    points: Estimate
    p_value: float
    corrected: float
    verdict: Verdict


@functools.lru_cache(maxsize=256)
def differences(results: Results, network: Variant) -> tuple[Difference, ...]:
    """Compare every group that has a relative drop with the reference group, from the one that lost most.

    Raises:
        Missing: there is nothing to compare.
    """
    reference, known = results.reference, _known(network)
    if not known[reference]:
        name = results.groups.names[reference]
        raise Missing(f"the full network of some seed is never right in group {name}, the reference; name another one")
    others = [int(g) for g in np.flatnonzero(known) if g != reference]
    if not others:
        raise Missing("there is no second group to compare with")
    estimates = [drop_contrast(results, (network, _unit(results, g) - _unit(results, reference))) for g in others]
    p_values = [float(estimate.p_value()) for estimate in estimates]
    found = []
    for g, estimate, p, corrected in zip(others, estimates, p_values, holm(np.array(p_values)), strict=True):
        points = series.of(estimate, level=1 - LEVEL / len(others))
        verdict: Verdict = "within noise"
        if len(network.seeds) < SEEDS:
            verdict = "too few seeds"
        elif corrected < LEVEL and (points.low > 0 or points.high < 0):
            verdict = "more" if points.low > 0 else "less"
        found.append(Difference(g, points, p, float(corrected), verdict))
    return tuple(sorted(found, key=lambda difference: -difference.points.mean))


def worst(results: Results, network: Variant) -> tuple[int, Estimate]:
    """Return the group that lost most and its relative drop, with an interval that allows for having been picked."""
    known = np.flatnonzero(_known(network))
    if not len(known):
        raise Missing("the full network of some seed is never right in any group")
    group = int(known[np.argmax(network.by_group[DROP][:, known].mean(axis=0))])
    drop = drop_contrast(results, (network, _unit(results, group)))
    return group, series.of(drop, "percent", 1 - LEVEL / len(known))


def largest_gap(results: Results, network: Variant) -> tuple[int, int, Estimate]:
    """Return the groups that lost most and least and the difference, which allows for the choice of the pair."""
    known = np.flatnonzero(_known(network))
    if len(known) < 2:
        raise Missing("there is no second group to compare with")
    order = known[np.argsort(network.by_group[DROP][:, known].mean(axis=0), kind="stable")]
    most, least = int(order[-1]), int(order[0])
    gap = drop_contrast(results, (network, _unit(results, most) - _unit(results, least)))
    return most, least, series.of(gap, level=1 - LEVEL / (len(known) * (len(known) - 1) / 2))


def _known(network: Variant) -> np.ndarray:
    return np.asarray(np.isfinite(network.by_group[DROP]).all(axis=0))


def _unit(results: Results, group: int) -> np.ndarray:
    return np.eye(len(results.groups.names))[group]


def rows(results: Results) -> list[dict[str, Any]]:
    """Return one row a linearized network and group, as ``differences`` orders them; none where there are none."""
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
    """Return one row a linearized network: the group that lost most, and the largest gap between two."""
    names, found = results.groups.names, []
    for network in results.variants[1:]:
        try:
            group, drop = worst(results, network)
        except Missing:
            continue
        row: dict[str, Any] = {"network": network.label, "relus": network.relu_count, "worst_group": names[group]}
        row |= {"worst_drop_percent": drop, "least_lost": "", "gap_points": UNKNOWN}
        if _known(network).sum() > 1:
            _, least, gap = largest_gap(results, network)
            row |= {"least_lost": names[least], "gap_points": gap}
        found.append(row)
    return found


def answer(results: Results) -> str:
    """Say in two sentences who lost more than whom at the tightest budget, of SNL's if there are any."""
    linearized = [v for v in results.variants[1:] if not v.base]
    linearized = [v for v in linearized if v.method == "snl"] or linearized
    if not linearized:
        return "No network of the study is linearized. There is nothing to compare."
    network = min(linearized, key=lambda v: v.relu_count)
    try:
        found = differences(results, network)
    except Missing as missing:
        return f"At {network.label}, nobody can be said to lose more than others. The reason: {missing}."
    reference, differing = results.groups.names[results.reference], [d for d in found if d.verdict in ("more", "less")]
    corrected = f"corrected for {len(found)} comparison{'s' * (len(found) > 1)}"
    if differing:
        first, *more = sorted(differing, key=lambda d: -abs(d.points.mean))
        parts = [_loses(results, first, f" than {reference}", f", {corrected}")]
        parts += [_loses(results, d) for d in more[: NAMED - 1]]
        parts += [f"{len(more) - NAMED + 1} more differ"] if len(more) >= NAMED else []
        return f"At {network.label}, {'; '.join(parts)}. {_rest(len(found) - len(differing))}"
    largest = max(found, key=lambda d: abs(d.points.mean))
    seen = f"The largest one seen: {_loses(results, largest, f' than {reference}', f', {corrected}')}."
    if found[0].verdict == "too few seeds":
        seeds = len(network.seeds)
        few = f"{seeds} seed{'s' * (seeds > 1)}, at least {SEEDS} are needed"
        return f"No difference between groups at {network.label} can be told from noise ({few}). {seen}"
    return f"At {network.label}, no group's loss differs from that of {reference} beyond noise. {seen}"


def _loses(results: Results, difference: Difference, than: str = "", also: str = "") -> str:
    points, more = difference.points, bool(difference.points.mean >= 0)
    low, high = (points.low, points.high) if more else (-points.high, -points.low)
    size, name = abs(float(points.mean)), results.groups.names[difference.group]
    return f"{name} loses {size:.1f} points {'more' if more else 'less'}{than} ({low:.1f} to {high:.1f}{also})"


def _rest(count: int) -> str:
    if count == 1:
        return "The other difference is within noise."
    return f"The other {count} differences are within noise." if count else "No difference is within noise."
