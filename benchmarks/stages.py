"""What each stage of ``benchmarks.accelerator`` measures; ``WORK`` has them by name."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import measure, problems, right, timing
from benchmarks.answers import STOPPED, earlier, why
from benchmarks.libraries import jaxfair_jobs as ours
from jaxfair import hardware, networks
from jaxfair.data.sources import load
from jaxfair.errors import JaxfairError
from jaxfair.kernels import ON_GPU, ONEDNN
from jaxfair.training.config import TrainConfig
from jaxfair.training.fit import fit

ROOT = Path(__file__).resolve().parents[1]
VARIANTS = {
    "as it is": ("highest", ""),
    "NCHW": ("highest", ON_GPU["nchw"]),
    "ordered sums": ("highest", ON_GPU["ordered"]),
    "TF32": ("tensorfloat32", ""),
    "TF32, NCHW": ("tensorfloat32", ON_GPU["nchw"]),
    "ordered sums, untuned": ("highest", "--xla_gpu_deterministic_ops=true"),
    "untuned": ("highest", "--xla_gpu_autotune_level=0"),
}
"""Ways of a GPU to compute: a precision and flags of XLA, in the order of their worth."""


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
    kinds = {"": found.get("products", {}) | found.get("report", {}), "training step, ": found.get("training", {})}
    kinds["eigenvalues at equal error, "] = found.get("eigenvalues", {}).get("methods", {})
    seconds = {
        name.replace(": ", f": {kind}", 1): row["median"]
        for kind, rows in kinds.items()
        for name, row in rows.items()
        if "median" in row
    }
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
    found: dict[str, Any] = earlier(out, "layouts").get("seconds", {})
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
        if precision != "highest" and time.monotonic() + sum(seconds) > end:
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


def groups(out: Path, small: bool) -> dict[str, Any]:
    """Time five groups of 40 images whose eigenvalues are searched in turn, and all at once, in turn."""
    name = "tiny" if small else "digits" if jax.default_backend() == "cpu" else "resnet18-w16"
    problem, tops = problems.load(name, out / "networks"), list[np.ndarray]()
    seconds: dict[str, list[float]] = {}
    every = len(np.unique(problem.group))
    for _ in range(1 + (1 if small else 5)):  # the first of them compiles
        for at_once in (1, every):
            run = ours.report(problem, at_once=at_once)["group_report, random start"].run
            taken = timing.clock(lambda run=run: tops.append(run().curvature.top_eigenvalue))
            seconds.setdefault(f"{at_once} at once", []).append(taken)
    medians = {label: float(np.median(taken[1:])) for label, taken in seconds.items()}
    return {"problem": name, "seconds": medians, "apart": float(np.abs(np.array(tops) / tops[0] - 1).max())}


def quickstart(out: Path, small: bool, end: float) -> dict[str, Any]:
    """Run the quickstart as its command does, and time it."""
    begin, left = time.perf_counter(), (out / "quickstart" / "runs").exists()  # by one that was stopped
    _study("quickstart", out / "quickstart", "small" if small else "", end=end)
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "resumed": left, "report": "quickstart/report/report.html"}


def forecast(out: Path, small: bool, end: float) -> dict[str, Any]:
    """Plan a preset for data of UTKFace's size by race, of random pixels: from a few steps of its training, timed."""
    preset = "quickstart" if small else "gpu" if jax.default_backend() != "cpu" else "cpu"
    rng, count, side = np.random.default_rng(0), 200 if small else 23_705, 8 if small else 32
    data = out / "random.npz"
    images = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    np.savez(data, images=images, label=rng.choice(5, count, p=[0.43, 0.19, 0.14, 0.17, 0.07]))
    try:
        said = _study("forecast", preset, data, out / "forecast", end=end)
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
    file.unlink(missing_ok=True)
    # Of which oneDNN's convolutions, for which this process was started, are another profile.
    base = {**os.environ, "XLA_FLAGS": os.environ.get("XLA_FLAGS", "").replace(ONEDNN, "").strip()}
    environment = hardware.environment_of(hardware.named(profile), base)
    _study("bundle", profile, folder, file, "small" if small else "", environment=environment, end=end)
    return {"profile": profile, "file": file.name, "bytes": file.stat().st_size}


WORK: dict[str, Callable[[Path, bool, float], dict[str, Any]]] = {
    "right": lambda *_: right.is_right(),
    "benchmark": benchmark,
    "layouts": layouts,
    "job": job,
    "seeds": lambda _, small, __: seeds(small),
    "groups": lambda out, small, _: groups(out, small),
    "quickstart": quickstart,
    "forecast": forecast,
    "bundle": bundle,
}


def _left(end: float) -> float:
    """Return the seconds that a child may take, of a stage that ends at ``end``: enough is left to save its record."""
    return max(1.0, end - time.monotonic() - 5)


def _study(name: str, *words: object, end: float, environment: Mapping[str, str] = os.environ) -> str:
    """Run a function of ``benchmarks/studies.py`` by that file's path, and return what it prints."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    given = {**environment, "PYTHONPATH": paths}
    return _child(["-P", str(ROOT / "benchmarks" / "studies.py"), name, *map(str, words)], given, _left(end))


def _child(words: Sequence[str], environment: dict[str, str] | None = None, seconds: float | None = None) -> str:
    """Run Python and return what it prints."""
    given = {**os.environ, **(environment or {})}
    called = words[1] if words[0] == "-m" else "the study"  # whose words name folders, and the page is shown
    try:
        ended = subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=given, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        raise JaxfairError(f"{called} was {STOPPED} {seconds:.0f} seconds") from None
    if ended.returncode:
        raise JaxfairError(f"{called} failed: {why(ended.stderr, ended.returncode)}")
    return ended.stdout
