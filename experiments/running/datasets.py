"""The data of a study: loaded, split, thinned, and described for its record."""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from experiments.running.progress import Progress
from jaxfair.data import sources
from jaxfair.data.dataset import Dataset
from jaxfair.data.protocol import SourceConfig, summary
from jaxfair.data.sources import Loaded


@dataclasses.dataclass(frozen=True)
class DataConfig(SourceConfig):
    """Which data, and how it is split.

    Attributes:
        test_fraction: share held out, stratified by class and group, where there is no official test set.
        seed: of the split and of what is kept; shared by all training seeds.
        keep: share of each class (or group) kept in training, in order; none given, the named set's.
        keep_by: whether ``keep`` lists classes or groups.
        keep_in_test: whether the test set is thinned too, as the code of Das et al. does.
    """

    test_fraction: float = 0.2
    seed: int = 0
    keep: tuple[float, ...] = ()
    keep_by: Literal["label", "group"] = "label"
    keep_in_test: bool = False


PLACES = ("path", "images")  # fields that say where the data is, not what it is
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
    loaded = load(config)
    if config.name not in sources.EMBEDDED:
        print("\n".join(origin(loaded)), file=sys.stderr)
    train_set, test_set = splits(loaded, config)
    left_out = [f"{item.name} {item.reason}" for item in loaded.left_out]
    source = {"title": loaded.title, "origin": loaded.origin, "left_out": left_out}
    return Prepared(train_set, test_set, record(config, loaded, train_set, test_set), source)


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
        keep=config.keep or loaded.keep,
        keep_by=config.keep_by,
        keep_in_test=config.keep_in_test,
    )


def record(config: DataConfig, loaded: Loaded, train_set: Dataset, test_set: Dataset) -> dict[str, Any]:
    """Describe the data for the record of a run: what it is, not where it lies or what lies beside it."""
    fields = dataclasses.asdict(config)
    settings = {key: value for key, value in fields.items() if key not in PLACES and (value or key not in ADDED)}
    return {
        **settings,
        "official_test_set": loaded.official,
        "class_names": train_set.class_names,
        "group_names": train_set.group_names,
        "train_count": train_set.group_counts,
        "test_count": test_set.group_counts,
        "image_shape": train_set.image_shape,
        "fingerprint": {"train": train_set.fingerprint(), "test": test_set.fingerprint()},
    }


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
