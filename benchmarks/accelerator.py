"""Put a new accelerator to the test: is it right, how fast is it, and how is it best used; one page of answers.

    python -m benchmarks.accelerator --out results/accelerator --minutes 8

Stages run in the order of their worth, each in a process of its own, and each is saved as soon as it ends: what stands
in ``--out`` is kept when the command is given again, which makes what did not fit into the minutes and then what was
stopped midway. What a machine lacks (other libraries) is left out by name. A CPU runs it as well, on smaller problems.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from benchmarks.answers import PAGE, STAGES, STOPPED, Stage, earlier, why, write_page
from experiments import cli
from jaxfair import processes, runs
from jaxfair.errors import JaxfairError

ROOT = Path(__file__).resolve().parents[1]
KEPT, FRESH, AGAIN = range(3)
"""In which order stages have their turn."""


def run_stage(name: str, out: Path, small: bool, end: float) -> None:
    """Run one stage in this process, which is stopped at ``end`` by ``time.monotonic``, and save what it found."""
    from benchmarks import stages
    from jaxfair import hardware

    with runs.writing(out):
        out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    environment = {**runs.environment(), **hardware.describe()}
    _check_same(out, environment)
    found = stages.WORK[name](out, small, end)
    record = {"stage": name, "stage_seconds": time.perf_counter() - begin, **found, "environment": environment}
    runs.write_json(out / f"{name}.json", record)
    write_page(out, {})  # which the command that started this one writes again, with what is missing
    (stage,) = (stage for stage in STAGES if stage.name == name)
    print(f"  {environment['device_kind']}: {stage.said(earlier(out, name))}", flush=True)


def _check_same(out: Path, environment: dict[str, Any]) -> None:
    """Refuse a folder whose answers are of another device, or of another JAX: one page would mix both.

    Raises:
        JaxfairError: it is one.
    """
    for stage in STAGES:
        if before := earlier(out, stage.name).get("environment"):
            ours, theirs = (
                f"{of['device_count']} x {of['device_kind']}, jax {of['versions']['jax']}"
                for of in (environment, before)
            )
            if ours != theirs:
                raise JaxfairError(f"'{out.name}' has answers of {theirs}, and here is {ours}; choose another --out.")


def _check_own(out: Path) -> None:
    """Refuse a folder that holds something else than answers, such as this one where a variable was empty.

    Raises:
        JaxfairError: it does.
    """
    held = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if held and not any(name.startswith((PAGE, *(f"{stage.name}.json" for stage in STAGES))) for name in held):
        raise JaxfairError(f"'{out}' holds something else than answers; name a new folder as --out.")


def _turn(out: Path, stage: Stage) -> int:
    """Return when a stage's turn is: what is there is kept, and what was tried in vain waits for what was not.

    Otherwise a benchmark that was stopped would take the minutes of all that comes after it, at every call anew.
    """
    found = earlier(out, stage.name)
    if found and not any(STOPPED in reason for reason in found.get("missing", {}).values()):
        return KEPT
    return AGAIN if found or _tried(out, stage).exists() else FRESH


def _tried(out: Path, stage: Stage) -> Path:
    """Return the file that says that a stage has failed, or was ended before it had found anything."""
    return out / f"{stage.name}.json.tried"


def run_all(
    out: Path, minutes: float, small: bool, note: Callable[[dict[str, str]], object] = lambda _: None
) -> dict[str, str]:
    """Run the stages that are not there yet and fit into the time; return why the others are missing.

    Args:
        out: folder of the answers.
        minutes: that all may take.
        small: whether problems are tiny.
        note: is told before each stage why others are missing so far.
    """
    end, missing = time.monotonic() + 60 * minutes, {}
    share = max(1.0, minutes / sum(stage.minutes for stage in STAGES))  # where there are minutes for more than that
    for turn, stage in sorted(((_turn(out, stage), stage) for stage in STAGES), key=itemgetter(0)):
        note(missing)
        left = end - time.monotonic()
        if turn == KEPT:
            print(f"{stage.name}: is there already, and kept")
            continue
        if left < 15:
            missing[stage.name] = "no time was left; give the same command again"
            continue
        seconds = left if turn == AGAIN else min(left, 60 * stage.minutes * share)
        print(f"{stage.name}: {stage.question} (at most {seconds / 60:.1f} minutes)", flush=True)
        words = [sys.executable, "-m", "benchmarks.accelerator", "--stage", stage.name, "--out", str(out)]
        words += ["--minutes", str(seconds / 60)]
        words += ["--small"] if small else []
        if reason := _run(words, seconds):
            missing[stage.name] = reason
            _tried(out, stage).touch()
    return missing


def _run(words: Sequence[str], seconds: float) -> str:
    """Run a stage, which ends with this process however that ends; return why it failed, if it did."""
    with processes.leash() as stdin:
        how: Any = {"cwd": ROOT, "stdin": stdin, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        process = subprocess.Popen(words, **how)
        try:
            _, error = process.communicate(timeout=seconds)
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as stopped:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it has started
            process.wait()
            if isinstance(stopped, KeyboardInterrupt):
                raise
            return f"it took more than {seconds / 60:.1f} minutes; --stage NAME --minutes 20 gives it more"
    return why(error, process.returncode) if process.returncode else ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all stages, or one; a mistake is answered by one sentence."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the answers")
    parser.add_argument("--minutes", type=float, default=8.0, help="that all stages, or this one, may take")
    parser.add_argument("--small", action="store_true", help="tiny problems, to see that everything runs")
    parser.add_argument(
        "--stage", choices=[*(stage.name for stage in STAGES), "product"], help="run this stage alone, in this process"
    )
    parser.add_argument("--problem", default="tiny", help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="highest", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    end = time.monotonic() + 60 * chosen.minutes  # before JAX is imported, which takes long on a new machine
    if not 0 < chosen.minutes < float("inf"):
        parser.error(f"--minutes is {chosen.minutes:g}; give a number above 0")
    # For the stages, and for the processes that they start, which need their share of the memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
    out = chosen.out.absolute()
    try:
        if chosen.stage:
            from benchmarks import timing

            timing.dispatch_inline()
        if chosen.stage == "product":
            from benchmarks import stages

            stages.product(chosen.problem, chosen.precision, out)
        elif chosen.stage:
            processes.end_with_parent(group=True)
            run_stage(chosen.stage, out, chosen.small, end)
        else:
            _check_own(chosen.out)
            with cli.interruptible([]), processes.locked(out / PAGE, print):  # two would time each other
                # After each stage, so that what was found is on the page however the command ends.
                missing = run_all(out, chosen.minutes, chosen.small, lambda missing: write_page(out, missing))
                text = write_page(out, missing)
            if not any(earlier(out, stage.name) for stage in STAGES):
                raise SystemExit(text.strip())
            print(text)
    except (JaxfairError, OSError) as error:
        raise SystemExit(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit("interrupted; finished stages are kept, and the same command goes on from here") from None


if __name__ == "__main__":
    main()
