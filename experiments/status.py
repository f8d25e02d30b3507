"""How far a study is, whoever makes its runs; lets failed runs be tried again, and removes what is not finished.

    python -m experiments.status DIR
    python -m experiments.status retry DIR
    python -m experiments.status clean DIR

DIR is what the study was told as ``--out``. ``--every 10`` shows the table again every ten seconds.
"""

import dataclasses
import json
import shutil
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from experiments import cli

if __name__ == "__main__":
    cli.begin()

import tyro

from experiments.running import slurm
from experiments.running.progress import EXECUTOR, PLAN, duration
from experiments.running.settings import StudyFolder
from jaxfair import processes
from jaxfair.errors import JaxfairError
from jaxfair.runs import Run

State = Literal["done", "failed", "running", "queued", "planned"]
HEADS = ("stage", "runs", "planned", "queued", "running", "done", "failed", "time left")


class Planned(NamedTuple):
    """A run of the study's last command.

    Attributes:
        run: where it is or will be.
        stage: of it.
        work: that it takes, in forward passes of one image.
        state: planned runs wait for others, queued ones for a node of the cluster.
        said: of a running one how far it is and by whom it is made, of a failed one why.
        seconds: that a finished one took.
    """

    run: Run
    stage: str
    work: float
    state: State
    said: str = ""
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Status:
    """Show how far a study is.

    A run counts as finished where DONE is; whether its files are whole, the study's command checks when it goes on.

    Attributes:
        study: its folder.
        every: seconds after which the table is shown again, until all runs are finished or have failed.
    """

    study: StudyFolder
    every: float | None = None


@dataclasses.dataclass(frozen=True)
class Retry:
    """Let the study's command try runs again that failed.

    Attributes:
        study: its folder.
        runs: names of their folders; all that failed if none is given.
    """

    study: StudyFolder
    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...")] = ()


@dataclasses.dataclass(frozen=True)
class Clean:
    """Remove what is not finished and what executors left; finished runs and reports are kept.

    Attributes:
        study: its folder.
        dry_run: only list what would be removed.
    """

    study: StudyFolder
    dry_run: bool = False


def read(study: Path) -> list[Planned]:
    """Return the runs of a study's last command, and in which state each is.

    Raises:
        JaxfairError: there is no study, or none of its commands has said yet what it will make.
    """
    plans = sorted(study.glob(f"{PLAN}*.json"))
    if not plans:
        raise JaxfairError(f"There is no '{study / PLAN}.json'; give the --out of a study that was started.")
    try:
        listed = {about["run"]: about for plan in plans for about in json.loads(plan.read_text())}
        for about in listed.values():
            about |= {"stage": str(about["stage"]), "work": float(about["work"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JaxfairError(f"'{study / PLAN}.json' cannot be read; the study's command writes it again.") from error
    in_queue = {name: task for task, names in _queued(study).items() for name in names}
    return [_planned(Run(study / "runs" / name, {}), about, in_queue) for name, about in listed.items()]


def _queued(study: Path) -> dict[str, list[str]]:
    """Return the runs of each of the study's tasks that are in a cluster's queue."""
    folders = [path.parent for path in (study / EXECUTOR).rglob(slurm.SUBMITTED)]
    return {task: names for folder in folders for task, (_, names) in (slurm.queued(folder) or {}).items()}


def _planned(run: Run, about: Mapping[str, Any], in_queue: Mapping[str, str]) -> Planned:
    """Find out in which state a run is."""
    found = Planned(run, about["stage"], about["work"], "planned")
    if run.done:
        try:
            environment = json.loads((run.path / "environment.json").read_text())
            return found._replace(
                state="done", seconds=environment["seconds"] / max(environment["seconds_shared_by_runs"], 1)
            )
        except (OSError, ValueError, KeyError):
            return found._replace(state="done")
    if (why := run.failure) is not None:
        return found._replace(state="failed", said=why)
    if (lines := processes.holder(run.path)) is not None:
        return found._replace(state="running", said="; ".join([*lines[2:], *lines[:1]]))
    if run.path.name in in_queue:
        return found._replace(state="queued", said=f"task {in_queue[run.path.name]}")
    return found


def seconds_left(found: Sequence[Planned]) -> dict[str, float]:
    """Return by stage about how long its runs still take, at the speed of finished ones and with as many at a time.

    Stages of which none is finished are taken to be as fast as the others together; nothing is known while none is.
    """
    spent, work = defaultdict[str, float](float), defaultdict[str, float](float)
    for one in found:
        if one.state == "done" and one.work:
            spent[one.stage] += one.seconds
            work[one.stage] += one.work
    at_once = max(sum(one.state == "running" for one in found), 1)
    mean = sum(spent.values()) / sum(work.values()) if work else float("nan")
    left = defaultdict[str, float](float)
    for one in found:
        speed = spent[one.stage] / work[one.stage] if work[one.stage] else mean
        left[one.stage] += one.work * speed / at_once if one.state in ("running", "queued", "planned") else 0.0
    return dict(left)


def rows(found: Sequence[Planned]) -> list[tuple[str, ...]]:
    """Return the table: one row a stage, in the order of the plan, as ``HEADS`` says."""
    left = seconds_left(found)
    table = []
    for stage in dict.fromkeys(one.stage for one in found):
        states = Counter(one.state for one in found if one.stage == stage)
        counts = [str(states[state] or "") for state in ("planned", "queued", "running", "done", "failed")]
        time_left = duration(left[stage]) if left[stage] > 0 else ""
        table.append((stage, str(states.total()), *counts, time_left))
    return table


def show(given: Status, _: Sequence[str]) -> None:
    """Print the table, what is being made, and what failed; again and again if that is wished."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    def drawn(found: Sequence[Planned]) -> Group:
        table = Table(title=f"{sum(one.state == 'done' for one in found)} of {len(found)} runs are finished")
        for head in HEADS:
            table.add_column(head, justify="left" if head == "stage" else "right")
        for row in rows(found):
            table.add_row(*row)
        said = [f"{one.state}: {one.run.path.name}: {one.said}" for one in found if one.state in ("running", "failed")]
        return Group(table, *map(Text, said))

    console = Console() if sys.stdout.isatty() else Console(width=160)
    if given.every is not None and not 0 < given.every <= 86_400:
        raise JaxfairError(f"--every is {given.every:g} seconds; give more than 0, and at most a day.")
    found = read(given.study)
    if given.every is None:
        console.print(drawn(found), soft_wrap=True)
        return
    with Live(drawn(found), console=console, auto_refresh=False) as live:
        while any(one.state not in ("done", "failed") for one in found):
            time.sleep(given.every)
            found = read(given.study)
            live.update(drawn(found), refresh=True)


def retry(given: Retry, _: Sequence[str]) -> None:
    """Remove the record of failed runs, and say which."""
    failed = [one.run for one in read(given.study) if one.state == "failed"]
    if unknown := set(given.runs) - {run.path.name for run in failed}:
        raise JaxfairError(f"No run '{min(unknown)}' of '{given.study}' has failed; see its status.")
    for run in failed:
        if not given.runs or run.path.name in given.runs:
            run.retry()
            print(f"{run.path.name} is tried again by the study's command.")
    if not failed:
        print("No run has failed.")


def clean(given: Clean, _: Sequence[str]) -> None:
    """Remove folders of runs that are neither finished nor being made, locks of dead processes, and executors' logs."""
    if not given.study.is_dir():
        raise JaxfairError(f"There is no folder '{given.study}'; give the --out of a study.")
    answers = [slurm.queued(path.parent) for path in (given.study / EXECUTOR).rglob(slurm.SUBMITTED)]
    if None in answers:
        raise JaxfairError("The cluster does not answer (squeue), and runs were submitted from here; try again later.")
    if any(answers):
        raise JaxfairError("The cluster's queue still has runs of this study; cancel them first (scancel).")
    root, executor = given.study / "runs", given.study / EXECUTOR
    if any(processes.holder(path.with_suffix("")) for path in [*given.study.glob("*.lock"), *executor.glob("*.lock")]):
        raise JaxfairError(f"The runs of '{given.study}' are being made; interrupt that first.")
    folders = [
        path for path in sorted(root.glob("*-*")) if (path / "config.json").exists() or (path / "FAILED").exists()
    ]
    gone = [path for path in folders if not Run(path, {}).done and processes.holder(path) is None]
    gone += [path for path in sorted(root.glob("*.lock")) if processes.abandoned(path.with_suffix(""))]
    gone += [executor] * executor.exists()
    for path in gone:
        print(f"{'would remove' if given.dry_run else 'removed'} {path}")
        if given.dry_run:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if not gone:
        print("There is nothing to remove.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    after = "the study goes on"
    commands = {
        "": cli.Command(Status, lambda: show, after, computes=False),
        "retry": cli.Command(Retry, lambda: retry, after, computes=False),
        "clean": cli.Command(Clean, lambda: clean, "finished runs are kept", computes=False),
    }
    return cli.main("python -m experiments.status", __doc__, commands, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
