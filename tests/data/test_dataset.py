"""Data sets: checked input, stratified splits, exact shares, reproducible batches."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfair.data import dataset as data
from jaxfair.data import splits
from jaxfair.errors import JaxfairError


def make_toy(label: Any, group: Any = None, num_classes: int = 2, num_groups: int = 2, **changes: Any) -> data.Dataset:
    """Make a set of 2x2 images whose pixel [0, 0] holds the position, with other pixels at random."""
    label = np.asarray(label)
    images = np.random.default_rng(0).integers(0, 256, (len(label), 2, 2, 1)).astype(np.uint8)
    images[:, 0, 0, 0] = np.arange(len(label))
    arguments = {
        "images": images,
        "label": label,
        "group": label % num_groups if group is None else np.asarray(group),
        "name": "toy",
        "class_names": [f"class{i}" for i in range(num_classes)],
        "group_names": [f"group{i}" for i in range(num_groups)],
    }
    return data.make_dataset(**(arguments | changes))


def positions(dataset: data.Dataset) -> list[int]:
    return np.asarray(dataset.images)[:, 0, 0, 0].tolist()


LABEL = np.repeat([0, 1], [60, 40])
GROUP = np.tile([0, 0, 0, 1], 25)  # each class has one image of group 1 in four


def test_statistics_are_those_of_numpy() -> None:
    """On the scale of [0, 1], rounded to float32."""
    images = np.random.default_rng(1).integers(0, 256, (5, 4, 3, 3)).astype(np.uint8)
    mean, std = data.channel_statistics(images)
    assert (mean.dtype, std.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 1, 2)), rtol=1e-7)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 1, 2)), rtol=1e-7)


def test_a_constant_channel_normalizes_to_zero() -> None:
    dataset = make_toy([0, 1], images=np.full((2, 2, 2, 3), 7, np.uint8))
    np.testing.assert_array_equal(dataset.std, 1)
    np.testing.assert_allclose(dataset.normalize(dataset.images), 0, atol=1e-7)


def test_normalize_standardizes_the_set() -> None:
    """400 float32 pixels of size at most 2."""
    dataset = make_toy(LABEL)
    pixels = np.asarray(dataset.normalize(dataset.images), np.float64)
    assert (len(dataset), dataset.image_shape) == (100, (2, 2, 1))
    np.testing.assert_allclose((pixels.mean(), pixels.std()), (0, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": np.zeros((4, 2, 2, 1))}, r"type float64 and shape \(4, 2, 2, 1\); expected uint8"),
        ({"images": np.zeros((4, 2, 2), np.uint8)}, r"shape \(4, 2, 2\); expected uint8 of shape"),
        ({"images": np.zeros((4, 1, 2, 2), np.uint8)}, "1 or 3"),
        ({"label": np.array([0.0, 1, 0, 1])}, "labels of 'toy' have type float64.* expected 4 integers"),
        ({"group": np.array([0, 1, 0])}, r"groups of 'toy' have .* shape \(3,\); expected 4"),
        ({"label": np.array([[0], [1], [0], [1]])}, r"shape \(4, 1\); expected 4"),
        ({"label": np.array([0, 1, 2, 1])}, "labels of 'toy' run from 0 to 2; expected 0 to 1"),
        ({"label": np.array([0, 1, -1, 1])}, "labels of 'toy' run from -1 to 1"),
        ({"group": np.array([0, 1, 5, 1])}, "groups of 'toy' run from 0 to 5"),
        ({"group": np.array([True, False, True, True])}, "groups of 'toy' have type bool"),
        ({"group": np.array([1, 1, 1, 1])}, "'toy' has no sample of group group0"),
        ({"images": np.zeros((0, 2, 2, 1), np.uint8), "label": [], "group": []}, "float64.* expected 0 integers"),
        ({"label": np.zeros(0, int)}, "no sample of group group0, group1"),
        ({"group_names": ["x", "x"]}, "have one name among x, x; give each"),
    ],
)
def test_make_dataset_refuses(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(JaxfairError, match=words):
        make_toy(**{"label": [0, 1, 0, 1], **changes})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("statistics", "words"),
    [
        ((np.zeros(3), np.ones(3)), r"shapes \(3,\) and \(3,\); give .* of each of the 1 channels"),
        ((np.zeros(1), np.zeros(1)), "a deviation above 0"),
        ((np.zeros(1),), "There are 1 statistics"),
        (([0.5], [np.nan]), "give a finite mean and a deviation above 0 of each of the 1 channels"),
        (("a", "b"), "The statistics of the channels are one str; give an array or a list of them"),
        ((np.full(1, 125.3), np.full(1, 63.0)), "means go up to 125.3 and their deviations to 63; .* divide"),
    ],
)
def test_make_dataset_refuses_statistics_that_are_none_of_its_channels(statistics: Any, words: str) -> None:
    images, label = np.zeros((4, 2, 2, 1), np.uint8), np.arange(4) % 2
    names: dict[str, Any] = {"name": "toy", "class_names": [*"ab"], "group_names": [*"cd"]}
    with pytest.raises(JaxfairError, match=words):
        data.make_dataset(images, label, label, **names, statistics=statistics)


@pytest.mark.parametrize("what", ["images", "labels", "groups"])
def test_make_dataset_refuses_what_is_masked(what: str) -> None:
    given: dict[str, Any] = {"images": np.zeros((4, 2, 2, 1), np.uint8), "labels": np.arange(4) % 2}
    given["groups"] = given["labels"]
    given[what] = np.ma.array(given[what], mask=np.zeros(given[what].shape, bool))
    given[what][0] = np.ma.masked
    with pytest.raises(JaxfairError, match=f"of the {what} of 'toy' are masked"):
        data.make_dataset(*given.values(), name="toy", class_names=[*"ab"], group_names=[*"cd"])


def test_split_is_stratified_disjoint_and_whole() -> None:
    """Every class-and-group cell gives a fifth to the test set: 45 + 15 and 30 + 10 images, all divisible by 5."""
    train, test = splits.split(make_toy(LABEL, GROUP), 0.2, seed=0)
    assert sorted(positions(train) + positions(test)) == list(range(100))
    for dataset, share in ((train, 4), (test, 1)):
        cells = np.bincount(np.asarray(dataset.label) * 2 + np.asarray(dataset.group))
        assert cells.tolist() == [9 * share, 3 * share, 6 * share, 2 * share]
        index = positions(dataset)
        np.testing.assert_array_equal(dataset.label, LABEL[index])
        np.testing.assert_array_equal(dataset.group, GROUP[index])


def test_split_depends_on_the_seed_only() -> None:
    first, again, other = (positions(splits.split(make_toy(LABEL, GROUP), 0.2, seed)[1]) for seed in (0, 0, 1))
    assert first == again != other


def test_split_takes_statistics_from_training_images_only() -> None:
    whole = make_toy(LABEL, GROUP)
    train, test = splits.split(whole, 0.2, seed=0)
    expected = data.channel_statistics(np.asarray(train.images))
    assert expected[0] != np.asarray(whole.mean)
    for dataset in (train, test):
        np.testing.assert_array_equal((dataset.mean, dataset.std), expected)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_split_refuses_a_share_that_is_none(fraction: float) -> None:
    with pytest.raises(JaxfairError, match=f"fraction is {fraction}; give one between 0 and 1"):
        splits.split(make_toy(LABEL), fraction, seed=0)


def test_split_refuses_a_cell_of_one_image() -> None:
    with pytest.raises(JaxfairError, match="'toy' has one image only of class 'class1' in group 'group1'"):
        splits.split(make_toy([0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1]), 0.5, seed=0)


@settings(max_examples=20)  # each length of the result compiles a gather
@given(st.floats(0.05, 1), st.floats(0, 1), st.integers(0, 100))
def test_thin_keeps_exact_shares(first: float, second: float, seed: int) -> None:
    whole = make_toy(LABEL, np.zeros(100, int), num_groups=1)
    thinned = splits.thin(whole, (first, second), seed)
    expected = [round(first * 60), round(second * 40)]
    assert np.bincount(np.asarray(thinned.label), minlength=2).tolist() == expected
    assert positions(thinned) == sorted(set(positions(thinned)))
    np.testing.assert_array_equal(thinned.mean, whole.mean)


def test_thin_by_group() -> None:
    thinned = splits.thin(make_toy(LABEL, GROUP), (0.2, 1), seed=0, by="group")
    assert thinned.group_counts.tolist() == [15, 25]


def test_thin_is_seeded_and_nested() -> None:
    """The same seed keeps a larger share of the same images, so that studies over the share differ in it alone."""
    small, large, other = (
        positions(splits.thin(make_toy(LABEL), fractions, seed))
        for fractions, seed in (((0.2, 1), 0), ((0.4, 1), 0), ((0.2, 1), 1))
    )
    assert set(small) < set(large)
    assert small != other


@pytest.mark.parametrize(
    ("fractions", "words"),
    [
        ((0.5,), "expected 2 numbers between 0 and 1, one for each label of 'toy'"),
        ((0.5, 1.5), "expected 2 numbers"),
        ((-0.1, 1), "expected 2 numbers"),
        ((float("nan"), 1), "expected 2 numbers"),
        ((0, 1), "thinned data set 'toy' has no sample of group group0"),
        ((0.001, 0.001), "no sample of group group0, group1"),
    ],
)
def test_thin_refuses(fractions: tuple[float, ...], words: str) -> None:
    with pytest.raises(JaxfairError, match=words):
        splits.thin(make_toy(LABEL), fractions, seed=0)


@given(st.integers(1, 40), st.integers(0, 10), st.integers(0, 2**31), st.integers(0, 1000))
def test_epoch_order_is_a_permutation_without_remainder(batch_size: int, more: int, seed: int, epoch: int) -> None:
    num_examples = batch_size + more
    order = splits.epoch_order(num_examples, batch_size, seed, epoch)
    assert (order.shape, order.dtype) == ((num_examples // batch_size, batch_size), np.int32)
    assert len(np.unique(order)) == order.size
    assert set(order.ravel()) <= set(range(num_examples))
    np.testing.assert_array_equal(order, splits.epoch_order(num_examples, batch_size, seed, epoch))


def test_epoch_order_differs_between_epochs_and_seeds() -> None:
    """The images left out differ as well: in 30 epochs, 100 of 103 images each, none is always left out."""
    orders = [splits.epoch_order(103, 20, seed, epoch) for seed in (0, 1) for epoch in range(30)]
    assert len({order.tobytes() for order in orders}) == 60
    assert set(np.concatenate(orders[:30]).ravel()) == set(range(103))


@pytest.mark.parametrize("batch_size", [0, -1, 11])
def test_epoch_order_refuses_a_batch_that_does_not_fit(batch_size: int) -> None:
    with pytest.raises(JaxfairError, match=f"batch size is {batch_size}, but there are 10 images"):
        splits.epoch_order(10, batch_size, seed=0, epoch=0)


def test_augment_yields_crops_of_the_padded_image() -> None:
    """Every output is one of the 81 x 2 crops, 400 draws reach nearly all of them, and half are mirrored."""
    image = np.arange(1, 51, dtype=np.uint8).reshape(5, 5, 2)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    plain = [padded[i : i + 5, j : j + 5] for i in range(9) for j in range(9)]
    crops = {crop.tobytes(): (k, m) for k, c in enumerate(plain) for m, crop in enumerate((c, c[:, ::-1]))}
    assert len(crops) == 162
    images = jnp.asarray(np.tile(image, (400, 1, 1, 1)))
    found = [crops[np.asarray(out).tobytes()] for out in data.augment(images, "cifar", jax.random.key(0))]
    # 81 offsets, 400 draws: 81 exp(-400 / 81) = 0.6 of them are missed on average.
    assert len({k for k, _ in found}) >= 76
    # Four standard deviations of 400 fair coins.
    assert abs(sum(m for _, m in found) - 200) <= 40


def test_augment_depends_on_the_key_and_none_changes_nothing() -> None:
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (8, 6, 6, 1)).astype(np.uint8))
    first, again, other = (data.augment(images, "cifar", jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (np.asarray(first) != np.asarray(other)).any()
    np.testing.assert_array_equal(data.augment(images, "none", jax.random.key(0)), images)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: {"images": d.images.at[3, 1, 1, 0].add(1)},
        lambda d: {"label": d.label.at[0].set(1)},
        lambda d: {"group": d.group.at[0].set(1)},
        lambda d: {"mean": d.mean + 1e-6},
        lambda d: {"std": d.std + 1e-6},
        lambda d: {"images": d.images.reshape(-1, 1, 4, 1)},
    ],
)
def test_fingerprint_changes_with_the_content(change: Callable[[data.Dataset], dict[str, Any]]) -> None:
    dataset = make_toy(LABEL, GROUP)
    assert dataset.fingerprint() == make_toy(LABEL, GROUP).fingerprint()
    assert dataclasses.replace(dataset, **change(dataset)).fingerprint() != dataset.fingerprint()


def test_a_data_set_passes_through_jit() -> None:
    """Names are static, arrays are not: another seed's split does not compile again."""
    traces = []

    @jax.jit
    def take_class(dataset: data.Dataset, index: jax.Array) -> tuple[data.Dataset, jax.Array]:
        traces.append(len(dataset))
        return dataset, dataset.normalize(dataset.images[index])

    for seed in (0, 1):
        train, _ = splits.split(make_toy(LABEL, GROUP), 0.2, seed)
        same, images = take_class(train, jnp.array([2, 0]))
        assert (same.name, same.group_names, same.fingerprint()) == ("toy", ("group0", "group1"), train.fingerprint())
        np.testing.assert_allclose(images, train.normalize(train.take(np.array([2, 0])).images), rtol=1e-6, atol=1e-6)
    assert traces == [80]


@pytest.mark.parametrize("on_device", [True, False])
def test_positions_are_those_of_images(on_device: bool) -> None:
    """JAX would take the last image for one that is not there."""
    images = np.arange(48, dtype=np.uint8).reshape(3, 4, 4, 1)
    names, of = ("a", "b", "c"), np.arange(3)
    some = data.make_dataset(images, of, of, name="few", class_names=names, group_names=names, on_device=on_device)
    np.testing.assert_array_equal(some.take([2, 0]).label, [2, 0])
    for position in (3, -4):
        with pytest.raises(JaxfairError, match=f"There is no image {position}; there are 3"):
            some.take(np.array([0, position]))
    with pytest.raises(JaxfairError, match="Positions have type bool; give whole numbers"):
        some.take(np.array([True, False, True]))
    with pytest.raises(JaxfairError, match="1 of the positions are masked"):
        some.take(np.ma.masked_equal([1, 2, 0], 2))
