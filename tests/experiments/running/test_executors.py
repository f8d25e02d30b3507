"""Whoever makes the runs, they are the same; what goes wrong with one costs no other, and is said."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import jax
import pytest

from experiments import status
from experiments.running import executors, slurm, workers
from experiments.running.progress import Progress
from experiments.running.records import Job
from experiments.running.settings import Execution
from jaxfair import kernels
from jaxfair.errors import JaxfairError
from jaxfair.runs import Run
from tests.experiments.running import cases
from tests.experiments.running.cases import folder, made
from tests.study import ROOT

COMMAND = [sys.executable, "-m", "tests.experiments.running.cases"]


def start(root: Path, *options: str) -> subprocess.Popen[str]:
    """Start the study of ``cases``."""
    return subprocess.Popen([*COMMAND, str(root), *options], cwd=ROOT, stderr=subprocess.PIPE, text=True)


def files(root: Path) -> dict[str, bytes]:
    """Return what the runs hold, but for when and by whom they were made."""
    found = [path for path in (root / "runs").rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(p.relative_to(root)): p.read_bytes() for p in found if p.name not in ("environment.json", "DONE")}


def states(root: Path) -> dict[str, str]:
    """Return the state of each run by its name."""
    return {planned.run.path.name[2]: planned.state for planned in status.read(root)}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the study as this process makes it."""
    root = tmp_path_factory.mktemp("here")
    cases.make(root)
    return root


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the study as two workers make it, of which one is killed once, and where e kills each that makes it."""
    root = tmp_path_factory.mktemp("local")
    for trouble in ("kill-once-b", "kill-e", "diverge-c"):
        (root / trouble).touch()
    process = start(root, "--executor", "local", "--workers", "2")
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert "Traceback" not in said
    return root


def test_local_workers_make_the_same_runs(local: Path, here: Path) -> None:
    """A run whose worker was killed is made by the next; two in vain are a failure, and so is one that diverges."""
    same = {name: content for name, content in files(here).items() if name[5:].startswith(("s-a", "s-b", "s-d"))}
    assert {name: content for name, content in files(local).items() if name in same} == same
    assert states(local) == {"a": "done", "b": "done", "c": "failed", "d": "done", "e": "failed"}
    assert sorted((local / "made").read_text()) == list("abbccdee")


def test_what_failed_is_said_tried_again_and_removed(local: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main([str(local)]) == 0
    shown = capsys.readouterr().out
    assert "3 of 5 runs are finished" in shown
    assert f"failed: {folder(local, 'c').name}: The loss of c is nan at step 1; lower the learning rate." in shown
    assert f"failed: {folder(local, 'e').name}: the process that made it was killed" in shown
    assert "in go_wrong" in json.loads((folder(local, "c") / "FAILED").read_text())["traceback"]
    cases.make(local)  # the same command leaves them alone
    assert states(local)["c"] == "failed"
    assert status.main(["retry", str(local), folder(local, "c").name]) == 0
    assert states(local) == {"a": "done", "b": "done", "c": "planned", "d": "done", "e": "failed"}
    before = files(local)
    assert status.main(["clean", str(local), "--dry-run"]) == 0
    assert files(local) == before
    assert status.main(["clean", str(local)]) == 0
    assert states(local) == {"a": "done", "b": "done", "c": "planned", "d": "done", "e": "planned"}
    assert {path.name for path in local.iterdir()} >= {"runs", "plan.json"}
    assert not (local / "executor").exists()
    made(local)
    cases.make(local)
    assert made(local) == "ce"


def test_a_study_that_is_killed_is_followed_by_its_workers(tmp_path: Path) -> None:
    """They finish the epoch and save it; the same command goes on from there. Status shows what is being made."""
    (tmp_path / "wait-a").touch()
    front = start(tmp_path, "--executor", "local", "--workers", "1")
    while not (tmp_path / "epoch").exists():
        assert front.poll() is None
        time.sleep(0.05)
    assert states(tmp_path)["a"] == "running"
    assert "process" in next(one.said for one in status.read(tmp_path) if one.state == "running")
    with pytest.raises(JaxfairError, match="are being made"):
        status.clean(status.Clean(tmp_path), [])
    front.kill()
    front.communicate()
    while "running" in states(tmp_path).values():
        time.sleep(0.05)
    assert int(next((tmp_path / "saved").iterdir()).name) > 0
    while "interrupted; " not in (tmp_path / "executor" / "local" / "worker-1.log").read_text():
        time.sleep(0.05)
    (tmp_path / "wait-a").unlink()
    cases.make(tmp_path)
    assert set(states(tmp_path).values()) == {"done"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_epoch_end_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "wait-a").touch()
    process = start(tmp_path)
    while not (tmp_path / "epoch").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    process.send_signal(number)  # as from a terminal, and from the parent
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    assert "The epoch is finished and saved first" in said
    assert said.splitlines()[-1] == "interrupted; whatever is finished is kept, and the same command goes on from here."
    assert "Traceback" not in said
    assert int(next((tmp_path / "saved").iterdir()).name) > 0


@pytest.mark.parametrize("seconds", [0.0, 0.3])
def test_a_signal_during_the_imports_is_one_sentence(tmp_path: Path, seconds: float) -> None:
    (tmp_path / "wait-a").touch()  # or a fast machine has done all the work by then
    process = start(tmp_path)
    caught = 0
    while not caught >> (signal.SIGTERM - 1) & 1:  # the program listens, which Python alone does not
        text = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(next(line for line in text.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    begun = "interrupted; whatever is finished is kept, and the same command goes on from here."  # on a fast machine
    assert said.splitlines()[-1] in ("interrupted before the work began.", begun)
    assert "Traceback" not in said


def test_only_some_runs_are_made_with_what_they_need(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = folder(here, "d").name
    assert cases.main([str(tmp_path), "--only", name]) == 0
    assert made(tmp_path) == "abcd"  # c is of one job with b
    assert cases.main([str(tmp_path), "--only", "s-d-000000000000"]) == 1
    said = capsys.readouterr().err
    assert "has no run 's-d-000000000000'; " in said
    assert name in said


def test_no_process_is_started_where_all_is_finished(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.subprocess, "Popen", lambda *_, **__: pytest.fail("a worker was started"))
    assert cases.main([str(here), "--executor", "local"]) == 0


@pytest.mark.parametrize("options", ["--workers 0", "--threads -1", "--executor slurm --minutes 0"])
def test_impossible_numbers_are_refused(tmp_path: Path, options: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cases.main([str(tmp_path), *options.split()]) == 1
    assert "give numbers above 0" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("choice", kernels.ON_GPU)
def test_kernels_of_a_gpu_are_asked_for_before_jax_starts(choice: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a study, and so of its workers, who are given the same words."""
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("NPROC", "1")
    asked = list[str]()
    monkeypatch.setattr(jax, "devices", lambda: asked.append(os.environ["XLA_FLAGS"]))
    executors.begin(Execution(gpu_kernels=choice, threads=1))
    assert asked == [kernels.ON_GPU[choice]]
    assert get_args(get_type_hints(Execution)["gpu_kernels"]) == tuple(kernels.ON_GPU)


def test_a_cluster_that_is_not_there_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cases.main([str(tmp_path / "out"), "--executor", "slurm"]) == 1
    assert "There is no sbatch and no squeue and no srun here" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert cases.main([str(tmp_path / "out"), "--executor", "slurm"]) == 1
    assert "needs the package submitit" in capsys.readouterr().err


def places(
    monkeypatch: pytest.MonkeyPatch, count: int | None, cores: Sequence[int], devices: int = 1, **variables: str
) -> list:
    monkeypatch.setattr(executors, "cores", lambda: list(cores))
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", "NPROC"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return executors._places(Execution("local", workers=count, devices=devices), ["command"], Path("logs"))


def test_workers_share_the_cores_and_not_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """By how many threads a sum is split decides its bits, so that each worker has as many as one process alone."""
    found = places(monkeypatch, 3, range(8), JAX_PLATFORMS="cpu")
    assert [list(place.cores) for place in found] == [[0, 1], [2, 3, 4], [5, 6, 7]]
    assert {place.environment["NPROC"] for place in found} == {"8"}
    assert len(places(monkeypatch, None, range(8), JAX_PLATFORMS="cpu")) == 4
    assert [list(place.cores) for place in places(monkeypatch, 2, [5], JAX_PLATFORMS="cpu")] == [[5], [5]]


def test_nothing_is_removed_while_the_cluster_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tasks may be making what looks unfinished."""
    half = tmp_path / "runs" / "train-x-0123456789ab"
    half.mkdir(parents=True)
    (half / "config.json").write_text("{}")
    (tmp_path / "executor" / "slurm").mkdir(parents=True)
    (tmp_path / "executor" / "slurm" / slurm.SUBMITTED).write_text('[{"id": "1_0", "stage": "train", "runs": []}]')
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is no squeue
    with pytest.raises(JaxfairError, match="The cluster does not answer"):
        status.clean(status.Clean(tmp_path), [])
    assert half.exists()


def test_a_queue_knows_a_study_by_either_name_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--out`` may be a link, whose name the cluster repeats or resolves."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / slurm.SUBMITTED).write_text('[{"id": "1_0", "stage": "train", "runs": ["a"]}]')
    for shown in ("real", "link"):
        script = tmp_path / "squeue"
        script.write_text(f"#!/bin/sh\necho '1_0 RUNNING {tmp_path / shown}/submission.sh'\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        assert slurm.queued(tmp_path / "link") == {"1_0": ("running", ["a"])}
    script.write_text(f"#!/bin/sh\necho '1_0 RUNNING {tmp_path}/real-too/submission.sh'\n")
    assert slurm.queued(tmp_path / "link") == {}


def test_nothing_is_submitted_beside_what_could_not_be_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the disk was full when the cluster had taken the tasks: the same command submitted their runs again."""
    folder, script = tmp_path / "slurm", tmp_path / "squeue"
    folder.mkdir()
    script.write_text(f"#!/bin/sh\necho '7_0 RUNNING {folder}/a.sh'\necho '9_1 PENDING /other/slurm/a.sh'\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(JaxfairError, match=r"could not be noted; cancel them \(scancel 7\), and give the same command"):
        slurm.check_noted(folder)
    (folder / slurm.SUBMITTED).write_text('[{"id": "7_0", "stage": "train", "runs": ["a"]}]')
    slurm.check_noted(folder)


def test_how_tasks_ended_is_not_known_without_scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / slurm.SUBMITTED).write_text('[{"id": "1_0", "stage": "train", "runs": ["a"]}]')
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.ended(tmp_path) == {"a": "over, task 1_0"}


def test_a_task_that_never_saves_anything_fails(tmp_path: Path) -> None:
    """The run that it is at is named; one that was saved meanwhile counts from new."""
    paths = tuple((tmp_path / f"run-{i}",) for i in range(2))
    for (path,) in paths:
        path.mkdir()
    task = slurm.Task(("python",), {}, paths, tmp_path)
    for stuck in (1, 2):
        task = task.after_a_stop(time.time())
        assert task.stuck == stuck
    (paths[0][0] / "progress").mkdir()
    (paths[0][0] / "progress" / "array").touch()
    assert task.after_a_stop(0.0).stuck == 0
    assert Run(paths[0][0], {}).failure is None
    assert task.after_a_stop(time.time() + 60).stuck == 0
    assert "stopped 3 times by its time before anything was saved" in str(Run(paths[0][0], {}).failure)
    assert Run(paths[1][0], {}).failure is None


def test_workers_have_a_gpu_each_or_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    found = places(monkeypatch, None, range(8), CUDA_VISIBLE_DEVICES="2,5")
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in found] == ["2", "5"]
    assert "XLA_CLIENT_MEM_FRACTION" not in found[0].environment
    old = "XLA_PYTHON_CLIENT_MEM_FRACTION"  # which JAX refuses beside the new name
    monkeypatch.setenv(old, "0.9")
    found = places(monkeypatch, 4, range(8), CUDA_VISIBLE_DEVICES="2,5")
    assert not any(old in place.environment for place in found)
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in found] == ["2", "5", "2", "5"]
    assert {place.environment["XLA_CLIENT_MEM_FRACTION"] for place in found} == {"0.400"}


def test_workers_have_as_many_gpus_as_share_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    found = places(monkeypatch, None, range(8), devices=2, CUDA_VISIBLE_DEVICES="0,1,2,3,4")
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in found] == ["0,1", "2,3"]
    assert "XLA_CLIENT_MEM_FRACTION" not in found[0].environment
    found = places(monkeypatch, 3, range(8), devices=2, CUDA_VISIBLE_DEVICES="0,1,2,3")
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in found] == ["0,1", "2,3", "0,1"]
    assert {place.environment["XLA_CLIENT_MEM_FRACTION"] for place in found} == {"0.400"}
    assert len(places(monkeypatch, None, range(8), devices=4, CUDA_VISIBLE_DEVICES="0,1")) == 1  # which says what lacks


def test_devices_that_are_not_there_are_refused_where_the_runs_are_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cases.main([str(tmp_path), "--devices", "2"]) == 1
    assert "shared by 2 devices, but JAX has 1; give 1 to 1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_seeds_that_are_trained_after_each_other_are_shared_out(tmp_path: Path) -> None:
    """One descent to several budgets is not; nor are seeds that the user wants in one program."""

    def run(name: str, seed: int) -> Run:
        return Run(tmp_path / name, {"seed": seed})

    trained, linearized = [run("t0", 0), run("t1", 1)], [run("l0-9", 0), run("l0-5", 0)]
    jobs = [Job(trained, 1, "train", lambda _: []), Job(linearized, 1, "descend", lambda _: [])]
    space = cases.workspace(tmp_path, Progress(terminal=False))
    shared = executors.by_seed(dataclasses.replace(space, jobs=jobs))
    assert [[one.path.name for one in job.runs] for job in shared] == [["t0"], ["t1"], ["l0-9", "l0-5"]]
    assert executors.by_seed(dataclasses.replace(space, jobs=jobs, seeds_at_once=2)) == jobs


class Fake(SimpleNamespace):
    """A pool whose one worker makes what it is given, or is killed where the name says so."""

    idle, busy = True, False

    def give(self, job: int, names: Sequence[str]) -> None:
        self.given.extend(names)
        self.job, self.idle, self.busy = job, False, True

    def wait(self) -> tuple[int, str | None]:
        self.idle, self.busy = True, False
        if "kills" in self.given[-1]:
            return self.job, "was killed by the kernel, since memory ran out"
        Run(self.root / self.given[-1], {}).write_json("DONE", {})
        return self.job, None


def test_jobs_are_made_after_those_that_they_need(tmp_path: Path) -> None:
    """The one that runs out of memory is tried twice, and then recorded as that."""
    names = ["child", "kills", "parent", "done"]
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / "done" / "DONE").write_text("{}")
    pool, skipped = Fake(root=tmp_path, given=[]), []
    jobs = [[tmp_path / name] for name in names]
    workers.work_through(pool, jobs, [[2], [], [3], []], skip=skipped.append)  # pyright: ignore[reportArgumentType]
    assert pool.given == ["kills", "kills", "parent", "child"]
    assert skipped == [1, 3] or skipped == [3, 1]
    why = "the process that made it was killed by the kernel, since memory ran out, 2 times"
    assert Run(tmp_path / "kills", {}).failure == why


def test_a_worker_that_ends_by_itself_stops_the_study_with_its_words(tmp_path: Path) -> None:
    code = "import sys; print('error: The disk is full; free some space.', file=sys.stderr); sys.exit(1)"
    place = workers.Place([sys.executable, "-S", "-c", code], os.environ, (), tmp_path / "log")
    with pytest.raises(JaxfairError, match=r"^The disk is full; free some space\.$"), workers.Pool([place]) as pool:
        workers.work_through(pool, [[tmp_path / "run"]], [()])


def test_the_time_left_is_that_of_finished_runs(tmp_path: Path) -> None:
    """Two of 10 units took 4 s and 8 s; 30 units are left, two runs are made at a time, and one has failed."""

    def planned(state: status.State, work: float, seconds: float = 0.0, stage: str = "train") -> status.Planned:
        return status.Planned(Run(tmp_path, {}), stage, work, state, seconds=seconds)

    found = [planned("done", 10, 4.0), planned("done", 10, 8.0), planned("failed", 10), planned("queued", 10)]
    found += [planned("running", 10), planned("running", 10), planned("planned", 20, stage="analyse")]
    assert status.seconds_left(found) == {"train": pytest.approx(9.0), "analyse": pytest.approx(6.0)}
    assert status.rows(found)[0] == ("train", "6", "", "1", "2", "2", "1", "9 s")


def test_a_folder_without_a_study_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main([str(tmp_path)]) == 1
    assert "give the --out of a study" in capsys.readouterr().err


@pytest.mark.parametrize("plan", ['[{"run": "a"}]', '[{"run": "a", "stage": "s", "work": "many"}]', "{}x", "[1]"])
def test_a_plan_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], plan: str
) -> None:
    (tmp_path / "plan.json").write_text(plan)
    assert status.main([str(tmp_path)]) == 1
    assert "cannot be read; the study's command writes it again" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("every", ["-1", "0", "1e30", "nan"])
def test_a_pause_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], every: str) -> None:
    (tmp_path / "plan.json").write_text('[{"run": "a", "stage": "s", "work": 1}]')
    assert status.main([str(tmp_path), "--every", every]) == 1
    assert "give more than 0, and at most a day" in " ".join(capsys.readouterr().err.split())
