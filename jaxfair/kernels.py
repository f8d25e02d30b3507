"""Which kernels compute convolutions: on a CPU XLA's own, or oneDNN's, which are faster and have to be asked for; on a
GPU those that XLA finds fastest, or others of ``ON_GPU``.

Importing this loads no JAX, since JAX reads its flags when it starts: an entry point calls ``prefer_onednn`` before it
imports anything else. The library itself sets nothing.

**Not for attention.** The flags have XLA call oneDNN for batched matrix products too, and with jaxlib 0.11.2 the
compiled Hessian product of ``jax.nn.dot_product_attention``, the derivative of its gradient, is then off by 39 %
(tests/test_kernels.py), and that of a trained GPT by 7 %, where PyTorch's is right. What goes wrong are products over a
batch axis that does not come first in memory, as attention's heads do not. Since XLA moves axes when it compiles,
curvature refuses every model that has products of batches (``programs.multiplies_batches``) where these kernels are
asked for. Convolutional networks are what the flags were tried on: their products agree with PyTorch's to 3e-6.
"""

import functools
from collections.abc import Mapping, MutableMapping
from importlib import metadata

ONEDNN = (
    "--xla_cpu_experimental_onednn_custom_call=true --xla_cpu_use_onednn=false "
    "--xla_cpu_experimental_ynn_fusion_type=invalid --xla_cpu_use_xnnpack=false"
)
"""Flags by which XLA calls oneDNN for convolutions; it takes all four, and jaxlib 0.11 or newer."""

OF_THEM = ("onednn", "ynn_fusion", "xnnpack")
"""In flags that speak of the same: of two of one name XLA takes the last."""

ON_GPU = {
    "tuned": "",
    "nchw": "--xla_gpu_force_conv_nchw=true",
    "ordered": "--xla_gpu_exclude_nondeterministic_ops=true",
}
"""Flags by which XLA chooses among a GPU's kernels: those that it finds fastest, those with channels first, or those
that add in one order."""

NAMES = {"onednn": "oneDNN", "cudnn": "cuDNN", "xla": "XLA"}
"""What computes convolutions, by the names in records: a library's that XLA calls, or XLA's own."""

TRIED = ((0, 11), (0, 13))
"""First version of jaxlib that knows these flags, and the first on which they were not tried; others stop at them."""


def has_onednn() -> bool:
    """Return whether this jaxlib knows the flags, without importing it."""
    version = tuple(map(int, metadata.version("jaxlib").split(".")[:2]))
    return TRIED[0] <= version < TRIED[1]


def prefer_onednn(environment: MutableMapping[str, str]) -> None:
    """Ask for oneDNN's convolutions in an environment, such as ``os.environ`` before JAX is imported.

    For convolutional networks only: second derivatives of attention are wrong by them, as the module says, and refused.

    Nothing happens where jaxlib does not have them, or where ``XLA_FLAGS`` set one of these flags already. XLA then
    logs an error for every program that is none, so its log is silenced unless ``TF_CPP_MIN_LOG_LEVEL`` is set; what
    goes wrong still raises.
    """
    flags = environment.get("XLA_FLAGS", "")
    if has_onednn() and not any(part in flags for part in OF_THEM):
        environment["XLA_FLAGS"] = f"{flags} {ONEDNN}".strip()
        silence(environment)


def choose_on_gpu(environment: MutableMapping[str, str], choice: str) -> None:
    """Ask for some of a GPU's kernels, a key of ``ON_GPU``, in an environment that JAX has looked for no device in yet.

    What ``XLA_FLAGS`` say of the same flag stays.
    """
    flags, flag = environment.get("XLA_FLAGS", ""), ON_GPU[choice]
    if flag.partition("=")[0] not in flags:
        environment["XLA_FLAGS"] = f"{flags} {flag}".strip()


def silence(environment: MutableMapping[str, str]) -> None:
    """Keep XLA's log, which these flags fill, from users, unless they have set how much is logged.

    A level of 1 is JAX's own, which sets it when it is imported: a process that has done so hands it to its children.
    """
    if environment.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
        environment["TF_CPP_MIN_LOG_LEVEL"] = "3"


def asked(environment: Mapping[str, str]) -> bool:
    """Return whether an environment asks for oneDNN's convolutions."""
    return "onednn_custom_call=true" in environment.get("XLA_FLAGS", "")


@functools.cache
def kernels() -> str:
    """Return what computes convolutions in this process, by looking into a compiled one, a key of ``NAMES``."""
    import jax
    import jax.numpy as jnp

    layout = ("NHWC", "HWIO", "NHWC")
    convolve = jax.jit(lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout))
    compiled = convolve.lower(jnp.zeros((8, 16, 16, 16)), jnp.zeros((3, 3, 16, 16))).compile().as_text()
    return called(compiled or "")


def called(program: str) -> str:
    """Return whose convolutions a compiled program calls, a key of ``NAMES``."""
    return next((name for name in NAMES if f"__{name}$conv" in program), "xla")


def remark(environment: Mapping[str, str]) -> str:
    """Return one line on what computes convolutions where oneDNN was asked for; empty where nothing is unusual."""
    if not asked(environment):
        return ""
    import jax

    if kernels() == "xla" and jax.default_backend() == "cpu":
        return "oneDNN was asked for and computes no convolution here."
    return f"Convolutions by {NAMES[kernels()]}."
