"""What is judged: differences that are there or within noise, and orders that agree or do so by chance.

P-values are corrected for all that are judged together, intervals hold for all of them at once, and by too few seeds
nothing is judged. NumPy in and out.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxfair.intervals import Estimate

LEVEL = 0.05
"""Of p-values, corrected for all that are judged together; and one less the level of their intervals."""
SEEDS = 5
"""Of several seeds, at least so many before anything is judged: three rankings of three agree by chance in 7 %."""

Verdict = Literal["more", "less", "within noise", "too few"]
"""What is said of a difference; too few are the seeds."""


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return p-values corrected for their number, whatever their dependence (Holm 1979); NaN stays and counts not."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")[: np.isfinite(p).sum()]
    corrected = np.full(p.shape, np.nan)
    factors = len(order) - np.arange(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return corrected


class Judged(NamedTuple):
    """A difference as one of several.

    Attributes:
        value: of the difference.
        low, high: of an interval that holds for all of them at once (Bonferroni).
        p_value: two-sided, that it is 0.
        corrected: the same, corrected for their number.
        verdict: more or less: the interval is wholly on that side of 0, and the corrected p-value below 5 %.
    """

    value: float
    low: float
    high: float
    p_value: float
    corrected: float
    verdict: Verdict


def judge_together(found: Sequence[Estimate], seeds: int, among: int | None = None) -> list[Judged]:
    """Judge differences at the level 5 % for all of them together.

    Args:
        found: the differences.
        seeds: how many there are; two to four are too few to judge by, of one the noise is that of the examples.
        among: number of comparisons that they were picked from, for which they are corrected by Bonferroni; None for
            all that there are, whose p-values are corrected by Holm (1979).
    """
    p_values = np.array([float(estimate.p_value()) for estimate in found])
    corrected, judged = holm(p_values) if among is None else np.minimum(p_values * among, 1.0), []
    for estimate, p_value, together in zip(found, p_values, corrected, strict=True):
        low, high = map(float, estimate.interval(1 - LEVEL / (among or len(found))))
        verdict: Verdict = "within noise"
        if 1 < seeds < SEEDS:
            verdict = "too few"
        elif together < LEVEL and (low > 0 or high < 0):
            verdict = "more" if low > 0 else "less"
        judged.append(Judged(float(estimate.value), low, high, float(p_value), float(together), verdict))
    return judged


EXACT = 8
"""Rankings of at most so many items are enumerated (40,320 permutations); of more, so many random ones are drawn."""


@functools.lru_cache(8)  # a report asks for them dozens of times
def _orders(items: int) -> tuple[np.ndarray, Any]:
    """Return permutations, shape (permutations, items): all, or random ones; and the generator's state after these."""
    rng = np.random.default_rng(0)
    if items <= EXACT:
        orders = np.array(list(itertools.permutations(range(items))))
    else:
        orders = np.array([rng.permutation(items) for _ in range(math.factorial(EXACT))])
    orders.flags.writeable = False
    return orders, rng.bit_generator.state


def rank_p_value(x: np.ndarray, y: np.ndarray, *, shared: bool) -> tuple[float, float]:
    """Return the mean over seeds of Spearman's correlation of ``x`` and ``y``, and its permutation p-value (one-sided).

    Args:
        x: what is said to rank, shape (seeds, items).
        y: what is ranked, of the same shape.
        shared: whether one permutation of the items is drawn for all seeds: for groups, whose order is alike in every
            seed whatever causes it, so that seeds are no further evidence. Otherwise every seed has its own: for
            budgets, or data of a split of its own, which every seed goes through anew.

    Returns:
        The mean correlation; 0 for a seed in which all items tie. The share of permutations with at least that mean.
    """
    from scipy.stats import rankdata

    ranks = [rankdata(np.asarray(v, float), axis=1) - (np.shape(v)[1] + 1) / 2 for v in (x, y)]
    length = np.sqrt((ranks[0] ** 2).sum(axis=1) * (ranks[1] ** 2).sum(axis=1))
    first = ranks[0] / np.where(length > 0, length, 1.0)[:, None]
    orders, state = _orders(first.shape[1])
    rng = np.random.default_rng(0)
    rng.bit_generator.state = state
    found = np.einsum("si,spi->sp", first, ranks[1][:, orders])  # of each seed under each permutation
    observed, drawn = float((first * ranks[1]).sum(axis=1).mean()), first.shape[1] > EXACT
    if shared:
        chance = found.mean(axis=0)
    elif len(found) * math.log(len(orders)) <= math.log(4e6):
        chance = np.zeros(1)
        for row in found:  # every combination of the seeds' permutations
            chance = np.add.outer(chance, row / len(found)).ravel()
    else:
        chance, drawn = np.mean([rng.choice(row, 200_000) for row in found], axis=0), True
    count = float((chance >= observed - 1e-9).sum())
    if drawn:  # the order that was seen is one of them, too (Phipson and Smyth 2010)
        count = min(count, len(chance) - 1) + 1
    return observed, max(count, 1.0) / len(chance)
