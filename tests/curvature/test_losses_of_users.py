"""A user's own per-example loss, per-example gradients, and the naming of what is not finite."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxfair
from jaxfair import losses, sensitivity
from jaxfair.bounds import binary_hessian_bound
from jaxfair.curvature.config import CurvatureConfig
from jaxfair.curvature.operators import GIGABYTE, GroupOperator, as_pytree, make_plan, per_example_gradient_norms
from jaxfair.curvature.spectrum import group_curvature
from jaxfair.errors import JaxfairError

N, FEATURES, OUTPUTS = 11, 4, 3
RNG = np.random.default_rng(0)
INPUTS, TARGETS = RNG.normal(size=(N, FEATURES)), RNG.normal(size=(N, OUTPUTS))
PARAMS = {"hidden": RNG.normal(size=(FEATURES, FEATURES)), "out": RNG.normal(size=(FEATURES, OUTPUTS))}
GROUP = np.arange(N) % 2
WEIGHTS = (np.arange(2)[:, None] == GROUP) / np.bincount(GROUP)[:, None]


def network(params: Any, x: Any) -> jax.Array:
    return jnp.tanh(x @ params["hidden"]) @ params["out"]


def linear(params: Any, x: Any) -> jax.Array:
    return x @ params


def squared(outputs: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.sum((outputs - y) ** 2, axis=-1)


def as_given(outputs: jax.Array, y: jax.Array) -> jax.Array:
    return outputs


@pytest.mark.usefixtures("float64")
def test_squared_error_against_its_closed_form() -> None:
    """Of a linear model: the Hessian of the mean is ``2 X^T X / n`` for every output, and so is Gauss-Newton's."""
    params = jnp.asarray(PARAMS["out"])
    found = group_curvature(linear, params, INPUTS, TARGETS, WEIGHTS, CurvatureConfig(tolerance=1e-12), loss=squared)
    for g, weight in enumerate(WEIGHTS):
        second = 2 * INPUTS.T @ (weight[:, None] * INPUTS)
        residual = INPUTS @ PARAMS["out"] - TARGETS
        assert found.top_eigenvalue[g] == pytest.approx(np.linalg.eigvalsh(second)[-1], rel=1e-10)
        assert found.loss[g] == pytest.approx(weight @ (residual**2).sum(axis=1), rel=1e-12)
        gradient = 2 * INPUTS.T @ (weight[:, None] * residual)
        assert found.gradient_norm[g] == pytest.approx(np.linalg.norm(gradient), rel=1e-12)
        for kind in ("hessian", "gauss_newton"):
            plan = make_plan(
                as_pytree(linear), params, INPUTS, TARGETS, kind=kind, count=6, chunk_size=4, memory=0, loss=squared
            )
            operator = GroupOperator(linear, params, INPUTS, TARGETS, weight, plan, kind=kind, loss=squared)
            product = np.asarray(operator(np.arange(12.0))).reshape(FEATURES, OUTPUTS)
            np.testing.assert_allclose(product, second @ np.arange(12.0).reshape(FEATURES, OUTPUTS), rtol=1e-10)


@pytest.mark.usefixtures("float64")
def test_a_loss_that_is_no_function_of_outputs() -> None:
    """``logits_fn`` computes it from inputs and labels; the Hessian is that of the plain way."""

    def whole(params: Any, both: Any) -> jax.Array:
        return squared(network(params, both[0]), both[1])

    params = jax.tree.map(jnp.asarray, PARAMS)
    config = CurvatureConfig(tolerance=1e-10, bottom=True)
    plain = group_curvature(network, params, INPUTS, TARGETS, WEIGHTS, config, loss=squared)
    other = group_curvature(whole, params, (INPUTS, TARGETS), np.zeros(N), WEIGHTS, config, loss=as_given)
    for name in ("loss", "gradient_norm", "top_eigenvalue", "bottom_eigenvalue"):
        np.testing.assert_allclose(getattr(other, name), getattr(plain, name), rtol=1e-8, err_msg=name)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("chunk_size", [None, 1, 3, 11, 50])
def test_per_example_gradient_norms(chunk_size: int | None) -> None:
    """Against one gradient after another."""
    params, label = jax.tree.map(jnp.asarray, PARAMS), np.arange(N) % OUTPUTS

    def loss(params: Any, i: int) -> jax.Array:
        return -jax.nn.log_softmax(network(params, INPUTS[i]))[label[i]]

    gradients = [jax.grad(loss)(params, i) for i in range(N)]
    expected = [np.sqrt(sum((np.asarray(leaf) ** 2).sum() for leaf in jax.tree.leaves(g))) for g in gradients]
    found = per_example_gradient_norms(network, params, INPUTS, label, chunk_size=chunk_size)
    assert found.shape == (N,)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e22, 1e30])
def test_per_example_norms_of_losses_whose_squares_float32_cannot_hold(scale: float) -> None:
    params, label = jax.tree.map(jnp.float32, PARAMS), np.arange(N) % OUTPUTS

    def scaled(logits: jax.Array, y: jax.Array) -> jax.Array:
        return scale * losses.cross_entropy(logits, y)

    x = INPUTS.astype(np.float32)
    expected = per_example_gradient_norms(network, params, x, label)
    found = per_example_gradient_norms(network, params, x, label, loss=scaled)
    np.testing.assert_allclose(found / scale, expected, rtol=1e-5)


def test_what_is_not_finite_is_named_by_group_and_chunk() -> None:
    """Group 1 has the odd examples 1, 3, 5, 7, 9 in chunks of two: the seventh is in its second chunk."""
    params, x = jax.tree.map(jnp.float32, PARAMS), INPUTS.astype(np.float32).copy()
    x[7] = np.inf  # tanh is finite there, its derivative times infinity is not
    with pytest.raises(JaxfairError, match=r"group 1 is not finite in chunk 2 of 3 \(among examples 5 to 7\)"):
        group_curvature(network, params, x, np.arange(N) % OUTPUTS, WEIGHTS, CurvatureConfig(chunk_size=2))


def test_the_report_takes_a_loss() -> None:
    """Margin loss of a user: the report's loss is its mean, and accuracy stays what it is."""

    def smooth(logits: jax.Array, y: jax.Array) -> jax.Array:
        return 2 * jaxfair.losses.cross_entropy(logits, y)

    params, label = jax.tree.map(jnp.float32, PARAMS), np.arange(N) % OUTPUTS
    x = INPUTS.astype(np.float32)
    once = jaxfair.group_report(network, params, x, label, GROUP)
    config = CurvatureConfig(tolerance=1e-2, memory=GIGABYTE)
    twice = jaxfair.group_report(network, params, x, label, GROUP, config, loss=smooth)
    for name, factor in {"loss": 2, "gradient_norm": 2, "top_eigenvalue": 2, "accuracy": 1}.items():
        doubled, plain = twice.columns()[name], once.columns()[name]
        np.testing.assert_allclose(doubled, factor * plain, rtol=1e-5, err_msg=name)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": "zero"}, "start is 'zero'; give "),
        ({"stop": "no"}, "stop is 'no'; give "),
        ({"precision": "tf32"}, "There is no precision 'tf32'; give "),
        ({"tolerance": -1e-3}, "The tolerance is -0.001; give "),
        ({"tolerance": float("nan")}, "The tolerance is nan; give "),
    ],
)
def test_a_configuration_that_means_nothing_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(JaxfairError, match=words):
        CurvatureConfig(**options)


def by_class_weights_of_the_batch(outputs: jax.Array, y: jax.Array) -> jax.Array:
    weight = jnp.asarray([1.0, 10.0, 1.0])[y]
    return losses.cross_entropy(outputs, y) * weight / weight.mean()


def squared_of_columns(outputs: jax.Array, y: jax.Array) -> jax.Array:
    return ((outputs - y) ** 2).mean(-1)  # (n, 1) against (n,): every example with every label


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_loss_of_the_batch_is_seen_at_every_scale(scale: float) -> None:
    """Also where a class is switched off by a huge logit, against which nothing else is large."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 4)).astype(np.float32), rng.integers(0, 2, 40)
    weights = np.full((1, 40), 1 / 40, np.float32)
    params, said = rng.normal(size=(4, 3)).astype(np.float32), "depends on which others it is computed with"

    def masked(params: Any, x: Any) -> jax.Array:
        return jnp.where(jnp.array([True, True, False]), x @ params, -1e9)

    with pytest.raises(JaxfairError, match=said):
        group_curvature(masked, params, x, y, weights, loss=by_class_weights_of_the_batch)
    group_curvature(masked, params, x, y, weights, loss=lambda o, y: 2 * losses.cross_entropy(o, y))
    wanted = (scale * rng.normal(size=40)).astype(np.float32)
    with pytest.raises(JaxfairError, match=said):
        group_curvature(linear, scale * params[:, :1], x, wanted, weights, loss=squared_of_columns)
    group_curvature(linear, scale * params[:, :1], x, wanted, weights, loss=lambda o, y: (o[:, 0] - y) ** 2)


def test_a_loss_that_fails_is_one_sentence() -> None:
    x, weights = np.ones((4, 4), np.float32), np.full((1, 4), 0.25, np.float32)
    one: Any = lambda outputs: outputs  # noqa: E731
    with pytest.raises(JaxfairError, match=r"The loss\(logits, y\) fails \(.*\); give one that takes the outputs"):
        group_curvature(linear, np.ones((4, 3), np.float32), x, np.ones(4), weights, loss=one)


LABEL = np.arange(N) % OUTPUTS
X, OUT = INPUTS.astype(np.float32), PARAMS["out"].astype(np.float32)


@pytest.mark.parametrize("kind", [jnp.float16, jnp.bfloat16])
def test_logits_of_half_precision_have_the_losses_that_they_say(kind: Any) -> None:
    """Logits 9 and 0, whose loss half precision rounds to 0."""
    x, y, params = np.eye(2, dtype=np.float32)[GROUP], GROUP, 9 * np.eye(2, dtype=np.float32)

    def half(params: Any, x: Any) -> jax.Array:
        return linear(params, x).astype(kind)

    loss = jaxfair.group_report(linear, params, x, y, GROUP).loss
    np.testing.assert_allclose(group_curvature(half, params, x, y, WEIGHTS).loss, loss, rtol=1e-5)
    if kind is jnp.float16:  # the report refuses a Hessian as coarse as the other's
        np.testing.assert_allclose(jaxfair.group_report(half, params, x, y, GROUP).loss, loss, rtol=1e-5)
    line = sensitivity.losses_on_segment(half, params, 2 * params, x, y, WEIGHTS, np.zeros(1))
    np.testing.assert_allclose(line[0], loss, rtol=1e-5)
    norms = [per_example_gradient_norms(f, params, x, y) for f in (half, linear)]
    np.testing.assert_allclose(*norms, rtol=1e-2)


@pytest.mark.parametrize("kind", [jnp.float16, jnp.bfloat16])
def test_last_places_of_half_precision_are_no_mixing_and_batch_norm_is(kind: Any) -> None:
    """Also beside a column that is 0 for all."""

    def rounded(params: Any, x: Any) -> jax.Array:
        first = (jnp.arange(len(x)) < 3)[:, None]
        return (linear(params, x) * jnp.where(first, 1 + jnp.finfo(kind).eps, 1)).astype(kind)

    def mixing(params: Any, x: Any) -> jax.Array:
        logits = linear(params, x)
        return ((logits - logits.mean(0)) / logits.std(0) * jnp.array([1, 1, 0])).astype(kind)

    assert np.isfinite(jaxfair.group_report(rounded, OUT, X, LABEL, GROUP).loss).all()
    with pytest.raises(JaxfairError, match="put batch norm and dropout into evaluation mode"):
        jaxfair.group_report(mixing, OUT, X, LABEL, GROUP)


def of_rows(outputs: jax.Array, y: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy(outputs, jax.nn.one_hot(y, OUTPUTS))


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (LABEL + 1, "3 of 11 labels are 3 or more beside 3 outputs"),
        (np.where(np.arange(N) == 5, 255, LABEL), "1 of 11 labels are 3 or more beside 3 outputs"),
    ],
)
def test_labels_that_no_output_is_for_are_said(label: np.ndarray, said: str) -> None:
    with pytest.warns(UserWarning, match=said):
        per_example_gradient_norms(linear, OUT, X, label, loss=of_rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        per_example_gradient_norms(linear, OUT, X, LABEL, loss=of_rows)


def test_running_statistics_and_views_of_one_array_are_said() -> None:
    """Of NNX, where no name says it, and of a framework's tied weights that came as NumPy's arrays."""
    definition, params = nnx.split(nnx.BatchNorm(FEATURES, use_running_average=True, rngs=nnx.Rngs(0)))
    with pytest.warns(UserWarning, match=r"hold batch statistics \(mean, var\)"):
        per_example_gradient_norms(lambda p, x: nnx.merge(definition, p)(x), params, X, LABEL)
    mean, var = np.zeros(OUTPUTS, np.float32), np.ones(OUTPUTS, np.float32)
    for norm in (
        {"scale": var, "bias": mean, "mean": mean + 1, "var": var + 1},  # of Flax, whose two collections were joined
        {"batch_norm/~/mean_ema": {"average": mean}, "batch_norm/~/var_ema": {"average": var}},  # of Haiku
        {"RunningMean": mean, "RunningVar": var},
    ):
        with pytest.warns(UserWarning, match="hold batch statistics"):
            per_example_gradient_norms(
                lambda p, x: x @ p["w"] * sum(jnp.cos(leaf) for leaf in jax.tree.leaves(p["norm"])),
                {"w": OUT, "norm": norm}, X, LABEL,
            )  # fmt: skip
    square = PARAMS["hidden"].astype(np.float32)
    for other in (square[:], square.T):
        with pytest.warns(UserWarning, match="'a' and 'b' are one array"):
            per_example_gradient_norms(lambda p, x: x @ p["a"] @ p["b"], {"a": square, "b": other}, X, LABEL)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        halves = {"a": square[:2], "b": square[2:]}  # of one memory, and not the same
        per_example_gradient_norms(lambda p, x: x @ jnp.vstack([p["a"], p["b"]]), halves, X, LABEL)


@pytest.mark.parametrize(
    ("model", "loss", "said"),
    [
        (linear, lambda z, y: (squared(z, y), 0), r"The loss returned a tuple for \d+ examples; expected one number"),
        (linear, lambda z, y: {"loss": squared(z, y)}, "The loss returned a dict for"),
        (lambda p, x: linear(p, x).astype(int), squared, "numbers of type int32; return floating-point logits"),
        (lambda p, x: linear(p, x) > 0, squared, "numbers of type bool; return floating-point logits"),
        (lambda p, x: {"a": linear(p, x) > 0}, lambda z, y: z["a"][:, 0] * 1.0, "numbers of type bool; return"),
        (lambda p, x: x.reshape(1, -1) @ p, squared, r"logits_fn\(params, x\) fails .* and a batch of inputs"),
        (lambda p, x: x.reshape(1, -1) @ p, None, r"logits_fn\(params, x\) fails .* and a batch of inputs"),
        (lambda p, x: x[:1] @ p, None, r"logits_fn returned shape \(1, 3\) for 8 examples"),
        (
            lambda p, x: jax.scipy.special.gammainc(jnp.exp(linear(p, x)), jnp.ones((len(x), OUTPUTS))),
            None,
            r"JAX lacks a derivative that the model needs \(.*igamma_grad_a.*\); give functions",
        ),
    ],
)
def test_models_and_losses_that_have_no_curvature_are_one_sentence(model: Any, loss: Any, said: str) -> None:
    y, options = (LABEL, {}) if loss is None else (TARGETS.astype(np.float32), {"loss": loss})
    for call in (
        lambda: group_curvature(model, OUT, X, y, WEIGHTS, **options),
        lambda: GroupOperator(model, OUT, X, y, WEIGHTS[0], **options).loss_and_gradient(),
        lambda: jaxfair.group_report(model, OUT, X, y, GROUP, **options),
    ):
        with pytest.raises(JaxfairError, match=said):
            call()


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("y", [2 * GROUP - 1, np.ones(N, int), -np.ones(N, int)], ids=["both", "ones", "minus ones"])
def test_one_logit_with_labels_of_signs_has_an_accuracy(y: np.ndarray, power: int) -> None:
    """By a hinge and by squares, whose boundary between -1 and 1 is 0; of one class as of both."""

    def apart(outputs: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.maximum(1 - y * outputs[:, 0], 0 if power == 1 else -jnp.inf) ** power

    weights = 4 * OUT[:, :1]  # some logits are beyond 2, where squares are nearer to a label of 0 than of 1
    found = jaxfair.group_report(linear, weights, X, y, LABEL, loss=apart)
    right = ((X @ weights)[:, 0] > 0) == (y == 1)
    np.testing.assert_allclose(found.accuracy, [right[g == LABEL].mean() for g in range(OUTPUTS)])
    assert (found.softmax_gap > 0).all()


def both(params: Any, x: Any) -> Any:
    """Compute a tree: logits, their classes, and the parameters, which are of no example."""
    return {"logits": linear(params, x), "said": linear(params, x).argmax(1), "params": params, "norm": params.sum()}


@pytest.mark.parametrize(
    "loss",
    [
        lambda o, y: losses.cross_entropy(o["logits"], y) / len(y),
        lambda o, y: losses.cross_entropy(o["logits"] - o["logits"].mean(0), y),
        lambda o, y: losses.cross_entropy(o["logits"], y) * (1 + o["said"]).mean(),
    ],
)
def test_a_loss_of_a_tree_of_outputs_is_that_of_each_example(loss: Any) -> None:
    for call in (
        lambda: group_curvature(both, OUT, X, LABEL, WEIGHTS, loss=loss),
        lambda: per_example_gradient_norms(both, OUT, X, LABEL, loss=loss),
        lambda: GroupOperator(both, OUT, X, LABEL, WEIGHTS[0], loss=loss),
    ):
        with pytest.raises(JaxfairError, match="depends on which others it is computed with"):
            call()


def test_a_tree_of_outputs_may_hold_what_is_of_no_example() -> None:
    """Parameters with a row for each of the examples that are asked of, whose rows are none of theirs."""
    x, params = np.tile(X, 2), np.tile(OUT, (2, 1))  # 8 inputs

    def decayed(o: Any, y: jax.Array) -> jax.Array:
        return losses.cross_entropy(o["logits"], y) + 0.1 * (o["params"] ** 2).sum() + o["norm"] + 0 * o["said"]

    assert len(params) == 8
    found = group_curvature(both, params, x, LABEL, WEIGHTS, CurvatureConfig(tolerance=1e-5), loss=decayed)
    plain = group_curvature(linear, params, x, LABEL, WEIGHTS, CurvatureConfig(tolerance=1e-5))
    np.testing.assert_allclose(found.top_eigenvalue, plain.top_eigenvalue + 0.2, rtol=1e-3)


def test_a_loss_that_takes_all_examples_alone_is_refused() -> None:
    x, label, group = X[:10], LABEL[:10], np.arange(10) % 2

    def weighted(outputs: jax.Array, y: jax.Array) -> jax.Array:
        return losses.cross_entropy(outputs, y) * jnp.arange(1.0, 11)

    message = r"depends on which others it is computed with, .*; put what it holds of each, such as weights, into y"
    with pytest.raises(JaxfairError, match=message):
        jaxfair.group_report(linear, OUT, x, label, group, loss=weighted)
    with pytest.raises(JaxfairError, match=message):
        jaxfair.change_report((linear, OUT), (linear, 2 * OUT), x, label, group, loss=weighted)


def test_a_random_loss_is_refused_every_time() -> None:
    """Also where its own randomness would hide that its examples are others the next time."""
    draw = np.random.default_rng(3)

    def noisy(outputs: jax.Array, y: jax.Array) -> jax.Array:
        return losses.cross_entropy(outputs, y) * draw.random()

    for _ in range(5):
        with pytest.raises(JaxfairError, match="The loss gave two results for the same input; switch its randomness"):
            group_curvature(linear, OUT, X, LABEL, WEIGHTS, loss=noisy)
    with pytest.raises(JaxfairError, match="two results for the same input"):
        jaxfair.change_report((linear, OUT), (linear, 2 * OUT), X, LABEL, GROUP, loss=noisy)


def own(function: Any, forward: Any, backward: Any) -> Any:
    """Return a function whose derivative is the user's: by what its forward pass keeps and by its backward pass."""
    found = jax.custom_vjp(function)
    found.defvjp(forward, backward)
    return found


def along(function: Any, tangent: Any) -> Any:
    """Return a function whose derivative is the user's: ``(z, change of z) -> change``."""
    found = jax.custom_jvp(function)
    found.defjvp(lambda at, change: (function(*at), tangent(*at, *change)))
    return found


def fixed(z: jax.Array) -> jax.Array:
    return jax.lax.stop_gradient(z)


def slope(z: jax.Array) -> jax.Array:
    return 1 - jnp.tanh(z) ** 2


def soft(z: jax.Array) -> jax.Array:
    return jnp.exp(z - fixed(z.max(-1, keepdims=True))) / jnp.exp(z - fixed(z.max(-1, keepdims=True))).sum(-1)[:, None]


def near(z: jax.Array) -> jax.Array:
    return jnp.round(4 * z) / 4


ONCE = {
    "kept": own(jnp.tanh, lambda z: (jnp.tanh(z), fixed(slope(z))), lambda kept, c: (c * kept,)),
    "backward": own(jnp.tanh, lambda z: (jnp.tanh(z), z), lambda z, c: (c * slope(fixed(z)),)),
    "tangent": along(jnp.tanh, lambda z, t: fixed(slope(z)) * t),
    "of softmax": own(soft, lambda z: (soft(z), fixed(soft(z))), lambda p, c: (p * (c - (c * p).sum(-1)[:, None]),)),
    "steep": along(lambda z: jnp.tanh(30 * z), lambda z, t: 30 * fixed(slope(30 * z)) * t),
}
ONCE["mapped"] = jax.vmap(ONCE["kept"])
ONCE["compiled"] = jax.jit(ONCE["kept"])
ONCE["computed again"] = jax.checkpoint(ONCE["kept"])
ONCE["in a loop"] = lambda z: jax.lax.fori_loop(0, 2, lambda _, z: ONCE["tangent"](z), z)
ONCE["in a branch"] = lambda z: jax.lax.cond(z.sum() > 1e9, jnp.tanh, ONCE["kept"], z)


@pytest.mark.parametrize("case", ONCE)
def test_a_derivative_that_holds_a_part_of_itself_constant_is_refused(case: str) -> None:
    """Its Hessian would lack a part, without a word; gradients take it."""
    act = ONCE[case]

    def model(params: Any, x: Any) -> jax.Array:
        return 3 * act(x @ params)

    for call in (
        lambda: group_curvature(model, OUT, X, LABEL, WEIGHTS),
        lambda: jaxfair.group_report(model, OUT, X, LABEL, GROUP),
        lambda: GroupOperator(model, OUT, X, LABEL, WEIGHTS[0])(np.ones(OUT.size, np.float32)),
        lambda: binary_hessian_bound(lambda params, x: model(params, x)[:, :2], OUT, X, LABEL % 2, WEIGHTS),
    ):
        with pytest.raises(JaxfairError, match=r"derivative of its own \(jax.custom_vjp or custom_jvp\) that holds a"):
            call()
    assert np.isfinite(per_example_gradient_norms(model, OUT, X, LABEL)).all()


def test_a_loss_whose_derivative_holds_a_part_of_itself_constant_is_refused() -> None:
    def chosen(outputs: jax.Array, y: jax.Array) -> jax.Array:
        return -jnp.log(ONCE["of softmax"](outputs))[jnp.arange(len(y)), y]

    for call in (
        lambda: group_curvature(linear, OUT, X, LABEL, WEIGHTS, loss=chosen),
        lambda: GroupOperator(linear, OUT, X, LABEL, WEIGHTS[0], kind="gauss_newton", loss=chosen)(OUT.ravel()),
    ):
        with pytest.raises(JaxfairError, match="'soft' has a derivative of its own"):
            call()
    assert np.isfinite(per_example_gradient_norms(linear, OUT, X, LABEL, loss=chosen)).all()


def test_a_callback_in_a_derivative_that_cannot_be_mapped_over_examples_is_refused() -> None:
    """Each example's own gradient maps it; the mean gradient does not."""

    def steep(z: Any) -> jax.Array:
        return jax.pure_callback(lambda z: np.asarray(slope(z)), jax.ShapeDtypeStruct(z.shape, z.dtype), z)

    act = own(jnp.tanh, lambda z: (jnp.tanh(z), z), lambda z, c: (c * steep(z),))
    with pytest.raises(
        JaxfairError, match=r"JAX cannot map the model over examples .*; give what it calls in jax.numpy"
    ):
        per_example_gradient_norms(lambda params, x: act(x @ params), OUT, X, LABEL)


def learned_step(z: jax.Array, step: jax.Array) -> jax.Array:
    return jnp.round(jnp.clip(z / step, -3, 3)) * step


def of_learned_step(kept: Any, c: jax.Array) -> Any:
    """Of LSQ (Esser et al. 2020)."""
    z, step = kept
    within = jnp.abs(z / step) < 3
    return jnp.where(within, c, 0), (c * jnp.where(within, jnp.round(z / step) - z / step, 3 * jnp.sign(z))).sum()


LEARNED = own(learned_step, lambda z, step: (learned_step(z, step), (z, step)), of_learned_step)
TWICE = {
    "of its inputs": own(jnp.tanh, lambda z: (jnp.tanh(z), z), lambda z, c: (c * slope(z),)),
    "of softmax": along(soft, lambda z, t: soft(z) * (t - (soft(z) * t).sum(-1)[:, None])),
    "kinked": along(lambda z: jnp.maximum(z, 0), lambda z, t: jnp.where(z > 0, t, 0)),
    "straight through": own(near, lambda z: (near(z), None), lambda _, c: (c,)),
    "through within bounds": own(jnp.sign, lambda z: (jnp.sign(z), z), lambda z, c: (jnp.where(jnp.abs(z) < 1, c, 0),)),
    "surrogate": along(lambda z: 1.0 * (z > 0), lambda z, t: t / (1 + 10 * jnp.abs(z)) ** 2),
    "clipped": own(lambda z: 1 * z, lambda z: (1 * z, None), lambda _, c: (jnp.clip(c, -0.1, 0.1),)),
    "coarse": own(
        jnp.tanh,
        lambda z: (jnp.tanh(z), z.astype(jnp.bfloat16)),
        lambda z, c: (c * slope(z.astype(jnp.float32)),),
    ),
    "learned step": lambda z: LEARNED(z, z.mean() + 1),
    "held constant": lambda z: z + fixed(ONCE["kept"](z)),
    "not of parameters": lambda z: z * ONCE["kept"](jnp.ones_like(z)),
    "JAX's own": lambda z: jax.nn.relu(z) + jax.nn.silu(z) + jax.nn.softmax(z) + jax.nn.logsumexp(z, -1)[:, None],
}


@pytest.mark.parametrize("case", TWICE)
def test_derivatives_of_the_users_that_are_right_twice_pass(case: str) -> None:
    """Kinks and straight-through estimators, which are first-order on purpose, too."""
    act = TWICE[case]

    def model(params: Any, x: Any) -> jax.Array:
        return act(x @ params) @ params[:3]

    assert np.isfinite(GroupOperator(model, OUT, X, LABEL, WEIGHTS[0])(np.ones(OUT.size, np.float32))).all()


def test_a_right_derivative_has_the_eigenvalue_of_jaxs_own() -> None:
    def report(act: Any) -> np.ndarray:
        return jaxfair.group_report(lambda p, x: act(x @ p), OUT, X, LABEL, GROUP).curvature.top_eigenvalue

    np.testing.assert_allclose(report(TWICE["of its inputs"]), report(jnp.tanh), rtol=1e-4)
