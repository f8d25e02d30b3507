"""Batch norm built into convolutions: the same function of the parameters, with the same second derivatives."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxfair import networks
from jaxfair.curvature import operators
from jaxfair.curvature.operators import GIGABYTE, as_pytree, make_plan
from tests.networks.cases import FLOAT64, each_module, random_images, random_network

LABEL = np.array([0, 1, 2, 3])


def unfolded(network: networks.Network) -> Any:
    """Return the logits function that leaves batch norm to Linen, as a network's own call does."""
    return lambda params, x: network.replace(params=params)(x)


@pytest.mark.usefixtures("float64")
@each_module
def test_gradient_and_products_are_those_of_the_norms(kind: str) -> None:
    """In every parameter, also those of the norms; nothing is folded where a norm follows no convolution."""
    network, x = random_network(kind), random_images()
    vector = np.random.default_rng(2).normal(size=ravel_pytree(network.params)[0].size)
    found = []
    for logits_fn in (networks.frozen(network), unfolded(network)):
        operator = operators.GroupOperator(logits_fn, network.params, x, LABEL, np.full(4, 0.25))
        found.append((*operator.loss_and_gradient(), operator(vector)))
    scale = np.abs(found[1][2]).max()
    assert scale > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11 * max(scale, 1)), *found)


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_a_kept_pass_is_smaller(kind: str) -> None:
    network, x = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (random_network(kind), random_images()))
    plans = [
        make_plan(as_pytree(logits_fn), network.params, x, LABEL, count=4, chunk_size=4, memory=GIGABYTE)
        for logits_fn in (networks.frozen(network), unfolded(network))
    ]
    assert plans[0].kept_bytes < 0.75 * plans[1].kept_bytes


@pytest.mark.usefixtures("float64")
def test_fold_leaves_no_norm_and_changes_no_argument() -> None:
    network = random_network("basic")
    before = jax.tree.map(np.array, network.params)
    folded = networks.fold(network.params, network.batch_stats)
    assert set(folded) == {name for name in network.params if "norm" not in name}
    assert set(folded["stage1_block1"]["conv1"]) == {"kernel", "bias"}
    np.testing.assert_array_equal(folded["head"]["kernel"], network.params["head"]["kernel"])
    jax.tree.map(np.testing.assert_array_equal, network.params, before)
    x = random_images()[0]
    kernel, norm, stats = (network.params["stem_conv"]["kernel"], network.params["stem_norm"], network.batch_stats)
    stats = stats["stem_norm"]
    pixel = x[:3, :3]
    plain = np.einsum("hwc,hwck->k", pixel, kernel)
    expected = (plain - stats["mean"]) / np.sqrt(stats["var"] + networks.EPSILON) * norm["scale"] + norm["bias"]
    found = np.einsum("hwc,hwck->k", pixel, folded["stem_conv"]["kernel"]) + folded["stem_conv"]["bias"]
    np.testing.assert_allclose(found, expected, **FLOAT64)
