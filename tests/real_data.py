"""Where tests find real data that is not part of the repository. Not a test itself."""

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("JAXFAIR_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


def needs(name: str) -> Path:
    """Return the path of a file of real data, or skip the test by the file's name."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"needs {name} in JAXFAIR_TEST_DATA")
    return path
