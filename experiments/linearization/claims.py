"""The findings of Das et al. 2024 as numbers: one statistic each, its interval, and whether it is borne out.

What a network lost is counted from its control, the full network that was trained on as it was, where the study has
one. Intervals of drops and accuracies are over training seeds, their splits and test images together, as are those of
gradient norms and eigenvalues where their sampling noise was measured; all others are over seeds. "Small" and "large"
groups are those of ``reporting.groups``, and every group counts the same in a mean over groups.
"""

import functools
from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np

from experiments.analyses import imbalance, quantities
from experiments.analyses import results as arrays
from experiments.analyses.results import DROP, Results, Variant
from experiments.analyses.statistics import (
    RHO,
    SUSPECTS,
    UNHARMED,
    accuracy_lost,
    contrast,
    foretells_drop,
    free_of_sampling,
    group_drops,
    in_all,
    log_ratio,
    lost_by,
    mean_weights,
    named,
    of_small_groups,
    order_of_rises,
    over_images,
    quantity,
    spread_by_images,
    spread_weights,
)
from experiments.reporting import sampling
from experiments.reporting.verdicts import (
    CHEAP,
    DISTANCE,
    NATS,
    POINTS,
    RATIO,
    RIGHT,
    Claim,
    Measured,
    Missing,
    alike,
    corrected,
    decide,
    is_idle,
    rank_correlations,
    small_groups,
    too_small,
)
from experiments.running.methods import PLAIN
from jaxfair import intervals
from jaxfair.bounds import excess_loss_bound
from jaxfair.runs import Run

SEVERAL = 3  # times as much
OPPOSED = 0.9  # cosine from which on two directions are one, but for an angle of 26 degrees
CHOICES = {
    "snl-balanced": "SNL with every group counting the same",
    "senet-balanced": "SENet with every group counting the same",
    "bcd-worst-group": "BCD that accepts by the worst group's loss",
    "bcd-cvar": "BCD that accepts by the worst images' loss",
}
LENGTHS = ("gradient_norm", "top_eigenvalue")  # which have ratios
COMPARABLE = 2  # ReLU counts that differ by a larger factor are not compared
TERMS = (("first", "gradient"), ("second", "eigenvalue"))
FEWER = "Spearman correlation over budgets of fewer ReLUs with"


def claims(analysed: Results | Sequence[Run]) -> list[Claim]:
    """Decide every finding; one that cannot be decided is listed too.

    Args:
        analysed: finished analyses, or ``arrays.collect`` of them.

    Raises:
        JaxfairError: the analyses do not belong together.
    """
    return [*_judged(analysed if isinstance(analysed, Results) else arrays.collect(analysed))]


@functools.lru_cache(maxsize=8)  # a page and what is printed ask for them
def _judged(results: Results) -> tuple[Claim, ...]:
    found = [
        *_of_harm(results),
        *imbalance.claims(results, _tightest, "at the tightest SNL budget"),
        *_of_suspects(results),
        *_of_mitigation(results),
    ]
    return tuple(corrected([*found, *_of_equal_budgets(results), *_of_groups_in_choice(results)]))


# fmt: off
def _of_harm(results: Results) -> list[Claim]:
    judge = partial(decide, results)
    return [
        judge("small_lose_more", "Small groups lose more than large ones at the tightest SNL budget",
              "relative drop of small - of large groups, percentage points", _lose, "small",
              floor=POINTS),
        judge("smallest_several_times", f"There the smallest group loses over {SEVERAL} times as much as large ones",
              f"relative drop of the smallest - {SEVERAL} x of large groups (or 0), points", _lose, "smallest",
              floor=POINTS),
        judge("large_unharmed", "Large groups are nearly unharmed there",
              "relative drop of large groups, percent", _lose, "large", side="below", threshold=UNHARMED),
        *(judge(f"harm_grows{suffix}", f"Small groups lose more the fewer ReLUs are left ({name})",
                f"{FEWER} the relative drop of small groups", _as_relus_go, DROP, method)
          for method, name, suffix in (("snl", "SNL", ""), ("deepreduce", "DeepReDuce", "_deepreduce"))),
        judge("accuracy_kept", "Overall accuracy is little harmed at the tightest SNL budget",
              "accuracy of the control - with SNL, all test images", _overall, side="below", threshold=CHEAP),
        judge("snl_milder", "SNL is milder than DeepReDuce at equal budgets, or else the nearest",
              "relative drop with DeepReDuce - with SNL, mean over groups and budgets, points", _methods, "mean",
              floor=POINTS),
        judge("snl_steadier", "SNL is steadier than DeepReDuce there: groups differ less in what they lose",
              "standard deviation over groups of the drop with DeepReDuce - with SNL, points", _methods, "spread",
              floor=POINTS),
        judge("snl_beats_random", "SNL's choice beats as many random ReLUs, at the tightest budget that keeps any",
              "accuracy with SNL - with a random mask", _against_random, floor=RIGHT),
        *(judge(f"distance_grows{suffix}", f"The parameters move further the fewer ReLUs are left ({name})",
                f"{FEWER} the parameter distance from the full network", _distance, method)
          for method, name, suffix in (("snl", "SNL", ""), ("random-matched", "random masks", "_random"))),
        judge("distance_beyond_control", "They move further than training alone moves them (SNL, tightest budget)",
              "log2 of the parameter distance from the full network with SNL / of its control", _moved, floor=RATIO),
        judge("bound_holds", "The bound of Theorem 4.4 holds for most groups at the tightest SNL budget",
              "share of groups whose loss rises by no more than the bound", _bound, "bound", threshold=0.5),
        judge("gradients_opposed", "At the trained network the gradients of large and small groups cancel (A.1)",
              "cosine of |D_a| g_a of small groups and the opposite of large groups', training images", _cancel,
              "cosine", threshold=OPPOSED),
        judge("gradients_balanced", "and are as long, so that the small groups' is longer by their share (A.1)",
              "log2 of the length of |D_a| g_a of small / of large groups, training images", _cancel, "ratio",
              side="within", threshold=RATIO),
        judge("hessian_bound_holds", "Prop. 4.5, as derived, bounds every group's largest Hessian eigenvalue",
              "1 - eigenvalue / bound, of the same images, in the group where that is smallest", _hessian_bound,
              "holds"),
        judge("hessian_bound_ranks", "Its term of the distance to the boundary ranks the groups' eigenvalues",
              f"{RHO} the gradient term of Prop. 4.5 with the largest eigenvalue", _hessian_bound, "ranks"),
        *(judge(f"bound_{key}_foretells_loss", f"The {name} term of that bound tells which groups' loss rises more",
                f"{RHO} the {name} term with the rise of the loss", _bound, key) for key, name in TERMS),
    ]


def _of_suspects(results: Results) -> list[Claim]:
    judge = partial(decide, results)
    return [
        *of_small_groups(results),
        *(judge(f"{key}_foretells_drop", f"Groups with a {what} {name} before linearization lose more",
                f"{RHO} {name} with the relative drop at the tightest SNL budget", _foretells_drop, key, side=side)
          for key, name, what, side in SUSPECTS),
        *(judge(f"{key}_{word}", f"The {name} {word} as ReLUs go (SNL)", f"{FEWER} the {name}, mean over groups",
                _as_relus_go, key, "snl", side=side)
          for (key, name, _, side), word in zip(SUSPECTS, ("rises", "rises", "falls", "falls"), strict=True)),
        *(judge(f"accuracy_by_{key}", f"On the linearized network groups of a {what} {name} are less accurate",
                f"{RHO} {name} with accuracy at the tightest SNL budget", _with_accuracy, key,
                side="below" if side == "above" else "above")
          for key, name, what, side in SUSPECTS[:1] + SUSPECTS[2:3]),
    ]


def _of_mitigation(results: Results) -> list[Claim]:
    found, judge = [], partial(decide, results)
    for kind in dict.fromkeys(kind for v in results.variants if (kind := _kind(v))) or ("any",):
        found.append(judge(f"mitigation_helps ({kind})", f"Mitigation ({kind}) helps small groups",
                           "relative drop of small groups without - with it, points", _mitigated, kind, "drop",
                           floor=POINTS))
        found.append(judge(f"mitigation_helps_everywhere ({kind})",
                           f"Mitigation ({kind}) helps small groups, meaned over all budgets and methods",
                           "relative drop of small groups without - with it, mean over networks, points",
                           _mitigated_everywhere, kind, floor=POINTS))
        found.append(judge(f"mitigation_narrows ({kind})", f"Mitigation ({kind}) brings the groups' losses together",
                           "largest distance of a group's loss from their mean, without - with it, nats", _mitigated,
                           kind, "gap", floor=NATS))
        found.append(judge(f"mitigation_cheap ({kind})", f"Mitigation ({kind}) costs little accuracy",
                           "accuracy without - with it", _mitigated, kind, "all", side="below", threshold=CHEAP))
        found.append(judge(f"mitigation_spares ({kind})", f"Mitigation ({kind}) does large groups little harm",
                           "relative drop of large groups with - without it, points", _mitigated, kind, "large",
                           side="below", threshold=UNHARMED))
        found.append(judge(f"mitigation_gradients ({kind})", f"Mitigation ({kind}) lowers small groups' gradients",
                           "gradient norm of small groups with / without it, log2", _mitigated, kind, "gradient_norm",
                           side="below", floor=RATIO))
        found.append(judge(f"mitigation_distances ({kind})", f"Mitigation ({kind}) moves small groups off the boundary",
                           "softmax gap of small groups with - without it", _mitigated, kind, "softmax_gap",
                           floor=DISTANCE))
    return found


def _of_equal_budgets(results: Results) -> list[Claim]:
    """Compare further methods with DeepReDuce where both keep as many ReLUs; nothing where none do."""
    found, judge = [], partial(decide, results)
    for method, name in (("senet", "SENet"), ("bcd", "BCD")):
        if pairs := _pairs(results, method, "deepreduce"):
            found.append(judge(f"{method}_milder_at_equal_budgets",
                               f"{name} is milder than DeepReDuce at equal budgets",
                               f"relative drop with DeepReDuce - with {name}, mean over groups and budgets, points",
                               _at_equal, pairs, "mean", floor=POINTS))
            found.append(judge(f"{method}_steadier_at_equal_budgets", f"{name} is steadier than DeepReDuce there",
                               f"standard deviation over groups of the drop with DeepReDuce - with {name}, points",
                               _at_equal, pairs, "spread", floor=POINTS))
    return found


def _of_groups_in_choice(results: Results) -> list[Claim]:
    """Compare choices that look at groups, or at the worst images, with the same method's that do not."""
    found, judge = [], partial(decide, results)
    for method, plain in PLAIN.items():
        for kind in ("", *_kinds(results)):
            if not (pairs := _pairs(results, method, plain, kind)):
                continue
            how, suffix = f", both with {kind}" * bool(kind), f" ({kind})" * bool(kind)
            found.append(judge(f"{method}_raises_worst{suffix}", f"{CHOICES[method]} raises the worst group{how}",
                               "accuracy of the worst group with it - without it, mean over budgets", _worst, pairs,
                               floor=RIGHT))
            found.append(judge(f"{method}_cheap{suffix}", f"It costs little accuracy{how} ({CHOICES[method]})",
                               "accuracy without it - with it, mean over budgets", _mean_lost, pairs, side="below",
                               threshold=CHEAP))
    return found


# fmt: on


def _kinds(results: Results) -> list[str]:
    """Return how networks of the study were mitigated."""
    return list(dict.fromkeys(kind for v in results.variants if (kind := _kind(v))))


def _pairs(results: Results, method: str, other: str, kind: str = "") -> list[tuple[Variant, Variant]]:
    """Return networks of two methods that keep as many ReLUs, mitigated alike, from the fewest."""
    labels = {v.label: v for v in results.variants if not v.base}

    def made(name: str) -> dict[int, Variant]:
        of = [(v, labels.get(v.base) if v.base else v) for v in results.variants if _kind(v) == kind]
        return {v.relu_count: v for v, plain in of if plain is not None and plain.method == name}

    ours, theirs = made(method), made(other)
    return [(ours[count], theirs[count]) for count in sorted(ours.keys() & theirs.keys())]


def _at_equal(
    results: Results, pairs: Sequence[tuple[Variant, Variant]], what: Literal["mean", "spread"]
) -> tuple[Measured, str, str]:
    terms, by_images = [], 0.0
    for ours, theirs in pairs:
        known = in_all((ours, theirs))
        if known.sum() < 2:
            raise Missing(f"{ours.label} and {theirs.label} have no two groups with a relative drop in common")
        for network, sign in ((theirs, 1), (ours, -1)):
            weights = spread_weights(network, known) if what == "spread" else mean_weights(known, network)
            terms.append((network, sign / len(pairs) * weights))
        if what == "spread":
            by_images += spread_by_images(results, (theirs, 1.0), (ours, -1.0), known=known) / len(pairs)
    found, called = contrast(results, *terms), _named(results, *(network for pair in pairs for network in pair))
    if what == "mean":
        return found, called, ""
    seen = float(found.mean.value)
    found = found._replace(mean=found.mean._replace(value=np.asarray(seen - by_images)))
    return found, called, f"without what few test images add to it, {by_images:.2g} of {seen:.2g} points"


def _worst(results: Results, pairs: Sequence[tuple[Variant, Variant]]) -> tuple[Measured, str, str]:
    found = Measured(quantities.worst_gained(results, *pairs), len(pairs[0][0].seeds))
    called = _called(*(network for pair in pairs for network in pair))
    return found, called, "the worst group is picked by other images than it is measured on"


def _mean_lost(results: Results, pairs: Sequence[tuple[Variant, Variant]]) -> tuple[Measured, str]:
    found = accuracy_lost(*((plain, aware) for aware, plain in pairs))
    return found, _called(*(network for pair in pairs for network in pair))


def _kind(network: Variant) -> str:
    """Return how a network was mitigated, with its number, as its label says after that of its base; or nothing."""
    return network.label.removeprefix(f"{network.base} + ") if network.base else ""


def _networks(results: Results, method: str) -> list[Variant]:
    """Return the networks that a method made without mitigation, from the fewest ReLUs."""
    found = [network for network in results.variants if network.method == method and not network.base]
    if not found:
        raise Missing(f"there is no network of method '{method}'")
    return sorted(found, key=lambda network: network.relu_count)


def _named(results: Results, *networks: Variant) -> str:
    """Name networks whose drops are compared, and the groups that have none."""
    return named(results, networks, _called(*networks))


def _called(*networks: Variant) -> str:
    return ", ".join(f"{network.label} ({network.relu_count:,} ReLUs)" for network in networks)


def _small(results: Results) -> np.ndarray:
    return small_groups(results.groups)


def _lose(results: Results, who: Literal["large", "small", "smallest"]) -> tuple[Measured, str]:
    network, counts = _networks(results, "snl")[0], results.groups.train_count
    if who != "smallest":
        return lost_by(results, network, who), _named(results, network)
    # Not a ratio, which has no mean near 0; where large groups gained, any loss will do.
    large, lost = mean_weights(results.groups.large, network), group_drops(network, results.groups.large)
    weights = mean_weights(_small(results) & (counts == counts.min()), network)
    weights = weights - SEVERAL * (lost.mean(axis=1, keepdims=True) > 0) * large
    return contrast(results, (network, weights)), _named(results, network)


def _tightest(results: Results) -> tuple[Variant, str]:
    network = _networks(results, "snl")[0]
    return network, _named(results, network)


def _overall(results: Results) -> tuple[Measured, str]:
    network = _networks(results, "snl")[0]
    before = network.control or results.variants[0]
    return accuracy_lost((before, network)), _called(before, network)


def _distance(results: Results, method: str) -> tuple[Measured, str, str]:
    networks = _networks(results, method)
    values = np.stack([network.parameter_distance for network in networks], axis=1)
    if not np.isfinite(values).all():
        raise Missing("the parameter distance of some network is not known")
    fewer = np.array([[-network.relu_count for network in networks]] * len(values))
    lengths = ", ".join(f"{of:.3g}" for of in values.mean(axis=0)[::-1])
    found, note = rank_correlations(fewer, values, "budgets")
    found = found._replace(small=too_small(np.log2(values[:, 0] / values[:, -1]), RATIO, "in log2"))
    return found, note, f"{_called(*networks[::-1])}: {lengths}"


def _moved(results: Results) -> tuple[np.ndarray, str]:
    network = _networks(results, "snl")[0]
    if network.control is None:
        raise Missing(f"{network.label} has no control that was trained as long")
    distances = network.parameter_distance, network.control.parameter_distance
    if not all((np.isfinite(of) & (of > 0)).all() for of in distances):
        raise Missing("the parameter distance of some network is not known, or 0")
    lengths = ", ".join(f"{of.mean():.3g}" for of in distances)
    return np.log2(distances[0] / distances[1]), f"{_called(network, network.control)}: {lengths}"


def _with_accuracy(results: Results, name: str) -> tuple[Measured, str, str]:
    network = _networks(results, "snl")[0]
    accuracy = network.by_group["accuracy"]
    nothing, order = _alike(results, network)
    (values,), how = free_of_sampling(name, network)
    found, note = rank_correlations(values, accuracy, "groups", order=order)
    found = found._replace(small=too_small(np.ptp(accuracy, axis=1), RIGHT, ""), nothing=nothing)
    return found, _joined(note, how), _called(network)


@functools.lru_cache(maxsize=32)  # norms and distances ask
def _alike(results: Results, network: Variant) -> tuple[str, np.ndarray | None]:
    """Return ``alike`` of the groups' accuracies, since all seeds rank the same images."""
    tables = [network.correct[:, results.group == g] for g in range(len(results.groups.names))]
    if any((np.isfinite(table).sum(axis=1) < 2).any() for table in tables):
        return "", None
    what = f"more or less accurate than {results.groups.names[results.reference]}"
    return alike([intervals.right_parts(table) for table in tables], results.reference, what)


def _as_relus_go(results: Results, name: str, method: str) -> tuple[Measured, str, str]:
    networks, against, how = _networks(results, method), "", ""
    if name == DROP:  # of the full network it is 0 by definition
        small = _small(results) & in_all(networks)
        values = [group_drops(network, small).mean(axis=1) for network in networks]
    elif all(network.control is not None for network in networks):  # training on alone changes it, too
        controls = [network.control for network in networks if network.control is not None]
        found, how = free_of_sampling(name, *networks, *controls)
        values = [_beside(name, *pair) for pair in zip(found[: len(networks)], found[len(networks) :], strict=True)]
        against = "each against its control"
    else:
        networks += _networks(results, "full")
        found, how = free_of_sampling(name, *networks)
        values = [of_network.mean(axis=1) for of_network in found]
    fewer = np.array([[-network.relu_count for network in networks]] * len(values[0]))  # ranks as -log r does, 0 too
    found, note = rank_correlations(fewer, np.stack(values, axis=1), "budgets")
    few, many = values[0], values[-1]
    if name in LENGTHS:
        change = few - many if against else np.log2(few / many) if np.minimum(few, many).min() > 0 else None
        if change is not None:
            found = found._replace(small=too_small(change, RATIO, "in log2"))
    else:
        floor, unit = (POINTS, "points") if name == DROP else (DISTANCE, "")
        found = found._replace(small=too_small(few - many, floor, unit))
    which = _named(results, *networks) if name == DROP else _called(*networks)
    return found, _joined(note, how, against), which


def _beside(name: str, network: np.ndarray, control: np.ndarray) -> np.ndarray:
    """Return a quantity's mean over groups beside that of the control: ``log2`` of a ratio, or the difference."""
    own, other = network.mean(axis=1), control.mean(axis=1)
    if name not in LENGTHS:
        return own - other
    if np.minimum(own, other).min() <= 0:
        raise Missing(f"a mean of '{name}' is not positive for some seed, so there is no ratio")
    return np.log2(own / other)


def _joined(*notes: str) -> str:
    return "; ".join(filter(None, notes))


def _foretells_drop(results: Results, name: str) -> tuple[Measured, str, str, str]:
    network = _networks(results, "snl")[0]
    found, note, how = foretells_drop(results, name, network)
    return found, note, _named(results, network), how


def _methods(results: Results, what: Literal["mean", "spread"]) -> tuple[Measured, str, str]:
    return _at_equal(results, _pairs(results, "snl", "deepreduce") or [_nearest(results)], what)


def _nearest(results: Results) -> tuple[Variant, Variant]:
    """Return the networks of SNL and of DeepReDuce whose numbers of ReLUs are the least apart."""

    def apart(pair: tuple[Variant, Variant]) -> float:
        few, many = sorted(network.relu_count for network in pair)
        return (many + 0.5) / (few + 0.5)  # of counts, above 2 exactly where many > 2 few; 0 equals 0

    pairs = [(snl, other) for snl in _networks(results, "snl") for other in _networks(results, "deepreduce")]
    pair = min(pairs, key=apart)  # the tightest of equals
    if apart(pair) > COMPARABLE:
        raise Missing(f"the nearest budgets differ by more than a factor of {COMPARABLE}: {_called(*pair)}")
    return pair


def _bound(results: Results, term: str) -> tuple[Measured, str, str]:
    """Compare Theorem 4.4, at the full network, with the rise of the loss; its sum, or the rank of one of its terms."""
    full, network = _networks(results, "full")[0], _networks(results, "snl")[0]
    tested = full.by_group["test_count"]
    if (full.by_group.get("curvature_count", tested) != tested).any():  # other images
        raise Missing("gradients are of the training images, losses of the test images; use --analysis.split test")
    if not np.isfinite(network.parameter_distance).all():
        raise Missing(f"the parameter distance of {network.label} is not known")
    # The bound is of the loss on these very images, and so are its terms: nothing is corrected for sampling here.
    top = quantity(full, "top_eigenvalue") + quantity(full, "top_eigenvalue_residual")  # Lanczos ends below it
    rise = quantity(network, "loss") - quantity(full, "loss")
    terms = zip(quantity(full, "gradient_norm"), top, network.parameter_distance, rise, strict=True)
    found = [excess_loss_bound(g, t, float(d), r) for g, t, d, r in terms]
    note = f"{_called(network)}; the change of the masks is no part of the bound"
    if term == "bound":
        middle, risen = np.median([b.bound for b in found]), np.median(rise)
        holds = intervals.over_seeds(np.array([bound.holds.mean() for bound in found]))
        medians = f"medians: bound {middle:.3g}, rise {risen:.3g} nats"
        shares = {"scale": "share", "idle": is_idle(middle, risen), "items": rise.shape[1]}
        return Measured(holds, len(found), **shares), note, medians
    order = order_of_rises(results, network)
    ranked, tied = rank_correlations(np.array([getattr(bound, term) for bound in found]), rise, "groups", order=order)
    return ranked._replace(small=too_small(np.ptp(rise, axis=1), NATS, "nats")), tied, note


def _cancel(results: Results, what: Literal["cosine", "ratio"]) -> tuple[Measured, str]:
    """Compare the sums of the gradients of small and of large groups, which a minimum of the joint loss has opposed."""
    full, small = _networks(results, "full")[0], _small(results)
    if full.gradients is None:
        raise Missing("the gradients of the groups were not compared; run the study again, which does")
    both = np.stack([small, ~small]).astype(float)
    products = np.einsum("ag,sgh,bh->sab", both, full.gradients, both)
    squares = products[:, 0, 0], products[:, 1, 1]
    if min(of.min() for of in squares) <= 0:
        raise Missing("a gradient is 0")
    cosine = -products[:, 0, 1] / np.sqrt(squares[0] * squares[1])
    ratio = np.log2(squares[0] / squares[1]) / 2
    lengths = np.sqrt(np.mean(squares, axis=1))
    note = f"root mean squares of the lengths: small {lengths[0]:.3g}, large {lengths[1]:.3g}"
    note += "; weight decay is no part of the loss, and batch statistics are held fixed"
    found, scale = (cosine, "correlation") if what == "cosine" else (ratio, "real")
    return Measured(intervals.over_seeds(found), len(found), scale), note


def _hessian_bound(results: Results, what: Literal["holds", "ranks"]) -> tuple[Measured, str]:
    """Compare Prop. 4.5 with the eigenvalue that it bounds, on some images of each group."""
    full = _networks(results, "full")[0]
    if "hessian_bound_bound" not in full.by_group:
        raise Missing("the bound is of a task of two classes, such as --data.label gender")
    bound, term, top = (quantity(full, f"hessian_bound_{name}") for name in arrays.HESSIAN_BOUND)
    note = f"medians: bound {np.median(bound):.3g}, eigenvalue {np.median(top):.3g}"
    if what == "ranks":
        names, common = results.groups.names, quantities.overlap(results, full)
        nothing, order = sampling.eigenvalues_alike(full.parts, results.reference, names, common)
        found, tied = rank_correlations(term, top, "groups", order=order)
        if (top > 0).all():
            found = found._replace(small=too_small(np.log2(top.max(axis=1) / top.min(axis=1)), RATIO, "in log2"))
        found = found._replace(nothing=nothing)
        return found, "; ".join(filter(None, [note, tied]))
    idle = is_idle(np.median(bound), np.median(top))
    note += f"; {(top <= bound).sum()} of {top.size} groups of all seeds within it"
    room = intervals.over_seeds((1 - top / bound).min(axis=1))
    if (top >= 0).all():
        room = room._replace(most=1.0)
    return Measured(room, len(bound), idle=idle), note


def _farthest(network: Variant) -> np.ndarray:
    """Return weights by which groups' losses sum to the largest distance of one from their mean, (seeds, groups)."""
    loss = quantity(network, "loss")
    apart = loss - loss.mean(axis=1, keepdims=True)
    which, count = np.abs(apart).argmax(axis=1), loss.shape[1]
    return np.sign(np.take_along_axis(apart, which[:, None], 1)) * (np.eye(count)[which] - 1 / count)


def _against_random(results: Results) -> tuple[Measured, str]:
    chosen = _networks(results, "snl")
    fair = any(network.method == "random-matched" for network in results.variants)  # trained as long, too
    chance = {network.relu_count: network for network in _networks(results, "random-matched" if fair else "random")}
    snl = next((network for network in chosen if network.relu_count and network.relu_count in chance), None)
    if snl is None:  # of none, nothing is chosen
        raise Missing("no random mask keeps as many ReLUs as one of SNL's, above 0")
    other = chance[snl.relu_count]
    return accuracy_lost((snl, other)), _called(snl, other)


def _mitigations(results: Results, kind: str) -> list[tuple[Variant, Variant]]:
    """Return the networks that were mitigated in one way, each with the same one without."""
    plain = {network.label: network for network in results.variants if not network.base}
    return [(v, plain[v.base]) for v in results.variants if v.base in plain and _kind(v) == kind]


def _mitigated_everywhere(results: Results, kind: str) -> tuple[Measured, str]:
    pairs, terms = _mitigations(results, kind), []
    if len(pairs) < 2:
        raise Missing(f"{len(pairs) or 'no'} network was made with mitigation beside the same one without it")
    small = _small(results)
    for network, other in pairs:
        weights = mean_weights(small, other, network) / len(pairs)
        terms += [(other, weights), (network, -weights)]
    return contrast(results, *terms), _named(results, *(other for _, other in pairs))


def _mitigated(
    results: Results, kind: str, what: Literal["drop", "gap", "all", "large", "gradient_norm", "softmax_gap"]
) -> tuple[Measured | np.ndarray, str]:
    """Compare the tightest network with a mitigation, SNL before others, with the same one without it."""
    pairs = _mitigations(results, kind)
    if not pairs:
        raise Missing("no network was made with mitigation beside the same one without it")
    network, other = min(pairs, key=lambda pair: (pair[1].method != "snl", pair[1].relu_count))
    if what == "all":
        return accuracy_lost((other, network)), _called(network, other)
    if what == "gap":
        apart = over_images(results, "loss", (other, _farthest(other)), (network, -_farthest(network)))
        return apart, _called(network, other)
    small = _small(results)
    if what == "softmax_gap":
        weights = small / small.sum()
        return over_images(results, what, (network, weights), (other, -weights)), _called(network, other)
    if what == "gradient_norm":
        found, how = free_of_sampling(what, network, other)
        after, before = (of_network[:, small].mean(axis=1) for of_network in found)
        if np.minimum(after, before).min() <= 0:
            raise Missing("a mean of 'gradient_norm' is not positive for some seed, so there is no ratio")
        return log_ratio(results, network, after, before), _joined(_called(network, other), how)
    members, sign = (small, 1) if what == "drop" else (results.groups.large, -1)
    weights = mean_weights(members, network, other)
    return contrast(results, (other, sign * weights), (network, -sign * weights)), _named(results, network, other)
