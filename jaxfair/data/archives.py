"""Archives, read in place by the standard library; a compressed tar is unpacked to a temporary file first."""

import bz2
import gzip
import lzma
import posixpath
import re
import stat
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from jaxfair.data.files import ARCHIVE_SUFFIXES, DAMAGE, READABLE_ARCHIVES, Files, add_place, is_junk
from jaxfair.errors import JaxfairError

_UNPACKERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}


def is_readable(name: str) -> bool:
    """Tell by its name whether a file is an archive that ``open_archive`` reads."""
    return name.lower().endswith(READABLE_ARCHIVES)


def unpacked_name(archive: str) -> str:
    """Return the name of an archive without what says that it is one."""
    return archive[: -len(next(end for end in ARCHIVE_SUFFIXES if archive.lower().endswith(end)))]


def open_archive(path: Path) -> Files:
    """Open a .zip or a .tar (plain, .gz, .bz2 or .xz); links are left out, but for hard links in a tar.

    Raises:
        JaxfairError: It is cut short, damaged or encrypted, without files, or has a name twice or a name or link that
            leads out of it.
    """
    return _open_zip(path) if path.name.lower().endswith(".zip") else _open_tar(path)


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
                add_place(path, places, name, info)
    except (*DAMAGE, NotImplementedError) as error:
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
    except DAMAGE as error:
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
    except DAMAGE as error:
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
            add_place(path, places, name, places[target])
        elif target is not None:
            raise JaxfairError(
                f"'{name}' in {path} is a link to '{target}', which does not come before it; pack the archive again."
            )
    elif member.issparse():
        raise JaxfairError(f"'{name}' in {path} is stored with holes; pack the archive again without --sparse.")
    elif member.isreg():
        add_place(path, places, name, (member.offset_data, member.size))


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
