"""Several linearization studies side by side: who loses accuracy, by data set, network, method and budget.

    python -m experiments.linearization.across results/digits results/utkface --out results/across

Reads finished studies of ``experiments.linearization`` and writes one figure (Das et al. 2024, Fig. 1, 6, 7 and 11),
one table of all networks, and the findings of the paper with every study's verdict.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import cli

if __name__ == "__main__":
    cli.begin()

from experiments.running.settings import StudyFolders


@dataclasses.dataclass(frozen=True)
class Across:
    """Compare several linearization studies: who loses accuracy, by data set, network, method and budget.

    Attributes:
        studies: folders that finished studies were told as ``--out``.
        out: folder of the figure and the tables.
    """

    studies: StudyFolders
    out: Path


def _work() -> cli.Work:
    from experiments.linearization import side_by_side

    return side_by_side.compare


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    command = cli.Command(Across, _work, "the studies are untouched, and the same command starts over")
    return cli.main("python -m experiments.linearization.across", __doc__, {"": command}, arguments)


if __name__ == "__main__":
    sys.exit(main())
