"""Columns against a reference of plain lists: values, intersections, merged and selected values."""

from collections import Counter
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfair.data.columns import (
    MISSING,
    Column,
    as_numbers,
    choose,
    combine,
    from_names,
    from_values,
    merge_below,
    select,
)
from jaxfair.errors import JaxfairError
from tests.layout_sources import values

Values = list[str | None]


def column(cells: Values, names: tuple[str, ...]) -> Column:
    codes = [MISSING if cell is None else names.index(cell) for cell in cells]
    return Column(np.array(codes, np.int32), names)


@st.composite
def columns(draw: st.DrawFn, length: int | None = None) -> Column:
    """Draw a column whose names are in any order, and not all of which need occur."""
    names = tuple(draw(st.lists(st.sampled_from("abcdef"), unique=True, min_size=1)))
    codes = draw(st.lists(st.integers(MISSING, len(names) - 1), min_size=length or 0, max_size=length))
    return Column(np.array(codes, np.int32), names)


@pytest.mark.parametrize(
    ("cells", "names", "codes"),
    [
        (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
        ([10, 9, -1, 9], ("-1", "9", "10"), [2, 1, 0, 1]),
        (["10", "9", "x", "1.5"], ("1.5", "9", "10", "x"), [2, 1, 3, 0]),
        ([1.0, float("nan"), 2.5, None], ("1", "2.5"), [0, -1, 1, -1]),
        ([np.float32(1), np.float64(2), np.int8(1)], ("1", "2"), [0, 1, 0]),
        ([np.float64("nan"), "a"], ("a",), [-1, 0]),
        ([Decimal("7.00"), Decimal("7.50"), Decimal("1E+2")], ("7", "7.50", "100"), [0, 1, 2]),
        ([np.float32(0.1), np.float16(0.1)], ("0.1",), [0, 0]),
        ([True, False, True], ("False", "True"), [1, 0, 1]),
        ([b"x", b"", " x ", "\t"], ("x",), [0, -1, 0, -1]),
        (["007", "7"], ("007", "7"), [0, 1]),
        (["250.0", "250.00", "250.01", "2.5e2"], ("2.5e2", "250.0", "250.00", "250.01"), [1, 2, 3, 0]),
        (["caf\u00e9", "cafe\u0301"], ("caf\u00e9",), [0, 0]),  # one text in two forms of Unicode
        ([{"a": 1, "b": None}, {"a": 1, "b": 2}], ("{'a': 1, 'b': 2}",), [-1, 0]),  # a part is missing
        ([], (), []),
    ],
)
def test_from_values(cells: list[Any], names: tuple[str, ...], codes: list[int]) -> None:
    result = from_values(cells)
    assert (result.names, result.codes.tolist()) == (names, codes)


@given(st.lists(st.none() | st.integers(-20, 20) | st.text("ab \t", max_size=3)))
def test_from_values_keeps_every_value(cells: list[Any]) -> None:
    result = from_values(cells)
    assert values(result) == [None if cell is None else str(cell).strip() or None for cell in cells]
    assert set(result.names) == set(values(result)) - {None}
    numbers = [int(name) for name in result.names if name.strip("-").isdigit()]
    texts = list(result.names[len(numbers) :])
    assert (numbers, texts) == (sorted(numbers), sorted(texts))


def test_numbers_sort_beside_names_that_are_called_nan() -> None:
    """Codes must not differ between two runs."""
    words = ["Inf", "NAN", "Nan", "inf"]  # numbers to Python, but in no order with others
    for count in range(20, 40):
        numbers = [str(i) for i in range(count)]
        names = from_names(numbers + words).names
        assert [name for name in names if name in numbers] == numbers
        assert [name for name in names if name in words] == words


@pytest.mark.parametrize(
    "cell",
    [
        *(None, "", " ", "NA", "na", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NAN", "None", "none", "NONE", "NULL"),
        *("null", "NaT", "-nan", "\\N", "1.#IND", b"None", " n/a\t", float("nan"), np.float16("nan"), np.ma.masked),
        *(np.datetime64("NaT"), np.str_("None"), Decimal("NaN")),
    ],
)
def test_what_is_written_for_nothing_is_missing(cell: Any) -> None:
    assert values(from_values([cell, "b"])) == [None, "b"]


@pytest.mark.parametrize("cell", ["nano", "Nana", "N", "A", "no", "0", "-", "?", "unknown", "other"])
def test_other_cells_are_values(cell: str) -> None:
    assert values(from_values([cell, None])) == [cell, None]


def test_what_numpy_makes_of_none_and_nan_is_missing() -> None:
    cells = np.array(["a", None, float("nan")], dtype=object)
    assert values(from_values(cells.tolist())) == values(from_values(cells.astype(str).tolist())) == ["a", None, None]


def test_names_that_are_no_cells_are_never_missing() -> None:
    """And keep their blanks; the two forms of Unicode are one name."""
    names = ["NA", "None", "nan", "", " a", "a", "cafe\u0301", "007", "7"]
    assert values(from_names(names)) == ["NA", "None", "nan", "", " a", "a", "caf\u00e9", "007", "7"]


@pytest.mark.parametrize(
    ("cells", "names", "codes"),
    [
        (["250.0", "250.00", None, "2.5e2", "9"], ("9", "250"), [1, 1, MISSING, 1, 0]),
        (["007", "7", "+7", "-.5", "7."], ("-0.5", "7"), [1, 1, 1, 0, 1]),
        (["12345678901234567890", "12345678901234567891"], ("12345678901234567890", "12345678901234567891"), [0, 1]),
        (["9007199254740993.5", "9007199254740993"], ("9007199254740993", "9007199254740994"), [1, 0]),
        ([1, 2.5, 1.0], ("1", "2.5"), [0, 1, 0]),
        ([None, None], (), [MISSING, MISSING]),
    ],
)
def test_a_numeric_column_has_one_value_a_number(cells: list[Any], names: tuple[str, ...], codes: list[int]) -> None:
    column = as_numbers(from_values(cells), "x")
    assert (column.names, column.codes.tolist(), column.codes.dtype) == (names, codes, np.int32)


@pytest.mark.parametrize("cell", ["V12", "1_0", "\u0661", "0x1", "1e999", "inf", "1,5", "9" * 5000])
def test_a_numeric_column_of_other_text_is_refused(cell: str) -> None:
    with pytest.raises(JaxfairError, match=r"'icd9' is to be numeric, but has the value .*; leave .* mend") as caught:
        as_numbers(from_values(["250.0", cell]), "icd9")
    assert len(str(caught.value)) < 200


def test_from_values_knows_every_nan() -> None:
    assert from_values([np.float32("nan"), np.float32(1)]).names == ("1",)


@given(st.integers(0, 8).flatmap(lambda n: st.lists(columns(n), min_size=1, max_size=3)))
def test_combine_is_the_intersection(parts: list[Column]) -> None:
    rows = list(zip(*map(values, parts), strict=True))
    result = combine(parts)
    assert values(result) == [None if None in row else " & ".join(map(str, row)) for row in rows]
    if len(parts) > 1:  # one column stays as it is, with values that do not occur
        present = {codes for codes in zip(*(part.codes for part in parts), strict=True) if MISSING not in codes}
        names = [" & ".join(part.names[i] for part, i in zip(parts, c, strict=True)) for c in sorted(present)]
        assert list(result.names) == names


def test_combine_with_a_column_of_which_nothing_is_known() -> None:
    assert combine([from_values(["a", "b"]), from_values([None, None])]).codes.tolist() == [MISSING, MISSING]


def test_combine_many_columns_of_many_values() -> None:
    many = from_values(list(range(3000)))
    assert len(combine([many] * 6).names) == 3000


@given(columns(), st.integers(0, 6))
def test_merge_below_merges_the_rare_values(given_column: Column, count: int) -> None:
    """Two or more of them: one alone would only lose its name."""
    cells = values(given_column)
    seen = Counter(cells)
    rare = {name for name in given_column.names if seen[name] < count}
    result = merge_below(given_column, count, "rest")
    if len(rare) < 2:
        assert (values(result), result.names) == (cells, given_column.names)
    else:
        assert values(result) == ["rest" if cell in rare else cell for cell in cells]
        assert result.names == (*(name for name in given_column.names if name not in rare), "rest")


def test_merge_below_beside_a_value_of_that_name() -> None:
    merged = merge_below(from_values(["a", "b", "other", "other"]), 2)
    assert len(set(merged.names)) == len(merged.names)


@given(columns().flatmap(lambda c: st.tuples(st.just(c), st.lists(st.integers(0, max(len(c.codes) - 1, 0))))))
def test_select_keeps_rows_and_the_values_that_occur(drawn: tuple[Column, list[int]]) -> None:
    whole, rows = drawn
    rows = rows if len(whole.codes) else []
    cells = values(whole)
    result = select(whole, np.array(rows, int))
    assert values(result) == [cells[row] for row in rows]
    assert list(result.names) == [name for name in whole.names if name in {cells[row] for row in rows}]


def test_choose_combines_the_named_columns() -> None:
    table = {"sex": column(["f", "m", None], ("m", "f")), "race": from_values(["b", "a", "a"])}
    assert choose(table, ["sex"], "class") is table["sex"]
    assert values(choose(table, ["sex", "race"], "group")) == ["f & b", "m & a", None]
    assert choose(table, ["sex", "race"], "group").names == ("m & a", "f & b")
    assert choose(table, ["race", "sex"], "group").names == ("a & m", "b & f")


def test_choose_names_the_nearest_column() -> None:
    table = {"gender": from_values(["f"]), "race": from_values(["a"])}
    with pytest.raises(JaxfairError, match=r"There is no group column 'gendr'; did you mean 'gender'\?"):
        choose(table, ["race", "gendr"], "group")
    with pytest.raises(JaxfairError, match="no class column 'xyz'; choose from gender, race"):
        choose(table, ["xyz"], "class")


def test_long_codes_are_numbers_digit_by_digit() -> None:
    """With a point too, as a program writes a column once a cell of it was missing."""
    codes = ["900000000000207008", "900000000000207009.0", "900000000000207008.0"]
    column = as_numbers(from_values(codes), "code")
    assert column.names == ("900000000000207008", "900000000000207009")
    assert column.codes.tolist() == [0, 1, 0]
