"""Groups: which are large, in which order they stand, and how their names are cut."""

import numpy as np
import pytest

from experiments.reporting.groups import Groups, check_name
from jaxfair.errors import JaxfairError


def test_large_groups_come_first_and_have_at_least_the_average() -> None:
    groups = Groups(("a", "b", "c"), np.array([20, 400, 210]), np.array([30, 40, 29]))
    assert groups.large.tolist() == [False, True, True]
    assert groups.order.tolist() == [1, 2, 0]
    assert groups.titles == ["b (400)", "c (210)", "a (20)"]
    assert [(part.name, part.members.tolist()) for part in groups.parts] == [
        ("large groups", [False, True, True]),
        ("small groups", [True, False, False]),
    ]
    assert groups.warnings() == ["Fewer than 30 test images in group c: their intervals are very wide."]


def test_equal_groups_are_all_large() -> None:
    groups = Groups(("a", "b"), np.array([50, 50]), np.array([30, 30]))
    assert [part.name for part in groups.parts] == ["large groups"]
    assert groups.order.tolist() == [0, 1]
    assert groups.warnings() == []


def test_names_are_broken_into_lines_and_not_cut() -> None:
    names = (*(f"Heavy makeup & {i} & no beard at all" for i in range(3)), "a", "x" * 30)
    wrapped = Groups(names, *np.ones((2, 5))).wrapped(18)
    assert wrapped[0] == "Heavy makeup & 0 &\nno beard at all"
    assert wrapped[3:] == ["a", "x" * 18 + "\n" + "x" * 12]
    assert [" ".join(name.split()) for name in wrapped[:3]] == list(names[:3])
    assert max(len(line) for title in Groups(names, *np.ones((2, 5), int)).titles for line in title.split("\n")) <= 26


def test_whole_paragraphs_are_cut_and_stay_different() -> None:
    names = tuple("word " * 100 + f"{i} " + "more " * 100 for i in range(3))
    wrapped = Groups(names, *np.ones((2, 3))).wrapped()
    assert len(set(wrapped)) == 3
    assert max(map(len, wrapped)) < 1000


def test_a_group_that_is_not_there_is_named_with_some_that_are() -> None:
    assert check_name(None, ("a", "b")) is None
    assert check_name("b", ("a", "b")) == "b"
    assert check_name("e\u0301", ("x", "\u00e9")) == "\u00e9", "one text in two forms of Unicode"
    with pytest.raises(JaxfairError, match="no group 'c' to be the reference; the groups are a, b: give one of them"):
        check_name("c", ("a", "b"))
    with pytest.raises(JaxfairError) as refused:
        check_name("x" * 9999, [f"{i}" * 999 for i in range(9999)])
    assert len(str(refused.value)) < 1000
    assert "and 9987 more" in str(refused.value)
