"""UTKFace: age, gender and race from file names, malformed names, and the counts of the real set."""

from pathlib import Path

import pytest

from jaxfair.data.columns import Rejected
from jaxfair.data.layouts import utkface
from jaxfair.data.opening import open_files
from jaxfair.errors import JaxfairError
from tests.layout_sources import check_sources_agree, counts, write
from tests.real_data import needs

FACES = {
    "faces/1_0_0_20170109142408075.jpg": b"a",
    "faces/2_1_1_20170109142408076.jpg.chip.jpg": b"b",
    "faces/13_0_2_20170109142408077.JPG": b"c",
    "faces/18_1_3_20170109142408078.png": b"d",
    "other/116_0_4_20170109142408079.jpg": b"e",
    "other/readme.txt": b"no image",
}


def test_columns_come_from_the_name(tmp_path: Path) -> None:
    with open_files(write(tmp_path, FACES)) as files:
        index = utkface.read(files)
        content = dict(index.stream())
    assert list(index.names) == sorted(name for name in FACES if not name.endswith(".txt"))
    value = {name: column.names for name, column in index.columns.items()}
    seen = {
        content[row]: tuple(value[name][column.codes[row]] for name, column in index.columns.items())
        for row in range(len(index.names))
    }
    assert list(index.columns) == ["age", "years", "gender", "race"]
    assert seen == {
        b"a": ("0-1", "1", "male", "White"),
        b"b": ("2-12", "2", "female", "Black"),
        b"c": ("13-17", "13", "male", "Asian"),
        b"d": ("18-64", "18", "female", "Indian"),
        b"e": ("65+", "116", "male", "Other"),
    }
    assert (index.title, index.split, index.rejected, index.left_out) == ("UTKFace, 5-image subset", None, (), ())


@pytest.mark.parametrize(("years", "group"), [(0, "0-1"), (12, "2-12"), (17, "13-17"), (64, "18-64"), (65, "65+")])
def test_ends_of_age_groups(tmp_path: Path, years: int, group: str) -> None:
    with open_files(write(tmp_path, {f"{years}_0_0_1.jpg": b"x"})) as files:
        age = utkface.read(files).columns["age"]
    assert age.names[age.codes[0]] == group


def test_folder_and_archives_agree(tmp_path: Path) -> None:
    check_sources_agree(write(tmp_path / "faces", FACES), utkface.read)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("39_1_20170116174525125.jpg.chip.jpg", "carries no race"),
        ("61_1_20170109142408075.jpg.chip.jpg", "carries no race"),
        ("61_1_20170109150557335.jpg", "carries no race"),
        ("24_0_1_20170116220224657 .jpg.chip.jpg", "has a blank before .jpg"),
        ("55_0_0_20170116232725357jpg.chip.jpg", "lacks the dot before jpg"),
    ],
)
def test_known_malformed_names_are_left_out(tmp_path: Path, name: str, reason: str) -> None:
    with open_files(write(tmp_path, {f"UTKFace/{name}": b"x", "UTKFace/1_0_0_1.jpg": b"y"})) as files:
        index = utkface.read(files)
    assert index.left_out == (Rejected(f"UTKFace/{name}", reason),)
    assert index.rejected == ()
    assert list(index.names) == ["UTKFace/1_0_0_1.jpg"]


@pytest.mark.parametrize(
    "name",
    ["1_2_0_1.jpg", "1_0_5_1.jpg", "_0_0_1.jpg", "1_0_1.jpg", "1_0_0_1 .jpg", "1_0_0_1.jpg.chip.jpg.jpg", "x.bmp"],
)
def test_other_malformed_names_are_rejected(tmp_path: Path, name: str) -> None:
    with open_files(write(tmp_path, {name: b"x", "2_0_0_1.jpg": b"y"})) as files:
        index = utkface.read(files)
    assert index.rejected == (Rejected(name, "is not named [age]_[gender]_[race]_[stamp].jpg"),)
    assert (list(index.names), index.left_out) == (["2_0_0_1.jpg"], ())


def test_a_second_copy_of_a_face_is_rejected(tmp_path: Path) -> None:
    with open_files(write(tmp_path, {"a/1_0_0_1.jpg": b"x", "b/1_0_0_1.jpg.chip.jpg": b"y"})) as files:
        index = utkface.read(files)
    assert list(index.names) == ["a/1_0_0_1.jpg"]
    assert index.rejected == (Rejected("b/1_0_0_1.jpg.chip.jpg", "is a second '1_0_0_1', beside 'a/1_0_0_1.jpg'"),)


@pytest.mark.parametrize("name", ["cat/1.jpg", "readme.txt", "39_1_20170116174525125.jpg"])
def test_another_layout_is_refused(tmp_path: Path, name: str) -> None:
    with (
        open_files(write(tmp_path, {name: b"x"})) as files,
        pytest.raises(
            JaxfairError, match=r"has a name of the form \[age\]_\[gender\]_\[race\]_\[stamp\].jpg; expected"
        ),
    ):
        utkface.read(files)


def test_counts_of_the_real_set() -> None:
    with open_files(needs("utkface_64.zip")) as files:
        index = utkface.read(files)
    assert (index.title, len(index.names), index.rejected) == ("UTKFace", 23_702, ())
    assert counts(index, "age") == {"0-1": 1123, "2-12": 2289, "13-17": 820, "18-64": 17512, "65+": 1958}
    assert counts(index, "race") == {"White": 10077, "Black": 4524, "Asian": 3434, "Indian": 3975, "Other": 1692}
    assert counts(index, "gender") == {"male": 12388, "female": 11314}
    years = index.columns["years"].names
    assert list(years) == sorted(years, key=int)
    assert years[-1] == "116"
    assert sorted(reason for _, reason in index.left_out) == [
        *["carries no race"] * 3,
        "has a blank before .jpg",
        "lacks the dot before jpg",
    ]
