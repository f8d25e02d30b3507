"""Functions that read other things than before are other functions, and the same otherwise."""

import array
import contextvars
import dataclasses
import functools
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from flax import nnx
from jax.tree_util import Partial

import jaxfair
from jaxfair.curvature.captured import Captured
from jaxfair.curvature.programs import as_pytree

RNG = np.random.default_rng(0)
X, Y, GROUP = RNG.normal(size=(60, 5)).astype(np.float32), RNG.integers(0, 3, 60), np.arange(60) % 2
WEIGHTS = RNG.normal(size=(5, 3)).astype(np.float32)
shift: Any = jnp.zeros(3)
factor = 1


def shifted(params: Any, x: Any) -> Any:
    return x @ params + shift


def scaled(logits: Any, y: Any) -> Any:
    return factor * optax.softmax_cross_entropy_with_integer_labels(logits, y)


class Model:
    """A model whose state is its own."""

    def __init__(self) -> None:
        self.shift = np.zeros(3, np.float32)

    def logits(self, params: Any, x: Any) -> Any:
        """Compute logits."""
        return x @ params + self.shift


def losses(logits_fn: Any, **options: Any) -> np.ndarray:
    return jaxfair.group_report(logits_fn, WEIGHTS, X, Y, GROUP, **options).loss


def expected(shift: Any) -> np.ndarray:
    each = optax.softmax_cross_entropy_with_integer_labels(X @ WEIGHTS + np.asarray(shift), Y)
    return np.array([each[g == GROUP].mean() for g in range(2)])


def test_a_network_that_reads_another_global_is_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    np.testing.assert_allclose(losses(shifted), expected(np.zeros(3)), rtol=1e-5)
    monkeypatch.setitem(globals(), "shift", jnp.array([3.0, 0.0, -3.0]))
    np.testing.assert_allclose(losses(shifted), expected([3, 0, -3]), rtol=1e-5)


def test_a_loss_that_reads_another_global_is_differentiated_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    before = jaxfair.group_report(shifted, WEIGHTS, X, Y, GROUP, loss=scaled)
    monkeypatch.setitem(globals(), "factor", 2)
    after = jaxfair.group_report(shifted, WEIGHTS, X, Y, GROUP, loss=scaled)
    for name in ("loss", "gradient_norm", "top_eigenvalue"):
        np.testing.assert_allclose(getattr(after.curvature, name), 2 * getattr(before.curvature, name), rtol=1e-3)


def test_a_model_that_is_changed_in_place_is_measured_anew() -> None:
    model = Model()
    np.testing.assert_allclose(losses(model.logits), expected(np.zeros(3)), rtol=1e-5)
    model.shift[0] = 2  # in NumPy's array itself
    np.testing.assert_allclose(losses(model.logits), expected([2, 0, 0]), rtol=1e-5)


def test_an_nnx_model_that_is_trained_on_has_other_distances() -> None:
    model = nnx.Linear(5, 3, rngs=nnx.Rngs(0))

    def classifier(x: Any) -> Any:
        return model(x)

    first = jaxfair.linearized_distance(classifier, X, Y).distance
    model.kernel[...] = 3 * model.kernel[...] + jnp.asarray(WEIGHTS)
    again = jaxfair.linearized_distance(classifier, X, Y).distance
    assert model.bias is not None
    bias = model.bias[...]
    bound = jaxfair.linearized_distance(lambda x: x @ model.kernel[...] + bias, X, Y).distance
    np.testing.assert_allclose(again, bound, rtol=1e-5)
    assert np.abs(again - first).max() > 0.1


def made(weights: Any, power: int = 1, helper: Any = None) -> Any:
    """Return a new function of the same code each time."""

    def inner(x: Any, scale: float = 1.0) -> Any:
        return (helper or (lambda z: z))(scale * x @ weights) ** power

    return inner


def test_what_makes_functions_the_same() -> None:
    array = jnp.asarray(WEIGHTS)
    assert Captured(made(array)) == Captured(made(array)), "new objects of one code that read one array"
    assert hash(Captured(made(array))) == hash(Captured(made(array)))
    assert Captured(made(array)) != Captured(made(jnp.asarray(WEIGHTS) + 0)), "another array of JAX"
    assert Captured(made(WEIGHTS)) == Captured(made(WEIGHTS.copy())), "NumPy's arrays by their numbers"
    assert Captured(made(WEIGHTS)) != Captured(made(WEIGHTS + 1))
    assert Captured(made(array, 1000)) == Captured(made(array, int("1000"))), "equal numbers"
    assert Captured(made(array, 1)) != Captured(made(array, 2))
    assert Captured(made(array, 1)) != Captured(made(array, True)), "of another type"
    assert Captured(made(array, helper=made(array))) != Captured(made(array, helper=made(array, 2))), "further in"
    assert Captured(functools.partial(made(array), scale=2.0)) == Captured(functools.partial(made(array), scale=2.0))
    assert Captured(functools.partial(made(array), scale=2.0)) != Captured(functools.partial(made(array), scale=3.0))
    held = {"a": [1, 2], "b": array}
    first = Captured(made(held))
    held["a"].append(3)
    assert first != Captured(made(held)), "changed in place"
    held["self"] = held
    assert Captured(made(held)) == Captured(made(held)), "that holds itself"
    assert Captured(jax.nn.relu) == Captured(jax.nn.relu) != Captured(jax.nn.gelu)


def acting(use: Any, known: Any) -> Any:
    return lambda x: use(x @ WEIGHTS) * len(known)


class Acting:
    """Functions, and which of them is meant."""

    def __init__(self, which: Any, known: Any) -> None:
        self.known, self.which = known, which

    def __call__(self, x: Any) -> Any:
        """Compute logits."""
        return self.which(x @ WEIGHTS)


@pytest.mark.parametrize(
    "values",
    [(jax.nn.relu, jnp.tanh), (jnp.sign, np.sign), ({"s": 1.0}, {"s": 2.0}), (jnp.ones(3), jnp.zeros(3))],
    ids=["jitted", "NumPy's", "dictionaries", "arrays"],
)
@pytest.mark.parametrize(
    "make",
    [acting, lambda use, known: functools.partial(print, {"known": known, "use": use})],
    ids=["closure", "partial"],
)
def test_which_of_the_values_that_are_read_a_name_stands_for_is_told(make: Any, values: Any) -> None:
    values = list(values)
    assert Captured(make(values[0], values)) == Captured(make(values[0], values)) != Captured(make(values[1], values))


def test_which_of_the_values_of_an_object_is_meant_is_told() -> None:
    model = Acting(jax.nn.relu, [jax.nn.relu, jnp.tanh])
    before = Captured(model)
    assert before == Captured(model)
    model.which = jnp.tanh
    assert before != Captured(model)


def test_a_setting_that_is_another_of_those_known_is_measured_anew() -> None:
    small, large = {"s": 1.0}, {"s": 2.0}
    settings = {"small": small, "large": large, "current": small}

    def network(params: Any, x: Any) -> Any:
        return settings["current"]["s"] * (x @ params)

    first = losses(network)
    settings["current"] = large
    np.testing.assert_allclose(losses(network), losses(lambda params, x: 2.0 * (x @ params)), rtol=1e-6)
    assert np.abs(losses(network) - first).max() > 0.1


class Settings:
    """Settings of a network, as a class holds them."""

    scale = 1.0

    @classmethod
    def doubled(cls) -> float:
        """Return twice the scale."""
        return 2 * cls.scale

    @staticmethod
    def of(x: Any) -> Any:
        """Return it."""
        return x

    @property
    def own(self) -> float:
        """The scale of the class."""
        return Settings.scale


class Derived(Settings):
    """Inherits them."""

    def logits(self, params: Any, x: Any) -> Any:
        """Read what a base holds."""
        return x @ params * self.scale


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Return a module of the user's with a setting, a submodule, and a function that reads the setting."""
    made, inner = types.ModuleType("mine"), types.ModuleType("mine.inner")
    exec("scale = 1.0\ndef net(params, x): return x @ params * scale", vars(made))
    vars(made).update(inner=inner, deep=made)
    vars(inner)["scale"] = 1.0
    monkeypatch.setitem(sys.modules, "mine", made)
    return made


def of_class(_: Any) -> Any:
    return lambda params, x: x @ params * Settings.scale


@pytest.mark.parametrize(
    ("function", "owner", "name", "value"),
    [
        pytest.param(of_class, lambda m: Settings, "scale", 4.0, id="attribute of a class"),
        pytest.param(lambda m: Derived().logits, lambda m: Settings, "scale", 4.0, id="of a base, by self"),
        pytest.param(
            lambda m: lambda params, x: x @ params * Derived.doubled(),
            lambda m: Settings,
            "scale",
            4.0,
            id="of a classmethod",
        ),
        pytest.param(
            lambda m: lambda params, x: x @ params * Settings().own,
            lambda m: Settings,
            "scale",
            4.0,
            id="of a property",
        ),
        pytest.param(
            lambda m: lambda params, x: Settings.of(x) @ params,
            lambda m: Settings,
            "of",
            staticmethod(lambda x: 4 * x),
            id="another static method",
        ),
        pytest.param(
            lambda m: Derived().logits, lambda m: Derived, "logits", lambda self, w, x: x @ w * 4, id="another method"
        ),
        pytest.param(lambda m: m.net, lambda m: m, "scale", 4.0, id="function of a module"),
        pytest.param(lambda m: lambda params, x: m.net(params, x), lambda m: m, "scale", 4.0, id="one that calls it"),
        pytest.param(
            lambda m: eval("lambda params, x: x @ params * m.scale", {"m": m}),
            lambda m: m,
            "scale",
            4.0,
            id="attribute of a module",
        ),
        pytest.param(
            lambda m: eval("lambda params, x: x @ params * m.deep.inner.scale", {"m": m}),
            lambda m: m.inner,
            "scale",
            4.0,
            id="of a module in a module",
        ),
    ],
)
def test_what_classes_and_modules_hold_is_read(
    monkeypatch: pytest.MonkeyPatch, module: types.ModuleType, function: Any, owner: Any, name: str, value: Any
) -> None:
    """As it is at the call; the network is then computed anew."""
    network = function(module)
    before, first = Captured(network), losses(network)
    assert before == Captured(network)
    monkeypatch.setattr(owner(module), name, value)
    network = network if name != "logits" else Derived().logits
    assert before != Captured(network)
    again = losses(network)
    assert np.abs(again - first).max() > 0.1
    np.testing.assert_allclose(again, losses(lambda params, x: jnp.asarray(network(params, x))), rtol=1e-6)


@pytest.mark.parametrize(
    ("held", "change"),
    [
        (deque([1.0, 2.0]), lambda v: v.append(3.0)),
        (bytearray(b"ab"), lambda v: v.append(1)),
        (array.array("d", [1.0]), lambda v: v.append(1.0)),
        (np.array([1.0, [2.0]], object), lambda v: v[1].append(1.0)),
        (list(range(20_000)), lambda v: v.append(1)),
        (made(1), lambda v: setattr(v, "scale", 2.0)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_containers_are_read(held: Any, change: Callable[[Any], None]) -> None:
    before = Captured(made(held))
    assert before == Captured(made(held))
    change(held)
    assert before != Captured(made(held))


MEMORY: Any = weakref.WeakKeyDictionary()


class Tensor:
    """A tensor as PyTorch has it: its numbers are no attributes, and NumPy gets them once it has left its tape."""

    __slots__ = ("__weakref__",)

    def detach(self) -> "Tensor":
        """Return one without a tape."""
        other = Tensor()
        MEMORY[other] = [*MEMORY[self], "detached"]
        return other

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        """Return its numbers."""
        values, _ = MEMORY[self]
        return values


def tensor() -> Tensor:
    made = Tensor()
    MEMORY[made] = [np.ones(3)]
    return made


def doubled(made: Tensor) -> None:
    MEMORY[made][0] *= 2


SCALE = contextvars.ContextVar("SCALE", default=1.0)
TABLE = {"s": 1.0}
BYTES, MODEL = bytearray(b"ab"), Model()


@pytest.mark.parametrize(
    ("held", "change"),
    [
        pytest.param(pd.DataFrame({"scale": [1.0]}), lambda v: v.__setitem__("scale", [2.0]), id="pandas' table"),
        pytest.param(pd.DataFrame({"a": [1], "b": [2.0]}), lambda v: v.__setitem__("a", [1.0]), id="its types"),
        pytest.param(pd.DataFrame({"a": ["x", None]}), lambda v: v.__setitem__("a", ["x", "y"]), id="its texts"),
        pytest.param(pd.Series([1.0, 2.0]), lambda v: v.__setitem__(0, 2.0), id="its column"),
        pytest.param(pd.Series([1.0, 2.0]), lambda v: setattr(v, "index", [1, 0]), id="its index"),
        pytest.param(tensor(), doubled, id="tensor"),
        pytest.param({"layer": types.SimpleNamespace(weight=tensor())}, lambda v: doubled(v["layer"].weight), id="in"),
        pytest.param(types.MappingProxyType(TABLE), lambda v: TABLE.update(s=TABLE["s"] + 1), id="mapping proxy"),
        pytest.param(TABLE.values(), lambda v: TABLE.update(s=TABLE["s"] + 1), id="values of a dictionary"),
        pytest.param(TABLE.__getitem__, lambda v: TABLE.update(s=TABLE["s"] + 1), id="its method"),
        pytest.param(memoryview(BYTES), lambda v: BYTES.__setitem__(0, 0), id="memory"),
        pytest.param(weakref.ref(MODEL), lambda v: setattr(v(), "shift", 1.0), id="weak reference"),
        pytest.param(SCALE, lambda v: v.set(2.0), id="context variable"),
        pytest.param([0.0], lambda v: v.__setitem__(0, -0.0), id="minus 0"),
        pytest.param([0j], lambda v: v.__setitem__(0, complex(0, -0.0)), id="minus 0j"),
    ],
)
def test_what_is_kept_outside_of_attributes_is_read(held: Any, change: Callable[[Any], None]) -> None:
    before = Captured(made(held))
    assert before == Captured(made(held))
    change(held)
    assert before != Captured(made(held))


def test_numbers_that_cannot_be_read_are_never_the_same() -> None:
    class Closed:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            raise RuntimeError("closed")

    assert Captured(made(held := Closed())) != Captured(made(held))


@pytest.mark.parametrize(
    "text",
    [
        "x * getattr(m, 'scale')",
        "x * vars(m)['scale']",
        "x * m.__dict__['scale']",
        "x * globals()['scale']",
        "x * eval('1 + scale')",
        "sum([x * getattr(m, name) for name in ('scale', 'other')])",
    ],
)
def test_what_is_looked_up_by_a_text_is_read(module: types.ModuleType, text: str) -> None:
    vars(module).update(m=module, other=1.0)
    network = eval(f"lambda x: {text}", vars(module))
    before = Captured(network)
    assert before == Captured(network)
    vars(module)["scale"] = 4.0
    assert before != Captured(network)


def test_a_key_that_is_the_name_of_a_global_is_no_reading(module: types.ModuleType) -> None:
    network = eval("lambda x: {'scale': x}['scale']", vars(module))
    before = Captured(network)
    vars(module)["scale"] = 4.0
    assert before == Captured(network)


def test_what_reads_too_much_is_never_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxfair.curvature.captured.MOST", 50)
    few, many = made(list(range(20))), made(list(range(100)))
    assert Captured(few) == Captured(few)
    assert Captured(many) != Captured(many)
    same = Captured(many)
    assert same == same


def test_what_reads_the_same_is_compiled_once() -> None:
    """A lambda that is written into the call is a new object each time."""
    traced = SimpleQueue()  # a list would be a part of what is read, and a longer one another

    def measure() -> int:
        before = traced.qsize()
        losses(lambda params, x: (traced.put(x.shape), shifted(params, x))[1])
        return traced.qsize() - before

    first = measure()
    assert first > 3
    assert measure() <= 3, "shapes are asked for at the door, by evaluating nothing"


def test_a_flag_that_a_partial_binds_by_name_is_no_array() -> None:
    def apply(moved: Any, params: Any, x: Any, *, doubled: bool) -> Any:
        return x @ params + (2 * moved if doubled else moved)

    moved = jnp.array([1.0, 0.0, -1.0])
    for doubled in (False, True):
        found = losses(Partial(apply, moved, doubled=doubled))
        np.testing.assert_allclose(found, expected((1 + doubled) * moved), rtol=1e-5)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["weights", "act"], meta_fields=[])
@dataclasses.dataclass
class Layer:
    """A pytree that holds its activation function beside its array, as modules of Equinox do."""

    weights: Any
    act: Any

    def __call__(self, x: Any) -> Any:
        """Compute logits."""
        return self.act(x @ self.weights)


def test_a_module_that_holds_functions_is_a_classifier() -> None:
    found = jaxfair.deepfool(Layer(WEIGHTS, jnp.tanh), X, Y).distance
    plain = jaxfair.deepfool(lambda x: jnp.tanh(x @ WEIGHTS), X, Y).distance
    np.testing.assert_allclose(found, plain, rtol=1e-5)


def test_what_equinox_wraps_is_a_function() -> None:
    np.testing.assert_allclose(losses(eqx.filter_jit(shifted)), expected(np.zeros(3)), rtol=1e-5)
    module = eqx.nn.MLP(5, 3, width_size=4, depth=1, key=jax.random.key(0))
    found = jaxfair.linearized_distance(eqx.filter_vmap(module), X, Y).distance
    plain = jaxfair.linearized_distance(lambda x: jax.vmap(module)(x), X, Y).distance
    np.testing.assert_allclose(found, plain, rtol=1e-5)


def switched(settings: Any, moved: Any, params: Any, x: Any) -> Any:
    """Compute logits of the first inputs, whose number is a shape, moved or not."""
    train, size = settings
    return x[:, :size] @ params[:size] + (2 * moved if train else moved)


@pytest.mark.parametrize("size", [4, 5])
@pytest.mark.parametrize("train", [False, True])
def test_flags_and_sizes_that_a_partial_binds_are_no_arrays(train: bool, size: int) -> None:
    """By position, by name, and within what is bound, beside arrays."""
    moved = jnp.array([1.0, 0.0, -1.0])
    plain = losses(lambda params, x: switched((train, size), moved, params, x))

    def by_name(train: bool, moved: Any, params: Any, x: Any, *, size: int) -> Any:
        return switched((train, size), moved, params, x)

    def held(bound: Any, params: Any, x: Any) -> Any:
        return switched(bound["settings"], bound["moved"], params, x)

    for bound in (
        Partial(switched, (train, size), moved),
        Partial(switched, (np.bool_(train), np.int64(size)), moved),
        Partial(by_name, train, moved, size=size),
        Partial(held, {"settings": [train, size], "moved": moved}),
        Partial(lambda params, x, bound: held(bound, params, x), bound={"settings": (train, size), "moved": moved}),
    ):
        np.testing.assert_allclose(losses(bound), plain, rtol=1e-6)
    train_only = Partial(lambda train, x: x @ WEIGHTS * (2.0 if train else 1.0), train)
    found = jaxfair.linearized_distance(train_only, X, Y).distance
    np.testing.assert_allclose(found, jaxfair.linearized_distance(lambda x: x @ WEIGHTS, X, Y).distance, rtol=1e-5)


def test_settings_of_a_partial_are_a_part_of_its_programs() -> None:
    """Arrays of other numbers share them; another setting, and a flag that is equal to a count, do not."""
    one = as_pytree(Partial(switched, (True, 3), jnp.zeros(3)))
    again = as_pytree(Partial(switched, (True, 3), jnp.ones(3)))
    assert jax.tree.structure(one) == jax.tree.structure(again) == jax.tree.structure(as_pytree(again))
    assert hash(jax.tree.structure(one)) == hash(jax.tree.structure(again))
    for other in ((False, 3), (True, 4), (1, 3)):
        assert jax.tree.structure(as_pytree(Partial(switched, other, jnp.zeros(3)))) != jax.tree.structure(one)
