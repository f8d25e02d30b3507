"""The small networks of the toy studies: drawn, trained and summarised."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from experiments.reporting.groups import LARGE
from jaxfair.errors import JaxfairError
from jaxfair.groups import seed_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Layers = Sequence[tuple[Any, Any]]
"""Weights (inputs, outputs) and biases (outputs,) of each layer; the units of all but the last one are ReLUs."""


@dataclasses.dataclass(frozen=True)
class Toy:
    """Settings of both studies.

    Attributes:
        out: folder of the results.
        seeds: number of networks of each kind, 0 to seeds - 1.
        steps: of Adam, each on all training points.
        learning_rate: at the first step; it falls to 0 by a cosine.
    """

    out: Path = Path("results/toy")
    seeds: int = 20
    steps: int = 5000
    learning_rate: float = 0.02


def init(seed: Sequence[int], widths: Sequence[int]) -> Layers:
    """Draw weights from N(0, 2 / inputs) (He et al. 2015) and biases from N(0, 1); widths from input to output."""
    rng = np.random.default_rng(seed)
    return [(rng.normal(0, np.sqrt(2 / m), (m, n)), rng.normal(size=n)) for m, n in pairwise(widths)]


def forward(layers: Layers, x: Any, gates: Sequence[Any]) -> Any:
    """Compute the output (...,) at ``x`` (..., inputs); a unit whose gate is False is the identity."""
    for (weight, bias), gate in zip(layers[:-1], gates, strict=True):
        z = x @ weight + bias
        x = z * ((z > 0) | ~gate)
    return (x @ layers[-1][0] + layers[-1][1])[..., 0]


def all_relus(layers: Layers) -> list[np.ndarray]:
    """Return gates that are all True."""
    return [np.ones(bias.shape[-1], bool) for _, bias in layers[:-1]]


@partial(jax.jit, static_argnames=("loss", "steps"))
def _fit(layers: Any, gates: Any, x: Array, y: Array, rate: float, loss: Callable, steps: int) -> Any:
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))

    def one(layers: Any, gates: Any, x: Float[Array, "n d"], y: Float[Array, " n"]) -> tuple[Any, Array]:
        def mean_loss(layers: Any) -> Array:
            return loss(forward(layers, x, gates), y).mean()

        def step(carry: Any, _: None) -> tuple[Any, None]:
            layers, state = carry
            gradient = jax.grad(mean_loss)(layers)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(layers, updates), state), None

        (layers, _), _ = jax.lax.scan(step, (layers, optimizer.init(layers)), None, length=steps)
        return layers, mean_loss(layers)

    return jax.vmap(one)(layers, gates, x, y)


def fit(
    starts: Sequence[Layers], gates: Sequence[Any], x: Sequence[Any], y: Sequence[Any], config: Toy, loss: Callable
) -> tuple[list[Layers], np.ndarray]:
    """Train networks in one program, in float32 and by Adam on the mean loss; return them in float64, and the losses.

    Raises:
        JaxfairError: a weight is not finite in the end.
    """
    stacked = (jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *trees) for trees in (starts, gates))
    points = (jnp.asarray(np.stack(arrays), jnp.float32) for arrays in (x, y))
    fitted = _fit(*stacked, *points, config.learning_rate, loss, config.steps)
    fitted, losses = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), fitted)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fitted)):
        raise JaxfairError(
            f"Training at learning rate {config.learning_rate} ended in numbers that are not finite; give a lower one."
        )
    return [jax.tree.map(lambda leaf, i=i: leaf[i], fitted) for i in range(len(starts))], losses


def summary(values: Any) -> dict[str, Any]:
    """Return values with their mean and its 95 % t interval over seeds."""
    low, high = seed_interval(np.asarray(values, float))
    return {"per_seed": values, "mean": np.mean(values), "low": low, "high": high}


def errorbar(axes: "Axes", x: Any, entries: Sequence[dict[str, Any]], *, marker: str, color=LARGE, label="") -> None:
    """Draw summaries as points with their intervals."""
    mean, low, high = (np.array([entry[key] for entry in entries], float) for key in ("mean", "low", "high"))
    ends = np.nan_to_num(np.maximum([mean - low, high - mean], 0.0))  # one seed has no interval
    axes.errorbar(x, mean, yerr=ends, color=color, marker=marker, linestyle="none", markersize=5, label=label)


def plus_minus(entry: dict[str, Any], factor: float, digits: int = 2) -> str:
    """Return a summary as text."""
    if entry["mean"] is None:  # no drop from an accuracy of 0
        return ""
    half = "" if entry["high"] is None else f" ± {factor * (entry['high'] - entry['mean']):.{digits}f}"
    return f"{factor * entry['mean']:.{digits}f}{half}"


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for i, head in enumerate(heads):
        table.add_column(head, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    console = Console()  # a file or a pipe has no width to fit into
    (console if console.is_terminal else Console(width=120)).print(table)
