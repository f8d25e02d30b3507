"""A study's page holds what its report holds, and no place on this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.reporting import publish
from tests.study import command_line, made_once


@pytest.fixture(autouse=True, scope="module")
def _command_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with command_line(tmp_path_factory.getbasetemp() / "cache"):
        yield


def test_a_page_holds_command_table_findings_and_figure(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    study = made_once(tmp_path_factory.getbasetemp())
    assert publish.main([str(study), "--out", str(tmp_path / "pages" / "tiny.md")]) == 0
    text = (tmp_path / "pages" / "tiny.md").read_text()
    assert str(tmp_path_factory.getbasetemp()) not in text
    assert "--out PATH" in text or "--out" not in text
    assert "| DeepReDuce C12 |" in text
    assert (study / "report" / "claims.md").read_text().strip() in text
    assert "(tiny.png)" in text
    assert (tmp_path / "pages" / "tiny.png").read_bytes().startswith(b"\x89PNG")


def test_places_are_hidden_and_nothing_else() -> None:
    command = ["python", "--out", "/a/b", "--data.path=/c", "--seeds", "3", "--data.images", "/d", "--data.path", "/e"]
    assert publish.shown(command) == [
        *("python", "--out", "PATH", "--data.path=PATH", "--seeds", "3", "--data.images", "PATH", "--data.path", "PATH")
    ]


def test_intervals_share_a_column() -> None:
    rows = [{"network": "a|b", "relus": "1792", "x": "0.123456", "x_low": "0.1", "x_high": "2e-05", "y": ""}]
    rows.append({**rows[0], "x_low": "", "x_high": "", "y": "-1.5"})
    assert publish.markdown(rows).splitlines() == [
        "| network | relus | x | y |",
        "|---|---|---|---|",
        "| a\\|b | 1792 | 0.123 (0.1 to 2e-05) |  |",
        "| a\\|b | 1792 | 0.123 | -1.5 |",
    ]


def test_a_folder_without_a_report_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert publish.main([str(tmp_path), "--out", str(tmp_path / "x.md")]) == 1
    message = capsys.readouterr().err
    assert "runs.json" in message
    assert "Traceback" not in message
