"""The class of each example, or what a user's loss is told of it, as an array of a known kind, or one sentence."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxfair.errors import JaxfairError
from jaxfair.inputs import (
    absent,
    are_whole,
    as_array,
    check_rounding,
    check_told_apart,
    holds_numbers,
    is_one_hot,
    unboxed,
    within_int32,
    written_as,
)


def as_labels(y: Any, num_classes: int | None = None, what: str = "label") -> np.ndarray | jax.Array:
    """Return labels as integers of shape (n,): of integers, whole floats, booleans, one column, or one-hot rows.

    Args:
        y: Labels, one for each example.
        num_classes: Number of classes; None where it is not known yet.
        what: What one is called in an error.

    Raises:
        JaxfairError: They are none of these, or not among the classes.
    """
    label = as_array(y, "labels")
    if isinstance(label, Tracer):
        if label.ndim != 1 or not jnp.issubdtype(label.dtype, jnp.integer):
            raise JaxfairError(
                f"Labels that JAX traces have type {label.dtype} and shape {label.shape}; give integers of shape (n,)."
            )
        return label
    label = unboxed(label)
    if label.ndim == 2 and label.shape[1] == 1:
        label = label[:, 0]
    check_booleans(label, 2 if num_classes is None else num_classes)
    numeric = holds_numbers(label) and label.dtype.kind != "c"  # which would lose its imaginary part
    if label.ndim == 2 and numeric and label.size and is_one_hot(np.asarray(label)):
        if num_classes is not None and label.shape[1] != max(num_classes, 2):
            raise JaxfairError(f"Labels are one-hot rows of {label.shape[1]} classes; the network has {num_classes}.")
        label = np.asarray(label).argmax(axis=1)
    _check_not_missing(label)
    if label.ndim != 1 or not numeric:
        code = "np.unique(y, return_inverse=True)[1] makes"
        if what != "label":  # two sides may have other classes, and need one code
            code = "np.searchsorted(classes, answers), with one sorted list of the classes of y and all sides, makes"
        way = f"; {code} them of texts" if label.dtype.kind in "UO" else ""
        raise JaxfairError(
            f"Labels have type {label.dtype} and shape {label.shape}; expected integers of shape (n,){way}."
        )
    if not jnp.issubdtype(label.dtype, jnp.integer):
        check_told_apart(np.asarray(label), "labels" if what == "label" else f"answers{what.removeprefix('class')}")
        values = np.asarray(label, np.float64)
        if (odd := np.flatnonzero(~are_whole(values))).size:
            raise JaxfairError(
                f"The {what} of example {odd[0]} is {values[odd[0]]:g}; labels are whole numbers from 0."
            )
        label = values.astype(np.int64)
    host = np.asarray(label)
    too_large = False if num_classes is None else host >= num_classes
    if (wrong := np.flatnonzero((host < 0) | too_large)).size:
        classes = "classes" if num_classes is None else f"the {num_classes} classes"
        raise JaxfairError(f"The {what} of example {wrong[0]} is {host[wrong[0]]}; {classes} count from 0.")
    # Codes of classes may exceed 32 bits where no network has them, and answers are compared on the host.
    return host if host.max(initial=0) > np.iinfo(np.int32).max else _signed(label)


def check_booleans(label: Any, num_classes: int) -> None:
    """Raise a JaxfairError if labels, as an array, are booleans, which say no class of more than two."""
    if label.dtype == bool and label.ndim in (1, 2) and label.shape[1:] in ((), (1,)) and num_classes > 2:
        raise JaxfairError(
            f"The labels are booleans, and there are {num_classes} classes; give each example its class."
        )


def fill_left_out(y: Any, kept: np.ndarray) -> Any:
    """Return labels in which those of examples that are left out, of which nothing is asked, are the first class."""
    if kept.all():
        return y
    if isinstance(y, np.ma.MaskedArray) and np.shape(y)[:1] == kept.shape:
        masked = np.ma.getmaskarray(y).copy()
        masked[~kept] = False
        y = np.ma.array(y.data, mask=masked)
    labels = as_array(y, "labels")
    if isinstance(labels, Tracer) or np.ndim(labels) not in (1, 2) or len(labels) != len(kept):
        return labels  # refused later
    labels = np.array(labels)
    if labels.dtype.kind in "biufcO":
        labels[~kept] = np.arange(labels.shape[1]) == 0 if labels.ndim == 2 and labels.shape[1] > 1 else 0
    return labels


def as_told(y: Any) -> Any:
    """Return what a loss of the user's is told of the examples as an array, whose whole numbers have a sign.

    Raises:
        JaxfairError: It is no array of numbers.
    """
    told = unboxed(as_array(y, "labels"))
    _check_not_missing(told)
    if not holds_numbers(told):
        raise JaxfairError(
            f"Labels have type {told.dtype}; a loss takes numbers, which np.unique(y, return_inverse=True)[1] makes of "
            "other values."
        )
    check_rounding(told, "labels")
    return _signed(within_int32(told, "labels"))


def _check_not_missing(label: Any) -> None:
    """Raise a JaxfairError if labels that are texts or objects are missing: codes of them would make that a class."""
    if label.ndim == 1 and label.dtype.kind in "OU" and (unknown := absent(np.asarray(label))).any():
        first = f"the first of example {np.argmax(unknown)}{written_as(label[np.argmax(unknown)])}"
        raise JaxfairError(f"{unknown.sum()} of {len(label)} labels are missing, {first}; leave these examples out.")


def _signed(label: Any) -> Any:
    """Return short whole numbers as those of 32 bits with a sign: 2 * y - 1 of unsigned bytes has no -1."""
    short = label.dtype.kind == "u" or (label.dtype.kind == "i" and label.dtype.itemsize < 4)
    return label.astype(np.int32) if short else label
