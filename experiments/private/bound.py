"""How far fixed-point logits can be from those in floating point.

SPU's numbers are multiples of eps = 2^-f. Weights and images are cut to such multiples, towards 0, which anybody can
repeat: the *rounded network*. It is off from the true one by a known amount. Sums are exact. What is not known is how a
product is cut back to f bits, once for each sum of products: it is off by less than CUT eps. Let d_s <= CUT eps be
these errors at every unit s, and J the derivative of the rounded network at the image. Were the network affine, a
number v would be off by at most sum_s |J_vs| d_s. A ReLU whose input a is off by e behaves as its derivative says, but
for at most max(|e| - |a|, 0), where it changes its sign; that is one more error, at its output. So errors are bounded
layer after layer: those of a gate's inputs first, by all errors before it, then those at its outputs, and last those of
the logits. All of it holds while no number wraps around in 64 bits, which is checked.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfair.errors import JaxfairError
from jaxfair.networks import Gathered, layers

CUT = {"aby3": 1, "cheetah": 2}
"""How many eps a product is off by at most after it is cut: Cheetah's cut leaves a carry out."""
WHOLE = 62
"""Bits of a 64-bit number that a product may take: one is the sign, and cutting needs another one."""
ROWS = 64
"""Derivatives that are computed at once."""


def logit_error(network: Gathered, images: np.ndarray, fraction_bits: int, protocol: str) -> np.ndarray:
    """Return a bound on the difference of every logit from floating point.

    Args:
        network: what is computed.
        images: normalised, shape (n, h, w, c).
        fraction_bits: f.
        protocol: which says how products are cut.

    Returns:
        Shape (n, classes).

    Raises:
        JaxfairError: a value is so large that a product would wrap around.
    """
    weights = {name: round_down(array, fraction_bits) for name, array in network.weights.items()}
    scale = 2.0**fraction_bits
    every = [_errors(network, weights, scale, CUT[protocol], one) for one in round_down(images, fraction_bits)]
    logits, errors, largest = zip(*every, strict=True)
    if (most := max(map(float, largest))) * 2.0 ** (2 * fraction_bits) >= 2.0**WHOLE:
        raise JaxfairError(
            f"With {fraction_bits} fraction bits, products of values up to {most:.3g} do not fit into 64 bits; give "
            "fewer bits by --fraction-bits."
        )
    return np.abs(np.array(logits) - np.asarray(network(images))) + np.array(errors)


def round_down(x: Any, fraction_bits: int) -> np.ndarray:
    """Return the nearest multiples of eps towards 0, as SPU encodes numbers."""
    return (np.trunc(np.asarray(x, np.float64) * 2.0**fraction_bits) / 2.0**fraction_bits).astype(np.float32)


@partial(jax.jit, static_argnums=0)
def _errors(
    network: Gathered, weights: dict[str, jax.Array], scale: jax.Array, cut: jax.Array, image: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the rounded network's logits of one image, their errors at most, and its largest value; eps = 1/scale."""

    def values(moved: dict[int, jax.Array]) -> list[jax.Array]:
        sizes = [image.size]

        def change(i: int, value: jax.Array) -> jax.Array:
            layer = network.layers[i]
            sizes.append(value.size)
            if layer.op in ("mean", "pool"):
                count = 4 if layer.op == "pool" else sizes[layer.inputs[0]] // value.size
                value = value * jnp.trunc(scale / count) * (count / scale)  # the factor 1/k is a multiple of eps too
            return value + moved[i] if i in moved else value

        return layers.run(network.layers, weights, network.kept, image[None], change)

    def off(number: int, index: np.ndarray) -> jax.Array:
        """Bound the errors of some units of a value, by those that are known so far."""
        sources = {i: jnp.zeros(error.shape) for i, error in errors.items() if i < number}
        _, pull = jax.vjp(lambda moved: values(moved)[number].reshape(-1)[index], sources)

        def one(row: jax.Array) -> jax.Array:
            (slopes,) = pull(row)
            return sum((jnp.sum(jnp.abs(slopes[i]) * errors[i]) for i in sources), jnp.zeros(()))

        return lax.map(one, jnp.eye(len(index)), batch_size=ROWS)

    found = values({})
    errors: dict[int, jax.Array] = {}
    for i, layer in enumerate(network.layers):
        value = found[i + 1]
        if layer.op in (*layers.LINEAR, "mean", "pool"):
            errors[i] = jnp.full(value.shape, cut / scale)
        elif layer.op == "relu":
            kept = network.kept.get(str(i), np.arange(value.size))
            near = jnp.abs(found[layer.inputs[0]].reshape(-1)[kept])
            more = jnp.maximum(off(layer.inputs[0], kept) - near, 0)
            errors[i] = jnp.zeros(value.size).at[kept].set(more).reshape(value.shape)
    largest = jnp.array([jnp.abs(value).max() for value in found]).max()
    return found[-1][0], off(len(network.layers), np.arange(found[-1].size)), largest
