"""Lanczos: from symmetric matrix-vector products to eigenvalues with error bounds.

Knows no networks. An operator is a function of one vector; vectors are NumPy or JAX arrays of shape (p,), and stay
where the start vector is: on the host in NumPy, on the device in JAX.
"""

from collections.abc import Callable, Generator, Iterable
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxfair.curvature.config import Stop
from jaxfair.errors import JaxfairError
from jaxfair.inputs import as_array, as_values, check_outside_of_jit, unboxed
from jaxfair.models import asking
from jaxfair.options import Tolerance, checked

Vector = Any  # Float[Array, " p"] | Float[np.ndarray, " p"]
MatVec = Callable[[Vector], Vector]

SAFETY = 10
"""Of the estimate of an error that ``stop="error"`` compares: with less, a lesser eigenvalue is taken for the largest
several times as often; more saves no products beside the residual (docs/numerical_stability.md, *When Lanczos
stops*)."""


SQUARES = float(np.finfo(float).tiny / np.finfo(float).eps)
"""Of a sum of squares, the least that has lost nothing to numbers too small for float64."""
OWN_SEED = 0x1A9C205
"""Of further random vectors: one that nobody draws a start vector with, of which nothing else would be left."""


Found = TypeVar("Found")


class EigenResult(NamedTuple):
    """Extreme eigenvalues and whether to believe them.

    Attributes:
        values: Ritz values, or what they are about to become with ``stop="error"``, shape (k,): the largest
            (algebraic) first, in falling order, then the smallest, in rising order. NaN, as the residual and the vector
            are, where the steps, or without ``multiple`` the Krylov space, have ended before there were as many.
        residuals: ``||A v - value v||`` of each Ritz pair, shape (k,); an eigenvalue lies within this distance of the
            value. At least the noise of the products, which is taken for ``asymmetry`` times the square root of the
            number of basis vectors: of numbers as large as that at random it is about the norm.
        steps: Number of matrix-vector products used.
        converged: Whether the stopping rule was met for every value that was asked for; where the Krylov space is
            exhausted, up to the rounding of the products (ten of the type's epsilons times the largest magnitude).
            Never where their noise alone is more, unless the asymmetry is below a hundred of these epsilons.
        alphas: Diagonal of the projected matrix, one number a step, shape (steps,); without the steps in which
            further eigenvectors of a multiple eigenvalue were looked for.
        betas: Off-diagonal that follows each step, shape (steps,). With ``alphas`` it is the tridiagonal matrix of the
            Krylov space as long as the basis was not restarted, or of several that are orthogonal where one was
            exhausted before there were as many values as were asked for at one end.
        asymmetry: Largest ``|q_i . A q_j - q_j . A q_i|`` over the basis vectors, relative to the largest Ritz value's
            magnitude: rounding, unless the operator is not symmetric.
        vectors: Ritz vectors of ``values``, shape (k, p); None unless asked for.
    """

    values: np.ndarray
    residuals: np.ndarray
    steps: int
    converged: bool
    alphas: np.ndarray
    betas: np.ndarray
    asymmetry: float = 0.0
    vectors: Any = None


Search = Generator[None, None, EigenResult]


@checked
def extreme_eigenvalues(
    matvec: MatVec,
    start: Vector,
    *,
    largest: int = 1,
    smallest: int = 0,
    tolerance: Tolerance = 1e-3,
    stop: Stop = "residual",
    max_steps: int = 100,
    max_basis: int = 100,
    vectors: bool = False,
    multiple: bool = True,
) -> EigenResult:
    """Find the largest and smallest (algebraic) eigenvalues of a symmetric operator.

    Thick-restart Lanczos (Wu and Simon 2000) with full orthogonalisation, done twice. The residual of a Ritz pair is
    ``beta_m |s_m|``, s_m the last component of the projected matrix's eigenvector (Parlett 1998, ch. 13): a bound on
    the distance to some eigenvalue. That no larger one was missed follows from a start vector with a component along
    it, so start at random unless you know better.

    Args:
        matvec: The operator, ``(p,) -> (p,)``; it must return the same result for the same vector.
        start: Any vector of shape (p,) that is not zero.
        largest: Number of largest eigenvalues to find.
        smallest: Number of smallest eigenvalues to find.
        tolerance: Error to reach for each value, relative to the value itself at the upper end, and at the lower end,
            where values may be near zero, to the largest magnitude seen.
        stop: ``residual`` compares the residual, a bound, with the tolerance. ``error`` goes beyond the Ritz values
            (``_continued``) and compares an estimate of the error (``_estimated``), at most the residual, which takes
            one or two products less; its values can be beyond the spectrum by that error, and they are those of a
            lesser eigenvector more often.
        max_steps: Number of products at most.
        max_basis: Number of basis vectors kept, ``max_basis * p`` numbers of memory; beyond it the basis is restarted.
        vectors: Whether to return the Ritz vectors.
        multiple: Whether to search what is orthogonal to the values found too, where several are asked for at one end:
            a multiple eigenvalue shows only once in a Krylov space. It takes about as many products again.

    Raises:
        JaxfairError: The start vector is zero, not finite or of half precision, a product is not finite or not real, or
            a number is impossible.
    """
    start = as_vector(start, "start vector")
    several = multiple and max(largest, smallest) > 1
    random = np.random.default_rng(OWN_SEED)
    options = {"tolerance": tolerance, "stop": stop, "max_basis": max_basis}
    run = partial(search, matvec, start, largest, smallest, max_steps=max_steps, **options)
    (found,) = in_step([run(vectors=vectors or several, further=random if several else None)])
    for end in range(2 if several else 0):  # one Krylov space holds one eigenvector of each eigenvalue
        slots = np.arange(largest) if end == 0 else largest + np.arange(smallest)
        while len(slots) > 1 and found.converged:
            found, changed = _with_missed(matvec, start, found, slots, max_steps, end == 0, random, options)
            if not changed:
                break
    return found if vectors else found._replace(vectors=None)


def in_step(searches: Iterable[Generator[None, None, Found]], at_once: int = 1) -> list[Found]:
    """Return what searches find that go on in turn, a step each: a device computes for all while one is decided about.

    A search yields between what it asks of the device and the numbers that it waits for. Each has its own vectors, so
    that it finds the same bits as alone. The next ``at_once`` are asked for when all of those before have ended.
    """
    found, left = dict[int, Found](), iter(enumerate(searches))
    while going := dict(islice(left, at_once)):
        while going:
            for i, each in list(going.items()):
                try:
                    next(each)
                except StopIteration as ended:
                    found[i] = ended.value
                    del going[i]
    return [found[i] for i in sorted(found)]


def as_vector(values: Any, what: str) -> Vector:
    """Return a vector as an array of floating-point numbers, of JAX if it is one.

    Raises:
        JaxfairError: It is no array of numbers of shape (p,).
    """
    vector = unboxed(as_array(values, f"numbers of the {what}"))
    if isinstance(vector, jax.Array):
        check_outside_of_jit()
    if not jnp.issubdtype(vector.dtype, jnp.floating):
        vector = as_values(vector, f"numbers of the {what}")
    if vector.ndim != 1 or not vector.size:
        raise JaxfairError(f"The {what} has shape {vector.shape}; give one of shape (p,).")
    return vector


def checked_product(matvec: MatVec, vector: Vector) -> Vector:
    """Return the product with a vector; raise a JaxfairError if there is none of real numbers in the vector's shape."""
    with asking("The matrix-vector product", "a function of a vector of shape (p,) that returns another"):
        # Of NumPy's a copy, which the function may write into: the vector is a row of the basis.
        product = matvec(vector.copy() if isinstance(vector, np.ndarray) else vector)
    if np.shape(product) != vector.shape:
        given = f"has shape {np.shape(product)}" if np.shape(product) else f"is a {type(product).__name__}"
        raise JaxfairError(f"The matrix-vector product {given}; expected the vector's shape, {vector.shape}.")
    dtype = product.dtype if hasattr(product, "dtype") else np.asarray(product).dtype
    if not any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_)):
        raise JaxfairError(f"The matrix-vector product has the type {dtype}; return real numbers.")
    return product


def _with_missed(
    matvec: MatVec,
    start: Vector,
    found: EigenResult,
    slots: np.ndarray,
    max_steps: int,
    upper: bool,
    random: np.random.Generator,
    options: Any,
) -> tuple[EigenResult, bool]:
    """Look for an eigenvalue beyond the least extreme one of ``slots`` in what is orthogonal to all that were found.

    A multiple eigenvalue has further eigenvectors there, which no Krylov space of the start vector contains. One that
    is found takes the place of the least extreme; where the steps run out first, nothing has converged.
    """
    whole = len(found.alphas) >= start.size <= min(options["max_basis"], max_steps)  # without a restart it is all there
    known = _independent(found.vectors)
    if len(known) == start.size or whole:
        return found, False

    def apart(vector: Vector) -> Vector:
        with jax.default_matmul_precision("highest"):
            return vector - (known @ vector) @ known

    fresh = apart(apart(random.standard_normal(start.size).astype(start.dtype)))
    fresh = jnp.asarray(fresh) if isinstance(start, jax.Array) else np.asarray(fresh)
    left = max_steps - found.steps
    if left < 1:
        return found._replace(converged=False), False
    size, ends = float(np.abs(found.values).max()), (1, 0) if upper else (0, 1)

    def rest(vector: Vector) -> Vector:
        inside = apart(vector)
        # Rounding along what is known has the other end's value, or it would be found as a 0 where all else is beyond.
        return apart(checked_product(matvec, inside)) + (-size if upper else size) * (vector - inside)

    (more,) = in_step([search(rest, fresh, *ends, size, max_steps=left, vectors=True, **options)])
    worst, value = slots[-1], more.values[0]
    beyond = value - found.values[worst] if upper else found.values[worst] - value
    spent = found._replace(steps=found.steps + more.steps, converged=more.converged)
    if beyond <= options["tolerance"] * size + found.residuals[worst]:
        return spent, False
    values, residuals, vectors = found.values.copy(), found.residuals.copy(), np.array(found.vectors)
    values[worst], residuals[worst], vectors[worst] = value, more.residuals[0], np.asarray(more.vectors)[0]
    order = np.arange(len(values))
    order[slots] = slots[np.argsort(-values[slots] if upper else values[slots], kind="stable")]
    arrays = jnp.asarray(vectors[order]) if isinstance(start, jax.Array) else vectors[order]
    return spent._replace(values=values[order], residuals=residuals[order], vectors=arrays), True


def _independent(vectors: Any) -> Any:
    """Return orthonormal rows that span what rows do: one found at both ends of the spectrum is there twice."""
    columns, triangle = np.linalg.qr(np.asarray(vectors, np.float64).T)
    rows = columns.T[np.abs(np.diag(triangle)) > 1e-3].astype(vectors.dtype)
    return jnp.asarray(rows) if isinstance(vectors, jax.Array) else rows


def search(
    matvec: MatVec,
    start: Vector,
    largest: int,
    smallest: int,
    size: float = 0.0,
    *,
    tolerance: float,
    stop: Stop,
    max_steps: int,
    max_basis: int,
    vectors: bool = False,
    further: np.random.Generator | None = None,
) -> Search:
    """Find eigenvalues of the Krylov space of one start vector, as ``extreme_eigenvalues`` describes, for ``in_step``.

    Magnitudes are at least ``size``, which is known of the operator: what is left of it may be rounding alone. Where
    ``further`` is given, a space that is exhausted before there is a value for each that is asked for at one end is
    joined by that of a vector that this draws, orthogonal to it.
    """
    rows = _rows(start, largest, smallest, max_steps, max_basis)
    basis, projected = _Basis(start, rows), np.zeros((rows, rows))
    coupling = np.zeros(0)  # of the next basis vector with those before it, if the operator is symmetric
    alphas, betas, asymmetry = [], [], 0.0
    while True:
        basis.split(checked_product(matvec, basis.last))
        yield
        coefficients, beta = basis.parts()
        if not (np.isfinite(coefficients).all() and np.isfinite(beta)):
            raise JaxfairError(
                f"The matrix-vector product of Lanczos step {len(alphas) + 1} has values that are not finite; check "
                "the inputs and parameters that the matrix is of."
            )
        m = basis.count
        asymmetry = max(asymmetry, np.abs(coefficients[:-1] - coupling).max(initial=0.0))
        projected[:m, m - 1] = projected[m - 1, :m] = coefficients
        alphas.append(float(coefficients[-1]))
        betas.append(beta)
        typical = float(np.mean(alphas[1:] or 0)) if stop == "error" else None
        ritz = _ritz(projected[:m, :m], beta, basis, largest, smallest, size, tolerance, typical)
        # Where nothing is left, the largest may be the smallest as well: all are one.
        wanted = max(largest, smallest) if ritz.exhausted else largest + smallest
        converged = ritz.met and m >= min(wanted, start.size)
        joined = further is not None and ritz.exhausted and m < max(largest, smallest)
        if (ritz.exhausted and not joined) or converged or len(alphas) == max_steps:
            relative = float(asymmetry / ritz.magnitude)
            noise = float(asymmetry * np.sqrt(m))
            quiet = relative <= 100 * basis.epsilon or bool((noise <= tolerance * ritz.scale).all())
            whole = partial(_whole, known=np.r_[:largest, :smallest] < m)  # m steps have as many values at each end
            kept = whole(basis.combine(ritz.rotation[:, ritz.index])) if vectors else None
            found = whole(ritz.values), whole(np.maximum(ritz.residuals, noise))
            arrays = np.array(alphas), np.array(betas)
            return EigenResult(*found, len(alphas), converged and quiet, *arrays, relative, kept)
        if joined and further is not None:
            basis.split(basis.like(further.standard_normal(start.size)))
            beta = 0.0
        coupling = np.append(np.zeros(m - 1), beta)
        if m == rows:
            coupling = beta * _restart(basis, projected, ritz, smallest, largest)
        basis.append()


def _whole(rows: Any, known: np.ndarray) -> Any:
    """Return a row for each eigenvalue that was asked for, NaN where nothing is ``known`` of it."""
    if known.all():
        return rows
    found = np.full((len(known), *rows.shape[1:]), np.nan, rows.dtype)
    found[known] = np.asarray(rows)
    return jnp.asarray(found) if isinstance(rows, jax.Array) else found


class _Ritz(NamedTuple):
    """What the projected matrix says after a step.

    Attributes:
        spectrum: Its eigenvalues, rising, shape (m,).
        rotation: Its eigenvectors, shape (m, m).
        index: Which of them were asked for, shape (k,).
        values, residuals: Of these, as in ``EigenResult``, but for the noise.
        scale: Of these, what the tolerance is relative to.
        magnitude: The largest that was seen.
        met: Whether all of them are as near as was asked.
        exhausted: Whether nothing is left of the product but rounding, so that no further step is possible.
    """

    spectrum: np.ndarray
    rotation: np.ndarray
    index: np.ndarray
    values: np.ndarray
    residuals: np.ndarray
    scale: np.ndarray
    magnitude: float
    met: bool
    exhausted: bool


def _ritz(
    projected: np.ndarray,
    beta: float,
    basis: "_Basis",
    largest: int,
    smallest: int,
    least: float,
    tolerance: float,
    typical: float | None,
) -> _Ritz:
    """Solve the projected matrix, whose coupling with the next row is ``beta``, of an operator of ``least`` this size.

    ``typical`` is the mean diagonal after the first step where the stopping rule is ``error``, None otherwise.
    """
    m, size = len(projected), basis.rows.shape[1]
    spectrum, rotation = np.linalg.eigh(projected)
    tops = min(largest, m)
    index = np.concatenate([np.arange(m)[::-1][:tops], np.arange(m)[:smallest]]).astype(int)
    residuals, magnitude = beta * np.abs(rotation[-1, index]), max(np.abs(spectrum).max(), least, basis.tiny)
    # Nothing is left but rounding of the product: the Krylov space is invariant.
    exhausted = bool(beta <= 10 * basis.epsilon * max(magnitude, beta) or m == size)
    values, errors = spectrum[index], residuals
    if typical is not None and not exhausted:
        # Within the residual lies an eigenvalue; what is beyond is of the new row, and of no Ritz vector.
        ends = spectrum[index] - residuals, spectrum[index] + residuals
        values = np.clip(_continued(projected, beta, spectrum, index, tops, typical), *ends)
        errors = _estimated(residuals, spectrum, index, tops)
        residuals = np.hypot(residuals, values - spectrum[index])  # a Ritz vector's residual is orthogonal to it
    scale = np.where(np.arange(len(index)) < tops, np.abs(spectrum[index]), magnitude)
    met = exhausted or bool((errors <= tolerance * scale).all())  # below rounding no residual can fall
    return _Ritz(spectrum, rotation, index, values, residuals, scale, magnitude, met, exhausted)


def _restart(basis: "_Basis", projected: np.ndarray, ritz: _Ritz, smallest: int, largest: int) -> np.ndarray:
    """Keep the Ritz vectors nearest to the ends that are wanted; return the share that each has of the remainder."""
    rows = len(ritz.spectrum)
    low, high = (n + (rows - smallest - largest) // 3 if n else 0 for n in (smallest, largest))
    keep = np.r_[:low, rows - high : rows]
    basis.restart(ritz.rotation[:, keep])
    projected[:] = 0
    np.fill_diagonal(projected[: len(keep), : len(keep)], ritz.spectrum[keep])
    return ritz.rotation[-1, keep]


def _continued(
    projected: np.ndarray, beta: float, values: np.ndarray, index: np.ndarray, tops: int, typical: float
) -> np.ndarray:
    """Return what the next product is about to make of Ritz values.

    The projected matrix is bordered by one row, whose coupling ``beta`` is known. Its diagonal is not, before the
    product is computed: it is taken for the Ritz value at the other end, and for the ``typical`` one so far. Where
    Lanczos is on its way to an outlier of the spectrum the eigenvalue mostly lies between what these two give, whose
    middle is returned.
    """
    m = len(values)
    if m < 2:
        return values[index]
    bordered, middles = np.pad(projected, (0, 1)), []
    bordered[m, m - 1] = bordered[m - 1, m] = beta
    for slot, ritz in enumerate(values[index]):
        far, place = (values[0], -1 - slot) if slot < tops else (values[-1], slot - tops)
        # Kept short of the value itself, beyond which the new row would be taken for it.
        share = np.clip((typical - far) / (ritz - far), 0, 0.75) if ritz != far else 0.0
        ends = []
        for bordered[m, m] in (far, far + share * (ritz - far)):
            ends.append(np.linalg.eigvalsh(bordered)[place])
        middles.append((ends[0] + ends[1]) / 2)
    return np.array(middles)


def _estimated(residuals: np.ndarray, values: np.ndarray, index: np.ndarray, tops: int) -> np.ndarray:
    """Return estimates of how far Ritz values are off: ``SAFETY residual^2 / gap``, and no more than the residual.

    The gap is that to the nearest other Ritz value, of which the first steps know little: they may have seen no trace
    yet of an eigenvalue beyond, which a residual far above the tolerance leaves room for. At the lower end, where the
    tolerance is relative to a magnitude that may dwarf all eigenvalues there, it is no less than half of the residual.
    """
    if len(values) < 2:  # one Ritz value has no gap
        return np.full(len(index), np.inf)
    apart = np.abs(values[index, None] - values)
    apart[np.arange(len(index)), index] = np.inf
    gap = np.maximum(apart.min(axis=1), np.finfo(float).tiny)
    least = np.where(np.arange(len(index)) < tops, 0, 0.5)
    return residuals * np.clip(SAFETY * (residuals / gap), least, 1)


def check_counts(size: int, wanted: int, max_steps: int, max_basis: int = 100) -> None:
    """Raise a JaxfairError for a number of eigenvalues, steps or vectors that Lanczos cannot do with."""
    if not 1 <= wanted <= size:
        raise JaxfairError(f"{wanted} eigenvalues were asked of an operator of size {size}; ask for 1 to {size}.")
    if max_steps < 1:
        raise JaxfairError(f"At most {max_steps} Lanczos steps were allowed; allow at least 1.")
    if max_basis < min(wanted + 3, max_steps, size):
        raise JaxfairError(f"A basis of {max_basis} vectors is too small for {wanted} eigenvalues; allow {wanted + 3}.")


def _rows(start: Vector, largest: int, smallest: int, max_steps: int, max_basis: int) -> int:
    """Return how many rows the basis has; refuse what Lanczos cannot do."""
    check_counts(start.size, min(largest, smallest, 0) or largest + smallest, max_steps, max_basis)
    if start.dtype.itemsize < 4:
        raise JaxfairError(f"The Lanczos start vector has the type {start.dtype}; give float32 or float64.")
    length = norm(start)
    if not np.isfinite(length) or length == 0:
        raise JaxfairError(f"The Lanczos start vector has norm {length}; give a finite vector that is not zero.")
    kind = jnp.finfo(start.dtype)
    if not float(kind.tiny) <= length <= float(kind.max):  # divided by it, all of the vector would be 0 or infinite
        raise JaxfairError(f"The Lanczos start vector has norm {length:.3g}, which {kind.dtype} cannot hold; scale it.")
    return min(max_steps, max_basis, start.size)


def norm(vector: Vector) -> float:
    """Return the L2 norm: of a JAX array where it lies, of a NumPy array summed in float64.

    By einsum, as all sums over long vectors here: the threads of NumPy's BLAS wait busily for a while after each call,
    which takes the cores from the products that follow.
    """
    if isinstance(vector, jax.Array) and jax.default_backend() != "cpu":  # a copy to the host would take far longer
        return float(_device_norm(vector))
    host = np.asarray(vector, np.float64)
    square = float(np.einsum("i,i->", host, host))
    if SQUARES < square < np.inf:
        return float(np.sqrt(square))
    largest = float(np.abs(host).max(initial=0.0))
    return largest * norm(host / largest) if 0 < largest < np.inf else float(np.sqrt(square))


def _device_norm(vector: Vector) -> Any:
    """Return the L2 norm of numbers scaled by a power of two, whose squares neither overflow nor vanish."""
    largest = jnp.abs(vector).max()
    exponent = jnp.where((largest > 0) & jnp.isfinite(largest), jnp.frexp(largest)[1], 0)
    most = int(jnp.finfo(vector.dtype).maxexp) - 8
    scale = jnp.ldexp(jnp.ones((), vector.dtype), jnp.clip(exponent, -most, most))
    return scale * jnp.linalg.norm(vector / scale)


class _Basis:
    """Orthonormal rows, in NumPy or on the device, and the last product's remainder.

    Attributes:
        count: Number of rows so far.
        last: The newest of them.
    """

    def __init__(self, start: Vector, rows: int) -> None:
        self.count = 1
        self.device = isinstance(start, jax.Array)
        info = jnp.finfo(start.dtype) if self.device else np.finfo(start.dtype)
        self.epsilon, self.tiny = float(info.eps), float(info.tiny)
        self._most = rows
        # On the host, zeros take no memory before they are written; on the device the basis grows as it is needed.
        self.rows = (
            jnp.zeros((min(rows, 8), start.size), start.dtype)
            if self.device
            else np.zeros((rows, start.size), start.dtype)
        )
        self._rest = start
        self._beta: Any = start.dtype.type(norm(start))  # the remainder's length
        self._put(0)

    def split(self, product: Vector) -> None:
        """Begin to split a product into its part in the basis and what remains."""
        if self.device:
            self._parts, self._rest, self._beta = _orthogonalise(self.rows, product)
            return
        rows = self.rows[: self.count]
        rest, coefficients = np.asarray(product), np.zeros(self.count)
        for _ in range(2):
            part = np.einsum("ij,j->i", rows, rest)
            rest = rest - np.einsum("i,ij->j", part, rows)
            coefficients += part
        self._rest, self._beta = rest, norm(rest)
        self._parts = np.append(coefficients, self._beta)

    def parts(self) -> tuple[np.ndarray, float]:
        """Wait for the product's coefficients in the basis and the length of what remains."""
        parts = np.asarray(self._parts, np.float64)
        return parts[: self.count], float(parts[-1])

    def like(self, vector: np.ndarray) -> Vector:
        """Return a vector of NumPy as the rows are, in type and place."""
        own = vector.astype(self.rows.dtype)
        return jnp.asarray(own) if self.device else own

    def append(self) -> None:
        self._put(self.count)
        self.count += 1

    def combine(self, rotation: np.ndarray) -> Vector:
        rows = self.rows[: self.count]
        return (
            _combine(jnp.asarray(rotation, rows.dtype), rows) if self.device else rotation.T.astype(rows.dtype) @ rows
        )

    def restart(self, rotation: np.ndarray) -> None:
        kept = self.combine(rotation)
        self.count = len(kept)
        if self.device:
            self.rows = jnp.zeros_like(self.rows).at[: self.count].set(kept)
        else:
            self.rows[: self.count] = kept

    def _put(self, row: int) -> None:
        if self.device:
            if row == len(self.rows):
                more = min(2 * len(self.rows), self._most) - len(self.rows)
                self.rows = jnp.pad(self.rows, ((0, more), (0, 0)))
            self.rows, self.last = _set_row(self.rows, row, self._rest, self._beta)
        else:
            self.rows[row] = self._rest / self._beta
            self.last = self.rows[row]


@jax.jit
def _orthogonalise(rows: jax.Array, product: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return a product's coefficients with the length of what remains behind them, what remains, and its length.

    Rows that are not used yet are zero and change nothing. Full precision: TF32 would spoil orthogonality.
    """
    dot = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    first = dot(rows, product)
    rest = product - dot(first, rows)
    second = dot(rows, rest)
    rest = rest - dot(second, rows)
    length = _device_norm(rest)
    return jnp.append(first + second, length), rest, length  # one array goes to the host, not two


@jax.jit
def _combine(rotation: jax.Array, rows: jax.Array) -> jax.Array:
    return jnp.matmul(rotation.T, rows, precision=jax.lax.Precision.HIGHEST)


@partial(jax.jit, donate_argnums=0)
def _set_row(rows: jax.Array, row: jax.Array | int, rest: jax.Array, beta: jax.Array) -> tuple[jax.Array, jax.Array]:
    vector = (rest / beta).astype(rows.dtype)  # of a product in a wider type, what is kept is what is multiplied next
    return rows.at[row].set(vector), vector
