"""The page of a report: HTML that opens offline, with the figures inside."""

import html
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.linearization.paper_figures import Drawn
from experiments.linearization.results import Results
from experiments.reporting.verdicts import Claim
from jaxfair.runs import Run

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #e4e4e4; white-space: nowrap; }
th { vertical-align: bottom; white-space: normal; } th:first-child, td:first-child { text-align: left; }
small, .interval { color: #707070; font-size: .85em; }
.text th, .text td { white-space: normal; text-align: left; vertical-align: top; }
figure { margin: 1rem 0; } figure svg { max-width: 100%; height: auto; }
figcaption { color: #444; } pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: .8rem; }
dt { font-weight: 600; } dd { margin: 0 0 .5rem 1.2rem; } .warning { color: #a33; }
"""

CAPTIONS = {
    "accuracy_drop_by_group": "Relative accuracy drop of each group against the full network of the same seed. "
    "Above zero a group lost accuracy. Bars: 95 % bootstrap intervals over seeds and test images together.",
    "accuracy_by_budget": "Mean accuracy of the large and the small groups by the number of ReLUs kept. "
    "Bars: 95 % t intervals over seeds.",
    "curvature_by_group": "What the papers hold responsible: gradient norm, largest Hessian eigenvalue and distance "
    "to the decision boundary of every group, for the full and the linearized networks. "
    "Bars: 95 % t intervals over seeds.",
}

MEANINGS = {
    "ReLUs": "units that are still ReLUs; all others are the identity.",
    "Large, small groups": "groups with at least, or less than, the average number of training images; the mean of "
    "their groups' accuracies or drops.",
    "Accuracy": "share of the test images classified correctly. In the group tables the interval is Wilson's 95 % "
    "interval for the group's number of test images: what another test set of this size might have shown.",
    "Relative accuracy drop": "(accuracy of the full network - accuracy) / accuracy of the full network, in percent, "
    "seed by seed; negative is an improvement (Das et al. 2024, Sec. 5.1). Its interval resamples seeds and test "
    "images together (Owen 2007).",
    "Loss": "mean cross-entropy of the group's test images, in nats.",
    "Gradient norm": "L2 norm of the gradient of the group's mean loss with respect to all parameters (masks and batch "
    "statistics are held fixed).",
    "Largest Hessian eigenvalue": "largest algebraic eigenvalue of the Hessian of the same loss, by Lanczos on exact "
    "Hessian-vector products; an eigenvalue lies within the residual of the number given.",
    "Distance to the boundary": "largest softmax score minus the second largest, averaged over the group's test "
    "images; 0 is on the decision boundary.",
    "Linearised distance": "for each test image the smallest (score of its class - score of another) / norm of that "
    "difference's gradient in the image, in pixel values from 0 to 1; negative where the image is misclassified.",
    "Parameter distance": "L2 distance between the parameters of the linearized and the full network. It ignores that "
    "permuted networks are equal; blank for networks of another size.",
    "Intervals over seeds": "Student's t, 95 %, of the mean over seeds. All seeds share one split of the data.",
}


def seeds_sentence(seeds: int) -> str:
    """Say what the intervals of a study of so many seeds are."""
    if seeds == 1:
        return "One seed: no interval can be given."
    return f"95 % intervals: ± over {seeds} seeds, (a to b) over seeds and test images."


def plus_minus(row: dict[str, Any], name: str, digits: int) -> str:
    """Write a number of a table's row and half of its interval; nothing where it is NaN."""
    value, high = row[name], row[f"{name}_high"]
    if not np.isfinite(value):
        return ""
    return f"{value:.{digits}f}" + (f" ±{high - value:.{digits}f}" if np.isfinite(high) else "")


def between(row: dict[str, Any], name: str, digits: int) -> str:
    """Write a number of a table's row and the ends of its interval; nothing where it is NaN."""
    value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})" if np.isfinite(value) else ""


def page(
    results: Results,
    summary: Sequence[dict[str, Any]],
    rows: Sequence[dict[str, Any]],
    found: Sequence[Claim],
    analysed: Sequence[Run],
    drawn: dict[str, Path],
    of_paper: Sequence[Drawn],
    title: str,
    command: Sequence[str],
) -> str:
    """Return the report as one HTML page that loads nothing.

    Args:
        results: of the study.
        summary: their ``tables.summary_rows``.
        rows: their ``tables.group_rows``.
        found: their claims.
        analysed: the runs.
        drawn: the SVG of each figure of ``CAPTIONS``.
        of_paper: figures of the paper.
        title: heading.
        command: what the reader types to make it again.
    """
    data = analysed[0].config["data"]
    seeds = len(results.variants[0].seeds)
    groups = len(results.group_names)
    intro = (
        f"{seeds} seed{'s' * (seeds > 1)}, {groups} groups, {results.train_count.sum():,} training and "
        f"{results.test_count.sum():,} test images of '{data['name']}'. {seeds_sentence(seeds)}"
    )
    parts = [
        f"<h1>{html.escape(title)}</h1><p>{html.escape(intro)}</p>",
        _warnings(results),
        "<h2>Networks</h2>",
        _summary_table(summary),
    ]
    parts += [_figure(drawn[name], caption) for name, caption in CAPTIONS.items()]
    parts += ["<h2>Figures of the paper</h2>", *map(_of_paper, of_paper)]
    parts += ["<h2>Findings of the paper</h2>", _claims_table(found), "<h2>Groups</h2>"]
    parts += [_group_table(results, rows, index) for index in range(len(results.variants))]
    meanings = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in MEANINGS.items())
    parts += [f"<h2>What each number means</h2><dl>{meanings}</dl>", _provenance(analysed, command)]
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
    )
    body = "".join(parts)
    return f'<!doctype html><html lang="en"><head>{head}<style>{STYLE}</style></head><body>{body}</body></html>\n'


def _figure(file: Path, caption: str) -> str:
    svg = file.read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :]  # the XML prologue of a stand-alone file has no place inside a page
    return f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _of_paper(drawn: Drawn) -> str:
    number, _, shown = drawn.caption.partition(": ")
    if drawn.file is None:
        return f"<p>{html.escape(f'{number} ({drawn.name}) cannot be drawn: {drawn.reason}')}</p>"
    summary = html.escape(f"{number}: {shown.partition('.')[0]}")
    return f"<details><summary>{summary}</summary>{_figure(drawn.file, drawn.caption)}</details>"


def _warnings(results: Results) -> str:
    found = []
    few = [results.group_names[g] for g in results.order if results.test_count[g] < 30]
    if few:
        found.append(f"Fewer than 30 test images in group {', '.join(few)}: their intervals are very wide.")
    for variant in results.variants:
        if not variant.groups["top_eigenvalue_converged"].all():
            found.append(f"Some eigenvalues of {variant.label} did not converge; see their residuals.")
    return "".join(f'<p class="warning">{html.escape(text)}</p>' for text in found)


def _summary_table(rows: Sequence[dict[str, Any]]) -> str:
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("network", lambda row: html.escape(row["network"])),
        ("ReLUs", lambda row: f"{row['relus']:,}"),
        ("accuracy", lambda row: plus_minus(row, "accuracy", 3)),
        ("large groups", lambda row: plus_minus(row, "large_groups", 3)),
        ("small groups", lambda row: plus_minus(row, "small_groups", 3)),
        ("relative drop, large groups (%)", lambda row: _cell(row, "large_drop_percent", 1)),
        ("relative drop, small groups (%)", lambda row: _cell(row, "small_drop_percent", 1)),
        ("parameter distance", lambda row: plus_minus(row, "parameter_distance", 2)),
    ]
    return _table(columns, rows)


def _claims_table(found: Sequence[Claim]) -> str:
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("finding", lambda row: f"{html.escape(row['statement'])}<br><small>{html.escape(row['statistic'])}</small>"),
        (
            "mean over seeds (95 %)",
            lambda row: _cell({**row, "value_low": row["low"], "value_high": row["high"]}, "value", 2),
        ),
        ("seeds", lambda row: str(row["seeds"])),
        ("verdict", lambda row: html.escape(row["verdict"])),
        ("note", lambda row: f"<small>{html.escape(row['note'])}</small>"),
    ]
    foot = "The intervals are not corrected for the number of findings."
    return (
        _table(columns, [claim._asdict() for claim in found]).replace("<table>", '<table class="text">')
        + f"<p>{foot}</p>"
    )


def _group_table(results: Results, rows: Sequence[dict[str, Any]], index: int) -> str:
    variant = results.variants[index]
    names = [
        ("accuracy", "accuracy", 3),
        ("relative drop (%)", "relative_drop_percent", 1),
        ("loss", "loss", 3),
        ("gradient norm", "gradient_norm", 2),
        ("largest Hessian eigenvalue", "top_eigenvalue", 1),
        ("distance to the boundary", "softmax_gap", 3),
        ("linearised distance", "linearized_distance", 3),
    ]
    names = [column for column in names if column[1] in rows[0]]
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("group", lambda row: html.escape(row["group"])),
        ("training images", lambda row: f"{row['train_count']:,}"),
        ("test images", lambda row: f"{row['test_count']:,}"),
    ]
    columns += [(head, lambda row, n=name, d=digits: _cell(row, n, d)) for head, name, digits in names]
    columns.append(("worst residual", lambda row: f"{row['top_eigenvalue_residual_max']:.2g}".replace("nan", "")))
    rows = [row for row in rows if row["network"] == variant.label]
    summary = f"<summary>{html.escape(variant.label)}: {variant.relu_count:,} of {variant.unit_count:,} units</summary>"
    return f"<details {'open' if index == 0 else ''}>{summary}{_table(columns, rows)}</details>"


def _cell(row: dict[str, Any], name: str, digits: int) -> str:
    value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    if not np.isfinite(value):
        return ""
    interval = f"{low:.{digits}f} to {high:.{digits}f}" if np.isfinite(low) else ""
    return f'{value:.{digits}f} <span class="interval">{interval}</span>'


def _table(columns: Sequence[tuple[str, Callable[[dict[str, Any]], str]]], rows: Sequence[dict[str, Any]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name, _ in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell(row)}</td>" for _, cell in columns) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _provenance(analysed: Sequence[Run], command: Sequence[str]) -> str:
    first = analysed[0]
    environments = [run.json("environment.json") for run in analysed]
    checks = [run.json("result.json")["checks"] for run in analysed]
    facts = {
        "made by": " ".join(command),
        "commits": sorted({str(e["commit"]) + ("+changes" if e["uncommitted_changes"] else "") for e in environments}),
        "device": sorted({f"{e['backend']}: {e['device_kind']} x {e['device_count']}" for e in environments}),
        "precision of matrix products": sorted({e["default_matmul_precision"] for e in environments}),
        "versions": environments[-1]["versions"] | {"python": environments[-1]["python"]},
        "finished": max(e["finished"] for e in environments),
        "predictions repeated bit for bit": all(c["deterministic"] for c in checks),
        "worst relative residual of an eigenvalue": max(
            (c["worst_relative_residual"] for c in checks if c["worst_relative_residual"] is not None), default=None
        ),
        "data": first.config["data"],
        "full network": first.config["model"],
        "analysis": first.config["analysis"],
        "analysed runs": [run.path.name for run in analysed],
    }
    text = html.escape(json.dumps(facts, indent=1))
    return f"<h2>How this was made</h2><p>Each run's folder holds its whole configuration.</p><pre>{text}</pre>"
