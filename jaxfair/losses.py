"""Per-example losses; the caller reduces them."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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


def attention(
    outputs: Sequence[Float[Array, "n _ _ _"]], teacher_outputs: Sequence[Float[Array, "n _ _ _"]]
) -> Float[Array, " n"]:
    """Compute how far the maps of two networks' attention are apart, for each example.

    An output's map is the mean over its channels of their squares, divided by the map's L2 norm. The squared
    differences are averaged over positions, as in the published code of Zagoruyko and Komodakis 2017 and of Kundu et
    al. 2023, who call it PRAM with a factor of 1000, and summed over the outputs.

    Args:
        outputs: activations of shape (n, height, width, channels), for instance of each stage.
        teacher_outputs: those of the teacher, of the same heights and widths.
    """
    apart = [_attention_map(a) - _attention_map(b) for a, b in zip(outputs, teacher_outputs, strict=True)]
    return sum((jnp.mean(difference**2, axis=1) for difference in apart), start=jnp.zeros_like(apart[0][:, 0]))


def _attention_map(output: Float[Array, "n h w c"]) -> Float[Array, "n hw"]:
    flat = jnp.mean(output**2, axis=-1).reshape(len(output), -1)
    # Where all channels are 0 the gradient of a norm would not be a number.
    return flat / jnp.sqrt(jnp.sum(flat**2, axis=1, keepdims=True) + 1e-24)


def says_second(loss: Any, logits: np.ndarray, y: Any) -> np.ndarray:
    """Return of networks with one logit whether it says the second of two classes: the one with the smaller loss.

    That is a logit above 0 for a logistic loss, and above one half for a squared one of classes 0 and 1.

    Args:
        loss: ``(logits, y) -> losses`` of shape (n,).
        logits: Of shape (n, 1).
        y: Labels, in the shape that the loss takes.
    """
    if np.ndim(y) > 1 and np.shape(y)[1:] != (1,):  # rows that say more than a class
        return logits[:, 0] > 0

    def of(logits: np.ndarray, label: int) -> np.ndarray:
        return np.asarray(loss(jnp.asarray(logits), jnp.full_like(jnp.asarray(y), label)))

    label = np.asarray(y)
    # Ones alone may be of classes 0 and 1, or -1 and 1; by losses of the latter, as of ``label * logit``, 0 is none.
    signs = (label == -1).any() or ((label == 1).all() and (of(logits, 0) == of(np.zeros_like(logits), 0)).all())
    first, second = of(logits, -1 if signs else 0), of(logits, 1)
    return np.where(first == second, logits[:, 0] > 0, second < first)


def takes_classes(loss: Any) -> bool:
    """Return whether a loss is cross-entropy with class numbers, ours or Optax's, which read others without a word."""
    return loss in (cross_entropy, optax.softmax_cross_entropy_with_integer_labels)


def seem_probabilities(logits: np.ndarray) -> str:
    """Return after what come numbers of shape (n, classes) that should be logits and look like probabilities, or "".

    After a softmax they sum to 1 for every example, but for rounding to three digits; of one column, after a sigmoid,
    all are between 0 and 1.
    """
    if logits.shape[1] == 1:
        between = len(logits) > 1 and (logits >= 0).all() and (logits <= 1).all()
        return "sigmoid; one logit is compared with 0" if between else ""
    rounding = min(1e-3 * logits.shape[1], 0.02)
    return "softmax" if (logits >= 0).all() and np.abs(logits.sum(axis=1) - 1).max() < rounding else ""
