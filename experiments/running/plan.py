"""What a study would do: its runs, which of them are finished, and about how long the others take."""

import re
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments.running import methods, records, stages
from experiments.running.progress import duration
from experiments.running.records import Job, Workspace
from experiments.running.settings import ModelConfig
from jaxfair.networks.network import init
from jaxfair.runs import Run
from jaxfair.training import fit as train
from jaxfair.training.config import TrainConfig

TIMED_STEPS = 5
WORDS = {"train": "train", "steps": "first steps", "linearize": "linearize", "finetune": "fine-tune"}
WORDS |= {
    "analyse": "analyse",
    **stages.BESIDE,
    "compress": "compress",
    "expand": "expand the loss",
    "follow": "follow fine-tuning",
}


class Row(NamedTuple):
    """The runs of one stage and network.

    Attributes:
        stage, label: what they are.
        runs, done: seeds in all, and finished; a damaged run is not, nor one that depends on it.
        seconds: about what the others take.
    """

    stage: str
    label: str
    runs: int
    done: int
    seconds: float


def show(space: Workspace, model: ModelConfig, config: TrainConfig, absent: str = "") -> None:
    """Print the runs that were declared, those left, and an estimate of the time.

    Args:
        space: of the study.
        model: the full network.
        config: of its training.
        absent: why the data are not there; then only the runs and their names are known (``datasets``).
    """
    if absent:
        _show_names(space, absent)
        return
    left = records.left(space.jobs)
    found = rows(space.jobs, speed(space, model, config, left) if left else {}, left)
    shown = [
        (WORDS[r.stage], r.label, str(r.runs), str(r.done), duration(r.seconds) if r.done < r.runs else "")
        for r in found
    ]
    _print(("stage", "network", "runs", "finished", "time left"), shown)
    total, done = sum(row.runs for row in found), sum(row.done for row in found)
    print(f"{done} of {total} runs are finished; the others take about {duration(sum(row.seconds for row in found))}.")
    print(
        f"A rough estimate on this {jax.default_backend()}: from finished runs of the same stage, or else from "
        f"{TIMED_STEPS} timed steps and counted operations, without compilation; an SNL descent is taken to last "
        f"{methods.ASSUMED_DESCENT} epochs."
    )


def _show_names(space: Workspace, absent: str) -> None:
    """Print the runs by their names, which end in a digest that only the data tell."""
    names = {(r.config["stage"], _label(r)): r.path.name for r, _ in reversed([*_each(space.jobs)])}
    found = rows(space.jobs, dict.fromkeys(WORDS, 0.0), ())
    folders = [re.sub(r"-seed\d+$", "-seed*", names[r.stage, r.label].rpartition("-")[0]) + "-*" for r in found]
    shown = [(WORDS[r.stage], r.label, str(r.runs), name) for r, name in zip(found, folders, strict=True)]
    _print(("stage", "network", "runs", "folders"), shown)
    height, width, _ = space.train.image_shape
    print(f"The data cannot be read: {absent}")
    print(
        f"These are the {sum(row.runs for row in found)} runs for images of {height} x {width} pixels; which of them "
        "are finished, and how long the others take, can only be said when the data are there."
    )


def _print(heads: Sequence[str], shown: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Runs of this study")
    for head in heads:
        table.add_column(head, justify="left" if head in ("stage", "network", "folders") else "right", overflow="fold")
    for cells in shown:
        table.add_row(*map(Text, cells))
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table)


def rows(jobs: Sequence[Job], speeds: dict[str, float], left: Collection[Path]) -> list[Row]:
    """Gather runs by stage and network, in their order.

    Args:
        jobs: that were declared.
        speeds: seconds per unit of work of each stage.
        left: the runs that are to be made.
    """
    gathered: dict[tuple[str, str], list[tuple[Run, float]]] = {}
    for run, work in _each(jobs):
        gathered.setdefault((run.config["stage"], _label(run)), []).append((run, work))
    return [
        Row(
            *(stage, label, len(members), sum(run.path not in left for run, _ in members)),
            sum(work * speeds[stage] for run, work in members if run.path in left),
        )
        for (stage, label), members in gathered.items()
    ]


def _label(run: Run) -> str:
    """Return what a run's network is called, and on which other data it was trained, if it was."""
    return ", ".join(filter(None, [run.config["variant"]["label"], records.rebalanced(run)]))


def _each(jobs: Sequence[Job]) -> Iterator[tuple[Run, float]]:
    """Yield every run and its work."""
    return ((run, job.work) for job in jobs for run in job.runs)


def speed(space: Workspace, model: ModelConfig, config: TrainConfig, left: Collection[Path]) -> dict[str, float]:
    """Return seconds per unit of work of each stage, from all runs but those ``left`` or from a few timed steps."""
    seconds: dict[str, list[float]] = {stage: [] for stage in WORDS}
    work: dict[str, list[float]] = {stage: [] for stage in WORDS}
    for run, amount in _each(space.jobs):
        if run.path not in left and amount:
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
