"""Named data sets and the user's own: where they are found, what becomes of them, and what is refused."""

import dataclasses
import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet
from sklearn.datasets import load_digits

from jaxfair.data import dataset, images, sources, splits, tfds
from jaxfair.data.config import SourceConfig
from jaxfair.errors import JaxfairError
from tests.faces import AGES, jpeg, own_places, utkface
from tests.real_data import needs


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the cache, the data directory and TFDS's folders into a temporary folder; return the data directory."""
    return own_places(tmp_path, monkeypatch)


def test_digits_are_those_of_scikit_learn() -> None:
    """Grey levels 0 to 16 become 0 to 255, to the nearest level; nothing else changes."""
    dataset = sources.digits()
    bunch: Any = load_digits()
    assert dataset.images.shape == (1797, 8, 8, 1)
    np.testing.assert_allclose(
        np.asarray(dataset.images[..., 0]) * (16 / 255), bunch.images, rtol=0, atol=0.5 * 16 / 255
    )
    assert len(np.unique(dataset.images)) == 17
    np.testing.assert_array_equal(dataset.label, bunch.target)


def test_the_group_of_a_digit_is_its_class() -> None:
    dataset = sources.digits()
    np.testing.assert_array_equal(dataset.group, dataset.label)
    assert dataset.class_names == dataset.group_names == tuple("0123456789")
    # As scikit-learn's description and the UCI page of the set have it.
    assert dataset.group_counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_digits_by_name() -> None:
    loaded = sources.load("digits")
    assert (loaded.train.name, loaded.train.fingerprint()) == ("digits", sources.digits().fingerprint())
    assert loaded.keep == ()
    loaded = sources.load("digits-imbalanced")
    assert loaded.keep == (0.9,) * 5 + (0.1,) * 5
    thinned, whole = loaded.split()[0].group_counts, loaded.split(keep=())[0].group_counts
    np.testing.assert_array_equal(thinned, loaded.split(keep=loaded.keep)[0].group_counts)
    np.testing.assert_allclose(thinned / whole, loaded.keep, rtol=0.1)
    train_set, test_set = loaded.split(test_fraction=0.25, seed=3, keep=())
    assert (len(train_set), len(test_set)) == (1347, 450)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("utkface-age", {"2-12": 2, "13-17": 2, "18-64": 3, "65+": 2}),
        ("utkface-age5", {"0-1": 1, "2-12": 2, "13-17": 2, "18-64": 3, "65+": 2}),
        ("utkface-race", {"White": 2, "Black": 2, "Asian": 2, "Indian": 2, "Other": 2}),
        ("utkface-gender", {"male": 5, "female": 5}),
    ],
)
def test_the_protocols_of_utkface(places: Path, name: str, counts: dict[str, int]) -> None:
    utkface(places / "UTKFace.zip")
    loaded = sources.load(name)
    train = loaded.train
    assert loaded.test is None
    assert train.name == name
    assert train.image_shape == (32, 32, 3)
    assert dict(zip(train.group_names, train.group_counts.tolist(), strict=True)) == counts
    assert train.class_names == train.group_names
    np.testing.assert_array_equal(train.label, train.group)
    assert str(places / "UTKFace.zip") in loaded.origin


def test_pixels_are_those_of_pillow(tmp_path: Path) -> None:
    """Stretched to a square by Pillow's bilinear filter, in the order of the files' names."""
    path = utkface(tmp_path / "faces.zip")
    found = sources.load(SourceConfig("utkface-gender", path=path, size=24)).train.images
    with zipfile.ZipFile(path) as archive:
        for i, name in enumerate(sorted(archive.namelist())):
            expected = Image.open(io.BytesIO(archive.read(name))).resize((24, 24), Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(found[i], np.asarray(expected))


def test_another_label_and_intersections_as_groups(places: Path) -> None:
    utkface(places / "UTKFace.zip")
    config = SourceConfig("utkface-race", label=("gender",), group=("gender", "age"), drop=("age=0-1",))
    train = sources.load(config).train
    assert train.class_names == ("male", "female")
    assert train.group_counts.sum() == 9
    assert "female & 2-12" in train.group_names


def test_images_are_decoded_once(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And again when the size or the files change."""
    path, calls = utkface(places / "UTKFace.zip"), []
    real = images.decode_all

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return real(*arguments, **options)

    monkeypatch.setattr("jaxfair.data.sources.decode_all", counted)
    first = sources.load("utkface-race").train
    again = sources.load("utkface-age5").train
    assert len(calls) == 1
    np.testing.assert_array_equal(np.asarray(first.images), np.asarray(again.images))
    sources.load(SourceConfig("utkface-race", size=16))
    assert len(calls) == 2
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("UTKFace/30_0_0_20170109000000000.jpg.chip.jpg", jpeg(99))
    assert len(sources.load("utkface-race").train) == 11
    assert len(calls) == 3


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("keep", [(), (0.6, 1)])
def test_statistics_are_computed_once_of_the_images_that_are_trained_on(
    tmp_path: Path, official: bool, keep: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 2, 2, 3), dtype=np.uint8)
    parts: dict[str, Any] = {"split": np.array(["train", "test"])[np.arange(60) // 2 % 2]} if official else {}
    np.savez(tmp_path / "mine.npz", images=pixels, label=np.arange(60) % 2, **parts)
    loaded = sources.load(SourceConfig("npz", path=tmp_path / "mine.npz"))
    seen = []

    def counted(images: Any) -> Any:
        seen.append(len(images))
        return dataset.channel_statistics(images)

    monkeypatch.setattr(splits, "channel_statistics", counted)
    train, test = loaded.split(test_fraction=0.5, keep=keep)
    assert seen == [len(train)] == [24 if keep else 30]
    expected = dataset.channel_statistics(train.images)
    for part in (train, test):
        np.testing.assert_array_equal((part.mean, part.std), expected)
    again = splits.thin(train, (1, 1), seed=0)
    assert splits.with_training_statistics(again, again)[0].fingerprint() == train.fingerprint()
    whole = loaded.train
    np.testing.assert_array_equal((whole.mean, whole.std), dataset.channel_statistics(whole.images))
    assert loaded.official == official
    if official:
        assert loaded.test is not None
        np.testing.assert_array_equal((loaded.test.mean, loaded.test.std), (whole.mean, whole.std))


def test_shares_may_be_kept_in_the_test_set_too_and_by_group(tmp_path: Path) -> None:
    pixels = np.zeros((80, 2, 2, 1), np.uint8)
    np.savez(tmp_path / "mine.npz", images=pixels, label=np.arange(80) % 2, group=np.arange(80) // 2 % 2)
    loaded = sources.load(SourceConfig("npz", path=tmp_path / "mine.npz"))
    for in_test, counts in ((False, [10, 10]), (True, [2, 10])):
        parts = loaded.split(0.25, keep=(0.2, 1), keep_by="group", keep_in_test=in_test)
        assert [part.group_counts.tolist() for part in parts] == [[6, 30], counts]


def test_a_class_that_is_not_kept_in_training_is_refused(tmp_path: Path) -> None:
    """Unless the test set is thinned by the same shares."""
    pixels = np.zeros((90, 2, 2, 1), np.uint8)
    np.savez(tmp_path / "mine.npz", images=pixels, label=np.arange(90) % 3, group=np.arange(90) // 3 % 2)
    loaded = sources.load(SourceConfig("npz", path=tmp_path / "mine.npz"))
    with pytest.raises(JaxfairError, match=r"training images of 'mine' hold none of class 1, .* the other part has 6;"):
        loaded.split(keep=(1, 0, 1))
    train, test = loaded.split(keep=(1, 0, 1), keep_in_test=True)
    assert set(train.label.tolist()) == set(test.label.tolist()) == {0, 2}


def test_a_named_path_comes_before_the_data_directory_and_that_before_tfds(places: Path, tmp_path: Path) -> None:
    mine = utkface(tmp_path / "mine.zip")
    tfds.prepare(mine, places / "tfds")
    assert sources.load("utkface-race").origin.startswith("tfds in ")
    utkface(places / "UTKFace.zip")
    assert sources.load("utkface-race").origin == f"utkface in {places / 'UTKFace.zip'}"
    assert sources.load(SourceConfig("utkface-race", path=mine)).origin == f"utkface in {mine}"


def test_tfds_and_the_official_files_give_the_same_set(places: Path, tmp_path: Path) -> None:
    mine = utkface(tmp_path / "mine.zip")
    official = sources.load(SourceConfig("utkface-age", path=mine)).train
    folder = tfds.prepare(mine, places / "tfds")
    for prepared in (sources.load("utkface-age"), sources.load(SourceConfig("utkface-age", path=folder))):
        assert prepared.train.class_names == official.class_names
        key = [np.asarray(d.images).reshape(len(d), -1) for d in (prepared.train, official)]
        orders = [np.lexsort(k.T) for k in key]  # tfds shuffles
        np.testing.assert_array_equal(key[0][orders[0]], key[1][orders[1]])
        np.testing.assert_array_equal(prepared.train.label[orders[0]], official.label[orders[1]])


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    """Relative paths, a label, two group columns of which one has a rare value, an official split."""
    rows = ["path,smile,skin,age,split"]
    for i in range(12):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(i))
        rows.append(f"{i}.jpg,{'yes' if i % 2 else 'no'},{'dark' if i % 3 else 'light'},{int(i in (9, 11))},train")
        (tmp_path / f"t{i}.jpg").write_bytes(jpeg(100 + i))
        rows.append(f"t{i}.jpg,{'yes' if i % 2 else 'no'},{'dark' if i % 3 else 'light'},{int(i in (9, 11))},test")
    path = tmp_path / "my labels.csv"
    path.write_text("\n".join(rows))
    config = SourceConfig("table", path=path, label=("smile",), group=("skin", "age"), merge_below=3, size=8)
    loaded = sources.load(config)
    assert loaded.test is not None
    assert loaded.train.name == "my-labels"
    assert loaded.train.group_names == ("dark & 0", "light & 0", "other")
    assert (len(loaded.train), len(loaded.test)) == (12, 12)
    assert loaded.train.image_shape == (8, 8, 3)
    assert sources.load(SourceConfig("table", path=path, label=("smile",))).train.group_names == ("no", "yes")


def people(folder: Path) -> Path:
    """Write a table and its images."""
    for i in range(8):
        (folder / f"img/{i}.jpg").parent.mkdir(parents=True, exist_ok=True)
        (folder / f"img/{i}.jpg").write_bytes(jpeg(i))
    rows = "".join(f"img\\{i}.jpg,{i % 2}\n" for i in range(8))
    (folder / "people.csv").write_text(f"path,label\n{rows}")
    return folder


@pytest.mark.parametrize("named", ["people.csv", ""])
def test_what_a_study_writes_beside_a_table_changes_nothing(tmp_path: Path, named: str) -> None:
    folder = people(tmp_path / "faces")
    config = SourceConfig("table", path=folder / named)
    first = sources.load(config).train.fingerprint()
    for name in ("plan.json", "runs/train/DONE", "report/groups.csv", "report/figure.png"):
        (folder / "results/people" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "results/people" / name).write_bytes(jpeg(9))
    assert sources.load(config).train.fingerprint() == first
    assert len([*(tmp_path / "cache").iterdir()]) == 1


def test_what_lies_beside_a_table_and_no_row_names_does_not_matter(tmp_path: Path) -> None:
    """Unless it is one of its images that changes, or appears in a second place."""
    folder = people(tmp_path / "faces")
    (folder / "lost").symlink_to(tmp_path / "nowhere")
    config = SourceConfig("table", path=folder / "people.csv")
    first = sources.load(config).train.fingerprint()
    (folder / "notes.png").write_bytes(jpeg(9))
    assert sources.load(config).train.fingerprint() == first
    assert len([*(tmp_path / "cache").iterdir()]) == 1
    (folder / "img/3.jpg").write_bytes(jpeg(99))
    assert sources.load(config).train.fingerprint() != first
    (folder / "img/3.jpg").unlink()
    with pytest.raises(JaxfairError, match=r"img/3\.jpg does not exist"):
        sources.load(config)


def test_archives_of_parts_in_a_folder_are_the_split(tmp_path: Path) -> None:
    """Whether the folder of the part is packed too or not."""
    (tmp_path / "pets").mkdir()
    for part, inside in (("train", "train/"), ("test", "")):
        with zipfile.ZipFile(tmp_path / "pets" / f"{part}.zip", "w") as archive:
            for i, kind in enumerate(("cat", "dog")):
                archive.writestr(f"{inside}{kind}/{i}.jpg", jpeg(i))
    loaded = sources.load(SourceConfig("folder", path=tmp_path / "pets"))
    assert (loaded.official, loaded.train.class_names, len(loaded.train)) == (True, ("cat", "dog"), 2)


def test_values_that_a_named_set_leaves_out_and_the_user_does_not_are_said(places: Path) -> None:
    utkface(places / "UTKFace.zip")
    loaded = sources.load(SourceConfig("utkface-age", drop=("race=Other",)))
    assert "0-1" in loaded.train.group_names
    assert loaded.left_out == (("age=0-1", "stays in, since other values are given to be dropped"),)
    for drop in (("race=Other", "age=0-1"), ()):
        assert sources.load(SourceConfig("utkface-age", drop=drop)).left_out == ()


@pytest.mark.parametrize("name", ["UTKFace.md5", "UTKFace-notes.txt", "UTKFace.crdownload"])
def test_other_files_of_a_sets_name_are_not_the_set(places: Path, name: str) -> None:
    (places / name).write_text("-")
    with pytest.raises(JaxfairError, match="There are no files of 'utkface-race' in the data directory"):
        sources.load("utkface-race")
    utkface(places / "UTKFace.zip")
    assert str(places / "UTKFace.zip") in sources.load("utkface-race").origin


def test_the_archive_of_a_table_may_be_named_alone(tmp_path: Path) -> None:
    """With names and columns in the form of Unicode that macOS has, and options in the other."""
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        for i in range(8):
            archive.writestr(f"faces\\u\u0308{i}.jpg", jpeg(i))
        ages = ("x", "x\u00e9")
        rows = "".join(f"\u00fc{i}.jpg,{i % 2},{ages[i // 4]}\n" for i in range(8))
        archive.writestr("faces\\labels.csv", f"path,label,a\u0302ge\n{rows}")
    config = SourceConfig("table", path=tmp_path / "faces.zip", group=("\u00e2ge",), drop=("\u00e2ge=xe\u0301",))
    with pytest.raises(JaxfairError, match=r"group \u00e2ge of .* has one value only, 'x'"):
        sources.load(config)
    loaded = sources.load(dataclasses.replace(config, drop=()))
    assert loaded.train.group_names == ("x", "x\u00e9")
    assert loaded.left_out == ()


def test_a_windows_zip_of_a_named_set(places: Path) -> None:
    with zipfile.ZipFile(places / "UTKFace.zip", "w") as archive:
        for i, age in enumerate(AGES):
            archive.writestr(f"UTKFace\\{age}_{i % 2}_{i % 5}_2017010{i}000000000.jpg.chip.jpg", jpeg(i))
    windows = sources.load("utkface-race").train
    utkface(places / "UTKFace.zip")
    assert sources.load("utkface-race").train.fingerprint() == windows.fingerprint()


def test_text_in_a_table_that_looks_like_numbers_or_gaps(tmp_path: Path) -> None:
    codes, races = ["250.0", "250.00", "250.01", "250.1", "250.10"], ["b", "w", "None", "n/a", "NAN"]
    rows = ["path,label,icd9,race"]
    for i in range(20):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(i))
        rows.append(f"{i}.jpg,{i % 2},{codes[i % 5]},{races[i % 5]}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    config = SourceConfig("table", path=tmp_path / "t.csv", group=("icd9",))
    assert sources.load(config).train.group_names == tuple(codes)
    numeric = sources.load(dataclasses.replace(config, numeric=("icd9",))).train
    assert (numeric.group_names, numeric.group_counts.tolist()) == (("250", "250.01", "250.1"), [8, 4, 8])
    with pytest.raises(JaxfairError, match=r"^12 images or rows of .* cannot be used: 2\.jpg has no race; .*--data\."):
        sources.load(dataclasses.replace(config, group=("race",)))
    loaded = sources.load(dataclasses.replace(config, group=("race",), allow_dropping=True))
    assert loaded.train.group_counts.tolist() == [4, 4]
    assert [item.reason for item in loaded.left_out].count("has no race") == 12


def test_a_column_of_lists_is_no_group_and_no_label(tmp_path: Path) -> None:
    """It was passed over, and the groups were the classes."""
    for i in range(4):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(i))
    columns = {"path": [f"{i}.jpg" for i in range(4)], "label": [0, 1] * 2, "group": [["a"], ["b"]] * 2}
    columns |= {"race": [b"\xff", b"\xfe"] * 2, "sex": ["f", "m"] * 2}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    config = SourceConfig("table", path=tmp_path / "t.parquet")
    for group, name, holds in (
        ((), "group", "lists"),
        (("race",), "race", "bytes"),
        (("sex", "race"), "race", "bytes"),
    ):
        with pytest.raises(JaxfairError, match=f"The column '{name}' holds {holds}[^:]*; give a single number or text"):
            sources.load(dataclasses.replace(config, group=group))
    assert sources.load(dataclasses.replace(config, group=("sex",))).train.group_names == ("f", "m")


def test_the_advice_for_arrays_of_objects_keeps_what_is_missing(tmp_path: Path) -> None:
    """The advice is carried out as it stands."""
    values = np.array(["a", "b", None, float("nan")] * 4, dtype=object)
    arrays: dict[str, Any] = {"images": np.zeros((16, 4, 4), np.uint8), "label": np.arange(16) // 4 % 2}
    config = SourceConfig("npz", path=tmp_path / "mine.npz")
    np.savez(tmp_path / "mine.npz", **arrays, group=values)
    with pytest.raises(JaxfairError, match=r"Python objects, .* such as np\.array\(") as caught:
        sources.load(config)
    (advice,) = re.findall(r"np\.array\(.*\)", str(caught.value))
    np.savez(tmp_path / "mine.npz", **arrays, group=eval(advice, {"np": np, "values": values}))
    with pytest.raises(JaxfairError, match=r"^8 images or rows of mine\.npz cannot be used: .* has no group; and 5"):
        sources.load(config)
    loaded = sources.load(dataclasses.replace(config, allow_dropping=True))
    assert (loaded.train.group_names, loaded.train.group_counts.tolist()) == (("a", "b"), [4, 4])


def test_a_folder_and_arrays_of_ones_own(tmp_path: Path) -> None:
    for name in ("cat/a.jpg", "cat/b.jpg", "dog/c.jpg"):
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / name).write_bytes(jpeg(len(name)))
    pets = sources.load(SourceConfig("folder", path=tmp_path / "pets")).train
    assert (pets.class_names, pets.group_counts.tolist()) == (("cat", "dog"), [2, 1])
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 7, 1), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", images=pixels, label=np.arange(6) % 2, group=np.arange(6) % 3)
    mine = sources.load(SourceConfig("npz", path=tmp_path / "mine.npz")).train
    np.testing.assert_array_equal(mine.images, pixels)
    assert mine.group_names == ("0", "1", "2")
    assert mine.class_names == ("0", "1")
    np.savez(tmp_path / "named.npz", images=pixels, smile=np.arange(6) % 2, group=np.arange(6) % 3)
    named = sources.load(SourceConfig("npz", path=tmp_path / "named.npz", label=("smile",))).train
    assert (named.class_names, named.group_names) == (("0", "1"), ("0", "1", "2")), "whatever the label is"


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    more = {"label": np.arange(4) % 2, "\u00e9": np.arange(4), "e\u0301": np.arange(4) % 2}
    np.savez(tmp_path / "mine.npz", images=np.zeros((4, 5, 7, 1), np.uint8), **more)  # pyright: ignore[reportArgumentType]
    with pytest.raises(JaxfairError, match="have one name, in two forms of Unicode; rename one"):
        sources.load(SourceConfig("npz", path=tmp_path / "mine.npz"))


def test_labels_in_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """Two of them would become one; those that are text are read as such."""
    pixels, texts = np.zeros((4, 5, 7, 1), np.uint8), ["caf\u00e9", "tea"] * 2
    for name, label in (("good", [t.encode() for t in texts]), ("bad", [t.encode("latin-1") for t in texts])):
        np.savez(tmp_path / f"{name}.npz", images=pixels, label=np.array(label))
    assert sources.load(SourceConfig("npz", path=tmp_path / "good.npz")).train.class_names == ("caf\u00e9", "tea")
    with pytest.raises(JaxfairError, match=r"The cell b'caf\\xe9' is bytes, and not text in UTF-8"):
        sources.load(SourceConfig("npz", path=tmp_path / "bad.npz"))


def test_the_official_celeba_with_its_images_in_a_zip(places: Path) -> None:
    folder = places / "celeba"
    (folder / "Anno").mkdir(parents=True)
    rows = [f"{i:06}.jpg {1 if i % 2 else -1} {1 if i % 3 else -1}" for i in range(1, 13)]
    (folder / "Anno" / "list_attr_celeba.txt").write_text("\n".join(["12", "Male Blond_Hair", *rows]))
    (folder / "list_eval_partition.txt").write_text("\n".join(f"{i:06}.jpg {0 if i < 7 else 2}" for i in range(1, 13)))
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
        for i in range(1, 13):
            archive.writestr(f"img_align_celeba/{i:06}.jpg", jpeg(i))
    loaded = sources.load("celeba")
    assert loaded.test is not None
    assert (len(loaded.train), len(loaded.test)) == (6, 6)
    assert loaded.train.group_names[3] == "Male & Blond_Hair"
    assert loaded.train.group_counts.tolist() == [1, 2, 1, 2]
    assert loaded.title == "CelebA, 12-image subset"


def test_a_zip_in_a_zip_is_named(places: Path, tmp_path: Path) -> None:
    inner = utkface(tmp_path / "inner.zip")
    with zipfile.ZipFile(places / "UTKFace.zip", "w") as archive:
        archive.write(inner, "archive/UTKFace-inner.zip")
    with pytest.raises(JaxfairError, match=r"holds the archive 'archive/UTKFace-inner.zip': unpack that"):
        sources.load("utkface-race")
    with zipfile.ZipFile(places / "UTKFace.zip") as archive:
        path = Path(archive.extract("archive/UTKFace-inner.zip", tmp_path))
    assert len(sources.load(SourceConfig("utkface-race", path=path)).train) == len(AGES)


def test_unreadable_images_stop_the_run_until_they_may_be_dropped(places: Path) -> None:
    with zipfile.ZipFile(utkface(places / "UTKFace.zip"), "a") as archive:
        archive.writestr("UTKFace/30_0_0_20180101000000000.jpg.chip.jpg", jpeg(7)[:500])
        archive.writestr("UTKFace/30_0_0_20180101000000001.jpg.chip.jpg", b"")
    with pytest.raises(
        JaxfairError, match=r"^2 images or rows of UTKFace, 12-image subset cannot be used: .*_20180101000000000"
    ):
        sources.load("utkface-race")
    loaded = sources.load(SourceConfig("utkface-race", allow_dropping=True))
    assert len(loaded.train) == len(AGES)
    assert len(loaded.left_out) == 2


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (SourceConfig("digit"), "no data set 'digit'; did you mean 'digits'"),
        (SourceConfig("utkface"), "did you mean 'utkface-race'|did you mean 'utkface-age'"),
        (SourceConfig("table"), "'table' has no path"),
        (SourceConfig("cifar10", size=0), "size is 0"),
        (SourceConfig("cifar10", path=Path("nowhere")), "no file or folder nowhere"),
        (SourceConfig("utkface-race"), "no files of 'utkface-race' .*; put the aligned .* into '.*data'"),
    ],
)
def test_refusals(config: SourceConfig, words: str) -> None:
    with pytest.raises(JaxfairError, match=words):
        sources.load(config)


@pytest.mark.parametrize("name", ["cifar10", "svhn", "celeba"])
def test_without_files_and_without_tensorflow_the_user_is_told_what_to_do(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(JaxfairError, match=rf"no files of '{name}' .*; put .* or install jaxfair\[tensorflow\]"):
        sources.load(name)


REAL = {
    "utkface-race": [10077, 4524, 3434, 3975, 1692],
    "utkface-gender": [12388, 11314],
    "utkface-age": [2289, 820, 17512, 1958],
    "utkface-age5": [1123, 2289, 820, 17512, 1958],
}


@pytest.mark.parametrize("name", REAL)
def test_the_real_utkface(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.getbasetemp() / "utkface"  # decoded once for all of them
    loaded = sources.load(SourceConfig(name, path=needs("utkface_64.zip")), cache=cache)
    assert loaded.train.group_counts.tolist() == REAL[name]
    assert len(loaded.left_out) == 5
    assert loaded.title == "UTKFace"


def test_the_real_celeba() -> None:
    loaded = sources.load(SourceConfig("celeba", path=needs("celeba_10k_89x109.tar.gz")))
    counts = dict(zip(loaded.train.group_names, loaded.train.group_counts.tolist(), strict=True))
    expected = {"not Male & not Blond_Hair": 4412, "not Male & Blond_Hair": 1371, "Male & not Blond_Hair": 4136}
    assert counts == expected | {"Male & Blond_Hair": 81}
    assert loaded.title == "CelebA, 10,000-image subset"


@pytest.mark.parametrize(
    ("name", "file", "prints"),
    [
        ("digits", None, ("4b1dd2a064e795f7", "9e577004742e64c9")),
        ("svhn", "svhn_train1083.tar.gz", ("a62e4921d380f8f1", "e7ee85993779c16e")),
    ],
)
def test_finished_runs_are_found_again(name: str, file: str | None, prints: tuple[str, str]) -> None:
    """Their digests hold these fingerprints; sets of JPEGs would depend on the version of Pillow."""
    loaded = sources.load(SourceConfig(name, path=needs(file) if file else None))
    assert tuple(part.fingerprint() for part in loaded.split()) == prints


def test_the_real_svhn() -> None:
    svhn = sources.load(SourceConfig("svhn", path=needs("svhn_train1083.tar.gz")))
    assert svhn.train.group_counts.tolist() == [66, 227, 141, 134, 110, 112, 78, 70, 78, 67]
    assert svhn.title == "SVHN, 1,083-image subset"


def test_the_real_cifar10() -> None:
    cifar = sources.load(SourceConfig("cifar10-imbalanced", path=needs("cifar10_jpg.tar.gz")))
    assert cifar.test is not None
    assert cifar.train.group_counts.tolist() == [5000] * 10
    assert cifar.test.group_counts.tolist() == [1000] * 10
    assert cifar.keep == sources.IMBALANCE


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (SourceConfig("digits", path=Path("x.zip")), "'digits' takes no path; leave it out, or name another set"),
        (SourceConfig("digits", size=16), "takes no size"),
        (SourceConfig("folder", path=Path("x"), image_column="file"), "'folder' takes no image_column"),
        (SourceConfig("npz", path=Path("x"), images=Path("y")), "'npz' takes no images"),
        (SourceConfig("utkface-race", merge_below=-3), "below -3 images"),
    ],
)
def test_what_would_have_no_effect_is_refused(config: SourceConfig, words: str) -> None:
    with pytest.raises(JaxfairError, match=words):
        sources.load(config)


@pytest.mark.usefixtures("unchecked")
def test_strings_do_for_paths_and_for_one_column(places: Path) -> None:
    path: Any = str(utkface(places / "mine.zip"))
    gender: Any = "gender"
    loaded = sources.load(SourceConfig("utkface-race", path=path, label=gender))
    assert loaded.train.class_names == ("male", "female")


def test_a_group_column_that_is_spelt_otherwise_is_no_silent_label(places: Path) -> None:
    arrays: dict[str, Any] = {"images": np.zeros((4, 2, 2, 3), np.uint8), "label": [0, 1, 0, 1], "Group": [0, 0, 1, 1]}
    np.savez(places / "own.npz", **arrays)
    with pytest.raises(JaxfairError, match="There is a column 'Group'; call it 'group', or name it by group"):
        sources.load(SourceConfig("npz", path=places / "own.npz"))
    loaded = sources.load(SourceConfig("npz", path=places / "own.npz", group=("Group",)))
    assert loaded.train.group_names == ("0", "1")


def test_images_of_which_nothing_is_known_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "bare.npz", images=np.zeros((3, 2, 2, 3), np.uint8))
    with pytest.raises(JaxfairError, match="no label column 'label', since nothing is known of the images but pixels"):
        sources.load(SourceConfig("npz", path=tmp_path / "bare.npz"))


@pytest.mark.parametrize("packed", ["train", "test"])
def test_a_part_in_an_archive_beside_the_other_is_the_split(tmp_path: Path, packed: str) -> None:
    """The test images alone would be trained on, or the test set vanish."""
    (tmp_path / "pets").mkdir()
    for part, count in (("train", 8), ("test", 2)):
        images = {f"{kind}/{i}.jpg": jpeg(i) for kind in ("cat", "dog") for i in range(count)}
        for name, data in images.items():
            if part == packed:
                with zipfile.ZipFile(tmp_path / "pets" / f"{part}.zip", "a") as archive:
                    archive.writestr(name, data)
            else:
                (tmp_path / "pets" / part / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / "pets" / part / name).write_bytes(data)
    loaded = sources.load(SourceConfig("folder", path=tmp_path / "pets"))
    assert loaded.test is not None
    assert (len(loaded.train), len(loaded.test), loaded.left_out) == (16, 4, ())


def test_a_stray_image_beside_the_archive_of_a_set_is_named(places: Path) -> None:
    (places / "UTKFace").mkdir()
    utkface(places / "UTKFace/UTKFace.zip")
    (places / "UTKFace/sample.png").write_bytes(jpeg(0))
    with pytest.raises(JaxfairError, match=r"sample\.png is not named \[age\]"):
        sources.load("utkface-race")
    assert len(sources.load(SourceConfig("utkface-race", allow_dropping=True)).train) == 10
