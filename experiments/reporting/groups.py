"""The groups of a study as every table and figure has them: names, counts, which are large, and their order."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxfair.data.columns import nfc
from jaxfair.errors import JaxfairError
from jaxfair.words import cut

LARGE, SMALL = "#33608c", "#c8502d"
"""Colours of large and of small groups."""

FEW = 30
"""Test images below which a group's accuracy says little."""


TITLE, PARAGRAPH = 26, 160
"""Letters in a line above a panel, and those from which on a name is cut in figures."""

NAMED, SHORT = 12, 40
"""Groups that an error or a warning names; the others are counted. Letters from which on it cuts a name."""


def check_name(name: str | None, names: Sequence[str]) -> str | None:
    """Return a group's name as the data have it, in whatever form of Unicode it is given; None if none is.

    Raises:
        JaxfairError: No group is called so; it says which groups there are.
    """
    name = None if name is None else nfc(name)
    if name is not None and name not in names:
        raise JaxfairError(
            f"There is no group '{cut([name], SHORT)[0]}' to be the reference; the groups are "
            f"{some(cut(names, SHORT))}: give one of them by --reference."
        )
    return name


def some(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


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
        """Names with the number of training images, from the most of these to the fewest, in lines above a panel."""
        return ["\n".join(textwrap.wrap(f"{self.names[g]} ({self.train_count[g]:,})", TITLE)) for g in self.order]

    def wrapped(self, longest: int = 18) -> list[str]:
        """Return the names in lines of at most ``longest`` letters; of a whole paragraph the middle is cut."""
        return ["\n".join(textwrap.wrap(name, longest)) or name for name in cut(self.names, PARAGRAPH)]

    def warnings(self) -> list[str]:
        """Return a sentence if some groups have fewer than ``FEW`` test images."""
        names = cut(self.names, SHORT)
        few = [names[g] for g in self.order if self.test_count[g] < FEW]
        return [f"Fewer than {FEW} test images in group {some(few)}: their intervals are very wide."] if few else []
