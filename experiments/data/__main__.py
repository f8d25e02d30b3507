"""Look at a data set, or prepare it for TFDS.

    python -m experiments.data describe utkface-race
    python -m experiments.data prepare utkface --path UTKFace.zip

``describe`` loads any data set that the studies can use, with the same options, prints what is in it, and writes a
contact sheet. ``prepare`` writes UTKFace as a TFDS data set, which needs no tensorflow.

Names: digits, digits-imbalanced, cifar10, cifar10-imbalanced, svhn, utkface-age, utkface-age5, utkface-race,
utkface-gender, celeba; folder, table, npz and tfds for images of your own.
"""

from collections.abc import Sequence

from experiments import cli

if __name__ == "__main__":
    cli.begin()

from experiments.data.settings import Describe, Prepare


def _describe() -> cli.Work:
    from experiments.data import describe

    return lambda config, _: describe.describe(config)


def _prepare() -> cli.Work:
    from experiments.data import prepare

    return lambda config, _: prepare.prepare(config)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    after = "nothing is half made, and the same command starts again"
    once = [f"--{name.rpartition('.')[2]}" for name in cli.OF_DATA]
    commands = {
        "describe": cli.Command(Describe, _describe, after, once=once),
        "prepare": cli.Command(Prepare, _prepare, after, once=once),
    }
    return cli.main("python -m experiments.data", __doc__, commands, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
