"""Sets that tfds has prepared: everything comes back, and what cannot be read is refused in one sentence."""

import json
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jaxfair.data import tfds as prepared
from jaxfair.errors import JaxfairError
from tests.layout_sources import values
from tests.tfds_set import picture, png, write

SPLITS = {"train": 5, "test": 3, "extra": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set with every kind of feature; the number of an image says all that is known of it."""
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(shape=(4, 5, 3)),
        "label": tfds.features.ClassLabel(names=["zebra", "ant", "cow"]),
        "years": tfds.features.Scalar(np.int64),
        "weight": tfds.features.Scalar(np.float32),
        "glasses": tfds.features.Scalar(np.bool_),
        "city": tfds.features.Text(),
        "id": tfds.features.Text(),
        "attributes": {"Male": np.bool_, "years": np.int64},
        "box": tfds.features.Tensor(shape=(4,), dtype=np.float32),
        "more": {"deep": {"x": np.int64}},
    }

    def example(i: int) -> dict[str, Any]:
        return {
            "image": png(i),
            "label": i % 3 if i else -1,
            "years": 10 * i,
            "weight": i / 10,
            "glasses": i % 2 == 1,
            "city": "" if i == 1 else f"Köln {i % 2}",
            "id": f"no {i}",
            "attributes": {"Male": i > 2, "years": i},
            "box": np.zeros(4, np.float32),
            "more": {"deep": {"x": i}},
        }

    numbers = iter(range(sum(SPLITS.values())))
    return write(tmp_path, features, {k: [example(next(numbers)) for _ in range(n)] for k, n in SPLITS.items()})


def test_every_feature_comes_back(folder: Path):
    """Images, columns of each kind, names and splits are those written; other features and splits are reported."""
    index = prepared.read(folder)
    assert index.title == "made/1.0.0 (tfds), 8 images"
    assert index.names == [f"no {i}" for i in range(8)]
    assert index.size == (4, 5, 3)
    assert index.split is not None
    assert values(index.split) == ["train"] * 5 + ["test"] * 3
    assert {name: values(column) for name, column in index.columns.items()} == {
        "label": [None, *(["zebra", "ant", "cow"][i % 3] for i in range(1, 8))],
        "years": [str(10 * i) for i in range(8)],
        "weight": ["0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7"],
        "glasses": ["not glasses", "glasses"] * 4,
        "city": ["Köln 0", None, *["Köln 0", "Köln 1"] * 3],
        "Male": ["not Male"] * 3 + ["Male"] * 5,
        "attributes/years": [str(i) for i in range(8)],
    }
    assert index.columns["label"].names == ("zebra", "ant", "cow")
    assert [*index.columns] == ["Male", "attributes/years", "city", "glasses", "label", "weight", "years"]
    assert [row.name for row in index.left_out] == ["split extra", "feature box", "feature more/deep"]


def test_images_come_encoded_and_again(folder: Path):
    """The stream yields the file's own bytes in the order of the names, as often as it is asked for."""
    index = prepared.read(folder)
    for _ in range(2):
        assert [*index.stream()] == [(i, png(i)) for i in range(8)]


@pytest.mark.parametrize("encoding", ["none", "bytes", "zlib"])
@pytest.mark.parametrize("shape", [(4, 5, 3), (4, 5), (None, 5, 3), (4, 5, 2)])
def test_images_stored_as_arrays(tmp_path: Path, encoding: str, shape: tuple[int | None, ...]):
    """A tensor of uint8 is an image as well, however it is stored."""
    import tensorflow_datasets as tfds

    images = [picture(i)[..., 0] if len(shape) == 2 else picture(i)[..., : shape[2]] for i in range(3)]
    feature = tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding=encoding)
    index = prepared.read(
        write(tmp_path, {"pixels": feature}, {"train": [{"pixels": i} for i in images]}), image="pixels"
    )
    for (_, found), expected in zip(index.stream(), images, strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.uint8
    assert index.size == {(4, 5, 3): (4, 5, 3), (4, 5): (4, 5, 1)}.get(shape)
    assert index.names == ["train 0", "train 1", "train 2"]


def simple(data_dir: Path, splits: tuple[str, ...] = ("train",), **options: Any) -> Path:
    import tensorflow_datasets as tfds

    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=2)}
    examples = [{"image": png(i), "label": i % 2} for i in range(5)]
    return write(data_dir, features, dict.fromkeys(splits, examples), **options)


@pytest.mark.parametrize("split", ["train", "everything"])
def test_one_split_is_no_official_split(tmp_path: Path, split: str):
    """A set in one piece has no official split, whatever the piece is called."""
    index = prepared.read(simple(tmp_path, (split,)))
    assert index.split is None
    assert len(index.names) == 5
    assert not index.left_out
    assert index.columns["label"].names == ("0", "1")


@pytest.mark.parametrize("config", [None, "small"])
def test_folder_above_will_do(tmp_path: Path, config: str | None):
    """The set is found below the folders of its name and configuration, but not among several."""
    simple(tmp_path, config=config)
    (tmp_path / "made" / "incomplete.ABC_2.0.0").mkdir()
    for above in (tmp_path, tmp_path / "made"):
        assert len(prepared.read(above).names) == 5
    simple(tmp_path, config=config, version="1.1.0")
    with pytest.raises(JaxfairError, match=r"holds 2 prepared sets, .*1\.0\.0, .*1\.1\.0; give"):
        prepared.read(tmp_path)


def test_find_takes_the_newest(tmp_path: Path):
    """Versions are compared as numbers over all folders; half-prepared ones and other names do not count."""
    roots = [tmp_path / "a", tmp_path / "b", tmp_path / "none"]
    for root, version in zip((0, 0, 1, 1), ("9.0.0", "10.0.0", "10.0.0", "incomplete.X_11.0.0"), strict=True):
        place = roots[root] / "cifar10" / version
        place.mkdir(parents=True)
        for name in ("dataset_info.json", "features.json"):
            (place / name).touch()
    (roots[0] / "cifar10" / "12.0.0").mkdir()
    (roots[0] / "cifar10" / "12.0.0" / "dataset_info.json").touch()
    assert prepared.find("cifar10", roots) == roots[0] / "cifar10" / "10.0.0"
    assert prepared.find("celeb_a", roots) is None


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.array_record*"))


def cut(folder: Path) -> None:
    shards(folder)[0].write_bytes(shards(folder)[0].read_bytes()[:-1000])


def swap(folder: Path) -> None:
    """Let both shards be the one with fewer images."""
    least, most = sorted(shards(folder), key=lambda shard: shard.stat().st_size)
    most.write_bytes(least.read_bytes())


def flip(folder: Path) -> None:
    """Change bytes of the images."""
    data = bytearray(shards(folder)[0].read_bytes())
    for i in range(len(data) // 3, 2 * len(data) // 3):
        data[i] ^= 255
    shards(folder)[0].write_bytes(data)


def as_format(folder: Path, name: str) -> None:
    """Say of a set that it is stored in another format."""
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps({**info, "fileFormat": name}))
    for shard in shards(folder):
        shard.rename(shard.with_name(shard.name.replace("array_record", name)))


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut short": (cut, "'train' in .* damaged"),
    "fewer images": (swap, "'train' in .* damaged"),
    "changed": (flip, "'train' in .* damaged"),
    "shard missing": (
        lambda folder: shards(folder)[1].unlink(),
        "lacks 1 of its 2 files, such as made-train.array_record-00001",
    ),
    "no features": (lambda folder: (folder / "features.json").unlink(), "no features.json"),
    "empty info": (lambda folder: (folder / "dataset_info.json").write_text(""), "is no whole set"),
    "wrong info": (lambda folder: (folder / "dataset_info.json").write_text('{"name": 3}'), "is no whole set"),
    "wrong features": (lambda folder: (folder / "features.json").write_text('{"a": '), "is no whole set"),
    "TFRecord": (
        lambda folder: as_format(folder, "tfrecord"),
        r"only TensorFlow reads; install jaxfair\[tensorflow\], or",
    ),
    "Parquet": (lambda folder: as_format(folder, "parquet"), "stored as parquet; prepare it again"),
    "half": (lambda folder: folder.rename(folder.with_name("incomplete.ABC_1.0.0")), "half a set"),
    "nothing": (lambda folder: folder.rename(folder.parents[3] / "elsewhere"), "holds no set that tfds has prepared"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_sentence(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch):
    """Each kind of damage is named, with what to do."""
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    folder = simple(tmp_path / "data")
    harm, message = DAMAGE[damage]
    harm(folder)
    with pytest.raises(JaxfairError, match=message) as caught:
        prepared.read(folder.parent)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("imgae", "no feature 'imgae'; did you mean 'image'"),
        ("label", "'label' of .* is a ClassLabel; expected an Image"),
    ],
)
def test_image_feature_is_checked(tmp_path: Path, image: str, message: str):
    """A feature that is not there or holds no image is refused by name."""
    folder = simple(tmp_path)
    with pytest.raises(JaxfairError, match=message):
        prepared.read(folder, image=image)


@pytest.mark.parametrize(
    "options",
    [{"shape": (4, 5, 3), "dtype": np.float32}, {"shape": (None, None, 3), "dtype": np.uint8, "encoding": "zlib"}],
)
def test_tensors_that_are_no_images(tmp_path: Path, options: dict[str, Any]):
    """A tensor of other numbers, or whose shape only TensorFlow restores, is refused."""
    import tensorflow_datasets as tfds

    pixels = np.zeros((4, 5, 3), options["dtype"])
    folder = write(tmp_path, {"image": tfds.features.Tensor(**options)}, {"train": [{"image": pixels}] * 2})
    with pytest.raises(JaxfairError, match=r"'image' of .* is a Tensor; expected an Image of type uint8"):
        prepared.read(folder)


def test_splits_without_an_official_one(tmp_path: Path):
    """Nothing says which of two parts is which."""
    with pytest.raises(JaxfairError, match="has the splits left, right; expected train, test or validation"):
        prepared.read(simple(tmp_path, ("left", "right")))


def test_no_folder(tmp_path: Path):
    """A path that is not there is named."""
    with pytest.raises(JaxfairError, match=r"There is no folder .*absent"):
        prepared.read(tmp_path / "absent")


@pytest.mark.parametrize("lost", [0, 1])
def test_tfrecord_is_read_by_tensorflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: int):
    """Where TensorFlow can be imported, it reads the records of TFRecord files; none may be missing."""
    folder = simple(tmp_path, ("train", "test"))
    expected = prepared.read(folder)
    images = [*expected.stream()]
    import tensorflow_datasets as tfds

    builder: Any = tfds.builder_from_directory(str(folder))
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    stored = {split: [*builder.as_data_source(split, deserialize_method=raw)] for split in ("train", "test")}
    as_format(folder, "tfrecord")

    def dataset(files: list[str]) -> SimpleNamespace:
        assert [Path(file).exists() for file in files] == [True, True]
        split = "train" if "train" in files[0] else "test"
        return SimpleNamespace(as_numpy_iterator=lambda: iter(stored[split][lost:]))

    tensorflow = ModuleType("tensorflow")
    tensorflow.__spec__ = ModuleSpec("tensorflow", None)
    tensorflow.data = SimpleNamespace(TFRecordDataset=dataset)  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow)
    if lost:
        with pytest.raises(JaxfairError, match=r"damaged \(4 of 5 images\)"):
            prepared.read(folder)
        return
    found = prepared.read(folder)
    assert [*found.stream()] == images
    assert values(found.columns["label"]) == values(expected.columns["label"])
