"""The page of a hardware study's report: HTML that opens offline, with the figures inside."""

import html
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.hardware.results import Hardware
from experiments.reporting.drawing import Drawn
from experiments.reporting.html import STYLE, figure
from experiments.reporting.verdicts import Claim

Row = dict[str, Any]
Columns = Sequence[tuple[str, Callable[[Row], str]]]
TITLE = "Hardware: does the machine change who the model fails, beyond noise?"
FEW_IMAGES, FEW_ULPS, LEVEL = 30, 2, 0.05

MEANINGS = {
    "Profile": "the arithmetic of a training: (native) is what a machine has, (emulated) rounds the operands of every "
    "product. All begin with the same bits and see the data in the same order; the first is the reference.",
    "Controls": "trainings on the reference again: repeated; from weights of which one in every array is changed by "
    "one unit in the last place (ulp), so that what follows is what one rounding error does; with another data order.",
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
    "As far as the controls from step": "from there on the median over seeds of the parameters' distance from the "
    "reference stays within the range of all one-ulp controls. What hardware does is seen before it.",
    "Spread, excess, p-value": "mean over seeds of |profile - reference|; the same less the controls'; share of "
    "arrangements of labels among runs that give at least this excess; p (groups) is corrected for the number of "
    "groups. For a statement about all profiles multiply it by their number.",
    "Intervals": "Student's t, 95 %, of the mean over training seeds, which share one split.",
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
    if few := [hardware.group_names[g] for g in hardware.order if hardware.test_count[g] < FEW_IMAGES]:
        found.append(
            f"Fewer than {FEW_IMAGES} test images in group {', '.join(few)}: one image moves their accuracy far."
        )
    for series in plain.profiles:
        if series.same_bits.all():
            found.append(f"{series.label} ended in the reference's bits: for this training it is no other hardware.")
    for comparison in hardware.comparisons:
        if not comparison.reference.groups.get("top_eigenvalue_converged", np.ones(1)).all():
            found.append(f"Some eigenvalues did not converge ({comparison.title}): the bound may be too small.")
    return found


def number(row: Row, name: str) -> str:
    """Write a number of a row with three digits; nothing where it is NaN."""
    return f"{row[name]:.3g}" if np.isfinite(row[name]) else ""


def plus_minus(row: Row, name: str) -> str:
    """Write a number of a row and half of its interval, with three digits; nothing where it is NaN."""
    half = row[f"{name}_high"] - row[name]
    return number(row, name) + (f" ±{half:.2g}" if np.isfinite(half) else "")


def _named(*columns: tuple[str, str]) -> list[tuple[str, Callable[[Row], str]]]:
    return [(head, lambda row, n=name: html.escape(str(row[n]))) for head, name in columns]


def _measured(*columns: tuple[str, str]) -> list[tuple[str, Callable[[Row], str]]]:
    """Return columns of numbers, with their intervals where they have them."""
    return [
        (head, lambda row, n=name: plus_minus(row, n) if f"{n}_high" in row else number(row, n))
        for head, name in columns
    ]


PROFILES: Columns = [
    *_named(("training", "training"), ("hardware", "hardware"), ("role", "role")),
    *_measured(
        ("accuracy", "accuracy"),
        ("largest |loss difference| of a group (nats)", "largest_loss_difference"),
        ("distance of parameters", "distance"),
    ),
    ("same bits as the reference", lambda row: f"{row['same_bits_seeds']} of {row['seeds']}"),
    *_named(("as far as one-ulp controls from step", "as_far_as_ulps_from_step")),
]
TRAININGS: Columns = [
    *_named(("training", "training"), ("profiles", "profiles"), ("one-ulp controls", "ulps")),
    *_measured(("accuracy", "accuracy"), ("rho", "rho"), ("xi, profiles", "xi_profiles"), ("xi, controls", "xi_ulps")),
    *_measured(("xi of two runs, native", "pair_xi_native"), ("xi of two runs, emulated", "pair_xi_emulated")),
    *_measured(("xi of two runs, controls", "pair_xi_ulps")),
]
GROUPS: Columns = [
    *_named(("group", "group"), ("training images", "train_count"), ("test images", "test_count")),
    *_measured(("accuracy", "accuracy"), ("loss", "loss"), ("Delta", "delta"), ("Delta, native", "delta_native")),
    *_measured(("Delta, emulated", "delta_emulated"), ("Delta, one-ulp controls", "delta_ulps")),
    *_measured(("gradient norm", "gradient_norm"), ("largest Hessian eigenvalue", "top_eigenvalue")),
    *_measured(("gradient term", "gradient_term"), ("eigenvalue term", "eigenvalue_term"), ("bound", "bound")),
    *_measured(("share of seeds where it holds", "bound_holds"), ("tightness", "tightness")),
]
SPREAD: Columns = [
    *_named(("quantity", "quantity"), ("hardware", "hardware"), ("group", "group")),
    *_measured(("spread", "spread"), ("controls'", "control"), ("excess", "excess")),
    *_measured(("p", "p_value"), ("p (groups)", "family_p_value"), ("smallest possible p", "smallest_p_value")),
]
CLAIMS: Columns = [
    ("finding", lambda row: f"{html.escape(row['statement'])}<br><small>{html.escape(row['statistic'])}</small>"),
    ("mean over seeds (95 %)", lambda row: plus_minus({**row, "value_high": row["high"]}, "value")),
    *_named(("seeds", "seeds"), ("verdict", "verdict")),
    ("note", lambda row: f"<small>{html.escape(row['note'])}</small>"),
]


def page(
    hardware: Hardware,
    drawn: Sequence[Drawn],
    rows: Mapping[str, Sequence[Row]],
    found: Sequence[Claim],
    command: Sequence[str],
) -> str:
    """Return the report as one HTML page that loads nothing.

    Args:
        hardware: of the study.
        drawn: its figures.
        rows: its tables by name: profiles, trainings, groups and spread, of ``hardware_tables``.
        found: its claims.
        command: what the reader types to make it again.
    """
    plain = hardware.comparisons[0]
    intro = (
        f"{len(plain.reference.accuracy)} seeds, {len(hardware.group_names)} groups, {hardware.train_count.sum():,} "
        f"training and {hardware.test_count.sum():,} test images; {len(plain.profiles)} profiles beside the reference "
        f"{plain.reference.label}, {len(plain.ulps)} one-ulp controls. ± is half of a 95 % interval over seeds."
    )
    parts = [f"<h1>{html.escape(TITLE)}</h1><p>{html.escape(intro)}</p>"]
    parts += [f'<p class="warning">{html.escape(text)}</p>' for text in warnings(hardware)]
    parts += ["<h2>Profiles and controls</h2>", _table(PROFILES, rows["profiles"])]
    parts += ["<h2>Fairness violation</h2>", _table(TRAININGS, rows["trainings"])]
    findings = _table(CLAIMS, [claim._asdict() for claim in found]).replace("<table>", '<table class="text">')
    parts += ["<h2>Findings</h2>", findings]
    parts += ["<p>The intervals are not corrected for the number of findings.</p><h2>Figures</h2>"]
    parts += map(figure, sorted(drawn, key=lambda d: d.file is None))
    for comparison in hardware.comparisons:
        mine = {name: [row for row in rows[name] if row["training"] == comparison.title] for name in rows}
        parts += [f"<h2>Groups: {html.escape(comparison.title)}</h2>", _table(GROUPS, mine["groups"])]
        tests = "<summary>Spread of each profile and group against the one-ulp controls'</summary>"
        parts += [f"<details>{tests}{_table(SPREAD, mine['spread'])}</details>"] if mine["spread"] else []
    meanings = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in MEANINGS.items())
    parts += [f"<h2>What each number means</h2><dl>{meanings}</dl>", _provenance(hardware, command)]
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head = f"{meta}<title>{html.escape(TITLE)}</title><style>{STYLE}</style>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _table(columns: Columns, rows: Sequence[Row]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name, _ in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell(row)}</td>" for _, cell in columns) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _provenance(hardware: Hardware, command: Sequence[str]) -> str:
    """Say what made each profile's runs; nothing is known of results without runs."""
    facts: dict[str, Any] = {"made by": " ".join(command)}
    for series in (hardware.comparisons[0].reference, *hardware.comparisons[0].profiles):
        environments = [run.json("environment.json") for run in series.trained]
        if environments:
            facts[series.label] = {
                "commits": sorted({str(e["commit"]) + "+changes" * e["uncommitted_changes"] for e in environments}),
                "device": sorted({f"{e['backend']}: {e['device_kind']} x {e['device_count']}" for e in environments}),
                **{key: environments[-1][key] for key in ("driver", "xla_flags", "default_matmul_precision")},
                "versions": environments[-1]["versions"] | {"python": environments[-1]["python"]},
                "probe": environments[-1].get("probe"),
                "finished": max(e["finished"] for e in environments),
                "runs": [run.path.name for run in series.trained],
            }
    if trained := hardware.comparisons[0].reference.trained:
        facts |= {key: trained[0].config[key] for key in ("data", "model", "train")}
    text = html.escape(json.dumps(facts, indent=1))
    return f"<h2>How this was made</h2><p>Each run's folder holds its whole configuration.</p><pre>{text}</pre>"
