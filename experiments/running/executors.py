"""Who makes the runs of a study: this process, processes beside it, or the nodes of a SLURM cluster.

A study's jobs are known before the first one is made, and a job is made from its parents' folders alone. So any process
that is given the study's command can make any of them, and no bit of a result depends on which does: a CPU splits large
sums by its number of threads, which is therefore the same for all (``Execution.threads``).
"""

import dataclasses
import math
import os
import queue
import shlex
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from experiments.running import records, slurm, workers
from experiments.running.progress import EXECUTOR, LOCAL, PLAN, SLURM
from experiments.running.records import Job, Workspace
from experiments.running.settings import Execution
from experiments.running.workers import Place, Pool
from jaxfair import processes, runs
from jaxfair.errors import JaxfairError, did_you_mean
from jaxfair.kernels import choose_on_gpu
from jaxfair.training import sharing

TASKS, MOST_CPUS = 16, 8
"""Of a cluster's array, unless the user says otherwise."""
OF_CLUSTER = ("partition", "account", "constraint", "gres", "cpus", "memory", "minutes")
"""What only a cluster is told."""
POLL, LATE = 5.0, 2.0
"""Seconds between looks at a cluster's queue, and after which other nodes' files are seen."""


Speed = Callable[[Collection[Path]], Mapping[str, float]]
"""Returns seconds per unit of work of each stage, given the runs that are left (``plan.speed``)."""


def begin(execution: Execution) -> None:
    """Check the numbers and set up this process, before JAX looks for devices.

    Raises:
        JaxfairError: a number is impossible, this process lacks devices, or the cluster cannot be used from here.
    """
    numbers = {
        name: getattr(execution, name) for name in ("workers", "threads", "devices", "cpus", "memory", "minutes")
    }
    if wrong := [
        f"{name} {value}" for name, value in numbers.items() if value is not None and not 0 < value < float("inf")
    ]:
        raise JaxfairError(f"The runs are to be made with {' and '.join(wrong)}; give numbers above 0.")
    if execution.executor == "slurm":
        slurm.check()
    import jax

    os.environ["NPROC"] = count = str(threads(execution))
    choose_on_gpu(os.environ, execution.gpu_kernels)
    if execution.executor != "here" and not execution.only:
        jax.config.update("jax_platforms", "cpu")  # the devices are the workers'
    if compiled := jax.config.values["jax_compilation_cache_dir"]:
        # What JAX compiled for other numbers of threads it would take from there, and compute other bits.
        folder = Path(compiled).parent if compiled.endswith("-threads") else Path(compiled)
        jax.config.update("jax_compilation_cache_dir", str(folder / f"{count}-threads"))
    if execution.executor == "here" or execution.only:
        try:
            jax.devices()
        except (RuntimeError, AssertionError) as error:  # a platform that this machine lacks, or flags unknown to XLA
            why = (str(error) or "it has no platform here").splitlines()[0].rstrip(".")
            raise JaxfairError(f"JAX cannot start: {why}; see JAX_PLATFORMS and XLA_FLAGS.") from error
        if execution.devices > 1:
            sharing.check(execution.devices)


def check_used(execution: Execution) -> None:
    """Refuse what the executor would not look at; a worker is given what its study was, see ``only``.

    Raises:
        JaxfairError: an option is of another executor.
    """
    unused = {"here": ("workers", *OF_CLUSTER), "local": OF_CLUSTER}.get(execution.executor, ())
    if not execution.only and (given := [name for name in unused if getattr(execution, name) is not None]):
        wanted = "slurm" if given != ["workers"] else "local or slurm"
        raise JaxfairError(
            f"The executor '{execution.executor}' has no use for --{' --'.join(given)}; give --executor {wanted}, or "
            "leave it out."
        )


def threads(execution: Execution) -> int:
    """Return by how many threads a CPU computes."""
    return execution.threads or processes.asked_threads(os.environ) or len(cores())


def cores() -> list[int]:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def gpus(environment: Mapping[str, str]) -> list[str]:
    """Return the NVIDIA GPUs that processes of this environment see, as CUDA_VISIBLE_DEVICES names them."""
    if environment.get("JAX_PLATFORMS", "") == "cpu":
        return []
    if "CUDA_VISIBLE_DEVICES" in environment:
        return [name for name in environment["CUDA_VISIBLE_DEVICES"].split(",") if name]
    return [path.name.removeprefix("nvidia") for path in sorted(Path("/dev").glob("nvidia[0-9]*"))]


def carry_out(
    space: Workspace,
    execution: Execution,
    command: Sequence[str],
    speed: Speed,
    part: str = "",
) -> None:
    """Make every declared run that is not finished or was damaged; see ``records.carry_out``.

    Args:
        space: of the study.
        execution: who makes them.
        command: of the study, its program first, from which workers are started.
        speed: tells how long tasks of a cluster take.
        part: of the study that these runs are, where it has several that are carried out apart.

    Raises:
        JaxfairError: workers cannot be started, or the cluster did not finish the runs.
    """
    if execution.only:
        _only(space, execution.only)
        return
    out = space.root.parent
    note_plan(space, out / f"{PLAN}{part and f'-{part}'}.json")
    if execution.executor == "here":
        records.carry_out(space)
        return
    folder = out / EXECUTOR / part
    with processes.locked(folder, space.progress.say):
        records.reopen_damaged(space)
        space.progress.expect(sum(len(job.runs) for job in space.jobs))
        space = dataclasses.replace(space, jobs=by_seed(space))
        if execution.executor == "local":
            _locally(space, execution, command, folder / LOCAL)
        else:
            _on_cluster(space, execution, command, speed, folder / SLURM)


def by_seed(space: Workspace) -> list[Job]:
    """Return jobs of which each is of one seed, unless the user said how many seeds are trained in one program."""
    if space.seeds_at_once is not None:
        return space.jobs
    seeds = ([*dict.fromkeys(run.config["seed"] for run in job.runs)] for job in space.jobs)
    return [
        job._replace(runs=[run for run in job.runs if run.config["seed"] == seed])
        for job, of_job in zip(space.jobs, seeds, strict=True)
        for seed in of_job
    ]


def note_plan(space: Workspace, file: Path) -> None:
    """Write which runs the study is of, for ``experiments.status``."""
    with runs.writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    listed = [
        {
            "run": run.path.name,
            "stage": run.config["stage"],
            "work": job.work,
            "parents": [space.known[of].path.name for of in records.parents_of(run) if of in space.known],
        }
        for job in space.jobs
        for run in job.runs
    ]
    runs.write_json(file, listed)


def _only(space: Workspace, names: Sequence[str]) -> None:
    """Make the jobs of some runs."""
    space.progress.expect(sum(len(job.runs) for job in space.jobs))
    by_name = {run.path.name: job for job in space.jobs for run in job.runs}
    if list(names) == ["-"]:
        _serve(space, by_name)
        return
    if unknown := [name for name in names if name not in by_name]:
        raise JaxfairError(f"The study has no run '{unknown[0]}'{did_you_mean(unknown[0], by_name)}")
    parents, wanted = parents_of_jobs(space.jobs), {run.path.name for name in names for run in by_name[name].runs}
    numbers = {number for number, job in enumerate(space.jobs) if job.runs[0].path.name in wanted}
    for number in reversed(range(len(space.jobs))):
        numbers |= parents[number] if number in numbers else set()
    space.progress.expect(sum(len(space.jobs[number].runs) for number in numbers))
    for number in sorted(numbers):
        records.make(space, space.jobs[number])


def _serve(space: Workspace, by_name: Mapping[str, Job]) -> None:
    """Make jobs as they are named on standard input until it is closed; see ``workers``."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is no answer
    asked, at_work = queue.SimpleQueue[str](), threading.Event()

    def listen() -> None:
        for line in sys.stdin:
            asked.put(line.strip())
        asked.put("")
        if at_work.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=listen, daemon=True).start()
    while names := asked.get().split():
        at_work.set()
        job = by_name[names[0]]
        records.make(space, job._replace(runs=[run for run in job.runs if run.path.name in names]))
        at_work.clear()
        print(*names, file=answers, flush=True)


def worker_command(command: Sequence[str]) -> list[str]:
    """Return the command of a worker for the study of a command, whose first word is ``python -m MODULE ...``."""
    program, *options = command
    _, *module = shlex.split(program)
    return [sys.executable, *module, *options, "--executor", "here", "--only", "-"]


def parents_of_jobs(jobs: Sequence[Job]) -> list[set[int]]:
    """Return the numbers of the jobs that each job needs."""
    number_of = {run.digest: number for number, job in enumerate(jobs) for run in job.runs}
    return [
        {number_of[of] for run in job.runs for of in records.parents_of(run) if of in number_of} - {number}
        for number, job in enumerate(jobs)
    ]


def _locally(space: Workspace, execution: Execution, command: Sequence[str], folder: Path) -> None:
    """Make the runs by processes of this machine."""
    places = _places(execution, worker_command(command), folder)

    def announce(number: int) -> None:
        job = space.jobs[number]
        records.announce(space, job, records.possible(space, job))

    with Pool(places) as pool:
        jobs = [[run.path for run in job.runs] for job in space.jobs]
        workers.work_through(pool, jobs, parents_of_jobs(space.jobs), begin=announce, skip=announce)


def _places(execution: Execution, command: Sequence[str], logs: Path) -> list[Place]:
    """Return where the workers of this machine are started: each on its GPUs, or on its share of the cores."""
    devices, mine, each = gpus(os.environ), cores(), execution.devices
    count = execution.workers or max(1, len(devices) // each if devices else len(mine) // 2)
    shared = {**os.environ, "NPROC": str(threads(execution))}
    places = []
    for number in range(count):
        environment = dict(shared)
        if devices:
            on_each = -(-count * each // len(devices))
            own = (devices[(number * each + i) % len(devices)] for i in range(each))
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(dict.fromkeys(own))
            if on_each > 1:
                environment.pop("XLA_PYTHON_CLIENT_MEM_FRACTION", None)  # the old name, refused beside the new one
                environment["XLA_CLIENT_MEM_FRACTION"] = f"{0.8 / on_each:.3f}"
        share = mine[number * len(mine) // count : (number + 1) * len(mine) // count] or mine
        places.append(Place(command, environment, share if count > 1 else (), logs / f"worker-{number + 1}.log"))
    return places


def _on_cluster(
    space: Workspace,
    execution: Execution,
    command: Sequence[str],
    speed: Speed,
    folder: Path,
) -> None:
    """Submit the runs that are not in the cluster's queue yet, wait until none is, and see that all are there."""
    try:
        _submit(space, execution, command, speed, folder)
        _wait(space, folder)
    except KeyboardInterrupt:
        space.progress.say("What was submitted goes on without this process: give the same command to attach again.")
        raise
    time.sleep(LATE)
    if left := [run for job in space.jobs for run in records.possible(space, job)]:
        how = slurm.ended(folder)
        shown = "; ".join(f"{run.path.name} ({how.get(run.path.name, 'not submitted')})" for run in left[:3])
        raise JaxfairError(
            f"{len(left)} runs are neither finished nor in the queue: {shown}; see '{folder}', and give the same "
            "command to submit them again."
        )


def _submit(
    space: Workspace,
    execution: Execution,
    command: Sequence[str],
    speed: Speed,
    folder: Path,
) -> None:
    """Submit an array for each stage of runs, to begin when those are over that it needs."""
    queued = slurm.queued(folder)
    if queued is None:
        raise JaxfairError("The cluster does not answer (squeue); try again later.")
    slurm.check_noted(folder)
    array_of = {name: task.partition("_")[0] for task, (_, names) in queued.items() for name in names}
    parents, depth, arrays = parents_of_jobs(space.jobs), dict[int, int](), dict[tuple[int, str], list[int]]()
    for number, job in enumerate(space.jobs):
        depth[number] = 1 + max((depth[of] for of in parents[number]), default=0)
        left = [run for run in job.runs if not run.done and run.failure is None and run.path.name not in array_of]
        if left:
            arrays.setdefault((depth[number], left[0].config["stage"]), []).append(number)
    if not arrays:
        return
    data = sum(math.prod(images.shape) for images in (space.train.images, space.test.images))  # bytes
    seconds = speed(records.left(space.jobs))
    resources = slurm.Resources(
        workers=execution.workers or TASKS,
        cpus=execution.cpus or min(threads(execution), MOST_CPUS),
        memory=execution.memory or 4 + 3 * data / 1e9,
        **{name: getattr(execution, name) for name in ("minutes", "partition", "account", "constraint", "gres")},
    )
    for (_, stage), numbers in sorted(arrays.items()):
        several = [numbers[first :: resources.workers] for first in range(min(len(numbers), resources.workers))]
        needed = {run.path.name for n in numbers for of in parents[n] for run in space.jobs[of].runs}
        longest = max(sum(space.jobs[n].work * len(space.jobs[n].runs) for n in of_task) for of_task in several)
        batch = slurm.Batch(
            stage=stage,
            tasks=[[[run.path for run in space.jobs[n].runs] for n in of_task] for of_task in several],
            after=sorted({array_of[name] for name in needed if name in array_of}),
            seconds=longest * seconds[stage],
        )
        environment = {"NPROC": str(threads(execution))}
        array = slurm.submit(folder, batch, resources, worker_command(command), environment)
        array_of |= {run.path.name: array for n in numbers for run in space.jobs[n].runs}
        space.progress.say(f"Submitted as job {array}: {stage}, {len(numbers)} jobs in {len(several)} tasks.")


def _wait(space: Workspace, folder: Path) -> None:
    """Wait until the queue has none of the study's tasks, and say how far they are whenever that changes."""
    before = ""
    while (queued := slurm.queued(folder)) is None or queued:
        if queued is not None:
            states = Counter(state for state, _ in queued.values())
            done = sum(run.done for job in space.jobs for run in job.runs)
            said = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
            if (now := f"{done} of {sum(len(job.runs) for job in space.jobs)} runs finished; tasks: {said}") != before:
                space.progress.say(now)
            before = now
        time.sleep(POLL)
