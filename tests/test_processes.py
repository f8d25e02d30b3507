"""Locks that outlive no process, and children that outlive no parent."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jaxfair import processes
from jaxfair.errors import JaxfairError
from tests.study import ROOT

HOLDS = """
import sys, pathlib
from jaxfair import processes
with processes.locked(pathlib.Path(sys.argv[1]), print):
    print("held", flush=True)
    input()
"""
PARENT = """
import subprocess, sys
from jaxfair import processes
with processes.leash() as stdin:
    subprocess.run([sys.executable, "-c", sys.argv[1]], stdin=stdin)
"""
CHILD = """
import os, time
from jaxfair import processes
processes.end_with_parent()
print(os.getpid(), flush=True)
while True:
    time.sleep(1)
"""


def test_a_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    """Several threads go in and out; none sees another inside."""
    inside, said, seen = [0], [], []

    def work() -> None:
        for _ in range(20):
            with processes.locked([tmp_path / "b", tmp_path / "a"], said.append):
                inside[0] += 1
                seen.append(inside[0])
                time.sleep(1e-3)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 80
    assert said
    assert list(tmp_path.iterdir()) == []


def test_a_killed_holder_frees_its_lock_and_was_named(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "train"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(run)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    said: list[str] = []

    def wait(sentence: str) -> None:
        said.append(sentence)
        assert "processes.locked" in (tmp_path / "runs" / "train.lock").read_text()  # its command
        holder.kill()

    with processes.locked(run, wait):
        assert f"process {os.getpid()} on " in (tmp_path / "runs" / "train.lock").read_text()
    holder.communicate()
    assert holder.returncode == -signal.SIGKILL
    (sentence,) = said
    assert sentence.startswith(f"'train' is being written by process {holder.pid} on ")
    assert re.search(r" since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d [^;]+; this process waits for it\.$", sentence)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, None])
def test_without_locks_the_work_is_done_and_it_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    """``None``: a system without fcntl."""

    def flock(*_: int) -> None:
        raise OSError(number, "no locks")

    if number is None:
        monkeypatch.setattr(processes, "fcntl", None)
    else:
        monkeypatch.setattr(processes.fcntl, "flock", flock)
    said: list[str] = []
    say = said.append
    for name in ("a", "b"):
        with processes.locked(tmp_path / name, say):
            (tmp_path / name).write_text("")
    sentence = f"There are no locks for '{tmp_path}'; start no other process that writes there meanwhile."
    assert said == [sentence]
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_other_refusals_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(JaxfairError, match=r"cannot be written: .*; choose another folder with --out"),
        processes.locked(tmp_path / "file" / "run", print),
    ):
        pass


def test_a_child_ends_with_a_killed_parent() -> None:
    """Its end closes the output that it inherited, which nobody else holds."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert child != parent.pid
    os.kill(child, 0)
    parent.kill()
    assert parent.stdout.read() == ""
    parent.communicate()


def test_a_process_that_was_started_by_hand_goes_on() -> None:
    code = "from jaxfair import processes; processes.end_with_parent(); import time; time.sleep(0.2); print('on')"
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert ended.stdout == "on\n"


def test_a_lock_says_who_holds_it_and_how_far_the_work_is(tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert processes.holder(path) is None
    with processes.locked(path, print) as note:
        note("epoch 10 of 40")
        note("epoch 2 of 40")
        who, _, line = processes.holder(path) or []
        assert who.startswith(f"process {os.getpid()} on ")
        assert line == "epoch 2 of 40"
    (tmp_path / "run.lock").write_text("process 1 on a host, killed")
    assert processes.holder(path) is None


def test_a_kill_for_memory_is_told_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    before = processes.memory_kills()
    assert before >= 0
    assert processes.ending(-signal.SIGKILL, before) == "was killed (SIGKILL)"
    assert processes.ending(3, before) == "ended with status 3"
    monkeypatch.setattr(processes, "memory_kills", lambda: before + 1)
    assert processes.ending(-signal.SIGKILL, before) == "was killed by the kernel, since memory ran out"
    assert processes.ending(-signal.SIGTERM, before) == "was killed (SIGTERM)"


def test_children_run_beside_each_other_and_their_statuses_come_back(tmp_path: Path) -> None:
    """Each waits for the other's file."""
    code = "import os, sys, time; a, b = sys.argv[1:]; open(a, 'w')\nwhile not os.path.exists(b): time.sleep(0.01)\n"
    ends = "os.kill(os.getpid(), 9) if a.endswith('a') else sys.exit(3)"
    files = [str(tmp_path / "a"), str(tmp_path / "b")]
    commands = [([sys.executable, "-S", "-c", code + ends, *order], os.environ) for order in (files, files[::-1])]
    assert processes.children(commands) == [-9, 3]


INTERRUPTED = """
import os, signal, sys
from jaxfair import processes
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
code, *files = sys.argv[1:]
processes.children([([sys.executable, "-S", "-c", code, file], os.environ) for file in files])
"""
ENDS = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(open(sys.argv[1], "w").write("")))
os.write(1, b"up\\n")  # in one piece, since both children write to one pipe
time.sleep(60)
"""


def test_children_are_let_end_when_their_parent_is_interrupted(tmp_path: Path) -> None:
    """The parent waits for what they still have to do."""
    ends = [tmp_path / "a", tmp_path / "b"]
    command = [sys.executable, "-c", INTERRUPTED, ENDS, *map(str, ends)]
    parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert parent.stdout is not None
    assert [parent.stdout.readline() for _ in ends] == ["up\n", "up\n"]
    parent.send_signal(signal.SIGINT)
    parent.communicate(timeout=30)
    assert all(path.exists() for path in ends)


@pytest.mark.parametrize(("said", "count"), [("", 0), (" 4 ", 4), ("0", 0)])
def test_threads_are_asked_for_by_a_variable(said: str, count: int) -> None:
    assert processes.asked_threads({"NPROC": said}) == count
    assert processes.asked_threads({}) == 0


@pytest.mark.parametrize("said", ["4.0", "all", "-1"])
def test_a_number_of_threads_is_whole(said: str) -> None:
    with pytest.raises(JaxfairError, match=f"NPROC is '{said}'; give a whole number of threads"):
        processes.asked_threads({"NPROC": said})


def test_a_script_that_pipes_something_to_a_stage_goes_on() -> None:
    """Its group is the script's own; of a process that leads one, all end."""
    code = "from jaxfair import processes; processes.end_with_parent(group=True); import time; time.sleep(60)"
    script = f'true | "{sys.executable}" -c "{code}"; echo after'
    ended = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60, start_new_session=True)
    assert ended.stdout == "after\n"


KEEPS = """
import os, resource, sys
from jaxfair import processes
if "keep" in sys.argv:
    processes.keep_memory()
len(b"1" * 2**27)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
len(b"2" * 2**27)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="other C libraries have no such setting")
@pytest.mark.parametrize(
    ("said", "kept"),
    [({}, True), ({"MALLOC_ARENA_MAX": "8"}, False), ({"GLIBC_TUNABLES": "glibc.malloc.perturb=0"}, False)],
)
def test_memory_is_kept_unless_the_user_speaks_of_it(said: dict[str, str], kept: bool) -> None:
    """Linux clears every page of the 128 MB again, or none of them."""
    plain = {name: value for name, value in os.environ.items() if "MALLOC" not in name and name != "GLIBC_TUNABLES"}
    faults = {}
    for word in ("keep", "plain"):
        command = [sys.executable, "-c", KEEPS, word]
        child = subprocess.run(command, env=plain | said, cwd=ROOT, capture_output=True, text=True, check=True)
        faults[word] = int(child.stdout)
    assert (faults["keep"] < 100) == kept
    assert faults["plain"] > 100
