"""Findings that every seed shows alike."""

import numpy as np
import pytest
from scipy import stats

from experiments.reporting.verdicts import (
    FOOT,
    Measured,
    Side,
    alike,
    corrected,
    decide,
    order_beyond_noise,
    rank_correlations,
    too_small,
)
from jaxfair import intervals
from jaxfair.judging import rank_p_value


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


@pytest.mark.parametrize(
    ("items", "verdict", "said"),
    [
        (3, "too few to rank", "no order of so few has p below 0.33"),
        (4, "too few to rank", "no order of so few has p below 0.083"),
        (5, "not supported: not after correction", "no order of so few has a smaller p"),
        (7, "supported", "no order of so few has a smaller p"),
    ],
)
def test_so_few_groups_that_no_order_shows_anything(items: int, verdict: str, said: str) -> None:
    """Of n groups that all seeds order alike 2 of n! orders are as extreme, however many the seeds are."""
    x = np.tile(np.arange(float(items)), (10, 1))
    found = decide(None, "a", "b", "c", lambda _: rank_correlations(x, x, "groups"))
    others = [found._replace(p_value=p_value) for p_value in np.linspace(0.5, 1, 9)]
    judged = corrected([found, *others])[0]
    assert (judged.verdict, judged.note) == (verdict, said)
    each = decide(None, "a", "b", "c", lambda _: rank_correlations(x, x, "budgets"))
    assert each.verdict == "supported", "each seed orders budgets anew"


@pytest.mark.parametrize(
    ("values", "side", "verdict"),
    [
        ([0.010, 0.016, 0.009, 0.010, 0.004], "above", "too small to matter"),
        ([0.01, 0.09, 0.03, 0.05, 0.06], "above", "may be too small to matter"),
        ([0.20, 0.31, 0.12, 0.40, 0.11], "above", "supported"),
        ([0.20, 0.31, 0.12, 0.40, 0.11], "below", "not supported: contradicted"),
    ],
)
def test_nothing_is_there_that_is_not_after_correction(values: list[float], side: Side, verdict: str) -> None:
    """Nor what is too small to matter: of a hundred findings on nothing five have such an interval."""
    found = decide(None, "a", "b", "c", lambda _: (np.array(values), ""), side=side, floor=0.05)
    alone = corrected([found])[0]
    among = corrected([found, *[found._replace(p_value=0.5)] * 20])[0]
    assert (alone.verdict, among.verdict) == (verdict, "not supported: not after correction")


def test_findings_that_say_nothing_are_counted_with_the_others() -> None:
    """What has a p is corrected for, whatever its verdict, and what has none is not; the foot of the table says so."""
    found = decide(None, "a", "b", "c", lambda _: (np.array([0.20, 0.31, 0.12, 0.40, 0.11]), ""))
    idle = found._replace(verdict="nothing to explain", p_value=0.9)
    untested = found._replace(verdict="holds, says nothing", p_value=np.nan)
    judged = corrected([found, idle, idle, untested])
    assert judged[0].corrected == pytest.approx(3 * found.p_value)
    assert [of.verdict for of in judged[1:]] == ["nothing to explain", "nothing to explain", "holds, says nothing"]
    assert "for all findings of the table that have a p, also where there is nothing to explain" in FOOT


def of_the_same_images(
    rng: np.random.Generator, groups: int, apart: int, count: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the groups' softmax gaps, which are alike, and their answers, of some with wrong labels, in five seeds."""
    wrong = np.zeros(groups)
    wrong[rng.permutation(groups)[:apart]] = 0.3 * rng.random(apart)
    margin = 1.5 + rng.normal(size=(1, groups, count)) + 0.5 * rng.normal(size=(5, groups, count))
    margin += 0.1 * rng.normal(size=(5, groups, 1))
    right = (margin > 0) & (rng.random((1, groups, count)) >= wrong[:, None])
    return np.abs(np.tanh(margin / 2)).mean(axis=2), [*np.moveaxis(right.astype(float), 1, 0)]


def test_groups_that_may_be_alike_tie_in_what_is_of_the_same_images() -> None:
    """Of five groups one differs: no order of one and four has a p-value below 2 / 5, whatever the others' order."""
    tables = [np.tile(np.arange(200) < right, (5, 1)).astype(float) for right in (161, 162, 20, 160, 163)]
    accuracy = np.stack([table.mean(axis=1) for table in tables], axis=1)
    nothing, order = alike(tables, 0, "more or less accurate")
    assert not nothing
    np.testing.assert_array_equal(order, [1, 1, -4, 1, 1])
    assert rank_correlations(accuracy, accuracy, "groups")[0].p_value == pytest.approx(2 / 120)
    assert rank_correlations(accuracy, accuracy, "groups", order=order)[0].p_value == pytest.approx(2 / 5)


@pytest.mark.parametrize(("errors", "order"), [(2.17, [0, 0, 0]), (2.61, [1, -1, 0])])
def test_an_order_is_corrected_for_all_pairs(errors: float, order: list[int]) -> None:
    """Of three pairs one differs by so many standard errors: its p is 0.03, and 0.009."""
    apart = {(0, 1): errors, (0, 2): 0.5, (1, 2): -0.5}

    def difference(one: int, other: int) -> intervals.Estimate:
        return intervals.Estimate(np.asarray(apart[one, other]), np.ones(()), np.asarray(np.inf))

    np.testing.assert_array_equal(order_beyond_noise(3, difference), order)


@pytest.mark.slow
@pytest.mark.parametrize("count", [45, 200, 1000])
@pytest.mark.parametrize(("groups", "apart"), [(5, 1), (5, 4), (10, 1), (10, 9)])
def test_groups_do_not_follow_the_order_of_their_images(groups: int, apart: int, count: int) -> None:
    """What is alike in all groups, and of the same images as what is not, ranks nothing: in at most 5 of 100 studies.

    By all groups' order, once one of them differs, it is said to in up to 88.
    """
    rng, times, said = np.random.default_rng(0), 150, np.zeros(2)
    for _ in range(times):
        gap, tables = of_the_same_images(rng, groups, apart, count)
        accuracy = np.stack([table.mean(axis=1) for table in tables], axis=1)
        nothing, order = alike(tables, 0, "more or less accurate")
        for i, one in enumerate((order, None)):
            found = rank_correlations(gap, accuracy, "groups", order=one)[0]
            assert found.p_value is not None
            said[i] += found.p_value < 0.05 and not nothing
    of_tied, of_all = 100 * said / times
    print(f"{groups} groups, {apart} apart, {count} images: {of_tied:.1f} of 100, by all groups' order {of_all:.1f}")
    assert of_tied <= 5 + 300 * np.sqrt(0.05 * 0.95 / times)
    assert apart > 1 or of_all > 10 or count < 200


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.95, 0.99])
@pytest.mark.parametrize("counts", [(10, 10, 10, 500), (10, 40, 100, 1000)])
def test_small_groups_are_seldom_said_to_be_more_accurate(counts: tuple[int, ...], share: float) -> None:
    """In five seeds that agree about images; without two examples a group that is all right has no noise."""
    rng, times, said = np.random.default_rng(0), 150, np.zeros(2)
    for _ in range(times):
        margins = [3 * rng.normal(size=(1, count)) + rng.normal(size=(5, count)) for count in counts]
        tables = [(of < np.sqrt(10) * stats.norm.ppf(share)).astype(float) for of in margins]
        both = [intervals.right_parts(table) for table in tables], tables
        said += [not alike(of, len(counts) - 1, "more or less accurate")[0] for of in both]
    print(f"{counts}, {share} right: {100 * said / times} of 100, the latter without two examples")
    assert said[0] / times <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / times)
    assert said[1] / times > 0.3


def test_budgets_are_tested_by_seeds_too() -> None:
    """Four seeds that order the budgets alike and one that reverses them prove nothing, whatever permutations say."""
    x = np.tile(np.arange(5.0), (5, 1))
    y = np.array([[0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [4, 3, 2, 1, 0]], float)
    found = rank_correlations(x, y, "budgets")[0]
    assert found.p_value == pytest.approx(float(intervals.over_seeds(np.array([1, 1, 1, 1, -1.0])).p_value()))
    same = rank_correlations(x, x, "budgets")[0]
    assert same.p_value is not None
    assert same.p_value < 0.01


def test_a_share_that_all_seeds_have_is_tested_as_its_interval_is_made() -> None:
    """The bound that holds for all of ten groups in every seed: Wilson's interval of ten, and the score test."""
    measured = Measured(intervals.over_seeds(np.ones(5)), 5, "share", items=10)
    found = decide(None, "a", "b", "c", lambda _: (measured, ""), threshold=0.5)
    assert (found.verdict, found.note) == ("supported", "")
    assert found.low == pytest.approx(float(intervals.wilson(np.array(1.0), np.array(10)).low))
    assert found.p_value == pytest.approx(0.00157, rel=0.01)  # 2 * norm.sf(sqrt(10))
    level = 1 - found.p_value
    assert intervals.wilson(np.array(1.0), np.array(10), level).low == pytest.approx(0.5), "both say the same"


def test_no_share_of_groups_is_surer_for_a_group_that_differs() -> None:
    """A bound that holds for all groups of all seeds, and one that fails for a group of one seed."""
    found = []
    for last in (1.0, 0.8):
        share = Measured(intervals.over_seeds(np.array([1.0, 1.0, 1.0, 1.0, last])), 5, "share", items=5)
        found.append(decide(None, "", "", "", lambda _, of=share: (of, ""), threshold=0.5))
    sure, less = found
    assert sure.p_value < less.p_value
    assert sure.high - sure.low < less.high - less.low
    assert less.low < sure.low


@pytest.mark.slow  # 2,000 studies
@pytest.mark.parametrize("seeds", [5, 10])
@pytest.mark.parametrize("walk", [False, True])
def test_budgets_without_a_trend_are_seldom_said_to_have_one(seeds: int, walk: bool) -> None:
    """Budgets of one descent are alike: correlated as the small groups' harm is in the published study of digits.

    Or as in a random walk. Permutations alone, which know nothing of it, find a trend about twice as often.
    """
    correlation = np.array(
        [
            [1, 0.9, 0.29, 0.41, 0.14],
            [0.9, 1, 0.55, 0.32, -0.01],
            [0.29, 0.55, 1, 0.5, 0.23],
            [0.41, 0.32, 0.5, 1, 0.38],
            [0.14, -0.01, 0.23, 0.38, 1],
        ]
    )
    values, vectors = np.linalg.eigh(correlation)
    mix = np.tril(np.ones((5, 5))) if walk else vectors * np.sqrt(np.maximum(values, 0))
    x, rng = np.tile(np.arange(5.0), (seeds, 1)), np.random.default_rng(0)
    drawn = [rng.normal(size=(seeds, 5)) @ mix.T for _ in range(500)]
    found = np.array([rank_correlations(x, y, "budgets")[0].p_value for y in drawn], float)
    alone = [2 * min(rank_p_value(x, sign * y, shared=False)[1] for sign in (1, -1)) for y in drawn]
    said, of_orders = np.mean(found < 0.05), np.mean(np.array(alone) < 0.05)
    print(f"{seeds} seeds, {walk=}: {100 * said:.1f} of 100, by permutations alone {100 * of_orders:.1f}")
    assert 0.03 < said < 0.09
    assert of_orders > said + 0.02
