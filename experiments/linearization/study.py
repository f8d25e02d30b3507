"""The linearization study (Das et al. 2024): who loses accuracy when ReLUs are removed, and what foretells it.

    python -m experiments.linearization --preset quickstart

Trains a full network for each seed, linearizes it by SNL (one descent, several budgets) and DeepReDuce, fine-tunes by
distillation, measures every group, and writes a report. Finished runs are kept: the same command goes on where it was
interrupted, and another one shares the runs that it has in common. ``--dry-run`` lists the runs and what is left.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from experiments import cli
from experiments.analyses import study as studies
from experiments.linearization import report
from experiments.running import measure, methods, stages
from experiments.running.datasets import DataConfig, Rebalance
from experiments.running.executors import Execution
from experiments.running.measure import AnalysisConfig
from experiments.running.methods import Further
from experiments.running.records import Workspace
from experiments.running.stages import ModelConfig
from jaxfair.data.dataset import Dataset
from jaxfair.errors import JaxfairError
from jaxfair.linearize import bcd, deepreduce, senet
from jaxfair.linearize.bcd import BCD_FINETUNE, BcdConfig
from jaxfair.linearize.deepreduce import CULLED_SETS, DeepReduceConfig
from jaxfair.linearize.senet import PRAM, SENET_MASKS, SenetConfig
from jaxfair.linearize.snl import SnlConfig
from jaxfair.networks import masks
from jaxfair.networks.network import shapes
from jaxfair.runs import Run
from jaxfair.training.fit import DEEPREDUCE_TRAIN, SNL_FINETUNE, TrainConfig
from jaxfair.training.mitigate import Method

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
            with the fine-tuning alone; random keeps ReLUs chosen at random on the full network.
        data_controls: make the full network, the tightest SNL network (or the DeepReDuce students, without one) and its
            matched control on other training images too, with the same test images: balanced are as many of every
            group, swapped are few of the large and many of the small groups (``data.rebalance``).
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


def run(study: Study, command: Sequence[str]) -> None:
    """Make every run that is not finished yet, then the report; print the table and where the report lies.

    Args:
        study: what to make.
        command: what the reader of the report types to make it again.
    """
    configurations = reductions(study)

    def checked(train_set: Dataset) -> studies.Declare:
        budgets = check(study, train_set)
        return lambda space, seeds: declare(space, study, budgets, configurations, seeds)

    studies.run(study, checked, report, command, study.data_controls)


def declare(
    space: Workspace,
    study: Study,
    budgets: Sequence[int],
    configurations: Sequence[DeepReduceConfig],
    seeds: Sequence[int],
) -> list[Run]:
    """Declare the runs of some seeds; return the analyses, and after them what else is shown of these networks.

    On rebalanced data these are fewer, see ``Study.data_controls``.
    """
    rebalanced = "rebalance" in space.record
    if rebalanced:
        study = dataclasses.replace(study, mitigations=(), controls=("matched",), follow=0, methods=())
        budgets, configurations = ([min(budgets)], []) if budgets else ([], configurations)
    full = stages.train_full(space, study.model, study.train, seeds, study.patience)
    by_count = [*dict.fromkeys([*budgets, *bcd_starts(space, study, budgets).values()])]
    linearized = [stages.linearize_snl(space, base, study.snl, by_count) for base in full]
    every = [list(starts) for starts in zip(*linearized, strict=True)]
    every_control = match(space, study, full, linearized)
    by_budget, matched = every[: len(budgets)], every_control[: len(budgets)]  # and where descents of BCD start
    groups = [(starts, config) for starts in by_budget for config in tunings(study.snl_finetune, study)]
    groups += [(starts, study.snl_finetune) for starts in matched]
    if "finetuned" in study.controls:
        groups.append((full, study.snl_finetune))
    for count in budgets if "random" in study.controls else []:
        groups.append(([stages.linearize_random(space, base, count) for base in full], study.snl_finetune))
    for count, starts in zip(budgets, matched, strict=True) if "random-matched" in study.controls else []:
        thinned = [stages.linearize_random(space, base, count, of) for base, of in zip(full, starts, strict=True)]
        groups.append((thinned, study.snl_finetune))
    for config in configurations:
        starts = [stages.linearize_deepreduce(space, base, config) for base in full]
        groups += [(starts, one) for one in tunings(study.deepreduce_train, study)]
        if "matched" in study.controls:
            groups.append(([stages.match_deepreduce(space, base, config) for base in full], study.deepreduce_train))
    of_count = dict(zip(by_count, zip(every, every_control or every, strict=True), strict=True))
    groups += further(space, study, full, budgets, of_count)
    groups = [group for i, group in enumerate(groups) if group not in groups[:i]]  # students share a control
    tuned = [tune(space, study, starts, full, config) for starts, config in groups]
    analysed = [
        stages.analyse(space, network, base, study.analysis)
        for networks in [full, *tuned]
        for network, base in zip(networks, full, strict=True)
    ]
    if not rebalanced:
        analysed += [stages.sample(space, base, study.analysis) for base in full]
        analysed += [stages.compare_gradients(space, base, study.analysis) for base in full]
    if not rebalanced and len(space.test.class_names) == 2:
        analysed += [stages.bound_hessian(space, base, study.analysis) for base in full]
    return analysed + follow(space, study, full, by_budget, matched)


def further(
    space: Workspace,
    study: Study,
    full: Sequence[Run],
    budgets: Sequence[int],
    of_count: Mapping[int, tuple[Sequence[Run], Sequence[Run]]],
) -> list[tuple[list[Run], TrainConfig]]:
    """Declare the networks of the further methods; return which of them and of their controls are fine-tuned, and how.

    Args:
        space: of the study.
        study: its settings.
        full: the full network of each seed.
        budgets: the ReLUs that each method keeps.
        of_count: SNL's networks of so many ReLUs, and their controls, of each seed.
    """
    found = []
    for method in dict.fromkeys(study.methods):
        if method == "snl-balanced":
            made = [stages.linearize_snl(space, base, study.snl, budgets, balanced=True) for base in full]
            controls = match(space, study, full, made)
        elif method in ("senet", "senet-balanced"):
            made = [methods.linearize_senet(space, base, study.senet, budgets, method) for base in full]
            controls = [[methods.match_senet(space, base, study.senet) for base in full]] if matches(study) else []
        else:
            made, controls = _descended(space, study, full, budgets, of_count, method)
        of_budget = [list(starts) for starts in zip(*made, strict=True)]
        found += [(starts, config) for starts in of_budget for config in tunings(study.snl_finetune, study)]
        found += [(starts, study.snl_finetune) for starts in controls]
    return found


def _descended(
    space: Workspace,
    study: Study,
    full: Sequence[Run],
    budgets: Sequence[int],
    of_count: Mapping[int, tuple[Sequence[Run], Sequence[Run]]],
    method: Further,
) -> tuple[list[list[Run]], list[list[Run]]]:
    """Declare block coordinate descents: the networks by seed and budget, and their controls by budget and seed."""
    made, controls = [], []
    for budget, count in bcd_starts(space, study, budgets).items():
        of_starts, of_controls = (tune(space, study, runs, full, study.snl_finetune) for runs in of_count[count])
        common = study.bcd, count, budget
        made.append([methods.linearize_bcd(space, *two, *common, method) for two in zip(of_starts, full, strict=True)])
        if matches(study):
            pairs = zip(of_controls, full, strict=True)
            controls.append([methods.match_bcd(space, *two, *common) for two in pairs])
    return [list(of_seed) for of_seed in zip(*made, strict=True)], controls


def bcd_starts(space: Workspace, study: Study, budgets: Sequence[int]) -> dict[int, int]:
    """Return, for each budget of BCD, the ReLUs of the SNL network that its descent starts from."""
    if not any(method.startswith("bcd") for method in study.methods):
        return {}
    units = masks.unit_count(shapes(stages.full_module(space.train, study.model), space.train.image_shape).masks)
    return {budget: methods.start_count(budget, units, study.bcd) for budget in budgets}


def tune(space: Workspace, study: Study, starts: Sequence[Run], full: Sequence[Run], config: TrainConfig) -> list[Run]:
    """Declare the fine-tuning of a network of each seed, with attention maps if SENet made it."""
    attention = study.senet_attention if "senet" in starts[0].config else 0.0
    return stages.finetune(space, starts, full, config, attention=attention)


def matches(study: Study) -> bool:
    """Return whether some control of the study is trained as its linearized networks are."""
    return not {"matched", "random-matched"}.isdisjoint(study.controls)


def match(space: Workspace, study: Study, full: Sequence[Run], linearized: Sequence[Sequence[Run]]) -> list[list[Run]]:
    """Declare SNL's controls, a list for each budget of a run for each seed; none if no control needs them."""
    if not linearized or not matches(study):
        return []
    found = [stages.match_snl(space, base, runs) for base, runs in zip(full, linearized, strict=True)]
    return [list(of_budget) for of_budget in zip(*found, strict=True)]


def follow(
    space: Workspace,
    study: Study,
    full: Sequence[Run],
    by_budget: Sequence[Sequence[Run]],
    matched: Sequence[Sequence[Run]],
) -> list[Run]:
    """Declare what is followed through a long fine-tuning: the tightest and the middle budget, and their controls."""
    if not study.follow or not by_budget:
        return []
    order = sorted(range(len(by_budget)), key=lambda i: by_budget[i][0].config["snl"]["budget"])
    chosen = list(dict.fromkeys([order[0], order[len(order) // 2]]))
    starts = [several[i] for i in chosen for several in (by_budget, matched) if several]
    return [
        stages.follow(space, start, base, study.snl_finetune, study.follow, start.config["variant"])
        for of_network in starts
        for start, base in zip(of_network, full, strict=True)
    ]


def check(study: Study, train_set: Dataset) -> list[int]:
    """Find settings that some stage would refuse, before the first one runs.

    Returns:
        The different budgets as counts.

    Raises:
        JaxfairError: there is nothing to run, or a network, a training or a number is impossible.
    """
    budgets = stages.check(train_set, study.model, study.budgets, reductions(study))
    if study.equal_budgets:
        budgets = list(dict.fromkeys([*budgets, *deepreduce_counts(study, train_set)]))
    if study.seeds < 1 or not (study.budgets or study.deepreduce):
        raise JaxfairError(
            f"The study has {study.seeds} seeds, {len(study.budgets)} SNL budgets and {len(study.deepreduce)} "
            "DeepReDuce configurations; give at least one seed, and one budget or configuration."
        )
    trainings = [study.train, *tunings(study.snl_finetune, study), *tunings(study.deepreduce_train, study)]
    stages.check_trainings(train_set, trainings, study.snl, study.seeds_at_once)
    check_methods(study, train_set, budgets)
    if study.follow < 0 or study.follow > 1_000_000:
        raise JaxfairError(f"Fine-tuning is to be followed for {study.follow} epochs; give 0 or more.")
    if "random-matched" in study.controls and "matched" not in study.controls:
        raise JaxfairError("The control random-matched is compared with matched; give both as --controls.")
    if study.patience < 0 or (study.patience and not study.data.validation_fraction):
        raise JaxfairError(
            f"The patience is {study.patience} epochs and the share of validation images "
            f"{study.data.validation_fraction}; give both, or neither."
        )
    if study.data_controls and "matched" not in study.controls:
        raise JaxfairError("Losses on other data are counted from the control matched; give it as --controls too.")
    measure.check_config(study.analysis)
    return budgets


def check_methods(study: Study, train_set: Dataset, budgets: Sequence[int]) -> None:
    """Find settings of the further methods that would be refused.

    Raises:
        JaxfairError: a number is impossible, there is no budget, or no network to start from.
    """
    if not study.methods:
        return
    if not budgets:
        raise JaxfairError(f"The methods {', '.join(study.methods)} have no budget; give --budgets or --equal-budgets.")
    if any(method.startswith("senet") for method in study.methods):
        senet.check_config(study.senet, len(train_set))
        if not 0 <= study.senet_attention < float("inf"):
            raise JaxfairError(f"SENet's attention weight is {study.senet_attention}; give a finite one, as 1000.")
    if any(method.startswith("bcd") for method in study.methods):
        bcd.check_config(study.bcd, len(train_set), len(train_set.group_names))
        if study.snl.rule != "exact":
            raise JaxfairError("BCD starts from SNL's networks of a known number of ReLUs; leave --snl.rule at exact.")


def deepreduce_counts(study: Study, train_set: Dataset) -> list[int]:
    """Return how many ReLUs each of the study's DeepReDuce configurations keeps."""
    module, found = stages.full_module(train_set, study.model), []
    for config in reductions(study):
        student = shapes(deepreduce.student_module(module, config), train_set.image_shape)
        found.append(masks.relu_count(deepreduce.choose(student.masks, config)))
    return found


def reductions(study: Study) -> list[DeepReduceConfig]:
    """Return the study's different DeepReDuce configurations.

    Raises:
        JaxfairError: a name is no configuration.
    """
    parsed = (DeepReduceConfig.parse(name, study.deepreduce_start) for name in study.deepreduce)
    return list(dict.fromkeys(parsed))


def tunings(plain: TrainConfig, study: Study) -> list[TrainConfig]:
    """Return how a method's networks are fine-tuned: plainly, and with each mitigation of the study."""
    found = []
    for method in dict.fromkeys(("none", *study.mitigations)):
        several = dict.fromkeys(study.mitigation_rates) if method == "lagrangian" else ()
        for rate in several or (plain.mitigation.rate,):
            mitigation = dataclasses.replace(plain.mitigation, method=method, rate=rate)
            found.append(dataclasses.replace(plain, mitigation=mitigation))
    return found


QUICKSTART = Study(
    out=Path("results/quickstart"),
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

BUDGETS = (0.5, 0.2, 0.05, 0.01, 0.001, 0)
"""To where it hurts, and beyond any choice."""

CPU_LONG = Study(
    out=Path("results/cpu-long"),
    seeds=5,
    budgets=BUDGETS,
    deepreduce=("C12", "C123"),
    mitigations=("lagrangian", "lagrangian-published"),
    controls=("matched", "random-matched"),
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
"""

CPU = dataclasses.replace(
    CPU_LONG,
    out=Path("results/cpu"),
    budgets=(0.2, 0.01, 0),
    deepreduce=("C123",),
    mitigations=(),
    follow=0,
    patience=0,
    data=DataConfig("utkface-race", size=16, keep=(0.3,)),
    model=ModelConfig(stage_sizes=(1, 1, 1), width=8),
    train=TrainConfig(epochs=15, batch_size=128, learning_rate=0.05, schedule="cosine"),
    snl_finetune=dataclasses.replace(SNL_FINETUNE, epochs=6, batch_size=128, learning_rate=1e-2),
)
"""The same at 16 x 16 pixels, on 30 % of the training images, by a small ResNet: not timed yet, see ``--dry-run``."""

GPU = dataclasses.replace(
    CPU_LONG,
    out=Path("results/gpu"),
    seeds=3,
    data=DataConfig("utkface-race", validation_fraction=0.1),
    model=ModelConfig(),
    train=TrainConfig(epochs=40, schedule="cosine", augment="cifar"),
    snl=SnlConfig(kappa=1e-4, augment="cifar"),
    snl_finetune=dataclasses.replace(SNL_FINETUNE, epochs=10, augment="cifar"),
    deepreduce_train=dataclasses.replace(DEEPREDUCE_TRAIN, epochs=20, learning_rate=1e-2, augment="cifar"),
)
"""The same by a ResNet-18 of full width, three seeds: made for one GPU, not yet timed on any."""

PAPER = Study(
    out=Path("results/paper"),
    deepreduce=tuple(DeepReduceConfig(stages).name for stages in CULLED_SETS),
    mitigations=("lagrangian", "lagrangian-detached", "lagrangian-published"),
    mitigation_rates=(1e-4, 1e-3, 1e-2),
    controls=("matched", "random-matched", "finetuned", "random"),
    data=DataConfig("utkface-race"),
)
"""Das et al. 2024 in full: ten seeds, ResNet-18, all eleven culled sets; days on one GPU, see ``--dry-run``."""

PRESETS = {"quickstart": QUICKSTART, "cpu": CPU, "cpu-long": CPU_LONG, "gpu": GPU, "paper": PAPER}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    return cli.main("python -m experiments.linearization", __doc__, {"": cli.Command(PRESETS, run)}, arguments)
