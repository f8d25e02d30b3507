"""What is known of every image of a source, as columns of names; columns become labels and groups."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from jaxfair.errors import MISSING_TEXTS, JaxfairError, did_you_mean, short

MISSING = -1
JOINT = " & "
PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
PARTS |= dict.fromkeys(("val", "valid", "validation", "dev"), "validation")

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


class Column(NamedTuple):
    """One property of every image.

    Attributes:
        codes: The index into ``names`` of each image, shape (n,); ``MISSING`` where nothing is known.
        names: The values in order; there are none where nothing is known.
    """

    codes: Int[np.ndarray, " n"]
    names: tuple[str, ...]


class Rejected(NamedTuple):
    """A file, row or cell that cannot be used.

    Attributes:
        name: The name of the file, or where the row stands.
        reason: Half a sentence: ``is cut short``.
    """

    name: str
    reason: str


class Index(NamedTuple):
    """What is known of the images of a source.

    Attributes:
        title: What tables and pages call the set, true of what is there: ``SVHN, 1,083-image subset``.
        names: The names of the n images in order, for messages.
        columns: Properties of the images, by name, each with n codes.
        stream: A function that yields ``(row, pixels)`` once for every image, in the order in which reading is fast;
            pixels are an encoded file as bytes, or a uint8 array of shape (h, w) or (h, w, c). None comes from the
            cache, where images are decoded already.
        split: The official part of each image, with names out of ``train``, ``test`` and ``validation``; None if there
            is no official split.
        size: Height, width and channels if all images are known to have the same; None otherwise.
        left_out: What the layout leaves out on purpose, to be reported.
        rejected: What does not fit together, which stops the run unless the user allows to drop it.
        unreadable: The reason for each row that could not be decoded, known when all are decoded.
    """

    title: str
    names: Sequence[str]
    columns: Mapping[str, Column]
    stream: Callable[[], Iterator[tuple[int, Any]]] = lambda: iter(())
    split: Column | None = None
    size: tuple[int, int, int] | None = None
    left_out: tuple[Rejected, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    unreadable: Mapping[int, str] = MappingProxyType({})


def from_values(values: Sequence[Any] | np.ndarray) -> Column:
    """Return the column of cells, which are strings or numbers.

    None, NaN, masked values and ``MISSING_TEXTS`` are missing. Text keeps its spelling, without blanks around it: "7",
    "007" and "7.0" are three values, which ``as_numbers`` makes one. Numbers that are whole are written so.
    """
    return _encoded([_text(value) for value in values])


def from_names(names: Sequence[str]) -> Column:
    """Return the column of names that are no cells, such as those of folders: none is missing, even ``NA``.

    Raises:
        JaxfairError: A name is not UTF-8.
    """
    for name in set(names):  # few, of many images
        try:
            name.encode()
        except UnicodeEncodeError as error:
            shown = name.encode("utf-8", "surrogateescape")
            raise JaxfairError(f"The name {shown!r} is not UTF-8, and so cannot be shown; rename it.") from error
    return _encoded([nfc(name) for name in names])


def as_numbers(column: Column, name: str) -> Column:
    """Return a column with its values read as numbers, so that "7", "007" and "7.0" are one value, named ``7``.

    Args:
        column: The column of which the user says that it is numeric.
        name: What it is called, for the message.

    Raises:
        JaxfairError: A value is no finite number.
    """
    numbers = [number(text) for text in column.names]
    for text, found in zip(column.names, numbers, strict=True):
        if found is None:
            raise JaxfairError(
                f"The column '{name}' is to be numeric, but has the value '{short(text, 40)}'; "
                "leave this column out of numeric, or mend its cells."
            )
    values = from_values(numbers)
    return Column(np.append(values.codes, np.int32(MISSING))[column.codes], values.names)  # the last is for MISSING, -1


def nfc(text: str) -> str:
    """Return text in Unicode's composed form: macOS stores the names of files in the other, which looks the same."""
    return unicodedata.normalize("NFC", text)


def combine(columns: Sequence[Column]) -> Column:
    """Return the intersections of columns: ``Male & Blond``; only those that occur, in order of the columns' values."""
    if len(columns) == 1:
        return columns[0]
    codes = np.stack([column.codes for column in columns])
    known = (codes != MISSING).all(axis=0)
    present, inverse = np.unique(codes[:, known], axis=1, return_inverse=True)
    names = [JOINT.join(column.names[i] for column, i in zip(columns, index, strict=True)) for index in present.T]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise JaxfairError(f"Two intersections are called '{twice[0]}'; rename values that hold '{JOINT.strip()}'.")
    out = np.full(len(known), MISSING, np.int32)
    out[known] = inverse.reshape(-1)
    return Column(out, tuple(names))


def merge_below(column: Column, count: int, name: str = "other") -> Column:
    """Merge the values with fewer than ``count`` images into one, which comes last."""
    counts = np.bincount(column.codes[column.codes != MISSING], minlength=len(column.names))
    rare = counts < count
    if rare.sum() < 2:  # one alone would only lose its name
        return column
    code = np.where(rare, (~rare).sum(), np.cumsum(~rare) - 1)
    kept = tuple(value for value, is_rare in zip(column.names, rare, strict=True) if not is_rare)
    while name in kept:
        name = f"merged {name}"
    return Column(np.where(column.codes == MISSING, MISSING, code[column.codes]).astype(np.int32), (*kept, name))


def select(column: Column, rows: Int[np.ndarray, " m"]) -> Column:
    """Return the column of some rows, without the values that none of them has."""
    codes = column.codes[rows]
    present = np.unique(codes[codes != MISSING])
    code = np.full(len(column.names) + 1, MISSING, np.int32)  # the last entry is what MISSING, -1, finds
    code[present] = np.arange(len(present))
    return Column(code[codes], tuple(column.names[i] for i in present))


def choose(columns: Mapping[str, Column], names: Sequence[str], what: str) -> Column:
    """Return the intersection of the named columns.

    Raises:
        JaxfairError: There is no such column; the nearest names are shown.
    """
    for name in names:
        if not columns:
            raise JaxfairError(f"There is no {what} column '{name}', since nothing is known of the images but pixels.")
        if name not in columns:
            raise JaxfairError(f"There is no {what} column '{name}'{did_you_mean(name, columns)}")
    return combine([columns[name] for name in names])


def official_split(column: Column | None) -> Column | None:
    """Return the parts ``train``, ``test`` and ``validation`` that a column says.

    Args:
        column: A column whose values may be the names in ``PARTS``, in any case; None says nothing.

    Returns:
        The split, or None where no value is one of them (see ``no_split``), or all are one part, which is no split.

    Raises:
        JaxfairError: Some values are parts and others are not, or are missing: what was held out would be trained on.
    """
    if column is None:
        return None
    parts = [PARTS.get(name.lower(), "") for name in column.names]
    names = tuple(part for part in ("train", "test", "validation") if part in parts)
    others = [name for name, part in zip(column.names, parts, strict=True) if not part]
    missing = int((column.codes == MISSING).sum())
    if names and (others or missing):
        given = f"the value '{short(others[0], 40)}' too" if others else f"no value in {missing} rows"
        raise JaxfairError(
            f"The column of the split says {' and '.join(names)}, but {given}; give train, test or validation to all."
        )
    if len(names) < 2:
        return None
    code = np.array([*map(names.index, parts), MISSING], np.int32)  # the last entry is what MISSING, -1, finds
    return Column(code[column.codes], names)


def of_column(name: str) -> str:
    """Return how a column is named where something is said of it (``Rejected``)."""
    return f"the column '{name}'"


def no_split(columns: Mapping[str, Column]) -> tuple[Rejected, ...]:
    """Return what is to be said where no official part is: a ``split`` that says none, or one of another name."""
    column = columns.get("split")
    if column is None:
        mixed = "of a set, which are mixed:"
        why = f"names the parts {mixed} call it 'split' to keep its test rows out of training"
        said = {name: why for name, other in columns.items() if _says_parts(other)}
        why = f"seems to say a part {mixed} write a column 'split' of train and test to keep test rows out of training"
        said |= {name: why for name in columns if name.lower().removeprefix("is_") in PARTS}
        return tuple(Rejected(of_column(name), reason) for name, reason in said.items())
    if len(column.names) < 2 or any(name.lower() in PARTS for name in column.names):
        return ()
    few = ", ".join(name[:20] for name in column.names[:3])
    return (Rejected(of_column("split"), f"says {few}, none of which is train, test or validation: it is no split"),)


def _says_parts(column: Column) -> bool:
    """Return whether all values are names of parts, of training images and of others."""
    parts = {PARTS.get(name.lower()) for name in column.names}
    return "train" in parts and None not in parts and len(parts) > 1


def _encoded(texts: Sequence[str | None]) -> Column:
    """Return the column of texts, of which None are missing; texts that read as numbers sort as such."""
    names = sorted({text for text in texts if text is not None}, key=_by_number)
    code = {name: i for i, name in enumerate(names)}
    return Column(np.array([MISSING if t is None else code[t] for t in texts], np.int32), tuple(names))


def _text(value: Any) -> str | None:
    if value is None or value is np.ma.masked or (isinstance(value, float | np.floating) and np.isnan(value)):
        return None
    if isinstance(value, dict) and any(_text(part) is None for part in value.values()):  # of Parquet's records
        return None
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)  # a column of whole numbers with a gap is read as floats
    if isinstance(value, Decimal) and value.is_finite() and value == value.to_integral_value():
        value = int(value)
    text = nfc((_decoded(value) if isinstance(value, bytes) else str(value)).strip())
    return None if text.lower() in MISSING_TEXTS else text


def _decoded(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:  # two of them would become one text
        raise JaxfairError(f"The cell {value[:20]!r} is bytes, and not text in UTF-8; give texts.") from error


def number(text: str) -> int | float | None:
    """Return the number that a text is: a whole one is exact, also with a point; None for all else."""
    if not _NUMBER.fullmatch(text):
        return None
    try:
        return int(text)
    except ValueError:  # with a point or an exponent, or of more digits than Python reads
        found = float(text)
        if not np.isfinite(found):
            return None
        exact = "e" not in text.lower() and 2**53 <= abs(found) < 1e25  # as others write whole codes
        return int(Decimal(text)) if exact and Decimal(text) == Decimal(text).to_integral_value() else found


def _by_number(text: str) -> tuple[int, float, str]:
    try:
        number = float(text)
    except ValueError:
        number = np.nan
    return (0, number, text) if np.isfinite(number) else (1, 0.0, text)
