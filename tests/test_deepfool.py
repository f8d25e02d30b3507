"""DeepFool against closed forms and Foolbox; programs, chunks and transformations of every distance."""

from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.tree_util import Partial

from benchmarks.right import convolutional
from jaxfair import margins, networks
from jaxfair.curvature.programs import as_pytree
from jaxfair.errors import JaxfairError
from tests.margin_cases import (
    CLASSES,
    EXACT,
    FUNCTIONS,
    SHAPE,
    TOLERANCE,
    N,
    affine,
    affine_case,
    assert_close,
    disc,
    each_function,
    few,
    line,
    seeds,
    signed_distances,
)

OVERSHOOT = 0.02


@few
@given(seeds, st.sampled_from([2, CLASSES]))
def test_deepfool_of_affine_networks(seed: int, classes: int) -> None:
    """The overshoot times the distance, in one step; on the way to the label never less than the distance."""
    params, x, label = affine_case(seed, classes)
    true = signed_distances(params, x, label)
    with jax.enable_x64(True):
        network = as_pytree(affine, params)
        distance, perturbed, steps, success = map(np.asarray, margins.deepfool(network, x, label))
        logits = np.asarray(network(jnp.asarray(perturbed)))
    one = (true > 0) | (classes == 2)
    np.testing.assert_allclose(distance[one], (1 + OVERSHOOT) * true[one], **EXACT)
    np.testing.assert_array_equal(steps[one], 1)
    # A class that is never predicted has no region to reach; a sharp corner between two others takes many steps.
    assert not (success & ~np.isfinite(true)).any()
    assert success[true > -np.inf].mean() >= 0.8
    assert (np.abs(distance) >= np.abs(true) - 1e-9).all()
    others = np.where(np.arange(classes) == label[:, None], -np.inf, logits).max(axis=1)
    gap = logits[np.arange(len(x)), label] - others
    # In a corner of the region that is reached the gap is a few roundings of logits of order 1, of either sign.
    sure = np.abs(gap) > 100 * np.finfo(float).eps
    assert sure.mean() >= 0.8
    np.testing.assert_array_equal((gap > 0)[sure], ((true < 0) & success)[sure])
    norms = np.linalg.norm((perturbed - x).reshape(N, -1), axis=1)
    np.testing.assert_allclose(np.abs(distance[success]), norms[success], **EXACT)


@pytest.mark.usefixtures("float64")
def test_deepfool_of_a_disc() -> None:
    """Never less than the distance, and it ends on the other side."""
    radius, r, angle = 2.0, np.array([0.01, 0.5, 1.5, 1.999, 2.001, 3.0, 9.0]), np.arange(7)
    x = r[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    walked = margins.deepfool(as_pytree(disc, jnp.asarray(radius)), x, np.zeros(7, int))
    assert walked.success.all()
    assert (np.abs(walked.distance) >= np.abs(radius - r)).all()
    np.testing.assert_array_equal((np.linalg.norm(walked.perturbed, axis=1) > radius), r < radius)


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    """Foolbox's stored inputs and distances."""
    with np.load(Path(__file__).with_name("references") / "deepfool.npz") as stored:
        return dict(stored)


def reference_network(reference: dict[str, np.ndarray], dtype: Any) -> tuple[Partial, jax.Array]:
    params = {name[7:]: jnp.asarray(v, dtype) for name, v in reference.items() if name.startswith("params/")}
    return as_pytree(convolutional, params), jnp.asarray(reference["images"], dtype)


# Foolbox adds 1e-8 to the norms of gradients, which here are about 1; the measured difference is 5e-9.
@pytest.mark.usefixtures("float64")
def test_foolbox(reference: dict[str, np.ndarray]) -> None:
    network, x = reference_network(reference, np.float64)
    np.testing.assert_allclose(network(x), reference["logits"], rtol=1e-12, atol=1e-12)
    found = margins.deepfool(network, x, reference["label"])
    np.testing.assert_allclose(found.distance, reference["exact"], rtol=1e-7)
    # As it is, Foolbox adds 1e-4 to every step; the overshoot multiplies it, and later steps correct for earlier ones.
    difference = reference["stock"] - np.asarray(found.distance)
    assert (np.abs(difference) <= (1 + OVERSHOOT) * 1e-4 * np.asarray(found.steps) + 1e-6).all()
    assert (np.abs(difference) > 1e-5).all(), "the two stored distances should differ"
    assert int(found.steps.max()) > 2, "a reference of one or two steps tests little"


# Float32: logits and gradients are right to some 1e-6 (measured: 2e-6), ten times that on other devices.
def test_foolbox_in_float32(reference: dict[str, np.ndarray]) -> None:
    network, x = reference_network(reference, np.float32)
    found = margins.deepfool(network, x)
    assert found.distance.dtype == np.float32
    np.testing.assert_allclose(found.distance, reference["exact"], rtol=3e-5)


@pytest.mark.usefixtures("float64")
@each_function
def test_chunks_order_scale_and_shift_of_logits_do_not_matter(
    function: Callable[..., Any], reference: dict[str, np.ndarray]
) -> None:
    network, x = reference_network(reference, np.float64)
    x, label = x[:20], (reference["label"][:20] + np.arange(20) % 2) % 6
    whole = function(network, x, label)
    assert_close(function(network, x, label, chunk_size=7), whole)
    assert_close(function(network, x, label, chunk_size=1000), whole)
    assert_close(function(network, np.asarray(x), label), whole)
    order = np.random.default_rng(0).permutation(20)
    assert_close(function(network, x[order], label[order]), jax.tree.map(lambda a: a[order], whole))
    # The last bisection may fall on the other side of a boundary that scaling has moved by a rounding.
    loose: dict[str, Any] = {"atol": 2 * TOLERANCE} if function is line else {}
    assert_close(function(as_pytree(rescaled, (network, 1e-3, 5.0)), x, label), whole, **loose)


def rescaled(params: Any, x: jax.Array) -> jax.Array:
    network, scale, shift = params
    return scale * network(x) + shift * x.mean(axis=(1, 2, 3))[:, None]


@pytest.mark.usefixtures("float64")
@each_function
def test_under_jit_and_vmap(function: Callable[..., Any], reference: dict[str, np.ndarray]) -> None:
    """One program (the loop of accelerators) finds what the steps one by one find; seeds may be stacked."""
    network, x = reference_network(reference, np.float64)
    x, label = x[:6], jnp.arange(6) % 6
    expected = function(network, x, label)
    assert_close(jax.jit(function)(network, x, label), expected)
    double = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.1 * leaf]), network)
    both = jax.vmap(lambda one: function(one, x, label))(double)
    assert_close(jax.tree.map(lambda a: a[0], both), expected)
    assert_close(jax.tree.map(lambda a: a[1], both), function(jax.tree.map(lambda leaf: 1.1 * leaf, network), x, label))


def test_networks_of_one_kind_share_a_program() -> None:
    traces = SimpleQueue()  # a list would be read as a part of the function

    def counted(params: Any, x: jax.Array) -> jax.Array:
        traces.put(x.shape)
        return affine(params, x)

    first, x, label = affine_case(0)
    second, *_ = affine_case(1)
    for function in FUNCTIONS.values():
        function(as_pytree(counted, first), x, label)
    seen = traces.qsize()
    for function in FUNCTIONS.values():
        function(as_pytree(counted, second), x, label)
    # Shapes are asked for once a call, by evaluating nothing.
    assert traces.qsize() - seen <= len(FUNCTIONS)
    [traces.get() for _ in range(traces.qsize())]
    for function in FUNCTIONS.values():
        function(as_pytree(counted, second), x, label, chunk_size=N // 2 + 1)
    shapes = {traces.get() for _ in range(traces.qsize())}
    assert shapes == {(N // 2 + 1, *SHAPE)}, "the last chunk has a shape of its own"


def test_a_network_its_bound_form_and_a_plain_function_agree() -> None:
    network = networks.init(networks.ResNet((1,), 3, width=4), (6, 6, 1), seed=0)
    x, label = np.random.default_rng(0).normal(size=(5, 6, 6, 1)).astype(np.float32), np.arange(5) % 3
    bound = as_pytree(networks.frozen(network), network.params)
    assert len(jax.tree.leaves(bound)) == len(jax.tree.leaves(network)) + len(jax.tree.leaves(network.params))
    expected = margins.linearized_distance(network, x, label)
    assert_close(margins.linearized_distance(bound, x, label), expected, rtol=1e-5)
    assert_close(margins.linearized_distance(lambda z: network(z), x, label), expected, rtol=1e-5)


@pytest.mark.usefixtures("float64")
def test_without_labels_deepfool_leaves_the_prediction() -> None:
    """As published: never negative, and the same as with the predictions for labels."""
    params, x, label = affine_case(5)
    network = as_pytree(affine, params)
    prediction = network(jnp.asarray(x)).argmax(axis=1)
    published = margins.deepfool(network, x, chunk_size=16)
    assert_close(published, margins.deepfool(network, x, prediction))
    assert (published.distance > 0).all()
    assert (np.asarray(margins.deepfool(network, x, label).distance) < 0).any()


def test_a_corner_that_no_step_crosses_is_reached() -> None:
    """The point of three classes' equal logits, between which the steps go to and fro, ever nearer: sqrt(2) away."""
    weight = jnp.array([[1.0, 0.0], [-0.8, 0.6]])

    def classifier(x: jax.Array) -> jax.Array:
        return jnp.stack([0 * x[:, 0], -(x @ weight[0]), -(x @ weight[1])], axis=1)

    found = margins.deepfool(classifier, np.array([[-1.0, -1.0]], np.float32), np.array([0]))
    assert found.success.all()
    np.testing.assert_allclose(found.distance, -np.sqrt(2), rtol=1e-4)


def two_classes(x: jax.Array) -> jax.Array:
    rng = np.random.default_rng(0)
    first, second = 2 * rng.normal(size=(4, 8)), rng.normal(size=(8, 2))
    return jnp.tanh(x @ first.astype(x.dtype)) @ second.astype(x.dtype)


@pytest.mark.parametrize("off", [-1e9, -np.inf])
def test_a_class_that_is_switched_off_makes_no_success(off: float) -> None:
    x, label = np.random.default_rng(1).normal(size=(200, 4)).astype(np.float32), np.arange(200) % 2

    def three_classes(x: jax.Array) -> jax.Array:
        return jnp.concatenate([two_classes(x), jnp.full((len(x), 1), off)], axis=1)

    found = margins.deepfool(three_classes, x, label, max_steps=3)
    expected = margins.deepfool(two_classes, x, label, max_steps=3)
    assert 0 < np.sum(~expected.success) < 200
    np.testing.assert_array_equal(found.success, expected.success)
    np.testing.assert_allclose(found.distance, expected.distance, rtol=1e-4)
    crossed = (np.asarray(two_classes(found.perturbed)).argmax(axis=1) == label) == (found.distance < 0)
    np.testing.assert_array_equal(crossed[found.success], True)
    never = margins.deepfool(three_classes, x, np.full(200, 2), max_steps=3)
    assert not never.success.any()
    np.testing.assert_array_equal(never.distance, -np.inf)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float32])
def test_rounding_of_logits_makes_no_success(dtype: Any) -> None:
    """What is common to both logits moves no boundary, and 64 last places of half precision are half of a logit."""
    x, label = np.random.default_rng(1).normal(size=(200, 4)), np.arange(200) % 2

    def classifier(x: jax.Array) -> jax.Array:
        return two_classes(x) + (0 if dtype != np.float32 else 1000)

    given = jnp.asarray(x).astype(dtype)
    found = margins.deepfool(classifier, given, label, max_steps=1)
    gap = np.asarray(classifier(given + 0) @ jnp.array([1, -1], dtype), float)
    left = np.asarray(classifier(found.perturbed) @ jnp.array([1, -1], dtype), float)
    crossed = np.sign(gap) != np.sign(left)
    assert found.success.mean() > 0.2
    assert (~found.success).mean() > 0.2
    # Logits that are computed outside of the program are rounded to the type: each by half a last place.
    size = np.abs(np.asarray(classifier(found.perturbed), float)).max(axis=1)
    near = np.maximum(np.abs(gap) / 50, float(jnp.finfo(dtype).eps) * size)
    np.testing.assert_array_less(np.abs(left)[found.success & ~crossed], near[found.success & ~crossed])


@pytest.mark.usefixtures("float64")
def test_overshoot_and_step_limit() -> None:
    """Without reaching the boundary there is no distance: infinite, with the point where the search stopped."""
    network, label = as_pytree(disc, jnp.asarray(2.0)), np.zeros(2, int)
    x = np.array([[20.0, 0.0], [1.9, 0.0]])
    stopped = margins.deepfool(network, x, label, max_steps=1, overshoot=0.0)
    np.testing.assert_array_equal(stopped.success, [False, True])
    np.testing.assert_array_equal(stopped.steps, 1)
    assert stopped.distance[0] == -np.inf
    np.testing.assert_allclose(stopped.perturbed[0], [10.1, 0], **EXACT)
    more = margins.deepfool(network, x[1:], label[1:], overshoot=0.5).distance
    np.testing.assert_allclose(more, 1.5 * stopped.distance[1:], **EXACT)


@pytest.mark.usefixtures("unchecked")
def test_bad_deepfool_options() -> None:
    params, x, label = affine_case(0)
    network = as_pytree(affine, params)
    for options in [{"max_steps": 0}, {"overshoot": -0.1}, {"overshoot": np.nan}]:
        with pytest.raises(JaxfairError, match="max_steps is"):
            margins.deepfool(network, x, label, **options)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_inputs_may_be_narrower_than_the_network(dtype: Any) -> None:
    """As on an accelerator, where the steps are one compiled loop; so they are here under jit.

    Of the examples that one step leads across: its overshoot is 2 %, and these types round by 0.4 % at most. A corner
    is approached by ever smaller steps, where their rounding decides whether one crosses, and kernels round otherwise.
    """
    params, x, label = affine_case(0)
    network, narrow = as_pytree(affine, params), jnp.asarray(x).astype(dtype)
    found = jax.jit(lambda some: margins.deepfool(network, some, label).distance)(narrow)
    expected = margins.deepfool(network, narrow, label)
    once = np.asarray(expected.steps) == 1
    assert once.sum() > len(x) / 2
    np.testing.assert_allclose(np.asarray(found, float)[once], np.asarray(expected.distance, float)[once], rtol=2e-2)


@pytest.mark.parametrize(
    ("dtype", "scale"), [(np.float32, 1e20), (np.float32, 1e-20), (np.float16, 300), (np.float16, 1e-3)]
)
def test_distances_scale_with_the_input(dtype: Any, scale: float) -> None:
    """Of a linear network, whose squares would leave the range of the type; rounded as the type rounds its inputs."""
    rng = np.random.default_rng(0)
    w, x, y = rng.normal(size=(4, 3)).astype(np.float32), rng.normal(size=(20, 4)), rng.integers(0, 3, 20)
    given = (x * scale).astype(dtype)

    def classifier(x: Any) -> Any:
        return x.astype(jnp.float32) @ jnp.asarray(w)

    found = margins.deepfool(classifier, given, y)
    expected = margins.deepfool(classifier, given.astype(np.float64).astype(np.float32) / np.float32(scale), y)
    assert found.success.all()
    assert expected.success.all()
    np.testing.assert_allclose(found.distance / scale, expected.distance, rtol=0.03 if dtype == np.float16 else 1e-4)
