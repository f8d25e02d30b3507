"""SVHN's cropped digits, from the official files in MATLAB's format."""

import io

import numpy as np
from jaxtyping import Int, UInt8

from jaxfair.data.columns import Index, Rejected
from jaxfair.data.files import Files
from jaxfair.data.layouts import find
from jaxfair.errors import JaxfairError

DIGITS = tuple(str(digit) for digit in range(10))

_COUNTS = [73_257, 26_032]  # of train and test


def read(files: Files) -> Index:
    """Read SVHN: ``train_32x32.mat`` and, if it is there, ``test_32x32.mat``, in any folder.

    The column is ``digit``, with names ``0`` to ``9`` (the files give digit 0 the label 10). Without the test images
    there is no split. ``extra_32x32.mat`` is left out.

    Raises:
        JaxfairError: There are no training images, or a file is cut short or holds something else.
    """
    found = {part: find.one(files, f"{part}_32x32.mat") for part in find.PARTS}
    if found["train"] is None:
        raise JaxfairError(f"'{files.path}' holds no train_32x32.mat; expected SVHN's cropped digits, its format 2.")
    present = {part: name for part, name in found.items() if name is not None}
    content = {name: _content(files, name, data) for name, data in files.stream(present.values())}
    parts = [(part, name, *content[name]) for part, name in present.items()]
    index = find.from_arrays("SVHN", _COUNTS, "digit", DIGITS, parts)
    if (extra := find.one(files, "extra_32x32.mat")) is None:
        return index
    return index._replace(left_out=(Rejected(extra, "holds SVHN's extra images, which are easier ones"),))


def _content(files: Files, name: str, data: bytes) -> tuple[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, " n"]]:
    """Return images and digits of one file; the images are views, each of them in one piece of memory."""
    from scipy.io import loadmat

    where = f"'{name}' of '{files.path}'"
    try:
        content = loadmat(io.BytesIO(data), variable_names=["X", "y"])
    except Exception as error:  # scipy raises many kinds for broken bytes
        raise JaxfairError(f"{where} is cut short or no MATLAB file; fetch SVHN's cropped digits again.") from error
    if missing := [key for key in ("X", "y") if key not in content]:
        raise JaxfairError(f"{where} holds no {' and no '.join(missing)}; expected SVHN's X and y, so fetch it again.")
    pixels, label = np.asarray(content["X"]), np.asarray(content["y"]).reshape(-1)
    if pixels.dtype != np.uint8 or pixels.shape != (32, 32, 3, len(label)) or len(label) == 0:
        raise JaxfairError(
            f"{where} holds X of type {pixels.dtype} and shape {pixels.shape} with {len(label)} labels; "
            "expected uint8 of shape (32, 32, 3, n) with n labels, so fetch it again."
        )
    if label.dtype.kind not in "iuf" or not np.isin(label, np.arange(1, 11)).all():
        raise JaxfairError(f"{where} has labels other than 1 to 10; expected 10 for digit 0, so fetch it again.")
    return np.moveaxis(pixels, 3, 0), label.astype(np.int32) % 10
