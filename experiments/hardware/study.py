"""A hardware study: the runs of every profile, each in a process of its own, and studies of several machines merged."""

import dataclasses
import functools
import os
import sys
from collections.abc import Sequence

from experiments.hardware import bundles, report, runs
from experiments.hardware.runs import Declared, Linearized, Task
from experiments.hardware.settings import Merge, Study
from experiments.reporting import groups
from experiments.running import datasets, executors, measure, plan, records, stages
from experiments.running.progress import Progress, say
from experiments.running.records import Workspace
from jaxfair import hardware, processes
from jaxfair.data.dataset import Dataset
from jaxfair.errors import JaxfairError
from jaxfair.hardware import Profile
from jaxfair.training.config import MitigationConfig


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
