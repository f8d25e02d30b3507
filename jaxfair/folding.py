"""Batch norm in evaluation mode as part of the convolution before it."""

from typing import Any

import jax.numpy as jnp


def fold(params: Any, batch_stats: Any, epsilon: float) -> Any:
    """Return parameters in which every convolution has the norm after it built in.

    The same function of the parameters, and so with the same derivatives up to rounding. But what a norm computes on
    activations is computed on kernels, and a Hessian product keeps half as many activations.

    Args:
        params: nested dicts in which ``<x>_norm`` follows ``<x>_conv`` and ``norm<k>`` follows ``conv<k>``.
        batch_stats: means and variances of the norms, in the same places.
        epsilon: of the norms.

    Returns:
        The same dicts without norms; a convolution has ``kernel`` and ``bias``.
    """
    folded = {}
    for name, entry in params.items():
        if "conv" in name:
            norm = name.replace("conv", "norm")
            slope = params[norm]["scale"] / jnp.sqrt(batch_stats[norm]["var"] + epsilon)
            bias = params[norm]["bias"] - batch_stats[norm]["mean"] * slope
            folded[name] = {"kernel": entry["kernel"] * slope, "bias": bias}
        elif "norm" not in name:
            folded[name] = fold(entry, batch_stats[name], epsilon) if name in batch_stats else entry
    return folded
