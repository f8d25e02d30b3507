"""A study of five quick runs: b and c are made of a, d of b, and e stands alone. Not a test itself."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.running.progress import Progress
from experiments.running.records import Output, Workspace, carry_out, declare
from jaxfair import runs
from jaxfair.runs import Run

PARENTS = {"a": "", "b": "a", "c": "a", "d": "b", "e": ""}


def workspace(root: Path, progress: Progress, compute: Callable[[str], object] = lambda name: None) -> Workspace:
    """Declare the runs, b and c in one job; ``compute`` is called with the name of each run that is made."""
    data: Any = None
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
    (found,) = (root / "runs").glob(f"s-{name}-*")
    return found
