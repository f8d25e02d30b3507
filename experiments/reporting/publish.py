"""A finished study as one Markdown page: who lost more than whom, figures, tables, findings, how it was made.

    python -m experiments.reporting.publish STUDY --out docs/results/NAME.md

Places on this machine are left out of the page, and images of the data are in no figure.
"""

import dataclasses
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from experiments import cli

if __name__ == "__main__":
    cli.begin()

from experiments.reporting import files, reports, tables
from experiments.reporting.comparisons import PICKED
from experiments.running.progress import duration
from experiments.running.settings import StudyFolder
from jaxfair.errors import JaxfairError

TABLES = {
    "extremes": "Who lost most",
    "summary": "Networks",
    "imbalance": "Does harm follow the imbalance?",
    "imbalance_groups": "What each group loses on data of other imbalance",
    "followed": "Is it linearization, or training that ends early?",
    "followed_groups": "What each group loses as fine-tuning goes on",
    "expansion": "What the weights' change foretells",
    "profiles": "Profiles and controls",
}
TABLES |= {"trainings": "Fairness violation"}
GROUPS = ("network", "relus", "training", "group", "train_count", "test_count", "train_accuracy")
GROUPS += ("validation_accuracy", "accuracy", "relative_drop_percent", "relative_drop_matched_percent")
GROUPS += ("delta", "delta_native", "delta_emulated", "delta_ulps")
MADE = "## How this was made"
PAGE = "page of a study", MADE
"""What is written, and the text in it by which an earlier one is known, see ``files.replacing``."""
PACKAGES = ("jax", "flax", "optax", "numpy")


def write(study: Path, page: Path) -> None:
    """Write the page of a study's last report, and its figures beside it, each named after the page and the figure.

    Raises:
        JaxfairError: the study has no report, or one that does not say how it was made, a run of it that lies there is
            damaged, or the page cannot be written or is no NAME.md; the study writes another report meanwhile.
    """
    if page.suffix != ".md":
        raise JaxfairError(f"The page is Markdown, and '{page}' is not named so; give --out as NAME.md.")
    record, report = reports.read_record(study), study / "report"
    if record.get("study") == "private":
        raise JaxfairError(f"'{study}' holds a report of private inference, which is no study's; publish its tables.")
    reports.check_files(study, record)
    files.check_own(page, *PAGE)
    if (study / "runs").is_dir():  # merged studies have theirs elsewhere, and were checked when they were merged
        reports.open_runs(study, (name for name in record["runs"] if (study / "runs" / name).is_dir()))
    if not record.get("made") or "figures" not in record:
        lacking = "which figures it has" if record.get("made") else "how its runs were made"
        raise JaxfairError(f"The report of '{study}' does not say {lacking}; run the same study again.")
    with files.replacing(page, *PAGE) as made:
        try:
            text = "\n\n".join(_parts(record, report, made / page.name))
            same = reports.read_record(study) == record
        except FileNotFoundError:
            same, text = False, ""
        if not same:
            raise JaxfairError(f"The report of '{study}' changed while it was read; give the same command again.")
        (made / page.name).write_text(f"{text}\n", encoding="utf-8")


def _parts(record: Mapping[str, Any], report: Path, page: Path) -> list[str]:
    """Return the parts of a page, and copy beside it what it shows of a report that has such a record."""
    parts = [f"# {tables.escaped(record['title'])}", *filter(None, [tables.escaped(record.get("answer") or "")])]
    parts += ["\n".join(f"- {tables.escaped(said)}" for said in record["warnings"])] if record.get("warnings") else []
    shown = [(figure["file"], _figure(report, figure, page)) for figure in record["figures"]]
    first, *more = [text for file, text in shown if "/" not in file] or [""]
    names = record.get("meanings", {}).get("networks", "")  # before figures and tables that have them
    parts += filter(None, [first, tables.escaped(record.get("introduction") or ""), names, *more])
    for name, head in TABLES.items():
        if (file := report / f"{name}.csv").is_file():
            also = f"\n\n{PICKED}" if name == "extremes" else ""
            first = f"{said}\n\n" if (said := record.get("meanings", {}).get(name)) else ""
            parts.append(f"## {head}\n\n{first}{tables.markdown(tables.read_csv(file))}{also}")
    if (file := report / "groups.csv").is_file():
        copy = page.with_name(f"{page.stem}-groups.csv")
        shutil.copyfile(file, copy)
        parts.append(_groups(tables.read_csv(file), copy.name))
    if of_paper := [text for file, text in shown if "/" in file]:  # which lie in a folder of their own
        parts += ["## Figures of the paper", *of_paper]
    parts.append(f"## Findings of the paper\n\n{(report / 'claims.md').read_text(encoding='utf-8').strip()}")
    return [*parts, f"{MADE}\n\n{provenance(record['command'], record['made'])}"]


def _figure(report: Path, figure: Mapping[str, str], page: Path) -> str:
    """Copy a figure beside a page, in 256 colours, which take a third of the room, and return how the page shows it."""
    from PIL import Image

    source = report / figure["file"]
    copy = page.with_name(f"{page.stem}-{source.name}")
    with Image.open(source) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(copy, optimize=True)
    return f"![{figure['title']}]({quote(copy.name)})\n\n{figure['caption']}"


def _groups(every: tables.Table, file: str) -> str:
    """Write what every group of every network has: images, accuracies, drops."""
    columns = [column for column in every.columns if column.name in GROUPS]
    table = tables.markdown(tables.Table(columns, every.rows))
    return f"## Groups\n\nAll that was measured of each group is in [{tables.escaped(file)}]({quote(file)}).\n\n{table}"


def provenance(command: Sequence[str], made: Mapping[str, Any]) -> str:
    """Write the command, and how the runs of a report were made, which is what ``reports.provenance`` returned."""
    commits = (f"{commit[:7]}{' with changes' * commit.endswith('+changes')}" for commit in made["commits"])
    facts = {
        "Commits": commits,
        "Devices": made["devices"],
        "Kernels of convolutions": made.get("kernels of convolutions", []),  # which earlier records have not
        "Precision of products": made["precision of matrix products"],
        "Versions": [f"{name} {made['versions'][name]}" for name in PACKAGES],
        "Runs": [f"{made['runs']}, {duration(made['seconds'])} in all, compilation included"],
        "Finished": [made["finished"]],
    }
    if "digest" in made:  # which earlier records have not
        facts["Digest of all settings and data"] = [f"`{made['digest']}`"]
    said = {name: ("; " if name == "Devices" else ", ").join(values) for name, values in facts.items()}
    lines = [f"- {name}: {text}" for name, text in said.items() if text]
    return "\n".join(["```sh", reports.typed(command), "```", "", *lines])


@dataclasses.dataclass(frozen=True)
class Page:
    """Write a finished study as one Markdown page: who lost more than whom, figures, tables, findings, how it was made.

    Attributes:
        study: folder of a finished study.
        out: the page, NAME.md.
    """

    study: StudyFolder
    out: Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""

    def publish(given: Page, _: Sequence[str]) -> None:
        write(given.study, given.out)
        print(f"Page: {given.out}; its figures lie beside it.")

    command = cli.Command(Page, lambda: publish, "the study is untouched")
    return cli.main("python -m experiments.reporting.publish", __doc__, {"": command}, arguments)


if __name__ == "__main__":
    sys.exit(main())
