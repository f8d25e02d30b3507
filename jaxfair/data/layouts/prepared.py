"""Data sets that TensorFlow Datasets (tfds) has prepared on disk, read without TensorFlow."""

import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxfair.data.columns import MISSING, PARTS, Column, Index, Rejected, from_values
from jaxfair.errors import JaxfairError, did_you_mean

FILE_NAMES = ("filename", "file_name", "id", "image_id")  # texts that name an image rather than describe it
_HALF = "incomplete."  # how tfds calls a folder that it is still writing
_BATCH = 512  # records fetched at once: a batch is read in parallel
# Where tf.train.Example, the record of all formats, stores the values of a kind of dtype.
_LISTS = {"b": "int64_list", "i": "int64_list", "u": "int64_list", "f": "float_list", "O": "bytes_list"}

Example = Mapping[str, Any]


class _Part(NamedTuple):
    """One split: its official name, its number of images, and what yields its records in the order of storage."""

    name: str
    count: int
    examples: Callable[[], Iterator[Example]]


def read(directory: Path, *, image: str = "image") -> Index:
    """Read a set that tfds has prepared: array_record files or, where TensorFlow is installed, TFRecord files.

    Every scalar feature becomes a column, and so does every scalar in a dictionary of features, under its own name. A
    set with a single split has no official split.

    Args:
        directory: a folder with ``dataset_info.json``, or above exactly one: ``name/[config/]version``.
        image: the feature that holds the images.

    Raises:
        JaxfairError: there is no prepared set, half of one or more than one; its files are missing, damaged or of
            another format; it has no such feature, or that holds no images.
    """
    folder = _prepared_folder(directory)
    builder = _builder(folder)
    features = builder.info.features
    pixels = _pixels(features, image, folder)
    scalars, left_out = _scalars(features, image)
    parts, other_splits = _parts(builder, folder)
    values = _values(parts, scalars)
    key = next((key for key in FILE_NAMES if key in values and _kind(scalars[key][1]) == "O"), None)
    names = [f"{part.name} {row}" for part in parts for row in range(part.count)]
    if key is not None:
        names = [(value or b"").decode("utf-8", "replace") for value in values.pop(key)]

    def stream() -> Iterator[tuple[int, Any]]:
        examples = (example for part in parts for example in part.examples())
        for row, example in enumerate(examples):
            yield row, pixels(example)

    return Index(
        title=f"{builder.info.full_name} (tfds), {len(names):,} images",
        names=names,
        stream=stream,
        columns={name: _column(name, scalars[name][1], value, folder) for name, value in values.items()},
        split=_split(parts),
        size=_size(features[image].shape),
        left_out=(*other_splits, *left_out),
    )


def find(name: str, data_dirs: Sequence[Path]) -> Path | None:
    """Return the folder of the newest prepared version of a set, or None; of equal versions, the first folder's.

    Args:
        name: as tfds calls the set: ``cifar10``.
        data_dirs: folders that hold ``name/[config/]version``.
    """
    folders = [folder for root in data_dirs for folder in _folders(root / name) if _version(folder)]
    return max(folders, key=_version, default=None)


def _folders(root: Path) -> list[Path]:
    """Return the folders with a prepared set: ``root`` itself or, if it is none, all up to three levels below."""
    for level in range(4):
        paths = root.glob("*/" * level + "dataset_info.json")
        found = [path.parent for path in paths if not any(part.startswith(_HALF) for part in path.parts)]
        if found:
            return sorted(found)
    return []


def _version(folder: Path) -> tuple[int, ...]:
    """Return the version that the name of a prepared set's folder gives, or nothing."""
    whole = re.fullmatch(r"\d+\.\d+\.\d+", folder.name) and (folder / "features.json").exists()
    return tuple(int(number) for number in folder.name.split(".")) if whole else ()


def _prepared_folder(directory: Path) -> Path:
    if not directory.is_dir():
        raise JaxfairError(f"There is no folder {directory}; expected one in which tfds has prepared a set.")
    folders = _folders(directory)
    if len(folders) > 1:
        names = ", ".join(str(folder.relative_to(directory)) for folder in folders)
        raise JaxfairError(f"{directory} holds {len(folders)} prepared sets, {names}; give the folder of one of them.")
    if not folders:
        if directory.name.startswith(_HALF) or any(directory.glob(f"{_HALF}*")) or any(directory.glob(f"*/{_HALF}*")):
            raise JaxfairError(f"{directory} holds half a set, whose preparation was interrupted; prepare it again.")
        raise JaxfairError(
            f"{directory} holds no set that tfds has prepared; expected dataset_info.json in it or in a version below."
        )
    if not (folders[0] / "features.json").exists():
        raise JaxfairError(f"{folders[0]} has dataset_info.json but no features.json; prepare the set again.")
    return folders[0]


def _builder(folder: Path) -> Any:
    """Return tfds' builder for a folder, set to the format to read; all files of it are there."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(str(folder))
        stored = {form.value for form in builder.info.available_file_formats()}
    except Exception as error:  # a damaged file raises whatever its parser does
        raise JaxfairError(f"{folder} is no whole set ({first_line(error)}); prepare it again.") from error
    if "array_record" not in stored and "tfrecord" not in stored:
        found = ", ".join(sorted(stored))
        raise JaxfairError(f"{folder} is stored as {found}; prepare it again with file_format='array_record'.")
    chosen = "array_record" if "array_record" in stored else "tfrecord"
    if chosen == "tfrecord" and importlib.util.find_spec("tensorflow") is None:
        raise JaxfairError(
            f"{folder} is stored as TFRecord, which only TensorFlow reads; install jaxfair[tensorflow], or prepare the "
            "set again with file_format='array_record'."
        )
    builder.info.set_file_format(chosen, override=True, override_if_initialized=True)
    files = [Path(file) for split in builder.info.splits.values() for file in split.filepaths]
    if missing := [file.name for file in files if not file.exists()]:
        raise JaxfairError(
            f"{folder} lacks {len(missing)} of its {len(files)} files, such as {missing[0]}; prepare the set again."
        )
    return builder


def _parts(builder: Any, folder: Path) -> tuple[list[_Part], list[Rejected]]:
    """Return the splits to read, and those left out because their name is no official one."""
    splits: list[Any] = [split for split in builder.info.splits.values() if split.num_examples]
    if not splits:
        raise JaxfairError(f"{folder} holds no images; prepare the set again.")
    known = [split for split in splits if split.name in PARTS] if len(splits) > 1 else splits
    if not known:
        names = ", ".join(split.name for split in splits)
        raise JaxfairError(f"{folder} has the splits {names}; expected train, test or validation among them.")
    left_out = [
        Rejected(f"split {split.name}", f"is none of train, test, validation ({split.num_examples:,} images)")
        for split in splits
        if split not in known
    ]
    parts = [
        _Part(PARTS.get(split.name) or split.name, split.num_examples, partial(_examples, builder, split, folder))
        for split in known
    ]
    return parts, left_out


def _examples(builder: Any, split: Any, folder: Path) -> Iterator[Example]:
    """Yield the stored values of every record of a split, by flat key, in the order of storage."""
    from tensorflow_datasets.proto import tf_example_pb2

    # Not by tfds' own parser, which takes ten times as long for a record of fifty values.
    parse = tf_example_pb2.Example.FromString  # pyright: ignore[reportAttributeAccessIssue]
    count = 0
    try:
        for record in _records(builder, split):
            yield parse(record).features.feature
            count += 1
        if count != split.num_examples:
            raise EOFError(f"{count:,} of {split.num_examples:,} images")
    except Exception as error:  # the readers, in C++, raise all kinds
        raise JaxfairError(
            f"The files of split '{split.name}' in {folder} are damaged ({first_line(error)}); prepare the set again."
        ) from error


def _records(builder: Any, split: Any) -> Iterator[bytes]:
    if builder.info.file_format.value == "tfrecord":
        import tensorflow as tf  # pyright: ignore[reportMissingModuleSource]

        records: Any = tf.data.TFRecordDataset([str(file) for file in split.filepaths])
        yield from records.as_numpy_iterator()
        return
    import tensorflow_datasets as tfds

    source = builder.as_data_source(split.name, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    for start in range(0, len(source), _BATCH):
        yield from source.__getitems__(range(start, min(start + _BATCH, len(source))))


def _pixels(features: Any, image: str, folder: Path) -> Callable[[Example], Any]:
    """Return what takes an image out of a record: an encoded file as bytes, or an array."""
    import tensorflow_datasets as tfds

    if not isinstance(features, tfds.features.FeaturesDict) or image not in features:
        names = list(features.keys()) if isinstance(features, tfds.features.FeaturesDict) else ["no features by name"]
        raise JaxfairError(f"{folder} has no feature '{image}'{did_you_mean(image, names)}")
    feature: Any = features[image]
    if feature.np_dtype == np.uint8 and isinstance(feature, tfds.features.Image):
        return lambda example: b"".join(example[image].bytes_list.value)
    kind = type(feature).__name__
    shape = feature.shape if kind == "Tensor" and feature.np_dtype == np.uint8 else ()
    if len(shape) not in (2, 3) or shape.count(None) > 1:
        raise JaxfairError(
            f"Feature '{image}' of {folder} is a {kind}; expected an Image of type uint8, or a Tensor of that type and "
            "of known shape, so name another feature."
        )
    if feature.get_serialized_info().shape == ():  # stored as bytes
        return lambda example: feature.decode_example_np(b"".join(example[image].bytes_list.value))
    return lambda example: feature.decode_example_np(np.array(example[image].int64_list.value, np.uint8))


def _scalars(features: Any, image: str) -> tuple[dict[str, tuple[str, Any]], list[Rejected]]:
    """Return stored key and feature of each scalar, by column; and the features that make no column."""
    import tensorflow_datasets as tfds

    flat = {}
    for key, feature in features.items():
        nested = isinstance(feature, tfds.features.FeaturesDict)
        flat |= {(f"{key}/{k}", k): f for k, f in feature.items()} if nested else {(key, key): feature}
    del flat[image, image]
    own = [name for _, name in flat]
    scalars, left_out = {}, []
    for (key, name), feature in sorted(flat.items()):  # tfds restores them in any order
        if isinstance(feature, tfds.features.Tensor) and feature.shape == () and _kind(feature) in _LISTS:
            scalars[name if own.count(name) == 1 else key] = (key, feature)
        else:
            left_out.append(Rejected(f"feature {key}", "is no scalar"))
    return scalars, left_out


def _kind(feature: Any) -> str:
    """Return the kind of dtype, as NumPy abbreviates it, that a scalar is stored as."""
    return np.dtype(feature.get_serialized_info().np_dtype).kind


def _values(parts: Sequence[_Part], scalars: Mapping[str, tuple[str, Any]]) -> dict[str, list[Any]]:
    """Return the stored values of all images, by column; None where there is none."""
    values = {name: [] for name in scalars}
    places = [(key, _LISTS[_kind(feature)], values[name].append) for name, (key, feature) in scalars.items()]
    for part in parts:
        for example in part.examples():
            for key, kind, append in places:
                stored = getattr(example[key], kind).value
                append(stored[0] if stored else None)
    return values


def _column(name: str, feature: Any, values: list[Any], folder: Path) -> Column:
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.ClassLabel) and feature.num_classes:
        names = tuple(feature.names)
    elif feature.np_dtype == np.bool_:
        names = (f"not {name}", name)
    elif _kind(feature) == "f":  # 0.1 is stored as 0.10000000149
        return from_values([None if value is None else float(str(np.float32(value))) for value in values])
    else:
        return from_values(values)
    codes = np.array([MISSING if value is None else value for value in values], np.int32)
    if codes.min() < MISSING or codes.max() >= len(names):
        raise JaxfairError(f"Feature '{name}' of {folder} has values beyond its {len(names)} names; prepare it again.")
    return Column(codes, names)


def _split(parts: Sequence[_Part]) -> Column | None:
    names = tuple(dict.fromkeys(part.name for part in parts))
    codes = [names.index(part.name) for part in parts]
    return Column(np.repeat(codes, [part.count for part in parts]).astype(np.int32), names) if len(names) > 1 else None


def _size(shape: tuple[int | None, ...]) -> tuple[int, int, int] | None:
    height, width, channels = (*shape, 1)[:3]
    return (height, width, channels) if height and width and channels in (1, 3) else None


def first_line(error: BaseException) -> str:
    """Return what an exception says, without what follows its first line, or its type if it says nothing."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
