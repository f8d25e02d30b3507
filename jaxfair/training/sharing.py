"""One training on several devices: each has a part of every batch, or trainings of its own.

A batch is split by the sharding of its images' positions alone (``NamedSharding`` over an axis ``data``), and the step
is that of one device: the compiler computes on every device what follows from its part, and adds up wherever a step
sums over the batch, in the gradient, in batch norm's statistics and in the groups' losses alike. Trainings of their own
have nothing to add up: each runs the program that it runs alone.
"""

import contextlib
import dataclasses
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxfair import threads
from jaxfair.errors import JaxfairError
from jaxfair.loops import stop

DATA = "data"
"""The axis of a mesh over which a batch is split."""
Device = Any
"""``jax.Device``, which is no type to a type checker."""
Work = TypeVar("Work")
Result = TypeVar("Result")


def check(devices: int, batch_size: int = 0) -> None:
    """Raise a JaxfairError if JAX does not have so many devices, or those of several processes cannot share a batch.

    Where no batch size is given, it is not asked whether they share one evenly.
    """
    there, processes = jax.device_count(), jax.process_count()
    if not 1 <= devices <= there:
        raise JaxfairError(
            f"The training is to be shared by {devices} devices, but JAX has {there}; give 1 to {there}."
        )
    if processes > 1 and devices > 1 and (devices < there or batch_size % devices):
        raise JaxfairError(
            f"Batches of {batch_size} are to be shared by {devices} of the {there} devices of {processes} processes; "
            f"give all {there} and a batch size that they divide, or 1 to let each process train by itself."
        )


def mesh(devices: int, batch_size: int) -> Mesh | None:
    """Return devices that share a batch evenly, as many of ``devices`` as can; None is one device."""
    shared = next(number for number in range(devices, 0, -1) if batch_size % number == 0)
    if shared == 1:
        return None
    return jax.make_mesh((shared,), (DATA,), axis_types=(AxisType.Auto,), devices=jax.devices()[:shared])


def spans_processes(where: Mesh | None) -> bool:
    """Return whether a mesh has devices of several processes."""
    return where is not None and jax.process_count() > 1


@dataclasses.dataclass(frozen=True)
class Split:
    """A step whose batch is split over devices, as a step of its own.

    Attributes:
        step: a pure and hashable function, ``carry, fixed, (number, index) -> carry, metrics``.
        mesh: the devices.
    """

    step: Callable
    mesh: Mesh

    def __call__(self, carry: Any, fixed: Any, x: Any) -> Any:
        """Take the step; what comes out is on every device."""
        number, index = x
        index = jax.lax.with_sharding_constraint(index, NamedSharding(self.mesh, P(DATA)))
        after = self.step(carry, fixed, (number, index))
        return jax.lax.with_sharding_constraint(after, NamedSharding(self.mesh, P()))


def agreed(number: np.floating, where: Mesh | None) -> np.floating:
    """Return what the first of the processes found, where the others may have rounded otherwise and act on it too."""
    if not spans_processes(where):
        return number
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(np.float32(number))[()]


def laid_out(tree: Any, where: Mesh | Device | None) -> Any:
    """Return arrays on every device of a mesh, or on one device; for None, where they are.

    What is no array stays as it is, such as images on the host.
    """
    if where is None:
        return tree
    target = NamedSharding(where, P()) if isinstance(where, Mesh) else where

    def place(leaf: Any) -> Any:
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic)):
            return leaf
        if not isinstance(where, Mesh) or not spans_processes(where):
            return jax.device_put(leaf, target)
        if isinstance(leaf, jax.Array) and leaf.sharding == target:
            return leaf
        value = np.asarray(leaf)  # the same in every process, each of which puts it on its own devices
        return jax.make_array_from_callback(value.shape, target, lambda part: value[part])

    return jax.tree.map(place, tree)


def collected(tree: Any, where: Mesh | int | None) -> Any:
    """Return arrays that were ``laid_out`` as new ones are: on the default device, and bound to none.

    ``where`` is the mesh, or the number of devices, on which they were; for None they are where they belong.
    """
    return tree if where is None else jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), tree)


def apart(
    work: Callable[[Work, Device, Callable], Result],
    parts: Sequence[Work],
    devices: int,
    on_epoch: Callable | None,
) -> Iterator[Result]:
    """Do each part on a device of its own, as many at once as there are devices, and yield the results in their order.

    Each device has a thread, with the caller's precision. Whatever ends this iterator, an error of a part, Ctrl-C or a
    caller who wants no more, the other parts end with their epoch.

    Args:
        work: takes a part, its device and what it has to call after each epoch.
        parts: what ``work`` is given.
        devices: how many of ``jax.local_devices()`` there are.
        on_epoch: called in the caller's thread, with what ``work`` calls it with, of the first part that is not done.
    """
    free, events, ended = queue.SimpleQueue[Device](), queue.SimpleQueue[tuple[int, Any]](), threading.Event()
    for device in jax.local_devices()[:devices]:
        free.put(device)
    as_here = threads.as_here()

    def run(number: int) -> Result:
        def after_epoch(*arguments: Any) -> None:
            if ended.is_set() and not stop.asked:  # which saves first
                raise InterruptedError
            events.put((number, arguments))

        device = free.get()
        try:
            with as_here(), jax.default_device(device):
                return work(parts[number], device, after_epoch)
        finally:
            free.put(device)
            events.put((number, None))

    with contextlib.ExitStack() as at_end:
        pool = ThreadPoolExecutor(min(devices, len(parts)), thread_name_prefix="jaxfair-training")
        at_end.callback(pool.shutdown, wait=True, cancel_futures=True)
        at_end.callback(ended.set)
        running = [pool.submit(run, number) for number in range(len(parts))]
        over = set[int]()
        for first, future in enumerate(running):
            while first not in over:
                number, arguments = events.get()
                if arguments is None:
                    over.add(number)
                elif number == first and on_epoch is not None:
                    on_epoch(*arguments)
            yield future.result()
