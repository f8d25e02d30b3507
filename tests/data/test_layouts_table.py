"""Tables of labels: paths, columns, rows that do not fit, and one index from CSV and from Parquet."""

import csv
import posixpath
import tempfile
import zipfile
from collections.abc import Collection, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from jaxfair.data.columns import MISSING, Index, as_numbers, combine
from jaxfair.data.layouts import table
from jaxfair.data.opening import open_files
from jaxfair.errors import JaxfairError
from tests.layout_sources import values, write
from tests.packing import packed

NAMES = ("a.jpg", "b.jpg", "sub/c.jpg", "sub/d e.jpg")
IMAGES: dict[str, bytes] = dict.fromkeys(NAMES, b"")


def read(root: Path, content: str | bytes, path_column: str = "file", name: str = "labels.csv") -> Index:
    """Read a table of this content beside a folder of NAMES."""
    write(root / "images", IMAGES)
    path = root / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with open_files(root / "images") as files:
        return table.read(path, files, path_column)


ROWS = (("file", "race", "sex"), ("b.jpg", "White", "f"), ("sub/c.jpg", "Black", "m"), ("a.jpg", "White", "m"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["unix", "windows", "mac"])
def test_columns_by_name_in_the_order_of_the_table(tmp_path: Path, delimiter: str, mark: str, end: str) -> None:
    index = read(tmp_path, mark + end.join(delimiter.join(row) for row in ROWS) + end)
    assert list(index.names) == ["b.jpg", "sub/c.jpg", "a.jpg"]
    assert list(index.columns) == ["race", "sex"]
    assert values(index.columns["race"]) == ["White", "Black", "White"]
    assert values(combine([index.columns["race"], index.columns["sex"]])) == ["White & f", "Black & m", "White & m"]
    assert (index.split, index.rejected, index.title) == (None, (), "images, labels of labels.csv")
    assert index.left_out == (("1 file (sub/d e.jpg)", "named by no row of labels.csv"),)


def test_excel_quotes(tmp_path: Path) -> None:
    content = 'file;"a;b ""x"""\r\n"sub/d e.jpg";"one\r\nline; two"\r\n"a.jpg";"""q"""\r\n'
    index = read(tmp_path, content)
    assert list(index.names) == ["sub/d e.jpg", "a.jpg"]
    assert values(index.columns['a;b "x"']) == ["one\r\nline; two", '"q"']


def test_quotes_after_a_blank_are_quotes(tmp_path: Path) -> None:
    index = read(tmp_path, 'file, race\n"a.jpg", "White"\n"b.jpg", "one, two"\n')
    assert values(index.columns["race"]) == ["White", "one, two"]


def test_the_delimiter_is_the_one_that_yields_the_path_column(tmp_path: Path) -> None:
    index = read(tmp_path, "a,b,c;file\n1,2,3;a.jpg\n")
    assert values(index.columns["a,b,c"]) == ["1,2,3"]


def test_blank_lines_and_columns_without_a_name_are_passed_over(tmp_path: Path) -> None:
    """Excel and pandas write both."""
    index = read(tmp_path, "\n, file ,race,,\n0,a.jpg,White,,\n\n1,b.jpg,Black,,\n\n")
    assert (list(index.names), list(index.columns)) == (["a.jpg", "b.jpg"], ["race"])


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ("./a.jpg", "a.jpg"),
        ("sub\\c.jpg", "sub/c.jpg"),
        (".\\sub\\d e.jpg", "sub/d e.jpg"),
        (" sub//c.jpg ", "sub/c.jpg"),
        ("sub/../a.jpg", "a.jpg"),
    ],
)
def test_spellings_of_a_path(tmp_path: Path, cell: str, name: str) -> None:
    assert read(tmp_path, f"file\n{cell}\n").names == [name]


@pytest.mark.parametrize("cell", ["/a.jpg", "../a.jpg", "sub/../../a.jpg", "..", "..\\a", "C:\\a", "\\\\host\\a"])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, cell: str) -> None:
    with pytest.raises(JaxfairError) as caught:
        read(tmp_path, f"file\na.jpg\n{cell}\n")
    assert f"The path '{cell}' in data row 2 of " in str(caught.value)
    assert "leads out of" in str(caught.value)


def test_names_that_look_like_paths_elsewhere_are_found_exactly(tmp_path: Path) -> None:
    write(tmp_path / "images", {"sub\\x.jpg": b"", "C:y.jpg": b""})
    assert read(tmp_path, "file\nsub\\x.jpg\nC:y.jpg\n").names == ["sub\\x.jpg", "C:y.jpg"]


def test_rows_that_do_not_fit_are_rejected(tmp_path: Path) -> None:
    """Their cells leave no trace in the columns; rows count from 1 below the header."""
    rows = ["file,race", "a.jpg,1", "gone.jpg,2", " ,3", "b.jpg,4", "./b.jpg,4", "sub/c.jpg", "sub\\c.jpg,6", "x,7,8"]
    index = read(tmp_path, "\n".join([*rows, "b.jpg,9"]))
    assert list(index.names) == ["a.jpg", "sub/c.jpg"]
    assert index.columns["race"].names == ("1", "6")
    assert [tuple(rejected) for rejected in index.rejected] == [
        ("data row 6 of labels.csv", "has 1 cells instead of 2"),
        ("data row 8 of labels.csv", "has 3 cells instead of 2"),
        ("data row 3 of labels.csv", "has no path"),
        ("gone.jpg", "does not exist"),
        ("b.jpg", "stands in data rows 4, 5 and 9 of labels.csv"),
    ]
    assert index.left_out == (("1 file (sub/d e.jpg)", "named by no row of labels.csv"),)


def test_rows_without_any_cell_are_passed_over(tmp_path: Path) -> None:
    """Excel writes them, and counts them."""
    index = read(tmp_path, "file,race\na.jpg,1\n,\n , \n,,,\nb.jpg\nsub/c.jpg,2\n,,\n")
    assert list(index.names) == ["a.jpg", "sub/c.jpg"]
    assert index.rejected == (("data row 5 of labels.csv", "has 1 cells instead of 2"),)
    with pytest.raises(JaxfairError, match="has a header but no rows"):
        read(tmp_path, "file,race\n,\n")


@pytest.mark.parametrize("cell", ["1.png", "./1.png", "sub/../1.png"])
def test_a_path_that_fits_two_files_is_refused(tmp_path: Path, cell: str) -> None:
    contents = {"1.png": b"", "sub/1.png": b"", "sub/2.png": b"", "sub/labels.csv": f"file\n{cell}\n2.png\n".encode()}
    words = f"'{cell}' in data row 1 of .* fits two files, '1.png' and 'sub/1.png'"
    with open_files(write(tmp_path, contents)) as files, pytest.raises(JaxfairError, match=words):
        table.read(tmp_path, files, "file")
    (tmp_path / "1.png").unlink()
    if cell != "sub/../1.png":
        with open_files(tmp_path) as files:
            assert table.read(tmp_path, files, "file").names == ["sub/1.png", "sub/2.png"]


def test_a_column_that_names_the_parts_is_said(tmp_path: Path) -> None:
    index = read(tmp_path, "file,phase\na.jpg,train\nb.jpg,TEST\n")
    assert index.left_out[0].name == "the column 'phase'"
    assert index.left_out[0].reason.endswith("call it 'split' to keep its test rows out of training")


def test_missing_cells_stay_rows(tmp_path: Path) -> None:
    index = read(tmp_path, "file,race,empty\na.jpg,,\nb.jpg,White,\nsub/c.jpg, ,\n")
    assert index.columns["race"].codes.tolist() == [MISSING, 0, MISSING]
    assert index.columns["empty"].codes.tolist() == [MISSING] * 3


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (["250.0", "250.00", "250.01"], ("250.0", "250.00", "250.01")),
        (["1.0", "", "10.0"], ("1.0", "10.0")),
        (["1.0", "1", "2"], ("1", "1.0", "2")),
        (["1.0", "x", "2.0"], ("1.0", "2.0", "x")),
        (["007", "7", "10"], ("007", "7", "10")),
        (["1e5", "100000", "1e5"], ("100000", "1e5")),
    ],
)
def test_text_keeps_its_spelling(tmp_path: Path, cells: list[str], names: tuple[str, ...]) -> None:
    content = "\n".join(["file,x", *(f"{name},{cell}" for name, cell in zip(NAMES, cells, strict=False))])
    assert read(tmp_path, content).columns["x"].names == names


def test_missing_cells_are_the_same_in_csv_and_parquet(tmp_path: Path) -> None:
    cells = ["a", "None", "n/a", "NAN", "<NA>", None, "b"]
    paths = [f"{i}.jpg" for i in range(len(cells))]
    root = write(tmp_path / "images", dict.fromkeys(paths, b""))
    for path in write_both(tmp_path, {"file": paths, "race": cells}):
        with open_files(root) as files:
            race = table.read(path, files, "file").columns["race"]
        assert values(race) == ["a", None, None, None, None, None, "b"]


def test_a_column_split_is_the_split_and_stays_a_column(tmp_path: Path) -> None:
    index = read(tmp_path, "file,split\na.jpg,valid\nb.jpg,train\nsub/c.jpg,training\n")
    assert values(index.split) == ["validation", "train", "train"]
    assert values(index.columns["split"]) == ["valid", "train", "training"]


@pytest.mark.parametrize(("cell", "words"), [("", "no value in 1 rows"), ("held", "the value 'held' too")])
def test_a_split_that_is_not_known_of_all_is_refused(tmp_path: Path, cell: str, words: str) -> None:
    """It would be lost, and what was held out be trained on."""
    with pytest.raises(JaxfairError, match=f"says train and validation, but {words}"):
        read(tmp_path, f"file,split\na.jpg,valid\nb.jpg,train\nsub/c.jpg,{cell}\n")


def test_a_column_split_of_other_values_is_a_column(tmp_path: Path) -> None:
    index = read(tmp_path, "file,split\na.jpg,0\nb.jpg,1\n")
    assert (index.split, index.columns["split"].names) == (None, ("0", "1"))
    assert tuple(index.left_out[0]) == (
        "the column 'split'",
        "says 0, 1, none of which is train, test or validation: it is no split",
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty; expected a header and rows"),
        ("\n\n", "is empty; expected"),
        ("file,race\n", "has a header but no rows"),
        ("files,race\na.jpg,1\n", r"has no column 'file'; did you mean 'files'\?"),
        ("x,y\na.jpg,1\n", "has no column 'file'; choose from x, y"),
        ("file,Split\na.jpg,train\n", "has a column 'Split'; call it 'split', or otherwise"),
        ("x;y\na.jpg;1\n", "choose from x, y"),
        ("file,race,race\na.jpg,1,2\n", "several columns named 'race'; rename all but one"),
        ("file,file\na.jpg,b.jpg\n", "several columns named 'file'"),
        ("file,race\ngone.jpg,1\n", r"can be used \(gone.jpg does not exist\); .* whose first file is 'a.jpg'"),
        ("file\na.jpg\na.jpg\ngone.jpg\n", r"\(gone.jpg does not exist\); paths are expected to be relative"),
        ("file\na.jpg\na.jpg\n", r"\(a.jpg stands in data rows 1 and 2 of labels.csv\); give one row to each image"),
        ('sep=;\nfile;race\na.jpg;"White\nb.jpg;1\n', "is no CSV from line 3 on: unexpected end"),
        ("file,race\na.jpg\n", r"can be used \(data row 1 of labels.csv has 1 cells instead of 2\)"),
        ('file,race\na.jpg,"White\nb.jpg,Black\n', "is no CSV from line 2 on: unexpected end .* check the quotes"),
        ('file,race\na.jpg,"White" x\n', "is no CSV from line 2 on"),
        (b"\x89PNG\r\n\0\0", "is not text; save it as CSV in UTF-8"),
        ("file,race\n".encode("utf-16"), "is not text; save it as CSV in UTF-8, or as Parquet"),
        ("file,race\na.jpg,é\n".encode("latin-1"), "is not UTF-8 text in line 2; save it as CSV in UTF-8"),
    ],
)
def test_a_table_is_refused(tmp_path: Path, content: str | bytes, words: str) -> None:
    with pytest.raises(JaxfairError, match=words):
        read(tmp_path, content)


def test_an_absent_table_is_refused(tmp_path: Path) -> None:
    write(tmp_path, IMAGES)
    with open_files(tmp_path) as files:
        with pytest.raises(JaxfairError, match=r"cannot be read: No such file or directory; give a CSV or Parquet"):
            table.read(tmp_path / "labels.csv", files, "file")
        with pytest.raises(JaxfairError, match=r"holds no table; expected one table that ends in \.csv, .* by images"):
            table.read(tmp_path, files, "file")


def test_a_table_within_its_folder_is_no_file_left_out(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": b"", "b.jpg": b"", "labels.csv": b"file\na.jpg\nb.jpg\n"})
    with open_files(tmp_path) as files:
        assert table.read(tmp_path / "labels.csv", files, "file").left_out == ()


def test_paths_may_leave_out_the_one_folder_of_an_archive(tmp_path: Path) -> None:
    """And the stream yields each file under its own row, in the archive's order."""
    (tmp_path / "labels.csv").write_text("file\nb/b.jpg\ntop/a.jpg\ngone.jpg\n")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("a.jpg", "b/b.jpg", "f.jpg", "e.jpg", "d/d.jpg", "c.jpg"):
            archive.writestr(f"top/{name}", name)
    with open_files(tmp_path / "a.zip") as files:
        index = table.read(tmp_path / "labels.csv", files, "file")
        assert list(index.names) == ["top/b/b.jpg", "top/a.jpg"]
        assert list(index.stream()) == [(1, b"a.jpg"), (0, b"b/b.jpg")]
        assert index.rejected == (("gone.jpg", "does not exist"),)
        assert index.left_out[0].name == "4 files (top/c.jpg, top/d/d.jpg, top/e.jpg, ...)"


CAFE = {"NFC": "caf\u00e9/\u00fc.jpg", "NFD": "cafe\u0301/u\u0308.jpg"}


@pytest.mark.parametrize("stored", CAFE)
@pytest.mark.parametrize("written", CAFE)
def test_names_are_the_same_in_both_forms_of_unicode(tmp_path: Path, stored: str, written: str) -> None:
    """Also with other folders before them; macOS packs names in the second form."""
    (tmp_path / "labels.csv").write_text(f"fi\u0301le,x\n{CAFE[written]},1\n.\\{CAFE[written]},2\nb.jpg,3\n")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(f"top/{CAFE[stored]}", b"\xfc")
        archive.writestr("top/b.jpg", b"b")
    with open_files(tmp_path / "a.zip") as files:
        index = table.read(tmp_path / "labels.csv", files, "f\u00edle")
        assert index.names == ["top/b.jpg"]
        assert index.rejected == ((f"top/{CAFE[stored]}", "stands in data rows 1 and 2 of labels.csv"),)
        assert list(index.stream()) == [(0, b"b")]


def test_two_files_that_differ_in_the_form_alone_are_found_by_it(tmp_path: Path) -> None:
    names = ["\u00e9\u00fc.jpg", "e\u0301u\u0308.jpg"]
    write(tmp_path / "images", dict.fromkeys(names, b""))
    index = read(tmp_path, "\n".join(["file", *names, "e\u0301\u00fc.jpg"]))  # the last is spelled as neither
    assert index.names == names
    assert [rejected.reason for rejected in index.rejected] == ["does not exist"]


def test_excels_line_about_its_delimiter_is_no_header(tmp_path: Path) -> None:
    index = read(tmp_path, "sep=;\r\nfile;race\r\na.jpg;1,5\r\n")
    assert (list(index.names), index.columns["race"].names) == (["a.jpg"], ("1,5",))


def test_a_hidden_image_is_said_to_be_hidden(tmp_path: Path) -> None:
    write(tmp_path / "images", {".cache/b.jpg": b""})
    index = read(tmp_path, "file\na.jpg\n.cache/b.jpg\n")
    assert index.rejected == ((".cache/b.jpg", "is hidden, and hidden files are passed over"),)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
@pytest.mark.parametrize("name", ["labels.csv", "set/LABELS.CSV", "set/lists/labels.parquet"])
@pytest.mark.parametrize("relative_to", ["", "set", "the table"])
def test_a_table_may_lie_in_the_archive_of_its_images(tmp_path: Path, kind: str, name: str, relative_to: str) -> None:
    folder = posixpath.dirname(name) if relative_to == "the table" else relative_to
    cells = [posixpath.relpath(image, folder or ".") for image in ("set/a.jpg", "set/b/c.jpg")]
    written = write_both(tmp_path, {"file": cells, "race": ["x", "y"]})[name.endswith("parquet")].read_bytes()
    contents = {"set/a.jpg": b"a", "set/b/c.jpg": b"c", name: written, "notes.txt": b""}
    path = packed(tmp_path, kind, contents)
    with open_files(path) as files:
        index = table.read(path, files, "file")
        assert index.names == ["set/a.jpg", "set/b/c.jpg"]
        assert dict(index.stream()) == {0: b"a", 1: b"c"}
        assert index.left_out == (("1 file (notes.txt)", "named by no row of " + posixpath.basename(name)),)
        assert (values(index.columns["race"]), index.rejected) == (["x", "y"], ())
    with open_files(write(tmp_path / "elsewhere", {"set/a.jpg": b"a", "set/b/c.jpg": b"c"})) as files:
        if relative_to == "":  # images may be elsewhere still
            assert table.read(path, files, "file").names == ["set/a.jpg", "set/b/c.jpg"]


def test_of_two_tables_in_an_archive_one_has_to_be_named(tmp_path: Path) -> None:
    """And the advice helps."""
    path = packed(tmp_path, "zip", {"a.jpg": b"", "1.csv": b"file\na.jpg\n", "2.csv": b""})
    with open_files(path) as files:
        with pytest.raises(JaxfairError, match=r"holds 2 files \(1.csv, 2.csv\); expected one .* name the table"):
            table.read(path, files, "file")
        (tmp_path / "1.csv").write_bytes(files.read("1.csv"))
        assert table.read(tmp_path / "1.csv", files, "file").names == ["a.jpg"]


def write_both(root: Path, columns: dict[str, Sequence[Any]]) -> tuple[Path, Path]:
    """Write the same columns as CSV and as Parquet."""
    parquet.write_table(pyarrow.table(columns), root / "labels.parquet")
    with (root / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return root / "labels.csv", root / "labels.parquet"


def column_of(length: int) -> st.SearchStrategy[list[Any]]:
    text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=4) | st.sampled_from(["1.0", "nan", "2"])
    kinds = [text, st.integers(-99, 99), st.booleans(), st.floats(width=64, allow_infinity=False)]
    return st.sampled_from(kinds).flatmap(lambda cell: st.lists(st.none() | cell, min_size=length, max_size=length))


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Sequence[Any]]:
    cells = st.sampled_from([*NAMES, "./a.jpg", "gone.jpg", "", None])
    paths = ["a.jpg", *draw(st.lists(cells, max_size=5))]
    columns = {name: draw(column_of(len(paths))) for name in draw(st.sets(st.sampled_from("xyz"), min_size=1))}
    return {"file": paths, **columns}


def describe(path: Path, root: Path, numeric: Collection[str]) -> Any:
    """Return all that an index says with some columns as numbers, or the sentence of the refusal."""
    with open_files(root) as files:
        try:
            index = table.read(path, files, "file")
        except JaxfairError as error:
            return str(error).replace(path.suffix, "")
    columns = {
        name: values(as_numbers(column, name) if name in numeric else column) for name, column in index.columns.items()
    }
    notes = [(r.name.replace(path.suffix, ""), r.reason.replace(path.suffix, "")) for r in index.rejected]
    return list(index.names), columns, notes, len(index.left_out)


@settings(max_examples=60)
@given(tables())
def test_csv_and_parquet_give_one_index(columns: dict[str, Sequence[Any]]) -> None:
    """Where columns that Parquet knows as floats are declared to be numeric."""
    numeric = [name for name, cells in columns.items() if any(isinstance(cell, float) for cell in cells)]
    with tempfile.TemporaryDirectory() as name:
        root = write(Path(name) / "images", IMAGES)
        as_csv, as_parquet = write_both(Path(name), columns)
        assert describe(as_csv, root, numeric) == describe(as_parquet, root, numeric)


def test_parquet_types(tmp_path: Path) -> None:
    """Bytes, categories, dates, structures, and names with a dot."""
    categories = pyarrow.array(["x", None, "y"]).dictionary_encode()
    days = pyarrow.array(np.array(["2020-01-02", "NaT", "2020-01-01"], "datetime64[D]"))
    columns = {
        "file": [b"a.jpg", b"b.jpg", None],
        "a.b": categories,
        "a": days,
        "c": [{"bytes": b"1"}, {"bytes": b"2"}, {"bytes": b"3"}],
        "image": [b"\xff\xd8", b"\xff\xd8", None],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "labels.parquet")
    with open_files(write(tmp_path / "images", IMAGES)) as files:
        index = table.read(tmp_path / "labels.parquet", files, "file")
    assert list(index.names) == ["a.jpg", "b.jpg"]
    assert values(index.columns["a.b"]) == ["x", None]
    assert values(index.columns["a"]) == ["2020-01-02", None]
    assert len(index.columns["c"].names) == 2
    assert "image" not in index.columns
    assert index.left_out[0] == ("the column 'image'", "holds bytes that are no text in UTF-8: it is passed over")
    assert index.rejected == (("data row 3 of labels.parquet", "has no path"),)


@pytest.mark.parametrize(
    ("column", "words"), [("file", "has no column 'file', and 'image'"), ("image", "The column 'image' of the table")]
)
@pytest.mark.parametrize("cell", [b"\xff\xd8" * 900, {"bytes": b"\xff\xd8" * 900, "path": "1.jpg"}])
def test_a_table_with_the_images_in_it_is_refused(tmp_path: Path, column: str, words: str, cell: Any) -> None:
    """As those of Hugging Face have them."""
    parquet.write_table(pyarrow.table({"image": [cell] * 2, "label": [0, 1]}), tmp_path / "labels.parquet")
    files = open_files(write(tmp_path / "images", IMAGES))
    with pytest.raises(JaxfairError, match=words) as caught:
        table.read(tmp_path / "labels.parquet", files, column)
    assert "holds images themselves, or other bytes; write images to files" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_columns_of_parquet_that_hold_no_cells_are_passed_over(tmp_path: Path) -> None:
    columns = {
        "file": ["a.jpg", "b.jpg"],
        "dose": pyarrow.array([0.1, None], pyarrow.float32()),
        "price": pyarrow.array([Decimal("7.00"), Decimal("7.50")]),
        "image": [{"bytes": b"\xff", "path": "1"}] * 2,
        "day": pyarrow.array([10**9, 0], pyarrow.date32()),
        "at": pyarrow.array([0, 1], pyarrow.timestamp("s", "Nowhere/Town")),
        "embedding": [[0.1] * 512] * 2,
        "race": ["x", "y"],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "labels.parquet")
    with open_files(write(tmp_path / "images", IMAGES)) as files:
        index = table.read(tmp_path / "labels.parquet", files, "file")
    assert {name: values(column) for name, column in index.columns.items()} == {
        "dose": ["0.1", None],
        "price": ["7", "7.50"],
        "race": ["x", "y"],
    }
    passed = [f"the column '{name}'" for name in ("image", "day", "at", "embedding")]
    assert [item.name for item in index.left_out[:4]] == passed


@pytest.mark.parametrize(("size", "words"), [(0, "Parquet"), (50, "Parquet: .*; write it again, or as CSV")])
def test_a_parquet_file_that_is_cut_short_is_refused(tmp_path: Path, size: int, words: str) -> None:
    _, path = write_both(tmp_path, {"file": ["a.jpg"]})
    with pytest.raises(JaxfairError, match=words):
        read(tmp_path, path.read_bytes()[:size], name="labels.parquet")
