"""A report's folder: replaced as a whole or not at all, and never anything else than a report."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.reporting import reports
from jaxfair.errors import JaxfairError


def write(folder: Path, text: str, runs: str = "", study: str = "linearization") -> None:
    """Write a report of one page and one more file named after its text, and a record if it is of runs."""
    with reports.replacing(folder) as made:
        (made / "report.html").write_text(text)
        (made / f"{text}.csv").write_text(text)
        if runs:
            (made / "runs.json").write_text(json.dumps({"runs": list(runs), "study": study}))


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_new_report_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    for text in ("old", "new"):
        write(tmp_path / "deep" / "report", text)
        assert {path.name for path in (tmp_path / "deep" / "report").iterdir()} == {"report.html", f"{text}.csv"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["report"]  # no scratch folder is left


def test_a_report_of_other_runs_is_kept_beside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "report"
    write(folder, "first", "ab")
    write(folder, "same", "ba")
    assert capsys.readouterr().err == ""
    write(folder, "more", "abc")
    said = f"The earlier report in '{folder}', of 2 runs, is replaced by one of these and 1 more.\n"
    assert capsys.readouterr().err == said
    write(folder, "other", "abd")
    (kept,) = tmp_path.glob("report-*")
    assert (kept / "report.html").read_text() == "more"
    assert capsys.readouterr().err == f"The earlier report in '{folder}' shows other runs and is kept as '{kept}'.\n"
    write(folder, "more again", "cba")
    write(folder, "other again", "dba")
    assert (folder / "report.html").read_text() == "other again"
    assert (kept / "report.html").read_text() == "more again"
    assert len(list(tmp_path.iterdir())) == 3


def test_a_report_of_another_study_is_kept_beside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Though all of its runs are in the new one, as when two studies share a folder."""
    write(tmp_path / "report", "linearized", "ab")
    write(tmp_path / "report", "compressed", "abc", study="compression")
    (kept,) = tmp_path.glob("report-*")
    assert (kept / "report.html").read_text() == "linearized"
    assert f"is of the linearization study and is kept as '{kept}'" in capsys.readouterr().err


def test_a_killed_writer_leaves_the_old_report_to_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the two moves: nothing is cleaned up, and no move undone."""
    folder = tmp_path / "report"
    write(folder, "old", "ab")

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(reports, "_remove", lambda folder: None)
        patched.setattr(reports, "_replace", lambda folder, made, old: kill(folder.rename(old)))
        with pytest.raises(KeyboardInterrupt):
            write(folder, "new", "c")
    assert not folder.exists()
    write(folder, "other", "d")
    (kept,) = tmp_path.glob("report-*")
    assert (kept / "report.html").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"report", kept.name}


def test_an_empty_folder_is_taken_and_any_other_is_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", "first")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(JaxfairError, match="holds something else than a report, which would be lost"):
        write(tmp_path / "mine", "x")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    with pytest.raises(JaxfairError, match="is a link, which would be lost; make it a folder"):
        write(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "file").write_text("")
    for folder in ("file", "file/report", "file/out/report", "file/far/out/report"):
        with pytest.raises(JaxfairError, match="cannot be written: there is a file where a folder is needed"):
            reports.check_new(tmp_path / folder)
        with pytest.raises(JaxfairError, match="cannot be written"):
            write(tmp_path / folder, "x")


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failing_move_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    write(tmp_path / "report", "old")
    moves = []

    def fails_once(real: Callable[..., None]) -> Callable[..., None]:
        def move(*arguments: object, **options: object) -> None:
            moves.append(arguments)
            (no_space if len(moves) == failing else real)(*arguments, **options)

        return move

    monkeypatch.setattr(os, "rename", fails_once(os.rename))
    monkeypatch.setattr(os, "replace", fails_once(os.replace))
    monkeypatch.setattr(shutil, "copytree", no_space)  # what shutil.move tries next
    with pytest.raises(JaxfairError, match=r"cannot be written to .*No space left.*runs are kept"):
        write(tmp_path / "report", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"report.html", "old.csv"}


def test_a_record_of_another_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    record = {"study": "hardware", "title": "t", "command": ["c"], "runs": []}
    (tmp_path / "report" / "runs.json").write_text(json.dumps(record))
    assert reports.read_record(tmp_path) == reports.read_record(tmp_path, "hardware") == record
    with pytest.raises(JaxfairError, match="is a hardware study; give the --out of a linearization study"):
        reports.read_record(tmp_path, "linearization")
    del record["study"]  # as before there were several
    (tmp_path / "report" / "runs.json").write_text(json.dumps(record))
    assert reports.read_record(tmp_path, "linearization") == record


def test_what_a_reader_put_into_a_report_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Notes, and a table that was edited; files that a system leaves do not count."""
    folder = tmp_path / "report"
    write(folder, "first", "ab")
    (folder / ".DS_Store").touch()
    write(folder, "second", "ab")
    assert list(tmp_path.glob("report-*")) == []
    (folder / "notes.md").write_text("mine")
    (folder / "second.csv").write_text("edited")
    write(folder, "third", "ab")
    (kept,) = tmp_path.glob("report-*")
    assert (kept / "notes.md").read_text() == "mine"
    said = f"The earlier report in '{folder}' holds what is not its own (notes.md, second.csv) and is kept as '{kept}'."
    assert capsys.readouterr().err == f"{said}\n"


def test_what_a_reader_put_into_a_kept_report_stays(tmp_path: Path) -> None:
    """The next one of the same runs is kept beside it, and takes the place of none but its own like."""
    folder = tmp_path / "report"
    write(folder, "first", "a")
    write(folder, "other", "b")
    (kept,) = tmp_path.glob("report-*")
    (kept / "notes.txt").write_text("mine")
    for text in ("second", "third"):
        write(folder, text, "a")
        write(folder, f"other than {text}", "b")
    assert (kept / "notes.txt").read_text() == "mine"
    assert (kept / "first.csv").read_text() == "first"
    second = kept.with_name(f"{kept.name}-2")
    assert (second / "report.html").read_text() == "third"
    (second / "third.csv").write_text("edited")
    write(folder, "fourth", "a")
    write(folder, "last", "b")
    assert (second / "third.csv").read_text() == "edited"
    assert (kept.with_name(f"{kept.name}-3") / "report.html").read_text() == "fourth"


def test_notes_in_two_reports_of_the_same_runs_are_both_kept(tmp_path: Path) -> None:
    """Of one name, so that both reports would be kept in one place."""
    for text in ("one", "two"):
        write(tmp_path / "report", text, "a")
        (tmp_path / "report" / "notes.txt").write_text(text)
        write(tmp_path / "report", "other", "b")
    assert {file.read_text() for file in tmp_path.glob("report-*/notes.txt")} == {"one", "two"}


@pytest.mark.parametrize("record", [None, "{", "[]", '{"runs": ["a"]}'])
def test_a_kept_report_of_unknown_files_stays(tmp_path: Path, record: str | None) -> None:
    write(tmp_path / "report", "first", "a")
    write(tmp_path / "report", "other", "b")
    (kept,) = tmp_path.glob("report-*")
    (kept / "runs.json").unlink()
    if record is not None:
        (kept / "runs.json").write_text(record)
    write(tmp_path / "report", "second", "a")
    write(tmp_path / "report", "other", "b")
    assert (kept / "report.html").read_text() == "first"
