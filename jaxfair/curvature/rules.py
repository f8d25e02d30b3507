"""Derivatives of a user's own (``jax.custom_vjp``, ``jax.custom_jvp``): whether they may be differentiated again.

A rule that holds a part of itself constant gives the right gradient and a wrong Hessian, which stays symmetric, so that
nothing else would tell.
"""

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

from jaxfair import errors, models


def check_second_derivatives(function: Any, at: Any, beside: Any) -> Any:
    """Raise a JaxfairError for a derivative of a user's own whose derivative, as JAX computes it, is another one.

    A ``stop_gradient`` in a rule, or on what it keeps of the forward pass, leaves the gradient as it is and takes a
    part of the Hessian, without a word. It is asked when a program is traced, of the rules alone and at numbers of our
    own: nothing of the model is computed.

    Args:
        function: ``(at, beside) -> outputs``, as a pytree (``as_pytree``).
        at: What is differentiated with respect to; of it and of the others shapes alone count.
        beside: The other argument.

    Returns:
        The shapes of the outputs, or None of a function that takes none of these, of which nothing is asked.

    Raises:
        JaxfairError: There is such a derivative.
    """
    try:
        traced = models.outputs.trace(*jax.tree.map(_shape, (function, at, beside)))
    except Exception:  # the program itself is traced for the inputs that there are, and says what fails
        return None
    sizes = [len(jax.tree.leaves(part)) for part in (function, at, beside)]
    changing = tuple(part == 1 for part, size in enumerate(sizes) for _ in range(size))
    # A program may be traced around it, of which this is no part and whose products may be coarser.
    with jax.ensure_compile_time_eval(), jax.default_matmul_precision("highest"):
        name = _first_order_only(traced.jaxpr, changing)
    if name is not None:
        raise errors.JaxfairError(
            f"'{name}' has a derivative of its own (jax.custom_vjp or custom_jvp) that holds a part of it constant "
            "when it is differentiated again, as a Hessian needs; leave stop_gradient out of it."
        )
    return traced.out_info


@functools.lru_cache(maxsize=16)  # JAX traces a function of the same shapes once, and programs of several sizes ask
def _first_order_only(traced: ClosedJaxpr, changing: tuple[bool, ...]) -> str | None:
    """Return the name of a function, in a traced one, whose derivative of its own is wrong when differentiated."""
    asked = set()
    for equation, reached in own_derivatives(traced.jaxpr, list(changing)):
        called = equation.params["call_jaxpr"].jaxpr
        source = str(getattr(called.debug_info, "func_src_info", ""))
        if _is_trusted(source) or (key := (source, str(called), tuple(reached))) in asked:  # layers of one kind
            continue
        asked.add(key)
        if _is_first_order(equation, reached):
            return errors.short(source.partition(" at ")[0], 40)
    return None


def _is_trusted(source: str) -> bool:
    """Return whether a function of this name and file is JAX's that every network has, or ours; asking takes time."""
    name, _, file = source.partition(" at ")
    of_jax, ours = (f"{Path(package).parent}{os.sep}" for package in (jax.__file__, errors.__file__))
    return file.startswith(ours) or (file.startswith(of_jax) and name in ("relu", "relu6", "logaddexp"))


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    weak = getattr(jax.typeof(leaf), "weak_type", False)
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf), weak_type=weak)


def own_derivatives(jaxpr: Jaxpr, changing: list[bool]) -> Iterator[tuple[Any, list[bool]]]:
    """Yield the equations of a traced function, at any depth, that have a derivative of their own.

    Args:
        jaxpr: The traced function.
        changing: Which of its arguments change.

    Yields:
        Equations that are differentiated: whose inputs may change, and which of these, and on which a result depends
        by more than a ``stop_gradient``. In loops and branches all may change.
    """
    changed = {id(variable) for variable, changes in zip(jaxpr.invars, changing, strict=True) if changes}
    needed = set(map(id, jaxpr.outvars))
    for equation in reversed(jaxpr.eqns):
        if equation.primitive.name != "stop_gradient" and not needed.isdisjoint(map(id, equation.outvars)):
            needed.update(map(id, equation.invars))
    for equation in jaxpr.eqns:
        inputs = [id(variable) in changed for variable in equation.invars]
        if not any(inputs) or needed.isdisjoint(map(id, equation.outvars)):
            continue
        changed.update(map(id, equation.outvars))
        if equation.primitive.name in ("custom_jvp_call", "custom_vjp_call"):
            yield equation, inputs
        elif (called := models.called_by(equation)) is not None:
            yield from own_derivatives(called, inputs)
        else:
            for inner in models.inner_functions(equation):
                yield from own_derivatives(inner, [True] * len(inner.invars))


DRAWS, STEP, SCALES = 6, 1 / 32, (1, 1 / 16)
"""How often a rule is asked, how far from where, and of normal numbers of which sizes; powers of 2 add no rounding."""
LARGEST = 2**22
"""Numbers of a rule that is asked; one of more would take long, and much memory."""


def _is_first_order(equation: Any, reached: list[bool]) -> bool:
    """Return whether JAX's derivative of a rule differs from what the rule's own values say, by central differences.

    Only a number whose differences agree at two steps is a witness. Where a rule has a kink or jumps, as those of ReLUs
    and of roundings do, they do not; where it is flat, as straight through a rounding, there is nothing to see.
    """
    rng = np.random.default_rng(0)
    inputs = {v: r for v, r in zip(equation.invars, reached, strict=True) if not isinstance(v, Literal)}
    keys = any(jnp.issubdtype(variable.aval.dtype, jax.dtypes.extended) for variable in inputs)
    if keys or sum(variable.aval.size for variable in inputs) > LARGEST:
        return False  # of random keys, which have no numbers, nothing is asked
    changing = [changes and jnp.issubdtype(v.aval.dtype, jnp.floating) for v, changes in inputs.items()]
    results = [v for v in equation.outvars if jnp.issubdtype(v.aval.dtype, jnp.floating)]
    seen = _slopes(equation, list(inputs), changing, results)

    def drawn(variables: list[Any], scale: float) -> list[np.ndarray]:
        return [_numbers(rng, variable.aval, scale) for variable in variables]

    own, others = ([v for v, changes in zip(inputs, changing, strict=True) if changes is of] for of in (True, False))
    for scale in SCALES:
        try:
            draws = [
                seen(drawn(own, scale), drawn(own, scale), drawn(others, scale), drawn(results, 1))
                for _ in range(DRAWS)
            ]
        except Exception:  # what cannot be asked by itself, as within a mapped axis, the Hessian's own trace asks
            return False
        if any(map(_disagree, *(map(np.stack, zip(*found, strict=True)) for found in zip(*draws, strict=True)))):
            return True
    return False


def _numbers(rng: np.random.Generator, kind: Any, scale: float) -> np.ndarray:
    """Return normal numbers of a shape and type; of others than these what masks nothing and is within bounds."""
    if jnp.issubdtype(kind.dtype, jnp.floating):
        return (scale * rng.standard_normal(kind.shape)).astype(kind.dtype)
    return np.full(kind.shape, np.issubdtype(kind.dtype, np.bool_), kind.dtype)


def _slopes(equation: Any, inputs: list[Any], changing: list[bool], results: list[Any]) -> Any:
    """Return what computes an equation's pullback at numbers, its derivative along others, and differences of it."""
    jaxpr = Jaxpr((), inputs, results, [equation], equation.effects, equation.params["call_jaxpr"].jaxpr.debug_info)
    function = jaxpr_as_fun(ClosedJaxpr(jaxpr, ()))

    def slopes(at: list[Any], along: list[Any], beside: list[Any], cotangents: list[Any]) -> Any:
        def of(own: list[Any]) -> Any:
            rest = iter(own), iter(beside)
            return function(*(next(rest[0 if changes else 1]) for changes in changing))

        def pulled(own: list[Any]) -> Any:
            return jax.vjp(of, own)[1](cotangents)[0]

        def apart(step: float) -> Any:
            ends = (pulled([z + way * step * d for z, d in zip(at, along, strict=True)]) for way in (1, -1))
            return jax.tree.map(lambda ahead, behind: (ahead - behind) / (2 * step), *ends)

        return pulled(at), jax.jvp(pulled, (at,), (along,))[1], apart(STEP), apart(2 * STEP)

    return jax.jit(slopes)


def _disagree(value: np.ndarray, exact: np.ndarray, near: np.ndarray, far: np.ndarray) -> bool:
    """Return whether most witnesses, and these most of the numbers that change at all, say that a derivative is wrong.

    Args:
        value: A rule's cotangents of one input, some draws of them.
        exact: Their derivative.
        near: Their differences.
        far: Those at a longer step.
    """
    rounding = 64 * float(jnp.finfo(value.dtype).eps) / STEP
    value, exact, near, far = (of.astype(np.float64) for of in (value, exact, near, far))
    with np.errstate(invalid="ignore"):
        change = np.abs(near) > rounding * np.abs(value[np.isfinite(value)]).max(initial=0.0)
        steady = change & (np.abs(near - far) <= 0.1 * np.abs(near))
        wrong = steady & (np.abs(exact - near) > 0.3 * np.abs(near))
    return bool(2 * wrong.sum() > steady.sum() and 2 * steady.sum() > change.sum())
