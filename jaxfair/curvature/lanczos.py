"""Lanczos: from symmetric matrix-vector products to eigenvalues with error bounds.

Knows no networks. An operator is a function of one vector; vectors are NumPy or JAX arrays of shape (p,), and stay
where the start vector is: on the host in NumPy, on the device in JAX.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxfair.curvature.krylov import Basis, Vector, norm
from jaxfair.errors import JaxfairError

MatVec = Callable[[Vector], Vector]
Stop = Literal["residual", "error"]


class EigenResult(NamedTuple):
    """Extreme eigenvalues and whether to believe them.

    Attributes:
        values: Ritz values: the largest (algebraic) first, in falling order, then the smallest, in rising order.
        residuals: ``||A v - value v||`` of each Ritz pair; an eigenvalue lies within this distance of the value.
        steps: matrix-vector products used.
        converged: whether the stopping rule was met for every value that was asked for; where the Krylov space is
            exhausted, up to the rounding of the products (the type's epsilon times the largest magnitude).
        alphas, betas: diagonal and next off-diagonal of every step, shapes (steps,); the tridiagonal matrix of the
            Krylov space as long as the basis was not restarted.
        asymmetry: largest ``|q_i . A q_j - q_j . A q_i|`` over the basis vectors, relative to the largest Ritz value's
            magnitude: rounding, or an operator that is not symmetric and has no business here.
        vectors: Ritz vectors of ``values``, shape (values, p); None unless asked for.
    """

    values: np.ndarray
    residuals: np.ndarray
    steps: int
    converged: bool
    alphas: np.ndarray
    betas: np.ndarray
    asymmetry: float = 0.0
    vectors: Any = None


def extreme_eigenvalues(
    matvec: MatVec,
    start: Vector,
    *,
    largest: int = 1,
    smallest: int = 0,
    tolerance: float = 1e-3,
    stop: Stop = "residual",
    max_steps: int = 100,
    max_basis: int = 100,
    vectors: bool = False,
) -> EigenResult:
    """Find the largest and smallest (algebraic) eigenvalues of a symmetric operator.

    Thick-restart Lanczos (Wu and Simon 2000) with full orthogonalisation, done twice. The residual of a Ritz pair is
    ``beta_m |s_m|``, s_m the last component of the projected matrix's eigenvector (Parlett 1998, ch. 13): a bound on
    the distance to some eigenvalue. That no larger one was missed follows from a start vector with a component along
    it, so start at random unless you know better.

    Args:
        matvec: the operator; must return the same result for the same vector.
        start: any vector that is not zero.
        largest: number of largest eigenvalues.
        smallest: number of smallest eigenvalues.
        tolerance: to reach for each value, relative to the value itself at the upper end, and at the lower end, where
            values may be near zero, to the largest magnitude seen.
        stop: ``residual`` compares the residual, a bound, with the tolerance; ``error`` compares
            ``residual^2 / gap``, an estimate of the error that needs about half the digits.
        max_steps: products at most.
        max_basis: basis vectors kept, ``max_basis * p`` numbers of memory; beyond it the basis is restarted.
        vectors: whether to return the Ritz vectors.

    Raises:
        JaxfairError: the start vector is zero or not finite, a product is not finite, a number is impossible.
    """
    process = _process(start, largest, smallest, tolerance, stop, max_steps, max_basis, vectors)
    product = None
    while True:
        try:
            vector = process.send(product)
        except StopIteration as finished:
            return finished.value
        product = matvec(vector)


def extreme_eigenvalues_together(
    matmat: Callable[[list[Vector]], Sequence[Vector]],
    starts: Sequence[Vector],
    *,
    largest: int = 1,
    smallest: int = 0,
    tolerance: float = 1e-3,
    stop: Stop = "residual",
    max_steps: int = 100,
    max_basis: int = 100,
    vectors: bool = False,
) -> list[EigenResult]:
    """Run several operators or start vectors in step, so that one program can compute all products of a step.

    Args:
        matmat: takes one vector for each start and returns ``A_i v_i`` for each; the shape never changes. A process
            that has converged goes on passing its last vector, whose product is ignored.
        starts: start vectors.
        largest: this and all further arguments as for ``extreme_eigenvalues``.
        smallest: as there.
        tolerance: as there.
        stop: as there.
        max_steps: as there.
        max_basis: as there.
        vectors: as there.
    """
    options = largest, smallest, tolerance, stop, max_steps, max_basis, vectors
    processes = [_process(start, *options) for start in starts]
    current = [next(process) for process in processes]
    results: list[EigenResult | None] = [None] * len(processes)
    while any(result is None for result in results):
        products = matmat(current)
        for i, process in enumerate(processes):
            if results[i] is None:
                try:
                    current[i] = process.send(products[i])
                except StopIteration as finished:
                    results[i] = finished.value
    return [result for result in results if result is not None]


def _process(
    start: Vector,
    largest: int,
    smallest: int,
    tolerance: float,
    stop: Stop,
    max_steps: int,
    max_basis: int,
    vectors: bool,
) -> Generator[Vector, Vector, EigenResult]:
    """Yield the vectors to be multiplied, receive their products, return the result."""
    wanted = largest + smallest
    rows = _checked(start, largest, smallest, max_steps, max_basis)
    basis = Basis(start, rows)
    projected = np.zeros((rows, rows))
    coupling = np.zeros(0)  # of the next basis vector with those before it, if the operator is symmetric
    alphas, betas, asymmetry = [], [], 0.0
    while True:
        product = yield basis.last
        coefficients, beta = basis.split(product)
        if not (np.isfinite(coefficients).all() and np.isfinite(beta)):
            raise JaxfairError(
                f"The matrix-vector product of Lanczos step {len(alphas) + 1} has values that are not finite."
            )
        m = basis.count
        asymmetry = max(asymmetry, np.abs(coefficients[:-1] - coupling).max(initial=0.0))
        projected[:m, m - 1] = projected[m - 1, :m] = coefficients
        alphas.append(float(coefficients[-1]))
        betas.append(beta)
        values, rotation = np.linalg.eigh(projected[:m, :m])
        index = np.concatenate([np.arange(m)[::-1][:largest], np.arange(m)[:smallest]]).astype(int)
        residuals = beta * np.abs(rotation[-1])
        # Nothing is left but rounding of the product: the Krylov space is invariant.
        exhausted = beta <= 10 * basis.epsilon * max(np.abs(values).max(), beta, basis.tiny) or m == start.size
        enough = m >= min(wanted, start.size)
        # Below the rounding of the products no residual can fall.
        floor = basis.epsilon * np.abs(values).max() if exhausted else 0.0
        met = m == start.size or _met(values, np.maximum(residuals - floor, 0), index, largest, tolerance, stop)
        if exhausted or (enough and met) or len(alphas) == max_steps:
            found = basis.combine(rotation[:, index]) if vectors else None
            return EigenResult(
                values=values[index],
                residuals=residuals[index],
                steps=len(alphas),
                converged=bool(enough and met),
                alphas=np.array(alphas),
                betas=np.array(betas),
                asymmetry=float(asymmetry / max(np.abs(values).max(), basis.tiny)),
                vectors=found,
            )
        coupling = np.append(np.zeros(m - 1), beta)
        if m == rows:
            # Keep the Ritz vectors nearest to the ends that are wanted; the remainder couples to them all.
            spare = (rows - wanted) // 3
            keep = np.zeros(m, bool)
            keep[m - (largest + spare if largest else 0) :] = True
            keep[: smallest + spare if smallest else 0] = True
            basis.restart(rotation[:, keep])
            projected[:] = 0
            np.fill_diagonal(projected[: keep.sum(), : keep.sum()], values[keep])
            coupling = beta * rotation[-1, keep]
        basis.append()


def _met(
    values: np.ndarray, residuals: np.ndarray, index: np.ndarray, largest: int, tolerance: float, stop: Stop
) -> bool:
    scale = np.where(np.arange(len(index)) < largest, np.abs(values[index]), np.abs(values).max())
    error = residuals[index]
    if stop == "error":
        if len(values) < 2:
            return False
        distances = np.abs(values[index][:, None] - values[None]) + np.where(
            index[:, None] == np.arange(len(values)), np.inf, 0
        )
        error = np.minimum(error, error**2 / np.maximum(distances.min(axis=1), np.finfo(float).tiny))
    return bool((error <= tolerance * scale).all())


def _checked(start: Vector, largest: int, smallest: int, max_steps: int, max_basis: int) -> int:
    """Return the number of rows of the basis."""
    size, wanted = start.size, largest + smallest
    if min(largest, smallest) < 0 or not 1 <= wanted <= size:
        raise JaxfairError(f"{wanted} eigenvalues were asked of an operator of size {size}; ask for 1 to {size}.")
    if max_steps < 1:
        raise JaxfairError(f"At most {max_steps} Lanczos steps were allowed; allow at least 1.")
    rows = min(max_steps, max_basis, size)
    if max_basis < wanted + 3 and rows < min(max_steps, size):
        raise JaxfairError(f"A basis of {max_basis} vectors is too small for {wanted} eigenvalues; allow {wanted + 3}.")
    length = norm(start)
    if not np.isfinite(length) or length == 0:
        raise JaxfairError(f"The Lanczos start vector has norm {length}; give a finite vector that is not zero.")
    return rows
