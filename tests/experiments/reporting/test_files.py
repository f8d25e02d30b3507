"""Files that a command writes beside those of others: all or none, and in the place of its own only."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.change.__main__ import main as change
from experiments.data.__main__ import main as data
from experiments.hardware.__main__ import main as hardware
from experiments.linearization import across, foretold, side_by_side
from experiments.linearization.__main__ import main as linearization
from experiments.reporting import files, publish, reports
from experiments.running import datasets
from jaxfair.errors import JaxfairError
from tests.study import make_study

KIND = "page of tests", "# Tests"
LINKED: list[tuple[str, Callable[[Path, Path], object]]] = [
    ("out.png", lambda _, out: data(["describe", "digits", "--out", str(out / "out.png")])),
    ("out.md", lambda study, out: publish.main([str(study), "--out", str(out / "out.md")])),
    ("out.tar", lambda study, out: hardware(["pack", str(study), str(out / "out.tar")])),
]


def write(folder: Path, name: str, text: str, last: str = "more.csv") -> None:
    with files.replacing(folder / name, *KIND) as made:
        (made / name).write_text(f"# Tests\n{text}")
        (made / last).write_text(text)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_take_their_places_together(tmp_path: Path) -> None:
    """A call that fails between two of them leaves those of an earlier one, and nothing beside."""
    write(tmp_path, "page.md", "first")
    before = contents(tmp_path)
    assert sorted(before) == ["more.csv", "page.md"]
    with pytest.raises(JaxfairError, match=r"page\.md' cannot be written: .*; make room or choose another --out\."):
        write(tmp_path, "page.md", "second", last="missing/more.csv")
    assert contents(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(before)
    write(tmp_path, "page.md", "third")
    assert contents(tmp_path) == {"more.csv": b"third", "page.md": b"# Tests\nthird"}


@pytest.mark.parametrize("mine", ["page.md", "more.csv"])
def test_a_file_of_others_stays(mine: str, tmp_path: Path) -> None:
    (tmp_path / mine).write_text("mine")
    with pytest.raises(JaxfairError, match=rf"{mine}' is no (file of a )?page of tests, and would be lost; give anoth"):
        write(tmp_path, "page.md", "first")
    assert contents(tmp_path) == {mine: b"mine"}


@pytest.mark.parametrize(
    ("mine", "command"),
    [
        ("out.png", lambda study, out: data(["describe", "digits", "--out", str(out / "out.png")])),
        ("out.md", lambda study, out: publish.main([str(study), "--out", str(out / "out.md")])),
        ("out-groups.csv", lambda study, out: publish.main([str(study), "--out", str(out / "out.md")])),
        ("claims.csv", lambda study, out: side_by_side.write(side_by_side.read([study]), out)),
        ("foretold.md", lambda study, out: foretold.main([str(study), "--out", str(out)])),
    ],
)
def test_no_command_replaces_what_it_did_not_write(
    mine: str, command: Callable[[Path, Path], object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_study(tmp_path / "study", "Study", seeds=1)
    out = tmp_path / "out"
    out.mkdir()
    (out / mine).write_text("mine")
    try:
        assert command(tmp_path / "study", out) == 1
        said = capsys.readouterr().err
    except JaxfairError as error:
        said = str(error)
    assert f"{mine}' is no " in said
    assert contents(out) == {mine: b"mine"}


def test_an_earlier_contact_sheet_is_replaced(tmp_path: Path) -> None:
    for _ in range(2):
        assert data(["describe", "digits", "--out", str(tmp_path / "sheet.png")]) == 0
    assert list(contents(tmp_path)) == ["sheet.png"]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(("mine", "command"), LINKED)
def test_no_command_replaces_a_link(
    mine: str, command: Callable[[Path, Path], object], there: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it leads to may lie where there is room."""
    make_study(tmp_path / "study", "Study", seeds=1)
    link = tmp_path / mine
    link.symlink_to(tmp_path / "elsewhere")
    if there:
        (tmp_path / "elsewhere").write_text(publish.MADE)
    assert command(tmp_path / "study", tmp_path) == 1
    assert f"{mine}' is a link, which would be lost; " in capsys.readouterr().err
    assert link.is_symlink()


@pytest.mark.parametrize(
    "command",
    [
        *(command for _, command in LINKED),
        lambda study, out: across.main([str(study), "--out", str(out / "far")]),
        lambda study, out: foretold.main([str(study), "--out", str(out / "far")]),
        lambda study, out: linearization(["--out", str(out / "far")]),
        lambda study, out: data(["prepare", "utkface", "--path", "nowhere", "--out", str(out / "far")]),
        lambda study, out: hardware(["merge", str(study), "nowhere.tar", "--out", str(out / "far")]),
        lambda study, out: change([f"--{of}={study}" for of in ("before", "after", "groups")] + [f"--out={out}"]),
    ],
)
def test_a_place_that_is_only_read_is_refused_before_the_work(
    command: Callable[[Path, Path], object],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Permissions do not stop an administrator, but a disk that is only read does, which ``os.access`` knows too."""
    make_study(tmp_path / "study", "Study", seeds=1)
    capsys.readouterr()
    for of, name in ((datasets, "load"), (reports, "open_runs"), (datasets, "prepare_each")):
        monkeypatch.setattr(of, name, lambda *_, **__: pytest.fail("there was work before"))
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)
    assert command(tmp_path / "study", tmp_path) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"cannot be written: nothing may be written in '{tmp_path}'; choose another folder with --out." in said
    assert [path.name for path in tmp_path.iterdir()] == ["study"]
