"""How well the expansion of each group's loss agrees with what linearization did to it, on a finished study."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.analyses import results as arrays
from experiments.linearization.report import STUDY
from experiments.reporting import files, reports, series, tables
from experiments.reporting.tables import Column, Table
from experiments.running import datasets
from experiments.running.progress import Progress, say
from experiments.running.records import load_network, rebalanced
from jaxfair import taylor
from jaxfair.errors import JaxfairError
from jaxfair.runs import Run
from jaxfair.taylor import NetworkLines

if TYPE_CHECKING:
    from experiments.linearization.foretold import Foretold

COLUMNS = (
    Column("network"),
    Column("seeds"),
    Column("weights_two", "R2, weights, two terms"),
    Column("joint_one", "R2, weights and masks, one term"),
    Column("joint_two", "R2, weights and masks, two terms"),
    Column("rank", "rank correlation, weights and masks, two terms", ".2f"),
    Column("breaks", "breaks at this part of the way", ".1f"),
)
FOOT = (
    "R2 of what is foretold for the groups with the change of their test loss: 1 is exact, 0 no better than one number "
    "for all groups; over seeds, 1 less the geometric mean of what is left unexplained. In brackets: 95 % over seeds, "
    "for these groups. Breaks: the median over seeds and groups of the first tenth of the way at which two terms in "
    f"weights and masks are off by {taylor.LEVEL:.0%} or more."
)
TOLD = "table of what is foretold", "R2 of what is foretold"
"""What the table is called, and the text in it by which an earlier one is known, see ``files.replacing``."""


def rows(study: Path) -> list[dict[str, Any]]:
    """Return one row a network: how well its change of loss is foretold.

    Args:
        study: the folder that a linearization study was told as ``--out``.

    Raises:
        JaxfairError: the study is not finished or of another kind, its data are not to be found or have changed, or no
            network is linearized, or of the full network's layers.
    """
    analysed = [run for run in arrays.read(study, STUDY) if run.config["stage"] == "analyse"]
    analysed = [run for run in analysed if not rebalanced(run)]
    known = {run.digest: run for run in reports.with_parents(analysed)}
    by_label: dict[str, list[Run]] = {}
    for run in analysed:
        variant = run.config["variant"]
        if variant["method"] not in ("full", *arrays.CONTROLS) and not variant.get("mitigation"):
            by_label.setdefault(variant["label"], []).append(run)
    if not by_label:
        raise JaxfairError(f"'{study}' has no linearized network without mitigation; there is nothing to foretell.")
    tests, found = {}, []
    with Progress() as progress:
        progress.expect(sum(map(len, by_label.values())))
        for label, several in by_label.items():
            progress.begin(f"foretell {label}", len(several))
            lines = [_lines(run, known, tests) for run in several]
            if None in lines:
                say(f"{label} has other layers than the full network, so nothing is foretold of it.")
            else:
                found.append({"network": label, "seeds": len(lines), **_agreement([of for of in lines if of])})
    if not found:
        raise JaxfairError(f"No network of '{study}' has the full network's layers; there is nothing to foretell.")
    return found


def _lines(run: Run, known: dict[str, Run], tests: dict[str, Any]) -> NetworkLines | None:
    """Return the lines of a network from the full one; None where it has other layers."""
    network, full = (load_network(known[run.config["parents"][name]]) for name in ("network", "full"))
    if network.module != full.module:
        return None
    content = run.config["data"]["fingerprint"]["test"]
    if content not in tests:
        tests[content] = datasets.again(run).test
    return taylor.network_lines(full, network, tests[content])


def _agreement(lines: Sequence[NetworkLines]) -> dict[str, Any]:
    """Return how well lines of several seeds foretell the rise of the groups' losses."""
    rise = np.array([of.rise for of in lines])
    told = {
        "weights_two": [of.weights.both[-1] for of in lines],
        "joint_one": [of.joint.first[-1] for of in lines],
        "joint_two": [of.joint.both[-1] for of in lines],
    }
    agreed = {name: taylor.agreement(np.array(values), rise) for name, values in told.items()}
    row: dict[str, Any] = {name: series.with_interval(of.r2, of.r2_interval) for name, of in agreed.items()}
    two = agreed["joint_two"]
    row["rank"] = series.with_interval(two.rank, two.rank_interval)
    return row | {"breaks": float(np.median([of.joint.breaks()[1] for of in lines]))}


def write(given: "Foretold", _: Sequence[str]) -> None:
    """Write the table as CSV and Markdown, and print it."""
    page = given.out / "foretold.md"
    files.check_own(page, *TOLD)
    found = rows(given.study)
    with files.replacing(page, *TOLD) as made:
        tables.write_csv(made / "foretold.csv", found)
        text = f"{tables.markdown(Table(COLUMNS, found))}\n\n{FOOT}\n"
        (made / page.name).write_text(text, encoding="utf-8")
    tables.show(Table(COLUMNS, found), "What the expansion foretells", FOOT)
    print(f"\nTable: {page}")
