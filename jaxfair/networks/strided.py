"""Strided convolutions whose derivative is a plain convolution on CPU.

XLA differentiates a convolution of stride s with respect to its input by a convolution over an input that is dilated
on the way, which its CPU backend computes by a slow path, and oneDNN not at all. The same numbers are a plain
convolution over an input into which zeros were written before. Two primitives, bilinear and each the other's transpose,
``convolve`` and ``convolve_back``, say so for derivatives of any order; accelerators keep XLA's own derivative.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> Array:
    """Compute ``lax.conv_general_dilated``, for ``nn.Conv(conv_general_dilated=...)``; only its derivatives are others.

    Args:
        lhs: Images, in the layout that ``dimension_numbers`` says.
        rhs: Kernels.
        window_strides: Strides of the window.
        padding: Numbers of zeros below and above, for each spatial dimension.
        lhs_dilation: Dilation of the images; what is dilated or grouped is left to XLA altogether.
        rhs_dilation: Dilation of the kernels.
        dimension_numbers: Layouts of images, kernels and result.
        feature_group_count: Number of groups of channels.
        batch_group_count: Number of groups of the batch.
        precision: Precision of the products on accelerators.
        preferred_element_type: Type of the sums; if given, XLA does it all.
    """
    dilated = max((*(lhs_dilation or (1,)), *(rhs_dilation or (1,)))) > 1
    if max(window_strides) == 1 or dilated or max(feature_group_count, batch_group_count) > 1 or preferred_element_type:
        options = (dimension_numbers, feature_group_count, batch_group_count, precision, preferred_element_type)
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, *options)
    layout = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    # JAX's own operations ask for the default when they are traced; a primitive of ours is lowered later.
    precision = precision or jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    return _CONVOLVE.bind(
        lhs,
        rhs,
        size=lhs.shape,
        window_strides=tuple(window_strides),
        padding=tuple((int(low), int(high)) for low, high in padding),
        dimension_numbers=layout,
        precision=precision,
    )


def _convolve(lhs: Array, rhs: Array, *, size: Any, **options: Any) -> Array:
    del size  # of ``lhs``
    return lax.conv_general_dilated(lhs, rhs, **options)


def _convolve_back(cotangent: Array, rhs: Array, *, size: tuple[int, ...], **options: Any) -> Array:
    """Return the transpose of ``_convolve`` with respect to ``lhs``, as XLA has it."""
    lhs = jax.ShapeDtypeStruct(size, cotangent.dtype)
    return jax.linear_transpose(lambda lhs: _convolve(lhs, rhs, size=size, **options), lhs)(cotangent)[0]


def _convolve_back_plainly(
    cotangent: Array,
    rhs: Array,
    *,
    size: tuple[int, ...],
    window_strides: tuple[int, ...],
    padding: Any,
    dimension_numbers: lax.ConvDimensionNumbers,
    precision: Any,
) -> Array:
    """Return the same by zeros between the cotangent's pixels and a convolution of stride 1 with mirrored kernels."""
    layout_in, layout_kernel, layout_out = dimension_numbers
    places = [(0, 0, 0)] * cotangent.ndim
    for i, (stride, (low, _)) in enumerate(zip(window_strides, padding, strict=True)):
        kernel, result = rhs.shape[layout_kernel[2 + i]], cotangent.shape[layout_out[2 + i]]
        wanted = size[layout_in[2 + i]]
        # As many zeros around as make the result as large as the input was; fewer than none crops.
        places[layout_out[2 + i]] = (kernel - 1 - low, wanted + low - 1 - (result - 1) * stride, stride - 1)
    # Without the barrier, XLA makes one dilated convolution of both again.
    spread = lax.optimization_barrier(lax.pad(cotangent, jnp.zeros((), cotangent.dtype), places))
    mirrored = lax.rev(rhs, layout_kernel[2:])
    turned = (layout_kernel[1], layout_kernel[0], *layout_kernel[2:])  # outputs become inputs
    layout = lax.ConvDimensionNumbers(layout_out, turned, layout_in)
    return lax.conv_general_dilated(
        spread, mirrored, (1,) * len(window_strides), "VALID", dimension_numbers=layout, precision=precision
    )


def _kernel_back(cotangent: Array, lhs: Array, rhs: Any, **options: Any) -> Array:
    """Return the transpose of ``_convolve`` with respect to ``rhs``."""
    return jax.linear_transpose(lambda rhs: _convolve(lhs, rhs, **options), rhs.aval)(cotangent)[0]


def _primitive(name: str, function: Any) -> Primitive:
    """Return a primitive that is computed, shaped and mapped as a function of arrays is."""
    primitive = Primitive(name)

    def mapped(arguments: Any, axes: Any, **options: Any) -> tuple[Array, int]:
        return jax.vmap(partial(function, **options), in_axes=axes)(*arguments), 0

    def shaped(*arguments: Any, **options: Any) -> Any:
        found = jax.eval_shape(partial(function, **options), *arguments)
        return arguments[0].update(shape=found.shape, dtype=found.dtype)

    primitive.def_impl(jax.jit(primitive.bind, static_argnames=OPTIONS))
    primitive.def_abstract_eval(shaped)
    batching.primitive_batchers[primitive] = mapped
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=False))
    return primitive


OPTIONS = ("size", "window_strides", "padding", "dimension_numbers", "precision")
_CONVOLVE = _primitive("convolve", _convolve)
_BACK = _primitive("convolve_back", _convolve_back)
mlir.register_lowering(_BACK, mlir.lower_fun(_convolve_back_plainly, multiple_results=False), platform="cpu")
ad.defbilinear(_CONVOLVE, lambda t, lhs, rhs, **options: _BACK.bind(t, rhs, **options), _kernel_back)
ad.defbilinear(
    _BACK,
    lambda t, cotangent, rhs, **options: _CONVOLVE.bind(t, rhs, **options),
    lambda t, cotangent, rhs, **options: _kernel_back(cotangent, t, rhs, **options),
)
