"""CIFAR-10, from its official pickles or from class folders."""

import io
import pickle
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from jaxfair.data.columns import Column, Index, Rejected
from jaxfair.data.files import Files
from jaxfair.data.layouts import find
from jaxfair.data.layouts.find import streamer
from jaxfair.errors import JaxfairError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
PARTS = ("train", "test")

_SIZE = (32, 32, 3)
_COUNTS = [50_000, 10_000]  # of train and test
_META = "batches.meta"

# What pickles of arrays, bytes and lists call. Any other function that a pickle asks for could do harm.
_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): str.encode,  # bytes, written by Python 3 for Python 2
    **{(f"numpy.{core}.multiarray", "_reconstruct"): np.zeros(1).__reduce__()[0] for core in ("core", "_core")},
    ("numpy._core.numeric", "_frombuffer"): np.zeros(1).__reduce_ex__(5)[0],
}


def read(files: Files) -> Index:
    """Read CIFAR-10: the pickles ``data_batch_1`` to ``5`` and ``test_batch``, or folders ``train/<class>``.

    Column: ``class``, with the ten names in the official order. Class folders without any ``test/<class>`` have no
    split.

    Raises:
        JaxfairError: neither is there, a batch is missing or broken, or a class folder has another name.
    """
    if any(find.base(name) in BATCHES for name in files.names):
        return _read_batches(files)
    return _read_folders(files)


def _read_folders(files: Files) -> Index:
    images = find.images(files)
    paths = {name: name.split("/") for name in images}
    names = [name for name, path in paths.items() if len(path) > 2 and path[-3] in PARTS]
    part = np.array([PARTS.index(paths[name][-3]) for name in names], np.int32)
    counts = np.bincount(part, minlength=2).tolist()
    if counts[0] == 0:
        raise JaxfairError(
            f"'{files.path}' holds neither the batches of cifar-10-python.tar.gz nor images in train/<class>; "
            f"expected one of them, with the classes {', '.join(CLASSES)}."
        )
    _check_folders(files, {tuple(paths[name][:-1]) for name in names})
    stray = [name for name in images if len(paths[name]) < 3 or paths[name][-3] not in PARTS]
    label = np.array([CLASSES.index(paths[name][-2]) for name in names], np.int32)
    # The official pixels are not compressed: copies as JPEG give lower accuracies.
    title = "CIFAR-10 (JPEG)" if any(name.lower().endswith((".jpg", ".jpeg")) for name in names) else "CIFAR-10"
    return Index(
        title=find.title(title, len(names), full=counts == _COUNTS),
        names=names,
        stream=streamer(files, names),
        columns={"class": Column(label, CLASSES)},
        split=Column(part, PARTS) if counts[1] else None,
        size=_SIZE,
        rejected=tuple(Rejected(name, "lies in no folder train/<class> or test/<class>") for name in stray),
    )


def _check_folders(files: Files, folders: set[tuple[str, ...]]) -> None:
    """Raise if the folders, as ``(..., part, class)``, are not the ten classes of one train and one test folder."""
    expected = f"expected the classes {', '.join(CLASSES)}"
    for part in PARTS:
        found = sorted(folder for folder in folders if folder[-2] == part)
        if len(parents := sorted({"/".join(folder[:-1]) for folder in found})) > 1:
            raise JaxfairError(
                f"'{files.path}' holds two {part} folders, '{parents[0]}' and '{parents[1]}'; give one copy only."
            )
        if wrong := [folder[-1] for folder in found if folder[-1] not in CLASSES]:
            raise JaxfairError(f"'{files.path}' holds the class folder '{part}/{wrong[0]}'; {expected}.")
        if found and (missing := [name for name in CLASSES if name not in {folder[-1] for folder in found}]):
            raise JaxfairError(f"'{files.path}' holds no images in '{part}/{missing[0]}'; {expected}.")


def _read_batches(files: Files) -> Index:
    found = {batch: find.one(files, batch) for batch in (*BATCHES, _META)}
    if missing := [batch for batch in BATCHES if found[batch] is None]:
        raise JaxfairError(
            f"'{files.path}' holds no {', '.join(missing)}; expected data_batch_1 to 5 and test_batch, so unpack "
            "cifar-10-python.tar.gz again."
        )
    content = {}
    for name, data in files.stream([name for name in found.values() if name is not None]):
        batch, where = find.base(name), f"'{name}' of '{files.path}'"
        values = _unpickle(data, where)
        content[batch] = _check_meta(values, where) if batch == _META else _arrays(values, where)
    images = [content[batch][0] for batch in BATCHES]
    label = np.concatenate([content[batch][1] for batch in BATCHES])
    counts = [sum(len(batch) for batch in images[:-1]), len(images[-1])]
    return Index(
        title=find.title("CIFAR-10", len(label), full=counts == _COUNTS),
        names=[f"{found[b]}[{i}]" for b, pixels in zip(BATCHES, images, strict=True) for i in range(len(pixels))],
        stream=lambda: enumerate(chain.from_iterable(images)),
        columns={"class": Column(label, CLASSES)},
        split=Column(np.repeat(np.arange(2, dtype=np.int32), counts), PARTS),
        size=_SIZE,
    )


def _check_meta(values: dict[str, Any], where: str) -> None:
    names = values.get("label_names")
    if not isinstance(names, list) or names not in ([name.encode() for name in CLASSES], list(CLASSES)):
        raise JaxfairError(f"{where} names other classes than CIFAR-10's; expected {', '.join(CLASSES)} in this order.")


def _arrays(values: dict[str, Any], where: str) -> tuple[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, " n"]]:
    pixels, label = values.get("data"), values.get("labels")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3072,):
        raise JaxfairError(
            f"{where} holds no images of 3,072 bytes each as 'data'; unpack cifar-10-python.tar.gz again."
        )
    label = label.tolist() if isinstance(label, np.ndarray) else label
    if not isinstance(label, list) or len(label) != len(pixels) or not all(value in range(10) for value in label):
        raise JaxfairError(
            f"{where} does not hold a label from 0 to 9 for each of its {len(pixels):,} images; unpack "
            "cifar-10-python.tar.gz again."
        )
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(label, np.int32)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}, which no batch needs")
        return _ALLOWED[module_name, global_name]


def _unpickle(data: bytes, where: str) -> dict[str, Any]:
    """Return a pickled dictionary, without running what a pickle may ask to be run."""
    try:
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        return {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
    except Exception as error:  # broken bytes make pickle raise many kinds
        raise JaxfairError(
            f"{where} is cut short or no CIFAR-10 batch ({error}); unpack cifar-10-python.tar.gz again."
        ) from error
