"""A folder, an archive or a single file as one view: names, and the bytes behind them."""

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from jaxfair.data.archives import DAMAGE, is_junk, open_tar, open_zip
from jaxfair.errors import JaxfairError

_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_ARCHIVES = (".zip", *_TAR, ".tar.zst", ".rar", ".7z")  # the last three are known to be archives, and not read


class Files:
    """The regular files of a source, without hidden ones and what macOS and Windows add; build it by ``open_files``.

    A context manager: leaving it closes the archive. One thread at a time may read.

    Attributes:
        path: of the folder, archive or file.
        names: relative, with ``/`` between the parts: sorted in a folder, in the order of storage in an archive.
    """

    def __init__(
        self, path: Path, names: Iterable[str], load: Callable[[str], bytes], close: Callable[[], None] | None = None
    ) -> None:
        self.path = path
        self.names = tuple(names)
        self._known = frozenset(self.names)
        self._load, self._close = load, close
        if not self.names:
            raise JaxfairError(f"{path} holds no files; expected a folder or an archive with the data in it.")

    @property
    def archives(self) -> tuple[str, ...]:
        """The names that are archives themselves; they are not looked into."""
        return tuple(name for name in self.names if name.lower().endswith(_ARCHIVES))

    def read(self, name: str) -> bytes:
        """Return the contents of one file.

        Raises:
            JaxfairError: there is no such name, or its contents are damaged or not accessible.
        """
        self._check(name)
        return self._read(name)

    def stream(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield name and contents of every file of ``names``, once, in the order of ``self.names``: one pass.

        Raises:
            JaxfairError: as ``read``, at the file in question.
        """
        wanted = frozenset(names)
        for name in wanted - self._known:
            self._check(name)
        done = 0
        for name in self.names:
            if name in wanted:
                yield name, self._read(name, done)
                done += 1

    def close(self) -> None:
        """Close the archive; nothing can be read after that."""
        if self._close is not None:
            self._close()

    def __enter__(self) -> "Files":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, name: str) -> None:
        if name not in self._known:
            raise JaxfairError(
                f"There is no file '{name}' in {self.path}, which holds {len(self.names):,}, "
                f"such as '{self.names[0]}'; check the name."
            )

    def _read(self, name: str, done: int = 0) -> bytes:
        try:
            return self._load(name)
        except NotImplementedError as error:
            raise JaxfairError(
                f"'{name}' in {self.path} is packed by a method that Python cannot read; unpack it and give the folder."
            ) from error
        except DAMAGE as error:
            if isinstance(error, OSError) and error.strerror:  # the system's, not a reader's
                raise JaxfairError(f"'{name}' in {self.path} cannot be read: {error.strerror}.") from error
            raise JaxfairError(
                f"'{name}' in {self.path} is damaged, after {done:,} files that could be read; download it again."
            ) from error


def open_files(path: Path) -> Files:
    """Open a folder, a .zip, a .tar (plain, .gz, .bz2 or .xz), or any other file as a view of one name.

    Links are followed in a folder. In an archive they are left out, but for hard links in a tar, which are files.

    Raises:
        JaxfairError: the path is missing, unreadable, without files, cut short, damaged or encrypted, or an archive
            with a name twice or with a name or link that leads out of it.
    """
    _check_readable(path)
    if path.is_dir():
        return Files(path, sorted(name for name, _ in _scan(path)), lambda name: (path / name).read_bytes())
    if path.stat().st_size == 0:
        raise JaxfairError(f"{path} is empty, with 0 bytes; download it again.")
    name = path.name.lower()
    if name.endswith(".zip"):
        return Files(path, *open_zip(path))
    return (
        Files(path, *open_tar(path)) if name.endswith(_TAR) else Files(path, [path.name], lambda _: path.read_bytes())
    )


def open_nested(path: Path) -> Files:
    """Open a source as ``open_files`` does, and with it the archives that lie in a folder.

    The official CelebA is such a folder: ``img_align_celeba.zip`` beside tables. Files of an archive are named
    ``archive/name``. An archive within an archive stays closed.

    Raises:
        JaxfairError: as ``open_files``, for the folder or for an archive in it.
    """
    outer = open_files(path)
    opened = [name for name in outer.archives if name.lower().endswith((".zip", *_TAR))] if path.is_dir() else []
    inner = {name: open_files(path / name) for name in opened}
    if not inner:
        return outer
    loads = {f"{archive}/{name}": (files, name) for archive, files in inner.items() for name in files.names}
    loads |= {name: (outer, name) for name in outer.names if name not in inner}

    def load(name: str) -> bytes:
        files, own = loads[name]
        return files.read(own)

    def close() -> None:
        for files in (outer, *inner.values()):
            files.close()

    return Files(path, loads, load, close)


def identity(path: Path) -> str:
    """Return a digest that changes when the source changes, without reading it.

    It covers name, size and time of change: of every file of a folder, or of the one file and where it lies.

    Raises:
        JaxfairError: the path is missing or unreadable.
    """
    _check_readable(path)
    if path.is_dir():
        seen = sorted((name, entry.stat()) for name, entry in _scan(path))
    else:
        seen = [(str(path.resolve()), path.stat())]
    digest = hashlib.sha256()
    for name, status in seen:
        digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _check_readable(path: Path) -> None:
    if not path.exists():
        raise JaxfairError(f"There is no file or folder {path}; check the path.")
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise JaxfairError(f"{path} cannot be read; ask for permission to read it.")


def _scan(path: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield the regular files below a folder by relative name, following links, but not back to a folder above."""
    folders: list[tuple[str, str, tuple[tuple[int, int], ...]]] = [(str(path), "", ())]
    try:
        while folders:
            folder, prefix, above = folders.pop()
            status = os.stat(folder)  # noqa: PTH116 - a Path for every folder is slower
            if (status.st_dev, status.st_ino) in above:
                continue
            above = (*above, (status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                for entry in entries:
                    if is_junk(entry.name):
                        continue
                    if entry.is_dir():
                        folders.append((entry.path, f"{prefix}{entry.name}/", above))
                    elif entry.is_file():
                        yield prefix + entry.name, entry
                    elif entry.is_symlink():
                        raise JaxfairError(f"{entry.path} is a link to nothing; mend it or remove it.")
    except OSError as error:
        raise JaxfairError(f"{error.filename or path} cannot be read: {error.strerror}.") from error
