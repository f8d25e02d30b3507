"""Per-example losses; the caller reduces them."""

from typing import Any

import jax
import optax
from jaxtyping import Array, Float, Int


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


def takes_classes(loss: Any) -> bool:
    """Return whether a loss is cross-entropy with class numbers, ours or Optax's, which read others without a word."""
    return loss in (cross_entropy, optax.softmax_cross_entropy_with_integer_labels)
