"""Both ends, eigenvectors, restarts of a bounded basis, stopping rules, and device arrays."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfair.curvature.lanczos import EigenResult, MatVec, extreme_eigenvalues
from jaxfair.errors import JaxfairError

EPS = float(np.finfo(np.float64).eps)
SPREAD = np.linspace(-1, 1, 200) ** 3 * 10  # eigenvalues that are dense in the middle and sparse at both ends


def dense(matrix: np.ndarray) -> MatVec:
    return lambda vector: matrix @ vector


def diagonal(values: np.ndarray) -> MatVec:
    return lambda vector: values * vector


def random_start(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size)


def random_symmetric(size: int, seed: int = 0) -> np.ndarray:
    matrix = np.random.default_rng(seed).standard_normal((size, size))
    return matrix + matrix.T


def ends(eigenvalues: np.ndarray, largest: int, smallest: int) -> np.ndarray:
    ordered = np.sort(eigenvalues)
    return np.concatenate([ordered[::-1][:largest], ordered[:smallest]])


def rounding(matrix: np.ndarray, epsilon: float = EPS) -> float:
    """Bound what rounding adds to a Ritz value: ``c n eps ||A||`` (Parlett 1998, ch. 13), c = 10."""
    return 10 * len(matrix) * epsilon * float(np.linalg.norm(matrix, 2))


@pytest.mark.parametrize(("largest", "smallest"), [(0, 1), (0, 4), (1, 1), (3, 2), (15, 15), (0, 30)])
def test_smallest_and_both_ends(largest: int, smallest: int) -> None:
    """The largest in falling order, then the smallest in rising order; up to all eigenvalues there are."""
    matrix = random_symmetric(30)
    result = extreme_eigenvalues(
        dense(matrix), random_start(30, 1), largest=largest, smallest=smallest, tolerance=1e-12
    )
    expected = ends(np.linalg.eigvalsh(matrix), largest, smallest)
    np.testing.assert_allclose(result.values, expected, rtol=0, atol=rounding(matrix))
    assert result.residuals.shape == (largest + smallest,)
    assert result.converged


def test_the_smallest_is_the_largest_of_the_negative() -> None:
    """Step by step the same numbers with the other sign; the tolerance is relative to the largest magnitude."""
    matrix, start = random_symmetric(40), random_start(40, 1)
    low = extreme_eigenvalues(dense(matrix), start, largest=0, smallest=2, tolerance=0.0, max_steps=12)
    high = extreme_eigenvalues(dense(-matrix), start, largest=2, tolerance=0.0, max_steps=12)
    np.testing.assert_allclose(low.values, -high.values, rtol=1e-12)
    np.testing.assert_allclose(low.residuals, high.residuals, rtol=1e-9)


def test_an_eigenvalue_near_zero_at_the_lower_end_does_not_stall() -> None:
    """A positive semidefinite operator's zero: relative to itself no residual would ever be small enough."""
    values = np.append(0.0, np.linspace(1, 10, 60))
    result = extreme_eigenvalues(diagonal(values), random_start(61), largest=0, smallest=1, tolerance=1e-4)
    assert result.converged
    assert result.steps < 61
    assert abs(result.values[0]) <= 1e-4 * 10


@pytest.mark.parametrize("max_basis", [100, 8])
def test_vectors(max_basis: int) -> None:
    """Unit eigenvectors, orthogonal to each other; ``||A v - value v||`` is the residual that is reported."""
    matrix = np.diag(np.random.default_rng(1).permutation(SPREAD))
    options: dict[str, Any] = {"largest": 3, "smallest": 2, "tolerance": 1e-4, "max_steps": 1000}
    result = extreme_eigenvalues(dense(matrix), random_start(200), max_basis=max_basis, vectors=True, **options)
    assert result.converged
    assert result.vectors.shape == (5, 200)
    np.testing.assert_allclose(result.vectors @ result.vectors.T, np.eye(5), rtol=0, atol=1e-12)
    residuals = np.linalg.norm(result.vectors @ matrix - result.values[:, None] * result.vectors, axis=1)
    np.testing.assert_allclose(residuals, result.residuals, rtol=1e-6, atol=rounding(matrix))
    assert residuals.max() > 1e-9, "at rounding the comparison would test nothing"
    assert extreme_eigenvalues(dense(matrix), random_start(200), max_basis=max_basis, **options).vectors is None


@pytest.mark.parametrize(("largest", "smallest"), [(1, 0), (0, 1), (1, 1), (3, 2)])
@pytest.mark.parametrize("max_basis", [0, 1, 10])
def test_restarts_reach_the_same_eigenvalues(largest: int, smallest: int, max_basis: int) -> None:
    """From the smallest basis allowed on; every product counts, and a bounded basis never needs fewer of them."""
    wanted, products = largest + smallest, []

    def matvec(vector: np.ndarray) -> np.ndarray:
        products.append(1)
        return SPREAD * vector

    options: dict[str, Any] = {"largest": largest, "smallest": smallest, "tolerance": 1e-9, "max_steps": 2000}
    options["multiple"], start = False, random_start(200)
    unbounded = extreme_eigenvalues(diagonal(SPREAD), start, max_basis=200, **options)
    rows = wanted + 3 + max_basis
    result = extreme_eigenvalues(matvec, start, max_basis=rows, **options)
    assert result.converged
    assert result.steps == len(products) == len(result.alphas) == len(result.betas)
    assert result.steps >= unbounded.steps > rows, "there was no restart"
    # The error of each is at most the residual, 1e-9 of the largest magnitude.
    np.testing.assert_allclose(result.values, ends(SPREAD, largest, smallest), rtol=0, atol=1e-9 * 10)


@pytest.mark.parametrize("max_steps", [9, 10, 23])
def test_steps_end_at_the_limit_also_after_restarts(max_steps: int) -> None:
    calls = []

    def matvec(vector: np.ndarray) -> np.ndarray:
        calls.append(1)
        return SPREAD * vector

    result = extreme_eigenvalues(matvec, random_start(200), tolerance=1e-12, max_steps=max_steps, max_basis=9)
    assert (result.converged, result.steps, len(calls)) == (False, max_steps, max_steps)


@given(st.integers(6, 14), st.integers(0, 1), st.integers(0, 1), st.integers(1, 40), st.integers(0, 10_000))
def test_an_eigenvalue_lies_within_each_residual(size: int, more: int, low: int, max_steps: int, seed: int) -> None:
    """At both ends, however few the steps, and after restarts of the smallest basis; none is beyond the spectrum.

    One step has one value for both ends: there is none yet where two are asked for at one of them.
    """
    matrix = random_symmetric(size, seed)
    options: dict[str, Any] = {"largest": 1 + more - low, "smallest": 1 + low, "tolerance": 1e-12}
    result = extreme_eigenvalues(
        dense(matrix), random_start(size, seed + 1), max_steps=max_steps, max_basis=6, **options
    )
    eigenvalues = np.linalg.eigvalsh(matrix)
    slack = rounding(matrix)
    assert len(result.values) == len(result.residuals) == 2 + more
    ends = options["largest"], options["smallest"]
    assert np.isfinite(result.values).sum() == sum(min(end, result.steps) for end in ends)
    known = np.isfinite(result.values)
    values = result.values[known]
    distance = np.abs(values[:, None] - eigenvalues).min(axis=1)
    assert (distance <= result.residuals[known] + slack).all()
    assert (values <= eigenvalues[-1] + slack).all()
    assert (values >= eigenvalues[0] - slack).all()


@pytest.mark.parametrize("max_basis", [100, 12])
def test_stopping_by_the_error_needs_fewer_steps_and_keeps_its_word(max_basis: int) -> None:
    """On spectra with a gap above the bulk, for several of them and several starts."""
    for seed in range(5):
        bulk = np.random.default_rng(seed).uniform(-1, 1, 300)
        values = np.append(bulk, [2.0, 3.0])
        runs: list[EigenResult] = []
        for stop in ("residual", "error"):
            options: dict[str, Any] = {"largest": 2, "tolerance": 1e-6, "max_steps": 400, "max_basis": max_basis}
            runs.append(extreme_eigenvalues(diagonal(values), random_start(302, seed), stop=stop, **options))
        bound, estimate = runs
        assert bound.converged
        assert estimate.converged
        assert estimate.steps < bound.steps
        assert (np.abs(estimate.values - [3, 2]) <= 1e-6 * np.array([3, 2])).all()
        assert (estimate.residuals > 1e-6 * estimate.values).any(), "the bound was met too"
        assert (bound.residuals <= 1e-6 * bound.values).all()


def outliers(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a spectrum as networks have, a bulk at zero and a few outliers, and a start vector that leans to them."""
    rng = np.random.default_rng(seed)
    values = np.append(rng.normal(0, 0.02, 400), np.geomspace(1, 0.05, 12) * rng.uniform(0.7, 1, 12))
    return values, rng.standard_normal(412) + 10 * np.abs(values) ** 0.5


@pytest.mark.parametrize("sign", [1, -1])
def test_what_lanczos_is_about_to_find_is_nearer_than_what_it_has(sign: int) -> None:
    """After as many products, at both ends; and where it stops it is mostly as near as was asked."""
    gains, kept = [], []
    for seed in range(40):
        values, start = outliers(seed)
        find = partial(
            extreme_eigenvalues, diagonal(sign * values), start, largest=int(sign > 0), smallest=int(sign < 0)
        )
        truth = sign * values.max()
        for steps in (3, 4, 5):
            ritz, beyond = (find(stop=stop, tolerance=0, max_steps=steps) for stop in ("residual", "error"))
            gains.append(float(abs(beyond.values[0] - truth) / abs(ritz.values[0] - truth)))
            assert beyond.residuals[0] >= ritz.residuals[0]
        for tolerance in (1e-2, 1e-4):
            found = find(stop="error", tolerance=tolerance)
            assert found.converged
            kept.append(abs(found.values[0] / truth - 1) <= tolerance)
    assert np.median(gains) < 0.3
    assert np.mean(kept) > 0.75


@pytest.mark.parametrize("seed", range(5))
def test_what_it_is_about_to_find_lies_within_the_residual_of_what_it_has(seed: int) -> None:
    """Three values that are nearly one, above a bulk: the next product's own row is taken for none of the others.

    Without that, what had converged was off by more than ten tolerances from two of three starts.
    """
    values = np.append(np.linspace(-1, 1, 190), 3 + 1e-6 * np.arange(3))
    options: dict[str, Any] = {"stop": "error", "tolerance": 1e-3, "max_steps": 1000, "max_basis": 12}
    found = extreme_eigenvalues(diagonal(values), random_start(193, seed), largest=5, smallest=4, **options)
    assert found.converged
    np.testing.assert_allclose(found.values, ends(values, 5, 4), rtol=0, atol=10 * 1e-3)


@given(st.integers(2, 8), st.integers(0, 10_000), st.floats(-50, 50), st.integers(-6, 6), st.booleans())
def test_what_it_is_about_to_find_moves_with_the_matrix(
    steps: int, seed: int, shift: float, exponent: int, mirrored: bool
) -> None:
    """A matrix c A + s has values c v + s, and -A those of the other end."""
    values, start = outliers(seed)
    options: dict[str, Any] = {"stop": "error", "tolerance": 0, "max_steps": steps, "multiple": False}
    plain = extreme_eigenvalues(diagonal(values), start, largest=2, smallest=1, **options)
    scale = 2.0**exponent * (-1 if mirrored else 1)
    ends = {"largest": 1, "smallest": 2} if mirrored else {"largest": 2, "smallest": 1}
    moved = extreme_eigenvalues(diagonal(scale * values + shift), start, **ends, **options)
    expected = scale * plain.values + shift
    expected = expected[[2, 0, 1]] if mirrored and len(expected) == 3 else expected
    np.testing.assert_allclose(moved.values, expected, rtol=0, atol=1e-10 * (abs(scale) + abs(shift)))


@pytest.mark.parametrize(("stop", "steps"), [("residual", 1), ("error", 2)])
def test_one_ritz_value_tells_no_error(stop: Any, steps: int) -> None:
    """Half of the value is far more than the width of this spectrum, but an error needs a second value."""
    values = np.linspace(1, 1.1, 50)
    assert extreme_eigenvalues(diagonal(values), random_start(50), stop=stop, tolerance=0.5).steps == steps


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_basis": 3}, "basis of 3 vectors is too small for 1 eigenvalues; allow 4"),
        ({"max_basis": 7, "largest": 3, "smallest": 2}, "basis of 7 vectors is too small for 5 eigenvalues; allow 8"),
        ({"largest": -1, "smallest": 2}, "ask for 1 to 200"),
        ({"largest": 100, "smallest": 101}, "201 eigenvalues"),
    ],
)
def test_refusals(options: dict[str, Any], words: str) -> None:
    with pytest.raises(JaxfairError, match=words):
        extreme_eigenvalues(diagonal(SPREAD), random_start(200), **options)


def test_a_small_basis_is_allowed_where_it_is_never_full() -> None:
    """A run of three products, or an operator of three rows, has no need of a fourth vector."""
    assert extreme_eigenvalues(diagonal(SPREAD), random_start(200), max_steps=3, max_basis=3).steps == 3
    assert extreme_eigenvalues(dense(np.diag([1.0, 2, 3])), np.ones(3), max_basis=3).converged


def check_device(dtype: Any) -> None:
    """Compare with NumPy in float64, through restarts; neither may depend on where the basis lies."""
    epsilon = float(np.finfo(dtype).eps)
    values, asked = jnp.asarray(SPREAD, dtype), []

    def matvec(vector: jax.Array) -> jax.Array:
        asked.append((isinstance(vector, jax.Array), vector.dtype))
        return values * vector

    options: dict[str, Any] = {"largest": 2, "smallest": 2, "tolerance": 100 * epsilon, "max_steps": 2000}
    start = jnp.asarray(random_start(200), dtype)
    result = extreme_eigenvalues(matvec, start, max_basis=12, vectors=True, **options)
    assert result.converged
    assert result.steps > 12
    assert set(asked) == {(True, np.dtype(dtype))}
    assert isinstance(result.vectors, jax.Array)
    assert result.vectors.dtype == dtype
    host = extreme_eigenvalues(diagonal(SPREAD), random_start(200), max_basis=12, **options)
    slack = 10 * 200 * epsilon * 10  # as in ``rounding``
    np.testing.assert_allclose(result.values, host.values, rtol=0, atol=100 * epsilon * 10 + slack)
    vectors = np.asarray(result.vectors, np.float64)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(4), rtol=0, atol=100 * epsilon)
    residuals = np.linalg.norm(vectors * SPREAD - result.values[:, None] * vectors, axis=1)
    assert (residuals <= result.residuals + slack).all()


def test_device_arrays_in_float32() -> None:
    check_device(np.float32)


@pytest.mark.usefixtures("float64")
def test_device_arrays_in_float64() -> None:
    check_device(np.float64)


@pytest.mark.usefixtures("float64")
def test_the_device_takes_the_same_steps_as_the_host() -> None:
    """The coefficients of both agree where the tridiagonal matrix has not yet amplified rounding."""
    matrix, start = random_symmetric(50), random_start(50, 1)
    options: dict[str, Any] = {"tolerance": 0.0, "max_steps": 15}
    host = extreme_eigenvalues(dense(matrix), start, **options)
    on_device = jnp.asarray(matrix)
    device = extreme_eigenvalues(lambda v: on_device @ v, jnp.asarray(start), **options)
    np.testing.assert_allclose(device.alphas, host.alphas, rtol=0, atol=1e-9)
    np.testing.assert_allclose(device.betas, host.betas, rtol=0, atol=1e-9)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
def test_an_outlier_does_not_spoil_orthogonality(on_device: bool) -> None:
    """One pass of Gram-Schmidt against a vector that dominates leaves its rounding, and ghosts of it, behind."""
    values = np.append(np.linspace(0, 1, 60), 1e8)
    xp: Any = jnp if on_device else np
    kept, start = xp.asarray(values), xp.asarray(random_start(61))
    result = extreme_eigenvalues(
        lambda v: kept * v, start, largest=4, tolerance=1e-9, max_steps=500, max_basis=61, vectors=True
    )
    vectors = np.asarray(result.vectors)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(4), rtol=0, atol=1e-12)
    # Rounding of the products is relative to the outlier: 1e8 times 1e-16, some hundred times.
    np.testing.assert_allclose(result.values, ends(values, 4, 0), rtol=1e-12, atol=1e-6)


@pytest.mark.parametrize(("largest", "smallest"), [(1, 0), (0, 1), (2, 2)])
def test_a_bounded_basis_costs_little(largest: int, smallest: int) -> None:
    """A third of the spare rows is kept at each end that is wanted, not only the wanted vectors."""
    options: dict[str, Any] = {"largest": largest, "smallest": smallest, "tolerance": 1e-9, "max_steps": 2000}
    start, steps = random_start(200), []
    for max_basis in (200, 16):
        steps.append(extreme_eigenvalues(diagonal(SPREAD), start, max_basis=max_basis, **options).steps)
    assert steps[0] <= steps[1] <= 1.4 * steps[0]  # measured: 1.06 to 1.28; without the spare rows 1.6 to 2


@pytest.mark.parametrize("max_basis", [100, 6], ids=["one basis", "restarts"])
def test_asymmetry_tells_rounding_from_a_wrong_operator(max_basis: int) -> None:
    """It never exceeds ``||A - A^T||``, and sees a skew part of 1e-4 of the operator's size."""
    matrix, start = random_symmetric(40), random_start(40, 1)
    size = np.abs(np.linalg.eigvalsh(matrix)).max()
    skew = np.triu(np.random.default_rng(2).normal(size=(40, 40)), 1)
    skew = 1e-4 * size * (skew - skew.T) / np.linalg.norm(skew - skew.T, 2)
    options: dict[str, Any] = {"tolerance": 1e-3, "max_basis": max_basis}
    assert extreme_eigenvalues(lambda v: matrix @ v, start, **options).asymmetry < 1e-13
    found = extreme_eigenvalues(lambda v: (matrix + skew) @ v, start, **options)
    assert 1e-6 < found.asymmetry < 2.01e-4 * size / np.abs(found.values).max()
    whole = extreme_eigenvalues(lambda v: (matrix + skew) @ v, start, tolerance=0.0)  # of which nothing else is left
    np.testing.assert_allclose(whole.residuals, whole.asymmetry * size * np.sqrt(40), rtol=0.01)
    assert not whole.converged


def test_what_is_found_at_both_ends_is_not_found_again() -> None:
    """A projector on one direction, as of one example's Gauss-Newton matrix, has two eigenvalues."""
    start = np.random.default_rng(0).standard_normal(6)
    found = extreme_eigenvalues(lambda v: np.eye(6)[0] * v[0], start, largest=2, smallest=2)
    np.testing.assert_allclose(found.values, [1, 0, 0, 0], atol=1e-12)


def test_a_multiple_eigenvalue_is_looked_for_after_restarts_too() -> None:
    """More steps than there are parameters say nothing where the basis was bounded."""
    diagonal = np.append(np.arange(1.0, 19.0), [20.0, 20.0])
    start = np.random.default_rng(0).standard_normal(20)
    options = {"max_basis": 6, "tolerance": 1e-12, "max_steps": 2000}
    found = extreme_eigenvalues(lambda v: diagonal * v, start, largest=2, **options)
    np.testing.assert_allclose(found.values, [20, 20], rtol=1e-9)


@pytest.mark.parametrize("stop", ["residual", "error"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_copy_is_found_of_spectra_of_few_values(stop: Any, dtype: Any) -> None:
    """At both ends, zero and negative ones too, where all that is left of the operator may be its rounding."""
    rng = np.random.default_rng(0)
    for trial in range(200):
        size = int(rng.integers(2, 9))
        values, rotation = rng.integers(-3, 4, size), np.linalg.qr(rng.normal(size=(size, size)))[0]
        matrix = np.diag(values) if trial % 3 else (rotation * values) @ rotation.T
        largest = int(rng.integers(0, size + 1))
        smallest = int(rng.integers(largest == 0, size - largest + 1)) if largest < size else 0
        options: dict[str, Any] = {"largest": largest, "smallest": smallest, "tolerance": 1e-5, "stop": stop}
        found = extreme_eigenvalues(dense(matrix.astype(dtype)), random_start(size, trial).astype(dtype), **options)
        assert found.converged
        np.testing.assert_allclose(found.values, ends(values, largest, smallest), atol=1e-3)


@pytest.mark.parametrize("scale", [1e-25, 1e22])
def test_the_device_finds_what_float32_cannot_square(scale: float) -> None:
    diagonal = jnp.asarray(scale * np.arange(1.0, 51.0), jnp.float32)
    start = jnp.asarray(np.random.default_rng(0).standard_normal(50), jnp.float32)
    found = extreme_eigenvalues(lambda v: diagonal * v, start, tolerance=1e-4, max_steps=50)
    np.testing.assert_allclose(found.values, 50 * scale, rtol=1e-3)


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
@pytest.mark.parametrize("stop", ["residual", "error"])
def test_there_are_as_many_values_as_were_asked_for_however_few_differ(on_device: bool, stop: Any) -> None:
    """A Krylov space has one dimension for each distinct eigenvalue; another one, orthogonal to it, has the rest."""
    xp: Any = jnp if on_device else np
    start = xp.asarray(random_start(10), np.float32)
    same = extreme_eigenvalues(lambda v: 2 * v, start, largest=3, smallest=1, stop=stop, vectors=True)
    np.testing.assert_allclose(same.values, [2, 2, 2, 2], rtol=1e-6)
    two = xp.asarray(np.repeat([3.0, 0.0], 5), np.float32)
    found = extreme_eigenvalues(lambda v: two * v, start, largest=3, smallest=3, stop=stop, vectors=True)
    np.testing.assert_allclose(found.values, [3, 3, 3, 0, 0, 0], atol=1e-6)
    assert same.converged
    assert found.converged
    assert same.asymmetry < 1e-6
    assert isinstance(found.vectors, jax.Array) == on_device
    for end in (found.vectors[:3], found.vectors[3:], same.vectors[:3]):
        np.testing.assert_allclose(np.asarray(end) @ np.asarray(end).T, np.eye(3), atol=1e-5)


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
@pytest.mark.parametrize("options", [{"max_steps": 2}, {"multiple": False}])
def test_what_was_not_found_is_not_a_number_at_its_place(on_device: bool, options: dict[str, Any]) -> None:
    """So that the first ones are those of the upper end, wherever it stopped."""
    xp: Any = jnp if on_device else np
    two = xp.asarray(np.repeat([3.0, 0.0], 5), np.float32)
    start = xp.asarray(random_start(10), np.float32)
    found = extreme_eigenvalues(lambda v: two * v, start, largest=3, smallest=4, vectors=True, **options)
    np.testing.assert_allclose(found.values, [3, 0, np.nan, 0, 3, np.nan, np.nan], atol=1e-6)
    np.testing.assert_array_equal(np.isnan(found.residuals), np.isnan(found.values))
    np.testing.assert_array_equal(np.isnan(found.vectors).all(axis=1), np.isnan(found.values))
    assert not found.converged
