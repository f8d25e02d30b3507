"""Images that stay on the host: the same results bit for bit, and never more than a batch on the device."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments.running.measure import measure
from experiments.running.settings import AnalysisConfig
from jaxfair.data import dataset as data
from jaxfair.data import splits
from jaxfair.linearize import snl
from jaxfair.loops import run_epoch
from jaxfair.networks.network import init, predict
from jaxfair.training.fit import fit
from tests.training.cases import CONFIG, MODULE, assert_same_bits

NAMES = ["a", "b", "c"]
LABEL = np.arange(44) % 3
GROUP = np.arange(44) // 2 % 3


class Watched(np.memmap):
    """A memory map that notes how many images are read at once."""

    seen: list[int]

    def __array_finalize__(self, other: Any) -> None:
        super().__array_finalize__(other)
        self.seen = getattr(other, "seen", [])

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        self.seen.append(len(np.atleast_1d(found)))
        return np.asarray(found)


@pytest.fixture
def images(tmp_path: Path) -> Watched:
    """Random images of three brightnesses in a file."""
    pixels = np.random.default_rng(0).integers(0, 120, (44, 8, 8, 3)) + 60 * LABEL[:, None, None, None]
    np.save(tmp_path / "images.npy", pixels.astype(np.uint8))
    return np.load(tmp_path / "images.npy", mmap_mode="r").view(Watched)


def make(images: np.ndarray | data.Rows, *, on_device: bool | None, label: np.ndarray = LABEL) -> data.Dataset:
    names: dict[str, Any] = {"name": "made", "class_names": NAMES, "group_names": NAMES}
    return data.make_dataset(images, label, GROUP[: len(label)], **names, on_device=on_device)


@pytest.fixture
def both(images: Watched, monkeypatch: pytest.MonkeyPatch) -> tuple[data.Dataset, data.Dataset]:
    """The same training images on the device and on the host, where four images are the most that is read at once."""
    monkeypatch.setattr(data, "BLOCK", 4 * 8 * 8 * 3)
    device = splits.split(make(np.asarray(images), on_device=True), 0.25, seed=0)[0]
    host = splits.split(make(data.Rows(images, np.arange(44)), on_device=False), 0.25, seed=0)[0]
    assert (device.on_host, host.on_host) == (False, True)
    return device, host


def assert_same_set(device: data.Dataset, host: data.Dataset) -> None:
    np.testing.assert_array_equal(host.images, device.images)
    for name in ("label", "group", "mean", "std"):
        np.testing.assert_array_equal(getattr(host, name), getattr(device, name))
    assert host.fingerprint() == device.fingerprint()
    assert (len(host), host.image_shape) == (len(device), device.image_shape)


def test_splits_and_shares_are_those_of_images_on_the_device(
    both: tuple[data.Dataset, data.Dataset], images: Watched
) -> None:
    thinned = [splits.thin(dataset, (0.5, 1, 1), seed=1) for dataset in both]
    again = [splits.with_training_statistics(dataset, dataset)[0].take(np.array([7, 0, 7])) for dataset in thinned]
    prints = [dataset.fingerprint() for dataset in (*thinned, *again)]
    assert prints[0] == prints[1] != prints[2] == prints[3]
    assert max(images.seen) == 4
    for device, host in (both, thinned, again):
        assert_same_set(device, host)
        assert isinstance(host.images, data.Rows)
        assert np.shares_memory(host.images.array, images)


def test_a_jitted_function_refuses_images_on_the_host(both: tuple[data.Dataset, data.Dataset]) -> None:
    function = jax.jit(lambda dataset, index: dataset.images[index])
    device, host = both
    np.testing.assert_array_equal(function(*host.fetch(np.array([5, 3]))), device.images[np.array([5, 3])])
    with pytest.raises(TypeError, match="Rows"):
        function(host, np.array([5, 3]))


@pytest.mark.parametrize("fused", [None, True, False])
def test_each_step_gets_what_was_fetched_for_it(fused: bool | None) -> None:
    """Also where an epoch would be one program."""

    def step(carry: Any, fixed: Any, x: Any) -> Any:
        return carry * fixed + x, carry

    xs = np.arange(1.0, 6.0, dtype=np.float32)
    options: dict[str, Any] = {"fused": fused, "fetch": lambda fixed, x: (fixed + x[0], x)}
    carry, seen = run_epoch(step, jax.numpy.float32(0), np.float32(2), xs, **options)
    np.testing.assert_array_equal([*seen, carry], [0, 1, 6, 33, 202, 1419])


@pytest.mark.parametrize("at_once", [1, 2])
def test_training_gives_the_same_bits(
    both: tuple[data.Dataset, data.Dataset], images: Watched, tmp_path: Path, at_once: int
) -> None:
    """Augmented, distilled, and with progress that either may go on from: the digest of the data is the same."""
    config, seeds = replace(CONFIG, distillation_weight=1.0, checkpoint_seconds=0.0), [0, 3]
    networks = [init(MODULE, (8, 8, 3), seed) for seed in seeds]
    teachers = [init(MODULE, (8, 8, 3), seed + 9) for seed in seeds]
    images.seen.clear()
    found = []
    for dataset, name in zip(both, ("device", "host"), strict=True):
        options: dict[str, Any] = {"seeds": seeds, "teachers": teachers, "at_once": at_once}
        folders = [tmp_path / name / str(seed) for seed in seeds]
        found.append(list(fit(networks, dataset, config, progress_dirs=folders, **options)))
    for device, host in zip(*found, strict=True):
        assert_same_bits(device.network, host.network)
        for name, values in device.history.items():
            np.testing.assert_array_equal(host.history[name], values)
    assert max(images.seen) == at_once * config.batch_size
    kept = [
        {path.relative_to(tmp_path / name) for path in (tmp_path / name).glob("*/*/*")} for name in ("device", "host")
    ]
    assert kept[0] == kept[1] != set()


def test_the_snl_descent_gives_the_same_bits(both: tuple[data.Dataset, data.Dataset], images: Watched) -> None:
    network = init(MODULE, (8, 8, 3), 0)
    config = snl.SnlConfig(batch_size=8, learning_rate=4e-3, kappa=1e-2, augment="cifar")
    images.seen.clear()
    device, host = ([*snl.snl(network, dataset, config, budgets=[100, 7], seed=0)] for dataset in both)
    for one, other in zip(device, host, strict=True):
        assert one[:2] == other[:2]
        assert_same_bits(one.network, other.network)
    assert set(images.seen) == {8}


@pytest.mark.parametrize("split", ["test", "train"])
def test_a_measurement_gives_the_same_bits(
    both: tuple[data.Dataset, data.Dataset], images: Watched, split: Any
) -> None:
    """Logits, gradients and curvature, whose chunks are normalised on the device."""
    full, network = (init(MODULE, (8, 8, 3), seed) for seed in (0, 1))
    config = AnalysisConfig(split=split, max_steps=4, chunk_size=8)
    images.seen.clear()
    device, host = (measure(network, full, dataset, dataset, config) for dataset in both)
    jax.tree.map(np.testing.assert_array_equal, host, device)
    assert 8 in images.seen


@pytest.mark.parametrize("size", [5, 1024])
def test_logits_have_the_same_bits(both: tuple[data.Dataset, data.Dataset], images: Watched, size: int) -> None:
    network = init(MODULE, (8, 8, 3), 0)
    images.seen.clear()
    device, host = (predict(network, dataset, batch_size=size) for dataset in both)
    np.testing.assert_array_equal(host, device)
    assert set(images.seen) == {min(size, 33)}


def test_images_stay_on_the_host_when_the_device_has_no_room(images: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    for fits in (True, False):
        asked = []
        monkeypatch.setattr(data, "fits_device", lambda n, fits=fits, asked=asked: asked.append(n) or fits)
        dataset = make(images, on_device=None)
        assert (dataset.on_host, asked) == (not fits, [44 * 8 * 8 * 3])
    assert_same_set(make(images, on_device=True), dataset)
    some = make(data.Rows(images, np.array([4, 2, 1, 5, 0])), on_device=True, label=LABEL[:5])
    np.testing.assert_array_equal(some.images, np.asarray(images)[[4, 2, 1, 5, 0]])


def test_what_fits_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a device less what is in use; a quarter of the machine if the device does not say."""
    monkeypatch.setattr(data.os, "sysconf", lambda name: {"SC_PHYS_PAGES": 100, "SC_PAGE_SIZE": 8}[name], raising=False)
    for stats, most in (({"bytes_limit": 1000, "bytes_in_use": 300}, 200), ({"bytes_limit": 1000}, 500), (None, 200)):
        monkeypatch.setattr(type(jax.devices()[0]), "memory_stats", lambda _, stats=stats: stats)
        assert [data.fits_device(n) for n in (most, most + 1)] == [True, False]
    monkeypatch.delattr(data.os, "sysconf")
    assert data.fits_device(10**18)


def test_the_memory_is_that_of_the_default_device() -> None:
    """In a process with two devices, of which the second is the smaller one."""
    code = (
        "import jax; from jaxfair.data.dataset import fits_device\n"
        "first, second = jax.devices()\n"
        "type(first).memory_stats = lambda device: {'bytes_limit': 200 if device == second else 400}\n"
        "found = [fits_device(150)]\n"
        "with jax.default_device(second): found.append(fits_device(150))\n"
        "with jax.default_device('cpu'): found.append(fits_device(150))\n"
        "print(found)"
    )
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.strip() == "[True, False, True]"
