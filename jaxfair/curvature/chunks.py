"""Examples cut into chunks of one size, what is computed of each, and sums over chunks on every core or every device.

On CPU chunks run on one thread a core: threads inside of an operation gain little on such shapes. Several accelerators
share the chunks in turn, and each keeps and sums what is its own: a vector goes out and a sum comes back, no more.
"""

import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxfair import threads
from jaxfair.errors import JaxfairError
from jaxfair.models import differentiating


@differentiating()
def over_chunks(
    function: Callable[[Any, Any], Any], fixed: Any, gather: Callable[[np.ndarray], Any], count: int, size: int
) -> Any:
    """Return what a function computes of each example, evaluated in chunks of one size that several devices share.

    Args:
        function: Takes ``fixed`` and what was gathered of a chunk, and returns a pytree of arrays with the chunk's
            examples along the first axis.
        fixed: A pytree of arrays that all chunks need, such as parameters. Each device gets a copy, once.
        gather: Takes the positions of a chunk's examples, shape (m,), and returns a pytree of arrays, which are moved
            to the chunk's device. Every chunk has the same m, so that one compiled program serves all.
        count: Number of examples.
        size: Number of examples at once, m, unless there are fewer.

    Returns:
        The pytree with all examples along the first axis, NumPy arrays unless a caller traces.

    Raises:
        JaxfairError: There is no example, or the size is below 1.
    """
    if min(count, size) < 1:
        raise JaxfairError(f"There are {count} examples and the chunk size is {size}; both must be at least 1.")
    size, devices = min(size, count), Devices()
    chunks = [_padded(np.arange(start, min(start + size, count)), size) for start in range(0, count, size)]
    some, parts = gather(chunks[0]), list[Any]()
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((fixed, some)))
    workers = 1 if traced else min(devices.count, len(chunks))
    place = devices.place if workers > 1 else lambda tree, _: tree
    copies = [place(fixed, worker) for worker in range(workers)]
    for i in range(len(chunks)):
        some = gather(chunks[i]) if i else some
        parts.append(function(copies[i % workers], place(some, i % workers)))
        if (ready := i - workers) >= 0:  # a device computes a chunk while its next is gathered, and keeps no more
            parts[ready] = jax.tree.map(_on_host, parts[ready])
    parts = [jax.tree.map(_on_host, part) for part in parts]

    def joined(*leaves: Any) -> Any:
        return (jnp if isinstance(leaves[0], Tracer) else np).concatenate(leaves)[:count]

    return jax.tree.map(joined, *parts)


def _on_host(leaf: Any) -> Any:
    return leaf if isinstance(leaf, Tracer) else np.asarray(leaf)


def _padded(index: np.ndarray, size: int) -> np.ndarray:
    return np.pad(index, (0, size - len(index)), mode="edge")


class Chunk(NamedTuple):
    """Examples of one program call, m of them; the last chunk is padded by examples of weight 0.

    Attributes:
        x: Inputs, a pytree with the examples along the first axis.
        y: Labels, shape (m,), or whatever the loss takes, examples along the first axis.
        weight: Weight of each example in the sum, shape (m,).
    """

    x: Any
    y: Any
    weight: Any


class Cut:
    """The examples whose weight is not 0, in chunks that are gathered when they are asked for.

    Attributes:
        members: Positions of those examples, shape (members,).
    """

    def __init__(self, x: Any, y: Any, weight: np.ndarray, size: int, *, shuffled: bool = False) -> None:
        """Cut examples into chunks of ``size``, each a random sample if ``shuffled``; ``weight`` has shape (n,)."""
        self._x, self._y, self._weight, self._size = _indexable(x), _indexable(y), np.asarray(weight), size
        self.members = np.flatnonzero(self._weight)
        if shuffled:
            self.members = np.random.default_rng(0).permutation(self.members)

    def __len__(self) -> int:
        """Return the number of chunks."""
        return -(-len(self.members) // self._size)

    def positions(self, chunk: int) -> np.ndarray:
        """Return the positions of a chunk's examples."""
        return self.members[chunk * self._size : (chunk + 1) * self._size]

    def __getitem__(self, chunk: int) -> Chunk:
        """Gather a chunk."""
        index = self.positions(chunk)
        weight = np.pad(self._weight[index], (0, self._size - len(index)))
        index = _padded(index, self._size)
        x, y = jax.tree.map(lambda leaf: leaf[index], (self._x, self._y))
        return Chunk(x, y, weight)


def _indexable(tree: Any) -> Any:
    """Return a CPU's arrays as NumPy's, without a copy, which are indexed thirty times as fast."""
    return jax.tree.map(lambda leaf: np.asarray(leaf) if _of_cpu(leaf) else leaf, tree)


def _of_cpu(leaf: Any) -> bool:
    if not isinstance(leaf, jax.Array) or isinstance(leaf, Tracer) or jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return False
    return all(device.platform == "cpu" for device in leaf.devices())


class Devices:
    """The devices that share the chunks: those of this process, or the one of ``jax.default_device`` where it is set.

    Attributes:
        count: Number of devices.
        workers: Number of chunks computed at once: one a device, or one a core where there is a single CPU device.
        memory: Bytes that each device has for JAX; None on a CPU, or where that is not known.
    """

    def __init__(self) -> None:
        # None, a device, or the name of a platform.
        default: Any = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
        local = jax.local_devices(backend=default if isinstance(default, str) else None)
        self._devices = local if default is None else local[:1] if isinstance(default, str) else [default]
        self.count, first = len(self._devices), self._devices[0]
        cores = (os.cpu_count() or 1) if first.platform == "cpu" else 1
        self.workers = cores if self.count == 1 else self.count
        self.memory: int | None = None if first.platform == "cpu" else (first.memory_stats() or {}).get("bytes_limit")

    def place(self, tree: Any, chunk: int) -> Any:
        """Return arrays on a chunk's device; a single device takes them as they are. What is no array stays."""
        if self.count == 1:
            return tree
        device, arrays = self._devices[chunk % self.count], (jax.Array, np.ndarray)
        return jax.tree.map(lambda leaf: jax.device_put(leaf, device) if isinstance(leaf, arrays) else leaf, tree)

    def copies(self, tree: Any) -> list[Any]:
        """Return arrays on every device; chunk ``i`` takes copy ``i % count``."""
        return [self.place(tree, i) for i in range(self.count)]

    def gathered(self, trees: list[Any]) -> Any:
        """Return the sum of arrays that lie on different devices, on the first one."""
        return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *(self.place(tree, 0) for tree in trees))


@functools.partial(jax.jit, static_argnums=(0, 1))
def zeros(shape: tuple[int, ...], dtype: Any) -> Any:
    """Return a total that nothing was added to; compiled, since ``jnp.zeros`` takes as long as a small gradient."""
    return jnp.zeros(shape, dtype)


@differentiating()
def accumulate(function: Callable[[Any, int], Any], zero: Callable[[], Any], count: int, devices: Devices) -> Any:
    """Return the sum over chunks, ``total = function(total, i)`` for i < count from ``zero()``.

    Each worker sums its own chunks and the sums are added in order, so a run on as many cores or devices gives the same
    bits, and memory does not grow with the number of chunks. What is worker ``w``'s is on the device of chunk ``w``.
    Where one worker fails, or the caller is interrupted, the others end with their chunk before the error is raised:
    nothing goes on behind the caller's back.
    """
    stripes, stopped = min(devices.workers, count), threading.Event()

    def run(stripe: int) -> Any:
        total = devices.place(zero(), stripe)
        for i in range(stripe, count, stripes):
            if stopped.is_set():
                break
            total = function(total, i)
        return total

    if stripes == 1:  # which is left to run ahead, as an accelerator wants it
        return devices.gathered([run(0)])
    as_here = threads.as_here()

    def work(stripe: int) -> Any:
        try:
            with as_here():
                return jax.block_until_ready(run(stripe))
        except BaseException:
            stopped.set()
            raise

    # This thread is a worker too: to wake another one takes time. JAX compiles once: the other threads wait for it.
    others = [_pool(devices.workers).submit(work, stripe) for stripe in range(1, stripes)]
    try:
        totals = [jax.block_until_ready(run(0)), *(each.result() for each in others)]
    finally:
        stopped.set()
        wait(others)
    return devices.gathered(totals)


@functools.cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="jaxfair-chunk")
