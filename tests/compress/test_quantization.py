"""Quantization: bit for bit as written out in NumPy with integers, idempotent, and of the kernels that run."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfair.change import change_report
from jaxfair.compress.quantization import float_format, quantize, quantize_activations, round_kernel
from jaxfair.data.sources import load
from jaxfair.errors import JaxfairError
from jaxfair.networks.architectures import CNN, EPSILON, Module, ResNet
from jaxfair.networks.arithmetic import round_to
from jaxfair.networks.network import Network, fold, frozen, init

IMAGE = (8, 8, 1)
MODULES = {
    "basic": ResNet((1, 1), num_classes=3, width=4),
    "preactivation": ResNet((1, 1), num_classes=3, width=4, block="preactivation"),
    "CNN": CNN(num_classes=3, features=(4, 6)),
}


def trained(module: Module) -> Network:
    """Return a network with biases, norms and statistics as after training, one slope negative and one zero."""
    network, rng = init(module, IMAGE, seed=0), np.random.default_rng(0)

    def moved(path: Any, leaf: Any) -> Any:
        drawn = rng.normal(size=leaf.shape)
        drawn = np.exp(drawn) if path[-1].key == "var" else 0.3 * drawn + (path[-1].key == "scale")
        if path[-1].key == "scale":
            drawn[:2] = -0.7, 0
        return leaf if path[-1].key == "kernel" else jnp.asarray(drawn, jnp.float32)

    change = jax.tree_util.tree_map_with_path
    return network.replace(params=change(moved, network.params), batch_stats=change(moved, network.batch_stats))


def reference(kernel: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return integers and steps, channel by channel, in Python's own numbers."""
    levels, flat = 2 ** (bits - 1) - 1, kernel.reshape(-1, kernel.shape[-1])
    whole, steps = np.zeros(flat.shape, np.int8), np.zeros(flat.shape[1], np.float32)
    for channel in range(flat.shape[1]):
        largest = np.float32(max(abs(value) for value in flat[:, channel])) / np.float32(levels)
        if largest == 0:
            continue
        digits = int(np.floor(np.log2(float(largest)))) - 15  # of the last of 16 significant bits
        steps[channel] = round(float(largest) / 2.0**digits) * 2.0**digits
        ratio = [float(value / steps[channel]) for value in flat[:, channel]]
        whole[:, channel] = [max(-levels, min(levels, round(value))) for value in ratio]
    return whole.reshape(kernel.shape), steps


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_a_kernel_is_rounded_as_written_out(bits: int) -> None:
    kernel = np.random.default_rng(bits).normal(size=(3, 3, 5, 7)).astype(np.float32)
    kernel *= np.logspace(-12, 3, 7, dtype=np.float32)
    kernel[..., 3] = 0
    kernel[0, 0, 0, 4] = 0.5 * np.abs(kernel[..., 4]).max()  # may tie
    whole, steps = reference(kernel, bits)
    rounded = round_kernel(kernel, bits)
    np.testing.assert_array_equal(rounded, whole.astype(np.float32) * steps)
    np.testing.assert_array_equal(rounded.astype(float), whole.astype(float) * steps.astype(float))  # exact
    assert rounded.dtype == np.float32
    largest = np.abs(whole).reshape(-1, 7).max(axis=0)
    np.testing.assert_array_equal(largest, np.where(np.arange(7) == 3, 0, 2 ** (bits - 1) - 1))
    np.testing.assert_array_equal(round_kernel(rounded, bits), rounded)


@pytest.mark.parametrize("name", MODULES)
def test_a_network_computes_with_the_rounded_kernels(name: str) -> None:
    """With the norm built in where there is one after the convolution; a channel times zero has nothing to round."""
    network = trained(MODULES[name])
    quantized = quantize(network, 4)
    for part in ("batch_stats", "masks"):
        jax.tree.map(np.testing.assert_array_equal, getattr(quantized, part), getattr(network, part))
    folds = name == "basic"

    def check(before: Any, after: Any, stats: Any) -> None:
        for key, entry in before.items():
            if "kernel" not in entry:
                inner = {k: v for k, v in entry.items() if isinstance(v, dict)}
                check(inner, after[key], stats.get(key, {}))
                assert all(after[key][k] is v for k, v in entry.items() if not isinstance(v, dict))
                continue
            norm = key.replace("conv", "norm")
            slope = np.ones(entry["kernel"].shape[-1], np.float32)
            if folds and norm in stats:
                deviation = np.sqrt(np.asarray(stats[norm]["var"]) + np.float32(EPSILON))
                slope = np.asarray(before[norm]["scale"]) / deviation
            whole, steps = reference(np.asarray(entry["kernel"]) * slope, 4)
            live = slope != 0
            expected = whole[..., live].astype(np.float32) * steps[live] / slope[live]
            np.testing.assert_array_equal(np.asarray(after[key]["kernel"])[..., live], expected)
            np.testing.assert_array_equal(after[key]["kernel"][..., ~live], entry["kernel"][..., ~live])

    check(network.params, quantized.params, network.batch_stats)
    for a, b in zip(jax.tree.leaves(quantize(quantized, 4)), jax.tree.leaves(quantized), strict=True):
        np.testing.assert_array_equal(a, b)


def test_evaluation_sees_few_values_in_each_channel() -> None:
    """The kernels that are folded for evaluation are the rounded ones, to a unit in the last place or two."""
    network = trained(MODULES["basic"])
    kernel = np.asarray(fold(quantize(network, 3).params, network.batch_stats)["stage1_block1"]["conv1"]["kernel"])
    for channel in range(kernel.shape[-1]):
        values = kernel[..., channel].ravel()
        step = np.abs(values).max() / 3
        if step:
            np.testing.assert_allclose(values / step, np.rint(values / step), rtol=0, atol=2e-6)


@pytest.mark.filterwarnings("ignore:A network .* predicts one class")
def test_more_bits_are_nearer_and_the_change_is_known() -> None:
    """Both sides are one function of their parameters, so that the expansion of a group's loss can be compared."""
    network, rng = trained(MODULES["basic"]), np.random.default_rng(0)
    x, y = rng.normal(size=(60, *IMAGE)).astype(np.float32), rng.integers(0, 3, 60)
    rises = []
    for bits in (8, 4):
        quantized = quantize(network, bits)
        sides = [(frozen(one), one.params) for one in (network, quantized)]
        found = change_report(sides[0], sides[1], x, y, np.arange(60) % 2).expansion
        assert found is not None
        rises.append(np.abs(found.rise - found.first - found.second).max())
        assert 0 < float(found.distance[0]) < 0.6 * 2.0**-bits * 40
    assert rises[0] < 1e-3  # at 8 bits two terms say nearly all
    assert rises[0] < rises[1]


def test_activations_are_rounded_between_the_largest_of_the_calibration() -> None:
    """Of a linear network of two layers, against the same written out; derivatives are those without rounding."""
    data, _ = load("digits").split(test_fraction=0.25, seed=0)
    few, network = data.take(np.arange(300)), init(CNN(num_classes=10, features=(4,)), data.image_shape, seed=0)
    network = network.replace(masks=jax.tree.map(jnp.zeros_like, network.masks))
    logits_fn, x = quantize_activations(network, few, 4), few.normalize(few.images[:5])

    def layers(rounded: Callable[..., Any]) -> np.ndarray:
        seen = few.normalize(few.images)
        stem, head = network.params["stem_conv"], network.params["head"]

        def convolve(images: Any) -> Any:
            padded, kernel = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0))), stem["kernel"]
            parts = [padded[:, i : i + 8, j : j + 8, :] @ kernel[i, j] for i in range(3) for j in range(3)]
            y = sum(parts) + stem["bias"]
            return y.reshape(len(y), 4, 2, 4, 2, 4).mean(axis=(2, 4)).reshape(len(y), -1)

        inner = rounded(convolve(rounded(x, jnp.abs(seen).max())), jnp.abs(convolve(seen)).max())
        return np.asarray(inner @ head["kernel"] + head["bias"])

    def four(values: Any, largest: Any) -> Any:
        return jnp.clip(jnp.round(values / (largest / 7)), -7, 7) * (largest / 7)

    # A value next to a tie of its four bits may fall to either side: then one input of the head is a step apart.
    apart = np.abs(np.asarray(logits_fn(network.params, x)) - layers(four))
    assert np.median(apart) < 1e-4
    assert np.abs(layers(four) - np.asarray(network(x))).max() > 0.01
    np.testing.assert_allclose(layers(lambda values, _: values), network(x), rtol=1e-4, atol=1e-4)
    bias = jax.grad(lambda params: logits_fn(params, x).sum())(network.params)["head"]["bias"]
    np.testing.assert_allclose(bias, 5)
    stem = jax.grad(lambda params: logits_fn(params, x).sum())(network.params)["stem_conv"]["bias"]
    plain = jax.grad(lambda params: frozen(network)(params, x).sum())(network.params)["stem_conv"]["bias"]
    np.testing.assert_allclose(stem, plain, rtol=1e-4, atol=1e-4)  # which the rounding does not stop
    with pytest.raises(JaxfairError, match="The calibration set has no image"):
        quantize_activations(network, data.take(np.arange(0)), 4)
    with pytest.raises(JaxfairError, match="Activations are to be rounded to 1 bits"):
        quantize_activations(network, few, 1)


def test_a_float_format_rounds_kernels_and_products() -> None:
    network = trained(MODULES["basic"])
    changed = float_format(network, "bf16")
    assert changed.module == network.module.clone(arithmetic="bf16")
    np.testing.assert_array_equal(changed.params["head"]["kernel"], round_to(network.params["head"]["kernel"], "bf16"))
    assert changed.params["head"]["bias"] is network.params["head"]["bias"]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, *IMAGE)), jnp.float32)
    unrounded = changed.replace(params=network.params)  # its products round the kernels too
    np.testing.assert_array_equal(changed(x), unrounded(x))
    assert (np.asarray(changed(x)) != np.asarray(network(x))).any()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("name", "weight", "rounded", "where"),
    [
        ("CNN", np.nan, lambda network: quantize(network, 8), "as it is"),
        ("basic", np.inf, lambda network: quantize(network, 8), "as it is"),
        ("CNN", 7e4, lambda network: float_format(network, "fp16"), "in fp16"),
        ("basic", np.nan, lambda network: float_format(network, "bf16"), "in bf16"),
    ],
)
def test_a_kernel_that_cannot_be_rounded_is_refused(
    name: str, weight: float, rounded: Callable[[Network], Network], where: str
) -> None:
    """One such weight made its whole channel NaN, or itself infinite, and nothing was said."""
    network = trained(MODULES[name])
    head = {**network.params["head"], "kernel": network.params["head"]["kernel"].at[0, 0].set(weight)}
    with pytest.raises(JaxfairError, match=f"The kernel of layer 'head' is not finite {where}; check the network's"):
        rounded(network.replace(params={**network.params, "head": head}))


def test_a_kernel_that_overflows_with_its_norm_is_refused() -> None:
    network = trained(MODULES["basic"])
    grown = network.replace(params=jax.tree.map(lambda leaf: leaf * 1e25, network.params))
    with pytest.raises(JaxfairError, match="is not finite with its batch norm built in"):
        quantize(grown, 8)


@pytest.mark.parametrize("bits", [1, 9, 0, -3, 4.5])
def test_bits_are_whole_and_few(bits: Any) -> None:
    said = f"to {bits} bits; give a whole number from 2 to 8" if isinstance(bits, int) else "bits is 4.5; give a whole"
    with pytest.raises(JaxfairError, match=said) as caught:
        quantize(trained(MODULES["CNN"]), bits)
    assert "\n" not in str(caught.value)
    with pytest.raises(JaxfairError, match="kind is 'int8'; give 'native' or 'tf32' or"):
        float_format(trained(MODULES["CNN"]), "int8")  # pyright: ignore
