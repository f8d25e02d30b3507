"""Findings that every seed shows alike."""

import numpy as np
import pytest

from experiments.reporting.verdicts import decide, rank_correlations


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
