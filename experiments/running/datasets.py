"""The data of a study: loaded, split, thinned, and described for its record."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.running.progress import Progress
from jaxfair.data import sources
from jaxfair.data.dataset import Dataset, Rows, make_dataset
from jaxfair.data.protocol import SourceConfig, summary
from jaxfair.data.sources import Loaded
from jaxfair.errors import JaxfairError
from jaxfair.runs import Run


@dataclasses.dataclass(frozen=True)
class DataConfig(SourceConfig):
    """Which data, and how it is split.

    Attributes:
        test_fraction: share held out, stratified by class and group, where there is no official test set.
        seed: of the split and of what is kept; a study can count on from it, with one split for each training seed.
        keep: share of each class (or group) kept in training, in order; one alone is that of every class, and where
            none is given, it is the named set's.
        keep_by: whether ``keep`` lists classes or groups.
        keep_in_test: whether the test set is thinned too, as the code of Das et al. does.
    """

    test_fraction: float = 0.2
    seed: int = 0
    keep: tuple[float, ...] = ()
    keep_by: Literal["label", "group"] = "label"
    keep_in_test: bool = False


PLACES = ("path", "images")  # fields that say where the data is, not what it is
UNKNOWN_SIZE, MANY = 32, 100_000  # of images that are not there yet
ADDED = ("numeric",)  # fields that older runs do not have: left out where they say nothing, so that these are found


class Prepared(NamedTuple):
    """The data of a study.

    Attributes:
        train, test: the sets.
        record: what goes into every configuration.
        source: where it came from and what was left out, which goes into every record of the environment.
    """

    train: Dataset
    test: Dataset
    record: dict[str, Any]
    source: dict[str, Any]


def prepare(config: DataConfig) -> Prepared:
    """Load and split the data."""
    return prepare_splits(config, 1)[0]


def prepare_splits(config: DataConfig, count: int) -> list[Prepared]:
    """Load the data, and split them by so many seeds from ``config.seed`` on.

    Returns:
        The splits; one alone where all are the same, since there is an official test set and all images are kept.
    """
    loaded = load(config)
    if config.name not in sources.EMBEDDED:
        print("\n".join(origin(loaded)), file=sys.stderr)
    left_out = [f"{item.name} {item.reason}" for item in loaded.left_out]
    source = {"title": loaded.title, "origin": loaded.origin, "left_out": left_out}
    made = []
    for seed in range(count if splits_differ(loaded, config) else 1):
        one = dataclasses.replace(config, seed=config.seed + seed)
        train_set, test_set = splits(loaded, one)
        made.append(Prepared(train_set, test_set, record(one, loaded, train_set, test_set), source))
    return made


def splits_differ(loaded: Loaded, config: DataConfig) -> bool:
    """Return whether the seed decides anything of a split."""
    return not loaded.official or bool(shares(config, loaded) or loaded.keep)


def prepare_or_blank(config: DataConfig, count: int = 1) -> tuple[list[Prepared], str]:
    """Return the splits and nothing; or, where a plan is made before the data are there, blank images and why.

    Raises:
        JaxfairError: the data are there and cannot be used, or there is no data set of that name.
    """
    try:
        return prepare_splits(config, count), ""
    except JaxfairError as error:
        there = config.path is not None and config.path.exists()
        if there or config.name in sources.EMBEDDED or config.name not in sources.NAMES:
            raise
        return [_blank(dataclasses.replace(config, seed=config.seed + seed)) for seed in range(count)], str(error)


def _blank(config: DataConfig) -> Prepared:
    """Return black images of two classes, as many as any batch needs, which take no memory."""
    side = config.size or UNKNOWN_SIZE
    images = np.broadcast_to(np.zeros((1, side, side, 3), np.uint8), (MANY, side, side, 3))
    label, names, nothing = np.arange(MANY) % 2, ("0", "1"), np.zeros(3, np.float32)
    blank = make_dataset(
        *(Rows(images, np.arange(MANY)), label, label),
        **{"name": config.name, "class_names": names, "group_names": names},
        on_device=False,
        statistics=(nothing, nothing + 1),
    )
    return Prepared(blank, blank, {"name": config.name, "seed": config.seed}, {})


def load(config: DataConfig) -> Loaded:
    """Load the data, with a bar while images are decoded."""
    with Progress() as progress:
        return sources.load(config, on_progress=shown(progress, "decode images"))


def origin(loaded: Loaded) -> list[str]:
    """Return lines on where the data was found and what was left out."""
    left_out = [f"not used: {summary(loaded.left_out)}"] if loaded.left_out else []
    return [f"{loaded.title}, {loaded.origin}", *left_out]


def splits(loaded: Loaded, config: DataConfig) -> tuple[Dataset, Dataset]:
    """Return the training and the test set, thinned as the configuration says."""
    return loaded.split(
        config.test_fraction,
        config.seed,
        keep=shares(config, loaded) or loaded.keep,
        keep_by=config.keep_by,
        keep_in_test=config.keep_in_test,
    )


def shares(config: DataConfig, loaded: Loaded) -> tuple[float, ...]:
    """Return the share of each class, or group, that the configuration keeps."""
    first = loaded.parts[0]
    names = first.class_names if config.keep_by == "label" else first.group_names
    return config.keep * len(names) if len(config.keep) == 1 else config.keep


def record(config: DataConfig, loaded: Loaded, train_set: Dataset, test_set: Dataset) -> dict[str, Any]:
    """Describe the data for the record of a run: what it is, not where it lies or what lies beside it."""
    fields = dataclasses.asdict(config)
    settings = {key: value for key, value in fields.items() if key not in PLACES and (value or key not in ADDED)}
    return {
        **settings,
        "keep": shares(config, loaded),
        "official_test_set": loaded.official,
        "class_names": train_set.class_names,
        "group_names": train_set.group_names,
        "train_count": train_set.group_counts,
        "test_count": test_set.group_counts,
        "image_shape": train_set.image_shape,
        "fingerprint": {"train": train_set.fingerprint(), "test": test_set.fingerprint()},
    }


def of_run(run: Run) -> DataConfig:
    """Return what data a run was made of, and where it found them: its environment says that, not its configuration."""
    stored = run.config["data"]
    fields = {field.name for field in dataclasses.fields(DataConfig)} & set(stored)
    settings: Any = {name: tuple(v) if isinstance(v := stored[name], list) else v for name in fields}
    if stored["name"] not in sources.EMBEDDED:  # with a path, nothing is searched for or downloaded
        settings["path"] = Path(run.json("environment.json")["data_source"]["origin"].partition(" in ")[2])
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
