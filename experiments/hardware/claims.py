"""The findings of Nelaturu et al. 2024 as numbers, and the question they leave open: is it more than rounding?

As all findings are (``reporting.verdicts``): one number a seed, Student's t interval over seeds (of accuracies that are
lost over test images too), and whether it lies on the claimed side. All seeds share one split. ``Delta`` and ``xi`` are
of test images' losses, each network on its own profile's arithmetic; groups are ranked by Delta at equal counts of
test images (``tables.equal_count_delta``), since fewer make it larger. Gradient norms and eigenvalues are free of what
few images add to them, and means over all native profiles, where that was measured; but for the bound, which is of the
loss on these very images at the reference. That hardware does what one rounding error does is said only where an
equivalence interval says so.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from experiments.hardware import tables as numbers
from experiments.hardware.results import Comparison, Hardware, Series
from experiments.reporting.sampling import FREE, eigenvalues_alike
from experiments.reporting.verdicts import (
    CHEAP,
    DISTANCE,
    LACKING,
    NATS,
    NEEDED,
    RATIO,
    RIGHT,
    Claim,
    Measured,
    Missing,
    Size,
    Verdict,
    corrected,
    decide,
    is_idle,
    rank_correlations,
    small_groups,
    too_small,
)
from jaxfair import intervals
from jaxfair.judging import SEEDS

RHO = "Spearman correlation over groups of"


# fmt: off
def claims(hardware: Hardware) -> list[Claim]:
    """Decide every finding; one that cannot be decided is listed too."""
    return corrected([*_of_groups(hardware), *_of_rounding(hardware), *_of_alignment(hardware),
                      *_of_linearization(hardware), _of_repeat(hardware)])


def _of_groups(hardware: Hardware) -> list[Claim]:
    plain, found, judge = hardware.comparisons[0], [], partial(decide, hardware)
    for kind in _kinds(plain):
        found += [
            judge(f"small_more_sensitive ({kind})", f"Smaller groups are more sensitive to hardware ({kind})",
                  f"{RHO} the number of training images with Delta over {kind} profiles, at equal test counts",
                  _ranks, "train_count", kind, side="below"),
            *(judge(f"{key}_foretells_delta ({kind})",
                    f"Groups with a larger {name} are more sensitive ({kind})",
                    f"{RHO} the {name}, mean over devices, with Delta over {kind} profiles, at equal test counts",
                    _ranks, key, kind)
              for key, name in (("gradient_norm", "gradient norm"), ("top_eigenvalue", "top Hessian eigenvalue"))),
        ]
    return [
        *found,
        judge("small_larger_gradient", "Smaller groups have a larger gradient norm",
              f"{RHO} the number of training images with the gradient norm, mean over devices",
              _ranks, "train_count", "gradient_norm", side="below"),
        judge("eigenvalue_near_boundary", "Groups nearer to the decision boundary have a larger Hessian eigenvalue",
              f"{RHO} the softmax gap with the top eigenvalue", _ranks, "softmax_gap", "top_eigenvalue", side="below"),
        judge("bound_holds", "The bound of Theorem 4.1 holds for most groups, over all profiles",
              "share of groups whose Delta is no more than the bound", _bound, threshold=0.5),
    ]


def _of_rounding(hardware: Hardware) -> list[Claim]:
    found, judge = [], partial(decide, hardware)
    for kind in _kinds(hardware.comparisons[0]):
        found += [
            *(judge(f"{name}_beyond_rounding ({kind})",
                    f"Hardware ({kind}) moves small groups' {name} further than one rounding error does",
                    f"mean |{name} difference| of small groups, {kind} profiles - one-ulp controls",
                    _beyond_rounding, name, kind, floor=floor)
              for name, floor in (("loss", NATS), ("accuracy", RIGHT))),
            *(judge(f"{name}_alike ({kind})",
                    f"Hardware ({kind}) moves small groups' {name} as far as one rounding error, within {margin:g}",
                    f"mean |{name} difference| of small groups, {kind} profiles - one-ulp controls",
                    _beyond_rounding, name, kind, margin, side="within", threshold=margin)
              for name, margin in (("loss", NATS), ("accuracy", RIGHT))),
            judge(f"xi_beyond_rounding ({kind})", f"Hardware ({kind}) violates fairness more than one rounding error",
                  f"mean over pairs of xi between the reference and one {kind} profile - the same for one-ulp "
                  "controls, nats", _pairs, kind, floor=NATS),
        ]
    return found


def _of_alignment(hardware: Hardware) -> list[Claim]:
    judge = partial(decide, hardware)
    return [
        *(judge(f"alignment_lowers_xi ({what})", f"Alignment lowers the fairness violation {where}",
                "xi without - with alignment, nats", _alignment, what, floor=NATS)
          for what, where in (("profiles", "across hardware"), ("ulps", "among one-ulp controls"))),
        judge("alignment_cheap", "Alignment costs little accuracy",
              "accuracy at the reference without - with alignment", _alignment, "accuracy", side="below",
              threshold=CHEAP),
    ]


def _of_linearization(hardware: Hardware) -> list[Claim]:
    return [decide(hardware, "linearized_more_sensitive", "Linearized networks are more sensitive to hardware",
                   "Delta of the tightest linearized - of the full network, mean over groups, nats", _linearized,
                   floor=NATS)]


def _of_repeat(hardware: Hardware) -> Claim:
    """A statement about every seed: one that differs contradicts it, however few there are, and has no interval."""
    name, statement = "repeat_same_bits", "The same training again on the reference ends in the same bits"
    statistic = "share of seeds with the same bits; claimed to be 1"
    repeats = [series for series in hardware.comparisons[0].others if series.control == "repeat"]
    if not repeats:
        return Claim(name, statement, statistic, np.nan, np.nan, np.nan, 0, LACKING, "nothing was repeated")
    same, note = repeats[0].same_bits, repeats[0].label
    verdict: Verdict = "supported" if same.all() else "not supported: contradicted"
    if same.all() and len(same) < SEEDS:
        verdict, note = "too few seeds", f"{NEEDED}; {note}"
    return Claim(name, statement, statistic, float(same.mean()), np.nan, np.nan, len(same), verdict, note)
# fmt: on


def _kinds(comparison: Comparison) -> list[str]:
    """Return the kinds of profile that there are, native too where there are none, so that nothing is left unsaid."""
    return [kind for kind in numbers.KINDS if numbers.of_kind(comparison, kind)] or ["native"]


def _counts(comparison: Comparison, kind: str) -> str:
    count = len(numbers.of_kind(comparison, kind))
    return f"{count} {kind} profile{'s' * (count != 1)} beside the reference"


def _ranks(hardware: Hardware, x: str, y: str) -> tuple[Measured, str, str]:
    """Rank groups by two quantities, means over the devices that they were measured on; a kind stands for Delta."""
    plain = hardware.comparisons[0]
    first, note = np.broadcast_to(hardware.groups.train_count, plain.reference.by_group["loss"].shape), ""
    if x != "train_count":
        first, note = numbers.over_devices(plain, x)
    if y not in numbers.KINDS:
        second, how = numbers.over_devices(plain, y)
        nothing, order = "", None
        if x != "train_count":  # both are of the same images
            nothing, order = eigenvalues_alike(plain.reference.parts, hardware.reference, hardware.groups.names)
        found, tied = rank_correlations(first, second, "groups", order=order)
        return found._replace(small=_too_alike(second, y), nothing=nothing), tied, how or note
    delta, order = numbers.known(numbers.equal_count_delta(hardware, plain, numbers.of_kind(plain, y))), None
    if x != "train_count":
        order = numbers.order_of_delta(hardware, plain, numbers.of_kind(plain, y))
    found, tied = rank_correlations(first, delta, "groups", order=order)
    said = "; ".join(filter(None, (_counts(plain, y), note)))
    small = too_small(np.ptp(delta, axis=1), NATS, "nats")
    return found._replace(nothing=_nothing(numbers.of_kind(plain, y), plain), small=small), tied, said


def _too_alike(values: np.ndarray, name: str) -> Size:
    """Return why groups differ too little in a quantity for their order to matter, if they do."""
    if name not in FREE:
        return too_small(np.ptp(values, axis=1), DISTANCE, "")
    least = values.min(axis=1)
    return too_small(np.log2(values.max(axis=1) / least), RATIO, "in log2") if least.min() > 0 else Size()


def _bound(hardware: Hardware) -> tuple[Measured, str]:
    found = numbers.bounds(hardware, hardware.comparisons[0])
    numbers.known(np.array([one.actual for one in found]))
    bound, delta = (np.median([getattr(one, name) for one in found]) for name in ("bound", "actual"))
    holds = intervals.over_seeds(np.array([one.holds.mean() for one in found]))
    note = f"medians: bound {bound:.3g}, Delta {delta:.3g} nats"
    idle, items = is_idle(bound, delta), len(hardware.groups.names)
    return Measured(holds, len(found), "share", idle=idle, items=items), note


def _beyond_rounding(hardware: Hardware, name: str, kind: str, margin: float = 0.0) -> tuple[Measured, str]:
    plain = hardware.comparisons[0]
    small = small_groups(hardware.groups)
    of = _of(plain, kind), _ulps(plain)
    spread, control = (numbers.known(_spread(plain, others, name, small)) for others in of)
    note = f"{_counts(plain, kind)}, {len(plain.ulps)} controls; {spread.mean():.3g} against {control.mean():.3g}"
    found = Measured(intervals.over_seeds(spread - control), len(spread))
    if max(spread.mean(), control.mean()) < margin:  # of what is below it anyway, it says nothing that both are alike
        found = found._replace(small=Size(f"both are less than the margin of {margin:g}"))
    return found, note


def _spread(comparison: Comparison, others: Any, name: str, members: np.ndarray) -> np.ndarray:
    return numbers.differences(comparison, others, name)[:, :, members].mean(axis=(0, 2))


def _pairs(hardware: Hardware, kind: str) -> tuple[np.ndarray, str, str]:
    plain = hardware.comparisons[0]
    found = [numbers.known(numbers.pair_xi(plain, others)) for others in (_of(plain, kind), _ulps(plain))]
    note = "pairs, since the maximum over more runs would be larger by itself"
    return found[0] - found[1], f"{found[0].mean():.3g} against {found[1].mean():.3g}", note


def _alignment(hardware: Hardware, what: str) -> tuple[np.ndarray | Measured, str]:
    plain = hardware.comparisons[0]
    aligned = [c for c in hardware.comparisons if c.mitigation != "none" and c.budget is None]
    if not aligned:
        raise Missing("no network was trained with alignment; use --mitigation")
    if what == "accuracy":
        lost = intervals.accuracy_lost([(plain.reference.correct, aligned[0].reference.correct)])
        return Measured(lost, len(plain.reference.correct)), ""
    if what == "profiles":
        pairs = _on_both(plain, aligned[0])
    else:
        pairs = list(zip((plain, aligned[0]), _in_both(_ulps(plain), _ulps(aligned[0])), strict=True))
    before, after = (numbers.known(numbers.xi(*one)) for one in pairs)
    found = Measured(intervals.over_seeds(before - after), len(before))
    if what == "profiles":
        fallen = [numbers.pair_xi(*one) for one in pairs]
        nothing = _nothing(plain.elsewhere, plain) or _alike(fallen[0] - fallen[1], numbers.pair_xi, plain, aligned[0])
        found = found._replace(nothing=nothing)
    return found, f"{before.mean():.3g} without, {after.mean():.3g} with it"


def _linearized(hardware: Hardware) -> tuple[Measured, str]:
    plain = hardware.comparisons[0]
    found = [c for c in hardware.comparisons if c.budget is not None]
    if not found:
        raise Missing("no network was linearized; use --budgets")
    tightest = min(found, key=lambda comparison: comparison.budget or 0)
    pairs = _on_both(plain, tightest)
    full, less = (numbers.known(numbers.delta(*one).mean(axis=1)) for one in pairs)
    further = [_moved(*one) for one in pairs]
    nothing = _nothing(None, plain, tightest) or _alike(further[1] - further[0], _moved, tightest, plain)
    found = Measured(intervals.over_seeds(less - full), len(full), nothing=nothing)
    return found, f"{tightest.title}: {less.mean():.3g} against {full.mean():.3g}"


def _moved(comparison: Comparison, others: Sequence[Series]) -> np.ndarray:
    """Return how far others are from the reference, mean over these and over groups, in nats, shape (s,)."""
    return numbers.differences(comparison, others).mean(axis=(0, 2))


def _alike(change: np.ndarray, of: Callable[..., np.ndarray], first: Comparison, second: Comparison) -> str:
    """Say so if a change that is seen over hardware is not shown to be more than that among the one-ulp controls.

    Args:
        change: of each seed, over hardware, from one training to another.
        of: ``(comparison, others) -> numbers`` of each seed, of which it is the difference.
        first: from whose numbers those of the second are subtracted.
        second: the other training.
    """
    if not first.ulps or not second.ulps or not float(intervals.over_seeds(change).interval().low) > 0:
        return ""  # what is not shown over hardware needs no explanation
    beyond = intervals.over_seeds(change - (of(first, first.ulps) - of(second, second.ulps)))
    if not float(beyond.interval().low) > 0:
        return "the one-ulp controls are not shown to change less: that is training, whatever the hardware"
    return ""


def _on_both(one: Comparison, other: Comparison) -> list[tuple[Comparison, list[Series]]]:
    """Return both trainings with the profiles that both have and that are other hardware for one of them."""
    elsewhere = {series.label for comparison in (one, other) for series in comparison.elsewhere}
    found = _in_both(*([s for s in c.profiles if s.label in elsewhere] for c in (one, other)))
    return list(zip((one, other), found, strict=True))


def _in_both(some: Sequence[Series], other: Sequence[Series]) -> tuple[list[Series], list[Series]]:
    """Return the trainings that both have: a largest difference over more of them would be larger by itself."""
    both = {one.label for one in some} & {one.label for one in other}
    if not both:
        raise Missing("the two have no training on the same hardware")
    return [one for one in some if one.label in both], [one for one in other if one.label in both]


def _nothing(others: Sequence[Series] | None, *comparisons: Comparison) -> str:
    """Say so if in no training profiles, all if None, move a group's loss further than one rounding error does.

    Empty if they do, or if there are too few controls or seeds to know.
    """
    for comparison in comparisons:
        try:
            beyond = numbers.beyond_rounding(comparison, comparison.elsewhere if others is None else others)
        except Missing:
            return ""
        if beyond is None or np.isnan(beyond).any() or beyond.any():
            return ""
    tests = "by permutation tests for each group"
    return f"no group's loss is shown to be moved further than one rounding error moves it, {tests}"


def _of(comparison: Comparison, kind: str) -> Any:
    if not (found := numbers.of_kind(comparison, kind)):
        raise Missing(f"there is no {kind} profile beside the reference that ends in other bits")
    return found


def _ulps(comparison: Comparison) -> Any:
    if not comparison.ulps:
        raise Missing("there is no one-ulp control")
    return comparison.ulps
