"""The hardware study (Nelaturu et al. 2024): does the machine change who the model fails, beyond noise?

    python -m experiments.hardware --preset quickstart
    python -m experiments.hardware pack STUDY FILE
    python -m experiments.hardware merge STUDY STUDY ... --out FOLDER

Trains the same networks from the same initial parameters on every hardware profile, each in a process of its own, and
on the first one, the reference, also with controls: the same again, one weight changed by one unit in the last place,
another order of the data. Finished runs are kept: the same command goes on where it was interrupted. ``merge`` compares
studies that were made on several machines.
"""

import dataclasses
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments import cli
from experiments.hardware import bundles, report, runs
from experiments.hardware.runs import Declared, Linearized, Task
from experiments.reporting import groups
from experiments.running import datasets, executors, measure, plan, records, stages
from experiments.running.datasets import DataConfig
from experiments.running.executors import Execution
from experiments.running.measure import AnalysisConfig
from experiments.running.progress import Progress, say
from experiments.running.records import Workspace
from experiments.running.stages import ModelConfig
from jaxfair import hardware, processes
from jaxfair.data.dataset import Dataset
from jaxfair.errors import JaxfairError
from jaxfair.hardware import Profile
from jaxfair.linearize.snl import SnlConfig
from jaxfair.training.fit import SNL_FINETUNE, TrainConfig
from jaxfair.training.mitigate import MitigationConfig


@dataclasses.dataclass(frozen=True)
class Study:
    """A whole study.

    Attributes:
        out: folder of the runs and the report; an earlier report of other runs is kept there as report-DIGEST.
        seeds: number of training seeds, 0 to seeds - 1.
        profiles: hardware to train on; the first is the reference.
        ulps: controls on the reference with one weight of every array changed by one unit in the last place.
        controls: more of them: the same training again, and another order of the data.
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
    ulps: int = 2
    controls: tuple[Literal["repeat", "order"], ...] = ("repeat", "order")
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
"""UTKFace by race, 30 % of the training images, a narrow ResNet-18: about half an hour on two CPU cores."""

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


def run(study: Study, command: Sequence[str]) -> None:
    """Make every run that is not finished yet, each profile in a process of its own, then the report.

    Args:
        study: what to make.
        command: by which the reader of the report makes it again; the profiles' processes get the same options.

    Raises:
        JaxfairError: a profile failed; the report, if the reference did not, is of the others.
    """
    check(study)
    profiles = _named(study)
    if study.dry_run:
        list_runs(study)
        return
    failed = _make_all(study, profiles, command[1:])
    made = [profile.name for profile in profiles if profile.name not in failed]
    text = "; ".join(f"'{name}' {how}" for name, how in failed.items())
    advice = "finished runs are kept: mend it, or leave the profile out by --profiles, and run the same command again"
    if study.profiles[0] in failed:
        raise JaxfairError(f"There is no report without the reference: profile {text} (see above); {advice}.")
    bundles.listed(study.out, made)
    missing = [f"Profile {name} is missing, since its runs failed." for name in failed]
    about = {"title": study.title, "reference": study.reference, "data": study.data, "missing": missing}
    report.write([study.out], study.out / "report", command, **about)
    if failed:
        raise JaxfairError(f"The report is not of all profiles: {text} (see above); {advice}.")


def _make_all(study: Study, profiles: Sequence[Profile], options: Sequence[str]) -> dict[str, str]:
    """Make the runs of all profiles, each in a process of its own; return how those ended that failed."""
    on_cluster, kills = study.execution.executor == "slurm", processes.memory_kills()
    varied = any(profile.varies_cpu for profile in profiles) and not on_cluster  # whose nodes find it out themselves
    executors.begin(dataclasses.replace(study.execution, executor="here"))
    plain = hardware.plain_digests(os.environ) if varied else None
    children = []
    for profile in profiles:
        child = [sys.executable, "-m", "experiments.hardware.child", profile.name, *options]
        children.append((child, hardware.environment_of(profile, os.environ, plain)))
    if on_cluster:
        ended = processes.children(children)
    else:
        ended = []
        for profile, child in zip(profiles, children, strict=True):
            say(f"Profile {profile.name}: {profile.label}")
            ended += processes.children([child])
    return {
        profile.name: processes.ending(status, kills) for profile, status in zip(profiles, ended, strict=True) if status
    }


def check(study: Study) -> None:
    """Find settings that are refused whatever the data are, before a process is started.

    Raises:
        JaxfairError: there is nothing to compare, or a number is impossible.
    """
    _named(study)
    if study.seeds < 1 or study.ulps < 0 or len(set(study.profiles)) != len(study.profiles) or not study.profiles:
        raise JaxfairError(
            f"The study has {study.seeds} seeds, {study.ulps} one-ulp controls and the profiles "
            f"{', '.join(study.profiles)}; give at least one seed, and different profiles."
        )
    if list(study.steps) != sorted(set(study.steps)) or min(study.steps, default=1) < 1:
        raise JaxfairError(
            f"The steps to look at are {list(study.steps)}; give different ones from 1 on, in ascending order."
        )
    if study.execution.devices > 1:
        raise JaxfairError(
            "The hardware study compares bits, which sums over several devices change; leave devices at 1."
        )
    measure.check_config(study.analysis)


def _named(study: Study) -> list[Profile]:
    return [hardware.named(name) for name in study.profiles]


def check_on(study: Study, train_set: Dataset) -> list[int]:
    """Find settings that some stage would refuse on these data, before the first one runs.

    Returns:
        The different budgets as counts.

    Raises:
        JaxfairError: a network or a training is impossible.
    """
    budgets = stages.check(train_set, study.model, study.budgets, [])
    trainings = [task.train for task in tasks(study, budgets, reference=True)]
    stages.check_trainings(train_set, [*trainings, study.snl_finetune], study.snl, study.seeds_at_once)
    return budgets


def make(study: Study, profile: Profile, command: Sequence[str]) -> None:
    """Make the runs of one profile, in the process that was started for it, or of workers that it starts.

    Every process that makes runs proves first that it has the profile.

    Args:
        study: of which the profile is.
        profile: whose runs are made.
        command: of this process, its program first.

    Raises:
        JaxfairError: the process does not have the profile, or runs failed.
    """
    execution = dataclasses.replace(study.execution, threads=None)  # which the profile or the study has decided
    if profile.backend == "cpu":
        execution = dataclasses.replace(execution, gres=None)
    executors.begin(execution)
    makes = execution.executor == "here" or bool(execution.only)
    proof = hardware.verify(profile) if makes else None  # before anything else is computed
    about = {**hardware.describe(profile), "probe": proof} if makes else {}
    train_set, test_set, record, source, _ = datasets.prepare(study.data)
    budgets = check_on(study, train_set)
    groups.check_name(study.reference, train_set.group_names)
    with Progress() as progress:
        root, at_once = study.out / "runs", study.seeds_at_once
        space = Workspace(root, train_set, test_set, record, progress, at_once, source, about)
        declared = declare(space, study, profile, budgets)
        speed = functools.partial(plan.speed, space, study.model, study.train)
        executors.carry_out(space, execution, command, speed, profile.name)
    if execution.only:
        return
    if failed := records.failures(space, study.out):
        raise JaxfairError(failed)
    bundles.note(study.out, profile, declared, reference=profile.name == study.profiles[0])


def declare(space: Workspace, study: Study, profile: Profile, budgets: Sequence[int]) -> list[Declared]:
    """Declare the runs of one profile."""
    last = study.train.epochs * (len(space.train) // study.train.batch_size)
    reference = profile.name == study.profiles[0]
    return runs.declare(
        space,
        profile=profile,
        tasks=tasks(study, budgets, reference=reference),
        seeds=range(study.seeds),
        model=study.model,
        linearized=Linearized(study.snl, study.snl_finetune),
        analysis=study.analysis,
        steps=[step for step in study.steps if step <= last],
        reference=reference,
    )


def list_runs(study: Study) -> None:
    """Print the runs of all profiles and make none."""
    ((train_set, test_set, record, *_),), absent = datasets.prepare_or_blank(study.data)
    budgets = check_on(study, train_set)
    if not absent:
        groups.check_name(study.reference, train_set.group_names)
    space = Workspace(study.out / "runs", train_set, test_set, record, Progress())
    for profile in _named(study):
        declare(space, study, profile, budgets)
    plan.show(space, study.model, study.train, absent)


def tasks(study: Study, budgets: Sequence[int], *, reference: bool) -> list[Task]:
    """Return what is trained on a profile: everything once, and on the reference with controls."""
    plain = dataclasses.replace(study.train, mitigation=MitigationConfig())
    aligned = dataclasses.replace(
        study.train, mitigation=dataclasses.replace(study.train.mitigation, method="alignment")
    )
    controls = ["none"]
    if reference:
        controls += [f"ulp{number}" for number in range(1, study.ulps + 1)] + list(study.controls)
    found = [Task(control, plain) for control in controls]
    if study.mitigation:
        found += [Task(control, aligned) for control in controls if control not in study.controls]
    return found + [Task(c, plain, n) for n in budgets for c in controls if c not in study.controls]


@dataclasses.dataclass(frozen=True)
class Pack:
    """Write a study's finished runs into one file.

    Attributes:
        study: its folder.
        file: NAME.tar or NAME.tar.gz.
    """

    study: tyro.conf.Positional[Path]
    file: tyro.conf.Positional[Path]


@dataclasses.dataclass(frozen=True)
class Merge:
    """Compare studies of several machines; the first one has the reference and its controls.

    Attributes:
        studies: folders of studies, or packed files.
        out: folder of the report, and of what is unpacked.
        allow_versions: compare runs of different package versions.
    """

    studies: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="STUDY ...")]
    out: Path
    allow_versions: bool = False


def merge(given: Merge, command: Sequence[str]) -> None:
    """Unpack the studies that are files and write the report of all."""
    if not given.studies:
        raise JaxfairError("No study is given; name the folders or packed files of finished studies.")
    unpacked = given.out / "unpacked"
    with processes.locked(unpacked, say):  # until they are read
        folders = [
            # By position too: files of two machines may have one name.
            study if study.is_dir() else bundles.unpack(study, unpacked / str(position) / study.name.split(".")[0])
            for position, study in enumerate(given.studies, 1)
        ]
        report.write(folders, given.out / "report", command, allow_versions=given.allow_versions)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    commands = {
        "": cli.Command(PRESETS, run),
        "pack": cli.Command(Pack, lambda given, _: bundles.pack(given.study, given.file)),
        "merge": cli.Command(Merge, merge),
    }
    return cli.main("python -m experiments.hardware", __doc__, commands, arguments)
