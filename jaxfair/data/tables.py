"""Tables in files, as columns of cells: CSV and Parquet.

CSV is read by Python's own reader: pyarrow's would turn ``007`` into 7 unless told otherwise, and takes a quote that is
never closed for a cell with the rest of the table in it.
"""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxfair.data.columns import Rejected, nfc
from jaxfair.errors import JaxfairError

PARQUET = (".parquet", ".pq")


class Cells(NamedTuple):
    """A table.

    Attributes:
        names: Names of the columns.
        columns: Their cells, in the same order: texts, or what Parquet holds.
        rows: The row of each cell, from 1 below the header.
        ragged: Rows that have too few or too many cells.
    """

    names: Sequence[str]
    columns: Sequence[Sequence[Any]]
    rows: Sequence[int]
    ragged: tuple[Rejected, ...] = ()


def parse(data: bytes, table: Path, column: str) -> Cells:
    """Return the cells of a table: Parquet where its name ends in ``.parquet`` or ``.pq``, otherwise CSV in UTF-8.

    Args:
        data: Content of the file.
        table: Its path, for messages.
        column: Name of a column that it should have, by which commas, semicolons and tabs are told apart.

    Raises:
        JaxfairError: It is no such table, or is empty.
    """
    return _parquet(data, table) if table.suffix.lower() in PARQUET else _csv(data, table, column)


def _csv(data: bytes, table: Path, column: str) -> Cells:
    text = _text(data, table)
    if told := re.match("sep=(.)\r?\n", text):  # Excel's own line
        text, delimiters = text[told.end() :], told[1]
    else:
        delimiters = ",;\t"
    headers = {delimiter: _header(text, delimiter) for delimiter in delimiters}
    delimiter = max(headers, key=lambda d: (column in headers[d], len(headers[d])))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    ahead = 1 if told else 0
    records, line = [], 1 + ahead
    try:
        for record in reader:
            line = reader.line_num + 1 + ahead
            records += [record] if record else []
    except csv.Error as error:
        raise JaxfairError(f"The table '{table}' is no CSV from line {line} on: {error}; check the quotes.") from error
    if not records:
        raise JaxfairError(f"The table '{table}' is empty; expected a header and rows.")
    names = [nfc(name.strip()) for name in records[0]]
    good = {row: record for row, record in enumerate(records[1:], 1) if len(record) == len(names)}
    ragged = [
        Rejected(f"data row {row} of {table.name}", f"has {len(record)} cells instead of {len(names)}")
        for row, record in enumerate(records[1:], 1)
        if row not in good
    ]
    columns = list(zip(*good.values(), strict=True)) or [()] * len(names)
    return Cells(names, columns, list(good), tuple(ragged))


def _text(data: bytes, table: Path) -> str:
    advice = "save it as CSV in UTF-8, or as Parquet with a name in .parquet"
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
        return [nfc(name.strip()) for name in next((record for record in reader if record), [])]
    except csv.Error:
        return []


def _parquet(data: bytes, table: Path) -> Cells:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(io.BytesIO(data)) as file:
            content = file.read()
    except (OSError, pyarrow.ArrowException, ValueError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise JaxfairError(
            f"The table '{table}' cannot be read as Parquet: {reason}; write it again, or as CSV."
        ) from error
    names = [nfc(name) for name in content.column_names]
    cells = [_cells(column, name, table) for name, column in zip(names, content.columns, strict=True)]
    return Cells(names, cells, range(1, content.num_rows + 1))


def _cells(column: Any, name: str, table: Path) -> Sequence[Any]:
    try:
        return column.to_pylist()
    except (OverflowError, ValueError) as error:  # as of dates beyond Python's years
        raise JaxfairError(
            f"The column '{name}' of '{table}' has values that Python cannot hold; leave it out."
        ) from error
