"""The linearization study end to end: what its runs hold, against plain NumPy."""

import dataclasses
import hashlib
import itertools
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.analyses import quantities, results
from experiments.analyses import study as studies
from experiments.linearization import study
from experiments.linearization.settings import DIGITS, QUICKSTART
from experiments.reporting.sampling import FREE
from experiments.running import datasets, methods, stages
from experiments.running.progress import Progress
from experiments.running.records import Workspace
from experiments.running.settings import FURTHER
from jaxfair.errors import JaxfairError
from jaxfair.networks import masks
from jaxfair.runs import Run
from tests.study import RUNS, call, finished, made_once, of_stage


@pytest.fixture
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory.getbasetemp())


def test_every_run_is_finished_and_readable(out: Path) -> None:
    found = finished(out)
    assert len(found) == len(list((out / "runs").iterdir())) == sum(RUNS.values())
    assert {stage: len(of_stage(found, stage)) for stage in RUNS} == RUNS
    digests = {run.digest for run in found.values()}
    for run in found.values():
        for name in json.loads((run.path / "DONE").read_text()):
            if name.endswith(".json"):
                assert run.json(name)
            elif name == "examples.npz":
                assert all(np.isfinite(array).all() for array in run.arrays(name).values())
        assert set(run.config.get("parents", {}).values()) <= digests
        assert not run.progress_dir.exists()
        environment = run.json("environment.json")
        assert environment["backend"] == jax.default_backend()
        assert environment["default_matmul_precision"] == "highest"
        assert environment["started"] <= environment["finished"]


def test_training_is_logged_by_epoch(out: Path) -> None:
    (run,) = of_stage(finished(out), "train")
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert run.json("result.json")["final"] == {name: rows[-1][name] for name in ("loss", "accuracy")}


def test_masks_hold_exactly_their_budget(out: Path) -> None:
    found = finished(out)
    for run in [*of_stage(found, "linearize"), *of_stage(found, "finetune")]:
        network = stages.load_network(run)
        assert all(set(np.unique(leaf)) <= {0.0, 1.0} for leaf in jax.tree.leaves(network.masks))
        expected = {"SNL 384": 384, "DeepReDuce C12": 0}[run.config["variant"]["label"]]
        assert masks.relu_count(network.masks) == run.json("result.json")["relu_count"] == expected
        assert masks.unit_count(network.masks) == run.json("result.json")["unit_count"] == 768
    (full,) = of_stage(found, "train")
    assert masks.relu_count(stages.load_network(full).masks) == 768


def test_results_equal_plain_numpy_on_the_examples(out: Path) -> None:
    analysed = of_stage(finished(out), "analyse")
    assert len(analysed) == 3
    full_examples = next(run for run in analysed if run.config["variant"]["method"] == "full").arrays("examples.npz")
    full_right = full_examples["logits"].argmax(axis=1) == full_examples["label"]
    for run in analysed:
        examples, result = run.arrays("examples.npz"), run.json("result.json")
        logits, label, group = examples["logits"].astype(np.float64), examples["label"], examples["group"]
        np.testing.assert_array_equal(examples["index"], np.arange(len(label)))
        shifted = logits - logits.max(axis=1, keepdims=True)
        scores = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
        loss = -np.log(scores[np.arange(len(label)), label])
        top = np.sort(scores, axis=1)
        np.testing.assert_allclose(examples["loss"], loss, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(examples["softmax_gap"], top[:, -1] - top[:, -2], rtol=1e-4, atol=1e-6)
        right, groups = logits.argmax(axis=1) == label, result["groups"]
        assert result["accuracy"] == right.mean()
        assert groups["test_count"] == np.bincount(group).tolist() == run.config["data"]["test_count"]
        for g in range(10):
            accuracy, before = right[group == g].mean(), full_right[group == g].mean()
            assert groups["accuracy"][g] == pytest.approx(accuracy, rel=1e-12)
            assert groups["accuracy_full"][g] == pytest.approx(before, rel=1e-12)
            assert groups["loss"][g] == pytest.approx(loss[group == g].mean(), rel=1e-4)
            drop = groups["relative_drop_percent"][g]
            assert drop is None if before == 0 else drop == pytest.approx(100 * (before - accuracy) / before)
        assert result["checks"]["deterministic"] is True


def test_a_damaged_run_is_made_again(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "damaged"
    shutil.copytree(out, study)
    run = of_stage(finished(study), "analyse")[0]
    flip_a_bit(run.path / "examples.npz")
    with pytest.raises(
        JaxfairError, match=r"examples.npz was changed\); it is made again by: python -m experiments.lin"
    ):
        results.read(study)
    assert call(study) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"1 run was damaged ({run.path.name}: examples.npz was changed) and is made again."
    assert lines[2:] == ["10 runs were finished before and are kept."]
    assert (run.path / "examples.npz").read_bytes() == (out / "runs" / run.path.name / "examples.npz").read_bytes()


def test_a_damaged_checkpoint_is_found(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "damaged")
    run = of_stage(finished(tmp_path / "damaged"), "finetune")[0]
    stages.load_network(run)
    files = [path for path in run.checkpoint_dir.rglob("*") if path.is_file() and path.parent.name == "d"]
    assert sum(path.stat().st_size for path in files) > 10_000
    for path in files:
        flip_a_bit(path)
        with pytest.raises(JaxfairError, match=re.escape(run.path.name)):
            stages.load_network(run)
        flip_a_bit(path)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_mitigations_and_controls_stand_beside_the_plain_networks(tmp_path: Path) -> None:
    """Each is fine-tuned and analysed; the detached penalty ends where plain fine-tuning does."""
    options = ("--mitigations", "lagrangian", "lagrangian-detached", "--controls", "finetuned", "random")
    options += ("--mitigation-rates", "0.1", "0.2", "--snl-finetune.mitigation.rate=0.1", "--deepreduce")
    assert call(tmp_path, *options) == 0
    found = finished(tmp_path)
    tuned = {run.config["variant"]["label"]: run for run in of_stage(found, "finetune")}
    budget = next(label for label in tuned if re.fullmatch(r"SNL \d+", label)).removeprefix("SNL ")
    mitigated, detached = f"SNL {budget} + lagrangian (mu 0.1)", f"SNL {budget} + lagrangian-detached (mu 0.1)"
    more = {mitigated, f"SNL {budget} + lagrangian (mu 0.2)", detached, f"Random {budget}"}
    assert set(tuned) == {f"SNL {budget}", *more, "Full network, fine-tuned"}
    analysed = {run.config["variant"]["label"]: run for run in of_stage(found, "analyse")}
    assert set(analysed) == {*tuned, "Full network"}
    assert {analysed[label].json("result.json")["relu_count"] for label in more} == {int(budget)}
    assert analysed[mitigated].config["variant"]["base"] == f"SNL {budget}"
    assert analysed[mitigated].config["variant"]["mitigation"]["rate"] == 0.1
    multipliers = tuned[mitigated].json("result.json")["multipliers"]
    assert len(multipliers) == 10
    assert min(multipliers) >= 0 < max(multipliers)
    logits = [analysed[label].arrays("examples.npz")["logits"] for label in (f"SNL {budget}", detached)]
    # One epoch: another program adds in another order.
    np.testing.assert_allclose(*logits, rtol=1e-3, atol=1e-3)
    kept = [
        [np.asarray(leaf) for leaf in jax.tree.leaves(stages.load_network(run).masks)]
        for run in (tuned[f"SNL {budget}"], tuned[f"Random {budget}"])
    ]
    assert any((a != b).any() for a, b in zip(*kept, strict=True))


def test_the_sampling_noise_of_networks_is_a_run_beside_their_analyses(out: Path) -> None:
    found = finished(out)
    of_network = {run.config["parents"]["network"]: run for run in of_stage(found, "sampling")}
    by_method = {run.config["variant"]["method"]: run for run in of_stage(found, "analyse")}
    assert of_network.keys() == {by_method[name].config["parents"]["network"] for name in ("full", "snl")}
    analysed = by_method["full"]
    sampled = of_network[analysed.config["parents"]["network"]]
    columns, plain = sampled.json("result.json")["groups"], analysed.json("result.json")["groups"]
    np.testing.assert_allclose(columns["gradient_norm"], plain["gradient_norm"], rtol=1e-4)
    assert (np.array(columns["gradient_norm_corrected"]) < columns["gradient_norm"]).all()
    arrays = sampled.arrays("sampling.npz")
    for name, column in FREE.items():
        np.testing.assert_allclose(np.nanmean(arrays[name], axis=1), columns[column], rtol=1e-6)
    both = results.collect([*of_stage(found, "analyse"), sampled])
    row = next(row for row in quantities.group_rows(both) if row["network"] == "Full network")
    assert row["gradient_norm_corrected"].low < row["gradient_norm_corrected"].mean < row["gradient_norm"].mean
    before = results.collect(of_stage(found, "analyse"))  # a study made before there was this stage
    assert "gradient_norm_corrected" not in quantities.group_rows(before)[0]


def test_a_control_differs_in_nothing_but_masks_and_sparsity() -> None:
    """And its random mask in the choice alone."""
    config = dataclasses.replace(
        QUICKSTART, seeds=2, controls=("matched", "random-matched"), follow=3, deepreduce=("C12", "C3")
    )
    prepared = datasets.prepare_splits(config.data, 2)
    with Progress(terminal=False) as progress:
        space = Workspace(Path("runs"), *prepared[0][:3], progress)
        reductions = study.reductions(config)
        studies.on_splits(space, prepared, 2, lambda *on: study.declare(on[0], config, [384, 0], reductions, on[1]))
    declared = [run.config for job in space.jobs for run in job.runs]
    digests = {run.digest: run.config for job in space.jobs for run in job.runs}
    by_label = {(c["variant"]["label"], c["seed"]): c for c in declared if c["stage"] == "finetune"}
    for seed, budget in itertools.product((0, 1), (384, 0)):
        chosen, matched, chance = (
            by_label[name, seed]
            for name in (f"SNL {budget}", f"Matched to SNL {budget}", f"Random {budget} after equal training")
        )
        assert chosen["train"] == matched["train"] == chance["train"]
        assert chosen["parents"]["teacher"] == matched["parents"]["teacher"] == chance["parents"]["teacher"]
        before, control = (digests[of["parents"]["start"]] for of in (chosen, matched))
        assert {n for n in before["snl"] if before["snl"][n] != control["snl"].get(n)} == {"kappa"}
        assert (control["snl"]["kappa"], control["snl"]["masks"]) == (0, "all")
        assert control["parents"] == {**before["parents"], "matched": chosen["parents"]["start"]}
        assert digests[chance["parents"]["start"]]["parents"]["matched"] == matched["parents"]["start"]
    for culled in ("DeepReDuce C12", "DeepReDuce C3"):
        control = by_label["Matched to DeepReDuce", 1]
        assert by_label[culled, 1]["train"] == control["train"]
        students = [digests[of["parents"]["start"]]["deepreduce"] for of in (by_label[culled, 1], control)]
        assert {n for n in students[0] if students[0][n] != students[1][n]} == {"culled"}
    followed = [c["variant"]["label"] for c in declared if c["stage"] == "follow" and not c["seed"]]
    assert sorted(followed) == ["Matched to SNL 0", "Matched to SNL 384", "SNL 0", "SNL 384"]


CHOICES = {
    "snl": {"kappa", "masks"},
    "senet": {"budget", "balanced"},
    "bcd": {"block", "tries", "threshold", "accept", "level", "blocks", "masks"},
}
"""What the record of a method says of its choice of ReLUs, which a control does not make."""


def test_controls_of_all_methods_differ_in_what_chooses_relus_alone() -> None:
    """From the full network on: each run of a control has the training of the one that it stands beside."""
    config = dataclasses.replace(QUICKSTART, seeds=1, methods=FURTHER)
    prepared = datasets.prepare(config.data)
    with Progress(terminal=False) as progress:
        space = Workspace(Path("runs"), *prepared[:3], progress)
        study.declare(space, config, [90], [], [0])
    digests = {run.digest: run.config for job in space.jobs for run in job.runs}
    tuned = {c["variant"]["label"]: c for c in digests.values() if c["stage"] == "finetune"}
    seen = set()
    for label in {of for of in tuned if not of.startswith("Matched")}:
        pair = tuned[label], tuned[methods.matched_label(label)]
        while pair[0]["stage"] != "train":
            chosen, control = ({**c, **c.get("snl", {}), **c.get("senet", {}), **c.get("bcd", {})} for c in pair)
            method = next((name for name in CHOICES if name in chosen), None)
            apart = {name for name in chosen.keys() | control.keys() if chosen.get(name) != control.get(name)}
            free = {"name", "variant", "parents"} | ({method} | CHOICES[method] if method else set())
            assert apart <= free
            assert (method is None) == (chosen["stage"] == "finetune")
            assert {c["parents"].get("teacher", c["parents"].get("full")) for c in pair} == {next(iter(digests))}
            seen.add(chosen["variant"]["method"])
            pair = tuple(digests[c["parents"].get("start", c["parents"].get("full"))] for c in pair)
        assert pair[0] is pair[1]
    assert seen == {"snl", *FURTHER}


def test_validation_images_and_patience_make_other_runs_and_go_together() -> None:
    config = dataclasses.replace(QUICKSTART, seeds=1, patience=2)
    prepared = [
        datasets.prepare(dataclasses.replace(config.data, validation_fraction=share, rebalance=kind))
        for share, kind in ((0.1, None), (0.1, "balanced"), (0.0, None))
    ]
    held_out, balanced, plain = prepared
    assert held_out.validation is not None
    assert balanced.validation is not None
    counts = held_out.train.group_counts, held_out.validation.group_counts
    np.testing.assert_array_equal(counts[0] + counts[1], plain.train.group_counts)
    np.testing.assert_allclose(counts[1], plain.train.group_counts / 10, atol=1)
    np.testing.assert_array_equal(held_out.validation.mean, held_out.train.mean)
    assert np.ptp(balanced.train.group_counts) <= 1
    assert held_out.record["validation_fraction"] == 0.1
    assert not {"validation_fraction", "validation_count"} & set(plain.record)
    with Progress(terminal=False) as progress:
        space = Workspace(Path("runs"), *held_out[:3], progress, validation=held_out.validation)
        full = [stages.train_full(space, config.model, config.train, [0], patience)[0] for patience in (0, 2)]
    assert [run.config.get("patience") for run in full] == [None, 2]
    assert full[0].digest != full[1].digest
    with pytest.raises(JaxfairError, match=r"share of validation images 0\.0; give both, or neither"):
        study.check(config, plain.train)


def test_data_controls_are_the_tightest_network_on_other_data() -> None:
    """And change no run of the study."""
    config = dataclasses.replace(QUICKSTART, seeds=2, controls=("matched", "random-matched"), deepreduce=("C3",))
    config = dataclasses.replace(config, methods=("senet",))
    found = {}
    for kind in (None, "balanced"):
        prepared = datasets.prepare_splits(dataclasses.replace(config.data, rebalance=kind), 2)
        with Progress(terminal=False) as progress:
            space = Workspace(Path("runs"), *prepared[0][:3], progress)
            studies.on_splits(space, prepared, 2, lambda *on: study.declare(on[0], config, [384, 18], [], on[1]))
        found[kind] = [run.config for job in space.jobs for run in job.runs]
    labels = {c["variant"]["label"] for c in found["balanced"]}
    assert labels == {"Full network", "SNL 18", "Matched to SNL 18"}
    assert {c["data"].get("rebalance") for c in found[None]} == {None}
    of = [
        {
            (c["stage"], c["variant"]["label"], c["seed"]): {n: c.get(n) for n in ("train", "snl", "analysis")}
            for c in some
        }
        for some in (found["balanced"], found[None])
    ]
    assert of[0].items() <= of[1].items()
    with pytest.raises(JaxfairError, match="counted from the control matched"):
        study.check(dataclasses.replace(config, data_controls=("balanced",), controls=()), prepared[0].train)


def test_fine_tuning_may_be_without_a_teacher(tmp_path: Path) -> None:
    """And is followed so, too."""
    options = ("--deepreduce", "--snl-finetune.distillation-weight=0", "--follow=1")
    assert call(tmp_path, *options) == 0
    stages = [run.config["stage"] for run in finished(tmp_path).values()]
    assert stages.count("finetune") == stages.count("follow") == 1
    assert (tmp_path / "report" / "followed.csv").read_text().count("\n") == 1 + 1
    assert (tmp_path / "report" / "followed_groups.csv").read_text().count("\n") == 1 + 10


@pytest.mark.slow  # a study of 38 runs
def test_controls_and_splits_reach_the_results(tmp_path: Path) -> None:
    """Two seeds have splits of their own, and a long fine-tuning is seen."""
    options = ("--seeds=2", "--controls", "matched", "random-matched", "--follow=3", "--analysis.max-steps=1")
    options += ("--data-controls", "balanced", "--data.validation-fraction=0.1", "--patience=2")
    assert call(tmp_path, *options, "--deepreduce", "--analysis.no-linearized-distance") == 0
    found = finished(tmp_path)
    ends = {run.config["variant"]["label"]: run.json("result.json") for run in of_stage(found, "linearize")}
    assert ends["Matched to SNL 384"]["epochs"] == ends["SNL 384"]["epochs"]
    assert ends["Matched to SNL 384"]["relu_count"] == ends["Matched to SNL 384"]["unit_count"] == 768
    made = results.collect([run for run in found.values() if run.config["stage"] in ("analyse", "sampling", "follow")])
    chosen = [run.json("result.json")["epoch"] for run in of_stage(found, "train")]
    assert set(chosen) <= {1, 2, 3}
    assert made.variants[0].by_group["validation_accuracy"].shape == (2, 10)
    balanced = made.rebalanced["balanced"]
    assert {variant.label for variant in balanced.variants} == {"Full network", "SNL 384", "Matched to SNL 384"}
    assert (balanced.group == made.group).all()
    for one, other in zip(balanced.variants[0].correct, made.variants[0].correct, strict=True):
        assert (np.isfinite(one) == np.isfinite(other)).all()  # the same images are tested, in the same order
    assert (tmp_path / "report" / "imbalance.csv").read_text().count("\n") == 3
    assert (tmp_path / "report" / "imbalance_groups.csv").read_text().count("\n") == 1 + 2 * 10
    assert (made.splits, made.matched) == (2, True)
    by_name = {variant.label: variant for variant in made.variants}
    control = by_name["SNL 384"].control
    assert control is not None
    assert control.label == "Matched to SNL 384"
    assert by_name["Matched to SNL 384"].control is by_name["Full network"].control is None
    assert np.isnan(by_name["SNL 384"].correct).any()  # images that one of the seeds does not test
    for variant in made.variants:
        np.testing.assert_allclose(np.nanmean(variant.correct, axis=1), variant.accuracy)
    assert {len(of.epochs) for of in made.followed} == {3}
    assert [*made.followed[0].epochs] == [1, 2, 3]


def test_networks_that_were_trained_alike_have_one_control() -> None:
    assert methods.matched_label("SNL 90") == methods.matched_label("Random 90 after equal training")
    culled = methods.matched_label("DeepReDuce C12"), methods.matched_label("DeepReDuce C3+T")
    assert set(culled) == {"Matched to DeepReDuce"}
    assert methods.matched_label("DeepReDuce C12+a0.5") == "Matched to DeepReDuce a0.5"  # of another size
    assert methods.matched_label("DeepReDuce C12 (from base)") == "Matched to DeepReDuce (from base)"


def test_students_that_do_not_start_fresh_say_so_in_their_names() -> None:
    """And so do their controls, which start there too."""
    config = dataclasses.replace(QUICKSTART, seeds=1, budgets=(), deepreduce=("C12", "C3"), mitigations=("cvar",))
    prepared, made = datasets.prepare(config.data), {}
    for start in ("fresh", "base"):
        config = dataclasses.replace(config, deepreduce_start=start)
        with Progress(terminal=False) as progress:
            space = Workspace(Path("runs"), *prepared[:3], progress)
            study.declare(space, config, [], study.reductions(config), [0])
        made[start] = [run.config for job in space.jobs for run in job.runs]
    fresh = {"DeepReDuce C12", "DeepReDuce C3", "Matched to DeepReDuce"}
    labels = {start: {c["variant"]["label"] for c in of if c["stage"] == "linearize"} for start, of in made.items()}
    assert labels == {"fresh": fresh, "base": {f"{label} (from base)" for label in fresh}}
    tuned = {c["variant"]["label"] for c in made["base"] if c["stage"] == "finetune"}
    for of in (c["variant"] for c in made["base"] if c["variant"]["method"] in ("deepreduce", "mitigated")):
        assert results.declared_control(of) in tuned


def is_early(run: Run, space: Workspace) -> bool:
    """Return whether a run is of those that studies had before there were later stages."""
    stage, network = run.config["stage"], run.config.get("parents", {}).get("network")
    of_full = network in space.known and space.known[network].config["stage"] == "train"
    return stage != "gradients" and (stage != "sampling" or of_full)


def test_one_split_makes_the_runs_that_studies_had_before() -> None:
    """Their digests: with ``--splits one`` all seeds are of split 0, and otherwise the first one alone."""
    prepared = datasets.prepare_splits(QUICKSTART.data, 3)
    assert [p.record["seed"] for p in prepared] == [0, 1, 2]
    assert str(prepared[0].record) == str(datasets.prepare(QUICKSTART.data).record)
    assert len({p.record["fingerprint"]["test"] for p in prepared}) == 3
    with Progress(terminal=False) as progress:
        space = Workspace(Path("runs"), *prepared[0][:3], progress)
        digests = {}
        for which in (prepared[:1], prepared):
            jobs = dataclasses.replace(space, jobs=[], known={})
            studies.on_splits(jobs, which, 3, lambda *on: study.declare(on[0], DIGITS, [18], [], on[1]))
            declared = [run for job in jobs.jobs for run in job.runs if is_early(run, jobs)]
            digests[len(which)] = [{run.digest for run in declared if run.config["seed"] == seed} for seed in range(3)]
    same = [one == of for one, of in zip(digests[1], digests[3], strict=True)]
    assert same == [True, False, False]
    every = "".join(sorted(set().union(*digests[3])))  # as they were before there were later stages and options
    assert hashlib.sha256(every.encode()).hexdigest().startswith("07829dec173139f8")
