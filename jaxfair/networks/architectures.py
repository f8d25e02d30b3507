"""Architectures with a gate for every ReLU unit; the only file that imports flax.linen.

ResNets as the linearization papers have them (3x3 stem without a ReLU, stages whose width doubles and whose resolution
halves, global average pooling, a linear head) and a small convolutional network. Images are NHWC.
The gates' values are the variable collection ``masks``. Module names are part of the format: masks are chosen by stage
and by gate (``stage<n>_block<m>/gate<k>``), and the first convolution of every network is ``stem_conv``.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxfair.errors import JaxfairError
from jaxfair.networks import arithmetic
from jaxfair.networks.arithmetic import Arithmetic
from jaxfair.networks.channels import spread, total
from jaxfair.options import check_kind

STAGE_SIZES = {9: (1, 1, 1, 1), 18: (2, 2, 2, 2), 22: (3, 3, 3), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Blocks in each stage by depth: ``basic`` blocks, but 50 has ``bottleneck`` and 22 (WRN-22) ``preactivation`` ones."""

# PyTorch's defaults, in Linen's convention: momentum 0.9 here is momentum 0.1 there.
EPSILON = 1e-5


class BatchNorm(nn.Module):
    """Batch norm over all axes but the last, with the parameters and statistics of ``flax.linen.BatchNorm``.

    Attributes:
        use_running_average: Whether the stored statistics are used, or the batch's, which then update them.
        momentum: Share of the stored statistics that an update keeps.
        epsilon: Added to the variance.
    """

    use_running_average: bool
    momentum: float
    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "*n c"]) -> Float[Array, "*n c"]:
        """Normalize, scale and shift."""
        size = x.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, size, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, size, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, size, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, size, jnp.float32)
        if self.use_running_average:  # as Flax has it: curvature looks for what parameters are multiplied with
            one = (1,) * (x.ndim - 1)
            slope = lax.rsqrt(var.value + self.epsilon) * scale
            return (x - mean.value.reshape(*one, -1)) * slope.reshape(*one, -1) + bias.reshape(*one, -1)
        count = x.size // x.shape[-1]
        centre = total(x) / count
        variance = jnp.maximum(total(x * x) / count - centre * centre, 0)
        if not self.is_initializing():
            mean.value = self.momentum * mean.value + (1 - self.momentum) * centre
            var.value = self.momentum * var.value + (1 - self.momentum) * variance
        slope = lax.rsqrt(variance + self.epsilon) * scale
        return x * spread(slope, x.shape) + spread(bias - centre * slope, x.shape)


_norm = partial(BatchNorm, momentum=0.9, epsilon=EPSILON)


def _no_norm(name: str) -> Callable[[Array], Array]:
    """Stand in for a norm that is part of the convolution before it."""
    del name
    return lambda x: x


def _conv(kind: Arithmetic, features: int, size: int, stride: int = 1, *, name: str, use_bias: bool = False) -> nn.Conv:
    return nn.Conv(
        features,
        (size, size),
        strides=(stride, stride),
        padding=size // 2,
        use_bias=use_bias,
        conv_general_dilated=arithmetic.conv_general_dilated(kind),
        name=name,
    )


def _head(kind: Arithmetic, num_classes: int) -> nn.Dense:
    return nn.Dense(num_classes, dot_general=arithmetic.dot_general(kind), name="head")


def gated_relu(x: Float[Array, "n *u"], alpha: Float[Array, " *u"]) -> Float[Array, "n *u"]:
    """Compute ``alpha relu(x) + (1 - alpha) x``; at x = 0 the slope is 1 - alpha, as PyTorch has it."""
    # As a product, whose derivative keeps the slope alone; that of a choice between two results keeps zeros as well.
    return x * jnp.where(x > 0, 1, jnp.broadcast_to(1 - alpha, jnp.shape(x)))


def with_layer_inputs(change: Callable[[str, Array], Array], compute: Callable[..., Array], *arguments: Any) -> Array:
    """Compute with a network whose convolutions and dense layers get other inputs.

    Args:
        change: ``(path of a layer, its input) -> input``; called while ``compute`` is traced.
        compute: What applies a module of this file.
        arguments: For ``compute``.
    """

    def intercept(layer: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, nn.Conv | nn.Dense) and context.method_name == "__call__":
            args = (change("/".join(context.module.path), args[0]), *args[1:])
        return layer(*args, **kwargs)

    with nn.intercept_methods(intercept):
        return compute(*arguments)


def layers_of_gates(module: "Module", image_shape: tuple[int, int, int]) -> dict[str, str]:
    """Return, for each gate, the convolution whose result it takes: the last before it that is no shortcut's.

    Args:
        module: an architecture of this file.
        image_shape: height, width and channels of its inputs.

    Returns:
        The path of the convolution in the parameters, by that of the gate in the masks, such as
        ``{"stage1_block1/gate1": "stage1_block1/conv1"}``.
    """
    found, last = {}, ""

    def note(layer: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        nonlocal last
        path = "/".join(context.module.path)
        if context.method_name == "__call__" and isinstance(context.module, Gate):
            found[path] = last
        elif isinstance(context.module, nn.Conv) and "shortcut" not in path:
            last = path
        return layer(*args, **kwargs)

    with nn.intercept_methods(note):
        image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        jax.eval_shape(partial(module.init, train=False), jax.random.key(0), image)
    return found


class Gate(nn.Module):
    """A ReLU for every unit, made linear where its mask is 0."""

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Apply the gate; the mask has the shape of one example."""
        alpha = self.variable("masks", "alpha", jnp.ones, x.shape[1:], jnp.float32)
        return gated_relu(x, alpha.value.astype(x.dtype))


class _Block(nn.Module):
    """What residual blocks share; ``conv`` and ``norm`` make their layers."""

    features: int  # of the 3x3 convolutions
    stride: int  # of the first 3x3 convolution and of the shortcut
    conv: Callable[..., nn.Conv]
    norm: Callable[..., Callable[[Array], Array]]

    def shortcut(self, x: Float[Array, "n h w c"], features: int) -> Float[Array, "n h2 w2 c2"]:
        """Return ``x`` in the shape of the block's result; a 1x1 convolution and a norm where that differs."""
        if self.stride == 1 and x.shape[-1] == features:
            return x
        return self.norm(name="shortcut_norm")(self.conv(features, 1, self.stride, name="shortcut_conv")(x))


class BasicBlock(_Block):
    """Two 3x3 convolutions, a gate after the first and one after the sum."""

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c2"]:
        """Apply the block."""
        y = self.conv(self.features, 3, self.stride, name="conv1")(x)
        y = Gate(name="gate1")(self.norm(name="norm1")(y))
        y = self.norm(name="norm2")(self.conv(self.features, 3, name="conv2")(y))
        return Gate(name="gate2")(self.shortcut(x, self.features) + y)


class BottleneckBlock(_Block):
    """Convolutions of 1x1, 3x3 and 1x1 to four times the channels; gates after the first two and after the sum.

    The 3x3 convolution has the stride, as in torchvision.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c2"]:
        """Apply the block."""
        y = self.conv(self.features, 1, name="conv1")(x)
        y = Gate(name="gate1")(self.norm(name="norm1")(y))
        y = self.conv(self.features, 3, self.stride, name="conv2")(y)
        y = Gate(name="gate2")(self.norm(name="norm2")(y))
        y = self.norm(name="norm3")(self.conv(4 * self.features, 1, name="conv3")(y))
        return Gate(name="gate3")(self.shortcut(x, 4 * self.features) + y)


class PreactivationBlock(_Block):
    """Two 3x3 convolutions, each after a norm and a gate (Zagoruyko and Komodakis 2016); no gate after the sum.

    Where the shape changes, the shortcut starts from the gated input and has no norm.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c2"]:
        """Apply the block."""
        y = Gate(name="gate1")(self.norm(name="norm1")(x))
        if self.stride != 1 or x.shape[-1] != self.features:
            x = self.conv(self.features, 1, self.stride, name="shortcut_conv")(y)
        y = self.conv(self.features, 3, self.stride, name="conv1")(y)
        y = Gate(name="gate2")(self.norm(name="norm2")(y))
        return x + self.conv(self.features, 3, name="conv2")(y)


_BLOCKS = {"basic": BasicBlock, "bottleneck": BottleneckBlock, "preactivation": PreactivationBlock}


class ResNet(nn.Module):
    """A gated ResNet.

    With basic blocks it is that of Cho et al. 2022 (Selective Network Linearization); ResNet-50 has bottlenecks.
    WRN-22-8 is ``ResNet(STAGE_SIZES[22], num_classes, width=128, block="preactivation", stem_width=16)``: as in Cho et
    al.'s code a batch norm without a ReLU follows the last block, hence 1,359,872 units at 32x32. With that ReLU of
    32,768 units, which Zagoruyko and Komodakis 2016 have, it would be the 1,392,640 that other papers print.

    Attributes:
        stage_sizes: Number of blocks in each stage; ``STAGE_SIZES`` names the usual depths.
        num_classes: Width of the head.
        width: Number of channels of the first stage's 3x3 convolutions; each further stage has twice as many.
        stem_stride: Stride of the stem; DeepReDuce's resolution scaling rho is 1 / stem_stride.
        block: What a stage is made of; the output of a bottleneck has four times its width.
        stem_width: Number of channels of the stem; None for ``width``.
        arithmetic: Arithmetic of the products, forward and backward; it changes no variable and no initial value.

    Example:
        >>> from jaxfair import ResNet, init
        >>> from jaxfair.networks.masks import unit_count
        >>> unit_count(init(ResNet((1, 1), num_classes=10, width=4), (8, 8, 1), seed=0).masks)
        768
    """

    stage_sizes: tuple[int, ...]
    num_classes: int
    width: int = 64
    stem_stride: int = 1
    block: Literal["basic", "bottleneck", "preactivation"] = "basic"
    stem_width: int | None = None
    arithmetic: Arithmetic = "native"

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool, folded: bool = False) -> Float[Array, "n classes"]:
        """Compute logits; ``train`` says whether batch norm uses and updates the batch's statistics.

        ``folded`` takes the parameters of ``network.fold``, in which convolutions have a bias and no norm follows.
        """
        conv = partial(_conv, self.arithmetic, use_bias=folded)
        norm = _no_norm if folded else partial(_norm, use_running_average=not train)
        x = conv(self.stem_width or self.width, 3, self.stem_stride, name="stem_conv")(x)
        if self.block != "preactivation":
            x = norm(name="stem_norm")(x)
        for stage, size in enumerate(self.stage_sizes):
            for block in range(size):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage{stage + 1}_block{block + 1}"
                x = _BLOCKS[self.block](self.width * 2**stage, stride, conv, norm, name=name)(x)
        if self.block == "preactivation":
            x = norm(name="last_norm")(x)
        return _head(self.arithmetic, self.num_classes)(x.mean(axis=(1, 2)))


class PlainBlock(nn.Module):
    """A gate and average pooling over 2x2; pooling the maximum would keep a network without ReLUs from being affine."""

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
        """Apply the block; an odd last row or column is dropped."""
        # Flax's average divides by a number of NumPy's, which strict promotion of types does not take.
        return nn.pool(Gate(name="gate1")(x), 0.0, lax.add, (2, 2), (2, 2), "VALID") / 4


class CNN(nn.Module):
    """A small gated convolutional network: 3x3 convolution, gate and pooling in each stage, then a linear head.

    It has no batch norm, so its parameters are all of its state. Then what two runs differ by is the difference of
    their parameters, as in the bounds of Nelaturu et al., and training computes the function that is analysed.

    Attributes:
        num_classes: Width of the head, which sees all positions of the last stage.
        features: Number of channels of each stage.
        stem_stride: Stride of the first convolution.
        arithmetic: Arithmetic of the products, forward and backward.

    Example:
        >>> from jaxfair import CNN, init
        >>> from jaxfair.networks.masks import unit_count
        >>> unit_count(init(CNN(num_classes=10, features=(4, 8)), (8, 8, 1), seed=0).masks)
        384
    """

    num_classes: int
    features: tuple[int, ...] = (32, 64)
    stem_stride: int = 1
    arithmetic: Arithmetic = "native"

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n classes"]:
        """Compute logits; the same ones whether ``train`` or not."""
        for stage, features in enumerate(self.features, start=1):
            name, stride = ("stem_conv", self.stem_stride) if stage == 1 else (f"stage{stage}_conv", 1)
            x = _conv(self.arithmetic, features, 3, stride, name=name, use_bias=True)(x)
            x = PlainBlock(name=f"stage{stage}_block1")(x)
        return _head(self.arithmetic, self.num_classes)(x.reshape(len(x), -1))


Module = ResNet | CNN


def check_module(module: Module, image_shape: tuple[int, int, int]) -> None:
    """Raise a JaxfairError if a size is not positive, a name is unknown, or the images are too small."""
    if len(image_shape) != 3 or not all(isinstance(side, int | np.integer) and side > 0 for side in image_shape):
        raise JaxfairError(f"Images have shape {tuple(image_shape)}; give height, width and channels, whole numbers.")
    for field in dataclasses.fields(module):
        if field.name not in ("parent", "name"):  # which are Flax's own
            check_kind(f"The network's {field.name}", getattr(module, field.name), field.type)
    sizes = {f.name: v for f in dataclasses.fields(module) if isinstance(v := getattr(module, f.name), int | tuple)}
    if () in sizes.values() or min(np.hstack([*sizes.values()])) < 1:
        given = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise JaxfairError(f"The network has {given}; give at least one stage, and whole numbers of at least 1.")
    if isinstance(module, CNN):
        stages = halvings = len(module.features)
    else:
        stages, halvings = len(module.stage_sizes), len(module.stage_sizes) - 1
    side = module.stem_stride * 2**halvings
    if min(image_shape[:2]) < side:
        raise JaxfairError(
            f"Images of {image_shape[0]}x{image_shape[1]} are too small for {stages} stages with stem "
            f"stride {module.stem_stride}; give at least {side}x{side} or fewer stages."
        )
