"""The groups of a study as every table and figure has them: names, counts, which are large, and their order."""

from itertools import count
from typing import NamedTuple

import numpy as np

LARGE, SMALL = "#33608c", "#c8502d"
"""Colours of large and of small groups."""

FEW = 30
"""Test images below which a group's accuracy says little."""


class Part(NamedTuple):
    """The large or the small groups.

    Attributes:
        name: "large groups" or "small groups".
        members: whether each group is one of them, shape (groups,).
        color: in figures.
    """

    name: str
    members: np.ndarray
    color: str


class Groups(NamedTuple):
    """Groups by name, in the order of the groups axis of a study's arrays.

    Attributes:
        names: one for each group.
        train_count: training images of each group, shape (groups,).
        test_count: test images of each group, shape (groups,).
    """

    names: tuple[str, ...]
    train_count: np.ndarray
    test_count: np.ndarray

    __eq__, __hash__ = object.__eq__, object.__hash__  # arrays have neither

    @property
    def large(self) -> np.ndarray:
        """Whether each group has at least the average number of training images; the others are small."""
        return self.train_count >= self.train_count.mean()

    @property
    def order(self) -> np.ndarray:
        """The groups from the most training images to the fewest."""
        return np.argsort(-self.train_count, kind="stable")

    @property
    def parts(self) -> list[Part]:
        """The large groups, and the small ones if there are any."""
        found = [Part("large groups", self.large, LARGE), Part("small groups", ~self.large, SMALL)]
        return [part for part in found if part.members.any()]

    @property
    def titles(self) -> list[str]:
        """Short names with the number of training images, from the most of these to the fewest."""
        short = self.short_names()
        return [f"{short[g]} ({self.train_count[g]:,})" for g in self.order]

    def short_names(self, longest: int = 18) -> list[str]:
        """Return the names with their middles cut, as short as leaves them different, from ``longest`` letters on."""
        for limit in count(longest):
            end = limit // 3
            cut = [n if len(n) <= limit else f"{n[: limit - end - 3]}...{n[-end:]}" for n in self.names]
            if len(set(cut)) == len(set(self.names)):
                break
        return cut

    def warnings(self) -> list[str]:
        """Return a sentence if some groups have fewer than ``FEW`` test images."""
        few = [self.names[g] for g in self.order if self.test_count[g] < FEW]
        return (
            [f"Fewer than {FEW} test images in group {', '.join(few)}: their intervals are very wide."] if few else []
        )
