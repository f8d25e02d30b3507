"""A finished study as one Markdown page: how it was made, its table, its findings, a figure.

    python -m experiments.reporting.publish STUDY --out docs/results/NAME.md

Places on this machine are left out of the page, and images of the data are in no figure.
"""

import csv
import dataclasses
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from experiments import cli
from experiments.linearization import results
from experiments.running.plan import duration
from jaxfair import runs
from jaxfair.errors import JaxfairError
from jaxfair.runs import Run

PLACES = ("--out", "--data.path", "--data.images")
TABLES = ("summary.csv", "profiles.csv", "trainings.csv")
FIGURES = ("accuracy_drop_by_group.png", "divergence.png")


def write(study: Path, page: Path) -> None:
    """Write the page of a study's last report, and its figure beside it.

    Raises:
        JaxfairError: the study has no report, or the page cannot be written.
    """
    record, report = results.record(study), study / "report"
    finished = [runs.read(path.parent) for path in sorted((study / "runs").glob("*/DONE"))]
    parts = [f"# {record['title']}", provenance(record["command"], finished)]
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        for name in FIGURES:
            if (report / name).is_file():
                shutil.copyfile(report / name, page.with_suffix(".png"))
                parts.append(f"![{record['title']}]({page.with_suffix('.png').name})")
        for name in TABLES:
            if (report / name).is_file():
                with (report / name).open(newline="", encoding="utf-8") as file:
                    parts.append(
                        f"## {name.removesuffix('.csv').capitalize()}\n\n{markdown(list(csv.DictReader(file)))}"
                    )
        parts.append(f"## Findings of the paper\n\n{(report / 'claims.md').read_text(encoding='utf-8').strip()}")
        page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    except OSError as error:
        raise JaxfairError(f"'{page}' cannot be written: {error.strerror or error}; choose another --out.") from error


def provenance(command: Sequence[str], finished: Sequence[Run]) -> str:
    """Say how the runs were made: command, commits, devices, versions, seconds of all runs together."""
    found = [run.json("environment.json") for run in finished]
    seconds = sum(e["seconds"] / e["seconds_shared_by_runs"] for e in found)
    versions = {name: found[0]["versions"][name] for name in ("jax", "flax", "optax", "numpy")}
    facts: Mapping[str, Any] = {
        "Commits": {str(e["commit"])[:7] + (" with changes" if e["uncommitted_changes"] else "") for e in found},
        "Devices": {f"{e['backend']}, {e['device_kind']}, {e['host_cores']} cores" for e in found},
        "Precision of products": {e["default_matmul_precision"] for e in found},
        "Versions": [f"{name} {version}" for name, version in versions.items()],
        "Runs": [f"{len(found)}, {duration(seconds)} in all, compilation included"],
        "Finished": [max(e["finished"] for e in found)],
    }
    lines = [f"- {name}: {', '.join(sorted(values))}" for name, values in facts.items()]
    return "\n".join(["```sh", " ".join(shown(command)), "```", "", *lines])


def shown(command: Sequence[str]) -> list[str]:
    """Return the command with every place replaced by a word."""
    words, hidden = [], False
    for word in command:
        name, given, _ = word.partition("=")
        words.append("PATH" if hidden else f"{name}=PATH" if given and name in PLACES else word)
        hidden = word in PLACES
    return words


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Return rows of a CSV file as a table; ``x``, ``x_low`` and ``x_high`` share a column."""
    names = [name for name in rows[0] if not name.endswith(("_low", "_high"))]
    lines = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |", "|---" * len(names) + "|"]
    for row in rows:
        cells = []
        for name in names:
            low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
            cells.append(number(row[name]) + (f" ({number(low)} to {number(high)})" if low and high else ""))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def number(text: str) -> str:
    """Shorten a number to three digits; leave whole numbers and words as they are."""
    try:
        return text if text.lstrip("-").isdigit() else f"{float(text):.3g}"
    except ValueError:
        return text


@dataclasses.dataclass(frozen=True)
class Page:
    """Write a finished study as one Markdown page: how it was made, its table, its findings, a figure.

    Attributes:
        study: folder of a finished study.
        out: the page, NAME.md.
    """

    study: tyro.conf.Positional[Path]
    out: Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    command = cli.Command(Page, lambda given, _: write(given.study, given.out), "the study is untouched")
    return cli.main("python -m experiments.reporting.publish", __doc__, {"": command}, arguments)


if __name__ == "__main__":
    sys.exit(main())
