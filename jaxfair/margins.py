"""Distances to the decision boundary."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def softmax_gap(logits: Float[Array, "n c"]) -> Float[Array, " n"]:
    """Return the largest softmax score minus the second largest, in [0, 1]; 0 is on the boundary.

    The distance to the decision boundary as the code of Das et al. 2024 has it. It ignores the label: a confidently
    wrong example is far from the boundary.
    """
    top = jax.lax.top_k(jax.nn.softmax(logits), 2)[0]
    return jnp.asarray(top[:, 0] - top[:, 1])
