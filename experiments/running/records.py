"""What the stages of a study share: where runs lie, how they are found, noted in a plan, and recorded when finished."""

import dataclasses
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments.running.progress import Progress
from jaxfair import checkpoints, hardware, runs
from jaxfair.data.dataset import Dataset
from jaxfair.networks import masks
from jaxfair.networks.architectures import CNN, Module, ResNet
from jaxfair.networks.network import Network, shapes
from jaxfair.runs import Run


class Planned(NamedTuple):
    """A run that a study needs, finished or not.

    Attributes:
        run: where it is or will be.
        work: what it takes, in forward passes of one image through the full network; a guess.
    """

    run: Run
    work: float


@dataclasses.dataclass(frozen=True)
class Workspace:
    """What all stages of a study share; with a plan, stages only note there what they would make."""

    root: Path
    train: Dataset
    test: Dataset
    record: dict[str, Any]
    progress: Progress
    seeds_at_once: int | None = None
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # more for every record of the environment
    plan: list[Planned] | None = None


def noted(space: Workspace, found: Iterable[Run], work: float) -> bool:
    """Note runs in the plan, if that is all that is wanted."""
    if space.plan is not None:
        space.plan.extend(Planned(run, work) for run in found)
    return space.plan is not None


def open_run(
    space: Workspace,
    stage: str,
    name: str,
    seed: int,
    module: Module,
    variant: Mapping[str, str],
    settings: Mapping[str, Any],
) -> Run:
    """Open the run of a configuration; when planning, only say where it would be."""
    fields = [field.name for field in dataclasses.fields(module) if field.name not in ("parent", "name")]
    model = {"network": type(module).__name__, **{field: getattr(module, field) for field in fields}}
    shared = {"stage": stage, "name": name, "seed": seed, "variant": variant, "data": space.record, "model": model}
    find = runs.start if space.plan is None else runs.locate
    return find(space.root, {**shared, **settings})


def module_of(run: Run) -> Module:
    """Return the architecture of a run's network."""
    stored = dict(run.config["model"])
    network = {"ResNet": ResNet, "CNN": CNN}[stored.pop("network", "ResNet")]
    return network(**{key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()})


def settings_of(config: Any) -> dict[str, Any]:
    """Return what decides the result; how often it is saved, and when a descent gives up, do not."""
    undecisive = ("checkpoint_seconds", "max_epochs")
    return {key: value for key, value in dataclasses.asdict(config).items() if key not in undecisive}


def load_network(run: Run) -> Network:
    """Read the network of a finished run.

    Raises:
        JaxfairError: the run is not finished, or its checkpoint does not fit its configuration.
    """
    runs.read(run.path).check_checkpoint()
    return checkpoints.restore(run.checkpoint_dir, shapes(module_of(run), tuple(run.config["data"]["image_shape"])))


def finish(run: Run, network: Network | None, started: dict[str, Any], result: Mapping[str, Any]) -> Run:
    """Write what came out and mark the run as finished."""
    write(run, network, started, result)
    return run.finish()


def write(
    run: Run, network: Network | None, started: dict[str, Any], result: Mapping[str, Any], *, shared_by: int = 1
) -> None:
    """Write a network, its result, and where and how long it was made; ``shared_by`` runs were made together."""
    if network is not None:
        checkpoints.save(run.checkpoint_dir, 0, network)
        counts = {"relu_count": masks.relu_count(network.masks), "unit_count": masks.unit_count(network.masks)}
        result = {**counts, **result}
    run.write_json("result.json", result)
    seconds = time.time() - started["clock"]
    finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    environment = {**hardware.describe(), **started["environment"], "finished": finished}
    environment |= {"seconds": round(seconds, 2), "seconds_shared_by_runs": shared_by}
    run.write_json("environment.json", environment)


def now(space: Workspace) -> dict[str, Any]:
    """Return the environment that a run starts in."""
    return {"clock": time.time(), "environment": {**runs.environment(), "data_source": space.source, **space.about}}


def skip(space: Workspace, count: int) -> None:
    """Count runs that an earlier call finished."""
    for _ in range(count):
        space.progress.skip()
