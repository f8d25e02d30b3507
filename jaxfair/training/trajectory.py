"""How two trainings part: the parameters after chosen steps, as digests and as sketches that a small file can carry.

Full parameters of every step would be too many to keep or to send. A digest says whether two are equal to the bit, and
a sketch how far they are apart.
"""

import hashlib
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
from jaxfair.loops import run_epoch
from jaxfair.networks.network import Network
from jaxfair.training import fit as train
from jaxfair.training import mitigate
from jaxfair.training.fit import Carry, Fixed, TrainConfig, TrainStep, make_optimizer

SKETCH_SIZE = 4096


def first_steps(
    network: Network, data: Dataset, config: TrainConfig, *, seed: int, steps: Sequence[int]
) -> Iterator[tuple[int, Network]]:
    """Train as ``train.fit`` does and yield the network after each of ``steps``, ascending; it stops after the last.

    Args:
        network: to start from.
        data: the training set.
        config: of the whole training, on whose length the learning rate depends.
        seed: of the order of the data and the augmentation.
        steps: counted from 1, none beyond the end of the training.

    Raises:
        JaxfairError: the steps do not ascend, or the training does not have so many.
    """
    per_epoch = len(epoch_order(len(data), config.batch_size, 0, 0))
    wanted = list(steps)
    if wanted != sorted(set(wanted)) or not wanted or not 1 <= wanted[0] <= wanted[-1] <= per_epoch * config.epochs:
        raise JaxfairError(
            f"The steps to look at are {wanted}; give ascending ones from 1 to {per_epoch * config.epochs}, the length "
            "of the training."
        )
    shapes = {"num_groups": len(data.group_names), "num_classes": len(data.class_names)}
    state = mitigate.init(config.mitigation, **shapes, input_shape=data.image_shape)
    step = train.TrainStep(config, per_epoch)
    carry = Carry(jax.tree.map(jnp.copy, network), make_optimizer(config, per_epoch).init(network.params), state)
    fixed = Fixed(None, data, jnp.asarray(np.int32(seed)))
    for epoch in range(-(-wanted[-1] // per_epoch)):
        order, begin = epoch_order(len(data), config.batch_size, seed, epoch), epoch * per_epoch
        marks = [mark for mark in wanted if begin < mark <= begin + per_epoch]
        done = begin
        for mark in dict.fromkeys([*marks, min(begin + per_epoch, wanted[-1])]):
            carry = _advance(step, carry, fixed, order[done - begin : mark - begin], done)
            done = mark
            if mark in marks:
                yield mark, jax.tree.map(jnp.copy, carry.network)  # the next step consumes the carry
        carry = carry._replace(mitigation=mitigate.end_epoch(config.mitigation, carry.mitigation))


def _advance(step: TrainStep, carry: Carry, fixed: Fixed, index: np.ndarray, done: int) -> Carry:
    if not len(index):
        return carry
    numbers = np.arange(done, done + len(index), dtype=np.int32)
    fetch = train.fetch if fixed.data.on_host else None
    carry, metrics = run_epoch(step, carry, fixed, (numbers, index), fetch=fetch)
    train.check_finite(metrics["loss"], done, "a training whose first steps were looked at")
    return carry


def tree_digest(tree: Any) -> str:
    """Return 16 hexadecimal digits of all arrays and their places: equal bits, equal digest, on any machine."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)}{array.dtype.str}{array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()[:16]


def sketch(params: Any, size: int = SKETCH_SIZE) -> Float[np.ndarray, " k"]:
    """Add up all parameters with random signs in ``size`` buckets (count sketch; Charikar et al. 2002), in float64.

    The squared L2 distance of two sketches is that of the parameters in expectation, with a relative standard deviation
    of at most ``sqrt(2 / size)``, 2.2 % for 4,096: 1.1 % of the distance. Buckets and signs are the same everywhere.
    """
    total = np.zeros(size)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        values = np.asarray(leaf, np.float64).ravel()
        rng = np.random.default_rng(zlib.crc32(jax.tree_util.keystr(path).encode()))
        bucket, sign = rng.integers(size, size=values.size), rng.integers(2, size=values.size) * 2 - 1
        total += np.bincount(bucket, sign * values, minlength=size)
    return total


def nudge(params: Any, seed: int) -> Any:
    """Change one weight of every array to the next floating-point number: one unit in the last place.

    Args:
        params: pytree of floating-point arrays.
        seed: chooses the weights; the same ones on every backend.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(params)
    changed = []
    for path, leaf in paths:
        array = np.array(leaf)
        rng = np.random.default_rng([seed, zlib.crc32(jax.tree_util.keystr(path).encode())])
        place = np.unravel_index(rng.integers(array.size), array.shape)
        array[place] = np.nextafter(array[place], array.dtype.type(np.inf))
        changed.append(jnp.asarray(array))
    return jax.tree.unflatten(structure, changed)
