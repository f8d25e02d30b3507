"""The report of a compression study: one HTML file that opens offline, the figures as files, the numbers as CSV."""

from collections.abc import Sequence
from pathlib import Path

from experiments.analyses import differences, imbalance, quantities
from experiments.analyses import page as pages
from experiments.analyses import results as arrays
from experiments.analyses.results import Results
from experiments.compression import claims, figures, page
from experiments.reporting import drawing, html, reports, tables
from experiments.reporting.tables import Table
from experiments.running.records import rebalanced
from jaxfair import runs
from jaxfair.runs import Run

STUDY = "compression"
"""What the record of a report calls this study."""
BESIDE = ("snl", "deepreduce", "matched")
"""Methods of other networks that are shown if the same folder has them."""


def write(
    analysed: Sequence[Run],
    folder: Path,
    *,
    title: str,
    command: Sequence[str],
    reference: str | None = None,
    missing: Sequence[str] = (),
) -> Results:
    """Write ``report.html``, figures and tables into ``folder``, replacing an earlier report when all is written.

    Args:
        analysed: finished analyses, and runs of stages 'sampling' and 'expand' of their networks.
        folder: of the report, ``report`` in the study's folder.
        title: heading.
        command: what the reader types to make it again.
        reference: group that the others are compared with; by default that with the most training images.
        missing: sentences on what is not shown, since its runs failed.

    Raises:
        JaxfairError: there is no such group, the folder cannot be written, or holds something else; an earlier report
            is then still whole.
    """
    analysed = [*analysed, *beside(folder.parent / "runs", analysed)]
    results = arrays.collect(analysed, reference)._replace(missing=tuple(missing))
    with reports.replacing(folder) as made:
        drawn = drawing.draw_all(figures.DRAWINGS, results, made)
        summary, rows, found = page.summary_rows(results), quantities.group_rows(results), claims.claims(results)
        expansion = page.expansion_rows(results)
        named = {"summary": summary, "groups": rows, "expansion": expansion, "differences": differences.rows(results)}
        on_others = {"imbalance": imbalance.rows(results), "imbalance_groups": imbalance.group_rows(results)}
        named |= on_others
        named["extremes"] = differences.extreme_rows(figures.strongest(results))
        own = {name: [{k: v for k, v in row.items() if k != "relus"} for row in table] for name, table in named.items()}
        tables.write_all(made, own)
        answer = page.answer(results, found)
        meanings = {"networks": pages.of_networks(page.WORDS, results), "summary": pages.COUNTED}
        meanings |= {"imbalance": imbalance.MEANING, "expansion": page.MEANINGS["Foretold"]}
        analyses = [run for run in analysed if run.config["stage"] == "analyse"]
        of_runs = command, analysed, found, drawn, meanings, pages.introduction(results, analyses)
        reports.write_record(made, STUDY, title, answer, pages.warnings(results), *of_runs)
        foretold = [html.heading("What the weights' change foretells"), html.table(Table(page.EXPANSION, expansion))]
        more = [*imbalance.section(*on_others.values()), *(foretold if expansion else ())]
        of_study = page.WORDS, answer, results
        text = pages.page(*of_study, summary, rows, found, analyses, drawn, more, title, command)
        (made / reports.PAGE).write_text(text, encoding="utf-8")
    return results


def beside(root: Path, analysed: Sequence[Run]) -> list[Run]:
    """Return finished analyses of linearized networks and their controls that were made of the same full networks.

    Args:
        root: folder of all runs.
        analysed: the study's own, which tell seeds and settings; labels that are not there once for every seed of
            theirs are left out.
    """
    own = [run for run in analysed if run.config["stage"] == "analyse"]
    full = [run for run in own if run.config["variant"]["method"] == "full" and not rebalanced(run)]
    bases = {run.config["parents"]["full"]: run.config["seed"] for run in full}
    found: dict[str, dict[int, list[Run]]] = {}
    for done in sorted(root.glob("*/DONE")):
        run = runs.read(done.parent)
        of = run.config.get("parents", {}).get("full")
        alike = run.config["stage"] == "analyse" and of in bases
        if alike and run.config["variant"]["method"] in BESIDE and run.config["analysis"] == full[0].config["analysis"]:
            found.setdefault(run.config["variant"]["label"], {}).setdefault(run.config["seed"], []).append(run)
    whole = [label for label, by_seed in found.items() if all(len(by_seed.get(s, ())) == 1 for s in bases.values())]
    return [found[label][seed][0] for label in whole for seed in bases.values()]


def title(analysed: Sequence[Run], data: str) -> str:
    """Return the heading of a report: the architecture of the analysed networks, and what the data are called."""
    return f"Compression of a {analysed[0].config['model']['network']} on {data}: who loses accuracy"


def print_summary(results: Results, title: str) -> None:
    """Print the table of results, and who lost more than whom."""
    tables.show(pages.summary_table(page.WORDS, page.summary_rows(results)), title, pages.seeds_sentence(results))
    print(f"\n{page.answer(results, claims.claims(results))}")
