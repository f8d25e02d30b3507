"""A source as one view, whatever it is kept in: checked names, and the bytes behind them."""

import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxfair.data.columns import nfc
from jaxfair.errors import JaxfairError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
IMAGE_SUFFIXES += (".jfif", ".jpe", ".pbm", ".pnm")
UNREAD_SUFFIXES = (".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl")
"""Of images that are not read, and are not to vanish among other files."""
READABLE_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
ARCHIVE_SUFFIXES = (*READABLE_ARCHIVES, ".tar.zst", ".rar", ".7z")
_JUNK = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "#recycle", "@eadir"})
DAMAGE = (
    EOFError,
    OSError,
    UnicodeDecodeError,
    lzma.LZMAError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What the readers of the standard library raise for bytes that are not what they should be."""


class Files:
    """The regular files of a source, without hidden ones and what systems or studies add; ``open_files`` builds it.

    A context manager: leaving it closes the archive. One thread at a time may read.

    Attributes:
        path: The folder, archive or file.
        names: Relative names, with ``/`` between the parts: sorted in a folder, in the order of storage in an archive.
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
        return tuple(name for name in self.names if name.lower().endswith(ARCHIVE_SUFFIXES))

    @property
    def images(self) -> list[str]:
        """The names of the images, sorted, so that a folder and an archive of it give one order."""
        return sorted(name for name in self.names if name.lower().endswith(IMAGE_SUFFIXES))

    def read(self, name: str) -> bytes:
        """Return the contents of one file.

        Raises:
            JaxfairError: There is no such name, or its contents are damaged or not accessible.
        """
        return self._read(name)

    def stream(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield name and contents of every file of ``names``, once, in the order of ``self.names``: one pass.

        Raises:
            JaxfairError: As ``read``, at the file in question.
        """
        wanted = frozenset(names)
        chosen = [name for name in self.names if name in wanted]
        for done, name in enumerate([*(wanted - self._known), *chosen]):
            yield name, self._read(name, done)

    def rows(self, names: Sequence[str]) -> Iterator[tuple[int, bytes]]:
        """Yield the position in ``names`` and the contents of each file, as ``stream`` does."""
        row = {name: i for i, name in enumerate(names)}
        return ((row[name], data) for name, data in self.stream(names))

    def _read(self, name: str, done: int = 0) -> bytes:
        if name not in self._known:
            raise JaxfairError(
                f"There is no file '{name}' in {self.path}, which holds {len(self.names):,}, "
                f"such as '{self.names[0]}'; check the name."
            )
        what = f"'{name}' in {self.path}"
        try:
            return self._load(name)
        except NotImplementedError as error:
            raise JaxfairError(
                f"{what} is packed by a method that Python cannot read; unpack it and give the folder."
            ) from error
        except DAMAGE as error:
            if isinstance(error, OSError) and error.strerror:  # the system's, not a reader's
                raise JaxfairError(f"{what} cannot be read: {error.strerror}.") from error
            raise JaxfairError(
                f"{what} is damaged, after {done:,} files that could be read; download it again."
            ) from error

    def close(self) -> None:
        """Close the archive; nothing can be read after that."""
        if self._close is not None:
            self._close()

    def __enter__(self) -> "Files":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def plain_base(name: str) -> str:
    r"""Return a file's name without folders, parted by ``/`` or ``\``, however a table spells it."""
    return nfc(name.strip().replace("\\", "/")).rpartition("/")[2]


def is_junk(part: str) -> bool:
    """Return whether a part of a name is hidden, or one of those that macOS, Windows and storage servers add."""
    return part.startswith(".") or part.lower() in _JUNK


def add_place(path: Path, places: dict[str, Any], name: str, place: Any) -> None:
    if name in places:
        raise JaxfairError(
            f"{path} holds '{name}' twice, so that it is ambiguous which is meant; pack it again without one of them."
        )
    places[name] = place
