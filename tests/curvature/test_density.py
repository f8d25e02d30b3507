"""Spectral measures and traces against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from jaxfair.curvature.density import Quadrature, spectral_density, stochastic_quadrature, stochastic_trace
from jaxfair.curvature.lanczos import MatVec

RNG = np.random.default_rng(0)


def dense(matrix: np.ndarray) -> MatVec:
    return lambda vector: matrix @ vector


def random_symmetric(size: int) -> np.ndarray:
    """Return a matrix of spectral norm 1, so that its powers have comparable roundings."""
    matrix = np.random.default_rng(size).standard_normal((size, size))
    return (matrix + matrix.T) / np.linalg.norm(matrix + matrix.T, 2)


def rademacher(count: int, size: int) -> list[np.ndarray]:
    return list(np.random.default_rng(1).choice([-1.0, 1.0], (count, size)))


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_moments_are_exact_up_to_twice_the_steps(steps: int) -> None:
    """``sum_j w_j t_j^k = v^T A^k v / v^T v`` for k < 2 steps, of every start; the next moment differs."""
    matrix, starts = random_symmetric(30), list(RNG.standard_normal((3, 30)))
    found = stochastic_quadrature(dense(matrix), starts, steps=steps)
    assert found.nodes.shape == found.weights.shape == (3, steps)
    assert (found.weights >= 0).all()
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-13)
    for nodes, weights, v in zip(*found, starts, strict=True):
        for k in range(2 * steps):
            moment = v @ np.linalg.matrix_power(matrix, k) @ v / (v @ v)
            # Numbers of size at most 1 after a hundred roundings.
            np.testing.assert_allclose(weights @ nodes**k, moment, rtol=0, atol=1e-13)
        beyond = v @ np.linalg.matrix_power(matrix, 2 * steps) @ v / (v @ v)
        assert abs(weights @ nodes ** (2 * steps) - beyond) > 1e-6


@pytest.mark.parametrize("steps", [12, 64])
def test_the_whole_space_gives_the_spectral_measure(steps: int) -> None:
    """At each eigenvalue of a diagonal matrix, the start's squared component; more steps than rows change nothing."""
    diagonal, start = np.linspace(-2, 3, 12), RNG.standard_normal(12)
    found = stochastic_quadrature(dense(np.diag(diagonal)), [start], steps=steps)
    assert found.nodes.shape == (1, 12)
    np.testing.assert_allclose(found.nodes[0], diagonal, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.weights[0], start**2 / (start @ start), rtol=0, atol=1e-12)


def test_identity() -> None:
    """The Krylov space has one dimension; nodes that do not exist weigh nothing."""
    found = stochastic_quadrature(lambda v: v, list(RNG.standard_normal((2, 9))), steps=4)
    np.testing.assert_allclose(found.nodes, 1, rtol=1e-14)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-14)


def test_multiplicities_are_found_exactly_with_rademacher_starts() -> None:
    """Every entry has square 1, so a start weighs each eigenvalue of a diagonal matrix by its multiplicity."""
    diagonal = np.repeat([-3.0, 0, 5], [2, 5, 1])
    found = stochastic_quadrature(dense(np.diag(diagonal)), rademacher(4, 8), steps=6)
    for value, share in ((-3, 2 / 8), (0, 5 / 8), (5, 1 / 8)):
        near = np.abs(found.nodes - value) < 1e-10
        np.testing.assert_allclose((found.weights * near).sum(axis=1), share, atol=1e-12)


def test_an_outlier_that_converges_early_does_not_end_the_run() -> None:
    """The bulk, which is as far from the largest eigenvalue as can be, still gets its nodes."""
    diagonal = np.append(np.linspace(0, 1, 99), 1e6)
    found = stochastic_quadrature(dense(np.diag(diagonal)), [np.ones(100)], steps=20)
    assert (np.diff(found.nodes[0]) > 0).all()
    # Moments of the bulk, whose nodes know 1e6 only to its rounding, 1e-10 each.
    for k in (0, 1, 2):
        bulk = found.nodes[0] < 2
        moment = found.weights[0, bulk] @ found.nodes[0, bulk] ** k
        np.testing.assert_allclose(moment, (diagonal[:-1] ** k).sum() / 100, atol=1e-8)


def test_density_is_a_mixture_of_normal_densities() -> None:
    """Averaged over the starts; ``width`` is the standard deviation."""
    quadrature = Quadrature(np.array([[-1.0, 2.0], [0.0, 4.0]]), np.array([[0.25, 0.75], [0.5, 0.5]]))
    grid = np.linspace(-3, 6, 50)
    expected = sum(
        weight / 2 * norm.pdf(grid, node, 0.3) for node, weight in ((-1, 0.25), (2, 0.75), (0, 0.5), (4, 0.5))
    )
    np.testing.assert_allclose(spectral_density(quadrature, grid, 0.3), expected, rtol=1e-12, atol=1e-300)


def test_density_integrates_to_one_and_peaks_at_the_eigenvalues() -> None:
    diagonal = np.repeat([-3.0, 0, 5], [2, 5, 1])
    found = stochastic_quadrature(dense(np.diag(diagonal)), rademacher(4, 8), steps=6)
    grid = np.linspace(-6, 8, 2801)
    density = spectral_density(found, grid, 0.2)
    assert density.shape == grid.shape
    # The trapezoid rule is exact to rounding for normal densities on a grid this fine that ends 15 widths away.
    np.testing.assert_allclose(np.trapezoid(density, grid), 1, rtol=1e-12)
    inner = density[1:-1]
    peaks = grid[1:-1][(inner > density[:-2]) & (inner > density[2:]) & (inner > 1e-6)]
    np.testing.assert_allclose(peaks, [-3, 0, 5], atol=grid[1] - grid[0])


def test_arrays_on_the_device() -> None:
    """In float32: the measure of a matrix of norm 1 is known to some hundred of its roundings, 1e-7 each."""
    matrix, starts = random_symmetric(30), rademacher(2, 30)
    expected = stochastic_quadrature(dense(matrix), starts, steps=5)
    narrow = jnp.asarray(matrix, jnp.float32)

    @jax.jit
    def matvec(v: jax.Array) -> jax.Array:
        return jnp.matmul(narrow, v, precision="highest")

    found = stochastic_quadrature(matvec, [jnp.asarray(v, jnp.float32) for v in starts], steps=5)
    np.testing.assert_allclose(found.nodes, expected.nodes, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.weights, expected.weights, rtol=0, atol=1e-5)
    trace = stochastic_trace(matvec, [jnp.asarray(v, jnp.float32) for v in starts])
    np.testing.assert_allclose(trace, stochastic_trace(dense(matrix), starts), rtol=0, atol=1e-4)


def test_trace_of_a_diagonal_matrix_is_exact_for_rademacher_probes() -> None:
    diagonal = np.arange(-3.0, 9)
    found = stochastic_trace(dense(np.diag(diagonal)), rademacher(3, 12))
    assert (found.value, found.standard_error) == (diagonal.sum(), 0)  # whole numbers


def test_trace_is_unbiased_and_knows_its_error() -> None:
    """The variance of a Rademacher probe is ``2 sum_{i != j} a_ij^2``; the estimate of it is good to some percent."""
    matrix, count = random_symmetric(20), 4000
    found = stochastic_trace(dense(matrix), rademacher(count, 20))
    variance = 2 * ((matrix**2).sum() - (np.diag(matrix) ** 2).sum())
    # The sample variance of 4000 probes with kurtosis below 10 is right to 5%, its root to 2.5%: four times that.
    np.testing.assert_allclose(found.standard_error, np.sqrt(variance / count), rtol=0.1)
    assert abs(found.value - np.trace(matrix)) <= 4 * found.standard_error


def test_few_probes() -> None:
    """The error of a mean of two is half their distance (one degree of freedom); one probe knows no error."""
    matrix, probes = random_symmetric(20), list(RNG.standard_normal((2, 20)))
    first, second = (probe @ matrix @ probe for probe in probes)
    two, one = (stochastic_trace(dense(matrix), probes[:count]) for count in (2, 1))
    np.testing.assert_allclose(two, [(first + second) / 2, abs(first - second) / 2], rtol=1e-12)
    np.testing.assert_allclose(one.value, first, rtol=1e-12)
    assert np.isnan(one.standard_error)
