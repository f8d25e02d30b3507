"""Gradient and curvature of every group's loss.

A group is a weight vector over examples, so one compiled function serves all groups. Sums run over chunks of the
data, never means of means, so results do not depend on the chunk size beyond rounding.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from jaxfair import lanczos, losses
from jaxfair.errors import JaxfairError

LogitsFn = Callable[[Any, Any], Float[Array, "n c"]]


class GroupCurvature(NamedTuple):
    """What is known of each group's loss ``J(theta; D_a)`` at the given parameters; arrays of length num_groups.

    Attributes:
        loss: mean cross-entropy, in nats.
        gradient_norm: L2 norm of the gradient of that mean.
        top_eigenvalue: largest (algebraic) eigenvalue of its Hessian.
        top_eigenvalue_residual: an eigenvalue lies within this distance of it.
        converged: whether the residual met the tolerance.
        steps: Hessian-vector products used.
        alphas, betas: Lanczos coefficients, shape (num_groups, largest number of steps), padded with NaN.
    """

    loss: np.ndarray
    gradient_norm: np.ndarray
    top_eigenvalue: np.ndarray
    top_eigenvalue_residual: np.ndarray
    converged: np.ndarray
    steps: np.ndarray
    alphas: np.ndarray
    betas: np.ndarray


def group_curvature(
    logits_fn: LogitsFn,
    params: Any,
    x: Float[Array, "n *shape"],
    y: Int[Array, " n"],
    weights: Float[Array, "g n"],
    *,
    tolerance: float = 1e-3,
    max_steps: int = 100,
    chunk_size: int = 256,
    seed: int = 0,
    precision: str = "highest",
) -> GroupCurvature:
    """Compute loss, gradient norm and largest Hessian eigenvalue of every group.

    Args:
        logits_fn: ``(params, x) -> logits`` in evaluation mode; deterministic.
        params: pytree of floating-point arrays; derivatives are with respect to all of it.
        x: inputs.
        y: labels.
        weights: ``groups.group_weights(group, num_groups)``.
        tolerance: relative residual at which Lanczos stops.
        max_steps: Hessian-vector products at most, for each group.
        chunk_size: examples differentiated at once; bounds memory.
        seed: of the random start vector.
        precision: of matrix products on accelerators; ``highest`` is full float32.

    Raises:
        JaxfairError: shapes do not match, or a value is not finite.
    """
    if not len(x) == len(y) == weights.shape[1]:
        raise JaxfairError(f"There are {len(x)} inputs, {len(y)} labels and weights for {weights.shape[1]}.")
    if chunk_size < 1 or max_steps < 1:
        raise JaxfairError(f"chunk_size is {chunk_size} and max_steps is {max_steps}; both must be at least 1.")
    if not isinstance(logits_fn, Partial):
        logits_fn = Partial(logits_fn)
    group_rows = np.asarray(weights)
    if not (group_rows != 0).any(axis=1).all():
        raise JaxfairError(
            f"Group {np.flatnonzero(~(group_rows != 0).any(axis=1)).tolist()} has no example of any weight."
        )
    size = min(chunk_size, int((group_rows != 0).sum(axis=1).max()))
    rng = np.random.default_rng(seed)
    flat, unravel = ravel_pytree(params)
    # Random, not the gradient: along a lesser eigenvector the residual is small at once, and Lanczos would stop there.
    noise = rng.standard_normal(flat.size).astype(flat.dtype)
    rows = []
    with jax.default_matmul_precision(precision):
        for group, group_weight in enumerate(group_rows):
            chunks = list(_chunks(x, y, group_weight, size))
            loss, gradient = _sum(_loss_and_gradient(logits_fn, params, *chunk) for chunk in chunks)
            norm = np.linalg.norm(np.asarray(gradient, np.float64))
            if not np.isfinite(loss) or not np.isfinite(norm):
                raise JaxfairError(f"The loss or gradient of group {group} is not finite; check data and parameters.")

            def product(vector: np.ndarray, chunks: list = chunks) -> np.ndarray:
                v = unravel(jnp.asarray(vector))
                (value,) = _sum((_hessian_product(logits_fn, params, v, *chunk),) for chunk in chunks)
                return np.asarray(value)

            rows.append(
                (loss, norm, lanczos.largest_eigenvalues(product, noise, tolerance=tolerance, max_steps=max_steps))
            )
    return _collect(rows)


def _collect(rows: list[tuple[Any, Any, lanczos.EigenResult]]) -> GroupCurvature:
    results = [result for _, _, result in rows]
    coefficients = np.full((2, len(rows), max(r.steps for r in results)), np.nan)
    for row, result in enumerate(results):
        coefficients[:, row, : result.steps] = result.alphas, result.betas
    return GroupCurvature(
        loss=np.array([float(loss) for loss, _, _ in rows]),
        gradient_norm=np.array([norm for _, norm, _ in rows]),
        top_eigenvalue=np.array([r.values[0] for r in results]),
        top_eigenvalue_residual=np.array([r.residuals[0] for r in results]),
        converged=np.array([r.converged for r in results]),
        steps=np.array([r.steps for r in results]),
        alphas=coefficients[0],
        betas=coefficients[1],
    )


def _chunks(x: Array, y: Array, weight: np.ndarray, size: int) -> Iterator[tuple[Array, Array, Array]]:
    """Cut the examples whose weight is not 0 into chunks of one size, so that one program serves all groups.

    The last chunk is padded by an example of weight 0. Examples of other groups would cost full price for nothing.
    """
    members = np.flatnonzero(weight)
    for start in range(0, len(members), size):
        index = members[start : start + size]
        pad = size - len(index)
        w = np.pad(weight[index], (0, pad))
        index = np.pad(index, (0, pad), mode="edge")
        yield x[index], y[index], jnp.asarray(w)


def _sum(parts: Any) -> Any:
    return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *parts)


def _weighted_loss(logits_fn: Partial, params: Any, x: Array, y: Array, w: Array) -> Float[Array, ""]:
    return jnp.vdot(w, losses.cross_entropy(logits_fn(params, x), y))


@jax.jit
def _loss_and_gradient(logits_fn: Partial, params: Any, x: Array, y: Array, w: Array) -> tuple[Array, Array]:
    loss, gradient = jax.value_and_grad(partial(_weighted_loss, logits_fn))(params, x, y, w)
    return loss, ravel_pytree(gradient)[0]


@jax.jit
def _hessian_product(logits_fn: Partial, params: Any, v: Any, x: Array, y: Array, w: Array) -> Float[Array, " p"]:
    gradient = jax.grad(partial(_weighted_loss, logits_fn))
    return ravel_pytree(jax.jvp(lambda p: gradient(p, x, y, w), (params,), (v,))[1])[0]
