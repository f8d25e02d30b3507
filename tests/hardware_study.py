"""Results of a hardware study made by hand, without a training. Not a test itself."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.hardware.results import Comparison, Hardware, Series
from experiments.hardware.runs import CONTROLS
from experiments.reporting.groups import Groups
from experiments.reporting.sampling import FREE

PROFILES = (("cpu-avx", "AVX (native)", "native"), ("cpu-1", "one thread (native)", "native"))
PROFILES += (("bf16", "bfloat16 (emulated)", "emulated"),)
STEPS = (0, 1, 2, 4, 8)
BASE = "CPU (native)"
ALL = (("plain", "none", None), ("alignment", "alignment", None), ("SNL 50", "none", 50))


def make_hardware(
    *,
    group_names: Sequence[str] = ("a", "b", "c", "d"),
    train_count: Sequence[int] = (300, 20, 400, 100),
    test_count: Sequence[int] = (40, 30, 60, 50),
    seeds: int = 3,
    profiles: Sequence[tuple[str, str, str]] = PROFILES,
    ulps: int = 2,
    others: Sequence[str] = ("repeat", "order", "batch"),
    steps: Sequence[int] = STEPS,
    trainings: Sequence[tuple[str, str, int | None]] = (("plain", "none", None),),
) -> Hardware:
    """Return random results: small groups have a higher loss, and the further from the reference the more moves.

    ``trainings`` are title, mitigation and budget; further ones stand for alignment and linearization.
    """
    rng = np.random.default_rng(0)
    counts, tests = np.array(train_count), np.array(test_count)
    comparisons = [
        _comparison(rng, *training, counts, tests, seeds, profiles, ulps, others, np.array(steps))
        for training in trainings
    ]
    groups = Groups(tuple(group_names), counts, tests)
    group = np.repeat(np.arange(len(counts)), tests)
    return Hardware(tuple(comparisons), groups, group, int(groups.order[0]), np.array(steps, int), ())


def changed(hardware: Hardware, part: str, index: int, by_group: dict[str, np.ndarray], **fields: Any) -> Hardware:
    """Return results in whose plain training one series has other quantities by group, or other fields."""
    first = hardware.comparisons[0]
    series = (first.reference,) if part == "reference" else getattr(first, part)
    if "loss" in by_group:
        fields = {"loss": np.repeat(by_group["loss"], hardware.groups.test_count, axis=1)} | fields
    new = series[index]._replace(by_group=series[index].by_group | by_group, **fields)
    value = new if part == "reference" else (*series[:index], new, *series[index + 1 :])
    return hardware._replace(comparisons=(first._replace(**{part: value}), *hardware.comparisons[1:]))


def sampled(hardware: Hardware) -> Hardware:
    """Return results whose plain reference has its sampling measured: halves of the norms, twice the eigenvalues."""
    rng, reference = np.random.default_rng(1), hardware.comparisons[0].reference
    free = {FREE["gradient_norm"]: reference.by_group["gradient_norm"][:, ::-1] / 2}
    free[FREE["top_eigenvalue"]] = 2 * reference.by_group["top_eigenvalue"][:, ::-1]
    shape = *reference.by_group["loss"].shape, 12
    noise = {name: rng.normal(0, 0.1, shape) for name in FREE}
    parts = {name: free[FREE[name]][..., None] + noise[name] - noise[name].mean(-1, keepdims=True) for name in FREE}
    return changed(hardware, "reference", 0, free, parts=parts)


def right(accuracy: np.ndarray, tests: np.ndarray) -> np.ndarray:
    """Return predictions with these accuracies, (seeds, groups), on so many images of each group, one after another."""
    counts = np.round(accuracy * tests)
    return np.hstack([(np.arange(n) < counts[:, [g]]).astype(float) for g, n in enumerate(tests)])


def _comparison(
    rng: np.random.Generator,
    title: str,
    mitigation: str,
    budget: int | None,
    counts: np.ndarray,
    tests: np.ndarray,
    seeds: int,
    profiles: Sequence[tuple[str, str, str]],
    ulps: int,
    others: Sequence[str],
    steps: np.ndarray,
) -> Comparison:
    shape = seeds, len(counts)
    loss = 30 / np.sqrt(counts) + rng.gamma(2.0, 0.1, shape)
    groups = {
        "accuracy": np.floor(tests * np.clip(1 - loss / 10, 0, 1)) / tests,
        "loss": loss,
        "softmax_gap": 1 / (1 + loss),
        "impurity": loss / (1 + loss),
        "gradient_norm": loss * rng.uniform(0.8, 1.2, shape),
        "top_eigenvalue": 10 * loss * rng.uniform(0.8, 1.2, shape),
        "top_eigenvalue_residual": np.full(shape, 0.01),
        "top_eigenvalue_converged": np.ones(shape),
        "curvature_count": np.broadcast_to(tests, shape),
    }

    def series(label: str, profile: str, kind: str, control: str, scale: float) -> Series:
        own = {name: groups[name] for name in ("accuracy", "loss", "softmax_gap", "impurity")}
        if control == "none" and scale == 0:
            own = groups
        moved = scale * rng.normal(size=shape) * loss
        accuracy = np.clip(groups["accuracy"] + np.round(5 * moved) / tests, 0, 1)
        own = own | {"loss": np.abs(loss + moved), "accuracy": accuracy}
        start = scale * np.where(control.startswith("ulp"), 1e-6, 1e-8) * (steps > 0)
        growth = start * np.exp(np.minimum(steps, 6)) * rng.uniform(0.5, 1.5, (seeds, 1))
        return Series(
            label=label,
            profile=profile,
            kind=kind,
            control=control,
            accuracy=(own["accuracy"] * tests).sum(axis=1) / tests.sum(),
            correct=right(own["accuracy"], tests),
            one_class=np.zeros(seeds, bool),
            loss=np.repeat(own["loss"], tests, axis=1),
            by_group=own,
            distance=scale * rng.uniform(1, 2, seeds),
            curve=growth if budget is None and len(steps) and control != "batch" else None,
            same_bits=np.full(seeds, scale == 0),
            trained=(),
        )

    return Comparison(
        title=title,
        mitigation=mitigation,
        budget=budget,
        reference=series(BASE, "cpu", "native", "none", 0.0),
        profiles=tuple(series(label, name, kind, "none", 0.2) for name, label, kind in profiles),
        ulps=tuple(series(f"{BASE}, ulp {i}", "cpu", "native", f"ulp{i}", 0.1) for i in range(1, ulps + 1)),
        others=tuple(
            series(BASE + CONTROLS[control], "cpu", "native", control, 0.3 * (control != "repeat"))
            for control in others
        ),
        moved=np.full(seeds, 2.0) if len(steps) else np.full(seeds, np.nan),
    )
