"""Stages that linearize: SNL, DeepReDuce, SENet, block coordinate descent, choices at random, and their controls."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from experiments.running.records import Output, Workspace, declare, load_network, module_of, once, open_run, settings_of
from experiments.running.settings import Further
from jaxfair.linearize import bcd, deepreduce, senet, snl
from jaxfair.linearize.config import Accept, BcdConfig, SenetConfig
from jaxfair.networks import masks
from jaxfair.networks.architectures import Module
from jaxfair.networks.network import Network, shapes
from jaxfair.runs import Run
from jaxfair.training.batches import FORWARD, GRADIENT

SUFFIXES = {
    "snl-balanced": " (balanced)",
    "senet-balanced": " (balanced)",
    "bcd-loss": " (loss)",
    "bcd-worst-group": " (worst group)",
    "bcd-cvar": " (CVaR)",
}
"""What a label ends in that is not of the published method."""
PLAIN: dict[str, str] = {
    "snl-balanced": "snl",
    "senet-balanced": "senet",
    "bcd-worst-group": "bcd",
    "bcd-cvar": "bcd",
}
"""The method with which one that looks at groups, or at the worst images, is compared: it does nothing else."""

FROM_BASE = " (from base)"
"""What the label of a DeepReDuce student ends in that does not start fresh, from new weights, as published."""

ASSUMED_DESCENT = 30
"""Epochs of an SNL descent."""


def linearize_snl(
    space: Workspace, base: Run, config: snl.SnlConfig, counts: Sequence[int], *, balanced: bool = False
) -> list[Run]:
    """Linearize by SNL: one descent, one run for each of the different budgets, in their order.

    Args:
        space: of the study.
        base: the full network.
        config: of the descent.
        counts: the budgets.
        balanced: whether every group counts the same in the descent's loss.
    """
    seed, more = base.config["seed"], {"balanced": True} if balanced else {}
    found = []
    for count in counts:
        settings = {"parents": {"full": base.digest}, "snl": {**settings_of(config), "budget": count, **more}}
        variant = {"method": "snl", "label": f"SNL {count}"}
        if balanced:
            variant = {"method": "snl-balanced", "label": f"SNL {count} (balanced)"}
        name = f"{space.record['name']}-snl{count}{'-balanced' if balanced else ''}-seed{seed}"
        found.append(open_run(space, "linearize", name, seed, module_of(base), variant, settings))

    def compute(pending: Sequence[Run]) -> Iterator[list[Output]]:
        by_budget = {run.config["snl"]["budget"]: run for run in pending}
        descent = snl.snl(
            load_network(base),
            space.train,
            config,
            budgets=list(by_budget),
            seed=seed,
            balanced=balanced,
            # The tightest budget is reached last, so the unfinished descent lies with it.
            progress_dir=by_budget[min(by_budget)].progress_dir,
            on_epoch=lambda epoch, count: space.progress.update(epoch, None, "epoch", f"{count} ReLUs"),
            devices=space.devices,
        )
        for snapshot in descent:
            yield [Output(by_budget[snapshot.budget], snapshot.network, {"epochs": snapshot.epoch})]

    work = len(space.train) * ASSUMED_DESCENT * (FORWARD + GRADIENT) / max(len(found), 1)
    return declare(space, found, work, "SNL descent", compute)


def linearize_deepreduce(space: Workspace, base: Run, config: deepreduce.DeepReduceConfig) -> Run:
    """Build the untrained DeepReDuce student."""
    return _student(space, base, config, {"method": "deepreduce", "label": _called(config)})


def _called(config: deepreduce.DeepReduceConfig) -> str:
    return f"DeepReDuce {config.name}" + FROM_BASE * (config.start == "base")


def _student(space: Workspace, base: Run, config: deepreduce.DeepReduceConfig, variant: Mapping[str, str]) -> Run:
    module = deepreduce.student_module(module_of(base), config)

    def student() -> Network:
        return deepreduce.deepreduce(load_network(base), space.train.image_shape, config, seed=base.config["seed"])

    return _derive(space, base, config.name, module, variant, {"deepreduce": settings_of(config)}, student)


def match_snl(space: Workspace, base: Run, linearized: Sequence[Run]) -> list[Run]:
    """Train the full network as the SNL descent did and as long, with all its ReLUs: the control of each budget."""
    seed = base.config["seed"]
    found = []
    for run in linearized:
        budget, balanced = run.config["snl"]["budget"], run.config["snl"].get("balanced", False)
        settings = {"parents": {"full": base.digest, "matched": run.digest}}
        settings |= {"snl": {**run.config["snl"], "masks": "all", "kappa": 0.0}}
        variant = {"method": "matched", "label": matched_label(run.config["variant"]["label"])}
        name = f"{space.record['name']}-matched{budget}{'-balanced' if balanced else ''}-seed{seed}"
        found.append(open_run(space, "linearize", name, seed, module_of(base), variant, settings))
    descended = {run.path: snl_run for run, snl_run in zip(found, linearized, strict=True)}

    def compute(pending: Sequence[Run]) -> Iterator[list[Output]]:
        ends = {run.path: int(descended[run.path].json("result.json")["epochs"]) for run in pending}
        stored = pending[0].config["snl"]
        config = snl.SnlConfig(**{name: stored[name] for name in snl.MATCHED})
        longest = max(ends.values())
        training = snl.matched(
            *(load_network(base), space.train, config),
            ends=list(ends.values()),
            seed=seed,
            balanced=stored.get("balanced", False),
            progress_dir=next(run for run in pending if ends[run.path] == longest).progress_dir,
            on_epoch=lambda epoch: space.progress.update(epoch, longest, "epoch", "all ReLUs"),
            devices=space.devices,
        )
        for snapshot in training:
            batch = [run for run in pending if ends[run.path] == snapshot.epoch]
            yield [Output(run, snapshot.network, {"epochs": snapshot.epoch}) for run in batch]

    work = len(space.train) * ASSUMED_DESCENT * (FORWARD + GRADIENT) / max(len(found), 1)
    return declare(space, found, work, "the control of the SNL descent", compute)


def match_deepreduce(space: Workspace, base: Run, config: deepreduce.DeepReduceConfig) -> Run:
    """Build the DeepReDuce student of a configuration with all its ReLUs: the control of all that cull or thin it."""
    variant = {"method": "matched", "label": matched_label(_called(config))}
    return _student(space, base, dataclasses.replace(config, culled=(), thinned=False), variant)


def matched_label(label: str) -> str:
    """Return what the control of the network ``label`` is called, whatever of its ReLUs is gone.

    It is trained as that one was, so all networks that were trained alike have one.
    """
    method, _, rest = label.partition(" ")
    if method == "SENet":
        return "Matched to SENet"  # at every budget: its mask stage has as many epochs at each
    if method != "DeepReDuce":
        family, loss = "BCD" if method == "BCD" else "SNL", " (balanced)" * (rest.endswith(" (balanced)"))
        return f"Matched to {family} {rest.partition(' ')[0]}{loss}"
    name, start, _ = rest.partition(FROM_BASE)
    config = dataclasses.replace(deepreduce.DeepReduceConfig.parse(name), culled=(), thinned=False)
    return "Matched to DeepReDuce" + (f" {config.name}" if config.name != "full" else "") + start


def linearize_random(space: Workspace, base: Run, count: int, start: Run | None = None) -> Run:
    """Keep ReLUs at random, with the full network's weights: what any choice of units has to beat.

    Args:
        space: of the study.
        base: the full network.
        count: ReLUs to keep.
        start: the control of SNL's network of as many ReLUs, whose weights are kept instead of the full network's, so
            that both were trained alike.
    """
    variant = {"method": "random", "label": f"Random {count}"}
    if start is not None:
        variant = {"method": "random-matched", "label": f"Random {count} after equal training"}
    network = start or base

    def thinned() -> Network:
        full, key = load_network(network), jax.random.key(base.config["seed"])
        return full.replace(masks=masks.keep_random(full.masks, count, key))

    name, settings = f"random{count}{'-matched' if start else ''}", dict[str, Any](random={"budget": count})
    if start is not None:
        settings["parents"] = {"full": base.digest, "matched": start.digest}
    return _derive(space, base, name, module_of(base), variant, settings, thinned)


def _derive(
    space: Workspace,
    base: Run,
    name: str,
    module: Module,
    variant: Mapping[str, str],
    settings: Mapping[str, Any],
    make: Callable[[], Network],
) -> Run:
    """Make a network from a full one without training."""
    seed, settings = base.config["seed"], {"parents": {"full": base.digest}, **settings}
    run = open_run(space, "linearize", f"{space.record['name']}-{name}-seed{seed}", seed, module, variant, settings)
    return once(space, run, 0, variant["label"], lambda: (make(), {}))


def linearize_senet(
    space: Workspace, base: Run, config: SenetConfig, counts: Sequence[int], method: Further = "senet"
) -> list[Run]:
    """Linearize by SENet, but for the fine-tuning: one run for each of the different budgets, in their order."""
    config = dataclasses.replace(config, balanced=method == "senet-balanced")
    variants = [{"method": method, "label": f"SENet {count}{SUFFIXES.get(method, '')}"} for count in counts]
    return _senet(space, base, config, counts, variants)


def match_senet(space: Workspace, base: Run, config: SenetConfig) -> Run:
    """Train as SENet's mask stage does with every ReLU kept: the control of all its budgets."""
    units = masks.unit_count(shapes(module_of(base), space.train.image_shape).masks)
    config = dataclasses.replace(config, balanced=False)  # of the masks, and all are kept
    variant = {"method": "matched", "label": matched_label(f"SENet {units}")}
    return _senet(space, base, config, [units], [variant])[0]


def _senet(
    space: Workspace, base: Run, config: SenetConfig, counts: Sequence[int], variants: Sequence[dict[str, str]]
) -> list[Run]:
    seed, found = base.config["seed"], []
    for count, variant in zip(counts, variants, strict=True):
        settings = {"parents": {"full": base.digest}, "senet": {**settings_of(config), "budget": count}}
        name = f"{space.record['name']}-{variant['label'].replace(' ', '-')}-seed{seed}"
        found.append(open_run(space, "linearize", name, seed, module_of(base), variant, settings))

    def compute(pending: Sequence[Run]) -> Iterator[list[Output]]:
        by_budget = {run.config["senet"]["budget"]: run for run in pending}
        chosen = senet.senet(
            *(load_network(base), space.train, config),
            budgets=list(by_budget),
            seed=seed,
            progress_dir=by_budget[min(by_budget)].progress_dir,  # the tightest is made last
            on_epoch=lambda done, epochs, what: space.progress.update(done, epochs, "epoch", what),
            devices=space.devices,
        )
        for one in chosen:
            result = {"sensitivity": one.sensitivity, "layers": one.counts, "passes": one.passes}
            yield [Output(by_budget[one.budget], one.network, result)]

    epochs = config.sparse_train.epochs * GRADIENT / len(found) + config.mask_train.epochs * (FORWARD + GRADIENT)
    return declare(space, found, len(space.train) * epochs, "SENet", compute)


def bcd_config(config: BcdConfig, method: Further) -> BcdConfig:
    """Return how a method of this family accepts blocks."""
    accept: dict[str, Accept] = {"bcd": "accuracy", "bcd-loss": "loss", "bcd-worst-group": "worst-group"}
    return dataclasses.replace(config, accept=accept.get(method, "cvar"))


def start_count(budget: int, units: int, config: BcdConfig) -> int:
    """Return the ReLUs of the SNL network from which the descent to a budget starts: twice as many, or a block more."""
    return min(units, max(2 * budget, budget + config.block))


def linearize_bcd(
    space: Workspace, start: Run, base: Run, config: BcdConfig, start_relus: int, count: int, method: Further
) -> Run:
    """Remove ReLUs of a fine-tuned network by block coordinate descent, down to a budget.

    Args:
        space: of the study.
        start: the network to start from.
        base: the full network.
        config: how ReLUs are removed; ``accept`` is the method's.
        start_relus: the ReLUs of ``start``.
        count: the budget.
        method: one of this family.
    """
    config, seed = bcd_config(config, method), base.config["seed"]
    variant = {"method": method, "label": f"BCD {count}{SUFFIXES.get(method, '')}"}
    settings = {
        "parents": {"full": base.digest, "start": start.digest},
        "bcd": {**settings_of(config), "budget": count},
    }
    name = f"{space.record['name']}-{method}{count}-seed{seed}"
    run = open_run(space, "linearize", name, seed, module_of(base), variant, settings)

    def compute() -> tuple[Network, dict[str, Any]]:
        found = bcd.bcd(
            *(load_network(start), load_network(base), space.train, config),
            budget=count,
            seed=seed,
            progress_dir=run.progress_dir,
            on_block=lambda done, blocks, relus: space.progress.update(done, blocks, "block", f"{relus} ReLUs"),
            devices=space.devices,
        )
        run.write_arrays("history.npz", found.history._asdict())
        return found.network, {"passes": found.passes, "blocks": len(found.history.relu_count)}

    blocks = bcd.num_blocks(start_relus, count, config)
    work = len(space.train) * blocks * (config.tries / 2 + config.finetune.epochs * (FORWARD + GRADIENT))
    return once(space, run, work, variant["label"], compute)


def match_bcd(space: Workspace, start: Run, base: Run, config: BcdConfig, start_relus: int, count: int) -> Run:
    """Fine-tune as often as the descent to a budget, with every ReLU kept: its control, however blocks are accepted.

    Args:
        space: of the study.
        start: the control of the network from which the descent starts.
        base: the full network.
        config: how ReLUs are removed.
        start_relus: the ReLUs from which the descent starts.
        count: the budget.
    """
    seed, blocks = base.config["seed"], bcd.num_blocks(start_relus, count, config)
    variant = {"method": "matched", "label": matched_label(f"BCD {count}")}
    how = {name: settings_of(config)[name] for name in ("validation", "finetune")}
    settings = {"parents": {"full": base.digest, "start": start.digest}}
    settings |= {"bcd": {**how, "budget": count, "blocks": blocks, "masks": "all"}}
    name = f"{space.record['name']}-matched-bcd{count}-seed{seed}"
    run = open_run(space, "linearize", name, seed, module_of(base), variant, settings)

    def compute() -> tuple[Network, dict[str, Any]]:
        network = bcd.matched(
            *(load_network(start), load_network(base), space.train, config),
            blocks=blocks,
            seed=seed,
            progress_dir=run.progress_dir,
            on_block=lambda done, blocks: space.progress.update(done, blocks, "block", "all ReLUs"),
            devices=space.devices,
        )
        return network, {"passes": bcd.tuning_passes(config, len(space.train), blocks), "blocks": blocks}

    work = len(space.train) * blocks * config.finetune.epochs * (FORWARD + GRADIENT)
    return once(space, run, work, variant["label"], compute)
