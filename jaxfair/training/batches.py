"""What every method that trains shares: images gathered and augmented in the step, steps run, results checked."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from jaxfair.data.config import Augmentation
from jaxfair.data.dataset import Dataset, augment
from jaxfair.errors import JaxfairError
from jaxfair.loops import run_epoch
from jaxfair.networks.network import Network, predict
from jaxfair.training import sharing

FORWARD, GRADIENT = 1, 3
"""Work on one image in forward passes of it, by counting convolutions."""


class Fixed(NamedTuple):
    """What all steps of a training share.

    Attributes:
        teacher: the network to distil from, or None.
        data: the training set.
        seed: decides the augmentation, together with the number of a step; shape (), or (seeds,) with a leading axis
            of the other trees too where several seeds are trained together.
        kept: of each parameter whether it is trained, a tree of booleans of the parameters' structure; None trains all.
        group_weight: the factor on the loss of an example of each group, shape (groups,); None is 1 for all.
        attention: the factor on the distance of the stages' attention maps from the teacher's, shape (); None leaves
            it out.
        wanted: the teacher's logits of all images, shape (n, classes), after the seeds if there are several;
            None computes those of each batch in its step.
    """

    teacher: Network | None
    data: Dataset
    seed: Int[Any, "*seeds"]
    kept: Any = None
    group_weight: Any = None
    attention: Any = None
    wanted: Any = None


def answered(fixed: Fixed, kind: Augmentation, teachers: Sequence[Network]) -> Fixed:
    """Return what the steps share with the logits of each seed's teacher in it, if images are the same in every epoch.

    A step saves a pass of four then. Images on the host are read batch by batch, and attention maps are too large.
    """
    if not teachers or kind != "none" or fixed.data.on_host or fixed.attention is not None:
        return fixed
    wanted = [predict(teacher, fixed.data) for teacher in teachers]
    return fixed._replace(wanted=jnp.asarray(wanted[0] if len(wanted) == 1 else np.stack(wanted)))


def taught(fixed: Fixed, images: Float[Array, "b h w c"], index: Int[Array, " b"]) -> Float[Array, "b classes"]:
    """Return the teacher's logits of a batch."""
    assert fixed.teacher is not None
    return fixed.teacher(images) if fixed.wanted is None else fixed.wanted[index]


def batch(
    fixed: Fixed, kind: Augmentation, step: Int[Array, ""], index: Int[Array, " b"]
) -> tuple[Float[Array, "b h w c"], Int[Array, " b"]]:
    """Gather, augment and normalize one batch on the device.

    Args:
        fixed: holds the images.
        kind: the augmentation.
        step: the number of the step since the training began.
        index: positions of the batch's images.

    Returns:
        Images of shape (b, height, width, channels), float32, and labels of shape (b,).
    """
    key = jax.random.fold_in(jax.random.key(fixed.seed), step)
    images: UInt8[Array, "b h w c"] = augment(fixed.data.images[index], kind, key)
    return fixed.data.normalize(images), fixed.data.label[index]


def group_balance(data: Dataset) -> Float[np.ndarray, " groups"]:
    """Return the factors on the examples' losses by which each group counts the same and the mean factor is 1."""
    counts = data.group_counts
    return (len(data) / (np.maximum(counts, 1) * (counts > 0).sum())).astype(np.float32)


def weighed(fixed: Fixed, values: Float[Array, " b"], index: Int[Array, " b"]) -> Float[Array, " b"]:
    """Return values of a batch's images times their groups' weights, if there are any."""
    if fixed.group_weight is None:
        return values
    return values * fixed.group_weight[fixed.data.group[index]].astype(values.dtype)


def run_batches(
    step: Callable,
    carry: Any,
    fixed: Fixed,
    index: Int[np.ndarray, "steps ..."],
    first_step: int,
    names: Sequence[str],
    devices: Mesh | None = None,
) -> tuple[Any, dict[str, np.ndarray]]:
    """Run one step for each batch; ``carry`` is consumed.

    Args:
        step: pure and hashable, ``carry, fixed, (number, index) -> carry, metrics``; the metrics are a dict of scalars,
            or of shape (seeds,) where several seeds are trained together, and ``loss`` is one of them.
        carry: what a step changes.
        fixed: what all steps share.
        index: positions of each batch's images, shape (steps, b) or (steps, seeds, b).
        first_step: the number of the first of these steps since the training began.
        names: what is trained, as an error calls it; one name for each seed.
        devices: those that share each batch, on which ``fixed`` is laid out (see ``sharing``); None is one device.

    Returns:
        The last carry, and the metrics of all steps, of shape (steps,) or (steps, seeds).

    Raises:
        JaxfairError: a loss is not finite.
    """
    numbers = np.arange(first_step, first_step + len(index), dtype=np.int32)
    if devices is not None:
        step, carry = sharing.Split(step, devices), sharing.laid_out(carry, devices)
    carry, metrics = run_epoch(step, carry, fixed, (numbers, index), fetch=_fetch if fixed.data.on_host else None)
    check_finite(metrics["loss"], first_step, names)
    return carry, metrics


def _fetch(fixed: Fixed, x: tuple[np.ndarray, np.ndarray]) -> tuple[Fixed, tuple[np.ndarray, np.ndarray]]:
    """Read the images of one step; ``x`` is the step's number and its images' positions."""
    data, index = fixed.data.fetch(x[1])
    return fixed._replace(data=data), (x[0], index)


def check_finite(loss: Float[np.ndarray, "steps *seeds"], first_step: int, names: Sequence[str]) -> None:
    """Raise a JaxfairError that names the first step whose loss is not finite, and what was trained."""
    for name, values in zip(names, loss.reshape(len(loss), -1).T, strict=True):
        bad = ~np.isfinite(values)
        if bad.any():
            step = int(np.argmax(bad))
            advice = "lower the learning rate, or look at the images of that step"
            if first_step + step == 0:  # before any descent
                advice = "look at the images of that step, and at the weights that the training began with"
            raise JaxfairError(f"The loss of {name} is {values[step]} at step {first_step + step}; {advice}.")


def check_network(network: Network, name: str) -> None:
    """Raise a JaxfairError if a weight is not finite: a loss shows that only one step later."""
    if not all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(network)):
        raise JaxfairError(f"The network of {name} is not finite after its last step; lower the learning rate.")
