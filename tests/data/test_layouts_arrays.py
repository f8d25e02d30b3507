"""Arrays in an .npz file: columns by name, and one sentence for each file that is not as expected."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxfair.data.columns import Column
from jaxfair.data.layouts import arrays
from jaxfair.errors import JaxfairError

IMAGES = np.arange(4 * 5 * 6 * 3).reshape(4, 5, 6, 3).astype(np.uint8)
OBJECTS = np.array(["a", None, "b", 1], dtype=object)


def save(folder: Path, **content: Any) -> Path:
    np.savez(folder / "set.npz", **content)
    return folder / "set.npz"


def values(column: Column) -> list[str]:
    return [column.names[code] for code in column.codes]


@pytest.mark.parametrize(
    ("images", "size"),
    [(IMAGES, (5, 6, 3)), (IMAGES[..., :1], (5, 6, 1)), (IMAGES[..., 0], (5, 6, 1)), (IMAGES[:, :1], (1, 6, 3))],
)
def test_rows_are_streamed_in_order(tmp_path: Path, images: np.ndarray, size: tuple[int, int, int]) -> None:
    index = arrays.read(save(tmp_path, images=images))
    assert (index.size, len(index.names), index.names[3], index.title) == (size, 4, "image 3 of set.npz", "set.npz")
    for _ in range(2):  # each call starts anew
        rows, pixels = zip(*index.stream(), strict=True)
        assert rows == (0, 1, 2, 3)
        np.testing.assert_array_equal(np.stack(pixels), images)
        assert pixels[0].dtype == np.uint8


@pytest.mark.parametrize("save_as", [np.savez, np.savez_compressed])
def test_every_other_array_is_a_column(tmp_path: Path, save_as: Any) -> None:
    columns = {
        "age": np.array([10, 9, 10, 2]),
        "male": np.array([True, False, False, True]),
        "race": np.array(["White", "", "Black", "Asian"]),
        "code": np.array([b"x", b"y", b"x", b"y"]),
        "score": np.array([1, 2, np.nan, 2], np.float32),
    }
    save_as(tmp_path / "set.npz", images=IMAGES, **columns)
    index = arrays.read(tmp_path / "set.npz")
    assert list(index.columns) == list(columns)
    assert index.columns["age"].names == ("2", "9", "10")
    assert values(index.columns["age"]) == ["10", "9", "10", "2"]
    assert values(index.columns["male"]) == ["True", "False", "False", "True"]
    assert index.columns["race"].codes.tolist() == [2, -1, 1, 0]
    assert values(index.columns["code"]) == ["x", "y", "x", "y"]
    assert (index.columns["score"].names, index.columns["score"].codes.tolist()) == (("1", "2"), [0, 1, -1, 1])
    assert index.split is None


@pytest.mark.parametrize("dtype", [str, bytes])
def test_an_array_split_is_the_split(tmp_path: Path, dtype: type) -> None:
    index = arrays.read(save(tmp_path, images=IMAGES, split=np.array(["val", "train", "test", "train"], dtype)))
    assert index.split is not None
    assert values(index.split) == ["validation", "train", "test", "train"]
    assert values(index.columns["split"]) == ["val", "train", "test", "train"]


def test_an_array_split_of_other_values_is_a_column(tmp_path: Path) -> None:
    index = arrays.read(save(tmp_path, images=IMAGES, split=np.array([0, 1, 2, 0])))
    assert (index.split, index.columns["split"].names) == (None, ("0", "1", "2"))
    assert "says 0, 1, 2, none of which is train" in index.left_out[0].reason
    assert not arrays.read(save(tmp_path, images=IMAGES, split=np.array(["train", "test"] * 2))).left_out


@pytest.mark.parametrize(("cells", "said"), [(["Train", "val", "train", "test"], 1), (["train", "x", "test", ""], 0)])
def test_parts_in_an_array_of_another_name_are_said(tmp_path: Path, cells: list[str], said: int) -> None:
    index = arrays.read(save(tmp_path, images=IMAGES, partition=np.array(cells)))
    reason = "names the parts of a set, which are mixed: call it 'split' to keep its test rows out of training"
    assert (index.split, index.left_out) == (None, (("the column 'partition'", reason),) * said)


@pytest.mark.parametrize("name", ["is_test", "Train", "is_val"])
def test_a_column_that_is_called_like_a_part_is_said(tmp_path: Path, name: str) -> None:
    index = arrays.read(save(tmp_path, images=IMAGES, **{name: np.array([True, False] * 2), "tests": np.arange(4)}))
    reason = "seems to say a part of a set, which are mixed: write a column 'split' of train and test to keep test rows"
    assert [(one.name, one.reason[: len(reason)]) for one in index.left_out] == [(f"the column '{name}'", reason)]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_numbers_are_written_as_they_were_given(tmp_path: Path, kind: type) -> None:
    index = arrays.read(save(tmp_path, images=IMAGES, dose=np.array([0.1, 2.5, 3, np.nan], kind)))
    assert index.columns["dose"].names == ("0.1", "2.5", "3")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"image": IMAGES}, "no array 'images' but image; save the images as uint8"),
        ({}, "no array 'images' but nothing"),
        ({"images": IMAGES / 255}, r"type float64 from 0.0 to 1.0; save np.rint\(images \* 255\).astype\(np.uint8\)"),
        ({"images": IMAGES > 0}, r"type bool from False to True; save np.rint\(images \* 255\)"),
        ({"images": IMAGES.astype(int)}, r"type int64 from 0 to 255; save images.astype\(np.uint8\)"),
        ({"images": IMAGES * 1.0}, r"type float64 from 0.0 to 255.0; save np.rint\(images\).astype\(np.uint8\)"),
        ({"images": IMAGES / 255 - 0.5}, "type float64 from -0.5 to 0.5; scale them to 0 to 255"),
        ({"images": IMAGES.astype(int) + 1}, "type int64 from 1 to 256; scale them to 0 to 255"),
        ({"images": IMAGES * np.nan}, "type float64 from nan to nan; scale them"),
        ({"images": IMAGES.astype(str)}, "type <U3; save them as uint8"),
        (
            {"images": IMAGES.transpose(0, 3, 1, 2)},
            r"\(4, 3, 5, 6\), channels first; save images.transpose\(0, 2, 3",
        ),
        ({"images": IMAGES[:, :, :, [0, 1, 2, 0]]}, r"shape \(4, 5, 6, 4\); expected \(n, height, width\) or"),
        ({"images": IMAGES.transpose(1, 2, 3, 0)}, r"shape \(5, 6, 3, 4\); expected"),
        ({"images": IMAGES.reshape(4, -1)}, r"shape \(4, 90\); expected"),
        ({"images": IMAGES[:0]}, r"shape \(0, 5, 6, 3\); expected .* none of them 0"),
        ({"images": IMAGES[:, :0]}, "none of them 0"),
        (
            {"images": IMAGES, "age": np.arange(3)},
            r"'age' of .* shape \(3,\); expected 4 numbers, strings or bool",
        ),
        ({"images": IMAGES, "age": np.zeros((4, 1), int)}, r"'age' of .* shape \(4, 1\); expected 4"),
        ({"images": IMAGES, "note": np.array("text")}, r"'note' of .* shape \(\); expected 4"),
        ({"images": IMAGES, "day": np.zeros(4, "datetime64[D]")}, r"'day' .* dates as text, array\.astype\(str\)\.$"),
        (
            {"images": IMAGES, "race": OBJECTS},
            "array 'race' of Python objects, which is not safe to load; save numbers or strings",
        ),
        (
            {"images": OBJECTS, "race": IMAGES},
            r"'images' of Python objects, .*; save images of one size as one array of uint8",
        ),
    ],
)
def test_content_is_refused(tmp_path: Path, content: dict[str, Any], words: str) -> None:
    with pytest.raises(JaxfairError, match=words):
        arrays.read(save(tmp_path, **content))


@pytest.mark.parametrize(
    "images",
    [
        *(IMAGES / 255, IMAGES / np.float32(255), IMAGES * 1.0, IMAGES - 1e-5 * (IMAGES > 0), IMAGES.astype(int)),
        *(IMAGES.transpose(0, 3, 1, 2), IMAGES.transpose(0, 3, 1, 2) / 255),
    ],
)
def test_the_advice_for_images_mends_them(tmp_path: Path, images: np.ndarray) -> None:
    """It is carried out as it stands, until nothing is wrong any more: also where two things were."""
    for _ in range(2):
        try:
            arrays.read(save(tmp_path, images=images))
            break
        except JaxfairError as error:
            images = eval(str(error).rpartition("; save ")[2].rstrip("."), {"np": np, "images": images})
    index = arrays.read(save(tmp_path, images=images))
    np.testing.assert_array_equal(np.stack([pixels for _, pixels in index.stream()]), IMAGES)


def test_masked_and_missing_values_of_arrays(tmp_path: Path) -> None:
    """As NumPy writes what stands for nothing into arrays of numbers, strings and bytes."""
    columns = {
        "text": np.array(["a", None, float("nan"), "b"], dtype=str),
        "bytes": np.array([b"a", b"N/A", b"none", b"b"]),
        "number": np.array([1, np.nan, np.nan, 2]),
        "filled": np.ma.masked_equal(np.array(["a", "xx", "xx", "b"]), "xx").filled("NA"),
    }
    for column in arrays.read(save(tmp_path, images=IMAGES, **columns)).columns.values():
        assert column.codes.tolist() == [0, -1, -1, 1]


@pytest.mark.parametrize("size", [0, 3, 100, -200, -1])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, size: int) -> None:
    path = save(tmp_path, images=IMAGES)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(JaxfairError, match=r"no .npz file, or is cut short; write it by np.savez\(path, images="):
        arrays.read(path)


def test_a_file_with_a_changed_byte_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, images=IMAGES)
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    with pytest.raises(JaxfairError, match=r"no .npz file, or is cut short"):
        arrays.read(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", IMAGES)
    np.save(tmp_path / "objects.npy", OBJECTS)
    (tmp_path / "text.npz").write_text("images")
    with pytest.raises(JaxfairError, match=r"something else than named arrays; write it by np.savez"):
        arrays.read(tmp_path / "one.npy")
    with pytest.raises(JaxfairError, match="holds an array of Python objects"):
        arrays.read(tmp_path / "objects.npy")
    with pytest.raises(JaxfairError, match=r"no .npz file"):
        arrays.read(tmp_path / "text.npz")
    with pytest.raises(JaxfairError, match=r"cannot be read: No such file or directory; give an .npz file"):
        arrays.read(tmp_path / "absent.npz")
    with pytest.raises(JaxfairError, match="cannot be read: Is a directory"):
        arrays.read(tmp_path)


def test_an_archive_of_other_files_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        archive.writestr("cat/1.jpg", b"pixels")
    with pytest.raises(JaxfairError, match="something else than named arrays"):
        arrays.read(tmp_path / "set.npz")


def test_a_file_of_many_arrays_is_refused_in_a_short_sentence(tmp_path: Path) -> None:
    save: Any = np.savez
    save(tmp_path / "many.npz", **{f"feature_of_the_{i}th_image": IMAGES for i in range(300)})
    with pytest.raises(
        JaxfairError, match=r"has no array 'images' but feature_of_the_0th_image, .* and 295 more;"
    ) as error:
        arrays.read(tmp_path / "many.npz")
    assert len(str(error.value).replace(str(tmp_path), "")) < 400
    save(tmp_path / "long.npz", **{"images": IMAGES, "x" * 9000: IMAGES})
    with pytest.raises(JaxfairError, match=r"The array 'x{39}…' of") as error:
        arrays.read(tmp_path / "long.npz")
