"""The report of private inference: a page, tables and numbers."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.private import page, study
from experiments.private.settings import Private
from experiments.reporting import reports, tables
from experiments.reporting.series import Estimate


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
        places = ("study", "out", "environment", "timeout")
        how = str({name: value for name, value in dataclasses.asdict(config).items() if name not in places})
        record = {"study": "private", "title": title, "runs": [*facts["runs"], how]}
        (made / reports.RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
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
