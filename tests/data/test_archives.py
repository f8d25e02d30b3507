"""Archives: compression, links, names that are refused, damage of every kind."""

import gzip
import io
import random
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxfair.data import archives
from jaxfair.data.opening import open_files
from jaxfair.errors import JaxfairError
from tests.packing import ARCHIVES, COMPRESSED, CONTENTS, everything, packed, tar, zipped


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Callable[[tarfile.TarFile], None]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return lambda archive: archive.addfile(info)


def zip_link(path: Path, name: str, target: str) -> Path:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", b"a")
        archive.writestr(info, target)
    return path


def test_no_room_for_a_temporary_file_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives.tempfile, "TemporaryFile", Full)
    with pytest.raises(
        JaxfairError, match="cannot be unpacked to a temporary file: No space left on device; make room"
    ):
        open_files(packed(tmp_path, "tar.gz", CONTENTS))


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_folders_may_be_parted_as_on_windows(tmp_path: Path, kind: str) -> None:
    path = packed(tmp_path, kind, {"a\\b\\1.txt": b"1", ".\\a\\2.txt": b"2", "a\\__MACOSX\\._1": b"-"})
    if kind == "zip":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("a\\c\\", b"")  # a folder
    assert everything(path) == {"a/b/1.txt": b"1", "a/2.txt": b"2"}
    with pytest.raises(JaxfairError, match=r"holds 'a/1\.txt' twice"):
        open_files(packed(tmp_path, kind, {"a\\1.txt": b"1", "a/1.txt": b"2"}))


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("name", ["../x", "a/../../x", "a/..", "..\\x", "a\\..\\..\\x"])
def test_names_that_lead_outside_are_refused(tmp_path: Path, kind: str, name: str) -> None:
    with pytest.raises(JaxfairError, match="leads out of the archive"):
        open_files(packed(tmp_path, kind, {"a.txt": b"a", name: b"x"}))


@pytest.mark.parametrize("name", ["/x", "\\x", "C:\\x", "c:/x"])
def test_absolute_names_are_refused(tmp_path: Path, name: str) -> None:
    for path in (
        zipped(tmp_path / "a.zip", {name: b"x"}),
        tar(tmp_path / "a.tar", {}, lambda archive: archive.addfile(tarfile.TarInfo(name))),
    ):
        with pytest.raises(JaxfairError, match=f"holds '{re.escape(name)}', a name that leads out"):
            open_files(path)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "zip":
        zipped(path, {"./a/1.txt": b"1", "a/1.txt": b"1"})
    else:
        tar(path, {"a/1.txt": b"1", "a//1.txt": b"1"})
    with pytest.raises(JaxfairError, match=r"holds 'a/1\.txt' twice, so that it is ambiguous"):
        open_files(path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, "zip"])
@pytest.mark.parametrize("target", ["/etc/passwd", "../../etc/passwd", "x/../../../y"])
def test_links_out_of_an_archive_are_refused(tmp_path: Path, kind: bytes | str, target: str) -> None:
    if isinstance(kind, str):
        path = zip_link(tmp_path / "a.zip", "set/link", target)
    else:
        path = tar(tmp_path / "a.tar", CONTENTS, link("set/link", target, kind))
    with pytest.raises(JaxfairError, match="out of the archive"):
        open_files(path)


def test_links_and_devices_within_an_archive_are_left_out(tmp_path: Path) -> None:
    assert everything(zip_link(tmp_path / "a.zip", "set/link", "../a.txt")) == {"a.txt": b"a"}

    def change(archive: tarfile.TarFile) -> None:
        link("set/link", "../table.csv")(archive)
        link("set/device", "", tarfile.CHRTYPE)(archive)
        link("set/pipe", "", tarfile.FIFOTYPE)(archive)

    assert everything(tar(tmp_path / "a.tar", CONTENTS, change)) == CONTENTS


def test_hard_links_in_a_tar_are_files(tmp_path: Path) -> None:
    path = packed(tmp_path, "tar.gz", CONTENTS, link("c.txt", "set/a/1.txt", tarfile.LNKTYPE))
    with open_files(path) as view:
        names = list(CONTENTS)
        assert view.names == (*names[:2], "c.txt", *names[2:])  # beside its file
        assert view.read("c.txt") == view.read("set/a/1.txt") == CONTENTS["set/a/1.txt"]
    with pytest.raises(JaxfairError, match=r"'c\.txt' in .* is a link to 'none', which does not come before"):
        open_files(packed(tmp_path, "tar", CONTENTS, link("c.txt", "none", tarfile.LNKTYPE)))


@pytest.mark.parametrize("kind", ARCHIVES)
def test_another_file_under_the_name_of_an_archive_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_text("<html>Too many requests</html>" * 100)
    with pytest.raises(JaxfairError, match=r"is no (zip|tar) archive, or is cut short"):
        open_files(path)


def test_a_tar_that_has_lost_its_compression_is_read(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", CONTENTS).rename(tmp_path / "a.tar.gz")  # as browsers do
    assert everything(path) == CONTENTS


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [(8, 1, r"a\.zip is encrypted"), (10, 9, r"'a\.txt' in .* by a method that Python cannot read")],  # 9 is Deflate64
)
def test_a_zip_that_python_cannot_unpack_is_refused(tmp_path: Path, field: int, value: int, sentence: str) -> None:
    path = zipped(tmp_path / "a.zip", {"a.txt": b"a"})
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + field] = value  # in the list at the end
    path.write_bytes(data)
    with pytest.raises(JaxfairError, match=sentence), open_files(path) as view:
        view.read("a.txt")


@pytest.mark.parametrize("kind", ["tar", *COMPRESSED])
def test_a_cut_tar_says_how_many_files_are_whole(tmp_path: Path, kind: str) -> None:
    contents = {f"{i}.bin": random.Random(i).randbytes(40_000) for i in range(20)}
    path = packed(tmp_path, kind, contents)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    whole = "0" if kind == "tar.bz2" else "1[45]"  # bzip2 has blocks of 900 kB
    with pytest.raises(JaxfairError, match=f"cut short or damaged: {whole} of its files could be read; download"):
        open_files(path)


@pytest.mark.parametrize("end", ["between two files", "in a header"])
def test_a_tar_without_its_end_is_refused(tmp_path: Path, end: str) -> None:
    path = tar(tmp_path / "a.tar", {"1": b"1", "2": b"2"})
    second = path.read_bytes().index(b"./2")
    path.write_bytes(path.read_bytes()[: second + (100 if end == "in a header" else 0)])
    with pytest.raises(JaxfairError, match="1 of its files could be read"):
        open_files(path)


def test_a_broken_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {"1": b"1", "2": b"2", "3": b"3"})
    path.write_bytes(path.read_bytes().replace(b"./2", b"./X"))
    with pytest.raises(JaxfairError, match="1 of its files could be read"):
        open_files(path)


def test_the_checksum_at_the_end_is_heeded(tmp_path: Path) -> None:
    path = packed(tmp_path, "tar", CONTENTS)
    path.write_bytes(gzip.compress(path.read_bytes() + bytes(1 << 20))[:-8] + bytes(8))  # zeros that no list needs
    with pytest.raises(JaxfairError, match="cut short or damaged: 5 of its files could be read"):
        open_files(path)


def test_a_damaged_file_of_a_zip_is_named(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", CONTENTS)
    data = bytearray(path.read_bytes())
    data[data.index(CONTENTS["set/a/1.txt"][1000:1100])] ^= 1
    path.write_bytes(data)
    with open_files(path) as view, pytest.raises(JaxfairError, match=r"'set/a/1\.txt' in .* is damaged, after 1 files"):
        list(view.stream(view.names))


@pytest.mark.parametrize("kind", ARCHIVES)
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True), flip=st.none() | st.integers(1, 255))
def test_damage_is_one_sentence(tmp_path: Path, kind: str, share: float, flip: int | None) -> None:
    path = packed(tmp_path, kind, CONTENTS)
    data = bytearray(path.read_bytes())
    if flip is None:
        data = data[: int(share * len(data))]
    else:
        data[int(share * len(data))] ^= flip
    path.write_bytes(data)
    try:
        found, sentence = everything(path), ""
    except JaxfairError as error:
        found, sentence = {}, str(error)
    if sentence:
        assert str(path) in sentence
        assert "\n" not in sentence
    elif flip is None:
        assert (kind, found) == ("tar", CONTENTS)  # which has zeros to spare at its end
    elif kind in COMPRESSED:
        assert found == CONTENTS  # the byte was one of the header's, such as a time
    else:
        assert len(found) <= len(CONTENTS)
