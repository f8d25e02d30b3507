"""A folder, an archive or a single file as one view: checked names, and the bytes behind them.

Archives are read in place by the standard library; a compressed tar is unpacked to a temporary file first.
"""

import bz2
import gzip
import hashlib
import lzma
import os
import posixpath
import re
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO

from jaxfair.data.columns import PARTS, nfc
from jaxfair.errors import JaxfairError, short

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
IMAGE_SUFFIXES += (".jfif", ".jpe", ".pbm", ".pnm")
UNREAD_SUFFIXES = (".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl")
"""Of images that are not read, and are not to vanish among other files."""
_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_ARCHIVES = (".zip", *_TAR, ".tar.zst", ".rar", ".7z")  # the last three are known to be archives, and not read
_UNPACKERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_JUNK = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "#recycle", "@eadir"})
# What the readers of the standard library raise for bytes that are not what they should be.
_DAMAGE = (
    EOFError,
    OSError,
    UnicodeDecodeError,
    lzma.LZMAError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


class Files:
    """The regular files of a source, without hidden ones and what systems or studies add; build it by ``open_files``.

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
        return tuple(name for name in self.names if name.lower().endswith(_ARCHIVES))

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
        except _DAMAGE as error:
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


def open_files(path: Path, *, nested: bool = False, wanted: Collection[str] | None = None) -> Files:
    """Open a folder, a .zip, a .tar (plain, .gz, .bz2 or .xz), or any other file as a view of one name.

    Links are followed in a folder. In an archive they are left out, but for hard links in a tar, which are files.

    Args:
        path: The folder, archive or file.
        nested: Whether the archives that lie in a folder are opened too. The official CelebA is such a folder:
            ``img_align_celeba.zip`` beside tables. Files of ``a.zip`` are named as if it were unpacked to a folder
            ``a``, or beside itself where it holds such a folder alone. Beside images, an archive of none, or of those
            that lie there already, stays closed, and so does an archive within an archive.
        wanted: What ``plain_base`` makes of the names that matter; a folder's other files may be unreadable, and
            archives are opened for those alone that it lacks. None says that all matter.

    Raises:
        JaxfairError: The path is missing, unreadable, without files, cut short, damaged or encrypted, or an archive
            with a name twice or with a name or link that leads out of it; or it is unclear what an archive stands for
            that lies beside images.
    """
    _check_readable(path)
    if path.is_dir():
        names = sorted(name for name, _ in _scan(path, wanted))
        files = Files(path, names, lambda name: (path / name).read_bytes())
        return _with_archives(files, wanted) if nested else files
    if path.stat().st_size == 0:
        raise JaxfairError(f"{path} is empty, with 0 bytes; download it again.")
    name = path.name.lower()
    if name.endswith(".zip"):
        return _open_zip(path)
    return _open_tar(path) if name.endswith(_TAR) else Files(path, [path.name], lambda _: path.read_bytes())


def holds_files(path: Path) -> bool:
    """Tell whether a path is a folder or, by its name, an archive that can be opened, rather than a single file."""
    return path.is_dir() or path.name.lower().endswith((".zip", *_TAR))


def _with_archives(outer: Files, wanted: Collection[str] | None) -> Files:
    """Return the files of a folder with those of the archives in it in place of the archives that stand for others."""
    inner = _opened(outer, wanted)
    places: dict[str, tuple[Files, str]] = {}
    for archive, files in inner.items():
        folder = _folder_of(archive, files)
        for name in files.names:
            _add(outer.path, places, folder + name, (files, name))
    for name in outer.names:
        if name not in inner:
            _add(outer.path, places, name, (outer, name))

    def load(name: str) -> bytes:
        files, own = places[name]
        return files.read(own)

    def close() -> None:
        for files in inner.values():
            files.close()

    return Files(outer.path, places, load, close)


def _opened(outer: Files, wanted: Collection[str] | None) -> dict[str, Files]:
    """Return the archives of a folder that are to be looked into, by name."""
    lacking = None if wanted is None else set(wanted) - {"", *map(plain_base, outer.names)}
    opened: dict[str, Files] = {}
    beside = outer.images
    for archive in outer.archives if lacking is None or lacking else ():
        files = open_files(outer.path / archive) if archive.lower().endswith((".zip", *_TAR)) else None
        if lacking is None:
            is_needed = not beside or _stands_for_others(outer, beside, archive, files)
        else:
            is_needed = files is not None and not lacking.isdisjoint(map(plain_base, files.names))
        if files is not None and is_needed:
            opened[archive] = files
        elif files is not None:
            files.close()
    return opened


def _unpacked_name(archive: str) -> str:
    """Return the name of an archive without what says that it is one."""
    return archive[: -len(next(end for end in _ARCHIVES if archive.lower().endswith(end)))]


def _folder_of(archive: str, files: Files) -> str:
    """Return the folder, with ``/`` at its end, below which the files of an archive lie as if it were unpacked."""
    folder = f"{_unpacked_name(archive)}/"
    own = f"{folder[:-1].rpartition('/')[2]}/"
    return folder.removesuffix(own) if all(name.startswith(own) for name in files.names) else folder


def _stands_for_others(outer: Files, beside: list[str], archive: str, files: Files | None) -> bool:
    """Return whether an archive beside images holds other images; raise a JaxfairError where that is unclear.

    What was unpacked, and is still there packed, is not to be there twice; but where the training images are in an
    archive and the test images in a folder, these alone would be trained on.

    Args:
        outer: The folder.
        beside: Its images.
        archive: The name of the archive in it.
        files: What is in the archive; None where it is not read.
    """
    stem, where = _unpacked_name(archive), f"'{short(archive)}' in {outer.path}"
    here = archive[: archive.rfind("/") + 1]
    part = PARTS.get(stem[len(here) :].lower())
    images = files.images if files is not None else []
    if files is None or not images:
        if part and not any(name.startswith(f"{stem}/") for name in beside):
            raise JaxfairError(f"{where} is to be a part of the set, but no image in it can be read; unpack it.")
        return False
    if any(_are_unpacked(images, place, beside, where) for place in dict.fromkeys((_folder_of(archive, files), here))):
        return False
    if part:
        tops = {name: name[len(here) :].partition("/")[0] for name in beside if name.startswith(here)}
        return not _are_copies(outer, [name for name in tops if PARTS.get(tops[name].lower()) == part], where, files)
    if len({name.rpartition("/")[0] for name in images}) > 1:
        raise JaxfairError(
            f"{where} holds several folders of images, and it is unclear what they are to the images beside it; unpack "
            "it where they belong, or move it away."
        )
    return not _are_copies(outer, beside, where, files)


def _are_unpacked(images: list[str], place: str, beside: list[str], where: str) -> bool:
    """Return whether the images of an archive lie in the folder ``place`` by their names, all of them or none."""
    there = len({place + name for name in images}.intersection(beside))
    if 0 < there < len(images):
        raise JaxfairError(
            f"{there:,} of the {len(images):,} images of {where} lie there too; unpack it whole, or move it away."
        )
    return there > 0


def _are_copies(outer: Files, beside: list[str], where: str, files: Files) -> bool:
    """Return whether images of an archive lie in the folder too, under whichever path; of a few that stand for all."""
    named: dict[str, list[str]] = {}
    for name in beside:
        named.setdefault(plain_base(name), []).append(name)
    few = files.images[:: len(files.images) // 20 + 1]
    same = [any(outer.read(other) == files.read(name) for other in named.get(plain_base(name), ())) for name in few]
    if any(same) and not all(same):
        raise JaxfairError(
            f"Some images of {where}, such as '{short(few[same.index(True)])}', lie beside it too, and others do not; "
            "move it away, or unpack it."
        )
    return all(same)


def identity(path: Path, wanted: Collection[str] | None = None) -> str:
    """Return a digest that changes when the source changes, without reading it.

    It covers where the source lies, and name, size and times of change of each file: two unpacked archives may have
    files of one name, size and time, and only when these were written tells them apart.

    Args:
        path: The folder, archive or file.
        wanted: As of ``open_files``: of a folder only these files, and its archives, are covered.

    Raises:
        JaxfairError: The path is missing or unreadable.
    """
    _check_readable(path)
    seen = sorted(_scan(path, wanted)) if path.is_dir() else [("", path.stat())]
    if path.is_dir() and wanted is not None:
        seen = [(name, status) for name, status in seen if _matters(name, wanted)]
    digest = hashlib.sha256(f"{path.resolve()}\0".encode("utf-8", "surrogateescape"))
    for name, status in seen:
        said = f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}\0"
        digest.update(said.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _check_readable(path: Path) -> None:
    if not path.exists():
        raise JaxfairError(f"There is no file or folder {path}; check the path.")
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise JaxfairError(f"{path} cannot be read; ask for permission to read it.")


def plain_base(name: str) -> str:
    r"""Return a file's name without folders, parted by ``/`` or ``\``, however a table spells it."""
    return nfc(name.strip().replace("\\", "/")).rpartition("/")[2]


def _matters(name: str, wanted: Collection[str] | None) -> bool:
    return wanted is None or plain_base(name) in wanted or name.lower().endswith(_ARCHIVES)


def _scan(path: Path, wanted: Collection[str] | None = None) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the regular files below a folder by relative name, following links, but not back to a folder above.

    What a study writes there is passed over, and so are files that go away meanwhile, such as its locks.
    """

    def fail(error: OSError) -> None:
        if wanted is None and not _is_gone(error):
            raise error

    try:
        for folder, folders, names in os.walk(path, onerror=fail, followlinks=True):
            here = Path(folder)
            above = {parent.resolve() for parent in (here, *here.parents)}
            folders[:] = [name for name in folders if not is_junk(name) and (here / name).resolve() not in above]
            if here != path and _is_study(folders, names):
                folders.clear()
                continue
            prefix = "" if here == path else f"{here.relative_to(path).as_posix()}/"
            for name in names:
                if not is_junk(name):
                    try:
                        status = os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118 - a Path for each is slow
                    except OSError as error:
                        if _is_gone(error) or not _matters(name, wanted):
                            continue
                        raise
                    if stat.S_ISREG(status.st_mode):
                        yield prefix + name, status
    except OSError as error:
        if error.filename and Path(error.filename).is_symlink():
            raise JaxfairError(f"{error.filename} is a link to nothing; mend it or remove it.") from error
        raise JaxfairError(f"{error.filename or path} cannot be read: {error.strerror}.") from error


def _is_gone(error: OSError) -> bool:
    """Return whether a file or folder was there a moment ago; a link to nothing still is."""
    return isinstance(error, FileNotFoundError) and not Path(error.filename or "").is_symlink()


def _is_study(folders: Sequence[str], names: Sequence[str]) -> bool:
    """Return whether a folder is what a study writes: a list of its runs, and the runs or what makes them."""
    return not {"runs", "executor"}.isdisjoint(folders) and any(fnmatchcase(name, "plan*.json") for name in names)


def is_junk(part: str) -> bool:
    """Return whether a part of a name is hidden, or one of those that macOS, Windows and storage servers add."""
    return part.startswith(".") or part.lower() in _JUNK


def _open_zip(path: Path) -> Files:
    places: dict[str, zipfile.ZipInfo] = {}
    try:
        archive = zipfile.ZipFile(path)
        for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
            name = _member_name(path, _zip_name(path, info))
            if name is None or info.filename.endswith(("/", "\\")):
                continue
            if info.flag_bits & 1:
                raise JaxfairError(f"{path} is encrypted; unpack it with its password and give the folder.")
            if stat.S_ISLNK(info.external_attr >> 16):
                _check_link(path, name, archive.read(info).decode("utf-8", "replace"))
            else:
                _add(path, places, name, info)
    except (*_DAMAGE, NotImplementedError) as error:
        raise JaxfairError(
            f"{path} is no zip archive, or is cut short or damaged, so that none of its files can be read "
            "(the list of them is at its end); download it again."
        ) from error
    return Files(path, places, lambda name: archive.read(places[name]), archive.close)


def _zip_name(path: Path, info: zipfile.ZipInfo) -> str:
    """Return the name of a member, which Python takes for code page 437 where the archive does not say UTF-8.

    macOS writes UTF-8 without saying so. What is neither, as of a Chinese Windows, would come out as other letters.
    """
    name = info.filename
    if info.flag_bits & 0x800 or name.isascii() or name != info.orig_filename:  # the last is of a field in Unicode
        return name
    try:
        return name.encode("cp437").decode("utf-8")
    except UnicodeDecodeError as error:
        raise JaxfairError(
            f"{path} has a name that is not UTF-8, perhaps '{name}', so that its letters are a guess; unpack it and "
            "give the folder, or pack it again with names in UTF-8."
        ) from error


def _open_tar(path: Path) -> Files:
    """Open a tar archive, compressed by gzip, bzip2, xz or not at all, whatever its name says."""
    data, fault = _unpacked(path)
    places: dict[str, tuple[int, int]] = {}  # offset and size
    whole = 0
    try:
        with tarfile.open(fileobj=data, mode="r:") as tar:
            while (member := tar.next()) is not None:
                whole = len(places)  # next() has seen the end of the file before
                tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue] - a kilobyte each
                _add_member(path, places, member)
            whole = len(places)
            # tarfile takes a broken header and a cut between two files for the end, which is a block of zeros.
            data.seek(tar.offset)
            if data.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("no end mark")
        if fault is not None:
            raise fault
    except _DAMAGE as error:
        data.close()
        raise JaxfairError(
            f"{path} is no tar archive, or is cut short or damaged: {whole:,} of its files could be read; "
            "download it again."
        ) from error

    def load(name: str) -> bytes:
        offset, size = places[name]
        data.seek(offset)
        contents = data.read(size)
        if len(contents) < size:
            raise EOFError
        return contents

    return Files(path, sorted(places, key=lambda name: places[name]), load, data.close)


def _unpacked(path: Path) -> tuple[BinaryIO, Exception | None]:
    """Return the tar without compression, in a temporary file if need be, and what went wrong on the way."""
    file = path.open("rb")
    start = file.read(6)
    file.seek(0)
    opener: Any = next((opener for magic, opener in _UNPACKERS.items() if start.startswith(magic)), None)
    if opener is None:
        return file, None
    data: Any = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the archive
    fault = None
    try:
        with file, opener(file) as packed:
            while chunk := packed.read1(1 << 20):  # read would lose what comes before a fault
                data.write(chunk)
        data.flush()
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.strerror:
            raise JaxfairError(
                f"{path} cannot be unpacked to a temporary file: {error.strerror}; "
                f"make room in {tempfile.gettempdir()} or set TMPDIR to another folder."
            ) from error
        fault = error
    data.seek(0)
    return data, fault


def _add_member(path: Path, places: dict[str, tuple[int, int]], member: tarfile.TarInfo) -> None:
    """Add a regular file or a hard link of a tar; leave out all else that does not lead out of it."""
    name = _member_name(path, member.name)
    if name is None:
        return
    if member.issym():
        _check_link(path, name, member.linkname)
    elif member.islnk():
        target = _member_name(path, member.linkname)
        if target in places:
            _add(path, places, name, places[target])
        elif target is not None:
            raise JaxfairError(
                f"'{name}' in {path} is a link to '{target}', which does not come before it; pack the archive again."
            )
    elif member.issparse():
        raise JaxfairError(f"'{name}' in {path} is stored with holes; pack the archive again without --sparse.")
    elif member.isreg():
        _add(path, places, name, (member.offset_data, member.size))


def _add(path: Path, places: dict[str, Any], name: str, place: Any) -> None:
    if name in places:
        raise JaxfairError(
            f"{path} holds '{name}' twice, so that it is ambiguous which is meant; pack it again without one of them."
        )
    places[name] = place


def _member_name(path: Path, name: str) -> str | None:
    r"""Return the name with ``/`` for ``\`` and without ``./``, or None for what is to be ignored.

    Old packers of Windows part folders by ``\``, which the paths of tables may do too.
    """
    plain = name.replace("\\", "/")
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    if re.match("([A-Za-z]:)?/", plain) or ".." in parts:
        raise JaxfairError(f"{path} holds '{name}', a name that leads out of the archive; get it from a safe source.")
    return None if not parts or any(map(is_junk, parts)) else "/".join(parts)


def _check_link(path: Path, name: str, target: str) -> None:
    end = posixpath.normpath(posixpath.join(posixpath.dirname(name), target.replace("\\", "/")))
    if end.startswith("/") or end.split("/")[0] == "..":
        raise JaxfairError(
            f"'{name}' in {path} is a link to '{target}', out of the archive; pack the files themselves, not links."
        )
