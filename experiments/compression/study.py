"""The runs of a compression study: what is trained, pruned, rounded, fine-tuned and measured, and in which order."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from experiments.analyses import study as studies
from experiments.compression import report
from experiments.compression.settings import PRESETS, Study
from experiments.running import measure, stages
from experiments.running.records import Workspace
from jaxfair.compress import pruning, quantization
from jaxfair.compress.pruning import PruneConfig
from jaxfair.data.dataset import Dataset
from jaxfair.errors import JaxfairError
from jaxfair.runs import Run
from jaxfair.training.config import Method, TrainConfig

FLOAT_BITS = {"bf16": 16, "fp16": 16, "tf32": 19}
"""Bits of a stored weight; 32 are those of the full network."""
CONTROL = stages.TUNED["label"]


def run(study: Study, command: Sequence[str]) -> None:
    """Make every run that is not finished yet, then the report; print the table and where the report lies.

    Args:
        study: what to make.
        command: what the reader of the report types to make it again.
    """

    def checked(train_set: Dataset) -> studies.Declare:
        check(study, train_set)
        return lambda space, seeds: declare(space, study, seeds)

    studies.run(study, checked, report, command, study.data_controls)


def declare(space: Workspace, study: Study, seeds: Sequence[int]) -> list[Run]:
    """Declare the runs of some seeds; return the analyses, and after them what else is shown of these networks.

    On rebalanced data these are fewer, see ``Study.data_controls``.
    """
    rebalanced = "rebalance" in space.record
    if rebalanced:
        strongest = {
            "sparsities": study.sparsities and (max(study.sparsities),),
            "bits": study.bits and (min(study.bits),),
        }
        study = dataclasses.replace(study, **strongest, formats=(), mitigations=())
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
    if rebalanced:
        return analysed
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
    check_used(study)
    for sparsity in study.sparsities:
        pruning.check_config(PruneConfig(sparsity))
    for bits in study.bits:
        quantization.check_bits(bits)
    if "gradual" in study.pruning and not 1 <= study.rounds <= study.finetune.epochs:
        raise JaxfairError(
            f"Pruning is to take {study.rounds} rounds in {study.finetune.epochs} epochs of fine-tuning; give at least "
            "one round, and an epoch for each."
        )
    stages.check_plain(finetune=study.finetune)
    tunings = [mitigated(study.finetune, method) for method in study.mitigations]
    stages.check_trainings(train_set, [study.train, study.finetune, *tunings], None, study.seeds_at_once)
    measure.check_config(study.analysis)


def check_used(study: Study) -> None:
    """Find what is asked for of networks that the study has none of, and would be dropped without a word.

    What a preset has is not asked for: whoever wants no pruning leaves out its ways or its sparsities alone.

    Raises:
        JaxfairError: there are no such networks.
    """
    pruned = study.pruning and study.sparsities
    mitigations = [method for method in study.mitigations if method != "none"]
    of_preset = (study.mitigations, study.finetune) in [(one.mitigations, one.finetune) for one in PRESETS.values()]
    if mitigations and not pruned and not of_preset:
        raise JaxfairError(
            f"The mitigations {' '.join(mitigations)} are of pruned networks, and there are none; give --pruning and "
            "--sparsities, or nothing after --mitigations."
        )
    if study.data_controls and not (pruned or study.bits):
        raise JaxfairError(
            f"The data controls {' '.join(study.data_controls)} are of pruned networks and those of few bits, and "
            "there are none; give --pruning and --sparsities, or --bits, or nothing after --data-controls."
        )
    for name, other in (("sparsities", "pruning"), ("pruning", "sparsities")):
        value = getattr(study, name)
        if value and not getattr(study, other) and value not in [getattr(one, name) for one in PRESETS.values()]:
            shown = " ".join(map(str, value))
            raise JaxfairError(f"Pruning is told --{name} {shown} and no --{other}; give both, or nothing after both.")
