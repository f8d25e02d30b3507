"""Readiness for accelerators that are not here: every jitted routine lowers for CPU, CUDA and TPU, without float64.

The studies' own code runs as it would on an accelerator, but each compiled routine that it calls is lowered with the
arguments that it is given (``jax.export``), and answers zeros of the right shapes instead of being run.
"""

import ast
import dataclasses
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer

from experiments.running import measure
from experiments.toy import networks as toy_networks
from jaxfair import bounds, change, hardware, margins, sensitivity
from jaxfair.compress.pruning import kept_weights
from jaxfair.compress.quantization import quantize_activations
from jaxfair.curvature import lanczos, operators, report, sampling
from jaxfair.curvature.operators import GIGABYTE, GroupOperator
from jaxfair.curvature.programs import Kind, Programs, as_pytree
from jaxfair.data.dataset import Dataset, make_dataset
from jaxfair.groups import group_weights
from jaxfair.linearize import bcd, senet, snl
from jaxfair.linearize.config import SENET_MASKS
from jaxfair.networks import CNN, Module, Network, ResNet, frozen, init, predict
from jaxfair.networks.masks import unit_count
from jaxfair.training import fit as train
from jaxfair.training.config import Method, MitigationConfig

PLATFORMS = ("cpu", "cuda", "tpu")
SOURCES = sorted(
    path for room in ("jaxfair", "experiments") for path in (Path(__file__).parents[1] / room).rglob("*.py")
)
EXCEPTIONS = {
    "loops._call": "one step of a loop on the CPU; other backends run loops._run_until",
    "kernels.kernels": "asks what a CPU does",
    "convolutions._primitive": "an operation outside of a compiled function",
    "programs._scaled_gradient": "traced, and never run",
    "models._outside": "asks of a few examples whether a model indexes outside of an array",
    "rules._slopes": "a user's own derivative, asked for its own derivative",
    "bound._errors": "bounds what a protocol's process on the CPU computes",
}

N, CLASSES = 12, 3
LABEL, GROUP = np.arange(N) % CLASSES, np.arange(N) % 2
WEIGHTS = np.asarray(group_weights(GROUP, num_groups=2))
MODULE = ResNet((1, 1), num_classes=CLASSES, width=4)
BINARY = ResNet((1,), num_classes=2, width=2)
OTHERS: tuple[Module, ...] = (
    ResNet((1,), CLASSES, 2, block="bottleneck", arithmetic="tf32"),
    ResNet((1,), CLASSES, 2, block="preactivation", arithmetic="bf16"),
    CNN(CLASSES, (2,), arithmetic="fp16"),
)


def lower(function: Any, *arguments: Any, **options: Any) -> Any:
    """Lower a jitted function for every platform and return zeros for its results.

    Float64, which a TPU does not have, and products coarser than float32 are refused.
    """
    exported = jax.export.export(function, platforms=PLATFORMS)(*arguments, **options)
    module = exported.mlir_module()
    assert not re.search("[x<]f64", module), f"{exported.fun_name} computes in float64"
    products = re.findall(r"stablehlo\.(?:dot_general|convolution).*", module)
    coarse = [product for product in products if "HIGHEST" not in product]
    assert not coarse, f"{exported.fun_name} has products that are coarse on accelerators: {coarse[0]}"
    return jax.tree.unflatten(exported.out_tree, [jnp.zeros(leaf.shape, leaf.dtype) for leaf in exported.out_avals])


class Lowered:
    """Takes a jitted function's place; inside of another one's trace it is that function."""

    answers: ClassVar[dict[Any, Any]] = {}  # to calls of one routine with the same shapes, types and static arguments

    def __init__(self, name: str, function: Any, calls: Counter[str]) -> None:
        self.name, self.function, self.calls = name, function, calls

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        leaves, structure = jax.tree.flatten((arguments, options))
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return self.function(*arguments, **options)
        self.calls[self.name] += 1
        key = (self.name, structure, *((leaf.shape, leaf.dtype) if hasattr(leaf, "dtype") else leaf for leaf in leaves))
        if key not in self.answers:
            self.answers[key] = lower(self.function, *arguments, **options)
        return self.answers[key]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.function, name)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, unchecked: None) -> Iterator[Counter[str]]:
    """Let the code believe in a GPU and studies' precision; count the calls of each routine, lowered instead of run."""
    counted: Counter[str] = Counter()
    jitted = type(jax.jit(abs))
    for name in [name for name in sys.modules if re.match(r"(jaxfair|experiments)\b", name)]:
        for attribute, value in list(vars(sys.modules[name]).items()):
            if isinstance(value, jitted):
                home = str(value.__module__).split(".")[-1]
                stand_in = Lowered(f"{home}.{attribute}", value, counted)
                monkeypatch.setattr(sys.modules[name], attribute, stand_in)

    def programs(backend: str, precision: str) -> Any:
        compiled = real(backend, precision)
        named = zip(Programs._fields, compiled, strict=True)
        return Programs(*(Lowered(f"programs.programs.{name}", program, counted) for name, program in named))

    def inline(function: Any) -> Lowered:
        return Lowered(f"hardware.{function.__qualname__.partition('.')[0]}", real_jit(function), counted)

    real, real_jit = operators.programs, jax.jit
    for module in (operators, sampling):
        monkeypatch.setattr(module, "programs", programs)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(hardware, "jax", SimpleNamespace(**{**vars(jax), "jit": inline}))  # it jits where it computes
    with jax.default_matmul_precision("highest"):
        yield counted


def made(*, on_device: bool = True) -> Dataset:
    images = np.random.default_rng(0).integers(0, 256, (N, 8, 8, 3), dtype=np.uint8)
    named = partial(make_dataset, name="made", class_names=[*"abc"], group_names=[*"de"])
    return named(images, LABEL, GROUP, on_device=on_device)


def network(seed: int = 0, module: Module = MODULE) -> Network:
    return init(module, (8, 8, 3), seed)


def analysed(module: Module = MODULE) -> tuple[Any, Any, Any, np.ndarray]:
    """Return what analyses of a network take: function, parameters, inputs, labels."""
    images = np.asarray(made().normalize(made().images))
    return frozen(network(module=module)), network(module=module).params, images, LABEL % module.num_classes


def fit(
    seeds: int = 2, *, module: Module = MODULE, method: Method = "none", on_device: bool = True, pruned: bool = False
) -> None:
    """Train for two epochs of three steps."""
    config = train.TrainConfig(2, 4, augment="cifar", distillation_weight=1.0, mitigation=MitigationConfig(method))
    networks = [network(seed, module) for seed in range(seeds)]
    dataset, options = made(on_device=on_device), {"seeds": range(seeds), "teachers": networks, "at_once": seeds}
    kept = [kept_weights(one.params) for one in networks] if pruned else None
    assert len(list(train.fit(networks, dataset, config, kept=kept, **options))) == seeds


def descend() -> None:
    config = snl.SnlConfig(batch_size=4, augment="cifar")
    assert len(list(snl.snl(network(), made(), config, budgets=[0.5], seed=0))) == 1


def descend_by_blocks() -> None:
    """Remove a block of ReLUs by BCD, and fine-tune."""
    config = bcd.BcdConfig(block=8, tries=2, finetune=train.TrainConfig(1, 4, distillation_weight=1.0))
    total = unit_count(network().masks)
    bcd.bcd(network(), network(1), made(), config, budget=total - 8, seed=0)


def choose_by_mismatch() -> None:
    """Choose ReLUs as SENet does."""
    masking = dataclasses.replace(SENET_MASKS, epochs=1, batch_size=4)
    config = senet.SenetConfig(sparse_train=train.TrainConfig(1, 4), mask_train=masking)
    assert len(list(senet.senet(network(), made(), config, budgets=[0.5], seed=0))) == 1


def analyse() -> None:
    """Measure a network as the study of linearization does."""
    with np.errstate(invalid="ignore"):  # zeros over zeros
        measure.measure(network(), network(1), made(), made(), measure.AnalysisConfig())


def report_with_intervals() -> None:
    with np.errstate(all="ignore"), warnings.catch_warnings():  # of zeros
        warnings.simplefilter("ignore", RuntimeWarning)
        report.group_report(*analysed(), GROUP, intervals=True)
        measure.measure_sampling(network(), made(), measure.AnalysisConfig(), measure.SamplingConfig())


def multiply(kind: Kind, memory: int, module: Module = MODULE) -> None:
    """Multiply with a vector and a block of vectors; without memory every pass is recomputed."""
    operator = GroupOperator(*analysed(module), WEIGHTS[0], kind=kind, memory=memory)
    operator.loss_and_gradient()
    assert operator(np.ones(operator.size)).shape == (operator.size,)
    assert operator(np.ones((2, operator.size))).shape == (2, operator.size)


def find_eigenvectors() -> None:
    diagonal = jnp.arange(1.0, 9.0)
    lanczos.extreme_eigenvalues(lambda v: diagonal * v, jnp.ones(8), max_basis=4, vectors=True)


def find_distances() -> None:
    logits_fn, params, images, label = analysed()
    bound = as_pytree(logits_fn, params)
    margins.linearized_distance(bound, images, label)
    margins.distance_along_gradient(bound, images, label, max_distance=10.0, tolerance=0.1)
    for start in (label, None):
        margins.deepfool(bound, images, start)


def bound(form: bounds.Form, dense_size: int) -> None:
    bounds.binary_hessian_bound(*analysed(BINARY), WEIGHTS, form=form, dense_size=dense_size)


def change_networks() -> None:
    logits_fn, params, images, label = analysed()
    change.change_report((logits_fn, params), (logits_fn, params), images, label, GROUP)


def walk() -> None:
    """Evaluate losses along the segment between two networks."""
    sensitivity.losses_on_segment(Network.__call__, network(), network(1), *analysed()[2:], WEIGHTS, np.ones(1))


def fit_toy() -> None:
    starts = [toy_networks.init([seed], [2, 3, 1]) for seed in range(2)]
    points = [np.ones((5, 2))] * 2, [np.zeros(5)] * 2
    gates = [toy_networks.all_relus(start) for start in starts]
    toy_networks.fit(starts, gates, *points, toy_networks.Toy(steps=3), lambda output, y: (output - y) ** 2)


EPOCHS = {"loops._run_steps"}
LANCZOS = {"lanczos._orthogonalise", "lanczos._set_row"}
PRODUCTS = {"programs.programs.keep", "programs.programs.apply"}
SCORES = {"bounds._logit_and_squared_norm"}
SCENARIOS: dict[str, tuple[Callable[[], object], set[str]]] = {
    **{f"train-{method}": (partial(fit, method=method), EPOCHS) for method in get_args(Method)},
    **{f"train-{module.arithmetic}": (partial(fit, module=module), EPOCHS) for module in OTHERS},
    "train-pruned": (partial(fit, pruned=True), EPOCHS),
    "train-one-seed": (partial(fit, 1), {"fit._begin", *EPOCHS}),
    "train-images-on-host": (partial(fit, on_device=False), EPOCHS),
    "snl": (descend, EPOCHS),
    "bcd": (descend_by_blocks, {"bcd._of_batch", "fit._begin", *EPOCHS}),
    "senet": (choose_by_mismatch, {"fit._begin", *EPOCHS}),
    "predict": (lambda: predict(network(), made()), {"network._predict_batch"}),
    "analyse": (analyse, {"network._predict_batch", *PRODUCTS, *LANCZOS}),
    "report": (lambda: report.group_report(*analysed(), GROUP), {"models.outputs", *PRODUCTS, *LANCZOS}),
    "sampling": (
        report_with_intervals,
        {"lanczos._combine", "programs.programs.loss_and_gradient", "programs.programs.product"},
    ),
    "eigenvectors": (find_eigenvectors, {*LANCZOS, "lanczos._combine"}),
    "hessian-kept": (partial(multiply, "hessian", GIGABYTE), {"chunks.zeros", *PRODUCTS}),
    "hessian-recomputed": (
        partial(multiply, "hessian", 0),
        {"programs.programs.loss_and_gradient", "programs.programs.product"},
    ),
    "gauss-newton-kept": (partial(multiply, "gauss_newton", GIGABYTE), PRODUCTS),
    "gauss-newton-recomputed": (partial(multiply, "gauss_newton", 0), {"programs.programs.product"}),
    **{f"hessian-{m.arithmetic}": (partial(multiply, "hessian", GIGABYTE, m), PRODUCTS) for m in OTHERS},
    "gradient-norms": (lambda: operators.per_example_gradient_norms(*analysed()), {"programs.programs.norms"}),
    "distances": (find_distances, {"margins._logits", "margins._linearize", "loops._run_until"}),
    "bound-dense": (partial(bound, "logit", 10_000), {*SCORES, "bounds._hessian"}),
    "bound-products": (partial(bound, "printed", 0), {*SCORES, "bounds._product"}),
    "probe": (hardware.probe, {"hardware.probe", "hardware._products", "hardware._digests"}),
    "change": (change_networks, {"models.outputs"}),
    "activations": (lambda: quantize_activations(network(), made(), 8), {"quantization._input_ranges"}),
    "segment": (walk, {"sensitivity._losses_at"}),
    "toy": (fit_toy, {"networks._fit"}),
}


@pytest.mark.parametrize(("run", "routines"), SCENARIOS.values(), ids=SCENARIOS)
def test_what_an_accelerator_runs_lowers_without_float64(
    run: Callable[[], object], routines: set[str], calls: Counter[str]
) -> None:
    run()
    assert routines <= set(calls)
    assert not set(calls) & set(EXCEPTIONS), "that is a loop for the CPU"


def test_an_epoch_of_all_seeds_is_one_program_unless_its_images_are_on_the_host(calls: Counter[str]) -> None:
    fit(seeds=2)
    assert calls["loops._run_steps"] == 2  # epochs
    calls.clear()
    fit(seeds=2, on_device=False)
    assert calls["loops._run_steps"] == 6  # steps


def test_no_jitted_routine_is_forgotten() -> None:
    """A routine that jits has to be called by a scenario above, or to be an exception with its reason."""
    known = set.union(set(EXCEPTIONS), *(routines for _, routines in SCENARIOS.values()))
    found = {routine for path in SOURCES for routine in jitted(path)}
    assert found == known, "SCENARIOS has to call what is new and to forget what is gone"


def jitted(path: Path) -> Iterator[str]:
    """Yield the functions and variables that a file defines by ``jit``; for ``programs``, all of its programs."""
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        inside = list(ast.walk(statement))
        if not any(getattr(node, "attr", getattr(node, "id", "")) in ("jit", "pmap") for node in inside):
            continue
        names = [getattr(node, "name", getattr(node, "id", None)) for node in inside]
        name = f"{path.stem}.{next(name for name in names if name)}"
        yield from (f"{name}.{field}" for field in Programs._fields) if name == "programs.programs" else (name,)


def test_what_does_not_lower_everywhere_or_in_float32_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="eig"):  # CPUs and GPUs alone have it
        lower(jax.jit(jnp.linalg.eig), jnp.eye(2))
    with jax.enable_x64(True), pytest.raises(AssertionError, match="float64"):
        lower(jax.jit(lambda x: x.astype(float).sum()), jnp.ones(2, jnp.float32))
    with jax.default_matmul_precision("default"), pytest.raises(AssertionError, match="coarse"):
        lower(jax.jit(jnp.matmul), jnp.eye(2), jnp.eye(2))
