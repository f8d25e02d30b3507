"""Which kernels compute convolutions: what is asked for, and what is found in a compiled program."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxfair import kernels
from jaxfair.curvature.programs import multiplies_batches

# Programs that call oneDNN cannot be kept in a compilation cache (jax 0.11.2 warns of it).
UNSET = ("XLA_FLAGS", "TF_CPP_MIN_LOG_LEVEL", "JAX_COMPILATION_CACHE_DIR")
FOUND = "from jaxfair.kernels import kernels; print(kernels())"


def environment(*, asking: bool = False) -> dict[str, str]:
    """Return this process's environment as if nobody had asked, or asking for oneDNN."""
    plain = {key: value for key, value in os.environ.items() if key not in UNSET}
    return plain | ({"XLA_FLAGS": kernels.ONEDNN, "TF_CPP_MIN_LOG_LEVEL": "3"} if asking else {})


@pytest.mark.skipif(not kernels.asked(os.environ), reason="`make test-onednn` asks for oneDNN's kernels")
def test_what_this_process_asks_for_computes() -> None:
    assert kernels.kernels() == "onednn"


@pytest.fixture
def version(monkeypatch: pytest.MonkeyPatch):
    """Let another version of jaxlib be installed."""
    return lambda name: monkeypatch.setattr(kernels.metadata, "version", lambda _: name)


@pytest.mark.parametrize(
    ("name", "asked"), [("0.10.2", False), ("0.11.2", True), ("0.12.0.1", True), ("0.13.0", False)]
)
def test_they_are_asked_for_where_jaxlib_knows_them(version, name: str, asked: bool) -> None:
    version(name)
    environment = {"XLA_FLAGS": "--xla_dump_to=there"}
    kernels.prefer_onednn(environment)
    assert environment["XLA_FLAGS"].startswith("--xla_dump_to=there")
    assert (kernels.ONEDNN in environment["XLA_FLAGS"]) == asked
    assert ("TF_CPP_MIN_LOG_LEVEL" in environment) == asked


@pytest.mark.parametrize("flag", [*kernels.ONEDNN.split(), "--xla_cpu_use_xnnpack=true"])
def test_what_the_user_says_of_them_stays(version, flag: str) -> None:
    """Of any of them: the last of two counts, which would be ours."""
    version("0.11.2")
    given = {"XLA_FLAGS": flag}
    kernels.prefer_onednn(given)
    assert given == {"XLA_FLAGS": flag}


@pytest.mark.parametrize(("choice", "flag"), kernels.ON_GPU.items())
def test_kernels_of_a_gpu_are_asked_for_once_and_the_user_has_the_last_word(choice: str, flag: str) -> None:
    given = {"XLA_FLAGS": "--xla_dump_to=there"}
    for _ in range(2):  # as a worker does, which inherits what its study has asked for
        kernels.choose_on_gpu(given, choice)
        assert given["XLA_FLAGS"] == f"--xla_dump_to=there {flag}".strip()
    own = {"XLA_FLAGS": flag.replace("true", "false")}
    kernels.choose_on_gpu(own, choice)
    assert own == {"XLA_FLAGS": flag.replace("true", "false")}


def test_how_much_is_logged_is_for_the_user_to_say(version) -> None:
    version("0.11.2")
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "0"}
    kernels.prefer_onednn(quiet)
    assert quiet["TF_CPP_MIN_LOG_LEVEL"] == "0"
    child = {"TF_CPP_MIN_LOG_LEVEL": "1"}  # JAX sets this when it is imported, so that children inherit it
    kernels.prefer_onednn(child)
    assert child["TF_CPP_MIN_LOG_LEVEL"] == "3"


def test_what_is_asked_for_engages_and_logs_nothing() -> None:
    """In a process of its own, as entry points start; an older jaxlib computes as before."""
    code = f"import os; from jaxfair.kernels import prefer_onednn; prefer_onednn(os.environ); {FOUND}"
    root = Path(__file__).parents[1]
    child = subprocess.run([sys.executable, "-c", code], env=environment(), cwd=root, capture_output=True, text=True)
    assert child.stdout.strip() == ("onednn" if kernels.has_onednn() else "xla"), child.stderr
    assert not child.stderr


@pytest.mark.parametrize(
    ("program", "backend", "said"),
    [
        ('custom_call_target="__onednn$convolution"', "cpu", "Convolutions by oneDNN."),
        ('custom_call_target="__cudnn$convForward"', "gpu", "Convolutions by cuDNN."),
        ("convolution(x, w)", "tpu", "Convolutions by XLA."),
        ("convolution(x, w)", "cpu", "oneDNN was asked for and computes no convolution here."),
    ],
)
def test_one_line_says_what_computes(monkeypatch, program: str, backend: str, said: str) -> None:
    """Flags of a CPU are none of an accelerator's affair, whose user did not ask for oneDNN."""
    monkeypatch.setattr(kernels, "kernels", lambda: kernels.called(program))
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert kernels.remark({"XLA_FLAGS": kernels.ONEDNN}) == said
    assert kernels.remark({}) == ""


STUDIES = [f"experiments/{study}/__main__.py" for study in ("linearization", "compression", "toy")]
STUDIES += ["experiments/linearization/foretold.py"]
ENTRY_POINTS = [*STUDIES, "benchmarks/__init__.py"]


def test_entry_points_ask_before_jax_is_imported() -> None:
    root = Path(__file__).parents[1]
    for name in ENTRY_POINTS:
        text = (root / name).read_text(encoding="utf-8")
        assert "prefer_onednn(os.environ)" in text
        code = (
            f"import sys, runpy; runpy.run_path({name!r}); print('jax' in sys.modules)" if "benchmarks" in name else ""
        )
        if code:
            child = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
            assert child.stdout.strip() == "False", child.stderr


ATTENTION = """
import jax, jax.numpy as jnp, numpy as np
rng = np.random.default_rng(0)
at, along = (tuple(jnp.asarray(rng.normal(size=(4, 63, 2, 64)), jnp.float32) for _ in range(3)) for _ in range(2))
attend = lambda q, k, v: (jax.nn.dot_product_attention(q, k, v, is_causal=True) ** 2).sum()
gradient = lambda *at: jnp.concatenate([part.ravel() for part in jax.grad(attend, (0, 1, 2))(*at)])
product = lambda at, along: jax.jvp(gradient, at, along)[1]
plain, compiled = product(at, along), jax.jit(product)(at, along)
print(float(jnp.linalg.norm(compiled - plain) / jnp.linalg.norm(plain)))
"""


@pytest.mark.skipif(not kernels.has_onednn(), reason="this jaxlib has no calls of oneDNN")
@pytest.mark.parametrize("asked", [True, False])
def test_hessian_products_of_attention_are_wrong_where_they_are_asked_for(asked: bool) -> None:
    """A fault of jaxlib 0.11.2: once it is mended this fails, and the GPT of the benchmarks can have them too."""
    command = [sys.executable, "-c", ATTENTION]
    child = subprocess.run(command, env=environment(asking=asked), capture_output=True, text=True)
    assert (float(child.stdout) > 0.01) == asked, (child.stdout, child.stderr)


REFUSED = """
import jax.numpy as jnp, numpy as np
import jaxfair
x = np.random.default_rng(0).normal(size=(8, 5, 6)).astype(np.float32)
def scores(p, x):
    q, k = ((x @ p[name]).reshape(-1, 5, 2, 3) for name in ("q", "k"))
    return jnp.einsum("bthd,bshd->bhts", q, k).reshape(len(x), -1)
params, weights = {"q": jnp.eye(6), "k": jnp.eye(6)}, np.full((1, 8), 1 / 8)
try:
    print(jaxfair.group_curvature(scores, params, x, np.arange(8), weights).converged)
except jaxfair.JaxfairError as error:
    print(error)
"""


@pytest.mark.parametrize("asked", [True, False])
def test_curvature_refuses_what_these_kernels_may_get_wrong(asked: bool) -> None:
    if asked and not kernels.has_onednn():
        pytest.skip("this jaxlib has no calls of oneDNN, and stops at flags that ask for them")
    command = [sys.executable, "-c", REFUSED]
    child = subprocess.run(command, env=environment(asking=asked), capture_output=True, text=True)
    assert ("start without these flags" if asked else "[ True]") in child.stdout, (child.stdout, child.stderr)


@pytest.mark.parametrize(
    ("spec", "batches"), [("tbd,sbd->bts", True), ("bij,bjk->bik", True), ("btd,dk->btk", False), ("ij,jk->ik", False)]
)
def test_products_of_batches_are_found_at_any_depth(spec: str, batches: bool) -> None:
    arrays = [jnp.ones(tuple(map("..bijkstd".index, part))) for part in spec.split("->")[0].split(",")]

    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.einsum(spec, a, b).sum()

    def looped(a: jax.Array, b: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda total, _: (total + product(a, b), None), jnp.zeros(()), jnp.arange(2))[0]

    def branched(a: jax.Array, b: jax.Array) -> jax.Array:
        return jax.lax.cond(a.sum() > 0, product, lambda a, b: a.sum() + b.sum(), a, b)

    for function in (product, jax.jit(product), looped, branched, jax.checkpoint(product)):
        assert multiplies_batches(jax.make_jaxpr(function)(*arrays).jaxpr) == batches


def test_benchmarks_of_attention_do_not_ask() -> None:
    root = Path(__file__).parents[1]
    show = "import os, sys, runpy; runpy.run_path('benchmarks/__init__.py'); print(os.environ.get('XLA_FLAGS', ''))"
    for problem, asked in (("gpt", False), ("resnet18-w16", kernels.has_onednn())):
        command = [sys.executable, "-c", show, "--problem", problem]
        child = subprocess.run(command, env=environment(), cwd=root, capture_output=True, text=True)
        assert ("onednn" in child.stdout) == asked, child.stderr
