"""Finished analyses as arrays over seeds and groups."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from experiments.reporting import reports
from experiments.reporting.comparisons import predicts_one_class
from experiments.reporting.groups import Groups, check_name
from experiments.reporting.sampling import FREE
from experiments.running import stages, work
from experiments.running.methods import matched_label
from experiments.running.records import rebalanced
from experiments.running.settings import FURTHER
from jaxfair.errors import JaxfairError
from jaxfair.intervals import has_drop as has_ratio
from jaxfair.runs import Run

CURVATURE = ("gradient_norm", "top_eigenvalue", "softmax_gap", "linearized_distance")
DROP = "relative_drop_percent"
HARM = "relative_drop_matched_percent"
"""The relative drop against the control that was trained alike, ``Variant.control``."""
CONTROLS = ("matched", "control")
"""Methods of networks that have all their ReLUs, trained on as the linearized ones."""
RANDOM = ("random", "random-matched")
OF_SPLIT = ("seed", "fingerprint", "train_count", "test_count", "validation_count")
"""What of a data set's record another split changes."""
UNLIKE = "The analyses are of different data sets or splits; report each study by itself."
MANY = 10**9
EXPANSION = ("loss_rise", "first_term", "second_term")
"""Of a group's loss in the change of the weights, in nats."""
OF_IMAGES = ("loss", "softmax_gap", "linearized_distance")
"""Quantities of a group that are means over its test images."""
HESSIAN_BOUND = ("bound", "gradient_term", "top_eigenvalue")
"""Of some images of each group: Prop. 4.5 of Das et al. 2024, and the largest Hessian eigenvalue."""


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
        correct: 1.0 where the prediction is right, shape (seeds, test images of any seed); NaN where a seed does not
            test an image.
        one_class: whether one class is predicted for all test images, shape (seeds,).
        examples: of quantities that are means over test images (``OF_IMAGES``), each image's, as ``correct``.
        parts: of the quantities of ``sampling.FREE``, as ``sampling.free_of_sampling`` takes them; empty where sampling
            was not measured.
        gradients: inner products of the groups' gradients of the training loss, times their numbers of images, shape
            (seeds, groups, groups); None where they were not measured.
        about: what else the record says of the network, such as what it saves.
        passes: the work that made it of the full network, in forward passes of one image, of each seed, shape (seeds,);
            NaN where its runs are not there.
        control: the network that differs from this one in nothing but what the study changes: trained as it was, with
            all its ReLUs. None is the full network, where the study has no other or this is one itself.
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
    one_class: np.ndarray
    base: str | None = None
    mitigation: Mapping[str, Any] | None = None
    examples: Mapping[str, np.ndarray] = {}
    parts: Mapping[str, np.ndarray] = {}
    about: Mapping[str, Any] = {}
    passes: np.ndarray = np.array([np.nan])
    control: "Variant | None" = None
    gradients: np.ndarray | None = None

    __eq__, __hash__ = object.__eq__, object.__hash__  # arrays have neither

    @property
    def percent_kept(self) -> str:
        """The share of the units that are still ReLUs, in percent, with two digits."""
        share = 100 * self.relu_count / self.unit_count
        return "100" if share > 99 else f"{share:.2g}"  # which would be 1e+02

    @property
    def title(self) -> str:
        """What stands above a panel of this network: its label, and how many ReLUs it has if these may be fewer."""
        if "saves" in self.about:
            return self.label
        if self.method == "full":
            return f"{self.label}: {self.relu_count:,} ReLUs"
        label = re.sub(r" \d+", "", self.label, count=1) if self.method in ("snl", *FURTHER) else self.label
        return f"{label}: {self.relu_count:,} ReLUs ({self.percent_kept} %)"


class Followed(NamedTuple):
    """A network's groups after so many epochs of fine-tuning, over seeds.

    Attributes:
        label, method: of the network.
        epochs: after which it was looked at, shape (points,).
        correct: as of ``Variant``, shape (points, seeds, test images of any seed).
        train_accuracy: of each group, shape (points, seeds, groups).
    """

    label: str
    method: str
    epochs: np.ndarray
    correct: np.ndarray
    train_accuracy: np.ndarray

    __eq__, __hash__ = object.__eq__, object.__hash__


class Results(NamedTuple):
    """A study's analyses: the full network first, then the variants as they were made.

    Attributes:
        variants: networks, the full one first.
        groups: in the order of the groups axis; their images as they are in the mean split, in whole numbers.
        group: of each test image of any seed.
        reference: number of the group that the others are compared with.
        splits: how many different test sets the seeds have.
        trainings: how many different training sets.
        followed: fine-tunings that were followed through their epochs.
        rebalanced: the same of networks that were trained on data of another imbalance, by what that is; their groups
            and test images are in the same order.
        missing: sentences on networks and seeds that are not there, since their runs failed.
    """

    variants: tuple[Variant, ...]
    groups: Groups
    group: np.ndarray
    reference: int = 0
    splits: int = 1
    trainings: int = 1
    followed: tuple[Followed, ...] = ()
    rebalanced: "Mapping[str, Results]" = MappingProxyType({})
    missing: tuple[str, ...] = ()

    __eq__, __hash__ = object.__eq__, object.__hash__

    @property
    def matched(self) -> bool:
        """Whether some network has a control that was trained as it was."""
        return any(variant.control is not None for variant in self.variants)


def collect(analysed: Sequence[Run], reference: str | None = None) -> Results:
    """Read finished analyses; runs of one label are seeds of one variant.

    Args:
        analysed: the runs, and those of other stages on these networks, such as 'sampling' and 'follow', if there are
            any; and the same on rebalanced data.
        reference: group that the others are compared with; by default that with the most training images.

    Raises:
        JaxfairError: there are none, they are of different data, a variant lacks a seed, or no group is ``reference``.
    """
    by_data: dict[str, list[Run]] = {"": []}
    for run in analysed:
        by_data.setdefault(rebalanced(run), []).append(run)
    results, places = _collect(by_data.pop(""), reference)
    name = results.groups.names[results.reference]
    return results._replace(rebalanced={kind: _collect(runs, name, places)[0] for kind, runs in by_data.items()})


def _collect(
    analysed: Sequence[Run], reference: str | None, order: "_Places | None" = None
) -> "tuple[Results, _Places]":
    """Collect analyses of one imbalance; ``order`` are the places of the same test images in other analyses."""
    beside = {
        stage: {str(run.config["parents"]["network"]): run for run in analysed if run.config["stage"] == stage}
        for stage in ("sampling", "expand", "gradients", "hessian-bound")
    }
    followed = [run for run in analysed if run.config["stage"] == "follow"]
    analysed = [run for run in analysed if run.config["stage"] == "analyse"]
    if not analysed:
        raise JaxfairError("There are no analyses to report; give the finished runs of a study's stage 'analyse'.")
    if any(_of_data(run) != _of_data(analysed[0]) for run in analysed):
        raise JaxfairError(UNLIKE)
    by_label = _by_label(analysed)
    first_of, *others = ([run.config["data"]["fingerprint"] for run in found] for found in by_label.values())
    if any(other != first_of for other in others):
        raise JaxfairError(UNLIKE)
    places, group = _test_images(next(iter(by_label.values())), order)
    variants = _with_controls([_variant(found, beside, places) for found in by_label.values()])
    first = analysed[0].json("result.json")["groups"]
    counts = [np.rint(variants[0].by_group[f"{part}_count"].mean(axis=0)).astype(int) for part in ("train", "test")]
    groups = Groups(tuple(first["name"]), *counts)
    wanted = check_name(reference, groups.names)
    number = int(groups.order[0]) if wanted is None else groups.names.index(wanted)
    shown = tuple(_followed(found, places) for found in _by_label(followed).values())
    return Results(variants, groups, group, number, places.splits, places.trainings, shown), places


def declared_control(variant: Mapping[str, Any]) -> str:
    """Return what the control of a network is called, if the study has one; empty for those that have none.

    Args:
        variant: what the record says of the network. What saves weights or bits names its control itself.
    """
    if "saves" in variant or variant["method"] in ("full", *CONTROLS):
        return variant.get("control", "")
    if variant["method"] == "random":  # made of the full network, which no descent trained on
        return stages.TUNED["label"]
    return matched_label(variant.get("base") or variant["label"])


def _with_controls(variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """Return networks that know the controls that were trained as they were, if these are there."""
    by_label = {variant.label: variant for variant in variants}
    return tuple(variant._replace(control=by_label.get(declared_control(variant.about))) for variant in variants)


def _by_label(found: Sequence[Run]) -> dict[str, list[Run]]:
    """Return runs by the label of their network, of the same seeds each."""
    by_label: dict[str, list[Run]] = {}
    for run in found:
        by_label.setdefault(run.config["variant"]["label"], []).append(run)
    if len({tuple(run.config["seed"] for run in several) for several in by_label.values()}) > 1:
        raise JaxfairError("The analyses are not of the same seeds for every network; finish the study first.")
    return by_label


def _of_data(run: Run) -> dict[str, Any]:
    """Return what is recorded of a run's data but for what another split changes."""
    return {name: value for name, value in run.config["data"].items() if name not in OF_SPLIT}


class _Places(NamedTuple):
    """Where each seed's test images are among the ``count`` ones of all seeds.

    The seeds have so many ``splits``, different test sets, and so many different ``trainings``.

    ``images`` are the identities of all of them, in their order; None where older analyses do not have them.
    """

    of_seed: Sequence[np.ndarray]
    count: int
    splits: int
    trainings: int
    images: np.ndarray | None = None


def _test_images(seeds: Sequence[Run], others: _Places | None = None) -> tuple[_Places, np.ndarray]:
    """Return where each seed's test images are among those of all seeds, and the group of each of these.

    Args:
        seeds: analyses of one network.
        others: of the same test images in other analyses, whose order is kept.

    Raises:
        JaxfairError: the seeds are of different data, more than splits would explain.
    """
    examples = [run.arrays("examples.npz") for run in seeds]
    same = len({str(run.config["data"]["fingerprint"]["test"]) for run in seeds}) == 1
    own = len({run.config["data"].get("seed") for run in seeds}) == len(seeds)
    trained = len({str(run.config["data"]["fingerprint"]["train"]) for run in seeds})
    if not (own or (same and trained == 1)):
        raise JaxfairError(UNLIKE)
    if same:
        group = examples[0]["group"]
        found = _Places([np.arange(len(group))] * len(seeds), len(group), 1, trained, examples[0].get("image"))
        return _in_order_of(others, found, group)
    ids = [e["image"] if "image" in e else -1 - np.arange(len(e["group"])) - i * MANY for i, e in enumerate(examples)]
    ids = [np.asarray(of_seed).astype(np.uint64) for of_seed in ids]
    known, first = np.unique(np.concatenate(ids), return_index=True)
    places = [np.searchsorted(known, of_seed) for of_seed in ids]
    group = np.concatenate([e["group"] for e in examples])[first]
    splits = len({tuple(place) for place in places})
    return _in_order_of(others, _Places(places, len(group), splits, trained, known), group)


def _in_order_of(others: _Places | None, found: _Places, group: np.ndarray) -> tuple[_Places, np.ndarray]:
    """Return places, and groups of their images, in the order of other analyses of the same images.

    Raises:
        JaxfairError: these are of other images.
    """
    if others is None or others.images is None or found.images is None:
        return found, group
    order = np.argsort(others.images)
    if not np.array_equal(others.images[order], np.sort(found.images)):
        raise JaxfairError("The analyses of rebalanced data are of other test images; report each study by itself.")
    at = order[np.searchsorted(others.images, found.images, sorter=order)]
    moved = np.empty_like(group)
    moved[at] = group
    return found._replace(of_seed=[at[place] for place in found.of_seed], images=others.images), moved


def _spread(rows: Sequence[np.ndarray], places: _Places) -> np.ndarray:
    """Return what is known of each seed's test images, shape (seeds, images), where they are among those of all."""
    found = np.full((len(rows), places.count), np.nan)
    for row, place, values in zip(found, places.of_seed, rows, strict=True):
        row[place] = values
    return found


def _followed(seeds: Sequence[Run], places: _Places) -> Followed:
    results, arrays = [run.json("result.json") for run in seeds], [run.arrays("follow.npz") for run in seeds]
    epochs, variant = np.array(results[0]["epochs"]), seeds[0].config["variant"]
    correct = [_spread([a["correct"][i] for a in arrays], places) for i in range(len(epochs))]
    learnt = np.array([result["groups"]["train_accuracy"] for result in results])
    return Followed(variant["label"], variant["method"], epochs, np.array(correct), np.moveaxis(learnt, 1, 0))


def _variant(analysed: Sequence[Run], beside: Mapping[str, Mapping[str, Run]], places: _Places) -> Variant:
    results, variant = [run.json("result.json") for run in analysed], analysed[0].config["variant"]
    examples = [run.arrays("examples.npz") for run in analysed]
    predicted = [e["logits"].argmax(-1) for e in examples]
    stored = set.intersection(*(set(result["groups"]) for result in results))  # older analyses have fewer
    names = [name for name in results[0]["groups"] if name != "name" and name in stored]
    by_group = {name: np.array([result["groups"][name] for result in results], float) for name in names}
    said = has_ratio(by_group["accuracy_full"], by_group["test_count"])
    by_group[DROP] = np.where(said, by_group[DROP], np.nan)
    measured, parts, gradients = _measured_beside(analysed, beside, places.splits == 1)
    return Variant(
        label=variant["label"],
        method=variant["method"],
        relu_count=round(np.mean([result["relu_count"] for result in results])),  # differs only by the threshold rule
        unit_count=results[0]["unit_count"],
        seeds=tuple(run.config["seed"] for run in analysed),
        accuracy=np.array([result["accuracy"] for result in results]),
        parameter_distance=np.array([result["parameter_distance"] for result in results], float),
        by_group=by_group | measured,
        correct=_spread([of == e["label"] for of, e in zip(predicted, examples, strict=True)], places),
        one_class=np.array([predicts_one_class(of, e["label"]) for of, e in zip(predicted, examples, strict=True)]),
        examples={
            name: _spread([e[name].astype(float) for e in examples], places)
            for name in OF_IMAGES
            if name in by_group and all(name in e for e in examples)
        },
        base=variant.get("base"),
        mitigation=variant.get("mitigation"),
        parts=parts,
        about=variant,
        gradients=gradients,
        passes=np.array([work.passes(run) for run in analysed]),
    )


def _measured_beside(
    analysed: Sequence[Run], beside: Mapping[str, Mapping[str, Run]], shared: bool
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray | None]:
    """Return quantities of groups, ``parts`` and ``gradients`` of a ``Variant``, by those stages that all seeds have.

    Args:
        analysed: the analyses of a network.
        beside: by stage, what was measured on each network.
        shared: whether all seeds test the same images.
    """
    networks = [str(run.config.get("parents", {}).get("network")) for run in analysed]
    whole = {stage: [runs[of] for of in networks] for stage, runs in beside.items() if runs.keys() >= {*networks}}

    def columns(stage: str, names: Iterable[str]) -> dict[str, np.ndarray]:
        found = [run.json("result.json")["groups"] for run in whole.get(stage, ())]
        return {name: np.array([groups[name] for groups in found], float) for name in names if found}

    by_group = columns("expand", EXPANSION) | columns("sampling", FREE.values())
    by_group |= {f"hessian_bound_{name}": values for name, values in columns("hessian-bound", HESSIAN_BOUND).items()}
    blocks = [run.arrays("sampling.npz") for run in whole.get("sampling", ())]
    parts = {name: _blocks([of_seed[name] for of_seed in blocks], shared) for name in FREE if blocks}
    products = [run.arrays("gradients.npz")["inner_products"] for run in whole.get("gradients", ())]
    return by_group, parts, np.array(products) if products else None


def _blocks(of_seeds: Sequence[np.ndarray], shared: bool) -> np.ndarray:
    """Return blocks of images of every seed, shape (seeds, groups, blocks): the same ones, or to each its own."""
    if shared:
        return np.stack(of_seeds)
    widths = np.cumsum([0, *(blocks.shape[1] for blocks in of_seeds)])
    found = np.full((len(of_seeds), len(of_seeds[0]), widths[-1]), np.nan)
    for seed, blocks in enumerate(of_seeds):
        found[seed, :, widths[seed] : widths[seed + 1]] = blocks
    return found


def read(study: Path, of: str | None = None) -> list[Run]:
    """Return the analyses of a study's last report, in its order.

    Args:
        study: the folder that the study was told as ``--out``.
        of: which study it must be, as its record calls it; any if None.

    Raises:
        JaxfairError: as ``reports.read_record``, or a run is missing, unfinished or damaged.
    """
    return reports.open_runs(study, reports.read_record(study, of)["runs"])
