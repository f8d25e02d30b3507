"""One training on several devices. JAX fixes their number at its start, so the checks have a process of their own."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from jaxfair.errors import JaxfairError
from jaxfair.linearize import snl
from jaxfair.networks.network import init
from tests.training.cases import MODULE, fit_one, make_data

CHECKS = Path(__file__).parent / "several_devices.py"


def test_in_a_process_of_four_devices(tmp_path: Path) -> None:
    """Every check passes; none is skipped."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={tmp_path / 'found.xml'}"]
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [*command, str(CHECKS)],
        env=environment,
        cwd=CHECKS.parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    checks = list(ElementTree.parse(tmp_path / "found.xml").iter("testcase"))
    assert checks
    assert [check.get("name") for check in checks if len(check)] == [], "skipped"


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
