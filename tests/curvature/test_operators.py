"""Products of groups against dense float64 matrices of a gated ResNet; chunks, memory, threads and compile counts."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxfair import losses, networks
from jaxfair.curvature import chunks, operators, programs
from jaxfair.curvature.config import CurvatureConfig
from jaxfair.curvature.operators import GIGABYTE, GroupOperator, Kind, as_pytree, make_plan
from jaxfair.curvature.spectrum import group_losses
from tests.curvature.cases import GROUP_WEIGHTS, SAME, operator_of, vectors
from tests.examples import CLASSES, FEATURES, GROUP, IMAGES, INPUTS, LABEL, WEIGHTS, N, linear

KINDS: tuple[Kind, Kind] = ("hessian", "gauss_newton")
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def network() -> networks.Network:
    """A network whose weights and statistics are random and whose masks are partly fractional, in float64."""
    plain = networks.init(networks.ResNet((1, 1), num_classes=CLASSES, width=2), (4, 4, 1), seed=0)
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        return plain.replace(
            params=jax.tree.map(lambda a: jnp.asarray(rng.normal(scale=0.7, size=a.shape)), plain.params),
            batch_stats=jax.tree.map(lambda a: jnp.asarray(rng.uniform(0.5, 1.5, a.shape)), plain.batch_stats),
            masks=jax.tree.map(lambda a: jnp.asarray(rng.choice([0.0, 0.5, 1.0], a.shape)), plain.masks),
        )


@pytest.fixture(scope="module")
def dense(network: networks.Network) -> dict[str, np.ndarray]:
    """Loss, gradient, Hessian and Gauss-Newton matrix of every group, by plain autodiff of the whole batch."""
    with jax.enable_x64(True):
        logits_fn, x = networks.frozen(network), jnp.asarray(IMAGES)
        flat, unravel = ravel_pytree(network.params)

        def logits(theta: jax.Array) -> jax.Array:
            return logits_fn(unravel(theta), x)

        def per_example(theta: jax.Array) -> jax.Array:
            return -jax.nn.log_softmax(logits(theta))[jnp.arange(N), LABEL]

        def everything(theta: jax.Array) -> tuple[jax.Array, ...]:
            weights = jnp.asarray(GROUP_WEIGHTS)

            def losses(theta: jax.Array) -> jax.Array:
                return weights @ per_example(theta)

            return losses(theta), jax.jacrev(losses)(theta), jax.hessian(losses)(theta), jax.jacrev(logits)(theta)

        loss, gradient, hessian, jacobian = map(np.asarray, jax.jit(everything)(flat))
        p = np.asarray(jax.nn.softmax(logits(flat)))
    inner = np.einsum("nc,cd->ncd", p, np.eye(CLASSES)) - np.einsum("nc,nd->ncd", p, p)
    gauss_newton = np.einsum("gn,nci,ncd,ndj->gij", GROUP_WEIGHTS, jacobian, inner, jacobian, optimize=True)
    return {"loss": loss, "gradient": gradient, "hessian": hessian, "gauss_newton": gauss_newton}


def resnet_operator(network: networks.Network, weight: np.ndarray, x: Any = IMAGES, **options: Any) -> GroupOperator:
    return operator_of(networks.frozen(network), network.params, jnp.asarray(x), weight, **options)


@pytest.mark.usefixtures("float64")
@each_kind
def test_loss_and_gradient_against_dense_autodiff(
    network: networks.Network, dense: dict[str, np.ndarray], kind: Kind
) -> None:
    """From kept passes and from recomputed ones, before and after a product."""
    for group, weight in enumerate(GROUP_WEIGHTS):
        for kept in (0, 1, None):
            operator = resnet_operator(network, weight, kind=kind, kept=kept)
            before = operator.loss_and_gradient()
            operator(jnp.ones(operator.size))
            for loss, gradient in (before, operator.loss_and_gradient()):
                np.testing.assert_allclose(loss, dense["loss"][group], rtol=1e-9)
                np.testing.assert_allclose(gradient, dense["gradient"][group], rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("float64")
@each_kind
def test_products_against_the_dense_matrix(network: networks.Network, dense: dict[str, np.ndarray], kind: Kind) -> None:
    """Every group, vector by vector and as a block; 1e-9 is far above rounding and far below the entries."""
    for matrix, weight in zip(dense[kind], GROUP_WEIGHTS, strict=True):
        operator = resnet_operator(network, weight, kind=kind)
        block = vectors(operator.size)
        assert operator.size == len(matrix)
        scale = np.abs(matrix).max() * np.abs(block).sum(axis=1).max()
        found = np.asarray(operator(block))
        np.testing.assert_allclose(found, block @ matrix, rtol=0, atol=1e-9 * scale)
        for row, vector in zip(found, block, strict=True):
            np.testing.assert_array_equal(operator(jnp.asarray(vector)), row)


@pytest.mark.usefixtures("float64")
@each_kind
def test_an_accelerator_maps_a_block(network: networks.Network, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows in one program call a chunk, whether its pass is kept or not, with the result of row after row."""
    operator = resnet_operator(network, GROUP_WEIGHTS[0], kind=kind, kept=1, chunk_size=4)
    block = vectors(operator.size)
    expected = np.stack([np.asarray(operator(row)) for row in block])
    monkeypatch.setattr(operators.jax, "default_backend", lambda: "gpu")
    np.testing.assert_allclose(operator(block), expected, **SAME)


@pytest.mark.usefixtures("float64")
def test_gauss_newton_is_positive_semidefinite_and_the_hessian_is_not(
    network: networks.Network, dense: dict[str, np.ndarray]
) -> None:
    whole = np.full(N, 1 / N)
    identity = np.eye(len(dense["hessian"][0]))
    found = {kind: np.asarray(resnet_operator(network, whole, kind=kind)(identity)) for kind in KINDS}
    for matrix in found.values():  # columns of the identity: the whole matrix, so its symmetry is tested too
        np.testing.assert_allclose(matrix, matrix.T, rtol=0, atol=1e-12 * np.abs(matrix).max())
    lowest = {kind: np.linalg.eigvalsh(matrix)[0] for kind, matrix in found.items()}
    # Zero eigenvalues come out as rounding of the largest entry times the size.
    assert lowest["gauss_newton"] > -1e-12 * np.abs(found["gauss_newton"]).max() * len(identity)
    assert lowest["hessian"] < -0.01


@pytest.mark.usefixtures("float64")
def test_softmax_regression_in_closed_form() -> None:
    """``x x^T (x) (diag(p) - p p^T)``, meaned over the group; with linear logits Gauss-Newton is the Hessian."""
    scores = np.exp(INPUTS @ WEIGHTS)
    scores /= scores.sum(axis=1, keepdims=True)
    each = np.stack([np.kron(np.outer(x, x), np.diag(p) - np.outer(p, p)) for x, p in zip(INPUTS, scores, strict=True)])
    block = vectors(FEATURES * CLASSES)
    for weight in GROUP_WEIGHTS:
        for kind in KINDS:
            operator = operator_of(linear, jnp.asarray(WEIGHTS), jnp.asarray(INPUTS), weight, kind=kind)
            np.testing.assert_allclose(operator(block), block @ np.einsum("n,nij->ij", weight, each), **SAME)


@each_kind
def test_float32(network: networks.Network, dense: dict[str, np.ndarray], kind: Kind) -> None:
    """A chain of about 100 operations on sums of up to 36 terms: within 1000 eps of the largest possible product."""
    narrow = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), network)
    operator = resnet_operator(narrow, GROUP_WEIGHTS[0].astype(np.float32), np.float32(IMAGES), kind=kind)
    vector = vectors(operator.size, 1)[0].astype(np.float32)
    found = operator(vector)
    assert found.dtype == np.float32
    scale = np.linalg.norm(dense[kind][0], 2) * np.linalg.norm(vector)
    error = np.asarray(found, np.float64) - dense[kind][0] @ vector
    assert np.linalg.norm(error) <= 1000 * np.finfo(np.float32).eps * scale


@pytest.mark.usefixtures("float64")
@each_kind
def test_kept_and_recomputed_passes_give_the_same_numbers(network: networks.Network, kind: Kind) -> None:
    """Three chunks, of which none, one, two or all are kept; the bound counts whole chunks."""
    weight, vector = np.full(N, 1 / N), vectors(len(ravel_pytree(network.params)[0]), 1)[0]
    found = {}
    for kept, expected in ((0, 0), (0.99, 0), (1, 1), (2.5, 2), (3, 3), (None, 3)):
        operator = resnet_operator(network, weight, kind=kind, kept=kept)
        assert operator.kept == expected
        found[kept] = np.asarray(operator(vector))
        np.testing.assert_array_equal(operator(vector), found[kept])
    for other in found.values():
        np.testing.assert_allclose(other, found[None], **SAME)


@pytest.mark.usefixtures("float64")
@each_kind
def test_kept_bytes_are_those_of_the_arrays(network: networks.Network, kind: Kind) -> None:
    """The plan promises a memory by tracing alone; a kept pass takes exactly that, and what all share is there once."""
    logits_fn, x = networks.frozen(network), jnp.asarray(IMAGES)
    plan = make_plan(logits_fn, network.params, x, LABEL, kind=kind, count=N, chunk_size=5, memory=GIGABYTE)
    operator = GroupOperator(logits_fn, network.params, x, LABEL, np.full(N, 1 / N), plan, kind=kind)
    operator(jnp.zeros(operator.size))
    passes = [{id(leaf): leaf.nbytes for leaf in jax.tree.leaves(kept)} for kept in operator._passes.values()]
    shared = set.intersection(*map(set, passes))
    assert sum(passes[0][leaf] for leaf in shared) == plan.shared_bytes > 0
    assert [sum(kept.values()) for kept in passes] == [plan.kept_bytes + plan.shared_bytes] * 3


@pytest.mark.usefixtures("float64")
def test_one_group_at_a_time_keeps_passes(network: networks.Network) -> None:
    """Whoever still holds the group before: memory is bounded for all of a call; its operator is as it was."""
    arguments = networks.frozen(network), network.params, jnp.asarray(IMAGES), LABEL, GROUP_WEIGHTS
    vector, held = vectors(len(ravel_pytree(network.params)[0]), 1)[0], []
    for group in group_losses(*arguments, CurvatureConfig(chunk_size=2), loss=losses.cross_entropy):
        assert not any(operator._passes for operator, _ in held)
        held.append((group.operator, np.asarray(group.operator(vector))))
        assert group.operator._passes
    for operator, product in held:
        np.testing.assert_array_equal(operator(vector), product)


@pytest.mark.usefixtures("float64")
@each_kind
def test_sharing_changes_no_bit(network: networks.Network, kind: Kind) -> None:
    """What is taken from another chunk's pass is what the chunk's own pass has."""
    vector, weight = vectors(len(ravel_pytree(network.params)[0]))[0], np.full(N, 1 / N)
    shared, own = (resnet_operator(network, weight, kind=kind) for _ in range(2))
    own._own = (True,) * 1000
    np.testing.assert_array_equal(shared(vector), own(vector))
    for i in range(3):
        jax.tree.map(np.testing.assert_array_equal, *(jax.tree.leaves(o._passes[i]) for o in (shared, own)))


def test_what_depends_on_a_chunk() -> None:
    """Through functions of their own (jit) it is followed; a loop's results all depend if one input does."""

    @jax.jit
    def both(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        return a + 1, b * a

    def function(a: jax.Array, b: jax.Array) -> tuple[jax.Array, ...]:
        first, second = both(a, b)
        looped = jax.lax.fori_loop(0, 2, lambda _, pair: (pair[0] + 1, pair[1]), (a, b))
        return first, second, *looped, a, b, jnp.zeros(2), jax.lax.fori_loop(0, 2, lambda _, c: c + a, a)

    traced = jax.make_jaxpr(function)(jnp.ones(2), jnp.ones(2))
    assert programs.depends_on_last(traced, 1) == (False, True, True, True, False, True, False, False)
    assert programs.depends_on_last(traced, 2) == (True, True, True, True, True, True, False, True)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("chunk_size", [1, 7, 12, 13, None])
def test_chunk_size_and_order_do_not_matter(network: networks.Network, chunk_size: int | None) -> None:
    """Of examples with unequal weights, in chunks that do and do not divide their number."""
    weight, order = np.arange(1.0, N + 1) / N, np.random.default_rng(1).permutation(N)
    whole = resnet_operator(network, weight)
    other = resnet_operator(network, weight[order], IMAGES[order], y=LABEL[order], chunk_size=chunk_size)
    vector = vectors(whole.size, 1)[0]
    np.testing.assert_allclose(other(vector), whole(vector), **SAME)
    (loss, gradient), expected = other.loss_and_gradient(), whole.loss_and_gradient()
    np.testing.assert_allclose(loss, expected[0], **SAME)
    np.testing.assert_allclose(gradient, expected[1], **SAME)


@pytest.mark.usefixtures("float64")
@each_kind
def test_groups_add_up_to_the_whole(network: networks.Network, kind: Kind) -> None:
    """``sum_g n_g/n H_g v = H v``, and the product is linear in the vector."""
    whole = resnet_operator(network, np.full(N, 1 / N), kind=kind)
    first, second, _ = block = vectors(whole.size)
    groups = [resnet_operator(network, weight, kind=kind)(block) for weight in GROUP_WEIGHTS]
    total = np.einsum("g,gbp->bp", np.bincount(GROUP) / N, np.stack(groups))
    np.testing.assert_allclose(total, whole(block), **SAME)
    np.testing.assert_allclose(whole(2 * first - 3 * second), 2 * total[0] - 3 * total[1], **SAME)


@pytest.mark.usefixtures("float64")
def test_shuffled_chunks_are_samples_of_all_examples_and_can_be_summed_in_part(network: networks.Network) -> None:
    weight, model = GROUP_WEIGHTS[0], (networks.frozen(network), network.params)
    vector = np.random.default_rng(1).normal(size=ravel_pytree(network.params)[0].size)
    plan = make_plan(as_pytree(model[0]), model[1], IMAGES, jnp.asarray(LABEL), count=6, chunk_size=2, memory=GIGABYTE)
    data = jnp.asarray(IMAGES), jnp.asarray(LABEL)
    operator = GroupOperator(*model, *data, weight, plan, shuffled=True)
    np.testing.assert_allclose(operator(vector), GroupOperator(*model, *data, weight, plan)(vector), **SAME)
    members = chunks.Cut(*data, weight, 2, shuffled=True).members
    assert sorted(members) == list(range(6)) != list(members)
    part = np.where(np.isin(np.arange(N), members[:4]), weight, 0)
    np.testing.assert_allclose(operator(vector, chunks=2), GroupOperator(*model, *data, part)(vector), **SAME)


@pytest.mark.usefixtures("float64")
def test_examples_of_weight_zero_cost_nothing_and_change_nothing(network: networks.Network) -> None:
    """The last group has two examples, one chunk; NaN in the other groups' inputs, or any label there, is not seen."""
    weight, x, y = GROUP_WEIGHTS[2], IMAGES.copy(), LABEL.copy()
    x[GROUP != 2], y[GROUP != 2] = np.nan, -1
    clean = resnet_operator(network, weight, chunk_size=2)
    spoilt = resnet_operator(network, weight, x, y=y, chunk_size=2)
    assert clean.kept == spoilt.kept == 1, "kept counts chunks where memory is ample"
    vector = vectors(clean.size, 1)[0]
    np.testing.assert_array_equal(spoilt(vector), clean(vector))
    np.testing.assert_array_equal(spoilt.loss_and_gradient()[1], clean.loss_and_gradient()[1])


@pytest.mark.usefixtures("float64")
def test_threads_change_rounding_only_and_repeats_nothing(
    network: networks.Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks finish in any order; each thread adds its own, and the threads' sums are added in order."""
    vector = vectors(len(ravel_pytree(network.params)[0]), 1)[0]
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    operator = resnet_operator(network, np.full(N, 1 / N), chunk_size=1)
    alone = np.asarray(operator(vector)), operator.loss_and_gradient()
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    operator = resnet_operator(network, np.full(N, 1 / N), chunk_size=1)
    first = np.asarray(operator(vector)), operator.loss_and_gradient()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **SAME), first, alone)
    for _ in range(5):
        fresh = resnet_operator(network, np.full(N, 1 / N), chunk_size=1)
        jax.tree.map(np.testing.assert_array_equal, (np.asarray(fresh(vector)), fresh.loss_and_gradient()), first)


def test_a_chunk_stays_on_the_thread_that_computes_it() -> None:
    """On a CPU each core has a chunk; XLA would wake another for half of the gradient's concatenation, 1e5 numbers."""
    rng, sizes = np.random.default_rng(0), (64, 256, 256, 10)
    layers = [rng.normal(size=shape).astype(np.float32) for shape in itertools.pairwise(sizes)]

    def logits_fn(layers: list[Any], x: Any) -> Any:
        return functools.reduce(lambda x, layer: jnp.maximum(x @ layer, 0), layers, x)

    chunk = chunks.Chunk(np.ones((128, 64), np.float32), np.zeros(128, np.int32), np.ones(128, np.float32))
    total = jnp.zeros(()), jnp.zeros(sum(layer.size for layer in layers))
    model = programs.Model(as_pytree(logits_fn), as_pytree(losses.cross_entropy))
    lowered = programs.programs("cpu", "highest").loss_and_gradient.lower(total, model, layers, chunk)
    assert 'outer_dimension_partitions":["' not in lowered.compile().as_text()
