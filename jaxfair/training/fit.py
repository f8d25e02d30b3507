"""Training by SGD, with a teacher or without: one jitted step, several seeds in one call, resumable.

The step is the same on every backend; only how steps are looped over differs (``jaxfair.loops``).
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
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
from jaxfair.errors import JaxfairError, warn
from jaxfair.loops import Together, epochs
from jaxfair.networks.network import Network, apply_train, apply_watched, check_images, predict
from jaxfair.options import Count, Seed, check_kind, checked
from jaxfair.training import mitigate, sharing
from jaxfair.training.batches import Fixed, answered, batch, check_network, run_batches, taught, weighed
from jaxfair.training.config import TrainConfig

OnEpoch = Callable[[int, int, Mapping[str, float]], None]
"""Called after each epoch with the epochs done, the epochs in all, and the epoch's mean ``loss`` and ``accuracy``.

Where several networks are trained together, the means are over all of them.
"""


class Fitted(NamedTuple):
    """One trained network.

    Attributes:
        seed: the seed that ``fit`` was given for it.
        network: the network after the last epoch.
        history: ``loss`` and ``accuracy`` of the training batches, each as its means over the steps of an epoch, of
            shape (epochs,).
        multipliers: the multiplier of each group after the last epoch, shape (groups,); None where the mitigation has
            none.
        epoch: where training stopped early, the epoch of the lowest validation loss, counted from 1, whose network this
            is; ``history`` then has ``validation_loss`` and ``validation_accuracy`` too. None otherwise.
    """

    seed: int
    network: Network
    history: dict[str, np.ndarray]
    multipliers: np.ndarray | None = None
    epoch: int | None = None


class Stopping(NamedTuple):
    """When a training stops early (Prechelt 1998).

    Attributes:
        validation: images that are not trained on, whose mean cross-entropy decides.
        patience: the number of epochs without a lower one after which training stops.
    """

    validation: Dataset
    patience: int


class Best(NamedTuple):
    """The networks of the lowest validation losses so far, and these and their epochs (from 1), of shape (seeds,)."""

    network: Network
    loss: np.ndarray
    epoch: np.ndarray


class Trainings(NamedTuple):
    """What each of several trainings has of its own: sequences with one entry a seed, or None where there is none.

    They are as ``fit`` takes them.
    """

    networks: Sequence[Network]
    seeds: Sequence[int]
    order_seeds: Sequence[int]
    teachers: Sequence[Network] | None = None
    kept: Sequence[Any] | None = None
    progress_dirs: Sequence[Path] | None = None

    def part(self, which: slice) -> "Trainings":
        """Return some of them."""
        parts: Any = {name: values and values[which] for name, values in self._asdict().items()}
        return Trainings(**parts)


class Carry(NamedTuple):
    """What a step changes: the network, the optimizer's state and the mitigation's."""

    network: Network
    opt_state: Any
    mitigation: mitigate.State = mitigate.State()


def make_optimizer(config: TrainConfig, steps_per_epoch: int) -> optax.GradientTransformation:
    """Return SGD as PyTorch defines it.

    Args:
        config: how to train.
        steps_per_epoch: the number of batches in an epoch, by which the schedule counts.
    """
    total, scales = config.epochs * steps_per_epoch, {}
    for step in (max(total // 2, 1), max(3 * total // 4, 1)):  # of few steps both are one, and none before the first
        scales[step] = 0.1 * scales.get(step, 1.0)
    schedules = {
        "constant": config.learning_rate,
        "cosine": optax.cosine_decay_schedule(config.learning_rate, max(total, 1)),
        "step": optax.piecewise_constant_schedule(config.learning_rate, scales),
    }
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.sgd(schedules[config.schedule], config.momentum, config.nesterov),
    )


def descend(
    config: TrainConfig, steps_per_epoch: int, params: Any, grads: Any, opt_state: Any, *, kept: Any = None
) -> tuple[Any, Any]:
    """Take one step of ``make_optimizer``'s SGD; return the parameters and the optimizer's state after it.

    Args:
        config: how to train.
        steps_per_epoch: the number of batches in an epoch.
        params: the parameters before the step.
        grads: their gradient.
        opt_state: the optimizer's state before the step.
        kept: of each parameter whether it is trained; None trains all.
    """
    updates, opt_state = make_optimizer(config, steps_per_epoch).update(grads, opt_state, params)
    if kept is not None:
        updates = jax.tree.map(jnp.multiply, updates, kept)
    return optax.apply_updates(params, updates), opt_state


METRICS = ("loss", "accuracy")
"""Of a batch, in the order in which they are recorded."""
HELD_OUT = ("validation_loss", "validation_accuracy")
"""The same of the validation images after an epoch, where they decide when training stops."""


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """One SGD step on labels and, if there is a teacher, its soft scores. A value, so it is a static jit argument."""

    config: TrainConfig
    steps_per_epoch: int

    def __call__(
        self, carry: Carry, fixed: Fixed, x: tuple[Int[Array, ""], Int[Array, " b"]]
    ) -> tuple[Carry, dict[str, Float[Array, ""]]]:
        """Return the carry after the step, and the batch's mean loss and accuracy before it."""
        network, opt_state, mitigation = carry
        images, label = batch(fixed, self.config.augment, *x)

        def loss_fn(params: Any) -> tuple[Array, tuple[Any, ...]]:
            watching = fixed.attention is not None
            logits, batch_stats, outputs = _forward(network, params, images, watching)
            loss, held = self.config.label_weight * losses.cross_entropy(logits, label), None
            if fixed.teacher is not None:
                wanted, maps = _taught(fixed, images, x[1], watching)
                soft = losses.distillation(logits, wanted, self.config.temperature)
                weight = self.config.distillation_weight
                loss = loss + weight * mitigate.distillation_share(self.config.mitigation, logits.shape[1]) * soft
                if watching:
                    held = weighed(fixed, fixed.attention * losses.attention(outputs, maps), x[1])
            loss = weighed(fixed, loss, x[1])
            if held is not None and self.config.mitigation.method == "none":
                loss, held = loss + held, None
            group = fixed.data.group[x[1]]
            value, after = mitigate.objective(
                self.config.mitigation, mitigation, loss, group, label, images, logits=logits
            )
            if held is not None:  # it is no loss of a group: a thousand times as large, it would drive the multipliers
                value, loss = value + held.mean(), loss + held
            return value, (batch_stats, after, {"loss": loss.mean(), "accuracy": jnp.mean(logits.argmax(-1) == label)})

        (_, (batch_stats, mitigation, metrics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(network.params)
        params, opt_state = descend(
            self.config, self.steps_per_epoch, network.params, grads, opt_state, kept=fixed.kept
        )
        network = network.replace(params=params, batch_stats=batch_stats)
        return Carry(network, opt_state, mitigation), metrics


def _forward(network: Network, params: Any, images: Array, watching: bool) -> tuple[Array, Any, Any]:
    """Return logits, batch statistics, and what the stages put out if that is wanted, in training mode."""
    if watching:
        return apply_watched(network, params, images, "stages", train=True)
    return *apply_train(network, params, network.masks, images), None


def _taught(fixed: Fixed, images: Array, index: Array, watching: bool) -> tuple[Array, Any]:
    """Return the teacher's logits, and what its stages put out if that is wanted."""
    if not watching:
        return taught(fixed, images, index), None
    assert fixed.teacher is not None
    logits, _, outputs = apply_watched(fixed.teacher, fixed.teacher.params, images, "stages", train=False)
    return logits, outputs


def make_step(config: TrainConfig, data: Dataset) -> TrainStep:
    """Return the step of a training, as a value that holds only what decides the result."""
    steps_per_epoch = len(epoch_order(len(data), config.batch_size, 0, 0))
    return TrainStep(dataclasses.replace(config, checkpoint_seconds=0), steps_per_epoch)


def begin(network: Network, data: Dataset, config: TrainConfig) -> Carry:
    """Return what a training begins with; the network is copied, since the first step consumes the carry."""
    return _begin(network, make_step(config, data), len(data.group_names), len(data.class_names), data.image_shape)


@partial(jax.jit, static_argnums=(1, 2, 3, 4))  # one program, not one for each shape of a parameter
def _begin(network: Network, step: TrainStep, groups: int, classes: int, image_shape: tuple[int, ...]) -> Carry:
    optimizer = make_optimizer(step.config, step.steps_per_epoch)
    shapes = {"num_groups": groups, "num_classes": classes, "input_shape": image_shape}
    mitigation = mitigate.init(step.config.mitigation, **shapes)
    return Carry(jax.tree.map(jnp.copy, network), optimizer.init(network.params), mitigation)


def check_config(config: TrainConfig, num_examples: int) -> None:
    """Raise a JaxfairError if nothing can be trained by this configuration on so many images."""
    if not 1 <= config.epochs <= 1_000_000 or not 0 < config.learning_rate < np.inf:
        raise JaxfairError(
            f"Training is to last {config.epochs} epochs at learning rate {config.learning_rate}; "
            "give at least one epoch (at most a million), and a positive rate."
        )
    if not config.checkpoint_seconds >= 0:
        raise JaxfairError(f"Checkpoints are {config.checkpoint_seconds} seconds apart; give 0 or more.")
    others = (config.weight_decay, config.label_weight, config.distillation_weight)
    if not (0 <= config.momentum < 1 and config.temperature > 0 and all(0 <= v < np.inf for v in others)):
        raise JaxfairError(
            f"Momentum is {config.momentum}, temperature {config.temperature}, weight decay and loss weights {others}; "
            "give a momentum in [0, 1), a positive temperature, and finite values that are not negative."
        )
    epoch_order(num_examples, config.batch_size, 0, 0)


def images_seen(config: TrainConfig, num_examples: int) -> int:
    """Return the number of images that a training on ``num_examples`` sees, each time counted."""
    return config.epochs * epoch_order(num_examples, config.batch_size, 0, 0).size


@checked
def fit(
    networks: Sequence[Network],
    data: Dataset,
    config: TrainConfig,
    *,
    seeds: Sequence[Seed],
    order_seeds: Sequence[Seed] | None = None,
    teachers: Sequence[Network] | None = None,
    kept: Sequence[Any] | None = None,
    attention: float = 0.0,
    progress_dirs: Sequence[Path] | None = None,
    on_epoch: OnEpoch | None = None,
    at_once: int | None = None,
    devices: int = 1,
    stopping: Stopping | None = None,
) -> Iterator[Fitted]:
    """Train one network for each seed and yield each when it is ready.

    The seeds run one after another (vmapped they are three times slower on a CPU), and on a TPU all in one vmapped
    program, unless ``at_once`` or ``devices`` says otherwise. A run that was killed and is started again with the same
    arguments goes on from its last checkpoint and, on a CPU, ends with the same bits.

    Args:
        networks: the networks to start from, all of one module, one for each seed. Pass linearized networks to
            fine-tune them: masks stay what they are.
        data: the training set, shared by all seeds.
        config: how to train.
        seeds: decide the augmentation, and the order in which images are seen unless ``order_seeds`` are given.
        order_seeds: decide that order alone, one for each network.
        teachers: the networks to distil from, one for each network to train.
        kept: of each parameter of each network whether it is trained; the others stay what they are. ``kept_weights``
            of pruned networks keeps these pruned.
        attention: the factor on ``losses.attention`` of the stages' outputs, in the loss of each image, which holds
            these near the teacher's (PRAM of SENet, which takes 1000); 0 leaves it out. A mitigation does not see it.
        progress_dirs: a folder for each network, where checkpoints of unfinished training are kept; networks that are
            trained together use that of the first. Each training has a sub-folder named by what decides its result,
            which the caller removes when the result is stored. None keeps no checkpoints.
        on_epoch: called after every epoch; where networks have a device each, after those of the first one that is
            not ready.
        at_once: how many networks are trained in one program; by default all (of a device) on a TPU and 1 elsewhere.
            Fewer take less memory.
        devices: how many of ``jax.devices()`` share the work. Several networks are trained beside each other, each on
            one device by the program that it is trained by alone. Of a single one each batch is split, and a step is
            that of one device up to rounding: what is summed over a batch, such as batch norm's statistics, is summed
            over all of it. As many devices are used as divide the batch size. Checkpoints are good for any number.
            After ``jax.distributed.initialize()`` all processes make this call alike, with all devices of all of them,
            and each gets what was trained: one network after another, each batch split, with the first process's
            checkpoints.
        stopping: when to stop before ``config.epochs``; the schedule is that of all epochs. The network of the epoch of
            the lowest validation loss is kept, which is the same whether networks are trained together or not.

    Returns:
        An iterator that trains when it is read, and yields the trained networks in the order of the seeds.

    Raises:
        JaxfairError: when called, if the arguments do not fit each other or the configuration is impossible; when
            read, if a loss or a weight is not finite, or a checkpoint cannot be read or written.

    Example:
        >>> from jaxfair import CNN, TrainConfig, fit, init, load
        >>> train, test = load("digits").split()
        >>> network = init(CNN(num_classes=10, features=(4,)), train.image_shape, seed=0)
        >>> fitted = next(fit([network], train, TrainConfig(epochs=2, batch_size=64, learning_rate=0.05), seeds=[0]))
        >>> fitted.seed, fitted.history["loss"].shape
        (0, (2,))
    """
    trainings = Trainings(networks, seeds, seeds if order_seeds is None else order_seeds, teachers, kept, progress_dirs)
    sharing.check(devices, config.batch_size)
    check(trainings, data, config, attention, stopping)
    at_once = seeds_at_once(seeds, devices) if at_once is None else at_once
    if at_once < 1:
        raise JaxfairError(f"fit is to train {at_once} seeds at once; give at least 1, or leave at_once out.")
    if at_once > 1 and devices > 1 and jax.process_count() > 1:
        raise JaxfairError(f"{at_once} seeds at once cannot be shared by several processes; leave at_once out.")
    return _fit_chunks(trainings, data, config, attention, stopping, on_epoch, at_once, devices)


def seeds_at_once(seeds: Sequence[int], devices: int = 1) -> int:
    """Return how many seeds ``fit`` trains in one program by default: mapped kernels were slower on CPUs and GPUs."""
    if jax.default_backend() != "tpu" or (devices > 1 and jax.process_count() > 1):
        return 1
    return -(-len(seeds) // devices)


def _fit_chunks(
    trainings: Trainings,
    data: Dataset,
    config: TrainConfig,
    attention: float,
    stopping: Stopping | None,
    on_epoch: OnEpoch | None,
    at_once: int,
    devices: int,
) -> Iterator[Fitted]:
    """Train ``at_once`` seeds in one program each, one after another or each on a device, and yield what came out."""
    resumable, module = trainings.progress_dirs is not None, trainings.networks[0].module
    decisive = make_step(config, data), module, data.fingerprint() if resumable else None
    if stopping is not None and resumable:
        decisive += (stopping.patience, stopping.validation.fingerprint())
    starts = range(0, len(trainings.seeds), at_once)
    each = len(starts) > 1 and devices > 1 and jax.process_count() == 1
    mesh = None if each or at_once > 1 else sharing.mesh(devices, config.batch_size)

    def trained(start: int, device: sharing.Device | None, after_epoch: OnEpoch | None) -> list[Fitted]:
        part = trainings.part(slice(start, start + at_once))
        network, teacher, kept = (
            None if trees is None else _stacked(trees) for trees in (part.networks, part.teachers, part.kept)
        )
        folder = None
        if part.progress_dirs is not None:
            trees = (network, teacher) if kept is None else (network, teacher, kept)
            drawn, begun = (list(part.seeds), list(part.order_seeds)), checkpoints.tree_digest(trees)
            more = (attention,) if attention else ()
            folder = Path(part.progress_dirs[0]) / checkpoints.key(drawn, begun, decisive, *more)
        seed_of = jnp.asarray(_stacked([np.int32(seed) for seed in part.seeds]))
        fixed = Fixed(teacher, data, seed_of, kept, attention=jnp.float32(attention) if attention else None)
        fixed = answered(fixed, config.augment, part.teachers or ())
        network, fixed, held_out = sharing.laid_out((network, fixed, stopping), device)
        state = _train(network, fixed, config, part, folder, after_epoch, held_out, mesh)
        return _fitted(state, part.seeds, config, stopping)

    if not each:
        for start in starts:
            yield from trained(start, None, on_epoch)
        return
    for several in sharing.apart(trained, starts, devices, on_epoch):
        yield from (one._replace(network=sharing.collected(one.network, devices)) for one in several)


def _fitted(
    state: tuple[Any, ...], seeds: Sequence[int], config: TrainConfig, stopping: Stopping | None
) -> list[Fitted]:
    """Return what ``_train`` made of each seed."""
    (carry, history, *best), found = state, []
    history = {name: history[name] for name in (*METRICS, *HELD_OUT) if name in history}  # a checkpoint sorts its names
    for row, seed in enumerate(seeds):
        last = carry if len(seeds) == 1 else jax.tree.map(lambda a, row=row: a[row], carry)
        epoch = int(best[0].epoch[row]) if best else None
        if epoch == 0:
            raise JaxfairError(
                f"The validation loss of seed {seed} was finite after no epoch, so that no network is best; lower the "
                "learning rate, or look at the validation images."
            )
        made = config.epochs if stopping is None or epoch is None else epoch + stopping.patience
        of_seed = {name: np.array(values[:made, row]) for name, values in history.items()}
        multipliers = None if last.mitigation.multipliers is None else np.asarray(last.mitigation.multipliers)
        found.append(Fitted(seed, last.network, of_seed, multipliers, epoch))
    return found


def _stacked(trees: Sequence[Any]) -> Any:
    return trees[0] if len(trees) == 1 else jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _train(
    network: Network,
    fixed: Fixed,
    config: TrainConfig,
    trainings: Trainings,
    folder: Path | None,
    on_epoch: OnEpoch | None,
    stopping: Stopping | None,
    mesh: Mesh | None,
) -> tuple[Any, ...]:
    """Train one network, or several along a leading axis; return the last carry and metrics of (epochs, seeds).

    Where training stops early, the networks of the carry are those of the lowest validation losses, and ``Best`` is
    returned too.
    """
    data, order_seeds = fixed.data, trainings.order_seeds
    count, names = len(order_seeds), [f"seed {seed}" for seed in trainings.seeds]
    step: Callable = make_step(config, data)
    first = partial(begin, data=data, config=config)
    if count > 1:
        axes = Fixed(teacher=0, data=None, seed=0, kept=0, wanted=0)  # pyright: ignore[reportArgumentType]
        step, first = Together(step, in_axes=(0, axes, (None, 0))), jax.vmap(first)
    fixed = sharing.laid_out(fixed, mesh)

    def run(epoch: int, state: tuple[Any, ...]) -> tuple[Any, ...]:
        carry, history, *best = state
        orders = [epoch_order(len(data), config.batch_size, seed, epoch) for seed in order_seeds]
        index = orders[0] if count == 1 else np.stack(orders, axis=1)
        carry, metrics = run_batches(step, carry, fixed, index, epoch * len(index), names, mesh)
        carry = carry._replace(mitigation=mitigate.end_epoch(config.mitigation, carry.mitigation))
        history = {name: np.array(values) for name, values in history.items()}  # a checkpoint's cannot be written to
        for name in METRICS:
            history[name][epoch] = metrics[name].reshape(-1, count).mean(axis=0)
        if stopping is None:
            return carry, history
        best, held_out = _watch(best[0], sharing.collected(carry.network, mesh), epoch + 1, stopping, mesh)
        for name in HELD_OUT:
            history[name][epoch] = held_out[name]
        return carry, history, best

    recorded = METRICS if stopping is None else (*METRICS, *HELD_OUT)
    unknown = {name: np.full((config.epochs, count), np.nan, np.float32) for name in recorded}
    fresh: tuple[Any, ...] = (first(network), unknown)
    if stopping is not None:
        fresh += (Best(network, np.full(count, np.inf, np.float32), np.zeros(count, np.int32)),)
    together = sharing.spans_processes(mesh)
    start = checkpoints.resume(folder, fresh, together=together)
    state, often = start[1], config.checkpoint_seconds
    # Networks trained together are kept until all of them are recorded.
    for done, state in epochs(run, start, config.epochs, folder, often, keep_last=count > 1, together=together):
        if on_epoch is not None:
            on_epoch(done, config.epochs, {name: float(state[1][name][done - 1].mean()) for name in METRICS})
        if stopping is not None and (done - np.asarray(state[2].epoch) >= stopping.patience).all():
            break
    state = (sharing.collected(state[0], mesh), *state[1:])
    if stopping is not None:
        state = (state[0]._replace(network=state[2].network), *state[1:])
    check_network(state[0].network, ", ".join(names))
    return state


def _watch(
    best: Best, network: Network, epoch: int, stopping: Stopping, mesh: Mesh | None = None
) -> tuple[Best, dict[str, np.ndarray]]:
    """Return the best networks after an epoch, and the loss and accuracy of the validation images, shape (seeds,).

    Of a network that would have stopped if it were trained alone, nothing changes and nothing is known any more.
    """
    count, label = len(best.loss), np.asarray(stopping.validation.label)
    found = {name: np.full(count, np.nan, np.float32) for name in HELD_OUT}
    loss, epochs_of = np.array(best.loss), np.array(best.epoch)
    kept = best.network
    for row in np.flatnonzero(epoch - epochs_of <= stopping.patience):
        one = network if count == 1 else jax.tree.map(lambda a, row=row: a[row], network)
        logits = predict(one, stopping.validation)
        seen = np.mean(np.asarray(losses.cross_entropy(jnp.asarray(logits), stopping.validation.label)))
        seen = sharing.agreed(seen, mesh)
        found["validation_loss"][row], found["validation_accuracy"][row] = seen, (logits.argmax(-1) == label).mean()
        if seen < loss[row]:
            loss[row], epochs_of[row] = seen, epoch
            if count == 1:  # copied, since the next step consumes the carry's arrays
                kept = jax.tree.map(jnp.copy, one)
            else:
                kept = jax.tree.map(lambda several, a, row=row: several.at[row].set(a), kept, one)
    return Best(kept, loss, epochs_of), found


def _check_held_out(validation: Dataset, data: Dataset) -> None:
    """Raise a JaxfairError unless there are validation images; warn if those to train on are normalized otherwise."""
    if not len(validation):
        raise JaxfairError("There are no validation images, which decide when training stops; give some.")
    pairs = (validation.mean, data.mean), (validation.std, data.std)
    if not all(np.array_equal(one, other) for one, other in pairs):
        warn(
            f"The validation images '{validation.name}' have other channel statistics than those to train on; give "
            "them the same: make_dataset(..., statistics=(train.mean, train.std))."
        )


def check(
    trainings: Trainings, data: Dataset, config: TrainConfig, attention: float = 0.0, stopping: Stopping | None = None
) -> None:
    """Raise a JaxfairError unless ``fit`` can take these arguments."""
    networks, teachers, kept = trainings.networks, trainings.teachers, trainings.kept
    for name, values in list(trainings._asdict().items())[1:]:
        if values is not None and not 0 < len(values) == len(networks):
            raise JaxfairError(f"fit got {len(values)} {name} for {len(networks)} networks; give one for each network.")
    if any(network.module != networks[0].module for network in networks):
        raise JaxfairError("fit got networks of different modules; train each module in a call of its own.")
    if config.distillation_weight and teachers is None:
        raise JaxfairError(f"The distillation weight is {config.distillation_weight}, but there are no teachers.")
    if teachers is not None and not (config.distillation_weight or attention):
        raise JaxfairError("There are teachers, but the distillation weight is 0; give one, such as 1, or no teachers.")
    if not 0 <= attention < np.inf or (attention and teachers is None):
        raise JaxfairError(f"The attention weight is {attention}; give a finite one, and a teacher for each network.")
    for network, tree in zip(networks, kept or [], strict=bool(kept)):
        if jax.tree.structure(tree) != jax.tree.structure(network.params):
            raise JaxfairError("What is kept is no tree of the network's parameters; give kept_weights of these.")
        for leaf, param in zip(jax.tree.leaves(tree), jax.tree.leaves(network.params), strict=True):
            if str(getattr(leaf, "dtype", "")) != "bool" or np.shape(leaf) not in ((), np.shape(param)):
                raise JaxfairError("What is kept is no tree of booleans; give kept_weights of the parameters.")
    if stopping is not None:
        check_kind("Stopping.validation", stopping.validation, Dataset)
        check_kind("Stopping.patience", stopping.patience, Count)
        _check_held_out(stopping.validation, data)
    for network in [*networks, *(teachers or [])]:
        check_images(network, data)
        if stopping is not None:
            check_images(network, stopping.validation)
    check_config(config, len(data))
    mitigate.check_config(config.mitigation, len(data.group_names))
