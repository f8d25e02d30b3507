"""Write a small set by tfds for the tests that read one. Not a test itself."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write(
    data_dir: Path,
    features: Mapping[str, Any],
    examples: Mapping[str, list[dict[str, Any]]],
    *,
    version: str = "1.0.0",
    config: str | None = None,
) -> Path:
    """Prepare a set called ``made`` by tfds and return its folder."""
    import tensorflow_datasets as tfds

    class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "made"
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config, version=version)] if config else []

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
            )

        def _split_generators(self, dl_manager: Any):
            return {split: iter(enumerate(values)) for split, values in examples.items()}

        def _generate_examples(self): ...

    builder = Made(data_dir=str(data_dir))
    builder.download_and_prepare(file_format="array_record", download_config=tfds.download.DownloadConfig(num_shards=2))
    return Path(builder.data_dir)


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)


def png(seed: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(picture(seed)).save(data, "PNG")
    return data.getvalue()
