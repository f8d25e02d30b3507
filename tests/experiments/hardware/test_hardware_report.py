"""The hardware study's report from results made by hand: figures, what is left out and why, warnings, and the page."""

import csv
import json
import types
import warnings
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes

from experiments.hardware import claims, figures, report
from experiments.hardware import page as hardware_page
from experiments.hardware import results as hardware_results
from experiments.hardware import tables as numbers
from experiments.hardware.results import Hardware
from experiments.reporting import drawing, publish, tables
from experiments.reporting.verdicts import Missing
from experiments.running import datasets
from experiments.running.settings import DataConfig
from jaxfair.groups import group_means
from jaxfair.intervals import drop_parts, over_seeds_and_examples
from jaxfair.losses import cross_entropy
from jaxfair.networks.architectures import CNN
from jaxfair.networks.network import init, predict
from tests.experiments.page import Page
from tests.figures import check
from tests.hardware_study import ALL, BASE, PROFILES, STEPS, changed, make_hardware
from tests.study import sketch

NAMES = ("<b>bold</b>", "é ☃", "c", "d")
COMMAND = ["python -m experiments.hardware", "--out", "a<b"]
FILES = {f"{name}.csv" for name in ("differences", "profiles", "trainings", "groups", "spread", "claims")} | {
    "claims.md",
    "report.html",
    "runs.json",
}


@pytest.fixture(scope="module")
def hardware() -> Hardware:
    return make_hardware(trainings=ALL, group_names=NAMES)


@pytest.fixture(scope="module")
def folder(hardware: Hardware, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "deep" / "report"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report.publish(hardware, folder, COMMAND)
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_one_seed_that_is_not_repeated_bit_for_bit_is_said_aloud(hardware: Hardware) -> None:
    """However few seeds there are; that all are needs as many as other verdicts do."""
    claim = claims.claims(hardware)[-1]
    assert (claim.value, claim.verdict) == (1.0, "too few seeds")
    assert claim.note.startswith("a verdict needs at least 5 seeds; ")
    assert claims.claims(make_hardware(seeds=5))[-1].verdict == "supported"
    assert not any("NOT REPEATABLE" in text for text in hardware_page.warnings(hardware))
    other = changed(hardware, "others", 0, {}, same_bits=np.array([True, False, True]))
    claim = claims.claims(other)[-1]
    assert (claim.value, claim.verdict) == (pytest.approx(2 / 3), "not supported: contradicted")
    assert "(seed 1)" in hardware_page.warnings(other)[0]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"test_count": (40, 29, 60, 50)}, "Fewer than 30 test images in group b:"),
        ({"test_count": (40, 30, 60, 50)}, None),
        ({"others": ("order",)}, "Nothing was repeated"),
        ({"ulps": 1}, "One-ulp controls: 1"),
        ({"seeds": 2}, "No p-value can be below 0.11"),
    ],
)
def test_what_a_reader_must_know_is_said(settings: dict[str, Any], expected: str | None) -> None:
    said = hardware_page.warnings(make_hardware(**settings))
    assert (len(said) == 1 and expected in said[0]) if expected else said == []


def test_versions_and_profiles_that_change_nothing_are_said(hardware: Hardware) -> None:
    same = changed(hardware, "profiles", 2, {}, same_bits=np.ones(3, bool))
    said = hardware_page.warnings(same._replace(differences=("Versions of jax differ: 1, 2.",)))
    assert [text.partition(":")[0] for text in said] == [
        "Versions of jax differ",
        "bfloat16 (emulated) ended in the reference's bits",
    ]


def test_trainings_that_predict_one_class_are_named_with_their_seeds(hardware: Hardware) -> None:
    alone = changed(hardware, "profiles", 2, {}, one_class=np.array([True, False, True]))
    (said,) = hardware_page.warnings(alone)
    (title, *_), start = [of.title for of in hardware.comparisons], "One class is predicted for all test images by "
    assert said.startswith(f"{start}bfloat16 (emulated), {title} (seeds 0, 2): ")


def points(axes: Axes) -> dict[str, np.ndarray]:
    """Return the middle and the ends of every point of each series, shape (points, 3), by its label."""
    found = {}
    for container in axes.containers:
        found[str(container.get_label())] = middles_and_ends(container)
    return found


def middles_and_ends(container: Any) -> np.ndarray:
    bars = container.lines[2][0].get_segments()
    drawn = zip(container.lines[0].get_xydata(), bars, strict=True)
    return np.array([[p[1], *b[:, 1]] for p, b in drawn])


@pytest.mark.parametrize(
    ("count", "more"),
    [(2, " to some years of age, living alone"), (12, " to some years of age, living alone"), (10, "")],
)
def test_figures_are_readable_with_few_groups_and_with_many(count: int, more: str) -> None:
    names = [f"{5 * i}{more}" for i in range(count)]
    train, test = ([most - most // 13 * i for i in range(count)] for most in (1300, 130))
    labels = ("CPU, compiled up to AVX", "CPU, compiled up to SSE4.2", "CPU, one thread", "CPU, oneDNN convolutions")
    profiles = [(label, f"{label} (native)", "native") for label in labels]
    counts = {"train_count": train, "test_count": test, "profiles": profiles}
    hardware = make_hardware(trainings=ALL, group_names=names, ulps=1, **counts)
    with mpl.rc_context(drawing.STYLE):
        for drawn in figures.DRAWINGS.values():
            figure = drawn.draw(hardware)
            drawing.clip(figure)
            drawing.lay_out(figure)
            check(figure)


def test_groups_are_drawn_from_large_to_small_and_kinds_apart(hardware: Hardware) -> None:
    figure = figures.accuracy_by_group(hardware)
    plain = hardware.comparisons[0]
    base = plain.reference.correct
    rows = np.array(figure.axes).reshape(-1, 2)
    assert [row[0].get_title(loc="left") for row in rows] == [series.label for series in plain.every]
    at = [2, 0, 3, 1]  # two large groups and two small ones
    for (left, right), series in zip(rows, plain.every, strict=True):
        drawn = np.concatenate([middles_and_ends(container) for container in left.containers])
        tables = [(base[:, hardware.group == g], series.correct[:, hardware.group == g]) for g in at]
        # Accuracies have intervals in [0, 1], over seeds and test images.
        found = [over_seeds_and_examples([own]) for _, own in tables]
        np.testing.assert_allclose(drawn, [[one.value, *one.interval(scale="share")] for one in found])
        if series is not plain.reference:
            drawn = np.concatenate([middles_and_ends(container) for container in right.containers])
            lost = [over_seeds_and_examples([drop_parts(*table, relative=False)]) for table in tables]
            ends = [[-one.value, -one.interval().high, -one.interval().low] for one in lost]
            np.testing.assert_allclose(drawn, ends, atol=1e-9)
            accuracy = [[own.mean() - before.mean()] for before, own in tables]
            np.testing.assert_allclose(drawn[:, :1], 100 * np.array(accuracy), atol=1e-9)
    assert [row[1].get_visible() for row in rows] == [series is not plain.reference for series in plain.every]
    axes = figures.spread_against_rounding(hardware).axes[0]
    looks: Any = {str(c.get_label()): getattr(c, "lines")[0] for c in axes.containers}  # noqa: B009
    assert {s.kind: looks[s.label].get_marker() for s in plain.profiles} == {"native": "o", "emulated": "^"}
    control = looks[f"{figures.ULPS}, mean"].get_color()
    assert len({control[i : i + 2] for i in (1, 3, 5)}) == 1  # grey


def test_excess_and_sensitivity_are_those_of_the_tables(hardware: Hardware) -> None:
    rows = [row for row in numbers.spread_rows(hardware) if row["training"] == "plain"]
    panels = figures.spread_against_rounding(hardware).axes
    for name, axes in (("loss", panels[2]), ("accuracy", panels[3])):
        for label, drawn in points(axes).items():
            mine = [row for row in rows if (row["quantity"], row["hardware"]) == (name, label)]
            table = [row["excess"] for row in mine]
            np.testing.assert_allclose(drawn, table, atol=1e-12)
    rows = numbers.group_rows(hardware)
    for draw, title in ((figures.alignment, "alignment"), (figures.linearized, "SNL 50")):
        drawn = points(draw(hardware).axes[0])
        assert list(drawn) == [f"{t}, {part}" for t in ("plain", title) for part in ("profiles", "one-ulp controls")]
        for label, part in drawn.items():
            key = "delta" if label.endswith("profiles") else "delta_ulps"
            mine = [row for row in rows if row["training"] == label.partition(",")[0]]
            np.testing.assert_allclose(part, [row[key] for row in mine])


def test_trainings_part_and_the_step_where_they_rejoin_is_circled(hardware: Hardware) -> None:
    ulp = hardware.comparisons[0].ulps[0].curve
    assert ulp is not None
    made = changed(hardware, "profiles", 0, {}, curve=np.where(np.array(STEPS) < 2, ulp / 1e3, ulp))
    (axes,) = figures.divergence(made).axes
    lines: dict[str, Any] = {str(line.get_label()): line for line in axes.get_lines()}
    for series in made.comparisons[0].profiles:
        assert series.curve is not None
        np.testing.assert_allclose(lines[series.label].get_ydata(), np.median(series.curve, axis=0)[1:] / 2)
    ulps, name = made.comparisons[0].ulps, f"{BASE}, one-ulp controls"
    found = [np.asarray(line.get_ydata(), float) for line in axes.get_lines() if line.get_label() == name]
    expected = [np.median(series.curve, axis=0)[1:] / 2 for series in ulps if series.curve is not None]
    np.testing.assert_allclose(np.array(found), expected)
    (legend,) = axes.figure.legends  # pyright: ignore[reportAttributeAccessIssue]
    assert [text.get_text() for text in legend.get_texts()].count(name) == 1 < len(ulps)  # they look alike
    assert f"{BASE}, repeated: 0, the same bits" in lines
    circles = [line for line in axes.get_lines() if line.get_markersize() == 12]
    assert [np.asarray(line.get_xdata()).tolist() for line in circles] == [[2]]


def test_groups_of_one_size_stand_side_by_side(hardware: Hardware) -> None:
    """By their size alone one interval would hide the others."""
    alike = hardware._replace(groups=hardware.groups._replace(train_count=np.full(len(NAMES), 250)))
    for axes in figures.size_gradient_sensitivity(alike).axes[:2]:
        places = np.concatenate([c.lines[0].get_xdata() for c in axes.containers])  # pyright: ignore
        assert sorted(places) == [*range(len(NAMES))]


def test_what_cannot_be_drawn_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "save", sketch)
    bare = make_hardware(profiles=(), ulps=0, others=(), steps=(), seeds=1)
    report.publish(bare, tmp_path / "report", COMMAND)
    found = Page((tmp_path / "report" / "report.html").read_text(encoding="utf-8"))
    drawn = {path.stem for path in (tmp_path / "report").glob("*.png")}
    assert drawn == {"accuracy_by_group", "curvature_and_boundary"}
    for name in set(figures.DRAWINGS) - drawn:
        assert f"({name}) cannot be drawn: " in found.text
    assert "nan" not in " ".join(" ".join(row) for row in found.rows).lower()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"steps": ()}, "the first steps of the trainings were not recorded; use --steps"),
        ({"profiles": (), "ulps": 0, "others": ()}, "no other training is followed step by step; give another profile"),
    ],
)
def test_trainings_cannot_part_where_one_or_none_is_followed(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(Missing, match=reason):
        figures.divergence(make_hardware(**settings))


def test_of_one_there_is_no_plural() -> None:
    one = {"group_names": ("a",), "train_count": (90,), "test_count": (60,), "profiles": PROFILES[:1], "ulps": 1}
    said = hardware_page.introduction(make_hardware(seeds=1, **one))
    assert "1 seed, 1 group, 90 training" in said
    assert "1 profile beside the reference CPU (native), 1 control in which" in said


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_seed_has_no_intervals_over_seeds(seeds: int, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_hardware(seeds=seeds)
    report.print_summary(made)
    for said in (" ".join(capsys.readouterr().out.split()), hardware_page.introduction(made)):
        assert f"{seeds} seed{'s' * (seeds > 1)}" in said
        assert ("intervals over seeds" in said) == (seeds > 1)


def test_a_report_is_complete_and_loads_nothing(folder: Path, page: Page) -> None:
    drawn = set(figures.DRAWINGS) - {"segment"}
    assert {p.name for p in folder.iterdir()} == FILES | {f"{name}.{kind}" for name in drawn for kind in ("png", "svg")}
    assert [path.name for path in folder.parent.iterdir()] == ["report"]
    assert page.loads
    assert [url for url in page.loads if not url.startswith("#")] == []
    assert "(segment) cannot be drawn: the networks are not at hand" in page.text
    assert all(figures.DRAWINGS[name][0] in page.text for name in drawn)


def test_a_small_screen_shows_the_first_figure_before_what_it_means(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert 0 < text.index("<figure>") < text.index(escape(hardware_page.LOST))


def test_the_record_has_what_a_published_page_begins_with(folder: Path, page: Page) -> None:
    said = json.loads((folder / "runs.json").read_text(encoding="utf-8"))["introduction"]
    assert said.startswith("3 seeds, 4 groups, 820 training and 180 test images; ")
    assert said in page.text


def test_a_published_page_says_how_far_hardware_and_rounding_move_each_group(folder: Path) -> None:
    """Its accuracy on the reference alone says nothing of other hardware."""
    every = tables.read_csv(folder / "groups.csv")
    heads = publish._groups(every, "groups.csv").split("\n\n")[2].splitlines()[0]
    assert heads.endswith("| accuracy | delta | delta native | delta emulated | delta ulps |")


def test_the_page_shows_the_tables_and_escapes_names(hardware: Hardware, folder: Path, page: Page) -> None:
    assert "b" not in page.seen
    assert "--out PATH" in page.text
    for row in numbers.profile_rows(hardware):
        (shown,) = [cells for cells in page.rows if cells[:2] == [row["training"], row["hardware"]]]
        assert float(shown[3].split(" (")[0]) == pytest.approx(row["accuracy"].mean, abs=5e-4)
    for claim in claims.claims(hardware):
        (shown,) = [cells for cells in page.rows if cells[0] == claim.statement + claim.statistic]
        assert [shown[2], shown[5]] == [str(claim.seeds), claim.verdict]
    groups = [cells for cells in page.rows if cells[0] in NAMES]
    assert [cells[0] for cells in groups] == [
        NAMES[g] for _ in range(2 * len(ALL)) for g in hardware.groups.order
    ]  # and the bound
    with (folder / "groups.csv").open(newline="", encoding="utf-8") as file:
        for row, cells in zip(numbers.group_rows(hardware), csv.DictReader(file), strict=True):
            assert [float(cells[name]) for name in ("delta", "delta_low", "delta_high")] == [*row["delta"]]
    assert "nan" not in " ".join(" ".join(row) for row in page.rows).lower()


def test_the_printed_table_has_a_row_for_every_profile_and_control(
    hardware: Hardware, capsys: pytest.CaptureFixture[str]
) -> None:
    report.print_summary(changed(hardware, "others", 0, {}, same_bits=np.zeros(3, bool)))
    out = capsys.readouterr().out
    for series in hardware.comparisons[0].every:
        (line,) = [line for line in out.splitlines() if line.startswith(f"│ {series.label} ")]
        assert f"{series.accuracy.mean():.3f} (" in line
    assert "warning: NOT REPEATABLE" in out


@pytest.fixture
def with_networks(hardware: Hardware, monkeypatch: pytest.MonkeyPatch) -> Hardware:
    """Return results whose reference and profiles have untrained networks, and whose data are the digits."""
    config = DataConfig("digits-imbalanced", test_fraction=0.25)
    record = datasets.prepare(config).record
    module = CNN(num_classes=10)
    for i in range(-1, 3):
        run = types.SimpleNamespace(config={"data": record}, seed=i + 1)
        hardware = changed(hardware, "profiles" if i >= 0 else "reference", max(i, 0), {}, trained=(run,))
    monkeypatch.setattr(report, "load_network", lambda run: init(module, (8, 8, 1), run.seed))
    return hardware


def test_losses_are_followed_from_the_reference_to_the_furthest_profile(with_networks: Hardware) -> None:
    base = with_networks.comparisons[0].reference.by_group["loss"]
    far = changed(with_networks, "profiles", 1, {"loss": base + np.array([20, 40, 10, 30])})
    found = report.segment(far)
    assert found.label == "one thread (native)"
    test = datasets.prepare(DataConfig("digits-imbalanced", test_fraction=0.25)).test
    for point, seed in ((0, 0), (1, 2)):
        logits = predict(init(CNN(num_classes=10), (8, 8, 1), seed), test)
        losses = cross_entropy(jnp.asarray(logits), test.label)
        means = group_means(np.asarray(losses), np.asarray(test.group), 10)
        np.testing.assert_allclose(found.losses[found.points == point][0], means, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"fingerprint": {"test": "x"}}, "others"), ({"name": "cifar10-of-yesterday"}, "cannot be loaded again")],
)
def test_data_that_are_gone_or_changed_are_no_error(with_networks: Hardware, change: Any, reason: str) -> None:
    reference = with_networks.comparisons[0].reference
    record = reference.trained[0].config["data"] | change
    environment = {"data_source": {"origin": "cifar10 in nowhere"}}
    run: Any = types.SimpleNamespace(config={"data": record}, json=lambda _: environment)
    with pytest.raises(Missing, match=reason):
        report.segment(changed(with_networks, "reference", 0, {}, trained=(run,)))


def test_a_profile_of_several_machines_is_named_by_its_device(tmp_path: Path) -> None:
    """By the study's folder too only where devices are alike, and by nothing else where it is the only one."""

    def bundle(label: str, folder: str, device: str) -> Any:
        run = SimpleNamespace(json=lambda _: {"device_kind": device})
        return SimpleNamespace(label=label, folder=tmp_path / folder, members=[SimpleNamespace(trained=[run])])

    cpu = "CPU (native)"
    gpus = [bundle("GPU", name, device) for name, device in (("b", "H100"), ("c", "H200"))]
    named = hardware_results._labels
    assert named([bundle(cpu, "a", "cpu"), *gpus]) == [cpu, "GPU, H100", "GPU, H200"]
    alike = named([*gpus, bundle("GPU", "d", "H100")])
    assert alike == ["GPU, H100, study 1: b", "GPU, H200", "GPU, H100, study 3: d"]
    assert named([bundle(cpu, "a", "cpu"), bundle(cpu, "b", "cpu")]) == [f"{cpu}, study 1: a", f"{cpu}, study 2: b"]
