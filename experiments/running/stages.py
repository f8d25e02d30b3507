"""Stages: a configuration in, a declared run out. The only place where library and run records meet."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from experiments.running.measure import (
    DrawConfig,
    SamplingConfig,
    measure,
    measure_expansion,
    measure_gradients,
    measure_hessian_bound,
    measure_predictions,
    measure_sampling,
)
from experiments.running.records import (
    Output,
    Workspace,
    declare,
    load_network,
    module_of,
    once,
    open_run,
    settings_of,
)
from experiments.running.settings import AnalysisConfig, ModelConfig
from jaxfair.compress import pruning, quantization
from jaxfair.data.dataset import Dataset
from jaxfair.errors import JaxfairError
from jaxfair.linearize import deepreduce, snl
from jaxfair.networks import masks
from jaxfair.networks.architectures import CNN, Module, ResNet
from jaxfair.networks.arithmetic import Arithmetic
from jaxfair.networks.network import Network, init, shapes
from jaxfair.runs import Run
from jaxfair.training import fit as train
from jaxfair.training import mitigate
from jaxfair.training.batches import FORWARD, GRADIENT
from jaxfair.training.config import MitigationConfig
from jaxfair.training.fit import Stopping
from jaxfair.training.trajectory import first_steps

FULL = {"method": "full", "label": "Full network"}
TUNED = {"method": "control", "label": "Full network, fine-tuned"}

# Work in forward passes, as FORWARD and GRADIENT; and what is only known afterwards, for a plan.
PRODUCT = 6
ASSUMED_STEPS = 6
"""Hessian-vector products of a group."""


def full_module(train_set: Dataset, model: ModelConfig) -> Module:
    """Return the full network's architecture for this data."""
    classes = len(train_set.class_names)
    if model.network == "cnn":
        features = tuple(model.width * 2**stage for stage in range(len(model.stage_sizes)))
        return CNN(classes, features, model.stem_stride)
    return ResNet(model.stage_sizes, classes, model.width, model.stem_stride, model.block, model.stem_width)


def check(
    train_set: Dataset, model: ModelConfig, budgets: Sequence[float], reductions: Sequence[deepreduce.DeepReduceConfig]
) -> list[int]:
    """Find networks that cannot be made before anything is trained; return the different budgets as counts.

    Raises:
        JaxfairError: the images are too small for the network, a budget or a DeepReDuce configuration is impossible.
    """
    if model.network == "cnn" and (model.block != "basic" or model.stem_width is not None):
        raise JaxfairError("Blocks and the stem's width are those of a ResNet; leave them out, or --model.network cnn.")
    module = full_module(train_set, model)
    units = masks.unit_count(shapes(module, train_set.image_shape).masks)
    for config in reductions:
        shapes(deepreduce.student_module(module, config), train_set.image_shape)
    return list(dict.fromkeys(masks.resolve_budget(budget, units) for budget in budgets))


def check_trainings(
    train_set: Dataset, trainings: Iterable[train.TrainConfig], descent: snl.SnlConfig | None, seeds_at_once: int | None
) -> None:
    """Find trainings that cannot be made before the first one begins, which has no teacher.

    Raises:
        JaxfairError: a number is impossible, there are too few images for a batch, or no groups to mitigate.
    """
    if seeds_at_once is not None and seeds_at_once < 1:
        raise JaxfairError(f"seeds_at_once is {seeds_at_once}; give at least 1, or leave it out.")
    trainings, images = list(trainings), len(train_set)
    if trainings and trainings[0].distillation_weight:
        raise JaxfairError("The first training has no teacher; leave --train.distillation-weight at 0.")
    sizes = [config.batch_size for config in [*trainings, *([] if descent is None else [descent])]]
    if too_large := [size for size in sizes if size > images]:
        raise JaxfairError(
            f"The batch size is {too_large[0]}, but there are {images} images; give at most as many by "
            "--train.batch-size, and to every other training of larger batches, which --help lists."
        )
    for config in trainings:
        train.check_config(config, len(train_set))
        mitigate.check_config(config.mitigation, len(train_set.group_names))
    if descent is not None:
        snl.check_config(descent, len(train_set))


def check_plain(**trainings: train.TrainConfig) -> None:
    """Raise a JaxfairError if a training that a study mitigates by an option of its own is told to be mitigated.

    Its controls would be, and the networks that are compared with them would not.

    Args:
        trainings: by the option's name, such as ``finetune``.
    """
    for name, config in trainings.items():
        if (method := config.mitigation.method) != "none":
            option = f"--{name.replace('_', '-')}.mitigation.method"
            raise JaxfairError(f"{option} is {method}; leave it at none, and let the study do it: --help, mitigation.")


def train_full(
    space: Workspace, model: ModelConfig, config: train.TrainConfig, seeds: Sequence[int], patience: int = 0
) -> list[Run]:
    """Train the full network, once for each seed.

    Args:
        space: of the study.
        model: the network.
        config: how it is trained.
        seeds: of the trainings.
        patience: epochs without a lower loss of the validation images after which training stops; the network of the
            lowest is kept. 0 trains for all epochs, and then the record is what it was before there was this.
    """
    module = full_module(space.train, model)
    settings = {"train": settings_of(config), **({"patience": patience} if patience else {})}
    found = [
        open_run(space, "train", f"{space.record['name']}-seed{seed}", seed, module, FULL, settings) for seed in seeds
    ]
    start = partial(init, module, space.train.image_shape)
    return fit(space, found, config, "train the full network", start, patience=patience)


def prune(space: Workspace, start: Run, config: pruning.PruneConfig, variant: Mapping[str, Any]) -> Run:
    """Remove the smallest weights of a network, which may have been pruned before, and is called ``variant`` then."""

    def pruned() -> tuple[Network, dict[str, int]]:
        network = pruning.prune(load_network(start), config)
        kept, count = pruning.kept_count(network.params), pruning.weight_count(network.params)
        return network, {"weight_count": count, "weights_kept": kept}

    return _compress(space, start, module_of(start), variant, {"pruning": settings_of(config)}, pruned)


def quantize(space: Workspace, base: Run, bits: int, variant: Mapping[str, Any]) -> Run:
    """Round the weights of a network to so many bits."""
    settings = {"quantization": {"bits": bits}}
    return _compress(
        *(space, base, module_of(base), variant, settings),
        lambda: (quantization.quantize(load_network(base), bits), {}),
    )


def reformat(space: Workspace, base: Run, kind: Arithmetic, variant: Mapping[str, Any]) -> Run:
    """Round the weights and the products of a network to another floating-point format."""
    return _compress(
        *(space, base, module_of(base).clone(arithmetic=kind), variant, {"format": kind}),
        lambda: (quantization.float_format(load_network(base), kind), {}),
    )


def _compress(
    space: Workspace,
    start: Run,
    module: Module,
    variant: Mapping[str, Any],
    settings: Mapping[str, Any],
    make: Callable[[], tuple[Network, Mapping[str, Any]]],
) -> Run:
    """Make a network from another one without training, with other weights."""
    seed, settings = start.config["seed"], {"parents": {"start": start.digest}, **settings}
    name = f"{space.record['name']}-{variant['label']}-seed{seed}"
    run = open_run(space, "compress", name, seed, module, variant, settings)
    return once(space, run, 0, variant["label"], make)


def finetune(
    space: Workspace,
    starts: Sequence[Run],
    bases: Sequence[Run],
    config: train.TrainConfig,
    called: Mapping[str, Any] | None = None,
    *,
    attention: float = 0.0,
) -> list[Run]:
    """Train networks, one of each seed, by distillation from their full networks; these may be their own start.

    Pruned weights stay zero.

    Args:
        space: of the study.
        starts: the networks to start from.
        bases: their full networks.
        config: how to train.
        called: what the trained networks are; by default the variant that they start from.
        attention: the factor on the distance of attention maps from the full network's.
    """
    found = []
    suffix = "" if config.mitigation.method == "none" else f" + {_how(config.mitigation)}"
    for begin, base in zip(starts, bases, strict=True):
        variant, seed = called or begin.config["variant"], begin.config["seed"]
        if begin is base:
            variant = TUNED
        if suffix:
            how = {"base": variant["label"], "mitigation": settings_of(config.mitigation)}
            variant = {**variant, "method": "mitigated", "label": variant["label"] + suffix, **how}
        settings = {"parents": {"start": begin.digest, "teacher": base.digest}, "train": settings_of(config)}
        settings |= {"kept": "weights"} if "pruning" in begin.config else {}
        settings |= {"attention": attention} if attention else {}
        name = f"{space.record['name']}-{variant['label']}-seed{seed}"
        found.append(open_run(space, "finetune", name, seed, module_of(begin), variant, settings))
    start_of, base_of = ({run.config["seed"]: run for run in several} for several in (starts, bases))
    return fit(
        *(space, found, config, f"fine-tune {starts[0].config['variant']['label']}{suffix}"),
        lambda seed: load_network(start_of[seed]),
        lambda seed: load_network(base_of[seed]),
        pruned="pruning" in starts[0].config,
        attention=attention,
    )


def _how(config: MitigationConfig) -> str:
    numbers = dict.fromkeys(mitigate.LAGRANGIAN, f"mu {config.rate:g}")
    numbers |= {"cvar": f"level {config.level:g}", "arl": f"rate {config.adversary_rate:g}"}
    numbers |= {"alignment": f"weight {config.weight:g}"}
    return f"{config.method} ({numbers[config.method]})"


def analyse(space: Workspace, run: Run, base: Run, config: AnalysisConfig) -> Run:
    """Measure every group: accuracy, loss, gradient, curvature, distances, and the change from the full network."""
    variant, seed = run.config["variant"], run.config["seed"]
    settings = {"parents": {"network": run.digest, "full": base.digest}, "analysis": settings_of(config)}
    name = f"{space.record['name']}-{variant['label']}-seed{seed}"
    found = open_run(space, "analyse", name, seed, module_of(run), variant, settings)

    def compute() -> tuple[None, dict[str, Any]]:
        networks = load_network(run), load_network(base)
        examples, spectrum, result = measure(*networks, space.train, space.test, config, space.validation)
        found.write_arrays("examples.npz", examples)
        found.write_arrays("spectrum.npz", spectrum)
        return None, result

    products = GRADIENT + PRODUCT * ASSUMED_STEPS + len(space.test.class_names) * config.linearized_distance * GRADIENT
    return once(space, found, len(space.test) * products, f"analyse {variant['label']}", compute)


def follow(
    space: Workspace, start: Run, base: Run, config: train.TrainConfig, epochs: int, variant: Mapping[str, str]
) -> Run:
    """Fine-tune a network for long, and look at every group's accuracy after 1, 2, 4, 8, ... epochs.

    It tells what is linearization's from what is that of fine-tuning that ended early. The steps are those of
    ``finetune`` with so many epochs; no network is kept.

    Args:
        space: of the study.
        start: the network to start from.
        base: the full network, which is the teacher.
        config: how it is fine-tuned, but for the epochs.
        epochs: the longest.
        variant: what is followed.
    """
    seed, config = start.config["seed"], dataclasses.replace(config, epochs=epochs)
    settings = {"parents": {"start": start.digest, "teacher": base.digest}, "train": settings_of(config)}
    name = f"{space.record['name']}-{variant['label']}-seed{seed}"
    run = open_run(space, "follow", name, seed, module_of(start), variant, settings)

    def compute() -> tuple[None, dict[str, Any]]:
        per_epoch = train.make_step(config, space.train).steps_per_epoch
        marks = doublings(epochs)
        networks = first_steps(
            *(load_network(start), space.train, config),
            seed=seed,
            steps=[per_epoch * mark for mark in marks],
            teacher=load_network(base) if config.distillation_weight else None,
            devices=space.devices,
        )
        predicted = []
        for mark, (_, network) in zip(marks, networks, strict=True):
            predicted.append(measure_predictions(network, space.train, space.test))
            space.progress.update(mark, epochs, "epoch", f"training accuracy {predicted[-1][1].mean():.3f}")
        run.write_arrays("follow.npz", {"correct": np.array([right for right, _ in predicted])})
        columns = {"train_accuracy": np.array([of_groups for _, of_groups in predicted])}
        return None, {"epochs": marks, "groups": {"name": space.test.group_names, **columns}}

    return once(space, run, len(space.train) * epochs * (GRADIENT + FORWARD), f"follow {variant['label']}", compute)


def doublings(epochs: int) -> list[int]:
    """Return 1, 2, 4, ... below ``epochs``, and ``epochs``."""
    return [2**power for power in range(epochs.bit_length()) if 2**power < epochs] + [epochs]


def expand(space: Workspace, run: Run, base: Run) -> Run:
    """Compare each group's loss, expanded at the full network in its weights, with what became of it.

    For networks made from the full one without training; the losses are of the test images.
    """
    variant, seed = run.config["variant"], run.config["seed"]
    settings = {"parents": {"network": run.digest, "full": base.digest}}
    name = f"{space.record['name']}-{variant['label']}-seed{seed}"
    found = open_run(space, "expand", name, seed, module_of(run), variant, settings)

    def compute() -> tuple[None, dict[str, Any]]:
        return None, measure_expansion(load_network(base), load_network(run), space.test)

    return once(space, found, len(space.test) * (GRADIENT + PRODUCT), f"expand {variant['label']}", compute)


def sample(space: Workspace, run: Run, config: AnalysisConfig) -> Run:
    """Measure how much of a network's gradient norms and eigenvalues is that of groups of few images.

    It is a run beside the analysis, so that an analysis made before there was this stage stays what it is.
    """
    analysis, sampling = settings_of(config), SamplingConfig()
    decisive = {name: analysis[name] for name in ("split", "tolerance", "max_steps", "chunk_size", "precision")}
    settings = {"sampling": {**settings_of(sampling), **decisive}}

    def compute() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        measured = space.test if config.split == "test" else space.train
        return measure_sampling(load_network(run), measured, config, sampling)

    work = len(space.test) * (GRADIENT + PRODUCT * ASSUMED_STEPS)
    return _beside(space, run, "sampling", settings, work, compute)


def compare_gradients(space: Workspace, run: Run, config: AnalysisConfig) -> Run:
    """Measure whether the groups' gradients of the training loss cancel, as they do where it has its minimum."""
    decisive = {name: value for name, value in settings_of(config).items() if name in ("chunk_size", "precision")}

    def compute() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return measure_gradients(load_network(run), space.train, config)

    return _beside(space, run, "gradients", {"gradients": decisive}, len(space.train) * GRADIENT, compute)


def bound_hessian(space: Workspace, run: Run, config: AnalysisConfig) -> Run:
    """Measure Prop. 4.5 on some test images of each group of a task of two classes."""
    drawn = DrawConfig()
    decisive = {name: value for name, value in settings_of(config).items() if name in ("tolerance", "max_steps")}
    decisive |= {"chunk_size": config.chunk_size, "precision": config.precision, **settings_of(drawn)}

    def compute() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return {}, measure_hessian_bound(load_network(run), space.test, config, drawn)

    images = drawn.images * len(space.test.group_names)
    work = images * PRODUCT * 2 * ASSUMED_STEPS
    return _beside(space, run, "hessian-bound", {"hessian_bound": decisive}, work, compute)


BESIDE = {"sampling": "sampling noise", "gradients": "groups' gradients", "hessian-bound": "bound of the Hessian"}
"""What is measured beside an analysis."""


def _beside(
    space: Workspace,
    run: Run,
    stage: str,
    settings: Mapping[str, Any],
    work: float,
    compute: Callable[[], tuple[dict[str, np.ndarray], dict[str, Any]]],
) -> Run:
    """Declare what is measured on a network beside its analysis, which stays what it was before there was this."""
    variant, seed = run.config["variant"], run.config["seed"]
    name = f"{space.record['name']}-{variant['label']}-seed{seed}"
    settings = {"parents": {"network": run.digest}, **settings}
    found = open_run(space, stage, name, seed, module_of(run), variant, settings)

    def make() -> tuple[None, dict[str, Any]]:
        arrays, result = compute()
        if arrays:
            found.write_arrays(f"{stage}.npz", arrays)
        return None, result

    return once(space, found, work, f"{BESIDE[stage]} of {variant['label']}", make)


def fit(
    space: Workspace,
    found: Sequence[Run],
    config: train.TrainConfig,
    title: str,
    network_of: Callable[[int], Network],
    teacher_of: Callable[[int], Network] | None = None,
    *,
    order_seed: int = 0,
    pruned: bool = False,
    patience: int = 0,
    attention: float = 0.0,
    begin: Callable[[Run, Network], None] = lambda run, network: None,
) -> list[Run]:
    """Train one network for each run.

    Args:
        space: of the study.
        found: the runs, each of another seed.
        config: how to train.
        title: for the progress.
        network_of: makes the network of a seed to start from.
        teacher_of: makes its teacher, if there is one.
        pruned: whether weights that are zero stay zero.
        patience: see ``train_full``.
        attention: see ``train.fit``.
        order_seed: added to each run's seed where the order of the data is drawn, and nowhere else.
        begin: called with each run and the network that it starts from.
    """

    def compute(pending: Sequence[Run]) -> Iterator[list[Output]]:
        seeds = [run.config["seed"] for run in pending]
        networks = [network_of(seed) for seed in seeds]
        for run, network in zip(pending, networks, strict=True):
            begin(run, network)
        taught = bool(config.distillation_weight or attention)  # a study may leave distillation out
        at_once, done = space.seeds_at_once or train.seeds_at_once(seeds, space.devices), 0

        def on_epoch(epoch: int, epochs: int, metrics: Mapping[str, float]) -> None:
            state = f"loss {metrics['loss']:.3f}, accuracy {metrics['accuracy']:.3f}"
            calls = -(-len(pending) // at_once)
            space.progress.update(done // at_once * epochs + epoch, calls * epochs, "epoch", state)

        fitted = train.fit(
            networks,
            space.train,
            config,
            seeds=seeds,
            order_seeds=[seed + order_seed for seed in seeds],
            teachers=[teacher_of(seed) for seed in seeds] if teacher_of is not None and taught else None,
            kept=[pruning.kept_weights(network.params) for network in networks] if pruned else None,
            attention=attention,
            progress_dirs=[run.progress_dir for run in pending],
            on_epoch=on_epoch,
            at_once=at_once,
            devices=space.devices,
            stopping=Stopping(space.validation, patience) if patience and space.validation is not None else None,
        )
        for first in range(0, len(pending), at_once):
            members = pending[first : first + at_once]
            yield [_fitted(run, one) for run, one in zip(members, fitted, strict=False)]
            done += len(members)

    work = len(space.train) * config.epochs * (GRADIENT + FORWARD * (teacher_of is not None))
    return declare(space, found, work, title, compute)


def _fitted(run: Run, fitted: train.Fitted) -> Output:
    """Write the history of a training, and return what came out of it."""
    history = fitted.history
    epochs = len(history["loss"])
    run.write_rows("metrics.jsonl", ({"epoch": e + 1, **{n: v[e] for n, v in history.items()}} for e in range(epochs)))
    chosen = {} if fitted.epoch is None else {"epoch": fitted.epoch}
    final = {name: values[(fitted.epoch or epochs) - 1] for name, values in history.items()}
    return Output(run, fitted.network, {"final": final, "multipliers": fitted.multipliers, **chosen})
