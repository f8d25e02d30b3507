"""Time jaxfair beside other libraries on one problem, in turn, and write JSON.

    python -m benchmarks.measure --problem resnet18-w16 --repeats 5 --out benchmarks/results/resnet18-w16.json

Answers are checked against each other before they are timed. The libraries come from the ``bench`` extra; a missing
one is named, and the others are timed. ``python -m benchmarks.report`` makes tables of all results.
"""

import argparse
import os
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks import child, command, libraries, problems, timing, tracing
from benchmarks.jobs import Job, Method, disagreement, loosest, worst_error
from benchmarks.libraries import jaxfair_jobs as ours
from benchmarks.problems import GROUPS, Problem
from jaxfair import hardware, runs
from jaxfair.errors import JaxfairError, did_you_mean

TIMED = ("products", "training", "report", "density", "margins")
PROFILED = ("Hessian product, pass kept", "gradient", "SGD step")
OPERATIONS = (*TIMED, "eigenvalues", "memory", "scaling", "cache", "profile")
STEPPED = 3e-2
"""Relative L2 distance between training steps at which nothing is timed. Batch norm moves every unit, some across a
kink: of ResNet-18 of width 16 PyTorch's own steps in float32 differ from its step in float64 by 1.4e-3 and 7.3e-3 in
its two layouts, and ours by 1.0e-2."""
LIMITS = {"products": 1e-3, "training": STEPPED, "report": 3e-2, "density": 1e-2, "margins": 2e-2}
"""Relative L2 distance between answers at which nothing is timed. DeepFool's paths part on a few examples."""
KINKED = 1e-2
"""The same for derivatives of networks with ReLUs. A few of a batch's millions of units are within rounding of their
kink, where two libraries, or one in float32 and in float64, may take either side. Where logits agree to 4e-7, PyTorch's
gradients of single images of ResNet-18 differ between the two types by 2e-5 in the median and by up to 1.1e-2, those of
a batch of 128 by 4e-4, and its product from ours by 1.1e-3."""
OUR_GRADIENT = "jaxfair: gradient"
TARGET = 1e-3
"""Relative error of every group's eigenvalue at which the methods are compared."""
APART = 3e-2
"""Relative error that no method may have at its tightest setting: it would not be the same problem."""


def check(problem: Problem, jobs: dict[str, dict[str, Job]], missing: dict[str, str] | None = None) -> dict[str, float]:
    """Run every job once and return the largest disagreement of each quantity.

    Args:
        problem: for the message.
        jobs: by operation and name; those of other libraries that cannot run on this machine are taken away.
        missing: to which these are added, with the reason.

    Raises:
        JaxfairError: the libraries disagree.
    """
    agreement = {}
    for operation, found in jobs.items():
        for quantity, distance in disagreement(_answers(found, {} if missing is None else missing)).items():
            kinked = operation == "products" and quantity != "logits" and problem.spec.kind != "gpt"
            limit = KINKED if kinked else LIMITS[operation]
            if distance > limit:
                raise JaxfairError(
                    f"The libraries' answers for '{quantity}' of {problem.name} differ by {distance:.1e}, more than "
                    f"{limit:.0e}; nothing is timed."
                )
            agreement[quantity] = distance
    return agreement


def _answers(jobs: dict[str, Job], missing: dict[str, str]) -> list[tuple[str, np.ndarray]]:
    """Run every job once and return quantities and answers; another library's job that fails is taken away."""
    found = []
    for name, job in list(jobs.items()):
        try:
            found.append((job.quantity, np.asarray(job.answer(job.run()), np.float64)))
        except Exception as error:  # what other libraries raise may be anything
            _take_away(name, error, jobs, missing)
    return found


def _take_away(name: str, error: Exception, jobs: dict[str, Any], missing: dict[str, str]) -> None:
    """Take another library's job that failed away, with the reason; raise what one of ours raised."""
    if name.startswith(f"{ours.DISTRIBUTION}:"):
        raise error
    missing[name] = libraries.reason(error)
    del jobs[name]


def timed(jobs: dict[str, Job], repeats: int, forward_gflop: float, peak: float) -> dict[str, Any]:
    """Time jobs in turn.

    Args:
        jobs: whose ``work`` is in forward passes of ``forward_gflop`` GFLOP.
        repeats: timed rounds.
        forward_gflop: of the batch.
        peak: of the machine, in GFLOP/s.
    """
    rows: dict[str, Any] = dict(timing.in_turn({name: job.run for name, job in jobs.items()}, repeats))
    for name, job in jobs.items():
        rate = job.work * forward_gflop / rows[name]["median"]
        rows[name] |= {"gflops": rate, "share_of_peak": rate / peak} if job.work else {}
    return rows


def eigenvalues(
    problem: Problem,
    methods: dict[str, Method],
    repeats: int,
    first: float = np.inf,
    missing: dict[str, str] | None = None,
    save: Callable[[dict[str, Any]], object] = lambda found: None,
) -> dict[str, Any]:
    """Time the largest eigenvalue of all groups by every method, at the loosest setting that reaches ``TARGET``.

    Args:
        problem: whose groups.
        methods: by name.
        repeats: timed rounds.
        first: the tolerance at which the search for that setting begins.
        missing: to which other libraries' methods that fail are added, with the reason.
        save: is given what was found so far, after every timed round: one may take a quarter of an hour.

    Raises:
        JaxfairError: a method's best answer is not the true one.
    """
    rows: dict[str, Any] = {}
    found = {"truth": (truth := ours.truth(problem)), "target": TARGET, "methods": rows}

    def add(seconds: dict[str, timing.Seconds]) -> None:
        for name, row in seconds.items():
            rows[name] |= row
        save(found)

    for name, method in list(methods.items()):
        try:
            reached = loosest(method, truth, TARGET, first)
        except Exception as error:  # what other libraries raise may be anything
            _take_away(name, error, methods, {} if missing is None else missing)
            continue
        if not reached.error <= APART:
            raise JaxfairError(
                f"'{name}' differs from the true eigenvalues of {problem.name} by {reached.error:.1e} at its tightest "
                "setting; nothing is timed."
            )
        rows[name] = {"setting_is": method.setting_is, **reached._asdict()}
    accurate = {name: method for name, method in methods.items() if rows[name]["setting"] is not None}
    runs_ = {name: lambda m=method, s=rows[name]["setting"]: m.find(s) for name, method in accurate.items()}
    timing.in_turn(runs_, repeats, warm=True, save=add)
    for name, method in methods.items():
        if method.default is not None and method.default == rows[name]["setting"]:  # minutes of a slow library
            same = {key: rows[name][key] for key in ("setting", "error", "products")}
            rows[name]["default"] = {**same, "seconds": rows[name]["median"]}
        elif method.default is not None:
            rows[name]["default"] = _at_default(method, truth)
    return found


def _at_default(method: Method, truth: np.ndarray) -> dict[str, Any]:
    """Run a method once at its library's default setting."""
    found = []
    seconds = timing.clock(lambda: found.append(method.find(method.default or 0.0)))
    error = worst_error(found[0].values, truth)
    return {"setting": method.default, "seconds": seconds, "error": error, "products": found[0].products}


def in_gradients(result: dict[str, Any], problem: Problem, repeats: int) -> None:
    """Add to every time its multiple of one gradient of ours over the same number of images."""
    rows = result.get("products", {})
    if OUR_GRADIENT not in rows:
        rows = timing.in_turn({OUR_GRADIENT: ours.products(problem)["gradient"].run}, repeats)
    gradient, batch = rows[OUR_GRADIENT]["median"], len(problem.batch[1])
    whole = gradient * len(problem.group) / batch
    for operation in TIMED:
        for row in result.get(operation, {}).values():
            row["gradients"] = row["median"] / (whole if operation == "report" else gradient)
    for row in result.get("eigenvalues", {}).get("methods", {}).values():
        if "median" in row:
            row["gradients"] = row["median"] / whole


def memory(result: dict[str, Any], problem: Problem, cache: Path) -> None:
    """Add to every job that was timed the memory and the first run's seconds of a process of its own."""
    for operation in TIMED:
        for name, row in result.get(operation, {}).items():
            row["alone"] = child.measure(problem.name, operation, name, cache)
    for name, row in result.get("eigenvalues", {}).get("methods", {}).items():
        if row["setting"] is not None:
            row["alone"] = child.measure(problem.name, "eigenvalues", name, cache, setting=row["setting"])


def profile(problem: Problem) -> dict[str, Any]:
    """Trace those of our jobs whose speed has an aim, by name; of eigenvalues the one of fewest products."""
    method = "gradient start, error stop"
    done = ours.products(problem) | ours.training(problem)
    runs_ = {name: done[name].run for name in PROFILED if name in done}
    runs_[method] = partial(ours.eigenvalues(problem)[method].find, TARGET)
    found = {}
    for name, run in runs_.items():
        timing.clock(run)  # compiles
        found[f"{ours.DISTRIBUTION}: {name}"] = tracing.trace(run)
    found[f"{ours.DISTRIBUTION}: {method}"]["setting"] = TARGET
    return found


def describe(found: dict[str, ModuleType], missing: dict[str, str]) -> dict[str, Any]:
    """Return what the numbers depend on besides the code."""
    torch: Any = sys.modules.get("torch")
    peers: Any = sys.modules.get("benchmarks.libraries.pytorch_jobs")  # which all that are built on PyTorch import
    versions = {module.DISTRIBUTION: _version(module.DISTRIBUTION) for module in found.values()}
    versions |= {"torch": _version("torch")} if torch else {}
    return {
        **runs.environment(),
        **hardware.describe(),
        "processor": _processor(),
        "libraries": versions,
        "missing": missing,
        "torch_device": str(peers.device()) if peers else None,
        "threads": {
            "cores": os.cpu_count(),
            "torch": torch.get_num_threads() if torch else None,
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        },
        "load_average_before": timing.load_average(),
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def measure(
    problem: Problem,
    names: Sequence[str],
    operations: Sequence[str],
    repeats: int,
    cache: Path,
    methods: Sequence[str] = ("",),
    first: float = np.inf,
    save: Callable[[dict[str, Any]], object] = lambda result: None,
) -> dict[str, Any]:
    """Check, time and describe.

    Args:
        problem: to time.
        names: of the libraries.
        operations: of ``OPERATIONS``.
        repeats: timed rounds.
        cache: folder of trained networks, for processes.
        methods: parts of the names of the eigenvalue methods to time; ``$`` is the end of a name.
        first: the tolerance at which the search for the loosest accurate one begins.
        save: is given the result so far, after every operation and every round of eigenvalues.

    Raises:
        JaxfairError: answers disagree, a name is unknown, a process fails.
    """
    found, missing = libraries.load(names)
    if "eigenvalues" in operations:
        _chosen(found, problem, methods, missing)  # before the others are timed
    environment, peak = describe(found, missing), timing.matmul_peak()
    forward = timing.forward_flops(problem.logits_fn, problem.params, problem.batch[0]) / 1e9
    jobs: dict[str, dict[str, Job]] = {"products": libraries.jobs(found, "products", problem, missing)}
    jobs |= {op: libraries.jobs(found, op, problem, missing) for op in TIMED[1:] if op in operations}
    result: dict[str, Any] = {
        "problem": {"name": problem.name, **problem.spec._asdict(), "groups": GROUPS},
        "environment": environment,
        "repeats": repeats,
        "matmul_gflops": peak,
        "forward_gflop": forward,
        "work": "convolutions and matrix products, counted from their shapes, of the passes that a job needs",
        "agreement": {},
    }
    for operation in TIMED:
        if operation not in jobs:
            continue
        # Each when its turn comes: all of them compile for minutes, and until then nothing would be saved.
        result["agreement"] |= check(problem, {operation: jobs[operation]}, missing)
        if operation in operations:
            result[operation] = timed(jobs[operation], repeats, forward, peak)
            in_gradients(result, problem, repeats)
            save(result)
    jobs.clear()  # and with them the passes that they keep
    if "eigenvalues" in operations:
        chosen = _chosen(found, problem, methods, missing)

        def keep(rows: dict[str, Any]) -> None:
            save({**result, "eigenvalues": rows})

        result["eigenvalues"] = eigenvalues(problem, chosen, repeats, first, missing, keep)
        in_gradients(result, problem, repeats)
        save(result)
    if "memory" in operations:
        memory(result, problem, cache)
    if "scaling" in operations:
        result["scaling"] = {"bound_mb": ours.BOUND / 1e6, **child.scaling(problem.name, cache)}
    if "cache" in operations:
        result["cache"] = child.compilation_cache(problem.name, cache)
    if "profile" in operations:
        result["profile"] = profile(problem)
    return {**result, "load_average_after": timing.load_average()}


def _chosen(
    found: dict[str, ModuleType], problem: Problem, methods: Sequence[str], missing: dict[str, str]
) -> dict[str, Method]:
    """Return the eigenvalue methods that are named.

    Raises:
        JaxfairError: there is none.
    """
    every = libraries.jobs(found, "eigenvalues", problem, missing)
    chosen = {name: method for name, method in every.items() if any(part in f"{name}$" for part in methods)}
    if not chosen:
        raise JaxfairError(f"No method's name has {' or '.join(methods)} in it; there are {', '.join(every)}.")
    return chosen


def unfinished_file(out: Path) -> Path:
    """Return where the operations that are done are kept until all are, for a measurement that writes ``out``."""
    return out.with_name(f"{out.name}.part")


def show(result: dict[str, Any]) -> None:
    """Print medians, and what was missing."""
    print(f"{result['problem']['title']}: median seconds [min, max], multiples of our gradient")
    load, cores = result["environment"]["load_average_before"], result["environment"]["host_cores"]
    if load and load[0] > cores / 4:
        print(f"  The machine was busy: {load[0]:.1f} processes waited on {cores} cores before; trust no time of this.")
    for library, reason in result["environment"]["missing"].items():
        print(f"  {library} is missing: {reason}")
    rows = {name: row for operation in TIMED for name, row in result.get(operation, {}).items()}
    rows |= result.get("eigenvalues", {}).get("methods", {})
    for name, row in rows.items():
        if "median" not in row:
            print(f"  {name:46s} does not reach {TARGET:.0e}; its best error is {row['error']:.1e}")
            continue
        reached = f"  error {row['error']:.1e}, {row['products']:.1f} products" if "error" in row else ""
        span = f"[{row['min']:.3f}, {row['max']:.3f}]"
        print(f"  {name:46s} {row['median']:8.3f} {span:18s} {row['gradients']:6.1f}{reached}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one problem, write and print the result; a mistake is answered by one sentence."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--problem",
        default="resnet18-w16",
        help=f"{', '.join(problems.SPECS)}; @1 and so on after it are other networks",
    )
    parser.add_argument("--operations", nargs="+", default=OPERATIONS, help=f"all, or some of {', '.join(OPERATIONS)}")
    parser.add_argument("--libraries", nargs="+", default=libraries.NAMES, help=", ".join(libraries.NAMES))
    parser.add_argument(
        "--methods", nargs="+", default=("",), help="parts of the names of the eigenvalue methods; $ ends one"
    )
    parser.add_argument(
        "--first",
        type=float,
        default=np.inf,
        help="tolerance of eigenvalue methods to try first; looser ones are left out",
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds, after one that is not counted")
    parser.add_argument("--out", type=Path, required=True, help="JSON file; until the end its name ends in .part")
    parser.add_argument("--cache", type=Path, default=problems.default_cache(), help="folder of trained networks")
    chosen = parser.parse_args(arguments)
    # PyTorch and the processes of the memory measurement need their share of an accelerator.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    timing.configure()
    words = ["python", "-m", "benchmarks.measure", *(sys.argv[1:] if arguments is None else arguments)]
    with command.making(chosen.out, after=f"what was timed is in '{chosen.out}.part', if anything was"):
        if unknown := set(chosen.operations) - set(OPERATIONS):
            raise JaxfairError(f"There is no operation '{min(unknown)}'{did_you_mean(min(unknown), OPERATIONS)}")
        if chosen.repeats < 1 or not chosen.first > 0:
            raise JaxfairError(f"--repeats is {chosen.repeats} and --first {chosen.first:g}; give 1 or more, above 0.")
        problem = problems.load(chosen.problem, chosen.cache)
        unfinished = unfinished_file(chosen.out)  # what was measured before stays until the end

        def save(result: dict[str, Any], path: Path = unfinished) -> None:
            runs.write_json(path, {"command": shlex.join(words), **result})

        result = measure(
            problem,
            chosen.libraries,
            chosen.operations,
            chosen.repeats,
            chosen.cache,
            chosen.methods,
            first=chosen.first,
            save=save,
        )
        save(result, chosen.out)
        unfinished.unlink(missing_ok=True)
    show(result)


if __name__ == "__main__":
    main()
