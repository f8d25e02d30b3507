"""Files that a command writes where a reader says, beside files of others: they replace its own only, all together."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.running.progress import say
from jaxfair import processes
from jaxfair.errors import JaxfairError


def check_no_link(path: Path) -> None:
    """Raise a JaxfairError if a link stands where something is to be written: what takes its place is none."""
    if path.is_symlink():
        raise JaxfairError(f"'{path}' is a link, which would be lost; name the place that it leads to, or another one.")


def check_own(main: Path, kind: str, sign: str) -> None:
    """Raise a JaxfairError if a file is there that holds no ``sign``, and so is not of the command that writes it."""
    check_no_link(main)
    if main.exists() and not _holds(main, sign):
        raise JaxfairError(f"'{main}' is no {kind}, and would be lost; give another --out.")


@contextmanager
def replacing(main: Path, kind: str, sign: str) -> Iterator[Path]:
    """Give an empty folder for files; when all are written they take their places beside each other, ``main`` first.

    Those that were there stay as they were if anything fails. While one process writes, others that come to the same
    file wait.

    Args:
        main: the file by which all are known: where it holds the sign, they are of an earlier call and are replaced.
        kind: says what it is.
        sign: text that it holds.

    Raises:
        JaxfairError: the files cannot be written, or one that is there was not written by such a call.
    """
    scratch = main.with_name(f".{main.name}-making")
    try:
        with processes.locked(main, say):
            check_own(main, kind, sign)
            _remove(scratch)
            scratch.mkdir()
            try:
                yield scratch
                made = sorted(scratch.iterdir(), key=lambda file: (file.name != main.name, file.name))
                for file in made if not main.exists() else ():
                    check_own(main.with_name(file.name), f"file of a {kind}", sign)
                for file in made:
                    file.replace(main.with_name(file.name))
            finally:
                _remove(scratch)
    except OSError as error:
        reason = error.strerror or error
        raise JaxfairError(f"'{main}' cannot be written: {reason}; make room or choose another --out.") from error


def _holds(file: Path, sign: str) -> bool:
    return file.is_file() and sign.encode() in file.read_bytes()


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
