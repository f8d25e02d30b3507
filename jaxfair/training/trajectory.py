"""How two trainings part: the parameters after chosen steps, as digests and as sketches that a small file can carry.

Full parameters of every step would be too many to keep or to send. A digest says whether two are equal to the bit, and
a sketch how far they are apart.
"""

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxfair.data.dataset import Dataset
from jaxfair.data.splits import epoch_order
from jaxfair.errors import JaxfairError
from jaxfair.inputs import quoted
from jaxfair.models import check_parameters
from jaxfair.networks.network import Network
from jaxfair.options import Seed, checked
from jaxfair.training import mitigate, sharing
from jaxfair.training.batches import Fixed, answered, run_batches
from jaxfair.training.config import TrainConfig
from jaxfair.training.fit import Trainings, TrainStep, begin, check, make_step

SKETCH_SIZE = 4096


@checked
def first_steps(
    network: Network,
    data: Dataset,
    config: TrainConfig,
    *,
    seed: Seed,
    steps: Sequence[int],
    order_seed: Seed | None = None,
    teacher: Network | None = None,
    devices: int = 1,
) -> Iterator[tuple[int, Network]]:
    """Train as ``fit`` does, to the bit, and yield the network after each of ``steps``; stop after the last of them.

    Args:
        network: the network to start from.
        data: the training set.
        config: how the whole training would go; the learning rate depends on its length.
        seed: decides the augmentation, and the order in which images are seen unless ``order_seed`` is given.
        steps: the steps after which the network is wanted, counted from 1, ascending.
        order_seed: decides that order alone.
        teacher: the network to distil from, if there is one.
        devices: how many of ``jax.devices()`` share each batch, as for ``fit``.

    Returns:
        An iterator over the steps, each with the network after it; it raises a JaxfairError where a loss is not finite.

    Raises:
        JaxfairError: The steps do not ascend or the training does not have so many, there are fewer devices, or ``fit``
            would refuse network, images, configuration or teacher.
    """
    order = seed if order_seed is None else order_seed
    teachers = None if teacher is None else [teacher]
    check(Trainings([network], [seed], [order], teachers), data, config)
    step, wanted = make_step(config, data), list(steps)
    last = step.steps_per_epoch * config.epochs
    if wanted != sorted(set(wanted)) or not wanted or not 1 <= wanted[0] <= wanted[-1] <= last:
        raise JaxfairError(
            f"The steps to look at are [{quoted(wanted)}]; give ascending ones from 1 to {last}, the length of the "
            "training."
        )
    sharing.check(devices, config.batch_size)
    return _after_steps(network, data, config, step, wanted, seed, order, teacher, devices)


def _after_steps(
    network: Network,
    data: Dataset,
    config: TrainConfig,
    step: TrainStep,
    wanted: list[int],
    seed: int,
    order_seed: int,
    teacher: Network | None,
    devices: int,
) -> Iterator[tuple[int, Network]]:
    per_epoch, shared = step.steps_per_epoch, sharing.mesh(devices, config.batch_size)
    carry = begin(network, data, config)
    fixed = answered(Fixed(teacher, data, jnp.asarray(np.int32(seed))), config.augment, [teacher] if teacher else [])
    fixed = sharing.laid_out(fixed, shared)
    ends, done = range(per_epoch, wanted[-1], per_epoch), 0
    for mark in sorted({*wanted, *ends}):
        epoch, skipped = divmod(done, per_epoch)
        index = epoch_order(len(data), config.batch_size, order_seed, epoch)[skipped:][: mark - done]
        carry, _ = run_batches(step, carry, fixed, index, done, ["a training whose first steps were looked at"], shared)
        if mark in wanted:
            yield mark, sharing.collected(jax.tree.map(jnp.copy, carry.network), shared)  # the next step consumes it
        if mark in ends:
            carry = carry._replace(mitigation=mitigate.end_epoch(config.mitigation, carry.mitigation))
        done = mark


def sketch(params: Any, size: int = SKETCH_SIZE) -> Float[np.ndarray, " k"]:
    """Add up all parameters with random signs in ``size`` buckets: a count sketch (Charikar et al. 2002), in float64.

    The squared L2 distance of two sketches is that of the parameters in expectation, with a relative standard deviation
    of at most ``sqrt(2 / size)``, 2.2 % for 4,096: 1.1 % of the distance. Buckets and signs are the same everywhere.

    Args:
        params: a pytree of arrays.
        size: the number of buckets.

    Returns:
        The sums, shape (size,). The sketch is linear in the parameters.
    """
    total = np.zeros(size)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        values = np.asarray(leaf, np.float64).ravel()
        rng = np.random.default_rng(zlib.crc32(jax.tree_util.keystr(path).encode()))
        bucket, sign = rng.integers(size, size=values.size), rng.integers(2, size=values.size) * 2 - 1
        total += np.bincount(bucket, sign * values, minlength=size)
    return total


@checked
def nudge(params: Any, seed: Seed) -> Any:
    """Change one weight of every array to the next floating-point number: one unit in the last place.

    Args:
        params: a pytree of floating-point arrays.
        seed: chooses the weights, the same ones on every backend.

    Returns:
        The changed pytree.

    Raises:
        JaxfairError: The parameters are no floating-point arrays.
    """
    check_parameters(params)
    paths, structure = jax.tree_util.tree_flatten_with_path(params)
    changed = []
    for path, leaf in paths:
        array = np.array(leaf)
        if not array.size:
            changed.append(leaf)
            continue
        rng = np.random.default_rng([seed, zlib.crc32(jax.tree_util.keystr(path).encode())])
        place = np.unravel_index(rng.integers(array.size), array.shape)
        array[place] = np.nextafter(array[place], array.dtype.type(np.inf))
        changed.append(jnp.asarray(array))
    return jax.tree.unflatten(structure, changed)
