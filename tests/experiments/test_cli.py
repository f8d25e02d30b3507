"""The command line given bad input: one sentence, a status that is not 0, and no run that only looks finished."""

import errno
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest

from experiments import cli
from experiments.compression import __main__ as compression
from experiments.hardware import __main__ as hardware
from experiments.linearization.__main__ import main
from experiments.linearization.settings import PRESETS, QUICKSTART
from experiments.running import stages
from experiments.running.progress import Progress
from jaxfair import runs
from tests.study import CONFIGURED, ROOT, call, command_line, finished


@pytest.fixture(autouse=True)
def _command_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with command_line(tmp_path_factory.getbasetemp() / "cache"):
        yield


def sentence(text: str) -> str:
    """Return the one sentence of an error output; other lines are those of progress."""
    lines = text.rstrip("\n").splitlines()
    assert lines[-1].startswith("error: ")
    assert [line for line in lines[:-1] if not re.match(r"\[\d+/\d+\] |failed: ", line)] == []
    message = lines[-1].removeprefix("error: ")
    assert not re.search(r"[.?!] [A-Z]", message), message
    return message


BEFORE_ANYTHING_IS_MADE = {
    "--preset quikstart": "There is no preset 'quikstart'; did you mean 'quickstart'?",
    "--data.name digit": "There is no data set 'digit'; did you mean 'digits'?",
    "--data.name cifar": "There is no data set 'cifar'; did you mean 'cifar10'?",
    "--budgets nan": "The ReLU budget is nan; give a fraction",
    "--budgets -0.5": "The ReLU budget is -0.5; give 0 or more units",
    "--budgets 769": "The ReLU budget is 769, but the network has 768 units; give 0 to 768.",
    "--budgets 1.5": "1.5 is neither a fraction below 1 nor a whole number",
    "--seeds 0": "The study has 0 seeds, 1 SNL budgets and 1 DeepReDuce configurations; give at least one seed",
    "--seeds -3": "The study has -3 seeds",
    "--budgets --deepreduce": "0 SNL budgets and 0 DeepReDuce configurations; give at least one",
    "--deepreduce X1": "'X1' is no DeepReDuce configuration; write C and the stages to cull",
    "--deepreduce C3": "DeepReDuce culls stages (3,), but the network has stages 1 to 2.",
    "--deepreduce C1+a0.5 --deepreduce-start base": "changes the network's size; start it fresh",
    "--deepreduce C1+a0.5.5": "'C1+a0.5.5' is no DeepReDuce configuration",
    "--deepreduce C1+r0 --deepreduce-start fresh": "resolution scale 0",
    "--deepreduce C1+a0.3 --deepreduce-start fresh": "Channel scale 0.3 and resolution scale 1.0 give width 1.2",
    "--data.keep 0.5 0.5": "The shares to keep are (0.5, 0.5); expected 10 numbers between 0 and 1",
    "--data.keep 1 1 1 1 1 1 1 1 1 nan": "expected 10 numbers between 0 and 1",
    "--data.keep 1 1 1 1 1 1 1 1 1 0": "has no sample of group 9; leave these groups out",
    "--data.test-fraction 0": "The test fraction is 0.0; give one between 0 and 1",
    "--data.test-fraction 0.001": "leaves training or test without an image",
    "--model.stage-sizes 1 1 1 1 1": "Images of 8x8 are too small for 5 stages",
    "--model.stage-sizes": "stage",
    "--model.width 0": "width",
    "--model.width -1": "width",
    "--model.stem-stride 0": "stem",
    "--train.epochs -1": "epochs",
    "--train.batch-size 5000": "The batch size is 5000, but there are 675 images",
    "--train.batch-size 5000 --snl.batch-size 700": "and to every other training of larger batches, which --help",
    "--train.batch-size 0": "The batch size is 0",
    "--snl.batch-size 5000": "The batch size is 5000",
    "--snl-finetune.batch-size 5000": "The batch size is 5000",
    "--deepreduce-train.batch-size 5000": "The batch size is 5000",
    "--train.learning-rate nan": "at learning rate nan; give at least one epoch",
    "--mitigations lagrangian --mitigation-rates -1": "the multipliers' rate -1.0",
    "--mitigation-rates 0.1": "The mitigation rates 0.1 are lagrangian's; give it as --mitigations, or no rates",
    "--deepreduce --equal-budgets": "--equal-budgets decides nothing in this study; leave it out, or name a config",
    "--workers 3": "The executor 'here' has no use for --workers; give --executor local or slurm",
    "--executor local --gres gpu:1 --minutes 3": "has no use for --gres --minutes; give --executor slurm",
    "--seeds-at-once 0": "seeds_at_once is 0",
    "--reference ten": "no group 'ten' to be the reference; the groups are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9: give one",
    "--analysis.max-steps 0": "steps",
    "--analysis.chunk-size 0": "chunk",
    "--analysis.chunk-size -1": "chunk",
    "--snl-finetune.mitigation.method lagrangian": "--snl-finetune.mitigation.method is lagrangian; leave it at none",
    "--deepreduce-train.mitigation.method cvar": "--deepreduce-train.mitigation.method is cvar; leave it at none",
    "--budgets --follow 4": "Networks of SNL's budgets are to be followed, and there is no budget",
    "--budgets --controls random": "Networks of SNL's budgets are to have random masks, and there is no budget",
    "--data.group class --data.group digit": "The option --data.group is given twice; give all of its values after one",
    "--data.keep 0.9 --data.keep 0.1": "The option --data.keep is given twice",
    "--budgets 0.1 0.05 --budgets 0.01": "The option --budgets is given twice; give all of its values after one",
    "--deepreduce C1 --deepreduce C12": "The option --deepreduce is given twice",
    "--controls matched --controls finetuned": "The option --controls is given twice",
    "--model.stage-sizes 1 --model.stage-sizes 1": "The option --model.stage-sizes is given twice",
    "--only run-a --only run-b": "The option --only is given twice",
    "--data.rebalance balanced": "--data.rebalance is balanced, and other imbalances are only made beside the data as",
    "--data.rebalance swapped --dry-run": "give --data-controls swapped instead.",
    "--mitigation-rates 0.1 --mitigation_rates=0.2": "The option --mitigation-rates is given twice",
    "--data.path=": "--data.path is empty, as an unset variable is; give a value.",
    "--data.path=~/faces": "'~/faces' is no folder: the shell did not replace ~; write the whole path.",
    "--model.network cnn --model.block bottleneck": "Blocks and the stem's width are those of a ResNet",
    "--deepreduce --deepreduce-start base": "--deepreduce-start decides nothing in this study; leave it out, or name a",
    "--deepreduce --deepreduce_train.epochs=3": "--deepreduce-train.epochs decides nothing in this study; leave it out",
    "--budgets --snl-finetune.epochs 3": "--snl-finetune.epochs decides nothing in this study; leave it out, or give",
    "--senet-attention 5": "--senet-attention decides nothing in this study; leave it out, or give --methods senet.",
    "--bcd.block 3": "--bcd.block decides nothing in this study; leave it out, or give --methods bcd.",
    "--bcd.finetune.epochs 3 --methods senet": "--bcd.finetune.epochs decides nothing in this study",
    "--snl-finetune.mitigation.weight 7 --mitigations cvar": "leave it out, or give --mitigations alignment.",
    "--mitigations lagrangian --mitigation-rates 0.1 --snl-finetune.mitigation.rate 5": "leave out --mitigation-rates",
    "--methods bcd --bcd.level 0.2": "--bcd.level decides nothing in this study; leave it out, or give --methods bcd-c",
    "--methods bcd-cvar --bcd.accept loss": "--bcd.accept decides nothing in this study; leave it out, or give --metho",
    "--methods senet --senet.balanced": "leave it out, or give --methods senet-balanced.",
    "--train.temperature 3": "--train.temperature decides nothing in this study; leave it out.",
    "--snl-finetune.distillation-weight 0 --snl-finetune.temperature 3": "or give --snl-finetune.distillation-weight.",
    "--train.mitigation.rate 5": "leave it out, or give --train.mitigation.method lagrangian.",
    "--only xx --dry-run": "--only decides nothing in this study; leave it out, or leave out --dry-run, w",
    "--executor slurm --memory inf": "memory inf; give numbers above 0",
}


@pytest.mark.parametrize("options", BEFORE_ANYTHING_IS_MADE)
def test_bad_input_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str
) -> None:
    assert call(tmp_path, *options.split()) == 1
    captured = capsys.readouterr()
    assert BEFORE_ANYTHING_IS_MADE[options] in sentence(captured.err)
    assert captured.out == ""
    assert list(tmp_path.rglob("DONE")) == []


@pytest.mark.parametrize("words", [["", "--seeds", "1"], ["--seeds", "1", "--out", ""], ["--data.path", ""]])
def test_an_empty_argument_is_no_folder(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of a shell's variable that is not set: it would be the folder that one is in."""
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    assert "is empty, as an unset variable is; give a value." in sentence(capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


OTHERS = {"train": 1, "linearize": 1, "finetune": 1, "analyse": 2, "sampling": 1, "gradients": 1}  # than those of SNL
WHILE_RUNNING = {
    "--train.learning-rate 1e30": ("The loss of seed 0 is nan at step 1; lower the learning rate", {}),
    "--train.learning-rate 1e39 --train.batch-size 675 --train.epochs 1": ("lower the learning rate", {}),
    "--snl.learning-rate 1e30": ("The loss of the SNL descent of seed 0 is nan at step 1; lower", OTHERS),
    "--snl.max-epochs 1 --budgets 0.01": ("ReLUs after 1 epochs, above the budget 8; raise kappa", OTHERS),
    "--snl-finetune.learning-rate 1e30": ("of seed 0 is nan at step 1; lower", {**OTHERS, "linearize": 2}),
}


@pytest.mark.parametrize("options", WHILE_RUNNING)
def test_a_failing_stage_is_not_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str) -> None:
    """What does not depend on it is made, and the report says what it lacks; there is none if nothing is left."""
    expected, done = WHILE_RUNNING[options]
    assert call(tmp_path, *options.split()) == 1
    message = sentence(capsys.readouterr().err)
    assert expected in message
    assert "that depend on it were not made" in message
    assert Counter(run.config["stage"] for run in finished(tmp_path).values()) == done
    assert message.startswith("The report is not of all runs: " if done else "There is nothing to report: ")
    assert (tmp_path / "report").exists() == bool(done)
    if done:
        page = (tmp_path / "report" / "report.html").read_text()
        assert re.search(r"SNL \d+ is missing, since seed 0 failed", page)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--bdgets 3", "--budgets"),
        ("--train.learning-rte 0.1", "--train.learning-rate"),
        ("--budgets half", "--budgets"),
        ("--seeds 1.5", "--seeds"),
        ("--seeds", "--seeds"),
        ("--deepreduce-start cold", "--deepreduce-start"),
        ("--preset", "--preset"),
    ],
)
def test_options_that_do_not_parse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, expected: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        call(tmp_path, *options.split())
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert expected in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_help_names_the_presets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert PRESETS
    for name in PRESETS:
        assert name in out
    assert "--snl.kappa" in out


def test_options_of_several_values_are_called_as_the_help_calls_them(capsys: pytest.CaptureFixture[str]) -> None:
    for program, options in (
        (main, PRESETS),
        (compression.main, compression.PRESETS),
        (hardware.main, hardware.PRESETS),
    ):
        with pytest.raises(SystemExit):
            program(["--help"])
        found = re.findall(r"--[\w.-]+", capsys.readouterr().out)
        assert {"--only", "--data.keep", "--model.stage-sizes"} < set(cli.several(options)) <= set(found)


def test_an_option_wins_over_the_preset() -> None:
    config = cli.parse(PRESETS, "x", "y", ["--seeds", "7", "--preset", "quickstart"])
    assert config.seeds == 7
    assert config.model == QUICKSTART.model


@pytest.mark.parametrize("program", [main, compression.main, hardware.main])
def test_a_folder_that_cannot_be_written_in_the_end_is_refused_before_the_first_run(
    program: Callable[[list[str]], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was refused after all of them, or each run failed."""
    (tmp_path / "mine" / "report").mkdir(parents=True)
    (tmp_path / "mine" / "report" / "thesis.tex").write_text("years of work")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "runs").write_text("")
    said = {"mine": "holds something else than a report", "made": "runs' cannot be written: there is a file where a"}
    for out, expected in said.items():
        assert program(["--out", str(tmp_path / out)]) == 1
        assert expected in sentence(capsys.readouterr().err)
    assert {path.name for path in tmp_path.rglob("*")} == {*said, "report", "thesis.tex", "runs"}


def test_an_out_folder_under_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert call(tmp_path / "file" / "study") == 1
    assert re.search(
        r"cannot be written: there is a file where a folder is needed; choose another folder",
        sentence(capsys.readouterr().err),
    )


def test_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.fsync, []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(runs.os, "fsync", fsync)
    assert call(tmp_path) == 1
    assert "free some space and run the same command again" in sentence(capsys.readouterr().err)
    assert {run.config["stage"] for run in finished(tmp_path).values()} == {"train"}


def test_an_interrupt_keeps_finished_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Progress, done: int, *_: object) -> None:
        if done == 4:  # the first epoch of the second seed
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Progress, "update", interrupted)
        assert call(tmp_path, "--seeds", "2", "--splits", "one") == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("interrupted; whatever is finished is kept")
    (first,) = finished(tmp_path).values()
    assert (first.config["stage"], first.config["seed"]) == ("train", 0)
    before = (first.path / "DONE").stat().st_mtime_ns
    monkeypatch.setattr(stages, "measure", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert call(tmp_path, "--seeds", "2", "--splits", "one") == 130
    assert (first.path / "DONE").stat().st_mtime_ns == before
    assert sorted(run.config["stage"] for run in finished(tmp_path).values()) == (
        ["finetune"] * 4 + ["linearize"] * 4 + ["train"] * 2
    )


def test_the_cache_is_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = jax.config.values[CONFIGURED[1]]
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "chosen")
    cli.configure_jax()
    assert jax.config.values[CONFIGURED[1]] == before, "JAX has read its own variable"
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    cli.configure_jax()
    assert jax.config.values[CONFIGURED[0]] == "highest"
    assert jax.config.values[CONFIGURED[1]] == str(tmp_path / "cache" / "jaxfair" / "compiled")
    assert (tmp_path / "cache" / "jaxfair" / "compiled").is_dir()


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("JAX_ENABLE_X64=1", "JAX_ENABLE_X64 is True, which changes numbers: this command computes with False; unset"),
        (
            "JAX_RANDOM_SEED_OFFSET=3",
            "JAX_RANDOM_SEED_OFFSET is 3, which changes numbers: this command computes with 0",
        ),
        ("JAX_DEFAULT_MATMUL_PRECISION=silly", 'jax cannot be imported: Invalid value "silly"'),
        ("MPLBACKEND=silly", "matplotlib cannot be imported: Key backend: 'silly' is not a valid value"),
        ("JAX_PLATFORMS=rocm", "JAX cannot start: "),
    ],
)
def test_a_variable_that_cannot_be_followed_is_refused_before_the_first_run(
    variable: str, message: str, tmp_path: Path
) -> None:
    name, _, value = variable.partition("=")
    command = [
        sys.executable,
        "-m",
        "experiments.linearization",
        "--preset",
        "quickstart",
        "--out",
        str(tmp_path / "out"),
    ]
    environment = {**os.environ, name: value}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert message in sentence(ended.stderr)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("home", ["under a file", "none"])
def test_no_writable_cache_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file") if home == "under a file" else "")
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    jax.config.update("jax_compilation_cache_dir", None)
    cli.configure_jax()
    assert jax.config.values[CONFIGURED[0]] == "highest"
    assert jax.config.values[CONFIGURED[1]] is None


def test_other_commands_are_named_and_misspelt_ones_found(capsys: pytest.CaptureFixture[str]) -> None:
    from experiments import status

    for program, words, near in ((status.main, "retry, clean", "retri"), (hardware.main, "pack, merge", "merg")):
        with pytest.raises(SystemExit):
            program(["--help"])
        assert f"Other commands, each with its --help: {words}." in capsys.readouterr().out
        assert program([near, "study"]) == 1
        assert f"There is no command or folder '{near}'; did you mean '{near[:4]}" in capsys.readouterr().err


CLOSED = """
import sys
from pathlib import Path
from experiments import cli
from experiments.running.progress import Progress
from experiments.status import Status

def work(given, _):
    with Progress() as progress, open(given.study / "file", "w") as file:
        progress.begin("a run")
        print("a table", flush=True)
        (given.study / "numbers").write_text(f"{file.fileno()} {sys.stdin.read()!r}")

command = cli.Command(Status, lambda: work, computes=False)
raise SystemExit(cli.main("x", None, {"": command}, sys.argv[1:]))
"""


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_a_closed_stream_ends_no_work_and_gives_its_number_to_no_file(tmp_path: Path, closed: str) -> None:
    command = shlex.join([sys.executable, "-c", CLOSED, str(tmp_path)])
    ended = subprocess.run(f"{command} {closed}", shell=True, cwd=ROOT, stdin=subprocess.DEVNULL, check=False)
    assert ended.returncode == 0
    number, read = (tmp_path / "numbers").read_text().split()
    assert int(number) > 2
    assert read == "''"
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EACCES, "Permission denied", "a/b"), "'a/b' cannot be used: Permission denied; whatever is"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "A file cannot be written: No space left on device; whatever is",
        ),
        (MemoryError("Unable to allocate 65.5 TiB"), "The memory does not suffice: Unable to allocate 65.5 TiB; give"),
        (MemoryError(), "The memory does not suffice; give smaller sizes"),
    ],
)
def test_what_the_system_says_of_files_and_memory_is_one_sentence(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(*_: object) -> None:
        raise error

    from experiments.status import Status

    command = cli.Command(Status, lambda: work, computes=False)
    assert cli.main("x", None, {"": command}, ["study"]) == 1
    assert sentence(capsys.readouterr().err).startswith(said)


def test_a_signal_before_the_work_speaks_of_none() -> None:
    program = "import os; from experiments import cli; cli.begin(); os.kill(os.getpid(), 2)"
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr.strip()) == (128 + 2, "interrupted before the work began.")


def test_a_signal_ends_a_program_that_can_say_nothing_before_its_command_begins() -> None:
    program = "import os; from experiments import cli; cli.begin(); os.close(2); os.kill(os.getpid(), 15)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 128 + 15


ENDED = """
import signal, sys, threading
from experiments import cli
cli.begin()
from experiments.status import Status

def late():
    threading.main_thread().join()
    print("late", file=sys.stderr)

def work(*_):
    print("made")
    if "interrupted" in sys.argv:
        threading.Thread(target=late).start()
        signal.raise_signal(signal.SIGINT)

cli.main("x", None, {"": cli.Command(Status, lambda: work, computes=False)}, ["study"])
signal.raise_signal(signal.SIGTERM)
"""


@pytest.mark.parametrize(
    ("how", "number", "said"), [("interrupted", 2, f"\ninterrupted; {cli.KEPT}.\n"), ("finished", 15, "")]
)
def test_nothing_is_added_to_an_interruption(how: str, number: int, said: str) -> None:
    """Not by a thread, as Orbax's while it saves, nor by a signal that comes while Python ends."""
    ended = subprocess.run([sys.executable, "-c", ENDED, how], cwd=ROOT, capture_output=True, text=True, timeout=90)
    assert (ended.returncode, ended.stdout, ended.stderr) == (128 + number, "made\n", said)


LOST = """
import signal, sys, time
from experiments import cli
from experiments.status import Status

class Array:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)

def work(*_):
    array = Array()
    del array
    time.sleep(100)

raise SystemExit(cli.main("x", None, {"": cli.Command(Status, lambda: work, computes=False)}, ["study"]))
"""


def test_a_signal_that_comes_within_a_destructor_is_not_lost() -> None:
    """Python prints an exception that is raised there, such as JAX's when garbage is collected, and goes on."""
    ended = subprocess.run([sys.executable, "-c", LOST], cwd=ROOT, capture_output=True, text=True, timeout=90)
    assert ended.returncode == 128 + 15
    assert ended.stderr.strip() == "interrupted; whatever is finished is kept, and the same command goes on from here."


@pytest.mark.parametrize("closed", ["2>&-", ">&-"])
def test_a_status_that_nobody_sees_is_no_error(tmp_path: Path, closed: str) -> None:
    (tmp_path / "plan.json").write_text('[{"run": "x", "stage": "train", "work": 1}]')
    command = shlex.join([sys.executable, "-m", "experiments.status", str(tmp_path)])
    ended = subprocess.run(f"{command} {closed}", shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ("0 of 1 runs are finished" in ended.stdout) == (closed == "2>&-")


def test_an_argument_that_is_no_text_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a name of an old archive, which could be in no record and on no page; or in a locale without its letters."""
    assert call(tmp_path, "--title", "caf\udce9") == 1
    assert r"The argument b'caf\xe9' is not understood as UTF-8; rename" in sentence(capsys.readouterr().err)
    assert call(tmp_path, "--title", "caf\udcc3\udca9") == 1
    assert "'café' is not understood as UTF-8; the locale has no such letters" in sentence(capsys.readouterr().err)
    assert not list(tmp_path.iterdir())
