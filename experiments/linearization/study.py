"""The runs of a linearization study: what is trained, linearized, fine-tuned and measured, and in which order."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from experiments.analyses import study as studies
from experiments.linearization import report
from experiments.linearization.settings import Study
from experiments.running import measure, methods, stages
from experiments.running.records import Workspace
from experiments.running.settings import Further
from jaxfair.data.dataset import Dataset
from jaxfair.errors import JaxfairError
from jaxfair.linearize import bcd, deepreduce, senet
from jaxfair.linearize.config import DeepReduceConfig
from jaxfair.networks import masks
from jaxfair.networks.network import shapes
from jaxfair.runs import Run
from jaxfair.training.config import TrainConfig


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
    linearized = [methods.linearize_snl(space, base, study.snl, by_count) for base in full]
    every = [list(starts) for starts in zip(*linearized, strict=True)]
    every_control = match(space, study, full, linearized)
    by_budget, matched = every[: len(budgets)], every_control[: len(budgets)]  # and where descents of BCD start
    groups = [(starts, config) for starts in by_budget for config in tunings(study.snl_finetune, study)]
    groups += [(starts, study.snl_finetune) for starts in matched]
    tightest = by_budget[budgets.index(min(budgets))] if budgets else []
    # By norms and eigenvalues, of which each network's sampling is a part; over two budgets nothing is seen to rise.
    compared = [group for group in groups if len(budgets) > 2 or group[0] is tightest]
    if "finetuned" in study.controls:
        groups.append((full, study.snl_finetune))
    groups += randomized(space, study, full, budgets, matched)
    groups += students(space, study, full, configurations)
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
        some = [networks for group, networks in zip(groups, tuned, strict=True) if group in compared]
        analysed += [stages.sample(space, network, study.analysis) for network in itertools.chain(full, *some)]
        analysed += [stages.compare_gradients(space, base, study.analysis) for base in full]
    if not rebalanced and len(space.test.class_names) == 2:
        analysed += [stages.bound_hessian(space, base, study.analysis) for base in full]
    return analysed + follow(space, study, full, by_budget, matched)


def randomized(
    space: Workspace, study: Study, full: Sequence[Run], budgets: Sequence[int], matched: Sequence[Sequence[Run]]
) -> list[tuple[list[Run], TrainConfig]]:
    """Declare networks of random masks, made of the full one and of the matched ones, and how they are fine-tuned."""
    found = []
    for count in budgets if "random" in study.controls else []:
        found.append(([methods.linearize_random(space, base, count) for base in full], study.snl_finetune))
    for count, starts in zip(budgets, matched, strict=True) if "random-matched" in study.controls else []:
        thinned = [methods.linearize_random(space, base, count, of) for base, of in zip(full, starts, strict=True)]
        found.append((thinned, study.snl_finetune))
    return found


def students(
    space: Workspace, study: Study, full: Sequence[Run], configurations: Sequence[DeepReduceConfig]
) -> list[tuple[list[Run], TrainConfig]]:
    """Declare DeepReDuce's students and their controls, and how they are trained."""
    found = []
    for config in configurations:
        starts = [methods.linearize_deepreduce(space, base, config) for base in full]
        found += [(starts, one) for one in tunings(study.deepreduce_train, study)]
        if "matched" in study.controls:
            found.append(([methods.match_deepreduce(space, base, config) for base in full], study.deepreduce_train))
    return found


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
            made = [methods.linearize_snl(space, base, study.snl, budgets, balanced=True) for base in full]
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
    found = [methods.match_snl(space, base, runs) for base, runs in zip(full, linearized, strict=True)]
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
    if study.mitigation_rates and "lagrangian" not in study.mitigations:
        rates = " ".join(f"{rate:g}" for rate in study.mitigation_rates)
        raise JaxfairError(f"The mitigation rates {rates} are lagrangian's; give it as --mitigations, or no rates.")
    stages.check_plain(snl_finetune=study.snl_finetune, deepreduce_train=study.deepreduce_train)
    trainings = [study.train, *tunings(study.snl_finetune, study), *tunings(study.deepreduce_train, study)]
    stages.check_trainings(train_set, trainings, study.snl, study.seeds_at_once)
    check_methods(study, train_set, budgets)
    if study.follow < 0 or study.follow > 1_000_000:
        raise JaxfairError(f"Fine-tuning is to be followed for {study.follow} epochs; give 0 or more.")
    if not budgets and (study.follow or "random" in study.controls):
        what, instead = ("be followed", "--follow 0") if study.follow else ("have random masks", "no control random")
        raise JaxfairError(
            f"Networks of SNL's budgets are to {what}, and there is no budget; give one by --budgets, or {instead}."
        )
    if "random-matched" in study.controls and "matched" not in study.controls:
        raise JaxfairError("The control random-matched is compared with matched; give both as --controls.")
    if study.patience < 0 or (study.patience and not study.data.validation_fraction):
        raise JaxfairError(
            f"The patience is {study.patience} epochs and the share of validation images "
            f"{study.data.validation_fraction}; give both, or neither."
        )
    if study.data_controls and "matched" not in study.controls:
        raise JaxfairError(
            "Losses on other data are counted from the control matched; give it as --controls too, or nothing after "
            "--data-controls."
        )
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
