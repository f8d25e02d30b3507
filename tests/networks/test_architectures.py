"""Gates, initial values, refusals, the two modes, compiled functions; ``test_networks.py`` has the architectures."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfair import networks
from jaxfair.errors import JaxfairError
from jaxfair.networks import masks
from tests.networks.cases import FLOAT64, IMAGE, conv, random_images, randomized

EPS32, TINY32 = float(np.finfo(np.float32).eps), float(np.finfo(np.float32).tiny)


@pytest.fixture(scope="module")
def network() -> networks.Network:
    """Initialise a small network: blocks with a shortcut convolution and without, every stride of 1 and 2."""
    return networks.init(networks.ResNet(stage_sizes=(1, 2), num_classes=4, width=3, stem_stride=2), IMAGE, seed=0)


@given(st.floats(-100, 100, width=32), st.floats(0, 1, width=32))
def test_gated_relu_mixes_relu_and_identity(x: float, alpha: float) -> None:
    """Two roundings of float32, and XLA may flush subnormal numbers to zero."""
    found = networks.gated_relu(jnp.full((1, 1), x), jnp.full((1,), alpha))
    atol = abs(x) * 2 * EPS32 + TINY32
    np.testing.assert_allclose(found, [[alpha * max(x, 0) + (1 - alpha) * x]], rtol=0, atol=atol)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("x", [-2.0, 0.0, 2.0])
def test_gated_relu_slopes(x: float, alpha: float) -> None:
    """In x: 1 above 0, else 1 - alpha, also at 0. In alpha: what the ReLU adds, ``relu(x) - x``."""
    slopes = jax.grad(lambda x, a: networks.gated_relu(x[None], a)[0, 0], argnums=(0, 1))(
        jnp.array([x]), jnp.array([alpha])
    )
    np.testing.assert_array_equal(np.concatenate(slopes), [1.0 if x > 0 else 1 - alpha, max(-x, 0)])


def test_init_is_deterministic_and_seeded() -> None:
    module = networks.ResNet((1,), num_classes=2, width=2)
    first, again, other = (networks.init(module, (2, 2, 1), seed).params for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert all(
        (np.asarray(a) != np.asarray(b)).any()
        for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True)
        if a.ndim > 1
    )


def test_another_seed_does_not_compile_again(network: networks.Network, caplog: pytest.LogCaptureFixture) -> None:
    """Compiling takes seconds even for a small network, and a sweep has many seeds."""
    with jax.log_compiles(True):
        networks.init(network.module, IMAGE, seed=1)
    assert [r.getMessage() for r in caplog.records if r.getMessage().startswith("Compiling")] == []


def test_init_is_he_normal_with_neutral_norms() -> None:
    """The variance of 18,432 normal weights has relative standard deviation sqrt(2 / 18432) = 1 %; 5 of them."""
    network = networks.init(networks.ResNet((1, 1), num_classes=2, width=32), (4, 4, 1), seed=3)
    kernel = np.asarray(network.params["stage2_block1"]["conv1"]["kernel"])
    assert kernel.shape == (3, 3, 32, 64)
    np.testing.assert_allclose(kernel.var(), 2 / (9 * 32), rtol=0.05)
    for block in (network.params["stage1_block1"]["norm1"], network.batch_stats["stage1_block1"]["norm1"]):
        assert {name: set(np.unique(value)) for name, value in block.items()} in (
            {"scale": {1.0}, "bias": {0.0}},
            {"mean": {0.0}, "var": {1.0}},
        )
    assert masks.relu_count(masks.above(network.masks, 0.99)) == masks.unit_count(network.masks)


@pytest.mark.parametrize(
    ("image", "module", "needed"),
    [
        ((7, 8, 1), networks.ResNet((1,) * 4, 2, width=2), 8),
        ((8, 8, 3), networks.ResNet((1,) * 3, 2, width=2, stem_stride=4), 16),
        ((2, 1, 3), networks.ResNet((1,) * 2, 2, width=2), 2),
        ((7, 9, 1), networks.CNN(2, features=(2, 2), stem_stride=2), 8),
    ],
)
def test_too_small_images_are_refused(image: tuple[int, int, int], module: networks.Module, needed: int) -> None:
    with pytest.raises(JaxfairError, match=f"{image[0]}x{image[1]} are too small.* give at least {needed}x{needed}"):
        networks.init(module, image, seed=0)
    assert jax.eval_shape(partial(networks.init, module, (needed, needed, 1), 0)).module == module


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"width": 0}, "width 0.*at least 1"),
        ({"stage_sizes": (1, 0)}, r"stage_sizes \(1, 0\).*at least 1"),
        ({"stem_width": 0}, "stem_width 0.*at least 1"),
        ({"features": ()}, r"features \(\).*at least one stage"),
        ({"block": "bottleneg"}, "block is 'bottleneg'; .*; did you mean 'bottleneck'"),
        ({"arithmetic": "bf61"}, "arithmetic is 'bf61'; .*; did you mean 'bf16'"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("unchecked")
def test_impossible_modules_are_refused(fields: dict[str, Any], words: str) -> None:
    module = networks.CNN(num_classes=2) if "features" in fields else networks.ResNet((1,), num_classes=2, width=2)
    with pytest.raises(JaxfairError, match=words):
        networks.init(module.clone(**fields), IMAGE, seed=0)


@pytest.mark.usefixtures("float64")
def test_training_mode_uses_the_batch_and_leaves_the_network_as_it_is(network: networks.Network) -> None:
    """Only the returned statistics move, a tenth of the way to the batch's."""
    network, x = randomized(network), random_images()
    before = jax.tree.map(np.array, network.batch_stats)
    logits, updated = networks.apply_train(network, network.params, network.masks, x)
    jax.tree.map(np.testing.assert_array_equal, network.batch_stats, before)
    batch_mean = conv(x, network.params["stem_conv"], network.module.stem_stride).mean((0, 1, 2))
    expected = 0.9 * before["stem_norm"]["mean"] + 0.1 * batch_mean
    np.testing.assert_allclose(updated["stem_norm"]["mean"], expected, **FLOAT64)
    assert float(jnp.abs(logits - network(x)).max()) > 0.1


@pytest.mark.usefixtures("float64")
def test_frozen_sees_no_batch_and_changes_no_statistics(network: networks.Network) -> None:
    """The logits of an image do not depend on its neighbours, and the parameters are those that are passed."""
    network, x = randomized(network), random_images()
    before = jax.tree.map(np.array, network.batch_stats)
    logits_fn = networks.frozen(network)
    logits = logits_fn(network.params, x)
    np.testing.assert_allclose(logits[1:2], logits_fn(network.params, x[1:2]), **FLOAT64)
    np.testing.assert_allclose(logits, network(x), **FLOAT64)
    zeroed = logits_fn(jax.tree.map(jnp.zeros_like, network.params), x)
    np.testing.assert_array_equal(zeroed, 0)
    jax.tree.map(np.testing.assert_array_equal, network.batch_stats, before)


def test_networks_of_one_module_share_a_compiled_function(network: networks.Network) -> None:
    """Neither other weights nor other masks compile again, and each call uses its own."""
    traces = []

    @jax.jit
    def compute(logits_fn: Any, params: Any, x: jax.Array) -> jax.Array:
        traces.append(1)
        return logits_fn(params, x)

    x = random_images().astype(jnp.float32)
    linear = network.replace(masks=masks.full(network.masks, 0.0))
    other = network.replace(params=jax.tree.map(lambda a: 1.5 * a, network.params))
    results = [np.asarray(compute(networks.frozen(n), n.params, x)) for n in (network, linear, other)]
    assert len(traces) == 1
    for i, n in enumerate((network, linear, other)):
        # Fused in another way, float32 sums of up to 9 * 6 terms differ by that many roundings.
        np.testing.assert_allclose(results[i], n(x), rtol=0, atol=54 * EPS32 * np.abs(results[i]).max())
        assert all(np.abs(results[i] - r).max() > 1e-3 for r in results[:i])
