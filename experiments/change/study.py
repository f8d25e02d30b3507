"""A comparison of two sets of predictions, from its settings to its page."""

import importlib.metadata
import platform
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.change import page
from experiments.change.predictions import Joined, Names, join
from experiments.change.settings import Change
from experiments.reporting import drawing, reports, tables
from experiments.reporting.groups import FEW
from jaxfair.change import ChangeReport, change_report
from jaxfair.data.columns import nfc
from jaxfair.errors import JaxfairError
from jaxfair.inputs import quoted
from jaxfair.runs import file_digest, write_json

PACKAGES = ("jax", "numpy", "scipy", "matplotlib")


def compare(config: Change, command: Sequence[str]) -> ChangeReport:
    """Write the page of a comparison, its figures and tables, and return its numbers.

    Raises:
        JaxfairError: files or columns do not fit together, or the folder cannot be written.
    """
    if not config.before or not config.after:
        raise JaxfairError("There are no files of one side; give at least one each by --before and --after.")
    reports.check_new(config.out / "report")
    given: dict[str, Any] = {name: getattr(config, name) for name in Names._fields}
    given |= {name: nfc(value) for name, value in given.items() if isinstance(value, str)}
    names = Names(**given)
    joined = join(config.before, config.after, config.groups, names)
    if config.missing == "refuse" and (
        lacking := [i for i, of in zip(joined.ids, joined.group, strict=True) if of is None]
    ):
        raise JaxfairError(
            f"In '{config.groups}' {len(lacking)} of {len(joined.ids)} ids have no group: {quoted(lacking)}; give "
            "--missing drop to leave them out or --missing group to make them a group."
        )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        how: dict[str, Any] = {"reference": config.reference, "missing": config.missing}
        report = change_report(joined.before, joined.after, None, joined.y, joined.group, **how)
    told = [*joined.notes, *dict.fromkeys(str(one.message) for one in said if one.category is UserWarning)]
    few = [name for name, count in zip(report.names, report.count, strict=True) if count < FEW]
    told += [f"Fewer than {FEW} examples in group {quoted(few, 10)}: their intervals are very wide."] if few else []
    digests = {path: file_digest(path) for path in (*config.before, *config.after, config.groups)}
    told += _copies(config, digests)
    title = config.title or f"Who lost accuracy: {_side(config.before)} and {_side(config.after)}"
    with reports.replacing(config.out / "report") as made:
        drawn = drawing.draw_all(page.DRAWINGS, report, made)
        tables.write_csv(made / "groups.csv", page.group_rows(report))
        if report.differences:
            tables.write_csv(made / "differences.csv", page.difference_rows(report))
        write_json(made / reports.CHANGE, report.to_dict())
        write_json(made / reports.RECORD, _record(config, names, digests))
        text = page.page(report, title, _about(config, joined, report), told, drawn, _facts(digests, command))
        (made / reports.PAGE).write_text(text, encoding="utf-8")
    for warning in told:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{report.answer()}\n\nReport: {config.out / 'report' / reports.PAGE}")
    return report


def _side(paths: Sequence[Path]) -> str:
    """Name a side by its first file, and say how many it has."""
    return paths[0].name if len(paths) == 1 else f"{paths[0].name} (first of {len(paths)} runs)"


def _about(config: Change, joined: Joined, report: ChangeReport) -> str:
    """Say what was compared."""
    runs = f"{report.runs} runs" if report.runs > 1 else "one run"
    several = "s" * (len(report.names) > 1)
    noise = "over runs and examples" if report.runs > 1 else "over examples: what other runs would show is not in them"
    left = len(joined.y) - int(report.count.sum())
    dropped = f" {left:,} examples without a group are left out." if left else ""
    reference = f" The reference group is {report.differences[0].reference}." if report.differences else ""
    return (
        f"{report.count.sum():,} examples of {len(joined.classes)} classes in {len(report.names)} group{several} "
        f"({', '.join(config.group)}), {runs}.{dropped}{reference} 95 % intervals are {noise}.{report.of_single()}"
    )


def _record(config: Change, names: Names, digests: Mapping[Path, str]) -> dict[str, Any]:
    """Return of which files a report is, by which one of others is not replaced by it (``reports.replacing``)."""
    sides = {"before": config.before, "after": config.after, "groups": (config.groups,)}
    runs = [f"{side} {digests[path]}" for side, paths in sides.items() for path in paths]
    how = f"columns {' '.join(map(str, names))}, missing {config.missing}, reference {config.reference}"
    return {"study": "change", "runs": [*runs, how]}


def _copies(config: Change, digests: Mapping[Path, str]) -> list[str]:
    """Warn of files of one side that are the same to the byte: a copy would count as a further run."""
    said = []
    for side, paths in (("before", config.before), ("after", config.after)):
        of_side = [digests[path] for path in paths]
        if alike := [path.name for path in paths if of_side.count(digests[path]) > 1]:
            said.append(f"Some files {side} are alike to the byte, and count as runs: {quoted(alike)}; is one a copy?")
    return said


def _facts(digests: Mapping[Path, str], command: Sequence[str]) -> dict[str, Any]:
    """Return how a page was made: the command, the files' digests, and versions."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "made by": reports.typed(command),
        "files (sha256)": {_short(path, digests): digest for path, digest in digests.items()},
        "versions": {"python": platform.python_version(), **versions},
    }


def _short(path: Path, others: Mapping[Path, str]) -> str:
    """Return a file's name, with as many of its folders as tell it from the other files."""
    parts = [other.resolve().parts for other in others if other != path]
    own = path.resolve().parts
    count = next((n for n in range(1, len(own)) if all(other[-n:] != own[-n:] for other in parts)), len(own))
    return "/".join(own[-count:])
