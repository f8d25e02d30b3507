"""curvlinops: PyTorch operators for SciPy's eigsh (Dangel et al. 2025).

Its Hessian of a GPT is left out: with curvlinops 3.0.1 on PyTorch 2.13 the rows of layer norms' scales differ from what
all others find by more than ``benchmarks.measure`` allows. Its Gauss-Newton product agrees.
"""

from typing import Any

import numpy as np
import torch
from curvlinops import GGNLinearOperator, HessianLinearOperator
from curvlinops.papyan2020traces.spectrum import fast_lanczos
from scipy.sparse import linalg
from torch import nn

from benchmarks.jobs import MOST_PRODUCTS, TOLERANCES, Found, Job, Method
from benchmarks.libraries import pytorch_jobs as pytorch
from benchmarks.libraries.jaxfair_jobs import DENSITY_STEPS, DENSITY_VECTORS
from benchmarks.problems import GROUPS, Problem

eigsh: Any = linalg.eigsh  # whose stubs take integers for the tolerance
DISTRIBUTION = "curvlinops-for-pytorch"


def hessian(module: nn.Module, batch: pytorch.Batch) -> Any:
    """Return its operator; the check that the network is deterministic is left out, in its favour."""
    return HessianLinearOperator(
        module, nn.CrossEntropyLoss(), list(module.parameters()), [batch], check_deterministic=False
    )


def products(problem: Problem) -> dict[str, Job]:
    """One product of each kind, each with a pass of its own."""
    module, batch = pytorch.to_torch(problem), pytorch.batch_of(problem)
    v = pytorch.vector(problem, module)
    gauss_newton = GGNLinearOperator(
        module, nn.CrossEntropyLoss(), list(module.parameters()), [batch], check_deterministic=False
    )
    operator = hessian(module, batch)

    def answer(found: Any) -> np.ndarray:
        return pytorch.flat(problem, module, found)

    jobs = {"Gauss-Newton product, recomputed": Job("Gauss-Newton product", lambda: gauss_newton @ v, answer, 5)}
    if problem.spec.kind != "gpt":
        jobs["Hessian product, recomputed"] = Job("Hessian product", lambda: operator @ v, answer, 9)
    return jobs


def eigenvalues(problem: Problem) -> dict[str, Method]:
    """SciPy's eigsh on its operators, as its documentation has it."""
    if problem.spec.kind == "gpt":
        return {}
    module = pytorch.to_torch(problem)
    batches = [pytorch.batch_of(problem, group) for group in range(GROUPS)]

    def find(tolerance: float) -> Found:
        values, count = [], 0

        for batch in batches:
            # In its own type: float64 would ask ARPACK for digits that float32 products do not have.
            operator = hessian(module, batch).to_scipy(dtype=np.dtype(np.float32))

            def product(v: np.ndarray, operator: Any = operator) -> np.ndarray:
                nonlocal count
                count += 1
                return operator @ v

            counted = linalg.LinearOperator(operator.shape, matvec=product, dtype=operator.dtype)  # pyright: ignore[reportCallIssue]
            start = np.random.default_rng(0).standard_normal(operator.shape[0]).astype(np.float32)
            try:
                # A restart takes about ten products.
                found = eigsh(counted, 1, which="LA", v0=start, tol=tolerance, maxiter=MOST_PRODUCTS // 10)[0]
            except linalg.ArpackNoConvergence as stopped:
                found = stopped.eigenvalues
            values.append(found[0] if len(found) else np.nan)
        return Found(np.array(values), count / GROUPS)

    return {"eigsh": Method(find, TOLERANCES, 0.0)}


def density(problem: Problem) -> dict[str, Job]:
    """Its Lanczos runs, without the estimate of the spectrum's ends that its plots need."""
    if problem.spec.kind == "gpt":
        return {}
    module, batch = pytorch.to_torch(problem), pytorch.batch_of(problem)

    def run() -> Any:
        torch.manual_seed(0)
        operator = hessian(module, batch)
        return [fast_lanczos(operator, DENSITY_STEPS)[0] for _ in range(DENSITY_VECTORS)]

    def answer(found: Any) -> np.ndarray:
        return np.max([values.max().item() for values in found])

    return {"quadrature": Job("largest node", run, answer, 9 * DENSITY_STEPS * DENSITY_VECTORS)}
