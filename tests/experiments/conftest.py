"""Command lines configure JAX: it is undone after each file, and they compile into a folder of the tests."""

from collections.abc import Iterator

import pytest

from tests.study import command_line


@pytest.fixture(autouse=True, scope="module")
def _command_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with command_line(tmp_path_factory.getbasetemp() / "cache"):
        yield
