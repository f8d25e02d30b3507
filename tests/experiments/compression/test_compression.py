"""The compression study end to end, beside the tiny linearization study, whose full network and analyses it shares."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest

from experiments.analyses import results as arrays
from experiments.analyses import study as studies
from experiments.analyses.results import Results
from experiments.compression import claims, figures, page, report, study
from experiments.compression.__main__ import main
from experiments.compression.settings import PRESETS, QUICKSTART, Study
from experiments.running import datasets, stages
from experiments.running.progress import Progress
from experiments.running.records import Workspace
from jaxfair.compress.pruning import PruneConfig, kept_count, prune
from jaxfair.compress.quantization import quantize
from jaxfair.runs import Run
from tests.study import TINY, finished, lay_out, made_once, of_stage, once

# What the tiny linearization study has, and of the rest as little as shows every kind of network.
LINEAR = ("--budgets", "0.5", "--deepreduce", "C12", "--snl", "--controls")
SHARED = [option for option in TINY if not option.startswith(LINEAR)]
OPTIONS = (
    *("--pruning", "global", "gradual", "--sparsities", "0.9", "--rounds=2", "--bits", "8", "3", "--formats"),
    "--finetune.epochs=2",
)
ROUNDS = ("Pruned 78.75 % gradually, round 1 of 2 to 90 %", "Pruned 90 % gradually, round 2 of 2 to 90 %")


def make(out: Path, tiny: Path) -> int:
    shutil.copytree(tiny, out)
    with mock.patch("experiments.reporting.drawing.save", lay_out_and_write):
        return main([*SHARED, *OPTIONS, "--out", str(out)])


def lay_out_and_write(figure: Any, path: Path) -> Path:
    """Lay a figure out, which finds what cannot be drawn, and write an empty one in its place."""
    svg = lay_out(figure, path)
    svg.write_text("<svg></svg>", encoding="utf-8")
    return svg


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.getbasetemp()
    tiny = made_once(folder)
    return once(folder, "tiny-compression", lambda place: make(place, tiny))


@pytest.fixture(scope="module")
def results(out: Path) -> Results:
    return arrays.collect(arrays.read(out, report.STUDY))


def called(found: dict[str, Run], stage: str) -> dict[str, Run]:
    return {run.config["variant"]["label"]: run for run in of_stage(found, stage)}


def test_full_networks_and_their_analyses_are_shared(out: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    before, after = finished(made_once(tmp_path_factory.getbasetemp())), finished(out)
    assert set(before) < set(after)
    assert len(of_stage(after, "train")) == 1
    assert "Full network" in called(before, "analyse")
    assert len([run for run in of_stage(after, "analyse") if run.config["variant"]["label"] == "Full network"]) == 1


def test_networks_are_pruned_exactly_and_stay_so(out: Path) -> None:
    found = finished(out)
    pruned, tuned = called(found, "compress"), called(found, "finetune")
    full = stages.load_network(of_stage(found, "train")[0])
    start = stages.load_network(pruned["Pruned 90 %"])
    jax.tree.map(np.testing.assert_array_equal, start.params, prune(full, PruneConfig(0.9)).params)
    kept = kept_count(start.params)
    assert pruned["Pruned 90 %"].json("result.json")["weights_kept"] == kept
    for label in ("Pruned 90 %, fine-tuned", "Pruned 90 % gradually"):
        assert kept_count(stages.load_network(tuned[label]).params) == kept
    expected = prune(stages.load_network(tuned[ROUNDS[0]]), PruneConfig(0.9))
    jax.tree.map(np.testing.assert_array_equal, stages.load_network(pruned[ROUNDS[1]]).params, expected.params)
    assert pruned[ROUNDS[1]].config["parents"]["start"] == tuned[ROUNDS[0]].digest
    quantized = stages.load_network(pruned["3 bits"])
    jax.tree.map(np.testing.assert_array_equal, quantized.params, quantize(full, 3).params)


def test_training_is_matched(out: Path) -> None:
    """The control and the pruned networks have the same epochs, gradual ones in all rounds together."""
    tuned = called(finished(out), "finetune")
    assert tuned[study.CONTROL].config["train"]["epochs"] == 2
    assert tuned["Pruned 90 %, fine-tuned"].config["train"] == tuned[study.CONTROL].config["train"]
    rounds = (ROUNDS[0], "Pruned 90 % gradually")
    assert [tuned[label].config["train"]["epochs"] for label in rounds] == [1, 1]
    assert "kept" in tuned["Pruned 90 %, fine-tuned"].config
    assert "kept" not in tuned[study.CONTROL].config


def test_the_expansion_is_of_the_losses_that_are_recorded(out: Path) -> None:
    found = finished(out)
    expanded, analysed = called(found, "expand"), called(found, "analyse")
    assert set(expanded) == {"8 bits", "3 bits", "Pruned 90 %"}
    before = np.array(analysed["Full network"].json("result.json")["groups"]["loss"])
    for label, run in expanded.items():
        groups = run.json("result.json")["groups"]
        after = np.array(analysed[label].json("result.json")["groups"]["loss"])
        np.testing.assert_allclose(groups["loss_rise"], after - before, rtol=1e-4, atol=1e-5)
        distance = analysed[label].json("result.json")["parameter_distance"]
        np.testing.assert_allclose(run.json("result.json")["parameter_distance"], distance, rtol=1e-5)
    near = expanded["8 bits"].json("result.json")["groups"]
    foretold = np.array(near["first_term"]) + np.array(near["second_term"])
    np.testing.assert_allclose(foretold, near["loss_rise"], rtol=0, atol=0.1 * np.abs(foretold).max())


def test_results_know_controls_and_what_is_saved(results: Results, out: Path) -> None:
    by_label = {variant.label: variant for variant in results.variants}
    assert by_label["Pruned 90 %, fine-tuned"].control.label == study.CONTROL  # pyright: ignore
    assert by_label["Pruned 90 %"].control is by_label["3 bits"].control is None
    assert figures.saving(by_label["Pruned 90 %"]) == pytest.approx(0.1)
    assert figures.saving(by_label["8 bits"]) == 0.25
    assert figures.saving(by_label["SNL 384"]) == 0.5
    rows = page.summary_rows(results)
    shown = {row["network"]: (row["saves"], row["kept_percent"]) for row in rows}
    assert shown["SNL 384"] == ("ReLUs", 50)
    assert shown["DeepReDuce C12"] == ("ReLUs", 0)
    assert shown["3 bits"] == ("bits", pytest.approx(9.375))
    text = (out / "report" / "report.html").read_text(encoding="utf-8")
    assert all(said in text for said in ("SNL 384", "What the weights&#x27; change foretells"))
    assert json.loads((out / "report" / "runs.json").read_text())["study"] == "compression"


def test_every_figure_can_be_drawn_and_every_finding_is_judged(results: Results) -> None:
    left, right = figures.changes_side_by_side(results).axes
    assert len(left.containers) == len(right.containers) == 5  # SNL, DeepReDuce, two ways of pruning, bits
    panels = figures.foretold_and_actual(results).axes
    assert [axes.get_title() for axes in panels] == ["Pruned 90 %", "8 bits", "3 bits"]
    x, y = np.concatenate([c.lines[0].get_xydata() for c in panels[2].containers]).T  # pyright: ignore
    three = next(v for v in results.variants if v.label == "3 bits")
    np.testing.assert_allclose(np.sort(y), np.sort(three.by_group["loss_rise"][0]))
    np.testing.assert_allclose(np.sort(x), np.sort(three.by_group["first_term"][0] + three.by_group["second_term"][0]))
    found = {claim.name: claim for claim in claims.claims(results)}
    assert {claim.verdict for claim in found.values()} <= {"too few seeds", "not enough data"}
    assert found["large_unharmed (pruning)"].note.startswith("a verdict needs")
    assert found["both_terms_foretells_rise (pruning, strongest)"].note.endswith("Pruned 90 %")
    assert "layer" in found["global_milder"].note


def test_data_controls_are_the_strongest_networks_on_other_data() -> None:
    config = dataclasses.replace(QUICKSTART, seeds=1, mitigations=("cvar",), pruning=("global", "gradual"))
    prepared = datasets.prepare_splits(dataclasses.replace(config.data, rebalance="balanced"), 1)
    with Progress(terminal=False) as progress:
        space = Workspace(Path("runs"), *prepared[0][:3], progress)
        made = studies.on_splits(space, prepared, 1, lambda *on: study.declare(on[0], config, on[1]))
    assert [run.config["variant"]["label"] for run in made] == [
        "Full network",
        "3 bits",
        "Pruned 95 %",
        study.CONTROL,
        "Pruned 95 %, fine-tuned",
        "Pruned 95 % gradually",
    ]
    assert {run.config["data"]["rebalance"] for job in space.jobs for run in job.runs} == {"balanced"}


def test_pruning_is_switched_off_by_either_of_its_options() -> None:
    """Where a preset has mitigations, these are left out with it."""
    for preset in (Study(), *PRESETS.values()):
        study.check_used(preset)
        study.check_used(dataclasses.replace(preset, pruning=(), data_controls=("balanced",)))
        study.check_used(dataclasses.replace(preset, sparsities=(), bits=()))
        study.check_used(dataclasses.replace(preset, sparsities=(), mitigations=("none",)))


def test_a_plan_lists_what_is_finished_and_what_is_not(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SHARED, *OPTIONS, "--out", str(out), "--dry-run", "--mitigations", "cvar"]) == 0
    rows = [[cell.strip() for cell in line.split("│")[1:]] for line in capsys.readouterr().out.splitlines()]
    finished = {(row[0], row[1]): row[3] for row in rows if len(row) > 3}
    assert finished["compress", ROUNDS[0]] == "1"
    assert finished["fine-tune", study.CONTROL] == "1"
    for label in ("Pruned 90 %, fine-tuned", "Pruned 90 % gradually"):
        assert finished["fine-tune", f"{label} + cvar (level 0.1)"] == "0"
    assert [label for (_, label), done in finished.items() if done == "0" and "cvar" not in label] == []


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--sparsities", "1.0"], "The sparsity is 1.0"),
        (["--bits", "9"], "to 9 bits; give a whole number from 2 to 8"),
        (["--rounds=31"], "31 rounds in 30 epochs"),
        (
            ["--rounds=7", "--pruning", "layer"],
            "--rounds decides nothing in this study; leave it out, or give --pruning",
        ),
        (
            ["--pruning", "--finetune.epochs=3"],
            "--finetune.epochs decides nothing in this study; leave it out, or give",
        ),
        (["--finetune.mitigation.level=1"], "leave it out, or give --mitigations cvar."),
        (["--bits", "--formats", "--sparsities"], "0 numbers of bits, 0 formats and 0 sparsities"),
        (["--seeds=0"], "0 seeds"),
        (["--bits", "8", "--bits", "4"], "--bits is given twice; give all of its values after one."),
        (["--reference", "x"], "no group 'x'"),
        (
            ["--pruning", "--bits", "4", "--formats", "--mitigations", "lagrangian", "cvar", "--sparsities", "0.5"],
            "The mitigations lagrangian cvar are of pruned networks, and there are none; give --pruning and --sparsit",
        ),
        (["--pruning", "--mitigations", "lagrangian"], "The mitigations lagrangian are of pruned networks"),
        (["--sparsities", "--mitigations", "cvar"], "The mitigations cvar are of pruned networks"),
        (
            ["--pruning", "--bits", "--formats", "bf16", "--data-controls", "balanced", "tenfold"],
            "The data controls balanced tenfold are of pruned networks and those of few bits, and there are none; giv",
        ),
        (["--pruning", "--sparsities", "0.5"], "Pruning is told --sparsities 0.5 and no --pruning; give both"),
        (["--pruning", "layer", "--sparsities"], "Pruning is told --pruning layer and no --sparsities; give both"),
        (["--data.rebalance", "balanced"], "give --data-controls balanced instead."),
        (["--seeds-at-once=0"], "seeds_at_once is 0"),
    ],
)
def test_bad_input_is_one_sentence(
    options: list[str], match: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*options, "--out", str(tmp_path / "study")]) == 1
    said = capsys.readouterr().err
    assert match in said
    assert said.count("\n") == 1
    assert not (tmp_path / "study").exists()
