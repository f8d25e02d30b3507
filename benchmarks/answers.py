"""What the stages of ``benchmarks.accelerator`` have found, and the page of one screen that is made of it."""

import json
import math
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxfair.kernels import NAMES
from jaxfair.runs import writing

PAGE = "page.md"
STOPPED = "stopped after"
"""What is said of a part for which no time was left: the same command makes it."""


class Stage(NamedTuple):
    """One question.

    Attributes:
        name: of its file.
        question: for the page.
        minutes: that it takes at most; it is stopped then, and what it had written itself is kept.
        said: the answer, of what it has found.
    """

    name: str
    question: str
    minutes: float
    said: Callable[[dict[str, Any]], str]


def earlier(out: Path, stage: str) -> dict[str, Any]:
    """Return what a stage has saved; nothing where it has not, or where that is damaged."""
    try:
        return json.loads((out / f"{stage}.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def why(said: str, status: int) -> str:
    """Return why a process failed, in one line of what it said: of a traceback the error, or else the last line.

    JAX tells after an error how to see more of it, and XLA writes time and place before its own words, which are left
    out. What SIGKILL ended had no time to say why.
    """
    if status == -signal.SIGKILL:
        return "it was killed, as the system does where memory runs out"
    _, traced, after = said.rpartition("Traceback (most recent call last):\n")
    found = [line for line in after.splitlines() if traced and line.strip() and not line.startswith(" ")][:1]
    last = (found or said.strip().splitlines() or [f"status {status}"])[-1]
    return re.sub(r"^[A-Z]\d{4} [^\]]*\] ", "", last)[:200]


def write_page(out: Path, missing: dict[str, str]) -> str:
    """Write what was found so far as ``page``, and return it."""
    text = page(out, missing)
    with writing(out / PAGE):
        (out / PAGE).write_text(text, encoding="utf-8")
    return text


def page(out: Path, missing: dict[str, str]) -> str:
    """Return what was found as Markdown of one screen.

    Args:
        out: folder of the answers.
        missing: why others are not there, by their stages.
    """
    found = {stage.name: answer for stage in STAGES if (answer := earlier(out, stage.name))}
    if not found:
        return f"Nothing was found: {_reasons(missing) or 'no stage has ended yet'}\n"
    about = next(iter(found.values()))["environment"]
    versions = about["versions"]
    lines = [f"# {about['device_kind']}", ""]
    where = f"{about['device_count']} x {about['backend']}, jax {versions['jax']}, Python {about['python']}"
    when = f"commit {str(about['commit'])[:7]}, {about['started']}; convolutions by {NAMES[about['kernels']]}"
    lines += [f"{where}, {when}.", ""]
    for stage in STAGES:
        said = (
            stage.said(found[stage.name])
            if stage.name in found
            else f"missing: {missing.get(stage.name, 'not made yet')}"
        )
        lines += [f"- **{stage.question}** {said}"]
    return "\n".join(lines) + "\n"


def _reasons(missing: dict[str, str]) -> str:
    """Say why stages are missing, each reason once."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in missing.items():
        by_reason.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())


def _right(found: dict[str, Any]) -> str:
    errors = [math.inf if error is None else error for error in found["errors"].values()]  # JSON has no NaN
    return (
        f"{'Yes' if found['right'] else 'NO'}: largest relative error {max(errors):.1e} against "
        f"float64 (allowed {found['allowed']:.0e}), products round to {found['product']}, convolutions to "
        f"{found['convolution']}; a repeat gives {'the same' if found['same_bits'] else 'OTHER'} bits."
    )


def _benchmark(found: dict[str, Any]) -> str:
    missing = ", ".join(found["missing"]) or "none"
    return f"{found['problem']}: {_beside(found['seconds'])}. Missing: {missing}."


def _beside(rows: dict[str, float]) -> str:
    """Say of each operation how long the fastest job of each library takes, ``library: operation, variant``."""
    best: dict[str, dict[str, float]] = {}
    for name, value in rows.items():
        library, _, job = name.partition(": ")
        of = best.setdefault(job.partition(",")[0], {})
        of[library] = min(value, of.get(library, value))
    return "; ".join(f"{operation}: {_seconds(of)}" for operation, of in best.items())


def _seconds(rows: dict[str, float], most: int = 6) -> str:
    return ", ".join(f"{name} {value:.3g} s" for name, value in sorted(rows.items(), key=lambda row: row[1])[:most])


def _layouts(found: dict[str, Any]) -> str:
    rows = found["seconds"]
    others = ", ".join(name for name, row in rows.items() if len(row["digests"]) > 1) or "none"
    missing = "; ".join(f"{name}: {why}" for name, why in found["missing"].items()) or "none"
    seconds = _seconds({name: row["median"] for name, row in rows.items()}, 8)
    said = f"A Hessian product of {found['problem']}: {seconds}"
    return f"{said}. Other bits when repeated: {others}. Missing: {missing}."


def _job(found: dict[str, Any]) -> str:
    said = (
        f"{name} precision {found[name]['again']:.3g} s ({found[name]['first']:.3g} s with compilation), eigenvalues "
        f"within {found[name]['apart']:.1e} of full float32's"
        for name in ("highest", "default")
        if name in found
    )
    return f"{found['images']:,} images of {found['problem']}: {'; '.join(said)}."


def _seeds(found: dict[str, Any]) -> str:
    return f"Three of {found['network']}, one epoch: {_seconds(found['seconds'])}."


def _groups(found: dict[str, Any]) -> str:
    apart = f"eigenvalues within {found['apart']:.1e} of each other"
    return f"`group_report` of {found['problem']}: {_seconds(found['seconds'])}, {apart}."


def _quickstart(found: dict[str, Any]) -> str:
    return f"{found['seconds']:.3g} s {'for what an earlier call had not made' if found['resumed'] else 'in all'}."


def _forecast(found: dict[str, Any]) -> str:
    images = f"{found['images']:,} images of {found['side']} x {found['side']}"
    return f"Preset `{found['preset']}`, of {images}: {found['said']}"


def _bundle(found: dict[str, Any]) -> str:
    return f"`{found['file']}`, {found['bytes'] / 1e6:.1f} MB, for `experiments.hardware merge`."


STAGES = (
    Stage("right", "Is this device right?", 2.0, _right),
    Stage("benchmark", "How fast beside other libraries?", 5.0, _benchmark),
    Stage("layouts", "Which layout and precision?", 3.0, _layouts),
    Stage("job", "Five groups of a data set's size", 3.0, _job),
    Stage("seeds", "Seeds together", 2.0, _seeds),
    Stage("groups", "Groups together", 1.5, _groups),
    Stage("quickstart", "The quickstart", 4.0, _quickstart),
    Stage("forecast", "How long a whole study would take", 1.5, _forecast),
    Stage("bundle", "This device in the hardware study", 4.0, _bundle),
)
"""In the order of their worth."""
