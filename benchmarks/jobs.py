"""What a library hands to the benchmark: jobs that are timed as they are, and methods that have a tolerance."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

TOLERANCES = (3e-1, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6)
"""Of the methods that stop by themselves, from the loosest on."""

PRODUCTS = (2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64)
"""Of the methods that have no stopping rule but take a number of matrix-vector products."""

MOST_PRODUCTS = 200
"""At which every iterative method gives up."""


class Job(NamedTuple):
    """One thing to time.

    Attributes:
        quantity: what it computes; all jobs of one quantity must have the same answer.
        run: computes it, and returns the library's own kind of result.
        answer: turns that result into an array to compare; not timed.
        work: floating-point operations, in forward passes over the same examples; 0 where that says nothing.
    """

    quantity: str
    run: Callable[[], Any]
    answer: Callable[[Any], np.ndarray]
    work: float = 0.0


class Found(NamedTuple):
    """Largest eigenvalue of every group, shape (groups,), and the mean number of products spent on a group."""

    values: np.ndarray
    products: float


class Method(NamedTuple):
    """A way to find the largest Hessian eigenvalue of every group.

    Attributes:
        find: the eigenvalues at a setting, which is a tolerance or a number of products.
        settings: to try, from the loosest on.
        default: what the library's user gets without choosing; None where there is no such thing.
        setting_is: ``tolerance`` or ``products``.
    """

    find: Callable[[float], Found]
    settings: Sequence[float]
    default: float | None
    setting_is: str = "tolerance"


class Reached(NamedTuple):
    """The loosest setting that is accurate enough.

    Attributes:
        setting: None where none is.
        error: largest relative error over groups at that setting, or the smallest that any setting has.
        products: mean over groups.
    """

    setting: float | None
    error: float
    products: float


def worst_error(values: np.ndarray, truth: np.ndarray) -> float:
    """Return the largest relative error over groups; both have shape (groups,)."""
    return float(np.abs(np.asarray(values) / truth - 1).max())


def loosest(method: Method, truth: np.ndarray, target: float, first: float = np.inf) -> Reached:
    """Go down the ladder of settings to the first whose worst error is at most ``target``, the same for every method.

    Args:
        method: to try.
        truth: eigenvalues of shape (groups,).
        target: relative error.
        first: the tolerance at which to begin; looser ones are known to be too loose. A number of products has none.
    """
    best = Reached(None, np.inf, np.nan)
    loose = first if method.setting_is == "tolerance" else np.inf
    for setting in (setting for setting in method.settings if setting <= loose):
        found = method.find(setting)
        error = worst_error(found.values, truth)
        if error <= target:
            return Reached(setting, error, found.products)
        if error < best.error:
            best = Reached(None, error, found.products)
    return best


def disagreement(answers: Iterable[tuple[str, np.ndarray]]) -> dict[str, float]:
    """Return, for each quantity, the largest L2 distance of its answers from the first, relative to that."""
    first: dict[str, np.ndarray] = {}
    worst: dict[str, float] = {}
    for quantity, found in answers:
        reference = first.setdefault(quantity, found)
        distance = float(np.linalg.norm(found - reference) / np.linalg.norm(reference))
        # NaN must count as disagreement: it is larger than nothing.
        worst[quantity] = max(worst.get(quantity, 0.0), distance if np.isfinite(distance) else np.inf)
    return worst
