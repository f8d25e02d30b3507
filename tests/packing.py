"""Small folders and archives for tests of what reads them. Not a test itself."""

import io
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from jaxfair.data.opening import open_files
from tests.layout_sources import write

CONTENTS = {
    "set/b/2.txt": b"two",
    "set/a/1.txt": random.Random(0).randbytes(3000),
    "set/a/ü.txt": b"",
    "table.csv": b"x,y\n" * 200,
    "set/a/long" + "g" * 120 + ".txt": b"long",
}
JUNK = {
    "__MACOSX/set/b/2.txt": b"-",
    "set/._1.txt": b"-",
    ".DS_Store": b"-",
    ".git/config": b"-",
    "set/Thumbs.db": b"-",
}
COMPRESSED = ("tar.gz", "tar.bz2", "tar.xz")
ARCHIVES = ("zip", "tar", *COMPRESSED)


def tar(path: Path, contents: dict[str, bytes], change: Callable[[tarfile.TarFile], object] | None = None) -> Path:
    mode = "w" if path.suffix == ".tar" else f"w:{path.suffix[1:]}"
    with tarfile.open(path, mode) as archive:  # pyright: ignore[reportCallIssue, reportArgumentType]
        folder = tarfile.TarInfo("./set")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in contents.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        if change:
            change(archive)
    return path


def zipped(path: Path, contents: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("set/", b"")
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def packed(
    folder: Path, kind: str, contents: dict[str, bytes], change: Callable[[tarfile.TarFile], object] | None = None
) -> Path:
    """Pack as a folder or an archive of the kind; ``change`` adds to a tar."""
    path = folder / f"packed.{kind}"
    if kind == "folder":
        return write(path, contents)
    return zipped(path, contents) if kind == "zip" else tar(path, contents, change)


def everything(path: Path) -> dict[str, bytes]:
    with open_files(path) as view:
        return dict(view.stream(view.names))
