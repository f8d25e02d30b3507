"""Training and test sets, the shares of them that are kept, and the order of an epoch."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np

from jaxfair.data.dataset import Dataset, channel_statistics, check_groups
from jaxfair.errors import JaxfairError
from jaxfair.inputs import quoted
from jaxfair.options import Seed, checked

SHOWN = 3  # classes in a message


@checked
def split(dataset: Dataset, test_fraction: float, seed: Seed) -> tuple[Dataset, Dataset]:
    """Split into training and test set, stratified by class and group, both with the training statistics.

    Raises:
        JaxfairError: The fraction is not between 0 and 1, or a class-and-group cell has fewer than two images.
    """
    return with_training_statistics(*divide(dataset, test_fraction, seed))


@checked
def divide(
    dataset: Dataset, test_fraction: float, seed: Seed, *, held_out: Literal["test", "validation"] = "test"
) -> tuple[Dataset, Dataset]:
    """Split as ``split`` does, with the statistics of ``dataset`` for both parts; ``held_out`` is for messages."""
    from sklearn.model_selection import train_test_split

    if not 0 < test_fraction < 1:
        raise JaxfairError(f"The {held_out} fraction is {test_fraction}; give one between 0 and 1.")
    _check_cells(dataset, test_fraction)
    cell = np.asarray(dataset.label) * len(dataset.group_names) + np.asarray(dataset.group)
    try:
        train, test = train_test_split(
            np.arange(len(dataset)), test_size=test_fraction, random_state=seed, stratify=cell
        )
    except ValueError as error:
        raise JaxfairError(f"The data set '{dataset.name}' cannot be split by class and group: {error}") from error
    parts = dataset.take(np.sort(train)), dataset.take(np.sort(test))
    for part, name in zip(parts, ("training", held_out), strict=True):
        check_groups(part, f"{name} split of")
    check_classes(*parts, held_out)
    return parts


def check_classes(train: Dataset, test: Dataset, held_out: str = "test") -> None:
    """Raise a JaxfairError that names the classes of which one of two parts has images and the other has none.

    Nothing is learnt of a class that training never sees, and nothing known of one that the test set lacks.
    """
    counts = [np.bincount(np.asarray(part.label), minlength=len(part.class_names)) for part in (train, test)]
    for what, here, there in (("training", *counts), (held_out, *counts[::-1])):
        absent = np.flatnonzero((here == 0) & (there > 0))
        if len(absent):
            names = ", ".join(train.class_names[i] for i in absent[:SHOWN]) + (", ..." if len(absent) > SHOWN else "")
            raise JaxfairError(
                f"The {what} images of '{train.name}' hold none of class {names}, of which the other part has "
                f"{there[absent].sum():,}; leave them out by drop, or see that both parts have some."
            )


@checked
def with_training_statistics(train: Dataset, test: Dataset) -> tuple[Dataset, Dataset]:
    """Return both sets with the channel statistics of the images of ``train``."""
    mean, std = (jnp.asarray(value) for value in channel_statistics(train.images))
    return dataclasses.replace(train, mean=mean, std=std), dataclasses.replace(test, mean=mean, std=std)


@checked
def thin(dataset: Dataset, fractions: Sequence[float], seed: Seed, by: Literal["label", "group"] = "label") -> Dataset:
    """Keep a share of each class or group, chosen at random (Das et al.: 0.9 of five classes, 0.1 of the others).

    The statistics of the given set stay; call ``with_training_statistics`` after thinning a training set.

    Args:
        dataset: The set to thin, usually the training set.
        fractions: The share to keep of each class or group, in [0, 1].
        seed: The seed of the choice.
        by: Whether the shares are those of classes or of groups.

    Raises:
        JaxfairError: The number of shares is wrong, one is outside [0, 1], or a group is left empty.
    """
    names = dataset.class_names if by == "label" else dataset.group_names
    if len(fractions) != len(names) or not all(0 <= f <= 1 for f in fractions):
        raise JaxfairError(
            f"The shares to keep are ({quoted(fractions)}); expected {len(names)} numbers between 0 and 1, "
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


def derived_seed(seed: int, *stream: int) -> int:
    """Return a seed of another stream of random numbers, for what must not repeat what the seed itself has drawn."""
    return int(np.random.SeedSequence([seed, *stream]).generate_state(1)[0] % 2**31)


def epoch_order(num_examples: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Return the batches of one epoch as indices of shape (steps, batch_size), from seed and epoch alone.

    The remainder that fills no batch is left out, another one in each epoch, so that every step has one shape.

    Raises:
        JaxfairError: The batch is larger than the set.
    """
    if not 1 <= batch_size <= num_examples:
        raise JaxfairError(f"The batch size is {batch_size}, but there are {num_examples} images; give 1 to as many.")
    order = np.random.default_rng([seed, epoch]).permutation(num_examples)
    steps = num_examples // batch_size
    return order[: steps * batch_size].reshape(steps, batch_size).astype(np.int32)


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
