"""Networks whose distances to the boundary are known, and every distance, for several test files. Not a test itself."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from jaxfair import margins

# Closed forms in float64: some tens of roundings of numbers of size 1 to 100.
EXACT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}
N, SHAPE, CLASSES = 40, (2, 2), 4
TOLERANCE, FAR = 1e-6, 1e4
seeds = st.integers(0, 2**32 - 1)
few = hypothesis_settings(max_examples=25)


def affine(params: tuple[jax.Array, jax.Array], x: jax.Array) -> jax.Array:
    weights, bias = params
    return x.reshape(len(x), -1) @ weights.T + bias


def disc(radius: jax.Array, x: jax.Array) -> jax.Array:
    """Return logits whose class 0 is the inside of a disc."""
    inside = radius**2 - (x**2).sum(axis=1)
    return jnp.stack([inside, jnp.zeros_like(inside)], axis=1)


def line(logits_fn: Any, x: Any, label: Any, **options: Any) -> jax.Array:
    return margins.distance_along_gradient(logits_fn, x, label, FAR, TOLERANCE, **options)


def affine_case(seed: int, classes: int = CLASSES) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """Return parameters, inputs and labels; with random labels most examples are misclassified."""
    rng = np.random.default_rng(seed)
    params = rng.normal(size=(classes, int(np.prod(SHAPE)))), rng.normal(size=classes)
    x = 2 * rng.normal(size=(N, *SHAPE))
    label = np.asarray(affine(params, x)).argmax(axis=1)  # pyright: ignore[reportArgumentType]
    return params, x, np.where(rng.random(N) < 0.5, label, rng.integers(classes, size=N))


def half_spaces(params: tuple[np.ndarray, np.ndarray], label: int) -> tuple[np.ndarray, np.ndarray]:
    """Return unit normals and offsets of the half-spaces ``a x + b >= 0`` that make the label's region."""
    weights, bias = params
    others = np.arange(len(bias)) != label
    normals, offsets = weights[label] - weights[others], bias[label] - bias[others]
    lengths = np.linalg.norm(normals, axis=1)
    return normals / lengths[:, None], offsets / lengths


def polyhedron_distance(normals: np.ndarray, offsets: np.ndarray, x: np.ndarray) -> float:
    """Return the distance of ``x`` to ``{z : a z + b >= 0}``: the nearest projection on any face that lies in it."""
    best = np.inf
    for size in range(len(offsets) + 1):
        for active in map(list, itertools.combinations(range(len(offsets)), size)):
            step = np.linalg.pinv(normals[active]) @ -(normals[active] @ x + offsets[active])
            if (normals @ (x + step) + offsets >= -1e-9).all():
                best = min(best, float(np.linalg.norm(step)))
    return best


def signed_distances(params: tuple[np.ndarray, np.ndarray], x: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return the true signed distances of an affine network."""
    result = []
    for point, own in zip(x.reshape(len(x), -1), label, strict=True):
        normals, offsets = half_spaces(params, own)
        inside = (normals @ point + offsets).min()
        result.append(inside if inside >= 0 else -polyhedron_distance(normals, offsets, point))
    return np.array(result)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "linearized": margins.linearized_distance,
    "line": line,
    "deepfool": margins.deepfool,
}
each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


def assert_close(found: Any, expected: Any, **tolerance: Any) -> None:
    jax.tree.map(partial(np.testing.assert_allclose, **(EXACT | tolerance)), found, expected)
