"""Profiles in processes of their own: each has its effect or is refused; the probe against rounding by other means."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

from jaxfair import hardware, kernels
from jaxfair.errors import JaxfairError
from jaxfair.hardware import PROFILES, Profile
from jaxfair.networks import arithmetic

CPU = [p for p in PROFILES.values() if p.backend == "cpu" and (kernels.has_onednn() or p.name != "cpu-onednn")]
EMULATED = [profile for profile in PROFILES.values() if profile.kind == "emulated"]
ABSENT = [profile for profile in PROFILES.values() if profile.backend not in (jax.default_backend(), None)]
UNKNOWN = dataclasses.replace(
    PROFILES["cpu-avx"], name="cpu-avx1024", environment={"XLA_FLAGS": "--xla_cpu_max_isa=AVX1024"}, proof={}
)

CHILD = """
import json, os, sys
import jax
from jaxfair import errors, hardware
fields, alone, late = json.loads(sys.argv[1])
if late:
    jax.devices()
    os.environ.update(late)
if not alone:
    hardware.subprocess = None
try:
    found = hardware.verify(hardware.Profile(**fields))
except errors.JaxfairError as error:
    found = {**hardware.probe(), "error": str(error)}
print(json.dumps({"found": found, "record": hardware.describe(hardware.Profile(**fields))}))
"""


def start(profile: Profile, plain: Any = None, late: Any = None, base: Mapping[str, str] = os.environ) -> Any:
    """Return what ``verify`` finds in a process that was started for the profile, or, if ``late``, was not.

    A variant of the CPU may start a process of its own only where it is not told what the plain CPU computes.
    """
    base = {name: value for name, value in base.items() if name != "XLA_FLAGS"}  # conftest.py's are not XLA's own
    environment = base if late else hardware.environment_of(profile, base, plain)
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    alone = plain is None and late is None and profile.varies_cpu
    command = [sys.executable, "-c", CHILD, json.dumps([dataclasses.asdict(profile), alone, late])]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout.splitlines()[-1])


@functools.cache
def found_by(name: str) -> dict[str, Any]:
    """Return what a process of that profile found; of ``unknown``, and of ``late``, which set its flags too late."""
    if name == "cpu":
        return start(PROFILES["cpu"])
    digests, avx = found_by("cpu")["found"]["digests"], PROFILES["cpu-avx"]
    if name == "late":
        return start(avx, None, dict(avx.environment), {**os.environ, **hardware.environment_of(avx, {})})
    return start(UNKNOWN if name == "unknown" else PROFILES[name], digests)


@pytest.fixture
def highest() -> Iterator[None]:
    """Give this process the setting that the emulated profiles have."""
    before = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_default_matmul_precision", "highest")
    yield
    jax.config.update("jax_default_matmul_precision", before)


def machine_has(profile: Profile) -> bool:
    """Say whether the profile is certain to change bits on this machine; AVX2 depends on how XLA uses AVX-512."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    if profile.name == "cpu-1-thread":
        return hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1
    return profile.name != "cpu-avx2" and "fma" in flags


@pytest.mark.parametrize("profile", [profile for profile in CPU if profile.environment], ids=lambda it: it.name)
def test_a_variant_of_the_cpu_has_other_bits_or_is_refused(profile: Profile) -> None:
    """A duplicate of the plain CPU is never accepted, and what differs is named."""
    plain, found = found_by("cpu")["found"], found_by(profile.name)["found"]
    differs = [part for part, digest in plain["digests"].items() if found["digests"][part] != digest]
    assert found.get("differs_in", []) == differs
    assert ("has no effect" in found.get("error", "")) == (not differs)
    if machine_has(profile):
        assert differs
        assert {part: found[part] for part in profile.proof} == profile.proof
        assert found["product"] == found["convolution"] == "float32"
    assert found_by(profile.name)["record"]["profile"] == profile.name
    assert profile.environment["XLA_FLAGS"] in found_by(profile.name)["record"]["xla_flags"]


def test_a_variant_finds_the_plain_cpu_itself() -> None:
    """Told nothing of the plain CPU, the answer is the same."""
    assert start(PROFILES["cpu-opt0"]) == found_by("cpu-opt0")


def test_an_unknown_instruction_set_is_refused() -> None:
    """XLA itself warns only, and computes what the plain CPU computes."""
    assert "'cpu-avx1024' has no effect" in found_by("unknown")["found"]["error"]
    assert "same bits as those of 'cpu'" in found_by("unknown")["found"]["error"]
    assert found_by("unknown")["found"]["digests"] == found_by("cpu")["found"]["digests"]


@pytest.mark.skipif(not machine_has(PROFILES["cpu-avx"]), reason="no FMA on this machine")
def test_a_flag_that_was_set_too_late_is_found_out() -> None:
    """The environment says AVX, and the bits say that JAX had started before."""
    assert "fused: True, expected False" in found_by("late")["found"]["error"]
    assert found_by("late")["found"]["bits"]["fused"] == np.array(2.0**-24, ">f4").tobytes().hex()


@pytest.mark.parametrize("profile", EMULATED, ids=lambda it: it.name)
@pytest.mark.usefixtures("highest")
def test_an_emulated_product_is_that_of_operands_rounded_by_hand(profile: Profile) -> None:
    """Equal to the last bit, by other means than those of the probe; the small operands are 0 in fp16."""
    by_hand = {
        "bf16": lambda x: x.astype(ml_dtypes.bfloat16).astype(np.float32),
        "fp16": lambda x: np.where(x < 6.1e-5, 0, x.astype(np.float16).astype(np.float32)),
        "tf32": lambda x: np.ldexp(np.rint(np.ldexp(np.frexp(x)[0], 11)), np.frexp(x)[1] - 11),
    }[profile.name]
    a, b, product, convolution = hardware._products(profile.arithmetic)
    expected = (by_hand(a) * by_hand(b)).astype(np.float32)
    assert not np.array_equal(expected, a * b)
    np.testing.assert_array_equal(product, expected)
    np.testing.assert_array_equal(convolution, expected)
    found = hardware.verify(profile)
    assert found["product"] == found["convolution"] == profile.name


def test_truncated_operands_are_told_from_rounded_ones() -> None:
    """A tensor core may drop the bits that TF32 lacks; what fits no format is unknown."""
    rng = np.random.default_rng(3)
    a, b = (1 + rng.random((64, 1), np.float32) for _ in range(2))
    cut = [(x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32) for x in (a, b)]
    assert hardware._rounding(a, b, cut[0] * cut[1]) == "tf32 truncated"
    assert hardware._rounding(a, b, a * b) == "float32"
    assert hardware._rounding(a, b, a * b * np.float32(1.001)) == "unknown"


@pytest.mark.parametrize("operation", ["dot_general", "conv_general_dilated"])
@pytest.mark.usefixtures("highest")
def test_an_emulation_that_is_off_is_found_out(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the two products not rounded is enough."""
    monkeypatch.setattr(arithmetic, operation, lambda kind: getattr(jax.lax, operation))
    with pytest.raises(JaxfairError, match=r"'bf16' has no effect.*: float32, expected bf16"):
        hardware.verify(PROFILES["bf16"])


@pytest.mark.usefixtures("highest")
def test_a_process_that_was_started_otherwise_is_refused() -> None:
    """The sentence names what is missing: a flag, or the precision that an entry point changed."""
    with pytest.raises(JaxfairError, match=r"lacks XLA_FLAGS=--xla_cpu_max_isa=AVX; start it"):
        hardware.verify(PROFILES["cpu-avx"])
    jax.config.update("jax_default_matmul_precision", "bfloat16")
    with pytest.raises(JaxfairError, match=r"lacks JAX_DEFAULT_MATMUL_PRECISION=highest; start it"):
        hardware.verify(PROFILES["fp16"])


@pytest.mark.parametrize("profile", ABSENT, ids=lambda it: it.name)
def test_an_absent_backend_is_named_with_what_is_there(profile: Profile) -> None:
    """One sentence, before anything is computed."""
    with pytest.raises(JaxfairError, match=rf"needs a {profile.backend}, and JAX finds \d+ x {jax.default_backend()}"):
        hardware.verify(profile)


def test_an_unknown_name() -> None:
    """The nearest name is offered."""
    with pytest.raises(JaxfairError, match=r"no hardware profile 'cpu-axv'; did you mean 'cpu-avx'\?"):
        hardware.named("cpu-axv")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cpu", {"XLA_FLAGS": "--mine", "JAX_PLATFORMS": "cpu", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}),
        ("cpu-sse4.2", {"XLA_FLAGS": "--mine --xla_cpu_max_isa=SSE4_2", "JAX_PLATFORMS": "cpu"}),
        ("cpu-1-thread", {"NPROC": "1", "JAX_PLATFORMS": "cpu"}),
        ("gpu", {"XLA_FLAGS": "--mine", "JAX_PLATFORMS": "", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}),
        ("gpu-tf32", {"XLA_FLAGS": "--mine", "JAX_DEFAULT_MATMUL_PRECISION": "tensorfloat32"}),
        ("gpu-deterministic", {"XLA_FLAGS": "--mine --xla_gpu_deterministic_ops=true"}),
        ("tpu", {"JAX_PLATFORMS": "", "JAX_DEFAULT_MATMUL_PRECISION": "default"}),
        ("bf16", {"XLA_FLAGS": "--mine", "JAX_PLATFORMS": "rocm", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}),
    ],
)
def test_the_environment_of_a_child(name: str, expected: dict[str, str]) -> None:
    """What the profile needs is added to what the user has set, which stays as it is."""
    base = {"XLA_FLAGS": "--mine", "JAX_PLATFORMS": "rocm", "HOME": "/home/someone"}
    child = hardware.environment_of(PROFILES[name], base)
    assert {**child, **expected, "HOME": "/home/someone"} == child
    assert base == {"XLA_FLAGS": "--mine", "JAX_PLATFORMS": "rocm", "HOME": "/home/someone"}


def test_the_log_of_onednn_reaches_no_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the user has set how much is logged."""
    monkeypatch.setattr(hardware, "has_onednn", lambda: True)
    said = [
        hardware.environment_of(PROFILES["cpu-onednn"], base)["TF_CPP_MIN_LOG_LEVEL"]
        for base in ({}, {"TF_CPP_MIN_LOG_LEVEL": "1"}, {"TF_CPP_MIN_LOG_LEVEL": "0"})  # JAX itself sets 1
    ]
    assert said == ["3", "3", "0"]


def test_labels_say_native_or_emulated() -> None:
    """No reader can take one for the other."""
    assert all(profile.label.endswith(f"({profile.kind})") for profile in PROFILES.values())
    assert all((profile.arithmetic == "native") == (profile.kind == "native") for profile in PROFILES.values())


@pytest.mark.skipif(kernels.has_onednn(), reason="this jaxlib has oneDNN's convolutions")
def test_a_jaxlib_without_onednn_is_not_started_with_its_flags() -> None:
    with pytest.raises(JaxfairError, match=r"'cpu-onednn' needs jaxlib 0\.11"):
        hardware.environment_of(PROFILES["cpu-onednn"], {})
