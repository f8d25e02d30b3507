"""A dry run names exactly the runs that the study makes, and writes nothing."""

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from experiments.hardware import __main__ as hardware
from experiments.linearization import __main__ as linearization
from experiments.linearization.settings import PRESETS, QUICKSTART
from experiments.linearization.study import check, declare, deepreduce_counts, reductions
from experiments.reporting.verdicts import RANKED
from experiments.running import datasets, plan, records, stages
from experiments.running.progress import Progress
from experiments.running.records import Job, Workspace
from experiments.running.settings import DataConfig
from jaxfair import runs
from jaxfair.data import sources
from jaxfair.errors import JaxfairError
from tests.study import RUNS, TINY_HARDWARE, call, finished, hardware_made_once, made_once


def test_it_makes_nothing_and_counts_every_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path / "study", "--dry-run") == 0
    assert not (tmp_path / "study").exists()
    assert f"0 of {sum(RUNS.values())} runs are finished" in capsys.readouterr().out


def test_a_finished_study_has_nothing_left(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every planned run is found under its digest, which holds its parents'; new ones are counted beside them."""
    out = made_once(tmp_path_factory.getbasetemp())
    before = finished(out)
    assert call(out, "--dry-run") == 0
    total = sum(RUNS.values())
    assert f"{total} of {total} runs are finished; the others take about 0 s." in capsys.readouterr().out
    assert call(out, "--dry-run", "--controls", "finetuned") == 0
    assert f"{total} of {total + 2} runs are finished" in capsys.readouterr().out
    assert finished(out).keys() == before.keys()


def test_a_finished_hardware_study_has_nothing_left(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The runs of all profiles, which processes of their own make, are planned in this one."""
    out = hardware_made_once(tmp_path_factory.getbasetemp())
    total = len(finished(out))
    assert hardware.main([*TINY_HARDWARE, "--out", str(out), "--dry-run"]) == 0
    assert f"{total} of {total} runs are finished; the others take about 0 s." in capsys.readouterr().out
    assert hardware.main([*TINY_HARDWARE, "--out", str(tmp_path / "new"), "--dry-run", "--reference", "0"]) == 0
    assert f"0 of {total} runs are finished" in capsys.readouterr().out
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("study", [linearization, hardware])
def test_runs_can_be_listed_before_the_data_are_there(
    study: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By names without digests, as many as there are with data."""
    options = ["--preset", "cpu", "--out", str(tmp_path / "out"), "--dry-run", "--data.path", str(tmp_path / "later")]
    assert study.main(options) == 0
    shown = capsys.readouterr().out
    assert f"The data cannot be read: There is no file or folder {tmp_path / 'later'}" in " ".join(shown.split())
    assert "│ train-utkface-race" in shown
    assert "-seed*-*" in shown
    runs_in_all, side = {linearization: (215, 16), hardware: (75, 32)}[study]
    assert f"These are the {runs_in_all} runs for images of {side} x {side} pixels" in shown
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_with_data_that_are_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(JaxfairError, match="holds no files"):
        datasets.prepare_or_blank(DataConfig("folder", path=tmp_path / "there"))
    with pytest.raises(JaxfairError, match="did you mean"):
        datasets.prepare_or_blank(DataConfig("utkfac", path=tmp_path / "nowhere"))
    (tmp_path / "people.csv").write_text("path,label\na.png,x\n")
    (_,), absent = datasets.prepare_or_blank(
        DataConfig("table", path=tmp_path / "people.csv", images=tmp_path / "nowhere")
    )
    assert absent == f"There is no file or folder {tmp_path / 'nowhere'}; check the path."
    (blank, *more), absent = datasets.prepare_or_blank(DataConfig("npz", path=tmp_path / "nowhere", size=16))
    assert blank.train.image_shape == (16, 16, 3)
    assert absent
    assert not more


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": -16}, "The image size is -16; give 1 to 4096 pixels"),
        ({"size": 0}, "The image size is 0"),
        ({"size": 10**9}, "The image size is 1000000000"),
        ({"images": Path("x")}, "'utkface-race' takes no images"),
        ({"name": "digits", "size": 16}, "have a size of their own; .* or give --data.size None where a preset has"),
    ],
)
def test_wrong_options_do_not_wait_for_the_data(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = DataConfig(**{"name": "utkface-race", "path": tmp_path / "later", **options})
    for prepare in (datasets.prepare_or_blank, datasets.prepare):
        with pytest.raises(JaxfairError, match=message):
            prepare(config)


def test_time_left_is_work_left_at_the_speed_of_finished_runs(tmp_path: Path) -> None:
    """Two of three seeds were trained, of 100 units in 8 s together and 60 in 4: 12 s / 160, times 100 left."""
    jobs = []
    for seed, work, seconds in ((0, 100, 16.0), (1, 60, 8.0), (2, 100, None)):
        config = {"stage": "train", "name": f"{seed}", "variant": {"label": "Full network"}}
        run = runs.start(tmp_path, config)
        if seconds is not None:
            run.write_json("environment.json", {"seconds": seconds, "seconds_shared_by_runs": 2})
            run.finish()
        jobs.append(Job([run], work, "train", lambda _: []))
    train_set, test_set, record, *_ = datasets.prepare(QUICKSTART.data)
    space = Workspace(tmp_path, train_set, test_set, record, Progress(terminal=False), jobs=jobs)
    left = records.left(jobs)
    speeds = plan.speed(space, QUICKSTART.model, QUICKSTART.train, left)
    assert speeds["train"] == pytest.approx(12 / 160)
    assert 0 < speeds["analyse"] < 1  # timed here: seconds for a forward pass of one small image
    assert plan.rows(jobs, speeds, left) == [("train", "Full network", 3, 2, pytest.approx(7.5))]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_planned(name: str, tmp_path: Path) -> None:
    """On the digits, made as large as the preset's network needs; settings that a stage would refuse are found."""
    study = PRESETS[name]
    digits, test_set, record, source, _ = datasets.prepare(QUICKSTART.data)
    budgets = [100, 10]
    check(study, digits.take(np.arange(len(digits) * 20) % len(digits)))
    assert datasets.shares(study.data, sources.load("digits")) in ((), (0.3,) * 10)  # whatever number of classes
    space = Workspace(tmp_path, digits, test_set, record, Progress(terminal=False), source=source)
    declare(space, study, budgets, reductions(study), range(study.seeds))
    found = [run for job in space.jobs for run in job.runs]
    full = [run for run in found if run.config["stage"] == "train"]
    assert len(full) == study.seeds
    assert len({run.path for run in found}) == len(found)
    analysed = [run for run in found if run.config["stage"] == "analyse"]
    tuned = [run for run in found if run.config["stage"] == "finetune"]
    assert len(analysed) == len(full) + len(tuned)
    assert len(reductions(study)) == len(study.deepreduce)
    assert stages.full_module(digits, study.model).stage_sizes == study.model.stage_sizes


@pytest.mark.parametrize("name", ["cpu-long", "gpu"])
def test_long_presets_have_every_control_and_all_methods_at_the_same_counts(name: str) -> None:
    """And enough configurations of DeepReDuce to rank; without them they lose its budgets, and nothing is refused."""
    study, digits = PRESETS[name], datasets.prepare(QUICKSTART.data).train
    digits = digits.take(np.arange(len(digits) * 20) % len(digits))
    budgets, counts = check(study, digits), deepreduce_counts(study, digits)
    assert len(set(counts)) >= RANKED
    assert set(counts) < set(budgets)
    assert ({*study.controls}, study.data_controls) == ({"matched", "random-matched"}, ("balanced",))
    assert check(dataclasses.replace(study, deepreduce=()), digits) == budgets[: len(study.budgets)]


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.2, "4 s"), (89, "89 s"), (100, "2 min"), (3600, "60 min"), (36000, "10.0 h")]
)
def test_durations_are_said_as_a_reader_says_them(seconds: float, text: str) -> None:
    assert plan.duration(seconds) == text
