"""DeepReDuce (Jha et al. 2021): ReLUs removed by stage and by layer, and smaller networks."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxfair.data.splits import derived_seed
from jaxfair.errors import JaxfairError
from jaxfair.linearize.config import DeepReduceConfig
from jaxfair.networks import masks
from jaxfair.networks.architectures import Module, ResNet
from jaxfair.networks.network import Network, init
from jaxfair.options import Seed, checked


def student_module(base: Module, config: DeepReduceConfig) -> ResNet:
    """Return the architecture of the student of a full network's architecture.

    Raises:
        JaxfairError: the network is not a ResNet; a culled stage does not exist; blocks other than basic ones are to
            be thinned; a scale gives no whole width or stride; or a student of another size is to start from the base.
    """
    if not isinstance(base, ResNet):
        raise JaxfairError(
            f"DeepReDuce is defined for ResNets, and this is a {type(base).__name__}; linearize it by SNL."
        )
    if config.thinned and base.block != "basic":
        raise JaxfairError(f"DeepReDuce thins basic blocks, and these are {base.block}; leave +T out.")
    stages = len(base.stage_sizes)
    if not set(config.culled) <= set(range(1, stages + 1)):
        raise JaxfairError(f"DeepReDuce culls stages {config.culled}, but the network has stages 1 to {stages}.")
    widths = [side * config.channel_scale for side in (base.width, base.stem_width or base.width)]
    stride = base.stem_stride / config.resolution_scale if config.resolution_scale else math.inf
    if not all(side >= 1 and side % 1 == 0 for side in (*widths, stride)):
        raise JaxfairError(
            f"Channel scale {config.channel_scale} and resolution scale {config.resolution_scale} give width "
            f"{widths[0]:g} and stem stride {stride:g}; both must be whole numbers of at least 1."
        )
    module = base.clone(width=int(widths[0]), stem_stride=int(stride))
    if base.stem_width is not None:
        module = module.clone(stem_width=int(widths[1]))
    if config.start == "base" and module != base:
        raise JaxfairError(f"DeepReDuce '{config.name}' changes the network's size; start it fresh, not from the base.")
    return module


@checked
def deepreduce(network: Network, image_shape: Sequence[int], config: DeepReduceConfig, *, seed: Seed) -> Network:
    """Build the student of a trained network, which is then trained by distillation from it (``DEEPREDUCE_TRAIN``).

    Args:
        network: the trained full network, the teacher; it is not changed, and a student from the base is a copy of it.
        image_shape: height, width and channels of the images.
        config: what to remove.
        seed: decides the weights of a fresh student; they are others than ``networks.init`` draws from the same seed.

    Raises:
        JaxfairError: the configuration does not suit the network (see ``student_module``), or the images are too small
            for the student.

    Example:
        >>> from jaxfair import ResNet, deepreduce, init
        >>> from jaxfair.linearize.config import DeepReduceConfig
        >>> from jaxfair.networks.masks import relu_count
        >>> network = init(ResNet((1, 1), num_classes=10, width=4), (8, 8, 1), seed=0)
        >>> student = deepreduce(network, (8, 8, 1), DeepReduceConfig.parse("C1"), seed=0)
        >>> relu_count(network.masks), relu_count(student.masks)
        (768, 256)
    """
    module = student_module(network.module, config)
    # Another stream than the base network's seed, which would give the student the base's own initial weights.
    student = (
        init(module, image_shape, derived_seed(seed, 1)) if config.start == "fresh" else jax.tree.map(jnp.copy, network)
    )
    return student.replace(masks=choose(student.masks, config))


def choose(full: masks.Masks, config: DeepReduceConfig) -> masks.Masks:
    """Return the masks of a configuration, of 0 and 1; of ``full`` only the structure and the shapes matter."""
    chosen = masks.without_stages(masks.full(full, 1.0), config.culled)
    return masks.without_second_gates(chosen) if config.thinned else chosen
