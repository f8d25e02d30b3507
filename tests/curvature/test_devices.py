"""Several devices share the chunks."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxfair
from jaxfair import groups, sensitivity, taylor
from jaxfair.errors import JaxfairError
from tests.examples import GROUP, GROUPS, INPUTS, LABEL, WEIGHTS, linear
from tests.several import check_on


def test_in_a_process_of_three_devices(tmp_path: Path) -> None:
    """Every check passes; none is skipped."""
    check_on(3, Path(__file__).parent / "several_devices.py", tmp_path)


def on_a_mesh(array: np.ndarray) -> jax.Array:
    mesh = jax.make_mesh((1,), ("data",))
    return jax.device_put(jnp.asarray(array), NamedSharding(mesh, P("data")))


def test_arrays_on_a_mesh_of_one_device_are_taken() -> None:
    """Parameters, inputs, labels, and the parameters after a change."""
    w, x, weights = WEIGHTS.astype(np.float32), INPUTS.astype(np.float32), groups.group_weights(GROUP, GROUPS)
    plain = jaxfair.group_report(linear, w, x, LABEL, GROUP)
    for given in ((on_a_mesh(w), x, LABEL), (w, on_a_mesh(x), LABEL), (w, x, on_a_mesh(LABEL))):
        np.testing.assert_array_equal(jaxfair.group_report(linear, *given, GROUP).loss, plain.loss)
    for measure in (
        lambda after: taylor.taylor_terms(linear, w, after, x, LABEL, weights).second,
        lambda after: jaxfair.block_curvature(linear, w, x, LABEL, weights, None, after=after).second,
        lambda after: sensitivity.losses_on_segment(linear, w, after, x, LABEL, weights, np.array([0.5, 1.0])),
        lambda after: jaxfair.linearized_distance(lambda x: x, after, LABEL[:4]).distance,
    ):
        np.testing.assert_allclose(measure(on_a_mesh(2 * w)), measure(2 * w), rtol=1e-6)
    bound = on_a_mesh(w)
    with pytest.raises(JaxfairError, match="reads an array that lies on a mesh of devices"):
        jaxfair.group_report(lambda w, x: x @ (w + bound), w, x, LABEL, GROUP)
