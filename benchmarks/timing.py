"""Clocks and counts: jobs in turn, the machine's peak, operations of a forward pass, memory of a process."""

import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxfair.curvature.programs import operations

Seconds = dict[str, float]


def configure() -> None:
    """Set JAX up as the studies' commands do: float32 products in full, and programs in the thread that calls them."""
    jax.config.update("jax_default_matmul_precision", "highest")
    dispatch_inline()


def dispatch_inline() -> None:
    """Run a CPU's programs in the thread that calls them, whose memory alone ``processes.keep_memory`` keeps."""
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def wait(result: Any) -> None:
    """Wait until a result is there, JAX's or PyTorch's."""
    jax.block_until_ready(result)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def clock(job: Callable[[], Any]) -> float:
    """Return the seconds that a job takes."""
    begin = time.perf_counter()
    wait(job())
    return time.perf_counter() - begin


def in_turn(
    jobs: dict[str, Callable[[], Any]],
    repeats: int,
    *,
    warm: bool = False,
    save: Callable[[dict[str, Seconds]], object] = lambda rows: None,
) -> dict[str, Seconds]:
    """Time the jobs A B C A B C ..., so that a disturbance meets all of them; return seconds.

    Args:
        jobs: by name.
        repeats: timed rounds.
        warm: whether every job has just been run, and so compiled; otherwise a first round does it, reported apart.
        save: is given the rows so far after every timed round.
    """
    first = {} if warm else {name: {"first": clock(job)} for name, job in jobs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    rows: dict[str, Seconds] = {}
    for _ in range(repeats):
        for name, job in jobs.items():
            seconds[name].append(clock(job))
        for name, found in seconds.items():
            spread = {"median": statistics.median(found), "min": min(found), "max": max(found)}
            rows[name] = {**first.get(name, {}), **spread}
        save(rows)
    return rows


def matmul_peak() -> float:
    """Return GFLOP/s of JAX's float32 product of two square matrices: the best this machine does just now."""
    size = 2048
    a = jax.random.normal(jax.random.key(0), (size, size))
    multiply = jax.jit(lambda a, b: jax.numpy.matmul(a, b, precision="highest"))
    wait(multiply(a, a))
    return 2 * size**3 / min(clock(lambda: multiply(a, a)) for _ in range(10)) / 1e9


def forward_flops(logits_fn: Any, params: Any, x: Any) -> float:
    """Count the operations of a forward pass's convolutions and matrix products."""
    return operations(jax.make_jaxpr(lambda p, x: logits_fn(p, x))(params, x).jaxpr)


def peak_memory() -> dict[str, float]:
    """Return the most memory that this process has had so far, in MB: on the host, and on an accelerator if any."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: on Linux its number also covers the parent at the moment it started this process.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        found = {"host": int(line.split()[1]) / 1e3}
    else:
        unit = 1e6 if sys.platform == "darwin" else 1e3
        found = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}
    statistics_ = jax.devices()[0].memory_stats() or {}
    torch = sys.modules.get("torch")
    if "peak_bytes_in_use" in statistics_:
        found["device"] = statistics_["peak_bytes_in_use"] / 1e6
        if torch is not None and torch.cuda.is_available():
            found["device"] += torch.cuda.max_memory_allocated() / 1e6
    return found


def load_average() -> list[float] | None:
    """Return the mean number of waiting processes over 1, 5 and 15 minutes; None where the system does not say."""
    return list(os.getloadavg()) if hasattr(os, "getloadavg") else None
