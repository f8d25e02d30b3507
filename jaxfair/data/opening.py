"""Opens whatever a path names as one view: a folder, with or without the archives in it, an archive, a single file."""

import hashlib
import os
import stat
from collections.abc import Collection, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from jaxfair.data.archives import is_readable, open_archive, unpacked_name
from jaxfair.data.columns import PARTS
from jaxfair.data.files import ARCHIVE_SUFFIXES, Files, add_place, is_junk, plain_base
from jaxfair.errors import JaxfairError, short


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
    return open_archive(path) if is_readable(path.name) else Files(path, [path.name], lambda _: path.read_bytes())


def holds_files(path: Path) -> bool:
    """Tell whether a path is a folder or, by its name, an archive that can be opened, rather than a single file."""
    return path.is_dir() or is_readable(path.name)


def _with_archives(outer: Files, wanted: Collection[str] | None) -> Files:
    """Return the files of a folder with those of the archives in it in place of the archives that stand for others."""
    inner = _opened(outer, wanted)
    places: dict[str, tuple[Files, str]] = {}
    for archive, files in inner.items():
        folder = _folder_of(archive, files)
        for name in files.names:
            add_place(outer.path, places, folder + name, (files, name))
    for name in outer.names:
        if name not in inner:
            add_place(outer.path, places, name, (outer, name))

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
        files = open_files(outer.path / archive) if is_readable(archive) else None
        if lacking is None:
            is_needed = not beside or _stands_for_others(outer, beside, archive, files)
        else:
            is_needed = files is not None and not lacking.isdisjoint(map(plain_base, files.names))
        if files is not None and is_needed:
            opened[archive] = files
        elif files is not None:
            files.close()
    return opened


def _folder_of(archive: str, files: Files) -> str:
    """Return the folder, with ``/`` at its end, below which the files of an archive lie as if it were unpacked."""
    folder = f"{unpacked_name(archive)}/"
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
    stem, where = unpacked_name(archive), f"'{short(archive)}' in {outer.path}"
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


def _matters(name: str, wanted: Collection[str] | None) -> bool:
    return wanted is None or plain_base(name) in wanted or name.lower().endswith(ARCHIVE_SUFFIXES)


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
