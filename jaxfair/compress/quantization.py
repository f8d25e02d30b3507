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
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from jaxfair.data.dataset import Dataset
from jaxfair.errors import JaxfairError
from jaxfair.networks.architectures import EPSILON, ResNet, with_layer_inputs
from jaxfair.networks.arithmetic import Arithmetic, round_to
from jaxfair.networks.network import Network, check_images, frozen
from jaxfair.options import checked

MOST_BITS = 8
CALIBRATED = 256  # images at once
SHORT = 16  # significant bits of a step: times an integer of 8 bits it is exact in float32, which has 24


@checked
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
        JaxfairError: The bits are no whole number from 2 to 8, or a kernel is not finite.

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


@checked
def quantize_activations(network: Network, calibration: Dataset, bits: int) -> Partial:
    """Return the network as a function whose convolutions and dense layers get inputs rounded to ``bits``.

    Symmetrically, with one step for each layer: the largest magnitude of its inputs on the calibration images over
    ``2^(bits-1) - 1``; what is larger is clipped. Inputs are those of the network as it runs, batch norm built in.
    Derivatives go straight through the rounding, whose own is zero almost everywhere.

    Args:
        network: A network, such as ``quantize`` returns; only its function changes.
        calibration: Images to take the ranges from. They should not be those that it is tested on.
        bits: Of an activation, 2 to 8.

    Returns:
        ``logits_fn(params, x)`` as ``frozen`` returns it, for ``group_report`` or as a side of ``change_report``.

    Raises:
        JaxfairError: The bits are no whole number from 2 to 8, there is no image, or the images do not fit.
    """
    check_bits(bits, "Activations")
    if not len(calibration):
        raise JaxfairError("The calibration set has no image; give some of the training images.")
    check_images(network, calibration)
    levels, ranges = 2.0 ** (bits - 1) - 1, {}
    for start in range(0, len(calibration), CALIBRATED):
        index = np.arange(start, min(start + CALIBRATED, len(calibration)))
        found = jax.device_get(_input_ranges(network, *calibration.fetch(index)))
        ranges = {name: float(np.maximum(ranges.get(name, 0.0), largest)) for name, largest in found.items()}
    steps = {name: jnp.float32(largest / levels) for name, largest in ranges.items()}
    if odd := [name for name, largest in ranges.items() if not np.isfinite(largest)]:
        raise JaxfairError(f"The inputs of layer '{odd[0]}' are not all finite on the calibration images; check these.")
    return Partial(_with_rounded_inputs, frozen(network), steps, jnp.float32(levels))


@jax.jit
def _input_ranges(network: Network, data: Dataset, index: Int[Array, " b"]) -> dict[str, Float[Array, ""]]:
    """Return the largest magnitude of each layer's input on some images."""
    found = {}

    def look(name: str, x: Array) -> Array:
        found[name] = jnp.abs(x).max()
        return x

    with_layer_inputs(look, frozen(network), network.params, data.normalize(data.images[index]))
    return found


def _with_rounded_inputs(logits_fn: Partial, steps: Any, levels: Array, params: Any, x: Array) -> Array:
    def rounded(name: str, x: Array) -> Array:
        step = jnp.where(steps[name] > 0, steps[name], 1)
        near = jnp.clip(jnp.round(x / step), -levels, levels) * steps[name]  # of a range of 0, all is clipped to 0
        return x + jax.lax.stop_gradient(near - x)

    return with_layer_inputs(rounded, logits_fn, params, x)


@checked
def float_format(network: Network, kind: Arithmetic) -> Network:
    """Round every kernel to a floating-point format, and let all products be those of it (``networks.arithmetic``).

    Args:
        network: A trained network; it is not changed.
        kind: ``bf16``, ``fp16`` or ``tf32``.

    Returns:
        The network with rounded kernels and emulated arithmetic, in which batch norm stays in float32.

    Raises:
        JaxfairError: The format is unknown, or cannot hold a kernel.
    """

    def rounded(path: tuple[Any, ...], leaf: Any) -> Any:
        if path[-1].key != "kernel":
            return leaf
        kernel = round_to(leaf, kind)
        _check_finite(kernel, path[-2].key, f"in {kind}")
        return kernel

    params = jax.tree_util.tree_map_with_path(rounded, network.params)
    return network.replace(module=network.module.clone(arithmetic=kind), params=params)


def check_bits(bits: int, what: str = "Weights") -> None:
    """Raise a JaxfairError unless weights, or something else, can be rounded to so many bits."""
    if bits not in range(2, MOST_BITS + 1):
        raise JaxfairError(f"{what} are to be rounded to {bits} bits; give a whole number from 2 to {MOST_BITS}.")


def _rounded(params: Any, batch_stats: Any, bits: int) -> Any:
    """Return parameters with rounded kernels; those with statistics of the norm after them have it built in."""
    made = {}
    for name, entry in params.items():
        if "kernel" in entry:
            norm = name.replace("conv", "norm")
            slope, where = np.ones(1, np.float32), "as it is"
            if norm in batch_stats:
                slope, where = _slope(params[norm], batch_stats[norm]), "with its batch norm built in"
            kernel = np.asarray(entry["kernel"])
            with np.errstate(over="ignore", invalid="ignore"):
                _check_finite(kernel * slope, name, where)
            made[name] = {**entry, "kernel": jnp.asarray(_round_times(kernel, slope, bits))}
        elif any(isinstance(inner, dict) for inner in entry.values()):
            made[name] = _rounded(entry, batch_stats.get(name, {}), bits)
        else:
            made[name] = entry
    return made


def _check_finite(kernel: Any, layer: str, where: str) -> None:
    """Raise a JaxfairError for a kernel that cannot be rounded: one such number would make all of its channel NaN."""
    if not np.isfinite(np.asarray(kernel)).all():
        raise JaxfairError(f"The kernel of layer '{layer}' is not finite {where}; check the network's weights.")


def _slope(norm: Any, stats: Any) -> np.ndarray:
    """Return what a norm multiplies each channel by, as ``fold`` computes it; in NumPy, so bit for bit everywhere."""
    return np.asarray(norm["scale"]) / np.sqrt(np.asarray(stats["var"]) + np.float32(EPSILON))


def _round_times(kernel: np.ndarray, slope: np.ndarray, bits: int) -> np.ndarray:
    """Round ``kernel * slope`` and divide by ``slope``; a channel that a norm multiplies by zero stays as it is."""
    rounded = round_kernel(kernel * slope, bits)
    return np.divide(rounded, slope, out=kernel.copy(), where=np.broadcast_to(slope != 0, kernel.shape))
