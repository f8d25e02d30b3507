"""Networks in which nothing but the ReLUs that are kept is compared, in the form that private inference takes.

A gated network computes every unit's slope from its sign and then chooses, which a protocol of secret shares would pay
for at every unit. Here batch norm is built into the convolutions, units whose mask is 0 are not touched at all, and the
others are gathered by constant positions, compared, and put back (``layers``).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxfair.errors import JaxfairError
from jaxfair.networks import layers
from jaxfair.networks.architectures import CNN, EPSILON, ResNet
from jaxfair.networks.layers import Layer
from jaxfair.networks.network import Network, Takes, fold, takes_of
from jaxfair.options import checked


@dataclasses.dataclass(frozen=True, eq=False)
class Gathered:
    """A network as data, which is also a function of images.

    Attributes:
        layers: What is computed, in this order (see ``layers``).
        weights: Kernels and biases by the number of their layer, float32.
        kept: Positions of the units that are compared, by the number of their gate; a gate that keeps every unit is
            in ``layers`` alone, and one that keeps none is nowhere.
        comparisons: Number of ReLUs for one image.
        takes: Images that it is a function of.
    """

    layers: tuple[Layer, ...]
    weights: Mapping[str, np.ndarray]
    kept: Mapping[str, np.ndarray]
    comparisons: int
    takes: Takes

    def __call__(self, x: Float[Array | np.ndarray, "n h w c"]) -> Float[Array, "n classes"]:
        """Compute logits in evaluation mode.

        Raises:
            JaxfairError: These are no normalized images of the size that the network takes.
        """
        self.takes.check(x)
        weights = {name: jnp.asarray(array) for name, array in self.weights.items()}
        return layers.run(self.layers, weights, self.kept, jnp.asarray(x))[-1]


@checked
def gathered(network: Network) -> Gathered:
    """Return a network as layers in which only the kept ReLUs are compared.

    The same function as the network up to rounding, since batch norm is folded.

    Args:
        network: The network; its masks are 0 or 1.

    Raises:
        JaxfairError: A mask is neither 0 nor 1, or the network emulates other arithmetic.

    Example:
        >>> from jaxfair import CNN, gathered, init
        >>> found = gathered(init(CNN(num_classes=3, features=(2,)), (8, 8, 1), seed=0))
        >>> [layer.op for layer in found.layers], found.comparisons
        (['conv', 'relu', 'pool', 'flatten', 'dense'], 128)
    """
    module = network.module
    if module.arithmetic != "native":
        raise JaxfairError(f"The network emulates {module.arithmetic} arithmetic; give one of native arithmetic.")
    for mask in map(np.asarray, jax.tree.leaves(network.masks)):
        if wrong := mask[(mask != 0) & (mask != 1)].tolist():
            raise JaxfairError(f"A mask is {wrong[0]:g}, where a unit is compared or not; give masks of 0 and 1.")
    folds = isinstance(module, ResNet) and module.block != "preactivation"
    params = fold(network.params, network.batch_stats) if folds else network.params
    graph = _Graph([], {}, {}, [], params, network.batch_stats, network.masks)
    last = _cnn(graph, module) if isinstance(module, CNN) else _resnet(graph, module)
    graph.linear("dense", ("head",), last)
    takes = takes_of(network, network.params)
    return Gathered(tuple(graph.layers), graph.weights, graph.kept, sum(graph.compared), takes)


@dataclasses.dataclass(frozen=True)
class _Graph:
    """The layers so far; each method adds one and returns the number of its value."""

    layers: list[Layer]
    weights: dict[str, np.ndarray]
    kept: dict[str, np.ndarray]
    compared: list[int]
    params: Any
    batch_stats: Any
    masks: Any

    def add(self, op: str, *inputs: int, path: tuple[str, ...] = (), stride: int = 1) -> int:
        self.layers.append(Layer(op, inputs, "/".join(path), stride))
        return len(self.layers)

    def linear(self, op: str, path: tuple[str, ...], x: int, stride: int = 1) -> int:
        entry = _at(self.params, path)
        kernel = np.asarray(entry["kernel"], np.float32)
        bias = np.asarray(entry.get("bias", np.zeros(kernel.shape[-1])), np.float32)
        return self._weighted(op, path, x, kernel, bias, stride)

    def norm(self, path: tuple[str, ...], x: int) -> int:
        """Add a batch norm that follows no convolution; one that does is part of it."""
        entry, stats = _at(self.params, path), _at(self.batch_stats, path)
        slope = np.asarray(entry["scale"] / jnp.sqrt(stats["var"] + EPSILON))
        bias = np.asarray(entry["bias"]) - np.asarray(stats["mean"]) * slope
        return self._weighted("affine", path, x, slope, bias)

    def _weighted(
        self, op: str, path: tuple[str, ...], x: int, kernel: np.ndarray, bias: np.ndarray, stride: int = 1
    ) -> int:
        number = len(self.layers)
        self.weights[f"{number}/kernel"] = kernel.astype(np.float32)
        self.weights[f"{number}/bias"] = bias.astype(np.float32)
        return self.add(op, x, path=path, stride=stride)

    def gate(self, path: tuple[str, ...], x: int) -> int:
        mask = np.asarray(_at(self.masks, path)["alpha"])
        kept = np.flatnonzero(mask)
        if not len(kept):
            return x
        if len(kept) < mask.size:
            self.kept[str(len(self.layers))] = kept
        self.compared.append(len(kept))
        return self.add("relu", x, path=path)


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _cnn(graph: _Graph, module: CNN) -> int:
    x = 0
    for stage in range(1, len(module.features) + 1):
        name, stride = ("stem_conv", module.stem_stride) if stage == 1 else (f"stage{stage}_conv", 1)
        x = graph.linear("conv", (name,), x, stride)
        x = graph.add("pool", graph.gate((f"stage{stage}_block1", "gate1"), x))
    return graph.add("flatten", x)


def _resnet(graph: _Graph, module: ResNet) -> int:
    block_of = {"basic": _residual, "bottleneck": _residual, "preactivation": _preactivation}[module.block]
    x = graph.linear("conv", ("stem_conv",), 0, module.stem_stride)
    for stage, size in enumerate(module.stage_sizes):
        for block in range(size):
            x = block_of(graph, f"stage{stage + 1}_block{block + 1}", x, 2 if stage > 0 and block == 0 else 1)
    if module.block == "preactivation":
        x = graph.norm(("last_norm",), x)
    return graph.add("mean", x)


def _residual(graph: _Graph, name: str, x: int, stride: int) -> int:
    """Add a basic block or a bottleneck: the first 3x3 convolution has the stride, the last gate follows the sum."""
    entry = graph.params[name]
    convs = [f"conv{i}" for i in (1, 2, 3) if f"conv{i}" in entry]
    strided = next(conv for conv in convs if entry[conv]["kernel"].shape[0] == 3)
    y = x
    for i, conv in enumerate(convs, start=1):
        y = graph.linear("conv", (name, conv), y, stride if conv == strided else 1)
        y = graph.gate((name, f"gate{i}"), y) if conv != convs[-1] else y
    if "shortcut_conv" in entry:
        x = graph.linear("conv", (name, "shortcut_conv"), x, stride)
    return graph.gate((name, f"gate{len(convs)}"), graph.add("add", x, y, path=(name,)))


def _preactivation(graph: _Graph, name: str, x: int, stride: int) -> int:
    """Add a block whose norms and gates come before its convolutions."""
    y = graph.gate((name, "gate1"), graph.norm((name, "norm1"), x))
    if "shortcut_conv" in graph.params[name]:
        x = graph.linear("conv", (name, "shortcut_conv"), y, stride)
    y = graph.linear("conv", (name, "conv1"), y, stride)
    y = graph.gate((name, "gate2"), graph.norm((name, "norm2"), y))
    return graph.add("add", x, graph.linear("conv", (name, "conv2"), y), path=(name,))
