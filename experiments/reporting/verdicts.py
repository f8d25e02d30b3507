"""A finding as a number: its statistic, the interval and p-value of its mean, and whether it is borne out."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.reporting import series, tables
from experiments.reporting.groups import Groups
from experiments.reporting.series import Estimate, over_seeds
from experiments.reporting.tables import Column, Table
from jaxfair import intervals, judging
from jaxfair.errors import JaxfairError
from jaxfair.intervals import Scale
from jaxfair.judging import LEVEL, SEEDS

Verdict = Literal[
    "supported",
    "not supported: contradicted",
    "not supported: not after correction",
    "not supported: not shown",
    "too small to matter",
    "may be too small to matter",
    "holds, says nothing",
    "nothing to explain",
    "too few seeds",
    "too few to rank",
    "not enough data",
]
LACKING: Verdict = "not enough data"
THERE = ("supported", "not supported: contradicted", "too small to matter", "may be too small to matter")
"""Verdicts that something is there, whether it matters or not: they need a corrected p-value below 5 %."""
Side = Literal["above", "below", "within"]
"""Of the threshold; within is less than it from 0, which only an equivalence interval can show."""

NEEDED = f"a verdict needs at least {SEEDS} seeds"
RANKED = 3  # a rank correlation of two is 1 or -1, so seeds that agree by chance would show anything
IDLE = 100  # times what a bound is of: one that far away says nothing
CHEAP = 0.01  # "little cost" is less accuracy
# What is too small to matter, whatever its p-value: of every study's findings, with the reason.
POINTS = 0.5  # points of a relative accuracy drop: one image of 200, or half of what papers print as one percent
RIGHT = 0.005  # of accuracy: the same, of a network that is always right
NATS = 0.01  # of a mean loss: the right class is one percent less likely
RATIO = float(np.log2(1.05))  # log2 of a ratio of norms or eigenvalues: 5 %, which Lanczos' tolerance comes near
DISTANCE = 0.01  # of a distance to the boundary: softmax scores of 0 to 1, and pixels of 0 to 1
DIGITS = 9  # decimals that are kept; below them a sum in another order differs


class Claim(NamedTuple):
    """A finding and what the runs say about it.

    Attributes:
        name, statement: the finding, for programs and in words.
        statistic: what is measured, its unit, and on which side of what it is claimed to be.
        value, low, high, seeds: its mean over so many seeds and the 95 % interval; NaN where there is none.
        verdict: supported: the interval is wholly on the claimed side, and the corrected p-value below 5 %;
            contradicted: on the other side; not after correction: only the p-value as such is below 5 %; not shown: it
            is not either; too small to matter: the whole interval is nearer than the claim's floor, or the effect so
            small; may be: its value is, and the interval reaches further; holds, says nothing: a bound that is far
            away;
            nothing to explain: the differences that it is about are not beyond noise or those of the controls, or not
            known to be;
            too few to rank: no order of so few groups has a p-value below 5 %.
        note: networks, budgets and groups concerned, or why there are not enough data.
        p_value: two-sided, that the statistic is at the threshold; NaN where there is none.
        corrected: the same by Holm's correction for all findings of the report (``corrected``).
    """

    name: str
    statement: str
    statistic: str
    value: float
    low: float
    high: float
    seeds: int
    verdict: Verdict
    note: str
    p_value: float = np.nan
    corrected: float = np.nan


class Size(NamedTuple):
    """How large an effect is that a statistic only ranks.

    Attributes:
        said: why it is too small to matter; empty where it is not.
        certain: whether its whole interval is.
    """

    said: str = ""
    certain: bool = True


class Measured(NamedTuple):
    """A statistic, where more is known of it than its value for each seed.

    Attributes:
        mean: over seeds, with all the noise that counts.
        seeds: how many.
        scale: where the statistic can lie.
        p_value: two-sided, exact; None for that of Student's t test.
        idle: whether a bound that holds is so far away that this says nothing.
        small: the size of an effect that the statistic ranks, where it has none of its own.
        items: of how many a share is, than whose interval by Wilson none is narrower; 0 is unknown.
        least: the smallest p-value that there can be, where an exact test has one that matters.
        nothing: why the differences that the finding is about are no more than noise; empty where they are.
    """

    mean: intervals.Estimate
    seeds: int
    scale: Scale = "real"
    p_value: float | None = None
    idle: bool = False
    nothing: str = ""
    small: Size = Size()
    items: int = 0
    least: float = 0.0


class Missing(JaxfairError):
    """The runs that a finding or a figure needs are absent; the message says which."""


COLUMNS = (
    Column("finding", under="statistic"),
    Column("value", "mean over seeds"),
    Column("seeds"),
    Column("p_value", "p", ".2g"),
    Column("corrected", "p, corrected", ".2g"),
    Column("verdict"),
    Column("note"),
)
FOOT = (
    "In brackets: 95 % intervals over seeds, and over test images too for drops, for what accuracy is kept or gained, "
    "and where groups' norms, eigenvalues and distances are compared, or losses of two networks; "
    "p: two-sided, by Student's t or, for rank correlations, by permutations, random ones where there are too many to "
    "go through (of budgets by the larger of both; where both are of the same images, groups that do not differ beyond "
    "noise tie, too, and the larger counts); then with Holm's correction for all findings of the table that have a p, "
    "also where there is nothing to explain. What is claimed to be within a margin of 0 is tested by two one-sided t "
    "tests: the 90 % "
    f"interval has to lie within it. Too small to matter are effects below {POINTS:g} points of a drop, {RIGHT:g} of "
    f"accuracy, {NATS:g} nats of a loss, {100 * (2**RATIO - 1):.0f} % of a norm or eigenvalue, and {DISTANCE:g} of a "
    "distance to the boundary, by the whole interval; they may be too small where the value alone is. Unless each seed "
    "has a split of its own, the split of the data is no part of the noise."
)


def rows(found: Sequence[Claim]) -> list[dict[str, Any]]:
    """Return one row a claim for JSON or ``tables.write_csv``; None where there is no number."""
    return [{k: None if isinstance(v, float) and np.isnan(v) else v for k, v in c._asdict().items()} for c in found]


def table(found: Sequence[Claim]) -> Table:
    """Return the claims as readers see them."""
    shown = [{**c._asdict(), "finding": c.statement, "value": Estimate(c.value, c.low, c.high)} for c in found]
    return Table(COLUMNS, shown)


def markdown(found: Sequence[Claim]) -> str:
    """Return the claims as a Markdown table, a sentence on the intervals, and folded the claims without data."""
    decided, lacking = parted(found)
    parts = [tables.markdown(table(decided))] if decided else []
    parts.append(FOOT)
    if lacking:
        why = "\n".join(f"- {tables.escaped(f'{claim.statement}: {claim.note}')}" for claim in lacking)
        parts.append(f"<details><summary>{without_data('finding', lacking)}</summary>\n\n{why}\n\n</details>")
    return "\n\n".join(parts) + "\n"


def parted(found: Iterable[Claim]) -> tuple[list[Claim], list[Claim]]:
    """Return the claims that are decided, and those for which there are not enough data."""
    every = [*found]
    return [c for c in every if c.verdict != LACKING], [c for c in every if c.verdict == LACKING]


def without_data(what: str, lacking: Sequence[Any]) -> str:
    """Say for how many findings, or figures, there are not enough data."""
    return f"{len(lacking)} {what}{'s' * (len(lacking) > 1)} for which this study has {LACKING}"


# fmt: off
def decide(results: Any, name: str, statement: str, statistic: str, measure: Callable[..., Any], *arguments: Any,
           side: Side = "above", threshold: float = 0.0, floor: float = 0.0) -> Claim:
    """Judge a finding by itself; ``corrected`` then judges it as one of many.

    Args:
        results: of a study, whatever ``measure`` takes.
        name: see ``Claim``, as for the next two.
        statement: the finding.
        statistic: what is measured.
        measure: ``(results, *arguments) -> found, *notes``, where ``found`` is a value for each seed or ``Measured``;
            raises ``Missing`` without data.
        arguments: for ``measure``.
        side: on which the statistic is claimed to be.
        threshold: of what.
        floor: how far from the threshold is far enough to matter.
    """
    of = " of 0" if side == "within" else f" by {floor:.2g} or more" if floor else ""
    statistic = f"{statistic}; claimed {side} {threshold:.2g}{of}"
    try:
        found, *notes = measure(results, *arguments)
    except Missing as missing:
        return Claim(name, statement, statistic, np.nan, np.nan, np.nan, 0, LACKING, str(missing))
    if not isinstance(found, Measured):
        found = Measured(intervals.over_seeds(np.asarray(found, float)), len(found))
    value, low, high = (round(float(x), DIGITS) for x in series.of(found.mean, found.scale))
    spread = low < high
    if found.items:  # of so few it is no surer for seeds that differ, too
        few = intervals.wilson(np.asarray(value), np.asarray(found.items))
        low, high = round(min(low, float(few.low)), DIGITS), round(max(high, float(few.high)), DIGITS)
        if not found.idle:  # which says nothing, and is not tested
            by_seeds = float(found.mean.p_value(threshold, found.scale)) if spread else 0.0
            found = found._replace(p_value=max(by_seeds, intervals.wilson_p_value(value, found.items, threshold)))
    if side == "within":
        found, said = _equivalence(found, threshold)
        notes.append(said)
    p_value = found.p_value
    if p_value is None:  # without a spread there is no test
        p_value = float(found.mean.p_value(threshold, found.scale)) if spread else np.nan
        notes += ["all seeds agree exactly, so the interval has no width and decides nothing"] * (low == high)
    near = abs(value) if side == "within" else value
    ahead = (near - threshold) * (1 if side == "above" else -1)
    verdict: Verdict = "supported" if ahead > 0 else "not supported: contradicted"
    if found.seeds < SEEDS:
        verdict, notes = "too few seeds", [NEEDED, *notes]
    elif found.nothing:
        verdict, notes = "nothing to explain", [found.nothing, *notes]
    elif found.least >= LEVEL:
        verdict, notes = "too few to rank", [f"no order of so few has p below {found.least:.2g}", *notes]
    elif found.idle and (low > threshold or value == 1.0):
        verdict = "holds, says nothing"
    elif not (p_value < LEVEL and (side == "within" or low > threshold or high < threshold)):
        verdict = "not supported: not shown"
    elif abs(ahead) < floor or found.small.said:
        certain = found.small.certain and (not floor or max(abs(low - threshold), abs(high - threshold)) < floor)
        verdict = "too small to matter" if certain else "may be too small to matter"
        notes.insert(0, found.small.said)
    elif floor and min(abs(low - threshold), abs(high - threshold)) < floor:
        notes.append(f"by the interval it may be less than {floor:.3g}, which would not matter")
    if p_value <= found.least < LEVEL:
        notes.insert(0, "no order of so few has a smaller p")
    note = "; ".join(filter(None, notes))
    return Claim(name, statement, statistic, value, low, high, found.seeds, verdict, note, p_value)
# fmt: on


def _equivalence(found: Measured, margin: float) -> tuple[Measured, str]:
    """Return a statistic with the p-value that it is nearer to 0 than a margin, or not as near; and its interval.

    Nearer: two one-sided tests at 5 %, so that the 90 % interval lies within the margin. Not as near: Student's t test
    that it is at the margin.
    """
    value = float(found.mean.value)
    inside = abs(value) < margin
    p_value = found.mean.equivalence_p_value(margin) if inside else found.mean.p_value(np.copysign(margin, value))
    low, high = (float(end) for end in found.mean.interval(1 - 2 * LEVEL, found.scale))
    said = f"90 % interval {low:.3g} to {high:.3g}" if low < high else ""
    return found._replace(p_value=float(p_value) if low < high else None), said


def too_small(change: np.ndarray, floor: float, unit: str) -> Size:
    """Return why a change that a rank correlation only ranks is too small to matter, if it is.

    Args:
        change: of the ranked quantity, from one end of the ranking to the other, shape (seeds,).
        floor: below which it does not matter.
        unit: of both.
    """
    found = over_seeds(change)
    size, ends = abs(float(found.mean)), np.abs([found.low, found.high])
    if not size < floor:
        return Size()
    unit = f" {unit}" if unit else ""
    return Size(f"what is ranked changes by {size:.2g}{unit} only, less than {floor:.3g}", not ends.max() >= floor)


def is_idle(bound: Any, seen: Any) -> bool:
    """Return whether a bound is so far above what it bounds that it says nothing where it holds."""
    return bool(bound > IDLE * max(seen, 0.0))


def alike(
    tables: Sequence[np.ndarray], reference: int, what: str, overlap: np.ndarray | None = None
) -> tuple[str, np.ndarray]:
    """Say so if no group differs from the reference group beyond noise in what is ranked; empty if one does.

    Quantities of the same few images go together from one random part of a population to the next, which is nothing
    about groups: without a difference between groups there is no order of theirs to explain.

    Args:
        tables: a quantity of each group's images, or blocks of them, as ``intervals.over_seeds_and_examples`` takes it.
        reference: number of the group that the others are compared with.
        what: no group is.
        overlap: as ``sampling.free_of_sampling`` takes it.

    Returns:
        The sentence, and ``order_beyond_noise`` of the groups.
    """

    def difference(one: int, other: int) -> intervals.Estimate:
        common = None if overlap is None else [overlap[one], overlap[other]]
        return intervals.over_seeds_and_examples([tables[one], tables[other]], (1.0, -1.0), common)

    found = [difference(group, reference) for group in range(len(tables)) if group != reference]
    differ = any(of.verdict != "within noise" for of in judging.judge_together(found, len(tables[reference])))
    return "" if differ else f"no group is {what}, beyond noise", order_beyond_noise(len(tables), difference)


def order_beyond_noise(count: int, difference: Callable[[int, int], intervals.Estimate]) -> np.ndarray:
    """Return of each group how many others it is beyond, less how many are beyond it, above noise, shape (groups,).

    Where one group of five differs ``alike`` says nothing of the other four, whose order may be that of their images
    alone; here they tie. P-values are corrected for all pairs (Holm 1979).

    Args:
        count: of the groups.
        difference: of the first group from the second in what is ranked.
    """
    pairs, order = [*itertools.combinations(range(count), 2)], np.zeros(count)
    found = [difference(*pair) for pair in pairs]
    p_values = judging.holm(np.array([float(of.p_value()) for of in found]))
    for pair, of, p_value in zip(pairs, found, p_values, strict=True):
        if p_value < LEVEL:
            order[[*pair]] += np.sign(of.value) * np.array([1, -1])
    return order


def stored(by_group: Mapping[str, np.ndarray], name: str, label: str) -> np.ndarray:
    """Return a quantity of the runs called ``label``, shape (seeds, groups); ``Missing`` unless all of it is known."""
    if not np.isfinite(by_group.get(name, np.nan)).all():
        raise Missing(f"the runs of {label} do not store '{name}' for every seed and group")
    return by_group[name]


def small_groups(groups: Groups) -> np.ndarray:
    """Return whether each group is small, shape (groups,); ``Missing`` if none is."""
    if groups.large.all():
        raise Missing("no group has fewer training images than the average")
    return ~groups.large


def corrected(found: Sequence[Claim]) -> list[Claim]:
    """Return a report's claims judged together: with p-values corrected by Holm (1979) for their number."""
    made = []
    for claim, p_value in zip(found, judging.holm(np.array([c.p_value for c in found])), strict=True):
        undone = claim.p_value < LEVEL <= p_value and claim.verdict in THERE
        verdict: Verdict = "not supported: not after correction" if undone else claim.verdict
        against = (
            "it comes out on the other side of what is claimed" if undone and "contradicted" in claim.verdict else ""
        )
        note = "; ".join(filter(None, (claim.note, against)))
        made.append(claim._replace(verdict=verdict, corrected=float(p_value), note=note))
    return made


def rank_correlations(
    x: np.ndarray,
    y: np.ndarray,
    of: Literal["groups", "budgets", "data"],
    *,
    shared: bool = False,
    order: np.ndarray | None = None,
) -> tuple[Measured, str]:
    """Return the mean over seeds of Spearman's correlation, tested by permutations, and a note on ties.

    The interval is that of ``intervals.over_seeds_of_ranks``. What each seed permutes by itself is tested by Student's
    t over seeds too, and the larger p-value counts: budgets of one descent are alike, of which permutations know
    nothing. Where they are as those of the study of digits are, without any trend, permutations alone find one in 11
    of 100 studies of five seeds, both together in 6 (``pytest -s -m slow tests/experiments -k without_a_trend``).

    Args:
        x: what is said to rank, shape (seeds, items).
        y: what is ranked, of the same shape.
        of: what the items are: groups are permuted alike for all seeds, budgets and data for each seed anew (see
            ``judging.rank_p_value``).
        shared: whether these are permuted alike too, as data are that all seeds share.
        order: of the items by ``order_beyond_noise``, where both are quantities of the same images: what few of these
            are like makes groups go together in both. Permutations of that order are tested too, and the larger
            p-value counts. Without it groups of which one differs seem to follow what is alike in all of them in up
            to 88 of 100 studies, with it in 6 (``pytest -s -m slow tests/experiments -k order_of_their_images``).
    """
    from scipy.stats import spearmanr

    if (count := x.shape[1]) < RANKED:
        are = "is" if count == 1 else "are"
        raise Missing(f"a rank correlation needs at least {RANKED} {of}, there {are} {count}")
    y = np.round(y, DIGITS)
    tied = (np.ptp(x, axis=1) == 0) | (np.ptp(y, axis=1) == 0)  # a row that ties throughout ranks nothing
    values = np.array([0.0 if t else spearmanr(a, b)[0] for t, a, b in zip(tied, x, y, strict=True)])
    together = shared or of == "groups"
    orders = [y] if order is None else [y, np.tile(order, (len(x), 1))]
    both = [[judging.rank_p_value(x, one * sign, shared=together)[1] for sign in (1, -1)] for one in orders]
    note = f"{of} all tie for {tied.sum()} seeds, which count as 0" if tied.any() else ""
    values = np.round(values, DIGITS)  # 1 by another path of sums
    mean, p_value = intervals.over_seeds_of_ranks(values, count), min(1.0, 2 * max(map(min, both)))
    if together:
        return Measured(mean, len(x), "correlation", p_value, least=2 / math.factorial(count)), note
    by_seeds = float(mean.p_value()) if len(x) > 1 else 1.0
    return Measured(mean, len(x), "correlation", max(p_value, by_seeds)), note
