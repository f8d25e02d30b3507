"""Properties of groups' curvature for drawn weights, partitions, orders and options, and inputs that must be refused.

A small tanh network in float64, whose Hessian is known example by example, so that of every weighting of them too.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

import jaxfair
from jaxfair import losses, networks
from jaxfair.curvature.config import CurvatureConfig
from jaxfair.curvature.operators import GroupOperator, Kind, as_pytree, make_plan
from jaxfair.curvature.spectrum import GroupCurvature, group_curvature
from jaxfair.errors import JaxfairError

N, FEATURES, HIDDEN, CLASSES = 12, 3, 4, 3
SIZE = FEATURES * HIDDEN + HIDDEN * CLASSES
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, FEATURES)), np.arange(N) % CLASSES
PARAMS = {"hidden": RNG.normal(size=(FEATURES, HIDDEN)), "out": RNG.normal(size=(HIDDEN, CLASSES))}
VECTOR = RNG.normal(size=SIZE)
EPS = float(np.finfo(np.float64).eps)
KINDS: tuple[Kind, Kind] = ("hessian", "gauss_newton")

kinds, chunk_sizes, kept_chunks = st.sampled_from(KINDS), st.sampled_from([2, 5]), st.integers(0, 3)
# Eighths, so that sums of weights are exact; most often some are 0.
weightings = st.lists(st.integers(-4, 4), min_size=N, max_size=N).filter(any).map(lambda w: np.array(w) / 8)


def network(params: Any, x: Any) -> jax.Array:
    return jnp.tanh(x @ params["hidden"]) @ params["out"]


def of_examples() -> dict[str, np.ndarray]:
    """Return loss, gradient, Hessian and Gauss-Newton matrix of each example, by dense autodiff, in float64."""
    with jax.enable_x64(True):
        flat, unravel = ravel_pytree(PARAMS)

        def logits(theta: jax.Array) -> jax.Array:
            return network(unravel(theta), jnp.asarray(X))

        def loss(theta: jax.Array) -> jax.Array:
            return losses.cross_entropy(logits(theta), jnp.asarray(Y))

        jacobian, p = np.asarray(jax.jacrev(logits)(flat)), np.asarray(jax.nn.softmax(logits(flat)))
        inner = np.einsum("nc,cd->ncd", p, np.eye(CLASSES)) - np.einsum("nc,nd->ncd", p, p)
        return {
            "loss": np.asarray(loss(flat)),
            "gradient": np.asarray(jax.jacrev(loss)(flat)),
            "hessian": np.asarray(jax.hessian(loss)(flat)),
            "gauss_newton": np.einsum("nci,ncd,ndj->nij", jacobian, inner, jacobian),
        }


EXAMPLES = of_examples()


def operator_of(
    weight: np.ndarray, kind: Kind = "hessian", chunk_size: int = 5, kept: int = 3, order: Any = slice(None)
) -> GroupOperator:
    """Return the operator of drawn weights, with the examples in the given order and so many kept chunks."""
    x, y, logits_fn = jnp.asarray(X[order]), jnp.asarray(Y[order]), as_pytree(network)
    params = jax.tree.map(jnp.asarray, PARAMS)
    plan = make_plan(logits_fn, params, x, y, kind=kind, count=N, chunk_size=chunk_size, memory=2**30)
    memory = kept * plan.kept_bytes + plan.shared_bytes * (kept > 0)
    return GroupOperator(logits_fn, params, x, y, weight[order], plan, kind=kind, memory=memory)


def everything(operator: GroupOperator) -> np.ndarray:
    """Return loss, gradient and product with ``VECTOR``, end to end."""
    loss, gradient = operator.loss_and_gradient()
    return np.concatenate([[loss], np.asarray(gradient), np.asarray(operator(VECTOR))])


def rounding(weight: np.ndarray, kind: Kind) -> float:
    """Return what sums of the examples' numbers may be off by: some hundred roundings of their magnitudes."""
    largest = max(np.abs(EXAMPLES[kind] @ VECTOR).max(), np.abs(EXAMPLES["gradient"]).max(), EXAMPLES["loss"].max())
    return 300 * EPS * float(np.abs(weight).sum() * largest)


def curvature(weights: np.ndarray, dtype: Any = np.float64, **options: Any) -> GroupCurvature:
    params, x = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), PARAMS), jnp.asarray(X, dtype)
    return group_curvature(network, params, x, jnp.asarray(Y), weights.astype(dtype), CurvatureConfig(**options))


@given(weightings, kinds, chunk_sizes, kept_chunks, st.permutations(range(N)))
@settings(max_examples=60)
def test_an_operator_is_the_weighted_sum_over_its_examples(
    weight: np.ndarray, kind: Kind, chunk_size: int, kept: int, order: list[int]
) -> None:
    """For weights of either sign, any order, chunks and memory."""
    with jax.enable_x64(True):
        found = everything(operator_of(weight, kind, chunk_size, kept, np.array(order)))
    product = np.einsum("n,nij,j->i", weight, EXAMPLES[kind], VECTOR)
    expected = np.concatenate([[weight @ EXAMPLES["loss"]], weight @ EXAMPLES["gradient"], product])
    np.testing.assert_allclose(found, expected, rtol=0, atol=rounding(weight, kind))


@given(weightings, weightings, st.integers(-3, 3), st.integers(-3, 3), kinds)
@settings(max_examples=30)
def test_an_operator_is_linear_in_its_weights(
    first: np.ndarray, second: np.ndarray, a: int, b: int, kind: Kind
) -> None:
    """And so are loss and gradient, whichever examples fall out of the chunks where the sum of their weights is 0."""
    mixed = a * first + b * second
    assume(mixed.any())
    with jax.enable_x64(True):
        one, two, both = (everything(operator_of(w, kind)) for w in (first, second, mixed))
    slack = rounding(abs(a) * np.abs(first) + abs(b) * np.abs(second), kind)
    np.testing.assert_allclose(both, a * one + b * two, rtol=0, atol=slack)


@given(st.lists(st.integers(0, 3), min_size=N, max_size=N))
@settings(max_examples=30)
def test_groups_add_up_to_their_union(group: list[int]) -> None:
    """``sum_g n_g H_g = n H`` for the groups 0 to 2, group 3 left out; so by Weyl no end is beyond the groups' mean."""
    member = np.array(group) == np.arange(3)[:, None]
    member = member[member.any(axis=1)]
    assume(len(member) > 0)
    count, union = member.sum(axis=1), member.any(axis=0)
    with jax.enable_x64(True):
        parts = [everything(operator_of(row / row.sum())) for row in member]
        whole = everything(operator_of(union / union.sum()))
        weights = np.concatenate([member / count[:, None], [union / union.sum()]])
        found = curvature(weights, bottom=True, tolerance=1e-12, chunk_size=5)
    np.testing.assert_allclose(count @ np.stack(parts), union.sum() * whole, rtol=0, atol=rounding(union, "hessian"))
    share, slack = count / union.sum(), rounding(union, "hessian")
    assert found.top_eigenvalue[-1] <= share @ found.top_eigenvalue[:-1] + slack
    assert found.bottom_eigenvalue[-1] >= share @ found.bottom_eigenvalue[:-1] - slack
    np.testing.assert_allclose(found.loss[-1], share @ found.loss[:-1], rtol=1e-12)
    assert found.gradient_norm[-1] <= share @ found.gradient_norm[:-1] + slack


@given(
    weightings,
    st.integers(1, SIZE + 2),
    st.integers(0, 100),
    st.sampled_from([1e-1, 1e-3, 1e-9]),
    st.sampled_from([5, 8, 100]),
    st.sampled_from(["random", "gradient"]),
    st.sampled_from(["residual", "error"]),
    st.sampled_from([np.float32, np.float64]),
)
@settings(max_examples=80)
def test_an_eigenvalue_lies_within_each_residual(
    weight: np.ndarray, max_steps: int, seed: int, tolerance: float, max_basis: int, start: Any, stop: Any, dtype: Any
) -> None:
    """Of both ends, whatever the options and however few the steps; and no value is beyond the spectrum.

    An estimate of what a value will become may be, by less than its residual: a Ritz value is not, and the residual is
    at least the distance from it.
    """
    options: dict[str, Any] = {"max_steps": max_steps, "max_basis": max_basis, "tolerance": tolerance, "seed": seed}
    with jax.enable_x64(dtype == np.float64):
        found = curvature(weight[None], dtype, bottom=True, start=start, stop=stop, chunk_size=5, **options)
    eigenvalues = np.linalg.eigvalsh(np.einsum("n,nij->ij", weight, EXAMPLES["hessian"]))
    # Rounding moves the matrix by that of its terms, which may cancel, and its eigenvalues by no more.
    terms = np.abs(weight) @ np.linalg.norm(EXAMPLES["hessian"], 2, axis=(1, 2))
    slack = 100 * float(np.finfo(dtype).eps) * terms
    top, bottom = found.top_eigenvalue[0], found.bottom_eigenvalue[0]
    up, down = found.top_eigenvalue_residual[0], found.bottom_eigenvalue_residual[0]
    assert np.abs(eigenvalues - top).min() <= up + slack
    assert np.abs(eigenvalues - bottom).min() <= down + slack
    beyond = (down, up) if stop == "error" else (0.0, 0.0)
    assert eigenvalues[0] - slack - beyond[0] <= bottom <= top + slack
    assert top <= eigenvalues[-1] + slack + beyond[1]
    if stop == "residual" and found.converged[0] and found.steps[0] < SIZE:
        assert up <= tolerance * abs(top) + slack
        assert down <= tolerance * max(abs(top), abs(bottom)) + slack


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_tolerance_out_of_reach_gives_the_best_there_is(dtype: Any) -> None:
    """Not converged, every product used, and more of them never make a value worse (Cauchy's interlacing)."""
    weight = np.full((1, N), 1 / N)
    eigenvalues = np.linalg.eigvalsh(EXAMPLES["hessian"].mean(axis=0))
    slack = 100 * float(np.finfo(dtype).eps) * eigenvalues[-1]
    with jax.enable_x64(dtype == np.float64):
        runs = [curvature(weight, dtype, bottom=True, tolerance=0.0, max_steps=steps) for steps in range(2, 20)]
    assert [run.steps[0] for run in runs] == list(range(2, 20))
    assert not any(run.converged[0] for run in runs)
    tops, bottoms = (np.array([getattr(r, f"{end}_eigenvalue")[0] for r in runs]) for end in ("top", "bottom"))
    assert (np.diff(tops) >= -slack).all()
    assert (np.diff(bottoms) <= slack).all()
    last = runs[-1]
    for end, exact in (("top", eigenvalues[-1]), ("bottom", eigenvalues[0])):
        residual = getattr(last, f"{end}_eigenvalue_residual")[0]
        assert residual < 0.01 * getattr(runs[0], f"{end}_eigenvalue_residual")[0]
        assert abs(getattr(last, f"{end}_eigenvalue")[0] - exact) <= residual + slack


@pytest.mark.usefixtures("float64")
def test_groups_of_one_example() -> None:
    """Every example is a group: loss, gradient and both ends are its own."""
    found = curvature(np.eye(N), bottom=True, tolerance=1e-12, chunk_size=5)
    eigenvalues = np.linalg.eigvalsh(EXAMPLES["hessian"])
    np.testing.assert_allclose(found.loss, EXAMPLES["loss"], rtol=1e-12)
    np.testing.assert_allclose(found.gradient_norm, np.linalg.norm(EXAMPLES["gradient"], axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.top_eigenvalue, eigenvalues[:, -1], rtol=1e-11)
    np.testing.assert_allclose(found.bottom_eigenvalue, eigenvalues[:, 0], rtol=1e-11)


@pytest.mark.parametrize("start", ["random", "gradient"])
def test_a_gated_network_of_zeros(start: Any) -> None:
    """All scores equal, and every ReLU closed: the head's bias alone is seen, its Hessian ``(I - 1/C) / C``.

    A group with as many examples of each class has no gradient, exactly, so a start along it has no direction.
    """
    plain = networks.init(networks.ResNet((1,), num_classes=2, width=2), (4, 4, 1), seed=0)
    params, y = jax.tree.map(jnp.zeros_like, plain.params), np.arange(8) % 2
    images = jnp.asarray(RNG.normal(size=(8, 4, 4, 1)), jnp.float32)
    weights = np.stack([np.full(8, 1 / 8), (y == 0) / 4]).astype(np.float32)
    config = CurvatureConfig(bottom=True, start=start, chunk_size=5)
    found = group_curvature(networks.frozen(plain), params, images, jnp.asarray(y), weights, config)
    rounding = 100 * float(np.finfo(np.float32).eps)
    assert found.gradient_norm[0] == 0
    np.testing.assert_allclose(found.gradient_norm[1], np.sqrt(1 / 2), rtol=rounding)
    np.testing.assert_allclose(found.loss, np.log(2), rtol=rounding)
    np.testing.assert_allclose(found.top_eigenvalue, 1 / 2, rtol=rounding)
    np.testing.assert_allclose(found.bottom_eigenvalue, 0, atol=rounding)
    assert found.converged.all()


@pytest.mark.usefixtures("float64")
def test_kinds_seeds_and_bases_are_not_ignored() -> None:
    """Each changes the numbers on the way; seed and basis not where they lead."""
    weight = np.full(N, 1 / N)
    products = [np.asarray(operator_of(weight, kind)(VECTOR)) for kind in KINDS]
    assert np.linalg.norm(products[0] - products[1]) > 0.1 * np.linalg.norm(products[0])
    plain = curvature(weight[None], bottom=True, tolerance=1e-10, max_steps=500)
    for change in ({"seed": 1}, {"max_basis": 6}):
        other = curvature(weight[None], bottom=True, tolerance=1e-10, max_steps=500, **change)
        assert not np.array_equal(other.alphas, plain.alphas)
        np.testing.assert_allclose(other.top_eigenvalue, plain.top_eigenvalue, rtol=1e-9)
        np.testing.assert_allclose(other.bottom_eigenvalue, plain.bottom_eigenvalue, rtol=0, atol=1e-9)


@pytest.mark.parametrize("call", [group_curvature, jaxfair.group_report])
def test_the_precision_reaches_the_network(call: Any) -> None:
    """Nothing is traced at another precision than the one asked for."""
    seen = set()

    def logits_fn(params: Any, x: Any) -> jax.Array:
        seen.add(jax.config.jax_default_matmul_precision)  # pyright: ignore[reportAttributeAccessIssue]
        return network(params, x)

    groups = np.full((1, N), 1 / N, np.float32) if call is group_curvature else np.arange(N) % 2
    for precision in ("highest", "bfloat16"):
        seen.clear()
        data = np.float32(X), jnp.asarray(Y), groups
        call(logits_fn, jax.tree.map(np.float32, PARAMS), *data, CurvatureConfig(precision=precision))
        assert seen == {precision}


def changed(array: np.ndarray, value: Any) -> np.ndarray:
    """Return a copy with another value at example 3."""
    return np.where(np.arange(len(array)) == 3, value, array)


WEIGHTS = np.full((1, N), 1 / N)
SCALE = {"scale": jnp.ones(1)}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"params": jax.tree.map(lambda leaf: leaf * np.inf, PARAMS)}, "group 0 is not finite"),
        ({"weights": changed(WEIGHTS[0], np.nan)[None]}, "A weight is not a finite number"),
        ({"y": changed(Y, CLASSES)}, f"the {CLASSES} classes count from 0"),
        ({"params": PARAMS | {"phase": np.ones(2, np.complex64)}}, "parameter 'phase' has type complex64"),
        ({"params": {}}, "no parameters"),
        ({"x": {"left": X, "right": X[1:]}}, f"inputs have {N - 1}, {N} examples; give equally many"),
        ({"x": X[:0], "y": Y[:0], "weights": WEIGHTS[:, :0]}, "There are no examples"),
        (
            {"params": SCALE, "logits_fn": lambda p, x: p["scale"] * x, "config": CurvatureConfig(bottom=True)},
            "one parameter, with one eigenvalue; leave bottom=True out",
        ),
    ],
)
def test_refusals(change: dict[str, Any], words: str) -> None:
    arguments: dict[str, Any] = {"logits_fn": network, "params": PARAMS, "x": X, "y": Y, "weights": WEIGHTS}
    with pytest.raises(JaxfairError, match=words):
        group_curvature(**(arguments | change))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"group": np.zeros(N + 1, int)}, f"{N} labels, {N + 1} groups; give one of each"),
        ({"group": changed(Y, -1)}, "groups run from -1 to 2"),
        ({"group_names": ["a", "b"]}, "There are 2 group names for groups 0 to 2"),
        ({"y": changed(Y, CLASSES)}, f"label of example 3 is {CLASSES}; the {CLASSES} classes count from 0"),
        ({"params": PARAMS | {"out": PARAMS["out"] * np.nan}}, "loss of example 0, in group '0', is nan"),
    ],
)
def test_refusals_of_the_report(change: dict[str, Any], words: str) -> None:
    arguments: dict[str, Any] = {"logits_fn": network, "params": PARAMS, "x": X, "y": Y, "group": Y}
    with pytest.raises(JaxfairError, match=words):
        jaxfair.group_report(**(arguments | change))
