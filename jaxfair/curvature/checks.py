"""What a user's model has to be before its curvature means anything: run and compared, refused in a sentence."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxfair import losses, models
from jaxfair.curvature.chunks import over_chunks
from jaxfair.curvature.programs import LossFn, at_precision, per_example
from jaxfair.errors import JaxfairError, warn
from jaxfair.inputs import quoted

EPSILON = float(np.finfo(np.float32).eps)
FEW = 8  # examples of which a loss of the user's is asked, together and apart


def trusted_logits(logits_fn: Partial, params: Any, x: Any, y: Any, precision: str, size: int) -> np.ndarray:
    """Return the logits of all examples, computed twice, and once more in batches cut differently."""
    count = len(y)

    def run(start: int, size: int) -> np.ndarray:
        def gather(index: np.ndarray) -> Any:
            index = (index + start) % count
            return jax.tree.map(lambda leaf: leaf[index], x)

        with at_precision(precision), models.asking("logits_fn(params, x)", models.LOGITS_FN):
            found = over_chunks(
                lambda fixed, some: models.outputs(*fixed, some), (logits_fn, params), gather, count, size
            )
            return np.roll(found, start, axis=0)

    size = min(size, count)
    with at_precision(precision), models.asking("logits_fn(params, x)", models.LOGITS_FN):
        given = jax.eval_shape(logits_fn, params, jax.tree.map(lambda leaf: leaf[:size], x))
    shape = getattr(given, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != size:
        what = "no array" if shape is None else f"shape {shape}"
        raise JaxfairError(f"logits_fn returned {what} for {size} examples; expected (n, classes).")
    # The third time every example has other neighbours and their number is another, even if all fit into one batch.
    first, again, shifted = run(0, size), run(0, size), run(max(1, size // 3), max(1, size // 2))
    if not np.array_equal(first, again, equal_nan=True):
        raise JaxfairError(
            "logits_fn gave two results for the same input; switch dropout and other randomness off (evaluation mode)."
        )
    coarse = precision != "highest" and jax.default_backend() != "cpu"
    last = float(jnp.finfo(given.dtype).eps)  # logits of half precision may differ by several of their last places
    difference = change_of_logits(first, shifted, max(1e-3 if coarse else ROUNDING, 4 * last), max(last, EPSILON))
    # Another batch position may change the rounding, by far less than this; training-mode batch norm changes percents.
    if difference > 1e-3:
        raise JaxfairError(
            f"The logits of an example changed by {difference:.1e} of their size with the rest of its batch; put batch "
            "norm and dropout into evaluation mode."
        )
    return first


ROUNDING = 64 * EPSILON
"""By how much logits may differ that are the same, relative to an example's largest."""


def change_of_logits(first: np.ndarray, other: np.ndarray, rounding: float = ROUNDING, last: float = EPSILON) -> float:
    """Return by how much logits differ: relative to their size, or as probabilities, whichever is more.

    The size of a logit is its own and its column's usual distance from the column's middle: columns of other units, or
    one example of huge logits, would hide any change from the largest of all. What rounding moves, relative to an
    example's largest logit that is none of a class switched off, is no change; nor is a probability's by some of the
    last places of such a logit, of relative size ``last``.
    """
    finite = np.isfinite(first) & np.isfinite(other)  # a class may be switched off by minus infinity
    one, two = (np.where(finite, logits, 0) for logits in (first, other))
    sizes, usual = np.abs(one), np.median(np.abs(one - np.median(one, axis=0)), axis=0)
    noise = rounding * np.where(_switched_off(one, two), 0, sizes).max(axis=1, initial=0.0, keepdims=True)
    relative = ((np.abs(one - two) - noise) / (sizes + usual + 1e-30)).max(initial=0.0)
    scores = [np.asarray(jax.nn.softmax(jnp.asarray(logits))) for logits in (first, other)]
    counts = np.abs(np.where(scores[0] > 1e-6, first, 0)).max(axis=1)
    moved = np.abs(scores[0] - scores[1]).max(axis=1) - 4 * last * counts
    return float(max(relative, np.nanmax(moved, initial=0.0)))


def _switched_off(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return which logits are of a class that is switched off by a number: the farthest from 0, twice and the same."""
    farthest = np.abs(one).max(initial=0.0)
    off = (np.abs(one) == farthest) & (one == two)
    return off if off.sum() > 1 else np.zeros(off.shape, bool)


def rounding_of(loss: LossFn, logits: np.ndarray, y: Any, whole: np.ndarray) -> np.ndarray:
    """Return by how much rounding may move each example's loss: several times what its logits' last bits do.

    So it has the loss's own scale, and a class that is switched off by a huge logit adds nothing.
    """
    signs = np.random.default_rng(0).choice([-1.0, 1.0], logits.shape)
    nudged = [(logits * (1 + 16 * EPSILON * sign * signs)).astype(logits.dtype) for sign in (-1, 1)]
    found = [np.asarray(loss(jnp.asarray(near), y), np.float64) for near in nudged]
    with np.errstate(invalid="ignore"):
        moved = np.max([np.abs(near - whole) if near.shape == whole.shape else 0 * whole for near in found], axis=0)
    return 4 * np.nan_to_num(moved, nan=0.0, posinf=0.0)


def trusted_losses(loss: LossFn, logits: np.ndarray, y: Any) -> np.ndarray:
    """Return the loss of each example, the same whatever other examples it is computed with."""
    y = jnp.asarray(y)
    with models.asking("The loss(logits, y)", "one that takes the outputs of logits_fn and the labels, as given"):
        kind = jax.eval_shape(functools.partial(per_example, loss), jnp.asarray(logits), y).dtype
    if not jnp.issubdtype(kind, jnp.floating):
        raise JaxfairError(f"The loss has type {kind}, which has no derivative; give one of floating-point numbers.")
    whole = np.asarray(loss(jnp.asarray(logits), y), np.float64)
    if losses.takes_classes(loss):  # of which it is known
        return whole
    allowed = 1e-3 * np.abs(whole) + rounding_of(loss, logits, y, whole)
    for part in _parts(whole, np.asarray(y)):
        found = np.asarray(loss(jnp.asarray(logits[part]), y[part]), np.float64)
        with np.errstate(invalid="ignore"):
            same = found.shape == whole[part].shape and (
                (found == whole[part]) | (np.abs(found - whole[part]) <= allowed[part]) | np.isnan(whole[part])
            )
        if not np.all(same):
            raise JaxfairError(
                "The loss of an example depends on which others it is computed with, such as by class weights divided "
                "by the batch's; give one number for each example that is its own, without dividing by the batch."
            )
    return whole


def _parts(whole: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """Yield examples to ask the loss of again: a third, the rest, and some with nothing but themselves beside them.

    The latter are of several labels and of small and large losses, so that no balance of the whole hides what the
    others do: alone, an example has the only label, the largest loss and the mean one. Three times, since a loss may
    take a batch of one for something else.
    """
    count = len(whole)
    yield from filter(len, np.split(np.arange(count), [max(1, count // 3)]))
    ranked = np.argsort(whole, kind="stable")
    for i in np.unique([*ranked[np.linspace(0, count - 1, 4).astype(int)], *spread(y)[:4]]):
        yield np.repeat(i, 3)


def spread(y: np.ndarray) -> np.ndarray:
    """Return positions of up to ``FEW`` examples: of as many labels as there are, then from everywhere."""
    first = np.unique(y, return_index=True)[1] if y.ndim == 1 else np.zeros(0, int)
    some = np.linspace(0, len(y) - 1, FEW).astype(int)
    return np.array(list(dict.fromkeys([*first[: FEW // 2], *some]))[:FEW], int)


def checked_examples(logits_fn: Partial, params: Any, x: Any, y: Any, loss: LossFn) -> tuple[Any, Any, Any]:
    """Return what ``as_examples`` does, once a loss of the user's was that of each example by itself.

    It is asked of a few: all would take a pass over the data. Of parameters and labels that are seldom meant it warns.
    """
    labelled = losses.takes_classes(loss)
    params, x, y = models.as_examples(logits_fn, params, x, y, labelled=labelled)
    warn_of_parameters(params)
    if not labelled and len(y):
        few = spread(np.asarray(y))
        found = models.outputs(logits_fn, params, jax.tree.map(lambda leaf: leaf[few], x))
        if isinstance(found, jax.Array):  # a loss may take a tree as well, of which nothing is known
            trusted_losses(loss, np.asarray(found), y[few])
            warn_of_labels(found.shape, np.asarray(y))
    return params, x, y


STATISTICS = ("batch_stats", "running_mean", "running_var", "moving_mean", "moving_variance", "num_batches_tracked")


def warn_of_labels(outputs: tuple[int, ...], y: np.ndarray) -> None:
    """Warn of labels that no column of the outputs is for, which a loss of the user's takes without a word."""
    if len(outputs) != 2 or outputs[1] < 2 or y.ndim != 1 or y.dtype.kind not in "iu":
        return
    for wrong, where in ((y < 0, "below 0"), (y >= outputs[1], f"{outputs[1]} or more beside {outputs[1]} outputs")):
        if wrong.any():
            few = f"{wrong.sum()} of {len(y)} labels are {where}"
            warn(
                f"{few}, and the loss may read them as other classes or as none; count classes from 0 and leave "
                "examples without a label out."
            )


def _is_statistic(value: Any) -> bool:
    """Return whether a node of a tree is Flax NNX's box of a running statistic."""
    return type(value).__name__ == "BatchStat"


def warn_of_parameters(params: Any) -> None:
    """Warn of batch statistics among the parameters, and of one array that is there under two names."""
    paths = jax.tree_util.tree_flatten_with_path(params, is_leaf=_is_statistic)[0]
    named = [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in paths]
    if statistics := [n for n, leaf in named if _is_statistic(leaf) or any(word in n.lower() for word in STATISTICS)]:
        text = f"The parameters hold batch statistics ({quoted(statistics)}); bind them to logits_fn instead."
        warn(text)
    first: dict[Any, str] = {}
    for name, leaf in named:
        if (other := first.setdefault(_place(leaf), name)) != name:
            text = f"The parameters '{other}' and '{name}' are one array and are differentiated as two; keep it once."
            warn(text)


def _place(leaf: Any) -> Any:
    """Return what two leaves have in common if they are one array; NumPy's may be several views of one memory."""
    if isinstance(leaf, np.ndarray) and leaf.size:
        return leaf.__array_interface__["data"][0], leaf.size
    return id(leaf)


def checked_asymmetry(asymmetry: np.ndarray, scale: np.ndarray) -> float:
    """Return the largest over groups, relative to the largest eigenvalue: a group of no curvature has noise."""
    found = float((asymmetry * scale).max() / max(scale.max(), np.finfo(float).tiny))
    if found > 1e-3 and scale.max() > 1e-6:  # of smaller ones, as on saturated softmaxes, float32 holds only rounding
        raise JaxfairError(
            f"The Hessian is not symmetric (by {found:.1e} of its size): a custom derivative in the model is wrong, or "
            "its arithmetic too coarse; eigenvalues would mean nothing."
        )
    return found
