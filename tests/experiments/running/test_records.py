"""Runs are made once, by one of several processes, and again when they are damaged, with all that depends on them."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.running import records
from experiments.running.progress import Progress
from jaxfair import runs
from jaxfair.errors import JaxfairError, StorageError
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


def test_what_a_process_left_that_was_killed_after_its_work_is_removed(tmp_path: Path) -> None:
    """Between the last file of a run and the end of its lock."""
    cases.make(tmp_path)
    for name in "bc":
        (folder(tmp_path, name) / "progress").mkdir()
        lock = folder(tmp_path, name).with_name(f"{folder(tmp_path, name).name}.lock")
        lock.write_text("process 1 on a host, killed")
    cases.make(tmp_path)
    assert made(tmp_path) == "abcde"
    assert not list(tmp_path.rglob("*.lock"))
    assert not list(tmp_path.rglob("progress"))


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


def diverge(names: str) -> Callable[[str], None]:
    """Let the runs of these names fail."""

    def compute(name: str) -> None:
        if name in names:
            raise JaxfairError(f"The loss of {name} is nan.") if name != "e" else ZeroDivisionError("a fault of ours")

    return compute


def test_a_run_fails_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of two that are made together the other is made all the same, and nothing that depends on the one that failed."""
    cases.make(tmp_path, diverge("be"))
    assert made(tmp_path) == "abbce"  # b a second time, to see that it is the one
    assert {path.name[2] for path in (tmp_path / "runs").iterdir() if (path / "DONE").exists()} == set("ac")
    said = capsys.readouterr().err
    assert f"failed: {folder(tmp_path, 'b').name}: The loss of b is nan." in said
    assert f"failed: {folder(tmp_path, 'e').name}: ZeroDivisionError: a fault of ours" in said
    cases.make(tmp_path)
    assert made(tmp_path) == ""
    with Progress(terminal=False) as progress:
        sentence = records.failures(cases.workspace(tmp_path, progress), Path("my out"))
    assert sentence.startswith(f"2 runs failed ({folder(tmp_path, 'b').name}: The loss of b is nan; ")
    assert sentence.endswith("and 1 that depend on them were not made; mend it, let the same command try again by "
                             "python -m experiments.status retry 'my out'.")  # fmt: skip
    for name in "be":
        records.Run(folder(tmp_path, name), {}).retry()
    cases.make(tmp_path)
    assert made(tmp_path) == "bde"
    assert whole(tmp_path)
    assert not list(tmp_path.rglob("FAILED"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_or_read_only_folder_stops_the_study_and_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """At every write of the study: it ends in one sentence, no run counts as failed, and the next call goes on."""
    real, writes, study = os.fsync, 0, 0

    def fsync(descriptor: int) -> None:
        nonlocal writes
        writes += 1
        if writes == study:
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(runs.os, "fsync", fsync)
    cases.make(tmp_path / "undisturbed")
    for study in range(1, writes + 1):
        writes, root = 0, tmp_path / str(study)
        with pytest.raises(StorageError, match=os.strerror(number)):
            cases.make(root)
        assert not list(root.rglob("FAILED"))
        cases.make(root)
        assert whole(root)
    assert study > 15


def test_a_clock_that_is_set_back_makes_no_time_negative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(10**6, 0, -1000))
    monkeypatch.setattr(records.time, "time", lambda: float(next(now)))
    cases.make(tmp_path)
    run = runs.read(folder(tmp_path, "e"))
    assert 0 <= run.json("environment.json")["seconds"] < 60


def test_files_that_nfs_keeps_for_a_while_are_no_part_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is removed while it is open stays as .nfs..., and so does the folder that it is in."""

    def keep(progress: Path, **_: object) -> None:
        progress.mkdir()
        (progress / ".nfs0001").touch()

    with monkeypatch.context() as patched:
        patched.setattr(runs.shutil, "rmtree", keep)
        cases.make(tmp_path)
    assert whole(tmp_path)
    for left in tmp_path.rglob(".nfs0001"):
        left.unlink()
    assert whole(tmp_path)
