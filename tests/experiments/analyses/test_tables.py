"""Tables against plain masked NumPy on the arrays of hand-made analyses."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments.analyses import quantities
from experiments.analyses import results as arrays
from experiments.analyses.page import seeds_sentence, warnings
from experiments.analyses.results import Results, collect
from experiments.analyses.study import whole
from experiments.reporting import reports
from experiments.reporting.series import Estimate
from experiments.reporting.tables import read_csv, write_csv
from jaxfair import runs
from jaxfair.errors import JaxfairError
from jaxfair.intervals import over_seeds, over_seeds_and_examples, wilson
from jaxfair.runs import Run
from tests.study import make_analyses, make_study, mitigated

PAIRS = ((0, 1), (0, 2), (1, 2))
T3 = 4.302652729911275  # 97.5 % quantile of Student's t with 2 degrees of freedom, from a printed table: 4.3027


@pytest.fixture(scope="module")
def analyses(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    return make_analyses(tmp_path_factory.mktemp("analyses"))


@pytest.fixture(scope="module")
def results(analyses: list[Run]) -> Results:
    return arrays.collect(analyses)


def right(run: Run) -> np.ndarray:
    examples = run.arrays("examples.npz")
    return examples["logits"].argmax(axis=1) == examples["label"]


def by_network(analyses: list[Run]) -> list[list[Run]]:
    """Return the runs of the four networks, three seeds each."""
    return [analyses[i : i + 3] for i in range(0, 12, 3)]


def test_collect_keeps_networks_seeds_and_groups_in_order(analyses: list[Run], results: Results) -> None:
    labels = [variant.label for variant in results.variants]
    assert labels == ["Full network", "SNL 200", "SNL 50", "DeepReDuce C12"]
    assert [variant.relu_count for variant in results.variants] == [768, 200, 50, 0]
    assert all(variant.seeds == (0, 1, 2) for variant in results.variants)
    assert results.groups.names == ("a", "b", "c")
    np.testing.assert_array_equal(results.group, analyses[5].arrays("examples.npz")["group"])
    np.testing.assert_array_equal(np.bincount(results.group), results.groups.test_count)
    for variant, found in zip(results.variants, by_network(analyses), strict=True):
        np.testing.assert_array_equal(variant.correct, [right(run) for run in found])
        stored = [run.json("result.json")["groups"]["gradient_norm"] for run in found]
        np.testing.assert_array_equal(variant.by_group["gradient_norm"], stored)


def over_images(correct: list[np.ndarray], groups: list[np.ndarray]) -> list[float]:
    """Return the mean accuracy of groups and its interval: what over_seeds_and_examples has, on the scale of odds."""
    tables = [np.array(correct, float)[:, members] for members in groups]
    found = over_seeds_and_examples(tables, [1 / len(tables)] * len(tables))
    return [float(found.value), *map(float, found.interval(scale="share"))]


def above_zero(values: np.ndarray) -> list[float]:
    """Return mean and Student's interval of three seeds, symmetric in the logarithm."""
    mean, half = values.mean(), T3 * values.std(ddof=1) / np.sqrt(3)
    return [mean, mean * np.exp(-half / mean), mean * np.exp(half / mean)]


def of_shares(values: np.ndarray) -> list[float]:
    """Return the same, symmetric in log(v / (1 - v))."""
    mean, half = values.mean(), T3 * values.std(ddof=1) / np.sqrt(3)
    middle, half = np.log(mean / (1 - mean)), half / mean / (1 - mean)
    return [mean, *(1 / (1 + np.exp(-middle - side)) for side in (-half, half))]


def results_of_equal(root: Path, seeds: int = 3) -> Results:
    return arrays.collect(make_analyses(root, train_count=(50, 50, 50), test_count=(30, 30, 30), seeds=seeds))


def test_summary_rows_equal_masked_numpy(analyses: list[Run], results: Results) -> None:
    rows = quantities.summary_rows(results)
    full = [right(run) for run in by_network(analyses)[0]]
    parts = {"large": [0, 1], "small": [2]}
    for row, found in zip(rows, by_network(analyses), strict=True):
        correct = [right(run) for run in found]
        for name, members in parts.items():
            expected = over_images(correct, [results.group == g for g in members])
            assert [*row[f"{name}_groups"]] == pytest.approx(expected, rel=1e-9)
            drops = []
            for before, after in zip(full, correct, strict=True):
                for g in members:
                    b, a = before[results.group == g].mean(), after[results.group == g].mean()
                    drops.append(100 * (b - a) / b)
            drop = row[f"{name}_drop_percent"]
            if row["network"] == "Full network":
                assert np.isnan(drop).all()
            else:
                assert drop.mean == pytest.approx(np.mean(drops), rel=1e-9)
                assert drop.low < drop.mean < drop.high
        assert [*row["accuracy"]] == pytest.approx(over_images(correct, [results.group >= 0]), rel=1e-9)
        assert row["seeds"] == 3
    assert [row["parameter_distance"].mean for row in rows[:3]] == [769.0, 201.0, 51.0]
    assert np.isnan(rows[3]["parameter_distance"].mean)


def test_group_rows_equal_masked_numpy(analyses: list[Run], results: Results) -> None:
    rows = quantities.group_rows(results)
    assert len(rows) == 12
    at = {(row["network"], row["group"]): row for row in rows}
    assert [row["group"] for row in rows[:3]] == ["a", "b", "c"]
    full = [right(run) for run in by_network(analyses)[0]]
    for found in by_network(analyses):
        label = found[0].config["variant"]["label"]
        stored = [run.json("result.json")["groups"] for run in found]
        for g, name in enumerate("abc"):
            row, members = at[label, name], results.group == g
            expected = over_images([right(run) for run in found], [members])
            assert [*row["accuracy"]] == pytest.approx(expected, rel=1e-12)
            assert (row["train_count"], row["test_count"]) == ((400, 300, 20)[g], members.sum())
            before = np.array([c[members].mean() for c in full])
            after = np.array([right(run)[members].mean() for run in found])
            drop = (100 * (before - after) / before).mean()
            mean, low, high = row["relative_drop_percent"]
            assert mean == pytest.approx(drop, rel=1e-9, abs=1e-9)
            assert low <= drop <= high if label != "Full network" else np.isnan([low, high]).all()
            for quantity in ("loss", "gradient_norm", "top_eigenvalue", "softmax_gap"):
                seeds = np.array([one[quantity][g] for one in stored])
                expected = above_zero(seeds) if quantity != "softmax_gap" else of_shares(seeds)
                assert [*row[quantity]] == pytest.approx(expected, rel=1e-9)
            worst = max(one["top_eigenvalue_residual"][g] for one in stored)
            assert row["top_eigenvalue_residual_max"] == worst


def test_small_samples_have_wide_intervals(results: Results) -> None:
    widths = {r["group"]: r["accuracy"].high - r["accuracy"].low for r in quantities.group_rows(results)[:3]}
    assert widths["c"] > 1.4 * max(widths["a"], widths["b"])  # 13 images against 40 and 60


def test_one_seed_has_intervals_over_test_images_alone(tmp_path: Path) -> None:
    row = quantities.summary_rows(results_of_equal(tmp_path, seeds=1))[1]
    assert np.isfinite(row["parameter_distance"]).tolist() == [True, False, False]
    for name in ("accuracy", "large_groups", "large_drop_percent"):
        assert row[name].low < row[name].mean < row[name].high


def test_groups_of_few_images_have_no_interval_of_a_loss_and_the_page_says_so(results: Results) -> None:
    """However many seeds there are; of the three groups only one has 45 images."""
    full = results.variants[0]
    losses = np.random.default_rng(0).gamma(2.0, size=full.correct.shape)
    loss = quantities.measured(full._replace(examples={"loss": losses}), "loss", results)
    assert np.isfinite(loss.low).tolist() == [False, True, False]
    for seeds in (3, 1):
        said = seeds_sentence(results._replace(variants=(full._replace(seeds=full.seeds[:seeds]),)))
        assert "losses and distances of groups of fewer than 45 images" in said


def test_a_warning_names_some_of_many_groups(tmp_path: Path) -> None:
    names, count = [f"{i}{'x' * 300}" for i in range(30)], [9] * 30
    study = make_analyses(
        tmp_path, group_names=names, train_count=count, test_count=count, seeds=1, never_right=range(30)
    )
    (never,) = (text for text in warnings(arrays.collect(study)) if "reaches 0" in text)
    assert "and 18 more the full network" in never
    assert len(never) < 2000
    cell = quantities.summary_rows(arrays.collect(study))[1]["without_a_drop"]
    assert cell.endswith("and 18 more")
    assert len(cell) < 2000


def test_intervals_are_possible(results: Results) -> None:
    """Where all are right, nothing varies, but 13 images might have shown something else; no group has one image."""
    full = results.variants[0]
    sure = full._replace(correct=np.where(results.group == 2, 1.0, full.correct))
    expected = [1.0, *(float(end) for end in wilson(np.array(1.0), np.array(13)))]
    assert [float(end) for end in quantities.accuracies(results, sure).at(2)] == pytest.approx(expected)
    both = quantities.accuracy(results, sure._replace(correct=np.ones_like(full.correct)), np.array([0, 2]))
    assert both.low == pytest.approx(float(wilson(np.array(1.0), np.array(4 / (1 / 40 + 1 / 13))).low))
    spread = full._replace(by_group=full.by_group | {"gradient_norm": np.array([[0.1], [9.0], [0.2]])})
    _, low, high = quantities.measured(spread, "gradient_norm").at(0)
    assert 0 < low < 3.1 < 9 < high
    gap = full._replace(by_group=full.by_group | {"softmax_gap": np.array([[0.1, 0.9, 0.9], [0.9] * 3, [0.99] * 3])})
    _, low, high = quantities.measured(gap, "softmax_gap").at(0)
    assert 0 < low < 0.66 < high < 1
    signed = full._replace(by_group=full.by_group | {"top_eigenvalue": np.array([[-3.0], [-2.0], [-1.0]])})
    np.testing.assert_allclose(quantities.measured(signed, "top_eigenvalue").low, -2 - T3 / np.sqrt(3))


def test_norms_on_splits_know_which_share_of_the_images_these_have_in_common(results: Results) -> None:
    """At most images are all that seeds differ by; where blocks of them were measured, it is what these differ by."""
    on_splits, correct = results._replace(splits=3), np.full((3, len(results.group)), np.nan)
    for g, count in enumerate(results.groups.test_count):
        for row, first in zip(correct, (0, count // 4, count // 2), strict=True):
            row[np.flatnonzero(results.group == g)[first : first + count // 2]] = 1.0
    correct[0, results.group == 0] = 1.0  # one seed tests all, of which the others have half
    tested = [np.isfinite(correct[:, results.group == g]) for g in range(3)]
    pairs = [[(of[a] & of[b]).sum() / np.sqrt(of[a].sum() * of[b].sum()) for a, b in PAIRS] for of in tested]
    full, common = results.variants[0]._replace(correct=correct), np.mean(pairs, axis=1)
    np.testing.assert_allclose(quantities.overlap(on_splits, full), common)
    assert not quantities.overlap(results, full).any()
    found = over_seeds(full.by_group["gradient_norm"])
    for blocks in (None, np.random.default_rng(0).gamma(2.0, size=(3, 3, 5))):
        own = full if blocks is None else full._replace(parts={"gradient_norm": blocks})
        more = 3 * common / (1 - common) * found.variance
        if blocks is not None:
            more = common * (blocks.var(axis=2, ddof=1) / 5).mean(axis=0)
        expected = found._replace(variance=found.variance + more).interval(scale="positive")
        _, *ends = quantities.measured(own, "gradient_norm", on_splits)
        np.testing.assert_allclose(ends, expected)


def test_equal_groups_leave_the_small_ones_blank(tmp_path: Path) -> None:
    for row in quantities.summary_rows(results_of_equal(tmp_path)):
        assert np.isfinite(row["large_groups"]).all()
        small = [value for name, value in row.items() if name.startswith("small_")]
        assert len(small) == 2
        assert np.isnan(small).all()


def test_a_group_that_cannot_lose_has_no_drop_and_no_interval(tmp_path: Path) -> None:
    found = arrays.collect(make_analyses(tmp_path, never_right=[2]))
    for row in quantities.group_rows(found)[3:]:
        drop = row["relative_drop_percent"]
        assert np.isnan(drop).all() if row["group"] == "c" else np.isfinite(drop).all(), row
    for row in quantities.summary_rows(found)[1:]:
        assert np.isnan(row["small_drop_percent"]).all(), row


def test_a_group_without_a_drop_leaves_those_of_the_others(tmp_path: Path) -> None:
    """One of two small groups is never right: tables and figures have what the other one lost."""
    counts = {"train_count": (400, 300, 20, 20), "test_count": (40, 60, 30, 13), "group_names": "abcd"}
    results = arrays.collect(make_analyses(tmp_path, **counts, never_right=(3,)))
    for variant in results.variants[1:]:
        both, one = (quantities.joint_drop(results, variant, np.array(members)) for members in ([2, 3], [2]))
        assert np.isfinite([*one]).all()
        assert both == one
    said = [row["without_a_drop"] for row in quantities.summary_rows(results)]
    assert said == ["", *["d"] * (len(results.variants) - 1)]
    everyone = arrays.collect(make_analyses(tmp_path / "all", **counts))
    assert all("without_a_drop" not in row for row in quantities.summary_rows(everyone))


def test_networks_that_predict_one_class_are_named_with_their_seeds(tmp_path: Path) -> None:
    made = make_analyses(tmp_path)
    assert not any("One class" in said for said in warnings(collect(made)))
    for run in (made[7], made[8], made[11]):  # SNL 50 of the seeds 1 and 2, DeepReDuce C12 of the last one
        examples = run.arrays("examples.npz")
        run.write_arrays("examples.npz", examples | {"logits": np.zeros_like(examples["logits"])})
        run.finish()
    said = [text for text in warnings(collect(made)) if text.startswith("One class is predicted for all test images")]
    assert [text.split(": a group's")[0] for text in said] == [
        "One class is predicted for all test images by SNL 50 (seeds 1, 2), DeepReDuce C12 (seed 2)"
    ]


def test_analyses_that_do_not_belong_together_are_refused(analyses: list[Run]) -> None:
    with pytest.raises(JaxfairError, match="not of the same seeds"):
        arrays.collect(analyses[:-1])
    config = {**analyses[0].config, "seed": 3, "data": {"name": "other", "fingerprint": {"train": "9", "test": "9"}}}
    with pytest.raises(JaxfairError, match="different data sets or splits"):
        arrays.collect([*analyses, runs.Run(analyses[0].path, config)])


def test_no_analyses_are_refused() -> None:
    with pytest.raises(JaxfairError, match=r"no analyses.*stage 'analyse'"):
        arrays.collect([])


def test_what_failed_is_left_out_and_said(tmp_path: Path) -> None:
    """A network that lacks a seed altogether, and a seed without its full network in all of them."""
    analysed = make_analyses(tmp_path)
    assert whole(analysed) == (analysed, [])
    for run in analysed:
        if (run.config["variant"]["label"], run.config["seed"]) in (("Full network", 2), ("SNL 50", 0), ("SNL 50", 2)):
            run.reopen()
    shown, missing = whole(analysed)
    assert missing == [
        "Seed 2 is missing in all networks, since the full one failed.",
        "SNL 50 is missing, since seed 0 failed.",
    ]
    found = collect(shown)._replace(missing=tuple(missing))
    assert [variant.label for variant in found.variants] == ["Full network", "SNL 200", "DeepReDuce C12"]
    assert {variant.seeds for variant in found.variants} == {(0, 1)}
    assert warnings(found)[:2] == missing
    for run in analysed[:3]:
        run.reopen()
    assert whole(analysed)[0] == []


@pytest.mark.parametrize(
    ("learnt", "right", "said"),
    [
        (
            [1, 1, 1],
            [0.8, 0.8, 0.8],
            "its training images by heart: it is right on 100.0 % of them and on 80.0 % of the t",
        ),
        (
            [1, 1, 1],
            [0.99, 0.97, 0.75],
            "of the small groups by heart: it is right on 100.0 % of them and on 75.0 % of thei",
        ),
        ([1, 1, 0.9], [0.99, 0.97, 0.75], ""),
        ([1, 1, 1], [0.99, 0.97, 0.93], ""),
    ],
)
def test_what_a_full_network_has_learnt_by_heart_is_said(
    results: Results, learnt: list[float], right: list[float], said: str
) -> None:
    """Of group c alone too, which is small: all images together hardly show it."""
    full, *others = results.variants
    own = full.by_group | {"train_accuracy": np.array([learnt] * 3, float), "accuracy": np.array([right] * 3)}
    full = full._replace(by_group=own, accuracy=np.full(3, 0.96 if right[0] > right[2] else right[0]))
    found = warnings(results._replace(variants=(full, *others)))
    assert [said in one for one in found if "by heart" in one] == [True] * bool(said)


def test_random_masks_are_compared_with_what_was_trained_as_they_were(tmp_path: Path) -> None:
    """On the full network that is the fine-tuning alone: a descent trains for much longer."""
    networks = [("Full network", "full", 768), ("Matched to SNL 50", "matched", 768)]
    networks += [("Random 50", "random", 50), ("Random 50 after equal training", "random-matched", 50)]
    tuned = ("Full network, fine-tuned", "control", 768)
    for more, of_random in (([], None), ([tuned], tuned[0])):
        made = collect(make_analyses(tmp_path / str(of_random), networks=[*networks, *more]))
        controls = {v.label: v.control and v.control.label for v in made.variants}
        assert controls["Random 50"] == of_random
        assert controls["Random 50 after equal training"] == "Matched to SNL 50"


def test_a_network_whose_control_failed_is_left_out_and_said(tmp_path: Path) -> None:
    """It would be compared with the full network, and the others with their controls."""
    mitigated = {"base": "SNL 50", "mitigation": {"method": "lagrangian"}}
    networks = (
        ("Full network", "full", 768),
        ("SNL 200", "snl", 200),
        ("SNL 50", "snl", 50),
        ("SNL 50 + lagrangian", "snl", 50, mitigated),
        ("Matched to SNL 200", "matched", 768),
        ("Matched to SNL 50", "matched", 768),
    )
    analysed = make_analyses(tmp_path, networks=networks)
    assert whole(analysed) == (analysed, [])
    assert {v.label: v.control.label for v in collect(analysed).variants if v.control} == {
        "SNL 200": "Matched to SNL 200",
        "SNL 50": "Matched to SNL 50",
        "SNL 50 + lagrangian": "Matched to SNL 50",
    }
    (failed,) = [run for run in analysed if run.config["name"] == "Matched to SNL 50-seed1"]
    failed.reopen()
    shown, missing = whole(analysed)
    assert [variant.label for variant in collect(shown).variants] == ["Full network", "SNL 200", "Matched to SNL 200"]
    assert missing == [
        "SNL 50 is missing, since seed 1 of Matched to SNL 50 failed, with which it is compared.",
        "SNL 50 + lagrangian is missing, since seed 1 of Matched to SNL 50 failed, with which it is compared.",
        "Matched to SNL 50 is missing, since seed 1 failed.",
    ]


def test_a_study_is_read_back_in_its_order(tmp_path: Path) -> None:
    networks = (("Full network", "full", 768), ("SNL 50", "snl", 50), ("SNL 200", "snl", 200))
    made = make_study(tmp_path / "study", "A <title>", seeds=2, networks=networks)
    assert [run.config for run in arrays.read(tmp_path / "study")] == [run.config for run in made]
    assert [run.path.name for run in made] != sorted(run.path.name for run in made)
    record = reports.read_record(tmp_path / "study")
    assert (record["title"], record["command"]) == ("A <title>", ["a", "b c"])
    (tmp_path / "study").rename(tmp_path / "moved")
    assert len(arrays.read(tmp_path / "moved")) == 6


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    study = tmp_path / "study"

    def refused(match: str) -> None:
        with pytest.raises(JaxfairError, match=match) as caught:
            arrays.read(study)
        assert "\n" not in str(caught.value)

    refused("There is no folder")
    made = make_analyses(study / "runs", seeds=1)
    refused(r"has no 'report/runs.json'")
    record = study / "report" / "runs.json"
    record.parent.mkdir()
    record.write_text(json.dumps({"title": "t", "command": ["c"], "runs": [run.path.name for run in made]}))
    assert len(arrays.read(study)) == 4
    file = made[1].path / "config.json"
    text = file.read_text()
    file.write_text(text.replace("SNL 200", "SNL 201"))
    refused(rf"config.json was changed\); it is made again by: c --out {re.escape(str(study))}\.")
    file.write_text(text)
    (made[2].path / "DONE").unlink()
    refused(r"is not whole \(DONE is missing\)")
    shutil.rmtree(made[0].path)
    refused(f"{made[0].path}.*its folder is missing")
    for damaged in ("{", "[]", '{"title": "t"}', '{"title": 1, "runs": []}', '{"title": "t", "runs": [3]}'):
        record.write_text(damaged)
        refused("is damaged")


def test_what_was_mitigated_is_known(tmp_path: Path) -> None:
    networks = (("Full network", "full", 768), ("SNL 50", "snl", 50), mitigated("SNL 50", 50, rate=0.5))
    _, plain, other = arrays.collect(make_analyses(tmp_path, networks=networks)).variants
    assert (plain.base, plain.mitigation) == (None, None)
    assert other.base == "SNL 50"
    assert other.mitigation is not None
    assert (other.mitigation["method"], other.mitigation["rate"]) == ("lagrangian", 0.5)


def test_csv_reads_back_as_the_same_numbers(tmp_path: Path, results: Results) -> None:
    for rows in (quantities.summary_rows(results), quantities.group_rows(results)):
        write_csv(tmp_path / "table.csv", rows)
        with (tmp_path / "table.csv").open(newline="") as file:
            read = list(csv.DictReader(file))
        for row, cells in zip(rows, read, strict=True):
            expected = []
            for name, value in row.items():
                ends = ("", "_low", "_high") if isinstance(value, Estimate) else ("",)
                expected += [(name + end, part) for end, part in zip(ends, np.atleast_1d(value), strict=True)]
            assert list(cells) == [name for name, _ in expected]
            for name, value in expected:
                if isinstance(value, str):
                    assert cells[name] == value
                else:
                    assert cells[name] == "" if np.isnan(value) else float(cells[name]) == value, name
        again = read_csv(tmp_path / "table.csv")
        assert [column.name for column in again.columns] == list(rows[0])
        for row, cells in zip(rows, again.rows, strict=True):
            for name in (name for name, value in row.items() if isinstance(value, Estimate)):
                np.testing.assert_array_equal(cells[name], row[name])


def test_csv_keeps_any_name(tmp_path: Path) -> None:
    name = 'a "b", <c>; ü\nd'
    write_csv(tmp_path / "table.csv", [{"group": name, "accuracy": np.float32(np.nan)}])
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [{"group": name, "accuracy": ""}]
