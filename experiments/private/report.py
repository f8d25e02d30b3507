"""The report of private inference: a page, tables and numbers."""

import dataclasses
from collections.abc import Sequence

from experiments.private import page, study
from experiments.private.settings import Private
from experiments.reporting import reports, tables
from jaxfair import runs


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
    named["differences"] = study.difference_rows(found)
    with reports.replacing(config.out / "report") as made:
        tables.write_all(made, named)
        runs.write_json(made / "private.json", {**facts, "answer": study.answer(found), **named})
        (made / reports.PAGE).write_text(page.page(config, title, found, facts), encoding="utf-8")
        places = ("study", "out", "environment", "timeout")
        how = str({name: value for name, value in dataclasses.asdict(config).items() if name not in places})
        record = {"study": "private", "title": title, "runs": [*facts["runs"], how]}
        runs.write_json(made / reports.RECORD, record)
    tables.show(tables.Table(page.COSTS, found.costs), "What an inference costs")
    tables.show(tables.Table(page.ACCURACY, found.accuracy), "Fixed point against floating point (aby3)")
    print(f"{study.answer(found)}\n\nReport: {config.out / 'report' / reports.PAGE}")
