"""Training: the step, seeds together, resuming bit for bit, clear failures."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfair import checkpoints, losses
from jaxfair.data.config import Augmentation
from jaxfair.errors import JaxfairError
from jaxfair.loops import run_epoch
from jaxfair.networks.architectures import ResNet
from jaxfair.networks.network import Network, apply_train, init, predict
from jaxfair.training.batches import Fixed, answered, check_finite
from jaxfair.training.config import MitigationConfig, TrainConfig
from jaxfair.training.fit import Best, Carry, Stopping, TrainStep, _watch, fit, make_optimizer
from tests.training.cases import CONFIG, MODULE, assert_same_bits, fit_one, leaves, make_data, saved_step


def test_one_step_is_torch_sgd_on_the_batch_loss() -> None:
    """Velocity = gradient + weight decay, parameters -= rate * velocity, written out by hand."""
    dataset, network = make_data(), init(MODULE, (8, 8, 3), 0)
    config = replace(CONFIG, augment="none", schedule="constant", momentum=0.9)
    index = np.arange(8, dtype=np.int32)

    def loss_fn(params):
        logits, _ = apply_train(network, params, network.masks, dataset.normalize(dataset.images[index]))
        return losses.cross_entropy(logits, dataset.label[index]).mean()

    params, velocity = network.params, optax.tree.zeros_like(network.params)
    optimizer = make_optimizer(config, 5)
    carry = Carry(jax.tree.map(jnp.copy, network), optimizer.init(network.params))
    fixed = Fixed(None, dataset, jnp.int32(0))
    for step in range(2):
        grads = jax.grad(loss_fn)(params)
        velocity = jax.tree.map(lambda v, g, p: 0.9 * v + g + 5e-4 * p, velocity, grads, params)
        params = jax.tree.map(lambda p, v: p - 0.05 * v, params, velocity)
        carry, _ = TrainStep(config, 5)(carry, fixed, (jnp.int32(step), jnp.asarray(index)))
        network_params = carry.network.params
    # float32, values below 1, a gradient of a few hundred terms: 1e-5 leaves a factor of ten.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), network_params, params)


@pytest.mark.parametrize("kind", get_args(Augmentation))
def test_seeds_together_equal_single_runs_after_one_step(kind: Augmentation) -> None:
    """Later steps are chaotic: rounding differences grow a million-fold within an epoch."""
    dataset, seeds = make_data(8), [0, 3, 5]
    config = replace(CONFIG, epochs=1, augment=kind)  # one batch of 8: one step
    networks = [init(MODULE, (8, 8, 3), seed) for seed in seeds]
    teachers = [init(MODULE, (8, 8, 3), seed + 10) for seed in seeds]
    config = replace(config, distillation_weight=1.0)
    options = {"seeds": seeds, "teachers": teachers}
    single = list(fit(networks, dataset, config, at_once=1, **options))
    joint = list(fit(networks, dataset, config, at_once=3, **options))
    assert [f.seed for f in joint] == seeds
    for one, other, start in zip(single, joint, networks, strict=True):
        for a, b, c in zip(leaves(one.network), leaves(other.network), leaves(start), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
            assert a.shape == c.shape
        np.testing.assert_allclose(one.history["loss"], other.history["loss"], rtol=1e-5)
    moved = [np.abs(a - b).max() for a, b in zip(leaves(single[0].network), leaves(networks[0]), strict=True)]
    assert max(moved) > 1e-3


def test_one_program_for_the_epoch_equals_a_loop_after_one_step_and_visits_every_batch() -> None:
    """On accelerators the epoch is one scan; a plain sum shows that both visit the same steps in the same order."""

    def step(carry, fixed, x):
        return carry * fixed + x, carry

    xs = np.arange(1.0, 6.0, dtype=np.float32)
    for fused in (True, False):
        carry, seen = run_epoch(step, jnp.float32(0), jnp.float32(2), xs, fused=fused)
        assert float(carry) == 57.0
        np.testing.assert_array_equal(seen, [0, 1, 4, 11, 26])


def test_a_repeat_gives_the_same_bits_and_another_seed_does_not() -> None:
    first, again = fit_one(), fit_one()
    assert_same_bits(first.network, again.network)
    network = init(MODULE, (8, 8, 3), 0)
    other = next(fit([network], make_data(), CONFIG, seeds=[1]))
    assert any((a != b).any() for a, b in zip(leaves(first.network), leaves(other.network), strict=True))


def test_masks_stay_and_the_initial_network_is_not_consumed() -> None:
    network = init(MODULE, (8, 8, 3), 0)
    masks = jax.tree.map(lambda m: m * 0.5, network.masks)
    network = network.replace(masks=masks)
    fitted = next(fit([network], make_data(), CONFIG, seeds=[0]))
    jax.tree.map(np.testing.assert_array_equal, fitted.network.masks, masks)
    assert np.isfinite(np.asarray(network(make_data().normalize(make_data().images)))).all()


def test_a_teacher_is_asked_once_where_images_stay_the_same() -> None:
    """The step is that of a teacher that answers each batch, but for rounding; augmented images it sees anew."""
    dataset, (network, teacher) = make_data(), (init(MODULE, (8, 8, 3), seed) for seed in (0, 9))
    fixed, config = Fixed(teacher, dataset, jnp.int32(0)), replace(CONFIG, augment="none", distillation_weight=1.0)
    known, x = answered(fixed, "none", [teacher]), (jnp.int32(0), jnp.array([5, 0, 7, 2, 3, 1, 6, 4]))
    assert known.wanted.shape == (len(dataset), len(dataset.class_names))
    assert answered(fixed, "cifar", [teacher]) is fixed
    assert answered(fixed._replace(attention=1.0), "none", [teacher]).wanted is None
    carry = Carry(network, make_optimizer(config, 5).init(network.params))
    asked, given = (jax.jit(TrainStep(config, 5))(carry, each, x) for each in (fixed, known))
    np.testing.assert_allclose(given[1]["loss"], asked[1]["loss"], rtol=1e-6)
    for a, b in zip(leaves(given[0].network), leaves(asked[0].network), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)  # float32 of values below 1


@pytest.mark.parametrize(
    "change",
    [{"augment": "none"}, {"label_weight": 0.5}, {"distillation_weight": 2.0}, {"temperature": 1.0}],
    ids=str,
)
def test_every_option_of_the_loss_changes_the_step(change: dict) -> None:
    config, dataset = replace(CONFIG, distillation_weight=1.0), make_data()
    network, teacher = (init(MODULE, (8, 8, 3), seed) for seed in (0, 9))
    fixed = Fixed(teacher, dataset, jnp.int32(0))
    losses_seen = []
    for chosen in (config, replace(config, **change)):
        carry = Carry(network, make_optimizer(chosen, 5).init(network.params))
        step = jax.jit(TrainStep(chosen, 5))
        losses_seen.append(float(step(carry, fixed, (jnp.int32(0), jnp.arange(8)))[1]["loss"]))
    assert losses_seen[0] != losses_seen[1]


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.1},
        {"momentum": 0.0},
        {"nesterov": True},
        {"weight_decay": 0.1},
        {"schedule": "cosine"},
        {"schedule": "constant"},
    ],
    ids=str,
)
def test_every_option_of_the_optimizer_changes_the_parameters(change: dict) -> None:
    ends = []
    for config in (CONFIG, replace(CONFIG, **change)):
        optimizer, params = make_optimizer(config, 2), jnp.ones(3)
        state = optimizer.init(params)
        for _ in range(6):
            updates, state = optimizer.update(jnp.square(params), state, params)
            params = jnp.asarray(optax.apply_updates(params, updates))
        ends.append(np.asarray(params))
    assert (ends[0] != ends[1]).all()


def test_the_step_schedule_divides_by_ten_at_half_and_three_quarters() -> None:
    config = replace(CONFIG, epochs=8, momentum=0.0, weight_decay=0.0, learning_rate=1.0, schedule="step")
    optimizer = make_optimizer(config, 2)
    state = optimizer.init(jnp.zeros(()))
    rates = []
    for _ in range(16):
        update, state = optimizer.update(jnp.ones(()), state, jnp.zeros(()))
        rates.append(-float(np.asarray(update)))
    np.testing.assert_allclose(rates, [1.0] * 8 + [0.1] * 4 + [0.01] * 4, rtol=1e-6)


@pytest.mark.parametrize(("steps", "expected"), [(1, [1.0]), (2, [1.0, 0.01]), (3, [1.0, 0.1, 0.01])])
def test_the_step_schedule_of_few_steps_begins_at_the_whole_rate(steps: int, expected: list[float]) -> None:
    config = replace(CONFIG, epochs=steps, momentum=0.0, weight_decay=0.0, learning_rate=1.0, schedule="step")
    optimizer = make_optimizer(config, 1)
    state = optimizer.init(jnp.zeros(()))
    rates = []
    for _ in range(steps):
        update, state = optimizer.update(jnp.ones(()), state, jnp.zeros(()))
        rates.append(-float(np.asarray(update)))
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_resuming_gives_the_bits_of_an_uninterrupted_run(tmp_path: Path) -> None:
    """Interrupted by an exception after each epoch in turn; history included."""
    straight = fit_one()
    for stop in (1, 2):

        def interrupt(epoch: int, epochs: int, metrics: object, stop: int = stop) -> None:
            if epoch > stop:
                raise KeyboardInterrupt

        options = {"progress_dirs": [tmp_path / str(stop)], "config": replace(CONFIG, checkpoint_seconds=0.0)}
        with pytest.raises(KeyboardInterrupt):
            fit_one(on_epoch=interrupt, **options)
        assert saved_step(tmp_path / str(stop)) == stop
        resumed = fit_one(**options)
        assert_same_bits(straight.network, resumed.network)
        for name in ("loss", "accuracy"):
            np.testing.assert_array_equal(straight.history[name], resumed.history[name])
        assert list(resumed.history) == list(straight.history)  # files have their columns in this order


STOPPING = Stopping(make_data(30, seed=1), patience=2)
FLAT = replace(CONFIG, epochs=12, augment="none", schedule="constant")


def test_training_stops_where_the_validation_loss_falls_no_more_and_keeps_the_best_network() -> None:
    """Which is the network of so many epochs, since the schedule is that of all."""
    found = fit_one(config=FLAT, stopping=STOPPING)
    loss, epoch = found.history["validation_loss"], found.epoch
    assert epoch is not None
    assert epoch == np.argmin(loss) + 1 < 10
    assert {len(values) for values in found.history.values()} == {epoch + 2}
    until = fit_one(config=replace(FLAT, epochs=epoch))
    assert_same_bits(found.network, until.network)
    np.testing.assert_array_equal(until.history["loss"], found.history["loss"][:epoch])
    logits = predict(found.network, STOPPING.validation)
    seen = losses.cross_entropy(jnp.asarray(logits), STOPPING.validation.label).mean()
    np.testing.assert_allclose(loss[epoch - 1], seen, rtol=1e-6)
    right = (logits.argmax(-1) == STOPPING.validation.label).mean()
    np.testing.assert_allclose(found.history["validation_accuracy"][epoch - 1], right, rtol=1e-6)
    assert fit_one(config=replace(FLAT, epochs=2), stopping=STOPPING).epoch in (1, 2)  # the last epoch ends it, too
    with pytest.raises(JaxfairError, match="at least 1"):
        fit_one(stopping=STOPPING._replace(patience=0))


def test_a_network_trained_with_others_stops_where_it_would_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given the validation loss of each after each epoch: what follows its own end changes nothing."""
    given = np.array([[3.0, 3.0], [2.0, 1.0], [2.5, 2.0], [2.6, 2.0], [0.1, 0.5], [0.1, 2.0]])
    made, label = [init(MODULE, (8, 8, 3), seed) for seed in (0, 1)], np.asarray(STOPPING.validation.label)
    several = jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)
    best = Best(several, np.full(2, np.inf, np.float32), np.zeros(2, np.int32))
    for epoch, losses_of in enumerate(given, 1):
        logits = [np.log(1 / np.expm1(loss)) * np.eye(3)[label] for loss in losses_of]  # of mean loss near enough
        left = iter([of for of, last in zip(logits, best.epoch, strict=True) if epoch - last <= 2])
        monkeypatch.setattr("jaxfair.training.fit.predict", lambda *_, left=left: next(left).astype(np.float32))
        scaled = jax.tree.map(lambda a, epoch=epoch: a * epoch, several)
        best, found = _watch(best, scaled, epoch, STOPPING)
        assert np.isfinite(found["validation_loss"]).tolist() == [epoch <= 4, epoch <= 4]
    assert best.epoch.tolist() == [2, 2]
    for row, network in enumerate(made):
        assert_same_bits(jax.tree.map(lambda a, row=row: a[row], best.network), jax.tree.map(lambda a: a * 2, network))


def test_a_stopping_that_is_resumed_has_the_same_bits(tmp_path: Path) -> None:
    whole = fit_one(config=FLAT, stopping=STOPPING)
    assert whole.epoch is not None
    for end in (1, whole.epoch + 1):
        options = {"progress_dirs": [tmp_path / str(end)], "config": replace(FLAT, checkpoint_seconds=0.0)}

        def killed(epoch: int, *_: object, end: int = end) -> None:
            if epoch == end + 1:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit_one(on_epoch=killed, stopping=STOPPING, **options)
        assert saved_step(tmp_path / str(end)) == end
        again = fit_one(stopping=STOPPING, **options)
        assert_same_bits(again.network, whole.network)
        assert again.epoch == whole.epoch
        for name, values in whole.history.items():
            np.testing.assert_array_equal(again.history[name], values)
    other = STOPPING._replace(patience=3)
    fit_one(stopping=other, **options)
    assert len(list((tmp_path / str(end)).iterdir())) == 2  # another patience is another training


def test_a_diverging_loss_names_its_step() -> None:
    with pytest.raises(JaxfairError, match=r"seed 0 is (nan|inf) at step \d+; lower the learning rate"):
        fit_one(config=replace(CONFIG, learning_rate=1e9))


def test_check_finite_counts_from_the_first_step_given() -> None:
    with pytest.raises(JaxfairError, match="at step 12;"):
        check_finite(np.array([1.0, 2.0, np.inf, np.nan]), 10, ["it"])
    check_finite(np.ones(3), 0, ["it"])


def test_predict_equals_the_network_whatever_the_batch_size() -> None:
    dataset, network = make_data(21), fit_one().network
    expected = np.asarray(network(dataset.normalize(dataset.images)))
    for size in (1, 4, 21, 100):
        # Another batch size may use another kernel; float32 rounding of logits of order 1.
        np.testing.assert_allclose(predict(network, dataset, batch_size=size), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (MODULE, (8, 8, 1)),
        (MODULE, (16, 16, 3)),
        (ResNet((1,), num_classes=4, width=4), (8, 8, 3)),
    ],
)
def test_a_network_for_other_images_or_classes_is_refused(module: ResNet, shape: tuple[int, int, int]) -> None:
    network = init(module, shape, 0)
    with pytest.raises(JaxfairError, match="initialise one for this data"):
        next(fit([network], make_data(), CONFIG, seeds=[0]))
    with pytest.raises(JaxfairError, match="initialise one for this data"):
        predict(network, make_data())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda p, s: (p | {"head": jax.tree.map(lambda leaf: leaf[..., :2], p["head"])}, s),
            r"'head/bias' is of shape",
        ),
        (lambda p, s: ({name: of for name, of in p.items() if name != "stem_conv"}, s), "'stem_conv/kernel' is absent"),
        (lambda p, s: (p | {"other": p["head"]}, s), r"'other/bias' is of shape \(3,\), and that of its module absent"),
        (lambda p, s: (p, {}), "batch statistic 'stage1_block1/.*' is absent, and that of its module of shape"),
    ],
)
def test_a_network_with_the_weights_of_another_is_refused(change: Callable[..., Any], said: str) -> None:
    network = init(MODULE, (8, 8, 3), 0)
    params, batch_stats = change(network.params, network.batch_stats)
    other = network.replace(params=params, batch_stats=batch_stats)
    with pytest.raises(JaxfairError, match=said):
        predict(other, make_data())
    with pytest.raises(JaxfairError, match=said):
        next(fit([other], make_data(), CONFIG, seeds=[0]))


def test_seeds_and_networks_must_match_in_number() -> None:
    network = init(MODULE, (8, 8, 3), 0)
    for change in ({"seeds": [0, 1]}, {"order_seeds": [0, 1]}, {"teachers": [network] * 2}, {"progress_dirs": []}):
        with pytest.raises(JaxfairError, match=rf"fit got \d {next(iter(change))} for 1 networks; give one"):
            fit([network], make_data(), CONFIG, **{"seeds": [0], **change})
    with pytest.raises(JaxfairError, match="fit got 0 seeds for 0 networks"):
        fit([], make_data(), CONFIG, seeds=[])
    for at_once in (0, -2):
        with pytest.raises(JaxfairError, match=f"to train {at_once} seeds at once; give at least 1"):
            fit([network], make_data(), CONFIG, seeds=[0], at_once=at_once)
    with pytest.raises(JaxfairError, match="batch size is 100"):
        fit_one(config=replace(CONFIG, batch_size=100))


def train_in(folder: Path, *, start: int = 0, teacher: int = 9, config: TrainConfig = CONFIG, **options) -> Network:
    """Train by distillation, with checkpoints after every epoch."""
    config = replace(config, epochs=2, distillation_weight=1.0, checkpoint_seconds=0.0)
    networks = {name: [init(MODULE, (8, 8, 3), seed)] for name, seed in (("networks", start), ("teachers", teacher))}
    options = {"data": make_data(), "seeds": [0], **networks, **options}
    return next(fit(config=config, progress_dirs=[folder], **options)).network


def test_progress_of_another_run_is_not_continued(tmp_path: Path) -> None:
    """Another network to start from or to learn from, in the same folder, starts from its own beginning."""
    train_in(tmp_path / "shared")
    changes: list[dict[str, Any]] = [{"start": 1}, {"teacher": 8}]
    for i, change in enumerate(changes, 2):
        assert_same_bits(train_in(tmp_path / f"{i}", **change), train_in(tmp_path / "shared", **change))
        assert len(list((tmp_path / "shared").iterdir())) == i


def test_whatever_decides_the_training_names_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def ask(folder: Path) -> None:
        asked.append(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "latest_step", ask)
    changes: list[dict[str, Any]] = [
        {"start": 1},
        {"teacher": 8},
        {"config": replace(CONFIG, learning_rate=0.01)},
        {"data": make_data(seed=1)},
    ]
    changes += [{"seeds": [1], "order_seeds": [0]}, {"order_seeds": [1]}, {"config": replace(CONFIG, momentum=0.5)}]
    changes += [{"attention": 1.0}]
    everything: list[dict[str, Any]] = [{}, *changes, {"order_seeds": [0]}]
    for change in everything:
        with pytest.raises(KeyboardInterrupt):
            train_in(tmp_path, **change)
    assert len(set(asked)) == 1 + len(changes)
    assert asked[0] == asked[-1]


NEVER = {"learning_rate": float("inf")}, {"checkpoint_seconds": float("nan")}


def test_mistakes_are_found_when_fit_is_called_not_when_it_is_read() -> None:
    networks = [init(MODULE, (8, 8, 3), 0), init(ResNet((1,), 3, 8), (8, 8, 3), 0)]
    with pytest.raises(JaxfairError, match="networks of different modules"):
        fit(networks, make_data(), CONFIG, seeds=[0, 1])
    with pytest.raises(JaxfairError, match="there are no teachers"):
        fit(networks[:1], make_data(), replace(CONFIG, distillation_weight=1.0), seeds=[0])
    for change in ({"momentum": 1.0}, {"temperature": 0.0}, {"weight_decay": float("nan")}, {"epochs": 0}, *NEVER):
        with pytest.raises(JaxfairError, match=r"give (a momentum|at least one epoch|0 or more)"):
            fit(networks[:1], make_data(), replace(CONFIG, **change), seeds=[0])


def test_seeds_in_one_program_name_the_one_that_diverges() -> None:
    good = init(MODULE, (8, 8, 3), 0)
    bad = good.replace(params=jax.tree.map(lambda p: p * np.nan, good.params))
    with pytest.raises(JaxfairError, match=r"seed 7 is nan at step 0; look at .* the weights that"):
        list(fit([good, bad], make_data(), CONFIG, seeds=[3, 7], at_once=2))


def test_attention_holds_the_stages_near_the_teachers_and_is_off_at_zero() -> None:
    """With no other loss the distance from the teacher's maps falls; without a teacher there is none."""
    data, network, teacher = make_data(), init(MODULE, (8, 8, 3), 0), init(MODULE, (8, 8, 3), 1)
    config = replace(CONFIG, epochs=4, augment="none", label_weight=0.0, weight_decay=0.0)
    (drawn,) = fit([network], data, config, seeds=[0], teachers=[teacher], attention=1000.0)
    assert drawn.history["loss"][-1] < 0.7 * drawn.history["loss"][0]
    (still,) = fit([network], data, config, seeds=[0])
    assert not still.history["loss"].any()
    with pytest.raises(JaxfairError, match="teachers, but the distillation weight is 0; give one, such as 1"):
        fit([network], data, config, seeds=[0], teachers=[teacher])
    for weight, teachers in ((1.0, None), (-1.0, [teacher]), (np.inf, [teacher])):
        with pytest.raises(JaxfairError, match="attention weight is"):
            fit([network], data, config, seeds=[0], teachers=teachers, attention=weight)


def test_a_mitigation_does_not_see_what_holds_the_stages() -> None:
    """The multipliers grow by the groups' own losses, as they do where nothing holds the stages."""
    network, teacher, data = init(MODULE, (8, 8, 3), 0), init(MODULE, (8, 8, 3), 1), make_data(8)
    config = TrainConfig(epochs=1, batch_size=8, learning_rate=1e-9, distillation_weight=1.0)
    config = replace(config, mitigation=MitigationConfig("lagrangian"))
    with_maps, without = (
        next(fit([network], data, config, seeds=[0], teachers=[teacher], attention=weight)) for weight in (1000.0, 0.0)
    )
    assert with_maps.multipliers is not None
    assert without.multipliers is not None
    np.testing.assert_allclose(with_maps.multipliers, without.multipliers, rtol=1e-5)
    assert without.multipliers.min() > 0
    assert with_maps.history["loss"][0] > 1.1 * without.history["loss"][0]


def test_networks_that_attend_are_trained_together_as_alone() -> None:
    networks = [init(MODULE, (8, 8, 3), seed) for seed in (0, 1)]
    config = replace(CONFIG, epochs=1, batch_size=40, augment="none")
    options = {"seeds": [0, 1], "teachers": networks[::-1], "attention": 100.0}
    together = fit(networks, make_data(), config, at_once=2, **options)
    for one, other in zip(together, fit(networks, make_data(), config, at_once=1, **options), strict=True):
        for a, b in zip(leaves(one.network), leaves(other.network), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
