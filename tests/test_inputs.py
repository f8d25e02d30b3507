"""What users hand over: read as it is meant, or refused in one short sentence before anything is computed."""

# pyright: reportArgumentType=false, reportCallIssue=false
# Mistakes are made on purpose here.

import collections
import dataclasses
import re
import warnings
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import flax.core
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
import scipy.sparse
from jax.tree_util import Partial

import jaxfair
from jaxfair import (
    bounds,
    checkpoints,
    grouping,
    hardware,
    inputs,
    labels,
    losses,
    margins,
    models,
    sensitivity,
    taylor,
)
from jaxfair.curvature.checks import trusted_losses
from jaxfair.curvature.config import CurvatureConfig
from jaxfair.curvature.lanczos import extreme_eigenvalues
from jaxfair.curvature.minibatch import minibatch_curvature
from jaxfair.curvature.operators import GroupOperator
from jaxfair.curvature.sampling import gradient_sampling
from jaxfair.data.columns import from_values
from jaxfair.data.config import SourceConfig
from jaxfair.data.dataset import Rows
from jaxfair.errors import JaxfairError
from jaxfair.inputs import as_inputs
from jaxfair.linearize import senet
from jaxfair.linearize.config import BCD_FINETUNE, BcdConfig, SenetConfig
from jaxfair.margins import bind, linearized_distance
from jaxfair.networks import masks
from jaxfair.networks.architectures import CNN
from jaxfair.networks.network import frozen, init
from jaxfair.training import trajectory
from jaxfair.training.fit import Stopping

pytestmark = pytest.mark.usefixtures("unchecked")
RNG = np.random.default_rng(0)
N, CLASSES = 20, 3
W = RNG.normal(size=(4, CLASSES)).astype(np.float32)
X = RNG.normal(size=(N, 4)).astype(np.float32)
Y = RNG.integers(0, CLASSES, N)
GROUP = np.arange(N) % 2
SHUFFLED = np.random.default_rng(1).permutation(N)
LONGEST = 400  # letters of a sentence


def net(w: Any, x: Any) -> jax.Array:
    return jnp.tanh(x @ w)


def report(y: Any = Y, group: Any = GROUP, x: Any = X, **options: Any) -> jaxfair.GroupReport:
    return jaxfair.group_report(net, W, x, y, group, **options)


class Tensor:
    """What a tensor of PyTorch offers: it leaves its tape, its device, and becomes an array."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def detach(self) -> "Tensor":
        return self

    cpu = detach

    def numpy(self) -> np.ndarray:
        return self.values


SAME_LABELS: dict[str, Callable[[np.ndarray], Any]] = {
    "list": np.ndarray.tolist,
    "shuffled series": lambda y: pd.Series(y, index=SHUFFLED),
    "categories": lambda y: pd.Series(y).astype("category"),
    "whole floats": lambda y: y.astype(float),
    "bytes in the other order": lambda y: y.astype(">i4"),
    "one-hot": lambda y: np.eye(CLASSES)[y],
    "one column": lambda y: y[:, None],
    "masks nothing": lambda y: np.ma.array(y, mask=False),
    "tensor": Tensor,
    "objects": lambda y: y.astype(object),
    "jax": jnp.asarray,
    "uint8": lambda y: y.astype(np.uint8),
}


@pytest.mark.parametrize("kind", SAME_LABELS)
def test_labels_of_any_kind_mean_the_same_everywhere(kind: str) -> None:
    y, classifier = SAME_LABELS[kind](Y), bind(net, W)
    np.testing.assert_array_equal(report(y).loss, report().loss)
    norms = jaxfair.per_example_gradient_norms
    np.testing.assert_array_equal(norms(net, W, X, y), norms(net, W, X, Y))
    for distance in (linearized_distance, jaxfair.deepfool):
        np.testing.assert_array_equal(distance(classifier, X, y).distance, distance(classifier, X, Y).distance)
    weights, vector = np.ones(N) / N, np.ones(12)
    np.testing.assert_array_equal(
        GroupOperator(net, W, X, y, weights)(vector), GroupOperator(net, W, X, Y, weights)(vector)
    )


@pytest.mark.parametrize("x", [pd.DataFrame(X, index=SHUFFLED), X.tolist(), Tensor(X), np.ma.array(X)], ids=type)
def test_inputs_of_any_kind_mean_the_same(x: Any) -> None:
    np.testing.assert_allclose(report(x=x).curvature.top_eigenvalue, report().curvature.top_eigenvalue, rtol=1e-6)


BAD_LABELS = {
    "too large": (np.where(np.arange(N) == 5, 3, Y), "label of example 5 is 3; the 3 classes count from 0"),
    "negative": (np.where(np.arange(N) == 5, -1, Y), "label of example 5 is -1"),
    "255": (np.where(np.arange(N) == 5, 255, Y).astype(np.uint8), "label of example 5 is 255"),
    "fraction": (Y + 0.5, "labels are whole numbers"),
    "missing": (np.where(np.arange(N) == 5, np.nan, Y), "label of example 5 is nan"),
    "masked": (np.ma.array(Y, mask=np.arange(N) < 6), "6 of the labels are masked"),
    "short": (Y[:8], "20 inputs, 8 labels"),
    "texts": (Y.astype(str), "Labels have type"),
    "ragged": ([[1], [1, 2]], "no regular shape"),
    "complex": (Y.astype(complex), "Labels have type complex128"),
    "differences of times": (Y.astype("m8[s]"), "Labels have type timedelta64"),
    "one-hot of more classes": (np.eye(4)[Y], "one-hot rows of 4 classes; the network has 3"),
    "one-hot of fewer classes": (np.eye(2)[Y % 2], "one-hot rows of 2 classes; the network has 3"),
}


@pytest.mark.parametrize("kind", BAD_LABELS)
def test_labels_that_mean_nothing_are_refused_everywhere(kind: str) -> None:
    y, sentence = BAD_LABELS[kind]
    weights = np.ones((1, N)) / N
    calls: list[Callable[[], Any]] = [
        lambda: report(y),
        lambda: report(y, loss=optax.softmax_cross_entropy_with_integer_labels),
        lambda: jaxfair.group_curvature(net, W, X, y, weights),
        lambda: jaxfair.per_example_gradient_norms(net, W, X, y),
        lambda: GroupOperator(net, W, X, y, weights[0]),
    ]
    for call in calls:
        with pytest.raises(JaxfairError, match=sentence) as refused:
            call()
        assert len(str(refused.value)) < LONGEST
    for distance in () if "one-hot" in kind else (linearized_distance, jaxfair.deepfool):
        with pytest.raises(JaxfairError):
            distance(bind(net, W), X, y)


@pytest.mark.parametrize(("kind", "first"), [(jnp.bfloat16, 256), (np.float16, 2048), (np.float32, 2**24)])
def test_codes_that_a_short_type_has_rounded_to_others_are_refused(kind: Any, first: int) -> None:
    """A batch is cast to half precision as a whole, with its labels: 257 and 259 of bfloat16 are 256 and 260."""
    whole = np.arange(N) % 2 + first
    short, fine = np.asarray(whole, kind), np.asarray(whole - 2, kind)
    calls: dict[str, Callable[[Any], Any]] = {
        "labels": lambda codes: labels.as_labels(codes),
        "answers before": lambda codes: jaxfair.change_report(codes, whole, None, whole, GROUP),
        "groups": lambda codes: grouping.as_groups(codes),
    }
    for what, call in calls.items():
        for codes in (short, jnp.asarray(short)):
            with pytest.raises(JaxfairError, match=f"The {what} go up to .* and are {short.dtype}"):
                call(codes)
        call(fine)
    with pytest.raises(JaxfairError, match="groups go up to"):
        jaxfair.group_weights(short, first + 2 if first < 2**24 else 2)


@pytest.mark.parametrize(
    ("group", "names"),
    [
        (np.where(GROUP, 56045, 1001), ("1001", "56045")),
        (np.where(GROUP, "b", "a"), ("a", "b")),
        (pd.Series(np.where(GROUP, "b", "a"), index=SHUFFLED).astype("category"), ("a", "b")),
        (GROUP == 1, ("False", "True")),
        ([("b", 1) if g else ("a", 2) for g in GROUP], None),
        (GROUP.astype(float), ("0", "1")),
        (np.where(GROUP, b"b", b"a"), ("a", "b")),
        (GROUP.astype(">i8"), ("0", "1")),
        ([("b", 1) if g else ("a", 2) for g in GROUP], ("('a', 2)", "('b', 1)")),
    ],
)
def test_groups_are_whatever_can_be_told_apart(group: Any, names: tuple[str, ...] | None) -> None:
    if names is None:  # a list of pairs is a table, an array of objects is one column of pairs
        array = np.empty(N, object)
        array[:] = group
        group, names = array, ("('a', 2)", "('b', 1)")
    found = report(group=group)
    assert found.names == names
    np.testing.assert_array_equal(found.loss, report().loss)


MASKED, NOTHING = np.arange(N) < 6, np.full(N, None)
WITHOUT: dict[str, Any] = {
    "mask": np.ma.array(GROUP, mask=MASKED),
    "nan": np.where(MASKED, np.nan, GROUP),
    "none": np.where(MASKED, NOTHING, np.where(GROUP, "1", "0")),
    "pandas": pd.array(np.where(MASKED, NOTHING, GROUP), dtype="Int64"),
}


@pytest.mark.parametrize("kind", WITHOUT)
def test_missing_groups_are_refused_dropped_or_a_group(kind: str) -> None:
    """What the refusal advises is done here, word for word."""
    group = WITHOUT[kind]
    with pytest.raises(JaxfairError, match="6 of 20 examples have no group, the first is example 0") as refused:
        report(group=group)
    assert "missing='drop'" in str(refused.value)
    assert "missing='group'" in str(refused.value)
    dropped = report(group=group, missing="drop")
    expected = report(Y[6:], GROUP[6:], X[6:])
    assert dropped.names == expected.names == ("0", "1")
    np.testing.assert_array_equal(dropped.count, expected.count)
    np.testing.assert_allclose(dropped.loss, expected.loss)
    assert report(group=group, missing="group").names == ("0", "1", grouping.MISSING)


def test_groups_that_cannot_be_read_are_refused() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"group": GROUP - 1}, "groups run from -1 to 0; mark a missing one"),
        ({"group": GROUP[:8]}, "20 labels, 8 groups"),
        ({"group": GROUP, "group_names": ["a"]}, "1 group names for groups 0 to 1"),
        ({"group": GROUP, "group_names": ["a", "a"]}, "Two groups have one name"),
        ({"group": GROUP, "group_names": [["a"], ["b"]]}, "group_names are rows of several; give one name for each"),
        ({"group": np.where(GROUP, "b", "a"), "group_names": ["a", "b"]}, "names by number"),
        ({"group": GROUP, "missing": "keep"}, "missing is 'keep'; give 'refuse' or 'drop' or 'group'"),
        ({"group": GROUP, "group_names": {0: "a", 1: "b"}}, "group_names is of type dict; give a list"),
        ({"group": [None, *[-1, 1] * (N // 2)][:N], "missing": "drop"}, "run from -1 to 1; mark a missing one by NaN"),
        ({"group": [None] * N, "missing": "drop"}, "None of the 20 examples has a group"),
        ({"group": ["a", np.nan] * (N // 2)}, "10 of 20 examples have no group"),
        ({"group": [1, "1"] * (N // 2)}, "Two groups have one name"),
        ({"group": [frozenset("ab"), frozenset("a")] * (N // 2)}, "is a list or a set; .* or a tuple of several"),
        ({"group": [(frozenset("ab"), 1), ("a", 1)] * (N // 2)}, "is a list or a set; .* or a tuple of several"),
        ({"group": [pd.Series(GROUP), pd.Series(GROUP)]}, "group or class is a Series, of which nobody knows"),
        ({"group": pd.Series([np.array(["m", "w"])] * N), "missing": "group"}, "group or class is a ndarray, of which"),
        ({"group": GROUP, "group_names": [0.0, np.nan]}, "10 of 20 examples have no group"),
    ]
    for options, sentence in cases:
        with pytest.raises(JaxfairError, match=sentence):
            report(**options)


@pytest.mark.parametrize("two", [("Male", "male"), ("a", "a "), ("new  york", "new york"), ((1, "A"), (1, "a"))])
def test_groups_that_differ_in_case_or_blanks_alone_are_said(two: tuple[Any, Any]) -> None:
    with pytest.warns(UserWarning, match="differ in case or blanks alone and are two"):
        assert len(report(group=list(two) * (N // 2)).names) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report(group=GROUP, group_names=["A", "a"])


def test_inputs_that_cannot_be_read_are_refused() -> None:
    cases: list[tuple[Any, str]] = [
        (scipy.sparse.csr_matrix(X), "inputs are sparse"),
        (list(X), "4 inputs, 20 labels"),
        (None, "There are no inputs"),
    ]
    for x, sentence in cases:
        with pytest.raises(JaxfairError, match=sentence):
            report(x=x)
    with pytest.raises(JaxfairError, match="parameter 'params' is a masked array"):
        jaxfair.group_report(net, np.ma.array(W, mask=W > 1), X, Y, GROUP)


def test_models_and_losses_that_leave_jax_or_have_no_derivative_are_refused() -> None:
    with pytest.raises(JaxfairError, match="logits_fn cannot be differentiated: it leaves JAX"):
        jaxfair.group_report(lambda w, x: np.tanh(np.asarray(x)) @ w, W, X, Y, GROUP)
    with pytest.raises(JaxfairError, match="The loss cannot be differentiated: it leaves JAX"):
        report(loss=lambda z, y: np.asarray(z)[:, 0])
    with pytest.raises(JaxfairError, match="loss has type bool"):
        report(loss=lambda z, y: z.argmax(axis=1) != y)


def test_a_class_switched_off_by_infinity_and_labels_below_zero() -> None:
    def wider(w: Any, x: Any) -> jax.Array:
        return jnp.concatenate([net(w, x), jnp.full((len(x), 1), -jnp.inf)], axis=1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = jaxfair.group_report(wider, W, X, Y, GROUP)
    np.testing.assert_allclose(found.loss, report().loss, rtol=1e-6)
    ignored = np.where(np.arange(N) == 5, -1, Y)
    with pytest.warns(UserWarning, match="1 of 20 labels are below 0"):
        report(ignored, loss=lambda z, y: optax.softmax_cross_entropy_with_integer_labels(z, y))


def test_messages_are_bounded() -> None:
    assert len(inputs.quoted(range(100_000))) < 60
    with pytest.raises(JaxfairError) as refused:
        report(np.arange(N) + 10**6)
    assert len(str(refused.value)) < LONGEST


def mixing(p: Any, x: Any) -> jax.Array:
    h = x @ p
    return jnp.tanh((h - h.mean(0)) / (h.std(0) + 1e-3))


@pytest.mark.parametrize("size", [4, 20])
def test_a_huge_logit_hides_no_mixing_of_examples(size: int) -> None:
    def one_class_off(p: Any, x: Any) -> jax.Array:
        return jnp.where(jnp.array([True, True, False]), mixing(p, x), -1e9)

    def classes_off(p: Any, x: Any) -> jax.Array:
        return jnp.where(jnp.array([True, False, False]), mixing(p, x), jnp.array([0, -1e9, -2e9]))

    def one_example_huge(p: Any, x: Any) -> jax.Array:
        return jnp.where(x[:, :1] == X[0, 0], 1e9, mixing(p, x))

    for model in (mixing, one_class_off, classes_off, one_example_huge):
        with pytest.raises(JaxfairError, match="rest of its batch"):
            jaxfair.group_report(model, W, X, GROUP, GROUP, CurvatureConfig(chunk_size=size))


def test_no_column_of_another_size_hides_mixing_of_examples() -> None:
    """Outputs in units of their own, a class that all but wins, and one example of huge inputs to a single logit."""

    def other_units(w: Any, x: Any) -> jax.Array:
        return jnp.stack([5e4 + 1e4 * (x @ w)[:, 0], mixing(w, x)[:, 1]], axis=1)

    def squares(z: Any, t: Any) -> jax.Array:
        return (((z - t) / jnp.array([1e4, 1.0])) ** 2).sum(axis=1)

    def one_wins(w: Any, x: Any) -> jax.Array:
        return mixing(w, x) + jnp.array([0.0, 0.0, 1e4])

    def one_logit(w: Any, x: Any) -> jax.Array:
        return (x @ w)[:, :1] + mixing(w, x)[:, 1:2]

    def entropy(z: Any, t: Any) -> jax.Array:
        return optax.sigmoid_binary_cross_entropy(z[:, 0], t)

    def far_from_0(w: Any, x: Any) -> jax.Array:
        return 2000 + mixing(w, x)[:, :1]

    targets, huge = np.stack([5e4 + 1e4 * X[:, 0], X[:, 1]], axis=1), X.copy()
    huge[7] *= 1e5
    refusal = pytest.raises(JaxfairError, match="rest of its batch")
    with refusal:
        jaxfair.group_report(other_units, W, X, targets, GROUP, loss=squares)
    with refusal:
        jaxfair.group_report(one_wins, W, X, Y, GROUP)
    with refusal:
        jaxfair.group_report(one_logit, W, huge, Y % 2, GROUP, loss=entropy)
    with refusal:
        jaxfair.group_report(far_from_0, W, X, 2000 + X[:, 0], GROUP, loss=lambda z, t: (z[:, 0] - t) ** 2)
    plain = jaxfair.group_report(
        lambda w, x: 2000 + net(w, x)[:, :1], W, X, 2000 + X[:, 0], GROUP, loss=lambda z, t: (z[:, 0] - t) ** 2
    )
    assert np.isfinite(plain.loss).all()


def test_a_class_switched_off_is_no_mistake() -> None:
    def off(w: Any, x: Any) -> jax.Array:
        return jnp.where(jnp.array([True, True, False]), 1e3 * net(w, x), -1e9)

    assert np.isfinite(jaxfair.group_report(off, W, X, GROUP, GROUP).curvature.top_eigenvalue).all()


def test_a_loss_whose_examples_depend_on_their_batch_is_refused() -> None:
    def balanced(logits: Any, y: Any) -> jax.Array:
        weight = jnp.where(y == 0, 2.0, 1.0)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y) * weight / weight.mean()

    def broadcast(logits: Any, y: Any) -> jax.Array:
        return (logits[:, :1] - y) ** 2

    with pytest.raises(JaxfairError, match="depends on which others"):
        report(loss=balanced)
    with pytest.raises(JaxfairError, match=r"returned shape \(20, 20\) for 20 examples"):
        report(loss=broadcast)


def by_frequency(logits: Any, y: Any) -> jax.Array:
    counts = jnp.bincount(y, length=CLASSES)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y) * len(y) / (CLASSES * counts[y])


def hardest_half(logits: Any, y: Any) -> jax.Array:
    each = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return jnp.where(each >= jnp.median(each), each, 0.0)


@pytest.mark.parametrize("loss", [by_frequency, hardest_half])
@pytest.mark.parametrize("labels", [np.sort(np.arange(N - 2) % 3), np.arange(N - 2) % 3], ids=["sorted", "in turn"])
def test_no_balance_of_the_labels_hides_a_loss_that_depends_on_its_batch(loss: Any, labels: Any) -> None:
    """Each label as often as the others, in the whole and in thirds of it."""
    x, group = X[: N - 2], GROUP[: N - 2]
    weights = np.asarray(jaxfair.group_weights(group, 2))
    calls = (
        lambda: jaxfair.group_report(net, W, x, labels, group, loss=loss),
        lambda: jaxfair.group_curvature(net, W, x, labels, weights, loss=loss),
        lambda: jaxfair.per_example_gradient_norms(net, W, x, labels, loss=loss),
        lambda: jaxfair.change_report((net, W), (net, 2 * W), x, labels, group, loss=loss),
    )
    for call in calls:
        with pytest.raises(JaxfairError, match="depends on which others it is computed with"):
            call()


def test_losses_of_their_own_examples_are_no_mistake() -> None:
    """Weighted by class, by how hard an example is, and infinite where its class is switched off."""

    def weighted(z: Any, y: Any) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(z, y) * jnp.array([1.0, 2.0, 30.0])[y]

    def focal(z: Any, y: Any) -> jax.Array:
        each = optax.softmax_cross_entropy_with_integer_labels(z, y)
        return each * (1 - jnp.exp(-each)) ** 2

    for loss in (weighted, focal):
        assert np.isfinite(report(loss=loss).loss).all()
    off, label = np.array([[0.0, -np.inf], [1.0, 0.0]], np.float32), np.array([1, 0])
    assert trusted_losses(lambda z, y: losses.cross_entropy(z, y), off, label)[0] == np.inf


def test_what_all_logits_of_an_example_have_in_common_costs_no_digits() -> None:
    """Logits of 1e7 are whole numbers in float32; their differences are exact."""
    logits = np.full((N, 2), 1e7, np.float32) + np.arange(N, dtype=np.float32)[:, None] * [0, 1]
    exact = np.log1p(np.exp(-np.arange(N)))
    found = jaxfair.change_report(logits, logits[:, ::-1], None, np.ones(N, int), GROUP)
    expected = [exact[g == GROUP].mean() for g in range(2)]
    np.testing.assert_allclose(found.loss_before.value, expected, rtol=1e-5)


def test_one_logit_several_labels_and_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    """One logit is a boundary at 0; what has no class has no accuracy, and the rest of the report stands."""

    def one(w: Any, x: Any) -> jax.Array:
        return net(w, x)[:, :1]

    def binary(z: Any, y: Any) -> jax.Array:
        return optax.sigmoid_binary_cross_entropy(z[:, 0], y)

    z = np.asarray(one(W, X))[:, 0]
    found = jaxfair.group_report(one, W, X, GROUP.astype(np.float32), GROUP, loss=binary)
    np.testing.assert_allclose(found.accuracy, [((z > 0) == GROUP)[g == GROUP].mean() for g in (0, 1)])
    gap = np.abs(2 / (1 + np.exp(-z)) - 1)
    np.testing.assert_allclose(found.softmax_gap, [gap[g == GROUP].mean() for g in (0, 1)], rtol=1e-5)
    soft = jaxfair.group_report(
        net, W, X, np.eye(CLASSES, dtype=np.float32)[Y], GROUP, loss=optax.softmax_cross_entropy
    )
    np.testing.assert_allclose(soft.accuracy, report().accuracy)
    many = (RNG.random((N, CLASSES)) < 0.6).astype(np.float32)
    several = report(many, loss=lambda z, y: optax.sigmoid_binary_cross_entropy(z, y).mean(axis=1))
    assert np.isnan(several.accuracy).all()
    assert "accuracy" not in str(several)
    assert np.isfinite(several.curvature.top_eigenvalue).all()
    monkeypatch.setattr("jaxfair.curvature.report.group_curvature", pytest.fail)  # refused before it
    with pytest.raises(JaxfairError, match="one logit"):
        jaxfair.group_report(one, W, X, np.zeros(N, int), GROUP)


@pytest.mark.usefixtures("callers_line")
def test_what_is_seldom_meant_is_said() -> None:
    def probabilities(w: Any, x: Any) -> jax.Array:
        return jax.nn.softmax(net(w, x))

    with pytest.warns(UserWarning, match="seems to return probabilities") as raised:
        jaxfair.group_report(probabilities, W, X, Y, GROUP)
    assert raised[0].filename == __file__, "the line to look at is the user's"
    shared = jnp.asarray(W)
    params = {"a": shared, "b": shared, "batch_stats": {"mean": jnp.ones(1)}}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        jaxfair.group_report(lambda p, x: net(p["a"] + p["b"], x) * p["batch_stats"]["mean"], params, X, Y, GROUP)
    texts = " ".join(str(warning.message) for warning in said)
    assert "'a' and 'b' are one array" in texts
    assert "batch statistics (batch_stats/mean)" in texts
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report()


def test_a_derivative_that_is_only_first_order_is_named() -> None:
    act = jax.custom_vjp(jnp.tanh)
    act.defvjp(lambda z: (act(z), z), lambda z, c: (c * (1 - jnp.tanh(z) ** 2),))
    with pytest.raises(JaxfairError, match="custom_vjp"):
        jaxfair.group_report(lambda w, x: act(x @ w), W, X, Y, GROUP)
    with pytest.raises(JaxfairError, match="custom_vjp"):
        bounds.binary_hessian_bound(lambda w, x: act(x @ w)[:, :2], W, X, Y % 2, WEIGHTS)


def test_donated_parameters_are_named() -> None:
    gone = jnp.asarray(W)
    gone.delete()
    with pytest.raises(JaxfairError, match="donated"):
        jaxfair.group_report(net, gone, X, Y, GROUP)


def test_donated_arrays_that_a_function_binds_are_named() -> None:
    gone = jnp.asarray(W)
    gone.delete()
    for call in (
        lambda: jaxfair.group_report(Partial(lambda g, w, x: net(w + g, x), gone), W, X, Y, GROUP),
        lambda: jaxfair.group_curvature(lambda w, x: net(w + gone, x), W, X, Y, WEIGHTS),
        lambda: linearized_distance(bind(net, gone), X, Y),
        lambda: jaxfair.deepfool(lambda x: x @ gone, X),
    ):
        with pytest.raises(JaxfairError, match="donated to a jitted function and is gone"):
            call()


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_distances_do_not_depend_on_the_logits_scale(scale: float) -> None:
    label = (X @ W).argmax(axis=1)
    plain, scaled = (
        linearized_distance(bind(lambda w, x: x @ w, np.float32(W * s)), X, label).distance for s in (1.0, scale)
    )
    np.testing.assert_allclose(scaled, plain, rtol=1e-5)


def test_strict_promotion_of_types_is_kept() -> None:
    with jax.numpy_dtype_promotion("strict"):
        found = report()
        steps = jaxfair.deepfool(bind(net, W), X, Y).steps
        with jax.enable_x64(True):
            jaxfair.change_report((net, W.astype(float)), (net, 2 * W.astype(float)), X.astype(float), Y, GROUP)
            operator = GroupOperator(net, W, X, Y, np.asarray(WEIGHTS[0], float))
            assert operator(np.ones(W.size)).dtype == np.float32
            taylor.network_lines(NETWORK, NETWORK, small())
            network, data = NETWORK, small()
            config = BcdConfig(block=30, tries=1, finetune=dataclasses.replace(BCD_FINETUNE, epochs=1, batch_size=4))
            jaxfair.bcd(network, network, data, config, budget=100, seed=0)
        jaxfair.group_weights(GROUP.astype(np.int8), 2)
    np.testing.assert_array_equal(found.loss, report().loss)
    np.testing.assert_array_equal(steps, jaxfair.deepfool(bind(net, W), X, Y).steps)


def test_parts_of_the_library_work_where_transfers_are_disallowed() -> None:
    operator, expected = (GroupOperator(net, W, X, Y, np.asarray(WEIGHTS[0])) for _ in range(2))
    kept = jaxfair.kept_weights(NETWORK.params)
    with jax.transfer_guard("disallow"):
        loss, _ = operator.loss_and_gradient()
        found = jaxfair.kept_weights(NETWORK.params)
        assert operator.not_finite() is None
    assert loss == expected.loss_and_gradient()[0]
    assert jax.tree.structure(found) == jax.tree.structure(kept)


def test_arrays_of_another_byte_order_that_a_function_binds_are_read_as_what_they_hold() -> None:
    """A compiled function reads their bytes as they are."""
    expected = linearized_distance(bind(net, W), X, Y).distance
    np.testing.assert_array_equal(linearized_distance(Partial(net, W.astype(">f4")), X, Y).distance, expected)
    jaxfair.group_report(Partial(lambda b, w, x: net(w, x) + b, np.zeros(3, ">f4")), W, X, Y, GROUP)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda leaf: np.asarray(leaf).astype(">f4"), "type >f4"),
        (lambda leaf: np.asarray(leaf).tolist(), "type float"),
        (lambda leaf: np.asarray(leaf).astype(np.int32), "type int32"),
        (lambda leaf: np.asarray(leaf).astype(np.complex64), "type complex64"),
        (lambda leaf: np.ma.array(leaf), "type MaskedArray"),
        (lambda leaf: pd.Series(np.ravel(leaf)), "type Series"),
    ],
)
def test_parameters_of_a_network_that_are_no_floating_point_numbers_are_refused(change: Any, words: str) -> None:
    """Those of another byte order, as some files have them, gave other logits and a training that is not finite."""
    network, data = NETWORK.replace(params=jax.tree.map(change, NETWORK.params)), small()
    for call in (
        lambda: jaxfair.predict(network, data),
        lambda: list(jaxfair.fit([network], data, ONE_STEP, seeds=[0])),
        lambda: jaxfair.quantize(network, 8),
        lambda: jaxfair.prune(network, jaxfair.PruneConfig()),
        lambda: frozen(network),
    ):
        with pytest.raises(JaxfairError, match=f"has a parameter of {words}; give arrays of floating-point numbers"):
            call()


def test_keys_of_parameters_that_cannot_be_sorted_are_named_where_two_trees_meet() -> None:
    mixed = {0: W, "a": W}
    for call in (
        lambda: bounds.parameter_distance(mixed, mixed),
        lambda: taylor.taylor_terms(net, mixed, mixed, X, Y, WEIGHTS),
        lambda: taylor.along_line(net, mixed, mixed, X, Y, WEIGHTS),
    ):
        with pytest.raises(JaxfairError, match="The parameters have a dictionary whose keys cannot be sorted"):
            call()


def test_strict_rank_promotion_is_kept() -> None:
    with jax.numpy_rank_promotion("raise"):
        assert np.isfinite(linearized_distance(bind(net, W), X, Y).distance).all()


def test_multiple_eigenvalues_are_all_found() -> None:
    """3, 3, 3 from a random start and from one inside a Krylov space that holds only one of them."""
    values = np.r_[3.0, 3.0, 3.0, np.linspace(0, 2, 37)]
    q = np.linalg.qr(RNG.normal(size=(40, 40)))[0]
    for largest, smallest in ((3, 0), (2, 0), (1, 2)):
        signs = np.where(values == 0, 0.0, values) if not smallest else values - 3.0
        found = extreme_eigenvalues(
            lambda v, signs=signs: q @ (signs * (q.T @ v)), RNG.normal(size=40), largest=largest, smallest=smallest,
            tolerance=1e-8, max_steps=400,
        )  # fmt: skip
        assert found.converged
        expected = np.r_[np.sort(signs)[::-1][:largest], np.sort(signs)[:smallest]]
        np.testing.assert_allclose(found.values, expected, atol=1e-6)


def test_arrays_on_several_devices_are_taken(tmp_path: Any) -> None:
    """Replicated parameters and sharded inputs, in a process whose CPU counts as two devices."""
    import os
    import subprocess
    import sys

    code = """
import numpy as np, jax, jax.numpy as jnp, jaxfair
from jax.sharding import NamedSharding, PartitionSpec as P
mesh, rng = jax.make_mesh((2,), ("data",)), np.random.default_rng(0)
w, x = (rng.normal(size=s).astype(np.float32) for s in ((4, 3), (20, 4)))
y, g = rng.integers(0, 3, 20), np.arange(20) % 2
net = lambda w, x: jnp.tanh(x @ w)
put = lambda a, spec: jax.device_put(a, NamedSharding(mesh, spec))
given = (w, x), (put(w, P()), x), (w, put(x, P("data")))
given += ((jax.device_put(w, jax.devices()[1]), jax.device_put(x, jax.devices()[0])),)
found = [jaxfair.group_report(net, *a, y, g).curvature.top_eigenvalue for a in given]
b = put(np.zeros(3, np.float32), P())
bound = jax.tree_util.Partial(lambda b, w, x: net(w, x) + b, b)
found.append(jaxfair.group_report(bound, w, x, y, g).curvature.top_eigenvalue)
ones = put(np.ones(4, np.float32), P("data"))  # one more than there are classes, on two devices
weighted = jax.tree_util.Partial(lambda k, z, y: k[y] * jaxfair.losses.cross_entropy(z, y), ones)
found.append(jaxfair.group_report(net, put(w, P()), x, y, g, loss=weighted).curvature.top_eigenvalue)
assert all((one == found[0]).all() for one in found), found
try:
    jaxfair.group_report(lambda w, x: net(w, x) + b, w, x, y, g)
except jaxfair.JaxfairError as error:
    assert "bind it by a jax.tree_util.Partial" in str(error)
else:
    raise AssertionError("an array on a mesh was read")
images, names = np.arange(512, dtype=np.uint8).reshape(8, 8, 8, 1), {"class_names": [*"ab"], "group_names": [*"ab"]}
data = jaxfair.make_dataset(images, np.arange(8) % 2, np.arange(8) % 2, name="few", **names)
network, step = jaxfair.init(jaxfair.CNN(2, (2,)), (8, 8, 1), 0), jaxfair.TrainConfig(epochs=1, batch_size=4)
split = lambda tree: jax.tree.map(lambda a: put(a, P("data") if a.shape and len(a) % 2 == 0 else P()), tree)
logits = []
for one, some in ((network, data), (split(network), data), (network, split(data))):
    (fitted,) = jaxfair.fit([one], some, step, seeds=[0])
    logits.append(np.stack([jaxfair.predict(one, some), jaxfair.predict(fitted.network, data)]))
assert all((found == logits[0]).all() for found in logits), logits
import warnings
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    twice = put(w, P())
    jaxfair.group_report(lambda p, x: net(p["a"] + p["b"], x), {"a": twice, "b": twice}, x, y, g)
assert "one array" in str(said[0].message)
"""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_one_column_of_probabilities_is_said() -> None:
    """Of a sigmoid; one logit is cut at 0, where all of them would be the second class."""

    def probability(w: Any, x: Any) -> jax.Array:
        return jax.nn.sigmoid(x @ w)

    def entropy(p: Any, t: Any) -> jax.Array:
        return -(t * jnp.log(p[:, 0]) + (1 - t) * jnp.log1p(-p[:, 0]))

    with pytest.warns(UserWarning, match="return the logits before the sigmoid; one logit is compared with 0"):
        jaxfair.group_report(probability, W[:, :1], X, Y % 2, GROUP, loss=entropy)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        jaxfair.change_report((probability, W[:, :1]), (probability, -W[:, :1]), X, Y % 2, GROUP, loss=entropy)
    assert sum("seems to hold probabilities; give the logits before the sigmoid" in str(w.message) for w in said) == 2


def test_a_network_in_training_mode_has_no_change() -> None:
    def norm(w: Any, x: Any) -> jax.Array:
        return ((x - x.mean(0)) / (x.std(0) + 1e-3)) @ w

    with pytest.raises(JaxfairError, match="put batch norm and dropout into evaluation mode"):
        jaxfair.change_report((norm, W), (norm, W / 2), X, Y, GROUP)


WEIGHTS = np.asarray(jaxfair.group_weights(GROUP, 2))
TOO_LARGE = np.arange(N) * 10**9


def endless(w: Any, x: Any) -> jax.Array:
    return jax.lax.while_loop(lambda carry: carry[1] < 2, lambda carry: (1.1 * carry[0], carry[1] + 1), (x @ w, 0))[0]


def called_back(w: Any, x: Any) -> jax.Array:
    return jax.pure_callback(lambda z: z, jax.ShapeDtypeStruct((len(x), CLASSES), jnp.float32), x @ w)


@pytest.mark.parametrize("model", [endless, called_back])
def test_what_has_no_derivative_is_named_wherever_one_is_taken(model: Any) -> None:
    for call in (
        lambda: jaxfair.per_example_gradient_norms(model, W, X, Y),
        lambda: jaxfair.gradient_sampling(model, W, X, Y, WEIGHTS),
        lambda: linearized_distance(bind(model, W), X, Y),
        lambda: jaxfair.deepfool(bind(model, W), X),
        lambda: bounds.binary_hessian_bound(lambda w, x: model(w, x)[:, :2], W, X, Y % 2, WEIGHTS),
    ):
        with pytest.raises(JaxfairError, match="a loop of unknown length or a callback"):
            call()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: jaxfair.groups.wilson(80, 100), "A proportion is 80; give one from 0 to 1, not in percent"),
        (lambda: jaxfair.groups.wilson("abc", 10), "The proportion or its count is no number"),
        (lambda: jaxfair.groups.drop_interval([[3, 1]], [[1, 1]]), "A prediction is 3; give 1 where one is right"),
        (lambda: report(y=np.array(["a", np.nan] * (N // 2))), "10 of 20 labels are missing, the first of example 1"),
        (lambda: report(y=["a", None] * (N // 2), loss=lambda z, t: z[:, 0] - t), "10 of 20 labels are missing"),
        (lambda: report(x=np.c_[TOO_LARGE, GROUP]), "whole numbers from 0 to 19000000000, which JAX cannot hold"),
        (lambda: report(y=TOO_LARGE, loss=lambda z, t: z[:, 0] - t), "give floating-point numbers"),
        (lambda: jaxfair.group_curvature(net, W, X, Y, np.ma.array(WEIGHTS, mask=WEIGHTS > 0)), "weights are masked"),
        (lambda: GroupOperator(net, W, X, Y, np.ma.array(WEIGHTS[0], mask=WEIGHTS[1] > 0)), "weights are masked"),
        (lambda: jaxfair.group_curvature(net, W, X, Y, WEIGHTS > 0), "weights are booleans, whose losses would add up"),
        (lambda: jaxfair.relative_drop(np.ma.array([0.8, 0.1], mask=[0, 1]), [0.6, 0.4]), "accuracies are masked"),
        (lambda: jaxfair.group_curvature(lambda w, x: (net(w, x), 0), W, X, Y, WEIGHTS), "returned a tuple"),
        (lambda: linearized_distance(lambda x: (x, x), X, Y), "classifier returned a tuple"),
        (lambda: linearized_distance(lambda x: np.asarray(x) @ W, X, Y), "leaves JAX"),
        (lambda: linearized_distance(lambda x: (9 * x @ W).astype(int), X, Y), "has no gradient"),
        (lambda: jaxfair.change_report(pd.DataFrame(net(W, X)).assign(id=1), X, None, Y, GROUP), "column 'id'"),
        (
            lambda: jaxfair.change_report(pd.DataFrame(net(W, X)).assign(person=range(N)), X, None, Y, GROUP),
            "before has a column 'person' of whole numbers",
        ),
        (
            lambda: jaxfair.change_report(X, np.column_stack([range(N), net(W, X)]), None, Y, GROUP),
            "after has a column 0 of whole numbers",
        ),
        (lambda: jaxfair.change_report(list(X), list(X), None, Y, GROUP), "A list holds runs"),
        (
            lambda: jaxfair.group_report(Partial(lambda w, x, act: net(w, x), act="tanh"), W, X, Y, GROUP),
            "binds 'tanh'",
        ),
        (
            lambda: jaxfair.group_report(Partial(lambda w, x, act: act(x @ w), act=jnp.tanh), W, X, Y, GROUP),
            "binds a PjitFunction, no array; bind it by a lambda, not by a Partial",
        ),
        (
            lambda: report(loss=Partial(lambda z, y, act: act(z[:, 0]), act=net)),
            "binds a function, no array; bind it by a lambda, not by a Partial",
        ),
        (lambda: jaxfair.group_report(W, net, X, Y, GROUP), "logits_fn is of type ndarray; give a function"),
        (lambda: report(x=list(X)), "taken for as many inputs of a model; stack the examples"),
        (lambda: jaxfair.groups.drop_interval([[1.0, 0.0]], [[1.0]]), r"shapes \(1, 2\) and \(1, 1\)"),
        (lambda: jaxfair.groups.drop_interval([[1.0, 0.0]], [[1.0, 0.0]], level=95), "The level is 95"),
        (lambda: jaxfair.groups.drop_interval([[1, 0]], [[1, 0]], ["a", None]), "1 of 2 examples have no group; leave"),
        (lambda: jaxfair.group_curvature(net, W, X, Y, WEIGHTS + 0j), "weights have type complex"),
        (lambda: jaxfair.group_curvature(net, W, X, Y, WEIGHTS * np.nan), "A weight is not a finite number"),
        (lambda: jaxfair.change_report(X.astype(complex), X, None, Y, GROUP), "answers before are complex"),
        (lambda: jaxfair.change_report([], [], None, [], []), "There are no examples"),
        (lambda: report(x=X[:0], y=Y[:0], group=GROUP[:0]), "There are no examples"),
        (lambda: report(y=np.where(GROUP == 0, 1e300, 0)), "label of example 0 is 1e"),
        (lambda: jaxfair.group_weights([0.0, np.nan, 1.0], 2), "1 of 3 examples have no group"),
        (lambda: jaxfair.group_means([1.0, 2.0], np.array(["a", None], object), 2), "1 of 2 examples have no group"),
        (lambda: jaxfair.group_weights([0, np.inf], 1), "groups have type float64; give integers"),
        (lambda: jaxfair.group_weights([0, 1], 0), "number of groups is 0; give at least 1"),
        (lambda: jaxfair.groups.seed_interval(np.arange(5.0), 95), "The level is 95; give one between 0 and 1"),
        (lambda: jaxfair.group_means([0.0, 1.0], [0, 1], 2**40), "1099511627776; give at most 1000000"),
        (
            lambda: jaxfair.group_report(net, {1: W, "b": W}, X, Y, GROUP),
            "parameters have a dictionary whose keys cannot be sorted",
        ),
        (lambda: report(x={1: X, "b": X}), "inputs have a dictionary whose keys cannot be sorted"),
        (lambda: report(group_names=["\u00e9", "e\u0301"]), "Two groups have one name"),
        (lambda: jaxfair.group_report(lambda w, x: (9 * x @ w).astype(int), W, X, Y, GROUP), "numbers of type int32"),
        (lambda: jaxfair.group_report(endless, W, X, Y, GROUP), "a loop of unknown length or a callback"),
        (lambda: jaxfair.group_report(called_back, W, X, Y, GROUP), "a loop of unknown length or a callback"),
        (lambda: jaxfair.block_curvature(net, W, X, Y, WEIGHTS, after=W * np.nan), "after the change is not a finite"),
        (lambda: jaxfair.block_curvature(net, W, X, Y, WEIGHTS, after=np.ma.array(W)), "is a masked array"),
        (lambda: jaxfair.load(SourceConfig("folder", path="x", size="8")), "image size is '8'"),
        (lambda: jaxfair.load(SourceConfig("folder", path="x", size=True)), "image size is True"),
        (
            lambda: jaxfair.load(SourceConfig("folder", path="x", allow_dropping="no")),
            "allow_dropping is 'no'; give True",
        ),
        (lambda: jaxfair.load(SourceConfig("folder", path="x", label=None)), "given as label is None; give the name"),
        (lambda: jaxfair.load(SourceConfig("folder", path="x", group=3)), "given as group is 3; give the name"),
        (lambda: jaxfair.load(SourceConfig(None)), "There is no data set 'None'"),
    ],
)
def test_what_would_be_another_number_is_refused(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(JaxfairError, match=said) as refused:
        call()
    assert len(str(refused.value)) < LONGEST
    assert "\n" not in str(refused.value)


def test_a_loss_whose_examples_depend_on_their_batch_is_refused_by_curvature_too() -> None:
    """An output of shape (n, 1) beside targets of shape (n,): each example meets the targets of all."""
    with pytest.raises(JaxfairError, match="depends on which others it is computed with"):
        jaxfair.group_curvature(net, W, X, X[:, 0], WEIGHTS, loss=lambda z, t: ((z[:, :1] - t) ** 2).mean(1))


def test_a_loss_may_take_a_tree_of_outputs() -> None:
    def both(w: Any, x: Any) -> dict[str, jax.Array]:
        return {"logits": net(w, x), "size": jnp.sum(x**2, axis=1)}

    def loss(outputs: Any, y: Any) -> jax.Array:
        return outputs["size"] * optax.softmax_cross_entropy_with_integer_labels(outputs["logits"], y)

    found = jaxfair.group_curvature(both, W, X, Y, WEIGHTS, loss=loss).loss
    each = np.asarray(loss(both(W, X), Y))
    np.testing.assert_allclose(found, WEIGHTS @ each, rtol=1e-5)


def test_labels_of_a_bound_are_taken_by_position() -> None:
    two, binary = W[:, :2], Y % 2
    shuffled = pd.Series(binary).iloc[SHUFFLED].set_axis(np.arange(N)[SHUFFLED])
    bound = [
        jaxfair.bounds.binary_hessian_bound(net, two, X, y, WEIGHTS).bound
        for y in (binary[SHUFFLED], shuffled, np.eye(2)[binary[SHUFFLED]])
    ]
    np.testing.assert_array_equal(bound[1], bound[0])
    np.testing.assert_array_equal(bound[2], bound[0])


@pytest.mark.parametrize(
    "group",
    [
        [(None, "f"), *[("a", "m")] * (N - 1)],
        [(float("nan"), "f"), *[("a", "m")] * (N - 1)],
        pd.MultiIndex.from_frame(pd.DataFrame({"a": [None, *"ab" * 9, "b"], "b": list("mf" * 10)})),
        np.array(["nan", *["a"] * (N - 1)]),  # as NumPy writes a NaN among texts
    ],
    ids=["tuples", "numbers", "index", "texts"],
)
def test_an_intersection_of_which_a_part_is_missing_is_missing(group: Any) -> None:
    with pytest.raises(JaxfairError, match="1 of 20 examples have no group, the first is example 0"):
        report(group=group)
    assert report(group=group, missing="drop").count.sum() == N - 1


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="NumPy has no texts of its own")
def test_missing_texts_of_numpy_are_missing() -> None:
    texts = np.array(["a", np.nan] * (N // 2), np.dtypes.StringDType(na_object=np.nan))
    assert report(group=texts, missing="drop").count.tolist() == [N // 2]


@pytest.mark.parametrize("kind", ["S4", object, "list"])
def test_what_is_missing_is_missing_as_bytes_and_objects_too(kind: Any) -> None:
    """A column with None that was made to texts, by whichever way, as pandas' ``astype(str)`` leaves it."""
    texts = np.array(["a", "None"] * (N // 2))
    group = texts.tolist() if kind == "list" else texts.astype(kind)
    assert report(group=group, missing="drop").count.tolist() == [N // 2]


def test_large_numbers_without_a_sign_are_as_JAX_keeps_them() -> None:
    large = np.array([3_000_000_000, 7], np.uint32)[np.arange(N) % 2][:, None]
    np.testing.assert_array_equal(as_inputs(large), large)
    with pytest.raises(JaxfairError, match="cannot hold in 32 bits"):
        as_inputs(large.astype(np.int64))


def test_one_text_in_two_forms_of_unicode_is_one_group() -> None:
    for group in (["caf\u00e9", "cafe\u0301"] * (N // 2), np.array(["caf\u00e9", "cafe\u0301"] * (N // 2))):
        assert report(group=group).names == ("caf\u00e9",)
    both = [("caf\u00e9", 1), ("cafe\u0301", 1)] * (N // 2)
    assert len(report(group=both).names) == 1


def test_columns_of_whole_bytes_do_not_wrap() -> None:
    """Targets of an own loss that computes 2 t - 1."""

    def hinge(z: Any, t: Any) -> jax.Array:
        return jnp.maximum(0, 1 - z[:, 0] * (2 * t - 1))

    found = [report(y=(Y % 2).astype(kind), loss=hinge).loss for kind in (np.uint8, np.float32)]
    np.testing.assert_allclose(*found, rtol=1e-6)


def test_classes_may_have_any_codes() -> None:
    """Several runs, whose most frequent class is looked for."""
    y = Y * 10**8
    runs = [y, np.where(np.arange(N) == 3, 0, y), y]
    assert jaxfair.change_report(runs, [y] * 3, None, y, GROUP).accuracy_after.value.tolist() == [1, 1]


TIMES = np.array(["2020-01-01", "2021-01-01"] * 10)


@pytest.mark.parametrize(
    ("group", "names"),
    [
        ([2**60, 2**60 + 1] * 9 + [float("nan"), 2**60], (str(2**60), str(2**60 + 1))),
        ([2**60, 0.5] * 10, ("0.5", str(2**60))),
        (TIMES.astype("M8[ns]"), ("2020-01-01", "2021-01-01")),
        (pd.Series(pd.to_datetime(TIMES)).to_numpy(), ("2020-01-01", "2021-01-01")),
        (
            np.array(["2020-01-01T12:00", "2020-01-01T12:30"] * 10, "M8[ns]"),
            ("2020-01-01 12:00:00", "2020-01-01 12:30:00"),
        ),
        (np.array(["2020-01-01T00:00:00.000000001", "2020-01-01"] * 10, "M8[ns]"), ("2020-01-01", "2020-01-01T00")),
        (np.array([1, 2] * 10, "m8[ns]"), ("1 nanoseconds", "2 nanoseconds")),
        (list(zip(["f", "m"] * 10, np.array([30, 40] * 10), strict=True)), ("('f', 30)", "('m', 40)")),
        (np.ma.array(GROUP[:, None], mask=np.zeros((N, 1), bool)), ("0", "1")),
        ([jnp.asarray(g) for g in GROUP], ("0", "1")),
        (np.ma.array(GROUP[:, None], mask=np.arange(N)[:, None] == 3), ("0", "1")),
    ],
    ids=str,
)
def test_groups_are_told_apart_and_called_by_their_values(group: Any, names: tuple[str, ...]) -> None:
    found = report(group=group, missing="drop").names
    assert len(found) == 2
    assert all(name.startswith(start) for name, start in zip(found, names, strict=True))


@pytest.mark.parametrize(
    ("kinds", "reference"),
    [
        ([b"a", b"b"], b"a"),
        ([0.0, 1.0], 1.0),
        ([0.0, 1.0], np.float64(0)),
        (["\u00e9", "x"], "e\u0301"),
        ([(0, 0), (1, 1)], (0, 0)),
        ([np.float32(0.1), np.float32(0.2)], 0.1),
        ([Decimal("1.0"), Decimal("2")], 1),
    ],
    ids=str,
)
def test_the_reference_is_a_value_of_the_groups(kinds: list[Any], reference: Any) -> None:
    found = jaxfair.change_report(Y, Y, None, Y, kinds * (N // 2), reference=reference)
    assert {one.reference for one in found.differences} == {grouping.name_of(reference)} <= set(found.names)


def test_a_day_is_the_reference_as_pandas_has_it() -> None:
    group = pd.Series(pd.to_datetime(["2020", "2021"] * (N // 2)))
    found = jaxfair.change_report(Y, Y, None, Y, group, reference=pd.Timestamp("2021"))
    assert {one.reference for one in found.differences} == {"2021-01-01"}


@pytest.mark.parametrize("names", [[0.0, np.nan], ["a", None], np.ma.array(["a", "b"], mask=[False, True])])
def test_a_name_that_is_missing_names_no_group(names: Any) -> None:
    """As of ``np.unique`` and ``pandas.factorize``; a text is a name, whatever it says."""
    assert report(group=GROUP, group_names=names, missing="drop").count.tolist() == [10]
    assert report(group=GROUP, group_names=names, missing="group").names[1] == grouping.MISSING
    assert report(group=GROUP, group_names=["none", b"some"]).names == ("none", "some")


def test_groups_in_tensors_of_a_list_and_masked_records_are_told_apart() -> None:
    class Tensor:  # as PyTorch's: equal to nothing else, and with one number
        ndim = 0

        def __init__(self, number: int) -> None:
            self.item = lambda: number

    assert report(group=[Tensor(int(g)) for g in GROUP]).names == ("0", "1")
    records = np.ma.array(np.array([(1, 2), (2, 3)] * (N // 2), [("i", int), ("s", int)]))
    assert report(group=records).names == ("(1, 2)", "(2, 3)")
    records["s"][0] = np.ma.masked
    assert report(group=records, missing="drop").count.sum() == N - 1
    with pytest.raises(JaxfairError, match=r"groups have type timedelta64\[D\]; give integers 0..G-1"):
        jaxfair.group_weights(np.array([0, 1], "m8[D]"), 2)
    with pytest.raises(JaxfairError, match=r"Inputs have type timedelta64\[D\]; give numbers"):
        report(x=np.ones((N, 4), "m8[D]"))


def test_numbers_that_float32_does_not_tell_apart_are_said() -> None:
    """Times in seconds since 1970, as inputs and as what is to be told; others draw no word."""
    far = 1.7e9 + 10 * np.arange(N)
    with pytest.warns(
        match=r"inputs have numbers up to 1.7e\+09 that differ by less than float32 tells apart; subtract"
    ):
        as_inputs(np.stack([far, X[:, 0]], axis=1))
    with pytest.warns(match="labels have numbers up to"):
        labels.as_told(far)
    for measure in (linearized_distance, jaxfair.deepfool):
        with pytest.warns(match="inputs have numbers up to"):
            measure(lambda x: (x - 1.7e9) @ W, X.astype(np.float64) + 1.7e9, Y)
    with pytest.warns(match=r"parameter 'params' has numbers up to 1e\+08 that differ"):
        jaxfair.group_curvature(lambda w, x: net(w - 1e8, x), W.astype(np.float64) + 1e8, X, Y, WEIGHTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for near in (X.astype(np.float64), np.full((N, 2), 1e10 + 0.1), (far - far[0])[:, None]):
            as_inputs(near)
            labels.as_told(near[:, 0])
        with jax.enable_x64(True):
            as_inputs(far[:, None])


@pytest.mark.parametrize(
    "call",
    [
        report,
        lambda y: linearized_distance(bind(net, W), X, y),
        lambda y: jaxfair.deepfool(bind(net, W), X, y),
        lambda y: margins.signed_softmax_gap(net(W, X), y),
        lambda y: jaxfair.change_report((net, W), (net, W), X, y, GROUP),
        lambda y: jaxfair.change_report(Y, Y, None, y, GROUP),
    ],
)
@pytest.mark.parametrize("box", [np.asarray, pd.Series, list, lambda y: y[:, None]])
def test_booleans_are_labels_of_two_classes_alone(call: Any, box: Any) -> None:
    """They say who is right as a rule, wherever the number of classes is known."""
    with pytest.raises(JaxfairError, match="labels are booleans, and there are 3 classes; give each example its class"):
        call(box(Y == 1))


@pytest.mark.parametrize("kind", [object, np.longdouble, "O of floats"])
def test_numbers_in_any_box_reach_a_loss(kind: Any) -> None:
    def squares(outputs: Any, told: Any) -> Any:
        return (outputs[:, 0] - told) ** 2

    told = X[:, 0].astype(object) if kind == "O of floats" else X[:, 0].astype(kind)
    np.testing.assert_allclose(report(told, loss=squares).loss, report(X[:, 0], loss=squares).loss)
    for call in (
        lambda y: jaxfair.per_example_gradient_norms(net, W, X, y, loss=squares),
        lambda y: jaxfair.group_curvature(net, W, X, y, np.asarray(jaxfair.group_weights(GROUP, 2)), loss=squares).loss,
    ):
        np.testing.assert_allclose(call(told), call(X[:, 0]), rtol=1e-6)


@pytest.mark.parametrize("kind", [np.longdouble, object, "Float64"])
def test_inputs_in_any_box_have_their_distances(kind: Any) -> None:
    x = pd.DataFrame(X).astype(kind) if kind == "Float64" else X.astype(kind)
    expected = linearized_distance(bind(net, W), X, Y).distance
    np.testing.assert_allclose(linearized_distance(bind(net, W), x, Y).distance, expected, rtol=1e-5)


def test_registered_trees_are_inputs() -> None:
    """A frozen dictionary, a dataclass of Flax, and a tree with nothing in one place."""

    @flax.struct.dataclass
    class Batch:
        a: Any
        mask: Any = None

    expected = report().loss
    for x, read in (
        (flax.core.freeze({"a": X}), lambda x: x["a"]),
        (Batch(X), lambda x: x.a),
        ({"a": X, "mask": None}, lambda x: x["a"]),
        ([X, None], lambda x: x[0]),
    ):
        found = jaxfair.group_report(lambda w, x, read=read: net(w, read(x)), W, x, Y, GROUP)
        np.testing.assert_allclose(found.loss, expected, rtol=1e-6)


def test_a_class_that_is_ruled_out_has_a_logit_of_minus_infinity() -> None:
    y = np.arange(60) % 2
    logits = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    logits[:, 2] = -np.inf
    found = jaxfair.change_report(logits, logits[::-1], None, y, y)
    np.testing.assert_allclose(
        found.loss_before.value,
        jaxfair.change_report(logits[:, :2], logits[:, :2], None, y, y).loss_before.value,
        rtol=1e-6,
    )
    for bad in (np.full(3, -np.inf), np.array([np.inf, 0, 0]), np.array([np.nan, 0, 0])):
        with pytest.raises(JaxfairError, match="A logit of example 4 after is not a finite number"):
            jaxfair.change_report(logits, np.where(np.arange(60)[:, None] == 4, bad, logits), None, y, y)


NETWORK = init(CNN(2, (4,)), (8, 8, 1), 0)
IMAGES = np.zeros((N, 8, 8, 1), np.float32)
NOT_NUMBERS: dict[str, tuple[Callable[[], Any], str]] = {
    "times meaned": (
        lambda: jaxfair.group_means(np.zeros(N, "M8[s]"), GROUP, 2),
        "The values are no numbers but of type datetime64",
    ),
    "texts meaned": (lambda: jaxfair.group_means(["1"] * N, GROUP, 2), "The values are no numbers but of type <U1"),
    "times as logits": (
        lambda: jaxfair.softmax_gap(np.zeros((2, 2), "M8[s]")),
        "The logits are no numbers but of type datetime64",
    ),
    "texts told": (lambda: report(np.full(N, "a"), loss=lambda z, y: z[:, 0]), "np.unique"),
    "texts as labels": (lambda: report(np.full(N, "a")), r"np.unique\(y, return_inverse=True\)"),
    "masked losses": (
        lambda: sensitivity.group_sensitivity(np.ma.array(np.ones((2, 2)), mask=np.eye(2))),
        "2 of the losses are masked",
    ),
    "masked changes": (
        lambda: taylor.agreement(np.ma.array(np.ones((2, 2)), mask=np.eye(2)), np.ones((2, 2))),
        "2 of the changes are masked",
    ),
    "texts as losses": (
        lambda: sensitivity.group_sensitivity([["a", "b"]]),
        "The losses are no numbers but of type <U1",
    ),
    "no sensitivities": (lambda: sensitivity.fairness_violation([]), "give one for each group"),
    "masked parameters": (lambda: bounds.parameter_distance(np.ma.array([1.0], mask=[1]), np.ones(1)), "are masked"),
    "complex parameters": (lambda: bounds.parameter_distance(np.array([1j]), np.array([0j])), "are complex"),
    "traced parameters": (
        lambda: jax.jit(lambda w: jaxfair.per_example_gradient_norms(net, w, X, Y))(W),
        "call this outside of jit",
    ),
    "a network for its function": (
        lambda: jaxfair.group_report(NETWORK, NETWORK.params, IMAGES, Y % 2, GROUP),
        r"logits_fn\(params, x\) fails .*such as frozen\(network\), network.params",
    ),
    "a network for its parameters": (
        lambda: jaxfair.group_report(frozen(NETWORK), NETWORK, IMAGES, Y % 2, GROUP),
        r"logits_fn\(params, x\) fails .*such as frozen\(network\), network.params",
    ),
    "a predicted class": (
        lambda: jaxfair.change_report(Y, Y - 1, None, Y, GROUP),
        r"The class after of example \d+ is -1",
    ),
    "times as weights": (
        lambda: GroupOperator(net, W, X, Y, np.ones(N, "m8[D]")),
        "The weights have type timedelta64",
    ),
    "keys as labels": (
        lambda: jaxfair.per_example_gradient_norms(net, W, X, jax.random.split(jax.random.key(0), N)),
        "The labels are random keys; give an array of numbers",
    ),
    "a long reference": (
        lambda: jaxfair.change_report(Y, Y, None, Y, [f"{'x' * 300}{g}" for g in GROUP], reference="q" * 500),
        "There is no group 'q",
    ),
}


@pytest.mark.parametrize("case", NOT_NUMBERS)
def test_what_is_no_number_is_refused(case: str) -> None:
    call, said = NOT_NUMBERS[case]
    with pytest.raises(JaxfairError, match=said) as error:
        call()
    assert len(str(error.value)) < LONGEST


@pytest.mark.parametrize("names", [["a", "empty", "b"], ["empty", "a", "b"], ["a", "b", "empty"]])
def test_the_advice_for_an_empty_group_works(names: list[str]) -> None:
    group = np.array([i for i, name in enumerate(names) if name != "empty"])[GROUP]
    for call in (
        lambda **options: report(**options).names,
        lambda **options: jaxfair.change_report(Y, Y, None, Y, **options).names,
    ):
        with pytest.raises(JaxfairError, match="The group empty has no example; give groups by name"):
            call(group=group, group_names=names)
        assert call(group=np.asarray(names)[group]) == ("a", "b")


def test_a_list_of_single_predictions_is_one_run() -> None:
    predicted = [jnp.argmax(row) for row in net(W, X)]
    found = jaxfair.change_report(predicted, list(Y), None, Y, GROUP)
    assert found.runs == 1
    np.testing.assert_allclose(found.accuracy_before.value, report().accuracy)


def test_reports_of_equal_labels_in_two_types_can_be_subtracted() -> None:
    def squares(outputs: Any, told: Any) -> Any:
        return (outputs[:, 0] - told) ** 2

    first, second = (report(Y.astype(kind), loss=squares) for kind in (int, np.float32))
    np.testing.assert_allclose((first - second).difference["loss"], 0, atol=1e-6)
    with pytest.raises(JaxfairError, match="different examples"):
        report(1 - Y, loss=squares) - first


def test_groups_in_a_tensor_are_counted() -> None:
    """Its ``size`` is a method, as PyTorch's is."""
    found = jaxfair.group_weights(Tensor(np.array([0, 0, 1])), 2)
    np.testing.assert_allclose(found, [[0.5, 0.5, 0], [0, 0, 1]])


def test_a_part_of_a_record_that_is_missing_is_missing() -> None:
    table = pd.DataFrame({"sex": list("abab"), "age": [1.0, 2.0, 1.0, np.nan]})
    records = table.to_records(index=False)
    with pytest.raises(JaxfairError, match="1 of 4 examples have no group"):
        grouping.as_groups(records)
    assert grouping.as_groups(records, missing="drop")[2].tolist() == [True, True, True, False]
    with pytest.raises(JaxfairError, match="The inputs are records of sex, age; give an array without names"):
        inputs.as_array(records, "inputs")


@pytest.mark.parametrize("missing", [None, np.nan, np.datetime64("NaT"), pd.NA])
def test_what_numpy_writes_of_a_missing_value_is_missing(missing: Any) -> None:
    with pytest.raises(JaxfairError, match="1 of 3 examples have no group"):
        grouping.as_groups(np.array(["a", "b", str(missing)]))


def test_operators_take_real_vectors_outside_of_jit() -> None:
    operator = GroupOperator(lambda w, x: x @ w, np.eye(3, dtype=np.float32), np.eye(3), np.arange(3), np.ones(3) / 3)
    vector = np.ones(9, np.float32)
    for odd, said in (
        (vector + 1j, "complex; give real numbers"),
        (np.ma.masked_array(vector, vector > 0), "masked"),
        (["a"] * 9, "no numbers"),
    ):
        with pytest.raises(JaxfairError, match=said):
            operator(odd)
    for chunks in (0, 9):
        with pytest.raises(JaxfairError, match="chunks were asked for"):
            operator(vector, chunks)
    with pytest.raises(JaxfairError, match="traced by JAX; call the operator outside of jit"):
        jax.jit(operator)(vector)


def test_parameters_that_are_no_numbers_are_refused() -> None:
    shapes = {"w": jax.ShapeDtypeStruct((3, 3), jnp.float32)}
    for params, said in (
        (shapes, "'w' is a shape without numbers"),
        ({"w": np.zeros((0, 3), np.float32)}, "no number"),
    ):
        with pytest.raises(JaxfairError, match=said):
            jaxfair.group_report(lambda p, x: x @ p["w"], params, np.eye(3), np.arange(3), np.arange(3))


@pytest.mark.usefixtures("callers_line")
def test_what_is_seldom_meant_is_said_wherever_parameters_are_differentiated() -> None:
    """Not by the report alone: it is of the parameters and labels, whatever is asked of them."""
    params = {"w": jnp.asarray(W), "batch_stats": jnp.ones(1)}

    def model(p: Any, x: Any) -> jax.Array:
        return net(p["w"], x) * p["batch_stats"]

    weights = jaxfair.group_weights(GROUP, len(np.unique(GROUP)))
    for ask in (
        lambda: jaxfair.group_curvature(model, params, X, Y, weights),
        lambda: jaxfair.per_example_gradient_norms(model, params, X, Y),
        lambda: jaxfair.gradient_sampling(model, params, X, Y, weights),
    ):
        with pytest.warns(UserWarning, match="batch statistics") as raised:
            ask()
        assert raised[0].filename == __file__
    below = np.where(np.arange(N) == 5, -1, Y)
    with pytest.warns(UserWarning, match="1 of 20 labels are below 0"):
        jaxfair.group_curvature(
            net, W, X, below, weights, loss=lambda z, y: optax.softmax_cross_entropy_with_integer_labels(z, y)
        )


def test_a_mesh_that_is_set_is_refused() -> None:
    with jax.set_mesh(jax.make_mesh((1,), ("d",))), pytest.raises(JaxfairError, match=r"A mesh is set by jax.set_mesh"):
        report()


class HalfTensor(Tensor):
    """One of a type that NumPy has not, or a sparse one."""

    def numpy(self) -> np.ndarray:
        raise TypeError("Got unsupported ScalarType BFloat16")


def small(**changes: Any) -> Any:
    """Some images of two classes and groups, with other fields than theirs."""
    images, number = np.arange(8 * 64, dtype=np.uint8).reshape(8, 8, 8, 1), np.arange(8)
    names = {"class_names": ["a", "b"], "group_names": ["c", "d"]}
    made = jaxfair.make_dataset(images, number % 2, number // 2 % 2, name="small", **names)
    return dataclasses.replace(made, **changes)


NETWORK = init(CNN(num_classes=2, features=(2,)), (8, 8, 1), seed=0)
ONE_STEP = jaxfair.TrainConfig(epochs=1, batch_size=4, learning_rate=0.1)
BYTES = np.zeros((2, 8, 8, 1), np.uint8)
SENET = SenetConfig(sparse_train=ONE_STEP)


def first_steps(**options: Any) -> Any:
    config = dataclasses.replace(ONE_STEP, **options)
    return trajectory.first_steps(NETWORK, small(), config, seed=0, steps=[1])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: NETWORK(BYTES), r"input has type uint8; give normalized images, data\.normalize\(images\)"),
        (lambda: report_of_bytes(), r"input has type uint8; give normalized images"),
        (lambda: jaxfair.gathered(NETWORK)(BYTES), "input has type uint8; give normalized images"),
        (lambda: jaxfair.gathered(NETWORK)(np.zeros((2, 16, 16, 1))), r"takes 8x8 images .* shape \(2, 16, 16, 1\)"),
        (lambda: jaxfair.predict(NETWORK, small(mean=jnp.full(1, jnp.nan))), "no channel statistics yet; give"),
        (lambda: small().normalize(np.zeros((2, 8, 8, 1))), "Images to normalize have type float32 .* uint8 with 1"),
        (lambda: small().normalize(np.zeros((2, 8, 8, 3), np.uint8)), "uint8 with 1 channels"),
        (lambda: report(y=HalfTensor(Y)), r"NumPy cannot read the labels \(Got unsupported ScalarType BFloat16\)"),
        (lambda: report_by(pytest.fail, chunk_size=0), "chunk size is 0; give at least 1"),
        (lambda: report_by(pytest.fail, chunk_size=-8), "chunk size is -8; give at least 1"),
        (lambda: report_by(pytest.fail, max_steps=0), "At most 0 Lanczos steps were allowed; allow at least 1"),
        (lambda: report_by(pytest.fail, max_basis=0), "A basis of 0 vectors is too small; allow at least 4"),
        (
            lambda: jaxfair.change_report((pytest.fail, W), (pytest.fail, W), X, Y, GROUP, reference="typo"),
            "There is no group 'typo'",
        ),
        (
            lambda: jaxfair.change_report(np.zeros(2000), np.zeros(2000), None, np.zeros(2000, int), np.arange(2000)),
            "2,000 groups of 2,000 examples, as a column of ids has; give at most 1,000",
        ),
        (lambda: jaxfair.group_weights(np.arange(50_000), 50_000), "more weights than memory; merge groups"),
        (lambda: jaxfair.group_means([0.0, 1.0], [0, 10**9], 2), "groups run from 0 to 1000000000"),
        (lambda: minibatch_curvature(net, W, X, Y, np.where(GROUP, 10**9, 0)), "numbers from 0 on, at most 999999"),
        (lambda: jaxfair.groups.wilson(0.8, 100, level=95), "The level is 95"),
        (lambda: jaxfair.groups.wilson([0.8, 0.9], [1, 2, 3]), "give as many"),
        (lambda: jaxfair.groups.wilson(0.8, -1), "A count is -1"),
        (lambda: jaxfair.groups.wilson(np.ma.array([0.5, 0.9], mask=[0, 1]), 3), "proportions are masked"),
        (lambda: masks.relu_count(NETWORK), "A Network was given for its masks; give network.masks"),
        (lambda: masks.unit_count(NETWORK), "A Network was given for its masks"),
        (lambda: masks.full(NETWORK, 1.0), "A Network was given for its masks"),
        (lambda: masks.above(NETWORK), "A Network was given for its masks"),
        (lambda: masks.keep_random(NETWORK.masks, 10, 0), r"give jax\.random\.key\(seed\)"),
        (lambda: senet.allocate([0.5, np.nan], [4, 4], 4), r"sensitivities are \[0.5, nan\]"),
        (lambda: senet.allocate([0.5], [4, 4], 4), r"sensitivities are \[0.5\]; give one"),
        (lambda: senet.allocate([0.5, -1], [4, 4], 4), r"give one, from 0 on, for each layer"),
        (lambda: senet.sensitivity(CNN(3, (2,)), small(), SENET, seed=0), "3 classes, but 'small' has"),
        (
            lambda: senet.sensitivity(
                CNN(2, (2,)),
                small(),
                SenetConfig(sparse_train=dataclasses.replace(ONE_STEP, distillation_weight=1.0)),
                seed=0,
            ),
            "sparse training has no teacher",
        ),
        (lambda: first_steps(distillation_weight=1.0), "distillation weight is 1.0, but there are no teachers"),
        (lambda: first_steps(learning_rate=-1.0), "at learning rate -1.0"),
        (
            lambda: jaxfair.fit([NETWORK], small(), ONE_STEP, seeds=[0], stopping=Stopping(small().take([]), 1)),
            "There are no validation images",
        ),
        (lambda: hardware.verify("cpu"), "profile is 'cpu'; give a Profile"),
        (lambda: hardware.describe("cpu"), "profile is 'cpu'; give a Profile"),
        (lambda: hardware.environment_of("bf16", {}), "profile is 'bf16'; give a Profile"),
        (lambda: jaxfair.make_dataset(BYTES, [0, 1], [0, 1], name="x", class_names=["a", "b"], group_names=["a", "b"],
                                      statistics=[0.5, 0.5]), "give a tuple of arrays"),
    ],
)  # fmt: skip
def test_images_networks_and_counts_that_would_be_misread_are_refused(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(JaxfairError, match=said) as refused:
        call()
    assert len(str(refused.value)) < LONGEST
    assert "\n" not in str(refused.value)


def report_by(logits_fn: Any, **options: Any) -> Any:
    return jaxfair.group_report(logits_fn, W, X, Y, GROUP, CurvatureConfig(**options))


def test_validation_images_of_other_statistics_are_said() -> None:
    with pytest.warns(UserWarning, match="validation images 'small' have other channel statistics"):
        jaxfair.fit([NETWORK], small(), ONE_STEP, seeds=[0], stopping=Stopping(small(mean=jnp.ones(1)), 1))


def report_of_bytes() -> Any:
    data = small()
    return jaxfair.group_report(frozen(NETWORK), NETWORK.params, data.images, data.label, data.group)


def test_a_checkpoint_is_not_lost_to_an_odd_step(tmp_path: Any) -> None:
    checkpoints.save(tmp_path, 5, {"w": W})
    for odd in ("best", -1, 2.5):
        with pytest.raises(JaxfairError, match="step is"):
            checkpoints.save(tmp_path, odd, {"w": W})
    with pytest.raises(JaxfairError, match="arrays and numbers alone"):
        checkpoints.save(tmp_path, 6, {"w": "text"})
    np.testing.assert_array_equal(checkpoints.restore(tmp_path, {"w": W})["w"], W)


def test_images_on_the_host_are_read_to_be_normalized() -> None:
    data = small()
    rows = Rows(np.asarray(data.images), np.arange(8))
    np.testing.assert_array_equal(data.normalize(rows), data.normalize(data.images))


def test_probabilities_have_no_softmax_gap_without_a_word() -> None:
    scores = np.asarray(jax.nn.softmax(net(W, X)))
    for ask in (lambda: jaxfair.softmax_gap(scores), lambda: margins.signed_softmax_gap(scores, Y)):
        with pytest.warns(UserWarning, match="seem to be probabilities; give those before the softmax"):
            ask()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.jit(jaxfair.softmax_gap)(scores)
        report()


def test_labels_that_count_from_one_beside_classes_that_count_from_zero_are_said() -> None:
    predicted = np.arange(N) % 3
    with pytest.warns(UserWarning, match="labels run from 1 to 3 and the predicted classes from 0"):
        jaxfair.change_report(predicted, predicted[::-1], None, predicted + 1, GROUP)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jaxfair.change_report(predicted, predicted[::-1], None, predicted, GROUP)


def test_a_training_under_strict_rank_promotion() -> None:
    """Statistics of channels and masks have fewer axes than the images that they go with."""
    with jax.numpy_rank_promotion("raise"):
        (fitted,) = jaxfair.fit([NETWORK], small(), ONE_STEP, seeds=[0])
        assert np.isfinite(jaxfair.predict(fitted.network, small())).all()
        resnet = init(jaxfair.ResNet((1,), 2, width=2), (8, 8, 1), seed=0)
        data = small()
        x = data.normalize(data.images)
        found = jaxfair.group_report(frozen(resnet), resnet.params, x, data.label, data.group)
    assert np.isfinite(found.curvature.top_eigenvalue).all()


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_a_training_under_strict_promotion_of_types(schedule: Any) -> None:
    """Which Optax's optimizers are not written for, nor Flax's average; the numbers are the same."""
    config = dataclasses.replace(ONE_STEP, schedule=schedule, momentum=0.9, nesterov=True)

    def trained() -> list[Any]:
        network = init(jaxfair.CNN(2, features=(2,)), (8, 8, 1), seed=0)
        return list(jaxfair.fit([network, network], small(), config, seeds=[0, 1], at_once=2))

    expected = jax.tree.leaves([one.network for one in trained()])
    with jax.numpy_dtype_promotion("strict"):
        found = jax.tree.leaves([one.network for one in trained()])
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["Int64", "int64[pyarrow]", "category"])
def test_large_codes_beside_a_missing_one_are_told_apart(kind: str) -> None:
    codes = pd.Series([2**60, 2**60 + 1, 7] * 5).astype(kind)
    codes[2::3] = None
    assert grouping.as_groups(codes, missing="drop")[1] == (str(2**60), str(2**60 + 1))


@pytest.mark.parametrize("kind", ["U4", "S4", object, "list"])
def test_an_empty_text_is_no_group(kind: Any) -> None:
    texts = ["a", ""] * (N // 2)
    group = texts if kind == "list" else np.array(texts).astype(kind)
    with pytest.raises(JaxfairError, match="10 of 20 examples have no group, the first is example 1"):
        grouping.as_groups(group)
    assert grouping.as_groups(group, missing="drop")[1] == ("a",)


def test_a_code_below_0_is_missing_in_an_intersection_too() -> None:
    codes = pd.Categorical(["a", None] * (N // 2)).codes
    with pytest.raises(JaxfairError, match=r"group \(-1, 1\) has a number below 0; mark a missing part by NaN or None"):
        grouping.as_groups(list(zip(codes, GROUP, strict=True)))


ONES = np.ones(2, np.float32)
TRACED: dict[str, Callable[[], Any]] = {
    "inputs": lambda: jax.jit(lambda x: jaxfair.per_example_gradient_norms(net, W, x, Y))(X),
    "labels": lambda: jax.vmap(lambda y: jaxfair.group_curvature(net, W, X, y, WEIGHTS).loss)(np.stack([Y, Y])),
    "labels of a change": lambda: jax.jit(lambda y: jaxfair.change_report(Y, Y, None, y, GROUP).count)(Y),
    "answers": lambda: jax.jit(lambda z: jaxfair.change_report(z, z, None, Y, GROUP).count)(X),
    "groups": lambda: jax.jit(lambda group: report(group=group).loss)(GROUP),
    "groups of weights": lambda: jax.jit(lambda group: jaxfair.group_weights(group, 2))(GROUP),
    "weights": lambda: jax.jit(inputs.as_weights)(WEIGHTS),
    "accuracies": lambda: jax.jit(jaxfair.relative_drop)(ONES, ONES),
}


@pytest.mark.parametrize("case", TRACED)
def test_what_is_traced_is_refused(case: str) -> None:
    with pytest.raises(JaxfairError, match=rf"The {case.split()[0]}.* are traced by JAX; call this outside of jit"):
        TRACED[case]()


@pytest.mark.parametrize("box", [float, Decimal])
def test_rows_of_a_database_are_read(box: type) -> None:
    """Tuples, which hold Decimals where columns are exact."""
    rows = [tuple(map(box, row)) for row in X.tolist()]
    found = report([box(label) for label in Y.tolist()], x=rows)
    np.testing.assert_allclose(found.loss, report().loss, rtol=1e-6)
    assert inputs.as_values(rows, "values").shape == X.shape


UNKNOWN = {
    "nan": np.where(MASKED, np.nan, Y),
    "code": np.where(MASKED, -1, Y),
    "none": np.where(MASKED, NOTHING, Y),
    "rows": np.where(MASKED[:, None], np.nan, np.eye(CLASSES)[Y]),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_nothing_is_asked_of_the_labels_of_examples_that_are_left_out(kind: str) -> None:
    y, group = UNKNOWN[kind], WITHOUT["nan"]
    found, expected = report(y, group, missing="drop"), report(Y[6:], GROUP[6:], X[6:])
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-6)
    changed = jaxfair.change_report(Y if kind == "rows" else y, Y, None, y, group, missing="drop")
    np.testing.assert_array_equal(changed.accuracy_before.value, 1)
    for ask in (report, lambda y, group, **how: jaxfair.change_report(Y, Y, None, y, group, **how)):
        with pytest.raises(JaxfairError, match=r"label of example 8 is -7; .*count from 0"):
            ask(np.where(np.arange(N) == 8, -7, np.where(MASKED, -1, Y)), group, missing="drop")


def test_names_of_groups_are_of_bounded_length_and_one_column() -> None:
    assert report(group=np.where(GROUP, 1e300, 1e20)).names == ("1" + 20 * "0", "1e+300")
    assert report(group=[Decimal("1E+300"), Decimal("2.0")] * (N // 2)).names == ("2", "1E+300")
    for names in (np.array([["a"], ["b"]]), pd.DataFrame({"name": ["a", "b"]})):
        assert report(group_names=names).names == ("a", "b")


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (iter, "one list_iterator"),
        (set, "one set"),
        (lambda values: dict(enumerate(values)).values(), "one dict_values"),
        (str, "one str"),
        (lambda values: None, "None"),
    ],
)
@pytest.mark.parametrize(("what", "name"), [("x", "inputs"), ("y", "labels"), ("group", "groups")])
def test_what_is_no_array_is_told_by_its_type(make: Any, kind: str, what: str, name: str) -> None:
    given: dict[str, Any] = {"x": X, "y": Y, "group": GROUP}
    given[what] = make(np.asarray(given[what]).ravel().tolist())
    message = f"The {name} are {kind}; give an array or a list of them"
    message = "There are no inputs; give an array" if given["x"] is None else message
    with pytest.raises(JaxfairError, match=message):
        report(**given)


def test_targets_that_are_a_tree_are_told_what_to_do() -> None:
    tree = {"kind": Y, "size": X[:, 0]}
    with pytest.raises(JaxfairError, match=r"labels are one dict; stack .* take x = \(inputs, targets\) and return"):
        jaxfair.group_curvature(net, W, X, tree, WEIGHTS, loss=lambda z, t: z[:, 0] - t["size"])

    def each(w: Any, x: Any) -> jax.Array:
        return x[1]["size"] * optax.softmax_cross_entropy_with_integer_labels(net(w, x[0]), x[1]["kind"])

    found = jaxfair.group_curvature(each, W, (X, tree), Y, WEIGHTS, loss=lambda losses, _: losses)
    np.testing.assert_allclose(found.loss, WEIGHTS @ np.asarray(each(W, (X, tree))), rtol=1e-4)


class OnDisk:
    """As a data set of HDF5: positions are sorted, each once, and slices go forward."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.dtype, self.largest = values, values.shape, values.dtype, 0

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, slice) and (index.step or 1) < 1:
            raise ValueError("Step must be >= 1")
        if isinstance(index, np.ndarray) and np.any(np.diff(index.astype(int)) < 1):
            raise TypeError("Indexing elements must be in increasing order")
        found = self.values[index]
        self.largest = max(self.largest, np.size(found))
        return found


ASKED_OF_ROWS: dict[str, Callable[[Any, Any], Any]] = {
    "report": lambda x, y: report(y, x=x).loss,
    "chunks": lambda x, y: report(y, x=x, config=CurvatureConfig(chunk_size=7)).loss,
    "dropped": lambda x, y: report(y, np.where(GROUP == 0, "a", None)[: len(y)], x, missing="drop").loss,
    "curvature": lambda x, y: jaxfair.group_curvature(net, W, x, y, WEIGHTS).top_eigenvalue,
    "norms": lambda x, y: jaxfair.per_example_gradient_norms(net, W, x, y),
    "distance": lambda x, y: jaxfair.linearized_distance(bind(net, W), x, y, chunk_size=7).distance,
    "change": lambda x, y: jaxfair.change_report((net, W), (net, 2 * W), x, y, GROUP).loss_rise.value,
}


@pytest.mark.parametrize("case", ASKED_OF_ROWS)
def test_rows_that_another_library_reads_are_read_as_it_can(case: str) -> None:
    """Where chunks are padded by the last position, shifted, or of examples that are kept."""
    ask, whole = ASKED_OF_ROWS[case], X.astype(">f4")  # as HDF5 may have it
    np.testing.assert_allclose(ask(OnDisk(whole), OnDisk(Y)), ask(X, Y), rtol=1e-5, atol=1e-6)


def test_rows_of_another_library_are_read_in_any_order() -> None:
    many = np.arange(300.0).reshape(100, 3)
    rows = inputs.Stored(disk := OnDisk(many), "inputs")
    for index in (
        [5, 2, 2, 99],
        slice(None, None, -1),
        slice(3, 9, 2),
        np.arange(100) % 3 == 0,
        7,
        [],
        [[1, 0], [0, 1]],
    ):
        index = np.asarray(index, int) if isinstance(index, list) else index
        np.testing.assert_array_equal(rows[index], many[index])
    disk.largest = 0
    np.testing.assert_array_equal(rows[np.array([99, 0])], many[[99, 0]])
    assert disk.largest == 6  # nothing in between
    np.testing.assert_array_equal(np.asarray(rows), many)
    assert inputs.as_values(OnDisk(np.array(3.0)), "values") == 3


def test_rows_that_cannot_be_read_are_refused_in_a_sentence() -> None:
    class Broken(OnDisk):
        def __getitem__(self, index: Any) -> np.ndarray:
            raise OSError("Can't read data\n(file is closed)")

    class Masked(OnDisk):  # as those of netCDF are
        def __getitem__(self, index: Any) -> np.ndarray:
            return np.ma.masked_less(super().__getitem__(index), 0)

    for given, said in (
        (Broken(X), r"inputs cannot be read by their Broken \(Can't read data \(file is closed\)\); read them into an"),
        (Masked(X), r"of the inputs are masked"),
        (OnDisk(np.full(X.shape, 2**40)), "inputs have whole numbers from .* cannot hold in 32 bits"),
        (
            jax.ShapeDtypeStruct(X.shape, X.dtype),
            "inputs are a ShapeDtypeStruct, which holds no numbers; give an array",
        ),
    ):
        with pytest.raises(JaxfairError, match=said):
            report(x=given)


def test_one_hot_columns_of_a_table_are_in_the_order_of_their_numbers() -> None:
    """Which pandas has of whole numbers, but not of their texts: 0, 1, 10, 2."""
    label, points = np.arange(24) % 12, RNG.normal(size=(24, 4)).astype(np.float32)
    wide = RNG.normal(size=(4, 12)).astype(np.float32)
    classes = pd.Series(label)
    asked = (
        lambda y: jaxfair.linearized_distance(lambda x: x @ wide, points, y).distance,
        lambda y: jaxfair.group_report(net, wide, points, y, label % 2).loss,
        lambda y: jaxfair.change_report(label, label, None, y, label % 2).accuracy_before.value,
    )
    for ask in asked:
        for one_hot in (pd.get_dummies(classes), pd.get_dummies(classes, prefix="digit", dtype=float)):
            np.testing.assert_array_equal(ask(one_hot), ask(label))
        for one_hot in (pd.get_dummies(classes.astype(str)), pd.get_dummies(classes.astype(str), prefix="digit")):
            with pytest.raises(JaxfairError, match=r"labels have one-hot columns .*0, .*1, .*10, .* and 7 more; give"):
                ask(one_hot)


def test_columns_that_name_their_rows_in_two_orders_are_refused() -> None:
    """They are read by position, so that each would be of another row; what is advised gives the right numbers."""
    people = pd.DataFrame({"y": Y, "group": GROUP}, index=[f"person {i}" for i in range(N)])
    other = people.sort_index()
    assert not people.index.equals(other.index)
    with pytest.raises(JaxfairError, match=r"of group is that of y in another order.*; give group\.loc\[y\.index"):
        jaxfair.change_report(Y, Y, None, people.y, other.group)
    found = jaxfair.change_report(Y, Y, None, people.y, other.group.loc[people.y.index])
    np.testing.assert_array_equal(found.count, np.bincount(GROUP))
    before, after = pd.Series([0.8, 0.5], ["a", "b"]), pd.Series([0.4, 0.8], ["b", "a"])
    with pytest.raises(JaxfairError, match="another order"):
        jaxfair.relative_drop(before, after)
    np.testing.assert_allclose(jaxfair.relative_drop(before, after.loc[before.index]), [0, 20])
    shuffled = people.reset_index(drop=True).iloc[SHUFFLED]  # whose predictions count from 0
    jaxfair.change_report(pd.Series(Y), pd.Series(Y), None, shuffled.y, shuffled.group)
    backwards = people.reset_index(drop=True).iloc[::-1]
    assert isinstance(backwards.index, pd.RangeIndex)
    with pytest.raises(JaxfairError, match=r"of group is that of y in another order"):
        jaxfair.change_report(Y, Y, None, shuffled.y, backwards.group)
    jaxfair.change_report(pd.Series(Y), pd.Series(Y), None, backwards.y, backwards.group)
    read = pd.Series(Y, np.arange(N))  # with its index from a file, of which the same cannot be known
    with pytest.raises(JaxfairError, match=r"of y is that of before .*, or y\.to_numpy\(\) if its rows do agree\.$"):
        jaxfair.change_report(read, read, None, shuffled.y, shuffled.group.to_numpy())
    jaxfair.change_report(read, read, None, shuffled.y.to_numpy(), shuffled.group.to_numpy())
    with pytest.raises(JaxfairError, match=r"of before\[1\] is that of y in another order"):
        jaxfair.change_report([people.y, other.y], [people.y, people.y], None, people.y, people.group)


@pytest.mark.parametrize("ruled_out", [-np.inf, np.finfo(np.float32).min])
def test_logits_that_are_whole_are_no_ids(ruled_out: float) -> None:
    """Those of a network that were rounded, where a class is ruled out, and a few that somebody typed."""
    rounded = np.c_[np.round(9 * np.asarray(net(W, X), np.float32)), np.full(N, ruled_out, np.float32)]
    typed = np.array([[1, 2.5], [3, 0.5], [0, 1.5], [2, 0.1]])
    for logits in (rounded, typed):
        y = logits.argmax(axis=1)
        found = jaxfair.change_report(logits, logits, None, y, GROUP[: len(y)])
        np.testing.assert_array_equal(found.accuracy_before.value, 1)


def test_a_column_of_whole_numbers_beside_logits_is_refused_and_what_is_advised_is_taken() -> None:
    """It may be ids, labels, or the score of a class that counts something."""
    logits = np.c_[np.asarray(net(W, X), np.float32), np.arange(N) % 7]
    with pytest.raises(JaxfairError, match=r"column 3 of whole numbers .*, as ids, labels or groups are; leave it out"):
        jaxfair.change_report(logits, logits, None, Y, GROUP)
    found = jaxfair.change_report(logits + 0.1, logits + 0.1, None, Y, GROUP)
    np.testing.assert_allclose(found.loss_before.value, WEIGHTS @ losses.cross_entropy(jnp.asarray(logits), Y), 1e-5)


def test_a_dictionary_of_another_kind_is_named() -> None:
    """As a tokenizer of Hugging Face returns; what is advised is taken."""
    encoded = collections.UserDict(points=X)
    with pytest.raises(JaxfairError, match=r"The inputs are a UserDict; give a plain dictionary of them, by dict\("):
        as_inputs(encoded)
    np.testing.assert_array_equal(as_inputs(dict(encoded))["points"], X)


def test_tables_of_arrow_are_tables() -> None:
    """Whose columns are arrays, and the names of these something else; they were refused as texts."""
    arrow = pytest.importorskip("pyarrow")
    logits = np.asarray(net(W, X))
    table = arrow.table({f"logits_{i}": logits[:, i] for i in range(CLASSES)})
    found = jaxfair.change_report(table, table, None, arrow.table({"y": Y}), arrow.table({"group": GROUP.astype(str)}))
    expected = jaxfair.change_report(logits, logits, None, Y, GROUP)
    np.testing.assert_array_equal(found.accuracy_before.value, expected.accuracy_before.value)
    np.testing.assert_array_equal(as_inputs(table), logits)
    with pytest.raises(JaxfairError, match=r"logits_2, logits_1, logits_0 and logits_0, .*; give one order"):
        jaxfair.change_report(table.select(table.column_names[::-1]), table, None, Y, GROUP)
    with pytest.raises(JaxfairError, match="column 'id', which is no class"):
        jaxfair.change_report(table.append_column("id", arrow.array(Y)), table, None, Y, GROUP)
    with pytest.raises(JaxfairError, match="1 of 20 examples have no group"):
        grouping.as_groups(arrow.table({"group": [None, *"ab" * 9, "a"]}))


def test_columns_that_say_no_order_are_in_any() -> None:
    for names in (["b", "a"], ["cat_2", "dog_1"], ["2-12", "13-17", "65+"], [10], [], ["v2_1", "v2_10", "v10_1"]):
        assert not inputs.out_of_order(pd.DataFrame(columns=names)), names
    assert inputs.out_of_order(pd.DataFrame(columns=["v2_10", "v2_2"]))
    targets = pd.DataFrame(X[:, :3], columns=["t1", "t10", "t2"])  # of a loss of the user's, in its own order
    found = jaxfair.group_curvature(net, W, X, targets, WEIGHTS, loss=lambda z, t: ((z - t) ** 2).sum(axis=1)).loss
    np.testing.assert_allclose(found, WEIGHTS @ ((np.tanh(X @ W) - X[:, :3]) ** 2).sum(axis=1), rtol=1e-5)


MEMBERS = np.stack([GROUP == 0, GROUP == 1])


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (MEMBERS.astype(int), "weights are whole numbers, whose losses would add up"),
        (MEMBERS.astype(np.uint8).tolist(), "weights are whole numbers, whose losses would add up"),
        (GROUP[None], "weights are whole numbers, whose losses would add up"),
        (MEMBERS, "weights are booleans, whose losses would add up"),
        (jax.nn.one_hot(GROUP, 2).T, "weights of a group are 0 and 1 alone, whose losses would add up"),
        (np.stack([np.full(N, 1 / N), MEMBERS[0]]), "weights of a group are 0 and 1 alone, whose losses would add up"),
    ],
)
def test_members_of_groups_are_no_weights(weights: Any, said: str) -> None:
    with pytest.raises(JaxfairError, match=rf"{said}; give jaxfair\.group_weights\(group, G\)"):
        jaxfair.group_curvature(net, W, X, Y, weights)


def test_a_group_of_one_example_has_one_weight_of_1() -> None:
    single = np.eye(N, dtype=np.float32)[:2]
    found = jaxfair.group_curvature(net, W, X, Y, single).loss
    np.testing.assert_allclose(found, jaxfair.group_report(net, W, X[:2], Y[:2], [0, 1]).loss, rtol=1e-5)
    with pytest.warns(UserWarning, match="weights are 0 and 1 alone, whose losses would add up"):
        GroupOperator(net, W, X, Y, MEMBERS[0].astype(np.float32))


@pytest.mark.parametrize("spelled", ["NaN", "NA", "N/A", "null", "NULL", "none", " ", "#N/A", r"\N", "-1.#IND"])
def test_a_group_is_missing_in_an_array_as_it_is_in_a_file(spelled: str) -> None:
    texts = np.where(GROUP == 0, "a", spelled)
    for group in (texts, texts.astype(bytes), texts.tolist(), [(text, "b") for text in texts.tolist()]):
        said = rf"example 1, which has '{re.escape(spelled)}'; give" if spelled.strip() else "example 1; give"
        with pytest.raises(JaxfairError, match=said if isinstance(group[0], str | bytes) else "example 1; give"):
            grouping.as_groups(group)
        assert grouping.as_groups(group, missing="drop")[2].tolist() == (GROUP == 0).tolist()
    assert from_values(texts.tolist()).names == ("a",)
    with pytest.raises(JaxfairError, match="10 of 20 labels are missing, the first of example 1"):
        report(texts)


def test_other_texts_are_groups_and_a_class_folder_may_be_called_NA() -> None:
    names = ("N", "Nana", "no", "unknown")
    assert grouping.as_groups(np.array(names))[1] == names
    assert grouping.as_groups([0, 1], names=["NA", "none"])[1] == ("NA", "none")


def test_codes_and_masks_among_texts_are_no_groups() -> None:
    for code in (-1, -1.0, np.int64(-1), Decimal(-1)):
        with pytest.raises(
            JaxfairError, match=r"The group -1.* has a number below 0; mark a missing one by NaN or None"
        ):
            grouping.as_groups(["a", code, "b"])
    assert grouping.as_groups(["a", 0, "b"])[1] == ("a", "0", "b")
    for masked in (["a", np.ma.masked], np.array(["a", np.ma.masked], object), [1, np.ma.masked]):
        with pytest.raises(JaxfairError, match="1 of 2 examples have no group, the first is example 1"):
            grouping.as_groups(masked)


def test_masked_labels_of_examples_that_are_left_out_are_not_asked_for() -> None:
    y = np.ma.array(Y, mask=MASKED)
    found, expected = report(y, WITHOUT["nan"], missing="drop"), report(Y[6:], GROUP[6:], X[6:])
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-6)
    y[7] = np.ma.masked
    with pytest.raises(JaxfairError, match="1 of the labels are masked"):
        report(y, WITHOUT["nan"], missing="drop")


def beyond(values: Any) -> Any:
    """The values in 64 bits, one of them beyond 32."""
    return np.where(np.arange(values.size).reshape(values.shape) == 5, 1e300, values.astype(float))


MISSING_CELL = pd.DataFrame(X).astype("Float64").mask(np.arange(N * 4).reshape(N, 4) == 5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: jaxfair.group_curvature(net, 1e300 * W.astype(float), X, Y, WEIGHTS), "which float32 cannot hold"),
        (
            lambda: jaxfair.group_curvature(net, {"w": W, "s": np.float64(1e300)}, X, Y, WEIGHTS),
            "The parameter 's' has numbers up to 1e.300, which float32",
        ),
        (
            lambda: jaxfair.group_curvature(net, W, beyond(X), Y, WEIGHTS),
            "inputs have numbers up to 1e.300, which",
        ),
        (lambda: linearized_distance(bind(net, W), beyond(X), Y), "inputs have numbers up to 1e.300, which float32"),
        (
            lambda: jaxfair.group_curvature(net, W, X, beyond(X[:, 0]), WEIGHTS, loss=lambda z, y: (z[:, 0] - y) ** 2),
            "The labels have numbers up to 1e.300, which float32",
        ),
        (lambda: GroupOperator(net, W, X, Y, np.full(N, 1e-50)), "weight is 1e-50 in size, which float32 cannot hold"),
        (lambda: jaxfair.group_curvature(net, W, X, Y, 1e-50 * WEIGHTS.astype(float)), "which float32 cannot hold"),
        (lambda: jaxfair.group_curvature(net, W.astype(">f4"), X, Y, WEIGHTS), "type >f4, of another byte order; "),
        (lambda: jaxfair.group_curvature(net, {"w": pd.Series(W[:, 0])}, X, Y, WEIGHTS), "'w' has type Series; second"),
        (lambda: jaxfair.group_curvature(net, W, MISSING_CELL, Y, WEIGHTS), "type object, and 1 are missing; fill"),
        (lambda: linearized_distance(lambda x: x @ W[:0], X[:, :0], Y), r"shape \(20, 0\), and no number in them"),
        (
            lambda: jax.jit(lambda y: linearized_distance(lambda x: net(W, x), X, y).distance)(np.eye(CLASSES)[Y]),
            r"Labels that JAX traces have type float32 and shape \(20, 3\); give integers",
        ),
    ],
)
def test_numbers_that_would_be_lost_or_fail_deep_down_are_refused(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(JaxfairError, match=words) as refused:
        call()
    assert len(str(refused.value)) < LONGEST


@pytest.mark.parametrize(
    "call",
    [
        lambda: jaxfair.per_example_gradient_norms(net, W, X, Y).sum(),
        lambda: jaxfair.group_report(net, W, X, Y, GROUP).loss.sum(),
        lambda: jaxfair.change_report((net, W), (net, 2 * W), X, Y, GROUP).loss_rise.value.sum(),
        lambda: extreme_eigenvalues(lambda v: 2 * v, jnp.ones(3)).values[0],
    ],
)
def test_inside_of_jit_nothing_is_measured_even_of_what_is_not_traced(call: Callable[[], Any]) -> None:
    """Since JAX traces every operation there; where it maps or differentiates, the others are computed."""
    with pytest.raises(JaxfairError, match="inside of a function that JAX compiles; call it outside of jit"):
        jax.jit(lambda s: s * call())(1.0)
    found = [jax.grad(lambda s: s * float(call()))(1.0), jax.vmap(lambda s: s * float(call()))(jnp.ones(2))[0]]
    np.testing.assert_allclose(found, call(), rtol=1e-6)


def test_a_model_that_reads_none_of_its_parameters_is_refused() -> None:
    """Every derivative is 0 then, and converged."""

    def closed(w: Any, x: Any) -> jax.Array:
        return net(W, x)

    for call in (
        lambda: jaxfair.group_report(closed, W, X, Y, GROUP),
        lambda: jaxfair.group_curvature(closed, W, X, Y, WEIGHTS),
        lambda: jaxfair.per_example_gradient_norms(closed, W, X, Y),
        lambda: jaxfair.change_report((net, W), (closed, 2 * W), X, Y, GROUP),
        lambda: minibatch_curvature(closed, W, X, Y, GROUP),
        lambda: jaxfair.block_curvature(jax.jit(closed), {"a": W, "none": W[:0]}, X, Y, WEIGHTS),
    ):
        with pytest.raises(JaxfairError, match=r"outputs of logits_fn\(params, x\) do not depend on params") as refused:
            call()
        assert len(str(refused.value)) < LONGEST


def cut(w: Any, x: Any) -> jax.Array:
    return jax.lax.stop_gradient(net(w, x))


def wrong(z: Any, y: Any) -> jax.Array:
    return (z.argmax(axis=1) != y).astype(jnp.float32)


@pytest.mark.parametrize(
    "call",
    [
        lambda: jaxfair.group_curvature(cut, W, X, Y, WEIGHTS),
        lambda: jaxfair.group_curvature(lambda w, x: jnp.round(net(w, x)), W, X, Y, WEIGHTS),
        lambda: jaxfair.group_report(net, W, X, Y, GROUP, loss=wrong),
        lambda: GroupOperator(net, W, X, Y, WEIGHTS[0], loss=lambda z, y: jnp.ones(len(y))),
        lambda: jaxfair.per_example_gradient_norms(cut, W, X, Y),
        lambda: taylor.taylor_terms(cut, W, 2 * W, X, Y, WEIGHTS),
        lambda: minibatch_curvature(cut, W, X, Y, GROUP),
    ],
)
def test_a_model_or_loss_without_a_derivative_is_refused(call: Callable[[], Any]) -> None:
    """It would be measured as 0, converged; what is cut in part, or has a derivative of its own, is not refused."""
    with pytest.raises(JaxfairError, match="derivative of the loss by every parameter is 0, as by") as refused:
        call()
    assert len(str(refused.value)) < LONGEST


@jax.custom_jvp
def straight(z: Any) -> Any:
    return jnp.round(z)


straight.defjvp(lambda at, along: (straight(*at), along[0]))


@pytest.mark.parametrize(
    "logits_fn",
    [
        lambda p, x: straight(net(p["w"], x)),
        lambda p, x: net(p["w"], x) + jax.lax.stop_gradient(jnp.round(x @ p["w"])),
        lambda p, x: jnp.tanh(jax.lax.stop_gradient(net(p["w"], x)) @ p["head"]),
    ],
)
def test_a_derivative_of_some_parameters_is_enough(logits_fn: Any) -> None:
    params = {"w": W, "head": np.eye(CLASSES, dtype=np.float32)}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert (jaxfair.group_curvature(logits_fn, params, X, Y, WEIGHTS).gradient_norm > 0).all()
    (one,) = {str(each.message) for each in said}  # of the head that is not read, or of what stands behind a barrier
    told = r"1 of the 2 arrays of parameters \('(head|w)' of shape \(\d, \d\)\)"
    assert re.match(f"(No output depends on|The derivative by) {told}.* 0.*; leave them out", one)


@pytest.mark.parametrize("hide", [jax.lax.stop_gradient, lambda w: jnp.round(8 * w).astype(jnp.int8) / 8.0])
def test_parameters_without_a_derivative_are_said(hide: Any) -> None:
    """Those of a frozen layer, or of one that is quantized inside; nothing is said of what loops and ReLUs read."""
    params = {"w": W, "out": np.eye(CLASSES, dtype=np.float32)}
    with pytest.warns(
        UserWarning, match=r"The derivative by 1 of .* \('w' of .* is 0, as by stop_gradient or rounding"
    ):
        jaxfair.group_curvature(lambda p, x: jax.nn.relu(x @ hide(p["w"])) @ p["out"], params, X, Y, WEIGHTS)

    def looped(p: Any, x: Any) -> jax.Array:
        return jax.lax.fori_loop(0, 2, lambda _, z: jax.nn.relu(z @ p["out"]), x @ p["w"])

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        jaxfair.group_curvature(looped, params, X, Y, WEIGHTS)


def test_arrays_that_a_model_does_not_read_are_said() -> None:
    """By their paths and shapes; one that a loop reads is read, and an empty one holds nothing to read."""
    heads = {str(i): i * W[:, :2] for i in range(9)}
    said = r"9 of the 10 arrays .*\('heads/0' of shape \(4, 2\), .* and 6 more\), whose derivatives are 0"
    with pytest.warns(UserWarning, match=said):
        jaxfair.block_curvature(lambda p, x: net(p["a"], x), {"a": W, "heads": heads}, X, Y, WEIGHTS, None)

    def looped(p: Any, x: Any) -> jax.Array:
        return jax.lax.fori_loop(0, 2, lambda _, z: z + jax.jit(net)(p["a"], x) * p["b"], 0 * (x @ W))

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        jaxfair.per_example_gradient_norms(looped, {"a": W, "b": np.float32([1]), "none": W[:0]}, X, Y)


def test_arrays_of_long_or_numbered_paths_are_told_apart() -> None:
    deep = {f"encoder_layer_{i:02}": {"attention": {"query_projection": {"kernel": i * W}}} for i in range(3)}
    with pytest.warns(UserWarning, match=r"'enco\S*01\S*kernel' of shape \(4, 3\), '[^']*02[^']*kernel' of"):
        jaxfair.per_example_gradient_norms(
            lambda p, x: net(p["encoder_layer_00"]["attention"]["query_projection"]["kernel"], x), deep, X, Y
        )
    with pytest.raises(JaxfairError) as refused:
        jaxfair.group_report(net, {"k" * 9000: np.arange(3)}, X, Y, GROUP)
    assert len(str(refused.value)) < 400


def softened(w: Any, x: Any) -> jax.Array:
    return jax.nn.softmax(net(w, x))


@pytest.mark.usefixtures("callers_line")
@pytest.mark.parametrize(
    "call",
    [
        lambda: jaxfair.group_report(softened, W, X, Y, GROUP),
        lambda: jaxfair.group_curvature(softened, W, X, Y, WEIGHTS),
        lambda: jaxfair.per_example_gradient_norms(softened, W, X, Y),
        lambda: GroupOperator(softened, W, X, Y, WEIGHTS[0]),
        lambda: jaxfair.block_curvature(softened, W, X, Y, WEIGHTS, None),
        lambda: taylor.taylor_terms(softened, W, 2 * W, X, Y, WEIGHTS),
        lambda: gradient_sampling(softened, W, X, Y, WEIGHTS),
    ],
)
def test_probabilities_are_said_wherever_a_loss_takes_logits(call: Callable[[], Any]) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")  # Python says one text of one line once
        call()
    (one,) = said
    assert "logits_fn seems to return probabilities; return the logits before the softmax" in str(one.message)
    assert one.filename == __file__


def test_a_loss_of_the_user_may_take_probabilities() -> None:
    def likelihood(p: Any, y: Any) -> jax.Array:
        return -jnp.log(jnp.take_along_axis(p, y[:, None], 1)[:, 0])

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = jaxfair.group_curvature(softened, W, X, Y, WEIGHTS, loss=likelihood)
        plain = jaxfair.group_curvature(net, W, X, Y, WEIGHTS)
    np.testing.assert_allclose(found.top_eigenvalue, plain.top_eigenvalue, rtol=1e-2)


def test_donated_arrays_that_a_loss_binds_are_named() -> None:
    gone = jnp.ones(CLASSES)
    gone.delete()

    def weighted(k: Any, z: Any, y: Any) -> jax.Array:
        return k[y] * losses.cross_entropy(z, y)

    for loss in (Partial(weighted, gone), lambda z, y: weighted(gone, z, y)):
        for call in (
            lambda loss: report(loss=loss),
            lambda loss: jaxfair.group_curvature(net, W, X, Y, WEIGHTS, loss=loss),
            lambda loss: jaxfair.per_example_gradient_norms(net, W, X, Y, loss=loss),
            lambda loss: jaxfair.change_report((net, W), (net, 2 * W), X, Y, GROUP, loss=loss),
        ):
            with pytest.raises(JaxfairError, match="donated to a jitted function and is gone"):
                call(loss)
    kept = Partial(weighted, np.arange(1, 1 + CLASSES, dtype=np.float32))  # NumPy's, whose index would be traced
    np.testing.assert_allclose(report(loss=kept).loss, WEIGHTS @ ((1 + Y) * losses.cross_entropy(net(W, X), Y)), 1e-5)


TABLE = {"e": np.linspace(-1, 1, 40, dtype=np.float32).reshape(10, 4), "o": np.ones((4, 3), np.float32)}


def embedded(params: Any, x: Any) -> Any:
    return params["e"][x].mean(1) @ params["o"]


@pytest.mark.parametrize("token", [10, 17, -11])
@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray, lambda x: {"tokens": x, "mask": np.ones(len(x))}])
def test_a_token_that_no_embedding_has_is_refused(kind: Any, token: int) -> None:
    x, y, group = np.arange(60).reshape(20, 3) % 10, np.arange(20) % 3, np.arange(20) % 2
    x[13, 1] = token

    def logits_fn(params: Any, x: Any) -> Any:
        return embedded(params, x["tokens"] if isinstance(x, dict) else x)

    side, words = (logits_fn, TABLE), rf"indexes an array of shape \(10, 4\) outside of it, .* from -?\d+ to {x.max()}"
    for call in (
        lambda: jaxfair.group_report(logits_fn, TABLE, kind(x), y, group),
        lambda: jaxfair.group_curvature(logits_fn, TABLE, kind(x), y, np.full((1, 20), 0.05)),
        lambda: jaxfair.change_report(side, side, kind(x), y, group),
    ):
        with pytest.raises(JaxfairError, match=words):
            call()


def test_the_check_of_tokens_is_compiled_once_for_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second call, with other tokens, runs what the first one compiled."""
    traced, checkified = [], models.checkify.checkify

    def counted(function: Any, **options: Any) -> Any:
        traced.append(function)
        return checkified(function, **options)

    monkeypatch.setattr(models.checkify, "checkify", counted)
    x, y = np.arange(60).reshape(20, 3) % 10, np.arange(20) % 3

    def logits_fn(params: Any, x: Any) -> Any:
        return 2 * embedded(params, x)

    for tokens in (x, (x + 1) % 10, x[::-1]):
        jaxfair.per_example_gradient_norms(logits_fn, TABLE, tokens, y)
    with pytest.raises(JaxfairError, match="indexes an array"):
        jaxfair.per_example_gradient_norms(logits_fn, TABLE, x + 1, y)
    assert len(traced) == 1


def test_tokens_that_count_from_the_end_are_taken() -> None:
    x, y = np.arange(60).reshape(20, 3) % 20 - 10, np.arange(20) % 3
    found = jaxfair.group_curvature(embedded, TABLE, x, y, np.full((1, 20), 0.05))
    same = jaxfair.group_curvature(embedded, TABLE, x % 10, y, np.full((1, 20), 0.05))
    np.testing.assert_array_equal(found.gradient_norm, same.gradient_norm)


def test_answers_that_pandas_marks_as_missing_are_said_to_be() -> None:
    logits = pd.DataFrame(np.asarray(net(W, X))).astype("Float64")
    logits.iloc[3, 1] = pd.NA
    with pytest.raises(JaxfairError, match=r"^1 of the answers before are missing; fill them"):
        jaxfair.change_report(logits, logits, None, Y, GROUP)


@pytest.mark.parametrize("mode", ["clip", "fill"])
def test_a_place_that_the_model_clips_or_fills_is_taken(mode: str) -> None:
    """Beside one that is taken on trust, since JAX checks all ways of indexing alike."""
    x, y = np.arange(60).reshape(20, 3) % 10, np.arange(20) % 3

    def logits_fn(params: Any, x: Any) -> Any:
        far = params["far"].at[x].get(mode=mode, fill_value=0)
        return embedded(params, x) + far.mean(1)

    params, rows = {**TABLE, "far": np.ones((4, 3), np.float32)}, np.full((1, 20), 0.05)
    assert np.isfinite(jaxfair.group_curvature(logits_fn, params, x, y, rows).loss).all()
    x[13, 1] = 10
    with pytest.raises(JaxfairError, match="indexes an array"):
        jaxfair.group_curvature(embedded, TABLE, x, y, rows)


def test_weights_of_32_bits_beside_64_are_taken_without_a_warning() -> None:
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("error")
        inputs.as_weights(np.full((1, 4), 0.25, np.float32))


def test_parameters_of_a_class_that_JAX_does_not_know_are_refused_as_such() -> None:
    """They were taken for one parameter, whose smallest eigenvalue was not to be asked for."""
    for params in (collections.Counter, object(), pd.DataFrame(W), 1.0):
        with pytest.raises(JaxfairError, match="The parameter 'params' has type"):
            jaxfair.group_report(net, params, X, Y, GROUP, CurvatureConfig(bottom=True))


@pytest.mark.parametrize("kind", [jnp.float16, jnp.bfloat16])
def test_a_loss_of_half_precision_is_refused(kind: Any) -> None:
    """Its third digit, and that of every eigenvalue, was rounding, and residuals said otherwise."""

    def loss(z: Any, y: Any) -> jax.Array:
        return losses.cross_entropy(z, y).astype(kind)

    for call in (
        lambda: jaxfair.group_report(net, W, X, Y, GROUP, loss=loss),
        lambda: jaxfair.group_curvature(net, W, X, Y, np.full((1, N), 1 / N), loss=loss),
        lambda: jaxfair.change_report((net, W), (net, 2 * W), X, Y, GROUP, loss=loss),
    ):
        with pytest.raises(JaxfairError, match=r"loss has type b?float16, which rounds it .*; return it in float32"):
            call()


def test_a_model_that_draws_or_counts_is_told_to_leave_it() -> None:
    """JAX traces it once a size, so that it gives the same twice, and something else in other batches."""
    rng, calls = np.random.default_rng(0), []

    def draws(w: Any, x: Any) -> jax.Array:
        return net(w, x) * float(rng.normal())

    def counts(w: Any, x: Any) -> jax.Array:
        calls.append(0)
        return net(w, x) * len(calls)

    for logits_fn in (draws, counts):
        with pytest.raises(JaxfairError, match=r"rest of its batch; .*, and draw or count nothing in the model"):
            jaxfair.group_report(logits_fn, W, X, Y, GROUP)
