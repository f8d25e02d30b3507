"""Groups as weights over examples, and intervals for what is measured on them."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxfair import intervals
from jaxfair.errors import JaxfairError
from jaxfair.grouping import as_groups
from jaxfair.inputs import absent, are_whole, as_values, check_lengths, check_told_apart, on_host, quoted, unboxed
from jaxfair.intervals import Interval
from jaxfair.options import Level, checked

__all__ = [
    "Interval",
    "as_numbers",
    "drop_interval",
    "group_means",
    "group_weights",
    "relative_drop",
    "seed_interval",
    "wilson",
]


MOST_GROUPS = 10**6
"""More are ids of something else, for which there is no memory."""
MOST_WEIGHTS = 2**29
"""Of all groups and examples together: 2 GiB."""


@checked
def wilson(proportion: Any, count: Any, level: Level = 0.95) -> Interval:
    """Return Wilson's score interval of a proportion seen on ``count`` samples (Wilson 1927); NaN for no samples.

    Args:
        proportion: Proportions from 0 to 1, of any shape.
        count: Their numbers of samples, one for all or of the same shape.
        level: Of the interval.

    Raises:
        JaxfairError: These are no numbers, are masked, or do not fit each other; a proportion is not between 0 and 1,
            or a count is below 0.

    Example:
        >>> from jaxfair.groups import wilson
        >>> print(*(end.round(3) for end in wilson(0.8, 100)))
        0.711 0.867
    """
    try:
        np.asarray(proportion, float), np.asarray(count, float)
    except (TypeError, ValueError) as error:
        raise JaxfairError("The proportion or its count is no number; give numbers.") from error
    shares, counts = as_values(proportion, "proportions"), as_values(count, "counts")
    if counts.shape not in ((), shares.shape):
        raise JaxfairError(f"Proportions have shape {shares.shape} and counts {counts.shape}; give as many.")
    if (counts < 0).any():
        raise JaxfairError(f"A count is {counts.min():g}; give numbers of samples, from 0 on.")
    return intervals.wilson(shares, counts, level)


@checked
def group_weights(group: Int[Array, " n"] | Int[np.ndarray, " n"], num_groups: int) -> Float[Array, "g n"]:
    """Return ``w[g, i] = [group_i = g] / n_g``, so that ``w @ values`` are the groups' means.

    Args:
        group: Group of each example, integers 0..num_groups-1, shape (n,).
        num_groups: Number of groups g.

    Raises:
        JaxfairError: The groups are not integers of that range, or one of them has no sample, whose mean would not
            exist.

    Example:
        >>> import numpy as np
        >>> from jaxfair import group_weights
        >>> print(group_weights(np.array([0, 0, 1]), 2))
        [[0.5 0.5 0. ]
         [0.  0.  1. ]]
    """
    group = on_host(group, "groups")
    group = as_numbers(group, len(np.atleast_1d(group)), num_groups)
    if num_groups * group.size > MOST_WEIGHTS:
        raise JaxfairError(
            f"{num_groups:,} groups of {group.size:,} examples have more weights than memory; merge groups: a number "
            "for each example is no group."
        )
    counts = np.bincount(group, minlength=num_groups)
    if (counts == 0).any():
        raise JaxfairError(
            f"Group {quoted(np.flatnonzero(counts == 0))} has no sample; number the groups that there are: "
            "numpy.unique(group, return_inverse=True)[1]."
        )
    member = jnp.asarray(group)[None] == jnp.arange(num_groups)[:, None]
    counts = jnp.asarray(counts, float)[:, None]
    return member.astype(counts.dtype) / counts


def as_numbers(group: Any, count: int, num_groups: int | None = None) -> Int[np.ndarray, " n"]:
    """Return the group of each of ``count`` examples as an array on the host.

    Args:
        group: Group of each example, integers from 0, shape (count,) or one column.
        count: Number of examples.
        num_groups: Number of groups; None for as many as the largest of them says.

    Raises:
        JaxfairError: The groups are not integers, missing, not one for each example, or out of range.
    """
    if num_groups is not None and num_groups < 1:
        raise JaxfairError(f"The number of groups is {num_groups}; give at least 1.")
    if num_groups is not None and num_groups > MOST_GROUPS:
        raise JaxfairError(f"The number of groups is {num_groups}; give at most {MOST_GROUPS}.")
    group = unboxed(on_host(group, "groups"))
    group = group[:, 0] if group.ndim == 2 and group.shape[1] == 1 else group
    if group.shape != (count,):
        raise JaxfairError(f"The groups have shape {group.shape} for {count} labels; give one for each example.")
    if (missing := absent(group)).any():
        raise JaxfairError(f"{missing.sum()} of {count} examples have no group; leave them out of all arrays.")
    check_told_apart(group, "groups")
    if group.dtype.kind not in "iu":
        if group.dtype.kind not in "fb" or not are_whole(group.astype(float)).all():
            raise JaxfairError(
                f"The groups have type {group.dtype}; give integers 0..G-1: "
                "group_names, group = numpy.unique(group, return_inverse=True)."
            )
        group = group.astype(int)
    most = MOST_GROUPS - 1 if num_groups is None else num_groups - 1
    if group.size and not 0 <= group.min() <= group.max() <= most:
        wanted = f"numbers from 0 on, at most {most}" if num_groups is None else f"0 to {most}"
        raise JaxfairError(f"The groups run from {group.min()} to {group.max()}; expected {wanted}.")
    return group.astype(int)  # of one type, whatever it was: JAX may be told to compare no others


@checked
def group_means(values: np.ndarray | Array, group: np.ndarray | Array, num_groups: int) -> np.ndarray:
    """Return the mean of ``values`` (n,) over each group, in float64; NaN for a group without a sample.

    Raises:
        JaxfairError: The values are no numbers, or the groups are not integers 0..num_groups-1, one for each value.

    Example:
        >>> import numpy as np
        >>> from jaxfair import group_means
        >>> print(group_means(np.array([1.0, 3.0, 5.0]), np.array([0, 0, 1]), 2))
        [2. 5.]
    """
    values = np.atleast_1d(as_values(values, "values"))
    if values.ndim > 1:
        raise JaxfairError(f"The values have shape {values.shape}; give one for each example.")
    group = as_numbers(group, len(values), num_groups)
    sums = np.bincount(group, weights=values, minlength=num_groups)
    with np.errstate(invalid="ignore"):
        return sums / np.bincount(group, minlength=num_groups)


@checked
def relative_drop(before: np.ndarray | Array, after: np.ndarray | Array) -> np.ndarray:
    """Return ``(before - after) / before`` in percent; negative means improved (Das et al. 2024, 5.1).

    NaN where ``before`` is 0: nothing can be lost. One of both may lack leading axes of the other, or have 1 there,
    such as one seed.

    Raises:
        JaxfairError: The accuracies are no numbers, or their shapes do not match.

    Example:
        >>> import numpy as np
        >>> from jaxfair import relative_drop
        >>> print(relative_drop(np.array([0.8, 0.5]), np.array([0.6, 0.5])).round(6))
        [25.  0.]
    """
    before, after = (as_values(values, "accuracies") for values in (before, after))
    short, long = sorted((before.shape, after.shape), key=lambda shape: (math.prod(shape), len(shape)))
    while len(short) > 1 and short[0] == 1:
        short = short[1:]
    if short != long[len(long) - len(short) :]:  # a column beside a row would make a table of all pairs
        shapes = f"{before.shape} before and {after.shape} after"
        raise JaxfairError(f"The accuracies have shapes {shapes}; give equally many.")
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(before > 0, 100 * (before - after) / before, np.nan)


@checked
def seed_interval(values: np.ndarray, level: Level = 0.95, scale: intervals.Scale = "real") -> Interval:
    """Return Student's t interval of the mean over seeds, the first axis of ``values``.

    With three to ten seeds a bootstrap over seeds is far too narrow; t is exact for normal values. NaN for one seed.

    Args:
        values: One of each seed.
        level: Confidence level.
        scale: Where the values can lie, and the interval then does: ``share`` from 0 to 1, as accuracies do,
            ``positive`` above 0, as norms, ``correlation`` from -1 to 1, ``percent`` below 100, as relative drops.

    Raises:
        JaxfairError: There are no values, or one lies where none of the scale can.

    Example:
        >>> import numpy as np
        >>> from jaxfair.groups import seed_interval
        >>> print(*(end.round(3) for end in seed_interval(np.array([0.99, 0.98, 0.999]), scale="share")))
        0.905 0.999
    """
    values = np.atleast_1d(as_values(values, "values"))
    if not values.size:
        raise JaxfairError("There are no values; give one for each seed.")
    low, high = intervals.POSSIBLE.get(scale, (-np.inf, np.inf))
    if (wrong := values[(values < low) | (values > high)]).size:
        raise JaxfairError(
            f"A value is {wrong[0]:g}, and the scale '{scale}' is from {low:g} to {high:g}; name another."
        )
    return intervals.over_seeds(values).interval(level, scale)


@checked
def drop_interval(
    correct_before: np.ndarray, correct_after: np.ndarray, group: np.ndarray | None = None, *, level: Level = 0.95
) -> Interval:
    """Return the interval of the relative accuracy drop in percent, meaned over groups, over seeds and test examples.

    All seeds are measured on the same examples, so these do not average out over seeds, and before and after are
    paired. It is that of ``change_report``'s drops (``intervals.drop_parts``).

    Args:
        correct_before: Whether the full network is right, 1.0 or 0.0, shape (seeds, examples).
        correct_after: The same for the linearized network of each seed.
        group: Group of each example, shape (examples,); None for one group. Every group counts the same, whatever its
            size.
        level: Confidence level.

    Returns:
        NaN where the full network of some seed is right too seldom in a group for a relative drop
        (``intervals.has_drop``), as in ``change_report``.

    Raises:
        JaxfairError: Shapes do not match, a value is not between 0 and 1, an example has no group, or the level is not
            between 0 and 1.

    Example:
        >>> import numpy as np
        >>> from jaxfair.groups import drop_interval
        >>> before, after = np.ones((3, 50)), np.ones((3, 50)) * (np.arange(50) >= 10)
        >>> print(*(end.round(1) for end in drop_interval(before, after)))
        6.9 31.2
    """
    correct_before, correct_after = (as_values(correct, "predictions") for correct in (correct_before, correct_after))
    shapes = correct_before.shape, correct_after.shape
    if len(shapes[0]) != 2 or shapes[0] != shapes[1] or not correct_before.size:
        raise JaxfairError(f"Predictions have shapes {shapes[0]} and {shapes[1]}; give (seeds, examples) for both.")
    for correct in (correct_before, correct_after):
        if (odd := correct[~(np.abs(correct - 0.5) <= 0.5)]).size:
            raise JaxfairError(f"A prediction is {odd[0]:g}; give 1 where one is right and 0 where it is wrong.")
    number = shapes[0][1]
    group, _, kept = as_groups(np.zeros(number, int) if group is None else group, missing="drop")
    check_lengths(predictions=number, groups=len(group))
    if not kept.all():
        raise JaxfairError(f"{(~kept).sum()} of {number} examples have no group; leave them out of all three.")
    members = [np.flatnonzero(group == value) for value in np.unique(group)]
    right = [(correct_before[:, of], correct_after[:, of]) for of in members]
    return intervals.mean_drop(right).interval(level, "percent")
