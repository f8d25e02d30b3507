"""Digests tell bits apart, sketches distances; a nudge is one unit in the last place; first steps are those of fit."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxfair import networks
from jaxfair.checkpoints import tree_digest
from jaxfair.data import sources
from jaxfair.data.dataset import Dataset
from jaxfair.errors import JaxfairError
from jaxfair.networks.network import Network
from jaxfair.training import trajectory
from jaxfair.training.config import MitigationConfig, TrainConfig
from jaxfair.training.fit import fit

CONFIG = TrainConfig(epochs=2, batch_size=64, learning_rate=0.02, mitigation=MitigationConfig("lagrangian"))


@pytest.fixture(scope="module")
def data() -> Dataset:
    return sources.load("digits").split(test_fraction=0.25, seed=0)[0].take(np.arange(200))


@pytest.fixture(scope="module")
def network(data: Dataset) -> Network:
    return networks.init(networks.ResNet((1, 1), 10, 2), data.image_shape, 0)


def test_first_steps_are_those_of_fit(data: Dataset, network: Network) -> None:
    """200 images are 3 whole batches: 6 steps in 2 epochs, over the end of the first, where the multipliers grow."""
    found = dict(trajectory.first_steps(network, data, CONFIG, seed=5, steps=[1, 3, 4, 6]))
    assert list(found) == [1, 3, 4, 6]
    (whole,) = fit([network], data, CONFIG, seeds=[5])
    assert tree_digest(found[6]) == tree_digest(whole.network)
    assert len({tree_digest(after.params) for after in found.values()}) == 4
    # The learning rate is constant before half of the steps, so that one epoch of three steps begins alike.
    short = dataclasses.replace(CONFIG, epochs=1, schedule="constant")
    (one,) = fit([network], data, short, seeds=[5])
    long = dataclasses.replace(CONFIG, schedule="constant")
    ((_, third),) = trajectory.first_steps(network, data, long, seed=5, steps=[3])
    assert tree_digest(third.params) == tree_digest(one.network.params)


def test_the_order_has_a_seed_of_its_own(data: Dataset, network: Network) -> None:
    """Where nothing is augmented the order is all that a seed decides; where images are, it is not."""
    found = {}
    for kind in ("none", "cifar"):
        config = dataclasses.replace(CONFIG, epochs=1, augment=kind)
        for seed, order in ((0, 0), (0, 1), (1, 1)):
            ((_, after),) = trajectory.first_steps(network, data, config, seed=seed, order_seed=order, steps=[3])
            found[kind, seed, order] = tree_digest(after)
    (whole,) = fit([network], data, config, seeds=[0], order_seeds=[1])
    assert tree_digest(whole.network) == found["cifar", 0, 1]
    assert found["none", 0, 1] == found["none", 1, 1] != found["none", 0, 0]
    assert len({found["cifar", 0, 1], found["cifar", 1, 1], found["cifar", 0, 0]}) == 3


@pytest.mark.parametrize("steps", [[], [0], [3, 2], [2, 2], [7]])
def test_impossible_steps_are_refused(data: Dataset, network: Network, steps: list[int]) -> None:
    with pytest.raises(JaxfairError, match="give ascending ones from 1 to 6"):
        list(trajectory.first_steps(network, data, CONFIG, seed=0, steps=steps))


def test_a_nudge_moves_one_weight_of_every_array_by_one_unit(network: Network) -> None:
    nudged = trajectory.nudge(network.params, 1)
    for before, after in zip(jax.tree.leaves(network.params), jax.tree.leaves(nudged), strict=True):
        before, after = np.asarray(before), np.asarray(after)
        (place,) = np.argwhere(before != after)
        assert after[tuple(place)] == np.nextafter(before[tuple(place)], np.float32(np.inf))
        assert after.dtype == np.float32
    other = trajectory.nudge(network.params, 2)
    digests = {tree_digest(tree) for tree in (network.params, nudged, other)}
    assert len(digests) == 3
    assert tree_digest(trajectory.nudge(network.params, 1)) == tree_digest(nudged)


def test_sketches_tell_distances() -> None:
    """Over 64 pairs the mean of the squared ratio is 1 within four standard errors of its bound sqrt(2 / size)."""
    rng, size, pairs = np.random.default_rng(0), 256, 64
    ratios = []
    for i in range(pairs):
        a, b = ({f"w{i}": rng.standard_normal((40, 50)), "v": rng.standard_normal(7)} for _ in range(2))
        true = sum(float(((a[name] - b[name]) ** 2).sum()) for name in a)
        gap = trajectory.sketch(a, size) - trajectory.sketch(b, size)
        ratios.append(float(gap @ gap) / true)
    deviation = np.sqrt(2 / size)
    assert abs(np.mean(ratios) - 1) < 4 * deviation / np.sqrt(pairs)
    assert np.std(ratios) < 1.5 * deviation


def test_a_sketch_is_linear_and_exact_for_one_weight() -> None:
    a, b = ({"w": np.eye(1, 10, k).ravel()} for k in (3, 4))
    total = {"w": a["w"] + 2 * b["w"]}
    np.testing.assert_array_equal(trajectory.sketch(total, 64), trajectory.sketch(a, 64) + 2 * trajectory.sketch(b, 64))
    assert np.linalg.norm(trajectory.sketch(a, 64)) == 1
