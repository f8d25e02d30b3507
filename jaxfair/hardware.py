"""What arithmetic a run used."""

import os
import platform
from typing import Any

import jax


def describe() -> dict[str, Any]:
    """Return the backend, its devices and the settings that decide how numbers are rounded."""
    devices = jax.devices()
    return {
        "backend": jax.default_backend(),
        "device_kind": devices[0].device_kind,
        "device_count": len(devices),
        "process_count": jax.process_count(),
        "host_processor": platform.processor() or platform.machine(),
        "host_cores": os.cpu_count(),
        "x64": jax.config.jax_enable_x64,  # pyright: ignore[reportAttributeAccessIssue]
        "default_matmul_precision": jax.config.jax_default_matmul_precision or "default",  # pyright: ignore
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }
