"""What a comparison of two sets of predictions is told."""

import dataclasses
from pathlib import Path
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Change:
    """Compare predictions before and after a change, group by group, and write a page.

    Attributes:
        before: files of predictions before the change, one for each run, or one.
        after: files of predictions after it, as many, or one.
        groups: file of the groups, and of the labels unless the predictions have them.
        out: folder; the page is written into ``report`` in it.
        id: column of the example's id, in every file.
        label: column of its true class.
        group: columns of its group; of several the intersections.
        predicted: column of the predicted class.
        logits: what the columns of logits begin with, before ``_`` and the name of a class.
        probabilities: what the columns of probabilities begin with.
        title: heading of the page.
        reference: group that the others are compared with; by default the largest.
        missing: what to do with examples without a group: refuse them, drop them, or make them a group.
    """

    before: tuple[Path, ...]
    after: tuple[Path, ...]
    groups: Path
    out: Path
    id: str = "id"
    label: str = "label"
    group: tuple[str, ...] = ("group",)
    predicted: str = "predicted"
    logits: str = "logits"
    probabilities: str = "probabilities"
    title: str | None = None
    reference: str | None = None
    missing: Literal["refuse", "drop", "group"] = "refuse"
