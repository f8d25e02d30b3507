"""The linearization study (Das et al. 2024): who loses accuracy when ReLUs are removed, and what foretells it.

    python -m experiments.linearization --preset quickstart

Trains a full network for each seed, linearizes it by SNL (one descent, several budgets) and DeepReDuce, fine-tunes by
distillation, measures every group, and writes a report. Finished runs are kept: the same command goes on where it was
interrupted, and another one shares the runs that it has in common. ``--dry-run`` lists the runs and what is left.
"""

import os
from collections.abc import Sequence

from experiments import cli
from jaxfair.kernels import prefer_onednn

if __name__ == "__main__":
    cli.begin()
    prefer_onednn(os.environ)  # before JAX is imported, which reads its flags then

from experiments.linearization.settings import PRESETS, ignored


def _study() -> cli.Work:
    from experiments.linearization import study

    return study.run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    command = cli.Command(PRESETS, _study, once=cli.several(PRESETS), unused=ignored)
    return cli.main("python -m experiments.linearization", __doc__, {"": command}, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
