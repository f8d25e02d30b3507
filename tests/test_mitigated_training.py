"""Mitigation inside of training: what it changes, what it leaves alone, and that a killed run goes on with it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfair import data, losses, mitigate, models, train
from jaxfair.errors import JaxfairError
from jaxfair.mitigate import Method, MitigationConfig
from tests.test_train import MODULE, assert_same_bits, leaves

PLAIN = train.TrainConfig(epochs=3, batch_size=16, learning_rate=0.02, momentum=0.0, schedule="constant")
METHODS: tuple[Method, ...] = ("lagrangian", "cvar", "arl")


def make_data() -> data.Dataset:
    """Three classes; two groups, of which the smaller one, eight of 48 images, is noise."""
    rng = np.random.default_rng(0)
    label, group = np.arange(48) % 3, (np.arange(48) >= 40).astype(int)
    images = (rng.integers(0, 120, (48, 8, 8, 3)) + 60 * (label * (1 - group))[:, None, None, None]).astype(np.uint8)
    return data.make_dataset(images, label, group, name="made", class_names="abc", group_names=["many", "few"])


def mitigated(method: Method, **numbers: Any) -> train.TrainConfig:
    return replace(PLAIN, mitigation=MitigationConfig(method, **numbers))


def fit(config: train.TrainConfig, seeds: Any = (0,), **options: Any) -> list[train.Fitted]:
    networks = [models.init(MODULE, (8, 8, 3), seed) for seed in seeds]
    return list(train.fit(networks, make_data(), config, seeds=seeds, **options))


def same(a: train.Fitted, b: train.Fitted) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(leaves(a.network), leaves(b.network), strict=True))


def test_a_step_descends_the_lagrangian() -> None:
    """The parameters move along the gradient of mean loss and multipliers times gaps, written out by hand."""
    dataset, network = make_data(), models.init(MODULE, (8, 8, 3), 0)
    config = replace(mitigated("lagrangian"), weight_decay=0.0)
    index, gamma = np.arange(32, 48, dtype=np.int32), jnp.array([0.3, 2.0])

    def lagrangian(params: Any) -> jax.Array:
        logits, _ = models.apply_train(network, params, network.masks, dataset.normalize(dataset.images[index]))
        loss = losses.cross_entropy(logits, dataset.label[index])
        many, few = loss[:8].mean(), loss[8:].mean()
        return loss.mean() + 0.3 * jnp.abs(many - loss.mean()) + 2.0 * jnp.abs(few - loss.mean())

    expected = jax.tree.map(lambda p, g: p - 0.02 * g, network.params, jax.grad(lagrangian)(network.params))
    state = mitigate.State(multipliers=gamma, violation=jnp.zeros(2))
    carry = train.Carry(network, train.make_optimizer(config, 3).init(network.params), state)
    after, _ = train.TrainStep(config, 3)(
        carry, train.Fixed(None, dataset, jnp.int32(0)), (jnp.int32(0), jnp.asarray(index))
    )
    # float32 sums of a few hundred terms of order 1.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), after.network.params, expected)


@pytest.mark.parametrize("method", METHODS)
def test_mitigation_changes_the_network(method: Method) -> None:
    (plain,), (other,) = fit(PLAIN), fit(mitigated(method, rate=0.5, level=0.5, adversary_rate=0.5))
    assert not same(plain, other)


def test_the_detached_penalty_changes_nothing() -> None:
    """As in the published code: multipliers grow, and the network is that of plain fine-tuning."""
    (plain,), (detached,) = fit(PLAIN), fit(mitigated("lagrangian-detached", rate=0.5))
    assert detached.multipliers is not None
    assert (detached.multipliers > 0).all()
    # Another program adds in another order: float32, and a few steps.
    for x, y in zip(leaves(plain.network), leaves(detached.network), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    (descended,) = fit(mitigated("lagrangian", rate=0.5))
    assert (
        max(np.abs(x - y).max() for x, y in zip(leaves(plain.network), leaves(descended.network), strict=True)) > 1e-3
    )


def test_multipliers_start_at_zero_and_grow_after_each_epoch() -> None:
    """In the first epoch a Lagrangian run is a plain one; mu scales what the gaps add."""
    one = replace(mitigated("lagrangian", rate=0.5), epochs=1)
    (plain,), (first,) = fit(replace(PLAIN, epochs=1)), fit(one)
    for x, y in zip(leaves(plain.network), leaves(first.network), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    (double,) = fit(replace(one, mitigation=MitigationConfig("lagrangian", rate=1.0)))
    assert first.multipliers is not None
    assert double.multipliers is not None
    np.testing.assert_allclose(double.multipliers, 2 * first.multipliers, rtol=1e-6)
    assert plain.multipliers is None


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_goes_on_to_the_same_bits(method: Method, tmp_path: Path) -> None:
    config = replace(mitigated(method, rate=0.5, adversary_rate=0.5), checkpoint_seconds=0.0)
    (straight,) = fit(config)

    def stop(epoch: int, *_: Any) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(config, progress_dirs=[tmp_path], on_epoch=stop)
    (resumed,) = fit(config, progress_dirs=[tmp_path])
    assert_same_bits(straight.network, resumed.network)
    if method == "lagrangian":
        np.testing.assert_array_equal(straight.multipliers, resumed.multipliers)


@pytest.mark.parametrize("method", METHODS)
def test_seeds_together_are_seeds_alone(method: Method) -> None:
    """After one epoch, before rounding grows: the mapped program adds in another order."""
    config = replace(mitigated(method, rate=0.5, adversary_rate=0.5), epochs=1)
    alone, together = fit(config, seeds=(0, 1)), fit(config, seeds=(0, 1), at_once=2)
    for a, b in zip(alone, together, strict=True):
        for x, y in zip(leaves(a.network), leaves(b.network), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)
        if a.multipliers is not None:
            assert b.multipliers is not None
            np.testing.assert_allclose(a.multipliers, b.multipliers, rtol=1e-3)


def test_impossible_numbers_are_refused_before_training() -> None:
    with pytest.raises(JaxfairError, match="CVaR level is 0"):
        fit(mitigated("cvar", level=0.0))
