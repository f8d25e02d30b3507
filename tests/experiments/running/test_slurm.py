"""A study on a real SLURM of one machine: pre-empted, drained, left and attached to again, and the same in the end."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experiments import status
from tests.experiments.running import cases, slurm_cluster
from tests.experiments.running.cases import folder
from tests.experiments.running.slurm_cluster import scontrol
from tests.several import environment_of
from tests.study import ROOT

why = slurm_cluster.missing()
pytestmark = [pytest.mark.slurm, pytest.mark.skipif(why is not None, reason=str(why))]
OPTIONS = ("--executor", "slurm", "--cpus", "1", "--memory", "1", "--minutes", "30", "--partition", "main")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    with slurm_cluster.running(tmp_path_factory.mktemp("cluster")) as names:
        yield names


def start(root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.experiments.running.cases", str(root), *OPTIONS]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def wait_for(true: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.2)


def states(root: Path) -> dict[str, str]:
    return {planned.run.path.name[2]: planned.state for planned in status.read(root)}


def running(also: str = "") -> list[str]:
    """Return the numbers of the jobs that the cluster is at, or that are in another state too."""
    command = ["squeue", "--noheader", f"--states=running{also}", "--format=%A"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def files(root: Path) -> dict[str, bytes]:
    found = [path for path in (root / "runs").rglob("*") if path.is_file()]
    return {str(p.relative_to(root)): p.read_bytes() for p in found if p.name not in ("environment.json", "DONE")}


def test_a_study_is_left_preempted_drained_and_attached_to_again(nodes: list[str], tmp_path: Path) -> None:
    root = tmp_path / "study"
    root.mkdir()
    for name in "ab":
        (root / f"wait-{name}").touch()
    front = start(root)
    wait_for(lambda: (root / "epoch").exists())
    assert {states(root)[name] for name in "bcd"} == {"queued"}
    front.send_signal(signal.SIGINT)  # leaves the jobs
    said = front.communicate(timeout=60)[1]
    assert front.returncode == 130
    assert "What was submitted goes on without this process: give the same command to attach again." in said
    assert "Traceback" not in said
    assert states(root)["a"] == "running"

    # Pre-empted: the run in flight is saved, and goes on from there when its task is queued again.
    first = min(running(), key=int)
    scontrol("requeue", first)
    wait_for(lambda: states(root)["a"] != "running")
    assert list((root / "saved").iterdir()), "the epoch was saved"
    (root / "wait-a").unlink()

    # Drained: what is being made there ends, and nothing is started until it is back.
    attached = start(root)
    scontrol("release", first)
    wait_for(lambda: states(root)["b"] == "running", 300)
    scontrol("update", f"NodeName={nodes[0]}", "State=DRAIN", "Reason=test")
    (root / "wait-b").unlink()
    wait_for(lambda: states(root)["c"] == "done")
    time.sleep(3)
    assert states(root)["d"] == "queued"
    scontrol("update", f"NodeName={nodes[0]}", "State=RESUME")
    said = attached.communicate(timeout=300)[1]
    assert attached.returncode == 0, said
    assert "Submitted" not in said, "what is in the queue is not submitted again"
    cases.make(tmp_path / "here")
    assert files(root) == files(tmp_path / "here")


def test_the_tasks_of_a_job_train_one_network(nodes: list[str], tmp_path: Path) -> None:
    """Which they are and how many, SLURM tells them; what they train is checked in ``test_sharing.py``."""
    task = [
        sys.executable,
        "-m",
        "tests.training.several_processes",
        str(tmp_path),
        str(slurm_cluster.free_ports(1)[0]),
    ]
    command = ["srun", "--ntasks=2", "--cpus-per-task=1", "--partition=main", *task]
    run = subprocess.run(
        command, cwd=ROOT, env=environment_of(2), capture_output=True, text=True, check=False, timeout=300
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-0.npz", "step-1.npz"]


def test_what_fails_on_a_node_fails_alone(nodes: list[str], tmp_path: Path) -> None:
    (tmp_path / "diverge-b").touch()
    (tmp_path / "kill-e").touch()
    front = start(tmp_path)
    said = front.communicate(timeout=300)[1]
    assert front.returncode == 0, said
    assert states(tmp_path) == {"a": "done", "b": "failed", "c": "done", "d": "planned", "e": "failed"}
    assert "was killed" in next(one.said for one in status.read(tmp_path) if one.run.path == folder(tmp_path, "e"))


def test_a_task_that_the_cluster_loses_is_named_and_submitted_again(nodes: list[str], tmp_path: Path) -> None:
    """It is told first that its time is over, upon which it saves what it is at and queues itself again."""
    (tmp_path / "wait-e").touch()
    front = start(tmp_path)
    wait_for(lambda: (tmp_path / "epoch").exists(), 300)
    wait_for(lambda: len(running()) == 1)
    subprocess.run(["scancel", "--signal=USR2", *running()], check=True)
    wait_for(lambda: states(tmp_path)["e"] == "queued")
    assert list((tmp_path / "saved").iterdir()), "the epoch was saved"
    wait_for(lambda: not running(",completing"))  # or it would be queued after it is cancelled
    subprocess.run(["scancel", "--name=jaxfair-s"], check=True)
    said = front.communicate(timeout=120)[1]
    assert front.returncode == 1
    assert "runs are neither finished nor in the queue: " in said
    assert "(cancelled, task " in said
    (tmp_path / "wait-e").unlink()
    assert start(tmp_path).wait(300) == 0
    assert set(states(tmp_path).values()) == {"done"}
