"""One training on several devices, of one process and of two."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxfair.errors import JaxfairError
from jaxfair.linearize import snl
from jaxfair.networks.network import init
from jaxfair.training.fit import fit
from tests.experiments.running.slurm_cluster import free_ports
from tests.several import check_on, environment_of
from tests.training.cases import MODULE, fit_one, leaves, make_data


def test_in_a_process_of_four_devices(tmp_path: Path) -> None:
    """Every check passes; none is skipped."""
    check_on(4, Path(__file__).parent / "several_devices.py", tmp_path)


@pytest.mark.parametrize("devices", [0, 2])
def test_devices_that_are_not_there_are_refused(devices: int) -> None:
    """Before anything is trained, whatever trains."""
    network = init(MODULE, (8, 8, 3), 0)
    refused = pytest.raises(JaxfairError, match=f"shared by {devices} devices, but JAX has 1; give 1 to 1")
    with refused:
        fit_one(devices=devices)
    with refused:
        snl.snl(network, make_data(), snl.SnlConfig(batch_size=8), budgets=[0.5], seed=0, devices=devices)
    with refused:
        snl.matched(network, make_data(), snl.SnlConfig(batch_size=8), ends=[1], seed=0, devices=devices)


@pytest.mark.usefixtures("float64")
def test_two_processes_of_two_devices_train_one_network(tmp_path: Path) -> None:
    """They agree on it, and it is one device's up to rounding, also after one of them alone was asked to stop."""
    from tests.training.several_devices import DATA, MITIGATED, SAME, network, rounding
    from tests.training.several_processes import SNL

    command = [sys.executable, "-m", "tests.training.several_processes", str(tmp_path), str(free_ports(1)[0])]
    both = [
        subprocess.Popen(
            [*command, str(number)],
            env=environment_of(2),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    try:
        said = [process.communicate(timeout=300)[0] for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], "\n".join(said)
    (step,) = fit([network(0, MODULE)], DATA, MITIGATED, seeds=[0], teachers=[network(10, MODULE)])
    (matched,) = snl.matched(network(), DATA, SNL, ends=[1], seed=0)
    whole, tolerance = rounding()
    adam = 4e-3 * 1e8 * SAME["atol"]  # it divides a gradient by its size plus 1e-8
    for name, expected, bound in (
        ("step", step.network, SAME["atol"]),
        ("matched", matched.network, adam),
        ("resumed", whole, tolerance),
    ):
        found, other = (np.load(tmp_path / f"{name}-{number}.npz") for number in range(2))
        for part, value in zip(found.files, leaves(expected), strict=True):
            np.testing.assert_array_equal(found[part], other[part])
            np.testing.assert_allclose(found[part], value, rtol=0, atol=bound)
