"""Settings of XLA, types checked at run time, hypothesis without chance, and fixtures that several files use."""

import gc
import os
import re
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

# A process of tests has one core. NumPy's own threads would wait for each other's: seconds for a small eigenproblem.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is imported

import jaxtyping
import pytest
from hypothesis import settings

# `make test-slow` checks shapes and types of every annotated jaxfair function while tests run, which takes a sixth of
# the time. An int may stand for a float, and a NumPy scalar for an array without axes, as NumPy itself has it.
if "JAXFAIR_CHECK_TYPES" in os.environ:
    scalars = "(lambda np: beartype.FrozenDict({np.ndarray: np.ndarray | np.generic}))(__import__('numpy'))"
    conf = f"beartype.BeartypeConf(is_pep484_tower=True, hint_overrides={scalars})"
    jaxtyping.install_import_hook("jaxfair", f"beartype.beartype(conf={conf})")

from jaxfair import kernels  # loads no JAX, whose flags are set below

settings.register_profile("reproducible", derandomize=True, deadline=None, database=None)
settings.load_profile("reproducible")

# Most of a run is compilation. At level 0, in one piece and without fused loops of their own, XLA compiles several
# times faster than by default, to programs that are fast enough for tests; `make test-slow` has the default. What one
# process has compiled the others of this session load: workers, child processes and notebooks inherit these settings.
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    quickly = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    quickly += " --xla_cpu_parallel_codegen_split_count=1"
    if version("jaxlib").startswith("0.10."):  # later ones know no such flag, and end at one that they do not know
        quickly += " --xla_cpu_use_fusion_emitters=false"
    if kernels.has_onednn() and not kernels.asked(os.environ):  # or importing the benchmarks would ask; or one did ask
        quickly += " --xla_cpu_experimental_onednn_custom_call=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quickly}".strip()
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="jaxfair-compiled-")  # gone when this process ends
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name


MOST_MAPS = 10_000
"""Memory maps of a process, of which Linux allows 65,530: compiled programs have many, and beyond that XLA crashes. Of
20,000 a worker's memory was up to 5.2 GB, of so many 4.4."""


SLOW = {
    r"test_mitigated_training.py::test_(seeds_\w+|a_killed_run\w+)\[(?!lagrangian\])": "the method lagrangian",
    r"test_mitigated_training.py::test_(alignment_narrows|mitigation_closes)": "test_a_step_descends_the_lagrangian",
    r"test_folding.py::.*\[(bottleneck|preactivation)\]": "basic blocks",
    r"test_gathered.py::.*\[(?!some)\w+-(bottleneck|preactivation)\]": "a mask of some units",
    r"test_networks.py::.*\[(bottleneck|preactivation)\]": "basic blocks and the CNN",
    r"test_streaming.py::test_training_gives_the_same_bits\[2\]": "one seed",
    r"test_streaming.py::test_(the_snl_descent|a_measurement\w+\[train\])": "training, and the test images",
    r"test_resume.py::test_a_killed_study\w+\[(checkpoint-2-train|done-4-finetune)\]": "a kill in the descent",
    r"test_resume.py::test_another_budget_shares": "test_a_second_call_makes_no_run",
    r"test_linearization.py::test_mitigations_and_controls": "the plan, and each method's own tests",
    r"test_hardware_study.py::test_(a_second_call|the_report_has_the_title)": "linearization's, and the report's own",
    r"test_snl.py::test_the_progress_of_another_descent": "test_progress_of_another_run_is_not_continued",
    r"test_benchmarks.py::test_memory_of_a_process": "test_json_is_strict_and_has_what_is_promised",
    r"test_train.py::test_seeds_together_equal": "test_seeds_together_are_seeds_alone[lagrangian]",
    r"test_deepfool.py::test_(under_jit_and_vmap|chunks_order\w+)\[(?!deepfool\])": "DeepFool itself",
    r"test_mitigate.py::test_gradients_against_finite_differences\[config[1-9]\]": "the first method",
    r"test_parity.py::.*\[float32": "float64",
    r"test_bounds.py::test_(no_hessian_eigenvalue_exceeds|the_proposition_as_printed)": "closed forms",
    r"test_executors.py::test_a_signal_lets_the_epoch_end\w+\[2\]": "SIGTERM",
    r"test_executors.py::test_a_signal_during_the_imports\w+\[0.3\]": "one at their beginning",
    r"test_cli.py::test_a_failing_stage_is_not_finished\[--snl": "trainings that fail",
    r"test_notebooks.py::test_runs_from_a_clean_kernel": "the quickstart, which they go through",
    r"test_export.py::.*\[(train|hessian)-(tf32|fp16)\]": "bf16 and native arithmetic",
    r"test_operators.py::test_chunk_size_and_order_do_not_matter\[(1|12|13)\]": "chunks of 7, and of a chosen size",
    r"test_figures.py::test_every_study_is_drawn\w+\[(six|equal|one group|one lin|no SNL)": "the other studies",
    r"test_curvature_reference.py::test_products\[float64-hessian-1\]": "chunks of 16",
    r"test_tfds_prepare.py::test_real_utkface": "test_the_real_utkface",
    r"test_sources.py::test_the_real_cifar10": "the real SVHN, and CIFAR-10's layouts made by hand",
    r"test_toy.py::test_half_of_the_relus": "the pieces, and each part of the boundary",
    r"test_hardware.py::test_a_variant_of_the_cpu\w+\[(?!cpu-(avx|1-thread)\])": "AVX and one thread",
    r"test_hardware.py::test_a_variant_finds_the_plain_cpu_itself": "variants that are told of it",
    r"several_devices.py::test_same_numbers_as_one_device\[(0|1073741824)-gauss": "the Hessian, and with one pass kept",
    r"test_operators.py::test_an_accelerator_maps_a_block\[gauss_newton\]": "the Hessian",
    r"test_curvature_reference.py::test_group_report\[float64": "float32, and test_products in float64",
    r"test_curvature_reference.py::test_group_curvature\[float64-(?!.*None)": "chunks of a chosen size",
    r"test_curvature_reference.py::test_products\[float32-\w+-1\]": "float64, and chunks of 16",
    r"test_trajectory.py::test_the_order_has_a_seed": "test_first_steps_are_those_of_fit",
    r"test_group_report.py::test_minibatch_estimator": "test_every_number_equals_dense_autodiff",
}
"""Tests for `make test-slow`, by their names, and what still proves the same in `make test`."""


@pytest.hookimpl(tryfirst=True)  # before those marked are deselected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what ``SLOW`` names."""
    for item in items:
        if any(re.search(pattern, item.nodeid) for pattern in SLOW):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """Spare the garbage collection what was imported, which is never garbage; it would look at all of it again."""
    gc.freeze()


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


@pytest.fixture
def callers_line() -> None:
    """Skip a test of which line a warning names, where the checks of types stand between that and jaxfair."""
    if "JAXFAIR_CHECK_TYPES" in os.environ:
        pytest.skip("run-time type checks stand between a caller and jaxfair")
