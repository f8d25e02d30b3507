"""One call for a user's own model: what is known of every group."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxfair import groups, losses, margins
from jaxfair.curvature import lanczos
from jaxfair.curvature.chunks import over_chunks
from jaxfair.curvature.programs import LogitsFn, LossFn, as_pytree, at_precision
from jaxfair.curvature.spectrum import Start, check_examples, group_curvature
from jaxfair.errors import JaxfairError


@dataclasses.dataclass(frozen=True)
class GroupReport:
    """Numbers of each group; arrays of length num_groups. ``print`` shows a table.

    Attributes:
        names: of the groups.
        count: examples.
        accuracy: share of the examples classified correctly.
        loss: mean loss; cross-entropy in nats unless another was given.
        gradient_norm: L2 norm of the mean loss's gradient.
        top_eigenvalue: largest (algebraic) eigenvalue of its Hessian.
        top_eigenvalue_residual: an eigenvalue lies within this distance of it.
        bottom_eigenvalue: smallest (algebraic) eigenvalue; NaN unless asked for.
        bottom_eigenvalue_residual: an eigenvalue lies within this distance of it.
        softmax_gap: mean of the largest minus the second largest softmax score.
        converged: whether the eigenvalues met the tolerance.
        asymmetry: of the groups' Hessians, relative to the largest eigenvalue of all groups: rounding.
        precision: of matrix products on accelerators.
    """

    names: tuple[str, ...]
    count: np.ndarray
    accuracy: np.ndarray
    loss: np.ndarray
    gradient_norm: np.ndarray
    top_eigenvalue: np.ndarray
    top_eigenvalue_residual: np.ndarray
    bottom_eigenvalue: np.ndarray
    bottom_eigenvalue_residual: np.ndarray
    softmax_gap: np.ndarray
    converged: np.ndarray
    asymmetry: float
    precision: str

    def columns(self) -> dict[str, Any]:
        """Return the columns of the table by name."""
        single = ("asymmetry", "precision")
        fields = (field.name for field in dataclasses.fields(self))
        return {name.replace("names", "group"): getattr(self, name) for name in fields if name not in single}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as lists and numbers, as JSON takes them (NaN stays NaN)."""
        columns = {name: np.asarray(values).tolist() for name, values in self.columns().items()}
        return {**columns, "asymmetry": self.asymmetry, "precision": self.precision}

    def to_frame(self) -> Any:
        """Return a pandas frame, one row a group; pandas has to be installed."""
        import pandas as pd  # pyright: ignore[reportMissingImports]

        return pd.DataFrame(self.columns()).set_index("group")

    def __str__(self) -> str:
        """Return a table of text, without the columns that were not asked for."""
        columns = {name: values for name, values in self.columns().items() if not _is_missing(values)}
        rows = [list(columns), *zip(*(map(_cell, values) for values in columns.values()), strict=True)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def group_report(
    logits_fn: LogitsFn,
    params: Any,
    x: Any,
    y: Any,
    group: Any,
    *,
    group_names: Sequence[str] | None = None,
    bottom: bool = False,
    tolerance: float = 1e-2,
    stop: lanczos.Stop = "residual",
    start: Start = "random",
    max_steps: int = 100,
    chunk_size: int | None = None,
    memory: int | None = None,
    seed: int = 0,
    precision: str = "highest",
    loss: LossFn = losses.cross_entropy,
) -> GroupReport:
    """Measure every group of a data set on any model.

    The model is run three times before anything is trusted, the last time in other batches: a difference means
    dropout, shuffling or batch norm in training mode, under which curvature has no meaning.

    Args:
        logits_fn: ``(params, x) -> logits`` of shape (n, classes), in evaluation mode. From Linen:
            ``lambda p, x: model.apply({"params": p, ...}, x, train=False)``; from NNX or Equinox: split the model
            into its parameters and the rest, and merge them inside.
        params: pytree of floating-point arrays.
        x: inputs, a pytree of arrays with n examples along the first axis.
        y: labels, integers of shape (n,).
        group: group of each example, integers 0..G-1, shape (n,).
        group_names: one for each group; by default their numbers.
        bottom: whether to find the smallest eigenvalue too, to ``tolerance`` times the largest: ask for a smaller
            tolerance where it lies near zero.
        tolerance: relative residual of the eigenvalues (see ``stop``).
        stop: see ``lanczos.extreme_eigenvalues``.
        start: see ``curvature.group_curvature``.
        max_steps: Hessian-vector products at most, for each group.
        chunk_size: examples differentiated at once; None chooses.
        memory: bytes that kept primal passes may take on each device; see ``curvature.group_curvature``.
        seed: of the random vectors.
        precision: of matrix products on accelerators.
        loss: ``(logits, y) -> losses`` of shape (n,), one for each example.

    Raises:
        JaxfairError: shapes or types do not match, a group is empty, the model is not deterministic or depends on the
            rest of its batch, its Hessian is not symmetric, or a value is not finite.
    """
    group = groups.as_numbers(group, len(y))
    count = int(group.max(initial=0)) + 1 if group_names is None else len(group_names)
    if group.max(initial=0) >= count:
        raise JaxfairError(f"There are {count} group names for groups 0 to {group.max()}; give one for each.")
    names = tuple(map(str, range(count))) if group_names is None else tuple(group_names)
    weights = groups.group_weights(group, count)
    check_examples(params, x, y, weights)
    logits_fn = as_pytree(logits_fn)
    logits = _trusted_logits(logits_fn, params, x, y, precision, chunk_size or 256)
    if loss is losses.cross_entropy:
        losses.check_labels(y, logits.shape[1])
    per_example = np.asarray(loss(jnp.asarray(logits), jnp.asarray(y)), np.float64)
    if not np.isfinite(per_example).all():
        bad = int(np.argmin(np.isfinite(per_example)))
        raise JaxfairError(
            f"The loss of example {bad}, in group '{names[group[bad]]}', is {per_example[bad]}; check its input and "
            "the parameters."
        )
    curvature = group_curvature(
        logits_fn,
        params,
        x,
        y,
        weights,
        bottom=bottom,
        tolerance=tolerance,
        stop=stop,
        start=start,
        max_steps=max_steps,
        chunk_size=chunk_size,
        memory=memory,
        seed=seed,
        precision=precision,
        loss=loss,
    )
    asymmetry = _checked_asymmetry(curvature.asymmetry, np.abs(curvature.top_eigenvalue))
    return GroupReport(
        names=names,
        count=np.bincount(group, minlength=count),
        accuracy=groups.group_means(logits.argmax(-1) == np.asarray(y), group, count),
        loss=groups.group_means(per_example, group, count),
        gradient_norm=curvature.gradient_norm,
        top_eigenvalue=curvature.top_eigenvalue,
        top_eigenvalue_residual=curvature.top_eigenvalue_residual,
        bottom_eigenvalue=curvature.bottom_eigenvalue,
        bottom_eigenvalue_residual=curvature.bottom_eigenvalue_residual,
        softmax_gap=groups.group_means(np.asarray(margins.softmax_gap(jnp.asarray(logits))), group, count),
        converged=curvature.converged,
        asymmetry=asymmetry,
        precision=precision,
    )


@jax.jit
def _logits(logits_fn: Partial, params: Any, x: Any) -> Any:
    return logits_fn(params, x)


def _trusted_logits(logits_fn: Partial, params: Any, x: Any, y: Any, precision: str, size: int) -> np.ndarray:
    """Return the logits of all examples, computed twice, and once more in batches cut differently."""
    count = len(y)

    def run(start: int, size: int) -> np.ndarray:
        def chunk(index: np.ndarray) -> np.ndarray:
            index = (index + start) % count
            return np.asarray(_logits(logits_fn, params, jax.tree.map(lambda leaf: leaf[index], x)))

        with at_precision(precision):
            return np.roll(over_chunks(chunk, count, size), start, axis=0)

    size = min(size, count)
    with at_precision(precision):
        shape = getattr(jax.eval_shape(logits_fn, params, jax.tree.map(lambda leaf: leaf[:size], x)), "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != size:
        given = "no array" if shape is None else f"shape {shape}"
        raise JaxfairError(f"logits_fn returned {given} for {size} examples; expected (n, classes).")
    # The third time every example has other neighbours and their number is another, even if all fit into one batch.
    first, again, shifted = run(0, size), run(0, size), run(max(1, size // 3), max(1, size // 2))
    if not np.array_equal(first, again, equal_nan=True):
        raise JaxfairError(
            "logits_fn gave two results for the same input; switch dropout and other randomness off (evaluation mode)."
        )
    scale = np.nanmax(np.abs(first), initial=0.0) + 1e-30
    difference = np.nanmax(np.abs(first - shifted), initial=0.0) / scale
    # Another batch position may change the rounding, by far less than this; training-mode batch norm changes percents.
    if difference > 1e-3:
        raise JaxfairError(
            f"The logits of an example changed by {difference:.1e} of their size with the rest of its batch; put batch "
            "norm and dropout into evaluation mode."
        )
    return first


def _checked_asymmetry(asymmetry: np.ndarray, scale: np.ndarray) -> float:
    """Return the largest over groups, relative to the largest eigenvalue: a group of no curvature has noise."""
    found = float((asymmetry * scale).max() / max(scale.max(), np.finfo(float).tiny))
    if found > 1e-3 and scale.max() > 1e-6:  # of smaller ones, as on saturated softmaxes, float32 holds only rounding
        raise JaxfairError(
            f"The Hessian is not symmetric (by {found:.1e} of its size): a custom derivative in the model is wrong, or "
            "its arithmetic too coarse; eigenvalues would mean nothing."
        )
    return found


def _is_missing(values: Any) -> bool:
    values = np.asarray(values)
    return values.dtype.kind == "f" and bool(np.isnan(values).all())


def _cell(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.4g}"
    return str(value)
