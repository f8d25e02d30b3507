"""A group's loss, gradient, Hessian and Gauss-Newton products, summed over chunks of its examples.

Sums, never means of means, so the chunk size changes nothing but rounding. The primal pass of each chunk is kept
between products where the memory bound allows, since a product then costs two gradients instead of three, and is
recomputed where it does not. On CPU chunks run on one thread a core, each program on one thread: intra-op threads
gain almost nothing on such shapes.
"""

import contextlib
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jaxfair import losses
from jaxfair.errors import JaxfairError

LogitsFn = Callable[[Any, Any], Any]
Kind = Literal["hessian", "gauss_newton"]

GIGABYTE = 1024**3


class Chunk(NamedTuple):
    """Examples of one program call, m of them; the last chunk of a group is padded by an example of weight 0.

    Attributes:
        x: inputs, a pytree with examples along the first axis.
        y: labels, shape (m,).
        weight: of each example in the group's sum, shape (m,).
    """

    x: Any
    y: Any
    weight: Any


class Plan(NamedTuple):
    """How a group's examples are cut up.

    Attributes:
        chunk_size: examples of one program call.
        kept_bytes: memory that a kept primal pass of one chunk takes.
    """

    chunk_size: int
    kept_bytes: int


def as_pytree(function: Callable) -> Partial:
    """Return a function that can be an argument of a jitted one; equal functions share a compiled program."""
    return function if isinstance(function, Partial) else Partial(function)


def make_plan(
    logits_fn: Partial,
    params: Any,
    x: Any,
    y: Any,
    *,
    kind: Kind = "hessian",
    count: int,
    chunk_size: int | None,
    memory: int,
    precision: str = "highest",
) -> Plan:
    """Choose the chunk size and find the memory of a kept pass, by tracing alone: nothing is computed.

    Args:
        logits_fn: as for ``GroupOperator``.
        params: its parameters.
        x: any inputs; shapes and types count.
        y: their labels.
        kind: of the product.
        count: examples of the largest group.
        chunk_size: None chooses one: small enough to stay in the caches of a CPU core and to give every core work, or
            as large as a quarter of ``memory`` on an accelerator.
        memory: bytes that kept passes may take.
        precision: of matrix products.
    """
    if chunk_size is not None and chunk_size < 1:
        raise JaxfairError(f"The chunk size is {chunk_size}; give at least 1, or None to have it chosen.")
    size_of = functools.partial(_kept_bytes, logits_fn, params, x, y, kind, precision)
    if chunk_size is None:
        one, two = size_of(1), size_of(2)
        each, shared = max(two - one, 1), max(2 * one - two, 0)
        cpu = jax.default_backend() == "cpu"
        target = max(32 * 1024**2, shared) if cpu else memory / 4
        wished = int(np.clip(target // each, 8, 1024))
        # As many chunks as threads, or a multiple of that: no thread waits for the last one, and little is padded.
        rounds = -(-count // (wished * _threads()))
        chunk_size = -(-count // (rounds * _threads()))
    chunk_size = min(chunk_size, count)
    return Plan(chunk_size, size_of(chunk_size))


class GroupOperator:
    """The Hessian (or Gauss-Newton matrix) of one group's weighted loss, at fixed parameters.

    ``operator(v)`` is the product with a flat vector of shape (p,), or with each row of a block of shape (b, p).

    Attributes:
        size: number of parameters p.
        kept: number of chunks whose primal pass is kept; the others are recomputed at every product.
    """

    def __init__(
        self,
        logits_fn: LogitsFn,
        params: Any,
        x: Any,
        y: Any,
        weight: np.ndarray,
        plan: Plan,
        *,
        kind: Kind = "hessian",
        memory: int = GIGABYTE,
        precision: str = "highest",
    ) -> None:
        """Cut the examples whose weight is not 0 into chunks and keep the primal passes that fit into memory.

        Args:
            logits_fn: ``(params, x) -> logits``, deterministic, in evaluation mode.
            params: pytree of floating-point arrays.
            x: inputs, examples along the first axis.
            y: labels.
            weight: of each example in the sum, shape (n,).
            plan: from ``make_plan``.
            kind: ``hessian`` or ``gauss_newton``.
            memory: bytes that kept passes may take.
            precision: of matrix products on accelerators.
        """
        self._programs = _programs(jax.default_backend(), precision)
        self._logits_fn, self._params, self._kind = as_pytree(logits_fn), params, kind
        self.size = sum(leaf.size for leaf in jax.tree.leaves(params))
        self._chunks = _chunks(x, y, weight, plan.chunk_size)
        if not self._chunks:
            raise JaxfairError("Every example has weight 0; give some example of the group a weight.")
        self.kept = min(len(self._chunks), memory // max(plan.kept_bytes, 1))
        self._passes: list[Any] | None = None

    def loss_and_gradient(self) -> tuple[float, Float[Array, " p"]]:
        """Return the weighted loss and its flat gradient; the passes that are kept for products give it for nothing."""
        program = self._programs.loss_and_gradient
        parts = []
        if self._kind == "hessian":
            parts = [(loss, gradient) for _, loss, gradient in self._keep()]
        rest = self._chunks[len(parts) :]
        parts += _map(lambda chunk: program(self._logits_fn, self._params, chunk), rest)
        loss, gradient = _sum(parts)
        return float(loss), gradient

    def _keep(self) -> list[tuple[Any, Any, Any]]:
        """Return linear map, loss and gradient of every chunk whose pass is kept."""
        if self._passes is None:
            first = self._chunks[: self.kept]
            keep = self._programs.keep
            self._passes = _map(lambda chunk: keep(self._kind, self._logits_fn, self._params, chunk), first)
        return self._passes

    def __call__(self, vector: Any) -> Float[Array, "*b p"]:
        """Return the product with a vector, or with each row of a block."""
        vector = jnp.asarray(vector)
        if vector.ndim == 2:
            return jnp.stack([self(row) for row in vector])
        apply, whole = self._programs.apply, self._programs.product
        parts = _map(lambda kept: apply(kept[0], self._params, vector), self._keep())
        rest = self._chunks[self.kept :]
        parts += _map(lambda chunk: whole(self._kind, self._logits_fn, self._params, chunk, vector), rest)
        return _sum(parts)


class _Programs(NamedTuple):
    loss_and_gradient: Callable
    keep: Any
    apply: Callable
    product: Callable


@functools.cache
def _programs(backend: str, precision: str) -> _Programs:
    """Return the compiled functions of a backend; ``precision`` is part of the program, whatever thread runs it."""
    options = {"xla_cpu_multi_thread_eigen": False} if backend == "cpu" else None

    def at_precision(function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapped(*arguments: Any) -> Any:
            with jax.default_matmul_precision(precision):
                return function(*arguments)

        return wrapped

    def loss_and_gradient(logits_fn: Partial, params: Any, chunk: Chunk) -> tuple[Array, Array]:
        loss, gradient = jax.value_and_grad(functools.partial(_loss, logits_fn, chunk))(params)
        return loss, ravel_pytree(gradient)[0]

    def apply(kept: Partial, params: Any, vector: Array) -> Array:
        return ravel_pytree(kept(ravel_pytree(params)[1](vector)))[0]

    def product(kind: Kind, logits_fn: Partial, params: Any, chunk: Chunk, vector: Array) -> Array:
        return apply(_linear_map(kind, logits_fn, params, chunk)[0], params, vector)

    return _Programs(
        jax.jit(at_precision(loss_and_gradient), compiler_options=options),
        jax.jit(at_precision(_linear_map), static_argnums=0, compiler_options=options),
        jax.jit(at_precision(apply), compiler_options=options),
        jax.jit(at_precision(product), static_argnums=0, compiler_options=options),
    )


def _loss(logits_fn: Partial, chunk: Chunk, params: Any) -> Float[Array, ""]:
    return jnp.vdot(chunk.weight, losses.cross_entropy(logits_fn(params, chunk.x), chunk.y))


def _linear_map(kind: Kind, logits_fn: Partial, params: Any, chunk: Chunk) -> tuple[Any, Any, Any]:
    """Return the product as a linear function of a pytree of tangents, its primal pass done.

    Beside it the loss and flat gradient that the Hessian's pass has computed on its way, None for Gauss-Newton.
    """
    if kind == "hessian":

        def gradient_and_loss(p: Any) -> tuple[Any, Any]:
            loss, gradient = jax.value_and_grad(functools.partial(_loss, logits_fn, chunk))(p)
            return gradient, loss

        gradient, linear, loss = jax.linearize(gradient_and_loss, params, has_aux=True)
        return linear, loss, ravel_pytree(gradient)[0]
    logits, tangent = jax.linearize(lambda p: logits_fn(p, chunk.x), params)
    return Partial(_gauss_newton, tangent, jax.nn.softmax(logits), chunk.weight), None, None


def _gauss_newton(tangent: Any, probability: Array, weight: Array, vector: Any) -> Any:
    """Compute ``J^T (diag(p) - p p^T) J v``, the loss's Hessian without the network's own curvature."""
    moved = tangent(vector)
    inner = probability * (moved - jnp.sum(probability * moved, axis=-1, keepdims=True))
    return jax.linear_transpose(tangent, vector)(weight[:, None] * inner)[0]


def _kept_bytes(logits_fn: Partial, params: Any, x: Any, y: Any, kind: Kind, precision: str, size: int) -> int:
    def struct(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype)

    dtype = jnp.result_type(*jax.tree.leaves(params))
    chunk = Chunk(jax.tree.map(struct, x), struct(y), jax.ShapeDtypeStruct((size,), dtype))
    # Traced as the program that will run, so that it is traced once.
    kept = _programs(jax.default_backend(), precision).keep.eval_shape(kind, logits_fn, params, chunk)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))


def _chunks(x: Any, y: Any, weight: np.ndarray, size: int) -> list[Chunk]:
    weight = np.asarray(weight)
    members = np.flatnonzero(weight)
    found = []
    for start in range(0, len(members), size):
        index = members[start : start + size]
        pad = size - len(index)
        w = jnp.asarray(np.pad(weight[index], (0, pad)))
        index = np.pad(index, (0, pad), mode="edge")
        found.append(Chunk(jax.tree.map(lambda leaf, index=index: leaf[index], x), y[index], w))
    return found


def _sum(parts: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *parts)


def _threads() -> int:
    return (os.cpu_count() or 1) if jax.default_backend() == "cpu" else 1


def _map(function: Callable, items: list[Any]) -> list[Any]:
    """Apply a jitted function to every chunk; the results are in order, so their sum is the same in every run."""
    if len(items) < 2 or _threads() == 1:
        return [function(item) for item in items]
    first = function(items[0])  # compiled once, not once in every thread
    double = jax.dtypes.canonicalize_dtype(np.float64)

    def in_thread(item: Any) -> Any:
        # ``with jax.enable_x64(...)`` holds for the caller's thread only.
        same = jax.dtypes.canonicalize_dtype(np.float64) == double
        with contextlib.nullcontext() if same else jax.enable_x64(double == np.float64):
            return jax.block_until_ready(function(item))

    return [first, *_pool().map(in_thread, items[1:])]


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_threads(), thread_name_prefix="jaxfair-chunk")
