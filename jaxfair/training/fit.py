"""Training: one jitted step, epochs, several seeds in one call, resumable.

The step is the same on every backend; only how steps are looped over differs (``jaxfair.loops``).
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxfair import checkpoints, losses
from jaxfair.data.dataset import Augmentation, Dataset, augment
from jaxfair.data.splits import epoch_order
from jaxfair.errors import JaxfairError
from jaxfair.loops import Together, run_epoch
from jaxfair.networks.network import Network, apply_train, check_images
from jaxfair.training import mitigate
from jaxfair.training.mitigate import MitigationConfig

OnEpoch = Callable[[int, int, Mapping[str, float]], None]
"""Called after each epoch with the epochs done, the epochs in all, and the epoch's mean metrics."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How to train; the defaults are those of the base network in Cho et al. 2022 and Das et al. 2024, not augmented.

    Attributes:
        epochs: passes over the training set.
        batch_size: images a step.
        learning_rate: of SGD, before the schedule.
        momentum: of SGD.
        nesterov: whether the momentum is Nesterov's.
        weight_decay: added to the gradient of every parameter, as PyTorch's SGD does.
        schedule: ``step`` divides the rate by 10 at 1/2 and 3/4 of the steps, ``cosine`` decays it to 0.
        augment: ``cifar`` crops and mirrors; leave ``none`` for digits.
        label_weight: of the cross-entropy with the labels.
        distillation_weight: of the distillation from a teacher; 0 without one.
        temperature: of the distillation.
        mitigation: what replaces the mean loss.
        checkpoint_seconds: between checkpoints, which are written after an epoch: a killed run loses at most this and
            one epoch.
    """

    epochs: int = 160
    batch_size: int = 256
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: Literal["step", "cosine", "constant"] = "step"
    augment: Augmentation = "none"
    label_weight: float = 1.0
    distillation_weight: float = 0.0
    temperature: float = 4.0
    mitigation: MitigationConfig = MitigationConfig()
    checkpoint_seconds: float = 60.0


SNL_FINETUNE = TrainConfig(epochs=100, learning_rate=1e-3, schedule="cosine", distillation_weight=1.0)
"""Fine-tuning after Selective Network Linearization (Cho et al. 2022, Alg. 1, line 12)."""

DEEPREDUCE_TRAIN = TrainConfig(
    epochs=200,
    batch_size=512,
    learning_rate=1e-3,
    nesterov=True,
    schedule="cosine",
    label_weight=0.5,
    distillation_weight=0.5,
    temperature=1.0,
)
"""Training of a DeepReDuce student (Das et al. 2024, in their code)."""


class Fitted(NamedTuple):
    """One trained network.

    Attributes:
        seed: of the order of the data and the augmentation.
        network: after the last epoch.
        history: for each metric its mean over the steps of each epoch, shape (epochs,).
        multipliers: of each group, shape (groups,), where mitigation has any.
    """

    seed: int
    network: Network
    history: dict[str, np.ndarray]
    multipliers: np.ndarray | None = None


class Carry(NamedTuple):
    """What a step changes."""

    network: Network
    opt_state: Any
    mitigation: mitigate.State = mitigate.State()


class Fixed(NamedTuple):
    """What all steps of a run share."""

    teacher: Network | None
    data: Dataset
    seed: Int[Array, ""]


def make_optimizer(config: TrainConfig, steps_per_epoch: int) -> optax.GradientTransformation:
    """Return SGD as PyTorch defines it, with the schedule counted in steps."""
    total = config.epochs * steps_per_epoch
    schedules = {
        "constant": config.learning_rate,
        "cosine": optax.cosine_decay_schedule(config.learning_rate, max(total, 1)),
        "step": optax.piecewise_constant_schedule(config.learning_rate, {total // 2: 0.1, 3 * total // 4: 0.1}),
    }
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.sgd(schedules[config.schedule], config.momentum, config.nesterov),
    )


def fetch(fixed: Fixed, x: tuple[np.ndarray, np.ndarray]) -> tuple[Fixed, tuple[np.ndarray, np.ndarray]]:
    """Read the images of one step, for ``run_epoch``; ``x`` is the step's number and its images' positions."""
    data, index = fixed.data.fetch(x[1])
    return fixed._replace(data=data), (x[0], index)


def batch(fixed: Fixed, kind: Augmentation, step: Int[Array, ""], index: Int[Array, " b"]) -> tuple[Array, Array]:
    """Gather, augment and normalize one batch on the device; return images (b, h, w, c) and labels (b,)."""
    key = jax.random.fold_in(jax.random.key(fixed.seed), step)
    images = augment(fixed.data.images[index], kind, key)
    return fixed.data.normalize(images), fixed.data.label[index]


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
            logits, batch_stats = apply_train(network, params, network.masks, images)
            loss = self.config.label_weight * losses.cross_entropy(logits, label)
            if fixed.teacher is not None:
                soft = losses.distillation(logits, fixed.teacher(images), self.config.temperature)
                loss = loss + self.config.distillation_weight * soft
            group = fixed.data.group[x[1]]
            value, after = mitigate.objective(
                self.config.mitigation, mitigation, loss, group, label, images, logits=logits
            )
            return value, (batch_stats, after, {"loss": loss.mean(), "accuracy": jnp.mean(logits.argmax(-1) == label)})

        (_, (batch_stats, mitigation, metrics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(network.params)
        optimizer = make_optimizer(self.config, self.steps_per_epoch)
        updates, opt_state = optimizer.update(grads, opt_state, network.params)
        params = optax.apply_updates(network.params, updates)
        network = network.replace(params=params, batch_stats=batch_stats)
        return Carry(network, opt_state, mitigation), metrics


def check_config(config: TrainConfig, num_examples: int) -> None:
    """Raise a JaxfairError if nothing can be trained by this configuration."""
    if not 1 <= config.epochs <= 1_000_000 or not config.learning_rate > 0:
        raise JaxfairError(
            f"Training is to last {config.epochs} epochs at learning rate {config.learning_rate}; "
            "give at least one epoch (at most a million), and a positive rate."
        )
    others = (config.weight_decay, config.label_weight, config.distillation_weight)
    if not (0 <= config.momentum < 1 and config.temperature > 0 and all(0 <= v < np.inf for v in others)):
        raise JaxfairError(
            f"Momentum is {config.momentum}, temperature {config.temperature}, weight decay and loss weights {others}; "
            "give a momentum in [0, 1), a positive temperature, and finite values that are not negative."
        )
    epoch_order(num_examples, config.batch_size, 0, 0)


def check_finite(loss: np.ndarray, first_step: int, what: str) -> None:
    """Raise a JaxfairError that names the first step whose loss (steps, ...) is not finite."""
    bad = ~np.isfinite(loss).reshape(len(loss), -1).all(axis=1)
    if bad.any():
        step = int(np.argmax(bad))
        raise JaxfairError(
            f"The loss of {what} is {loss[step]} at step {first_step + step}; lower the learning rate, "
            "or look at the images of that step."
        )


def check_network(network: Network, what: str) -> None:
    """Raise a JaxfairError if a weight is not finite: a loss shows that only one step later."""
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(network)):
        raise JaxfairError(f"The network of {what} is not finite after its last step; lower the learning rate.")


def fit(
    networks: Sequence[Network],
    data: Dataset,
    config: TrainConfig,
    *,
    seeds: Sequence[int],
    teachers: Sequence[Network] | None = None,
    progress_dirs: Sequence[Path] | None = None,
    on_epoch: OnEpoch | None = None,
    at_once: int | None = None,
) -> Iterator[Fitted]:
    """Train one network for each seed and yield each when it is ready.

    On CPU the seeds run one after another (vmapped they are three times slower there); on other backends all of
    them are one vmapped program. A run killed and started again with the same arguments goes on from its last
    checkpoint and, on CPU, ends with the same bits.

    Args:
        networks: initial networks of one module, one for each seed.
        data: the training set, shared by all seeds.
        config: how to train.
        seeds: of the order of the data and the augmentation.
        teachers: networks to distil from, one for each seed.
        progress_dirs: for each seed, where checkpoints of unfinished training lie (seeds trained together use the
            first one's); None keeps none. The caller removes them.
        on_epoch: called after every epoch.
        at_once: seeds in one program; by default 1 on CPU and all of them elsewhere. Fewer take less memory.

    Raises:
        JaxfairError: a loss is not finite, the batch is larger than the set, or images do not suit the network.
    """
    _check(networks, data, config, seeds, teachers)
    return _fit_chunks(
        networks, data, config, seeds, teachers, progress_dirs, on_epoch, at_once or seeds_at_once(seeds)
    )


def seeds_at_once(seeds: Sequence[int]) -> int:
    """Return how many seeds ``fit`` trains in one program by default."""
    return 1 if jax.default_backend() == "cpu" else len(seeds)


def _fit_chunks(
    networks: Sequence[Network],
    data: Dataset,
    config: TrainConfig,
    seeds: Sequence[int],
    teachers: Sequence[Network] | None,
    progress_dirs: Sequence[Path] | None,
    on_epoch: OnEpoch | None,
    at_once: int,
) -> Iterator[Fitted]:
    decisive = dataclasses.replace(config, checkpoint_seconds=0)
    for start in range(0, len(seeds), at_once):
        chunk = list(range(len(seeds)))[start : start + at_once]
        pick = partial(_stack_or_only, chunk=chunk)
        teacher = None if teachers is None else pick(teachers)
        fixed = Fixed(teacher, data, jnp.asarray(pick([np.int32(seed) for seed in seeds])))
        chunk_seeds = [seeds[i] for i in chunk]
        folder = None
        if progress_dirs is not None:
            name = checkpoints.key(chunk_seeds, decisive, networks[0].module, data.fingerprint())
            folder = Path(progress_dirs[chunk[0]]) / name
        carry, history = _fit_chunk(pick(networks), fixed, config, chunk_seeds, folder, on_epoch)
        for row, seed in enumerate(chunk_seeds):
            last = carry if len(chunk) == 1 else jax.tree.map(lambda a, row=row: a[row], carry)
            of_seed = {name: values[:, row] for name, values in history.items()}
            multipliers = last.mitigation.multipliers
            yield Fitted(seed, last.network, of_seed, None if multipliers is None else np.asarray(multipliers))


def _stack_or_only(trees: Sequence[Any], chunk: list[int]) -> Any:
    if len(chunk) == 1:
        return trees[chunk[0]]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(trees[i] for i in chunk))


def _fit_chunk(
    network: Network, fixed: Fixed, config: TrainConfig, seeds: list[int], folder: Path | None, on_epoch: OnEpoch | None
) -> tuple[Carry, dict[str, np.ndarray]]:
    steps = len(epoch_order(len(fixed.data), config.batch_size, 0, 0))
    step: Callable = TrainStep(dataclasses.replace(config, checkpoint_seconds=0), steps)
    init_opt = make_optimizer(config, steps).init
    if len(seeds) > 1:
        step, init_opt = Together(step, in_axes=(0, Fixed(0, None, 0), (None, 0))), jax.vmap(init_opt)  # pyright: ignore
    state = mitigate.init(
        config.mitigation,
        num_groups=len(fixed.data.group_names),
        num_classes=len(fixed.data.class_names),
        input_shape=fixed.data.image_shape,
    )
    if len(seeds) > 1:
        state = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(seeds)), state)
    carry = Carry(jax.tree.map(jnp.copy, network), init_opt(network.params), state)
    history = {name: np.full((config.epochs, len(seeds)), np.nan, np.float32) for name in ("loss", "accuracy")}
    first = 0
    if folder is not None and checkpoints.latest_step(folder) is not None:
        first = checkpoints.latest_step(folder) or 0
        carry, history = checkpoints.restore(folder, (carry, history))
        history = {name: np.array(history[name]) for name in ("loss", "accuracy")}
    saved = time.monotonic()
    for epoch in range(first, config.epochs):
        orders = [epoch_order(len(fixed.data), config.batch_size, seed, epoch) for seed in seeds]
        index = orders[0] if len(seeds) == 1 else np.stack(orders, axis=1)
        numbers = np.arange(epoch * steps, (epoch + 1) * steps, dtype=np.int32)
        carry, metrics = run_epoch(step, carry, fixed, (numbers, index), fetch=fetch if fixed.data.on_host else None)
        carry = carry._replace(mitigation=mitigate.end_epoch(config.mitigation, carry.mitigation))
        per_seed = metrics["loss"].reshape(steps, len(seeds))
        for row, seed in enumerate(seeds):
            check_finite(per_seed[:, row], epoch * steps, f"seed {seed}")
        for name, values in metrics.items():
            history[name][epoch] = values.reshape(steps, len(seeds)).mean(axis=0)
        if on_epoch is not None:
            on_epoch(epoch + 1, config.epochs, {name: float(v[epoch].mean()) for name, v in history.items()})
        last = epoch + 1 == config.epochs and len(seeds) > 1  # kept until all of them are recorded
        if folder is not None and (last or time.monotonic() - saved > config.checkpoint_seconds):
            checkpoints.save(folder, epoch + 1, (carry, history))
            saved = time.monotonic()
    check_network(carry.network, f"seed {', '.join(map(str, seeds))}")
    return carry, history


def _check(
    networks: Sequence[Network],
    data: Dataset,
    config: TrainConfig,
    seeds: Sequence[int],
    teachers: Sequence[Network] | None,
) -> None:
    lengths = {len(seeds), len(networks), len(teachers or networks)}
    if len(lengths) != 1 or not seeds:
        raise JaxfairError(f"fit got {len(seeds)} seeds for {len(networks)} networks; give one network a seed.")
    if any(network.module != networks[0].module for network in networks):
        raise JaxfairError("fit got networks of different modules; train each module in a call of its own.")
    if config.distillation_weight and teachers is None:
        raise JaxfairError(f"The distillation weight is {config.distillation_weight}, but there are no teachers.")
    for network in [*networks, *(teachers or [])]:
        check_images(network, data)
    check_config(config, len(data))
    mitigate.check_config(config.mitigation, len(data.group_names))
