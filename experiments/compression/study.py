"""The compression study: who loses accuracy when weights are pruned or rounded, and what foretells it.

    python -m experiments.compression --preset quickstart

Trains a full network for each seed, prunes it at once, by layer and gradually, rounds its weights to few bits and to
other formats, fine-tunes what was pruned, measures every group, and writes a report (Tran et al. 2022). Finished runs
are kept, and full networks are shared with a study of linearization in the same folder.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from experiments import cli
from experiments.analyses import study as studies
from experiments.compression import report
from experiments.running import measure, stages
from experiments.running.datasets import DataConfig
from experiments.running.executors import Execution
from experiments.running.measure import AnalysisConfig
from experiments.running.records import Workspace
from experiments.running.stages import ModelConfig
from jaxfair.compress import pruning, quantization
from jaxfair.compress.pruning import PruneConfig
from jaxfair.data.dataset import Dataset
from jaxfair.errors import JaxfairError
from jaxfair.runs import Run
from jaxfair.training.fit import SNL_FINETUNE, TrainConfig
from jaxfair.training.mitigate import Method

FLOAT_BITS = {"bf16": 16, "fp16": 16, "tf32": 19}
"""Bits of a stored weight; 32 are those of the full network."""
CONTROL = "Full network, fine-tuned"


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


def run(study: Study, command: Sequence[str]) -> None:
    """Make every run that is not finished yet, then the report; print the table and where the report lies.

    Args:
        study: what to make.
        command: what the reader of the report types to make it again.
    """

    def checked(train_set: Dataset) -> studies.Declare:
        check(study, train_set)
        return lambda space, seeds: declare(space, study, seeds)

    studies.run(study, checked, report, command)


def declare(space: Workspace, study: Study, seeds: Sequence[int]) -> list[Run]:
    """Declare the runs of some seeds; return the analyses, and after them what else is shown of these networks."""
    full = stages.train_full(space, study.model, study.train, seeds)
    as_they_are = [
        [stages.quantize(space, base, bits, rounded(f"{bits} bits", bits)) for base in full]
        for bits in dict.fromkeys(study.bits)
    ]
    as_they_are += [
        [stages.reformat(space, base, kind, rounded(kind, FLOAT_BITS[kind], "format")) for base in full]
        for kind in dict.fromkeys(study.formats)
    ]
    tuned = [stages.finetune(space, full, full, study.finetune)] if study.pruning and study.sparsities else []
    for scope in dict.fromkeys(study.pruning):
        for sparsity in dict.fromkeys(study.sparsities):
            if scope == "gradual":
                tuned += prune_gradually(space, study, full, sparsity)
            else:
                pruned = [
                    stages.prune(space, base, PruneConfig(sparsity, scope), called(scope, sparsity)) for base in full
                ]
                as_they_are.append(pruned)
                tuned += tune(space, study, pruned, full, scope, sparsity, study.finetune.epochs)
    networks = [full, *as_they_are, *tuned]
    analysed = [
        stages.analyse(space, network, base, study.analysis)
        for several in networks
        for network, base in zip(several, full, strict=True)
    ]
    analysed += [stages.sample(space, base, study.analysis) for base in full]
    return analysed + [
        stages.expand(space, network, base)
        for several in as_they_are
        for network, base in zip(several, full, strict=True)
    ]


def tune(
    space: Workspace,
    study: Study,
    starts: Sequence[Run],
    full: Sequence[Run],
    scope: Literal["global", "layer", "gradual"],
    sparsity: float,
    epochs: int,
) -> list[list[Run]]:
    """Declare the fine-tuning of pruned networks for so many epochs, plainly and with each mitigation."""
    found = []
    for method in dict.fromkeys(("none", *study.mitigations)):
        config = dataclasses.replace(mitigated(study.finetune, method), epochs=epochs)
        found.append(stages.finetune(space, starts, full, config, called(scope, sparsity, tuned=True)))
    return found


def mitigated(config: TrainConfig, method: Method) -> TrainConfig:
    """Return a training with another mitigation, by the same numbers."""
    return dataclasses.replace(config, mitigation=dataclasses.replace(config.mitigation, method=method))


def prune_gradually(space: Workspace, study: Study, full: Sequence[Run], sparsity: float) -> list[list[Run]]:
    """Declare rounds of pruning and fine-tuning, which together last as long as that of the other networks."""
    epochs, networks, found = study.finetune.epochs // study.rounds, list(full), []
    for number, reached in enumerate(pruning.sparsities(sparsity, study.rounds), 1):
        variant = called("gradual", reached, of=f", round {number} of {study.rounds} to {percent(sparsity)}")
        starts = [stages.prune(space, network, PruneConfig(reached), variant) for network in networks]
        if number < study.rounds:
            config = dataclasses.replace(study.finetune, epochs=epochs)
            networks = stages.finetune(space, starts, full, config, variant)
        else:
            left = study.finetune.epochs - epochs * (study.rounds - 1)
            found = tune(space, study, starts, full, "gradual", sparsity, left)
    return found


def called(
    scope: Literal["global", "layer", "gradual"], sparsity: float, of: str = "", *, tuned: bool = False
) -> dict[str, Any]:
    """Return what a pruned network is called, what it saves, and which network is its control."""
    how = {"global": "", "layer": " by layer", "gradual": " gradually"}[scope]
    variant = {"method": f"pruned-{scope}" + "-tuned" * tuned, "saves": "weights", "kept": round(1 - sparsity, 9)}
    label = f"Pruned {percent(sparsity)}{how}{of}" + ", fine-tuned" * (tuned and scope != "gradual")
    return {**variant, "label": label, **({"control": CONTROL} if tuned else {})}


def percent(share: float) -> str:
    """Write a share in percent with as many digits as it has, but no more than six."""
    return f"{round(100 * share, 4):g} %"


def rounded(label: str, bits: int, method: str = "quantized") -> dict[str, Any]:
    """Return what a network with weights of fewer bits is called, and what it saves."""
    return {"method": method, "label": label, "saves": "bits", "kept": bits / 32}


def check(study: Study, train_set: Dataset) -> None:
    """Find settings that some stage would refuse, before the first one runs.

    Raises:
        JaxfairError: there is nothing to run, or a network, a training or a number is impossible.
    """
    stages.check(train_set, study.model, (), ())
    nothing = not (study.bits or study.formats or (study.pruning and study.sparsities))
    if study.seeds < 1 or nothing:
        raise JaxfairError(
            f"The study has {study.seeds} seeds, {len(study.bits)} numbers of bits, {len(study.formats)} formats and "
            f"{len(study.sparsities)} sparsities; give at least one seed, and one of the others."
        )
    for sparsity in study.sparsities:
        pruning.check_config(PruneConfig(sparsity))
    for bits in study.bits:
        quantization.check_bits(bits)
    if "gradual" in study.pruning and not 1 <= study.rounds <= study.finetune.epochs:
        raise JaxfairError(
            f"Pruning is to take {study.rounds} rounds in {study.finetune.epochs} epochs of fine-tuning; give at least "
            "one round, and an epoch for each."
        )
    tunings = [mitigated(study.finetune, method) for method in study.mitigations]
    stages.check_trainings(train_set, [study.train, study.finetune, *tunings], None, study.seeds_at_once)
    measure.check_config(study.analysis)


QUICKSTART = Study(
    out=Path("results/compression-quickstart"),
    seeds=5,
    data=DataConfig("digits-imbalanced", test_fraction=0.25),
    model=ModelConfig(stage_sizes=(1, 1, 1), width=8),
    train=TrainConfig(epochs=40, batch_size=64, learning_rate=0.05, schedule="cosine"),
    finetune=dataclasses.replace(SNL_FINETUNE, epochs=30, batch_size=64, learning_rate=1e-2),
)
"""The digits and the network of linearization's quickstart, whose full networks are the same."""

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
"""UTKFace by race and the network of linearization's preset of this name; not yet timed."""

GPU = Study(
    out=Path("results/compression-gpu"),
    seeds=3,
    mitigations=("lagrangian",),
    data=DataConfig("utkface-race"),
    train=TrainConfig(epochs=40, schedule="cosine", augment="cifar"),
    finetune=dataclasses.replace(SNL_FINETUNE, epochs=12, augment="cifar"),
    analysis=AnalysisConfig(start="coarse"),
)
"""A ResNet-18 of full width on one GPU; not yet timed on any."""

PRESETS = {"quickstart": QUICKSTART, "cpu": CPU, "gpu": GPU}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    return cli.main("python -m experiments.compression", __doc__, {"": cli.Command(PRESETS, run)}, arguments)
