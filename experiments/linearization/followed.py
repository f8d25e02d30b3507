"""Groups through a long fine-tuning, linearized and with all ReLUs: is harm linearization's, or early stopping's?"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from experiments.analyses import page, quantities
from experiments.analyses.results import DROP, HARM, Followed, Results, Variant, declared_control
from experiments.analyses.statistics import lost_by
from experiments.reporting import html, series
from experiments.reporting.tables import Column, Row, Table
from experiments.reporting.verdicts import Missing
from jaxfair.groups import relative_drop
from jaxfair.intervals import has_drop

HEAD = "Is it linearization, or training that ends early?"
MEANING = (
    "One long fine-tuning of each network, looked at on the way. Drops are counted from the control, fine-tuned as "
    "long: what is linearization's stays as fine-tuning goes on, and what is that of stopping early fades. The rate of "
    "learning is that of the whole, so that a shorter fine-tuning ends elsewhere than this one after as many epochs."
)
COLUMNS = (
    Column("network"),
    Column("epochs", "epochs of fine-tuning"),
    *page.RIGHT,
    *page.HARMS,
    Column("difference_points", "small less large (points)", ".1f"),
)
BY_GROUP = (
    Column("network"),
    Column("epochs", "epochs of fine-tuning"),
    Column("group"),
    Column("train_accuracy", "training accuracy", ".3f"),
    Column("accuracy", form=".3f"),
    Column(HARM, "drop from the control (%)", ".1f"),
)


def networks(results: Results) -> Iterator[tuple[int, Variant]]:
    """Yield every network that was followed after each number of epochs; its control was fine-tuned as long."""
    by_label = {of.label: of for of in results.followed}
    for of in results.followed:
        control = by_label.get(declared_control({"label": of.label, "method": of.method}))
        for i, epochs in enumerate(of.epochs):
            own = _after(results, of, i)
            yield int(epochs), own._replace(control=None if control is None else _after(results, control, i))


def _after(results: Results, of: Followed, point: int) -> Variant:
    """Return a followed network at one of its points, as far as its predictions go."""
    full, correct = results.variants[0], of.correct[point]
    groups = range(len(results.groups.names))
    right = np.stack([np.nanmean(correct[:, results.group == g], axis=1) for g in groups], axis=1)
    before = full.by_group["accuracy"]
    own = {name: full.by_group[name] for name in ("train_count", "test_count")}
    own |= {"accuracy": right, "train_accuracy": of.train_accuracy[point]}
    own[DROP] = np.where(has_drop(before, own["test_count"]), relative_drop(before, right), np.nan)
    about = {"label": of.label, "method": of.method}
    return full._replace(**about, correct=correct, accuracy=np.nanmean(correct, axis=1), by_group=own, about=about)


def rows(results: Results) -> list[dict[str, Any]]:
    """Return one row a network and number of epochs: accuracies, and what large and small groups lost."""
    found = []
    for epochs, own in networks(results):
        row: dict[str, Any] = {"network": own.label, "epochs": epochs, "seeds": len(own.seeds)}
        row |= quantities.right_by_size(results, own) | quantities.harm_by_size(results, own)
        row["difference_points"] = series.UNKNOWN if own.control is None else _difference(results, own)
        found.append(row)
    return found


def _difference(results: Results, network: Variant) -> series.Estimate:
    try:
        return series.of(lost_by(results, network, "small").mean)
    except Missing:
        return series.UNKNOWN


def group_rows(results: Results) -> list[dict[str, Any]]:
    """Return one row a network, number of epochs and group."""
    found = []
    for epochs, own in networks(results):
        count = own.by_group["train_count"].min(axis=0)
        learnt, right = series.shares(own.by_group["train_accuracy"], count), quantities.accuracies(results, own)
        drop = None if own.control is None else quantities.drops(results, own, controlled=True)
        for g in results.groups.order:
            row: dict[str, Any] = {"network": own.label, "epochs": epochs, "group": results.groups.names[g]}
            row |= {"seeds": len(own.seeds), "train_accuracy": learnt.at(g), "accuracy": right.at(g)}
            found.append(row | {HARM: series.UNKNOWN if drop is None else drop.at(g)})
    return found


def section(rows: Sequence[Row], by_group: Sequence[Row]) -> list[str]:
    """Return the section of a report; nothing if no fine-tuning was followed."""
    if not rows:
        return []
    each = html.folded("Each group", html.table(Table(BY_GROUP, by_group)))
    return [html.heading(HEAD), html.paragraph(MEANING), html.table(Table(COLUMNS, rows)), each]
