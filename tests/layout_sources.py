"""A folder as the sources in which a user may have it, and what a layout reads from each. Not a test itself."""

import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxfair.data.columns import MISSING, Column, Index
from jaxfair.data.files import Files
from jaxfair.data.opening import open_files


def write(folder: Path, contents: Mapping[str, bytes]) -> Path:
    """Write files by relative name and return the folder."""
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def pack(folder: Path) -> list[Path]:
    """Return the folder, a .zip and a .tar.gz of it, stored in two orders of which none is sorted."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in paths]
    packed = [folder.with_suffix(".zip"), folder.with_suffix(".tar.gz")]
    with zipfile.ZipFile(packed[0], "w") as archive:
        for path, name in reversed(list(zip(paths, names, strict=True))):
            archive.write(path, name)
    with tarfile.open(packed[1], "w:gz") as archive:
        for path, name in sorted(zip(paths, names, strict=True), key=lambda pair: pair[1][::-1]):
            archive.add(path, name)
    return [folder, *packed]


def check_sources_agree(folder: Path, read: Callable[[Files], Index]) -> None:
    """Assert that a folder and its archives give one Index, with the same contents in each row."""
    seen = [_comparable(source, read) for source in pack(folder)]
    assert seen[1] == seen[0], "the .zip differs from the folder"
    assert seen[2] == seen[0], "the .tar.gz differs from the folder"


def counts(index: Index, name: str) -> dict[str, int]:
    """Return how many images have each value of a column."""
    column = index.columns[name]
    return dict(zip(column.names, np.bincount(column.codes, minlength=len(column.names)).tolist(), strict=True))


def values(column: Column | None) -> list[str | None]:
    """Return the value of every row, None where it is missing; check what every column promises."""
    assert column is not None
    assert (column.codes.dtype, column.codes.ndim) == (np.int32, 1)
    assert len(set(column.names)) == len(column.names)
    return [None if code == MISSING else column.names[code] for code in column.codes]


def _comparable(source: Path, read: Callable[[Files], Index]) -> dict[str, Any]:
    with open_files(source) as files:
        index = read(files)
        content = {row: data if isinstance(data, bytes) else data.tobytes() for row, data in index.stream()}
    assert sorted(content) == list(range(len(index.names)))
    columns = {name: (column.names, column.codes.tolist()) for name, column in index.columns.items()}
    split = None if index.split is None else (index.split.names, index.split.codes.tolist())
    return {**index._asdict(), "names": list(index.names), "stream": content, "columns": columns, "split": split}
