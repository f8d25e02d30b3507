"""Two groups in the plane (Das et al. 2024, Fig. 2): who loses accuracy when half of the hidden units are linear."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import optax
from jaxtyping import Float, Int

from experiments.reporting import drawing, series, tables
from experiments.reporting.drawing import GREY, LARGE, SMALL
from experiments.reporting.series import UNKNOWN, Estimate, shares
from experiments.reporting.tables import Column, Table
from experiments.running.progress import Progress
from experiments.toy.networks import Layers, estimate, fit, forward, init, summary
from experiments.toy.settings import Boundary
from jaxfair.errors import JaxfairError
from jaxfair.groups import relative_drop
from jaxfair.words import more_or_less

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GROUPS = ("majority", "minority")
NETWORKS = ("full", "half linear")
TEST_POINTS = 5000  # of each group in the plane
MOST_POINTS = 10_000_000  # of training: more do not fit into memory
SHOWN_POINTS = 600  # in the figure, with the training points' shares


def curve(u: np.ndarray) -> np.ndarray:
    """Return the height of the true boundary: 0, a straight line, left of 0, and a wave, sin(pi u), right of it."""
    return np.where(u < 0, 0.0, np.sin(np.pi * u))


def sample(
    seed: Sequence[int], counts: Sequence[int]
) -> tuple[Float[np.ndarray, "n 2"], Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Draw points of the plane, their classes and their groups, the majority first.

    The first coordinate u of a point of the majority (group 0) is uniform on (-4, 0), where the boundary is straight,
    and of the minority (group 1) uniform on (0, 2), where it is a wave. Its class is 0 or 1 with equal chance. Its
    second coordinate is ``curve(u) + 0.1 + |e| / 2`` for class 1 and ``curve(u) - 0.1 - |e| / 2`` for class 0, with e
    standard normal, so the classes never overlap and no accuracy below 1 is the data's.

    Args:
        seed: of the generator.
        counts: points of the majority and of the minority.
    """
    rng = np.random.default_rng(seed)
    group = np.repeat([0, 1], counts)
    u = rng.uniform(np.where(group == 0, -4, 0), np.where(group == 0, 0, 2))
    label = rng.integers(2, size=len(group))
    away = 0.1 + np.abs(rng.normal(size=len(group))) / 2
    return np.stack([u, curve(u) + np.where(label == 1, away, -away)], axis=1), label, group


def compare(config: Boundary, progress: Progress) -> tuple[dict[str, Any], Any]:
    """Train both networks of every seed; return accuracies and drops, and what the figure shows.

    A seed decides the points, the initial weights, which both networks share, and which half of the hidden units,
    drawn from all of them with equal chance, is linear. The half-linear network is so from its first step on. The
    figure shows the seed whose minority drop is the median one.
    """
    progress.expect(len(NETWORKS))
    small = _minority(config)
    counts, seeds, units = (config.points - small, small), range(config.seeds), sum(config.widths)
    data = [sample((seed, 0), counts) for seed in seeds]
    tests = [sample((seed, 1), (TEST_POINTS, TEST_POINTS)) for seed in seeds]
    kept = [np.random.default_rng((seed, 3)).permutation(units) < units - units // 2 for seed in seeds]
    halved = [np.split(k, np.cumsum(config.widths)[:-1]) for k in kept]
    whole = [[np.ones_like(gate) for gate in gates] for gates in halved]
    accuracy, networks = [], []
    for name, gates in zip(NETWORKS, (whole, halved), strict=True):
        progress.begin(f"train the {name} network of {config.seeds} seeds, {config.restarts} starts each")
        fitted = _fit_best(data, gates, config)
        right = [(forward(n, t[0], g) > 0) == t[1] for n, t, g in zip(fitted, tests, gates, strict=True)]
        accuracy.append(np.reshape(right, (-1, 2, TEST_POINTS)).mean(axis=2))
        networks.append(list(zip(fitted, gates, strict=True)))
    drops = relative_drop(*accuracy)
    median = int(np.argsort(drops[:, 1], kind="stable")[(config.seeds - 1) // 2])
    result = {
        "training_points": dict(zip(GROUPS, counts, strict=True)),
        "relus": {n: sum(int(gate.sum()) for gate in both[0][1]) for n, both in zip(NETWORKS, networks, strict=True)},
        "accuracy": {n: _by_group(a, shares(a, TEST_POINTS)) for n, a in zip(NETWORKS, accuracy, strict=True)},
        "relative_drop_percent": _by_group(drops, series.over_seeds(drops, "percent")),
        "minority_drops_more_by": summary(drops[:, 1] - drops[:, 0]),
        "seed_of_median_drop": median,
    }
    fewer = min(1.0, SHOWN_POINTS / config.points)
    points = sample((median, 4), [round(count * fewer) for count in counts])
    return result, (points, [both[median] for both in networks])


def _fit_best(data: Sequence[Any], gates: Sequence[Any], config: Boundary) -> list[Layers]:
    tries = [(seed, start) for seed in range(config.seeds) for start in range(config.restarts)]
    starts = [init((seed, 2, start), (2, *config.widths, 1)) for seed, start in tries]
    x, y, repeated = zip(*((data[seed][0], data[seed][1], gates[seed]) for seed, _ in tries), strict=True)
    fitted, losses = fit(starts, repeated, x, y, config, optax.sigmoid_binary_cross_entropy)
    best = losses.reshape(config.seeds, config.restarts).argmin(axis=1)
    return [fitted[seed * config.restarts + start] for seed, start in enumerate(best)]


def _by_group(values: np.ndarray, found: Estimate) -> dict[str, Any]:
    return {group: {"per_seed": values[:, i], **found.at(i)._asdict()} for i, group in enumerate(GROUPS)}


def draw_boundary(result: dict[str, Any], shown: Any) -> "Figure":
    """Draw both networks' regions for one seed with new points of the same shares, and every seed's drops."""
    from matplotlib.figure import Figure

    (x, label, group), networks = shown
    seed = result["seed_of_median_drop"]
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    left, right, drop = figure.subplots(1, 3, width_ratios=(4, 4, 1.6))
    for axes, name, (layers, gates) in zip((left, right), NETWORKS, networks, strict=True):
        _draw_regions(axes, layers, gates, x)
        wrong = (forward(layers, x, gates) > 0) != label
        for g, color in enumerate((LARGE, SMALL)):
            for c, marker in enumerate("o^"):
                style: Any = {"s": 15, "color": color, "marker": marker, "linewidths": 0, "zorder": 3}
                axes.scatter(*x[(group == g) & (label == c)].T, **style, label=f"{GROUPS[g]}, class {c}")
        axes.scatter(*x[wrong].T, s=48, facecolors="none", edgecolors="black", label="misclassified", zorder=4)
        shares = [100 * result["accuracy"][name][g]["per_seed"][seed] for g in GROUPS]
        title = f"{name}, {result['relus'][name]} ReLUs (seed {seed})"
        axes.set_title(f"{title}\nmajority {shares[0]:.1f} % right, minority {shares[1]:.1f} %", fontsize=9.5)
    right.tick_params(labelleft=False)
    for i, (name, color) in enumerate(zip(GROUPS, (LARGE, SMALL), strict=True)):
        values = result["relative_drop_percent"][name]
        drop.scatter([i] * len(values["per_seed"]), values["per_seed"], s=14, color=color, alpha=0.4, linewidths=0)
        drawing.errorbar(drop, i + 0.25, estimate(values), color)
    drop.axhline(0, color=GREY, linewidth=0.8)
    drop.set(xticks=(0, 1), xticklabels=GROUPS, xlim=(-0.5, 1.6), ylabel="relative accuracy drop (%)")
    drop.set_title(f"{len(values['per_seed'])} seeds: each, and\nmean with 95 % interval", fontsize=9.5)
    drop.grid(visible=False, axis="x")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _draw_regions(axes: "Axes", layers: Layers, gates: Any, x: np.ndarray) -> None:
    low, high = x[:, 1].min() - 0.2, x[:, 1].max() + 0.2
    u, v = np.linspace(-4.1, 2.1, 600), np.linspace(low, high, 400)
    scores = forward(layers, np.stack(np.meshgrid(u, v), axis=-1), gates)
    axes.contourf(u, v, scores > 0, levels=(-0.5, 0.5, 1.5), colors=("#dcdcdc", "#f7f7f7"))
    if scores.min() < 0 < scores.max():
        axes.contour(u, v, scores, levels=(0,), colors="black", linewidths=1.4)
    for c, (height, place) in enumerate(((low, "bottom"), (high, "top"))):
        axes.text(-4, height, f" taken for class {c} ", va=place, fontsize=8.5, color="#444444")
    axes.plot([], [], color="black", linewidth=1.4, label="the network's boundary")
    axes.plot(u, curve(u), color="#2e7d4f", linestyle="--", linewidth=1.4, label="true boundary", zorder=2)
    axes.set(xlim=(-4.1, 2.1), ylim=(low, high))
    axes.grid(visible=False)


def print_boundary(result: dict[str, Any]) -> None:
    """Print accuracies and drops."""
    columns, rows = [Column("network"), Column("relus", "ReLUs")], []
    for what in ("accuracy", "relative drop"):
        columns += [Column(f"{what}, {group} (%)", form=".2f") for group in GROUPS]
    for name in NETWORKS:
        row: dict[str, Any] = {"network": name, "relus": result["relus"][name]}
        row |= {f"accuracy, {group} (%)": estimate(result["accuracy"][name][group], 100) for group in GROUPS}
        for group, drop in result["relative_drop_percent"].items():
            row[f"relative drop, {group} (%)"] = UNKNOWN if name == NETWORKS[0] else estimate(drop)
        rows.append(row)
    more = result["minority_drops_more_by"]
    title = f"Two classes in the plane, {len(more['per_seed'])} seeds (95 % t intervals of the mean)"
    tables.show(Table(columns, rows), title)
    mean, low, high = map(float, estimate(more))
    size, interval = more_or_less((mean, low, high), form=".2f")
    print(f"The minority drops by {size} than the majority {interval}".rstrip() + ".")


def check_boundary(config: Boundary) -> None:
    """Raise a JaxfairError if a setting of the two groups is impossible."""
    if not config.widths or min(config.widths) < 1 or sum(config.widths) < 2 or config.restarts < 1:
        raise JaxfairError(
            f"The hidden widths are {config.widths} and the restarts {config.restarts}; give widths from 1 on, two "
            "units or more, and at least one restart."
        )
    if config.points > MOST_POINTS:
        raise JaxfairError(f"There are to be {config.points:,} points; give at most {MOST_POINTS:,}.")
    if config.points < 2 or not 0 < config.minority < 1 or not 0 < _minority(config) < config.points:
        raise JaxfairError(
            f"A minority of {config.minority} of {config.points} points leaves a group without any; give more "
            "points, or a share further from 0 and 1."
        )


def _minority(config: Boundary) -> int:
    return round(config.minority * config.points)
