"""Finished analyses as arrays over seeds and groups, and as rows of tables with intervals."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.reporting import reports, series
from experiments.reporting.groups import Groups, check_name
from experiments.reporting.series import UNKNOWN, Estimate, over_seeds
from jaxfair import intervals
from jaxfair.errors import JaxfairError
from jaxfair.intervals import drop_parts, over_seeds_and_examples, wilson
from jaxfair.runs import Run

CURVATURE = ("gradient_norm", "top_eigenvalue", "softmax_gap", "linearized_distance")
DROP = "relative_drop_percent"
FREE = {"gradient_norm": "gradient_norm_corrected", "top_eigenvalue": "top_eigenvalue_equal_count"}
"""What is left of a quantity without the part that groups of few images have by sampling (``curvature.sampling``)."""


class Variant(NamedTuple):
    """All seeds of one network, full or changed.

    Attributes:
        label, method: for readers and figures.
        base: label of the network that the same was made of without mitigation; None if there was none.
        mitigation: its ``method`` and numbers; None if there was none.
        relu_count: ReLUs kept.
        unit_count: units in all.
        seeds: in the order of the first axis below.
        accuracy: over the test set, shape (seeds,).
        parameter_distance: ||theta_r - theta||, shape (seeds,); NaN between networks of different size.
        by_group: each quantity of ``result.json``, shape (seeds, groups).
        correct: 1.0 where the prediction is right, shape (seeds, test images).
        parts: of the quantities of ``FREE``, shape (seeds, groups, blocks of images), whose means over blocks they are
            and whose spread is their noise; NaN beyond a group's blocks. Empty where sampling was not measured.
    """

    label: str
    method: str
    relu_count: int
    unit_count: int
    seeds: tuple[int, ...]
    accuracy: np.ndarray
    parameter_distance: np.ndarray
    by_group: dict[str, np.ndarray]
    correct: np.ndarray
    base: str | None = None
    mitigation: Mapping[str, Any] | None = None
    parts: Mapping[str, np.ndarray] = {}

    __eq__, __hash__ = object.__eq__, object.__hash__  # arrays have neither

    @property
    def percent_kept(self) -> str:
        """The share of the units that are still ReLUs, in percent, with two digits."""
        share = 100 * self.relu_count / self.unit_count
        return "100" if share > 99 else f"{share:.2g}"  # which would be 1e+02

    @property
    def title(self) -> str:
        """What stands above a panel of this network: its label, and how many ReLUs it has."""
        if self.method == "full":
            return f"{self.label}: {self.relu_count:,} ReLUs"
        label = self.label if self.method != "snl" else "SNL"
        return f"{label}: {self.relu_count:,} ReLUs ({self.percent_kept} %)"


class Results(NamedTuple):
    """A study's analyses: the full network first, then the variants as they were made.

    Attributes:
        variants: networks, the full one first.
        groups: in the order of the groups axis.
        group: of each test image.
        reference: number of the group that the others are compared with.
    """

    variants: tuple[Variant, ...]
    groups: Groups
    group: np.ndarray
    reference: int = 0

    __eq__, __hash__ = object.__eq__, object.__hash__


def collect(analysed: Sequence[Run], reference: str | None = None) -> Results:
    """Read finished analyses; runs of one label are seeds of one variant.

    Args:
        analysed: the runs, and those of stage 'sampling' of the same networks, if there are any.
        reference: group that the others are compared with; by default that with the most training images.

    Raises:
        JaxfairError: there are none, they are of different data, a variant lacks a seed, or no group is ``reference``.
    """
    sampled = {str(run.config["parents"]["network"]): run for run in analysed if run.config["stage"] == "sampling"}
    analysed = [run for run in analysed if run.config["stage"] != "sampling"]
    if not analysed:
        raise JaxfairError("There are no analyses to report; give the finished runs of a study's stage 'analyse'.")
    by_label: dict[str, list[Run]] = {}
    for run in analysed:
        by_label.setdefault(run.config["variant"]["label"], []).append(run)
    if len({str(run.config["data"]["fingerprint"]) for run in analysed}) != 1:
        raise JaxfairError("The analyses are of different data sets or splits; report each study by itself.")
    if len({tuple(run.config["seed"] for run in found) for found in by_label.values()}) != 1:
        raise JaxfairError("The analyses are not of the same seeds for every network; finish the study first.")
    variants = tuple(_variant(found, sampled) for found in by_label.values())
    first = analysed[0].json("result.json")["groups"]
    group = analysed[0].arrays("examples.npz")["group"]
    groups = Groups(tuple(first["name"]), np.array(first["train_count"]), np.array(first["test_count"]))
    check_name(reference, groups.names)
    return Results(variants, groups, group, groups.order[0] if reference is None else groups.names.index(reference))


def _variant(analysed: Sequence[Run], sampled: Mapping[str, Run]) -> Variant:
    results, variant = [run.json("result.json") for run in analysed], analysed[0].config["variant"]
    examples = [run.arrays("examples.npz") for run in analysed]
    names = [name for name in results[0]["groups"] if name != "name"]
    by_group = {name: np.array([result["groups"][name] for result in results], float) for name in names}
    noise = [sampled[of] for run in analysed if (of := run.config.get("parents", {}).get("network")) in sampled]
    parts = {}
    if len(noise) == len(analysed):
        found, arrays = (
            [run.json("result.json")["groups"] for run in noise],
            [run.arrays("sampling.npz") for run in noise],
        )
        by_group |= {column: np.array([groups[column] for groups in found], float) for column in FREE.values()}
        parts = {name: np.stack([of_seed[name] for of_seed in arrays]) for name in FREE}
    return Variant(
        label=variant["label"],
        method=variant["method"],
        relu_count=round(np.mean([result["relu_count"] for result in results])),  # differs only by the threshold rule
        unit_count=results[0]["unit_count"],
        seeds=tuple(run.config["seed"] for run in analysed),
        accuracy=np.array([result["accuracy"] for result in results]),
        parameter_distance=np.array([result["parameter_distance"] for result in results], float),
        by_group=by_group,
        correct=np.array([(e["logits"].argmax(-1) == e["label"]).astype(float) for e in examples]),
        base=variant.get("base"),
        mitigation=variant.get("mitigation"),
        parts=parts,
    )


def read(study: Path, of: str | None = None) -> list[Run]:
    """Return the analyses of a study's last report, in its order.

    Args:
        study: the folder that the study was told as ``--out``.
        of: which study it must be, as its record calls it; any if None.

    Raises:
        JaxfairError: as ``reports.read_record``, or a run is missing, unfinished or damaged.
    """
    return reports.open_runs(study, reports.read_record(study, of)["runs"])


def measured(variant: Variant, name: str) -> Estimate:
    """Return a quantity of each group other than accuracies and drops, with its interval over seeds."""
    values = variant.by_group[name]
    positive = name != "linearized_distance" and (values >= 0).all()  # the largest eigenvalue may be negative, too
    return over_seeds(values, "positive" if positive else "real")


def free_of_sampling(variant: Variant, name: str) -> Estimate | None:
    """Return a quantity of each group without its sampling part, with its interval over seeds and test images.

    None where that was not measured; nothing known for a group of too few images.
    """
    if name not in variant.parts:
        return None
    found = []
    for values, column in zip(np.moveaxis(variant.parts[name], 1, 0), variant.by_group[FREE[name]].T, strict=True):
        blocks = values[:, np.isfinite(values).all(axis=0)]
        known = blocks.shape[1] > 1
        found.append(series.of(over_seeds_and_examples([blocks]), "positive") if known else over_seeds(column))
    return series.stack(found)


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
    return _share(tables, [1 / len(members)] * len(members))


def accuracies(results: Results, variant: Variant) -> Estimate:
    """Return the accuracy of each group, shape (groups,), with its interval over seeds and test images."""
    return series.stack([accuracy(results, variant, np.array([g])) for g in range(len(results.groups.names))])


def whole_accuracy(variant: Variant) -> Estimate:
    """Return the accuracy on all test images with its interval over seeds and test images."""
    return _share([variant.correct], [1.0])


def _share(tables: Sequence[np.ndarray], weights: Sequence[float]) -> Estimate:
    counts = np.array([table.shape[1] for table in tables])
    mean = sum(w * table.mean() for w, table in zip(weights, tables, strict=True))
    if not 0 < mean < 1 or counts.min() < 2:  # nothing varies; what so many images might have shown is known still
        return Estimate(mean, *wilson(np.asarray(mean), np.asarray(1 / np.sum(np.square(weights) / counts))))
    return series.of(over_seeds_and_examples(tables, weights), "share")


@functools.lru_cache(maxsize=256)  # tables and figures ask again
def drops(results: Results, variant: Variant) -> Estimate:
    """Return each group's relative accuracy drop in percent, shape (groups,), its interval over seeds and images."""
    found = [joint_drop(results, variant, np.array([group])) for group in range(len(results.groups.names))]
    return series.stack(found)


def joint_drop(results: Results, variant: Variant, members: np.ndarray) -> Estimate:
    """Return the mean relative accuracy drop of groups, in percent, with its interval over seeds and test images.

    Args:
        results: of the study.
        variant: the network.
        members: groups chosen beforehand, by size: the worst one seen is always the unluckiest too.

    Returns:
        Nothing known where there are no groups, or some seed of the full network is never right in one of them. The
        full network's own drop is 0, without an interval.
    """
    if not len(members) or not np.isfinite(variant.by_group[DROP][:, members]).all():
        return UNKNOWN
    if variant is results.variants[0]:
        return Estimate(0.0, np.nan, np.nan)
    weights = np.isin(np.arange(len(results.groups.names)), members) / len(members)
    return series.of(drop_contrast(results, (variant, weights)), "percent")


def drop_contrast(results: Results, *terms: tuple[Variant, np.ndarray]) -> intervals.Estimate:
    """Return a weighted sum of groups' relative drops, in points, with the noise of seeds and test images together.

    Args:
        results: of the study.
        terms: networks, and weights of their groups, shape (groups,) or (seeds, groups); groups of which some drop is
            not known have weight 0.
    """
    full = results.variants[0]
    terms = tuple((v, np.broadcast_to(np.asarray(w, float), v.by_group[DROP].shape)) for v, w in terms)
    tables, value = [], 0.0
    for g in np.flatnonzero(np.any([weights.any(axis=0) for _, weights in terms], axis=0)):
        images = results.group == g
        shown = [(v, weights[:, g]) for v, weights in terms if weights[:, g].any()]
        value += sum(np.mean(w * v.by_group[DROP][:, g]) for v, w in shown)
        tables.append(sum(w[:, None] * drop_parts(full.correct[:, images], v.correct[:, images]) for v, w in shown))
    if not tables:
        return intervals.Estimate(np.zeros(()), np.zeros(()), np.ones(()))
    return over_seeds_and_examples(tables, [1.0] * len(tables))._replace(value=np.asarray(value))


def summary_rows(results: Results) -> list[dict[str, Any]]:
    """Return one row a variant: ReLUs, accuracies and drops of large and small groups, with intervals."""
    sizes = {"large": np.flatnonzero(results.groups.large), "small": np.flatnonzero(~results.groups.large)}
    rows = []
    for variant in results.variants:
        row: dict[str, Any] = {"network": variant.label, "relus": variant.relu_count, "seeds": len(variant.seeds)}
        row["accuracy"] = whole_accuracy(variant)
        row |= {f"{size}_groups": accuracy(results, variant, members) for size, members in sizes.items()}
        row["parameter_distance"] = over_seeds(variant.parameter_distance, "positive")
        for size, members in sizes.items():
            drop = UNKNOWN if variant.method == "full" else joint_drop(results, variant, members)
            row[f"{size}_drop_percent"] = drop
        rows.append(row)
    return rows


def group_rows(results: Results) -> list[dict[str, Any]]:
    """Return one row a variant and group: counts, means over seeds, and intervals."""
    rows, groups = [], results.groups
    for variant in results.variants:
        drop, right = drops(results, variant), accuracies(results, variant)
        known = {name: measured(variant, name) for name in ("loss", *CURVATURE) if name in variant.by_group}
        known |= {FREE[name]: free for name in FREE if (free := free_of_sampling(variant, name)) is not None}
        for g in groups.order:
            row: dict[str, Any] = {"network": variant.label, "relus": variant.relu_count, "group": groups.names[g]}
            row |= {"train_count": groups.train_count[g], "test_count": groups.test_count[g]}
            row |= {
                "seeds": len(variant.seeds),
                "accuracy": right.at(g),
                DROP: drop.at(g),
            }
            row |= {name: value.at(g) for name, value in known.items()}
            row["top_eigenvalue_residual_max"] = variant.by_group["top_eigenvalue_residual"][:, g].max()
            rows.append(row)
    return rows
