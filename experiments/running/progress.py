"""Progress of a study: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, cast

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_NOTES = 3.0


PLAN, EXECUTOR, LOCAL, SLURM = "plan", "executor", "local", "slurm"
"""In a study's folder, for those who look on: the runs that its last command declared; what is known of the workers."""


def duration(seconds: float) -> str:
    """Write a time as a reader says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class _Quiet:
    """Standard error, which ends no work: what a terminal, pipe or log that is gone or full cannot take is dropped."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            return sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def say(sentence: str) -> None:
    """Tell the user something beside the results."""
    print(sentence, file=_Quiet(), flush=True)


class Progress:
    """Shows which run of how many is being made, how far it is, its rate and the time left.

    Use as a context manager; ``begin`` announces a run, ``update`` its state, ``skip`` one that was finished before.
    """

    def __init__(self, *, terminal: bool | None = None) -> None:
        """Decide between bar and lines; by default by whether standard error is a terminal."""
        self._terminal = sys.stderr.isatty() if terminal is None else terminal
        self._bar = None
        self._task = None
        self._total = self._index = self._kept = 0
        self._title = ""
        self._printed = self._noted = 0.0
        self._first: tuple[int, float] | None = None
        self._note: Callable[[str], object] | None = None

    def __enter__(self) -> "Progress":
        """Start the display."""
        if self._terminal:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
            more = (TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[state]}"))
            self._bar = Bar(*columns, *more, console=Console(file=cast(Any, _Quiet())), transient=False)
            self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop the display."""
        if self._bar is not None:
            self._bar.stop()

    def expect(self, runs: int) -> None:
        """Say how many runs the study has in all."""
        self._total = runs

    def skip(self, runs: int = 1, *, kept: bool = True) -> None:
        """Count runs that an earlier call finished, or that cannot be made and so are not ``kept``."""
        self._index += runs
        self._kept += runs * kept

    @property
    def kept(self) -> int:
        """Number of runs that were finished before."""
        return self._kept

    def begin(self, title: str, runs: int = 1, note: Callable[[str], object] | None = None) -> None:
        """Announce one run, or several that are made together.

        Args:
            title: what is made.
            runs: how many.
            note: gets a line on how far it is every few seconds, for those who look on from other processes.
        """
        self._index += runs
        self._title = f"[{self._index}/{self._total}] {title}"
        self._printed = time.monotonic()
        self._note, self._noted, self._first = note, 0.0, None
        if self._bar is None:
            say(self._title)
            return
        if self._task is not None:
            self._bar.remove_task(self._task)
        # Escaped: the counter in brackets is not markup.
        self._task = self._bar.add_task(self._title.replace("[", r"\["), total=None, rate="", state="")

    def update(self, done: int, total: int | None, unit: str, state: str = "") -> None:
        """Show that ``done`` of ``total`` (None: unknown) units of the run are finished."""
        now = time.monotonic()
        # From the first units on: what a resumed run had done before, and compilation, are no part of the rate.
        if self._first is None or done < self._first[0]:
            self._first = done, now
        rate = (done - self._first[0]) / max(now - self._first[1], 1e-9)
        far = f"{unit} {done}" + (f" of {total}" if total is not None else "") + (f", {rate:.3g}/s" if rate else "")
        if self._note is not None and now - self._noted > SECONDS_BETWEEN_NOTES:
            self._noted = now
            self._note(f"{far} {state}".rstrip())
        if self._bar is not None and self._task is not None:
            shown = f"{rate:.3g} {unit}/s" if rate else ""
            self._bar.update(self._task, completed=done, total=total, rate=shown, state=state)
        elif now - self._printed > SECONDS_BETWEEN_LINES:
            self._printed = now
            left = f", {(total - done) / rate:.0f} s left" if total is not None and rate else ""
            say(f"{self._title}: {far}{left}{state and f', {state}'}")

    def say(self, sentence: str) -> None:
        """Tell the user something, above the bar if there is one."""
        if self._bar is None:
            say(sentence)
        else:
            self._bar.console.print(sentence, markup=False, highlight=False, soft_wrap=True)
