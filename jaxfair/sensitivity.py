"""What the choice of hardware changes, group by group (Nelaturu et al. 2024), and whether it is more than rounding.

The first functions are the paper's quantities; ``bounds.sensitivity_bound`` is their theorem. The paper compares
hardwares with each other only. ``spread_against_control`` compares them with controls: the same training again from
weights that differ in the last place, which ends somewhere else too, since training is chaotic.

Shapes: m hardware profiles, k controls, s seeds, g groups, t logged steps.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxfair import losses
from jaxfair.bounds import parameter_distance
from jaxfair.curvature.chunks import over_chunks
from jaxfair.curvature.programs import LogitsFn, LossFn, Model, as_pytree, at_precision, per_example
from jaxfair.curvature.spectrum import check_examples
from jaxfair.errors import JaxfairError
from jaxfair.groups import Interval, seed_interval
from jaxfair.inputs import as_array, as_values, on_one_device, quoted, unboxed
from jaxfair.models import widened
from jaxfair.options import Level, Seed, checked


class SpreadTest(NamedTuple):
    """Hardware's spread of a quantity against that of the controls; NaN where a value that it needs is not finite.

    Attributes:
        spread: Mean over seeds of ``|profile - reference|``, shape (m, g), in the quantity's unit.
        control: Mean over seeds and controls of ``|control - reference|``, shape (g,).
        excess: Difference ``spread - control``, shape (m, g).
        interval: Student's t interval of the excess over seeds, each of shape (m, g); not corrected for their number.
        p_value: Probability that labels dealt at random make the excess as large, shape (m, g).
        family_p_value: The same for the largest excess of all groups, shape (m, g): small where this group's excess
            would be surprising even as the largest. For a statement about all profiles multiply by m (Bonferroni).
        smallest_p_value: Smallest p-value that can come out, with so many seeds and controls.
    """

    spread: np.ndarray
    control: np.ndarray
    excess: np.ndarray
    interval: Interval
    p_value: np.ndarray
    family_p_value: np.ndarray
    smallest_p_value: float


@checked
def group_sensitivity(loss: Float[np.ndarray, "*batch m g"]) -> Float[np.ndarray, "*batch m g"]:
    """Compute ``Delta(a, m) = max_m' |J(theta_m; D_a) - J(theta_m'; D_a)|`` (Nelaturu et al. 2024, section 3).

    Args:
        loss: Loss of each profile and group in nats, shape (..., m, g); axes before these, such as seeds, are kept.

    Returns:
        Delta with every profile as the reference in turn; NaN for a group of which a loss is not finite.

    Raises:
        JaxfairError: There are no two profiles to compare.
    """
    loss = _finite(loss).astype(float)
    if loss.ndim < 2 or loss.shape[-2] < 2:
        raise JaxfairError(f"The losses have shape {loss.shape}; give (..., profiles, groups), at least 2 profiles.")
    low, high = loss.min(axis=-2, keepdims=True), loss.max(axis=-2, keepdims=True)
    return np.maximum(loss - low, high - loss)


@checked
def fairness_violation(sensitivity: Float[np.ndarray, "*batch g"]) -> Float[np.ndarray, "*batch"]:
    """Compute ``xi = max_{a, a'} |Delta(a) - Delta(a')|`` in nats (Nelaturu et al. 2024, section 3)."""
    found = as_values(sensitivity, "sensitivities")
    if not found.ndim or not found.shape[-1]:
        raise JaxfairError(f"The sensitivities have shape {found.shape}; give one for each group.")
    return np.asarray(np.ptp(found, axis=-1))


@checked
def spread_against_control(
    reference: Float[np.ndarray, "s g"],
    profiles: Float[np.ndarray, "m s g"],
    controls: Float[np.ndarray, "k s g"],
    *,
    arrangements: int = 100_000,
    seed: Seed = 0,
    level: Level = 0.95,
) -> SpreadTest:
    """Test whether each profile moves a quantity of a group further from the reference than the controls do.

    The statistic is the mean over seeds of ``|profile - reference|`` less its mean over the controls. The null
    hypothesis: given a seed's reference, the profile's deviation is drawn like those of the controls. Then its label
    may go to any of the ``k + 1`` runs of each seed (with one control: a sign flip), and the p-value is the share of
    these ``(k + 1)^s`` arrangements whose statistic is at least as large, which is valid for any distribution and
    however few seeds. If there are more than ``arrangements``, so many are drawn and the true one is counted among them
    (Phipson & Smyth 2010). No p-value is below ``(k + 1)^-s``: 1/8 for 3 seeds and 1/32 for 5 with one control, 1/27
    and 1/243 with two; a further control costs one training a seed, a further seed one of everything.

    Groups are dealt together, so that the largest of their statistics, each over its standard deviation among the
    arrangements, keeps the groups' dependence (single-step maxT, Westfall & Young 1993). Profiles are not: two with the
    same arithmetic give the same bits, and could not be exchanged with controls. For the same reason there is no test
    of a mean or maximum over profiles, such as ``group_sensitivity``.

    The interval does not come from the test, with which it may disagree near the edge: it is ``groups.seed_interval``.

    Args:
        reference: Quantity (loss, accuracy) of each seed and group on the reference hardware, shape (s, g).
        profiles: The same on each other hardware, from the same seeds, shape (m, s, g).
        controls: The same after the reference's training again from weights that differ by one unit in the last place,
            shape (k, s, g); each control starts from other weights.
        arrangements: Number of arrangements to look at, at most.
        seed: Seed of the draw, where there are more.
        level: Level of the interval.

    Raises:
        JaxfairError: Shapes do not match, or there is no control.
    """
    values = [_finite(value) for value in (reference, profiles, controls)]
    if [value.ndim for value in values] != [2, 3, 3] or len({value.shape[-2:] for value in values}) > 1:
        shapes = ", ".join(str(value.shape) for value in values)
        raise JaxfairError(
            f"Reference, profiles and controls have shapes {shapes}; give (seeds, groups), (profiles, seeds, groups) "
            "and (controls, seeds, groups)."
        )
    if not all(value.size for value in values) or arrangements < 2:
        raise JaxfairError(
            f"There are {len(profiles)} profiles, {len(controls)} controls, {len(reference)} seeds and {arrangements} "
            "arrangements; give at least one of each, and 2 arrangements."
        )
    unit = max(np.finfo(value.dtype if value.dtype.kind == "f" else float).eps for value in values)
    size = np.abs(values[0]).astype(float)
    own, other = (np.abs(value.astype(float) - values[0]) for value in values[1:])
    excess, dealt = own - other.mean(axis=0), _deal(len(reference), len(controls) + 1, arrangements, seed)
    p_values = [_p_values(size, np.stack([deviation, *other]), dealt, float(unit)) for deviation in own]
    alone, family = np.swapaxes(p_values, 0, 1)
    return SpreadTest(
        spread=own.mean(axis=1),
        control=other.mean(axis=(0, 1)),
        excess=excess.mean(axis=1),
        interval=seed_interval(excess.swapaxes(0, 1), level),
        p_value=alone,
        family_p_value=family,
        smallest_p_value=1 / len(dealt),
    )


@checked
def rejoining_step(
    steps: Int[np.ndarray, " t"], profiles: Float[np.ndarray, "m s t"], controls: Float[np.ndarray, "k s t"]
) -> Float[np.ndarray, " m"]:
    """Find from which step on each profile is as far from the reference as the controls are.

    That is, its median over seeds stays within the range of all control curves. NaN for a profile that is outside at
    the last step. What hardware does is to be seen before this step; after it, only that training is chaotic.

    Args:
        steps: Steps at which distances were taken, ascending, shape (t,).
        profiles: Distance of each profile's parameters to the reference's, by seed and step, shape (m, s, t).
        controls: Distance of each control's parameters to the reference's, shape (k, s, t).

    Raises:
        JaxfairError: Shapes do not match, or there is one control curve alone, which has no range.
    """
    steps = as_values(steps, "steps")
    profiles, controls = (as_values(distances, "distances") for distances in (profiles, controls))
    shapes = profiles.shape, controls.shape
    if not all(len(shape) == 3 and shape[1:] == (shapes[0][1], steps.size) for shape in shapes) or not steps.size:
        raise JaxfairError(f"Distances have shapes {shapes} for {steps.size} steps; give (profiles, seeds, steps).")
    if steps.ndim > 1 or not (np.diff(steps) > 0).all():
        raise JaxfairError(f"The steps are [{quoted(steps.ravel())}]; give ascending ones.")
    if controls.shape[0] * controls.shape[1] < 2:
        raise JaxfairError("There is one control curve; give at least 2, from other seeds or other weights.")
    low, high, middle = controls.min(axis=(0, 1)), controls.max(axis=(0, 1)), np.median(profiles, axis=1)
    stays = np.logical_and.accumulate(((low <= middle) & (middle <= high))[:, ::-1], axis=1)[:, ::-1]
    return np.where(stays[:, -1], steps[stays.argmax(axis=1)], np.nan)


@checked
def losses_on_segment(
    logits_fn: LogitsFn,
    start: Any,
    end: Any,
    x: Any,
    y: Any,
    weights: Float[Array, "g n"] | Float[np.ndarray, "g n"],
    points: Float[np.ndarray, " t"],
    *,
    chunk_size: int = 256,
    precision: str = "highest",
    loss: LossFn = losses.cross_entropy,
) -> Float[np.ndarray, "t g"]:
    """Compute every group's loss at ``start + t (end - start)`` (Nelaturu et al. 2024, Fig. 4).

    Whatever ``start`` and ``end`` hold is interpolated. A network's batch statistics differ between two trainings, so
    give whole networks, ``losses_on_segment(Network.__call__, first, second, ...)``; statistics are
    interpolated, not estimated anew. At 0 and 1 both are met exactly.

    Args:
        logits_fn: ``(start or end, x) -> logits`` of shape (n, classes), in evaluation mode.
        start: Pytree of floating-point arrays.
        end: Another of the same structure and shapes.
        x: Inputs, a pytree of arrays with n examples along the first axis.
        y: Labels, shape (n,).
        weights: Weight of each example in each group, shape (g, n), from ``groups.group_weights``.
        points: Values of t; 0 is ``start`` and 1 is ``end``, others than between them extrapolate.
        chunk_size: Number of examples at once.
        precision: Precision of matrix products on accelerators.
        loss: ``(logits, y) -> losses`` of shape (n,), one for each example.

    Raises:
        JaxfairError: Shapes or structures do not match, a parameter or point is not finite, a group is empty, or
            ``chunk_size`` is below 1.
    """
    points = as_values(points, "points")
    start, x, y, weights = check_examples(logits_fn, start, x, y, weights, loss, differentiated=False)
    if not np.isfinite(parameter_distance(start, end)):  # which refuses what cannot be interpolated
        raise JaxfairError("A parameter at an end is not a finite number; check the networks.")
    start, end = on_one_device((start, end))
    if points.ndim != 1 or not points.size or not np.isfinite(points).all():
        given = f"have shape {points.shape}" if points.ndim != 1 or not points.size else "are not all finite"
        raise JaxfairError(f"The points {given}; give at least one, finite numbers of shape (t,).")
    model, y = Model(as_pytree(logits_fn), as_pytree(loss)), jnp.asarray(y)
    used = np.flatnonzero((weights != 0).any(axis=0))

    def of_chunk(fixed: Any, some: Any) -> list[Array]:
        return [_losses_at(*fixed, float(t), *some) for t in points]

    def gather(index: np.ndarray) -> Any:
        return jax.tree.map(lambda leaf: leaf[used[index]], (x, y))

    with at_precision(precision):
        of_points = over_chunks(of_chunk, (model, start, end), gather, len(used), chunk_size)
    found, weights = np.stack(of_points, axis=1).astype(float), weights[:, used].astype(float)
    # Of its own examples only: 0 times NaN is NaN.
    return np.stack([row[row != 0] @ found[row != 0] for row in weights], axis=1)


@jax.jit
def _losses_at(model: Model, start: Any, end: Any, t: float | Array, x: Any, y: Array) -> Float[Array, " n"]:
    # Where both ends are equal, such as in masks, rounding must not move them.
    params = jax.tree.map(lambda a, b: jnp.where(a == b, a, (1 - t) * a + t * b), start, end)
    return per_example(model.loss, widened(model.logits_fn(params, x)), y)


def _finite(values: Any) -> np.ndarray:
    """Return losses, in the type that says how far they are rounded, with NaN for what is not finite."""
    exact, found = as_values(values, "losses"), unboxed(np.asarray(as_array(values, "losses")))
    found = exact if found.dtype == object else found
    return np.where(np.isfinite(found), found, np.nan)


def _deal(seeds: int, runs: int, most: int, seed: int) -> Int[np.ndarray, "a s"]:
    """Return which run of each seed bears the profile's label, the true one (0) first: all ways, or ``most`` drawn."""
    if runs**seeds <= most:
        return np.stack(np.unravel_index(np.arange(runs**seeds), (runs,) * seeds), axis=1)
    dealt = np.random.default_rng(seed).integers(runs, size=(most, seeds))
    dealt[0] = 0
    return dealt


def _p_values(
    size: Float[np.ndarray, "s g"], deviation: Float[np.ndarray, "r s g"], dealt: Int[np.ndarray, "a s"], unit: float
) -> tuple[Float[np.ndarray, " g"], Float[np.ndarray, " g"]]:
    """Return each group's p-value, alone and as the largest of all; run 0 is the profile, ``size`` the reference's.

    The sum over seeds of the labelled run's deviation orders the arrangements as the mean difference does, since the
    sum of all runs' deviations is the same in each.
    """
    known = ~np.isnan(deviation).any(axis=(0, 1))
    deviation, size = np.where(known, deviation, 0), np.where(known, size, 0)
    sums = np.zeros((len(dealt), deviation.shape[-1]))
    for i, run in enumerate(dealt.T):
        sums += deviation[run, i]
    # Values are rounded to their type, so sums of their differences tie within this.
    rounding = 2 * unit * (size + deviation.max(axis=0)).sum(axis=0)
    alone = (sums + rounding >= sums[0]).mean(axis=0)
    centre, scale = deviation.mean(axis=0).sum(axis=0), np.sqrt(deviation.var(axis=0).sum(axis=0))
    varies = scale > rounding
    centre, scale = np.where(varies, centre, np.inf), np.where(varies, scale, 1)  # others never are the largest
    largest = ((sums + rounding - centre) / scale).max(axis=1, keepdims=True)
    family = (largest >= (sums[0] - rounding - centre) / scale).mean(axis=0)
    return np.where(known, alone, np.nan), np.where(known, family, np.nan)
