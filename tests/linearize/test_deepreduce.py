"""DeepReDuce: ReLU counts known in closed form, names, and students."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfair import networks
from jaxfair.errors import JaxfairError
from jaxfair.linearize import deepreduce
from jaxfair.linearize.config import CULLED_SETS, DeepReduceConfig
from jaxfair.networks import masks

# ResNet-18 on 32x32 images: four gates a stage, of 32 x 32 x 64 units in the first and half as many in each next.
RELUS_OF_STAGE = {1: 262_144, 2: 131_072, 3: 65_536, 4: 32_768}
IMAGE = (8, 8, 1)


@pytest.fixture(scope="module")
def resnet18_masks() -> masks.Masks:
    module = networks.ResNet(networks.STAGE_SIZES[18], num_classes=10)
    shapes = networks.shapes(module, (32, 32, 3)).masks
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)


@pytest.fixture(scope="module")
def base() -> networks.Network:
    """Initialise a network of two stages, of 2 * 8 * 8 * 4 and half as many units."""
    return networks.init(networks.ResNet((1, 1), num_classes=3, width=4), IMAGE, seed=0)


def test_the_eleven_sets_of_the_paper() -> None:
    assert len({frozenset(culled) for culled in CULLED_SETS}) == 11
    assert set().union(*CULLED_SETS) == set(RELUS_OF_STAGE)


@pytest.mark.parametrize("culled", CULLED_SETS, ids=str)
def test_culling_and_thinning_of_resnet18(resnet18_masks: masks.Masks, culled: tuple[int, ...]) -> None:
    """The other stages keep all their ReLUs, or half of them: one of two gates a block."""
    expected = sum(relus for stage, relus in RELUS_OF_STAGE.items() if stage not in culled)
    chosen, thinned = (deepreduce.choose(resnet18_masks, DeepReduceConfig(culled, thinned=t)) for t in (False, True))
    assert masks.relu_count(chosen) == expected
    assert masks.relu_count(thinned) == expected // 2
    assert {float(value) for leaf in jax.tree.leaves(thinned) for value in jnp.unique(leaf)} <= {0.0, 1.0}


def test_nothing_culled_keeps_every_relu(resnet18_masks: masks.Masks) -> None:
    assert masks.relu_count(deepreduce.choose(resnet18_masks, DeepReduceConfig(culled=()))) == 491_520


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (DeepReduceConfig(), "C1"),
        (DeepReduceConfig(culled=()), "full"),
        (DeepReduceConfig(culled=(), thinned=True), "T"),
        (DeepReduceConfig(culled=(1, 4), thinned=True), "C14+T"),
        (DeepReduceConfig(culled=(1, 2, 3), channel_scale=0.5, resolution_scale=0.25), "C123+a0.5+r0.25"),
    ],
)
def test_names(config: DeepReduceConfig, name: str) -> None:
    assert config.name == name


@pytest.mark.parametrize("name", ["C1", "T", "C14+T", "C123+a0.5+r0.25", "C2+T+a2", "r0.5"])
def test_names_are_read_back(name: str) -> None:
    assert DeepReduceConfig.parse(name).name == name
    assert DeepReduceConfig.parse(name, start="base").start == "base"


@pytest.mark.parametrize("name", ["", "D1", "C1+", "C1+T+x", "C1+a0.5.5", "C1+a.", "c1"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(JaxfairError, match=f"'{re.escape(name)}' is no DeepReDuce configuration"):
        DeepReduceConfig.parse(name)


@pytest.mark.parametrize("channel_scale", [0.5, 1, 2])
@pytest.mark.parametrize("resolution_scale", [0.25, 0.5, 1])
def test_scaling_multiplies_the_units(channel_scale: float, resolution_scale: float) -> None:
    """By the channel scale, and by the square of the resolution scale."""
    config = DeepReduceConfig(channel_scale=channel_scale, resolution_scale=resolution_scale)
    module = deepreduce.student_module(networks.ResNet(networks.STAGE_SIZES[18], num_classes=10), config)
    shapes = networks.shapes(module, (32, 32, 3)).masks
    assert masks.unit_count(shapes) == 491_520 * channel_scale * resolution_scale**2


def test_a_scaled_student(base: networks.Network) -> None:
    """Half as wide and at half the resolution: an eighth of the units, of which stage 2 has a third."""
    config = DeepReduceConfig((1,), thinned=True, channel_scale=0.5, resolution_scale=0.5)
    student = deepreduce.deepreduce(base, IMAGE, config, seed=0)
    assert masks.unit_count(student.masks) == masks.unit_count(base.masks) / 8 == (512 + 256) / 8
    assert masks.relu_count(student.masks) == 256 / 8 / 2
    assert student(jnp.ones((2, *IMAGE))).shape == (2, 3)


def test_a_fresh_student_has_weights_of_its_own(base: networks.Network) -> None:
    student, other = (deepreduce.deepreduce(base, IMAGE, DeepReduceConfig(), seed=seed) for seed in (5, 6))
    kernels = [np.asarray(n.params["head"]["kernel"]) for n in (base, student, other)]
    assert not any((a == b).any() for a, b in itertools.combinations(kernels, 2))


def test_a_student_from_the_base_is_a_copy_with_other_masks(base: networks.Network) -> None:
    """A copy, since training gives its buffers away."""
    student = deepreduce.deepreduce(base, IMAGE, DeepReduceConfig((2,), start="base"), seed=1)
    for ours, theirs in ((student.params, base.params), (student.batch_stats, base.batch_stats)):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        assert all(a is not b for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True))
    jax.tree.map(lambda leaf: leaf.delete(), student.params)
    assert np.isfinite(base(jnp.ones((1, *IMAGE)))).all()
    assert masks.relu_count(base.masks) == masks.unit_count(base.masks)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (DeepReduceConfig((0,)), r"culls stages \(0,\), but the network has stages 1 to 2"),
        (DeepReduceConfig((1, 3)), r"culls stages \(1, 3\), but the network has stages 1 to 2"),
        (DeepReduceConfig(channel_scale=0.5, start="base"), r"'C1\+a0\.5' changes the network's size; start it fresh"),
        (DeepReduceConfig(resolution_scale=0.5, start="base"), r"'C1\+r0\.5' changes the network's size"),
        (DeepReduceConfig(channel_scale=0.3), "give width 1.2 .* whole numbers of at least 1"),
        (DeepReduceConfig(channel_scale=0.0), "give width 0 "),
        (DeepReduceConfig(channel_scale=float("nan")), "whole numbers of at least 1"),
        (DeepReduceConfig(resolution_scale=0.3), "stem stride 3.33333; both must be whole numbers"),
        (DeepReduceConfig(resolution_scale=2.0), "stem stride 0.5; both must be whole numbers"),
        (DeepReduceConfig(resolution_scale=0.0), "whole numbers of at least 1"),
        (DeepReduceConfig(resolution_scale=0.125), "8x8 are too small for 2 stages with stem stride 8"),
    ],
)
def test_refusals(base: networks.Network, config: DeepReduceConfig, words: str) -> None:
    with pytest.raises(JaxfairError, match=words):
        deepreduce.deepreduce(base, IMAGE, config, seed=0)


@pytest.mark.parametrize(
    ("module", "name", "words"),
    [
        (networks.CNN(3), "C1", "defined for ResNets, and this is a CNN"),
        (networks.ResNet((1, 1), 3, block="bottleneck"), "C1+T", "thins basic blocks, and these are bottleneck"),
        (networks.ResNet((1, 1), 3, width=8, stem_width=3), "C1+a0.5", "must be whole numbers"),
    ],
)
def test_other_networks(module: networks.Module, name: str, words: str) -> None:
    with pytest.raises(JaxfairError, match=words):
        deepreduce.student_module(module, DeepReduceConfig.parse(name))


def test_a_wide_resnets_stem_is_scaled_too() -> None:
    wide = networks.ResNet((1, 1), 3, width=8, block="preactivation", stem_width=4)
    assert deepreduce.student_module(wide, DeepReduceConfig.parse("C1+a0.5")) == wide.clone(width=4, stem_width=2)
