"""One call for a user's own model: what is known of every group."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxfair import groups, intervals, losses, margins
from jaxfair.curvature.checks import checked_asymmetry, trusted_logits, trusted_losses
from jaxfair.curvature.config import CurvatureConfig
from jaxfair.curvature.programs import LogitsFn, LossFn, as_pytree
from jaxfair.curvature.sampling import EigenvalueSampling, GradientSampling, eigenvalue_sampling, gradient_sampling
from jaxfair.curvature.spectrum import GroupCurvature, check_counts, group_curvature
from jaxfair.errors import JaxfairError, warn
from jaxfair.grouping import Missing, as_groups
from jaxfair.inputs import check_lengths, quoted
from jaxfair.intervals import Interval
from jaxfair.labels import as_labels, fill_left_out
from jaxfair.models import as_examples, outputs
from jaxfair.options import checked
from jaxfair.words import cut

SCALES: Mapping[str, intervals.Scale] = {"accuracy": "share", "loss": "real", "softmax_gap": "share"}
"""Where the mean of what is known of each example can lie."""
FOOT = "In brackets: 95 % intervals over examples, each group for itself, not corrected for the number of groups."


class Examples(NamedTuple):
    """What a report keeps of each example, for comparisons; arrays of shape (n,).

    Attributes:
        group: Number of its group.
        accuracy: Whether it is classified correctly, 1 or 0; NaN where that has no meaning.
        loss: Its loss.
        softmax_gap: Largest minus second largest softmax score; NaN where that has no meaning.
        digest: Of all labels, groups and group names, which says whether two reports are of the same examples.
        inputs: A number for each example by its inputs, which says whether they are in the same order.
        said: What a loss of the user's says of outputs that are always the same, shape (some,), which says whether two
            reports are of one loss; empty for cross-entropy.
    """

    group: np.ndarray
    accuracy: np.ndarray
    loss: np.ndarray
    softmax_gap: np.ndarray
    digest: str
    inputs: np.ndarray
    said: np.ndarray


class ReportIntervals(NamedTuple):
    """95 % intervals of a report, over examples; of each group for itself, not corrected for their number.

    Those of losses, gaps and eigenvalues are NaN for groups of less than ``intervals.FEW`` examples, those of gradient
    norms for less than ``intervals.FEW_FOR_NORM``: of so few none would cover.

    Attributes:
        accuracy: Wilson's score interval.
        loss: By the studentised bootstrap over examples (``intervals.of_mean``), as that of the gap.
        softmax_gap: See there.
        gradient: The gradient norm without its sampling part, and its interval.
        eigenvalue: Sampling of the largest eigenvalue.
        top_eigenvalue: Its interval, by both its residual and sampling.
    """

    accuracy: Interval
    loss: Interval
    softmax_gap: Interval
    gradient: GradientSampling
    eigenvalue: EigenvalueSampling
    top_eigenvalue: Interval


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single answer
class GroupComparison:
    """One report less another of the same examples; arrays of shape (num_groups,). ``print`` shows a table.

    Attributes:
        names: Names of the groups.
        count: Number of examples.
        difference: By quantity: accuracy, loss and softmax_gap; and where both reports have intervals
            gradient_norm, without its sampling part, and top_eigenvalue.
        interval: 95 % intervals of them, by quantity: of paired differences of the same examples, or of the same blocks
            of examples; NaN for groups of too few examples (``ReportIntervals``), and of norms and eigenvalues where no
            block differs. They are of each group for itself, not corrected for the number of groups.
    """

    names: tuple[str, ...]
    count: np.ndarray
    difference: dict[str, np.ndarray]
    interval: dict[str, Interval]

    def columns(self) -> dict[str, Any]:
        """Return the columns of the table by name."""
        found: dict[str, Any] = {"group": self.names, "count": self.count}
        for name, value in self.difference.items():
            found |= {name: value, f"{name}_low": self.interval[name].low, f"{name}_high": self.interval[name].high}
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return everything as lists and numbers, as JSON takes them (NaN stays NaN)."""
        return {name: np.asarray(values).tolist() for name, values in self.columns().items()}

    def to_frame(self) -> Any:
        """Return a pandas frame, one row a group; pandas has to be installed."""
        return as_frame(self.columns())

    def __str__(self) -> str:
        """Return a table of text."""
        return f"{as_text(self.columns())}\n{FOOT}"


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single answer
class GroupReport:
    """What ``group_report`` found of each group; arrays of shape (num_groups,). ``print`` shows a table.

    ``after - before`` compares two reports of the same examples, pair by pair (``GroupComparison``).

    Attributes:
        names: Names of the groups.
        count: Number of examples.
        accuracy: Share of the examples classified correctly.
        loss: Mean loss; cross-entropy in nats unless another was given.
        softmax_gap: Mean of the largest minus the second largest softmax score.
        curvature: Gradient and Hessian of the mean loss.
        asymmetry: Largest asymmetry of a group's Hessian, relative to the largest eigenvalue of all groups: rounding.
        precision: Precision of matrix products on accelerators.
        intervals: Intervals over examples; None unless asked for.
        examples: What is known of each example; not a part of the table.

    Example:
        >>> import numpy as np
        >>> from jaxfair import group_report
        >>> x, y, group = np.eye(4, 3), [0, 1, 2, 0], ["a", "a", "b", "b"]
        >>> report = group_report(lambda w, x: x @ w, np.eye(3), x, y, group)
        >>> report.names, report.count.tolist(), report.to_dict()["accuracy"]
        (('a', 'b'), [2, 2], [1.0, 1.0])
    """

    names: tuple[str, ...]
    count: np.ndarray
    accuracy: np.ndarray
    loss: np.ndarray
    softmax_gap: np.ndarray
    curvature: GroupCurvature
    asymmetry: float
    precision: str
    intervals: ReportIntervals | None = None
    examples: Examples | None = dataclasses.field(default=None, repr=False)

    def columns(self) -> dict[str, Any]:
        """Return the columns of the table by name."""
        ends = ("top_eigenvalue", "top_eigenvalue_residual", "bottom_eigenvalue", "bottom_eigenvalue_residual")
        found = {
            "group": self.names,
            **{name: getattr(self, name) for name in ("count", "accuracy", "loss")},
            **{name: getattr(self.curvature, name) for name in ("gradient_norm", *ends)},
            "softmax_gap": self.softmax_gap,
            "converged": self.curvature.converged,
        }
        return found if self.intervals is None else _with_intervals(found, self.intervals)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as lists and numbers, as JSON takes them (NaN stays NaN)."""
        columns = {name: np.asarray(values).tolist() for name, values in self.columns().items()}
        return {**columns, "asymmetry": self.asymmetry, "precision": self.precision}

    def to_frame(self) -> Any:
        """Return a pandas frame, one row a group; pandas has to be installed."""
        return as_frame(self.columns())

    def __str__(self) -> str:
        """Return a table of text, without the columns that were not asked for, and what to know of it."""
        return "\n".join([as_text(self.columns()), *self._unsure_signs(), *([FOOT] if self.intervals else [])])

    def _unsure_signs(self) -> list[str]:
        """Say of which groups the bottom eigenvalue is as near to 0 as its residual, if of any."""
        bottom, residual = self.curvature.bottom_eigenvalue, self.curvature.bottom_eigenvalue_residual
        unsure = np.flatnonzero(np.abs(bottom) <= residual)
        near = [f"{self.names[g]} ({residual[g]:.2g} at {bottom[g]:.2g})" for g in unsure]
        return [f"Whether the bottom eigenvalue is below 0 its residual leaves open: {quoted(near)}."] if near else []

    def __sub__(self, before: "GroupReport") -> GroupComparison:
        """Compare with the report of another network on the same examples.

        Raises:
            JaxfairError: Labels or groups are others, the examples are in another order, or the losses are others: one
                is cross-entropy and the other is not, or they say other than 1e-4 of each other for the same outputs.
                Inputs may be others, as another format or corrupted images are.
        """
        if not isinstance(before, GroupReport):
            return NotImplemented
        if self.examples is None or before.examples is None or self.examples.digest != before.examples.digest:
            raise JaxfairError(
                f"The reports are of different examples, labels, groups or losses ({self.count.sum()} in "
                f"{len(self.names)} groups and {before.count.sum()} in {len(before.names)}); compare networks on the "
                "same ones."
            )
        said = self.examples.said, before.examples.said
        if said[0].shape != said[1].shape or not np.allclose(*said, rtol=1e-4, atol=1e-4, equal_nan=True):
            raise JaxfairError("The reports are of different losses; compare networks by the same one.")
        if _is_reordered(self.examples.inputs, before.examples.inputs):
            raise JaxfairError("The reports are of the same examples in another order; give both in one order.")
        found = {name: _paired(self.examples, before.examples, name, len(self.names)) for name in SCALES}
        if self.intervals and before.intervals:
            found["gradient_norm"] = _of_parts(self.intervals.gradient.parts, before.intervals.gradient.parts)
            value, ends = _of_parts(self.intervals.eigenvalue.parts, before.intervals.eigenvalue.parts)
            few = self.count < intervals.FEW
            residual = self.curvature.top_eigenvalue_residual + before.curvature.top_eigenvalue_residual
            ends = ends.low - residual, ends.high + residual
            found["top_eigenvalue"] = value, Interval(*(np.where(few, np.nan, end) for end in ends))
        differences = {name: value for name, (value, _) in found.items()}
        if "top_eigenvalue" in found:  # the quotients' mean is the eigenvalue only up to the residual
            differences["top_eigenvalue"] = self.curvature.top_eigenvalue - before.curvature.top_eigenvalue
        return GroupComparison(self.names, self.count, differences, {name: ends for name, (_, ends) in found.items()})


@checked
def group_report(
    logits_fn: LogitsFn,
    params: Any,
    x: Any,
    y: Any,
    group: Any,
    config: CurvatureConfig = CurvatureConfig(tolerance=1e-2),
    *,
    group_names: Sequence[Any] | None = None,
    missing: Missing = "refuse",
    loss: LossFn = losses.cross_entropy,
    intervals: bool = False,
) -> GroupReport:
    """Measure every group of a data set on any model.

    The model is run three times before anything is trusted, the last time in other batches: a difference means
    dropout, shuffling or batch norm in training mode, under which curvature has no meaning.

    Args:
        logits_fn: ``(params, x) -> logits`` of shape (n, classes), in evaluation mode. From Linen:
            ``lambda p, x: model.apply({"params": p, ...}, x, train=False)``; from NNX or Equinox: split the model
            into its parameters and the rest, and merge them inside.
        params: Pytree of floating-point arrays.
        x: Inputs, a pytree of arrays with n examples along the first axis.
        y: Labels of shape (n,), or one-hot; for a ``loss`` of your own whatever it takes, one row an example.
        group: Group of each example, shape (n,): numbers, texts, categories, or anything that can be told apart.
        config: How the eigenvalues are found, and how precisely: by default to a hundredth of their size, where
            ``CurvatureConfig`` has a thousandth.
        group_names: Names of the groups 0..G-1; by default their values, of those that occur.
        missing: What to do with examples whose group is missing (masked, None, not a number, or a text such as "NA"):
            ``refuse``, ``drop`` them from the report, or make them a ``group`` of that name.
        intervals: Whether to add 95 % intervals over examples: what other examples of the same groups might have shown.
            They take a pass of gradients and one of Hessian products over all examples.
        loss: ``(logits, y) -> losses`` of shape (n,), one for each example.

    Raises:
        JaxfairError: Shapes or types do not match, a group is empty, the model is not deterministic or depends on the
            rest of its batch, its Hessian is not symmetric, or a value is not finite.

    Example:
        >>> import numpy as np
        >>> from jaxfair import group_report
        >>> x, y, group = np.eye(4, 3), [0, 1, 2, 0], ["a", "a", "b", "b"]
        >>> report = group_report(lambda w, x: x @ w, np.eye(3), x, y, group)
        >>> print(report.accuracy, report.loss.round(3))
        [1. 1.] [0.551 0.825]
    """
    check_counts(config, params)
    labelled, logits_fn = losses.takes_classes(loss), as_pytree(logits_fn)
    group, names, kept = as_groups(group, group_names, missing)
    params, x, y = as_examples(logits_fn, params, x, fill_left_out(y, kept), labelled=labelled)
    check_lengths(labels=len(y), groups=len(group))
    if not kept.all():
        x, y, group = jax.tree.map(lambda leaf: leaf[kept], (x, y, group))
    weights = groups.group_weights(group, len(names))
    logits = trusted_logits(logits_fn, params, x, y, config.precision, config.chunk_size or 256)
    per_example = trusted_losses(loss, logits, y)
    right, gap = _predictions(logits, np.asarray(y), loss)
    if not np.isfinite(per_example).all():
        bad = int(np.argmin(np.isfinite(per_example)))
        place = np.flatnonzero(kept)[bad]
        raise JaxfairError(
            f"The loss of example {place}, in group '{quoted([names[group[bad]]])}', is {per_example[bad]}; check its "
            "input and the parameters."
        )
    if before := losses.seem_probabilities(logits):
        warn(f"logits_fn seems to return probabilities; return the logits before the {before}.")
    curvature = group_curvature(logits_fn, params, x, y, weights, config, loss=loss, vectors=intervals)
    known = _digest(y, group, names, loss), _identities(x), _said(loss, logits, y)
    examples = Examples(group, right, per_example, gap, *known)
    return GroupReport(
        names=names,
        count=np.bincount(group, minlength=len(names)),
        accuracy=groups.group_means(right, group, len(names)),
        loss=groups.group_means(per_example, group, len(names)),
        softmax_gap=groups.group_means(gap, group, len(names)),
        curvature=curvature,
        asymmetry=checked_asymmetry(curvature.asymmetry, np.abs(curvature.top_eigenvalue)),
        precision=config.precision,
        intervals=_intervals(logits_fn, params, x, y, weights, config, loss, curvature, examples)
        if intervals
        else None,
        examples=examples,
    )


def _digest(y: Any, group: np.ndarray, names: tuple[str, ...], loss: LossFn) -> str:
    labels = np.asarray(y)  # 1 and 1.0 are one label
    told = labels.astype(complex if labels.dtype.kind == "c" else float)
    kind = "" if losses.takes_classes(loss) else "another loss than cross-entropy"
    parts = f"{(labels.shape, names)}{kind}".encode(), told.tobytes(), group.tobytes()
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _said(loss: LossFn, logits: np.ndarray, y: Any) -> np.ndarray:
    """Return what a loss of the user's says of outputs of this shape that are always the same, small and large ones.

    Neither a function's name nor its code says what it computes, and one that is written twice may be the same.
    """
    if losses.takes_classes(loss):
        return np.zeros(0)
    some = np.arange(0, len(y), len(y) // 4096 + 1)
    given = np.random.default_rng(0).standard_normal((len(some), logits.shape[1]))
    given *= np.geomspace(0.1, 30, 7)[np.arange(len(some)) % 7, None]
    with jax.debug_nans(False), jax.debug_infs(False):  # some may lie where the loss is not defined
        return np.asarray(outputs(as_pytree(loss), given.astype(logits.dtype), np.asarray(y)[some]), np.float64)


def _identities(x: Any) -> np.ndarray:
    """Return a number for each example by the bytes of its inputs."""
    leaves, found = jax.tree.leaves(x), []
    for start in range(0, len(leaves[0]), 1024):
        parts = [np.ascontiguousarray(leaf[start : start + 1024]) for leaf in leaves]
        for row in zip(*parts, strict=True):
            digest = hashlib.blake2b(b"".join(part.tobytes() for part in row), digest_size=8).digest()
            found.append(int.from_bytes(digest, "big"))
    return np.array(found, np.uint64)


def _is_reordered(one: np.ndarray, other: np.ndarray) -> bool:
    return not np.array_equal(one, other) and np.array_equal(np.sort(one), np.sort(other))


def _intervals(
    logits_fn: Partial,
    params: Any,
    x: Any,
    y: Any,
    weights: Any,
    config: CurvatureConfig,
    loss: LossFn,
    curvature: GroupCurvature,
    examples: Examples,
) -> ReportIntervals:
    options: dict[str, Any] = {"chunk_size": config.chunk_size, "precision": config.precision, "loss": loss}
    gradient = gradient_sampling(logits_fn, params, x, y, weights, **options)
    eigenvalue = eigenvalue_sampling(logits_fn, params, x, y, weights, curvature, **options)
    residual = curvature.top_eigenvalue_residual
    members = [examples.group == g for g in range(len(weights))]
    right, count = np.array([examples.accuracy[own].mean() for own in members]), np.array([m.sum() for m in members])
    means = {n: [_of_mean(getattr(examples, n)[own], SCALES[n]) for own in members] for n in ("loss", "softmax_gap")}
    return ReportIntervals(
        intervals.wilson(right, count),
        _joined(means["loss"]),
        _joined(means["softmax_gap"]),
        gradient,
        eigenvalue,
        Interval(eigenvalue.interval.low - residual, eigenvalue.interval.high + residual),
    )


def _of_mean(values: np.ndarray, scale: intervals.Scale) -> Interval:
    """Return the interval of a mean; that of a loss, of which nothing says that it is positive, is so if all are."""
    return intervals.of_mean(values, "positive" if scale == "real" and (values >= 0).all() else scale)


def _joined(ends: Sequence[Any]) -> Interval:
    """Return the intervals of groups as one of arrays."""
    low, high = np.array(ends, float).T
    return Interval(low, high)


def _with_intervals(columns: dict[str, Any], found: ReportIntervals) -> dict[str, Any]:
    """Return columns with the ends of each one's interval, and the corrected gradient norm, after it."""
    ends = {name: getattr(found, name) for name in ("accuracy", "loss", "softmax_gap", "top_eigenvalue")}
    made: dict[str, Any] = {}
    for name, values in columns.items():
        made[name] = values
        if name == "gradient_norm":
            made["gradient_norm_corrected"] = found.gradient.corrected
            name, ends["gradient_norm_corrected"] = "gradient_norm_corrected", found.gradient.interval
        if name in ends:
            made |= {f"{name}_low": ends[name].low, f"{name}_high": ends[name].high}
    return made


def _paired(after: Examples, before: Examples, name: str, count: int) -> tuple[np.ndarray, Interval]:
    """Return each group's mean difference of a quantity of the same examples, and its interval."""
    difference = getattr(after, name).astype(float) - getattr(before, name)
    value = groups.group_means(difference, after.group, count)
    ends = []
    for g in range(count):
        own = difference[after.group == g]
        if name == "accuracy":
            ends.append(intervals.paired_shares(own) if np.isfinite(value[g]) else (np.nan, np.nan))
        else:
            ends.append(intervals.of_mean(own, "correlation" if name == "softmax_gap" else "real"))
    return value, _joined(ends)


def _of_parts(after: Sequence[np.ndarray], before: Sequence[np.ndarray]) -> tuple[np.ndarray, Interval]:
    """Return each group's difference of what is known by blocks of the same examples, and its interval over these.

    NaN where no block differs, as for losses: that shows nothing of what other examples would.
    """
    found = [intervals.over_blocks(one - other) for one, other in zip(after, before, strict=True)]
    ends = [one.interval() if one.variance > 0 else (np.nan, np.nan) for one in found]
    return np.array([one.value for one in found]), _joined(ends)


def _predictions(logits: np.ndarray, y: np.ndarray, loss: LossFn) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each example is classified correctly, and its softmax gap; NaN where neither has a meaning.

    One logit is that of the second of two classes, which are 0 and 1, or -1 and 1: the boundary is where both have one
    loss, at 0 as a rule, for which the gap is that of the two sigmoids. Labels of a user's own loss count where they
    are classes or one-hot rows; several labels or a regression have none.
    """
    one = logits.shape[1] == 1
    signs = one and np.isin(y, [-1, 1]).all()
    nothing, classes = np.full(len(logits), np.nan), max(logits.shape[1], 2)
    try:
        label = np.asarray(as_labels(y > 0 if signs else y, classes))
    except JaxfairError:
        if losses.takes_classes(loss):
            raise
        return nothing, nothing
    if one:
        second = losses.says_second(loss, logits, y)
        if (second != (logits[:, 0] > 0)).any():
            return second == label, nothing
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    return logits.argmax(axis=1) == label, np.asarray(margins.gap(jnp.asarray(logits)))


def as_frame(columns: Mapping[str, Any]) -> Any:
    """Return columns, one of them ``group``, as a pandas frame with one row a group."""
    import pandas as pd  # pyright: ignore[reportMissingImports]

    return pd.DataFrame(columns).set_index("group")


def as_text(columns: Mapping[str, Any], form: str = ".4g") -> str:
    """Return columns as text, intervals in brackets after what they are of, without columns that hold nothing."""
    shown = {}
    for name, values in columns.items():
        if name.removesuffix("_low").removesuffix("_high") == name and not _is_missing(values):
            shown[name] = cut([_cell(value, form) for value in values])
            if f"{name}_low" in columns:
                ends = columns[f"{name}_low"], columns[f"{name}_high"]
                shown[name] = [_bracketed(cell, *of) for cell, *of in zip(shown[name], *ends, strict=True)]
    rows = [list(shown), *zip(*shown.values(), strict=True)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _bracketed(cell: str, low: float, high: float) -> str:
    return cell if np.isnan(low) or np.isnan(high) else f"{cell} ({low:.3g} to {high:.3g})"


def _is_missing(values: Any) -> bool:
    values = np.asarray(values)
    return values.dtype.kind == "f" and bool(np.isnan(values).all())


def _cell(value: Any, form: str) -> str:
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else format(value, form)
    return str(value)
