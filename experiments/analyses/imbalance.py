"""Does harm follow the imbalance of the data, or the class? The same networks on data of another imbalance.

Large and small groups are those of the study's own data throughout. If it is the imbalance that makes small groups lose
more, their difference from large ones vanishes when the data are balanced, reverses when the imbalance is swapped, and
grows with it.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from experiments.analyses.page import HARMS
from experiments.analyses.quantities import accuracies, drops, joint_drop, points_lost, whole_accuracy
from experiments.analyses.results import CONTROLS, HARM, Results, Variant
from experiments.analyses.statistics import contrast, group_drops, in_all, lost_by, small_less_large
from experiments.reporting import html, series
from experiments.reporting.tables import Column, Row, Table
from experiments.reporting.verdicts import (
    POINTS,
    RANKED,
    Claim,
    Measured,
    Missing,
    decide,
    rank_correlations,
    small_groups,
    too_small,
)
from jaxfair import judging

DATA = {
    "": "as they are",
    "balanced": "balanced",
    "fivefold": "large groups five times as large",
    "tenfold": "large groups ten times as large",
    "swapped": "imbalance swapped",
}
MEANING = (
    "The same networks, trained on other images of the same data and tested on the same ones. Balanced: every group "
    "has as many training images, and all together are as many as in the study where the smallest group has enough. "
    "Five and ten times as large: each large group has so many times as many as each small one, and all together are "
    "as many as in the study where the groups have enough. "
    "Swapped: few images are kept of large groups and many of small ones. Large and small groups are always those of "
    "the data as they are, and losses are counted from the control that was trained alike. If harm follows the "
    "imbalance and not the class, the difference vanishes when the data are balanced and reverses when they are "
    "swapped. p is that of the difference, and is corrected for the rows of this table (Holm 1979); the findings "
    "correct it for all findings. By how much the difference is less counts the groups that have a drop on both data."
)
COLUMNS = (
    Column("data", "training images"),
    Column("network"),
    Column("images", "images in all"),
    Column("large_images", "of a large group", ".0f"),
    Column("small_images", "of a small group", ".0f"),
    Column("ratio", "large / small", ".3g"),
    Column("accuracy", form=".3f"),
    *HARMS,
    Column("difference_points", "small less large (points)", ".1f"),
    Column("p_value", "p", ".2g"),
    Column("corrected", "p, corrected for this table", ".2g"),
    Column("change_points", "less than as they are by (points)", ".1f"),
)
BY_GROUP = (
    Column("data", "training images"),
    Column("network"),
    Column("group"),
    Column("images", "of the group", ".0f"),
    Column("control_accuracy", "accuracy of the control", ".3f"),
    Column("accuracy", form=".3f"),
    Column("lost_points", "lost (points of accuracy)", ".1f"),
    Column(HARM, "drop from the control (%)", ".1f"),
)


def on_data(results: Results, kind: str) -> Results:
    """Return the results on data of another imbalance, with the groups that are large and small in the study's own.

    Raises:
        Missing: nothing was trained on such data, or not the same seeds.
    """
    if kind not in results.rebalanced:
        raise Missing(f"no network was trained on such data; give --data-controls {kind}")
    other = results.rebalanced[kind]
    if other.variants[0].seeds != results.variants[0].seeds:
        raise Missing(f"the networks of --data-controls {kind} are of other seeds")
    return other._replace(groups=results.groups)


def same(results: Results, network: Variant) -> Variant:
    """Return the network of the same label in other results; ``Missing`` if there is none."""
    found = [other for other in results.variants if other.label == network.label]
    if not found:
        raise Missing(f"{network.label} was not trained on these data")
    if (found[0].control is None) != (network.control is None):
        raise Missing(f"the control of {network.label} is there on some of the data alone")
    return found[0]


def difference(results: Results, kind: str, network: Variant) -> Measured:
    """Return how much more small groups lost than large ones when a network is trained on such data, in points."""
    other = on_data(results, kind)
    return lost_by(other, same(other, network), "small")


def change(results: Results, kind: str, network: Variant) -> Measured:
    """Return by how much that difference is smaller than on the data as they are, in points, on the same images."""
    other = on_data(results, kind)
    theirs = same(other, network)
    theirs = theirs._replace(control=theirs.control or other.variants[0])
    weights = small_less_large(results, network, theirs)
    return contrast(results, (network, weights), (theirs, -weights))


def rows(results: Results) -> list[dict[str, Any]]:
    """Return one row an imbalance and changed network that is on several: training images and what was lost.

    The p-values of the differences are corrected by Holm (1979) for the number of rows.
    """
    found = [_row(results, network, kind, count) for network, kind, count in _compared(results)]
    corrected = judging.holm(np.array([row["p_value"] for row in found]))
    return [row | {"corrected": float(p)} for row, p in zip(found, corrected, strict=True)]


def _compared(results: Results) -> Iterator[tuple[Variant, str, np.ndarray]]:
    """Yield every changed network that is on several data, each of these, and their groups' training images."""
    compared = {
        v.label for other in results.rebalanced.values() for v in other.variants[1:] if v.method not in CONTROLS
    }
    for network in (v for v in results.variants[1:] if v.label in compared):
        for kind, count in _train_counts(results).items():
            yield network, kind, count


def _train_counts(results: Results) -> dict[str, np.ndarray]:
    """Return the groups' training images in each kind of data, first those of the data as they are."""
    return {kind: of.groups.train_count for kind, of in {"": results, **results.rebalanced}.items()}


def _there(results: Results, kind: str, network: Variant) -> tuple[Results, Variant]:
    """Return the results on such data, and the network in them; ``Missing`` if it was not trained on them."""
    on = on_data(results, kind) if kind else results
    return on, same(on, network)


def group_rows(results: Results) -> list[dict[str, Any]]:
    """Return one row an imbalance, network and group, of the networks of ``rows``: what each group lost where."""
    found = []
    for network, kind, counts in _compared(results):
        try:
            on, own = _there(results, kind, network)
        except Missing:
            continue
        before = own.control or on.variants[0]
        had, has, drop = accuracies(on, before), accuracies(on, own), drops(on, own, controlled=True)
        for g in results.groups.order:
            of: dict[str, Any] = {"data": DATA[kind], "network": own.label, "group": results.groups.names[g]}
            of |= {"images": int(counts[g]), "seeds": len(own.seeds), "control_accuracy": had.at(g)}
            found.append(of | {"accuracy": has.at(g), "lost_points": points_lost(on, own, g), HARM: drop.at(g)})
    return found


# fmt: off
def claims(
    results: Results, network: Callable[[Results], tuple[Variant, str]], where: str, of: str = ""
) -> list[Claim]:
    """Decide whether harm follows the imbalance.

    Args:
        results: of the study.
        network: returns the changed network that is looked at, and what it is called; may raise ``Missing``.
        where: which network that is, in words.
        of: what follows the names of the findings.
    """
    judge = partial(decide, results)
    return [
        judge(f"balanced_lose_alike{of}",
              f"With balanced training images these groups lose as much as the others {where}",
              "relative drop of small - of large groups, balanced data, percentage points", _elsewhere, network,
              difference, "balanced", side="within", threshold=POINTS),
        judge(f"imbalance_matters{of}",
              f"They lose more, compared with the others, as the data are than balanced {where}",
              "relative drop of small - of large groups, data as they are - balanced, points", _elsewhere, network,
              change, "balanced", floor=POINTS),
        judge(f"harm_reverses{of}", f"With the imbalance swapped it is the others that lose more {where}",
              "relative drop of small - of large groups, imbalance swapped, percentage points", _elsewhere, network,
              difference, "swapped", side="below", floor=POINTS),
        judge(f"harm_grows_with_imbalance{of}", f"They lose more the more the large groups outnumber them {where}",
              "Spearman correlation over data of large / small groups' training images with the relative drop of small "
              "- of large groups", _by_imbalance, network),
    ]
# fmt: on


def _elsewhere(
    results: Results, network: Callable[[Results], tuple[Variant, str]], measure: Callable[..., Measured], kind: str
) -> tuple[Measured, str]:
    """Compare small with large groups where a network was trained on data of another imbalance."""
    of, called = network(results)
    return measure(results, kind, of), called


def _by_imbalance(results: Results, network: Callable[[Results], tuple[Variant, str]]) -> tuple[Measured, str, str]:
    """Rank the difference of what small and large groups lost by how many times as many images large groups have."""
    own, called = network(results)
    small, found, ratios = small_groups(results.groups), [], []
    for kind, count in _train_counts(results).items():
        try:
            found.append(_there(results, kind, own)[1])
        except Missing:  # on these data; the others may be enough
            continue
        ratios.append(_outnumber(results, count))
    if len(found) < RANKED:
        raise Missing(f"it takes {RANKED} kinds of data to rank; give --data-controls balanced fivefold tenfold")
    small, large = small & in_all(found), results.groups.large & in_all(found)
    apart = [group_drops(v, small).mean(axis=1) - group_drops(v, large).mean(axis=1) for v in found]
    x, y = np.array([ratios] * len(apart[0])), np.stack(apart, axis=1)
    ranked, note = rank_correlations(x, y, "data", shared=results.splits == 1)
    ends = apart[int(np.argmax(ratios))] - apart[int(np.argmin(ratios))]
    told = "large groups have " + ", ".join(f"{ratio:.3g}" for ratio in sorted(ratios))
    told += " times as many training images as small ones"
    return ranked._replace(small=too_small(ends, POINTS, "points")), note, f"{called}; {told}"


def _outnumber(results: Results, train_count: np.ndarray) -> float:
    """Return how many times as many training images the large groups have as the small ones, on average."""
    large = results.groups.large
    return np.nan if large.all() else float(train_count[large].mean() / train_count[~large].mean())


def section(rows: Sequence[Row], by_group: Sequence[Row]) -> list[str]:
    """Return the section of a report; nothing if nothing was made on other data."""
    if not rows:
        return []
    tables = [html.table(Table(COLUMNS, rows)), html.table(Table(BY_GROUP, by_group))]
    return [html.heading("Does harm follow the imbalance?"), html.paragraph(MEANING), *tables]


def _row(results: Results, network: Variant, kind: str, train_count: np.ndarray) -> dict[str, Any]:
    large, small = np.flatnonzero(results.groups.large), np.flatnonzero(~results.groups.large)
    row: dict[str, Any] = {"data": DATA[kind], "network": network.label, "seeds": len(network.seeds)}
    row |= {"images": int(train_count.sum()), "large_images": float(train_count[large].mean())}
    row |= {"small_images": float(train_count[small].mean()) if len(small) else np.nan}
    row |= {"ratio": _outnumber(results, train_count)}
    unknown = ("accuracy", "large_harm_percent", "small_harm_percent", "difference_points")
    row |= dict.fromkeys(unknown, series.UNKNOWN)
    row |= {"p_value": np.nan, "corrected": np.nan, "change_points": series.UNKNOWN}  # p-values beside their own
    try:
        on, own = _there(results, kind, network)
        row["accuracy"] = whole_accuracy(own)
        row["large_harm_percent"] = joint_drop(on, own, large, controlled=True)
        row["small_harm_percent"] = joint_drop(on, own, small, controlled=True)
        found = lost_by(on, own, "small").mean
        row |= {"difference_points": series.of(found), "p_value": float(found.p_value())}
        row |= {"change_points": series.of(change(results, kind, network).mean)} if kind else {}
    except Missing:
        pass
    return row
