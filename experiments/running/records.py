"""What the stages of a study share: how runs are declared, found, carried out, and recorded when they are finished.

A stage only declares its runs: it opens each by its configuration, which names the runs that it needs by their digests,
and says by which function it is made. ``carry_out`` then makes those that are not finished. A plan therefore knows all
runs before the first one is made, and a run can be made wherever its parents' folders can be read.
"""

import dataclasses
import shlex
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from experiments.running.progress import Progress
from jaxfair import checkpoints, hardware, processes, runs
from jaxfair.data.dataset import Dataset
from jaxfair.errors import JaxfairError, StorageError, is_of_storage
from jaxfair.networks import masks
from jaxfair.networks.architectures import CNN, Module, ResNet
from jaxfair.networks.network import Network, shapes
from jaxfair.runs import Run


class Output(NamedTuple):
    """What was made for a run.

    Attributes:
        run: whose it is.
        network: to be stored as the run's checkpoint; None where the run makes no network.
        result: the numbers of ``result.json``.
    """

    run: Run
    network: Network | None
    result: Mapping[str, Any]


class Job(NamedTuple):
    """Runs that are made together, and how.

    Attributes:
        runs: where each of them is or will be.
        work: what each of them takes, in forward passes of one image through the full network; a guess.
        title: says what is made, without the seeds.
        compute: makes the runs that it is given, any of ``runs``, and yields them in batches as they are ready. It
            writes what a run has beside its network and result, such as arrays.
    """

    runs: Sequence[Run]
    work: float
    title: str
    compute: Callable[[Sequence[Run]], Iterable[Sequence[Output]]]


@dataclasses.dataclass(frozen=True)
class Workspace:
    """What all stages of a study share.

    Attributes:
        root: folder of all runs.
        train, test: the data.
        record: describes the data in every configuration.
        progress: shows what is being made.
        seeds_at_once: how many seeds are trained in one program; None chooses what is fast.
        source: where the data came from, for every record of the environment.
        about: what else every record of the environment says.
        validation: images held out from training, for choices; None where none are.
        devices: how many devices of a process share a training, see ``fit``.
        jobs: what the stages have declared so far, parents before their children.
        known: the declared runs by their digests.
    """

    root: Path
    train: Dataset
    test: Dataset
    record: dict[str, Any]
    progress: Progress
    seeds_at_once: int | None = None
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    validation: Dataset | None = None
    devices: int = 1
    jobs: list[Job] = dataclasses.field(default_factory=list)
    known: dict[str, Run] = dataclasses.field(default_factory=dict)


def declare(
    space: Workspace,
    found: Sequence[Run],
    work: float,
    title: str,
    compute: Callable[[Sequence[Run]], Iterable[Sequence[Output]]],
) -> list[Run]:
    """Declare runs that are made together (see ``Job``) and return them; a run that was declared before stays there."""
    named = {run.digest: run for run in found}
    if new := [run for digest, run in named.items() if digest not in space.known]:
        space.jobs.append(Job(new, work, title, compute))
        space.known.update(named)
    return list(found)


def once(
    space: Workspace, run: Run, work: float, title: str, compute: Callable[[], tuple[Network | None, Mapping[str, Any]]]
) -> Run:
    """Declare a run that is made alone and return it; ``compute`` returns its network, if any, and its result."""
    declare(space, [run], work, title, lambda _: [[Output(run, *compute())]])
    return run


def carry_out(space: Workspace) -> None:
    """Make every declared run that is not finished or was damaged, in the order of their declaration.

    A run that cannot be made is recorded as failed (``Run.fail``) and not tried again, nor is what depends on it; all
    others are made. Several processes may do so for the same runs: each run is made by one of them, and the others wait
    for it.

    Raises:
        StorageError: a folder cannot be written, which is no fault of a run.
    """
    reopen_damaged(space)
    space.progress.expect(sum(len(job.runs) for job in space.jobs))
    for job in space.jobs:
        make(space, job)


def make(space: Workspace, job: Job) -> None:
    """Make those runs of a job that can be made, when no other process makes them; see ``carry_out``.

    What a process left that was killed just after its work is removed: locks, and what is unfinished of finished runs.
    """
    some = bool(possible(space, job))
    locks = [run.path for run in job.runs if some or processes.abandoned(run.path)]
    with processes.locked(locks, space.progress.say) as note:
        if locks and all(run.done for run in job.runs):
            for run in job.runs:
                run.tidy()
        pending = [runs.start(space.root, run.config) for run in possible(space, job)]
        announce(space, job, pending, note)
        if pending:
            _try(space, job, pending)


def possible(space: Workspace, job: Job) -> list[Run]:
    """Return the runs of a job that can be made: neither finished nor failed, and made of finished runs."""
    open_ones = [run for run in job.runs if not run.done and run.failure is None]
    return [run for run in open_ones if all(space.known[of].done for of in parents_of(run) if of in space.known)]


def announce(space: Workspace, job: Job, pending: Sequence[Run], note: Callable[[str], object] | None = None) -> None:
    """Show which runs of a job are made; the others were finished before, or cannot be made."""
    finished = sum(run.done for run in job.runs)
    space.progress.skip(finished)
    space.progress.skip(len(job.runs) - len(pending) - finished, kept=False)
    if pending:
        seeds = {run.config["seed"] for run in pending}
        which = f"seed {min(seeds)}" if len(seeds) == 1 else f"{len(seeds)} seeds"
        space.progress.begin(f"{job.title}, {which}", len(pending), note)


def _try(space: Workspace, job: Job, pending: Sequence[Run]) -> None:
    """Make runs together; if that fails, each that is left alone, and record which of them fails."""
    try:
        _make(space, job, pending)
    except StorageError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and is_of_storage(error):
            raise StorageError(f"The runs cannot be made here: {error}; mend it, and give the same command.") from error
        left = [run for run in pending if not run.done]
        if not left:
            raise
        if len(pending) > 1:
            for run in left:
                _try(space, job, [run])
            return
        line = str(error) if isinstance(error, JaxfairError) else f"{type(error).__name__}: {error}"
        pending[0].fail(" ".join(line.split()), "".join(traceback.format_exception(error)))
        space.progress.say(f"failed: {pending[0].path.name}: {pending[0].failure}")


def _make(space: Workspace, job: Job, pending: Sequence[Run]) -> None:
    started = _now(space)
    for batch in job.compute(pending):
        for output in batch:
            _write(output, started, shared_by=len(batch))
        for output in batch:
            output.run.seal()
        for output in batch:  # when all are finished: what they were trained from together is in the folder of one
            output.run.tidy()
        started = _now(space)


def failures(space: Workspace, out: Path) -> str:
    """Return in one sentence which runs have failed and why, and how the command tries them again; "" if none has."""
    found = {run.path.name: why for job in space.jobs for run in job.runs if (why := run.failure) is not None}
    if not found:
        return ""
    dependent = sum(not run.done for job in space.jobs for run in job.runs) - len(found)
    shown = [f"{name}: {why.rstrip('.')}" for name, why in found.items()][:3]
    shown += [f"and {len(found) - 3} more"] if len(found) > 3 else []
    text = f"{len(found)} {'run' if len(found) == 1 else 'runs'} failed ({'; '.join(shown)})"
    text += f", and {dependent} that depend on {'it' if len(found) == 1 else 'them'} were not made" if dependent else ""
    again = f"python -m experiments.status retry {shlex.quote(str(out))}"
    return f"{text}; mend it, let the same command try again by {again}."


def left(jobs: Sequence[Job]) -> dict[Path, str]:
    """Return the runs that are to be made, and why: what is wrong with a run, or "" if only with one it was made of.

    Every file of every finished run is read and compared with its digest.
    """
    declared = [run for job in jobs for run in job.runs]
    with ThreadPoolExecutor() as pool:
        wrong = list(pool.map(Run.damage, declared))
    found, digests = {}, set()
    for run, why in zip(declared, wrong, strict=True):  # parents come first
        if why or not digests.isdisjoint(parents_of(run)):
            found[run.path] = why or ""
            digests.add(run.digest)
    return found


def reopen_damaged(space: Workspace) -> None:
    """Count finished runs that are to be made again as unfinished, and say which and why."""
    declared = [run for job in space.jobs for run in job.runs]

    def stale() -> tuple[list[Run], dict[Path, str]]:
        found = left(space.jobs)
        return [run for run in declared if run.path in found and run.done], found

    if not (finished := stale()[0]):
        return
    with processes.locked([run.path for run in finished], space.progress.say):
        finished, why = stale()  # another process may have mended them meanwhile
        needed = {digest for run in finished for digest in parents_of(run)}
        damaged = [run for run in declared if why.get(run.path) and (run.done or run.digest in needed)]
        for run in reversed(finished):  # were this interrupted, the damage would still be found
            run.reopen()
    if damaged:
        reasons = {run.path.name: why[run.path] for run in damaged}
        space.progress.say(_mended(reasons, sum(not why[run.path] for run in finished)))


def _mended(reasons: Mapping[str, str], dependent: int) -> str:
    """Say in one line which runs were damaged and why, and how many are made again only since they depend on these."""
    shown = [f"{name}: {why}" for name, why in reasons.items()][:3]
    shown += [f"and {len(reasons) - 3} more"] if len(reasons) > 3 else []
    one = len(reasons) == 1
    text = f"{len(reasons)} {'run was' if one else 'runs were'} damaged ({'; '.join(shown)}) and "
    text += "is made again" if one else "are made again"
    return text + (f", with {dependent} that depend on {'it' if one else 'them'}." if dependent else ".")


def parents_of(run: Run) -> Iterable[str]:
    """Return the digests of the runs that a run is made of."""
    return run.config.get("parents", {}).values()


def open_run(
    space: Workspace,
    stage: str,
    name: str,
    seed: int,
    module: Module,
    variant: Mapping[str, str],
    settings: Mapping[str, Any],
) -> Run:
    """Return the run of a configuration: where it is, or where it will be."""
    fields = [field.name for field in dataclasses.fields(module) if field.name not in ("parent", "name")]
    model = {"network": type(module).__name__, **{field: getattr(module, field) for field in fields}}
    shared = {"stage": stage, "name": name, "seed": seed, "variant": variant, "data": space.record, "model": model}
    return runs.locate(space.root, {**shared, **settings})


def module_of(run: Run) -> Module:
    """Return the architecture of a run's network."""
    stored = dict(run.config["model"])
    network = {"ResNet": ResNet, "CNN": CNN}[stored.pop("network", "ResNet")]
    return network(**{key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()})


def rebalanced(run: Run) -> str:
    """Return which other imbalance the data of a run have; nothing if they are those of the study."""
    return run.config.get("data", {}).get("rebalance") or ""


def settings_of(config: Any) -> dict[str, Any]:
    """Return what decides the result; how often it is saved, and when a descent gives up, do not."""
    return _decisive(dataclasses.asdict(config))


def _decisive(settings: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in settings.items() if key not in ("checkpoint_seconds", "max_epochs")}
    return {key: _decisive(value) if isinstance(value, dict) else value for key, value in kept.items()}


def load_network(run: Run) -> Network:
    """Read the network of a finished run.

    Raises:
        JaxfairError: the run is not finished or damaged, or its checkpoint does not fit its configuration.
    """
    run.check()
    return checkpoints.restore(run.checkpoint_dir, shapes(module_of(run), tuple(run.config["data"]["image_shape"])))


def _write(output: Output, started: Mapping[str, Any], *, shared_by: int) -> None:
    """Write a network, its result, and where and how long it was made; ``shared_by`` runs were made together."""
    run, network, result = output
    if network is not None:
        checkpoints.save(run.checkpoint_dir, 0, network)
        counts = {"relu_count": masks.relu_count(network.masks), "unit_count": masks.unit_count(network.masks)}
        result = {**counts, **result}
    run.write_json("result.json", result)
    seconds = time.monotonic() - started["clock"]  # which no change of the time of day moves
    finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    environment = {**hardware.describe(), **started["environment"], "finished": finished}
    environment |= {"seconds": round(seconds, 2), "seconds_shared_by_runs": shared_by}
    run.write_json("environment.json", environment)


def _now(space: Workspace) -> dict[str, Any]:
    """Return the environment that a run starts in."""
    return {
        "clock": time.monotonic(),
        "environment": {**runs.environment(), "data_source": space.source, **space.about},
    }
