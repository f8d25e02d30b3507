"""The theorems' terms for each group, against what happened.

Theorem 4.4 of Das et al. 2024 and Theorem 4.1 of Nelaturu et al. 2024 expand a group's loss to second order around the
parameters ``theta`` at which its gradient and Hessian were taken. They leave out a term of third order, so a bound that
does not hold is no contradiction: it says that the parameters moved too far for the expansion.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from jaxfair import losses
from jaxfair.curvature import lanczos
from jaxfair.curvature.programs import LogitsFn, as_pytree
from jaxfair.curvature.rules import check_second_derivatives
from jaxfair.curvature.spectrum import check_examples
from jaxfair.errors import JaxfairError
from jaxfair.inputs import as_values
from jaxfair.models import differentiating, tree_difference
from jaxfair.options import Count, Natural, Positive, Seed, checked

Values = float | Float[np.ndarray, " g"] | Float[Array, " g"]
Form = Literal["logit", "printed"]
TERMS = "terms of the bound"


class TaylorBound(NamedTuple):
    """The terms of a second-order bound and the loss difference it bounds; arrays of length num_groups, losses in nats.

    Attributes:
        first: Term of first order, ``||g_a|| d``.
        second: Term of second order, ``1/2 lambda d^2``; negative where the loss curves down in every direction.
        bound: Sum of the two.
        actual: Loss difference that was seen.
        holds: Whether ``actual <= bound``; False where either is NaN.
        tightness: Ratio ``actual / bound``, 1 for a bound that is met exactly; NaN where the bound is not positive
            or either is NaN, which tells a bound that does not hold from one that is not known.
    """

    first: np.ndarray
    second: np.ndarray
    bound: np.ndarray
    actual: np.ndarray
    holds: np.ndarray
    tightness: np.ndarray


class HessianBound(NamedTuple):
    """Proposition 4.5: a bound of a group's largest Hessian eigenvalue; arrays of length num_groups.

    Attributes:
        bound: Sum of the two terms.
        gradient_term: Share of the scores' gradients, largest for examples near the decision boundary.
        curvature_term: Share of the scores' Hessians.
        converged: Whether Lanczos met its tolerance for every example; do not trust the bound where it did not.
    """

    bound: np.ndarray
    gradient_term: np.ndarray
    curvature_term: np.ndarray
    converged: np.ndarray


@checked
def parameter_distance(params: Any, other: Any) -> float:
    """Compute ``||other - params||_2`` over all leaves, in float64, on the host.

    Between two networks trained apart it ignores the symmetries of the parametrisation: permuted units compute the same
    function at a distance.

    Args:
        params: Pytree of arrays.
        other: Another of the same structure and shapes.

    Raises:
        JaxfairError: The two do not have the same structure and shapes, or a leaf is no array of real numbers.
    """
    if reason := tree_difference(params, other):
        raise JaxfairError(f"The two parameter trees differ in structure or shapes ({reason}); give one module's.")
    leaves, others = ([as_values(leaf, "parameters") for leaf in jax.tree.leaves(tree)] for tree in (params, other))
    with np.errstate(all="ignore"):  # a distance may be too large for float64
        apart = [a - b for a, b in zip(leaves, others, strict=True)]
        # Squares of numbers near 1: those of 1e-200 would be 0.
        scale = int(np.frexp(np.max([0.0, *(np.abs(step).max(initial=0.0) for step in apart)]))[1])
        return float(np.ldexp(np.sqrt(sum((np.ldexp(step, -scale) ** 2).sum() for step in apart)), scale))


@checked
def excess_loss_bound(
    gradient_norm: Values, top_eigenvalue: Values, distance: Values, excess_loss: Values
) -> TaylorBound:
    """Compare a group's excess loss with ``||g_a|| d + 1/2 lambda(H_a) d^2`` (Das et al. 2024, Theorem 4.4).

    ``lambda`` is the largest algebraic eigenvalue, which suffices for this one-sided bound, and exact for a quadratic
    loss. Lanczos approaches it from below: add the residual to be on the safe side.

    Args:
        gradient_norm: Norm ``||g_a||`` of each group's gradient at the parameters before the change, shape (g,).
        top_eigenvalue: Largest eigenvalue ``lambda(H_a)`` of each group's Hessian at the same parameters, shape (g,).
        distance: L2 distance ``d = ||theta_r - theta||``; one number, or one for each group.
        excess_loss: Loss difference ``J(theta_r; D_a) - J(theta; D_a)`` in nats, shape (g,); negative where it fell.

    Raises:
        JaxfairError: Shapes do not match, a norm or distance is negative, or a term is infinite.

    Example:
        >>> import numpy as np
        >>> from jaxfair import excess_loss_bound
        >>> found = excess_loss_bound(np.array([0.5]), np.array([2.0]), 0.1, np.array([0.03]))
        >>> print(found.bound, found.holds)
        [0.06] [ True]
    """
    return _taylor(gradient_norm, top_eigenvalue, distance, excess_loss)


@checked
def sensitivity_bound(
    gradient_norm: Values,
    top_eigenvalue: Values,
    distance: Values,
    sensitivity: Values,
    *,
    bottom_eigenvalue: Values | None = None,
) -> TaylorBound:
    """Compare a group's hardware sensitivity with the bound of Nelaturu et al. 2024, Theorem 4.1.

    The sensitivity is an absolute difference, ``max_m' |J(theta_m; D_a) - J(theta_m'; D_a)|``, and a loss can fall as
    well as rise. The theorem as printed, with the largest algebraic eigenvalue, bounds only the rise: where the Hessian
    has a negative eigenvalue of larger magnitude it can fail even for a quadratic loss. With ``bottom_eigenvalue`` the
    second term is ``1/2 max(lambda_max, -lambda_min) rho^2``, which bounds both.

    Args:
        gradient_norm: Norm ``||g_a||`` of each group's gradient at the reference hardware's parameters, shape (g,).
        top_eigenvalue: Largest eigenvalue of each group's Hessian ``H_a`` at the same parameters, shape (g,).
        distance: Largest L2 distance ``rho`` to another hardware's parameters; one number, or one for each group.
        sensitivity: Sensitivity of each group in nats, shape (g,).
        bottom_eigenvalue: Smallest (most negative) eigenvalue of ``H_a``, shape (g,); None for the theorem as printed.

    Raises:
        JaxfairError: Shapes do not match, a norm, distance or sensitivity is negative, a term is infinite, or a
            smallest eigenvalue is above the largest.

    Example:
        >>> import numpy as np
        >>> from jaxfair import sensitivity_bound
        >>> found = sensitivity_bound(np.array([0.5]), np.array([2.0]), 0.1, np.array([0.03]))
        >>> print(found.bound, found.holds)
        [0.06] [ True]
    """
    sensitivity, top_eigenvalue = (as_values(given, TERMS) for given in (sensitivity, top_eigenvalue))
    if (sensitivity < 0).any():
        raise JaxfairError(f"A sensitivity is {np.nanmin(sensitivity)}; it is an absolute difference, at least 0.")
    if bottom_eigenvalue is not None:
        bottom_eigenvalue = as_values(bottom_eigenvalue, TERMS)
        _check_shapes(top_eigenvalue, bottom_eigenvalue)
        top, bottom = np.broadcast_arrays(np.atleast_1d(top_eigenvalue), np.atleast_1d(bottom_eigenvalue))
        # Lanczos may find one eigenvalue from either side, to a hundredth of it; smaller ones are rounding in float32.
        if (wrong := np.flatnonzero(bottom > np.maximum(0.99 * top, 1.01 * top) + 1e-6)).size:
            pair = f"{bottom[wrong[0]]:g} and the largest {top[wrong[0]]:g}"
            raise JaxfairError(f"A smallest eigenvalue is {pair}; give the two ends of one spectrum.")
        top_eigenvalue = np.maximum(top_eigenvalue, -bottom_eigenvalue)
    return _taylor(gradient_norm, top_eigenvalue, distance, sensitivity)


@checked
def binary_hessian_bound(
    logits_fn: LogitsFn,
    params: Any,
    x: Any,
    y: Int[Array, " n"] | Int[np.ndarray, " n"],
    weights: Float[Array, "g n"] | Float[np.ndarray, "g n"],
    *,
    form: Form = "logit",
    dense_size: Natural = 256,
    tolerance: Positive = 1e-3,
    max_steps: Count = 50,
    seed: Seed = 0,
) -> HessianBound:
    """Bound the largest Hessian eigenvalue of a binary classifier's cross-entropy (Das et al. 2024, Prop. 4.5).

    With ``z = logit_1 - logit_0``, ``h = sigmoid(z)`` and derivatives in the parameters, an example's Hessian is::

        h (1 - h) grad z grad z^T + (h - y) hess z
          = (y / h^2 + (1 - y) / (1 - h)^2) grad h grad h^T + (h - y) / (h (1 - h)) hess h

    ``form="logit"`` is the sum of the first line's largest eigenvalues, an upper bound of ``lambda(H_a)``::

        sum_i w_i [ h (1 - h) ||grad z||^2 + |h - y| lambda(sign(h - y) hess z) ]

    ``form="printed"`` is the proposition as printed, with the probability in every place,
    ``sum_i w_i [ h (1 - h) ||grad h||^2 + |h - y| lambda(hess h) ]``. That is NOT an upper bound: its weights belong to
    derivatives of ``z``, not of ``h`` (for ``z = theta`` at 0 it gives 1/64 for a Hessian of 1/4), and for ``y = 1``,
    whichever of the two is derived, it is the lowest eigenvalue of the score's Hessian that counts (for
    ``z = -theta^2`` at 0 it gives -1/4 for a Hessian of 1). It is offered for comparison.

    Args:
        logits_fn: ``(params, x) -> logits`` of two classes, in evaluation mode.
        params: Pytree of floating-point arrays.
        x: Inputs, a pytree of arrays with n examples along the first axis.
        y: Labels, 0 or 1, shape (n,).
        weights: Weight of each example in each group, shape (g, n), from ``groups.group_weights``; examples of weight
            0 cost nothing.
        form: Which of the two sums to compute.
        dense_size: Number of parameters up to which ``lambda`` comes from the dense Hessian of each example's score;
            above, it is the Lanczos value plus its residual, within which lies an eigenvalue: the largest, unless
            Lanczos stopped before it saw that one.
        tolerance: Relative residual at which Lanczos stops.
        max_steps: Number of Hessian-vector products at most, for each example.
        seed: Seed of Lanczos' start vector.

    Raises:
        JaxfairError: Shapes do not match, there are not two classes, a weight is negative, a value is not finite, or
            the model has a derivative of its own that cannot be differentiated again.
    """
    from scipy.special import expit

    logits_fn = as_pytree(logits_fn)
    params, x, y, weights = check_examples(logits_fn, params, x, y, weights, losses.cross_entropy)
    y, weights = np.asarray(y), weights.astype(float)
    if (weights < 0).any():  # of which the term with the lowest eigenvalue would be the bound
        raise JaxfairError("A weight is below 0, for which there is no upper bound; give weights of at least 0.")
    _check(logits_fn, params, x, y)
    flat, unravel = ravel_pytree(params)
    start = np.random.default_rng(seed).standard_normal(flat.size).astype(flat.dtype)
    terms, converged = np.zeros((2, len(y))), np.ones(len(y), bool)
    with jax.default_matmul_precision("highest"), differentiating():
        for i in np.flatnonzero((weights != 0).any(axis=0)):
            score = Partial(_score, logits_fn, jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], x))
            z, squared_norm = map(float, _logit_and_squared_norm(score, params, form))
            if not (np.isfinite(z) and np.isfinite(squared_norm)):
                raise JaxfairError(f"The score or gradient of example {i} is not finite; check data and parameters.")
            h, miss = expit(z), expit(-z if y[i] else z)  # miss = |h - y|, without cancellation
            sign = -1 if form == "logit" and y[i] else 1
            if flat.size <= dense_size:
                top = np.linalg.eigvalsh(sign * np.asarray(_hessian(score, params, form), float))[-1]
            else:
                product = partial(_product, score, params, form=form)
                found = lanczos.extreme_eigenvalues(
                    lambda v, product=product, sign=sign: sign * product(unravel(jnp.asarray(v))),
                    start,
                    tolerance=tolerance,
                    max_steps=max_steps,
                )
                top, converged[i] = found.values[0] + found.residuals[0], found.converged
            terms[:, i] = h * expit(-z) * squared_norm, miss * top
    gradient_term, curvature_term = terms @ weights.T
    settled = ~((weights != 0) & ~converged).any(axis=1)
    return HessianBound(gradient_term + curvature_term, gradient_term, curvature_term, settled)


def _check_shapes(*values: np.ndarray) -> None:
    shapes = [np.atleast_1d(value).shape for value in values]
    if len({shape for shape in shapes if shape != (1,)}) > 1 or any(len(shape) > 1 for shape in shapes):
        raise JaxfairError(f"Gradient norms, eigenvalues, distances and losses have shapes {shapes}; give one a group.")


def _taylor(gradient_norm: Values, eigenvalue: Values, distance: Values, actual: Values) -> TaylorBound:
    terms = gradient_norm, eigenvalue, distance, actual
    values = [np.atleast_1d(as_values(value, TERMS)) for value in terms]
    _check_shapes(*values)
    g, top, d, seen = np.broadcast_arrays(*values)
    if (g < 0).any() or (d < 0).any():
        raise JaxfairError("A gradient norm or a distance is negative; give L2 norms.")
    with np.errstate(all="ignore"):
        first, second = g * d, 0.5 * top * d**2
        bound = first + second
    if any(np.isinf(part).any() for part in (g, top, d, first, second, bound)):
        raise JaxfairError(
            "A term of the bound is infinite or too large for float64; give finite ones, or NaN for none."
        )
    tightness = np.divide(seen, bound, out=np.full(bound.shape, np.nan), where=bound > 0)
    return TaylorBound(first, second, bound, np.array(seen), seen <= bound, tightness)


def _check(logits_fn: Partial, params: Any, x: Any, y: np.ndarray) -> None:
    one = jax.tree.map(lambda leaf: leaf[:1], x)
    check_second_derivatives(logits_fn, params, one)
    shape = jax.eval_shape(logits_fn, params, one).shape
    if shape != (1, 2) or not np.isin(y, (0, 1)).all():
        raise JaxfairError(
            f"An example's logits have shape {shape}; the proposition is for two classes, labels 0 and 1."
        )


def _score(logits_fn: Partial, x: Any, params: Any, form: Form) -> Float[Array, ""]:
    logits = logits_fn(params, x)[0]
    z = logits[1] - logits[0]
    return z if form == "logit" else jax.nn.sigmoid(z)


@partial(jax.jit, static_argnames=("form",))
def _logit_and_squared_norm(score: Partial, params: Any, form: Form) -> tuple[Array, Array]:
    gradient = ravel_pytree(jax.grad(score)(params, form))[0]
    return score(params, "logit"), jnp.vdot(gradient, gradient)


@partial(jax.jit, static_argnames=("form",))
def _hessian(score: Partial, params: Any, form: Form) -> Float[Array, "p p"]:
    flat, unravel = ravel_pytree(params)
    return jax.hessian(lambda p: score(unravel(p), form))(flat)


@partial(jax.jit, static_argnames=("form",))
def _product(score: Partial, params: Any, v: Any, *, form: Form) -> Float[Array, " p"]:
    return ravel_pytree(jax.jvp(lambda p: jax.grad(score)(p, form), (params,), (v,))[1])[0]
