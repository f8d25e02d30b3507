"""The options of what looks at a data set and prepares one."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from experiments.running.settings import DataConfig

Name = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]


@dataclasses.dataclass(frozen=True)
class Describe(DataConfig):
    """Load a data set as the studies do, print what is in it, and write a contact sheet.

    A preset of a study may hold out another share of the images for tests (``quickstart``: 25 %) or keep fewer.

    Attributes:
        name: of the set.
        out: PNG file of the contact sheet; None is ``results/data/NAME.png``.
    """

    name: Name = tyro.MISSING
    out: Path | None = None


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Write UTKFace as a TFDS data set.

    Attributes:
        name: of the set; ``utkface``.
        path: folder or archive of the official files.
        out: folder of TFDS data sets; None is ``tfds`` in the data directory, where the studies look.
    """

    name: Name
    path: Path
    out: Path | None = None
