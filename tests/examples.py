"""Twelve examples in three groups, and the simplest model of them, for the tests of curvature and its operators."""

from typing import Any

import jax
import numpy as np

N, FEATURES, CLASSES, GROUPS = 12, 4, 3, 3
RNG = np.random.default_rng(0)
INPUTS, WEIGHTS = RNG.normal(size=(N, FEATURES)), RNG.normal(size=(FEATURES, CLASSES))
IMAGES = RNG.normal(size=(N, 4, 4, 1))
LABEL = np.arange(N) % CLASSES
GROUP = np.repeat(np.arange(GROUPS), [6, 4, 2])


def linear(params: Any, x: Any) -> jax.Array:
    """Return the logits of softmax regression."""
    return x @ params
