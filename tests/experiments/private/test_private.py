"""Private inference: its format, its bound, its costs, and a process that fails; SPU itself where it is installed."""

import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.private import __main__ as command
from experiments.private import bound, engine, page, protocol, study
from experiments.private.settings import Private
from jaxfair import JaxfairError, networks
from jaxfair.change import change_report
from jaxfair.networks import CNN, Gathered, ResNet, gathered, layers, masks
from tests.study import made_once

IMAGE = (8, 8, 1)
MODULES = {"resnet": ResNet((1, 1), num_classes=3, width=2), "cnn": CNN(num_classes=3, features=(2, 2))}
each_module = pytest.mark.parametrize("kind", MODULES)
needs_spu = pytest.mark.skipif(not protocol.ENVIRONMENT.exists(), reason=f"no environment for SPU: {protocol.SETUP}")


@functools.cache
def small(kind: str, share: float = 0.25) -> Gathered:
    network = networks.init(MODULES[kind], IMAGE, seed=0)
    budget = round(share * masks.unit_count(network.masks))
    return gathered(network.replace(masks=masks.keep_random(network.masks, budget, jax.random.key(1))))


@functools.cache
def images(count: int = 4) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(count, *IMAGE)).astype(np.float32)


@each_module
def test_what_the_engine_reads_is_the_network(kind: str, tmp_path: Path) -> None:
    network = small(kind)
    protocol.write_request(tmp_path, network, images(), protocol="aby3", fraction_bits=18, batch=2)
    request, module, found, arrays = engine.read(tmp_path)
    assert module is not layers, "the interpreter is loaded by its path"
    assert (request["protocol"], request["fraction_bits"], request["batch"]) == ("aby3", 18, 2)
    logits = module.run(found, arrays["weights"], arrays.get("kept", {}), arrays["images"][""])[-1]
    expected = np.asarray(network(images()))
    np.testing.assert_allclose(logits, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def fixed_point(network: Gathered, bits: int, cut: Any) -> np.ndarray:
    """Compute as a protocol does: encoded weights and images, and ``cut(units)`` eps of error at each cut product."""
    weights = {name: bound.round_down(array, bits) for name, array in network.weights.items()}
    eps = 2.0**-bits

    def change(i: int, value: jax.Array) -> jax.Array:
        exact = network.layers[i].op not in (*layers.LINEAR, "mean", "pool")
        return value if exact else value + eps * jnp.asarray(cut(value.shape), jnp.float32)

    return np.asarray(layers.run(network.layers, weights, network.kept, bound.round_down(images(), bits), change)[-1])


@each_module
@pytest.mark.parametrize("bits", [8, 14])
def test_errors_of_products_stay_within_the_bound(kind: str, bits: int) -> None:
    """Random errors, and all of one sign, which add up: the bound must hold and must not be far away."""
    network, rng = small(kind), np.random.default_rng(3)
    limit = bound.logit_error(network, images(), bits, "aby3")
    cuts = [lambda shape: rng.uniform(-1, 1, shape), np.ones, lambda shape: -np.ones(shape)]
    errors = np.array([np.abs(fixed_point(network, bits, cut) - np.asarray(network(images()))) for cut in cuts])
    assert (errors < limit).all()
    assert errors.max() > limit.max() / 50
    assert limit.max() < 200 * 2.0**-bits * 2


def test_the_bound_is_exact_where_every_error_can_add_up() -> None:
    """Without ReLUs the errors that have the signs of the derivatives reach it."""
    network, bits = small("cnn", 0.0), 10
    limit = bound.logit_error(network, images(), bits, "aby3")
    rounded = fixed_point(network, bits, np.zeros)
    known = np.abs(rounded - np.asarray(network(images())))
    eps = 2.0**-bits
    # By hand: each of two convolutions, two pools and the head, by the absolute sums of the affine map behind it.
    shapes: list[tuple[int, ...]] = []
    layers.run(network.layers, network.weights, network.kept, images(1), lambda i, v: shapes.append(v.shape) or v)
    weights = {name: bound.round_down(array, bits) for name, array in network.weights.items()}

    def moved(sources: list[jax.Array]) -> jax.Array:
        return layers.run(network.layers, weights, {}, jnp.zeros((1, *IMAGE)), lambda i, v: v + sources[i])[-1][0]

    slopes = jax.jacobian(moved)([jnp.zeros(shape) for shape in shapes])
    cut = [i for i, layer in enumerate(network.layers) if layer.op != "flatten"]
    by_hand = sum(np.abs(slopes[i]).reshape(3, -1).sum(axis=1) for i in cut) * eps
    np.testing.assert_allclose(limit, known + by_hand, rtol=1e-4)


def test_values_that_wrap_around_are_refused() -> None:
    with pytest.raises(JaxfairError, match=r"With 24 fraction bits, products of values up to .* fewer bits"):
        bound.logit_error(small("cnn"), 1e6 * images(1), 24, "aby3")


PROFILE = """
- pphlo.less, executed 4 times, duration 0.5s, send bytes 300 recv bytes 300, send actions 6, recv actions 6
- f_tensordot, executed 9 times, duration 1.5s, send bytes 1000 recv bytes 7, send actions 20, recv actions 3
- f_less, executed 4 times, duration 0.5s, send bytes 300 recv bytes 300, send actions 6, recv actions 6
[info] SPU execution <lambda> completed, input processing took 1e-05s, execution took 4.5s, output processing
- mixed_mul, executed 4 times, duration 5e-1s, send bytes 60 recv bytes 0, send actions 3, recv actions 0
- f_mmul, executed 1 times, duration 0.25s, send bytes 40 recv bytes 0, send actions 1, recv actions 0
[info] Link details: total send bytes 1408, recv bytes 307, send actions 31, recv actions 9
"""


def test_costs_are_means_over_parties() -> None:
    comparisons, linear, whole = protocol.costs_of(PROFILE + PROFILE.replace("300", "500").replace("1408", "1608"), 2)
    assert comparisons == (460, 9, 1.0)
    assert linear == (1040, 21, 1.75)
    assert whole == (1508, 31, 4.5)
    with pytest.raises(JaxfairError, match="no profile that is understood"):
        protocol.costs_of("another version", 2)


def environment(folder: Path, script: str) -> Path:
    """Return an environment whose Python is a shell script."""
    python = folder / "environment" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    python.chmod(0o755)
    return folder / "environment"


def infer(where: Path, **options: Any) -> protocol.Answer:
    return protocol.infer(small("cnn"), images(), "aby3", options.pop("bits", 18), environment=where, **options)


def test_a_process_that_dies_says_its_last_lines(tmp_path: Path) -> None:
    where = environment(tmp_path, "echo lost the other party >&2; kill -9 $$")
    with pytest.raises(JaxfairError, match=r"by aby3 ended with status -9; its last lines: 'lost the other party'"):
        infer(where)


def test_a_process_that_hangs_is_ended(tmp_path: Path) -> None:
    where = environment(tmp_path, "echo waiting; exec sleep 60")
    begun = time.monotonic()
    with pytest.raises(JaxfairError, match=r"longer than 0.5 seconds; .* by --timeout\. Its last lines: 'waiting'"):
        infer(where, timeout=0.5)
    assert time.monotonic() - begun < 50, "it was waited for"


def test_a_process_that_answers_nothing_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(JaxfairError, match="ended with status 0; its last lines: none"):
        infer(environment(tmp_path, "exit 0"))


def test_the_process_gets_no_flags_of_this_jax(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_unknown=1")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    with pytest.raises(JaxfairError, match=r"last lines: 'JAX_PLATFORMS=cpu'"):
        infer(environment(tmp_path, "env | grep -E '^(XLA|JAX)_'; exit 1"))


def test_what_is_missing_is_said_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = str(tmp_path / "none")
    assert command.main(["study", "--out", str(tmp_path / "out"), "--environment", nowhere]) == 1
    assert (
        capsys.readouterr().err
        == "error: There is no environment for private inference in 'none'; make it: make mpc.\n"
    )
    assert command.main(["setup", "--python", "no-such-python", "--environment", nowhere]) == 1
    assert "SPU needs Python 3.10 or 3.11, and 'no-such-python' is not one that starts" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    with pytest.raises(JaxfairError, match="There are to be 40 fraction bits; give 4 to 24"):
        infer(environment(tmp_path, "exit 0"), bits=40)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fraction_bits": (8, 8)}, "--fraction-bits is 8 8; give one or more, each once"),
        ({"protocols": ("aby3", "aby3")}, "--protocols is aby3 aby3; give one or more, each once"),
        ({"methods": ()}, "--methods is empty; give one or more"),
        ({"bound_images": -1}, "--bound-images is -1; give 0 or more"),
        ({"wan_latency": -0.05}, "--wan-latency is -0.05; give 0 or more"),
        ({"lan_latency": float("nan")}, "--lan-latency is nan; give 0 or more"),
        ({"out": Path("study")}, "The report of 'study' would be replaced; give another folder as --out"),
        ({"out": Path("full")}, "holds something else than a report"),
    ],
)
def test_impossible_settings_are_refused_first(
    options: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(protocol, "check_environment", lambda _: None)
    (tmp_path / "full" / "report").mkdir(parents=True)
    (tmp_path / "full" / "report" / "notes.txt").touch()
    config = dataclasses.replace(Private(Path("study"), out=Path("out")), **options)
    with pytest.raises(JaxfairError, match=re.escape(said)):
        study.check(config)


def test_an_environment_that_cannot_be_made_is_not_left(tmp_path: Path) -> None:
    """A Python that starts, but cannot make environments."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$1" in -c) exit 0;; esac\nmkdir -p "$3"; echo no ensurepip; exit 1\n')
    python.chmod(0o755)
    with pytest.raises(JaxfairError, match=r"cannot be made: 'no ensurepip'"):
        protocol.set_up(tmp_path / "made", str(python))
    assert not (tmp_path / "made").exists()


def test_the_engine_ends_with_its_parent() -> None:
    code = f"import sys; sys.path.insert(0, {str(Path(engine.__file__).parent)!r}); import engine, time\n"
    code += "engine.end_with_parent(); print('on', flush=True); time.sleep(60)"
    read, write = os.pipe()
    child = subprocess.Popen([sys.executable, "-c", code], stdin=read, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "on\n"
    os.close(write)
    os.close(read)
    assert child.wait(timeout=30) == 1
    child.stdout.close()


def test_only_names_and_versions_are_pinned() -> None:
    lines = protocol.CONSTRAINTS.read_text(encoding="utf-8").split()
    assert all(line.count("==") == 1 and "/" not in line for line in lines)
    assert {"spu==0.9.5", "jax==0.4.34"} <= set(lines)


def pretend(network: Gathered, x: np.ndarray, kind: str, bits: int, **_: Any) -> protocol.Answer:
    """Answer as a protocol would that has no error but that of encoding, and counts a byte for each ReLU."""
    weights = {name: bound.round_down(array, bits) for name, array in network.weights.items()}
    logits = np.asarray(layers.run(network.layers, weights, network.kept, bound.round_down(x, bits))[-1])
    part = protocol.Part(float(network.comparisons * len(x)), 2.0, 0.1)
    linear, whole = protocol.Part(1000.0, 3.0, 0.2), protocol.Part(part.sent + 1000, 10.0, 0.5)
    versions = {"python": "3.10", "spu": "0", "jax": "0"}
    return protocol.Answer(logits, part, linear, whole, network.comparisons * len(x), 0.5, versions)


def test_a_study_is_told_in_tables(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_once(tmp_path_factory.getbasetemp())
    monkeypatch.setattr(protocol, "infer", pretend)
    options = ["--environment", str(environment(tmp_path, "")), "--fraction-bits", "4", "12", "--images", "18"]
    out = tmp_path / "out"
    assert command.main([str(made), "--out", str(out), *options, "--bound-images", "0"]) == 0
    numbers = json.loads((out / "report" / "private.json").read_text(encoding="utf-8"))
    costs, accuracy = numbers["costs"], numbers["accuracy"]
    assert [row["relus"] for row in costs] == [768, 768, 384, 384]
    assert [row["protocol"] for row in costs] == ["aby3", "cheetah"] * 2
    first = costs[0]
    assert first["bytes"] == first["comparison_bytes"] + first["linear_bytes"] + first["other_bytes"] == 1768
    assert first["lan_seconds"] == pytest.approx(1768 / 1.25e8 + 10 * 5e-4)
    assert first["wan_seconds"] == pytest.approx(1768 / 1.25e7 + 10 * 0.05)
    assert first["garbled_bytes"] == 768 * study.GARBLED
    assert [row["bits"] for row in accuracy] == [4, 12, 4, 12]
    assert all(row["images"] == 18 and row["bound"] is None for row in accuracy)
    assert accuracy[0]["error"] > accuracy[1]["error"] > 0
    groups = [row for row in numbers["groups"] if (row["network"], row["bits"]) == ("Full network", 4)]
    assert sum(row["images"] for row in groups) == 18
    flips = sum(row["flipped"][0] * row["images"] for row in groups) / 100
    assert round(flips, 6) == accuracy[0]["flips"]
    text = (out / "report" / "report.html").read_text(encoding="utf-8")
    assert "LAN: 125 MB a second, 0.5 ms a message." in text
    assert str(made.parent) not in text
    assert numbers["differences"] == []
    assert "<p>No group can be compared with 8, the group with the most images.</p>" in text
    absent = set("0123456789") - {row["group"] for row in groups}
    assert f"None of the images that were drawn is of group {', '.join(sorted(absent))}; give more by" in text
    assert {"costs.csv", "accuracy.csv", "groups.csv"} <= {path.name for path in (out / "report").iterdir()}


def found_of(right: Mapping[str, tuple[np.ndarray, np.ndarray]], group: np.ndarray, bits: int = 8) -> study.Found:
    """Return a study by where each of its networks is right before and after, each of shape (images,)."""
    changes, contrasts = {}, {}
    for label, sides in right.items():
        before, after = (np.where(side, 0, 1) for side in sides)
        changes[label, bits] = change_report(before, after, None, np.zeros(len(group), int), group)
        contrasts[label, bits] = study.contrasts(changes[label, bits], sides, group)
    return study.Found(tuple(right), [], [], changes, contrasts, [], {})


PEOPLE = np.repeat(["a", "b", "rare"], [400, 200, 100])


def losing(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where a network is right that loses so many images of group b, and is never right in group rare."""
    before = PEOPLE != "rare"
    return before, before & ~((PEOPLE == "b") & (np.arange(700) < 400 + count))


def test_all_networks_of_a_page_are_judged_together() -> None:
    """What one network alone would show to be beyond noise may be chance where five others are looked at."""
    few = {f"SNL {i}": losing(7 if i == 1 else 0) for i in range(6)}
    found = found_of(few, PEOPLE)
    assert [one.verdict for one in found.changes["SNL 1", 8].differences] == ["more"]
    rows = study.difference_rows(found)
    assert [row["lost"] for row in rows] == ["within noise"] * 6
    assert (rows[0]["network"], rows[0]["group"], rows[0]["reference"]) == ("SNL 1", "b", "a")
    assert rows[0]["corrected"] == pytest.approx(6 * rows[0]["p_value"])
    said, rest = study.judged(found)
    assert said.startswith("With 8 fraction bits, no group lost more or less accuracy than a beyond noise.")
    assert "b lost 3.5 points more than a on SNL 1 (" in said
    assert "corrected for 6 comparisons" in said
    assert rest.startswith("Where a network in floating point is right too seldom for a relative drop, rare on SNL 0 ")
    row = dict.fromkeys((column.name for column in page.ACCURACY), 8)
    text = page.page(Private(Path("study"), Path("out")), "Title", found._replace(accuracy=[row]), {})
    assert f"<p>{said}</p>" in text
    assert text.count('<td class="word">within noise</td>') == 6
    many = study.judged(found_of(few | {"SNL 1": losing(40)}, PEOPLE))[0]
    assert many.startswith("With 8 fraction bits, b lost 20.0 points more than a on SNL 1 (")
    assert many.endswith("The other 5 differences are within noise.")


def test_a_network_alone_is_judged_as_it_was() -> None:
    found = found_of({"SNL 1": losing(7)}, PEOPLE)
    (one,), (of,) = study.differences(found), found.changes["SNL 1", 8].differences
    assert (one.p_value, one.corrected, one.verdict) == (of.p_value, of.corrected, of.verdict)
    np.testing.assert_allclose(one.points, (of.points, of.low, of.high))
    alone = found_of({"SNL 1": losing(7)}, np.repeat("a", 700))
    assert study.judged(alone) == ["There is no second group to compare with."]
    assert study.judged(alone._replace(absent=("c", "d")))[1:] == [
        "None of the images that were drawn is of group c, d; give more by --images."
    ]
    assert study.difference_rows(alone) == []


def test_verdicts_over_networks_err_as_seldom_as_one() -> None:
    """Six networks whose groups lose alike: in at most 5 % of test sets any is called beyond noise."""
    rng, group, false = np.random.default_rng(0), np.repeat(["a", "b", "c"], [300, 200, 200]), np.zeros(2, int)
    for _ in range(100):
        before = rng.random((6, len(group))) < 0.9
        after = before & (rng.random(before.shape) >= 0.05)
        found = found_of({f"SNL {i}": pair for i, pair in enumerate(zip(before, after, strict=True))}, group)
        alone = (of.verdict != "within noise" for report in found.changes.values() for of in report.differences)
        false += [any(of.beyond for of in study.differences(found)), any(alone)]
    assert false[0] <= 10  # nominal 5
    assert false[1] > 10  # where each network is judged by itself, nominal 26


def test_the_largest_error_is_compared_with_its_own_bound() -> None:
    network = small("cnn")
    limit = bound.logit_error(network, images(), 10, "aby3")
    logits = np.asarray(network(images())).copy()
    logits[2, 1] += 3 * limit[2, 1]
    found = study.bounds(network, 10, images(), logits)
    assert found == {"bound": limit.max(), "of_bound": pytest.approx(3, rel=1e-2)}


def test_a_compiler_that_compares_other_units_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def more(*given: Any, **options: Any) -> protocol.Answer:
        return pretend(*given, **options)._replace(compared=7)

    monkeypatch.setattr(protocol, "infer", more)
    config = study.Private(Path("study"), Path("out"))
    with pytest.raises(JaxfairError, match="SPU compared 7 numbers where"):
        study._infer(config, small("cnn"), images(), "aby3", 18)


@needs_spu
@pytest.mark.slow
@each_module
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_spu_computes_the_network_within_the_bound(kind: str, share: float) -> None:
    network = small(kind, share)
    expected = np.asarray(network(images()))
    runs: list[tuple[protocol.Protocol, int]] = [("aby3", 18), ("aby3", 8)]
    for name, bits in runs if share != 0.25 else [*runs, ("cheetah", 12)]:
        answer = protocol.infer(network, images(), name, bits, batch=3)
        assert (np.abs(answer.logits - expected) < bound.logit_error(network, images(), bits, name)).all()
        assert answer.compared == network.comparisons * len(images())
        assert (answer.comparisons.sent > 0) == (network.comparisons > 0)
        assert answer.whole.sent >= answer.comparisons.sent + answer.linear.sent > 0
