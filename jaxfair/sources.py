"""Named data sets."""

from collections.abc import Callable

import numpy as np

from jaxfair.data import Dataset, make_dataset
from jaxfair.errors import JaxfairError, did_you_mean


def load(name: str) -> Dataset:
    """Load a data set by name: ``digits``.

    Raises:
        JaxfairError: no data set has this name.
    """
    sources: dict[str, Callable[[], Dataset]] = {"digits": digits}
    if name not in sources:
        raise JaxfairError(f"There is no data set '{name}'{did_you_mean(name, sources)}")
    return sources[name]()


def digits() -> Dataset:
    """Load scikit-learn's handwritten digits: 1,797 real images of 8x8 with 17 grey levels; the group is the class."""
    from sklearn.datasets import load_digits

    pixels, target = load_digits(return_X_y=True)
    images = np.round(np.asarray(pixels) * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    names = [str(digit) for digit in range(10)]
    label = np.asarray(target, np.int32)
    return make_dataset(images, label, label, name="digits", class_names=names, group_names=names)
