"""Objectives against derivatives by hand and NumPy, and multipliers and adversary step by step."""

from functools import partial
from itertools import pairwise
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxfair import losses
from jaxfair.errors import JaxfairError
from jaxfair.training import mitigate
from jaxfair.training.config import Distance, Method, MitigationConfig
from jaxfair.training.mitigate import Adversary, State
from tests.examples import CLASSES, FEATURES, INPUTS, LABEL, WEIGHTS, N, linear

ALIGNMENTS = [MitigationConfig("alignment", weight=2.0, distance=distance) for distance in get_args(Distance)]
GROUPS = 4
GROUP = np.repeat([0, 1, 3], [6, 4, 2])  # nobody of group 2
GAMMA = np.array([0.3, 2.0, 5.0, 0.7])
RNG = np.random.default_rng(5)
LOSS = RNG.exponential(size=N)
LOGITS = linear(WEIGHTS, INPUTS)


def state_of(config: MitigationConfig) -> State:
    """Return a state in mid-training: multipliers and the adversary's weights are not 0."""
    state = mitigate.init(config, num_groups=GROUPS, num_classes=CLASSES, input_shape=(FEATURES,))
    if state.multipliers is not None and config.method != "alignment":
        state = state._replace(multipliers=jnp.asarray(GAMMA, state.multipliers.dtype))
    rng = np.random.default_rng(6)
    adversary = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), state.adversary)
    return state._replace(adversary=adversary)


def objective(
    config: MitigationConfig, state: State, loss: Any, group: Any = GROUP, logits: Any = LOGITS
) -> tuple[jax.Array, State]:
    loss, logits = jnp.asarray(loss), jnp.asarray(logits)
    inputs = map(jnp.asarray, (group, LABEL, INPUTS))
    return mitigate.objective(config, state, loss, *inputs, logits=logits.astype(loss.dtype))


def of_params(config: MitigationConfig, state: State, params: Any) -> tuple[jax.Array, State]:
    logits = linear(params, jnp.asarray(INPUTS))
    return objective(config, state, losses.cross_entropy(logits, jnp.asarray(LABEL)), logits=logits)


@pytest.mark.usefixtures("float64")
def test_the_lagrangian_by_hand() -> None:
    """Value, gradient with respect to each loss, and the violations; the absent group counts nowhere."""
    config = MitigationConfig("lagrangian")
    state = state_of(config)._replace(violation=jnp.arange(4.0))
    (value, after), gradient = jax.value_and_grad(partial(objective, config, state), has_aux=True)(jnp.asarray(LOSS))
    expected, expected_gradient, violation = LOSS.mean(), np.full(N, 1 / N), np.arange(4.0)
    for a in (0, 1, 3):
        member = np.equal(GROUP, a)
        difference = LOSS[member].mean() - LOSS.mean()
        expected += GAMMA[a] * abs(difference)
        expected_gradient += GAMMA[a] * np.sign(difference) * (member / member.sum() - 1 / N)
        violation[a] += abs(difference)
    np.testing.assert_allclose(value, expected, rtol=1e-14)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=1e-15)
    np.testing.assert_allclose(after.violation, violation, rtol=1e-14)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "config", [*(MitigationConfig(method, level=0.3) for method in ("lagrangian", "cvar", "arl")), *ALIGNMENTS]
)
def test_gradients_against_finite_differences(config: MitigationConfig) -> None:
    """Of the parameters that losses and distances depend on; level 0.3 of 12 losses is not whole."""
    value = partial(of_params, config, state_of(config))
    check_grads(lambda params: value(params)[0], (jnp.asarray(WEIGHTS),), order=1, modes=["rev"], rtol=1e-6, atol=1e-6)


def test_detached_is_the_lagrangian_in_value_and_plain_training_in_gradient() -> None:
    """To the last bit; the code published with the paper weakens the distillation besides."""
    found = {}
    for method in ("none", "lagrangian", "lagrangian-detached"):
        config = MitigationConfig(method)
        differentiated = jax.value_and_grad(partial(of_params, config, state_of(config)), has_aux=True)
        found[method] = differentiated(jnp.asarray(WEIGHTS, jnp.float32))
    ((plain, _), plain_gradient), (value_and_state, gradient), (detached, detached_gradient) = found.values()
    jax.tree.map(np.testing.assert_array_equal, detached, value_and_state)
    np.testing.assert_array_equal(detached_gradient, plain_gradient)
    assert value_and_state[0] > plain + 0.1
    assert np.abs(gradient - plain_gradient).max() > 0.01


def test_the_published_one_averages_the_distillation_over_classes_too() -> None:
    """It is the detached one for the rest, whose distillation weighs as much as without mitigation."""
    found = {}
    for method in ("lagrangian-detached", "lagrangian-published"):
        config = MitigationConfig(method)
        found[method] = of_params(config, state_of(config), jnp.asarray(WEIGHTS, jnp.float32))
    jax.tree.map(np.testing.assert_array_equal, *found.values())
    shares = {m: mitigate.distillation_share(MitigationConfig(m), 10) for m in ("none", "lagrangian", *found)}
    assert shares == {"none": 1, "lagrangian": 1, "lagrangian-detached": 1, "lagrangian-published": 0.1}


@pytest.mark.parametrize("group", [0, 2])
@pytest.mark.parametrize("config", [MitigationConfig("lagrangian"), *ALIGNMENTS])
def test_a_batch_of_one_group_is_plain_training(group: int, config: MitigationConfig) -> None:
    """There is no gap to the batch itself; neither value nor gradient may become NaN by the three absent groups."""

    def value(loss: jax.Array, logits: jax.Array) -> tuple[jax.Array, State]:
        return objective(config, state_of(config), loss, np.full(N, group), logits)

    at = jnp.asarray(LOSS, jnp.float32), jnp.asarray(LOGITS, jnp.float32)
    (found, after), gradient = jax.value_and_grad(value, argnums=(0, 1), has_aux=True)(*at)
    np.testing.assert_allclose([found, *gradient[0]], [LOSS.mean(), *np.full(N, 1 / N)], rtol=1e-6)
    np.testing.assert_allclose(gradient[1], 0, atol=1e-7)
    np.testing.assert_allclose(0 if after.violation is None else after.violation, 0, atol=1e-6)


THREE = ([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], [0, 0, 3])
EQUAL = ([[0.7, 0.2, 0.1], [0.2, 0.1, 0.7], [0.1, 0.7, 0.2]], [0, 0, 3])


@pytest.mark.parametrize(
    ("distance", "scores", "group", "gaps"),
    [
        ("softmax-gap", [[0.9, 0.1], [0.4, 0.6]], [1, 2], [0, 0.3, 0.3, 0]),  # distances 0.8 and 0.2
        ("impurity", [[0.9, 0.1], [0.4, 0.6]], [1, 2], [0, 0.15, 0.15, 0]),  # 2 h (1 - h) is 0.18 and 0.48
        ("softmax-gap", *THREE, [0.35 / 3, 0, 0, 0.7 / 3]),  # means 0.35 and 0.7, of all 1.4 / 3
        ("impurity", *THREE, [0.2 / 3, 0, 0, 0.4 / 3]),  # means 0.54 and 0.34, of all 1.42 / 3
        ("softmax-gap", *EQUAL, [0, 0, 0, 0]),
        ("impurity", *EQUAL, [0, 0, 0, 0]),
    ],
)
def test_alignment_by_hand(distance: Distance, scores: list, group: list[int], gaps: list[float]) -> None:
    """Whatever the logits' shift and the batch's order; two groups are absent, and the state stays as it is."""
    config = MitigationConfig("alignment", weight=0.7, distance=distance)
    state, loss, order = state_of(config), jnp.arange(1.0, 1 + len(group)), np.array([*range(1, len(group)), 0])
    logits, of_group, label = jnp.log(jnp.array(scores)) + 5, jnp.array(group), jnp.zeros(len(group), int)
    found = mitigate.group_gaps(mitigate.boundary_distance(logits, distance), of_group, GROUPS)
    np.testing.assert_allclose(found, gaps, atol=1e-6)
    for at in (order, np.sort(order)):
        value, after = mitigate.objective(config, state, loss[at], of_group[at], label, logits, logits=logits[at])
        assert value == pytest.approx(loss.mean().item() + 0.7 * sum(gaps), rel=1e-6)
        jax.tree.map(np.testing.assert_array_equal, mitigate.end_epoch(config, after), state)


@pytest.mark.parametrize("config", ALIGNMENTS)
def test_tied_and_huge_logits_have_finite_gradients(config: MitigationConfig) -> None:
    """On the boundary itself, and where the soft scores are 0 and 1; the groups' gaps are not 0."""
    logits = jnp.concatenate([jnp.zeros((3, 3)), jnp.eye(3) * 1e30, jnp.array([[2.0, 2, 0]] * 5), jnp.ones((1, 3))])

    def value(logits: jax.Array) -> jax.Array:
        return objective(config, state_of(config), jnp.asarray(LOSS, jnp.float32), logits=logits)[0]

    assert value(logits) > LOSS.mean() + 0.1
    assert np.isfinite(jax.grad(value)(logits)).all()


def test_without_weight_alignment_is_plain_training_to_the_bit() -> None:
    """And without logits it says what it needs."""
    plain, aligned = MitigationConfig(), MitigationConfig("alignment", weight=0.0)
    found = []
    for config in (plain, aligned):
        differentiated = jax.value_and_grad(partial(of_params, config, state_of(config)), has_aux=True)
        (value, _), gradient = differentiated(jnp.asarray(WEIGHTS, jnp.float32))
        found.append(np.append(gradient, value))
    np.testing.assert_array_equal(*found)
    with pytest.raises(JaxfairError, match="pass logits="):
        mitigate.objective(aligned, state_of(aligned), *map(jnp.asarray, (LOSS, GROUP, LABEL, INPUTS)))


def test_multipliers_over_two_epochs_by_hand() -> None:
    """Gaps 1 and 3, then 2 and 2, of two groups of equal size: gamma counts both batches of an epoch."""
    config = MitigationConfig("lagrangian", rate=0.1)
    state = mitigate.init(config, num_groups=2, num_classes=CLASSES, input_shape=(FEATURES,))
    halves = np.arange(N) % 2
    values = []
    for epoch in ((1, 3), (2, 2)):
        for gap in epoch:
            value, state = objective(config, state, 10.0 + gap * (2.0 * halves - 1), halves)
            values.append(value)
        state = mitigate.end_epoch(config, state)
        np.testing.assert_array_equal(np.asarray(state.violation), [0, 0])
    np.testing.assert_allclose(values, [10, 10, 10 + 2 * 0.4 * 2, 10 + 2 * 0.4 * 2], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(state.multipliers), [0.8, 0.8], rtol=1e-6)


batches = st.lists(st.floats(0, 100), min_size=1, max_size=40)
levels = st.one_of(st.floats(0.01, 1), st.sampled_from([0.1, 0.25, 0.5, 1.0]))


@given(batches, levels)
def test_cvar_against_a_sort_and_the_variational_formula(values: list[float], level: float) -> None:
    """The formula's minimum is at one of the losses; the gradient is the worst distribution of density 1 / level."""
    loss = np.array(values)
    share = level * len(loss)
    by_sort = np.sort(loss)[::-1] @ np.diff(np.minimum(np.arange(len(loss) + 1), share)) / share
    variational = min(eta + np.maximum(loss - eta, 0).mean() / level for eta in loss)
    with jax.enable_x64(True):
        found = mitigate.cvar(jnp.asarray(loss), level)
        gradient = np.asarray(jax.grad(mitigate.cvar)(jnp.asarray(loss), level))
    np.testing.assert_allclose([found] * 2, [by_sort, variational], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(np.sum(gradient), 1, rtol=1e-12)
    np.testing.assert_allclose(gradient @ loss, by_sort, rtol=1e-12, atol=1e-12)
    assert gradient.min() >= 0
    assert gradient.max() <= (1 + 1e-12) / max(share, 1)


def sigmoids(adversary: Adversary) -> np.ndarray:
    return 1 / (1 + np.exp(-(INPUTS @ np.asarray(adversary.features) + np.asarray(adversary.label)[LABEL])))


@pytest.mark.parametrize("intercept", [-1e4, 1e4])
def test_a_sure_adversary_gives_finite_weights(intercept: float) -> None:
    """All sigmoids underflow to 0, or all are 1."""
    adversary = Adversary(jnp.zeros(FEATURES), jnp.full(CLASSES, intercept))
    weight = partial(mitigate.adversary_weights, inputs=jnp.asarray(INPUTS, jnp.float32), label=jnp.asarray(LABEL))
    np.testing.assert_allclose(weight(adversary), 2, rtol=1e-6)
    gradient = jax.grad(lambda a: jnp.sum(weight(a) * jnp.asarray(LOSS, jnp.float32)))(adversary)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.usefixtures("float64")
def test_the_adversary_climbs() -> None:
    """Its first step is Adagrad's along the gradient by hand, and raises the weighted loss by their product."""
    config = MitigationConfig("arl", adversary_rate=1e-4)
    state = state_of(config)
    value, after = objective(config, state, LOSS)
    assert state.adversary is not None
    sigmoid = sigmoids(state.adversary)
    p = sigmoid / sigmoid.sum()
    of_output = p * (1 - sigmoid) * (LOSS - p @ LOSS)
    gradient = Adversary(jnp.asarray(INPUTS.T @ of_output), jax.nn.one_hot(LABEL, CLASSES).T @ of_output)
    expected = jax.tree.map(lambda w, g: w + 1e-4 * g / jnp.sqrt(0.1 + g**2 + 1e-7), state.adversary, gradient)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), after.adversary, expected)
    for squares, g in zip(jax.tree.leaves(after.adversary_opt), gradient, strict=True):
        np.testing.assert_allclose(squares, 0.1 + g**2, rtol=1e-12)
    first_order = sum(np.sum(g * (new - old)) for g, new, old in zip(gradient, expected, state.adversary, strict=True))
    assert first_order > 0
    np.testing.assert_allclose(2 * (objective(config, after, LOSS)[0] - value), first_order, rtol=1e-3)


@pytest.mark.usefixtures("float64")
def test_the_learner_takes_the_adversarys_weights_as_constants() -> None:
    """The gradient of each loss is half its weight, of mean 2, by b; none reaches the weights through the inputs."""
    config = MitigationConfig("arl")
    state, label, inputs = state_of(config), jnp.asarray(LABEL), jnp.asarray(INPUTS)
    assert state.adversary is not None
    weight = 1 + N * sigmoids(state.adversary) / sigmoids(state.adversary).sum()

    def value(loss: Any, inputs: Any) -> jax.Array:
        return mitigate.objective(config, state, loss, jnp.asarray(GROUP), label, inputs)[0]

    found, (of_loss, of_inputs) = jax.value_and_grad(value, argnums=(0, 1))(jnp.asarray(LOSS), inputs)
    np.testing.assert_allclose(found, (weight * LOSS).mean() / 2, rtol=1e-13)
    np.testing.assert_allclose(mitigate.adversary_weights(state.adversary, inputs, label), weight, rtol=1e-13)
    np.testing.assert_allclose(of_loss, weight / (2 * N), rtol=1e-13)
    np.testing.assert_allclose(of_loss.sum(), 1, rtol=1e-13)
    np.testing.assert_array_equal(of_inputs, 0)


@pytest.mark.parametrize(("side", "parts"), [(32, [4] * 8), (4, [1] * 4), (12, [2, 1] * 4), (28, [4, 3] * 4)])
def test_the_adversary_sees_averages_of_parts_of_an_image(side: int, parts: list[int]) -> None:
    images = np.random.default_rng(0).normal(size=(2, side, side, 3))
    edges = np.cumsum([0, *parts])
    by_rows = np.stack([images[:, a:b].mean(axis=1) for a, b in pairwise(edges)], axis=1)
    expected = np.stack([by_rows[:, :, a:b].mean(axis=2) for a, b in pairwise(edges)], axis=2)
    found = mitigate.adversary_features(jnp.asarray(images, jnp.float32))
    np.testing.assert_allclose(found, np.reshape(expected, (2, -1)), atol=1e-6)


@pytest.mark.parametrize("method", get_args(Method))
@pytest.mark.usefixtures("float64")
def test_a_float32_network_stays_so_where_float64_is_on(method: Method) -> None:
    state = state_of(MitigationConfig(method))
    value, after = objective(MitigationConfig(method), state, jnp.asarray(LOSS, jnp.float32))
    assert value.dtype == jnp.float32
    for new, old in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
        assert new.dtype == old.dtype  # a scan's carry keeps its types


@pytest.mark.parametrize(
    ("options", "num_groups", "part"),
    [
        ({"method": "lagrange"}, 2, "did you mean 'lagrangian'?"),
        ({"rate": -1.0}, 2, "rate -1.0"),
        ({"level": 0.0}, 2, "level is 0.0"),
        ({"adversary_rate": float("nan")}, 2, "learning rate nan"),
        ({"weight": -0.1}, 2, "weight -0.1;"),
        ({"distance": "softmax_gap"}, 2, "did you mean 'softmax-gap'?"),
        ({"method": "lagrangian"}, 1, "has 1; "),
        ({"method": "alignment"}, 1, "has 1; "),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_impossible_configurations(options: dict[str, Any], num_groups: int, part: str) -> None:
    with pytest.raises(JaxfairError) as error:
        mitigate.check_config(MitigationConfig(**options), num_groups)
    assert part in str(error.value)
