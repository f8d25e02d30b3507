"""A hardware study's runs as arrays over seeds and groups: reference, other profiles and controls side by side."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.hardware.bundles import Bundle, Member
from experiments.hardware.runs import CONTROLS
from experiments.reporting.groups import Groups
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
        groups: each quantity of ``result.json``, shape (s, g).
        distance: of the parameters from the reference's, shape (s,); 0 for the reference.
        curve: the same after each recorded step, estimated from sketches, shape (s, t); None where there is none.
        same_bits: whether the parameters at the end are the reference's to the bit, shape (s,).
        trained: the runs that hold the networks.
    """

    label: str
    profile: str
    kind: str
    control: str
    accuracy: np.ndarray
    groups: dict[str, np.ndarray]
    distance: np.ndarray
    curve: np.ndarray | None
    same_bits: np.ndarray
    trained: tuple[Run, ...]


class Comparison(NamedTuple):
    """One kind of training on every profile.

    Attributes:
        title: what kind: plain, aligned, or linearized.
        mitigation, budget: of the training.
        reference: on the first profile.
        profiles: on the others.
        ulps: on the first again, with one weight of every array changed by one unit in the last place.
        others: its further controls: ``repeat`` and ``order``.
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
    def every(self) -> tuple[Series, ...]:
        """All series, the reference first."""
        return (self.reference, *self.profiles, *self.ulps, *self.others)


class Hardware(NamedTuple):
    """A study's comparisons, the plain one first.

    Attributes:
        comparisons: of every kind of training.
        group_names: in the order of the groups axis.
        train_count, test_count: images of each group.
        group: of each test image.
        steps: after which parameters were recorded, 0 first; empty where they were not.
        differences: sentences on package versions that differ between machines.
    """

    comparisons: tuple[Comparison, ...]
    group_names: tuple[str, ...]
    train_count: np.ndarray
    test_count: np.ndarray
    group: np.ndarray
    steps: np.ndarray
    differences: tuple[str, ...]

    @property
    def groups(self) -> Groups:
        """Names and counts of the groups."""
        return Groups(self.group_names, self.train_count, self.test_count)

    @property
    def large(self) -> np.ndarray:
        """Whether each group has at least the average number of training images."""
        return self.groups.large

    @property
    def order(self) -> np.ndarray:
        """Groups from the most training images to the fewest."""
        return self.groups.order


def collect(bundles: Sequence[Bundle], differences: Sequence[str] = ()) -> Hardware:
    """Read the runs of several profiles that began alike (``bundles.check``), the first of them the reference.

    Raises:
        JaxfairError: the first profile is no reference, so that there are no controls.
    """
    first = bundles[0]
    if not first.reference:
        raise JaxfairError(f"'{first.folder}' has no reference profile; give the study that ran the controls first.")
    names = _labels(bundles)
    kinds = dict.fromkeys((member.mitigation, member.budget) for member in first.members)
    comparisons = tuple(_comparison(bundles, names, *kind) for kind in kinds)
    analysed = first.members[0].analysed[0]
    columns, group = analysed.json("result.json")["groups"], analysed.arrays("examples.npz")["group"]
    recorded = first.members[0].steps
    steps = recorded[0].arrays("sketches.npz")["steps"] if recorded else np.array([], int)
    counts = np.array(columns["train_count"]), np.array(columns["test_count"])
    return Hardware(comparisons, tuple(columns["name"]), *counts, group, steps, tuple(differences))


def _labels(bundles: Sequence[Bundle]) -> list[str]:
    """Return a label for each bundle; where two have the same profile, with the number and folder of the study."""
    labels, studies = [bundle.label for bundle in bundles], list(dict.fromkeys(bundle.folder for bundle in bundles))
    return [
        b.label if labels.count(b.label) == 1 else f"{b.label}, study {studies.index(b.folder) + 1}: {b.folder.name}"
        for b in bundles
    ]


def _comparison(bundles: Sequence[Bundle], names: Sequence[str], mitigation: str, budget: int | None) -> Comparison:
    series: dict[str, list[Series]] = {"profiles": [], "ulps": [], "others": []}
    base = _member(bundles[0], "none", mitigation, budget)
    if base is None:
        raise JaxfairError(f"'{bundles[0].folder}' lacks its reference training ({mitigation}, {budget} ReLUs).")
    networks, sketches = [load_network(run) for run in base.trained], _sketches(base)
    digests = np.array([run.json("result.json")["parameters"] for run in base.analysed])
    for bundle, name in zip(bundles, names, strict=True):
        for member in bundle.members:
            if (member.mitigation, member.budget) != (mitigation, budget) or member is base:
                continue
            if member.control != "none" and bundle is not bundles[0]:
                continue  # controls are those of the reference
            label = name + CONTROLS.get(member.control, f", {member.control[:3]} {member.control[3:]}")
            kind = "profiles" if member.control == "none" else "others" if member.control in CONTROLS else "ulps"
            series[kind].append(_series(bundle, label, member, networks, sketches, digests))
    title = f"SNL {budget}" if budget is not None else "plain" if mitigation == "none" else mitigation
    reference = _series(bundles[0], names[0], base, networks, sketches, digests)
    moved = np.full(len(networks), np.nan)
    if sketches is not None:
        moved = np.linalg.norm(sketches[:, -1] - sketches[:, 0], axis=-1)
    others = (tuple(found) for found in (series["profiles"], series["ulps"], series["others"]))
    return Comparison(title, mitigation, budget, reference, *others, moved=moved)


def _member(bundle: Bundle, control: str, mitigation: str, budget: int | None) -> Member | None:
    wanted = (control, mitigation, budget)
    return next((m for m in bundle.members if (m.control, m.mitigation, m.budget) == wanted), None)


def _series(
    bundle: Bundle,
    label: str,
    member: Member,
    networks: Sequence[Network],
    sketches: np.ndarray | None,
    digests: np.ndarray,
) -> Series:
    results = [run.json("result.json") for run in member.analysed]
    columns = [name for name in results[0]["groups"] if name != "name"]
    own = [load_network(run) for run in member.trained]
    distance = [parameter_distance(a.params, b.params) for a, b in zip(networks, own, strict=True)]
    found = _sketches(member)
    curve = None
    if sketches is not None and found is not None and found.shape == sketches.shape:
        curve = np.linalg.norm(found - sketches, axis=-1)
    return Series(
        label=label,
        profile=bundle.profile,
        kind=bundle.kind,
        control=member.control,
        accuracy=np.array([result["accuracy"] for result in results]),
        groups={name: np.array([result["groups"][name] for result in results], float) for name in columns},
        distance=np.array(distance),
        curve=curve,
        same_bits=np.array([result["parameters"] for result in results]) == digests,
        trained=tuple(member.trained),
    )


def _sketches(member: Member) -> np.ndarray | None:
    if not member.steps:
        return None
    return np.array([run.arrays("sketches.npz")["sketches"] for run in member.steps])
