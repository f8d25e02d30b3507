"""Job arrays of a SLURM cluster, submitted through submitit: what a task does, and what is known of those submitted.

    executor/slurm/
      submitted.json           tasks by their numbers in the queue, and the folders of the runs that each makes
      <job>_<task>_0_log.out   what a task printed
      worker-<job>_<task>.log  what the process printed that made its runs
      *.pkl, *.sh              submitit's own: the task as it was submitted, and the script for sbatch

A task is given runs for good, so that no locks are needed between nodes. Knows no JAX.
"""

import dataclasses
import getpass
import importlib.util
import json
import math
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from experiments.running.workers import Place, Pool, work_through
from jaxfair import runs
from jaxfair.errors import JaxfairError
from jaxfair.runs import Run

NOTICE = 90
"""Seconds before its time is over in which a task saves what it is at."""
TIMEOUTS = 1000
"""Times that a task may be stopped and queued again; each goes on where the last one was."""
SUBMITTED = "submitted.json"
LOGGING = "SUBMITIT_LOG_LEVEL"


class Resources(NamedTuple):
    """What the tasks of an array are given; see ``executors.Execution``."""

    workers: int
    cpus: int
    memory: float
    minutes: int | None
    partition: str | None
    account: str | None
    constraint: str | None
    gres: str | None


class Batch(NamedTuple):
    """Tasks that are submitted as one array.

    Attributes:
        stage: what they make, in a word.
        tasks: for each task its jobs, for each job the folders of its runs.
        after: numbers of arrays that have to be over before these begin.
        seconds: about what the longest task takes.
    """

    stage: str
    tasks: Sequence[Sequence[Sequence[Path]]]
    after: Iterable[str]
    seconds: float


STUCK = 3
"""Times that a task may be stopped in a row before it has saved anything."""

_at_work: list[tuple[Pool, float]] = []
"""What ``Task.checkpoint`` ends, which submitit calls while the task is at work; and when it began."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What one task of an array does: its jobs, one after another, in a process that saves and is replaced if it dies.

    Attributes:
        command: of the worker.
        environment: variables of its own.
        jobs: for each the folders of its runs.
        logs: folder of its worker's log.
        stuck: how often in a row it was stopped by its time before anything was saved.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]
    jobs: tuple[tuple[Path, ...], ...]
    logs: Path
    stuck: int = 0

    def __call__(self) -> None:
        """Make the jobs."""
        name = "_".join(os.environ[v] for v in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID") if v in os.environ)
        log = self.logs / f"worker-{name or os.environ.get('SLURM_JOB_ID', os.getpid())}.log"
        with Pool([Place(self.command, {**os.environ, **self.environment}, (), log)]) as pool:
            _at_work.append((pool, time.time()))
            work_through(pool, self.jobs, [()] * len(self.jobs), begin=lambda job: print(self.jobs[job][0].name))
            _at_work.pop()

    def checkpoint(self) -> Any:
        """Let the worker save what it is at, and return what is to be submitted again."""
        import submitit

        for pool, _ in _at_work:
            pool.close()
        return submitit.helpers.DelayedSubmission(self.after_a_stop(min((begun for _, begun in _at_work), default=0.0)))

    def after_a_stop(self, begun: float) -> "Task":
        """Return the task as it goes on; a run that is stopped again and again with nothing saved has failed.

        Args:
            begun: when the task began, in seconds since 1970.
        """
        done = [path / "DONE" for job in self.jobs for path in job]
        saved = [file for job in self.jobs for path in job for file in (path / "progress").rglob("*")]
        if any(file.exists() and file.stat().st_mtime >= begun for file in (*done, *saved)):
            return dataclasses.replace(self, stuck=0)
        if self.stuck + 1 < STUCK:
            return dataclasses.replace(self, stuck=self.stuck + 1)
        left = (Run(path, {}) for job in self.jobs for path in job)
        for run in [run for run in left if not run.done and run.failure is None][:1]:
            run.fail(f"its task was stopped {STUCK} times by its time before anything was saved; give more --minutes")
        return dataclasses.replace(self, stuck=0)


def check() -> None:
    """Raise a JaxfairError if nothing can be submitted from here."""
    if importlib.util.find_spec("submitit") is None:
        raise JaxfairError("The executor slurm needs the package submitit; install it by: pip install 'submitit>=1.5'.")
    if missing := [name for name in ("sbatch", "squeue", "srun") if shutil.which(name) is None]:
        raise JaxfairError(
            f"There is no {' and no '.join(missing)} here; start the study on a login node of the cluster."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep submitit, which is imported in the block, from configuring the logging of the whole process."""
    before = os.environ.get(LOGGING)
    os.environ[LOGGING] = "NOCONFIG"
    try:
        yield
    finally:
        del os.environ[LOGGING]
        if before is not None:
            os.environ[LOGGING] = before


def submit(
    folder: Path, batch: Batch, resources: Resources, command: Sequence[str], environment: Mapping[str, str]
) -> str:
    """Submit a batch and note it in ``folder``; return the array's number.

    Raises:
        JaxfairError: the cluster refuses it.
    """
    with _quiet():
        import submitit
        from submitit.core.utils import FailedJobError
    minutes = resources.minutes or math.ceil(3 * batch.seconds / 60) + 10
    after = ":".join(batch.after)
    wishes = {name: getattr(resources, name) for name in ("partition", "account", "constraint", "gres")}
    executor = submitit.SlurmExecutor(folder, max_num_timeout=TIMEOUTS)
    executor.update_parameters(
        job_name=f"jaxfair-{batch.stage}",
        time=minutes,
        mem=f"{math.ceil(1024 * resources.memory)}MB",
        cpus_per_task=resources.cpus,
        array_parallelism=resources.workers,
        signal_delay_s=NOTICE,
        stderr_to_stdout=True,
        srun_args=[f"--cpus-per-task={resources.cpus}"],  # which srun does not take from sbatch since SLURM 22.05
        additional_parameters={"requeue": True},
        **({"dependency": f"afterany:{after}"} if after else {}),
        **{name: value for name, value in wishes.items() if value is not None},
    )
    folder = folder.absolute()
    tasks = [
        Task(tuple(command), dict(environment), tuple(tuple(p.absolute() for p in job) for job in jobs), folder)
        for jobs in batch.tasks
    ]
    try:
        with executor.batch():
            submitted = [executor.submit(task) for task in tasks]
    except (FailedJobError, subprocess.SubprocessError, OSError) as error:
        reason = " ".join(str(error).split())
        raise JaxfairError(f"The cluster refuses the runs of stage '{batch.stage}': {reason[-300:]}.") from error
    noted = [
        {"id": job.job_id, "stage": batch.stage, "runs": [run.name for of_job in task.jobs for run in of_job]}
        for job, task in zip(submitted, tasks, strict=True)
    ]
    runs.write_json(folder / SUBMITTED, known(folder) + noted)
    return submitted[0].job_id.partition("_")[0]


def known(folder: Path) -> list[dict[str, Any]]:
    """Return the tasks that were submitted from a study's folder: their numbers, stages and runs."""
    try:
        return json.loads((folder / SUBMITTED).read_text())
    except (OSError, ValueError):
        return []


def queued(folder: Path) -> dict[str, tuple[str, list[str]]] | None:
    """Return the state and the runs of those tasks that are in the queue; None if the cluster does not answer."""
    tasks = {task["id"]: task["runs"] for task in known(folder)}
    if not tasks:
        return {}
    states = _states(folder)
    return None if states is None else {name: (states[name], tasks[name]) for name in tasks if name in states}


def check_noted(folder: Path) -> None:
    """Refuse to submit beside tasks that were submitted from here and are in no note, as where a disk was full then.

    Two tasks would make the same runs.

    Raises:
        JaxfairError: the queue has such tasks.
    """
    noted = {task["id"] for task in known(folder)}
    if lost := sorted({name.partition("_")[0] for name in _states(folder) or {} if name not in noted}):
        raise JaxfairError(
            f"The queue has runs of this study that were submitted and could not be noted; cancel them (scancel "
            f"{' '.join(lost[:5])}), and give the same command again."
        )


def _states(folder: Path) -> dict[str, str] | None:
    """Return the state of each task in the queue that was submitted from here; None if the cluster does not answer."""
    command = ["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i %T %o"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    found = [line.split(maxsplit=2) for line in answer.stdout.splitlines()]
    # By the script that was submitted, since a cluster that was set up anew counts from 1 again.
    ours = (f"{folder.absolute()}{os.sep}", f"{folder.resolve()}{os.sep}")  # of a link the queue says either
    return {words[0]: words[1].lower() for words in found if len(words) == 3 and words[2].startswith(ours)}


def ended(folder: Path) -> dict[str, str]:
    """Return by a run's name how the last task ended that had it, as far as the cluster still knows."""
    found = {}
    for task in known(folder):
        command = ["scontrol", "--oneliner", "show", "job", task["id"]]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
        except (OSError, subprocess.SubprocessError):  # there is no scontrol, or nobody answers
            answer = ""
        state = next((word.partition("=")[2] for word in answer.split() if word.startswith("JobState=")), "")
        found |= dict.fromkeys(task["runs"], f"{state.lower() or 'over'}, task {task['id']}")
    return found
