"""Images with columns -> training and test sets: what is the label, what the group, and what is left out."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxfair.data import dataset
from jaxfair.data.columns import MISSING, Column, Rejected, choose, merge_below, select
from jaxfair.data.dataset import Dataset
from jaxfair.data.rows import Rows
from jaxfair.errors import JaxfairError, did_you_mean

MOST_VALUES = 1000
SHOWN = 3


class Collection(NamedTuple):
    """Decoded images and all that is known of them.

    Attributes:
        title: for tables and pages.
        images: uint8, NHWC, n of them; usually mapped from disk. Rows that could not be decoded are black.
        names: of the images.
        columns: properties of the images.
        split: official part of each image, see ``columns.Index``.
        unreadable: reason for each row that could not be decoded.
        left_out: what was left out on purpose.
        rejected: what did not fit together.
    """

    title: str
    images: np.ndarray
    names: Sequence[str]
    columns: Mapping[str, Column]
    split: Column | None
    unreadable: Mapping[int, str]
    left_out: tuple[Rejected, ...]
    rejected: tuple[Rejected, ...]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What of a collection is used, and how.

    Attributes:
        label: columns whose intersections are the classes.
        group: columns whose intersections are the groups.
        drop: values whose images are left out, as ``column=value``.
        merge_below: groups with fewer images are merged into one, ``other``.
        allow_dropping: whether images that cannot be used are left out instead of stopping the run.
    """

    label: tuple[str, ...]
    group: tuple[str, ...]
    drop: tuple[str, ...] = ()
    merge_below: int = 0
    allow_dropping: bool = False


class Parts(NamedTuple):
    """What a collection and a protocol give.

    Attributes:
        train: the training set, or the whole set where there is no official split.
        test: the official test set (the validation set where there is none), with the statistics of ``train``.
        left_out: everything that is not in either, with the reason.
    """

    train: Dataset
    test: Dataset | None
    left_out: tuple[Rejected, ...]


def make_parts(collection: Collection, protocol: Protocol, name: str) -> Parts:
    """Build the data sets.

    Args:
        collection: images and columns.
        protocol: which of them become what.
        name: of the data sets.

    Raises:
        JaxfairError: a column or value does not exist, images cannot be used and dropping is not allowed, there is
            only one class, or there are too many classes or groups.
    """
    columns = collection.columns
    used = np.ones(len(collection.images), bool)
    for item in protocol.drop:
        used &= ~_dropped(columns, item)
    label, group = choose(columns, protocol.label, "label"), choose(columns, protocol.group, "group")
    bad = {row: Rejected(collection.names[row], reason) for row, reason in collection.unreadable.items()}
    for key in dict.fromkeys((*protocol.label, *protocol.group)):
        for row in np.flatnonzero(columns[key].codes == MISSING).tolist():
            bad.setdefault(row, Rejected(collection.names[row], f"has no {key}"))
    bad = {row: bad[row] for row in sorted(bad) if used[row]}
    unusable = (*collection.rejected, *bad.values())
    if unusable and not protocol.allow_dropping:
        raise JaxfairError(
            f"{len(unusable):,} images or rows of {collection.title} cannot be used: {summary(unusable)}; "
            "mend or remove them, or leave them out by allow_dropping (--allow-dropping)."
        )
    used[list(bad)] = False
    rows = np.flatnonzero(used)
    if not len(rows):
        raise JaxfairError(f"No image of {collection.title} is left; drop less.")
    label, group = select(label, rows), merge_below(select(group, rows), protocol.merge_below)
    _check_values(label, group, protocol, collection.title)
    parts, skipped = _official(collection.split, rows)
    for part, which in zip(parts, ("training", "test"), strict=False):
        absent = [name for code, name in enumerate(group.names) if not (group.codes[part] == code).any()]
        if absent:
            raise JaxfairError(
                f"The official {which} images of {collection.title} hold none of group {', '.join(absent)}; drop these "
                "values, or merge rare groups by merge_below."
            )
    made = [_dataset(collection, rows, part, label, group, name) for part in parts]
    left_out = (*collection.left_out, *unusable, *skipped)
    if len(made) == 1:
        return Parts(made[0], None, left_out)
    train, test = made
    return Parts(train, dataclasses.replace(test, mean=train.mean, std=train.std), left_out)


def summary(items: Sequence[Rejected]) -> str:
    """Return the first few, by name and with their reasons."""
    shown = "; ".join(f"{item.name} {item.reason}" for item in items[:SHOWN])
    return shown + (f"; and {len(items) - SHOWN:,} more" if len(items) > SHOWN else "")


def _dropped(columns: Mapping[str, Column], item: str) -> np.ndarray:
    key, _, value = item.partition("=")
    column = choose(columns, [key], "drop")
    if value not in column.names:
        raise JaxfairError(f"The column '{key}' has no value '{value}' to drop{did_you_mean(value, column.names)}")
    return column.codes == column.names.index(value)


def _check_values(label: Column, group: Column, protocol: Protocol, title: str) -> None:
    for column, keys, what in ((label, protocol.label, "label"), (group, protocol.group, "group")):
        if len(column.names) > MOST_VALUES:
            merge = ", or merge more of them by merge_below (--merge-below)" if what == "group" else ""
            raise JaxfairError(
                f"The {what} {' & '.join(keys)} of {title} has {len(column.names):,} values; give a column with at "
                f"most {MOST_VALUES:,}{merge}."
            )
        if len(column.names) < 2:
            advice = (
                "a classifier needs two or more" if what == "label" else "give a column with several, or merge less"
            )
            raise JaxfairError(
                f"The {what} {' & '.join(keys)} of {title} has one value only, '{', '.join(column.names)}'; {advice}."
            )


def _official(split: Column | None, rows: np.ndarray) -> tuple[list[np.ndarray], list[Rejected]]:
    """Return the positions in ``rows`` of the training and test images, or all of them, and what is in neither."""
    if split is None:
        return [np.arange(len(rows))], []
    codes = split.codes[rows]
    members = {name: np.flatnonzero(codes == i) for i, name in enumerate(split.names)}
    members = {name: found for name, found in members.items() if len(found)}
    held_out = next((name for name in ("test", "validation") if name in members), None)
    if "train" not in members or held_out is None:
        return [np.arange(len(rows))], []
    others = [name for name in members if name not in ("train", held_out)]
    unknown = int((codes == MISSING).sum())
    skipped = [Rejected(f"{len(members[name]):,} images", f"are the {name} split") for name in others]
    if unknown:
        skipped.append(Rejected(f"{unknown:,} images", "belong to no split"))
    return [members["train"], members[held_out]], skipped


def _dataset(
    collection: Collection, rows: np.ndarray, part: np.ndarray, label: Column, group: Column, name: str
) -> Dataset:
    return dataset.make_dataset(
        Rows(collection.images, rows[part]),  # read only if they fit on the device
        label.codes[part],
        group.codes[part],
        name=name,
        class_names=label.names,
        group_names=group.names,
    )
