"""Spectral densities and traces of symmetric operators, from random probes. Knows no networks."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxfair.curvature.lanczos import MatVec, Vector, extreme_eigenvalues
from jaxfair.errors import JaxfairError
from jaxfair.options import checked


class Quadrature(NamedTuple):
    """Gauss quadrature of an operator's spectral measure, from several random start vectors.

    Attributes:
        nodes: Places at which the measure has its mass, shape (starts, steps).
        weights: Mass at each node, shape (starts, steps); each row sums to 1.
    """

    nodes: np.ndarray
    weights: np.ndarray


@checked
def stochastic_quadrature(matvec: MatVec, starts: Sequence[Vector], *, steps: int = 64) -> Quadrature:
    """Approximate the spectral measure by stochastic Lanczos quadrature (Ubaru, Chen and Saad 2017).

    Args:
        matvec: The operator, ``(p,) -> (p,)``.
        starts: Random vectors of shape (p,) with independent entries of mean 0 and equal variance.
        steps: Number of products for each start; moments up to ``2 steps - 1`` are exact for its vector.

    Raises:
        JaxfairError: There is no start vector, or Lanczos refuses one of them or a product.
    """
    from scipy.linalg import eigh_tridiagonal

    if not len(starts):
        raise JaxfairError("There are no start vectors; give at least one.")
    nodes, weights = np.zeros((2, len(starts), min(steps, starts[0].size)))
    for i, start in enumerate(starts):
        result = extreme_eigenvalues(matvec, start, tolerance=0.0, max_steps=steps, max_basis=steps)
        found, vectors = eigh_tridiagonal(result.alphas, result.betas[:-1])
        nodes[i, : len(found)], weights[i, : len(found)] = found, vectors[0] ** 2
        nodes[i, len(found) :] = found[-1]  # an invariant space: the missing nodes have weight 0
    return Quadrature(nodes, weights)


@checked
def spectral_density(quadrature: Quadrature, grid: np.ndarray, width: float) -> np.ndarray:
    """Return the density on a grid of shape (n,): every node is a Gaussian, and the starts are averaged.

    Args:
        quadrature: What ``stochastic_quadrature`` found.
        grid: Where the density is wanted, shape (n,).
        width: Standard deviation of the Gaussians, in the eigenvalues' unit.
    """
    distance = (np.asarray(grid)[:, None, None] - quadrature.nodes) / width
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
    if not len(probes):
        raise JaxfairError("There are no probes; give at least one.")
    products = [float(np.vdot(np.asarray(v, np.float64), np.asarray(matvec(v), np.float64))) for v in probes]
    error = np.std(products, ddof=1) / np.sqrt(len(products)) if len(products) > 1 else np.nan
    return TraceEstimate(float(np.mean(products)), float(error))
