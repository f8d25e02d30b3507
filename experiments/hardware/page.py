"""The page of a hardware study's report: what stands on it, in which order, and what each number means."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.hardware import differences
from experiments.hardware.results import Hardware
from experiments.reporting import html, reports, sampling
from experiments.reporting.comparisons import MEANING, one_class
from experiments.reporting.drawing import Drawn
from experiments.reporting.tables import Column, Row, Table
from experiments.reporting.verdicts import Claim
from jaxfair.judging import LEVEL

TITLE = "Hardware: does the machine change who the model fails, beyond noise?"
LOST = (
    "A group's relative accuracy drop is the share of the accuracy on the reference hardware that it loses on another "
    "one, in percent. What it loses beyond the reference group is in points of that. p is the probability of a "
    "difference as large if there were none; corrected is p for the number of groups and profiles (Holm 1979)."
)
PROFILED = (
    "A profile is the arithmetic of a training: native, as a machine has it, or emulated, with rounded operands of "
    "every product. Controls train on the reference hardware again: with nothing changed; with one weight of every "
    "array changed by one ulp, the unit in its last place; with another order of the data; in batches twice as large, "
    "at twice the learning rate."
)
VIOLATION = (
    "Delta of a group is the largest change of its mean test loss from the reference to any other run, in nats; xi, "
    "the fairness violation, is the range of Delta over the groups (of two runs: where there is one other run alone); "
    "rho is the largest L2 distance of another run's parameters from the reference's."
)
BOUNDED = (
    "Theorem 4.1 bounds Delta by the gradient term, gradient norm times rho, plus the eigenvalue term, half of the "
    "largest Hessian eigenvalue times rho squared; tightness is Delta / bound."
)
SPREADS = (
    "Spread is the mean over seeds of |profile - reference|, excess the same less the controls'; p is the share of "
    "arrangements of labels among runs that give at least this excess."
)
OF_TABLES = {"profiles": PROFILED, "trainings": VIOLATION}
"""What is said of tables that are published by themselves."""
FEW_ULPS = 2
BY_TRAINING = ("groups", "spread")

PROFILES = (
    Column("hardware"),
    Column("role"),
    Column("accuracy", form=".3f"),
    Column("largest_loss_difference", "largest |loss difference| of a group (nats)"),
    Column("distance", "distance of parameters"),
    Column("same_bits", "same bits as the reference"),
    Column("as_far_as_ulps_from_step", "as far as one-ulp controls from step"),
)
TRAININGS = (
    Column("training"),
    Column("profiles"),
    Column("ulps", "one-ulp controls"),
    Column("accuracy", form=".3f"),
    Column("rho"),
    Column("xi_profiles", "xi, profiles"),
    Column("xi_ulps", "xi, controls"),
    Column("pair_xi_native", "xi of two runs, native"),
    Column("pair_xi_emulated", "xi of two runs, emulated"),
    Column("pair_xi_ulps", "xi of two runs, controls"),
)
GROUPS = (
    Column("group"),
    Column("train_count", "training images"),
    Column("test_count", "test images"),
    Column("accuracy", form=".3f"),
    Column("loss"),
    Column("delta", "Delta"),
    Column("delta_native", "Delta, native"),
    Column("delta_emulated", "Delta, emulated"),
    Column("delta_ulps", "Delta, one-ulp controls"),
)
BOUND = (
    Column("group"),
    Column("gradient_norm"),
    Column("gradient_norm_corrected", "gradient norm without its sampling part"),
    Column("top_eigenvalue", "largest Hessian eigenvalue"),
    Column("top_eigenvalue_equal_count", "the same at equal counts"),
    Column("gradient_term"),
    Column("eigenvalue_term"),
    Column("bound"),
    Column("delta", "Delta"),
    Column("bound_holds", "share of seeds where the bound holds"),
    Column("tightness"),
)
DIFFERENCES = (
    Column("hardware"),
    Column("group"),
    Column("difference_points", "relative drop minus that of the reference (points)", ".1f"),
    Column("p_value", "p", ".2g"),
    Column("corrected", "p, corrected", ".2g"),
    Column("lost", "loses, compared with the reference"),
)
SPREAD = (
    Column("quantity"),
    Column("hardware"),
    Column("group"),
    Column("spread"),
    Column("control", "controls'"),
    Column("excess"),
    Column("p_value", "p"),
    Column("family_p_value", "p (groups)"),
    Column("corrected", "p (groups and profiles)"),
    Column("smallest_p_value", "smallest possible p"),
)

MEANINGS = {
    "Drop minus that of the reference": MEANING,
    "Profile": "the arithmetic of a training: (native) is what a machine has, (emulated) rounds the operands of every "
    "product. All begin with the same bits and see the data in the same order; the first is the reference.",
    "Controls": "trainings on the reference again: repeated; from weights of which one in every array is changed by "
    "one unit in the last place (ulp), so that what follows is what one rounding error does; with another data order; "
    "in batches twice as large, at twice the learning rate.",
    "Loss": "mean cross-entropy of the group's TEST images, in nats, on each profile's own arithmetic. All "
    "differences, Delta and xi are of it, or of the test accuracy where that is said.",
    "Delta": "largest |difference| of the group's loss on the reference from that on any of the others (Nelaturu et "
    "al. 2024). It grows with their number: do not compare it between sets of different size.",
    "xi": "range of Delta over the groups. Between two runs: the mean of xi of the reference and one other alone, "
    "which does not grow with their number, and by which profiles are compared with controls.",
    "rho": "largest L2 distance of a profile's parameters from the reference's. Permuted networks, which compute the "
    "same, count as far apart.",
    "Bound": "Theorem 4.1 at the reference, with Delta and rho over all profiles: gradient norm times rho, plus half "
    "the largest Hessian eigenvalue (with its residual) times rho squared. Tightness is Delta / bound.",
    **sampling.MEANINGS,
    "As far as one-ulp controls from step": "from there on the median over seeds of the parameters' distance from the "
    "reference stays within the range of all one-ulp controls. What hardware does is seen before it. The last step is "
    "the last that was recorded.",
    "Spread, excess, p-value": "mean over seeds of |profile - reference|; the same less the controls'; share of "
    "arrangements of labels among runs that give at least this excess; p (groups) is corrected for the number of "
    "groups, p (groups and profiles) for that of the profiles too. The opening sentences are by the latter.",
    "Intervals": "Student's t, 95 %, of the mean over training seeds, which share one split; those of accuracies and "
    "of relative drops over the test images too. All else is said of these images.",
}


def warnings(hardware: Hardware) -> list[str]:
    """Return a sentence for each thing that a reader of the numbers must know, the gravest first."""
    plain, found = hardware.comparisons[0], []
    for series in plain.others:
        if series.control == "repeat" and not series.same_bits.all():
            seeds = ", ".join(map(str, np.flatnonzero(~series.same_bits)))
            found.append(
                f"NOT REPEATABLE: the same training on {plain.reference.label} ended in other bits when it was "
                f"repeated (seed {seeds}): whatever made that difference is in every difference between profiles, too."
            )
    if not any(series.control == "repeat" for series in plain.others):
        found.append("Nothing was repeated, so it is not known whether the reference is repeatable.")
    found += hardware.differences
    if len(plain.ulps) < FEW_ULPS:
        found.append(f"One-ulp controls: {len(plain.ulps)}; what rounding does is badly known from fewer than 2.")
    elif (smallest := (len(plain.ulps) + 1.0) ** -len(plain.reference.accuracy)) > LEVEL:
        found.append(f"No p-value can be below {smallest:.2g} with so few seeds and controls.")
    for comparison in hardware.comparisons:
        alone = {f"{series.label}, {comparison.title}": series.one_class for series in comparison.every}
        found += one_class(alone, range(len(comparison.reference.one_class)))
    found += hardware.groups.warnings()
    for series in plain.profiles:
        if series.same_bits.all():
            found.append(f"{series.label} ended in the reference's bits: for this training it is no other hardware.")
    for comparison in hardware.comparisons:
        if not comparison.reference.by_group.get("top_eigenvalue_converged", np.ones(1)).all():
            found.append(f"Some eigenvalues did not converge ({comparison.title}): the bound may be too small.")
    return found


def title(hardware: Hardware) -> str:
    """Return the heading of a report: the study's question, and what the data are called where runs say it."""
    trained = hardware.comparisons[0].reference.trained
    source = trained[0].json("environment.json").get("data_source", {}) if trained else {}
    return f"{TITLE} ({source['title']})" if source.get("title") else TITLE


def profile_table(rows: Sequence[Row], training: str | None = None) -> Table:
    """Return ``tables.profile_rows`` as readers see them, or those of one training alone, which need not name it."""
    columns = PROFILES if training else (Column("training"), *PROFILES)
    mine = [row for row in rows if training in (None, row["training"])]
    bits = [f"{row['same_bits_seeds']} of {row['seeds']}" if row["role"] != "reference" else "" for row in mine]
    return Table(columns, [{**row, "same_bits": said} for row, said in zip(mine, bits, strict=True)])


def page(
    hardware: Hardware,
    drawn: Sequence[Drawn],
    rows: Mapping[str, Sequence[Row]],
    found: Sequence[Claim],
    title: str,
    command: Sequence[str],
) -> str:
    """Return the report as one HTML page that loads nothing.

    Args:
        hardware: of the study.
        drawn: its figures.
        rows: its tables by name: differences, profiles, trainings, groups and spread, of ``hardware.tables``.
        found: its claims.
        title: heading.
        command: what the reader types to make it again.
    """
    parts = [html.answer(differences.whole_answer(hardware))]
    parts += [html.paragraph(introduction(hardware)), *map(html.warning, warnings(hardware))]
    # The figure before what it means: on a small screen the reader would see text alone.
    parts += [html.heading("Who loses more than whom on other hardware"), html.figures(drawn[:1])]
    parts += [html.paragraph(LOST)]
    if compared := rows["differences"]:
        against = f"All differences: against {compared[0]['reference']}"
        parts.append(html.folded(against, html.table(Table(DIFFERENCES, compared))))
    parts += [html.heading("Profiles and controls"), html.paragraph(PROFILED)]
    only = hardware.comparisons[0].title if len(hardware.comparisons) == 1 else None
    parts += [html.table(profile_table(rows["profiles"], only)), html.heading("Fairness violation")]
    parts += [html.paragraph(VIOLATION), html.table(Table(TRAININGS, rows["trainings"]))]
    parts += [html.heading("Findings"), html.findings(found), html.heading("Figures"), html.figures(drawn[1:])]
    for comparison in hardware.comparisons:
        mine = {name: [row for row in rows[name] if row["training"] == comparison.title] for name in BY_TRAINING}
        parts += [html.heading(f"Groups: {comparison.title}"), html.table(Table(GROUPS, mine["groups"]))]
        bound = html.paragraph(BOUNDED), html.table(Table(BOUND, mine["groups"]))
        parts.append(html.folded("Gradients, curvature and the bound of Theorem 4.1", *bound))
        tests = "Spread of each profile and group against the one-ulp controls'"
        spread = html.paragraph(SPREADS), html.table(Table(SPREAD, mine["spread"]))
        parts += [html.folded(tests, *spread)] if mine["spread"] else []
    parts.append(html.meanings(MEANINGS, parts))
    return html.page(title, [*parts, html.provenance(_facts(hardware, command))])


def introduction(hardware: Hardware) -> str:
    """Say of how many seeds, which profiles and which reference group a report is, and what its intervals are over."""
    plain, groups = hardware.comparisons[0], hardware.groups
    seeds, profiles, ulps = len(plain.reference.accuracy), len(plain.profiles), len(plain.ulps)
    return (
        f"{seeds} seed{'s' * (seeds > 1)}, {len(groups.names)} group{'s' * (len(groups.names) > 1)}, "
        f"{groups.train_count.sum():,} training and {groups.test_count.sum():,} test images; "
        f"{profiles} profile{'s' * (profiles != 1)} beside the reference {plain.reference.label}, "
        f"{ulps} control{'s' * (ulps != 1)} in which one rounding error is made. The reference group "
        f"is {groups.names[hardware.reference]}. {intervals_sentence(seeds)}"
    )


def intervals_sentence(seeds: int) -> str:
    """Say what the intervals of a study's tables are over."""
    if seeds == 1:
        return "In brackets: 95 % intervals of accuracies and drops, over test images; all else of one seed has none."
    return "In brackets: 95 % intervals over seeds, those of accuracies and drops over test images too."


def _facts(hardware: Hardware, command: Sequence[str]) -> dict[str, Any]:
    """Return what made each profile's networks; nothing is known of results without runs."""
    plain, facts = hardware.comparisons[0], dict[str, Any]({"made by": reports.typed(command)})
    for series in (plain.reference, *plain.profiles):
        if series.trained:
            last = series.trained[-1].json("environment.json")
            own = {name: last.get(name) for name in ("driver", "probe")}
            own["xla_flags"] = " ".join(reports.without_places(str(last.get("xla_flags") or "").split()))
            facts[series.label] = {
                **reports.provenance(series.trained),
                **own,
                "trained runs": [run.path.name for run in series.trained],
            }
    if trained := plain.reference.trained:
        facts |= {key: trained[0].config[key] for key in ("data", "model", "train")}
    return facts
