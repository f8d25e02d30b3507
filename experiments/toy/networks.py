"""The small networks of the toy studies: drawn, trained and summarised."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from experiments.reporting.series import Estimate, over_seeds
from experiments.toy.settings import Toy
from jaxfair.errors import JaxfairError
from jaxfair.intervals import Scale

Layers = Sequence[tuple[Any, Any]]
"""Weights (inputs, outputs) and biases (outputs,) of each layer; the units of all but the last one are ReLUs."""


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


def summary(values: Any, scale: Scale = "real") -> dict[str, Any]:
    """Return values with their mean and its 95 % t interval over seeds, made where they can lie, for a record."""
    return {"per_seed": values, **over_seeds(values, scale)._asdict()}


def estimate(entry: Mapping[str, Any], unit: float = 1.0) -> Estimate:
    """Return a summary's mean and interval times ``unit``; a record has None where they are not known."""
    return Estimate(*(unit * np.asarray(entry[key], float) for key in ("mean", "low", "high")))
