"""Selective Network Linearization (Cho et al. 2022, Alg. 1): masks learnt together with the weights.

One descent serves several budgets: its path does not depend on them, so a budget's mask is taken when the number of
ReLUs first falls to it.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxfair import checkpoints, losses
from jaxfair.data.dataset import Augmentation, Dataset
from jaxfair.data.splits import epoch_order
from jaxfair.errors import JaxfairError
from jaxfair.loops import run_epoch
from jaxfair.networks import masks
from jaxfair.networks.network import Network, apply_train, check_images
from jaxfair.training.fit import Fixed, batch, check_finite, check_network, fetch

OnEpoch = Callable[[int, int], None]
"""Called after each epoch of the descent with the epoch and the number of ReLUs left."""


@dataclasses.dataclass(frozen=True)
class SnlConfig:
    """How to descend; defaults from Cho et al. 2022 and their published settings.

    Attributes:
        batch_size: images a step.
        learning_rate: of the one Adam that trains weights and masks. Keep it well below ``threshold``: Adam leaves
            a mask swinging around 0 by about the learning rate, and it counts as a ReLU whenever it is above.
        temperature: of the distillation from the full network.
        kappa: first weight of the L1 norm of the masks.
        kappa_growth: factor on kappa after an epoch that found no new lowest count.
        warmup_epochs: kappa grows from this epoch on.
        threshold: a unit counts as a ReLU while its mask exceeds this.
        max_epochs: give up after so many.
        rule: ``exact`` keeps the budget's number of largest masks; ``threshold`` keeps those above the threshold, at
            most the budget, as the authors' code does.
        augment: of the training images.
        checkpoint_seconds: between checkpoints, which are written after an epoch: a killed descent loses at most this
            and one epoch.
    """

    batch_size: int = 256
    learning_rate: float = 1e-3
    temperature: float = 4.0
    kappa: float = 1e-5
    kappa_growth: float = 1.1
    warmup_epochs: int = 5
    threshold: float = 1e-2
    max_epochs: int = 2000
    rule: Literal["exact", "threshold"] = "exact"
    augment: Augmentation = "none"
    checkpoint_seconds: float = 60.0


class Snapshot(NamedTuple):
    """The network when the descent reached a budget: its weights at that moment, and 0/1 masks.

    Its accuracy is low until it is fine-tuned (Alg. 1, line 12; ``train.SNL_FINETUNE``).
    """

    budget: int
    epoch: int
    network: Network


class Descent(NamedTuple):
    """State of a descent; the network's masks are the trained ones."""

    network: Network
    opt_state: Any
    kappa: Float[Array, ""]


def objective(
    network: Network,
    params: Any,
    alphas: Any,
    teacher_logits: Float[Array, "n c"],
    images: Float[Array, "n h w ch"],
    label: Int[Array, " n"],
    kappa: Float[Array, ""] | float,
    temperature: float,
) -> tuple[Float[Array, ""], Any]:
    """Compute ``CE(student, y) + T^2 KD(student, teacher) + kappa ||alpha||_1`` and the new batch statistics."""
    logits, batch_stats = apply_train(network, params, alphas, images)
    fit = losses.cross_entropy(logits, label) + losses.distillation(logits, teacher_logits, temperature)
    norm = sum(jnp.abs(alpha).sum() for alpha in jax.tree.leaves(alphas))
    return fit.mean() + kappa * norm, batch_stats


@dataclasses.dataclass(frozen=True)
class SnlStep:
    """One Adam step on weights and masks."""

    config: SnlConfig

    def __call__(
        self, carry: Descent, fixed: Fixed, x: tuple[Int[Array, ""], Int[Array, " b"]]
    ) -> tuple[Descent, Float[Array, ""]]:
        """Return the state after the step and the objective before it."""
        network, opt_state, kappa = carry
        assert fixed.teacher is not None
        images, label = batch(fixed, self.config.augment, *x)
        teacher_logits = fixed.teacher(images)

        def loss_fn(trained: tuple[Any, Any]) -> tuple[Array, Any]:
            return objective(network, *trained, teacher_logits, images, label, kappa, self.config.temperature)

        trained = (network.params, network.masks)
        (loss, batch_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained)
        updates, opt_state = optax.adam(self.config.learning_rate).update(grads, opt_state)
        params, alphas = optax.apply_updates(trained, updates)  # pyright: ignore
        return Descent(network.replace(params=params, masks=alphas, batch_stats=batch_stats), opt_state, kappa), loss


def check_config(config: SnlConfig, num_examples: int) -> None:
    """Raise a JaxfairError if no descent can be made by this configuration."""
    if not 1 <= config.max_epochs <= 1_000_000 or not config.learning_rate > 0:
        raise JaxfairError(
            f"The SNL descent is to last {config.max_epochs} epochs at learning rate {config.learning_rate}; "
            "give at least one epoch (at most a million), and a positive rate."
        )
    pulls = 0 < config.kappa < np.inf and 1 <= config.kappa_growth < np.inf
    if not (pulls and 0 < config.threshold < 1 and config.temperature > 0):
        raise JaxfairError(
            f"SNL has kappa {config.kappa}, kappa_growth {config.kappa_growth}, threshold {config.threshold} and "
            f"temperature {config.temperature}; give a positive kappa, a growth of at least 1, a threshold between 0 "
            "and 1 (masks start at 1), and a positive temperature."
        )
    epoch_order(num_examples, config.batch_size, 0, 0)


def descend(
    network: Network,
    data: Dataset,
    config: SnlConfig,
    *,
    budgets: Sequence[float],
    seed: int,
    progress_dir: Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> Iterator[Snapshot]:
    """Descend once from the full network and yield a snapshot at each budget, the largest budget first.

    Args:
        network: the trained full network; it is also the teacher.
        data: the training set.
        config: how to descend.
        budgets: numbers of ReLUs to keep, as counts or as fractions below 1 of all units.
        seed: of the order of the data.
        progress_dir: where the unfinished descent is kept; a killed descent goes on from there. The snapshot that it
            had just yielded may come once more.
        on_epoch: called after every epoch.

    Raises:
        JaxfairError: a budget is impossible, the loss is not finite, or ``max_epochs`` did not reach a budget.
    """
    check_images(network, data)
    check_config(config, len(data))
    return _descend(network, data, config, budgets, seed, progress_dir, on_epoch)


def _descend(
    network: Network,
    data: Dataset,
    config: SnlConfig,
    budgets: Sequence[float],
    seed: int,
    progress_dir: Path | None,
    on_epoch: OnEpoch | None,
) -> Iterator[Snapshot]:
    counts = sorted({masks.resolve_budget(b, masks.unit_count(network.masks)) for b in budgets}, reverse=True)
    step = SnlStep(dataclasses.replace(config, checkpoint_seconds=0, max_epochs=0, rule="exact", kappa=0))
    fixed = Fixed(jax.tree.map(jnp.copy, network), data, jnp.int32(seed))
    opt_state = optax.adam(config.learning_rate).init((network.params, network.masks))  # pyright: ignore
    carry = Descent(jax.tree.map(jnp.copy, network), opt_state, jnp.float32(config.kappa))
    lowest, first = np.int32(masks.unit_count(network.masks)), 0
    if progress_dir is not None:
        progress_dir = Path(progress_dir) / checkpoints.key(
            seed, step, config.kappa, config.kappa_growth, data.fingerprint()
        )
    if progress_dir is not None and checkpoints.latest_step(progress_dir) is not None:
        first = checkpoints.latest_step(progress_dir) or 0
        fresh = carry, lowest
        carry, lowest = checkpoints.restore(progress_dir, fresh)
        if lowest <= counts[0]:
            # That descent passed a budget that is asked for only now: its snapshot has to be taken from the start.
            (carry, lowest), first = fresh, 0
    saved = time.monotonic()
    epoch = first - 1
    for epoch in range(first, config.max_epochs):
        index = epoch_order(len(data), config.batch_size, seed, epoch)
        numbers = np.arange(epoch * len(index), (epoch + 1) * len(index), dtype=np.int32)
        carry, loss = run_epoch(step, carry, fixed, (numbers, index), fetch=fetch if data.on_host else None)
        check_finite(loss, epoch * len(index), f"the SNL descent of seed {seed}")
        count = masks.relu_count(carry.network.masks, threshold=config.threshold)
        if count < lowest:
            lowest = np.int32(count)
        elif epoch >= config.warmup_epochs:
            carry = carry._replace(kappa=carry.kappa * config.kappa_growth)
        if on_epoch is not None:
            on_epoch(epoch + 1, count)
        if count <= counts[0]:
            check_network(carry.network, f"the SNL descent of seed {seed}")
        while counts and count <= counts[0]:
            yield Snapshot(counts[0], epoch + 1, _binarise(carry.network, config, counts.pop(0)))
        if not counts:
            return
        if progress_dir is not None and time.monotonic() - saved > config.checkpoint_seconds:
            checkpoints.save(progress_dir, epoch + 1, (carry, lowest))
            saved = time.monotonic()
    if progress_dir is not None and epoch >= first:
        checkpoints.save(progress_dir, epoch + 1, (carry, lowest))
    raise JaxfairError(
        f"SNL still had {int(lowest)} ReLUs after {config.max_epochs} epochs, above the budget {counts[0]}; "
        "raise kappa or max_epochs, and keep the learning rate well below the threshold."
    )


def _binarise(network: Network, config: SnlConfig, budget: int) -> Network:
    if config.rule == "exact":
        chosen = masks.keep_largest(network.masks, budget)
    else:
        chosen = masks.above(network.masks, config.threshold)
    # A copy: the descent goes on and its next step consumes these arrays.
    return jax.tree.map(jnp.copy, network.replace(masks=chosen))
