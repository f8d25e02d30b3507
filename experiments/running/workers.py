"""Processes that make runs for another one: each is told which, one after another, and answers when it is made.

A worker is the command of the study itself, which declares the same runs; ``--only -`` lets it make those whose folders
are named on its standard input, in each line some of one job. When that is closed, as it is when the process ends that
started it, however, the worker finishes the epoch that it is in, saves it, and ends. Knows no JAX, since on a cluster
it only looks after others.
"""

import selectors
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from graphlib import TopologicalSorter
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from jaxfair import processes
from jaxfair.errors import JaxfairError
from jaxfair.runs import Run

DEATHS = 2
"""Of workers after which the run that they were making counts as failed."""


class Place(NamedTuple):
    """Where one worker after another is started.

    Attributes:
        command: of a worker.
        environment: its variables.
        cores: of the CPU that it may use; none given leaves it all.
        log: file that gets its standard error.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    cores: Sequence[int]
    log: Path


class Pool:
    """Workers, one at each place, started when there is something to do and replaced when they die.

    Use as a context manager; at its end the workers save what they are at, and end.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        """Prepare the places; nothing is started yet."""
        self._idle = list(range(len(places)))
        self._places = places
        self._started: dict[int, subprocess.Popen[str]] = {}
        self._busy: dict[int, int] = {}
        self._events = selectors.DefaultSelector()
        self._memory_kills = processes.memory_kills()

    def __enter__(self) -> "Pool":
        """Return the pool."""
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Let all workers end."""
        self.close()
        self._events.close()

    @property
    def idle(self) -> bool:
        """Whether some worker has nothing to do."""
        return bool(self._idle)

    @property
    def busy(self) -> bool:
        """Whether some worker is at work."""
        return bool(self._busy)

    def give(self, job: int, names: Sequence[str]) -> None:
        """Let an idle worker make a job, the runs of these folders; ``wait`` returns its number."""
        place = self._idle.pop(0)
        if place not in self._started:
            self._started[place] = worker = _start(self._places[place])
            assert worker.stdout is not None
            self._events.register(worker.stdout, selectors.EVENT_READ, place)
        self._busy[place] = job
        stdin = self._started[place].stdin
        assert stdin is not None
        with suppress(OSError):  # it has died, which ``wait`` will find
            stdin.write(" ".join(names) + "\n")
            stdin.flush()

    def wait(self) -> tuple[int, str | None]:
        """Wait for a busy worker; return the number of its job, and how the worker ended if it did not answer.

        Raises:
            JaxfairError: the worker ended by itself, as on a full disk; the message is its own.
        """
        while True:
            for key, _ in self._events.select():
                place: int = key.data
                worker = self._started[place]
                assert worker.stdout is not None
                if worker.stdout.readline() and place in self._busy:
                    self._idle.append(place)
                    return self._busy.pop(place), None
                self._events.unregister(worker.stdout)
                del self._started[place]
                status = worker.wait()
                worker.stdout.close()
                if status >= 0:
                    raise JaxfairError(_last_words(self._places[place].log))
                if place in self._busy:
                    self._idle.append(place)
                    return self._busy.pop(place), processes.ending(status, self._memory_kills)

    def close(self) -> None:
        """Let all workers end after the epochs that they are in."""
        workers = list(self._started.values())
        for worker in workers:
            assert worker.stdin is not None
            with suppress(OSError):
                worker.stdin.close()
        try:
            for worker in workers:
                worker.wait()
        except KeyboardInterrupt:
            for worker in workers:
                worker.kill()
            raise


def _start(place: Place) -> subprocess.Popen[str]:
    """Start a worker."""
    place.log.parent.mkdir(parents=True, exist_ok=True)
    pipe, environment = subprocess.PIPE, dict(place.environment)
    command = [*place.command]
    if place.cores:
        command = [sys.executable, "-c", ON_CORES, ",".join(map(str, place.cores)), *command]
    with place.log.open("a") as said:
        return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=said, text=True)


ON_CORES = (
    "import os, sys; os.sched_setaffinity(0, map(int, sys.argv[1].split(','))); os.execv(sys.argv[2], sys.argv[2:])"
)
"""Starts a program on some cores, so that all of its threads are there."""


def _last_words(log: Path) -> str:
    """Return the sentence with which a worker ended."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    last = lines[-1] if lines else "nothing is said"
    return last.removeprefix("error: ") if last.startswith("error: ") else f"A worker ended, see '{log}': {last}"


def work_through(
    pool: Pool,
    jobs: Sequence[Sequence[Path]],
    parents: Sequence[Iterable[int]],
    begin: Callable[[int], object] = lambda job: None,
    skip: Callable[[int], object] = lambda job: None,
) -> None:
    """Let workers make jobs, each when those are settled that it needs.

    A run whose worker is killed is tried once more, and counts as failed when that worker is killed too.

    Args:
        pool: the workers.
        jobs: the folders of each job's runs.
        parents: numbers of the jobs that each needs.
        begin: called with the number of a job that is given to a worker.
        skip: called with the number of one whose runs are all finished or have failed.

    Raises:
        JaxfairError: as ``Pool.wait``.
    """
    order = TopologicalSorter(dict(enumerate(parents)))
    order.prepare()
    waiting, deaths = deque[int](), Counter[int]()
    while order.is_active():
        waiting += order.get_ready()
        while waiting and pool.idle:
            job = waiting.popleft()
            if _open(jobs[job]):
                begin(job)
                pool.give(job, [run.name for run in jobs[job]])
            else:
                skip(job)
                order.done(job)
                waiting += order.get_ready()
        if not pool.busy:
            continue
        job, died = pool.wait()
        if died is None:
            order.done(job)
            continue
        deaths[job] += 1
        if deaths[job] == DEATHS:
            deaths[job] = 0
            for run in _open(jobs[job])[:1]:
                run.fail(f"the process that made it {died}, {DEATHS} times")
        waiting.appendleft(job)


def _open(folders: Sequence[Path]) -> list[Run]:
    """Return the runs that are neither finished nor have failed."""
    return [run for folder in folders if not (run := Run(folder, {})).done and run.failure is None]
