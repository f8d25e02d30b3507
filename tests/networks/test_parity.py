"""The network, the SNL objective and the optimizer against PyTorch (``references/make_snl_reference.py``)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxfair import losses, networks

# All errors are relative to the largest magnitude in the array compared.
#
# float64: PyTorch computed in float64 on the same float32 inputs, and only its results were rounded, to float32. So
# ours may differ by that rounding, 2^-24 = 6e-8; the bound is twice that. This is the test of the formulas.
#
# float32, in which the package runs: our own rounding comes on top, about 2^-24 for each of the 12 convolutions and 12
# norms and as many again on the way back, amplified where a norm takes the mean out of its input or of its cotangent.
# The measured error is 4e-7 for values and 2e-6 for gradients; PyTorch's own, run in float32, is 7e-7 and 5e-6. The
# bounds leave room for other devices' orders of summation.
VALUE_TOLERANCE = {"float32": 1e-5, "float64": 2.0**-23}
GRADIENT_TOLERANCE = {"float32": 3e-5, "float64": 2.0**-23}


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    """The stored inputs and PyTorch's results."""
    with np.load(Path(__file__).parents[1] / "references" / "snl.npz") as stored:
        return dict(stored)


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Iterator[str]:
    """The type to compute in; products are exact to it, where an accelerator's default is a shorter one."""
    with jax.enable_x64(request.param == "float64"), jax.default_matmul_precision("highest"):
        yield request.param


def tree(reference: dict[str, np.ndarray], prefix: str, dtype: str) -> dict[str, Any]:
    """Return the stored arrays under ``prefix`` as a tree."""
    arrays = {n.removeprefix(prefix): jnp.asarray(a, dtype) for n, a in reference.items() if n.startswith(prefix)}
    return unflatten_dict(arrays, sep="/")


def flat(tree: Any) -> dict[str, np.ndarray]:
    """Return the leaves by their slash-joined paths."""
    return {str(name): np.asarray(leaf) for name, leaf in flatten_dict(tree, sep="/").items()}


def stored_network(reference: dict[str, np.ndarray], dtype: str, masks: str = "masks") -> networks.Network:
    """Build our network around the stored variables."""
    module = networks.ResNet(stage_sizes=(1, 1, 1, 1), num_classes=5, width=4)
    variables = (tree(reference, f"{name}/", dtype) for name in ("params", "batch_stats", masks))
    return networks.Network(module, *variables)


def relative_error(ours: Any, theirs: Any) -> float:
    """Return the largest difference, relative to the largest magnitude in ``theirs``."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)))


def assert_trees_agree(ours: Any, theirs: Any, tolerance: float) -> None:
    """Compare leaf by leaf and name the leaves that differ."""
    ours, theirs = flat(ours), flat(theirs)
    assert ours.keys() == theirs.keys()
    errors = {name: relative_error(ours[name], theirs[name]) for name in ours}
    assert {name: error for name, error in errors.items() if not error <= tolerance} == {}


def test_variables_have_the_stored_names_and_shapes(reference: dict[str, np.ndarray]) -> None:
    """The reference covers every variable of our network."""
    stored = stored_network(reference, "float32")
    fresh = networks.shapes(stored.module, (16, 16, 3))
    assert jax.tree.structure(fresh) == jax.tree.structure(stored)
    assert list(map(jnp.shape, jax.tree.leaves(fresh))) == list(map(jnp.shape, jax.tree.leaves(stored)))


@pytest.mark.parametrize("masks", ["masks", "binary_masks"])
def test_evaluation_logits(reference: dict[str, np.ndarray], dtype: str, masks: str) -> None:
    """Evaluation mode uses the running statistics, for fractional gates and for 0/1 masks."""
    logits = stored_network(reference, dtype, masks)(jnp.asarray(reference["images"], dtype))
    assert relative_error(logits, reference[f"logits/{masks}"]) <= VALUE_TOLERANCE[dtype]


def test_snl_objective_and_its_gradient(reference: dict[str, np.ndarray], dtype: str) -> None:
    """Cross-entropy, distillation and the 1-norm of the gates, in training mode, by every weight and gate."""
    network = stored_network(reference, dtype)
    images, teacher_logits = (jnp.asarray(reference[name], dtype) for name in ("images", "teacher_logits"))
    labels, temperature = jnp.asarray(reference["labels"]), float(reference["temperature"])

    def objective(params: Any, masks: Any) -> jax.Array:
        logits, _ = networks.apply_train(network, params, masks, images)
        data = losses.cross_entropy(logits, labels) + losses.distillation(logits, teacher_logits, temperature)
        return data.mean() + float(reference["kappa"]) * sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(masks))

    value, gradients = jax.jit(jax.value_and_grad(objective, argnums=(0, 1)))(network.params, network.masks)
    assert relative_error(value, reference["objective"]) <= VALUE_TOLERANCE[dtype]
    for name, gradient in zip(("params", "masks"), gradients, strict=True):
        assert_trees_agree(gradient, tree(reference, f"gradient/{name}/", dtype), GRADIENT_TOLERANCE[dtype])


def test_running_statistics(reference: dict[str, np.ndarray], dtype: str) -> None:
    """Flax moves the running variance towards the biased variance of the batch, PyTorch towards the unbiased one."""
    network = stored_network(reference, dtype)
    _, ours = networks.apply_train(network, network.params, network.masks, jnp.asarray(reference["images"], dtype))
    ours, old, theirs = flat(ours), flat(network.batch_stats), flat(tree(reference, "running/", dtype))
    norms = {name.rpartition("/")[0] for name in theirs}
    assert ours.keys() == {f"{norm}/{leaf}" for norm in norms for leaf in ("mean", "var")}
    for norm in sorted(norms):
        mean, var, count = ours[f"{norm}/mean"], ours[f"{norm}/var"], int(theirs[f"{norm}/count"])
        kept = 0.9 * old[f"{norm}/var"]
        unbiased = kept + count / (count - 1) * (var - kept)
        assert relative_error(mean, theirs[f"{norm}/mean"]) <= VALUE_TOLERANCE[dtype], norm
        assert relative_error(var, theirs[f"{norm}/var_biased"]) <= VALUE_TOLERANCE[dtype], norm
        assert relative_error(unbiased, theirs[f"{norm}/var_unbiased"]) <= VALUE_TOLERANCE[dtype], norm


@pytest.mark.parametrize("momentum", ["classical", "nesterov"])
def test_sgd(reference: dict[str, np.ndarray], dtype: str, momentum: str) -> None:
    """Weight decay is added to the gradient before momentum, as in ``torch.optim.SGD``."""
    rate, decay, weight_decay = (float(reference[f"sgd/{n}"]) for n in ("learning_rate", "momentum", "weight_decay"))
    optimizer = optax.chain(
        optax.add_decayed_weights(weight_decay), optax.sgd(rate, decay, nesterov=momentum == "nesterov")
    )
    vector = jnp.asarray(reference["sgd/start"], dtype)
    state = optimizer.init(vector)
    for gradient, theirs in zip(reference["sgd/gradients"], reference[f"sgd/{momentum}"], strict=True):
        updates, state = optimizer.update(jnp.asarray(gradient, dtype), state, vector)
        vector = optax.apply_updates(vector, updates)
        assert relative_error(vector, theirs) <= VALUE_TOLERANCE[dtype]
