"""The findings of Das et al. 2024 as numbers: one statistic each, its interval, and whether it is borne out.

What a network lost is counted from its control, the full network that was trained on as it was, where the study has
one. Intervals of drops and accuracies are over training seeds, their splits and test images together, as are those of
gradient norms and eigenvalues where their sampling noise was measured; all others are over seeds. "Small" and "large"
groups are those of ``reporting.groups``, and every group counts the same in a mean over groups.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np

from experiments.linearization import results as tables
from experiments.linearization.differences import nothing_to_explain
from experiments.linearization.results import DROP, FREE, Results, Variant, drop_values, known_groups
from experiments.reporting.verdicts import (
    CHEAP,
    Claim,
    Measured,
    Missing,
    Side,
    corrected,
    decide,
    rank_correlations,
    small_groups,
    stored,
)
from jaxfair import intervals
from jaxfair.bounds import excess_loss_bound
from jaxfair.intervals import Scale
from jaxfair.runs import Run

UNHARMED = 2.0  # "nearly unharmed" is a smaller relative drop, in percent
SEVERAL = 3  # times as much
IDLE = 100  # times the rise of the loss: a bound that far away says nothing
# What is too small to matter, whatever its p-value.
POINTS, RIGHT, NATS, RATIO, DISTANCE = 0.5, 0.005, 0.01, 0.1, 0.01
COMPARABLE = 2  # ReLU counts that differ by a larger factor are not compared
TERMS = (("first", "gradient"), ("second", "eigenvalue"))
FEWER, RHO = "Spearman correlation over budgets of fewer ReLUs with", "Spearman correlation over groups of"
SUSPECTS: tuple[tuple[str, str, str, Side], ...] = (
    ("gradient_norm", "gradient norm", "larger", "above"),
    ("top_eigenvalue", "top Hessian eigenvalue", "larger", "above"),
    ("softmax_gap", "distance to the boundary (softmax gap)", "smaller", "below"),
    ("linearized_distance", "distance to the boundary (linearised)", "smaller", "below"),
)


def claims(analysed: Results | Sequence[Run]) -> list[Claim]:
    """Decide every finding; one that cannot be decided is listed too.

    Args:
        analysed: finished analyses, or ``tables.collect`` of them.

    Raises:
        JaxfairError: the analyses do not belong together.
    """
    results = analysed if isinstance(analysed, Results) else tables.collect(analysed)
    return corrected([*_of_harm(results), *_of_suspects(results), *_of_mitigation(results)])


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
        judge("snl_milder", "SNL is milder than DeepReDuce at the nearest budgets",
              "relative drop with DeepReDuce - with SNL, mean over groups, percentage points", _methods, "mean",
              floor=POINTS),
        judge("snl_steadier", "SNL is steadier than DeepReDuce there: groups differ less in what they lose",
              "standard deviation over groups of the drop with DeepReDuce - with SNL, points", _methods, "spread",
              floor=POINTS),
        judge("snl_beats_random", "SNL's choice of ReLUs beats a random one of as many, at the tightest budget",
              "accuracy with SNL - with a random mask", _against_random, floor=RIGHT),
        *(judge(f"distance_grows{suffix}", f"The parameters move further the fewer ReLUs are left ({name})",
                f"{FEWER} the parameter distance from the full network", _distance, method)
          for method, name, suffix in (("snl", "SNL", ""), ("random-matched", "random masks after equal training",
                                                            "_random"))),
        judge("bound_holds", "The bound of Theorem 4.4 holds for most groups at the tightest SNL budget",
              "share of groups whose loss rises by no more than the bound", _bound, "bound", threshold=0.5),
        *(judge(f"bound_{key}_foretells_loss", f"The {name} term of that bound tells which groups' loss rises more",
                f"{RHO} the {name} term with the rise of the loss", _bound, key) for key, name in TERMS),
    ]


def _of_suspects(results: Results) -> list[Claim]:
    judge = partial(decide, results)
    return [
        *(judge(f"small_{key}", f"On the full network small groups have a {what} {name}",
                f"{name}, {'log2 of small / large' if side == 'above' else 'small - large'} groups",
                _small_against_large, key, side == "above", side=side, floor=RATIO if side == "above" else DISTANCE)
          for key, name, what, side in SUSPECTS),
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


# fmt: on


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
    lost = ", ".join(results.groups.names[g] for g in np.flatnonzero(~known_groups(results, networks[0])))
    named = ", ".join(f"{network.label} ({network.relu_count:,} ReLUs)" for network in networks)
    return named + (f"; without a drop, as some seed's full network is never right there: {lost}" if lost else "")


def _small(results: Results) -> np.ndarray:
    return small_groups(results.groups)


def _quantity(network: Variant, name: str) -> np.ndarray:
    """Return a quantity of every group, shape (seeds, groups)."""
    return stored(network.by_group, name, network.label)


def _drops(results: Results, network: Variant, members: np.ndarray) -> np.ndarray:
    """Return the drops from the control of those of some groups that have one, shape (seeds, groups)."""
    known = members & known_groups(results, network)
    if not known.any():
        raise Missing("in these groups the full network of some seed is never right")
    return drop_values(results, network, results.control(network))[:, known]


def _mean(results: Results, network: Variant, members: np.ndarray) -> np.ndarray:
    """Return the weights of a mean over those of some groups that have a drop, shape (groups,)."""
    _drops(results, network, members)
    return (members & known_groups(results, network)) / (members & known_groups(results, network)).sum()


def _contrast(results: Results, *terms: tuple[Variant, np.ndarray], scale: Scale = "real") -> Measured:
    """Return a weighted sum of groups' drops, over seeds and test images together."""
    return Measured(tables.drop_contrast(results, *terms), len(terms[0][0].seeds), scale)


def _accuracies(one: Variant, other: Variant) -> Measured:
    """Return the accuracy of one network less that of another, over seeds and test images together."""
    return Measured(intervals.over_seeds_and_examples([one.correct - other.correct]), len(one.seeds))


def _lose(results: Results, who: Literal["large", "small", "smallest"]) -> tuple[Measured, str]:
    network, counts = _networks(results, "snl")[0], results.groups.train_count
    large = _mean(results, network, results.groups.large)
    if who == "large":
        return _contrast(results, (network, large), scale="percent"), _named(results, network)
    if who == "small":
        weights = _mean(results, network, _small(results)) - large
    else:  # not a ratio, which has no mean near 0; where large groups gained, any loss will do
        lost = _drops(results, network, results.groups.large).mean(axis=1, keepdims=True) > 0
        weights = _mean(results, network, _small(results) & (counts == counts.min())) - SEVERAL * lost * large
    return _contrast(results, (network, weights)), _named(results, network)


def _overall(results: Results) -> tuple[Measured, str]:
    network = _networks(results, "snl")[0]
    return _accuracies(results.control(network), network), _named(results, results.control(network), network)


def _distance(results: Results, method: str) -> tuple[Measured, str, str]:
    networks = _networks(results, method)
    values = np.stack([network.parameter_distance for network in networks], axis=1)
    if not np.isfinite(values).all():
        raise Missing("the parameter distance of some network is not known")
    fewer = np.array([[-network.relu_count for network in networks]] * len(values))
    lengths = ", ".join(f"{of:.3g}" for of in values.mean(axis=0)[::-1])
    return *rank_correlations(fewer, values, "budgets"), f"{_named(results, *networks[::-1])}: {lengths}"


def _with_accuracy(results: Results, name: str) -> tuple[Measured, str, str]:
    network = _networks(results, "snl")[0]
    found = rank_correlations(_quantity(network, name), network.by_group["accuracy"], "groups")
    return *found, _named(results, network)


def _as_relus_go(results: Results, name: str, method: str) -> tuple[Measured, str, str]:
    networks = _networks(results, method)
    if name == DROP:  # of the full network it is 0 by definition
        values = [_drops(results, network, _small(results)).mean(axis=1) for network in networks]
    else:
        networks += _networks(results, "full")
        values = [_quantity(network, name).mean(axis=1) for network in networks]
    fewer = np.array([[-network.relu_count for network in networks]] * len(values[0]))  # ranks as -log r does, 0 too
    return *rank_correlations(fewer, np.stack(values, axis=1), "budgets"), _named(results, *networks)


def _small_against_large(results: Results, name: str, ratio: bool) -> tuple[Measured | np.ndarray, str, str]:
    full = _networks(results, "full")[0]
    values, how = _free_of_sampling(full, name)
    sides = _small(results), results.groups.large
    small, large = (values[:, who].mean(axis=1) for who in sides)
    if ratio and (np.minimum(small, large) <= 0).any():
        raise Missing(f"a mean of '{name}' is not positive for some seed, so there is no ratio")
    means = f"small {small.mean():.3g}, large {large.mean():.3g}"
    if not ratio:
        return small - large, means, how
    if not full.parts:
        return np.log2(small / large), means, how
    plain = [_quantity(full, name)[:, who].mean() for who in sides]
    how = f"{how}; {'on all images' if 'count' in how else 'plain'}: small {plain[0]:.3g}, large {plain[1]:.3g}"
    return _log_ratio(full, name, values, sides), means, how


def _log_ratio(network: Variant, name: str, values: np.ndarray, sides: tuple[np.ndarray, np.ndarray]) -> Measured:
    """Return ``log2`` of one side's mean over another's, over seeds and test images, to first order in the images."""
    means = [values[:, who].mean(axis=1) for who in sides]
    groups = [
        (g, sign, mean, who.sum()) for who, mean, sign in zip(sides, means, (1, -1), strict=True) for g in _at(who)
    ]
    whole = np.log2(means[0] / means[1])[:, None] / len(groups)
    found = []
    for g, sign, mean, count in groups:
        blocks = network.parts[name][:, g]
        blocks = blocks[:, np.isfinite(blocks).any(axis=0)]
        if (np.isfinite(blocks).sum(axis=1) < 2).any():
            raise Missing(
                f"a group has too few test images to know its {name.replace('_', ' ')} without sampling noise"
            )
        apart = blocks - np.nanmean(blocks, axis=1, keepdims=True)
        found.append(whole + sign * apart / (mean[:, None] * count * np.log(2)))
    return Measured(intervals.over_seeds_and_examples(found, [1.0] * len(found)), len(values))


def _at(members: np.ndarray) -> list[int]:
    return np.flatnonzero(members).tolist()


def _free_of_sampling(network: Variant, name: str) -> tuple[np.ndarray, str]:
    """Return a quantity of every group, shape (seeds, groups), without what few images add to it, and how it is so."""
    if name not in FREE:
        return _quantity(network, name), ""
    if not network.parts:
        return _quantity(network, name), "not corrected for sampling, which inflates it, more so on few images"
    how = "without its sampling part" if name == "gradient_norm" else "at the image count of the smallest group"
    return _quantity(network, FREE[name]), how


def _foretells_drop(results: Results, name: str) -> tuple[Measured, str, str, str]:
    full, network = _networks(results, "full")[0], _networks(results, "snl")[0]
    values, how = _free_of_sampling(full, name)
    x, y = values[:, known_groups(results, network)], _drops(results, network, known_groups(results, network))
    found, note = rank_correlations(x, y, "groups")
    return found._replace(nothing=nothing_to_explain(results, network)), note, _named(results, network), how


def _spread(results: Results, network: Variant) -> np.ndarray:
    """Return weights with which each seed's drops sum to their standard deviation over groups, (seeds, groups).

    They are its derivatives too, so that the noise of the sum is that of the standard deviation to first order.
    """
    known = known_groups(results, network)
    drops = np.where(known, drop_values(results, network, results.control(network)), 0.0)
    apart = np.where(known, drops - drops.sum(axis=1, keepdims=True) / known.sum(), 0.0)
    length = np.sqrt((apart**2).sum(axis=1, keepdims=True) * known.sum())
    return np.divide(apart, length, out=np.zeros_like(apart), where=length > 0)


def _methods(results: Results, what: Literal["mean", "spread"]) -> tuple[Measured, str]:
    def apart(pair: tuple[Variant, Variant]) -> float:
        few, many = sorted(network.relu_count for network in pair)
        return (many + 0.5) / (few + 0.5)  # of counts, above 2 exactly where many > 2 few; 0 equals 0

    pairs = [(snl, other) for snl in _networks(results, "snl") for other in _networks(results, "deepreduce")]
    pair = min(pairs, key=apart)  # the tightest of equals
    if apart(pair) > COMPARABLE:
        raise Missing(f"the nearest budgets differ by more than a factor of {COMPARABLE}: {_named(results, *pair)}")
    snl, deepreduce = ((network, _mean(results, network, known_groups(results, network))) for network in pair)
    if what == "spread":
        snl, deepreduce = ((network, _spread(results, network)) for network in pair)
    return _contrast(results, deepreduce, (snl[0], -snl[1])), _named(results, *pair)


def _bound(results: Results, term: str) -> tuple[Measured, str, str]:
    """Compare Theorem 4.4, at the full network, with the rise of the loss; its sum, or the rank of one of its terms."""
    full, network = _networks(results, "full")[0], _networks(results, "snl")[0]
    tested = full.by_group["test_count"]
    if (full.by_group.get("curvature_count", tested) != tested).any():  # other images
        raise Missing("gradients are of the training images, losses of the test images; use --analysis.split test")
    if not np.isfinite(network.parameter_distance).all():
        raise Missing(f"the parameter distance of {network.label} is not known")
    # The bound is of the loss on these very images, and so are its terms: nothing is corrected for sampling here.
    top = _quantity(full, "top_eigenvalue") + _quantity(full, "top_eigenvalue_residual")  # Lanczos ends below it
    rise = _quantity(network, "loss") - _quantity(full, "loss")
    terms = zip(_quantity(full, "gradient_norm"), top, network.parameter_distance, rise, strict=True)
    found = [excess_loss_bound(g, t, float(d), r) for g, t, d, r in terms]
    note = f"{_named(results, network)}; the change of the masks is no part of the bound"
    if term == "bound":
        middle, risen = np.median([b.bound for b in found]), np.median(rise)
        holds = intervals.over_seeds(np.array([bound.holds.mean() for bound in found]))
        medians = f"medians: bound {middle:.3g}, rise {risen:.3g} nats"
        return Measured(holds, len(found), "share", idle=bool(middle > IDLE * max(risen, 0.0))), note, medians
    return *rank_correlations(np.array([getattr(bound, term) for bound in found]), rise, "groups"), note


def _gap(network: Variant) -> np.ndarray:
    """Return the largest distance of a group's loss from the mean of the groups' losses, for each seed."""
    loss = _quantity(network, "loss")
    return np.abs(loss - loss.mean(axis=1, keepdims=True)).max(axis=1)


def _against_random(results: Results) -> tuple[Measured, str]:
    chosen = _networks(results, "snl")
    fair = any(network.method == "random-matched" for network in results.variants)  # trained as long, too
    chance = {network.relu_count: network for network in _networks(results, "random-matched" if fair else "random")}
    snl = next((network for network in chosen if network.relu_count in chance), None)
    if snl is None:
        raise Missing("no random mask keeps as many ReLUs as one of SNL's")
    other = chance[snl.relu_count]
    return _accuracies(snl, other), _named(results, snl, other)


def _mitigated(
    results: Results, kind: str, what: Literal["drop", "gap", "all", "large", "gradient_norm", "softmax_gap"]
) -> tuple[Measured | np.ndarray, str]:
    """Compare the tightest network with a mitigation, SNL before others, with the same one without it."""
    plain = {network.label: network for network in results.variants if not network.base}
    pairs = [(v, plain[v.base]) for v in results.variants if v.base in plain and _kind(v) == kind]
    if not pairs:
        raise Missing("no network was made with mitigation beside the same one without it")
    network, other = min(pairs, key=lambda pair: (pair[1].method != "snl", pair[1].relu_count))
    if what == "all":
        return _accuracies(other, network), _named(results, network, other)
    if what == "gap":
        return _gap(other) - _gap(network), _named(results, network, other)
    small = _small(results)
    if what in ("gradient_norm", "softmax_gap"):
        after, before = (_quantity(v, what)[:, small].mean(axis=1) for v in (network, other))
        if what == "softmax_gap":
            return after - before, _named(results, network, other)
        if np.minimum(after, before).min() <= 0:
            raise Missing("a mean of 'gradient_norm' is not positive for some seed, so there is no ratio")
        return np.log2(after / before), _named(results, network, other)
    weights = _mean(results, network, small if what == "drop" else results.groups.large)
    sign = 1 if what == "drop" else -1
    return _contrast(results, (other, sign * weights), (network, -sign * weights)), _named(results, network, other)
