"""Stages of SENet and of block coordinate descent on a study of twelve images: what is declared, made and counted."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from experiments.running import methods, stages, work
from experiments.running.progress import Progress
from experiments.running.records import Workspace, carry_out, load_network, settings_of
from experiments.running.settings import FURTHER
from jaxfair.data.dataset import make_dataset
from jaxfair.linearize.config import SENET_MASKS, BcdConfig, SenetConfig, SnlConfig
from jaxfair.networks import masks
from jaxfair.runs import Run
from jaxfair.training.config import TrainConfig

ONCE = TrainConfig(epochs=1, batch_size=4, learning_rate=0.01, distillation_weight=1.0)
SENET = SenetConfig(
    sparse_train=TrainConfig(epochs=1, batch_size=4),
    mask_train=dataclasses.replace(SENET_MASKS, epochs=2, batch_size=4),
)
BCD = BcdConfig(block=30, tries=3, threshold=-1.0, finetune=ONCE)
IMAGES = 12


def make(folder: Path) -> dict[str, Run]:
    """Linearize a full network by every method down to 80 of 256 units, and fine-tune what came out."""
    rng, names = np.random.default_rng(0), ["a", "b"]
    images, label = rng.integers(0, 256, (IMAGES, 8, 8, 1), np.uint8), np.arange(IMAGES) % 2
    train = make_dataset(images, label, label, name="made", class_names=names, group_names=names)
    record = {"name": "made", "image_shape": (8, 8, 1), "train_count": [6, 6]}
    model = stages.ModelConfig(stage_sizes=(1,), width=2)
    with Progress(terminal=False) as progress:
        space = Workspace(folder, train, train, record, progress)
        (base,) = full = stages.train_full(space, model, TrainConfig(epochs=1, batch_size=4), [0])
        snl = methods.linearize_snl(space, base, SnlConfig(batch_size=4, learning_rate=0.02, kappa=0.05), [160])
        (start,) = stages.finetune(space, snl, full, ONCE)
        chosen = methods.linearize_senet(space, base, SENET, [80, 20])
        control = methods.match_senet(space, base, SENET)
        tuned = [stages.finetune(space, [run], full, ONCE, attention=10.0)[0] for run in (chosen[0], control)]
        descended = methods.linearize_bcd(space, start, base, BCD, 160, 80, "bcd-worst-group")
        matched = methods.match_bcd(space, base, base, BCD, 160, 80)
        carry_out(space)
    made = {run.config["variant"]["label"]: run for run in (base, *chosen, control, descended, matched)}
    return made | {f"{run.config['variant']['label']}, tuned": run for run in (start, *tuned)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    return make(tmp_path_factory.mktemp("methods"))


def test_masks_hold_exactly_the_budget_and_controls_keep_every_relu(made: dict[str, Run]) -> None:
    expected = {"SENet 80": 80, "SENet 20": 20, "BCD 80 (worst group)": 80, "SENet 80, tuned": 80}
    expected |= dict.fromkeys(("Matched to SENet", "Matched to SENet, tuned", "Matched to BCD 80"), 256)
    for label, count in expected.items():
        assert masks.relu_count(load_network(made[label]).masks) == count
        assert made[label].json("result.json")["relu_count"] == count
    for label in ("SENet 80", "BCD 80 (worst group)"):
        assert methods.matched_label(label) in made
    layers = made["SENet 80"].json("result.json")["layers"]
    assert sum(layers.values()) == 80


def test_a_networks_work_is_that_of_all_its_runs(made: dict[str, Run]) -> None:
    """Counted by hand: three epochs of whole batches, a gradient is 3 passes and the teacher 1."""
    epoch = 4 * IMAGES
    assert work.passes(made["Full network"]) == 0
    for label in ("SENet 80", "SENet 20"):
        assert work.passes(made[label]) == 3 * IMAGES + 2 * epoch
    assert work.passes(made["Matched to SENet, tuned"]) == 3 * epoch
    assert work.passes(made["SENet 80, tuned"]) == 3 * IMAGES + 3 * epoch
    before, blocks = work.passes(made["SNL 160, tuned"]), 3  # 30, 30 and 20 ReLUs
    assert before > epoch
    assert work.passes(made["BCD 80 (worst group)"]) == before + blocks * (epoch + (BCD.tries + 1) * IMAGES)
    assert work.passes(made["Matched to BCD 80"]) == blocks * epoch


def test_what_was_tried_is_kept(made: dict[str, Run]) -> None:
    history = made["BCD 80 (worst group)"].arrays("history.npz")
    assert history["relu_count"].tolist() == [130, 100, 80]
    assert history["rises"].shape == (3, 3)
    assert np.isfinite(history["rises"]).all()  # by no block it falls so far


def test_only_what_decides_a_result_names_its_run() -> None:
    saved = dataclasses.replace(BCD, accept="cvar", finetune=dataclasses.replace(ONCE, checkpoint_seconds=1.0))
    assert settings_of(saved) == {**settings_of(BCD), "accept": "cvar"}
    assert methods.bcd_config(BCD, "bcd").accept == "accuracy"
    assert {methods.bcd_config(BCD, method).accept for method in FURTHER if "bcd-" in method} == {
        "loss",
        "worst-group",
        "cvar",
    }


def test_where_a_descent_starts() -> None:
    config = BcdConfig(block=50)
    assert [methods.start_count(count, 768, config) for count in (200, 20, 0, 500, 768)] == [400, 70, 50, 768, 768]
