"""The comparison of several finished studies of linearization: one figure, one table of networks, one of findings."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.analyses import quantities
from experiments.analyses import results as arrays
from experiments.analyses.results import Results, Variant
from experiments.linearization import claims, page
from experiments.linearization.report import STUDY
from experiments.reporting import drawing, files, reports, series, tables, verdicts
from experiments.reporting.drawing import Drawing, Points
from experiments.reporting.series import Estimate
from experiments.reporting.tables import Column, Table
from experiments.reporting.verdicts import Claim, Missing
from experiments.running.settings import check_once
from jaxfair.errors import JaxfairError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from experiments.linearization.across import Across

HEADING = "# Studies side by side"
MAIN, KIND = "across.md", ("comparison of studies", HEADING)
"""The page, what it is called, and the text in it by which an earlier one is known, see ``files.replacing``."""
METHODS = {"snl": "SNL", "deepreduce": "DeepReDuce"}
MARKERS = "oD^vsP"
COLUMNS = (
    Column("study"),
    Column("network"),
    Column("relus", "ReLUs"),
    Column("accuracy", form=".3f"),
    Column("large_drop_percent", "drop, large groups (%)", ".1f"),
    Column("small_drop_percent", "drop, small groups (%)", ".1f"),
    Column("without_a_drop", "left out of the drops, as they have none"),
)
FOOT = (
    "In brackets: 95 % intervals; of accuracies and relative drops over seeds and test images together, of findings as "
    "in each study's report. Verdicts are corrected for the number of findings of a study (Holm 1979)."
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
    """Read studies from the folders that they were told as ``--out``; equal titles get their folders' names added.

    Raises:
        JaxfairError: no folder is given, or one twice, or one that is no finished study.
    """
    if not folders:
        raise JaxfairError("No study is given; name the folders that finished studies were told as --out.")
    check_once(folders)
    places = [study.resolve() for study in folders]
    titles = [reports.read_record(study, STUDY)["title"] for study in folders]
    found = []
    for place, study, title in zip(places, folders, titles, strict=True):
        results = arrays.collect(arrays.read(study, STUDY))
        alike = [other.name for other, its in zip(places, titles, strict=True) if its == title]
        name = place.name if alike.count(place.name) == 1 else f"{place.parent.name}/{place.name}"
        shown = title if len(alike) == 1 else f"{title} ({name})"
        found.append(Study(shown, results, claims.claims(results)))
    return found


def write(studies: Sequence[Study], into: Path) -> list[Path]:
    """Write the figure (PNG, SVG), the tables (CSV) and both as Markdown into a folder, and return the files.

    Raises:
        JaxfairError: the folder cannot be written, or holds files of others by these names.
    """
    networks = network_rows(studies)
    with files.replacing(into / MAIN, *KIND) as made:
        (drawn,) = drawing.draw_all(DRAWINGS, studies, made)
        if drawn.file is None:
            raise Missing(drawn.reason)
        tables.write_csv(made / "networks.csv", networks)
        tables.write_csv(made / "claims.csv", claim_rows(studies))
        (made / "across.md").write_text(markdown(studies, networks), encoding="utf-8")
    names = (drawn.file.name, f"{drawn.name}.png", "networks.csv", "claims.csv", "across.md")
    return [into / name for name in names]


def relative_drop(studies: Sequence[Study]) -> "Figure":
    """Draw the relative accuracy drop of each group, a row each study and a column each method (Fig. 6, 7 and 11).

    Budgets stand side by side, from the most ReLUs kept to the fewest, which are the darkest. Methods are SNL and
    DeepReDuce, as in the paper; a study without one of them leaves its place empty.

    Raises:
        Missing: no study has a network of these methods.
    """
    from matplotlib.figure import Figure

    methods = [m for m in METHODS if any(_of_method(study.results, m) for study in studies)]
    if not methods:
        raise Missing("No study has a network linearized by SNL or DeepReDuce; give at least one that has.")
    width = max([4.6, *(drawing.width_of_groups(study.results.groups) for study in studies)])
    labels = [drawing.group_labels(study.results.groups, width) for study in studies]
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
    """Draw one method's networks side by side in each group; the fewer ReLUs the darker."""
    import matplotlib as mpl

    networks = _of_method(results, method)
    if not networks:
        axes.set_visible(False)
        return
    rows = []
    for i, network in enumerate(networks):
        color = mpl.colormaps["viridis"](0.85 * (1 - i / max(len(networks) - 1, 1)))
        name = f"{network.percent_kept} % ({network.relu_count:,})"
        name = name if method == "snl" else f"{network.label.removeprefix('DeepReDuce ')}: {name}"
        rows.append(Points(name, color, MARKERS[i % len(MARKERS)], quantities.drops(results, network)))
    drawing.by_group(axes, results.groups, rows, zero=True)
    axes.set_title(METHODS[method], fontsize=9.5)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, title="ReLUs kept", title_fontsize=8)


TITLE = "Relative accuracy drop of each group, by study, method and budget"
DRAWINGS = {"relative_drop_by_group": Drawing(TITLE, "", relative_drop)}


def network_rows(studies: Sequence[Study]) -> list[dict[str, Any]]:
    """Return one row a study and network: accuracy and the drops of large and small groups, with intervals."""
    rows = [{"study": study.title, **row} for study in studies for row in quantities.summary_rows(study.results)]
    if any("without_a_drop" in row for row in rows):  # of some study
        rows = [row | {"without_a_drop": row.get("without_a_drop", "")} for row in rows]
    return rows


def claim_rows(studies: Sequence[Study]) -> list[dict[str, Any]]:
    """Return one row a study and finding, as ``verdicts.rows`` has it."""
    return [{"study": study.title, **row} for study in studies for row in verdicts.rows(study.found)]


def markdown(studies: Sequence[Study], networks: Sequence[dict[str, Any]]) -> str:
    """Return who lost more than whom in each study, all networks, and each finding with every study's verdict."""
    by_title = {study.title: {claim.name: claim for claim in study.found} for study in studies}
    statements = {claim.name: claim.statement for study in studies for claim in study.found}
    rows = [
        {"": statement, **{title: _verdict(found.get(name)) for title, found in by_title.items()}}
        for name, statement in statements.items()
    ]
    findings = Table([Column("", "finding"), *(Column(title, title) for title in by_title)], rows)
    said = [page.answer(study.results, study.found).replace("\n\n", " ") for study in studies]
    answers = [f"- {study.title}: {answer}" for study, answer in zip(studies, said, strict=True)]
    parts = [
        HEADING,
        "\n".join(answers),
        tables.markdown(Table([column for column in COLUMNS if column.name in networks[0]], networks)),
        tables.markdown(findings),
        FOOT,
    ]
    return "\n\n".join(parts) + "\n"


def _verdict(claim: Claim | None) -> str:
    if claim is None:
        return "not studied"
    return "; ".join(filter(None, [claim.verdict, series.text(Estimate(claim.value, claim.low, claim.high))]))


def compare(given: "Across", _: Sequence[str]) -> None:
    """Write the comparison, and print the files that it is in."""
    files.check_own(given.out / MAIN, *KIND)
    studies = read(given.studies)
    for file in write(studies, given.out):
        print(file)
