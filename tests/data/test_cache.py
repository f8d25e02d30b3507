"""The cache on disk: found again, safe against other processes, kills and damage, and never a must."""

import errno
import multiprocessing
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxfair.data import cache as store
from jaxfair.data import sources
from jaxfair.data.columns import Column, Index, Rejected
from jaxfair.errors import JaxfairError

KEY = {"source": "a", "size": [2, 3], "options": {"x": 1, "y": None}}
IMAGES = np.random.default_rng(0).integers(0, 256, (7, 2, 3, 1)).astype(np.uint8)
LABEL = Column(np.arange(7, dtype=np.int32), tuple("abcdefg"))
SPLIT = Column(np.array([0, 1, -1, 0, 0, 1, 1], np.int32), ("train", "test"))
INDEX = Index(
    title="made",
    names=["é 0", *(f"image {i}" for i in range(1, 7))],
    columns={"z": LABEL, "label": Column(LABEL.codes[::-1].copy(), LABEL.names)},
    split=SPLIT,
    left_out=(Rejected("a", "is none"),),
    rejected=(Rejected("b", "is one"), Rejected("c", "is another")),
    unreadable={3: "is cut short"},
)


def build(allocate: store.Allocate) -> Index:
    allocate(IMAGES.shape)[:] = IMAGES
    return INDEX


def no_build(allocate: store.Allocate) -> Any:
    raise AssertionError("is in the cache, yet built again")


def assert_whole(entry: tuple[np.ndarray, Index]) -> None:
    images, index = entry
    np.testing.assert_array_equal(images, IMAGES)
    assert images.dtype == np.uint8
    assert not images.flags.writeable
    for found, expected in zip(all_columns(index), all_columns(INDEX), strict=True):
        assert (found[0], found[1].names) == (expected[0], expected[1].names)
        np.testing.assert_array_equal(found[1].codes, expected[1].codes)
    nothing = {"columns": {}, "split": None}
    assert index._replace(stream=INDEX.stream, **nothing) == INDEX._replace(**nothing)


def all_columns(index: Index) -> list[tuple[str, Column]]:
    assert index.split is not None
    return [*index.columns.items(), ("split", index.split)]


def entry_folder(root: Path) -> Path:
    (only,) = root.iterdir()
    return only


def test_what_was_built_is_found_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "new" / "cache"
    for how in (build, no_build):
        entry = store.load_or_build(root, KEY, how)
        assert_whole(entry)
        assert isinstance(entry[0], np.memmap)
        assert entry_folder(root).name.isalnum()
    assert capsys.readouterr().err == ""


def test_images_of_which_nothing_is_known_are_found_again(tmp_path: Path) -> None:
    def bare(allocate: store.Allocate) -> Index:
        return build(allocate) and Index("bare", list("abcdefg"), {})

    for how in (bare, no_build):
        assert store.load_or_build(tmp_path, KEY, how)[1][:3] == ("bare", list("abcdefg"), {})


def test_what_was_just_built_is_not_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(np, "load", no_build)
        assert store.load_or_build(tmp_path, KEY, build)[1] is INDEX
    assert_whole(store.load_or_build(tmp_path, KEY, no_build))


def test_the_order_of_the_key_does_not_matter_and_its_content_does(tmp_path: Path) -> None:
    store.load_or_build(tmp_path, KEY, build)
    turned = {"options": {"y": None, "x": 1}, "size": (2, 3), "source": "a"}
    assert_whole(store.load_or_build(tmp_path, turned, no_build))
    with pytest.raises(AssertionError, match="built again"):
        store.load_or_build(tmp_path, KEY | {"size": [3, 2]}, no_build)


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def broken(allocate: store.Allocate) -> Any:
        allocate((7, 2, 3, 1))[:3] = 1
        raise OSError(errno.ENOSPC, "of the build's own")

    with pytest.raises(OSError, match="own"):
        store.load_or_build(tmp_path, KEY, broken)
    assert not list(tmp_path.iterdir())


DAMAGE = {
    "a bit flipped": ("images.npy", lambda p: p.write_bytes(p.read_bytes()[:-1] + bytes([p.read_bytes()[-1] ^ 1]))),
    "cut short": ("images.npy", lambda p: p.write_bytes(p.read_bytes()[:-1])),
    "another shape": ("images.npy", lambda p: p.write_bytes(p.read_bytes().replace(b"(7, 2, 3, 1)", b"(7, 3, 2, 1)"))),
    "codes changed": ("codes.npy", lambda p: p.write_bytes(p.read_bytes()[:-1] + b"\1")),
    "codes of another shape": ("codes.npy", lambda p: p.write_bytes(p.read_bytes().replace(b"(3, 7)", b"(7, 3)"))),
    "empty": ("codes.npy", lambda p: p.write_bytes(b"")),
    "codes missing": ("codes.npy", Path.unlink),
    "images missing": ("images.npy", Path.unlink),
    "index missing": ("index.json", Path.unlink),
    "index cut short": ("index.json", lambda p: p.write_bytes(p.read_bytes()[:-9])),
    "index of another kind": ("index.json", lambda p: p.write_text("[]")),
    "index changed": ("index.json", lambda p: p.write_text(p.read_text().replace("made", "fake"))),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_reported_in_one_line_and_built_again(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.load_or_build(tmp_path, KEY, build)
    name, spoil = DAMAGE[damage]
    spoil(entry_folder(tmp_path) / name)
    assert_whole(store.load_or_build(tmp_path, KEY, build))
    (line,) = capsys.readouterr().err.splitlines()
    assert "damaged" in line
    assert_whole(store.load_or_build(tmp_path, KEY, no_build))
    assert capsys.readouterr().err == ""
    assert entry_folder(tmp_path).name.isalnum()  # nothing else is left


def build_together(root: str, barrier: Any) -> None:
    def slow(allocate: store.Allocate) -> Index:
        result = build(allocate)
        barrier.wait(60)  # both have filled their images, and neither has published them
        return result

    assert_whole(store.load_or_build(Path(root), KEY, slow))


def read_until_it_is_there(root: str, missed: Any) -> None:
    def miss(allocate: store.Allocate) -> Any:
        missed.set()
        raise FileNotFoundError

    while True:
        try:
            return assert_whole(store.load_or_build(Path(root), KEY, miss))
        except FileNotFoundError:
            pass


def test_two_processes_build_at_once_and_a_third_reads(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, missed = context.Barrier(3), context.Event()
    jobs = [context.Process(target=build_together, args=(str(tmp_path), barrier), daemon=True) for _ in range(2)]
    jobs.append(context.Process(target=read_until_it_is_there, args=(str(tmp_path), missed), daemon=True))
    for job in jobs:
        job.start()
    assert missed.wait(60)
    barrier.wait(60)
    for job in jobs:
        job.join(60)
    assert [job.exitcode for job in jobs] == [0, 0, 0]
    assert capfd.readouterr().err == ""
    assert entry_folder(tmp_path).name.isalnum()


def build_and_hang(root: str, started: Any) -> None:
    def hang(allocate: store.Allocate) -> Any:
        allocate(IMAGES.shape)[:3] = 9
        started.set()
        time.sleep(600)

    store.load_or_build(Path(root), KEY, hang)


def test_what_a_killed_build_left_is_built_again_and_removed_when_old(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    job = context.Process(target=build_and_hang, args=(str(tmp_path), started), daemon=True)
    job.start()
    assert started.wait(60)
    (place,) = tmp_path.iterdir()
    os.kill(job.pid or 0, signal.SIGKILL)
    job.join(60)
    assert_whole(store.load_or_build(tmp_path, KEY, build))
    assert place.exists()  # its process may live
    then = time.time() - 2 * store.ABANDONED
    os.utime(place, times=(then, then))
    store.load_or_build(tmp_path, KEY | {"source": "b"}, build)
    assert not place.exists()
    assert len(list(tmp_path.iterdir())) == 2
    assert_whole(store.load_or_build(tmp_path, KEY, no_build))


def refuse(number: int) -> Any:
    def refused(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return refused


@pytest.mark.parametrize(
    ("where", "number"),
    [
        ("pathlib.Path.mkdir", errno.EROFS),
        ("pathlib.Path.mkdir", errno.EACCES),
        ("numpy.lib.format.open_memmap", errno.ENOSPC),
        ("numpy.memmap.flush", errno.EIO),
        ("numpy.save", errno.ENOSPC),
        ("pathlib.Path.write_text", errno.ENOSPC),
        ("pathlib.Path.rename", errno.EACCES),
    ],
)
def test_a_cache_that_cannot_be_written_is_reported_in_one_line_and_not_used(
    where: str, number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def build_in_little_space(allocate: store.Allocate) -> Index:
        result = build(allocate)
        assert len(list(tmp_path.glob("*/images.npy"))) == (where not in in_memory)
        return result

    in_memory = ("pathlib.Path.mkdir", "numpy.lib.format.open_memmap")
    with monkeypatch.context() as patch:
        patch.setattr(where, refuse(number))
        entry = store.load_or_build(tmp_path, KEY, build_in_little_space)
    assert_whole(entry)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"'{tmp_path}' cannot be written ({os.strerror(number)})" in line
    assert not list(tmp_path.iterdir())
    assert_whole(entry)


def test_a_file_in_the_place_of_the_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cache").write_text("a file")
    for root in (tmp_path / "cache", tmp_path / "cache" / "below"):
        assert_whole(store.load_or_build(root, KEY, build))
        (line,) = capsys.readouterr().err.splitlines()
        assert f"'{root}' cannot be written" in line


def test_the_space_of_the_images_is_taken_before_they_are_decoded(tmp_path: Path) -> None:
    """To write to a map on a full disk would kill the process."""
    shape = (3, 700, 701, 1)  # more than one block, and no multiple of it

    def mostly_empty(allocate: store.Allocate) -> Index:
        images = allocate(shape)
        assert isinstance(images, np.memmap)
        images[-1, -1, -1] = 5
        assert Path(str(images.filename)).stat().st_blocks * 512 >= images.nbytes
        return Index("made", "abc", {})

    images, _ = store.load_or_build(tmp_path, KEY, mostly_empty)
    assert (images.shape, images.sum(), images[-1, -1, -1, 0]) == (shape, 5, 5)


@pytest.mark.parametrize("memory", [True, False])
def test_a_disk_that_is_too_small(
    tmp_path: Path, memory: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images are held in memory instead; where that is too small as well, one sentence says so."""
    resource = pytest.importorskip("resource")
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    shape = (20_000, 20, 50, 1)

    def one(allocate: store.Allocate) -> Index:
        allocate(shape)[-1] = 1
        return Index("made", ["x"] * len(shape), {})

    if not memory:
        monkeypatch.setattr(np, "zeros", lambda *_: (_ for _ in ()).throw(MemoryError))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
        if memory:
            assert store.load_or_build(tmp_path, KEY, one)[0].sum() == 1000
        else:
            with pytest.raises(JaxfairError, match=r"decoded images take 0\.0 GB, .*set JAXFAIR_CACHE"):
                store.load_or_build(tmp_path, KEY, one)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "cannot be written (File too large)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_default_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("JAXFAIR_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert store.default_cache() == tmp_path / "home" / ".cache" / "jaxfair" / "data"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert store.default_cache() == tmp_path / "home" / ".cache" / "jaxfair" / "data"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert store.default_cache() == tmp_path / "xdg" / "jaxfair" / "data"
    monkeypatch.setenv("JAXFAIR_CACHE", str(tmp_path / "mine"))
    assert store.default_cache() == tmp_path / "mine"
    assert store.user_folder("compiled") == tmp_path / "xdg" / "jaxfair" / "compiled", "images alone have their own"
    assert sources.default_data_dir() == tmp_path / "xdg" / "jaxfair" / "datasets"
    assert not list(tmp_path.iterdir())


def test_a_user_without_a_home_has_a_cache_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder for temporary files, where no compiled program is kept: others could put one there."""

    def no_home(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("JAXFAIR_CACHE", "JAXFAIR_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", no_home)  # by which Python finds it
    assert store.user_folder("compiled") is None
    assert store.default_cache() == Path(tempfile.gettempdir()) / "jaxfair" / "data"
    assert sources.default_data_dir() == Path("datasets")
    with pytest.raises(JaxfairError, match="There are no files of 'utkface-race' in the data directory"):
        sources.load("utkface-race")


def test_an_entry_that_cannot_be_read_is_left_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store.load_or_build(tmp_path, KEY, build)
    with monkeypatch.context() as away:
        away.setattr(store, "_checksum", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
        assert store._read(entry_folder(tmp_path)) is None
    assert "cannot be read" in capsys.readouterr().err
    assert_whole(store.load_or_build(tmp_path, KEY, no_build))
