"""A table as columns and rows, written as Markdown, CSV and in a terminal; ``html.table`` writes it into a page."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.reporting import series
from experiments.reporting.series import Estimate
from jaxfair.words import in_order, written

Row = Mapping[str, Any]
"""Cells by name: text, numbers, and estimates, which a CSV file has as ``x``, ``x_low`` and ``x_high``."""

NAMES = frozenset(
    (
        "data",
        "group",
        "hardware",
        "least_lost",
        "network",
        "reference",
        "study",
        "training",
        "without_a_drop",
        "worst_group",
    )
)
"""Columns whose cells are names, some of them a user's: a group may be called ``250.0``, and another ``2.5e2``."""

NO_TERMINAL = 200
"""Letters in a line of a file or a pipe, which have no width to fit into."""


class Column(NamedTuple):
    """What readers see of one name in the rows.

    Attributes:
        name: in the rows.
        head: above the column; by default the name with spaces.
        form: how numbers are written that are not whole, a format specification.
        under: name of a text that a page shows small below each cell; elsewhere it is a column of its own.
    """

    name: str
    head: str = ""
    form: str = ".3g"
    under: str = ""

    @property
    def title(self) -> str:
        """What stands above the column."""
        return self.head or self.name.replace("_", " ")


class Table(NamedTuple):
    """Rows, and the columns of them that readers see."""

    columns: Sequence[Column]
    rows: Sequence[Row]


def pieces(row: Row, column: Column) -> tuple[str, str]:
    """Return a cell as text, and its interval, which is empty for all but estimates."""
    value = row[column.name]
    if isinstance(value, Estimate):
        return series.pieces(value, column.form)
    if isinstance(value, str):
        return value, ""
    if isinstance(value, int | np.integer):
        return f"{value:,}", ""
    return (written(value, column.form) if np.isfinite(value) else ""), ""


def texts(table: Table) -> list[list[str]]:
    """Return the heads, and the cells of each row, as text."""
    columns = []
    for column in table.columns:
        columns += [column, Column(column.under)] if column.under else [column]
    rows = [[" ".join(filter(None, pieces(row, column))) for column in columns] for row in table.rows]
    return [[column.title for column in columns], *rows]


def markdown(table: Table) -> str:
    """Return the table as Markdown."""
    heads, *rows = ([escaped(" ".join(cell.split())).replace("|", "\\|") for cell in line] for line in texts(table))
    lines = ["| " + " | ".join(line) + " |" for line in (heads, *rows)]
    return "\n".join([lines[0], "|---" * len(heads) + "|", *lines[1:]])


MARKS = re.compile(r"[\\`*~$]|(?<!\w)_|_(?!\w)|\](?=[\[(])")
"""What Markdown may take for emphasis, code, a formula or a link; within a word an underscore is none."""


def escaped(text: str) -> str:
    """Return a text in which Markdown finds no tag and no mark of its own, as names of groups may seem to have.

    It is read in order (``words.in_order``).
    """
    whole = re.sub(r"&(?=#?\w+;)", "&amp;", in_order(text))
    return MARKS.sub(r"\\\g<0>", whole.replace("<", "&lt;"))


def show(table: Table, title: str, caption: str = "", warnings: Iterable[str] = ()) -> None:
    """Print the table and, in red, warnings below it."""
    from rich.console import Console
    from rich.table import Table as Printed
    from rich.text import Text

    heads, *rows = texts(table)
    printed = Printed(title=Text(title), caption=Text(caption), caption_justify="left")
    for i, head in enumerate(heads):
        printed.add_column(Text(head), justify="right" if i else "left", no_wrap=not i)
    for row in rows:
        printed.add_row(*map(Text, row))
    console = Console()
    console = console if console.is_terminal else Console(width=NO_TERMINAL)
    console.print(printed)
    for text in warnings:
        console.print(Text(f"warning: {text}", style="red"))


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV under all names that a row has; what is not known is an empty cell."""
    flat = [_flat(row) for row in rows]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in flat for name in row)))
        writer.writeheader()
        writer.writerows({name: "" if _missing(value) else value for name, value in row.items()} for row in flat)


def write_all(folder: Path, named: Mapping[str, Sequence[Row]]) -> None:
    """Write tables as ``NAME.csv`` into a folder, but for those without rows."""
    for name, rows in named.items():
        if rows:
            write_csv(folder / f"{name}.csv", rows)


def _flat(row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Estimate):
            flat |= dict(zip((name, f"{name}_low", f"{name}_high"), map(float, value), strict=True))
        else:
            flat[name] = value
    return flat


def _missing(value: Any) -> bool:
    return isinstance(value, float | np.floating) and not np.isfinite(value)


def read_csv(path: Path) -> Table:
    """Read a table that ``write_csv`` wrote; ``NAMES`` and whole numbers stay text, other numbers are read."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    heads = list(rows[0]) if rows else []
    ends = {f"{name}{end}" for name in heads for end in ("_low", "_high")}
    names = [name for name in heads if name not in ends]
    return Table([Column(name) for name in names], [{name: _cell(row, name) for name in names} for row in rows])


def _cell(row: Mapping[str, str], name: str) -> Any:
    if f"{name}_low" in row:
        return Estimate(*(float(row[key] or "nan") for key in (name, f"{name}_low", f"{name}_high")))
    if name in NAMES:
        return row[name]
    try:
        number = float(row[name])
    except ValueError:
        return row[name]
    return row[name] if row[name].lstrip("-").isdigit() or not np.isfinite(number) else number
