"""Operators of the examples' groups, for several test files. Not a test itself."""

from typing import Any

import numpy as np

from jaxfair.curvature.operators import GIGABYTE, GroupOperator, Kind, as_pytree, make_plan
from tests.examples import GROUP, GROUPS, LABEL, N

MEMBER = np.arange(GROUPS)[:, None] == GROUP
GROUP_WEIGHTS = MEMBER / MEMBER.sum(axis=1, keepdims=True)
# Other chunks or programs add the same terms in another order: at most some hundred roundings of float64.
SAME: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-12}


def operator_of(
    logits_fn: Any,
    params: Any,
    x: Any,
    weight: np.ndarray,
    *,
    y: Any = LABEL,
    kind: Kind = "hessian",
    chunk_size: int | None = 5,
    kept: float | None = None,
) -> GroupOperator:
    """Return the operator; ``kept`` bounds the memory to so many chunks."""
    logits_fn = as_pytree(logits_fn)
    plan = make_plan(logits_fn, params, x, y, kind=kind, count=N, chunk_size=chunk_size, memory=GIGABYTE)
    memory = GIGABYTE if kept is None else plan.shared_bytes + int(kept * plan.kept_bytes)
    return GroupOperator(logits_fn, params, x, y, weight, plan, kind=kind, memory=memory)


def vectors(size: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, size))
