"""The hardware study end to end on two profiles: controls, bundles that may and may not be merged, resuming."""

import dataclasses
import html
import json
import re
import shutil
import tarfile
import threading
import time
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli
from experiments.hardware import bundles, child, nodes, report
from experiments.hardware import results as hardware_results
from experiments.hardware import study as hardware
from experiments.hardware.__main__ import main
from experiments.hardware.bundles import Bundle
from experiments.hardware.results import Comparison, Hardware
from experiments.hardware.settings import PRESETS
from experiments.reporting.sampling import FREE
from experiments.running import datasets
from experiments.running.settings import DataConfig, Execution
from jaxfair.errors import JaxfairError
from jaxfair.hardware import PLAIN_DIGESTS
from jaxfair.losses import cross_entropy
from jaxfair.networks.architectures import CNN
from jaxfair.networks.network import init, predict
from jaxfair.runs import Run
from tests.hardware_study import PROFILES, make_hardware
from tests.hardware_study import changed as changed_series
from tests.study import TINY_HARDWARE as OPTIONS
from tests.study import hardware_made_once, sketch, told


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished study; tests only read it."""
    return hardware_made_once(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def results(study: Path) -> Hardware:
    return hardware_results.collect(bundles.read(study))


def of(results: Hardware, title: str) -> Comparison:
    return next(comparison for comparison in results.comparisons if comparison.title == title)


def test_every_training_ran_on_every_profile_and_with_its_controls(results: Hardware) -> None:
    assert [comparison.title for comparison in results.comparisons] == ["plain", "alignment"]
    for comparison in results.comparisons:
        assert [series.profile for series in comparison.profiles] == ["bf16"]
        assert [series.control for series in comparison.ulps] == ["ulp1", "ulp2"]
        others = ["repeat", "order", "batch"] if comparison.title == "plain" else []
        assert [series.control for series in comparison.others] == others
    assert {series.kind for series in of(results, "plain").profiles} == {"emulated"}
    for comparison in results.comparisons:
        reference = comparison.reference
        assert {"gradient_norm", "top_eigenvalue", *FREE.values()} <= reference.by_group.keys()
        for name, column in FREE.items():
            np.testing.assert_allclose(
                np.nanmean(reference.parts[name], axis=-1), reference.by_group[column], rtol=1e-6
            )
        assert not any(series.parts for series in comparison.every[1:])


def test_larger_batches_differ_in_their_size_and_rate_only(study: Path) -> None:
    plain, larger = (
        next(m for m in bundles.read(study)[0].members if (m.control, m.mitigation) == (control, "none"))
        for control in ("none", "batch")
    )
    for ours, theirs in zip(plain.trained, larger.trained, strict=True):
        assert ours.config["data"] == theirs.config["data"]
        assert ours.config["model"] == theirs.config["model"]
        assert ours.json("start.json")["initial"] == theirs.json("start.json")["initial"]
        twice = {name: 2 * ours.config["train"][name] for name in ("batch_size", "learning_rate")}
        assert theirs.config["train"] == ours.config["train"] | twice
    assert larger.steps == []


@pytest.mark.slow  # a study of its own: SNL on every profile takes longer than all the rest
def test_linearization_runs_on_every_profile_too(tmp_path: Path) -> None:
    descent = ("--budgets", "0.5", "--snl.learning-rate=0.02", "--snl.kappa=1e-2", "--snl-finetune.epochs=1")
    assert main([*OPTIONS, "--seeds=1", *descent, "--out", str(tmp_path)]) == 0
    made = hardware_results.collect(bundles.read(tmp_path))
    linearized = made.comparisons[-1]
    assert linearized.title.startswith("SNL ")
    assert [series.profile for series in linearized.profiles] == ["bf16"]
    assert (linearized.profiles[0].distance > 0).all()


def test_one_thread_is_no_profile_where_it_is_all(capsys: pytest.CaptureFixture[str]) -> None:
    """It was refused after all runs of the profiles before it, though only a preset had asked for it."""
    preset, said = (
        PRESETS["quickstart"],
        "Profile cpu-1-thread is left out: this study computes with one thread anyway.\n",
    )
    one, two = (dataclasses.replace(preset, execution=Execution(threads=count)) for count in (1, 2))
    assert hardware.possible(two, ["x"]) == two
    for named in (["--profiles", "cpu-1-thread"], ["--profiles=cpu"]):
        assert hardware.possible(one, ["x", *named]) == one
    assert capsys.readouterr().err == ""
    assert hardware.possible(one, ["x"]).profiles == ("cpu", "cpu-avx", "cpu-sse4.2", "tf32", "bf16", "fp16")
    assert capsys.readouterr().err == said
    assert main(["--preset", "quickstart", "--threads", "1", "--dry-run", "--seeds", "1"]) == 0
    assert said in (found := capsys.readouterr()).err
    assert "cpu-1-thread" not in found.out


def test_a_repeat_has_the_same_bits_and_nothing_else_has(results: Hardware) -> None:
    for comparison in results.comparisons:
        for series in comparison.every:
            same = series.control == "repeat" or series is comparison.reference
            assert series.same_bits.all() == same
            assert (series.distance == 0).all() == same


def test_a_rounding_is_seen_at_once_and_one_ulp_only_later(results: Hardware) -> None:
    """After one step bf16, whose unit is 2^-8, is further away than one unit of 2^-24 in some weights."""
    plain = of(results, "plain")
    (emulated,), ulps = plain.profiles, plain.ulps
    assert results.steps.tolist() == [0, 1, 2, 25]
    assert emulated.curve is not None
    assert (emulated.curve[:, 0] == 0).all()  # the same initial parameters
    for ulp in ulps:
        assert ulp.curve is not None
        assert (ulp.curve[:, 0] > 0).all()
        assert (emulated.curve[:, 1] > 100 * ulp.curve[:, 1]).all()


def test_the_reports_numbers_are_those_of_the_runs(study: Path, results: Hardware) -> None:
    plain = of(results, "plain")
    series = plain.profiles[0]
    examples = [run.arrays("examples.npz") for run in bundles.read(study)[1].members[0].analysed]
    for seed, example in enumerate(examples):
        right = example["logits"].argmax(-1) == example["label"]
        expected = [right[example["group"] == g].mean() for g in range(len(results.groups.names))]
        np.testing.assert_allclose(series.by_group["accuracy"][seed], expected, rtol=1e-12)
    assert (study / "report" / "report.html").is_file()


def test_a_second_call_makes_no_run(study: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (study / "runs").rglob("DONE")}
    assert main([*OPTIONS, "--out", str(study)]) == 0
    assert {path: path.stat().st_mtime_ns for path in (study / "runs").rglob("DONE")} == before
    assert "train on" not in capfd.readouterr().err


def test_a_profile_fails_alone_and_the_plain_cpu_is_probed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each child is told what the plain CPU computes. Without the reference there is no report."""
    told, ends = list[str](), [0, 0, 1]

    def probe(base: Mapping[str, str]) -> dict[str, str]:
        told.append("probed")
        return {"gradient": "abc"}

    def children(commands: Sequence[tuple[list[str], Mapping[str, str]]]) -> list[int]:
        told.extend(environment[PLAIN_DIGESTS] for _, environment in commands)
        return [ends[len(told) - 2]]

    monkeypatch.setattr(hardware.hardware, "plain_digests", probe)
    monkeypatch.setattr(hardware.processes, "children", children)
    monkeypatch.setattr(hardware.report, "write", lambda *_, missing, **__: told.extend(missing))
    plan = hardware.Study(out=tmp_path, profiles=("cpu", "cpu-avx", "cpu-opt0"))
    with pytest.raises(JaxfairError, match="not of all profiles: 'cpu-opt0' ended with status 1"):
        hardware.run(plan, ["program"])
    told_each = ["probed", *3 * ['{"gradient": "abc"}']]
    assert told == [*told_each, "Profile cpu-opt0 is missing, since its runs failed."]
    assert json.loads((tmp_path / "profiles.json").read_text()) == ["cpu", "cpu-avx"]
    told.clear()
    ends[0] = -9
    with pytest.raises(JaxfairError, match=r"without the reference: profile 'cpu' was killed \(SIGKILL\)"):
        hardware.run(plan, ["program"])
    assert told == told_each


def test_studies_of_other_settings_in_one_folder_do_not_read_each_others_profiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun at once; each report is of the runs of its own command."""
    both, shown = threading.Barrier(2), dict[str, list[str]]()

    def make(study: hardware.Study, made_at: Sequence[nodes.Place], options: Sequence[str]) -> dict[str, str]:
        for place in made_at:
            (place.folder / f"profile-{place.name}.json").write_text(str(study.seeds))
            time.sleep(0.1)  # in which the other one would write its own
        return {}

    def write(folders: Sequence[Path], _: Path, command: Sequence[str], **__: object) -> None:
        shown[command[-1]] = [file.read_text() for file in sorted(folders[0].glob("profile-*.json"))]

    def run(seeds: int) -> None:
        both.wait()
        plan = hardware.Study(out=tmp_path, seeds=seeds, profiles=("cpu", "bf16"))
        hardware.run(plan, ["program", str(seeds)])

    monkeypatch.setattr(hardware, "_make_all", make)
    monkeypatch.setattr(hardware.report, "write", write)
    threads = [threading.Thread(target=run, args=(seeds,)) for seeds in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shown == {"1": ["1", "1"], "2": ["2", "2"]}
    assert not list(tmp_path.glob("*.lock"))


def test_the_report_has_the_title_and_the_reference_that_are_asked_for(study: Path) -> None:
    """Both are of the report alone: no run is made again."""
    before = {path: path.stat().st_mtime_ns for path in (study / "runs").rglob("DONE")}
    counts = bundles.read(study)[0].members[0].analysed[0].json("result.json")["groups"]
    largest = max(zip(counts["train_count"], counts["name"], strict=True), key=lambda pair: pair[0])[1]
    for options, title, name in (
        (("--title", "Mine", "--reference", "4"), "Mine", "4"),
        ((), "Hardware: does the machine change who the model fails, beyond noise? (Handwritten digits)", largest),
    ):
        assert main([*OPTIONS, "--out", str(study), *options]) == 0
        text = (study / "report" / "report.html").read_text()
        assert f"<h1>{title}</h1>" in text
        assert f"The reference group is {name}." in text
        assert str(study) not in text
        record = json.loads((study / "report" / "runs.json").read_text())
        assert record["answer"].startswith("On other hardware, no")
        assert all(html.escape(paragraph) in text for paragraph in record["answer"].split("\n\n"))
    assert {path: path.stat().st_mtime_ns for path in (study / "runs").rglob("DONE")} == before


def test_a_packed_study_can_be_merged_with_another(study: Path, tmp_path: Path) -> None:
    packed = tmp_path / "elsewhere.tar.gz"
    assert main(["pack", str(study), str(packed)]) == 0
    with mock.patch("experiments.reporting.drawing.save", sketch), mock.patch.object(bundles, "check_apart"):
        given = ["merge", str(study), str(packed), "--title", "Mine", "--reference", "4"]  # as of two machines
        assert main([*given, "--out", str(tmp_path / "both")]) == 0
    text = (tmp_path / "both" / "report" / "report.html").read_text()
    assert "<h1>Mine</h1>" in text
    assert "The reference group is 4." in text
    assert [path.name for path in (tmp_path / "both").iterdir()] == ["report"]
    merged = bundles.read(study) + bundles.read(bundles.unpack(packed, tmp_path / "elsewhere"))
    found = of(hardware_results.collect(merged), "plain")
    assert [series.profile for series in found.profiles] == ["bf16", "cpu", "bf16"]
    assert len({series.label for series in found.profiles}) == 3
    assert found.profiles[1].same_bits.all()  # the reference itself, from the archive


def test_kinds_of_machine_are_told_what_finds_them() -> None:
    """The second has no controls, and each child is the study that the parent reads."""
    given = ["--executor", "slurm", "--nodes", "a=gpu,gres=gpu:a100:2,constraint=x", "b=cpu", "--out", "both"]
    first, second = nodes.places(cli.parse(PRESETS, "x", "y", given))
    assert [(first.name, first.profile.name), (second.name, second.profile.name)] == [("a", "gpu"), ("b", "cpu")]
    for place in (first, second):
        told = cli.parse(PRESETS, "x", "y", [*given, *place.options])
        wishes = {"gres": "gpu:a100:2", "constraint": "x"} if place is first else {}
        assert told == dataclasses.replace(
            place.study, execution=dataclasses.replace(place.study.execution, **wishes), nodes=()
        )
        assert told.out == Path("both") / place.name
    assert second.study.ulps == 0
    assert second.study.controls == ()
    assert first.study.ulps > 0


@pytest.mark.slow  # three more processes
def test_kinds_of_machine_are_studies_of_their_own_in_one_report(
    study: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Finished runs are found there; a machine that has not its profile fails alone."""
    for name in ("plain", "coarse"):
        shutil.copytree(study / "runs", tmp_path / name / "runs")
    options = told(OPTIONS, "--seeds=1", "--out", str(tmp_path), "--nodes", "plain=cpu", "coarse=bf16", "lost=gpu")
    with mock.patch("experiments.reporting.drawing.save", sketch):
        assert main(options) == 1
    said = capfd.readouterr().err
    assert "The report is not of all nodes: 'lost' ended with status 1" in said
    assert "train on" not in said
    record = json.loads((tmp_path / "report" / "runs.json").read_text())
    assert "Node lost is missing, since its runs failed." in record["warnings"]
    found = of(hardware_results.collect(bundles.read(tmp_path / "plain") + bundles.read(tmp_path / "coarse")), "plain")
    assert [series.profile for series in found.profiles] == ["bf16"]
    assert [series.control for series in found.ulps] == ["ulp1", "ulp2"]
    first = of(hardware_results.collect(bundles.read(study)), "plain").profiles[0]
    np.testing.assert_array_equal(found.profiles[0].distance, first.distance[:1])
    assert main([*options, "--dry-run"]) == 0
    assert "coarse: bfloat16 products (emulated)" in capfd.readouterr().err


def test_a_study_and_its_packed_file_are_one(study: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", str(study), str(tmp_path / "packed.tar")]) == 0
    assert re.search(r"Packed: .*packed.tar, \d+ runs of 2 profiles", capfd.readouterr().out)
    assert main(["merge", str(study), str(tmp_path / "packed.tar"), "--out", str(tmp_path / "both")]) == 1
    said = capfd.readouterr().err
    assert f"'{study}' and '{tmp_path / 'packed.tar'}' hold the same runs; give each study once" in said
    assert not any((tmp_path / "both").iterdir())


def test_a_file_that_is_no_packed_study_is_not_replaced(
    study: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "thesis.tar"
    kept.write_text("mine")
    assert main(["pack", str(study), str(kept)]) == 1
    assert "is there and no packed study; choose another name" in capfd.readouterr().err
    assert kept.read_text() == "mine"
    assert main(["pack", str(study), str(tmp_path / "packed.zip")]) == 1
    assert "packed as NAME.tar or NAME.tar.gz, not 'packed.zip'" in capfd.readouterr().err
    assert main(["pack", str(study), str(tmp_path / "packed.tgz")]) == 0
    assert main(["pack", str(study), str(tmp_path / "packed.tgz")]) == 0  # its own is


def test_packed_files_of_one_name_stay_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / machine / "gpu.tar.gz" for machine in ("a", "b")]
    for file in files:
        (file.parent / "study").mkdir(parents=True)
        (file.parent / "study" / "machine").write_text(file.parent.name)
        with tarfile.open(file, "w:gz") as archive:
            archive.add(file.parent / "study" / "machine", "machine")
    given: list[tuple[str, str]] = []
    monkeypatch.setattr(
        hardware.report,
        "write",
        lambda folders, *_, **__: given.extend((of.name, (of / "machine").read_text()) for of in folders),
    )
    assert main(["merge", *map(str, files), "--out", str(tmp_path / "both")]) == 0
    assert given == [("gpu", "a"), ("gpu", "b")]


def changed(study: Path, copy: Path, change: Callable[[Run], None]) -> list[Bundle]:
    """Return a study, and a copy of it with one plain training of its reference changed and sealed again."""
    shutil.copytree(study, copy)
    first = bundles.read(study)[0]
    run = Run(copy / "runs" / first.members[0].trained[0].path.name, {})
    change(run)
    run.finish()
    return [first, bundles.read(copy)[0]]


def edit(name: str, *keys: str) -> Callable[[Run], None]:
    """Return what replaces one value of a JSON file of a run."""

    def change(run: Run) -> None:
        whole = value = json.loads((run.path / name).read_text())
        for key in keys[:-1]:
            value = value[key]
        value[keys[-1]] = "other"
        run.write_json(name, whole)

    return change


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (edit("config.json", "data", "fingerprint", "train"), "the data"),
        (edit("config.json", "model", "width"), "the network"),
        (edit("config.json", "train", "learning_rate"), "the training"),
        (edit("config.json", "seed"), "the seeds"),
        (edit("start.json", "initial"), "the initial parameters"),
        (edit("start.json", "order"), "the order of the data"),
    ],
)
def test_runs_that_began_differently_are_refused(
    study: Path, tmp_path: Path, change: Callable[[Run], None], what: str
) -> None:
    both = changed(study, tmp_path / "other", change)
    with pytest.raises(JaxfairError, match=f"differs from .* in {what}: .*other"):
        bundles.check(both)


def test_other_versions_have_to_be_allowed(study: Path, tmp_path: Path) -> None:
    both = changed(study, tmp_path / "other", edit("environment.json", "versions", "jax"))
    with pytest.raises(JaxfairError, match=r"Versions of jax differ: .*allow-versions"):
        bundles.check(both)
    (said,) = bundles.check(both, allow_versions=True)
    assert said.startswith("Versions of jax differ: ")
    assert said.endswith("other.")


def test_emulation_may_differ_between_bundles(study: Path) -> None:
    assert bundles.check(bundles.read(study)) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--profiles", "cpu", "cpu-axv"), "did you mean 'cpu-avx'"),
        (("--profiles", "cpu", "cpu"), "different profiles"),
        (("--seeds", "0"), "at least one seed"),
        (("--controls", "order", "order"), "--controls names order order; give each control once."),
        (("--train.batch-size", "600"), "batches of 1200, and there are"),
        (("--steps", "3", "2"), "The steps to look at are [3, 2]"),
        (("--steps", "0", "2"), "The steps to look at are [0, 2]"),
        (("--profiles", "tpu"), "needs a tpu"),
        (("--nodes", "a"), "'a' is no kind of machine; write NAME=PROFILE"),
        (("--nodes", "a=cpu,speed=9"), "'a=cpu,speed=9' is no kind of machine"),
        (("--nodes", "../a=cpu"), "'../a=cpu' is no kind of machine"),
        (("--nodes", "a=cpu,gres=gpu:1"), "'a=cpu,gres=gpu:1' says gres, which only --executor slurm heeds"),
        (("--nodes", "a=cpu", "a=bf16"), "The kinds of machine are called a, a"),
        (("--nodes", "a=cpu-axv"), "did you mean 'cpu-avx'"),
        (("--nodes", "a=cpu", "--nodes", "b=bf16"), "The option --nodes is given twice"),
        (("--profiles", "cpu", "--profiles", "bf16"), "The option --profiles is given twice"),
        (("--steps", "1", "--steps", "2"), "The option --steps is given twice"),
        (("--nodes", "a=cpu", "--profiles", "bf16"), "--profiles decides nothing in this study; leave it out, or name"),
        (("--train.mitigation.rate", "5"), "--train.mitigation.rate decides nothing in this study; leave it out."),
        (
            ("--train.mitigation.weight=5", "--no-mitigation"),
            "--train.mitigation.weight decides nothing in this study; leave it out, or",
        ),
        (("--snl.kappa", "1"), "--snl.kappa decides nothing in this study; leave it out, or give --budgets."),
        (("--dry-run", "--only", "xx"), "--only decides nothing in this study; leave it out, or leave out --dry-run"),
        (("--devices", "2"), "compares bits, which sums over several devices change"),
        (("--gpu-kernels", "nchw"), "profiles say with which kernels a GPU computes"),
        (("--profiles", "cpu", "--reference", "ten"), "no group 'ten' to be the reference; the groups are 0, 1, 2,"),
        (("--profiles", "cpu", "--budgets", "769"), "The ReLU budget is 769, but the network has 768 units"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(
    tmp_path: Path, options: tuple[str, ...], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(told(OPTIONS, *options, "--out", str(tmp_path))) == 1
    message = capfd.readouterr().err
    assert said in message
    assert "Traceback" not in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--budgets -1", "The ReLU budget is -1"),
        ("--model.stage-sizes 1 1 1 1 1", "too small for 5 stages"),
        ("--train.batch-size 5000", "The batch size is 5000"),
        ("--train.mitigation.weight -1", "the alignment's weight -1.0"),
        ("--train.mitigation.method cvar", "--train.mitigation.method is cvar; leave it at none"),
        ("--data.validation-fraction 0.1", "has no use for validation images"),
        ("--snl.kappa 0", "SNL has kappa 0.0"),
        ("--snl-finetune.epochs -1", "Training is to last -1 epochs"),
        ("--seeds-at-once 0", "seeds_at_once is 0"),
    ],
)
def test_settings_are_checked_on_the_data(options: str, said: str) -> None:
    study = cli.parse(PRESETS, "x", "y", [*OPTIONS, *options.split()])
    with pytest.raises(JaxfairError, match=said):
        hardware.check_on(study, datasets.prepare(study.data).train)


def test_help_shows_no_option_that_only_the_study_uses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert "--profiles" in shown
    assert "child" not in shown


@pytest.mark.parametrize("known_by", ["the study", "the record"])
def test_the_segment_is_of_the_data_that_the_study_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known_by: str
) -> None:
    """The configuration of a run does not say where the data are, and nothing is searched for."""
    images = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", images=images, label=np.arange(80) % 2, group=np.arange(80) // 40)
    config = DataConfig("npz", path=tmp_path / "mine.npz")
    prepared = datasets.prepare(config)
    results = make_hardware(group_names=("0", "1"), train_count=(32, 32), test_count=(8, 8), profiles=PROFILES[:1])
    for part in ("reference", "profiles"):
        record: Any = types.SimpleNamespace(
            config={"data": prepared.record}, json=lambda _: {"data_source": prepared.source}
        )
        results = changed_series(results, part, 0, {}, trained=(record,))
    network = init(CNN(num_classes=2), (8, 8, 1), 0)
    monkeypatch.setattr(report, "load_network", lambda run: network)
    found = report.segment(results, config if known_by == "the study" else None)
    logits = jnp.asarray(predict(network, prepared.test))
    loss, group = np.asarray(cross_entropy(logits, prepared.test.label)), np.asarray(prepared.test.group)
    np.testing.assert_allclose(found.losses[0], [loss[group == g].mean() for g in range(2)], rtol=1e-5)


@pytest.mark.parametrize("record", ["{}", "[]", "null", '{"members": [{}]}', '{"members": 1, "profile": "cpu"}'])
def test_a_damaged_list_of_runs_is_refused(record: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "profiles.json").write_text('["cpu", "cpu"]')
    (tmp_path / "profile-cpu.json").write_text(record)
    assert main(["pack", str(tmp_path), str(tmp_path / "packed.tar")]) == 1
    assert "has no finished runs of profile 'cpu'; run the study first." in capfd.readouterr().err
    (tmp_path / "profiles.json").write_text("null")
    assert main(["merge", str(tmp_path), "--out", str(tmp_path / "both")]) == 1
    assert "holds no hardware study" in capfd.readouterr().err
    whole = '{"profile": "cpu", "label": "CPU", "kind": "native", "reference": true, "members": []}'
    (tmp_path / "profiles.json").write_text('["cpu", "cpu"]')
    (tmp_path / "profile-cpu.json").write_text(whole)
    assert len(bundles.read(tmp_path)) == 1


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JaxfairError, match="holds no hardware study"):
        bundles.read(tmp_path)
    (tmp_path / "x.tar").write_text("no archive")
    with pytest.raises(JaxfairError, match="no study's folder and cannot be unpacked: it is no tar"):
        bundles.unpack(tmp_path / "x.tar", tmp_path / "to")
    numbers = np.random.default_rng(0).integers(0, 256, 100_000, np.uint8).tobytes()
    (tmp_path / "data").write_bytes(numbers)
    with tarfile.open(tmp_path / "whole.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "data", "data")
    (tmp_path / "cut.tar.gz").write_bytes((tmp_path / "whole.tar.gz").read_bytes()[:50_000])
    with tarfile.open(tmp_path / "two.tar", "w") as archive:
        archive.add(tmp_path / "data", "data")
        whole = archive.offset
        archive.add(tmp_path / "data", "more")
    bundles.unpack(tmp_path / "two.tar", tmp_path / "whole")
    (tmp_path / "cut.tar").write_bytes((tmp_path / "two.tar").read_bytes()[:whole])
    for name in ("cut.tar.gz", "cut.tar"):
        with pytest.raises(JaxfairError, match="cannot be unpacked: it is no tar archive, or a damaged one"):
            bundles.unpack(tmp_path / name, tmp_path / "to")


def test_a_study_is_merged_with_others_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    study = str(tmp_path / "study")
    assert main(["merge", study, f"{tmp_path}/./study", "--out", str(tmp_path / "both")]) == 1
    assert "is given more than once; give each once" in capfd.readouterr().err


def test_an_interrupted_profile_leaves_the_sentence_to_its_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A terminal tells both, and once is enough. A profile that fails says why itself."""
    for error, status, said in ((KeyboardInterrupt(), 130, ""), (JaxfairError("Why."), 1, "error: Why.\n")):
        monkeypatch.setattr(hardware, "make", mock.Mock(side_effect=error))
        assert child.main(["cpu", *OPTIONS, "--out", str(tmp_path)]) == status
        assert capfd.readouterr().err == said


def test_a_merge_refuses_its_place_before_anything_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bundles, "unpack", lambda *_: pytest.fail("there was work before"))
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "mine").touch()
    assert main(["merge", "a.tar", "b.tar", "--out", str(tmp_path)]) == 1
    assert "report' holds something else than a report, which would be lost; " in capfd.readouterr().err
