"""The hardware study (Nelaturu et al. 2024): does the machine change who the model fails, beyond noise?

    python -m experiments.hardware --preset quickstart
    python -m experiments.hardware pack STUDY FILE
    python -m experiments.hardware merge STUDY STUDY ... --out FOLDER

Trains the same networks from the same initial parameters on every hardware profile, each in a process of its own, and
on the first one, the reference, also with controls: the same again, one weight changed by one unit in the last place,
another order of the data. Finished runs are kept: the same command goes on where it was interrupted. ``merge`` compares
studies that were made on several machines.
"""

import argparse
import dataclasses
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from experiments import cli
from experiments.hardware import bundles, report, runs
from experiments.hardware.runs import Linearized, Task
from experiments.running import datasets, measure, stages
from experiments.running.datasets import DataConfig
from experiments.running.measure import AnalysisConfig
from experiments.running.progress import Progress
from experiments.running.records import Workspace, carry_out
from experiments.running.stages import ModelConfig
from jaxfair import hardware
from jaxfair.errors import JaxfairError
from jaxfair.hardware import Profile
from jaxfair.linearize import snl
from jaxfair.linearize.snl import SnlConfig
from jaxfair.training.fit import SNL_FINETUNE, TrainConfig, check_config
from jaxfair.training.mitigate import MitigationConfig


@dataclasses.dataclass(frozen=True)
class Study:
    """A whole study.

    Attributes:
        out: folder of the runs and the report.
        seeds: number of training seeds, 0 to seeds - 1.
        profiles: hardware to train on; the first is the reference.
        ulps: controls on the reference with one weight of every array changed by one unit in the last place.
        controls: more of them: the same training again, and another order of the data.
        mitigation: train with the alignment of the groups' distances to the decision boundary too.
        budgets: linearize by SNL on every profile too, keeping so many ReLUs (below 1: a fraction of them).
        steps: after which parameters are compared, to see how trainings part; those after the last step do not count.
        seeds_at_once: seeds trained in one program; by default 1 on CPU and all elsewhere.
        child: the study itself uses this, to make the runs of one profile in a process of its own.
        data: which data, and how it is split.
        model: the network.
        train: how it is trained; its mitigation holds the numbers of the alignment.
        snl: of the SNL descent.
        snl_finetune: of the networks that SNL linearized.
        analysis: what is measured on each group.
    """

    out: Path = Path("results/hardware")
    seeds: int = 10
    profiles: tuple[str, ...] = ("cpu",)
    ulps: int = 2
    controls: tuple[Literal["repeat", "order"], ...] = ("repeat", "order")
    mitigation: bool = False
    budgets: tuple[float, ...] = ()
    steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    seeds_at_once: int | None = None
    child: str | None = None
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    snl: SnlConfig = SnlConfig()
    snl_finetune: TrainConfig = SNL_FINETUNE
    analysis: AnalysisConfig = AnalysisConfig()


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
    data=DataConfig("utkface-race", keep=(0.3,) * 5),
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
COMMANDS = ("pack", "merge")


def run(study: Study, given: Sequence[str]) -> None:
    """Make every run that is not finished yet, each profile in a process of its own, then the report."""
    if study.child is not None:
        _make(study, _named(study)[study.profiles.index(study.child)])
        return
    check(study)
    bundles.listed(study.out, study.profiles)
    profiles = _named(study)
    plain = hardware.plain_digests(os.environ) if any(profile.varies_cpu for profile in profiles) else None
    for profile in profiles:
        command = [sys.executable, "-m", "experiments.hardware", *given, "--child", profile.name]
        environment = hardware.environment_of(profile, os.environ, plain)
        print(f"Profile {profile.name}: {profile.label}", file=sys.stderr, flush=True)
        if subprocess.run(command, env=environment, check=False).returncode:
            raise JaxfairError(
                f"The runs of profile '{profile.name}' failed (see above); finished runs are kept: mend it, or leave "
                "the profile out by --profiles, and run the same command again."
            )
    report.write([study.out], study.out / "report", ["python -m experiments.hardware", *given])


def check(study: Study) -> None:
    """Find settings that a profile's process would refuse, before the first one starts.

    Raises:
        JaxfairError: there is nothing to compare, or a number is impossible.
    """
    _named(study)
    if study.seeds < 1 or study.ulps < 0 or len(set(study.profiles)) != len(study.profiles) or not study.profiles:
        raise JaxfairError(
            f"The study has {study.seeds} seeds, {study.ulps} one-ulp controls and the profiles "
            f"{', '.join(study.profiles)}; give at least one seed, and different profiles."
        )
    measure.check_config(study.analysis)


def _named(study: Study) -> list[Profile]:
    return [hardware.named(name) for name in study.profiles]


def _make(study: Study, profile: Profile) -> None:
    """Make the runs of one profile, in the process that was started for it."""
    proof = hardware.verify(profile)
    train_set, test_set, record, source = datasets.prepare(study.data)
    budgets = stages.check(train_set, study.model, study.budgets, [])
    for config in (study.train, study.snl_finetune):
        check_config(config, len(train_set))
    snl.check_config(study.snl, len(train_set))
    reference = profile.name == study.profiles[0]
    about = {**hardware.describe(profile), "probe": proof}
    with Progress() as progress:
        root, at_once = study.out / "runs", study.seeds_at_once
        space = Workspace(root, train_set, test_set, record, progress, at_once, source, about)
        declared = runs.declare(
            space,
            profile=profile,
            tasks=tasks(study, budgets, reference=reference),
            seeds=range(study.seeds),
            model=study.model,
            linearized=Linearized(study.snl, study.snl_finetune),
            analysis=study.analysis,
            steps=[
                step for step in study.steps if step <= study.train.epochs * (len(train_set) // study.train.batch_size)
            ],
            reference=reference,
        )
        carry_out(space)
    bundles.note(study.out, profile, declared, reference=reference)


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


def _pack_or_merge(given: Sequence[str]) -> int:
    """Run the commands that need no study of their own."""
    parser = argparse.ArgumentParser(prog="python -m experiments.hardware")
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="write a study's finished runs into one file")
    packing.add_argument("study", type=Path)
    packing.add_argument("file", type=Path, help="NAME.tar or NAME.tar.gz")
    merging = commands.add_parser("merge", help="compare studies of several machines; the first has the reference")
    merging.add_argument("studies", type=Path, nargs="+", help="folders or packed files")
    merging.add_argument("--out", type=Path, required=True, help="folder of the report")
    merging.add_argument("--allow-versions", action="store_true", help="compare runs of different package versions")
    options = parser.parse_args(list(given))

    def work() -> None:
        if options.command == "pack":
            bundles.pack(options.study, options.file)
            return
        cli.configure_jax()
        folders = [
            study if study.is_dir() else bundles.unpack(study, options.out / "unpacked" / study.name.split(".")[0])
            for study in options.studies
        ]
        command = ["python -m experiments.hardware", *given]
        report.write(folders, options.out / "report", command, allow_versions=options.allow_versions)

    return cli.guarded(work)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given and given[0] in COMMANDS:
        return _pack_or_merge(given)
    return cli.main(
        PRESETS,
        partial(run, given=given),
        program="python -m experiments.hardware",
        description=(__doc__ or "").split("\n\n")[0],
        arguments=given,
    )
