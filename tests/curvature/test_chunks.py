"""Examples in chunks of one size: nothing is lost, doubled or padded in the result."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfair.curvature.chunks import Devices, accumulate, over_chunks
from jaxfair.errors import JaxfairError


@pytest.mark.parametrize(("size", "each"), [(1, 1), (3, 3), (7, 7), (8, 7), (100, 7)])
@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_every_example_is_computed_in_chunks_of_one_size(size: int, each: int, array: type) -> None:
    sizes = set()

    def function(index: np.ndarray) -> dict[str, np.ndarray | jax.Array]:
        sizes.add(len(index))
        return {"row": array(np.stack([index, 10 * index], axis=1)), "own": array(index)}

    found = over_chunks(lambda _, found: found, None, function, 7, size)
    assert sizes == {each}
    np.testing.assert_array_equal(found["own"], np.arange(7))
    np.testing.assert_array_equal(found["row"], np.arange(7)[:, None] * [1, 10])
    assert isinstance(found["own"], np.ndarray)


@pytest.mark.parametrize(("count", "size"), [(0, 4), (4, 0), (4, -1)])
def test_no_example_or_no_size_is_refused(count: int, size: int) -> None:
    with pytest.raises(JaxfairError, match=f"There are {count} examples and the chunk size is {size}"):
        over_chunks(lambda _, index: index, None, lambda index: index, count, size)


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failing_worker_stops_the_others(failing: int) -> None:
    """What goes on behind the caller computes in another precision, or for minutes after Ctrl-C.

    Of two workers, the first is the caller's own thread.
    """
    devices, seen = Devices(), []
    devices.workers = 2

    def function(total: None, chunk: int) -> None:
        seen.append(chunk)
        time.sleep(0.05)
        if chunk == failing:
            raise JaxfairError("No chunk.")

    with pytest.raises(JaxfairError, match="No chunk"):
        accumulate(function, lambda: None, 1000, devices)
    ended = list(seen)
    time.sleep(0.2)
    assert seen == ended
    assert 1 <= len(ended) < 10
