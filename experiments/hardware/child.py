"""The process that makes the runs of one hardware profile; the study starts it, the profile before its own options.

A profile is what JAX reads when it starts, so that each needs a process of its own.
"""

import sys
from collections.abc import Sequence

from experiments import cli

cli.listen()

from experiments.hardware.study import PRESETS, make  # noqa: E402
from jaxfair import hardware, processes  # noqa: E402


def main(arguments: Sequence[str]) -> int:
    """Make the runs of the profile that is named first, of the study that the other arguments describe."""
    name, *options = arguments
    program = f"python -m experiments.hardware.child {name}"
    command = cli.Command(PRESETS, lambda study, command: make(study, hardware.named(name), command))
    return cli.main(program, __doc__, {"": command}, options)


if __name__ == "__main__":
    if "--only" not in sys.argv:  # a worker, which is told on its standard input what to do
        processes.end_with_parent()
    raise SystemExit(main(sys.argv[1:]))
