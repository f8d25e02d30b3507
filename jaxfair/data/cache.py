"""The cache of decoded images on disk.

    <root>/<digest of the key>/
      images.npy    uint8, read as a memory map: a set may be larger than memory
      <name>.npy    further arrays
      entry.json    the key, the record, size and checksum of every array, and a checksum of itself
    <root>/.building-<id>/   an entry that is being written, or what a killed build left

An entry is renamed into place when all of it is on the disk, so a reader finds all of it or nothing.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxfair.errors import JaxfairError

try:
    import fcntl
except ImportError:  # Windows, which deletes no file that is in use
    fcntl = None

Allocate = Callable[[tuple[int, ...]], np.ndarray]
"""Called once by a build with the shape (n, height, width, channels); returns zeros of type uint8 to be filled."""
Build = Callable[[Allocate], tuple[dict[str, np.ndarray], dict[str, Any]]]
"""Fills the images and returns further arrays by name, and a record of JSON values."""

BUILDING = ".building-"
ABANDONED = 24 * 3600
"""Seconds after which what a killed build left may be removed."""


class Entry(NamedTuple):
    """What a build made.

    Attributes:
        arrays: ``images``, a read-only memory map of its file, and the build's further arrays.
        record: of the build, as JSON gives it back: lists for tuples.
        folder: where it lies; None if it is not kept, since the cache cannot be written or there is none.
    """

    arrays: dict[str, np.ndarray]
    record: dict[str, Any]
    folder: Path | None


def user_folder(name: str) -> Path | None:
    """Return ``jaxfair/<name>`` in the user's cache, ``$XDG_CACHE_HOME`` or ``~/.cache``; None without a home.

    Nothing is created, and the folder need not be one that can be written.
    """
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if shared.is_absolute():  # others are to be ignored, says the XDG specification
        return shared / "jaxfair" / name
    try:
        return Path.home() / ".cache" / "jaxfair" / name
    except RuntimeError:  # a user without a home
        return None


def default_cache() -> Path:
    """Return the folder of decoded images: ``$JAXFAIR_CACHE``, or ``data`` in the user's cache."""
    chosen = os.environ.get("JAXFAIR_CACHE")
    return Path(chosen) if chosen else user_folder("data") or Path(tempfile.gettempdir()) / "jaxfair" / "data"


def load_or_build(root: Path | None, key: Mapping[str, Any], build: Build) -> Entry:
    """Return the entry of a key, built now if it is not in the cache; ``build`` is called once at most.

    Processes may ask for one key at the same time: each may build, all of them get the entry that was there first. A
    damaged entry is built again, and a cache that cannot be written is not used; a line on standard error says so.

    Args:
        root: folder of the cache, made when something is written; None keeps nothing.
        key: JSON values that tell this entry from all others; the order of the keys does not matter.
        build: see ``Build``; its exceptions pass through and leave nothing behind.

    Raises:
        JaxfairError: neither the cache nor memory can hold the images.
    """
    if root is None:
        return _build(None, build)
    root = Path(root)
    folder = root / hashlib.sha256(_canonical({"format": 1, "key": dict(key)})).hexdigest()[:20]
    found = _find(folder)
    if found is not None:
        return found
    with _workplace(root) as place:
        entry = _build(place, build)
        if place is None or not isinstance(entry.arrays["images"], np.memmap):
            return entry  # in memory; the line is printed
        try:
            _write(place, key, entry)
            return _publish(place, folder)
        except OSError as error:
            _report(root, error)
            return entry  # its file is removed now and lasts until the map is closed


def _build(place: Path | None, build: Build) -> Entry:
    """Build the images in a file in ``place``, or in memory where there is no room for one."""
    allocated = []

    def allocate(shape: tuple[int, ...]) -> np.ndarray:
        allocated.append(_allocate(place, shape))
        return allocated[0]

    arrays, record = build(allocate)
    (images,) = allocated
    images.flags.writeable = False
    # The same record whether it was read or built.
    return Entry({**arrays, "images": images}, json.loads(_canonical(record)), None)


def _allocate(place: Path | None, shape: tuple[int, ...]) -> UInt8[np.ndarray, "..."]:
    if place is not None:
        try:
            return _on_disk(place / "images.npy", shape)
        except OSError as error:
            (place / "images.npy").unlink(missing_ok=True)  # the build may need what space there is
            _report(place.parent, error)
    try:
        return np.zeros(shape, np.uint8)
    except MemoryError as error:
        raise JaxfairError(
            f"The decoded images take {np.prod(shape, dtype=float) / 1e9:.1f} GB, which memory cannot hold; free some "
            "disk space for the cache, or set JAXFAIR_CACHE to a folder on a larger disk."
        ) from error


def _on_disk(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """Map a new file whose space is reserved: to write to a map on a full disk would kill the process."""
    images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    size = path.stat().st_size
    with path.open("rb+") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except (OSError, AttributeError) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            # macOS and some file systems cannot: zeros take the space as well, only slower.
            file.seek(size - images.nbytes)
            for start in range(0, images.nbytes, _BLOCK):
                file.write(bytes(min(_BLOCK, images.nbytes - start)))
    return images


def _write(place: Path, key: Mapping[str, Any], entry: Entry) -> None:
    """Complete the entry in ``place`` and see that it is on the disk."""
    for name, array in entry.arrays.items():
        if name == "images":
            array.flush()  # pyright: ignore
        else:
            np.save(place / f"{name}.npy", array, allow_pickle=False)
    files = {path.name: {"bytes": path.stat().st_size, "crc32": _checksum(path)} for path in sorted(place.iterdir())}
    content = {"key": dict(key), "record": entry.record, "files": files}
    text = json.dumps({**content, "crc32": zlib.crc32(_canonical(content))}, indent=1)
    (place / "entry.json").write_text(text + "\n", encoding="utf-8")
    for path in place.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    _sync_folder(place)


def _publish(place: Path, folder: Path) -> Entry:
    """Rename the finished entry into place, unless another process was first: then all use that one's."""
    try:
        place.rename(folder)
    except OSError:
        found = _find(folder)
        if found is None:
            raise
        return found
    _sync_folder(folder.parent)
    return _read(folder, check=False)


def _find(folder: Path) -> Entry | None:
    """Return the entry of a folder; None if there is none, or a damaged one, which is reported and removed."""
    if not os.access(folder, os.F_OK):
        return None
    try:
        return _read(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        print(f"jaxfair: the cached data in '{folder}' are damaged ({reason}); building them again.", file=sys.stderr)
    with contextlib.suppress(OSError):
        # Out of the way at once; a reader that has opened its files keeps them.
        shutil.rmtree(folder.rename(folder.with_name(f"{BUILDING}{uuid.uuid4().hex}")), ignore_errors=True)
    return None


def _read(folder: Path, *, check: bool = True) -> Entry:
    content = json.loads((folder / "entry.json").read_bytes())
    if content.pop("crc32") != zlib.crc32(_canonical(content)):
        raise ValueError("entry.json has changed")
    arrays = {}
    for name, about in content["files"].items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{name} is missing")
        if check and (path.stat().st_size != about["bytes"] or _checksum(path) != about["crc32"]):
            raise ValueError(f"{name} has changed")
        arrays[path.stem] = np.load(path, mmap_mode="r" if name == "images.npy" else None, allow_pickle=False)
    return Entry(arrays, content["record"], folder)


@contextlib.contextmanager
def _workplace(root: Path) -> Iterator[Path | None]:
    """Make a folder of this process alone inside the cache, removed at the end; None if it cannot be written."""
    place = root / f"{BUILDING}{uuid.uuid4().hex}"
    with contextlib.ExitStack() as stack:
        try:
            place.mkdir(parents=True)
            stack.callback(shutil.rmtree, place, ignore_errors=True)
            stack.enter_context(_locked(place))
            _sweep(root)
        except OSError as error:
            _report(root, error)
            yield None
        else:
            yield place


def _sweep(root: Path) -> None:
    """Remove what killed builds left, if it is old and no process has it locked."""
    for place in root.glob(f"{BUILDING}*"):
        with contextlib.suppress(OSError):
            if time.time() - place.stat().st_mtime > ABANDONED:
                with _locked(place):
                    shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Lock a folder; the system lets go of it when the process ends, however it does.

    Raises:
        BlockingIOError: another process has it.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(place, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # a file system without locks: age alone decides
            pass
        yield
    finally:
        os.close(descriptor)


def _report(root: Path, error: OSError) -> None:
    print(
        f"jaxfair: the cache '{root}' cannot be written ({error.strerror or error}), so the next run decodes the "
        "images again; set JAXFAIR_CACHE to another folder.",
        file=sys.stderr,
    )


_BLOCK = 1024**2


def _checksum(path: Path) -> int:
    """Return the CRC-32 of a file: against damage, not against malice, and three times as fast as SHA-256."""
    checksum, buffer = 0, bytearray(_BLOCK)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            checksum = zlib.crc32(memoryview(buffer)[:count], checksum)
    return checksum


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # where a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
