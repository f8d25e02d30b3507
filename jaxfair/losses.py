"""Per-example losses; the caller reduces them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxfair.errors import JaxfairError


def cross_entropy(logits: Float[Array, "n c"], label: Int[Array, " n"]) -> Float[Array, " n"]:
    """Compute ``-log softmax(logits)[label]`` of each example, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def distillation(
    logits: Float[Array, "n c"], teacher_logits: Float[Array, "n c"], temperature: float
) -> Float[Array, " n"]:
    """Compute ``T^2 KL(softmax(teacher / T) || softmax(student / T))`` of each example, in nats.

    Its mean is PyTorch's ``kl_div(..., reduction="batchmean") * T**2``, as in Cho et al. 2022 (T = 4).
    """
    target = jax.nn.log_softmax(teacher_logits / temperature)
    predicted = jax.nn.log_softmax(logits / temperature)
    return temperature**2 * optax.losses.kl_divergence_with_log_targets(predicted, target)


def check_labels(label: Any, num_classes: int | None = None) -> None:
    """Raise a JaxfairError unless ``label`` holds integers of 0..num_classes-1, one for each example."""
    label = np.asarray(label)
    if label.ndim != 1 or not jnp.issubdtype(label.dtype, jnp.integer):
        raise JaxfairError(f"Labels have type {label.dtype} and shape {label.shape}; expected integers of shape (n,).")
    too_large = False if num_classes is None else label >= num_classes
    if (wrong := np.flatnonzero((label < 0) | too_large)).size:
        classes = "classes" if num_classes is None else f"the {num_classes} classes"
        raise JaxfairError(f"The label of example {wrong[0]} is {label[wrong[0]]}; {classes} count from 0.")
