"""Expansions of groups' losses: closed forms, the order of the remainder, and networks in joint coordinates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr

from jaxfair import groups, taylor
from jaxfair.curvature.config import CurvatureConfig
from jaxfair.curvature.spectrum import group_curvature
from jaxfair.data.dataset import make_dataset
from jaxfair.errors import JaxfairError
from jaxfair.networks.architectures import CNN, ResNet
from jaxfair.networks.masks import keep_random
from jaxfair.networks.network import Network, frozen, init, predict
from tests.examples import CLASSES, GROUP, GROUPS, INPUTS, LABEL, WEIGHTS, N, linear

SHARES = np.asarray(groups.group_weights(GROUP, GROUPS))
STEP = np.random.default_rng(1).normal(size=WEIGHTS.shape)


def squares(outputs, y):
    return 0.5 * ((outputs - jax.nn.one_hot(y, CLASSES)) ** 2).sum(axis=1)


@pytest.mark.usefixtures("float64")
def test_both_terms_are_exact_on_a_quadratic_loss_all_the_way() -> None:
    found = taylor.along_line(linear, WEIGHTS, WEIGHTS + STEP, INPUTS, LABEL, SHARES, loss=squares)
    np.testing.assert_allclose(found.both, found.actual, rtol=1e-10, atol=1e-12)
    assert np.isinf(found.breaks(1e-6)[1]).all()
    assert found.breaks(1e-6)[0].max() <= 0.2  # one term alone is not
    np.testing.assert_allclose(found.terms.distance, np.linalg.norm(STEP))


@pytest.mark.usefixtures("float64")
def test_on_softmax_regression_the_remainder_is_of_third_order() -> None:
    """Half the way leaves an eighth of what two terms miss, a quarter of what one misses."""
    t = [2.0**-8, 2.0**-7]
    found = taylor.along_line(linear, WEIGHTS, WEIGHTS + STEP, INPUTS, LABEL, SHARES, t)
    for foretold, ratio in ((found.first, 4), (found.both, 8)):
        missed = found.actual - foretold
        np.testing.assert_allclose(missed[1] / missed[0], ratio, rtol=0.05)


def test_where_the_expansion_breaks() -> None:
    """(1 + t)^3 - 1: of one term the error is over a half from t + t^2/3 = 1 on, of two it stays below 1/7."""
    one = np.ones((1, 1))
    t = np.linspace(0, 1, 101)
    arguments = lambda p, x: x * p, 1.0 * jnp.ones(1), 2.0 * jnp.ones(1), one, np.zeros(1), one
    found = taylor.along_line(*arguments, t, loss=lambda outputs, y: outputs[:, 0] ** 3)
    np.testing.assert_allclose(found.actual[:, 0], (1 + t) ** 3 - 1, rtol=1e-5)
    first, both = found.breaks()
    assert first[0] == t[np.argmax(t + t**2 / 3 > 1)]
    assert np.isinf(both[0])
    assert found.breaks(0.1)[1][0] == t[np.argmax(t**3 > 0.1 * ((1 + t) ** 3 - 1 + 1e-12))]
    assert found.error(found.first)[0, 0] == 0  # nothing moved, and nothing was foretold


def test_what_is_not_known_breaks_nowhere_that_is_known() -> None:
    line = taylor.along_line(linear, WEIGHTS, WEIGHTS + STEP, INPUTS, LABEL, SHARES)
    assert np.isnan(line._replace(actual=np.full_like(line.actual, np.nan)).breaks(0.5)).all()


def test_a_change_too_small_for_float32_has_its_terms() -> None:
    """Parameters of float64 that differ by less than their last place in 32 bits."""
    shares = SHARES.astype(np.float32)
    found = taylor.taylor_terms(linear, WEIGHTS, WEIGHTS + 1e-9 * STEP, INPUTS, LABEL, shares)
    plain = taylor.taylor_terms(linear, WEIGHTS, WEIGHTS + 1e-2 * STEP, INPUTS, LABEL, shares)
    np.testing.assert_allclose(1e7 * found.first, plain.first, rtol=1e-5)
    line = taylor.along_line(linear, WEIGHTS, WEIGHTS + 1e-9 * STEP, INPUTS, LABEL, shares)
    assert np.isinf(line.breaks()).all(), "of what is rounding no expansion breaks"


def test_the_bound_is_that_of_the_theorem() -> None:
    config = CurvatureConfig(tolerance=1e-3)
    found = taylor.taylor_terms(linear, WEIGHTS, WEIGHTS + STEP / 8, INPUTS, LABEL, SHARES, config)
    assert (found.first + found.second <= found.bound).all()
    without = taylor.taylor_terms(linear, WEIGHTS, WEIGHTS + STEP / 8, INPUTS, LABEL, SHARES)
    assert np.isnan(without.bound).all()
    np.testing.assert_array_equal(found.first, without.first)
    unsure = CurvatureConfig(max_steps=2)  # of which the residual counts: the eigenvalue may be as much larger
    seen = group_curvature(linear, WEIGHTS, INPUTS, LABEL, SHARES, unsure)
    top, far = seen.top_eigenvalue + seen.top_eigenvalue_residual, np.linalg.norm(STEP / 8)
    found = taylor.taylor_terms(linear, WEIGHTS, WEIGHTS + STEP / 8, INPUTS, LABEL, SHARES, unsure)
    np.testing.assert_allclose(found.bound, seen.gradient_norm * far + top * far**2 / 2, rtol=1e-5)


def test_agreement_is_that_of_the_definitions() -> None:
    rng = np.random.default_rng(0)
    actual = rng.normal(size=(4, 2, 3))
    foretold = actual + 0.3 * rng.normal(size=actual.shape)
    found = taylor.agreement(foretold, actual)
    assert (found.runs, found.items) == (4, 6)
    left = [((a - f) ** 2).sum() / ((a - a.mean()) ** 2).sum() for f, a in zip(foretold, actual, strict=True)]
    np.testing.assert_allclose(found.r2, 1 - np.prod(left) ** (1 / 4))
    rank = [float(np.asarray(spearmanr(f.ravel(), a.ravel()))[0]) for f, a in zip(foretold, actual, strict=True)]
    np.testing.assert_allclose(found.rank, np.mean(rank))
    assert found.r2_interval.low < found.r2 < found.r2_interval.high <= 1
    assert found.rank_interval.high <= 1
    exact = taylor.agreement(actual, actual)
    assert (exact.r2, exact.rank) == pytest.approx((1, 1))
    assert taylor.agreement(-actual, actual).r2 < 0
    assert np.isnan(taylor.agreement(np.concatenate([actual[:1], -actual[1:]]), actual).r2)  # no mean of these
    assert np.isnan(taylor.agreement(foretold[:1], actual[:1]).r2_interval.low)


def images(shape: tuple[int, int, int] = (4, 4, 1)):
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (N, *shape)).astype(np.uint8)
    names = [str(g) for g in range(GROUPS)]
    return make_dataset(pixels, LABEL, GROUP, name="noise", class_names=names, group_names=names)


def mean_losses(network: Network) -> np.ndarray:
    scores = np.asarray(jax.nn.log_softmax(predict(network, images())), float)
    return SHARES @ -scores[np.arange(N), LABEL]


def linearized(module) -> tuple[Network, Network]:
    """Return a network, and one with other masks, weights and batch statistics."""
    before = init(module, (4, 4, 1), seed=0)
    moved = jax.tree.map(lambda leaf: leaf * 1.05, before.params)
    statistics = jax.tree.map(lambda leaf: leaf + 0.1, before.batch_stats)
    masks = keep_random(before.masks, 8, jax.random.key(0))
    return before, before.replace(params=moved, masks=masks, batch_stats=statistics)


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(CNN(CLASSES, (2,)), id="cnn"),
        pytest.param(ResNet((1,), CLASSES, width=2), id="resnet", marks=pytest.mark.slow),
    ],
)
def test_the_joint_line_ends_at_the_changed_network(module) -> None:
    """And that in the weights alone ends elsewhere, unless masks and statistics stay."""
    before, after = linearized(module)
    found = taylor.network_lines(before, after, images(), [0.0, 0.5])
    np.testing.assert_allclose(found.rise, mean_losses(after) - mean_losses(before), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found.joint.fraction, [0.0, 0.5])
    weights_alone = taylor.network_lines(before, before.replace(params=after.params), images(), [1.0])
    np.testing.assert_allclose(weights_alone.weights.actual, weights_alone.joint.actual, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(weights_alone.weights.both, weights_alone.joint.both, rtol=1e-3, atol=1e-6)
    assert np.abs(found.rise - weights_alone.rise).max() > 1e-3


@pytest.mark.filterwarnings("error:.*statistics")
def test_statistics_on_the_joint_line_are_no_mistake() -> None:
    taylor.network_lines(*linearized(ResNet((1,), CLASSES, width=2)), images(), [1.0])


def test_no_line_leads_to_other_arithmetic() -> None:
    """Its products would be left out of what happened."""
    before, _ = linearized(CNN(CLASSES, (2,)))
    with pytest.raises(JaxfairError, match="of different modules, by their sizes or their arithmetic"):
        taylor.network_lines(before, before.replace(module=CNN(CLASSES, (2,), arithmetic="bf16")), images())


def test_free_masks_foretell_what_theorem_4_4_leaves_out() -> None:
    """With the weights as they were its terms are 0; in the masks of one layer of gates the loss is smooth."""
    before, after = linearized(CNN(CLASSES, (2,)))
    after = after.replace(params=before.params, batch_stats=before.batch_stats)
    found = taylor.network_lines(before, after, images(), [1 / 32, 1 / 16])
    assert not found.weights.both.any()
    assert not found.weights.actual.any()
    assert np.abs(found.joint.first).min() > 1e-4
    with jax.enable_x64(True):
        start, end = jax.tree.map(
            lambda leaf: np.asarray(leaf, float), [(one.params, one.masks) for one in (before, after)]
        )
        x = np.asarray(images().normalize(images().images), float)
        line = taylor.along_line(frozen(before, masks="free"), start, end, x, LABEL, SHARES, [1 / 32, 1 / 16])
        missed = line.actual - line.both
    np.testing.assert_allclose(missed[1] / missed[0], 8, rtol=0.2)


def test_masks_and_statistics_are_arguments_of_the_same_function() -> None:
    _, network = linearized(ResNet((1,), CLASSES, width=2))
    other, x = init(ResNet((1,), CLASSES, width=2), (4, 4, 1), seed=1), images().normalize(images().images)
    function, point = frozen(other, masks="free"), (network.params, network.masks, network.batch_stats)
    np.testing.assert_allclose(function(point, x), frozen(network)(network.params, x), rtol=1e-6)
    kept = frozen(other.replace(masks=network.masks))(network.params, x)
    np.testing.assert_allclose(function(point[:2], x), kept, rtol=1e-6)


def test_what_does_not_fit_is_refused() -> None:
    given = INPUTS, LABEL, SHARES
    one, other = {"head": {"kernel": WEIGHTS}}, {"head": {"kernel": WEIGHTS, "bias": np.zeros(3)}}
    with pytest.raises(JaxfairError, match=r"'head/bias' is absent before and of shape \(3,\) after"):
        taylor.taylor_terms(linear, one, other, *given)
    for fractions in ([0.5, 0.2], [-1.0, 1.0], [0.0, 2.0], []):
        with pytest.raises(JaxfairError, match="ascending numbers from 0 to 1"):
            taylor.along_line(linear, WEIGHTS, WEIGHTS, *given, fractions)
    for measure in (taylor.taylor_terms, taylor.along_line):
        with pytest.raises(JaxfairError, match="parameter before or after the change is not a finite number"):
            measure(linear, WEIGHTS, WEIGHTS * np.nan, *given)
    with pytest.raises(JaxfairError, match="finite numbers in one shape"):
        taylor.agreement(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(JaxfairError, match="at least two"):
        taylor.agreement(np.ones((2, 1)), np.ones((2, 1)))
    with pytest.raises(JaxfairError, match="give 'fixed' or 'free'"):
        frozen(init(CNN(3, (2,)), (4, 4, 1), seed=0), masks="loose")  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("runs", [3, 5, 10])
def test_the_interval_of_r2_covers(runs: int, noise: float) -> None:
    rng, hits, times = np.random.default_rng(0), 0, 2000
    base = rng.normal(size=5)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        seen = base + 0.5 * rng.normal(size=(count, 5))
        return 0.8 * seen + noise * rng.normal(size=(count, 5)), seen

    told, seen = draw(200_000)
    spread = ((seen - seen.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    truth = 1 - np.exp(np.mean(np.log(((seen - told) ** 2).sum(axis=1) / spread)))
    for _ in range(times):
        low, high = taylor.agreement(*draw(runs)).r2_interval
        hits += bool(low <= truth <= high)
    print(f"R2, {runs} runs, noise {noise}: {100 * hits / times:.1f} %")
    assert 0.93 <= hits / times <= 0.97
