"""Every public function, every argument, a dozen wrong values: what is not taken is refused in one bounded sentence."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxfair
from jaxfair import bounds, groups, hardware, margins, sensitivity, taylor
from jaxfair.compress import pruning, quantization
from jaxfair.curvature import density, lanczos, minibatch
from jaxfair.errors import JaxfairError
from jaxfair.linearize import snl
from jaxfair.linearize.config import BCD_FINETUNE, BcdConfig, DeepReduceConfig, SenetConfig, SnlConfig
from jaxfair.training import trajectory
from jaxfair.training.config import TrainConfig
from jaxfair.training.fit import Stopping

pytestmark = pytest.mark.usefixtures("unchecked")
RNG = np.random.default_rng(0)
X, Y, GROUP = RNG.normal(size=(12, 4)).astype(np.float32), np.arange(12) % 3, np.arange(12) % 2
MEMBER = np.stack([g == GROUP for g in range(2)]) / 6
HERE, THERE = ({"w": jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)} for _ in range(2))
VECTOR, SPREAD = np.ones(5), RNG.random((2, 3, 2))
ONE_EPOCH = TrainConfig(epochs=1, batch_size=4)
WRONG: list[Any] = [None, "abc", -1, 2.5, float("nan"), True, [], {}, object(), np.zeros((2, 2)), ["a", "b"], 10**30]
LONGEST = 400


def linear(params: Any, x: Any) -> Any:
    return x @ params["w"]


def classifier(x: Any) -> Any:
    return linear(HERE, x)


def two_classes(params: Any, x: Any) -> Any:
    return linear(params, x)[:, :2]


def twice(vector: Any) -> Any:
    return 2 * vector


@functools.cache
def data() -> Any:
    images = np.random.default_rng(0).integers(0, 255, (12, 8, 8, 1)).astype(np.uint8)
    return jaxfair.make_dataset(images, Y, GROUP, name="few", class_names=["a", "b", "c"], group_names=["u", "v"])


@functools.cache
def network(seed: int = 0) -> Any:
    return jaxfair.init(jaxfair.CNN(num_classes=3, features=(2,)), (8, 8, 1), seed)


@functools.cache
def resnet() -> Any:
    return jaxfair.init(jaxfair.ResNet((1, 1), num_classes=3, width=2), (8, 8, 1), 0)


@functools.cache
def found() -> Any:
    return jaxfair.group_curvature(linear, HERE, X, Y, MEMBER, vectors=True)


def trained(**options: Any) -> Any:
    return next(jaxfair.fit(**options))


def stopped(**options: Any) -> Any:
    return trained(networks=[network()], data=data(), config=ONE_EPOCH, seeds=[0], stopping=Stopping(**options))


def broken(**options: Any) -> Any:
    return taylor.along_line(linear, HERE, THERE, X, Y, MEMBER).breaks(**options)


def made(kind: Callable, **options: Any) -> Any:
    return jaxfair.init(kind(**options), (8, 8, 1), 0)


CNN, RESNET = functools.partial(made, jaxfair.CNN), functools.partial(made, jaxfair.ResNet)
MODEL = {"logits_fn": linear, "params": HERE, "x": X, "y": Y}
GROUPED = {**MODEL, "weights": MEMBER}
CHANGED = {"logits_fn": linear, "before": HERE, "after": THERE, "x": X, "y": Y, "weights": MEMBER}
SEGMENT = {**GROUPED, "start": HERE, "end": THERE, "points": [0.0, 1.0]}
del SEGMENT["params"]
POINTS = {"classifier": classifier, "x": X, "label": Y}
TERMS = {"gradient_norm": 1.0, "top_eigenvalue": 2.0, "distance": 1.0}
SNL = SnlConfig(batch_size=4, max_epochs=1, warmup_epochs=0)
BCD = BcdConfig(block=30, tries=1, finetune=dataclasses.replace(BCD_FINETUNE, epochs=1, batch_size=4))
SENET = SenetConfig(sparse_train=ONE_EPOCH, mask_train=ONE_EPOCH)


def cases() -> dict[Any, dict[str, Any]]:
    """Return a call of each public function that it takes."""
    net, few = network(), data()
    images = np.asarray(few.images)
    named = {"name": "few", "class_names": ["a", "b", "c"], "group_names": ["u", "v"]}
    return {
        jaxfair.GroupOperator: {**MODEL, "weight": MEMBER[0]},
        jaxfair.bcd: {"network": net, "teacher": net, "data": few, "config": BCD, "budget": 100, "seed": 0},
        jaxfair.block_curvature: GROUPED,
        jaxfair.change_report: {
            "before": (linear, HERE),
            "after": (linear, THERE),
            "x": X,
            "y": Y,
            "group": GROUP,
            "reference": "0",
        },
        jaxfair.deepfool: POINTS,
        jaxfair.deepreduce: {"network": resnet(), "image_shape": (8, 8, 1), "config": DeepReduceConfig(), "seed": 0},
        jaxfair.eigenvalue_sampling: {**GROUPED, "found": found()},
        jaxfair.equal_count_eigenvalues: GROUPED,
        jaxfair.excess_loss_bound: {**TERMS, "excess_loss": 0.5},
        jaxfair.fit: {"networks": [net], "data": few, "config": ONE_EPOCH, "seeds": [0]},
        jaxfair.frozen: {"network": net},
        jaxfair.gathered: {"network": net},
        jaxfair.gradient_sampling: GROUPED,
        jaxfair.group_curvature: GROUPED,
        jaxfair.group_means: {"values": np.arange(12.0), "group": GROUP, "num_groups": 2},
        jaxfair.group_report: {**MODEL, "group": GROUP},
        jaxfair.group_weights: {"group": GROUP, "num_groups": 2},
        jaxfair.init: {"module": net.module, "image_shape": (8, 8, 1), "seed": 0},
        jaxfair.kept_weights: {"params": net.params},
        jaxfair.linearized_distance: POINTS,
        jaxfair.load: {"config": "digits"},
        jaxfair.make_dataset: {"images": images, "label": Y, "group": GROUP, **named},
        jaxfair.per_example_gradient_norms: MODEL,
        jaxfair.predict: {"network": net, "data": few},
        jaxfair.prune: {"network": net, "config": jaxfair.PruneConfig()},
        jaxfair.quantize: {"network": net, "bits": 8},
        jaxfair.relative_drop: {"before": np.array([0.5]), "after": np.array([0.4])},
        jaxfair.senet: {"network": net, "data": few, "config": SENET, "budgets": [20], "seed": 0},
        jaxfair.sensitivity_bound: {**TERMS, "sensitivity": 0.5},
        jaxfair.snl: {"network": net, "data": few, "config": SNL, "budgets": [0], "seed": 0},
        jaxfair.softmax_gap: {"logits": X},
        CNN: {"num_classes": 3, "features": (2,)},
        RESNET: {"num_classes": 3, "stage_sizes": (1, 1), "width": 2},
        trained: {"networks": [net], "data": few, "config": ONE_EPOCH, "seeds": [0], "order_seeds": [0]},
        stopped: {"validation": few, "patience": 1},
        bounds.binary_hessian_bound: {**GROUPED, "logits_fn": two_classes, "y": Y % 2},
        bounds.parameter_distance: {"params": HERE, "other": THERE},
        density.spectral_density: {
            "quadrature": density.stochastic_quadrature(twice, [VECTOR]),
            "grid": np.linspace(0, 3, 5),
            "width": 0.1,
        },
        density.stochastic_quadrature: {"matvec": twice, "starts": [VECTOR]},
        density.stochastic_trace: {"matvec": twice, "probes": [VECTOR]},
        few.take: {"index": [0, 1]},
        groups.drop_interval: {"correct_before": np.ones((3, 12)), "correct_after": np.ones((3, 12)), "group": GROUP},
        groups.seed_interval: {"values": VECTOR},
        hardware.named: {"name": "cpu"},
        lanczos.extreme_eigenvalues: {"matvec": twice, "start": VECTOR},
        margins.distance_along_gradient: {**POINTS, "max_distance": 1.0, "tolerance": 0.1},
        margins.signed_softmax_gap: {"logits": X, "label": Y},
        minibatch.minibatch_curvature: {**MODEL, "group": GROUP},
        pruning.kept_count: {"params": net.params},
        pruning.sparsities: {"final": 0.9, "rounds": 2},
        pruning.weight_count: {"params": net.params},
        quantization.float_format: {"network": net, "kind": "bf16"},
        quantization.quantize_activations: {"network": net, "calibration": few, "bits": 8},
        sensitivity.fairness_violation: {"sensitivity": SPREAD[0]},
        sensitivity.group_sensitivity: {"loss": SPREAD[0]},
        sensitivity.losses_on_segment: SEGMENT,
        sensitivity.rejoining_step: {"steps": [1, 2], "profiles": SPREAD, "controls": SPREAD},
        sensitivity.spread_against_control: {"reference": SPREAD[0], "profiles": SPREAD, "controls": SPREAD},
        snl.matched: {"network": net, "data": few, "config": SNL, "ends": [1], "seed": 0},
        taylor.agreement: {"foretold": SPREAD[0], "actual": SPREAD[1]},
        taylor.along_line: CHANGED,
        taylor.network_lines: {"before": net, "after": network(1), "data": few},
        taylor.taylor_terms: CHANGED,
        broken: {"level": 0.5},
        trajectory.first_steps: {"network": net, "data": few, "config": ONE_EPOCH, "seed": 0, "steps": [1]},
        trajectory.nudge: {"params": HERE, "seed": 0},
    }


def arguments(function: Any, given: dict[str, Any]) -> list[str]:
    """Return the arguments of a function; of one that makes a module, its fields."""
    if isinstance(function, functools.partial):
        (module,) = function.args
        return [field.name for field in dataclasses.fields(module) if field.name not in ("parent", "name")]
    names = list(inspect.signature(function).parameters)
    return list(given) if names in (["options"], ["kind", "options"]) else names


def attempts() -> Iterator[tuple[Any, str, Any, dict[str, Any]]]:
    for function, given in cases().items():
        for name in arguments(function, given):
            for value in WRONG:
                yield function, name, value, {**given, name: value}


def test_each_public_function_has_a_call_here():
    known = {id(function) for function in cases()}
    doors = [value for name in jaxfair.__all__ if inspect.isfunction(value := getattr(jaxfair, name))]
    assert [door.__name__ for door in doors if id(door) not in known] == []


def test_each_call_is_taken():
    for function, given in cases().items():
        function(**given)


@pytest.mark.filterwarnings("ignore")
def test_what_is_not_taken_is_refused_in_one_bounded_sentence(tmp_path, monkeypatch):
    """Whatever is raised but a JaxfairError, on one line of a bounded length, is a traceback in a user's face."""
    monkeypatch.chdir(tmp_path)  # a folder of the name 'abc' is a folder
    bare, refused = [], 0
    for function, name, value, given in attempts():
        try:
            function(**given)
        except JaxfairError as error:
            refused += 1
            if len(str(error)) <= LONGEST and "\n" not in str(error):
                continue
            problem = f"{len(str(error))} characters"
        except Exception as error:
            problem = f"{type(error).__name__}: {str(error)[:80]}"
        else:
            continue
        bare.append(f"{getattr(function, '__name__', function)}({name}={str(value)[:20]}): {problem}")
    assert not bare, "\n".join(bare)
    assert refused > 2000
