"""Logits of a whole data set, in evaluation mode."""

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jaxfair.data import Dataset
from jaxfair.errors import JaxfairError
from jaxfair.models import Network


def check_images(network: Network, data: Dataset) -> None:
    """Raise a JaxfairError if the network cannot take these images or does not have their classes."""
    expected = jax.tree.leaves(network.masks)[0].shape[:2]
    stem = network.params["stem_conv"]["kernel"]
    h, w, c = data.image_shape
    fits = (-(-h // network.module.stem_stride), -(-w // network.module.stem_stride)) == expected
    if not fits or stem.shape[-2] != c or network.module.num_classes != len(data.class_names):
        size = "x".join(str(side * network.module.stem_stride) for side in expected)
        raise JaxfairError(
            f"The network takes {size} images with {stem.shape[-2]} channels and {network.module.num_classes} classes, "
            f"but '{data.name}' has {h}x{w} with {c} and {len(data.class_names)}; initialise one for this data."
        )


@jax.jit
def _predict_batch(network: Network, data: Dataset, index: Int[Array, " b"]) -> Float[Array, "b c"]:
    return network(data.normalize(data.images[index]))


def predict(network: Network, data: Dataset, *, batch_size: int = 1024) -> Float[np.ndarray, "n c"]:
    """Compute evaluation-mode logits of a whole data set.

    Args:
        network: a ResNet of any size.
        data: images and their statistics.
        batch_size: images at once; the last batch is padded, so one program serves all.
    """
    check_images(network, data)
    if batch_size < 1:
        raise JaxfairError(f"The batch size is {batch_size}; give at least 1.")
    size = min(batch_size, len(data))
    batches = []
    for start in range(0, len(data), size):
        index = np.minimum(np.arange(start, start + size), len(data) - 1)
        batches.append(np.asarray(_predict_batch(network, *data.fetch(index))))
    return np.concatenate(batches)[: len(data)]
