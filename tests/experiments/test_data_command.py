"""The command that describes and prepares data sets, and what a study records of its data."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.data.__main__ import main
from experiments.running import datasets
from experiments.running.settings import DataConfig
from jaxfair.data import sources
from jaxfair.errors import JaxfairError
from tests.faces import own_places, utkface


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_places(tmp_path, monkeypatch)


def mine(path: Path) -> Path:
    """Write an npz file with two groups, one of 200 images and one of 40, in which one image in four smiles."""
    label, group = np.arange(240) % 4 == 0, np.repeat(["many", "few"], [200, 40])
    images = np.random.default_rng(0).integers(0, 256, (240, 6, 6, 3), dtype=np.uint8)
    np.savez(path, images=images, label=np.where(label, "smile", "frown"), group=group)
    return path


def test_describe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = mine(tmp_path / "mine.npz"), tmp_path / "pictures" / "mine.png"
    assert main(["describe", "npz", "--path", str(path), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert f"npz in {path}" in text
    assert "192 training and 48 test images of 6x6x3, split by class and group, 20 % test, seed 0" in text
    rows = {line.split("  ")[0]: line.split()[1:] for line in text.splitlines() if line.startswith(("few", "many"))}
    # Train and test of the group; then by class. Wilson's interval of 80 % on 8 and on 40 images.
    assert rows == {
        "few": ["32", "8", "24", "8", "6", "2", "45", "to", "95", "%"],
        "many": ["160", "40", "120", "40", "30", "10", "65", "to", "90", "%"],
    }
    assert "Warning: too few test images of few, many:" in text
    assert out.stat().st_size > 1000


def test_a_contact_sheet_among_the_images_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It would be one of them the next time."""
    for name in ("cat", "dog"):
        (tmp_path / "mine" / name).mkdir(parents=True)
    out = tmp_path / "mine" / "cat" / "sheet.png"
    assert main(["describe", "folder", "--path", str(tmp_path / "mine"), "--out", str(out)]) == 1
    assert f"The contact sheet '{out}' would be one of the images that it shows;" in capsys.readouterr().err


def test_any_name_of_a_group_is_drawn_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = np.zeros((40, 6, 6, 3), np.uint8)
    np.savez(tmp_path / "$a_{$.npz", images=images, label=np.arange(40) % 2, group=np.repeat(["$5-$10", "$x_{$"], 20))
    out = tmp_path / "sheet.png"
    assert main(["describe", "npz", "--path", str(tmp_path / "$a_{$.npz"), "--out", str(out)]) == 0
    assert out.stat().st_size > 1000
    assert "Traceback" not in capsys.readouterr().err


def test_what_is_kept_for_training_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = mine(tmp_path / "mine.npz")
    datasets.prepare(DataConfig("npz", path=path, keep=(0.3,)))
    assert "kept of the training images: 30 % (--data.keep)" in capsys.readouterr().err
    datasets.prepare(DataConfig("npz", path=path))
    assert "--data.keep" not in capsys.readouterr().err


@pytest.mark.parametrize(("bits", "dark"), [(12, True), (14, True), (16, False)])
def test_images_that_are_nearly_black_are_said_to_be(bits: int, dark: bool, tmp_path: Path) -> None:
    """A camera's 12 bits in files of 16 are a sixteenth of the range."""
    rng = np.random.default_rng(0)
    for name in ("cat/1", "cat/2", "dog/1", "dog/2"):
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        values = rng.integers(0, 2**bits, (16, 16), dtype=np.uint16)
        values[0, 0] = 2**bits - 1
        Image.fromarray(values).save(tmp_path / "mine" / f"{name}.png")
    config = DataConfig("folder", path=tmp_path / "mine", size=16)
    said = [line for line in datasets.origin(datasets.load(config), config) if line.startswith("warning: ")]
    assert len(said) == dark
    if dark:
        assert f"no pixel of any image is above {2 ** (bits - 8)} of 255, as where 12 bits are stored in" in said[0]


def test_describe_says_when_the_group_is_the_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    utkface(tmp_path / "data" / "UTKFace.zip")
    out = str(tmp_path / "sheet.png")
    assert main(["describe", "utkface-gender", "--out", out, "--test-fraction", "0.4"]) == 0
    printed = capsys.readouterr()
    assert "The group is the class." in printed.out
    assert "UTKFace, 10-image subset, utkface in" in printed.out
    assert "decode images" in printed.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["describe", "digit"], "no data set 'digit'; did you mean 'digits'"),
        (["describe", "digits", "--out", "sheet.csv"], "ends in .png"),
        (["describe", "digits", "--path", "x.zip"], "'digits' takes no path"),
        (
            ["describe", "digits", "--keep-in-test"],
            "All images of 'digits' are kept; give shares as keep too, or leave k",
        ),
        (["describe", "digits", "--keep-by", "group"], "are kept; give shares as keep too, or leave keep-by out."),
        (["descibe", "digits"], "no command 'descibe'; did you mean 'describe'"),
        (["describe", "npz"], "has no path"),
        (["prepare", "cifar10", "--path", "x"], "only utkface can"),
        (["prepare", "utkface", "--path", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_answered_by_one_sentence(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert error.count("\n") == 1


def test_help_names_the_sets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in sources.NAMES)


def test_prepare_writes_what_the_studies_find(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = utkface(tmp_path / "mine.zip")
    assert main(["prepare", "utkface", "--path", str(path)]) == 0
    assert "Prepared: " in capsys.readouterr().out
    assert sources.load("utkface-race").origin.startswith("tfds in ")


@pytest.mark.parametrize("place", ["file", "file/sets"])
def test_a_file_in_the_place_of_a_folder_is_refused_before_the_images_are_looked_for(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["prepare", "utkface", "--path", "nowhere", "--out", str(tmp_path / place)]) == 1
    why = "there is a file where a folder is needed; choose another folder with --out."
    assert capsys.readouterr().err == f"error: '{tmp_path / place}' cannot be written: {why}\n"


def test_the_record_says_what_the_data_is_and_not_where_it_lay(tmp_path: Path) -> None:
    """Equal records make runs shareable; a moved file changes nothing."""
    one, two = mine(tmp_path / "mine.npz"), tmp_path / "elsewhere" / "renamed.npz"
    two.parent.mkdir()
    two.write_bytes(one.read_bytes())
    records = [datasets.prepare(DataConfig("npz", path=path))[2] for path in (one, two)]
    text = [str(record) for record in records]
    assert text[0] == text[1]
    assert str(tmp_path) not in text[0]
    assert records[0]["name"] == "npz"
    assert not records[0]["official_test_set"]
    digits = tmp_path / "digits.npz"
    np.savez(digits, images=np.zeros((40, 6, 6, 3), np.uint8), label=np.tile(["1.0", "2", "1", "2.0"], 10))
    assert "numeric" not in records[0]  # which the records of older runs do not have
    assert datasets.prepare(DataConfig("npz", path=digits, numeric=("label",)))[2]["numeric"] == ("label",)
    assert datasets.prepare(DataConfig("npz", path=one, seed=1))[2] != records[0]


def test_a_named_imbalance_thins_the_training_set_only() -> None:
    train_set, test_set, *_ = datasets.prepare(DataConfig("digits-imbalanced", test_fraction=0.25))
    whole, *_ = datasets.prepare(DataConfig("digits", test_fraction=0.25))
    shares = train_set.group_counts / whole.group_counts
    np.testing.assert_allclose(shares, [0.9] * 5 + [0.1] * 5, atol=0.01)
    assert len(test_set) == 450
    mine = datasets.prepare(DataConfig("digits-imbalanced", test_fraction=0.25, keep=(0.5,) * 10))[0]
    np.testing.assert_allclose(mine.group_counts / whole.group_counts, 0.5, atol=0.01)


def test_one_share_multiplies_those_of_a_named_imbalance() -> None:
    """So that a preset thins such a set, and leaves the imbalance that it is named for."""
    config = DataConfig("digits-imbalanced", test_fraction=0.25, keep=(0.5,))
    prepared = datasets.prepare(config)
    assert prepared.record["keep"] == (0.45,) * 5 + (0.05,) * 5
    whole = datasets.prepare(DataConfig("digits", test_fraction=0.25)).train
    shares = prepared.train.group_counts / whole.group_counts
    np.testing.assert_allclose(shares, prepared.record["keep"], atol=0.01)
    said = datasets.origin(sources.load("digits-imbalanced"), config)[-1]
    assert said == "kept of the training images: 45 %, 5 %, 50 % of what 'digits-imbalanced' keeps (--data.keep)"


def test_training_data_can_be_balanced_and_the_imbalance_swapped(tmp_path: Path) -> None:
    """As many in all as before, on the same test images; the data as they are have the record that they had."""
    config = DataConfig("digits-imbalanced", test_fraction=0.25, seed=3)
    plain, balanced, swapped = (
        datasets.prepare(dataclasses.replace(config, rebalance=kind)) for kind in (None, "balanced", "swapped")
    )
    whole = datasets.prepare(dataclasses.replace(config, name="digits")).train
    assert "rebalance" not in plain.record
    said = [{n: v for n, v in p.record.items() if n not in ("train_count", "fingerprint")} for p in (balanced, plain)]
    assert str(sorted(said[0].items())) == str(sorted({**said[1], "rebalance": "balanced"}.items()))
    assert set(balanced.train.group_counts) == {len(plain.train) // 10}
    for kind, fold in (("fivefold", 5), ("tenfold", 10)):
        counts = datasets.prepare(dataclasses.replace(config, rebalance=kind)).train.group_counts
        assert set(counts[5:]) == {len(plain.train) // (5 * fold + 5)}
        assert set(counts[:5]) == {fold * counts[5]}
    np.testing.assert_allclose(swapped.train.group_counts / whole.group_counts, [0.1] * 5 + [0.9] * 5, atol=0.01)
    for other in (balanced, swapped):
        np.testing.assert_array_equal(other.test.images, plain.test.images)
        np.testing.assert_array_equal(other.test.mean, other.train.mean)  # of the images that it is trained on
        assert (other.test.mean != plain.test.mean).all()
    data = {"images": np.arange(120 * 48, dtype=np.uint8).reshape(120, 4, 4, 3), "label": np.arange(120) // 2 % 2}
    np.savez(tmp_path / "x.npz", **data, group=np.repeat([0, 1, 2], [60, 40, 20]))
    mine = DataConfig("npz", path=tmp_path / "x.npz")
    for kind, counts in (("fivefold", [30, 30, 6]), ("tenfold", [30, 30, 3])):  # of 48, 32 and 16: all but the second
        assert datasets.prepare(dataclasses.replace(mine, rebalance=kind)).train.group_counts.tolist() == counts
    even = dataclasses.replace(mine, keep_by="group", keep=(1 / 3, 0.5, 1.0), rebalance="fivefold")
    with pytest.raises(JaxfairError, match="'npz' has no small groups, all have 16 training images; give shares"):
        datasets.prepare(even)
    few = dataclasses.replace(mine, keep_by="group", keep=(0.1, 0.15, 0.05), rebalance="tenfold")
    with pytest.raises(JaxfairError, match="too few for tenfold: none would be left of a small group"):
        datasets.prepare(few)
    assert datasets.prepare(dataclasses.replace(mine, rebalance="balanced")).train.group_counts.tolist() == [16] * 3
    with pytest.raises(JaxfairError, match="cannot be swapped: its small groups have too few"):
        datasets.prepare(dataclasses.replace(mine, rebalance="swapped"))
    with pytest.raises(JaxfairError, match="leave the large groups of 'npz' large"):
        datasets.prepare(dataclasses.replace(mine, rebalance="swapped", keep_by="group", keep=(1.0, 0.9, 0.8)))


@pytest.mark.parametrize("kind", ["balanced", "fivefold"])
def test_a_class_that_is_lost_where_groups_are_thinned_is_named(kind: Any, tmp_path: Path) -> None:
    """One that is rare in a large group; the test images have it."""
    number = np.arange(400)
    label, group = np.where(number % 100 == 1, 2, number % 2), np.where(number % 20 == 0, "small", "large")
    images = np.random.default_rng(0).integers(0, 256, (400, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=images, label=label, group=group)
    config = DataConfig("npz", path=tmp_path / "x.npz", seed=1)
    assert set(datasets.prepare(config).train.label.tolist()) == {0, 1, 2}
    with pytest.raises(JaxfairError, match="The training images of 'x' hold none of class 2, of which the other part"):
        datasets.prepare(dataclasses.replace(config, rebalance=kind))


def test_one_share_is_that_of_every_class_or_group(tmp_path: Path) -> None:
    """So that presets fit any data; runs that named all shares are found again."""
    one, every = (DataConfig("digits", test_fraction=0.25, keep=keep) for keep in ((0.5,), (0.5,) * 10))
    assert str(datasets.prepare(one).record) == str(datasets.prepare(every).record)
    data = {"images": np.arange(120 * 48, dtype=np.uint8).reshape(120, 4, 4, 3), "label": np.arange(120) % 2}
    np.savez(tmp_path / "x.npz", **data, group=np.arange(120) // 2 % 3)
    config = DataConfig("npz", path=tmp_path / "x.npz", keep=(0.5,))
    for by, count in (("label", 2), ("group", 3)):
        prepared = datasets.prepare(dataclasses.replace(config, keep_by=by))
        assert prepared.record["keep"] == (0.5,) * count
        assert len(prepared.train) == 48
    with pytest.raises(JaxfairError, match="expected 2 numbers"):
        datasets.prepare(dataclasses.replace(config, keep=(0.5, 0.5, 0.5)))


def test_the_same_groups_are_large_for_every_seed(tmp_path: Path) -> None:
    """Of which one has about the average: what is thinned at random leaves it now more, now less."""
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1, 2, 3], [600, 400, 380, 170])
    images = rng.integers(0, 256, (len(group), 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=images, label=rng.integers(0, 2, len(group)), group=group)
    config = DataConfig("npz", path=tmp_path / "x.npz", keep=(0.3,), keep_by="label")
    as_they_are = [datasets.prepare(dataclasses.replace(config, seed=seed)).train.group_counts for seed in range(8)]
    assert len({tuple(counts >= counts.mean()) for counts in as_they_are}) > 1, "so that a seed alone would not do"
    each = [dataclasses.replace(config, seed=seed, rebalance="tenfold") for seed in range(8)]
    found = [datasets.prepare(of_seed).train.group_counts for of_seed in each]
    assert {tuple(counts // counts.min()) for counts in found} == {(10, 10, 1, 1)}
