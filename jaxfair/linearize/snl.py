"""Selective Network Linearization (Cho et al. 2022, Alg. 1): masks learnt together with the weights.

One descent serves several budgets: its path does not depend on them, so a budget's mask is taken when the number of
ReLUs first falls to it. ``matched`` is the control: the same descent with all ReLUs kept.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxfair import checkpoints, losses
from jaxfair.data.dataset import Dataset
from jaxfair.data.splits import epoch_order
from jaxfair.errors import JaxfairError
from jaxfair.linearize.config import SnlConfig
from jaxfair.loops import epochs
from jaxfair.networks import masks
from jaxfair.networks.network import Network, apply_train, check_images
from jaxfair.options import Seed, checked
from jaxfair.training import sharing
from jaxfair.training.batches import Fixed, answered, batch, check_network, group_balance, run_batches, taught

MATCHED = ("batch_size", "learning_rate", "temperature", "augment")
"""What of a descent's configuration decides the training that is ``matched`` to it."""

OnEpoch = Callable[[int, int], None]
"""Called after each epoch of the descent with the epochs done and the number of ReLUs left."""


class Snapshot(NamedTuple):
    """The network when the descent reached a budget.

    Its accuracy is low until it is fine-tuned (Cho et al. 2022, Alg. 1, line 12; ``SNL_FINETUNE``).

    Attributes:
        budget: the number of ReLUs that were to be kept.
        epoch: the epochs of the descent until then.
        network: the weights at that moment, with masks of 0 and 1.
    """

    budget: int
    epoch: int
    network: Network


class Descent(NamedTuple):
    """What a step changes: the network, whose masks may be trained too, Adam's state, and kappa, set by epochs."""

    network: Network
    opt_state: Any
    kappa: Float[Array, ""]


class Progress(NamedTuple):
    """State of a descent between epochs.

    Attributes:
        carry: what its steps change.
        count: the ReLUs left, shape ().
        lowest: the fewest that were left after any epoch, shape ().
    """

    carry: Descent
    count: np.int32 | Int[Array, ""]
    lowest: np.int32 | Int[Array, ""]


def objective(
    network: Network,
    params: Any,
    alphas: Any,
    teacher_logits: Float[Array, "n c"],
    images: Float[Array, "n h w ch"],
    label: Int[Array, " n"],
    kappa: Float[Array, ""] | float,
    temperature: float,
    weight: Float[Array, " n"] | None = None,
) -> tuple[Float[Array, ""], Any]:
    """Compute the objective of Cho et al. 2022 (Alg. 1): labels, distillation and the L1 norm of the masks.

    It is ``mean(CE(student, y) + T^2 KL(teacher || student)) + kappa ||alpha||_1`` on a batch of n images.

    Args:
        network: holds the module and the batch statistics before the step.
        params: the student's weights.
        alphas: the student's masks, real numbers.
        teacher_logits: the full network's logits.
        images: the normalized images.
        label: the class of each image.
        kappa: the weight of the norm.
        temperature: the temperature T of the distillation.
        weight: a factor on the loss of each image; None is 1.

    Returns:
        The objective, and the batch statistics after the step.
    """
    logits, batch_stats = apply_train(network, params, alphas, images)
    fit = losses.cross_entropy(logits, label) + losses.distillation(logits, teacher_logits, temperature)
    norm = sum(jnp.abs(alpha).sum() for alpha in jax.tree.leaves(alphas))
    fit = fit if weight is None else weight * fit
    return fit.mean() + kappa * norm, batch_stats


@dataclasses.dataclass(frozen=True)
class SnlStep:
    """One Adam step on weights and masks, or on the weights alone."""

    config: SnlConfig
    choosing: bool = True

    def __call__(
        self, carry: Descent, fixed: Fixed, x: tuple[Int[Array, ""], Int[Array, " b"]]
    ) -> tuple[Descent, dict[str, Float[Array, ""]]]:
        """Return the state after the step and the objective before it."""
        network, opt_state, kappa = carry
        images, label = batch(fixed, self.config.augment, *x)
        teacher_logits, temperature = taught(fixed, images, x[1]), self.config.temperature
        weight = None if fixed.group_weight is None else fixed.group_weight[fixed.data.group[x[1]]]

        def loss_fn(trained: Any) -> tuple[Array, Any]:
            params, alphas = trained if self.choosing else (trained, network.masks)
            return objective(network, params, alphas, teacher_logits, images, label, kappa, temperature, weight)

        trained = _trained(network, self.choosing)
        (loss, batch_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained)
        updates, opt_state = optax.adam(self.config.learning_rate).update(grads, opt_state)
        after: Any = optax.apply_updates(trained, updates)  # pyright: ignore
        params, alphas = after if self.choosing else (after, network.masks)
        network = network.replace(params=params, masks=alphas, batch_stats=batch_stats)
        return Descent(network, opt_state, kappa), {"loss": loss}


def check_config(config: SnlConfig, num_examples: int) -> None:
    """Raise a JaxfairError if no descent can be made by this configuration on so many images."""
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


@checked
def snl(
    network: Network,
    data: Dataset,
    config: SnlConfig,
    *,
    budgets: Sequence[float],
    seed: Seed,
    balanced: bool = False,
    progress_dir: Path | None = None,
    on_epoch: OnEpoch | None = None,
    devices: int = 1,
) -> Iterator[Snapshot]:
    """Linearize by Selective Network Linearization: descend once, and yield a snapshot at each budget.

    Args:
        network: the trained full network; it is also the teacher, and is not changed.
        data: the training set.
        config: how to descend.
        budgets: numbers of ReLUs to keep, as counts or as fractions below 1 of all units.
        seed: decides the order in which images are seen, and their augmentation.
        balanced: whether every group counts the same in the loss, whatever its size; with one group nothing changes.
        progress_dir: a folder where checkpoints of the unfinished descent are kept, in a sub-folder named by what
            decides the descent. A killed descent goes on from there, if it is given the budgets that are left; the
            snapshot that it had just yielded may come once more. The caller removes the folder. None keeps no
            checkpoints.
        on_epoch: called after every epoch.
        devices: how many of ``jax.devices()`` share each batch, as for ``fit``.

    Returns:
        An iterator that descends when it is read, and yields a snapshot for each different budget, the largest first.

    Raises:
        JaxfairError: when called, if there is no budget or an impossible one, the images do not suit the network, or
            there are fewer devices; when read, if the loss or a weight is not finite, or ``max_epochs`` did not reach a
            budget.

    Example:
        >>> from jaxfair import CNN, init, load, snl
        >>> from jaxfair.linearize.config import SnlConfig
        >>> from jaxfair.networks.masks import relu_count
        >>> train, _ = load("digits").split()
        >>> network = init(CNN(num_classes=10, features=(2,)), train.image_shape, seed=0)
        >>> config = SnlConfig(learning_rate=0.02, kappa=0.01)
        >>> found = next(snl(network, train, config, budgets=[0.5], seed=0))
        >>> relu_count(network.masks), relu_count(found.network.masks)
        (128, 64)
    """
    check_images(network, data)
    check_config(config, len(data))
    sharing.check(devices, config.batch_size)
    counts = masks.resolve_budgets(budgets, masks.unit_count(network.masks), "SNL")
    masks.check_all_kept(network.masks, "SNL")
    fixed, folder = _prepared(network, data, config, seed, balanced, progress_dir, (seed, _decisive(config)))
    shared = sharing.mesh(devices, config.batch_size)
    return _descend(network, fixed, config, counts, seed, folder, on_epoch, shared)


@checked
def matched(
    network: Network,
    data: Dataset,
    config: SnlConfig,
    *,
    ends: Sequence[int],
    seed: Seed,
    balanced: bool = False,
    progress_dir: Path | None = None,
    on_epoch: Callable[[int], None] | None = None,
    devices: int = 1,
) -> Iterator[Snapshot]:
    """Train as the descent of ``snl`` does, with every ReLU kept: the control that any linearized network has to face.

    Optimizer, distillation, epochs and the order of the images are those of the descent; masks stay as they are and
    have no norm to pay. So what it gains or loses is training's, and only the rest is linearization's.

    Args:
        network: the trained full network; it is also the teacher, and is not changed.
        data: the training set.
        config: how the descent went; kappa, its growth, the threshold and the rule have no meaning here.
        ends: the epochs of the descent at which a budget was reached (``Snapshot.epoch``).
        seed: that of the descent.
        balanced: as for ``snl``.
        progress_dir: as for ``snl``.
        on_epoch: called after every epoch with the epochs done.
        devices: as for ``snl``.

    Returns:
        An iterator that trains when it is read, and yields a snapshot for each different end, the first one first.

    Raises:
        JaxfairError: when called, if there are no ends, the images do not suit the network, or there are fewer devices;
            when read, if the loss or a weight is not finite.

    Example:
        >>> from jaxfair import CNN, init, load
        >>> from jaxfair.linearize.snl import matched
        >>> from jaxfair.linearize.config import SnlConfig
        >>> train, _ = load("digits").split()
        >>> network = init(CNN(num_classes=10, features=(2,)), train.image_shape, seed=0)
        >>> [found.epoch for found in matched(network, train, SnlConfig(), ends=[1, 2], seed=0)]
        [1, 2]
    """
    check_images(network, data)
    check_config(config, len(data))
    sharing.check(devices, config.batch_size)
    marks = sorted(set(ends))
    if not marks or marks[0] < 1:
        raise JaxfairError(f"The matched training is to end after {list(ends)} epochs; give at least one, from 1 on.")
    fixed, folder = _prepared(network, data, config, seed, balanced, progress_dir, ("matched", seed, _plain(config)))
    shared = sharing.mesh(devices, config.batch_size)
    return _train_on(network, fixed, config, marks, seed, folder, on_epoch, shared)


def _prepared(
    network: Network,
    data: Dataset,
    config: SnlConfig,
    seed: int,
    balanced: bool,
    progress_dir: Path | None,
    decisive: tuple[Any, ...],
) -> tuple[Fixed, Path | None]:
    """Return what all steps of a descent share, and the folder of its checkpoints, named by all that decides it."""
    folder, weight = None, _group_weight(data, balanced)
    if progress_dir is not None:
        start = network.module, checkpoints.tree_digest(network)
        more = ("balanced",) if weight is not None else ()
        folder = Path(progress_dir) / checkpoints.key(*decisive, data.fingerprint(), *start, *more)
    fixed = Fixed(jax.tree.map(jnp.copy, network), data, jnp.int32(seed), group_weight=weight)
    return answered(fixed, config.augment, [network]), folder


def _train_on(
    network: Network,
    fixed: Fixed,
    config: SnlConfig,
    marks: list[int],
    seed: int,
    folder: Path | None,
    on_epoch: Callable[[int], None] | None,
    devices: Mesh | None,
) -> Iterator[Snapshot]:
    """Yield a snapshot after each of ``marks``, epochs that rise."""
    name, step = f"the training matched to the SNL descent of seed {seed}", SnlStep(_plain(config), choosing=False)
    data, fixed = fixed.data, sharing.laid_out(fixed, devices)
    opt_state = optax.adam(config.learning_rate).init(network.params)  # pyright: ignore

    def run(epoch: int, carry: Descent) -> Descent:
        index = epoch_order(len(data), config.batch_size, seed, epoch)
        return run_batches(step, carry, fixed, index, epoch * len(index), [name], devices)[0]

    fresh = Descent(jax.tree.map(jnp.copy, network), opt_state, jnp.float32(0))
    together, often = sharing.spans_processes(devices), config.checkpoint_seconds
    start = checkpoints.resume(folder, fresh, together=together)
    if start[0] >= marks[0]:  # the snapshot of an end that was passed has to be taken from the start
        start = 0, fresh
    for done, carry in epochs(run, start, marks[-1], folder, often, keep_last=True, together=together):
        if on_epoch is not None:
            on_epoch(done)
        if done in marks:
            reached = sharing.collected(carry.network, devices)
            check_network(reached, name)
            yield Snapshot(masks.unit_count(network.masks), done, jax.tree.map(jnp.copy, reached))


def _descend(
    network: Network,
    fixed: Fixed,
    config: SnlConfig,
    counts: list[int],
    seed: int,
    folder: Path | None,
    on_epoch: OnEpoch | None,
    devices: Mesh | None,
) -> Iterator[Snapshot]:
    """Yield a snapshot at each of ``counts``, numbers of ReLUs that fall."""
    name, counts = f"the SNL descent of seed {seed}", list(counts)
    step = SnlStep(dataclasses.replace(_decisive(config), kappa=0))  # one program for all kappas
    data, fixed = fixed.data, sharing.laid_out(fixed, devices)

    def run(epoch: int, state: Progress) -> Progress:
        index = epoch_order(len(data), config.batch_size, seed, epoch)
        carry, _ = run_batches(step, state.carry, fixed, index, epoch * len(index), [name], devices)
        count = np.int32(masks.relu_count(carry.network.masks, threshold=config.threshold))
        if count >= state.lowest and epoch >= config.warmup_epochs:
            carry = carry._replace(kappa=carry.kappa * config.kappa_growth)
        return Progress(carry, count, np.int32(min(count, state.lowest)))

    fresh = _begin(network, config)
    together, often = sharing.spans_processes(devices), config.checkpoint_seconds
    start = checkpoints.resume(folder, fresh, together=together)
    if start[1].lowest <= counts[0]:
        # That descent passed a budget that is asked for only now: its snapshot has to be taken from the start.
        start = 0, fresh
    state = start[1]
    for done, state in epochs(run, start, config.max_epochs, folder, often, keep_last=True, together=together):
        if on_epoch is not None:
            on_epoch(done, int(state.count))
        if state.count > counts[0]:
            continue
        reached = sharing.collected(state.carry.network, devices)
        check_network(reached, name)
        while counts and state.count <= counts[0]:
            yield Snapshot(counts[0], done, _binarise(reached, config, counts.pop(0)))
        if not counts:
            return
    raise JaxfairError(
        f"SNL still had {int(state.lowest)} ReLUs after {config.max_epochs} epochs, above the budget {counts[0]}; "
        "raise kappa or max_epochs, and keep the learning rate well below the threshold."
    )


def _decisive(config: SnlConfig) -> SnlConfig:
    """Return what decides the descent's path: neither how often it is saved, nor when it ends and what is taken."""
    return dataclasses.replace(config, checkpoint_seconds=0, max_epochs=0, rule="exact")


def _plain(config: SnlConfig) -> SnlConfig:
    """Return what decides the path of the matched training, which chooses no masks."""
    return SnlConfig(checkpoint_seconds=0, kappa=0, **{name: getattr(config, name) for name in MATCHED})


def _group_weight(data: Dataset, balanced: bool) -> Float[Array, " groups"] | None:
    """Return the factors by which each group counts the same, if that is not so anyway."""
    return jnp.asarray(group_balance(data)) if balanced and len(data.group_names) > 1 else None


def _trained(network: Network, choosing: bool) -> Any:
    """Return what a step trains: weights and masks, or the weights alone."""
    return (network.params, network.masks) if choosing else network.params


def _begin(network: Network, config: SnlConfig) -> Progress:
    opt_state = optax.adam(config.learning_rate).init(_trained(network, True))  # pyright: ignore
    carry = Descent(jax.tree.map(jnp.copy, network), opt_state, jnp.float32(config.kappa))
    units = np.int32(masks.unit_count(network.masks))
    return Progress(carry, units, units)


def _binarise(network: Network, config: SnlConfig, budget: int) -> Network:
    if config.rule == "exact":
        chosen = masks.keep_largest(network.masks, budget)
    else:
        chosen = masks.above(network.masks, config.threshold)
    # A copy: the descent goes on and its next step consumes these arrays.
    return jax.tree.map(jnp.copy, network.replace(masks=chosen))
