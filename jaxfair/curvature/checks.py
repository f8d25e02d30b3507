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
from jaxfair.curvature.programs import LossFn, as_pytree, at_precision, depends_on_last, has_derivative, per_example
from jaxfair.errors import JaxfairError, warn
from jaxfair.inputs import quoted

EPSILON = float(np.finfo(np.float32).eps)


def trusted_logits(logits_fn: Partial, params: Any, x: Any, y: Any, precision: str, size: int) -> np.ndarray:
    """Return the logits of all examples, computed twice, and once more in batches cut differently.

    Batches have ``size`` examples, and as many as a model is asked of at the door at least: alone, an example has no
    others that could change its logits.
    """
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

    size = min(max(size, models.FEW), count)
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
            "norm and dropout into evaluation mode, and draw or count nothing in the model."
        )
    return first


ROUNDING = 64 * EPSILON
"""By how much logits may differ that are the same, relative to an example's largest."""


def change_of_logits(first: np.ndarray, other: np.ndarray, rounding: float = ROUNDING, last: float = EPSILON) -> float:
    """Return by how much logits differ: relative to their size, or as probabilities, whichever is more.

    The size of a logit is its own and its column's usual distance from the column's middle: columns of other units or
    far from 0, or one example of huge logits, would hide any change from the largest. What rounding moves, relative to
    an example's largest logit that is none of a class switched off, is no change; nor is a probability's by some of the
    last places of such a logit, of relative size ``last``.
    """
    finite = np.isfinite(first) & np.isfinite(other)  # a class may be switched off by minus infinity
    one, two = (np.where(finite, logits, 0) for logits in (first, other))
    apart = np.abs(one - np.median(one, axis=0))
    noise = rounding * np.where(_switched_off(one, two), 0, np.abs(one)).max(axis=1, initial=0.0, keepdims=True)
    relative = ((np.abs(one - two) - noise) / (apart + np.median(apart, axis=0) + 1e-30)).max(initial=0.0)
    scores = [np.asarray(jax.nn.softmax(jnp.asarray(logits))) for logits in (first, other)]
    counts = np.abs(np.where(scores[0] > 1e-6, first, 0)).max(axis=1)
    moved = np.abs(scores[0] - scores[1]).max(axis=1) - 4 * last * counts
    return float(max(relative, np.nanmax(moved, initial=0.0)))


def _switched_off(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return which logits are of a class that is switched off by a number, the same in both.

    It is the farthest from 0, several times, or the only one that its column has.
    """
    farthest = np.abs(one).max(initial=0.0)
    off = ((np.abs(one) == farthest) | (one == one[:1]).all(axis=0)) & (one == two)
    return off if off.sum() > 1 else np.zeros(off.shape, bool)


def rounding_of(loss: LossFn, logits: Any, y: Any, whole: np.ndarray) -> np.ndarray:
    """Return by how much rounding may move each example's loss: several times what its logits' last bits do.

    So it has the loss's own scale, and a class that is switched off by a huge logit adds nothing.
    """
    rng = np.random.default_rng(0)
    signs = jax.tree.map(lambda leaf: rng.choice([-1.0, 1.0], leaf.shape), logits)

    def nudged(sign: int) -> Any:
        def leaf(values: np.ndarray, signs: np.ndarray) -> Any:
            numbers = np.issubdtype(values.dtype, np.inexact)
            return jnp.asarray((values * (1 + 16 * EPSILON * sign * signs)).astype(values.dtype) if numbers else values)

        return jax.tree.map(leaf, logits, signs)

    found = [np.asarray(loss(nudged(sign), y), np.float64) for sign in (-1, 1)]
    with np.errstate(invalid="ignore"):
        moved = np.max([np.abs(near - whole) if near.shape == whole.shape else 0 * whole for near in found], axis=0)
    return 4 * np.nan_to_num(moved, nan=0.0, posinf=0.0)


def trusted_losses(loss: LossFn, logits: Any, y: Any) -> np.ndarray:
    """Return the loss of each example, the same twice and whatever other examples it is computed with.

    Args:
        loss: ``(logits, y) -> losses`` of shape (n,).
        logits: Of shape (n, classes), or a pytree of arrays with n examples along the first axis.
        y: Labels, or what the loss takes, n examples along the first axis.

    Raises:
        JaxfairError: It fails, is no floating-point number for each example, is random or depends on its batch.
    """
    y, known, loss = jnp.asarray(y), losses.takes_classes(loss), _as_compiled(loss)
    with models.asking("The loss(logits, y)", "one that takes the outputs of logits_fn and the labels, as given"):
        kind = jax.eval_shape(functools.partial(per_example, loss), jax.tree.map(jnp.asarray, logits), y).dtype
    if not jnp.issubdtype(kind, jnp.floating):
        raise JaxfairError(f"The loss has type {kind}, which has no derivative; give one of floating-point numbers.")
    if kind.itemsize < 4:  # logits come in 32 bits or more
        raise JaxfairError(f"The loss has type {kind}, which rounds it and its derivatives; return it in float32.")

    def of(part: Any) -> np.ndarray:
        return np.asarray(loss(jax.tree.map(lambda leaf: jnp.asarray(leaf[part]), logits), y[part]), np.float64)

    whole = of(slice(None))
    if known:
        return whole
    if not np.array_equal(whole, of(slice(None)), equal_nan=True):
        raise JaxfairError("The loss gave two results for the same input; switch its randomness off.")
    allowed = 1e-3 * np.abs(whole) + rounding_of(loss, logits, y, whole)
    for part in _parts(whole, np.asarray(y)):
        try:
            found = of(part)
        except Exception as error:  # such as that shapes do not match
            raise JaxfairError(
                "The loss of an example depends on which others it is computed with, since it fails on a part of the "
                "examples; put what it holds of each, such as weights, into y."
            ) from error
        _check_same(found, whole[part], allowed[part])
    return whole


def _as_compiled(loss: LossFn) -> LossFn:
    """Return a loss of the user's as a compiled program has it: its arrays are JAX's and where others can be."""
    if losses.takes_classes(loss) or not callable(loss):  # what is no function is said where it is called
        return loss
    return jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf, as_pytree(loss))


def _check_same(found: np.ndarray, whole: np.ndarray, allowed: np.ndarray) -> None:
    """Raise a JaxfairError unless examples have the losses among a few that they have among all."""
    with np.errstate(invalid="ignore"):
        same = found.shape == whole.shape and ((found == whole) | (np.abs(found - whole) <= allowed) | np.isnan(whole))
    if not np.all(same):
        raise JaxfairError(
            "The loss of an example depends on which others it is computed with, such as by class weights divided "
            "by the batch's; give one number for each example that is its own, without dividing by the batch."
        )


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
    """Return positions of up to ``models.FEW`` examples: of as many labels as there are, then from everywhere."""
    first = np.unique(y, return_index=True)[1] if y.ndim == 1 else np.zeros(0, int)
    some = np.linspace(0, len(y) - 1, models.FEW).astype(int)
    return np.array(list(dict.fromkeys([*first[: models.FEW // 2], *some]))[: models.FEW], int)


def checked_examples(
    logits_fn: Partial, params: Any, x: Any, y: Any, loss: LossFn, *, differentiated: bool = True
) -> tuple[Any, Any, Any]:
    """Return what ``as_examples`` does, once a loss of the user's was that of each example by itself.

    It is asked of a few: all would take a pass over the data. Of what is seldom meant it warns: of outputs, of
    parameters and of labels.
    """
    labelled, loss = losses.takes_classes(loss), _as_compiled(loss)
    params, x, y = models.as_examples(logits_fn, params, x, y, labelled=labelled)
    if differentiated:
        warn_of_parameters(params)
    if not len(y):
        return params, x, y
    few = spread(np.asarray(y))
    some = jax.tree.map(lambda leaf: leaf[few], x)
    with models.asking("logits_fn(params, x)", models.LOGITS_FN), at_precision("highest"):  # as traced at the door
        traced = models.outputs.trace(logits_fn, params, some)
        found = models.outputs(logits_fn, params, some)
    if unused := models.unused_parameters(traced, logits_fn, params):
        warn(f"No output depends on {models.in_words(params, unused)}, whose derivatives are 0; leave them out.")
    if not labelled:
        _trusted_few(loss, found, y[few], depends_on_last(traced.jaxpr, len(jax.tree.leaves(x))))
        if isinstance(found, jax.Array):
            warn_of_labels(found.shape, np.asarray(y))
    elif before := losses.seem_probabilities(np.asarray(found)):
        warn(f"logits_fn seems to return probabilities; return the logits before the {before}.")
    if differentiated:
        _check_derivative(logits_fn, params, some, y[few], loss, unused)
    return params, x, y


def _check_derivative(logits_fn: Partial, params: Any, x: Any, y: Any, loss: LossFn, unused: list[int]) -> None:
    """Raise a JaxfairError if the derivative by every parameter is 0 whatever the numbers are, as traced alone says.

    Of some it warns, but for those of which it was said that they are unused.
    """
    with at_precision("highest"):
        found = has_derivative(Partial(_losses, logits_fn, as_pytree(loss), x, jnp.asarray(y)), params)
    if not any(found):
        raise JaxfairError(
            "The derivative of the loss by every parameter is 0, as by jax.lax.stop_gradient, rounding, a comparison "
            "or argmax in logits_fn or in the loss; leave it out, or give it a derivative by jax.custom_jvp."
        )
    arrays = zip(jax.tree.leaves(params), found, strict=True)
    flat = [i for i, (leaf, has_one) in enumerate(arrays) if leaf.size and not has_one and i not in unused]
    if flat:
        said = f"The derivative by {models.in_words(params, flat)} is 0, as by stop_gradient or rounding"
        warn(f"{said}; leave them out.")


def _losses(logits_fn: Any, loss: Any, x: Any, y: Any, params: Any) -> Any:
    return per_example(loss, models.outputs(logits_fn, params, x), y)


def _trusted_few(loss: LossFn, found: Any, y: Any, of_inputs: tuple[bool, ...]) -> None:
    """Ask a loss of a few examples, ``trusted_losses``; of a tree of outputs, the arrays that are of examples.

    The others, such as the parameters for their norm, are what they are whatever examples there are: ``of_inputs`` says
    which leaves depend on the inputs.
    """
    leaves, tree = jax.tree.flatten(found)
    own = [
        isinstance(found, jax.Array) or (own and leaf.shape[:1] == (len(y),))
        for own, leaf in zip(of_inputs, leaves, strict=True)
    ]

    def of_own(some: list[Any], y: Any) -> Any:
        left = iter(some)
        return loss(tree.unflatten([next(left) if mine else leaf for mine, leaf in zip(own, leaves, strict=True)]), y)

    if any(own):
        trusted_losses(of_own, [np.asarray(leaf) for mine, leaf in zip(own, leaves, strict=True) if mine], y)


STATISTICS = ("batchstats", "runningmean", "runningvar", "movingmean", "movingvariance", "numbatchestracked")
STATISTICS += ("meanema", "varema", "emamean", "emavar")
"""What libraries call running statistics, in small letters alone."""
HOLDS_STATISTICS = "The parameters hold batch statistics"


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


def _is_of_norm(name: str, there: set[str]) -> bool:
    """Return whether an array is the mean or variance beside one another, as Flax calls those of its batch norm."""
    module, slash, own = name.rpartition("/")
    return own in ("mean", "var") and {f"{module}{slash}mean", f"{module}{slash}var"} <= there


def warn_of_parameters(params: Any) -> None:
    """Warn of batch statistics among the parameters, and of one array that is there under two names."""
    paths = jax.tree_util.tree_flatten_with_path(params, is_leaf=_is_statistic)[0]
    named = [(models.path_name(path), leaf) for path, leaf in paths]
    texts = [jax.tree_util.keystr(path).lower().replace("_", "") for path, _ in paths]
    there = {name for name, leaf in named if np.ndim(leaf) == 1}
    if statistics := [
        name
        for (name, leaf), text in zip(named, texts, strict=True)
        if _is_statistic(leaf) or any(word in text for word in STATISTICS) or _is_of_norm(name, there)
    ]:
        warn(f"{HOLDS_STATISTICS} ({quoted(statistics)}); bind them to logits_fn instead.")
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
            f"The Hessian is not symmetric (by {found:.1e} of its size), and its eigenvalues mean nothing: a model "
            "computes in half precision (use float32), or is so confident that float32 holds rounding alone (enable "
            "jax_enable_x64), or a custom derivative is wrong."
        )
    return found
