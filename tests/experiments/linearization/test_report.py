"""The report: one file that needs nothing else, names escaped, and an old report that survives a failing write."""

import errno
import json
import os
from html import escape
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from experiments.analyses import differences, quantities
from experiments.analyses import results as arrays
from experiments.analyses.results import Results
from experiments.linearization import claims, figures, report
from experiments.linearization.page import WORDS
from experiments.reporting import drawing, reports
from experiments.reporting import tables as written
from jaxfair.errors import JaxfairError
from jaxfair.runs import Run
from jaxfair.training.config import Method
from tests.experiments.page import Page
from tests.study import make_analyses, mitigated, sketch

CONTROLLED = {
    "accuracy_drop_from_control",
    "harm_by_training",
    "harm_by_imbalance",
}  # of which these studies have nothing
FILES = {
    "report.html",
    "runs.json",
    "summary.csv",
    "groups.csv",
    "differences.csv",
    "extremes.csv",
    "claims.csv",
    "claims.md",
    "paper",
} | {f"{name}.{kind}" for name in {*figures.DRAWINGS} - CONTROLLED for kind in ("png", "svg")}
PAPER = {f"{name}.{kind}" for name in figures.PAPER for kind in ("png", "svg")}
NETWORKS = (
    ("Full network", "full", 768),
    ("SNL 200", "snl", 200),
    ("SNL 50", "snl", 50),
    ("DeepReDuce C12", "deepreduce", 0),
)
TITLE = "Linearization of <everything> & more"
COMMAND = ["python -m experiments.linearization", "--out", "a<b"]


def write(analysed: list[Run], folder: Path) -> Results:
    return report.write(analysed, folder, title=TITLE, command=COMMAND)


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    names = ("<b>bold</b>", 'a "quoted" & long name', "é ☃")
    networks = [*NETWORKS, mitigated("SNL 50", 50, rate=0.01), mitigated("SNL 50", 50, rate=0.1)]
    return make_analyses(tmp_path_factory.mktemp("analyses"), group_names=names, networks=networks)


@pytest.fixture(scope="module")
def folder(analysed: list[Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "deep" / "report"
    write(analysed, folder)
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture
def sketched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the figures empty: they take most of a report's time."""
    monkeypatch.setattr(drawing, "save", sketch)


def test_a_report_is_complete(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == FILES
    assert {path.name for path in (folder / "paper").iterdir()} == PAPER
    assert [path.name for path in folder.parent.iterdir()] == ["report"]  # no scratch folder is left


def test_the_page_loads_nothing(page: Page) -> None:
    assert page.loads  # the figures refer to their own glyphs
    assert [url for url in page.loads if not url.startswith("#")] == []
    assert not page.seen & {"script", "iframe", "object", "embed", "link", "base", "img"}


def test_a_small_screen_shows_the_first_figure_before_what_it_means(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert 0 < text.index("<figure>") < text.index(escape(WORDS.lost))


def test_every_figure_of_the_paper_is_shown_or_says_why_not(
    page: Page, folder: Path, analysed: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = [of.caption for of in figures.PAPER.values()]
    assert all(caption in page.text for caption in captions)
    assert page.text.count("cannot be drawn") == len(CONTROLLED)
    shown = (folder / "report.html").read_text(encoding="utf-8").count("<svg")
    assert shown == len(captions) + len(figures.DRAWINGS) - len(CONTROLLED)
    monkeypatch.setattr(drawing, "save", sketch)
    write(analysed[:3], tmp_path / "report")
    text = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    every = [*figures.DRAWINGS, *figures.PAPER]
    lacking = [name for name in every if f"({name}) cannot be drawn: No " in Page(text).text]
    assert text.count("<svg") + len({*lacking} - CONTROLLED) == shown
    folded = len({*lacking} & {*figures.PAPER})
    assert f"<summary>{folded} figures for which this study has not enough data" in text
    assert {path.stem for path in (tmp_path / "report" / "paper").iterdir()} == set(figures.PAPER) - {*lacking}


def test_names_are_escaped(page: Page) -> None:
    assert "b" not in page.seen
    assert "everything" not in page.seen
    cells = {row[0] for row in page.rows}
    assert {"<b>bold</b>", 'a "quoted" & long name', "é ☃"} <= cells
    assert TITLE in page.text
    assert "--out PATH" in page.text


def test_the_tables_of_the_page_are_those_of_the_files(page: Page, analysed: list[Run]) -> None:
    results = arrays.collect(analysed)
    numbers = [row for row in page.rows if row[0] not in ("network", "group", "finding")]
    summary, groups = quantities.summary_rows(results), quantities.group_rows(results)
    found, compared = claims.claims(results), differences.rows(results)
    found.sort(key=lambda claim: claim.verdict == "not enough data")  # which are folded below the others
    extremes, numbers = numbers[: len(summary) - 1], numbers[len(summary) - 1 :]
    shown, numbers = numbers[: len(compared)], numbers[len(compared) :]
    assert [row[0] for row in extremes] == [row["network"] for row in summary[1:]]
    for cells, row in zip(shown, compared, strict=True):
        assert (cells[0], cells[4]) == (row["group"], row["lost"])
        assert float(cells[1].split()[0]) == pytest.approx(float(row["difference_points"].mean), abs=0.05)
    findings, numbers[len(summary) :] = numbers[len(summary) :][: len(found)], numbers[len(summary) + len(found) :]
    assert len(numbers) == len(summary) + len(groups)
    for shown, claim in zip(findings, found, strict=True):
        assert shown[0].startswith(claim.statement)
        if claim.verdict == "not enough data":
            assert shown[1:] == [str(claim.seeds), claim.verdict, claim.note]
            continue
        assert [shown[2], shown[5]] == [str(claim.seeds), claim.verdict]
        assert float(shown[1].split()[0]) == pytest.approx(claim.value, rel=5e-3)
    for shown, row in zip(numbers, summary, strict=False):
        assert shown[:2] == [row["network"], f"{row['relus']:,}"]
        for cell, name in zip(shown[2:5], ("accuracy", "large_groups", "small_groups"), strict=True):
            value, low, _, high = cell.split()
            assert [float(value), float(low[1:]), float(high[:-1])] == pytest.approx(
                [float(part) for part in row[name]], abs=5e-4
            )
    assert numbers[0][5:7] == ["", ""]  # the full network drops by nothing
    assert numbers[3][7] == ""  # DeepReDuce's parameters are others
    for shown, row in zip(numbers[len(summary) :], groups, strict=True):
        assert shown[:3] == [row["group"], str(row["train_count"]), str(row["test_count"])]
        loss, low, _, high = shown[5].split()
        assert [float(loss), float(low[1:]), float(high[:-1])] == pytest.approx(
            [float(part) for part in row["loss"]], abs=5e-4
        )
    assert "nan" not in " ".join(" ".join(row) for row in page.rows).lower()


def test_the_page_opens_with_the_answer(page: Page, analysed: list[Run], tmp_path: Path, sketched: None) -> None:
    """Three seeds are too few for one; another reference changes what is compared, and its name is checked."""
    said = page.text.split(TITLE)[2]
    assert said.index("mu is the rate at which the Lagrangian's multipliers grow") < said.index("(mu 0.01)")
    assert said.startswith(
        "At SNL 50, no difference between groups can be told from noise (3 seeds, at least 5 are needed)."
    )
    report.write(analysed, tmp_path / "other", title=TITLE, command=COMMAND, reference="é ☃")
    text = Page((tmp_path / "other" / "report.html").read_text(encoding="utf-8")).text
    assert "than é ☃ (" in text.split("The largest difference seen: ")[1][:80]
    assert "than <b>bold</b> (" in said.split("The largest difference seen: ")[1][:80]
    with pytest.raises(JaxfairError, match="no group 'x' to be the reference; the groups are <b>bold"):
        report.write(analysed, tmp_path / "none", title=TITLE, command=COMMAND, reference="x")
    assert not (tmp_path / "none").exists()


def test_csv_files_hold_the_tables(folder: Path, analysed: list[Run], tmp_path: Path) -> None:
    results = arrays.collect(analysed)
    for name, rows in (("summary", quantities.summary_rows(results)), ("groups", quantities.group_rows(results))):
        written.write_csv(tmp_path / "again.csv", rows)
        assert (folder / f"{name}.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()


def test_provenance_names_every_run_and_its_arithmetic(page: Page, analysed: list[Run]) -> None:
    facts = json.loads(page.text[page.text.index("{") :])
    assert facts["analysed runs"] == [run.path.name for run in analysed]
    assert facts["devices"] == ["cpu: cpu x 1, 2 cores"]
    assert facts["precision of matrix products"] == ["highest"]
    assert facts["versions"]["numpy"] == np.__version__
    assert facts["predictions repeated bit for bit"] is True
    assert facts["worst relative residual of an eigenvalue"] == 0.01


def test_provenance_names_every_version_kernel_and_device(analysed: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """A study may be made in parts, on several machines."""
    plain = analysed[0].json("environment.json")
    versions = plain["versions"] | {"jax": "0.1.2", "jaxfair": None}  # None: not installed, as in a copied folder
    later = plain | {"versions": versions, "kernels": "onednn", "threads": 1}
    kept = Run.json

    def told(run: Run, name: str) -> Any:
        return later if (run, name) == (analysed[-1], "environment.json") else kept(run, name)

    monkeypatch.setattr(Run, "json", told)
    facts = reports.provenance(analysed)
    assert facts["versions"]["jax"] == f"0.1.2 and {plain['versions']['jax']}"
    assert facts["versions"]["jaxfair"] == f"{plain['versions']['jaxfair']} and none"
    assert facts["versions"]["flax"] == plain["versions"]["flax"]
    assert facts["kernels of convolutions"] == ["onednn"]
    assert facts["devices"] == ["cpu: cpu x 1, 2 cores", "cpu: cpu x 1, 2 cores, threads: 1"]


@pytest.mark.usefixtures("sketched")
def test_small_test_sets_and_missing_convergence_are_warned_of(tmp_path: Path) -> None:
    made = make_analyses(tmp_path, group_names=("a", "b", "c"), test_count=(40, 60, 13), seeds=1)
    result = made[1].json("result.json")
    result["groups"]["top_eigenvalue_converged"][0] = False
    result["groups"]["top_eigenvalue_residual"][0] = None
    result["checks"]["worst_relative_residual"] = None  # infinite: an eigenvalue was 0
    for run in made[1:3]:
        run.write_json("result.json", result)
        run.finish()
    write(made, tmp_path / "report")
    page = Page((tmp_path / "report" / "report.html").read_text(encoding="utf-8"))
    assert "Fewer than 30 test images in group c:" in page.text
    assert "Some eigenvalues of SNL 200, SNL 50 did not converge; see their residuals." in page.text
    assert "One seed: 95 % intervals are over test images alone" in page.text
    assert "nor have losses and distances of groups of fewer than 45 images." in page.text
    assert "nan" not in " ".join(" ".join(row) for row in page.rows).lower()


@pytest.mark.usefixtures("sketched")
def test_a_new_report_replaces_the_old_one(analysed: list[Run], tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    for name in ("report.html", "old_figure.png"):
        (tmp_path / "report" / name).write_bytes(b"")
    write(analysed[:6], tmp_path / "report")
    assert {path.name for path in (tmp_path / "report").iterdir()} == FILES


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize(("owner", "name"), [(drawing, "draw_all"), (written, "write_csv"), (Path, "write_text")])
def test_a_failing_write_leaves_the_old_report(
    analysed: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    write(analysed[:6], tmp_path / "report")
    before = (tmp_path / "report" / "report.html").read_bytes()

    def no_space(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(owner, name, no_space)
    with pytest.raises(JaxfairError, match=r"cannot be written to .*No space left.*runs are kept"):
        write(analysed[:9], tmp_path / "report")
    assert (tmp_path / "report" / "report.html").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


@pytest.mark.usefixtures("sketched")
def test_what_is_no_report_is_left_alone(analysed: list[Run], tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "thesis.tex").write_text("years of work")
    with pytest.raises(JaxfairError, match="holds something else than a report, which would be lost; name a new"):
        write(analysed, tmp_path / "report")
    assert (tmp_path / "report" / "thesis.tex").read_text() == "years of work"


@pytest.mark.usefixtures("sketched")
def test_of_one_group_nobody_lost_most(tmp_path: Path) -> None:
    made = make_analyses(tmp_path, group_names=("all",), train_count=(90,), test_count=(60,), networks=NETWORKS[:2])
    write(made, tmp_path / "report")
    text = Page((tmp_path / "report" / "report.html").read_text(encoding="utf-8")).text
    assert "there is no second group to compare with" in text
    assert "lost most" not in text


def test_the_title_names_the_network(tmp_path: Path) -> None:
    made = make_analyses(tmp_path, seeds=1, networks=NETWORKS[:1])[0]
    cnn = made.config | {"model": {"network": "CNN"}}
    assert report.title([Run(made.path, cnn)], "faces") == "Linearization of a CNN on faces: who loses accuracy"
    assert report.title([made], "faces") == "Linearization of a ResNet on faces: who loses accuracy"


def test_the_printed_table_holds_every_network(analysed: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    results = arrays.collect(analysed)
    report.print_summary(results, "A title [in brackets]")
    out = capsys.readouterr().out
    assert "A title [in brackets]" in out
    assert "\x1b" not in out
    for row in quantities.summary_rows(results):
        (line,) = [line for line in out.splitlines() if line[1:].split("│")[0].strip() == row["network"]]
        assert f"{row['accuracy'].mean:.3f} (" in line
        assert row["network"] == "Full network" or f"{row['large_drop_percent'].mean:.1f} (" in line


def test_every_mitigation_in_a_name_is_explained() -> None:
    told = WORDS.networks["mitigated"].lower()
    methods = set(get_args(Method)) - {"none", "alignment"}  # which studies of hardware alone have
    assert [method for method in methods if method not in told] == []
