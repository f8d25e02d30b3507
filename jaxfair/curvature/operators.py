"""A group's loss, gradient, Hessian and Gauss-Newton products, summed over chunks of its examples.

Sums, never means of means, so the chunk size changes nothing but rounding. The primal pass of each chunk is kept
between products where the memory bound allows, since a product then costs two gradients instead of three, and is
recomputed where it does not.
"""

import functools
import itertools
import os
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jaxfair import kernels, losses
from jaxfair.curvature.checks import checked_examples
from jaxfair.curvature.chunks import Chunk, Cut, Devices, accumulate, zeros
from jaxfair.curvature.programs import (
    Kind,
    LogitsFn,
    LossFn,
    Model,
    as_pytree,
    depends_on_last,
    multiplies_batches,
    operations,
    programs,
)
from jaxfair.errors import JaxfairError
from jaxfair.inputs import as_array, as_values, as_weights
from jaxfair.models import differentiating
from jaxfair.options import Natural, checked

GIGABYTE = 1024**3
LEAST_OPERATIONS = 5e7
"""Of a chunk on a CPU: with less to do, to wake another core's thread takes longer than to do it on this one."""


class Plan(NamedTuple):
    """How a group's examples are cut up.

    Attributes:
        chunk_size: Number of examples of one program call.
        kept_bytes: Memory in bytes that a kept primal pass of one chunk takes.
        shared_bytes: Memory in bytes of arrays that all kept passes have in common, once on each device.
        operations: Of a chunk's kept pass, those of convolutions and matrix products.
    """

    chunk_size: int
    kept_bytes: int
    shared_bytes: int = 0
    operations: float = 0.0


def make_plan(
    logits_fn: Partial,
    params: Any,
    x: Any,
    y: Any,
    *,
    kind: Kind = "hessian",
    count: int,
    chunk_size: int | None,
    memory: Natural | None = None,
    precision: str = "highest",
    loss: LossFn = losses.cross_entropy,
) -> Plan:
    """Choose the chunk size and find the memory of a kept pass, by tracing alone: nothing is computed.

    Args:
        logits_fn: ``(params, x) -> logits``, as a pytree (``as_pytree``).
        params: Pytree of floating-point arrays.
        x: Inputs with examples along the first axis, of which only shapes and types count.
        y: Their labels.
        kind: Which matrix the products are with.
        count: Number of examples of the largest group.
        chunk_size: Number of examples of one program call; None chooses what is fast on a CPU, or what takes at most a
            quarter of ``memory`` on an accelerator.
        memory: Bytes that kept passes may take on each device; None is 1 GiB on a CPU, a quarter of an accelerator's.
        precision: Precision of matrix products on accelerators.
        loss: ``(outputs of logits_fn, y) -> losses`` of shape (m,), one for each example.

    Raises:
        JaxfairError: The chunk size is below 1, or the products would be wrong by the kernels that were asked for.
    """
    check_chunk_size(chunk_size)
    plan = functools.partial(_plan, Model(logits_fn, as_pytree(loss)), params, x, y, kind, precision)
    if chunk_size is None:
        own = sum(np.size(leaf) * jnp.result_type(leaf).itemsize for leaf in jax.tree.leaves(params))
        chunk_size = _chunk_size(count, plan(1), plan(2), own, memory_bound(memory))
    return plan(min(chunk_size, count))


def check_chunk_size(size: int | None) -> None:
    """Raise a JaxfairError if no chunks can have this size."""
    if size is not None and size < 1:
        raise JaxfairError(f"The chunk size is {size}; give at least 1, or None to have it chosen.")


def _plan(model: Model, params: Any, x: Any, y: Any, kind: Kind, precision: str, size: int) -> Plan:
    def struct(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype)

    dtype = jnp.result_type(*jax.tree.leaves(params))
    chunk = Chunk(jax.tree.map(struct, x), struct(y), jax.ShapeDtypeStruct((size,), dtype))
    return _traced(kind, precision, model, params, chunk)[0]


def _traced(kind: Kind, precision: str, model: Model, params: Any, chunk: Chunk) -> tuple[Plan, tuple[bool, ...]]:
    """Return the memory of a kept pass of one chunk, and which of its arrays depend on the chunk."""
    leaves, tree = jax.tree.flatten((model, params, chunk))
    shapes = tuple((np.shape(leaf), _type(leaf), getattr(leaf, "weak_type", False)) for leaf in leaves)
    settings = jax.default_backend(), precision, bool(jax.config.jax_enable_x64)  # pyright: ignore
    return _traced_once(settings, kind, tree, shapes)


def _type(leaf: Any) -> Any:
    """Return ``jnp.result_type`` of an array or a number; of an array in a tenth of its time."""
    if not hasattr(leaf, "dtype"):
        return jnp.result_type(leaf)
    return jax.dtypes.canonicalize_dtype(leaf.dtype, allow_extended_dtype=True)  # such as that of a random key


@functools.lru_cache(maxsize=16)  # groups and repeated calls ask for the same few; each holds a user's function
def _traced_once(settings: tuple[str, str, bool], kind: Kind, tree: Any, shapes: Any) -> tuple[Plan, tuple[bool, ...]]:
    backend, precision, _ = settings
    structs = [jax.ShapeDtypeStruct(shape, dtype, weak_type=weak) for shape, dtype, weak in shapes]
    model, params, chunk = jax.tree.unflatten(tree, structs)
    leaves = jax.tree.leaves(params)
    dtype, count = jnp.result_type(*leaves), sum(leaf.size for leaf in leaves)
    total = jax.ShapeDtypeStruct((), dtype), jax.ShapeDtypeStruct((count,), dtype)
    # Traced as the program that will run, so that it is traced once.
    with differentiating():
        traced = programs(backend, precision).keep.trace(kind, total, model, params, chunk)
    if backend == "cpu" and kernels.asked(os.environ) and multiplies_batches(traced.jaxpr.jaxpr):
        raise JaxfairError(
            "The model multiplies batches of matrices, as attention does, and XLA_FLAGS ask for oneDNN, by which "
            "Hessian products of that can be wrong; start without these flags."
        )
    own = tuple(depends_on_last(traced.jaxpr, len(jax.tree.leaves(chunk))))
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(traced.out_info[0])]
    of_chunk = sum(itertools.compress(sizes, own))
    return Plan(chunk.weight.shape[0], of_chunk, sum(sizes) - of_chunk, operations(traced.jaxpr.jaxpr)), own


def memory_bound(memory: int | None) -> int:
    """Return the bytes that kept passes may take: as given, or a quarter of an accelerator's memory, 1 GiB on a CPU."""
    return memory if memory is not None else (Devices().memory or 4 * GIGABYTE) // 4


def _chunk_size(count: int, one: Plan, two: Plan, parameters: int, memory: int) -> int:
    """Return examples a chunk, by what the plans of one and of two examples say of a chunk and of each example.

    A multiple of 8, which the kernels that contract over examples work in. On CPU small enough for a core's caches, but
    not so small that what is fixed counts (each chunk reads all parameters, in bytes, if nothing else), nor that Python
    takes longer to call a program than the program.
    """
    each = max(two.kept_bytes - one.kept_bytes, 1)
    fixed = max(2 * one.kept_bytes - two.kept_bytes, 0)
    target, workers = memory / 4, Devices().workers
    if jax.default_backend() == "cpu":
        target = max(16 * 1024**2, 6 * max(fixed, parameters))
        workers = max(min(workers, int(count * (two.operations - one.operations) / LEAST_OPERATIONS)), 1)
    for_every_worker = -(-count // (8 * workers)) * 8
    wished = min(int(np.clip(target // each, 8, 1024)) // 8 * 8, for_every_worker)
    return min(range(wished, max(wished // 2, 8) - 1, -8), key=lambda size: -(-count // size) * size)  # least padding


class GroupOperator:
    """The Hessian (or Gauss-Newton matrix) of one group's weighted loss, at fixed parameters.

    ``operator(v)`` is the product with a flat vector of shape (p,), or with each row of a block of shape (b, p).

    Attributes:
        size: Number of parameters p.
        chunks: Number of chunks.
        kept: Number of chunks whose primal pass is kept; the others are recomputed at every product.

    Example:
        >>> import numpy as np
        >>> from jaxfair import GroupOperator
        >>> x, y = np.eye(2), np.array([0, 1])
        >>> hessian = GroupOperator(lambda w, x: x @ w, np.zeros((2, 2)), x, y, np.array([0.5, 0.5]))
        >>> print(hessian(np.array([1.0, 0.0, 0.0, 0.0])))
        [ 0.125 -0.125  0.     0.   ]
    """

    @checked
    def __init__(
        self,
        logits_fn: LogitsFn,
        params: Any,
        x: Any,
        y: Any,
        weight: np.ndarray,
        plan: Plan | None = None,
        *,
        kind: Kind = "hessian",
        memory: Natural | None = None,
        precision: str = "highest",
        loss: LossFn = losses.cross_entropy,
        shuffled: bool = False,
    ) -> None:
        """Cut the examples whose weight is not 0 into chunks; passes are kept from the first use on.

        Args:
            logits_fn: ``(params, x) -> logits``, deterministic, in evaluation mode.
            params: Pytree of floating-point arrays.
            x: Inputs, a pytree of arrays with n examples along the first axis.
            y: Labels, or whatever ``loss`` takes, n examples along the first axis.
            weight: Weight of each example in the sum, shape (n,).
            plan: What ``make_plan`` returned, one for all groups; None makes one for this group alone.
            kind: Which matrix, ``hessian`` or ``gauss_newton``.
            memory: Bytes that kept passes may take on each device; None is 1 GiB on a CPU, a quarter of an
                accelerator's.
            precision: Precision of matrix products on accelerators.
            loss: ``(outputs of logits_fn, y) -> losses`` of shape (m,), one for each example.
            shuffled: Whether each chunk is a random sample of the examples; otherwise they stay in order.

        Raises:
            JaxfairError: The kind is unknown, the weights do not match the labels, or all of them are 0.
        """
        self._programs, self._precision = programs(jax.default_backend(), precision), precision
        logits_fn = as_pytree(logits_fn)
        if plan is None:  # otherwise whoever planned has asked
            params, x, y = checked_examples(logits_fn, params, x, y, loss)
            weight = as_weights(weight)
        model, self._devices = Model(logits_fn, as_pytree(loss)), Devices()
        self._kind: Kind = kind
        self._networks = self._devices.copies((model, params))
        leaves = jax.tree.leaves(params)
        self.size, self._dtype = sum(leaf.size for leaf in leaves), jnp.result_type(*leaves)
        if kind not in get_args(Kind):
            raise JaxfairError(f"There is no kind '{kind}'; give {' or '.join(get_args(Kind))}.")
        if np.shape(weight) != np.shape(y)[:1]:
            raise JaxfairError(f"The weights have shape {np.shape(weight)} for {len(y)} labels; give one for each.")
        weight = np.asarray(weight).astype(self._dtype, copy=False)  # or sums of 64 bits would follow from the weights'
        count = int(np.count_nonzero(weight))
        if not count:
            raise JaxfairError("Every example has weight 0; give some example of the group a weight.")
        if plan is None:
            choose = functools.partial(make_plan, kind=kind, memory=memory, precision=precision, loss=model.loss)
            plan = choose(model.logits_fn, params, x, y, count=count, chunk_size=None)
        self._chunks = Cut(x, y, weight, plan.chunk_size, shuffled=shuffled)
        self.chunks = len(self._chunks)
        on_each_device = max(memory_bound(memory) - plan.shared_bytes, 0) // max(plan.kept_bytes, 1)
        self.kept = min(self.chunks, self._devices.count * on_each_device)
        self._passes: dict[int, Any] = {}
        self._own: tuple[bool, ...] = ()  # which arrays of a kept pass depend on its chunk
        self._shared: dict[int, list[Any]] = {}

    @checked
    def loss_and_gradient(self) -> tuple[float, Float[Array, " p"]]:
        """Return the weighted loss and its flat gradient; the passes that are kept for products give it for nothing."""
        loss, gradient = accumulate(self._add_gradient, self._zero, self.chunks, self._devices)
        return float(loss), gradient

    @checked
    def __call__(self, vector: Any, chunks: int | None = None) -> Float[Array, "*b p"]:
        """Return the product with a vector, or with each row of a block; over the first ``chunks`` alone if given."""
        if isinstance(vector, Tracer):
            raise JaxfairError("The vector is traced by JAX; call the operator outside of jit and of JAX's solvers.")
        if isinstance(vector, jax.Array):
            vector = as_array(vector, "numbers of the vector")  # one that lies on several devices or a mesh comes back
        plain = isinstance(vector, jax.Array | np.ndarray) and not isinstance(vector, np.ma.MaskedArray)
        if not plain or not jnp.issubdtype(vector.dtype, jnp.floating):
            vector = as_values(vector, "numbers of the vector")
        if chunks is not None and not 1 <= chunks <= self.chunks:
            raise JaxfairError(f"The first {chunks} chunks were asked for; there are {self.chunks}: give 1 to as many.")
        if vector.shape[-1:] != (self.size,) or vector.ndim > 2 or not vector.size:
            raise JaxfairError(f"The vector has shape {vector.shape}; expected ({self.size},) or (b, {self.size}).")
        return self.product(vector, chunks)

    def product(self, vector: Any, chunks: int | None = None) -> Float[Array, "*b p"]:
        """Return what a call does, of an array of real numbers about which nothing is asked."""
        if not isinstance(vector, jax.Array) or vector.dtype != self._dtype:  # jnp.asarray takes 20 us to do nothing
            vector = jnp.asarray(vector, self._dtype)
        if vector.ndim == 2 and jax.default_backend() == "cpu":  # where mapped kernels become slow grouped convolutions
            return jnp.stack([self.product(row, chunks) for row in vector])
        zero = functools.partial(zeros, vector.shape, self._dtype)
        add = functools.partial(self._add_product, self._devices.copies(vector))
        return accumulate(add, zero, chunks or self.chunks, self._devices)

    def release(self) -> None:
        """Forget the passes that are kept; what is asked for later keeps them anew."""
        self._passes.clear()
        self._shared.clear()

    @checked
    def not_finite(self) -> str | None:
        """Name the first chunk whose loss or gradient is not finite; None if there is none."""
        for i in range(self.chunks):
            total = self._programs.loss_and_gradient(self._devices.place(self._zero(), i), *self._chunk(i))
            if not all(np.isfinite(leaf).all() for leaf in map(np.asarray, total)):
                examples = np.sort(self._chunks.positions(i))
                among = "" if np.ptp(examples) == len(examples) - 1 else "among "  # shuffled, or not next to each other
                return f"chunk {i + 1} of {self.chunks} ({among}examples {examples[0]} to {examples[-1]})"
        return None

    def _zero(self) -> tuple[Float[Array, ""], Float[Array, " p"]]:
        return zeros((), self._dtype), zeros((self.size,), self._dtype)

    def _chunk(self, i: int) -> tuple[Model, Any, Chunk]:
        """Return the network and a chunk's examples on the chunk's device."""
        return *self._networks[i % self._devices.count], self._devices.place(self._chunks[i], i)

    def _add_gradient(self, total: Any, i: int) -> Any:
        if i >= self.kept or i in self._passes or self._kind != "hessian":
            return self._programs.loss_and_gradient(total, *self._chunk(i))
        return self._keep(total, i)

    def _keep(self, total: Any, i: int) -> Any:
        """Keep a chunk's pass; what it has in common with the first one on its device is kept once."""
        network, params, chunk = self._chunk(i)
        arguments = self._kind, total, network, params, chunk
        if not self._own:
            self._own = _traced(self._kind, self._precision, network, params, chunk)[1]
        kept, *total = self._programs.keep(*arguments)
        leaves, tree = jax.tree.flatten(kept)
        common = self._shared.setdefault(i % self._devices.count, leaves)
        # The results that follow the pass are the totals.
        pairs = zip(leaves, common, self._own, strict=False)
        self._passes[i] = tree.unflatten(leaf if own else first for leaf, first, own in pairs)
        return tuple(total)

    def _add_product(self, vectors: list[Array], total: Any, i: int) -> Any:
        copy = i % self._devices.count
        if i >= self.kept:
            return self._programs.product(self._kind, total, *self._chunk(i), vectors[copy])
        if i not in self._passes:
            self._keep(self._devices.place(self._zero(), i), i)
        return self._programs.apply(total, self._passes[i], self._networks[copy][1], vectors[copy])


@checked
def per_example_gradient_norms(
    logits_fn: LogitsFn,
    params: Any,
    x: Any,
    y: Any,
    *,
    chunk_size: int | None = None,
    memory: Natural | None = None,
    precision: str = "highest",
    loss: LossFn = losses.cross_entropy,
) -> Float[np.ndarray, " n"]:
    """Compute the L2 norm of the gradient of each example's loss; shape (n,).

    Args:
        logits_fn: ``(params, x) -> logits``, deterministic, in evaluation mode.
        params: Pytree of floating-point arrays.
        x: Inputs, a pytree of arrays with n examples along the first axis.
        y: Labels, or whatever ``loss`` takes, n examples along the first axis.
        chunk_size: Number of gradients held at once; None chooses what a CPU's caches hold, at least 4 and at most 32,
            and what fits into a quarter of ``memory`` elsewhere.
        memory: Bytes that the gradients of one chunk may take on an accelerator, beside which its activations take
            some; None is a sixteenth of its memory. A CPU holds what its caches do.
        precision: Precision of matrix products on accelerators.
        loss: ``(outputs of logits_fn, y) -> losses`` of shape (m,), one for each example.

    Example:
        >>> import numpy as np
        >>> from jaxfair import per_example_gradient_norms
        >>> x, y = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([0, 1])
        >>> print(per_example_gradient_norms(lambda w, x: x @ w, np.zeros((2, 2)), x, y).round(4))
        [0.7071 1.4142]
    """
    logits_fn = as_pytree(logits_fn)
    params, x, y = checked_examples(logits_fn, params, x, y, loss)
    if not len(y):
        raise JaxfairError("There are no examples; give at least one.")
    check_chunk_size(chunk_size)
    if chunk_size is None:
        one = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
        least, most, bound = (
            (4, 32, 4 * 1024**2) if jax.default_backend() == "cpu" else (1, 1024, memory_bound(memory) // 4)
        )
        chunk_size = int(np.clip(bound // max(one, 1), least, most))
    dtype = jnp.result_type(*jax.tree.leaves(params))
    cut = Cut(x, jnp.asarray(y), np.ones(len(y), dtype), min(chunk_size, len(y)))
    program, devices = programs(jax.default_backend(), precision).norms, Devices()
    networks = devices.copies((Model(logits_fn, as_pytree(loss)), params))
    norms = np.empty(len(y), dtype)

    def fill(nothing: None, i: int) -> None:
        index = cut.positions(i)
        norms[index] = program(*networks[i % devices.count], devices.place(cut[i], i))[: len(index)]

    accumulate(fill, lambda: None, len(cut), devices)
    return norms
