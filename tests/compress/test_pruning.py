"""Pruning: counts exact, the smallest gone, and gone for good in fine-tuning."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfair.compress.pruning import PruneConfig, kept_count, kept_weights, prune, sparsities, weight_count
from jaxfair.errors import JaxfairError
from jaxfair.networks.network import Network, init
from jaxfair.training.batches import Fixed
from jaxfair.training.fit import TrainStep, begin, fit
from tests.training.cases import CONFIG, MODULE, make_data

IMAGE = (8, 8, 3)


@pytest.fixture(scope="module")
def network() -> Network:
    return init(MODULE, IMAGE, seed=0)


def kernels(params: Any) -> list[np.ndarray]:
    found = jax.tree_util.tree_leaves_with_path(params)
    return [np.asarray(leaf) for path, leaf in found if path[-1].key == "kernel"]


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.93, 0.98])
def test_counts_are_exact_and_the_smallest_go(network: Network, sparsity: float) -> None:
    before = np.concatenate([kernel.ravel() for kernel in kernels(network.params)])
    pruned = prune(network, PruneConfig(sparsity))
    after = np.concatenate([kernel.ravel() for kernel in kernels(pruned.params)])
    gone = round(sparsity * before.size)
    assert weight_count(network.params) == before.size
    assert kept_count(pruned.params) == before.size - gone
    np.testing.assert_array_equal(after[after != 0], before[after != 0])
    if gone:
        assert np.abs(before[after == 0]).max() <= np.abs(after[after != 0]).min()
    by_layer = kernels(prune(network, PruneConfig(sparsity, "layer")).params)
    assert [(kernel == 0).sum() for kernel in by_layer] == [round(sparsity * kernel.size) for kernel in by_layer]


def test_nothing_but_kernels_changes(network: Network) -> None:
    assert {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(network.params)} > {"bias", "scale"}
    pruned = prune(network, PruneConfig(0.9))
    for part in ("batch_stats", "masks"):
        jax.tree.map(np.testing.assert_array_equal, getattr(pruned, part), getattr(network, part))
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(network.params), jax.tree.leaves(pruned.params), strict=True
    ):
        assert (a != b).any() == (path[-1].key == "kernel")
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


def test_ties_go_by_position_and_pruning_again_adds_to_what_is_gone(network: Network) -> None:
    equal = network.replace(params=jax.tree.map(jnp.ones_like, network.params))
    flat = np.concatenate([kernel.ravel() for kernel in kernels(prune(equal, PruneConfig(0.25)).params)])
    np.testing.assert_array_equal(flat, np.arange(flat.size) >= round(0.25 * flat.size))
    half = prune(network, PruneConfig(0.5))
    jax.tree.map(np.testing.assert_array_equal, prune(half, PruneConfig(0.5)).params, half.params)
    twice, once = prune(half, PruneConfig(0.8)), prune(network, PruneConfig(0.8))
    jax.tree.map(np.testing.assert_array_equal, twice.params, once.params)


def test_a_pruned_network_stays_pruned_and_the_rest_is_trained(network: Network) -> None:
    pruned, data = prune(network, PruneConfig(0.7)), make_data()
    config, kept = replace(CONFIG, epochs=1, distillation_weight=1.0), [kept_weights(pruned.params)]
    tuned = fit([pruned] * 2, data, config, seeds=[0, 1], teachers=[network] * 2, kept=kept * 2, at_once=2)
    for fitted in tuned:
        assert kept_count(fitted.network.params) == kept_count(pruned.params)
        for before, after in zip(kernels(pruned.params), kernels(fitted.network.params), strict=True):
            np.testing.assert_array_equal(after == 0, before == 0)
            assert (after[after != 0] != before[after != 0]).all()


def test_without_a_tree_training_has_no_operation_more(network: Network) -> None:
    data, x = make_data(), (jnp.int32(0), jnp.arange(8))
    carry, fixed = begin(network, data, CONFIG), Fixed(None, data, jnp.int32(0))
    everything = fixed._replace(kept=kept_weights(network.params))
    texts = [str(jax.make_jaxpr(TrainStep(CONFIG, 5))(carry, given, x)) for given in (fixed, everything)]
    assert texts[1].count(" mul ") - texts[0].count(" mul ") == len(jax.tree.leaves(network.params))


def test_rounds_prune_ever_less() -> None:
    assert sparsities(0.9, 1) == [0.9]
    found = np.array([0.0, *sparsities(0.9, 5)])
    np.testing.assert_allclose(found, 0.9 * (1 - (1 - np.arange(6) / 5) ** 3))
    assert found[-1] == 0.9
    assert (np.diff(np.diff(found)) < 0).all()


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (PruneConfig(1.0), "The sparsity is 1.0; give"),
        (PruneConfig(-0.1), r"in \[0, 1\)"),
        (PruneConfig(float("nan")), "The sparsity is nan"),
    ],
)
def test_bad_input_is_answered_by_one_sentence(network: Network, config: PruneConfig, match: str) -> None:
    with pytest.raises(JaxfairError, match=match) as caught:
        prune(network, config)
    assert "\n" not in str(caught.value)
    with pytest.raises(JaxfairError, match="0 rounds"):
        sparsities(0.5, 0)
    with pytest.raises(JaxfairError, match="2 kept for 1 networks"):
        fit([network], make_data(), CONFIG, seeds=[0], kept=[None, None])
    with pytest.raises(JaxfairError, match="What is kept is no tree of the network's parameters"):
        fit([network], make_data(), CONFIG, seeds=[0], kept=[{"head": True}])
    with pytest.raises(JaxfairError, match="What is kept is no tree of booleans; give kept_weights of the parameters"):
        fit([network], make_data(), CONFIG, seeds=[0], kept=[network.params])


@pytest.mark.parametrize("holder", [list, tuple, lambda leaves: {"kernel": leaves}])
@pytest.mark.parametrize("measure", [kept_weights, weight_count, kept_count])
def test_parameters_that_are_no_nested_dicts_are_refused(holder: Any, measure: Any) -> None:
    with pytest.raises(JaxfairError, match=r"'layers/.*0' is not in nested dicts alone; give a network's"):
        measure({"layers": holder([np.ones((2, 2), np.float32)])})
