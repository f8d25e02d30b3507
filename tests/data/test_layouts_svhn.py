"""SVHN: images and digits from MATLAB files, missing and broken files, and the counts of the real subset."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from jaxfair.data.layouts import svhn
from jaxfair.data.opening import open_files
from jaxfair.errors import JaxfairError
from tests.layout_sources import check_sources_agree, counts, write
from tests.real_data import needs


def mat(labels: list[int], *, compress: bool = True, **changes: Any) -> bytes:
    """Return a file as the official ones: all pixels of image i have the value of its label."""
    pixels = np.broadcast_to(np.array(labels, np.uint8), (32, 32, 3, len(labels))).copy()
    content = {"X": pixels, "y": np.array(labels, np.uint8)[:, None]} | changes
    file = io.BytesIO()
    savemat(file, {name: value for name, value in content.items() if value is not None}, do_compression=compress)
    return file.getvalue()


def test_train_and_test_become_rows_in_this_order(tmp_path: Path) -> None:
    folder = write(tmp_path, {"train_32x32.mat": mat([1, 10, 9]), "test_32x32.mat": mat([2, 10])})
    with open_files(folder) as files:
        index = svhn.read(files)
    assert index.columns["digit"].names == tuple("0123456789")
    assert index.columns["digit"].codes.tolist() == [1, 0, 9, 2, 0]
    assert index.split is not None
    assert [index.split.names[code] for code in index.split.codes] == ["train"] * 3 + ["test"] * 2
    assert [(row, pixels.shape, int(pixels.max())) for row, pixels in index.stream()] == [
        (row, (32, 32, 3), label) for row, label in enumerate([1, 10, 9, 2, 10])
    ]
    assert index.names[1] == "train_32x32.mat[1]"
    assert (index.title, index.size, index.rejected) == ("SVHN, 5-image subset", (32, 32, 3), ())


def test_folder_and_archives_agree(tmp_path: Path) -> None:
    contents = {f"svhn/{part}_32x32.mat": mat([3, 10, label]) for label, part in enumerate(("train", "test"), 1)}
    check_sources_agree(write(tmp_path / "data", contents), svhn.read)


def test_a_single_file_has_no_split(tmp_path: Path) -> None:
    write(tmp_path, {"train_32x32.mat": mat([5])})
    with open_files(tmp_path / "train_32x32.mat") as files:
        index = svhn.read(files)
    assert (index.split, len(index.names)) == (None, 1)


def test_extra_images_are_left_out(tmp_path: Path) -> None:
    with open_files(write(tmp_path, {"train_32x32.mat": mat([5, 6]), "extra_32x32.mat": mat([7])})) as files:
        index = svhn.read(files)
    assert index.columns["digit"].codes.tolist() == [5, 6]
    assert [(row.name, "extra" in row.reason) for row in index.left_out] == [("extra_32x32.mat", True)]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"test_32x32.mat": mat([1])}, "holds no train_32x32.mat; expected SVHN's cropped digits"),
        ({"1.png": b"x"}, "holds no train_32x32.mat"),
        ({"train_32x32.mat": mat([1, 2])[:200]}, "is cut short or no MATLAB file"),
        ({"train_32x32.mat": mat([1, 2], compress=False)[:900]}, "is cut short or no MATLAB file"),
        ({"train_32x32.mat": b"not a file of MATLAB" * 20}, "is cut short or no MATLAB file"),
        ({"train_32x32.mat": mat([1], X=None)}, "holds no X; expected"),
        ({"train_32x32.mat": mat([1], y=None)}, "holds no y; expected"),
        ({"train_32x32.mat": mat([1, 2], y=np.ones((3, 1), np.uint8))}, r"shape \(32, 32, 3, 2\) with 3 labels"),
        ({"train_32x32.mat": mat([1, 2], X=np.zeros((2, 32, 32, 3), np.uint8))}, r"shape \(2, 32, 32, 3\)"),
        ({"train_32x32.mat": mat([1, 2], X=np.zeros((32, 32, 3, 2)))}, "X of type float64"),
        ({"train_32x32.mat": mat([1, 0])}, "has labels other than 1 to 10"),
        ({"train_32x32.mat": mat([1, 11])}, "has labels other than 1 to 10"),
        ({"train_32x32.mat": mat([1, 2], y=np.array([[1.0], [np.nan]]))}, "has labels other than 1 to 10"),
        ({"train_32x32.mat": mat([1], y={"label": 1})}, "has labels other than 1 to 10"),
        ({f"{folder}/train_32x32.mat": mat([1]) for folder in "ab"}, "holds 2 files train_32x32.mat"),
    ],
)
def test_what_is_not_svhn_is_refused(tmp_path: Path, contents: dict[str, bytes], message: str) -> None:
    with open_files(write(tmp_path, contents)) as files, pytest.raises(JaxfairError, match=message) as error:
        svhn.read(files)
    assert "\n" not in str(error.value)


def test_counts_and_pixels_of_the_real_subset() -> None:
    with open_files(needs("svhn_train1083.tar.gz")) as files:
        index = svhn.read(files)
        raw = loadmat(io.BytesIO(files.read("train_32x32.mat")))["X"]
    expected = [66, 227, 141, 134, 110, 112, 78, 70, 78, 67]
    assert counts(index, "digit") == {str(digit): count for digit, count in enumerate(expected)}
    assert (index.title, index.split) == ("SVHN, 1,083-image subset", None)
    images = dict(index.stream())
    assert len(images) == 1083
    assert all((images[row] == raw[..., row]).all() for row in range(1083))
