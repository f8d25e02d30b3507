"""Means with intervals, and tables of them, as text: one way for Markdown, CSV, a terminal and a page."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments.reporting import drawing, html, tables
from experiments.reporting.groups import Groups
from experiments.reporting.sampling import FREE, free_of_sampling
from experiments.reporting.series import UNKNOWN, Estimate, over_seeds, right, shares, text
from experiments.reporting.tables import Column, Table
from jaxfair.intervals import wilson
from tests.figures import check

VALUE = Estimate(0.123456, 0.1, 2e-05)


@pytest.mark.parametrize(
    ("value", "form", "expected"),
    [
        (VALUE, ".3g", "0.123 (0.1 to 2e-05)"),
        (Estimate(1.5, 1.0, 2.0), ".1f", "1.5 (1.0 to 2.0)"),
        (Estimate(1.5, np.nan, np.nan), ".1f", "1.5"),
        (Estimate(-2.22e-16, -0.607, 0.604), ".3g", "0 (-0.607 to 0.604)"),
        (Estimate(0.0, 6.94e-18, 0.082), ".3g", "0 (0 to 0.082)"),
        (Estimate(2e-16, 1e-16, 3e-16), ".3g", "2e-16 (1e-16 to 3e-16)"),
        (Estimate(0.5, 1e-11, 0.9), ".3g", "0.5 (1e-11 to 0.9)"),
        (Estimate(28.571, -5.8e19, 99.9), ".1f", "28.6 (-5.8e+19 to 99.9)"),
        (Estimate(2.5, -5.8e19, 5.8e19), ".3g", "2.5 (-5.8e+19 to 5.8e+19)"),
        (UNKNOWN, ".3g", ""),
    ],
)
def test_a_mean_and_its_interval_as_text(value: Estimate, form: str, expected: str) -> None:
    assert text(value, form) == expected


def test_an_estimate_over_seeds_is_students() -> None:
    values = np.random.default_rng(0).normal(size=(4, 3))
    found = over_seeds(values)
    ends = stats.t.interval(0.95, 3, values.mean(axis=0), stats.sem(values))
    np.testing.assert_allclose(found, [values.mean(axis=0), *ends])
    np.testing.assert_allclose(found.at([2, 0]).low, ends[0][[2, 0]])
    np.testing.assert_allclose(found.reach, np.stack([found.mean - ends[0], ends[1] - found.mean]))
    assert (over_seeds(values[:1]).reach == 0).all()
    low, high = over_seeds(np.exp(values), "positive")[1:]
    np.testing.assert_allclose(np.sqrt(low * high), np.exp(values).mean(axis=0))  # symmetric in the logarithm


def test_shares_that_all_seeds_have_are_as_uncertain_as_so_many_images() -> None:
    """Wilson's interval where seeds do not differ, Student's where they do; neither leaves what is possible."""
    values, counts = np.array([[1.0, 0.0, 0.5, 0.8], [1.0, 0.0, 0.5, 0.9]]), np.array([13, 40, 10, 20])
    found = shares(values, counts)
    for of, wilsons in enumerate([(0.7719, 1), (0, 0.0876), (0.2366, 0.7634)]):
        np.testing.assert_allclose((found.low[of], found.high[of]), wilsons, atol=5e-5)
    np.testing.assert_array_equal(found.at(3), over_seeds(values, "share").at(3))
    np.testing.assert_allclose(shares([1.0], 13), [1, *found.at(0)[1:]])  # of one seed, its images are all there is


def test_no_share_of_images_that_are_a_sample_is_surer_than_so_many_images() -> None:
    """Nine of ten in four seeds and all in the fifth: seeds that share ten images do not know what others would say."""
    values = np.array([0.9, 0.9, 0.9, 0.9, 1.0])
    plain, sampled = shares(values, 10), shares(values, 10, sampled=True)
    assert plain.low > 0.8
    np.testing.assert_allclose([sampled.low, sampled.high], wilson(np.asarray(0.92), np.asarray(10)), rtol=1e-12)
    apart = np.array([0.1, 0.9, 0.5])
    np.testing.assert_allclose(shares(apart, 1000, sampled=True), shares(apart, 1000))


def test_what_was_taken_off_may_be_more_than_there_was() -> None:
    """Then the mean over seeds may lie below 0, and its interval is one on the plain scale; of norms it is none."""
    count = np.full((3, 1), 10)
    for values, low in (([0.1, 0.9, 0.5], 0.0), ([-0.3, -0.2, -0.13], -1.0)):
        by_group = {FREE["gradient_norm"]: np.array(values)[:, None], "test_count": count}
        found = free_of_sampling(by_group, {"gradient_norm": np.full((3, 1, 8), np.nan)}, "gradient_norm").at(0)
        assert low < found.low < found.mean < found.high


TABLE = Table(
    [Column("network", under="note"), Column("relus", "ReLUs"), Column("x"), Column("x", "shorter", ".1f")],
    [
        {"network": "a|b", "note": "<i>\nline", "relus": 1792, "x": Estimate(0.5, 0.25, 0.75)},
        {"network": "c", "note": "", "relus": np.int64(3), "x": UNKNOWN},
    ],
)


def test_columns_of_words_are_read_from_the_left() -> None:
    rows = [{"group": "a", "lost": "more", "bits": "10 of 10", "n": 3}, {"group": "b", "lost": "", "bits": "", "n": 4}]
    page = html.table(Table([Column("group"), Column("lost"), Column("bits"), Column("n")], rows))
    assert '<td>a</td><td class="word">more</td><td>10 of 10</td><td>3</td>' in page
    assert '<th class="word">lost</th>' in page
    ages = [{"network": "SNL 50", "worst_group": "65 and older", "least_lost": "18-64"}]
    page = html.table(Table([Column("network"), Column("worst_group"), Column("least_lost")], ages))
    assert page.endswith(
        '<td>SNL 50</td><td class="word">65 and older</td><td class="word">18-64</td></tr></tbody></table></div>'
    )
    assert ":is(th, td):first-child { position: sticky; left: 0;" in html.page("t", [page])  # names stay in sight


def test_names_that_are_read_from_the_right_leave_the_numbers_after_them_in_place() -> None:
    """A mark follows each; each line of a figure's note begins with one, as its first letter may be of such a name."""
    hebrew, arabic, mark = "\u05d0\u05d1 \u05d2", "\u0627\u0644", "\u200e"
    text = f"The reference group is {hebrew}. 95 % <i>"
    assert html.paragraph(text) == f"<p>The reference group is {hebrew}{mark}. 95 % &lt;i&gt;</p>"
    assert tables.escaped(text) == f"The reference group is {hebrew}{mark}. 95 % &lt;i>"
    cell = html.table(Table([Column("group")], [{"group": hebrew}]))
    assert f"<td>{hebrew}</td>" in cell, "a name by itself can be copied"
    names = (hebrew, arabic, *"abcdefghijklm")
    _, (note,) = drawing.point_names(Groups(names, np.arange(15, 0, -1), np.full(15, 50)))
    assert note.startswith(f"{mark}1: {hebrew}{mark}, 2: {arabic}{mark}, 3: a, ")
    _, (plain,) = drawing.point_names(Groups(tuple("abcdefghijkl"), np.arange(12, 0, -1), np.full(12, 50)))
    assert plain.isascii()


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("$5-$10", r"\$5-\$10"),
        ("_all_ of a_b", r"\_all\_ of a_b"),
        ("R&D &lt; A&B", "R&D &amp;lt; A&B"),
        ("`x` ~~y~~ *z*", r"\`x\` \~\~y\~\~ \*z\*"),
        ("[a](b) [0, 1]", r"[a\](b) [0, 1]"),
        (r"a\|b", r"a\\|b"),
    ],
)
def test_markdown_finds_no_mark_in_a_name(name: str, written: str) -> None:
    assert tables.escaped(name) == written


@pytest.mark.parametrize(
    ("number", "said"),
    [(817.5, "818"), (2418.3, "2,420"), (-1137.0, "-1,140"), (99951.0, "100,000"), (3.2e6, "3.2e+06"), (4e-7, "4e-07")],
)
def test_a_table_has_no_exponents_of_numbers_that_are_read_without(number: float, said: str) -> None:
    """As the images of a mean group, which a published page reads from a CSV file, and ends of intervals."""
    column = tables.Column("x")
    assert tables.pieces({"x": number}, column) == (said, "")
    assert tables.pieces({"x": Estimate(number, np.nan, np.nan)}, column) == (said, "")


def test_numbers_of_points_side_by_side_are_told_apart() -> None:
    """Both above their points, 12 and 14 would be read as 1214."""
    figure, ((axes,),) = drawing.subplots(1, 1, 5, 4)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    figure.draw_without_rendering()
    beside = 15 / axes.get_window_extent().width  # pixels: as near as two labels can stand without touching
    drawing.name_points(figure, axes, np.array([0.5, 0.5 + beside]), np.full(2, 0.5), ["12", "14"])
    first, second = (text.get_window_extent() for text in axes.texts)
    assert second.x0 - first.x1 > 2 or second.y1 < first.y0 or first.y1 < second.y0


def test_a_name_that_stands_nearer_to_another_point_has_a_line_to_its_own() -> None:
    """Of a crowd of groups one would be read as another; a point that stands alone needs no line."""
    figure, ((axes,),) = drawing.subplots(1, 1, 5, 4)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    figure.draw_without_rendering()
    side = 9 / axes.get_window_extent().width
    x, y = (np.append(0.5 + side * at.ravel(), 0.1) for at in np.mgrid[:3, :3])
    drawing.name_points(figure, axes, x, y, [f"group {i}" for i in range(9)] + ["alone"])
    figure.draw_without_rendering()
    at, lines = axes.transData.transform(np.c_[x, y]), [text.xy for text in axes.texts if not text.get_text()]
    named = {text.get_text(): text for text in axes.texts if text.get_text()}
    assert lines
    assert all(np.linalg.norm(text.xyann) < 90 for text in axes.texts)  # points, also in a file of other pixels
    assert (0.1, 0.1) not in lines
    for own, name in enumerate(named):
        box = named[name].get_window_extent()
        away = np.linalg.norm(np.clip(at, box.min, box.max) - at, axis=1)
        assert away[own] - 6 <= away.min() or (x[own], y[own]) in lines, name


def test_a_tick_at_an_end_is_seen_where_points_stand_beside_it() -> None:
    """As those of several methods do: 0 ReLUs are at the left end."""
    _, ((axes,),) = drawing.subplots(1, 1, 4, 3)
    at = drawing.log_axis(axes, [768, 384, 0], ",")
    drawing.errorbar(axes, at * 1.11, np.array([0.2, 0.5, 0.9]), "black")
    low, high = axes.get_xlim()
    assert low < at.min() < at.max() < high
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "384", "768"]


def test_one_place_of_a_logarithmic_axis_is_its_middle() -> None:
    """Where all networks keep as many ReLUs; else rounding would say how wide the axis is, and nothing be seen."""
    figure, ((axes,),) = drawing.subplots(1, 1, 4, 3)
    at = drawing.log_axis(axes, [128, 128], ",")
    axes.plot(at, [4.0, 26.0])
    for place, y in zip(at, (4.0, 26.0), strict=True):
        drawing.errorbar(axes, place, Estimate(*(np.array([y + d]) for d in (0, -0.1, 0.1))), "black")
    low, high = axes.get_xlim()
    assert low < 0.75 * 128 < 1.3 * 128 < high
    figure.draw_without_rendering()
    assert [label.get_text() for label in axes.get_xticklabels()] == ["128"]


def test_numbers_are_left_out_of_a_logarithmic_axis_only_where_they_would_touch() -> None:
    """Of a narrow panel more than of a wide one: 256 ReLUs beside 358."""
    for width, shown in ((2.1, ""), (5.6, "256")):
        figure, ((axes,),) = drawing.subplots(1, 1, width, 3)
        drawing.log_axis(axes, [0, 2, 18, 90, 256, 358, 1792], ",")
        axes.plot([1, 1000], [0, 1])
        drawing.lay_out(figure)
        check(figure)
        assert [label.get_text() for label in axes.get_xticklabels()][4] == shown


def test_points_of_one_place_are_nearer_to_it_than_to_the_next() -> None:
    at = np.array([10.0, 10.0, 11.0, 1000.0])
    found = np.log(drawing.places_beside(at, 6))
    assert (np.abs(found - np.log(at))[:, :3] < np.log(1.1) / 2).all()
    assert (np.diff(found, axis=0) > 0).all()
    np.testing.assert_allclose(drawing.places_beside(at, 1), at[None])


def test_every_writer_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.markdown(TABLE).splitlines() == [
        "| network | note | ReLUs | x | shorter |",
        "|---|---|---|---|---|",
        "| a\\|b | &lt;i> line | 1,792 | 0.5 (0.25 to 0.75) | 0.5 (0.2 to 0.8) |",
        "| c |  | 3 |  |  |",
    ]
    page = html.table(TABLE)
    assert "<td>a|b<br><small>&lt;i&gt;\nline</small></td><td>1,792</td>" in page
    assert '<td>0.5 <span class="interval">(0.25 to 0.75)</span></td>' in page
    tables.show(TABLE, "Title [b]", "Caption", ["beware"])
    printed = capsys.readouterr().out
    assert "Title [b]" in printed
    assert "warning: beware" in printed
    assert "0.5 (0.25 to 0.75) │ 0.5 (0.2 to 0.8)" in printed
    tables.write_csv(tmp_path / "table.csv", TABLE.rows)
    assert (tmp_path / "table.csv").read_text().splitlines()[0] == "network,note,relus,x,x_low,x_high"


def test_a_table_is_read_back_and_shortened(tmp_path: Path) -> None:
    rows = [{"network": "a|b", "relus": 1792, "x": VALUE, "y": np.nan}]
    rows.append({**rows[0], "x": Estimate(0.123456, np.nan, np.nan), "y": -1.5})
    tables.write_csv(tmp_path / "table.csv", rows)
    assert tables.markdown(tables.read_csv(tmp_path / "table.csv")).splitlines() == [
        "| network | relus | x | y |",
        "|---|---|---|---|",
        "| a\\|b | 1792 | 0.123 (0.1 to 2e-05) |  |",
        "| a\\|b | 1792 | 0.123 | -1.5 |",
    ]


@pytest.mark.parametrize("column", ["group", "worst_group", "least_lost", "network", "hardware", "study", "reference"])
def test_names_that_look_like_numbers_stay_names(tmp_path: Path, column: str) -> None:
    """Different groups have different names, and those that they were given."""
    names = ["250", "250.0", "250.00", "2.5e2", "1.2345", "1_000.5", "-0.0", "nan", "", "inf"]
    tables.write_csv(tmp_path / "table.csv", [{column: name, "x": 0.12345} for name in names])
    read = tables.read_csv(tmp_path / "table.csv")
    assert [row[column] for row in read.rows] == names
    assert tables.markdown(read).splitlines()[2:] == [f"| {name} | 0.123 |" for name in names]


def test_a_table_has_every_name_that_a_row_has(tmp_path: Path) -> None:
    """As of studies side by side, the first without a control."""
    tables.write_csv(tmp_path / "rows.csv", [{"network": "a"}, {"network": "b", "harm": Estimate(1.0, 0.5, np.nan)}])
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {"network": "a", "harm": "", "harm_low": "", "harm_high": ""}
    assert rows[1] == {"network": "b", "harm": "1.0", "harm_low": "0.5", "harm_high": ""}


def predictions(rng: np.random.Generator, seeds: int, images: int, level: float) -> np.ndarray:
    """Return where networks are right: hard images that are the same for all seeds, good seeds, and chance."""
    logits = level + rng.normal(0, 1.3, images) + rng.normal(0, 0.25, (seeds, 1))
    return (rng.random((seeds, images)) < 1 / (1 + np.exp(-logits))).astype(float)


def test_an_accuracy_that_never_varies_has_wilsons_interval() -> None:
    always, half = np.ones((5, 30)), np.tile([1.0, 0.0], (5, 20))
    assert right([always]) == pytest.approx((1.0, 0.8864866, 1.0), abs=1e-6)
    assert right([always, half]).mean == 0.75
    assert right([always, half]).high > right([half, half]).high
    same = np.full((5, 60), np.nan)  # on splits of their own, all seeds have as many right, of 12 images
    for seed in range(5):
        same[seed, 12 * seed : 12 * seed + 12] = [1.0, 1.0, 0.0] * 4
    assert right([same]) == pytest.approx((2 / 3, *map(float, wilson(np.asarray(2 / 3), np.asarray(12)))))


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.0, 2.0, 4.0])
@pytest.mark.parametrize(("seeds", "images"), [(3, 60), (5, 60), (5, 300), (10, 100)])
def test_the_interval_of_an_accuracy_covers(level: float, seeds: int, images: int) -> None:
    """Nominal 95 %: 93 to 98, and more where 60 images have three wrong answers; seeds and images are drawn anew."""
    rng, hits, times = np.random.default_rng(0), 0, 2000
    truth = np.mean([predictions(rng, 1, 2000, level).mean() for _ in range(4000)])
    for _ in range(times):
        _, low, high = right([predictions(rng, seeds, images, level)])
        hits += bool(low <= truth <= high)
    print(f"level {level}, {seeds} seeds, {images} images: {100 * hits / times:.1f} %")
    assert 0.93 <= hits / times <= (0.995 if level == 4.0 and images == 60 else 0.98)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 0.7])
@pytest.mark.parametrize(("seeds", "blocks"), [(3, 30), (5, 8), (5, 30), (10, 30)])
def test_the_interval_of_a_norm_free_of_sampling_covers(seeds: int, blocks: int, shared: float) -> None:
    """Nominal 95 %: 93 to 97; norms differ by seed, and blocks of the same images are long or short in several."""
    rng, hits, times = np.random.default_rng(0), 0, 2000
    for _ in range(times):
        norm = np.exp(rng.normal(0, 0.2, (seeds, 1)))
        apart = np.sqrt(shared) * rng.normal(size=(1, blocks))
        apart = apart + np.sqrt(1 - shared) * rng.normal(size=(seeds, blocks))
        parts = (norm + 0.6 * apart)[:, None]
        by_group = {FREE["gradient_norm"]: parts.mean(axis=2)}
        found = free_of_sampling(by_group, {"gradient_norm": parts}, "gradient_norm")
        hits += bool(found.low[0] <= np.exp(0.02) <= found.high[0])
    print(f"{seeds} seeds, {blocks} blocks, {shared} shared: {100 * hits / times:.1f} %")
    assert 0.925 <= hits / times <= 0.975


def test_only_what_stands_on_a_page_is_explained_there() -> None:
    """By any of its names, one or several; a word that begins alike is another one."""
    terms = {"Loss": "a", "Saves, kept": "b", "McNemar's p": "c", "Large, small groups": "d", "Drop (%)": "e"}
    shown = html.meanings(terms, ["<th>mcnemar&#x27;s p</th>", "<td>largest losses</td><td>weights kept</td>"])
    assert re.findall("<dd>(.)</dd>", shown) == ["b", "c"]
    assert re.findall("<dd>(.)</dd>", html.meanings(terms, ["test loss of small groups, drop (%)"])) == ["a", "d", "e"]
