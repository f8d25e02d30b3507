"""One job in a process of its own, for its memory and its first run: ``python -m benchmarks.child --problem tiny ...``.

Prints one line of JSON: MB before the job was set up, MB at most, and seconds of the first run, compilation included.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import libraries, problems, timing
from benchmarks.answers import why
from benchmarks.jobs import Method
from jaxfair import processes
from jaxfair.errors import JaxfairError

ROOT = Path(__file__).resolve().parents[1]


def measure(
    problem: str,
    operation: str,
    job: str,
    cache: Path,
    *,
    setting: float | None = None,
    factor: int = 1,
    compiled: Path | None = None,
) -> dict[str, Any]:
    """Run one job in a new process.

    Args:
        problem: its name.
        operation: function of the library's file.
        job: ``library: name``.
        cache: folder of trained networks.
        setting: of a method.
        factor: by which to multiply the number of images.
        compiled: folder of JAX's persistent compilation cache; None keeps nothing.

    Raises:
        JaxfairError: the process failed.
    """
    command = [sys.executable, "-m", "benchmarks.child", "--problem", problem, "--operation", operation, "--job", job]
    command += ["--cache", str(cache), "--factor", str(factor)]
    command += [] if setting is None else ["--setting", repr(setting)]
    environment = dict(os.environ)
    if compiled is not None:
        environment |= {"JAX_COMPILATION_CACHE_DIR": str(compiled), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    begin = time.perf_counter()
    with processes.leash() as stdin:
        ended = subprocess.run(command, cwd=ROOT, env=environment, stdin=stdin, capture_output=True, text=True)
    if ended.returncode:
        raise JaxfairError(f"The process for '{job}' failed: {why(ended.stderr, ended.returncode)}")
    return {**json.loads(ended.stdout.strip().splitlines()[-1]), "process_seconds": time.perf_counter() - begin}


def scaling(problem: str, cache: Path) -> dict[str, Any]:
    """Return the memory of three Lanczos steps over N and over 8 N images, with the same bound for kept passes."""
    return {f"{factor} N": measure(problem, "bounded", "jaxfair: bounded", cache, factor=factor) for factor in (1, 8)}


def compilation_cache(problem: str, cache: Path) -> dict[str, Any]:
    """Return the times of the same eigenvalue job in two processes that share JAX's compilation cache."""
    with tempfile.TemporaryDirectory() as folder:
        job = "jaxfair: random start, residual stop"
        return {
            name: measure(problem, "eigenvalues", job, cache, setting=1e-3, compiled=Path(folder))
            for name in ("first process", "second process")
        }


def main() -> None:
    """Run the job and print what it took."""
    parser = argparse.ArgumentParser()
    for name in ("problem", "operation", "job"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--setting", type=float)
    parser.add_argument("--factor", type=int, default=1)
    parser.add_argument("--cache", type=Path)
    chosen = parser.parse_args()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    timing.configure()
    problem = problems.load(chosen.problem, chosen.cache, chosen.factor)
    found, missing = libraries.load([chosen.job.partition(":")[0]])
    if missing:
        raise SystemExit(f"A library is missing: {missing}")
    before = timing.peak_memory()
    job = libraries.jobs(found, chosen.operation, problem)[chosen.job]
    seconds = timing.clock(lambda: job.find(chosen.setting) if isinstance(job, Method) else job.run())
    print(json.dumps({"before_mb": before, "peak_mb": timing.peak_memory(), "first_seconds": seconds}))


if __name__ == "__main__":
    processes.end_with_parent()
    main()
