"""Small networks with random weights, and images for them, for several test files. Not a test itself."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxfair import networks

IMAGE = (11, 12, 3)
# Some tens of float64 operations in sequence on values of order 1 to 100.
FLOAT64: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-11}


def randomized(network: networks.Network, seed: int = 0) -> networks.Network:
    """Replace weights and statistics by random float64, so that none has the neutral value of the start."""
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(scale=0.5, size=leaf.shape)), network.params)
    batch_stats = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape)), network.batch_stats)
    return network.replace(params=params, batch_stats=batch_stats)


def random_images(seed: int = 1) -> jax.Array:
    """Draw a batch; always of one size, since each new shape compiles every operation again."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=(4, *IMAGE)))


def conv(x: jax.Array, variables: Any, stride: int) -> jax.Array:
    pad = variables["kernel"].shape[0] // 2
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, variables["kernel"], (stride, stride), [(pad, pad)] * 2, dimension_numbers=layout
    )


# Blocks whose shortcut has a convolution and others, with every stride of 1 and 2.
MODULES: dict[str, networks.Module] = {
    "basic": networks.ResNet((1, 2), num_classes=4, width=3, stem_stride=2),
    "bottleneck": networks.ResNet((2, 1), num_classes=4, width=3, stem_stride=2, block="bottleneck"),
    "preactivation": networks.ResNet((2, 1), 4, width=3, stem_stride=2, block="preactivation", stem_width=2),
    "cnn": networks.CNN(num_classes=4, features=(3, 2), stem_stride=2),
}
each_module = pytest.mark.parametrize("kind", MODULES)


@functools.cache
def random_network(kind: str, seed: int = 0) -> networks.Network:
    module = MODULES[kind]
    with jax.enable_x64(True):  # whoever asks first: all have the same one
        shapes = networks.shapes(module, IMAGE)
        units = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes.masks)
        return randomized(networks.Network(module, shapes.params, shapes.batch_stats, units), seed)
