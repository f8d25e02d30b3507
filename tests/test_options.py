"""Options of another type, or a name that is misspelt, are refused before any work; numbers of NumPy are numbers."""

# pyright: reportArgumentType=false, reportCallIssue=false
# Mistakes are made on purpose here.

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import numpy as np
import pytest

import jaxfair
from jaxfair import CurvatureConfig, JaxfairError, PruneConfig, TrainConfig, options
from jaxfair.curvature.density import stochastic_quadrature
from jaxfair.data.dataset import Dataset
from jaxfair.linearize.config import BcdConfig, DeepReduceConfig, SenetConfig, SnlConfig
from jaxfair.networks.network import Network
from jaxfair.training.config import MitigationConfig

CONFIGS = (CurvatureConfig, PruneConfig, TrainConfig, MitigationConfig, SnlConfig, DeepReduceConfig, SenetConfig)
CONFIGS += (BcdConfig,)
DOORS = {name: of for name in jaxfair.__all__ if inspect.isfunction(of := getattr(jaxfair, name))}
DOORS |= {"GroupOperator": jaxfair.GroupOperator, "split": jaxfair.load("digits").split}
ARGUMENTS = [
    (name, argument)
    for name, door in DOORS.items()
    for argument, kind in get_type_hints(door.__init__ if isinstance(door, type) else door).items()
    if argument != "return" and not options._fits(object(), kind)
]
FIELDS = [(config, field.name) for config in CONFIGS for field in dataclasses.fields(config)]


@pytest.fixture(scope="module")
def data() -> Dataset:
    return jaxfair.load("digits").split()[0].take(np.arange(32))


@pytest.fixture(scope="module")
def network(data: Dataset) -> Network:
    return jaxfair.init(jaxfair.CNN(10, (2,)), data.image_shape, seed=0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("config", "name"), FIELDS, ids=lambda it: it if isinstance(it, str) else it.__name__)
def test_no_field_takes_another_type(config: type[Any], name: str) -> None:
    for wrong in (object(), ["none"], np.zeros(3), "no such name" if name != "precision" else 3):
        with pytest.raises(JaxfairError, match=rf"{name}.*; give ") as caught:
            config(**{name: wrong})
        assert len(str(caught.value)) < 300
        assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TrainConfig(augment="None"), "TrainConfig.augment is 'None'; give 'none' or 'cifar'; did you mean 'none'?"),  # noqa: E501
        (lambda: TrainConfig(epochs=10.0), "TrainConfig.epochs is 10.0; give a whole number."),
        (lambda: TrainConfig(epochs=True), "TrainConfig.epochs is True; give a whole number."),
        (lambda: TrainConfig(nesterov="no"), "TrainConfig.nesterov is 'no'; give True or False."),
        (lambda: TrainConfig(mitigation="cvar"), "TrainConfig.mitigation is 'cvar'; give a MitigationConfig."),
        (lambda: SnlConfig(rule="Exact"), "SnlConfig.rule is 'Exact'; give 'exact' or 'threshold'; did you mean 'exact'?"),  # noqa: E501
        (lambda: DeepReduceConfig([1, 2]), "DeepReduceConfig.culled is [1, 2]; give a tuple of whole numbers."),
        (lambda: CurvatureConfig(chunk_size=2.5), "CurvatureConfig.chunk_size is 2.5; give a whole number or None."),
        (lambda: CurvatureConfig(tolerance=np.inf), "The tolerance is inf; give a relative error, from 0 to below 1."),
        (lambda: CurvatureConfig(tolerance=100), "The tolerance is 100; give a relative error, from 0 to below 1."),
    ],
)  # fmt: skip
def test_the_sentence_names_what_was_given_and_what_there_is(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(JaxfairError) as caught:
        make()
    assert str(caught.value) == said


@pytest.mark.usefixtures("unchecked")
def test_numbers_of_numpy_are_numbers() -> None:
    config = TrainConfig(epochs=np.int64(3), learning_rate=np.float32(0.5), weight_decay=0)  # pyright: ignore
    assert dataclasses.replace(config, epochs=3) == config
    assert type(config.epochs) is int


@pytest.mark.usefixtures("unchecked")
def test_a_short_whole_number_of_numpy_counts_as_far_as_another() -> None:
    """One of 8 bits has no product beyond 127 or 255; nor is a plan kept that was made with it."""
    rng = np.random.default_rng(0)
    w, x, y = rng.normal(size=(4, 3)), rng.normal(size=(320, 4)), rng.integers(0, 3, 320)
    weights = jaxfair.group_weights(np.arange(320) % 2, np.int8(2))

    def find(size: Any) -> np.ndarray:
        return jaxfair.group_curvature(lambda w, x: x @ w, w, x, y, weights, CurvatureConfig(chunk_size=size)).loss

    for size in (np.int8(50), np.uint8(100)):
        np.testing.assert_array_equal(find(size), find(int(size)))
    both = [jaxfair.gradient_sampling(lambda w, x: x @ w, w, x, y, weights, blocks=n) for n in (np.int8(30), 30)]
    np.testing.assert_array_equal(both[0].norm, both[1].norm)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda n, d: jaxfair.fit(n, d, TrainConfig(), seeds=[0]), "networks is of type Network; give a list of Net"),
        (
            lambda n, d: jaxfair.fit([n], d, {"epochs": 1}, seeds=[0]),
            "is of type dict; give a TrainConfig",
        ),
        (lambda n, d: jaxfair.snl(n, d, TrainConfig(), budgets=[9], seed=0), "type TrainConfig; give a SnlConfig"),
        (lambda n, d: jaxfair.group_report(abs, n.params, d.images, d.label, d.group, ["a"]), "give a CurvatureConfig"),
        (lambda n, d: jaxfair.fit([n], d, TrainConfig(), seeds=0), "seeds is 0; give a list of whole numbers"),
        (lambda n, d: jaxfair.fit([n], d, TrainConfig(), seeds=[-1]), "A seed is -1; give a whole number from 0 to"),
        (lambda n, d: jaxfair.fit([n], jaxfair.load("digits"), TrainConfig(), seeds=[0]), r"such as its \.train"),
        (lambda n, d: jaxfair.snl(n, d, SnlConfig(batch_size=8), budgets=0.5, seed=0), "budgets is 0.5; give a list"),
        (
            lambda n, d: jaxfair.snl(n, d, SnlConfig(batch_size=8), budgets=["9"], seed=0),
            "budgets holds '9'; give a list of",
        ),
        (lambda n, d: jaxfair.snl(n, d, SnlConfig(batch_size=8), budgets=[9], seed=2**40), "A seed is 1099511627776"),
        (lambda n, d: jaxfair.init(n.module, (8, 8), seed=0), r"shape \(8, 8\); give height, width and channels"),
        (lambda n, d: jaxfair.init(n.module, (8, 8, 1), seed="0"), "seed is '0'; give a whole number"),
        (lambda n, d: jaxfair.init(jaxfair.ResNet([1, 1], 10), (8, 8, 1), 0), r"stage_sizes is \[1, 1\]; give a tuple"),
        (lambda n, d: jaxfair.init(jaxfair.ResNet((1,), 10, width=8.5), (8, 8, 1), 0), "width is 8.5; give a whole"),
        (lambda n, d: jaxfair.load("digits").split(keep=0.5), "keep is 0.5; give a list"),
        (lambda n, d: jaxfair.load("digits").split(keep=[0.5], keep_by="class"), "keep_by is 'class'; give 'label' or"),
    ],
)
def test_arguments_of_another_kind_are_one_sentence(
    network: Network, data: Dataset, call: Callable[..., Any], said: str
) -> None:
    with pytest.raises(JaxfairError, match=said) as caught:
        call(network, data)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("unchecked")
def test_budgets_may_be_an_array(network: Network, data: Dataset) -> None:
    assert jaxfair.snl(network, data, SnlConfig(batch_size=8), budgets=np.array([0.5, 0.2]), seed=0)  # type: ignore


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_no_argument_takes_another_type(name: str, argument: str, network: Network, data: Dataset) -> None:
    """All others are such as the door lets through: arrays, which are read behind it, may be anything."""
    door = DOORS[name]
    kinds = get_type_hints(door.__init__ if isinstance(door, type) else door)
    valid: dict[Any, Any] = {Network: network, Dataset: data, int: 0, float: 0.5, str: "it"}
    given = {
        one.name: valid[kind] if (kind := kinds[one.name]) in valid else fitting(kind, network)
        for one in inspect.signature(door).parameters.values()
        if one.default is one.empty
    }
    for wrong in (object(), {"a": 1}, 10**30):
        if options._fits(wrong, kinds[argument]):
            continue
        with pytest.raises(JaxfairError, match=rf"^{argument} is (of type object|of type dict|10+); give .*\.$"):
            door(**{**given, argument: wrong})


def fitting(kind: Any, network: Network) -> Any:
    """Return a value that a door lets through."""
    if isinstance(kind, type) and issubclass(kind, tuple):
        return tuple.__new__(kind, ())
    candidates = (object(), [0], [network], ["it"], len, network.module, *(config() for config in CONFIGS), "digits")
    return next(one for one in (*candidates, DOORS) if options._fits(one, kind))


@pytest.mark.usefixtures("unchecked")
def test_a_door_lets_through_what_is_meant(network: Network, data: Dataset) -> None:
    """Whole numbers of NumPy, and lists as ranges, arrays and columns have them."""
    config = TrainConfig(epochs=1, batch_size=8)
    for seeds in ([0], (0,), range(1), np.zeros(1, int)):
        (fitted,) = jaxfair.fit([network], data, config, seeds=seeds)
        assert fitted.seed == 0
    assert jaxfair.predict(network, data, batch_size=np.int64(8)).shape == (32, 10)
    with pytest.raises(JaxfairError, match=r"network is of type Fitted; give a Network, such as its \.network\."):
        jaxfair.predict(fitted, data)
    with pytest.raises(JaxfairError, match=r"data is of type Loaded; give a Dataset, such as its \.train\."):
        jaxfair.predict(network, jaxfair.load("digits"))
    with pytest.raises(JaxfairError, match=r"networks is of type Network; give a list of Networks\."):
        jaxfair.fit(network, data, config, seeds=[0])
    with pytest.raises(JaxfairError, match=r"seeds holds one of type ndarray; give a list of whole numbers\."):
        jaxfair.fit([network], data, config, seeds=[np.zeros(2)])
    starts, matrix = np.eye(3), np.diag([1.0, 2.0, 3.0])  # rows of an array are vectors as those of a list are
    assert len(stochastic_quadrature(lambda v: matrix @ v, starts, steps=2).nodes) == 3
    with pytest.raises(TypeError, match="unexpected keyword argument 'sed'"):
        jaxfair.fit([network], data, config, sed=0)
