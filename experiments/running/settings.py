"""What every study is told: data, network, measurements, executor; read by command lines, so without JAX."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from jaxfair.curvature.config import Start
from jaxfair.data.config import SourceConfig
from jaxfair.errors import JaxfairError
from jaxfair.training.config import MitigationConfig, TrainConfig

MOST_SEEDS = 10_000
"""Of a study: far more than anybody trains, and few enough to be planned in seconds."""

StudyFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="STUDY")]
"""A command's argument: the folder of a study, which it was told as ``--out``."""
StudyFolders = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="STUDY ...")]
Rebalance = Literal["balanced", "fivefold", "tenfold", "swapped"]
FOLDS: dict[str, int] = {"balanced": 1, "fivefold": 5, "tenfold": 10}
"""How many times as many training images a large group has as a small one."""
Further = Literal["snl-balanced", "senet", "senet-balanced", "bcd", "bcd-loss", "bcd-worst-group", "bcd-cvar"]
FURTHER: tuple[Further, ...] = get_args(Further)


@dataclasses.dataclass(frozen=True)
class DataConfig(SourceConfig):
    """Which data, and how it is split.

    Attributes:
        test_fraction: share held out, stratified by class and group, where there is no official test set.
        seed: of the split and of what is kept; a study can count on from it, with one split for each training seed.
        keep: share of each class (or group) kept in training, in order; one alone is that of every class, or times
            the named set's, and where none is given, it is the named set's.
        keep_by: whether ``keep`` lists classes or groups.
        keep_in_test: whether the test set is thinned too, as the code of Das et al. does.
        validation_fraction: share of the training images held out from every training, stratified by class and group,
            for choices such as when to stop; 0 holds out none.
        rebalance: another imbalance of the training images, with the same test images. balanced thins all groups to one
            count: that at which they are together as many as without it, or that of the smallest group, if that is
            fewer. fivefold and tenfold thin to two, so that each of the large groups has five or ten times as many as
            each of the small ones. swapped keeps the largest plus the smallest share of ``keep`` less a class's own:
            large classes become small and small ones large. Linearization and compression are told by --data-controls.
    """

    test_fraction: float = 0.2
    seed: int = 0
    keep: tuple[float, ...] = ()
    keep_by: Literal["label", "group"] = "label"
    keep_in_test: bool = False
    validation_fraction: float = 0.0
    rebalance: Rebalance | None = None


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The full network.

    Attributes:
        network: ``resnet``, or ``cnn``: a small convolutional network without batch norm.
        stage_sizes: blocks in each stage: (1, 1, 1, 1) is ResNet-9, (2, 2, 2, 2) ResNet-18, (3, 4, 6, 3) ResNet-34, and
            ResNet-50 with bottlenecks; a stage of a ``cnn`` is one convolution, whatever stands here.
        width: channels of the first stage; each further stage has twice as many.
        stem_stride: stride of the first convolution.
        block: of a ResNet. Wide ResNets are of ``preactivation`` blocks: WRN-22-8 has the stage sizes (3, 3, 3), width
            128 and stem width 16.
        stem_width: channels of a ResNet's first convolution; by default those of the first stage.
    """

    network: Literal["resnet", "cnn"] = "resnet"
    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 64
    stem_stride: int = 1
    block: Literal["basic", "bottleneck", "preactivation"] = "basic"
    stem_width: int | None = None


@dataclasses.dataclass(frozen=True)
class AnalysisConfig:
    """What is measured on each group.

    Attributes:
        split: whose loss the gradient and Hessian are of; accuracies are always of the test set.
        tolerance: relative residual of the eigenvalues.
        start: of Lanczos. ``random`` misses the largest eigenvalue with probability zero; ``gradient`` and ``coarse``
            take about half the time, and may stop at a lesser one.
        max_steps: Hessian-vector products at most, for each group.
        linearized_distance: whether to measure each test image's linearised distance to the decision boundary too.
        chunk_size: images differentiated at once; None chooses what is fast.
        precision: of matrix products on accelerators: highest is full float32, default may be TF32 or bfloat16.
    """

    split: Literal["test", "train"] = "test"
    tolerance: float = 1e-2
    start: Start = "random"
    max_steps: int = 100
    linearized_distance: bool = True
    chunk_size: int | None = None
    precision: Literal["highest", "default"] = "highest"


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclasses.dataclass(frozen=True)
class Execution:
    """Who makes the runs; it decides nothing of what they are.

    Attributes:
        executor: here is this process; local starts processes on this machine, one on each GPU if there are any; slurm
            submits job arrays to a cluster.
        workers: processes of local (by default one on each GPU, or one on every two cores), or tasks of an array that
            run at once on a cluster (by default 16).
        threads: by which a CPU computes, which decide the last bits; by default as many as this machine has cores. The
            processes of local share the cores.
        devices: GPUs or TPUs of each process that share its trainings: several seeds have one each, and of a single one
            each batch is split, which changes results by rounding.
        gpu_kernels: with which a GPU computes: tuned are those that XLA finds fastest, nchw those with channels first,
            ordered those that add in one order, so that a process has the same bits when it repeats a run, which takes
            longer; another process may choose others. ``python -m benchmarks.accelerator`` says what each takes on a
            GPU. Decides the last bits; each run's record has it.
        partition: of the cluster; by default its own choice.
        account: of the cluster that pays.
        constraint: features that a node must have.
        gres: what else a task needs, such as gpu:1 or gpu:a100:1.
        cpus: cores of a task; by default as many as threads, and 8 at most.
        memory: GB of a task; by default 4 and three times what the data take.
        minutes: after which a task is stopped, saved and queued again; by default three times what its runs take by the
            plan (see --dry-run), and ten minutes.
        only: make only these runs, named by their folders, after those that they are made of, and write no report; -
            reads names from standard input and answers each when it is made.
    """

    executor: Literal["here", "local", "slurm"] = "here"
    workers: int | None = None
    threads: int | None = None
    devices: int = 1
    gpu_kernels: Literal["tuned", "nchw", "ordered"] = "tuned"
    partition: str | None = None
    account: str | None = None
    constraint: str | None = None
    gres: str | None = None
    cpus: int | None = None
    memory: float | None = None
    minutes: int | None = None
    only: tuple[str, ...] = ()


NUMBER_OF = {
    "rate": "lagrangian",
    "level": "cvar",
    "adversary-rate": "arl",
    "weight": "alignment",
    "distance": "alignment",
}
"""Of which mitigation each number is."""


def unused(study: Any, mitigated: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return by option of any study what it does not look at, and what would make it count, as ``cli.Command`` wants.

    Args:
        study: all settings.
        mitigated: by the option of a training, the mitigations by which the study makes it beside its own.
    """
    found = dict(_unused_numbers(study, "--", mitigated))
    return found | ({"--only": "leave out --dry-run, which lists all runs"} if study.dry_run else {})


def _unused_numbers(config: Any, before: str, mitigated: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    """Yield the numbers of mitigations that no training is made by, and of distillation where there is none."""
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), field.name.replace("_", "-")
        if isinstance(value, MitigationConfig):
            training = before.rstrip(".")
            made = {method.partition("-")[0] for method in (value.method, *mitigated.get(training, ()))}
            option = "--mitigations" if training in mitigated else f"{before}{name}.method"
            for number, method in NUMBER_OF.items():
                if method not in made:
                    yield f"{before}{name}.{number}", f"give {option} {method}"
        elif dataclasses.is_dataclass(value):
            if isinstance(value, TrainConfig) and not value.distillation_weight:
                taught = name not in ("train", "sparse-train")  # whose networks have no teacher
                yield f"{before}{name}.temperature", f"give {before}{name}.distillation-weight" * taught
            yield from _unused_numbers(value, f"{before}{name}.", mitigated)


def check_once(studies: Sequence[Path]) -> None:
    """Refuse a study that is given twice, also where its path is written in two ways.

    Raises:
        JaxfairError: one is.
    """
    places = [study.resolve() for study in studies]
    if twice := [study for study, place in zip(studies, places, strict=True) if places.count(place) > 1]:
        raise JaxfairError(f"The study '{twice[0]}' is given more than once; give each once.")


def check_place(out: Path, seeds: int) -> None:
    """Refuse a study's folder, or that of its runs, that is a file or lies in one, and seeds without end.

    Raises:
        JaxfairError: one of both.
    """
    if seeds > MOST_SEEDS:
        raise JaxfairError(f"The study has {seeds} seeds; give at most {MOST_SEEDS}.")
    runs = out.absolute() / "runs"
    there = next(path for path in (runs, *runs.parents) if path.exists())
    if not there.is_dir():
        raise JaxfairError(
            f"'{runs if there == runs else out}' cannot be written: there is a file where a folder is needed; choose "
            "another folder with --out."
        )
