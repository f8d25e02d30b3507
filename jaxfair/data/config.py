"""What data sets and their images are told; read by command lines, so without JAX."""

import dataclasses
from pathlib import Path
from typing import Literal

Augmentation = Literal["none", "cifar"]


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """Which data set, and what of it is the label and the group.

    Attributes:
        name: The name of a named set, or folder, table, npz or tfds for one of your own.
        path: Folder, archive or file; None looks for a named set in the data directory.
        images: The folder or archive that a table's paths are in; None is the table's own folder, or ``path`` if that
            is a folder or archive with a table in it.
        image_column: The column of a table's paths, or the feature of a TFDS set's images; None is ``path`` and
            ``image``.
        label: Columns whose intersections are the classes. If none is given, they are the named set's, or ``class`` of
            a folder and ``label`` of others.
        group: Columns whose intersections are the groups. If none is given, they are those of a column ``group``, if
            a set of your own has one, or else the label's.
        drop: Values that are left out, as ``column=value``. If none is given, they are the named set's.
        merge_below: Groups with fewer images are merged into one.
        allow_dropping: Whether images and rows that cannot be used are left out; otherwise they stop the run.
        size: Height and width in pixels; None is 32, and an npz file's own.
        numeric: Columns whose text is read as numbers, so that 7, 007 and 7.0 are one value; other text keeps its
            spelling.
    """

    name: str = "digits"
    path: Path | None = None
    images: Path | None = None
    image_column: str | None = None
    label: tuple[str, ...] = ()
    group: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    merge_below: int = 0
    allow_dropping: bool = False
    size: int | None = None
    numeric: tuple[str, ...] = ()
