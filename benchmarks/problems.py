"""Problems to time: a trained network, images in five groups, the same for every library. Embedded data only."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxfair import data, models, sources, train
from jaxfair.models import Network

GROUPS = 5


class Problem(NamedTuple):
    """A network in evaluation mode and the examples of its groups.

    Attributes:
        name: for tables.
        network: trained for a few epochs, so that its spectrum has outliers.
        x: normalized images, NHWC.
        y: labels, 0..9.
        group: of each image, 0..GROUPS-1, the same number in each.
    """

    name: str
    network: Network
    x: jax.Array
    y: jax.Array
    group: np.ndarray


def digits_resnet18(width: int, per_group: int, *, epochs: int = 3, seed: int = 0) -> Problem:
    """Build ResNet-18 on the handwritten digits, enlarged to 32x32 RGB; a group is a pair of digits.

    Args:
        width: channels of the first stage.
        per_group: images in each group.
        epochs: of training at learning rate 0.05.
        seed: of weights and order.
    """
    small = sources.load("digits")
    images = np.repeat(np.repeat(np.asarray(small.images), 4, axis=1), 4, axis=2).repeat(3, axis=3)
    label = np.asarray(small.label)
    names = small.class_names
    whole = data.make_dataset(images, label, label, name="digits-32", class_names=names, group_names=names)
    network = models.init(models.ResNet(models.STAGE_SIZES[18], 10, width), whole.image_shape, seed)
    config = train.TrainConfig(epochs=epochs, batch_size=64, learning_rate=0.05, schedule="cosine")
    (fitted,) = train.fit([network], whole, config, seeds=[seed])
    group = label // 2
    index = np.concatenate([np.flatnonzero(group == g)[:per_group] for g in range(GROUPS)])
    x = whole.normalize(whole.images[index])
    return Problem(f"ResNet-18, width {width}, 32x32", fitted.network, x, jnp.asarray(label[index]), group[index])
