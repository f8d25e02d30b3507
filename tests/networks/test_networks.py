"""Every architecture against a plain one written here, at both ends of its masks, and against published sizes."""

import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxfair
from jaxfair import checkpoints, networks
from jaxfair.errors import JaxfairError
from jaxfair.linearize import snl
from jaxfair.linearize.config import DeepReduceConfig
from jaxfair.networks import arithmetic, convolutions, masks
from jaxfair.networks.architectures import layers_of_gates
from jaxfair.networks.network import apply_watched
from jaxfair.training.config import TrainConfig
from jaxfair.training.fit import fit
from tests.networks.cases import FLOAT64, IMAGE, MODULES, conv, each_module, random_images, random_network
from tests.training.cases import make_data

GATES = {"basic": 6, "bottleneck": 9, "preactivation": 6, "cnn": 2}


@jax.jit
def logits(network: networks.Network, x: jax.Array) -> jax.Array:
    return network(x)


def exact(x: jax.Array) -> jax.Array:
    return x


def bf16(x: jax.Array) -> jax.Array:
    return lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def norm(x: jax.Array, params: Any, stats: Any) -> jax.Array:
    return (x - stats["mean"]) / jnp.sqrt(stats["var"] + 1e-5) * params["scale"] + params["bias"]


@partial(jax.jit, static_argnames="operand")
def plain(network: networks.Network, x: jax.Array, operand: Callable[[jax.Array], jax.Array] = exact) -> jax.Array:
    """Compute the logits of the ReLU network in evaluation mode: no gates, no flax. ``operand`` rounds a product's."""

    def product(x: jax.Array, variables: Any, stride: int = 1) -> jax.Array:
        return conv(operand(x), {"kernel": operand(variables["kernel"])}, stride)

    params, module = network.params, network.module
    forward = plain_cnn if isinstance(module, networks.CNN) else plain_resnet
    features = forward(network, product(x, params["stem_conv"], module.stem_stride), product)
    return operand(features) @ operand(params["head"]["kernel"]) + params["head"]["bias"]


def plain_cnn(network: networks.Network, x: jax.Array, product: Callable[..., jax.Array]) -> jax.Array:
    for stage in range(1, len(network.module.features) + 1):  # pyright: ignore
        p = network.params["stem_conv" if stage == 1 else f"stage{stage}_conv"]
        x = jax.nn.relu((x if stage == 1 else product(x, p)) + p["bias"])
        n, h, w, c = len(x), x.shape[1] // 2, x.shape[2] // 2, x.shape[3]
        x = x[:, : 2 * h, : 2 * w].reshape(n, h, 2, w, 2, c).mean((2, 4))
    return x.reshape(len(x), -1)


def plain_resnet(network: networks.Network, x: jax.Array, product: Callable[..., jax.Array]) -> jax.Array:
    params, stats, module = network.params, network.batch_stats, network.module
    assert isinstance(module, networks.ResNet)
    block = {"basic": plain_basic, "bottleneck": plain_bottleneck, "preactivation": plain_preactivation}[module.block]
    if module.block != "preactivation":
        x = norm(x, params["stem_norm"], stats["stem_norm"])
    for stage, size in enumerate(module.stage_sizes, start=1):
        for number in range(1, size + 1):
            p, s = (tree[f"stage{stage}_block{number}"] for tree in (params, stats))
            normed = {name: partial(norm, params=p[name], stats=s[name]) for name in s}
            x = block(x, p, normed, 2 if stage > 1 and number == 1 else 1, product)
    if module.block == "preactivation":
        x = norm(x, params["last_norm"], stats["last_norm"])
    return x.mean((1, 2))


def plain_basic(x: jax.Array, p: Any, norms: Any, stride: int, product: Callable[..., jax.Array]) -> jax.Array:
    y = jax.nn.relu(norms["norm1"](product(x, p["conv1"], stride)))
    y = norms["norm2"](product(y, p["conv2"]))
    if x.shape != y.shape:
        x = norms["shortcut_norm"](product(x, p["shortcut_conv"], stride))
    return jax.nn.relu(x + y)


def plain_bottleneck(x: jax.Array, p: Any, norms: Any, stride: int, product: Callable[..., jax.Array]) -> jax.Array:
    y = jax.nn.relu(norms["norm1"](product(x, p["conv1"])))
    y = jax.nn.relu(norms["norm2"](product(y, p["conv2"], stride)))
    y = norms["norm3"](product(y, p["conv3"]))
    if x.shape != y.shape:
        x = norms["shortcut_norm"](product(x, p["shortcut_conv"], stride))
    return jax.nn.relu(x + y)


def plain_preactivation(x: jax.Array, p: Any, norms: Any, stride: int, product: Callable[..., jax.Array]) -> jax.Array:
    gated = jax.nn.relu(norms["norm1"](x))
    y = jax.nn.relu(norms["norm2"](product(gated, p["conv1"], stride)))
    y = product(y, p["conv2"])
    return y + (x if x.shape == y.shape else product(gated, p["shortcut_conv"], stride))


def resnet(depth: int, num_classes: int = 10, **fields: Any) -> networks.ResNet:
    return networks.ResNet(networks.STAGE_SIZES[depth], num_classes, **fields)


def sizes(module: networks.Module, side: int) -> tuple[int, int]:
    """Return the numbers of units and of parameters for RGB images of this side."""
    shapes = networks.shapes(module, (side, side, 3))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype(np.float32)}
    return masks.unit_count(shapes.masks), sum(leaf.size for leaf in jax.tree.leaves(shapes.params))


def cifar_size(torchvision: int, features: int) -> int:
    """Exchange the 7x7 stem and the head of 1,000 classes, whose input has ``features``, for 3x3 and 10 classes."""
    return torchvision - (49 - 9) * 3 * 64 - (features + 1) * (1000 - 10)


@pytest.mark.parametrize(
    ("depth", "units", "parameters"),
    [(18, 491_520, cifar_size(11_689_512, 512)), (34, 901_120, cifar_size(21_797_672, 512)), (9, 245_760, None)],
)
def test_sizes_of_resnets(depth: int, units: int, parameters: int | None) -> None:
    """Two gates a block: 2 * 65,536 units a block in stage 1, and half of the stage before in each further stage.

    The numbers of parameters are those that torchvision prints with its weights.
    """
    found = sizes(resnet(depth), 32)
    assert found[0] == units == sum(2 * 65_536 * n // 2**i for i, n in enumerate(networks.STAGE_SIZES[depth]))
    assert parameters in (None, found[1])


def test_sizes_of_resnet50() -> None:
    """On 224x224 images the usual count is 9,608,704 ReLUs, 64 * 112 * 112 of them in the stem; stage 1 has 56x56."""
    module = resnet(50, block="bottleneck")
    units, parameters = sizes(module, 56)
    assert units == 9_608_704 - 64 * 112 * 112
    assert sizes(module, 32)[0] == units * 32**2 / 56**2 == 2_875_392
    assert parameters == cifar_size(25_557_032, 2048)


def test_sizes_of_wide_resnets() -> None:
    """WRN-22-8 as Cho et al. have it; with a ReLU on the last 512 x 8 x 8 features it would have the usual 1,392,640.

    The first gate of a stage has the shape of the stage before, or of the stem. WRN-28-10 has 36,479,194 parameters.
    """
    units, _ = sizes(resnet(22, width=128, block="preactivation", stem_width=16), 32)
    stages = [(16 + 5 * 128) * 32**2, 128 * 32**2 + 5 * 256 * 16**2, 256 * 16**2 + 5 * 512 * 8**2]
    assert units == sum(stages) == 1_392_640 - 512 * 8**2
    assert sizes(networks.ResNet((4, 4, 4), 10, 160, block="preactivation", stem_width=16), 32)[1] == 36_479_194


def test_a_network_is_equal_to_itself_alone() -> None:
    one, other = (networks.init(networks.CNN(num_classes=3, features=(2,)), (8, 8, 1), seed=0) for _ in range(2))
    assert one in [other, one]
    assert len({one, other}) == 2


def test_sizes_of_the_cnn() -> None:
    """Two stages of 32x32x32 and 16x16x64 units; the head sees 8x8x64 features."""
    expected = 32 * 32**2 + 64 * 16**2, (27 + 1) * 32 + (9 * 32 + 1) * 64 + (64 * 8**2 + 1) * 10
    assert sizes(networks.CNN(num_classes=10), 32) == expected


@each_module
@pytest.mark.usefixtures("float64")
def test_masks_of_ones_give_the_plain_network(kind: str) -> None:
    network, x = random_network(kind), random_images()
    np.testing.assert_allclose(logits(network, x), plain(network, x), **FLOAT64)


@each_module
@pytest.mark.usefixtures("float64")
def test_masks_of_zeros_make_the_network_affine(kind: str) -> None:
    network = random_network(kind)
    linear = partial(logits, network.replace(masks=masks.full(network.masks, 0.0)))
    x, y = random_images(), random_images(seed=2)
    scale = float(jnp.abs(linear(x)).max())
    np.testing.assert_allclose(linear(x + y) + linear(0 * x), linear(x) + linear(y), rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(linear(x + 3 * y) + linear(x - 3 * y), 2 * linear(x), rtol=0, atol=1e-11 * scale)
    assert float(jnp.ptp(linear(x), axis=0).max()) > 0.1


@each_module
@pytest.mark.usefixtures("float64")
def test_each_gate_acts(kind: str) -> None:
    """Making one gate linear changes the logits, whichever it is."""
    network, x = random_network(kind), random_images()
    leaves, structure = jax.tree.flatten(network.masks)
    assert len(leaves) == GATES[kind]
    for i, leaf in enumerate(leaves):
        changed = jax.tree.unflatten(structure, [*leaves[:i], 0 * leaf, *leaves[i + 1 :]])
        assert float(jnp.abs(logits(network.replace(masks=changed), x) - logits(network, x)).max()) > 1e-6


@each_module
@pytest.mark.usefixtures("float64")
def test_seeds_stack(kind: str) -> None:
    networks, x = [random_network(kind, seed) for seed in (0, 1)], random_images()
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)
    expected = jnp.stack([logits(network, x) for network in networks])
    np.testing.assert_allclose(jax.vmap(logits, (0, None))(stacked, x), expected, **FLOAT64)


@each_module
@pytest.mark.usefixtures("float64")
def test_gradients_reach_every_parameter_and_training_every_statistic(kind: str) -> None:
    """Gradients in evaluation mode: a bottleneck's first norm removes any shift of what it is given in training."""
    network, x = random_network(kind), random_images()

    @jax.jit
    def changes(network: networks.Network) -> Any:
        slopes = jax.grad(lambda params: jnp.square(networks.frozen(network)(params, x)).mean())(network.params)
        _, updated = networks.apply_train(network, network.params, network.masks, x)
        return slopes, jax.tree.map(jnp.subtract, updated, network.batch_stats)

    for path, leaf in jax.tree.leaves_with_path(changes(network)):
        assert float(jnp.abs(leaf).max()) > 1e-6, path


@each_module
@pytest.mark.usefixtures("float64")
def test_emulated_arithmetic_rounds_the_operands_of_every_product(kind: str) -> None:
    """Nothing else changes: neither the variables nor, in native arithmetic, the logits."""
    native, x = random_network(kind), random_images()
    rounded = networks.Network(native.module.clone(arithmetic="bf16"), native.params, native.batch_stats, native.masks)
    expected = plain(native, x, bf16)
    np.testing.assert_allclose(logits(rounded, x), expected, **FLOAT64)
    assert float(jnp.abs(expected - plain(native, x)).max()) > 1e-3


def test_arithmetic_changes_no_initial_value() -> None:
    native, rounded = (
        networks.init(MODULES["basic"].clone(arithmetic=kind), IMAGE, seed=0) for kind in ("native", "bf16")
    )
    assert rounded.module != native.module
    jax.tree.map(np.testing.assert_array_equal, native.replace(module=rounded.module), rounded)


@each_module
def test_native_arithmetic_adds_no_operation(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = networks.shapes(MODULES[kind], IMAGE)
    x = jnp.zeros((2, *IMAGE))

    def operations(**fields: Any) -> str:
        network = networks.Network(MODULES[kind].clone(**fields), shapes.params, shapes.batch_stats, shapes.masks)
        return str(jax.make_jaxpr(lambda n: networks.apply_train(n, n.params, n.masks, x))(network))

    native, rounded = operations(), operations(arithmetic="bf16")
    monkeypatch.setattr(arithmetic, "dot_general", lambda kind: None)
    monkeypatch.setattr(arithmetic, "conv_general_dilated", lambda kind: convolutions.conv_general_dilated)
    assert native == operations() != rounded


def test_a_network_without_batch_norm_is_trained_linearized_and_kept(tmp_path: Path) -> None:
    """Two steps of training, SNL to a budget, a whole stage, a checkpoint and its predictions."""
    dataset, module = make_data(16), networks.CNN(num_classes=3, features=(4, 2))
    start = networks.init(module, dataset.image_shape, seed=0)
    config = TrainConfig(epochs=1, batch_size=8, learning_rate=0.05)
    network = next(fit([start], dataset, config, seeds=[0])).network
    for before, after in zip(*(jax.tree.leaves(n.params) for n in (start, network)), strict=True):
        assert float(jnp.abs(before - after).max()) > 1e-4
    assert network.batch_stats == {}
    assert masks.unit_count(network.masks) == 8 * 8 * 4 + 4 * 4 * 2
    assert masks.relu_count(masks.without_stages(network.masks, {1})) == 4 * 4 * 2
    (snapshot,) = snl.snl(network, dataset, snl.SnlConfig(8, 4e-3, kappa=1e-2), budgets=[200], seed=0)
    assert masks.relu_count(snapshot.network.masks) == 200
    checkpoints.save(tmp_path, 0, snapshot.network)
    restored = checkpoints.restore(tmp_path, jax.eval_shape(lambda: start))
    expected = snapshot.network(dataset.normalize(dataset.images))
    np.testing.assert_allclose(networks.predict(restored, dataset), expected, rtol=0, atol=1e-4)


@each_module
@pytest.mark.usefixtures("float64")
def test_what_gates_and_stages_put_out_is_watched_without_changing_the_result(kind: str) -> None:
    network, x = random_network(kind), random_images()
    watch = jax.jit(apply_watched, static_argnames=("watched", "train"))
    logits_of_gates, stats, gates = watch(network, network.params, x, "gates", train=False)
    logits_of_stages, _, stages = watch(network, network.params, x, "stages", train=False)
    for found in (logits_of_gates, logits_of_stages):
        np.testing.assert_allclose(found, logits(network, x), **FLOAT64)
    assert jax.tree.structure(gates) == jax.tree.structure(network.masks)
    for output, mask in zip(jax.tree.leaves(gates), jax.tree.leaves(network.masks), strict=True):
        assert output.shape == (len(x), *mask.shape)
        assert (output >= 0).all()
    jax.tree.map(np.testing.assert_array_equal, stats, network.batch_stats)
    # The head sees the last stage: by its mean, or flattened; after a norm where blocks are of preactivations.
    last = stages[-1]
    if kind != "preactivation":
        seen = last.reshape(len(x), -1) if kind == "cnn" else last.mean(axis=(1, 2))
        head = network.params["head"]
        np.testing.assert_allclose(seen @ head["kernel"] + head["bias"], logits(network, x), **FLOAT64)
    assert len(stages) == 2


def test_a_gates_layer_is_the_convolution_whose_result_it_takes() -> None:
    found = {kind: layers_of_gates(module, IMAGE) for kind, module in MODULES.items()}
    assert found["basic"]["stage2_block1/gate2"] == "stage2_block1/conv2"  # and not its shortcut's
    assert found["bottleneck"]["stage1_block1/gate3"] == "stage1_block1/conv3"
    assert found["preactivation"]["stage1_block1/gate1"] == "stem_conv"
    assert found["preactivation"]["stage1_block2/gate1"] == "stage1_block1/conv2"
    assert found["cnn"] == {"stage1_block1/gate1": "stem_conv", "stage2_block1/gate1": "stage2_conv"}
    assert {kind: len(layers) for kind, layers in found.items()} == GATES


def test_what_fit_returns_is_not_its_network() -> None:
    """The slip is told by all that take a network."""
    network = networks.init(networks.ResNet((1,), 3, width=2), (8, 8, 1), seed=0)
    fitted: Any = types.SimpleNamespace(network=network)
    for given, called in (
        (fitted, r"SimpleNamespace; give a Network, such as its \.network\."),
        (network.params, "dict; give a Net"),
    ):
        for call in (
            lambda some: networks.frozen(some),
            lambda some: jaxfair.prune(some, jaxfair.PruneConfig(0.5)),
            lambda some: jaxfair.quantize(some, 8),
            lambda some: jaxfair.deepreduce(some, (8, 8, 1), DeepReduceConfig.parse("C1"), seed=0),
        ):
            with pytest.raises(JaxfairError, match=f"network is of type {called}"):
                call(given)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "given", [np.zeros((40, 8, 8, 1)).tolist(), [[1.0, 2.0], [3.0]], 1.0], ids=["list", "rows", "1"]
)
def test_an_input_that_is_no_array_is_refused_in_a_short_sentence(given: Any) -> None:
    network = networks.init(networks.CNN(num_classes=3, features=(2,)), (8, 8, 1), seed=0)
    with pytest.raises(JaxfairError, match=r"^The network's input is a (list|float); give an array of NumPy or JAX\.$"):
        network(given)
