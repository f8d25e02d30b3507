"""A strided convolution has the derivatives of XLA's own, of every order and in every mode."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxfair.networks import strided

LAYOUT = ("NHWC", "HWIO", "NHWC")
CASES = [(8, 3, 2, (1, 1)), (9, 3, 2, (1, 1)), (8, 1, 2, (0, 0)), (7, 5, 3, (2, 1)), (6, 3, 4, (0, 2))]
MODES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "forward": lambda f, x, w: f(x, w),
    "gradient": lambda f, x, w: jax.grad(f, (0, 1))(x, w),
    "product": lambda f, x, w: jax.jvp(jax.grad(f, (0, 1)), (x, w), (w.sum() * x, w))[1],
    "kept pass": lambda f, x, w: jax.linearize(jax.grad(f, (0, 1)), x, w)[1](x, w),
    "reverse twice": lambda f, x, w: jax.grad(lambda x: sum((g**2).sum() for g in jax.grad(f, (0, 1))(x, w)))(x),
    "mapped": lambda f, x, w: jax.vmap(jax.grad(f, (0, 1)), in_axes=(0, None))(x[:, None], w),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("case", "mode"), [(0, mode) for mode in MODES] + [(case, "product") for case in range(1, 5)])
def test_derivatives_are_those_of_xla(case: int, mode: str) -> None:
    size, kernel, stride, padding = CASES[case]
    rng = np.random.default_rng(size)
    x, w = jnp.asarray(rng.normal(size=(2, size, size + 1, 3))), jnp.asarray(rng.normal(size=(kernel, kernel, 3, 4)))

    def loss(convolve: Any) -> Any:
        options = {"window_strides": (stride, stride), "padding": (padding, padding), "dimension_numbers": LAYOUT}
        return lambda x, w: jnp.sin(convolve(x, w, **options)).sum()

    ours, theirs = (jax.jit(lambda x, w, f=f: MODES[mode](loss(f), x, w))(x, w) for f in (
        strided.conv_general_dilated, lax.conv_general_dilated))  # fmt: skip
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


def test_what_it_is_not_made_for_is_left_to_xla() -> None:
    x, w = jnp.zeros((1, 8, 8, 4)), jnp.zeros((3, 3, 2, 4))
    padding = ((1, 1), (1, 1))
    grouped = jax.make_jaxpr(lambda x, w: strided.conv_general_dilated(
        x, w, (2, 2), padding, dimension_numbers=LAYOUT, feature_group_count=2))(x, w)  # fmt: skip
    assert "conv_general_dilated" in str(grouped)
    assert "convolve[" not in str(grouped)
