"""Quantization after training: weights rounded to few bits, or to another floating-point format, emulated in float.

A quantized network is the same module with other kernels. Batch norm stays beside the convolutions, as parameters, so
that training, analysis and checkpoints know nothing of it; but what is rounded are the kernels in which it is built in
(``networks.network.fold``), which is what runs on an integer unit. They are then divided by the norm's slope again. So
the change of the parameters is known in the full network's own ones, and evaluation, which multiplies by the slope,
computes with the rounded kernels, up to a unit in the last place of float32.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxfair.errors import JaxfairError
from jaxfair.networks.architectures import EPSILON, ResNet
from jaxfair.networks.arithmetic import Arithmetic, round_to
from jaxfair.networks.network import Network

MOST_BITS = 8
SHORT = 16  # significant bits of a step: times an integer of 8 bits it is exact in float32, which has 24


def quantize(network: Network, bits: int) -> Network:
    """Round every kernel to ``2^bits - 1`` equally spaced values around zero, with one step for each output channel.

    The largest magnitude of a channel is the largest value (symmetric, without clipping); biases, which integer units
    add in 32 bits, stay as they are. Quantizing twice changes nothing.

    Args:
        network: A trained network; it is not changed.
        bits: Of a weight, 2 to 8.

    Returns:
        The network with rounded kernels. Fine-tuning moves them off their values again.

    Raises:
        JaxfairError: The bits are no whole number from 2 to 8.

    Example:
        >>> import numpy as np
        >>> from jaxfair import CNN, init, quantize
        >>> network = init(CNN(num_classes=3, features=(2,)), (8, 8, 1), seed=0)
        >>> kernel = np.asarray(quantize(network, 3).params["head"]["kernel"])
        >>> [len(np.unique(column)) <= 7 for column in kernel.T]
        [True, True, True]
    """
    check_bits(bits)
    folds = isinstance(network.module, ResNet) and network.module.block != "preactivation"
    return network.replace(params=_rounded(network.params, network.batch_stats if folds else {}, bits))


def round_kernel(kernel: Float[np.ndarray, "*rest out"], bits: int) -> Float[np.ndarray, "*rest out"]:
    """Round a kernel to ``step * k`` with whole ``k`` from ``-(2^(bits-1) - 1)`` to ``2^(bits-1) - 1``.

    ``step`` is the largest magnitude of the output channel over the largest ``k``, rounded to 16 significant bits so
    that every ``step * k`` is exact. Halves go to the even ``k``. A channel of zeros stays one.

    Args:
        kernel: float32, output channels last.
        bits: 2 to 8.
    """
    kernel, levels = np.asarray(kernel, np.float32), np.float32(2 ** (bits - 1) - 1)
    mantissa, exponent = np.frexp(np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1))) / levels)
    step = np.ldexp(np.rint(np.ldexp(mantissa, SHORT)), exponent - SHORT).astype(np.float32)
    whole = np.rint(np.divide(kernel, step, out=np.zeros_like(kernel), where=step > 0))
    return np.clip(whole, -levels, levels) * step


def float_format(network: Network, kind: Arithmetic) -> Network:
    """Round every kernel to a floating-point format, and let all products be those of it (``networks.arithmetic``).

    Args:
        network: A trained network; it is not changed.
        kind: ``bf16``, ``fp16`` or ``tf32``.

    Returns:
        The network with rounded kernels and emulated arithmetic, in which batch norm stays in float32.

    Raises:
        JaxfairError: The format is unknown.
    """
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: round_to(leaf, kind) if path[-1].key == "kernel" else leaf, network.params
    )
    return network.replace(module=network.module.clone(arithmetic=kind), params=params)


def check_bits(bits: int) -> None:
    """Raise a JaxfairError unless weights can be rounded to so many bits."""
    if bits not in range(2, MOST_BITS + 1):
        raise JaxfairError(f"Weights are to be rounded to {bits} bits; give a whole number from 2 to {MOST_BITS}.")


def _rounded(params: Any, batch_stats: Any, bits: int) -> Any:
    """Return parameters with rounded kernels; those with statistics of the norm after them have it built in."""
    made = {}
    for name, entry in params.items():
        if "kernel" in entry:
            norm = name.replace("conv", "norm")
            slope = np.ones(1, np.float32)
            if norm in batch_stats:
                slope = _slope(params[norm], batch_stats[norm])
            made[name] = {**entry, "kernel": jnp.asarray(_round_times(np.asarray(entry["kernel"]), slope, bits))}
        elif any(isinstance(inner, dict) for inner in entry.values()):
            made[name] = _rounded(entry, batch_stats.get(name, {}), bits)
        else:
            made[name] = entry
    return made


def _slope(norm: Any, stats: Any) -> np.ndarray:
    """Return what a norm multiplies each channel by, as ``fold`` computes it; in NumPy, so bit for bit everywhere."""
    return np.asarray(norm["scale"]) / np.sqrt(np.asarray(stats["var"]) + np.float32(EPSILON))


def _round_times(kernel: np.ndarray, slope: np.ndarray, bits: int) -> np.ndarray:
    """Round ``kernel * slope`` and divide by ``slope``; a channel that a norm multiplies by zero stays as it is."""
    rounded = round_kernel(kernel * slope, bits)
    return np.divide(rounded, slope, out=kernel.copy(), where=np.broadcast_to(slope != 0, kernel.shape))
