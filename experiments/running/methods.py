"""Stages of the further linearization methods, SENet and block coordinate descent, and of their controls."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.running.records import Output, Workspace, declare, load_network, module_of, once, open_run, settings_of
from experiments.running.settings import Further
from experiments.running.stages import matched_label
from jaxfair.linearize import bcd, senet
from jaxfair.linearize.config import BcdConfig, SenetConfig
from jaxfair.networks import masks
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
        )
        for one in chosen:
            result = {"sensitivity": one.sensitivity, "layers": one.counts, "passes": one.passes}
            yield [Output(by_budget[one.budget], one.network, result)]

    epochs = config.sparse_train.epochs * GRADIENT / len(found) + config.mask_train.epochs * (FORWARD + GRADIENT)
    return declare(space, found, len(space.train) * epochs, "SENet", compute)


def bcd_config(config: BcdConfig, method: Further) -> BcdConfig:
    """Return how a method of this family accepts blocks."""
    accept: dict[str, bcd.Accept] = {"bcd": "accuracy", "bcd-loss": "loss", "bcd-worst-group": "worst-group"}
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
        )
        return network, {"passes": bcd.tuning_passes(config, len(space.train), blocks), "blocks": blocks}

    work = len(space.train) * blocks * config.finetune.epochs * (FORWARD + GRADIENT)
    return once(space, run, work, variant["label"], compute)
