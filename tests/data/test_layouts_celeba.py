"""CelebA: attributes and parts from the official tables and their mirrors, what is malformed, and the real counts."""

from pathlib import Path

import pytest

from jaxfair.data.columns import Rejected, combine
from jaxfair.data.layouts import celeba
from jaxfair.data.opening import open_files
from jaxfair.errors import JaxfairError
from tests.layout_sources import check_sources_agree, write
from tests.real_data import needs

ROWS = {"000001.jpg": "-1  1", "000002.jpg": " 1 -1", "000003.jpg": " 1  1", "000004.jpg": "-1 -1"}
IMAGES = {f"img_align_celeba/{name}": name.encode() for name in ROWS}


def txt(rows: dict[str, str], count: int = 202_599) -> bytes:
    """Return a table as it is published."""
    return "\n".join([str(count), "Male Blond_Hair ", *(f"{name} {cells}" for name, cells in rows.items())]).encode()


def csv(rows: dict[str, str], header: str = "image_id,Male,Blond_Hair") -> bytes:
    """Return a table as mirrors have it."""
    lines = [header, *(",".join([name, *cells.split()]) for name, cells in rows.items())]
    return ("\r\n".join(lines) + "\r\n").encode()


PARTS = dict(zip(ROWS, "0120", strict=True))
TABLES = {
    "txt": {
        "list_attr_celeba.txt": txt(ROWS),
        "list_eval_partition.txt": "".join(f"{name} {part}\n" for name, part in PARTS.items()).encode(),
    },
    "csv": {
        "list_attr_celeba.csv": csv(ROWS),
        "list_eval_partition.csv": csv(PARTS, "image_id,partition"),
    },
}


@pytest.mark.parametrize("kind", list(TABLES))
def test_attributes_and_parts(tmp_path: Path, kind: str) -> None:
    with open_files(write(tmp_path, IMAGES | TABLES[kind])) as files:
        index = celeba.read(files)
        content = dict(index.stream())
    assert list(index.names) == list(IMAGES)
    assert [content[row] for row in range(4)] == list(IMAGES.values())
    male, blond = index.columns["Male"], index.columns["Blond_Hair"]
    assert (male.names, blond.names) == (("not Male", "Male"), ("not Blond_Hair", "Blond_Hair"))
    assert (male.codes.tolist(), blond.codes.tolist()) == ([0, 1, 1, 0], [1, 0, 1, 0])
    assert "not Male & Blond_Hair" in combine([male, blond]).names
    assert index.split is not None
    assert [index.split.names[code] for code in index.split.codes] == ["train", "validation", "test", "train"]
    assert (index.title, index.left_out, index.rejected) == ("CelebA, 4-image subset", (), ())


@pytest.mark.parametrize("kind", list(TABLES))
def test_folder_and_archives_agree(tmp_path: Path, kind: str) -> None:
    check_sources_agree(write(tmp_path / "celeba", IMAGES | TABLES[kind]), celeba.read)


def test_zeros_stand_for_minus_one_and_a_byte_order_mark_for_nothing(tmp_path: Path) -> None:
    table = b"\xef\xbb\xbf" + txt({name: cells.replace("-1", "0") for name, cells in ROWS.items()})
    with open_files(write(tmp_path, IMAGES | {"list_attr_celeba.txt": table})) as files:
        index = celeba.read(files)
    assert index.columns["Male"].codes.tolist() == [0, 1, 1, 0]
    assert index.split is None


def test_rows_without_image_are_left_out_and_images_without_row_rejected(tmp_path: Path) -> None:
    images = {"a/000001.jpg": b"", "a/000009.jpg": b"", "b/000001.jpg": b""}
    with open_files(write(tmp_path, images | {"list_attr_celeba_first4.txt": txt(ROWS)})) as files:
        index = celeba.read(files)
    assert list(index.names) == ["a/000001.jpg"]
    reason = "has 3 rows without an image: 000002.jpg, 000003.jpg, 000004.jpg"
    assert index.left_out == (Rejected("list_attr_celeba_first4.txt", reason),)
    assert set(index.rejected) == {
        Rejected("a/000009.jpg", "has no row in list_attr_celeba_first4.txt"),
        Rejected("b/000001.jpg", "is a second '000001', beside 'a/000001.jpg'"),
    }


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ("1", "has 1 values in list_attr_celeba.csv, not 2"),
        ("1 1 1", "has 3 values in list_attr_celeba.csv, not 2"),
        ("1 2", "has the value '2' in list_attr_celeba.csv, not -1, 0, 1"),
        ("1 1\r\n000002.jpg,-1,-1", "has two rows in list_attr_celeba.csv"),
    ],
)
def test_malformed_rows_are_rejected(tmp_path: Path, cells: str, reason: str) -> None:
    table = csv(ROWS).decode().replace("000002.jpg,1,-1", f"000002.jpg,{cells.replace(' ', ',')}").encode()
    with open_files(write(tmp_path, IMAGES | {"list_attr_celeba.csv": table})) as files:
        index = celeba.read(files)
    assert index.rejected == (Rejected("000002.jpg", reason),)
    assert [name[-10:] for name in index.names] == ["000001.jpg", "000003.jpg", "000004.jpg"]
    assert index.columns["Male"].codes.tolist() == [0, 1, 0]


def test_no_and_not_known_are_not_the_same(tmp_path: Path) -> None:
    """Tables of other faces have 0 where an attribute is not known, and -1 where it is not there."""
    table = txt(ROWS | {"000001.jpg": "-1 0"})
    words = r"list_attr_celeba.txt' of .* has both -1 and 0, of which one may"
    files = open_files(write(tmp_path, IMAGES | {"list_attr_celeba.txt": table}))
    with files, pytest.raises(JaxfairError, match=words):
        celeba.read(files)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"000001.jpg": "0", "000002.jpg": "1", "000004.jpg": "1"}, "has no row in list_eval_partition.csv"),
        (PARTS | {"000003.jpg": "3"}, "has the value '3' in list_eval_partition.csv, not 0, 1, 2"),
    ],
)
def test_images_without_a_part_are_rejected(tmp_path: Path, parts: dict[str, str], reason: str) -> None:
    tables = TABLES["txt"] | {"list_eval_partition.csv": csv(parts, "image_id,partition")}
    del tables["list_eval_partition.txt"]
    with open_files(write(tmp_path, IMAGES | tables)) as files:
        index = celeba.read(files)
    assert [(row.name[-10:], row.reason) for row in index.rejected] == [("000003.jpg", reason)]
    assert index.split is not None
    assert index.split.names == ("train", "validation")


def test_one_part_alone_is_no_split(tmp_path: Path) -> None:
    tables = TABLES["csv"] | {"list_eval_partition.csv": csv(dict.fromkeys(ROWS, "0"), "image_id,partition")}
    with open_files(write(tmp_path, IMAGES | tables)) as files:
        assert celeba.read(files).split is None


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (IMAGES, "holds no table of attributes; expected CelebA's list_attr_celeba.txt"),
        (TABLES["txt"], "holds no images; expected CelebA's, such as 000001.jpg"),
        (IMAGES | TABLES["txt"] | TABLES["csv"], "holds 2 files list_attr_celeba"),
        (IMAGES | {"list_attr_celeba.txt": b"\n"}, "does not begin with the names of the attributes"),
        (IMAGES | {"list_attr_celeba.txt": txt(ROWS)[22:]}, "does not begin with the names of the attributes"),
        ({"cat.jpg": b""} | TABLES["csv"], "None of the 1 images .* has a well-formed row in list_attr_celeba.csv"),
    ],
)
def test_what_is_not_celeba_is_refused(tmp_path: Path, contents: dict[str, bytes], message: str) -> None:
    with open_files(write(tmp_path, contents)) as files, pytest.raises(JaxfairError, match=message) as error:
        celeba.read(files)
    assert "\n" not in str(error.value)


def test_counts_of_the_real_images() -> None:
    with open_files(needs("celeba_10k_89x109.tar.gz")) as files:
        index = celeba.read(files)
    both = combine([index.columns["Male"], index.columns["Blond_Hair"]])
    counts = {name: int((both.codes == code).sum()) for code, name in enumerate(both.names)}
    assert counts == {
        "not Male & not Blond_Hair": 4412,
        "not Male & Blond_Hair": 1371,
        "Male & not Blond_Hair": 4136,
        "Male & Blond_Hair": 81,
    }
    assert (index.title, len(index.columns), index.split) == ("CelebA, 10,000-image subset", 40, None)
    reason = "has 10,000 rows without an image: 010001.jpg, 010002.jpg, 010003.jpg, ..."
    assert index.left_out == (Rejected("list_attr_celeba_first20000.txt", reason),)
    assert index.rejected == ()
