"""Runs are made once, by one of several processes, and again when they are damaged, with all that depends on them."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.running import records
from experiments.running.progress import Progress
from tests.experiments.running import cases
from tests.experiments.running.cases import folder, made
from tests.study import ROOT

MAKES = """
import pathlib, sys, time
from tests.experiments.running import cases
root = pathlib.Path(sys.argv[1])
def wait(name):
    while not (root / "go").exists():
        time.sleep(0.01)
cases.make(root, wait)
"""


def beside(root: Path) -> subprocess.Popen:
    """Start a process that makes the study, and waits in each run until there is a file "go"."""
    command = [sys.executable, "-c", MAKES, str(root)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def both(root: Path) -> tuple[subprocess.Popen, subprocess.Popen]:
    """Start two of them, of which the second waits for the first and has said so."""
    first = beside(root)
    while not (root / "made").exists():
        assert first.poll() is None
    second = beside(root)
    assert second.stderr is not None
    assert f"by process {first.pid} on " in second.stderr.readline()
    return first, second


def whole(root: Path) -> bool:
    with Progress(terminal=False) as progress:
        return records.left(cases.workspace(root, progress).jobs) == {}


def remove(name: str) -> Callable[[Path], None]:
    return lambda run: (run / name).unlink()


def write(name: str, text: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        (run / name).write_text(text)

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove("examples.npz"), "examples.npz is missing"),
        (remove("checkpoint/0/array"), "checkpoint/0/array is missing"),
        (remove("environment.json"), "environment.json is missing"),
        (write("config.json", "{}"), "config.json was changed"),
        (write("result.json", ""), "result.json was changed"),
        (write("DONE", ""), "DONE was changed"),
        (write("DONE", "{}"), "DONE was changed"),
        (write("DONE", '["config.json"]'), "DONE was changed"),
        (remove("DONE"), "DONE is missing"),
        (shutil.rmtree, "its folder is missing"),
    ],
)
def test_a_damaged_run_is_made_again_with_those_that_depend_on_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], said: str
) -> None:
    cases.make(tmp_path)
    assert made(tmp_path) == "abcde"
    files = [path for path in (tmp_path / "runs").rglob("*.[jn]*") if path.name != "environment.json"]
    before = {path: path.read_bytes() for path in files}
    run = folder(tmp_path, "b")
    assert "damaged" not in capsys.readouterr().err
    damage(run)
    assert not whole(tmp_path)
    cases.make(tmp_path)
    assert made(tmp_path) == "bd"
    sentence = f"1 run was damaged ({run.name}: {said}) and is made again, with 1 that depend on it."
    assert capsys.readouterr().err.splitlines()[0] == sentence
    assert whole(tmp_path)
    assert {path: path.read_bytes() for path in files} == before
    cases.make(tmp_path)
    assert made(tmp_path) == ""
    assert capsys.readouterr().err == ""


def test_several_damaged_runs_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases.make(tmp_path)
    for name in "abce":
        (folder(tmp_path, name) / "result.json").unlink()
    made(tmp_path)
    capsys.readouterr()
    cases.make(tmp_path)
    assert made(tmp_path) == "abcde"
    line = capsys.readouterr().err.splitlines()[0]
    assert line.startswith(f"4 runs were damaged ({folder(tmp_path, 'a').name}: result.json is missing; ")
    assert line.endswith("; and 1 more) and are made again, with 1 that depend on them.")


def test_an_interrupted_repair_still_knows_the_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases.make(tmp_path)
    (folder(tmp_path, "a") / "result.json").unlink()
    made(tmp_path)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(records, "_make", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cases.make(tmp_path)
    cases.make(tmp_path)
    assert made(tmp_path) == "abcd"


def test_two_processes_mend_a_study_once(tmp_path: Path) -> None:
    cases.make(tmp_path)
    made(tmp_path)
    (folder(tmp_path, "a") / "result.json").unlink()
    processes = both(tmp_path)
    (tmp_path / "go").touch()
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert sorted(made(tmp_path)) == list("abcd")
    assert whole(tmp_path)
    assert not list(tmp_path.rglob("*.lock"))


def test_a_killed_process_is_followed_by_the_one_that_waits(tmp_path: Path) -> None:
    first, second = both(tmp_path)
    first.kill()
    first.communicate()
    (tmp_path / "go").touch()
    assert "make bc, seed 0" in second.communicate()[1]
    assert second.returncode == 0
    assert made(tmp_path) == "aabcde"
    assert whole(tmp_path)
    assert not list(tmp_path.rglob("*.lock"))


def test_half_written_files_are_no_part_of_a_run(tmp_path: Path) -> None:
    """A killed writer leaves one beside the file that it was writing."""
    cases.make(tmp_path)
    run = folder(tmp_path, "e")
    listed = (run / "DONE").read_bytes()
    (run / "DONE").unlink()
    (run / ".result.1234.json").write_text("{")
    cases.make(tmp_path)
    assert not (run / ".result.1234.json").exists()
    assert (run / "DONE").read_bytes().count(b":") == listed.count(b":")
