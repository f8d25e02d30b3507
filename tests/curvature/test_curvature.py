"""Curvature of groups against softmax regression in closed form; starts, options and refusals; one program for all."""

import dataclasses
import gc
from queue import SimpleQueue
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.linalg import eigh_tridiagonal
from scipy.special import log_softmax, softmax

from jaxfair import networks
from jaxfair.curvature.config import CurvatureConfig, Start
from jaxfair.curvature.minibatch import minibatch_curvature
from jaxfair.curvature.operators import GroupOperator, Plan
from jaxfair.curvature.report import group_report
from jaxfair.curvature.spectrum import GroupCurvature, group_curvature, groups_at_once
from jaxfair.errors import JaxfairError
from jaxfair.groups import group_weights
from tests.examples import CLASSES, FEATURES, GROUP, GROUPS, IMAGES, INPUTS, LABEL, WEIGHTS, N, linear

# Lanczos to rounding: the error of an eigenvalue is of the order of residual^2 / gap.
EXACT: dict[str, Any] = {"tolerance": 1e-11, "max_steps": 400}


def weights_of(group: np.ndarray) -> jax.Array:
    """Return the groups' weights, in full precision where JAX computes in float64."""
    member = np.asarray(group) == np.arange(GROUPS)[:, None]
    return jnp.asarray(member / member.sum(axis=1, keepdims=True))


def softmax_regression(chunk_size: int = 256, order: Any = slice(None), **options: Any) -> GroupCurvature:
    x, y, weights = jnp.asarray(INPUTS[order]), jnp.asarray(LABEL[order]), weights_of(GROUP[order])
    return group_curvature(
        linear, jnp.asarray(WEIGHTS), x, y, weights, CurvatureConfig(chunk_size=chunk_size, **(EXACT | options))
    )


def closed_form() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return loss, gradient norm and all Hessian eigenvalues, the largest last, of each group.

    Gradient ``x (p - onehot)^T``, Hessian ``x x^T (x) (diag(p) - p p^T)``, both meaned over the group.
    """
    scores = softmax(INPUTS @ WEIGHTS, axis=1)
    loss = -log_softmax(INPUTS @ WEIGHTS, axis=1)[np.arange(N), LABEL]
    gradient = np.einsum("ni,nc->nic", INPUTS, scores - np.eye(CLASSES)[LABEL]).reshape(N, -1)
    hessian = [np.kron(np.outer(x, x), np.diag(p) - np.outer(p, p)) for x, p in zip(INPUTS, scores, strict=True)]
    members = [np.flatnonzero(g == GROUP) for g in range(GROUPS)]
    return (
        np.array([loss[m].mean() for m in members]),
        np.array([np.linalg.norm(gradient[m].mean(axis=0)) for m in members]),
        np.array([np.linalg.eigvalsh(np.mean([hessian[i] for i in m], axis=0)) for m in members]),
    )


@pytest.mark.usefixtures("float64")
def test_softmax_regression() -> None:
    found, (loss, gradient_norm, eigenvalues) = softmax_regression(), closed_form()
    np.testing.assert_allclose(found.loss, loss, rtol=1e-12)
    np.testing.assert_allclose(found.gradient_norm, gradient_norm, rtol=1e-12)
    np.testing.assert_allclose(found.top_eigenvalue, eigenvalues[:, -1], rtol=1e-12)
    assert found.converged.all()


def test_softmax_regression_in_float32() -> None:
    """A mean of at most 6 terms after a chain of about 10 operations: within 100 eps of the largest quantity."""
    found, (loss, gradient_norm, eigenvalues) = softmax_regression(tolerance=1e-5), closed_form()
    for ours, theirs in zip(found[:3], (loss, gradient_norm, eigenvalues[:, -1]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=100 * np.finfo(np.float32).eps * theirs.max())


def test_rounding_that_is_all_that_saturation_leaves_is_no_eigenvalue() -> None:
    """Of logits of 1e4 nothing is left in float64 where the network is right; of those of 10, nearly all in float32."""
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(4, 3)).astype(np.float32), rng.normal(size=(120, 4)).astype(np.float32)
    weights, sure = group_weights(np.arange(120) % 2, 2), np.tanh(x @ w).argmax(axis=1)

    def network(scale: float) -> Any:
        return lambda w, x: scale * jnp.tanh(x @ w)

    found = group_curvature(network(1e4), w, x, sure, weights, CurvatureConfig(bottom=True))
    assert not found.converged.any()
    assert (found.top_eigenvalue_residual > 0.9 * found.top_eigenvalue).all()
    with pytest.raises(JaxfairError, match="so confident that float32 holds rounding alone"):
        group_report(network(1e4), w, x, sure, np.arange(120) % 2)
    with pytest.warns(UserWarning, match="2 of 2 eigenvalues have not converged"):
        minibatch_curvature(network(1e4), w, x, sure, np.arange(120) % 2)
    plain = group_curvature(network(10), w, x, sure, weights, CurvatureConfig(bottom=True))
    assert plain.converged.all()
    assert (plain.top_eigenvalue_residual < 1e-3 * plain.top_eigenvalue).all()


@pytest.mark.usefixtures("float64")
def test_an_eigenvalue_lies_within_the_reported_residual() -> None:
    """After two products only, where nothing has converged yet."""
    found, (_, _, eigenvalues) = softmax_regression(max_steps=2), closed_form()
    assert not found.converged.any()
    assert found.steps.tolist() == [2] * GROUPS
    assert (found.top_eigenvalue < eigenvalues[:, -1]).all()
    distance = np.abs(eigenvalues - found.top_eigenvalue[:, None]).min(axis=1)
    assert (distance <= found.top_eigenvalue_residual).all()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("chunk_size", [1, 5, 12, 13])
def test_the_chunk_size_does_not_matter(chunk_size: int) -> None:
    """Sums, not means of means; the last chunk is padded, and at chunk size 1 there is no padding."""
    whole, chunked = softmax_regression(), softmax_regression(chunk_size)
    for ours, theirs in zip(chunked[:3], whole[:3], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_the_order_of_examples_and_the_seed_do_not_matter() -> None:
    whole = softmax_regression()
    for other in (softmax_regression(5, np.random.default_rng(1).permutation(N)), softmax_regression(seed=7)):
        for ours, theirs in zip(other[:3], whole[:3], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_losses_of_groups_add_up_to_the_loss_of_the_whole() -> None:
    found = softmax_regression()
    whole = -log_softmax(INPUTS @ WEIGHTS, axis=1)[np.arange(N), LABEL].mean()
    np.testing.assert_allclose(np.bincount(GROUP) / N @ found.loss, whole, rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_coefficients_are_those_of_each_group() -> None:
    """Each row gives the group's eigenvalue again; the shorter ones are padded by NaN."""
    found = softmax_regression(tolerance=1e-3)
    assert found.alphas.shape == found.betas.shape == (GROUPS, found.steps.max())
    assert len(set(found.steps.tolist())) > 1
    for row, steps in enumerate(found.steps):
        assert np.isnan(found.alphas[row, steps:]).all()
        values = eigh_tridiagonal(found.alphas[row, :steps], found.betas[row, : steps - 1], eigvals_only=True)
        np.testing.assert_allclose(values[-1], found.top_eigenvalue[row], rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_a_stationary_point() -> None:
    """One input with both labels, at zero weights: no gradient, and the Hessian is ``x x^T (x) [[1,-1],[-1,1]]/4``."""
    x = jnp.asarray(np.repeat(INPUTS[:1], 2, axis=0))
    found = group_curvature(
        linear, jnp.zeros((FEATURES, 2)), x, jnp.array([0, 1]), jnp.full((1, 2), 0.5), CurvatureConfig(**EXACT)
    )
    np.testing.assert_allclose(found.gradient_norm, 0, atol=1e-15)
    np.testing.assert_allclose(found.top_eigenvalue, INPUTS[0] @ INPUTS[0] / 2, rtol=1e-12)


@pytest.mark.parametrize("largest", [2.5, 4.0])
def test_a_gradient_along_a_lesser_eigenvector_does_not_hide_the_largest(largest: float) -> None:
    """The Hessian is diagonal: 2 along the gradient, more along another coordinate, a bulk below 0.3.

    With logits (0, q) and label 0 the loss is ``log(1 + e^q)``; for ``q(t) = a t_1 + sum_i d_i t_i^2`` its gradient at
    zero is ``a e_1 / 2`` and its Hessian ``a^2 / 4 e_1 e_1^T + diag(d)``; a^2 = 8.
    """
    curvature = np.random.default_rng(0).uniform(-0.05, 0.3, 100_000)
    curvature[:2] = 0, largest
    d = jnp.asarray(curvature, jnp.float32)

    def logits_fn(params: jax.Array, x: jax.Array) -> jax.Array:
        q = jnp.sqrt(8.0) * params[0] + params @ (d * params)
        return jnp.stack([0 * x[:, 0], q + 0 * x[:, 0]], axis=1)

    x, y, weights = jnp.zeros((1, 1)), jnp.zeros(1, int), jnp.ones((1, 1))
    found = group_curvature(logits_fn, jnp.zeros(len(d)), x, y, weights)
    np.testing.assert_allclose(found.top_eigenvalue, largest, rtol=1e-3)


@pytest.mark.usefixtures("float64")
def test_a_coarse_start_finds_the_same_eigenvalues_in_fewer_steps() -> None:
    """Groups of 800 and 40 examples: an eighth of the first is enough to start from; the second has too few."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(840, 30)) * np.linspace(0.2, 2, 30) + 0.5, rng.integers(0, 5, 840)
    parameters, weights = jnp.asarray(rng.normal(size=(30, 5)) / 5), group_weights(np.repeat([0, 1], [800, 40]), 2)

    def found(start: Start, **options: Any) -> GroupCurvature:
        config = CurvatureConfig(chunk_size=40, start=start, **options)
        return group_curvature(linear, parameters, jnp.asarray(x), jnp.asarray(y), weights, config)

    random, coarse = found("random", bottom=True, **EXACT), found("coarse", bottom=True, **EXACT)
    np.testing.assert_allclose(coarse.top_eigenvalue, random.top_eigenvalue, rtol=1e-9)
    np.testing.assert_allclose(coarse.bottom_eigenvalue, random.bottom_eigenvalue, atol=1e-9 * random.top_eigenvalue[0])
    coarse, gradient = found("coarse"), found("gradient")
    assert coarse.steps[0] < gradient.steps[0]
    spent = (coarse.products - coarse.steps) * 20 / 3  # 3 of 20 chunks
    assert spent[0] >= 1
    assert spent[0] == pytest.approx(round(spent[0]))
    assert spent[1] == 0
    np.testing.assert_allclose(coarse.top_eigenvalue[1], gradient.top_eigenvalue[1], rtol=1e-12)


def of_three_groups(config: CurvatureConfig) -> GroupCurvature:
    """Return what is found of 800, 40 and 12 examples, of which the first have a coarse start."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(852, 30)) * np.linspace(0.2, 2, 30) + 0.5, rng.integers(0, 5, 852)
    w, weights = rng.normal(size=(30, 5)).astype(np.float32) / 5, group_weights(np.repeat([0, 1, 2], [800, 40, 12]), 3)
    return group_curvature(linear, w, x.astype(np.float32), y, weights, config, vectors=True)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("start", get_args(Start))
@pytest.mark.parametrize("at_once", [2, 100, None])
def test_groups_that_are_searched_at_once_have_the_bits_of_each_alone(
    at_once: int | None, start: Start, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the host and as on an accelerator, whose vectors stay there; a basis of 6 is restarted on the way."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    config = CurvatureConfig(chunk_size=40, start=start, bottom=True, max_basis=6, at_once=1)
    alone, found = (of_three_groups(dataclasses.replace(config, at_once=each)) for each in (1, at_once))
    assert (alone.products > alone.steps)[0] == (start == "coarse")
    for name, values in alone._asdict().items():
        np.testing.assert_array_equal(getattr(found, name), values, err_msg=name)


@pytest.mark.parametrize(("at_once", "turns"), [(1, "000011112222"), (2, "010101012222"), (3, "012012012012")])
def test_searches_take_turns_and_forget_their_passes(at_once: int, turns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three groups as many are searched together as was asked, and no more passes are held."""
    order, plain = list[GroupOperator](), GroupOperator.product  # not their ids, which later ones may have again

    def product(self: GroupOperator, vector: Any, chunks: int | None = None) -> Any:
        order.append(self)
        kept = [each for each in gc.get_objects() if isinstance(each, GroupOperator) and vars(each)["_passes"]]
        assert len(kept) <= at_once
        return plain(self, vector, chunks)

    monkeypatch.setattr(GroupOperator, "product", product)
    steps = of_three_groups(CurvatureConfig(at_once=at_once, max_steps=4, tolerance=0)).steps
    assert steps.tolist() == [4, 4, 4]
    names = {each: str(i) for i, each in enumerate(dict.fromkeys(order))}
    assert "".join(names[each] for each in order) == turns


def test_an_accelerator_searches_as_many_groups_as_fit_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with its passes, of 2 chunks and what they share, and its basis; a CPU searches one."""
    rows, plan = np.ones((7, 60)), Plan(30, kept_bytes=1000, shared_bytes=500)
    config = CurvatureConfig(max_basis=10, max_steps=5)
    own = 2 * 1000 + 500 + 5 * 40
    for backend, memory, found in (("cpu", 9 * own, 1), ("gpu", 9 * own, 7), ("gpu", 3 * own - 1, 2), ("gpu", 0, 1)):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert groups_at_once(plan, rows, dataclasses.replace(config, memory=memory), 40) == found
        assert groups_at_once(plan, rows, dataclasses.replace(config, memory=memory, at_once=5), 40) == 5


@pytest.fixture(scope="module")
def network() -> networks.Network:
    return networks.init(networks.ResNet((1, 1), num_classes=CLASSES, width=2), (4, 4, 1), seed=0)


def test_one_compiled_function_serves_all_groups_chunks_and_networks(network: networks.Network) -> None:
    """Traced once for the program, whose kept pass gives the gradient too, and once for the number of classes."""
    jax.clear_caches()  # what they still hold depends on the tests before
    traces = SimpleQueue()  # a list would be read as a part of the function

    def counted(network: networks.Network, params: Any, x: jax.Array) -> jax.Array:
        traces.put(1)
        return network.replace(params=params)(x)

    x = jnp.asarray(IMAGES, jnp.float32)
    for scale in (1.0, 0.5):
        other = network.replace(masks=jax.tree.map(lambda a, s=scale: s * a, network.masks))
        weights = group_weights(GROUP, GROUPS)
        data = x, jnp.asarray(LABEL), weights
        group_curvature(Partial(counted, other), other.params, *data, CurvatureConfig(chunk_size=5))
    assert traces.qsize() == 2


def run_with(**changes: Any) -> GroupCurvature:
    arguments: dict[str, Any] = {
        "params": jnp.asarray(WEIGHTS),
        "x": jnp.asarray(INPUTS),
        "y": jnp.asarray(LABEL),
        "weights": group_weights(GROUP, GROUPS),
    }
    return group_curvature(linear, **(arguments | changes))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x": jnp.ones((N + 1, FEATURES))}, f"{N + 1} inputs, {N} labels; give one of each"),
        ({"y": jnp.zeros(N - 1, int)}, f"{N} inputs, {N - 1} labels"),
        ({"weights": jnp.ones((GROUPS, 2)) / 2}, "12 labels, 2 weights; give one of each"),
        ({"params": jnp.full((FEATURES, CLASSES), jnp.nan)}, "loss or gradient of group 0 is not finite"),
        ({"weights": jnp.eye(GROUPS, N).at[1].set(0)}, r"Group \[1\] has no example"),
        ({"config": CurvatureConfig(chunk_size=0)}, "chunk size is 0; give at least 1"),
        ({"config": CurvatureConfig(max_steps=0)}, "At most 0 Lanczos steps"),
    ],
)
def test_refusals(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(JaxfairError, match=words):
        run_with(**changes)


def test_a_bad_example_is_blamed_on_its_own_group() -> None:
    """A NaN at weight 0, where it would still be NaN, stays out of the groups before."""
    x = INPUTS.copy()
    x[-1] = np.nan
    with pytest.raises(JaxfairError, match="group 2 is not finite"):
        run_with(x=jnp.asarray(x))


@pytest.mark.usefixtures("float64")
def test_starts_of_the_same_groups_save_products_and_find_the_same() -> None:
    """From the eigenvectors of parameters nearby, with the residual kept; nothing else changes."""
    x, y, weights = jnp.asarray(INPUTS), jnp.asarray(LABEL), weights_of(GROUP)
    config = CurvatureConfig(tolerance=1e-3, max_steps=400)
    before = group_curvature(linear, jnp.asarray(WEIGHTS), x, y, weights, config, vectors=True)
    near = jnp.asarray(WEIGHTS * 1.01)
    cold = group_curvature(linear, near, x, y, weights, config)
    warm = group_curvature(linear, near, x, y, weights, config, starts=before.vectors)
    assert (warm.products < cold.products).all()
    assert warm.converged.all()
    np.testing.assert_allclose(warm.top_eigenvalue, cold.top_eigenvalue, rtol=1e-3)
    np.testing.assert_array_equal(warm.loss, cold.loss)
    # Vectors that have nothing of the eigenvector: the random share has.
    aside = np.eye(before.vectors.shape[1])[: len(before.vectors)]
    aside -= (aside * before.vectors).sum(1, keepdims=True) * before.vectors
    slow = group_curvature(linear, jnp.asarray(WEIGHTS), x, y, weights, config, starts=aside)
    np.testing.assert_allclose(slow.top_eigenvalue, before.top_eigenvalue, rtol=1e-3)


@pytest.mark.parametrize("scale", [2.0**-700, 2.0**700])
def test_starts_of_any_length_are_directions(scale: float) -> None:
    """Their squares were 0 or infinite, and so were they."""
    x, y, weights = jnp.asarray(INPUTS), jnp.asarray(LABEL), weights_of(GROUP)
    starts = np.random.default_rng(0).normal(size=(GROUPS, WEIGHTS.size))
    one, other = (
        group_curvature(linear, jnp.asarray(WEIGHTS), x, y, weights, starts=each) for each in (starts, starts * scale)
    )
    np.testing.assert_array_equal(one.top_eigenvalue, other.top_eigenvalue)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v[:1], "start vectors have shape"),
        (lambda v: v[:, :2], "start vectors have shape"),
        (lambda v: v * 0, "of the start vectors is 0 or not finite"),
        (lambda v: v + np.nan, "of the start vectors is 0 or not finite"),
        (lambda v: v.astype(str), "start vectors have type"),
        (lambda v: v * 1j, "start vectors have type"),
    ],
)
def test_starts_are_checked_before_anything_is_computed(change: Any, message: str) -> None:
    x, y, weights = jnp.asarray(INPUTS), jnp.asarray(LABEL), weights_of(GROUP)
    starts = change(np.ones((GROUPS, WEIGHTS.size)))
    with pytest.raises(JaxfairError, match=message):
        group_curvature(linear, jnp.asarray(WEIGHTS), x, y, weights, starts=starts)
