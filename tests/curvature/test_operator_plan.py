"""How a group's examples are cut up: sizes, memory, kinds of inputs, and how many programs that takes."""

from queue import SimpleQueue
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxfair.curvature import chunks, operators
from jaxfair.curvature.operators import GIGABYTE, GroupOperator, as_pytree, make_plan
from jaxfair.errors import JaxfairError
from jaxfair.models import FEW
from tests.curvature.cases import GROUP_WEIGHTS, SAME, operator_of, vectors
from tests.examples import FEATURES, INPUTS, LABEL, WEIGHTS, N, linear


def halves(params: Any, x: Any) -> jax.Array:
    return x["left"] @ params["left"] + x["right"] @ params["right"]


def of_bytes(params: Any, x: Any) -> jax.Array:
    return (x.astype(params.dtype) / 255) @ params


def test_a_function_may_bind_a_random_key() -> None:
    def scaled(key: Any, params: Any, x: Any) -> jax.Array:
        return x @ params * jax.random.uniform(key)

    x, params, weight = INPUTS.astype(np.float32), np.zeros((INPUTS.shape[1], 3), np.float32), np.full(N, 1 / N)
    bound, plain = Partial(scaled, jax.random.key(0)), lambda params, x: scaled(jax.random.key(0), params, x)
    products = [GroupOperator(model, params, x, LABEL, weight)(np.ones(params.size)) for model in (bound, plain)]
    np.testing.assert_array_equal(products[0], products[1])


@pytest.mark.usefixtures("float64")
def test_inputs_may_be_a_pytree() -> None:
    split = {"left": INPUTS[:, :1], "right": INPUTS[:, 1:]}
    params = {"left": jnp.asarray(WEIGHTS[:1]), "right": jnp.asarray(WEIGHTS[1:])}
    plain = operator_of(linear, jnp.asarray(WEIGHTS), INPUTS, GROUP_WEIGHTS[1], chunk_size=3)
    pair = operator_of(halves, params, split, GROUP_WEIGHTS[1], chunk_size=3)
    block = vectors(plain.size)  # flattened, "left" comes before "right", as the rows do
    np.testing.assert_allclose(pair(block), plain(block), **SAME)
    np.testing.assert_allclose(pair.loss_and_gradient()[1], plain.loss_and_gradient()[1], **SAME)


@pytest.mark.usefixtures("float64")
def test_inputs_may_be_bytes() -> None:
    """Images stay uint8 until the network scales them."""
    pixels = np.random.default_rng(2).integers(0, 256, (N, FEATURES), dtype=np.uint8)
    stored = operator_of(of_bytes, jnp.asarray(WEIGHTS), pixels, GROUP_WEIGHTS[0], chunk_size=4)
    scaled = operator_of(linear, jnp.asarray(WEIGHTS), pixels / 255, GROUP_WEIGHTS[0], chunk_size=4)
    np.testing.assert_allclose(stored(vectors(stored.size)), scaled(vectors(scaled.size)), **SAME)


@pytest.mark.parametrize(("memory", "programs"), [(GIGABYTE, 1), (0, 3)], ids=["kept", "recomputed"])
def test_groups_and_chunks_share_programs(memory: int, programs: int) -> None:
    """A kept pass gives loss, gradient and products from the trace of the plan; recomputed, each has its own."""
    traces = SimpleQueue()  # a list would be read as a part of the function

    def counted(params: Any, x: Any) -> jax.Array:
        traces.put(x.shape)
        return linear(params, x)

    logits_fn, params, x = as_pytree(counted), jnp.asarray(WEIGHTS, jnp.float32), jnp.asarray(INPUTS, jnp.float32)
    plan = make_plan(logits_fn, params, x, LABEL, count=6, chunk_size=2, memory=memory)
    for weight in GROUP_WEIGHTS.astype(np.float32):
        operator = GroupOperator(logits_fn, params, x, LABEL, weight, plan, memory=memory)
        operator.loss_and_gradient()
        for vector in vectors(operator.size).astype(np.float32):
            operator(vector)
    seen = [traces.get() for _ in range(traces.qsize())]
    # Once more for the examples that a model's own derivatives are looked for with.
    assert sorted(seen) == [(2, FEATURES)] * programs + [(FEW, FEATURES)]


PLAN: dict[str, Any] = {"count": 5000, "chunk_size": None, "memory": GIGABYTE}


def plan_of(**changes: Any) -> operators.Plan:
    return make_plan(Partial(linear), jnp.asarray(WEIGHTS), jnp.asarray(INPUTS), LABEL, **(PLAN | changes))


@pytest.mark.parametrize("chunk_size", [0, -3])
def test_an_impossible_chunk_size_is_refused(chunk_size: int) -> None:
    with pytest.raises(JaxfairError, match=f"chunk size is {chunk_size}; give at least 1"):
        plan_of(chunk_size=chunk_size)


def test_no_chunk_is_larger_than_the_largest_group() -> None:
    assert plan_of(chunk_size=64).chunk_size == 64
    assert plan_of(chunk_size=64, count=7).chunk_size == 7
    assert 1 <= plan_of(count=7).chunk_size <= 7


def test_every_core_gets_chunks_of_a_multiple_of_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as cores where there are enough examples, none larger than 1024, with little padding."""
    monkeypatch.setattr(operators.jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(operators, "LEAST_OPERATIONS", 1.0)  # as if each example took long enough for a call of its own
    for cores in (1, 4, 100):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        for count in (400, 5000):
            size = plan_of(count=count).chunk_size
            chunks = -(-count // size)
            assert size % 8 == 0
            assert size <= 1024
            assert chunks >= min(cores, count // 8)
            assert chunks * size - count < max(size, count / 8)
            assert chunks <= 2 * cores + count / 512, "small examples need no more calls than that"


@pytest.mark.parametrize(("width", "pieces"), [(10, 1), (500, 1), (1300, 2), (20000, 10)])
def test_no_core_gets_less_than_a_call_takes(width: int, pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """400 examples of a dense layer, 2 products of 2 x 50 x width operations each: a chunk has 5e7, or all there are.

    The last has enough for 32 pieces, takes 8 cores and splits once more, into pieces of 40 that need no padding.
    """
    monkeypatch.setattr(operators.jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    params = jax.ShapeDtypeStruct((50, width), np.float32)
    x, y = jax.ShapeDtypeStruct((400, 50), np.float32), jax.ShapeDtypeStruct((400,), np.int32)
    plan = make_plan(Partial(linear), params, x, y, count=400, chunk_size=None)
    assert -(-400 // plan.chunk_size) == pieces
    assert plan.operations == (2 * 2 * 50 * width + 4) * plan.chunk_size, "4 are the weighted sum of losses"


def test_memory_is_a_quarter_of_an_accelerators_unless_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a CPU, or a device that does not say, 1 GiB."""
    assert chunks.Devices().memory is None
    logits_fn, params, weight = Partial(linear), jnp.asarray(WEIGHTS, jnp.float32), np.full(N, 1 / N, np.float32)
    plan = operators.Plan(1, GIGABYTE // 2)
    for limit, given, kept in ((None, None, 2), (8 * GIGABYTE, None, 4), (8 * GIGABYTE, GIGABYTE // 2, 1)):
        monkeypatch.setattr(chunks.Devices, "__init__", lambda self, limit=limit: vars(self).update(FAKE, memory=limit))
        operator = GroupOperator(logits_fn, params, jnp.asarray(INPUTS), LABEL, weight, plan, memory=given)
        assert operator.kept == kept


FAKE = {"count": 1, "workers": 1}


def test_an_accelerators_chunk_takes_at_most_a_quarter_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """And at least a sixteenth; what all examples share comes on top."""
    monkeypatch.setattr(operators.jax, "default_backend", lambda: "gpu")
    one, two = plan_of(chunk_size=1).kept_bytes, plan_of(chunk_size=2).kept_bytes
    for factor in (20, 64, 130, 500):
        memory = 4 * factor * (two - one)
        used = plan_of(memory=memory).kept_bytes - (2 * one - two)
        assert memory / 16 <= used <= memory / 4
    assert plan_of(memory=0).chunk_size == 8, "the least that is worth a program call"
    assert 512 <= plan_of(memory=2**50).chunk_size <= 1024
