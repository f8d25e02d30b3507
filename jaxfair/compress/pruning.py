"""Magnitude pruning: the smallest weights become zero, exactly as many as asked for, and stay zero in fine-tuning.

Only kernels of convolutions and dense layers are pruned, not biases and batch norm. What is left of them is a tree of
the parameters' structure, which ``fit`` takes as ``kept``.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxfair.errors import JaxfairError
from jaxfair.models import check_parameters, path_name
from jaxfair.networks.network import Network
from jaxfair.options import Options, checked


@dataclasses.dataclass(frozen=True)
class PruneConfig(Options):
    """How much is pruned, and among which weights the smallest are looked for.

    Attributes:
        sparsity: The share of the prunable weights that becomes zero, in [0, 1); the number of weights is rounded to
            the nearest.
        scope: ``global`` compares all weights, so that some layers lose more than others; ``layer`` prunes the same
            share of every layer.

    Example:
        >>> from jaxfair import PruneConfig
        >>> PruneConfig(0.9)
        PruneConfig(sparsity=0.9, scope='global')
    """

    sparsity: float = 0.9
    scope: Literal["global", "layer"] = "global"


def check_config(config: PruneConfig) -> None:
    """Raise a JaxfairError unless a network can be pruned by this configuration."""
    if not 0 <= config.sparsity < 1:
        raise JaxfairError(f"The sparsity is {config.sparsity}; give the share of the weights to remove, in [0, 1).")


@checked
def prune(network: Network, config: PruneConfig) -> Network:
    """Set the weights of the smallest magnitude to zero (Han et al. 2015), as they are stored, batch norm apart.

    Of equal magnitudes those that come first in the flattened tree go first, so the result is the same on every
    device. Weights that are zero already are the first to go: pruning a pruned network again adds to what is gone.

    Args:
        network: A trained network; it is not changed.
        config: How much, and where.

    Returns:
        The network with exactly that many zeros; everything else is as it was.

    Raises:
        JaxfairError: The sparsity is not in [0, 1), or the scope is unknown.

    Example:
        >>> from jaxfair import PruneConfig, ResNet, init, prune
        >>> from jaxfair.compress.pruning import kept_count, weight_count
        >>> network = init(ResNet((1, 1), num_classes=10, width=4), (8, 8, 1), seed=0)
        >>> pruned = prune(network, PruneConfig(0.9))
        >>> weight_count(network.params), kept_count(pruned.params)
        (1300, 130)
    """
    check_config(config)
    leaves, structure = jax.tree_util.tree_flatten_with_path(network.params)
    weights = {i: np.asarray(leaf) for i, (path, leaf) in enumerate(leaves) if prunable(path)}
    made = [leaf for _, leaf in leaves]
    for part in [[i] for i in weights] if config.scope == "layer" else [list(weights)]:
        flat = np.concatenate([weights[i].ravel() for i in part])
        flat[np.argsort(np.abs(flat), kind="stable")[: round(config.sparsity * flat.size)]] = 0
        for i, values in zip(part, np.split(flat, np.cumsum([weights[i].size for i in part])[:-1]), strict=True):
            made[i] = jnp.asarray(values.reshape(weights[i].shape))
    return network.replace(params=jax.tree.unflatten(structure, made))


def prunable(path: tuple[Any, ...]) -> bool:
    """Return whether the parameter at a path may be pruned: a kernel of a convolution or of a dense layer."""
    return path[-1].key == "kernel"


@checked
def kept_weights(params: Any) -> Any:
    """Return what ``fit`` takes as ``kept``: of each kernel whether a weight is not zero, and True of all else.

    Returns:
        A tree of the structure of ``params``, whose leaves are arrays of booleans, those of kernels in their shapes.

    Raises:
        JaxfairError: The parameters are no nested dicts of floating-point arrays.

    Example:
        >>> from jaxfair import CNN, PruneConfig, TrainConfig, fit, init, kept_weights, load, prune
        >>> train, test = load("digits").split()
        >>> pruned = prune(init(CNN(num_classes=10, features=(4,)), train.image_shape, seed=0), PruneConfig(0.5))
        >>> config = TrainConfig(epochs=1, batch_size=64, learning_rate=0.05)
        >>> (tuned,) = fit([pruned], train, config, seeds=[0], kept=[kept_weights(pruned.params)])
        >>> bool((tuned.network.params["head"]["kernel"][pruned.params["head"]["kernel"] == 0] == 0).all())
        True
    """
    _check_params(params)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf != 0 if prunable(path) else jnp.ones((), bool), params
    )


def _check_params(params: Any) -> None:
    if not isinstance(params, Mapping):
        raise JaxfairError(f"The parameters are of type {type(params).__name__}; give a network's .params.")
    check_parameters(params)
    for path, _ in jax.tree_util.tree_leaves_with_path(params):
        if not all(isinstance(key, jax.tree_util.DictKey) for key in path):
            raise JaxfairError(
                f"The parameter '{path_name(path)}' is not in nested dicts alone; give a network's .params."
            )


@checked
def weight_count(params: Any) -> int:
    """Return the number of prunable weights of a network's parameters."""
    _check_params(params)
    return sum(leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(params) if prunable(path))


@checked
def kept_count(params: Any) -> int:
    """Return the number of prunable weights that are not zero, of a network's parameters."""
    _check_params(params)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return sum(int(jnp.count_nonzero(leaf)) for path, leaf in leaves if prunable(path))


@checked
def sparsities(final: float, rounds: int) -> list[float]:
    """Return the sparsity of each round of gradual pruning, ``s (1 - (1 - t / n)^3)`` (Zhu and Gupta 2017, Eq. 1).

    Much is pruned while much is left, and little at the end. The network is fine-tuned after every round.

    Args:
        final: The sparsity ``s`` of the last round.
        rounds: Their number ``n``.

    Raises:
        JaxfairError: There is no round, or the sparsity is not in [0, 1).

    Example:
        >>> from jaxfair.compress.pruning import sparsities
        >>> [round(sparsity, 3) for sparsity in sparsities(0.9, 3)]
        [0.633, 0.867, 0.9]
    """
    check_config(PruneConfig(final))
    if rounds < 1:
        raise JaxfairError(f"Pruning is to take {rounds} rounds; give at least 1.")
    return [final * (1 - (1 - done / rounds) ** 3) for done in range(1, rounds)] + [final]
