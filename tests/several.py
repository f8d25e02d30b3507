"""Checks that need several devices, in a process of their own: JAX fixes the number at its start. Not a test itself."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree


def environment_of(devices: int) -> dict[str, str]:
    """Return the environment of a process whose CPU counts as so many devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def check_on(devices: int, checks: Path, folder: Path) -> None:
    """Let every check of a file pass on so many virtual devices of the CPU; none may be skipped."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={folder / 'found.xml'}"]
    run = subprocess.run(
        [*command, str(checks)],
        env=environment_of(devices),
        cwd=checks.parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    found = list(ElementTree.parse(folder / "found.xml").iter("testcase"))
    assert found
    assert [check.get("name") for check in found if len(check)] == [], "skipped"
