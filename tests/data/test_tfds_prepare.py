"""UTKFace prepared by tfds is the source again; a preparation that cannot succeed says so and leaves nothing."""

import io
import json
import shutil
import signal
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxfair.data import tfds as prepared
from jaxfair.data.columns import Index
from jaxfair.data.images import decode
from jaxfair.data.layouts import utkface
from jaxfair.data.opening import open_files
from jaxfair.data.tfds import prepare
from jaxfair.errors import JaxfairError
from tests.real_data import needs

NAMES = [
    "1_0_2_20161219140623097.jpg.chip.jpg",
    "7_1_4_20161219140623098.jpg.chip.jpg",
    "100_0_0_20170112213500903.jpg.chip.jpg",
    "39_1_20170116174525125.jpg.chip.jpg",  # carries no race
    "15_1_3_20170116174525126.jpg",
]


def jpeg(seed: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 10, 3), np.uint8)).save(data, "JPEG")
    return data.getvalue()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An archive of four faces, and one whose name is malformed."""
    path = tmp_path / "UTKFace.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i, name in enumerate(NAMES):
            archive.writestr(f"UTKFace/{name}", jpeg(i))
    return path


def equal(found: Index, expected: Index) -> None:
    """Check that two indexes say the same and yield the same pixels."""
    assert found.names == expected.names
    assert found.columns.keys() == expected.columns.keys()
    for name, column in expected.columns.items():
        assert found.columns[name].names == column.names
        np.testing.assert_array_equal(found.columns[name].codes, column.codes)
    images = dict(found.stream())
    assert len(images) == len(found.names)
    for row, image in expected.stream():
        np.testing.assert_array_equal(decode(images[row]), decode(image))


@pytest.mark.parametrize("unpacked", [False, True])
def test_prepared_set_is_the_source(tmp_path: Path, source: Path, unpacked: bool, capsys: pytest.CaptureFixture[str]):
    """Names, columns and pixels come back; nothing is printed, and nothing else lies in the folder."""
    if unpacked:
        with zipfile.ZipFile(source) as archive:
            archive.extractall(tmp_path / "faces")
        source = tmp_path / "faces"
    from tensorflow_datasets.core.utils import tqdm_utils

    calls = []
    folder = prepare(source, tmp_path / "data", on_progress=lambda *call: calls.append(call))
    assert capsys.readouterr() == ("", "")
    assert tqdm_utils._active  # other users of tfds keep their progress bars
    assert folder == prepared.find("utkface", [tmp_path / "data"])
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["utkface"]
    assert calls[-1] == (4, 4)
    index = prepared.read(folder)
    with open_files(source) as files:
        equal(index, utkface.read(files))
    assert index.split is None
    assert not index.left_out
    info = json.loads((folder / "dataset_info.json").read_text())
    assert "Adversarial Autoencoder" in info["citation"]
    assert "Non-commercial" in info["redistributionInfo"]["license"]


def test_official_way_of_tfds(tmp_path: Path, source: Path):
    """Tfds' own users build it by its name and give the folder as manual_dir."""
    import tensorflow_datasets as tfds

    import jaxfair.data.utkface_dataset_builder

    with zipfile.ZipFile(source) as archive:
        archive.extractall(tmp_path / "faces")
    builder: Any = tfds.builder("utkface", data_dir=str(tmp_path / "data"))
    config = tfds.download.DownloadConfig(manual_dir=str(tmp_path / "faces"))
    builder.download_and_prepare(download_config=config, file_format="array_record")
    with open_files(source) as files:
        equal(prepared.read(tmp_path / "data" / "utkface"), utkface.read(files))
    example = builder.as_data_source("train")[0]
    assert example["image"].shape == (12, 10, 3)
    assert isinstance(builder, jaxfair.data.utkface_dataset_builder.Builder)


def test_second_preparation(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch):
    """The same source is not prepared twice, and another one's folder is not passed off as its own."""
    folder = prepare(source, tmp_path / "data")
    with monkeypatch.context() as patch:
        patch.setattr(prepared, "_run", pytest.fail)
        assert prepare(source, tmp_path / "data") == folder
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr(NAMES[0], jpeg(9))
    with pytest.raises(JaxfairError, match=r"prepared from .*UTKFace\.zip.* not from .*other\.zip"):
        prepare(other, tmp_path / "data")


def test_what_another_process_prepares_meanwhile_is_taken(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
):
    """It was told to remove that, as no whole set."""
    check = prepared._check_room

    def meanwhile(data_dir: Path, needed: int) -> None:
        monkeypatch.setattr(prepared, "_check_room", check)
        prepare(source, data_dir)

    monkeypatch.setattr(prepared, "_check_room", meanwhile)
    assert prepared.read(prepare(source, tmp_path / "data")).names
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["utkface"]


def test_what_is_no_utkface(tmp_path: Path):
    """Another layout, and names that do not fit, are refused before anything is written."""
    faces = tmp_path / "faces"
    faces.mkdir()
    (faces / "a.jpg").write_bytes(jpeg(0))
    with pytest.raises(JaxfairError, match="UTKFace's names"):
        prepare(faces, tmp_path / "data")
    (faces / NAMES[0]).write_bytes(jpeg(0))
    with pytest.raises(JaxfairError, match=r"1 files of .* not UTKFace's: 'a\.jpg' is not named"):
        prepare(faces, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_damaged_source_leaves_nothing(tmp_path: Path, source: Path):
    """Where the source breaks off in the middle of the work, no folder is left that could be taken for whole."""
    data = bytearray(source.read_bytes())
    at = data.index(jpeg(4)[-150:-100])
    data[at : at + 50] = bytes(50)
    source.write_bytes(data)
    with pytest.raises(JaxfairError, match=r"'UTKFace/15_1_3.*is damaged"):
        prepare(source, tmp_path / "data")
    assert prepared.find("utkface", [tmp_path / "data"]) is None
    assert not [*(tmp_path / "data" / "utkface").iterdir()]


def test_no_room(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch):
    """A disk that is too small, and a folder that cannot be made, are told of before the work."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1))
    with pytest.raises(JaxfairError, match="free space"):
        prepare(source, tmp_path / "data")
    monkeypatch.undo()
    (tmp_path / "file").touch()
    with pytest.raises(JaxfairError, match=r"file/data cannot be written \(Not a directory\)"):
        prepare(source, tmp_path / "file" / "data")


def test_more_than_tfds_sorts_in_memory(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch):
    """A source so large that tfds would turn to TensorFlow in the middle of the work is refused without it."""
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setattr("tensorflow_datasets.core.shuffle.MAX_MEM_BUFFER_SIZE", 5000)
    with pytest.raises(JaxfairError, match=r"prepares more than 0\.0 GB only with TensorFlow; install"):
        prepare(source, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_disk_full_in_the_middle(tmp_path: Path, source: Path):
    """Where a file cannot grow any more, the preparation ends in one sentence and leaves no folder."""
    resource = pytest.importorskip("resource")
    import tensorflow_datasets as tfds  # loads what must not meet the limit

    assert tfds.core
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(JaxfairError, match=r"data cannot be written \(.*File too large.*\); make room\."):
            prepare(source, tmp_path / "data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not [*(tmp_path / "data" / "utkface").iterdir()]


def test_half_a_set_of_a_killed_process_is_removed(tmp_path: Path, source: Path):
    """It may be as large as the whole."""
    half = tmp_path / "data" / "utkface" / "incomplete.ABCDEF_1.0.0"
    half.mkdir(parents=True)
    (half / "utkface-train.array_record-00000-of-00001").write_bytes(bytes(9))
    folder = prepare(source, tmp_path / "data")
    assert [*folder.parent.iterdir()] == [folder]


def test_folder_that_is_no_whole_set(tmp_path: Path, source: Path):
    """A version's folder without a set, which tfds would take for one, is named."""
    (tmp_path / "data" / "utkface" / "1.0.0").mkdir(parents=True)
    with pytest.raises(JaxfairError, match=r"1\.0\.0 is no whole set; remove it"):
        prepare(source, tmp_path / "data")


@pytest.mark.usefixtures("unchecked")  # three times as fast
def test_real_utkface(tmp_path: Path):
    """All 23,702 faces come back as they are in the archive."""
    source = needs("utkface_64.zip")
    index = prepared.read(prepare(source, tmp_path))
    with open_files(source) as files:
        expected = utkface.read(files)
        assert index.names == expected.names
        for name, column in expected.columns.items():
            assert index.columns[name].names == column.names
            np.testing.assert_array_equal(index.columns[name].codes, column.codes)
        assert dict(index.stream()) == dict(expected.stream())
