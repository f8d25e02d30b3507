"""SENet (Kundu et al. 2023): a budget for every layer by its sensitivity, and in it the units a student misses most.

Three stages: the sensitivity of layers, from a training in which weights are pruned; masks within the layers' budgets;
and fine-tuning with the masks fixed, which is ``fit`` with ``attention=PRAM``. No accuracy selects anything, and
neither the test set nor a part of the training set is held back: the last epoch of each stage is taken.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxfair import checkpoints, losses
from jaxfair.compress import pruning
from jaxfair.data.dataset import Dataset
from jaxfair.data.splits import derived_seed, epoch_order
from jaxfair.errors import JaxfairError
from jaxfair.inputs import as_values, quoted
from jaxfair.linearize.config import SenetConfig
from jaxfair.loops import epochs
from jaxfair.networks import masks
from jaxfair.networks.architectures import Module, layers_of_gates
from jaxfair.networks.network import Network, apply_watched, check_images, init
from jaxfair.options import Seed, checked
from jaxfair.training import fit, sharing
from jaxfair.training.batches import FORWARD, GRADIENT, Fixed, batch, check_network, group_balance, run_batches, weighed
from jaxfair.training.config import TrainConfig

OnEpoch = Callable[[int, int, str], None]
"""Called after each epoch with the epochs done, the epochs in all, and what is trained."""


class Chosen(NamedTuple):
    """A network whose ReLUs SENet has chosen, before its fine-tuning.

    Attributes:
        budget: the number of ReLUs, which the masks hold exactly.
        network: the student after the mask stage, with masks of 0 and 1.
        sensitivity: of each layer, by its gate's path.
        counts: the ReLUs of each layer, by its gate's path.
        passes: the work of the sparse training and of the mask stage, in forward passes of one image.
    """

    budget: int
    network: Network
    sensitivity: dict[str, float]
    counts: dict[str, int]
    passes: int


class Masking(NamedTuple):
    """What a step of the mask stage changes: the student, its optimizer's state, and the mismatch of this epoch."""

    network: Network
    opt_state: Any
    mismatch: Any


@dataclasses.dataclass(frozen=True)
class MaskStep:
    """One SGD step of the student, whose masks are fixed, and the mismatch of its batch added to that before."""

    config: TrainConfig
    steps_per_epoch: int

    def __call__(
        self, carry: Masking, fixed: Fixed, x: tuple[Int[Array, ""], Int[Array, " b"]]
    ) -> tuple[Masking, dict[str, Float[Array, ""]]]:
        """Return the state after the step and the batch's mean loss before it."""
        network, opt_state, mismatch = carry
        assert fixed.teacher is not None
        images, label = batch(fixed, self.config.augment, *x)
        wanted, _, activations = apply_watched(fixed.teacher, fixed.teacher.params, images, "gates", train=False)

        def loss_fn(params: Any) -> tuple[Array, tuple[Any, Any]]:
            logits, batch_stats, own = apply_watched(network, params, images, "gates", train=True)
            hard = self.config.label_weight * losses.cross_entropy(logits, label)
            soft = self.config.distillation_weight * losses.distillation(logits, wanted, self.config.temperature)
            return jnp.mean(hard + soft), (batch_stats, own)

        (loss, (batch_stats, own)), grads = jax.value_and_grad(loss_fn, has_aux=True)(network.params)
        params, opt_state = fit.descend(self.config, self.steps_per_epoch, network.params, grads, opt_state)
        weight = weighed(fixed, jnp.ones(len(label), loss.dtype), x[1])[:, None, None, None]
        mismatch = jax.tree.map(
            lambda total, a, b: total + jnp.sum(weight * jnp.abs(a - b), axis=0), mismatch, activations, own
        )
        return Masking(network.replace(params=params, batch_stats=batch_stats), opt_state, mismatch), {"loss": loss}


def allocate(sensitivity: Sequence[float], units: Sequence[int], budget: int) -> list[int]:
    """Divide a budget of ReLUs among layers: the share that a layer keeps is proportional to its sensitivity.

    ``k_l = n_l min(1, c eta_l)``, with the ``c`` by which all add up to the budget. What then is no whole number is
    rounded down, and the largest remainders are rounded up instead, earlier layers first. A layer may get nothing, and
    layers of sensitivity 0 get what the others cannot hold, in proportion to their size.

    Args:
        sensitivity: eta of each layer, not negative.
        units: the units n of each layer.
        budget: the number of ReLUs in all.

    Returns:
        The ReLUs of each layer; their sum is the budget, and none exceeds its layer.

    Raises:
        JaxfairError: the budget is negative or larger than all layers together, or the sensitivities are not as many
            numbers from 0 on as there are layers.

    Example:
        >>> from jaxfair.linearize.senet import allocate
        >>> allocate([0.1, 0.4, 0.9], [400, 200, 100], 190)
        [36, 72, 82]
    """
    masks.check_budget(budget, sum(units))
    known = np.atleast_1d(as_values(sensitivity, "sensitivities"))
    if known.shape != (len(units),) or not (np.isfinite(known) & (known >= 0)).all():
        raise JaxfairError(f"The sensitivities are [{quoted(known.tolist())}]; give one, from 0 on, for each layer.")
    share = [Fraction(0)] * len(units)
    exact = [Fraction(value) for value in known.tolist()]  # so that no sum is off by one
    for eta in (exact, [Fraction(1)] * len(units)):
        share = _filled(share, eta, units, budget)
    found = [int(part) for part in share]
    by_remainder = sorted(range(len(units)), key=lambda layer: found[layer] - share[layer])
    for layer in by_remainder[: budget - sum(found)]:
        found[layer] += 1
    return found


def _filled(share: list[Fraction], eta: list[Fraction], units: Sequence[int], budget: int) -> list[Fraction]:
    """Add what is left of the budget to the layers that have no share, in proportion to eta and to their size."""
    share = list(share)
    free = [layer for layer in range(len(units)) if not share[layer] and eta[layer] > 0 and units[layer]]
    while free:
        left = budget - sum(share)
        pull = Fraction(left) / sum(eta[layer] * units[layer] for layer in free)
        full = [layer for layer in free if pull * eta[layer] >= 1]
        for layer in full or free:
            share[layer] = min(pull * eta[layer], Fraction(1)) * units[layer]
        free = [layer for layer in free if layer not in full] if full else []
    return share


@checked
def sensitivity(
    module: Module,
    data: Dataset,
    config: SenetConfig,
    *,
    seed: Seed,
    progress_dir: Path | None = None,
    on_epoch: OnEpoch | None = None,
    devices: int = 1,
) -> dict[str, float]:
    """Compute each layer's sensitivity ``eta = 1 - d``, with ``d`` the layer's density after sparse training.

    New weights are trained, and after every epoch the smallest of all are set to zero, more after each
    (``pruning.sparsities``). Weights that were zero may grow again until the next pruning. A gate's layer is the
    convolution whose result it takes, without that of a shortcut.

    Args:
        module: the architecture.
        data: the training set.
        config: how to train, and how sparsely.
        seed: decides the new weights and the order in which images are seen.
        progress_dir: a folder where checkpoints of this training are kept; None keeps none.
        on_epoch: called after every epoch.
        devices: how many of ``jax.devices()`` share each batch, as for ``fit``.

    Returns:
        The sensitivity in [0, 1] by the path of the layer's gate, in the order of the masks.

    Raises:
        JaxfairError: a loss or a weight is not finite, there are fewer devices, the module has other classes than the
            data, or the training is impossible or has a teacher's weight.
    """
    sharing.check(devices, config.sparse_train.batch_size)
    _check_sparse(config, len(data))
    # Another stream than the full network's seed, which would give these weights its own initial ones.
    network = init(module, data.image_shape, derived_seed(seed, 3))
    check_images(network, data)
    rising = pruning.sparsities(config.sparsity, config.sparse_train.epochs)

    def pruned(epoch: int, carry: fit.Carry) -> fit.Carry:
        return carry._replace(network=pruning.prune(carry.network, pruning.PruneConfig(rising[epoch])))

    carry = _train(
        step=fit.make_step(config.sparse_train, data),
        after=pruned,
        fresh=fit.begin(network, data, config.sparse_train),
        fixed=Fixed(None, data, jnp.int32(seed), group_weight=_group_weight(data, config)),
        config=config.sparse_train,
        seed=seed,
        name=f"the sparse training of seed {seed}",
        folder=progress_dir,
        on_epoch=on_epoch,
        devices=devices,
    )
    layers = layers_of_gates(module, data.image_shape)
    return {gate: 1 - _density(carry.network.params, layers[gate]) for gate in _by_gate(network.masks)}


@checked
def senet(
    network: Network,
    data: Dataset,
    config: SenetConfig,
    *,
    budgets: Sequence[float],
    seed: Seed,
    progress_dir: Path | None = None,
    on_epoch: OnEpoch | None = None,
    devices: int = 1,
) -> Iterator[Chosen]:
    """Linearize as SENet does, but for the fine-tuning: one sparse training, and a mask stage for each budget.

    In the mask stage a student, which starts from the network's weights and from random masks, is trained by
    distillation; after each epoch a layer's mask is the units whose activations differed most from the teacher's, in
    the mean of that epoch's images, as many as the layer's budget. With all units as the only budget there is nothing
    to choose and no sparse training, and the result is the control: the same student with every ReLU kept.

    Args:
        network: the trained full network; it is also the teacher, and is not changed.
        data: the training set.
        config: how to choose.
        budgets: numbers of ReLUs to keep, as counts or as fractions below 1 of all units.
        seed: decides the weights of the sparse training, the first masks, and the order in which images are seen.
        progress_dir: a folder where checkpoints of unfinished work are kept, in sub-folders named by what decides it.
            The caller removes it. None keeps no checkpoints.
        on_epoch: called after every epoch.
        devices: how many of ``jax.devices()`` share each batch, as for ``fit``.

    Returns:
        An iterator that trains when it is read, and yields a network for each different budget, the largest first.

    Raises:
        JaxfairError: when called, if there is no budget or an impossible one, a number of the configuration is
            impossible, the images do not suit the network, or there are fewer devices; when read, if a loss or a weight
            is not finite.

    Example:
        >>> import dataclasses
        >>> from jaxfair import CNN, TrainConfig, init, load, senet
        >>> from jaxfair.linearize.config import SENET_MASKS, SenetConfig
        >>> train, _ = load("digits").split()
        >>> network = init(CNN(num_classes=10, features=(2,)), train.image_shape, seed=0)
        >>> masking = dataclasses.replace(SENET_MASKS, epochs=1)
        >>> config = SenetConfig(sparse_train=TrainConfig(epochs=1), mask_train=masking)
        >>> (found,) = senet(network, train, config, budgets=[0.25], seed=0)
        >>> found.budget, found.counts
        (32, {'stage1_block1/gate1': 32})
    """
    check_images(network, data)
    check_config(config, len(data))
    for stage in (config.sparse_train, config.mask_train):
        sharing.check(devices, stage.batch_size)
    counts = masks.resolve_budgets(budgets, masks.unit_count(network.masks), "SENet")
    masks.check_all_kept(network.masks, "SENet")
    return _choose(network, data, config, counts, seed, progress_dir, on_epoch, devices)


def check_config(config: SenetConfig, num_examples: int) -> None:
    """Raise a JaxfairError if SENet cannot choose by this configuration on so many images."""
    _check_sparse(config, num_examples)
    _check_stage("mask stage", config.mask_train, num_examples)


def _check_sparse(config: SenetConfig, num_examples: int) -> None:
    """Raise a JaxfairError if no layer's sensitivity can be had by this configuration on so many images."""
    pruning.check_config(pruning.PruneConfig(config.sparsity))
    _check_stage("sparse training", config.sparse_train, num_examples)
    if config.sparse_train.distillation_weight:
        raise JaxfairError("SENet's sparse training has no teacher; leave its distillation weight at 0.")


def _check_stage(stage: str, config: TrainConfig, num_examples: int) -> None:
    fit.check_config(config, num_examples)
    if config.mitigation.method != "none":
        raise JaxfairError(f"SENet's {stage} knows no mitigation; leave it out, or mitigate in the fine-tuning.")


def _choose(
    network: Network,
    data: Dataset,
    config: SenetConfig,
    counts: list[int],
    seed: int,
    progress_dir: Path | None,
    on_epoch: OnEpoch | None,
    devices: int,
) -> Iterator[Chosen]:
    def folder(*parts: object) -> Path | None:
        if progress_dir is None:
            return None
        return Path(progress_dir) / checkpoints.key("senet", seed, _decisive(config), data.fingerprint(), *parts)

    units = {gate: mask.size for gate, mask in _by_gate(network.masks).items()}
    found, all_kept = dict.fromkeys(units, 1.0), counts == [sum(units.values())]  # then there is nothing to divide
    if not all_kept:
        place = folder(network.module)
        found = sensitivity(
            network.module, data, config, seed=seed, progress_dir=place, on_epoch=on_epoch, devices=devices
        )
    start = () if progress_dir is None else (network.module, checkpoints.tree_digest(network))
    sparse, masking = (fit.images_seen(c, len(data)) for c in (config.sparse_train, config.mask_train))
    passes = sparse * GRADIENT * (not all_kept) + masking * (FORWARD + GRADIENT)
    for count in counts:
        kept = allocate(list(found.values()), list(units.values()), count)
        place = folder(*start, kept) if start else None
        student = _masked(network, data, config, kept, seed, place, on_epoch, devices)
        yield Chosen(count, student, found, dict(zip(units, kept, strict=True)), passes)


def _masked(
    network: Network,
    data: Dataset,
    config: SenetConfig,
    kept: list[int],
    seed: int,
    folder: Path | None,
    on_epoch: OnEpoch | None,
    devices: int,
) -> Network:
    """Return the student after the mask stage, in which each layer keeps ``kept`` ReLUs."""
    leaves, structure = jax.tree.flatten(network.masks)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    first = [masks.keep_random(leaf, k, key) for leaf, k, key in zip(leaves, kept, keys, strict=True)]
    carry = fit.begin(network.replace(masks=jax.tree.unflatten(structure, first)), data, config.mask_train)

    def chosen(epoch: int, carry: Masking) -> Masking:
        del epoch
        mismatch = jax.tree.leaves(carry.mismatch)
        best = [masks.keep_largest(leaf, k) for leaf, k in zip(mismatch, kept, strict=True)]
        student = carry.network.replace(masks=jax.tree.unflatten(structure, best))
        return Masking(student, carry.opt_state, masks.full(carry.mismatch, 0.0))

    step = fit.make_step(config.mask_train, data)
    return _train(
        step=MaskStep(step.config, step.steps_per_epoch),
        after=chosen,
        fresh=Masking(carry.network, carry.opt_state, masks.full(network.masks, 0.0)),
        fixed=Fixed(network, data, jnp.int32(seed), group_weight=_group_weight(data, config)),
        config=config.mask_train,
        seed=seed,
        name=f"the mask stage of {sum(kept)} ReLUs, seed {seed}",
        folder=folder,
        on_epoch=on_epoch,
        devices=devices,
    ).network


def _train(
    *,
    step: Callable,
    after: Callable[[int, Any], Any],
    fresh: Any,
    fixed: Fixed,
    config: TrainConfig,
    seed: int,
    name: str,
    folder: Path | None,
    on_epoch: OnEpoch | None,
    devices: int,
) -> Any:
    """Train through all epochs, each followed by ``after``, and return the last state."""
    shared = sharing.mesh(devices, config.batch_size)
    data, fixed = fixed.data, sharing.laid_out(fixed, shared)

    def run(epoch: int, carry: Any) -> Any:
        index = epoch_order(len(data), config.batch_size, seed, epoch)
        carry, _ = run_batches(step, carry, fixed, index, epoch * len(index), [name], shared)
        return after(epoch, sharing.collected(carry, shared))

    together, often = sharing.spans_processes(shared), config.checkpoint_seconds
    start = checkpoints.resume(folder, fresh, together=together)
    state = start[1]
    for done, latest in epochs(run, start, config.epochs, folder, often, keep_last=True, together=together):
        state = latest
        if on_epoch is not None:
            on_epoch(done, config.epochs, name)
    check_network(state.network, name)
    return state


def _group_weight(data: Dataset, config: SenetConfig) -> Float[Array, " groups"]:
    """Return the weight of each group's images: ones are given too, so that both choices are one program."""
    return jnp.asarray(group_balance(data) if config.balanced else np.ones(len(data.group_names), np.float32))


def _decisive(config: SenetConfig) -> SenetConfig:
    """Return what decides the choice, which how often it is saved does not."""
    sparse, masking = (dataclasses.replace(c, checkpoint_seconds=0) for c in (config.sparse_train, config.mask_train))
    return dataclasses.replace(config, sparse_train=sparse, mask_train=masking)


def _by_gate(tree: Any) -> Mapping[str, Array]:
    """Return the arrays of a tree of the masks' structure by the path of their gate."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path[:-1], simple=True, separator="/"): leaf for path, leaf in leaves}


def _density(params: Any, layer: str) -> float:
    """Return the share of a convolution's weights that are not zero."""
    for name in layer.split("/"):
        params = params[name]
    return float(jnp.count_nonzero(params["kernel"]) / params["kernel"].size)
