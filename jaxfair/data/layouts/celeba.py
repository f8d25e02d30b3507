"""CelebA: images and the official table of 40 attributes, or one of its mirrors."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxfair.data.columns import Column, Index, Rejected, select
from jaxfair.data.files import Files
from jaxfair.data.layouts import find
from jaxfair.errors import JaxfairError

PARTS = ("train", "validation", "test")

_COUNT = 202_599
_ATTRIBUTE_CODES = {"-1": 0, "0": 0, "1": 1}  # some mirrors write 0 for -1
_PART_CODES = {"0": 0, "1": 1, "2": 2}


def read(files: Files) -> Index:
    """Read CelebA: images in any folder, ``list_attr_celeba*.txt`` or ``.csv``, and the official partition if there.

    Each attribute is a column, with names such as ``not Male`` and ``Male``. The split is that of
    ``list_eval_partition.txt`` or ``.csv``; None without it, or if all images are of one part. Rows of the table
    without an image are left out; images without a row, and rows that are malformed or occur twice, are rejected.

    Raises:
        JaxfairError: There is no table or no image, or they do not belong together.
    """
    table = find.one(files, "list_attr_celeba*.txt", "list_attr_celeba*.csv")
    partition = find.one(files, "list_eval_partition*.txt", "list_eval_partition*.csv")
    if table is None:
        raise JaxfairError(
            f"'{files.path}' holds no table of attributes; expected CelebA's list_attr_celeba.txt or .csv beside the "
            "images."
        )
    content = {name: _cells(data) for name, data in files.stream([name for name in (table, partition) if name])}
    header, rows = _attributes(files, table, content[table])
    if {"-1", "0"} <= {cell for row in rows for cell in row[1:]}:
        raise JaxfairError(
            f"'{table}' of '{files.path}' has both -1 and 0, of which one may stand for what is not known; write -1 "
            "for no, and leave out the rows without a value."
        )
    tables = {table: _values(find.base(table), rows, _ATTRIBUTE_CODES, len(header))}
    if partition is not None:
        part_rows = content[partition][1 if partition.endswith(".csv") else 0 :]  # a .csv has a header
        tables[partition] = _values(find.base(partition), part_rows, _PART_CODES, 1)
    malformed = [row for _, bad in tables.values() for row in bad]
    values = {find.base(name): good for name, (good, _) in tables.items()}
    names, unknown = _known(files, values, malformed)
    stems = [find.stem(name) for name in names]
    codes = np.frombuffer(b"".join(tables[table][0][stem] for stem in stems), np.uint8)
    codes = codes.reshape(len(stems), -1).T.astype(np.int32, order="C")
    split = None
    if partition is not None:
        parts = np.array([tables[partition][0][stem][0] for stem in stems], np.int32)
        split = select(Column(parts, PARTS), np.arange(len(parts)))
    return Index(
        title=find.title("CelebA", len(names), full=len(names) == _COUNT),
        names=names,
        stream=lambda: files.rows(names),
        columns={name: Column(codes[i], (f"not {name}", name)) for i, name in enumerate(header)},
        split=split if split and len(split.names) > 1 else None,
        left_out=_without_image(files, table, rows),
        rejected=(*malformed, *unknown),
    )


def _cells(data: bytes) -> list[list[str]]:
    """Return the cells of each line that has any, separated by blanks or commas."""
    lines = data.decode("utf-8-sig", "replace").replace(",", " ").splitlines()
    return [cells for cells in map(str.split, lines) if cells]


def _attributes(files: Files, table: str, rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Return the names of the attributes and the rows of images."""
    if rows and len(rows[0]) == 1 and rows[0][0].isdigit():
        rows = rows[1:]  # how many rows the whole table has, which a part of it still says
    header = rows[0][1 if table.endswith(".csv") else 0 :] if rows else []  # a .csv also names the images' column
    if not header or len(set(header)) < len(header) or _ATTRIBUTE_CODES.keys() & set(header):
        raise JaxfairError(
            f"'{table}' of '{files.path}' does not begin with the names of the attributes, each once; expected "
            "CelebA's table as it is published."
        )
    return header, rows[1:]


def _values(
    table: str, rows: Sequence[Sequence[str]], codes: Mapping[str, int], width: int
) -> tuple[dict[str, bytes], list[Rejected]]:
    """Return the codes of each image as bytes, by the stem of its name, and the rows that are malformed."""
    values: dict[str, bytes] = {}
    bad: dict[str, Rejected] = {}
    for image, *cells in rows:
        key = find.stem(image)
        if key in values or key in bad:
            bad[key] = Rejected(image, f"has two rows in {table}")
        elif len(cells) != width:
            bad[key] = Rejected(image, f"has {len(cells)} values in {table}, not {width}")
        elif unknown := set(cells) - codes.keys():
            bad[key] = Rejected(image, f"has the value '{min(unknown)}' in {table}, not {', '.join(codes)}")
        else:
            values[key] = bytes(map(codes.__getitem__, cells))
    return {key: value for key, value in values.items() if key not in bad}, list(bad.values())


def _known(
    files: Files, tables: Mapping[str, Mapping[str, bytes]], malformed: Sequence[Rejected]
) -> tuple[list[str], list[Rejected]]:
    """Return the images that every table has a row of, and the others with what they lack."""
    images, rejected = find.without_copies(files.images)
    if not images:
        raise JaxfairError(f"'{files.path}' holds no images; expected CelebA's, such as 000001.jpg, beside the table.")
    reported = {find.stem(row.name) for row in malformed}
    names = []
    for name in images:
        lacks = [table for table, values in tables.items() if find.stem(name) not in values]
        if not lacks:
            names.append(name)
        elif find.stem(name) not in reported:
            rejected.append(Rejected(name, f"has no row in {' and '.join(lacks)}"))
    if not names:
        raise JaxfairError(
            f"None of the {len(images):,} images of '{files.path}' has a well-formed row in {' and '.join(tables)}; "
            f"expected rows that begin with the images' names, such as {find.base(images[0])}."
        )
    return names, rejected


def _without_image(files: Files, table: str, rows: Sequence[Sequence[str]]) -> tuple[Rejected, ...]:
    present = {find.stem(name) for name in files.images}
    absent = [image for image, *_ in rows if find.stem(image) not in present]
    if not absent:
        return ()
    few = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
    return (Rejected(table, f"has {len(absent):,} rows without an image: {few}"),)
