"""What a network of any framework says of examples: its predicted classes, and losses where there are logits.

The door of ``change_report``: a side is a network in JAX, or what one answered elsewhere, and is checked here, once.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxfair import losses
from jaxfair.curvature.checks import trusted_logits, trusted_losses
from jaxfair.curvature.programs import LossFn, as_pytree
from jaxfair.errors import JaxfairError, warn
from jaxfair.inputs import are_whole, as_values, column_names, is_one_hot, on_host, out_of_order, quoted, unboxed
from jaxfair.labels import as_labels, fill_left_out
from jaxfair.models import as_examples

NO_CLASS = ("id", "index", "unnamed: 0", "group", "label", "predicted")
"""Columns of a table that say something else of an example than the score of a class."""
FEW_ROWS = 10
"""Examples, below which a class may have whole numbers alone by chance or because somebody typed them."""


class Answers(NamedTuple):
    """One network on n examples.

    Attributes:
        predicted: Predicted classes, shape (n,).
        loss: Loss of each example, shape (n,); None where there are no logits.
        classes: Number of classes; None where there are no logits.
    """

    predicted: np.ndarray
    loss: np.ndarray | None
    classes: int | None


def as_runs(side: Any) -> list[Any]:
    """Return the runs of a side: the items of a list, unless these are the classes of one run."""
    one = not isinstance(side, list) or not side or np.isscalar(side[0]) or getattr(side[0], "ndim", None) == 0
    return [side] if one else side


def is_network(given: Any) -> bool:
    """Return whether a side is a pair ``(logits_fn, params)``, and no array of answers."""
    return isinstance(given, tuple) and len(given) == 2 and callable(given[0])


def as_network(given: tuple[Any, Any], x: Any, y: np.ndarray, loss: LossFn) -> tuple[Any, Any, Any, Any]:
    """Return a network and examples as arrays that fit each other: its function as a pytree, parameters, x and y."""
    logits_fn = as_pytree(given[0])
    return logits_fn, *as_examples(logits_fn, given[1], x, y, labelled=losses.takes_classes(loss))


def read(given: Any, x: Any, y: np.ndarray, told: Any, kept: np.ndarray, loss: LossFn, which: str) -> Answers:
    """Return what one network says of the examples that are kept.

    Args:
        given: A pair ``(logits_fn, params)``, logits of shape (n, classes), or predicted classes of shape (n,) or
            as one-hot rows of integers or booleans.
        x: Inputs, n examples along the first axis; None where there are none.
        y: Labels, shape (n,).
        told: What the loss is told of them: these, or rows of a loss that takes others.
        kept: Which examples count, booleans of shape (n,).
        loss: ``(logits, told) -> losses``.
        which: What the side is called in an error, ``before`` or ``after``.

    Raises:
        JaxfairError: A shape does not fit, or an answer is neither a logit nor a class.
    """
    if is_network(given):
        if x is None:
            raise JaxfairError(f"The side {which} is a network, but there are no inputs x; give them, or its logits.")
        answers = _computed(given, x, told, loss)
    elif callable(given) or (isinstance(given, list | tuple) and given and callable(given[0])):
        raise JaxfairError(f"The side {which} is a function; give (logits_fn, params), as (frozen(net), net.params).")
    else:
        answers = _given(given, y, which)
    if answers.ndim not in (1, 2) or len(answers) != len(y):
        raise JaxfairError(
            f"The side {which} has answers of shape {answers.shape} for {len(y)} labels; give logits of shape (n, "
            "classes) or predicted classes of shape (n,), in the order of the labels. A list holds runs."
        )
    if not is_network(given) and (answers.ndim == 1 or answers.shape[1] == 1):
        classes = fill_left_out(_classes(answers, which), kept)
        return Answers(np.asarray(as_labels(classes, what=f"class {which}")[kept]), None, None)
    answers = answers.reshape(len(y), -1)[kept]
    logits = _single(answers, loss)
    # A class that a network rules out has a logit of -inf, and cross-entropy a value for every other label.
    fine = (np.isfinite(logits) | (np.isneginf(answers) & ~np.isnan(logits) & losses.takes_classes(loss))).all(axis=1)
    if not fine.all():
        bad = int(np.flatnonzero(kept)[np.argmin(fine)])
        raise JaxfairError(f"A logit of example {bad} {which} is not a finite number; check its input and the network.")
    if before := losses.seem_probabilities(answers):
        said = f"The side {which} seems to hold probabilities; give the logits before the {before}."
        warn(said)
    found = trusted_losses(loss, logits, told[kept])
    unknown = np.isnan(found) & (y[kept] < max(answers.shape[1], 2))  # a class without a logit is said of all sides
    if unknown.any():
        bad = int(np.flatnonzero(kept)[np.argmax(unknown)])
        raise JaxfairError(f"The loss of example {bad} {which} is not a number; check the loss and its label.")
    return Answers(_predicted(answers, loss, told[kept]), found, max(answers.shape[1], 2))


def _single(answers: np.ndarray, loss: LossFn) -> np.ndarray:
    """Return logits as a loss takes them, in 32 bits or more: in half of these a small loss is rounded to 0.

    To cross-entropy they are the same without what all of an example's have in common, which would take its digits.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if losses.takes_classes(loss):
            answers = answers.astype(np.float64) - answers.max(axis=1, keepdims=True).astype(np.float64)
        wide = jax.dtypes.canonicalize_dtype(np.float64) == np.float64 and answers.dtype == np.float64
        return answers.astype(np.float64 if wide else np.float32)


def _given(given: Any, y: np.ndarray, which: str) -> np.ndarray:
    """Return answers as an array; a column that names the examples of a table is no class."""
    columns = column_names(given)
    if len(columns) > 1 and (no_class := [name for name in columns if name.strip().lower() in NO_CLASS]):
        raise JaxfairError(f"The side {which} has a column '{no_class[0]}', which is no class; leave it out.")
    if names := out_of_order(given):
        raise JaxfairError(f"The side {which} has columns {quoted(names)}; give the classes in their order.")
    answers = unboxed(on_host(given, f"answers {which}"))
    if answers.ndim == 2 and (no_score := np.flatnonzero(_are_whole(answers))).size:
        name = f"'{columns[no_score[0]]}'" if columns else f"{no_score[0]}"
        raise JaxfairError(
            f"The side {which} has a column {name} of whole numbers beside others, as ids, labels or groups are; leave "
            "it out, or, if it is the score of a class, add 0.1 to all scores, which says the same."
        )
    if answers.ndim == 2 and answers.dtype.kind in "biu" and len(answers) and is_one_hot(answers):
        return answers.argmax(axis=1)
    if answers.ndim == 2 and answers.shape[1] > 1 and answers.size and _are_runs(answers, int(y.max(initial=0))):
        raise JaxfairError(
            f"The side {which} has columns of whole numbers up to {answers.max():g}, as predicted classes of several "
            "runs are; give a list of runs, or floating-point logits."
        )
    if answers.ndim == 1 and answers.dtype == bool and y.max(initial=0) > 1:
        raise JaxfairError(
            f"The side {which} has booleans, and the labels run to {y.max()}; give predicted classes, not whether they "
            "are right."
        )
    if answers.ndim == 2 and answers.dtype.kind != "f":
        answers = as_values(answers, f"answers {which}").astype(np.float32)
    return answers


def _are_whole(answers: np.ndarray) -> np.ndarray:
    """Return which columns hold whole numbers, several of them, where others do not, as logits seldom do.

    A class that is switched off has one number alone, which may be infinite, numbers of half precision are whole where
    they are large, and those of a few rows may be whole by chance.
    """
    if answers.dtype.kind != "f" or answers.dtype.itemsize < 4 or len(answers) < FEW_ROWS:
        return np.zeros(answers.shape[1], bool)
    whole = are_whole(answers).all(axis=0)
    several = np.array([len(np.unique(column)) > 2 for column in answers.T], bool)
    return whole & several & (np.isfinite(answers) & (answers != np.round(answers))).any()


def _are_runs(answers: np.ndarray, most: int) -> bool:
    """Return whether columns are predicted classes of several runs, of which the largest would be the class.

    So are whole numbers that may be classes; of a floating-point type only where several columns have the largest in
    more than one row of ten, as runs that agree have it, and logits have not.
    """
    if answers.dtype.kind not in "biuf" or not 0 <= answers.min() <= answers.max() <= most:
        return False
    if answers.dtype.kind != "f":
        return True
    several = (answers == answers.max(axis=1, keepdims=True)).sum(axis=1) > 1
    return bool(are_whole(answers).all() and answers.max() > 0 and several.mean() > 0.1)


def _computed(given: tuple[Any, Any], x: Any, y: Any, loss: LossFn) -> np.ndarray:
    logits_fn, params, x, y = as_network(given, x, y, loss)
    return trusted_logits(logits_fn, params, x, y, "highest", 256)


def _classes(answers: np.ndarray, which: str) -> np.ndarray:
    """Return answers that are to be classes, unless they are scores of one class, which say no class."""
    if answers.dtype.kind == "f" and np.isfinite(answers).all() and (answers != np.round(answers)).any():
        odd = answers.ravel()[np.argmax(answers.ravel() != np.round(answers.ravel()))]
        raise JaxfairError(
            f"The side {which} has one number for each example, such as {odd:.3g}, which is no class; give predicted "
            "classes, or logits with a column for each class."
        )
    return answers


def _predicted(logits: np.ndarray, loss: LossFn, told: np.ndarray) -> np.ndarray:
    """Return predicted classes; one logit is that of the second of two classes, if the loss takes it so."""
    if logits.shape[1] > 1:
        return logits.argmax(axis=1)
    if losses.takes_classes(loss):
        raise JaxfairError("The network has one logit, whose cross-entropy is 0; give a loss for two classes.")
    return losses.says_second(loss, logits, told).astype(int)


def check_columns(sides: list[list[Any]]) -> None:
    """Refuse tables whose columns have the same names in another order: classes are read by their position."""
    tables = [names for some in sides for side in some if (names := column_names(side))]
    for other in tables[1:]:
        if sorted(other) == sorted(tables[0]) and other != tables[0]:
            raise JaxfairError(f"Tables have the columns {quoted(tables[0])} and {quoted(other)}; give one order.")


def check_classes(sides: list[list[Answers]], y: np.ndarray) -> int:
    """Refuse networks of unlike classes, and classes without a logit; warn of one that says one class only.

    Returns:
        The number of classes, of which the last one is a label or said by a network, or has a logit.
    """
    classes = {side.classes for some in sides for side in some if side.classes is not None}
    if len(classes) > 1:
        given = " and ".join(map(str, sorted(classes)))
        raise JaxfairError(f"The networks have {given} classes; compare networks for the same ones.")
    most = max(int(y.max(initial=0)), *(int(side.predicted.max(initial=0)) for some in sides for side in some))
    for width in classes:
        if most >= width:
            raise JaxfairError(f"There are classes up to {most} and {width} logits; give a logit for each class.")
    said = [side.predicted for some in sides for side in some]
    if len(y) and y.min() == 1 and min(of.min() for of in said) == 0 and max(of.max() for of in said) < y.max():
        warn(f"The labels run from 1 to {y.max()} and the predicted classes from 0; count both from 0.")
    if len(y) and y.min() == 0 and min(of.min() for of in said) == 1 and most > y.max():
        warn(f"The labels run from 0 to {y.max()} and the predicted classes from 1 to {most}; count both from 0.")
    for some, which in zip(sides, ("before", "after"), strict=True):
        if len(y) > 1 and any(len(np.unique(side.predicted)) == 1 for side in some):
            warn(f"A network {which} predicts one class for all examples.")
    return max([most + 1, *classes])
