"""The hardware paper's quantities in closed form, and the permutation test by brute force and by simulation."""

import itertools
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfair import losses, networks, sensitivity
from jaxfair.bounds import sensitivity_bound
from jaxfair.errors import JaxfairError
from jaxfair.groups import group_weights, seed_interval

LEVEL = 0.05
# By chance a simulated rate is further from the true one than so many standard errors once in 16,000 times.
ERRORS = 4

# Loss of group a at theta: curvature_a / 2 (theta - minimum_a)^2.
THETA = np.array([0.0, 1.0, 3.0])
MINIMUM, CURVATURE = np.array([0.0, 1.0]), np.array([2.0, 4.0])
LOSS = np.array([[0.0, 2.0], [1.0, 0.0], [9.0, 8.0]])


def test_the_quantities_of_quadratic_losses() -> None:
    """Three hardwares and two groups, by hand; the theorem holds for them at each reference."""
    np.testing.assert_array_equal(CURVATURE / 2 * (THETA[:, None] - MINIMUM) ** 2, LOSS)
    delta = sensitivity.group_sensitivity(LOSS)
    np.testing.assert_array_equal(delta, [[9, 6], [8, 8], [9, 8]])
    np.testing.assert_array_equal(sensitivity.fairness_violation(delta), [3, 0, 1])
    for theta, spread, actual in zip(THETA, (3, 2, 3), delta, strict=True):
        found = sensitivity_bound(np.abs(CURVATURE * (theta - MINIMUM)), CURVATURE, float(spread), actual)
        assert found.holds.all()


def test_leading_axes_are_kept_and_what_is_not_finite_is_unknown() -> None:
    loss = np.stack([LOSS, LOSS[::-1], 2 * LOSS])
    delta = sensitivity.group_sensitivity(loss)
    expected = np.abs(loss[:, :, None] - loss[:, None]).max(axis=2)
    np.testing.assert_array_equal(delta, expected)
    np.testing.assert_array_equal(sensitivity.fairness_violation(delta), [[3, 0, 1], [1, 0, 3], [6, 0, 2]])
    for unknown in (np.nan, np.inf):
        loss[0, 1, 0] = unknown
        assert np.isnan(sensitivity.group_sensitivity(loss)[0, :, 0]).all()
        np.testing.assert_array_equal(sensitivity.group_sensitivity(loss)[0, :, 1], expected[0, :, 1])


def by_hand(reference: np.ndarray, profile: np.ndarray, controls: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the p-values of one profile from the definition: every seed's label dealt to every run."""
    runs = np.abs(np.stack([profile, *controls]) - reference)
    found = []
    for labelled in itertools.product(range(len(runs)), repeat=len(reference)):
        seeds = zip(labelled, runs.swapaxes(0, 1), strict=True)
        found.append(np.mean([seed[i] - np.delete(seed, i, axis=0).mean(axis=0) for i, seed in seeds], axis=0))
    found, varies = np.array(found), np.std(found, axis=0) > 0
    standard = found[:, varies] / found[:, varies].std(axis=0)
    alone, family = (found >= found[0] - 1e-9).mean(axis=0), np.ones(found.shape[1])
    family[varies] = (standard.max(axis=1, initial=-np.inf)[:, None] >= standard[0] - 1e-9).mean(axis=0)
    return alone, family


def runs(seed: int, shape: tuple[int, ...], *, whole: bool = False) -> np.ndarray:
    rng = np.random.default_rng([seed, *shape])
    return rng.integers(0, 4, shape).astype(float) if whole else rng.normal(size=shape)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 3), st.booleans())
def test_p_values_are_those_of_every_arrangement(seed: int, seeds: int, controls: int, whole: bool) -> None:
    """With and without ties, for several profiles and groups, one of which never varies."""
    reference, every = runs(seed, (seeds, 3), whole=whole), runs(seed, (2 + controls, seeds, 3), whole=whole)
    profiles, others = every[:2], every[2:]
    others[..., 2] = profiles[..., 2] = reference[..., 2] + 1
    found = sensitivity.spread_against_control(reference, profiles, others)
    for i, profile in enumerate(profiles):
        alone, family = by_hand(reference, profile, others)
        np.testing.assert_array_equal(found.p_value[i], alone)
        np.testing.assert_allclose(found.family_p_value[i], family, atol=1e-12)
    assert (found.p_value[:, 2] == 1).all()


def test_sizes_and_interval_are_those_of_the_deviations() -> None:
    reference, profiles, controls = runs(0, (4, 3)), runs(1, (2, 4, 3)), runs(2, (5, 4, 3))
    found = sensitivity.spread_against_control(reference, profiles, controls, level=0.9)
    own, other = np.abs(profiles - reference), np.abs(controls - reference)
    np.testing.assert_allclose(found.spread, own.mean(axis=1))
    np.testing.assert_allclose(found.control, other.mean(axis=(0, 1)))
    np.testing.assert_allclose(found.excess, found.spread - found.control)
    expected = [seed_interval(profile - other.mean(axis=0), 0.9) for profile in own]
    np.testing.assert_allclose(np.stack(found.interval, axis=1), expected)


@pytest.mark.parametrize(
    ("seeds", "controls", "smallest"),
    [(3, 1, 1 / 8), (5, 1, 1 / 32), (10, 1, 1 / 1024), (3, 2, 1 / 27), (5, 2, 1 / 243)],
)
def test_the_smallest_p_value_is_of_hardware_that_always_moves_further(seeds: int, controls: int, smallest: float):
    """However small the difference is: here 1e-9 of a loss of 2."""
    noise = runs(0, (controls + 1, seeds, 2)).clip(-3, 3)
    run = 2 + 1e-9 * np.concatenate([noise[:1] + 10, noise[1:]])
    found = sensitivity.spread_against_control(np.full((seeds, 2), 2.0), run[:1], run[1:])
    assert found.smallest_p_value == smallest
    assert (found.p_value == smallest).all()
    assert (found.family_p_value == smallest).all()


@pytest.mark.parametrize(("seeds", "controls"), [(3, 1), (3, 2), (5, 1), (5, 2), (10, 1)])
def test_the_size_is_what_it_claims(seeds: int, controls: int) -> None:
    """Without ties p-values are uniform over multiples of the smallest, whatever the distribution; ties raise them."""
    simulations, rng = 2000, np.random.default_rng(10 * seeds + controls)
    reference = rng.standard_cauchy((seeds, simulations))
    run = reference + rng.standard_cauchy((controls + 1, seeds, simulations))
    found = sensitivity.spread_against_control(reference, run[:1], run[1:])
    exact = np.floor(LEVEL / found.smallest_p_value) * found.smallest_p_value
    error = np.sqrt(exact * (1 - exact) / simulations)
    assert abs((found.p_value <= LEVEL).mean() - exact) <= ERRORS * error
    tied = sensitivity.spread_against_control(*(values.round() for values in (reference, run[:1], run[1:])))
    assert (tied.p_value <= LEVEL).mean() <= exact + ERRORS * error


def test_the_family_is_wrong_as_often_as_one_group_would_be() -> None:
    """Of several groups, partly dependent and of different scales, some is significant in 5 % of cases, not more."""
    simulations, seeds, rng, scale = 600, 4, np.random.default_rng(0), np.array([1.0, 1.0, 10.0, 0.1])
    some = single = 0
    for _ in range(simulations):
        run = scale * (rng.normal(size=(3, seeds, 4)) + 0.5 * rng.normal(size=(3, seeds, 1)))
        found = sensitivity.spread_against_control(np.zeros((seeds, 4)), run[:1], run[1:])
        some += (found.family_p_value <= LEVEL).any()
        single += (found.p_value <= LEVEL).any()
    exact = np.floor(LEVEL * 3**seeds) / 3**seeds
    allowed = ERRORS * np.sqrt(exact * (1 - exact) / simulations)
    assert abs(some / simulations - exact) <= allowed
    assert single / simulations > exact + 2 * allowed


def test_power() -> None:
    """Hardware that moves five times as far is found in most cases, and one that moves less in none."""
    run = np.random.default_rng(0).normal(size=(4, 5, 500))
    moved = np.array([[[5.0]], [[0.1]]]) * run[:2]
    found = sensitivity.spread_against_control(np.zeros((5, 500)), moved, run[2:])
    rejected = (found.p_value <= LEVEL).mean(axis=1)
    assert rejected[0] > 0.9
    assert rejected[1] == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_deviations_that_differ_by_rounding_tie(dtype: Any) -> None:
    """Of accuracies: 0.9 - 0.8 is not 0.7 - 0.6 in binary, but no arrangement is better than another."""
    reference = np.array([[0.8], [0.6], [0.3]], dtype)
    profile, control = (np.array([[[0.9], [0.7], [0.2]]], dtype), np.array([[[0.7], [0.5], [0.4]]], dtype))
    assert len(np.unique(np.abs(np.stack([profile, control]) - reference))) > 1, "rounding makes a difference"
    for first, second in ((profile, control), (control, profile)):
        found = sensitivity.spread_against_control(reference, first, second)
        assert found.p_value == found.family_p_value == 1


def test_drawn_arrangements() -> None:
    """They count the true one, are close to all arrangements' share, and are the same at each call."""
    reference, profiles, controls = np.zeros((6, 4)), runs(3, (1, 6, 4)), runs(4, (2, 6, 4))
    every = sensitivity.spread_against_control(reference, profiles, controls)
    drawn = partial(sensitivity.spread_against_control, reference, profiles, controls, arrangements=700)
    some, again, other = drawn(seed=0), drawn(seed=0), drawn(seed=1)
    np.testing.assert_array_equal(some.p_value, again.p_value)
    assert (some.p_value != other.p_value).any()
    for name in ("p_value", "family_p_value"):
        p = getattr(every, name)
        assert (np.abs(getattr(some, name) - p) <= ERRORS * np.sqrt(p * (1 - p) / 700) + 1 / 700).all()
    clear = sensitivity.spread_against_control(reference, profiles + 10, controls, arrangements=100)
    np.testing.assert_array_equal([*clear.p_value[0], clear.smallest_p_value], 1 / 100)


@pytest.mark.parametrize("unknown", [np.nan, np.inf])
def test_a_value_that_is_not_finite_makes_only_its_profile_and_group_unknown(unknown: float) -> None:
    reference, profiles, controls = runs(5, (4, 3)), runs(6, (2, 4, 3)), runs(7, (1, 4, 3))
    whole = sensitivity.spread_against_control(reference, profiles, controls)
    profiles[1, 2, 0] = unknown
    profiles[1, 2, 2] = 1e30  # diverged, and known: its rounding is no other profile's
    without = sensitivity.spread_against_control(reference[:, 1:], profiles[..., 1:], controls[..., 1:])
    found = sensitivity.spread_against_control(reference, profiles, controls)
    for name in ("spread", "excess", "p_value", "family_p_value"):
        values = getattr(found, name)
        assert np.isnan(values[1, 0])
        np.testing.assert_array_equal(values[0], getattr(whole, name)[0])
        np.testing.assert_array_equal(values[1, 1:], getattr(without, name)[1])
    controls[0, 0, 0] = reference[1, 0] = unknown
    found = sensitivity.spread_against_control(reference, profiles, controls)
    assert np.isnan(found.family_p_value[:, 0]).all()
    np.testing.assert_array_equal(found.family_p_value[:, 1:], without.family_p_value)


def test_from_which_step_hardware_is_as_far_as_the_controls() -> None:
    """Controls reach from 1 to 3 after the start, from 0 to 0.1 at it."""
    steps = np.array([0, 10, 20, 30])
    controls = np.array([[[0.0, 1, 1, 1], [0.1, 3, 3, 3], [0.1, 2, 2, 2]]])
    curves = {
        "always inside": ([0.05, 2, 2, 3], 0),
        "further at first": ([1, 5, 2, 2], 20),
        "inside by chance and out again": ([0, 2, 4, 2], 30),
        "never": ([0, 2, 2, 4], np.nan),
        "never as far": ([0, 0, 0, 0], np.nan),
    }
    profiles = np.array([[curve, np.array(curve) + 100, np.zeros(4)] for curve, _ in curves.values()])  # the medians
    found = sensitivity.rejoining_step(steps, profiles, controls)
    np.testing.assert_array_equal(found, [expected for _, expected in curves.values()])


GROUP = np.array([0, 1, 0, 2, 1, 1, 2])
WEIGHTS = np.asarray(group_weights(GROUP, 3))
X, Y = runs(8, (7, 3)).astype(np.float32), runs(9, (7,)).astype(np.float32)
START, END = ({"w": jnp.asarray(runs(seed, (3,)), jnp.float32)} for seed in (10, 11))
POINTS = np.linspace(-0.5, 1.5, 9)
SEGMENT = (START, END, X, Y, WEIGHTS, POINTS)


def predictions(params: Any, x: Any) -> jax.Array:
    return x @ params["w"]


def squares(outputs: jax.Array, y: jax.Array) -> jax.Array:
    return (outputs - y) ** 2 / 2


@pytest.mark.parametrize("chunk_size", [1, 4, 100])
def test_a_quadratic_loss_is_a_parabola_along_the_segment(chunk_size: int) -> None:
    """Least squares, beyond both ends too; chunks of any size give the same."""
    found = sensitivity.losses_on_segment(predictions, *SEGMENT, loss=squares, chunk_size=chunk_size)
    first, second = (np.asarray(params["w"], float) for params in (START, END))
    residuals = (first + POINTS[:, None] * (second - first)) @ X.T.astype(float) - Y
    expected = [[(row[group == GROUP] ** 2 / 2).mean() for group in range(3)] for row in residuals]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_loss_that_is_not_finite_stays_in_its_group() -> None:
    y = np.where(GROUP == 1, np.nan, Y).astype(np.float32)
    found = sensitivity.losses_on_segment(predictions, START, END, X, y, WEIGHTS, POINTS, loss=squares)
    np.testing.assert_array_equal(np.isnan(found).all(axis=0), [False, True, False])
    np.testing.assert_array_equal(np.isnan(found).any(axis=0), [False, True, False])


def test_the_ends_are_met_without_rounding() -> None:
    """Not ``start + 1 (end - start)``: from 1e8 that is not 1 in float32."""
    first, last = ({"w": np.array([value], np.float32)} for value in (1e8, 1.0))
    one, ends = np.ones((1, 1), np.float32), np.array([0.0, 1.0])
    found = sensitivity.losses_on_segment(predictions, first, last, one, one[0], one, ends, loss=lambda z, y: z)
    np.testing.assert_array_equal(found, [[1e8], [1]])


def test_whole_networks_on_the_segment() -> None:
    """Their batch statistics move with their weights, and masks that both share stay as they are."""
    x = runs(12, (7, 4, 4, 1)).astype(np.float32)
    first = jax.tree.map(np.asarray, networks.init(networks.ResNet((1,), num_classes=3, width=2), (4, 4, 1), 0))
    first = first.replace(masks=jax.tree.map(lambda mask: 0 * mask + np.float32(0.3), first.masks))
    second = jax.tree.map(lambda leaf: 0.5 * leaf + 0.1, first).replace(masks=first.masks)
    call, compiled = networks.Network.__call__, jax.jit(networks.Network.__call__)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = sensitivity.losses_on_segment(call, first, second, x, GROUP, WEIGHTS, np.array([0.0, 1.0, 0.3]))
    # That statistics are no parameters is said of what is differentiated.
    assert not any("batch statistics" in str(one.message) for one in said)
    mixed = jax.tree.map(lambda a, b: 0.7 * a + 0.3 * b, first, second)
    for row, network in zip(found, (first, second, mixed), strict=True):
        own = np.asarray(losses.cross_entropy(compiled(network, x), jnp.asarray(GROUP)))
        np.testing.assert_allclose(row, WEIGHTS @ own, rtol=1e-5)
    still = sensitivity.losses_on_segment(call, first, first, x, GROUP, WEIGHTS, POINTS)
    np.testing.assert_array_equal(still, np.broadcast_to(found[0], still.shape))


REFERENCE, PROFILES, CONTROLS = np.zeros((3, 2)), np.zeros((2, 3, 2)), np.zeros((1, 3, 2))
STEPS, CURVES = np.arange(4), np.zeros((2, 3, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sensitivity.group_sensitivity(np.zeros((1, 4))), r"shape \(1, 4\).*at least 2"),
        (lambda: sensitivity.spread_against_control(REFERENCE[:2], PROFILES, CONTROLS), r"\(2, 2\), \(2, 3, 2\)"),
        (lambda: sensitivity.spread_against_control(REFERENCE, PROFILES[0], CONTROLS), r"\(3, 2\), \(3, 2\)"),
        (lambda: sensitivity.spread_against_control(REFERENCE, PROFILES, CONTROLS[:0]), "0 controls"),
        (lambda: sensitivity.spread_against_control(REFERENCE, PROFILES, CONTROLS, arrangements=1), "1 arrangements"),
        (lambda: sensitivity.rejoining_step(STEPS[:3], CURVES, CURVES), "for 3 steps"),
        (lambda: sensitivity.rejoining_step(STEPS, CURVES[0], CURVES), r"\(3, 4\), \(2, 3, 4\)"),
        (lambda: sensitivity.rejoining_step(STEPS, CURVES[:, :1], CURVES[:1, :1]), "one control curve"),
        (
            lambda: sensitivity.losses_on_segment(predictions, START, {}, *SEGMENT[2:], loss=squares),
            "differ in structure",
        ),
        (
            lambda: sensitivity.losses_on_segment(predictions, *SEGMENT[:3], Y[:5], *SEGMENT[4:], loss=squares),
            "5 labels",
        ),
        (
            lambda: sensitivity.losses_on_segment(predictions, *SEGMENT[:5], np.zeros((2, 2)), loss=squares),
            r"shape \(2, 2\)",
        ),
        (
            lambda: sensitivity.losses_on_segment(predictions, *SEGMENT[:5], np.array([0, np.nan]), loss=squares),
            "points are not all finite",
        ),
        (
            lambda: sensitivity.losses_on_segment(
                predictions, START, jax.tree.map(lambda leaf: leaf * np.nan, START), *SEGMENT[2:], loss=squares
            ),
            "parameter at an end is not a finite number",
        ),
        (lambda: sensitivity.losses_on_segment(predictions, *SEGMENT, chunk_size=0, loss=squares), "chunk size is 0"),
        (
            lambda: sensitivity.losses_on_segment(predictions, *SEGMENT, precision="low", loss=squares),
            "no precision 'low'",
        ),
        (lambda: sensitivity.losses_on_segment(predictions, *SEGMENT, loss=lambda z, y: z.sum()), r"shape \(\) for 7"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_refuses(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(JaxfairError, match=message):
        call()
