"""Tables of labels, CSV or Parquet: one row an image, named by its path."""

import contextlib
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxfair.data import tables
from jaxfair.data.columns import Column, Index, Rejected, from_values, nfc, no_split, of_column, official_split
from jaxfair.data.files import Files, is_junk, plain_base
from jaxfair.data.layouts.find import several
from jaxfair.data.opening import holds_files, open_files
from jaxfair.errors import JaxfairError, did_you_mean, short

GONE = "does not exist"
PASSED = ": it is passed over"
"""How what is said of a column ends that is neither label nor group."""
_TABLES = (".csv", ".tsv", *tables.PARQUET)


def read(table: Path, files: Files, path_column: str) -> Index:
    r"""Return the images that a table names, in its order; its other columns are their properties.

    Args:
        table: Parquet where it ends in ``.parquet`` or ``.pq``; otherwise CSV in UTF-8, split at commas, semicolons,
            tabs or bars, with a header. Columns without a name are passed over, and rows without any cell. A folder or
            archive stands for the one table in it.
        files: What the paths are relative to, or relative to the folder of it in which the table lies, or to its one
            folder where all images lie in one.
        path_column: The name of the column of paths, whose folders are parted by ``/`` or ``\``. Names are the same in
            both forms of Unicode.

    Returns:
        The index. Missing cells have the code ``MISSING``. A column ``split`` of ``train``, ``test``, ``val``,
        ``valid`` and ``validation`` is the split as well. ``rejected`` are rows, counted from 1 below the header,
        without a path or with too few or too many cells; paths that do not exist; and paths that several rows name,
        since these may disagree. ``left_out`` are the files that no row names, and columns of bytes that are no text,
        of lists, or of values that Python cannot hold.

    Raises:
        JaxfairError: The table cannot be read, has two columns of one name, no column of paths, no row, or none that
            can be used; or a path is absolute, leads out of ``files``, or fits two files.
    """
    table, data, inside = _located(table, files)
    path_column = nfc(path_column)
    content = tables.parse(data, table, path_column)
    repeated = [name for name in content.names if name and content.names.count(name) > 1]
    if repeated:
        raise JaxfairError(f"The table '{table}' has several columns named '{repeated[0]}'; rename all but one.")
    cells = {name: column for name, column in zip(content.names, content.columns, strict=True) if name}
    _check_paths(cells, path_column, table)
    paths = cells.pop(path_column)
    named, blank = _named(paths, list(cells.values()), content.rows, table, _finder(files, inside))
    if not (named or blank or content.ragged):
        raise JaxfairError(f"The table '{table}' has a header but no rows; expected a row an image.")
    present = frozenset(files.names)
    kept = {name: at[0] for name, at in named.items() if len(at) == 1 and name in present}
    rejected = (*content.ragged, *blank, *_misfits(named, present, content.rows, table))
    if not kept:
        first = next((each for each in rejected if each.reason == GONE), rejected[0])
        advice = f"paths are expected to be relative to '{files.path}', whose first file is '{files.names[0]}'"
        raise JaxfairError(
            f"No row of the table '{table}' can be used ({short(first.name)} {first.reason}); "
            f"{advice if first.reason == GONE else 'give one row to each image, with a cell in every column'}."
        )
    if spelled := [name for name in cells if name.strip().lower() == "split" != name]:
        raise JaxfairError(f"The table '{table}' has a column '{spelled[0]}'; call it 'split', or otherwise.")
    columns, passed = _columns(cells, content.passed, list(kept.values()))
    unnamed = sorted(name for name in present - named.keys() if name != inside)
    beside = [Rejected(several(unnamed), f"named by no row of {table.name}")] if unnamed else []
    return Index(
        title=f"{files.path.absolute().name}, labels of {table.name}",
        names=list(kept),
        stream=lambda: files.rows(list(kept)),
        columns=columns,
        split=official_split(columns.get("split")),
        left_out=(*no_split(columns), *passed, *beside),
        rejected=rejected,
    )


def named_files(table: Path, path_column: str) -> frozenset[str]:
    """Return the names of the files that a table's rows name, without folders, and its own, as ``plain_base`` does."""
    content = tables.parse(_read(table), table, nfc(path_column))
    paths = dict(zip(content.names, content.columns, strict=True)).get(nfc(path_column), ())
    return frozenset(map(plain_base, (table.name, *map(_as_text, filter(_may_be_path, paths)))))


def _read(table: Path) -> bytes:
    try:
        return table.read_bytes()
    except OSError as error:
        raise JaxfairError(
            f"The table '{table}' cannot be read: {error.strerror}; give a CSV or Parquet file."
        ) from error


def _located(table: Path, files: Files) -> tuple[Path, bytes, str]:
    """Return the path of a table, its content, and its name in ``files``, which is empty if it lies elsewhere."""
    if not holds_files(table):
        same = (name for name in files.names if _is_same(files.path / name, table))
        return table, _read(table), next(same, "")
    own = table == files.path
    with contextlib.nullcontext(files) if own else open_files(table) as holder:
        names = [name for name in holder.names if name.lower().endswith(_TABLES)]
        if len(names) != 1:
            raise JaxfairError(
                f"'{table}' holds {several(names) if names else 'no table'}; expected one table that ends in "
                f"{', '.join(_TABLES)}, so name the table itself by path, and '{table}' by images."
            )
        return table / names[0], holder.read(names[0]), names[0] if own else ""


def _check_paths(cells: Mapping[str, Sequence[Any]], path_column: str, table: Path) -> None:
    """Refuse a table without a column of paths; one of Hugging Face has the images themselves."""
    advice = "holds images themselves, or other bytes; write images to files, and name these in a column."
    if path_column in cells:
        if not all(map(_may_be_path, cells[path_column])):
            raise JaxfairError(f"The column '{path_column}' of the table '{table}' {advice}")
        return
    without = f"The table '{table}' has no column '{path_column}'"
    if held := next((name for name, column in cells.items() if not all(map(_is_cell, column))), None):
        raise JaxfairError(f"{without}, and '{held}' {advice}")
    raise JaxfairError(f"{without}{did_you_mean(path_column, cells)}")


def _may_be_path(cell: Any) -> bool:
    return not isinstance(cell, dict) and _is_cell(cell)


def _named(
    paths: Sequence[Any],
    others: Sequence[Sequence[Any]],
    rows: Sequence[int],
    table: Path,
    find: Callable[[str, str], str],
) -> tuple[dict[str, list[int]], tuple[Rejected, ...]]:
    """Return where each path stands, and the rows without one that have other cells."""
    named: dict[str, list[int]] = {}
    blank = []
    for i, text in enumerate(map(_as_text, paths)):
        if not text.strip():
            if any(_as_text(column[i]).strip() for column in others):
                blank.append(Rejected(f"data row {rows[i]} of {table.name}", "has no path"))
            continue
        named.setdefault(find(text, f"data row {rows[i]} of '{table}'"), []).append(i)
    return named, tuple(blank)


def _as_text(cell: Any) -> str:
    return cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str("" if cell is None else cell)


def _finder(files: Files, inside: str) -> Callable[[str, str], str]:
    """Return a function from a cell and where it stands to the name of its file, or to the path that no file has."""
    present = frozenset(files.names)
    tops = {name[: name.find("/") + 1] for name in files.images or files.names}
    only_top = tops.pop() if len(tops) == 1 else ""
    folder = inside[: inside.rfind("/") + 1]
    composed: dict[str, str | None] = {}
    for name in present:  # macOS stores names in another form of Unicode than tables have
        composed[nfc(name)] = None if nfc(name) in composed else name

    def stored(name: str) -> str | None:
        return name if name in present else composed.get(nfc(name))

    def find(text: str, where: str) -> str:
        if text in present and not folder:
            return text
        path = text.strip().replace("\\", "/")
        spelled = [posixpath.normpath(path), posixpath.normpath(folder + path)]
        spelled = [name for name in spelled if name.split("/")[0] != ".."]
        exact = [text] if text in present else []
        if not exact and (re.match("([A-Za-z]:|/)", path) or not spelled):
            raise JaxfairError(
                f"The path '{short(text)}' in {where} is absolute or leads out of '{files.path}'; give paths relative "
                "to that."
            )
        places = [*dict.fromkeys(filter(None, (*exact, *map(stored, spelled))))]
        if len(places) > 1:
            raise JaxfairError(
                f"The path '{short(text)}' in {where} fits two files, '{places[0]}' and '{places[1]}'; name the table "
                "by path, and the folder that its paths are relative to by images."
            )
        return next(iter(places), None) or stored(only_top + spelled[0]) or spelled[0]

    return find


def _columns(
    cells: Mapping[str, Sequence[Any]], passed: Mapping[str, str], rows: Sequence[int]
) -> tuple[dict[str, Column], list[Rejected]]:
    """Return the columns of some rows, and those that hold no cells, such as encoded images of Parquet."""
    of_rows = {name: [column[i] for i in rows] for name, column in cells.items()}
    columns = {name: from_values(values) for name, values in of_rows.items() if all(map(_is_cell, values))}
    no_texts = {name: "holds bytes that are no text in UTF-8" for name in cells if name not in columns}
    return columns, [Rejected(of_column(name), f"{why}{PASSED}") for name, why in (no_texts | dict(passed)).items()]


def _is_cell(value: Any) -> bool:
    """Return whether a value can be shown: it is, or holds, no bytes that are no text."""
    if isinstance(value, dict):
        return all(map(_is_cell, value.values()))
    if isinstance(value, bytes):
        try:
            value.decode("utf-8")
        except UnicodeDecodeError:
            return False
    return True


def _misfits(
    named: Mapping[str, list[int]], present: frozenset[str], rows: Sequence[int], table: Path
) -> Iterator[Rejected]:
    for name, at in named.items():
        if name not in present:
            hidden = any(map(is_junk, name.split("/")))
            yield Rejected(name, "is hidden, and hidden files are passed over" if hidden else GONE)
        elif len(at) > 1:
            first = ", ".join(str(rows[i]) for i in at[:-1])
            yield Rejected(name, f"stands in data rows {first} and {rows[at[-1]]} of {table.name}")


def _is_same(path: Path, table: Path) -> bool:
    return path.name == table.name and path.exists() and path.samefile(table)
