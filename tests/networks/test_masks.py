"""Masks: exact budgets, whatever the values; structure and types kept."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from jaxfair.errors import JaxfairError
from jaxfair.networks import masks

SHAPES = {"stage1_block1": (2, 2, 1), "stage1_block2": (2, 2, 1), "stage2_block1": (1, 1, 2)}
UNITS = 2 * (4 + 4 + 2)
# Few distinct values, so that ties are the rule.
tied_values = st.lists(st.sampled_from([0.0, 0.01, 0.5, 1.0]), min_size=UNITS, max_size=UNITS)


@functools.cache
def zero_masks() -> tuple[jax.Array, Callable[[jax.Array], masks.Masks]]:
    """Return masks of ``SHAPES``, two gates a block, as one vector, and the function that makes them a tree again."""
    gates = ("gate1", "gate2")
    return ravel_pytree({b: {g: {"alpha": jnp.zeros(shape)} for g in gates} for b, shape in SHAPES.items()})


def make_masks(values: list[float] | np.ndarray) -> masks.Masks:
    zeros, unravel = zero_masks()
    return unravel(jnp.asarray(values, zeros.dtype))


def flat(tree: masks.Masks) -> np.ndarray:
    return np.asarray(ravel_pytree(tree)[0])


@given(tied_values, st.integers(1, UNITS))
def test_keep_largest_keeps_exactly_the_budget(values: list[float], budget: int) -> None:
    """Ties go to the earlier unit, as a stable sort in Python has it."""
    kept = masks.keep_largest(make_masks(values), budget)
    order = sorted(range(UNITS), key=lambda i: -values[i])
    assert np.flatnonzero(flat(kept)).tolist() == sorted(order[:budget])
    assert masks.relu_count(kept) == budget


@given(tied_values, st.integers(1, UNITS - 1))
def test_a_larger_budget_keeps_more_of_the_same(values: list[float], budget: int) -> None:
    smaller, larger = (flat(masks.keep_largest(make_masks(values), b)) for b in (budget, budget + 1))
    assert (smaller <= larger).all()


@given(st.integers(1, UNITS), st.integers(0, 2**31))
def test_keep_random_keeps_exactly_the_budget(budget: int, seed: int) -> None:
    ones = make_masks(np.ones(UNITS))
    kept, again = (masks.keep_random(ones, budget, jax.random.key(seed)) for _ in range(2))
    assert set(flat(kept)) <= {0.0, 1.0}
    assert masks.relu_count(kept) == budget
    np.testing.assert_array_equal(flat(kept), flat(again))


def test_keep_random_is_uniform_over_units() -> None:
    """With 400 keys a unit's share has standard deviation sqrt(0.25 * 0.75 / 400) = 0.022; 0.1 is 4.6 of them."""
    zeros = make_masks(np.zeros(UNITS))
    draws = [flat(masks.keep_random(zeros, UNITS // 4, key)) for key in jax.random.split(jax.random.key(0), 400)]
    np.testing.assert_allclose(np.mean(draws, axis=0), 0.25, atol=0.1)
    # Independent of the values: the largest are no likelier than the others.
    preferred = masks.keep_random(make_masks(np.arange(UNITS) / UNITS), UNITS // 4, jax.random.key(3))
    np.testing.assert_array_equal(flat(preferred), flat(masks.keep_random(zeros, UNITS // 4, jax.random.key(3))))


@given(tied_values)
def test_above_and_relu_count_leave_out_the_threshold_itself(values: list[float]) -> None:
    tree = make_masks(values)
    expected = [float(value > 0.01) for value in values]
    assert flat(masks.above(tree, 1e-2)).tolist() == expected
    assert masks.relu_count(tree, threshold=1e-2) == sum(expected)
    assert masks.relu_count(tree) == sum(value > 0 for value in values)


def test_full_and_unit_count() -> None:
    tree = make_masks(np.zeros(UNITS))
    assert masks.unit_count(tree) == UNITS
    assert set(flat(masks.full(tree, 0.25))) == {0.25}


@pytest.mark.parametrize(("culled", "relus"), [((), UNITS), ((1,), 4), ((2,), 16), ((1, 2), 0), ((2, 1), 0), ({1}, 4)])
def test_without_stages(culled: Any, relus: int) -> None:
    kept = masks.without_stages(make_masks(np.ones(UNITS)), culled)
    assert masks.relu_count(kept) == relus
    for name, block in kept.items():
        assert set(flat(block)) == {0.0 if int(name[5]) in culled else 1.0}


def test_without_second_gates() -> None:
    kept = masks.without_second_gates(make_masks(np.ones(UNITS)))
    assert masks.relu_count(kept) == UNITS // 2
    assert all(float(jnp.max(block["gate2"]["alpha"])) == 0 for block in kept.values())


def test_stage_ten_is_not_stage_one() -> None:
    tree = {f"stage{n}_block1": {"gate1": {"alpha": jnp.ones((1, 1, 1))}} for n in (1, 10)}
    kept = masks.without_stages(tree, [1])
    assert (masks.relu_count(kept["stage1_block1"]), masks.relu_count(kept["stage10_block1"])) == (0, 1)


def test_a_gate_outside_the_stages_is_refused() -> None:
    with pytest.raises(JaxfairError, match="'stem/alpha' is in no stage"):
        masks.without_stages({"stem": {"alpha": jnp.ones((1, 1, 1))}}, [1])


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: masks.full(tree, 0.5),
        lambda tree: masks.keep_largest(tree, 3),
        lambda tree: masks.keep_random(tree, 3, jax.random.key(0)),
        masks.above,
        lambda tree: masks.without_stages(tree, [1]),
        masks.without_second_gates,
    ],
)
def test_structure_shapes_and_types_are_kept(change: Callable[[masks.Masks], masks.Masks]) -> None:
    """The input is not written to either."""
    tree = make_masks(np.linspace(0, 1, UNITS))
    before, changed = flat(tree).copy(), change(tree)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), changed) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), tree
    )
    np.testing.assert_array_equal(flat(tree), before)


@pytest.mark.parametrize("budget", [-1, UNITS + 1])
def test_a_budget_that_no_mask_can_hold_is_refused(budget: int) -> None:
    tree = make_masks(np.ones(UNITS))
    for keep in (lambda: masks.keep_largest(tree, budget), lambda: masks.keep_random(tree, budget, jax.random.key(0))):
        with pytest.raises(JaxfairError, match=rf"budget is {budget}, .* give 0 to {UNITS}"):
            keep()


@pytest.mark.parametrize(
    ("budget", "count"),
    [
        (1, 1),
        (1.0, 1),
        (491_520, 491_520),
        (15_000.0, 15_000),
        (0.5, 245_760),
        (0.1, 49_152),
        (1e-5, 5),
        (0, 0),
        (1e-9, 1),
    ],
)
def test_resolve_budget(budget: float, count: int) -> None:
    """Below 1 a share of the units, from 1 on a count: the number 1 is one unit, not all of them."""
    resolved = masks.resolve_budget(budget, 491_520)
    assert (resolved, type(resolved)) == (count, int)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (-3, "budget is -3; give 0 or more units"),
        (-0.5, "budget is -0.5; give 0 or more units"),
        (math.nan, "budget is nan; give a fraction below 1"),
        (math.inf, "budget is inf; give a fraction below 1"),
        (-math.inf, "budget is -inf; give a fraction below 1"),
        (1.5, r"1\.5 is neither a fraction below 1 nor a whole number"),
        (101, "budget is 101, but the network has 100 units; give 0 to 100"),
        (1e300, r"budget is \d{29}…, but the network has 100 units; give 0 to 100"),
    ],
)
def test_resolve_budget_refuses(budget: float, words: str) -> None:
    with pytest.raises(JaxfairError, match=words):
        masks.resolve_budget(budget, 100)
