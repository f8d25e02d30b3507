"""A study's page holds what its report holds, and no place on this machine."""

import csv
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from experiments.hardware import figures
from experiments.linearization import report
from experiments.reporting import publish, reports, tables
from experiments.reporting.comparisons import COUNTED_FROM
from jaxfair import runs
from jaxfair.errors import JaxfairError
from jaxfair.runs import Run
from tests.study import made_once, make_analyses, make_study, mitigated, sketch


@pytest.fixture
def sketched() -> Iterator[None]:
    """Leave the figures empty: they take most of a report's time."""
    with mock.patch("experiments.reporting.drawing.save", sketch):
        yield


def test_a_page_holds_command_table_findings_and_figure(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    study = made_once(tmp_path_factory.getbasetemp())
    assert publish.main([str(study), "--out", str(tmp_path / "pages" / "tiny.md")]) == 0
    text = (tmp_path / "pages" / "tiny.md").read_text()
    assert str(study.parent) not in text
    assert "--out PATH" in text or "--out" not in text
    assert "| DeepReDuce C12 |" in text
    assert (study / "report" / "claims.md").read_text().strip() in text
    assert "(tiny-accuracy_drop_by_group.png)" in text
    assert (tmp_path / "pages" / "tiny-accuracy_drop_by_group.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("last", ["claims.md", "runs.json"])
def test_a_report_that_changes_while_it_is_read_is_on_no_page(
    last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of one and half of another: the study's command goes on with more seeds, say, or has just moved the old."""
    make_study(tmp_path / "study", "Study", seeds=1)
    file, groups = tmp_path / "study" / "report" / last, publish._groups
    record = json.loads((tmp_path / "study" / "report" / "runs.json").read_text())

    def meanwhile(*arguments: Any) -> str:
        file.unlink()
        if last == "runs.json":
            file.write_text(json.dumps(record | {"title": "Another"}))
        return groups(*arguments)

    monkeypatch.setattr(publish, "_groups", meanwhile)
    with pytest.raises(JaxfairError, match="changed while it was read; give the same command again"):
        publish.write(tmp_path / "study", tmp_path / "page.md")
    assert not list(tmp_path.glob("*page*"))


def test_places_are_hidden_and_nothing_else() -> None:
    command = ["python", "--out", "/a/b", "--data.path=/c", "--seeds", "3", "--data.images", "/d", "--data.path", "e/f"]
    assert reports.without_places(command) == [
        *("python", "--out", "PATH", "--data.path=PATH", "--seeds", "3", "--data.images", "PATH", "--data.path", "PATH")
    ]
    assert reports.typed(["python -m x", "--reference", "White & male"]) == "python -m x --reference 'White & male'"
    merged = ["python -m experiments.hardware", "merge", "/home/me/a", "~/b.tar", "c/d", "--xla_dump_to=/home/me/x"]
    assert reports.without_places(merged) == [merged[0], "merge", "a", "b.tar", "c/d", "--xla_dump_to=x"]


@pytest.mark.usefixtures("sketched")
def test_a_page_opens_with_who_lost_more_than_whom(tmp_path: Path) -> None:
    made = make_study(tmp_path / "study", "Study", seeds=1)
    lost = "SNL 20 is missing, since seed 1 failed."
    report.write(made, tmp_path / "study" / "report", title="Study", command=["a"], missing=[lost])
    publish.write(tmp_path / "study", tmp_path / "page.md")
    title, said, known, picture = (tmp_path / "page.md").read_text().split("\n\n")[:4]
    assert title == "# Study"
    assert said.startswith("At SNL 50, no difference between groups can be told from noise (1 seed, ")
    warned = "Fewer than 30 test images in group c: their intervals are very wide."
    assert known.splitlines() == [f"- {lost}", f"- {warned}"]
    assert "page-differences_by_group.png" in picture
    digest = reports.provenance(made)["digest"]
    assert f"- Digest of all settings and data: `{digest}`" in (tmp_path / "page.md").read_text()
    assert reports.provenance(made[::-1])["digest"] == digest != reports.provenance(made[1:])["digest"]
    assert (tmp_path / "page.md").read_text().index("## Who lost most") < (tmp_path / "page.md").read_text().index(
        "```sh"
    )


@pytest.mark.usefixtures("sketched")
def test_a_page_says_of_what_it_is_and_what_its_tables_mean(tmp_path: Path) -> None:
    make_study(tmp_path / "study", "Study", seeds=2)
    publish.write(tmp_path / "study", tmp_path / "page.md")
    before, _, after = (tmp_path / "page.md").read_text().partition("## Who lost most")
    names = "SNL n keeps the n ReLUs that selective network linearization chose"
    assert before.index("The reference group is a.") < before.index(names) < before.index("accuracy_drop_by_group.png")
    told = "2 seeds, 3 groups, 720 training and 113 test images of 'handmade'. The reference group is a. 95 % intervals"
    assert f"\n\n{told}" in before
    assert "Each network is judged for itself: of twenty whose groups lose alike one may" in after
    assert COUNTED_FROM in after.partition("## ")[0]
    assert COUNTED_FROM in before
    networks = after.partition("## Networks\n\n")[2]
    assert networks.startswith("Drop percent is counted from the full network;")
    assert "relative drop matched percent are counted from the control. Million passes are the work" in networks


@pytest.mark.usefixtures("sketched")
def test_a_letter_is_explained_where_it_stands_first(tmp_path: Path) -> None:
    """As mu is in the names of mitigated networks, which a warning may have, and figures."""
    networks = [("Full network", "full", 768), ("SNL 50", "snl", 50), mitigated("SNL 50", 50)]
    counts = {"group_names": ("a", "b"), "train_count": (400, 20), "test_count": (400, 400)}
    made = make_study(tmp_path / "study", "Study", seeds=3, networks=networks, rarely_right=(1,), **counts)
    publish.write(tmp_path / "study", tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    with mock.patch(
        "experiments.analyses.quantities.biased_drops", return_value=["b at SNL 50 + lagrangian (mu 0.01)"]
    ):
        report.write(made, tmp_path / "study" / "report", title="Study", command=["a"])
    publish.write(tmp_path / "study", tmp_path / "page.md")
    warned = (tmp_path / "page.md").read_text()
    assert text.index("mu is the rate") < text.index("(mu 0.01)")
    first = warned.index("(mu 0.01)")
    assert "too small where few are right. By more than a tenth of its interval's half width" in warned[:first]
    assert warned.index("mu is the rate") < warned.index("![", first)
    captions = [figures.DRAWINGS[name].caption for name in ("alignment", "linearized")]
    assert all("xi is the range of Delta" in caption for caption in captions)


@pytest.mark.usefixtures("sketched")
def test_groups_keep_their_names(tmp_path: Path) -> None:
    """In every table of a page, and of the report, though they look like numbers, and two like the same one."""
    names = ("250.0", "2.5e2", "1.2345")
    make_study(tmp_path / "study", "Study", seeds=2, group_names=names)
    publish.write(tmp_path / "study", tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    cells = {cell.strip() for line in text.splitlines() for cell in line.split("|") if line.startswith("|")}
    assert set(names) <= cells
    assert not cells & {"250", "1.23"}
    for file in (tmp_path / "study" / "report").glob("*.csv"):
        with file.open(newline="", encoding="utf-8") as opened:
            written = [dict(row) for row in csv.DictReader(opened)]
        for row, read in zip(written, tables.read_csv(file).rows, strict=True):
            assert all(read[column] == cell for column, cell in row.items() if cell in names), file


@pytest.mark.usefixtures("sketched")
def test_a_report_of_runs_elsewhere_is_published(tmp_path: Path) -> None:
    """As that of merged studies is, in whose own folder there are no runs."""
    made = make_analyses(tmp_path / "runs-of-others", seeds=2)
    report.write(made, tmp_path / "merged" / "report", title="Merged", command=["merge"])
    publish.write(tmp_path / "merged", tmp_path / "page.md")
    assert "- Runs: 8, " in (tmp_path / "page.md").read_text()


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize(
    ("damage", "wrong"), [(Path.unlink, "is missing"), (lambda file: file.write_text("a,b\n1\n"), "was changed")]
)
@pytest.mark.parametrize("name", ["groups.csv", "summary.csv", "claims.md", "differences_by_group.png"])
def test_a_damaged_report_is_refused(tmp_path: Path, name: str, damage: Callable[[Path], Any], wrong: str) -> None:
    make_study(tmp_path / "study", "Study", seeds=1)
    damage(tmp_path / "study" / "report" / name)
    with pytest.raises(JaxfairError, match=rf"report/{name}' {wrong}; run the study again, which keeps its runs"):
        publish.write(tmp_path / "study", tmp_path / "page.md")
    assert not (tmp_path / "page.md").exists()


@pytest.mark.usefixtures("sketched")
def test_only_runs_of_the_report_are_counted(tmp_path: Path) -> None:
    """Those that it shows and those that these were made of; runs of other commands may lie beside them."""
    made = make_study(tmp_path / "study", "Study", seeds=2)
    parent = with_parent(made[0], {"stage": "train", "name": "parent"})
    with_parent(made[1], {"stage": "train", "name": "of another command"})
    child = runs.start(made[0].path.parent, {**made[0].config, "parents": {"network": parent.digest}})
    for file in made[0].path.iterdir():
        if file.name not in ("config.json", "DONE"):
            shutil.copy(file, child.path)
    report.write([child.finish(), *made[1:]], tmp_path / "study" / "report", title="Study", command=["c"])
    publish.write(tmp_path / "study", tmp_path / "page.md")
    assert "- Runs: 9, 14 s in all" in (tmp_path / "page.md").read_text()  # 1.5 s each, as two were made in 3 s


def with_parent(beside: Run, config: dict[str, Any]) -> Run:
    """Make a finished run that has an environment only."""
    run = runs.start(beside.path.parent, config)
    run.write_json("environment.json", beside.json("environment.json"))
    return run.finish()


def test_every_figure_of_the_report_is_shown_with_its_caption(tmp_path: Path, tmp_path_factory: Any) -> None:
    study = made_once(tmp_path_factory.getbasetemp())
    report, page = study / "report", tmp_path / "page.md"
    publish.write(study, page)
    text, figures = page.read_text(), reports.read_record(study)["figures"]
    drawn = {file.relative_to(report).as_posix() for file in report.rglob("*.png")}
    assert {figure["file"] for figure in figures} == drawn
    assert re.findall(r"\(page-(.*\.png)\)", text) == [Path(figure["file"]).name for figure in figures]
    for figure in figures:
        name = Path(figure["file"]).name
        assert f"![{figure['title']}](page-{name})\n\n{figure['caption']}\n" in text
        assert (text.index(name) > text.index("## Figures of the paper")) == figure["file"].startswith("paper/")
        with Image.open(report / figure["file"]) as original, Image.open(tmp_path / f"page-{name}") as copy:
            assert copy.size == original.size
            apart = np.abs(np.asarray(copy.convert("RGB"), int) - np.asarray(original.convert("RGB"), int))
            assert (apart.max(axis=-1) > 32).mean() < 0.001  # of 256 colours


def test_a_page_of_any_name_finds_its_files(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where Markdown would end a link: at a blank, and at a bracket."""
    publish.write(made_once(tmp_path_factory.getbasetemp()), tmp_path / "é a) [1]_x_.md")
    text = (tmp_path / "é a) [1]_x_.md").read_text(encoding="utf-8")
    linked = {unquote(name) for name in re.findall(r"\]\(([^ )]*)\)", text)}
    assert linked == {path.name for path in tmp_path.iterdir() if path.suffix in (".png", ".csv")}


def test_a_report_of_unknown_making_is_refused(tmp_path: Path) -> None:
    make_study(tmp_path / "study", "Study", seeds=1)
    file = tmp_path / "study" / "report" / "runs.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({key: record[key] for key in ("title", "command", "runs")}))  # as they were before
    with pytest.raises(JaxfairError, match="does not say how its runs were made; run the same study again"):
        publish.write(tmp_path / "study", tmp_path / "page.md")


def test_a_folder_without_a_report_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert publish.main([str(tmp_path), "--out", str(tmp_path / "x.md")]) == 1
    message = capsys.readouterr().err
    assert "runs.json" in message
    assert "Traceback" not in message


@pytest.mark.usefixtures("sketched")
def test_what_cannot_be_published_is_refused(tmp_path: Path) -> None:
    made = make_study(tmp_path / "study", "Study", seeds=1)
    report.write(made, tmp_path / "study" / "report", title="Study", command=["a", "--out", "/there", "--seeds", "1"])
    with pytest.raises(JaxfairError, match=r"is Markdown, and '.*page.txt' is not named so; give --out as NAME.md\."):
        publish.write(tmp_path / "study", tmp_path / "page.txt")
    (made[0].path / "result.json").write_text("{}")
    again = re.escape(f"result.json was changed); it is made again by: a --out {tmp_path / 'study'} --seeds 1.")
    with pytest.raises(JaxfairError, match=again):
        publish.write(tmp_path / "study", tmp_path / "page.md")
    assert not (tmp_path / "page.md").exists()
    (tmp_path / "mine.md").write_text("# Notes\n")
    with pytest.raises(JaxfairError, match=r"mine\.md' is no page of a study, and would be lost; give another --out"):
        publish.write(tmp_path / "study", tmp_path / "mine.md")


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["a"], "a --out {}"),
        (["a", "--out", "/there", "--title", "b c"], "a --out {} --title 'b c'"),
        (["a", "--out=/there", "--seeds=1"], "a --out={} --seeds=1"),
    ],
)
def test_the_command_that_mends_a_study_is_told_as_it_is_typed(command: list[str], told: str, tmp_path: Path) -> None:
    """Of the folder where it lies now, which may have been moved from the default one."""
    study = tmp_path / "a study's"
    made = make_study(study, "Study", seeds=1)
    report.write(made, study / "report", title="Study", command=command)
    (made[0].path / "result.json").write_text("{}")
    with pytest.raises(JaxfairError, match=re.escape(f"is made again by: {told.format(shlex.quote(str(study)))}.")):
        publish.write(study, tmp_path / "page.md")


def test_the_page_of_two_models_is_no_studys(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / reports.CHANGE).write_text("{}")
    with pytest.raises(JaxfairError, match=r"is of experiments\.change, whose page is 'report/report\.html'; give a"):
        publish.write(tmp_path, tmp_path / "page.md")
