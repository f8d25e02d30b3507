"""Block coordinate descent: the exact budget, its own rule of acceptance, groups, resuming, clear failures."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfair import networks
from jaxfair.data.dataset import Dataset
from jaxfair.errors import JaxfairError
from jaxfair.linearize import bcd
from jaxfair.linearize.config import BCD_FINETUNE, Accept
from jaxfair.networks import masks
from jaxfair.networks.network import predict
from jaxfair.training import fit
from tests.training.cases import MODULE, assert_same_bits, make_data

UNITS = 2 * 8 * 8 * 4
CONFIG = bcd.BcdConfig(
    block=60, tries=4, threshold=0.02, finetune=replace(BCD_FINETUNE, epochs=2, batch_size=8, learning_rate=1e-2)
)
BUDGET = 100  # from 256: blocks of 60, 60 and 36


@pytest.fixture(scope="module")
def teacher() -> networks.Network:
    network = networks.init(MODULE, (8, 8, 3), 0)
    config = fit.TrainConfig(epochs=3, batch_size=8, learning_rate=0.05)
    return next(fit.fit([network], make_data(), config, seeds=[0])).network


@pytest.fixture(scope="module")
def start(teacher: networks.Network) -> networks.Network:
    return teacher.replace(masks=masks.keep_random(teacher.masks, 256, jax.random.key(0)))


def descend(start: networks.Network, teacher: networks.Network, **options: Any) -> bcd.Descended:
    config, data = options.pop("config", CONFIG), options.pop("data", make_data())
    return bcd.bcd(start, teacher, data, config, **{"budget": BUDGET, "seed": 0, **options})


@pytest.fixture(scope="module")
def descended(start: networks.Network, teacher: networks.Network) -> bcd.Descended:
    return descend(start, teacher)


def test_the_budget_is_exact_and_only_active_units_go(start: networks.Network, descended: bcd.Descended) -> None:
    assert descended.history.relu_count.tolist() == [196, 136, 100]
    assert masks.relu_count(descended.network.masks) == BUDGET
    for before, after in zip(*(jax.tree.leaves(n.masks) for n in (start, descended.network)), strict=True):
        assert (after <= before).all()
        assert set(np.unique(after)) <= {0, 1}
    assert masks.relu_count(start.masks) == 256


def test_work_is_counted_in_passes(descended: bcd.Descended) -> None:
    tried = int(np.isfinite(descended.history.rises).sum())
    assert descended.passes == 40 * (3 + tried) + 3 * 2 * 40 * (3 + 1)


@pytest.mark.parametrize("accept", ["accuracy", "loss", "worst-group", "cvar"])
@pytest.mark.parametrize("threshold", [-1.0, 0.01, 10.0])
def test_a_block_goes_by_the_rule_and_by_no_other(
    start: networks.Network, teacher: networks.Network, accept: Accept, threshold: float
) -> None:
    """The first below the threshold, or else the least bad of all: counted again from predictions, in NumPy."""
    config = replace(CONFIG, accept=accept, threshold=threshold, level=0.25)
    found = descend(start, teacher, config=config, budget=256 - 60)
    (rises,) = found.history.rises
    tried = rises[np.isfinite(rises)]
    if threshold == 10.0:
        assert len(tried) == 1
    if threshold == -1.0:
        assert len(tried) == config.tries
    assert (tried[:-1] >= threshold).all()
    taken = tried[-1] if tried[-1] < threshold else tried.min()
    before, after = (by_hand(n, accept) for n in (start, start.replace(masks=found.network.masks)))
    np.testing.assert_allclose(found.history.risk, [before], rtol=1e-5)
    np.testing.assert_allclose(taken, after - before, rtol=1e-4, atol=1e-5)  # float32 losses of order 1


def by_hand(network: networks.Network, accept: str) -> float:
    data = make_data()
    logits, label = predict(network, data).astype(np.float64), np.asarray(data.label)
    loss = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1) - logits[np.arange(40), label]
    return {
        "accuracy": np.mean(logits.argmax(1) != label),
        "loss": loss.mean(),
        "worst-group": max(loss[np.asarray(data.group) == g].mean() for g in range(3)),
        "cvar": np.sort(loss)[-10:].mean(),
    }[accept]


def test_with_one_group_the_worst_group_is_the_mean_loss_to_the_bit(
    start: networks.Network, teacher: networks.Network
) -> None:
    data = make_data()
    alone = replace(data, group=jnp.zeros_like(data.group), group_names=("all",))
    found = [
        descend(start, teacher, config=replace(CONFIG, accept=accept), data=alone) for accept in ("loss", "worst-group")
    ]
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_array_equal(a, b)


def test_each_risk_is_lowest_where_it_chose_among_the_same_blocks(
    start: networks.Network, teacher: networks.Network
) -> None:
    finetune = replace(CONFIG.finetune, epochs=1)
    config = replace(CONFIG, tries=20, threshold=-1e9, level=0.25, finetune=finetune)
    better = []
    for seed in range(4):
        made = {}
        for accept in ("loss", "worst-group", "cvar"):
            found = descend(start, teacher, config=replace(config, accept=accept), budget=196, seed=seed)
            made[accept] = start.replace(masks=found.network.masks)
        for accept, own in made.items():
            assert all(by_hand(own, accept) <= by_hand(other, accept) + 1e-6 for other in made.values())
        better.append(by_hand(made["loss"], "worst-group") - by_hand(made["worst-group"], "worst-group"))
    assert max(better) > 1e-5  # for some blocks it matters who is asked


def test_images_held_back_are_measured_and_never_trained_on(
    start: networks.Network, teacher: networks.Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, trained = [], []
    scores = bcd._scores

    def fitted(starts: list[networks.Network], data: Dataset, *_: Any, **options: Any) -> Iterator[fit.Fitted]:
        trained.append(data)
        return iter([fit.Fitted(0, starts[0], {})])

    monkeypatch.setattr(bcd, "_scores", lambda network, data: (measured.append(data), scores(network, data))[1])
    monkeypatch.setattr(fit, "fit", fitted)
    descend(start, teacher, config=replace(CONFIG, validation=0.3), budget=196)
    (training,), held = trained, measured[0]
    assert len(training) + len(held) == 40
    seen = {np.asarray(image).tobytes() for image in training.images}
    assert not any(np.asarray(image).tobytes() in seen for image in held.images)
    np.testing.assert_array_equal(held.mean, training.mean)  # the networks' own normalisation
    assert set(np.asarray(held.group)) == {0, 1, 2}


def test_an_interrupted_descent_resumes_to_the_same_bits(
    start: networks.Network, teacher: networks.Network, descended: bcd.Descended, tmp_path: Path
) -> None:
    config = replace(CONFIG, finetune=replace(CONFIG.finetune, checkpoint_seconds=0.0))
    seen = []

    def interrupt(done: int, *_: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    options = {"config": config, "progress_dir": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        descend(start, teacher, on_block=interrupt, **options)
    resumed = descend(start, teacher, on_block=lambda *block: seen.append(block), **options)
    assert seen == [(2, 3, 136), (3, 3, 100)]
    assert resumed.passes == descended.passes
    for a, b in zip(*map(jax.tree.leaves, (resumed, descended)), strict=True):
        np.testing.assert_array_equal(a, b)
    (folder,) = tmp_path.iterdir()
    assert not (folder / "finetune").exists()


def test_a_descent_killed_within_a_fine_tuning_goes_on_within_it(
    start: networks.Network, teacher: networks.Network, descended: bcd.Descended, tmp_path: Path
) -> None:
    config, fitted, epochs = replace(CONFIG, finetune=replace(CONFIG.finetune, checkpoint_seconds=0.0)), fit.fit, []

    def killed(*arguments: Any, **options: Any) -> Any:
        def kill(epoch: int, *_: Any) -> None:
            epochs.append(epoch)
            if len(epochs) == 2:
                raise KeyboardInterrupt

        return fitted(*arguments, on_epoch=kill, **options)

    options = {"config": config, "progress_dir": tmp_path}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "fit", killed)
        with pytest.raises(KeyboardInterrupt):
            descend(start, teacher, **options)
        epochs.extend([0, 0])
        resumed = descend(start, teacher, **options)
    assert epochs[:6] == [1, 2, 0, 0, 2, 1]  # the second epoch again, and not the first
    assert_same_bits(resumed.network, descended.network)


def test_the_control_is_fine_tuned_as_often_and_keeps_every_relu(teacher: networks.Network) -> None:
    """With one block it is a plain fine-tuning, of the same order of images; resumed it has the same bits."""
    found = bcd.matched(teacher, teacher, make_data(), CONFIG, blocks=2, seed=0)
    once = bcd.matched(teacher, teacher, make_data(), CONFIG, blocks=1, seed=0)
    assert masks.relu_count(found.masks) == UNITS
    again = bcd._tuned(once, teacher, make_data(), CONFIG, 0, 1, None, 1)
    assert_same_bits(found, again)
    assert bcd.num_blocks(256, 100, CONFIG) == 3


@pytest.mark.usefixtures("unchecked")
def test_impossible_budgets_and_settings_are_refused(start: networks.Network, teacher: networks.Network) -> None:
    with pytest.raises(JaxfairError, match="has 256 ReLUs, fewer than the budget of 300; start from one with more"):
        descend(start, teacher, budget=300)
    for budget in (-1, UNITS + 1, 1.5):
        with pytest.raises(JaxfairError, match="ReLU budget"):
            descend(start, teacher, budget=budget)
    for change in ({"block": 0}, {"tries": 0}, {"threshold": np.nan}, {"level": 0.0}, {"validation": 1.0}):
        with pytest.raises(JaxfairError, match="give blocks and tries of at least 1"):
            descend(start, teacher, config=replace(CONFIG, **change))
    with pytest.raises(JaxfairError, match=r"BcdConfig\.accept is 'worst'"):
        descend(start, teacher, config=replace(CONFIG, accept="worst"))  # pyright: ignore
    with pytest.raises(JaxfairError, match="batch size is 256"):
        descend(start, teacher, config=replace(CONFIG, finetune=BCD_FINETUNE))
    with pytest.raises(JaxfairError, match="blocks is -1; give at least 0"):
        bcd.matched(teacher, teacher, make_data(), CONFIG, blocks=-1, seed=0)


def test_nothing_to_remove_changes_nothing(start: networks.Network, teacher: networks.Network) -> None:
    found = descend(start, teacher, budget=256)
    assert_same_bits(found.network, start)
    assert found.passes == 0
