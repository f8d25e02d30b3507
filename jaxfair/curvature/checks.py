"""What a user's model has to be before its curvature means anything: run and compared, refused in a sentence."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxfair import inputs, losses
from jaxfair.curvature.chunks import over_chunks
from jaxfair.curvature.programs import LossFn, at_precision
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

        with at_precision(precision), inputs.asking("logits_fn(params, x)", inputs.LOGITS_FN):
            found = over_chunks(
                lambda fixed, some: inputs.outputs(*fixed, some), (logits_fn, params), gather, count, size
            )
            return np.roll(found, start, axis=0)

    size = min(size, count)
    with at_precision(precision):
        shape = getattr(jax.eval_shape(logits_fn, params, jax.tree.map(lambda leaf: leaf[:size], x)), "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != size:
        given = "no array" if shape is None else f"shape {shape}"
        raise JaxfairError(f"logits_fn returned {given} for {size} examples; expected (n, classes).")
    # The third time every example has other neighbours and their number is another, even if all fit into one batch.
    first, again, shifted = run(0, size), run(0, size), run(max(1, size // 3), max(1, size // 2))
    if not np.array_equal(first, again, equal_nan=True):
        raise JaxfairError(
            "logits_fn gave two results for the same input; switch dropout and other randomness off (evaluation mode)."
        )
    coarse = precision != "highest" and jax.default_backend() != "cpu"
    difference = change_of_logits(first, shifted, 1e-3 if coarse else ROUNDING)
    # Another batch position may change the rounding, by far less than this; training-mode batch norm changes percents.
    if difference > 1e-3:
        raise JaxfairError(
            f"The logits of an example changed by {difference:.1e} of their size with the rest of its batch; put batch "
            "norm and dropout into evaluation mode."
        )
    return first


ROUNDING = 64 * float(np.finfo(np.float32).eps)
"""By how much logits may differ that are the same, relative to an example's largest."""


def change_of_logits(first: np.ndarray, other: np.ndarray, rounding: float = ROUNDING) -> float:
    """Return by how much logits differ: relative to their size, or as probabilities, whichever is more.

    The size of a logit is its own and its column's usual distance from the column's middle: columns of other units, or
    one example of huge logits, would hide any change from the largest of all. What rounding moves, relative to an
    example's largest logit that is none of a class switched off, is no change.
    """
    finite = np.isfinite(first) & np.isfinite(other)  # a class may be switched off by minus infinity
    one, two = (np.where(finite, logits, 0) for logits in (first, other))
    sizes, usual = np.abs(one), np.median(np.abs(one - np.median(one, axis=0)), axis=0)
    noise = rounding * np.where(_switched_off(one, two), 0, sizes).max(axis=1, initial=0.0, keepdims=True)
    relative = ((np.abs(one - two) - noise) / (sizes + usual + 1e-30)).max(initial=0.0)
    scores = [np.asarray(jax.nn.softmax(jnp.asarray(logits))) for logits in (first, other)]
    counts = np.abs(np.where(scores[0] > 1e-6, first, 0)).max(axis=1)
    moved = np.abs(scores[0] - scores[1]).max(axis=1) - 4 * np.finfo(np.float32).eps * counts
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
    y, count = jnp.asarray(y), len(logits)
    with inputs.asking("The loss(logits, y)", "one that takes the outputs of logits_fn and the labels, as given"):
        kind = getattr(jax.eval_shape(loss, jnp.asarray(logits), y), "dtype", None)
    if kind is not None and not jnp.issubdtype(kind, jnp.floating):
        raise JaxfairError(f"The loss has type {kind}, which has no derivative; give one of floating-point numbers.")
    whole = np.asarray(loss(jnp.asarray(logits), y), np.float64)
    if whole.shape != (count,):
        raise JaxfairError(f"The loss returned shape {whole.shape} for {count} examples; expected one number for each.")
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
    params, x, y = inputs.as_examples(logits_fn, params, x, y, labelled=labelled)
    warn_of_parameters(params)
    if not labelled and len(y):
        few = spread(np.asarray(y))
        found = inputs.outputs(logits_fn, params, jax.tree.map(lambda leaf: leaf[few], x))
        if isinstance(found, jax.Array):  # a loss may take a tree as well, of which nothing is known
            trusted_losses(loss, np.asarray(found), y[few])
            warn_of_labels(found.shape, np.asarray(y))
    return params, x, y


STATISTICS = ("batch_stats", "running_mean", "running_var", "moving_mean", "moving_variance", "num_batches_tracked")


def warn_of_labels(outputs: tuple[int, ...], y: np.ndarray) -> None:
    """Warn of labels below 0 that a loss of the user's takes beside outputs of a column a class."""
    if len(outputs) == 2 and outputs[1] > 1 and y.ndim == 1 and y.dtype.kind in "iu" and (y < 0).any():
        few = f"{(y < 0).sum()} of {len(y)} labels are below 0"
        warn(f"{few}, and the loss may read them as other classes; leave examples without a label out.")


def warn_of_parameters(params: Any) -> None:
    """Warn of batch statistics among the parameters, and of one array that is there under two names."""
    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    named = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
    if statistics := [name for name in named if any(word in name.lower() for word in STATISTICS)]:
        text = f"The parameters hold batch statistics ({quoted(statistics)}); bind them to logits_fn instead."
        warn(text)
    first: dict[int, str] = {}
    for name, (_, leaf) in zip(named, paths, strict=True):
        if (other := first.setdefault(id(leaf), name)) != name:
            text = f"The parameters '{other}' and '{name}' are one array and are differentiated as two; keep it once."
            warn(text)


def checked_asymmetry(asymmetry: np.ndarray, scale: np.ndarray) -> float:
    """Return the largest over groups, relative to the largest eigenvalue: a group of no curvature has noise."""
    found = float((asymmetry * scale).max() / max(scale.max(), np.finfo(float).tiny))
    if found > 1e-3 and scale.max() > 1e-6:  # of smaller ones, as on saturated softmaxes, float32 holds only rounding
        raise JaxfairError(
            f"The Hessian is not symmetric (by {found:.1e} of its size): a custom derivative in the model is wrong, or "
            "its arithmetic too coarse; eigenvalues would mean nothing."
        )
    return found
