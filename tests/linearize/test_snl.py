"""Selective Network Linearization: exact budgets, one descent for all of them, resuming, clear failures."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfair import checkpoints, networks
from jaxfair.errors import JaxfairError
from jaxfair.linearize import senet, snl
from jaxfair.linearize.config import SenetConfig
from jaxfair.networks import masks
from jaxfair.training.batches import Fixed
from jaxfair.training.config import TrainConfig
from tests.training.cases import MODULE, assert_same_bits, make_data

CONFIG = snl.SnlConfig(batch_size=8, learning_rate=4e-3, kappa=1e-2)
SMALL = TrainConfig(epochs=1, batch_size=8)
BUDGETS = [0.5, 100, 7]
UNITS = 2 * 8 * 8 * 4


@pytest.fixture(scope="module")
def network() -> networks.Network:
    return networks.init(MODULE, (8, 8, 3), 0)


@pytest.fixture(scope="module")
def snapshots(network: networks.Network) -> list[snl.Snapshot]:
    return list(snl.snl(network, make_data(), CONFIG, budgets=BUDGETS, seed=0))


def test_every_mask_holds_exactly_its_budget(snapshots: list[snl.Snapshot]) -> None:
    assert [s.budget for s in snapshots] == [UNITS // 2, 100, 7]
    for snapshot in snapshots:
        assert masks.relu_count(snapshot.network.masks) == snapshot.budget
        values = np.unique(np.concatenate([np.ravel(m) for m in jax.tree.leaves(snapshot.network.masks)]))
        np.testing.assert_array_equal(values, [0, 1])


def test_the_descent_does_not_depend_on_which_budgets_are_asked(
    network: networks.Network, snapshots: list[snl.Snapshot]
) -> None:
    (alone,) = snl.snl(network, make_data(), CONFIG, budgets=[100], seed=0)
    assert alone.epoch == snapshots[1].epoch
    assert_same_bits(alone.network, snapshots[1].network)


def test_weights_move_with_the_masks_and_the_full_network_is_not_consumed(
    network: networks.Network, snapshots: list[snl.Snapshot]
) -> None:
    first = snapshots[0].network
    moved = [bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (network.params, first.params)), strict=True)]
    assert all(moved)
    assert masks.relu_count(network.masks) == UNITS


def test_the_authors_rule_keeps_at_most_the_budget(network: networks.Network) -> None:
    config = replace(CONFIG, rule="threshold")
    (snapshot,) = snl.snl(network, make_data(), config, budgets=[100], seed=0)
    (exact,) = snl.snl(network, make_data(), CONFIG, budgets=[100], seed=0)
    count = masks.relu_count(snapshot.network.masks)
    assert 0 < count <= 100
    # Both rules see the same values, so the threshold's choice lies within the exact one.
    inside = jax.tree.map(lambda a, b: bool((a <= b).all()), snapshot.network.masks, exact.network.masks)
    assert all(jax.tree.leaves(inside))


def test_kappa_grows_only_when_the_count_stands_still(network: networks.Network) -> None:
    """With no pull at all the count never falls; growth then decides whether the budget is ever reached."""
    weak = replace(CONFIG, kappa=1e-9, max_epochs=12)
    with pytest.raises(JaxfairError, match=rf"still had {UNITS} ReLUs after 12 epochs, above the budget 7"):
        list(snl.snl(network, make_data(), replace(weak, kappa_growth=1.0), budgets=[7], seed=0))
    strong = replace(weak, kappa_growth=2.0, warmup_epochs=0, max_epochs=120)
    (snapshot,) = snl.snl(network, make_data(), strong, budgets=[7], seed=0)
    assert masks.relu_count(snapshot.network.masks) == 7


def test_an_interrupted_descent_resumes_to_the_same_bits(
    network: networks.Network, snapshots: list[snl.Snapshot], tmp_path: Path
) -> None:
    config = replace(CONFIG, checkpoint_seconds=0.0)
    stop = (snapshots[0].epoch + snapshots[1].epoch) // 2

    def interrupt(epoch: int, count: int) -> None:
        if epoch == stop:
            raise KeyboardInterrupt

    options = {"budgets": BUDGETS, "seed": 0, "progress_dir": tmp_path}
    seen = []
    with pytest.raises(KeyboardInterrupt):
        seen.extend(snl.snl(network, make_data(), config, on_epoch=interrupt, **options))
    (only,) = tmp_path.iterdir()
    assert checkpoints.latest_step(only) == stop - 1
    rest = list(snl.snl(network, make_data(), config, **options))
    for resumed, straight in zip(rest[-2:], snapshots[-2:], strict=True):
        assert (resumed.budget, resumed.epoch) == (straight.budget, straight.epoch)
        assert_same_bits(resumed.network, straight.network)


@pytest.mark.parametrize("budget", [-3, float("nan"), 1.5, UNITS + 1])
def test_impossible_budgets_are_refused(network: networks.Network, budget: float) -> None:
    with pytest.raises(JaxfairError, match="ReLU budget"):
        snl.snl(network, make_data(), CONFIG, budgets=[budget], seed=0)


def test_the_matched_training_is_the_descent_without_masks_and_sparsity(
    network: networks.Network, snapshots: list[snl.Snapshot]
) -> None:
    """With all masks at 1 kappa pulls at no weight: the first step of both is one and the same for the weights."""
    data = make_data()
    first = jax.tree.map(np.copy, network)
    index = np.arange(CONFIG.batch_size, dtype=np.int32)
    stepped = {}
    for choosing in (True, False):
        opt_state = optax.adam(CONFIG.learning_rate).init(snl._trained(network, choosing))
        carry = snl.Descent(jax.tree.map(jnp.copy, network), opt_state, jnp.float32(CONFIG.kappa if choosing else 0))
        fixed = Fixed(network, data, jnp.int32(0))
        step = jax.jit(snl.SnlStep(CONFIG, choosing))
        stepped[choosing] = step(carry, fixed, (jnp.int32(0), index))[0].network
    for a, b in zip(*(jax.tree.leaves(stepped[choosing].params) for choosing in (True, False)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    assert masks.relu_count(stepped[False].masks) == UNITS
    assert_same_bits(network, first)
    ends = [snapshot.epoch for snapshot in snapshots]
    found = list(snl.matched(network, data, CONFIG, ends=ends, seed=0))
    assert [of.epoch for of in found] == ends
    for of, linearized in zip(found, snapshots, strict=True):
        assert of.budget == masks.relu_count(of.network.masks) == UNITS
        apart = jax.tree.map(lambda a, b: float(abs(a - b).max()), of.network.params, linearized.network.params)
        assert max(jax.tree.leaves(apart)) > 1e-3


def test_an_interrupted_matched_training_resumes_to_the_same_bits(network: networks.Network, tmp_path: Path) -> None:
    config, data = replace(CONFIG, checkpoint_seconds=0.0), make_data()

    def interrupt(epoch: int) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    options = {"ends": [2, 4], "seed": 0}
    straight = list(snl.matched(network, data, config, **options))
    seen = []
    with pytest.raises(KeyboardInterrupt):
        seen.extend(snl.matched(network, data, config, progress_dir=tmp_path, on_epoch=interrupt, **options))
    rest = list(snl.matched(network, data, config, progress_dir=tmp_path, **options))
    assert [of.epoch for of in rest] == [2, 4]  # the first end was passed, so it starts again
    for resumed, of in zip(rest, straight, strict=True):
        assert_same_bits(resumed.network, of.network)
    with pytest.raises(JaxfairError, match=r"end after \[\] epochs; give at least one"):
        snl.matched(network, data, config, ends=[], seed=0)


def test_a_budget_of_none_leaves_no_relu(network: networks.Network) -> None:
    (snapshot,) = snl.snl(network, make_data(), CONFIG, budgets=[0], seed=0)
    assert masks.relu_count(snapshot.network.masks) == snapshot.budget == 0


def test_removed_relus_do_not_come_back(network: networks.Network) -> None:
    half = network.replace(masks=jax.tree.map(lambda mask: mask.at[..., :1].set(0), network.masks))
    data = make_data()
    for choose in (
        lambda: next(iter(snl.snl(half, data, CONFIG, budgets=[1], seed=0))),
        lambda: next(
            iter(senet.senet(half, data, SenetConfig(sparse_train=SMALL, mask_train=SMALL), budgets=[1], seed=0))
        ),
    ):
        with pytest.raises(JaxfairError, match="among all of them; start from the full network"):
            choose()


def test_no_budget_is_refused(network: networks.Network) -> None:
    with pytest.raises(JaxfairError, match="got no ReLU budget; give at least one"):
        snl.snl(network, make_data(), CONFIG, budgets=[], seed=0)


def test_a_diverging_descent_names_its_step(network: networks.Network) -> None:
    with pytest.raises(JaxfairError, match=r"SNL descent of seed 0 is (nan|inf) at step \d+"):
        list(snl.snl(network, make_data(), replace(CONFIG, learning_rate=1e30), budgets=[7], seed=0))


def test_a_descent_that_gave_up_goes_on_when_it_may_last_longer(network: networks.Network, tmp_path: Path) -> None:
    options = {"budgets": [100], "seed": 0}
    (straight,) = snl.snl(network, make_data(), CONFIG, **options)
    short = replace(CONFIG, max_epochs=straight.epoch - 1)
    with pytest.raises(JaxfairError, match="raise kappa or max_epochs"):
        list(snl.snl(network, make_data(), short, progress_dir=tmp_path, **options))
    epochs = []
    (longer,) = snl.snl(
        network, make_data(), CONFIG, progress_dir=tmp_path, on_epoch=lambda epoch, _: epochs.append(epoch), **options
    )
    assert epochs == [straight.epoch]
    assert_same_bits(longer.network, straight.network)


def test_the_progress_of_another_descent_is_not_continued(network: networks.Network, tmp_path: Path) -> None:
    """Another seed, or other weights to start from, in the same folder starts from its own beginning."""
    config, data = replace(CONFIG, checkpoint_seconds=0.0), make_data()
    list(snl.snl(network, data, config, budgets=[100], seed=0, progress_dir=tmp_path))
    for i, (other, seed) in enumerate(((network, 1), (networks.init(MODULE, (8, 8, 3), 1), 0)), 2):
        (straight,) = snl.snl(other, data, config, budgets=[100], seed=seed)
        (shared,) = snl.snl(other, data, config, budgets=[100], seed=seed, progress_dir=tmp_path)
        assert_same_bits(straight.network, shared.network)
        assert len(list(tmp_path.iterdir())) == i


def test_whatever_decides_the_descent_names_its_progress(
    network: networks.Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def ask(folder: Path) -> None:
        asked.append(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "latest_step", ask)
    emulated = networks.init(replace(MODULE, arithmetic="fp16"), (8, 8, 3), 0)
    changes = [
        {"kappa": 2e-2},
        {"kappa_growth": 1.2},
        {"learning_rate": 1e-3},
        {"threshold": 0.02},
        {"warmup_epochs": 1},
    ]
    for start, change in (
        (network, {}),
        *((network, c) for c in changes),
        (emulated, {}),
        (network, {"max_epochs": 1}),
    ):
        with pytest.raises(KeyboardInterrupt):
            next(snl.snl(start, make_data(), replace(CONFIG, **change), budgets=[7], seed=0, progress_dir=tmp_path))
    assert len(set(asked)) == 2 + len(changes)
    assert asked[0] == asked[-1]


@pytest.mark.parametrize("change", [{"threshold": 1.5}, {"kappa": 0.0}, {"kappa": float("nan")}, {"temperature": 0.0}])
def test_settings_that_would_mean_nothing_are_refused(network: networks.Network, change: dict) -> None:
    with pytest.raises(JaxfairError, match="give a positive kappa"):
        snl.snl(network, make_data(), replace(CONFIG, **change), budgets=[7], seed=0)


def test_balanced_with_one_group_is_plain_to_the_bit_and_with_several_it_is_not(
    network: networks.Network, snapshots: list[snl.Snapshot]
) -> None:
    data = make_data()
    alone = replace(data, group=jnp.zeros_like(data.group), group_names=("all",))
    (found,) = snl.snl(network, alone, CONFIG, budgets=[100], seed=0, balanced=True)
    assert found.epoch == snapshots[1].epoch
    assert_same_bits(found.network, snapshots[1].network)
    uneven = replace(data, group=jnp.asarray(np.r_[[0, 1], np.full(38, 2)]))
    (other,) = snl.snl(network, uneven, CONFIG, budgets=[100], seed=0, balanced=True)
    assert masks.relu_count(other.network.masks) == 100
    apart = jax.tree.map(lambda a, b: bool((a != b).any()), other.network.masks, found.network.masks)
    assert any(jax.tree.leaves(apart))


def test_a_weight_is_a_factor_on_the_loss_of_its_image(network: networks.Network) -> None:
    """Weights of ones are the plain objective; the norm of the masks has none."""
    data = make_data()
    x, label, teacher = data.normalize(data.images[:6]), data.label[:6], jnp.zeros((6, 3))
    rest = (network, network.params, network.masks, teacher, x, label, 0.1, 4.0)
    computed = jax.jit(lambda weight: snl.objective(*rest, weight)[0])
    plain = jax.jit(lambda: snl.objective(*rest)[0])()
    np.testing.assert_allclose(computed(jnp.ones(6)), plain, rtol=1e-6)
    np.testing.assert_allclose(computed(jnp.zeros(6)), 0.1 * UNITS, rtol=1e-6)
    parts = [computed(6.0 * jnp.eye(6)[i]) - 0.1 * UNITS for i in range(6)]
    np.testing.assert_allclose(np.mean(parts), plain - 0.1 * UNITS, rtol=1e-4)
