"""Named data sets and the user's own, from whatever is on disk.

Looked for in this order: the path that the user names, the data directory, a data set prepared by TFDS, and a download
by TFDS where tensorflow is installed. Images are decoded and resized once and then mapped from a cache.
"""

import dataclasses
import functools
import importlib.util
import numbers
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from jaxfair.data import cache as store
from jaxfair.data import tfds
from jaxfair.data.columns import Column, Index, Rejected, nfc, of_column
from jaxfair.data.config import SourceConfig
from jaxfair.data.dataset import Dataset, make_dataset
from jaxfair.data.files import Files
from jaxfair.data.images import decode_all
from jaxfair.data.layouts import arrays, celeba, cifar10, folder, svhn, table, utkface
from jaxfair.data.opening import holds_files, identity, open_files
from jaxfair.data.protocol import make_parts
from jaxfair.data.splits import check_classes, divide, thin, with_training_statistics
from jaxfair.errors import JaxfairError, did_you_mean
from jaxfair.options import Seed, checked

Layout = Literal["utkface", "cifar10", "svhn", "celeba", "folder", "table", "npz", "tfds"]
OnProgress = Callable[[int, int], None]


class Named(NamedTuple):
    """A data set that is known by name.

    Attributes:
        layout: The layout of its official files.
        label: Columns of the classes; the groups are the same in all of the papers' settings.
        found_as: File and folder names below the data directory, as patterns.
        tfds: What TFDS calls it.
        what: Its official files, for a user who has none.
        drop: Values that are left out.
        keep: The share of each class that is kept in training; empty keeps all.
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
_CIFAR10_NAMES = ("cifar-10-batches-py", "cifar-10-python.tar.gz", "cifar10*", "CIFAR10*", "CIFAR-10*")
_CIFAR10_FILES = "the Python version of CIFAR-10 (cifar-10-python.tar.gz)"
_CIFAR10 = Named("cifar10", ("class",), _CIFAR10_NAMES, "cifar10", _CIFAR10_FILES)
_SVHN_FILES = "train_32x32.mat and test_32x32.mat of SVHN in a folder svhn"
_CELEBA_FILES = "img_align_celeba (folder or zip), list_attr_celeba.txt and list_eval_partition.txt in a folder celeba"
NAMED = {
    "cifar10": _CIFAR10,
    "cifar10-imbalanced": _CIFAR10._replace(keep=IMBALANCE),
    "svhn": Named("svhn", ("digit",), ("svhn*", "SVHN*"), "svhn_cropped", _SVHN_FILES),
    "utkface-age": _UTKFACE._replace(label=("age",), drop=("age=0-1",)),
    "utkface-age5": _UTKFACE._replace(label=("age",)),
    "utkface-race": _UTKFACE._replace(label=("race",)),
    "utkface-gender": _UTKFACE._replace(label=("gender",)),
    "celeba": Named("celeba", ("Male", "Blond_Hair"), ("celeba*", "CelebA*"), "celeb_a", _CELEBA_FILES),
}
"""Settings of Das et al. 2024; ``utkface-age5`` keeps ages 0-1, as their code does, and ``celeba`` is their code's."""

EMBEDDED = {"digits": (), "digits-imbalanced": IMBALANCE}
OWN = ("folder", "table", "npz", "tfds")
NAMES = (*EMBEDDED, *NAMED, *OWN)


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A data set and where it came from.

    Attributes:
        parts: The whole set, or the official training and test sets, without statistics.
        title: What tables and pages call it, true of what was found: ``CelebA, 10,000-image subset``.
        origin: One line on where it was found.
        left_out: What is in none of the sets, with reasons.
        keep: The share of each class that the named protocol keeps in training; empty keeps all.
    """

    parts: tuple[Dataset, ...]
    title: str
    origin: str
    left_out: tuple[Rejected, ...] = ()
    keep: tuple[float, ...] = ()

    @functools.cached_property
    def train(self) -> Dataset:
        """The official training set, or the whole set where there is no official split."""
        return with_training_statistics(self.parts[0], self.parts[0])[0]

    @property
    def test(self) -> Dataset | None:
        """The official test set, with the statistics of the training set; None where there is none."""
        return dataclasses.replace(self.parts[1], mean=self.train.mean, std=self.train.std) if self.official else None

    @property
    def official(self) -> bool:
        """Whether there is an official split."""
        return len(self.parts) == 2

    @checked
    def split(
        self,
        test_fraction: float = 0.2,
        seed: Seed = 0,
        *,
        keep: Sequence[float] | None = None,
        keep_by: Literal["label", "group"] = "label",
        keep_in_test: bool = False,
    ) -> tuple[Dataset, Dataset]:
        """Return training and test set, both with the statistics of the training images.

        Args:
            test_fraction: The share held out, stratified by class and group, where there is no official split.
            seed: The seed of the split and of what is kept.
            keep: The share of each class or group that is kept in training, see ``splits.thin``; empty keeps all. None
                is what the named set's protocol keeps of each class, as that of ``digits-imbalanced`` does.
            keep_by: Whether ``keep`` lists classes or groups.
            keep_in_test: Whether the test set is thinned too.

        Raises:
            JaxfairError: As ``splits.split`` and ``splits.thin`` do.
        """
        if keep is None:
            keep, keep_by = self.keep, "label"
        if not np.iterable(keep) or isinstance(keep, str):
            raise JaxfairError(f"What is kept is {keep}; give a list with a share for each {keep_by}, or one for all.")
        if keep_by not in ("label", "group"):
            raise JaxfairError(f"Shares are kept by '{keep_by}'{did_you_mean(str(keep_by), ('label', 'group'))}")
        keep = list(keep)
        if self.official and not keep:
            return self.train, dataclasses.replace(self.parts[1], mean=self.train.mean, std=self.train.std)
        train, test = self.parts if self.official else divide(self.parts[0], test_fraction, seed)
        if keep:
            train = thin(train, keep, seed, keep_by)
            test = thin(test, keep, seed, keep_by) if keep_in_test else test
            check_classes(train, test)
        return with_training_statistics(train, test)


@checked
def load(
    config: SourceConfig | str,
    *,
    data_dir: Path | None = None,
    cache: Path | None = None,
    on_progress: OnProgress | None = None,
) -> Loaded:
    """Load a data set.

    Args:
        config: What to load; a name alone stands for its defaults.
        data_dir: The folder where named sets are looked for; None is ``default_data_dir()``.
        cache: The folder of decoded images; None is ``store.default_cache()``.
        on_progress: A function that is called with the number of images decoded and that of all.

    Raises:
        JaxfairError: There is no such set, its files are nowhere or damaged, or the protocol does not fit them.

    Example:
        >>> from jaxfair import load
        >>> loaded = load("digits")
        >>> loaded.title, len(loaded.train), loaded.official
        ('Handwritten digits', 1797, False)
    """
    config = checked_config(SourceConfig(config) if isinstance(config, str) else config)
    if config.name in EMBEDDED:
        return Loaded((digits(),), "Handwritten digits", "embedded in scikit-learn", keep=EMBEDDED[config.name])
    named = NAMED.get(config.name)
    layout, path = _locate(config, named, Path(data_dir or default_data_dir()))
    images, index = _decoded(config, layout, path, Path(cache or store.default_cache()), on_progress)
    columns = {nfc(key): column for key, column in index.columns.items()}
    if len(columns) < len(index.columns):
        raise JaxfairError(f"Two columns of {path} have one name, in two forms of Unicode; rename one of them.")
    if named is not None and len(named.label) == 1 and "label" in columns and named.label[0] not in columns:
        columns[named.label[0]] = columns.pop("label")  # as TFDS calls what the official files call class or digit
    name = config.name if named else re.sub(r"[^\w.-]+", "-", path.stem)  # fit for a file name
    index = index._replace(columns=columns, left_out=(*_not_dropped(config, named), *index.left_out))
    _check_passed(config, named, columns, index.left_out)
    config = _with_defaults(config, named, columns)
    parts, left_out = make_parts(images, index, config, name)
    return Loaded(parts, index.title, f"{layout} in {path}", left_out, named.keep if named else ())


def checked_config(config: SourceConfig) -> SourceConfig:
    """Return the configuration with paths and tuples where strings were given; refuse what would have no effect."""
    if not isinstance(config.name, str) or config.name not in NAMES:
        raise JaxfairError(f"There is no data set '{config.name}'{did_you_mean(str(config.name), NAMES)}")
    if not isinstance(config.allow_dropping, bool):
        raise JaxfairError(f"allow_dropping is {config.allow_dropping!r}; give True or False.")
    for field in ("label", "group", "drop", "numeric"):
        value = getattr(config, field)
        if not isinstance(value, str | list | tuple) or not all(isinstance(text, str) for text in value):
            raise JaxfairError(f"What is given as {field} is {value!r}; give the name of a column, or a list of names.")
    whole = isinstance(config.size, numbers.Integral) and not isinstance(config.size, bool)
    if config.size is not None and not (whole and 1 <= config.size <= 4096):
        raise JaxfairError(f"The image size is {config.size!r}; give 1 to 4096 pixels, or leave it out.")
    if not isinstance(config.merge_below, numbers.Integral) or config.merge_below < 0:
        raise JaxfairError(f"Groups below {config.merge_below} images are to be merged; give 0 for none, or more.")
    takers = {"images": ("table",), "image_column": ("table", "tfds")}
    for field, default in dataclasses.asdict(SourceConfig(config.name)).items():
        useful = config.name not in EMBEDDED and config.name in takers.get(field, NAMES)
        if not useful and getattr(config, field) != default:
            raise JaxfairError(
                f"The data set '{config.name}' takes no {field}; leave it out, or name another set "
                f"({', '.join(OWN)} for your own)."
            )
    paths = {field: Path(value) for field in ("path", "images") if (value := getattr(config, field)) is not None}
    lists = {field: getattr(config, field) for field in ("label", "group", "drop", "numeric")}
    texts = {
        field: tuple(nfc(text) for text in ([value] if isinstance(value, str) else value))
        for field, value in lists.items()
    }
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
            if holds_files(path) or path.suffix.lower() == ".mat":  # and no checksum or unfinished download
                return named.layout, path
    mine, own = os.environ.get("TFDS_DATA_DIR"), store.home()
    folders = [data_dir / "tfds", *([Path(mine)] if mine else []), *([own / "tensorflow_datasets"] if own else [])]
    found = tfds.find(named.tfds, folders)
    if found is None:
        here = f"put {named.what} into '{data_dir}' (JAXFAIR_DATA names another folder)"
        hint = f"{here}, or name the folder or archive by path"
        missing = f"There are no files of '{config.name}' in the data directory; {hint}"
        if named.tfds == "utkface":
            raise JaxfairError(f"{missing}.")
        if importlib.util.find_spec("tensorflow") is None:
            raise JaxfairError(f"{missing}, or install jaxfair[tensorflow], by which TFDS downloads them.")
        found = tfds.prepare_stock(named.tfds, folders[0], hint=hint)
    return "tfds", found


def _decoded(
    config: SourceConfig, layout: Layout, path: Path, cache: Path, on_progress: OnProgress | None
) -> tuple[np.ndarray, Index]:
    """Decode a source into the cache, or map what is there already."""
    images_in, sources, wanted = path, [identity(path)], None
    if layout == "table":
        images_in = config.images or (path if holds_files(path) else path.parent)
        if not holds_files(path):  # what lies beside its images makes no other set
            wanted = table.named_files(path, config.image_column or "path")
    if images_in != path:
        sources.append(identity(images_in, wanted))
    key = {"layout": layout, "column": config.image_column, "size": config.size, "sources": sources}

    def build(allocate: store.Allocate) -> Index:
        with open_files(images_in, nested=True, wanted=wanted) as files:
            index = _read(layout, path, files, config.image_column)
            if not len(index.names):
                raise JaxfairError(f"There is no image in '{images_in}'; expected the layout '{layout}'.")
            height, width, channels = index.size or (32, 32, 3)
            if config.size or layout != "npz":
                height = width = config.size or 32
            images = allocate((len(index.names), height, width, channels))
            return index._replace(unreadable=decode_all(index.stream(), images, on_progress=on_progress))

    return store.load_or_build(cache, key, build)


def _read(layout: Layout, path: Path, files: Files, image_column: str | None) -> Index:
    """Return what the layout says of a source; an archive in an archive is named where it explains a failure."""
    readers = {"utkface": utkface, "cifar10": cifar10, "svhn": svhn, "celeba": celeba, "folder": folder}
    try:
        if layout == "table":
            return table.read(path, files, image_column or "path")
        if layout == "npz":
            return arrays.read(path)
        if layout == "tfds":
            return tfds.read(path, image=image_column or "image")
        return readers[layout].read(files)
    except JaxfairError as error:
        if files.archives and not files.path.is_dir():
            hint = f"it holds the archive '{files.archives[0]}': unpack that, and name it instead"
            raise JaxfairError(f"{str(error).rstrip('.')}; {hint}.") from error
        raise


def _check_spelled(name: str, columns: Mapping[str, Column], wanted: bool) -> None:
    """Refuse a column that would have a meaning if it were written as ``name``, and has none."""
    for other in columns:
        if wanted and name not in columns and other.strip().lower() == name:
            raise JaxfairError(f"There is a column '{other}'; call it '{name}', or name it by {name} (--data.{name}).")


def _check_passed(
    config: SourceConfig, named: Named | None, columns: Mapping[str, Column], left_out: Sequence[Rejected]
) -> None:
    """Refuse a label or group of a column that was passed over: the groups would be the classes without a word."""
    own = () if named else ("label", "group")
    said = {one.name: one.reason for one in left_out}
    for name in (*(config.label or own[:1]), *(config.group or own[1:])):
        if name not in columns and (why := said.get(of_column(name))):
            raise JaxfairError(
                f"The column '{name}' {why.removesuffix(table.PASSED)}; give a single number or text in each row, or "
                "choose other columns by label and group (--data.label, --data.group)."
            )


def _not_dropped(config: SourceConfig, named: Named | None) -> tuple[Rejected, ...]:
    """Return what is to be said of values that a named set leaves out, and that stay since others are to be dropped."""
    forgotten = set(named.drop) - set(config.drop) if named and config.drop and not config.label else set()
    return tuple(Rejected(item, "stays in, since other values are given to be dropped") for item in sorted(forgotten))


def _with_defaults(config: SourceConfig, named: Named | None, columns: Mapping[str, Column]) -> SourceConfig:
    """Return the configuration with the label, the group and the dropped values that it does not name."""
    label = config.label or (named.label if named else ("class",) if config.name == "folder" else ("label",))
    _check_spelled("group", columns, named is None and not config.group)
    own = ("group",) if named is None and "group" in columns else label
    drop = config.drop or (named.drop if named and not config.label else ())
    return dataclasses.replace(config, label=label, group=config.group or own, drop=drop)
