"""Stages: a configuration in, a finished run directory out. The only place where library and run records meet."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax

from experiments.running.measure import AnalysisConfig, measure
from experiments.running.records import (
    Workspace,
    finish,
    load_network,
    module_of,
    noted,
    now,
    open_run,
    settings_of,
    skip,
    write,
)
from jaxfair.data.dataset import Dataset
from jaxfair.linearize import deepreduce, snl
from jaxfair.networks import masks
from jaxfair.networks.architectures import CNN, Module, ResNet
from jaxfair.networks.network import Network, init, shapes
from jaxfair.runs import Run
from jaxfair.training import fit as train
from jaxfair.training.mitigate import MitigationConfig


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


FULL = {"method": "full", "label": "Full network"}

# Work in forward passes, by counting convolutions; and what is only known afterwards, for a plan.
FORWARD, GRADIENT, PRODUCT = 1, 3, 6
ASSUMED_DESCENT = 30
"""Epochs of an SNL descent."""
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
    module = full_module(train_set, model)
    units = masks.unit_count(shapes(module, train_set.image_shape).masks)
    for config in reductions:
        shapes(deepreduce.student_module(module, config), train_set.image_shape)
    return list(dict.fromkeys(masks.resolve_budget(budget, units) for budget in budgets))


def train_full(space: Workspace, model: ModelConfig, config: train.TrainConfig, seeds: Sequence[int]) -> list[Run]:
    """Train the full network, once for each seed."""
    module = full_module(space.train, model)
    found = [
        open_run(
            space, "train", f"{space.record['name']}-seed{seed}", seed, module, FULL, {"train": settings_of(config)}
        )
        for seed in seeds
    ]
    title = "train the full network"
    return fit(space, found, config, title, lambda i: init(module, space.train.image_shape, seeds[i]), None)


def linearize_snl(space: Workspace, base: Run, config: snl.SnlConfig, counts: Sequence[int]) -> list[Run]:
    """Linearize by SNL: one descent, one run for each of the different budgets, in their order."""
    seed = base.config["seed"]
    found = {}
    for count in counts:
        settings = {"parents": {"full": base.digest}, "snl": {**settings_of(config), "budget": count}}
        variant = {"method": "snl", "label": f"SNL {count}"}
        name = f"{space.record['name']}-snl{count}-seed{seed}"
        found[count] = open_run(space, "linearize", name, seed, module_of(base), variant, settings)
    if noted(space, found.values(), len(space.train) * ASSUMED_DESCENT * (FORWARD + GRADIENT) / max(len(found), 1)):
        return [found[count] for count in counts]
    pending = {count: run for count, run in found.items() if not run.done}
    skip(space, len(found) - len(pending))
    if pending:
        space.progress.begin(f"SNL descent, seed {seed}", len(pending))
        started = now(space)

        def on_epoch(epoch: int, count: int) -> None:
            space.progress.update(epoch, None, "epoch", f"{count} ReLUs")

        # The tightest budget is reached last, so the unfinished descent lies with it.
        progress_dir = pending[min(pending)].progress_dir
        descent = snl.snl(
            load_network(base),
            space.train,
            config,
            budgets=list(pending),
            seed=seed,
            progress_dir=progress_dir,
            on_epoch=on_epoch,
        )
        for snapshot in descent:
            run = pending[snapshot.budget]
            if not run.done:
                write(run, snapshot.network, started, {"epochs": snapshot.epoch}, shared_by=len(pending))
                run.finish()
    return [found[count] for count in counts]


def linearize_deepreduce(space: Workspace, base: Run, config: deepreduce.DeepReduceConfig) -> Run:
    """Build the untrained DeepReDuce student."""
    module = deepreduce.student_module(module_of(base), config)
    variant = {"method": "deepreduce", "label": f"DeepReDuce {config.name}"}

    def student() -> Network:
        return deepreduce.deepreduce(load_network(base), space.train.image_shape, config, seed=base.config["seed"])

    return _derive(space, base, config.name, module, variant, {"deepreduce": settings_of(config)}, student)


def linearize_random(space: Workspace, base: Run, count: int) -> Run:
    """Keep ReLUs at random, with the full network's weights: what any choice of units has to beat."""
    variant = {"method": "random", "label": f"Random {count}"}

    def thinned() -> Network:
        network, key = load_network(base), jax.random.key(base.config["seed"])
        return network.replace(masks=masks.keep_random(network.masks, count, key))

    return _derive(space, base, f"random{count}", module_of(base), variant, {"random": {"budget": count}}, thinned)


def _derive(
    space: Workspace,
    base: Run,
    name: str,
    module: Module,
    variant: Mapping[str, str],
    settings: Mapping[str, Any],
    make: Callable[[], Network],
) -> Run:
    """Make a network from a full one without training, unless it was made before."""
    seed, settings = base.config["seed"], {"parents": {"full": base.digest}, **settings}
    run = open_run(space, "linearize", f"{space.record['name']}-{name}-seed{seed}", seed, module, variant, settings)
    if noted(space, [run], 0):
        return run
    if run.done:
        skip(space, 1)
        return run
    space.progress.begin(f"{variant['label']}, seed {seed}")
    return finish(run, make(), now(space), {})


def finetune(space: Workspace, starts: Sequence[Run], bases: Sequence[Run], config: train.TrainConfig) -> list[Run]:
    """Train networks, one of each seed, by distillation from their full networks; these may be their own start."""
    found = []
    suffix = "" if config.mitigation.method == "none" else f" + {_how(config.mitigation)}"
    for begin, base in zip(starts, bases, strict=True):
        variant, seed = begin.config["variant"], begin.config["seed"]
        if begin is base:
            variant = {"method": "control", "label": "Full network, fine-tuned"}
        if suffix:
            how = {"base": variant["label"], "mitigation": settings_of(config.mitigation)}
            variant = {"method": "mitigated", "label": variant["label"] + suffix, **how}
        settings = {"parents": {"start": begin.digest, "teacher": base.digest}, "train": settings_of(config)}
        name = f"{space.record['name']}-{variant['label']}-seed{seed}"
        found.append(open_run(space, "finetune", name, seed, module_of(begin), variant, settings))
    title = f"fine-tune {starts[0].config['variant']['label']}{suffix}"
    return fit(space, found, config, title, lambda i: load_network(starts[i]), lambda i: load_network(bases[i]))


def _how(config: MitigationConfig) -> str:
    numbers = {"lagrangian": f"mu {config.rate:g}", "lagrangian-detached": f"mu {config.rate:g}"}
    numbers |= {"cvar": f"level {config.level:g}", "arl": f"rate {config.adversary_rate:g}"}
    numbers |= {"alignment": f"weight {config.weight:g}"}
    return f"{config.method} ({numbers[config.method]})"


def analyse(space: Workspace, run: Run, base: Run, config: AnalysisConfig) -> Run:
    """Measure every group: accuracy, loss, gradient, curvature, distances, and the change from the full network."""
    variant, seed = run.config["variant"], run.config["seed"]
    settings = {"parents": {"network": run.digest, "full": base.digest}, "analysis": settings_of(config)}
    name = f"{space.record['name']}-{variant['label']}-seed{seed}"
    found = open_run(space, "analyse", name, seed, module_of(run), variant, settings)
    products = GRADIENT + PRODUCT * ASSUMED_STEPS + len(space.test.class_names) * config.linearized_distance * GRADIENT
    if noted(space, [found], len(space.test) * products):
        return found
    if found.done:
        skip(space, 1)
        return found
    space.progress.begin(f"analyse {variant['label']}, seed {seed}")
    started = now(space)
    examples, spectrum, result = measure(load_network(run), load_network(base), space.train, space.test, config)
    found.write_arrays("examples.npz", examples)
    found.write_arrays("spectrum.npz", spectrum)
    return finish(found, None, started, result)


def fit(
    space: Workspace,
    found: list[Run],
    config: train.TrainConfig,
    title: str,
    network_of: Callable[[int], Network],
    teacher_of: Callable[[int], Network] | None,
    order_seed: int = 0,
) -> list[Run]:
    """Train the networks of those runs that are not finished.

    Args:
        space: of the study.
        found: a run for each network.
        config: how to train.
        title: for the progress.
        network_of: makes the network to start from of the run at an index.
        teacher_of: makes its teacher, if there is one.
        order_seed: added to each run's seed where the order of the data is drawn, and nowhere else.
    """
    if noted(space, found, len(space.train) * config.epochs * (GRADIENT + FORWARD * (teacher_of is not None))):
        return found
    pending = [i for i, run in enumerate(found) if not run.done]
    skip(space, len(found) - len(pending))
    if not pending:
        return found
    started = now(space)
    space.progress.begin(f"{title}, {len(pending)} seed{'s' * (len(pending) > 1)}", len(pending))
    at_once = space.seeds_at_once or train.seeds_at_once(pending)
    done = 0

    def on_epoch(epoch: int, epochs: int, metrics: Mapping[str, float]) -> None:
        state = f"loss {metrics['loss']:.3f}, accuracy {metrics['accuracy']:.3f}"
        calls = -(-len(pending) // at_once)
        space.progress.update(done // at_once * epochs + epoch, calls * epochs, "epoch", state)

    fitted = train.fit(
        [network_of(i) for i in pending],
        space.train,
        config,
        seeds=[found[i].config["seed"] for i in pending],
        order_seeds=[found[i].config["seed"] + order_seed for i in pending],
        teachers=None if teacher_of is None else [teacher_of(i) for i in pending],
        progress_dirs=[found[i].progress_dir for i in pending],
        on_epoch=on_epoch,
        at_once=at_once,
    )
    for first in range(0, len(pending), at_once):
        members = [found[i] for i in pending[first : first + at_once]]
        # All are written before the first is finished, which removes what they were trained from together.
        for run, (_, network, history, multipliers) in zip(members, fitted, strict=False):
            columns = {name: values.tolist() for name, values in history.items()}
            rows = ({"epoch": e + 1, **{n: c[e] for n, c in columns.items()}} for e in range(config.epochs))
            run.write_rows("metrics.jsonl", rows)
            result = {"final": {name: values[-1] for name, values in history.items()}, "multipliers": multipliers}
            write(run, network, started, result, shared_by=len(members))
        for run in members:
            run.finish()
        done, started = done + len(members), now(space)
    return found
