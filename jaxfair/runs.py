"""Run directories: what a stage was told, where it ran, and what came out. NumPy in and out; knows no JAX.

    runs/<stage>-<name>-<digest>/
      config.json       the whole configuration, parents by digest; the digest in the name is of this
      environment.json  versions, commit, device, precision, start and end
      metrics.jsonl     one row a logged step
      result.json       numbers, with the count of each group
      *.npz             arrays
      checkpoint/       the network
      DONE              written last: a digest of every file above
      FAILED            in the place of DONE, where the run could not be made: why, and what the program was doing

A directory without DONE is unfinished, and one with a file that is missing or is not as DONE says is damaged: its stage
is run again. One with FAILED is not, until that file is removed. Readers use the files, never the name.
"""

import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from jaxfair.errors import JaxfairError, StorageError


def digest(config: Mapping[str, Any]) -> str:
    """Return 12 hexadecimal digits that depend on the configuration's content only, not on the order of its keys."""
    return _digest_of_plain(_plain(config))


def _digest_of_plain(config: Mapping[str, Any]) -> str:
    """Return the same of a configuration that is JSON already, as those of runs are."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class Run:
    """One run directory."""

    path: Path
    config: dict[str, Any]

    @cached_property
    def digest(self) -> str:
        """The digest of the configuration, by which other runs name this one."""
        return _digest_of_plain(self.config)

    @property
    def done(self) -> bool:
        """Whether the run is finished."""
        return (self.path / "DONE").is_file()

    @property
    def checkpoint_dir(self) -> Path:
        """Where the network lies."""
        return self.path / "checkpoint"

    @property
    def progress_dir(self) -> Path:
        """Where unfinished work is kept; ``finish`` removes it."""
        return self.path / "progress"

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file of the run; see ``jaxfair.runs.write_json``."""
        write_json(self.path / name, value)

    def write_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write an .npz file atomically; equal arrays give equal bytes."""
        temporary = _beside(self.path / name)
        with writing(self.path):
            # Not compressed by date or order: equal arrays give equal bytes.
            np.savez(temporary, **{key: np.asarray(value) for key, value in arrays.items()})  # pyright: ignore
            temporary.replace(self.path / name)

    def write_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write one JSON object a line, atomically."""
        lines = (json.dumps(_plain(row), allow_nan=False) for row in rows)
        _write(self.path / name, "".join(line + "\n" for line in lines).encode())

    def finish(self) -> "Run":
        """Mark the run as finished, and remove its unfinished work; from now on ``read`` accepts it."""
        self.seal()
        self.tidy()
        return self

    def seal(self) -> None:
        """Mark the run as finished: what it was made from is still there, should the process be killed meanwhile."""
        self.retry()
        ignored = {self.path / "DONE", *_hidden(self.path), *self.progress_dir.rglob("*")}
        files = sorted(p for p in self.path.rglob("*") if p.is_file() and p not in ignored and not _of_system(p))
        digests = {p.relative_to(self.path).as_posix(): file_digest(p) for p in files}
        self.write_json("DONE", digests)

    def tidy(self) -> None:
        """Remove the unfinished work of a finished run."""
        shutil.rmtree(self.progress_dir, ignore_errors=True)  # NFS keeps files that are open as .nfs..., for a while

    def fail(self, error: str, traceback: str = "") -> None:
        """Record that the run could not be made, so that it is not tried again before ``retry``.

        Args:
            error: one line for readers.
            traceback: what the program was doing, for who mends it.
        """
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self.write_json("FAILED", {"error": error, "host": socket.gethostname(), "at": now, "traceback": traceback})

    @property
    def failure(self) -> str | None:
        """Why the run could not be made, in one line; None if it has not failed."""
        try:
            return str(json.loads((self.path / "FAILED").read_text())["error"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"its record FAILED cannot be read: {error}"

    def retry(self) -> None:
        """Let a run that failed be made again."""
        with writing(self.path):
            (self.path / "FAILED").unlink(missing_ok=True)

    def json(self, name: str) -> Any:
        """Read a JSON file of a finished run, checked against its digest."""
        return json.loads(self._checked(name).read_text())

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Read an .npz file of a finished run, checked against its digest."""
        with np.load(self._checked(name), allow_pickle=False) as stored:
            return dict(stored)

    def damage(self) -> str | None:
        """Return what is wrong with the run, such as "result.json is missing"; None if every file is as DONE says."""
        if not self.done:
            return "DONE is missing" if self.path.is_dir() else "its folder is missing"
        if not (listed := self._listed()):
            return "DONE was changed"
        return next((f"{name} {state}" for name in listed if (state := _state(self.path / name, listed[name]))), None)

    def check(self) -> None:
        """Raise a JaxfairError if the run is unfinished, or if a file is missing or was changed."""
        if wrong := self.damage():
            raise self._refused(wrong)

    def reopen(self) -> None:
        """Count the run as unfinished from now on, so that ``start`` begins it anew."""
        with writing(self.path):
            (self.path / "DONE").unlink(missing_ok=True)

    def _listed(self) -> dict[str, str]:
        """Return the digest of each file that DONE lists, of none if DONE is not as ``finish`` wrote it."""
        try:
            listed = json.loads((self.path / "DONE").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        except OSError as error:
            raise _unreadable(self.path / "DONE", error) from error
        return listed if isinstance(listed, dict) and "config.json" in listed else {}

    def _checked(self, name: str) -> Path:
        path, listed = self.path / name, self._listed()
        if state := _state(path, listed.get(name)):
            raise self._refused(f"{name} {state}" if listed else self.damage() or "DONE was changed")
        return path

    def _refused(self, wrong: str) -> JaxfairError:
        state = "damaged" if self.done else "not finished"
        return JaxfairError(
            f"The run '{self.path}' is {state} ({wrong}); give its study's command again, which makes it anew."
        )


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically; NumPy values become numbers and lists, NaN and infinities null.

    Raises:
        StorageError: the file cannot be written; one that was there before is kept.
    """
    _write(Path(path), (json.dumps(_plain(value), indent=1, allow_nan=False) + "\n").encode())


def start(root: Path, config: Mapping[str, Any]) -> Run:
    """Open the directory of a configuration: as it is if the run is finished and whole, or else ready to be made.

    A damaged run counts as unfinished from now on. Only one process may make a run at a time, see
    ``jaxfair.processes.locked``.

    Args:
        root: the folder of all runs.
        config: holds ``stage`` and ``name``, both text, and otherwise JSON values, NumPy values or dataclasses.

    Raises:
        StorageError: the folder cannot be written.
    """
    run = locate(root, config)
    if run.damage():
        run.reopen()
        with writing(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
            for half_written in _hidden(run.path):
                half_written.unlink()
        run.write_json("config.json", run.config)
    return run


def locate(root: Path, config: Mapping[str, Any]) -> Run:
    """Return the run of a configuration, as ``start`` does, but write nothing."""
    plain = _plain(config)
    name = re.sub(r"[^A-Za-z0-9_.+-]+", "-", f"{plain['stage']}-{plain['name']}")[:80]
    return Run(Path(root) / f"{name}-{_digest_of_plain(plain)}", plain)


def read(path: Path) -> Run:
    """Open a finished run.

    Raises:
        JaxfairError: there is no finished run, or its configuration was changed. Other files are checked as they are
            read, or all by ``Run.check``.
    """
    run = Run(Path(path), {})
    if not run.path.is_dir():
        raise JaxfairError(f"There is no run in '{path}'; give a folder with a config.json and a DONE file.")
    return Run(Path(path), run.json("config.json"))


def environment() -> dict[str, Any]:
    """Return versions, commit, platform and command line of this process, and the time in UTC as ``started``.

    Versions, commit, and whether there are uncommitted changes, are those when the process first asked: what it has
    imported stays what it was. Where the package does not lie in the root of its git checkout the commit is what the
    variable ``JAXFAIR_COMMIT`` says, as a container or a copied folder may set it, or None, and the changes are None.
    """
    commit, changed = _checkout(Path(__file__).resolve().parents[1])
    return {
        "versions": dict(_versions()),
        "python": sys.version.split()[0],
        "platform": sys.platform,
        "machine": os.uname().machine if hasattr(os, "uname") else None,
        "commit": commit,
        "uncommitted_changes": changed,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@cache
def _versions() -> Mapping[str, str | None]:
    names = ("jaxfair", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "scikit-learn")
    versions: dict[str, str | None] = dict.fromkeys(names)
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


@cache
def _checkout(root: Path) -> tuple[str | None, bool | None]:
    """Ask git for commit and uncommitted changes of the checkout at ``root``, and the environment where it is none."""
    said = os.environ.get("JAXFAIR_COMMIT") or None
    command = ["git", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        if not (root / ".git").exists():  # another project's repository may lie around an installed package
            return said, None
        answer = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return said, None
    head, *others = answer.stdout.splitlines()
    commit = head.removeprefix("# branch.oid ")
    changed = any(not line.startswith("#") for line in others)
    return (None, None) if commit == "(initial)" else (commit, changed)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal into one sentence."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "choose another folder with --out"
        advice = "free some space and run the same command again, which keeps what is finished" if full else advice
        reason = error.strerror or str(error)
        if error.errno in (errno.EEXIST, errno.ENOTDIR):
            reason = "there is a file where a folder is needed"
        raise StorageError(f"'{path}' cannot be written: {reason}; {advice}.") from error


def check_place(folder: Path) -> None:
    """Refuse a folder in which nothing could be written, before the work for it; one that is not there is not made.

    Raises:
        StorageError: it, or the folder that it would be made in, is a file or may not be written in.
    """
    with writing(folder):
        whole = folder.absolute()
        there = next(path for path in (whole, *whole.parents) if path.exists())
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "")
        if not os.access(there, os.W_OK | os.X_OK):  # which says no of a disk that is only read, too
            raise PermissionError(errno.EACCES, f"nothing may be written in '{there}'")


def _write(path: Path, content: bytes) -> None:
    temporary = _beside(path)
    with writing(path):
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def _beside(path: Path) -> Path:
    """Return where this process writes a file before it takes its place; a study's own files have several writers."""
    return path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")


def _hidden(run: Path) -> list[Path]:
    """Return the files of a run that do not count: half-written ones (``_beside``), and what other programs leave."""
    return [path for path in run.glob(".*") if path.is_file()]


def _of_system(path: Path) -> bool:
    """Return whether a file is one that an operating system leaves beside others, and changes as it likes."""
    return path.name == ".DS_Store" or path.name.startswith((".nfs", ".fuse_hidden"))


def _state(path: Path, expected: str | None) -> str | None:
    """Say what is wrong with a file of a finished run, if it is not of the digest that was expected."""
    try:
        if not path.is_file():
            return "is missing"
        return None if file_digest(path) == expected else "was changed"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:  # of a disk that is away, or another user's file: the run may be whole
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> StorageError:
    why = error.strerror or error
    return StorageError(f"'{path}' cannot be read: {why}; nothing was removed, give the same command when it can be.")


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    """Turn dataclasses, NumPy values and tuples into JSON values."""
    if type(value) in (str, int, bool):  # most are, and nothing is quicker to say
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
