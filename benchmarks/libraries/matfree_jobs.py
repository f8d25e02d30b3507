"""matfree: Lanczos in JAX (Krämer 2024) on a Hessian product of ours that its loops can trace, the pass kept."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from matfree import decomp, eig

from benchmarks.jobs import PRODUCTS, Found, Job, Method
from benchmarks.libraries.jaxfair_jobs import DENSITY_STEPS, DENSITY_VECTORS
from benchmarks.problems import GROUPS, Problem
from jaxfair import losses
from jaxfair.curvature.operators import as_pytree

DISTRIBUTION = "matfree"


@jax.jit
def _keep(logits_fn: Any, params: Any, x: Any, y: Any) -> Any:
    """Return the Hessian product of the mean loss as a linear function of flat vectors, its primal pass done."""
    flat, unravel = ravel_pytree(params)

    def loss(p: Any) -> jax.Array:
        return losses.cross_entropy(logits_fn(unravel(p), x), y).mean()

    return jax.linearize(jax.grad(loss), flat)[1]


@cache
def _lanczos(steps: int) -> Any:
    eigenpairs = eig.eigh_partial(decomp.tridiag_sym(steps))
    return jax.jit(lambda kept, v: eigenpairs(lambda s, linear: linear(s), v, kept)[0])


def _affordable(problem: Problem) -> bool:
    """Whether its compiled loop can be waited for: XLA:CPU's convolutions are tens of times slower inside of one."""
    return jax.default_backend() != "cpu" or problem.spec.enlarge == 1 or not problem.spec.resnet


def _start(problem: Problem, seed: int) -> jax.Array:
    size = sum(leaf.size for leaf in jax.tree.leaves(problem.params))
    return jax.random.rademacher(jax.random.key(seed), (size,), jnp.float32)


def eigenvalues(problem: Problem) -> dict[str, Method]:
    """Partial eigendecompositions of a given number of products."""
    if not _affordable(problem):
        return {}
    logits_fn, start = as_pytree(problem.logits_fn), _start(problem, 0)

    def find(steps: float) -> Found:
        values = []
        for group in range(GROUPS):
            kept = _keep(logits_fn, problem.params, *problem.members(group))
            values.append(float(_lanczos(int(steps))(kept, start).max()))
        return Found(np.array(values), steps)

    return {"eigh_partial": Method(find, PRODUCTS, None, "products")}


def density(problem: Problem) -> dict[str, Job]:
    """Nodes of its stochastic Lanczos quadrature."""
    if not _affordable(problem):
        return {}
    logits_fn = as_pytree(problem.logits_fn)

    def run() -> Any:
        kept = _keep(logits_fn, problem.params, *problem.batch)
        return [_lanczos(DENSITY_STEPS)(kept, _start(problem, seed)) for seed in range(DENSITY_VECTORS)]

    return {"quadrature": Job("largest node", run, np.max, 6 * DENSITY_STEPS * DENSITY_VECTORS)}
