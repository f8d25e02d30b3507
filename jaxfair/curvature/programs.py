"""The compiled functions of one chunk: loss, gradient, and products with the Hessian or the Gauss-Newton matrix."""

import dataclasses
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jaxfair import losses, models
from jaxfair.curvature import rules
from jaxfair.curvature.captured import Captured
from jaxfair.curvature.chunks import Chunk
from jaxfair.errors import JaxfairError
from jaxfair.inputs import on_one_device

LogitsFn = Callable[[Any, Any], Any]  # (params, x) -> logits; Classifier, in margins, is x -> logits
LossFn = Callable[[Any, Any], Any]
Kind = Literal["hessian", "gauss_newton"]
SETTING = int | np.bool_ | np.integer
"""What a ``Partial`` binds as a flag or a size."""
ALONE = {"xla_cpu_multi_thread_eigen": False, "xla_disable_hlo_passes": "cpu-parallel-task-assigner"}
"""Keeps a program on the thread that calls it. Every core has a chunk of its own; to wake another thread for half of a
copy takes longer than the copy, on a virtual machine milliseconds."""


class Model(NamedTuple):
    """What is differentiated, as an argument of jitted functions.

    Attributes:
        logits_fn: ``(params, x) -> outputs``.
        loss: ``(outputs, y) -> per-example losses`` of shape (m,).
    """

    logits_fn: Partial
    loss: Partial


def as_pytree(function: Callable, *bound: Any) -> Partial:
    """Return a function, its first arguments bound, that can itself be an argument of a jitted one.

    Functions that differ in the arrays alone that they hold, such as networks of one module, share compiled programs.

    Args:
        function: A plain function, which is part of a program with all that it reads (``Captured``), or a pytree that
            can be called, such as a ``Partial``, whose arrays are arguments of it. A pytree that holds more than
            arrays, such as its activation functions, is taken as a plain function; so are flags and whole numbers
            that a ``Partial`` binds, such as ``train=False``, of Python or of NumPy.
        bound: Pytrees to call it with, before the arguments that the result takes: ``as_pytree(logits_fn, params)``
            is a function of the inputs alone.

    Raises:
        JaxfairError: What is no function, or a ``Partial`` that binds what is no argument of a jitted one, such as a
            text or an activation function.
    """
    if not callable(function):
        raise JaxfairError(
            f"A {type(function).__name__} was given where a function is needed; give (params, x) -> logits."
        )
    if not isinstance(function, Partial) and not all(map(_is_argument, jax.tree.leaves(function))):
        return Partial(_captured(function), *bound)
    if odd := [leaf for leaf in jax.tree.leaves(function) if not (_is_argument(leaf) or isinstance(leaf, SETTING))]:
        said = f"'{str(odd[0])[:30]}'" if isinstance(odd[0], str | bytes) else f"a {type(odd[0]).__name__}"
        raise JaxfairError(f"The function binds {said}, no array; bind it by a lambda, not by a Partial.")
    function = on_one_device(function)
    if not isinstance(function, Partial):
        return Partial(_call, function, *bound)
    # A Partial of a Partial would hide the inner one's arrays from jit.
    inner, held = _captured(function.func), ((*function.args, *bound), function.keywords)
    leaves, tree = jax.tree.flatten(held)
    if not any(isinstance(leaf, SETTING) for leaf in leaves):
        return Partial(inner, *held[0], **held[1])
    # An ``if train`` or a slice of the user's would meet a tracer; ``True`` is equal to 1, and another setting.
    settings = tuple((type(leaf), leaf) if isinstance(leaf, SETTING) else None for leaf in leaves)
    return Partial(_Set(inner, tree, settings), [leaf for leaf in leaves if not isinstance(leaf, SETTING)])


def _is_argument(leaf: Any) -> bool:
    """Return whether a compiled function takes a leaf as an argument; whole numbers are shapes or counts as a rule."""
    return hasattr(leaf, "dtype") or isinstance(leaf, float | complex)


def _captured(function: Callable) -> Callable:
    return function if isinstance(function, Captured | _Set) or function is _call else Captured(function)


def _call(function: Callable, *arguments: Any) -> Any:
    return function(*arguments)


@dataclasses.dataclass(frozen=True)
class _Set:
    """A function whose flags and whole numbers are set, and are part of a program; its arrays come in a list.

    Attributes:
        function: What is called.
        tree: The structure of its first arguments and keywords.
        settings: Of each of their leaves the type and the value, or None where an array comes.
    """

    function: Callable
    tree: Any
    settings: tuple[tuple[type, Any] | None, ...]

    def __call__(self, arrays: list[Any], *arguments: Any) -> Any:
        left = iter(arrays)
        leaves = [next(left) if setting is None else setting[1] for setting in self.settings]
        bound, keywords = jax.tree.unflatten(self.tree, leaves)
        return self.function(*bound, *arguments, **keywords)


class Programs(NamedTuple):
    """Compiled functions; the first argument but for the kind is a total that they consume and add to.

    Attributes:
        loss_and_gradient: ``(total, model, params, chunk) -> total`` of the weighted loss and flat gradient.
        norms: ``(model, params, chunk) -> norms`` of each example's own gradient.
        keep: ``(kind, total, model, params, chunk) -> linear, *total``: the pass that ``apply`` takes.
        apply: ``(total, linear, params, vector) -> total`` of products.
        product: ``(kind, total, model, params, chunk, vector) -> total`` of products, the pass computed again.
    """

    loss_and_gradient: Any
    norms: Any
    keep: Any
    apply: Any
    product: Any


def at_precision(precision: str) -> AbstractContextManager[None]:
    """Return a context in which matrix products have this precision, as ``jax.default_matmul_precision`` names it."""
    try:
        return jax.default_matmul_precision(precision)
    except ValueError:
        raise JaxfairError(
            f"There is no precision '{precision}'; give highest (full float32), default (the device's own), "
            "tensorfloat32 or bfloat16."
        ) from None


@functools.cache
def programs(backend: str, precision: str) -> Programs:
    """Return the compiled functions of a backend, which add to a total that they consume.

    ``precision`` is part of the program, whatever thread runs it.
    """
    options = ALONE if backend == "cpu" else None

    def compiled(function: Callable, total: int | None = 0) -> Any:
        @functools.wraps(function)
        def wrapped(*arguments: Any) -> Any:
            with at_precision(precision):
                return function(*arguments)

        static = 0 if total else None  # the kind comes before the total
        return jax.jit(wrapped, static_argnums=static, donate_argnums=total, compiler_options=options)

    def apply(total: Array, kept: Partial, params: Any, vector: Array) -> Array:
        def one(vector: Array) -> Array:
            return ravel_pytree(kept(ravel_pytree(params)[1](vector)))[0]

        return total + (one(vector) if vector.ndim == 1 else jax.vmap(one)(vector))

    def product(kind: Kind, total: Array, model: Model, params: Any, chunk: Chunk, vector: Array) -> Array:
        return apply(total, linear_map(kind, model, params, chunk)[0], params, vector)

    return Programs(
        compiled(_loss_and_gradient), compiled(_norms, None), compiled(_keep, 1), compiled(apply), compiled(product, 1)
    )


def depends_on_last(traced: ClosedJaxpr, count: int) -> tuple[bool, ...]:
    """Return for each result of a traced function whether it may depend on any of its last ``count`` arguments."""
    arguments = len(traced.jaxpr.invars)
    last = [int(i >= arguments - count) for i in range(arguments)]
    return tuple(map(bool, models.dependencies(traced.jaxpr, last)))


def has_derivative(function: Any, at: Any) -> tuple[bool, ...]:
    """Return for each array of an argument whether the derivative by it may be other than 0; a trace alone says so.

    Raises:
        JaxfairError: JAX cannot differentiate the function.
    """
    with models.differentiating():
        return depends_on_last(_scaled_gradient.trace(function, at, 1.0).jaxpr, 1)


@jax.jit
def _scaled_gradient(function: Partial, at: Any, scale: Any) -> Any:
    """Return the gradient of the results' sum times a scale, on which every part of it that is not 0 depends."""
    found, pull_back = jax.vjp(function, at)
    return pull_back(jnp.full_like(found, scale))


def multiplies_batches(jaxpr: Any) -> bool:
    """Return whether a traced function multiplies a batch of matrices by a batch of others, as attention does."""
    products = [each for each in models.equations(jaxpr) if each.primitive.name == "dot_general"]
    return any(any(each.params["dimension_numbers"][1]) for each in products)


def operations(jaxpr: Any) -> float:
    """Count the multiplications and additions of a traced function's convolutions and matrix products, by their shapes.

    Padding counts as if it were multiplied; all else, such as batch norm, ReLUs and sums, is left out. What a loop
    computes counts once.
    """
    total = 0.0
    for equation in models.equations(jaxpr):
        shapes: list[Any] = [getattr(variable.aval, "shape", ()) for variable in equation.invars]
        output = float(np.prod(getattr(equation.outvars[0].aval, "shape", ()))) if equation.outvars else 0.0
        if equation.primitive.name == "conv_general_dilated":
            channels_out = equation.params["dimension_numbers"].rhs_spec[0]
            total += 2 * output * np.prod(shapes[1]) / shapes[1][channels_out]
        elif equation.primitive.name in ("convolve", "kernel_gradient"):  # of networks.convolutions
            factor = shapes[1] if equation.primitive.name == "convolve" else shapes[0]
            total += 2 * output * np.prod(factor) / factor[-1]
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += 2 * output * np.prod([shapes[0][axis] for axis in contracted])
    return float(total)


def _loss(model: Model, chunk: Chunk, params: Any) -> Float[Array, ""]:
    return _weighted(model, chunk, models.widened(model.logits_fn(params, chunk.x)))


def _weighted(model: Model, chunk: Chunk, outputs: Any) -> Float[Array, ""]:
    """Return the weighted loss of outputs; what the user's function returned is checked while it is traced."""
    count = len(chunk.weight)
    if model.loss.func == Captured(losses.cross_entropy) and (np.ndim(outputs) != 2 or len(outputs) != count):
        given = f"shape {outputs.shape}" if hasattr(outputs, "shape") else f"a {type(outputs).__name__}"
        raise JaxfairError(f"logits_fn returned {given} for {count} examples; expected an array (n, classes).")
    return jnp.vdot(chunk.weight, per_example(model.loss, outputs, chunk.y))


def per_example(loss: LossFn, outputs: Any, y: Any) -> Any:
    """Return the loss of each example, of a function of the user's whose result is checked while it is traced."""
    found = loss(outputs, y)
    if getattr(found, "shape", None) != (len(y),):
        given = f"shape {found.shape}" if hasattr(found, "shape") else f"a {type(found).__name__}"
        raise JaxfairError(f"The loss returned {given} for {len(y)} examples; expected one number for each, (n,).")
    return found


def _loss_and_gradient(total: Any, model: Model, params: Any, chunk: Chunk) -> tuple[Array, Array]:
    loss, gradient = jax.value_and_grad(functools.partial(_loss, model, chunk))(params)
    return total[0] + loss, total[1] + ravel_pytree(gradient)[0]


def _norms(model: Model, params: Any, chunk: Chunk) -> Float[Array, " m"]:
    def norm(x: Any, y: Any) -> Float[Array, ""]:
        alone = jax.tree.map(lambda leaf: leaf[None], Chunk(x, y, jnp.ones((), chunk.weight.dtype)))
        gradient = jax.grad(functools.partial(_loss, model, alone))(params)
        leaves = [leaf for leaf in jax.tree.leaves(gradient) if leaf.size]
        largest = functools.reduce(jnp.maximum, [jnp.abs(leaf).max() for leaf in leaves])
        exponent = jnp.frexp(largest)[1]  # float32 squares nothing below 1e-23 or above 1e19
        half = exponent // 2  # of the scale, which by itself would not be finite for the smallest
        first, second = (jnp.ldexp(jnp.ones((), largest.dtype), -part) for part in (half, exponent - half))
        return jnp.ldexp(jnp.sqrt(sum(jnp.square(leaf * first * second).sum() for leaf in leaves)), exponent)

    return jax.vmap(norm)(chunk.x, chunk.y)


def _keep(kind: Kind, total: Any, model: Model, params: Any, chunk: Chunk) -> tuple[Any, Array, Array]:
    """Return the linear map of a chunk, and the totals with what the Hessian's pass has computed on its way."""
    linear, loss, gradient = linear_map(kind, model, params, chunk)
    return linear, total[0] + loss, total[1] + gradient


def linear_map(kind: Kind, model: Model, params: Any, chunk: Chunk) -> tuple[Any, Any, Any]:
    """Return the product as a linear function of a pytree of tangents, its primal pass done.

    Beside it the loss and flat gradient, which are 0 for Gauss-Newton. A derivative of the user's own that cannot be
    differentiated again is refused while this is traced.
    """
    _check_derivatives(kind, model, params, chunk)
    if kind == "hessian":

        def gradient_and_loss(p: Any) -> tuple[Any, Any]:
            loss, gradient = jax.value_and_grad(functools.partial(_loss, model, chunk))(p)
            return gradient, loss

        gradient, linear, loss = jax.linearize(gradient_and_loss, params, has_aux=True)
        return linear, loss, ravel_pytree(gradient)[0]
    outputs, tangent = jax.linearize(lambda p: models.widened(model.logits_fn(p, chunk.x)), params)
    slope = jax.grad(functools.partial(_weighted, model, chunk))
    return Partial(_gauss_newton, tangent, jax.linearize(slope, outputs)[1]), 0, 0


def _check_derivatives(kind: Kind, model: Model, params: Any, chunk: Chunk) -> None:
    """Raise a JaxfairError if the model's or the loss's derivative is the user's own and its derivative is wrong.

    The Gauss-Newton matrix takes that of the loss alone.
    """

    def few(leaf: Any) -> jax.ShapeDtypeStruct:  # as many as a model is asked of at the door
        return jax.ShapeDtypeStruct((models.FEW, *leaf.shape[1:]), leaf.dtype)

    some = jax.tree.map(few, chunk.x)
    if kind == "hessian":
        found = rules.check_second_derivatives(model.logits_fn, params, some)
    else:
        found = jax.eval_shape(models.outputs, model.logits_fn, params, some)
    if found is not None:
        rules.check_second_derivatives(model.loss, found, few(chunk.y))


def _gauss_newton(tangent: Any, curvature: Any, vector: Any) -> Any:
    """Compute ``J^T L J v``, L the loss's Hessian in the outputs: without the network's own curvature."""
    return jax.linear_transpose(tangent, vector)(curvature(tangent(vector)))[0]
