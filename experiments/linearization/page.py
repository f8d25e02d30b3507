"""The page of a report: what stands on it, in which order, and what each number means."""

from collections.abc import Sequence
from typing import Any

from experiments.linearization import differences
from experiments.linearization.results import HARM, Results, Variant
from experiments.reporting import html, reports
from experiments.reporting.comparisons import MEANING
from experiments.reporting.drawing import Drawn
from experiments.reporting.tables import Column, Row, Table
from experiments.reporting.verdicts import Claim
from jaxfair.runs import Run

SUMMARY = (
    Column("network"),
    Column("relus", "ReLUs"),
    Column("accuracy", form=".3f"),
    Column("large_groups", form=".3f"),
    Column("small_groups", form=".3f"),
    Column("large_drop_percent", "relative drop, large groups (%)", ".1f"),
    Column("small_drop_percent", "relative drop, small groups (%)", ".1f"),
    Column("large_harm_percent", "drop from the control, large groups (%)", ".1f"),
    Column("small_harm_percent", "drop from the control, small groups (%)", ".1f"),
    Column("parameter_distance", form=".2f"),
)
GROUPS = (
    Column("group"),
    Column("train_count", "training images"),
    Column("test_count", "test images"),
    Column("train_accuracy", "training accuracy", ".3f"),
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
DIFFERENCES = (
    Column("group"),
    Column("difference_points", "drop less that of the reference (points)", ".1f"),
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
)

LEARNT, FAR = 0.99, 0.1
"""Training accuracy from which on a network knows its images by heart, and how far below it is on others."""

LOST = (
    "A group's relative accuracy drop is the share of the full network's accuracy that it loses by linearization, in "
    "percent. What it lost beyond the reference group is in points of that, and where the study has controls it is "
    "counted from them. p is the probability of a difference as "
    "large if there were none; corrected is p for the number of groups compared (Holm 1979)."
)
NETWORKS = {
    "snl": "SNL n keeps the n ReLUs that selective network linearization chose (Cho et al. 2022).",
    "deepreduce": "DeepReDuce C12 has no ReLUs in stages 1 and 2 (Jha et al. 2021).",
    "random": "Random n keeps n ReLUs that were drawn at random.",
    "matched": "The networks matched to SNL n or to DeepReDuce are the controls: trained as these were, by the same "
    "optimizer on the same images in the same order, with all ReLUs kept. What is lost is counted from them.",
    "random-matched": "Random n after equal training is the control of SNL n with n ReLUs that were drawn at random, "
    "fine-tuned.",
    "control": "The fine-tuned full network had the linearized ones' fine-tuning, with all its ReLUs.",
    "mitigated": "Mitigated networks were fine-tuned against unequal losses of the groups: mu is the rate at which the "
    "Lagrangian's multipliers grow, level the share of the worst images that CVaR looks at, rate the step of ARL's "
    "adversary.",
}
MEANINGS = {
    "ReLUs": "units that are still ReLUs; all others are the identity.",
    "Large, small groups": "groups with at least, or less than, the average number of training images; the mean of "
    "their groups' accuracies or drops.",
    "Accuracy": "share of the test images classified correctly. Its interval is over seeds and test images together: "
    "what other seeds and another test set of this size might have shown (Wilson's where all or none are right).",
    "Relative accuracy drop": "(accuracy of the full network - accuracy) / accuracy of the full network, in percent, "
    "seed by seed; negative is an improvement (Das et al. 2024, Sec. 5.1). Its interval is over seeds and test "
    "images together (Searle, Casella and McCulloch 1992).",
    "Drop from the control": "the same from the network that was trained as this one was, with all its ReLUs, instead "
    "of from the full network: what is lost by linearization alone.",
    "Training accuracy": "share of the training images classified correctly; far above the accuracy where a network "
    "has learnt its images by heart.",
    "Difference to the reference": f"{MEANING} It is counted from the control where there is one. The group that lost "
    "most and the largest gap have intervals that allow for having been picked among all groups, or all pairs.",
    "Loss": "mean cross-entropy of the group's test images, in nats.",
    "Gradient norm": "L2 norm of the gradient of the group's mean loss with respect to all parameters (masks and batch "
    "statistics are held fixed).",
    "Gradient norm without its sampling part": "the same of the mean over all possible images: over few images it is "
    "too long, by tr(Cov) / n in the square. From inner products of gradients of disjoint blocks of images; 0 where "
    "these are negative. Its interval is over seeds and test images together.",
    "Largest Hessian eigenvalue": "largest algebraic eigenvalue of the Hessian of the same loss, by Lanczos on exact "
    "Hessian-vector products; an eigenvalue lies within the residual of the number given.",
    "The same at equal counts": "the largest eigenvalue on as many images as the smallest group has, the mean of up to "
    "three draws: on few images it is too large, and only at equal counts equally so.",
    "Distance to the boundary": "largest softmax score minus the second largest, averaged over the group's test "
    "images; 0 is on the decision boundary.",
    "Linearised distance": "for each test image the smallest (score of its class - score of another) / norm of that "
    "difference's gradient in the image, in pixel values from 0 to 1; negative where the image is misclassified.",
    "Parameter distance": "L2 distance between the parameters of the linearized and the full network. It ignores that "
    "permuted networks are equal; blank for networks of another size.",
    "Intervals over seeds": "Student's t, 95 %, of the mean over seeds; of what cannot be negative in its logarithm. "
    "Where each seed has a split of its own they are over splits too, and images that several seeds test count once.",
}


def seeds_sentence(results: Results) -> str:
    """Say what the intervals of a study's tables are."""
    seeds = len(results.variants[0].seeds)
    if seeds == 1:
        return "One seed: 95 % intervals are over test images alone, and there are none of what else is measured."
    splits = "seeds, each with a split of its own," if results.splits == seeds else "seeds on one split"
    return f"95 % intervals: of accuracies and drops over {seeds} {splits} and the test images, of all else over seeds."


def summary_table(rows: Sequence[Row]) -> Table:
    """Return ``results.summary_rows`` as readers see them."""
    return Table([column for column in SUMMARY if column.name in rows[0]], rows)


def group_table(rows: Sequence[Row], variant: Variant) -> Table:
    """Return the rows of ``results.group_rows`` that are of one network, as readers see them."""
    mine = [row for row in rows if row["network"] == variant.label]
    return Table([column for column in GROUPS if column.name in mine[0]], mine)


def page(
    results: Results,
    summary: Sequence[Row],
    rows: Sequence[Row],
    found: Sequence[Claim],
    analysed: Sequence[Run],
    drawn: Sequence[Drawn],
    of_paper: Sequence[Drawn],
    title: str,
    command: Sequence[str],
) -> str:
    """Return the report as one HTML page that loads nothing.

    Args:
        results: of the study.
        summary: their ``results.summary_rows``.
        rows: their ``results.group_rows``.
        found: their claims.
        analysed: the runs.
        drawn: the figures that every reader sees first.
        of_paper: figures of the paper.
        title: heading.
        command: what the reader types to make it again.
    """
    parts = [html.answer(differences.answer(results)), html.paragraph(_introduction(results, analysed[0]))]
    parts += map(html.warning, warnings(results))
    parts += [html.heading("Who lost more than whom"), html.paragraph(f"{LOST} {_of_networks(results)}")]
    parts += [html.figures(drawn[:1]), *_compared(results), html.heading("Networks")]
    parts += [html.table(summary_table(summary)), html.figures(drawn[1:])]
    parts += [html.heading("Figures of the paper"), html.figures(of_paper)]
    parts += [html.heading("Findings of the paper"), html.findings(found), html.heading("Groups")]
    for variant in results.variants:
        of = f"{variant.label}: {variant.relu_count:,} of {variant.unit_count:,} units"
        opened = variant is results.variants[0]
        parts.append(html.folded(of, html.table(group_table(rows, variant)), opened=opened))
    return html.page(title, [*parts, html.meanings(MEANINGS), html.provenance(_facts(analysed, command))])


def _compared(results: Results) -> list[str]:
    """Return the extremes of each network, and its differences between groups, which a reader unfolds."""
    rows, extremes = differences.rows(results), differences.extreme_rows(results)
    parts = [html.table(Table(EXTREMES, extremes))] if extremes else []
    for network in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == network]
        parts.append(html.folded(f"{network}: against {mine[0]['reference']}", html.table(Table(DIFFERENCES, mine))))
    return parts


def _of_networks(results: Results) -> str:
    """Say what the names of a study's networks stand for."""
    methods = {variant.method for variant in results.variants}
    return " ".join(said for method, said in NETWORKS.items() if method in methods)


def _introduction(results: Results, first: Run) -> str:
    seeds, groups = len(results.variants[0].seeds), results.groups
    return (
        f"{seeds} seed{'s' * (seeds > 1)}, {len(groups.names)} group{'s' * (len(groups.names) > 1)}, "
        f"{groups.train_count.sum():,} training and "
        f"{groups.test_count.sum():,} test images of '{first.config['data']['name']}'. The reference group is "
        f"{groups.names[results.reference]}. {seeds_sentence(results)}"
    )


def warnings(results: Results) -> list[str]:
    """Return a sentence for each thing that a reader of the numbers must know."""
    lacking = [v.label for v in results.variants if not v.by_group["top_eigenvalue_converged"].all()]
    said = [f"Some eigenvalues of {label} did not converge; see their residuals." for label in lacking]
    unknown = differences.without_drop(results)
    never = (
        f"In group {', '.join(unknown)} the full network of some seed is never right: what it loses there is not known."
    )
    return [*by_heart(results), *[never] * bool(unknown), *results.groups.warnings(), *said]


def by_heart(results: Results) -> list[str]:
    """Return a sentence if the full network has learnt its training images by heart: then training on is what counts.

    Further training changes such a network more than lost ReLUs do, so that drops from it say little by themselves.
    """
    full = results.variants[0]
    if "train_accuracy" not in full.by_group:
        return []
    count = results.groups.train_count
    learnt = float((full.by_group["train_accuracy"] @ count / count.sum()).mean())
    if learnt < LEARNT or learnt - full.accuracy.mean() < FAR:
        return []
    return [
        f"The full network has learnt its training images by heart: it is right on {100 * learnt:.1f} % of them and on "
        f"{100 * full.accuracy.mean():.1f} % of the test images. Further training may change it more than "
        "linearization does; read the drops from the controls."
    ]


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
