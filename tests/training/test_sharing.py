"""One training on several devices."""

from pathlib import Path

import pytest

from jaxfair.errors import JaxfairError
from jaxfair.linearize import snl
from jaxfair.networks.network import init
from tests.several import check_on
from tests.training.cases import MODULE, fit_one, make_data


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
