"""Folder, archive and file as one view: equal contents, sentences for what is not there, identity."""

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from jaxfair.data.files import Files
from jaxfair.data.opening import identity, open_files
from jaxfair.errors import JaxfairError
from tests.packing import ARCHIVES, CONTENTS, JUNK, everything, packed, tar, zipped
from tests.real_data import needs


@pytest.mark.parametrize("kind", ["folder", *ARCHIVES])
def test_every_form_of_one_set_gives_the_same_files(tmp_path: Path, kind: str) -> None:
    with open_files(packed(tmp_path, kind, CONTENTS | JUNK)) as view:
        assert view.names == tuple(sorted(CONTENTS) if kind == "folder" else CONTENTS)
        assert {name: view.read(name) for name in reversed(view.names)} == CONTENTS
        wanted = ["table.csv", "set/b/2.txt", "table.csv"]
        in_order = [name for name in view.names if name in wanted]
        assert list(view.stream(wanted)) == [(name, CONTENTS[name]) for name in in_order]


def test_one_file_is_a_view_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "train.npz"
    path.write_bytes(b"abc")
    assert everything(path) == {"train.npz": b"abc"}


def test_archives_inside_are_named(tmp_path: Path) -> None:
    inner = {"a/one.ZIP": b"-", "b.tar.gz": b"-", "c.7z": b"-", "images.gz": b"-", "zip": b"-"}
    with open_files(packed(tmp_path, "zip", inner)) as view:
        assert view.archives == ("a/one.ZIP", "b.tar.gz", "c.7z")


def test_streams_are_lazy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    view = Files(tmp_path, "abc", lambda name: read.append(name) or b"")
    stream = view.stream("abc")
    assert read == []
    next(stream)
    assert read == ["a"]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "nothing", ""])
def test_only_listed_names_are_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "x").write_bytes(b"secret")
    with open_files(packed(tmp_path, "folder", CONTENTS)) as view:
        with pytest.raises(JaxfairError, match=f"There is no file '{name}' in .*which holds 5, such as"):
            view.read(name)
        with pytest.raises(JaxfairError, match="There is no file"):
            list(view.stream([name]))


def test_a_folder_may_link_to_files_and_folders_elsewhere(tmp_path: Path) -> None:
    folder = packed(tmp_path, "folder", {"a/1.txt": b"1"})
    other = tmp_path / "other"
    other.mkdir()
    (other / "2.txt").write_bytes(b"2")
    (folder / "linked.txt").symlink_to(other / "2.txt")
    (folder / "b").symlink_to(other)
    (folder / "c").symlink_to(other)
    (folder / "a" / "up").symlink_to(folder)
    (other / "back").symlink_to(folder / "b")
    assert everything(folder) == {"a/1.txt": b"1", "b/2.txt": b"2", "c/2.txt": b"2", "linked.txt": b"2"}
    (folder / "lost").symlink_to(other / "3.txt")
    with pytest.raises(JaxfairError, match="lost is a link to nothing"):
        open_files(folder)


def test_what_is_not_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for use in (open_files, identity):
        with pytest.raises(JaxfairError, match=r"There is no file or folder .*nowhere\.zip"):
            use(tmp_path / "nowhere.zip")
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.zip").touch()
    for name in ("folder", "junk.zip"):
        zipped(tmp_path / "junk.zip", JUNK)
        with pytest.raises(JaxfairError, match=f"{name} holds no files"):
            open_files(tmp_path / name)
    with pytest.raises(JaxfairError, match=r"empty\.zip is empty"):
        open_files(tmp_path / "empty.zip")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # tests may run as root, who may read everything
    with pytest.raises(JaxfairError, match="cannot be read; ask for permission"):
        open_files(tmp_path / "junk.zip")


def test_a_file_that_goes_away_is_one_sentence(tmp_path: Path) -> None:
    folder = packed(tmp_path, "folder", CONTENTS)
    with open_files(folder) as view:
        (folder / "table.csv").unlink()
        with pytest.raises(JaxfairError, match=r"'table\.csv' in .* cannot be read: No such file"):
            view.read("table.csv")


def test_identity_changes_with_the_source(tmp_path: Path) -> None:
    folder, archive = packed(tmp_path, "folder", CONTENTS), packed(tmp_path, "zip", CONTENTS)
    seen = [identity(folder), identity(archive)]
    (folder / ".DS_Store").touch()
    assert [identity(folder), identity(archive)] == seen

    def changed(path: Path) -> bool:
        seen.append(identity(path))
        return len(set(seen)) == len(seen)

    os.utime(folder / "set/a/1.txt", ns=(1, 1))
    assert changed(folder)
    (folder / "table.csv").rename(folder / "tables.csv")
    assert changed(folder)
    status = (folder / "tables.csv").stat()
    (folder / "tables.csv").write_bytes(b"longer" * 1000)
    os.utime(folder / "tables.csv", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert changed(folder)
    (folder / "new.csv").touch()
    assert changed(folder)
    os.utime(archive, ns=(1, 1))
    assert changed(archive)
    assert changed(archive.rename(tmp_path / "b.zip"))
    status = (folder / "new.csv").stat()
    (folder / "new.csv").write_bytes(b"")  # as an archive is unpacked over another: the same name, size and time
    os.utime(folder / "new.csv", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert changed(folder)


def test_two_folders_of_the_same_names_sizes_and_times_are_two(tmp_path: Path) -> None:
    for name in ("dark", "bright"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.bmp").write_text(name[0])
        os.utime(tmp_path / name / "1.bmp", ns=(1, 1))
    assert identity(tmp_path / "dark") != identity(tmp_path / "bright")


def test_what_a_study_writes_and_what_goes_away_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = packed(tmp_path, "folder", CONTENTS)
    before = identity(folder)
    for name in ("plan-cpu.json", "runs/train/DONE", "report/groups.csv"):
        (folder / "results/mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "results/mine" / name).touch()
    assert (identity(folder), everything(folder)) == (before, CONTENTS)
    (folder / "set/1.lock").touch()
    real = os.stat

    def stat(path: Any, **options: Any) -> os.stat_result:
        if str(path).endswith(".lock"):
            raise FileNotFoundError(2, "No such file or directory", path)
        return real(path, **options)

    monkeypatch.setattr(os, "stat", stat)
    assert identity(folder) == before


@pytest.mark.parametrize(
    "name", ["@eaDir/a.txt/SYNOPHOTO_THUMB_M.jpg", "$RECYCLE.BIN/1.jpg", "a/thumbs.DB", "#recycle/1"]
)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_systems_add_is_passed_over_in_any_case(tmp_path: Path, kind: str, name: str) -> None:
    assert everything(packed(tmp_path, kind, {"a.txt": b"a", name: b"-"})) == {"a.txt": b"a"}


@pytest.mark.parametrize("top", ["", "deep/"])
def test_archives_in_a_folder_are_as_if_they_were_unpacked(tmp_path: Path, top: str) -> None:
    folder = packed(tmp_path, "folder", {f"{top}labels.csv": b"-"})
    zipped(folder / top / "train.zip", {"train/cat/1.jpg": b"1", "train/dog/2.jpg": b"2"})
    tar(folder / top / "cat.tar.gz", {"3.jpg": b"3"})
    with open_files(folder, nested=True) as view:
        names = ("train/cat/1.jpg", "train/dog/2.jpg", "cat/3.jpg", "labels.csv")
        assert sorted(view.names) == sorted(top + name for name in names)
        assert view.read(f"{top}cat/3.jpg") == b"3"
    (folder / top / "train/cat").mkdir(parents=True)
    (folder / top / "train/cat/1.jpg.txt").touch()
    zipped(folder / top / "train.zip", {"train/cat/1.jpg.txt": b"1"})
    with pytest.raises(JaxfairError, match=r"holds '.*train/cat/1\.jpg\.txt' twice"):
        open_files(folder, nested=True)


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("utkface_64.zip", 23_707, "UTKFace/"),
        ("cifar10_jpg.tar.gz", 60_000, "t"),
        ("celeba_10k_89x109.tar.gz", 10_001, ""),
    ],
)
def test_real_archives_open(name: str, count: int, first: str) -> None:
    with open_files(needs(name)) as view:
        images = [name for name in view.names if name.endswith(".jpg")]
        assert len(view.names) == count
        assert view.names[0].startswith(first)
        chosen = images[:: len(images) // 50]
        assert [name for name, data in view.stream(chosen) if data.startswith(b"\xff\xd8")] == chosen


@pytest.mark.parametrize(("encoding", "flags"), [("utf-8", 0x800), ("utf-8", 0), ("gbk", 0), ("cp437", 0)])
def test_names_in_a_zip_are_utf_8_whether_it_says_so_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, flags: int
) -> None:
    """Other letters than those that were packed would be other classes."""
    name = "é/1.png" if encoding == "cp437" else "亚洲/1.png"
    encode = zipfile.ZipInfo, "_encodeFilenameFlags", lambda info: (info.filename.encode(encoding), flags)
    with monkeypatch.context() as patched:
        patched.setattr(*encode)
        archive = zipped(tmp_path / "a.zip", {name: b"1", "b/2.png": b"2"})
    if encoding == "utf-8":
        assert everything(archive) == {name: b"1", "b/2.png": b"2"}
    else:
        with pytest.raises(JaxfairError, match=r"a\.zip has a name that is not UTF-8, perhaps '.*1\.png'"):
            open_files(archive)


def beside(folder: Path, archives: dict[str, dict[str, bytes]], *names: str) -> Path:
    """Write images of contents of their own, and archives beside them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    for name, contents in archives.items():
        (tar if ".tar" in name else zipped)(folder / name, contents)
    return folder


A = {"a/1.png": b"1", "b/1.png": b"2"}


@pytest.mark.parametrize(
    ("archives", "names", "added"),
    [
        ({"train.zip": A}, ("test/a/1.png", "test/b/1.png"), ("train/a/1.png", "train/b/1.png")),
        ({"Test.tar.gz": A}, ("train/a/1.png", "train/b/1.png"), ("Test/a/1.png", "Test/b/1.png")),
        ({"val.zip": {"val/a/1.png": b"1"}}, ("train/a/1.png",), ("val/a/1.png",)),
        ({"set/train.zip": A}, ("set/test/a/1.png",), ("set/train/a/1.png", "set/train/b/1.png")),
        ({"c.zip": {"1.png": b"1"}}, ("a/1.png", "b/1.png"), ("c/1.png",)),
        ({"UTKFace.zip": {"UTKFace/1_0_0_1.jpg": b"1"}}, ("sample.png",), ("UTKFace/1_0_0_1.jpg",)),
        ({"c.zip": {"notes.txt": b"1"}}, ("a/1.png",), None),
        ({"UTKFace.zip": {"UTKFace/1.jpg": b"1"}}, ("UTKFace/1.jpg",), None),  # unpacked, and still there
        ({"set.zip": A}, ("a/1.png", "b/1.png"), None),
        ({"all.zip": {"1.png": b"a/1.png", "2.png": b"b/2.png"}}, ("a/1.png", "b/2.png"), None),
        ({"train.zip": {"a/1.png": b"training/a/1.png"}}, ("training/a/1.png", "test/a/1.png"), None),
    ],
)
def test_archives_beside_images_are_opened_for_others_than_these(
    tmp_path: Path, archives: dict[str, dict[str, bytes]], names: tuple[str, ...], added: tuple[str, ...] | None
) -> None:
    with open_files(beside(tmp_path, archives, *names), nested=True) as view:
        assert sorted(view.names) == sorted((*names, *(archives if added is None else added)))


@pytest.mark.parametrize(
    ("archives", "names", "said"),
    [
        ({"raw.zip": A}, ("a/2.png", "b/2.png"), "'raw.zip' in .* several folders of images, and it is unclear what"),
        ({"train.zip": A}, ("train/a/1.png", "test/a/1.png"), "1 of the 2 images of 'train.zip' in .* lie there too"),
        (
            {"c.zip": {"1.png": b"a/1.png", "2.png": b"2"}},
            ("a/1.png",),
            r"Some images of 'c.zip' in .* as '1\.png', lie",
        ),
        ({"train.7z": A}, ("test/a/1.png",), "'train.7z' in .* a part of the set, but no image in it can be read"),
        ({"train.zip": {"a.txt": b"-"}}, ("test/a/1.png",), "'train.zip' in .* a part of the set, but no image in it"),
    ],
)
def test_archives_beside_images_are_refused_where_it_is_unclear_what_they_hold(
    tmp_path: Path, archives: dict[str, dict[str, bytes]], names: tuple[str, ...], said: str
) -> None:
    with pytest.raises(JaxfairError, match=said):
        open_files(beside(tmp_path, archives, *names), nested=True)


def test_archives_are_opened_for_files_alone_that_are_wanted_and_not_there(tmp_path: Path) -> None:
    """As of a table in a folder of downloads, where others may be damaged."""
    folder = beside(tmp_path, {"raw.zip": A, "more.zip": {"3.png": b"3"}}, "a/2.png")
    with open_files(folder, nested=True, wanted=["3.png", "2.png", ""]) as view:
        assert sorted(view.names) == ["a/2.png", "more/3.png", "raw.zip"]
    (folder / "broken.zip").write_bytes(b"-")
    with open_files(folder, nested=True, wanted=["2.png"]) as view:
        assert sorted(view.names) == ["a/2.png", "broken.zip", "more.zip", "raw.zip"]
