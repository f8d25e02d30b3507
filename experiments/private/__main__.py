"""Networks of a finished linearization study under private inference: what they cost, and who is predicted otherwise.

    python -m experiments.private setup
    python -m experiments.private STUDY --out DIR --fraction-bits 8 12 18 --images 450

The first command makes the environment that SPU needs, once. The second computes the networks' logits on secret
shares, and writes a page, tables and ``private.json`` into ``DIR/report``.
"""

import sys
from collections.abc import Sequence

from experiments import cli

if __name__ == "__main__":
    cli.begin()

from experiments.private.settings import Private, Setup


def _report() -> cli.Work:
    from experiments.private import report

    return report.write


def _set_up() -> cli.Work:
    from experiments.private import protocol

    def set_up(given: Setup, _: Sequence[str]) -> None:
        protocol.set_up(given.environment, given.python)
        print(f"The environment for private inference is in '{given.environment}'.")

    return set_up


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    after = "an earlier report is untouched"
    commands = {
        "": cli.Command(Private, _report, after, once=cli.several(Private)),
        "setup": cli.Command(Setup, _set_up, after),
    }
    return cli.main("python -m experiments.private", __doc__, commands, arguments)


if __name__ == "__main__":
    sys.exit(main())
