"""What layouts share: files found by name, in whichever folder of a source they lie, and sets in arrays."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

import numpy as np

from jaxfair.data.columns import Column, Index, Rejected
from jaxfair.data.files import Files
from jaxfair.errors import JaxfairError

PARTS = ("train", "test")


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


def several(names: Sequence[str]) -> str:
    """Return ``12 files (a, b, c, ...)``."""
    dots = ", ..." if len(names) > 3 else ""
    return f"{len(names)} file{'s' if len(names) != 1 else ''} ({', '.join(names[:3])}{dots})"


def from_arrays(
    name: str, full: Sequence[int], column: str, values: tuple[str, ...], files: Sequence[tuple[str, str, Any, Any]]
) -> Index:
    """Return the index of a set that lies in arrays of 32x32 RGB images, and has one column.

    ``full`` are the numbers of training and test images of the whole set; ``files`` give the part, the name, the images
    (NHWC) and the codes of the column, of each file in order.
    """
    counts = [len(images) for _, _, images, _ in files]
    part = np.repeat([PARTS.index(which) for which, *_ in files], counts).astype(np.int32)
    return Index(
        title=title(name, len(part), full=np.bincount(part, minlength=2).tolist() == list(full)),
        names=[f"{file}[{i}]" for (_, file, *_), count in zip(files, counts, strict=True) for i in range(count)],
        columns={column: Column(np.concatenate([codes for *_, codes in files]), values)},
        stream=lambda: enumerate(chain.from_iterable(images for _, _, images, _ in files)),
        split=Column(part, PARTS) if part.any() else None,
        size=(32, 32, 3),
    )
