"""Two networks, before and after a change, or two sets of predictions: which group lost, and what foretold it.

Whatever the change was (linear units for ReLUs, other hardware, pruning, quantization, new training), both sides are
asked about the same examples, so that every comparison is paired. Where both are functions of the same parameters, the
change of each group's loss is compared with its expansion in the change of the parameters.
"""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

from jaxfair import groups, intervals, losses
from jaxfair.bounds import excess_loss_bound, parameter_distance
from jaxfair.curvature.chunks import over_chunks
from jaxfair.curvature.operators import GroupOperator
from jaxfair.curvature.programs import LossFn, as_pytree, at_precision
from jaxfair.curvature.report import as_frame, as_text, seem_probabilities
from jaxfair.curvature.spectrum import CurvatureConfig, group_curvature
from jaxfair.errors import JaxfairError
from jaxfair.inputs import Missing, as_array, as_examples, as_groups, as_inputs, as_labels, check_lengths

Verdict = Literal["more", "less", "within noise", "too few runs"]
RUNS = 5  # of several runs, at least so many before their differences are judged
LEVEL = 0.05


class Measure(NamedTuple):
    """A quantity of every group with its 95 % interval; arrays of shape (groups,), NaN where there is none."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Difference(NamedTuple):
    """What one group lost beyond another, in points of relative drop.

    Attributes:
        group, reference: Names.
        points: Relative drop of the group less that of the reference, in percentage points.
        low, high: Interval that holds for all comparisons of its kind at once (Bonferroni).
        p_value: Two-sided, of Student's t test that it is 0, corrected by Holm (1979) where it is one of several.
        verdict: Whether the group lost more or less, beyond noise.
    """

    group: str
    reference: str
    points: float
    low: float
    high: float
    p_value: float
    verdict: Verdict


class Expansion(NamedTuple):
    """The change of each group's loss and what is foretold of it; arrays of shape (runs, groups), losses in nats.

    With ``d`` the change of the parameters, gradient ``g`` and Hessian ``H`` of the group's loss before it. ReLU kinks
    make the Hessian miss some of the change (arXiv 2411.16914).

    Attributes:
        distance: ``||d||``, shape (runs,).
        rise: Change of the loss that happened.
        first: ``g . d``.
        second: ``1/2 d^T H d``.
        bound: ``||g|| ||d|| + 1/2 lambda(H) ||d||^2`` (Das et al. 2024, Theorem 4.4); NaN without ``curvature``.
    """

    distance: np.ndarray
    rise: np.ndarray
    first: np.ndarray
    second: np.ndarray
    bound: np.ndarray


@dataclasses.dataclass(frozen=True)
class ChangeReport:
    """What ``change_report`` found; ``print`` shows the answer and a table.

    Attributes:
        names: Names of the groups.
        count: Number of examples of each group, shape (groups,).
        runs: Number of pairs of networks. Intervals are over the examples, and over the runs if there are several.
        accuracy_before, accuracy_after: Share of the examples classified correctly.
        relative_drop: ``(before - after) / before`` of the accuracy in percent; negative means improved.
        loss_before, loss_after: Mean loss in nats; NaN where a side is predicted labels.
        loss_rise: Their difference, paired.
        broken, mended: Shares of the examples that were right and became wrong, and the reverse.
        changed: Share of the examples whose predicted class changed at all.
        mcnemar: Exact two-sided p-value that breaking and mending are equally likely (McNemar 1947), one run only.
        exemplars: Number of examples whose modal class over the runs changed (Hooker et al. 2019); None for one run.
        differences: Every group against the reference group, from the one that lost most.
        gap: The two groups that are farthest apart, whose interval allows for having been picked.
        expansion: None where the two sides are no function of the same parameters.
        no_expansion: Why there is none; empty where there is one.

    Example:
        >>> import numpy as np
        >>> from jaxfair import change_report
        >>> y, group = np.arange(40) % 2, np.repeat(["a", "b"], 20)
        >>> report = change_report(y, y, None, y, group)
        >>> report.answer()
        "No group's loss differs from that of a beyond noise."
    """

    names: tuple[str, ...]
    count: np.ndarray
    runs: int
    accuracy_before: Measure
    accuracy_after: Measure
    relative_drop: Measure
    loss_before: Measure
    loss_after: Measure
    loss_rise: Measure
    broken: Measure
    mended: Measure
    changed: Measure
    mcnemar: np.ndarray
    exemplars: np.ndarray | None
    differences: tuple[Difference, ...]
    gap: Difference | None
    expansion: Expansion | None
    no_expansion: str

    def columns(self) -> dict[str, Any]:
        """Return the columns of the table by name; of a measure its value, ``_low`` and ``_high``."""
        found: dict[str, Any] = {"group": self.names, "count": self.count}
        for name in (*ACCURACIES, *LOSSES):
            measure = getattr(self, name)
            if np.isfinite(measure.value).any():
                found |= {name: measure.value, f"{name}_low": measure.low, f"{name}_high": measure.high}
        found |= {"mcnemar": self.mcnemar} if self.runs == 1 else {"exemplars": self.exemplars}
        if self.expansion is not None:
            means = {name: getattr(self.expansion, name).mean(axis=0) for name in ("first", "second", "bound")}
            found |= {"first_term": means["first"], "second_term": means["second"], "bound": means["bound"]}
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return everything as lists and numbers, as JSON takes them (NaN stays NaN)."""
        found: dict[str, Any] = {name: np.asarray(values).tolist() for name, values in self.columns().items()}
        found |= {"runs": self.runs, "differences": [difference._asdict() for difference in self.differences]}
        return found | {"gap": self.gap._asdict() if self.gap else None, "no_expansion": self.no_expansion}

    def to_frame(self) -> Any:
        """Return a pandas frame, one row a group; pandas has to be installed."""
        return as_frame(self.columns())

    def answer(self) -> str:
        """Return who lost more than whom, in one or two sentences."""
        if not self.differences:
            return "There is no second group to compare with."
        if self.differences[0].verdict == "too few runs":
            return f"Differences between groups are not judged with {self.runs} runs; at least {RUNS} are needed."
        apart = [found for found in self.differences if found.verdict in ("more", "less")]
        said = [_said(difference) for difference in apart]
        rest = len(self.differences) - len(apart)
        if not said:
            return f"No group's loss differs from that of {self.differences[0].reference} beyond noise."
        within = f" {rest} other group{'s are' if rest > 1 else ' is'} within noise." if rest else ""
        return f"{'; '.join(said)} (95 %, for all groups at once).{within}"

    def __str__(self) -> str:
        """Return the answer and a table of text."""
        shown: dict[str, Any] = {"group": self.names, "n": self.count}
        for name in (*ACCURACIES, *LOSSES):
            title, measure = name.replace("_", " "), getattr(self, name)
            shown |= {title: measure.value, f"{title}_low": measure.low, f"{title}_high": measure.high}
        return f"{self.answer()}\n{as_text(shown, '.3g')}"


ACCURACIES = ("accuracy_before", "accuracy_after", "relative_drop", "broken", "mended", "changed")
LOSSES = ("loss_before", "loss_after", "loss_rise")


class _Side(NamedTuple):
    """One network on all examples: predicted classes, and losses where there are logits."""

    predicted: np.ndarray
    loss: np.ndarray | None
    classes: int | None


def change_report(
    before: Any,
    after: Any,
    x: Any,
    y: Any,
    group: Any,
    config: CurvatureConfig | None = None,
    *,
    group_names: Sequence[Any] | None = None,
    reference: Any = None,
    missing: Missing = "refuse",
    loss: LossFn = losses.cross_entropy,
) -> ChangeReport:
    """Compare two networks, or two sets of predictions, on the same examples, group by group.

    Args:
        before: A pair ``(logits_fn, params)`` as for ``group_report``; or what a network of any framework answered:
            logits of shape (n, classes), or predicted classes of shape (n,). A list holds several runs, such as seeds.
        after: The same; of several runs the i-th is what the i-th before became, or all of the only one.
        x: Inputs, a pytree of arrays with n examples along the first axis; None where no side is a network.
        y: Labels of shape (n,), or one-hot.
        group: Group of each example, shape (n,): anything that can be told apart.
        config: How eigenvalues for the bound of Theorem 4.4 are found; None leaves it out, which is quick.
        group_names: Names of the groups 0..G-1; by default their values.
        reference: Name of the group that the others are compared with; by default the one with the most examples.
        missing: What to do with examples whose group is missing, as for ``group_report``.
        loss: ``(logits, y) -> losses`` of shape (n,), one for each example.

    Raises:
        JaxfairError: Shapes, lengths or classes do not match, labels or groups are missing, a logit is not a number, or
            the numbers of runs do not fit each other.

    Example:
        >>> import numpy as np
        >>> from jaxfair import change_report
        >>> y, group = np.arange(40) % 2, np.repeat(["a", "b"], 20)
        >>> after = np.where((group == "b") & (np.arange(40) > 30), 1 - y, y)
        >>> report = change_report(y, after, None, y, group)
        >>> print(report.relative_drop.value, report.gap.group, report.gap.verdict)
        [ 0. 45.] b more
    """
    befores, afters = _runs(before), _runs(after)
    if len(befores) != len(afters) and min(len(befores), len(afters)) > 1:
        raise JaxfairError(f"There are {len(befores)} runs before and {len(afters)} after; give as many, or one of it.")
    pairs = max(len(befores), len(afters))
    group, names, kept = as_groups(group, group_names, missing)
    y = np.asarray(as_labels(y))
    check_lengths(labels=len(y), groups=len(group))
    x = None if x is None else as_inputs(x)
    named = (befores, "before"), (afters, "after")
    sides = [[_side(one, x, y, kept, loss, which) for one in some] for some, which in named]
    _check_classes(sides, y)
    first, second = (side * (pairs // len(side)) for side in sides)
    y, group = y[kept], group[kept]
    member = [group == g for g in range(len(names))]
    right = [np.array([side.predicted == y for side in some], float) for some in (first, second)]
    changed = np.array([a.predicted != b.predicted for a, b in zip(first, second, strict=True)], float)
    broken, mended = right[0] * (1 - right[1]), right[1] * (1 - right[0])
    drops = [intervals.drop_parts(right[0][:, of], right[1][:, of]) for of in member]
    differences, gap = _differences(drops, names, _reference(reference, names, member), pairs)
    expansion, why = _expansion(befores, afters, x, y, kept, member, config, loss)
    had, has = _table(first), _table(second)
    return ChangeReport(
        names=names,
        count=np.array([of.sum() for of in member]),
        runs=pairs,
        accuracy_before=_shares(right[0], member),
        accuracy_after=_shares(right[1], member),
        relative_drop=_measured([intervals.over_seeds_and_examples([table]) for table in drops], "percent"),
        loss_before=_losses(had, member),
        loss_after=_losses(has, member),
        loss_rise=_losses(None if had is None or has is None else has - had, member, "real"),
        broken=_shares(broken, member),
        mended=_shares(mended, member),
        changed=_shares(changed, member),
        mcnemar=np.array([_mcnemar(broken[0][of].sum(), mended[0][of].sum()) for of in member]),
        exemplars=_exemplars(first, second, member) if pairs > 1 else None,
        differences=differences,
        gap=gap,
        expansion=expansion,
        no_expansion=why,
    )


def _runs(side: Any) -> list[Any]:
    """Return the runs of a side: the items of a list, unless these are the classes of one run."""
    return side if isinstance(side, list) and side and not np.isscalar(side[0]) else [side]


def _is_network(side: Any) -> bool:
    return isinstance(side, tuple) and len(side) == 2 and callable(side[0])


@jax.jit
def _logits(logits_fn: Partial, params: Any, x: Any) -> Any:
    return logits_fn(params, x)


def _side(given: Any, x: Any, y: np.ndarray, kept: np.ndarray, loss: LossFn, which: str) -> _Side:
    """Return what one network says of the examples that are kept."""
    if _is_network(given):
        if x is None:
            raise JaxfairError(f"The side {which} is a network, but there are no inputs x; give them, or its logits.")
        logits_fn, params, x, _ = _network(given, x, y, loss)
        with at_precision("highest"):
            answers = over_chunks(
                lambda i: np.asarray(_logits(logits_fn, params, jax.tree.map(lambda leaf: leaf[i], x))), len(y), 256
            )
    else:
        answers = np.asarray(as_array(given, f"answers {which}"))
    if len(answers) != len(y) or answers.ndim not in (1, 2):
        raise JaxfairError(
            f"The side {which} has answers of shape {answers.shape} for {len(y)} labels; give logits of shape (n, "
            "classes) or predicted classes of shape (n,), in the order of the labels."
        )
    answers = answers[kept]
    if answers.ndim == 1 or answers.shape[1] == 1:
        return _Side(np.asarray(as_labels(answers)), None, None)
    if not np.isfinite(answers).all():
        bad = int(np.flatnonzero(kept)[np.argmin(np.isfinite(answers).all(axis=1))])
        raise JaxfairError(f"A logit of example {bad} {which} is not a finite number; check its input and the network.")
    if seem_probabilities(answers):
        warnings.warn(
            f"The side {which} seems to hold probabilities; give the logits before the softmax.", stacklevel=3
        )
    per_example = np.asarray(loss(jnp.asarray(answers), jnp.asarray(y[kept])), float)
    return _Side(answers.argmax(axis=1), per_example, answers.shape[1])


def _network(given: tuple[Any, Any], x: Any, y: np.ndarray, loss: LossFn) -> tuple[Any, Any, Any, Any]:
    """Return a network and examples as arrays that fit each other."""
    logits_fn = as_pytree(given[0])
    return logits_fn, *as_examples(logits_fn, given[1], x, y, labelled=losses.takes_classes(loss))


def _check_classes(sides: list[list[_Side]], y: np.ndarray) -> None:
    """Refuse sides of unlike classes; warn of a side that says one class only."""
    classes = {side.classes for some in sides for side in some} - {None}
    if len(classes) > 1:
        given = " and ".join(map(str, sorted(classes)))  # pyright: ignore
        raise JaxfairError(f"The networks have {given} classes; compare networks for the same ones.")
    most = max(int(y.max(initial=0)), *(int(side.predicted.max(initial=0)) for some in sides for side in some))
    for width in classes:
        if width is not None and most >= width:
            raise JaxfairError(f"There are classes up to {most} and {width} logits; give a logit for each class.")
    for some, which in zip(sides, ("before", "after"), strict=True):
        if len(y) > 1 and any(len(np.unique(side.predicted)) == 1 for side in some):
            warnings.warn(f"A network {which} predicts one class for all examples.", stacklevel=3)


def _measured(estimates: Sequence[intervals.Estimate], scale: intervals.Scale) -> Measure:
    ends = [estimate.interval(scale=scale) for estimate in estimates]
    value = np.array([float(estimate.value) for estimate in estimates])
    return Measure(value, np.array([float(end.low) for end in ends]), np.array([float(end.high) for end in ends]))


def _shares(table: np.ndarray, member: Sequence[np.ndarray]) -> Measure:
    """Return the share of each group, from ones and zeros of shape (runs, examples).

    Of one run by Wilson's interval; of several over runs and examples, with two examples of each kind added where the
    interval is made (Agresti and Coull 1998), so that a share of 0 has a width.
    """
    value = np.array([table[:, of].mean() for of in member])
    if len(table) == 1:
        return Measure(value, *intervals.wilson(value, np.array([of.sum() for of in member])))
    extra = np.broadcast_to([1.0, 1.0, 0.0, 0.0], (len(table), 4))
    with_extra = [intervals.over_seeds_and_examples([np.hstack([table[:, of], extra])]) for of in member]
    found = _measured(with_extra, "real")
    return Measure(value, np.clip(found.low, 0, value), np.clip(found.high, value, 1))


def _table(some: Sequence[_Side]) -> np.ndarray | None:
    """Return the losses of all runs, shape (runs, examples); None where some are predicted classes."""
    return np.array([side.loss for side in some]) if all(side.loss is not None for side in some) else None


def _losses(table: np.ndarray | None, member: Sequence[np.ndarray], scale: intervals.Scale = "positive") -> Measure:
    if table is None:
        return Measure(*np.full((3, len(member)), np.nan))
    return _measured([_mean(table[:, of]) for of in member], scale)


def _mean(table: np.ndarray) -> intervals.Estimate:
    """Return the mean over runs and examples; of a single example nothing is known but its value."""
    if table.shape[1] < 2:
        return intervals.Estimate(np.asarray(table.mean()), np.asarray(np.nan), np.asarray(1.0))
    return intervals.over_seeds_and_examples([table])


def _mcnemar(broken: float, mended: float) -> float:
    from scipy.stats import binomtest

    return float(binomtest(int(broken), int(broken + mended)).pvalue) if broken + mended else 1.0


def _exemplars(first: Sequence[_Side], second: Sequence[_Side], member: Sequence[np.ndarray]) -> np.ndarray:
    """Count the examples of each group whose most frequent class changed; of equally frequent ones the first counts."""
    modal = [_modes(np.array([side.predicted for side in some])) for some in (first, second)]
    return np.array([(modal[0] != modal[1])[of].sum() for of in member])


def _modes(predicted: np.ndarray) -> np.ndarray:
    counts = np.array([(predicted == label).sum(axis=0) for label in range(int(predicted.max()) + 1)])
    return counts.argmax(axis=0)


def _reference(name: Any, names: tuple[str, ...], member: Sequence[np.ndarray]) -> int:
    if name is None:
        return int(np.argmax([of.sum() for of in member]))
    if str(name) not in names:
        raise JaxfairError(f"There is no group '{name}'; the reference is one of {', '.join(names[:10])}.")
    return names.index(str(name))


def _differences(
    drops: Sequence[np.ndarray], names: tuple[str, ...], reference: int, runs: int
) -> tuple[tuple[Difference, ...], Difference | None]:
    """Compare the groups' drops with the reference's, and the two that are farthest apart."""
    known = [g for g, table in enumerate(drops) if np.isfinite(table).all()]
    if reference not in known or len(known) < 2:
        return (), None

    def contrast(g: int, other: int) -> intervals.Estimate:
        return intervals.over_seeds_and_examples([drops[g], drops[other]], (1.0, -1.0))

    def judged(g: int, other: int, comparisons: int, p_value: float) -> Difference:
        estimate = contrast(g, other)
        low, high = (float(end) for end in estimate.interval(1 - LEVEL / comparisons))
        verdict: Verdict = "within noise"
        if 1 < runs < RUNS:
            verdict = "too few runs"
        elif p_value < LEVEL and (low > 0 or high < 0):
            verdict = "more" if low > 0 else "less"
        return Difference(names[g], names[other], float(estimate.value), low, high, p_value, verdict)

    others = [g for g in known if g != reference]
    p_values = intervals.holm(np.array([contrast(g, reference).p_value() for g in others]))
    found = [judged(g, reference, len(others), float(p)) for g, p in zip(others, p_values, strict=True)]
    order = sorted(known, key=lambda g: drops[g].mean())
    pairs = len(known) * (len(known) - 1) // 2
    p_value = float(min(1.0, pairs * contrast(order[-1], order[0]).p_value()))
    gap = judged(order[-1], order[0], pairs, p_value)
    return tuple(sorted(found, key=lambda difference: -difference.points)), gap


def _expansion(
    befores: list[Any],
    afters: list[Any],
    x: Any,
    y: np.ndarray,
    kept: np.ndarray,
    member: Sequence[np.ndarray],
    config: CurvatureConfig | None,
    loss: LossFn,
) -> tuple[Expansion | None, str]:
    """Return the terms of every run, or why there are none."""
    pairs = max(len(befores), len(afters))
    runs = zip(befores * (pairs // len(befores)), afters * (pairs // len(afters)), strict=True)
    x = jax.tree.map(lambda leaf: leaf[kept], x)
    found = []
    for one, other in runs:
        if not (_is_network(one) and _is_network(other)):
            return None, "a side has answers, and no parameters"
        if reason := _unlike(one[1], other[1]):
            return None, reason
        found.append(_terms(one, other, x, y, member, config, loss))
    return Expansion(*(np.array(column) for column in zip(*found, strict=True))), ""


def _unlike(params: Any, other: Any) -> str:
    """Return at which path two trees of parameters first differ; empty where they are alike."""
    trees = [dict(jax.tree_util.tree_flatten_with_path(tree)[0]) for tree in (params, other)]
    for path in [*trees[0], *trees[1]]:
        shapes = [np.shape(tree[path]) if path in tree else None for tree in trees]
        if shapes[0] != shapes[1]:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            said = ["absent" if shape is None else f"of shape {shape}" for shape in shapes]
            return f"the parameter '{name}' is {said[0]} before and {said[1]} after"
    return ""


def _terms(
    before: tuple[Any, Any],
    after: tuple[Any, Any],
    x: Any,
    y: np.ndarray,
    member: Sequence[np.ndarray],
    config: CurvatureConfig | None,
    loss: LossFn,
) -> tuple[float, list[float], list[float], list[float], np.ndarray]:
    """Return distance, rises of the loss, both terms and the bounds of one run."""
    weights = groups.group_weights(np.argmax(member, axis=0), len(member))
    logits_fn, params, _, labels = _network(before, x, y, loss)
    step = ravel_pytree(after[1])[0] - ravel_pytree(params)[0]
    distance, rise, first, second = parameter_distance(params, after[1]), [], [], []
    for weight in np.asarray(weights):
        operator = GroupOperator(logits_fn, params, x, labels, weight, loss=loss)
        was, gradient = operator.loss_and_gradient()
        became, _ = GroupOperator(as_pytree(after[0]), after[1], x, labels, weight, loss=loss).loss_and_gradient()
        rise.append(became - was)
        first.append(float(gradient @ step))
        second.append(0.5 * float(step @ operator(step)))
    bound = np.full(len(member), np.nan)
    if config is not None:
        found = group_curvature(logits_fn, params, x, labels, weights, config, loss=loss)
        top = found.top_eigenvalue + found.top_eigenvalue_residual
        bound = excess_loss_bound(found.gradient_norm, top, distance, np.array(rise)).bound
    return distance, rise, first, second, bound


def _said(of: Difference) -> str:
    more = of.points >= 0
    low, high = (of.low, of.high) if more else (-of.high, -of.low)
    return (
        f"{of.group} loses {abs(of.points):.1f} points {'more' if more else 'less'} than {of.reference} "
        f"({low:.1f} to {high:.1f})"
    )
