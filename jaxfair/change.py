"""Two networks, before and after a change, or two sets of predictions: which group lost, and what foretold it.

Whatever the change was (linear units for ReLUs, other hardware, pruning, quantization, new training), both sides are
asked about the same examples, so that every comparison is paired. Where both are functions of the same parameters, the
change of each group's loss is compared with its expansion in the change of the parameters (``taylor``).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxfair import answers, groups, intervals, judging, losses, paired, taylor
from jaxfair.curvature.checks import change_of_logits, trusted_logits
from jaxfair.curvature.config import CurvatureConfig
from jaxfair.curvature.programs import LossFn
from jaxfair.curvature.report import as_frame, as_text
from jaxfair.curvature.spectrum import check_counts
from jaxfair.errors import JaxfairError
from jaxfair.grouping import Missing, as_groups
from jaxfair.inputs import as_array, as_inputs, check_lengths, check_untraced, unboxed
from jaxfair.labels import as_labels, as_told, check_booleans, fill_left_out
from jaxfair.models import tree_difference
from jaxfair.options import checked
from jaxfair.paired import Difference, Measure
from jaxfair.words import NAMED, cut, in_words, lost_or_gained

ONE_RUN = "In brackets: 95 % intervals over examples. They are of these two networks: other seeds would differ too."
SEVERAL = (
    "In brackets: 95 % intervals over runs and examples; those of exemplars are over examples, and those of foretold "
    "terms over runs."
)
OTHER = (
    "The sides are different functions of their parameters too (masks, statistics or code): that is in the loss rise "
    "alone, and not foretold; taylor.network_lines has it for networks of jaxfair."
)
FOOT = "They are of each group for itself, as are McNemar's p-values; the answer above allows for all groups at once."


class Expansion(NamedTuple):
    """The change of each group's loss and what is foretold of it; arrays of shape (runs, groups), losses in nats.

    With ``d`` the change of the parameters, gradient ``g`` and Hessian ``H`` of the group's loss before it. On ReLU
    networks the Hessian misses what happens where units cross their kink (arXiv 2411.16914); and what is no parameter,
    such as masks and batch statistics, is in the rise alone (``taylor.network_lines`` has these too).

    Attributes:
        distance: ``||d||``, shape (runs,).
        rise: Change of the loss that happened.
        first: ``g . d``.
        second: ``1/2 d^T H d``.
        bound: ``||g|| ||d|| + 1/2 lambda(H) ||d||^2`` (Das et al. 2024, Theorem 4.4); NaN without ``config``.
    """

    distance: np.ndarray
    rise: np.ndarray
    first: np.ndarray
    second: np.ndarray
    bound: np.ndarray

    @property
    def foretold(self) -> np.ndarray:
        """What both terms foretell of the rise, shape (runs, groups)."""
        return self.first + self.second


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single answer
class ChangeReport:
    """What ``change_report`` found; ``print`` shows the answer and a table.

    Attributes:
        names: Names of the groups.
        count: Number of examples of each group, shape (groups,).
        runs: Number of pairs of networks. Intervals are over the examples, and over the runs if there are several.
        accuracy_before, accuracy_after: Share of the examples classified correctly.
        relative_drop: ``(before - after) / before`` of the accuracy in percent; negative means improved. NaN where the
            95 % interval of the accuracy before reaches 0 in some run: a ratio to it says nothing.
        accuracy_drop: ``before - after`` of the accuracy in percentage points.
        loss_before, loss_after: Mean loss in nats; NaN where a side is predicted labels.
        loss_rise: Their difference, paired.
        broken, mended: Shares of the examples that were right and became wrong, and the reverse.
        changed: Share of the examples whose predicted class changed at all.
        mcnemar: Exact two-sided p-value that breaking and mending are equally likely (McNemar 1947), of each group for
            itself; NaN for several runs, which are no further examples.
        exemplars: Share of the examples whose most frequent class over the runs changed, the compression-identified
            exemplars of Hooker et al. 2019, with Wilson's interval over examples; None for one run.
        differences: Every group against the reference group, from the one that lost most.
        gap: The two groups that are farthest apart, whose interval allows for having been picked.
        expansion: None where the two sides are no function of the same parameters.
        no_expansion: Why there is none; empty where there is one.
        other_function: Whether the sides differ in more than parameters, such as masks, which no term sees.
        single: The side that is one network while the other is several runs, ``before`` or ``after``; what another one
            would show there is in no interval. Empty where both are as many.

    Example:
        >>> import numpy as np
        >>> from jaxfair import change_report
        >>> y, group = np.arange(40) % 2, np.repeat(["a", "b"], 20)
        >>> report = change_report(y, y, None, y, group)
        >>> report.answer()
        'No prediction changed. No group lost more or less of its accuracy than a beyond noise.'
    """

    names: tuple[str, ...]
    count: np.ndarray
    runs: int
    accuracy_before: Measure
    accuracy_after: Measure
    relative_drop: Measure
    accuracy_drop: Measure
    loss_before: Measure
    loss_after: Measure
    loss_rise: Measure
    broken: Measure
    mended: Measure
    changed: Measure
    mcnemar: np.ndarray
    exemplars: Measure | None
    differences: tuple[Difference, ...]
    gap: Difference | None
    expansion: Expansion | None
    no_expansion: str
    other_function: bool = False
    single: str = ""

    def columns(self) -> dict[str, Any]:
        """Return the columns of the table by name; of a measure its value, ``_low`` and ``_high``."""
        found: dict[str, Any] = {"group": self.names, "count": self.count}
        for name in (*ACCURACIES, "accuracy_drop", *LOSSES):
            if np.isfinite(getattr(self, name).value).any():
                found |= _ends(name, getattr(self, name))
        found |= {"mcnemar": self.mcnemar} if self.exemplars is None else _ends("exemplars", self.exemplars)
        if self.expansion is not None:
            for title, name in TERMS.items():
                found |= _ends(title, _over_runs(self.expansion, name))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return everything as lists and numbers, as JSON takes them (NaN stays NaN)."""
        found: dict[str, Any] = {name: np.asarray(values).tolist() for name, values in self.columns().items()}
        found |= {"runs": self.runs, "differences": [difference._asdict() for difference in self.differences]}
        if self.expansion is not None:
            found["expansion"] = {name: values.tolist() for name, values in self.expansion._asdict().items()}
        found |= {"no_expansion": self.no_expansion, "other_function": self.other_function, "single": self.single}
        return found | {"gap": self.gap._asdict() if self.gap else None}

    def to_frame(self) -> Any:
        """Return a pandas frame, one row a group; pandas has to be installed."""
        return as_frame(self.columns())

    def answer(self) -> str:
        """Return who lost more than whom, in one or two sentences."""
        unknown = np.flatnonzero(~np.isfinite(self.relative_drop.value))
        never = f"{SELDOM} {'; '.join(self._points(int(g)) for g in unknown[:NAMED])}{_more(len(unknown))}."
        if not self.differences:
            return never if len(unknown) else f"{self._alone()}; there is no second group to compare with."
        never = f" {never}" if len(unknown) else ""
        same = "No prediction changed. " * (not self.changed.value.any())
        first, *_ = self.differences
        apart = [found for found in self.differences if found.verdict in ("more", "less")]
        largest = max(self.differences, key=lambda found: abs(found.points))
        seen = f" The largest difference seen: {self._said(largest)}." if largest.points else ""
        if first.verdict == "too few runs":
            few = f"Differences of groups are not judged with {self.runs} runs; at least {judging.SEEDS} are needed."
            return f"{same}{few}{seen}{never}"
        if not apart:
            than = self._cut[first.reference]
            return f"{same}No group lost more or less of its accuracy than {than} beyond noise.{seen}{never}"
        rest = len(self.differences) - len(apart)
        within = f" {rest} other group{'s are' if rest > 1 else ' is'} within noise." if rest else ""
        said = [self._said(apart[0], "; 95 % for all groups at once"), *map(self._said, apart[1:NAMED])]
        return f"{'; '.join(said)}{_more(len(apart))}.{within}{never}"

    def of_single(self) -> str:
        """Return what no interval knows where one side is a single network; empty where both are several or one."""
        said = f" There is one network {self.single}: what another one would show there is in no interval."
        return said if self.single else ""

    def _alone(self) -> str:
        """Say what the first group lost or gained."""
        lost = [float(end[0]) for end in self.relative_drop]
        return f"{self._cut[self.names[0]]} {lost_or_gained((lost[0], lost[1], lost[2]), '% of its accuracy')}"

    def _points(self, g: int) -> str:
        """Say what a group without a relative drop lost or gained."""
        value, low, high = (float(part[g]) for part in self.accuracy_drop)
        return f"{self._cut[self.names[g]]} {lost_or_gained((value, low, high))}"

    @property
    def _cut(self) -> dict[str, str]:
        """The names as an answer has them."""
        return dict(zip(self.names, cut(self.names), strict=True))

    def _said(self, of: Difference, also: str = "") -> str:
        lost = dict(zip(self.names, self.relative_drop.value, strict=True))
        both = lost[of.group], lost[of.reference]
        return in_words(self._cut[of.group], self._cut[of.reference], (of.points, of.low, of.high), both, also)

    def __str__(self) -> str:
        """Return the answer, and tables of text: what happened, and what was foretold."""
        shown: dict[str, Any] = {"group": self.names, "n": self.count}
        for name in (*ACCURACIES, *LOSSES):
            shown |= _ends(name.replace("_", " "), getattr(self, name))
        shown |= {"McNemar's p": self.mcnemar} if self.exemplars is None else _ends("exemplars", self.exemplars)
        noise = f"{ONE_RUN if self.runs == 1 else SEVERAL} {FOOT}{self.of_single()}"
        parts = [self.answer(), as_text(shown, ".3g"), noise]
        if self.expansion is None:
            return "\n".join([*parts, f"Nothing is foretold of the losses: {self.no_expansion}."])
        told: dict[str, Any] = {"group": self.names, **_ends("loss rise", self.loss_rise)}
        for title, name in TERMS.items():
            told |= _ends(title.replace("_", " "), _over_runs(self.expansion, name))
        far = f"The parameters moved by {self.expansion.distance.mean():.3g}. {taylor.KINKS}"
        far += f" {OTHER}" if self.other_function else ""
        return "\n".join([*parts, "", as_text(told, ".3g"), far])


SELDOM = "Before the change some were right on too few examples for a loss relative to that:"
ACCURACIES = ("accuracy_before", "accuracy_after", "relative_drop", "broken", "mended", "changed")
LOSSES = ("loss_before", "loss_after", "loss_rise")
TERMS = {"first_term": "first", "second_term": "second", "foretold": "foretold", "bound": "bound"}


def _more(count: int) -> str:
    """Say how many groups an answer does not name."""
    return f"; and {count - NAMED} more, see the table" if count > NAMED else ""


def _ends(name: str, measure: Measure) -> dict[str, np.ndarray]:
    """Return a measure as columns: its value, and the ends of its interval."""
    return {name: measure.value, f"{name}_low": measure.low, f"{name}_high": measure.high}


def _over_runs(expansion: Expansion, name: str) -> Measure:
    """Return the mean over runs of what an expansion calls so, of each group, with Student's t interval.

    That of a bound is above 0, as a bound is but of a Hessian whose eigenvalues are all below.
    """
    values = getattr(expansion, name)
    found, above = intervals.over_seeds(values), name == "bound" and bool((values >= 0).all())
    return Measure(found.value, *found.interval(scale="positive" if above else "real"))


@checked
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
    runs = answers.as_runs(before)
    if config is not None and all(map(answers.is_network, [*runs, *answers.as_runs(after)])):
        for _, params in runs:
            check_counts(config, params)
    given = _read(before, after, x, y, group, group_names, reference, missing, loss)
    names, pairs = given.names, len(given.first)
    first, second, y = given.first, given.second, given.y
    member = [given.group == g for g in range(len(names))]
    right = [np.array([side.predicted == y for side in some], float) for some in (first, second)]
    changed = np.array([a.predicted != b.predicted for a, b in zip(first, second, strict=True)], float)
    broken, mended = right[0] * (1 - right[1]), right[1] * (1 - right[0])
    by_group = [(right[0][:, of], right[1][:, of]) for of in member]
    differences, gap = paired.differences_of(by_group, names, given.reference)
    had, has = paired.table_of_losses(first), paired.table_of_losses(second)
    with np.errstate(invalid="ignore"):  # a loss that is infinite before and after
        rise = None if had is None or has is None else has - had
    expansion, why = _expansion(given, rise, config, loss)
    return ChangeReport(
        names=names,
        count=np.array([of.sum() for of in member]),
        runs=pairs,
        accuracy_before=paired.shares(right[0], member),
        accuracy_after=paired.shares(right[1], member),
        relative_drop=paired.relative_drops(by_group),
        accuracy_drop=paired.points_lost(by_group),
        loss_before=paired.mean_losses(had, member),
        loss_after=paired.mean_losses(has, member),
        loss_rise=paired.mean_losses(rise, member, "real"),
        broken=paired.shares(broken, member),
        mended=paired.shares(mended, member),
        changed=paired.shares(changed, member),
        mcnemar=np.array([paired.mcnemar(broken[:, of], mended[:, of]) for of in member]),
        exemplars=paired.exemplars(first, second, member) if pairs > 1 else None,
        differences=differences,
        gap=gap,
        expansion=expansion,
        no_expansion=why,
        other_function=expansion is not None and _are_other_functions(given, loss),
        single=given.single,
    )


class _Read(NamedTuple):
    """What is compared, without the examples that are left out.

    Attributes:
        befores: The run before of each pair, as given.
        afters: The run after of each pair, as given.
        first: What each run before answers.
        second: What each run after answers.
        x: Inputs.
        y: Classes.
        told: What the loss is told of the labels.
        group: Number of each example's group.
        names: Names of the groups.
        reference: Number of the group that the others are compared with.
        single: The side that was given once for all runs of the other; empty where there is none.
    """

    befores: list[Any]
    afters: list[Any]
    first: list[answers.Answers]
    second: list[answers.Answers]
    x: Any
    y: np.ndarray
    told: np.ndarray
    group: np.ndarray
    names: tuple[str, ...]
    reference: int
    single: str


def _read(
    before: Any,
    after: Any,
    x: Any,
    y: Any,
    group: Any,
    group_names: Sequence[Any] | None,
    reference: Any,
    missing: Missing,
    loss: LossFn,
) -> _Read:
    """Read and check what ``change_report`` was given."""
    befores, afters = answers.as_runs(before), answers.as_runs(after)
    if len(befores) != len(afters) and min(len(befores), len(afters)) > 1:
        raise JaxfairError(f"There are {len(befores)} runs before and {len(afters)} after; give as many, or one of it.")
    pairs = max(len(befores), len(afters))
    group, names, kept = as_groups(group, group_names, missing)
    check_untraced(given := as_array(fill_left_out(y, kept), "labels"), "labels")
    y = np.asarray(as_labels(given))
    told = y if losses.takes_classes(loss) else np.asarray(as_told(given))
    told = told if told.ndim > 1 else y  # a loss that takes rows, such as one-hot ones, is told them as they are
    x = None if x is None else as_inputs(x)
    leaves = jax.tree.leaves(x)
    check_lengths(labels=len(y), groups=len(group), **({"inputs": len(leaves[0])} if leaves else {}))
    if not len(y):
        raise JaxfairError("There are no examples; give at least one.")
    compared = paired.reference_of(reference, names, [group == g for g in range(len(names))])
    named = (befores, "before"), (afters, "after")
    answers.check_columns([befores, afters])
    sides = [[answers.read(one, x, y, told, kept, loss, which) for one in some] for some, which in named]
    check_booleans(unboxed(given), answers.check_classes(sides, y[kept]))
    single = "" if len(befores) == len(afters) else "before" if len(befores) == 1 else "after"
    first, second, befores, afters = (side * (pairs // len(side)) for side in (*sides, befores, afters))
    x = jax.tree.map(lambda leaf: leaf[kept], x)
    return _Read(befores, afters, first, second, x, y[kept], told[kept], group[kept], names, compared, single)


def _are_other_functions(given: _Read, loss: LossFn) -> bool:
    """Return whether networks before and after answer otherwise at the same parameters."""
    for one, other in zip(given.befores, given.afters, strict=True):
        if one[0] is other[0]:  # as where parameters alone have changed
            continue
        logits = []
        for function in (one[0], other[0]):
            network = answers.as_network((function, one[1]), given.x, given.told, loss)
            logits.append(trusted_logits(*network, "highest", 256))
        if logits[0].shape != logits[1].shape or change_of_logits(*logits) > 1e-3:
            return True
    return False


def _expansion(
    given: _Read, rise: np.ndarray | None, config: CurvatureConfig | None, loss: LossFn
) -> tuple[Expansion | None, str]:
    """Return the terms of every run, or why there are none."""
    if rise is None or not all(answers.is_network(one) for one in (*given.befores, *given.afters)):
        return None, "a side has answers, and no parameters"
    weights = groups.group_weights(given.group, len(given.names))
    terms = []
    for one, other in zip(given.befores, given.afters, strict=True):
        if reason := tree_difference(one[1], other[1]):
            return None, reason
        logits_fn, params = one
        terms.append(taylor.taylor_terms(logits_fn, params, other[1], given.x, given.told, weights, config, loss=loss))
    with np.errstate(invalid="ignore"):  # as of means over runs
        rises = np.array([rise[:, given.group == g].mean(axis=1) for g in range(len(weights))]).T
    columns = {name: np.array([getattr(of, name) for of in terms]) for name in ("distance", "first", "second", "bound")}
    return Expansion(rise=rises, **columns), ""
