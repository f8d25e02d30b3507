"""The process that makes the runs of one hardware profile; the study starts it, the profile before its own options.

A profile is what JAX reads when it starts, so that each needs a process of its own.
"""

import sys
from collections.abc import Sequence

from experiments import cli
from experiments.hardware.study import PRESETS, make
from jaxfair import hardware, processes


def main(arguments: Sequence[str]) -> int:
    """Make the runs of the profile that is named first, of the study that the other arguments describe."""
    name, *options = arguments
    command = cli.Command(PRESETS, lambda study, _: make(study, hardware.named(name)))
    return cli.main("python -m experiments.hardware", __doc__, {"": command}, options)


if __name__ == "__main__":
    processes.end_with_parent()
    raise SystemExit(main(sys.argv[1:]))
