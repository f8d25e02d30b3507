"""A study of five quick runs: b and c are made of a, d of b, and e stands alone. Not a test itself.

    python -m tests.experiments.running.cases FOLDER [--executor local ...]

makes it. Files in the folder let a run go wrong: ``diverge-b``, ``kill-b`` (always) and ``kill-once-b``, and ``wait-b``
lets it wait, epoch by epoch, until that is removed; ``epoch`` is there when the first one has begun.
"""

import os
import shutil
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from experiments import cli
from experiments.running import executors
from experiments.running.progress import Progress
from experiments.running.records import Output, Workspace, carry_out, declare
from experiments.running.settings import Execution
from jaxfair import loops, runs
from jaxfair.errors import JaxfairError
from jaxfair.runs import Run

PARENTS = {"a": "", "b": "a", "c": "a", "d": "b", "e": ""}


def workspace(root: Path, progress: Progress, compute: Callable[[str], object] = lambda name: None) -> Workspace:
    """Declare the runs, b and c in one job; ``compute`` is called with the name of each run that is made."""
    data: Any = SimpleNamespace(images=np.zeros(1))
    space, known = Workspace(root / "runs", data, data, {"name": "made"}, progress), dict[str, Run]()

    def make(pending: Sequence[Run]) -> Iterator[list[Output]]:
        for run in pending:
            name = run.config["name"]
            with (root / "made").open("a") as log:
                log.write(name)
            compute(name)
            run.write_arrays("examples.npz", {"name": np.frombuffer(name.encode(), np.uint8)})
            (run.checkpoint_dir / "0").mkdir(parents=True, exist_ok=True)
            (run.checkpoint_dir / "0" / "array").write_text(name)
            yield [Output(run, None, {"name": name})]

    for names in ("a", "bc", "d", "e"):
        for name in names:
            parents = {"start": known[PARENTS[name]].digest} if PARENTS[name] else {}
            known[name] = runs.locate(space.root, {"stage": "s", "name": name, "seed": 0, "parents": parents})
        declare(space, [known[name] for name in names], 1, f"make {names}", make)
    return space


def make(root: Path, compute: Callable[[str], object] = lambda name: None) -> None:
    """Make the study."""
    with Progress(terminal=False) as progress:
        carry_out(workspace(root, progress, compute))


def made(root: Path) -> str:
    """Return the names of the runs that were made since this was asked last, in their order."""
    log = root / "made"
    names = log.read_text() if log.exists() else ""
    log.unlink(missing_ok=True)
    return names


def folder(root: Path, name: str) -> Path:
    """Return the folder of a run."""
    (found,) = (path for path in (root / "runs").glob(f"s-{name}-*") if path.is_dir())
    return found


PROGRAM = "python -m tests.experiments.running.cases"


def go_wrong(root: Path, name: str) -> None:
    """Do what files in the folder say."""
    once = root / f"kill-once-{name}"
    if once.exists() or (root / f"kill-{name}").exists():
        once.unlink(missing_ok=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if (root / f"diverge-{name}").exists():
        raise JaxfairError(f"The loss of {name} is nan\nat step 1; lower the learning rate.")

    def epoch(number: int, state: dict[str, Any]) -> dict[str, Any]:
        (root / "epoch").touch()
        time.sleep(0.05)
        return {"epochs": state["epochs"] + 1}

    saved = root / "saved"
    saved.mkdir(exist_ok=True)
    waits = (root / f"wait-{name}").exists
    for _ in loops.epochs(epoch, (0, {"epochs": 0}), 1_000_000 if waits() else 0, saved):
        if not waits():
            break
    shutil.rmtree(saved)


def main(arguments: Sequence[str]) -> int:
    """Run the command line."""
    folder, *options = arguments

    def work(execution: Execution, command: Sequence[str]) -> None:
        root = Path(folder)
        executors.begin(execution)
        with Progress(terminal=False) as progress:
            space = workspace(root, progress, partial(go_wrong, root))
            executors.carry_out(space, execution, [f"{PROGRAM} {folder}", *command[1:]], lambda _: defaultdict(float))

    return cli.main(PROGRAM, __doc__, {"": cli.Command(Execution, lambda: work)}, options)


if __name__ == "__main__":
    cli.begin()
    raise SystemExit(main(sys.argv[1:]))
