"""Several devices share the chunks. JAX fixes their number at its start, so the checks have a process of their own."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

CHECKS = Path(__file__).parent / "several_devices.py"


def test_in_a_process_of_three_devices(tmp_path: Path) -> None:
    """Every check passes; none is skipped."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=3"
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
