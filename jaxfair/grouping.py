"""The group of each example as users have it, as numbers and names: columns, categories, intersections.

A missing group is marked in one of the ways that ``inputs.absent`` knows, whatever library wrote it, and is never
silently a group. A value has one name, in a report and where one is asked for, and no two groups share it.
"""

import math
import unicodedata
from collections.abc import Sequence
from datetime import datetime, time
from decimal import Decimal
from numbers import Real
from typing import Any, Literal

import numpy as np

from jaxfair.errors import JaxfairError, short, warn
from jaxfair.inputs import absent, are_whole, as_array, check_told_apart, on_host, quoted, written_as

Missing = Literal["refuse", "drop", "group"]
"""What to do with examples whose group is missing: refuse them, leave them out, or make them a group of their own."""

MISSING = "missing"
"""Name of the group of the examples whose group is missing."""
LONGEST = 1e28
"""From here on a whole number of floating point is named with its exponent; Python's decimals have as many digits."""
UNORDERED = "A group is a list or a set; give each example one name, or a tuple of several in one order."
MOST_GROUPS = 1000
"""More values are ids of something else, and each would be measured."""


def as_groups(
    group: Any, names: Sequence[Any] | None = None, missing: Missing = "refuse"
) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
    """Return the group of each example as a number, the groups' names, and which examples are kept.

    Groups may be integers, texts, categories or anything that can be told apart; numbers may have gaps.

    Args:
        group: Group of each example, one for each.
        names: Names of the groups 0..G-1, where ``group`` holds integers. None names the groups that occur by their
            values, in their order.
        missing: What to do with examples whose group is masked, None, not a number, or one of ``MISSING_TEXTS``.

    Returns:
        Integers 0..G-1 of shape (n,), -1 for what is left out; G names; booleans of shape (n,).

    Raises:
        JaxfairError: Groups are missing and refused, not in one column, or not among those that have names; or a group
            that has a name has no example.
    """
    masked = np.ma.getmaskarray(group) if isinstance(group, np.ma.MaskedArray) else None
    if fields := getattr(getattr(group, "dtype", None), "names", None):  # records, of which each is an intersection
        masked = None if masked is None else np.any([masked[field] for field in fields], axis=0)
        group = np.asarray(group).tolist()
    if _has_gaps_in_codes(group):  # which would be floats beside a NaN, and large ones the same
        group = group.astype(object)
    if isinstance(group, list | tuple):
        values = _column(group)
    else:
        values = on_host(group.data if isinstance(group, np.ma.MaskedArray) else group, "groups")
    if values.ndim == 2 and values.shape[1] == 1:
        values, masked = values[:, 0], None if masked is None else masked[:, 0]
    if values.ndim != 1:
        raise JaxfairError(f"The groups have shape {values.shape}; give one for each example.")
    check_told_apart(values, "groups")
    unknown = absent(values) | (False if masked is None else masked)
    if names is not None:
        values, names, unknown = _without_unnamed(values, _listed(names), unknown)
    if unknown.any() and missing == "refuse":
        first = int(np.argmax(unknown))
        raise JaxfairError(
            f"{unknown.sum()} of {len(values)} examples have no group, the first is example {first}"
            f"{written_as(values[first])}; give missing='drop' to leave them out or missing='group' to make them a "
            "group."
        )
    if len(values) and unknown.all() and missing == "drop":
        raise JaxfairError(f"None of the {len(values)} examples has a group, so that all would be left out; give some.")
    codes = np.full(len(values), -1)
    if names is not None:
        codes[~unknown] = values[~unknown]
        found = tuple(map(name_of, names))
        if len(values) and (empty := [name for g, name in enumerate(found) if not (codes == g).any()]):
            raise JaxfairError(
                f"The group {quoted(empty)} has no example; give groups by name instead of group_names, such as "
                "group=numpy.asarray(group_names)[group]."
            )
    else:
        there = values[~unknown]
        there = np.asarray(there.tolist()) if there.dtype == object and _are_numbers(there.tolist()) else there
        if there.dtype.kind in "if" and (there < 0).any():
            ends = there.min(), there.max()
            raise JaxfairError(f"The groups run from {ends[0]:g} to {ends[1]:g}; mark a missing one by NaN or None.")
        kinds, codes[~unknown] = _distinct(there)
        _check_codes(kinds)
        found = tuple(_name(kind) for kind in kinds)
        _warn_of_spellings(found)
    if missing == "group" and unknown.any():
        codes[unknown], found = len(found), (*found, MISSING)
    if len(found) > MOST_GROUPS:
        raise JaxfairError(
            f"There are {len(found):,} groups of {len(values):,} examples, as a column of ids has; give at most "
            f"{MOST_GROUPS:,}, such as by merging rare ones."
        )
    if len(set(found)) < len(found):
        raise JaxfairError(f"Two groups have one name among {quoted(found)}; give every group a name of its own.")
    return codes, found, codes >= 0


def _has_gaps_in_codes(group: Any) -> bool:
    """Return whether this is a column of pandas of whole numbers, or categories of these, of which some are missing."""
    kind = getattr(group, "dtype", None)
    kind = getattr(getattr(getattr(kind, "categories", None), "dtype", kind), "kind", None)
    return kind in ("i", "u") and hasattr(group, "isna") and bool(np.any(group.isna()))


def _check_codes(kinds: Sequence[Any]) -> None:
    """Raise a JaxfairError if a number below 0, which is how codes of categories mark a missing value, is a group.

    It may be part of an intersection, or stand beside texts.
    """

    def is_below(kind: Any) -> bool:
        return any(map(is_below, kind)) if isinstance(kind, tuple) else isinstance(kind, Real | Decimal) and kind < 0

    if below := [kind for kind in kinds if is_below(kind)]:
        one = "part" if isinstance(below[0], tuple) else "one"
        raise JaxfairError(f"The group {quoted(below)} has a number below 0; mark a missing {one} by NaN or None.")


def _warn_of_spellings(names: Sequence[str]) -> None:
    """Warn of two groups whose names differ in case or blanks alone, as of texts that several people wrote."""
    first: dict[str, str] = {}
    for name in names:
        if (other := first.setdefault(" ".join(name.casefold().split()), name)) != name:
            both = f"'{short(other, 40)}' and '{short(name, 40)}'"
            return warn(
                f"The groups {both} differ in case or blanks alone and are two; write them alike if they are one."
            )


def _column(values: Sequence[Any]) -> np.ndarray:
    """Return groups in a list as an array: of numbers where all are, otherwise of the very objects.

    NumPy would make one text of both in ``[1, "1"]``, a name of ``nan`` among texts, and rows of pairs.
    """
    values = [None if value is np.ma.masked else value for value in values]  # which NumPy would read as 0
    values = [value if isinstance(value, np.generic) or _has_axes(value) else value.item() for value in values]
    if _are_numbers(values):
        return np.asarray(values)
    if any(isinstance(value, list | np.ndarray) for value in values):
        return np.asarray(as_array(values, "groups"))
    return _objects(values)


def _objects(values: Sequence[Any]) -> np.ndarray:
    """Return values as an array of the very objects."""
    found = np.empty(len(values), object)
    for i, value in enumerate(values):
        found[i] = value
    return found


def _has_axes(value: Any) -> bool:
    """Return whether this is anything but an array, or a tensor of another library, that holds a single number."""
    return getattr(value, "ndim", None) != 0 or not hasattr(value, "item")


def _are_numbers(values: Sequence[Any]) -> bool:
    """Return whether all are numbers that an array tells apart: beside a NaN, large whole ones would be rounded."""
    if not all(isinstance(value, bool | int | float | np.number | np.bool_) for value in values):
        return False
    whole = [isinstance(value, int | np.integer) for value in values]
    return all(whole) or all(abs(value) < 2**53 for value, is_whole in zip(values, whole, strict=True) if is_whole)


def _listed(names: Sequence[Any]) -> list[Any]:
    """Return names of groups as a list; those in a single column, as an array or a table, are taken from it."""
    shape = np.shape(names) if hasattr(names, "ndim") else ()
    found = list(np.asarray(names)[:, 0]) if shape[1:] == (1,) else list(names)
    if any(isinstance(name, list) or (isinstance(name, np.ndarray) and name.ndim) for name in found):
        raise JaxfairError("The group_names are rows of several; give one name for each group.")
    return found


def _without_unnamed(
    values: np.ndarray, names: list[Any], unknown: np.ndarray
) -> tuple[np.ndarray, list[Any], np.ndarray]:
    """Return groups as numbers of their names, these, and which are missing: one whose name is NaN or None is, too.

    ``np.unique`` and ``pandas.factorize`` give such a name. A text is one, whatever it says.
    """
    numbers = np.full(len(values), -1)
    numbers[~unknown] = _numbered(values[~unknown], len(names))
    gone = absent(_objects([0 if isinstance(name, str | bytes) else name for name in names]))
    unknown = unknown | np.append(gone, False)[numbers]
    place = np.append(np.cumsum(~gone) - 1, -1)
    return place[numbers], [name for name, is_gone in zip(names, gone, strict=True) if not is_gone], unknown


def _numbered(values: np.ndarray, count: int) -> np.ndarray:
    """Return groups that have names as their numbers."""
    if values.dtype.kind in "fbO":
        whole = np.array([float(v) if isinstance(v, int | float | np.number | np.bool_) else np.nan for v in values])
        if not are_whole(whole).all():
            raise JaxfairError("The groups are no whole numbers, but have names; give numbers, or no group_names.")
        values = whole.astype(int)
    if values.dtype.kind not in "iu":
        raise JaxfairError(f"The groups have type {values.dtype}, but names by number; give no group_names with them.")
    if values.size and not 0 <= values.min() <= values.max() < count:
        raise JaxfairError(
            f"There are {count} group names for groups {values.min()} to {values.max()}; give one for each."
        )
    return values


def _distinct(values: np.ndarray) -> tuple[list[Any], np.ndarray]:
    """Return the values that occur, in their order if they have one, and the place of each value among them."""
    if values.dtype.kind == "U":  # one text may be written in several forms of Unicode
        kinds, codes = np.unique(values, return_inverse=True)
        values = np.array([unicodedata.normalize("NFC", kind) for kind in kinds.tolist()])[codes]
    if values.dtype.kind != "O":
        kinds, codes = np.unique(values, return_inverse=True)
        return _as_python(kinds), codes
    values = np.array([_composed(value) for value in values] + [None], object)[:-1]  # or tuples become a row each
    try:
        found = dict.fromkeys(values.tolist())
    except TypeError as error:
        raise JaxfairError(UNORDERED) from error
    try:
        kinds = sorted(found)
    except TypeError:  # of several types, which have no common order
        kinds = list(found)
    place = {kind: i for i, kind in enumerate(kinds)}
    return kinds, np.array([place[value] for value in values.tolist()], int)


def _as_python(kinds: np.ndarray) -> list[Any]:
    """Return values as objects of Python; of times in the coarsest unit, for nanoseconds would become numbers."""
    if kinds.dtype.kind in "mM" and np.datetime_data(kinds.dtype)[0] != "generic":
        for unit in ("D", "s", "us"):
            coarse = kinds.astype(f"{kinds.dtype.kind}8[{unit}]")
            if (coarse == kinds).all():
                return coarse.tolist()
        return [str(kind) for kind in kinds]
    if kinds.dtype.kind == "f" and kinds.dtype.itemsize < 8:  # 0.1, and not the digits that this has in 64 bits
        return [float(str(kind)) for kind in kinds]
    return kinds.tolist()


def name_of(group: Any) -> str:
    """Return what a group is called that has this value, in a report and where one is asked for."""
    return _name(_composed(group))


def called(group: Any, names: Sequence[str]) -> str | None:
    """Return the name among these that a group of this value has; None if there is none.

    A column of days has no time of day in its names, where a value of pandas or of Python has one.
    """
    found = [name_of(group)]
    if isinstance(group, datetime) and group.time() == time():
        found.append(str(group.date()))
    return next((name for name in found if name in names), None)


def _composed(value: Any) -> Any:
    if isinstance(value, frozenset):  # sets have no order, and are written in another one in another process
        raise JaxfairError(UNORDERED)
    if isinstance(value, tuple):
        return tuple(map(_composed, value))
    if isinstance(value, np.generic):
        (value,) = _as_python(np.array([value]))
    return unicodedata.normalize("NFC", value) if isinstance(value, str) else value


def _name(kind: Any) -> str:
    if isinstance(kind, bytes):
        return kind.decode(errors="replace")
    whole = isinstance(kind, float | Decimal) and math.isfinite(kind) and abs(kind) < LONGEST and kind == int(kind)
    return str(int(kind) if whole else kind)
