"""What findings of all studies are made of: weighted sums of groups' drops, and what is held responsible for them."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np

from experiments.analyses import quantities
from experiments.analyses.differences import nothing_to_explain, order_of_drops
from experiments.analyses.quantities import drop_values, has_drop
from experiments.analyses.results import Results, Variant
from experiments.reporting import series
from experiments.reporting.comparisons import SELDOM
from experiments.reporting.groups import some
from experiments.reporting.sampling import FREE, PLAIN, SAID, in_blocks
from experiments.reporting.verdicts import (
    DISTANCE,
    LACKING,
    POINTS,
    RATIO,
    Claim,
    Measured,
    Missing,
    Side,
    decide,
    order_beyond_noise,
    rank_correlations,
    small_groups,
    stored,
    too_small,
)
from jaxfair import intervals
from jaxfair.intervals import Scale
from jaxfair.judging import SEEDS
from jaxfair.words import cut, more_or_less

UNHARMED = 2.0  # "nearly unharmed" is a smaller relative drop, in percent
RHO = "Spearman correlation over groups of"
SUSPECTS: tuple[tuple[str, str, str, Side], ...] = (
    ("gradient_norm", "gradient norm", "larger", "above"),
    ("top_eigenvalue", "top Hessian eigenvalue", "larger", "above"),
    ("softmax_gap", "distance to the boundary (softmax gap)", "smaller", "below"),
    ("linearized_distance", "distance to the boundary (linearised)", "smaller", "below"),
)


def full_network(results: Results) -> Variant:
    """Return the network that was not changed; ``Missing`` if there is none."""
    found = [network for network in results.variants if network.method == "full"]
    if not found:
        raise Missing("there is no network of method 'full'")
    return found[0]


def quantity(network: Variant, name: str) -> np.ndarray:
    """Return a quantity of every group, shape (seeds, groups)."""
    return stored(network.by_group, name, network.label)


def group_drops(network: Variant, members: np.ndarray) -> np.ndarray:
    """Return the drops from the control of those of some groups that have one, shape (seeds, groups)."""
    if not (members & has_drop(network)).any():
        raise Missing(f"in these groups the full network of some seed is {SELDOM}")
    return drop_values(network, controlled=True)[:, members & has_drop(network)]


def in_all(networks: Sequence[Variant]) -> np.ndarray:
    """Return which groups have a drop in every one of some networks: others cannot be compared, shape (groups,)."""
    return np.all([has_drop(network) for network in networks], axis=0)


def mean_weights(members: np.ndarray, *networks: Variant) -> np.ndarray:
    """Return the weights of a mean over those of some groups that have a drop in all networks, shape (groups,)."""
    counted = members & in_all(networks)
    group_drops(networks[0], counted)
    return counted / counted.sum()


def small_less_large(results: Results, *networks: Variant) -> np.ndarray:
    """Return the weights of small groups' mean less large ones', of those that have a drop in all networks."""
    return mean_weights(small_groups(results.groups), *networks) - mean_weights(results.groups.large, *networks)


def contrast(results: Results, *terms: tuple[Variant, np.ndarray], scale: Scale = "real") -> Measured:
    """Return a weighted sum of groups' drops, over seeds and test images together."""
    return Measured(quantities.drop_contrast(results, *terms), len(terms[0][0].seeds), scale)


def named(results: Results, networks: Sequence[Variant], *texts: str) -> str:
    """Join what networks are called, and add the groups of which one of them has no drop."""
    lost = some(cut([results.groups.names[g] for g in np.flatnonzero(~in_all(networks))]))
    never = f"; without a drop, as some seed's full network is {SELDOM} there: {lost}"
    return ", ".join(texts) + never * bool(lost)


def lost_by(results: Results, network: Variant, who: Literal["large", "small"]) -> Measured:
    """Return what large groups lost, in percent, or how much more small ones did, in points."""
    if who == "large":
        return contrast(results, (network, mean_weights(results.groups.large, network)), scale="percent")
    return contrast(results, (network, small_less_large(results, network)))


BY_VERDICT = {
    "supported": "",
    "not supported: contradicted": "",
    "not supported: not after correction": ", within noise if corrected with the findings below",
    "too small to matter": ", too little to matter",
    "may be too small to matter": ", perhaps too little to matter",
}
"""What is added to a difference of small and large groups by the verdict on the finding that it is."""


def together(results: Results, network: Variant, claim: Claim | None = None) -> str:
    """Say how much more the small groups lost than the large ones, as one number; empty where there is none to say.

    Args:
        results: of the study.
        network: that is compared with its control.
        claim: the finding that small groups lose more there, as it was judged with the others; None if there is none.
    """
    if len(results.groups.large) < 3 or len(network.seeds) < SEEDS:  # two groups are compared already
        return ""
    try:
        points = series.of(lost_by(results, network, "small").mean)
    except Missing:
        return ""
    mean, low, high = map(float, points)
    also = "" if low > 0 or high < 0 else ", within noise"
    if claim is not None and claim.verdict != LACKING:
        also = BY_VERDICT.get(claim.verdict, ", within noise")
    size, interval = more_or_less((mean, low, high), also)
    few = "Together, the groups with fewer training images than the average"
    lost = [results.groups.names[g] for g in results.groups.order if not has_drop(network)[g]]
    without = f", without {', '.join(cut(lost))}," * bool(lost)
    return f"{few}{without} lost {size} than the others {interval}."


def accuracy_lost(*pairs: tuple[Variant, Variant]) -> Measured:
    """Return the accuracy of one network minus that of another, mean over pairs, over seeds and images together."""
    found = intervals.accuracy_lost([(one.correct, other.correct) for one, other in pairs])
    return Measured(found, len(pairs[0][0].seeds))


def spread_by_images(results: Results, *terms: tuple[Variant, float], known: np.ndarray) -> float:
    """Return what few images add to a weighted sum of standard deviations over known groups of their drops, in points.

    Few images make measured drops differ where groups lost alike, in every seed to the same side, so that seeds do not
    average it out; and they do so the more, the less a network agrees with its control about which are right. It is
    what the sum would be if the networks' groups differed equally but for that: by as much as all show on average.

    Args:
        results: of the study.
        terms: networks, and their weights, which sum to 0.
        known: groups.
    """
    noise, left = [], []
    for network, _ in terms:
        before, drops = network.control or results.variants[0], drop_values(network, controlled=True)[:, known]
        of_groups = []
        for g in np.flatnonzero(known):
            table = intervals.drop_parts(before.correct[:, results.group == g], network.correct[:, results.group == g])
            of_groups.append([intervals.over_seeds_and_examples([run[None]]).variance for run in table])
        noise.append((1 - 1 / known.sum()) * np.mean(of_groups, axis=0))
        left.append(drops.var(axis=1) - noise[-1])
    alike = max(float(np.mean(left)), 0.0)
    return float(sum(w * np.sqrt(alike + of).mean() for (_, w), of in zip(terms, noise, strict=True)))


def small_against_large(results: Results, name: str, ratio: bool) -> tuple[Measured | np.ndarray, str, str]:
    """Compare a quantity of small and large groups on the full network: ``log2`` of the ratio, or the difference."""
    full = full_network(results)
    (values,), how = free_of_sampling(name, full)
    sides = small_groups(results.groups), results.groups.large
    small, large = (values[:, who].mean(axis=1) for who in sides)
    if ratio and (np.minimum(small, large) <= 0).any():
        raise Missing(f"a mean of '{name}' is not positive for some seed, so there is no ratio")
    means = f"small {small.mean():.3g}, large {large.mean():.3g}"
    if not ratio:
        weights = sides[0] / sides[0].sum() - sides[1] / sides[1].sum()
        return over_images(results, name, (full, weights)), means, how
    if not full.parts:
        return log_ratio(results, full, small, large), means, how
    plain = [quantity(full, name)[:, who].mean() for who in sides]
    how = f"{how}; {'on all images' if 'count' in how else 'plain'}: small {plain[0]:.3g}, large {plain[1]:.3g}"
    return _log_ratio(results, full, name, values, sides), means, how


def over_images(results: Results, name: str, *terms: tuple[Variant, np.ndarray]) -> Measured | np.ndarray:
    """Return a weighted sum of groups' means of a quantity, over seeds and test images where each image's is known.

    All seeds share the images, and what these add to a difference of networks they add in every seed: over seeds alone
    two networks that are alike on average are said to differ in up to half of all studies.

    Args:
        results: of the study.
        name: of the quantity.
        terms: networks, and weights of their groups, shape (groups,) or (seeds, groups).

    Returns:
        A value for each seed, where images are not known.
    """
    found = [(v, np.broadcast_to(weights, v.by_group[name].shape)) for v, weights in terms]
    by_seed = np.sum([(weights * quantity(v, name)).sum(axis=1) for v, weights in found], axis=0)
    tables = [quantities.in_images(results, v, name) for v, _ in found]
    if any(of is None for of in tables):
        return by_seed
    weighted = [
        [weights[:, [g]] * table for g, table in enumerate(of or ())]
        for of, (_, weights) in zip(tables, found, strict=True)
    ]
    groups = [np.sum(of, axis=0) for of in zip(*weighted, strict=True)]
    estimate = intervals.over_seeds_and_examples(groups, [1.0] * len(groups))
    return Measured(estimate._replace(value=np.asarray(by_seed.mean())), len(by_seed))


def log_ratio(results: Results, network: Variant, one: np.ndarray, other: np.ndarray) -> Measured:
    """Return ``log2`` of a ratio of norms or eigenvalues, over seeds and what their splits have in common at most.

    What each image adds is not known. Over seeds alone networks that are alike on average are said to differ in up to
    18 of 100 studies whose splits share a quarter of the test images, so in at most 4. On one split it is a ratio of
    these images.

    Args:
        results: of the study.
        network: one of those that are compared, which test the same images.
        one: of each seed, above 0.
        other: the same.
    """
    found, seeds = intervals.over_seeds(np.log2(one / other)), len(one)
    most = quantities.most_by_images(seeds, quantities.overlap(results, network).max())
    return Measured(found._replace(variance=found.variance * (1 + most)), seeds)


def _log_ratio(
    results: Results, network: Variant, name: str, values: np.ndarray, sides: tuple[np.ndarray, np.ndarray]
) -> Measured:
    """Return ``log2`` of one side's mean over another's, over seeds and test images, to first order in the images."""
    means = [values[:, who].mean(axis=1) for who in sides]
    groups = [
        (g, sign, mean, who.sum()) for who, mean, sign in zip(sides, means, (1, -1), strict=True) for g in _at(who)
    ]
    whole = np.log2(means[0] / means[1])[:, None] / len(groups)
    found, common = [], quantities.overlap(results, network)
    for g, sign, mean, count in groups:
        blocks = in_blocks(network.parts, name, g)
        if blocks is None:
            raise Missing(
                f"a group has too few test images to know its {name.replace('_', ' ')} without sampling noise"
            )
        apart = blocks - np.nanmean(blocks, axis=1, keepdims=True)
        found.append(whole + sign * apart / (mean[:, None] * count * np.log(2)))
    shares = [float(common[g]) for g, *_ in groups]
    return Measured(intervals.over_seeds_and_examples(found, [1.0] * len(found), shares), len(values))


def _at(members: np.ndarray) -> list[int]:
    return np.flatnonzero(members).tolist()


def free_of_sampling(name: str, *networks: Variant) -> tuple[list[np.ndarray], str]:
    """Return a quantity of every group of each network, shape (seeds, groups), and how it is free of sampling.

    What few images add to it is left out where that is known of all these networks, since each has another share of it.
    """
    if name not in FREE:
        return [quantity(network, name) for network in networks], ""
    if not all(network.parts for network in networks):
        return [quantity(network, name) for network in networks], PLAIN
    return [quantity(network, FREE[name]) for network in networks], SAID[name]


def foretells_drop(results: Results, name: str, network: Variant) -> tuple[Measured, str, str]:
    """Correlate a quantity of every group on the full network with what the groups lose on another one."""
    (values,), how = free_of_sampling(name, full_network(results))
    x, y = values[:, has_drop(network)], group_drops(network, has_drop(network))
    found, note = rank_correlations(x, y, "groups", order=order_of_drops(results, network))
    small = too_small(np.ptp(y, axis=1), POINTS, "points")
    return found._replace(nothing=nothing_to_explain(results, network), small=small), note, how


def order_of_rises(results: Results, network: Variant) -> np.ndarray | None:
    """Return the order of the groups by how their loss rises from the full network's, beyond noise.

    What foretells that is of the same images (``verdicts.order_beyond_noise``). None where images are not known.
    """
    after, before = (quantities.in_images(results, v, "loss") for v in (network, full_network(results)))
    if after is None or before is None:
        return None
    rises = [one - other for one, other in zip(after, before, strict=True)]
    apart = partial(intervals.over_seeds_and_examples, weights=(1.0, -1.0))
    return order_beyond_noise(len(rises), lambda one, other: apart([rises[one], rises[other]]))


# fmt: off
def of_small_groups(results: Results) -> list[Claim]:
    """Judge whether small groups have more of what is held responsible, on the full network."""
    judge = partial(decide, results)
    return [
        judge(f"small_{key}", f"On the full network small groups have a {what} {name}",
              f"{name}, {'log2 of small / large' if side == 'above' else 'small - large'} groups",
              small_against_large, key, side == "above", side=side, floor=RATIO if side == "above" else DISTANCE)
        for key, name, what, side in SUSPECTS
    ]


# fmt: on
def spread_weights(network: Variant, known: np.ndarray) -> np.ndarray:
    """Return weights with which each seed's drops sum to their standard deviation over known groups, (seeds, groups).

    They are its derivatives too, so that the noise of the sum is that of the standard deviation to first order.
    """
    drops = np.where(known, drop_values(network, controlled=True), 0.0)
    apart = np.where(known, drops - drops.sum(axis=1, keepdims=True) / known.sum(), 0.0)
    length = np.sqrt((apart**2).sum(axis=1, keepdims=True) * known.sum())
    return np.divide(apart, length, out=np.zeros_like(apart), where=length > 0)
