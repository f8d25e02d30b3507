"""Image folders: classes, official parts, what lies elsewhere, and the same rows from a folder and its archive."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfair.data import columns
from jaxfair.data.columns import Index, combine, from_values
from jaxfair.data.layouts import find, folder
from jaxfair.data.opening import open_files
from jaxfair.errors import JaxfairError
from tests.layout_sources import check_sources_agree, counts, values, write
from tests.real_data import needs


def read(root: Path, *names: str) -> Index:
    with open_files(write(root, {name: name.encode() for name in names})) as files:
        return folder.read(files)


FLAT = ("dog/2.jpg", "cat/1.PNG", "cat/0.jpeg")
PARTS = ("train/cat/1.jpg", "train/dog/1.jpg", "test/dog/2.jpg", "val/cat/3.jpg")


@pytest.mark.parametrize("prefix", ["", "top/", "two/deep/"])
def test_the_class_is_the_first_folder_that_is_not_shared(tmp_path: Path, prefix: str) -> None:
    index = read(tmp_path, *(prefix + name for name in FLAT))
    assert list(index.names) == [prefix + name for name in ("cat/0.jpeg", "cat/1.PNG", "dog/2.jpg")]
    assert values(index.columns["class"]) == ["cat", "cat", "dog"]
    assert (index.split, index.left_out, index.rejected) == (None, (), ())
    assert index.title == tmp_path.name


@pytest.mark.parametrize("prefix", ["", "top/"])
@pytest.mark.parametrize("validation", ["val", "valid", "validation", "Val"])
def test_official_parts_become_the_split(tmp_path: Path, prefix: str, validation: str) -> None:
    index = read(tmp_path, *(prefix + name.replace("val", validation) for name in PARTS))
    rows = {name.split("/", prefix.count("/"))[-1]: row for row, name in enumerate(index.names)}
    split, classes = values(index.split), values(index.columns["class"])
    for name in PARTS:
        row = rows[name.replace("val", validation)]
        assert (split[row], classes[row]) == (name.split("/")[0].replace("val", "validation"), name.split("/")[1])
    assert index.split is not None
    assert index.split.names == ("train", "test", "validation")


def test_one_part_alone_is_no_split(tmp_path: Path) -> None:
    index = read(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg")
    assert (values(index.columns["class"]), index.split) == (["cat", "dog"], None)


def test_a_class_may_be_named_train(tmp_path: Path) -> None:
    """Vehicles: bus, car, train."""
    index = read(tmp_path, "bus/1.jpg", "car/1.jpg", "train/1.jpg")
    assert (values(index.columns["class"]), index.split) == (["bus", "car", "train"], None)


def test_a_single_class_is_left_to_the_caller(tmp_path: Path) -> None:
    assert values(read(tmp_path, "top/cat/1.jpg", "top/cat/2.jpg").columns["class"]) == ["cat", "cat"]


def test_a_class_may_be_named_as_missing_cells_are(tmp_path: Path) -> None:
    """Regions: EU, NA, SA."""
    names = ("NA", "None", "nan", "null", "N", " N")
    index = read(tmp_path, *(f"{part}/{name}/1.jpg" for part in ("train", "test") for name in names))
    assert sorted(index.columns["class"].names) == sorted(names)
    assert set(values(index.columns["class"])) == set(names)


def test_a_class_in_two_forms_of_unicode_is_one(tmp_path: Path) -> None:
    index = read(tmp_path, "train/caf\u00e9/1.jpg", "train/x/1.jpg", "test/cafe\u0301/1.jpg", "test/x/2.jpg")
    assert index.columns["class"].names == ("caf\u00e9", "x")


@pytest.mark.parametrize(("prefix", "top"), [("", ""), ("top/", ""), ("train/", "test/cat/9.jpg")])
def test_images_beside_class_folders_are_rejected(tmp_path: Path, prefix: str, top: str) -> None:
    names = [prefix + name for name in ("cat/1.jpg", "dog/2.jpg", "stray.jpg")]
    index = read(tmp_path, *names, *filter(None, [top]))
    assert [tuple(rejected) for rejected in index.rejected] == [(prefix + "stray.jpg", "lies beside the class folders")]
    assert sorted(index.names) == sorted([*names[:2], *filter(None, [top])])
    assert set(values(index.columns["class"])) == {"cat", "dog"}


def test_deeper_folders_count_to_their_class_and_are_reported(tmp_path: Path) -> None:
    index = read(tmp_path, "cat/black/1.jpg", "cat/white/2.jpg", "dog/3.jpg")
    assert values(index.columns["class"]) == ["cat", "cat", "dog"]
    (left_out,) = index.left_out
    assert left_out.name == "2 files (cat/black/1.jpg, cat/white/2.jpg)"
    assert "below their class folder" in left_out.reason


def test_files_that_are_no_images_are_reported_as_one(tmp_path: Path) -> None:
    index = read(tmp_path, *FLAT, "README.md", "cat/b.txt", "cat/a.csv", "dog/z.npy", "dog/jpg")
    (left_out,) = index.left_out
    assert left_out == ("5 files (README.md, cat/a.csv, cat/b.txt, ...)", "no images by their extension")
    assert len(index.names) == 3


def test_hidden_files_of_a_mac_are_no_images(tmp_path: Path) -> None:
    assert len(read(tmp_path, *FLAT, "cat/._0.jpeg", "__MACOSX/cat/._0.jpeg").names) == 3


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("a.txt", "cat/b.csv"), r"no image among its 2 files \(a.txt, cat/b.csv\); expected folders of classes"),
        (("1.jpg", "2.jpg"), "no class folders: '1.jpg' lies in none; expected <class>/<image>"),
        (("train/1.jpg", "test/2.jpg"), "no class folders: 'test/2.jpg' lies in none"),
        (("train/1.jpg", "train/2.jpg"), "no class folders: 'train/1.jpg' lies in none"),
        ((*PARTS, "extra/cat/1.jpg"), "'extra' lies beside test and train and val; expected either classes or"),
    ],
)
def test_what_is_no_image_folder_is_refused(tmp_path: Path, names: tuple[str, ...], words: str) -> None:
    with pytest.raises(JaxfairError, match=words):
        read(tmp_path, *names)


def test_archives_agree_with_their_folder(tmp_path: Path) -> None:
    """Also where they are stored in other orders; the stream yields each file under its own row."""
    index = read(tmp_path / "a", *PARTS, "README.md", "stray.png", "train/cat/deep/4.jpg")
    check_sources_agree(tmp_path / "a", lambda files: folder.read(files)._replace(title=""))
    assert dict(index.stream()) == {row: name.encode() for row, name in enumerate(index.names)}


@given(st.lists(st.sampled_from(["train", "Train", "training", "test", "val", "valid", "validation"]), max_size=8))
def test_official_split_says_what_the_values_say(cells: list[str]) -> None:
    meaning = {"Train": "train", "training": "train", "val": "validation", "valid": "validation"}
    expected = [meaning.get(cell, cell) for cell in cells]
    split = columns.official_split(from_values(cells))
    if len(set(expected)) < 2:
        assert split is None
    else:
        assert values(split) == expected
    assert columns.official_split(from_values(["other", None, "a"])) is None
    for unknown in ("other", None) if cells else ():
        with pytest.raises(JaxfairError, match="give train, test or validation to all"):
            columns.official_split(from_values([*cells, unknown]))


@pytest.mark.parametrize(
    ("count", "text"),
    [(1, "1 file (0)"), (3, "3 files (0, 1, 2)"), (4, "4 files (0, 1, 2, ...)")],
)
def test_several(count: int, text: str) -> None:
    assert find.several([str(i) for i in range(count)]) == text


def test_cifar10_as_published_folders() -> None:
    """5,000 images a class in train and 1,000 in test."""
    with open_files(needs("cifar10_jpg.tar.gz")) as files:
        index = folder.read(files)
    assert index.split is not None
    both = index._replace(columns={"both": combine([index.split, index.columns["class"]])})
    assert sorted(counts(both, "both").values()) == [1000] * 10 + [5000] * 10
    assert index.rejected == ()


@pytest.mark.parametrize(
    "tops", [("training_set", "test_set"), ("train", "eval"), ("train", "holdout"), ("Train1", "x")]
)
def test_parts_that_are_called_otherwise_are_no_classes(tmp_path: Path, tops: tuple[str, str]) -> None:
    names = [f"{top}/{kind}/{i}.jpg" for top in tops for kind in ("cat", "dog") for i in range(2)]
    with pytest.raises(JaxfairError, match="hold the same folders, as parts of a set do; call them train, test"):
        read(tmp_path, *names)


def test_classes_with_the_same_folders_in_them_stay_classes(tmp_path: Path) -> None:
    index = read(tmp_path, *(f"{kind}/{side}/1.jpg" for kind in ("cat", "dog") for side in ("front", "side")))
    assert set(values(index.columns["class"])) == {"cat", "dog"}
    (tmp_path / "other").mkdir()
    other = read(tmp_path / "other", "tests/1.jpg", "trains/1.jpg", "trains/2.jpg")
    assert set(values(other.columns["class"])) == {"tests", "trains"}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("train/cat/1.jpg", "train/dog/2.jpg", "unlabelled/3.jpg"), "the folder 'train' holds folders, as a part"),
        (("train/cat/1.jpg", "train/dog/2.jpg", "extra/cat/3.jpg"), "the folder 'train' holds folders"),
        (("training_set/cat/1.jpg", "test_set/cat/2.jpg", "test_set/bird/3.jpg"), "the folder 'test_set' holds"),
        (("cat/train/1.jpg", "cat/test/2.jpg", "dog/train/3.jpg"), "folders test and train lie below the classes"),
        (("set/train/cat/1.jpg", "set/test/cat/2.jpg", "docs/3.png"), "folders test and train lie below"),
        (("cat/img/Val/1.jpg", "cat/img/train/2.jpg", "dog/3.jpg"), "folders Val and train lie below"),
    ],
)
def test_parts_in_other_places_are_no_classes(tmp_path: Path, names: tuple[str, ...], words: str) -> None:
    """What was held out would be trained on."""
    with pytest.raises(JaxfairError, match=words):
        read(tmp_path, *names)


def test_classes_that_begin_as_parts_do_stay_classes(tmp_path: Path) -> None:
    index = read(tmp_path, "valley/near/1.jpg", "trainer/a/2.jpg", "devon/3.jpg")
    assert set(values(index.columns["class"])) == {"valley", "trainer", "devon"}


@pytest.mark.parametrize("inside", [("train", "test"), ("images", "images"), ("images", "a/b")])
def test_folders_that_a_part_wraps_are_looked_through(tmp_path: Path, inside: tuple[str, str]) -> None:
    """As Kaggle's archives are unpacked."""
    wraps = [f"{part}/{wrap}" for part, wrap in zip(("train", "test"), inside, strict=True)]
    index = read(tmp_path, *(f"{wrap}/{kind}/1.jpg" for wrap in wraps for kind in "ab"))
    assert (values(index.columns["class"]), values(index.split)) == (["a", "b"] * 2, ["test"] * 2 + ["train"] * 2)


def test_images_that_are_not_read_are_rejected(tmp_path: Path) -> None:
    index = read(tmp_path, "cat/1.JFIF", "dog/2.pnm", "fox/3.heic", "fox/4.AVIF")
    assert values(index.columns["class"]) == ["cat", "dog"]
    reason = "is of a format that is not read; save it as JPEG or PNG"
    assert (index.rejected, index.left_out) == ((("fox/3.heic", reason), ("fox/4.AVIF", reason)), ())


def test_a_folder_whose_name_is_no_text_is_refused() -> None:
    with pytest.raises(JaxfairError, match="is not UTF-8, and so cannot be shown; rename it"):
        columns.from_names(["cat", b"caf\xe9".decode("utf-8", "surrogateescape")])
