"""How to loop over jitted steps: the one place that knows what is fast on which backend."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


@dataclasses.dataclass(frozen=True)
class Together:
    """A step over several seeds at once, as a step of its own.

    Attributes:
        step: pure and hashable, ``step(carry, fixed, x) -> (carry, y)``.
        in_axes: of the three arguments, as ``jax.vmap`` takes them.
    """

    step: Callable
    in_axes: Any

    def __call__(self, carry: Any, fixed: Any, x: Any) -> Any:
        """Map the step."""
        return jax.vmap(self.step, in_axes=self.in_axes)(carry, fixed, x)


@partial(jax.jit, static_argnames=("step",), donate_argnames=("carry",))
def _run_steps(step: Callable, carry: Any, fixed: Any, xs: Any) -> tuple[Any, Any]:
    if len(jax.tree.leaves(xs)[0]) > 1:
        return jax.lax.scan(lambda c, x: step(c, fixed, x), carry, xs)
    carry, y = step(carry, fixed, jax.tree.map(lambda a: a[0], xs))
    return carry, jax.tree.map(lambda a: a[None], y)


def run_epoch(
    step: Callable,
    carry: Any,
    fixed: Any,
    xs: Any,
    *,
    fused: bool | None = None,
    fetch: Callable[[Any, Any], tuple[Any, Any]] | None = None,
) -> tuple[Any, Any]:
    """Run ``carry, y = step(carry, fixed, x)`` over the leading axis of ``xs``; ``carry`` is consumed.

    On CPU each step is a call of its own, since XLA:CPU runs convolutions
    inside ``scan`` 10 to 30 times slower; elsewhere the epoch is one ``scan``.

    Args:
        step: pure and hashable.
        carry: what a step changes.
        fixed: what it does not.
        xs: arrays of shape (steps, ...).
        fused: one program for all steps; by default on every backend but the CPU.
        fetch: ``fixed, x -> fixed, x``, called on the host before each step if its inputs have to be read first, with
            ``x`` of shape (1, ...). Each step is a call of its own then, and while it runs the next one's are read.

    Returns:
        The last carry, and the steps' outputs as NumPy arrays of shape (steps, ...).
    """
    if fetch is None and (fused if fused is not None else jax.default_backend() != "cpu"):
        carry, ys = _run_steps(step, carry, fixed, xs)
        return carry, jax.tree.map(np.asarray, ys)
    outputs = []
    for i in range(len(jax.tree.leaves(xs)[0])):
        inputs = fixed, jax.tree.map(lambda a, i=i: a[i : i + 1], xs)
        carry, y = _run_steps(step, carry, *(inputs if fetch is None else fetch(*inputs)))
        outputs.append(y)
        if fetch is not None and i:
            jax.block_until_ready(outputs[i - 1])  # or all the inputs of an epoch would wait on the device
    return carry, jax.tree.map(lambda *ys: np.concatenate([np.asarray(y) for y in ys]), *outputs)


_call = jax.jit(lambda step, carry, fixed: step(carry, fixed), static_argnums=0)


def run_until(step: Callable[[Any, Any], Any], carry: Any, fixed: Any, max_steps: int) -> Any:
    """Repeat ``carry = step(carry, fixed)`` until its first array, of booleans, is all true.

    On CPU each step is a call of its own; elsewhere, or where a caller traces, all are one ``while_loop``.

    Args:
        step: pure and hashable.
        carry: what a step changes, whether it is done first.
        fixed: what it does not.
        max_steps: steps at most.
    """
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((carry, fixed)))
    if traced or jax.default_backend() != "cpu":
        return _run_until(step, carry, fixed, max_steps)
    for _ in range(max_steps):
        if carry[0].all():
            break
        carry = _call(step, carry, fixed)
    return carry


@partial(jax.jit, static_argnames=("step",))
def _run_until(step: Callable, carry: Any, fixed: Any, max_steps: Any) -> Any:
    start = (jnp.asarray(max_steps), carry)
    return jax.lax.while_loop(lambda s: (s[0] > 0) & ~s[1][0].all(), lambda s: (s[0] - 1, step(s[1], fixed)), start)[1]
