"""Emulated products against products rounded by hand in NumPy."""

import pickle
import re
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, NamedTuple, cast, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax

from jaxfair.curvature.spectrum import GroupCurvature, group_curvature
from jaxfair.errors import JaxfairError
from jaxfair.groups import group_weights
from jaxfair.networks import arithmetic, convolutions
from jaxfair.networks.arithmetic import Arithmetic
from tests.examples import GROUP, GROUPS, IMAGES, LABEL

KINDS: tuple[Arithmetic, ...] = ("tf32", "bf16", "fp16")


def rounded(kind: str, x: np.ndarray) -> np.ndarray:
    """Round by NumPy's own types; TF32, which has none, by its definition. Subnormal float16 becomes 0."""
    with np.errstate(all="ignore"):
        if kind == "tf32":
            mantissa, exponent = np.frexp(x)
            return np.ldexp(np.rint(np.ldexp(mantissa, 11)), exponent - 11)  # rint: ties to even
        y = x.astype(ml_dtypes.bfloat16 if kind == "bf16" else np.float16).astype(x.dtype)
    return np.where(np.abs(y) < 2.0**-14, np.copysign(0, y), y) if kind == "fp16" else y


# A stride one way and a dilation the other, padding that differs on all sides: rows first, then columns.
STRIDE, DILATION, PADDING = (2, 1), (1, 2), ((1, 2), (0, 1))


def dot_tensor(a: tuple[int, ...], w: tuple[int, ...]) -> np.ndarray:
    """Return T with ``y[n, o] = sum T[n, o, m, c, d, p] a[m, c] w[d, p]``, from the product's definition."""
    return np.einsum("nm,op,cd->nomcdp", np.eye(a[0]), np.eye(w[1]), np.eye(a[1]))


def conv_tensor(a: tuple[int, ...], w: tuple[int, ...]) -> np.ndarray:
    """Return the same tensor of a convolution of NHWC images with an HWIO kernel."""
    high, wide = ((a[1 + i] + sum(PADDING[i]) - DILATION[i] * (w[i] - 1) - 1) // STRIDE[i] + 1 for i in (0, 1))
    tensor = np.zeros((a[0], high, wide, w[3], *a, *w))
    for n, i, j, u, v, c, o in product(*map(range, (a[0], high, wide, *w))):
        row = i * STRIDE[0] + u * DILATION[0] - PADDING[0][0]
        column = j * STRIDE[1] + v * DILATION[1] - PADDING[1][0]
        if 0 <= row < a[1] and 0 <= column < a[2]:
            tensor[n, i, j, o, n, row, column, c, u, v, c, o] = 1
    return tensor


class Layer(NamedTuple):
    """A product ``y(a, w)``: its tensor, its shapes, and JAX's function for each kind."""

    tensor: np.ndarray
    a: tuple[int, ...]
    w: tuple[int, ...]
    emulated: Callable[[Arithmetic], Callable]

    @property
    def y(self) -> tuple[int, ...]:
        return self.tensor.shape[: len(self.a)]

    def by_hand(self, kind: str, **operands: np.ndarray) -> np.ndarray:
        """Multiply two of a, w and y in float64, rounded: ``y(a, w)``, or what a transposed product gives."""
        (result,) = {"a", "w", "y"} - set(operands)
        tensor = self.tensor.reshape(*(int(np.prod(shape)) for shape in (self.y, self.a, self.w)))
        values = [rounded(kind, value).astype(np.float64).ravel() for value in operands.values()]
        return np.einsum(f"yaw,{','.join(operands)}->{result}", tensor, *values).reshape(getattr(self, result))


def emulated_dot(kind: Arithmetic) -> Callable:
    return partial(arithmetic.dot_general(kind), dimension_numbers=(((1,), (0,)), ((), ())))


def emulated_conv(kind: Arithmetic) -> Callable:
    options = {"window_strides": STRIDE, "padding": PADDING, "rhs_dilation": DILATION}
    return partial(arithmetic.conv_general_dilated(kind), dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)


def layers(operation: str) -> list[Layer]:
    if operation == "dot":
        return [Layer(dot_tensor(a, w), a, w, emulated_dot) for a, w in (((4, 5), (5, 6)), ((4, 6), (6, 3)))]
    shapes = ((2, 5, 6, 2), (3, 2, 2, 3)), ((2, 3, 5, 3), (2, 2, 3, 2))
    return [Layer(conv_tensor(a, w), a, w, emulated_conv) for a, w in shapes]


def draw(*shapes: tuple[int, ...], dtype: Any = np.float64) -> list[np.ndarray]:
    return [np.random.default_rng(i).normal(size=shape).astype(dtype) for i, shape in enumerate(shapes)]


def assert_close(found: Any, expected: Any, tolerance: float) -> None:
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def test_round_to_for_all_sorts_of_numbers() -> None:
    """Random bits, so that every exponent occurs, with ties, infinities and signed zeros; no subnormal float32."""
    x = np.random.default_rng(0).integers(0, 2**32, 200_000, np.uint32).view(np.float32)
    x[:7] = 1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-8, 1 + 3 * 2.0**-8, 65519, 65520, 2.0**-14
    x[7:12] = 0, -0.0, np.inf, -np.inf, np.nan
    x = x[~((np.abs(x) < np.finfo(np.float32).tiny) & (x != 0))]
    for kind in KINDS:
        found, expected = np.asarray(jax.jit(partial(arithmetic.round_to, kind=kind))(x)), rounded(kind, x)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))
    assert arithmetic.round_to(jnp.float32(6e-5), "fp16") == 0 < np.float16(6e-5)  # the documented loss


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operation", ["dot", "conv"])
def test_a_product_and_its_derivatives_as_rounded_by_hand(operation: str, kind: Arithmetic) -> None:
    """In float32, at operands that all are given, so that no rounding before a rounding can tip it over."""
    layer, _ = layers(operation)
    a, w, c, a2, w2, c2 = draw(*[layer.a, layer.w, layer.y] * 2, dtype=np.float32)
    multiply, hand = layer.emulated(kind), partial(layer.by_hand, kind)

    def gradients(a: Any, w: Any, c: Any) -> Any:
        return jax.vjp(multiply, a, w)[1](c)

    assert_close(jax.jit(multiply)(a, w), hand(a=a, w=w), 1e-6)
    assert_close(jax.jit(gradients)(a, w, c), (hand(w=w, y=c), hand(a=a, y=c)), 1e-6)
    _, found = jax.jit(partial(jax.jvp, gradients))((a, w, c), (a2, w2, c2))
    assert_close(found, (hand(w=w2, y=c) + hand(w=w, y=c2), hand(a=a2, y=c) + hand(a=a, y=c2)), 1e-6)
    reverse_over_reverse = jax.jit(jax.grad(lambda w: jnp.vdot(gradients(a, w, c)[0], a2)))
    assert_close(reverse_over_reverse(w), hand(a=a2, y=c), 1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operation", ["dot", "conv"])
def test_a_network_and_its_hessian_as_rounded_by_hand(operation: str, kind: Arithmetic) -> None:
    """Loss ``|y(tanh(y(x, w1)), w2) - t|^2 / 2``; in float64, where no sum's order tips a rounding over."""
    one, two = layers(operation)
    x, w1, w2, v1, v2, t = draw(one.a, one.w, two.w, one.w, two.w, two.y)

    first, second = partial(one.by_hand, kind), partial(two.by_hand, kind)
    z = np.tanh(first(a=x, w=w1))
    slope = 1 - z**2
    r = second(a=z, w=w2) - t  # the loss's cotangent
    z_bar = second(w=w2, y=r)
    gradient = first(a=x, y=slope * z_bar), second(a=z, y=r)

    dz = slope * first(a=x, w=v1)  # a dot over each, along (v1, v2)
    dr = second(a=dz, w=w2) + second(a=z, w=v2)
    dz_bar = second(w=v2, y=r) + second(w=w2, y=dr)
    dh_bar = slope * dz_bar - 2 * z * dz * z_bar
    hessian_product = first(a=x, y=dh_bar), second(a=dz, y=r) + second(a=z, y=dr)

    def loss(params: Any) -> Any:
        return jnp.sum((two.emulated(kind)(jnp.tanh(one.emulated(kind)(x, params[0])), params[1]) - t) ** 2) / 2

    found, product_with = jax.linearize(jax.jit(jax.grad(loss)), (w1, w2))
    assert_close((found, product_with((v1, v2))), (gradient, hessian_product), 1e-13)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operation", ["dot", "conv"])
def test_the_compiled_program_rounds_every_operand(operation: str, kind: Arithmetic) -> None:
    """Both operands and the cotangent, also after XLA's simplification."""
    layer, _ = layers(operation)
    program = jax.jit(lambda a, w, y: jax.vjp(layer.emulated(kind), a, w)[1](y))
    text = program.lower(*draw(layer.a, layer.w, layer.y, dtype=np.float32)).compile().as_text() or ""
    bits = re.findall(r"reduce-precision\(.*exponent_bits=(\d+), mantissa_bits=(\d+)", text)
    assert len(bits) >= 3  # more where a rounded operand is computed in two places
    assert set(bits) == {tuple(map(str, arithmetic.BITS[kind]))}


class Network(nn.Module):
    """A strided convolution, batch norm, a residual branch, and a head."""

    dot: Any = None
    conv: Any = None

    @nn.compact
    def __call__(self, x: Any) -> Any:
        conv = partial(nn.Conv, 4, (3, 3), conv_general_dilated=self.conv)
        x = nn.BatchNorm(use_running_average=False)(conv(strides=2)(x))
        x = x + conv(feature_group_count=2)(nn.softplus(x))
        return nn.Dense(3, dot_general=self.dot)(x.mean(axis=(1, 2)))


def network_of(kind: Arithmetic) -> Network:
    return Network(arithmetic.dot_general(kind), arithmetic.conv_general_dilated(kind))


IMAGES32 = np.float32(IMAGES)
VARIABLES = Network().init(jax.random.key(0), IMAGES32)
ARGUMENTS = VARIABLES["params"], VARIABLES["params"], IMAGES32


@partial(jax.jit, static_argnums=0)
def gradient_and_product(module: Network, params: Any, tangents: Any, x: Any) -> Any:
    def loss(params: Any) -> Any:
        return jnp.mean(module.apply({**VARIABLES, "params": params}, x, mutable=["batch_stats"])[0] ** 2)

    return jax.jvp(jax.grad(loss), (params,), (tangents,))


def test_emulation_off_adds_nothing_to_the_compiled_program() -> None:
    """Gradient and Hessian-vector product: the same text as of the functions that round nothing."""

    def instructions(module: Any) -> list[str]:
        text = gradient_and_product.lower(module, *ARGUMENTS).compile().as_text() or ""
        lines = re.findall(r"^ +(?:ROOT )?%.* = .*$", text, re.MULTILINE)
        return [re.sub(r", metadata={.*?}", "", line) for line in lines]  # which says what line of Linen called

    plain = instructions(Network(lax.dot_general, convolutions.conv_general_dilated))
    assert len(plain) > 100
    assert instructions(network_of("native")) == plain


def test_functions_of_one_kind_are_equal_as_static_arguments_have_to_be() -> None:
    """Also those that come from another process."""
    for make in (arithmetic.dot_general, arithmetic.conv_general_dilated):
        here = [make(kind) for kind in get_args(Arithmetic)]
        sent = [pickle.loads(pickle.dumps(make(kind))) for kind in get_args(Arithmetic)]
        assert here == sent
        assert len({*here, *sent}) == 4


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("operation", ["dot", "conv"])
@pytest.mark.parametrize("stacked", [False, True])
def test_mapped_products_are_those_of_a_loop(operation: str, stacked: bool) -> None:
    """Inputs alone, or with weights, as of several seeds; with derivatives."""
    layer, _ = layers(operation)
    a, w = draw((3, *layer.a), (3, *layer.w))

    def gradient_and_product(a: Any, w: Any) -> Any:
        gradient = jax.grad(lambda a, w: jnp.sum(jnp.tanh(layer.emulated("bf16")(a, w))), argnums=(0, 1))
        return jax.jvp(gradient, (a, w), (a, w))

    whole = jax.jit(jax.vmap(gradient_and_product, (0, 0 if stacked else None)))(a, w if stacked else w[0])
    one_by_one = [jax.jit(gradient_and_product)(a[i], w[i if stacked else 0]) for i in range(3)]
    assert_close(whole, jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one), 1e-13)


@pytest.mark.usefixtures("float64")
def test_scan_and_checkpoint_change_nothing() -> None:
    """Gradient and Hessian-vector product of three layers, against the layers one by one without jit."""
    x, weights, tangents = map(jnp.asarray, draw((4, 5), (3, 5, 5), (3, 5, 5)))

    def step(x: Any, w: Any) -> Any:
        return jnp.tanh(emulated_dot("bf16")(x, w)), None

    def plain(weights: Any) -> Any:
        return jnp.sum(step(step(step(x, weights[0])[0], weights[1])[0], weights[2])[0] ** 2)

    def scanned(weights: Any) -> Any:
        return jnp.sum(lax.scan(jax.checkpoint(step), x, weights)[0] ** 2)

    expected = jax.jvp(jax.grad(plain), (weights,), (tangents,))
    assert_close(jax.jit(partial(jax.jvp, jax.grad(scanned)))((weights,), (tangents,)), expected, 1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_lowers_for_accelerators(kind: Arithmetic) -> None:
    """Gradient and Hessian-vector product, with no rounding but the one asked for and without float64."""
    exported = jax.export.export(gradient_and_product, platforms=("cpu", "cuda", "tpu"))
    text = exported(network_of(kind), *ARGUMENTS).mlir_module()
    assert re.search("reduce_precision.*format = e{}m{}".format(*arithmetic.BITS[kind]), text)
    assert "HIGHEST" in text
    assert "DEFAULT" not in text  # a precision, in which accelerators may round once more
    assert "f64" not in text


def test_in_lanczos_the_hessian_is_a_little_asymmetric() -> None:
    """By less than a rounding of its kind, and the eigenvalue is wrong by a few of them at most.

    Its residual says about as much, which is more than the thousandth that was asked for; rounding that leaves the
    Hessian symmetric, of which it knows nothing, is of the same size.
    """

    def curvature(kind: Arithmetic) -> GroupCurvature:
        def logits(params: Any, x: Any) -> Any:
            features = jnp.tanh(emulated_conv(kind)(x, params[0]))
            return emulated_dot(kind)(features.reshape(len(x), -1), params[1])

        params = tuple(draw((3, 2, 1, 4), (36, 3), dtype=np.float32))
        return group_curvature(logits, params, IMAGES32, LABEL, group_weights(GROUP, GROUPS))

    native, emulated = curvature("native"), curvature("bf16")
    assert native.converged.all()
    assert not emulated.converged.any()
    assert (np.abs(emulated.top_eigenvalue - native.top_eigenvalue) <= 2 * emulated.top_eigenvalue_residual).all()
    assert native.asymmetry.max() < 2.0**-20 < 2.0**-16 < emulated.asymmetry.min()
    assert emulated.asymmetry.max() < 2.0**-7
    np.testing.assert_allclose(emulated.top_eigenvalue, native.top_eigenvalue, rtol=2.0**-5)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bfloat16])
def test_what_cannot_be_rounded_is_refused(dtype: Any) -> None:
    x, unknown = jnp.ones((2, 2), dtype), cast(Arithmetic, "bf61")
    for function in (arithmetic.dot_general, arithmetic.conv_general_dilated, partial(arithmetic.round_to, x)):
        with pytest.raises(JaxfairError, match="no arithmetic 'bf61'; did you mean 'bf16'"):
            function(unknown)
    for use in (partial(emulated_dot("tf32"), x), partial(arithmetic.round_to, kind="tf32")):
        with pytest.raises(JaxfairError, match=f"type {x.dtype}; only float32 and float64"):
            use(x)
