"""Put a new accelerator to the test: is it right, how fast is it, and how is it best used; one page of answers.

    python -m benchmarks.accelerator --out results/accelerator --minutes 8

Stages run in the order of their worth, each in a process of its own, and each is saved as soon as it ends: what stands
in ``--out`` is kept when the command is given again, which makes what did not fit into the minutes or was stopped
midway. What a machine lacks (other libraries, tyro) is left out by name. A CPU runs it as well, on smaller problems.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import measure, problems, right, timing
from benchmarks.libraries import jaxfair_jobs as ours
from jaxfair import hardware, networks, processes, runs
from jaxfair.data.sources import load
from jaxfair.errors import JaxfairError
from jaxfair.training.config import TrainConfig
from jaxfair.training.fit import fit

ROOT = Path(__file__).resolve().parents[1]
PAGE = "page.md"
STOPPED = "stopped after"
"""What is said of a part for which no time was left: the same command makes it."""
VARIANTS = {
    "as it is": ("highest", ""),
    "NCHW": ("highest", "--xla_gpu_force_conv_nchw=true"),
    "ordered sums": ("highest", "--xla_gpu_exclude_nondeterministic_ops=true"),
    "TF32": ("tensorfloat32", ""),
    "TF32, NCHW": ("tensorfloat32", "--xla_gpu_force_conv_nchw=true"),
    "ordered sums, untuned": ("highest", "--xla_gpu_deterministic_ops=true"),
    "untuned": ("highest", "--xla_gpu_autotune_level=0"),
}
"""Ways of a GPU to compute: a precision and flags of XLA, in the order of their worth."""


class Stage(NamedTuple):
    """One question.

    Attributes:
        name: of its file.
        question: for the page.
        minutes: that it takes at most; it is stopped then, and what it had written itself is kept.
    """

    name: str
    question: str
    minutes: float


STAGES = (
    Stage("right", "Is this device right?", 2.0),
    Stage("benchmark", "How fast beside other libraries?", 5.0),
    Stage("layouts", "Which layout and precision?", 3.0),
    Stage("job", "Five groups of a data set's size", 3.0),
    Stage("seeds", "Seeds together", 2.0),
    Stage("quickstart", "The quickstart", 4.0),
    Stage("forecast", "How long a whole study would take", 1.5),
    Stage("bundle", "This device in the hardware study", 4.0),
)


def benchmark(out: Path, small: bool, end: float) -> dict[str, Any]:
    """Time products and eigenvalues beside the peers that are installed; what was measured in time is kept."""
    problem = "tiny" if small else "resnet18-w16" if jax.default_backend() == "cpu" else "resnet18-w64"
    file = out / f"measured-{problem}.json"
    command = ["-m", "benchmarks.measure", "--problem", problem, "--operations", "products", "training", "report"]
    # The others' eigenvalues take minutes: their products say why.
    command += ["eigenvalues", "--methods", "jaxfair", "pyhessian", "matfree"]
    command += ["--repeats", "1" if small else "3", "--out", str(file), "--cache", str(out / "networks")]
    rest: dict[str, str] = {}
    try:
        _child(command, seconds=_left(end))
    except JaxfairError as error:
        if not (unfinished := measure.unfinished_file(file)).is_file():
            raise
        unfinished.replace(file)
        rest = {"the rest": str(error)}
    found = json.loads(file.read_text(encoding="utf-8"))
    rows = found.get("products", {}) | found.get("eigenvalues", {}).get("methods", {}) | found.get("report", {})
    seconds = {name: row["median"] for name, row in rows.items() if "median" in row}
    return {
        "problem": problem,
        "seconds": seconds,
        "missing": found["environment"]["missing"] | rest,
        "file": file.name,
    }


def layouts(out: Path, small: bool, end: float) -> dict[str, Any]:
    """Time one Hessian product in every layout, precision and tuning, each in a process of its own."""
    problem = "tiny" if small else "digits" if jax.default_backend() == "cpu" else "resnet18-w64"
    names = list(VARIANTS) if jax.default_backend() == "gpu" else ["as it is"]
    found: dict[str, Any] = _earlier(out, "layouts").get("seconds", {})
    missing: dict[str, str] = {}
    for label in [*names, f"{names[0]}, again"]:  # at the end in a process whose kernels are chosen anew
        if label in found:
            continue
        precision, flags = VARIANTS[label.removesuffix(", again")]
        words = ["-m", "benchmarks.accelerator", "--stage", "product", "--problem", problem, "--out", str(out)]
        given = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()}
        try:
            text = _child([*words, "--precision", precision], given, _left(end))
            found[label] = json.loads(text.strip().splitlines()[-1])
        except JaxfairError as error:  # a flag that this jaxlib does not know, or no time left
            missing[label] = str(error)
    return {"problem": problem, "seconds": found, "missing": missing}


def product(problem: str, precision: str, out: Path) -> None:
    """Print the seconds of one Hessian product and of its first run, and whether repeats agree, for ``layouts``."""
    loaded = problems.load(problem, out / "networks")
    operator, vector = ours.operator(loaded, precision=precision), ours.vector(loaded)
    first = timing.clock(lambda: operator(vector))
    median = float(np.median([timing.clock(lambda: operator(vector)) for _ in range(9)]))
    digests = {hashlib.sha256(np.asarray(operator(vector)).tobytes()).hexdigest()[:12] for _ in range(5)}
    print(json.dumps({"first": first, "median": median, "digests": sorted(digests)}))


def job(out: Path, small: bool, end: float) -> dict[str, Any]:
    """Time all five groups to a residual of 1e-2, in full float32 and in the device's own products."""
    name = "tiny" if small else "digits" if jax.default_backend() == "cpu" else "resnet18-w64-3792"
    problem = problems.load(name, out / "networks")
    found: dict[str, Any] = {"problem": name, "images": len(problem.group)}
    exact = None
    for precision in ("highest", "default"):
        if precision != "highest" and time.monotonic() + found["highest"]["first"] > end:
            found["missing"] = {precision: f"it would have been {STOPPED} its minutes"}
            break  # what is known is kept
        run, reports = ours.report(problem, precision)["group_report, coarse start"].run, []
        seconds = [timing.clock(lambda run=run, reports=reports: reports.append(run())) for _ in range(2)]
        curvature = reports[-1].curvature
        exact = curvature.top_eigenvalue if exact is None else exact
        apart = float(np.abs(curvature.top_eigenvalue / exact - 1).max())
        found[precision] = {"first": seconds[0], "again": seconds[1], "products": curvature.products, "apart": apart}
    return found


def seeds(small: bool) -> dict[str, Any]:
    """Time seeds trained together against one after another."""
    narrow = small or jax.default_backend() == "cpu"
    train, _ = load("digits").split(0.25)
    every, config = [0, 1, 2], TrainConfig(epochs=1, batch_size=128, learning_rate=0.05)
    module = networks.ResNet((1, 1, 1), 10, 8 if narrow else 64)
    starts = [networks.init(module, train.image_shape, seed) for seed in every]
    found = {}
    for at_once in (1, len(every)):
        train_all = partial(_trained, starts, train, config, every, at_once)
        train_all()
        found[f"{at_once} at once"] = float(np.median([timing.clock(train_all) for _ in range(3)]))
    return {"network": f"ResNet (1, 1, 1) of width {module.width}, 8x8 images", "seconds": found}


def _trained(starts: Any, train: Any, config: TrainConfig, seeds: Sequence[int], at_once: int) -> Any:
    return [one.network.params for one in fit(starts, train, config, seeds=seeds, at_once=at_once)]


def quickstart(out: Path, small: bool, end: float) -> dict[str, Any]:
    """Run the quickstart, and time it."""
    code = (
        "import dataclasses, pathlib, sys; from experiments.linearization.settings import QUICKSTART;"
        " from experiments.linearization.study import run;"
        "study = dataclasses.replace(QUICKSTART, out=pathlib.Path(sys.argv[1]), **({'seeds': 1, 'deepreduce': (),"
        "'budgets': (0.05,), 'train': dataclasses.replace(QUICKSTART.train, epochs=1)} if sys.argv[2] else {}));"
        "run(study, ['python -m experiments.linearization', '--preset', 'quickstart'])"
    )
    begin, left = time.perf_counter(), (out / "quickstart" / "runs").exists()  # by one that was stopped
    _child(["-c", code, str(out / "quickstart"), "small" if small else ""], seconds=_left(end))
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "resumed": left, "report": "quickstart/report/report.html"}


def forecast(out: Path, small: bool, end: float) -> dict[str, Any]:
    """Plan a preset for data of UTKFace's size by race, of random pixels: from a few steps of its training, timed."""
    preset = "quickstart" if small else "gpu" if jax.default_backend() != "cpu" else "cpu"
    rng, count, side = np.random.default_rng(0), 200 if small else 23_705, 8 if small else 32
    data = out / "random.npz"
    images = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    np.savez(data, images=images, label=rng.choice(5, count, p=[0.43, 0.19, 0.14, 0.17, 0.07]))
    words = ["-m", "experiments.linearization", "--preset", preset, "--data.name", "npz", "--data.path", str(data)]
    try:
        said = _child([*words, "--out", str(out / "forecast"), "--dry-run"], seconds=_left(end))
    finally:
        data.unlink()
    lines = [line for line in said.splitlines() if "others take about" in line]
    if not lines:
        raise JaxfairError(f"The plan of preset '{preset}' says no time: {said.strip()[-200:]}")
    return {"preset": preset, "images": count, "side": side, "said": lines[0]}


def bundle(out: Path, small: bool, end: float) -> dict[str, Any]:
    """Train the hardware study's networks on this device and pack them, to be merged with other machines' bundles."""
    profile = hardware.named(jax.default_backend()).name
    folder, file = out / "hardware", out / f"hardware-{profile}.tar.gz"
    words = ["-m", "experiments.hardware", "--preset", "quickstart", "--profiles", profile, "--out", str(folder)]
    words += ["--seeds", "1", "--train.epochs", "1", "--ulps", "0", "--controls"] if small else []
    _child(words, seconds=_left(end))
    file.unlink(missing_ok=True)
    _child(["-m", "experiments.hardware", "pack", str(folder), str(file)], seconds=_left(end))
    return {"profile": profile, "file": file.name, "bytes": file.stat().st_size}


WORK: dict[str, Callable[[Path, bool, float], dict[str, Any]]] = {
    "right": lambda *_: right.is_right(),
    "benchmark": benchmark,
    "layouts": layouts,
    "job": job,
    "seeds": lambda _, small, __: seeds(small),
    "quickstart": quickstart,
    "forecast": forecast,
    "bundle": bundle,
}


def _earlier(out: Path, stage: str) -> dict[str, Any]:
    """Return what a stage has saved; nothing where it has not."""
    path = out / f"{stage}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _left(end: float) -> float:
    """Return the seconds that a child may take, of a stage that ends at ``end``: enough is left to save its record."""
    return max(1.0, end - time.monotonic() - 5)


def _child(words: Sequence[str], environment: dict[str, str] | None = None, seconds: float | None = None) -> str:
    """Run Python and return what it prints."""
    # As every command of the studies has it, and what one of them is called by here would not.
    given = {"JAX_DEFAULT_MATMUL_PRECISION": "highest", **os.environ, **(environment or {})}
    called = words[1] if words[0] == "-m" else "its process"  # whose words name folders, and the page is shown
    try:
        ended = subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=given, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        raise JaxfairError(f"{called} was {STOPPED} {seconds:.0f} seconds") from None
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or [f"status {ended.returncode}"]
        raise JaxfairError(f"{called} failed: {lines[-1][:200]}")
    return ended.stdout


def run_stage(name: str, out: Path, small: bool, minutes: float) -> None:
    """Run one stage in this process, of which it may take ``minutes``, and save what it found."""
    begin = time.perf_counter()
    environment = {**runs.environment(), **hardware.describe()}
    _check_same(out, environment)
    found = WORK[name](out, small, time.monotonic() + 60 * minutes)
    record = {"stage": name, "stage_seconds": time.perf_counter() - begin, **found, "environment": environment}
    runs.write_json(out / f"{name}.json", record)


def _check_same(out: Path, environment: dict[str, Any]) -> None:
    """Refuse a folder whose answers are of another device, or of another JAX: one page would mix both.

    Raises:
        JaxfairError: it is one.
    """
    for stage in STAGES:
        if earlier := _earlier(out, stage.name).get("environment"):
            ours, theirs = (
                f"{of['device_count']} x {of['device_kind']}, jax {of['versions']['jax']}"
                for of in (environment, earlier)
            )
            if ours != theirs:
                raise JaxfairError(f"'{out.name}' has answers of {theirs}, and here is {ours}; choose another --out.")


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
    for stage in STAGES:
        note(missing)
        left = end - time.monotonic()
        earlier = _earlier(out, stage.name)
        if earlier and not any(STOPPED in reason for reason in earlier.get("missing", {}).values()):
            print(f"{stage.name}: is there already, and kept")
            continue
        if left < 15:
            missing[stage.name] = "no time was left; give the same command again"
            continue
        print(f"{stage.name}: {stage.question} (at most {min(left / 60, stage.minutes):.1f} minutes)", flush=True)
        seconds = min(left, 60 * stage.minutes)
        words = [sys.executable, "-m", "benchmarks.accelerator", "--stage", stage.name, "--out", str(out)]
        words += ["--minutes", str(seconds / 60)]
        words += ["--small"] if small else []
        if reason := _run(words, seconds):
            missing[stage.name] = reason
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
    return (error.strip().splitlines() or [f"status {process.returncode}"])[-1][:300] if process.returncode else ""


def page(out: Path, missing: dict[str, str]) -> str:
    """Return what was found as Markdown of one screen."""
    found = {stage.name: earlier for stage in STAGES if (earlier := _earlier(out, stage.name))}
    if not found:
        reasons = [f"{name}: {reason}" for name, reason in missing.items()]
        return f"Nothing was found: {'; '.join(reasons) or 'no stage has ended yet'}\n"
    about = next(iter(found.values()))["environment"]
    versions = about["versions"]
    lines = [f"# {about['device_kind']}", ""]
    lines += [f"{about['device_count']} x {about['backend']}, jax {versions['jax']}, Python {about['python']}, commit "
              f"{str(about['commit'])[:7]}, {about['started']}; convolutions by {about['kernels']}.", ""]  # fmt: skip
    for stage in STAGES:
        said = (
            _said[stage.name](found[stage.name])
            if stage.name in found
            else f"missing: {missing.get(stage.name, 'not made yet')}"
        )
        lines += [f"- **{stage.question}** {said}"]
    return "\n".join(lines) + "\n"


def write_page(out: Path, missing: dict[str, str]) -> str:
    """Write what was found so far as ``page``, and return it."""
    text = page(out, missing)
    (out / PAGE).write_text(text, encoding="utf-8")
    return text


def _seconds(rows: dict[str, float], most: int = 6) -> str:
    return ", ".join(f"{name} {value:.3g} s" for name, value in sorted(rows.items(), key=lambda row: row[1])[:most])


def _beside(rows: dict[str, float]) -> str:
    """Say of each operation how long the fastest job of each library takes, ``library: operation, variant``."""
    best: dict[str, dict[str, float]] = {}
    for name, value in rows.items():
        library, _, job = name.partition(": ")
        of = best.setdefault(job.partition(",")[0], {})
        of[library] = min(value, of.get(library, value))
    return "; ".join(f"{operation}: {_seconds(of)}" for operation, of in best.items())


_said: dict[str, Callable[[dict[str, Any]], str]] = {
    "right": lambda f: (
        f"{'Yes' if f['right'] else 'NO'}: largest relative error {max(f['errors'].values()):.1e} against float64 "
        f"(allowed {f['allowed']:.0e}), products round to {f['product']}, convolutions to {f['convolution']}; a repeat "
        f"gives {'the same' if f['same_bits'] else 'OTHER'} bits."
    ),
    "benchmark": lambda f: f"{f['problem']}: {_beside(f['seconds'])}. Missing: {', '.join(f['missing']) or 'none'}.",
    "layouts": lambda f: (
        f"A Hessian product of {f['problem']}: "
        + _seconds({n: row["median"] for n, row in f["seconds"].items()}, 8)
        + ". Other bits when repeated: "
        + (", ".join(n for n, row in f["seconds"].items() if len(row["digests"]) > 1) or "none")
        + f". Missing: {'; '.join(f'{n}: {why}' for n, why in f['missing'].items()) or 'none'}."
    ),
    "job": lambda f: (
        f"{f['images']:,} images of {f['problem']}: "
        + "; ".join(
            f"{name} precision {f[name]['again']:.3g} s ({f[name]['first']:.3g} s with compilation), eigenvalues "
            f"within {f[name]['apart']:.1e} of full float32's"
            for name in ("highest", "default")
            if name in f
        )
        + "."
    ),
    "seeds": lambda f: f"Three of {f['network']}, one epoch: {_seconds(f['seconds'])}.",
    "quickstart": lambda f: (
        f"{f['seconds']:.3g} s {'for what an earlier call had not made' if f['resumed'] else 'in all'}."
    ),
    "forecast": lambda f: (
        f"Preset `{f['preset']}`, of {f['images']:,} images of {f['side']} x {f['side']}: {f['said']}"
    ),
    "bundle": lambda f: f"`{f['file']}`, {f['bytes'] / 1e6:.1f} MB, for `experiments.hardware merge`.",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all stages, or one; a mistake is answered by one sentence."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the answers")
    parser.add_argument("--minutes", type=float, default=8.0, help="that all stages, or this one, may take")
    parser.add_argument("--small", action="store_true", help="tiny problems, to see that everything runs")
    parser.add_argument("--stage", choices=[*WORK, "product"], help="run this stage alone, in this process")
    parser.add_argument("--problem", default="tiny", help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="highest", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if not 0 < chosen.minutes < float("inf"):
        parser.error(f"--minutes is {chosen.minutes:g}; give a number above 0")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # stages start processes that need their share
    if "JAX_DEFAULT_MATMUL_PRECISION" not in os.environ:
        jax.config.update("jax_default_matmul_precision", "highest")
    out = chosen.out.absolute()
    try:
        if chosen.stage == "product":
            product(chosen.problem, chosen.precision, out)
        elif chosen.stage:
            processes.end_with_parent(group=True)
            run_stage(chosen.stage, out, chosen.small, chosen.minutes)
        else:
            with processes.locked(out / PAGE, print):  # two would time each other
                # After each stage, so that what was found is on the page however the command ends.
                missing = run_all(out, chosen.minutes, chosen.small, lambda missing: write_page(out, missing))
                print(write_page(out, missing))
    except (JaxfairError, OSError) as error:
        raise SystemExit(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit("interrupted; finished stages are kept, and the same command goes on from here") from None


if __name__ == "__main__":
    main()
