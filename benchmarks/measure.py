"""Time curvature against PyHessian in one process, in turn, and write JSON.

    python -m benchmarks.measure --width 16 --per-group 40 --repeats 5 --out benchmarks/results/w16.json

Answers are checked against each other before anything is timed; compilation is reported apart. PyHessian and PyTorch
come from the ``bench`` extra; without them ours is timed alone.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.problems import GROUPS, Problem, digits_resnet18
from jaxfair import hardware, models, runs
from jaxfair.curvature import group_curvature
from jaxfair.groups import group_weights
from jaxfair.operators import GIGABYTE, GroupOperator, make_plan

TARGET = 1e-3  # relative error of an eigenvalue that all methods have to reach


def in_turn(jobs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Time the jobs A B C A B C ...; the first round is the compilation's and is reported apart."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats + 1):
        for name, job in jobs.items():
            begin = time.perf_counter()
            jax.block_until_ready(job())
            seconds[name].append(time.perf_counter() - begin)
    return {
        name: {"first": found[0], "median": statistics.median(found[1:]), "min": min(found[1:]), "max": max(found[1:])}
        for name, found in seconds.items()
    }


def products(problem: Problem, repeats: int) -> tuple[dict[str, Any], float]:
    """Time one gradient and one product over all examples; return the timings and the largest disagreement."""
    logits_fn, params = models.frozen(problem.network), problem.network.params
    count = len(problem.group)
    plan = make_plan(logits_fn, params, problem.x, problem.y, count=count, chunk_size=None, memory=4 * GIGABYTE)
    weight = np.full(count, 1 / count, np.float32)
    data = logits_fn, params, problem.x, problem.y, weight, plan
    kept, again = GroupOperator(*data, memory=4 * GIGABYTE), GroupOperator(*data, memory=0)
    gauss_newton = GroupOperator(*data, kind="gauss_newton", memory=4 * GIGABYTE)
    vector = jax.random.normal(jax.random.key(0), (kept.size,))
    jobs: dict[str, Callable[[], Any]] = {
        "gradient": again.loss_and_gradient,  # kept passes would give it for nothing
        "product, pass kept": lambda: kept(vector),
        "product, recomputed": lambda: again(vector),
        "Gauss-Newton, pass kept": lambda: gauss_newton(vector),
    }
    worst = float(jax.numpy.abs(kept(vector) - again(vector)).max() / jax.numpy.abs(again(vector)).max())
    try:
        from benchmarks import peers
    except ImportError:
        return in_turn(jobs, repeats), worst
    import torch
    from pyhessian.utils import hessian_vector_product

    module = peers.to_torch(problem.network)
    batch = peers.batch_of(problem)
    theirs = peers.pyhessian(module, batch)
    probe = [torch.randn_like(p) for p in theirs.params]
    difference = module(batch[0]).detach().numpy() - np.asarray(problem.network(problem.x))
    worst = max(worst, float(np.abs(difference).max() / np.abs(np.asarray(problem.network(problem.x))).max()))

    def gradient() -> None:
        module.zero_grad()
        torch.nn.functional.cross_entropy(module(batch[0]), batch[1]).backward()

    jobs |= {"PyTorch gradient": gradient}
    jobs |= {"PyHessian iteration": lambda: [hessian_vector_product(theirs.gradsH, theirs.params, probe), None][1]}
    return in_turn(jobs, repeats), worst


def eigenvalues(problem: Problem, repeats: int) -> dict[str, Any]:
    """Time the largest eigenvalue of every group, and say how far each method's answers are from the truth."""
    logits_fn, params = models.frozen(problem.network), problem.network.params
    data = logits_fn, params, problem.x, problem.y, group_weights(problem.group, GROUPS)
    truth = group_curvature(*data, tolerance=1e-5, memory=4 * GIGABYTE, max_steps=200).top_eigenvalue
    answers: dict[str, np.ndarray] = {}
    steps: dict[str, float] = {}

    def ours(name: str, **options: Any) -> Callable[[], None]:
        def job() -> None:
            found = group_curvature(*data, memory=4 * GIGABYTE, **options)
            answers[name], steps[name] = found.top_eigenvalue, float(found.steps.mean())

        return job

    jobs = {
        name: ours(name, **options)
        for name, options in {
            "random start, residual 1e-2": {"tolerance": 1e-2},
            "random start, estimated error 1e-3": {"tolerance": TARGET, "stop": "error"},
            "gradient start, residual 1e-2": {"tolerance": 1e-2, "start": "gradient"},
            "gradient start, estimated error 1e-3": {"tolerance": TARGET, "stop": "error", "start": "gradient"},
        }.items()
    }
    try:
        from benchmarks import peers
    except ImportError:
        peers = None
    if peers is not None:
        module = peers.to_torch(problem.network)

        def theirs() -> None:
            found = []
            for group in range(GROUPS):
                instance = peers.pyhessian(module, peers.batch_of(problem, group))
                found.append(instance.eigenvalues(maxIter=200, tol=TARGET)[0][0])
            answers["PyHessian, tol 1e-3"] = np.array(found)

        jobs["PyHessian, tol 1e-3"] = theirs
    timings = in_turn(jobs, repeats)
    for name, timing in timings.items():
        timing["worst_relative_error"] = float(np.abs(answers[name] / truth - 1).max())
        timing["products_per_group"] = steps.get(name, float("nan"))
    return {"truth": truth, "methods": timings}


def main() -> None:
    """Measure one problem and write and print the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--per-group", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    jax.config.update("jax_default_matmul_precision", "highest")
    problem = digits_resnet18(chosen.width, chosen.per_group)
    timings, disagreement = products(problem, chosen.repeats)
    if disagreement > 1e-3:
        raise SystemExit(f"The libraries' answers differ by {disagreement:.1e}; nothing is timed.")
    result = {
        "problem": {"name": problem.name, "examples": len(problem.group), "groups": GROUPS},
        "environment": {**runs.environment(), **hardware.describe()},
        "disagreement": disagreement,
        "one_product": timings,
        "group_eigenvalues": eigenvalues(problem, chosen.repeats),
    }
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    plain = json.loads(json.dumps(result, default=lambda value: np.asarray(value).tolist()).replace("NaN", "null"))
    chosen.out.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    gradient = timings["gradient"]["median"]
    print(f"{problem.name}, {len(problem.group)} images: median seconds, and multiples of our gradient")
    for name, timing in timings.items():
        print(f"  {name:36s} {timing['median']:8.3f}  {timing['median'] / gradient:6.2f}")
    print(f"largest eigenvalue of {GROUPS} groups: median seconds, worst relative error, products a group")
    for name, timing in result["group_eigenvalues"]["methods"].items():
        error, steps = timing["worst_relative_error"], timing["products_per_group"]
        print(f"  {name:36s} {timing['median']:8.3f}  {error:8.1e}  {steps:5.1f}")


if __name__ == "__main__":
    main()
