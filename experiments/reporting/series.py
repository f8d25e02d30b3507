"""A measured quantity: its mean over seeds with an interval, and both as text."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxfair import intervals
from jaxfair.intervals import Interval, Scale
from jaxfair.words import written


class Estimate(NamedTuple):
    """Means and the ends of their 95 % intervals, numbers or arrays of one shape.

    Attributes:
        mean: NaN where the quantity is not known.
        low: NaN where there is no interval, as for one seed.
        high: the same.
    """

    mean: Any
    low: Any
    high: Any

    def at(self, index: Any) -> "Estimate":
        """Return the part of the arrays at an index."""
        return Estimate(*(np.asarray(part)[index] for part in self))

    @property
    def reach(self) -> np.ndarray:
        """How far the intervals reach down and up from the means, shape (2, ...); 0 where there is none."""
        mean, low, high = (np.asarray(part, float) for part in self)
        return np.nan_to_num(np.maximum([mean - low, high - mean], 0.0))  # one that misses its mean by rounding, too


def over_seeds(values: Any, scale: Scale = "real") -> Estimate:
    """Return the mean over seeds, the first axis of ``values``, with Student's t interval where it can lie."""
    return of(intervals.over_seeds(np.asarray(values, float)), scale)


def shares(values: Any, counts: Any, *, sampled: bool = False) -> Estimate:
    """Return the mean over seeds of shares of so many images, such as accuracies, with its interval.

    It is Student's t over seeds. Where these do not differ, or there is one, nothing is known of their noise, and an
    interval of no width would say that there is none: there it is Wilson's, of what so many images can show.

    Args:
        values: shares of each seed, shape (seeds, ...).
        counts: images of one seed, a number or of the shape of one seed's shares; of seeds that differ the fewest.
        sampled: whether the images are a sample themselves, as validation images are. Seeds that share them do not show
            that, so no interval is narrower than Wilson's of one seed's images.
    """
    values = np.asarray(values, float)
    found, by_images = over_seeds(values, "share"), intervals.wilson(values.mean(axis=0), np.asarray(counts, float))
    differ = np.ptp(values, axis=0) > 0
    low, high = (np.where(differ, *ends) for ends in zip(found[1:], by_images, strict=True))
    if sampled:
        low, high = np.minimum(low, by_images.low), np.maximum(high, by_images.high)
    return Estimate(found.mean, low, high)


def right(tables: Sequence[np.ndarray]) -> Estimate:
    """Return the mean share of right answers over groups that count the same, over seeds and test images together.

    Args:
        tables: for each group 1 where a prediction is right, shape (seeds, images); NaN where a seed does not test it.
    """
    counts = np.array([np.isfinite(table).sum(axis=1).min() for table in tables])
    mean = float(np.mean([np.nanmean(table) for table in tables]))
    # A group that all seeds have all right, or all wrong, shows no noise; so many images might have shown some.
    least = intervals.wilson(np.asarray(mean), np.asarray(len(tables) ** 2 / np.sum(1 / counts)))
    if not 0 < mean < 1 or counts.min() < 2:
        return Estimate(mean, *least)
    estimate = intervals.over_seeds_and_examples(tables, [1 / len(tables)] * len(tables))
    if not estimate.variance > 0:  # all seeds have as many right, of few images
        return Estimate(mean, *least)
    found = of(estimate, "share")
    if all(0 < np.nanmean(table) < 1 for table in tables):
        return found
    return Estimate(mean, np.minimum(found.low, least.low), np.maximum(found.high, least.high))


def of(found: intervals.Estimate, scale: Scale = "real", level: float = 0.95) -> Estimate:
    """Return a mean of which the error is known with its interval."""
    return Estimate(found.value, *found.interval(level, scale))


def with_interval(mean: Any, interval: Interval) -> Estimate:
    """Return means with intervals that were computed elsewhere."""
    return Estimate(mean, *interval)


def stack(estimates: Any) -> Estimate:
    """Return estimates of one shape as one, along a new first axis."""
    return Estimate(*(np.stack(part) for part in zip(*estimates, strict=True)))


UNKNOWN = Estimate(np.nan, np.nan, np.nan)
"""A quantity that a study does not have."""


ROUNDING = 1e-12
"""Of a mean and its ends, what is smaller than this share of the largest is written as 0: it is sums in float64.

An end may be astronomically wide, of two seeds, and counts as 1.
"""


def pieces(value: Estimate, form: str = ".3g") -> tuple[str, str]:
    """Return a mean and its interval as text, each empty where it is not known.

    Args:
        value: of one number.
        form: how numbers are written, a format specification such as ``.3f``.
    """
    mean, low, high = (float(part) for part in value)
    if not np.isfinite(mean):
        return "", ""
    if not (np.isfinite(low) and np.isfinite(high)):
        return written(mean, form), ""
    rounding = ROUNDING * min(max(abs(mean), abs(low), abs(high)), max(abs(mean), 1.0))
    mean, *ends = (written(0.0 if abs(part) < rounding else part, form) for part in (mean, low, high))
    return mean, f"({' to '.join(ends)})"


def text(value: Estimate, form: str = ".3g") -> str:
    """Return a mean with its interval in one line: ``1.5 (1.2 to 1.8)``; see ``pieces``."""
    return " ".join(filter(None, pieces(value, form)))
