"""Whole studies, killed at any moment or made by two processes at once: nothing is lost, and the bits are the same."""

import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.study import ALWAYS_SAVE, ROOT, TINY, TINY_HARDWARE, assert_same_study, hardware_made_once, made_once

KILLS = 30
SAVED = [option for option in ALWAYS_SAVE if option.startswith("--train")]
STUDIES = pytest.mark.parametrize(
    ("module", "options", "expected"),
    [
        ("experiments.linearization", [*TINY, *ALWAYS_SAVE], made_once),
        ("experiments.hardware", [*TINY_HARDWARE, *SAVED], hardware_made_once),
        ("experiments.linearization", [*TINY, *ALWAYS_SAVE, "--executor", "local", "--workers", "2"], made_once),
    ],
    ids=["linearization", "hardware", "local"],
)


def start(module: str, options: Sequence[str], out: Path) -> subprocess.Popen:
    """Start a study whose standard error ends only when its last process does."""
    command = [sys.executable, "-m", module, *options, "--out", str(out)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def assert_same(study: Path, expected: Path) -> None:
    """Compare runs and tables, and find nothing else that was left."""
    assert_same_study(study, expected)
    tables = [path.relative_to(expected) for path in (expected / "report").glob("*.csv")]
    assert len(tables) > 2
    for name in tables:
        assert (study / name).read_bytes() == (expected / name).read_bytes(), name
    assert {path.name for path in study.iterdir()} - {"executor"} == {path.name for path in expected.iterdir()}
    assert {path.name for path in (study / "runs").iterdir()} == {path.name for path in (expected / "runs").iterdir()}


@pytest.mark.slow
@STUDIES
def test_kills_at_any_moment_change_nothing(
    module: str,
    options: Sequence[str],
    expected: Callable[[Path], Path],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """SIGKILL of the study alone, whose child has to follow it; a study that is finished before is begun anew.

    Moments are counted from the first run that a process makes, so that every one of them gets somewhere.
    """
    rng, killed, number = random.Random(0), 0, 0
    while killed < KILLS:
        process = start(module, options, tmp_path / str(number))
        assert process.stderr is not None
        next((line for line in process.stderr if line.startswith("[")), None)
        try:
            process.wait(rng.uniform(0, 10))
        except subprocess.TimeoutExpired:
            process.kill()
            killed += 1
        said = process.communicate(timeout=30)[1]
        assert "Traceback" not in said
        assert process.returncode in (0, -9), said
        number += process.returncode == 0
    for study in range(number + 1):
        process = start(module, options, tmp_path / str(study))
        said = process.communicate()[1]
        assert process.returncode == 0, said
        assert_same(tmp_path / str(study), expected(tmp_path_factory.getbasetemp()))


@pytest.mark.slow
@STUDIES
def test_two_processes_at_once_change_nothing(
    module: str,
    options: Sequence[str],
    expected: Callable[[Path], Path],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    both = [start(module, options, tmp_path / "both") for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert_same(tmp_path / "both", expected(tmp_path_factory.getbasetemp()))
