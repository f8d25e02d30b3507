"""A study of changed networks, from its settings to its report: what its runs are is the study's own."""

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from experiments.analyses.results import Results, declared_control
from experiments.reporting import groups, reports
from experiments.running import datasets, executors, plan, records, stages
from experiments.running.datasets import Prepared
from experiments.running.progress import Progress
from experiments.running.records import Workspace, rebalanced
from experiments.running.settings import DataConfig, Execution, ModelConfig, Rebalance, check_place
from jaxfair import kernels
from jaxfair.data.dataset import Dataset
from jaxfair.errors import JaxfairError
from jaxfair.runs import Run
from jaxfair.training.config import TrainConfig

Declare = Callable[[Workspace, Sequence[int]], list[Run]]
"""Declares the runs of some seeds, which share a split; returns those that a report is made of, seeds last."""


ABOUT = {
    "analyse": "",
    "sampling": "The sampling noise of ",
    "expand": "The expansion of the loss of ",
    "follow": "The long fine-tuning of ",
}
"""What a report's runs of each stage are, before the name of the network."""


class Settings(Protocol):
    """What every such study is told; see the classes ``Study``."""

    @property
    def out(self) -> Path: ...
    @property
    def seeds(self) -> int: ...
    @property
    def splits(self) -> Literal["per-seed", "one"]: ...
    @property
    def reference(self) -> str | None: ...
    @property
    def title(self) -> str | None: ...
    @property
    def dry_run(self) -> bool: ...
    @property
    def seeds_at_once(self) -> int | None: ...
    @property
    def data(self) -> DataConfig: ...
    @property
    def model(self) -> ModelConfig: ...
    @property
    def train(self) -> TrainConfig: ...
    @property
    def execution(self) -> Execution: ...


class Report(Protocol):
    """A study's module that writes its report."""

    def title(self, analysed: Sequence[Run], data: str) -> str: ...
    def write(
        self,
        analysed: Sequence[Run],
        folder: Path,
        *,
        title: str,
        command: Sequence[str],
        reference: str | None = None,
        missing: Sequence[str] = (),
    ) -> Results: ...
    def print_summary(self, results: Results, title: str) -> None: ...


def run(
    study: Settings,
    check: Callable[[Dataset], Declare],
    report: Report,
    command: Sequence[str],
    data_controls: Sequence[Rebalance] = (),
) -> None:
    """Make every run that is not finished yet, then the report; print the table and where the report lies.

    Args:
        study: what to make.
        check: finds settings that some stage would refuse for a training set; returns how the runs are declared.
        report: how the report is written.
        command: what the reader of the report types to make it again.
        data_controls: other imbalances of the data on which runs are made too; ``Workspace.record`` says on which.

    Raises:
        JaxfairError: something cannot be used or written, or runs failed; the report then shows the others.
    """
    check_place(study.out, study.seeds)
    if not (study.dry_run or study.execution.only):
        reports.check_new(study.out / "report")
    _check_data(study.data)
    executors.begin(study.execution)
    executors.check_used(study.execution)
    prepare = datasets.prepare_each_or_blank if study.dry_run else lambda *of: (datasets.prepare_each(*of), "")
    changed = [dataclasses.replace(study.data, rebalance=kind) for kind in dict.fromkeys(data_controls)]
    every, absent = prepare([study.data, *changed], max(study.seeds, 1) if study.splits == "per-seed" else 1)
    prepared = every[0]
    declared = [check(on_data[0].train) for on_data in every]
    if not absent:
        groups.check_name(study.reference, prepared[0].train.group_names)
    if said := kernels.remark(os.environ):
        print(said, file=sys.stderr)
    with Progress() as progress:
        space = Workspace(study.out / "runs", *prepared[0][:3], progress, study.seeds_at_once, prepared[0].source)
        if (devices := study.execution.devices) > 1:
            space = dataclasses.replace(space, devices=devices, about={"training_devices": devices})
        analysed = []
        for on_data, declare in zip(every, declared, strict=True):
            analysed += on_splits(space, on_data, study.seeds, declare)
        if not study.dry_run:
            speed = functools.partial(plan.speed, space, study.model, study.train)
            executors.carry_out(space, study.execution, command, speed)
    if study.dry_run:
        plan.show(space, study.model, study.train, absent)
    elif not study.execution.only:
        if progress.kept:
            print(f"{progress.kept} runs were finished before and are kept.", file=sys.stderr)
        _tell(study, space, analysed, report, command)


def _check_data(data: DataConfig) -> None:
    """Refuse data that are rebalanced themselves: their record would be that of a data control, which is made less of.

    Raises:
        JaxfairError: they are.
    """
    if data.rebalance is not None:
        raise JaxfairError(
            f"--data.rebalance is {data.rebalance}, and other imbalances are only made beside the data as they are; "
            f"give --data-controls {data.rebalance} instead."
        )


def _tell(study: Settings, space: Workspace, analysed: Sequence[Run], report: Report, command: Sequence[str]) -> None:
    """Write the report of the runs that are finished; print the table and where the report lies.

    Raises:
        JaxfairError: the report cannot be written, or runs failed.
    """
    shown, missing = whole(analysed)
    failed = records.failures(space, study.out)
    if not shown:
        raise JaxfairError(f"There is nothing to report: {failed or 'no network was analysed'}")
    folder = study.out / "report"
    title = study.title or report.title(shown, space.source["title"])
    about = {"title": title, "command": command, "reference": study.reference}
    results = report.write(shown, folder, **about, missing=missing)
    report.print_summary(results, title)
    print(f"\nReport: {folder / 'report.html'}")
    if failed:
        raise JaxfairError(f"The report is not of all runs: {failed}")


def whole(analysed: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Return of a report's runs those that can be shown where some have failed, and sentences on what is missing.

    Seeds whose full network is not there are left out of all networks, and networks that then lack a seed altogether:
    seeds that were picked by whether one of the networks could be trained would be no fair sample of the others. So are
    networks whose control lacks one, which would be compared with another network than the rest, and all networks on
    rebalanced data if their full network does.
    """
    by_label: dict[tuple[str, str, str], list[Run]] = {}
    for run in analysed:
        by_label.setdefault((rebalanced(run), run.config["variant"]["label"], run.config["stage"]), []).append(run)
    full = by_label.get(("", stages.FULL["label"], "analyse"), [])
    seeds = {run.config["seed"] for run in full if run.done}
    lost = [str(run.config["seed"]) for run in full if not run.done]
    missing = [f"Seed {', '.join(lost)} is missing in all networks, since the full one failed."] * bool(lost)
    lacking = {
        of: [str(run.config["seed"]) for run in several if run.config["seed"] in seeds and not run.done]
        for of, several in by_label.items()
    }
    failed = {(kind, label) for (kind, label, stage), without in lacking.items() if without and stage == "analyse"}
    shown = list[Run]()
    for of, several in by_label.items():
        said = _missing(of, several[0].config["variant"], lacking, failed)
        if said is None:
            shown += [run for run in several if run.config["seed"] in seeds]
        else:
            missing += [said] * bool(said)
    return shown, missing


def _missing(
    of: tuple[str, str, str],
    variant: Mapping[str, Any],
    lacking: Mapping[tuple[str, str, str], Sequence[str]],
    failed: Collection[tuple[str, str]],
) -> str | None:
    """Say why the runs of one stage on one network are not shown; nothing where that is said of the network already.

    Args:
        of: the imbalance of the data, the label of the network, and the stage.
        variant: what the record says of the network.
        lacking: by what ``of`` is, the seeds that failed.
        failed: imbalances and labels of which some analysis failed.

    Returns:
        None where they are shown.
    """
    kind, label, stage = of
    on_data, control = f" on {kind} data" * bool(kind), declared_control(variant)
    if kind and (kind, stages.FULL["label"]) in failed:
        seeds = ", ".join(lacking[kind, stages.FULL["label"], "analyse"])
        own = (label, stage) == (stages.FULL["label"], "analyse")
        return f"All{on_data} is missing, since seed {seeds} failed." * own
    if (without := ", ".join(lacking[of])) and (stage == "analyse" or (kind, label) not in failed):
        return f"{ABOUT.get(stage, stage)}{label}{on_data} is missing, since seed {without} failed."
    if (kind, label) in failed:
        return ""
    if (kind, control) in failed:
        seeds, own = ", ".join(lacking[kind, control, "analyse"]), stage == "analyse"
        return f"{label}{on_data} is missing, since seed {seeds} of {control} failed, with which it is compared." * own
    return None


def on_splits(space: Workspace, prepared: Sequence[Prepared], seeds: int, declare: Declare) -> list[Run]:
    """Declare the runs of a study, all seeds on one split or each on its own; return what its report is made of."""
    spaces = [
        dataclasses.replace(space, train=p.train, test=p.test, record=p.record, validation=p.validation)
        for p in prepared
    ]
    if len(spaces) == 1:
        return declare(spaces[0], range(seeds))
    by_seed = [declare(one, [seed]) for seed, one in enumerate(spaces)]
    return [run for of_network in zip(*by_seed, strict=True) for run in of_network]
