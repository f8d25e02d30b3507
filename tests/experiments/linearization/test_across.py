"""Studies side by side: what is drawn and written is what each study's own tables and claims say."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.analyses import quantities
from experiments.analyses import results as arrays
from experiments.linearization import across, claims, side_by_side
from experiments.linearization.side_by_side import Study
from jaxfair.errors import JaxfairError
from tests.study import make_study, mitigated

DIGITS: dict[str, Any] = {"group_names": [str(i) for i in range(10)], "train_count": [100] * 5 + [10] * 5}
DIGITS |= {"test_count": [12] * 10, "seeds": 2}
FACES: dict[str, Any] = {"networks": [("Full network", "full", 768), ("SNL 200", "snl", 200), ("SNL 50", "snl", 50)]}
FACES["networks"].append(mitigated("SNL 50", 50))
FILES = {"relative_drop_by_group.svg", "relative_drop_by_group.png", "networks.csv", "claims.csv", "across.md"}


def make(folder: Path, title: str, **study: Any) -> Path:
    make_study(folder, title, **study)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("studies")
    return [make(root / "digits", "Digits | ours", **DIGITS), make(root / "faces", "Faces", **FACES)]


@pytest.fixture(scope="module")
def studies(folders: list[Path]) -> list[Study]:
    return side_by_side.read(folders)


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def test_the_command_line_writes_figure_and_tables(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert across.main([*map(str, folders), "--out", str(tmp_path / "new" / "out")]) == 0
    out = tmp_path / "new" / "out"
    assert {path.name for path in out.iterdir()} == FILES
    assert "<image" not in (out / "relative_drop_by_group.svg").read_text(encoding="utf-8")
    assert {Path(line).name for line in capsys.readouterr().out.splitlines()} == FILES
    for folder, name in zip(folders, ("Digits | ours", "Faces"), strict=True):
        results = arrays.collect(arrays.read(folder))
        mine = [row for row in rows_of(out / "networks.csv") if row["study"] == name]
        for row, expected in zip(mine, quantities.summary_rows(results), strict=True):
            assert (row["network"], row["relus"]) == (expected["network"], str(expected["relus"]))
            for key in ("accuracy", "large_drop_percent", "small_drop_percent"):
                ends = [float(row[f"{key}{end}"] or "nan") for end in ("", "_low", "_high")]
                np.testing.assert_array_equal(ends, expected[key])
        mine = [row for row in rows_of(out / "claims.csv") if row["study"] == name]
        found = claims.claims(results)
        assert [(row["name"], row["verdict"]) for row in mine] == [(claim.name, claim.verdict) for claim in found]


def test_drops_are_drawn_by_study_method_and_budget(studies: list[Study]) -> None:
    figure = side_by_side.relative_drop(studies)
    drawn = [axes for axes in figure.axes if axes.get_visible()]
    places = [(studies[0], "snl"), (studies[0], "deepreduce"), (studies[1], "snl")]
    assert [axes.get_title() for axes in drawn] == ["SNL", "DeepReDuce", "SNL"]
    for axes, (study, method) in zip(drawn, places, strict=True):
        networks = [v for v in study.results.variants if v.method == method]  # made from the most ReLUs on
        for i, (container, network) in enumerate(zip(axes.containers, networks, strict=True)):
            lines: Any = getattr(container, "lines")  # noqa: B009
            mean, low, high = quantities.drops(study.results, network)
            order = study.results.groups.order
            points = np.asarray(lines[0].get_xydata())
            bars = np.array([segment[:, 1] for segment in lines[2][0].get_segments()])
            np.testing.assert_allclose(points[:, 1], mean[order])
            np.testing.assert_allclose(bars, np.c_[low, high][order])
            shift = (i - (len(networks) - 1) / 2) * 0.7 / len(networks)
            np.testing.assert_allclose(points[:, 0], np.arange(len(mean)) + shift)
            assert f"({network.relu_count:,})" in str(container.get_label())
        names = [text.get_text().replace("(", "").split()[0] for text in axes.get_xticklabels()]
        assert names == [study.results.groups.names[g] for g in study.results.groups.order]


def test_a_study_without_a_drop_of_some_group_adds_one_column_to_all(
    studies: list[Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is none of the first ones of the file."""
    of_one = {id(studies[1].results): [{"network": "SNL 50", "accuracy": 0.5, "without_a_drop": "d"}]}
    monkeypatch.setattr(
        side_by_side.quantities, "summary_rows", lambda of: of_one.get(id(of), [{"network": "SNL 50", "accuracy": 0.6}])
    )
    rows = side_by_side.network_rows(studies)
    assert [row["without_a_drop"] for row in rows] == ["", "d"]
    assert [*rows[0]] == [*rows[1]] == ["study", "network", "accuracy", "without_a_drop"]


def test_verdicts_stand_side_by_side(studies: list[Study]) -> None:
    text = side_by_side.markdown(studies, side_by_side.network_rows(studies))
    lines = [line.replace("\\|", "/").strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    start = lines.index(["finding", "Digits / ours", "Faces"])
    networks, findings = lines[2:start], lines[start + 2 :]
    assert [row[:2] for row in networks] == [
        [study.title.replace("|", "/"), variant.label] for study in studies for variant in study.results.variants
    ]
    statements = dict.fromkeys(claim.statement for study in studies for claim in study.found)
    assert [row[0] for row in findings] == list(statements)
    for row in findings:
        for cell, study in zip(row[1:], studies, strict=True):
            (claim,) = [claim for claim in study.found if claim.statement == row[0]] or [None]
            assert cell.split(";")[0] == (claim.verdict if claim else "not studied")
            if claim and np.isfinite(claim.value):
                assert float(cell.split("; ")[1].split()[0]) == pytest.approx(claim.value, rel=5e-3)
    assert "not studied" in text


def test_studies_of_one_title_are_told_apart(folders: list[Path], tmp_path: Path) -> None:
    other = make(tmp_path / "other", "Faces", seeds=1, networks=FACES["networks"][:2])
    titles = [study.title for study in side_by_side.read([*folders, other])]
    assert titles == ["Digits | ours", f"Faces ({folders[1].name})", "Faces (other)"]


def test_what_cannot_be_compared_is_one_sentence(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(match: str, *arguments: object) -> None:
        assert across.main([str(argument) for argument in arguments]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert match in error
        assert error.count("\n") == 1

    refused("given more than once", folders[0], folders[1], folders[0].parent / "." / "digits", "--out", tmp_path)
    refused("There is no folder", folders[0], tmp_path / "nothing", "--out", tmp_path)
    refused("has no 'report/runs.json'", tmp_path, "--out", tmp_path)
    (tmp_path / "machines" / "report").mkdir(parents=True)
    (tmp_path / "machines" / "report" / "runs.json").write_text('{"study": "hardware", "title": "T", "runs": []}')
    refused("is a hardware study", tmp_path / "machines", "--out", tmp_path)
    (tmp_path / "file").write_text("")
    refused("cannot be written", folders[1], "--out", tmp_path / "file")
    random = make(
        tmp_path / "random", "R", networks=[("Full network", "full", 768), ("Random 9", "random", 9)], seeds=1
    )
    refused("No study has a network linearized", random, "--out", tmp_path / "out")


def test_equal_studies_give_equal_files(studies: list[Study], tmp_path: Path) -> None:
    first, second = (side_by_side.write(studies, tmp_path / name) for name in ("first", "second"))
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))


def test_a_folder_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert across.main(["--out", "x"]) == 1
    assert capsys.readouterr().err.startswith("error: No study is given; name the folders")


def test_a_study_without_runs_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    (folder / "report").mkdir(parents=True)
    (folder / "report" / "runs.json").write_text('{"title": "Title", "command": [], "runs": []}')
    with pytest.raises(JaxfairError, match="There are no analyses"):
        side_by_side.read([folder])
