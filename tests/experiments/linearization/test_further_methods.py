"""The study's further methods: equal budgets, controls trained alike, their work, their claims and their figure."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.analyses import quantities
from experiments.analyses import results as arrays
from experiments.linearization import figures
from experiments.linearization.claims import claims
from experiments.reporting import drawing
from experiments.running import methods, work
from experiments.running.settings import FURTHER
from jaxfair.runs import Run
from tests.study import (
    ALWAYS_SAVE,
    assert_same_study,
    call,
    finished,
    lay_out,
    make_analyses,
    mitigated,
    of_stage,
    once,
)

OPTIONS = (
    *("--methods", "senet", "bcd-worst-group", "--controls", "matched", "--budgets", "200", "--deepreduce"),
    *("--senet.sparse-train.epochs=1", "--senet.mask-train.epochs=2", "--bcd.block=150", "--bcd.tries=3"),
    "--bcd.finetune.epochs=1",
)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    return once(base, "methods", lambda folder: call(folder, *OPTIONS))


def by_label(found: dict[str, Run], stage: str) -> dict[str, Run]:
    return {run.config["variant"]["label"]: run for run in of_stage(found, stage)}


@pytest.mark.slow
def test_every_method_keeps_exactly_the_budget_and_has_a_control_with_all_relus(out: Path) -> None:
    analysed = by_label(finished(out), "analyse")
    expected, controls = ["SNL 200", "SENet 200", "BCD 200 (worst group)"], set()
    for label in expected:
        assert analysed[label].json("result.json")["relu_count"] == 200
        controls.add(methods.matched_label(label))
        control = analysed[methods.matched_label(label)].json("result.json")
        assert control["relu_count"] == control["unit_count"] == 768
    assert analysed.keys() == {"Full network", *expected, *controls}
    shown = arrays.collect(list(analysed.values()))
    assert {v.label for v in shown.variants if v.control is None} == {"Full network", *controls}


@pytest.mark.slow
def test_networks_and_their_controls_took_equal_training(out: Path) -> None:
    """Counted by hand; only what tries ReLUs, or divides them, is more work than the control's."""
    found = finished(out)
    analysed, made = by_label(found, "analyse"), by_label(found, "linearize")
    images = sum(analysed["Full network"].config["data"]["train_count"])
    epoch = images // 64 * 64  # in whole batches
    took = {label: work.passes(run) for label, run in analysed.items()}
    assert took["Full network"] == 0
    descents = {count: made[f"SNL {count}"].json("result.json")["epochs"] for count in (200, 400)}
    assert took["SNL 200"] == took["Matched to SNL 200"] == 4 * epoch * (descents[200] + 1)
    assert took["SENet 200"] - took["Matched to SENet"] == 3 * epoch  # the sparse training
    assert took["Matched to SENet"] == 4 * epoch * (2 + 1)
    run, blocks = made["BCD 200 (worst group)"], 2  # from 400: 150 and 50
    assert run.json("result.json")["blocks"] == blocks
    assert took["Matched to BCD 200"] == 4 * epoch * (descents[400] + 1 + blocks + 1)
    tried = np.isfinite(run.arrays("history.npz")["rises"]).sum()
    assert took["BCD 200 (worst group)"] - took["Matched to BCD 200"] == images * (tried + blocks)


@pytest.mark.slow
def test_senets_networks_and_controls_are_tuned_with_attention_and_no_others(out: Path) -> None:
    for label, run in by_label(finished(out), "finetune").items():
        assert ("attention" in run.config) == ("SENet" in label)


@pytest.mark.slow
def test_a_killed_study_of_methods_ends_with_the_same_bits(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at the end of the mask stage, and again between two blocks."""
    from jaxfair.linearize import bcd, senet

    saved = [option for option in ALWAYS_SAVE if "deepreduce" not in option]  # there is none
    options = [*OPTIONS, *saved, "--senet.mask-train.checkpoint-seconds=0", "--bcd.finetune.checkpoint-seconds=0"]
    for module, name in ((senet, "check_network"), (bcd, "_without_block")):
        calls, plain = [], getattr(module, name)

        def kill(*arguments: Any, calls: list = calls, plain: Any = plain) -> Any:
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return plain(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(module, name, kill)
            assert call(tmp_path / "study", *options) == 130
    assert call(tmp_path / "study", *options) == 0
    assert_same_study(out, tmp_path / "study")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budgets", "--methods", "senet"], "have no budget; give --budgets or --equal-budgets"),
        (["--methods", "bcd", "--snl.rule", "threshold"], "leave --snl.rule at exact"),
        (["--methods", "bcd", "--bcd.block", "0"], "give blocks and tries of at least 1"),
        (["--methods", "senet", "--senet.sparsity", "1"], "sparsity is 1.0"),
        (["--methods", "senet", "--senet-attention", "-1"], "attention weight is -1"),
        (["--methods", "senet", "--budgets", "769"], "has 768 units"),
        (["--methods", "bcd", "--model.network", "cnn"], "DeepReDuce is defined for ResNets"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_sentence_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert call(tmp_path / "study", *options) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "study").exists()


def test_deepreduces_counts_are_budgets_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--deepreduce", "C1", "C2+T", "--equal-budgets", "--methods", "senet", "--dry-run"]
    assert call(tmp_path / "study", *options) == 0
    shown = capsys.readouterr().out
    for label in ("SNL 384", "SNL 256", "SENet 256"):  # C2+T keeps the first gate of stage 1 alone
        assert f" {label} " in shown
    assert "SENet 384" in shown


def test_every_method_is_declared_with_its_label_and_control(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Methods of one family share what they start from and their control, unless they are trained otherwise."""
    options = ["--methods", *FURTHER, "--controls", "matched", "--budgets", "200", "--deepreduce", "--dry-run"]
    assert call(tmp_path / "study", *options) == 0
    shown = capsys.readouterr().out
    found = {cells[2].strip() for line in shown.splitlines() if len(cells := line.split("│")) > 3 and "analyse" in line}
    made = {f"SNL 200{suffix}" for suffix in ("", " (balanced)")}
    made |= {f"SENet 200{suffix}" for suffix in ("", " (balanced)")}
    made |= {f"BCD 200{suffix}" for suffix in ("", " (loss)", " (worst group)", " (CVaR)")}
    controls = {methods.matched_label(label) for label in made}
    assert controls == {f"Matched to {name}" for name in ("SNL 200", "SNL 200 (balanced)", "SENet", "BCD 200")}
    assert found == {"Full network", *made, *controls}


NETWORKS: Any = (
    ("Full network", "full", 768),
    *(("DeepReDuce C1", "deepreduce", 100), ("DeepReDuce C2", "deepreduce", 50)),
    *((f"SNL {count}", "snl", count) for count in (100, 50, 7)),
    *((f"BCD {count}", "bcd", count) for count in (100, 50)),
    *((f"BCD {count} (worst group)", "bcd-worst-group", count) for count in (100, 50, 7)),
    *(mitigated(label, 50) for label in ("BCD 50", "BCD 50 (worst group)")),
)


def test_methods_are_compared_at_equal_budgets_alone(tmp_path: Path) -> None:
    made = arrays.collect(make_analyses(tmp_path, networks=NETWORKS, seeds=5))
    found = {claim.name: claim for claim in claims(made)}
    by_name = {v.label: v for v in made.variants}

    def drop(label: str) -> np.ndarray:
        return by_name[label].by_group["relative_drop_percent"].mean()

    expected = np.mean([drop("DeepReDuce C1") - drop("SNL 100"), drop("DeepReDuce C2") - drop("SNL 50")])
    np.testing.assert_allclose(found["snl_milder"].value, expected)
    assert "SNL 7" not in found["snl_milder"].note
    assert not any(name.startswith("senet") for name in found)

    def worst(label: str) -> np.ndarray:  # of what is seen, and so the unluckiest, too
        return np.sum([table.mean(axis=1) for table in quantities.in_worst(made, by_name[label])], axis=0)

    for v in made.variants:
        assert (worst(v.label) >= v.by_group["accuracy"].min(axis=1) - 1e-12).mean() > 0.8

    gained = np.mean([worst(f"BCD {count} (worst group)") - worst(f"BCD {count}") for count in (50, 100)], axis=0)
    np.testing.assert_allclose(found["bcd-worst-group_raises_worst"].value, gained.mean())
    lost = np.mean([by_name[f"BCD {c}"].accuracy - by_name[f"BCD {c} (worst group)"].accuracy for c in (50, 100)])
    np.testing.assert_allclose(found["bcd-worst-group_cheap"].value, lost)
    on_top = worst("BCD 50 (worst group) + lagrangian (mu 0.01)") - worst("BCD 50 + lagrangian (mu 0.01)")
    np.testing.assert_allclose(found["bcd-worst-group_raises_worst (lagrangian (mu 0.01))"].value, on_top.mean())


def test_a_study_without_further_methods_has_no_findings_of_these(tmp_path: Path) -> None:
    found = {claim.name for claim in claims(make_analyses(tmp_path, seeds=5))}
    assert not [name for name in found if "equal" in name or "worst" in name]


def test_methods_are_drawn_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = arrays.collect(make_analyses(tmp_path, networks=NETWORKS, seeds=5))
    figure = figures.accuracy_by_method(made)
    all_images, worst = figure.axes
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *("full network", "SNL", "DeepReDuce", "BCD", "BCD (worst group)")
    ]
    bars: list[Any] = worst.containers
    values = {c.get_label(): c.lines[0].get_ydata() for c in bars}
    by_name = {v.label: v for v in made.variants}
    expected = [quantities.worst_accuracy(made, by_name[f"SNL {count}"]).mean for count in (7, 50, 100)]
    np.testing.assert_allclose(values["SNL"], expected)
    assert all_images.get_title() == "all test images"
    monkeypatch.setattr(drawing, "save", lay_out)
    (drawn,) = drawing.draw_all({"accuracy_by_method": figures.DRAWINGS["accuracy_by_method"]}, made, tmp_path / "f")
    assert not drawn.reason


def test_a_network_whose_parents_are_gone_has_no_known_work(tmp_path: Path) -> None:
    made = make_analyses(tmp_path, seeds=2)
    assert np.isnan([work.passes(run) for run in made]).all()
    assert "million_passes" not in quantities.summary_rows(arrays.collect(made))[0]
