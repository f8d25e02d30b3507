"""Run-time type checks of jaxfair, hypothesis without chance, and fixtures that several files use."""

import gc
from collections.abc import Iterator
from pathlib import Path

import jax
import jaxtyping
import pytest
from hypothesis import settings

# Shapes and types of every annotated jaxfair function are checked while tests run. An int may stand for a float.
jaxtyping.install_import_hook("jaxfair", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

settings.register_profile("reproducible", derandomize=True, deadline=None, database=None)
settings.load_profile("reproducible")


MOST_MAPS = 20_000
"""Memory maps of a process, of which Linux allows 65,530: compiled programs have many, and beyond that XLA crashes."""


@pytest.fixture(autouse=True, scope="module")
def _programs_are_freed() -> Iterator[None]:
    """Forget compiled programs before they are too many for one process; a study never has so many."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


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
