"""The page of a comparison: who lost more than whom, figures, tables, and what each number means."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from experiments.reporting import drawing, html
from experiments.reporting.drawing import Drawing, Drawn
from experiments.reporting.groups import PARAGRAPH
from experiments.reporting.series import Estimate
from experiments.reporting.tables import Column, Row, Table
from experiments.reporting.verdicts import Missing
from jaxfair.change import ChangeReport
from jaxfair.intervals import FEW
from jaxfair.judging import SEEDS
from jaxfair.paired import Difference, Measure
from jaxfair.words import cut, written

GROUPS = (
    Column("group"),
    Column("count", "examples"),
    Column("accuracy_before", "accuracy before", ".3f"),
    Column("accuracy_after", "accuracy after", ".3f"),
    Column("relative_drop", "relative drop (%)", ".1f"),
    Column("accuracy_drop", "accuracy lost (points)", ".1f"),
    Column("broken", "right, then wrong", ".3f"),
    Column("mended", "wrong, then right", ".3f"),
    Column("changed", "prediction changed", ".3f"),
    Column("exemplars", "most frequent prediction changed", ".3f"),
    Column("mcnemar", "McNemar's p", ".2g"),
    Column("loss_before", "loss before", ".3f"),
    Column("loss_after", "loss after", ".3f"),
    Column("loss_rise", "rise of the loss", ".3f"),
)
DIFFERENCES = (
    Column("group"),
    Column("points", "relative drop minus that of the reference (points)", ".1f"),
    Column("p_value", "p", ".2g"),
    Column("corrected", "p, corrected", ".2g"),
    Column("verdict", "lost, compared with the reference"),
)
MEASURES = [column.name for column in GROUPS if column.name not in ("group", "count", "mcnemar")]
MEANINGS = {
    "Accuracy": "share of the group's examples that are classified correctly. Wilson's interval for one run; over runs "
    "and examples together for several.",
    "Relative drop": "(accuracy before - accuracy after) / accuracy before, in percent; negative is an improvement. "
    "Its interval allows for the pairs: the same examples are asked before and after.",
    "Accuracy lost (points)": "accuracy before - accuracy after, in percentage points.",
    "Relative drop minus that of the reference": "in percentage points. Its interval is wider than 95 %, so that those "
    "of all groups compared hold at once (Bonferroni); p is that of the test that the difference is 0, corrected by "
    "Holm (1979) for their number. More or less: the interval is wholly on that side of 0, and the corrected p is "
    "below 5 %.",
    "Right, then wrong; wrong, then right; prediction changed": "shares of the group's examples whose "
    "answers flipped, which an unchanged accuracy can hide.",
    "Most frequent prediction changed": "compression-identified exemplars: examples on which the most frequent "
    "predictions of the runs before and after differ (Hooker et al. 2019); its interval is over examples alone.",
    "McNemar's p": "exact, two-sided: how probable so unequal numbers of both kinds of flips are if both are equally "
    "likely; of each group for itself.",
    "Loss": "mean cross-entropy in nats, from logits or from the logarithms of probabilities. A group of fewer than "
    f"{FEW} examples has no interval of it.",
}


def group_rows(report: ChangeReport) -> list[Row]:
    """Return one row a group: what ``report.json`` has, which a table of it has under the same names."""
    measures = {name: getattr(report, name) for name in MEASURES}
    found: list[Row] = []
    for g, name in enumerate(report.names):
        row: dict[str, Any] = {"group": name, "count": int(report.count[g]), "mcnemar": float(report.mcnemar[g])}
        for key, measure in measures.items():
            row[key] = _at(measure, g)
        found.append(row)
    return found


def _at(measure: Measure | None, g: int, factor: float = 1) -> Estimate:
    if measure is None:
        return Estimate(np.nan, np.nan, np.nan)
    return Estimate(*(factor * float(part[g]) for part in measure))


def difference_rows(report: ChangeReport) -> list[Row]:
    """Return one row a group other than the reference, from the one that lost most."""
    kept = [name for name in Difference._fields if name not in ("low", "high")]  # which "points" has
    return [{n: getattr(of, n) for n in kept} | {"points": _points(of)} for of in report.differences]


def _points(found: Difference) -> Estimate:
    return Estimate(found.points, found.low, found.high)


def _named(report: ChangeReport) -> list[str]:
    """Return the groups' names in lines, with their numbers of examples, as figures have them."""
    named = (f"{name} ({count:,})" for name, count in zip(cut(report.names, PARAGRAPH), report.count, strict=True))
    return ["\n".join(textwrap.wrap(name, 28)) for name in named]


def _beyond(report: ChangeReport) -> dict[str, bool]:
    return {found.group: found.verdict in ("more", "less") for found in report.differences}


def draw_drops(report: ChangeReport) -> Any:
    """Draw each group's relative drop, from the one that lost most."""
    drop, named, beyond = report.relative_drop, _named(report), _beyond(report)
    known = [int(g) for g in np.argsort(-drop.value, kind="stable") if np.isfinite(drop.value[g])]
    if not known:
        raise Missing("every group was right too seldom before the change for a relative drop.")
    rows = [(named[g], _at(drop, g), beyond.get(report.names[g], False)) for g in known]
    return drawing.caterpillars({"": rows}, "relative accuracy drop (%)")


def draw_differences(report: ChangeReport) -> Any:
    """Draw what each group lost beyond the reference."""
    if not report.differences:
        raise Missing("there is no second group to compare with.")
    names, beyond = dict(zip(report.names, _named(report), strict=True)), _beyond(report)
    rows = [(names[found.group], _points(found), beyond[found.group]) for found in report.differences]
    return drawing.caterpillars({"": rows}, f"relative drop minus that of {report.differences[0].reference} (points)")


def draw_flips(report: ChangeReport) -> Any:
    """Draw the shares of examples that broke, that mended, and whose prediction changed."""
    order, named = np.argsort(-report.broken.value, kind="stable"), _named(report)
    titles = {"broken": "right, then wrong", "mended": "wrong, then right", "changed": "prediction changed"}
    parts = {
        title: [(named[g], _at(getattr(report, name), g, 100), False) for g in map(int, order)]
        for name, title in titles.items()
    }
    return drawing.caterpillars(parts, "share of the group's examples (%)")


def draw_losses(report: ChangeReport) -> Any:
    """Draw the rise of each group's loss."""
    rise, named = report.loss_rise, _named(report)
    if not np.isfinite(rise.value).any():
        raise Missing("a side has predicted classes, which have no loss.")
    order = map(int, np.argsort(-rise.value, kind="stable"))
    enough = report.runs == 1 or report.runs >= SEEDS
    rows = [(named[g], _at(rise, g), enough and bool(rise.low[g] > 0 or rise.high[g] < 0)) for g in order]
    return drawing.caterpillars({"": rows}, "rise of the mean loss (nats)")


ALL = "Bars: intervals that hold for all groups at once with 95 %. Black: beyond noise."
EACH = "Bars: 95 % intervals, of each group for itself."
DRAWINGS = {
    "differences": Drawing("What each group lost beyond the reference", ALL, draw_differences),
    "drop_by_group": Drawing("Relative accuracy drop of each group", f"{EACH} Black: lost more or less than the "
                             "reference, beyond noise.", draw_drops),
    "flips": Drawing("Predictions that flipped", EACH, draw_flips),
    "losses": Drawing("Rise of each group's loss", f"{EACH} Black: they do not hold 0; of two to four runs none is "
                      f"judged. Groups of fewer than {FEW} examples have none.", draw_losses),
}  # fmt: skip


def page(
    report: ChangeReport,
    title: str,
    about: str,
    warnings: Sequence[str],
    drawn: Sequence[Drawn],
    facts: Mapping[str, Any],
) -> str:
    """Return the comparison as one HTML page that loads nothing.

    Args:
        report: of the two sides.
        title: heading.
        about: what was compared, a few sentences.
        warnings: what a reader of the numbers must know.
        drawn: the figures, in the order of ``DRAWINGS``.
        facts: how it was made, as JSON can hold it.
    """
    differing, drops, flips, losses = drawn
    parts = [html.answer(report.answer()), html.paragraph(about), *map(html.warning, warnings)]
    parts += [html.heading("Who lost more than whom"), html.figures([differing, drops])]
    if report.differences:
        parts += [html.table(Table(DIFFERENCES, difference_rows(report))), html.paragraph(gap_sentence(report))]
    parts += [html.heading("Groups"), html.table(Table(GROUPS, group_rows(report)))]
    parts += [html.heading("Flips and losses"), html.figures([flips, losses])]
    parts.append(html.meanings(MEANINGS, parts))
    made = html.folded("Command, files and versions", f"<pre>{escape(json.dumps(facts, indent=1))}</pre>")
    return html.page(title, [*parts, html.heading("How this was made"), made])


def gap_sentence(report: ChangeReport) -> str:
    """Say which two groups are farthest apart, with an interval that allows for their having been picked."""
    gap = report.gap
    if gap is None:
        return ""
    noise = "beyond noise" if gap.verdict in ("more", "less") else gap.verdict
    points, *ends = map(written, (gap.points, gap.low, gap.high))
    at_once = f"{' to '.join(ends)}, for all pairs of groups at once"
    return f"Farthest apart are {gap.group} and {gap.reference}: {points} points ({at_once}; {noise})."
