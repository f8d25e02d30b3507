"""The data of a study: loaded, split, thinned, and described for its record."""

import dataclasses
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.running.progress import Progress
from experiments.running.settings import FOLDS, DataConfig
from jaxfair.data import sources
from jaxfair.data.dataset import Dataset, Rows, make_dataset
from jaxfair.data.protocol import summary
from jaxfair.data.sources import Loaded
from jaxfair.data.splits import check_classes, divide, thin, with_training_statistics
from jaxfair.errors import JaxfairError
from jaxfair.runs import Run

PLACES = ("path", "images")  # fields that say where the data is, not what it is
UNKNOWN_SIZE, MANY = 32, 100_000  # of images that are not there yet
BRIGHT = 65
"""A pixel of 8 bits that some image of a set has, unless all of its images are nearly black."""
ADDED = ("numeric", "rebalance", "validation_fraction")
"""Fields that older runs do not have: left out where they say nothing, so that these are found."""


class Prepared(NamedTuple):
    """The data of a study.

    Attributes:
        train, test: the sets.
        record: what goes into every configuration.
        source: where it came from and what was left out, which goes into every record of the environment.
        validation: images held out from training; None where none are.
    """

    train: Dataset
    test: Dataset
    record: dict[str, Any]
    source: dict[str, Any]
    validation: Dataset | None = None


def prepare(config: DataConfig) -> Prepared:
    """Load and split the data."""
    return prepare_splits(config, 1)[0]


def prepare_splits(config: DataConfig, count: int) -> list[Prepared]:
    """Load the data, and split them by so many seeds from ``config.seed`` on.

    Returns:
        The splits; one alone where all are the same, since there is an official test set and all images are kept.
    """
    return prepare_each([config], count)[0]


def prepare_each(configs: Sequence[DataConfig], count: int) -> list[list[Prepared]]:
    """Load data once, and split them as each configuration says; all are of the same source.

    Returns:
        For each configuration what ``prepare_splits`` does.
    """
    _check_options(configs[0])
    loaded = load(configs[0])
    if configs[0].name not in sources.EMBEDDED:
        print("\n".join(origin(loaded, configs[0])), file=sys.stderr)
    return [_split_by_seeds(loaded, config, count) for config in configs]


def _split_by_seeds(loaded: Loaded, config: DataConfig, count: int) -> list[Prepared]:
    left_out = [f"{item.name} {item.reason}" for item in loaded.left_out]
    source = {"title": loaded.title, "origin": loaded.origin, "left_out": left_out}
    if config.images is not None:
        source["images"] = str(config.images)
    made = []
    for seed in range(count if splits_differ(loaded, config) else 1):
        one = dataclasses.replace(config, seed=config.seed + seed)
        train_set, test_set, held_out = splits(loaded, one)
        made.append(Prepared(train_set, test_set, record(one, loaded, train_set, test_set, held_out), source, held_out))
    return made


def splits_differ(loaded: Loaded, config: DataConfig) -> bool:
    """Return whether the seed decides anything of a split."""
    chosen = config.rebalance or config.validation_fraction
    return not loaded.official or bool(shares(config, loaded) or loaded.keep or chosen)


def prepare_or_blank(config: DataConfig) -> tuple[list[Prepared], str]:
    """Return the split and nothing; or, where a plan is made before the data are there, blank images and why.

    Raises:
        JaxfairError: the data are there and cannot be used, or there is no data set of that name.
    """
    (made,), absent = prepare_each_or_blank([config], 1)
    return made, absent


def prepare_each_or_blank(configs: Sequence[DataConfig], count: int) -> tuple[list[list[Prepared]], str]:
    """Do the same for several configurations of one source."""
    _check_options(configs[0])  # or they would be wrong only once the data are there
    try:
        return prepare_each(configs, count), ""
    except JaxfairError as error:
        config = configs[0]
        places = [place for place in (config.path, config.images) if place is not None]
        there = bool(places) and all(place.exists() for place in places)  # a table may be there before its images
        if there or config.name in sources.EMBEDDED or config.name not in sources.NAMES:
            raise
        seeds = range(config.seed, config.seed + count)
        return [[_blank(dataclasses.replace(one, seed=seed)) for seed in seeds] for one in configs], str(error)


def _check_options(config: DataConfig) -> None:
    """Refuse options that the data set does not take, wherever it is."""
    if config.name in sources.EMBEDDED and config.size is not None:
        raise JaxfairError(
            f"The images of '{config.name}' have a size of their own; leave --data.size out, or give --data.size None "
            "where a preset has one."
        )
    sources.checked_config(config)


def _blank(config: DataConfig) -> Prepared:
    """Return black images of several classes, as many as any batch needs, which take no memory.

    Three, since what is measured of two classes alone is not declared for most data.
    """
    side = config.size or UNKNOWN_SIZE
    images = np.broadcast_to(np.zeros((1, side, side, 3), np.uint8), (MANY, side, side, 3))
    label, names, nothing = np.arange(MANY) % 3, ("0", "1", "2"), np.zeros(3, np.float32)
    blank = make_dataset(
        *(Rows(images, np.arange(MANY)), label, label),
        **{"name": config.name, "class_names": names, "group_names": names},
        on_device=False,
        statistics=(nothing, nothing + 1),
    )
    which = {"rebalance": config.rebalance} if config.rebalance else {}
    held_out = blank if config.validation_fraction else None
    return Prepared(blank, blank, {"name": config.name, "seed": config.seed, **which}, {}, held_out)


def load(config: DataConfig) -> Loaded:
    """Load the data, with a bar while images are decoded."""
    with Progress() as progress:
        return sources.load(config, on_progress=shown(progress, "decode images"))


def origin(loaded: Loaded, config: DataConfig) -> list[str]:
    """Return lines on where the data was found, what was not used as it is, and what is kept for training."""
    noted = [f"note: {summary(loaded.left_out)}"] if loaded.left_out else []
    keep = shares(config, loaded) or loaded.keep
    percent = ", ".join(dict.fromkeys(f"{100 * share:g} %" for share in keep))
    of_these = f", {100 * config.keep[0]:g} % of what '{config.name}' keeps" if _multiplies(config, loaded) else ""
    kept = [f"kept of the training images: {percent}{of_these} (--data.keep)"] if set(keep) - {1.0} else []
    return [f"{loaded.title}, {loaded.origin}", *noted, *_dark(loaded.parts), *kept]


def _dark(parts: Iterable[Dataset]) -> list[str]:
    """Return a warning if all images are nearly black, as where their bits are fewer than their files'."""
    brightest, each = 0, 1000
    for part in parts:
        for first in range(0, len(part), each):
            brightest = max(brightest, int(np.asarray(part.images[first : first + each]).max()))
            if brightest >= BRIGHT:
                return []
    said = f"no pixel of any image is above {brightest} of 255, as where 12 bits are stored in files of 16"
    return [f"warning: {said}; scale the images to the whole range first, or their shades are lost."]


def splits(loaded: Loaded, config: DataConfig) -> tuple[Dataset, Dataset, Dataset | None]:
    """Return the training and the test set, thinned as the configuration says, and the images held out, if any are.

    Raises:
        JaxfairError: the data cannot be split or thinned so, or there is no imbalance to be swapped.
    """
    keep = shares(config, loaded) or loaded.keep
    if not keep and (config.keep_in_test or config.keep_by != DataConfig.keep_by):
        option = "keep-in-test" if config.keep_in_test else "keep-by"
        raise JaxfairError(f"All images of '{config.name}' are kept; give shares as keep too, or leave {option} out.")
    train, test = _thinned(loaded, config, keep)
    if config.rebalance is not None:
        made = _swapped(loaded, config) if config.rebalance == "swapped" else _folded(loaded, config, train)
        check_classes(made, test)  # groups are thinned, of which a class may have few images
        train, test = with_training_statistics(made, test)
    if not config.validation_fraction:
        return train, test, None
    train, held_out = divide(train, config.validation_fraction, config.seed, held_out="validation")
    train, test = with_training_statistics(train, test)
    return train, test, dataclasses.replace(held_out, mean=train.mean, std=train.std)


def _thinned(loaded: Loaded, config: DataConfig, keep: Sequence[float]) -> tuple[Dataset, Dataset]:
    about = {"keep_by": config.keep_by, "keep_in_test": config.keep_in_test}
    return loaded.split(config.test_fraction, config.seed, keep=keep, **about)


def _large(loaded: Loaded, config: DataConfig) -> np.ndarray:
    """Return whether each group can be expected to have at least the average number of training images.

    Expected, since what is thinned at random leaves a group of about the average now more, now less: the same groups
    are large for every seed.
    """
    every, kept = loaded.parts[0], shares(config, loaded) or loaded.keep
    weights = np.asarray(kept)[np.asarray(getattr(every, config.keep_by))] if kept else None
    counts = np.bincount(np.asarray(every.group), weights, len(every.group_names))
    return counts * (1 + 1e-9) >= counts.mean()  # equal ones are large, whatever their mean rounds to


def _folded(loaded: Loaded, config: DataConfig, as_it_is: Dataset) -> Dataset:
    """Return a training set whose large groups have so many times as many images as its small ones.

    All large groups have one count, and all small ones; together they are as many as without it, as far as there are
    any.
    """
    assert config.rebalance is not None
    fold, large = FOLDS[config.rebalance], _large(loaded, config)
    if fold > 1 and large.all():
        raise JaxfairError(
            f"'{config.name}' has no small groups, all have {as_it_is.group_counts[0]:,} training images; give shares "
            f"that make some small as --data.keep, or leave {config.rebalance} out."
        )
    every = _thinned(loaded, config, ())[0]
    parts = np.where(large, fold, 1)  # a large group's count in small ones'
    unit = min(int((every.group_counts // parts).min()), len(as_it_is) // int(parts.sum()))
    if not unit:
        raise JaxfairError(
            f"The training images of '{config.name}' are too few for {config.rebalance}: none would be left of a small "
            f"group; leave {config.rebalance} out."
        )
    return thin(every, list(unit * parts / every.group_counts), config.seed, "group")


def _swapped(loaded: Loaded, config: DataConfig) -> Dataset:
    """Return a training set in which the classes (or groups) of which most were kept are those of which least are."""
    keep = shares(config, loaded) or loaded.keep
    if len(set(keep)) < 2:
        raise JaxfairError(
            f"The imbalance of '{config.name}' cannot be swapped: its small groups have too few images to be large; "
            "give different shares as --data.keep, or leave swapped out."
        )
    train = _thinned(loaded, config, [round(max(keep) + min(keep) - share, 9) for share in keep])[0]
    large = _large(loaded, config)
    if large.all() or train.group_counts[large].mean() >= train.group_counts[~large].mean():
        raise JaxfairError(
            f"The shares {tuple(keep)} exchanged leave the large groups of '{config.name}' large; give shares that "
            "make the imbalance, or leave swapped out."
        )
    return train


def shares(config: DataConfig, loaded: Loaded) -> tuple[float, ...]:
    """Return the share of each class, or group, that the configuration keeps."""
    if _multiplies(config, loaded):  # or a preset's share would make a set even whose imbalance it is named for
        return tuple(round(config.keep[0] * share, 9) for share in loaded.keep)
    first = loaded.parts[0]
    names = first.class_names if config.keep_by == "label" else first.group_names
    return config.keep * len(names) if len(config.keep) == 1 else config.keep


def _multiplies(config: DataConfig, loaded: Loaded) -> bool:
    """Return whether the configuration has one share, by which those of the named set are multiplied."""
    return len(config.keep) == 1 and bool(loaded.keep)


def record(
    config: DataConfig, loaded: Loaded, train_set: Dataset, test_set: Dataset, held_out: Dataset | None = None
) -> dict[str, Any]:
    """Describe the data for the record of a run: what it is, not where it lies or what lies beside it."""
    fields = dataclasses.asdict(config)
    settings = {key: value for key, value in fields.items() if key not in PLACES and (value or key not in ADDED)}
    parts = {"train": train_set, "test": test_set, **({} if held_out is None else {"validation": held_out})}
    return {
        **settings,
        "keep": shares(config, loaded),
        "official_test_set": loaded.official,
        "class_names": train_set.class_names,
        "group_names": train_set.group_names,
        **{f"{name}_count": part.group_counts for name, part in parts.items()},
        "image_shape": train_set.image_shape,
        "fingerprint": {name: part.fingerprint() for name, part in parts.items()},
    }


def of_run(run: Run) -> DataConfig:
    """Return what data a run was made of, and where it found them: its environment says that, not its configuration."""
    stored = run.config["data"]
    fields = {field.name for field in dataclasses.fields(DataConfig)} & set(stored)
    settings: Any = {name: tuple(v) if isinstance(v := stored[name], list) else v for name in fields}
    if stored["name"] not in sources.EMBEDDED:  # with a path, nothing is searched for or downloaded
        source = run.json("environment.json")["data_source"]
        settings["path"] = Path(source["origin"].partition(" in ")[2])
        settings |= {"images": Path(source["images"])} if "images" in source else {}
    return DataConfig(**settings)


def again(run: Run) -> Prepared:
    """Load the data of a run again.

    Raises:
        JaxfairError: they are not where the run found them, or have changed.
    """
    prepared = prepare(of_run(run))
    if prepared.record["fingerprint"] != run.config["data"]["fingerprint"]:
        raise JaxfairError(f"The data of '{run.path.name}' have changed since it was made; bring the old ones back.")
    return prepared


def shown(progress: Progress, title: str) -> Callable[[int, int], None]:
    """Return a callback that shows how many images of how many are done, from its first call on."""
    begun = False

    def show(done: int, total: int) -> None:
        nonlocal begun
        if not begun:
            progress.expect(1)
            progress.begin(title)
            begun = True
        progress.update(done, total, "images")

    return show
