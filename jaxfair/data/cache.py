"""The cache of decoded images on disk, which can always be built again.

    <root>/<digest of the key>/
      images.npy    uint8, read as a memory map: a set may be larger than memory
      codes.npy     the codes of the columns and of the split
      index.json    all else that is known of the images, and a checksum of everything
    <root>/.building-<id>/   an entry that is being written, or what a killed build left

An entry is renamed into place when it is whole, so a reader finds all of it or nothing. One that is damaged nonetheless
has another checksum; it is removed and built again.
"""

import contextlib
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
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from jaxfair.data.columns import Column, Index, Rejected
from jaxfair.errors import JaxfairError

Images = UInt8[np.ndarray, "n h w c"]
Allocate = Callable[[tuple[int, ...]], np.ndarray]
"""Called once by a build with the shape (n, height, width, channels); returns zeros of type uint8 to be filled."""

FORMAT = 5  # of an entry; a change of decoding or of a layout raises it too
BUILDING = ".building-"
ABANDONED = 24 * 3600
"""Seconds after which what a killed build left may be removed."""


def user_folder(name: str) -> Path | None:
    """Return ``jaxfair/<name>`` in the user's cache, ``$XDG_CACHE_HOME`` or ``~/.cache``; None without a home.

    Nothing is created, and the folder need not be one that can be written.
    """
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if shared.is_absolute():  # others are to be ignored, says the XDG specification
        return shared / "jaxfair" / name
    own = home()
    return own and own / ".cache" / "jaxfair" / name


def home() -> Path | None:
    """Return the user's own folder; None where there is none, as of a user whom a container does not know."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def default_cache() -> Path:
    """Return the folder of decoded images: ``$JAXFAIR_CACHE``, or ``data`` in the user's cache."""
    chosen = os.environ.get("JAXFAIR_CACHE")
    return Path(chosen) if chosen else user_folder("data") or Path(tempfile.gettempdir()) / "jaxfair" / "data"


def load_or_build(root: Path, key: Mapping[str, Any], build: Callable[[Allocate], Index]) -> tuple[Images, Index]:
    """Return the images of a key, read-only, and what is known of them, built now if they are not in the cache.

    Processes may ask for one key at the same time: each may build, and the first entry stays. A cache that cannot be
    written is not used; a line on standard error says so.

    Args:
        root: The folder of the cache, which is made when something is written.
        key: JSON values that tell this entry from all others, in any order.
        build: A function that fills the array which it allocates, and returns what is known of its images.

    Raises:
        JaxfairError: Neither the cache nor memory can hold the images. Exceptions of ``build`` pass through.
    """
    named = json.dumps({"format": FORMAT, "key": dict(key)}, sort_keys=True)
    folder = root / hashlib.sha256(named.encode()).hexdigest()[:20]
    found = _read(folder)
    if found is not None:
        return found
    with _workplace(root) as place:
        made = []

        def allocate(shape: tuple[int, ...]) -> np.ndarray:
            made.append(_allocate(place, shape))
            return made[0]

        index = build(allocate)
        (images,) = made
        images.flags.writeable = False
        if place is not None and isinstance(images, np.memmap):
            try:
                _write(place, images, index)
                place.rename(folder)
            except OSError as error:  # the file of the images is removed now, and lasts until the map is closed
                if not os.access(folder, os.F_OK):  # otherwise another process was first
                    _report(root, error)
        return images, index


def _read(folder: Path) -> tuple[Images, Index] | None:
    """Return the entry of a folder; None if there is none, or a damaged one, which is reported and removed."""
    if not os.access(folder, os.F_OK):
        return None
    try:
        about = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        images, codes = np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "codes.npy")
        if about["checksum"] != _checksum(images, codes, about["index"]):
            raise ValueError("the checksum is another one")
        return images, _restored(about["index"], codes)
    except Exception as error:  # damage can be of any kind
        if isinstance(error, OSError | MemoryError) and not isinstance(error, FileNotFoundError):
            # It may be whole, and other processes read it.
            print(f"jaxfair: the cached data in '{folder}' cannot be read ({error}); not used.", file=sys.stderr)
            return None
        reason = error.strerror if isinstance(error, OSError) else error
        print(f"jaxfair: the cached data in '{folder}' are damaged ({reason}); building them again.", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _write(place: Path, images: Images, index: Index) -> None:
    """Complete the entry in ``place``, which holds the images already."""
    columns = [*index.columns.values(), *([index.split] if index.split else [])]
    codes = np.stack([column.codes for column in columns]) if columns else np.zeros((0, len(images)), np.int32)
    images.flush()  # pyright: ignore[reportAttributeAccessIssue]
    np.save(place / "codes.npy", codes)
    stored = {
        **{name: getattr(index, name) for name in ("title", "left_out", "rejected")},
        "names": list(index.names),
        "columns": [[name, column.names] for name, column in index.columns.items()],  # a list keeps its order
        "split": index.split.names if index.split else None,
        "unreadable": list(index.unreadable.items()),
    }
    about = {"checksum": _checksum(images, codes, stored), "index": stored}
    (place / "index.json").write_text(json.dumps(about), encoding="utf-8")


def _restored(stored: dict[str, Any], codes: Int[np.ndarray, "columns n"]) -> Index:
    return Index(
        stored["title"],
        stored["names"],
        {name: Column(codes[i], tuple(values)) for i, (name, values) in enumerate(stored["columns"])},
        split=Column(codes[-1], tuple(stored["split"])) if stored["split"] else None,
        left_out=tuple(Rejected(*item) for item in stored["left_out"]),
        rejected=tuple(Rejected(*item) for item in stored["rejected"]),
        unreadable=dict(stored["unreadable"]),
    )


def _checksum(images: np.ndarray, codes: np.ndarray, stored: Mapping[str, Any]) -> int:
    """Return a CRC-32 of an entry: against damage, not against malice, and three times as fast as SHA-256."""
    checksum = zlib.crc32(json.dumps([images.shape, codes.shape, stored]).encode())
    for array in (images, codes):
        checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
    return checksum


def _allocate(place: Path | None, shape: tuple[int, ...]) -> np.ndarray:
    """Return zeros in a file in ``place``, or in memory where there is no room for one."""
    if place is not None:
        path = place / "images.npy"
        try:
            images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
            with path.open("rb+") as file:  # take the space: to write to a map on a full disk would kill the process
                file.seek(-images.nbytes, os.SEEK_END)
                for start in range(0, images.nbytes, 1 << 20):
                    file.write(bytes(min(1 << 20, images.nbytes - start)))
            return images
        except OSError as error:
            path.unlink(missing_ok=True)  # the build may need what space there is
            _report(place.parent, error)
    try:
        return np.zeros(shape, np.uint8)
    except MemoryError as error:
        raise JaxfairError(
            f"The decoded images take {np.prod(shape, dtype=float) / 1e9:.1f} GB, which memory cannot hold; free some "
            "disk space for the cache, or set JAXFAIR_CACHE to a folder on a larger disk."
        ) from error


@contextlib.contextmanager
def _workplace(root: Path) -> Iterator[Path | None]:
    """Make a folder of this process alone inside the cache, removed at the end; None if it cannot be written."""
    place = root / f"{BUILDING}{uuid.uuid4().hex}"
    try:
        place.mkdir(parents=True)
    except OSError as error:
        _report(root, error)
        yield None
        return
    for left in root.glob(f"{BUILDING}*"):
        with contextlib.suppress(OSError):  # another process removes it
            if time.time() - left.stat().st_mtime > ABANDONED:
                shutil.rmtree(left, ignore_errors=True)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _report(root: Path, error: OSError) -> None:
    print(
        f"jaxfair: the cache '{root}' cannot be written ({error.strerror or error}), so the next run decodes the "
        "images again; set JAXFAIR_CACHE to another folder.",
        file=sys.stderr,
    )
