"""The report of a study: one HTML file that opens offline, the figures as files, the numbers as CSV."""

from collections.abc import Sequence
from pathlib import Path

from experiments.analyses import differences, imbalance, quantities
from experiments.analyses import page as pages
from experiments.analyses import results as arrays
from experiments.analyses.results import Results
from experiments.linearization import claims, figures, followed, page
from experiments.reporting import drawing, html, reports, tables
from jaxfair.runs import Run

STUDY = "linearization"
"""What the record of a report calls this study."""


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

    The figures of the paper lie in ``paper``; ``runs.json`` says what the report was made of, for ``results.read``.

    Args:
        analysed: finished analyses, and runs of stages 'sampling' and 'follow' of their networks.
        folder: of the report, ``report`` in the study's folder.
        title: heading.
        command: what the reader types to make it again.
        reference: group that the others are compared with; by default that with the most training images.
        missing: sentences on what is not shown, since its runs failed.

    Raises:
        JaxfairError: there is no such group, the folder cannot be written, or holds something else; an earlier report
            is then still whole.
    """
    results = arrays.collect(analysed, reference)._replace(missing=tuple(missing))
    with reports.replacing(folder) as made:
        drawn = drawing.draw_all(figures.DRAWINGS, results, made)
        of_paper = drawing.draw_all(figures.PAPER, results, made / "paper")
        summary, rows, found = quantities.summary_rows(results), quantities.group_rows(results), claims.claims(results)
        compared = {"differences": differences.rows(results), "extremes": differences.extreme_rows(results)}
        on_others = {"imbalance": imbalance.rows(results), "imbalance_groups": imbalance.group_rows(results)}
        of_training = {"followed": followed.rows(results), "followed_groups": followed.group_rows(results)}
        tables.write_all(made, {"summary": summary, "groups": rows, **compared, **on_others, **of_training})
        answer = page.answer(results, found)
        meanings = {"networks": pages.of_networks(page.WORDS, results), "summary": page.HEADERS}
        meanings |= {"imbalance": imbalance.MEANING, "followed": followed.MEANING}
        analyses = [run for run in analysed if run.config["stage"] == "analyse"]
        of_runs = command, analysed, found, [*drawn, *of_paper], meanings, pages.introduction(results, analyses)
        reports.write_record(made, STUDY, title, answer, pages.warnings(results), *of_runs)
        of_study = page.WORDS, answer, results
        more = [*imbalance.section(*on_others.values()), *followed.section(*of_training.values())]
        more += [html.heading("Figures of the paper"), html.figures(of_paper)]
        text = pages.page(*of_study, summary, rows, found, analyses, drawn, more, title, command)
        (made / reports.PAGE).write_text(text, encoding="utf-8")
    return results


def title(analysed: Sequence[Run], data: str) -> str:
    """Return the heading of a report: the architecture of the analysed networks, and what the data are called."""
    network = (
        analysed[0].config["model"].get("network", "ResNet")
    )  # which runs did not record while it was the only one
    return f"Linearization of a {network} on {data}: who loses accuracy"


def print_summary(results: Results, title: str) -> None:
    """Print the table of results, and who lost more than whom."""
    table = pages.summary_table(page.WORDS, quantities.summary_rows(results))
    tables.show(table, title, pages.seeds_sentence(results))
    print(f"\n{page.answer(results, claims.claims(results))}")
