"""Finished analyses as arrays over seeds and groups, and as tables with intervals."""

import csv
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxfair import runs
from jaxfair.errors import JaxfairError
from jaxfair.groups import Interval, drop_interval, seed_interval, wilson
from jaxfair.runs import Run

RECORD = "runs.json"
CURVATURE = ("gradient_norm", "top_eigenvalue", "softmax_gap", "linearized_distance")


class Variant(NamedTuple):
    """All seeds of one network, full or linearized.

    Attributes:
        label, method: for readers and figures.
        base: label of the network that the same was made of without mitigation; None if there was none.
        mitigation: its ``method`` and numbers; None if there was none.
        relu_count: ReLUs kept.
        unit_count: units in all.
        seeds: in the order of the first axis below.
        accuracy: over the test set, shape (seeds,).
        parameter_distance: ||theta_r - theta||, shape (seeds,); NaN between networks of different size.
        groups: each quantity of ``result.json``, shape (seeds, groups).
        correct: 1.0 where the prediction is right, shape (seeds, test images).
    """

    label: str
    method: str
    relu_count: int
    unit_count: int
    seeds: tuple[int, ...]
    accuracy: np.ndarray
    parameter_distance: np.ndarray
    groups: dict[str, np.ndarray]
    correct: np.ndarray
    base: str | None = None
    mitigation: Mapping[str, Any] | None = None

    __eq__, __hash__ = object.__eq__, object.__hash__  # arrays have neither


def large(train_count: np.ndarray) -> np.ndarray:
    """Return whether each group has at least the average number of training images."""
    return train_count >= train_count.mean()


def by_size(train_count: np.ndarray) -> np.ndarray:
    """Return the groups from the most training images to the fewest."""
    return np.argsort(-train_count, kind="stable")


class Results(NamedTuple):
    """A study's analyses: the full network first, then the variants as they were made.

    Attributes:
        variants: networks, the full one first.
        group_names: in the order of the groups axis.
        train_count, test_count: images of each group.
        group: of each test image.
    """

    variants: tuple[Variant, ...]
    group_names: tuple[str, ...]
    train_count: np.ndarray
    test_count: np.ndarray
    group: np.ndarray

    __eq__, __hash__ = object.__eq__, object.__hash__

    @property
    def large(self) -> np.ndarray:
        """Whether each group has at least the average number of training images."""
        return large(self.train_count)

    @property
    def order(self) -> np.ndarray:
        """Groups from the most training images to the fewest."""
        return by_size(self.train_count)


def collect(analysed: Sequence[Run]) -> Results:
    """Read finished analyses; runs of one label are seeds of one variant.

    Raises:
        JaxfairError: there are none, they are of different data, or a variant lacks a seed.
    """
    if not analysed:
        raise JaxfairError("There are no analyses to report; give the finished runs of a study's stage 'analyse'.")
    by_label: dict[str, list[Run]] = {}
    for run in analysed:
        by_label.setdefault(run.config["variant"]["label"], []).append(run)
    if len({str(run.config["data"]["fingerprint"]) for run in analysed}) != 1:
        raise JaxfairError("The analyses are of different data sets or splits; report each study by itself.")
    if len({tuple(run.config["seed"] for run in found) for found in by_label.values()}) != 1:
        raise JaxfairError("The analyses are not of the same seeds for every network; finish the study first.")
    variants = tuple(_variant(found) for found in by_label.values())
    first = analysed[0].json("result.json")["groups"]
    group = analysed[0].arrays("examples.npz")["group"]
    counts = np.array(first["train_count"]), np.array(first["test_count"])
    return Results(variants, tuple(first["name"]), *counts, group)


def _variant(analysed: Sequence[Run]) -> Variant:
    results, variant = [run.json("result.json") for run in analysed], analysed[0].config["variant"]
    examples = [run.arrays("examples.npz") for run in analysed]
    names = [name for name in results[0]["groups"] if name != "name"]
    return Variant(
        label=variant["label"],
        method=variant["method"],
        relu_count=round(np.mean([result["relu_count"] for result in results])),  # differs only by the threshold rule
        unit_count=results[0]["unit_count"],
        seeds=tuple(run.config["seed"] for run in analysed),
        accuracy=np.array([result["accuracy"] for result in results]),
        parameter_distance=np.array([result["parameter_distance"] for result in results], float),
        groups={name: np.array([result["groups"][name] for result in results], float) for name in names},
        correct=np.array([(e["logits"].argmax(-1) == e["label"]).astype(float) for e in examples]),
        base=variant.get("base"),
        mitigation=variant.get("mitigation"),
    )


def record(study: Path) -> dict[str, Any]:
    """Return ``runs.json`` of a study's last report: title, command, and names of the analysed runs in order.

    Raises:
        JaxfairError: there is no such study, it has no report yet, or its record is damaged.
    """
    file = study / "report" / RECORD
    if not study.is_dir():
        raise JaxfairError(f"There is no folder '{study}'; give the --out of a study.")
    if not file.is_file():
        raise JaxfairError(f"'{study}' has no 'report/{RECORD}'; run its study to the end, which writes it.")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not (isinstance(found["title"], str) and all(isinstance(name, str) for name in found["runs"])):
            raise ValueError
    except (ValueError, KeyError, TypeError) as error:
        raise JaxfairError(f"'{file}' is damaged; run the study again, which keeps its runs and writes it.") from error
    return found


def read(study: Path) -> list[Run]:
    """Return the analyses of a study's last report, in its order.

    Args:
        study: the folder that the study was told as ``--out``.

    Raises:
        JaxfairError: as ``record``, or a run is missing, unfinished or changed.
    """
    paths = [study / "runs" / name for name in record(study)["runs"]]
    if missing := [path for path in paths if not path.is_dir()]:
        raise JaxfairError(f"The report of '{study}' is of a run that is gone, '{missing[0]}'; run the study again.")
    return [runs.read(path) for path in paths]


@functools.lru_cache(maxsize=256)  # tables and figures ask again; thousands of test images are slow to resample
def drops(results: Results, variant: Variant) -> tuple[np.ndarray, Interval]:
    """Return each group's mean relative accuracy drop in percent, and its interval over seeds and test images."""
    mean = variant.groups["relative_drop_percent"].mean(axis=0)
    full = results.variants[0]
    ends = []
    for group in range(len(results.group_names)):
        members = results.group == group
        interval = drop_interval(full.correct[:, members], variant.correct[:, members])
        # No mean where some seed of the full network is never right, so no interval either.
        ends.append(interval if np.isfinite(mean[group]) else Interval(np.asarray(np.nan), np.asarray(np.nan)))
    return mean, Interval(np.array([end.low for end in ends]), np.array([end.high for end in ends]))


def summary_rows(results: Results) -> list[dict[str, Any]]:
    """Return one row a variant: ReLUs, accuracies and drops of large and small groups, with intervals."""
    rows = []
    for variant in results.variants:
        accuracy = variant.groups["accuracy"]
        row: dict[str, Any] = {"network": variant.label, "relus": variant.relu_count, "seeds": len(variant.seeds)}
        parts = {
            "accuracy": variant.accuracy,
            "large_groups": accuracy[:, results.large].mean(axis=1),
            "small_groups": accuracy[:, ~results.large].mean(axis=1) if (~results.large).any() else None,
            "parameter_distance": variant.parameter_distance,
        }
        for name, values in parts.items():
            values = np.full(len(variant.seeds), np.nan) if values is None else values
            interval = seed_interval(values)
            row |= {name: values.mean(), f"{name}_low": float(interval.low), f"{name}_high": float(interval.high)}
        for name, members in (("large", results.large), ("small", ~results.large)):
            row |= _joint_drop(results, variant, f"{name}_drop_percent", np.flatnonzero(members))
        rows.append(row)
    return rows


def _joint_drop(results: Results, variant: Variant, name: str, members: np.ndarray) -> dict[str, float]:
    """Mean relative drop of groups chosen beforehand, by size: the worst one seen is always the unluckiest too."""
    values = variant.groups["relative_drop_percent"][:, members]
    images = np.isin(results.group, members)
    if not np.isfinite(values).all() or not len(members) or variant.method == "full":
        return {name: np.nan, f"{name}_low": np.nan, f"{name}_high": np.nan}
    full = results.variants[0]
    interval = drop_interval(full.correct[:, images], variant.correct[:, images], results.group[images])
    return {name: values.mean(), f"{name}_low": float(interval.low), f"{name}_high": float(interval.high)}


def group_rows(results: Results) -> list[dict[str, Any]]:
    """Return one row a variant and group: counts, means over seeds, and intervals."""
    rows = []
    for variant in results.variants:
        mean, drop = drops(results, variant)
        accuracy = variant.groups["accuracy"].mean(axis=0)
        sampling = wilson(accuracy, results.test_count)
        for g in results.order:
            row: dict[str, Any] = {
                "network": variant.label,
                "relus": variant.relu_count,
                "group": results.group_names[g],
                "train_count": results.train_count[g],
                "test_count": results.test_count[g],
                "seeds": len(variant.seeds),
                "accuracy": accuracy[g],
                "accuracy_low": sampling.low[g],
                "accuracy_high": sampling.high[g],
                "relative_drop_percent": mean[g],
                "relative_drop_percent_low": drop.low[g],
                "relative_drop_percent_high": drop.high[g],
            }
            for name in ("loss", *(known for known in CURVATURE if known in variant.groups)):
                values = variant.groups[name][:, g]
                interval = seed_interval(values)
                row |= {name: values.mean(), f"{name}_low": float(interval.low), f"{name}_high": float(interval.high)}
            residuals = variant.groups["top_eigenvalue_residual"][:, g]
            rows.append(row | {"top_eigenvalue_residual_max": residuals.max()})
    return rows


def write_csv(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as CSV, the first row's keys as the header; NaN is an empty cell."""
    rows = list(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({key: "" if _missing(value) else value for key, value in row.items()})


def _missing(value: Any) -> bool:
    return isinstance(value, float | np.floating) and not np.isfinite(value)
