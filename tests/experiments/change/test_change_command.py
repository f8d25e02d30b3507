"""The command for predictions in files: joined by ids, in any format and order, and what it refuses."""

import json
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.change import page
from experiments.change.__main__ import main
from experiments.change.predictions import Names, join
from jaxfair import change_report
from jaxfair.errors import JaxfairError
from tests.experiments.page import Page

N = 120
RNG = np.random.default_rng(0)
IDS = [f"p{i:03d}" for i in range(N)]
LABEL = np.array(["no", "yes"])[RNG.integers(0, 2, N)]
GROUP = np.where(np.arange(N) % 3 == 0, "small", "large & old")
LOGITS = RNG.normal(size=(2, N, 2)).astype(np.float32) + 2.0 * (np.array([["no"], ["yes"]]) == LABEL).T
LOGITS[1] = np.where((GROUP == "small")[:, None], LOGITS[1, :, ::-1], LOGITS[0])
PREDICTED = np.array(["no", "yes"])[LOGITS.argmax(axis=2)]
Columns = Mapping[str, Sequence[Any]]


def write(path: Path, columns: Columns, order: Sequence[int] | None = None) -> Path:
    """Write columns in the format of the path's suffix, their rows in an order."""
    order = list(range(len(next(iter(columns.values()))))) if order is None else order
    rows = {name: [cells[i] for i in order] for name, cells in columns.items()}
    if path.suffix == ".npz":
        arrays: dict[str, Any] = {name: np.array(cells) for name, cells in rows.items()}
        np.savez(path, **arrays)
    elif path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({name: np.array(cells).tolist() for name, cells in rows.items()}), path)
    else:
        lines = [rows, *zip(*rows.values(), strict=True)]
        path.write_text("\n".join(",".join(map(str, line)) for line in lines) + "\n", encoding="utf-8")
    return path


def files(folder: Path, suffix: str = ".csv", **changes: Columns) -> dict[str, Path]:
    """Write predicted classes before and after, labels and groups, each file in another order."""
    columns = {
        "before": {"id": IDS, "predicted": PREDICTED[0]},
        "after": {"predicted": PREDICTED[1], "id": IDS},
        "people": {"id": IDS, "label": LABEL, "group": GROUP},
    } | changes
    found = {}
    for seed, (name, cells) in enumerate(columns.items()):
        order = np.random.default_rng(seed).permutation(len(cells["id"]))
        found[name] = write(folder / f"{name}{suffix}", cells, order.tolist())
    return found


def run(found: Mapping[str, Path], out: Path, *more: str) -> int:
    given = ["--before", str(found["before"]), "--after", str(found["after"]), "--groups", str(found["people"])]
    return main([*given, "--out", str(out), *more])


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_rows_are_joined_by_their_ids(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In any format and order the report is that of the arrays in one order; the page is whole and loads nothing."""
    assert run(files(tmp_path, suffix), tmp_path / "out", "--title", "Trial <1>") == 0
    report = tmp_path / "out" / "report"
    found = json.loads((report / "report.json").read_text(encoding="utf-8"))
    codes = (PREDICTED == "yes").astype(int)
    expected = change_report(codes[0], codes[1], None, (LABEL == "yes").astype(int), GROUP)
    for name in ("count", "accuracy_before", "relative_drop", "broken", "mcnemar"):
        np.testing.assert_allclose(found[name], expected.columns()[name])
    assert capsys.readouterr().out.startswith(expected.answer())
    page = Page((report / "report.html").read_text(encoding="utf-8"))
    assert not [load for load in page.loads if not load.startswith("#")]
    assert "Trial <1>" in page.text
    assert expected.answer() in page.text
    assert any("large & old" in row for row in page.rows)
    assert "no loss" in page.text  # why that figure cannot be drawn
    assert "A group of fewer than 45 examples has no interval of it." in page.text
    assert "accuracy before - accuracy after, in percentage points." in page.text
    assert (report / "differences.csv").exists()


def scores(prefix: str, values: np.ndarray, classes: Sequence[str] = ("no", "yes")) -> dict[str, Sequence[Any]]:
    return {"id": IDS, **{f"{prefix}_{name}": column for name, column in zip(classes, values.T, strict=True)}}


def test_probabilities_are_as_good_as_logits(tmp_path: Path) -> None:
    """Their classes may stand in another order, and the losses are those of the logits; two runs are two files."""
    shares = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=2, keepdims=True)
    before = write(tmp_path / "logits.csv", scores("logits", LOGITS[0]))
    after = [
        write(tmp_path / f"after{i}.csv", scores("probabilities", shares[1, :, ::-1], ("yes", "no"))) for i in (0, 1)
    ]
    people = files(tmp_path)["people"]
    joined = join([before], after, people, Names())
    y = (LABEL == "yes").astype(int)
    found = change_report(joined.before, joined.after, None, joined.y, joined.group)
    expected = change_report(LOGITS[0], LOGITS[1], None, y, GROUP)
    np.testing.assert_allclose(found.loss_rise.value, expected.loss_rise.value, rtol=1e-4, atol=1e-6)
    assert found.runs == 2
    assert found.exemplars is not None


def test_a_probability_of_zero_has_no_loss_and_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    certain = np.eye(2)[LOGITS[1].argmax(axis=1)]
    found = files(tmp_path, before=scores("probabilities", certain), after=scores("probabilities", certain))
    assert run(found, tmp_path / "out") == 0
    assert "whose loss is infinite" in capsys.readouterr().err


def test_a_tie_goes_to_the_class_that_the_file_says(tmp_path: Path) -> None:
    """Two digits tie often; without a predicted class the first counts, which is said."""
    even = np.full((N, 2), 0.5)
    told = {**scores("probabilities", even), "predicted": PREDICTED[0]}
    found = files(tmp_path, before=told, after=scores("probabilities", even))
    joined = join([found["before"]], [found["after"]], found["people"], Names())
    np.testing.assert_array_equal(joined.before[0].argmax(axis=1), PREDICTED[0] == "yes")
    np.testing.assert_allclose(joined.before[0], np.log(0.5), rtol=1e-15)
    assert joined.notes == ("'after.csv' has equal largest scores for 120 ids, whose first class is predicted.",)


@pytest.mark.parametrize("classes", [3, 10])
def test_probabilities_may_be_rounded(classes: int, tmp_path: Path) -> None:
    shares = np.random.default_rng(0).dirichlet(np.ones(classes), N).round(2)
    assert np.abs(shares.sum(axis=1) - 1).max() > 1e-3
    names = [*map(str, range(classes))]
    people = {"id": IDS, "label": np.arange(N) % classes, "group": GROUP}
    found = files(tmp_path, people=people, before=scores("probabilities", shares, names))
    joined = join([found["before"]], [found["before"]], found["people"], Names())
    np.testing.assert_array_equal(np.exp(joined.before[0]) if joined.before[0].ndim > 1 else shares, shares)


def test_a_class_may_be_ruled_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ruled = np.where(np.arange(2) == (LABEL == "no")[:, None].astype(int), -np.inf, LOGITS[0])
    found = files(tmp_path, before=scores("logits", ruled), after=scores("logits", LOGITS[0]))
    assert run(found, tmp_path / "out") == 0


def test_an_option_of_files_is_given_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = files(tmp_path)
    assert run(found, tmp_path / "out", "--before", str(found["after"])) == 1
    assert capsys.readouterr().err == "error: The option --before is given twice; give all of its values after one.\n"


def test_figures_have_the_whole_names_of_groups() -> None:
    """In lines, as those of studies do: two may differ in their middles alone."""
    long = "people who are {} years of age or older and live in the north of the county"
    codes = (PREDICTED == "yes").astype(int)
    group = np.where(GROUP[0] == GROUP, long.format(18), long.format(65))
    report = change_report(codes[0], codes[1], None, (LABEL == "yes").astype(int), group)
    (axes,) = page.draw_drops(report).axes
    shown = [" ".join(label.get_text().split()).rpartition(" (")[0] for label in axes.get_yticklabels()]
    assert sorted(shown) == [long.format(18), long.format(65)]


def test_names_that_collide_are_refused(tmp_path: Path) -> None:
    people = {"id": IDS, "label": LABEL, "r": ["A & B"] * 60 + ["A"] * 60, "s": ["C"] * 60 + ["B & C"] * 60}
    found = files(tmp_path, people=people)
    with pytest.raises(JaxfairError, match="Two intersections are called 'A & B & C'; rename values that hold '&'"):
        join([found["before"]], [found["after"]], found["people"], Names(group=("r", "s")))
    np.savez(tmp_path / "twice.npz", id=IDS, logits=LOGITS[0], logits_0=LOGITS[0][:, 0])
    with pytest.raises(JaxfairError, match="has two columns 'logits_0', one of them in an array"):
        join([tmp_path / "twice.npz"], [found["after"]], found["people"], Names(group=("r",)))


def test_classes_that_are_numbers_are_compared_as_such(tmp_path: Path) -> None:
    """As pandas writes them once a cell was missing."""
    label = (LABEL == "yes").astype(int)
    people = {"id": IDS, "label": label, "group": GROUP, "age": np.arange(N) % 2}
    same = files(tmp_path, people=people, before={"id": IDS, "predicted": label.astype(float)})
    joined = join([same["before"]], [same["before"]], same["people"], Names(group=("group", "age")))
    np.testing.assert_array_equal(joined.before[0], joined.y)
    assert joined.classes == ("0", "1")
    assert set(joined.group) == {f"{group} & {age}" for group in set(GROUP) for age in (0, 1)}


@pytest.mark.parametrize("codes", [("250.0", "250.00"), ("007", "7")])
def test_spellings_that_a_column_tells_apart_are_classes(codes: tuple[str, str], tmp_path: Path) -> None:
    """As text of any kind: the one is no right answer to the other, and each may have scores of its own."""
    of = np.array(codes)
    label = of[(LABEL == "yes").astype(int)].tolist()
    people, first = {"id": IDS, "label": label, "group": GROUP}, {"id": IDS, "predicted": [codes[0]] * N}
    after = {**scores("logits", LOGITS[0], codes), "predicted": of[LOGITS[0].argmax(axis=1)].tolist()}
    found = files(tmp_path, people=people, before=first, after=after)
    joined = join([found["before"]], [found["after"]], found["people"], Names())
    assert joined.classes == codes
    np.testing.assert_array_equal(joined.y, LABEL == "yes")
    np.testing.assert_array_equal(joined.before[0], np.zeros(N))
    np.testing.assert_array_equal(joined.after[0], LOGITS[0])
    found = files(tmp_path, people=people, before={**first, "label": label[::-1]})
    with pytest.raises(JaxfairError, match="have other labels for"):
        join([found["before"]], [found["before"]], found["people"], Names())


def test_classes_that_are_never_a_label_are_said(tmp_path: Path) -> None:
    """A column beside the classes', such as the largest logit, or an answer that is none."""
    more = {**scores("logits", LOGITS[0]), "logits_max": LOGITS[0].max(axis=1)}
    unsure = {"id": IDS, "predicted": ["unsure", *PREDICTED[1][1:]]}
    found = files(tmp_path, before=more, after=more)
    joined = join([found["before"]], [found["after"]], found["people"], Names())
    assert joined.notes[0] == "'before.csv' knows classes that are never a label: max."
    found = files(tmp_path, after=unsure)
    joined = join([found["before"]], [found["after"]], found["people"], Names())
    assert joined.notes == ("'after.csv' knows classes that are never a label: unsure.",)


def test_of_logits_and_probabilities_those_count_that_are_named(tmp_path: Path) -> None:
    wrong = {f"calib_{name}": (PREDICTED[0] != name).astype(float) for name in ("no", "yes")}
    found = files(tmp_path, after={**scores("logits", LOGITS[0]), **wrong})
    joined = join([found["before"]], [found["after"]], found["people"], Names(probabilities="calib"))
    assert (joined.after[0] == 1 - joined.before[0]).all()  # classes, since probabilities of 0 have no loss


@pytest.mark.parametrize(
    ("option", "name", "message"),
    [
        ("probabilities", "calibratd", "has a column 'calibratd_CLASS', as --probabilities says; did you mean 'calib"),
        ("logits", "zzz", "has a column 'zzz_CLASS', as --logits says; choose from calibrated"),
        ("predicted", "predict", "has a column 'predict', as --predicted says; did you mean 'predicted'"),
    ],
)
def test_no_other_column_counts_for_one_that_is_named(option: str, name: str, message: str, tmp_path: Path) -> None:
    shares = scores("calibrated", np.full((N, 2), 0.5))
    found = files(tmp_path, after={**shares, "predicted": PREDICTED[0]})
    join([found["before"]], [found["after"]], found["people"], Names(probabilities="calibrated"))
    with pytest.raises(JaxfairError, match=f"No file of predictions {message}"):
        join([found["before"]], [found["after"]], found["people"], Names()._replace(**{option: name}))


def test_one_file_is_one_run(tmp_path: Path) -> None:
    found = files(tmp_path)
    again = tmp_path / ".." / tmp_path.name / "after.csv"
    with pytest.raises(JaxfairError, match=r"after\.csv' is given twice for one side"):
        join([found["before"]], [found["after"], again], found["people"], Names())
    join([found["before"]], [found["before"]], found["people"], Names())


def test_long_codes_are_compared_digit_by_digit(tmp_path: Path) -> None:
    """As those of medicine: two that differ beyond 2**53 are one number of floating point."""
    codes = np.array(["900000000000207008", "900000000000207009"])
    people = {"id": IDS, "label": codes[(LABEL == "yes").astype(int)], "group": GROUP}
    before = {"id": IDS, "predicted": people["label"], "label": codes[[0] * N]}
    found = files(tmp_path, people=people, before=before)
    with pytest.raises(JaxfairError, match="have other labels for"):
        join([found["before"]], [found["before"]], found["people"], Names())


def test_what_is_not_asked_for_is_not_read(tmp_path: Path) -> None:
    people = {"id": IDS, "label": LABEL, "group": GROUP, "image": [b"\xff\xd8"] * N}
    found = files(tmp_path, ".parquet", people=people)
    join([found["before"]], [found["after"]], found["people"], Names())
    with pytest.raises(JaxfairError, match="The group column 'group' is named twice"):
        join([found["before"]], [found["after"]], found["people"], Names(group=("group", "group")))


def test_an_earlier_report_of_other_files_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, out = files(tmp_path), tmp_path / "out"
    other = {**found, "before": found["after"], "after": found["before"]}
    for given, kept in ((found, 0), (found, 0), (other, 1)):
        assert run(given, out) == 0
        assert ("is kept as" in capsys.readouterr().err) == bool(kept)
        assert len(list(out.glob("report-*"))) == kept


def test_another_reference_or_policy_is_another_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, out = files(tmp_path), tmp_path / "out"
    for more, kept in ((), 0), (("--reference", "small"), 1), (("--missing", "drop"), 2):
        assert run(found, out, *more) == 0
        assert ("is kept as" in capsys.readouterr().err) == bool(kept)
        assert len(list(out.glob("report-*"))) == kept


def test_a_copy_of_a_file_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And names of files that are alike are told apart by their folders."""
    found = files(tmp_path)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copyfile(found["before"], tmp_path / folder / "p.csv")
    paths = [str(tmp_path / folder / "p.csv") for folder in "ab"]
    given = ["--before", *paths, "--after", str(found["after"]), "--groups", str(found["people"])]
    assert main([*given, "--out", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert "Some files before are alike to the byte, and count as runs: p.csv, p.csv; is one a copy?" in captured.err
    page = (tmp_path / "out" / "report" / "report.html").read_text(encoding="utf-8")
    assert "There is one network after: what another one would show there is in no interval." in page
    assert "a/p.csv" in page
    assert "b/p.csv" in page


def test_labels_of_two_files_are_the_same_where_their_numbers_are(tmp_path: Path) -> None:
    label = (LABEL == "yes").astype(int)
    people = {"id": IDS, "label": label, "group": GROUP}
    before = {"id": IDS, "predicted": label, "label": label.astype(float)}
    found = files(tmp_path, people=people, before=before)
    join([found["before"]], [found["before"]], found["people"], Names())


def test_people_without_predictions_or_groups_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    group = np.array(["", *GROUP[1:], "small"])
    people = {"id": [*IDS, "nobody"], "label": [*LABEL, "no"], "group": group}
    found = files(tmp_path, people=people)
    assert run(found, tmp_path / "out") == 1
    assert f"1 of 120 ids have no group: {IDS[0]}; give --missing drop" in capsys.readouterr().err
    assert run(found, tmp_path / "out", "--missing", "drop") == 0
    said = capsys.readouterr()
    assert "1 ids of 'people.csv' have no prediction" in said.err
    assert "1 examples without a group are left out" in (tmp_path / "out" / "report" / "report.html").read_text()


SHORT = {"id": IDS[1:], "predicted": PREDICTED[0][1:]}
TWICE = {"id": [IDS[1], *IDS[1:]], "predicted": PREDICTED[0]}


SIGNED = {"id": IDS, "probabilities_no": [1 + 1e-9] * N, "probabilities_yes": [-1e-9] * N}
BOTH = {"id": IDS, **{f"{kind}_{name}": [0.5] * N for kind in ("logits", "probabilities") for name in ("no", "yes")}}
LISTED = {"id": IDS, "label": LABEL, "group": [[name] for name in GROUP]}
SATURATED = {"id": IDS, "predicted": np.where(np.arange(N) % 3, np.arange(N) % 2, 0.93)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"before": SHORT}, "1 ids of '.*after.csv' are missing in '.*before.csv': p000; give predictions"),
        ({"after": SHORT}, "1 ids of '.*before.csv' are missing in '.*after.csv': p000"),
        ({"before": TWICE}, "has 1 ids more than once: p001"),
        ({"before": {**TWICE, "id": ["", *IDS[1:]]}}, "has no 'id'; give every row its id"),
        ({"people": {"id": IDS[2:], "label": LABEL[2:], "group": GROUP[2:]}}, "no row for 2 of 120 ids: p000, p001"),
        ({"people": {"id": IDS, "group": GROUP}}, "have a column 'label' of the true classes"),
        ({"people": {"id": IDS, "label": ["NA", *LABEL[1:]], "group": GROUP}}, "no 'label' for 1 ids: p000; fill"),
        ({"people": {"id": IDS, "label": LABEL, "race": GROUP}}, "no group column 'group'; "),
        ({"before": {"id": IDS, "predicted": PREDICTED[0], "label": LABEL[::-1]}}, "have other labels for"),
        ({"before": SIGNED}, "is -1e-09, below 0; clip what is left of rounding at 0"),
        ({"before": BOTH}, "has both logits_CLASS and probabilities_CLASS; leave one out"),
        ({"before": {"id": IDS, "answer": PREDICTED[0]}}, "no column 'predicted', .* but id, answer; say by"),
        ({"before": {"id": IDS, "predicted": ["maybe"] * N}}, r"predicts \(maybe\) is a label \(no, yes\)"),
        ({"before": scores("probabilities", LOGITS[0])}, "which do not add up to 1; if they are logits"),
        ({"before": scores("logits", LOGITS[0], ("no", "maybe"))}, "but not of yes; give every file"),
        ({"before": scores("logits", LOGITS[0][:, :1], ("no",))}, "'logits_no' alone"),
        ({"before": scores("logits", np.where(LOGITS[0] > 2, np.nan, LOGITS[0]))}, "'logits_no' for "),
        ({"before": {**scores("logits", LOGITS[0]), "logits_no": ["x"] * N}}, "'x'; give a finite number"),
        ({"before": {"id": IDS, "predicted": np.char.upper(PREDICTED[0])}}, r"predicts \(NO, YES\) is a label"),
        ({"before": {"id": IDS, "predicted": ["No", *PREDICTED[0][1:]]}}, "predicts 'No', which is no label, but 'no'"),
        ({"before": {**scores("logits", -LOGITS[0]), "predicted": PREDICTED[0]}}, "not the class of the largest score"),
        ({"before": {**scores("logits", LOGITS[0]), "logits_no": ["1_5"] * N}}, "'1_5'; give a finite number"),
        ({"before": {**scores("logits", LOGITS[0]), "logits_no": ["inf"] * N}}, "'inf'; give a finite number"),
        ({"before": scores("logits", np.full((N, 2), -np.inf))}, "All scores of id p000 in '.*before.csv' are -inf"),
        (
            {"people": {"id": IDS, "label": np.arange(N) % 2, "group": GROUP}, "before": SATURATED},
            "one number for an id, such as 0.93, which is no class; give predicted classes, or columns",
        ),
        ({"before": scores("probabilities", np.full((N, 2), 0.4))}, "which do not add up to 1; if they are logits"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Columns], message: str, tmp_path: Path) -> None:
    found = files(tmp_path, ".csv", **changes)
    with pytest.raises(JaxfairError, match=message):
        join([found["before"]], [found["after"]], found["people"], Names())


@pytest.mark.parametrize("changes", [{"before": {"id": IDS, "logits": LOGITS[0]}}, {"people": LISTED}])
def test_columns_of_lists_are_named(changes: dict[str, Columns], tmp_path: Path) -> None:
    """They were passed over without a word, as if the table had none of this name."""
    found = files(tmp_path, ".parquet", **changes)
    with pytest.raises(
        JaxfairError, match=r"the column '(logits|group)' holds lists, [^:]*; write one value in each row"
    ):
        join([found["before"]], [found["after"]], found["people"], Names())


def test_a_mistake_is_one_sentence_and_leaves_an_earlier_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = files(tmp_path)
    assert run(found, tmp_path / "out") == 0
    capsys.readouterr()
    assert run({**found, "after": tmp_path / "none.csv"}, tmp_path / "out") == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert run(found, tmp_path / "out", "--reference", "nobody") == 1
    assert "one of large & old, small" in capsys.readouterr().err
    assert (tmp_path / "out" / "report" / "report.html").exists()
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    with zipfile.ZipFile(tmp_path / "table.npz", "w") as archive:
        archive.writestr("before.csv", "id,predicted")
    np.savez_compressed(tmp_path / "hurt.npz", id=IDS, predicted=PREDICTED[0])
    whole = (tmp_path / "hurt.npz").read_bytes()
    (tmp_path / "hurt.npz").write_bytes(whole[:60] + b"hurt" * 8 + whole[92:])
    damaged = {"bad": "no .npz file", "table": "something else than named arrays", "hurt": "no .npz file, or is cut"}
    for name, said in damaged.items():
        with pytest.raises(JaxfairError, match=rf"{said}.*np.savez\(path, id="):
            join([tmp_path / f"{name}.npz"], [found["after"]], found["people"], Names())


def test_letters_that_no_font_has_are_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a script that no font knows (Linear A), whatever fonts a machine has."""
    people = {"id": IDS, "label": LABEL, "group": np.where(GROUP == "small", "\U00010600\U00010601", "large")}
    assert run(files(tmp_path, people=people), tmp_path / "out") == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "font" in line]
    assert said == [
        "Names have letters that no font for figures on this machine has; tables show them, figures do not."
    ]
