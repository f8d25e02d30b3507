"""Stages: a configuration in, a finished run directory out. The only place where library and run records meet."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.measure import AnalysisConfig, measure
from experiments.progress import Progress
from jaxfair import checkpoints, hardware, masks, runs, train
from jaxfair.data import Dataset
from jaxfair.linearize import deepreduce, snl
from jaxfair.models import Network, ResNet, init
from jaxfair.runs import Run


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The full network.

    Attributes:
        stage_sizes: blocks in each stage: (1, 1, 1, 1) is ResNet-9, (2, 2, 2, 2) ResNet-18, (3, 4, 6, 3) ResNet-34.
        width: channels of the first stage.
        stem_stride: stride of the first convolution.
    """

    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 64
    stem_stride: int = 1


@dataclasses.dataclass(frozen=True)
class Workspace:
    """What all stages of a study share."""

    root: Path
    train: Dataset
    test: Dataset
    record: dict[str, Any]
    progress: Progress
    seeds_at_once: int | None = None
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def full_module(train_set: Dataset, model: ModelConfig) -> ResNet:
    """Return the full network's architecture for this data."""
    return ResNet(model.stage_sizes, len(train_set.class_names), model.width, model.stem_stride)


def check(
    train_set: Dataset, model: ModelConfig, budgets: Sequence[float], reductions: Sequence[deepreduce.DeepReduceConfig]
) -> list[int]:
    """Find networks that cannot be made before anything is trained; return the different budgets as counts.

    Raises:
        JaxfairError: the images are too small for the network, a budget or a DeepReDuce configuration is impossible.
    """
    module = full_module(train_set, model)
    units = masks.unit_count(_shapes(module, train_set.image_shape).masks)
    for config in reductions:
        _shapes(deepreduce.student_module(module, config), train_set.image_shape)
    return list(dict.fromkeys(masks.resolve_budget(budget, units) for budget in budgets))


def train_full(space: Workspace, model: ModelConfig, config: train.TrainConfig, seeds: Sequence[int]) -> list[Run]:
    """Train the full network, once for each seed."""
    module = full_module(space.train, model)
    found = [
        _open(space, "train", f"{space.record['name']}-seed{seed}", seed, module, FULL, {"train": _settings(config)})
        for seed in seeds
    ]
    title = "train the full network"
    return _fit(space, found, config, title, lambda i: init(module, space.train.image_shape, seeds[i]), None)


def linearize_snl(space: Workspace, base: Run, config: snl.SnlConfig, counts: Sequence[int]) -> list[Run]:
    """Linearize by SNL: one descent, one run for each of the different budgets, in their order."""
    seed = base.config["seed"]
    found = {}
    for count in counts:
        settings = {"parents": {"full": base.digest}, "snl": {**_settings(config), "budget": count}}
        variant = {"method": "snl", "label": f"SNL {count}"}
        name = f"{space.record['name']}-snl{count}-seed{seed}"
        found[count] = _open(space, "linearize", name, seed, _module(base), variant, settings)
    pending = {count: run for count, run in found.items() if not run.done}
    _skip(space, len(found) - len(pending))
    if pending:
        space.progress.begin(f"SNL descent, seed {seed}", len(pending))
        started = _now(space)

        def on_epoch(epoch: int, count: int) -> None:
            space.progress.update(epoch, None, "epoch", f"{count} ReLUs")

        # The tightest budget is reached last, so the unfinished descent lies with it.
        progress_dir = pending[min(pending)].progress_dir
        descent = snl.descend(
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
                _write(run, snapshot.network, started, {"epochs": snapshot.epoch}, shared_by=len(pending))
                run.finish()
    return [found[count] for count in counts]


def linearize_deepreduce(space: Workspace, base: Run, config: deepreduce.DeepReduceConfig) -> Run:
    """Build the untrained DeepReDuce student."""
    module = deepreduce.student_module(_module(base), config)
    variant = {"method": "deepreduce", "label": f"DeepReDuce {config.name}"}

    def student() -> Network:
        return deepreduce.student(load_network(base), space.train.image_shape, config, base.config["seed"])

    return _derive(space, base, config.name, module, variant, {"deepreduce": _settings(config)}, student)


def linearize_random(space: Workspace, base: Run, count: int) -> Run:
    """Keep ReLUs at random, with the full network's weights: what any choice of units has to beat."""
    variant = {"method": "random", "label": f"Random {count}"}

    def thinned() -> Network:
        network, key = load_network(base), jax.random.key(base.config["seed"])
        return network.replace(masks=masks.keep_random(network.masks, count, key))

    return _derive(space, base, f"random{count}", _module(base), variant, {"random": {"budget": count}}, thinned)


def _derive(
    space: Workspace,
    base: Run,
    name: str,
    module: ResNet,
    variant: Mapping[str, str],
    settings: Mapping[str, Any],
    make: Callable[[], Network],
) -> Run:
    """Make a network from a full one without training, unless it was made before."""
    seed, settings = base.config["seed"], {"parents": {"full": base.digest}, **settings}
    run = _open(space, "linearize", f"{space.record['name']}-{name}-seed{seed}", seed, module, variant, settings)
    if run.done:
        _skip(space, 1)
        return run
    space.progress.begin(f"{variant['label']}, seed {seed}")
    return _finish(run, make(), _now(space), {})


def finetune(space: Workspace, starts: Sequence[Run], bases: Sequence[Run], config: train.TrainConfig) -> list[Run]:
    """Train networks, one of each seed, by distillation from their full networks; these may be their own start."""
    found = []
    suffix = "" if config.mitigation.method == "none" else f" + {config.mitigation.method}"
    for begin, base in zip(starts, bases, strict=True):
        variant, seed = begin.config["variant"], begin.config["seed"]
        if begin is base:
            variant = {"method": "control", "label": "Full network, fine-tuned"}
        if suffix:
            variant = {"method": "mitigated", "label": variant["label"] + suffix}
        settings = {"parents": {"start": begin.digest, "teacher": base.digest}, "train": _settings(config)}
        name = f"{space.record['name']}-{variant['label']}-seed{seed}"
        found.append(_open(space, "finetune", name, seed, _module(begin), variant, settings))
    title = f"fine-tune {starts[0].config['variant']['label']}{suffix}"
    return _fit(space, found, config, title, lambda i: load_network(starts[i]), lambda i: load_network(bases[i]))


def analyse(space: Workspace, run: Run, base: Run, config: AnalysisConfig) -> Run:
    """Measure every group: accuracy, loss, gradient, curvature, distances, and the change from the full network."""
    variant, seed = run.config["variant"], run.config["seed"]
    settings = {"parents": {"network": run.digest, "full": base.digest}, "analysis": _settings(config)}
    name = f"{space.record['name']}-{variant['label']}-seed{seed}"
    found = _open(space, "analyse", name, seed, _module(run), variant, settings)
    if found.done:
        _skip(space, 1)
        return found
    space.progress.begin(f"analyse {variant['label']}, seed {seed}")
    started = _now(space)
    examples, spectrum, result = measure(load_network(run), load_network(base), space.train, space.test, config)
    found.write_arrays("examples.npz", examples)
    found.write_arrays("spectrum.npz", spectrum)
    return _finish(found, None, started, result)


def load_network(run: Run) -> Network:
    """Read the network of a finished run.

    Raises:
        JaxfairError: the run is not finished, or its checkpoint does not fit its configuration.
    """
    runs.read(run.path).check_checkpoint()
    return checkpoints.restore(run.checkpoint_dir, _shapes(_module(run), tuple(run.config["data"]["image_shape"])))


_shape_cache: dict[tuple[Any, ...], Network] = {}


def _shapes(module: ResNet, image_shape: tuple[int, int, int]) -> Network:
    """Return a network of shapes, not arrays; tracing one takes longer than reading a small checkpoint."""
    key = (module, image_shape)
    if key not in _shape_cache:
        _shape_cache[key] = jax.eval_shape(lambda: init(module, image_shape, 0))
    return _shape_cache[key]


FULL = {"method": "full", "label": "Full network"}


def _open(
    space: Workspace,
    stage: str,
    name: str,
    seed: int,
    module: ResNet,
    variant: Mapping[str, str],
    settings: Mapping[str, Any],
) -> Run:
    model = {field: getattr(module, field) for field in ("stage_sizes", "num_classes", "width", "stem_stride")}
    shared = {"stage": stage, "name": name, "seed": seed, "variant": variant, "data": space.record, "model": model}
    return runs.start(space.root, {**shared, **settings})


def _module(run: Run) -> ResNet:
    model = run.config["model"]
    return ResNet(tuple(model["stage_sizes"]), model["num_classes"], model["width"], model["stem_stride"])


def _settings(config: Any) -> dict[str, Any]:
    """Return what decides the result; how often it is saved, and when a descent gives up, do not."""
    undecisive = ("checkpoint_seconds", "max_epochs")
    return {key: value for key, value in dataclasses.asdict(config).items() if key not in undecisive}


def _fit(
    space: Workspace,
    found: list[Run],
    config: train.TrainConfig,
    title: str,
    network_of: Callable[[int], Network],
    teacher_of: Callable[[int], Network] | None,
) -> list[Run]:
    pending = [i for i, run in enumerate(found) if not run.done]
    _skip(space, len(found) - len(pending))
    if not pending:
        return found
    started = _now(space)
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
            _write(run, network, started, result, shared_by=len(members))
        for run in members:
            run.finish()
        done, started = done + len(members), _now(space)
    return found


def _finish(run: Run, network: Network | None, started: dict[str, Any], result: Mapping[str, Any]) -> Run:
    _write(run, network, started, result)
    return run.finish()


def _write(
    run: Run, network: Network | None, started: dict[str, Any], result: Mapping[str, Any], *, shared_by: int = 1
) -> None:
    if network is not None:
        checkpoints.save(run.checkpoint_dir, 0, network)
        counts = {"relu_count": masks.relu_count(network.masks), "unit_count": masks.unit_count(network.masks)}
        result = {**counts, **result}
    run.write_json("result.json", result)
    seconds = time.time() - started["clock"]
    finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    environment = {**started["environment"], **hardware.describe(), "finished": finished}
    environment |= {"seconds": round(seconds, 2), "seconds_shared_by_runs": shared_by}
    run.write_json("environment.json", environment)


def _now(space: Workspace) -> dict[str, Any]:
    return {"clock": time.time(), "environment": {**runs.environment(), "data_source": space.source}}


def _skip(space: Workspace, count: int) -> None:
    for _ in range(count):
        space.progress.skip()
