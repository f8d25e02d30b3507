"""Count the products that an eigenvalue takes from several start vectors, and write JSON.

    python -m benchmarks.starts --problem digits --out benchmarks/results/starts/digits.json

A start is worth what it saves less what it takes. Products are counted from start to the first Lanczos step at which
the eigenvalue is within ``measure.TARGET`` of the true one, so that load on the machine changes nothing, and no
stopping rule has a part in it.
"""

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import command, problems, timing
from benchmarks.libraries import jaxfair_jobs as ours
from benchmarks.measure import TARGET
from benchmarks.problems import GROUPS, Problem
from jaxfair import hardware, losses, networks, runs
from jaxfair.curvature import lanczos, spectrum
from jaxfair.curvature.operators import GroupOperator, Kind, as_pytree, make_plan
from jaxfair.groups import group_weights
from jaxfair.networks.network import Network
from jaxfair.training.config import TrainConfig
from jaxfair.training.fit import fit

GAUSS_NEWTON = 4 / 6
"""What a Gauss-Newton product takes beside a Hessian product, in passes of convolutions."""
CLOSE = 1e-1
"""Residual to which the Gauss-Newton matrix's eigenvector is sought, relative to its eigenvalue."""
TUNING = TrainConfig(epochs=2, batch_size=64, learning_rate=0.01, schedule="cosine")
SHARES = {"a fifth of the ReLUs": 0.2, "a tenth of the ReLUs": 0.1}


class Known(NamedTuple):
    """One group's true largest eigenvalue at one network, and its eigenvector of length 1."""

    value: float
    vector: np.ndarray


def neighbours(problem: Problem) -> Iterator[tuple[str, Network]]:
    """Yield the problem's network, the same trained for longer, and with fewer ReLUs and trained again."""
    network = problem.network
    yield "trained", network
    yield "two more epochs", _tuned(network, problem)
    kept = np.random.default_rng(0)
    drawn = jax.tree.map(lambda mask: kept.random(mask.shape), network.masks)
    for name, share in SHARES.items():  # a tenth is part of the fifth
        masks = jax.tree.map(lambda mask, draw, s=share: jnp.asarray(draw < s, mask.dtype), network.masks, drawn)
        yield name, _tuned(network.replace(masks=masks), problem)


def _tuned(network: Network, problem: Problem) -> Network:
    config = dataclasses.replace(TUNING, batch_size=min(TUNING.batch_size, len(problem.data)))
    (fitted,) = fit([network], problem.data, config, seeds=[0])
    return fitted.network


def operators(problem: Problem, network: Network, kind: Kind) -> Iterator[GroupOperator]:
    """Yield every group's matrix at a network."""
    logits_fn, loss = as_pytree(networks.frozen(network)), as_pytree(losses.cross_entropy)
    data, count = (logits_fn, network.params, problem.x, problem.y), problem.spec.per_group
    options: dict[str, Any] = {"kind": kind, "precision": "highest", "loss": loss, "memory": ours.MEMORY}
    plan = make_plan(*data, count=count, chunk_size=None, **options)
    for weight in group_weights(problem.group, GROUPS):
        yield GroupOperator(*data, np.asarray(weight, np.float32), plan, **options)


def needed(product: Callable[[Any], Any], start: np.ndarray, value: float) -> int:
    """Return after how many products Lanczos is within ``TARGET`` of the true value, for good."""
    found = lanczos.extreme_eigenvalues(product, start, tolerance=1e-6, max_steps=100)
    tops = [_largest(found.alphas[:steps], found.betas[: steps - 1]) for steps in range(1, found.steps + 1)]
    far = np.flatnonzero(np.abs(np.array(tops) / value - 1) > TARGET)
    return int(far[-1]) + 2 if far.size else 1


def _largest(alphas: np.ndarray, betas: np.ndarray) -> float:
    return float(np.linalg.eigvalsh(np.diag(alphas) + np.diag(betas, 1) + np.diag(betas, -1))[-1])


def of_network(problem: Problem, network: Network, earlier: dict[str, list[Known]]) -> tuple[dict, list[Known]]:
    """Return the products of every start, a mean over groups, and what is known of the network now."""
    noise = np.asarray(spectrum.start_vector(network.params, 0))
    noise = noise / np.linalg.norm(noise)
    rows, known = [], []
    pairs = zip(operators(problem, network, "hessian"), operators(problem, network, "gauss_newton"), strict=True)
    for group, (hessian, gauss_newton) in enumerate(pairs):
        gradient = np.asarray(hessian.loss_and_gradient()[1])
        along = gradient / np.linalg.norm(gradient) + noise
        true = lanczos.extreme_eigenvalues(hessian, noise, tolerance=1e-6, max_steps=200, vectors=True)
        assert true.vectors is not None
        value, vector = float(true.values[0]), np.asarray(true.vectors[0]) / np.linalg.norm(true.vectors[0])
        row: dict[str, float] = {"random": needed(hessian, noise, value), "gradient": needed(hessian, along, value)}
        near = lanczos.extreme_eigenvalues(gauss_newton, along, tolerance=CLOSE, stop="error", vectors=True)
        assert near.vectors is not None
        start = np.asarray(near.vectors[0])
        row["Gauss-Newton eigenvector"] = needed(hessian, start, value) + near.steps * GAUSS_NEWTON
        if known:
            row["eigenvector of the group before"] = needed(hessian, known[-1].vector + spectrum.ASIDE * noise, value)
        for name, groups in earlier.items():
            row[f"of {name}"] = needed(hessian, groups[group].vector + spectrum.ASIDE * noise, value)
        rows.append(row)
        known.append(Known(value, vector))
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in rows[-1]}, known


def measure(problem: Problem) -> dict[str, Any]:
    """Return the products of all starts at all networks."""
    earlier, found = {}, {}
    for name, network in neighbours(problem):
        found[name], earlier[name] = of_network(problem, network, earlier)
        print(name, *(f"  {start}: {count:.1f}" for start, count in found[name].items()), sep="\n", flush=True)
    return {"problem": problem.name, "title": problem.spec.title, "target": TARGET, "starts": found}


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    resnets = [name for name, spec in problems.SPECS.items() if spec.resnet]
    parser.add_argument("--problem", choices=resnets, default="digits")
    parser.add_argument("--cache", type=Path, default=problems.default_cache(), help="folder of trained networks")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args(arguments)
    timing.configure()
    words = ["python", "-m", "benchmarks.starts", *(sys.argv[1:] if arguments is None else arguments)]
    with command.making(chosen.out):
        found = measure(problems.load(chosen.problem, chosen.cache))
        found |= {**hardware.describe(), **runs.environment(), "command": shlex.join(words)}
        if chosen.out is not None:
            runs.write_json(chosen.out, found)


if __name__ == "__main__":
    main()
