"""Block coordinate descent (arXiv 2511.11781): random blocks of ReLUs go if the network hardly misses them.

It starts from a network with more ReLUs than the budget, such as SNL's at twice the budget, fine-tuned. By ``accept``
the network may be asked how the worst group fares, or the worst images, instead of all; that is ours.
"""

import dataclasses
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from jaxfair import checkpoints, losses
from jaxfair.data.dataset import Dataset
from jaxfair.data.splits import derived_seed, divide
from jaxfair.errors import JaxfairError
from jaxfair.groups import group_means
from jaxfair.linearize.config import BcdConfig
from jaxfair.loops import epochs
from jaxfair.networks import masks
from jaxfair.networks.network import Network, check_images, over_images
from jaxfair.options import Natural, Seed, checked
from jaxfair.training import fit, mitigate, sharing
from jaxfair.training.batches import FORWARD, GRADIENT

CHUNK = 1024
"""Images on which a candidate is measured at once."""

OnBlock = Callable[[int, int, int], None]
"""Called after each block with the blocks done, the blocks in all, and the number of ReLUs left."""


class History(NamedTuple):
    """What was tried, block by block, in float32.

    Attributes:
        relu_count: the ReLUs left after each block, shape (blocks,).
        risk: the risk before each block, shape (blocks,).
        rises: by how much the risk rose without each block that was tried, before fine-tuning, shape (blocks, tries);
            NaN of those that were not tried.
    """

    relu_count: Any
    risk: Any
    rises: Any


class Descended(NamedTuple):
    """What the descent came to.

    Attributes:
        network: the network, fine-tuned, with exactly the budget's ReLUs.
        history: what was tried on the way.
        passes: the work of trying and of fine-tuning, in forward passes of one image.
    """

    network: Network
    history: History
    passes: int


class Progress(NamedTuple):
    """State between blocks."""

    network: Network
    history: History


@checked
def bcd(
    network: Network,
    teacher: Network,
    data: Dataset,
    config: BcdConfig,
    *,
    budget: float,
    seed: Seed,
    progress_dir: Path | None = None,
    on_block: OnBlock | None = None,
    devices: int = 1,
) -> Descended:
    """Remove ReLUs of a network, block by block, down to a budget.

    Args:
        network: the network to start from, with 0/1 masks that hold at least the budget; it is not changed.
        teacher: the full network, from which it is distilled.
        data: the training set.
        config: how to remove.
        budget: the number of ReLUs to keep, as a count or as a fraction below 1 of all units.
        seed: decides the blocks, the images held back, and the order in which images are seen.
        progress_dir: a folder where checkpoints of the unfinished descent are kept, in a sub-folder named by what
            decides it. A killed descent loses at most ``finetune.checkpoint_seconds`` and one block. The caller removes
            the folder. None keeps no checkpoints.
        on_block: called after every block.
        devices: how many of this process' devices share the batches of the fine-tuning, as for ``fit``.

    Raises:
        JaxfairError: the budget is impossible or more than the network has, a number of the configuration is
            impossible, the images do not suit the networks, there are fewer devices, or a loss or a weight is not
            finite.

    Example:
        >>> import dataclasses
        >>> from jaxfair import CNN, bcd, init, load
        >>> from jaxfair.linearize.config import BCD_FINETUNE, BcdConfig
        >>> train, _ = load("digits").split()
        >>> network = init(CNN(num_classes=10, features=(2,)), train.image_shape, seed=0)
        >>> config = BcdConfig(block=20, tries=5, finetune=dataclasses.replace(BCD_FINETUNE, epochs=1))
        >>> found = bcd(network, network, train, config, budget=100, seed=0)
        >>> found.history.relu_count.tolist()
        [108, 100]
    """
    count = masks.resolve_budget(budget, masks.unit_count(network.masks))
    start = masks.relu_count(network.masks)
    if start < count:
        raise JaxfairError(
            f"The network has {start} ReLUs, fewer than the budget of {count}; start from one with more."
        )
    fitting, measured = _parts(network, teacher, data, config, seed, devices)
    blocks = num_blocks(start, count, config)
    folder = _folder(progress_dir, "bcd", count, seed, config, data, network, teacher)

    def run(block: int, state: Progress) -> Progress:
        size = min(config.block, start - block * config.block - count)
        thinned, risk, rises = _without_block(
            state.network, measured, config, size, np.random.default_rng([seed, block])
        )
        history = History(*map(np.array, state.history))  # a checkpoint's cannot be written to
        history.relu_count[block] = masks.relu_count(thinned.masks)
        history.risk[block], history.rises[block, : len(rises)] = risk, rises
        return Progress(_tuned(thinned, teacher, fitting, config, seed, block, folder, devices), history)

    unknown = np.full((blocks, config.tries), np.nan, np.float32)
    fresh = Progress(network, History(np.zeros(blocks, np.int32), unknown[:, 0].copy(), unknown))
    found = checkpoints.resume(folder, fresh)
    state, seconds = found[1], config.finetune.checkpoint_seconds
    for done, state in epochs(run, found, blocks, folder, seconds, keep_last=True):
        if on_block is not None:
            on_block(done, blocks, int(state.history.relu_count[done - 1]))
    history = History(*map(np.array, state.history))
    tried = int(np.isfinite(history.rises).sum()) + blocks
    return Descended(state.network, history, tried * len(measured) * FORWARD + tuning_passes(config, len(data), blocks))


@checked
def matched(
    network: Network,
    teacher: Network,
    data: Dataset,
    config: BcdConfig,
    *,
    blocks: Natural,
    seed: Seed,
    progress_dir: Path | None = None,
    on_block: Callable[[int, int], None] | None = None,
    devices: int = 1,
) -> Network:
    """Fine-tune as the descent does after each block, and remove nothing: its control.

    Args:
        network: the network to start from, with all its ReLUs, trained as the start of the descent was.
        teacher: the full network.
        data: the training set.
        config: how the descent went; block, tries, threshold, accept and level have no meaning here.
        blocks: the blocks of the descent (``num_blocks``).
        seed: that of the descent.
        progress_dir: as for ``bcd``.
        on_block: called after every fine-tuning with those done and those in all.
        devices: as for ``bcd``.

    Returns:
        The network after as many fine-tunings as the descent has blocks.

    Raises:
        JaxfairError: as ``bcd``.

    Example:
        >>> import dataclasses
        >>> from jaxfair import CNN, init, load
        >>> from jaxfair.linearize.bcd import matched
        >>> from jaxfair.linearize.config import BCD_FINETUNE, BcdConfig
        >>> from jaxfair.networks.masks import relu_count
        >>> train, _ = load("digits").split()
        >>> network = init(CNN(num_classes=10, features=(2,)), train.image_shape, seed=0)
        >>> config = BcdConfig(finetune=dataclasses.replace(BCD_FINETUNE, epochs=1))
        >>> relu_count(matched(network, network, train, config, blocks=2, seed=0).masks)
        128
    """
    fitting, _ = _parts(network, teacher, data, config, seed, devices)
    plain = BcdConfig(validation=config.validation, finetune=config.finetune)
    folder = _folder(progress_dir, "matched", blocks, seed, plain, data, network, teacher)
    found = checkpoints.resume(folder, network)
    last, seconds = found[1], config.finetune.checkpoint_seconds

    def run(block: int, before: Network) -> Network:
        return _tuned(before, teacher, fitting, config, seed, block, folder, devices)

    for done, after in epochs(run, found, blocks, folder, seconds, keep_last=True):
        last = after
        if on_block is not None:
            on_block(done, blocks)
    return last


def num_blocks(start: int, budget: int, config: BcdConfig) -> int:
    """Return the number of blocks between two counts of ReLUs."""
    return -(-(start - budget) // config.block)


def check_config(config: BcdConfig, num_examples: int, num_groups: int) -> None:
    """Raise a JaxfairError if nothing can be removed by this configuration with so many images and groups."""
    shares = 0 < config.level <= 1 and 0 <= config.validation < 1
    if config.block < 1 or config.tries < 1 or not np.isfinite(config.threshold) or not shares:
        raise JaxfairError(
            f"BCD has blocks of {config.block} ReLUs, {config.tries} tries, threshold {config.threshold}, level "
            f"{config.level} and validation {config.validation}; give blocks and tries of at least 1, a finite "
            "threshold, a level in (0, 1] and a validation in [0, 1)."
        )
    fit.check_config(config.finetune, _trained_on(config, num_examples))
    mitigate.check_config(config.finetune.mitigation, num_groups)


def risk(config: BcdConfig, correct: Bool[np.ndarray, " n"], loss: Float[np.ndarray, " n"], data: Dataset) -> float:
    """Return the risk of ``config.accept`` from whether each image is classified correctly, and from its loss."""
    if config.accept == "accuracy":
        return float(1 - correct.mean())
    if config.accept == "cvar":
        return float(mitigate.cvar(jnp.asarray(loss), config.level))
    # All images are a group too: with one group both risks are the same sum.
    group = np.asarray(data.group) if config.accept == "worst-group" else np.zeros(len(data), int)
    return float(np.nanmax(group_means(loss, group, int(group.max()) + 1)))


def _parts(
    network: Network, teacher: Network, data: Dataset, config: BcdConfig, seed: int, devices: int
) -> tuple[Dataset, Dataset]:
    """Check the networks, configuration and devices; return the images to train on and those on which to measure."""
    for one in (network, teacher):
        check_images(one, data)
    check_config(config, len(data), len(data.group_names))
    sharing.check(devices, config.finetune.batch_size)
    if devices > 1 and jax.process_count() > 1:
        raise JaxfairError(
            f"BCD acts on what it measures, and {jax.process_count()} processes may round it otherwise; give 1 device."
        )
    return divide(data, config.validation, seed, held_out="validation") if config.validation else (data, data)


def _folder(
    progress_dir: Path | None,
    what: str,
    end: int,
    seed: int,
    config: BcdConfig,
    data: Dataset,
    network: Network,
    teacher: Network,
) -> Path | None:
    if progress_dir is None:
        return None
    decisive = dataclasses.replace(config, finetune=dataclasses.replace(config.finetune, checkpoint_seconds=0))
    start = network.module, checkpoints.tree_digest((network, teacher))
    return Path(progress_dir) / checkpoints.key(what, end, seed, decisive, data.fingerprint(), *start)


def _without_block(
    network: Network, measured: Dataset, config: BcdConfig, size: int, rng: np.random.Generator
) -> tuple[Network, float, list[float]]:
    """Return the network without the block that goes, the risk before, and the rise without each that was tried.

    Candidates are measured one after another, so that what follows the first good one is never computed. All of them
    in one program (``vmap`` over masks, whose images are then one large batch: the weights are shared, so it is no
    grouped convolution) took 0.85 s instead of 1.1 s for ten of them on two CPU cores, 1,347 digits and a ResNet of
    width 8: a quarter less where all tries are needed, and several times as much where the first one is good.
    """
    flat, unravel = ravel_pytree(network.masks)
    flat = np.array(flat)
    active, before = np.flatnonzero(flat > 0), risk(config, *_scores(network, measured), measured)
    found, rises = [], []
    for _ in range(config.tries):
        thinned = flat.copy()
        thinned[rng.choice(active, size, replace=False)] = 0
        found.append(network.replace(masks=unravel(jnp.asarray(thinned))))
        rise = risk(config, *_scores(found[-1], measured), measured) - before
        rises.append(rise if np.isfinite(rise) else np.inf)
        if rise < config.threshold:
            return found[-1], before, rises
    return found[int(np.argmin(rises))], before, rises


def _scores(network: Network, data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each image is classified correctly, and its cross-entropy, in evaluation mode."""
    return over_images(_of_batch, network, data, CHUNK)


@jax.jit
def _of_batch(network: Network, data: Dataset, index: Int[Array, " b"]) -> tuple[Array, Array]:
    logits, label = network(data.normalize(data.images[index])), data.label[index]
    return logits.argmax(-1).astype(label.dtype) == label, losses.cross_entropy(logits, label)


def _tuned(
    network: Network,
    teacher: Network,
    data: Dataset,
    config: BcdConfig,
    seed: int,
    block: int,
    folder: Path | None,
    devices: int,
) -> Network:
    """Return the network after the fine-tuning that follows a block."""
    order = derived_seed(seed, 4, block)
    place = None if folder is None else folder / "finetune"
    fitted = fit.fit(
        [network],
        data,
        config.finetune,
        seeds=[order],
        teachers=[teacher] if config.finetune.distillation_weight else None,
        progress_dirs=None if place is None else [place],
        devices=devices,
    )
    tuned = next(fitted).network
    if place is not None:
        shutil.rmtree(place, ignore_errors=True)
    return tuned


def tuning_passes(config: BcdConfig, num_examples: int, blocks: int) -> int:
    """Return the work of all fine-tunings with so many images, in forward passes of one image."""
    return blocks * fit.images_seen(config.finetune, _trained_on(config, num_examples)) * (FORWARD + GRADIENT)


def _trained_on(config: BcdConfig, num_examples: int) -> int:
    """Return how many images are not held back."""
    return num_examples - math.ceil(config.validation * num_examples)
