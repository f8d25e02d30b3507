"""Linear pieces of ReLU networks of one input (Das et al. 2024, Fig. 10, Propositions 4.1 and 4.2)."""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import optax

from experiments.reporting import drawing, series, tables
from experiments.reporting.drawing import GREY, LARGE, SMALL
from experiments.reporting.series import Estimate
from experiments.reporting.tables import Column, Table
from experiments.running.progress import Progress
from experiments.toy.networks import Layers, all_relus, estimate, fit, forward, init, summary
from experiments.toy.settings import Pieces
from jaxfair.errors import JaxfairError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GRID_POINTS = 513  # of the interval, to train on


# Strictly convex functions, and where each has a given slope; exp has no slope below 0, so that is far to the left.
FUNCTIONS: dict[str, tuple[Callable, Callable]] = {
    "x²": (np.square, lambda slope: slope / 2),
    "exp x": (np.exp, lambda slope: np.log(np.maximum(slope, 1e-300))),
}


def breakpoints(layers: Layers, interval: tuple[float, float] = (-np.inf, np.inf)) -> list[Fraction]:
    """Return where inside the interval a ReLU network of one input changes its slope, exactly and in order.

    Layer by layer: on each piece every unit is a line, and a unit that changes its sign inside cuts the piece there.
    A cut at which no output's slope changes in the end is none. Floats are fractions of powers of two, and ReLU takes
    a positive factor out, so each layer is scaled to integers and lines are pairs of Python integers: nothing is
    rounded, and slopes are equal when they are equal. A point is a pair (p, q) for p / q; (-1, 0) is minus infinity.

    Raises:
        JaxfairError: a weight is not finite, or the interval is empty.
    """
    low, high = interval
    if not low < high:
        raise JaxfairError(f"The interval is {low} to {high}; give a lower end below the upper one.")
    if not all(np.isfinite(array).all() for layer in layers for array in layer):
        raise JaxfairError("A weight of the network is not finite; its pieces can be counted of finite ones only.")
    points = [tuple(float(end).as_integer_ratio()) if np.isfinite(end) else (int(np.sign(end)), 0) for end in interval]
    slope, offset, scale = np.array([[1]], object), np.array([[0]], object), 1
    for depth, (weight, bias) in enumerate(layers):
        weight, bias, factor = _integers(np.asarray(weight), np.asarray(bias))
        slope, offset = slope @ weight, offset @ weight + scale * bias
        scale *= factor
        if depth + 1 == len(layers):
            break
        cut, parent = [points[0]], []
        for i, ((p, q), (r, s)) in enumerate(pairwise(points)):
            lines = zip(slope[i], offset[i], strict=True)
            zeros = {Fraction(-b, a) for a, b in lines if (a * p + b * q) * (a * r + b * s) < 0}
            cut += [*(zero.as_integer_ratio() for zero in sorted(zeros)), (r, s)]
            parent += [i] * (len(zeros) + 1)
        points, slope, offset = cut, slope[parent], offset[parent]
        p, q = np.array(points, object).T[:, :, None]
        ends = slope * p[:-1] + offset * q[:-1], slope * p[1:] + offset * q[1:]
        active = (ends[0] > 0) | (ends[1] > 0) | ((slope == 0) & (offset > 0))
        slope, offset = slope * active, offset * active
    changes = (slope[1:] != slope[:-1]).any(axis=1)
    return [Fraction(*point) for point, change in zip(points[1:-1], changes, strict=True) if change]


def _integers(weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return weight and bias times the smallest factor that makes all of them integers, and that factor."""
    both = np.concatenate([weight, bias[None]])
    ratios = [float(value).as_integer_ratio() for value in both.flat]
    factor = max(bottom for _, bottom in ratios)
    whole = np.array([top * (factor // bottom) for top, bottom in ratios], object).reshape(both.shape)
    return whole[:-1], whole[-1], factor


def most_pieces(widths: Sequence[int]) -> int:
    """Return ``2^(k-1) (w_1 + 1) w_2 ... w_k``, which no network of k hidden layers exceeds (Das et al., Prop. 4.1)."""
    return 2 ** (len(widths) - 1) * (widths[0] + 1) * int(np.prod(widths[1:], dtype=object))


def best_error(name: str, pieces: int, interval: tuple[float, float]) -> tuple[float, list[float]]:
    """Return the smallest sup error that a piecewise linear function with so many pieces can have, and its knots.

    On [u, v] the best line is the chord moved halfway to the tangent that is parallel to it; it errs equally at both
    ends and at the tangent. The best function errs equally on all pieces; its lines meet, since at a shared knot both
    are that error below the function. For x² the pieces are equally long and the error is ((high - low) / p)² / 8;
    otherwise each end is solved for, from left to right, and then the error that makes the last one meet the interval.
    """
    from scipy import optimize

    root: Callable[..., float] = optimize.brentq  # pyright: ignore[reportAssignmentType]
    (low, high), (value, tangent_at) = interval, FUNCTIONS[name]
    if name == "x²":
        return ((high - low) / pieces) ** 2 / 8, np.linspace(low, high, pieces + 1).tolist()

    def error(u: float, v: float) -> float:
        slope = (value(v) - value(u)) / (v - u) if v > u else 0.0
        at = tangent_at(slope)
        return (value(u) + slope * (at - u) - value(at)) / 2 if v > u else 0.0

    def knots_for(wanted: float) -> list[float]:
        knots = [low]
        for _ in range(pieces - 1):
            u = knots[-1]
            if error(u, high) <= wanted:
                knots.append(high)
            else:
                knots.append(root(lambda v, u: error(u, v) - wanted, u, high, args=(u,), xtol=1e-15))
        return knots

    smallest = root(lambda e: error(knots_for(e)[-1], high) - e, 0, error(low, high), xtol=1e-16)
    return smallest, [*knots_for(smallest), high]


def largest_error(layers: Layers, name: str, interval: tuple[float, float]) -> float:
    """Return the sup error of a network of one input, which it takes at a knot or where it is parallel to a tangent."""
    value, tangent_at = FUNCTIONS[name]
    knots = np.unique([interval[0], *map(float, breakpoints(layers, interval)), interval[1]])
    slope = np.diff(forward(layers, knots[:, None], all_relus(layers))) / np.diff(knots)
    at = np.concatenate([knots, np.clip(tangent_at(slope), knots[:-1], knots[1:])])
    return float(np.abs(forward(layers, at[:, None], all_relus(layers)) - value(at)).max())


def measure(config: Pieces, progress: Progress) -> tuple[dict[str, Any], Any]:
    """Count the pieces of random networks; compare trained networks with the best approximation of each function.

    Trained networks minimise the mean squared error on a grid; the error that is reported is the largest of the whole
    interval. The figure shows the best of the networks with the fewest pieces from 3 on, for the first function.
    """
    progress.expect(len(config.networks) + len(set(config.pieces)))
    counted, rows, seeds = [], [], range(config.seeds)
    for name in config.networks:
        progress.begin(f"count the pieces of {config.seeds} random networks {name}")
        widths = parse_widths(name)
        pieces = summary([len(breakpoints(init((seed, *widths), (1, *widths, 1)))) + 1 for seed in seeds], "positive")
        counted.append({"network": name, "units": sum(widths), "pieces": pieces, "most": most_pieces(widths)})
    x = np.linspace(*config.interval, GRID_POINTS)
    shown = {}
    for pieces in sorted(set(config.pieces)):
        progress.begin(f"train {config.seeds} networks of {pieces - 1} units on each function")
        starts = [init((seed, pieces), (1, pieces - 1, 1)) for seed in seeds]
        gates, inputs = [all_relus(start) for start in starts], [x[:, None]] * config.seeds
        for name, (value, _) in FUNCTIONS.items():
            fitted, _ = fit(starts, gates, inputs, [value(x)] * config.seeds, config, optax.squared_error)
            errors = [largest_error(layers, name, config.interval) for layers in fitted]
            best, knots = best_error(name, pieces, config.interval)
            rows.append({"function": name, "pieces": pieces, "best_error": best, "trained_error": errors})
            shown[name, pieces] = knots, fitted[int(np.argmin(errors))]
    slopes = {}
    for name in FUNCTIONS:
        chosen = [row for row in rows if row["function"] == name]
        logs = [np.log([row[key] for row in chosen]) for key in ("pieces", "best_error", "trained_error")]
        slopes[name] = {
            "best": _fitted_slope(*logs[:2])._asdict(),
            "trained": summary(np.polyfit(logs[0], logs[2], 1)[0]),
        }
    return {"random": counted, "approximation": rows, "log_log_slope": slopes}, (config.interval, shown)


def draw_pieces(result: dict[str, Any], shown: Any) -> "Figure":
    """Draw one approximation, the counted pieces against the formula, and the errors against the number of pieces."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.9), layout="constrained")
    example, count, error = figure.subplots(1, 3)
    _draw_example(example, *shown)
    rows = result["random"]
    for depth in sorted({row["network"].count("x") for row in rows}):
        chosen = [row for row in rows if row["network"].count("x") == depth]
        most, layers = [row["most"] for row in chosen], f"{depth + 1} hidden layer{'s' * (depth > 0)}"
        counted = series.stack([estimate(row["pieces"]) for row in chosen])
        drawing.errorbar(count, most, counted, LARGE, "osD^v<>"[depth % 7], label=layers)
        for row in chosen:
            place: Any = {"xytext": (0, 9), "textcoords": "offset points", "fontsize": 6.5, "ha": "center"}
            count.annotate(row["network"], (row["most"], row["pieces"]["mean"]), **place)
    most, units = [row["most"] for row in rows], [row["units"] + 1 for row in rows]
    count.plot(most, units, "_", color=SMALL, markersize=10, label="hidden units + 1")
    top = 2 * max(row["pieces"]["mean"] for row in rows)
    count.plot([2, top], [2, top], color=GREY, linewidth=1, label="as many as the formula allows")
    count.set(xscale="log", yscale="log", ylim=(2, top))
    ticks = [t for t in (2, 5, 10, 20, 50, 100, 200, 500) if t <= top]
    count.set_yticks(ticks, [str(t) for t in ticks])
    count.minorticks_off()
    count.set(xlabel="most pieces by the formula", ylabel="pieces counted", title="Random networks")
    count.legend(fontsize=7, loc="lower right")
    for name, color in zip(FUNCTIONS, (LARGE, SMALL), strict=True):
        chosen = [row for row in result["approximation"] if row["function"] == name]
        pieces, trained = [row["pieces"] for row in chosen], np.array([row["trained_error"] for row in chosen])
        error.plot(pieces, [row["best_error"] for row in chosen], color=color, label=f"{name}, best possible")
        label = f"{name}, trained (median, quartiles)"
        error.plot(pieces, np.median(trained, axis=1), "o--", color=color, markersize=4, label=label)
        error.fill_between(pieces, *np.quantile(trained, (0.25, 0.75), axis=1), color=color, alpha=0.15, linewidth=0)
    error.set(xscale="log", yscale="log", xlabel="pieces p (trained: p - 1 ReLUs)", title="Approximation")
    error.set_ylabel("largest error")
    error.set_xticks(pieces, [str(p) for p in pieces])
    error.minorticks_off()
    error.legend(fontsize=7, loc="lower left")
    return figure


def _draw_example(axes: "Axes", interval: tuple[float, float], shown: dict[tuple[str, int], Any]) -> None:
    name, pieces = min(key for key in shown if key[0] == next(iter(FUNCTIONS)) and key[1] > 2)
    knots, layers = shown[name, pieces]
    value, x = FUNCTIONS[name][0], np.linspace(*interval, 400)
    error = best_error(name, pieces, interval)[0]
    own = np.array([interval[0], *map(float, breakpoints(layers, interval)), interval[1]])
    axes.plot(x, value(x), color="#bbbbbb", linewidth=4, label=name)
    axes.plot(knots, value(np.array(knots)) - error, "o-", color=LARGE, markersize=4, label=f"best, error {error:.2g}")
    label = f"trained (best seed), error {largest_error(layers, name, interval):.2g}"
    axes.plot(own, forward(layers, own[:, None], all_relus(layers)), "s--", color=SMALL, markersize=4, label=label)
    axes.set(title=f"{name} by {pieces - 1} ReLUs: at most {pieces} pieces", xlabel="x")
    axes.legend(fontsize=7, loc="upper center")


def _fitted_slope(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Return the slope of the line of least squares with its 95 % t interval."""
    from scipy.stats import t

    (slope, _), covariance = np.polyfit(x, y, 1, cov=True)
    half = t.ppf(0.975, len(x) - 2) * np.sqrt(covariance[0, 0])
    return Estimate(slope, slope - half, slope + half)


def parse_widths(name: str) -> tuple[int, ...]:
    """Return the hidden widths that a name like 8x4 stands for.

    Raises:
        JaxfairError: it stands for none.
    """
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", name):
        raise JaxfairError(f"'{name}' is no network; write its hidden widths like 8x4, each at least 1.")
    return tuple(map(int, name.split("x")))


def check_pieces(config: Pieces) -> None:
    """Raise a JaxfairError if a setting of the linear pieces is impossible."""
    if not config.networks or len(set(config.pieces)) < 3 or min(config.pieces) < 2:
        raise JaxfairError(
            f"There are {len(config.networks)} networks and the numbers of pieces are {config.pieces}; give at "
            "least one network, and three different numbers from 2 on, through which a slope can be fitted."
        )
    low, high = config.interval
    if not -10 <= low < high <= 10 or high - low < 0.1:
        raise JaxfairError(f"The interval is {low} to {high}; give one within -10 and 10, at least 0.1 long.")
    for name in config.networks:
        parse_widths(name)


RANDOM = (
    Column("network"),
    Column("units", "hidden units"),
    Column("pieces", "pieces, mean", ".2f"),
    Column("largest", "pieces, most"),
    Column("most", "formula"),
)
APPROXIMATION = (
    Column("function"),
    Column("pieces"),
    Column("best_error", "best possible error", ".2e"),
    Column("median", "trained: median", ".2e"),
    Column("best", "trained: best", ".2e"),
)


def print_pieces(result: dict[str, Any]) -> None:
    """Print counted pieces, errors and slopes."""
    counted = [
        {**row, "pieces": estimate(row["pieces"]), "largest": max(row["pieces"]["per_seed"])}
        for row in result["random"]
    ]
    tables.show(Table(RANDOM, counted), "Linear pieces of random networks")
    errors = [
        {**row, "median": np.median(row["trained_error"]), "best": min(row["trained_error"])}
        for row in result["approximation"]
    ]
    tables.show(Table(APPROXIMATION, errors), "Largest error of a piecewise linear function")
    for name, slopes in result["log_log_slope"].items():
        said = {key: series.text(estimate(value), ".3f") for key, value in slopes.items()}
        print(f"{name}: the best error falls as p^s with s = {said['best']}, the trained one with {said['trained']}.")
