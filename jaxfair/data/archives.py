"""Zip and tar archives read in place: checked names, and the bytes behind them."""

import bz2
import gzip
import io
import lzma
import posixpath
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

from jaxfair.errors import JaxfairError

# What the readers of the standard library raise for bytes that are not what they should be.
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
_UNPACKERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_JUNK = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
# A compressed tar is unpacked once, to a temporary file, for its list and its contents. A pass costs 1 s for 180 MB of
# gzip and for 14 MB of bzip2 or xz. Above this size the disk counts for more, and each use is a pass.
_SPOOL_LIMIT = 1 << 30
_Place = TypeVar("_Place")


class Archive(NamedTuple):
    """An open archive.

    Attributes:
        names: of its regular files, in the order of storage.
        load: returns the contents of one of them, or raises one of ``DAMAGE``, or NotImplementedError for a method of
            packing that Python does not know.
        close: to be called at last.
    """

    names: Iterable[str]
    load: Callable[[str], bytes]
    close: Callable[[], None]


def is_junk(part: str) -> bool:
    """Return whether a part of a name is hidden, or one of those that macOS and Windows add."""
    return part.startswith(".") or part in _JUNK


def open_zip(path: Path) -> Archive:
    """Open a zip archive.

    Raises:
        JaxfairError: it is cut short, damaged or encrypted, holds a name twice, or a name or link that leads out of it.
    """
    try:
        archive = zipfile.ZipFile(path)
        infos = _zip_infos(path, archive)
    except (*DAMAGE, NotImplementedError) as error:
        raise JaxfairError(
            f"{path} is no zip archive, or is cut short or damaged, so that none of its files can be read "
            "(the list of them is at its end); download it again."
        ) from error
    return Archive(infos, lambda name: archive.read(infos[name]), archive.close)


def _zip_infos(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    infos: dict[str, zipfile.ZipInfo] = {}
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        name = _member_name(path, info.filename)
        if name is None or info.is_dir():
            continue
        if info.flag_bits & 1:
            raise JaxfairError(f"{path} is encrypted; unpack it with its password and give the folder.")
        if stat.S_ISLNK(info.external_attr >> 16):
            _check_link(path, name, archive.read(info).decode("utf-8", "replace"))
        else:
            _add(path, infos, name, info)
    return infos


def open_tar(path: Path) -> Archive:
    """Open a tar archive, compressed by gzip, bzip2, xz or not at all, whatever its name says.

    Raises:
        JaxfairError: as ``open_zip``.
    """
    data, fault = _unpack(path)
    places = _tar_places(path, data, fault)

    @lru_cache(maxsize=1)  # so that a hard link, which has its file's place and comes next, is no step back
    def load(place: tuple[int, int]) -> bytes:
        offset, size = place
        data.seek(offset)
        contents = data.read(size)
        if len(contents) < size:
            raise EOFError
        return contents

    names = sorted(places, key=lambda name: places[name])
    return Archive(names, lambda name: load(places[name]), data.close)


def _unpack(path: Path) -> tuple[io.BufferedIOBase, Exception | None]:
    """Return the tar without compression, and what went wrong on the way."""
    with path.open("rb") as file:
        start = file.read(6)
    opener = next((opener for magic, opener in _UNPACKERS.items() if start.startswith(magic)), None)
    if opener is None:
        return path.open("rb"), None
    packed = opener(path, "rb")
    spool = cast(io.BufferedIOBase, tempfile.TemporaryFile())  # noqa: SIM115 - closed by the user
    try:
        # read1, since read loses what comes before a fault
        while (chunk := packed.read1(1 << 20)) and spool.tell() < _SPOOL_LIMIT:
            spool.write(chunk)
        spool.flush()
    except DAMAGE as error:
        if isinstance(error, OSError) and error.strerror:
            raise JaxfairError(
                f"{path} cannot be unpacked to a temporary file: {error.strerror}; "
                f"make room in {tempfile.gettempdir()} or set TMPDIR to another folder."
            ) from error
        return spool, error
    if not chunk:
        return spool, None
    spool.close()
    return packed, None


def _tar_places(path: Path, data: io.BufferedIOBase, fault: Exception | None) -> dict[str, tuple[int, int]]:
    """Return offset and size of every regular file, in the order of storage."""
    places: dict[str, tuple[int, int]] = {}
    whole = 0
    try:
        data.seek(0)
        with tarfile.open(fileobj=data, mode="r:") as tar:
            while (member := tar.next()) is not None:
                whole = len(places)  # next() has seen the end of the file before
                tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue] - a kilobyte each
                _add_tar_member(path, places, member)
            whole = len(places)
            # tarfile takes a broken header and a cut between two files for the end, which is a block of zeros.
            data.seek(tar.offset)
            if data.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("no end mark")
        while data.read(1 << 20):  # up to the checksum of a compressed file
            pass
        if fault is not None:
            raise fault
    except DAMAGE as error:
        raise JaxfairError(
            f"{path} is no tar archive, or is cut short or damaged: {whole:,} of its files could be read; "
            "download it again."
        ) from error
    return places


def _add_tar_member(path: Path, places: dict[str, tuple[int, int]], member: tarfile.TarInfo) -> None:
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


def _add(path: Path, places: dict[str, _Place], name: str, place: _Place) -> None:
    if name in places:
        raise JaxfairError(
            f"{path} holds '{name}' twice, so that it is ambiguous which is meant; pack it again without one of them."
        )
    places[name] = place


def _member_name(path: Path, name: str) -> str | None:
    """Return the name without ``./``, or None for what is to be ignored."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts:
        raise JaxfairError(f"{path} holds '{name}', a name that leads out of the archive; get it from a safe source.")
    return None if not parts or any(map(is_junk, parts)) else "/".join(parts)


def _check_link(path: Path, name: str, target: str) -> None:
    end = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
    if end.startswith("/") or end.split("/")[0] == "..":
        raise JaxfairError(
            f"'{name}' in {path} is a link to '{target}', out of the archive; pack the files themselves, not links."
        )
