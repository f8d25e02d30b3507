"""Figures of Das et al. 2024: drawn without warnings from any study, at the numbers that NumPy and SciPy give."""

import warnings
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from experiments.analyses import figures as shared
from experiments.analyses import imbalance, quantities
from experiments.analyses import results as arrays
from experiments.analyses.differences import differences
from experiments.analyses.results import DROP, HARM, Followed, Results, Variant
from experiments.linearization import figures, followed
from experiments.reporting import drawing
from experiments.reporting.drawing import GREY, LOOKS
from experiments.reporting.groups import LARGE
from experiments.reporting.series import Estimate
from experiments.reporting.verdicts import Missing
from jaxfair.errors import JaxfairError
from tests.figures import box_of, check, overlaps
from tests.study import lay_out, make_analyses, mitigated

NETWORKS = (
    ("Full network", "full", 768),
    ("SNL 200", "snl", 200),
    ("SNL 50", "snl", 50),
    ("DeepReDuce C12", "deepreduce", 0),
)
RATES = (0.001, 0.01, 0.1)
MITIGATED = [
    *(mitigated("SNL 50", 50, rate=rate) for rate in RATES[::-1]),
    mitigated("SNL 50", 50, method="cvar"),
    mitigated("SNL 200", 200),
]
ALL = figures.DRAWINGS | figures.PAPER
RACES = ("White", "Black", "Native Hawaiian", "Asian", "Indian")
STUDIES = {
    "two groups, ten seeds": {
        "group_names": ("men", "women"),
        "train_count": (900, 100),
        "test_count": (50, 20),
        "seeds": 10,
    },
    "six groups, one name long": {
        "group_names": ("White", "Black", "Native Hawaiian and other Pacific Islander", "Asian", "Indian", "Others"),
        "train_count": (5000, 900, 10, 1200, 800, 100),
        "test_count": (60, 50, 3, 40, 30, 20),
    },
    "one seed": {"seeds": 1},
    "equal groups": {"train_count": (50, 50, 50), "test_count": (30, 30, 30)},
    "a group that is never right": {"never_right": (2,)},
    "one group": {"group_names": ("all",), "train_count": (90,), "test_count": (70,)},
    "one linearized network": {"networks": NETWORKS[:2]},
    "no SNL": {"networks": (NETWORKS[0], NETWORKS[3])},
    "mitigated": {"networks": [*NETWORKS, *MITIGATED]},
    "25 groups with long names": {
        "group_names": [f"{race} & aged {age}" for race in RACES for age in range(5)],
        "train_count": [3000 - 100 * i for i in range(25)],
        "test_count": [8] * 25,
        "networks": NETWORKS[:2],
    },
    "controlled": {
        "networks": [*NETWORKS, ("Matched to SNL 50", "matched", 768), ("Matched to SNL 200", "matched", 768)]
    },
    "five methods, twelve groups of ages": {
        "group_names": [
            f"{5 * i} to {5 * i + 4} years{', living alone at home and elsewhere' * (i % 4 > 1)}" for i in range(12)
        ],
        "train_count": [1200 - 100 * i for i in range(12)],
        "test_count": [60 - 3 * i for i in range(12)],
        "networks": [*NETWORKS, ("Full network, fine-tuned", "control", 768), ("Random 50", "random", 50)],
    },
    "names that look like markup": {"group_names": ("$x^$", "<b>&amp;", "é_{\\frac ☃")},
}
CAUSES = {"gradient_norm": 0, "softmax_gap": 1}
OF_MITIGATION = [name for name in figures.PAPER if "mitigation" in name]


def results_of(folder: Path, study: dict) -> Results:
    return arrays.collect(make_analyses(folder / "runs", **study))


def ends(values: np.ndarray, name: str = "") -> np.ndarray:
    """Return mean and Student's 95 % interval over seeds by SciPy, shape (3,), symmetric in the logarithm.

    That of a softmax gap is so in log(v / (1 - v)), being a share.
    """
    if np.ptp(values) == 0:
        return np.repeat(values[:1], 3)
    mean = values.mean()
    if name == "softmax_gap":
        low, high = stats.t.interval(0.95, len(values) - 1, 0, stats.sem(values) / mean / (1 - mean))
        return mean / (mean + (1 - mean) * np.exp([0, -low, -high]))
    low, high = stats.t.interval(0.95, len(values) - 1, 0, stats.sem(values) / mean)
    return mean * np.exp([0, low, high])


def accuracies(results: Results, variant: Variant) -> np.ndarray:
    """Return what the tables have: accuracy of each group and its interval, shape (groups, 3)."""
    return np.stack(quantities.accuracies(results, variant), axis=1)


def drawn(axes: Axes, label: str, which: int = 1) -> np.ndarray:
    """Return mean and interval of each point of a series, shape (points, 3), read back from the axes."""
    found = [c for c in axes.containers if str(c.get_label()) == label]
    rows = []
    for container in found:
        lines: Any = getattr(container, "lines")  # noqa: B009
        bars = lines[2][which if len(lines[2]) > 1 else 0].get_segments()
        rows += [[*p, *b[:, which]] for p, b in zip(lines[0].get_xydata(), bars, strict=True)]
    return np.array([[row[which], row[2], row[3]] for row in sorted(rows)])


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES.keys())
def test_every_study_is_drawn_without_warnings(tmp_path: Path, study: dict, capsys: pytest.CaptureFixture[str]) -> None:
    results, before = results_of(tmp_path, study), mpl.rcParams["font.size"]

    def examine(figure: Figure, path: Path) -> Path:
        file = lay_out(figure, path)
        check(figure)
        return file

    with warnings.catch_warnings(), mock.patch("experiments.reporting.drawing.save", examine):
        warnings.simplefilter("error")
        # A character that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        drawn = drawing.draw_all(ALL, results, tmp_path)
    assert "overlap" not in capsys.readouterr().err
    assert [figure.name for figure in drawn] == list(ALL)
    for figure in drawn:
        lacking = figure.name in OF_MITIGATION and not any(variant.base for variant in results.variants)
        lacking |= figure.name == "differences_by_group" and len(results.groups.names) < 2
        lacking |= figure.name == "accuracy_drop_from_control" and not results.matched
        lacking |= figure.name in ("harm_by_training", "harm_by_imbalance")  # nothing was followed, on these data alone
        assert (figure.file is None) == lacking == bool(figure.reason), figure
    assert mpl.rcParams["font.size"] == before


def test_figures_without_room_are_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def crowded(_: object) -> Figure:
        figure = Figure(figsize=(0.5, 0.5), layout="constrained")
        figure.subplots(4, 4)
        return figure

    with warnings.catch_warnings(), mock.patch("experiments.reporting.drawing.save", lay_out):
        warnings.simplefilter("error")
        drawing.draw_all({name: drawing.Drawing(name, "", crowded) for name in "ab"}, None, tmp_path)
    said = capsys.readouterr().err.splitlines()
    assert said == ["A figure has more in it than room; parts of it overlap, and tables have the numbers."]


def with_followed(folder: Path) -> tuple[Results, list[Variant]]:
    """Return a study of which a network, after 1, 2 and 4 epochs, has the predictions of others; and these."""
    results = results_of(folder, {})
    seen = [results.variants[i] for i in (2, 1, 0)]
    correct, learnt = np.array([network.correct for network in seen]), np.ones((3, 3, 3))
    several = [
        Followed(label, method, np.array([1, 2, 4]), order, learnt)
        for label, method, order in (("SNL 50", "snl", correct), ("Matched to SNL 50", "matched", correct[::-1]))
    ]
    return results._replace(followed=tuple(several)), seen


def test_followed_fine_tuning_has_its_numbers_by_epochs_and_groups(tmp_path: Path) -> None:
    """What is lost is counted from the control after as many epochs; the control has lost nothing from itself."""
    results, seen = with_followed(tmp_path)
    found, by_group = followed.rows(results), followed.group_rows(results)
    assert [(row["network"], row["epochs"]) for row in found[:3]] == [("SNL 50", count) for count in (1, 2, 4)]
    large = results.groups.large
    for point, (own, control) in enumerate(zip(seen, seen[::-1], strict=True)):
        before, after = (
            np.stack([v.correct[:, results.group == g].mean(axis=1) for g in range(3)], axis=1) for v in (control, own)
        )
        drops = 100 * (before - after) / before
        means = {"large_harm_percent": drops[:, large].mean(), "small_harm_percent": drops[:, ~large].mean()}
        means |= {"difference_points": means["small_harm_percent"] - means["large_harm_percent"]}
        means |= {"small_groups": after[:, ~large].mean(), "accuracy": own.accuracy.mean()}
        for name, mean in means.items():
            assert found[point][name].mean == pytest.approx(mean), name
        mine = {row["group"]: row for row in by_group if (row["network"], row["epochs"]) == ("SNL 50", 2**point)}
        for g, name in enumerate(results.groups.names):
            assert mine[name][HARM].mean == pytest.approx(drops[:, g].mean())
            assert mine[name]["accuracy"].mean == pytest.approx(after[:, g].mean())
            assert mine[name]["train_accuracy"].mean == 1
    assert all(np.isnan(row["difference_points"].mean) for row in found[3:])
    assert found[0]["difference_points"].low < found[0]["difference_points"].mean
    assert len(by_group) == 2 * 3 * 3
    assert followed.HEAD in followed.section(found, by_group)[0]
    assert followed.section(*[followed.rows(results._replace(followed=()))] * 2) == []


def test_followed_fine_tuning_is_drawn_by_its_epochs(tmp_path: Path) -> None:
    results, seen = with_followed(tmp_path)
    figure = figures.harm_by_training(results)
    for axes, part in zip(figure.axes, results.groups.parts, strict=True):
        expected = [quantities.accuracy(results, network, np.flatnonzero(part.members)) for network in seen]
        points = drawn(axes, "SNL 50")
        np.testing.assert_allclose(points[np.argsort(points[:, 0])][:, 0], sorted(float(e.mean) for e in expected))
        places = np.log2([c.lines[0].get_xdata() for c in axes.containers])  # pyright: ignore
        np.testing.assert_allclose(places.round(), [[0, 1, 2]] * len(places))
        assert len(np.unique(places)) == places.size  # or one interval would hide another


def test_harm_is_drawn_by_how_far_large_groups_outnumber_small_ones(tmp_path: Path) -> None:
    """Twice as large, and as many times as the data have it, for two networks side by side."""
    results = results_of(tmp_path, {})
    groups = results.groups._replace(train_count=np.where(results.groups.large, 20, 10))
    full, *changed = results.variants
    worse = [v._replace(by_group=v.by_group | {DROP: v.by_group[DROP] + [9.0, 5.0, 2.0]}) for v in changed]
    both = results._replace(rebalanced={"balanced": results._replace(groups=groups, variants=(full, *worse))})
    axes = shared.harm_by_imbalance(both).axes[0]
    rows = [row for row in imbalance.rows(both) if row["network"] == "SNL 50"]
    own = results.groups.train_count
    ratio = own[results.groups.large].mean() / own[~results.groups.large].mean()
    assert [row["ratio"] for row in rows] == [ratio, 2]
    points = [float(row["difference_points"].mean) for row in rows]
    assert points[0] != points[1]
    (container,) = (c for c in axes.containers if str(c.get_label()) == "SNL 50")
    x, y = container.lines[0].get_data()  # pyright: ignore
    order = [0, 1] if ratio < 2 else [1, 0]
    np.testing.assert_allclose(y, np.array(points)[order])
    np.testing.assert_allclose(x, np.array([ratio, 2])[order], rtol=0.12)  # networks stand side by side
    alone = results._replace(rebalanced={"balanced": results._replace(variants=(full,))})
    with pytest.raises(Missing, match="on two kinds of data"):
        shared.harm_by_imbalance(alone)


def test_equal_results_give_equal_files(tmp_path: Path) -> None:
    """PNG and SVG of each figure; nowhere else are figures of this study rendered."""
    networks = [*NETWORKS[:3], *MITIGATED[:2], ("Matched to SNL 50", "matched", 768)]
    results = results_of(tmp_path, {"networks": networks})
    followed = Followed("SNL 50", "snl", np.array([1]), results.variants[1].correct[None], np.ones((1, 3, 3)))
    results, every = results._replace(followed=(followed,), rebalanced={"balanced": results}), tmp_path / "every"
    drawing.draw_all(ALL, results, every)
    assert {file.name for file in every.iterdir()} == {f"{name}.{kind}" for name in ALL for kind in ("png", "svg")}
    again = dict(sorted(ALL.items())[::4])  # of all kinds: bars, lines, points
    drawing.draw_all(again, results, tmp_path / "again")
    for b in sorted((tmp_path / "again").iterdir()):
        a = every / b.name
        assert a.read_bytes() == b.read_bytes(), a.name
        assert ET.parse(a).getroot().tag.endswith("svg") if a.suffix == ".svg" else a.read_bytes()[1:4] == b"PNG"


def test_a_long_name_leaves_room_for_the_figure(tmp_path: Path) -> None:
    results = results_of(tmp_path, STUDIES["six groups, one name long"])
    for draw in (shared.accuracy_drop_by_group, figures.curvature_by_group):
        with mpl.rc_context(drawing.STYLE):
            figure = draw(results)
            figure.draw_without_rendering()
        heights = [axes.get_position().height * figure.get_figheight() for axes in figure.axes if axes.get_visible()]
        assert min(heights) > 0.9, (draw.__name__, heights)  # inches


@pytest.mark.parametrize(
    ("names", "count"),
    [("{}", 10), ("{} years", 10), ("occupation number {}, in the city", 5), ("{} & male & young", 25), ("{}", 60)],
)
def test_names_of_groups_do_not_overlap(tmp_path: Path, names: str, count: int) -> None:
    listed = [names.format(i) for i in range(count)]
    study = {"group_names": listed, "train_count": [12000 - i for i in range(count)], "test_count": [3] * count}
    results = results_of(tmp_path, {**study, "seeds": 1, "networks": NETWORKS[:2]})
    with mpl.rc_context(drawing.STYLE):
        figure = shared.accuracy_drop_by_group(results)
        figure.draw_without_rendering()
        boxes = [box_of(text) for text in figure.axes[0].get_xticklabels()]
    assert len(boxes) == count
    assert not [i for i in range(count - 1) if overlaps(boxes[i], boxes[i + 1])]


def points(container: Any) -> np.ndarray:
    return np.asarray(container.lines[0].get_xydata())


def bars(container: Any) -> np.ndarray:
    """Return lower and upper ends of the error bars, shape (points, 2)."""
    return np.array([segment[:, 1] for segment in container.lines[2][0].get_segments()])


def test_drops_are_drawn_where_the_table_has_them(tmp_path: Path) -> None:
    results = results_of(tmp_path, {"train_count": (20, 400, 300)})
    figure = shared.accuracy_drop_by_group(results)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 3
    for axes, variant in zip(shown, results.variants[1:], strict=True):
        mean, low, high = quantities.drops(results, variant)
        drawn = np.concatenate([points(c) for c in axes.containers])
        # Groups stand from large to small: b, c, a.
        np.testing.assert_allclose(drawn[np.argsort(drawn[:, 0])], np.c_[[0, 1, 2], mean[[1, 2, 0]]])
        large: Any = axes.containers[0]
        assert large.lines[0].get_color() == LARGE
        np.testing.assert_allclose(bars(large), np.c_[low, high][[1, 2]])
        assert [t.get_text().split("\n") for t in axes.get_xticklabels()] == [["b", "400"], ["c", "300"], ["a", "20"]]


def test_differences_are_drawn_from_the_largest_down(tmp_path: Path) -> None:
    results = results_of(tmp_path, {"train_count": (20, 400, 300), "seeds": 5})
    shown = [axes for axes in shared.differences_by_group(results).axes if axes.get_visible()]
    for axes, variant in zip(shown, results.variants[1:], strict=True):
        found = differences(results, variant)
        assert [tick.get_text() for tick in axes.get_yticklabels()] == [results.groups.names[of.group] for of in found]
        for place, (container, of) in enumerate(zip(axes.containers, found, strict=True)):
            lines: Any = getattr(container, "lines")  # noqa: B009
            np.testing.assert_allclose(points(container), [[of.points.mean, place]])
            np.testing.assert_allclose(lines[2][0].get_segments()[0][:, 0], of.points[1:])
            assert lines[0].get_color() == (GREY if of.verdict == "within noise" else LOOKS[0][0])


def test_names_of_several_lines_stand_apart() -> None:
    names = ["a\nname\nof four\nlines" if i % 5 < 2 else f"{i}" for i in range(10)]
    with mpl.rc_context(drawing.STYLE):
        figure = drawing.caterpillars({"": [(name, Estimate(1.0, 0.5, 2.0), False) for name in names]}, "points")
        figure.draw_without_rendering()
        check(figure)


def test_one_wide_interval_does_not_flatten_the_others(tmp_path: Path) -> None:
    names, tests = "abcdefgh", (4000, 3000, 3000, 3000, 3000, 3000, 3000, 4)
    study = {"group_names": names, "train_count": tests, "test_count": tests, "networks": NETWORKS[:2], "seeds": 5}
    results = results_of(tmp_path, study)
    for draw, which in ((shared.differences_by_group, 0), (shared.accuracy_drop_by_group, 1)):
        figure = draw(results)
        (axes,) = figure.axes
        whole = np.ptp((axes.get_xlim(), axes.get_ylim())[which])
        for _ in range(2):  # a second time changes nothing
            drawing.clip(figure)
            low, high = (axes.get_xlim(), axes.get_ylim())[which]
            assert high - low < 0.7 * whole
            arrows = [line for line in axes.lines if line.get_gid() == drawing.CLIPPED]
            assert sorted(str(line.get_marker()) for line in arrows) == (["<", ">"], ["^", "v"])[which]
            ends = sorted(float(np.asarray(line.get_xydata())[0, which]) for line in arrows)
            assert ends == pytest.approx([low, high])
        middles = np.concatenate([points(c)[:, which] for c in axes.containers])
        assert ((low < middles) & (middles < high)).all()


@pytest.mark.parametrize(("half", "shown"), [([1, 60, 90, 40, 120], 6), ([60, 60, 90, 40, 120], 200)])
def test_two_seeds_leave_something_to_see(half: list[float], shown: float) -> None:
    """Their intervals are up to a hundred times as long as what they are of; where none is short, all are shown."""
    mean = np.array([1.0, 3.0, 2.0, 5.0, 4.0])
    figure, grid = drawing.subplots(1, 1, 5, 3)
    drawing.errorbar(grid[0, 0], range(5), Estimate(mean, mean - half, mean + half), *LOOKS[0])
    drawing.clip(figure)
    assert shown / 2 < np.ptp(grid[0, 0].get_ylim()) < 2 * shown


def test_wide_intervals_of_both_axes_have_arrows_which_the_caption_explains(tmp_path: Path) -> None:
    """One point each is wide in x and in y; and an end of a logarithmic axis that is cut is no end of an interval."""
    figure, grid = drawing.subplots(1, 2, 4, 3)
    mean, half, low = np.arange(1.0, 7.0), np.full(6, 0.3), np.array([1e-4, *np.arange(1.5, 5.0)])
    wide = [half + 90 * (np.arange(6) == i) for i in (2, 4)]
    x, y = (Estimate(mean, mean - half, mean + half) for half in wide)
    drawing.errorbar(grid[0, 0], x, y, *LOOKS[0])
    drawing.errorbar(grid[0, 1], range(6), Estimate(3.0 ** np.arange(6), [*low, 200.0], [2.0, *[300.0] * 5]), *LOOKS[0])
    drawing.scale([grid[0, 1]], "y")
    with mock.patch("experiments.reporting.drawing.save", lay_out):
        (drawn,) = drawing.draw_all({"both": drawing.Drawing("Both", "", lambda _: figure)}, None, tmp_path)
        (plain,) = drawing.draw_all({"none": drawing.Drawing("None", "", lambda _: Figure())}, None, tmp_path)
    arrows = [[line for line in axes.lines if line.get_gid() == drawing.CLIPPED] for axes in grid[0]]
    assert sorted(str(line.get_marker()) for line in arrows[0]) == ["<", ">", "^", "v"]
    assert [str(line.get_marker()) for line in arrows[1]] == ["v"]
    assert (drawn.caption, plain.caption) == (f"Both. {drawing.ARROW}", "None.")


def test_accuracies_are_drawn_against_relus(tmp_path: Path) -> None:
    results = results_of(tmp_path, {})
    (axes,) = figures.accuracy_by_budget(results).axes
    drawn = {c.get_label(): points(c) for c in axes.containers}
    assert set(drawn) == {f"{size} groups, {method}" for size in ("large", "small") for method in ("SNL", "DeepReDuce")}
    rows = quantities.summary_rows(results)
    expected = [[rows[i]["relus"], rows[i]["small_groups"].mean] for i in (2, 1, 0)]
    np.testing.assert_allclose(drawn["small groups, SNL"][:, 1], np.array(expected)[:, 1])
    apart = drawn["small groups, SNL"][:, 0] / drawn["large groups, SNL"][:, 0]
    np.testing.assert_allclose(apart, apart[0])  # beside each other, around the number of ReLUs
    beside = np.log(drawn["small groups, SNL"][:, 0] / np.array(expected)[:, 0])
    assert (np.abs(beside) < np.log(200 / 50) / 2).all()  # nearer to its own place than to the next one
    assert drawn["large groups, DeepReDuce"][0, 1] == pytest.approx(rows[3]["large_groups"].mean)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "50", "200", "768"]


@pytest.mark.parametrize("seeds", [1, 3])
def test_curvature_is_drawn_with_intervals_over_seeds(tmp_path: Path, seeds: int) -> None:
    results = results_of(tmp_path, {"seeds": seeds})
    figure = figures.curvature_by_group(results)
    rows = quantities.group_rows(results)
    for axes, name in zip(figure.axes, ("gradient_norm", "top_eigenvalue", "softmax_gap"), strict=True):
        assert len(axes.containers) == 4
        for i, container in enumerate(axes.containers):
            mine = rows[3 * i : 3 * i + 3]
            np.testing.assert_allclose(points(container)[:, 1], [row[name].mean for row in mine])
            length = np.diff(bars(container))[:, 0]
            expected = [row[name].high - row[name].low if seeds > 1 else 0.0 for row in mine]
            np.testing.assert_allclose(length, expected, atol=1e-12)


@pytest.mark.parametrize("seeds", [1, 4])
@pytest.mark.parametrize("quantity", ["gradient_norm", "top_eigenvalue"])
def test_quantities_are_drawn_by_group_and_relus(tmp_path: Path, quantity: str, seeds: int) -> None:
    results = results_of(tmp_path, {"train_count": (20, 400, 300), "seeds": seeds})
    panels = figures.by_group_and_relus(results, quantity).axes[:3]
    assert [axes.get_title() for axes in panels] == ["b (400)", "c (300)", "a (20)"]
    full, snl200, snl50, student = (v.by_group[quantity].T for v in results.variants)
    for axes, g in zip(panels, (1, 2, 0), strict=True):
        np.testing.assert_allclose(drawn(axes, "full network"), [ends(full[g])])
        np.testing.assert_allclose(drawn(axes, "SNL"), [ends(snl50[g]), ends(snl200[g])])
        np.testing.assert_allclose(drawn(axes, "DeepReDuce"), [ends(student[g])])
        assert sorted(t.get_text() for t in axes.get_xticklabels()) == ["0", "200", "50", "768"]


def test_values_over_decades_get_a_logarithmic_axis(tmp_path: Path) -> None:
    results = results_of(tmp_path, {})
    for factor, scale in (([1.0, 10, 100], "log"), ([1.2, 5, 13], "log"), ([1.0, 1.1, 1.2], "linear")):
        groups = [v.by_group | {"gradient_norm": np.tile(factor, (3, 1))} for v in results.variants]
        changed = [v._replace(by_group=g) for v, g in zip(results.variants, groups, strict=True)]
        figure = figures.by_group_and_relus(results._replace(variants=tuple(changed)), "gradient_norm")
        assert figure.axes[0].get_yscale() == scale
        figure.draw_without_rendering()
        check(figure)  # that there are two numbers at least
        heights = [axes.get_position().height * figure.get_figheight() for axes in figure.axes]
        assert min(heights) > 1.2  # inches, though it is one row with a legend


def test_global_accuracy_names_the_configurations(tmp_path: Path) -> None:
    results = results_of(tmp_path, {})
    (axes,) = figures.global_accuracy(results).axes
    full, snl200, snl50, student = ([*quantities.whole_accuracy(v)] for v in results.variants)
    np.testing.assert_allclose(drawn(axes, "SNL"), [snl50, snl200])
    np.testing.assert_allclose(drawn(axes, "full network"), [full])
    np.testing.assert_allclose(drawn(axes, "DeepReDuce"), [student])
    assert [text.get_text() for text in axes.texts] == ["C12"]


AS_MANY = (*NETWORKS[:3], ("DeepReDuce C12", "deepreduce", 50), ("Matched to SNL 50", "matched", 768))


@pytest.mark.parametrize(
    "name", ["accuracy_by_budget", "accuracy_by_method", "fig3_gradient_norm", "fig5_global_accuracy"]
)
def test_no_interval_hides_another_of_as_many_relus(tmp_path: Path, name: str) -> None:
    results = results_of(tmp_path, {"networks": AS_MANY})
    for axes in ALL[name].draw(results).axes:
        found = np.concatenate([c.lines[0].get_xdata() for c in axes.containers])  # pyright: ignore
        assert len(np.unique(found)) == len(found) > 3


@pytest.mark.parametrize("effect", ["accuracy", "drop"])
def test_points_have_both_intervals_and_a_name(tmp_path: Path, effect: Any) -> None:
    results = results_of(tmp_path, {"train_count": (20, 400, 300)})
    full, tightest = results.variants[0], results.variants[2]
    left, *panels = figures.distance_and_causes(results, effect).axes
    # Parameter distances by hand: 50 and 200 ReLUs, plus 0, 1, 2 by seed; the student is of another size.
    np.testing.assert_allclose(drawn(left, "SNL"), [ends(np.arange(n, n + 3.0)) for n in (50, 200)])
    assert not drawn(left, "DeepReDuce").size
    drop = quantities.drops(results, tightest)
    for axes, cause in zip(panels, CAUSES, strict=True):
        measured = tightest if effect == "accuracy" else full
        x = [ends(column, cause) for column in measured.by_group[cause].T]
        y = accuracies(results, tightest) if effect == "accuracy" else list(zip(*drop, strict=True))
        points = {}
        for container in axes.containers:
            lines: Any = getattr(container, "lines")  # noqa: B009
            across, up = (part.get_segments() for part in lines[2])
            for point, a, b in zip(lines[0].get_xydata(), across, up, strict=True):
                points[tuple(point)] = (*a[:, 0], *b[:, 1])
        expected = [[x[g][0], y[g][0], *x[g][1:], *y[g][1:]] for g in range(3)]
        np.testing.assert_allclose(sorted([*k, *v] for k, v in points.items()), sorted(map(list, expected)))
        named = {text.get_text(): text.xy for text in axes.texts}  # pyright: ignore[reportAttributeAccessIssue]
        for g, name in enumerate("abc"):
            np.testing.assert_allclose(named[name], (x[g][0], y[g][0]))


def test_a_group_that_was_never_right_has_no_drop(tmp_path: Path) -> None:
    results = results_of(tmp_path, {"never_right": (2,)})
    for axes in figures.distance_and_causes(results, "drop").axes[1:]:
        assert {text.get_text() for text in axes.texts} == {"a", "b"}
    for axes in figures.distance_and_causes(results, "accuracy").axes[1:]:
        assert {text.get_text() for text in axes.texts} == {"a", "b", "c"}


@mock.patch("experiments.reporting.drawing.save", lay_out)
def test_a_caption_says_why_points_lack(tmp_path: Path) -> None:
    results = results_of(tmp_path, {"never_right": (2,)})
    chosen = {name: ALL[name] for name in ("accuracy_drop_by_group", "fig8_drop", "accuracy_by_budget")}
    said = {figure.name: drawing.ABSENT in figure.caption for figure in drawing.draw_all(chosen, results, tmp_path)}
    assert said == {"accuracy_drop_by_group": True, "fig8_drop": True, "accuracy_by_budget": False}


def test_whatever_shows_drops_says_from_what(with_mitigation: Results) -> None:
    """From the full network or the control, which other parts of a page count them from."""
    for name, figure in ALL.items():
        if "drop" in name or name.startswith(("differences", "harm_by_imbalance")):
            assert "full network" in figure.caption or "trained alike" in figure.caption, name
    for name in ("accuracy_drop_by_group", "fig9_mitigation_drop"):
        assert "from the full network" in ALL[name].draw(with_mitigation).get_supylabel().replace("\n", " ")


def test_equal_distances_stand_below_the_upper_edge(tmp_path: Path) -> None:
    results = results_of(tmp_path, {})
    far = tuple(v._replace(parameter_distance=np.full(3, 100.0)) for v in results.variants)
    low, high = figures.distance_and_causes(results._replace(variants=far), "accuracy").axes[0].get_ylim()
    assert low == 0
    assert high > 104


@pytest.fixture(scope="module")
def with_mitigation(tmp_path_factory: pytest.TempPathFactory) -> Results:
    study = {"train_count": (20, 400, 300), "networks": [*NETWORKS, *MITIGATED]}
    return results_of(tmp_path_factory.mktemp("mitigated"), study)


def test_networks_are_compared_with_what_they_were_made_of(with_mitigation: Results) -> None:
    _, snl200, snl50, _, *mitigated_ones = with_mitigation.variants
    high, middle, low, cvar, other = mitigated_ones
    assert figures.comparisons(with_mitigation) == {
        "SNL 200": {"without mitigation": snl200, "lagrangian (mu 0.01)": other},
        "SNL 50": {
            "without mitigation": snl50,
            **{f"lagrangian (mu {rate:g})": v for rate, v in zip(RATES, (low, middle, high), strict=True)},
            "cvar (level 0.1)": cvar,
        },
    }
    assert figures.rates(with_mitigation) == {0.0: snl50, **dict(zip(RATES, (low, middle, high), strict=True))}


def test_rates_are_those_of_the_tightest_network_that_has_two(tmp_path: Path) -> None:
    looser = [mitigated("SNL 200", 200, rate=rate) for rate in RATES[:2]]
    others = [mitigated("SNL 50", 50), mitigated("SNL 50", 50, method="cvar", rate=0.5)]
    results = results_of(tmp_path, {"networks": [*NETWORKS, *looser, *others]})
    snl200, slow, fast = results.variants[1], *results.variants[4:6]
    assert figures.rates(results) == {0.0: snl200, RATES[0]: slow, RATES[1]: fast}


@pytest.mark.parametrize("quantity", ["accuracy", "gradient_norm", "softmax_gap", "drop"])
def test_mitigation_stands_beside_what_it_is_compared_with(with_mitigation: Results, quantity: str) -> None:
    compared = figures.comparisons(with_mitigation)
    figure = figures.mitigation_by_group(with_mitigation, quantity)
    for axes, (title, variants) in zip(figure.axes, compared.items(), strict=True):
        assert axes.get_title() == title
        for name, variant in variants.items():
            if quantity == "drop":
                expected = np.stack(quantities.drops(with_mitigation, variant), axis=1)
            elif quantity == "accuracy":
                expected = accuracies(with_mitigation, variant)
            else:
                expected = np.array([ends(column, quantity) for column in variant.by_group[quantity].T])
            np.testing.assert_allclose(drawn(axes, name), expected[[1, 2, 0]])


def test_the_rate_is_drawn_from_none_to_the_largest(with_mitigation: Results) -> None:
    found = [variant for _, variant in sorted(figures.rates(with_mitigation).items())]
    everyone, *panels = figures.mitigation_by_rate(with_mitigation).axes
    np.testing.assert_allclose(drawn(everyone, "all test images"), [[*quantities.whole_accuracy(v)] for v in found])
    for axes, g in zip(panels, (1, 2, 0), strict=False):
        expected = [accuracies(with_mitigation, variant)[g] for variant in found]
        np.testing.assert_allclose(drawn(axes, "the panel's group"), expected)


@mock.patch("experiments.reporting.drawing.save", lay_out)
def test_what_results_lack_is_left_out_with_a_reason(tmp_path: Path) -> None:
    results = results_of(tmp_path, {})
    lacking = [
        v._replace(by_group={k: a for k, a in v.by_group.items() if k != "top_eigenvalue"}) for v in results.variants
    ]
    written = drawing.draw_all(figures.PAPER, results._replace(variants=tuple(lacking)), tmp_path / "figures")
    left_out = {figure.name: figure.reason for figure in written if figure.file is None}
    assert "top_eigenvalue" in left_out.pop("fig4_top_eigenvalue")
    assert list(left_out) == OF_MITIGATION
    assert all("mitigat" in reason for reason in left_out.values())
    written = drawing.draw_all(figures.PAPER, results._replace(variants=results.variants[:1]), tmp_path / "full")
    assert {f.name: f.reason for f in written}["fig8_drop"] == "No network of the study is linearized."


def test_distances_that_are_not_known_are_named(tmp_path: Path) -> None:
    figure = figures.distance_and_causes(results_of(tmp_path, STUDIES["no SNL"]), "accuracy")
    assert len(figure.axes) == 2
    assert "DeepReDuce C12" in figure.get_supxlabel()


def test_networks_of_other_seeds_are_not_compared(tmp_path: Path) -> None:
    results = results_of(tmp_path, {"networks": [*NETWORKS, mitigated("SNL 50", 50)]})
    other = results.variants[-1]._replace(seeds=(7, 8, 9))
    with pytest.raises(JaxfairError, match=r"SNL 50 \+ lagrangian.*same seeds"):
        figures.mitigation_by_group(results._replace(variants=(*results.variants[:-1], other)), "accuracy")
