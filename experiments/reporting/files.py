"""Files that a command writes where a reader says, beside files of others: they replace its own only, all together."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.running.progress import say
from jaxfair import processes, runs
from jaxfair.errors import JaxfairError


def check_place(path: Path) -> None:
    """Refuse a file before the work for it.

    Raises:
        JaxfairError: it cannot be written, or a link stands there: what takes its place is none.
    """
    runs.check_place(path.parent)
    if path.is_symlink():
        raise JaxfairError(f"'{path}' is a link, which would be lost; name the place that it leads to, or another one.")


def check_own(main: Path, kind: str, sign: str) -> None:
    """Refuse a file before the work for it that cannot be written, or is not of the command that writes it.

    Raises:
        JaxfairError: it cannot, is a link, or is there and holds no ``sign``.
    """
    check_place(main)
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
