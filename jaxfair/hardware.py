"""Hardware profiles: what arithmetic a run used, how a process gets it, and the proof that it has it.

A profile is a set of environment variables, read when JAX starts, so that each profile needs a process of its own:
the parent starts it with ``environment_of``, the child calls ``verify`` before it computes anything. A variant of the
CPU has to differ from the plain one, which the parent has probed once, by ``plain_digests``, for all of them.

What the native CPU profiles change was measured on a CPU with AVX-512 (jax 0.10.2). ``--xla_cpu_max_isa`` limits what
XLA compiles itself: elementwise functions, batch norm, small sums, products with a vector, random normal numbers.
Larger matrix products and convolutions are a library's, which picks its own instructions, and keep their bits. Below
AVX2 no multiplication is fused with an addition; AVX2 differs from AVX-512 in small sums only. One thread splits large
sums otherwise. ``--xla_cpu_multi_thread_eigen`` and optimisation levels 2 and 3 change no bit.
"""

import dataclasses
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxfair.errors import JaxfairError, did_you_mean
from jaxfair.kernels import ONEDNN, has_onednn, kernels, silence
from jaxfair.networks import arithmetic
from jaxfair.networks.arithmetic import Arithmetic
from jaxfair.options import checked
from jaxfair.processes import asked_threads


@dataclasses.dataclass(frozen=True)
class Profile:
    """One hardware of a study.

    Attributes:
        name: Name that a command line takes.
        label: Name for readers, which says whether it is native or emulated.
        kind: ``native`` runs what the machine has, ``emulated`` rounds the operands of every product.
        backend: Backend that JAX has to run on; None for any.
        environment: Variables that JAX reads when it starts; ``XLA_FLAGS`` is added to the user's own.
        arithmetic: Kind of the emulation that networks are made with; nothing in the process turns it on.
        matmul_precision: Precision of JAX's float32 products; a CPU computes in full float32 whatever it is.
        proof: What ``probe`` has to find beside the rounding of products.
    """

    name: str
    label: str
    kind: Literal["native", "emulated"]
    backend: Literal["cpu", "gpu", "tpu"] | None
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    arithmetic: Arithmetic = "native"
    matmul_precision: Literal["highest", "tensorfloat32", "default"] = "highest"
    proof: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    @property
    def varies_cpu(self) -> bool:
        """Whether the profile is another way to compute on the CPU, which has to show in the bits."""
        return self.backend == "cpu" and bool(self.environment)


PLAIN_DIGESTS = "JAXFAIR_PLAIN_DIGESTS"
"""Environment variable by which a parent tells its children what the plain CPU computes."""


def _native(name: str, label: str, flags: str = "", precision: Any = "highest", **proof: Any) -> Profile:
    environment = {"XLA_FLAGS": flags} if flags else {}
    environment |= {"NPROC": str(proof["threads"])} if "threads" in proof else {}
    backend: Any = name.partition("-")[0]
    return Profile(name, f"{label} (native)", "native", backend, environment, "native", precision, proof)


# One virtual device, as XLA starts a thread for each. The last flag does nothing, except that it is part of the key of
# JAX's compilation cache; NPROC is not, so that programs compiled for many threads would be taken from there.
_ONE_THREAD = "--xla_force_host_platform_device_count=1 --xla_cpu_multi_thread_eigen=false"

PROFILES = {
    profile.name: profile
    for profile in (
        _native("cpu", "CPU"),
        _native("cpu-avx2", "CPU, compiled up to AVX2", "--xla_cpu_max_isa=AVX2"),
        _native("cpu-avx", "CPU, compiled up to AVX", "--xla_cpu_max_isa=AVX", fused=False),
        _native("cpu-sse4.2", "CPU, compiled up to SSE4.2", "--xla_cpu_max_isa=SSE4_2", fused=False),
        _native("cpu-1-thread", "CPU, one thread", _ONE_THREAD, threads=1),
        _native("cpu-onednn", "CPU, oneDNN convolutions", ONEDNN, kernels="onednn"),
        _native("cpu-opt0", "CPU, compiled without optimisation", "--xla_backend_optimization_level=0"),
        _native("gpu", "GPU, float32 products"),
        _native("gpu-tf32", "GPU, TF32 products", precision="tensorfloat32"),
        _native("gpu-deterministic", "GPU, deterministic", "--xla_gpu_deterministic_ops=true", scatter="expanded"),
        _native("tpu", "TPU, bfloat16 products", precision="default"),
        Profile("tf32", "TF32 products (emulated)", "emulated", None, arithmetic="tf32"),
        Profile("bf16", "bfloat16 products (emulated)", "emulated", None, arithmetic="bf16"),
        Profile("fp16", "float16 products (emulated)", "emulated", None, arithmetic="fp16"),
    )
}


@checked
def named(name: str) -> Profile:
    """Return the profile of that name, or raise ``JaxfairError`` with the name that comes nearest."""
    if name not in PROFILES:
        raise JaxfairError(f"There is no hardware profile '{name}'{did_you_mean(name, PROFILES)}")
    return PROFILES[name]


@checked
def environment_of(profile: Profile, base: Mapping[str, str], plain: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment that gives a new process the profile's arithmetic.

    A GPU or TPU is left to JAX's own choice: where there is none, JAX starts on the CPU, and ``verify`` can say so.

    Args:
        profile: The hardware to compute on.
        base: The environment to add to, such as ``os.environ``.
        plain: What ``plain_digests(base)`` returned, for the child's ``verify``.

    Raises:
        JaxfairError: The profile needs another jaxlib, which would stop at flags that it does not know.
    """
    if profile.proof.get("kernels") == "onednn" and not has_onednn():
        raise JaxfairError(f"Profile '{profile.name}' needs jaxlib 0.11 or 0.12, on Python 3.12; leave it out here.")
    child = {**base, "JAX_DEFAULT_MATMUL_PRECISION": profile.matmul_precision}
    if profile.backend:
        child["JAX_PLATFORMS"] = "cpu" if profile.backend == "cpu" else ""
    for name, value in profile.environment.items():
        child[name] = f"{base.get(name, '')} {value}".strip() if name == "XLA_FLAGS" else value
    if profile.proof.get("kernels") == "onednn":
        silence(child)
    return child if plain is None else {**child, PLAIN_DIGESTS: json.dumps(dict(plain))}


def plain_digests(base: Mapping[str, str]) -> dict[str, str]:
    """Return the digests that ``probe`` finds on the plain CPU, in a process of its own (2 to 3 seconds).

    Args:
        base: The environment without a profile, such as ``os.environ`` of the parent.

    Raises:
        JaxfairError: The process failed.
    """
    environment = environment_of(PROFILES["cpu"], base) | {"PYTHONPATH": os.pathsep.join(sys.path)}
    code = "import json; from jaxfair import hardware; print(json.dumps(hardware.probe()['digests']))"
    child = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    if child.returncode:
        raise JaxfairError(f"The plain CPU that profiles are compared with failed: {child.stderr[-300:]!r}.")
    return json.loads(child.stdout.splitlines()[-1])


@checked
def verify(profile: Profile) -> dict[str, Any]:
    """Prove that this process has the profile's arithmetic; call it in the child, before anything is computed.

    Products have to be rounded as the profile says, and a variant of the CPU has to compute other bits than the plain
    CPU: else an instruction set that XLA or the machine does not know would pass for a hardware of its own.

    Args:
        profile: The profile that the process was started with. A variant of the CPU whose ``environment_of`` was not
            given the plain CPU's digests has them found now.

    Returns:
        What ``probe`` found; for a variant of the CPU also ``differs_in``, the digests that are not the plain CPU's.

    Raises:
        JaxfairError: The profile did not take effect, or is the plain CPU under another name on this machine.
    """
    _check_settings(profile)
    found = probe(profile.arithmetic)
    products = {"highest": ("float32",), "tensorfloat32": ("tf32", "tf32 truncated"), "default": ("bf16",)}
    wanted = products[profile.matmul_precision] if profile.arithmetic == "native" else (profile.arithmetic,)
    # A convolution may use TF32 where that is allowed, and need not.
    convolution = (*wanted, "float32") if profile.matmul_precision == "tensorfloat32" else wanted
    expected = {"product": wanted, "convolution": convolution} | {name: (it,) for name, it in profile.proof.items()}
    reasons = [
        f"the probe finds {name}: {found[name]}, expected {values[0]}"
        for name, values in expected.items()
        if found[name] not in (*values, None)  # None: it cannot be found out here
    ]
    if profile.varies_cpu and not reasons:
        told = os.environ.get(PLAIN_DIGESTS)
        plain = json.loads(told) if told else plain_digests(_without(profile))
        found["differs_in"] = [name for name, digest in found["digests"].items() if plain[name] != digest]
        reasons += [] if found["differs_in"] else ["all results of the probe have the same bits as those of 'cpu'"]
    if reasons:
        raise JaxfairError(
            f"Profile '{profile.name}' has no effect in this process: {reasons[0]}; start it with environment_of, and "
            "leave the profile out if this machine does not have it."
        )
    return found


def _check_settings(profile: Profile) -> None:
    backend = jax.default_backend()
    if profile.backend not in (backend, None):
        raise JaxfairError(
            f"Profile '{profile.name}' needs a {profile.backend}, and JAX finds {jax.device_count()} x {backend} "
            f"({jax.devices()[0].device_kind}) here; choose another profile, or install JAX's plugin for it."
        )
    precision = "JAX_DEFAULT_MATMUL_PRECISION"
    wanted = {**profile.environment, precision: profile.matmul_precision}
    actual = {**os.environ, precision: describe()["default_matmul_precision"]}
    missing = [f"{name}={value}" for name, value in wanted.items() if f" {value} " not in f" {actual.get(name)} "]
    if missing:
        raise JaxfairError(
            f"This process was not started for profile '{profile.name}': it lacks {' and '.join(missing)}; start it "
            "with environment_of(profile, os.environ), and change nothing of this afterwards."
        )


def _without(profile: Profile) -> dict[str, str]:
    """Return this process's environment without the profile."""
    environment = {name: value for name, value in os.environ.items() if name not in profile.environment}
    environment["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "").replace(profile.environment.get("XLA_FLAGS", ""), "")
    return environment


def probe(kind: Arithmetic = "native") -> dict[str, Any]:
    """Compute what shows the arithmetic of this process.

    Args:
        kind: Kind of the emulation that products go through.

    Returns:
        ``fused``: whether ``a * b + c`` is rounded once (FMA) instead of twice. ``product``, ``convolution``: how
        their operands are rounded (``float32``, ``tf32``, ``tf32 truncated``, ``bf16``, ``fp16``, ``unknown``).
        ``kernels``: what computes convolutions on a CPU. ``threads``: of XLA's pool on the CPU; None where they cannot
        be counted. ``scatter``: ``expanded`` where additions to one place have a fixed order, else ``kept``. ``bits``:
        of the first three, in hexadecimal. ``digests``: of results that differ between instruction sets, numbers of
        threads and optimisation levels.
    """
    # (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24 lies half-way between two numbers of float32, and rounds to 1 + 2^-11.
    factor, addend = np.full(64, 1 + 2.0**-12, np.float32), np.full(64, -(1 + 2.0**-11), np.float32)
    fused = np.asarray(jax.jit(lambda a, b, c: a * b + c)(factor, factor, addend))
    a, b, product, convolution = _products(kind)
    scatter = jax.jit(lambda x, i: jnp.zeros(8).at[i].add(x)).lower(factor, np.arange(64) % 8).compile().as_text()
    bits = {"fused": fused[:1], "product": product[:2, 0], "convolution": convolution[:2, 0]}
    threads = sum("XLAEigen" in name.read_text() for name in Path("/proc/self/task").glob("*/comm"))
    return {
        "fused": bool((fused == np.float32(2.0**-24)).all()),
        "product": _rounding(a, b, product),
        "convolution": _rounding(a, b, convolution),
        "kernels": kernels(),
        "threads": threads or None,
        # Where the order is fixed there is no scatter, or one into places that differ, of sums made before.
        "scatter": "kept" if re.search(r" scatter\((?!.*unique_indices=true)", scatter or "") else "expanded",
        "bits": {name: value.astype(">f4").tobytes().hex() for name, value in bits.items()},
        "digests": _digests(kind),
    }


def _products(kind: Arithmetic) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return ``a`` (64, 1), ``b`` (64,) and all products of two of their numbers, by matrix product and convolution.

    Every sum has one term that is not 0, so that no addition rounds. Every other ``a`` is too small for float16.
    """
    rng = np.random.default_rng(0)
    a, b = (1 + rng.random(64, np.float32) for _ in range(2))
    a[1::2] *= np.float32(2.0**-20)
    image = np.zeros((64, 4, 4, 64), np.float32)
    image[np.arange(64), 1, 1, np.arange(64)] = a
    kernel = np.zeros((3, 3, 64, 64), np.float32)
    kernel[1, 1] = b
    convolution = jax.jit(lambda x, w: _convolve(kind, x, w))(image, kernel)
    product = jax.jit(lambda x, w: _dot(kind, x, w))(np.diag(a), kernel[1, 1])
    return a[:, None], b, np.asarray(product), np.asarray(convolution)[:, 1, 1]


def _dot(kind: Arithmetic, x: Any, y: Any) -> jax.Array:
    return arithmetic.dot_general(kind)(x, y, (((1,), (0,)), ((), ())))


def _convolve(kind: Arithmetic, x: Any, kernel: Any) -> jax.Array:
    return arithmetic.conv_general_dilated(kind)(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _rounding(a: np.ndarray, b: np.ndarray, product: np.ndarray) -> str:
    """Return the format whose rounding of ``a`` and ``b`` by hand explains ``product`` best."""
    errors = {
        name: np.max(np.abs(product - _by_hand(a, name) * _by_hand(b, name)) / (a * b))
        for name in ("float32", "tf32", "tf32 truncated", "bf16", "fp16")
    }
    best = min(errors, key=errors.__getitem__)
    return best if errors[best] < 1e-5 else "unknown"


def _by_hand(x: np.ndarray, name: str) -> np.ndarray:
    """Round positive float32 numbers by arithmetic on their bits: to nearest, ties to even, or towards 0."""
    drop = {"float32": 0, "bf16": 16}.get(name, 13)
    bits = x.view(np.uint32)
    if drop and "truncated" not in name:
        bits = bits + np.uint32((1 << drop - 1) - 1) + (bits >> drop & 1)
    rounded = (bits >> drop << drop).view(np.float32)
    return np.where(rounded < 2.0**-14, np.float32(0), rounded) if name == "fp16" else rounded


def _digests(kind: Arithmetic) -> dict[str, str]:
    """Return digests of results whose last bits depend on how sums are split and on which instructions there are."""
    x = 2 * np.random.default_rng(1).random(1_000_000, np.float32) - 1
    image, kernel, dense = np.resize(x, (16, 8, 8, 4)), np.resize(x, (3, 3, 4, 16)), np.resize(x, (16, 10))

    def loss(weights: tuple[Any, Any]) -> jax.Array:
        h = _convolve(kind, image, weights[0])
        h = jax.nn.relu((h - h.mean((0, 1, 2))) * jax.lax.rsqrt(h.var((0, 1, 2)) + 1e-5))
        return -jax.nn.log_softmax(_dot(kind, h.mean((1, 2)), weights[1]))[:, 0].mean()

    results = {
        "elementwise": (lambda u: (jnp.exp(u), jnp.tanh(u), jnp.log(u * u), jax.lax.rsqrt(u * u + 1e-5)), x[:1003]),
        "large sums": (lambda u: (u.sum(), u.sum(0)), np.resize(x, (1000, 1000))),
        "small sums": (lambda u: ((u * u).sum(), (u[0] * u[0]).sum()), np.resize(x, (2, 8, 8, 16))),
        "matrix product": (lambda u: _dot(kind, u, u.T), np.resize(x, (160, 1000))),
        "vector product": (lambda u: _dot(kind, u[:1], u.T), np.resize(x, (200, 33))),
        "convolution": (lambda u: _convolve(kind, u, kernel), image),
        "gradient": (jax.grad(loss), (kernel, dense)),
    }
    digests = {}
    for name, (function, given) in results.items():
        leaves = jax.tree.leaves(jax.jit(function)(given))
        digests[name] = hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest()[:16]
    return digests


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@checked
def describe(profile: Profile | None = None) -> dict[str, Any]:
    """Return the backend, its devices, the settings that decide how numbers are rounded, and the profile, if any.

    By ``threads`` XLA splits large sums on a CPU: the variable NPROC, or else the cores that the process may use.
    """
    devices, flags = jax.devices(), os.environ.get("XLA_FLAGS", "")
    return {
        "backend": jax.default_backend(),
        "device_kind": devices[0].device_kind,
        "device_count": len(devices),
        "process_count": jax.process_count(),
        "driver": devices[0].client.platform_version,
        "host_processor": platform.processor() or platform.machine(),
        "host_cores": os.cpu_count(),
        "threads": asked_threads(os.environ) or _usable_cores(),
        "x64": jax.config.jax_enable_x64,  # pyright: ignore[reportAttributeAccessIssue]
        "default_matmul_precision": jax.config.jax_default_matmul_precision or "default",  # pyright: ignore
        "xla_flags": flags,
        "kernels": kernels(),
        "determinism_flags": [flag for flag in flags.split() if "determinis" in flag],
        "profile": profile.name if profile else None,
        "profile_kind": profile.kind if profile else None,
    }
