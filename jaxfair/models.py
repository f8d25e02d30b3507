"""ResNets with a gate for every ReLU unit; the only file that imports flax.linen.

The network is the one of Cho et al. 2022 (Selective Network Linearization): 3x3 stem without a ReLU, stages of basic
blocks whose width doubles and whose resolution halves, global average pooling, a linear head. Images are NHWC.
The gates' values are the variable collection ``masks``; module names are part of the format
(``stage<n>_block<m>/gate<k>``), since masks are chosen by stage and by gate.
"""

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Key

from jaxfair.errors import JaxfairError

STAGE_SIZES = {9: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}

_he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
_conv = partial(nn.Conv, use_bias=False, kernel_init=_he_normal)
# PyTorch's defaults, in Linen's convention: momentum 0.9 here is momentum 0.1 there.
_norm = partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5)


def gated_relu(x: Float[Array, "n *u"], alpha: Float[Array, " *u"]) -> Float[Array, "n *u"]:
    """Compute ``alpha relu(x) + (1 - alpha) x``; at x = 0 the slope is 1 - alpha, as PyTorch has it."""
    return jnp.where(x > 0, x, (1 - alpha) * x)


class Gate(nn.Module):
    """A ReLU for every unit, made linear where its mask is 0."""

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Apply the gate; the mask has the shape of one example."""
        alpha = self.variable("masks", "alpha", jnp.ones, x.shape[1:], jnp.float32)
        return gated_relu(x, alpha.value.astype(x.dtype))


class Block(nn.Module):
    """A basic residual block: two 3x3 convolutions, a gate after the first and one after the sum."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n h2 w2 c2"]:
        """Apply the block; a 1x1 convolution carries the shortcut where the shape changes."""
        norm = partial(_norm, use_running_average=not train)
        conv3x3 = partial(_conv, self.features, (3, 3), padding=1)
        strides = (self.stride, self.stride)
        y = Gate(name="gate1")(norm(name="norm1")(conv3x3(strides=strides, name="conv1")(x)))
        y = norm(name="norm2")(conv3x3(name="conv2")(y))
        if self.stride != 1 or x.shape[-1] != self.features:
            x = _conv(self.features, (1, 1), strides=strides, padding=0, name="shortcut_conv")(x)
            x = norm(name="shortcut_norm")(x)
        return Gate(name="gate2")(x + y)


class ResNet(nn.Module):
    """A gated ResNet.

    Attributes:
        stage_sizes: blocks in each stage; ``STAGE_SIZES`` names the usual depths.
        num_classes: width of the head.
        width: channels of the stem and the first stage; each further stage has twice as many.
        stem_stride: stride of the stem; DeepReDuce's resolution scaling rho is 1 / stem_stride.
    """

    stage_sizes: tuple[int, ...]
    num_classes: int
    width: int = 64
    stem_stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n classes"]:
        """Compute logits; ``train`` says whether batch norm uses and updates the batch's statistics."""
        x = _conv(self.width, (3, 3), strides=(self.stem_stride,) * 2, padding=1, name="stem_conv")(x)
        x = _norm(use_running_average=not train, name="stem_norm")(x)
        for stage, size in enumerate(self.stage_sizes):
            for block in range(size):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage{stage + 1}_block{block + 1}"
                x = Block(self.width * 2**stage, stride, name=name)(x, train=train)
        return nn.Dense(self.num_classes, kernel_init=_he_normal, name="head")(x.mean(axis=(1, 2)))


@partial(jax.tree_util.register_dataclass, data_fields=["params", "batch_stats", "masks"], meta_fields=["module"])
@dataclasses.dataclass(frozen=True)
class Network:
    """A module with its variables: what training, linearization and analysis hand to each other.

    A pytree whose arrays are the variables, so it passes through ``jax.jit`` and two networks of one module share a
    compiled function.
    """

    module: ResNet
    params: Any
    batch_stats: Any
    masks: Any

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n classes"]:
        """Compute logits in evaluation mode."""
        return _logits(self, self.params, x)

    def replace(self, **changes: Any) -> "Network":
        """Return a copy with some variables replaced."""
        return dataclasses.replace(self, **changes)


def init(module: ResNet, image_shape: tuple[int, int, int], seed: int) -> Network:
    """Initialise a network with every unit a ReLU.

    Args:
        module: the architecture.
        image_shape: (height, width, channels) of its inputs.
        seed: of the He-normal weights; the same on every backend.

    Raises:
        JaxfairError: a size is not positive, or the images are too small for the number of stages.
    """
    sizes = (*module.stage_sizes, module.width, module.stem_stride, module.num_classes)
    if not module.stage_sizes or min(sizes) < 1:
        raise JaxfairError(
            f"The network has stage sizes {module.stage_sizes}, width {module.width}, stem stride {module.stem_stride} "
            f"and {module.num_classes} classes; give at least one stage, and whole numbers of at least 1."
        )
    halvings = module.stem_stride * 2 ** (len(module.stage_sizes) - 1)
    if min(image_shape[:2]) < halvings:
        raise JaxfairError(
            f"Images of {image_shape[0]}x{image_shape[1]} are too small for {len(module.stage_sizes)} stages with stem "
            f"stride {module.stem_stride}; give at least {halvings}x{halvings} or fewer stages."
        )
    variables = _init(module, jax.random.key(seed), jnp.zeros((1, *image_shape)))
    return Network(module, variables["params"], variables["batch_stats"], variables["masks"])


@partial(jax.jit, static_argnames=("module",))
def _init(module: ResNet, key: Key[Array, ""], x: Float[Array, "1 h w c"]) -> Any:
    return module.init(key, x, train=False)


def apply_train(
    network: Network, params: Any, masks: Any, x: Float[Array, "n h w c"]
) -> tuple[Float[Array, "n classes"], Any]:
    """Compute logits in training mode; return them with the updated batch statistics."""
    variables = {"params": params, "batch_stats": network.batch_stats, "masks": masks}
    logits, updated = network.module.apply(variables, x, train=True, mutable=["batch_stats"])
    return logits, updated["batch_stats"]


def frozen(network: Network) -> Partial:
    """Return ``logits_fn(params, x)`` in evaluation mode, with batch statistics and masks fixed.

    Analysis sees nothing else, so batch norm in the wrong mode cannot be expressed. The result is a pytree: functions
    jitted over it are compiled once for all networks of one module.
    """
    return Partial(_logits, network)


def _logits(network: Network, params: Any, x: Float[Array, "n h w c"]) -> Float[Array, "n classes"]:
    variables = {"params": params, "batch_stats": network.batch_stats, "masks": network.masks}
    logits = network.module.apply(variables, x, train=False)
    assert isinstance(logits, jax.Array)
    return logits
