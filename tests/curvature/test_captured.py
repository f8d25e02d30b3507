"""Functions that read other things than before are other functions, and the same otherwise."""

import functools
from collections import deque
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxfair
from jaxfair.curvature.captured import Captured

RNG = np.random.default_rng(0)
X, Y, GROUP = RNG.normal(size=(60, 5)).astype(np.float32), RNG.integers(0, 3, 60), np.arange(60) % 2
WEIGHTS = RNG.normal(size=(5, 3)).astype(np.float32)
shift: Any = jnp.zeros(3)
factor = 1


def shifted(params: Any, x: Any) -> Any:
    return x @ params + shift


def scaled(logits: Any, y: Any) -> Any:
    return factor * optax.softmax_cross_entropy_with_integer_labels(logits, y)


class Model:
    """A model whose state is its own."""

    def __init__(self) -> None:
        self.shift = np.zeros(3, np.float32)

    def logits(self, params: Any, x: Any) -> Any:
        """Compute logits."""
        return x @ params + self.shift


def losses(logits_fn: Any, **options: Any) -> np.ndarray:
    return jaxfair.group_report(logits_fn, WEIGHTS, X, Y, GROUP, **options).loss


def expected(shift: Any) -> np.ndarray:
    each = optax.softmax_cross_entropy_with_integer_labels(X @ WEIGHTS + np.asarray(shift), Y)
    return np.array([each[g == GROUP].mean() for g in range(2)])


def test_a_network_that_reads_another_global_is_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    np.testing.assert_allclose(losses(shifted), expected(np.zeros(3)), rtol=1e-5)
    monkeypatch.setitem(globals(), "shift", jnp.array([3.0, 0.0, -3.0]))
    np.testing.assert_allclose(losses(shifted), expected([3, 0, -3]), rtol=1e-5)


def test_a_loss_that_reads_another_global_is_differentiated_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    before = jaxfair.group_report(shifted, WEIGHTS, X, Y, GROUP, loss=scaled)
    monkeypatch.setitem(globals(), "factor", 2)
    after = jaxfair.group_report(shifted, WEIGHTS, X, Y, GROUP, loss=scaled)
    for name in ("loss", "gradient_norm", "top_eigenvalue"):
        np.testing.assert_allclose(getattr(after.curvature, name), 2 * getattr(before.curvature, name), rtol=1e-3)


def test_a_model_that_is_changed_in_place_is_measured_anew() -> None:
    model = Model()
    np.testing.assert_allclose(losses(model.logits), expected(np.zeros(3)), rtol=1e-5)
    model.shift[0] = 2  # in NumPy's array itself
    np.testing.assert_allclose(losses(model.logits), expected([2, 0, 0]), rtol=1e-5)


def test_an_nnx_model_that_is_trained_on_has_other_distances() -> None:
    model = nnx.Linear(5, 3, rngs=nnx.Rngs(0))

    def classifier(x: Any) -> Any:
        return model(x)

    first = jaxfair.linearized_distance(classifier, X, Y).distance
    model.kernel[...] = 3 * model.kernel[...] + jnp.asarray(WEIGHTS)
    again = jaxfair.linearized_distance(classifier, X, Y).distance
    assert model.bias is not None
    bias = model.bias[...]
    bound = jaxfair.linearized_distance(lambda x: x @ model.kernel[...] + bias, X, Y).distance
    np.testing.assert_allclose(again, bound, rtol=1e-5)
    assert np.abs(again - first).max() > 0.1


def made(weights: Any, power: int = 1, helper: Any = None) -> Any:
    """Return a new function of the same code each time."""

    def inner(x: Any, scale: float = 1.0) -> Any:
        return (helper or (lambda z: z))(scale * x @ weights) ** power

    return inner


def test_what_makes_functions_the_same() -> None:
    array = jnp.asarray(WEIGHTS)
    assert Captured(made(array)) == Captured(made(array)), "new objects of one code that read one array"
    assert hash(Captured(made(array))) == hash(Captured(made(array)))
    assert Captured(made(array)) != Captured(made(jnp.asarray(WEIGHTS) + 0)), "another array of JAX"
    assert Captured(made(WEIGHTS)) == Captured(made(WEIGHTS.copy())), "NumPy's arrays by their numbers"
    assert Captured(made(WEIGHTS)) != Captured(made(WEIGHTS + 1))
    assert Captured(made(array, 1000)) == Captured(made(array, int("1000"))), "equal numbers"
    assert Captured(made(array, 1)) != Captured(made(array, 2))
    assert Captured(made(array, 1)) != Captured(made(array, True)), "of another type"
    assert Captured(made(array, helper=made(array))) != Captured(made(array, helper=made(array, 2))), "further in"
    assert Captured(functools.partial(made(array), scale=2.0)) == Captured(functools.partial(made(array), scale=2.0))
    assert Captured(functools.partial(made(array), scale=2.0)) != Captured(functools.partial(made(array), scale=3.0))
    held = {"a": [1, 2], "b": array}
    first = Captured(made(held))
    held["a"].append(3)
    assert first != Captured(made(held)), "changed in place"
    held["self"] = held
    assert Captured(made(held)) == Captured(made(held)), "that holds itself"
    assert Captured(jax.nn.relu) == Captured(jax.nn.relu) != Captured(jax.nn.gelu)


def test_what_reads_the_same_is_compiled_once() -> None:
    """A lambda that is written into the call is a new object each time."""
    traced = deque()  # a list would be a part of what is read, and a longer one another

    def measure() -> int:
        before = len(traced)
        losses(lambda params, x: (traced.append(x.shape), shifted(params, x))[1])
        return len(traced) - before

    first = measure()
    assert first > 3
    assert measure() <= 3, "shapes are asked for at the door, by evaluating nothing"
