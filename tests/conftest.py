"""Run-time type checks, hypothesis without chance, one compilation cache, and fixtures that several files use."""

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
from hypothesis import settings

# Shapes and types of every annotated jaxfair function are checked while tests run. An int may stand for a float.
jaxtyping.install_import_hook("jaxfair", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

settings.register_profile("reproducible", derandomize=True, deadline=None, database=None)
settings.load_profile("reproducible")

# Most of a run is compilation. At level 1, XLA compiles several times faster than at its default of 3, to programs that
# are about as fast; `make test-slow` has the default. What one process has compiled the others of this session load:
# workers, child processes and notebooks inherit all of these settings.
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=1".strip()
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="jaxfair-compiled-")  # gone when this process ends
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name


MOST_MAPS = 20_000
"""Memory maps of a process, of which Linux allows 65,530: compiled programs have many, and beyond that XLA crashes."""


@pytest.fixture(autouse=True, scope="module")
def _programs_are_freed() -> Iterator[None]:
    """Forget compiled programs before they are too many for one process; a study never has so many."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MOST_MAPS:
        import jax  # after the settings above, which it reads once

        jax.clear_caches()
        gc.collect()


@pytest.fixture
def float64() -> Iterator[None]:
    """Let JAX compute in float64 while the test runs."""
    import jax

    with jax.enable_x64(True):
        yield


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Switch the run-time type checks off, as users have it, so that a mistake reaches jaxfair's own check."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
