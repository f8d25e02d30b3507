"""One call on a user's own model: numbers, table, and what it refuses."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxfair
from jaxfair import groups, losses
from jaxfair.curvature.config import CurvatureConfig
from jaxfair.curvature.minibatch import minibatch_curvature
from jaxfair.curvature.spectrum import group_curvature
from jaxfair.errors import JaxfairError
from jaxfair.intervals import FEW

N, FEATURES, CLASSES = 30, 3, 4
GROUP = np.arange(N) % 3


def model(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ params["hidden"]) @ params["out"]


def of_examples(n: int) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(0), 4)
    params = {"hidden": jax.random.normal(keys[0], (FEATURES, 5)), "out": jax.random.normal(keys[1], (5, CLASSES))}
    x = jax.random.normal(keys[2], (n, FEATURES))
    return {"params": params, "x": x, "y": jax.random.randint(keys[3], (n,), 0, CLASSES), "group": np.arange(n) % 3}


@pytest.fixture(scope="module")
def problem() -> dict[str, Any]:
    return of_examples(N)


@pytest.fixture(scope="module")
def enough() -> dict[str, Any]:
    """As many examples as intervals need."""
    return of_examples(3 * FEW)


def dense(problem: dict[str, Any], index: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Loss, gradient and Hessian of a set of examples, by dense autodiff."""
    flat, unravel = ravel_pytree(problem["params"])

    def loss(p: jax.Array) -> jax.Array:
        return losses.cross_entropy(model(unravel(p), problem["x"][index]), problem["y"][index]).mean()

    return float(loss(flat)), np.asarray(jax.grad(loss)(flat)), np.asarray(jax.hessian(loss)(flat))


def test_a_bottom_eigenvalue_within_its_residual_of_0_is_said(problem: dict[str, Any]) -> None:
    """It may be converged, relative to the largest magnitude, and still have either sign."""
    report = jaxfair.group_report(model, **problem)
    assert "leaves open" not in str(report)
    ends = {
        "bottom_eigenvalue": np.array([-1e-3, -2, 1e-9]),
        "bottom_eigenvalue_residual": np.array([2e-3, 1e-3, 1e-3]),
    }
    near = dataclasses.replace(report, curvature=report.curvature._replace(**ends))
    a, _, c = report.names
    assert f"below 0 its residual leaves open: {a} (0.002 at -0.001), {c} (0.001 at 1e-09)." in str(near)


def test_every_number_equals_dense_autodiff(problem: dict[str, Any]) -> None:
    report = jaxfair.group_report(model, **problem, config=CurvatureConfig(bottom=True, tolerance=1e-5))
    logits = np.asarray(model(problem["params"], problem["x"]))
    for g in range(3):
        members = np.flatnonzero(g == GROUP)
        loss, gradient, hessian = dense(problem, members)
        eigenvalues = np.linalg.eigvalsh(hessian)
        # float32: a few hundred roundings of values of order 1.
        assert report.loss[g] == pytest.approx(loss, rel=1e-5)
        assert report.curvature.gradient_norm[g] == pytest.approx(np.linalg.norm(gradient), rel=1e-4)
        assert report.curvature.top_eigenvalue[g] == pytest.approx(eigenvalues[-1], rel=1e-4)
        assert report.curvature.bottom_eigenvalue[g] == pytest.approx(eigenvalues[0], abs=float(1e-4 * eigenvalues[-1]))
        right = logits[members].argmax(-1) == np.asarray(problem["y"])[members]
        assert report.accuracy[g] == right.mean()
        scores = np.sort(np.asarray(jax.nn.softmax(logits[members])), axis=-1)
        assert report.softmax_gap[g] == pytest.approx((scores[:, -1] - scores[:, -2]).mean(), rel=1e-5)
    assert report.count.tolist() == [10, 10, 10]
    assert report.curvature.converged.all()
    assert report.asymmetry < 1e-5


def test_it_prints_and_converts(problem: dict[str, Any]) -> None:
    names = ["young", "old", "oldest"]
    report = jaxfair.group_report(model, **problem, group_names=names)
    lines = str(report).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert [line.split()[0] for line in lines] == ["group", *names]
    stored = json.loads(json.dumps(report.to_dict()))
    assert stored["group"] == names
    assert stored["top_eigenvalue"] == report.curvature.top_eigenvalue.tolist()
    pandas = pytest.importorskip("pandas")
    frame = report.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.loc["old", "count"] == 10


@pytest.mark.parametrize(
    "change",
    [{"start": "gradient"}, {"stop": "error"}, {"bottom": True}, {"tolerance": 1e-5}, {"max_steps": 2}],
    ids=str,
)
def test_every_option_changes_the_work(problem: dict[str, Any], change: dict[str, Any]) -> None:
    data = problem["params"], problem["x"], problem["y"], groups.group_weights(GROUP, 3)
    plain, other = group_curvature(model, *data), group_curvature(model, *data, CurvatureConfig(**change))
    assert not np.array_equal(plain.alphas, other.alphas)


def test_memory_and_chunk_size_change_nothing(problem: dict[str, Any]) -> None:
    plain = jaxfair.group_report(model, **problem)
    options: dict[str, Any]
    for options in ({"memory": 0}, {"chunk_size": 1}, {"chunk_size": 4, "memory": 10_000}):
        other = jaxfair.group_report(model, **problem, config=CurvatureConfig(tolerance=1e-2, **options))
        np.testing.assert_allclose(other.curvature.top_eigenvalue, plain.curvature.top_eigenvalue, rtol=1e-4)
        np.testing.assert_allclose(other.curvature.gradient_norm, plain.curvature.gradient_norm, rtol=1e-5)


def test_minibatch_estimator_is_the_mean_of_batch_norms(problem: dict[str, Any]) -> None:
    found = minibatch_curvature(model, **problem, batch_size=8, tolerance=1e-5)
    for g in range(3):
        batches = [np.arange(b, min(b + 8, N)) for b in range(0, N, 8)]
        members = [batch[GROUP[batch] == g] for batch in batches if (GROUP[batch] == g).any()]
        norms = [np.linalg.norm(dense(problem, m)[1]) for m in members]
        assert found.gradient_norm[g] == pytest.approx(np.mean(norms), rel=1e-4)
        extremes = [np.linalg.eigvalsh(dense(problem, m)[2])[[0, -1]] for m in members]
        np.testing.assert_allclose(found.eigenvalues[g], [e[np.argmax(np.abs(e))] for e in extremes], rtol=1e-3)


@pytest.mark.parametrize("measure", [minibatch_curvature, jaxfair.group_report])
def test_a_negative_group_is_counted_into_no_other(problem: dict[str, Any], measure: Any) -> None:
    with pytest.raises(JaxfairError, match=r"groups run from -1 to 1; (expected numbers from 0 on|mark a missing one)"):
        measure(model, **(problem | {"group": GROUP - 1}))


@pytest.fixture(scope="module")
def with_intervals(enough: dict[str, Any]) -> jaxfair.GroupReport:
    return jaxfair.group_report(model, **enough, intervals=True)


def test_intervals_on_request(enough: dict[str, Any], with_intervals: jaxfair.GroupReport) -> None:
    """All columns that there were are the same to the bit; each interval holds its value, and possible values alone."""
    plain, columns = jaxfair.group_report(model, **enough).columns(), with_intervals.columns()
    for name, values in plain.items():
        np.testing.assert_array_equal(columns[name], values)
    assert [name for name in plain if f"{name}_low" in columns] == ["accuracy", "loss", "top_eigenvalue", "softmax_gap"]
    for name in ("accuracy", "loss", "top_eigenvalue", "softmax_gap", "gradient_norm_corrected"):
        low, high = columns[f"{name}_low"], columns[f"{name}_high"]
        assert (low <= columns[name]).all()
        assert (columns[name] <= high).all()
        assert (low < high).all()
    assert (columns["gradient_norm_corrected"] <= columns["gradient_norm"]).all()
    assert (columns["gradient_norm_corrected_low"] >= 0).all()
    assert columns["softmax_gap_high"].max() <= 1
    assert with_intervals.intervals is not None
    sampling, residual = with_intervals.intervals.eigenvalue.interval, columns["top_eigenvalue_residual"]
    np.testing.assert_allclose(columns["top_eigenvalue_high"], sampling.high + residual)


def test_groups_of_few_examples_have_intervals_of_accuracies_alone(problem: dict[str, Any]) -> None:
    found = jaxfair.group_report(model, **problem, intervals=True)
    known = [name for name, ends in found.columns().items() if name.endswith("_low") and np.isfinite(ends).any()]
    assert known == ["accuracy_low"]
    ends = (found - found).interval
    assert [name for name, (low, _) in ends.items() if np.isfinite(low).any()] == ["accuracy"]


def test_intervals_are_printed_in_brackets(with_intervals: jaxfair.GroupReport) -> None:
    *lines, foot = str(with_intervals).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "_low" not in lines[0]
    accuracy, low, high = (with_intervals.columns()[name][0] for name in ("accuracy", "accuracy_low", "accuracy_high"))
    assert f"{accuracy:.4g} ({low:.3g} to {high:.3g})" in lines[1]
    assert "not corrected for the number of groups" in foot
    assert json.loads(json.dumps(with_intervals.to_dict()))["loss_low"] == with_intervals.columns()["loss_low"].tolist()


def test_two_reports_subtract(enough: dict[str, Any], with_intervals: jaxfair.GroupReport) -> None:
    params = jax.tree.map(lambda leaf: 0.5 * leaf, enough["params"])
    after = jaxfair.group_report(model, **(enough | {"params": params}), intervals=True)
    found = after - with_intervals
    for name in ("accuracy", "loss", "softmax_gap", "gradient_norm", "top_eigenvalue"):
        column = "gradient_norm_corrected" if name == "gradient_norm" else name
        difference = np.asarray(after.columns()[column]) - with_intervals.columns()[column]
        np.testing.assert_allclose(found.difference[name], difference, rtol=1e-5, atol=1e-7)
        ends = found.interval[name]
        assert (ends.low < difference).all()
        assert (difference < ends.high).all()
    np.testing.assert_array_equal(found.columns()["loss_low"], found.interval["loss"].low)
    assert len(str(found).splitlines()) == 5
    assert json.loads(json.dumps(found.to_dict()))["count"] == [FEW, FEW, FEW]
    nothing = jaxfair.group_report(model, **enough) - with_intervals
    assert set(nothing.difference) == {"accuracy", "loss", "softmax_gap"}
    assert (nothing.interval["accuracy"].low < 0).all(), "nothing changed on forty examples of many"
    same = (with_intervals - with_intervals).interval["gradient_norm"]
    assert np.isnan(same).all(), "where no block differs, an interval would have no width"
    assert (nothing.difference["loss"] == 0).all()


def test_reports_of_other_examples_are_not_subtracted(
    enough: dict[str, Any], with_intervals: jaxfair.GroupReport
) -> None:
    change: dict[str, Any]
    for change in (
        {"y": (enough["y"] + 1) % CLASSES},
        {"group": np.roll(enough["group"], 1)},
        {"group_names": [*"abc"]},
        {"loss": lambda logits, label: (logits[:, 0] - label) ** 2},
    ):
        with pytest.raises(JaxfairError, match="of different examples, labels, groups or losses"):
            _ = jaxfair.group_report(model, **(enough | change)) - with_intervals


def test_reports_of_other_losses_of_ones_own_are_not_subtracted(problem: dict[str, Any]) -> None:
    """A loss is known by what it says: one that is written anew is the same, and a multiple of it is not."""

    def report(times: float, params: Any = None) -> jaxfair.GroupReport:
        weight = jnp.asarray(times)  # another array each time, of which JAX tells nothing
        given = problem | ({} if params is None else {"params": params})
        return jaxfair.group_report(model, **given, loss=lambda z, y: weight * losses.cross_entropy(z, y))

    one = report(1.0)
    other = report(1.0, jax.tree.map(lambda leaf: 2 * leaf, problem["params"]))
    assert ((other - one).difference["loss"] != 0).all()
    with pytest.raises(JaxfairError, match="of different losses; compare networks by the same one"):
        _ = report(2.0) - one


def test_a_report_is_equal_to_itself_alone(problem: dict[str, Any]) -> None:
    one, other = (jaxfair.group_report(model, **problem) for _ in range(2))
    less = one - other
    assert one == one
    assert other not in [one, less]
    assert len({one, other, less, less}) == 3


CALLS = iter(range(1_000_000))


def noisy(params: Any, x: jax.Array) -> jax.Array:
    """A dropout that was left on: every call draws anew."""
    seed = jax.pure_callback(lambda: np.int32(next(CALLS)), jax.ShapeDtypeStruct((), jnp.int32))
    keep = jax.random.bernoulli(jax.random.key(seed), 0.5, x.shape)
    return model(params, jnp.where(keep, 2 * x, 0))


def fixed_dropout(params: Any, x: jax.Array) -> jax.Array:
    """A dropout of one key: an example's fate is its place in the batch."""
    return model(params, jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, x.shape), 2 * x, 0))


def batch_norm_left_on(params: Any, x: jax.Array) -> jax.Array:
    return model(params, (x - x.mean(axis=0)) / x.std(axis=0))


@jax.custom_vjp
def wrong_square(x: jax.Array) -> jax.Array:
    return x**2


wrong_square.defvjp(lambda x: (x**2, x), lambda x, g: (g * jnp.cumsum(x),))


@pytest.mark.parametrize(
    ("logits_fn", "change", "words"),
    [
        (noisy, {}, "two results for the same input; switch dropout"),
        (
            batch_norm_left_on,
            {"config": CurvatureConfig(chunk_size=7)},
            "with the rest of its batch; put batch norm and dropout into",
        ),
        (batch_norm_left_on, {}, "with the rest of its batch; put batch norm and dropout into"),
        (fixed_dropout, {}, "with the rest of its batch; put batch norm and dropout into"),
        (
            model,
            {"group": np.where(GROUP == 2, 0, GROUP), "group_names": ["a", "b", "c"]},
            "The group c has no example; give groups by name instead of group_names",
        ),
        (model, {"y": jnp.zeros(N - 1, int)}, "labels"),
        (model, {"y": jnp.full(N, -1)}, "label of example 0 is -1; the 4 classes count from 0"),
        (model, {"y": jnp.full(N, 4)}, "label of example 0 is 4; the 4 classes count from 0"),
        (model, {"y": jnp.full(N, 0.5)}, "label of example 0 is 0.5; labels are whole numbers"),
        (model, {"group": GROUP + 0.5, "group_names": [*"abc"]}, "no whole numbers, but have names"),
        (model, {"group": GROUP.astype(str), "group_names": [*"abc"]}, "names by number"),
        (model, {"group": GROUP[1:]}, "There are 30 labels, 29 groups; give one of each"),
        (model, {"group_names": ["a"]}, "There are 1 group names for groups 0 to 2"),
        (model, {"loss": lambda logits, y: logits}, r"loss returned shape \(\d+, \d+\) for \d+ examples"),
        (model, {"loss": lambda logits, y: logits.mean()}, r"loss returned shape \(\) for"),
        (lambda p, x: (model(p, x), 0), {}, "expected \\(n, classes\\)"),
        (lambda p, x: model(p, x)[:, 0], {}, "expected \\(n, classes\\)"),
    ],
)
def test_refusals(problem: dict[str, Any], logits_fn: Any, change: dict[str, Any], words: str) -> None:
    with pytest.raises(JaxfairError, match=words):
        jaxfair.group_report(logits_fn, **(problem | change))


def test_a_value_that_is_not_finite_is_named(problem: dict[str, Any]) -> None:
    x = problem["x"].at[4].set(jnp.nan)
    with pytest.raises(JaxfairError, match="loss of example 4, in group '1', is nan"):
        jaxfair.group_report(model, **(problem | {"x": x}))


def test_a_wrong_derivative_is_found() -> None:
    params, x = jnp.linspace(1.0, 2.0, 6), jnp.ones((N, 1))

    def logits_fn(p: jax.Array, x: jax.Array) -> jax.Array:
        return x * wrong_square(p)[:CLASSES]

    with pytest.raises(JaxfairError, match=r"Hessian is not symmetric .* half precision \(use float32\), or is so"):
        jaxfair.group_report(logits_fn, params, x, jnp.zeros(N, int), np.zeros(N, int))


def test_integer_parameters_are_refused(problem: dict[str, Any]) -> None:
    changed: dict[str, Any] = problem | {"params": {**problem["params"], "steps": jnp.arange(3)}}
    with pytest.raises(JaxfairError, match="parameter 'steps' has type int32; second derivatives need"):
        jaxfair.group_report(model, **changed)


def test_one_example_a_group_and_a_zero_network(problem: dict[str, Any]) -> None:
    params = jax.tree.map(jnp.zeros_like, problem["params"])
    changed: dict[str, Any] = problem | {"params": params, "group": np.arange(N)}
    report = jaxfair.group_report(model, **changed)
    np.testing.assert_allclose(report.loss, np.log(CLASSES), rtol=1e-6)
    assert report.curvature.converged.all()
    # tanh(x h) o at h = o = 0 is bilinear: the Hessian couples h_ij with o_jc by x_i (1/C - [c = y]) and nothing else.
    slope = np.sqrt((1 - 1 / CLASSES) ** 2 + (CLASSES - 1) / CLASSES**2)
    expected = np.linalg.norm(problem["x"], axis=1) * slope
    np.testing.assert_allclose(report.curvature.top_eigenvalue, expected, rtol=1e-4)


def test_batch_norm_is_seen_beside_a_class_that_is_switched_off() -> None:
    """Where the network is so sure that no probability moves."""
    rng = np.random.default_rng(0)
    params = {"in": rng.normal(size=(4, 5)).astype(np.float32), "out": rng.normal(size=(5, 3)).astype(np.float32)}

    def masked(params: Any, x: Any) -> jax.Array:
        hidden = x @ params["in"]
        logits = 8 * jnp.tanh((hidden - hidden.mean(0)) / (hidden.std(0) + 1e-3)) @ params["out"]
        return jnp.where(jnp.array([True, True, False]), logits, -1e9)

    x = rng.normal(size=(400, 4)).astype(np.float32)
    first = np.asarray(masked(params, x))
    x = np.tile(x[np.abs(first[:, 0] - first[:, 1]) > 14], (3, 1))
    label = np.asarray(masked(params, x)).argmax(axis=1)
    with pytest.raises(JaxfairError, match=r"changed by .* with the rest of its batch"):
        jaxfair.group_report(masked, params, x, label, np.arange(len(x)) % 2, CurvatureConfig(chunk_size=16))


def with_dropout(params: Any, x: Any) -> jax.Array:
    return model(params, x * jax.random.bernoulli(jax.random.key(0), 0.5, x.shape))


def over_the_batch(params: Any, x: Any) -> jax.Array:
    return jax.nn.softmax(model(params, x), axis=0)


@pytest.mark.parametrize("logits_fn", [with_dropout, over_the_batch])
def test_a_model_is_asked_for_examples_together_though_chunks_have_one(logits_fn: Any, problem: dict[str, Any]) -> None:
    with pytest.raises(JaxfairError, match="rest of its batch"):
        jaxfair.group_report(logits_fn, **problem, config=CurvatureConfig(chunk_size=1))


def test_reports_of_the_same_examples_in_another_order_are_not_subtracted(problem: dict[str, Any]) -> None:
    """Of one class and group each, so that neither labels nor groups tell."""
    same = {**problem, "y": np.zeros(len(problem["x"]), int), "group": np.zeros(len(problem["x"]), int)}
    one, other = (jaxfair.group_report(model, **{**same, "x": x}) for x in (same["x"], same["x"][::-1]))
    with pytest.raises(JaxfairError, match="in another order"):
        one - other
    coarser = jaxfair.group_report(model, **{**same, "x": np.round(same["x"], 2)})
    assert (coarser - one).count[0] == len(same["x"])


def test_one_output_says_the_class_of_the_smaller_loss() -> None:
    """Least squares of 0 and 1 has its boundary at one half, a logistic loss at 0."""
    x = np.array([[0.2], [0.4], [0.6], [0.9]], np.float32)
    label, one = np.array([0, 0, 1, 1]), np.ones((1, 1), np.float32)

    def squared(outputs: Any, y: Any) -> Any:
        return (outputs[:, 0] - y) ** 2

    def logistic(outputs: Any, y: Any) -> Any:
        return jnp.logaddexp(0, jnp.where(y == 1, -1, 1) * outputs[:, 0])

    options = {"x": x, "y": label, "group": np.zeros(4, int)}
    with pytest.warns(UserWarning, match="sigmoid"):
        report = jaxfair.group_report(lambda w, x: x @ w, one, loss=squared, **options)
    assert report.accuracy[0] == 1
    assert np.isnan(report.softmax_gap[0])
    found = jaxfair.group_report(lambda w, x: 40 * (x @ w - 0.5), one, loss=logistic, **options)
    assert found.accuracy[0] == 1
    assert found.softmax_gap[0] > 0.9


def test_a_long_name_of_a_group_is_cut_short(problem: dict[str, Any]) -> None:
    bad = problem | {"x": problem["x"].at[4].set(jnp.nan), "group": ["x" * 5000] * N}
    with pytest.raises(JaxfairError, match="loss of example 4, in group 'xxx") as refused:
        jaxfair.group_report(model, **bad)
    assert len(str(refused.value)) < 200
