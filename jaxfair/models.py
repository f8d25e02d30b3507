"""What users hand over of a model: its function, its parameters, and examples that fit both, or one sentence.

A function is asked for the shape of its outputs before anything is computed. Whatever it raises, then or later, is said
as what the user is to change, whatever library it is written with.
"""

import contextlib
import functools
import operator
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.experimental import checkify
from jax.extend.core import Jaxpr
from jax.lax import GatherScatterMode

from jaxfair.errors import JaxfairError
from jaxfair.inputs import (
    as_array,
    as_inputs,
    check_lengths,
    check_outside_of_jit,
    check_rounding,
    check_untraced,
    leaves,
    on_one_device,
    quoted,
)
from jaxfair.labels import as_labels, as_told
from jaxfair.words import cut

FEW = 8
"""Examples of which a model is asked before anything is measured, if there are as many; one size is traced once."""


def check_parameters(params: Any) -> None:
    """Raise a JaxfairError unless parameters are arrays of float32 or float64, which second derivatives need."""
    if not leaves(params, "parameters"):
        raise JaxfairError("There are no parameters; give a pytree of floating-point arrays.")
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = path_name(path)
        if isinstance(leaf, np.ma.MaskedArray):
            raise JaxfairError(f"The parameter '{name}' is a masked array; give one without a mask.")
        if isinstance(leaf, Tracer):
            raise JaxfairError(
                f"The parameter '{name}' is traced by JAX; call this outside of jit, grad and vmap: it compiles what "
                "it needs by itself."
            )
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise JaxfairError(f"The parameter '{name}' is a shape without numbers; give the arrays themselves.")
        is_array = isinstance(leaf, jax.Array | np.ndarray | np.generic)  # a column of pandas has a dtype, too
        if not is_array or leaf.dtype not in (jnp.float32, jnp.float64):
            kind = leaf.dtype if is_array else type(leaf).__name__
            kind = f"{kind}, of another byte order" if str(kind)[:1] in "<>" else kind
            raise JaxfairError(
                f"The parameter '{name}' has type {kind}; second derivatives need arrays of float32 or float64: "
                "convert it, or keep it out of params."
            )
        if isinstance(leaf, jax.Array) and leaf.is_deleted():
            raise JaxfairError(f"The parameter '{name}' was donated to a jitted function and is gone; keep a copy.")
        check_rounding(leaf if isinstance(leaf, jax.Array) else np.ravel(leaf), f"parameter '{name}'")
    if not any(leaf.size for leaf in jax.tree.leaves(params)):
        raise JaxfairError("The parameters hold no number; give arrays that are not empty.")


def step_between(before: Any, after: Any) -> np.ndarray:
    """Return the change of parameters as one vector, of their type; a small one has not lost its digits.

    Raises:
        JaxfairError: It is not finite.
    """
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    steps = [(np.asarray(b, np.float64) - np.asarray(a, np.float64)).ravel() for a, b in pairs]
    step = np.concatenate(steps).astype(jnp.result_type(*jax.tree.leaves(before)))
    if not np.isfinite(step).all():
        raise JaxfairError("A parameter before or after the change is not a finite number; check the networks.")
    return step


def tree_difference(params: Any, other: Any) -> str:
    """Return at which path two trees of parameters first differ in shape, in words; empty where they are alike."""
    if found := first_difference(params, other):
        return "the parameter '{}' is {} before and {} after".format(*found)
    if jax.tree.structure(params) != jax.tree.structure(other):
        return "the trees of parameters are of different structure"
    return ""


def first_difference(tree: Any, other: Any) -> tuple[str, str, str] | None:
    """Return at which path two trees of arrays first differ in shape, and what stands there; None where nowhere."""
    for one in (tree, other):
        leaves(one, "parameters")  # or JAX's own error of keys that cannot be sorted
    trees = [dict(jax.tree_util.tree_flatten_with_path(one)[0]) for one in (tree, other)]
    for path in [*trees[0], *trees[1]]:
        shapes = [np.shape(one[path]) if path in one else None for one in trees]
        if shapes[0] != shapes[1]:
            has, needs = ("absent" if shape is None else f"of shape {shape}" for shape in shapes)
            return path_name(path), has, needs
    return None


def as_examples(logits_fn: Any, params: Any, x: Any, y: Any, *, labelled: bool) -> tuple[Any, Any, Any]:
    """Return parameters, inputs and labels as arrays that fit the model and one another.

    Args:
        logits_fn: ``(params, x) -> logits``, of whose shape alone something is asked.
        params: Its parameters, float32 or float64.
        x: Inputs, n examples along the first axis.
        y: Labels, or what a loss of the user's takes, n examples along the first axis.
        labelled: Whether ``y`` has to hold one class for each example, as cross-entropy needs.

    Raises:
        JaxfairError: They do not fit, are not what they have to be, or no output depends on any parameter.
    """
    check_parameters(params)
    params, x = on_one_device((params, as_inputs(x)))
    check_untraced(x, "inputs")
    check_outside_of_jit()
    count = len(jax.tree.leaves(x)[0])
    if not count:
        raise JaxfairError("There are no examples; give at least one.")
    if not jax.sharding.get_abstract_mesh().empty:
        raise JaxfairError("A mesh is set by jax.set_mesh; call this outside of it: it uses all devices by itself.")
    y = as_array(y, "labels")
    check_untraced(y, "labels")
    if np.ndim(y) and isinstance(x, list | tuple) and len(x) == len(y) != count:
        raise JaxfairError(
            f"There are {count} inputs, {len(y)} labels: the list's {len(x)} arrays are taken for as many inputs of a "
            "model; stack the examples."
        )
    if np.ndim(y):
        check_lengths(inputs=count, labels=len(y))
    if not labelled:
        y = as_told(y)
    few = min(count, FEW)  # one alone would be taken by a model that is written for one
    with asking("logits_fn(params, x)", LOGITS_FN), jax.default_matmul_precision("highest"):
        traced = outputs.trace(logits_fn, params, jax.tree.map(lambda leaf: leaf[:few], x))
    _check_outputs(traced.out_info, few, labelled=labelled)
    _check_read(traced, logits_fn, params)
    _check_indices(traced, logits_fn, params, x)
    if labelled:
        y = as_labels(y, traced.out_info.shape[1])
    check_lengths(inputs=count, labels=len(y) if np.ndim(y) else 0)
    return params, x, y


def _check_outputs(found: Any, count: int, *, labelled: bool) -> None:
    """Raise a JaxfairError unless what a model returns of some examples has a derivative, and is logits if labelled."""
    shape, kinds = getattr(found, "shape", None), {leaf.dtype for leaf in jax.tree.leaves(found)}
    if labelled and (shape is None or len(shape) != 2 or shape[0] != count):
        given = f"a {type(found).__name__}" if shape is None else f"shape {shape}"
        of = "1 example" if count == 1 else f"{count} examples"
        raise JaxfairError(f"logits_fn returned {given} for {of}; expected (n, classes).")
    if not any(jnp.issubdtype(kind, jnp.floating if labelled else jnp.inexact) for kind in kinds):
        given = f"numbers of type {quoted(sorted(map(str, kinds)))}" if kinds else "no numbers"
        raise JaxfairError(f"logits_fn returned {given}; return floating-point logits.")
    if labelled and found.shape[1] == 1:
        raise JaxfairError("The network has one logit, whose cross-entropy is 0; give a loss for two classes.")


def _check_read(traced: Any, logits_fn: Any, params: Any) -> None:
    """Raise a JaxfairError if no output of a traced model depends on any parameter."""
    if len(unused_parameters(traced, logits_fn, params)) == sum(leaf.size > 0 for leaf in jax.tree.leaves(params)):
        raise JaxfairError(
            "The outputs of logits_fn(params, x) do not depend on params, so that every derivative is 0; compute with "
            "the argument in it, not with parameters that the function holds."
        )


def unused_parameters(traced: Any, logits_fn: Any, params: Any) -> list[int]:
    """Return the places among the parameters' arrays, of those that hold a number, that no output depends on.

    Args:
        traced: ``outputs``, traced for the next two and for some inputs.
        logits_fn: The model, as a pytree (``as_pytree``).
        params: Its parameters.
    """
    first, arguments = len(jax.tree.leaves(logits_fn)), len(traced.jaxpr.jaxpr.invars)
    used = functools.reduce(operator.or_, dependencies(traced.jaxpr.jaxpr, [1 << i for i in range(arguments)]), 0)
    return [i for i, leaf in enumerate(jax.tree.leaves(params)) if leaf.size and not used >> (first + i) & 1]


def in_words(params: Any, which: list[int]) -> str:
    """Say which of the parameters' arrays are meant: how many of how many, the first ones by their paths and shapes.

    A path alone says little where a tree numbers its arrays, and those of a deep network begin alike.
    """
    arrays = jax.tree_util.tree_flatten_with_path(params)[0]
    names = cut([_path(arrays[i][0]) for i in which], 50)
    said = [f"'{name}' of shape {arrays[i][1].shape}" for name, i in zip(names[:3], which, strict=False)]
    more = f" and {len(which) - 3} more" if len(which) > 3 else ""
    return f"{len(which)} of the {len(arrays)} arrays of parameters ({', '.join(said)}{more})"


def path_name(path: Any) -> str:
    """Return what messages call the place of an array of parameters, of bounded length."""
    return cut([_path(path)])[0]


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/") or "params"


def dependencies(jaxpr: Jaxpr, given: list[int]) -> list[int]:
    """Return for each result of a traced function the bits that are given of any argument that it may depend on."""
    found = dict(zip(map(id, jaxpr.invars), given, strict=True))
    for equation in jaxpr.eqns:
        inputs = [found.get(id(variable), 0) for variable in equation.invars]
        if any(inputs):
            called = called_by(equation)
            every = [functools.reduce(operator.or_, inputs)] * len(equation.outvars)
            results = every if called is None else dependencies(called, inputs)
            found.update(zip(map(id, equation.outvars), results, strict=True))
    return [found.get(id(variable), 0) for variable in jaxpr.outvars]


def called_by(equation: Any) -> Any:
    """Return the traced function that an equation calls as it is, on its inputs in their order; None for any other."""
    return equation.params["jaxpr"].jaxpr if equation.primitive.name in ("jit", "pjit") else None


def _check_indices(traced: Any, logits_fn: Any, params: Any, x: Any) -> None:
    """Raise a JaxfairError if a traced model indexes an array outside of it, as by a token that no embedding has.

    JAX promises nothing then: another value is read, and its derivative goes nowhere. Asked of the examples with the
    least and the largest of each input of whole numbers, where these are in memory.
    """
    whole = [leaf for leaf in jax.tree.leaves(x) if hasattr(leaf, "argmin") and jnp.issubdtype(leaf.dtype, jnp.integer)]
    whole = [leaf for leaf in whole if leaf.size]
    if not whole or not (promised := _indexed(traced.jaxpr.jaxpr, True)):
        return
    ends = [int(end) // (leaf.size // len(leaf)) for leaf in whole for end in (leaf.argmin(), leaf.argmax())]
    some = jax.tree.map(lambda leaf: leaf[np.resize(ends, max(FEW, len(ends)))], x)
    try:
        found = _outside(logits_fn, params, some).get()
    except Exception:  # what it cannot look into, such as a derivative of the user's own, is not asked
        return
    shape = re.search(r" of shape (\(.*?\))", found or "")
    others = _indexed(traced.jaxpr.jaxpr, False)  # what is said of checks all ways of indexing alike
    if shape is not None and shape[1] in promised - others:
        numbers = min(int(leaf.min()) for leaf in whole), max(int(leaf.max()) for leaf in whole)
        raise JaxfairError(
            f"The model indexes an array of shape {shape[1]} outside of it, of which JAX makes another place; "
            f"give indices that it has (the inputs have whole numbers from {numbers[0]} to {numbers[1]})."
        )


@jax.jit
def _outside(logits_fn: Any, params: Any, x: Any) -> Any:
    """Return what JAX says of places outside of arrays that a model indexes; all else that it computes is left out."""
    return checkify.checkify(outputs, errors=checkify.index_checks)(logits_fn, params, x)[0]


def _indexed(jaxpr: Any, promised: bool) -> set[str]:
    """Return shapes of arrays that are indexed at places taken on trust, or at those that JAX clips or leaves out."""
    ways = [each for each in equations(jaxpr) if "mode" in each.params or each.primitive.name.startswith("dynamic_")]
    trusted = GatherScatterMode.PROMISE_IN_BOUNDS
    some = [each for each in ways if (each.params.get("mode") == trusted) == promised]
    return {str(each.invars[0].aval.shape) for each in some}


LOGITS_FN = "a function of parameters and a batch of inputs and its parameters, such as frozen(network), network.params"


@contextlib.contextmanager
def asking(what: str, wanted: str) -> Iterator[None]:
    """Raise a JaxfairError for whatever a function of the user's raises, of whatever library it is written with.

    Args:
        what: The function's call.
        wanted: What was expected of the user.
    """
    name = what.partition("(")[0]
    try:
        yield
    except JaxfairError:
        raise
    except jax.errors.UnexpectedTracerError as error:
        raise JaxfairError(
            f"{name} keeps a value of one call for the next, such as a random key; bind one value, or leave it out."
        ) from error
    except jax.errors.JAXTypeError as error:
        raise JaxfairError(
            f"{name} cannot be differentiated: it leaves JAX, by NumPy, float() or an 'if' about values; use jax.numpy "
            "in it."
        ) from error
    except Exception as error:
        said = " ".join(str(error).split())[:150]
        raise JaxfairError(f"{what} fails ({said}); give {wanted}.") from error


@contextlib.contextmanager
def differentiating() -> Iterator[None]:
    """Raise a JaxfairError where JAX cannot differentiate a function of the user's, once or a second time."""
    try:
        yield
    except JaxfairError:
        raise
    except (TypeError, ValueError, NotImplementedError) as error:
        if any(words in str(error) for words in ("differentiation does not work", "do not support JVP")):
            raise JaxfairError(
                "The model has a loop of unknown length or a callback, which JAX cannot differentiate; give a loop of "
                "fixed length, or what it computes in jax.numpy."
            ) from error
        if "custom_vjp" in str(error):
            raise JaxfairError(
                "The model has a derivative of its own (jax.custom_vjp) that cannot be differentiated again, as a "
                "Hessian needs; give it a jax.custom_jvp."
            ) from error
        said = " ".join(str(error).split())[:150]
        if isinstance(error, NotImplementedError) and "vmap is only supported" in said:  # of a callback in a derivative
            raise JaxfairError(
                f"JAX cannot map the model over examples ({said}); give what it calls in jax.numpy."
            ) from error
        if isinstance(error, NotImplementedError) and "ifferentiation" in str(error):
            raise JaxfairError(
                f"JAX lacks a derivative that the model needs ({said}); give functions that it can differentiate twice."
            ) from error
        raise


def inner_functions(equation: Any) -> Iterator[Any]:
    """Yield the traced functions that an equation holds, such as a loop's body or the branches of a condition."""
    for value in equation.params.values():
        for part in value if isinstance(value, list | tuple) else (value,):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                yield inner


def equations(jaxpr: Any) -> Iterator[Any]:
    """Yield the equations of a traced function at any depth: those of loops, branches and functions that it calls."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in inner_functions(equation):
            yield from equations(inner)


@jax.jit
def outputs(logits_fn: Any, params: Any, x: Any) -> Any:
    """Return ``logits_fn(params, x)``; for a function that is a pytree (``as_pytree``) compiled once a shape."""
    return widened(logits_fn(params, x))


def widened(found: Any) -> Any:
    """Return outputs of half precision in float32, as a loss takes them: in half of it a small loss is rounded to 0."""

    def wide(leaf: Any) -> Any:
        kind = jnp.result_type(leaf)
        return leaf.astype(jnp.float32) if jnp.issubdtype(kind, jnp.floating) and kind.itemsize < 4 else leaf

    return jax.tree.map(wide, found)
