"""PyHessian: power iteration and stochastic Lanczos quadrature on a kept autograd graph (Yao et al. 2020)."""

import importlib
from typing import Any

import numpy as np
import pyhessian
import torch
from torch import nn

from benchmarks.jobs import MOST_PRODUCTS, TOLERANCES, Found, Job, Method
from benchmarks.libraries import pytorch_jobs as pytorch
from benchmarks.libraries.jaxfair_jobs import DENSITY_STEPS, DENSITY_VECTORS
from benchmarks.problems import GROUPS, Problem

DISTRIBUTION = "PyHessian"
count = 0
"""Products so far."""

# Not ``pyhessian.hessian``: the package's class of that name hides its module.
_module: Any = importlib.import_module("pyhessian.hessian")
_product = _module.hessian_vector_product


def _counted(gradients: Any, params: Any, v: Any) -> Any:
    global count
    count += 1
    return _product(gradients, params, v)


def _eig(matrix: torch.Tensor, eigenvectors: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Stand in for the function that PyTorch 1.13 removed and PyHessian 0.1 calls, on a symmetric matrix."""
    assert eigenvectors
    values, vectors = torch.linalg.eigh(matrix)
    return torch.stack([values, torch.zeros_like(values)], dim=1), vectors


_module.hessian_vector_product = _counted
torch.eig = _eig  # pyright: ignore[reportAttributeAccessIssue]


def instance(module: nn.Module, batch: pytorch.Batch) -> Any:
    """Return PyHessian's object for one batch; its constructor does the forward and backward pass."""
    module.zero_grad()  # the constructor adds to the gradients of an earlier one
    return pyhessian.hessian(module, nn.CrossEntropyLoss(), data=batch, cuda=pytorch.device().type == "cuda")


def products(problem: Problem) -> dict[str, Job]:
    """One iteration of its power method, without the vector arithmetic, in both layouts."""
    return {f"Hessian product, pass kept{layout}": _job(problem, layout) for layout in pytorch.layouts(problem)}


def _job(problem: Problem, layout: str) -> Job:
    module = pytorch.to_torch(problem, layout)
    kept, v = instance(module, pytorch.batch_of(problem, layout=layout)), pytorch.vector(problem, module)
    return Job(
        "Hessian product",
        lambda: _product(kept.gradsH, kept.params, v),
        lambda found: pytorch.flat(problem, module, found),
        6,
    )


def eigenvalues(problem: Problem) -> dict[str, Method]:
    """Power iteration, which stops when its estimate stagnates, in both layouts."""
    return {f"power iteration{layout}": _power_iteration(problem, layout) for layout in pytorch.layouts(problem)}


def _power_iteration(problem: Problem, layout: str) -> Method:
    module = pytorch.to_torch(problem, layout)
    batches = [pytorch.batch_of(problem, group, layout) for group in range(GROUPS)]

    def find(tolerance: float) -> Found:
        torch.manual_seed(0)  # of its start vectors
        before, values = count, []
        for batch in batches:
            values.append(instance(module, batch).eigenvalues(maxIter=MOST_PRODUCTS, tol=tolerance)[0][0])
            module.zero_grad()  # lets go of the graph, which hangs on the gradients
        return Found(np.array(values), (count - before) / GROUPS)

    return Method(find, TOLERANCES, 1e-3)


def density(problem: Problem) -> dict[str, Job]:
    """Its stochastic Lanczos quadrature, from the constructor on."""
    module, batch = pytorch.to_torch(problem), pytorch.batch_of(problem)

    def run() -> Any:
        found = instance(module, batch).density(iter=DENSITY_STEPS, n_v=DENSITY_VECTORS)[0]
        module.zero_grad()
        return found

    return {"quadrature": Job("largest node", run, np.max, 6 * DENSITY_STEPS * DENSITY_VECTORS)}
