"""Two sets of predictions of any framework, before and after a change: which group lost more than which.

    python -m experiments.change --before before.csv --after after.csv --groups people.csv --out DIR

Files are CSV, Parquet or npz with a row for each example, joined by the column ``id``. Predictions have a column
``predicted``, or columns ``logits_CLASS`` or ``probabilities_CLASS`` for each class; the groups' file has ``group`` and
``label``. Several files of a side are runs, such as seeds.
"""

import sys
from collections.abc import Sequence

from experiments import cli

if __name__ == "__main__":
    cli.begin()

from experiments.change.settings import Change


def _study() -> cli.Work:
    from experiments.change import study

    return study.compare


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    command = cli.Command(Change, _study, "an earlier report is untouched", once=cli.several(Change))
    return cli.main("python -m experiments.change", __doc__, {"": command}, arguments)


if __name__ == "__main__":
    sys.exit(main())
