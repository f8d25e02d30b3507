"""What is measured beside an analysis, against sums written out."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from experiments.running.measure import DrawConfig, measure_gradients, measure_hessian_bound
from experiments.running.settings import AnalysisConfig
from jaxfair import losses
from jaxfair.data.dataset import Dataset, make_dataset
from jaxfair.networks.architectures import CNN
from jaxfair.networks.network import Network, frozen, init
from jaxfair.training.config import TrainConfig
from jaxfair.training.fit import fit

COUNTS = (12, 7, 4)


def binary() -> Dataset:
    rng, group = np.random.default_rng(0), np.repeat(np.arange(3), COUNTS)
    label = np.arange(len(group)) % 2
    images = rng.integers(0, 120, (len(group), 4, 4, 1)) + 60 * label[:, None, None, None]
    names: dict[str, Any] = {"class_names": ["man", "woman"], "group_names": ["a", "b", "c"]}
    return make_dataset(images.astype(np.uint8), label, group, name="made", **names)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return binary()


@pytest.fixture(scope="module")
def network() -> Network:
    return init(CNN(2, (2,)), (4, 4, 1), 0)


@partial(jax.jit, static_argnames="derivative")
def of_sum(network: Network, data: Dataset, weights: jax.Array, derivative: Callable) -> jax.Array:
    """Return a derivative of the weighted sum of the images' losses in the flat parameters, written out."""
    flat, unravel = ravel_pytree(network.params)

    def total(params: jax.Array) -> jax.Array:
        logits = frozen(network)(unravel(params), data.normalize(data.images))
        return weights @ losses.cross_entropy(logits, data.label)

    return derivative(total)(flat)


def test_gradients_of_groups_are_sums_over_their_images(network: Network, data: Dataset) -> None:
    arrays, result = measure_gradients(network, data, AnalysisConfig())
    members = np.eye(3, dtype=np.float32)[np.asarray(data.group)].T
    sums = np.array([of_sum(network, data, jax.numpy.asarray(of), jax.grad) for of in members], float)
    np.testing.assert_allclose(arrays["inner_products"], sums @ sums.T, rtol=1e-4, atol=1e-5)
    rest = sums[1] + sums[2]
    cosine = rest @ sums[0] / np.linalg.norm(rest) / np.linalg.norm(sums[0])
    assert result["groups"]["cosine_to_rest"][0] == pytest.approx(cosine, rel=1e-3)
    assert result["groups"]["count"].tolist() == list(COUNTS)


def test_at_a_minimum_of_the_joint_loss_they_cancel(network: Network, data: Dataset) -> None:
    """A.1: without weight decay, and after a training that went on until the gradient vanished."""
    config = TrainConfig(400, len(data), 0.5, momentum=0.9, weight_decay=0.0, schedule="constant")
    label = np.random.default_rng(1).permutation(np.asarray(data.label))  # that cannot be learnt by heart
    mixed = make_dataset(
        np.repeat(np.asarray(data.images)[:1], len(data), axis=0) // 2,
        *(label, np.asarray(data.group)),
        **{"name": "made", "class_names": data.class_names, "group_names": data.group_names},
        statistics=(np.zeros(1, np.float32), np.ones(1, np.float32)),
    )
    trained = next(fit([network], mixed, config, seeds=[0])).network
    _, result = measure_gradients(trained, mixed, AnalysisConfig())
    np.testing.assert_allclose(result["groups"]["cosine_to_rest"], -1, atol=1e-3)
    np.testing.assert_allclose(result["groups"]["gradient_sum_norm"], result["groups"]["rest_norm"], rtol=1e-2)


def test_both_sides_of_the_hessian_bound_are_of_the_same_images(network: Network, data: Dataset) -> None:
    found = measure_hessian_bound(network, data, AnalysisConfig(tolerance=1e-4), DrawConfig(images=5))["groups"]
    assert found["count"].tolist() == [5, 5, 4]
    assert (found["top_eigenvalue"] <= found["bound"] + 1e-5).all()
    assert found["converged"].all()
    weights = (np.asarray(data.group) == 2) / 4  # all of which are taken
    hessian = of_sum(network, data, jax.numpy.asarray(weights, np.float32), jax.hessian)
    assert found["top_eigenvalue"][2] == pytest.approx(np.linalg.eigvalsh(np.asarray(hessian, float))[-1], rel=1e-3)
