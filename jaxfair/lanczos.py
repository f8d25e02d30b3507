"""Lanczos: from a symmetric matrix-vector product to extreme eigenvalues with error bounds. Knows no networks."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxfair.errors import JaxfairError

MatVec = Callable[[np.ndarray], np.ndarray]


class EigenResult(NamedTuple):
    """Largest eigenvalues and whether to believe them.

    Attributes:
        values: the k largest (algebraic) Ritz values, largest first, shape (k,).
        residuals: ``||A v - value v||`` of each Ritz pair; an eigenvalue lies within this distance of the value.
        steps: matrix-vector products used.
        converged: whether every residual is at most ``tolerance * |value|``, or the space was exhausted.
        alphas, betas: the tridiagonal matrix, shapes (steps,) and (steps,); the last beta is the next coupling.
    """

    values: np.ndarray
    residuals: np.ndarray
    steps: int
    converged: bool
    alphas: np.ndarray
    betas: np.ndarray


def largest_eigenvalues(
    matvec: MatVec, start: Float[np.ndarray, " p"], *, k: int = 1, tolerance: float = 1e-3, max_steps: int = 100
) -> EigenResult:
    """Find the ``k`` largest (algebraic) eigenvalues of a symmetric operator.

    Vectors are kept in the precision of ``start`` and orthogonalised twice against all earlier ones; coefficients are
    float64. The residual of a Ritz pair is ``beta_m |s_m|``, s_m the last component of the tridiagonal matrix's
    eigenvector (Parlett 1998, ch. 13).

    Args:
        matvec: the operator; must return the same result for the same vector.
        start: any vector with a component along what is sought.
        k: number of eigenvalues.
        tolerance: relative residual to reach.
        max_steps: products at most; the basis takes ``max_steps * p`` numbers of memory.

    Raises:
        JaxfairError: the start vector is zero or not finite, a product is not finite, or k exceeds the size.
    """
    size = start.size
    if not 1 <= k <= size:
        raise JaxfairError(f"{k} eigenvalues were asked of an operator of size {size}; ask for 1 to {size}.")
    if max_steps < 1:
        raise JaxfairError(f"At most {max_steps} Lanczos steps were allowed; allow at least 1.")
    norm = float(np.linalg.norm(start.astype(np.float64)))
    if not np.isfinite(norm) or norm == 0:
        raise JaxfairError(f"The Lanczos start vector has norm {norm}; give a finite vector that is not zero.")
    basis = np.empty((min(max_steps, size), size), start.dtype)
    basis[0] = start / norm
    alphas, betas = [], []
    epsilon = np.finfo(start.dtype).eps
    for step in range(len(basis)):
        product = np.asarray(matvec(basis[step]))
        if not np.isfinite(product).all():
            raise JaxfairError(f"The matrix-vector product of Lanczos step {step + 1} has values that are not finite.")
        alphas.append(float(np.vdot(basis[step].astype(np.float64), product.astype(np.float64))))
        rest = product
        for _ in range(2):
            rest = rest - basis[: step + 1].T @ (basis[: step + 1] @ rest)
        betas.append(float(np.linalg.norm(rest.astype(np.float64))))
        values, residuals = _ritz(alphas, betas, k)
        # An invariant subspace: nothing is left but rounding of the product.
        scale = max(np.abs(alphas).max(), max(betas), np.finfo(start.dtype).tiny)
        exhausted = len(values) == k and (betas[-1] <= 10 * epsilon * scale or step + 1 == size)
        converged = len(values) == k and bool(exhausted or (residuals <= tolerance * np.abs(values)).all())
        if converged or betas[-1] <= 10 * epsilon * scale or step + 1 == len(basis):
            break
        basis[step + 1] = rest / betas[-1]
    return EigenResult(values, residuals, len(alphas), converged, np.array(alphas), np.array(betas))


def _ritz(alphas: list[float], betas: list[float], k: int) -> tuple[np.ndarray, np.ndarray]:
    from scipy.linalg import eigh_tridiagonal

    values, vectors = eigh_tridiagonal(np.array(alphas), np.array(betas[:-1]))
    return values[::-1][:k], betas[-1] * np.abs(vectors[-1, ::-1][:k])
