"""What is measured on each group of a network, and on each test image. Knows no run records."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array

from experiments.running.settings import AnalysisConfig
from jaxfair import groups, losses, margins
from jaxfair.bounds import binary_hessian_bound, parameter_distance
from jaxfair.curvature.chunks import Devices, over_chunks
from jaxfair.curvature.config import CurvatureConfig
from jaxfair.curvature.sampling import BLOCKS, equal_count_eigenvalues, gradient_sampling
from jaxfair.curvature.spectrum import GroupCurvature, group_curvature, group_losses
from jaxfair.data.dataset import Dataset, normalize
from jaxfair.errors import JaxfairError
from jaxfair.networks import masks
from jaxfair.networks.network import Network, frozen, predict
from jaxfair.taylor import taylor_terms

QUANTITIES = ("loss", "softmax_gap", "linearized_distance")
"""Of an image, whose mean over a group is recorded."""
IMAGES = 1024
"""Images that are read at once to be told apart."""


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How it is found what the few examples of a group add to its gradient norm and largest eigenvalue.

    Attributes:
        blocks: of a group, at most.
        draws: of as many images as the smallest group has, at most.
        seed: of the random cuts.
    """

    blocks: int = BLOCKS
    draws: int = 3
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class DrawConfig:
    """Which images a quantity is of that takes too long for all.

    Attributes:
        images: of a group, at most, drawn at random.
        seed: of the draw.
    """

    images: int = 16
    seed: int = 0


def check_config(config: AnalysisConfig) -> None:
    """Raise a JaxfairError if nothing can be measured by this configuration."""
    too_small = config.chunk_size is not None and config.chunk_size < 1
    if config.max_steps < 1 or too_small or not 0 < config.tolerance < 1:
        raise JaxfairError(
            f"The analysis has max_steps {config.max_steps}, chunk_size {config.chunk_size} and tolerance "
            f"{config.tolerance}; give numbers of at least 1, and a tolerance between 0 and 1."
        )


def measure(
    network: Network,
    full: Network,
    train_set: Dataset,
    test: Dataset,
    config: AnalysisConfig,
    validation: Dataset | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, Any]]:
    """Measure a network against the full one it came from; on validation images the accuracy alone, if there are any.

    Returns:
        Arrays of each test image; Lanczos coefficients of each group; the numbers of ``result.json``.
    """
    examples = measure_examples(network, test, config)
    logits, label = examples["logits"], examples["label"]
    num_groups = len(test.group_names)
    measured = test if config.split == "test" else train_set
    curvature = measure_curvature(network, measured, config)
    by_group = partial(groups.group_means, group=np.asarray(test.group), num_groups=num_groups)
    correct = (logits.argmax(-1) == label).astype(np.float64)
    full_correct = (predict(full, test).argmax(-1) == label).astype(np.float64)
    accuracy, full_accuracy = by_group(correct), by_group(full_correct)
    held_out = {}
    if validation is not None:
        held_out = {"validation_count": validation.group_counts}
        held_out["validation_accuracy"] = measure_predictions(network, validation, None)[1]
    result = {
        "relu_count": masks.relu_count(network.masks),
        "unit_count": masks.unit_count(network.masks),
        # NaN where the two networks differ in size, as after DeepReDuce.
        "parameter_distance": parameter_distance(network.params, full.params)
        if network.module == full.module
        else np.nan,
        "accuracy": correct.mean(),
        "groups": {
            "name": test.group_names,
            "train_count": train_set.group_counts,
            "test_count": test.group_counts,
            "curvature_count": measured.group_counts,
            "accuracy": accuracy,
            "accuracy_full": full_accuracy,
            "train_accuracy": measure_predictions(network, train_set, None)[1],
            **held_out,
            "relative_drop_percent": groups.relative_drop(full_accuracy, accuracy),
            **{name: by_group(examples[name]) for name in QUANTITIES if name in examples},
            **curvature_columns(curvature),
        },
        "checks": {
            "deterministic": bool(np.array_equal(logits, predict(network, test))),
            "worst_relative_residual": np.max(curvature.top_eigenvalue_residual / np.abs(curvature.top_eigenvalue)),
            "precision": config.precision,
        },
    }
    return examples, {"alphas": curvature.alphas, "betas": curvature.betas}, result


def measure_examples(network: Network, test: Dataset, config: AnalysisConfig) -> dict[str, np.ndarray]:
    """Return an array for each quantity of a test image: index, identity, label, group, loss, logits, distances."""
    logits = predict(network, test)
    examples = {
        "index": np.arange(len(test)),
        "image": _identities(test),
        "label": np.asarray(test.label),
        "group": np.asarray(test.group),
        "loss": np.asarray(losses.cross_entropy(jnp.asarray(logits), test.label)),
        "logits": logits,
        "softmax_gap": np.asarray(margins.softmax_gap(jnp.asarray(logits))),
    }
    if config.linearized_distance:
        examples["linearized_distance"] = _linearized_distance(network, test)
    return examples


def measure_predictions(
    network: Network, train_set: Dataset, test: Dataset | None
) -> tuple[np.ndarray | None, np.ndarray]:
    """Return which test images are predicted right, if a test set is given, and every group's training accuracy."""
    right = [
        None if data is None else predict(network, data).argmax(-1) == np.asarray(data.label)
        for data in (test, train_set)
    ]
    assert right[1] is not None
    of_groups = groups.group_means(right[1].astype(float), np.asarray(train_set.group), len(train_set.group_names))
    return right[0], of_groups


def _identities(test: Dataset) -> np.ndarray:
    """Return a number for every image by its content, so that images are known again in another split of the data.

    Equal images have numbers of their own, in their order.
    """
    seen: Counter[bytes] = Counter()
    found = []
    for start in range(0, len(test), IMAGES):
        for image in np.asarray(test.images[start : start + IMAGES]):
            content = hashlib.blake2b(np.ascontiguousarray(image).data).digest()
            found.append(hashlib.blake2b(content, digest_size=8, salt=seen[content].to_bytes(8, "big")).digest())
            seen[content] += 1
    return np.array([int.from_bytes(digest, "big") for digest in found], np.uint64)


def measure_curvature(network: Network, measured: Dataset, config: AnalysisConfig) -> GroupCurvature:
    """Return gradient and Hessian of every group's mean loss."""
    return group_curvature(
        *_curvature_arguments(network, measured),
        CurvatureConfig(
            tolerance=config.tolerance,
            start=config.start,
            max_steps=config.max_steps,
            chunk_size=config.chunk_size,
            precision=config.precision,
        ),
    )


def _curvature_arguments(network: Network, measured: Dataset) -> tuple[Any, Any, Any, Any, Any]:
    """Return function, parameters, inputs, labels and the groups' weights."""
    return (
        Partial(_logits_of_images, network, measured.mean, measured.std),
        network.params,
        measured.images,
        measured.label,
        groups.group_weights(measured.group, len(measured.group_names)),
    )


def measure_sampling(
    network: Network, measured: Dataset, config: AnalysisConfig, sampling: SamplingConfig
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Measure what is left of gradient norms and eigenvalues without the part that few examples add.

    Returns:
        Of each group and block the parts of both (``curvature.sampling``), padded by NaN, the blocks' inner products
        and the draws' eigenvalues; the numbers of ``result.json``.
    """
    arguments, precision = _curvature_arguments(network, measured), config.precision
    own = {"seed": sampling.seed, "chunk_size": config.chunk_size, "precision": precision}
    norms = gradient_sampling(*arguments, blocks=sampling.blocks, **own)
    found = CurvatureConfig(tolerance=config.tolerance, max_steps=config.max_steps, precision=precision)
    equal = equal_count_eigenvalues(*arguments, found, draws=sampling.draws, seed=sampling.seed)
    arrays = {"gradient_norm": _padded(norms.parts), "top_eigenvalue": _padded(equal.parts)}
    arrays |= {"inner_products": _padded(norms.grams), "top_eigenvalue_draws": equal.values}
    columns = {
        "name": measured.group_names,
        "count": measured.group_counts,
        "gradient_norm": norms.norm,
        "gradient_norm_squared": norms.squared,
        "gradient_norm_corrected": norms.corrected,
        "gradient_norm_low": norms.interval.low,
        "gradient_norm_high": norms.interval.high,
        "top_eigenvalue_equal_count": equal.mean,
        "top_eigenvalue_low": equal.interval.low,
        "top_eigenvalue_high": equal.interval.high,
        "top_eigenvalue_residual": np.nanmax(equal.residuals, axis=1),
    }
    return arrays, {"equal_count": equal.count, "groups": columns}


def measure_gradients(
    network: Network, data: Dataset, config: AnalysisConfig
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Compare the gradients of the groups: at a minimum of the joint loss they cancel (Das et al. 2024, A.1).

    Returns:
        The inner products ``|D_a| g_a . |D_b| g_b`` of all groups, shape (groups, groups); the numbers of
        ``result.json``, of which ``cosine_to_rest`` is that of a group's gradient and the sum of all others'.
    """
    logits_fn, params, images, label, weights = _curvature_arguments(network, data)
    found = CurvatureConfig(chunk_size=config.chunk_size, precision=config.precision)
    rows = group_losses(logits_fn, params, images, label, np.asarray(weights), found, loss=losses.cross_entropy)
    sums = np.array([n * np.asarray(row.gradient, float) for n, row in zip(data.group_counts, rows, strict=True)])
    products = sums @ sums.T
    norms, with_rest = np.sqrt(np.diag(products)), products.sum(axis=1) - np.diag(products)
    rest = np.sqrt(np.maximum(products.sum() - 2 * products.sum(axis=1) + np.diag(products), 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = with_rest / (norms * rest)
    columns = {"name": data.group_names, "count": data.group_counts, "gradient_sum_norm": norms}
    return {"inner_products": products}, {"groups": {**columns, "rest_norm": rest, "cosine_to_rest": cosines}}


def measure_hessian_bound(network: Network, data: Dataset, config: AnalysisConfig, drawn: DrawConfig) -> dict[str, Any]:
    """Compare each group's largest Hessian eigenvalue with Prop. 4.5 of Das et al. 2024, for a task of two classes.

    Both are of the same few images of each group, since the bound takes an eigenvalue of every one of them.

    Returns:
        The numbers of ``result.json``.
    """
    rng, group = np.random.default_rng(drawn.seed), np.asarray(data.group)
    members = [np.flatnonzero(group == g) for g in range(len(data.group_names))]
    some = data.take(np.sort(np.concatenate([rng.permutation(of)[: drawn.images] for of in members])))
    some = dataclasses.replace(some, images=jnp.asarray(np.asarray(some.images)))
    curvature = measure_curvature(network, some, config)
    bound = binary_hessian_bound(*_curvature_arguments(network, some), max_steps=config.max_steps)
    columns = {"name": some.group_names, "count": some.group_counts, **bound._asdict()}
    columns |= {name: value for name, value in curvature_columns(curvature).items() if name.startswith("top_eigen")}
    return {"groups": columns}


def measure_expansion(before: Network, after: Network, data: Dataset) -> dict[str, Any]:
    """Measure what the change of the weights foretells of each group's loss, and what became of it.

    Args:
        before: the full network.
        after: what it became without training, so that nothing but the weights and the arithmetic changed.
        data: the images that the losses are of.

    Returns:
        The numbers of ``result.json``: terms to second order at ``before``, and the rise of the loss, in nats.
    """
    logits_fn, params, images, label, weights = _curvature_arguments(before, data)
    terms = taylor_terms(logits_fn, params, after.params, images, label, weights)
    loss = [losses.cross_entropy(jnp.asarray(predict(one, data)), data.label) for one in (before, after)]
    rise = groups.group_means(np.asarray(loss[1] - loss[0]), np.asarray(data.group), len(data.group_names))
    columns = {"name": data.group_names, "count": data.group_counts, "loss_rise": rise}
    columns |= {"first_term": terms.first, "second_term": terms.second}
    return {"parameter_distance": terms.distance, "groups": columns}


def _padded(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return arrays of unlike sizes as one, along a new first axis, padded by NaN."""
    found = np.full((len(arrays), *np.max([array.shape for array in arrays], axis=0)), np.nan)
    for row, array in zip(found, arrays, strict=True):
        row[tuple(map(slice, array.shape))] = array
    return found


def curvature_columns(curvature: GroupCurvature) -> dict[str, np.ndarray]:
    """Return what a record holds of it for each group."""
    return {
        "gradient_norm": curvature.gradient_norm,
        "top_eigenvalue": curvature.top_eigenvalue,
        "top_eigenvalue_residual": curvature.top_eigenvalue_residual,
        "top_eigenvalue_converged": curvature.converged,
        "hessian_products": curvature.steps,
    }


def _logits_of_images(network: Network, mean: Array, std: Array, params: Any, images: Array) -> Array:
    """Normalize inside the program: a whole split in float32 would take four times the memory of its images."""
    return frozen(network)(params, normalize(images, mean, std))


def _linearized_distance(network: Network, test: Dataset) -> np.ndarray:
    """L2 in pixel values from 0 to 1, so that it means the same whatever an image is normalized by."""
    classifier, chunk_size = Partial(_logits_of_pixels, network, test.mean, test.std), 128

    def distance(index: np.ndarray) -> np.ndarray:
        some = test.take(index)
        pixels = np.asarray(some.images, np.float32) / 255
        return np.asarray(margins.linearized_distance(classifier, pixels, some.label, chunk_size=chunk_size).distance)

    # A chunk for each device, which ``linearized_distance`` then shares out.
    return over_chunks(lambda _, found: found, (), distance, len(test), chunk_size * Devices().count)


def _logits_of_pixels(network: Network, mean: Array, std: Array, pixels: Array) -> Array:
    return network((pixels - mean) / std)
