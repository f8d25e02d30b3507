"""The report of a study: one HTML file that opens offline, the figures as files, the numbers as CSV."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from experiments.linearization import claims, figures, page, paper_figures
from experiments.linearization import results as tables
from experiments.linearization.results import Results
from experiments.reporting import verdicts
from jaxfair.errors import JaxfairError
from jaxfair.runs import Run


def write(analysed: Sequence[Run], folder: Path, *, title: str, command: Sequence[str]) -> Results:
    """Write ``report.html``, figures and tables into ``folder``, replacing an earlier report when all is written.

    The figures of the paper lie in ``folder / "paper"``; ``runs.json`` says what the report was made of, for
    ``tables.read``.

    Args:
        analysed: finished analyses.
        folder: of the report, ``report`` in the study's folder.
        title: heading.
        command: what the reader types to make it again.

    Raises:
        JaxfairError: the folder cannot be written; an earlier report is then still whole.
    """
    results = tables.collect(analysed)
    with replacing(folder, "another --out") as made:
        drawn, of_paper = figures.draw_all(results, made), paper_figures.write(results, made / "paper")
        summary, rows = tables.summary_rows(results), tables.group_rows(results)
        tables.write_csv(made / "summary.csv", summary)
        tables.write_csv(made / "groups.csv", rows)
        found = claims.claims(results)
        write_record(made, title, command, analysed, found)
        text = page.page(results, summary, rows, found, analysed, drawn, of_paper, title, command)
        (made / "report.html").write_text(text, encoding="utf-8")
    return results


def write_record(
    made: Path, title: str, command: Sequence[str], analysed: Sequence[Run], found: Sequence[verdicts.Claim]
) -> None:
    """Write the findings, and what the report was made of, for ``tables.read`` and ``publish``."""
    tables.write_csv(made / "claims.csv", verdicts.rows(found))
    (made / "claims.md").write_text(verdicts.markdown(found), encoding="utf-8")
    record = {"title": title, "command": list(command), "runs": [run.path.name for run in analysed]}
    (made / tables.RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


@contextmanager
def replacing(folder: Path, otherwise: str) -> Iterator[Path]:
    """Give an empty folder to write a report into; it takes the place of ``folder`` when all is written.

    Args:
        folder: of the report; an earlier one stays whole if anything fails.
        otherwise: what to choose instead where it cannot be written.

    Raises:
        JaxfairError: the folder cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".report-") as scratch:
            made = Path(scratch) / "report"
            made.mkdir()
            yield made
            _replace(folder, made, Path(scratch) / "old")
    except OSError as error:
        raise JaxfairError(
            f"The report cannot be written to '{folder}': {error.strerror or error}; all runs are kept, "
            f"make room or choose {otherwise} and run the same command again."
        ) from error


def _replace(folder: Path, made: Path, old: Path) -> None:
    """Put ``made`` in the place of ``folder``, or leave that as it was."""
    if folder.exists():
        folder.rename(old)
    try:
        made.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise


def print_summary(results: Results, title: str) -> None:
    """Print the table of results."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    seeds = len(results.variants[0].seeds)
    table = Table(title=Text(title), caption=page.seeds_sentence(seeds), caption_justify="left")
    table.add_column("network")
    for column in ("ReLUs", "accuracy", "large groups", "small groups", "drop, large (%)", "drop, small (%)"):
        table.add_column(column, justify="right")
    for row in tables.summary_rows(results):
        cells = [page.plus_minus(row, name, 3) for name in ("accuracy", "large_groups", "small_groups")]
        cells += [page.between(row, name, 1) for name in ("large_drop_percent", "small_drop_percent")]
        table.add_row(Text(row["network"]), f"{row['relus']:,}", *cells)
    # A file or a pipe has no width to fit into.
    console = Console()
    (console if console.is_terminal else Console(width=200)).print(table)
