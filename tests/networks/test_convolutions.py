"""A convolution whose kernel gradient is oneDNN's affair has the derivatives of XLA's own, of every order and mode."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxfair import kernels
from jaxfair.curvature.programs import operations
from jaxfair.networks import convolutions

CASES = [  # rows and columns, channels in and out, kernel, stride, padding; which way the kernel gradient takes
    ((9, 6), (5, 4), 3, 1, ((1, 1), (1, 1))),  # tiles
    ((9, 6), (5, 4), 5, 1, ((0, 3), (2, 1))),
    ((7, 6), (5, 6), 3, 1, ((1, 1), (1, 1))),
    ((7, 6), (5, 6), 3, 1, ((0, 0), (3, 0))),
    ((8, 7), (3, 4), 3, 2, ((1, 1), (1, 1))),  # products with the images moved
    ((9, 7), (3, 4), 5, 3, ((2, 0), (1, 3))),
    ((9, 6), (3, 4), 3, 1, ((1, 1), (1, 1))),  # few channels: the same products
    ((9, 6), (1, 4), 5, 1, ((0, 3), (2, 1))),
    ((8, 8), (3, 4), 1, 2, ((0, 0), (0, 0))),
    ((8, 8), (3, 4), 1, 1, ((0, 0), (0, 0))),
]
SMALL = [  # images or results smaller than the kernel: products of neighbourhoods, by all kernels
    ((2, 2), (5, 4), 3, 1, ((1, 1), (1, 1))),
    ((1, 1), (5, 4), 3, 1, ((1, 1), (1, 1))),
    ((4, 4), (5, 6), 3, 2, ((1, 1), (1, 1))),
    ((2, 2), (3, 4), 3, 2, ((1, 1), (1, 1))),
    ((2, 6), (3, 4), 3, 1, ((2, 0), (0, 3))),
    ((3, 5), (1, 2), 5, 3, ((4, 1), (-1, 5))),
    ((4, 4), (2, 3), 4, 1, ((0, 0), (0, 0))),
]
MODES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "forward": lambda f, x, w: f(x, w),
    "gradient": lambda f, x, w: jax.grad(f, (0, 1))(x, w),
    "product": lambda f, x, w: jax.jvp(jax.grad(f, (0, 1)), (x, w), (w.sum() * x, w))[1],
    "kept pass": lambda f, x, w: jax.linearize(jax.grad(f, (0, 1)), x, w)[1](x, w),
    "reverse twice": lambda f, x, w: jax.grad(lambda x: sum((g**2).sum() for g in jax.grad(f, (0, 1))(x, w)))(x),
    "mapped": lambda f, x, w: jax.vmap(jax.grad(f, (0, 1)), in_axes=(0, None))(x[:, None], w),
    "block": lambda f, x, w: jax.vmap(jax.linearize(jax.grad(f, (0, 1)), x, w)[1])(
        jnp.stack([x, -x]), jnp.stack([w, w])
    ),
}


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have oneDNN asked for, at sizes of small cases; the numbers are the same by whatever kernels there are."""
    monkeypatch.setattr(kernels, "asked", lambda environment: True)
    monkeypatch.setattr(convolutions, "TILE", 1500)
    monkeypatch.setattr(convolutions, "LANES", 2)
    monkeypatch.setattr(convolutions, "LEAST", 1)


def loss(convolve: Any, stride: int, padding: Any) -> Callable[[Any, Any], Any]:
    options = {"window_strides": (stride, stride), "padding": padding, "dimension_numbers": convolutions.LAYOUT}
    return lambda x, w: jnp.sin(convolve(x, w, **options)).sum()


def images(case: Any) -> tuple[Any, Any]:
    (high, wide), (channels, out), kernel, *_ = case
    rng = np.random.default_rng(high)
    x = jnp.asarray(rng.normal(size=(4, high, wide, channels)))
    return x, jnp.asarray(rng.normal(size=(kernel, kernel, channels, out)))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", [*CASES, *SMALL])
def test_derivatives_are_those_of_xla(case: Any, mode: str) -> None:
    found = []
    for convolve in (convolutions.conv_general_dilated, lax.conv_general_dilated):
        function = loss(convolve, *case[3:])
        found.append(jax.jit(lambda x, w, f=function: MODES[mode](f, x, w))(*images(case)))
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", [CASES[0], SMALL[0]])
def test_two_types_are_refused_as_jax_has_it(case: Any) -> None:
    """A product of matrices would take them for the wider one, of small images alone."""
    x, w = images(case)
    for convolve in (convolutions.conv_general_dilated, lax.conv_general_dilated):
        with pytest.raises(TypeError, match="same dtypes, got float32, bfloat16"):
            loss(convolve, *case[3:])(x, w.astype(jnp.bfloat16))


@pytest.mark.parametrize(
    ("case", "convolved", "products"), [(CASES[0], 4, 0), (CASES[2], 4, 0), (CASES[4], 0, 3), (CASES[6], 0, 3)]
)
def test_a_cpu_takes_the_fast_way_and_others_xlas(case: Any, convolved: int, products: int) -> None:
    """Two tiles of each pair of images, or a product for each row of the kernel, beside the two other convolutions."""
    function = jax.jit(jax.grad(loss(convolutions.conv_general_dilated, *case[3:]), (0, 1)))
    for platform, counts in (("cpu", (2 + convolved, products)), ("cuda", (3, 0))):
        text = jax.export.export(function, platforms=[platform])(*images(case)).mlir_module()
        assert (text.count("stablehlo.convolution"), text.count("stablehlo.dot_general")) == counts


@pytest.mark.parametrize("case", SMALL)
@pytest.mark.parametrize("asked", [True, False])
def test_small_images_are_products_of_matrices(case: Any, asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """XLA on a CPU computes such a convolution number by number, whatever kernels there are."""
    monkeypatch.setattr(kernels, "asked", lambda environment: asked)
    gradient = jax.grad(loss(convolutions.conv_general_dilated, *case[3:]), (0, 1))
    assert "convolution" not in jax.jit(gradient).lower(*images(case)).as_text()
    monkeypatch.setattr(convolutions.jax, "default_backend", lambda: "gpu")
    assert "convolution" in jax.jit(lambda *given: gradient(*given)).lower(*images(case)).as_text()


@pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="jaxlib 0.10 takes barriers away before it fuses")
@pytest.mark.parametrize("case", [CASES[2], CASES[4], SMALL[0], SMALL[2]])
def test_what_is_copied_is_computed_once(case: Any) -> None:
    """What stands before a convolution, and the gradient of what comes after it, are computed in no copy of them."""
    whole = loss(convolutions.conv_general_dilated, *case[3:])
    gradient = jax.jit(jax.grad(lambda x, w: whole(jnp.exp(x), w), (0, 1)))
    computations = (gradient.lower(*images(case)).compile().as_text() or "").split("\n\n")
    costly = [each for each in computations if "exponential(" in each or "cosine(" in each]
    assert costly
    assert not any(" concatenate(" in each for each in costly)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("padding", ["SAME", "VALID", "SAME_LOWER"])
@pytest.mark.parametrize("pixels", [4, 9])
def test_padding_has_names(padding: str, pixels: int) -> None:
    x, w = images(((pixels, pixels), (5, 4), 3))
    options = {"window_strides": (2, 2), "padding": padding, "dimension_numbers": convolutions.LAYOUT}
    found, wanted = (f(x, w, **options) for f in (convolutions.conv_general_dilated, lax.conv_general_dilated))
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("padding", [((3, 0), (1, 1)), ((4, 0), (1, 1)), ((-1, 3), (1, 1)), ((2, 4), (0, 2))])
@pytest.mark.parametrize("stride", [1, 4])
def test_a_result_may_see_nothing_but_padding(padding: Any, stride: int) -> None:
    x, w = images(((1, 1), (5, 4), 3))
    options = {"window_strides": (stride, 1), "padding": padding, "dimension_numbers": convolutions.LAYOUT}
    found, wanted = (f(x, w, **options) for f in (convolutions.conv_general_dilated, lax.conv_general_dilated))
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", ["b, 2, 2, 3", "b, h, w, 3"])
def test_images_may_be_of_any_number_or_size(shape: str) -> None:
    options = {"window_strides": (1, 1), "padding": ((1, 1), (1, 1)), "dimension_numbers": convolutions.LAYOUT}
    function = jax.jit(lambda x, w: convolutions.conv_general_dilated(x, w, **options))
    x, w = images(((2, 2), (3, 4), 3))
    given = jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape), x.dtype), jax.ShapeDtypeStruct(w.shape, w.dtype)
    np.testing.assert_allclose(jax.export.export(function)(*given).call(x, w), function(x, w), rtol=1e-4, atol=1e-4)


def test_many_tiles_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """By oneDNN's kernels (make test-onednn) a sum of 34 convolutions one after another would end this process."""
    monkeypatch.setattr(convolutions, "TILE", 1)
    monkeypatch.setattr(convolutions, "LANES", 1)
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((3, 16, 8, 16), (3, 3, 16, 16)))
    padding = (1, 1), (1, 1)
    found, wanted = (
        jax.jit(jax.grad(loss(f, 1, padding), 1))(x, w)
        for f in (convolutions.conv_general_dilated, lax.conv_general_dilated)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_its_operations_are_counted_as_those_of_xla() -> None:
    """A product with the kept pass has all of them: forward, image gradient and kernel gradient."""
    counts = []
    for convolve in (convolutions.conv_general_dilated, lax.conv_general_dilated):
        function = loss(convolve, 1, ((1, 1), (1, 1)))
        product = lambda x, w, f=function: jax.jvp(jax.grad(f, (0, 1)), (x, w), (x, w))[1]  # noqa: E731
        counts.append(operations(jax.make_jaxpr(product)(*images(CASES[0])).jaxpr))
    assert counts[0] == pytest.approx(counts[1])


@pytest.mark.parametrize(
    "options",
    [
        {"feature_group_count": 2, "rhs": (3, 3, 2, 4)},
        {"rhs_dilation": (2, 2)},
        {"preferred_element_type": jnp.float32},
        {"dimension_numbers": ("NCHW", "HWIO", "NHWC"), "lhs": (1, 4, 8, 8)},
        {"dimension_numbers": None, "lhs": (1, 4, 8), "rhs": (4, 4, 3), "window_strides": (1,), "padding": ((1, 1),)},
    ],
)
def test_what_it_is_not_made_for_is_left_to_xla(options: dict[str, Any]) -> None:
    given: dict[str, Any] = {"window_strides": (1, 1), "padding": ((1, 1), (1, 1))}
    given |= {"dimension_numbers": convolutions.LAYOUT} | options
    x, w = jnp.zeros(given.pop("lhs", (1, 8, 8, 4))), jnp.zeros(given.pop("rhs", (3, 3, 4, 4)))
    traced = str(jax.make_jaxpr(lambda x, w: convolutions.conv_general_dilated(x, w, **given))(x, w))
    assert "conv_general_dilated" in traced
    assert "convolve[" not in traced


def test_where_nobody_asks_it_is_xlas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "asked", lambda environment: False)
    traced = jax.make_jaxpr(loss(convolutions.conv_general_dilated, 1, ((1, 1), (1, 1))))(*images(CASES[0]))
    assert "convolve[" not in str(traced)
