"""Run directories: what a stage was told, where it ran, and what came out. NumPy in and out; knows no JAX.

    runs/<stage>-<name>-<digest>/
      config.json       the whole configuration, parents by digest; the digest in the name is of this
      environment.json  versions, commit, device, precision, start and end
      metrics.jsonl     one row a logged step
      result.json       numbers, with the count of each group
      *.npz             arrays
      checkpoint/       the network
      DONE              written last: a digest of every file above

A directory without DONE is unfinished, and its stage may be run again. Readers use the files, never the name.
"""

import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from jaxfair.errors import JaxfairError


def digest(config: Mapping[str, Any]) -> str:
    """Return 12 hexadecimal digits that depend on the configuration's content only, not on the order of its keys."""
    text = json.dumps(_plain(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class Run:
    """One run directory."""

    path: Path
    config: dict[str, Any]

    @property
    def digest(self) -> str:
        """The digest of the configuration, by which other runs name this one."""
        return digest(self.config)

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
        temporary = self.path / f".{name}.tmp.npz"
        with _writing(self.path):
            # Not compressed by date or order: equal arrays give equal bytes.
            np.savez(temporary, **{key: np.asarray(value) for key, value in arrays.items()})  # pyright: ignore
            temporary.replace(self.path / name)

    def write_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write one JSON object a line, atomically."""
        lines = (json.dumps(_plain(row), allow_nan=False) for row in rows)
        _write(self.path / name, "".join(line + "\n" for line in lines).encode())

    def finish(self) -> "Run":
        """Mark the run as finished; from now on ``read`` accepts it."""
        shutil.rmtree(self.progress_dir, ignore_errors=True)
        files = sorted(p for p in self.path.rglob("*") if p.is_file() and p.name != "DONE")
        digests = {p.relative_to(self.path).as_posix(): _file_digest(p) for p in files}
        self.write_json("DONE", digests)
        return self

    def json(self, name: str) -> Any:
        """Read a JSON file of a finished run, checked against its digest."""
        return json.loads(self._checked(name).read_text())

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Read an .npz file of a finished run, checked against its digest."""
        with np.load(self._checked(name), allow_pickle=False) as stored:
            return dict(stored)

    def check_checkpoint(self) -> None:
        """Raise a JaxfairError if a file of the checkpoint was changed after the run."""
        for path in sorted(p for p in self.checkpoint_dir.rglob("*") if p.is_file()):
            self._checked(path.relative_to(self.path).as_posix())

    def _checked(self, name: str) -> Path:
        try:
            digests = json.loads((self.path / "DONE").read_text()) if self.done else {}
        except ValueError:
            digests = {}
        path = self.path / name
        if name not in digests or not path.is_file() or _file_digest(path) != digests[name]:
            state = "was changed after the run" if self.done else "belongs to an unfinished run"
            raise JaxfairError(f"'{path}' {state}; delete the folder '{self.path.name}' and run the stage again.")
        return path


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically; NumPy values become numbers and lists, NaN and infinities null.

    Raises:
        JaxfairError: the file cannot be written; one that was there before is kept.
    """
    _write(Path(path), (json.dumps(_plain(value), indent=1, allow_nan=False) + "\n").encode())


def start(root: Path, config: Mapping[str, Any]) -> Run:
    """Open the directory of a configuration, finished or not, and write its config.json if it is new.

    Args:
        root: the folder of all runs.
        config: holds ``stage`` and ``name``, both text, and otherwise JSON values, NumPy values or dataclasses.

    Raises:
        JaxfairError: the folder cannot be written.
    """
    run = locate(root, config)
    if not run.done:
        with _writing(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
        run.write_json("config.json", run.config)
    return run


def locate(root: Path, config: Mapping[str, Any]) -> Run:
    """Return the run of a configuration, as ``start`` does, but write nothing."""
    plain = _plain(config)
    name = re.sub(r"[^A-Za-z0-9_.+-]+", "-", f"{plain['stage']}-{plain['name']}")[:80]
    return Run(Path(root) / f"{name}-{digest(plain)}", plain)


def read(path: Path) -> Run:
    """Open a finished run.

    Raises:
        JaxfairError: there is no finished run, or its configuration was changed.
    """
    run = Run(Path(path), {})
    if not run.path.is_dir():
        raise JaxfairError(f"There is no run in '{path}'; give a folder with a config.json and a DONE file.")
    return Run(Path(path), run.json("config.json"))


def environment() -> dict[str, Any]:
    """Return versions, commit, platform and command line of this process, and the time in UTC as ``started``.

    The commit, and whether there are uncommitted changes, are those when the process first asked: what it has imported
    stays what it was. Both are None where the package does not lie in the root of its git checkout.
    """
    names = ("jaxfair", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "scikit-learn")
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    commit, changed = _checkout(Path(__file__).resolve().parents[1])
    return {
        "versions": versions,
        "python": sys.version.split()[0],
        "platform": sys.platform,
        "machine": os.uname().machine if hasattr(os, "uname") else None,
        "commit": commit,
        "uncommitted_changes": changed,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@cache
def _checkout(root: Path) -> tuple[str | None, bool | None]:
    """Ask git for commit and uncommitted changes of the checkout at ``root``; None where the package is installed."""
    command = ["git", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        if not (root / ".git").exists():  # another project's repository may lie around an installed package
            return None, None
        answer = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None, None
    head, *others = answer.stdout.splitlines()
    commit = head.removeprefix("# branch.oid ")
    changed = any(not line.startswith("#") for line in others)
    return (None, None) if commit == "(initial)" else (commit, changed)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal into one sentence."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some space and run the same command again" if full else "choose another folder with --out"
        reason = error.strerror or str(error)
        raise JaxfairError(f"'{path}' cannot be written: {reason}; {advice} (finished runs are kept).") from error


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with _writing(path):
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    """Turn dataclasses, NumPy values and tuples into JSON values."""
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
