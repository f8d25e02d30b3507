"""A study small enough to be run many times in tests, and analyses made by hand. Not a test itself."""

import fcntl
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image

from experiments.hardware.__main__ import main as hardware
from experiments.linearization import report
from experiments.linearization.__main__ import main as linearization
from experiments.reporting import drawing
from experiments.running.records import load_network
from jaxfair import runs
from jaxfair.runs import Run

ROOT = Path(__file__).resolve().parents[1]

# One seed, one budget, one DeepReDuce student. See ``told`` for others in their place.
TINY = (
    *("--seeds=1", "--budgets", "0.5", "--deepreduce", "C12"),
    *("--model.stage-sizes", "1", "1", "--model.width=4"),
    *("--train.epochs=3", "--snl-finetune.epochs=1", "--deepreduce-train.epochs=1"),
    *("--snl.learning-rate=0.02", "--snl.kappa=1e-2"),
    *("--analysis.max-steps=4", "--analysis.chunk-size=1024", "--controls"),
)
# Two profiles, two seeds, alignment.
TINY_HARDWARE = (
    *("--seeds=2", "--profiles", "cpu", "bf16", "--model.stage-sizes", "1", "1", "--model.width=4"),
    *("--train.epochs=3", "--steps", "1", "2", "25", "--analysis.no-linearized-distance", "--analysis.max-steps=4"),
)
UNUSED = {"--deepreduce": {"--deepreduce-train"}, "--budgets": {"--snl", "--snl-finetune"}, "--nodes": {"--profiles"}}
"""What is refused beside an option without values, and beside nodes."""
ALWAYS_SAVE = [f"--{stage}.checkpoint-seconds=0" for stage in ("train", "snl", "snl-finetune", "deepreduce-train")]
RUNS = {"train": 1, "linearize": 2, "finetune": 2, "analyse": 3, "sampling": 2, "gradients": 1}  # of it, by stage
CONFIGURED = (
    "jax_default_matmul_precision",
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
)


def told(study: Sequence[str], *options: str) -> list[str]:
    """Return a study's options but those that are given again or unused then, which is refused; then the others."""
    given = {option.partition("=")[0] for option in options}
    for option, following in zip(options, [*options[1:], "--"], strict=True):
        if option in UNUSED and (option == "--nodes" or following.startswith("--")):
            given |= UNUSED[option]
    kept, keep = [], True
    for word in study:
        name = word.partition("=")[0]
        keep = given.isdisjoint((name, name.partition(".")[0])) if word.startswith("--") else keep
        kept += [word] * keep
    return [*kept, *options]


def call(out: Path, *options: str, drawn: bool = False) -> int:
    """Run the tiny study in this process and return the exit status; its figures are empty unless ``drawn``."""
    with nullcontext() if drawn else mock.patch("experiments.reporting.drawing.save", sketch):
        return linearization(told(TINY, "--out", str(out), *options))


@contextmanager
def command_line(cache: Path) -> Iterator[None]:
    """Let command lines configure JAX, with their compilation cache in ``cache``, and undo it afterwards."""
    before = {name: jax.config.values[name] for name in CONFIGURED}
    home = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(cache)
    try:
        yield
    finally:
        os.environ.pop("XDG_CACHE_HOME")
        if home is not None:
            os.environ["XDG_CACHE_HOME"] = home
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()  # or all later tests would go on writing to it


def once(folder: Path, name: str, make: Callable[[Path], int]) -> Path:
    """Return the study that the first of a session's workers to ask for it has made; the others wait, and only read."""
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = shared / f"{name}.made"
        if not made.exists():
            assert make(shared / name) == 0
            made.touch()
    return shared / name


@functools.cache
def made_once(folder: Path) -> Path:
    """Make the tiny study when it is asked for first, and return where it lies; ``folder`` is pytest's base."""
    return once(folder, "tiny", lambda out: call(out, drawn=True))


@functools.cache
def hardware_made_once(folder: Path) -> Path:
    """Do the same for the tiny hardware study."""
    return once(folder, "tiny-hardware", lambda out: hardware([*TINY_HARDWARE, "--out", str(out)]))


def finished(out: Path) -> dict[str, Run]:
    """Return the finished runs of a study by folder name, each checked against its digests."""
    return {path.parent.name: runs.read(path.parent) for path in sorted((out / "runs").glob("*/DONE"))}


def assert_same_study(left: Path, right: Path) -> None:
    """Compare all that the stages computed, bit for bit."""
    runs_left, runs_right = finished(left), finished(right)
    assert list(runs_left) == list(runs_right)
    for name, run in runs_left.items():
        other = runs_right[name]
        for file in json.loads((run.path / "DONE").read_text()):
            if file != "environment.json" and not file.startswith("checkpoint/"):
                assert (run.path / file).read_bytes() == (other.path / file).read_bytes(), (name, file)
        if run.checkpoint_dir.exists():
            networks = [jax.tree.leaves(load_network(r)) for r in (run, other)]
            for a, b in zip(*networks, strict=True):
                np.testing.assert_array_equal(np.asarray(a).view(np.int32), np.asarray(b).view(np.int32), name)


def of_stage(found: dict[str, Run], stage: str) -> list[Run]:
    """Return the runs of one stage."""
    return [run for run in found.values() if run.config["stage"] == stage]


def make_analyses(
    root: Path,
    *,
    group_names: Sequence[str] = ("a", "b", "c"),
    train_count: Sequence[int] = (400, 300, 20),
    test_count: Sequence[int] = (40, 60, 13),
    seeds: int = 3,
    networks: Sequence[tuple[str, str, int] | tuple[str, str, int, Mapping[str, Any]]] = (
        ("Full network", "full", 768),
        ("SNL 200", "snl", 200),
        ("SNL 50", "snl", 50),
        ("DeepReDuce C12", "deepreduce", 0),
    ),
    never_right: Sequence[int] = (),
    rarely_right: Sequence[int] = (),
) -> list[Run]:
    """Write finished analyses of random networks, networks outermost, as ``stages.analyse`` does.

    ``networks`` are label, method, ReLUs and what else is recorded of them. ``never_right`` are groups on which no
    network predicts anything right, and of ``rarely_right`` one image is; everywhere else some predictions are right.
    """
    rng = np.random.default_rng(0)
    group = rng.permutation(np.repeat(np.arange(len(group_names)), test_count))
    label = rng.integers(0, 4, len(group))
    made, full_accuracy = [], {}
    for network, method, relus, *more in networks:
        for seed in range(seeds):
            logits = rng.normal(size=(len(label), 4)).astype(np.float32)
            right = rng.random(len(label)) < 0.6
            right &= ~np.isin(group, rarely_right)
            right[[np.flatnonzero(group == g)[0] for g in range(len(group_names))]] = True
            right &= ~np.isin(group, never_right)
            logits[np.arange(len(label)), (label + ~right) % 4] = 5.0
            accuracy = np.array([right[group == g].mean() for g in range(len(group_names))])
            full = full_accuracy.setdefault(seed, accuracy)
            with np.errstate(invalid="ignore"):
                drop = 100 * (full - accuracy) / full
            numbers = ("loss", "softmax_gap", "gradient_norm", "top_eigenvalue", "top_eigenvalue_residual")
            groups = {name: rng.gamma(2.0, size=len(group_names)) for name in numbers}
            groups["softmax_gap"] = groups["softmax_gap"] / (1 + groups["softmax_gap"])  # of which none is above 1
            groups |= {"name": group_names, "train_count": train_count, "test_count": test_count}
            groups |= {"accuracy": accuracy, "accuracy_full": full, "relative_drop_percent": drop}
            groups |= {"top_eigenvalue_converged": np.full(len(group_names), True)}
            result = {
                "relu_count": relus,
                "unit_count": 768,
                "parameter_distance": np.nan if method == "deepreduce" else float(relus + seed),
                "accuracy": right.mean(),
                "groups": groups,
                "checks": {"deterministic": True, "worst_relative_residual": 0.01, "precision": "highest"},
            }
            config = {
                "stage": "analyse",
                "name": f"{network}-seed{seed}",
                "seed": seed,
                "variant": {"label": network, "method": method, **(more[0] if more else {})},
                "data": {"name": "handmade", "fingerprint": {"train": "1", "test": "2"}},
                "model": {"width": 4},
                "analysis": {"split": "test"},
            }
            run = runs.start(root, config)
            run.write_arrays("examples.npz", {"logits": logits, "label": label, "group": group})
            run.write_json("result.json", result)
            described = {"backend": "cpu", "device_kind": "cpu", "device_count": 1}
            described |= {"default_matmul_precision": "highest", "finished": "2024-01-01T00:00:00Z"}
            described |= {"host_cores": 2, "seconds": 3.0, "seconds_shared_by_runs": 2}
            run.write_json("environment.json", {**runs.environment(), **described})
            made.append(run.finish())
    return made


def sketch(_: object, path: Path) -> Path:
    """Write an empty figure in the place of ``drawing.save``, which takes most of a report's time."""
    svg = path.with_name(f"{path.name}.svg")
    svg.write_text("<svg></svg>", encoding="utf-8")
    Image.new("RGB", (1, 1)).save(path.with_name(f"{path.name}.png"))
    return svg


def lay_out(figure: Any, path: Path) -> Path:
    """Lay a figure out in the place of ``drawing.save``, which finds what cannot be drawn but writes no files."""
    drawing.lay_out(figure)
    return path.with_name(f"{path.name}.svg")


def make_study(folder: Path, title: str, **study: Any) -> list[Run]:
    """Make analyses as ``make_analyses`` does, and their report with empty figures, in a study's folder."""
    made = make_analyses(folder / "runs", **study)
    with mock.patch("experiments.reporting.drawing.save", sketch):
        report.write(made, folder / "report", title=title, command=["a", "b c"])
    return made


def mitigated(base: str, relus: int, **numbers: Any) -> tuple[str, str, int, dict[str, Any]]:
    """Return a network for ``make_analyses`` that was mitigated, by the Lagrangian if ``numbers`` name no method."""
    how = {"method": "lagrangian", "rate": 0.01, "level": 0.1, "adversary_rate": 0.001, **numbers}
    named = f"(mu {how['rate']:g})" if how["method"].startswith("lagrangian") else f"(level {how['level']:g})"
    return f"{base} + {how['method']} {named}", "mitigated", relus, {"base": base, "mitigation": how}
