"""How a group's loss changes with the parameters, and what its expansion to second order foretells of that.

The theorems' bounds (``bounds``) take norms of the two terms. Where the new parameters are known, the terms themselves
can be had, with their signs: ``g . d`` and ``1/2 d^T H d`` with ``d`` the change of the parameters, and gradient ``g``
and Hessian ``H`` of the group's loss before it; one Hessian product a group. On ReLU networks they miss more than the
third-order rest: where units cross their kink, the loss changes by curvature that no Hessian has (arXiv 2411.16914).
"""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxfair import groups, intervals, losses
from jaxfair.bounds import excess_loss_bound, parameter_distance
from jaxfair.curvature.checks import HOLDS_STATISTICS
from jaxfair.curvature.config import CurvatureConfig
from jaxfair.curvature.programs import LogitsFn, LossFn
from jaxfair.curvature.spectrum import check_counts, check_examples, group_curvature, group_losses
from jaxfair.data.dataset import Dataset, normalize
from jaxfair.errors import JaxfairError
from jaxfair.inputs import as_values, quoted
from jaxfair.intervals import Interval
from jaxfair.models import check_parameters, step_between, tree_difference
from jaxfair.networks.network import Network, frozen
from jaxfair.options import NotNegative, checked
from jaxfair.sensitivity import losses_on_segment

KINKS = "On ReLU networks the Hessian misses what happens where units cross their kink (arXiv 2411.16914)."
LEVEL = 0.5
TENTHS = tuple(i / 10 for i in range(11))


class Terms(NamedTuple):
    """The terms of each group's expansion; arrays of shape (groups,), losses in nats.

    Attributes:
        distance: ``||d||``, one number.
        loss: The loss before the change.
        first: ``g . d``.
        second: ``1/2 d^T H d``.
        bound: ``||g|| ||d|| + 1/2 lambda(H) ||d||^2`` (Das et al. 2024, Theorem 4.4); NaN without ``config``.
    """

    distance: float
    loss: np.ndarray
    first: np.ndarray
    second: np.ndarray
    bound: np.ndarray


class Line(NamedTuple):
    """Each group's change of loss on the straight line to the new parameters; t fractions of the way, g groups.

    Attributes:
        fraction: Fractions of the way, ascending, shape (t,).
        actual: Change of the loss in nats, shape (t, g).
        first: What the first term foretells, ``t g . d``, shape (t, g).
        both: What both terms foretell, ``t g . d + t^2/2 d^T H d``, shape (t, g).
        rounding: Changes that are no more than rounding of the loss, shape (g,).
        terms: The terms for the whole way.
    """

    fraction: np.ndarray
    actual: np.ndarray
    first: np.ndarray
    both: np.ndarray
    rounding: np.ndarray
    terms: Terms

    def error(self, foretold: np.ndarray) -> np.ndarray:
        """Return ``|foretold - actual|`` over the larger of the two's magnitudes, shape (t, g): from 0 to 2.

        It is 0 where both are no more than rounding, and NaN where one of the two is.
        """
        scale = np.maximum(np.abs(self.actual), np.abs(foretold))
        apart = np.abs(foretold - self.actual)
        return np.where(scale <= self.rounding, 0.0, apart / np.where(scale == 0, 1, scale))

    @checked
    def breaks(self, level: NotNegative = LEVEL) -> tuple[np.ndarray, np.ndarray]:
        """Return from which fraction on the error exceeds ``level``, with one term and with both, each of shape (g,).

        It is the first of the fractions that were looked at; infinite where the error stays within the level, and NaN
        where it is NaN at some fraction.
        """

        def first(foretold: np.ndarray) -> np.ndarray:
            error = self.error(foretold)
            beyond = error > level
            found = np.where(beyond.any(axis=0), self.fraction[beyond.argmax(axis=0)], np.inf)
            return np.where(np.isnan(error).any(axis=0), np.nan, found)

        return first(self.first), first(self.both)


@checked
def taylor_terms(
    logits_fn: LogitsFn,
    before: Any,
    after: Any,
    x: Any,
    y: Any,
    weights: Any,
    config: CurvatureConfig | None = None,
    *,
    loss: LossFn = losses.cross_entropy,
) -> Terms:
    """Compute the terms of each group's loss, expanded at ``before`` in the direction of ``after``.

    Exact for a quadratic loss. Whatever the parameters hold counts: of a network of jaxfair,
    ``frozen(network, masks="free")`` is a function of weights and masks together.

    Args:
        logits_fn: ``(params, x) -> logits`` of shape (n, classes), deterministic and in evaluation mode.
        before: Pytree of floating-point arrays.
        after: Another of the same structure and shapes.
        x: Inputs, a pytree of arrays with n examples along the first axis.
        y: Labels, integers of shape (n,), or what ``loss`` takes.
        weights: Weight of each example in each group, shape (groups, n), from ``groups.group_weights``.
        config: How eigenvalues for the bound of Theorem 4.4 are found; None leaves it out, which is quick.
        loss: ``(outputs of logits_fn, y) -> losses`` of shape (n,), one for each example.

    Raises:
        JaxfairError: The two have not the same parameters, or some are not finite, shapes or types do not match, or a
            group has no weight.
    """
    if reason := tree_difference(before, after):
        raise JaxfairError(f"There is no straight line between the two: {reason}.")
    check_parameters(after)
    if config is not None:
        check_counts(config, before)
    before, x, y, rows = check_examples(logits_fn, before, x, y, weights, loss)
    step, found = step_between(before, after), []
    for group in group_losses(logits_fn, before, x, y, rows, config or CurvatureConfig(), loss=loss):
        curved = np.asarray(group.operator(step), float) if step.any() else np.zeros(step.shape)
        along = step.astype(float)
        found.append((group.loss, float(np.asarray(group.gradient, float) @ along), 0.5 * float(along @ curved)))
    value, first, second = np.array(found).T
    distance, bound = parameter_distance(before, after), np.full(len(rows), np.nan)
    if config is not None:
        found = group_curvature(logits_fn, before, x, y, rows, config, loss=loss)
        # Lanczos comes from below: an eigenvalue lies within the residual.
        top = found.top_eigenvalue + found.top_eigenvalue_residual
        bound = excess_loss_bound(found.gradient_norm, top, distance, np.zeros(len(rows))).bound
    return Terms(distance, value, first, second, bound)


@checked
def along_line(
    logits_fn: LogitsFn,
    before: Any,
    after: Any,
    x: Any,
    y: Any,
    weights: Any,
    fractions: Sequence[float] | np.ndarray = TENTHS,
    *,
    loss: LossFn = losses.cross_entropy,
) -> Line:
    """Compare each group's expansion with its loss on the straight line from ``before`` to ``after``.

    Where the expansion breaks says how far a change may go for its terms, and the theorems' bounds, to mean anything.

    Args:
        logits_fn: As for ``taylor_terms``, as are the next five.
        before: See there.
        after: See there.
        x: See there.
        y: See there.
        weights: See there.
        fractions: Of the way, from 0 to 1, ascending, shape (t,).
        loss: See there.

    Raises:
        JaxfairError: As ``taylor_terms``, or the fractions are not ascending numbers from 0 to 1.
    """
    t = as_values(fractions, "fractions")
    if t.ndim != 1 or not t.size or (np.diff(t) <= 0).any() or not (t[0] >= 0 and t[-1] <= 1):
        raise JaxfairError(f"The fractions are [{quoted(t.ravel(), 6)}]; give ascending numbers from 0 to 1.")
    terms = taylor_terms(logits_fn, before, after, x, y, weights, loss=loss)
    seen = losses_on_segment(logits_fn, before, after, x, y, weights, np.append(0.0, t), loss=loss)
    first = t[:, None] * terms.first
    epsilon = float(jnp.finfo(jnp.result_type(*jax.tree.leaves(before))).eps)
    rounding = 8 * epsilon * np.maximum(np.abs(seen).max(axis=0), 1e-30)
    return Line(t, seen[1:] - seen[0], first, first + t[:, None] ** 2 * terms.second, rounding, terms)


class NetworkLines(NamedTuple):
    """What the expansion foretells of a change of a network, in two sets of coordinates.

    Attributes:
        weights: In the weights alone, masks and batch statistics kept: those of Theorem 4.4, whose line does not end
            at the changed network.
        joint: In weights, masks and batch statistics, all that the change has changed.
        rise: Change of each group's loss from the one network to the other, shape (groups,), in nats.
    """

    weights: Line
    joint: Line
    rise: np.ndarray


@checked
def network_lines(
    before: Network, after: Network, data: Dataset, fractions: Sequence[float] | np.ndarray = TENTHS
) -> NetworkLines:
    """Compare the expansion of each group's loss with what a change, such as linearization, did to a network.

    Theorem 4.4 of Das et al. 2024 expands in the weights. A linearized network has other masks and batch statistics
    too, in which its function is smooth as well: the expansion at (weights, masks of 1, statistics) contains what the
    theorem leaves out.

    Args:
        before: A network of jaxfair.
        after: What it became: a network of the same module.
        data: Examples, with a group for each of ``data.group_names`` that occurs.
        fractions: Of the way, from 0 to 1, ascending.

    Raises:
        JaxfairError: The networks are of different modules, have not the same variables, or a group has no example.
    """
    fractions = as_values(fractions, "fractions")
    if before.module != after.module:
        raise JaxfairError(
            "The networks are of different modules, by their sizes or their arithmetic, and no line leads from one to "
            "the other; give two of the same module, as change_report does without a line."
        )
    weights = groups.group_weights(data.group, len(data.group_names))
    here, there = ((one.params, one.masks, one.batch_stats) for one in (before, after))

    def line(logits_fn: Partial, start: Any, end: Any, at: np.ndarray) -> Line:
        normalized = Partial(_of_images, logits_fn, data.mean, data.std)  # a whole set of floats would be four times it
        return along_line(normalized, start, end, data.images, data.label, weights, at)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", HOLDS_STATISTICS)  # as they have to here
        joint = line(frozen(before, masks="free"), here, there, np.union1d(fractions, 1.0))
    alone = line(frozen(before), before.params, after.params, fractions)
    kept = np.isin(joint.fraction, fractions)
    shown = joint._replace(**{name: getattr(joint, name)[kept] for name in ("fraction", "actual", "first", "both")})
    return NetworkLines(alone, shown, joint.actual[-1])


def _of_images(logits_fn: Partial, mean: Any, std: Any, point: Any, images: Any) -> Any:
    return logits_fn(point, normalize(images, mean, std))


class Agreement(NamedTuple):
    """How well what was foretold agrees with what happened, over the items of each run; means over runs.

    Attributes:
        runs, items: How many.
        r2: 1 less the geometric mean over runs of what is left unexplained, ``sum (actual - foretold)^2 / sum (actual -
            mean)^2``: 1 is exact, 0 no better than the mean of what happened, negative worse. NaN where some runs are
            foretold exactly and others not, since these would not count; -inf or NaN where all changes of a run are
            alike, of which nothing is to be explained.
        r2_interval: 95 %, over runs; NaN for one, and where a run was foretold exactly.
        rank: Spearman's rank correlation.
        rank_interval: 95 %, over runs; NaN for one.
    """

    runs: int
    items: int
    r2: float
    r2_interval: Interval
    rank: float
    rank_interval: Interval


@checked
def agreement(foretold: np.ndarray, actual: np.ndarray) -> Agreement:
    """Compare foretold with actual changes of loss.

    Items of a run, such as groups and budgets, share its network and are no independent evidence; so the intervals are
    over runs, for these items. What is left unexplained of few items is skewed, so that a mean of it hangs on its
    rarest runs and no interval of it covers; that of its logarithm does (``tests/test_taylor.py``).

    Args:
        foretold: Shape (runs, ...), the runs such as seeds first.
        actual: Of the same shape.

    Raises:
        JaxfairError: The shapes differ, there are less than two items, or a number is not finite.
    """
    pair = [as_values(values, "changes") for values in (foretold, actual)]
    if pair[0].shape != pair[1].shape or pair[0].ndim < 2 or not np.isfinite(pair).all():
        raise JaxfairError(
            f"Foretold and actual changes have shapes {pair[0].shape} and {pair[1].shape}; give finite numbers in one "
            "shape, (runs, items)."
        )
    told, seen = (values.reshape(len(values), -1) for values in pair)
    if told.shape[1] < 2:
        raise JaxfairError(f"Each run has {told.shape[1]} item; give at least two, such as groups, to compare.")
    spread = ((seen - seen.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        left = ((seen - told) ** 2).sum(axis=1) / spread
        unexplained = intervals.over_seeds(np.log(np.where(left > 0, left, np.nan) if left.any() else left))
        low, high = unexplained.interval()
    ranks = np.round([_spearman(a, b) for a, b in zip(told, seen, strict=True)], 12)  # 1 by another path of sums
    rank = intervals.over_seeds_of_ranks(ranks, told.shape[1])
    return Agreement(
        *told.shape,
        float(1 - np.exp(unexplained.value)),
        Interval(1 - np.exp(high), 1 - np.exp(low)),
        float(rank.value),
        rank.interval(scale="correlation"),
    )


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Return the rank correlation; 0 where one ties throughout, which ranks nothing."""
    from scipy.stats import rankdata

    ranks = [rankdata(values) - (len(values) + 1) / 2 for values in (x, y)]
    length = np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum())
    return float(ranks[0] @ ranks[1] / length) if length > 0 else 0.0
