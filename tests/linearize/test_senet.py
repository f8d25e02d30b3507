"""SENet: the budget is divided among layers exactly, masks hold it, the choice follows the mismatch, runs resume."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfair import checkpoints, networks
from jaxfair.errors import JaxfairError
from jaxfair.linearize import senet
from jaxfair.linearize.config import SENET_MASKS
from jaxfair.networks import masks
from jaxfair.networks.network import apply_watched
from jaxfair.training import fit
from jaxfair.training.batches import Fixed, group_balance
from jaxfair.training.config import MitigationConfig
from tests.training.cases import MODULE, assert_same_bits, make_data

CONFIG = senet.SenetConfig(
    sparsity=0.5,
    sparse_train=fit.TrainConfig(epochs=2, batch_size=8, learning_rate=0.05),
    mask_train=replace(SENET_MASKS, epochs=3, batch_size=8),
)
BUDGETS = [0.5, 100, 7]
UNITS = 2 * 8 * 8 * 4


@pytest.fixture(scope="module")
def network() -> networks.Network:
    return networks.init(MODULE, (8, 8, 3), 0)


@pytest.fixture(scope="module")
def chosen(network: networks.Network) -> list[senet.Chosen]:
    return list(senet.senet(network, make_data(), CONFIG, budgets=BUDGETS, seed=0))


@pytest.mark.parametrize("balanced", [False, True])
def test_masks_and_weights_stay_in_the_type_of_the_network_where_jax_has_64_bits(
    network: networks.Network, balanced: bool
) -> None:
    """Or every network that a mask of 64 bits is in would compute in these."""
    config = replace(CONFIG, balanced=balanced, mask_train=replace(CONFIG.mask_train, epochs=1))
    with jax.enable_x64(True):
        (found,) = senet.senet(network, make_data(), config, budgets=[7], seed=0)
    assert {leaf.dtype for leaf in jax.tree.leaves(found.network)} == {np.dtype(np.float32)}


layers = st.lists(st.tuples(st.floats(0, 1), st.integers(1, 300)), min_size=1, max_size=9)


@given(layers, st.floats(0, 1))
def test_an_allocation_sums_to_the_budget_and_never_exceeds_a_layer(
    layers: list[tuple[float, int]], share: float
) -> None:
    sensitivity, units = zip(*layers, strict=True)
    budget = round(share * sum(units))
    found = senet.allocate(sensitivity, units, budget)
    assert sum(found) == budget
    assert all(0 <= kept <= most for kept, most in zip(found, units, strict=True))
    # A layer that is more sensitive keeps no smaller share, but for what rounding takes: less than a unit of each.
    for eta, kept, most in zip(sensitivity, found, units, strict=True):
        for other, less, size in zip(sensitivity, found, units, strict=True):
            assert eta <= other or kept + 1 > (less - 1) / size * most


def test_an_allocation_is_proportional_to_sensitivity_and_size() -> None:
    assert senet.allocate([0.2, 0.4, 0.1], [100, 200, 400], 70) == [10, 40, 20]
    assert senet.allocate([0.0, 0.0], [10, 30], 8) == [2, 6]  # nothing is known: in proportion to size
    assert senet.allocate([0.0, 0.5], [10, 30], 35) == [5, 30]  # what the sensitive layer cannot hold
    assert senet.allocate([0.5, 0.5, 0.5], [1, 1, 1], 2) == [1, 1, 0]
    for budget in (-1, 41):
        with pytest.raises(JaxfairError, match="the network has 40 units; give 0 to 40"):
            senet.allocate([1.0, 1.0], [10, 30], budget)


def test_every_mask_holds_exactly_its_budget_layer_by_layer(chosen: list[senet.Chosen]) -> None:
    assert [found.budget for found in chosen] == [UNITS // 2, 100, 7]
    for found in chosen:
        assert masks.relu_count(found.network.masks) == sum(found.counts.values()) == found.budget
        for gate, leaf in senet._by_gate(found.network.masks).items():
            assert set(np.unique(leaf)) <= {0, 1}
            assert int(leaf.sum()) == found.counts[gate]


def test_work_is_counted_in_passes(chosen: list[senet.Chosen]) -> None:
    assert {found.passes for found in chosen} == {2 * 40 * 3 + 3 * 40 * (3 + 1)}


def test_sensitivity_is_what_pruning_left_of_each_layer() -> None:
    found = senet.sensitivity(MODULE, make_data(), CONFIG, seed=0)
    assert list(found) == ["stage1_block1/gate1", "stage1_block1/gate2"]
    assert all(0 < eta < 1 for eta in found.values())
    dense = senet.sensitivity(MODULE, make_data(), replace(CONFIG, sparsity=0.0), seed=0)
    assert set(dense.values()) == {0.0}


def test_masks_are_the_largest_mismatches_of_the_last_epoch(network: networks.Network) -> None:
    """One epoch of one batch: the mismatch is that of the student before its only step, which a test can compute."""
    data = make_data()
    config = replace(CONFIG, mask_train=replace(CONFIG.mask_train, epochs=1, batch_size=len(data)))
    (found,) = senet.senet(network, data, config, budgets=[100], seed=0)
    leaves, structure = jax.tree.flatten(network.masks)
    keys, kept = jax.random.split(jax.random.key(0), len(leaves)), list(found.counts.values())
    first = [masks.keep_random(leaf, k, key) for leaf, k, key in zip(leaves, kept, keys, strict=True)]
    student, x = network.replace(masks=jax.tree.unflatten(structure, first)), data.normalize(data.images)
    watch = jax.jit(apply_watched, static_argnames=("watched", "train"))
    _, _, full = watch(network, network.params, x, "gates", train=False)
    _, _, own = watch(student, network.params, x, "gates", train=True)
    for a, b, mask, k in zip(*map(jax.tree.leaves, (full, own, found.network.masks)), kept, strict=True):
        apart = np.asarray(jnp.abs(a - b).sum(axis=0))
        inside, outside = apart[np.asarray(mask) == 1], apart[np.asarray(mask) == 0]
        assert len(inside) == k
        assert inside.min() >= outside.max() * (1 - 1e-5)


def test_with_all_units_it_is_the_training_with_every_relu(network: networks.Network) -> None:
    (found,) = senet.senet(network, make_data(), CONFIG, budgets=[UNITS], seed=0)
    assert masks.relu_count(found.network.masks) == UNITS
    (fitted,) = fit.fit([network], make_data(), CONFIG.mask_train, seeds=[0], teachers=[network])
    for a, b in zip(*(jax.tree.leaves(n.params) for n in (found.network, fitted.network)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)  # two programs of the same 15 float32 steps


def test_balanced_with_one_group_is_plain_to_the_bit_and_with_several_it_is_not(
    network: networks.Network, chosen: list[senet.Chosen]
) -> None:
    data, config = make_data(), replace(CONFIG, balanced=True)
    alone = replace(data, group=jnp.zeros_like(data.group), group_names=("all",))
    (found,) = senet.senet(network, alone, config, budgets=[100], seed=0)
    assert found.sensitivity == chosen[1].sensitivity
    assert_same_bits(found.network, chosen[1].network)
    uneven = replace(data, group=jnp.asarray(np.r_[[0, 1], np.full(38, 2)]))
    (other,) = senet.senet(network, uneven, config, budgets=[100], seed=0)
    assert other.sensitivity != chosen[1].sensitivity
    assert checkpoints.tree_digest(other.network) != checkpoints.tree_digest(chosen[1].network)


@pytest.mark.parametrize("where", ["sparse training", "mask stage of 100"])
def test_an_interrupted_choice_resumes_to_the_same_bits(
    network: networks.Network, chosen: list[senet.Chosen], tmp_path: Path, where: str
) -> None:
    parts = (replace(c, checkpoint_seconds=0.0) for c in (CONFIG.sparse_train, CONFIG.mask_train))
    config = replace(CONFIG, **dict(zip(("sparse_train", "mask_train"), parts, strict=True)))
    options = {"budgets": BUDGETS, "seed": 0, "progress_dir": tmp_path}
    seen = []

    def interrupt(done: int, epochs: int, what: str) -> None:
        if where in what and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(senet.senet(network, make_data(), config, on_epoch=interrupt, **options))
    rest = list(senet.senet(network, make_data(), config, on_epoch=lambda *epoch: seen.append(epoch), **options))
    assert seen[0][0] == 2  # what was done before is not done again
    assert where in seen[0][2]
    for resumed, straight in zip(rest, chosen, strict=True):
        assert resumed[2:] == straight[2:]
        assert_same_bits(resumed.network, straight.network)


def test_the_full_network_is_not_consumed(network: networks.Network, chosen: list[senet.Chosen]) -> None:
    assert masks.relu_count(network.masks) == UNITS
    moved = [bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (network, chosen[0].network)), strict=True)]
    assert all(moved)


@pytest.mark.parametrize("budget", [-3, float("nan"), 1.5, UNITS + 1])
def test_impossible_budgets_are_refused(network: networks.Network, budget: float) -> None:
    with pytest.raises(JaxfairError, match="ReLU budget"):
        senet.senet(network, make_data(), CONFIG, budgets=[budget], seed=0)


def test_settings_that_would_mean_nothing_are_refused(network: networks.Network) -> None:
    mitigated = fit.TrainConfig(batch_size=8, mitigation=MitigationConfig("cvar"))
    taught = replace(CONFIG.sparse_train, distillation_weight=1.0)
    for change, message in (
        ({"sparsity": 1.0}, "sparsity is 1.0"),
        ({"mask_train": mitigated}, "mask stage knows no mitigation"),
        ({"sparse_train": mitigated}, "sparse training knows no mitigation"),
        ({"sparse_train": taught}, "sparse training has no teacher"),
    ):
        config = replace(CONFIG, **change)
        with pytest.raises(JaxfairError, match=message):
            senet.senet(network, make_data(), config, budgets=[7], seed=0)
        if "mask_train" not in change:
            with pytest.raises(JaxfairError, match=message):
                senet.sensitivity(network.module, make_data(), config, seed=0)
    with pytest.raises(JaxfairError, match="got no ReLU budget; give at least one"):
        senet.senet(network, make_data(), CONFIG, budgets=[], seed=0)


def test_a_group_weight_of_a_training_is_a_factor_on_its_images_losses(network: networks.Network) -> None:
    """Groups of equal weight are plain training; a group of weight 0 gives no gradient."""
    data, stepped = make_data(), {}
    config = fit.TrainConfig(epochs=1, batch_size=8, learning_rate=0.1, weight_decay=0.0)
    for name, weight in (("none", None), ("ones", [1.0] * 3), ("first", [0.0, 1.0, 1.0])):
        fixed = Fixed(None, data, jnp.int32(0), group_weight=None if weight is None else jnp.asarray(weight))
        index = np.flatnonzero(np.asarray(data.group) == 0)[:8].astype(np.int32)
        carry, _ = jax.jit(fit.make_step(config, data))(fit.begin(network, data, config), fixed, (jnp.int32(0), index))
        stepped[name] = carry.network.params
    for a, b in zip(*(jax.tree.leaves(stepped[name]) for name in ("none", "ones")), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    for a, b in zip(jax.tree.leaves(stepped["first"]), jax.tree.leaves(network.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_balance_gives_every_group_the_same_weight_and_a_mean_of_one() -> None:
    data = replace(make_data(), group=jnp.asarray(np.r_[[0, 1], np.full(38, 2)]))
    weight = group_balance(data)
    np.testing.assert_allclose(weight * data.group_counts, np.full(3, 40 / 3), rtol=1e-6)
    np.testing.assert_allclose(weight[np.asarray(data.group)].mean(), 1, rtol=1e-6)
    assert group_balance(replace(data, group=jnp.zeros_like(data.group), group_names=("all",))).tolist() == [1.0]
