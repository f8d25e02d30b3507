"""The page of a report: what stands on it, in which order, and what each number means."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.analyses import differences, quantities
from experiments.analyses.results import HARM, Results, Variant
from experiments.reporting import html, reports, sampling
from experiments.reporting.comparisons import MEANING, PICKED, SELDOM, one_class
from experiments.reporting.drawing import Drawn
from experiments.reporting.groups import some
from experiments.reporting.tables import Column, Row, Table
from experiments.reporting.verdicts import Claim
from experiments.running.records import rebalanced
from jaxfair.data.sources import OWN
from jaxfair.intervals import FEW
from jaxfair.runs import Run
from jaxfair.words import cut

GROUPS = (
    Column("group"),
    Column("train_count", "training images"),
    Column("test_count", "test images"),
    Column("train_accuracy", "training accuracy", ".3f"),
    Column("validation_accuracy", "validation accuracy", ".3f"),
    Column("accuracy", form=".3f"),
    Column("relative_drop_percent", "relative drop (%)", ".1f"),
    Column(HARM, "drop from the control (%)", ".1f"),
    Column("loss", form=".3f"),
    Column("gradient_norm", form=".2f"),
    Column("gradient_norm_corrected", "gradient norm without its sampling part", ".2f"),
    Column("top_eigenvalue", "largest Hessian eigenvalue", ".1f"),
    Column("top_eigenvalue_equal_count", "the same at equal counts", ".1f"),
    Column("softmax_gap", "distance to the boundary", ".3f"),
    Column("linearized_distance", "linearised distance", ".3f"),
    Column("top_eigenvalue_residual_max", "worst residual", ".2g"),
)
RIGHT = (Column("accuracy", form=".3f"), Column("large_groups", form=".3f"), Column("small_groups", form=".3f"))
HARMS = (
    Column("large_harm_percent", "drop from the control, large groups (%)", ".1f"),
    Column("small_harm_percent", "drop from the control, small groups (%)", ".1f"),
)
ACCURACIES = (
    *RIGHT,
    Column("large_drop_percent", "relative drop, large groups (%)", ".1f"),
    Column("small_drop_percent", "relative drop, small groups (%)", ".1f"),
    *HARMS,
    Column("without_a_drop", "left out of the drops, as they have none"),
    Column("parameter_distance", form=".2f"),
)
"""Of a study's table of networks; what stands before them is the study's own."""
LINEARIZED = {
    "snl": "SNL n keeps the n ReLUs that selective network linearization chose (Cho et al. 2022).",
    "deepreduce": "DeepReDuce C12 has no ReLUs in stages 1 and 2 (Jha et al. 2021); it starts from fresh weights, or "
    "where its name says (from base) from the full network's.",
}
"""What the names of linearized networks stand for, whichever study shows them."""
DIFFERENCES = (
    Column("group"),
    Column("difference_points", "drop minus that of the reference (points)", ".1f"),
    Column("p_value", "p", ".2g"),
    Column("corrected", "p, corrected", ".2g"),
    Column("lost", "lost, compared with the reference"),
)
EXTREMES = (
    Column("network"),
    Column("worst_group", "lost most"),
    Column("worst_drop_percent", "its drop (%)", ".1f"),
    Column("least_lost", "lost least"),
    Column("gap_points", "largest gap (points)", ".1f"),
    Column("gap", "the gap is"),
)

MEANINGS = {
    "Large, small groups": "groups with at least, or less than, the average number of training images; the mean of "
    "their groups' accuracies or drops.",
    "Accuracy": "share of the test images classified correctly. Its interval is over seeds and test images together: "
    "what other seeds and another test set of this size might have shown (Wilson's where all or none are right).",
    "Relative accuracy drop": "(accuracy of the full network - accuracy) / accuracy of the full network, in percent, "
    "seed by seed; negative is an improvement (Das et al. 2024, Sec. 5.1). Its interval is over seeds and test "
    "images together (Searle, Casella and McCulloch 1992).",
    "Drop from the control": "the same from the network that was trained as this one was, without what the study "
    "changes, instead of from the full network: what is lost by the change alone.",
    "Training accuracy": "share of the training images classified correctly; far above the accuracy where a network "
    "has learnt its images by heart.",
    "Validation accuracy": "share of images classified correctly that were held out from every training and decided "
    "when that of the full network stops.",
    "Drop minus that of the reference": f"{MEANING} It is counted from the control where there is one. "
    "Each network is judged for itself, not corrected for the number of networks.",
    "Loss": "mean cross-entropy of the group's test images, in nats.",
    "Gradient norm": "L2 norm of the gradient of the group's mean loss with respect to all parameters (masks and batch "
    "statistics are held fixed).",
    "Gradient norm without its sampling part": sampling.MEANINGS["Gradient norm without its sampling part"],
    "Largest Hessian eigenvalue": "largest algebraic eigenvalue of the Hessian of the same loss, by Lanczos on exact "
    "Hessian-vector products; an eigenvalue lies within the residual of the number given.",
    "The same at equal counts": sampling.MEANINGS["The same at equal counts"],
    "Distance to the boundary": "largest softmax score minus the second largest, averaged over the group's test "
    "images; 0 is on the decision boundary.",
    "Linearised distance": "for each test image the smallest (score of its class - score of another) / norm of that "
    "difference's gradient in the image, in pixel values from 0 to 1; negative where the image is misclassified.",
    "Intervals over seeds": "Student's t, 95 %, of the mean over seeds; of what cannot be negative in its logarithm. "
    "Where each seed has a split of its own they are over splits too, and what the test images of two seeds have in "
    "common counts as such.",
}


COUNTED = (
    "Drop percent is counted from the full network; harm percent and relative drop matched percent are counted from "
    "the control."
)
"""What is said of the headers of tables that are published by themselves."""
RATE = "In names of networks mu is the rate at which the Lagrangian's multipliers grow."
LEARNT, FAR = 0.99, 0.1
"""Training accuracy from which on a network knows its images by heart, and how far below it is on others."""


class Words(NamedTuple):
    """What is said on the pages of one study only.

    Attributes:
        summary: columns of its table of networks.
        lost: what it means that a group lost.
        networks: what the names of networks stand for, by the method that made them.
        meanings: what the numbers mean that only this study has.
    """

    summary: Sequence[Column]
    lost: str
    networks: Mapping[str, str]
    meanings: Mapping[str, str]


def seeds_sentence(results: Results) -> str:
    """Say what the intervals of a study's tables are."""
    seeds = len(results.variants[0].seeds)
    together = " in all seeds together" * (results.splits > 1)
    few = f"losses and distances of groups of fewer than {FEW} images{together}"
    if seeds == 1:
        return (
            f"One seed: 95 % intervals are over test images alone; what is no mean over these has none, nor have {few}."
        )
    splits = "seeds on one split"
    if results.splits == seeds:
        splits = "seeds, each with a split of its own,"
    elif results.trainings == seeds:
        splits = "seeds, each with training images of its own,"
    return (
        f"95 % intervals: of accuracies, drops, losses, distances and what is free of sampling over {seeds} {splits} "
        f"and the test images; of all else over seeds; {few} have none."
    )


def summary_table(words: Words, rows: Sequence[Row]) -> Table:
    """Return ``quantities.summary_rows`` as readers see them."""
    return Table([column for column in words.summary if column.name in rows[0]], rows)


def group_table(rows: Sequence[Row], variant: Variant) -> Table:
    """Return the rows of ``quantities.group_rows`` that are of one network, as readers see them."""
    mine = [row for row in rows if row["network"] == variant.label]
    return Table([column for column in GROUPS if column.name in mine[0]], mine)


def page(
    words: Words,
    answer: str,
    results: Results,
    summary: Sequence[Row],
    rows: Sequence[Row],
    found: Sequence[Claim],
    analysed: Sequence[Run],
    drawn: Sequence[Drawn],
    more: Sequence[str],
    title: str,
    command: Sequence[str],
) -> str:
    """Return the report as one HTML page that loads nothing.

    Args:
        words: of the study.
        answer: who lost more than whom: two sentences, and further paragraphs.
        results: of the study.
        summary: the rows of its table of networks.
        rows: their ``quantities.group_rows``.
        found: their claims.
        analysed: the runs.
        drawn: the figures that every reader sees first.
        more: parts that stand before the findings, such as figures of the paper.
        title: heading.
        command: what the reader types to make it again.
    """
    parts = [html.answer(answer), html.paragraph(introduction(results, analysed))]
    parts += map(html.warning, warnings(results))
    # The figure before what it means: on a small screen the reader would see text alone.
    parts += [html.heading("Who lost more than whom"), html.figures(drawn[:1])]
    parts += [html.paragraph(f"{words.lost} {of_networks(words, results)}"), *_compared(results)]
    parts += [html.heading("Networks")]
    parts += [html.table(summary_table(words, summary)), html.figures(drawn[1:])]
    parts += [*more, html.heading("Findings of the paper"), html.findings(found), html.heading("Groups")]
    for variant in results.variants:
        units = f": {variant.relu_count:,} of {variant.unit_count:,} units"
        of = variant.label if "saves" in variant.about else variant.label + units
        opened = variant is results.variants[0]
        parts.append(html.folded(of, html.table(group_table(rows, variant)), opened=opened))
    parts.append(html.meanings({**words.meanings, **MEANINGS}, parts))
    return html.page(title, [*parts, html.provenance(_facts(analysed, command))])


def _compared(results: Results) -> list[str]:
    """Return the extremes of each network, and its differences between groups, which a reader unfolds."""
    rows, extremes = differences.rows(results), differences.extreme_rows(results)
    several = any(row["least_lost"] for row in extremes)  # or else there is nobody who lost most
    parts = [html.table(Table(EXTREMES, extremes)), html.paragraph(PICKED)] if several else []
    for network in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == network]
        parts.append(html.folded(f"{network}: against {mine[0]['reference']}", html.table(Table(DIFFERENCES, mine))))
    return parts


def of_networks(words: Words, results: Results) -> str:
    """Say what the names of a study's networks stand for."""
    methods = {variant.method for variant in results.variants}
    return " ".join(said for method, said in words.networks.items() if method in methods)


def introduction(results: Results, analysed: Sequence[Run]) -> str:
    """Say of how many seeds, which data and which reference group a report is, and what its intervals are over."""
    first, chosen = analysed[0], chosen_epochs(analysed)
    stopped = ", ".join(f"{epoch}" for epoch in chosen.values())
    kept = f" The full networks are those of the lowest validation loss, after epoch {stopped}." if chosen else ""
    seeds, groups, name = len(results.variants[0].seeds), results.groups, first.config["data"]["name"]
    of = f" of '{name}'" if name not in OWN else ""  # the heading says which file or folder
    return (
        f"{seeds} seed{'s' * (seeds > 1)}, {len(groups.names)} group{'s' * (len(groups.names) > 1)}, "
        f"{groups.train_count.sum():,} training and "
        f"{groups.test_count.sum():,} test images{of}. The reference group is "
        f"{groups.names[results.reference]}.{kept} {seeds_sentence(results)}"
    )


def chosen_epochs(analysed: Sequence[Run]) -> dict[int, int]:
    """Return by seed after which epoch the full network was taken by its validation loss; empty if all were trained."""
    full = (run for run in analysed if run.config["variant"]["method"] == "full" and not rebalanced(run))
    trained = (run for run in reports.with_parents(full) if "patience" in run.config)
    return {run.config["seed"]: run.json("result.json")["epoch"] for run in trained}


def warnings(results: Results) -> list[str]:
    """Return a sentence for each thing that a reader of the numbers must know."""
    lacking = [v.label for v in results.variants if not v.by_group["top_eigenvalue_converged"].all()]
    said = [f"Some eigenvalues of {some(lacking)} did not converge; see their residuals."] * bool(lacking)
    unknown, biased = differences.without_drop(results), quantities.biased_drops(results)
    never = (
        f"In group{'s' * (len(unknown) > 1)} {some(cut(unknown))} the full network or a control of some seed is "
        f"{SELDOM}: the 95 % interval of its accuracy reaches 0. What a network that is compared with it lost there "
        "can be said in points of accuracy only."
    )
    small = (
        "A relative drop is a share of an accuracy that is noisy itself, and comes out too small where few are right. "
        f"By more than a tenth of its interval's half width that is so of {some(biased)}."
    )
    said += [small] * bool(biased)
    said += one_class({v.label: v.one_class for v in results.variants}, results.variants[0].seeds)
    said += [RATE] * any("(mu " in one for one in said)
    return [*results.missing, *by_heart(results), *[never] * bool(unknown), *results.groups.warnings(), *said]


def by_heart(results: Results) -> list[str]:
    """Return a sentence if the full network has learnt its training images by heart: then training on is what counts.

    Further training changes such a network more than what a study changes does, so that drops from it say little. Of
    small groups that may be so where all images together do not show it.
    """
    own, count, small = results.variants[0].by_group, results.groups.train_count, ~results.groups.large
    if "train_accuracy" not in own:
        return []
    sides = [("its training images", "the", count / count.sum(), results.variants[0].accuracy)]
    if small.any():
        of_small = small / small.sum()
        sides.append(("the training images of the small groups", "their", of_small, own["accuracy"] @ of_small))
    for which, theirs, weights, right in sides:
        learnt, right = float((own["train_accuracy"] @ weights).mean()), float(right.mean())
        if learnt >= LEARNT and learnt - right >= FAR:
            return [
                f"The full network has learnt {which} by heart: it is right on {100 * learnt:.1f} % of them and on "
                f"{100 * right:.1f} % of {theirs} test images. Further training may change it more than what is "
                "studied here; read the drops from the controls."
            ]
    return []


def _facts(analysed: Sequence[Run], command: Sequence[str]) -> dict[str, Any]:
    first, checks = analysed[0], [run.json("result.json")["checks"] for run in analysed]
    residuals = [c["worst_relative_residual"] for c in checks if c["worst_relative_residual"] is not None]
    return {
        "made by": reports.typed(command),
        **reports.provenance(reports.with_parents(analysed)),
        "predictions repeated bit for bit": all(c["deterministic"] for c in checks),
        "worst relative residual of an eigenvalue": max(residuals, default=None),
        "data": first.config["data"],
        "full network": first.config["model"],
        "analysis": first.config["analysis"],
        "analysed runs": [run.path.name for run in analysed],
    }
