"""Spectral densities and traces of symmetric operators, from random probes. Knows no networks."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxfair.curvature.lanczos import MatVec, Vector, as_vector, checked_product, extreme_eigenvalues
from jaxfair.errors import JaxfairError
from jaxfair.inputs import as_values, quoted
from jaxfair.options import Count, Positive, checked


class Quadrature(NamedTuple):
    """Gauss quadrature of an operator's spectral measure, from several random start vectors.

    Attributes:
        nodes: Places at which the measure has its mass, shape (starts, steps).
        weights: Mass at each node, shape (starts, steps); each row sums to 1.
    """

    nodes: np.ndarray
    weights: np.ndarray


@checked
def stochastic_quadrature(matvec: MatVec, starts: Sequence[Vector], *, steps: Count = 64) -> Quadrature:
    """Approximate the spectral measure by stochastic Lanczos quadrature (Ubaru, Chen and Saad 2017).

    Args:
        matvec: The operator, ``(p,) -> (p,)``.
        starts: Random vectors of shape (p,) with independent entries of mean 0 and equal variance.
        steps: Number of products for each start; moments up to ``2 steps - 1`` are exact for its vector.

    Raises:
        JaxfairError: There is no start vector, or Lanczos refuses one of them or a product.
    """
    from scipy.linalg import eigh_tridiagonal

    starts = _as_vectors(starts, "start vector")
    nodes, weights = np.zeros((2, len(starts), min(steps, starts[0].size)))
    for i, start in enumerate(starts):
        result = extreme_eigenvalues(matvec, start, tolerance=0.0, max_steps=steps, max_basis=steps)
        found, vectors = eigh_tridiagonal(result.alphas, result.betas[:-1])
        nodes[i, : len(found)], weights[i, : len(found)] = found, vectors[0] ** 2
        nodes[i, len(found) :] = found[-1]  # an invariant space: the missing nodes have weight 0
    return Quadrature(nodes, weights)


@checked
def spectral_density(quadrature: Quadrature, grid: np.ndarray, width: Positive) -> np.ndarray:
    """Return the density on a grid of shape (n,): every node is a Gaussian, and the starts are averaged.

    Args:
        quadrature: What ``stochastic_quadrature`` found.
        grid: Where the density is wanted, shape (n,).
        width: Standard deviation of the Gaussians, in the eigenvalues' unit.

    Raises:
        JaxfairError: The grid is no list of numbers, or the width is not above 0.
    """
    if (grid := as_values(grid, "points of the grid")).ndim != 1:
        raise JaxfairError(f"The grid has shape {grid.shape}; give a list of numbers, shape (n,).")
    distance = (grid[:, None, None] - quadrature.nodes) / width
    bumps = np.exp(-(distance**2) / 2) / (width * np.sqrt(2 * np.pi))
    return (bumps * quadrature.weights).sum(axis=-1).mean(axis=-1)


class TraceEstimate(NamedTuple):
    """Hutchinson's estimate of a trace and its standard error over the probes (NaN for one)."""

    value: float
    standard_error: float


@checked
def stochastic_trace(matvec: MatVec, probes: Sequence[Vector]) -> TraceEstimate:
    """Estimate the trace by ``mean of v . A v`` over random probes with E[v v^T] = I (Hutchinson 1990).

    Args:
        matvec: The operator, ``(p,) -> (p,)``.
        probes: Random vectors of shape (p,), such as signs or normal numbers.

    Raises:
        JaxfairError: There is no probe.
    """
    probes = _as_vectors(probes, "probe")
    products = [
        float(np.vdot(np.asarray(v, np.float64), np.asarray(checked_product(matvec, v), np.float64))) for v in probes
    ]
    error = np.std(products, ddof=1) / np.sqrt(len(products)) if len(products) > 1 else np.nan
    return TraceEstimate(float(np.mean(products)), float(error))


def _as_vectors(vectors: Sequence[Vector], what: str) -> list[Vector]:
    if not len(vectors):
        raise JaxfairError(f"There are no {what}s; give at least one.")
    found = [as_vector(vector, what) for vector in vectors]
    if len(sizes := {vector.size for vector in found}) > 1:
        raise JaxfairError(f"The {what}s have {quoted(sorted(sizes))} numbers; give vectors of one length.")
    return found
