"""A small UTKFace, and folders of its own for every test that loads data by name. Not a test itself."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

AGES = (1, 5, 5, 15, 15, 30, 30, 40, 70, 80)


def jpeg(seed: int) -> bytes:
    """Return a photograph of noise, 48x40."""
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def utkface(path: Path) -> Path:
    """Write a small UTKFace, races and genders in turn."""
    with zipfile.ZipFile(path, "w") as archive:
        for i, age in enumerate(AGES):
            archive.writestr(f"UTKFace/{age}_{i % 2}_{i % 5}_2017010{i}000000000.jpg.chip.jpg", jpeg(i))
    return path


def own_places(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the cache, the data directory and TFDS's folders into a folder; return the data directory."""
    monkeypatch.setenv("JAXFAIR_CACHE", str(folder / "cache"))
    monkeypatch.setenv("JAXFAIR_DATA", str(folder / "data"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(folder))
    (folder / "data").mkdir()
    return folder / "data"
