"""Figures: drawn without warnings from any study, equal input gives equal files, and points are where tables say."""

import warnings
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

from experiments.linearization import figures
from experiments.linearization import results as tables
from experiments.linearization.results import Results
from experiments.reporting import drawing
from experiments.reporting.groups import LARGE, Groups
from tests.study import make_analyses

RACES = ("White", "Black", "Native Hawaiian", "Asian", "Indian")
STUDIES = {
    "two groups": {"group_names": ("men", "women"), "train_count": (900, 100), "test_count": (50, 20)},
    "six groups, one name long": {
        "group_names": ("White", "Black", "Native Hawaiian and other Pacific Islander", "Asian", "Indian", "Others"),
        "train_count": (5000, 900, 10, 1200, 800, 100),
        "test_count": (60, 50, 3, 40, 30, 20),
    },
    "one seed": {"seeds": 1},
    "equal groups": {"train_count": (50, 50, 50), "test_count": (30, 30, 30)},
    "a group that is never right": {"never_right": (2,)},
    "one group": {"group_names": ("all",), "train_count": (90,), "test_count": (70,)},
    "one linearized network": {"networks": (("Full network", "full", 768), ("SNL 200", "snl", 200))},
    "no SNL": {"networks": (("Full network", "full", 768), ("DeepReDuce C12", "deepreduce", 0))},
    "25 groups with long names": {
        "group_names": [f"{race} & aged {age}" for race in RACES for age in range(5)],
        "train_count": [3000 - 100 * i for i in range(25)],
        "test_count": [8] * 25,
        "networks": (("Full network", "full", 768), ("SNL 200", "snl", 200)),
    },
    "names that look like markup": {"group_names": ("$x^$", "<b>&amp;", "é_{\\frac ☃")},
}


def results_of(tmp_path: Path, study: dict) -> Results:
    return tables.collect(make_analyses(tmp_path / "runs", **study))


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES.keys())
def test_every_study_is_drawn_without_warnings(tmp_path: Path, study: dict) -> None:
    results = results_of(tmp_path, study)
    before = mpl.rcParams["font.size"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # A character that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        drawn = drawing.draw_all(figures.DRAWINGS, results, tmp_path)
    assert [figure.name for figure in drawn] == list(figures.DRAWINGS)
    for figure in drawn:
        assert figure.file is not None
        assert figure.file == tmp_path / f"{figure.name}.svg"
        assert figure.file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        assert ET.parse(figure.file).getroot().tag.endswith("svg")
    assert mpl.rcParams["font.size"] == before


def test_a_long_name_leaves_room_for_the_figure(tmp_path: Path) -> None:
    results = results_of(tmp_path, STUDIES["six groups, one name long"])
    for draw in (figures.accuracy_drop_by_group, figures.curvature_by_group):
        with mpl.rc_context(drawing.STYLE):
            figure = draw(results)
            figure.draw_without_rendering()
        heights = [axes.get_position().height * figure.get_figheight() for axes in figure.axes if axes.get_visible()]
        assert min(heights) > 0.9, (draw.__name__, heights)  # inches


def overlaps(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two boxes with axes along the text, shape (4, 2), share an inner point: no side parts them."""
    for box in (a, b):
        for side in (box[1] - box[0], box[2] - box[1]):
            first, second = a @ side, b @ side
            slack = 0.02 * np.linalg.norm(side) ** 2
            if first.max() <= second.min() + slack or second.max() <= first.min() + slack:
                return False
    return True


def box_of(text: Any) -> np.ndarray:
    """Return the corners of a drawn text, however it is rotated, shape (4, 2)."""
    rotation = text.get_rotation()
    anchor = text.get_transform().transform(text.get_unitless_position())
    text.set_rotation(0)
    corners = text.get_window_extent().corners()[[0, 1, 3, 2]] - anchor
    text.set_rotation(rotation)
    turn = np.deg2rad(rotation)
    return corners @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + anchor


@pytest.mark.parametrize(
    ("names", "count"),
    [("{}", 10), ("{} years", 10), ("occupation number {}, in the city", 5), ("{} & male & young", 25), ("{}", 60)],
)
def test_names_of_groups_do_not_overlap(tmp_path: Path, names: str, count: int) -> None:
    listed = [names.format(i) for i in range(count)]
    study = {"group_names": listed, "train_count": [12000 - i for i in range(count)], "test_count": [3] * count}
    results = results_of(tmp_path, {**study, "seeds": 1, "networks": STUDIES["one linearized network"]["networks"]})
    with mpl.rc_context(drawing.STYLE):
        figure = figures.accuracy_drop_by_group(results)
        figure.draw_without_rendering()
        boxes = [box_of(text) for text in figure.axes[0].get_xticklabels()]
    assert len(boxes) == count
    assert not [i for i in range(count - 1) if overlaps(boxes[i], boxes[i + 1])]


def test_short_names_stay_different() -> None:
    names = [f"Heavy makeup & {i} & no beard at all" for i in range(3)]
    short = Groups(tuple(names), *np.ones((2, 3))).short_names()
    assert len(set(short)) == 3
    assert max(map(len, short)) < len(names[0])
    assert Groups(("a", "b", "x" * 30), *np.ones((2, 3))).short_names()[:2] == ["a", "b"]


def points(container: Any) -> np.ndarray:
    return np.asarray(container.lines[0].get_xydata())


def bars(container: Any) -> np.ndarray:
    """Return lower and upper ends of the error bars, shape (points, 2)."""
    return np.array([segment[:, 1] for segment in container.lines[2][0].get_segments()])


def test_drops_are_drawn_where_the_table_has_them(tmp_path: Path) -> None:
    results = results_of(tmp_path, {"train_count": (20, 400, 300)})
    figure = figures.accuracy_drop_by_group(results)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 3
    for axes, variant in zip(shown, results.variants[1:], strict=True):
        mean, low, high = tables.drops(results, variant)
        drawn = np.concatenate([points(c) for c in axes.containers])
        # Groups stand from large to small: b, c, a.
        np.testing.assert_allclose(drawn[np.argsort(drawn[:, 0])], np.c_[[0, 1, 2], mean[[1, 2, 0]]])
        large: Any = axes.containers[0]
        assert large.lines[0].get_color() == LARGE
        np.testing.assert_allclose(bars(large), np.c_[low, high][[1, 2]])
        assert [t.get_text().split("\n") for t in axes.get_xticklabels()] == [["b", "400"], ["c", "300"], ["a", "20"]]


def test_accuracies_are_drawn_against_relus(tmp_path: Path) -> None:
    results = results_of(tmp_path, {})
    (axes,) = figures.accuracy_by_budget(results).axes
    drawn = {c.get_label(): points(c) for c in axes.containers}
    assert set(drawn) == {f"{size} groups, {method}" for size in ("large", "small") for method in ("SNL", "DeepReDuce")}
    rows = tables.summary_rows(results)
    expected = [[rows[i]["relus"], rows[i]["small_groups"].mean] for i in (2, 1, 0)]
    np.testing.assert_allclose(drawn["small groups, SNL"], expected)
    assert drawn["large groups, DeepReDuce"][0, 1] == pytest.approx(rows[3]["large_groups"].mean)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "50", "200", "768"]


@pytest.mark.parametrize("seeds", [1, 3])
def test_curvature_is_drawn_with_intervals_over_seeds(tmp_path: Path, seeds: int) -> None:
    results = results_of(tmp_path, {"seeds": seeds})
    figure = figures.curvature_by_group(results)
    rows = tables.group_rows(results)
    for axes, name in zip(figure.axes, ("gradient_norm", "top_eigenvalue", "softmax_gap"), strict=True):
        assert len(axes.containers) == 4
        for i, container in enumerate(axes.containers):
            mine = rows[3 * i : 3 * i + 3]
            np.testing.assert_allclose(points(container)[:, 1], [row[name].mean for row in mine])
            length = np.diff(bars(container))[:, 0]
            expected = [row[name].high - row[name].low if seeds > 1 else 0.0 for row in mine]
            np.testing.assert_allclose(length, expected, atol=1e-12)
