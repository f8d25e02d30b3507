"""A hardware study's runs as arrays over seeds and groups: reference, other profiles and controls side by side."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.hardware.bundles import Bundle, Member
from experiments.hardware.runs import CONTROLS
from experiments.reporting.comparisons import predicts_one_class
from experiments.reporting.groups import Groups, check_name
from experiments.reporting.sampling import FREE
from experiments.running.records import load_network
from jaxfair.bounds import parameter_distance
from jaxfair.errors import JaxfairError
from jaxfair.networks.network import Network
from jaxfair.runs import Run


class Series(NamedTuple):
    """All seeds of one training on one profile; for s seeds, g groups, t recorded steps.

    Attributes:
        label: for readers; says whether the profile is native or emulated, and the control.
        profile, kind, control: by name.
        accuracy: over the test set, shape (s,).
        correct: 1.0 where the prediction is right, shape (s, test images).
        one_class: whether one class is predicted for all test images, shape (s,).
        loss: of each test image, in nats, of the shape of ``correct``.
        by_group: each quantity of ``result.json``, shape (s, g).
        distance: of the parameters from the reference's, shape (s,); 0 for the reference.
        curve: the same after each recorded step, estimated from sketches, shape (s, t); None where there is none.
        same_bits: whether the parameters at the end are the reference's to the bit, shape (s,).
        trained: the runs that hold the networks.
        parts: of the quantities of ``reporting.sampling.FREE``, shape (s, g, blocks of images); empty where their
            sampling was not measured.
    """

    label: str
    profile: str
    kind: str
    control: str
    accuracy: np.ndarray
    correct: np.ndarray
    one_class: np.ndarray
    loss: np.ndarray
    by_group: dict[str, np.ndarray]
    distance: np.ndarray
    curve: np.ndarray | None
    same_bits: np.ndarray
    trained: tuple[Run, ...]
    parts: Mapping[str, np.ndarray] = {}


class Comparison(NamedTuple):
    """One kind of training on every profile.

    Attributes:
        title: what kind: plain, aligned, or linearized.
        mitigation, budget: of the training.
        reference: on the first profile.
        profiles: on the others.
        ulps: on the first again, with one weight of every array changed by one unit in the last place.
        others: its further controls: ``repeat``, ``order`` and ``batch``.
        moved: how far the reference's parameters went until the last recorded step, shape (s,); NaN if unknown.
    """

    title: str
    mitigation: str
    budget: int | None
    reference: Series
    profiles: tuple[Series, ...]
    ulps: tuple[Series, ...]
    others: tuple[Series, ...]
    moved: np.ndarray

    @property
    def elsewhere(self) -> tuple[Series, ...]:
        """The profiles that ended in other bits than the reference for some seed: all others are no other hardware."""
        return tuple(series for series in self.profiles if not series.same_bits.all())

    @property
    def every(self) -> tuple[Series, ...]:
        """All series, the reference first."""
        return (self.reference, *self.profiles, *self.ulps, *self.others)


class Hardware(NamedTuple):
    """A study's comparisons, the plain one first.

    Attributes:
        comparisons: of every kind of training.
        groups: in the order of the groups axis.
        group: of each test image.
        reference: number of the group that the others are compared with.
        steps: after which parameters were recorded, 0 first; empty where they were not.
        differences: sentences on package versions that differ between machines.
    """

    comparisons: tuple[Comparison, ...]
    groups: Groups
    group: np.ndarray
    reference: int
    steps: np.ndarray
    differences: tuple[str, ...]


class _Base(NamedTuple):
    """What every series of a comparison is held against: the reference's networks, sketches and digests, by seed."""

    networks: list[Network]
    sketches: np.ndarray | None
    digests: np.ndarray


def collect(bundles: Sequence[Bundle], differences: Sequence[str] = (), reference: str | None = None) -> Hardware:
    """Read the runs of several profiles that began alike (``bundles.check``), the first of them the reference.

    Args:
        bundles: of the profiles.
        differences: sentences on what differs between machines.
        reference: group that the others are compared with; by default that with the most training images.

    Raises:
        JaxfairError: the first profile is no reference, so that there are no controls, or no group is ``reference``.
    """
    first = bundles[0]
    if not first.reference:
        raise JaxfairError(f"'{first.folder}' has no reference profile; give the study that ran the controls first.")
    kinds = dict.fromkeys((member.mitigation, member.budget) for member in first.members)
    comparisons = tuple(_comparison(bundles, *kind) for kind in kinds)
    columns = first.members[0].analysed[0].json("result.json")["groups"]
    groups = Groups(tuple(columns["name"]), np.array(columns["train_count"]), np.array(columns["test_count"]))
    recorded = first.members[0].steps
    steps = recorded[0].arrays("sketches.npz")["steps"] if recorded else np.array([], int)
    wanted = check_name(reference, groups.names)
    number = int(groups.order[0]) if wanted is None else groups.names.index(wanted)
    group = first.members[0].analysed[0].arrays("examples.npz")["group"]
    return Hardware(comparisons, groups, group, number, steps, tuple(differences))


def _labels(bundles: Sequence[Bundle]) -> list[str]:
    """Return a label for each bundle: its profile, and where several have it the device, or else the study's folder."""
    labels, studies = [bundle.label for bundle in bundles], list(dict.fromkeys(bundle.folder for bundle in bundles))
    devices = [bundle.members[0].trained[0].json("environment.json").get("device_kind", "") for bundle in bundles]
    folders = [f"study {studies.index(bundle.folder) + 1}: {bundle.folder.name}" for bundle in bundles]
    for which in (devices, folders):
        alike = [{w for other, w in zip(labels, which, strict=True) if other == label} for label in labels]
        labels = [f"{a}, {w}" if len(of) > 1 else a for a, w, of in zip(labels, which, alike, strict=True)]
    return labels


def _comparison(bundles: Sequence[Bundle], mitigation: str, budget: int | None) -> Comparison:
    first, wanted = bundles[0], (mitigation, budget)
    reference = next((m for m in first.members if (m.control, m.mitigation, m.budget) == ("none", *wanted)), None)
    if reference is None:
        raise JaxfairError(f"'{first.folder}' lacks its reference training ({mitigation}, {budget} ReLUs).")
    digests = np.array([run.json("result.json")["parameters"] for run in reference.analysed])
    base = _Base([load_network(run) for run in reference.trained], _sketches(reference), digests)
    names = _labels(bundles)
    series: dict[str, list[Series]] = {"profiles": [], "ulps": [], "others": []}
    for bundle, name in zip(bundles, names, strict=True):
        for member in bundle.members:
            if (member.mitigation, member.budget) != wanted or member is reference:
                continue
            if member.control != "none" and bundle is not first:
                continue  # controls are those of the reference
            label = name + CONTROLS.get(member.control, f", {member.control[:3]} {member.control[3:]}")
            kind = "profiles" if member.control == "none" else "others" if member.control in CONTROLS else "ulps"
            series[kind].append(_series(bundle, label, member, base))
    moved = np.full(len(base.networks), np.nan)
    if base.sketches is not None:
        moved = np.linalg.norm(base.sketches[:, -1] - base.sketches[:, 0], axis=-1)
    return Comparison(
        title=f"SNL {budget}" if budget is not None else "plain" if mitigation == "none" else mitigation,
        mitigation=mitigation,
        budget=budget,
        reference=_series(first, names[0], reference, base),
        profiles=tuple(series["profiles"]),
        ulps=tuple(series["ulps"]),
        others=tuple(series["others"]),
        moved=moved,
    )


def _series(bundle: Bundle, label: str, member: Member, base: _Base) -> Series:
    results = [run.json("result.json") for run in member.analysed]
    examples = [run.arrays("examples.npz") for run in member.analysed]
    columns = [name for name in results[0]["groups"] if name != "name"]
    own, sketches = [load_network(run) for run in member.trained], _sketches(member)
    curve = None
    if sketches is not None and base.sketches is not None and sketches.shape == base.sketches.shape:
        curve = np.linalg.norm(sketches - base.sketches, axis=-1)
    by_group = {name: np.array([result["groups"][name] for result in results], float) for name in columns}
    parts, noise = {}, [(run.json("result.json")["groups"], run.arrays("sampling.npz")) for run in member.sampled]
    if noise:
        by_group |= {column: np.array([groups[column] for groups, _ in noise], float) for column in FREE.values()}
        parts = {name: np.stack([arrays[name] for _, arrays in noise]) for name in FREE}
    return Series(
        label=label,
        profile=bundle.profile,
        kind=bundle.kind,
        control=member.control,
        accuracy=np.array([result["accuracy"] for result in results]),
        correct=np.array([(e["logits"].argmax(-1) == e["label"]).astype(float) for e in examples]),
        one_class=np.array([predicts_one_class(e["logits"].argmax(-1), e["label"]) for e in examples]),
        loss=np.array([e["loss"] for e in examples], float),
        by_group=by_group,
        distance=np.array([parameter_distance(a.params, b.params) for a, b in zip(base.networks, own, strict=True)]),
        curve=curve,
        same_bits=np.array([result["parameters"] for result in results]) == base.digests,
        trained=tuple(member.trained),
        parts=parts,
    )


def _sketches(member: Member) -> np.ndarray | None:
    if not member.steps:
        return None
    return np.array([run.arrays("sketches.npz")["sketches"] for run in member.steps])
