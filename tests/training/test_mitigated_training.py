"""Mitigation inside of training: what it changes, what it leaves alone, and that a killed run goes on with it.

First a logistic regression, which is one program, then networks.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfair import checkpoints, losses
from jaxfair.data.dataset import Dataset, make_dataset
from jaxfair.errors import JaxfairError
from jaxfair.networks.network import apply_train, init
from jaxfair.training import fit as train
from jaxfair.training import mitigate
from jaxfair.training.batches import Fixed
from jaxfair.training.config import Distance, Method, MitigationConfig
from jaxfair.training.mitigate import State
from tests.training.cases import MODULE, assert_same_bits, leaves

EXAMPLES = 400
Examples = tuple[jax.Array, jax.Array, jax.Array]
each_method = pytest.mark.parametrize("method", get_args(Method))


def two_rules() -> Examples:
    """Return inputs, labels and groups: 360 examples follow one input, 40 another; no line separates both."""
    rng = np.random.default_rng(0)
    inputs, group = rng.normal(size=(EXAMPLES, 2)), (np.arange(EXAMPLES) % 10 == 0).astype(int)
    label = (inputs[np.arange(EXAMPLES), group] > 0).astype(int)
    return jnp.asarray(inputs, jnp.float32), jnp.asarray(label), jnp.asarray(group)


def near_and_far() -> Examples:
    """Return 360 examples that one input separates, and 40 that another one does, of a third of the size."""
    rng = np.random.default_rng(0)
    group, side = (np.arange(EXAMPLES) % 10 == 0).astype(int), rng.choice([-1, 1], EXAMPLES)
    inputs = np.eye(2)[group] * (side * rng.uniform(0.5, 1.5, EXAMPLES) / (1 + 2 * group))[:, None]
    return jnp.asarray(inputs, jnp.float32), jnp.asarray((side > 0).astype(int)), jnp.asarray(group)


@partial(jax.jit, static_argnums=0)
def trained(config: MitigationConfig, examples: Examples, seed: jax.Array) -> jax.Array:
    """Scan logistic regression over epochs and batches; for the adversary the inputs are images of two pixels."""

    def step(carry: tuple[jax.Array, State], index: jax.Array) -> tuple[tuple[jax.Array, State], None]:
        inputs, label, group = (a[index] for a in examples)

        def value(params: jax.Array) -> tuple[jax.Array, State]:
            logits, images = inputs @ params, inputs[:, None, :, None]
            loss = losses.cross_entropy(logits, label)
            return mitigate.objective(config, carry[1], loss, group, label, images, logits=logits)

        gradient, state = jax.grad(value, has_aux=True)(carry[0])
        return (carry[0] - 0.2 * gradient, state), None

    def epoch(carry: tuple[jax.Array, State], key: jax.Array) -> tuple[tuple[jax.Array, State], None]:
        order = jax.random.permutation(key, EXAMPLES).reshape(10, 40)
        params, state = jax.lax.scan(step, carry, order)[0]
        return (params, mitigate.end_epoch(config, state)), None

    state = mitigate.init(config, num_groups=2, num_classes=2, input_shape=(1, 2, 1))
    return jax.lax.scan(epoch, (jnp.zeros((2, 2)), state), jax.random.split(jax.random.key(seed), 40))[0][0]


@each_method
def test_seeds_train_in_one_program(method: Method) -> None:
    config = MitigationConfig(method, rate=0.01, level=0.3)
    together = jax.vmap(partial(trained, config, two_rules()))(jnp.arange(2))
    one_by_one = [trained(config, two_rules(), jnp.asarray(seed)) for seed in range(2)]
    np.testing.assert_allclose(together, one_by_one, rtol=1e-4, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_mitigation_closes_the_gap_and_a_detached_penalty_does_not() -> None:
    """Over ten seeds 1.06 falls to between 0.03 and 0.34; from a rate of 0.1 on the weights can diverge."""
    inputs, label, group = two_rules()
    gaps = []
    methods: tuple[Method, ...] = ("none", "lagrangian", "lagrangian-detached")
    for method in methods:
        params = trained(MitigationConfig(method, rate=0.01), (inputs, label, group), jnp.asarray(0))
        gaps.append(mitigate.group_gaps(losses.cross_entropy(inputs @ params, label), group, 2).max().item())
    plain, mitigated, detached = gaps
    assert detached == pytest.approx(plain, rel=1e-5)
    assert mitigated < plain / 2


@pytest.mark.parametrize(("distance", "weight"), [("softmax-gap", 0.1), ("impurity", 1.0)])
def test_alignment_narrows_the_gap_between_distances(distance: Distance, weight: float) -> None:
    """Over ten seeds 0.55 falls to 0.34 or 0.35 by softmax gap, and 0.37 to between 0.03 and 0.05 by impurity.

    Everyone stays on the right side. A softmax gap of weight 0.3 leads the small group to the wrong one for three of
    the seeds: it does not see the label, and from the boundary both sides are as near.
    """
    inputs, label, group = near_and_far()
    gaps = []
    for config in (MitigationConfig(), MitigationConfig("alignment", weight=weight, distance=distance)):
        logits = inputs @ trained(config, (inputs, label, group), jnp.asarray(0))
        found = mitigate.boundary_distance(logits, distance)
        gaps.append(mitigate.group_gaps(found, group, 2).max().item())
        assert (logits.argmax(axis=1) == label).all()
    assert gaps[1] < 0.7 * gaps[0]


PLAIN = train.TrainConfig(epochs=3, batch_size=16, learning_rate=0.02, momentum=0.0, schedule="constant")
METHODS: tuple[Method, ...] = ("lagrangian", "cvar", "arl", "alignment")


def make_data() -> Dataset:
    """Three classes; two groups, of which the smaller one, eight of 48 images, is noise."""
    rng = np.random.default_rng(0)
    label, group = np.arange(48) % 3, (np.arange(48) >= 40).astype(int)
    images = (rng.integers(0, 120, (48, 8, 8, 3)) + 60 * (label * (1 - group))[:, None, None, None]).astype(np.uint8)
    return make_dataset(images, label, group, name="made", class_names=[*"abc"], group_names=["many", "few"])


def mitigated(method: Method, **numbers: Any) -> train.TrainConfig:
    return replace(PLAIN, mitigation=MitigationConfig(method, **numbers))


def fit(config: train.TrainConfig, seeds: Any = (0,), **options: Any) -> list[train.Fitted]:
    networks = [init(MODULE, (8, 8, 3), seed) for seed in seeds]
    return list(train.fit(networks, make_data(), config, seeds=seeds, **options))


def same(a: train.Fitted, b: train.Fitted) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(leaves(a.network), leaves(b.network), strict=True))


def test_a_step_descends_the_lagrangian() -> None:
    """The parameters move along the gradient of mean loss and multipliers times gaps, written out by hand."""
    dataset, network = make_data(), init(MODULE, (8, 8, 3), 0)
    config = replace(mitigated("lagrangian"), weight_decay=0.0)
    index, gamma = np.arange(32, 48, dtype=np.int32), jnp.array([0.3, 2.0])

    def lagrangian(params: Any) -> jax.Array:
        logits, _ = apply_train(network, params, network.masks, dataset.normalize(dataset.images[index]))
        loss = losses.cross_entropy(logits, dataset.label[index])
        many, few = loss[:8].mean(), loss[8:].mean()
        return loss.mean() + 0.3 * jnp.abs(many - loss.mean()) + 2.0 * jnp.abs(few - loss.mean())

    expected = jax.tree.map(lambda p, g: p - 0.02 * g, network.params, jax.grad(lagrangian)(network.params))
    state = mitigate.State(multipliers=gamma, violation=jnp.zeros(2))
    carry = train.Carry(network, train.make_optimizer(config, 3).init(network.params), state)
    after, _ = train.TrainStep(config, 3)(carry, Fixed(None, dataset, jnp.int32(0)), (jnp.int32(0), jnp.asarray(index)))
    # float32 sums of a few hundred terms of order 1.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), after.network.params, expected)


@pytest.mark.parametrize("method", METHODS)
def test_mitigation_changes_the_network(method: Method) -> None:
    (plain,), (other,) = fit(PLAIN), fit(mitigated(method, rate=0.5, level=0.5, adversary_rate=0.5))
    assert not same(plain, other)


def test_the_detached_penalty_changes_nothing() -> None:
    """The published code does this and weakens the distillation: by this alone it trains as plain does."""
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


@pytest.mark.parametrize(
    ("method", "sizes"),
    [
        *(("none", []), ("cvar", []), ("alignment", [4]), ("arl", [192, 3, 192, 3])),
        *(("lagrangian", [4, 4]), ("lagrangian-detached", [4, 4])),
    ],
)
def test_a_state_is_small_and_survives_a_checkpoint(method: Method, sizes: list[int], tmp_path: Path) -> None:
    state = mitigate.init(MitigationConfig(method), num_groups=4, num_classes=3, input_shape=(64, 64, 3))
    assert [len(leaf) for leaf in jax.tree.leaves(state)] == sizes
    carry = (jax.tree.map(lambda leaf: leaf + jnp.arange(float(len(leaf))), state), jnp.ones(2))
    checkpoints.save(tmp_path, 1, carry)
    jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(tmp_path, carry), carry)


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
