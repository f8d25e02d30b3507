"""Problems to time: a trained network and images in five groups, the same for every library. Embedded digits only."""

import dataclasses
import hashlib
import json
import os
import zipfile
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import transformer
from jaxfair import losses, networks
from jaxfair.data import cache as store
from jaxfair.data import sources
from jaxfair.data.dataset import Dataset, make_dataset
from jaxfair.data.splits import epoch_order
from jaxfair.errors import JaxfairError, did_you_mean
from jaxfair.networks.network import Network
from jaxfair.training.config import TrainConfig
from jaxfair.training.fit import fit

GROUPS = 5
GREYS = 17


class Spec(NamedTuple):
    """Sizes of a problem.

    Attributes:
        title: for tables.
        kind: a ResNet of basic or of bottleneck blocks, an MLP, or a GPT that tells each next pixel of an image from
            those before, grey levels being its tokens.
        sizes: blocks in each stage of a ResNet, units of each hidden layer of an MLP, the number of layers of a GPT.
        width: channels of a ResNet's first stage, or numbers that a token is made of; an MLP has none.
        enlarge: how many times the 8x8 digits are enlarged; a ResNet's then have three channels.
        per_group: images in each group.
        batch: images of single products, densities and margins.
        epochs: of training, for a spectrum with outliers.
        seed: of the network's start and of the order of its training images.
    """

    title: str
    kind: Literal["basic", "bottleneck", "mlp", "gpt"]
    sizes: tuple[int, ...]
    width: int
    enlarge: float
    per_group: int
    batch: int
    epochs: int
    seed: int = 0

    @property
    def resnet(self) -> bool:
        """Whether images are convolved."""
        return self.kind in ("basic", "bottleneck")


EIGHTEEN, FIFTY = networks.STAGE_SIZES[18], networks.STAGE_SIZES[50]
SPECS = {
    "resnet18-w16": Spec("ResNet-18, width 16, 32x32", "basic", EIGHTEEN, 16, 4, 40, 128, 3),
    "resnet18-w16-1000": Spec("ResNet-18, width 16, 32x32", "basic", EIGHTEEN, 16, 4, 1000, 128, 3),
    "resnet18-w64": Spec("ResNet-18, width 64, 32x32", "basic", EIGHTEEN, 64, 4, 40, 64, 3),
    # As many images as the training split of UTKFace has.
    "resnet18-w64-3792": Spec("ResNet-18, width 64, 32x32", "basic", EIGHTEEN, 64, 4, 3792, 64, 3),
    # The network and the images of preset cpu.
    "resnet18-w8-16px": Spec("ResNet-18, width 8, 16x16", "basic", EIGHTEEN, 8, 2, 40, 128, 10),
    "digits": Spec("small ResNet, width 8, 8x8", "basic", (1, 1, 1), 8, 1, 40, 128, 20),
    "mlp": Spec("MLP, 2 x 256 units, 8x8", "mlp", (256, 256), 0, 1, 40, 128, 20),
    # Those of curvlinops' own benchmark: its MLP and its ResNet-18 with its batches of 512; its ResNet-50 with its
    # batch of 64, on images of 32x32 instead of 224x224, and a quarter as wide as well; nanoGPT with as many tokens as
    # its batch of 4 has, and a third as deep and a sixth as wide as well.
    "mlp-512": Spec(
        "MLP, 1024-512-256-128-64 units, 28x28, batch 512", "mlp", (1024, 512, 256, 128, 64), 0, 3.5, 103, 512, 20
    ),
    "resnet18-w64-512": Spec("ResNet-18, width 64, 32x32, batch 512", "basic", EIGHTEEN, 64, 4, 103, 512, 3),
    "resnet50-w16": Spec("ResNet-50, width 16, 32x32", "bottleneck", FIFTY, 16, 4, 40, 64, 3),
    "resnet50-w64": Spec("ResNet-50, width 64, 32x32", "bottleneck", FIFTY, 64, 4, 40, 64, 3),
    "gpt": Spec("GPT, 4 layers of width 128, 63 tokens", "gpt", (4,), 128, 1, 40, 65, 20),
    "gpt-w768": Spec("GPT, 12 layers of width 768, 63 tokens", "gpt", (12,), 768, 1, 40, 65, 3),
    "tiny": Spec("tiny ResNet, width 2, 8x8", "basic", (1,), 2, 1, 4, 8, 5),
    "tiny-bottleneck": Spec("tiny ResNet of bottlenecks, width 2, 8x8", "bottleneck", (1, 1), 2, 1, 4, 8, 5),
    "tiny-gpt": Spec("tiny GPT, 63 tokens", "gpt", (1,), 64, 1, 4, 8, 2),
}


class Problem(NamedTuple):
    """A network in evaluation mode and the examples of its groups.

    Attributes:
        name: as ``load`` was given it.
        spec: its sizes.
        network: jaxfair's network, or the parameters of an MLP or a GPT.
        logits_fn: ``(params, x) -> logits``.
        params: of the network.
        x: normalized images, NHWC, or tokens.
        y: labels, 0..9, or the next tokens.
        group: of each image, 0..GROUPS-1, the same number in each; a group is a pair of digits.
        data: the images of ``x`` as they are stored, with the same labels and groups, to train on.
    """

    name: str
    spec: Spec
    network: Any
    logits_fn: Any
    params: Any
    x: jax.Array
    y: jax.Array
    group: np.ndarray
    data: Dataset

    @property
    def loss(self) -> Any:
        """What is differentiated: the cross-entropy of each image, in nats, of its tokens on average."""
        return _plain(self.spec)[1]

    @property
    def batch(self) -> tuple[jax.Array, jax.Array]:
        """Images and labels of single products, from all groups alike."""
        return self.x[self.drawn], self.y[self.drawn]

    @property
    def drawn(self) -> np.ndarray:
        """Positions of the images of ``batch``."""
        return np.linspace(0, len(self.group) - 1, min(self.spec.batch, len(self.group))).round().astype(int)

    def members(self, group: int) -> tuple[jax.Array, jax.Array]:
        """Images and labels of one group."""
        index = np.flatnonzero(self.group == group)
        return self.x[index], self.y[index]


def default_cache() -> Path:
    """Return the folder that keeps trained networks between runs."""
    return store.user_folder("benchmarks") or Path("benchmarks-cache")


def load(name: str, cache: Path | None = None, factor: int = 1) -> Problem:
    """Build a problem; its network is trained once and kept in ``cache``.

    Args:
        name: key of ``SPECS``; ``@`` and a number after it are the seed of another network.
        cache: folder of trained networks; None is ``default_cache()``.
        factor: by which to multiply the number of images.

    Raises:
        JaxfairError: there is no such problem.
    """
    key, at, seed = name.partition("@")
    if key not in SPECS:
        raise JaxfairError(f"There is no problem '{name}'{did_you_mean(key, SPECS)}")
    if at and not (seed.isascii() and seed.isdecimal()):
        raise JaxfairError(f"There is no problem '{name}'; other networks of '{key}' are {key}@1, {key}@2 and so on.")
    spec = SPECS[key]._replace(seed=int(seed or 0))
    small = sources.digits()
    images, label = _enlarged(spec, np.asarray(small.images)), np.asarray(small.label)
    whole = make_dataset(images, label, label, name=name, class_names=small.class_names, group_names=small.group_names)
    network = _cached(spec, whole, cache or default_cache())
    images, label = _examples(whole, spec.per_group * factor)
    x, y = _inputs(spec, whole, images, label)
    group = label // 2
    data = dataclasses.replace(whole, images=jnp.asarray(images), label=jnp.asarray(label), group=jnp.asarray(group))
    resnet = isinstance(network, Network)
    logits_fn, params = (networks.frozen(network), network.params) if resnet else (_plain(spec)[0], network)
    return Problem(name, spec, network, logits_fn, params, x, y, group, data)


def _plain(spec: Spec) -> tuple[Any, Any]:
    """Return the logits, and the loss of each example, of an MLP or a GPT."""
    return (transformer.logits, token_loss) if spec.kind == "gpt" else (mlp_logits, losses.cross_entropy)


def _inputs(spec: Spec, whole: Dataset, images: np.ndarray, label: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Return what the network is given and what it is to say: images and labels, or tokens and those after them."""
    if spec.kind != "gpt":
        return whole.normalize(jnp.asarray(images)), jnp.asarray(label)
    tokens = _tokens(images)
    return jnp.asarray(tokens[:, :-1]), jnp.asarray(tokens[:, 1:])


def _tokens(images: np.ndarray) -> np.ndarray:
    """Return the grey levels of images of 8 bits, row after row; the digits have 17 of them, 0, 16, ... 240, 255."""
    return np.round(images.reshape(len(images), -1) / 16).astype(np.int32)


def token_loss(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """Compute the mean cross-entropy (n,) of sequences of tokens (n, t) under logits (n, t, v), in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens).mean(axis=-1)


def mlp_logits(params: Any, x: jax.Array) -> jax.Array:
    """Compute logits (n, 10) of images (n, h, w, c) by an MLP whose layers are a list of kernel and bias."""
    x = x.reshape(len(x), -1)
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ params[-1]["kernel"] + params[-1]["bias"]


def _enlarged(spec: Spec, images: np.ndarray) -> np.ndarray:
    """Repeat pixels, of which no two kinds differ by more than one in number; a ResNet gets three equal channels."""
    side = round(images.shape[1] * spec.enlarge)
    index = np.arange(side) * images.shape[1] // side
    enlarged = images[:, index][:, :, index]
    return enlarged.repeat(3, axis=3) if spec.resnet and spec.enlarge > 1 else enlarged


def shifted(images: np.ndarray, copy: int) -> np.ndarray:
    """Return copy number ``copy`` of images (n, h, w, c): the copies are shifts, from the nearest on, 0 is none.

    Shifts are of at most an eighth of the width less one pixel in each direction (three pixels at 32x32), or of one
    pixel in small images. What is left free is 0, the digits' background.
    """
    reach = max(1, images.shape[1] // 8 - 1)
    steps = [(down, right) for down in range(-reach, reach + 1) for right in range(-reach, reach + 1)]
    steps.sort(key=lambda step: (step[0] ** 2 + step[1] ** 2, step))
    if copy >= len(steps):
        raise JaxfairError(f"There are {len(steps)} shifts of an image, and copy {copy + 1} was asked for.")
    down, right = steps[copy]
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    return padded[:, reach - down : reach - down + height, reach - right : reach - right + width]


def _examples(whole: Dataset, per_group: int) -> tuple[np.ndarray, np.ndarray]:
    """Take ``per_group`` images of each pair of digits; where there are too few, shifted copies follow."""
    images, label = np.asarray(whole.images), np.asarray(whole.label)
    found, index = [], []
    for group in range(GROUPS):
        members = np.flatnonzero(label // 2 == group)
        for copy in range(-(-per_group // len(members))):
            chosen = members[: per_group - copy * len(members)]
            found.append(shifted(images[chosen], copy))
            index.append(chosen)
    return np.concatenate(found), label[np.concatenate(index)]


def _cached(spec: Spec, whole: Dataset, cache: Path) -> Any:
    """Read the trained network, or train it and keep it."""
    untrained = partial(_untrained, spec, whole.image_shape)
    structure = jax.eval_shape(untrained)
    named = [spec.sizes, spec.width, spec.epochs, whole.fingerprint(), jax.__version__]
    key = json.dumps([*named, spec.seed] if spec.seed else named)
    path = cache / f"{spec.kind}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.npz"
    try:
        with np.load(path) as stored:
            leaves = [jnp.asarray(stored[f"leaf{i}"]) for i in range(len(stored.files))]
        return jax.tree.unflatten(jax.tree.structure(structure), leaves)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):  # none, or one that was cut off: train it
        pass
    train = _trained_resnet if spec.resnet else _trained_plain
    network = train(spec, untrained(), whole)
    temporary = path.with_suffix(f".{os.getpid()}.npz")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(temporary, **{f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(network))})  # pyright: ignore
        temporary.replace(path)
    except OSError as error:
        raise JaxfairError(f"'{path}' cannot be written: {error.strerror}; choose another --cache.") from error
    return network


def _untrained(spec: Spec, shape: tuple[int, int, int]) -> Any:
    if spec.kind == "gpt":
        return transformer.init(GREYS, int(np.prod(shape)) - 1, spec.width, *spec.sizes, seed=spec.seed)
    if spec.kind != "mlp":
        return networks.init(networks.ResNet(spec.sizes, 10, spec.width, block=spec.kind), shape, spec.seed)
    sizes = [int(np.prod(shape)), *spec.sizes, 10]
    keys = jax.random.split(jax.random.key(spec.seed), len(sizes) - 1)
    return [
        {"kernel": jax.random.normal(key, (m, n)) * (2 / m) ** 0.5, "bias": jnp.zeros(n)}
        for key, m, n in zip(keys, sizes, sizes[1:], strict=False)
    ]


def _trained_resnet(spec: Spec, network: Network, whole: Dataset) -> Network:
    config = TrainConfig(epochs=spec.epochs, batch_size=64, learning_rate=0.05, schedule="cosine")
    (fitted,) = fit([network], whole, config, seeds=[spec.seed])
    return fitted.network


def _trained_plain(spec: Spec, params: Any, whole: Dataset) -> Any:
    """Train by plain stochastic gradient descent."""
    x, y = _inputs(spec, whole, np.asarray(whole.images), np.asarray(whole.label))
    logits_fn, of_examples = _plain(spec)

    @jax.jit
    def step(params: Any, index: Any) -> Any:
        def loss(p: Any) -> jax.Array:
            return of_examples(logits_fn(p, x[index]), y[index]).mean()

        return jax.tree.map(lambda p, g: p - 0.05 * g, params, jax.grad(loss)(params))

    for epoch in range(spec.epochs):
        for index in epoch_order(len(x), 64, spec.seed, epoch):
            params = step(params, index)
    return params
