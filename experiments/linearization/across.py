"""Several linearization studies side by side: who loses accuracy, by data set, network, method and budget.

    python -m experiments.linearization.across results/digits results/utkface --out results/across

Reads finished studies of ``experiments.linearization`` and writes one figure (Das et al. 2024, Fig. 1, 6, 7 and 11),
one table of all networks, and the findings of the paper with every study's verdict.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import tyro

from experiments import cli
from experiments.linearization import claims
from experiments.linearization import results as tables
from experiments.linearization.results import Results, Variant
from experiments.reporting import drawing, verdicts
from experiments.reporting.verdicts import Claim
from jaxfair.errors import JaxfairError
from jaxfair.groups import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = {"snl": "SNL", "deepreduce": "DeepReDuce"}
MARKERS = "oD^vsP"
COLUMNS = {
    "accuracy": ("accuracy", 3),
    "large_drop_percent": ("drop, large groups (%)", 1),
    "small_drop_percent": ("drop, small groups (%)", 1),
}
FOOT = (
    "In brackets: 95 % intervals; of accuracies Student's t over seeds, of relative drops over seeds and test images "
    "together, of findings Student's t over seeds that share one split, not corrected for their number."
)


class Study(NamedTuple):
    """A finished study.

    Attributes:
        title: different for every study compared.
        results: of its analyses.
        found: its claims.
    """

    title: str
    results: Results
    found: list[Claim]


def read(folders: Sequence[Path]) -> list[Study]:
    """Read studies from the folders that they were told as ``--out``; equal titles get their folders added.

    Raises:
        JaxfairError: no folder is given, or one twice, or one that is no finished study.
    """
    if not folders:
        raise JaxfairError("No study is given; name the folders that finished studies were told as --out.")
    places = [folder.resolve() for folder in folders]
    if twice := [folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1]:
        raise JaxfairError(f"The study '{twice[0]}' is given more than once; give each folder once.")
    titles = [tables.record(folder)["title"] for folder in folders]
    found = []
    for folder, title in zip(folders, titles, strict=True):
        results = tables.collect(tables.read(folder))
        shown = title if titles.count(title) == 1 else f"{title} ({folder})"
        found.append(Study(shown, results, claims.claims(results)))
    return found


def write(studies: Sequence[Study], folder: Path) -> list[Path]:
    """Write the figure (PNG, SVG), the tables (CSV) and both as Markdown into ``folder``, and return the files.

    Raises:
        JaxfairError: the folder cannot be written.
    """
    import matplotlib as mpl

    networks, findings = network_rows(studies), claim_rows(studies)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context(drawing.STYLE):
            svg = drawing.save(relative_drop(studies), folder / "relative_drop_by_group")
        tables.write_csv(folder / "networks.csv", networks)
        tables.write_csv(folder / "claims.csv", findings)
        (folder / "across.md").write_text(markdown(studies, networks), encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise JaxfairError(f"'{folder}' cannot be written: {reason}; make room or choose another --out.") from error
    return [svg, svg.with_suffix(".png"), *(folder / name for name in ("networks.csv", "claims.csv", "across.md"))]


def relative_drop(studies: Sequence[Study]) -> "Figure":
    """Draw the relative accuracy drop of each group, a row each study and a column each method (Fig. 6, 7 and 11).

    Budgets stand side by side, from the most ReLUs kept to the fewest, which are the darkest. Methods are SNL and
    DeepReDuce, as in the paper; a study without one of them leaves its place empty.

    Raises:
        JaxfairError: no study has a network of these methods.
    """
    from matplotlib.figure import Figure

    methods = [m for m in METHODS if any(_of_method(study.results, m) for study in studies)]
    if not methods:
        raise JaxfairError("No study has a network linearized by SNL or DeepReDuce; give at least one that has.")
    width = max([4.6, *(drawing.width_of_groups(study.results) for study in studies)])
    labels = [drawing.group_labels(study.results, width) for study in studies]
    heights = [2.9 + label.extra for label in labels]
    figure = Figure(figsize=((width + 1.5) * len(methods), sum(heights)), layout="constrained")
    rows = figure.subfigures(len(studies), 1, height_ratios=heights, squeeze=False)[:, 0]
    for row, study, label in zip(rows, studies, labels, strict=True):
        row.suptitle(study.title, x=0.01, ha="left", fontsize=10.5, weight="bold")
        grid = row.subplots(1, len(methods), sharey=True, squeeze=False)[0]
        for axes, method in zip(grid, methods, strict=True):
            _budgets(axes, study.results, method)
            drawing.label_groups(axes, label)
        grid[0].set_ylabel("relative accuracy drop (%)")
    return figure


def _of_method(results: Results, method: str) -> list[Variant]:
    """Return the networks of a method, from the most ReLUs kept to the fewest."""
    return sorted((v for v in results.variants if v.method == method), key=lambda v: -v.relu_count)


def _budgets(axes: Any, results: Results, method: str) -> None:
    import matplotlib as mpl

    networks = _of_method(results, method)
    axes.set_visible(bool(networks))
    for i, network in enumerate(networks):
        mean, interval = tables.drops(results, network)
        x = np.arange(len(mean)) + (i - (len(networks) - 1) / 2) * 0.7 / len(networks)
        color = mpl.colormaps["viridis"](0.85 * (1 - i / max(len(networks) - 1, 1)))
        ends = Interval(interval.low[results.order], interval.high[results.order])
        name = f"{100 * network.relu_count / network.unit_count:.2g} % ({network.relu_count:,})"
        name = name if method == "snl" else f"{network.label.removeprefix('DeepReDuce ')}: {name}"
        drawing.errorbar(axes, x, mean[results.order], ends, color, MARKERS[i % len(MARKERS)], "none", name, size=4)
    axes.axhline(0, color="#888888", linewidth=0.8, zorder=1)
    axes.set_title(METHODS[method], fontsize=9.5)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, title="ReLUs kept", title_fontsize=8)


def network_rows(studies: Sequence[Study]) -> list[dict[str, Any]]:
    """Return one row a study and network: accuracy and the drops of large and small groups, with intervals."""
    return [{"study": study.title, **row} for study in studies for row in tables.summary_rows(study.results)]


def claim_rows(studies: Sequence[Study]) -> list[dict[str, Any]]:
    """Return one row a study and finding, as ``verdicts.rows`` has it."""
    return [{"study": study.title, **row} for study in studies for row in verdicts.rows(study.found)]


def markdown(studies: Sequence[Study], networks: Sequence[dict[str, Any]]) -> str:
    """Return both tables as Markdown: the networks of all studies, and each finding with every study's verdict."""
    lines = _table_row("study", "network", "ReLUs", *(head for head, _ in COLUMNS.values()))
    lines += _table_row(*["---"] * (3 + len(COLUMNS)))
    for row in networks:
        numbers = [_number(row[n], row[f"{n}_low"], row[f"{n}_high"], d) for n, (_, d) in COLUMNS.items()]
        lines += _table_row(row["study"], row["network"], f"{row['relus']:,}", *numbers)
    lines += ["", *_table_row("finding", *(study.title for study in studies))]
    lines += _table_row(*["---"] * (1 + len(studies)))
    by_name = [{claim.name: claim for claim in study.found} for study in studies]
    for name, statement in {claim.name: claim.statement for study in studies for claim in study.found}.items():
        lines += _table_row(statement, *(_verdict(found.get(name)) for found in by_name))
    return "\n".join(["# Studies side by side", "", *lines, "", FOOT, ""])


def _verdict(claim: Claim | None) -> str:
    if claim is None:
        return "not studied"
    number = _number(claim.value, claim.low, claim.high, 2)
    return f"{claim.verdict}; {number}" if number else claim.verdict


def _number(value: float, low: float, high: float, digits: int) -> str:
    if not np.isfinite(value):
        return ""
    return f"{value:.{digits}f}" + (f" ({low:.{digits}f} to {high:.{digits}f})" if np.isfinite(low) else "")


def _table_row(*cells: str) -> list[str]:
    return ["| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"]


@dataclasses.dataclass(frozen=True)
class Across:
    """Compare several linearization studies: who loses accuracy, by data set, network, method and budget.

    Attributes:
        studies: folders that finished studies were told as ``--out``.
        out: folder of the figure and the tables.
    """

    studies: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="STUDY ...")]
    out: Path


def compare(given: Across, _: Sequence[str]) -> None:
    """Write the comparison, and print the files that it is in."""
    for file in write(read(given.studies), given.out):
        print(file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    command = cli.Command(Across, compare, "the studies are untouched, and the same command starts over")
    return cli.main("python -m experiments.linearization.across", __doc__, {"": command}, arguments)


if __name__ == "__main__":
    sys.exit(main())
