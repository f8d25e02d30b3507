"""Blocks of parameters: dense sub-matrices of the Hessian in float64, and what adds up to the whole."""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

from jaxfair import losses, taylor
from jaxfair.curvature.blocks import BlockCurvature, block_curvature
from jaxfair.curvature.config import CurvatureConfig
from jaxfair.curvature.operators import GroupOperator
from jaxfair.curvature.programs import programs
from jaxfair.curvature.spectrum import group_curvature
from jaxfair.errors import JaxfairError
from jaxfair.networks import CNN, frozen, init
from tests.curvature.cases import GROUP_WEIGHTS
from tests.examples import CLASSES, FEATURES, GROUPS, IMAGES, INPUTS, LABEL

RNG = np.random.default_rng(3)
HIDDEN = 3
PARAMS = {
    "first": {"kernel": RNG.normal(size=(FEATURES, HIDDEN)), "bias": RNG.normal(size=HIDDEN)},
    "second": {"kernel": RNG.normal(size=(HIDDEN, CLASSES))},
    "scale": np.array([1.3]),
}
AFTER = jax.tree.map(lambda leaf: leaf + 0.1 * RNG.normal(size=leaf.shape), PARAMS)
GIVEN = INPUTS, LABEL, GROUP_WEIGHTS
PRECISE = CurvatureConfig(tolerance=1e-10, bottom=True)


def mlp(params, x):
    hidden = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"])
    return hidden @ params["second"]["kernel"] * params["scale"]


@jax.jit
def dense(params, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return gradient and Hessian of a group's loss in the flat parameters."""
    flat, unravel = ravel_pytree(params)

    def loss(p):
        return weight @ losses.cross_entropy(mlp(unravel(p), INPUTS), jnp.asarray(LABEL))

    return jax.grad(loss)(flat), jax.hessian(loss)(flat)


def places(path: str) -> np.ndarray:
    """Return the coordinates of the arrays whose path begins so."""
    marked = jax.tree_util.tree_map_with_path(
        lambda p, leaf: np.full(np.shape(leaf), jax.tree_util.keystr(p, simple=True, separator="/").startswith(path)),
        PARAMS,
    )
    return np.flatnonzero(ravel_pytree(marked)[0])


@pytest.fixture(scope="module")
def found() -> BlockCurvature:
    with jax.enable_x64(True):
        return block_curvature(mlp, PARAMS, *GIVEN, PRECISE, after=AFTER)


def test_blocks_are_the_layers(found: BlockCurvature) -> None:
    assert found.names == ("first", "scale", "second")
    assert found.size.tolist() == [FEATURES * HIDDEN + HIDDEN, 1, HIDDEN * CLASSES]
    assert found.top_eigenvalue.shape == (GROUPS, 3)


@pytest.mark.usefixtures("float64")
def test_each_block_equals_the_dense_sub_matrix(found: BlockCurvature) -> None:
    step = np.asarray(ravel_pytree(AFTER)[0]) - np.asarray(ravel_pytree(PARAMS)[0])
    for group in range(GROUPS):
        gradient, hessian = map(np.asarray, dense(PARAMS, GROUP_WEIGHTS[group]))
        for b, name in enumerate(found.names):
            own = places(name)
            block = hessian[np.ix_(own, own)]
            values = np.linalg.eigvalsh(block)
            np.testing.assert_allclose(found.gradient_norm[group, b], np.linalg.norm(gradient[own]), rtol=1e-10)
            np.testing.assert_allclose(found.top_eigenvalue[group, b], values[-1], rtol=1e-8, atol=1e-10)
            np.testing.assert_allclose(found.bottom_eigenvalue[group, b], values[0], rtol=1e-6, atol=1e-8)
            np.testing.assert_allclose(found.first[group, b], gradient[own] @ step[own], rtol=1e-8, atol=1e-12)
            np.testing.assert_allclose(found.second[group, b], step[own] @ (hessian @ step)[own] / 2, rtol=1e-8)
            np.testing.assert_allclose(found.alone[group, b], step[own] @ block @ step[own] / 2, rtol=1e-8)
    assert found.converged.all()
    assert (found.top_eigenvalue_residual <= 1e-8).all()
    assert (found.steps <= found.size).all()


@pytest.mark.usefixtures("float64")
def test_blocks_add_up_to_the_whole(found: BlockCurvature) -> None:
    """Gradients in squares, terms as they are, quadratic forms up to the cross terms."""
    whole = group_curvature(mlp, PARAMS, *GIVEN, CurvatureConfig(tolerance=1e-10))
    terms = taylor.taylor_terms(mlp, PARAMS, AFTER, *GIVEN)
    np.testing.assert_allclose((found.gradient_norm**2).sum(axis=1), whole.gradient_norm**2, rtol=1e-10)
    np.testing.assert_allclose(found.first.sum(axis=1), terms.first, rtol=1e-10)
    np.testing.assert_allclose(found.second.sum(axis=1), terms.second, rtol=1e-10)
    assert (found.top_eigenvalue <= whole.top_eigenvalue[:, None] + 1e-10).all()  # Cauchy's interlacing
    step = ravel_pytree(AFTER)[0] - ravel_pytree(PARAMS)[0]
    for group in range(GROUPS):
        operator = GroupOperator(mlp, PARAMS, INPUTS, jnp.asarray(LABEL), GROUP_WEIGHTS[group])
        parts = []
        for name in found.names:
            part = np.zeros(step.size)
            part[places(name)] = step[places(name)]
            parts.append(part)
        cross = sum(a @ np.asarray(operator(b)) / 2 for i, a in enumerate(parts) for j, b in enumerate(parts) if i != j)
        np.testing.assert_allclose(terms.second[group] - found.alone[group].sum(), cross, rtol=1e-8)


def test_blocks_of_a_users_own_and_single_arrays() -> None:
    arrays = block_curvature(mlp, PARAMS, *GIVEN, None, blocks="array")
    assert arrays.names == ("first/bias", "first/kernel", "scale", "second/kernel")
    whole = block_curvature(mlp, PARAMS, *GIVEN, None, blocks=lambda path: "all")
    layers = block_curvature(mlp, PARAMS, *GIVEN, None)
    for several in (arrays, layers):
        np.testing.assert_allclose(
            np.sqrt((several.gradient_norm**2).sum(axis=1)), whole.gradient_norm[:, 0], rtol=1e-5
        )
    assert np.isnan(whole.top_eigenvalue).all()
    assert np.isnan(whole.first).all()
    assert not whole.steps.any()
    weights = INPUTS[:, :CLASSES] * 0 + 1.0
    bare = block_curvature(lambda w, x: x * w, np.ones(CLASSES), weights, LABEL, GROUP_WEIGHTS, None)
    assert bare.names == ("params",)


class Heads(NamedTuple):
    """A module that has a field of the name by which a box holds its array."""

    query: Any
    value: Any


ONE = np.ones(CLASSES, np.float32)


@pytest.mark.parametrize(
    ("params", "layers", "arrays"),
    [
        ({"a": {"b": Heads(ONE, ONE)}}, ("a/b",), ("a/b/query", "a/b/value")),
        ({"a": nn.Partitioned(ONE, ("x",)), "b": {"value": ONE}}, ("a", "b"), ("a", "b/value")),
        ({"a": nnx.State({"kernel": nnx.Param(ONE), "bias": nnx.Param(ONE)})}, ("a",), ("a/bias", "a/kernel")),
        ({"a/b": {"w": ONE}, "a": {"b": {"w": ONE}}}, ("['a']['b']", "['a/b']"), ("['a']['b']['w']", "['a/b']['w']")),
        ({"a/b": ONE, "a": {"b": ONE}}, ("a", "a/b"), ("['a']['b']", "['a/b']")),
    ],
    ids=["a field named value", "nn.Partitioned", "NNX", "slashes", "a slash in no module"],
)
def test_blocks_are_named_by_modules_and_arrays(params: Any, layers: tuple, arrays: tuple) -> None:
    """A box of Flax is no module, whatever else has a field of its name's; a slash in a name is no path."""

    def product(params: Any, x: jax.Array) -> jax.Array:
        return x * sum(jax.tree.leaves(params))

    params = jax.tree.map(np.copy, params)
    rules: list[tuple[Any, tuple]] = [("layer", layers), ("array", arrays)]
    for blocks, names in rules:
        found = block_curvature(product, params, INPUTS[:, :CLASSES], LABEL, GROUP_WEIGHTS, None, blocks=blocks)
        assert found.names == names
        assert found.size.sum() == CLASSES * len(jax.tree.leaves(params))


@pytest.mark.parametrize("start", ["gradient", "coarse"])
def test_a_start_changes_no_value(start) -> None:
    one, other = (
        block_curvature(mlp, PARAMS, *GIVEN, CurvatureConfig(tolerance=1e-4, start=s)) for s in ("random", start)
    )
    np.testing.assert_allclose(one.top_eigenvalue, other.top_eigenvalue, rtol=1e-3, atol=1e-5)
    assert np.isnan(one.bottom_eigenvalue).all()


def test_no_program_more_than_for_the_whole() -> None:
    """Whatever the number of blocks, products are compiled once."""
    network = init(CNN(num_classes=CLASSES, features=(2, 3)), IMAGES.shape[1:], seed=0)
    given = frozen(network), network.params, IMAGES.astype(np.float32), LABEL, GROUP_WEIGHTS
    compiled = programs("cpu", "highest")
    sizes = []
    for run in (group_curvature, partial(block_curvature, after=jax.tree.map(lambda leaf: 1.1 * leaf, network.params))):
        found = run(*given, CurvatureConfig(tolerance=1e-2))
        sizes.append([program._cache_size() for program in compiled])
    assert isinstance(found, BlockCurvature)
    assert found.names == ("head", "stage2_conv", "stem_conv")
    assert sizes[0] == sizes[1]
    assert sum(sizes[0]) > 0


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(JaxfairError, match="give 'layer' or 'array' or a function"):
        block_curvature(mlp, PARAMS, *GIVEN, blocks="head")  # pyright: ignore[reportArgumentType]
    with pytest.raises(JaxfairError, match=r"blocks\(path\) fails .*; give a function from an array's path"):
        block_curvature(mlp, PARAMS, *GIVEN, blocks=lambda path: path["first"])  # pyright: ignore[reportArgumentType]
    with pytest.raises(JaxfairError, match="'first/bias' is of shape"):
        block_curvature(mlp, PARAMS, *GIVEN, after={**AFTER, "first": {"bias": 0.0}})
