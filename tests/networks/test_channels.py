"""Sums over channels as products: what they compute, to any order of derivatives, and batch norm made of them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfair.networks.architectures import EPSILON, BatchNorm
from jaxfair.networks.channels import spread, total

RNG = np.random.default_rng(0)
X = RNG.normal(1.5, 2.0, (6, 4, 5, 3))
PARAMS = {"scale": RNG.normal(size=3), "bias": RNG.normal(size=3)}
STATS = {"mean": RNG.normal(size=3), "var": RNG.uniform(0.5, 2, 3)}


@pytest.fixture(autouse=True, params=[True, False], ids=["products", "sums"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways, whatever is fast here."""
    monkeypatch.setattr("jaxfair.networks.channels.by_products", lambda: request.param)


def both(train: bool) -> list[Any]:
    """Flax's batch norm and ours."""
    theirs = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=EPSILON)
    return [theirs, BatchNorm(not train, momentum=0.9, epsilon=EPSILON)]


def run(module: Any, params: Any, x: Any) -> tuple[Any, Any]:
    return module.apply({"params": params, "batch_stats": STATS}, x, mutable=["batch_stats"])


@pytest.mark.usefixtures("float64")
def test_each_is_the_others_transpose() -> None:
    values, other = jnp.asarray(RNG.normal(size=3)), jnp.asarray(RNG.normal(size=X.shape))
    np.testing.assert_array_equal(spread(values, X.shape), jnp.broadcast_to(values, X.shape))
    np.testing.assert_allclose(total(jnp.asarray(X)), X.sum(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(total(other) @ values, (other * spread(values, X.shape)).sum(), rtol=1e-12)
    two = jnp.stack([jnp.asarray(X), 2 * jnp.asarray(X)])
    np.testing.assert_allclose(jax.vmap(total)(two), two.sum(axis=(1, 2, 3)), rtol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_is_that_of_flax(train: bool) -> None:
    """Values, statistics, and derivatives of first and second order, by every argument."""
    x, (theirs, ours) = jnp.asarray(X), both(train)
    assert jax.tree.structure(theirs.init(jax.random.key(0), x)) == jax.tree.structure(ours.init(jax.random.key(0), x))
    weight = jnp.asarray(RNG.normal(size=X.shape))
    found = [run(module, PARAMS, x) for module in (theirs, ours)]
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-10, atol=1e-12)

    def loss(module: Any, params: Any, x: Any) -> Any:
        return (weight * jnp.tanh(run(module, params, x)[0])).sum()

    moved = {name: jnp.cos(value) for name, value in PARAMS.items()}, jnp.sin(x)
    derivatives = []
    for module in (theirs, ours):
        grad = jax.grad(lambda params, x, module=module: loss(module, params, x), argnums=(0, 1))
        derivatives.append(jax.jvp(grad, (PARAMS, x), moved))
    for one, other in zip(*map(jax.tree.leaves, derivatives), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-8, atol=1e-9)


def test_a_batch_norm_in_evaluation_mode_multiplies_no_matrices() -> None:
    """Captured layers are told by their products: a norm's sums must not be taken for a dense layer."""
    _, ours = both(train=False)
    text = str(jax.make_jaxpr(lambda params, x: run(ours, params, x))(PARAMS, jnp.asarray(X)))
    assert "dot_general" not in text


def test_seeds_together_have_what_each_has_alone() -> None:
    _, ours = both(train=True)
    x = jnp.asarray(np.stack([X, X[::-1] * 0.5]), jnp.float32)
    params = {name: jnp.stack([jnp.asarray(v, jnp.float32)] * 2) for name, v in PARAMS.items()}

    def loss(params: Any, x: Any) -> Any:
        return (run(ours, params, x)[0] ** 3).sum()

    together = jax.vmap(jax.grad(loss))(params, x)
    for seed in range(2):
        alone = jax.grad(loss)(jax.tree.map(lambda leaf, s=seed: leaf[s], params), x[seed])
        for name in alone:
            np.testing.assert_allclose(together[name][seed], alone[name], rtol=1e-4, atol=1e-3)
