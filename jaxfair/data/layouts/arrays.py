"""Arrays in one ``.npz`` file: ``images`` and any number of columns."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from jaxfair.data.columns import Column, Index, from_values, no_split, official_split
from jaxfair.errors import JaxfairError, short
from jaxfair.inputs import quoted


def read(path: Path) -> Index:
    """Return the images and columns of an ``.npz`` file.

    ``images`` is uint8 of shape (n, height, width) or (n, height, width, 1 or 3). Every other array has one integer,
    number, string or boolean an image and becomes a column of its name. An array ``split`` of ``train``, ``test``,
    ``val``, ``valid`` and ``validation`` becomes the split as well. All arrays are held in memory.

    Raises:
        JaxfairError: The file is no ``.npz`` file or cut short, holds Python objects or no ``images``, or has arrays of
            another type or shape.
    """
    arrays = named(path, "images=..., and the columns")
    if "images" not in arrays:
        raise JaxfairError(
            f"'{path}' has no array 'images' but {quoted(arrays) or 'nothing'}; "
            "save the images as uint8 of shape (n, height, width, channels) under this name."
        )
    images = arrays.pop("images")
    _check_images(images, path)
    columns = {name: _column(name, array, len(images), path) for name, array in arrays.items()}
    return Index(
        title=path.name,
        names=[f"image {i} of {path.name}" for i in range(len(images))],
        stream=lambda: enumerate(images),
        columns=columns,
        split=official_split(columns.get("split")),
        left_out=no_split(columns),
        size=(images.shape[1], images.shape[2], images.shape[3] if images.ndim == 4 else 1),
    )


def named(path: Path, what: str) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file by their names.

    Args:
        path: The file.
        what: The arrays that it should have, in an error.

    Raises:
        JaxfairError: It cannot be read, is no such file or cut short, or holds something else than plain arrays.
    """
    advice = f"write it by np.savez(path, {what} by their names)"
    arrays: dict[str, Any] = {}
    try:
        content = np.load(path, allow_pickle=False)
        several = isinstance(content, np.lib.npyio.NpzFile)
        for name in content.files if several else ("",):
            arrays[name] = None  # which it stays where it is none
            arrays[name] = content[name] if several else None
    except (OSError, EOFError, TypeError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, OSError) and error.strerror:
            raise JaxfairError(f"'{path}' cannot be read: {error.strerror}; give an .npz file.") from error
        if "Object arrays" in str(error):
            raise JaxfairError(f"'{path}' holds {_of_objects(next(reversed(arrays), ''))}.") from error
        raise JaxfairError(f"'{path}' is no .npz file, or is cut short; {advice}.") from error
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise JaxfairError(f"'{path}' holds something else than named arrays; {advice}.")
    return arrays


def _of_objects(name: str) -> str:
    """Say what is wrong with an array of Python objects, which images of unlike sizes are too."""
    way = "save numbers or strings, such as np.array(values, dtype=str), in which None and NaN stay missing"
    if name == "images":
        way = "save images of one size as one array of uint8, such as np.stack(images)"
    what = f"the array '{short(name, 40)}'" if name else "an array"  # one by itself has no name
    return f"{what} of Python objects, which is not safe to load; {way}"


def _check_images(images: np.ndarray, path: Path) -> None:
    """Raise a JaxfairError for images of another shape or type, with what would mend them."""
    shape, kind = images.shape, images.dtype.kind
    if images.ndim == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3):
        raise JaxfairError(
            f"The images of '{path}' have shape {shape}, channels first; save images.transpose(0, 2, 3, 1)."
        )
    if images.ndim not in (3, 4) or 0 in shape or (images.ndim == 4 and shape[3] not in (1, 3)):
        raise JaxfairError(
            f"The images of '{path}' have shape {shape}; expected (n, height, width) or (n, height, width, 1 or 3), "
            "none of them 0."
        )
    if images.dtype == np.uint8:
        return
    text = f"The images of '{path}' have type {images.dtype}"
    if kind not in "buif":
        raise JaxfairError(f"{text}; save them as uint8.")
    low, high = images.min(), images.max()
    advice = "scale them to 0 to 255 and save them as uint8"
    if low >= 0 and high <= 255:
        advice = "save np.rint(images).astype(np.uint8)" if kind == "f" else "save images.astype(np.uint8)"
    if kind in "bf" and low >= 0 and high <= 1:
        advice = "save np.rint(images * 255).astype(np.uint8)"
    raise JaxfairError(f"{text} from {low} to {high}; {advice}.")


def _column(name: str, array: np.ndarray, count: int, path: Path) -> Column:
    if array.shape != (count,) or array.dtype.kind not in "biufSU":
        advice = "; save dates as text, array.astype(str)" if array.dtype.kind == "M" else ""
        raise JaxfairError(
            f"The array '{short(name, 40)}' of '{path}' has type {array.dtype} and shape {array.shape}; "
            f"expected {count} numbers, strings or booleans, one an image{advice}."
        )
    # A float of NumPy shows 0.1 as it was given; Python's, which is wider, 0.10000000149.
    return from_values(list(array) if array.dtype.kind == "f" else array.tolist())
