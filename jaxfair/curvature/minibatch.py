"""The estimator of Das et al.'s code: curvature of groups batch by batch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxfair import groups, losses
from jaxfair.curvature import lanczos
from jaxfair.curvature.checks import checked_examples
from jaxfair.curvature.operators import GroupOperator, make_plan
from jaxfair.curvature.programs import LogitsFn, as_pytree
from jaxfair.errors import JaxfairError, warn
from jaxfair.options import Seed, Tolerance, checked


class MinibatchCurvature(NamedTuple):
    """The estimator of Das et al.'s code: it depends on the batch size and on the order of the examples.

    Attributes:
        gradient_norm: Mean over batches of the norm of the group's gradient in a batch, shape (groups,); NaN for a
            group without an example.
        eigenvalues: For each group the eigenvalue of largest magnitude of every batch that holds the group.
    """

    gradient_norm: np.ndarray
    eigenvalues: tuple[np.ndarray, ...]


@checked
def minibatch_curvature(
    logits_fn: LogitsFn,
    params: Any,
    x: Any,
    y: Any,
    group: Any,
    *,
    batch_size: int = 256,
    tolerance: Tolerance = 1e-2,
    max_steps: int = 100,
    seed: Seed = 0,
    precision: str = "highest",
) -> MinibatchCurvature:
    """Compute group gradient norms and eigenvalues batch by batch, as the code of Das et al. 2024 does.

    Use ``group_report`` unless you reproduce their figures.

    Args:
        logits_fn: ``(params, x) -> logits`` of shape (n, classes), in evaluation mode.
        params: Pytree of floating-point arrays.
        x: Inputs, a pytree of arrays with n examples along the first axis.
        y: Labels, integers of shape (n,).
        group: Group of each example, integers 0..G-1, shape (n,).
        batch_size: Number of examples of a batch; batches are taken in the examples' order.
        tolerance: Relative residual at which Lanczos stops.
        max_steps: Number of Hessian-vector products at most, for each group of a batch.
        seed: Seed of the start vector, which is the same for all of them.
        precision: Precision of matrix products on accelerators.

    Raises:
        JaxfairError: Shapes or types do not match, groups or labels are out of range, or the batch size is below 1.
    """
    params, x, y = checked_examples(as_pytree(logits_fn), params, x, y, losses.cross_entropy)
    group, y = groups.as_numbers(group, len(y)), jnp.asarray(y)
    if batch_size < 1:
        raise JaxfairError(f"The batch size is {batch_size}; give at least 1.")
    count = int(group.max(initial=0)) + 1
    logits_fn = as_pytree(logits_fn)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    first = jax.random.normal(jax.random.key(seed), (parameters,), jnp.result_type(*jax.tree.leaves(params)))
    size, both = min(batch_size, len(group)), int(parameters > 1)
    lanczos.check_counts(parameters, 1 + both, max_steps)
    plan = make_plan(logits_fn, params, x, y, count=size, chunk_size=None, precision=precision)
    norms, values = [[[] for _ in range(count)] for _ in range(2)]
    unsure = 0
    for begin in range(0, len(group), batch_size):
        inside = (np.arange(len(group)) >= begin) & (np.arange(len(group)) < begin + batch_size)
        for g in np.unique(group[inside]):
            member = (inside & (group == g)).astype(first.dtype)
            operator = GroupOperator(logits_fn, params, x, y, member / member.sum(), plan, precision=precision)
            norms[g].append(lanczos.norm(operator.loss_and_gradient()[1]))
            found = lanczos.extreme_eigenvalues(
                operator.product, first, largest=1, smallest=both, tolerance=tolerance, max_steps=max_steps
            )
            values[g].append(found.values[np.argmax(np.abs(found.values))])
            unsure += not found.converged
    if unsure:
        warn(f"{unsure} of {sum(map(len, values))} eigenvalues have not converged; allow more steps, or use float64.")
    means = [np.mean(found) if found else np.nan for found in norms]
    return MinibatchCurvature(np.array(means), tuple(np.array(found) for found in values))
