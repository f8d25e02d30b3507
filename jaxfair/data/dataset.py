"""Data sets: images with a label and a group each, on the device if it can hold them; splits, imbalance, batches."""

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from jaxfair.data.rows import Rows, blocks, fits_device
from jaxfair.errors import JaxfairError

Augmentation = Literal["none", "cifar"]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["images", "label", "group", "mean", "std"],
    meta_fields=["name", "class_names", "group_names"],
)
@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images with labels and groups; build it by ``make_dataset``, which checks them.

    A pytree, so the whole set passes into a jitted function and batches are gathered on the device. Images that the
    device cannot hold are ``Rows``, which stay on the host: ``fetch`` some of them first.

    Attributes:
        images: uint8, NHWC; labels, groups and statistics are always on the device.
        label: class of each image, 0..C-1.
        group: demographic group of each image, 0..G-1.
        mean, std: per-channel statistics used by ``normalize``, on the scale of [0, 1].
        name, class_names, group_names: for records and figures.
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
        """Number of images of each group."""
        return np.bincount(np.asarray(self.group), minlength=len(self.group_names))

    def take(self, index: np.ndarray) -> "Dataset":
        """Return the images of ``index``, in its order, with this set's statistics."""
        images = self.images.take(index) if isinstance(self.images, Rows) else self.images[index]
        return dataclasses.replace(self, images=images, label=self.label[index], group=self.group[index])

    @property
    def on_host(self) -> bool:
        """Whether the images are on the host, and a jitted function can have ``fetch``ed ones only."""
        return isinstance(self.images, Rows)

    def fetch(self, index: Int[np.ndarray, "..."]) -> tuple["Dataset", Int[np.ndarray, "..."]]:
        """Return a set for a jitted function, and the positions in it of the images ``index``, in the same shape.

        That is this set if its images are on the device; otherwise a set of these images alone, which are read now.
        """
        if not self.on_host:
            return self, index
        some = self.take(index.reshape(-1))
        positions = np.arange(index.size, dtype=index.dtype).reshape(index.shape)
        return dataclasses.replace(some, images=np.asarray(some.images)), positions

    def normalize(self, images: UInt8[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Scale to [0, 1], subtract the mean and divide by the deviation of each channel; float32."""
        return normalize(images, self.mean, self.std)

    def fingerprint(self) -> str:
        """Return a digest of images, labels, groups and statistics: equal content, equal digest, on any machine."""
        digest = hashlib.sha256()
        for array in (self.images, self.label, self.group, self.mean, self.std):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            for block in blocks(array):
                digest.update(np.ascontiguousarray(block).data)
        return digest.hexdigest()[:16]


def normalize(
    images: UInt8[Array, "n h w c"], mean: Float[Array, " c"], std: Float[Array, " c"]
) -> Float[Array, "n h w c"]:
    """Scale to [0, 1], subtract the mean and divide by the deviation of each channel; float32."""
    return (images.astype(jnp.float32) / 255.0 - mean) / std


def make_dataset(
    images: np.ndarray | Rows,
    label: np.ndarray,
    group: np.ndarray,
    *,
    name: str,
    class_names: Sequence[str],
    group_names: Sequence[str],
    on_device: bool | None = None,
) -> Dataset:
    """Check arrays and put them on the device, with the statistics of these images.

    Args:
        images: uint8, shape (n, height, width, channels); a memory map or ``Rows`` of one need not fit into memory.
        label: integers in 0..len(class_names)-1, shape (n,).
        group: integers in 0..len(group_names)-1, shape (n,).
        name: of the set.
        class_names: one for each class.
        group_names: one for each group; every group must have a sample.
        on_device: whether the images go to the device too; None puts them there if it has room for them. Otherwise
            they stay what they are, and each batch is sent when it is needed.

    Raises:
        JaxfairError: wrong shape or type, labels or groups out of range, a group without samples.
    """
    images = images if isinstance(images, Rows) else np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise JaxfairError(
            f"Images of '{name}' have type {images.dtype} and shape {images.shape}; "
            "expected uint8 of shape (n, height, width, 1 or 3)."
        )
    label = _checked_index(label, len(images), class_names, f"labels of '{name}'")
    group = _checked_index(group, len(images), group_names, f"groups of '{name}'")
    mean, std = channel_statistics(images)
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


def check_groups(dataset: Dataset, split: str = "data set") -> None:
    """Raise a JaxfairError that names the groups without a sample."""
    empty = [name for name, count in zip(dataset.group_names, dataset.group_counts, strict=True) if count == 0]
    if empty:
        raise JaxfairError(
            f"The {split} '{dataset.name}' has no sample of group {', '.join(empty)}; "
            "leave these groups out, merge them, or keep a larger share of them."
        )


def channel_statistics(images: np.ndarray | Array | Rows) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each channel, on the scale of [0, 1], as float32.

    A constant channel gets deviation 1, so that it normalizes to 0.
    """
    # Exact integer moments by histogram: no rounding that would depend on the order of summation.
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    for block in blocks(images):
        counts += [np.bincount(block[..., c].reshape(-1), minlength=256) for c in range(channels)]
    levels = np.arange(256, dtype=np.float64) / 255
    histograms = counts / max(counts[0].sum(), 1)
    mean = np.array([h @ levels for h in histograms])
    std = np.array([np.sqrt(h @ (levels - m) ** 2) for h, m in zip(histograms, mean, strict=True)])
    return mean.astype(np.float32), np.where(std > 0, std, 1.0).astype(np.float32)


def split(dataset: Dataset, test_fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Split into train and test, stratified by class and group, both with the training statistics.

    Raises:
        JaxfairError: the fraction is not between 0 and 1, or a class-and-group cell has fewer than two images.
    """
    from sklearn.model_selection import train_test_split

    if not 0 < test_fraction < 1 or seed < 0:
        raise JaxfairError(
            f"The test fraction is {test_fraction} and the seed {seed}; give a fraction between 0 and 1, "
            "and a seed that is not negative."
        )
    _check_cells(dataset, test_fraction)
    cell = np.asarray(dataset.label) * len(dataset.group_names) + np.asarray(dataset.group)
    try:
        train, test = train_test_split(
            np.arange(len(dataset)), test_size=test_fraction, random_state=seed, stratify=cell
        )
    except ValueError as error:
        raise JaxfairError(f"The data set '{dataset.name}' cannot be split by class and group: {error}") from error
    parts = dataset.take(np.sort(train)), dataset.take(np.sort(test))
    for part, name in zip(parts, ("training", "test"), strict=True):
        check_groups(part, f"{name} split of")
    return with_training_statistics(*parts)


def _check_cells(dataset: Dataset, test_fraction: float) -> None:
    """Raise a JaxfairError if a class of a group is too small to be in both parts."""
    counts = np.zeros((len(dataset.class_names), len(dataset.group_names)), int)
    np.add.at(counts, (np.asarray(dataset.label), np.asarray(dataset.group)), 1)
    single = np.argwhere(counts == 1)
    if len(single):
        label, group = single[0]
        raise JaxfairError(
            f"'{dataset.name}' has one image only of class '{dataset.class_names[label]}' in group "
            f"'{dataset.group_names[group]}' ({len(single)} such cells), which cannot be in training and test both; "
            "drop such values, or merge rare groups."
        )
    cells, images = int((counts > 0).sum()), len(dataset)
    if min(test_fraction, 1 - test_fraction) * images < cells:
        raise JaxfairError(
            f"A share of {test_fraction} of the {images} images of '{dataset.name}' leaves training or test without an "
            f"image for each of the {cells} classes in groups; choose another share."
        )


def with_training_statistics(train: Dataset, test: Dataset) -> tuple[Dataset, Dataset]:
    """Return both sets with the channel statistics of ``train``."""
    mean, std = (jnp.asarray(value) for value in channel_statistics(train.images))
    return dataclasses.replace(train, mean=mean, std=std), dataclasses.replace(test, mean=mean, std=std)


def thin(dataset: Dataset, fractions: Sequence[float], seed: int, by: Literal["label", "group"] = "label") -> Dataset:
    """Keep a share of each class or group, chosen at random (Das et al.: 0.9 of five classes, 0.1 of the others).

    The statistics of the input set stay; call ``with_training_statistics`` after thinning a training set.

    Args:
        dataset: usually the training set.
        fractions: share to keep, one for each class or group, in [0, 1].
        seed: of the choice.
        by: what the shares are of.

    Raises:
        JaxfairError: wrong number of shares, one outside [0, 1], or a group left empty.
    """
    names = dataset.class_names if by == "label" else dataset.group_names
    if len(fractions) != len(names) or not all(0 <= f <= 1 for f in fractions):
        raise JaxfairError(
            f"The shares to keep are {tuple(fractions)}; expected {len(names)} numbers between 0 and 1, "
            f"one for each {by} of '{dataset.name}'."
        )
    values = np.asarray(getattr(dataset, by))
    kept = []
    for value, fraction in enumerate(fractions):
        members = np.flatnonzero(values == value)
        rng = np.random.default_rng([seed, value])
        kept.append(rng.permutation(members)[: round(fraction * len(members))])
    thinned = dataset.take(np.sort(np.concatenate(kept)))
    check_groups(thinned, "thinned data set")
    return thinned


def epoch_order(num_examples: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Return the batches of one epoch as indices of shape (steps, batch_size); depends on seed and epoch only.

    The remainder that fills no batch is left out, another one in each epoch, so that every step has one shape.

    Raises:
        JaxfairError: the batch is larger than the set.
    """
    if not 1 <= batch_size <= num_examples:
        raise JaxfairError(f"The batch size is {batch_size}, but there are {num_examples} images; give 1 to as many.")
    order = np.random.default_rng([seed, epoch]).permutation(num_examples)
    steps = num_examples // batch_size
    return order[: steps * batch_size].reshape(steps, batch_size).astype(np.int32)


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


def _checked_index(values: np.ndarray, count: int, names: Sequence[str], what: str) -> np.ndarray:
    values = np.asarray(values)
    if values.shape != (count,) or not np.issubdtype(values.dtype, np.integer):
        raise JaxfairError(
            f"The {what} have type {values.dtype} and shape {values.shape}; expected {count} integers, one an image."
        )
    if count and (values.min() < 0 or values.max() >= len(names)):
        raise JaxfairError(f"The {what} run from {values.min()} to {values.max()}; expected 0 to {len(names) - 1}.")
    return values.astype(np.int32)
