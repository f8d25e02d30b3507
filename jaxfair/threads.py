"""What threads of this library compute with: the JAX settings of the thread that they work for.

What a ``with jax.enable_x64(...)`` or its like sets holds in its own thread only. A worker without it would compute in
another type, with other random numbers or on another device than the caller, as soon as there is more than one.
"""

import contextlib
from collections.abc import Callable, Iterator

import jax

SETTINGS = (
    "default_device",
    "default_matmul_precision",
    "default_prng_impl",
    "debug_infs",
    "debug_nans",
    "enable_x64",
    "numpy_dtype_promotion",
    "numpy_rank_promotion",
    "softmax_custom_jvp",
    "threefry_partitionable",
    "transfer_guard_device_to_device",
    "transfer_guard_device_to_host",
    "transfer_guard_host_to_device",
)
"""Those of JAX that decide a result, or whether there is one: contexts of ``jax`` and values of ``jax.config``."""


def as_here() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Return what makes, in another thread, a context of the settings that this thread has now."""
    here = _settings()

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        with contextlib.ExitStack() as entered:
            for name, value in _settings().items():
                if value != here[name]:
                    entered.enter_context(getattr(jax, name)(here[name]))
            yield

    return context


def _settings() -> dict[str, object]:
    return {name: getattr(jax.config, f"jax_{name}") for name in SETTINGS}
