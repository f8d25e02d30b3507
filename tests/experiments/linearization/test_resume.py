"""The linearization study made again, extended, and killed: finished runs are kept, and the bits are the same."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.linearization.settings import QUICKSTART
from experiments.running import datasets, methods, stages
from experiments.running.progress import Progress
from experiments.running.records import Workspace, carry_out
from jaxfair import checkpoints
from jaxfair.linearize.config import SnlConfig
from tests.study import ALWAYS_SAVE, ROOT, RUNS, TINY, assert_same_study, call, finished, made_once, of_stage

# Stands in for a kill from outside: SIGKILL right after a checkpoint, or right before a run is marked as finished.
KILLS_ITSELF = """
import os, signal, sys
from experiments.linearization.__main__ import main
from jaxfair import checkpoints, runs
moment, left = sys.argv[1], [int(sys.argv[2])]
def count(passed):
    left[0] -= passed == moment
    if left == [0]:
        os.kill(os.getpid(), signal.SIGKILL)
save, seal = checkpoints.save, runs.Run.seal
checkpoints.save = lambda *arguments: (save(*arguments), count("checkpoint"))
runs.Run.seal = lambda run: (count("done"), seal(run))[1]
main(sys.argv[3:])
"""


@pytest.fixture
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory.getbasetemp())


def times(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted((out / "runs").rglob("*"))}


def test_a_second_call_makes_no_run(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(out, tmp_path / "again")
    before = times(tmp_path / "again")
    assert call(tmp_path / "again", drawn=True) == 0
    assert times(tmp_path / "again") == before
    captured = capsys.readouterr()
    assert captured.err == "11 runs were finished before and are kept.\n"
    report = tmp_path / "again" / "report" / "report.html"
    assert captured.out.rstrip("\n").endswith(f"Report: {report}")
    assert report.is_file()
    for label in ("Full network", "SNL 384", "DeepReDuce C12"):
        assert label in captured.out
    for name in ("summary.csv", "accuracy_by_budget.svg"):
        assert (report.parent / name).read_bytes() == (out / "report" / name).read_bytes()


def test_another_budget_shares_the_other_runs(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(out, tmp_path / "more")
    before, old = times(tmp_path / "more"), finished(tmp_path / "more")
    # 384 is 0.5 of all units: one run, not two.
    assert call(tmp_path / "more", "--budgets", "0.5", "384", "0.4") == 0
    found = finished(tmp_path / "more")
    new = [run for name, run in found.items() if name not in old]
    assert sorted(run.config["stage"] for run in new) == ["analyse", "finetune", "linearize"]
    assert {run.config["variant"]["label"] for run in new} == {"SNL 307"}
    after = times(tmp_path / "more")
    assert all(after[path] == before[path] for path in before if path.is_file())
    *made, kept, replaced = capsys.readouterr().err.splitlines()
    assert kept == "10 runs were finished before and are kept."
    assert [line.split("/")[1].split("]")[0] for line in made] == [str(len(found))] * 3, made
    shown = sum(count for stage, count in RUNS.items() if stage in ("analyse", "sampling", "gradients"))
    assert replaced.endswith(f"/report', of {shown} runs, is replaced by one of these and 1 more.")


def test_different_names_of_one_student_are_one(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "same")
    before = times(tmp_path / "same")
    assert call(tmp_path / "same", "--deepreduce", "C12", "C12+a1", "C12+r1.0", "C12") == 0
    assert times(tmp_path / "same") == before


@pytest.mark.parametrize(("moment", "count", "stage"), [("checkpoint", 2, "train"), ("done", 4, "finetune")])
def test_a_killed_study_ends_with_the_same_bits(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, count: int, stage: str
) -> None:
    """Killed inside a stage after so many checkpoints, or when all files of the fourth run are there except DONE."""
    study = tmp_path / "killed"
    process = subprocess.run(
        [sys.executable, "-c", KILLS_ITSELF, moment, str(count), *TINY, "--out", str(study), *ALWAYS_SAVE],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL
    assert len(finished(study)) < sum(RUNS.values())
    assert not (study / "report").exists()

    unfinished = {path.parent for path in (study / "runs").rglob("progress")}
    restored: list[Path] = []
    real = checkpoints.restore
    monkeypatch.setattr(checkpoints, "restore", lambda path, like: restored.append(path) or real(path, like))
    assert call(study, *ALWAYS_SAVE) == 0
    assert_same_study(out, study)
    assert [path.name.split("-")[0] for path in unfinished] == [stage]
    assert any(unfinished & set(path.parents) and "progress" in path.parts for path in restored)


def test_an_interrupted_descent_gives_any_budget_the_same_bits(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint made below a budget that is asked for later must not serve it."""
    study = tmp_path / "interrupted"
    for name in finished(out):
        if name.startswith("train-"):
            shutil.copytree(out / "runs" / name, study / "runs" / name)
    below = []

    def stop_below(self: Progress, done: int, total: object, unit: str, state: str = "") -> None:
        below.extend([done] if state.endswith("ReLUs") and int(state.split()[0]) < 384 else [])
        if len(below) > 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Progress, "update", stop_below)
        assert call(study, "--budgets", "70", *ALWAYS_SAVE) == 130
    train_set, test_set, record, *_ = datasets.prepare(QUICKSTART.data)
    (base,) = of_stage(finished(study), "train")
    with Progress(terminal=False) as progress:
        space = Workspace(study / "runs", train_set, test_set, record, progress)
        config = SnlConfig(batch_size=64, learning_rate=0.02, kappa=1e-2)
        first, _ = methods.linearize_snl(space, base, config, (384, 70))
        carry_out(space)
    (expected,) = (run for run in of_stage(finished(out), "linearize") if run.config["variant"]["method"] == "snl")
    assert first.path.name == expected.path.name
    assert first.json("result.json") == expected.json("result.json")
    for a, b in zip(*(jax.tree.leaves(stages.load_network(run)) for run in (first, expected)), strict=True):
        np.testing.assert_array_equal(a, b)
