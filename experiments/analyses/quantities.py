"""Accuracies, drops and other quantities of groups with their intervals, and as rows of tables."""

import functools
from itertools import product
from typing import Any

import numpy as np

from experiments.analyses.results import CURVATURE, DROP, HARM, Results, Variant
from experiments.reporting import comparisons, series
from experiments.reporting.groups import some
from experiments.reporting.sampling import FREE, free_of_sampling, in_blocks
from experiments.reporting.series import UNKNOWN, Estimate, over_seeds, right, shares
from jaxfair import intervals
from jaxfair.groups import relative_drop
from jaxfair.intervals import Scale, over_seeds_and_examples
from jaxfair.intervals import has_drop as has_ratio
from jaxfair.words import cut, written


@functools.lru_cache(maxsize=1024)  # tables and figures ask again
def measured(variant: Variant, name: str, results: Results | None = None) -> Estimate:
    """Return a quantity of each group other than accuracies and drops, with its interval.

    That is over seeds and test images of what is a mean over these, and a group of less than ``intervals.FEW`` images
    in all seeds together has none; of norms and eigenvalues over seeds, with what their splits have in common: exactly
    where blocks of images were measured, and else as if images were all that seeds differ by, which is the most that it
    can be. Without ``results`` it is over seeds alone.
    """
    values = variant.by_group[name]
    positive = name != "linearized_distance" and (values >= 0).all()  # the largest eigenvalue may be negative, too
    scale: Scale = "share" if name == "softmax_gap" else "positive" if positive else "real"
    if results is None:
        return over_seeds(values, scale)
    if tables := in_images(results, variant, name):
        means = values.mean(axis=0)
        return series.stack([_over_images(table, mean, scale) for table, mean in zip(tables, means, strict=True)])
    common, found = overlap(results, variant), intervals.over_seeds(values)
    if name in CURVATURE and common.any():
        most = most_by_images(len(values), common)
        parts = [b for g in range(values.shape[1]) if (b := in_blocks(variant.parts, name, g)) is not None]
        if len(parts) == values.shape[1]:
            own = [np.nanvar(blocks, axis=1, ddof=1) / np.isfinite(blocks).sum(axis=1) for blocks in parts]
            most = common * np.array([of.mean() for of in own]) / np.maximum(found.variance, 1e-300)
        found = found._replace(variance=found.variance * (1 + most))
    return series.of(found, scale)


def _over_images(table: np.ndarray, mean: float, scale: Scale) -> Estimate:
    """Return a mean over seeds and test images, of a table that is NaN where a seed does not test an image."""
    if np.isfinite(table).any(axis=0).sum() < intervals.FEW:
        return Estimate(mean, np.nan, np.nan)
    return series.with_interval(mean, intervals.of_mean_over_runs(table, scale))


def most_by_images(seeds: int, common: np.ndarray) -> np.ndarray:
    """Return the most that shared test images add to the variance of a mean over seeds, as a multiple of what is seen.

    It is so much if images are all that seeds differ by.

    Args:
        seeds: how many.
        common: the share of a seed's test images that another seed has too (``overlap``).
    """
    return seeds * common / np.maximum(1 - common, 1 / seeds)


def in_images(results: Results, variant: Variant, name: str) -> list[np.ndarray] | None:
    """Return a quantity of each group's test images, shape (seeds, images); None where they are unknown or too few."""
    if name not in variant.examples:
        return None
    tables = [variant.examples[name][:, results.group == g] for g in range(len(results.groups.names))]
    return tables if all((np.isfinite(table).sum(axis=1) > 1).all() for table in tables) else None


@functools.lru_cache(maxsize=256)  # each quantity asks again
def overlap(results: Results, variant: Variant) -> np.ndarray:
    """Return which share of a seed's test images of each group another seed tests too, on average; 0 on one split.

    There all images are the same, and what is said is said of these images.
    """
    if results.splits == 1:
        return np.zeros(len(results.groups.names))
    tested = np.isfinite(variant.correct).astype(float)
    found = []
    for g in range(len(results.groups.names)):
        both = tested[:, results.group == g] @ tested[:, results.group == g].T
        pairs = np.triu_indices(len(both), 1)
        found.append(float((both[pairs] / np.sqrt(np.outer(np.diag(both), np.diag(both))[pairs])).mean()))
    return np.array(found)


def accuracy(results: Results, variant: Variant, members: np.ndarray) -> Estimate:
    """Return the mean accuracy of groups with its interval over seeds and test images.

    Args:
        results: of the study.
        variant: the network.
        members: groups by number; each counts the same. Nothing is known where there are none.
    """
    if not len(members):
        return UNKNOWN
    tables = [variant.correct[:, results.group == g] for g in members]
    return right(tables)


def accuracies(results: Results, variant: Variant) -> Estimate:
    """Return the accuracy of each group, shape (groups,), with its interval over seeds and test images."""
    return series.stack([accuracy(results, variant, np.array([g])) for g in range(len(results.groups.names))])


def whole_accuracy(variant: Variant) -> Estimate:
    """Return the accuracy on all test images with its interval over seeds and test images."""
    return right([variant.correct])


BIASED = 0.1
"""Of half an interval, how large a bias is said: one of a tenth makes an interval of 95 % cover 94.5 %."""
FOLDS = 10
"""Parts of each group's test images, on each of which the group is measured that is worst on the others."""


@functools.lru_cache(maxsize=64)  # of a network that is compared, each part asks again
def worst_weights(results: Results, variant: Variant) -> tuple[np.ndarray, ...]:
    """Return how much each image counts in the accuracy of the worst group, of every group, shape (seeds, images).

    Means of right answers times these sum over groups to the accuracy of the one that is least accurate, whichever it
    is in a seed. One picked by the images that it is measured on is the unluckiest, too: of ten groups alike of 100
    images it is 0.04 too low, and a network that raises the worst group to the others seems to lower it. So it is
    picked by the other images, part by part (cross-fitting), all seeds and networks by the same parts.

    Returns:
        About 1 where a seed's worst group is picked, and 0 elsewhere; NaN where a seed does not test an image.
    """
    tables = [variant.correct[:, results.group == g] for g in range(len(results.groups.names))]
    folds = int(max(1, min(FOLDS, *(np.isfinite(table).sum(axis=1).min() for table in tables))))
    parts = [_parts(table, folds) for table in tables]
    at = [[part == k for k in range(folds)] for part in parts]
    right = np.array(
        [[np.where(of, table, 0).sum(axis=1) for of in own] for table, own in zip(tables, at, strict=True)]
    )
    count = np.array([[of.sum(axis=1) for of in own] for own in at])
    if folds == 1:
        picked = (right / count).argmin(axis=0)
    else:
        of_others = [of.sum(axis=1, keepdims=True) - of for of in (right, count)]
        picked = (of_others[0] / of_others[1]).argmin(axis=0)  # of each part and seed
    share = np.take_along_axis(count / count.sum(axis=1, keepdims=True), picked[None], 0)[0].sum(axis=0)
    seeds = np.arange(len(share))[:, None]
    weights = [(picked == g).T[seeds, part] / share[:, None] for g, part in enumerate(parts)]
    return tuple(np.where(np.isnan(table), np.nan, of) for of, table in zip(weights, tables, strict=True))


def in_worst(results: Results, variant: Variant) -> list[np.ndarray]:
    """Return where the network is right in each group, shape (seeds, images), times ``worst_weights``."""
    weights = worst_weights(results, variant)
    return [of * variant.correct[:, results.group == g] for g, of in enumerate(weights)]


def worst_gained(results: Results, *pairs: tuple[Variant, Variant]) -> intervals.Estimate:
    """Return what the worst group gains in accuracy with one network over another, mean over pairs.

    Each network has the worst group of its own (``worst_weights``). Its noise is that of seeds and test images.
    """
    both = [[in_worst(results, network) for network in pair] for pair in pairs]
    picked = [[worst_weights(results, network) for network in pair] for pair in pairs]
    tables = []
    for g in range(len(results.groups.names)):
        counted = [float(np.mean([np.nanmean(of[g]) for of in pair])) for pair in picked]
        if any(counted):
            tables.append(-intervals.lost_parts([(theirs[g], ours[g]) for ours, theirs in both], counted))
    return over_seeds_and_examples(tables, [1.0] * len(tables))._replace(least=-1.0, most=1.0)


def _parts(table: np.ndarray, folds: int) -> np.ndarray:
    """Return of which of so many random parts each image is that a seed tests, -1 where it does not."""
    order, tested = np.random.default_rng(0).permutation(table.shape[1]), np.isfinite(table)
    found = np.full(table.shape, -1)
    found[:, order] = np.where(tested[:, order], (np.cumsum(tested[:, order], axis=1) - 1) % folds, -1)
    return found


def worst_accuracy(results: Results, variant: Variant) -> Estimate:
    """Return the mean over seeds of the worst group's accuracy, with its interval over seeds and test images."""
    tables = in_worst(results, variant)
    by_seed = np.sum([np.nanmean(table, axis=1) for table in tables], axis=0)
    by_seed = by_seed.round(12)  # of right images alone 1 in every seed, and not 1 within rounding
    if 0 < by_seed.mean() < 1:
        tables = [table for table in tables if np.nansum(table) > 0]
        found = over_seeds_and_examples(tables, [1.0] * len(tables))
        if found.variance > 0:
            return series.of(found, "share")
    worst = variant.by_group["accuracy"].argmin(axis=1)[:, None]
    return shares(by_seed, np.take_along_axis(variant.by_group["test_count"], worst, 1).min())


def drop_values(variant: Variant, *, controlled: bool = False) -> np.ndarray:
    """Return each group's relative accuracy drop in percent, shape (seeds, groups).

    Args:
        variant: the network.
        controlled: from its control, instead of from the full network as the papers do.

    Returns:
        NaN for a group that the full network or the control of some seed is right too seldom in
        (``intervals.has_drop``): of one network all that is said of drops is said of the same groups.
    """
    of_full, of_control = variant.by_group[DROP], variant.by_group[DROP]
    if variant.control is not None:
        before = variant.control.by_group["accuracy"]
        said = has_ratio(before, variant.control.by_group["test_count"])
        of_control = np.where(said, relative_drop(before, variant.by_group["accuracy"]), np.nan)
    known = np.isfinite([of_full, of_control]).all(axis=(0, 1))
    return np.where(known, of_control if controlled else of_full, np.nan)


def has_drop(variant: Variant) -> np.ndarray:
    """Return which groups have relative drops for every seed, from the full network and from the control."""
    return np.asarray(np.isfinite(drop_values(variant)).all(axis=0))


@functools.lru_cache(maxsize=256)  # tables and figures ask again
def drops(results: Results, variant: Variant, *, controlled: bool = False) -> Estimate:
    """Return each group's relative accuracy drop in percent, shape (groups,), its interval over seeds and images.

    Args:
        results: of the study.
        variant: the network.
        controlled: from its control, instead of from the full network as the papers do.
    """
    number = range(len(results.groups.names))
    return series.stack([joint_drop(results, variant, np.array([g]), controlled=controlled) for g in number])


def joint_drop(results: Results, variant: Variant, members: np.ndarray, *, controlled: bool = False) -> Estimate:
    """Return the mean relative accuracy drop of groups, in percent, with its interval over seeds and test images.

    Args:
        results: of the study.
        variant: the network.
        members: groups chosen beforehand, by size: the worst one seen is always the unluckiest too. Those count that
            have a drop of this network (``has_drop``), in every table and figure.
        controlled: from its control, instead of from the full network.

    Returns:
        Nothing known where no group has one. The full network's own drop is 0, without an interval.
    """
    members = members[has_drop(variant)[members]]
    if not len(members):
        return UNKNOWN
    if variant is results.variants[0]:
        return Estimate(0.0, np.nan, np.nan)
    weights = np.isin(np.arange(len(results.groups.names)), members) / len(members)
    return series.of(drop_contrast(results, (variant, weights), controlled=controlled), "percent")


def biased_drops(results: Results) -> list[str]:
    """Name the groups' drops that are too small by more than a tenth of their interval's half width, and by how much.

    They are means over seeds of ratios, as in the papers (``intervals.bias_of_ratios``).
    """
    found, full = [], results.variants[0]
    for variant in results.variants[1:]:
        befores = {"the full network": full} | ({"the control": variant.control} if variant.control else {})
        for (which, before), g in product(befores.items(), np.flatnonzero(has_drop(variant)).tolist()):
            drop, images = drops(results, variant, controlled=before is not full).at(g), results.group == g
            bias = intervals.bias_of_ratios(before.correct[:, images], variant.correct[:, images])
            if bias > BIASED * (drop.high - drop.low) / 2:
                name, size = cut([results.groups.names[g]])[0], written(bias, ".1f")
                found.append(f"{name} at {variant.label} (from {which}, by about {size} points)")
    return found


def drop_contrast(results: Results, *terms: tuple[Variant, np.ndarray], controlled: bool = True) -> intervals.Estimate:
    """Return a weighted sum of groups' relative drops, in points, with the noise of seeds and test images together.

    Args:
        results: of the study.
        terms: networks, and weights of their groups, shape (groups,) or (seeds, groups); groups of which some drop is
            not known have weight 0.
        controlled: from each network's control, instead of from the full network.
    """
    full = results.variants[0]
    found = [(v, np.broadcast_to(np.asarray(w, float), v.by_group[DROP].shape)) for v, w in terms]
    befores = [v.control if controlled and v.control is not None else full for v, _ in found]
    groups, value = [], 0.0
    for g in np.flatnonzero(np.any([weights.any(axis=0) for _, weights in found], axis=0)):
        images, parts = results.group == g, list[intervals.Term]()
        for (v, weights), before in zip(found, befores, strict=True):
            if weights[:, g].any():
                value += np.mean(weights[:, g] * drop_values(v, controlled=controlled)[:, g])
                parts.append(intervals.Term(weights[:, g], before.correct[:, images], v.correct[:, images]))
        groups.append(parts)
    if not groups:
        return intervals.Estimate(np.zeros(()), np.zeros(()), np.ones(()))
    estimate = intervals.contrast_of_drops(groups, float(value))
    had, tested = (np.hstack([before.by_group[name] for before in befores]) for name in ("accuracy", "test_count"))
    return intervals.of_drops(estimate, np.hstack([weights for _, weights in found]), had, tested)


def points_lost(results: Results, variant: Variant, group: int) -> Estimate:
    """Return what a group lost from the variant's control, or else the full network, in points of accuracy."""
    images, before = results.group == group, variant.control or results.variants[0]
    return comparisons.points_lost(before.correct[:, images], variant.correct[:, images])


def summary_rows(results: Results) -> list[dict[str, Any]]:
    """Return one row a variant: ReLUs, accuracies, and drops of those large and small groups that have one.

    Which have none is said where that is so of any network: means over other groups cannot be compared.
    """
    left = [[] if v.method == "full" else np.flatnonzero(~has_drop(v)).tolist() for v in results.variants]
    rows = []
    for variant, without in zip(results.variants, left, strict=True):
        row: dict[str, Any] = {"network": variant.label, "relus": variant.relu_count, "seeds": len(variant.seeds)}
        row |= right_by_size(results, variant)
        row["parameter_distance"] = over_seeds(variant.parameter_distance, "positive")
        if any(np.isfinite(v.passes).all() for v in results.variants):
            row["million_passes"] = float(variant.passes.mean() / 1e6)
        harm = harm_by_size(results, variant) if results.matched else {}
        for size, members in _sizes(results).items():
            drop = UNKNOWN if variant.method == "full" else joint_drop(results, variant, members)
            row[f"{size}_drop_percent"] = drop
            if results.matched:
                row[f"{size}_harm_percent"] = harm[f"{size}_harm_percent"]
        if any(left):
            row["without_a_drop"] = some(cut([results.groups.names[g] for g in without]))
        rows.append(row)
    return rows


def right_by_size(results: Results, variant: Variant) -> dict[str, Estimate]:
    """Return a row's accuracies: on all test images, and the mean ones of large and of small groups."""
    of_groups = {f"{size}_groups": accuracy(results, variant, of) for size, of in _sizes(results).items()}
    return {"accuracy": whole_accuracy(variant), **of_groups}


def harm_by_size(results: Results, variant: Variant) -> dict[str, Estimate]:
    """Return a row's drops of large and of small groups from the control, unknown where a network has none."""
    return {
        f"{size}_harm_percent": UNKNOWN
        if variant.control is None
        else joint_drop(results, variant, of, controlled=True)
        for size, of in _sizes(results).items()
    }


def _sizes(results: Results) -> dict[str, np.ndarray]:
    """Return the numbers of the large groups, and of the small ones."""
    return {"large": np.flatnonzero(results.groups.large), "small": np.flatnonzero(~results.groups.large)}


def group_rows(results: Results) -> list[dict[str, Any]]:
    """Return one row a variant and group: counts, means over seeds, and intervals."""
    rows, groups = [], results.groups
    for variant in results.variants:
        drop, right = drops(results, variant), accuracies(results, variant)
        own, splits = variant.by_group, (s for s in ("train", "validation") if f"{s}_accuracy" in variant.by_group)
        known = {
            f"{s}_accuracy": shares(own[f"{s}_accuracy"], own[f"{s}_count"].min(axis=0), sampled=s == "validation")
            for s in splits
        }
        known |= {name: measured(variant, name, results) for name in ("loss", *CURVATURE) if name in own}
        known |= {
            FREE[name]: free_of_sampling(own, variant.parts, name, overlap(results, variant)) for name in variant.parts
        }
        for g in groups.order:
            row: dict[str, Any] = {"network": variant.label, "relus": variant.relu_count, "group": groups.names[g]}
            row |= {"train_count": groups.train_count[g], "test_count": groups.test_count[g]}
            row |= {
                "seeds": len(variant.seeds),
                "accuracy": right.at(g),
                DROP: drop.at(g),
            }
            if results.matched:
                row[HARM] = UNKNOWN if variant.control is None else drops(results, variant, controlled=True).at(g)
            row |= {name: value.at(g) for name, value in known.items()}
            row["top_eigenvalue_residual_max"] = variant.by_group["top_eigenvalue_residual"][:, g].max()
            rows.append(row)
    return rows
