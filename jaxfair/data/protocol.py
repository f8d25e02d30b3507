"""Decoded images with columns become training and test sets: what is the label, what the group, what is left out."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from jaxfair.data.columns import (
    MISSING,
    MISSING_TEXTS,
    Column,
    Index,
    Rejected,
    as_numbers,
    choose,
    merge_below,
    select,
)
from jaxfair.data.config import SourceConfig
from jaxfair.data.dataset import Dataset, Rows, make_dataset
from jaxfair.data.splits import check_classes
from jaxfair.errors import JaxfairError, did_you_mean, short
from jaxfair.inputs import quoted

MOST_VALUES = 1000
SHOWN = 3


def make_parts(
    images: np.ndarray, index: Index, config: SourceConfig, name: str
) -> tuple[tuple[Dataset, ...], tuple[Rejected, ...]]:
    """Build the data sets of a source.

    Their statistics are not a number: they are computed when it is known which images are for training.

    Args:
        images: Decoded images, uint8, NHWC, usually mapped from disk. Rows that could not be decoded are black.
        index: What is known of these images.
        config: Which columns are label and group, and what is left out.
        name: The name of the data sets.

    Returns:
        The whole set, or the official training and test sets (the validation set where there is no test set); and
        everything that is in none of them, with the reason.

    Raises:
        JaxfairError: A column or value does not exist, a numeric column has a value that is no number, images cannot
            be used and dropping is not allowed, there is only one class, there are too many classes or groups, or the
            official training or test images lack a class or a group that the others have.
    """
    numbers = {key: as_numbers(choose(index.columns, [key], "numeric"), key) for key in config.numeric}
    index = index._replace(columns={**index.columns, **numbers})
    used = np.ones(len(images), bool)
    for item in config.drop:
        used &= ~_dropped(index.columns, item)
    label, group = choose(index.columns, config.label, "label"), choose(index.columns, config.group, "group")
    unusable = _unusable(index, (*config.label, *config.group), used)
    reported = (*index.rejected, *unusable.values())
    if reported and not config.allow_dropping:
        raise JaxfairError(
            f"{len(reported):,} images or rows of {index.title} cannot be used: {summary(reported)}; "
            "mend or remove them, or leave them out by allow_dropping (--data.allow-dropping of a study, or "
            "--allow-dropping of experiments.data)."
        )
    used[list(unusable)] = False
    rows = np.flatnonzero(used)
    if not len(rows):
        raise JaxfairError(f"No image of {index.title} is left; drop less.")
    label, group = select(label, rows), merge_below(select(group, rows), config.merge_below)
    _check_values(label, config.label, "label", index.title)
    _check_values(group, config.group, "group", index.title)
    members, skipped = _official(index.split, rows, index.title)
    unknown = np.full(images.shape[-1], np.nan, np.float32)
    parts = []
    for part, which in zip(members, ("training", "test"), strict=False):
        absent = [value for code, value in enumerate(group.names) if not (group.codes[part] == code).any()]
        if absent:
            raise JaxfairError(
                f"The official {which} images of {index.title} hold none of group {quoted(absent)}; drop these "
                "values, or merge rare groups by merge_below."
            )
        pixels = Rows(images, rows[part])  # read only if they fit on the device
        names = {"name": name, "class_names": label.names, "group_names": group.names}
        parts.append(make_dataset(pixels, label.codes[part], group.codes[part], **names, statistics=(unknown, unknown)))
    if len(parts) == 2:
        check_classes(*parts)
    spelled = dict.fromkeys((*_doubtful(label, config.label), *_doubtful(group, config.group)))
    return tuple(parts), (*spelled, *index.left_out, *reported, *skipped)


def summary(items: Sequence[Rejected]) -> str:
    """Return the first few, by name and with their reasons."""
    shown = "; ".join(f"{short(item.name)} {item.reason}" for item in items[:SHOWN])
    return shown + (f"; and {len(items) - SHOWN:,} more" if len(items) > SHOWN else "")


def _dropped(columns: Mapping[str, Column], item: str) -> np.ndarray:
    key, given, value = item.partition("=")
    if not given:
        raise JaxfairError(f"What is to be dropped is '{item}'; give column=value.")
    column = choose(columns, [key], "drop")
    if value not in column.names and value.lower() in MISSING_TEXTS:
        raise JaxfairError(
            f"'{value}' is a missing cell, no value of '{key}'; --data.allow-dropping leaves its rows out."
        )
    if value not in column.names:
        raise JaxfairError(f"The column '{key}' has no value '{value}' to drop{did_you_mean(value, column.names)}")
    return column.codes == column.names.index(value)


def _unusable(index: Index, keys: Sequence[str], used: np.ndarray) -> dict[int, Rejected]:
    """Return what cannot be used of the rows that are, by row: unreadable images and those without a label or group."""
    found = {row: Rejected(index.names[row], reason) for row, reason in index.unreadable.items()}
    for key in dict.fromkeys(keys):
        for row in np.flatnonzero(index.columns[key].codes == MISSING).tolist():
            found.setdefault(row, Rejected(index.names[row], f"has no {key}"))
    return {row: found[row] for row in sorted(found) if used[row]}


def _check_values(column: Column, keys: Sequence[str], what: str, title: str) -> None:
    if len(column.names) > MOST_VALUES:
        merge = ", or merge more of them by merge_below (--data.merge-below)" if what == "group" else ""
        raise JaxfairError(
            f"The {what} {' & '.join(keys)} of {title} has {len(column.names):,} values; give a column with at "
            f"most {MOST_VALUES:,}{merge}."
        )
    if len(column.names) < 2:
        advice = "a classifier needs two or more" if what == "label" else "give a column with several, or merge less"
        raise JaxfairError(
            f"The {what} {' & '.join(keys)} of {title} has one value only, '{quoted(column.names)}'; {advice}."
        )


def _doubtful(column: Column, keys: Sequence[str]) -> Iterator[Rejected]:
    """Yield what is to be said of values that may be meant otherwise, and stay what they are.

    They differ in case or blanks alone, as ``Male`` and ``male``; or -1 is beside 0, as pandas codes a missing value.
    """
    if {"-1", "0"} <= set(column.names):
        yield Rejected("'-1'", f"is a value of {' & '.join(keys)} as any other; leave missing ones empty")
    first: dict[str, str] = {}
    for name in column.names:
        if (other := first.setdefault(" ".join(name.casefold().split()), name)) != name:
            yield Rejected(f"'{short(other, 40)}' and '{short(name, 40)}'", f"are two values of {' & '.join(keys)}")


def _official(split: Column | None, rows: np.ndarray, title: str) -> tuple[list[np.ndarray], list[Rejected]]:
    """Return the positions in ``rows`` of the training and test images, or all of them, and what is in neither."""
    codes = np.zeros(0, int) if split is None else split.codes[rows]
    members = {name: np.flatnonzero(codes == i) for i, name in enumerate(split.names if split else ())}
    members = {name: found for name, found in members.items() if len(found)}
    held_out = next((name for name in ("test", "validation") if name in members), None)
    if "train" not in members and {"test", "validation"} <= members.keys():
        raise JaxfairError(
            f"{title} has a test and a validation split and no images to train on; give the training images too, or "
            "leave the column split out."
        )
    if "train" not in members or held_out is None:
        return [np.arange(len(rows))], []
    skipped = [
        Rejected(f"{len(found):,} images", f"are the {name} split")
        for name, found in members.items()
        if name not in ("train", held_out)
    ]
    if unknown := int((codes == MISSING).sum()):
        skipped.append(Rejected(f"{unknown:,} images", "belong to no split"))
    return [members["train"], members[held_out]], skipped
