"""Figures of Das et al. 2024: what is drawn equals what NumPy and SciPy give, whatever the study, or is left out."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from scipy import stats

from experiments.linearization import figures
from experiments.linearization import results as tables
from experiments.linearization.results import Results
from experiments.reporting import drawing
from jaxfair.errors import JaxfairError
from tests.study import make_analyses, mitigated

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
STUDIES = {
    "three groups": {},
    "one seed": {"seeds": 1},
    "ten seeds, two groups": {"seeds": 10, "group_names": "ab", "train_count": (9, 1), "test_count": (50, 20)},
    "one budget": {"networks": NETWORKS[:2]},
    "mitigated": {"networks": [*NETWORKS, *MITIGATED]},
    "no SNL": {"networks": (NETWORKS[0], NETWORKS[3])},
    "never right": {"never_right": (2,)},
    "twenty groups": {
        "group_names": [f"occupation number {i}" for i in range(20)],
        "train_count": [1000 - 40 * i for i in range(20)],
        "test_count": [30] * 20,
    },
}
CAUSES = {"gradient_norm": 0, "softmax_gap": 1}
OF_MITIGATION = [name for name in figures.PAPER if "mitigation" in name]


def results_of(folder: Path, study: dict) -> Results:
    return tables.collect(make_analyses(folder / "runs", **study))


def ends(values: np.ndarray) -> np.ndarray:
    """Return mean and Student's 95 % interval over seeds by SciPy, shape (3,); the mean alone for equal seeds."""
    if np.ptp(values) == 0:
        return np.repeat(values[:1], 3)
    return np.array([values.mean(), *stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))])


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
def test_every_study_is_drawn_without_warnings(tmp_path: Path, study: dict) -> None:
    results = results_of(tmp_path, study)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        written = drawing.draw_all(figures.PAPER, results, tmp_path / "new" / "figures")
    assert [figure.name for figure in written] == list(figures.PAPER)
    for figure in written:
        lacking = figure.name in OF_MITIGATION and len(results.variants) < 5
        assert (figure.file is None) == lacking == bool(figure.reason), figure
        for file in [] if figure.file is None else (figure.file, figure.file.with_suffix(".png")):
            assert file.stat().st_size > 1000


def test_equal_results_give_equal_files(tmp_path: Path) -> None:
    results = results_of(tmp_path, {"networks": NETWORKS[:2]})
    for name in ("first", "second"):
        drawing.draw_all(figures.DRAWINGS | figures.PAPER, results, tmp_path / name)
    first, second = (sorted((tmp_path / name).iterdir()) for name in ("first", "second"))
    assert [f.name for f in first] == [f.name for f in second]
    assert len(first) == 2 * (len(figures.DRAWINGS) + len(figures.PAPER) - len(OF_MITIGATION))
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))


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
    for factor, scale in ((np.array([1.0, 10, 100]), "log"), (np.array([1.0, 1.1, 1.2]), "linear")):
        groups = [v.by_group | {"gradient_norm": np.tile(factor, (3, 1))} for v in results.variants]
        changed = [v._replace(by_group=g) for v, g in zip(results.variants, groups, strict=True)]
        figure = figures.by_group_and_relus(results._replace(variants=tuple(changed)), "gradient_norm")
        assert figure.axes[0].get_yscale() == scale


def test_global_accuracy_names_the_configurations(tmp_path: Path) -> None:
    results = results_of(tmp_path, {})
    (axes,) = figures.global_accuracy(results).axes
    full, snl200, snl50, student = (ends(v.accuracy) for v in results.variants)
    np.testing.assert_allclose(drawn(axes, "SNL"), [snl50, snl200])
    np.testing.assert_allclose(drawn(axes, "full network"), [full])
    np.testing.assert_allclose(drawn(axes, "DeepReDuce"), [student])
    assert [text.get_text() for text in axes.texts] == ["C12"]


@pytest.mark.parametrize("effect", ["accuracy", "drop"])
def test_points_have_both_intervals_and_a_name(tmp_path: Path, effect: Any) -> None:
    results = results_of(tmp_path, {"train_count": (20, 400, 300)})
    full, tightest = results.variants[0], results.variants[2]
    left, *panels = figures.distance_and_causes(results, effect).axes
    # Parameter distances by hand: 50 and 200 ReLUs, plus 0, 1, 2 by seed; the student is of another size.
    np.testing.assert_allclose(drawn(left, "SNL"), [ends(np.arange(n, n + 3.0)) for n in (50, 200)])
    assert not drawn(left, "DeepReDuce").size
    drop = tables.drops(results, tightest)
    for axes, cause in zip(panels, CAUSES, strict=True):
        measured = tightest if effect == "accuracy" else full
        x = [ends(column) for column in measured.by_group[cause].T]
        y = [ends(column) for column in tightest.by_group["accuracy"].T]
        y = y if effect == "accuracy" else list(zip(*drop, strict=True))
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
                expected = np.stack(tables.drops(with_mitigation, variant), axis=1)
            else:
                expected = np.array([ends(column) for column in variant.by_group[quantity].T])
            np.testing.assert_allclose(drawn(axes, name), expected[[1, 2, 0]])


def test_the_rate_is_drawn_from_none_to_the_largest(with_mitigation: Results) -> None:
    found = [variant for _, variant in sorted(figures.rates(with_mitigation).items())]
    everyone, *panels = figures.mitigation_by_rate(with_mitigation).axes
    np.testing.assert_allclose(drawn(everyone, "all test images"), [ends(v.accuracy) for v in found])
    for axes, g in zip(panels, (1, 2, 0), strict=False):
        expected = [ends(variant.by_group["accuracy"][:, g]) for variant in found]
        np.testing.assert_allclose(drawn(axes, "the panel's group"), expected)


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
