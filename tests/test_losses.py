"""Losses against SciPy and against gradients known in closed form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax, rel_entr, softmax

from jaxfair import losses

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(scale=3, size=(2, 7, 5))
LABEL = np.array([0, 1, 2, 3, 4, 0, 1])
# A few operations of rounding each on values of order 1 to 100.
FLOAT64: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-13}

logits = arrays(np.float32, (3, 4), elements=st.floats(-20, 20, width=32))


def test_cross_entropy_of_known_odds() -> None:
    """Equal scores of C classes cost log C; odds of 3 to 1 cost log 4/3 or log 4."""
    found = losses.cross_entropy(jnp.log(jnp.array([[3.0, 1.0], [3.0, 1.0], [2.0, 2.0]])), jnp.array([0, 1, 0]))
    np.testing.assert_allclose(found, np.log([4 / 3, 4, 2]), rtol=1e-6)


@pytest.mark.usefixtures("float64")
def test_cross_entropy_and_its_gradient() -> None:
    """The gradient is softmax minus the one-hot label."""
    found = losses.cross_entropy(jnp.asarray(STUDENT), jnp.asarray(LABEL))
    np.testing.assert_allclose(found, -log_softmax(STUDENT, axis=1)[np.arange(7), LABEL], **FLOAT64)
    gradient = jax.grad(lambda z: losses.cross_entropy(z, jnp.asarray(LABEL)).sum())(jnp.asarray(STUDENT))
    np.testing.assert_allclose(gradient, softmax(STUDENT, axis=1) - np.eye(5)[LABEL], **FLOAT64)


def test_cross_entropy_of_huge_logits_is_finite() -> None:
    found = losses.cross_entropy(jnp.array([[1e30, -1e30], [1e4, 0.0]]), jnp.array([0, 1]))
    np.testing.assert_array_equal(found, np.array([0.0, 1e4], np.float32))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_distillation_and_its_gradient(temperature: float) -> None:
    """``T^2 KL(teacher || student)``, so its gradient is ``T (student - teacher)``, in soft scores."""
    student, teacher = (softmax(z / temperature, axis=1) for z in (STUDENT, TEACHER))
    found = losses.distillation(jnp.asarray(STUDENT), jnp.asarray(TEACHER), temperature)
    np.testing.assert_allclose(found, temperature**2 * rel_entr(teacher, student).sum(axis=1), **FLOAT64)
    gradient = jax.grad(lambda z: losses.distillation(z, jnp.asarray(TEACHER), temperature).sum())(jnp.asarray(STUDENT))
    np.testing.assert_allclose(gradient, temperature * (student - teacher), **FLOAT64)


@pytest.mark.usefixtures("float64")
def test_distillation_at_high_temperature_matches_logits() -> None:
    """The gradient tends to the difference of centred logits over C (Hinton et al. 2015, eq. 4).

    The next term of the soft scores' expansion is at most ``(2 max|z|)^2 / (C T)``.
    """
    temperature = 1e5
    gradient = jax.grad(lambda z: losses.distillation(z, jnp.asarray(TEACHER), temperature).sum())(jnp.asarray(STUDENT))
    difference = STUDENT - TEACHER
    expected = (difference - difference.mean(axis=1, keepdims=True)) / 5
    bound = (2 * max(np.abs(STUDENT).max(), np.abs(TEACHER).max())) ** 2 / (5 * temperature)
    assert bound < 1e-3 < np.abs(expected).max()
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=bound)


@given(logits, st.floats(-50, 50, width=32), st.sampled_from([1.0, 4.0]))
def test_distillation_of_equal_scores_is_zero(z: np.ndarray, shift: float, temperature: float) -> None:
    """A shift of all logits of an example changes nothing; float32 logits of size 70 carry 4e-6 of rounding each."""
    found = losses.distillation(jnp.asarray(z), jnp.asarray(z + np.float32(shift)), temperature)
    np.testing.assert_allclose(found, 0, atol=temperature**2 * 4e-5)


@given(logits, logits)
def test_distillation_is_not_negative(z: np.ndarray, v: np.ndarray) -> None:
    """Gibbs' inequality; below zero only by rounding of terms of size at most 40."""
    assert float(losses.distillation(jnp.asarray(z), jnp.asarray(v), 1.0).min()) >= -40 * np.finfo(np.float32).eps


def test_both_losses_are_per_example() -> None:
    """The loss of an example does not depend on the others."""
    z, v, y = jnp.asarray(STUDENT, jnp.float32), jnp.asarray(TEACHER, jnp.float32), jnp.asarray(LABEL)
    np.testing.assert_allclose(losses.cross_entropy(z, y)[2:3], losses.cross_entropy(z[2:3], y[2:3]), rtol=1e-6)
    np.testing.assert_allclose(losses.distillation(z, v, 4.0)[2:3], losses.distillation(z[2:3], v[2:3], 4.0), rtol=1e-5)


@pytest.mark.usefixtures("float64")
def test_attention_is_the_squared_distance_of_normalised_maps() -> None:
    """Written out in NumPy; it ignores the scale of an output and, of channels, all but the mean square."""
    ours, theirs = ([RNG.normal(size=(3, side, side, c)) for side, c in ((4, 5), (2, 3))] for _ in range(2))
    expected = np.zeros(3)
    for a, b in zip(ours, theirs, strict=True):
        maps = [np.mean(x**2, axis=3).reshape(3, -1) for x in (a, b)]
        a, b = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in maps)
        expected += np.mean((a - b) ** 2, axis=1)
    np.testing.assert_allclose(
        losses.attention([*map(jnp.asarray, ours)], [*map(jnp.asarray, theirs)]), expected, **FLOAT64
    )
    changed = [jnp.asarray(3 * x[..., ::-1]) for x in ours]
    np.testing.assert_allclose(losses.attention(changed, [*map(jnp.asarray, theirs)]), expected, **FLOAT64)


def test_attention_of_an_output_of_zeros_has_a_finite_gradient() -> None:
    dead, live = [jnp.zeros((2, 3, 3, 2))], [jnp.ones((2, 3, 3, 2))]
    assert np.isfinite(jax.grad(lambda x: losses.attention(x, live).sum())(dead)[0]).all()


@pytest.mark.parametrize(
    ("loss", "boundary"),
    [
        (lambda z, y: (y - z[:, 0]) ** 2, 0.5),
        (lambda z, y: (1 - y * z[:, 0]) ** 2, 0.0),
        (lambda z, y: jax.nn.softplus(z[:, 0]) - y * z[:, 0], 0.0),
    ],
    ids=["squares", "margin", "logistic"],
)
@pytest.mark.parametrize("y", [[1, 1, 1, 1], [1.0, 1.0, 1.0, 1.0]])
def test_labels_of_ones_alone_have_the_boundary_of_their_loss(loss: Any, boundary: float, y: list) -> None:
    """They are of 0 and 1, or of -1 and 1 where by the loss 0 is no class."""
    logits = np.array([[-3.0], [0.25], [0.75], [2.5]])
    np.testing.assert_array_equal(losses.says_second(loss, logits, np.array(y)), logits[:, 0] > boundary)
