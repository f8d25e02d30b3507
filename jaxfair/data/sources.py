"""Named data sets and the user's own, from whatever is on disk.

Looked for in this order: the path that the user names, the data directory, a data set prepared by TFDS, and a download
by TFDS where tensorflow is installed. Images are decoded and resized once and then mapped from a cache.
"""

import dataclasses
import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxfair.data import builders
from jaxfair.data import cache as store
from jaxfair.data.collect import Layout, OnProgress, Place, collect
from jaxfair.data.columns import Column, Rejected
from jaxfair.data.dataset import Dataset, make_dataset, split
from jaxfair.data.layouts import prepared
from jaxfair.data.protocol import Collection, Parts, Protocol, make_parts
from jaxfair.errors import JaxfairError, did_you_mean


class Named(NamedTuple):
    """A data set that is known by name.

    Attributes:
        layout: of its official files.
        label: columns of the classes; the groups are the same in all of the papers' settings.
        found_as: file and folder names below the data directory, as patterns.
        tfds: its name there.
        what: its official files, for a user who has none.
        drop: values that are left out.
        keep: share of each class that is kept in training; empty keeps all.
    """

    layout: Layout
    label: tuple[str, ...]
    found_as: tuple[str, ...]
    tfds: str
    what: str
    drop: tuple[str, ...] = ()
    keep: tuple[float, ...] = ()


IMBALANCE = (0.9,) * 5 + (0.1,) * 5
"""Shares of the classes of CIFAR-10 that Das et al. 2024 keep."""

_UTKFACE = Named(
    "utkface",
    (),
    ("UTKFace*", "utkface*"),
    "utkface",
    "the aligned and cropped UTKFace images (UTKFace.zip or .tar.gz)",
)
_CIFAR10 = Named(
    "cifar10",
    ("class",),
    ("cifar-10-batches-py", "cifar-10-python.tar.gz", "cifar10*", "CIFAR10*", "CIFAR-10*"),
    "cifar10",
    "the Python version of CIFAR-10 (cifar-10-python.tar.gz)",
)
NAMED = {
    "cifar10": _CIFAR10,
    "cifar10-imbalanced": _CIFAR10._replace(keep=IMBALANCE),
    "svhn": Named(
        "svhn",
        ("digit",),
        ("svhn*", "SVHN*"),
        "svhn_cropped",
        "train_32x32.mat and test_32x32.mat of SVHN in a folder svhn",
    ),
    "utkface-age": _UTKFACE._replace(label=("age",), drop=("age=0-1",)),
    "utkface-age5": _UTKFACE._replace(label=("age",)),
    "utkface-race": _UTKFACE._replace(label=("race",)),
    "utkface-gender": _UTKFACE._replace(label=("gender",)),
    "celeba": Named(
        "celeba",
        ("Male", "Blond_Hair"),
        ("celeba*", "CelebA*"),
        "celeb_a",
        "img_align_celeba (folder or zip), list_attr_celeba.txt and list_eval_partition.txt in a folder celeba",
    ),
}
"""Settings of Das et al. 2024; ``utkface-age5`` keeps ages 0-1, as their code does, and ``celeba`` is their code's."""

EMBEDDED = {"digits": (), "digits-imbalanced": IMBALANCE}
OWN = ("folder", "table", "npz", "tfds")
NAMES = (*EMBEDDED, *NAMED, *OWN)


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """Which data set, and what of it is the label and the group.

    Attributes:
        name: of a named set, or folder, table, npz or tfds for one of your own.
        path: folder, archive or file; None looks for a named set in the data directory.
        images: folder or archive that a table's paths are in; None for the table's own folder.
        image_column: of a table its paths, of a TFDS set its images; None is ``path`` and ``image``.
        label: columns whose intersections are the classes; none given, the named set's, or ``class`` of a folder and
            ``label`` of others.
        group: columns whose intersections are the groups; none given, those of the label.
        drop: values that are left out, as ``column=value``; none given, the named set's.
        merge_below: groups with fewer images are merged into one.
        allow_dropping: whether images and rows that cannot be used are left out; otherwise they stop the run.
        size: height and width in pixels; None is 32, and an npz file's own.
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


class Loaded(NamedTuple):
    """A data set and where it came from.

    Attributes:
        train: the training set, or the whole set where there is no official split.
        test: the official test set; None where there is none.
        title: true of what was found: ``CelebA, 10,000-image subset``.
        origin: one line on where it was found.
        left_out: what is in neither set, with reasons.
        keep: share of each class that the named protocol keeps in training; empty keeps all.
    """

    train: Dataset
    test: Dataset | None
    title: str
    origin: str
    left_out: tuple[Rejected, ...] = ()
    keep: tuple[float, ...] = ()

    def split(self, test_fraction: float = 0.2, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Return the official training and test sets, or else a split by class and group, see ``data.split``."""
        return split(self.train, test_fraction, seed) if self.test is None else (self.train, self.test)


def load(
    config: SourceConfig | str,
    *,
    data_dir: Path | None = None,
    cache: Path | None = None,
    on_progress: OnProgress | None = None,
) -> Loaded:
    """Load a data set.

    Args:
        config: what to load; a name alone stands for its defaults.
        data_dir: where named sets are looked for; None is ``default_data_dir()``.
        cache: of decoded images; None is ``store.default_cache()``.
        on_progress: called with the images decoded and those to decode.

    Raises:
        JaxfairError: there is no such set, its files are nowhere or damaged, or the protocol does not fit them.
    """
    config = _checked(SourceConfig(config) if isinstance(config, str) else config)
    if config.name in EMBEDDED:
        return Loaded(digits(), None, "Handwritten digits", "embedded in scikit-learn", keep=EMBEDDED[config.name])
    named = NAMED.get(config.name)
    layout, path = _locate(config, named, data_dir or default_data_dir())
    place = Place(layout, path, config.images, config.image_column)
    collection = collect(place, config.size, cache=cache, on_progress=on_progress)
    if named is not None and layout == "tfds":
        collection = _as_official(collection, named)
    name = config.name if named else re.sub(r"[^\w.-]+", "-", path.stem)  # fit for a file name
    parts: Parts = make_parts(collection, _protocol(config, named, collection.columns), name)
    keep = named.keep if named else ()
    return Loaded(parts.train, parts.test, collection.title, f"{layout} in {path}", parts.left_out, keep)


def _checked(config: SourceConfig) -> SourceConfig:
    """Return the configuration with paths and tuples where strings were given; refuse what would have no effect."""
    if config.name not in NAMES:
        raise JaxfairError(f"There is no data set '{config.name}'{did_you_mean(config.name, NAMES)}")
    if config.size is not None and not 1 <= config.size <= 4096:
        raise JaxfairError(f"The image size is {config.size}; give 1 to 4096 pixels, or leave it out.")
    if config.merge_below < 0:
        raise JaxfairError(f"Groups below {config.merge_below} images are to be merged; give 0 for none, or more.")
    fields = [field.name for field in dataclasses.fields(SourceConfig) if field.name != "name"]
    useless = [
        *(["images"] if config.name != "table" else []),
        *(["image_column"] if config.name not in ("table", "tfds") else []),
    ]
    for field in fields if config.name in EMBEDDED else useless:
        if getattr(config, field) != getattr(SourceConfig(), field):
            raise JaxfairError(
                f"The data set '{config.name}' takes no {field}; leave it out, or name another set "
                f"({', '.join(OWN)} for your own)."
            )
    paths = {field: Path(value) for field in ("path", "images") if (value := getattr(config, field)) is not None}
    lists = {field: getattr(config, field) for field in ("label", "group", "drop")}
    texts = {field: (value,) for field, value in lists.items() if isinstance(value, str)}
    return dataclasses.replace(config, **paths, **texts)


def digits() -> Dataset:
    """Load scikit-learn's handwritten digits: 1,797 real images of 8x8 with 17 grey levels; the group is the class."""
    from sklearn.datasets import load_digits

    pixels, target = load_digits(return_X_y=True)
    images = np.round(np.asarray(pixels) * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    names = [str(digit) for digit in range(10)]
    label = np.asarray(target, np.int32)
    return make_dataset(images, label, label, name="digits", class_names=names, group_names=names)


def default_data_dir() -> Path:
    """Return the folder where named sets are looked for: ``$JAXFAIR_DATA``, or ``datasets`` in the user's cache.

    Of a user without a home it is ``datasets`` in the current folder.
    """
    named = os.environ.get("JAXFAIR_DATA")
    return Path(named) if named else store.user_folder("datasets") or Path("datasets")


def _locate(config: SourceConfig, named: Named | None, data_dir: Path) -> tuple[Layout, Path]:
    """Return the layout and path of a set."""
    if named is None:
        if config.path is None:
            raise JaxfairError(f"The data set '{config.name}' has no path; name a folder, archive or file by path.")
        return config.name, config.path  # pyright: ignore[reportReturnType]
    if config.path is not None:
        levels = ("", "*/", "*/*/")  # the version's folder, or one or two above it
        is_tfds = any(any(config.path.glob(f"{level}dataset_info.json")) for level in levels)
        return "tfds" if is_tfds else named.layout, config.path
    for pattern in named.found_as:
        for path in sorted(data_dir.glob(pattern)):
            return named.layout, path
    mine = os.environ.get("TFDS_DATA_DIR")
    folders = [data_dir / "tfds", *([Path(mine)] if mine else []), Path("~/tensorflow_datasets").expanduser()]
    found = prepared.find(named.tfds, folders)
    if found is None:
        hint = (
            f"put {named.what} into '{data_dir}' (JAXFAIR_DATA names another folder), or name the folder or archive "
            "by path"
        )
        missing = f"There are no files of '{config.name}' in the data directory"
        if named.tfds == "utkface":
            raise JaxfairError(f"{missing}; {hint}.")
        if importlib.util.find_spec("tensorflow") is None:
            raise JaxfairError(f"{missing}; {hint}, or install jaxfair[tensorflow], by which TFDS downloads them.")
        found = builders.prepare_stock(named.tfds, folders[0], hint=hint)
    return "tfds", found


def _as_official(collection: Collection, named: Named) -> Collection:
    """Return a TFDS set's columns under the names that the official files' layout gives them."""
    columns = dict(collection.columns)
    if "label" in columns and len(named.label) == 1 and named.label[0] not in columns:
        columns[named.label[0]] = columns.pop("label")
    return collection._replace(columns=columns)


def _protocol(config: SourceConfig, named: Named | None, columns: Mapping[str, Column]) -> Protocol:
    label = config.label or (named.label if named else ("class",) if config.name == "folder" else ("label",))
    own = ("group",) if named is None and not config.label and "group" in columns else label
    drop = config.drop or (named.drop if named and not config.label else ())
    return Protocol(label, config.group or own, drop, config.merge_below, config.allow_dropping)
