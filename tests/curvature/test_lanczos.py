"""Lanczos against NumPy's dense eigenvalues, and its own error bound against the true error."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfair.curvature import lanczos
from jaxfair.curvature.density import stochastic_trace
from jaxfair.curvature.lanczos import EigenResult, MatVec, extreme_eigenvalues
from jaxfair.errors import JaxfairError

EPS = float(np.finfo(np.float64).eps)


def dense(matrix: np.ndarray) -> MatVec:
    return lambda vector: matrix @ vector


def random_start(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size)


def random_symmetric(size: int, seed: int = 0) -> np.ndarray:
    matrix = np.random.default_rng(seed).standard_normal((size, size))
    return matrix + matrix.T


def largest(matrix: np.ndarray, k: int) -> np.ndarray:
    return np.linalg.eigvalsh(matrix)[::-1][:k]


def rounding(matrix: np.ndarray, epsilon: float = EPS) -> float:
    """Bound what rounding adds to a Ritz value: ``c n eps ||A||`` (Parlett 1998, ch. 13), c = 10."""
    return 10 * len(matrix) * epsilon * float(np.linalg.norm(matrix, 2))


def test_diagonal() -> None:
    result = extreme_eigenvalues(
        dense(np.diag(np.arange(1.0, 21))), random_start(20), largest=3, tolerance=1e-12, multiple=False
    )
    np.testing.assert_allclose(result.values, [20, 19, 18], rtol=1e-12)
    assert result.converged is True  # a Python bool, which JSON takes
    assert result.steps == len(result.alphas) == len(result.betas) <= 20


@pytest.mark.parametrize("size", [1, 2, 7, 30])
@pytest.mark.parametrize("k", [1, 5, 30])
def test_random_symmetric(size: int, k: int) -> None:
    """With as many steps as the operator has rows, up to k = size."""
    matrix, k = random_symmetric(size), min(k, size)
    result = extreme_eigenvalues(dense(matrix), random_start(size, 1), largest=k, tolerance=1e-13)
    np.testing.assert_allclose(result.values, largest(matrix, k), rtol=0, atol=rounding(matrix))
    assert result.converged


def test_far_fewer_steps_than_rows_suffice_for_an_outlier() -> None:
    matrix = np.diag(np.append(np.linspace(0, 1, 499), 10.0))
    result = extreme_eigenvalues(dense(matrix), random_start(500), tolerance=1e-6)
    assert result.converged
    assert result.steps <= 10
    # The error of a Ritz value is at most residual^2 / gap (Parlett 1998, 11.7).
    np.testing.assert_allclose(result.values, 10, atol=(1e-6 * 10) ** 2 / 9 + rounding(matrix))


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 10_000), st.integers(-20, 20))
def test_an_eigenvalue_lies_within_each_residual(size: int, max_steps: int, seed: int, exponent: int) -> None:
    """For every Ritz value, however few the steps; and none exceeds the largest eigenvalue."""
    matrix = random_symmetric(size, seed) * 2.0**exponent
    k = min(size, max_steps, 3)
    start = random_start(size, seed + 1)
    result = extreme_eigenvalues(dense(matrix), start, largest=k, tolerance=1e-9, max_steps=max_steps)
    eigenvalues = np.linalg.eigvalsh(matrix)
    distance = np.abs(result.values[:, None] - eigenvalues).min(axis=1)
    assert (distance <= result.residuals + rounding(matrix)).all()
    assert result.values[0] <= eigenvalues[-1] + rounding(matrix)
    assert (np.diff(result.values) <= 0).all()


def test_the_residual_is_the_true_one_where_the_tolerance_is_not_reached() -> None:
    """Against Rayleigh-Ritz on an explicit basis of the Krylov space of four products."""
    matrix, start = np.diag(np.linspace(-1, 1, 50)), random_start(50)
    result = extreme_eigenvalues(dense(matrix), start, largest=2, tolerance=1e-6, max_steps=4)
    assert (result.converged, result.steps) == (False, 4)
    basis, _ = np.linalg.qr(np.stack([np.diag(matrix) ** power * start for power in range(4)], axis=1))
    values, coordinates = np.linalg.eigh(basis.T @ matrix @ basis)
    vectors = (basis @ coordinates)[:, :1:-1]
    np.testing.assert_allclose(result.values, values[:1:-1], rtol=1e-10)
    residuals = np.linalg.norm(matrix @ vectors - vectors * values[:1:-1], axis=0)
    np.testing.assert_allclose(result.residuals, residuals, rtol=1e-8)
    assert residuals.min() > 1e-2


def test_convergence_means_that_every_residual_meets_the_tolerance() -> None:
    matrix = random_symmetric(60)
    coarse, fine = (
        extreme_eigenvalues(dense(matrix), random_start(60, 1), largest=2, tolerance=t, multiple=False)
        for t in (1e-2, 1e-6)
    )
    for result, tolerance in ((coarse, 1e-2), (fine, 1e-6)):
        assert result.converged
        assert (result.residuals <= tolerance * np.abs(result.values)).all()
    assert (coarse.residuals > 1e-6 * coarse.values).any()
    assert coarse.steps < fine.steps < 60


def test_negative_definite_yields_the_eigenvalue_nearest_to_zero() -> None:
    matrix = -np.diag(np.arange(1.0, 16))
    result = extreme_eigenvalues(dense(matrix), random_start(15), largest=2, tolerance=1e-12)
    np.testing.assert_allclose(result.values, [-1, -2], rtol=1e-10)


def test_an_outlier_has_no_ghost_copies() -> None:
    """Without orthogonalisation against all earlier vectors, 1e6 would be found several times."""
    matrix = np.diag(np.append(np.linspace(0, 1, 60), 1e6))
    result = extreme_eigenvalues(dense(matrix), random_start(61), largest=3, tolerance=1e-12)
    np.testing.assert_allclose(result.values, [1e6, 1, 1 - 1 / 59], rtol=1e-9, atol=rounding(matrix))


@given(st.integers(0, 1000), st.integers(-60, 60))
def test_a_power_of_two_scales_every_number_exactly(seed: int, exponent: int) -> None:
    """No threshold is absolute."""
    matrix, start, factor = random_symmetric(8, seed), random_start(8, seed), 2.0**exponent
    plain, scaled = (extreme_eigenvalues(dense(m), start, largest=2, tolerance=1e-4) for m in (matrix, factor * matrix))
    assert plain.steps == scaled.steps
    np.testing.assert_allclose(scaled.alphas, factor * plain.alphas, rtol=0, atol=0)
    np.testing.assert_allclose(scaled.values, factor * plain.values, rtol=1e-14)


@pytest.mark.parametrize(
    ("matrix", "value", "steps"),
    [
        (np.zeros((6, 6)), 0.0, 1),
        (3 * np.eye(6), 3.0, 1),
        (-2 * np.eye(6), -2.0, 1),
        (np.diag([5.0, 5, 5, 1, 1, 1]), 5.0, 2),
        (np.outer(np.arange(6.0), np.arange(6.0)), 55.0, 2),
        (-np.outer(np.arange(6.0), np.arange(6.0)), 0.0, 2),
    ],
    ids=["zero", "identity", "negative identity", "multiplicities", "rank one", "negative rank one"],
)
def test_breakdown_ends_with_the_exact_value(matrix: np.ndarray, value: float, steps: int) -> None:
    """The Krylov space has one dimension for each distinct eigenvalue; one more step may find only rounding."""
    result = extreme_eigenvalues(dense(matrix), random_start(6), tolerance=1e-12)
    np.testing.assert_allclose(result.values, [value], rtol=0, atol=rounding(matrix))
    assert result.residuals[0] <= rounding(matrix)
    assert result.converged
    assert result.steps <= steps + 1


@pytest.mark.parametrize("matrix", [np.zeros((6, 6)), np.eye(6)], ids=["zero", "identity"])
def test_fewer_values_than_asked_are_not_passed_off_as_converged(matrix: np.ndarray) -> None:
    """The Krylov space has one dimension, but two eigenvalues were asked for."""
    result = extreme_eigenvalues(dense(matrix), random_start(6), largest=2)
    assert len(result.values) == 2 or not result.converged


def test_an_eigenvector_as_start_needs_one_step() -> None:
    result = extreme_eigenvalues(dense(np.diag([3.0, 2, 1])), np.array([2.0, 0, 0]))
    assert (result.values.tolist(), result.steps, result.converged) == ([3.0], 1, True)


@pytest.mark.parametrize("size", [1, 5, 40])
def test_float32(size: int) -> None:
    """The operator is asked in the precision of the start, and the result is good to that precision."""
    matrix = random_symmetric(size)
    asked = set()

    def matvec(vector: np.ndarray) -> np.ndarray:
        asked.add(vector.dtype)
        return matrix.astype(np.float32) @ vector

    result = extreme_eigenvalues(matvec, random_start(size, 1).astype(np.float32), largest=min(3, size), tolerance=1e-5)
    assert asked == {np.dtype(np.float32)}
    assert result.converged
    expected = largest(matrix, min(3, size))
    np.testing.assert_allclose(result.values, expected, rtol=0, atol=rounding(matrix, float(np.finfo(np.float32).eps)))


def test_coefficients_reproduce_the_values() -> None:
    """The stored tridiagonal matrix is enough to compute values and residuals again."""
    result = extreme_eigenvalues(dense(random_symmetric(30)), random_start(30, 1), largest=2, tolerance=1e-3)
    off_diagonal = np.diag(result.betas[:-1], 1)
    values, vectors = np.linalg.eigh(np.diag(result.alphas) + off_diagonal + off_diagonal.T)
    np.testing.assert_allclose(result.values, values[::-1][:2], rtol=1e-12)
    np.testing.assert_allclose(result.residuals, result.betas[-1] * np.abs(vectors[-1, ::-1][:2]), rtol=1e-6)


def fail_at(step: int) -> MatVec:
    """Return an operator whose product is NaN from call ``step`` on."""
    calls = []

    def matvec(vector: np.ndarray) -> np.ndarray:
        calls.append(1)
        return np.arange(1.0, 6) * vector if len(calls) < step else np.full(5, np.nan)

    return matvec


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda: extreme_eigenvalues(fail_at(1), np.ones(5)), "product of Lanczos step 1 has values that are not"),
        (
            lambda: extreme_eigenvalues(fail_at(3), np.ones(5)),
            "step 3 has values that are not finite; check the inputs",
        ),
        (lambda: extreme_eigenvalues(dense(np.eye(5)), np.zeros(5)), "start vector has norm 0.0; give a finite vector"),
        (lambda: extreme_eigenvalues(dense(np.eye(2)), np.array([1, np.inf])), "start vector has norm inf"),
        (lambda: extreme_eigenvalues(dense(np.eye(2)), np.array([1, np.nan])), "start vector has norm nan"),
        (
            lambda: extreme_eigenvalues(dense(np.eye(5)), np.ones(5), largest=6),
            "6 eigenvalues .* size 5; ask for 1 to 5",
        ),
        (lambda: extreme_eigenvalues(dense(np.eye(5)), np.ones(5), largest=0), "0 eigenvalues .* size 5"),
        (lambda: extreme_eigenvalues(dense(np.eye(5)), np.ones(5), max_steps=0), "0 .*steps"),
    ],
)
def test_refusals(run: Callable[[], EigenResult], words: str) -> None:
    with pytest.raises(JaxfairError, match=words):
        run()


@pytest.mark.parametrize("xp", [np, jnp], ids=["host", "device"])
@pytest.mark.parametrize(("value", "norm"), [(3e38, "3e[+]40"), (1e-40, "1e-38")])
def test_a_start_whose_norm_its_type_cannot_hold_is_refused(xp: Any, value: float, norm: str) -> None:
    """Divided by infinity it was 0, and so was the only eigenvalue, which had converged."""
    with pytest.raises(JaxfairError, match=f"start vector has norm {norm}, which float32 cannot hold; scale it"):
        extreme_eigenvalues(lambda v: v, xp.asarray(np.full(10_000, value, np.float32)))


@pytest.mark.parametrize("start", [np.ones(4, jnp.bfloat16), np.ones(4, np.float16), jnp.ones(4, jnp.bfloat16)])
def test_a_start_of_half_precision_is_refused(start: Any) -> None:
    """As parameters are; on the host NumPy did not know bfloat16, whose rounding stops Lanczos anyway."""
    with pytest.raises(JaxfairError, match=r"start vector has the type b?float16; give float32 or float64\."):
        extreme_eigenvalues(lambda v: v, start)


@pytest.mark.parametrize(
    ("factor", "words"),
    [(1 + 1j, "complex128"), (np.array([1, 2, None]), "object"), (np.array(["a", "b", "c"]), "<U1")],
)
def test_products_that_are_no_real_numbers_are_refused(factor: Any, words: str) -> None:
    def matvec(vector: np.ndarray) -> Any:
        return vector * factor if np.ndim(factor) == 0 else factor

    with pytest.raises(JaxfairError, match=f"matrix-vector product has the type {words}; return real numbers"):
        extreme_eigenvalues(matvec, np.ones(3))
    with pytest.raises(JaxfairError, match=f"has the type {words}"):
        stochastic_trace(matvec, [np.ones(3)])


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.int32, bool])
def test_real_products_of_any_type_are_taken(dtype: Any) -> None:
    found = extreme_eigenvalues(lambda v: np.eye(1, 3, dtype=dtype)[0], np.eye(1, 3)[0])
    np.testing.assert_allclose(found.values, [1])
    listed: Any = lambda v: v.tolist()  # noqa: E731
    np.testing.assert_allclose(extreme_eigenvalues(listed, np.eye(1, 3)[0]).values, [1])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("xp", [np, jnp], ids=["host", "device"])
def test_a_product_in_a_wider_type_is_asked_of_vectors_as_they_are_kept(xp: Any) -> None:
    """In float64 the vector that was multiplied was not the row that coefficients were taken of."""
    kinds, values = set(), np.arange(20.0)

    def matvec(vector: Any) -> Any:
        kinds.add(str(vector.dtype))
        return xp.asarray(values) * vector

    found = extreme_eigenvalues(matvec, xp.asarray(random_start(20), "float32"))
    assert (kinds, found.converged) == ({"float32"}, True)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("xp", [np, jnp], ids=["host", "device"])
@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e160, 1e300])
def test_float64_whose_squares_are_no_number(xp: Any, scale: float) -> None:
    values = xp.asarray(scale * np.array([3.0, 3, 3, 1, 0]))
    found = extreme_eigenvalues(lambda v: values * v, xp.asarray(random_start(5)), smallest=1)
    np.testing.assert_allclose(found.values, [3 * scale, 0], rtol=1e-6, atol=1e-6 * scale)
    assert found.converged
    assert lanczos.norm(np.array([scale, 0, -scale])) == pytest.approx(np.sqrt(2) * scale, rel=1e-12)


def test_a_product_may_be_written_into_its_vector() -> None:
    start = random_start(5)
    found = extreme_eigenvalues(lambda v: np.multiply(v, 2, out=v), start)
    np.testing.assert_allclose(found.values, [2], rtol=1e-12)
    assert found.steps == 1
    probe = np.ones(5)
    assert stochastic_trace(lambda v: np.multiply(v, 2, out=v), [probe]).value == 10
    assert probe.tolist() == [1] * 5


def test_a_product_that_fails_is_said_in_a_sentence() -> None:
    for run in (lambda matvec: extreme_eigenvalues(matvec, np.ones(3)), lambda m: stochastic_trace(m, [np.ones(3)])):
        with pytest.raises(JaxfairError, match=r"product fails \(.*mismatch.*\); give a function of a vector of shape"):
            run(lambda v: np.eye(4) @ v)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_norm_on_a_device_neither_overflows_nor_vanishes(scale):
    """Numbers whose squares are no float32."""
    vector = np.random.default_rng(0).standard_normal(100_000).astype(np.float32) * np.float32(scale)
    wanted = np.linalg.norm(vector.astype(np.float64))
    assert float(lanczos._device_norm(vector)) == pytest.approx(wanted, rel=1e-6)


def test_the_norm_on_a_device_is_that_of_nothing_and_of_what_is_not_finite():
    """Zero stays zero, and infinity and NaN are seen."""
    assert float(lanczos._device_norm(np.zeros(3, np.float32))) == 0
    assert not np.isfinite(float(lanczos._device_norm(np.array([1, np.inf], np.float32))))
    assert np.isnan(float(lanczos._device_norm(np.array([1, np.nan], np.float32))))


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_a_multiple_of_the_identity_has_one_eigenvalue_at_both_ends(value: float) -> None:
    found = extreme_eigenvalues(lambda v: value * v, np.arange(1.0, 6.0), largest=1, smallest=1)
    assert found.converged
    np.testing.assert_allclose(found.values, [value, value], atol=1e-12)
