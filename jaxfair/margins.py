"""Distances to the decision boundary.

A distance is positive for a correctly classified example: how far the nearest point is where its label is no longer the
prediction. It is negative for a misclassified one: minus how far the nearest point is where its label becomes the
prediction. Both are distances to the boundary of the label's region, ``z_label = max_{k != label} z_k``; the sign is
the side. They are L2 norms in the network's input; for normalised images, in units of the normalisation.

A classifier is ``x -> logits``, such as a ``Network``, or ``programs.as_pytree(logits_fn, params)``; one that is a
pytree shares the compiled functions of this file with others of its kind, while a lambda is compiled for itself. Each
example's logits depend on that example alone, as they do in evaluation mode. Matrix products run in full float32 on
every device. NaN in logits makes a distance NaN.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from jaxfair.curvature.chunks import over_chunks
from jaxfair.curvature.programs import as_pytree, has_derivative
from jaxfair.errors import JaxfairError, warn
from jaxfair.inputs import as_array, as_values, check_lengths, check_rounding, on_one_device, unboxed
from jaxfair.labels import as_labels
from jaxfair.loops import run_until
from jaxfair.losses import seem_probabilities
from jaxfair.models import asking, widened
from jaxfair.options import checked

Classifier = Callable[[Any], Float[Array, "n c"]]
Inputs = Float[Array, "n *shape"] | Float[np.ndarray, "n *shape"]
Labels = Int[Array, " n"] | Int[np.ndarray, " n"]

GROWTH = 1.25  # of the bracketing points' distances; nearer to 1 misses fewer crossings and costs more forward passes

_logits = jax.jit(lambda classifier, x: classifier(x))
_scale, _select = jax.vmap(jnp.multiply), jax.vmap(jnp.where)  # the first argument is one number for each example

bind = as_pytree
"""``bind(logits_fn, params)`` is the classifier ``x -> logits`` that the distances take."""


class LinearizedDistance(NamedTuple):
    """Distances to the boundary of the network linearised at each example.

    Attributes:
        distance: Signed distances in L2 of the input, shape (n,).
        nearest: Class whose boundary with the label is meant, shape (n,).
    """

    distance: Array
    nearest: Array


class DeepFool(NamedTuple):
    """Points across the boundary, and how far they are.

    Attributes:
        distance: Signed L2 norm of each perturbation, shape (n,); infinite where no boundary was crossed.
        perturbed: Points where the search ended, shape (n, *shape).
        steps: Number of linearisations used, shape (n,).
        success: Whether the point is across the boundary, or on it but for rounding, shape (n,).
    """

    distance: Array
    perturbed: Array
    steps: Array
    success: Array


@checked
def softmax_gap(logits: Float[Array, "n c"] | Float[np.ndarray, "n c"]) -> Float[Array, " n"]:
    """Return the largest softmax score minus the second largest, in [0, 1]; 0 is on the boundary.

    The distance to the decision boundary as the code of Das et al. 2024 has it. It ignores the label: a confidently
    wrong example is far from the boundary.

    Raises:
        JaxfairError: there are fewer than two classes.

    Example:
        >>> import numpy as np
        >>> from jaxfair import softmax_gap
        >>> print(softmax_gap(np.log(np.array([[0.7, 0.2, 0.1]], np.float32))).round(3))
        [0.5]
    """
    return gap(_as_logits(logits))


def gap(logits: Float[Array, "n c"]) -> Float[Array, " n"]:
    """Return what ``softmax_gap`` does, of logits of which it is known that they are."""
    top = jax.lax.top_k(jax.nn.softmax(logits), 2)[0]
    return jnp.asarray(top[:, 0] - top[:, 1])


def _warn_of_probabilities(logits: Array | np.ndarray) -> None:
    if not isinstance(logits, Tracer) and len(logits) and (before := seem_probabilities(np.asarray(logits))):
        warn(f"The logits seem to be probabilities; give those before the {before}.")


@checked
def signed_softmax_gap(logits: Float[Array, "n c"], label: Labels) -> Float[Array, " n"]:
    """Return the label's softmax score minus the largest other, in [-1, 1]; negative where misclassified.

    Equals ``softmax_gap`` for a correctly classified example. Differentiable.

    Raises:
        JaxfairError: there are fewer than two classes, or a label is not one of them.
    """
    given, label = label, as_labels(label)
    logits = _as_logits(logits, given)
    check_lengths(logits=len(logits), labels=len(label))
    return _margin(jax.nn.softmax(logits), jnp.asarray(label))


@checked
def linearized_distance(
    classifier: Classifier, x: Inputs, label: Labels, *, chunk_size: int = 128
) -> LinearizedDistance:
    """Compute ``min_{k != label} (z_label - z_k) / ||grad_x (z_label - z_k)||``, over all classes.

    For an affine network this is exact where the label is predicted: the label's region is a polyhedron and the example
    inside it. For a misclassified one the minimum is minus the largest distance to a half-space ``z_label > z_k`` that
    it is not in. All those classes have to be overcome: a lower bound of the distance to the label's region, exact
    where overcoming one overcomes all, as with two classes. Where a gap has no gradient it is infinite, with its sign.
    Differentiable, by the inputs and by parameters that the classifier closes over.

    Args:
        classifier: ``x -> logits`` of shape (n, classes), its parameters bound.
        x: Inputs, floating point, shape (n, *shape).
        label: Labels, integers 0..C-1, shape (n,).
        chunk_size: Number of examples at once; memory is that of ``chunk_size * C`` examples' gradients.

    Raises:
        JaxfairError: There is no example, there are fewer than two classes, a label is not one of them, or shapes do
            not match.

    Example:
        >>> import numpy as np
        >>> from jaxfair import linearized_distance
        >>> x = np.array([[3.0, 1.0], [0.0, 1.0]])
        >>> print(linearized_distance(lambda x: x, x, np.array([0, 0])).distance.round(4))
        [ 1.4142 -0.7071]
    """
    return LinearizedDistance(*_over_chunks(lambda *chunk: _linearize(*chunk)[:2], classifier, x, label, chunk_size))


@checked
def distance_along_gradient(
    classifier: Classifier, x: Inputs, label: Labels, max_distance: float, tolerance: float, *, chunk_size: int = 128
) -> Float[Array, " n"]:
    """Find how far the boundary is along the gradient of the gap to the nearest class, by bracketing and bisection.

    A straight line leaves a correctly classified example down the gradient of ``z_label - z_k``, ``k`` the nearest
    class of ``linearized_distance``, and a misclassified one up that gradient, until the prediction stops being, or
    becomes, the label. Points at ``tolerance * 1.25^i`` bracket the change; bisection keeps one end of the bracket on
    either side of it. The far end is returned: its magnitude is at least the distance to the boundary, and at most
    ``tolerance`` (or rounding of ``x``, where that is larger) above that of a crossing. A line that crosses and comes
    back between two of those points is taken not to have crossed.

    Args:
        classifier: ``x -> logits`` of shape (n, classes), its parameters bound.
        x: Inputs, floating point, shape (n, *shape).
        label: Labels, integers 0..C-1, shape (n,).
        max_distance: Distance at which to give up, in L2 of the input; the result is then infinite, with the example's
            sign.
        tolerance: Width of the final bracket, in L2 of the input.
        chunk_size: Number of examples at once.

    Raises:
        JaxfairError: JAX differentiates it, ``linearized_distance`` would refuse the examples, not ``0 < tolerance <=
            max_distance < inf``, or the tolerance is too small a number for the type of ``x``.
    """
    if not 0 < tolerance <= max_distance < math.inf:
        raise JaxfairError(f"tolerance is {tolerance} and max_distance {max_distance}; give 0 < tolerance <= distance.")
    range_ = math.log(max_distance / tolerance)
    max_steps = math.ceil(range_ / math.log(GROWTH)) + math.ceil(range_ / math.log(2)) + 2
    return _over_chunks(_line_chunk, classifier, x, label, chunk_size, max_steps, tolerance, max_distance)


@checked
def deepfool(
    classifier: Classifier,
    x: Inputs,
    label: Labels | None = None,
    *,
    max_steps: int = 50,
    overshoot: float = 0.02,
    chunk_size: int = 128,
) -> DeepFool:
    """Walk to the boundary by repeated linearisation (Moosavi-Dezfooli et al. 2016, Alg. 2, L2, all classes).

    Each step adds the projection onto the nearest boundary of the network linearised at
    ``x + (1 + overshoot) * (sum of the steps so far)``, the point that is also tested and returned, as in the authors'
    code and in Foolbox; their 1e-4 added to each step's length is left out, so distances scale with the input.
    A misclassified example is led to its label: each step projects onto the most violated boundary ``z_label = z_k``;
    at a sharp corner of the label's region that takes many. In both cases the point ends across the label's boundary,
    so the norm is an upper bound of the distance to it; for an affine network and a correct example it is
    ``1 + overshoot`` times the distance, after one step.

    Args:
        classifier: ``x -> logits`` of shape (n, classes), its parameters bound.
        x: Inputs, floating point, shape (n, *shape); no range of pixels confines the search.
        label: Labels, integers 0..C-1, shape (n,); None takes each example's prediction, as published, and no distance
            is negative.
        max_steps: Number of linearisations at most (50 in the authors' code).
        overshoot: Share added to the perturbation, so that the boundary is crossed (0.02 in the authors' code).
        chunk_size: Number of examples at once.

    Raises:
        JaxfairError: ``linearized_distance`` would refuse the examples, ``max_steps`` is below 1, or ``overshoot`` is
            negative.

    Example:
        >>> import numpy as np
        >>> from jaxfair import deepfool
        >>> found = deepfool(lambda x: x, np.array([[3.0, 1.0]]), np.array([0]))
        >>> print(found.distance.round(4), found.steps)
        [1.4425] [1]
    """
    if max_steps < 1 or not 0 <= overshoot < math.inf:
        raise JaxfairError(f"max_steps is {max_steps} and overshoot {overshoot}; give at least 1 and at least 0.")
    return _over_chunks(_deepfool_chunk, classifier, x, label, chunk_size, max_steps, overshoot)


def _over_chunks(function: Callable, classifier: Classifier, x: Any, label: Any, chunk_size: int, *options: Any) -> Any:
    """Apply ``function(classifier, x, label, *options)`` to chunks of the examples, whose inputs it checks."""
    if isinstance(x, Mapping):
        raise JaxfairError(f"Inputs are a {type(x).__name__}; distances need one array, in which they are measured.")
    x, given, label = unboxed(as_array(x, "inputs")), label, None if label is None else as_labels(label)
    if not x.ndim or not jnp.issubdtype(x.dtype, jnp.floating):
        kind = str(x.dtype) if x.ndim else "a single number"
        raise JaxfairError(f"Inputs are {kind}; distances need the floating-point inputs that the network is given.")
    if len(x) and 0 in x.shape:
        raise JaxfairError(f"Inputs have shape {x.shape}, and no number in them; distances are measured in these.")
    check_rounding(x, "inputs")
    if label is not None:
        check_lengths(inputs=len(x), labels=len(label))
    classifier, x = on_one_device((as_pytree(classifier), x))

    def gather(index: np.ndarray) -> tuple[Array, Array | None]:
        return jnp.asarray(x[index]), None if label is None else jnp.asarray(label[index])

    def of_chunk(classifier: Classifier, some: tuple[Array, Array | None]) -> Any:
        points, own = some
        own = _logits(classifier, points).argmax(axis=1) if own is None else own
        return function(classifier, points, own, *options)

    with jax.default_matmul_precision("highest"):
        if len(first := x[:chunk_size]):
            _check_logits(classifier, first, given)
            _warn_of_probabilities(widened(_logits(classifier, first)))
        return jax.tree.map(jnp.asarray, over_chunks(of_chunk, classifier, gather, len(x), chunk_size))


def _as_logits(logits: Any, label: Any = None) -> Array:
    """Return logits of at least two classes as an array of floating-point numbers of JAX, in 32 bits or more.

    NumPy's of 64 bits come without what all of an example's have in common, which would take the digits of the rest.
    """
    found = as_array(logits, "logits")
    if not jnp.issubdtype(found.dtype, jnp.floating):
        found = as_values(found, "logits")
    double = isinstance(found, np.ndarray) and found.dtype == np.float64
    found = found if double else widened(jnp.asarray(found))
    _check_classes(found.shape, label)
    _warn_of_probabilities(found)
    with np.errstate(over="ignore", invalid="ignore"):  # 1e299 - 1e300 is -inf in 32 bits
        return jnp.asarray(found - found.max(axis=1, keepdims=True) if double else found)


def _check_logits(classifier: Classifier, x: Any, label: Any) -> None:
    """Raise a JaxfairError unless the classifier returns logits that have a gradient."""
    with asking("The classifier(x)", "a function of a batch of inputs, in evaluation mode"):
        logits = jax.eval_shape(_logits, classifier, x)
    if not hasattr(logits, "shape"):
        raise JaxfairError(f"The classifier returned a {type(logits).__name__}; expected an array (n, classes).")
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise JaxfairError(f"Logits have type {logits.dtype}, which has no gradient; give floating-point numbers.")
    _check_classes(logits.shape, label)
    with asking("The classifier(x)", "a function that JAX can differentiate"):
        found = has_derivative(classifier, x)
    if not any(found):
        raise JaxfairError(
            "The logits have no derivative by the input, as behind jax.lax.stop_gradient, rounding or argmax, so that "
            "no boundary would be seen; leave it out of the classifier."
        )


def _check_classes(shape: tuple[int, ...], label: Any = None) -> None:
    if len(shape) != 2 or shape[1] < 2:
        raise JaxfairError(f"Logits have shape {shape}; a boundary needs (examples, classes) with at least 2 classes.")
    if label is not None:
        as_labels(label, shape[1])


def _margin(scores: Float[Array, "n c"], label: Int[Array, " n"]) -> Float[Array, " n"]:
    """Return the label's score minus the largest other."""
    own = jax.nn.one_hot(label, scores.shape[1], dtype=bool)
    return jnp.take_along_axis(scores, label[:, None], axis=1)[:, 0] - jnp.where(own, -jnp.inf, scores).max(axis=1)


@jax.jit
def _linearize(
    classifier: Classifier, x: Float[Array, "n *shape"], label: Int[Array, " n"]
) -> tuple[Array, Array, Array]:
    """Return signed distance and nearest class, shape (n,), and the gap's unit gradient (0 where it vanishes)."""
    logits, pull_back = jax.vjp(classifier, x)
    own = jax.nn.one_hot(label, logits.shape[1], dtype=logits.dtype)
    gap = (jnp.take_along_axis(logits, label[:, None], axis=1) - logits).T
    # Gradients of the gaps, shape (classes, n, *shape), by their cotangents: differences of gradients would cancel.
    cotangents = own[None] - jnp.eye(logits.shape[1], dtype=own.dtype)[:, None]
    gradients = jax.vmap(lambda cotangent: pull_back(cotangent)[0])(cotangents)
    norms = _norm(gradients, tuple(range(2, gradients.ndim)))
    flat = norms == 0  # where the derivative of a quotient, of the label's own among them, would be NaN
    quotients = jnp.where(flat, jnp.sign(gap) * jnp.inf, gap / jnp.where(flat, 1, norms))
    distances = jnp.where(own.T == 1, jnp.inf, jnp.where(gap == 0, 0, quotients))
    nearest = jnp.argmin(distances, axis=0)
    chosen = (nearest, jnp.arange(len(x)))
    length = norms[chosen]
    return distances[chosen], nearest, _scale(jnp.where(length > 0, 1 / length, 0), gradients[chosen])


def _side(classifier: Classifier, x: Array, label: Array) -> Float[Array, " n"]:
    """Return 1 where the label is the prediction, -1 where it is not, 0 on the boundary; NaN stays NaN."""
    return jnp.sign(_margin(_logits(classifier, x), label)).astype(x.dtype)


def _line_chunk(
    classifier: Classifier, x: Array, label: Array, max_steps: int, tolerance: float, limit: float
) -> Array:
    kind = jnp.finfo(x.dtype)
    # Compiled functions take numbers below the normal ones for 0. Those of float16 they compute in float32, but two of
    # the last places of 0 times the bracket's growth are two again.
    least = float(3 * kind.smallest_subnormal if x.dtype == jnp.float16 else kind.tiny)
    if tolerance < least:
        raise JaxfairError(
            f"tolerance is {tolerance}, too small for inputs of {x.dtype}; give {2 * least:.1g} or more."
        )
    side = _side(classifier, x, label)
    direction = _scale(-side, _linearize(classifier, x, label)[2])
    far = jnp.where(side == 0, 0, jnp.full_like(side, jnp.inf))
    carry = (jnp.abs(side) != 1, jnp.zeros_like(side), far, jnp.full_like(side, tolerance))
    fixed = (classifier, x, label, side, direction, tolerance, limit)
    return side * run_until(_line_step, carry, fixed, max_steps)[2]


def _line_step(carry: tuple[Array, ...], fixed: tuple) -> tuple[Array, ...]:
    """Halve the bracket ``(near, far]`` of each example that has one; look further out for one that has not."""
    done, near, far, probe = carry
    classifier, x, label, side, direction, tolerance, limit = fixed
    t = jnp.where(jnp.isfinite(far), (near + far) / 2, probe)
    crossed = side * _of_sign_alone(_margin(classifier(x + _scale(t, direction)), label)) <= 0
    near, far = jnp.where(crossed, near, t), jnp.where(crossed & ~done, t, far)
    done = done | (far - near <= tolerance) | (jnp.isinf(far) & (probe >= limit))
    return done, near, far, jnp.minimum(GROWTH * probe, limit)


@jax.custom_jvp
def _of_sign_alone(margin: Array) -> Array:
    """Return a margin of whose sign alone something is asked, so that JAX would take its derivative for 0."""
    return margin


@_of_sign_alone.defjvp
def _refuse_derivative(primals: Any, tangents: Any) -> Any:
    del primals, tangents
    raise JaxfairError(
        "distance_along_gradient has no derivative; take linearized_distance, or give it jax.lax.stop_gradient of what "
        "is differentiated by."
    )


def _deepfool_chunk(classifier: Classifier, x: Array, label: Array, max_steps: int, overshoot: float) -> DeepFool:
    side = _side(classifier, x, label)
    carry = (jnp.abs(side) != 1, jnp.zeros_like(x), jnp.zeros(len(x), jnp.int32))
    done, total, steps = run_until(_deepfool_step, carry, (classifier, x, label, side, overshoot), max_steps)
    perturbation = (1 + overshoot) * total
    success = (done | _is_at_boundary(classifier, x, perturbation, label)) & ~jnp.isnan(side)
    norm = _norm(perturbation, tuple(range(1, x.ndim)))
    return DeepFool(side * jnp.where(success, norm, jnp.inf), x + perturbation, steps, success)


def _is_at_boundary(classifier: Classifier, x: Array, perturbation: Array, label: Array) -> Array:
    """Return whether the label's logit and the largest other are equal but for what rounds of the point's own two.

    Towards a corner of three classes each step ends at one face or the other, ever nearer, and crosses neither. A
    hundredth of the point's own margin is left at most: 64 last places of half precision, or of logits that have much
    in common, are as much as some margins. The other classes do not count, one of which may be switched off by -1e9.
    """
    logits = _logits(classifier, x)
    margin = _margin(logits, label)
    own = jnp.take_along_axis(logits, label[:, None], axis=1)[:, 0]
    size = jnp.maximum(jnp.abs(own), jnp.abs(own - margin))
    near = jnp.minimum(64 * jnp.finfo(logits.dtype).eps * size, jnp.abs(margin) / 100)
    left = jnp.abs(_margin(_logits(classifier, x + perturbation), label))
    return (left <= near) & jnp.isfinite(near)


def _norm(vectors: Array, axes: tuple[int, ...]) -> Array:
    """Return lengths: squares of 1e20 or 1e-20 leave the range of float32, and those of 300 that of float16."""
    vectors = vectors.astype(jnp.promote_types(vectors.dtype, jnp.float32))
    largest = jnp.abs(vectors).max(axis=axes, keepdims=True)
    squares = ((vectors / jnp.where(largest > 0, largest, 1)) ** 2).sum(axis=axes)
    # At 0 the root has no derivative, and a length that nothing depends on would make one NaN.
    return jnp.where(squares == 0, 0, jnp.sqrt(jnp.where(squares == 0, 1, squares))) * largest.squeeze(axes)


def _deepfool_step(carry: tuple[Array, ...], fixed: tuple) -> tuple[Array, ...]:
    done, total, steps = carry
    classifier, x, label, side, overshoot = fixed
    distance, _, direction = _linearize(classifier, x + (1 + overshoot) * total, label)
    moved = (total - _scale(distance, direction)).astype(total.dtype)  # which may be narrower than the network's
    total = _select(done | ~jnp.isfinite(distance), total, moved)
    crossed = side * _margin(classifier(x + (1 + overshoot) * total), label) <= 0
    return done | crossed, total, steps + (~done).astype(steps.dtype)
