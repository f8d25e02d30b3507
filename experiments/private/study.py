"""The networks of a finished linearization study under private inference: costs, and accuracies by group."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.analyses import results as arrays
from experiments.private import protocol
from experiments.private.bound import logit_error
from experiments.private.protocol import Answer
from experiments.private.settings import Private, Protocol
from experiments.reporting import comparisons, reports
from experiments.reporting.comparisons import Difference
from experiments.reporting.groups import some
from experiments.reporting.series import Estimate
from experiments.reporting.tables import Row
from experiments.running import datasets
from experiments.running.progress import Progress
from experiments.running.records import load_network, rebalanced
from jaxfair import intervals, paired
from jaxfair.change import ChangeReport, change_report
from jaxfair.data.dataset import Dataset
from jaxfair.errors import JaxfairError, did_you_mean
from jaxfair.intervals import wilson
from jaxfair.networks import Gathered, gathered
from jaxfair.runs import Run

STUDY = "linearization"
GARBLED = 18_248
"""Bytes of a ReLU's garbled circuit in Delphi's protocol (Mishra et al. 2020), which the client has to get and keep.

The constant of the artifact of Garimella et al. 2023 (Characterizing and Optimizing End-to-End Systems for Private
Inference), ``storage_per_inf_server_garbler.py``.
"""


class Found(NamedTuple):
    """What a study found.

    Attributes:
        networks: their labels, from the most ReLUs to the fewest.
        costs: one row a network and protocol.
        accuracy: one row a network and number of bits.
        changes: floating point against fixed point by group, by network and number of bits.
        contrasts: what ``contrasts`` returns of each of these.
        runs: whose networks they are.
        versions: of what computed.
        absent: names of the groups of which no image was drawn.
    """

    networks: tuple[str, ...]
    costs: list[Row]
    accuracy: list[Row]
    changes: Mapping[tuple[str, int], ChangeReport]
    contrasts: Mapping[tuple[str, int], Sequence[intervals.Estimate]]
    runs: list[Run]
    versions: Mapping[str, str]
    absent: tuple[str, ...] = ()

    @property
    def coarsest(self) -> int:
        """The fewest fraction bits, with which groups are compared."""
        return min(bits for _, bits in self.changes)


def check(config: Private) -> None:
    """Raise a JaxfairError if a setting is impossible or there is no environment, before anything is read."""
    protocol.check_environment(config.environment)
    bits = [*config.fraction_bits, config.cost_bits]
    if not config.fraction_bits or not all(f in protocol.BITS for f in bits):
        raise JaxfairError(
            f"The fraction bits are {bits}; give at least one, {protocol.BITS[0]} to {protocol.BITS[-1]}."
        )
    for name in ("images", "cost_images", "lan_bandwidth", "wan_bandwidth", "timeout"):
        if not getattr(config, name) > 0:
            raise JaxfairError(f"--{name.replace('_', '-')} is {getattr(config, name)}; give more than 0.")
    for name in ("bound_images", "lan_latency", "wan_latency"):
        if not 0 <= getattr(config, name) < float("inf"):
            raise JaxfairError(f"--{name.replace('_', '-')} is {getattr(config, name)}; give 0 or more.")
    for name in ("fraction_bits", "protocols", "methods"):
        given = list(getattr(config, name))
        if len(set(given)) < len(given) or (not given and name != "protocols"):
            shown = " ".join(map(str, given)) or "empty"
            raise JaxfairError(f"--{name.replace('_', '-')} is {shown}; give one or more, each once.")
    reports.check_new(config.out / "report")
    if config.out.resolve() == config.study.resolve():
        raise JaxfairError(f"The report of '{config.study}' would be replaced; give another folder as --out.")


def find(config: Private) -> Found:
    """Run all protocols on all networks of one seed.

    Raises:
        JaxfairError: the study is not finished or has no such network, its data are not to be found, there is no
            environment, or a protocol's process failed.
    """
    check(config)
    chosen = _chosen(config)
    known = {run.digest: run for run in reports.with_parents(chosen)}
    test = datasets.again(chosen[0]).test
    rng = np.random.default_rng(0)
    index = np.sort(rng.permutation(len(test))[: config.images])
    images = np.asarray(test.normalize(test.images[index]), np.float32)
    costs: list[Row] = []
    accuracy: list[Row] = []
    changes, apart, versions = {}, {}, {}
    with Progress() as progress:
        progress.expect(len(chosen) * (len(config.protocols) + len(config.fraction_bits)))
        for run in chosen:
            network = gathered(load_network(known[run.config["parents"]["network"]]))
            label = run.config["variant"]["label"]
            for kind in config.protocols:
                progress.begin(f"{label}, {kind}, costs")
                answer = _infer(config, network, images[: config.cost_images], kind, config.cost_bits)
                costs.append(cost_row(config, label, network, kind, answer))
                versions = dict(answer.versions)
            for bits in config.fraction_bits:
                progress.begin(f"{label}, aby3, {bits} bits")
                answer = _infer(config, network, images, "aby3", bits)
                of = label, bits
                row, changes[of], apart[of] = compare(label, network, images, answer.logits, test, index)
                bounded = bounds(network, bits, images[: config.bound_images], answer.logits)
                accuracy.append({**row, "bits": bits, **bounded})
    labels = tuple(run.config["variant"]["label"] for run in chosen)
    absent = tuple(name for g, name in enumerate(test.group_names) if g not in np.asarray(test.group)[index])
    return Found(labels, costs, accuracy, changes, apart, chosen, versions, absent)


def _chosen(config: Private) -> list[Run]:
    """Return the analyses of the networks that are asked for, from the most ReLUs to the fewest."""
    every = [run for run in arrays.read(config.study, STUDY) if run.config["stage"] == "analyse"]
    every = [run for run in every if not rebalanced(run)]  # of the same labels, trained on other images
    methods = {run.config["variant"]["method"] for run in every}
    for method in config.methods:
        if method not in methods:
            raise JaxfairError(f"The study has no network of method '{method}'{did_you_mean(method, methods)}")
    seeds = sorted({run.config["seed"] for run in every})
    seed = seeds[0] if config.seed is None else config.seed
    if seed not in seeds:
        raise JaxfairError(f"The study has no seed {seed}, but {', '.join(map(str, seeds))}.")
    found = [r for r in every if r.config["variant"]["method"] in config.methods and r.config["seed"] == seed]
    return sorted(found, key=lambda run: -run.json("result.json")["relu_count"])


def _infer(config: Private, network: Gathered, images: np.ndarray, kind: Protocol, bits: int) -> Answer:
    where = {"environment": config.environment, "timeout": config.timeout}
    answer = protocol.infer(network, images, kind, bits, **where)
    if answer.compared != network.comparisons * len(images):
        raise JaxfairError(
            f"SPU compared {answer.compared:,} numbers where {network.comparisons * len(images):,} ReLUs are kept; its "
            f"compiler is not the one that is understood, make the environment again: {protocol.SETUP}."
        )
    return answer


def cost_row(config: Private, label: str, network: Gathered, kind: str, answer: Answer) -> dict[str, Any]:
    """Return what one inference of a network costs under a protocol."""
    n, relus = len(answer.logits), network.comparisons
    compared, linear, whole = (part.sent / n for part in (answer.comparisons, answer.linear, answer.whole))
    row: dict[str, Any] = {"network": label, "relus": relus, "protocol": kind, "images": n}
    row |= {"comparison_bytes": compared, "linear_bytes": linear, "other_bytes": whole - compared - linear}
    row |= {"bytes": whole, "bytes_a_relu": compared / relus if relus else np.nan}
    row |= {"messages": answer.whole.messages}
    row |= {"comparison_seconds": answer.comparisons.seconds, "linear_seconds": answer.linear.seconds}
    row["seconds"] = answer.seconds
    for net in ("lan", "wan"):
        bandwidth, latency = getattr(config, f"{net}_bandwidth"), getattr(config, f"{net}_latency")
        row[f"{net}_seconds"] = answer.whole.sent / bandwidth + answer.whole.messages * latency
    return row | {"garbled_bytes": relus * GARBLED}


def compare(
    label: str, network: Gathered, images: np.ndarray, logits: np.ndarray, test: Dataset, index: np.ndarray
) -> tuple[dict[str, Any], ChangeReport, list[intervals.Estimate]]:
    """Compare fixed-point logits with those in floating point: all images in a row, by group, and ``contrasts``."""
    before, y = np.asarray(network(images)), np.asarray(test.label)[index]
    flipped = before.argmax(axis=1) != logits.argmax(axis=1)
    hits = [side.argmax(axis=1) == y for side in (before, logits)]
    right = [side.mean() for side in hits]
    row: dict[str, Any] = {"network": label, "relus": network.comparisons, "images": len(y)}
    row |= {"float_accuracy": _share(right[0], len(y)), "accuracy": _share(right[1], len(y))}
    row |= {"flips": int(flipped.sum()), "flipped": _share(flipped.mean(), len(y))}
    row["error"] = float(np.abs(logits - before).max())
    names = np.array(test.group_names)[np.asarray(test.group)[index]]
    report = change_report(before, logits, None, y, names)
    return row, report, contrasts(report, hits, names)


def contrasts(report: ChangeReport, right: Sequence[np.ndarray], group: np.ndarray) -> list[intervals.Estimate]:
    """Return the points and errors of a report's differences, by which those of several networks are judged together.

    Args:
        report: of one network.
        right: where it is right in floating point and in fixed point, each of shape (images,).
        group: names of the images' groups.
    """
    by_group = {name: [side[None, group == name].astype(float) for side in right] for name in report.names}
    return [paired.contrast([by_group[name] for name in (of.group, of.reference)]) for of in report.differences]


def bounds(network: Gathered, bits: int, images: np.ndarray, logits: np.ndarray) -> dict[str, Any]:
    """Return the largest bound on a logit's error, and the largest part of its bound that an error took."""
    if not len(images):
        return {"bound": np.nan, "of_bound": np.nan}
    bound = logit_error(network, images, bits, "aby3")
    error = np.abs(logits[: len(images)] - np.asarray(network(images)))
    return {"bound": float(bound.max()), "of_bound": float((error / bound).max())}


def _share(share: float, count: int) -> Estimate:
    """Return a share with Wilson's interval, in percent."""
    low, high = wilson(np.array([share]), np.array([count]))
    return Estimate(100 * float(share), 100 * float(low[0]), 100 * float(high[0]))


def group_rows(changes: Mapping[tuple[str, int], ChangeReport]) -> list[dict[str, Any]]:
    """Return one row a network, number of bits, and group."""
    found = []
    for (label, bits), report in changes.items():
        for g, name in enumerate(report.names):
            row: dict[str, Any] = {"network": label, "bits": bits, "group": name, "images": int(report.count[g])}
            parts = {"float_accuracy": report.accuracy_before, "accuracy": report.accuracy_after}
            parts |= {"flipped": report.changed, "broken": report.broken, "mended": report.mended}
            row |= {key: Estimate(*(100 * float(ends[g]) for ends in part)) for key, part in parts.items()}
            found.append(row | {"mcnemar": float(report.mcnemar[g])})
    return found


def answer(found: Found) -> str:
    """Say in a few sentences what was found of flips."""
    said = []
    for bits in sorted({row["bits"] for row in found.accuracy}):
        rows = [row for row in found.accuracy if row["bits"] == bits]
        flips, images = (sum(row[name] for row in rows) for name in ("flips", "images"))
        said.append(f"with {bits} fraction bits {flips:,} of {images:,} predictions differ from floating point")
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]} ({_networks(len(found.networks))} of one seed, the same images)."


def _networks(count: int) -> str:
    return f"{count} network{'s' * (count > 1)}"


def differences(found: Found) -> tuple[Difference, ...]:
    """Compare every group with the reference group at the fewest bits, all groups of all networks together.

    Images are all the noise: what is said is of these networks of one seed.
    """
    chosen = [(label, report) for (label, bits), report in found.changes.items() if bits == found.coarsest]
    every = [(label, report, one) for label, report in chosen for one in report.differences]
    estimates = [estimate for label, _ in chosen for estimate in found.contrasts[label, found.coarsest]]
    members, where = [report.names.index(one.group) for _, report, one in every], [label for label, *_ in every]
    lost = [_both(report, report.relative_drop, one) for _, report, one in every]
    return comparisons.compare(members, estimates, lost, 1, where, needed=1)


def _both(report: ChangeReport, measure: paired.Measure, of: paired.Difference) -> tuple[float, float]:
    """Return a measure of the group of a difference, and of the reference group."""
    values = dict(zip(report.names, map(float, measure.value), strict=True))
    return values[of.group], values[of.reference]


def difference_rows(found: Found) -> list[dict[str, Any]]:
    """Return one row a network and group, as ``differences`` orders them."""
    names, reference = _groups(found)
    return [
        {"network": of.where, "bits": found.coarsest, "group": names[of.group], "reference": names[reference]}
        | {"difference_points": of.points, "p_value": of.p_value, "corrected": of.corrected, "lost": of.verdict}
        for of in differences(found)
    ]


def judged(found: Found) -> list[str]:
    """Say in paragraphs which groups of which networks lost more than the reference group at the fewest bits."""
    (names, reference), compared = _groups(found), differences(found)
    said = "There is no second group to compare with."
    if len(names) > 1:
        said = f"No group can be compared with {names[reference]}, the group with the most images."
    if compared:
        said = comparisons.answer(compared, names, reference, 1, f"With {found.coarsest} fraction bits")
    lost = {
        f"{names[g]} on {label}": Estimate(*(float(part[g]) for part in report.accuracy_drop))
        for (label, bits), report in found.changes.items()
        for g in np.flatnonzero(~np.isfinite(report.relative_drop.value))
        if bits == found.coarsest
    }
    lacking = f"None of the images that were drawn is of group {some(found.absent)}; give more by --images."
    return [
        *filter(None, [said, comparisons.in_points(lost, "a network in floating point"), lacking * bool(found.absent)])
    ]


def _groups(found: Found) -> tuple[tuple[str, ...], int]:
    """Return the groups' names, and the number of the reference: of the images, and so the same for all networks."""
    report = next(iter(found.changes.values()))
    return report.names, int(np.argmax(report.count))
