"""A hardware study: the runs of every profile, each in a process of its own, and studies of several machines merged."""

import dataclasses
import functools
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from experiments.hardware import bundles, nodes, report, runs
from experiments.hardware.nodes import Place
from experiments.hardware.runs import Declared, Linearized, Task
from experiments.hardware.settings import Merge, Study
from experiments.reporting import groups, reports
from experiments.running import datasets, executors, measure, plan, records, stages
from experiments.running.progress import Progress, say
from experiments.running.records import Workspace
from experiments.running.settings import check_once, check_place
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
    check_place(study.out, study.seeds)
    if not study.dry_run:
        reports.check_new(study.out / "report")
    check(study)
    study = possible(study, command)
    made_at = nodes.places(study)
    if study.dry_run:
        for place in {place.folder: place for place in made_at}.values():
            if study.nodes:
                say(f"{place.name}: {place.profile.label}")
            list_runs(place.study)
        return
    # What lists a profile's runs is written by its process and read by this one: no other study may come between.
    with processes.locked([place.folder / bundles.PROFILES for place in made_at], say):
        failed = _make_all(study, made_at, command[1:])
        _report(study, made_at, failed, command)


def _report(study: Study, made_at: Sequence[Place], failed: Mapping[str, str], command: Sequence[str]) -> None:
    """Write the report of the profiles whose processes have not failed; ``failed`` says how the others ended.

    Raises:
        JaxfairError: a profile failed; the report, if the reference did not, is of the others.
    """
    noun = "node" if study.nodes else "profile"
    text = "; ".join(f"'{name}' {how}" for name, how in failed.items())
    advice = f"finished runs are kept: mend it, or leave the {noun} out by --{noun}s, and run the same command again"
    if made_at[0].name in failed:
        raise JaxfairError(f"There is no report without the reference: {noun} {text} (see above); {advice}.")
    folders = dict.fromkeys(place.folder for place in made_at if place.name not in failed)
    for folder in folders:
        there = [place.profile.name for place in made_at if place.folder == folder and place.name not in failed]
        bundles.listed(folder, there)
    missing = [f"{noun.capitalize()} {name} is missing, since its runs failed." for name in failed]
    about = {"title": study.title, "reference": study.reference, "data": study.data, "missing": missing}
    report.write(list(folders), study.out / "report", command, **about)
    if failed:
        raise JaxfairError(f"The report is not of all {noun}s: {text} (see above); {advice}.")


def possible(study: Study, command: Sequence[str]) -> Study:
    """Leave out the profile of one thread, which is no other hardware where one is all; one that is named is refused.

    Args:
        study: what to make.
        command: by which it was asked for; where that names no profiles, a preset did.
    """
    if executors.threads(study.execution) > 1 or any(word.partition("=")[0] == "--profiles" for word in command):
        return study
    single = [name for name in study.profiles if hardware.named(name).proof.get("threads") == 1]
    if not single or study.nodes:
        return study
    say(f"Profile {single[0]} is left out: this study computes with one thread anyway.")
    return dataclasses.replace(study, profiles=tuple(name for name in study.profiles if name not in single))


def _make_all(study: Study, made_at: Sequence[Place], options: Sequence[str]) -> dict[str, str]:
    """Make the runs of all profiles, each in a process of its own; return how those ended that failed."""
    on_cluster, kills = study.execution.executor == "slurm", processes.memory_kills()
    varied = any(place.profile.varies_cpu for place in made_at) and not on_cluster  # whose nodes find it out themselves
    executors.begin(dataclasses.replace(study.execution, executor="here"))
    plain = hardware.plain_digests(os.environ) if varied else None
    children = []
    for place in made_at:
        child = [sys.executable, "-m", "experiments.hardware.child", place.profile.name, *options, *place.options]
        children.append((child, hardware.environment_of(place.profile, os.environ, plain)))
    if on_cluster:
        ended = processes.children(children)
    else:
        ended = []
        for place, child in zip(made_at, children, strict=True):
            where = f"Node {place.name}, profile" if study.nodes else "Profile"
            say(f"{where} {place.profile.name}: {place.profile.label}")
            ended += processes.children([child])
    return {place.name: processes.ending(status, kills) for place, status in zip(made_at, ended, strict=True) if status}


def check(study: Study) -> None:
    """Find settings that are refused whatever the data are, before a process is started.

    Raises:
        JaxfairError: there is nothing to compare, or a number is impossible.
    """
    nodes.places(study)
    executors.check_used(study.execution)
    if study.seeds < 1 or study.ulps < 0 or len(set(study.profiles)) != len(study.profiles) or not study.profiles:
        raise JaxfairError(
            f"The study has {study.seeds} seeds, {study.ulps} one-ulp controls and the profiles "
            f"{', '.join(study.profiles)}; give at least one seed, and different profiles."
        )
    if len(set(study.controls)) != len(study.controls):
        raise JaxfairError(f"--controls names {' '.join(study.controls)}; give each control once.")
    if list(study.steps) != sorted(set(study.steps)) or min(study.steps, default=1) < 1:
        raise JaxfairError(
            f"The steps to look at are {list(study.steps)}; give different ones from 1 on, in ascending order."
        )
    if study.execution.gpu_kernels != "tuned":
        raise JaxfairError(
            "The hardware study's profiles say with which kernels a GPU computes; leave --gpu-kernels out, and name "
            "gpu-deterministic among --profiles."
        )
    if study.execution.devices > 1:
        raise JaxfairError(
            "The hardware study compares bits, which sums over several devices change; leave devices at 1."
        )
    measure.check_config(study.analysis)


def check_on(study: Study, train_set: Dataset) -> list[int]:
    """Find settings that some stage would refuse on these data, before the first one runs.

    Returns:
        The different budgets as counts.

    Raises:
        JaxfairError: a network or a training is impossible.
    """
    budgets = stages.check(train_set, study.model, study.budgets, [])
    larger = runs.larger_batches(study.train).batch_size
    if "batch" in study.controls and study.train.batch_size <= len(train_set) < larger:
        others = " ".join(control for control in study.controls if control != "batch")
        raise JaxfairError(
            f"The control batch trains in batches of {larger}, and there are {len(train_set)} "
            f"training images; give a smaller --train.batch-size, or leave it out by --controls {others}".rstrip()
            + "."
        )
    stages.check_plain(train=study.train, snl_finetune=study.snl_finetune)
    if study.data.validation_fraction:
        raise JaxfairError(
            "The hardware study has no use for validation images; leave --data.validation-fraction at 0."
        )
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
    for name in study.profiles:
        declare(space, study, hardware.named(name), budgets)
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
    found = [Task(control, runs.larger_batches(plain) if control == "batch" else plain) for control in controls]
    if study.mitigation:
        found += [Task(control, aligned) for control in controls if control not in study.controls]
    return found + [Task(c, plain, n) for n in budgets for c in controls if c not in study.controls]


def merge(given: Merge, command: Sequence[str]) -> None:
    """Unpack the studies that are files and write the report of all."""
    if not given.studies:
        raise JaxfairError("No study is given; name the folders or packed files of finished studies.")
    check_once(given.studies)
    reports.check_new(given.out / "report")
    unpacked = given.out / ".unpacked"
    with processes.locked(unpacked, say), ExitStack() as after:  # until they are read
        shutil.rmtree(unpacked, ignore_errors=True)  # of a process that was killed
        after.callback(shutil.rmtree, unpacked, ignore_errors=True)
        folders = [
            # By position too: files of two machines may have one name.
            study if study.is_dir() else bundles.unpack(study, unpacked / str(position) / study.name.split(".")[0])
            for position, study in enumerate(given.studies, 1)
        ]
        about = {"allow_versions": given.allow_versions, "title": given.title, "reference": given.reference}
        try:
            report.write(folders, given.out / "report", command, **about)
        except JaxfairError as error:
            said = str(error)
            for folder, study in zip(folders, given.studies, strict=True):
                said = said.replace(f"{folder}", f"{study}")  # which its reader knows
            raise JaxfairError(said) from error
