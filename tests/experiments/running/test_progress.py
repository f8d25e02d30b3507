"""Progress: plain lines without a terminal, a bar with one, and counts that include what was finished before."""

import io
import re
import sys
import threading

import pytest

from experiments.running import progress
from experiments.running.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time, to be moved by the test."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_without_a_terminal(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with Progress(terminal=False) as shown:
        shown.expect(3)
        shown.begin("train the full network, 2 seeds", 2)
        clock[0] += 1
        shown.update(1, 40, "epoch", "loss 2.0")  # too soon after the last line
        clock[0] += 19
        shown.update(10, 40, "epoch", "loss 1.0")
        clock[0] += 1
        shown.update(11, 40, "epoch", "loss 0.9")
        shown.begin("SNL descent, seed 0")
        clock[0] += 20
        shown.update(100, None, "epoch", "384 ReLUs")  # resumed: those before are not of this call
        clock[0] += 20
        shown.update(105, None, "epoch", "380 ReLUs")
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "[2/3] train the full network, 2 seeds",
        "[2/3] train the full network, 2 seeds: epoch 10 of 40, 0.474/s, 63 s left, loss 1.0",
        "[3/3] SNL descent, seed 0",
        "[3/3] SNL descent, seed 0: epoch 100, 384 ReLUs",
        "[3/3] SNL descent, seed 0: epoch 105, 0.25/s, 380 ReLUs",
    ]
    assert captured.out == ""


def test_skipped_runs_count(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(terminal=False) as shown:
        shown.expect(4)
        assert shown.kept == 0
        shown.skip()
        shown.skip()
        shown.begin("analyse SNL 384, seed 1")
        assert shown.kept == 2
        shown.begin("analyse SNL 384, seed 2")
    assert re.findall(r"\[\d/4\]", capsys.readouterr().err) == ["[3/4]", "[4/4]"]


def test_nothing_done_yet_is_no_error(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with Progress(terminal=False) as shown:
        shown.expect(1)
        shown.begin("train")
        clock[0] += 60
        shown.update(0, 40, "epoch")
    assert "epoch 0 of 40" in capsys.readouterr().err


def test_bar_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(terminal=True) as shown:
        shown.expect(3)
        shown.begin("train [bold]{x}[/bold]")  # neither markup nor a format
        shown.say("'[run]' is being written by process 1; this process waits for it.")
        shown.update(20, 40, "epoch", "loss 1.0")
        shown.begin("SNL descent, seed 0")
        shown.update(5, None, "epoch", "384 ReLUs")
        shown.skip()
    captured = capsys.readouterr()
    assert "[2/3] SNL descent, seed 0" in captured.err
    assert "'[run]' is being written by process 1; this process waits for it." in captured.err
    assert captured.out == ""


def test_an_interrupt_stops_the_bar() -> None:
    before = set(threading.enumerate())
    drawing = set()

    def interrupted() -> None:
        with Progress(terminal=True) as shown:
            shown.begin("train")
            drawing.update(set(threading.enumerate()) - before)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert drawing  # rich redraws from a thread of its own
    for thread in drawing:
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_terminal_is_found_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress() as shown:
        shown.begin("train")
        assert capsys.readouterr().err != "[1/0] train\n"


def test_what_shows_the_work_may_end_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed pipe or terminal, or the full disk of a log: the study goes on."""

    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    for terminal in (False, True):
        with Progress(terminal=terminal) as shown:
            shown.expect(2)
            shown.begin("first")
            shown.update(1, 2, "epoch")
            shown.say("something")
            shown.begin("second")
            assert (shown._index, shown._total) == (2, 2)
