"""Processes: locks of what only one may write, children that end with their parent, and memory that is kept.

The first two are kept by the operating system, which frees a lock and closes a pipe however a process ends, SIGKILL
included.
"""

import ctypes
import errno
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

from jaxfair.errors import JaxfairError
from jaxfair.runs import writing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

MMAP_MAX, TRIM_THRESHOLD = -4, -1
"""What glibc's ``mallopt`` calls the most pieces apart from the heap, and the most free bytes at its end."""
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
"""What a file system answers that has no locks, as some network file systems."""


@contextmanager
def locked(paths: Path | Iterable[Path], say: Callable[[str], object]) -> Iterator[Callable[[str], None]]:
    """Hold the locks of files or folders while the block runs; wait for other processes that hold them.

    A lock is the operating system's, on a file ``NAME.lock`` beside the path that says who holds it; one that a killed
    process left is free. Where there are no locks, the block runs without.

    Args:
        paths: what is to be written, whether it exists or not. Several are locked in the order of their names, so that
            no two processes wait for each other; nor may they lock two in the block in different orders.
        say: gets a sentence for the user where another process has to be waited for, and once where there are no locks.

    Yields:
        A function that writes one line into the locks, such as how far the work is, for ``holder``.

    Raises:
        StorageError: a lock's file cannot be written.
    """
    with ExitStack() as held:
        descriptors = []
        for path in sorted({paths} if isinstance(paths, Path) else set(paths)):
            file = path.with_name(f"{path.name}.lock")
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = _acquire(file, path, say)
            held.callback(os.close, descriptor)
            held.callback(_remove, file)  # before it is freed, so that it is nobody else's
            descriptors.append(descriptor)
        begun = _holder().encode("utf-8", "backslashreplace")

        def note(line: str) -> None:
            for descriptor in descriptors:
                with suppress(OSError):  # it is for readers only
                    written = os.pwrite(descriptor, begun + line.encode("utf-8", "backslashreplace") + b"\n", 0)
                    os.truncate(descriptor, written)

        yield note


def holder(path: Path) -> list[str] | None:
    """Return what the process that holds the lock of ``path`` says of itself, or None if no process holds it.

    Returns:
        Which process it is, on which host and since when; its command; and the line that it noted last, if any.
    """
    try:
        descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR)
    except OSError:
        return None
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return os.pread(descriptor, 100_000, 0).decode(errors="replace").splitlines()
    except OSError:  # no locks
        return None
    finally:
        os.close(descriptor)


def abandoned(path: Path) -> bool:
    """Return whether there is a lock of ``path`` that no process holds, as one that was killed leaves it."""
    return path.with_name(f"{path.name}.lock").exists() and holder(path) is None


def memory_kills() -> int:
    """Return how many processes the kernel has killed since the machine started because memory ran out."""
    counted = 0
    for file in (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events")):
        with suppress(OSError):
            counted += sum(
                int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith("oom_kill ")
            )
    return counted


def ending(status: int, memory_kills_before: int) -> str:
    """Say how a process ended that has the exit status ``status``, negative for a signal.

    Args:
        status: as ``subprocess`` returns it.
        memory_kills_before: ``memory_kills`` before it was started.
    """
    if status >= 0:
        return f"ended with status {status}"
    if -status == signal.SIGKILL and memory_kills() > memory_kills_before:
        return "was killed by the kernel, since memory ran out"
    return f"was killed ({signal.Signals(-status).name})"


def _acquire(file: Path, path: Path, say: Callable[[str], object]) -> int:
    """Return the open file when this process has its lock, or when there are no locks."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _lock(descriptor, path, say) or _is(descriptor, file):
                os.truncate(descriptor, 0)
                os.write(descriptor, _holder().encode("utf-8", "backslashreplace"))
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed the file while this process waited


def _lock(descriptor: int, path: Path, say: Callable[[str], object]) -> bool:
    """Wait for the lock of an open file; return whether there are locks."""
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, "no fcntl")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder, *_ = os.pread(descriptor, 1000, 0).decode(errors="replace").splitlines() or ["another process"]
            say(f"'{path.name}' is being written by {holder}; this process waits for it.")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        _say_once(say, f"There are no locks for '{path.parent}'; start no other process that writes there meanwhile.")
        return False
    return True


@cache
def _say_once(say: Callable[[str], object], sentence: str) -> None:
    say(sentence)


def _is(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def _holder() -> str:
    """Say who this process is, and in the next line by which command it was started."""
    since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    return f"process {os.getpid()} on {socket.gethostname()} since {since}\n{shlex.join(sys.orig_argv)}\n"


def _remove(file: Path) -> None:
    with suppress(OSError):
        file.unlink()


@contextmanager
def leash() -> Iterator[int]:
    """Give the standard input of children that are to end with this process: a pipe in which nothing is written.

    A child calls ``end_with_parent``, which notices that the pipe is closed, as it is when this process ends, however.
    """
    read, write = os.pipe()
    try:
        yield read
    finally:
        os.close(write)
        os.close(read)


def asked_threads(environment: Mapping[str, str]) -> int:
    """Return how many threads the variable NPROC asks of XLA on a CPU; 0 where it says nothing.

    Raises:
        JaxfairError: it is no whole number from 0 on.
    """
    text = environment.get("NPROC", "").strip()
    if text and not text.isdecimal():
        raise JaxfairError(f"The variable NPROC is '{text}'; give a whole number of threads, or leave it unset.")
    return int(text or 0)


def children(commands: Iterable[tuple[Sequence[str], Mapping[str, str]]]) -> list[int]:
    """Run children beside each other and return their exit statuses, negative for signals.

    They are on a ``leash``. Where this process is interrupted, so are they, and it waits for them.

    Args:
        commands: of the children, each with the variables of its environment.

    Raises:
        KeyboardInterrupt: after all have ended; a second one while it waits kills them.
    """
    started: list[subprocess.Popen] = []
    with leash() as stdin:
        try:
            for command, environment in commands:
                started.append(subprocess.Popen(command, env=dict(environment), stdin=stdin))
            return [child.wait() for child in started]
        except BaseException:
            for child in started:
                child.terminate()
            try:
                for child in started:
                    child.wait()
            except KeyboardInterrupt:
                for child in started:
                    child.kill()
            raise


def end_with_parent(*, group: bool = False) -> None:
    """End this process when its parent does, if that gave it a ``leash`` as standard input.

    Args:
        group: whether all processes of its group end with it, such as those that it has started.
    """
    if not stat.S_ISFIFO(os.fstat(0).st_mode):  # started by hand
        return

    def watch() -> None:
        while os.read(0, 1):
            pass
        if group and os.getpgrp() == os.getpid():  # which is not that of a script that pipes something to it
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def keep_memory() -> None:
    """Have this process keep the memory that it frees, for entry points; the library itself sets nothing.

    XLA asks for a program's memory at every call. Pieces of many megabytes go back to Linux when the call ends, which
    clears each of their pages anew for the next. glibc keeps them in the heap of the main thread alone, so that
    programs have to run in it: JAX's option ``jax_cpu_enable_async_dispatch`` is to be false before its first array.
    Numbers are the same. Other C libraries have no such setting, and nothing is set that the environment speaks of
    (``MALLOC_...``, ``GLIBC_TUNABLES``).
    """
    users = any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    libc = None if users or sys.platform != "linux" else ctypes.CDLL(None)
    if libc is not None and hasattr(libc, "mallopt"):
        libc.mallopt(MMAP_MAX, 0)
        libc.mallopt(TRIM_THRESHOLD, -1)
