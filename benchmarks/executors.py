"""Time the executors of studies, and write JSON.

    python -m benchmarks.executors --workers 1 2 4 --out benchmarks/results/executors/two-cores.json

``runs an hour`` are of runs that keep one core busy for a second, by local workers and in one process; ``overhead`` is
what a worker adds to a run that takes no time; ``help`` and ``plan`` are what a user waits for at first.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks import child, command
from experiments.linearization import study as linearization
from experiments.linearization.settings import DIGITS
from experiments.running import datasets, executors
from experiments.running.progress import Progress
from experiments.running.records import Output, Workspace, declare
from experiments.running.settings import Execution
from jaxfair import hardware, runs
from jaxfair.runs import Run

PROGRAM = "python -m benchmarks.executors"
MANY = 10_000


def study(root: Path, count: int, seconds: float, progress: Progress) -> Workspace:
    """Declare so many runs that keep a core busy for some seconds and do not depend on each other."""
    data: Any = SimpleNamespace(images=np.zeros(1))
    space = Workspace(root / "runs", data, data, {}, progress)

    def make(pending: Sequence[Run]) -> Iterator[list[Output]]:
        for run in pending:
            end = time.process_time() + seconds
            while time.process_time() < end:
                pass
            yield [Output(run, None, {})]

    for number in range(count):
        run = runs.locate(space.root, {"stage": "busy", "name": f"{number}", "seed": number})
        declare(space, [run], seconds, "keep busy", make)
    return space


def carry_out(root: Path, count: int, seconds: float, execution: Execution) -> float:
    """Make the study, and return the seconds from its first run to its last one."""
    executors.begin(execution)
    command = [PROGRAM, "--study", str(root), "--count", str(count), "--seconds", str(seconds)]
    with Progress(terminal=False) as progress:
        executors.carry_out(study(root, count, seconds, progress), execution, command, lambda _: defaultdict(float))
    if execution.only:
        return 0.0
    made = [path.stat() for path in root.glob("runs/*/config.json")], [p.stat() for p in root.glob("runs/*/DONE")]
    return max(stat.st_mtime for stat in made[1]) - min(stat.st_mtime for stat in made[0])


def measure(workers: Sequence[int], count: int) -> dict[str, Any]:
    """Return all measurements."""
    found: dict[str, Any] = {"runs an hour": {}, "overhead of a run (s)": {}}
    with tempfile.TemporaryDirectory() as folder:
        by_name = {"here": Execution(), **{f"{n} workers": Execution("local", n) for n in workers}}
        for name, execution in by_name.items():
            seconds = carry_out(Path(folder) / f"busy-{name}", count, 1.0, execution)
            found["runs an hour"][name] = round(3600 * count / seconds)
            idle = carry_out(Path(folder) / f"idle-{name}", 4 * count, 0.0, execution)
            found["overhead of a run (s)"][name] = round(idle / (4 * count), 4)
    begin = time.perf_counter()
    command = [sys.executable, "-m", "experiments.linearization", "--help"]
    subprocess.run(command, cwd=child.ROOT, capture_output=True, check=True)
    found["help (s)"] = round(time.perf_counter() - begin, 2)
    found["plan"] = plan()
    return found


def plan() -> dict[str, float]:
    """Return how long it takes to declare about ``MANY`` runs of the digits' study."""
    chosen = DIGITS
    prepared = datasets.prepare(chosen.data)
    space = Workspace(Path("runs"), prepared.train, prepared.test, prepared.record, Progress(terminal=False))
    budgets = linearization.check(chosen, prepared.train)
    each = len(_declared(space, budgets, 1))
    begin = time.process_time()
    found = _declared(Workspace(*(getattr(space, n) for n in ("root", "train", "test", "record", "progress"))), budgets,
                      -(-MANY // each))  # fmt: skip
    return {"runs": len(found), "CPU seconds": round(time.process_time() - begin, 2)}


def _declared(space: Workspace, budgets: Sequence[int], seeds: int) -> list[Run]:
    chosen = DIGITS
    linearization.declare(space, chosen, budgets, linearization.reductions(chosen), range(seeds))
    return [run for job in space.jobs for run in job.runs]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or make the study that is measured as one of its workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--out", type=Path)
    for name in ("study", "seconds", "executor", "only"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.study:
        carry_out(Path(chosen.study), chosen.count, float(chosen.seconds), Execution(only=(chosen.only,)))
        return
    if min(*chosen.workers, chosen.count) < 1:
        parser.error(f"--workers {' '.join(map(str, chosen.workers))} --count {chosen.count}: give numbers above 0")
    with command.making(chosen.out):
        measured = measure(chosen.workers, chosen.count)
        found = {**measured, "machine": hardware.describe(), **runs.environment()}
        names = ("runs an hour", "overhead of a run (s)", "help (s)", "plan")
        print(json.dumps({name: found[name] for name in names}, indent=1))
        if chosen.out is not None:
            runs.write_json(chosen.out, found)


if __name__ == "__main__":
    main()
