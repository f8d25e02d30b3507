"""Run-time type checks of jaxfair, hypothesis without chance, and fixtures that several files use."""

from collections.abc import Iterator

import jax
import jaxtyping
import pytest
from hypothesis import settings

# Shapes and types of every annotated jaxfair function are checked while tests run. An int may stand for a float.
jaxtyping.install_import_hook("jaxfair", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

settings.register_profile("reproducible", derandomize=True, deadline=None, database=None)
settings.load_profile("reproducible")


@pytest.fixture
def float64() -> Iterator[None]:
    """Let JAX compute in float64 while the test runs."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Switch the run-time type checks off, as users have it, so that a mistake reaches jaxfair's own check."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
