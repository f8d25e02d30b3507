"""Data sets of TensorFlow Datasets (tfds): prepared by it, and read without TensorFlow where they are prepared."""

import contextlib
import http.client
import importlib.util
import itertools
import json
import re
import shutil
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxfair import processes
from jaxfair.data.columns import MISSING, PARTS, Column, Index, Rejected, from_values
from jaxfair.data.layouts import utkface
from jaxfair.data.opening import identity, open_files
from jaxfair.errors import JaxfairError, did_you_mean

FILE_NAMES = ("filename", "file_name", "id", "image_id")  # texts that name an image rather than describe it
TIMEOUT = 3.0  # seconds in which a server must answer
_HALF = "incomplete."  # how tfds calls a folder that it is still writing
_BATCH = 512  # records fetched at once: a batch is read in parallel
# Where tf.train.Example, the record of all formats, stores the values of a kind of dtype.
_LISTS = {"b": "int64_list", "i": "int64_list", "u": "int64_list", "f": "float_list", "O": "bytes_list"}

Example = Mapping[str, Any]


def read(directory: Path, *, image: str = "image") -> Index:
    """Read a set that tfds has prepared: array_record files or, where TensorFlow is installed, TFRecord files.

    Every scalar feature becomes a column, and so does every scalar in a dictionary of features, under its own name. A
    set with a single split has no official split.

    Args:
        directory: A folder with ``dataset_info.json``, or above exactly one: ``name/[config/]version``.
        image: The feature that holds the images.

    Raises:
        JaxfairError: There is no prepared set, half of one or more than one; its files are missing, damaged or of
            another format; it has no such feature, or that holds no images.
    """
    folder = _prepared_folder(directory)
    builder = _builder(folder)
    features = builder.info.features
    pixels = _pixels(features, image, folder)
    scalars, no_scalars = _scalars(features, image)
    splits, other_splits = _splits(builder, folder)

    def examples() -> Iterator[Example]:
        return itertools.chain.from_iterable(_examples(builder, split, folder) for split in splits)

    values = _values(examples(), scalars)
    key = next((key for key in FILE_NAMES if key in values and _kind(scalars[key][1]) == "O"), None)
    if key is None:
        names = [f"{_official(split)} {row}" for split in splits for row in range(split.num_examples)]
    else:
        names = [(value or b"").decode("utf-8", "replace") for value in values.pop(key)]
    parts = list(dict.fromkeys(map(_official, splits)))
    codes = np.repeat([parts.index(_official(split)) for split in splits], [split.num_examples for split in splits])
    height, width, channels = (*features[image].shape, 1)[:3]
    return Index(
        title=f"{builder.info.full_name} (tfds), {len(names):,} images",
        names=names,
        stream=lambda: enumerate(map(pixels, examples())),
        columns={name: _column(name, scalars[name][1], value, folder) for name, value in values.items()},
        split=Column(codes.astype(np.int32), tuple(parts)) if len(parts) > 1 else None,
        size=(height, width, channels) if height and width and channels in (1, 3) else None,
        left_out=(*other_splits, *no_scalars),
    )


def find(name: str, data_dirs: Sequence[Path]) -> Path | None:
    """Return the folder of the newest prepared version of a set, or None; of equal versions, the first folder's.

    Args:
        name: What tfds calls the set: ``cifar10``.
        data_dirs: Folders that hold ``name/[config/]version``.
    """

    def version(folder: Path) -> tuple[int, ...]:
        whole = re.fullmatch(r"\d+\.\d+\.\d+", folder.name) and (folder / "features.json").exists()
        return tuple(map(int, folder.name.split("."))) if whole else ()

    folders = [folder for root in data_dirs for folder in _folders(root / name) if version(folder)]
    return max(folders, key=version, default=None)


def prepare(source: Path, data_dir: Path, *, on_progress: Callable[[int, int], None] | None = None) -> Path:
    """Return the folder of UTKFace, prepared from the user's copy as array_record files; no network is needed.

    A folder prepared from the same source before is returned as it is. A preparation that fails leaves none, and one
    that was killed leaves half of one to the next, which removes it.

    Args:
        source: A folder or archive with the aligned and cropped images.
        data_dir: The folder that receives ``utkface/version``.
        on_progress: A function that is called with the number of images done and that of all.

    Raises:
        JaxfairError: The source is not UTKFace, or has images whose names do not fit; the folder cannot be written, its
            disk is too small, or it holds UTKFace prepared from another source; the images take more than 1 GB and
            TensorFlow is not installed.
    """
    origin = {"source": str(source.absolute()), "identity": identity(source)}
    if (folder := find("utkface", [data_dir])) is not None:
        return _same_origin(folder, origin)
    with open_files(source) as files:
        index = utkface.read(files)
        if index.rejected:
            (name, reason), count = index.rejected[0], len(index.rejected)
            raise JaxfairError(f"{count} files of {source} are not UTKFace's: '{name}' {reason}; remove them.")
        stored = [file for file in (source.rglob("*") if source.is_dir() else [source]) if file.is_file()]
        # What is known of an image, and how archives pack it, takes another kilobyte.
        needed = sum(file.stat().st_size for file in stored) + 1000 * len(index.names)
        _check_memory(source, needed)
        _check_room(data_dir, needed)
        from jaxfair.data.utkface_dataset_builder import Builder

        try:
            with _no_bars(), tempfile.TemporaryDirectory() as downloads:
                builder: Any = Builder(data_dir=str(data_dir))
                builder.index, builder.on_progress = index, on_progress
                builder.info.metadata.update(origin)
                return _same_origin(_run(builder, downloads), origin)
        except (OSError, RuntimeError) as error:  # the latter from array_record, where a file cannot be written
            raise JaxfairError(f"{data_dir} cannot be written ({_first_line(error)}); make room.") from error


def prepare_stock(name: str, data_dir: Path, *, hint: str = "") -> Path:
    """Return the folder of a set that tfds knows, downloaded and prepared there if it is not yet.

    What would fail is found out before the work begins, within seconds.

    Args:
        name: What tfds calls the set: ``cifar10``.
        data_dir: The folder that receives the download and ``name/version``.
        hint: What else the user can do, for messages: ``put cifar-10-python.tar.gz into data/``.

    Raises:
        JaxfairError: TensorFlow is not installed, tfds knows no such set, the folder cannot be written, its disk is too
            small, no server answers, or the preparation fails.
    """
    if (folder := find(name, [data_dir])) is not None:
        return folder
    instead = f", or {hint}" if hint else ""
    _check_stock(name, data_dir, instead)
    try:
        import tensorflow as tf  # pyright: ignore[reportMissingModuleSource]
        import tensorflow_datasets as tfds

        with contextlib.suppress(RuntimeError):  # already running, with whatever devices it was given
            tf.config.set_visible_devices([], "GPU")  # it would take the memory that JAX needs
        return _run(tfds.builder(name, data_dir=str(data_dir)))
    except JaxfairError:
        raise
    except Exception as error:  # a builder of tfds, a download or TensorFlow may raise anything
        message = f"tfds could not prepare '{name}' in {data_dir} ({_first_line(error)}); try again{instead}."
        raise JaxfairError(message) from error


def _folders(root: Path) -> list[Path]:
    """Return the folders with a prepared set: ``root`` itself or, if it is none, all up to three levels below."""
    for level in range(4):
        paths = root.glob("*/" * level + "dataset_info.json")
        found = [path.parent for path in paths if not any(part.startswith(_HALF) for part in path.parts)]
        if found:
            return sorted(found)
    return []


def _prepared_folder(directory: Path) -> Path:
    """Return the one folder of a prepared set at or below a directory."""
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
        raise JaxfairError(f"{folder} is no whole set ({_first_line(error)}); prepare it again.") from error
    chosen = next((form for form in ("array_record", "tfrecord") if form in stored), None)
    if chosen is None:
        found = ", ".join(sorted(stored))
        raise JaxfairError(f"{folder} is stored as {found}; prepare it again with file_format='array_record'.")
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


def _splits(builder: Any, folder: Path) -> tuple[list[Any], list[Rejected]]:
    """Return the splits to read, and those left out because their name is no official one."""
    splits: list[Any] = [split for split in builder.info.splits.values() if split.num_examples]
    if not splits:
        raise JaxfairError(f"{folder} holds no images; prepare the set again.")
    known = [split for split in splits if split.name in PARTS] if len(splits) > 1 else splits
    if not known:
        names = ", ".join(split.name for split in splits)
        raise JaxfairError(f"{folder} has the splits {names}; expected train, test or validation among them.")
    return known, [
        Rejected(f"split {split.name}", f"is none of train, test, validation ({split.num_examples:,} images)")
        for split in splits
        if split not in known
    ]


def _official(split: Any) -> str:
    return PARTS.get(split.name) or split.name


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
            f"The files of split '{split.name}' in {folder} are damaged ({_first_line(error)}); prepare the set again."
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


def _values(examples: Iterator[Example], scalars: Mapping[str, tuple[str, Any]]) -> dict[str, list[Any]]:
    """Return the stored values of all images, by column; None where there is none."""
    values = {name: [] for name in scalars}
    places = [(key, _LISTS[_kind(feature)], values[name].append) for name, (key, feature) in scalars.items()]
    for example in examples:
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


def _check_stock(name: str, data_dir: Path, instead: str) -> None:
    """Raise a JaxfairError if the preparation of a set cannot succeed."""
    if importlib.util.find_spec("tensorflow") is None:
        raise JaxfairError(
            f"'{name}' is not prepared in {data_dir}, and tfds prepares it only with TensorFlow; "
            f"install jaxfair[tensorflow]{instead}."
        )
    import tensorflow_datasets as tfds

    try:
        urls = tfds.builder_cls(name).url_infos or {}
    except ValueError as error:
        message = f"tfds knows no data set '{name}' ({_first_line(error)}); check the name{instead}."
        raise JaxfairError(message) from error
    _check_room(data_dir, 2 * sum(int(info.size) for info in urls.values()))  # the download, and what is made of it
    if urls and (reason := _unreachable(next(iter(urls)))):
        raise JaxfairError(f"'{name}' cannot be downloaded: {reason}; connect this machine to the network{instead}.")


def _unreachable(url: str) -> str:
    """Return half a sentence on why nothing can be downloaded, or the empty string if the server answers in time."""
    reason = [f"no answer from {url} within {TIMEOUT:g} s"]

    def ask() -> None:
        try:
            urllib.request.urlopen(url, timeout=TIMEOUT).close()
            reason[0] = ""
        except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: a malformed proxy
            reason[0] = f"no answer from {url} ({_first_line(error)})"

    # A thread, since the time limit does not cover the look-up of the server's name.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    return reason[0]


def _run(builder: Any, download_dir: str | None = None) -> Path:
    """Prepare a set as array_record files, unless another process has done so meanwhile, and return its folder."""
    import tensorflow_datasets as tfds

    folder = Path(builder.data_dir)
    with processes.locked(folder.parent, lambda line: print(line, file=sys.stderr)):
        if _folders(folder):
            return folder
        if folder.exists():  # tfds would take it for whole
            raise JaxfairError(f"{folder} is no whole set; remove it and prepare the set again.")
        if download_dir is not None:  # a set that is prepared by us alone: halves are of processes that were killed
            for half in folder.parent.glob(f"{_HALF}*"):
                shutil.rmtree(half, ignore_errors=True)
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        builder.download_and_prepare(download_dir=download_dir, download_config=config, file_format="array_record")
    return folder


def _same_origin(folder: Path, origin: dict[str, str]) -> Path:
    """Return a folder prepared before if it is of the same source."""
    try:
        known = json.loads((folder / "metadata.json").read_bytes())
    except (OSError, ValueError):
        known = {}
    if known.get("identity") != origin["identity"]:
        raise JaxfairError(
            f"{folder} was prepared from {known.get('source', 'another source')}, or before that changed, not from "
            f"{origin['source']} as it is; remove it or choose another data folder."
        )
    return folder


def _check_memory(source: Path, needed: int) -> None:
    """Raise a JaxfairError if tfds would sort the images on disk, which it does by TensorFlow."""
    from tensorflow_datasets.core.shuffle import MAX_MEM_BUFFER_SIZE as LIMIT

    if needed > LIMIT and importlib.util.find_spec("tensorflow") is None:
        raise JaxfairError(
            f"{source} takes {needed / 1e9:.1f} GB, and tfds prepares more than {LIMIT / 1e9:.1f} GB only with "
            "TensorFlow; install jaxfair[tensorflow], or use the images without preparing them."
        )


def _check_room(data_dir: Path, needed: int) -> None:
    """Make a folder if need be; raise a JaxfairError if it cannot be written, or so many bytes are not free."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=data_dir):  # permissions do not tell of a read-only disk
            free = shutil.disk_usage(data_dir).free
    except OSError as error:
        raise JaxfairError(f"{data_dir} cannot be written ({error.strerror}); choose another data folder.") from error
    if free < needed:
        raise JaxfairError(
            f"{data_dir} has {free / 1e9:.2f} GB of free space where {needed / 1e9:.2f} GB are needed; "
            "make room or choose another data folder."
        )


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Keep tfds from drawing its progress bars."""
    from tensorflow_datasets.core.utils import tqdm_utils

    shown = tqdm_utils._active
    tqdm_utils.display_progress_bar(False)
    try:
        yield
    finally:
        tqdm_utils.display_progress_bar(shown)


def _first_line(error: BaseException) -> str:
    """Return what an exception says, without what follows its first line, or its type if it says nothing."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
