"""Group weights against plain masked NumPy; intervals against SciPy, published tables and simulation."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from jaxfair import change_report, groups
from jaxfair.errors import JaxfairError
from jaxfair.intervals import POSSIBLE, Scale

EPS32 = float(np.finfo(np.float32).eps)


@st.composite
def grouped_values(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Draw groups, of which each has a sample, and a value for each of 12 examples."""
    num_groups = draw(st.integers(1, 4))
    rest = draw(st.lists(st.integers(0, num_groups - 1), min_size=12 - num_groups, max_size=12 - num_groups))
    group = np.array(draw(st.permutations([*range(num_groups), *rest])), np.int32)
    values = draw(st.lists(st.floats(-10, 10, width=32), min_size=12, max_size=12))
    return group, np.array(values, np.float32), num_groups


@given(grouped_values())
def test_weights_give_the_means_of_groups(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    """A sum of 12 float32 products of size at most 10 is off by at most 12 * 10 * eps."""
    group, values, num_groups = case
    weights = groups.group_weights(group, num_groups)
    assert weights.dtype == jnp.float32
    expected = [values[group == g].astype(np.float64).mean() for g in range(num_groups)]
    np.testing.assert_allclose(weights @ values, expected, rtol=0, atol=120 * EPS32)
    np.testing.assert_array_equal(np.asarray(weights) > 0, group == np.arange(num_groups)[:, None])


@given(grouped_values())
def test_weights_of_groups_add_up_to_those_of_the_whole(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    group, _, num_groups = case
    share = np.bincount(group) / len(group)
    whole = share @ np.asarray(groups.group_weights(jnp.asarray(group), num_groups))
    np.testing.assert_allclose(whole, np.full(len(group), 1 / len(group)), rtol=4 * EPS32)


@pytest.mark.parametrize(("group", "words"), [([0, 0, 2], r"Group 1 has no"), ([0, 1, 1], r"Group 2 has no")])
def test_a_group_without_samples_is_refused(group: list[int], words: str) -> None:
    with pytest.raises(JaxfairError, match=words):
        groups.group_weights(np.array(group), 3)


@pytest.mark.parametrize("group", [[0, 1, 2], [-1, 0, 1]])
def test_a_group_out_of_range_is_refused(group: list[int]) -> None:
    with pytest.raises(JaxfairError, match="expected 0 to 1"):
        groups.group_weights(np.array(group), 2)


def test_relative_drop() -> None:
    """In percent of the accuracy before; negative where it improved, NaN where there was none."""
    drop = groups.relative_drop(np.array([0.8, 0.5, 0.5, 0.9, 0.0, 0.0]), np.array([0.6, 0.5, 0.75, 0.0, 0.0, 0.5]))
    np.testing.assert_allclose(drop, [25, 0, -50, 100, np.nan, np.nan], rtol=1e-14)


def test_accuracies_of_other_shapes_are_not_paired_with_all_others() -> None:
    """A column of a table beside a row made all pairs; seeds may lack on one side."""
    accuracy = np.array([0.8, 0.5, 0.4])
    for other in (accuracy[:, None], accuracy[:1], accuracy[:0], accuracy[:2]):
        for pair in ((accuracy, other), (other, accuracy)):
            with pytest.raises(JaxfairError, match="give equally many"):
                groups.relative_drop(*pair)
    np.testing.assert_allclose(groups.relative_drop(accuracy, np.stack([accuracy, accuracy / 2])), [[0] * 3, [50] * 3])
    np.testing.assert_allclose(groups.relative_drop(np.array(0.8), accuracy), [0, 37.5, 50])
    np.testing.assert_allclose(groups.relative_drop(accuracy[None], np.stack([accuracy] * 2) / 2), [[50] * 3] * 2)
    for pair in ((0.8, [0.4]), ([0.8], 0.4), ([[0.8]], [0.4])):
        assert groups.relative_drop(*map(np.array, pair)) == pytest.approx(50)


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_against_newcombe(right: int, count: int, low: float, high: float) -> None:
    """Newcombe 1998 (Statistics in Medicine 17), table I, method 3, printed with four decimals."""
    interval = groups.wilson(np.array(right / count), np.array(count))
    np.testing.assert_allclose(interval, (low, high), rtol=0, atol=5.1e-5)


@given(st.integers(1, 500), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_against_scipy(count: int, share: float, level: float) -> None:
    right = round(share * count)
    expected = scipy.stats.binomtest(right, count).proportion_ci(level, method="wilson")
    interval = groups.wilson(np.array(right / count), np.array(count), level)
    # At no or all right an end is exactly 0 or 1; rounding of the difference there is of order eps.
    np.testing.assert_allclose(interval, (expected.low, expected.high), rtol=1e-12, atol=1e-15)


def test_wilson_of_several_groups() -> None:
    interval = groups.wilson(np.array([0.5, 0.5, 1.0]), np.array([10, 1000, 5]))
    assert interval.low.shape == interval.high.shape == (3,)
    assert interval.high[0] - interval.low[0] > 5 * (interval.high[1] - interval.low[1])
    assert interval.high[2] == 1


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_seed_interval_against_scipy(level: float) -> None:
    values = np.random.default_rng(0).normal(size=(5, 3))
    expected = scipy.stats.t.interval(level, 4, values.mean(axis=0), scipy.stats.sem(values, axis=0))
    np.testing.assert_allclose(groups.seed_interval(values, level), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("scale", "values"),
    [("share", [0.99, 0.98, 0.999]), ("positive", [0.1, 3.0, 0.2]), ("correlation", [-0.9, -1.0, -0.99])],
)
def test_seed_interval_lies_where_the_values_can(scale: Scale, values: list[float]) -> None:
    (low, high), plain = POSSIBLE[scale], groups.seed_interval(np.array(values))
    found = groups.seed_interval(np.array(values), scale=scale)
    assert plain.low < low or plain.high > high
    assert low <= found.low < np.mean(values) < found.high <= high
    with pytest.raises(JaxfairError, match=f"A value is -95, and the scale '{scale}' is from {low:g} to "):
        groups.seed_interval(np.array([*values, -95.0]), scale=scale)


def test_seed_interval_of_one_seed_is_unknown_and_of_equal_seeds_a_point() -> None:
    assert np.isnan(groups.seed_interval(np.array([[0.5, 0.25]]))).all()
    np.testing.assert_array_equal(groups.seed_interval(np.full((3, 1), 0.25)), [[0.25], [0.25]])


def draw_correct(rng: np.random.Generator, seeds: int, examples: int, loss: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw a full network that is right on 90 % of all examples, and one that loses ``loss`` of these."""
    before = rng.random((seeds, examples)) < 0.9
    return before.astype(float), (before & (rng.random((seeds, examples)) >= loss)).astype(float)


@pytest.mark.parametrize("loss", [0.0, 1.0])
def test_drop_interval_of_what_always_or_never_happened_has_a_width(loss: float) -> None:
    """On 30 examples, however many seeds say the same."""
    before = np.ones((1, 30))
    low, high = groups.drop_interval(before, before - loss)
    assert low <= 100 * loss <= high
    assert 5 < high - low < 25
    again = groups.drop_interval(*(np.tile(table, (4, 1)) for table in (before, before - loss)))
    np.testing.assert_allclose(again, (low, high), rtol=0.3)  # by Student's t of so many examples, and of seeds


def test_drop_interval_over_groups_counts_every_group_the_same() -> None:
    """Ten examples keep their accuracy, ninety lose theirs: a drop of 50 %, not of 90 %."""
    group = np.arange(100) > 9
    before, after = np.ones((3, 100)), np.tile(1.0 - group, (3, 1))
    low, high = groups.drop_interval(before, after, group)
    assert 30 < low < 50 < high < 65


def test_drop_interval_grows_with_the_level_and_as_examples_go() -> None:
    before, after = draw_correct(np.random.default_rng(0), 5, 400, 0.2)

    def width(examples: int, level: float) -> float:
        low, high = groups.drop_interval(before[:, :examples], after[:, :examples], level=level)
        assert low < 20 < high
        return float(high - low)

    assert width(400, 0.8) < width(400, 0.95) < width(40, 0.95)


@pytest.mark.parametrize("seldom", [3, 4])
def test_drop_interval_is_that_of_the_report_of_a_change(seldom: int) -> None:
    """Of 40 examples three right ones are too few for a relative drop, in one run as in the mean over runs."""
    before = np.array([np.arange(40) < seldom, np.arange(40) < 30])
    after = before & (np.arange(40) % 3 > 0)
    found = groups.drop_interval(before, after)
    y, one = np.ones(40, int), np.zeros(40, int)
    report = change_report([*before.astype(int)], [*after.astype(int)], None, y, one).relative_drop
    np.testing.assert_array_equal(found, [report.low[0], report.high[0]])
    assert np.isfinite(found).all() == (seldom == 4)


def test_drop_interval_is_paired() -> None:
    """Examples differ a lot in difficulty, but each network loses one in ten of those it had right: little noise."""
    before = np.tile(np.arange(400) % 2, (3, 1)).astype(float)
    low, high = groups.drop_interval(before, 0.9 * before)
    assert 8 < low < 10 < high < 12


def test_drop_interval_needs_networks_with_some_accuracy() -> None:
    """The drop from 0 is not defined, so it must not count as no drop."""
    assert np.isnan(groups.drop_interval(np.zeros((4, 20)), np.zeros((4, 20)))).all()


def test_drop_interval_covers() -> None:
    """The drop over all seeds and examples is 100 * loss; 200 repeats have a standard deviation of 0.015 at 95 %."""
    rng = np.random.default_rng(0)
    cases = [draw_correct(rng, 6, 50, 0.2) for _ in range(200)]
    intervals = np.array([groups.drop_interval(*case) for case in cases])
    assert np.mean((intervals[:, 0] < 20) & (intervals[:, 1] > 20)) >= 0.95 - 3 * 0.015
    points = [np.mean(groups.relative_drop(b.mean(axis=1), a.mean(axis=1))) for b, a in cases]
    assert np.mean(intervals[:, 1] - intervals[:, 0]) < 2 * 2 * 1.96 * np.std(points)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", ["objects", "column", "rows"])
def test_groups_in_any_box_are_the_same(kind: str) -> None:
    group = np.array([0, 1, 1, 0])
    boxes: dict[str, Any] = {"objects": group.astype(object), "column": group[:, None], "rows": group[:, None].tolist()}
    box = boxes[kind]
    np.testing.assert_array_equal(groups.group_weights(box, 2), groups.group_weights(group, 2))
    np.testing.assert_array_equal(groups.group_means(np.arange(4.0), box, 2), [1.5, 1.5])


@pytest.mark.usefixtures("unchecked")
def test_pairs_are_no_groups_by_number() -> None:
    with pytest.raises(JaxfairError, match=r"groups have shape \(4, 2\) for 4 labels; give one for each example"):
        groups.group_weights(np.array([(0, 1)] * 4), 2)
