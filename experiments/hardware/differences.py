"""Who loses more than whom on other hardware, beyond noise, and whether that is more than one rounding error does."""

from typing import Any

import numpy as np

from experiments.hardware import tables as numbers
from experiments.hardware.results import Hardware, Series
from experiments.reporting import comparisons
from experiments.reporting.comparisons import SELDOM, Difference
from experiments.reporting.series import Estimate
from experiments.reporting.verdicts import Missing
from jaxfair import intervals, judging
from jaxfair.intervals import Term, contrast_of_drops, has_drop, of_drops


def differences(hardware: Hardware) -> tuple[Difference, ...]:
    """Compare what every group loses on each profile of other bits with what the reference group loses there.

    Every training ends elsewhere by rounding alone, to one side in one seed and to the other in the next: the spread
    over seeds has it in it.

    Raises:
        Missing: there is nothing to compare.
    """
    plain, reference = hardware.comparisons[0], hardware.reference
    known = _known(hardware)
    if not plain.elsewhere:
        raise Missing("there is no profile beside the reference that ends in other bits")
    if not known[reference]:
        name = hardware.groups.names[reference]
        raise Missing(f"the network of some seed is {SELDOM} in group {name}, the reference; name another one")
    pairs = [(series, int(g)) for series in plain.elsewhere for g in np.flatnonzero(known) if g != reference]
    if not pairs:
        raise Missing("there is no second group to compare with")
    found = [_contrast(hardware, series, g) for series, g in pairs]
    where = [series.label for series, _ in pairs]
    lost = [(_drop(hardware, series, g), _drop(hardware, series, reference)) for series, g in pairs]
    seeds = len(plain.reference.accuracy)
    return comparisons.compare([g for _, g in pairs], found, lost, seeds, where)


def _known(hardware: Hardware) -> np.ndarray:
    """Return which groups have relative drops from the reference for every seed."""
    before = hardware.comparisons[0].reference.by_group
    return np.asarray(has_drop(before["accuracy"], hardware.groups.test_count).all(axis=0))


def _points(hardware: Hardware, series: Series, group: int) -> Estimate:
    """Return what a group loses on a profile in points of accuracy."""
    images, before = hardware.group == group, hardware.comparisons[0].reference
    return comparisons.points_lost(before.correct[:, images], series.correct[:, images])


def _drop(hardware: Hardware, series: Series, group: int) -> float:
    """Return the relative accuracy drop of a group on a profile, in percent, mean over seeds."""
    images, base = hardware.group == group, hardware.comparisons[0].reference
    before, after = (of.correct[:, images].mean(axis=1) for of in (base, series))
    return float(np.mean(100 * (1 - after / before)))


def _contrast(hardware: Hardware, series: Series, group: int) -> intervals.Estimate:
    """Return the relative accuracy drop of a group on a profile minus that of the reference group, in points."""
    base, terms = hardware.comparisons[0].reference, []
    for g, sign in ((group, 1.0), (hardware.reference, -1.0)):
        images = hardware.group == g
        terms.append([Term(sign, base.correct[:, images], series.correct[:, images])])
    value = _drop(hardware, series, group) - _drop(hardware, series, hardware.reference)
    found = contrast_of_drops(terms, value)
    both = [group, hardware.reference]
    return of_drops(found, (1.0, -1.0), base.by_group["accuracy"][:, both], hardware.groups.test_count[both])


def rows(hardware: Hardware) -> list[dict[str, Any]]:
    """Return one row a profile and group, as ``differences`` orders them; none where there are none."""
    try:
        found = differences(hardware)
    except Missing:
        return []
    names, seeds = hardware.groups.names, len(hardware.comparisons[0].reference.accuracy)
    return [
        {"hardware": of.where, "group": names[of.group], "reference": names[hardware.reference], "seeds": seeds}
        | {"difference_points": of.points, "p_value": of.p_value, "corrected": of.corrected, "lost": of.verdict}
        for of in found
    ]


def answer(hardware: Hardware) -> str:
    """Say in two sentences who loses more than whom on other hardware."""
    try:
        found = differences(hardware)
    except Missing as missing:
        return f"On other hardware, nobody can be said to lose more than others. The reason: {missing}."
    seeds = len(hardware.comparisons[0].reference.accuracy)
    said = comparisons.answer(found, hardware.groups.names, hardware.reference, seeds, "On other hardware")
    names, seldom = hardware.groups.names, np.flatnonzero(~_known(hardware))
    pairs = [(series, int(g)) for g in seldom for series in hardware.comparisons[0].elsewhere]
    lost = {f"{names[g]} on {series.label}": _points(hardware, series, g) for series, g in pairs}
    return comparisons.paragraphs(said, comparisons.in_points(lost, "the network of some seed"))


def whole_answer(hardware: Hardware) -> str:
    """Say who loses more than whom, and whether hardware moves losses further than rounding does, in paragraphs."""
    return comparisons.paragraphs(answer(hardware), rounding(hardware))


def rounding(hardware: Hardware) -> str:
    """Say whose losses other hardware moves further than one rounding error does; empty where that is not known."""
    plain = hardware.comparisons[0]
    try:
        beyond = numbers.beyond_rounding(plain, plain.elsewhere)
    except Missing:
        return ""
    if beyond is None or len(plain.reference.accuracy) < judging.SEEDS:
        return "There are too few seeds and controls to tell hardware from one rounding error."
    said, p_values = [], numbers.corrected_p_values(numbers.spread_test(plain, "loss"))
    for series, moved, p_value in zip(plain.elsewhere, beyond, p_values, strict=True):
        names = [f"{hardware.groups.names[g]} (p {p_value[g]:.2g})" for g in hardware.groups.order if moved[g] == 1]
        said += [f"{series.label}, for {', '.join(names)}"] if names else []
    lost = [series.label for series, moved in zip(plain.elsewhere, beyond, strict=True) if np.isnan(moved).any()]
    unknown = f" On {', '.join(lost)} a group's loss is not finite, which is no small move; it is not tested."
    unknown *= bool(lost)
    others = len(plain.elsewhere) - len(said)
    level = "(permutation tests at 5 %, corrected for groups and profiles)"
    if not said:
        least = f"{level[:-1]}; smallest p {np.nanmin(p_values):.2g})" if np.isfinite(p_values).any() else level
        nobody = "No hardware is shown to move a group's test loss further than one rounding error does"
        return f"{nobody} {least}.{unknown}"
    rest = f" Of {others} other profile{'s' * (others > 1)} it is not shown." if others else ""
    question = "Hardware that moves a group's test loss further than one rounding error does:"
    return f"{question} {'; '.join(said)} {level}.{rest}{unknown}"
