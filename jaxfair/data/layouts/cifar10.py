"""CIFAR-10, from its official pickles or from class folders."""

import io
import pickle
import re
from typing import Any

import numpy as np

from jaxfair.data.columns import Column, Index, Rejected
from jaxfair.data.files import Files
from jaxfair.data.layouts import find
from jaxfair.data.layouts.find import PARTS
from jaxfair.errors import JaxfairError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")

_COUNTS = [50_000, 10_000]  # of train and test
_META = "batches.meta"
_IN_FOLDERS = re.compile(r"((?:.*/)?(train|test))/([^/]+)/[^/]+")  # folder of the part, part, class
_AGAIN = "unpack cifar-10-python.tar.gz again"


def _no_bytes() -> bytes:
    """Return empty bytes: what a pickle may ask of ``bytes``, which given a number would take that much memory."""
    return b""


def _scalar(kind: np.dtype, data: bytes) -> Any:
    """Return a number, of the bytes that a pickle holds; NumPy's own function may be given none, and any size."""
    return np.frombuffer(data, kind, 1)[0]


# What pickles of arrays, bytes and lists call. Any other function that a pickle asks for could do harm.
_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): str.encode,  # bytes, written by Python 3 for Python 2
    **{(module, "bytes"): _no_bytes for module in ("__builtin__", "builtins")},  # and empty ones
    **{(f"numpy.{core}.multiarray", "_reconstruct"): np.zeros(1).__reduce__()[0] for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): np.zeros(1).__reduce_ex__(5)[0] for core in ("core", "_core")},
}


def read(files: Files) -> Index:
    """Read CIFAR-10: the pickles ``data_batch_1`` to ``5`` and ``test_batch``, or folders ``train/<class>``.

    The column is ``class``, with the ten names in the official order. Class folders without any ``test/<class>`` have
    no split.

    Raises:
        JaxfairError: Neither is there, a batch is missing or broken, or a class folder has another name.
    """
    return _read_batches(files) if any(find.base(name) in BATCHES for name in files.names) else _read_folders(files)


def _read_folders(files: Files) -> Index:
    images = files.images
    found = {name: match.groups() for name in images if (match := _IN_FOLDERS.fullmatch(name))}
    names = list(found)
    counts = [sum(part == which for _, part, _ in found.values()) for which in PARTS]
    if counts[0] == 0:
        raise JaxfairError(
            f"'{files.path}' holds neither the batches of cifar-10-python.tar.gz nor images in train/<class>; "
            f"expected one of them, with the classes {', '.join(CLASSES)}."
        )
    for part in PARTS:
        _check_folders(files, part, sorted({place for place in found.values() if place[1] == part}))
    # The official pixels are not compressed: copies as JPEG give lower accuracies.
    title = "CIFAR-10 (JPEG)" if any(name.lower().endswith((".jpg", ".jpeg")) for name in names) else "CIFAR-10"
    part = np.array([PARTS.index(part) for _, part, _ in found.values()], np.int32)
    return Index(
        title=find.title(title, len(names), full=counts == _COUNTS),
        names=names,
        stream=lambda: files.rows(names),
        columns={"class": Column(np.array([CLASSES.index(label) for *_, label in found.values()], np.int32), CLASSES)},
        split=Column(part, PARTS) if counts[1] else None,
        size=(32, 32, 3),
        rejected=tuple(
            Rejected(name, "lies in no folder train/<class> or test/<class>") for name in images if name not in found
        ),
    )


def _check_folders(files: Files, part: str, places: list[tuple[str, ...]]) -> None:
    """Raise if the folders of a part, with its name and a class each, are not the ten classes in one place."""
    parents = sorted({parent for parent, *_ in places})
    classes = [label for *_, label in places]
    wrong, missing = sorted(set(classes) - set(CLASSES)), sorted(set(CLASSES) - set(classes))
    where, expected = f"'{files.path}' holds", f"expected the classes {', '.join(CLASSES)}"
    if len(parents) > 1:
        raise JaxfairError(f"{where} two {part} folders, '{parents[0]}' and '{parents[1]}'; give one copy only.")
    if wrong:
        raise JaxfairError(f"{where} the class folder '{part}/{wrong[0]}'; {expected}.")
    if places and missing:
        raise JaxfairError(f"{where} no images in '{part}/{missing[0]}'; {expected}.")


def _read_batches(files: Files) -> Index:
    found = {batch: find.one(files, batch) for batch in (*BATCHES, _META)}
    if missing := [batch for batch in BATCHES if found[batch] is None]:
        raise JaxfairError(
            f"'{files.path}' holds no {', '.join(missing)}; expected data_batch_1 to 5 and test_batch, so {_AGAIN}."
        )
    content = {
        find.base(name): _batch(data, f"'{name}' of '{files.path}'", meta=find.base(name) == _META)
        for name, data in files.stream([name for name in found.values() if name is not None])
    }
    parts = [(PARTS[batch == "test_batch"], found[batch] or batch, *content[batch]) for batch in BATCHES]
    return find.from_arrays("CIFAR-10", _COUNTS, "class", CLASSES, parts)


def _batch(data: bytes, where: str, *, meta: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return images, NHWC, and labels of a batch; of the file of names, which is only checked, nothing."""
    values = _unpickle(data, where)
    if meta:
        names = values.get("label_names")
        if not isinstance(names, list) or names not in ([name.encode() for name in CLASSES], list(CLASSES)):
            raise JaxfairError(f"{where} names other classes than CIFAR-10's; expected {', '.join(CLASSES)}, in order.")
        return np.zeros(0), np.zeros(0)
    pixels, label = values.get("data"), values.get("labels")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3072,):
        raise JaxfairError(f"{where} holds no images of 3,072 bytes each as 'data'; {_AGAIN}.")
    label = label.tolist() if isinstance(label, np.ndarray) else label
    if not isinstance(label, list) or len(label) != len(pixels) or not all(value in range(10) for value in label):
        count = f"{len(pixels):,} images"
        raise JaxfairError(f"{where} does not hold a label from 0 to 9 for each of its {count}; {_AGAIN}.")
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
        raise JaxfairError(f"{where} is cut short or no CIFAR-10 batch ({error}); {_AGAIN}.") from error
