"""The process that makes the runs of one hardware profile; the study starts it, the profile before its own options.

A profile is what JAX reads when it starts, so that each needs a process of its own.
"""

import sys
from collections.abc import Sequence

from experiments import cli

if __name__ == "__main__":
    cli.begin(speaks="--only" in sys.argv)  # a worker, whose words are in a file

from experiments.hardware.settings import PRESETS
from jaxfair import processes


def main(arguments: Sequence[str]) -> int:
    """Make the runs of the profile that is named first, of the study that the other arguments describe."""
    name, *options = arguments

    def load() -> cli.Work:
        from experiments.hardware import study
        from jaxfair import hardware

        return lambda settings, command: study.make(settings, hardware.named(name), command)

    command = cli.Command(PRESETS, load, cli.KEPT if "--only" in options else "")
    return cli.main(f"python -m experiments.hardware.child {name}", __doc__, {"": command}, options)


if __name__ == "__main__":
    if "--only" not in sys.argv:  # a worker, which is told on its standard input what to do
        processes.end_with_parent()
    raise SystemExit(main(sys.argv[1:]))
