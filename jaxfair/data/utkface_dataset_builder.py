"""UTKFace as a builder of TensorFlow Datasets (tfds); import it only to prepare, since it loads all of tfds."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxfair.data.columns import Index
from jaxfair.data.layouts import utkface
from jaxfair.data.opening import open_files

_DESCRIPTION = """
Faces with age, gender and race, aligned and cropped: 23,702 well-formed images of UTKFace. Five images whose file names
are malformed in the published set are left out.
"""
_CITATION = """
@inproceedings{zhang2017age,
  title     = {Age Progression/Regression by Conditional Adversarial Autoencoder},
  author    = {Zhang, Zhifei and Song, Yang and Qi, Hairong},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2017}
}
"""
_LICENSE = "Non-commercial research purposes only; the copyright of the images belongs to their original owners."


class Builder(tfds.core.GeneratorBasedBuilder):
    """Writes the images as they are encoded, in the order of ``layouts.utkface``; TensorFlow is not needed.

    Attributes:
        index: The images to write; None reads those in tfds' folder for manual downloads.
        on_progress: A function that is called with the number of images done and that of all.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Get the aligned and cropped faces from the authors of UTKFace, unpack them, and give their folder as manual_dir.
    """
    index: Index | None = None
    on_progress: Callable[[int, int], None] | None = None

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            citation=_CITATION,
            license=_LICENSE,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="jpeg"),
                    "age": tfds.features.ClassLabel(names=utkface.AGES),
                    "years": tfds.features.Scalar(np.int64),
                    "gender": tfds.features.ClassLabel(names=utkface.GENDERS),
                    "race": tfds.features.ClassLabel(names=utkface.RACES),
                    "filename": tfds.features.Text(),
                }
            ),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,  # keeps the order of the source
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        """Return one split: UTKFace has no official one, and tfds' convention is to call all of it train."""
        return {"train": self._generate_examples(None if self.index else Path(dl_manager.manual_dir))}

    def _generate_examples(self, folder: Path | None) -> Iterator[tuple[int, dict[str, Any]]]:
        with contextlib.nullcontext() if folder is None else open_files(folder) as files:
            index = self.index if files is None else utkface.read(files)
            assert index is not None
            columns = {name: column.codes.tolist() for name, column in index.columns.items()}
            columns["years"] = [int(index.columns["years"].names[code]) for code in columns["years"]]
            total = len(index.names)
            for done, (row, image) in enumerate(index.stream(), 1):
                labels = {name: values[row] for name, values in columns.items()}
                yield row, {"image": image, "filename": index.names[row], **labels}
                if self.on_progress is not None and (done % 256 == 0 or done == total):
                    self.on_progress(done, total)

    def _log_download_bytes(self) -> None:
        """Print nothing: tfds would say how much it downloads, which is nothing."""

    def _log_download_done(self) -> None:
        """Print nothing: the caller says what was prepared."""
