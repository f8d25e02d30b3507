"""CIFAR-10: pickles and class folders alike, what is broken or unsafe, and the counts of the real set."""

import io
import os
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from jaxfair.data.layouts import cifar10
from jaxfair.data.layouts.cifar10 import BATCHES, CLASSES
from jaxfair.data.opening import open_files
from jaxfair.errors import JaxfairError
from tests.layout_sources import check_sources_agree, counts, write
from tests.real_data import needs


class Malicious:
    """Pickles to a call of ``os.getenv``, which unpickling would make."""

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return os.getenv, ("HOME", "")


PicklerInPython: Any = vars(pickle)["_Pickler"]  # the one in C cannot be changed


class Python2Pickler(PicklerInPython):
    """Writes strings as Python 2 did, which wrote the official batches."""

    dispatch: ClassVar[dict[type, Any]] = dict(PicklerInPython.dispatch)

    def save_string(self, value: bytes | str) -> None:
        data = value if isinstance(value, bytes) else value.encode()
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def python2(value: Any) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, 2).dump(value)
    return file.getvalue().replace(b"numpy._core", b"numpy.core")


def batch(labels: list[Any], /, protocol: int = 0, **changes: Any) -> bytes:
    """Return a batch with the value ``100 * channel + label`` in all pixels; protocol 0 is Python 2's."""
    planes = [np.full((1024,), 100 * channel, np.uint8) for channel in range(3)]
    data = np.concatenate(planes)[None] + np.array(labels, np.uint8)[:, None]
    content = {"batch_label": "batch", "labels": labels, "data": data} | changes
    content = {name: value for name, value in content.items() if value is not None}
    return pickle.dumps(content, protocol) if protocol else python2(content)


def batches(**changes: bytes | None) -> dict[str, bytes]:
    contents = {name: batch([i, 9 - i]) for i, name in enumerate(BATCHES)} | changes
    meta = python2({"label_names": list(CLASSES), "num_vis": 3072})
    contents = {"batches.meta": meta} | contents
    return {f"cifar-10-batches-py/{name}": data for name, data in contents.items() if data is not None}


def folders(**changes: bytes) -> dict[str, bytes]:
    images = {
        f"{part}/{name}/{i}.jpg": f"{part}{name}{i}".encode() for part in ("train",) for name in CLASSES for i in "01"
    }
    return images | {f"test/{name}/0.png": f"test{name}".encode() for name in CLASSES} | changes


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_pickles_become_images(tmp_path: Path, protocol: int) -> None:
    contents = batches(**{name: batch([i, 9 - i], protocol) for i, name in enumerate(BATCHES)})
    with open_files(write(tmp_path, contents)) as files:
        index = cifar10.read(files)
    labels = [label for i in range(6) for label in (i, 9 - i)]
    official = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    assert list(index.columns["class"].names) == official
    assert index.columns["class"].codes.tolist() == labels
    assert index.split is not None
    assert [index.split.names[code] for code in index.split.codes] == ["train"] * 10 + ["test"] * 2
    for row, pixels in index.stream():
        expected = np.broadcast_to(np.array([0, 100, 200]) + labels[row], (32, 32, 3))
        np.testing.assert_array_equal(pixels, expected)
    assert (index.title, index.size) == ("CIFAR-10, 12-image subset", (32, 32, 3))
    assert index.names[3] == "cifar-10-batches-py/data_batch_2[1]"


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("python2_names", [True, False])
def test_batches_that_python3_has_rewritten(tmp_path: Path, protocol: int, python2_names: bool) -> None:
    """As bytes throughout; below protocol 3, empty ones become a call of ``bytes``."""
    content = {
        b"batch_label": b"",
        b"labels": [3, 8],
        b"data": np.stack([np.full(3072, 3, np.uint8), np.full(3072, 8, np.uint8)]),
        b"filenames": [b"", b"leptodactylus_\xe9.png"],
    }
    rewritten = pickle.dumps(content, protocol, fix_imports=python2_names)
    with open_files(write(tmp_path, batches(data_batch_1=rewritten))) as files:
        index = cifar10.read(files)
    assert index.columns["class"].codes[:2].tolist() == [3, 8]
    assert [int(pixels[0, 0, 0]) for _, pixels in index.stream()][:2] == [3, 8]


@pytest.mark.parametrize("numpy1", [True, False])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_batches_with_numbers_of_either_numpy(tmp_path: Path, protocol: int, numpy1: bool) -> None:
    rewritten = batch([3, 8], protocol, labels=list(np.array([3, 8])))
    if numpy1 and protocol > 2:  # whose names are shorter, so the frame, which may be missing, is left out
        rewritten = rewritten[:2] + rewritten[11:]
        for name in (b"numeric", b"multiarray"):
            new, old = b"numpy._core." + name, b"numpy.core." + name
            rewritten = rewritten.replace(bytes([len(new)]) + new, bytes([len(old)]) + old)
    elif numpy1:
        rewritten = rewritten.replace(b"numpy._core", b"numpy.core")
    with open_files(write(tmp_path, batches(data_batch_1=rewritten))) as files:
        index = cifar10.read(files)
    assert index.columns["class"].codes[:2].tolist() == [3, 8]
    assert [int(pixels[0, 0, 0]) for _, pixels in index.stream()][:2] == [3, 8]


def test_bytes_of_a_size_that_a_pickle_names_are_refused(tmp_path: Path) -> None:
    content = b"c__builtin__\nbytes\n(I99999999999999\ntR."
    files = open_files(write(tmp_path, batches(data_batch_1=content)))
    with pytest.raises(JaxfairError, match="is cut short or no CIFAR-10 batch"):
        cifar10.read(files)


def test_rows_of_a_pickle_run_along_the_width(tmp_path: Path) -> None:
    data = (np.arange(3072) // 32 % 32).astype(np.uint8)[None]  # the row of each pixel
    with open_files(write(tmp_path, batches(data_batch_1=batch([0], data=data)))) as files:
        _, pixels = next(iter(cifar10.read(files).stream()))
    np.testing.assert_array_equal(pixels, np.broadcast_to(np.arange(32)[:, None, None], (32, 32, 3)))


def test_class_folders(tmp_path: Path) -> None:
    with open_files(write(tmp_path, {f"cifar10/{name}": data for name, data in folders().items()})) as files:
        index = cifar10.read(files)
        content = dict(index.stream())
    names, split = index.columns["class"].names, index.split
    assert split is not None
    for row, name in enumerate(index.names):
        _, part, label, file = name.split("/")
        assert (split.names[split.codes[row]], names[index.columns["class"].codes[row]]) == (part, label)
        assert content[row] == folders()[f"{part}/{label}/{file}"]
    assert (len(content), names, index.title) == (30, CLASSES, "CIFAR-10 (JPEG), 30-image subset")


@pytest.mark.parametrize("contents", [batches(), folders()], ids=["pickles", "folders"])
def test_folder_and_archives_agree(tmp_path: Path, contents: dict[str, bytes]) -> None:
    check_sources_agree(write(tmp_path / "data", contents), cifar10.read)


def test_without_test_images_there_is_no_split(tmp_path: Path) -> None:
    contents = {name: data for name, data in folders().items() if name.startswith("train/")}
    with open_files(write(tmp_path, contents | {"train/a.jpg": b"", "labels.txt": b""})) as files:
        index = cifar10.read(files)
    assert (index.split, len(index.names)) == (None, 20)
    assert [row.name for row in index.rejected] == ["train/a.jpg"]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"cat/1.jpg": b"x"}, "neither the batches of cifar-10-python.tar.gz nor images in train/<class>"),
        ({"test/cat/1.jpg": b"x"}, "neither the batches"),
        (folders(**{"train/plane/1.jpg": b"x"}), "holds the class folder 'train/plane'; expected the classes airplane"),
        (folders(**{"copy/test/cat/1.jpg": b"x"}), "holds two test folders, 'copy/test' and 'test'"),
        ({f"train/{name}/1.jpg": b"x" for name in CLASSES[1:]}, "holds no images in 'train/airplane'"),
        (batches(data_batch_3=None, test_batch=None), "holds no data_batch_3, test_batch; expected"),
        (batches(data_batch_3=batch([1])[:-400]), "'cifar-10-batches-py/data_batch_3' .* is cut short or no CIFAR-10"),
        (batches(data_batch_3=b"x"), "is cut short or no CIFAR-10 batch"),
        (batches(data_batch_3=pickle.dumps([1, 2])), "is cut short or no CIFAR-10 batch"),
        (batches(data_batch_3=pickle.dumps(Malicious())), r"it asks for os\.getenv, which no batch needs"),
        (batches(test_batch=batch([1], filenames=[Malicious()])), "it asks for os.getenv"),
        (batches(test_batch=batch([1], data=None)), "holds no images of 3,072 bytes"),
        (batches(test_batch=batch([1], data=np.zeros((1, 3071), np.uint8))), "holds no images of 3,072 bytes"),
        (batches(test_batch=batch([1], data=np.zeros((1, 3072)))), "holds no images of 3,072 bytes"),
        (batches(test_batch=batch([1], labels=[1, 2])), "a label from 0 to 9 for each of its 1 images"),
        (batches(test_batch=batch([1], labels=None)), "a label from 0 to 9"),
        (batches(test_batch=batch([10])), "a label from 0 to 9"),
        (batches(test_batch=batch([1], labels=["cat"])), "a label from 0 to 9"),
        (batches(**{"batches.meta": pickle.dumps({"label_names": ["cat"]})}), "names other classes than CIFAR-10's"),
    ],
)
def test_what_is_not_cifar10_is_refused(tmp_path: Path, contents: dict[str, bytes], message: str) -> None:
    with open_files(write(tmp_path, contents)) as files, pytest.raises(JaxfairError, match=message) as error:
        cifar10.read(files)
    assert "\n" not in str(error.value)


def test_counts_of_the_real_set() -> None:
    with open_files(needs("cifar10_jpg.tar.gz")) as files:
        index = cifar10.read(files)
    assert index.split is not None
    cell = 10 * index.split.codes + index.columns["class"].codes
    assert np.bincount(cell).tolist() == [5000] * 10 + [1000] * 10
    assert counts(index, "class") == dict.fromkeys(CLASSES, 6000)
    assert (index.title, index.split.names, index.rejected) == ("CIFAR-10 (JPEG)", ("train", "test"), ())
