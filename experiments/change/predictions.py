"""Predictions before and after a change, labels and groups, from files whose rows are joined by their ids.

Nothing is joined by position and nothing is guessed: an id that one side lacks, or has twice, stops the run by name.
"""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxfair.data import columns, tables
from jaxfair.data.columns import MISSING, Column, as_numbers, from_names, from_values, number
from jaxfair.data.layouts import arrays
from jaxfair.errors import JaxfairError, did_you_mean
from jaxfair.inputs import quoted

NPZ = ".npz"
RULED_OUT = ("-inf", "-infinity")
SUM, FEW_DIGITS = 1e-3, 0.05  # how far from 1 probabilities may add up, at least, and as rounded ones at most


class Names(NamedTuple):
    """What the columns are called.

    Attributes:
        id: of an example, in every file.
        label: its true class, in the file of the groups or in those of the predictions.
        group: its group, in the file of the groups; of several columns the intersections.
        predicted: the predicted class.
        logits, probabilities: what their columns begin with, before ``_`` and the name of the class.
    """

    id: str = "id"
    label: str = "label"
    group: tuple[str, ...] = ("group",)
    predicted: str = "predicted"
    logits: str = "logits"
    probabilities: str = "probabilities"


class Joined(NamedTuple):
    """The files' rows for the same n examples, as ``change_report`` takes them.

    Attributes:
        ids: of the examples, in this order.
        y: labels, numbers of ``classes``, shape (n,).
        classes: their names.
        group: names, of which None is missing, shape (n,).
        before, after: of each file logits of shape (n, classes), or predicted classes of shape (n,).
        notes: what a reader of the numbers must know, each one sentence.
    """

    ids: tuple[str, ...]
    y: np.ndarray
    classes: tuple[str, ...]
    group: np.ndarray
    before: list[np.ndarray]
    after: list[np.ndarray]
    notes: tuple[str, ...]


class _File(NamedTuple):
    """A file's columns by name, each of n cells, and the row of each id."""

    path: Path
    cells: Mapping[str, Sequence[Any]]
    row: Mapping[str, int]


class _Answers(NamedTuple):
    """What a file says of each example: texts of predicted classes, or scores of named classes, shape (n, c)."""

    path: Path
    predicted: list[str] | None
    scores: np.ndarray | None
    classes: tuple[str, ...]


def join(before: Sequence[Path], after: Sequence[Path], groups: Path, names: Names) -> Joined:
    """Read files and join their rows.

    Args:
        before: a file for each network before the change, CSV, Parquet or npz; several are runs, such as seeds.
        after: the same after it.
        groups: of the groups, and of the labels unless the other files have them; may know more examples.
        names: of the columns.

    Raises:
        JaxfairError: a file or column is not there; a name of columns that the user chose fits none; an id, label or
            prediction is missing; an id occurs twice, or on one side only; probabilities do not add up to 1; or the
            classes do not fit each other.
    """
    for side in (before, after):
        if twice := [path for i, path in enumerate(side) if path.resolve() in {one.resolve() for one in side[:i]}]:
            raise JaxfairError(f"'{twice[0]}' is given twice for one side, and is one run; give every file once.")
    people = _open(groups, names)
    sides = [_open(path, names) for path in (*before, *after)]
    ids = sorted(sides[0].row)
    for one in sides[1:]:
        _check_same(sides[0], one)
    if lacking := [name for name in ids if name not in people.row]:
        raise JaxfairError(f"'{groups}' has no row for {len(lacking)} of {len(ids)} ids: {quoted(lacking)}; add them.")
    label = _labels([people, *sides], ids, names)
    _check_named(sides, names)
    answers = [_answers(one, ids, names) for one in sides]
    wanted = [columns.nfc(name) for name in names.group]
    if twice := [name for i, name in enumerate(wanted) if name in wanted[:i]]:
        raise JaxfairError(f"The group column '{twice[0]}' is named twice; name it once.")
    # What nobody asks for is not read: it may be images.
    cells = {name: cells if name in wanted else [] for name, cells in people.cells.items() if name != names.id}
    group = columns.choose({name: from_values(of) for name, of in cells.items()}, wanted, "group")
    rows = [people.row[name] for name in ids]
    named = np.array([None if group.codes[i] == MISSING else group.names[group.codes[i]] for i in rows], object)
    y, classes, found, strange = _encoded(label, answers)
    if {"-1", "0"} <= set(group.names):  # as pandas codes a missing value
        strange.append(f"The group '-1' of '{groups.name}' counts as any other; leave missing ones empty.")
    more = len(people.row) - len(ids)
    notes = [f"{more:,} ids of '{groups.name}' have no prediction and are left out."] if more else []
    notes += strange
    for one in answers:
        if one.scores is not None and (tied := int(((one.scores == one.scores.max(axis=1)[:, None]).sum(1) > 1).sum())):
            notes.append(f"'{one.path.name}' has equal largest scores for {tied} ids, whose first class is predicted.")
    zero = [one.path.name for one in answers if one.scores is not None and np.isinf(one.scores).any()]
    if zero:
        notes.append(f"Some probabilities of {quoted(zero)} are 0, whose loss is infinite; losses are left out.")
        found = [a if a.ndim == 1 else a.argmax(axis=1) for a in found]
    return Joined(tuple(ids), y, classes, named, found[: len(before)], found[len(before) :], tuple(notes))


def _open(path: Path, names: Names) -> _File:
    """Read a file and find the row of each id."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise JaxfairError(f"'{path}' cannot be read: {error.strerror}; give a CSV, Parquet or npz file.") from error
    if path.suffix.lower() == NPZ:
        cells = _arrays(path)
    else:
        table = tables.parse(data, path, names.id)
        if table.ragged:
            raise JaxfairError(f"In '{path}', {table.ragged[0].name} {table.ragged[0].reason}; mend the row.")
        if repeated := [name for name in table.names if name and list(table.names).count(name) > 1]:
            raise JaxfairError(f"'{path}' has several columns named '{repeated[0]}'; rename all but one.")
        asked = {columns.nfc(name) for of in names for name in ([of] if isinstance(of, str) else of)}
        if passed := next((name for name in table.passed if name in asked), None):
            raise JaxfairError(
                f"In '{path}', the column '{passed}' {table.passed[passed]}; write one value in each row, of logits a "
                "column for each class."
            )
        cells = {name: cells for name, cells in zip(table.names, table.columns, strict=True) if name}
    ids = _texts(cells, names.id, path)
    for i, name in enumerate(ids, 1):
        if name is None:
            raise JaxfairError(
                f"Row {i} of '{path}' has no '{names.id}'; give every row its id (NA, None and the like are none)."
            )
    row = {str(name): i for i, name in enumerate(ids)}
    if len(row) < len(ids):
        twice = sorted({str(name) for i, name in enumerate(ids) if row[str(name)] != i})
        raise JaxfairError(f"'{path}' has {len(twice)} ids more than once: {quoted(twice)}; keep one row of each.")
    if not row:
        raise JaxfairError(f"'{path}' has a header but no rows; give a row for each example.")
    return _File(path, cells, row)


def _arrays(path: Path) -> dict[str, Sequence[Any]]:
    """Return the arrays of an npz file as columns; one of shape (n, c) has c of them, NAME_0, NAME_1 and so on."""
    found: dict[str, Sequence[Any]] = {}
    for given, array in arrays.named(path, "id=..., and the columns").items():
        name = columns.nfc(given)
        if array.ndim not in (1, 2):
            raise JaxfairError(f"The array '{name}' in '{path}' has shape {array.shape}; give (n,) or (n, classes).")
        parts: dict[str, Any] = (
            {name: array} if array.ndim == 1 else {f"{name}_{i}": column for i, column in enumerate(array.T)}
        )
        if twice := sorted(found.keys() & parts.keys()):
            raise JaxfairError(f"'{path}' has two columns '{twice[0]}', one of them in an array; rename one.")
        found |= parts
    if len({len(column) for column in found.values()}) > 1:
        raise JaxfairError(f"The arrays in '{path}' differ in length; give one row for each example.")
    return found


def _texts(cells: Mapping[str, Sequence[Any]], name: str, path: Path) -> list[str | None]:
    """Return a column as texts, None where a cell is missing."""
    if name not in cells:
        raise JaxfairError(f"'{path}' has no column '{name}'{did_you_mean(name, cells)}")
    column = from_values(cells[name])
    return [None if code == MISSING else column.names[code] for code in column.codes]


def _check_same(one: _File, other: _File) -> None:
    """Refuse two files of predictions unless they are of the same examples."""
    for first, second in ((one, other), (other, one)):
        if lacking := sorted(name for name in first.row if name not in second.row):
            raise JaxfairError(
                f"{len(lacking)} ids of '{first.path}' are missing in '{second.path}': {quoted(lacking)}; "
                "give predictions for the same examples."
            )


def _of(file: _File, name: str, ids: Sequence[str]) -> list[str]:
    """Return a column in the order of the ids; every cell must be known."""
    texts = _texts(file.cells, name, file.path)
    found = [texts[file.row[one]] for one in ids]
    if lacking := [one for one, text in zip(ids, found, strict=True) if text is None]:
        raise JaxfairError(
            f"'{file.path}' has no '{name}' for {len(lacking)} ids: {quoted(lacking)}; fill them in "
            "(NA, None and the like count as empty)."
        )
    return [str(text) for text in found]


def _labels(files: Sequence[_File], ids: Sequence[str], names: Names) -> list[str]:
    """Return the labels, of the first file that has them; where others have them, they must be the same."""
    have = [file for file in files if names.label in file.cells]
    if not have:
        raise JaxfairError(
            f"Neither '{files[0].path}' nor the predictions have a column '{names.label}' of the true classes"
            f"{did_you_mean(names.label, files[0].cells)}"
        )
    label = _of(have[0], names.label, ids)
    for other in have[1:]:
        again = _of(other, names.label, ids)
        exact = _tells_spellings(label, again)
        if unlike := [one for one, a, b in zip(ids, label, again, strict=True) if not _alike(a, b, exact)]:
            raise JaxfairError(
                f"'{have[0].path}' and '{other.path}' have other labels for {len(unlike)} ids: {quoted(unlike)}; "
                "mend one of them, or leave its column out."
            )
    return label


def _check_named(files: Sequence[_File], names: Names) -> None:
    """Refuse a name that the user gave and no file of predictions has: other columns would count in its place."""
    there = list(dict.fromkeys(name for file in files for name in file.cells))
    begin = list(dict.fromkeys(name.rpartition("_")[0] for name in there if "_" in name))
    for option, end, options in (("predicted", "", there), ("logits", "_", begin), ("probabilities", "_", begin)):
        name = getattr(names, option)
        fits = name in there if not end else any(one.startswith(f"{name}_") for one in there)
        if not fits and name != getattr(Names(), option):
            raise JaxfairError(
                f"No file of predictions has a column '{name}{end and '_CLASS'}', as --{option} says"
                f"{did_you_mean(name, options or there)}"
            )


def _answers(file: _File, ids: Sequence[str], names: Names) -> _Answers:
    """Return a file's logits if it has them, else its probabilities as logits, else its predicted classes."""
    kinds, default = (names.logits, names.probabilities), Names()
    there = [kind for kind in kinds if any(name.startswith(f"{kind}_") for name in file.cells)]
    if len(there) > 1:
        if names.probabilities != default.probabilities and names.logits == default.logits:
            kinds = (names.probabilities,)  # which the user has named
        elif names.logits == default.logits:
            raise JaxfairError(
                f"'{file.path}' has both {names.logits}_CLASS and {names.probabilities}_CLASS; leave one out, or "
                "rename those that count and name them by --logits or --probabilities."
            )
    for kind in kinds:
        if found := [name for name in file.cells if name.startswith(f"{kind}_")]:
            if len(found) < 2:
                raise JaxfairError(f"'{file.path}' has '{found[0]}' alone; give a column {kind}_CLASS for each class.")
            scores = np.array([_numbers(file, name, ids) for name in found]).T
            if (none := np.flatnonzero(np.isneginf(scores).all(axis=1))).size:
                raise JaxfairError(
                    f"All scores of id {ids[none[0]]} in '{file.path}' are -inf; give one class at least."
                )
            if kind == names.probabilities:
                scores = _as_logits(scores, max(_decimals(file.cells[name]) for name in found), file.path, ids)
            classes = tuple(name.removeprefix(f"{kind}_") for name in found)
            if names.predicted in file.cells:
                said = _of(file, names.predicted, ids)
                scores = _as_predicted(said, scores, classes, file.path, names.predicted)
            return _Answers(file.path, None, scores, classes)
    if names.predicted not in file.cells:
        raise JaxfairError(
            f"'{file.path}' has no column '{names.predicted}', and none that begin with '{names.logits}_' or "
            f"'{names.probabilities}_', but {quoted([*file.cells], 8)}; say by --predicted, --logits or "
            "--probabilities what yours are called."
        )
    return _Answers(file.path, _of(file, names.predicted, ids), None, ())


def _as_predicted(said: Sequence[str], scores: np.ndarray, classes: Sequence[str], path: Path, name: str) -> np.ndarray:
    """Return scores of which those of the predicted classes are the largest, in ties by the least that there is.

    A file whose predicted classes are not among those of its largest scores is refused.
    """
    scores, top, unlike = scores.copy(), scores.max(axis=1), 0
    exact = _tells_spellings(said, classes)
    columns_of = {text: [i for i, one in enumerate(classes) if _alike(one, text, exact)] for text in set(said)}
    for i, text in enumerate(said):
        if not (of := [j for j in columns_of[text] if scores[i, j] == top[i]]):
            unlike += 1
        elif (scores[i] == top[i]).sum() > 1:
            scores[i, of[0]] = np.nextafter(top[i], np.inf)
    if unlike:
        raise JaxfairError(
            f"'{path}' has a column '{name}' which is not the class of the largest score for {unlike} of {len(said)} "
            "ids; leave out the column, or the scores."
        )
    return scores


def _alike(one: str, other: str, exact: bool = False) -> bool:
    """Whether two names are one class: the same text or, unless ``exact``, the same number as 1 and 1.0 are."""
    return one == other or (not exact and number(one) is not None and number(one) == number(other))


def _tells_spellings(*columns: Sequence[str]) -> bool:
    """Whether some column has two spellings of one number, as codes such as 007 and 7 are: they are two classes."""
    for column in columns:
        numbers = [found for text in set(column) if (found := number(text)) is not None]
        if len(set(numbers)) < len(numbers):
            return True
    return False


def _numbers(file: _File, name: str, ids: Sequence[str]) -> np.ndarray:
    """Return a column of scores in the order of the ids; -inf rules a class out."""
    cells = file.cells[name]
    if isinstance(cells, np.ndarray) and cells.dtype.kind in "fiu":
        found = np.asarray(cells)[[file.row[one] for one in ids]].astype(float)
        texts: Any = found
    else:
        texts = _of(file, name, ids)
        found = np.array([-np.inf if text.lower() in RULED_OUT else number(text) for text in texts], float)
    wrong = np.isnan(found) | np.isposinf(found)
    if wrong.any():
        i = int(np.argmax(wrong))
        raise JaxfairError(f"'{name}' of id {ids[i]} in '{file.path}' is '{str(texts[i])[:30]}'; give a finite number.")
    return found


def _decimals(cells: Sequence[Any]) -> int:
    """Return the digits behind the point of a column of texts; of numbers, as many as they have in 32 bits."""
    texts = [cell.partition(".")[2] for cell in cells if isinstance(cell, str) and "e" not in cell.lower()]
    return max(map(len, texts)) if len(texts) == len(cells) else 7


def _as_logits(probabilities: np.ndarray, decimals: int, path: Path, ids: Sequence[str]) -> np.ndarray:
    """Return the logarithms of probabilities, which are logits of them; they add up to 1 but for their rounding."""
    rounding = np.clip(probabilities.shape[1] * 0.5 * 10.0**-decimals * (1 + 1e-9), SUM, FEW_DIGITS)
    wrong = np.abs(probabilities.sum(axis=1) - 1) > rounding
    if wrong.any():
        i = int(np.argmax(wrong))
        raise JaxfairError(
            f"The probabilities of id {ids[i]} in '{path}' are {quoted(probabilities[i].round(4))}, which do not add "
            "up to 1; if they are logits, name their columns logits_CLASS, or say so by --logits."
        )
    if (below := (probabilities < 0).any(axis=1)).any():
        i = int(np.argmax(below))
        raise JaxfairError(
            f"A probability of id {ids[i]} in '{path}' is {probabilities[i].min():.3g}, below 0; clip what is left of "
            "rounding at 0."
        )
    with np.errstate(divide="ignore"):
        return np.log(probabilities)


def _encoded(
    label: Sequence[str], answers: Sequence[_Answers]
) -> tuple[np.ndarray, tuple[str, ...], list[np.ndarray], list[str]]:
    """Return labels as numbers, the names of the classes, answers in their order, and sentences on strange classes.

    Classes that all are numbers are the same where their numbers are, as 1 and 1.0, unless one column has both.
    """
    texts = [label, *(one.classes if one.predicted is None else one.predicted for one in answers)]
    every = from_names([text for some in texts for text in some])
    if not _tells_spellings(*texts):
        with contextlib.suppress(JaxfairError):
            every = as_numbers(every, "class")
    parts = np.split(every.codes, np.cumsum([len(some) for some in texts])[:-1])
    y, found, notes = parts[0], [], []
    for one, codes in zip(answers, parts[1:], strict=True):
        notes += _never(one.path.name, every, codes, y)
        if one.scores is None:
            _check_whole(one.path, _present(every, codes), _present(every, y))
            if not np.isin(codes, y).any():
                raise JaxfairError(
                    f"No class that '{one.path}' predicts ({quoted(_present(every, codes))}) is a label "
                    f"({quoted(_present(every, y))}); write both in the same way."
                )
            _check_spelling(one.path, _present(every, np.setdiff1d(codes, y)), _present(every, y))
            found.append(codes)
            continue
        if sorted(codes) != list(range(len(every.names))):
            lacking = [every.names[i] for i in np.setdiff1d(np.arange(len(every.names)), codes)]
            raise JaxfairError(
                f"'{one.path}' has scores of {quoted([every.names[i] for i in codes])}, but not of {quoted(lacking)}; "
                "give every file a column for each class."
            )
        found.append(one.scores[:, np.argsort(codes)])
    return y, every.names, found, notes


def _check_whole(path: Path, predicted: Sequence[str], labels: Sequence[str]) -> None:
    """Refuse scores of one class in the place of predicted classes, some of which may be exactly 0 or 1."""
    parts = [one for one in predicted if (found := number(one)) is not None and found != int(found)]
    if parts and all((found := number(one)) is not None and found == int(found) for one in labels):
        raise JaxfairError(
            f"'{path}' has one number for an id, such as {parts[0]}, which is no class; give predicted classes, or "
            "columns probabilities_CLASS or logits_CLASS for each class."
        )


def _check_spelling(path: Path, strange: Sequence[str], labels: Sequence[str]) -> None:
    """Refuse predicted classes that are no label, but one when written in another way."""
    for name in strange:
        for label in labels:
            if name.strip().casefold() == label.strip().casefold() or _alike(name, label):
                raise JaxfairError(
                    f"'{path}' predicts '{name}', which is no label, but '{label}' is; write both in the same way."
                )


def _never(file: str, every: Column, codes: np.ndarray, y: np.ndarray) -> list[str]:
    """Return a sentence on the classes of a file that are never a label, if there are any."""
    strange = _present(every, np.setdiff1d(codes, y))
    return [f"'{file}' knows classes that are never a label: {quoted(strange)}."] if strange else []


def _present(column: Column, codes: np.ndarray) -> list[str]:
    return [column.names[i] for i in np.unique(codes)]
