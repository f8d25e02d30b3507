"""Tables of labels, CSV or Parquet: one row an image, named by its path.

CSV is read by Python's own reader: pyarrow's would turn ``007`` into 7 unless told otherwise, and takes a quote that is
never closed for a cell with the rest of the table in it.
"""

import csv
import io
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxfair.data.columns import Index, Rejected, from_values, official_split
from jaxfair.data.files import Files
from jaxfair.data.layouts.find import several
from jaxfair.errors import JaxfairError, did_you_mean


class _Table(NamedTuple):
    """The names of the columns, their cells in the same order, the row of each cell from 1, and what fits no column."""

    names: Sequence[str]
    columns: Sequence[Sequence[Any]]
    rows: Sequence[int]
    ragged: tuple[Rejected, ...] = ()


def read(table: Path, files: Files, path_column: str) -> Index:
    r"""Return the images that a table names, in its order; its other columns are their properties.

    Args:
        table: Parquet where it ends in ``.parquet`` or ``.pq``; otherwise CSV in UTF-8, split at commas, semicolons or
            tabs, with a header. Columns without a name are passed over.
        files: What the paths are relative to, or relative to its one folder where all files lie in one.
        path_column: The name of the column of paths, whose folders are parted by ``/`` or ``\``.

    Returns:
        The index. Missing cells have the code ``MISSING``. A column ``split`` of ``train``, ``test``, ``val``,
        ``valid`` and ``validation`` is the split as well. ``rejected`` are rows, counted from 1 below the header,
        without a path or with too few or too many cells; paths that do not exist; and paths that several rows name,
        since these may disagree. ``left_out`` are the files that no row names.

    Raises:
        JaxfairError: The table cannot be read, has two columns of one name, no column of paths, no row, or none that
            can be used; or a path is absolute or leads out of ``files``.
    """
    content = _parquet(table) if table.suffix.lower() in (".parquet", ".pq") else _csv(table, path_column)
    repeated = [name for name in content.names if name and content.names.count(name) > 1]
    if repeated:
        raise JaxfairError(f"The table '{table}' has several columns named '{repeated[0]}'; rename all but one.")
    cells = {name: column for name, column in zip(content.names, content.columns, strict=True) if name}
    if path_column not in cells:
        raise JaxfairError(f"The table '{table}' has no column '{path_column}'{did_you_mean(path_column, cells)}")
    if not content.rows and not content.ragged:
        raise JaxfairError(f"The table '{table}' has a header but no rows; expected a row an image.")
    named, blank = _named(cells.pop(path_column), content.rows, table, files)
    present = frozenset(files.names)
    kept = {name: at[0] for name, at in named.items() if len(at) == 1 and name in present}
    rejected = (*content.ragged, *blank, *_misfits(named, present, content.rows, table))
    if not kept:
        raise JaxfairError(
            f"No row of the table '{table}' can be used ({rejected[0].name} {rejected[0].reason}); "
            f"paths are expected to be relative to '{files.path}', whose first file is '{files.names[0]}'."
        )
    columns = {name: from_values([column[i] for i in kept.values()]) for name, column in cells.items()}
    unnamed = sorted(name for name in present - named.keys() if not _is_same(files.path / name, table))
    return Index(
        title=f"{files.path.absolute().name}, labels of {table.name}",
        names=list(kept),
        stream=lambda: files.rows(list(kept)),
        columns=columns,
        split=official_split(columns.get("split")),
        left_out=(Rejected(several(unnamed), f"named by no row of {table.name}"),) if unnamed else (),
        rejected=rejected,
    )


def _named(
    cells: Sequence[Any], rows: Sequence[int], table: Path, files: Files
) -> tuple[dict[str, list[int]], tuple[Rejected, ...]]:
    """Return where each path stands, and the rows without one."""
    present = frozenset(files.names)
    folders = {name[: name.find("/") + 1] for name in present}
    only_folder = folders.pop() if len(folders) == 1 else ""
    named: dict[str, list[int]] = {}
    blank = []
    for i, cell in enumerate(cells):
        text = cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str("" if cell is None else cell)
        if not text.strip():
            blank.append(Rejected(f"data row {rows[i]} of {table.name}", "has no path"))
            continue
        name = text if text in present else _relative(text, files, f"data row {rows[i]} of '{table}'")
        if name not in present and only_folder + name in present:
            name = only_folder + name
        named.setdefault(name, []).append(i)
    return named, tuple(blank)


def _relative(text: str, files: Files, where: str) -> str:
    path = text.strip().replace("\\", "/")
    normal = posixpath.normpath(path)
    if path.startswith("/") or re.match("[A-Za-z]:", path) or normal.split("/")[0] == "..":
        raise JaxfairError(
            f"The path '{text}' in {where} is absolute or leads out of '{files.path}'; give paths relative to that."
        )
    return normal


def _misfits(
    named: Mapping[str, list[int]], present: frozenset[str], rows: Sequence[int], table: Path
) -> Iterator[Rejected]:
    for name, at in named.items():
        if name not in present:
            yield Rejected(name, "does not exist")
        elif len(at) > 1:
            first = ", ".join(str(rows[i]) for i in at[:-1])
            yield Rejected(name, f"stands in data rows {first} and {rows[at[-1]]} of {table.name}")


def _is_same(path: Path, table: Path) -> bool:
    return path.name == table.name and path.exists() and path.samefile(table)


def _csv(table: Path, path_column: str) -> _Table:
    text = _text(table)
    headers = {delimiter: _header(text, delimiter) for delimiter in ",;\t"}
    delimiter = max(headers, key=lambda d: (path_column in headers[d], len(headers[d])))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records, line = [], 1
    try:
        for record in reader:
            line = reader.line_num + 1
            records += [record] if record else []
    except csv.Error as error:
        raise JaxfairError(f"The table '{table}' is no CSV from line {line} on: {error}; check the quotes.") from error
    if not records:
        raise JaxfairError(f"The table '{table}' is empty; expected a header and a row an image.")
    names = [name.strip() for name in records[0]]
    good = {row: record for row, record in enumerate(records[1:], 1) if len(record) == len(names)}
    ragged = [
        Rejected(f"data row {row} of {table.name}", f"has {len(record)} cells instead of {len(names)}")
        for row, record in enumerate(records[1:], 1)
        if row not in good
    ]
    columns = list(zip(*good.values(), strict=True)) or [()] * len(names)
    return _Table(names, columns, list(good), tuple(ragged))


def _text(table: Path) -> str:
    advice = "save it as CSV in UTF-8, or as Parquet with a name in .parquet"
    try:
        data = table.read_bytes()
    except OSError as error:
        raise JaxfairError(
            f"The table '{table}' cannot be read: {error.strerror}; give a CSV or Parquet file."
        ) from error
    if b"\0" in data:
        raise JaxfairError(f"The table '{table}' is not text; {advice}.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise JaxfairError(f"The table '{table}' is not UTF-8 text in line {line}; {advice}.") from error


def _header(text: str, delimiter: str) -> list[str]:
    """Return the names in the first line that is not empty; none where this delimiter does not separate them."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return [name.strip() for name in next((record for record in reader if record), [])]
    except csv.Error:
        return []


def _parquet(table: Path) -> _Table:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(table) as file:
            content = file.read()
        return _Table(content.column_names, [c.to_pylist() for c in content.columns], range(1, content.num_rows + 1))
    except (OSError, pyarrow.ArrowException, ValueError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise JaxfairError(
            f"The table '{table}' cannot be read as Parquet: {reason}; write it again, or as CSV."
        ) from error
