"""Products of other hardware, emulated: both operands rounded, sums in full precision.

Matrix units round the operands of a product and add up in float32: tensor cores to TF32 or float16, a TPU by default to
bfloat16. The functions here do the same on any backend, in whatever is derived from them too: a gradient's products
round the cotangent, a Hessian-vector product's the tangents. All else, such as biases, activations and batch norm,
stays as it is.

``lax.reduce_precision`` alone cannot do this. Its derivative rounds the tangent, and nothing rounds the cotangent. So
two primitives stand around each product, ``Q(product(P(a), P(b)))``: P rounds and Q is the identity, each is its own
derivative, and each is the other's transpose. (``jax.custom_derivatives.linear_call`` would be shorter, but cannot be
mapped by ``vmap``.)
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxfair.errors import JaxfairError, did_you_mean
from jaxfair.networks import convolutions

Arithmetic = Literal["native", "tf32", "bf16", "fp16"]
BITS = {"tf32": (8, 10), "bf16": (8, 7), "fp16": (5, 10)}  # of the exponent and of the mantissa


def round_to(x: Float[Array, "*shape"], kind: Arithmetic) -> Float[Array, "*shape"]:
    """Round to the nearest number of a format, ties to even, and keep the array's type.

    As ``lax.reduce_precision`` does it: beyond the largest number (65,504 in fp16) the result is infinite, and below
    the smallest normal one (6.1e-5 in fp16) it is 0. Real float16 has subnormal numbers down to 6.0e-8, which are lost
    here; gradients of a mean over many examples are that small, so scale the loss up before they are taken.
    ``tf32`` and ``bf16`` have the range of float32.

    Args:
        x: Numbers of type float32 or float64.
        kind: Format to round to; ``native`` changes nothing.

    Raises:
        JaxfairError: The kind is unknown, or the numbers have another type.
    """
    _check(kind, x)
    return x if kind == "native" else lax.reduce_precision(x, *BITS[kind])


def dot_general(kind: Arithmetic) -> Callable[..., Array]:
    """Return ``lax.dot_general`` with operands rounded, for ``nn.Dense(dot_general=...)`` or ``jnp.einsum``.

    Args:
        kind: Kind of the rounding; ``native`` returns ``lax.dot_general`` itself.

    Returns:
        A function of float32 or float64 arrays, equal to any other of this kind, so that modules that hold it can be
        static arguments. It ignores ``precision``: what is rounded already is multiplied in full.

    Raises:
        JaxfairError: The kind is unknown; from the function, operands have another type.
    """
    _check(kind)
    return lax.dot_general if kind == "native" else _DotGeneral(kind)


def conv_general_dilated(kind: Arithmetic) -> Callable[..., Array]:
    """Return ``convolutions.conv_general_dilated`` with operands rounded, for ``nn.Conv(conv_general_dilated=...)``.

    Args:
        kind: Kind of the rounding; ``native`` returns ``convolutions.conv_general_dilated`` itself.

    Returns:
        A function of float32 or float64 arrays, equal to any other of this kind; it ignores ``precision``.

    Raises:
        JaxfairError: The kind is unknown; from the function, operands have another type.
    """
    _check(kind)
    return convolutions.conv_general_dilated if kind == "native" else _ConvGeneralDilated(kind)


@dataclasses.dataclass(frozen=True)
class _DotGeneral:
    kind: str

    def __call__(
        self,
        lhs: ArrayLike,
        rhs: ArrayLike,
        dimension_numbers: Any,
        precision: Any = None,
        preferred_element_type: Any = None,
        *,
        out_sharding: Any = None,
    ) -> Array:
        product = lax.dot_general(
            *_operands(self.kind, lhs, rhs),
            dimension_numbers,
            precision=lax.Precision.HIGHEST,
            preferred_element_type=preferred_element_type,
            out_sharding=out_sharding,
        )
        return _Q.bind(product, kind=self.kind)


@dataclasses.dataclass(frozen=True)
class _ConvGeneralDilated:
    kind: str

    def __call__(
        self,
        lhs: ArrayLike,
        rhs: ArrayLike,
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
        product = convolutions.conv_general_dilated(
            *_operands(self.kind, lhs, rhs),
            window_strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            dimension_numbers,
            feature_group_count,
            batch_group_count,
            precision=lax.Precision.HIGHEST,
            preferred_element_type=preferred_element_type,
        )
        return _Q.bind(product, kind=self.kind)


def _operands(kind: str, lhs: ArrayLike, rhs: ArrayLike) -> tuple[Array, Array]:
    _check(kind, lhs, rhs)
    return _P.bind(lhs, kind=kind), _P.bind(rhs, kind=kind)


def _check(kind: str, *operands: Any) -> None:
    if kind not in ("native", *BITS):
        raise JaxfairError(f"There is no arithmetic '{kind}'{did_you_mean(kind, ('native', *BITS))}.")
    for operand in operands:
        if str(jax.numpy.result_type(operand)) not in ("float32", "float64"):
            raise JaxfairError(
                f"An operand has type {jax.numpy.result_type(operand)}; only float32 and float64 are rounded to "
                f"{kind}: convert it, or use the native arithmetic."
            )


def _primitive(name: str, function: Callable[..., Array]) -> Primitive:
    """Return a primitive that keeps its operand's shape and type, and is its own derivative."""
    primitive = Primitive(name)
    primitive.def_impl(function)
    primitive.def_abstract_eval(lambda x, kind: x)
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=False))
    batching.defvectorized(primitive)
    return primitive


_P = _primitive("round_operand", lambda x, kind: lax.reduce_precision(x, *BITS[kind]))
_Q = _primitive("round_cotangent", lambda x, kind: x)
for _linear, _transposed in ((_P, _Q), (_Q, _P)):
    ad.deflinear2(_linear, lambda cotangent, _, kind, transposed=_transposed: [transposed.bind(cotangent, kind=kind)])
