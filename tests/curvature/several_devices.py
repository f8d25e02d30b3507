"""Groups shared by several devices, run by ``test_devices.py`` in a process whose CPU counts as three of them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.tree_util import Partial

import jaxfair
from jaxfair import groups, margins
from jaxfair.curvature.chunks import over_chunks
from jaxfair.curvature.config import CurvatureConfig
from jaxfair.curvature.operators import GIGABYTE, GroupOperator, Kind, Plan, per_example_gradient_norms
from jaxfair.curvature.programs import as_pytree
from jaxfair.curvature.sampling import eigenvalue_sampling, equal_count_eigenvalues, gradient_sampling
from jaxfair.curvature.spectrum import group_curvature
from jaxfair.networks import CNN, init, predict
from tests.examples import CLASSES, GROUP, GROUPS, IMAGES, LABEL, N

# The devices' sums are added in another order than one device's: some roundings of float32.
SAME: dict[str, Any] = {"rtol": 2e-5, "atol": 2e-6}
X = IMAGES.astype(np.float32)


class Network(NamedTuple):
    """An MLP, and an array that its function is bound to, as masks and statistics are to a network's."""

    params: Any
    scale: Any

    @property
    def logits_fn(self) -> Partial:
        return Partial(mlp, self.scale)


def mlp(scale: jax.Array, params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x.reshape(len(x), -1) @ params["in"]) @ params["out"] * scale


def make_network() -> Network:
    rng = np.random.default_rng(1)
    shapes = {"in": (16, 5), "out": (5, CLASSES)}
    return Network({k: jnp.asarray(rng.normal(size=v), jnp.float32) for k, v in shapes.items()}, jnp.ones(CLASSES) * 2)


@pytest.fixture(scope="module")
def network() -> Network:
    return make_network()


def operator(network: Network, x: Any = X, *, memory: int = GIGABYTE, kind: Kind = "hessian") -> GroupOperator:
    weight = np.full(N, 1 / N, np.float32)
    plan = Plan(2, GIGABYTE // 4)
    return GroupOperator(network.logits_fn, network.params, x, LABEL, weight, plan, memory=memory, kind=kind)


def results(found: GroupOperator, vector: np.ndarray) -> list[Any]:
    """Return loss, gradient, and products with a vector, a block, and some of the chunks."""
    return [*found.loss_and_gradient(), found(vector), found(np.stack([vector, -vector])), found(vector, chunks=2)]


def test_there_are_several() -> None:
    assert jax.local_device_count() == 3


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("memory", [0, GIGABYTE // 4, GIGABYTE])
def test_same_numbers_as_one_device(network: Network, kind: Kind, memory: int) -> None:
    """With no pass kept, one on each device, and all."""
    vector = np.random.default_rng(0).normal(size=operator(network).size).astype(np.float32)
    with jax.default_device(jax.devices()[0]):
        alone = results(operator(network, memory=memory, kind=kind), vector)
    shared = operator(network, memory=memory, kind=kind)
    found = results(shared, vector)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **SAME), found, alone)
    # Six chunks of two examples: each device may keep ``memory``.
    assert shared.kept == {0: 0, GIGABYTE // 4: 3, GIGABYTE: 6}[memory]
    again = results(operator(network, memory=memory, kind=kind), vector)
    jax.tree.map(np.testing.assert_array_equal, again, found)


def test_each_device_keeps_its_own_chunks(network: Network) -> None:
    found = operator(network)
    found.loss_and_gradient()
    where = {i: {d for leaf in jax.tree.leaves(kept) for d in leaf.devices()} for i, kept in found._passes.items()}
    assert where == {i: {jax.devices()[i % 3]} for i in range(6)}


def test_a_default_device_is_the_only_one_used(network: Network) -> None:
    """In every thread."""
    with jax.default_device(jax.devices()[2]):
        found = operator(make_network())
        gradient = found.loss_and_gradient()[1]
    kept = jax.tree.leaves((gradient, list(found._passes.values())))
    assert {device for leaf in kept for device in leaf.devices()} == {jax.devices()[2]}
    np.testing.assert_allclose(gradient, operator(network).loss_and_gradient()[1], **SAME)


def test_committed_arrays_are_moved(network: Network) -> None:
    """A network restored from a checkpoint and images put on a device by hand."""
    last = jax.devices()[2]
    moved = operator(jax.device_put(network, last), jax.device_put(X, jax.devices()[1]))
    np.testing.assert_allclose(moved.loss_and_gradient()[1], operator(network).loss_and_gradient()[1], **SAME)


def test_group_report_and_gradient_norms(network: Network) -> None:
    """From the user's side: the same table, on every start, with fewer examples of a group than devices too."""
    arguments = network.logits_fn, network.params, X, LABEL
    weights = groups.group_weights(GROUP, GROUPS)
    with jax.default_device(jax.devices()[0]):
        alone = jaxfair.group_report(*arguments, GROUP, CurvatureConfig(bottom=True, tolerance=1e-4))
        norms = per_example_gradient_norms(*arguments)
        started = group_curvature(*arguments, weights, CurvatureConfig(start="gradient", tolerance=1e-4))
    shared = jaxfair.group_report(*arguments, GROUP, CurvatureConfig(bottom=True, tolerance=1e-4))
    for name in ("loss", "gradient_norm", "top_eigenvalue"):
        np.testing.assert_allclose(shared.columns()[name], alone.columns()[name], rtol=1e-4)
    np.testing.assert_allclose(per_example_gradient_norms(*arguments), norms, **SAME)
    found = group_curvature(*arguments, weights, CurvatureConfig(start="gradient", tolerance=1e-4))
    np.testing.assert_allclose(found.top_eigenvalue, started.top_eigenvalue, rtol=1e-4)


def test_sampling_of_gradients_and_eigenvalues(network: Network) -> None:
    """Blocks go round the devices."""
    arguments = network.logits_fn, network.params, X, LABEL, groups.group_weights(GROUP, GROUPS)
    with jax.default_device(jax.devices()[0]):
        alone = gradient_sampling(*arguments)
        curvature = group_curvature(*arguments, CurvatureConfig(tolerance=1e-4), vectors=True)
        quotients = eigenvalue_sampling(*arguments, curvature).parts
        equal = equal_count_eigenvalues(*arguments, CurvatureConfig(tolerance=1e-4)).mean
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **SAME), gradient_sampling(*arguments).grams, alone.grams
    )
    found = eigenvalue_sampling(*arguments, curvature).parts
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **SAME), found, quotients)
    shared = equal_count_eigenvalues(*arguments, CurvatureConfig(tolerance=1e-4)).mean
    np.testing.assert_allclose(shared, equal, rtol=1e-4)


def test_chunks_of_examples_go_round_the_devices() -> None:
    """What all share is copied to each once; images on the host are no array and stay there."""
    host, seen = object(), []

    def double(fixed: tuple[jax.Array, object], some: jax.Array) -> jax.Array:
        assert fixed[1] is host
        seen.append((*fixed[0].devices(), *some.devices()))
        return fixed[0] * some

    found = over_chunks(double, (jnp.float32(2), host), jnp.asarray, 7, 2)
    np.testing.assert_array_equal(found, 2 * np.arange(7))
    assert [device for (device, _) in seen] == [device for (_, device) in seen]
    assert [device.id for (device, _) in seen] == [0, 1, 2, 0]


@pytest.mark.parametrize("on_device", [True, False])
def test_predictions(on_device: bool) -> None:
    images = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 3), dtype=np.uint8)
    names: dict[str, Any] = {"name": "made", "class_names": [*"abc"], "group_names": ["d"], "on_device": on_device}
    dataset = jaxfair.make_dataset(images, np.arange(11) % 3, np.zeros(11, int), **names)
    network = init(CNN(3, (2,)), (8, 8, 3), 0)
    with jax.default_device(jax.devices()[0]):
        alone = predict(network, dataset, batch_size=2)
    np.testing.assert_array_equal(predict(network, dataset, batch_size=2), alone)


def test_inputs_and_classifier_may_lie_on_different_devices(network: Network) -> None:
    first, second, _ = jax.devices()
    params, x = jax.device_put(network.params, first), jax.device_put(X, second)
    classifier = margins.bind(network.logits_fn, params)
    for distance in (margins.deepfool, margins.linearized_distance):
        apart, together = (distance(classifier, of, LABEL).distance for of in (x, X))
        np.testing.assert_allclose(apart, together, **SAME)


def test_distances(network: Network) -> None:
    """Of examples wherever they are; a caller who traces has all on one device."""
    classifier = as_pytree(network.logits_fn, network.params)
    distance: dict[str, Any] = {
        "linearized": lambda x: margins.linearized_distance(classifier, x, LABEL, chunk_size=2).distance,
        "deepfool": lambda x: margins.deepfool(classifier, x, chunk_size=2).distance,
        "line": lambda x: margins.distance_along_gradient(classifier, x, LABEL, 9.0, 0.1, chunk_size=2),
    }
    for find in distance.values():
        with jax.default_device(jax.devices()[0]):
            alone = find(X)
        np.testing.assert_array_equal(find(X), alone)
        np.testing.assert_array_equal(find(jax.device_put(X, jax.devices()[1])), alone)
    np.testing.assert_allclose(jax.jit(distance["linearized"])(X), distance["linearized"](X), **SAME)


@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("alone", [False, True], ids=["all devices", "a default device"])
def test_a_vector_on_a_mesh_is_multiplied_as_any_other(kind: Any, count: int, alone: bool) -> None:
    """Whatever the mesh's number of devices and that of the operator's: sharded, replicated, and a block of them."""
    mesh = jax.make_mesh((count,), ("p",), axis_types=(kind,), devices=jax.devices()[:count])
    with jax.default_device(jax.devices()[1] if alone else None):
        w, weight = np.ones((16, 3), np.float32), np.full(N, 1 / N, np.float32)
        product = GroupOperator(lambda w, x: x @ w, w, X.reshape(N, 16), np.arange(N) % 3, weight)
        vector = np.random.default_rng(0).normal(size=product.size).astype(np.float32)
        expected = np.asarray(product(vector))
        for spec in (PartitionSpec("p"), PartitionSpec()):
            np.testing.assert_array_equal(product(jax.device_put(vector, NamedSharding(mesh, spec))), expected)
        block = jax.device_put(np.stack([vector] * 2), NamedSharding(mesh, PartitionSpec(None, "p")))
        np.testing.assert_array_equal(product(block), np.stack([expected] * 2))
