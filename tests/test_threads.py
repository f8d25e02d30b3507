"""What a context of JAX sets holds for every chunk, whatever thread computes it; and arrays may be handed over."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfair
from jaxfair import threads
from jaxfair.errors import JaxfairError

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 4)).astype(np.float32), RNG.integers(0, 3, 60)
PARAMS = RNG.normal(size=(8, 3)).astype(np.float32)
GROUP = np.arange(60) % 2


def random_features(params: Any, x: Any) -> jax.Array:
    return jnp.tanh(x @ jax.random.normal(jax.random.key(0), (4, 8))) @ params


def mixed(params: Any, x: Any) -> jax.Array:
    return random_features(params, x) * jnp.int32(2)


def in_chunks(model: Callable[[Any, Any], Any], size: int) -> np.ndarray:
    config = jaxfair.CurvatureConfig(chunk_size=size)
    return jaxfair.group_curvature(model, PARAMS, X, Y, jaxfair.group_weights(GROUP, 2), config).loss


@pytest.mark.parametrize(
    ("setting", "everywhere", "here", "model"),
    [
        ("threefry_partitionable", True, False, random_features),
        ("default_prng_impl", "threefry2x32", "rbg", random_features),
        ("numpy_dtype_promotion", "strict", "standard", mixed),
        ("transfer_guard_host_to_device", "disallow", "allow", random_features),
    ],
)
def test_results_do_not_depend_on_the_number_of_chunks(
    setting: str, everywhere: Any, here: Any, model: Callable[[Any, Any], Any]
) -> None:
    before = getattr(jax.config, f"jax_{setting}")
    jax.config.update(f"jax_{setting}", everywhere)
    try:
        with getattr(jax, setting)(here):
            np.testing.assert_allclose(in_chunks(model, 8), in_chunks(model, 60), rtol=1e-6)
    finally:
        jax.config.update(f"jax_{setting}", before)


@pytest.mark.parametrize("setting", threads.SETTINGS)
def test_every_setting_is_one_of_jax(setting: str) -> None:
    """Of any version: a context of this name, and what it sets."""
    assert isinstance(getattr(jax, setting)(getattr(jax.config, f"jax_{setting}")), contextlib.AbstractContextManager)


@pytest.mark.parametrize("level", ["disallow", "log"])
def test_arrays_are_handed_over_where_transfers_by_the_way_are_not_allowed(level: str) -> None:
    def found() -> tuple[Any, ...]:
        report = jaxfair.group_report(random_features, PARAMS, X, Y, GROUP)
        norms = jaxfair.per_example_gradient_norms(random_features, PARAMS, X, Y)
        distance = jaxfair.deepfool(lambda x: random_features(PARAMS, x), X, Y).distance
        train = jaxfair.load("digits").train
        network = jaxfair.init(jaxfair.CNN(num_classes=10, features=(2,)), (8, 8, 1), seed=0)
        weights = np.ones(60, np.float32) / 60
        product = jaxfair.GroupOperator(random_features, PARAMS, X, Y, weights)(np.ones(24, np.float32))
        few = train.take(range(40))
        (fitted,) = jaxfair.fit([network], few, jaxfair.TrainConfig(epochs=1, batch_size=20), seeds=[0])
        answers = jaxfair.predict(network, train), jaxfair.predict(fitted.network, train), few.normalize(few.images)
        return report.loss, report.curvature.top_eigenvalue, norms, distance, product, *answers

    expected = found()
    with jax.transfer_guard(level):
        again = found()
    jax.tree.map(np.testing.assert_array_equal, again, expected)


def test_networks_whose_arrays_were_donated_are_refused() -> None:
    network = jaxfair.init(jaxfair.CNN(num_classes=10, features=(2,)), (8, 8, 1), seed=0)
    gone, train = jax.tree.map(jnp.copy, network), jaxfair.load("digits").train
    jax.tree.leaves(gone.params)[0].delete()
    match = "holds an array that was donated to a jitted function and is gone; keep a copy"
    for call in (
        lambda: jaxfair.predict(gone, train),
        lambda: jaxfair.prune(gone, jaxfair.PruneConfig(0.5)),
        lambda: list(jaxfair.fit([network, gone], train, jaxfair.TrainConfig(epochs=1), seeds=[0, 1])),
    ):
        with pytest.raises(JaxfairError, match=match):
            call()
    jax.jit(lambda network: jaxfair.frozen(network)(network.params, jnp.zeros((2, 8, 8, 1))))(network)  # traced passes
