"""Intervals that are possible and cover: of means over seeds, over test examples, and over both at once.

Everything here is a mean of whose variance it is known how well it is known (``Estimate``); what differs is what
varies. Training seeds are few, so Student's t is needed and a bootstrap over them is far too narrow. Test examples are
shared by all seeds, so they do not average out over seeds. NumPy in and out.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxfair.errors import JaxfairError

Scale = Literal["real", "positive", "share", "correlation", "percent"]
"""Where a quantity can lie: anywhere, above 0, in [0, 1], in [-1, 1], or below 100 (a relative drop in percent)."""
SCALES: dict[Scale, tuple[Callable[[Any], Any], Callable[[Any], Any], Callable[[Any], Any]]] = {
    "real": (lambda v: v, lambda u: u, np.ones_like),
    "positive": (np.log, np.exp, lambda v: 1 / v),
    "share": (lambda v: np.log(v / (1 - v)), lambda u: 1 / (1 + np.exp(-u)), lambda v: 1 / (v * (1 - v))),
    "correlation": (np.arctanh, np.tanh, lambda v: 1 / (1 - v**2)),
    "percent": (lambda v: -np.log(100 - v), lambda u: 100 - np.exp(-u), lambda v: 1 / (100 - v)),
}
"""Of each the function to where its intervals are symmetric, the one back, and the slope of the first."""

POSSIBLE = {"positive": (0.0, np.inf), "share": (0.0, 1.0), "correlation": (-1.0, 1.0)}
POSSIBLE |= {"percent": (-np.inf, 100.0)}
"""Between what a quantity of each scale lies; a real one may be anything."""

FEW = 45
"""Examples without which a mean of skewed numbers (a loss, a gap, an eigenvalue) has no interval.

Fewer say too little of the rare ones that carry the mean. No sign of these in the sample itself would do instead: a
sample looks harmless where they happen to be absent, and there an interval misses most.
"""
FEW_FOR_NORM = 20
"""Examples of a group without which there is no interval of its gradient's norm, since none would cover."""


class Interval(NamedTuple):
    """Lower and upper ends, of the same shape; NaN where an interval cannot be had (one seed)."""

    low: np.ndarray
    high: np.ndarray


class Estimate(NamedTuple):
    """A mean and what is known of its error.

    Where one part of the variance is known from a few seeds and the rest from many examples, no number of degrees of
    freedom serves every level: Satterthwaite's is too large where the seeds differ little by chance, and an interval at
    99.5 % then covers 98.9 %. So the part of the seeds is averaged over what it may be, by the prior that matches
    probabilities to the second order (Mukerjee and Dey 1993): that of a variance ``a`` beside a known ``b`` is
    proportional to ``(a + b) / a**2``. Alone, without a rest, either part gives Student's t.

    Attributes:
        value: the mean, of any shape.
        variance: of the mean, of the same shape; NaN where it cannot be known.
        freedom: degrees of freedom of ``variance``, or of that ``share`` of it, of the same shape.
        share: of the variance that is known so well.
        rest: degrees of freedom of the rest.
        least, most: between which it can lie, where more is known of that than its scale (``of_drops``).
        lean, grow: how the variance changes with what the mean is supposed to be, as that of a ratio does: where it is
            supposed to lie ``u`` below the value, the variance is ``variance + 2 u lean + u^2 grow`` (Fieller 1954;
            ``contrast_of_drops``). They count on the plain scale alone.
    """

    value: np.ndarray
    variance: np.ndarray
    freedom: np.ndarray
    share: np.ndarray = np.ones(())
    rest: np.ndarray = np.full((), np.inf)
    least: Any = -np.inf
    most: Any = np.inf
    lean: Any = 0.0
    grow: Any = 0.0

    def interval(self, level: float = 0.95, scale: Scale = "real") -> Interval:
        """Return the interval of Student's kind, made where the quantity can lie.

        It is symmetric in ``log(v)``, ``logit(v)``, ``artanh(v)`` or ``log(100 - v)``, with the standard error there by
        the delta method, so its ends are possible, and its middle is the value. A value at the end of its range (a
        share of 0, up to rounding) has no such standard error; then the plain interval is cut off at what is possible.
        So is every one at ``least`` and ``most``.
        """
        if scale not in SCALES:
            raise JaxfairError(f"There is no scale '{scale}'; give one of {', '.join(SCALES)}.")
        low, high = POSSIBLE.get(scale, (-np.inf, np.inf))
        value = _at_ends(np.asarray(self.value, float), low, high)
        errors = _errors(level, self.freedom, self.share, self.rest)
        half = errors * np.sqrt(self.variance)
        forward, backward, slope = SCALES[scale]
        with np.errstate(all="ignore"):
            inside = (value > low) & (value < high)
            there = [backward(forward(value) + s * half * slope(value)) for s in (-1, 1)]
            ends = [np.where(inside, end, value + s * half) for end, s in zip(there, (-1, 1), strict=True)]
            if scale == "real" and np.any(self.grow):
                ends = self._ends(errors)
        low, high = np.maximum(low, self.least), np.minimum(high, self.most)
        return Interval(*(np.clip(end, low, high) for end in ends))

    def p_value(self, null: float = 0.0, scale: Scale = "real") -> np.ndarray:
        """Return the two-sided p-value of the test that the mean is ``null``: ``interval`` of that scale inverted."""
        low, high = POSSIBLE.get(scale, (-np.inf, np.inf))
        value = _at_ends(np.asarray(self.value, float), low, high)
        forward, _, slope = SCALES[scale]
        with np.errstate(all="ignore"):
            inside = (value > low) & (value < high) & (low < null < high)
            far = np.where(inside, (forward(value) - forward(null)) / slope(value), value - null)
            statistic = self._away(far) if scale == "real" else np.abs(far) / np.sqrt(self.variance)
        return np.asarray(2 * _beyond(np.abs(statistic), self.freedom, self.share, self.rest))

    def equivalence_p_value(self, margin: float) -> np.ndarray:
        """Return the p-value of two one-sided tests that the mean is less than ``margin`` from 0 (Schuirmann 1987).

        It is below 5 % exactly where the 90 % interval lies within the margin, and above 50 % where the mean does not.
        """
        value = np.asarray(self.value, float)
        with np.errstate(divide="ignore", invalid="ignore"):
            statistic = np.minimum(-self._away(value - margin), self._away(value + margin))
        return np.asarray(_beyond(statistic, self.freedom, self.share, self.rest))

    def _away(self, below: np.ndarray) -> np.ndarray:
        """Return by how many standard errors the value is above what lies so far below it.

        They are never more than those at which the interval has no end, which nothing lies beyond.
        """
        errors = below / np.sqrt(self.variance + 2 * below * self.lean + below**2 * self.grow)
        most = 1 / np.sqrt(np.asarray(self.grow, float))
        return np.clip(errors, -most, most)

    def _ends(self, errors: np.ndarray) -> list[np.ndarray]:
        """Return what lies so many standard errors below and above the value, by the variance that there is there."""
        tilt, left = errors**2 * self.lean, 1 - errors**2 * self.grow
        root = np.sqrt(tilt**2 + left * errors**2 * self.variance)
        return [self.value - np.where(left > 0, (tilt + s * root) / left, s * np.inf) for s in (1, -1)]


def _at_ends(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return values of which those beyond an end of their range, or within rounding of it, lie on it; NaN stays.

    Rounding is that of sums of numbers as large as the ends; a sum of numbers above 0 does not cancel to it.
    """
    room = 1e-12 * max((abs(end) for end in (low, high) if np.isfinite(end)), default=0.0)
    return np.where(value <= low + room, low, np.where(value >= high - room, high, value))


@functools.lru_cache(64)
def _spreads(freedom: float) -> tuple[np.ndarray, np.ndarray]:
    """Return values of chi^2 and their probabilities, dense near 0, where a variance is underestimated."""
    from scipy.stats import chi2

    nodes, weights = np.polynomial.legendre.leggauss(64)
    nodes = (nodes + 1) / 2
    return chi2.ppf(nodes**4, freedom), 2 * nodes**3 * weights


def _beyond(errors: np.ndarray, freedom: np.ndarray, share: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Return the probability of an error beyond so many standard errors, to one side."""
    from scipy.stats import t

    if np.all(np.asarray(share) >= 1):
        return t.sf(errors, freedom)
    return np.vectorize(_beyond_of_parts, otypes=[float])(errors, freedom, share, rest)


def _beyond_of_parts(errors: float, freedom: float, share: float, rest: float) -> float:
    from scipy.special import stdtr

    beyond = 0.0
    # By the prior, estimated over true variance of the share has its own chi^2 and, for the rest's sake, the next one.
    for probability, chi2_of in ((share, freedom), (1 - share, freedom + 2)):
        spread, weights = _spreads(chi2_of)
        variance = share * freedom / spread + 1 - share
        # How well the rest is known has Satterthwaite's answer: it has many degrees of freedom.
        many = rest * (variance / max(1 - share, 1e-12)) ** 2
        beyond += probability * float(weights @ stdtr(many, -errors / np.sqrt(variance)))
    return beyond


def _errors(level: float, freedom: np.ndarray, share: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Return how many standard errors an interval reaches to either side."""
    from scipy.stats import t

    if np.all(np.asarray(share) >= 1):
        return t.ppf((1 + level) / 2, freedom)
    return np.vectorize(_errors_of_parts, otypes=[float])(level, freedom, share, rest)


def _errors_of_parts(level: float, freedom: float, share: float, rest: float) -> float:
    from scipy.optimize import root_scalar

    if not np.isfinite(share):
        return np.nan
    outside, most = (1 - level) / 2, 2 * students_t(min(freedom, rest), level)
    found = root_scalar(lambda errors: _beyond_of_parts(errors, freedom, share, rest) - outside, bracket=(0, most))
    return float(found.root)


def over_seeds(values: np.ndarray) -> Estimate:
    """Return the mean over independent seeds, the first axis of ``values``; its variance is NaN for one seed."""
    values = np.asarray(values, float)
    count, mean = len(values), values.mean(axis=0)
    if count < 2:
        return Estimate(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    return Estimate(mean, values.var(axis=0, ddof=1) / count, np.full_like(mean, count - 1))


def over_blocks(values: np.ndarray) -> Estimate:
    """Return the mean over blocks of examples, shape (blocks,), of which a few may carry all that there is.

    Such a few are what differs between two networks that answer most examples alike. Their variance is known no better
    than that of few is (``of_mean``): with the number of blocks as degrees of freedom 95 % intervals cover 93 % of
    differences of norms where 4 of 200 examples change on average, so 99 (``tests/curvature/test_sampling.py``). Of
    blocks that do not differ the variance is 0.
    """
    found, apart = over_seeds(values), values - np.mean(values)
    return found._replace(freedom=np.minimum(found.freedom, _freedom(apart))) if found.variance > 0 else found


def over_seeds_of_ranks(values: np.ndarray, items: int) -> Estimate:
    """Return the mean over seeds of rank correlations of so many items, shape (seeds,).

    Where all seeds have the same one, as easily happens with few items, the interval would have no width. Then two
    seeds are added for its width (as Bonett and Price 2012 do for proportions): in one two pairs of neighbours rank the
    other way, in the other as many rank as they should. Each moves a correlation of n items by 12 / (n^3 - n).
    """
    seen, two = np.asarray(values, float), 24 / (items**3 - items)
    if len(seen) > 1 and not np.ptp(seen):
        seen = np.append(seen, np.clip(seen[0] + np.array([two, -two]), -1, 1))
    return over_seeds(seen)._replace(value=np.asarray(np.mean(values)))


def over_seeds_and_examples(
    values: Sequence[np.ndarray], weights: Sequence[float] = (1.0,), overlap: Sequence[float] | None = None
) -> Estimate:
    """Return ``sum_g weights[g] * mean(values[g])`` with the noise of the seeds and of the test examples together.

    Every seed is measured on the same examples: a table of two crossed random factors with one value a cell. Its mean
    varies by ``V_seeds + V_examples - V_cells``, each an unbiased mean square (Searle, Casella and McCulloch 1992, 4).
    Groups share the seeds and have examples of their own. With one seed the noise is that of the examples alone.

    Where seeds have test sets of their own, an example is NaN for the seeds that do not test it. Means of seeds then
    covary only by the examples that two of them share, and the variance is ``V_seeds + C``: ``C`` is the mean over
    pairs of seeds of ``sum_i d_si d_ti / (n_s n_t)`` over shared examples, whose deviations from their seed's mean are
    ``d``, since ``E V_seeds`` is the variance of independent seeds less ``C / seeds``. With all examples shared it is
    the same as above.

    Args:
        values: for each group an array of shape (seeds, examples of the group), at least 2 examples of each seed.
        weights: of the groups' means; (1, -1) is a difference, (1/2, 1/2) a mean over two groups.
        overlap: for each group which share of a seed's examples another seed tests too, on average: where columns are
            blocks of examples, of each seed by itself (NaN for the others), this says what they have in common.
    """
    seeds = len(values[0])
    if any(np.isnan(table).all() for table in values):  # nothing is known of a group
        return Estimate(*(np.asarray(np.nan) for _ in range(3)))
    if any(np.isnan(table).any() for table in values):
        return _over_splits([table[:, ~np.isnan(table).all(axis=0)] for table in values], weights, overlap)
    by_seed = sum(w * v.mean(axis=1) for w, v in zip(weights, values, strict=True))
    own, terms, cells = float(np.var(by_seed, ddof=1) / seeds) if seeds > 1 else 0.0, [], 0.0
    for weight, table in zip(weights, values, strict=True):
        count, by_example = table.shape[1], table.mean(axis=0)
        terms.append((weight**2 * by_example.var(ddof=1) / count, count - 1))
        if seeds > 1:
            rest = table - table.mean(axis=1, keepdims=True) - by_example + table.mean()
            cells += weight**2 * (rest**2).sum() / ((seeds - 1) * (count - 1)) / (seeds * count)
    # The difference can come out below either part by chance, which the variance itself cannot be.
    variance = max(own + sum(v for v, _ in terms) - cells, own, *(v for v, _ in terms))
    return _of_parts(float(np.mean(by_seed)), variance, own, seeds, terms)


def _of_parts(value: float, variance: float, own: float, seeds: int, terms: Sequence[tuple[float, int]]) -> Estimate:
    """Return a mean of whose variance ``own`` is the seeds' part; ``terms`` have degrees of freedom."""
    spread = sum(v**2 / n for v, n in terms)
    rest = sum(v for v, _ in terms) ** 2 / spread if spread > 0 else np.inf
    if seeds == 1:
        return Estimate(*map(np.asarray, (value, variance, rest)))
    return Estimate(*map(np.asarray, (value, variance, seeds - 1.0, own / variance if variance > 0 else 1.0, rest)))


def _over_splits(
    values: Sequence[np.ndarray], weights: Sequence[float], overlap: Sequence[float] | None = None
) -> Estimate:
    """Do what ``over_seeds_and_examples`` says of examples that not every seed tests; none is without any seed."""
    if not any(np.isnan(table).any() for table in values):
        return over_seeds_and_examples(values, weights)
    by_seed = sum(w * np.nanmean(v, axis=1) for w, v in zip(weights, values, strict=True))
    seeds, shared, count = len(np.asarray(by_seed)), 0.0, 0
    for weight, table, common in zip(weights, values, overlap or [0.0] * len(values), strict=True):
        tested = ~np.isnan(table)
        apart = np.where(tested, table - np.nanmean(table, axis=1, keepdims=True), 0.0) / tested.sum(axis=1)[:, None]
        products = (apart @ apart.T)[np.triu_indices(seeds, 1)]
        pairs = (tested.astype(int) @ tested.T.astype(int))[np.triu_indices(seeds, 1)] > 0
        # Of blocks none is shared, but their examples are: two means over n of which so many are common covary by that.
        by_own = (apart**2).sum(axis=1) * (tested.sum(axis=1) / np.maximum(tested.sum(axis=1) - 1, 1))
        shared += weight**2 * (products[pairs].mean() if pairs.any() else common * by_own.mean())
        count += int(tested.sum(axis=1).min()) - 1
    own, shared = float(np.var(by_seed, ddof=1) / seeds), max(float(shared), 0.0)
    return _of_parts(float(np.mean(by_seed)), own + shared, own, seeds, [(shared, max(count, 1))])


def has_drop(accuracy: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return whether a relative drop from an accuracy on ``count`` examples says something.

    A ratio has a bounded 95 % interval only if that of its denominator does not reach 0 (Fieller 1954); here it is
    ``p +- 1.96 sqrt(p (1 - p) / n)``. So a group that is seldom right needs four right answers.
    """
    p, n = np.asarray(accuracy, float), np.asarray(count, float)
    return n * p > students_t(np.inf) ** 2 * (1 - p)


def all_have_drop(before: np.ndarray) -> bool:
    """Return whether every run has a relative drop, of where it is right before the change, shape (runs, examples)."""
    return bool(has_drop(before.mean(axis=1), np.full(len(before), before.shape[1])).all())


def of_drops(found: Estimate, weights: Any, before: Any, count: Any) -> Estimate:
    """Return an estimate of a weighted sum of relative drops in percent that knows between what such a sum can lie.

    A group loses at most all that it had right, and gains at most until it is always right. What it had right is known
    from some examples: one that was right on all of them may still gain, from the lower end of Wilson's interval on.

    Args:
        found: of the sum.
        weights: of the drops, shape (groups,), or (seeds, groups) where it is the mean over seeds.
        before: accuracies that the drops are from, of the same shapes; of what has weight 0 they say nothing.
        count: of the examples that each of these is over, of the same shapes.
    """
    arrays = (np.asarray(of, float) for of in (weights, before, count))
    weights, before, count = np.broadcast_arrays(*arrays)
    had = wilson(before, count).low
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.where(weights == 0, 0.0, [weights * -100 * (1 - had) / had, weights * 100])
    least, most = (ends.min(axis=0), ends.max(axis=0)) if weights.size else np.zeros((2, 1))
    low, high = float(least.sum(axis=-1).mean()), float(most.sum(axis=-1).mean())
    return found._replace(value=_at_ends(found.value, low, high), least=low, most=high)


def drop_parts(before: np.ndarray, after: np.ndarray, *, relative: bool = True, counted: float = 1.0) -> np.ndarray:
    """Return the table of shape (seeds, examples + 2) whose mean is a group's relative accuracy drop in percent.

    The drop ``100 (1 - after / before)`` is linearised at the two accuracies, so that ``over_seeds_and_examples`` takes
    it. Two examples are added that the change turns from right to wrong, and the other way round: without them a small
    group on which nothing happened would have an interval of no width (Bonett and Price 2012, with one seed). They
    count by how far seeds agree about an example: fully where all say the same of it, since further seeds are then no
    further examples, and least where it changes by chance in each.

    Args:
        before: 1 where the network before the change is right, shape (seeds, examples of the group); NaN where a seed
            does not test an example.
        after: the same after it.
        relative: whether the drop is in percent of the accuracy before, or in points of accuracy.
        counted: which share of the examples is not 0 on both sides whatever is right, as those outside of the worst
            group are; the two that are added count as far.
    """
    before, after = np.asarray(before, float), np.asarray(after, float)
    shares = np.nanmean(before), np.nanmean(after)
    if not shares[0] and relative:
        return np.full((len(before), before.shape[1] + 2), np.nan)  # nothing can be lost
    ratio = float(shares[1] / shares[0]) if relative else 1.0
    before, after = _with_two(before, after, ratio, counted)
    level, other = np.nanmean(before), np.nanmean(after)
    if not relative:
        return 100 * (shares[0] - shares[1] + (before - level) - (after - other))
    return 100 * (1 - ratio + (ratio * (before - level) - (after - other)) / shares[0])


def bias_of_ratios(before: np.ndarray, after: np.ndarray) -> float:
    """Return by about how many points the mean over seeds of each one's own relative drop is too small on average.

    The noise of an accuracy before, ``B``, makes ``after / B`` too large by ``var(B) / B^2`` of it, and noise that both
    share takes ``cov / B^2`` of that away, to second order (Cochran 1977, 6.8): nothing is left where all that is right
    after is right before, and much where few are right and the two networks do not agree about which.

    Args:
        before: as ``drop_parts`` takes it; each seed is right somewhere.
        after: the same.
    """
    had, has, both = (np.nanmean(table, axis=1) for table in (before, after, np.multiply(before, after)))
    count = np.maximum((~np.isnan(before)).sum(axis=1) - 1, 1)
    noise, common = had * (1 - had) / count, (both - had * has) / count
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(100 * ((has / had * noise - common) / had**2).mean())


def _with_two(
    before: np.ndarray, after: np.ndarray, ratio: float, counted: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return answers before and after with the two examples that ``drop_parts`` adds."""
    extra = np.full((len(before), 1), np.sqrt(counted * _kept_by_mean(ratio * before - after)))
    return np.hstack([before, extra, 0 * extra]), np.hstack([after, 0 * extra, extra])


class Term(NamedTuple):
    """One group's relative drop in a sum of several.

    Attributes:
        weight: of the drop, one number or one for each seed.
        before: as ``drop_parts`` takes it.
        after: the same.
    """

    weight: Any
    before: np.ndarray
    after: np.ndarray

    @property
    def parts(self) -> np.ndarray:
        """What the drop is the mean of (``drop_parts``)."""
        return np.reshape(self.weight, (-1, 1)) * drop_parts(self.before, self.after)

    @property
    def slopes(self) -> np.ndarray:
        """By how much these change where the drop is supposed to be a point less, without the weight."""
        share = np.nanmean(self.before)
        before, _ = _with_two(self.before, self.after, float(np.nanmean(self.after) / share))
        return (before - np.nanmean(before)) / share


def contrast_of_drops(groups: Sequence[Sequence[Term]], value: float | None = None) -> Estimate:
    """Return a weighted sum of relative drops in percent, over seeds and examples together.

    A drop is a ratio, and its variance goes with it: a group of which few are right after the change by chance seems to
    have lost much, and this to be known well. By the variance at the drops that were seen, a small group that is seldom
    right is said to have lost more than a large one, and never less, in up to 9 of 100 pairs of networks that lost
    alike. So what the sum is supposed to be is held against the variance that it has there (Fieller 1954): drops are
    moved from those seen, as far as the noise of the accuracy before moves each.

    Args:
        groups: for each group of examples the terms that are measured on these; their accuracy before is above 0.
        value: the same sum as the mean over seeds of each one's own ratios; None for the ratio of means. Of several
            seeds it is too small by what the noise of the accuracy before adds to a ratio, about as much as the
            variance at the drops that were seen errs to the other side; so it keeps that.
    """
    tables, ones = [_summed([one.parts for one in terms]) for terms in groups], [1.0] * len(groups)
    found = over_seeds_and_examples(tables, ones)
    if value is not None:
        found = found._replace(value=np.asarray(value))
        if len(tables[0]) > 1:
            return found
    moved, whole = [], 0.0
    for terms in groups:
        parts = []
        for one in terms:
            noise = np.mean(one.weight) * float(over_seeds_and_examples([one.slopes]).variance)
            parts.append(np.reshape(one.weight, (-1, 1)) * noise * one.slopes)
            whole += np.mean(one.weight) * noise
        moved.append(_summed(parts))
    if not whole > 0:  # the weights of each group's seeds sum to 0, or nothing moves the accuracy before
        return found
    moved = [parts / whole for parts in moved]
    grow = float(over_seeds_and_examples(moved, ones).variance)
    # A variance is a quadratic form, of which three values say all.
    unit = np.sqrt(found.variance / grow)
    both = over_seeds_and_examples([t + unit * m for t, m in zip(tables, moved, strict=True)], ones).variance
    lean = np.clip((both / found.variance - 2) / 2, -1, 1) * found.variance / unit
    return found._replace(lean=lean, grow=grow)


def _summed(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the sum of tables of the same examples whose last columns are the two that ``drop_parts`` adds to each.

    These stay apart: two networks that are subtracted would cancel them, and have an interval of no width where nothing
    happens to a small group. Together they count as two, as of one drop.
    """
    if len(parts) == 1:
        return parts[0]
    count = np.where(np.isnan(parts[0]), 0.0, 1.0).sum(axis=1, keepdims=True)
    count[count == 0] = np.nan  # of a run in which some network has no drop
    means = [np.nansum(table, axis=1, keepdims=True) / count for table in parts]
    apart = [table - mean for table, mean in zip(parts, means, strict=True)]
    added = [table[:, -2:] for table in apart]
    middles = [two.mean(axis=1, keepdims=True) for two in added]
    added = [mid + (two - mid) / np.sqrt(len(parts)) for mid, two in zip(middles, added, strict=True)]
    columns = [np.sum([table[:, :-2] for table in apart], axis=0), *added]
    return np.sum(means, axis=0) + (count + 2 * len(parts) - 2) / count * np.hstack(columns)


def lost_parts(pairs: Sequence[Sequence[np.ndarray]], counted: Sequence[float] | None = None) -> np.ndarray:
    """Return the table whose mean is the accuracy lost, from 0 to 1: the mean over pairs of networks on these examples.

    Args:
        pairs: of each ``before`` and ``after`` as ``drop_parts`` takes them, which adds two examples: without these
            networks that few examples tell apart seem to be alike for sure.
        counted: of each pair, as ``drop_parts`` takes it.
    """
    both = zip(pairs, counted or [1.0] * len(pairs), strict=True)
    return _summed([drop_parts(*of, relative=False, counted=share) / 100 / len(pairs) for of, share in both])


def accuracy_lost(pairs: Sequence[Sequence[np.ndarray]]) -> Estimate:
    """Return the mean of ``lost_parts`` over seeds and examples together."""
    return over_seeds_and_examples([lost_parts(pairs)])._replace(least=-1.0, most=1.0)


def right_parts(right: np.ndarray) -> np.ndarray:
    """Return the table whose mean is a group's accuracy, with one example that is right and one that is wrong.

    Without these a small group that is all right is said to be more accurate than a large one, as it would have no
    noise (Agresti and Caffo 2000). They count by how far seeds agree, as those of ``drop_parts``.

    Args:
        right: 1 where the network is right, shape (seeds, examples of the group); NaN where a seed does not test one.
    """
    extra = np.full((len(right), 1), np.sqrt(_kept_by_mean(right)) / 2)
    return np.hstack([right, 0.5 + extra, 0.5 - extra])


def mean_drop(right: Sequence[Sequence[np.ndarray]]) -> Estimate:
    """Return the mean over groups of the relative drop in percent; NaN where some run has none in a group.

    Args:
        right: of each group ``before`` and ``after`` as ``drop_parts`` takes them, of runs that test the same examples.
    """
    if not all(all_have_drop(before) for before, _ in right):
        return Estimate(*(np.asarray(np.nan) for _ in range(3)))
    share, tables = 1 / len(right), [drop_parts(*of) for of in right]
    found = over_seeds_and_examples(tables, [share] * len(tables))
    return of_drops(found, share, [before.mean() for before, _ in right], [before.shape[1] for before, _ in right])


def _kept_by_mean(table: np.ndarray) -> float:
    """Return which share of the examples' variance is left by the mean over seeds: 1 of one that all of them repeat.

    Args:
        table: of shape (seeds, examples); NaN where a seed does not test an example.
    """
    tested, seeds = ~np.isnan(table), len(table)
    apart = np.where(tested, table - np.nanmean(table, axis=1, keepdims=True), 0.0)
    own = ((apart**2).sum(axis=1) / tested.sum(axis=1)).mean()
    if seeds == 1 or not own > 0:
        return 1.0
    pairs = np.triu_indices(seeds, 1)
    common, products = (tested.astype(float) @ tested.T)[pairs], (apart @ apart.T)[pairs]
    alike = (products[common > 0] / common[common > 0]).mean() / own if common.any() else 0.0
    return float(1 / seeds + (1 - 1 / seeds) * np.clip(alike, 0, 1))


def students_t(freedom: float, level: float = 0.95) -> float:
    """Return how many standard errors an interval by Student's t reaches to either side."""
    from scipy.stats import t

    return float(t.ppf((1 + level) / 2, freedom))


def of_mean(values: np.ndarray, scale: Scale = "real", level: float = 0.95, resamples: int = 1000) -> Interval:
    """Return the interval of a mean over examples, by the studentised bootstrap (Efron and Tibshirani 1993, 12.5).

    Losses and softmax gaps of a trained network are so skewed that Student's t and the percentile bootstrap miss far
    more than they should. The bootstrap's ends are those of a known spread, though, and the variance of a few that
    carry the mean is not: its degrees of freedom are ``2 n / (kurtosis - 1)``, and the ends are further away by as much
    as Student's quantile is than the normal one. In simulations (``tests/test_intervals.py``) this covers 93 to 97 %
    from ``FEW`` examples on, also for a network that is right for 99 % of them. NaN for less than ``FEW`` examples,
    where one is infinite, or where all are equal but so few that many random samples have none of these.

    Args:
        values: of the examples, shape (n,).
        scale: where the mean can lie; the ends are cut off there.
        level: of the interval.
        resamples: random samples, always the same ones.
    """
    values = np.asarray(values, float)
    count = len(values)
    if count < FEW or not np.isfinite(values).all() or not values.std() > 0:
        return Interval(np.asarray(np.nan), np.asarray(np.nan))
    mean = values.mean()
    rng, apart, found = np.random.default_rng(0), values - mean, []
    for begin in range(0, resamples, each := max(1, 2**22 // count)):
        drawn = apart[rng.integers(0, count, (min(each, resamples - begin), count))]
        spread = drawn.std(axis=1, ddof=1)
        spread[spread <= 8 * np.finfo(float).eps * np.abs(apart).max()] = 0.0  # of equal examples but for rounding
        with np.errstate(divide="ignore", invalid="ignore"):
            found.append(drawn.mean(axis=1) / spread)
    studentised = np.concatenate(found)
    studentised = studentised[~np.isnan(studentised)]
    # A sample without spread lies infinitely far away: where there are many, the interval has no end on that side.
    method = "linear" if np.isfinite(studentised).all() else "inverted_cdf"
    ends = np.quantile(studentised, [(1 + level) / 2, (1 - level) / 2], method=method) * _unknown_spread(apart, level)
    low, high = np.clip(mean - ends * values.std(ddof=1), *POSSIBLE.get(scale, (-np.inf, np.inf)))
    if not np.isfinite([low, high]).all():  # nothing is known of how large are the few that are not alike
        return Interval(np.asarray(np.nan), np.asarray(np.nan))
    return Interval(np.asarray(low), np.asarray(high))


def of_mean_over_runs(table: np.ndarray, scale: Scale = "real", level: float = 0.95) -> Interval:
    """Return the interval of a mean of skewed numbers, such as losses, over runs and examples that are the same in all.

    The ends are those of ``of_mean`` for the examples' means over runs, and what the runs add lies at right angles to
    them: ``sqrt(e^2 + t^2 V)``, with ``V`` the runs' own part of the mean's variance. Student's t for both together
    misses the skewness, and covers 89 to 90 % of 60 examples that networks are mostly right for
    (``tests/test_intervals.py``).

    Where runs have test sets of their own, an example counts by what it moves the mean of all runs, so that it is one
    example to those that share it.

    Args:
        table: one number for each run and example, shape (runs, examples); NaN where a run does not test an example.
        scale: where the mean can lie; the ends are cut off there.
        level: of the interval.
    """
    if np.isinf(table).any():
        return Interval(np.asarray(np.nan), np.asarray(np.nan))
    table = table[:, ~np.isnan(table).all(axis=0)]
    (runs, count), tested, means = table.shape, ~np.isnan(table), np.nanmean(table, axis=1, keepdims=True)
    apart = np.where(tested, table - means, 0.0) / tested.sum(axis=1, keepdims=True)
    by_example = table.mean(axis=0) if tested.all() else means.mean() + count * apart.mean(axis=0)
    ends = of_mean(by_example, scale, level)
    if runs == 1:
        return ends
    both = over_seeds_and_examples([table])
    own = max(float(both.variance) - by_example.var(ddof=1) / count, 0.0)
    reach, value = students_t(runs - 1, level) * np.sqrt(own), means.mean()
    least, most = POSSIBLE.get(scale, (-np.inf, np.inf))
    low = value - np.hypot(value - ends.low, reach)
    return Interval(*(np.clip(end, least, most) for end in (low, value + np.hypot(ends.high - value, reach))))


def _unknown_spread(apart: np.ndarray, level: float) -> float:
    """Return how much further an interval reaches since the variance of deviations is estimated from these too."""
    return students_t(_freedom(apart), level) / students_t(np.inf, level)


def _freedom(apart: np.ndarray) -> float:
    """Return the degrees of freedom of the variance of deviations, by their kurtosis: few where few carry it."""
    squares = (apart / np.abs(apart).max()) ** 2
    over_count = (squares**2).sum() / squares.sum() ** 2  # the kurtosis divided by the number of examples
    with np.errstate(divide="ignore"):  # a kurtosis of 1, of deviations of one size, leaves no doubt
        return float(2 / np.maximum(over_count - 1 / len(apart), 0.0))


def paired_shares(differences: np.ndarray, level: float = 0.95) -> Interval:
    """Return the interval of a difference of two shares of the same examples (Bonett and Price 2012).

    Args:
        differences: of the examples, 1, 0 or -1. Two are added, one gained and one lost, without which a small group on
            which nothing changed would have an interval of no width.
        level: of the interval.
    """
    parts = np.append(differences, [1.0, -1.0])
    found = Estimate(parts.mean(), parts.var(ddof=1) / len(parts), np.asarray(len(parts) - 1.0)).interval(level)
    return Interval(*(np.clip(end, -1.0, 1.0) for end in found))


def wilson(proportion: np.ndarray, count: np.ndarray, level: float = 0.95) -> Interval:
    """Return Wilson's score interval of a proportion seen on ``count`` samples (Wilson 1927); NaN for no samples.

    Raises:
        JaxfairError: A proportion is not between 0 and 1.
    """
    from scipy.stats import norm

    z2 = norm.ppf((1 + level) / 2) ** 2
    p, n = np.asarray(proportion, float), np.asarray(count, float)
    if (wrong := p[np.abs(p - 0.5) > 0.5 + 1e-9]).size:  # a mean of ones may round to more
        raise JaxfairError(f"A proportion is {wrong.flat[0]:g}; give one from 0 to 1, not in percent.")
    n = np.where(n > 0, n, np.nan)
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n**2))) / (1 + z2 / n)
    # Of none and of all one end is exact, where the formula rounds.
    return Interval(np.clip(centre - half, 0.0, p), np.clip(centre + half, p, 1.0))


def wilson_p_value(proportion: float, count: int, null: float) -> float:
    """Return the two-sided p-value of the score test, whose interval is ``wilson``'s, that a proportion is ``null``."""
    from scipy.stats import norm

    return float(2 * norm.sf(abs(proportion - null) / np.sqrt(null * (1 - null) / count)))
