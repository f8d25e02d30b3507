"""Who lost more than whom: each group against a reference group, judged together and said in two sentences.

All intervals of k comparisons are at the level 1 - 0.05 / k (Bonferroni), so that all k hold at once with 95 % and one
may be picked among them; p-values are corrected by Holm (1979).
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from experiments.reporting import series
from experiments.reporting.groups import some
from experiments.reporting.series import Estimate
from jaxfair import intervals, judging
from jaxfair.judging import SEEDS
from jaxfair.words import NAMED, cut, in_words, lost_or_gained

Verdict = Literal["more", "less", "within noise", "too few seeds"]

MEANING = (
    "relative accuracy drop of a group minus that of the reference group, in percentage points. Its interval is over "
    "seeds and test images together and wider than 95 %, so that those of all groups compared hold at once "
    "(Bonferroni); p is that of the test that the difference is 0, corrected by Holm (1979) for their number."
)


COUNTED_FROM = "Drops are counted from the network that was trained alike, or where there is none from the full one."
PICKED = (
    f"{COUNTED_FROM} The group that lost most and the largest gap have intervals that allow for having been picked "
    "among all groups, or all pairs of groups, and so are wider than those of one group or pair that was named "
    "beforehand. Each network is judged for itself: of twenty whose groups lose alike one may have a gap beyond noise "
    "by chance."
)
SELDOM = "right too seldom for a relative drop"
"""Of a network on a group: the 95 % interval of its accuracy there reaches 0 (``intervals.has_drop``)."""


class Difference(NamedTuple):
    """What a group lost beyond the reference group.

    Attributes:
        group: by number.
        points: its relative drop minus that of the reference, in percentage points.
        lost: relative drops of the group and of the reference, in percent.
        p_value: two-sided, that the difference is 0.
        corrected: the same by Holm's correction for all that were compared.
        verdict: more or less: the interval is wholly on that side of 0, and the corrected p-value below 5 %.
        where: on which network or hardware, where several were compared together.
    """

    group: int
    points: Estimate
    lost: tuple[float, float]
    p_value: float
    corrected: float
    verdict: Verdict
    where: str = ""

    @property
    def beyond(self) -> bool:
        """Whether it is beyond noise."""
        return self.verdict in ("more", "less")


def compare(
    members: Sequence[int],
    found: Sequence[intervals.Estimate],
    lost: Sequence[tuple[float, float]],
    seeds: int,
    where: Sequence[str] = (),
    needed: int = SEEDS,
) -> tuple[Difference, ...]:
    """Judge differences from the reference group together.

    Args:
        members: which group each is of.
        found: the differences in points, with the noise of seeds and test images.
        lost: by each group and by the reference group.
        seeds: how many there are.
        where: see ``Difference``.
        needed: seeds, before anything is judged; 1 where what is said is of the networks of one seed alone.

    Returns:
        From the group that lost most.
    """
    places, made = where or [""] * len(members), []
    judged = judging.judge_together(found, seeds)
    for g, both, place, one in zip(members, lost, places, judged, strict=True):
        verdict: Verdict = "too few seeds" if seeds < needed or one.verdict == "too few" else one.verdict
        points = Estimate(one.value, one.low, one.high)
        made.append(Difference(g, points, both, one.p_value, one.corrected, verdict, place))
    return tuple(sorted(made, key=lambda difference: -difference.points.mean))


def answer(found: Sequence[Difference], names: Sequence[str], reference: int, seeds: int, at: str) -> str:
    """Say in two sentences who lost more than the reference group.

    Args:
        found: the differences, at least one.
        names: of the groups.
        reference: number of the group that the others are compared with.
        seeds: how many there are.
        at: where they lost, such as "At SNL 50".
    """
    names, differing = cut(names), [d for d in found if d.beyond]
    corrected = f", corrected for {len(found)} comparison{'s' * (len(found) > 1)}"
    if differing:
        first, *more = sorted(differing, key=lambda d: -abs(d.points.mean))
        parts = [_said(names, first, names[reference], corrected)]
        parts += [_said(names, d) for d in more[: NAMED - 1]]
        parts += [f"{len(more) - NAMED + 1} more differ{'s' * (len(more) == NAMED)}"] if len(more) >= NAMED else []
        return f"{at}, {'; '.join(parts)}. {_rest(len(found) - len(differing))}"
    largest = max(found, key=lambda d: abs(d.points.mean))
    seen = f" The largest difference seen: {_said(names, largest, names[reference], corrected)}."
    seen = seen if largest.points.mean else ""
    if found[0].verdict == "too few seeds":
        few = f"{seeds} seed{'s' * (seeds > 1)}, at least {SEEDS} are needed"
        return f"{at}, no difference between groups can be told from noise ({few}).{seen}"
    return f"{at}, no group lost more or less accuracy than {names[reference]} beyond noise.{seen}"


def _said(names: Sequence[str], of: Difference, reference: str = "", also: str = "") -> str:
    where, (mean, low, high) = f" on {of.where}" * bool(of.where), map(float, of.points)
    group, than = (names[of.group], reference + where) if reference else (names[of.group] + where, "")
    return in_words(group, than, (mean, low, high), of.lost, also)


def points_lost(before: np.ndarray, after: np.ndarray) -> Estimate:
    """Return what a group lost in points of accuracy; the arguments are those of ``intervals.drop_parts``."""
    return Estimate(*(100 * part for part in series.of(intervals.accuracy_lost([(before, after)]))))


def in_points(lost: Mapping[str, Estimate], which: str) -> str:
    """Say what groups lost or gained in points of accuracy, of which no relative drop can be said, if there are any.

    Args:
        lost: by the group's name.
        which: network is right there too seldom.
    """
    if not lost:
        return ""
    first = list(zip(cut([*lost]), lost.values(), strict=True))[:NAMED]
    said = [f"{name} {lost_or_gained((float(mean), float(low), float(high)))}" for name, (mean, low, high) in first]
    more = len(lost) - NAMED
    said += [f"{more} more {'is' if more == 1 else 'are'} not compared"] if more > 0 else []
    return f"Where {which} is {SELDOM}, {'; '.join(said)}."


def predicts_one_class(predicted: np.ndarray, label: np.ndarray) -> bool:
    """Return whether a network predicts one class for all images, whose labels are several."""
    return len(np.unique(predicted)) == 1 < len(np.unique(label))


def one_class(networks: Mapping[str, np.ndarray], seeds: Sequence[int]) -> list[str]:
    """Return a sentence if some networks predict one class alone: what a group lost there is said by its classes.

    Args:
        networks: whether the network of each seed does (``predicts_one_class``), shape (seeds,), by label.
        seeds: their numbers.
    """
    found = {
        label: [str(seed) for seed, is_so in zip(seeds, of, strict=True) if is_so] for label, of in networks.items()
    }
    said = [f"{label} (seed{'s' * (len(of) > 1)} {', '.join(of)})" for label, of in found.items() if of]
    means = "a group's accuracy there is the share of its images that are of that class, and nothing more"
    return [f"One class is predicted for all test images by {some(said)}: {means}."] if said else []


def paragraphs(answer: str, *more: str) -> str:
    """Join an answer of two sentences and, in a paragraph of their own, the further ones that there are."""
    return "\n\n".join(filter(None, [answer, " ".join(filter(None, more))]))


def _rest(count: int) -> str:
    if count == 1:
        return "The other difference is within noise."
    return f"The other {count} differences are within noise." if count else "No difference is within noise."
