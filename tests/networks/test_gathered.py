"""Networks in which only the kept ReLUs are compared: the same function, and as many comparisons as the budget."""

import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfair import JaxfairError, networks
from jaxfair.models import equations
from jaxfair.networks import layers, masks
from tests.networks.cases import each_module, random_images, random_network

masked = jax.jit(networks.Network.__call__)
BUDGETS = {"none": 0.0, "one": None, "some": 0.3, "all": 1.0}


def linearized(kind: str, share: float | None) -> networks.Network:
    """Return a network with random weights, float32, and a random mask; of one unit where the share is None."""
    network = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), random_network(kind))
    budget = 1 if share is None else round(share * masks.unit_count(network.masks))
    return network.replace(masks=masks.keep_random(network.masks, budget, jax.random.key(3)))


@each_module
@pytest.mark.parametrize("share", BUDGETS.values(), ids=BUDGETS)
def test_it_is_the_masked_network(kind: str, share: float | None) -> None:
    network, x = linearized(kind, share), random_images().astype(jnp.float32)
    found = networks.gathered(network)
    expected = np.asarray(masked(network, x))
    np.testing.assert_allclose(jax.jit(found)(x), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    assert found.comparisons == masks.relu_count(network.masks)


def comparisons(function: Any, x: jax.Array) -> int:
    """Return how many numbers are compared, by what is traced."""
    found = equations(jax.make_jaxpr(function)(x).jaxpr)
    return sum(eq.outvars[0].aval.size for eq in found if eq.primitive.name in ("max", "gt", "lt", "select_n"))


@pytest.mark.parametrize("share", BUDGETS.values(), ids=BUDGETS)
def test_nothing_but_the_kept_units_is_compared(share: float | None) -> None:
    network, x = linearized("basic", share), random_images().astype(jnp.float32)
    assert comparisons(networks.gathered(network), x) == len(x) * masks.relu_count(network.masks)
    assert comparisons(network, x) >= len(x) * masks.unit_count(network.masks)  # which is what it is good for


def test_an_older_jax_finds_nothing_of_jaxfair_in_the_layers() -> None:
    """The process that runs a protocol loads the file by its path, where jaxfair cannot be imported."""
    code = (
        "import sys; sys.modules['jaxfair'] = None\n"
        "import importlib.util as u\n"
        f"spec = u.spec_from_file_location('layers', {layers.__file__!r})\n"
        "module = u.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "print(module.run([module.Layer('flatten', (0,))], {}, {}, __import__('numpy').ones((2, 2, 2, 1)))[-1].shape)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(2, 4)"


def test_what_cannot_be_gathered_is_refused() -> None:
    network = linearized("cnn", 1.0)
    with pytest.raises(JaxfairError, match=r"A mask is 0\.5, .* give masks of 0 and 1"):
        networks.gathered(network.replace(masks=masks.full(network.masks, 0.5)))
    rounded = networks.CNN(num_classes=4, features=(3, 2), stem_stride=2, arithmetic="bf16")
    with pytest.raises(JaxfairError, match="emulates bf16"):
        networks.gathered(network.replace(module=rounded))
