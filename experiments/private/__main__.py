"""Networks of a finished linearization study under private inference: what they cost, and who is predicted otherwise.

    python -m experiments.private setup
    python -m experiments.private STUDY --out DIR --fraction-bits 8 12 18 --images 450

The first command makes the environment that SPU needs, once. The second computes the networks' logits on secret
shares, and writes a page, tables and ``private.json`` into ``DIR/report``.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import cli
from experiments.private import page, protocol, study
from experiments.private.study import Private
from experiments.reporting import reports, tables
from experiments.reporting.series import Estimate


@dataclasses.dataclass(frozen=True)
class Setup:
    """Make the environment that SPU needs: Python 3.10 or 3.11, and the versions of ``constraints-mpc.txt``.

    Attributes:
        python: the Python to use; by default the first of python3.11 and python3.10 that starts.
        environment: folder of the environment.
    """

    python: str | None = None
    environment: Path = protocol.ENVIRONMENT


def set_up(config: Setup, _: Sequence[str]) -> None:
    """Make the environment and say where."""
    protocol.set_up(config.environment, config.python)
    print(f"The environment for private inference is in '{config.environment}'.")


def write(config: Private, command: Sequence[str]) -> None:
    """Run the protocols, write the page, its tables and numbers, and print the tables."""
    study.check(config)
    found = study.find(config)
    title = f"Private inference of {config.study.name}"
    facts = {
        "made by": reports.typed(command),
        "runs": [run.path.name for run in found.runs],
        "versions": found.versions,
    }
    named = {"costs": found.costs, "accuracy": found.accuracy, "groups": study.group_rows(found.changes)}
    with reports.replacing(config.out / "report") as made:
        tables.write_all(made, named)
        numbers = {"answer": study.answer(found), **{name: list(map(_plain, rows)) for name, rows in named.items()}}
        (made / "private.json").write_text(json.dumps({**facts, **numbers}, indent=1) + "\n", encoding="utf-8")
        (made / reports.PAGE).write_text(page.page(config, title, found, facts), encoding="utf-8")
    tables.show(tables.Table(page.COSTS, found.costs), "What an inference costs")
    tables.show(tables.Table(page.ACCURACY, found.accuracy), "Fixed point against floating point (aby3)")
    print(f"{study.answer(found)}\n\nReport: {config.out / 'report' / reports.PAGE}")


def _plain(row: tables.Row) -> dict[str, Any]:
    """Return a row as JSON takes it: estimates as lists, and None for what is not a number."""

    def plain(value: Any) -> Any:
        if isinstance(value, Estimate):
            return [plain(part) for part in value]
        return None if isinstance(value, float) and not np.isfinite(value) else value

    return {name: plain(value) for name, value in row.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    after = "an earlier report is untouched"
    commands = {"": cli.Command(Private, write, after), "setup": cli.Command(Setup, set_up, after)}
    return cli.main("python -m experiments.private", __doc__, commands, arguments)


if __name__ == "__main__":
    sys.exit(main())
