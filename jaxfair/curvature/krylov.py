"""The orthonormal basis of a Krylov space, on the host in NumPy or on the device in JAX."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Vector = Any  # Float[Array, " p"] | Float[np.ndarray, " p"]


def norm(vector: Vector) -> float:
    """Return the L2 norm, summed in float64.

    By einsum, as all sums over long vectors here: the threads of NumPy's BLAS wait busily for a while after each call,
    which takes the cores from the products that follow.
    """
    host = np.asarray(vector, np.float64)
    return float(np.sqrt(np.einsum("i,i->", host, host)))


class Basis:
    """Orthonormal rows, in NumPy or on the device, and the last product's remainder."""

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
        self._beta = norm(start)
        self._put(0)

    @property
    def last(self) -> Vector:
        return self.rows[self.count - 1]

    def split(self, product: Vector) -> tuple[np.ndarray, float]:
        """Return the product's coefficients in the basis and the length of what remains."""
        if self.device:
            coefficients, self._rest, beta = _orthogonalise(self.rows, product)
            self._beta = float(beta)
            return np.asarray(coefficients, np.float64)[: self.count], self._beta
        rows = self.rows[: self.count]
        rest, coefficients = np.asarray(product), np.zeros(self.count)
        for _ in range(2):
            part = np.einsum("ij,j->i", rows, rest)
            rest = rest - np.einsum("i,ij->j", part, rows)
            coefficients += part
        self._rest, self._beta = rest, norm(rest)
        return coefficients, self._beta

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
            self.rows = _set_row(self.rows, row, self._rest / self._beta)
        else:
            self.rows[row] = self._rest / self._beta


@jax.jit
def _orthogonalise(rows: jax.Array, product: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    # Rows that are not used yet are zero and change nothing. Full precision: TF32 would spoil orthogonality.
    dot = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    first = dot(rows, product)
    rest = product - dot(first, rows)
    second = dot(rows, rest)
    rest = rest - dot(second, rows)
    return first + second, rest, jnp.linalg.norm(rest)


@jax.jit
def _combine(rotation: jax.Array, rows: jax.Array) -> jax.Array:
    return jnp.matmul(rotation.T, rows, precision=jax.lax.Precision.HIGHEST)


@partial(jax.jit, donate_argnums=0)
def _set_row(rows: jax.Array, row: jax.Array | int, value: jax.Array) -> jax.Array:
    return rows.at[row].set(value)
