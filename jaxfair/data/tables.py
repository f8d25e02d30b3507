"""Tables in files, as columns of cells: CSV and Parquet.

CSV is read by Python's own reader: pyarrow's would turn ``007`` into 7 unless told otherwise, and takes a quote that is
never closed for a cell with the rest of the table in it.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from jaxfair.data.columns import Rejected, nfc
from jaxfair.errors import JaxfairError

PARQUET = (".parquet", ".pq")
NO_CELLS = "holds lists, or values that Python cannot hold"


class Cells(NamedTuple):
    """A table.

    Attributes:
        names: Names of the columns.
        columns: Their cells, in the same order: texts, or what Parquet holds.
        rows: The row of each cell, from 1 below the header.
        ragged: Rows that have too few or too many cells.
        passed: Why columns have no cells, by their names.
    """

    names: Sequence[str]
    columns: Sequence[Sequence[Any]]
    rows: Sequence[int]
    ragged: tuple[Rejected, ...] = ()
    passed: Mapping[str, str] = MappingProxyType({})


def parse(data: bytes, table: Path, column: str) -> Cells:
    """Return the cells of a table: Parquet where its name ends in ``.parquet`` or ``.pq``, otherwise CSV in UTF-8.

    Args:
        data: Content of the file.
        table: Its path, for messages.
        column: Name of a column that it should have, by which commas, semicolons, tabs and bars are told apart.

    Raises:
        JaxfairError: It is no such table, or is empty.
    """
    return _parquet(data, table) if table.suffix.lower() in PARQUET else _csv(data, table, column)


def _csv(data: bytes, table: Path, column: str) -> Cells:
    text = _text(data, table)
    if told := re.match("sep=(.)\r?\n", text):  # Excel's own line
        text, delimiters = text[told.end() :], told[1]
    else:
        delimiters = ",;\t|"
    headers = {delimiter: _header(text, delimiter) for delimiter in delimiters}
    delimiter = max(headers, key=lambda d: (column in headers[d], len(headers[d])))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
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
        if row not in good and any(map(str.strip, record))  # Excel writes rows of nothing but commas
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
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
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
    cells = {i: found for i, column in enumerate(content.columns) if (found := _cells(column)) is not None}
    passed = {name: NO_CELLS for i, name in enumerate(names) if i not in cells}
    return Cells([names[i] for i in cells], list(cells.values()), range(1, content.num_rows + 1), passed=passed)


def _cells(column: Any) -> Sequence[Any] | None:
    """Return the cells of a column of Parquet; None where they are no single values that Python can hold."""
    import pyarrow

    kind = column.type
    if pyarrow.types.is_nested(kind) and not pyarrow.types.is_struct(kind):
        return None
    try:
        if pyarrow.types.is_float16(kind) or pyarrow.types.is_float32(kind):
            return list(column.to_numpy())  # whose 0.1 is not written as 0.10000000149
        return column.to_pylist()
    except (OverflowError, LookupError, ValueError, pyarrow.ArrowException):  # dates beyond Python's, unknown zones
        return None
