"""Images that stay on the host because the device cannot hold them."""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

BLOCK = 64 * 1024**2


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Some images of an array on the host, such as a memory map; only what is indexed is read.

    JAX does not know this type: a jitted function that is given all of them refuses, where it would copy an array.

    Attributes:
        array: of all images, NHWC.
        index: the images that these are, in order.
    """

    array: np.ndarray
    index: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array that these images would make."""
        return (len(self.index), *self.array.shape[1:])

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.array.ndim

    @property
    def dtype(self) -> np.dtype:
        """Type of a pixel."""
        return self.array.dtype

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read images by a slice or an array of positions."""
        return self.array[self.index[index]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read all of them."""
        return np.asarray(self[:], dtype)

    def take(self, index: np.ndarray) -> "Rows":
        """Return the images at some positions, without reading them."""
        return Rows(self.array, self.index[index])


def blocks(images: Any) -> Iterator[np.ndarray]:
    """Yield the images of an array or of ``Rows`` in order, as arrays of at most 64 MiB or of one image."""
    images = images if isinstance(images, Rows) else np.asarray(images)
    count = max(BLOCK // max(int(np.prod(images.shape[1:])) * images.dtype.itemsize, 1), 1)
    for start in range(0, len(images), count):
        yield images[start : start + count]


def fits_device(nbytes: int) -> bool:
    """Tell whether images of so many bytes can lie on the device and leave room for the work.

    At most half of a device's memory less what is in use, or a quarter of the machine's memory if the device is the
    CPU or does not say; true where neither is known.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return nbytes <= stats["bytes_limit"] / 2 - stats.get("bytes_in_use", 0)
    try:
        return nbytes <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 4
    except (AttributeError, ValueError, OSError):  # Windows; a name that the system does not have
        return True
