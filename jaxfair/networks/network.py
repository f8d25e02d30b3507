"""A network: a module with its variables, and what is computed with it outside training."""

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from jaxfair.curvature.chunks import over_chunks
from jaxfair.data.dataset import Dataset
from jaxfair.errors import JaxfairError
from jaxfair.models import first_difference
from jaxfair.networks.architectures import CNN, EPSILON, Gate, Module, ResNet, check_module
from jaxfair.options import Seed, checked


@partial(jax.tree_util.register_dataclass, data_fields=["params", "batch_stats", "masks"], meta_fields=["module"])
@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single answer
class Network:
    """A module with its variables: what training, linearization and analysis hand to each other.

    A pytree whose arrays are the variables, so it passes through ``jax.jit`` and two networks of one module share a
    compiled function.

    Example:
        >>> from jaxfair import CNN, init
        >>> network = init(CNN(num_classes=3, features=(2,)), (8, 8, 1), seed=0)
        >>> sorted(network.params), sorted(network.masks)
        (['head', 'stem_conv'], ['stage1_block1'])
    """

    module: Module
    params: Any
    batch_stats: Any
    masks: Any

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n classes"]:
        """Compute logits in evaluation mode; raises a JaxfairError where these are no images for it."""
        return _logits(self, self.params, x)

    def replace(self, **changes: Any) -> "Network":
        """Return a copy with some variables replaced."""
        return dataclasses.replace(self, **changes)


@checked
def init(module: Module, image_shape: Sequence[int], seed: Seed) -> Network:
    """Initialise a network with every unit a ReLU.

    Args:
        module: Architecture.
        image_shape: Height, width and channels of its inputs.
        seed: Seed of the He-normal weights, whose bits are the same on every hardware.

    Raises:
        JaxfairError: A size is not positive, a name is unknown, or the images are too small for the number of stages.

    Example:
        >>> from jaxfair import ResNet, init
        >>> network = init(ResNet((1, 1), num_classes=3, width=4), (8, 8, 1), seed=0)
        >>> network.params["head"]["kernel"].shape
        (8, 3)
    """
    shape: Any = tuple(image_shape)  # a list would be no key of a cache
    return jax.tree_util.tree_map_with_path(partial(_initial, seed), shapes(module, shape))


def shapes(module: Module, image_shape: tuple[int, int, int]) -> Network:
    """Return the network that ``init`` makes with shapes in the place of arrays; raises what ``init`` does."""
    check_module(module, image_shape)
    hashable: Any = module  # a frozen dataclass, which pyright does not see
    return _shapes(hashable, image_shape)


@cache
def _shapes(module: Any, image_shape: tuple[int, int, int]) -> Network:
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(partial(module.init, train=False), jax.random.key(0), image)
    return Network(module, variables["params"], variables.get("batch_stats", {}), variables["masks"])


def _initial(seed: int, path: tuple[Any, ...], shape: jax.ShapeDtypeStruct) -> Array:
    """Draw in NumPy: JAX's normal numbers depend on the instruction set in their last bits."""
    name = path[-1].key
    if name != "kernel":
        return jnp.asarray(np.full(shape.shape, 1 if name in ("scale", "var", "alpha") else 0, shape.dtype))
    stream = zlib.crc32(jax.tree_util.keystr(path).encode())
    normal = np.random.default_rng([seed % 2**64, stream]).standard_normal(shape.shape)
    return jnp.asarray((np.sqrt(2 / np.prod(shape.shape[:-1])) * normal).astype(shape.dtype))


def apply_train(
    network: Network, params: Any, masks: Any, x: Float[Array, "n h w c"]
) -> tuple[Float[Array, "n classes"], Any]:
    """Compute logits in training mode; return them with the updated batch statistics."""
    variables = {"params": params, "batch_stats": network.batch_stats, "masks": masks}
    logits, updated = network.module.apply(variables, x, train=True, mutable=["batch_stats"])
    return logits, updated.get("batch_stats", {})


def apply_watched(
    network: Network, params: Any, x: Float[Array, "n h w c"], watched: Literal["gates", "stages"], *, train: bool
) -> tuple[Float[Array, "n classes"], Any, Any]:
    """Compute logits, and what every gate or every stage puts out on the way.

    Args:
        network: Holds the module, the masks and the batch statistics.
        params: Its weights.
        x: Normalized images.
        watched: ``gates``, or ``stages``: the result of each stage's last block.
        train: Whether batch norm uses the batch's statistics and updates its own.

    Returns:
        The logits; the batch statistics after it; and the outputs, as a tree of the masks' structure with leaves of
        shape (n, height, width, channels), or as a list of one such array a stage.
    """
    last = _last_blocks(network.module)

    def wanted(module: Any, method: str) -> bool:
        return method == "__call__" and (isinstance(module, Gate) if watched == "gates" else module.name in last)

    variables = {"params": params, "batch_stats": network.batch_stats, "masks": network.masks}
    mutable = ["batch_stats", "intermediates"]
    logits, after = network.module.apply(variables, x, train=train, capture_intermediates=wanted, mutable=mutable)
    seen, batch_stats = after["intermediates"], after.get("batch_stats", {})
    if watched == "stages":
        return logits, batch_stats, [seen[name]["__call__"][0] for name in last]
    return logits, batch_stats, jax.tree.unflatten(jax.tree.structure(network.masks), jax.tree.leaves(seen))


def _last_blocks(module: Module) -> list[str]:
    """Return the name of the last block of each stage."""
    sizes = [1] * len(module.features) if isinstance(module, CNN) else module.stage_sizes
    return [f"stage{stage}_block{size}" for stage, size in enumerate(sizes, start=1)]


@checked
def frozen(network: Network, *, masks: Literal["fixed", "free"] = "fixed") -> Partial:
    """Return ``logits_fn(params, x)`` in evaluation mode, with batch statistics and masks fixed.

    Analysis sees nothing else, so batch norm in the wrong mode cannot be expressed; it is folded into the convolutions
    before it, which changes rounding alone. The result is a pytree: functions jitted over it are compiled once for all
    networks of one module.

    Args:
        network: The network.
        masks: ``free`` makes the masks coordinates beside the weights: the function is of ``((params, masks), x)``, or
            of ``((params, masks, batch_stats), x)`` with the statistics as well. It is smooth in all of them.

    Raises:
        JaxfairError: It is no network, or the masks are neither.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfair import CNN, frozen, init
        >>> network = init(CNN(num_classes=3, features=(2,)), (8, 8, 1), seed=0)
        >>> frozen(network)(network.params, jnp.zeros((5, 8, 8, 1))).shape
        (5, 3)
    """
    return Partial(_folded_logits if masks == "fixed" else _logits_of_variables, network)


def _logits_of_variables(network: Network, variables: Any, x: Float[Array, "n h w c"]) -> Float[Array, "n classes"]:
    params, masks, *statistics = variables
    batch_stats = statistics[0] if statistics else network.batch_stats
    return _folded_logits(network.replace(masks=masks, batch_stats=batch_stats), params, x)


def _folded_logits(network: Network, params: Any, x: Float[Array, "n h w c"]) -> Float[Array, "n classes"]:
    module = network.module
    # Emulated arithmetic rounds the kernels as they are; before a preactivation's norm there is a sum.
    if not isinstance(module, ResNet) or module.block == "preactivation" or module.arithmetic != "native":
        return _logits(network, params, x)
    takes_of(network, params).check(x)
    variables = {"params": fold(params, network.batch_stats), "masks": network.masks}
    logits = module.apply(variables, x, train=False, folded=True)
    assert isinstance(logits, jax.Array)
    return logits


def _logits(network: Network, params: Any, x: Float[Array, "n h w c"]) -> Float[Array, "n classes"]:
    takes_of(network, params).check(x)
    variables = {"params": params, "batch_stats": network.batch_stats, "masks": network.masks}
    logits = network.module.apply(variables, x, train=False)
    assert isinstance(logits, jax.Array)
    return logits


def fold(params: Any, batch_stats: Any) -> Any:
    """Return parameters in which every convolution has the norm after it built in.

    The same function of the parameters, and so with the same derivatives up to rounding. But what a norm computes on
    activations is computed on kernels, and a Hessian product keeps half as many activations.

    Args:
        params: Nested dicts in which ``<x>_norm`` follows ``<x>_conv`` and ``norm<k>`` follows ``conv<k>``.
        batch_stats: Means and variances of the norms, in the same places.

    Returns:
        The same dicts without norms; a convolution has ``kernel`` and ``bias``.
    """
    folded = {}
    for name, entry in params.items():
        if "conv" in name:
            norm = name.replace("conv", "norm")
            slope = params[norm]["scale"] / jnp.sqrt(batch_stats[norm]["var"] + EPSILON)
            bias = params[norm]["bias"] - batch_stats[norm]["mean"] * slope
            folded[name] = {"kernel": entry["kernel"] * jnp.broadcast_to(slope, entry["kernel"].shape), "bias": bias}
        elif "norm" not in name:
            folded[name] = fold(entry, batch_stats[name]) if name in batch_stats else entry
    return folded


def check_images(network: Network, data: Dataset) -> None:
    """Raise a JaxfairError if the network is not whole, cannot take these images or does not have their classes."""
    _check_whole(network)
    (h, w, c), takes = data.image_shape, takes_of(network, network.params)
    if not takes.fits((h, w, c)) or network.module.num_classes != len(data.class_names):
        raise JaxfairError(
            f"The network takes {takes.size} images with {takes.channels} channels and {network.module.num_classes} "
            f"classes, but '{data.name}' has {h}x{w} with {c} and {len(data.class_names)}; initialise one for this "
            "data."
        )
    if not (np.isfinite(data.mean).all() and np.isfinite(data.std).all()):
        raise JaxfairError(
            f"The images of '{data.name}' have no channel statistics yet; give loaded.split() or loaded.train instead "
            "of loaded.parts."
        )


def _check_whole(network: Network) -> None:
    """Raise a JaxfairError for weights or statistics that are not the module's, such as those of another network."""
    height, width = (side * network.module.stem_stride for side in jax.tree.leaves(network.masks)[0].shape[:2])
    channels = (3, 3, *np.shape(network.params.get("stem_conv", {}).get("kernel", 0)))[-2]
    module: Any = network.module
    made = _shapes(module, (height, width, channels))
    kinds = ("parameter", network.params, made.params), ("batch statistic", network.batch_stats, made.batch_stats)
    for kind, held, wanted in kinds:
        if found := first_difference(held, wanted):
            path, has, needs = found
            raise JaxfairError(
                f"The network's {kind} '{path}' is {has}, and that of its module {needs}; give those of a network that "
                "init made of this module."
            )


class Takes(NamedTuple):
    """What images a network takes: as high and wide as its first gate, before a stride, and of so many channels."""

    height: int
    width: int
    stride: int
    channels: int

    @property
    def size(self) -> str:
        """Height and width in words."""
        return f"{self.height * self.stride}x{self.width * self.stride}"

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether these are height, width and channels of such images."""
        sides = tuple(-(-side // self.stride) for side in shape[:2])
        return len(shape) == 3 and (*sides, shape[2]) == (self.height, self.width, self.channels)

    def check(self, x: Any) -> None:
        """Raise a JaxfairError unless ``x`` is a batch of such images, normalized."""
        if not isinstance(kind := getattr(x, "dtype", None), np.dtype):  # a list, whose numbers a message would hold
            raise JaxfairError(f"The network's input is a {type(x).__name__}; give an array of NumPy or JAX.")
        if not self.fits(np.shape(x)[1:]):
            raise JaxfairError(
                f"The network takes {self.size} images with {self.channels} channels, but its input has shape "
                f"{np.shape(x)}; give (images, height, width, channels)."
            )
        if not jnp.issubdtype(kind, jnp.floating):
            raise JaxfairError(f"The network's input has type {kind}; give normalized images, data.normalize(images).")


def takes_of(network: Network, params: Any) -> Takes:
    """Return what images a network with these parameters takes."""
    height, width = jax.tree.leaves(network.masks)[0].shape[:2]
    return Takes(height, width, network.module.stem_stride, params["stem_conv"]["kernel"].shape[-2])


@jax.jit
def _predict_batch(network: Network, data: Dataset, index: Int[Array, " b"]) -> Float[Array, "b c"]:
    return network(data.normalize(data.images[index]))


@checked
def predict(network: Network, data: Dataset, *, batch_size: int = 1024) -> Float[np.ndarray, "n c"]:
    """Compute evaluation-mode logits of a whole data set.

    Args:
        network: A network for images of this size and these classes.
        data: Images and their statistics.
        batch_size: Number of images at once.

    Returns:
        Logits on the host, shape (n, classes).

    Raises:
        JaxfairError: The network does not fit the data, there is no image, or the batch size is below 1.

    Example:
        >>> from jaxfair import CNN, init, load, predict
        >>> _, test = load("digits").split()
        >>> network = init(CNN(num_classes=10, features=(2,)), test.image_shape, seed=0)
        >>> predict(network, test).shape
        (360, 10)
    """
    check_images(network, data)
    return over_images(_predict_batch, network, data, batch_size)


def over_images(function: Callable[..., Any], network: Network, data: Dataset, size: int) -> Any:
    """Return what a function of network, data and positions computes of each image; see ``over_chunks``.

    Images that are on the device are copied to every device, and others read chunk by chunk.
    """
    if data.on_host:
        return over_chunks(lambda fixed, some: function(fixed, *some), network, data.fetch, len(data), size)
    fixed = network, data
    return over_chunks(lambda fixed, index: function(*fixed, index), fixed, lambda index: index, len(data), size)
