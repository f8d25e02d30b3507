"""Numbers of each channel spread over images, and images summed into their channels; batch norm is made of both.

On a CPU with jaxlib 0.11 and newer both are written as products with ones. XLA's own sums over all axes but the last
are up to seven times slower there, and that is also what the derivative of what is spread would be: each of the two is
the other's transpose, to any order of derivatives. Elsewhere XLA fuses sums with what is around them.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def by_products() -> bool:
    """Return whether both are written as products."""
    return jax.default_backend() == "cpu" and jax.__version_info__ >= (0, 11)


def spread(values: Float[Array, " c"], shape: tuple[int, ...]) -> Float[Array, "*n c"]:
    """Return an array of a shape, whose last axis is that of ``values``, with these everywhere."""
    if not by_products():
        return jnp.broadcast_to(values, shape)
    ones = jnp.ones(math.prod(shape[:-1]), values.dtype)  # XLA multiplies with them no more than it has to
    return lax.dot_general(ones, values, (((), ()), ((), ())), precision="highest").reshape(shape)


def total(x: Float[Array, "*n c"]) -> Float[Array, " c"]:
    """Return the sums over all axes but the last."""
    if not by_products():
        return x.sum(axis=tuple(range(x.ndim - 1)))
    flat = x.reshape(-1, x.shape[-1])
    return lax.dot_general(jnp.ones(len(flat), x.dtype), flat, (((0,), (0,)), ((), ())), precision="highest")
