"""Find the files of a layout by name, in whichever folder of a source they lie."""

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from jaxfair.data.columns import Rejected
from jaxfair.data.files import Files
from jaxfair.errors import JaxfairError


def base(name: str) -> str:
    """Return a file's name without its folders."""
    return name.rpartition("/")[2]


def stem(name: str) -> str:
    """Return a file's name without its folders, up to its first dot: ``000001`` of ``celebA/000001.jpg``."""
    return base(name).partition(".")[0]


def one(files: Files, *patterns: str) -> str | None:
    """Return the one file whose name, without folders, matches one of the patterns; None if there is none.

    Raises:
        JaxfairError: more than one file matches.
    """
    found = sorted(name for name in files.names if any(fnmatchcase(base(name), pattern) for pattern in patterns))
    if len(found) > 1:
        raise JaxfairError(
            f"'{files.path}' holds {len(found)} files {' or '.join(patterns)}, "
            f"'{found[0]}' and '{found[1]}' among them; expected one, so move the others away."
        )
    return found[0] if found else None


def without_copies(names: Sequence[str]) -> tuple[list[str], list[Rejected]]:
    """Split names into the first of each stem and the others: mirrors hold some images twice, in two folders."""
    first: dict[str, str] = {}
    copies = [
        Rejected(name, f"is a second '{stem(name)}', beside '{first[stem(name)]}'")
        for name in names
        if first.setdefault(stem(name), name) != name
    ]
    return list(first.values()), copies


def title(name: str, count: int, full: bool) -> str:
    """Return the title of a set: its name alone only if all of it is there."""
    return name if full else f"{name}, {count:,}-image subset"


def several(names: Sequence[str], shown: int = 3) -> str:
    """Return ``12 files (a, b, c, ...)``."""
    dots = ", ..." if len(names) > shown else ""
    return f"{len(names)} file{'s' if len(names) != 1 else ''} ({', '.join(names[:shown])}{dots})"


def streamer(files: Files, names: Sequence[str]) -> Callable[[], Iterator[tuple[int, Any]]]:
    """Return what ``Index.stream`` is for encoded files: row i is the file ``names[i]``."""
    row = {name: i for i, name in enumerate(names)}
    return lambda: ((row[name], data) for name, data in files.stream(names))
