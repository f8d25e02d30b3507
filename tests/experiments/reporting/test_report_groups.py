"""Groups: which are large, in which order they stand, and how their names are cut."""

import numpy as np

from experiments.reporting.groups import Groups


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


def test_short_names_stay_different() -> None:
    names = [f"Heavy makeup & {i} & no beard at all" for i in range(3)]
    short = Groups(tuple(names), *np.ones((2, 3))).short_names()
    assert len(set(short)) == 3
    assert max(map(len, short)) < len(names[0])
    assert Groups(("a", "b", "x" * 30), *np.ones((2, 3))).short_names()[:2] == ["a", "b"]
