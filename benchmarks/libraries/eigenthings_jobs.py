"""pytorch-hessian-eigenthings 1.0: Lanczos, power iteration and quadrature on a recomputed product (Golmant 2018)."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hessian_eigenthings import (
    GGNOperator,
    HessianOperator,
    deflated_power_iteration,
    lanczos,
    spectral_density,
    supervised_forward,
    supervised_loss,
    supervised_loss_of_output,
)
from torch import cat, nn
from torch.nn.functional import cross_entropy

from benchmarks.jobs import MOST_PRODUCTS, PRODUCTS, TOLERANCES, Found, Job, Method
from benchmarks.libraries import pytorch_jobs as pytorch
from benchmarks.libraries.jaxfair_jobs import DENSITY_STEPS, DENSITY_VECTORS
from benchmarks.problems import GROUPS, Problem

DISTRIBUTION = "hessian-eigenthings"


def hessian(module: nn.Module, batch: pytorch.Batch) -> HessianOperator:
    """Return its operator."""
    return HessianOperator(module, [batch], supervised_loss(cross_entropy))


def products(problem: Problem) -> dict[str, Job]:
    """One product of each kind, each with a pass of its own."""
    module, batch = pytorch.to_torch(problem), pytorch.batch_of(problem)
    v = cat([part.reshape(-1) for part in pytorch.vector(problem, module)])
    gauss_newton = GGNOperator(module, [batch], supervised_forward, supervised_loss_of_output(cross_entropy))
    operator = hessian(module, batch)

    def answer(found: Any) -> np.ndarray:
        return pytorch.flat(problem, module, pytorch.split(module, found))

    return {
        "Hessian product, recomputed": Job("Hessian product", lambda: operator.matvec(v), answer, 9),
        "Gauss-Newton product, recomputed": Job("Gauss-Newton product", lambda: gauss_newton.matvec(v), answer, 5),
    }


def eigenvalues(problem: Problem) -> dict[str, Method]:
    """Lanczos, which takes a number of steps, and power iteration, which takes a tolerance."""
    module = pytorch.to_torch(problem)
    batches = [pytorch.batch_of(problem, group) for group in range(GROUPS)]

    def every_group(find: Callable[[HessianOperator], Any]) -> Found:
        found = [find(hessian(module, batch)) for batch in batches]
        products = float(np.mean([result.iterations for result in found]))
        return Found(np.array([result.eigenvalues[0].item() for result in found]), products)

    def by_lanczos(steps: float) -> Found:
        return every_group(lambda h: lanczos(h, k=1, max_iter=int(steps), which="LA", seed=0))

    def by_power(tolerance: float) -> Found:
        return every_group(lambda h: deflated_power_iteration(h, k=1, max_iter=MOST_PRODUCTS, tol=tolerance, seed=0))

    return {
        # Its default is twice as many steps as eigenvalues.
        "Lanczos": Method(by_lanczos, PRODUCTS, 2, "products"),
        "power iteration": Method(by_power, TOLERANCES, 1e-4),
    }


def density(problem: Problem) -> dict[str, Job]:
    """Its stochastic Lanczos quadrature."""
    module, batch = pytorch.to_torch(problem), pytorch.batch_of(problem)

    def run() -> Any:
        return spectral_density(hessian(module, batch), num_runs=DENSITY_VECTORS, lanczos_steps=DENSITY_STEPS, seed=0)

    def answer(found: Any) -> np.ndarray:
        return np.nanmax(found.raw_eigenvalues.cpu().numpy())

    return {"quadrature": Job("largest node", run, answer, 9 * DENSITY_STEPS * DENSITY_VECTORS)}
