"""What Lanczos cannot do is refused before anything is computed, by every function that takes its settings."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxfair
from jaxfair.curvature import checks
from jaxfair.curvature.config import CurvatureConfig
from jaxfair.curvature.minibatch import minibatch_curvature
from jaxfair.curvature.operators import GroupOperator
from jaxfair.curvature.spectrum import group_curvature
from jaxfair.errors import JaxfairError
from jaxfair.groups import group_weights
from jaxfair.taylor import taylor_terms
from tests.examples import CLASSES, FEATURES, GROUP, GROUPS, INPUTS, LABEL, N, linear


def calls(logits_fn: Any, config: CurvatureConfig) -> dict[str, Callable[[], Any]]:
    """Return a call of every function that takes settings of curvature, of a small model."""
    w, x, y, one = np.ones((FEATURES, CLASSES), np.float32), INPUTS, LABEL, group_weights(GROUP, GROUPS)
    side = logits_fn, w
    return {
        "group_curvature": lambda: group_curvature(logits_fn, w, x, y, one, config),
        "group_report": lambda: jaxfair.group_report(logits_fn, w, x, y, GROUP, config),
        "block_curvature": lambda: jaxfair.block_curvature(logits_fn, w, x, y, one, config),
        "taylor_terms": lambda: taylor_terms(logits_fn, w, 2 * w, x, y, one, config),
        "change_report": lambda: jaxfair.change_report(side, (logits_fn, 2 * w), x, y, GROUP, config),
        "equal_count_eigenvalues": lambda: jaxfair.equal_count_eigenvalues(logits_fn, w, x, y, one, config),
        "minibatch_curvature": lambda: minibatch_curvature(logits_fn, w, x, y, GROUP, max_steps=config.max_steps),
    }


@pytest.mark.parametrize("name", calls(linear, CurvatureConfig()))
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_steps": 0}, "At most 0 Lanczos steps were allowed; allow at least 1"),
        ({"max_basis": 2}, "basis of 2 vectors is too small for 1 eigenvalues; allow 4"),
        ({"max_basis": 4, "bottom": True}, "basis of 4 vectors is too small for 2 eigenvalues; allow 5"),
    ],
)
def test_settings_are_refused_before_any_pass(
    name: str, options: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of gradients or products, or of the logits of all examples."""
    if name == "minibatch_curvature" and "max_basis" in options:
        pytest.skip("it has no such setting")
    if name == "equal_count_eigenvalues" and "bottom" in options:
        pytest.skip("it looks for the largest alone")
    passes = "a pass over the data was made first"
    monkeypatch.setattr(GroupOperator, "__init__", lambda *_, **__: pytest.fail(passes))
    monkeypatch.setattr(checks, "over_chunks", lambda *_, **__: pytest.fail(passes))
    with pytest.raises(JaxfairError, match=words):
        calls(linear, CurvatureConfig(**options))[name]()


def test_one_parameter_has_no_two_ends() -> None:
    """Which is said before a pass; a block of one has its one eigenvalue at both ends."""
    config, x, weights = CurvatureConfig(bottom=True), np.ones((N, 1), np.float32), group_weights(GROUP, GROUPS)

    def one(params: Any, x: Any) -> Any:
        return jnp.concatenate([x * params, -x * params], axis=1)

    arguments = one, np.ones(1, np.float32), x, np.arange(N) % 2, weights, config
    with pytest.raises(JaxfairError, match="one parameter, with one eigenvalue; leave bottom=True out"):
        group_curvature(*arguments)
    found = jaxfair.block_curvature(*arguments)
    np.testing.assert_allclose(found.top_eigenvalue, found.bottom_eigenvalue)
    assert found.converged.all()
