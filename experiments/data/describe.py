"""What is in a data set: counts by group and class, statistics, origin, and a contact sheet."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.data.settings import Describe
from experiments.reporting import files
from experiments.running import datasets
from experiments.running.settings import DataConfig
from jaxfair import groups
from jaxfair.data import sources
from jaxfair.data.dataset import Dataset
from jaxfair.errors import JaxfairError

EACH = 10  # images of a group in the contact sheet
MOST_GROUPS = 20
WIDE = 0.2  # an interval of an accuracy of 80 % that is wider deserves a warning
MOST_CLASSES = 12  # that get a column of their own
SHEET = "contact sheet", "jaxfair contact sheet"
"""What the picture is called, and the text in it by which an earlier one is known, see ``files.replacing``."""


def describe(config: Describe) -> None:
    """Print what is in a data set and write its contact sheet."""
    out = config.out or Path("results/data") / f"{config.name}.png"
    if out.suffix.lower() != ".png" or out.is_dir():
        raise JaxfairError(f"The contact sheet cannot be '{out}'; name a file that ends in .png.")
    files.check_own(out, *SHEET)
    within = config.name == "folder" and config.path is not None and out.resolve().is_relative_to(config.path.resolve())
    if within:
        raise JaxfairError(f"The contact sheet '{out}' would be one of the images that it shows; name another place.")
    loaded = datasets.load(config)
    train_set, test_set, _ = datasets.splits(loaded, config)
    print(overview(config, loaded, train_set, test_set))
    with files.replacing(out, *SHEET) as made:
        contact_sheet(train_set, made / out.name, f"{loaded.title}: some training images of each group")
    print(f"\nContact sheet: {out} (it shows images of the set: mind their licence before you pass it on)")


def overview(config: DataConfig, loaded: sources.Loaded, train_set: Dataset, test_set: Dataset) -> str:
    """Return counts by group and class, statistics, origin and warnings as text."""
    height, width, channels = train_set.image_shape
    share = f"{100 * config.test_fraction:g} % test, seed {config.seed}"
    how = "official split" if loaded.official else f"split by class and group, {share}"
    shown = [f"{value:.3f}" for value in (*np.asarray(train_set.mean), *np.asarray(train_set.std))]
    lines = [
        *datasets.origin(loaded, config),
        f"{len(train_set):,} training and {len(test_set):,} test images of {height}x{width}x{channels}, {how}",
        f"mean {' '.join(shown[:channels])}, deviation {' '.join(shown[channels:])} of the training images in [0, 1]",
    ]
    same = train_set.class_names == train_set.group_names and bool((train_set.label == train_set.group).all())
    classes = () if same or len(train_set.class_names) > MOST_CLASSES else train_set.class_names
    low, high = groups.wilson(np.full(len(test_set.group_names), 0.8), test_set.group_counts)
    intervals = [f"{100 * a:.0f} to {100 * b:.0f} %" for a, b in zip(low, high, strict=True)]
    lines += ["", *_aligned(_counts(train_set, test_set, classes, intervals)), ""]
    if same:
        lines.append("The group is the class.")
    elif not classes:
        lines.append(f"There are {len(train_set.class_names)} classes.")
    if small := [name for name, width in zip(test_set.group_names, high - low, strict=True) if width > WIDE]:
        lines.append(
            f"Warning: too few test images of {', '.join(small)}: an accuracy of 80 % on them would only say that it "
            "lies in the interval of the last column (95 %)."
        )
    return "\n".join(lines).rstrip()


def _counts(train_set: Dataset, test_set: Dataset, classes: Sequence[str], intervals: Sequence[str]) -> list[list[str]]:
    rows = [["group", "train", "test"]]
    rows[0] += [f"{part} {name}" for part in ("train", "test") for name in classes] + ["80 % means"]
    for value, name in enumerate(train_set.group_names):
        members = [np.asarray(part.label)[np.asarray(part.group) == value] for part in (train_set, test_set)]
        counts = [len(labels) for labels in members]
        counts += [int((labels == c).sum()) for labels in members for c in range(len(classes))]
        rows.append([name, *(f"{count:,}" for count in counts), intervals[value]])
    return rows


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    first, *others = widths
    return [
        "  ".join([row[0].ljust(first), *(cell.rjust(w) for cell, w in zip(row[1:], others, strict=True))])
        for row in rows
    ]


def contact_sheet(dataset: Dataset, out: Path, title: str) -> None:
    """Write a picture with images of each group drawn at random, one row a group."""
    import matplotlib.figure

    names = dataset.group_names[:MOST_GROUPS]
    figure = matplotlib.figure.Figure(figsize=(EACH * 0.8 + 2, 0.9 * len(names) + 0.4))
    axes = figure.subplots(len(names), EACH, squeeze=False)
    group = np.asarray(dataset.group)
    for value, (name, row) in enumerate(zip(names, axes, strict=True)):
        members = np.random.default_rng(0).permutation(np.flatnonzero(group == value))
        images = np.asarray(dataset.images[members[:EACH]])
        place = {"transform": row[0].transAxes, "ha": "right", "va": "center"}
        row[0].text(-0.15, 0.5, name, fontsize=9, parse_math=False, **place)
        for position, axis in enumerate(row):
            axis.axis("off")
            if position < len(images):
                image = images[position]
                axis.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
    figure.suptitle(title, fontsize=10, parse_math=False)
    figure.savefig(out, dpi=110, bbox_inches="tight", metadata={"Description": SHEET[1]})
