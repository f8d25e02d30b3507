"""This library."""

import dataclasses
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.jobs import MOST_PRODUCTS, TOLERANCES, Found, Job, Method
from benchmarks.problems import GROUPS, Problem
from jaxfair import margins as distances
from jaxfair.curvature import density as densities
from jaxfair.curvature.config import CurvatureConfig, Start, Stop
from jaxfair.curvature.operators import GIGABYTE, GroupOperator, Kind, as_pytree, make_plan
from jaxfair.curvature.report import GroupReport, group_report
from jaxfair.curvature.spectrum import LEAST, group_curvature
from jaxfair.groups import group_weights
from jaxfair.networks.network import Network
from jaxfair.training.batches import Fixed, run_batches
from jaxfair.training.config import TrainConfig
from jaxfair.training.fit import begin, make_step

DISTRIBUTION = "jaxfair"
MEMORY = 4 * GIGABYTE
BOUND = GIGABYTE // 8
DENSITY_STEPS, DENSITY_VECTORS = 20, 2
SGD: dict[str, Any] = {"learning_rate": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
"""Of the training steps that are timed, in every library."""
STARTS: tuple[Start, ...] = ("random", "coarse")


def operator(
    problem: Problem, kind: Kind = "hessian", memory: int = MEMORY, precision: str = "highest"
) -> GroupOperator:
    """Return the Hessian or Gauss-Newton matrix of the mean loss over the batch."""
    options: dict[str, Any] = {"kind": kind, "precision": precision, "loss": problem.loss}
    x, y = problem.batch
    logits_fn, count = as_pytree(problem.logits_fn), len(y)
    plan = make_plan(logits_fn, problem.params, x, y, count=count, chunk_size=None, memory=MEMORY, **options)
    weight = np.full(count, 1 / count, np.float32)
    return GroupOperator(logits_fn, problem.params, x, y, weight, plan, memory=memory, **options)


def vector(problem: Problem) -> jax.Array:
    """Return the vector of shape (p,) that all libraries multiply with."""
    size = sum(leaf.size for leaf in jax.tree.leaves(problem.params))
    return jax.random.normal(jax.random.key(1), (size,))


def products(problem: Problem) -> dict[str, Job]:
    """One forward pass, gradient and product of each kind over the batch."""
    kept, again, gauss_newton = operator(problem), operator(problem, memory=0), operator(problem, "gauss_newton")
    v, (x, _) = vector(problem), problem.batch
    forward = partial(jax.jit(lambda logits_fn, params, x: logits_fn(params, x)), as_pytree(problem.logits_fn))
    return {
        "forward": Job("logits", lambda: forward(problem.params, x), np.asarray, 1),
        # Where no pass is kept: kept ones give the gradient for nothing.
        "gradient": Job("gradient", lambda: again.loss_and_gradient()[1], np.asarray, 3),
        "Hessian product, pass kept": Job("Hessian product", lambda: kept(v), np.asarray, 6),
        "Hessian product, recomputed": Job("Hessian product", lambda: again(v), np.asarray, 9),
        "Gauss-Newton product, pass kept": Job("Gauss-Newton product", lambda: gauss_newton(v), np.asarray, 4),
    }


def training(problem: Problem) -> dict[str, Job]:
    """One step of a ResNet's training on the batch, by ``fit``'s own program; each call is a step after the last."""
    if not isinstance(problem.network, Network):
        return {}
    config = TrainConfig(epochs=1, batch_size=len(problem.drawn), schedule="constant", **SGD)
    step, fixed = make_step(config, problem.data), Fixed(None, problem.data, jnp.int32(0))
    carry, before = begin(problem.network, problem.data, config), flat(problem.params)

    def run() -> Any:
        nonlocal carry
        carry, _ = run_batches(step, carry, fixed, problem.drawn[None], 0, ["the step"])
        return carry.network.params

    return {"SGD step": Job("step", run, lambda params: flat(params) - before, 3)}


def flat(params: Any) -> np.ndarray:
    """Return parameters as one vector, in float64: a step is small beside them."""
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(params)])


def eigenvalues(problem: Problem) -> dict[str, Method]:
    """Lanczos from several start vectors with two stopping rules."""
    data = problem.logits_fn, problem.params, problem.x, problem.y, group_weights(problem.group, GROUPS)

    def find(start: Start, stop: Stop, tolerance: float) -> Found:
        config = CurvatureConfig(tolerance=tolerance, stop=stop, start=start, max_steps=MOST_PRODUCTS, memory=MEMORY)
        found = group_curvature(*data, config, loss=problem.loss)
        return Found(found.top_eigenvalue, float(found.products.mean()))

    # A coarse start is a gradient start where an eighth of a group is too few.
    starts: tuple[Start, ...] = get_args(Start) if problem.spec.per_group >= 8 * LEAST else ("random", "gradient")
    return {
        f"{start} start, {stop} stop": Method(partial(find, start, stop), TOLERANCES, 1e-3)
        for start in starts
        for stop in ("residual", "error")
    }


def report(problem: Problem, precision: str = "highest", at_once: int | None = None) -> dict[str, Job]:
    """One call of what users call, at its defaults: a residual of at most 1e-2 of each eigenvalue; of classes only."""
    if problem.spec.kind == "gpt":
        return {}
    call = partial(group_report, problem.logits_fn, problem.params, problem.x, problem.y, problem.group)
    config = CurvatureConfig(tolerance=1e-2, precision=precision, at_once=at_once)
    # Two starts: the default's eigenvalue is the largest one with certainty, the other takes fewer products.
    return {
        f"group_report, {start} start": Job(
            "largest eigenvalues",
            partial(call, dataclasses.replace(config, start=start)),
            _top,
            0,
        )
        for start in STARTS
    }


def _top(found: GroupReport) -> np.ndarray:
    return found.curvature.top_eigenvalue


def truth(problem: Problem) -> np.ndarray:
    """Return the largest eigenvalue of every group from a run whose residual is 1e-5 of it."""
    weights = group_weights(problem.group, GROUPS)
    config = CurvatureConfig(tolerance=1e-5, max_steps=400, memory=MEMORY)
    data = problem.logits_fn, problem.params, problem.x, problem.y, weights
    found = group_curvature(*data, config, loss=problem.loss)
    return found.top_eigenvalue


def density(problem: Problem) -> dict[str, Job]:
    """Stochastic Lanczos quadrature, from the operator's construction on."""

    def run() -> np.ndarray:
        product = operator(problem)
        signs = np.random.default_rng(0).choice([-1, 1], (DENSITY_VECTORS, product.size)).astype(np.float32)
        # On CPU Lanczos takes NumPy vectors, on accelerators those of the device.
        starts = list(signs) if jax.default_backend() == "cpu" else list(jnp.asarray(signs))
        return densities.stochastic_quadrature(product, starts, steps=DENSITY_STEPS).nodes

    return {"quadrature": Job("largest node", run, np.max, 6 * DENSITY_STEPS * DENSITY_VECTORS)}


def margins(problem: Problem) -> dict[str, Job]:
    """DeepFool on the batch, away from each example's prediction; tokens have no distance."""
    if problem.spec.kind == "gpt":
        return {}
    x, _ = problem.batch
    network = as_pytree(problem.logits_fn, problem.params)
    return {"DeepFool": Job("distance", lambda: distances.deepfool(network, x).distance, np.asarray)}


def bounded(problem: Problem) -> dict[str, Job]:
    """Three Lanczos steps over all images as one group, whose kept passes may take 128 MiB."""
    weights = np.full((1, len(problem.group)), 1 / len(problem.group), np.float32)
    data = problem.logits_fn, problem.params, problem.x, problem.y, weights
    config = CurvatureConfig(tolerance=1e-9, max_steps=3, memory=BOUND)
    run = partial(group_curvature, *data, config, loss=problem.loss)
    return {"bounded": Job("eigenvalue", run, lambda found: found.top_eigenvalue)}
