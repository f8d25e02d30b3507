"""Distances to the decision boundary: closed forms, polyhedra and properties."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax

from jaxfair import margins
from jaxfair.curvature.programs import as_pytree
from jaxfair.errors import JaxfairError
from tests.margin_cases import (
    CLASSES,
    EXACT,
    TOLERANCE,
    N,
    affine,
    affine_case,
    disc,
    each_function,
    few,
    half_spaces,
    line,
    seeds,
    signed_distances,
)

logits = arrays(np.float32, (3, 4), elements=st.floats(-20, 20, width=32))
# Scores are at most 1; exponentials of float32 logits of size 20 are off by up to 20 * 6e-8.
ATOL = 4e-6


def test_two_classes() -> None:
    """The gap is ``tanh(|z_1 - z_2| / 2)``, and signed, ``tanh((z_label - z_other) / 2)``."""
    z = jnp.array([[0.0, 0.0], [1.0, 0.0], [-3.0, 1.0], [0.0, 100.0]])
    np.testing.assert_allclose(margins.softmax_gap(z), np.tanh([0, 0.5, 2, 50]), atol=ATOL)
    signed = margins.signed_softmax_gap(z, jnp.zeros(4, int))
    np.testing.assert_allclose(signed, np.tanh([0, 0.5, -2, -50]), atol=ATOL)


@given(logits)
def test_against_sorted_scores(z: np.ndarray) -> None:
    scores = np.sort(softmax(z.astype(np.float64), axis=1))
    found = np.asarray(margins.softmax_gap(jnp.asarray(z)))
    np.testing.assert_allclose(found, scores[:, -1] - scores[:, -2], atol=ATOL)
    assert ((found >= 0) & (found <= 1)).all()


@given(logits, st.permutations(range(4)), st.floats(-20, 20, width=32))
def test_order_of_classes_and_a_common_shift_do_not_matter(z: np.ndarray, order: list[int], shift: float) -> None:
    moved = z[:, order] + np.float32(shift)
    np.testing.assert_allclose(margins.softmax_gap(jnp.asarray(moved)), margins.softmax_gap(jnp.asarray(z)), atol=ATOL)


@given(logits)
def test_a_tie_is_on_the_boundary(z: np.ndarray) -> None:
    z[:, 2] = z.max(axis=1)
    z[:, 0] = z[:, 2]
    np.testing.assert_array_equal(margins.softmax_gap(jnp.asarray(z)), 0)
    np.testing.assert_array_equal(margins.signed_softmax_gap(jnp.asarray(z), np.full(3, 2)), 0)


@given(logits)
def test_signed_gap_is_the_gap_of_a_correct_example_and_negative_of_a_wrong_one(z: np.ndarray) -> None:
    scores = softmax(z.astype(np.float64), axis=1)
    signed = np.stack([margins.signed_softmax_gap(jnp.asarray(z), np.full(3, k)) for k in range(4)], axis=1)
    np.testing.assert_allclose(signed.max(axis=1), margins.softmax_gap(jnp.asarray(z)), atol=ATOL)
    for k in range(4):
        np.testing.assert_allclose(signed[:, k], scores[:, k] - np.delete(scores, k, axis=1).max(axis=1), atol=ATOL)


@few
@given(seeds, st.sampled_from([2, CLASSES]))
def test_affine_networks(seed: int, classes: int) -> None:
    """Exact inside the label's region; outside a lower bound, exact where one projection reaches the region."""
    params, x, label = affine_case(seed, classes)
    true = signed_distances(params, x, label)
    with jax.enable_x64(True):
        found, nearest = map(np.asarray, margins.linearized_distance(as_pytree(affine, params), x, label))
    np.testing.assert_allclose(found[true >= 0], true[true >= 0], **EXACT)
    assert (found[true < 0] < 0).all()
    assert (found >= true - 1e-9).all()
    assert (nearest != label).all()
    for i in np.flatnonzero(true < 0):
        normals, offsets = half_spaces(params, label[i])
        signed = normals @ x[i].ravel() + offsets
        assert found[i] == pytest.approx(signed.min(), abs=1e-9)
        assert np.delete(np.arange(classes), label[i])[signed.argmin()] == nearest[i]
        reached = x[i].ravel() - signed.min() * normals[signed.argmin()]
        if classes == 2 or (normals @ reached + offsets >= 0).all():
            assert found[i] == pytest.approx(true[i], abs=1e-9)


@few
@given(seeds, st.sampled_from([2, CLASSES]))
def test_along_the_gradient_of_affine_networks(seed: int, classes: int) -> None:
    """The linearised distance for a correct example; for a wrong one, where the line enters the label's region."""
    params, x, label = affine_case(seed, classes)
    expected = []
    for point, own in zip(x.reshape(N, -1), label, strict=True):
        normals, offsets = half_spaces(params, own)
        signed = normals @ point + offsets
        speed = normals @ normals[signed.argmin()]
        if signed.min() > 0:
            expected.append(signed.min())
            continue
        with np.errstate(divide="ignore"):
            crossing = -signed / speed
        enter = crossing[signed < 0].max() if (speed[signed < 0] > 0).all() else np.inf
        leave = crossing[speed < 0].min(initial=np.inf, where=signed[speed < 0] >= 0)
        expected.append(-enter if enter < leave else -np.inf)
    with jax.enable_x64(True):
        found = np.asarray(line(as_pytree(affine, params), x, label))
    # A stay inside the region that is shorter than the bracket may be overlooked, and found is then infinite.
    met = np.isfinite(found)
    error = np.abs(found[met]) - np.abs(np.array(expected)[met])
    assert (error >= -1e-9).all()
    assert (error <= TOLERANCE).all()
    np.testing.assert_array_equal(np.sign(found), np.sign(expected))
    assert met[np.array(expected) > 0].all()
    assert classes > 2 or met.all()


@pytest.mark.usefixtures("float64")
def test_disc() -> None:
    """A radial network, on both sides of its boundary: its gradient points along the radius."""
    radius, r = 2.0, np.array([0.01, 0.5, 1.5, 1.999, 2.001, 3.0, 9.0])
    angle = np.arange(7)
    x = r[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    network, label = as_pytree(disc, jnp.asarray(radius)), np.zeros(7, int)
    found = np.asarray(line(network, x, label))
    np.testing.assert_array_equal(np.sign(found), np.sign(radius - r))
    error = np.abs(found) - np.abs(radius - r)
    assert (error >= -1e-12).all()
    assert (error <= TOLERANCE).all()
    np.testing.assert_allclose(line(network, x, label + 1), -found, atol=TOLERANCE)
    linear = margins.linearized_distance(network, x, label).distance
    np.testing.assert_allclose(linear, (radius**2 - r**2) / (2 * r), **EXACT)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("tolerance", [1.0, 1e-2, 1e-5, 1e-10])
def test_bisection_meets_its_tolerance(tolerance: float) -> None:
    r = np.linspace(0.1, 3.7, 11)
    x, network = np.stack([r, np.zeros(11)], axis=1), as_pytree(disc, jnp.asarray(2.0))
    found = np.asarray(margins.distance_along_gradient(network, x, np.zeros(11, int), 10.0, tolerance))
    error = np.abs(found) - np.abs(2 - r)
    assert (error >= -1e-12).all()
    assert (error <= tolerance).all()


@pytest.mark.usefixtures("float64")
def test_no_boundary_within_reach() -> None:
    """Infinite, with the example's sign; the distance itself is still within reach of itself."""
    x, label, network = np.array([[1.0, 0.0], [3.5, 0.0]]), np.zeros(2, int), as_pytree(disc, jnp.asarray(2.0))
    reach = partial(margins.distance_along_gradient, network, x, label)
    np.testing.assert_array_equal(reach(0.99, 1e-3), [np.inf, -np.inf])
    np.testing.assert_allclose(reach(1.0, 1e-3), [1.0, -np.inf])
    np.testing.assert_array_equal(reach(1e-3, 1e-3), [np.inf, -np.inf])


@each_function
def test_constant_tied_and_nan(function: Callable[..., Any]) -> None:
    """No gradient: infinitely far, with the gap's sign; a tie: 0; NaN: NaN, and only in its own example."""
    bias = np.array([1.0, 0.0], np.float32)
    x, label = np.ones((2, 3), np.float32), np.array([0, 1])
    distance = jax.tree.leaves(function(as_pytree(affine, (np.zeros((2, 3), np.float32), bias)), x, label))[0]
    np.testing.assert_array_equal(distance, [np.inf, -np.inf])
    distance = jax.tree.leaves(function(as_pytree(affine, (np.zeros((2, 3), np.float32), 0 * bias)), x, label))[0]
    np.testing.assert_array_equal(distance, 0)
    x[0, 0] = np.nan
    weights = np.array([[1, 0, 0], [0, 0, 1]], np.float32)
    found = function(as_pytree(affine, (weights, bias)), x, label)
    distance = jax.tree.leaves(found)[0]
    assert np.isnan(distance[0])
    assert distance[1] < 0
    if isinstance(found, margins.DeepFool):
        np.testing.assert_array_equal(found.success, [False, True])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": np.zeros((0, 3), np.float32), "label": np.zeros(0, int)}, "There are 0 examples"),
        ({"label": np.array([0, 1, 4])}, "label of example 2 is 4; the 4 classes count from 0"),
        ({"label": np.array([0, -1, 2])}, "label of example . is -1; classes count from 0"),
        ({"label": np.zeros(2, int)}, "3 inputs, 2 labels"),
        ({"classes": 1}, r"Logits have shape \(3, 1\)"),
        ({"x": np.zeros((3, 3), np.uint8)}, "Inputs are uint8"),
        ({"chunk_size": 0}, "chunk size is 0"),
    ],
)
@each_function
def test_bad_input(function: Callable[..., Any], changes: dict[str, Any], message: str) -> None:
    given = {"x": np.zeros((3, 3), np.float32), "label": np.zeros(3, int), "classes": 4, "chunk_size": 8} | changes
    params = np.ones((given.pop("classes"), 3), np.float32), np.float32(0)
    with pytest.raises(JaxfairError, match=message):
        function(as_pytree(affine, params), **given)


@pytest.mark.usefixtures("unchecked")
def test_bad_options() -> None:
    params, x, label = affine_case(0)
    network = as_pytree(affine, params)
    for tolerance, limit in [(0.0, 1.0), (2.0, 1.0), (1e-3, np.inf), (np.nan, 1.0), (-1.0, 1.0)]:
        with pytest.raises(JaxfairError, match="tolerance is"):
            margins.distance_along_gradient(network, x, label, limit, tolerance)
    for z in (jnp.zeros((3, 1)), jnp.zeros(3)):
        with pytest.raises(JaxfairError, match="at least 2 classes"):
            margins.softmax_gap(z)
        with pytest.raises(JaxfairError, match="at least 2 classes"):
            margins.signed_softmax_gap(z, np.zeros(3, int))
    with pytest.raises(JaxfairError, match="label of example 0 is 2; the 2 classes count from 0"):
        margins.signed_softmax_gap(jnp.zeros((1, 2)), np.array([2]))


@pytest.mark.parametrize("kind", [jnp.float16, jnp.bfloat16])
def test_gaps_of_half_precision_are_computed_in_single(kind: Any) -> None:
    z = jnp.array([[5.0, 0.0], [0.0, 1.0]], kind)
    np.testing.assert_allclose(margins.softmax_gap(z), np.tanh([2.5, 0.5]), atol=ATOL)
    np.testing.assert_allclose(margins.signed_softmax_gap(z, np.zeros(2, int)), np.tanh([2.5, -0.5]), atol=ATOL)


@each_function
def test_probabilities_are_no_logits_without_a_word(function: Callable[..., Any]) -> None:
    params, x, label = affine_case(0)
    with pytest.warns(UserWarning, match="seem to be probabilities; give those before the softmax"):
        function(as_pytree(lambda p, x: jax.nn.softmax(affine(p, x)), params), x, label)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        function(as_pytree(affine, params), x, label)


@pytest.mark.usefixtures("unchecked")
def test_a_classifier_that_fails_is_one_sentence() -> None:
    x, label = np.ones((3, 4), np.float32), np.zeros(3, int)
    tree: Any = {"a": x}
    with pytest.raises(JaxfairError, match=r"The classifier\(x\) fails \(.*\); give a function of a batch of inputs"):
        margins.deepfool(lambda x: x @ jnp.ones((5, 2)), x, label)
    with pytest.raises(JaxfairError, match="Inputs are a dict; distances need one array"):
        margins.linearized_distance(lambda x: x["a"], tree, label)
    with pytest.raises(JaxfairError, match="label is None; give an array"):
        margins.linearized_distance(lambda x: x, x, None)  # pyright: ignore[reportArgumentType]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("logits", "gap"),
    [([1e8, 1e8 + 1], np.tanh(0.5)), ([1e20, 1e20 - 1e10], 1), ([1e300, 1e299], 1), ([2.0, -np.inf], 1)],
)
def test_what_logits_of_64_bits_have_in_common_takes_no_digits(logits: list[float], gap: float) -> None:
    for z in ([logits], np.array([logits])):
        np.testing.assert_allclose(margins.softmax_gap(z), gap, atol=ATOL)  # pyright: ignore[reportArgumentType]
        signed = margins.signed_softmax_gap(z, np.zeros(1, int))  # pyright: ignore[reportArgumentType]
        np.testing.assert_allclose(signed, gap if logits[0] > logits[1] else -gap, atol=ATOL)


@pytest.mark.parametrize(("dtype", "least"), [(np.float32, 1.2e-38), (np.float16, 1.8e-7), (jnp.bfloat16, 1.2e-38)])
def test_a_tolerance_that_is_too_small_for_the_type_of_the_inputs_is_refused(dtype: Any, least: float) -> None:
    x = jnp.asarray([[0.5, 0.25]]).astype(dtype)

    def along(tolerance: float) -> Any:
        return margins.distance_along_gradient(lambda x: x, x, np.zeros(1, int), 2.0, tolerance)

    with pytest.raises(JaxfairError, match=r"tolerance is .*, too small for inputs of \w*; give .* or more"):
        along(least / 2)
    np.testing.assert_allclose(np.asarray(along(least), float), np.sqrt(0.03125), rtol=0.01)


def test_logits_on_the_host_have_a_gap_where_transfers_are_disallowed() -> None:
    with jax.transfer_guard("disallow"):
        found = margins.softmax_gap(np.zeros((1, 2), np.float32))
    np.testing.assert_array_equal(found, 0)


def test_an_infinite_distance_is_one_where_jax_is_to_stop_at_infinite_numbers() -> None:
    x, y = np.array([[3.0, 1.0, 0.0], [1.0, 1.0, 1.0]], np.float32), np.array([0, 1])

    def flat(x: Any) -> Any:
        return 0 * x + jnp.arange(3.0)

    with jax.debug_infs(True):
        for found in (margins.deepfool(flat, x, y), margins.linearized_distance(flat, x, y)):
            np.testing.assert_array_equal(np.abs(found.distance), np.inf)
        np.testing.assert_allclose(margins.distance_along_gradient(lambda x: x, x[:1], y[:1], 9.0, 1e-4), 2**0.5, 1e-3)
        assert margins.signed_softmax_gap(jnp.asarray(x), y)[0] > 0
        assert jax.config.jax_debug_infs  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    "hide", [jax.lax.stop_gradient, jnp.round, lambda z: jax.nn.one_hot(z.argmax(axis=1), 3), lambda z: 0.0 + (z > 0)]
)
def test_logits_without_a_derivative_have_no_distance(hide: Any) -> None:
    x, y = np.array([[3.0, 1.0, 0.0], [1.0, 2.0, 1.0]], np.float32), np.array([0, 1])
    found: list[Any] = [margins.linearized_distance, margins.deepfool]
    for distance in [*found, partial(margins.distance_along_gradient, max_distance=9.0, tolerance=1e-4)]:
        with pytest.raises(JaxfairError, match=r"no derivative by the input, .*; leave it out of the classifier"):
            distance(lambda x: hide(2 * x), x, y)


WEIGHTS = np.random.default_rng(3).normal(size=(4, 3)).astype(np.float32)
POINTS, OF_POINTS = np.random.default_rng(4).normal(size=(11, 4)).astype(np.float32), np.arange(11) % 3


def bent(w: Any, x: Any) -> Any:
    return jnp.tanh(x @ w)


@pytest.mark.parametrize(
    "distance",
    [
        lambda f: margins.linearized_distance(f, POINTS, OF_POINTS, chunk_size=5).distance,
        lambda f: margins.deepfool(f, POINTS, OF_POINTS, max_steps=5).distance,
        lambda f: margins.deepfool(f, POINTS, max_steps=5).distance,
        lambda f: margins.distance_along_gradient(f, POINTS, OF_POINTS, 10.0, 0.01),
    ],
)
def test_a_classifier_may_close_over_parameters_that_jax_traces(distance: Callable[..., Any]) -> None:
    """As in a jitted or mapped function of the parameters; another call has its own."""
    expected = [distance(lambda x, w=w: bent(w, x)) for w in (WEIGHTS, 2 * WEIGHTS)]
    jitted = jax.jit(lambda w: distance(lambda x: bent(w, x)))
    for w, of_w in zip((WEIGHTS, 2 * WEIGHTS), expected, strict=True):
        np.testing.assert_allclose(jitted(w), of_w, rtol=1e-4)
    mapped = jax.vmap(lambda w: distance(lambda x: bent(w, x)))(np.stack([WEIGHTS, 2 * WEIGHTS]))
    np.testing.assert_allclose(mapped, np.stack(expected), rtol=1e-4)


def test_linearized_distances_have_a_gradient() -> None:
    """By the parameters; the label's own quotient, 0 / 0, is none of the minimum, and made it NaN."""

    def total(w: Any) -> Any:
        return margins.linearized_distance(lambda x: bent(w, x), POINTS, OF_POINTS).distance.sum()

    w, step = jnp.asarray(WEIGHTS), 1e-3 * jnp.asarray(np.random.default_rng(5).normal(size=(4, 3)), jnp.float32)
    slope = (total(w + step) - total(w - step)) / 2
    np.testing.assert_allclose(jnp.vdot(jax.grad(total)(w), step), slope, rtol=1e-2)


@pytest.mark.parametrize("differentiate", [jax.grad, jax.jacfwd, lambda f: jax.jit(jax.grad(f))])
def test_a_distance_by_bisection_has_no_derivative(differentiate: Any) -> None:
    """It was 0, by parameters and by inputs; where it is held fixed nothing is asked of it."""

    def total(w: Any, x: Any = POINTS) -> Any:
        return margins.distance_along_gradient(lambda x: bent(w, x), x, OF_POINTS, 10.0, 0.01).sum()

    for by in (total, lambda x: total(WEIGHTS, x)):
        with pytest.raises(JaxfairError, match="distance_along_gradient has no derivative; take linearized_distance"):
            differentiate(by)(jnp.asarray(WEIGHTS if by is total else POINTS))
    held = differentiate(lambda w: total(jax.lax.stop_gradient(w)) + w.sum())(jnp.asarray(WEIGHTS))
    np.testing.assert_array_equal(held, np.ones_like(WEIGHTS))
