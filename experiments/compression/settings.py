"""The settings of the compression study, and its presets."""

import dataclasses
from pathlib import Path
from typing import Literal

from experiments.running.settings import AnalysisConfig, DataConfig, Execution, ModelConfig, Rebalance, unused
from jaxfair.training.config import SNL_FINETUNE, Method, TrainConfig


@dataclasses.dataclass(frozen=True)
class Study:
    """A whole study.

    Attributes:
        out: folder of the runs and the report; an earlier report of other runs is kept there as report-DIGEST.
        seeds: number of training seeds, 0 to seeds - 1.
        pruning: which weights go: global are the smallest of all, layer the smallest of each layer, both at once and
            then fine-tuned; gradual are the smallest of all in rounds with fine-tuning between.
        sparsities: shares of the weights that are pruned, in [0, 1).
        rounds: of gradual pruning, which together have the epochs of the fine-tuning.
        bits: of the weights of quantized networks, 2 to 8; they are not fine-tuned.
        formats: floating-point formats of weights and products: bf16, fp16, tf32.
        mitigations: fine-tune the pruned networks by these too, with the numbers of ``finetune.mitigation``.
        data_controls: make the full network, the sparsest pruned ones, that of fewest bits and their control on other
            training images too, with the same test images: balanced are as many of every group, fivefold and tenfold
            so many times as many of each large group as of each small one, swapped few of the large and many of the
            small groups (``data.rebalance``).
        splits: per-seed splits the data anew for every training seed, so that the intervals are over splits too; one is
            shared by all seeds.
        reference: group that the others are compared with; by default that with the most training images.
        title: heading of the report; by default it is made of the network and the data set's name.
        dry_run: list the runs, which are finished and about how long the others take, and make none; the data need not
            be there yet.
        seeds_at_once: seeds trained in one program; by default all on a TPU and 1 elsewhere. Fewer take less memory.
        data: which data, and how it is split.
        model: the full network.
        train: of the full network.
        finetune: of pruned networks, and of the control: the full network trained on as long, with all its weights.
        analysis: what is measured on each group.
        execution: who makes the runs, and where.
    """

    out: Path = Path("results/compression")
    seeds: int = 10
    pruning: tuple[Literal["global", "layer", "gradual"], ...] = ("global", "layer", "gradual")
    sparsities: tuple[float, ...] = (0.5, 0.8, 0.9, 0.95)
    rounds: int = 3
    bits: tuple[int, ...] = (8, 6, 4, 3)
    formats: tuple[Literal["bf16", "fp16", "tf32"], ...] = ("bf16",)
    mitigations: tuple[Method, ...] = ()
    data_controls: tuple[Rebalance, ...] = ()
    splits: Literal["per-seed", "one"] = "per-seed"
    reference: str | None = None
    title: str | None = None
    dry_run: bool = False
    seeds_at_once: int | None = None
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    finetune: TrainConfig = SNL_FINETUNE
    analysis: AnalysisConfig = AnalysisConfig()
    execution: Execution = Execution()


QUICKSTART = Study(
    out=Path("results/compression-quickstart"),
    seeds=5,
    data=DataConfig("digits-imbalanced", test_fraction=0.25),
    model=ModelConfig(stage_sizes=(1, 1, 1), width=8),
    train=TrainConfig(epochs=40, batch_size=64, learning_rate=0.05, schedule="cosine"),
    finetune=dataclasses.replace(SNL_FINETUNE, epochs=30, batch_size=64, learning_rate=1e-2),
)
"""The digits and the network of linearization's preset ``digits``, whose full networks are the same."""

CPU = Study(
    out=Path("results/compression-cpu"),
    seeds=3,
    pruning=("global", "gradual"),
    sparsities=(0.8, 0.95),
    rounds=2,
    bits=(8, 4, 3),
    mitigations=("lagrangian",),
    data=DataConfig("utkface-race", keep=(0.3,)),
    model=ModelConfig(width=8),
    train=TrainConfig(epochs=15, batch_size=128, learning_rate=0.05, schedule="cosine"),
    finetune=dataclasses.replace(SNL_FINETUNE, epochs=6, batch_size=128, learning_rate=1e-2),
    analysis=AnalysisConfig(start="coarse"),
)
"""UTKFace by race, 30 % of the training images, a narrow ResNet-18; three seeds, a first look. Not yet timed."""

GPU = Study(
    out=Path("results/compression-gpu"),
    seeds=5,
    mitigations=("lagrangian",),
    data=DataConfig("utkface-race"),
    train=TrainConfig(epochs=40, schedule="cosine", augment="cifar"),
    finetune=dataclasses.replace(SNL_FINETUNE, epochs=12, augment="cifar"),
    analysis=AnalysisConfig(start="coarse"),
)
"""A ResNet-18 of full width on one GPU; not yet timed on any."""

PRESETS = {"quickstart": QUICKSTART, "cpu": CPU, "gpu": GPU}


def ignored(study: Study) -> dict[str, str]:
    """Return what the study does not look at, see ``cli.Command``."""
    found, pruned = unused(study, {"--finetune": study.mitigations}), study.pruning and study.sparsities
    if not pruned:
        found["--finetune"] = "give --pruning and --sparsities"
    if not (pruned and "gradual" in study.pruning):
        found["--rounds"] = "give --pruning gradual and --sparsities"
    return found
