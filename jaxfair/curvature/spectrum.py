"""Gradient and curvature of every group's loss.

A group is a weight vector over examples; it pays for its own examples only, and one set of compiled functions serves
all groups, networks of one module, and chunks.
"""

import dataclasses
import math
from collections.abc import Generator, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxfair import losses
from jaxfair.curvature import lanczos
from jaxfair.curvature.checks import checked_examples
from jaxfair.curvature.config import CurvatureConfig
from jaxfair.curvature.operators import GroupOperator, Plan, check_chunk_size, make_plan, memory_bound
from jaxfair.curvature.programs import LogitsFn, LossFn, as_pytree
from jaxfair.errors import JaxfairError
from jaxfair.inputs import as_directions, as_weights, check_lengths, leaves, quoted
from jaxfair.options import checked

SHARE, LEAST, COARSE = 8, 100, 3e-2  # a coarse start: one of so many chunks, examples at least, tolerance
ASIDE = 0.3  # of the random start, relative to a start vector of the user's: it may lack the eigenvector
_Row = tuple[float, float, float, lanczos.EigenResult]
"""A group's loss, its gradient's norm, what the start vector took in the group's products, and what was found."""


class GroupCurvature(NamedTuple):
    """What is known of each group's loss ``J(theta; D_a)`` at the given parameters; arrays of shape (num_groups,).

    Attributes:
        loss: Mean loss; cross-entropy in nats unless another was given.
        gradient_norm: L2 norm of the gradient of that mean.
        top_eigenvalue: Largest (algebraic) eigenvalue of its Hessian.
        top_eigenvalue_residual: Distance from that value within which an eigenvalue lies; at least the noise of the
            products (``lanczos.EigenResult``), all that is left of the Hessian where a model is very confident.
        bottom_eigenvalue: Smallest (algebraic) eigenvalue; NaN unless asked for.
        bottom_eigenvalue_residual: Distance from that value within which an eigenvalue lies.
        converged: Whether the stopping rule was met, and the products' noise is less than that asks for.
        steps: Number of Lanczos steps, which are products with the group's Hessian.
        products: The same with those over a part of the group, each counted as that part.
        asymmetry: Largest difference of the Hessian from its transpose, as ``lanczos.EigenResult`` has it; far above
            the type's rounding, a custom derivative in the model is wrong, or its arithmetic too coarse.
        alphas: Lanczos coefficients, shape (num_groups, largest number of steps), padded with NaN.
        betas: The off-diagonal coefficients, in the same shape.
        vectors: Eigenvector of the largest eigenvalue, shape (num_groups, p), on the host; empty unless asked for.

    Example:
        >>> import numpy as np
        >>> from jaxfair import group_curvature
        >>> w, x, y = np.eye(2), 2 * np.eye(2), np.array([0, 1])
        >>> found = group_curvature(lambda w, x: x @ w, w, x, y, np.full((1, 2), 0.5))
        >>> found.gradient_norm.shape, bool(found.converged[0])
        ((1,), True)
    """

    loss: np.ndarray
    gradient_norm: np.ndarray
    top_eigenvalue: np.ndarray
    top_eigenvalue_residual: np.ndarray
    bottom_eigenvalue: np.ndarray
    bottom_eigenvalue_residual: np.ndarray
    converged: np.ndarray
    steps: np.ndarray
    products: np.ndarray
    asymmetry: np.ndarray
    alphas: np.ndarray
    betas: np.ndarray
    vectors: np.ndarray = np.empty((0, 0))


@checked
def group_curvature(
    logits_fn: LogitsFn,
    params: Any,
    x: Any,
    y: Any,
    weights: Any,
    config: CurvatureConfig = CurvatureConfig(),
    *,
    loss: LossFn = losses.cross_entropy,
    vectors: bool = False,
    starts: Any = None,
) -> GroupCurvature:
    """Compute loss, gradient norm and extreme Hessian eigenvalues of every group.

    Args:
        logits_fn: ``(params, x) -> logits`` of shape (n, classes), deterministic and in evaluation mode, which
            ``group_report`` asks and this takes on trust.
        params: Pytree of floating-point arrays; derivatives are with respect to all of it.
        x: Inputs, a pytree of arrays with n examples along the first axis.
        y: Labels, integers of shape (n,), or the array that ``loss`` takes, n examples along the first axis.
        weights: Weight of each example in each group, shape (groups, n), from ``groups.group_weights``.
        config: How the numbers are found, and how precisely.
        loss: ``(outputs of logits_fn, y) -> losses`` of shape (n,), one for each example. For a loss that is not a
            function of outputs, let ``logits_fn`` compute it from ``x = (inputs, labels)`` and return it here.
        vectors: Whether to return the eigenvectors of the largest eigenvalues, each as large as the parameters.
        starts: A vector for each group to start from instead of the configuration's start, shape (groups, p), such as
            ``vectors`` of the same groups of this network an epoch before: products are saved then. A share of the
            random start is added. As with a gradient start, a lesser eigenvalue may be found.

    Raises:
        JaxfairError: Shapes or types do not match, a group has no weight, or a value is not finite.

    Example:
        >>> import numpy as np
        >>> from jaxfair import CurvatureConfig, group_curvature, group_weights
        >>> x, y = 2 * np.eye(4, 3), np.array([0, 1, 2, 0])
        >>> weights = group_weights(np.array([0, 0, 1, 1]), 2)
        >>> found = group_curvature(lambda w, x: x @ w, np.eye(3), x, y, weights, CurvatureConfig(tolerance=1e-4))
        >>> print(found.gradient_norm.round(3), found.top_eigenvalue.round(3))
        [0.369 0.261] [0.503 0.503]
    """
    check_counts(config, params)
    params, x, y, group_rows = check_examples(logits_fn, params, x, y, weights, loss)
    noise = start_vector(params, config.seed)
    given = [None] * len(group_rows)
    if starts is not None:
        given = as_directions(starts, (len(group_rows), noise.size), "start vectors").astype(noise.dtype)
    plan = _plan(logits_fn, params, x, y, group_rows, config, loss)
    at_once = groups_at_once(plan, group_rows, config, noise.nbytes)
    known: dict[str, Any] = {"loss": loss, "plan": plan, "at_once": at_once}
    pairs = zip(group_losses(logits_fn, params, x, y, group_rows, config, **known), given, strict=True)
    searches = (_search(group, noise, config, near, vectors) for group, near in pairs)
    return _collect(lanczos.in_step(searches, at_once), bottom=config.bottom)


class GroupLoss(NamedTuple):
    """A group's loss at the given parameters, and how it changes with them.

    Attributes:
        loss: Weighted loss.
        gradient: Its flat gradient, shape (p,).
        operator: Its Hessian.
        chunk_size: Number of examples of one chunk of the operator.
    """

    loss: float
    gradient: Any
    operator: GroupOperator
    chunk_size: int


def _plan(
    logits_fn: LogitsFn, params: Any, x: Any, y: Any, group_rows: np.ndarray, config: CurvatureConfig, loss: LossFn
) -> Plan:
    """Return how the examples of every group are cut up."""
    known: dict[str, Any] = {"memory": config.memory, "precision": config.precision, "loss": loss}
    count, size = _most_examples(group_rows), config.chunk_size
    return make_plan(as_pytree(logits_fn), params, x, jnp.asarray(y), count=count, chunk_size=size, **known)


def _most_examples(group_rows: np.ndarray) -> int:
    """Return how many examples the largest group has."""
    return int((group_rows != 0).sum(axis=1).max())


def groups_at_once(plan: Plan, group_rows: np.ndarray, config: CurvatureConfig, vector_bytes: int) -> int:
    """Return how many groups are searched at once: as many as the configuration says, or as fit into its memory."""
    if config.at_once is not None:
        return min(config.at_once, len(group_rows))
    if jax.default_backend() == "cpu":  # whose cores decide about a group while they compute nothing
        return 1
    chunks = -(-_most_examples(group_rows) // plan.chunk_size)
    own = plan.shared_bytes + chunks * plan.kept_bytes + min(config.max_basis, config.max_steps) * vector_bytes
    return int(np.clip(memory_bound(config.memory) // own, 1, len(group_rows)))


def group_losses(
    logits_fn: LogitsFn,
    params: Any,
    x: Any,
    y: Any,
    group_rows: np.ndarray,
    config: CurvatureConfig,
    *,
    loss: LossFn,
    plan: Plan | None = None,
    at_once: int = 1,
) -> Iterator[GroupLoss]:
    """Yield each group's loss, gradient and Hessian, of what ``check_examples`` returned; one plan serves all groups.

    The passes of ``at_once`` groups are kept at once, and forgotten before the next group is asked for.

    Raises:
        JaxfairError: A loss or gradient is not finite.
    """
    logits_fn, loss, y = as_pytree(logits_fn), as_pytree(loss), jnp.asarray(y)
    plan = plan or _plan(logits_fn, params, x, y, group_rows, config, loss)
    options: dict[str, Any] = {"memory": config.memory, "precision": config.precision, "loss": loss}
    kept: list[GroupOperator] = []
    for group, weight in enumerate(group_rows):
        if len(kept) == at_once:  # or a caller's loop variable keeps these passes beside the next group's
            _release(kept)
        operator = GroupOperator(logits_fn, params, x, y, weight, plan, shuffled=config.start == "coarse", **options)
        kept.append(operator)
        value, gradient = operator.loss_and_gradient()
        if not np.isfinite(value) or not np.isfinite(lanczos.norm(gradient)):
            where = operator.not_finite() or "the sum over all chunks"
            raise JaxfairError(
                f"The loss or gradient of group {group} is not finite in {where}; check the inputs and the parameters."
            )
        yield GroupLoss(value, gradient, operator, plan.chunk_size)
    _release(kept)


def _release(operators: list[GroupOperator]) -> None:
    """Forget the passes of operators, and the operators."""
    while operators:
        operators.pop().release()


def _search(
    group: GroupLoss, noise: Any, config: CurvatureConfig, near: Any, vectors: bool
) -> Generator[None, None, _Row]:
    """Search the eigenvalues of a group, for ``lanczos.in_step``; return what ``_collect`` takes of it."""
    start, spent = yield from _start(group, noise, config, near)
    found = yield from search(group.operator.product, start, config, vectors=vectors)
    return group.loss, lanczos.norm(group.gradient), spent, found


def check_counts(config: CurvatureConfig, params: Any) -> None:
    """Raise a JaxfairError for what Lanczos would refuse later, when a pass over the data was made.

    Of the parameters, which may be unchecked yet, only the number counts.
    """
    check_chunk_size(config.chunk_size)
    if config.max_basis < 1:
        raise JaxfairError(f"A basis of {config.max_basis} vectors is too small; allow at least 4.")
    arrays = leaves(params, "parameters")
    if not all(hasattr(leaf, "shape") for leaf in arrays):
        return  # refused as such later
    size = sum(math.prod(leaf.shape) for leaf in arrays)
    if size == 1 and config.bottom:
        raise JaxfairError("There is one parameter, with one eigenvalue; leave bottom=True out, which asks for two.")
    if size:  # no parameters are refused as such, too
        lanczos.check_counts(size, 1 + int(config.bottom), config.max_steps, config.max_basis)


def start_vector(params: Any, seed: int) -> Any:
    """Return the random vector of shape (p,) that Lanczos starts from."""
    arrays = jax.tree.leaves(params)
    size, dtype = sum(array.size for array in arrays), jnp.result_type(*arrays)
    noise = jax.random.normal(jax.random.key(seed), (size,), dtype)
    # On a CPU Lanczos is in NumPy, whose products take the basis as it is, without a copy.
    return np.asarray(noise) if jax.default_backend() == "cpu" else noise


def check_examples(
    logits_fn: LogitsFn, params: Any, x: Any, y: Any, weights: Any, loss: LossFn, *, differentiated: bool = True
) -> tuple[Any, Any, Any, np.ndarray]:
    """Return parameters, inputs, labels and the groups' weights, shape (groups, n), as arrays that fit together.

    Where parameters are not ``differentiated`` they may be a whole network, batch statistics too, without a warning.

    Raises:
        JaxfairError: They do not, a group has no example of any weight, or a loss of the user's is not that of each
            example by itself.
    """
    params, x, y = checked_examples(as_pytree(logits_fn), params, x, y, loss, differentiated=differentiated)
    group_rows = as_weights(weights)
    if group_rows.ndim != 2 or not len(group_rows):
        raise JaxfairError(f"The weights have shape {group_rows.shape}; expected (groups, examples).")
    check_lengths(labels=len(y), weights=group_rows.shape[1])
    if not (group_rows != 0).any(axis=1).all():
        empty = np.flatnonzero(~(group_rows != 0).any(axis=1)).tolist()
        raise JaxfairError(f"Group [{quoted(empty)}] has no example of any weight; leave it out or merge it.")
    return params, x, y, group_rows


def _start(
    group: GroupLoss, noise: Any, config: CurvatureConfig, near: Any
) -> Generator[None, None, tuple[Any, float]]:
    """Return the start vector that is given or that the configuration names, and what it took in the group's products.

    Args:
        group: whose operator it is for.
        noise: the random start.
        config: names another.
        near: a unit vector of the user's; None is none.
    """
    _, gradient, operator, chunk_size = group
    start, norm = noise, lanczos.norm(gradient)
    if near is not None:
        along = near if isinstance(noise, np.ndarray) else jnp.asarray(near)
        return along + ASIDE * noise / lanczos.norm(noise), 0.0
    if config.start != "random" and norm > 0:
        along = np.asarray(gradient) if isinstance(noise, np.ndarray) else gradient
        start = along / norm + noise / lanczos.norm(noise)
    part = -(-operator.chunks // SHARE)
    # Fewer examples would be too few to look like the group.
    if config.start != "coarse" or operator.chunks < SHARE or part * chunk_size < LEAST:
        return start, 0.0
    coarse = dataclasses.replace(config, tolerance=COARSE, stop="error")
    found = yield from search(partial(operator.product, chunks=part), start, coarse, vectors=True)
    return found.vectors.sum(axis=0), found.steps * part / operator.chunks


def eigenvalues(product: lanczos.MatVec, start: Any, config: CurvatureConfig) -> lanczos.EigenResult:
    """Find what a configuration asks for of one operator."""
    return lanczos.in_step([search(product, start, config)])[0]


def search(product: lanczos.MatVec, start: Any, config: CurvatureConfig, *, vectors: bool = False) -> lanczos.Search:
    """Search what a configuration asks for of one operator, for ``lanczos.in_step``."""
    return lanczos.search(
        product,
        start,
        1,
        int(config.bottom),
        tolerance=config.tolerance,
        stop=config.stop,
        max_steps=config.max_steps,
        max_basis=config.max_basis,
        vectors=vectors,
    )


def _collect(rows: list[_Row], *, bottom: bool) -> GroupCurvature:
    results = [result for *_, result in rows]
    coefficients = np.full((2, len(rows), max(r.steps for r in results)), np.nan)
    for row, result in enumerate(results):
        coefficients[:, row, : result.steps] = result.alphas, result.betas
    missing = np.full(len(rows), np.nan)
    return GroupCurvature(
        loss=np.array([loss for loss, *_ in rows]),
        gradient_norm=np.array([norm for _, norm, *_ in rows]),
        top_eigenvalue=np.array([r.values[0] for r in results]),
        top_eigenvalue_residual=np.array([r.residuals[0] for r in results]),
        bottom_eigenvalue=np.array([r.values[-1] for r in results]) if bottom else missing,
        bottom_eigenvalue_residual=np.array([r.residuals[-1] for r in results]) if bottom else missing.copy(),
        converged=np.array([r.converged for r in results]),
        steps=np.array([r.steps for r in results]),
        products=np.array([spent + result.steps for *_, spent, result in rows]),
        asymmetry=np.array([r.asymmetry for r in results]),
        alphas=coefficients[0],
        betas=coefficients[1],
        vectors=np.stack([np.empty(0) if r.vectors is None else np.asarray(r.vectors[0]) for r in results]),
    )
