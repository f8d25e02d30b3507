"""One training on several devices, run by ``test_sharing.py`` in a process whose CPU counts as four of them.

A step on four devices differs from one device's by the order of sums alone. In float64, with e = 2^-52, a sum of n
terms in another order is off by at most 2 n e times the sum of their magnitudes. The longest sums of a step here are
over the images and places of a batch, n = 8 * 64, in batch norm's statistics and in the gradients of kernels. At most
16 such sums follow each other between an image and a gradient (four layers with norms, there and back), and no number
here is much above 1. So a step agrees within 16 * 2 * 512 e = 4e-12.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfair import checkpoints, loops
from jaxfair.data.dataset import Dataset, make_dataset
from jaxfair.errors import JaxfairError
from jaxfair.linearize import bcd, senet, snl
from jaxfair.linearize.config import BcdConfig, SenetConfig
from jaxfair.networks.architectures import CNN, Module
from jaxfair.networks.masks import relu_count, unit_count
from jaxfair.networks.network import Network, init
from jaxfair.training import sharing
from jaxfair.training.fit import Fitted, Stopping, TrainConfig, fit
from jaxfair.training.mitigate import MitigationConfig
from jaxfair.training.trajectory import first_steps
from tests.training.cases import CONFIG, MODULE, assert_same_bits, leaves, make_data

SAME: dict[str, Any] = {"rtol": 0, "atol": 16 * 2 * 512 * 2.0**-52}
DATA, SMALL = make_data(8), CNN(3, (2,))
PLAIN = replace(CONFIG, epochs=2, checkpoint_seconds=0)
"""Two epochs of one batch of eight images."""
MITIGATED = replace(CONFIG, epochs=1, distillation_weight=1.0, mitigation=MitigationConfig("lagrangian"))


@pytest.fixture
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def network(seed: int = 0, module: Module = SMALL) -> Network:
    """Return a network, in float64 where JAX has it."""
    dtype = jax.dtypes.canonicalize_dtype(np.float64)
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), init(module, (8, 8, 3), seed))


def train(config: TrainConfig, seeds: int = 1, data: Dataset = DATA, **options: Any) -> list[Fitted]:
    return list(fit([network(seed) for seed in range(seeds)], data, config, seeds=range(seeds), **options))


def assert_same(found: Network, expected: Network, **tolerance: float) -> None:
    for a, b in zip(leaves(found), leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, **{**SAME, **tolerance})


def rounding() -> tuple[Network, float]:
    """Return two steps on one device, and ten times what of a difference of the first weights is left of it then."""
    with jax.enable_x64(True):
        start = network()
        nudged = start.replace(params=jax.tree.map(lambda a: a + 1e-7, start.params))
        (one,), (other,) = (list(fit([begun], DATA, PLAIN, seeds=[0])) for begun in (start, nudged))
        apart = max(np.abs(a - b).max() for a, b in zip(leaves(one.network), leaves(other.network), strict=True))
    return one.network, 10 * apart / 1e-7 * SAME["atol"]


class Reference(NamedTuple):
    """A network, and how far from it another may be."""

    network: Network
    tolerance: dict[str, float]


@pytest.fixture(scope="module")
def plain() -> Reference:
    network, tolerance = rounding()
    return Reference(network, {"atol": tolerance})


def test_there_are_four() -> None:
    assert len(jax.devices()) == 4


@pytest.mark.usefixtures("float64")
def test_a_step_is_that_of_one_device() -> None:
    """Weights, batch norm's running statistics, and the multipliers, which grow by the groups' losses; any device."""
    start, teacher = network(0, MODULE), network(10, MODULE)
    given: dict[str, Any] = {"seeds": [0], "teachers": [teacher]}
    (alone,), (shared,) = (fit([start], DATA, MITIGATED, **given, devices=devices) for devices in (1, 4))
    assert_same(shared.network, alone.network)
    assert max(np.abs(a - b).max() for a, b in zip(leaves(shared.network), leaves(start), strict=True)) > 1e-2
    assert alone.multipliers is not None
    assert shared.multipliers is not None
    assert alone.multipliers.min() > 0
    np.testing.assert_allclose(shared.multipliers, alone.multipliers, **SAME)
    for name, values in alone.history.items():
        np.testing.assert_allclose(shared.history[name], values, rtol=1e-6)  # recorded in float32
    for leaf in jax.tree.leaves(shared.network):  # goes with other arrays, wherever these are
        assert leaf.devices() == {jax.devices()[0]}
        assert not leaf.committed


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("before", "after"), [(4, 1), (1, 4)])
def test_a_killed_training_goes_on_with_other_devices(
    tmp_path: Path, before: int, after: int, plain: Reference
) -> None:
    """It ends where one device alone does, up to rounding."""
    epochs = []

    def killed(done: int, *_: Any) -> None:
        if done == 2:  # the first epoch's checkpoint is written
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(PLAIN, devices=before, progress_dirs=[tmp_path], on_epoch=killed)
    options: dict[str, Any] = {"progress_dirs": [tmp_path], "on_epoch": lambda done, *_: epochs.append(done)}
    (resumed,) = train(PLAIN, devices=after, **options)
    assert epochs == [2]
    assert_same(resumed.network, plain.network, **plain.tolerance)


@pytest.mark.usefixtures("float64")
def test_images_on_the_host_are_split_too(plain: Reference) -> None:
    names: dict[str, Any] = {"class_names": DATA.class_names, "group_names": DATA.group_names}
    arrays = np.asarray(DATA.images), np.asarray(DATA.label), np.asarray(DATA.group)
    on_host = make_dataset(*arrays, name="made", on_device=False, **names)
    (shared,) = train(PLAIN, data=on_host, devices=4)
    assert_same(shared.network, plain.network, **plain.tolerance)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.usefixtures("float64")
def test_every_device_computes_its_part_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """No device has an activation of more than two images; only sums go between them."""
    compiled = []

    def lowered(*arguments: Any) -> Any:
        compiled.append(run_steps.lower(*arguments).compile().as_text())
        return run_steps(*arguments)

    run_steps = loops._run_steps
    monkeypatch.setattr(loops, "_run_steps", lowered)
    train(PLAIN, devices=4)
    text = compiled[0]
    assert "all-reduce" in text
    assert "f64[2,8,8,2]" in text
    assert "f64[8,8,8,2]" not in text


def test_as_many_devices_as_share_evenly() -> None:
    meshes = {size: sharing.mesh(4, size) for size in (1, 2, 7, 8, 9)}
    assert {size: 1 if mesh is None else mesh.size for size, mesh in meshes.items()} == {1: 1, 2: 2, 7: 1, 8: 4, 9: 3}


def test_seeds_have_a_device_each_and_the_bits_that_they_have_alone() -> None:
    """Three seeds on two devices, in full precision, which stop early as they do alone."""
    config = replace(CONFIG, epochs=3)
    options: dict[str, Any] = {"data": make_data(16), "stopping": Stopping(make_data(9, seed=1), 1)}
    epochs: list[int] = []
    with jax.default_matmul_precision("highest"):
        alone = train(config, 3, **options)
        apart = train(config, 3, **options, devices=2, on_epoch=lambda done, *_: epochs.append(done))
    for one, other in zip(apart, alone, strict=True):
        assert (one.seed, one.epoch) == (other.seed, other.epoch)
        assert_same_bits(one.network, other.network)
        for name, values in other.history.items():
            np.testing.assert_array_equal(one.history[name], values)
        assert {device for leaf in jax.tree.leaves(one.network) for device in leaf.devices()} == {jax.devices()[0]}
    made = len(alone[0].history["loss"])
    assert epochs[:made] == list(range(1, made + 1))


def test_a_seed_that_fails_and_one_that_is_interrupted_stop_the_others(tmp_path: Path) -> None:
    """With the error of the first; after an interruption all are saved, and go on from there."""
    config, folders = replace(PLAIN, epochs=10_000, checkpoint_seconds=1e9), [tmp_path / str(seed) for seed in range(2)]
    starts = [jax.tree.map(lambda a: a * jnp.nan, network()), network(1)]
    with pytest.raises(JaxfairError, match="The loss of seed 0 is nan at step 0"):
        list(fit(starts, DATA, config, seeds=[0, 1], devices=2))

    def interrupted(done: int, *_: Any) -> None:
        assert done < 10_000
        assert loops.stop.after_epoch()

    try:
        with pytest.raises(KeyboardInterrupt):
            train(config, 2, devices=2, progress_dirs=folders, on_epoch=interrupted)
    finally:
        loops.stop.asked = False
    assert all(checkpoints.latest_step(next(folder.iterdir())) for folder in folders)
    assert not loops.stop.looping


@pytest.mark.parametrize("after", [2, 1])
def test_seeds_that_were_interrupted_end_in_the_bits_that_they_have_alone(tmp_path: Path, after: int) -> None:
    """Each on a device of its own, and then on as many or one after another."""
    config, folders = replace(PLAIN, epochs=4, checkpoint_seconds=1e9), [tmp_path / str(seed) for seed in range(2)]
    alone = train(config, 2)
    epochs: list[int] = []
    try:
        with pytest.raises(KeyboardInterrupt):
            train(config, 2, devices=2, progress_dirs=folders, on_epoch=lambda *_: loops.stop.after_epoch())
    finally:
        loops.stop.asked = False
    resumed = train(config, 2, devices=after, progress_dirs=folders, on_epoch=lambda done, *_: epochs.append(done))
    assert len(epochs) < 2 * config.epochs  # the first seed that ended an epoch has kept it
    for one, other in zip(resumed, alone, strict=True):
        assert_same_bits(one.network, other.network)


@pytest.mark.usefixtures("float64")
def test_the_snl_training_is_split_too() -> None:
    """Adam divides a gradient by its size plus 1e-8, which makes an error of it at most 1e8 times as large."""
    config = snl.SnlConfig(batch_size=8, learning_rate=4e-3, kappa=1e-2)
    given: dict[str, Any] = {"ends": [1], "seed": 0}
    (alone,), (shared,) = (snl.matched(network(), DATA, config, **given, devices=devices) for devices in (1, 4))
    assert_same(shared.network, alone.network, atol=4e-3 * 1e8 * SAME["atol"])


def test_the_snl_descent_finds_its_budget_on_several_devices() -> None:
    config = snl.SnlConfig(batch_size=8, learning_rate=4e-3, kappa=1e-2)
    (found,) = snl.snl(network(), make_data(16), config, budgets=[0.9], seed=0, devices=4)
    assert relu_count(found.network.masks) == found.budget


ONE_STEP = replace(CONFIG, epochs=1, distillation_weight=1.0)


def _masked(devices: int) -> Network:
    start = network()
    config = SenetConfig(sparse_train=replace(CONFIG, epochs=1), mask_train=ONE_STEP)
    return next(senet.senet(start, DATA, config, budgets=[unit_count(start.masks)], seed=0, devices=devices)).network


def _block(devices: int) -> Network:
    return bcd.matched(network(), network(1), DATA, BcdConfig(finetune=ONE_STEP), blocks=1, seed=0, devices=devices)


def _followed(devices: int) -> Network:
    ((_, found),) = first_steps(network(), DATA, ONE_STEP, seed=0, steps=[1], teacher=network(1), devices=devices)
    return found


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("after_a_step", [_masked, _block, _followed])
def test_the_other_trainings_are_split_too(
    after_a_step: Callable[[int], Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    meshes, mesh = [], sharing.mesh
    monkeypatch.setattr(sharing, "mesh", lambda *given: meshes.append(mesh(*given)) or meshes[-1])
    shared = after_a_step(4)
    assert [found.devices.size for found in meshes] == [4]
    assert_same(shared, after_a_step(1))


def test_other_methods_find_their_budget_on_several_devices() -> None:
    config = SenetConfig(sparse_train=replace(CONFIG, epochs=2), mask_train=replace(ONE_STEP, epochs=2))
    data = make_data(16)
    (chosen,) = senet.senet(network(), data, config, budgets=[50], seed=0, devices=4)
    assert relu_count(chosen.network.masks) == sum(chosen.counts.values()) == 50
    found = bcd.bcd(chosen.network, network(1), data, BcdConfig(15, 2, finetune=ONE_STEP), budget=30, seed=0, devices=4)
    assert relu_count(found.network.masks) == 30
    with pytest.raises(JaxfairError, match="shared by 5 devices, but JAX has 4"):
        senet.senet(network(), data, config, budgets=[50], seed=0, devices=5)
    with pytest.raises(JaxfairError, match="shared by 5 devices, but JAX has 4"):
        bcd.bcd(chosen.network, network(1), data, BcdConfig(finetune=ONE_STEP), budget=30, seed=0, devices=5)
