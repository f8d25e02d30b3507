"""Findings that every seed shows alike."""

import numpy as np
import pytest

from experiments.reporting.verdicts import Measured, decide, rank_correlations, too_small


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [0, 1, 3, 2], [1, 0, 3, 2], [1, 3, 0, 2], [3, 2, 1, 0], [0, 0, 0, 0]])
@pytest.mark.parametrize("seeds", [5, 10])
def test_equal_correlations_of_all_seeds_have_an_interval(order: list[int], seeds: int) -> None:
    """It holds what the mean may be where as many seeds have the next value as 97.5 % of samples would not show."""
    x, y = np.tile(np.arange(4.0), (seeds, 1)), np.tile(np.array(order, float), (seeds, 1))
    found = decide(None, "a", "b", "c", lambda _: rank_correlations(x, y, "budgets"))
    unseen = 0.2 * (1 - 0.025 ** (1 / seeds))  # four items: correlations are 0.2 apart
    assert -1 <= found.low <= max(found.value - unseen, -1)
    assert min(found.value + unseen, 1) <= found.high <= 1
    assert found.high - found.low < 1
    assert "agree exactly" not in found.note


@pytest.mark.parametrize(
    ("values", "verdict", "said"),
    [
        ([0.010, 0.011, 0.009, 0.010, 0.010], "too small to matter", ""),
        ([0.02, 0.04, 0.05, 0.06, 0.03], "may be too small to matter", ""),
        (
            [0.05, 0.09, 0.11, 0.08, 0.02],
            "supported",
            "by the interval it may be less than 0.05, which would not matter",
        ),
        ([0.20, 0.21, 0.22, 0.20, 0.21], "supported", ""),
        ([-0.20, -0.21, -0.22, -0.20, -0.21], "not supported: contradicted", ""),
        ([0.5, -0.5, 0.1, 0.0, 0.1], "not supported: not shown", ""),
    ],
)
def test_the_floor_is_held_against_the_whole_interval(values: list[float], verdict: str, said: str) -> None:
    found = decide(None, "a", "b", "c", lambda _: (np.array(values), ""), floor=0.05)
    assert (found.verdict, found.note) == (verdict, said)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.010, 0.011, 0.009, 0.010, 0.010], "too small to matter"),
        ([0.00, 0.00, 0.00, 0.00, 0.20], "may be too small to matter"),
        ([0.20, 0.21, 0.22, 0.20, 0.21], "supported"),
    ],
)
def test_so_is_the_size_of_what_is_ranked(values: list[float], verdict: str) -> None:
    x = np.tile(np.arange(6.0), (5, 1))

    def ranked(_: None) -> tuple[Measured, str]:
        found, note = rank_correlations(x, x, "groups")
        return found._replace(small=too_small(np.array(values), 0.05, "nats")), note

    assert decide(None, "a", "b", "c", ranked).verdict == verdict
