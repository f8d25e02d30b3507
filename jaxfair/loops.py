"""Loops: over the epochs of a training, and over jitted steps as it is fast on each backend."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxfair import checkpoints

State = TypeVar("State")


class Stop:
    """Whether the loop over epochs is to end after the epoch that it is in, with a checkpoint.

    There is one for the process, as there is one of each signal; a program's own handler of signals calls it.

    Attributes:
        looping: the loops in which an epoch is under way, so that there is something to wait for; several threads may
            have one each.
        asked: whether the end of it is waited for.
    """

    def __init__(self) -> None:
        """Begin without a loop."""
        self.looping: set[object] = set()
        self.asked = False

    def after_epoch(self) -> bool:
        """Ask for the end, and return whether there is an epoch whose end will be that."""
        self.asked = bool(self.looping)
        return self.asked


stop = Stop()


def epochs(
    run: Callable[[int, State], State],
    start: tuple[int, State],
    num_epochs: int,
    folder: Path | None = None,
    checkpoint_seconds: float = 60.0,
    *,
    keep_last: bool = False,
    together: bool = False,
) -> Iterator[tuple[int, State]]:
    """Run one epoch after another and yield, after each, the number of epochs done and the state.

    A method that trains writes one epoch as a function, and takes what it wants while the loop waits: metrics,
    snapshots, a reason to stop. A checkpoint is written only afterwards, so that work whose outcome was not taken is
    done again. To go on after a kill, begin with ``checkpoints.resume``::

        start = checkpoints.resume(folder, fresh)
        for done, state in loops.epochs(run, start, num_epochs, folder):
            on_epoch(done, state)

    Args:
        run: ``epoch, state -> state``, the epoch counted from 0. It may consume the state's arrays: a caller who keeps
            some of them beyond the iteration copies them.
        start: how many epochs were done before, and the state after them: a pytree of arrays, on the device or in
            NumPy, that holds all that later epochs depend on.
        num_epochs: the epochs in all.
        folder: where checkpoints are written, for this work alone; None writes none.
        checkpoint_seconds: the time between checkpoints in seconds: a killed process loses at most this and one epoch.
        keep_last: whether the state after the last epoch is written in any case.
        together: whether all processes (``jax.distributed``) share each epoch. The first one writes the checkpoints,
            and all end with the epoch in which one is asked to stop.

    Raises:
        StorageError: a checkpoint cannot be written.
        KeyboardInterrupt: ``stop`` asked for it; the epoch was finished and written.
    """
    first, state = start
    saved, this, asked = time.monotonic(), object(), stop.asked
    writes = not together or jax.process_index() == 0
    try:
        for epoch in range(first, num_epochs):
            stop.looping.add(this)
            state = run(epoch, state)
            yield epoch + 1, state
            asked = _any_is_asked() if together else stop.asked
            last = asked or (keep_last and epoch + 1 == num_epochs)
            if writes and folder is not None and (last or time.monotonic() - saved > checkpoint_seconds):
                checkpoints.save(folder, epoch + 1, state)
                saved = time.monotonic()
            if asked:
                break
    finally:
        stop.looping.discard(this)
    if asked:
        raise KeyboardInterrupt


def _any_is_asked() -> bool:
    """Return whether any process is asked to stop; all of them call this after each epoch."""
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.bool_(stop.asked)).any())


@dataclasses.dataclass(frozen=True)
class Together:
    """A step over several seeds at once, as a step of its own.

    Attributes:
        step: a pure and hashable function, ``step(carry, fixed, x) -> (carry, y)``.
        in_axes: the axes of the three arguments over which it is mapped, as ``jax.vmap`` takes them.
    """

    step: Callable
    in_axes: Any

    def __call__(self, carry: Any, fixed: Any, x: Any) -> Any:
        """Map the step."""
        return jax.vmap(self.step, in_axes=self.in_axes)(carry, fixed, x)


@partial(jax.jit, static_argnames=("step",), donate_argnames=("carry",))
def _run_steps(step: Callable, carry: Any, fixed: Any, xs: Any) -> tuple[Any, Any]:
    # Optax's optimizers mix types of numbers, which a user may have told JAX not to take.
    with jax.numpy_dtype_promotion("standard"):
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

    On a CPU each step is a call of its own, since XLA:CPU runs convolutions inside ``scan`` 10 to 30 times slower;
    elsewhere the epoch is one ``scan``.

    Args:
        step: a pure and hashable function.
        carry: a pytree of what a step changes.
        fixed: a pytree of what it does not change.
        xs: a pytree of arrays of shape (steps, ...).
        fused: whether all steps are one program; by default they are on every backend but the CPU.
        fetch: a function ``fixed, x -> fixed, x``, called on the host before each step if its inputs have to be read
            first, with ``x`` of shape (1, ...). Each step is a call of its own then, and while it runs the inputs of
            the next one are read.

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
    """Repeat ``carry = step(carry, fixed)`` until the carry's first array, of booleans, is all true.

    On a CPU each step is a call of its own; elsewhere, or where a caller traces, all are one ``while_loop``.

    Args:
        step: a pure and hashable function.
        carry: a tuple of what a step changes; its first array says what is done.
        fixed: a pytree of what a step does not change.
        max_steps: the largest number of steps.

    Returns:
        The last carry.
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
