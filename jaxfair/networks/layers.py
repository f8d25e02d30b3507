"""A network as a list of layers, and what computes it: nothing here is jaxfair's own but the format.

Frameworks for private inference need another Python and an older JAX than jaxfair does, so a network is handed to them
as data: ``gathered`` makes the list, and the process that runs the protocol loads this one file by its path. Hence it
imports JAX and NumPy alone, and uses what every JAX since 0.4.26 has.

A value has a number: 0 is the images, and layer i computes the value i + 1. The last value are the logits. The weights
of layer i are the arrays ``"<i>/kernel"`` and ``"<i>/bias"``; they are the secret of whoever has the network. Which
units of a gate are compared is public: ``kept["<i>"]`` are their positions in the flattened image.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax


class Layer(NamedTuple):
    """One layer.

    Attributes:
        op: ``conv``, ``dense``, ``affine`` (each channel with a factor and an addend of its own), ``relu``, ``add``,
            ``pool`` (mean over 2x2, an odd last row or column dropped), ``mean`` (over the image) or ``flatten``.
        inputs: numbers of the values that it takes.
        name: of the layer in the network.
        stride: of a convolution, whose padding is half its size.
    """

    op: str
    inputs: tuple
    name: str = ""
    stride: int = 1


LINEAR = ("conv", "dense", "affine")
"""The layers that have weights."""


def run(
    layers: Sequence[Layer],
    weights: Mapping[str, Any],
    kept: Mapping[str, np.ndarray],
    x: Any,
    change: Callable[[int, Any], Any] = lambda number, value: value,
) -> list:
    """Compute all values of a network.

    Args:
        layers: in an order in which each comes after those that it takes values of.
        weights: arrays by name; secret shares where a protocol traces this function.
        kept: positions by number of the layer, constants; a ``relu`` without an entry compares every unit.
        x: images, normalised, shape (n, h, w, c).
        change: ``(number of a layer, its value) -> value``; by default nothing is changed.

    Returns:
        The values; the last are the logits, shape (n, classes).
    """
    values = [x]
    for i, layer in enumerate(layers):
        given = [values[number] for number in layer.inputs]
        if layer.op in LINEAR:
            value = linear(layer, weights[f"{i}/kernel"], given[0]) + weights[f"{i}/bias"]
        elif layer.op == "relu":
            value = relu(given[0], kept.get(str(i)))
        else:
            value = plain(layer, given)
        values.append(change(i, value))
    return values


def linear(layer: Layer, kernel: Any, x: Any) -> Any:
    """Compute a layer of ``LINEAR`` without its bias."""
    if layer.op == "affine":
        return x * kernel
    if layer.op == "dense":
        return x @ kernel
    pad, layout = kernel.shape[0] // 2, ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (layer.stride, layer.stride), [(pad, pad), (pad, pad)], dimension_numbers=layout
    )


def plain(layer: Layer, given: Sequence[Any]) -> Any:
    """Compute a layer that has neither weights nor comparisons."""
    x = given[0]
    if layer.op == "add":
        return x + given[1]
    if layer.op == "flatten":
        return x.reshape(len(x), -1)
    if layer.op == "mean":
        return x.sum(axis=(1, 2)) * (1 / (x.shape[1] * x.shape[2]))
    if layer.op == "pool":
        n, h, w, c = x.shape
        x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c)
        return x.sum(axis=(2, 4)) * 0.25
    raise ValueError(f"There is no layer '{layer.op}'.")


def relu(x: Any, kept: Any) -> Any:
    """Apply a ReLU to some units: they are gathered, compared, and put back in their places.

    A choice between both for every unit would compare every unit, and a protocol pays for each comparison.
    """
    if kept is None:
        return jnp.maximum(x, 0)
    flat = x.reshape(len(x), -1)
    units = flat.shape[1]
    back = np.arange(units)
    back[kept] = units + np.arange(len(kept))
    both = jnp.concatenate([flat, jnp.maximum(_columns(flat, np.asarray(kept)), 0)], axis=1)
    return _columns(both, back).reshape(x.shape)


def _columns(flat: Any, index: np.ndarray) -> Any:
    """Return columns by their numbers, which are constants and within bounds: indexing would compare them with both."""
    numbers = lax.GatherDimensionNumbers(offset_dims=(0,), collapsed_slice_dims=(1,), start_index_map=(1,))
    mode = lax.GatherScatterMode.PROMISE_IN_BOUNDS
    return lax.gather(flat, index[:, None].astype(np.int32), numbers, (len(flat), 1), mode=mode)
