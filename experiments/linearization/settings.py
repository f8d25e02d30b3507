"""The settings of the linearization study, and its presets."""

import dataclasses
from pathlib import Path
from typing import Literal

from experiments.running.settings import AnalysisConfig, DataConfig, Execution, Further, ModelConfig, Rebalance, unused
from jaxfair.linearize.config import (
    BCD_FINETUNE,
    CULLED_SETS,
    PRAM,
    SENET_MASKS,
    BcdConfig,
    DeepReduceConfig,
    SenetConfig,
    SnlConfig,
)
from jaxfair.training.config import DEEPREDUCE_TRAIN, SNL_FINETUNE, Method, TrainConfig

Control = Literal["matched", "random-matched", "finetuned", "random"]


@dataclasses.dataclass(frozen=True)
class Study:
    """A whole study; the defaults are the papers' settings.

    Attributes:
        out: folder of the runs and the report; an earlier report of other runs is kept there as report-DIGEST.
        seeds: number of training seeds, 0 to seeds - 1.
        budgets: ReLUs that SNL keeps, as fractions below 1 of all units or as whole counts.
        deepreduce: DeepReDuce configurations: C and the culled stages, +T thinned, +a and +r scales (C12+T+a0.5).
        deepreduce_start: whether their students start from new weights or from the full network's.
        mitigations: fine-tune the linearized networks by these too, with the numbers of ``snl_finetune.mitigation``
            and ``deepreduce_train.mitigation``.
        mitigation_rates: the multipliers' rates mu of ``lagrangian``, if there are several (Das et al. 2024, D.2).
        methods: further methods on SNL's budgets, beside SNL and DeepReDuce: senet and bcd are SENet and block
            coordinate descent. snl-balanced, senet-balanced choose with every group counting the same; bcd-loss,
            bcd-worst-group and bcd-cvar accept blocks by the mean loss, by the worst group's or by that of the worst
            images. All are fine-tuned as SNL's networks, SENet's with attention maps too, and mitigated as these.
        equal_budgets: add DeepReDuce's numbers of ReLUs to the budgets, so that methods are compared at equal ones.
        controls: matched is the full network trained on exactly as each linearized one is, with all its ReLUs;
            random-matched keeps as many ReLUs as SNL, chosen at random, on that network; finetuned is the full network
            with the fine-tuning alone; random keeps ReLUs chosen at random on the full network, and its own control is
            finetuned.
        data_controls: make the full network, the tightest SNL network (or the DeepReDuce students, without one) and its
            matched control on other training images too, with the same test images: balanced are as many of every
            group, fivefold and tenfold are so many times as many of each large group as of each small one, swapped are
            few of the large and many of the small groups (``data.rebalance``).
        splits: per-seed splits the data anew for every training seed, so that the intervals are over splits too; one is
            shared by all seeds.
        follow: fine-tune the tightest and the middle SNL network and their controls for so many epochs, and look at
            every group after 1, 2, 4, 8, ...; 0 leaves it out.
        patience: epochs after which the training of the full network stops if the loss of validation images
            (``data.validation_fraction``) is no lower, and the network of the lowest is kept; 0 trains for all epochs.
        reference: group that the others are compared with; by default that with the most training images.
        title: heading of the report; by default it is made of the network and the data set's name.
        dry_run: list the runs, which are finished and about how long the others take, and make none; the data need not
            be there yet.
        seeds_at_once: seeds trained in one program; by default all on a TPU and 1 elsewhere. Fewer take less memory.
        data: which data, and how it is split.
        model: the full network.
        train: of the full network.
        snl: of the SNL descent.
        snl_finetune: of the networks that SNL and the further methods linearized.
        senet: of SENet's choice.
        senet_attention: factor on the distance of attention maps in the fine-tuning of SENet's networks.
        bcd: of block coordinate descent, which starts from SNL's fine-tuned network of twice the budget.
        deepreduce_train: of the DeepReDuce students.
        analysis: what is measured on each group.
        execution: who makes the runs, and where.
    """

    out: Path = Path("results/linearization")
    seeds: int = 10
    budgets: tuple[float, ...] = (0.5, 0.2, 0.1, 0.03)
    deepreduce: tuple[str, ...] = ("C1", "C12", "C123")
    deepreduce_start: Literal["fresh", "base"] = "fresh"
    mitigations: tuple[Method, ...] = ()
    mitigation_rates: tuple[float, ...] = ()
    methods: tuple[Further, ...] = ()
    equal_budgets: bool = False
    controls: tuple[Control, ...] = ("matched",)
    data_controls: tuple[Rebalance, ...] = ()
    splits: Literal["per-seed", "one"] = "per-seed"
    follow: int = 0
    patience: int = 0
    reference: str | None = None
    title: str | None = None
    dry_run: bool = False
    seeds_at_once: int | None = None
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    snl: SnlConfig = SnlConfig()
    snl_finetune: TrainConfig = SNL_FINETUNE
    senet: SenetConfig = SenetConfig()
    senet_attention: float = PRAM
    bcd: BcdConfig = BcdConfig()
    deepreduce_train: TrainConfig = DEEPREDUCE_TRAIN
    analysis: AnalysisConfig = AnalysisConfig()
    execution: Execution = Execution()


DIGITS = Study(
    out=Path("results/digits"),
    seeds=5,
    budgets=(0.2, 0.05, 0.01),
    deepreduce=("C12", "C123"),
    data=DataConfig("digits-imbalanced", test_fraction=0.25),
    model=ModelConfig(stage_sizes=(1, 1, 1), width=8),
    train=TrainConfig(epochs=40, batch_size=64, learning_rate=0.05, schedule="cosine"),
    snl=SnlConfig(batch_size=64, kappa=1e-3),
    snl_finetune=dataclasses.replace(SNL_FINETUNE, epochs=30, batch_size=64, learning_rate=1e-2),
    senet=SenetConfig(
        sparse_train=TrainConfig(epochs=40, batch_size=64, learning_rate=0.05, schedule="cosine"),
        mask_train=dataclasses.replace(SENET_MASKS, epochs=30, batch_size=64),
    ),
    bcd=BcdConfig(
        block=45, tries=20, finetune=dataclasses.replace(BCD_FINETUNE, epochs=5, batch_size=64, learning_rate=1e-2)
    ),
    deepreduce_train=dataclasses.replace(DEEPREDUCE_TRAIN, epochs=30, batch_size=64, learning_rate=1e-2),
)
"""Handwritten digits, 90 % of 0-4 and 10 % of 5-9 (Das et al.'s CIFAR-10 imbalance), a small ResNet: minutes."""

QUICKSTART = dataclasses.replace(
    DIGITS,
    out=Path("results/quickstart"),
    budgets=(0.05, 0.01),
    deepreduce=(),
    train=dataclasses.replace(DIGITS.train, epochs=20),
    snl=SnlConfig(batch_size=64, learning_rate=5e-3, kappa=1e-2),
    snl_finetune=dataclasses.replace(DIGITS.snl_finetune, epochs=15),
)
"""The same, by SNL alone, and trained half as long: a first look."""

BUDGETS = (0.5, 0.2, 0.05, 0.01, 0.001, 0)
"""To where it hurts, and beyond any choice."""

CPU_LONG = Study(
    out=Path("results/cpu-long"),
    seeds=5,
    budgets=BUDGETS,
    deepreduce=("C1", "C12", "C123"),
    equal_budgets=True,
    mitigations=("lagrangian", "lagrangian-published"),
    controls=("matched", "random-matched"),
    data_controls=("balanced",),
    follow=64,
    patience=5,
    data=DataConfig("utkface-race", validation_fraction=0.1),
    model=ModelConfig(width=8),
    train=TrainConfig(epochs=40, batch_size=128, learning_rate=0.05, schedule="cosine"),
    snl=SnlConfig(batch_size=128, learning_rate=2e-3, kappa=3e-3),
    snl_finetune=dataclasses.replace(SNL_FINETUNE, epochs=10, batch_size=128, learning_rate=1e-2),
    senet=SenetConfig(
        sparse_train=TrainConfig(epochs=15, batch_size=128, learning_rate=0.05, schedule="cosine"),
        mask_train=dataclasses.replace(SENET_MASKS, epochs=20),
    ),
    bcd=BcdConfig(
        block=2000, tries=20, finetune=dataclasses.replace(BCD_FINETUNE, epochs=2, batch_size=128, learning_rate=1e-2)
    ),
    deepreduce_train=dataclasses.replace(DEEPREDUCE_TRAIN, epochs=20, batch_size=128, learning_rate=1e-2),
    analysis=AnalysisConfig(start="coarse"),
)
"""UTKFace by race, a narrow ResNet-18, every control: nights on two CPU cores (``--dry-run``).

A tenth of the training images says when the full network is trained enough, so that it does not learn them by heart.
SNL and random masks have DeepReDuce's numbers of ReLUs too. Where ``data.keep`` makes the imbalance, as of
``cifar10-imbalanced``, ``--data-controls balanced swapped`` is the control that this set cannot have.
"""

CPU = dataclasses.replace(
    CPU_LONG,
    out=Path("results/cpu"),
    budgets=(0.2, 0.01, 0),
    deepreduce=("C123",),
    equal_budgets=False,
    mitigations=(),
    data_controls=(),
    follow=0,
    patience=0,
    data=DataConfig("utkface-race", size=16, keep=(0.3,)),
    model=ModelConfig(stage_sizes=(1, 1, 1), width=8),
    train=TrainConfig(epochs=15, batch_size=128, learning_rate=0.05, schedule="cosine"),
    snl_finetune=dataclasses.replace(SNL_FINETUNE, epochs=6, batch_size=128, learning_rate=1e-2),
)
"""The same at 16 x 16 pixels, on 30 % of the training images, by a small ResNet.

``--budgets 0.01 0 --deepreduce`` took some one and a half hours on two shared cores; ``--dry-run`` tells of all.
"""

GPU = dataclasses.replace(
    CPU_LONG,
    out=Path("results/gpu"),
    data=DataConfig("utkface-race", validation_fraction=0.1),
    model=ModelConfig(),
    train=TrainConfig(epochs=40, schedule="cosine", augment="cifar"),
    snl=SnlConfig(kappa=1e-4, augment="cifar"),
    snl_finetune=dataclasses.replace(SNL_FINETUNE, epochs=10, augment="cifar"),
    deepreduce_train=dataclasses.replace(DEEPREDUCE_TRAIN, epochs=20, learning_rate=1e-2, augment="cifar"),
)
"""The same by a ResNet-18 of full width: made for one GPU, not yet timed on any."""

PAPER = Study(
    out=Path("results/paper"),
    deepreduce=tuple(DeepReduceConfig(stages).name for stages in CULLED_SETS),
    mitigations=("lagrangian", "lagrangian-detached", "lagrangian-published"),
    mitigation_rates=(1e-4, 1e-3, 1e-2),
    controls=("matched", "random-matched", "finetuned", "random"),
    data=DataConfig("utkface-race"),
)
"""Das et al. 2024 in full: ten seeds, ResNet-18, all eleven culled sets; days on one GPU, see ``--dry-run``."""

PRESETS = {"quickstart": QUICKSTART, "digits": DIGITS, "cpu": CPU, "cpu-long": CPU_LONG, "gpu": GPU, "paper": PAPER}


def ignored(study: Study) -> dict[str, str]:
    """Return what the study does not look at, see ``cli.Command``."""
    mitigated = {f"--{training}": study.mitigations for training in ("snl-finetune", "deepreduce-train")}
    found = unused(study, mitigated)
    for method in ("senet", "bcd"):
        if not any(one.startswith(method) for one in study.methods):
            found[f"--{method}"] = f"give --methods {method}"
    if "--senet" in found:
        found["--senet-attention"] = found["--senet"]
    found["--senet.balanced"] = "give --methods senet-balanced"  # what the names of methods say
    found["--bcd.accept"] = "give --methods bcd-loss, bcd-worst-group or bcd-cvar"
    if "bcd-cvar" not in study.methods:
        found["--bcd.level"] = "give --methods bcd-cvar"
    if study.mitigation_rates and not {"lagrangian-detached", "lagrangian-published"} & {*study.mitigations}:
        own = {"--snl-finetune": study.snl_finetune, "--deepreduce-train": study.deepreduce_train}
        for training, config in own.items():
            if config.mitigation.rate not in study.mitigation_rates:  # or it says the same
                found.setdefault(f"{training}.mitigation.rate", "leave out --mitigation-rates")
    if not study.deepreduce:
        of_students = ("--deepreduce-start", "--deepreduce-train", "--equal-budgets")
        found |= dict.fromkeys(of_students, "name a configuration by --deepreduce")
    if not (study.budgets or study.equal_budgets):
        found["--snl"] = "give --budgets"
        if "finetuned" not in study.controls:
            found["--snl-finetune"] = "give --budgets"
    return found
