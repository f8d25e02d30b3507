"""How to loop over jitted steps: the one place that knows what is fast on which backend."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np


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


def run_epoch(step: Callable, carry: Any, fixed: Any, xs: Any, *, fused: bool | None = None) -> tuple[Any, Any]:
    """Run ``carry, y = step(carry, fixed, x)`` over the leading axis of ``xs``; ``carry`` is consumed.

    On CPU each step is a call of its own, since XLA:CPU runs convolutions
    inside ``scan`` 10 to 30 times slower; elsewhere the epoch is one ``scan``.

    Args:
        step: pure and hashable.
        carry: what a step changes.
        fixed: what it does not.
        xs: arrays of shape (steps, ...).
        fused: one program for all steps; by default on every backend but the CPU.

    Returns:
        The last carry, and the steps' outputs as NumPy arrays of shape (steps, ...).
    """
    if fused if fused is not None else jax.default_backend() != "cpu":
        carry, ys = _run_steps(step, carry, fixed, xs)
        return carry, jax.tree.map(np.asarray, ys)
    outputs = []
    for i in range(len(jax.tree.leaves(xs)[0])):
        carry, y = _run_steps(step, carry, fixed, jax.tree.map(lambda a, i=i: a[i : i + 1], xs))
        outputs.append(y)
    return carry, jax.tree.map(lambda *ys: np.concatenate([np.asarray(y) for y in ys]), *outputs)
