"""Stages: what is asked of the library."""

from pathlib import Path

import jax
import numpy as np

from experiments.running import stages
from experiments.running.progress import Progress
from experiments.running.records import Workspace, carry_out, load_network, open_run
from jaxfair import data
from jaxfair.networks import ResNet, init
from jaxfair.training.fit import TrainConfig, fit


def test_an_order_seed_changes_the_order_alone(tmp_path: Path) -> None:
    """And not the augmentation, or a control by another order would show both."""
    rng, names = np.random.default_rng(0), ["a", "b"]
    images, label = rng.integers(0, 256, (12, 8, 8, 1), np.uint8), np.arange(12) % 2
    train_set = data.make_dataset(images, label, label, name="made", class_names=names, group_names=names)
    config, module = TrainConfig(epochs=1, batch_size=4, augment="cifar"), ResNet((1,), 2, 2)
    network = init(module, train_set.image_shape, 0)
    with Progress(terminal=False) as progress:
        space = Workspace(tmp_path, train_set, train_set, {"name": "made", "image_shape": (8, 8, 1)}, progress)
        run = open_run(space, "train", "made", 3, module, {"label": "made"}, {})
        stages.fit(space, [run], config, "train", lambda _: network, None, order_seed=5)
        carry_out(space)
    (expected,) = fit([network], train_set, config, seeds=[3], order_seeds=[8])
    jax.tree.map(np.testing.assert_array_equal, load_network(run), expected.network)
