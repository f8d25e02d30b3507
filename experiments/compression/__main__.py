"""The compression study: who loses accuracy when weights are pruned or rounded, and what foretells it.

    python -m experiments.compression --preset quickstart

Trains a full network for each seed, prunes it at once, by layer and gradually, rounds its weights to few bits and to
other formats, fine-tunes what was pruned, measures every group, and writes a report (Tran et al. 2022). Finished runs
are kept, and full networks are shared with a study of linearization in the same folder.
"""

import os
from collections.abc import Sequence

from experiments import cli
from jaxfair.kernels import prefer_onednn

if __name__ == "__main__":
    cli.begin()
    prefer_onednn(os.environ)  # before JAX is imported, which reads its flags then

from experiments.compression.settings import PRESETS, ignored


def _study() -> cli.Work:
    from experiments.compression import study

    return study.run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    command = cli.Command(PRESETS, _study, once=cli.several(PRESETS), unused=ignored)
    return cli.main("python -m experiments.compression", __doc__, {"": command}, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
