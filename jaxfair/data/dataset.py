"""Data sets: images with a label and a group each, on the device if it can hold them, and on the host otherwise."""

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from jaxfair.data.config import Augmentation
from jaxfair.errors import JaxfairError
from jaxfair.inputs import as_array, as_values, quoted
from jaxfair.options import checked

BLOCK = 64 * 1024**2


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Some images of an array on the host, such as a memory map; only what is indexed is read.

    JAX does not know this type: a jitted function that is given all of them refuses, where it would copy an array.

    Attributes:
        array: All images, NHWC.
        index: The positions in ``array`` of these images, in order.
    """

    array: np.ndarray
    index: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array that these images would make."""
        return (len(self.index), *self.array.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """The type of a pixel."""
        return self.array.dtype

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read images by a slice or an array of positions."""
        return self.array[self.index[index]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read all of them."""
        return np.asarray(self[:], dtype)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["images", "label", "group", "mean", "std"],
    meta_fields=["name", "class_names", "group_names"],
)
@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images with labels and groups; build it by ``make_dataset``, which checks them.

    This is a pytree: the whole set passes into a jitted function, and batches are gathered on the device. Images that
    the device cannot hold are ``Rows``, which stay on the host; ``fetch`` some of them for a jitted function.

    Attributes:
        images: uint8, NHWC. Labels, groups and statistics are always on the device.
        label: The class of each image, from 0 to C-1.
        group: The demographic group of each image, from 0 to G-1.
        mean: The mean of each channel on the scale of [0, 1], which ``normalize`` subtracts.
        std: The deviation of each channel on the same scale, by which ``normalize`` divides.
        name: The name of the set, for records and figures.
        class_names: One name for each class.
        group_names: One name for each group.

    Example:
        >>> from jaxfair import load
        >>> train, test = load("digits").split(test_fraction=0.25)
        >>> len(train), test.image_shape, int(test.group_counts[0])
        (1347, (8, 8, 1), 45)
    """

    images: UInt8[Any, "n h w c"]
    label: Int[Array, " n"]
    group: Int[Array, " n"]
    mean: Float[Array, " c"]
    std: Float[Array, " c"]
    name: str
    class_names: tuple[str, ...]
    group_names: tuple[str, ...]

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        h, w, c = self.images.shape[1:]
        return h, w, c

    @property
    def group_counts(self) -> np.ndarray:
        """The number of images of each group."""
        return np.bincount(np.asarray(self.group), minlength=len(self.group_names))

    @property
    def on_host(self) -> bool:
        """Whether the images are on the host, so that a jitted function can have ``fetch``ed ones only."""
        return isinstance(self.images, Rows)

    @checked
    def take(self, index: np.ndarray | Sequence[int]) -> "Dataset":
        """Return the images at some positions, in their order, with this set's statistics.

        Raises:
            JaxfairError: A position is not one of an image.
        """
        index = np.asarray(as_array(index, "positions"))
        if index.dtype.kind not in "iu" and index.size:
            raise JaxfairError(f"Positions have type {index.dtype}; give whole numbers, or np.flatnonzero of booleans.")
        if index.ndim != 1:
            raise JaxfairError(f"The positions have shape {index.shape}; give a list of them.")
        index = index.astype(int)
        if index.size and not -len(self.label) <= index.min() <= index.max() < len(self.label):
            far = index.max() if index.max() >= len(self.label) else index.min()
            raise JaxfairError(f"There is no image {far}; there are {len(self.label)}, which count from 0.")
        images = Rows(self.images.array, self.images.index[index]) if self.on_host else self.images[index]
        return dataclasses.replace(self, images=images, label=self.label[index], group=self.group[index])

    def fetch(self, index: Int[np.ndarray, "..."]) -> tuple["Dataset", Int[np.ndarray, "..."]]:
        """Return a set for a jitted function, and the positions in it of the images ``index``, in the same shape.

        That is this set if its images are on the device; otherwise it is a set of these images alone, read now.
        """
        if not self.on_host:
            return self, index
        some = self.take(index.reshape(-1))
        positions = np.arange(index.size, dtype=index.dtype).reshape(index.shape)
        return dataclasses.replace(some, images=np.asarray(some.images)), positions

    def normalize(self, images: UInt8[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Normalize images as the function ``normalize`` does, by this set's statistics; ``Rows`` are read."""
        return normalize(images, self.mean, self.std)

    def fingerprint(self) -> str:
        """Return a digest of images, labels, groups and statistics: equal content, equal digest, on any machine."""
        digest = hashlib.sha256()
        for array in (self.images, self.label, self.group, self.mean, self.std):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            for block in _blocks(array):
                digest.update(np.ascontiguousarray(block).data)
        return digest.hexdigest()[:16]


@checked
def normalize(
    images: UInt8[Array, "n h w c"], mean: Float[Array, " c"], std: Float[Array, " c"]
) -> Float[Array, "n h w c"]:
    """Scale to [0, 1], subtract the mean and divide by the deviation of each channel; the result is float32.

    Raises:
        JaxfairError: The images are no bytes, which were normalized before, or have other channels.
    """
    if not isinstance(images, Array):
        images = jnp.asarray(np.asarray(images) if isinstance(images, Rows) else as_array(images, "images"))
    if images.dtype != jnp.uint8 or images.shape[-1:] != mean.shape:
        raise JaxfairError(
            f"Images to normalize have type {images.dtype} and shape {images.shape}; give them as a data set holds "
            f"them, uint8 with {mean.shape[0]} channels."
        )
    channels = (1,) * (images.ndim - 1) + (-1,)
    return (images.astype(jnp.float32) / 255.0 - mean.reshape(channels)) / std.reshape(channels)


@checked
def make_dataset(
    images: np.ndarray | Array | Rows,
    label: np.ndarray | Array,
    group: np.ndarray | Array,
    *,
    name: str,
    class_names: Sequence[str],
    group_names: Sequence[str],
    on_device: bool | None = None,
    statistics: tuple[np.ndarray | Array, np.ndarray | Array] | None = None,
) -> Dataset:
    """Check arrays and put them on the device.

    Args:
        images: uint8 of shape (n, height, width, channels); a memory map or ``Rows`` of one need not fit into memory.
        label: Integers from 0 to len(class_names) - 1, shape (n,).
        group: Integers from 0 to len(group_names) - 1, shape (n,).
        name: The name of the set.
        class_names: One name for each class.
        group_names: One name for each group; every group must have an image.
        on_device: Whether the images go to the device too. None puts them there if it has room for them; otherwise
            they stay on the host, and each batch is sent when it is needed.
        statistics: Mean and deviation of each channel on the scale of [0, 1]; None computes those of these images. Give
            test images those of the training images, ``(train.mean, train.std)``.

    Raises:
        JaxfairError: The shape or type is wrong, labels or groups are out of range, a group has no image, or the
            statistics are not one mean and one positive deviation of each channel, none above 1.

    Example:
        >>> import numpy as np
        >>> from jaxfair import make_dataset
        >>> images = np.zeros((4, 8, 8, 3), np.uint8)
        >>> names = {"class_names": ["cat", "dog"], "group_names": ["day", "night"]}
        >>> len(make_dataset(images, np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]), name="pets", **names))
        4
    """
    images = images if isinstance(images, Rows) else np.asarray(as_array(images, f"images of '{name}'"))
    if images.dtype != np.uint8 or len(images.shape) != 4 or images.shape[-1] not in (1, 3):
        raise JaxfairError(
            f"Images of '{name}' have type {images.dtype} and shape {images.shape}; "
            "expected uint8 of shape (n, height, width, 1 or 3)."
        )
    label = _checked_index(label, len(images), class_names, f"labels of '{name}'")
    group = _checked_index(group, len(images), group_names, f"groups of '{name}'")
    mean, std = channel_statistics(images) if statistics is None else _checked_statistics(statistics, images.shape[-1])
    if on_device is None:
        on_device = fits_device(int(np.prod(images.shape)))
    rows = images if isinstance(images, Rows) else Rows(images, np.arange(len(images)))
    dataset = Dataset(
        jnp.asarray(np.asarray(images)) if on_device else rows,
        *(jnp.asarray(array) for array in (label, group, mean, std)),
        name=name,
        class_names=tuple(class_names),
        group_names=tuple(group_names),
    )
    check_groups(dataset)
    return dataset


def _checked_statistics(statistics: Any, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of each channel; those of a set that has none yet are NaN."""
    if len(statistics) != 2:
        raise JaxfairError(f"There are {len(statistics)} statistics; give the channels' means and their deviations.")
    mean, std = (as_values(values, "statistics of the channels") for values in statistics)
    known = np.isfinite([mean, std]) if mean.shape == std.shape else np.ones(1, bool)
    fine = known.all() or np.isnan([mean, std]).all()  # or of a set that has none yet
    if mean.shape != (channels,) or std.shape != (channels,) or (std <= 0).any() or not fine:
        raise JaxfairError(
            f"The channels' statistics have shapes {mean.shape} and {std.shape}; give a finite mean and a "
            f"deviation above 0 of each of the {channels} channels."
        )
    if (mean > 1).any() or (std > 1).any():
        raise JaxfairError(
            f"The channels' means go up to {mean.max():g} and their deviations to {std.max():g}; give them on the "
            "scale of 0 to 1: divide those of bytes by 255."
        )
    return mean.astype(np.float32), std.astype(np.float32)


def check_groups(dataset: Dataset, split: str = "data set") -> None:
    """Raise a JaxfairError that names the groups without an image."""
    empty = [name for name, count in zip(dataset.group_names, dataset.group_counts, strict=True) if count == 0]
    if empty:
        raise JaxfairError(
            f"The {split} '{dataset.name}' has no sample of group {quoted(empty)}; "
            "leave these groups out, merge them, or keep a larger share of them."
        )


def channel_statistics(images: np.ndarray | Array | Rows) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each channel, on the scale of [0, 1], as float32.

    A constant channel gets deviation 1, so that it normalizes to 0.
    """
    # Exact integer moments by histogram: no rounding that would depend on the order of summation.
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    for block in _blocks(images):
        counts += [np.bincount(block[..., c].reshape(-1), minlength=256) for c in range(channels)]
    levels = np.arange(256, dtype=np.float64) / 255
    histograms = counts / max(counts[0].sum(), 1)
    mean = np.array([h @ levels for h in histograms])
    std = np.array([np.sqrt(h @ (levels - m) ** 2) for h, m in zip(histograms, mean, strict=True)])
    return mean.astype(np.float32), np.where(std > 0, std, 1.0).astype(np.float32)


def augment(images: UInt8[Array, "n h w c"], kind: Augmentation, key: Key[Array, ""]) -> UInt8[Array, "n h w c"]:
    """Augment a batch: ``cifar`` pads by 4 zeros, crops at random and mirrors every second image on average."""
    if kind == "none":
        return images
    n, h, w, c = images.shape
    crop_key, flip_key = jax.random.split(key)
    offsets = jax.random.randint(crop_key, (n, 2), 0, 9)
    padded = jnp.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    cropped = jax.vmap(lambda image, o: jax.lax.dynamic_slice(image, (o[0], o[1], 0), (h, w, c)))(padded, offsets)
    mirror = jax.random.bernoulli(flip_key, 0.5, (n, 1, 1, 1))
    return jnp.where(mirror, cropped[:, :, ::-1], cropped)


def fits_device(nbytes: int) -> bool:
    """Tell whether images of so many bytes can lie on JAX's default device and leave room for the work.

    They may take half of the device's memory less what is in use, or a quarter of the machine's memory if the device
    is the CPU or does not say. Where neither is known, they fit.
    """
    (device,) = jnp.zeros(()).devices()  # where an array goes, whether a user has set ``jax.default_device`` or not
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return nbytes <= stats["bytes_limit"] / 2 - stats.get("bytes_in_use", 0)
    try:
        return nbytes <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 4
    except (AttributeError, ValueError, OSError):  # Windows; a name that the system does not have
        return True


def _blocks(images: Any) -> Iterator[np.ndarray]:
    """Yield the images of an array or of ``Rows`` in order, as arrays of at most 64 MiB or of one image."""
    images = images if isinstance(images, Rows) else np.asarray(images)
    count = max(BLOCK // max(int(np.prod(images.shape[1:])) * images.dtype.itemsize, 1), 1)
    for start in range(0, len(images), count):
        yield images[start : start + count]


def _checked_index(values: np.ndarray | Array, count: int, names: Sequence[str], what: str) -> np.ndarray:
    values = np.asarray(as_array(values, what))
    if values.shape != (count,) or not np.issubdtype(values.dtype, np.integer):
        raise JaxfairError(
            f"The {what} have type {values.dtype} and shape {values.shape}; expected {count} integers, one an image."
        )
    if count and (values.min() < 0 or values.max() >= len(names)):
        raise JaxfairError(f"The {what} run from {values.min()} to {values.max()}; expected 0 to {len(names) - 1}.")
    if len(set(names)) < len(names):
        raise JaxfairError(f"Two of the {what} have one name among {quoted(names)}; give each a name of its own.")
    return values.astype(np.int32)
