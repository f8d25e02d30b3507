"""The toy studies end to end: records against plain NumPy."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optax
import pytest
from scipy import stats

from experiments.reporting import drawing
from experiments.running.progress import Progress
from experiments.toy import boundary, pieces
from experiments.toy import networks as toy_networks
from experiments.toy.__main__ import main
from tests.experiments.toy.cases import exact_breakpoints
from tests.study import sketch

TINY_BOUNDARY = ("boundary", "--seeds=3", "--restarts=2", "--steps=60", "--points=200", "--widths", "3", "2")
TINY_PIECES = ("pieces", "--seeds=3", "--steps=60", "--networks", "3", "2x2", "--pieces", "4", "2", "3")


def outcome(out: Path) -> dict[str, Any]:
    """Return the result of the only run in a folder."""
    (path,) = out.glob("*/result.json")
    assert (path.parent / "DONE").is_file()
    return json.loads(path.read_text())


# ----------------------------------------------------------------------------------------------- networks and points


def test_a_gate_decides_between_relu_and_identity() -> None:
    layers = [(np.array([[1.0, 1.0]]), np.array([0.0, -1.0])), (np.array([[1.0], [10.0]]), np.array([0.5]))]
    x = np.array([[-2.0], [0.5], [3.0]])
    np.testing.assert_allclose(toy_networks.forward(layers, x, [np.array([True, True])]), [0.5, 1.0, 23.5])
    np.testing.assert_allclose(toy_networks.forward(layers, x, [np.array([True, False])]), [-29.5, -4.0, 23.5])


def test_a_linear_network_is_trained_to_the_least_squares() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 50, 2)), rng.normal(size=(2, 50))
    starts = [toy_networks.init((seed,), (2, 3, 1)) for seed in range(2)]
    gates = [[np.zeros(3, bool)]] * 2
    config = toy_networks.Toy(steps=2000)
    fitted, losses = toy_networks.fit(starts, gates, list(x), list(y), config, optax.squared_error)
    for i in range(2):
        columns = np.hstack([x[i], np.ones((50, 1))])
        expected = columns @ np.linalg.lstsq(columns, y[i])[0]
        np.testing.assert_allclose(toy_networks.forward(fitted[i], x[i], gates[i]), expected, atol=1e-4)
        assert losses[i] == pytest.approx(np.mean((expected - y[i]) ** 2), rel=1e-5)


def test_points_lie_as_described() -> None:
    x, label, group = boundary.sample((0,), (3000, 1000))
    assert group.tolist() == [0] * 3000 + [1] * 1000
    u, above = x[:, 0], x[:, 1] - np.where(x[:, 0] < 0, 0, np.sin(np.pi * x[:, 0]))
    assert ((u[:3000] > -4) & (u[:3000] < 0)).all()
    assert ((u[3000:] > 0) & (u[3000:] < 2)).all()
    np.testing.assert_array_equal(above > 0, label == 1)
    assert abs(label.mean() - 0.5) < 0.03
    assert stats.kstest((np.abs(above) - 0.1) * 2, stats.halfnorm.cdf).pvalue > 0.01
    for members, low, length in ((slice(3000), -4, 4), (slice(3000, None), 0, 2)):
        assert stats.kstest(u[members], stats.uniform(low, length).cdf).pvalue > 0.01


def test_half_of_the_relus_cost_the_minority_alone() -> None:
    config = boundary.Boundary(seeds=5, restarts=5, steps=1500)
    with Progress() as progress:
        result, ((points, _, group), networks) = boundary.compare(config, progress)
    assert result["training_points"] == {"majority": 900, "minority": 100}
    assert np.bincount(group).tolist() == [540, 60]
    assert len(points) == 600
    assert [sum(gate.sum() for gate in gates) for _, gates in networks] == [4, 2]
    drop = result["relative_drop_percent"]
    assert abs(drop["majority"]["mean"]) < 0.5
    assert drop["minority"]["mean"] > 2
    assert result["accuracy"]["full"]["minority"]["mean"] > 0.85
    # Accuracies of the seed that is shown, again from its network and its points.
    seed = result["seed_of_median_drop"]
    assert sorted(drop["minority"]["per_seed"])[2] == drop["minority"]["per_seed"][seed]
    x, label, group = boundary.sample((seed, 1), (5000, 5000))
    for name, (layers, gates) in zip(boundary.NETWORKS, networks, strict=True):
        hidden = x @ layers[0][0] + layers[0][1]
        score = np.where(gates[0] & (hidden < 0), 0, hidden) @ layers[1][0][:, 0] + layers[1][1]
        for g, group_name in enumerate(boundary.GROUPS):
            right = ((score > 0) == label)[group == g].mean()
            assert result["accuracy"][name][group_name]["per_seed"][seed] == pytest.approx(right, abs=1e-12)


# ------------------------------------------------------------------------------------------------------- command line


def check_interval(entry: dict[str, Any], kind: str = "real") -> None:
    """Compare with Student's t interval, of the log of the odds or of the log of 100 less a percentage if asked.

    That of shares which all seeds have is Wilson's, of the points of one seed.
    """
    values = np.array(entry["per_seed"])
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    mean = values.mean()
    if kind == "share" and not half:
        right = round(mean * boundary.TEST_POINTS)
        ends = stats.binomtest(right, boundary.TEST_POINTS).proportion_ci(method="wilson")
    elif kind == "share":
        odds = mean / (1 - mean) * np.exp(np.array([-half, half]) / (mean * (1 - mean)))
        ends = odds / (1 + odds)
    elif kind == "percent":
        ends = 100 - (100 - mean) * np.exp(np.array([half, -half]) / (100 - mean))
    else:
        ends = mean - half, mean + half
    expected = [mean, *ends]
    np.testing.assert_allclose([entry["mean"], entry["low"], entry["high"]], expected, rtol=1e-9, atol=1e-12)


def test_the_boundary_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*TINY_BOUNDARY, "--out", str(tmp_path)]) == 0
    printed, result = capsys.readouterr().out, outcome(tmp_path)
    assert result["relus"] == {"full": 5, "half linear": 3}
    for group in boundary.GROUPS:
        full, half = (np.array(result["accuracy"][name][group]["per_seed"]) for name in boundary.NETWORKS)
        drop = result["relative_drop_percent"][group]
        np.testing.assert_allclose(drop["per_seed"], 100 * (full - half) / full, rtol=1e-12)
        check_interval(drop, "percent")
        for name in boundary.NETWORKS:
            check_interval(result["accuracy"][name][group], "share")
        assert f"{drop['mean']:.2f} ({drop['low']:.2f} to {drop['high']:.2f})" in printed
    majority, minority = (result["relative_drop_percent"][group]["per_seed"] for group in boundary.GROUPS)
    more = result["minority_drops_more_by"]
    np.testing.assert_allclose(more["per_seed"], np.subtract(minority, majority), rtol=1e-12)
    check_interval(more)
    (run,) = tmp_path.iterdir()
    assert (run / "boundary.png").read_bytes().startswith(b"\x89PNG")
    environment = json.loads((run / "environment.json").read_text())
    assert {"versions", "commit", "backend", "device_kind", "finished"} <= set(environment)
    assert json.loads((run / "config.json").read_text())["widths"] == [3, 2]
    # The same command keeps it; in another folder it gives the same numbers.
    finished = (run / "DONE").stat().st_mtime_ns
    assert main([*TINY_BOUNDARY, "--out", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert captured.out == printed
    assert "is kept" in captured.err
    assert (run / "DONE").stat().st_mtime_ns == finished
    monkeypatch.setattr(drawing, "save", sketch)
    assert main([*TINY_BOUNDARY, "--out", str(tmp_path / "again")]) == 0
    assert outcome(tmp_path / "again") == result


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((4.0, 1.0, 7.0), "drops by 4.00 points more than the majority (1.00 to 7.00)."),
        ((-4.0, -7.0, -1.0), "drops by 4.00 points less than the majority (1.00 to 7.00)."),
        ((-4.0, None, None), "drops by 4.00 points less than the majority."),
    ],
)
def test_a_minority_that_drops_less_is_said_to(
    capsys: pytest.CaptureFixture[str], more: tuple[float | None, ...], said: str
) -> None:
    of = dict(zip(("mean", "low", "high"), more, strict=True)) | {"per_seed": [more[0]]}
    groups = dict.fromkeys(boundary.GROUPS, of)
    result = {"relus": dict.fromkeys(boundary.NETWORKS, 5), "accuracy": dict.fromkeys(boundary.NETWORKS, groups)}
    boundary.print_boundary(result | {"relative_drop_percent": groups, "minority_drops_more_by": of})
    assert capsys.readouterr().out.endswith(f"The minority {said}\n")


def test_the_pieces_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY_PIECES, "--out", str(tmp_path)]) == 0
    printed, result = capsys.readouterr().out, outcome(tmp_path)
    for row, widths in zip(result["random"], [(3,), (2, 2)], strict=True):
        networks = [toy_networks.init((seed, *widths), (1, *widths, 1)) for seed in range(3)]
        assert row["pieces"]["per_seed"] == [len(exact_breakpoints(network)) + 1 for network in networks]
        assert (row["network"], row["most"]) == ("x".join(map(str, widths)), pieces.most_pieces(widths))
    assert [row["pieces"] for row in result["approximation"]] == [2, 2, 3, 3, 4, 4]
    for row in result["approximation"]:
        best, trained = row["best_error"], row["trained_error"]
        assert [f"{value:.2e}" for value in (best, np.median(trained), min(trained))] in [
            re.findall(r"\d\.\d\de[+-]\d\d", line) for line in printed.splitlines() if f" {row['function']} " in line
        ]
    for name, slopes in result["log_log_slope"].items():
        rows = [row for row in result["approximation"] if row["function"] == name]
        assert all(min(row["trained_error"]) > row["best_error"] for row in rows)
        x, best = np.log([2, 3, 4]), np.log([row["best_error"] for row in rows])
        centred = x - x.mean()
        slope = centred @ best / (centred @ centred)
        left = best - best.mean() - slope * centred
        half = stats.t.ppf(0.975, 1) * np.sqrt(left @ left / (centred @ centred))
        expected = [slope, slope - half, slope + half]
        np.testing.assert_allclose([slopes["best"][key] for key in ("mean", "low", "high")], expected, atol=1e-9)
        assert slopes["best"]["mean"] == pytest.approx(-2, abs=0.01)
        trained = np.log([row["trained_error"] for row in rows])
        np.testing.assert_allclose(slopes["trained"]["per_seed"], centred @ trained / (centred @ centred), rtol=1e-9)
        check_interval(slopes["trained"])
        assert f"{name}: the best error falls as p^s with s = {slopes['best']['mean']:.3f} (" in printed
    (run,) = tmp_path.iterdir()
    assert (run / "pieces.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("tiny", [TINY_BOUNDARY, TINY_PIECES], ids=["boundary", "pieces"])
@pytest.mark.filterwarnings("error")
def test_one_seed_has_no_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny: Sequence[str]
) -> None:
    monkeypatch.setattr(drawing, "save", sketch)
    assert main([*tiny, "--seeds=1", "--steps=1", "--out", str(tmp_path)]) == 0
    result = outcome(tmp_path)
    entry = result["minority_drops_more_by"] if "relus" in result else result["random"][0]["pieces"]
    assert (entry["low"], entry["high"]) == (None, None)
    assert "nan" not in capsys.readouterr().out


REFUSED = {
    "bondary": "There is no command 'bondary'; did you mean 'boundary'?",
    "boundary --seeds 0": "The study has 0 seeds",
    "boundary --steps 0": "The study has 20 seeds and 0 steps",
    "boundary --learning-rate nan": "at learning rate nan; give at least one seed and step, and a positive rate",
    "pieces --learning-rate 0": "at learning rate 0.0",
    "boundary --widths": "The hidden widths are ()",
    "boundary --widths 4 0": "The hidden widths are (4, 0)",
    "boundary --widths 4 --widths 2": "The option --widths is given twice",
    "boundary --widths 1": "give widths from 1 on, two units or more",
    "boundary --restarts 0": "the restarts 0; give",
    "boundary --minority 0": "A minority of 0.0 of 1000 points leaves a group without any",
    "boundary --minority nan": "A minority of nan of 1000 points",
    "boundary --points 4": "A minority of 0.1 of 4 points",
    "pieces --networks 4y4": "'4y4' is no network; write its hidden widths like 8x4",
    "pieces --networks 4x0": "'4x0' is no network",
    "pieces --networks": "There are 0 networks",
    "pieces --pieces 2 3 3": "the numbers of pieces are (2, 3, 3); give",
    "pieces --pieces 1 2 3": "the numbers of pieces are (1, 2, 3); give",
    "pieces --interval 1 0": "The interval is 1.0 to 0.0; give",
    "pieces --interval 0 nan": "The interval is 0.0 to nan; give",
    "pieces --interval 0 1000": "The interval is 0.0 to 1000.0; give",
}


@pytest.mark.parametrize("options", REFUSED)
def test_bad_input_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str) -> None:
    assert main([*options.split(), "--out", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert REFUSED[options] in line
    assert not re.search(r"[.?!] [A-Z]", line)
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tiny", [TINY_BOUNDARY, TINY_PIECES], ids=["boundary", "pieces"])
@pytest.mark.filterwarnings("error")
def test_training_that_diverges(tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny: Sequence[str]) -> None:
    assert main([*tiny, "--learning-rate", "1e38", "--out", str(tmp_path)]) == 1
    assert "error: Training at learning rate 1e+38 ended in numbers that are not finite" in capsys.readouterr().err
    assert list(tmp_path.rglob("DONE")) == []


def test_an_out_folder_under_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main([*TINY_BOUNDARY, "--out", str(tmp_path / "file" / "toy")]) == 1
    assert (
        "cannot be written: there is a file where a folder is needed; choose another folder" in capsys.readouterr().err
    )


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == 0
    assert "{boundary,pieces}" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main(["pieces", "--help"])
    assert caught.value.code == 0
    assert "--interval" in capsys.readouterr().out
