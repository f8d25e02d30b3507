"""The benchmarks on a tiny problem: what they promise, never how fast anything is."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from benchmarks import (
    accelerator,
    answers,
    command,
    convolutions,
    executors,
    libraries,
    measure,
    problems,
    report,
    right,
    stages,
    starts,
    timing,
    tracing,
)
from benchmarks.child import ROOT
from benchmarks.jobs import Found, Job, Method, disagreement, loosest
from benchmarks.libraries import jaxfair_jobs as ours
from jaxfair import losses, runs
from jaxfair.errors import JaxfairError
from jaxfair.kernels import ONEDNN
from jaxfair.networks.network import apply_train

TRUTH = np.array([2.0, 4.0])
OPERATIONS = ["products", "training", "eigenvalues", "report", "density", "margins", "profile"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A folder for the trained network."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def tiny(cache):
    """The smallest problem."""
    return problems.load("tiny", cache)


@pytest.fixture(scope="module")
def written(cache, tmp_path_factory):
    """The JSON file of a whole run without peers and without processes."""
    out = tmp_path_factory.mktemp("results") / "tiny.json"
    arguments = ["--problem", "tiny", "--repeats", "1", "--out", str(out), "--cache", str(cache)]
    measure.main([*arguments, "--libraries", "jaxfair", "--operations", *OPERATIONS])
    return out


def ladder(errors):
    """A method whose error at each setting is given, and the list of settings it was asked for."""
    asked = []

    def find(setting):
        asked.append(setting)
        return Found(TRUTH * (1 + np.array([0, errors[setting]])), 10 * setting)

    return Method(find, list(errors), 1.0), asked


def test_the_ladder_picks_the_loosest_setting_that_is_accurate_enough():
    """It goes from loose to tight, looks at the worst group, and stops at the first success."""
    method, asked = ladder({3.0: 1e-1, 2.0: 5e-4, 1.0: 1e-9})
    reached = loosest(method, TRUTH, 1e-3)
    assert (reached.setting, reached.products, asked) == (2.0, 20.0, [3.0, 2.0])
    assert reached.error == pytest.approx(5e-4)


def test_the_ladder_begins_at_the_tolerance_that_it_is_given():
    """Looser ones are left out; a number of products is no tolerance."""
    method, asked = ladder({3.0: 1e-9, 2.0: 5e-4, 1.0: 1e-9})
    assert (loosest(method, TRUTH, 1e-3, first=2.0).setting, asked) == (2.0, [2.0])
    assert loosest(method._replace(setting_is="products"), TRUTH, 1e-3, first=2.0).setting == 3.0


def test_a_ladder_that_never_gets_there_says_how_near_it_came():
    """No setting, the smallest error; NaN is no success."""
    reached = loosest(ladder({3.0: 1e-1, 2.0: 2e-3, 1.0: math.nan})[0], TRUTH, 1e-3)
    assert reached.setting is None
    assert reached.error == pytest.approx(2e-3)


def test_jobs_run_in_turn_and_the_first_round_is_apart():
    """A B A B A B, of which the first two are not in the median."""
    order = []
    jobs = {name: lambda name=name: order.append(name) for name in "AB"}
    rows = timing.in_turn(jobs, repeats=2)
    assert "".join(order) == "ABABAB"
    assert all(row["min"] <= row["median"] <= row["max"] and row["first"] > 0 for row in rows.values())


def test_jobs_that_were_just_run_have_no_first_round_and_every_round_is_kept():
    """What a measurement that is cut short has found stays."""
    order, kept = [], []
    jobs = {name: lambda name=name: order.append(name) for name in "AB"}
    rows = timing.in_turn(jobs, repeats=2, warm=True, save=lambda rows: kept.append({**rows}))
    assert "".join(order) == "ABAB"
    assert [*kept[0]] == ["A", "B"]
    assert kept[1] == rows
    assert "first" not in rows["A"]


def test_eigenvalues_are_kept_after_every_round(tiny):
    methods = libraries.jobs({"jaxfair": ours}, "eigenvalues", tiny)
    name, kept = "jaxfair: gradient start, residual stop", []

    def cut_short(found):
        kept.append(found["methods"][name]["median"])
        if len(kept) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure.eigenvalues(tiny, {name: methods[name]}, repeats=9, save=cut_short)
    assert min(kept) > 0


def test_wrong_answers_are_refused_before_timing(tiny):
    """A job that disagrees, or answers NaN, stops everything with one sentence."""
    right = Job("product", lambda: np.ones(3), np.asarray)
    for wrong in (np.full(3, 1.1), np.full(3, np.nan)):
        jobs = {"a": right, "b": right._replace(run=lambda wrong=wrong: wrong)}
        with pytest.raises(JaxfairError, match=r"'product' of tiny differ by .*; nothing is timed"):
            measure.check(tiny, {"products": jobs})
    assert disagreement([("product", np.ones(3))] * 2) == {"product": 0.0}


@pytest.mark.parametrize(
    ("quantity", "kind", "refused"), [("p", "basic", False), ("logits", "basic", True), ("p", "gpt", True)]
)
def test_only_derivatives_at_kinks_may_differ_by_half_a_percent(tiny, quantity, kind, refused):
    problem = tiny._replace(spec=tiny.spec._replace(kind=kind))
    right = Job(quantity, lambda: np.ones(3), np.asarray)
    jobs = {"products": {"a": right, "b": right._replace(run=lambda: np.full(3, 1.005))}}
    with pytest.raises(JaxfairError, match="nothing is timed") if refused else nullcontext():
        measure.check(problem, jobs)


def test_every_job_is_run_once_before_timing(tiny):
    """A peer's that fails is left out with its reason; ours stops everything."""
    ran = []

    def fail():
        ran.append("fails")
        raise RuntimeError("no kernel\nfor this")

    right = Job("product", lambda: ran.append("runs") or np.ones(3), np.asarray)
    jobs, missing = {"jaxfair: a": right, "peer: a": right, "peer: b": right._replace(run=fail)}, {}
    assert measure.check(tiny, {"products": jobs}, missing) == {"product": 0.0}
    assert (list(jobs), missing) == (["jaxfair: a", "peer: a"], {"peer: b": "no kernel"})
    assert sorted(ran) == ["fails", "runs", "runs"]
    with pytest.raises(RuntimeError, match="no kernel"):
        measure.check(tiny, {"products": {"jaxfair: a": right._replace(run=fail)}}, missing)


def test_what_is_timed_is_saved_before_the_next_is_checked(tiny, cache, monkeypatch):
    """Steps of training compile for minutes, by some libraries."""
    saved = []

    def refuse(problem, jobs, missing):
        if "training" in jobs:
            raise KeyboardInterrupt
        return {}

    monkeypatch.setattr(measure, "check", refuse)
    with pytest.raises(KeyboardInterrupt):
        measure.measure(
            tiny, ["jaxfair"], ["products", "training"], 1, cache, save=lambda result: saved.append([*result])
        )
    assert len(saved) == 1
    assert saved[0][-1] == "products"


def test_a_method_that_finds_something_else_is_refused(tiny):
    """So is an eigenvalue that is far off at the tightest setting."""
    far = Method(lambda setting: Found(np.full(problems.GROUPS, 1e6), 1.0), [1.0], None)
    with pytest.raises(JaxfairError, match="'far' differs from the true eigenvalues of tiny"):
        measure.eigenvalues(tiny, {"far": far}, repeats=1)


def refuse(constant):
    """Refuse what strict JSON does not know."""
    raise ValueError(constant)


def test_json_is_strict_and_has_what_is_promised(written):
    """Environment, peaks, agreement, and every number of every job."""
    result = json.loads(written.read_text(), parse_constant=refuse)
    environment = result["environment"]
    assert {"commit", "versions", "libraries", "threads", "load_average_before", "backend"} <= set(environment)
    assert result["matmul_gflops"] > 0
    assert result["forward_gflop"] > 0
    assert max(result["agreement"].values()) < 1e-3
    for operation in measure.TIMED:
        for row in result[operation].values():
            assert {"first", "median", "min", "max", "gradients"} <= set(row)
    methods = result["eigenvalues"]["methods"]
    assert len(result["eigenvalues"]["truth"]) == problems.GROUPS
    assert len(methods) == 4
    for row in methods.values():
        assert row["error"] <= result["eigenvalues"]["target"]
        assert row["products"] > 0
        assert {"setting", "median", "gradients", "default"} <= set(row)


def test_the_report_renders(written, tmp_path):
    """A page with a table for each operation, and a plot beside it."""
    report.main(["--results", str(written.parent), "--out", str(tmp_path / "page.md")])
    page = (tmp_path / "page.md").read_text()
    for expected in (
        "5 groups of 4",
        "Hessian product, pass kept",
        "gradient start, error stop",
        "quadrature",
        "on 20 images",
        "Where the time goes",
    ):
        assert expected in page
    assert (tmp_path / "benchmarks.png").stat().st_size > 1000


def test_the_report_has_processes_and_failures(written):
    """Rows measured alone, methods that reach nothing, scaling and cache."""
    result = json.loads(written.read_text())
    one = {"before_mb": {"host": 100.0}, "peak_mb": {"host": 350.0}, "first_seconds": 2.0}
    result["products"]["jaxfair: gradient"]["alone"] = one
    result["scaling"] = {"bound_mb": 134.2, "1 N": one, "8 N": one}
    result["cache"] = {"first process": one, "second process": {**one, "first_seconds": 0.5}}
    result["eigenvalues"]["methods"]["x: lost"] = {"setting": None, "error": 2e-3, "products": 9.0}
    result["environment"]["missing"] = {"matfree": "No module named 'matfree'"}
    text = report.section({**result, "title": report.heading(result)})
    for expected in ("250 MB | 2 s", "none reaches it", "not timed: matfree", "500 ms in a second one"):
        assert expected in text


def test_in_short_our_fastest_is_compared_with_the_fastest_layout_of_others():
    """At equal error; what reaches no error has no time, and what nobody else does has no row."""
    result = {
        "title": "tiny",
        "problem": {"name": "resnet18-w16"},
        "products": {"jaxfair: gradient": {"median": 2.0}, "pytorch: gradient": {"median": 3.0}},
        "eigenvalues": {
            "methods": {
                "jaxfair: random start": {"median": 4.0},
                "jaxfair: gradient start": {"median": 2.0, "products": 3.7},
                "pyhessian: power iteration": {"median": 9.0},
                "pyhessian: power iteration, channels_last": {"median": 7.0},
                "pyhessian: lost": {"setting": None},
                "curvlinops: eigsh": {"median": 1.0},
            }
        },
    }
    result["products"]["pytorch: gradient, channels_last"] = {"median": 1.0}
    found = report.in_short([result])
    assert "| gradient: tiny | 2 s | 1 s | 0.50 | 1, missed | pytorch: gradient, channels_last |" in found
    assert "error: tiny | 2 s | 7 s | 3.50 | 5, missed | pyhessian: power iteration, channels_last |" in found
    assert found.count("tiny") == 2
    assert not report.in_short([{"title": "tiny"}])
    traced = {"programs": {"products": 0.8}, "kinds": {"convolutions of a library": 0.6, "other": 0.4}}
    jobs = {"jaxfair: gradient": {"kinds": {"other": 1.0}, "programs": {}}, "jaxfair: gradient start": traced}
    found = report.in_short([{**result, "profile": jobs}])
    assert "| job | convolutions of a library | other |" in found
    assert "\n| gradient: tiny | 0% | 100% |\n| largest eigenvalues, equal error: tiny | 60% | 40% |\n" in found
    assert "eigenvalues of tiny spend 80% on products" in found
    assert "than the 3.7 that" in found
    result["products"]["jaxfair: gradient"]["median"] = 0.5  # which meets its aim
    result["eigenvalues"]["methods"]["jaxfair: gradient start"]["median"] = 1.0
    found = report.in_short([{**result, "profile": jobs}])
    assert "| 7.00 | 5 | pyhessian" in found
    assert "holds it back" not in found


def test_other_networks_of_a_problem_have_other_seeds_and_their_own_rows(cache, tmp_path, written):
    """A name with a seed is another network; its ratio stands in the summary and in a table of its own."""
    other, first = problems.load("tiny@1", cache), problems.load("tiny", cache)
    assert other.spec.seed == 1
    np.testing.assert_array_equal(other.x, first.x)
    assert not np.array_equal(other.params["head"]["kernel"], first.params["head"]["kernel"])
    for wrong in ("tiny@", "tiny@x", "large@1"):
        with pytest.raises(JaxfairError, match=f"no problem '{wrong}'"):
            problems.load(wrong, cache)
    result = json.loads(written.read_text())
    result["problem"]["name"] = "tiny"
    methods = {"jaxfair: gradient start": {"median": 2.0, "products": 3.0, "setting": None, "error": 1e-4}}
    methods["pyhessian: power iteration"] = {"median": 6.0, "products": 9.0, "setting": None, "error": 1e-4}
    result["eigenvalues"] = {"methods": methods}
    (tmp_path / "networks").mkdir()
    (tmp_path / "tiny.json").write_text(json.dumps(result))
    result["problem"] |= {"name": "tiny@1", "seed": 1}
    methods["pyhessian: power iteration"]["median"] = 10.0
    result["command"] = "the other's"
    (tmp_path / "networks" / "tiny-1.json").write_text(json.dumps(result))
    unmeasured = {"problem": {"name": "tiny"}, "title": "t"}
    (part,) = report.of_networks([unmeasured, unmeasured], [result])
    assert "\n`the other's`.\n" in part
    report.main(["--results", str(tmp_path), "--out", str(tmp_path / "page.md")])
    page = (tmp_path / "page.md").read_text()
    assert "| 3.00; 2 networks 4.00 (3.00 to 5.00) |" in page
    assert "| 1 | 2 s | 3.0 | 10 s | 9.0 | 5.00 | jaxfair: gradient start; pyhessian: power iteration |" in page


def test_a_training_step_is_that_of_sgd(tiny):
    """From its definition, with the batch's own statistics; the second call is a step further, with its momentum."""
    (job,) = ours.training(tiny).values()
    flat, unravel = ravel_pytree(tiny.params)
    x, y = tiny.batch

    def gradient(p):
        def loss(p):
            logits, _ = apply_train(tiny.network, unravel(p), tiny.network.masks, x)
            return losses.cross_entropy(logits, y).mean()

        return jax.grad(loss)(p) + ours.SGD["weight_decay"] * p

    moved = gradient(flat)
    first = -ours.SGD["learning_rate"] * moved
    np.testing.assert_allclose(job.answer(job.run()), first, rtol=1e-3, atol=1e-7)
    moved = ours.SGD["momentum"] * moved + gradient(flat + first)
    np.testing.assert_allclose(job.answer(job.run()), first - ours.SGD["learning_rate"] * moved, rtol=1e-3, atol=1e-7)


def test_starts_are_counted_and_shown(cache, tmp_path, written):
    """A start along the eigenvector takes one product; the page has a row a start and a column a network."""
    matrix = np.diag([3.0, 2.0, 1.0, 0.5])
    assert starts.needed(lambda v: matrix @ v, np.eye(4)[0], 3.0) == 1
    assert starts.needed(lambda v: matrix @ v, np.ones(4), 3.0) > 1
    out = tmp_path / "starts" / "tiny.json"
    starts.main(["--problem", "tiny", "--cache", str(cache), "--out", str(out)])
    found = json.loads(out.read_text())["starts"]
    assert [*found] == ["trained", "two more epochs", "a fifth of the ReLUs", "a tenth of the ReLUs"]
    assert {"random", "gradient", "of trained"} <= set(found["two more epochs"])
    (tmp_path / "tiny.json").write_text(written.read_text())
    report.main(["--results", str(tmp_path), "--out", str(tmp_path / "page.md")])
    page = (tmp_path / "page.md").read_text()
    assert "| start | trained | two more epochs |" in page
    assert f"| random | {found['trained']['random']:.1f} |" in page
    out.write_text("{}")
    with pytest.raises(SystemExit, match=r"is no result of benchmarks\.starts"):
        report.main(["--results", str(tmp_path), "--out", str(tmp_path / "page.md")])


def test_a_profile_of_a_job_that_was_not_timed_says_nothing_of_it():
    result = {"title": "tiny", "problem": {"name": "resnet18-w16"}, "products": {}}
    result["products"] = {"jaxfair: gradient": {"median": 2.0}, "pytorch: gradient": {"median": 1.0}}
    assert "holds it back" not in report.in_short([{**result, "profile": {"jaxfair: gradient start": {}}}])


def test_a_peer_whose_eigenvalues_fail_is_left_out_by_name(tiny):
    """One of ours stops everything."""

    def fail(setting):
        raise RuntimeError("no eigenvalues\nat all")

    broken, missing = Method(fail, [1.0], None), {}
    methods = libraries.jobs({"jaxfair": ours}, "eigenvalues", tiny)
    name = "jaxfair: gradient start, residual stop"
    found = measure.eigenvalues(tiny, {name: methods[name], "peer: x": broken}, 1, missing=missing)
    assert ([*found["methods"]], missing) == ([name], {"peer: x": "no eigenvalues"})
    with pytest.raises(RuntimeError, match="no eigenvalues"):
        measure.eigenvalues(tiny, {"jaxfair: x": broken}, 1)


def test_a_profile_finds_the_programs_of_curvature(written):
    """Products and first passes under the names that XLA has for them; shares of all operations sum to 1."""
    profile = json.loads(written.read_text())["profile"]
    assert {"products", "gradients and kept passes"} <= set(profile["jaxfair: gradient start, error stop"]["programs"])
    assert {"jaxfair: Hessian product, pass kept", "jaxfair: gradient", "jaxfair: SGD step"} < set(profile)
    for found in profile.values():
        assert "convolutions of XLA" in found["kinds"] or "convolutions of a library" in found["kinds"]
        for part in ("programs", "kinds"):
            assert sum(found[part].values()) == pytest.approx(1)
        assert min(found["seconds"], found["busy_seconds"]) > 0


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("wrapped_convolution.3", "convolutions of XLA"),
        ("custom-call.12", "convolutions of a library"),
        ("transpose_copy_fusion.1", "transpositions and copies"),
        ("dot_general.2", "matrix products"),
        ("broadcast_multiply_fusion", tracing.OTHER),
        ("convert_element_type", tracing.OTHER),
    ],
)
def test_operations_have_a_kind(operation, kind):
    """By their names; a conversion is no convolution."""
    assert tracing.kind(operation) == kind


def test_memory_of_a_process_of_its_own(cache):
    """A child process has more memory after a job than before it."""
    found = measure.child.measure("tiny", "margins", "jaxfair: DeepFool", cache)
    assert found["peak_mb"]["host"] >= found["before_mb"]["host"] > 0
    with pytest.raises(JaxfairError, match="The process for 'jaxfair: none' failed"):
        measure.child.measure("tiny", "margins", "jaxfair: none", cache)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--problem", "huge"], "There is no problem 'huge'; choose from resnet18-w16,"),
        (["--operations", "sums"], "There is no operation 'sums'; choose from products,"),
        (["--libraries", "numpy"], "There is no library 'numpy'; choose from jaxfair,"),
        (["--problem", "tinny"], "There is no problem 'tinny'; did you mean 'tiny'?"),
        (["--problem", "tiny@x"], "There is no problem 'tiny@x'; other networks of 'tiny' are tiny@1,"),
        (["--libraries", "torch"], "There is no library 'torch'; did you mean 'pytorch'?"),
        (["--repeats", "0"], "--repeats is 0 and --first inf; give 1 or more, above 0."),
        (["--first", "nan"], "--repeats is 5 and --first nan; give 1 or more, above 0."),
        (["--methods", "none such", "--libraries", "jaxfair"], "No method's name has none such in it; there are"),
    ],
)
def test_mistakes_are_answered_by_one_sentence(arguments, sentence, cache, tmp_path, monkeypatch):
    """With what can be chosen instead."""
    rest = ["--out", str(tmp_path / "x.json"), "--cache", str(cache)]
    given = arguments if "--problem" in arguments else ["--problem", "tiny", *arguments]
    monkeypatch.setattr(measure.timing, "in_turn", lambda *_, **__: pytest.fail("there was work before"))
    with pytest.raises(SystemExit) as stopped:
        measure.main([*given, *rest])
    assert str(stopped.value.code).startswith(sentence)


@pytest.mark.parametrize("whole", [[], ["--whole", "--pixels", "16"]])
def test_convolutions_are_timed_layer_by_layer_and_agree(whole, tmp_path):
    """Of a narrow network."""
    out = tmp_path / "new" / "w2.json"
    convolutions.main(["--width", "2", "--images", "2", "--repeats", "1", "--out", str(out), *whole])
    found = json.loads(out.read_text())
    assert len(found["layers"]) == 11
    assert max(layer["apart"] for layer in found["layers"]) < 1e-5
    assert found["environment"]["kernels"]


def test_a_measurement_that_is_cut_short_leaves_the_last_whole_one(cache, tmp_path, monkeypatch):
    """What it had measured lies beside it."""
    out = tmp_path / "x.json"
    out.write_text("whole")

    def cut_short(*arguments, save, **options):
        save({"products": {}})
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "measure", cut_short)
    with pytest.raises(SystemExit, match=r"^interrupted; what was timed is in '.*x\.json\.part', if anything was$"):
        measure.main(["--problem", "tiny", "--out", str(out), "--cache", str(cache)])
    assert out.read_text() == "whole"
    assert '"products"' in measure.unfinished_file(out).read_text()


SIGNALLED = """
import signal, sys, time
from unittest import mock
from benchmarks import accelerator, command

class Array:
    def __del__(self):
        signal.raise_signal(int(sys.argv[1]))

def work(*_):
    array = Array()
    del array
    time.sleep(100)

if sys.argv[2] == "-":
    with command.making(None):
        work()
else:
    with mock.patch.object(accelerator, "run_all", work):
        accelerator.main(["--out", sys.argv[2]])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("out", ["-", "answers"])
def test_a_signal_is_one_sentence_and_is_not_lost(out, number, tmp_path):
    """Python prints an exception that is raised in a destructor, such as JAX's, and goes on."""
    words = [sys.executable, "-c", SIGNALLED, str(int(number)), out if out == "-" else str(tmp_path / out)]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=90)
    kept = "nothing was written" if out == "-" else "finished stages are kept, and the same command goes on from here"
    assert (ended.returncode, ended.stderr) == (1, f"interrupted; {kept}\n")


COMMANDS = [
    lambda out: measure.main(["--problem", "tiny", "--out", out]),
    lambda out: starts.main(["--problem", "tiny", "--out", out]),
    lambda out: convolutions.main(["--width", "2", "--out", out]),
    lambda out: executors.main(["--count", "1", "--out", out]),
    lambda out: report.main(["--out", out]),
]


@pytest.mark.parametrize("main", COMMANDS, ids=["measure", "starts", "convolutions", "executors", "report"])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(main, tmp_path, monkeypatch):
    """One below a file, a folder, and a file of another kind, which would be lost."""
    works = ((problems, "load"), (convolutions, "layers"), (executors, "measure"), (report, "read"))
    for of, work in works:
        monkeypatch.setattr(of, work, lambda *_, **__: pytest.fail("there was work before"))
    (tmp_path / "file").write_text("mine")
    ending = "md" if main is COMMANDS[-1] else "json"
    with pytest.raises(SystemExit, match="cannot be written: there is a file where a folder is needed"):
        main(str(tmp_path / "file" / f"x.{ending}"))
    for out in (str(tmp_path), "", str(tmp_path / "file")):
        with pytest.raises(SystemExit, match=rf"^--out is '.*'; name a file that ends in \.{ending}\.$"):
            main(out)
    assert (tmp_path / "file").read_text() == "mine"


def test_two_commands_do_not_write_one_file_at_once(tmp_path, monkeypatch):
    """The second waits, and says for whom."""
    begun, said, out = threading.Event(), threading.Event(), tmp_path / "x.json"
    monkeypatch.setattr("builtins.print", lambda line: said.set() if line.endswith("waits for it.") else None)

    def first():
        with command.making(out):
            begun.set()
            said.wait(60)
            out.write_text("first")

    thread = threading.Thread(target=first)
    thread.start()
    begun.wait(60)
    with command.making(out):
        assert said.is_set()
        assert out.read_text() == "first"
    thread.join()


@pytest.mark.parametrize("wrong", ["--width=0", "--images=-1", "--pixels=7", "--repeats=0"])
def test_convolutions_of_nothing_are_refused(wrong, tmp_path):
    with pytest.raises(SystemExit, match=f"nothing to time with .*{wrong.replace('=', ' ')}.*; give 8 pixels or more"):
        convolutions.main([wrong, "--out", str(tmp_path / "x.json")])


def test_a_folder_without_results_is_named(tmp_path):
    """Empty, or with something else."""
    with pytest.raises(SystemExit, match="There is no result in"):
        report.main(["--results", str(tmp_path), "--out", str(tmp_path / "page.md")])
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(SystemExit, match="is no result of benchmarks"):
        report.main(["--results", str(tmp_path), "--out", str(tmp_path / "page.md")])


def test_a_missing_library_is_named_and_the_others_are_there(monkeypatch):
    """Whatever is installed."""

    def imported(name: str) -> ModuleType:
        if name.endswith("matfree_jobs"):
            raise ImportError("No module named 'matfree'")
        return ModuleType(name)

    monkeypatch.setattr(libraries.importlib, "import_module", imported)
    found, missing = libraries.load(["jaxfair", "matfree"])
    assert list(found) == ["jaxfair"]
    assert missing == {"matfree": "No module named 'matfree'"}


def test_a_library_that_does_not_load_or_cannot_begin_is_left_out_by_name(tiny, cache, monkeypatch):
    """As a PyTorch for another CUDA, or for older GPUs; what is wrong with ours is raised."""

    def imported(name: str) -> ModuleType:
        if name.endswith(failing):
            raise OSError("libcudnn.so.9: cannot open shared object file")
        return ours if name.endswith("jaxfair_jobs") else peer

    def refuse(problem):
        raise RuntimeError("no kernel image\nfor this GPU")

    peer, failing = ModuleType("peer"), "pyhessian_jobs"
    vars(peer).update(products=refuse, eigenvalues=refuse, DISTRIBUTION="peer")
    monkeypatch.setattr(libraries.importlib, "import_module", imported)
    options = {
        "operations": ["products", "eigenvalues"],
        "repeats": 1,
        "cache": cache,
        "methods": ["gradient start, error"],
    }
    found = measure.measure(tiny, ["jaxfair", "pyhessian", "matfree"], **options)
    missing = {"pyhessian": "libcudnn.so.9: cannot open shared object file"}
    missing |= {f"matfree: {operation}": "no kernel image" for operation in options["operations"]}
    assert found["environment"]["missing"] == missing
    assert all(name.startswith("jaxfair: ") for name in found["products"])
    failing = "jaxfair_jobs"
    with pytest.raises(OSError, match="libcudnn"):
        libraries.load(["jaxfair"])
    monkeypatch.setattr(ours, "margins", refuse)
    with pytest.raises(RuntimeError, match="no kernel image"):
        libraries.jobs({"jaxfair": ours}, "margins", tiny, {})


def test_more_images_are_shifts_of_the_same(tiny, cache):
    """Eight times as many: equal groups, the first of each unchanged, labels kept."""
    more = problems.load("tiny", cache, factor=100)
    assert np.bincount(more.group).tolist() == [400] * problems.GROUPS
    assert (np.asarray(more.y) // 2 == more.group).all()
    first = [np.flatnonzero(more.group == g)[:4] for g in range(problems.GROUPS)]
    np.testing.assert_array_equal(more.x[np.concatenate(first)], tiny.x)
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[0, 10, 10] = 255
    places = {tuple(np.argwhere(problems.shifted(image, copy)[0, ..., 0])[0]) for copy in range(49)}
    assert places == {(10 + i, 10 + j) for i in range(-3, 4) for j in range(-3, 4)}
    with pytest.raises(JaxfairError, match="There are 49 shifts"):
        problems.shifted(image, 49)


def test_a_trained_network_is_kept_and_a_broken_file_is_replaced(tiny, tmp_path):
    """The same parameters from disk, and again when the file was cut off."""
    trained = problems.load("tiny", tmp_path)
    (path,) = tmp_path.glob("*.npz")
    path.write_bytes(path.read_bytes()[:100])
    again = problems.load("tiny", tmp_path)
    for problem in (trained, again, problems.load("tiny", tmp_path)):
        np.testing.assert_array_equal(problem.params["head"]["kernel"], tiny.params["head"]["kernel"])


def test_operations_are_counted_from_shapes():
    """A matrix product and a convolution, also inside of a jitted function."""
    import jax

    def network(params, x):
        x = jax.lax.conv_general_dilated(x, params[0], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.jit(lambda p, x: x @ p)(params[1], x.reshape(2, -1))

    shapes = [(3, 3, 3, 5), (4 * 4 * 5, 7)]
    params, x = [np.ones(shape, np.float32) for shape in shapes], np.ones((2, 4, 4, 3), np.float32)
    assert timing.forward_flops(network, params, x) == 2 * (2 * 4 * 4 * 5 * 27 + 2 * 80 * 7)


@pytest.mark.parametrize("name", ["tiny", "tiny-bottleneck", "mlp"])
def test_pytorch_has_the_same_network(name, cache):
    """Logits and gradient of both libraries agree; skipped where PyTorch is not installed."""
    pytest.importorskip("torch")
    problem = problems.load(name, cache)
    found, _ = libraries.load(["jaxfair", "pytorch"])
    assert max(measure.check(problem, {"products": libraries.jobs(found, "products", problem)}).values()) < 1e-4
    # A parameter whose step is nearly nothing beside it is rounded to float32.
    assert measure.check(problem, {"training": libraries.jobs(found, "training", problem)}).get("step", 0) < 1e-3


@pytest.mark.slow  # its products, which are timed, are tested below
def test_a_gpt_tells_the_next_grey_level_from_those_before(cache):
    """Trained, it beats the levels' frequencies; no token knows those after it; labels are the tokens one further."""
    problem = problems.load("tiny-gpt", cache)
    tokens, following = np.array(problem.x), np.asarray(problem.y)
    np.testing.assert_array_equal(tokens[:, 1:], following[:, :-1])
    assert set(np.unique(tokens)) == set(range(problems.GREYS))
    logits = problem.logits_fn(problem.params, problem.x)
    assert logits.shape == (*tokens.shape, problems.GREYS)
    np.testing.assert_array_equal(logits, problem.logits_fn(problem.params, problem.x))
    share = np.bincount(following.ravel(), minlength=problems.GREYS) / following.size
    assert problem.loss(logits, problem.y).mean() < -(share[share > 0] * np.log(share[share > 0])).sum()
    tokens[:, 40:] = 0  # from the 41st on
    cut = problem.logits_fn(problem.params, jnp.asarray(tokens))
    np.testing.assert_allclose(cut[:, :40], logits[:, :40], atol=1e-5)
    assert np.abs(cut - logits)[:, 40:].max() > 0.1


def test_products_of_a_gpt_are_those_of_its_derivatives(cache):
    """Gradient, Hessian and Gauss-Newton product of the mean loss over tokens, each from its definition."""
    problem = problems.load("tiny-gpt", cache)
    flat, unravel = ravel_pytree(problem.params)
    jobs, v, (x, y) = ours.products(problem), ours.vector(problem), problem.batch

    def logits(p):
        return problem.logits_fn(unravel(p), x)

    def mean(z):
        return problem.loss(z, y).mean()

    gradient, product = jax.jvp(jax.grad(lambda p: mean(logits(p))), (flat,), (v,))
    z, moved = jax.jvp(logits, (flat,), (v,))
    curved = jax.jvp(jax.grad(mean), (z,), (moved,))[1]
    expected = {"gradient": gradient, "Hessian product": product}
    expected["Gauss-Newton product"] = jax.vjp(logits, flat)[1](curved)[0]
    for job in jobs.values():
        if job.quantity in expected:
            answer = job.answer(job.run())
            assert np.linalg.norm(answer - expected[job.quantity]) < 1e-5 * np.linalg.norm(answer), job.quantity
    assert ours.report(problem) == ours.margins(problem) == {}  # of classes and of images


def test_a_stage_that_was_stopped_midway_is_made_again(tmp_path, monkeypatch):
    """What is whole is kept, and what a machine lacks does not come by asking again."""
    asked = []

    class Ended:
        returncode = 0

        def __init__(self, words, **_):
            asked.append(words[words.index("--stage") + 1])

        def communicate(self, timeout):
            return "", ""

    monkeypatch.setattr(accelerator.subprocess, "Popen", Ended)
    missing = {
        "right": {},
        "benchmark": {"foolbox": "is not installed"},
        "layouts": {"NCHW": "was stopped after 9 seconds"},
    }
    for stage in accelerator.STAGES:
        (tmp_path / f"{stage.name}.json").write_text(json.dumps({"missing": missing.get(stage.name, {})}))
    told = []
    assert accelerator.run_all(tmp_path, 8, True, told.append) == {}
    assert asked == ["layouts"]
    assert len(told) == len(accelerator.STAGES)


def test_what_was_stopped_waits_for_what_is_not_there_and_has_what_is_left(tmp_path, monkeypatch):
    """A benchmark that does not fit would else take the minutes of the stages after it in every call."""
    asked = []
    monkeypatch.setattr(accelerator, "_run", lambda words, seconds: asked.append((words[4], seconds)) or "")
    stopped = {"missing": {"the rest": "benchmarks.measure was stopped after 295 seconds"}}
    (tmp_path / "benchmark.json").write_text(json.dumps(stopped))
    accelerator.run_all(tmp_path, 10, True)
    minutes = {stage.name: stage.minutes for stage in accelerator.STAGES}
    assert [name for name, _ in asked] == [name for name in minutes if name != "benchmark"] + ["benchmark"]
    found = dict(asked)
    assert found["layouts"] == 60 * minutes["layouts"]
    assert found["benchmark"] == pytest.approx(600, abs=10)
    accelerator.run_all(tmp_path / "other", 2 * sum(minutes.values()), True)  # there are minutes for more
    assert dict(asked)["layouts"] == 2 * 60 * minutes["layouts"]


def test_what_found_nothing_in_its_minutes_waits_as_well(tmp_path, monkeypatch):
    """It has all that is left at last; what is there in the end is kept."""
    asked = []
    reasons = {"benchmark": "it took more than 5.0 minutes"}
    monkeypatch.setattr(accelerator, "_run", lambda words, _: asked.append(words[4]) or reasons.get(words[4], ""))
    names = [stage.name for stage in accelerator.STAGES]
    assert accelerator.run_all(tmp_path, 10, True) == reasons
    accelerator.run_all(tmp_path, 10, True)
    assert asked == names + [name for name in names if name != "benchmark"] + ["benchmark"]
    (tmp_path / "benchmark.json").write_text('{"seconds": {}}')
    accelerator.run_all(tmp_path, 10, True)
    assert asked.count("benchmark") == 2


def test_a_stage_ends_with_its_command_and_so_does_what_it_has_started(tmp_path):
    """However that ended: a stage that went on would spoil the times of the next, and write into the same folder.

    A pipe that both have open has an end when both are gone.
    """
    os.mkfifo(alive := tmp_path / "alive")
    stage = "import subprocess, time; from jaxfair import processes; processes.end_with_parent(group=True);"
    stage += f"out = open('{alive}', 'w'); subprocess.Popen(['sh', '-c', 'sleep 60; echo on'], stdout=out);"
    command = "import sys; from benchmarks import accelerator"
    stage += "print('begun', file=out, flush=True); time.sleep(600)"
    command += f"; accelerator._run([sys.executable, '-c', {stage!r}], 600)"
    process = subprocess.Popen([sys.executable, "-c", command], cwd=ROOT)
    with alive.open() as seen:
        assert seen.readline() == "begun\n"
        process.kill()
        process.wait()
        assert seen.read() == ""


def test_a_page_without_answers_says_each_reason_once_and_the_command_fails(tmp_path, monkeypatch):
    """As where no stage can start: XLA's line has another time and process each time."""
    numbers = iter(range(100))
    refused = "Check failed\nF1130 14:48:{:02}.744018   303{:02} parse_flags.cc:234] Unknown flag in XLA_FLAGS: --x\n"

    class Failed:
        returncode, pid = -6, 0

        def __init__(self, words, **_):
            pass

        def communicate(self, timeout):
            return "", refused.format(number := next(numbers), number)

    monkeypatch.setattr(accelerator.subprocess, "Popen", Failed)
    with pytest.raises(SystemExit) as ended:
        accelerator.main(["--out", str(tmp_path), "--minutes", "8"])
    names = ", ".join(stage.name for stage in accelerator.STAGES)
    assert ended.value.code == f"Nothing was found: {names}: Unknown flag in XLA_FLAGS: --x"


JAX_ERROR = "import jax, jax.numpy as jnp; jax.jit(lambda: jnp.zeros(3) + jnp.zeros(4))()"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (JAX_ERROR, "TypeError: add got incompatible shapes for broadcasting: (3,), (4,)."),  # JAX has more lines then
        ("raise RuntimeError('out of memory\\nof buffers')", "RuntimeError: out of memory"),
        ("import sys; print('Convolutions by oneDNN.', file=sys.stderr); sys.exit('a sentence')", "a sentence"),
        ("import os; os.write(2, b'begun'); os.kill(os.getpid(), 9)", "it was killed, as the system does where memory"),
    ],
)
def test_a_process_that_failed_says_why(code, reason):
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answers.why(ended.stderr, ended.returncode).startswith(reason)


def test_the_minutes_of_a_stage_begin_with_its_process(tmp_path, monkeypatch):
    """Its parent counts from there, and ends it before it has saved anything if it counts from later on."""
    clock, given = itertools.count(0.0, 1000.0), []
    monkeypatch.setattr(accelerator, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(accelerator, "run_stage", lambda *arguments: given.append(arguments[-1]))
    for of, name in ((timing, "dispatch_inline"), (accelerator.processes, "end_with_parent")):
        monkeypatch.setattr(of, name, lambda **_: next(clock))
    accelerator.main(["--stage", "seeds", "--out", str(tmp_path), "--minutes", "2"])
    assert given == [120.0]


@pytest.mark.parametrize(
    ("change", "worst"), [({}, "0.0e+00"), ({"_step": math.nan}, "inf"), ({"product": "tf32"}, "0.0")]
)
def test_a_device_is_right_if_all_is_near_and_in_full_float32(change, worst, tmp_path, monkeypatch):
    """NaN is near to nothing, which Python's max passes over, and no number of JSON."""
    monkeypatch.setattr(right, "_curvature", lambda: ({"loss": 0.0}, True))
    for name in ("_distances", "_step"):
        monkeypatch.setattr(right, name, lambda name=name: change.get(name, 0.0))
    probe = {"product": "float32", "convolution": "float32", "fused": True, "kernels": "xla"}
    monkeypatch.setattr(right.hardware, "probe", lambda: probe | change)
    found = right.is_right()
    assert found["right"] == (not change)
    runs.write_json(tmp_path / "right.json", found)
    said = answers._right(answers.earlier(tmp_path, "right"))
    assert said.startswith(f"{'NO' if change else 'Yes'}: largest relative error {worst}")
    assert math.isnan(right._worst(0.0, math.nan))


def test_a_stage_alone_makes_its_folder(tmp_path, monkeypatch, capsys):
    """As the command that runs all of them does; the answer is told at once, and is on the page."""
    found = {"network": "one", "seconds": {"3 at once": 0.5}}
    monkeypatch.setitem(stages.WORK, "seeds", lambda out, *_: {**found, "there": out.is_dir()})
    accelerator.run_stage("seeds", tmp_path / "new" / "folder", True, 1.0)
    assert capsys.readouterr().out == "  cpu: Three of one, one epoch: 3 at once 0.5 s.\n"
    assert "Three of one" in (tmp_path / "new" / "folder" / "page.md").read_text()
    assert json.loads((tmp_path / "new" / "folder" / "seeds.json").read_text())["there"]
    (tmp_path / "file").write_text("")
    with pytest.raises(JaxfairError, match="there is a file where a folder is needed"):
        accelerator.run_stage("seeds", tmp_path / "file", True, 1.0)


def test_the_answers_of_two_devices_are_on_no_page(tmp_path):
    environment = {"device_count": 1, "device_kind": "cpu", "versions": {"jax": "0.10.2"}}
    accelerator._check_same(tmp_path, environment)
    (tmp_path / "seeds.json").write_text(json.dumps({"environment": environment}))
    accelerator._check_same(tmp_path, environment)
    with pytest.raises(JaxfairError, match=r"has answers of 1 x cpu, jax 0.10.2, and here is 1 x TPU v6e, jax 0.10.2;"):
        accelerator._check_same(tmp_path, environment | {"device_kind": "TPU v6e"})


def test_a_page_sets_libraries_beside_each_other_by_operation():
    rows = {"jaxfair: forward": 0.001, "torch: forward": 0.002, "torch: forward, channels_last": 0.0015}
    rows |= {"jaxfair: Hessian product, pass kept": 0.02, "jaxfair: Hessian product, recomputed": 0.03}
    said = answers._beside(rows | {"torch: Hessian product, compiled": 0.01})
    assert said == "forward: jaxfair 0.001 s, torch 0.0015 s; Hessian product: torch 0.01 s, jaxfair 0.02 s"


def test_what_is_measured_beside_libraries_is_on_the_page_beside_each_other(tmp_path, monkeypatch):
    """Steps of training, and eigenvalues by whatever method."""
    rows = {"products": {"jaxfair: gradient": {"median": 1.0}}, "report": {}}
    rows["training"] = {"jaxfair: SGD step": {"median": 2.0}, "pytorch: SGD step compiled": {"median": 3.0}}
    methods = {"jaxfair: gradient start": {"median": 4.0}, "pyhessian: power iteration": {"median": 5.0}, "x: lost": {}}
    rows |= {"eigenvalues": {"methods": methods}, "environment": {"missing": {}}}
    monkeypatch.setattr(stages, "_child", lambda *_, **__: runs.write_json(tmp_path / "measured-tiny.json", rows))
    said = answers._benchmark(stages.benchmark(tmp_path, True, 0))
    assert said.startswith(
        "tiny: gradient: jaxfair 1 s; training step: jaxfair 2 s, pytorch 3 s; "
        "eigenvalues at equal error: jaxfair 4 s, pyhessian 5 s. "
    )


def test_a_quickstart_that_was_stopped_is_not_timed_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "_child", lambda *_, **__: (tmp_path / "quickstart" / "runs").mkdir(parents=True))
    assert answers._quickstart(stages.quickstart(tmp_path, True, 0)).endswith(" s in all.")
    monkeypatch.setattr(stages, "_child", lambda *_, **__: "")
    said = answers._quickstart(stages.quickstart(tmp_path, True, 0))
    assert said.endswith(" s for what an earlier call had not made.")


WITHOUT_TYRO = """
import sys
sys.modules["tyro"] = None  # as where it is not installed
from benchmarks import studies
studies.do_without_tyro()
from experiments.hardware.settings import QUICKSTART
from experiments.hardware import bundles, study
from experiments.linearization import study
from experiments.linearization.settings import PRESETS
print(QUICKSTART.execution.executor, PRESETS["gpu"].execution.executor)
"""


def test_studies_of_an_accelerator_need_no_tyro():
    """Which reads command lines, and which such a machine may lack."""
    ended = subprocess.run([sys.executable, "-c", WITHOUT_TYRO], cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout == "here here\n", ended.stderr


def test_the_bundle_of_a_cpu_is_by_its_own_kernels(tmp_path, monkeypatch):
    """The process that makes it is started as the profile says, and not as this one was, for oneDNN's."""
    given = []

    def child(words, environment, seconds):
        given.append((words, environment))
        (tmp_path / "hardware-cpu.tar.gz").touch()

    monkeypatch.setattr(stages, "_child", child)
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to=there {ONEDNN}")
    assert stages.bundle(tmp_path, True, 0)["file"] == "hardware-cpu.tar.gz"
    ((words, environment),) = given
    assert words[:4] == ["-P", str(ROOT / "benchmarks" / "studies.py"), "bundle", "cpu"]
    assert environment["XLA_FLAGS"] == "--xla_dump_to=there"
    assert environment["JAX_PLATFORMS"] == "cpu"


@pytest.mark.parametrize("out", [".", ""])
def test_an_accelerator_is_given_a_folder_of_its_own(out, tmp_path, monkeypatch):
    """An unset variable is the folder in which the command was given."""
    (tmp_path / "thesis.tex").write_text("mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(accelerator, "run_all", lambda *_: pytest.fail("there was work before"))
    with pytest.raises(SystemExit, match=r"'\.' holds something else than answers; name a new folder as --out\."):
        accelerator.main(["--out", out])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_accelerator_is_given_a_time(tmp_path, capsys):
    for minutes in ("0", "nan", "inf", "-3"):
        with pytest.raises(SystemExit):
            accelerator.main(["--out", str(tmp_path), "--minutes", minutes])
        assert f"--minutes is {minutes}; give a number above 0" in capsys.readouterr().err


def test_impossible_numbers_of_workers_are_refused_before_the_first_run(monkeypatch, capsys):
    monkeypatch.setattr(executors, "measure", lambda *_: pytest.fail("runs were made"))
    with pytest.raises(SystemExit) as ended:
        executors.main(["--workers", "2", "0"])
    assert ended.value.code == 2
    assert "--workers 2 0 --count 12: give numbers above 0" in capsys.readouterr().err


@pytest.mark.slow
def test_a_cpu_runs_what_an_accelerator_is_asked(tmp_path):
    """All stages on tiny problems; what is right is said to be, and given again the command does nothing."""
    accelerator.main(["--out", str(tmp_path), "--minutes", "20", "--small"])
    page = (tmp_path / "page.md").read_text()
    assert "**Is this device right?** Yes" in page
    assert all((tmp_path / f"{stage.name}.json").is_file() for stage in accelerator.STAGES), page
    assert len(page.splitlines()) < 25
