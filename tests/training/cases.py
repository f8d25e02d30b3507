"""A small network, its data and its training, for several test files. Not a test itself."""

from pathlib import Path

import jax
import numpy as np

from jaxfair import checkpoints
from jaxfair.data.dataset import Dataset, make_dataset
from jaxfair.networks.architectures import ResNet
from jaxfair.networks.network import Network, init
from jaxfair.training.config import TrainConfig
from jaxfair.training.fit import Fitted, fit

MODULE = ResNet((1,), num_classes=3, width=4)
CONFIG = TrainConfig(epochs=3, batch_size=8, learning_rate=0.05, augment="cifar")


def make_data(n: int = 40, seed: int = 0) -> Dataset:
    """Three classes of random 8x8 RGB images, each with its own mean brightness."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 3
    images = (rng.integers(0, 120, (n, 8, 8, 3)) + 60 * label[:, None, None, None]).astype(np.uint8)
    names = ["a", "b", "c"]
    return make_dataset(images, label, label, name="made", class_names=names, group_names=names)


def fit_one(seed: int = 0, config: TrainConfig = CONFIG, **options) -> Fitted:
    network = init(MODULE, (8, 8, 3), seed)
    return next(fit([network], make_data(), config, seeds=[seed], **options))


def saved_step(folder: Path) -> int | None:
    (only,) = folder.iterdir()
    return checkpoints.latest_step(only)


def leaves(network: Network) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(network)]


def assert_same_bits(a: Network, b: Network) -> None:
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
