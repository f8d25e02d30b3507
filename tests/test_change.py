"""``change_report``: counts against brute force, the expansion against closed forms, and what it refuses."""

import re
import warnings
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats
from scipy.stats import binomtest

import jaxfair
from jaxfair import change_report, intervals, paired, per_example_gradient_norms, words
from jaxfair.curvature.config import CurvatureConfig
from jaxfair.errors import JaxfairError
from jaxfair.losses import cross_entropy
from jaxfair.networks import CNN, frozen, init

RNG = np.random.default_rng(0)
N = 60
X = RNG.normal(size=(N, 3)).astype(np.float32)
Y = RNG.integers(0, 3, N)
GROUP = np.array(["a", "b", "c"])[RNG.integers(0, 3, N)]
W = RNG.normal(size=(3, 3)).astype(np.float32)
STEP = RNG.normal(size=(3, 3)).astype(np.float32)


def linear(w, x):
    return x @ w


def squares(outputs, y):
    return 0.5 * ((outputs - jax.nn.one_hot(y, 3)) ** 2).sum(axis=1)


def test_counts_are_those_of_the_predictions() -> None:
    """Accuracy, flips and McNemar's p-value of every group, against a plain count."""
    before, after = RNG.integers(0, 3, (2, N))
    report = change_report(before, after, None, Y, GROUP)
    for g, name in enumerate(report.names):
        of = np.asarray(name == GROUP)
        was, became = (before == Y)[of], (after == Y)[of]
        assert report.count[g] == of.sum()
        assert report.accuracy_before.value[g] == was.mean()
        assert report.accuracy_after.value[g] == became.mean()
        assert report.broken.value[g] == (was & ~became).mean()
        assert report.mended.value[g] == (~was & became).mean()
        assert report.changed.value[g] == (before != after)[of].mean()
        flips = int((was & ~became).sum()), int((~was & became).sum())
        assert report.mcnemar[g] == pytest.approx(binomtest(flips[0], sum(flips)).pvalue)
        np.testing.assert_allclose(report.relative_drop.value[g], 100 * (1 - became.mean() / was.mean()))
    assert np.isnan(report.loss_rise.value).all()
    assert report.expansion is None
    assert "answers" in report.no_expansion


def test_two_terms_are_exact_on_a_quadratic_loss() -> None:
    report = change_report((linear, W), (linear, W + STEP), X, Y, GROUP, loss=squares)
    found = report.expansion
    assert found is not None
    np.testing.assert_allclose(found.first + found.second, found.rise, rtol=2e-5)
    np.testing.assert_allclose(found.rise[0], report.loss_rise.value, rtol=1e-5)
    np.testing.assert_allclose(found.distance, np.linalg.norm(STEP), rtol=1e-6)


def test_on_softmax_regression_the_remainder_is_of_third_order() -> None:
    """Half the step leaves an eighth of what two terms miss, and the bound holds for a convex loss and small steps."""

    def remainder(scale: float) -> np.ndarray:
        found = change_report((linear, W), (linear, W + scale * STEP), X, Y, GROUP).expansion
        assert found is not None
        return (found.rise - found.first - found.second)[0]

    np.testing.assert_allclose(remainder(0.5) / remainder(0.25), 8, rtol=0.35)
    found = change_report((linear, W), (linear, W + STEP / 8), X, Y, GROUP, CurvatureConfig(tolerance=1e-3)).expansion
    assert found is not None
    assert (found.rise <= found.bound).all()


def test_the_same_network_changes_nothing() -> None:
    report = change_report((linear, W), (linear, W), X, Y, GROUP)
    assert not report.changed.value.any()
    assert not report.loss_rise.value.any()
    assert {difference.verdict for difference in report.differences} == {"within noise"}
    assert report.answer() == "No prediction changed. No group lost more or less of its accuracy than a beyond noise."
    assert (report.changed.high > 0).all()  # that nothing was seen to change does not mean that nothing can


def test_runs_are_pairs_and_share_the_examples() -> None:
    after = [np.where(RNG.random(N) < 0.2, (Y + 1) % 3, Y) for _ in range(3)]
    report = change_report(Y, after, None, Y, GROUP)
    assert report.runs == 3
    assert report.exemplars is not None
    modal = [np.bincount([run[i] for run in after], minlength=3).argmax() for i in range(N)]
    np.testing.assert_allclose((report.exemplars.value * report.count).sum(), (np.array(modal) != Y).sum())
    assert (report.exemplars.high > report.exemplars.value).all()
    assert np.isnan(report.mcnemar).all()
    assert {difference.verdict for difference in report.differences} == {"too few runs"}
    assert "at least 5" in report.answer()


def test_a_loss_may_be_below_zero_and_a_class_switched_off() -> None:
    """Intervals of such a loss hold it; functions that differ do so though a class has minus 1e9."""
    x, p = RNG.normal(size=(N, 4)), RNG.normal(size=(4, 3))
    on = np.array([True, True, False])

    def of(factor: float) -> Any:
        return lambda p, x: jnp.where(on, factor * (x @ p), -1e9)

    y = np.arange(N) % 2
    report = change_report(
        (of(1.0), p), (of(3.0), p), x, y, np.repeat("all", N), loss=lambda z, y: cross_entropy(z, y) - 20.0
    )
    assert report.other_function
    for measure in (report.loss_before, report.loss_after):
        known = np.isfinite(measure.low)
        assert known.any()
        assert (measure.low[known] < measure.value[known]).all()
        assert (measure.value[known] < measure.high[known]).all()
        assert (measure.high[known] < 0).all()


@pytest.mark.parametrize("runs", [1, 2])
def test_losses_that_are_infinite_are_so_without_a_warning(runs: int) -> None:
    """Of one example before, of another after, and of a third in both, each in a group of its own but the first two."""
    group = np.repeat(["one", "both", "finite"], 60)
    y, one, other = np.arange(180) % 3, *RNG.normal(size=(2, 180, 3))
    one[[0, 60], y[[0, 60]]] = other[[5, 60], y[[5, 60]]] = -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        report = change_report([one] * runs, [other] * runs, None, y, group)
        str(report)
    at = [report.names.index(name) for name in ("one", "both", "finite")]
    np.testing.assert_array_equal(report.loss_before.value[at[:2]], np.inf)
    np.testing.assert_array_equal(np.isnan(report.loss_rise.value[at]), [True, True, False])
    np.testing.assert_array_equal(np.isnan(report.loss_rise.low[at]), [True, True, False])


def test_one_network_on_a_side_of_several_is_said() -> None:
    """Its own noise is in no interval, however many there are on the other side."""
    after = [np.where(RNG.random(N) < 0.2, (Y + 1) % 3, Y) for _ in range(5)]
    for sides, single in (((Y, after), "before"), ((after, Y), "after"), ((after, after[::-1]), "")):
        report = change_report(*sides, None, Y, GROUP)
        assert report.single == single
        assert (f"There is one network {single}: what another one" in str(report)) == bool(single)


def test_a_group_that_loses_is_named() -> None:
    group = np.repeat(["small", "large"], [50, 400])
    y = np.zeros(450, int)
    after = np.where((group == "small") & (np.arange(450) % 2 == 0), 1, 0)
    report = change_report(np.arange(450) * 0, after, None, y, group)
    (difference,) = report.differences
    assert (difference.group, difference.reference, difference.verdict) == ("small", "large", "more")
    assert report.answer().startswith("small lost 50.0 points more than large (")
    assert report.answer().endswith("): 50.0 % of its accuracy against 0.0 %.")
    assert report.gap is not None
    assert report.gap.group == "small"
    for names in (("a", "b", "c"), ("a", "c", "b")):  # a tie goes to the group of more examples, whatever it is called
        of = np.repeat(names, [1000, 1000, 10])
        tied = np.concatenate([np.zeros(1000), np.arange(1000) < 100, np.arange(10) < 1]).astype(int)
        gap = change_report(0 * tied, tied, None, 0 * tied, of, reference="a").gap
        assert gap is not None
        assert (gap.group, gap.verdict) == (names[1], "more")
    assert "small lost" in str(report)
    assert change_report(y, after, None, y, group, reference="small").differences[0].verdict == "less"


def test_inputs_may_be_lists_and_examples_left_out() -> None:
    """The expansion takes what the rest of the report takes."""
    group = [None, *GROUP[1:]]
    lists = change_report((linear, W), (linear, W + STEP), X.tolist(), Y, group, missing="drop").expansion
    arrays = change_report((linear, W), (linear, W + STEP), X[1:], Y[1:], GROUP[1:]).expansion
    assert lists is not None
    assert arrays is not None
    np.testing.assert_allclose(lists.first, arrays.first, rtol=1e-5)


def test_masks_are_no_parameters() -> None:
    """A network and its linearized twin have the same parameters: no distance, and a loss that changes nonetheless."""
    network = init(CNN(num_classes=3, features=(2,)), (4, 4, 1), seed=0)
    linearized = network.replace(masks=jax.tree.map(jnp.zeros_like, network.masks))
    x = RNG.normal(size=(N, 4, 4, 1)).astype(np.float32)
    before, after = ((frozen(one), one.params) for one in (network, linearized))
    found = change_report(before, after, x, Y, GROUP).expansion
    assert found is not None
    assert found.distance == 0
    assert np.abs(found.rise).max() > 1e-4
    assert not found.second.any()


def test_other_parameters_leave_the_rest_of_the_report() -> None:
    other = {"w": W, "b": np.zeros(3, np.float32)}
    report = change_report((linear, W), (lambda p, x: x @ p["w"] + p["b"], other), X, Y, GROUP)
    assert report.expansion is None
    assert "absent" in report.no_expansion
    assert np.isfinite(report.loss_rise.value).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"before": Y[:-1]}, "59"),
        ({"before": np.zeros((N, 3)), "after": np.zeros((N, 4))}, "3 and 4 classes"),
        ({"before": np.zeros((N, 2))}, "up to 2 and 2 logits"),
        ({"before": np.full((N, 3), np.nan)}, "example 0 before"),
        ({"before": (linear, W)}, "no inputs x"),
        ({"before": [Y, Y], "after": [Y, Y, Y]}, "2 runs before and 3 after"),
        ({"y": Y[:-1]}, "59 labels"),
        ({"reference": "nobody"}, "one of a, b, c"),
        ({"before": np.full(N, 0.7)}, "such as 0.7, which is no class"),
        ({"before": 3}, r"shape \(\)"),
        ({"group": GROUP == "a", "group_names": ["no", "yes", "never"]}, "'?never'? has no example"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict, message: str) -> None:
    given = {"before": Y, "after": Y, "x": None, "y": Y, "group": GROUP} | arguments
    with pytest.raises(JaxfairError, match=message):
        change_report(**given)


@pytest.mark.usefixtures("callers_line")
def test_what_is_suspect_is_said() -> None:
    probabilities = np.full((N, 3), 1 / 3, np.float32)
    with pytest.warns(UserWarning, match="probabilities") as said, pytest.warns(UserWarning, match="one class") as more:
        change_report(probabilities, Y, None, Y, GROUP)
    assert {warning.filename for warning in (*said, *more)} == {__file__}, "the line to look at is the user's"


def test_a_group_of_one_has_no_interval_of_its_loss() -> None:
    group = np.where(np.arange(N) == 0, "one", "rest")
    report = change_report((linear, W), (linear, W + STEP), X, Y, group)
    assert np.isnan(report.loss_rise.low[0])
    assert np.isfinite(report.loss_rise.low[1])
    assert 0 < report.accuracy_before.high[0] <= 1


def test_the_report_is_data_too() -> None:
    report = change_report((linear, W), (linear, W + STEP), X, Y, GROUP)
    found = report.to_dict()
    assert len(found["differences"]) == 2
    assert found["first_term"] == report.columns()["first_term"].tolist()
    assert list(report.to_frame().index) == list(report.names)
    assert "ChangeReport" in jaxfair.__all__
    assert len({report, report, change_report(Y, Y, None, Y, GROUP)}) == 2


def test_the_foretold_stands_beside_what_happened() -> None:
    """In print and by column, with the caveat; over several runs with an interval."""
    one = change_report((linear, W), (linear, W + STEP), X, Y, GROUP)
    assert "kink" in str(one)
    assert "foretold" in str(one)
    pairs = [(linear, W + scale * STEP) for scale in (0.1, 0.2, 0.3)]
    several = change_report((linear, W), pairs, X, Y, GROUP)
    found = several.columns()
    assert several.expansion is not None
    np.testing.assert_allclose(found["foretold"], several.expansion.foretold.mean(axis=0))
    assert (found["foretold_low"] < found["foretold"]).all()
    assert np.shape(several.to_dict()["expansion"]["rise"]) == (3, 3)
    np.testing.assert_allclose(several.expansion.rise.mean(axis=0), several.loss_rise.value, rtol=1e-6)


def test_the_interval_of_a_bound_is_above_0() -> None:
    """Of runs that went very unlike ways; what is not a bound may have any sign."""
    pairs = [(linear, W + scale * STEP) for scale in (0.01, 0.02, 2.0)]
    found = change_report((linear, W), pairs, X, Y, GROUP, CurvatureConfig(tolerance=1e-2)).columns()
    assert (found["bound_low"] > 0).all()
    assert (found["bound_low"] < found["bound"]).all()
    assert (found["bound"] < found["bound_high"]).all()
    assert (found["second_term_low"] < 0).all()


def test_a_group_that_was_never_right_has_nothing_to_lose() -> None:
    before = np.where(GROUP == "b", (Y + 1) % 3, Y)
    report = change_report(before, Y, None, Y, GROUP)
    assert np.isnan(report.relative_drop.value[1])
    assert [difference.group for difference in report.differences] == ["c"]
    assert "right on too few examples for a loss relative to that: b gained 100.0 points" in report.answer()
    only = change_report(before, Y, None, Y, GROUP, reference="b")
    assert only.answer().startswith("Before the change some were right on too few")


@pytest.mark.parametrize("count", [60, 61])
@pytest.mark.parametrize("runs", [1, 3, 5])
def test_a_group_that_loses_everything_lost_a_hundred_of_a_hundred(runs: int, count: int) -> None:
    """Whatever its sums round to, and however many runs repeat it. By hand: one answer that is made right is added."""
    y = np.arange(count) % 3
    with np.errstate(all="raise"):
        lost = change_report([y] * runs, [(y + 1) % 3] * runs, None, y, np.zeros(count, int)).relative_drop
        nearly = change_report([y] * runs, [np.where(y < 2, y + 1, y)] * runs, None, y, y // 2).relative_drop
    assert lost.value == lost.high == nearly.value[0] == 100
    low = 100 - 100 * stats.t.ppf(0.975, count + 1) / (count + 2)
    np.testing.assert_allclose(lost.low, low, rtol=1e-6)


def test_a_loss_relative_to_an_accuracy_near_zero_is_said_in_points() -> None:
    """One right answer of 100, then six: a drop of -500 % says nothing, 5 points of accuracy do."""
    group, y = np.repeat(["large", "rare"], [300, 100]), np.zeros(400, int)
    before = np.where(group == "rare", np.arange(400) > 300, 0)
    after = np.where(group == "rare", np.arange(400) > 305, np.arange(400) < 30)
    report = change_report(before, after, None, y, group)
    assert np.isnan(report.relative_drop.value[1])
    assert report.accuracy_drop.value[1] == pytest.approx(-5)
    assert report.accuracy_drop.low[1] < -5 < report.accuracy_drop.high[1]
    assert report.differences == ()
    assert "rare gained 5.0 points of accuracy (" in report.answer()
    enough = change_report(np.where(group == "rare", np.arange(400) > 303, 0), after, None, y, group)
    assert enough.relative_drop.value[1] == pytest.approx(-50)


@pytest.mark.parametrize(("right", "said"), [((1, 40), r"b gained (39\.0) points"), ((1, 0), r"b lost (1\.0) points")])
def test_what_a_group_gained_is_not_said_to_be_lost(right: tuple[int, int], said: str) -> None:
    """Of 100 images; the interval's ends have the sign of what is said, and are in order."""
    group, y = np.repeat(["a", "b"], 100), np.zeros(200, int)
    before, after = (np.where(group == "b", np.arange(200) >= 100 + count, 0) for count in right)
    report = change_report(before, after, None, y, group)
    found = re.search(rf"{said} of accuracy \((.*?) to (.*?)\)", report.answer())
    assert found is not None
    value, low, high = map(float, found.groups())
    assert low <= value <= high
    ends = sorted(np.sign(right[0] - right[1]) * np.array([report.accuracy_drop.low[1], report.accuracy_drop.high[1]]))
    np.testing.assert_allclose((low, high), ends, atol=0.051)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ((5.0, -1.0, 11.0), "lost 5.0 points of accuracy (-1.0 to 11.0)"),
        ((-39.0, -49.0, -29.0), "gained 39.0 points of accuracy (29.0 to 49.0)"),
        ((-0.1, -1.0, 0.8), "gained 0.1 points of accuracy (-0.8 to 1.0)"),
        ((-0.04, -0.1, 0.0), "gained 0.04 points of accuracy (0.0 to 0.1)"),
        ((0.0, 0.0, 0.0), "lost 0.0 points of accuracy (0.0 to 0.0)"),
        ((-1e-15, -0.5, 0.5), "lost 0.0 points of accuracy (-0.5 to 0.5)"),
        ((0.002, -1.2, 1.2), "lost 0.0 points of accuracy (-1.2 to 1.2)"),
        ((-2.0, np.nan, np.nan), "gained 2.0 points of accuracy"),
    ],
)
def test_gains_are_worded_as_such(points: tuple[float, float, float], said: str) -> None:
    assert words.lost_or_gained(points) == said


def test_one_logit_is_that_of_the_second_class() -> None:
    """With a loss for it; cross-entropy of one logit is 0."""

    def logistic(logits, y):
        return jax.nn.softplus(jnp.where(y == 1, -1.0, 1.0) * logits[:, 0])

    y, w = (X[:, 0] > 0).astype(int), np.array([[1.0], [0.0], [0.0]], np.float32)
    report = change_report((linear, w), (linear, -w), X, y, GROUP, loss=logistic)
    assert (report.accuracy_before.value == 1).all()
    assert (report.accuracy_after.value == 0).all()


@pytest.mark.slow
def test_verdicts_err_as_seldom_as_they_say() -> None:
    """Four groups that lose alike: some difference is called beyond noise in at most 5 % of test sets.

    And the interval of the difference between two groups that lose unlike covers.
    """
    rng, sizes, false, hits = np.random.default_rng(0), (400, 120, 60, 60), 0, 0
    group = np.repeat(np.arange(4), sizes)
    truth = 100 * (0.06 - 0.02) / 0.9
    for _ in range(1000):
        before = rng.random(group.size) < 0.9
        for same in (True, False):
            lost = np.where((group == 2) & (not same), 0.06 / 0.9, 0.02 / 0.9)
            right = before & (rng.random(group.size) >= lost)
            tables = [[np.array([side[group == g]], float) for g in range(4)] for side in (before, right)]
            found, gap = paired.differences_of([*zip(*tables, strict=True)], ("0", "1", "2", "3"), 0)
            assert gap is not None
            if same:
                false += any(one.verdict != "within noise" for one in (*found, gap))
            else:
                (mine,) = (one for one in found if one.group == "2")
                hits += mine.low <= truth <= mine.high
    assert false <= 0.06 * 1000
    assert hits >= 0.97 * 1000  # at 1 - 0.05 / 3 each


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runs", "count", "share", "spread", "most"),
    [(1, 400, 0.02, 0.0, 0.97), (5, 60, 0.1, 0.2, 0.98), (10, 200, 0.1, 0.5, 0.97), (5, 60, 0.02, 0.2, 0.99)],
)
def test_intervals_of_shares_cover(runs: int, count: int, share: float, spread: float, most: float) -> None:
    """Nominal 95 %: 93 to 97 over examples and runs drawn anew; where few of sixty examples flip, a little more."""
    rng, hits = np.random.default_rng(0), []
    own = 1.0 if runs > 1 else 0.0  # examples differ, and are the same in all runs
    level = np.log(share / (1 - share))
    truth = (1 / (1 + np.exp(-level - spread * rng.normal(size=10**6) - own * rng.normal(size=10**6)))).mean()
    for _ in range(2000):
        logit = level + spread * rng.normal(size=(runs, 1)) + own * rng.normal(size=(1, count))
        table = (rng.random((runs, count)) < 1 / (1 + np.exp(-logit))).astype(float)
        found = paired.shares(table, [np.ones(count, bool)])
        hits.append(found.low[0] <= truth <= found.high[0])
    print(f"{runs} runs, {count} examples, a share of {share}: {100 * np.mean(hits):.1f} %")
    assert 0.93 <= np.mean(hits) <= most


def test_losses_are_those_of_the_logits_in_full_precision() -> None:
    """Half precision rounds a small loss to 0, and unsigned labels have no -1; both are only how things are stored."""
    y = np.arange(60) % 2
    logits = 9 * np.eye(2, dtype=np.float32)[y]

    def logistic(outputs: Any, label: Any) -> Any:
        return jnp.logaddexp(0.0, -(2 * label - 1) * (outputs[:, 1] - outputs[:, 0]))

    for loss in (cross_entropy, logistic):
        expected = change_report(logits, 0.8 * logits, None, y, y, loss=loss).loss_rise.value
        assert (expected > 1e-4).all()
        halves = change_report(
            logits.astype(np.float16), (0.8 * logits).astype(np.float16), None, y.astype(np.uint8), y, loss=loss
        )
        np.testing.assert_allclose(halves.loss_rise.value, expected, rtol=5e-2)


def test_one_hot_labels_reach_a_loss_that_takes_them() -> None:
    y = np.arange(60) % 3
    logits = 2 * np.eye(3, dtype=np.float32)[y]
    found = change_report(logits, 0.6 * logits, None, np.eye(3)[y], y, loss=optax.softmax_cross_entropy)
    expected = change_report(logits, 0.6 * logits, None, y, y)
    np.testing.assert_allclose(found.loss_rise.value, expected.loss_rise.value, rtol=1e-5)
    network = (lambda params, x: x @ params), np.eye(3, dtype=np.float32)
    other = network[0], np.float32(0.6) * network[1]
    several = change_report(network, other, logits, np.eye(3)[y], y, loss=optax.softmax_cross_entropy)
    assert several.expansion is not None
    np.testing.assert_allclose(several.loss_rise.value, expected.loss_rise.value, rtol=1e-5)


def test_losses_that_are_no_losses_are_refused() -> None:
    y = np.arange(60) % 3
    logits = 2 * np.eye(3, dtype=np.float32)[y]

    def of_a_batch(outputs: Any, label: Any) -> Any:
        weight = jnp.array([1.0, 5.0, 20.0])[label]
        return cross_entropy(outputs, label) * weight / weight.sum()

    with pytest.raises(JaxfairError, match="depends on which others it is computed with"):
        change_report(logits, logits, None, y, y, loss=of_a_batch)
    with pytest.raises(JaxfairError, match="depends on which others"):
        per_example_gradient_norms(lambda p, x: x @ p, np.eye(3, dtype=np.float32), logits, y, loss=of_a_batch)
    with pytest.raises(JaxfairError, match="The loss of example 0 before is not a number"):
        change_report(logits, logits, None, y, y, loss=lambda z, label: jnp.log(-1 - z[:, 0] ** 2))
    with pytest.raises(JaxfairError, match="A logit of example 2 before is not a finite number"):
        change_report(np.where((y[:, None] == 2) & [1, 0, 0], 1e39, logits.astype(float)), logits, None, y, y)
    with pytest.raises(JaxfairError, match="config is of type list; give a CurvatureConfig or None"):
        change_report(y, y, None, y, y % 2, cast(Any, ["a", "b"]))


def test_rows_of_bytes_reach_a_loss_with_a_sign() -> None:
    """As single labels do: 2 y - 1 of an unsigned 0 would be 255."""
    y = np.arange(60) % 3
    logits, rows = 2 * np.eye(3, dtype=np.float32)[y], np.eye(3)[y]

    def logistic(outputs: Any, label: Any) -> Any:
        return jnp.logaddexp(0.0, -(2 * label - 1) * outputs).sum(axis=1)

    found = [change_report(logits, logits / 3, None, rows.astype(kind), y, loss=logistic) for kind in (np.uint8, int)]
    np.testing.assert_array_equal(found[0].loss_before.value, found[1].loss_before.value)


def test_what_no_parameter_holds_is_said_to_be_missing() -> None:
    """Masks, statistics and code are in the rise alone; the same function is told by what it answers."""
    x, y = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32), np.arange(60) % 3
    params = np.eye(3, dtype=np.float32)

    def plain(p: Any, x: Any) -> Any:
        return x @ p

    def thrice(p: Any, x: Any) -> Any:
        return 3 * (x @ p)

    other = change_report((plain, params), (thrice, params), x, y, y % 2)
    assert other.other_function
    assert "different functions of their parameters too" in str(other)
    again = change_report((plain, params), (lambda p, x: x @ p, 2 * params), x, y, y % 2)
    assert not again.other_function
    assert "different functions" not in str(again)
    assert again.to_dict()["other_function"] is False


def test_inputs_of_another_number_are_refused_beside_answers_too() -> None:
    y = np.arange(60) % 3
    with pytest.raises(JaxfairError, match="There are 60 labels, 60 groups, 59 inputs; give one of each"):
        change_report(y, y, np.zeros((59, 2)), y, y % 2)


@pytest.mark.parametrize("kind", [int, bool])
def test_one_hot_rows_are_predicted_classes(kind: type) -> None:
    y = np.arange(60) % 3
    found = change_report(np.eye(3)[y].astype(kind), np.eye(3)[(y + 1) % 3].astype(kind), None, y, y % 2)
    np.testing.assert_array_equal(found.accuracy_before.value, 1)
    np.testing.assert_array_equal(found.accuracy_after.value, 0)
    assert np.isnan(found.loss_before.value).all()


def test_tables_of_logits_have_their_classes_in_one_order() -> None:
    """By the classes' names, which a table has and an array lacks."""
    pd = pytest.importorskip("pandas")
    logits, y, group = np.random.default_rng(0).normal(size=(24, 3)), np.arange(24) % 3, np.arange(24) % 2
    for names in ([0, 1, 2], ["0", "1", "2"]):
        table = pd.DataFrame(logits, columns=names)
        change_report(table, table, None, y, group)
        with pytest.raises(JaxfairError, match="columns"):
            change_report(table, table[[names[2], names[0], names[1]]], None, y, group)
    named = pd.DataFrame(logits, columns=list("abc"))
    for name in ("logits_{}", "class {} of 12", "{}.0"):
        wide = pd.DataFrame(np.eye(12)[np.arange(24) % 12] * 5, columns=[name.format(i) for i in range(12)])
        np.testing.assert_array_equal(
            change_report(wide, wide, None, np.arange(24) % 12, group).accuracy_before.value, 1
        )
        with pytest.raises(
            JaxfairError, match=r"side before has columns .* and 7 more; give the classes in their order"
        ):
            change_report(wide.sort_index(axis=1), np.eye(12)[:1].repeat(24, 0), None, np.arange(24) % 12, group)
    with pytest.raises(JaxfairError, match="Tables have the columns a, b, c and c, a, b; give one order"):
        change_report(named, named[list("cab")], None, y, group)


def test_points_of_accuracy_lie_within_a_hundred() -> None:
    logits = np.eye(3)[:2] * 5
    found = change_report(logits, logits, None, [1, 1], ["a", "b"])
    assert np.abs(found.accuracy_drop.low).max() <= 100
    assert found.accuracy_drop.high.max() <= 100


def test_a_network_as_a_side_is_told_how_it_is_given() -> None:
    network = init(CNN(num_classes=3, features=(2,)), (8, 8, 1), 0)
    x, y = np.zeros((4, 8, 8, 1), np.float32), np.arange(4) % 3
    for side in (network, [frozen(network), network.params]):
        with pytest.raises(JaxfairError, match=r"is a function; give \(logits_fn, params\)"):
            change_report(side, side, x, y, y)


def test_one_group_and_one_side_twice_are_answered() -> None:
    y = np.arange(80) % 2
    alone = change_report(y, np.where(np.arange(80) < 8, 1 - y, y), None, y, ["all"] * 80)
    said = re.fullmatch(r"all lost 10.0 % of its accuracy \((.*) to (.*)\); there is no second group.*", alone.answer())
    assert said
    assert 2 < float(said[1]) < 10 < float(said[2]) < 25
    same = change_report(Y, Y, None, Y, GROUP)
    assert same.answer().startswith("No prediction changed. No group lost more or less of its accuracy than ")


def test_an_answer_names_three_groups_at_most() -> None:
    """Of thirty that each lost all of it, and one that lost nothing."""
    y, group = np.zeros(31 * 60, int), np.repeat(np.arange(31), 60)
    found = change_report(y, np.where(group == 0, 0, 1), None, y, group, reference="0")
    assert len(found.differences) == 30
    assert "; and 27 more, see the table." in found.answer()


@pytest.mark.parametrize("kind", [int, np.uint8, object, float])
def test_columns_of_predicted_classes_are_no_logits(kind: Any) -> None:
    """Whose largest would be the class; whole logits of a network of integers are below 0 too."""
    runs = np.stack([Y, (Y + 1) % 3, Y], axis=1)
    with pytest.raises(JaxfairError, match=r"side before has columns of whole numbers up to 2.* give a list of runs"):
        change_report(runs.astype(kind), runs, None, Y, GROUP)
    logits = np.where(np.eye(3)[Y] == 1, 9, -9).astype(np.int8)
    for found in (logits, 2.0 * np.eye(3)[Y]):
        np.testing.assert_array_equal(change_report(found, found, None, Y, GROUP).accuracy_before.value, 1)


def test_what_is_right_and_what_counts_from_1_are_no_classes() -> None:
    with pytest.raises(JaxfairError, match="side after has booleans, and the labels run to 2; give predicted classes"):
        change_report(Y, Y == 1, None, Y, GROUP)
    np.testing.assert_array_equal(change_report(Y == 1, Y == 1, None, Y == 1, GROUP).accuracy_before.value, 1)
    with pytest.warns(match="labels run from 0 to 2 and the predicted classes from 1 to 3; count both from 0"):
        change_report(Y + 1, Y + 1, None, Y, GROUP)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", [np.int64, np.uint64])
def test_classes_may_be_codes_beyond_32_bits(kind: Any) -> None:
    codes = Y.astype(kind) + kind(2**40)
    found = change_report(codes, np.roll(codes, 1), None, codes, GROUP)
    expected = change_report(Y, np.roll(Y, 1), None, Y, GROUP)
    np.testing.assert_array_equal(found.accuracy_before.value, 1)
    np.testing.assert_array_equal(found.accuracy_after.value, expected.accuracy_after.value)
    with pytest.raises(JaxfairError, match="classes up to 1099511627778 and 3 logits"):
        change_report(X @ W, X @ W, None, codes, GROUP)


def test_names_of_groups_are_bounded_and_on_one_line_in_an_answer_and_its_table() -> None:
    """Names of usual length are whole, and long ones are told apart by their ends."""
    usual = ("not Male & not Blond_Hair & Young & Smiling", "Male & Blond_Hair & not Young & not Smiling")
    for names in (usual, ("x" * 20000 + "a", "x" * 20000 + "b"), ("two\nlines", "a\rb\u2028c"), ("male ", "male")):
        group = np.array(names)[np.arange(N) % 2]
        after = np.where(group == names[0], Y, (Y + 1) % 3)
        report = change_report(Y, after, None, Y, group, reference=names[0])
        first, second = words.cut(names)
        assert f"{second} lost 100.0 points more than {first} (" in report.answer()
        assert len(report.answer()) < 400
        assert len(str(report).splitlines()) == 6
        assert len(str(report)) < 2000
        assert report.to_dict()["group"] == sorted(names)
    assert words.cut(usual) == [*usual]
    middles = [f"{'x' * 200}{number}{'x' * 200}" for number in range(12)]
    assert len({*words.cut(middles)}) == 12
    assert len({*words.cut(["a  b", "a b"], most=3)}) == 2


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["male", "male "], ["male", "'male '"]),
        (["a  b", "a   b", "a b", "a\xa0b"], ["'a \\x20b'", "'a \\x20 b'", "a b", "'a\\xa0b'"]),
        (["ab", "a\u200bb", "\u200b"], ["ab", "'a\\u200bb'", "'\\u200b'"]),
        (["a\u202ebc", "\x1b[31ma", "\udc80"], ["a\\u202ebc", "\\x1b[31ma", "\\udc80"]),
        (["two\nlines", "", "ab\u200cc"], ["two lines", "", "ab\u200cc"]),
    ],
    ids=["blanks", "several", "unseen", "controls", "harmless"],
)
def test_names_that_look_alike_are_told_apart(names: list[str], said: list[str]) -> None:
    assert words.cut(names) == said


def test_labels_of_examples_that_are_left_out_may_be_masked() -> None:
    """Whatever they are; and names of any length are one line of an answer."""
    rng = np.random.default_rng(0)
    group = np.array([None] * 4 + ["a" * 20_000, "b"] * 20, object)
    y = np.ma.array(rng.integers(0, 3, 44), mask=np.arange(44) < 4)
    said = np.where(rng.random((2, 44)) < 0.8, y.data, 0)
    found = change_report(said[0], said[1], None, y, group, missing="drop")
    assert found.count.sum() == 40
    assert len(found.answer()) < 1500


def test_of_groups_that_lost_alike_the_extremes_are_those_of_the_most_examples() -> None:
    assert paired.extremes([2.0, 2.0, 1.0, 1.0], [5, 9, 3, 7]) == (1, 3)
    assert paired.extremes([0.3, 0.1 + 0.2], [9, 5]) == (0, 0), "alike but for rounding"


def test_a_share_over_runs_has_two_examples_of_each_kind_more() -> None:
    table = (np.random.default_rng(0).random((3, 30)) < 0.3).astype(float)
    found = paired.shares(table, [np.arange(30)])
    more = np.hstack([table, np.tile([1.0, 1.0, 0.0, 0.0], (3, 1))])
    low, high = intervals.over_seeds_and_examples([more]).interval()
    np.testing.assert_allclose([found.value[0], found.low[0], found.high[0]], [table.mean(), low, high])
