"""Stages: what is asked of the library."""

from functools import partial
from pathlib import Path

import jax
import numpy as np

from experiments.running import stages
from experiments.running.progress import Progress
from experiments.running.records import Workspace, carry_out, load_network, open_run
from jaxfair.data.dataset import Dataset, make_dataset
from jaxfair.networks import CNN, ResNet, init
from jaxfair.networks.network import predict
from jaxfair.training.config import TrainConfig
from jaxfair.training.fit import fit


def make_data() -> Dataset:
    rng, names = np.random.default_rng(0), ["a", "b"]
    images, label = rng.integers(0, 256, (12, 8, 8, 1), np.uint8), np.arange(12) % 2
    return make_dataset(images, label, label, name="made", class_names=names, group_names=names)


def test_an_order_seed_changes_the_order_alone(tmp_path: Path) -> None:
    """And not the augmentation, or a control by another order would show both."""
    train_set = make_data()
    config, module = TrainConfig(epochs=1, batch_size=4, augment="cifar"), ResNet((1,), 2, 2)
    network = init(module, train_set.image_shape, 0)
    with Progress(terminal=False) as progress:
        space = Workspace(tmp_path, train_set, train_set, {"name": "made", "image_shape": (8, 8, 1)}, progress)
        run = open_run(space, "train", "made", 3, module, {"label": "made"}, {})
        stages.fit(space, [run], config, "train", lambda _: network, None, order_seed=5)
        carry_out(space)
    (expected,) = fit([network], train_set, config, seeds=[3], order_seeds=[8])
    jax.tree.map(np.testing.assert_array_equal, load_network(run), expected.network)


def test_trainings_are_told_of_the_devices(tmp_path: Path) -> None:
    """Which are not there."""
    train_set, module = make_data(), CNN(2, (2,))
    with Progress(terminal=False) as progress:
        record = {"name": "made", "image_shape": (8, 8, 1)}
        space = Workspace(tmp_path, train_set, train_set, record, progress, devices=2)
        run = open_run(space, "train", "made", 0, module, stages.FULL, {})
        start = partial(init, module, (8, 8, 1))
        stages.fit(space, [run], TrainConfig(epochs=1, batch_size=4), "train", start)
        carry_out(space)
    assert "shared by 2 devices, but JAX has 1" in (run.failure or "")


def test_what_is_followed_is_the_fine_tuning_of_as_many_epochs(tmp_path: Path) -> None:
    """Its last point has the predictions of the network that ``finetune`` makes."""
    train_set, module = make_data(), ResNet((1,), 2, 2)
    config = TrainConfig(epochs=3, batch_size=4, learning_rate=0.05, distillation_weight=1.0)
    with Progress(terminal=False) as progress:
        space = Workspace(tmp_path, train_set, train_set, {"name": "made", "image_shape": (8, 8, 1)}, progress)
        base = open_run(space, "train", "made", 0, module, stages.FULL, {})
        stages.fit(
            space, [base], TrainConfig(epochs=1, batch_size=4), "train", lambda seed: init(module, (8, 8, 1), seed)
        )
        (tuned,) = stages.finetune(space, [base], [base], config)
        followed = stages.follow(space, base, base, config, 3, stages.FULL)
        carry_out(space)
    right = predict(load_network(tuned), train_set).argmax(axis=1) == np.asarray(train_set.label)
    correct = followed.arrays("follow.npz")["correct"]
    np.testing.assert_array_equal(correct[-1], right)
    learnt = followed.json("result.json")["groups"]["train_accuracy"]
    np.testing.assert_allclose(learnt, [[row[g::2].mean() for g in (0, 1)] for row in correct])
    assert followed.json("result.json")["epochs"] == [1, 2, 3]
    assert stages.doublings(12) == [1, 2, 4, 8, 12]
    assert stages.doublings(8) == [1, 2, 4, 8]
