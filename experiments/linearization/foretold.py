"""What a Taylor expansion of each group's loss foretells of linearization, on the networks of a finished study.

    python -m experiments.linearization.foretold STUDY --out DIR

Theorem 4.4 (Das et al. 2024) expands in the weights alone. Linearization changes masks and batch statistics too, in
which the loss is as smooth; expanded in all of them, the terms *predict* where the theorem bounds. Reads the networks,
loads the data again, and writes, for every network without mitigation, how well one and two terms agree with what
happened to the groups' losses, and at which part of the way the expansion breaks. ReLUs have kinks, which no Hessian
sees, so the second term lacks what they add (arXiv 2411.16914).
"""

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import cli
from jaxfair.kernels import prefer_onednn

if __name__ == "__main__":
    cli.begin()
    prefer_onednn(os.environ)  # before JAX is imported, which reads its flags then

from experiments.running.settings import StudyFolder


@dataclasses.dataclass(frozen=True)
class Foretold:
    """Say how well a Taylor expansion foretells what linearization does to each group's loss.

    Attributes:
        study: folder that a finished study was told as ``--out``.
        out: folder of the table.
    """

    study: StudyFolder
    out: Path


def _work() -> cli.Work:
    from experiments.linearization import expansion

    return expansion.write


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    command = cli.Command(Foretold, _work, "the study is untouched")
    return cli.main("python -m experiments.linearization.foretold", __doc__, {"": command}, arguments)


if __name__ == "__main__":
    sys.exit(main())
