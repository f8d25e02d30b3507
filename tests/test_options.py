"""Options of another type, or a name that is misspelt, are refused before any work; numbers of NumPy are numbers."""

# pyright: reportArgumentType=false, reportCallIssue=false
# Mistakes are made on purpose here.

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import jaxfair
from jaxfair import CurvatureConfig, JaxfairError, PruneConfig, TrainConfig
from jaxfair.data.dataset import Dataset
from jaxfair.linearize.config import BcdConfig, DeepReduceConfig, SenetConfig, SnlConfig
from jaxfair.networks.network import Network
from jaxfair.training.config import MitigationConfig

CONFIGS = (CurvatureConfig, PruneConfig, TrainConfig, MitigationConfig, SnlConfig, DeepReduceConfig, SenetConfig)
CONFIGS += (BcdConfig,)
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
        (lambda: DeepReduceConfig([1, 2]), "DeepReduceConfig.culled is of type list; give a tuple of whole numbers."),
        (lambda: CurvatureConfig(chunk_size=2.5), "CurvatureConfig.chunk_size is 2.5; give a whole number or None."),
        (lambda: CurvatureConfig(tolerance=np.inf), "The tolerance is inf; give a relative error, at least 0."),
    ],
)  # fmt: skip
def test_the_sentence_names_what_was_given_and_what_there_is(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(JaxfairError) as caught:
        make()
    assert str(caught.value) == said


def test_numbers_of_numpy_are_numbers() -> None:
    config = TrainConfig(epochs=np.int64(3), learning_rate=np.float32(0.5), weight_decay=0)  # pyright: ignore
    assert dataclasses.replace(config, epochs=3) == config


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda n, d: jaxfair.fit(n, d, TrainConfig(), seeds=[0]), "fit got one network; give a list"),
        (
            lambda n, d: jaxfair.fit([n], d, {"epochs": 1}, seeds=[0]),
            "is of type dict; give a TrainConfig",
        ),
        (lambda n, d: jaxfair.snl(n, d, TrainConfig(), budgets=[9], seed=0), "type TrainConfig; give a SnlConfig"),
        (lambda n, d: jaxfair.group_report(abs, n.params, d.images, d.label, d.group, ["a"]), "give a CurvatureConfig"),
        (lambda n, d: jaxfair.fit([n], d, TrainConfig(), seeds=0), "fit got the seeds 0; give a list"),
        (lambda n, d: jaxfair.fit([n], d, TrainConfig(), seeds=[-1]), "A seed is -1; give a whole number from 0 to"),
        (lambda n, d: jaxfair.fit([n], jaxfair.load("digits"), TrainConfig(), seeds=[0]), "got a Loaded; split it"),
        (lambda n, d: jaxfair.snl(n, d, SnlConfig(batch_size=8), budgets=0.5, seed=0), "budgets are 0.5; give a list"),
        (lambda n, d: jaxfair.snl(n, d, SnlConfig(batch_size=8), budgets=["9"], seed=0), "The ReLU budget is 9; give"),
        (lambda n, d: jaxfair.snl(n, d, SnlConfig(batch_size=8), budgets=[9], seed=2**40), "A seed is 1099511627776"),
        (lambda n, d: jaxfair.init(n.module, (8, 8), seed=0), r"shape \(8, 8\); give height, width and channels"),
        (lambda n, d: jaxfair.init(n.module, (8, 8, 1), seed="0"), "A seed is '0'; give a whole number"),
        (lambda n, d: jaxfair.init(jaxfair.ResNet([1, 1], 10), (8, 8, 1), 0), r"stage_sizes is \[1, 1\]; give a tuple"),
        (lambda n, d: jaxfair.init(jaxfair.ResNet((1,), 10, width=8.5), (8, 8, 1), 0), "width is 8.5; give a whole"),
        (lambda n, d: jaxfair.load("digits").split(keep=0.5), "kept is 0.5; give a list"),
        (lambda n, d: jaxfair.load("digits").split(keep=[0.5], keep_by="class"), "kept by 'class'; choose from label"),
    ],
)
def test_arguments_of_another_kind_are_one_sentence(
    network: Network, data: Dataset, call: Callable[..., Any], said: str
) -> None:
    with pytest.raises(JaxfairError, match=said) as caught:
        call(network, data)
    assert "\n" not in str(caught.value)


def test_budgets_may_be_an_array(network: Network, data: Dataset) -> None:
    assert jaxfair.snl(network, data, SnlConfig(batch_size=8), budgets=np.array([0.5, 0.2]), seed=0)  # type: ignore
