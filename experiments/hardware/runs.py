"""The runs of one hardware profile, made in a process of its own: trainings, first steps and analyses.

On the first profile of a study, its reference, every training is repeated as controls: the same again, one unit in the
last place of one weight of every array, another order of the data, batches twice as large.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.running import measure, methods, stages
from experiments.running.records import Workspace, load_network, module_of, once, open_run, settings_of
from experiments.running.settings import AnalysisConfig, ModelConfig
from experiments.running.stages import FORWARD, GRADIENT, PRODUCT
from jaxfair import groups
from jaxfair.checkpoints import tree_digest
from jaxfair.data.splits import epoch_order
from jaxfair.hardware import Profile
from jaxfair.linearize.config import SnlConfig
from jaxfair.networks.architectures import Module
from jaxfair.networks.arithmetic import Arithmetic
from jaxfair.networks.network import Network, init
from jaxfair.runs import Run
from jaxfair.training import mitigate, trajectory
from jaxfair.training.config import TrainConfig

OTHER_ORDER = 1000
"""Added to a seed where the order of the data is drawn, for the control of that name."""


CONTROLS = {"none": "", "repeat": ", repeated", "order": ", other data order", "batch": ", batches twice as large"}
"""What a label says of a control that is no ulp."""


class Task(NamedTuple):
    """What is trained on one profile for every seed.

    Attributes:
        control: ``none``, ``repeat``, ``ulp1``, ``ulp2``, ..., ``order`` or ``batch``.
        train: how, which is another training for ``batch`` (``larger_batches``).
        budget: ReLUs that SNL keeps, in a network that is linearized on this profile too; None for the full network.
    """

    control: str
    train: TrainConfig
    budget: int | None = None


class Declared(NamedTuple):
    """The runs of a task on a profile, one for each seed.

    Attributes:
        task: what was trained.
        trained: the networks.
        analysed: what was measured on them.
        steps: the first steps of the training, where they were recorded.
        sampled: what few images add to the groups' norms and eigenvalues, where these were measured.
    """

    task: Task
    trained: list[Run]
    analysed: list[Run]
    steps: list[Run]
    sampled: list[Run]


class Linearized(NamedTuple):
    """How networks are linearized and fine-tuned."""

    snl: SnlConfig
    finetune: TrainConfig


def variant_of(profile: Profile, task: Task) -> dict[str, Any]:
    """Return what a run's record says of it, and its label for readers."""
    method = task.train.mitigation.method
    said = CONTROLS.get(task.control, f", one ulp ({task.control.removeprefix('ulp')})")
    label = profile.label + said + (f" + {method}" if method != "none" else "")
    label += f", SNL {task.budget}" if task.budget is not None else ""
    about = {"profile": profile.name, "kind": profile.kind, "control": task.control, "mitigation": method}
    return {"label": label, "method": "hardware", **about, "budget": task.budget}


def declare(
    space: Workspace,
    profile: Profile,
    tasks: Sequence[Task],
    seeds: Sequence[int],
    model: ModelConfig,
    linearized: Linearized,
    analysis: AnalysisConfig,
    steps: Sequence[int],
    *,
    reference: bool,
) -> list[Declared]:
    """Declare all runs of a profile."""
    module = full_module(space, model, profile.arithmetic)
    declared = []
    for task in tasks:
        trained, first = _train(space, profile, module, task._replace(budget=None), seeds), []
        # A step of larger batches sees other images, so that its parameters are not compared with those of a step.
        if task.budget is None and task.train.mitigation.method == "none" and task.control != "batch" and steps:
            first = [_first_steps(space, profile, module, task, seed, steps) for seed in seeds]
        if task.budget is not None:
            starts = [methods.linearize_snl(space, base, linearized.snl, [task.budget])[0] for base in trained]
            trained = stages.finetune(space, starts, trained, linearized.finetune)
        curvature = reference and task.control == "none"
        analysed = [_analyse(space, profile, task, run, analysis, curvature=curvature) for run in trained]
        # Of other devices too, since Fig. 3 of the paper averages them; emulated ones are none.
        plain = task.budget is None and task.train.mitigation.method == "none" and task.control == "none"
        measured = curvature or (plain and profile.kind == "native")
        sampled = [stages.sample(space, run, analysis) for run in trained] if measured else []
        declared.append(Declared(task, trained, analysed, first, sampled))
    return declared


def larger_batches(train: TrainConfig) -> TrainConfig:
    """Return the same training in batches twice as large, and for that at twice the rate (Goyal et al. 2017).

    To first order it goes where the smaller batches go, in half as many steps.
    """
    return dataclasses.replace(train, batch_size=2 * train.batch_size, learning_rate=2 * train.learning_rate)


def full_module(space: Workspace, model: ModelConfig, arithmetic: Arithmetic) -> Module:
    """Return the network's architecture with the profile's arithmetic."""
    return dataclasses.replace(stages.full_module(space.train, model), arithmetic=arithmetic)


def start_of(module: Module, image_shape: tuple[int, int, int], control: str, seed: int) -> Network:
    """Return the initial network of a training, the same bits on every hardware."""
    network = init(module, image_shape, seed)
    if not control.startswith("ulp"):
        return network
    return network.replace(params=trajectory.nudge(network.params, int(control.removeprefix("ulp"))))


def _train(space: Workspace, profile: Profile, module: Module, task: Task, seeds: Sequence[int]) -> list[Run]:
    variant, settings = variant_of(profile, task), {"train": settings_of(task.train)}
    found = [_open(space, "train", seed, module, variant, settings) for seed in seeds]
    order = OTHER_ORDER if task.control == "order" else 0

    def begin(run: Run, network: Network) -> None:
        digests = {"initial": tree_digest(network.params)}
        run.write_json("start.json", digests | {"order": order_digest(space, task.train, run.config["seed"] + order)})

    start = partial(start_of, module, space.train.image_shape, task.control)
    return stages.fit(space, found, task.train, f"train on {variant['label']}", start, order_seed=order, begin=begin)


def order_digest(space: Workspace, config: TrainConfig, seed: int) -> str:
    """Return a digest of the order in which all images of all epochs are seen."""
    digest = hashlib.sha256()
    for epoch in range(config.epochs):
        order = epoch_order(len(space.train), config.batch_size, seed, epoch)
        digest.update(np.ascontiguousarray(order, np.int64).data)
    return digest.hexdigest()[:16]


def _first_steps(
    space: Workspace, profile: Profile, module: Module, task: Task, seed: int, steps: Sequence[int]
) -> Run:
    """Record digests and sketches of the parameters after the first steps of a training."""
    variant = variant_of(profile, task)
    run = _open(space, "steps", seed, module, variant, {"train": settings_of(task.train), "steps": list(steps)})

    def compute() -> tuple[None, dict[str, Any]]:
        network = start_of(module, space.train.image_shape, task.control, seed)
        sketches, digests = [trajectory.sketch(network.params)], []
        order = OTHER_ORDER if task.control == "order" else 0
        arguments = network, space.train, task.train
        for step, after in trajectory.first_steps(*arguments, seed=seed, order_seed=seed + order, steps=steps):
            sketches.append(trajectory.sketch(after.params))
            digests.append(tree_digest(after.params))
            space.progress.update(step, steps[-1], "step")
        run.write_arrays("sketches.npz", {"steps": np.array([0, *steps]), "sketches": np.array(sketches)})
        return None, {"digests": digests}

    title = f"first {steps[-1]} steps on {variant['label']}"
    return once(space, run, GRADIENT * steps[-1] * task.train.batch_size, title, compute)


def _analyse(
    space: Workspace, profile: Profile, task: Task, run: Run, config: AnalysisConfig, *, curvature: bool
) -> Run:
    """Measure accuracy, loss and distances of every group; gradient and Hessian only where ``curvature``."""
    variant, settings = variant_of(profile, task), {"parents": {"network": run.digest}, "curvature": curvature}
    settings["analysis"] = settings_of(config)
    found = _open(space, "analyse", run.config["seed"], module_of(run), variant, settings)

    def compute() -> tuple[None, dict[str, Any]]:
        network = load_network(run)
        examples = measure.measure_examples(network, space.test, config)
        examples["impurity"] = np.asarray(mitigate.boundary_distance(jnp.asarray(examples["logits"]), "impurity"))
        found.write_arrays("examples.npz", examples)
        columns = _group_columns(space, network, examples, config, curvature=curvature)
        correct = (examples["logits"].argmax(-1) == examples["label"]).mean()
        digest = tree_digest(network.params)
        return None, {"accuracy": correct, "groups": columns, "parameters": digest}

    passes = len(space.test.class_names) * config.linearized_distance * GRADIENT
    passes += (GRADIENT + PRODUCT * stages.ASSUMED_STEPS) * curvature + FORWARD
    return once(space, found, len(space.test) * passes, f"analyse {variant['label']}", compute)


def _group_columns(
    space: Workspace, network: Network, examples: Mapping[str, np.ndarray], config: AnalysisConfig, *, curvature: bool
) -> dict[str, Any]:
    test, measured = space.test, space.test if config.split == "test" else space.train
    by_group = partial(groups.group_means, group=examples["group"], num_groups=len(test.group_names))
    correct = (examples["logits"].argmax(-1) == examples["label"]).astype(float)
    quantities = [name for name in (*measure.QUANTITIES, "impurity") if name in examples]
    counts = {"train_count": space.train.group_counts, "test_count": test.group_counts}
    columns = {"name": test.group_names, **counts, "curvature_count": measured.group_counts}
    columns |= {"accuracy": by_group(correct), **{name: by_group(examples[name]) for name in quantities}}
    if curvature:
        columns |= measure.curvature_columns(measure.measure_curvature(network, measured, config))
    return columns


def _open(
    space: Workspace, stage: str, seed: int, module: Module, variant: Mapping[str, Any], settings: Mapping[str, Any]
) -> Run:
    control = "" if variant["control"] == "none" else f"-{variant['control']}"
    name = f"{space.record['name']}-{variant['profile']}{control}-{variant['mitigation']}-seed{seed}"
    return open_run(space, stage, name, seed, module, variant, settings)
