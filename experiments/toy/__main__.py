"""The toy studies of Das et al. 2024: two classes in the plane (Fig. 2), and linear pieces (Fig. 10, Prop. 4.1, 4.2).

    python -m experiments.toy boundary
    python -m experiments.toy pieces

``boundary`` trains a small network on two groups, with all of its ReLUs and with a random half of its hidden units
linear, and compares what each group loses. ``pieces`` counts the linear pieces of random networks exactly, against the
formula for how many there can be, and compares trained networks with the best piecewise linear approximation.
"""

import os
from collections.abc import Sequence

from experiments import cli
from jaxfair.kernels import prefer_onednn

if __name__ == "__main__":
    cli.begin()
    prefer_onednn(os.environ)  # before JAX is imported, which reads its flags then

from experiments.toy.settings import Boundary, Pieces


def _study() -> cli.Work:
    from experiments.toy import study

    return study.make


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    kinds = {"boundary": Boundary, "pieces": Pieces}
    commands = {word: cli.Command(kind, _study, once=cli.several(kind)) for word, kind in kinds.items()}
    return cli.main("python -m experiments.toy", __doc__, commands, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
