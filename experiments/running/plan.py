"""What a study would do: its runs, which of them are finished, and about how long the others take."""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from experiments.running import stages
from experiments.running.records import Job, Workspace
from experiments.running.stages import ModelConfig
from jaxfair.networks.network import init
from jaxfair.runs import Run
from jaxfair.training import fit as train
from jaxfair.training.fit import TrainConfig

TIMED_STEPS = 5
WORDS = {
    "train": "train",
    "linearize": "linearize",
    "finetune": "fine-tune",
    "analyse": "analyse",
    "sampling": "sampling noise",
}


class Row(NamedTuple):
    """The runs of one stage and network.

    Attributes:
        stage, label: what they are.
        runs, done: seeds in all, and finished.
        seconds: about what the others take.
    """

    stage: str
    label: str
    runs: int
    done: int
    seconds: float


def show(space: Workspace, model: ModelConfig, config: TrainConfig) -> None:
    """Print the runs that were declared, those left, and an estimate of the time."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    left = any(not run.done for run, _ in _each(space.jobs))
    found = rows(space.jobs, speed(space, model, config) if left else {})
    table = Table(title="Runs of this study")
    for column in ("stage", "network", "runs", "finished", "time left"):
        table.add_column(column, justify="left" if column in ("stage", "network") else "right")
    for row in found:
        left = duration(row.seconds) if row.done < row.runs else ""
        table.add_row(WORDS[row.stage], Text(row.label), str(row.runs), str(row.done), left)
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table)
    total, done = sum(row.runs for row in found), sum(row.done for row in found)
    print(f"{done} of {total} runs are finished; the others take about {duration(sum(row.seconds for row in found))}.")
    print(
        f"A rough estimate on this {jax.default_backend()}: from finished runs of the same stage, or else from "
        f"{TIMED_STEPS} timed steps and counted operations, without compilation; an SNL descent is taken to last "
        f"{stages.ASSUMED_DESCENT} epochs."
    )


def rows(jobs: Sequence[Job], speeds: dict[str, float]) -> list[Row]:
    """Gather runs by stage and network, in their order; ``speeds`` are seconds per unit of work of each stage."""
    gathered: dict[tuple[str, str], list[tuple[Run, float]]] = {}
    for run, work in _each(jobs):
        gathered.setdefault((run.config["stage"], run.config["variant"]["label"]), []).append((run, work))
    return [
        Row(
            *(stage, label, len(members), sum(run.done for run, _ in members)),
            sum(work * speeds[stage] for run, work in members if not run.done),
        )
        for (stage, label), members in gathered.items()
    ]


def _each(jobs: Sequence[Job]) -> Iterator[tuple[Run, float]]:
    """Yield every run and its work."""
    return ((run, job.work) for job in jobs for run in job.runs)


def speed(space: Workspace, model: ModelConfig, config: TrainConfig) -> dict[str, float]:
    """Return seconds per unit of work of each stage, from what is finished or from a few timed steps."""
    seconds: dict[str, list[float]] = {stage: [] for stage in WORDS}
    work: dict[str, list[float]] = {stage: [] for stage in WORDS}
    for run, amount in _each(space.jobs):
        if run.done and amount:
            environment = run.json("environment.json")
            seconds[run.config["stage"]].append(environment["seconds"] / environment["seconds_shared_by_runs"])
            work[run.config["stage"]].append(amount)
    timed = np.nan if all(seconds.values()) else _timed(space, model, config)
    return {stage: sum(seconds[stage]) / sum(work[stage]) if work[stage] else timed for stage in WORDS}


def _timed(space: Workspace, model: ModelConfig, config: TrainConfig) -> float:
    """Time a few training steps of the full network, after those that compile."""
    some = space.train.take(np.arange(min(len(space.train), TIMED_STEPS * config.batch_size)))
    network = init(stages.full_module(space.train, model), some.image_shape, 0)
    ends: list[float] = []
    once = train.TrainConfig(epochs=4, batch_size=min(config.batch_size, len(some)), learning_rate=1e-3)
    list(train.fit([network], some, once, seeds=[0], on_epoch=lambda *_: ends.append(time.monotonic())))
    return min(np.diff(ends)) / (len(some) * stages.GRADIENT)


def duration(seconds: float) -> str:
    """Write a time as a reader says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
