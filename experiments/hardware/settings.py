"""The settings of the hardware study, and its presets; and what its other commands are told."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.running.settings import (
    AnalysisConfig,
    DataConfig,
    Execution,
    ModelConfig,
    StudyFolder,
    StudyFolders,
    unused,
)
from jaxfair.linearize.config import SnlConfig
from jaxfair.training.config import SNL_FINETUNE, TrainConfig


@dataclasses.dataclass(frozen=True)
class Study:
    """A whole study.

    Attributes:
        out: folder of the runs and the report; an earlier report of other runs is kept there as report-DIGEST.
        seeds: number of training seeds, 0 to seeds - 1.
        profiles: hardware to train on; the first is the reference.
        nodes: instead of profiles, kinds of machine of a cluster, NAME=PROFILE with what finds them there, such as
            t4=gpu,gres=gpu:t4:1 (or ,constraint= ,partition= ,account=). Each makes its runs in a folder NAME of
            ``out``, all beside each other, and the report is of all; the first is the reference.
        ulps: controls on the reference with one weight of every array changed by one unit in the last place.
        controls: more of them: the same training again, another order of the data, and batches twice as large at twice
            the rate.
        mitigation: train with the alignment of the groups' distances to the decision boundary too.
        budgets: linearize by SNL on every profile too, keeping so many ReLUs (below 1: a fraction of them).
        steps: after which parameters are compared, to see how trainings part; those after the last step do not count.
        reference: group that the others are compared with; by default that with the most training images.
        title: heading of the report; by default it is made of the data set's name.
        dry_run: list the runs, which are finished and about how long the others take, and make none; the data need not
            be there yet.
        seeds_at_once: seeds trained in one program; by default all on a TPU and 1 elsewhere.
        data: which data, and how it is split.
        model: the network.
        train: how it is trained; its mitigation holds the numbers of the alignment.
        snl: of the SNL descent.
        snl_finetune: of the networks that SNL linearized.
        analysis: what is measured on each group.
        execution: who makes the runs of each profile, and where; a profile of the CPU is given no ``gres``.
    """

    out: Path = Path("results/hardware")
    seeds: int = 10
    profiles: tuple[str, ...] = ("cpu",)
    nodes: tuple[str, ...] = ()
    ulps: int = 2
    controls: tuple[Literal["repeat", "order", "batch"], ...] = ("repeat", "order", "batch")
    mitigation: bool = False
    budgets: tuple[float, ...] = ()
    steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    reference: str | None = None
    title: str | None = None
    dry_run: bool = False
    seeds_at_once: int | None = None
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    snl: SnlConfig = SnlConfig()
    snl_finetune: TrainConfig = SNL_FINETUNE
    analysis: AnalysisConfig = AnalysisConfig()
    execution: Execution = Execution()


CPU_PROFILES = ("cpu", "cpu-avx", "cpu-sse4.2", "cpu-1-thread", "tf32", "bf16", "fp16")

QUICKSTART = Study(
    seeds=5,
    profiles=CPU_PROFILES,
    mitigation=True,
    data=DataConfig("digits-imbalanced", test_fraction=0.25),
    model=ModelConfig(stage_sizes=(1, 1, 1), width=8),
    train=TrainConfig(epochs=20, batch_size=64, learning_rate=0.05, schedule="cosine"),
    snl=SnlConfig(batch_size=64, kappa=1e-3),
    snl_finetune=dataclasses.replace(SNL_FINETUNE, epochs=20, batch_size=64, learning_rate=1e-2),
)
"""Handwritten digits, 90 % of 0-4 and 10 % of 5-9, a small ResNet, on variants of the CPU and emulated arithmetic."""

CPU = Study(
    out=Path("results/hardware-cpu"),
    seeds=3,
    profiles=("cpu", "cpu-sse4.2", "bf16"),
    steps=(1, 2, 4, 8, 16, 32, 64),
    data=DataConfig("utkface-race", keep=(0.3,)),
    model=ModelConfig(width=8),
    train=TrainConfig(epochs=8, batch_size=128, learning_rate=0.05, schedule="cosine"),
    analysis=AnalysisConfig(start="coarse"),
)
"""UTKFace by race, 30 % of the training images, a narrow ResNet-18: about 40 minutes on two CPU cores."""

GPU = Study(
    out=Path("results/hardware-gpu"),
    seeds=5,
    profiles=("gpu", "gpu-tf32", "gpu-deterministic", "tf32", "bf16"),
    mitigation=True,
    data=DataConfig("utkface-race"),
    train=TrainConfig(epochs=40, schedule="cosine"),
    analysis=AnalysisConfig(start="coarse"),
)
"""A ResNet-18 of full width on the ways of one GPU to round; not yet timed on any."""

PAPER = Study(profiles=("gpu",), mitigation=True, data=DataConfig("utkface-race"))
"""Nelaturu et al. 2024 on one GPU, ten seeds; run it on each kind of GPU, and merge."""

PRESETS = {"quickstart": QUICKSTART, "cpu": CPU, "gpu": GPU, "paper": PAPER}


def ignored(study: Study) -> dict[str, str]:
    """Return what the study does not look at, see ``cli.Command``."""
    found = unused(study, {"--train": ["alignment"] * study.mitigation})
    of_alignment = ("--train.mitigation.weight", "--train.mitigation.distance")
    for option in found:
        if ".mitigation." in option:
            found[option] = "give --mitigation" * (option in of_alignment)
    if study.nodes:
        found["--profiles"] = "name each profile in --nodes"
    if not study.budgets:
        found |= dict.fromkeys(("--snl", "--snl-finetune"), "give --budgets")
    return found


@dataclasses.dataclass(frozen=True)
class Pack:
    """Write a study's finished runs into one file.

    Attributes:
        study: its folder.
        file: NAME.tar or NAME.tar.gz.
    """

    study: StudyFolder
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]


@dataclasses.dataclass(frozen=True)
class Merge:
    """Compare studies of several machines; the first one has the reference and its controls.

    Attributes:
        studies: folders of studies, or packed files.
        out: folder of the report.
        allow_versions: compare runs of different package versions.
        reference: group that the others are compared with; by default that with the most training images.
        title: heading of the report; by default it is made of the data set's name.
    """

    studies: StudyFolders
    out: Path
    allow_versions: bool = False
    reference: str | None = None
    title: str | None = None
