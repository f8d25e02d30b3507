"""Is this device right? Everything that is measured, and one step of training, against PyTorch's stored float64."""

import dataclasses
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jax.flatten_util import ravel_pytree

from benchmarks.child import ROOT
from jaxfair import hardware, margins, networks
from jaxfair.curvature import density
from jaxfair.curvature.config import CurvatureConfig
from jaxfair.curvature.operators import GroupOperator, Kind, as_pytree
from jaxfair.curvature.spectrum import group_curvature
from jaxfair.data.dataset import Dataset
from jaxfair.loops import Together
from jaxfair.networks.network import Network
from jaxfair.training.batches import Fixed, run_batches
from jaxfair.training.config import TrainConfig
from jaxfair.training.fit import begin, make_step

REFERENCES = ROOT / "tests" / "references"
ROUNDING = 3e-5  # of float32, of a Hessian product through that network; tests/curvature/test_curvature_reference.py
STEPS = 8
"""Of Lanczos, for a spectral measure whose first two moments are known."""


def is_right() -> dict[str, Any]:
    """Compare with references, and look at the rounding of products; each error is relative."""
    errors, same = _curvature()
    errors |= {"DeepFool distance": _distances(), "training step of two seeds": _step()}
    probe = hardware.probe()
    rounding = {name: probe[name] for name in ("product", "convolution", "fused", "kernels")}
    full = rounding["product"] == rounding["convolution"] == "float32"
    right = full and all(error < ROUNDING for error in errors.values())  # which NaN is not
    return {"errors": errors, "allowed": ROUNDING, "right": right, "same_bits": same, **rounding}


def _read(name: str) -> dict[str, np.ndarray]:
    with np.load(REFERENCES / f"{name}.npz") as stored:
        return dict(stored)


def _tree(reference: dict[str, np.ndarray], prefix: str, pick: Any = ...) -> Any:
    found = {name.removeprefix(prefix): value[pick] for name, value in reference.items() if name.startswith(prefix)}
    return unflatten_dict({name: jnp.asarray(value, jnp.float32) for name, value in found.items()}, sep="/")


def _network(reference: dict[str, np.ndarray], stages: tuple[int, ...], classes: int, width: int) -> Network:
    module = networks.ResNet(stage_sizes=stages, num_classes=classes, width=width)
    return Network(module, *(_tree(reference, f"{name}/") for name in ("params", "batch_stats", "masks")))


def _worst(*errors: float) -> float:
    """Return the largest error; NaN if there is one, which Python's ``max`` passes over."""
    return float(np.max(errors))


def _apart(found: Any, wanted: Any) -> float:
    """Return the L2 distance of two vectors relative to the second."""
    wanted = np.asarray(wanted, float)
    return float(np.linalg.norm(np.asarray(found, float) - wanted) / np.linalg.norm(wanted))


def _curvature() -> tuple[dict[str, float], bool]:
    """Return the errors of group_curvature, products and spectral measures, and whether a repeat gives the same."""
    reference = _read("curvature")
    network = _network(reference, (1, 1), 10, 6)
    x, y = jnp.asarray(reference["images"], jnp.float32), reference["label"]
    member = (reference["group"] == np.arange(3)[:, None]).astype(np.float32)
    weights = member / member.sum(axis=1, keepdims=True)
    data = networks.frozen(network), network.params, x, y
    config = CurvatureConfig(bottom=True, max_steps=500, tolerance=1e-5)
    measured = [group_curvature(*data, weights, config) for _ in range(2)]
    names = ("loss", "gradient_norm", "top_eigenvalue")
    errors = {name: float(np.abs(getattr(measured[0], name) / reference[name] - 1).max()) for name in names}
    vector = ravel_pytree(_tree(reference, "vector/"))[0]
    kinds: tuple[Kind, ...] = get_args(Kind)
    for kind in kinds:
        for group in range(3):
            product = GroupOperator(*data, weights[group], kind=kind)
            wanted = np.asarray(ravel_pytree(_tree(reference, f"{kind}_product/", group))[0], float)
            name = f"{kind} product"
            errors[name] = _worst(errors.get(name, 0.0), _apart(product(vector), wanted))
            name = f"{kind} density"
            errors[name] = _worst(errors.get(name, 0.0), _moments(product, vector, wanted))
    same = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(*measured, strict=True))
    return errors, same


def _moments(product: GroupOperator, vector: jax.Array, wanted: np.ndarray) -> float:
    """Return the error of the first two moments of a vector's spectral measure, which its product gives exactly.

    They are ``v'Hv / v'v`` and ``|Hv|^2 / v'v``; the first may be near 0, so it is relative to ``|Hv| / |v|``.
    """
    start = np.asarray(vector) if jax.default_backend() == "cpu" else vector
    found = density.stochastic_quadrature(product, [start], steps=STEPS)
    v = np.asarray(vector, float)
    first, second = v @ wanted / (v @ v), wanted @ wanted / (v @ v)
    nodes, shares = found.nodes[0], found.weights[0]
    return _worst(abs(shares @ nodes - first) / second**0.5, abs(shares @ nodes**2 / second - 1) / 2)


def _distances() -> float:
    """Return the largest error of a distance by DeepFool, against Foolbox's without what that adds to a step."""
    reference = _read("deepfool")
    network = as_pytree(convolutional, _tree(reference, "params/"))
    found = margins.deepfool(network, jnp.asarray(reference["images"]))
    return float(np.abs(np.asarray(found.distance, float) / reference["exact"] - 1).max())


def convolutional(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Compute the network of ``make_deepfool_reference.py``."""
    conv = partial(jax.lax.conv_general_dilated, padding=[(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC"))
    x = jax.nn.relu(conv(x, params["conv1"], (1, 1)) + params["bias1"])
    x = jax.nn.relu(conv(x, params["conv2"], (2, 2)) + params["bias2"])
    x = jax.nn.relu(x.reshape(len(x), -1) @ params["dense3"] + params["bias3"])
    return x @ params["dense4"] + params["bias4"]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["images", "label", "group", "mean", "std"],
    meta_fields=["name", "class_names", "group_names"],
)
@dataclasses.dataclass(frozen=True)
class Normalized(Dataset):
    """Images that are normalized already, as those of the reference are."""

    def normalize(self, images: jax.Array) -> jax.Array:
        """Return them as they are."""
        return images


def _step() -> float:
    """Return the error of one step of training two seeds in one program, by labels and a teacher.

    At a rate of 1 and without weight decay the first step is the gradient.
    """
    reference = _read("snl")
    network, count = _network(reference, (1, 1, 1, 1), 5, 4), len(reference["labels"])
    zeros, statistics = jnp.zeros(count, jnp.int32), jnp.ones(3)
    names = tuple(f"{label}" for label in range(5))
    images, labels = jnp.asarray(reference["images"]), jnp.asarray(reference["labels"])
    data = Normalized(images, labels, zeros, statistics, statistics, "reference", names, ("all",))
    config = TrainConfig(
        epochs=1,
        batch_size=count,
        learning_rate=1.0,
        schedule="constant",
        weight_decay=0.0,
        distillation_weight=1.0,
        temperature=float(reference["temperature"]),
    )
    axes: Any = Fixed(0, None, 0, wanted=0)  # pyright: ignore[reportArgumentType]
    step = Together(make_step(config, data), in_axes=(0, axes, (None, 0)))
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), network)
    wanted = jnp.stack([jnp.asarray(reference["teacher_logits"])] * 2)
    fixed = Fixed(two, data, jnp.arange(2), wanted=wanted)
    carry = jax.vmap(partial(begin, data=data, config=config))(two)
    index = np.stack([np.arange(count)] * 2)[None]
    carry, _ = run_batches(step, carry, fixed, index, 0, ["seed 0", "seed 1"])
    gradient = ravel_pytree(_tree(reference, "gradient/params/"))[0]
    taken = jax.tree.map(jnp.subtract, two.params, carry.network.params)
    return _worst(*(_apart(one, gradient) for one in jax.vmap(lambda tree: ravel_pytree(tree)[0])(taken)))
