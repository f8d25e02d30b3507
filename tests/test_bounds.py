"""The theorems' bounds: quadratic losses in closed form, exact Hessians of binary classifiers in float64."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from scipy.special import expit

from jaxfair import bounds, losses
from jaxfair.errors import JaxfairError
from jaxfair.groups import group_weights

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=40)
FEATURES, HIDDEN, N = 3, 4, 7
GROUP = np.array([0, 0, 0, 1, 1, 2, 2])
# Numbers of size 1 to 100 in float64, added a few hundred times.
ROUNDING = 1e-10


def quadratic(seed: int, groups: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return gradients, Hessians (of both signs) of each group's loss at 0, and a direction."""
    rng = np.random.default_rng(seed)
    hessians = rng.normal(size=(groups, 4, 4)) + rng.normal(size=(groups, 1, 1)) * 3 * np.eye(4)
    return rng.normal(size=(groups, 4)), hessians + hessians.swapaxes(1, 2), rng.normal(size=4)


@given(seeds)
def test_quadratic_losses(seed: int) -> None:
    """Without a third-order term the terms bound the change in any direction, the absolute one with both ends."""
    gradients, hessians, step = quadratic(seed)
    change = gradients @ step + 0.5 * np.einsum("i,gij,j->g", step, hessians, step)
    norms, spectra = np.linalg.norm(gradients, axis=1), np.linalg.eigvalsh(hessians)
    distance = float(np.linalg.norm(step))
    found = bounds.excess_loss_bound(norms, spectra[:, -1], distance, change)
    assert (found.actual <= found.bound + ROUNDING).all()
    np.testing.assert_allclose(found.first, norms * distance)
    np.testing.assert_allclose(found.second, spectra[:, -1] * distance**2 / 2)
    np.testing.assert_array_equal(found.bound, found.first + found.second)
    np.testing.assert_array_equal(found.actual, change)
    np.testing.assert_array_equal(found.holds, found.actual <= found.bound)
    absolute = bounds.sensitivity_bound(
        norms, spectra[:, -1], distance, np.abs(change), bottom_eigenvalue=spectra[:, 0]
    )
    assert (np.abs(change) <= absolute.bound + ROUNDING).all()


def test_a_quadratic_loss_meets_its_bound_along_gradient_and_top_eigenvector() -> None:
    step = np.array([0.0, 2.0])
    hessian, gradient = np.diag([1.0, 4.0]), np.array([0.0, 3.0])
    change = gradient @ step + step @ hessian @ step / 2
    found = bounds.excess_loss_bound(3.0, 4.0, 2.0, change)
    np.testing.assert_array_equal([found.first, found.second, found.tightness], [[6], [8], [1]])
    assert found.holds.all()


@pytest.mark.usefixtures("unchecked")
def test_the_sensitivity_theorem_as_printed_needs_the_other_end_of_the_spectrum() -> None:
    """A concave quadratic loss, ``-5 theta^2``, falls by 5 within distance 1; as printed the bound is -5."""
    printed = bounds.sensitivity_bound(0.0, -10.0, 1.0, 5.0)
    np.testing.assert_array_equal(printed.bound, [-5])
    assert not printed.holds.any()
    both = bounds.sensitivity_bound(0.0, -10.0, 1.0, 5.0, bottom_eigenvalue=-10.0)
    np.testing.assert_array_equal(both.tightness, [1])
    np.testing.assert_array_equal(bounds.sensitivity_bound(0.0, 7.0, 1.0, 1.0, bottom_eigenvalue=-2.0).bound, [3.5])
    for top in (2.0, -2.0):  # one eigenvalue, which Lanczos found from either side
        one = bounds.sensitivity_bound(0.0, top, 1.0, 0.0, bottom_eigenvalue=top + 0.015)
        np.testing.assert_array_equal(one.second, max(top, -(top + 0.015)) / 2)
        with pytest.raises(JaxfairError, match="two ends of one spectrum"):
            bounds.sensitivity_bound(0.0, top, 1.0, 0.0, bottom_eigenvalue=top + 0.03)


def test_what_is_not_known_does_not_hold() -> None:
    """NaN makes a group's bound unknown, and a bound that is not positive has no tightness."""
    nan = np.nan
    found = bounds.excess_loss_bound(
        np.array([1.0, nan, 1.0, 0.0, 1.0]), np.array([0.0, 0.0, nan, -1.0, 0.0]), 1.0, np.array([nan, 0, 0, -1, 2])
    )
    np.testing.assert_array_equal(found.holds, [False, False, False, True, False])
    np.testing.assert_array_equal(found.tightness, [nan, nan, nan, nan, 2])
    same = bounds.excess_loss_bound(2.0, 1.0, 0.0, 0.0)
    assert same.holds.all()
    assert np.isnan(same.tightness).all()


@pytest.mark.usefixtures("float64")
def test_the_bound_becomes_tight_as_the_step_along_the_gradient_shrinks() -> None:
    """Softmax regression: the terms left out fall with the square of the step, relative to the first."""
    params, x, y = network(0)
    weights = np.asarray(group_weights(GROUP, 3), float)
    gradient, hessian = derivatives(params, x, y, weights[1])
    flat, unravel = ravel_pytree(params)
    for size in (1e-2, 1e-4):
        moved = unravel(flat + size * gradient / np.linalg.norm(gradient))
        change = group_loss(moved, x, y, weights[1]) - group_loss(params, x, y, weights[1])
        distance = bounds.parameter_distance(params, moved)
        assert distance == pytest.approx(size, rel=1e-9)
        top = np.linalg.eigvalsh(hessian)[-1]
        found = bounds.excess_loss_bound(float(np.linalg.norm(gradient)), float(top), distance, float(change))
        assert found.holds.all()
        spread = size * np.abs(np.linalg.eigvalsh(hessian)).max() / np.linalg.norm(gradient)
        assert 1 - 2 * spread < found.tightness[0] <= 1


def test_parameter_distance() -> None:
    first = {"a": jnp.zeros((2, 2)), "b": [jnp.ones(3)]}
    second = {"a": jnp.ones((2, 2)), "b": [jnp.zeros(3)]}
    assert bounds.parameter_distance(first, second) == np.sqrt(7)
    assert bounds.parameter_distance(first, first) == bounds.parameter_distance([], []) == 0
    with np.errstate(all="raise"):
        for size in (1e-200, 1e200, 1e308):
            found = bounds.parameter_distance(
                [np.zeros(2), np.zeros(1)], [size * np.array([0.3, 0]), size * np.full(1, 0.4)]
            )
            assert found == pytest.approx(0.5 * size, rel=1e-15)
    for other in ({"a": first["a"]}, {"a": jnp.zeros((2, 3)), "b": first["b"]}, {"a": first["a"], "b": first["a"]}):
        with pytest.raises(JaxfairError, match="differ in structure or shapes"):
            bounds.parameter_distance(first, other)


FUNCTIONS: dict[str, Callable[[Any, jax.Array], jax.Array]] = {
    name: lambda p, x, f=activation: f(x @ p["w1"] + p["b1"]) @ p["w2"]
    for name, activation in {"tanh": jnp.tanh, "relu": jax.nn.relu, "square": jnp.square}.items()
}


def network(seed: int, scale: float = 1.0) -> tuple[Any, jax.Array, np.ndarray]:
    """Return parameters of a network with one hidden layer, inputs and labels."""
    rng = np.random.default_rng(seed)
    params = {"w1": (FEATURES, HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN, 2)}
    values = {name: jnp.asarray(scale * rng.normal(size=shape)) for name, shape in params.items()}
    return values, jnp.asarray(rng.normal(size=(N, FEATURES))), rng.integers(2, size=N)


def group_loss(params: Any, x: jax.Array, y: Any, w: Any, activation: str = "tanh") -> jax.Array:
    return jnp.vdot(jnp.asarray(w), losses.cross_entropy(FUNCTIONS[activation](params, x), jnp.asarray(y)))


@partial(jax.jit, static_argnames="activation")
def derivatives(params: Any, x: jax.Array, y: Any, w: Any, activation: str = "tanh") -> tuple[jax.Array, jax.Array]:
    """Return gradient and dense Hessian of a group's loss by automatic differentiation of the loss itself."""
    flat, unravel = ravel_pytree(params)

    def loss(p: jax.Array) -> jax.Array:
        return group_loss(unravel(p), x, y, w, activation)

    return jax.grad(loss)(flat), jax.hessian(loss)(flat)


@pytest.mark.usefixtures("float64")
def test_the_exact_hessian_in_logit_and_in_probability() -> None:
    """The two lines of the docstring against automatic differentiation of the cross-entropy."""
    params, x, y = network(1)
    flat, unravel = ravel_pytree(params)

    def logit(p: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.diff(FUNCTIONS["tanh"](unravel(p), v[None])[0])[0]

    def probability(p: jax.Array, v: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(logit(p, v))

    of_logit = jax.jit(jax.grad(logit)), jax.jit(jax.hessian(logit))
    of_probability = jax.jit(jax.grad(probability)), jax.jit(jax.hessian(probability))
    for i in range(N):
        _, expected = derivatives(params, x[i : i + 1], y[i : i + 1], np.ones(1))
        h = float(probability(flat, x[i]))
        gradient, hessian = (np.asarray(derivative(flat, x[i])) for derivative in of_logit)
        by_logit = h * (1 - h) * np.outer(gradient, gradient) + (h - y[i]) * hessian
        np.testing.assert_allclose(by_logit, expected, atol=ROUNDING)
        gradient, hessian = (np.asarray(derivative(flat, x[i])) for derivative in of_probability)
        weight = y[i] / h**2 + (1 - y[i]) / (1 - h) ** 2
        by_probability = weight * np.outer(gradient, gradient) + (h - y[i]) / (h * (1 - h)) * hessian
        np.testing.assert_allclose(by_probability, expected, atol=ROUNDING)


@few
@given(seeds, st.sampled_from(sorted(FUNCTIONS)), st.floats(0.1, 3))
def test_no_hessian_eigenvalue_exceeds_its_bound(seed: int, activation: str, scale: float) -> None:
    with jax.enable_x64(True):
        params, x, y = network(seed, scale)
        weights = np.asarray(group_weights(GROUP, 3), float)
        found = bounds.binary_hessian_bound(FUNCTIONS[activation], params, x, y, weights)
        for w, bound in zip(weights, found.bound, strict=True):
            top = np.linalg.eigvalsh(derivatives(params, x, y, w, activation)[1])[-1]
            assert top <= bound + ROUNDING * max(1, abs(bound))
    np.testing.assert_allclose(found.gradient_term + found.curvature_term, found.bound)


@pytest.mark.usefixtures("float64")
def test_logistic_regression_in_closed_form() -> None:
    """``z = x (w_1 - w_0)`` has no Hessian: the bound is the mean of ``2 h (1 - h) |x|^2``, met by a lone example."""
    _, x, y = network(2)
    params = jnp.asarray(np.random.default_rng(3).normal(size=(FEATURES, 2)))
    h = expit(np.asarray(x @ (params[:, 1] - params[:, 0])))
    each = 2 * h * (1 - h) * (np.asarray(x) ** 2).sum(axis=1)
    found = bounds.binary_hessian_bound(lambda p, v: v @ p, params, x, y, np.eye(N))
    np.testing.assert_allclose(found.bound, each, rtol=1e-12)
    np.testing.assert_array_equal(found.curvature_term, 0)
    halves = {"left": x[:, :1], "right": x[:, 1:]}
    joined = bounds.binary_hessian_bound(lambda p, v: jnp.hstack(list(v.values())) @ p, params, halves, y, np.eye(N))
    np.testing.assert_allclose(joined.bound, each, rtol=1e-12, err_msg="inputs may be a pytree")

    def loss(p: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
        return losses.cross_entropy((x @ p.reshape(-1, 2))[None], y[None])[0]

    hessian = jax.jit(jax.hessian(loss))
    for i in range(N):
        top = np.linalg.eigvalsh(hessian(params.ravel(), x[i], jnp.asarray(y[i])))[-1]
        assert top == pytest.approx(each[i], rel=1e-9)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("logit", "printed", "bound", "hessian"),
    [(lambda p: p, 1 / 64, 1 / 4, 1 / 4), (lambda p: -(p**2), -1 / 4, 1, 1)],
    ids=["wrong weights", "wrong end of the spectrum"],
)
def test_the_proposition_as_printed_is_no_bound(
    logit: Callable[[jax.Array], jax.Array], printed: float, bound: float, hessian: float
) -> None:
    """One parameter at 0 and one example with label 1."""
    x, y, weights = jnp.ones((1, 1)), np.ones(1, int), np.ones((1, 1))
    params = jnp.zeros(())

    def logits_fn(p: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.concatenate([jnp.zeros_like(x), logit(p) * x], axis=1)

    loss = lambda p: losses.cross_entropy(logits_fn(p, x), jnp.asarray(y))[0]  # noqa: E731
    assert float(jax.hessian(loss)(params)) == pytest.approx(hessian)
    as_printed = bounds.binary_hessian_bound(logits_fn, params, x, y, weights, form="printed")
    np.testing.assert_allclose(as_printed.bound, [printed])
    np.testing.assert_allclose(bounds.binary_hessian_bound(logits_fn, params, x, y, weights).bound, [bound])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("form", ["logit", "printed"])
def test_lanczos_agrees_with_dense_hessians(form: Any) -> None:
    params, x, y = network(4)
    weights = np.asarray(group_weights(GROUP, 3), float)
    dense = bounds.binary_hessian_bound(FUNCTIONS["tanh"], params, x, y, weights, form=form)
    options: dict[str, Any] = {"form": form, "dense_size": 0}
    exact = bounds.binary_hessian_bound(FUNCTIONS["tanh"], params, x, y, weights, tolerance=1e-12, **options)
    np.testing.assert_allclose(exact.bound, dense.bound, rtol=1e-9)
    assert exact.converged.all()
    # Stopped at a residual, the residual is added; stopped too early, even that may be below, and it is said.
    usual = bounds.binary_hessian_bound(FUNCTIONS["tanh"], params, x, y, weights, tolerance=1e-2, **options)
    assert usual.converged.all()
    assert (usual.bound >= dense.bound).all()
    np.testing.assert_allclose(usual.bound, dense.bound, rtol=2e-2)
    early = bounds.binary_hessian_bound(FUNCTIONS["tanh"], params, x, y, weights, max_steps=3, **options)
    assert not early.converged.any()
    only = bounds.binary_hessian_bound(FUNCTIONS["tanh"], params, x, y, np.eye(N)[:1], max_steps=24, **options)
    np.testing.assert_array_equal(only.converged, [True])


@pytest.mark.usefixtures("float64")
def test_linear_in_the_weights_and_blind_to_order() -> None:
    params, x, y = network(5)
    weights = np.asarray(group_weights(GROUP, 3), float)
    groups = bounds.binary_hessian_bound(FUNCTIONS["relu"], params, x, y, weights)
    whole = bounds.binary_hessian_bound(FUNCTIONS["relu"], params, x, y, np.full((1, N), 1 / N))
    share = np.bincount(GROUP) / N
    np.testing.assert_allclose([share @ part for part in groups[:3]], np.ravel(whole[:3]), rtol=1e-6)
    order = np.random.default_rng(0).permutation(N)
    moved = bounds.binary_hessian_bound(FUNCTIONS["relu"], params, x[order], y[order], weights[:, order])
    np.testing.assert_allclose(moved, groups, rtol=1e-9)


def test_float32() -> None:
    """Within some roundings of float64, and examples of no group are not looked at, whatever they hold."""
    params, x, y = network(6)
    weights = np.array(group_weights(GROUP, 3))
    found = bounds.binary_hessian_bound(FUNCTIONS["tanh"], params, x, y, weights)
    with jax.enable_x64(True):
        wide, inputs, _ = network(6)
        expected = bounds.binary_hessian_bound(FUNCTIONS["tanh"], wide, inputs, y, weights.astype(float))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    weights[:, 0] = 0
    nan = bounds.binary_hessian_bound(FUNCTIONS["tanh"], params, x.at[0].set(jnp.nan), y, weights)
    assert np.isfinite(nan.bound).all()


@pytest.mark.usefixtures("unchecked")
def test_bad_input() -> None:
    params, x, y = network(7)
    weights = np.asarray(group_weights(GROUP, 3))
    fn = FUNCTIONS["tanh"]
    for given_x, given_y, given_weights, message in [
        (x[:3], y, weights, "3 inputs, 7 labels"),
        (x, y, weights[:, :2], "7 labels, 2 weights"),
        (x[:0], y[:0], weights[:, :0], "no examples"),
        (x, y + 1, weights, "the 2 classes count from 0"),
        (x.at[2].set(jnp.nan), y, weights, "example 2 is not finite"),
    ]:
        with pytest.raises(JaxfairError, match=message):
            bounds.binary_hessian_bound(fn, params, given_x, given_y, given_weights)
    with pytest.raises(JaxfairError, match=r"logits have shape \(1, 6\)"):
        bounds.binary_hessian_bound(lambda p, v: jnp.tile(fn(p, v), 3), params, x, y, weights)
    with pytest.raises(JaxfairError, match="form is 'probability'"):
        bounds.binary_hessian_bound(fn, params, x, y, weights, form="probability")  # pyright: ignore[reportArgumentType]
    with pytest.raises(JaxfairError, match="have shapes"):
        bounds.excess_loss_bound(np.ones(3), np.ones(2), 1.0, np.ones(3))
    for norm, distance in ((-1.0, 1.0), (1.0, -1.0)):
        with pytest.raises(JaxfairError, match="is negative"):
            bounds.excess_loss_bound(norm, 1.0, distance, 0.0)
    for terms in ((np.inf, 1.0, 0.0), (1.0, 1.0, 1e200), (1.0, -np.inf, 1.0)):
        with pytest.raises(JaxfairError, match="infinite or too large for float64"):
            bounds.excess_loss_bound(*terms, 0.0)
    with pytest.raises(JaxfairError, match="smallest eigenvalue is 3 and the largest -2; give the two ends"):
        bounds.sensitivity_bound(0.0, np.array([1.0, -2.0]), 1.0, 0.9, bottom_eigenvalue=np.array([1.0, 3.0]))
    with pytest.raises(JaxfairError, match=r"A sensitivity is -0\.5"):
        bounds.sensitivity_bound(1.0, 1.0, 1.0, np.array([0.5, -0.5]))


def test_there_is_no_upper_bound_of_negative_weights() -> None:
    x, y = np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1])
    weights = np.array([[0.5, 0.5, -0.5, -0.5]])
    with pytest.raises(JaxfairError, match="below 0, for which there is no upper bound"):
        bounds.binary_hessian_bound(lambda w, x: x @ w, np.ones((4, 2), np.float32), x, y, weights)
