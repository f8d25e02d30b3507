"""Paired statistics of two networks' answers to the same examples, by group: shares, flips, and who lost more.

Tables are of shape (runs, examples). Runs, such as seeds, share the examples, so these do not average out over runs
(``intervals.over_seeds_and_examples``); one run has the noise of its examples alone.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxfair import intervals, judging
from jaxfair.answers import Answers
from jaxfair.errors import JaxfairError
from jaxfair.grouping import called, name_of
from jaxfair.inputs import quoted

Verdict = Literal["more", "less", "within noise", "too few runs"]


class Measure(NamedTuple):
    """A quantity of every group with its 95 % interval; arrays of shape (groups,), NaN where there is none."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Difference(NamedTuple):
    """What one group lost beyond another, in points of relative drop.

    Attributes:
        group, reference: Names.
        points: Relative drop of the group minus that of the reference, in percentage points.
        low, high: Interval that holds for all comparisons of its kind at once (Bonferroni).
        p_value: Two-sided, that it is 0, as if it were the only one.
        corrected: The same, corrected by Holm (1979) for all that were compared, or by Bonferroni for all pairs that it
            was picked from.
        verdict: Whether the group lost more or less, beyond noise.
    """

    group: str
    reference: str
    points: float
    low: float
    high: float
    p_value: float
    corrected: float
    verdict: Verdict


def measured(estimates: Sequence[intervals.Estimate], scale: intervals.Scale) -> Measure:
    """Return one estimate a group with its interval, made where the quantity can lie."""
    ends = [estimate.interval(scale=scale) for estimate in estimates]
    value = np.array([float(estimate.value) for estimate in estimates])
    return Measure(value, np.array([float(end.low) for end in ends]), np.array([float(end.high) for end in ends]))


def points_lost(right: Sequence[Sequence[np.ndarray]]) -> Measure:
    """Return what accuracy each group lost in percentage points, of answers as ``differences_of`` takes them."""
    return Measure(*(100 * part for part in measured([intervals.accuracy_lost([of]) for of in right], "real")))


def shares(table: np.ndarray, member: Sequence[np.ndarray]) -> Measure:
    """Return the share of each group, from ones and zeros of shape (runs, examples).

    Of one run by Wilson's interval; of several over runs and examples, with two examples of each kind added where the
    interval is made (Agresti and Coull 1998), so that a share of 0 has a width.
    """
    value = np.array([table[:, of].mean() for of in member])
    if len(table) == 1:
        return Measure(value, *intervals.wilson(value, np.array([of.sum() for of in member])))
    extra = np.broadcast_to([1.0, 1.0, 0.0, 0.0], (len(table), 4))
    with_extra = [intervals.over_seeds_and_examples([np.hstack([table[:, of], extra])]) for of in member]
    found = measured(with_extra, "real")
    return Measure(value, np.clip(found.low, 0, value), np.clip(found.high, value, 1))


def table_of_losses(some: Sequence[Answers]) -> np.ndarray | None:
    """Return the losses of all runs, shape (runs, examples); None where some are predicted classes."""
    return np.array([side.loss for side in some]) if all(side.loss is not None for side in some) else None


def mean_losses(table: np.ndarray | None, member: Sequence[np.ndarray], scale: intervals.Scale = "positive") -> Measure:
    """Return the mean loss of each group, from losses or their paired differences of shape (runs, examples).

    By the studentised bootstrap, since losses are skewed, and over the runs, where there are several. NaN where there
    are no losses, and without an interval for less than ``intervals.FEW`` examples.
    """
    nothing = np.full(len(member), np.nan)
    if table is None:
        return Measure(nothing, nothing, nothing)
    if scale == "positive" and (table < 0).any():  # a loss of the user's, of which nothing says that it is positive
        scale = "real"
    with np.errstate(invalid="ignore"):  # of one that becomes infinite and one that no longer is
        value = np.array([table[:, of].mean() for of in member])
    low, high = np.full((2, len(member)), np.nan)
    for g, of in enumerate(member):
        if np.isfinite(value[g]):  # to an interval, a difference of infinite losses would be no loss
            low[g], high[g] = intervals.of_mean_over_runs(table[:, of], scale)
    return Measure(value, low, high)


def mcnemar(broken: np.ndarray, mended: np.ndarray) -> float:
    """Return the exact p-value of one run, from ones and zeros of shape (1, examples); NaN for several."""
    from scipy.stats import binomtest

    flips = int(broken.sum()), int((broken + mended).sum())
    if len(broken) > 1:
        return np.nan
    return float(binomtest(*flips).pvalue) if flips[1] else 1.0


def exemplars(first: Sequence[Answers], second: Sequence[Answers], member: Sequence[np.ndarray]) -> Measure:
    """Return the share of examples whose most frequent class changed; of equally frequent ones the first counts."""
    modal = [_modes(np.array([side.predicted for side in some])) for some in (first, second)]
    return shares((modal[0] != modal[1])[None].astype(float), member)


def _modes(predicted: np.ndarray) -> np.ndarray:
    """Return the most frequent class of each example, from classes of shape (runs, examples)."""
    labels = np.unique(predicted)  # codes of classes may be as large as they like
    return labels[np.array([(predicted == label).sum(axis=0) for label in labels]).argmax(axis=0)]


def reference_of(name: Any, names: tuple[str, ...], member: Sequence[np.ndarray]) -> int:
    """Return the number of the reference group; without a name, of that with the most examples."""
    if name is None:
        return int(np.argmax([of.sum() for of in member]))
    if (wanted := called(name, names)) is None:
        raise JaxfairError(
            f"There is no group '{quoted([name_of(name)])}'; the reference is one of {quoted(names, 10)}."
        )
    return names.index(wanted)


def relative_drops(right: Sequence[Sequence[np.ndarray]]) -> Measure:
    """Return each group's relative drop, of answers as ``differences_of`` takes them; NaN where there is none."""
    return measured([intervals.mean_drop([of]) for of in right], "percent")


def contrast(right: Sequence[Sequence[np.ndarray]]) -> intervals.Estimate:
    """Return the first group's relative drop minus the second's, of answers of these two."""
    found = intervals.contrast_of_drops([[intervals.Term(w, *of)] for w, of in zip((1.0, -1.0), right, strict=True)])
    had, counts = zip(*((before.mean(), before.shape[1]) for before, _ in right), strict=True)
    return intervals.of_drops(found, (1.0, -1.0), had, counts)


def extremes(values: Any, counts: Any) -> tuple[int, int]:
    """Return the places of the largest value and of the smallest; of equal ones, those of the most examples."""
    ranked = [(round(float(value), 9), int(count)) for value, count in zip(values, counts, strict=True)]
    most = max(range(len(ranked)), key=lambda g: ranked[g])
    return most, min(range(len(ranked)), key=lambda g: (ranked[g][0], -ranked[g][1]))


def differences_of(
    right: Sequence[Sequence[np.ndarray]], names: tuple[str, ...], reference: int
) -> tuple[tuple[Difference, ...], Difference | None]:
    """Compare the groups' drops with the reference's, and the two that are farthest apart.

    Args:
        right: for each group 1 where a run is right, before and after, both of shape (runs, examples of the group).
        names: of the groups.
        reference: number of the group that the others are compared with.
    """
    known, runs = [g for g, (before, _) in enumerate(right) if intervals.all_have_drop(before)], len(right[0][0])
    if reference not in known or len(known) < 2:
        return (), None

    def of(g: int, other: int) -> intervals.Estimate:
        return contrast([right[g], right[other]])

    def said(g: int, other: int, one: judging.Judged) -> Difference:
        verdict: Verdict = "too few runs" if one.verdict == "too few" else one.verdict
        return Difference(names[g], names[other], one.value, one.low, one.high, one.p_value, one.corrected, verdict)

    others = [g for g in known if g != reference]
    judged = judging.judge_together([of(g, reference) for g in others], runs)
    found = [said(g, reference, one) for g, one in zip(others, judged, strict=True)]
    lost = [100 * (1 - right[g][1].mean() / right[g][0].mean()) for g in known]
    ends = extremes(lost, [right[g][0].shape[1] for g in known])
    ends = known[ends[0]], known[ends[1]]
    pairs = len(known) * (len(known) - 1) // 2
    (widest,) = judging.judge_together([of(*ends)], runs, among=pairs)
    gap = said(*ends, widest)
    return tuple(sorted(found, key=lambda difference: -difference.points)), gap
