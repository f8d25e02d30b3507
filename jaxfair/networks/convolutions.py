"""Convolutions that are fast on a CPU where XLA's are not: of small images, and their derivatives by oneDNN's kernels.

Images, or results, that are smaller than the kernel, such as the last 2 x 2 pixels of a ResNet, no library's kernels
take, and XLA computes number by number. A product of matrices, of every pixel's neighbourhood and the kernel, takes a
small part of that time (``python -m benchmarks.convolutions --whole``).

XLA differentiates a convolution with respect to its kernel by another one, whose own kernel is the whole cotangent and
whose channels are the images. oneDNN reads that cotangent anew for every pixel of the result, of which there are too
few to fill its registers, and images are far apart in memory. The same sum is one over tiles that stay in the cache,
each of which is a convolution over rows, or, of strided ones, a few products of matrices. Two primitives, ``convolve``
and ``kernel_gradient``, bilinear and each the other's transpose, say so for derivatives of any order; every other
backend, and XLA's own kernels, keep the derivative that they had.
"""

import itertools
import math
import operator
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

from jaxfair import kernels

LAYOUT = ("NHWC", "HWIO", "NHWC")
"""Flax's layout of images, kernels and results."""
TILE, LANES = 2**19, 16
"""Bytes of the cotangent that are read at once, a part of a core's second cache, and images of it, at least."""
LEAST = 2.5e8
"""Operations of a strided convolution from which on products of matrices are fastest."""
FEW = 4
"""Channels of images, at most, whose convolutions by products of matrices are fastest at every size."""


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> Array:
    """Compute ``lax.conv_general_dilated``, for ``nn.Conv(conv_general_dilated=...)``, by what is fastest on a CPU.

    Args:
        lhs: Images, in the layout that ``dimension_numbers`` says.
        rhs: Kernels.
        window_strides: Strides of the window.
        padding: Numbers of zeros below and above, for each spatial dimension, or JAX's name of them.
        lhs_dilation: Dilation of the images.
        rhs_dilation: Dilation of the kernels.
        dimension_numbers: Layouts of images, kernels and result; any but Flax's, ``NHWC, HWIO -> NHWC``, is XLA's
            affair altogether, as is what is dilated or grouped.
        feature_group_count: Number of groups of channels.
        batch_group_count: Number of groups of the batch.
        precision: Precision of the products on accelerators.
        preferred_element_type: Type of the sums; if given, XLA does it all.
    """
    plain = max(*(lhs_dilation or (1,)), *(rhs_dilation or (1,)), feature_group_count, batch_group_count) == 1
    # Of two types, which a product of matrices would take for the wider one, JAX refuses a convolution.
    plain = plain and preferred_element_type is None and lhs.dtype == rhs.dtype
    plain = plain and lhs.ndim == 4 and _is_flax(lhs, rhs, dimension_numbers)
    if plain and isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
    if plain and jax.default_backend() == "cpu" and _is_small(lhs, rhs, window_strides, padding):
        return _by_neighbourhoods(lhs, rhs, window_strides, padding, precision)
    if not plain or not kernels.asked(os.environ):
        options = (dimension_numbers, feature_group_count, batch_group_count, precision, preferred_element_type)
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, *options)
    # JAX's own operations ask for the default when they are traced; a primitive of ours is lowered later.
    precision = precision or jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    return _CONVOLVE.bind(
        lhs,
        rhs,
        size=rhs.shape[:2],
        window_strides=tuple(window_strides),
        padding=tuple((int(low), int(high)) for low, high in padding),
        precision=precision,
    )


def _is_flax(lhs: Array, rhs: Array, dimension_numbers: Any) -> bool:
    given, flax = (lax.conv_dimension_numbers(lhs.shape, rhs.shape, said) for said in (dimension_numbers, LAYOUT))
    return given == flax


def _ends(lhs: Array, rhs: Array, strides: Sequence[int], padding: Any) -> list[int]:
    """Return the size of the result in each spatial dimension."""
    sizes = zip(lhs.shape[1:3], rhs.shape[:2], strides, padding, strict=True)
    return [(image + low + high - kernel) // stride + 1 for image, kernel, stride, (low, high) in sizes]


def _is_small(lhs: Array, rhs: Array, strides: Sequence[int], padding: Any) -> bool:
    """Return whether images or results, which are the images of the derivative, are smaller than the kernel.

    Not where the first window sees nothing of the image, as perhaps no other does, nor where JAX knows no numbers of
    pixels (``jax.export.symbolic_shape``).
    """
    if not all(isinstance(pixels, int) for pixels in lhs.shape[1:3]):
        return False
    ends, sizes = _ends(lhs, rhs, strides, padding), zip(lhs.shape[1:3], rhs.shape[:2], padding, strict=True)
    if min(ends) < 1 or not all(-image < low < kernel for image, kernel, (low, _) in sizes):
        return False
    return any(map(operator.lt, map(min, lhs.shape[1:3], ends), rhs.shape[:2]))


def _by_neighbourhoods(lhs: Array, rhs: Array, strides: Any, padding: Any, precision: Any) -> Array:
    """Return it as a product of matrices: of what every pixel of the result sees of an image, and the kernel.

    Rows and columns of the kernel that meet nothing but padding are left out, as are all but the middle of 3 x 3 for an
    image of one pixel.
    """
    ends = _ends(lhs, rhs, strides, padding)
    spans = [(end - 1) * stride + 1 for end, stride in zip(ends, strides, strict=True)]
    met = [
        [i for i in range(kernel) if i + span > low and i < low + image]
        for kernel, span, (low, _), image in zip(rhs.shape[:2], spans, padding, lhs.shape[1:3], strict=True)
    ]
    moved = _moved(_computed(lhs), padding, spans, strides)
    seen = [moved(i, j) for i, j in itertools.product(*met)]
    kernel = rhs[met[0][0] : met[0][-1] + 1, met[1][0] : met[1][-1] + 1].reshape(-1, rhs.shape[-1])
    return _computed(jnp.matmul(jnp.concatenate(seen, axis=-1), kernel, precision=precision))


def _computed(array: Array) -> Array:
    """Return an array that is computed once, and a derivative that is.

    XLA would compute what copies are of, such as batch norm or its gradient, within each of them anew.
    """
    return lax.optimization_barrier(array)


def _moved(lhs: Array, padding: Any, spans: Sequence[int], strides: Sequence[int]) -> Callable[[int, int], Array]:
    """Return a function of a row and a column of the kernel: of images, what that meets in each place of the result."""
    padded = lax.pad(lhs, jnp.zeros((), lhs.dtype), [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)])
    return lambda i, j: padded[:, i : i + spans[0] : strides[0], j : j + spans[1] : strides[1]]


def _convolve(lhs: Array, rhs: Array, *, size: Any, **options: Any) -> Array:
    del size  # of ``rhs``
    return lax.conv_general_dilated(lhs, rhs, **options, dimension_numbers=LAYOUT)


def _image_gradient(cotangent: Array, lhs: Any, rhs: Array, **options: Any) -> Array:
    """Return the transpose of ``_convolve`` with respect to ``lhs``, as XLA has it."""
    return jax.linear_transpose(lambda lhs: _convolve(lhs, rhs, **options), lhs.aval)(cotangent)[0]


def _kernel_gradient(cotangent: Array, lhs: Array, *, size: tuple[int, int], **options: Any) -> Array:
    """Return the transpose of ``_convolve`` with respect to ``rhs``, as XLA has it."""
    rhs = jax.ShapeDtypeStruct((*size, lhs.shape[-1], cotangent.shape[-1]), cotangent.dtype)
    return jax.linear_transpose(lambda rhs: _convolve(lhs, rhs, size=size, **options), rhs)(cotangent)[0]


def _fast_kernel_gradient(
    cotangent: Array,
    lhs: Array,
    *,
    size: tuple[int, int],
    window_strides: tuple[int, int],
    padding: Any,
    precision: Any,
) -> Array:
    """Return the same by what is fastest of tiles, products of matrices and XLA's own way."""
    cotangent, lhs = _computed(cotangent), _computed(lhs)
    strided, large = max(window_strides) > 1, 2 * cotangent.size * math.prod(size) * lhs.shape[-1] >= LEAST
    if size == (1, 1) or (strided and large) or (not strided and lhs.shape[-1] <= FEW):
        return _by_products(cotangent, lhs, size, window_strides, padding, precision)
    if strided:
        return _kernel_gradient(
            cotangent, lhs, size=size, window_strides=window_strides, padding=padding, precision=precision
        )
    images, rows = _tile(cotangent)
    total: Array | None = None
    for start, row in itertools.product(range(0, len(lhs), images), range(0, cotangent.shape[1], rows)):
        tile, first = cotangent[start : start + images, row : row + rows], row - padding[0][0]
        last = first + tile.shape[1] + size[0] - 1
        around = (max(-first, 0), max(last - lhs.shape[1], 0)), padding[1]
        seen = lhs[start : start + images, max(first, 0) : last]
        if total is not None:
            # One after another: copies of all tiles at once would leave the cache, and where XLA has oneDNN add up more
            # than 33 convolutions in one call, that ends the process.
            seen, tile, total = lax.optimization_barrier((seen, tile, total))
        part = _of_tile(tile, seen, size, around, precision)
        total = part if total is None else total + part
    assert total is not None
    return total


def _tile(cotangent: Array) -> tuple[int, int]:
    """Return of how many images, and of how many rows of each, a tile of the cotangent is."""
    count, high = cotangent.shape[:2]
    size = cotangent.size * cotangent.dtype.itemsize
    if size <= 2 * TILE:
        return count, high
    images = min(count, max(LANES, TILE * count // size))
    return images, min(high, max(1, TILE * count * high // (images * size)))


def _of_tile(cotangent: Array, lhs: Array, size: Any, padding: Any, precision: Any) -> Array:
    """Return it as a convolution over rows alone, whose channels are the columns of all images.

    Its images are ``lhs`` with its own channels as columns. Its kernel is the cotangent, as often as the kernel has
    columns and each time moved by one of these against ``lhs``, so that the result has enough columns and channels to
    fill registers, and what is copied stays in whole rows.
    """
    (count, high, across, out), (wide, channels) = cotangent.shape, lhs.shape[2:]
    low = padding[1][0]
    # Moved by j - low, and cut to the width of the images; what leaves them met their padding.
    moved = [
        lax.pad(
            cotangent,
            jnp.zeros((), cotangent.dtype),
            [(0, 0, 0), (0, 0, 0), (j - low, wide - across - (j - low), 0), (0, 0, 0)],
        )
        for j in range(size[1])
    ]
    kernel = jnp.concatenate(moved, axis=-1).transpose(1, 0, 2, 3).reshape(high, 1, count * wide, size[1] * out)
    images = lhs.transpose(1, 3, 0, 2).reshape(1, lhs.shape[1], channels, count * wide)
    around = padding[0], (0, 0)
    found = lax.conv_general_dilated(images, kernel, (1, 1), around, dimension_numbers=LAYOUT, precision=precision)
    return found.reshape(size[0], channels, size[1], out).transpose(0, 2, 1, 3)


def _by_products(cotangent: Array, lhs: Array, size: Any, strides: Any, padding: Any, precision: Any) -> Array:
    """Return it as a product for each row of the kernel, with the images moved by every column side by side."""
    _, high, wide, out = cotangent.shape
    moved = _moved(lhs, padding, [(high - 1) * strides[0] + 1, (wide - 1) * strides[1] + 1], strides)
    rows = [jnp.concatenate([moved(i, j) for j in range(size[1])], axis=-1) for i in range(size[0])]
    flat = cotangent.reshape(-1, out)
    products = [jnp.matmul(row.reshape(len(flat), -1).T, flat, precision=precision) for row in rows]
    return jnp.stack(products).reshape(*size, lhs.shape[-1], out)


def _primitive(name: str, function: Any) -> Primitive:
    """Return a primitive that is computed, shaped and mapped as a function of arrays is."""
    primitive = Primitive(name)

    def mapped(arguments: Any, axes: Any, **options: Any) -> tuple[Array, int]:
        return jax.vmap(partial(function, **options), in_axes=axes)(*arguments), 0

    def shaped(*arguments: Any, **options: Any) -> Any:
        return jax.make_jaxpr(partial(function, **options))(*arguments).out_avals[0]

    primitive.def_impl(jax.jit(primitive.bind, static_argnames=OPTIONS))
    primitive.def_abstract_eval(shaped)
    batching.primitive_batchers[primitive] = mapped
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=False))
    return primitive


OPTIONS = ("size", "window_strides", "padding", "precision")
_CONVOLVE = _primitive("convolve", _convolve)
_KERNEL_GRADIENT = _primitive("kernel_gradient", _kernel_gradient)
mlir.register_lowering(_KERNEL_GRADIENT, mlir.lower_fun(_fast_kernel_gradient, multiple_results=False), platform="cpu")
ad.defbilinear(
    _CONVOLVE,
    _image_gradient,
    lambda cotangent, lhs, rhs, **options: _KERNEL_GRADIENT.bind(cotangent, lhs, **options),
)
ad.defbilinear(
    _KERNEL_GRADIENT,
    lambda kernel, cotangent, lhs, **options: _CONVOLVE.bind(lhs, kernel, **options),
    lambda kernel, cotangent, lhs, **options: _image_gradient(cotangent, lhs, kernel, **options),
)
