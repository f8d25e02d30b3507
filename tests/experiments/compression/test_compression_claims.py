"""Findings of a compression study on planted drops and terms, against plain NumPy."""

import numpy as np
import pytest

from experiments.analyses import imbalance
from experiments.analyses import results as arrays
from experiments.analyses.results import DROP, HARM, Results, Variant
from experiments.compression import claims, page
from experiments.compression.claims import claims as decide_all
from jaxfair.groups import relative_drop
from jaxfair.judging import holm
from tests.study import make_analyses

SEEDS, GROUPS = 6, 5
DATA = ("as they are", "balanced")


def saved(label: str, method: str, saves: str, kept: float, **more: str) -> tuple[str, str, int, dict]:
    return label, method, 768, {"saves": saves, "kept": kept, **more}


TUNED = {"control": "Full network, fine-tuned"}
NETWORKS = (
    ("Full network", "full", 768),
    ("Full network, fine-tuned", "control", 768),
    *(saved(f"Pruned {100 - 100 * kept:g} %", "pruned-global", "weights", kept) for kept in (0.5, 0.2, 0.1)),
    *(
        saved(f"Pruned {100 - 100 * kept:g} %, fine-tuned", "pruned-global-tuned", "weights", kept, **TUNED)
        for kept in (0.5, 0.2, 0.1)
    ),
    saved("Pruned 90 % gradually", "pruned-gradual-tuned", "weights", 0.1, **TUNED),
    ("SNL 90", "snl", 90),
    ("Matched to SNL 90", "matched", 768),
    *(saved(f"{bits} bits", "quantized", "bits", bits / 32) for bits in (8, 4, 3)),
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    made = make_analyses(
        tmp_path_factory.mktemp("compressed"),
        group_names=[f"g{i}" for i in range(GROUPS)],
        train_count=(500, 400, 60, 50, 40),
        test_count=(60, 60, 50, 50, 50),
        seeds=SEEDS,
        networks=NETWORKS,
    )
    found, rng = arrays.collect(made), np.random.default_rng(0)
    return found._replace(variants=tuple(expanded(variant, rng) for variant in found.variants))


def expanded(variant: Variant, rng: np.random.Generator) -> Variant:
    """Plant what is foretold of a network that was not trained: twice the rise, in the first term alone."""
    if variant.method not in ("pruned-global", "quantized"):
        return variant
    rise = rng.normal(size=(SEEDS, GROUPS))
    terms = {"first_term": 2 * rise, "second_term": np.zeros_like(rise), "loss_rise": rise}
    return variant._replace(by_group=variant.by_group | terms)


def network(results: Results, label: str) -> Variant:
    return next(variant for variant in results.variants if variant.label == label)


def drops(results: Results, label: str, before: str) -> np.ndarray:
    return relative_drop(network(results, before).by_group["accuracy"], network(results, label).by_group["accuracy"])


def test_the_strongest_are_compared_on_other_data_too(results: Results) -> None:
    """On data that change nothing small groups lose as much, and nothing is due to the imbalance."""
    found = {claim.name: claim for claim in decide_all(results._replace(rebalanced={"balanced": results}))}
    for key, label in (("pruning", "Pruned 90 %, fine-tuned"), ("quantization", "3 bits")):
        as_they_are, balanced = found[f"small_lose_more ({key})"], found[f"balanced_lose_alike ({key})"]
        assert np.isfinite(balanced.value)
        assert (balanced.value, balanced.note.partition(";")[0]) == (as_they_are.value, label)
        assert found[f"imbalance_matters ({key})"].value == pytest.approx(0, abs=1e-12)
        assert found[f"harm_reverses ({key})"].note.endswith("give --data-controls swapped")


def test_only_groups_that_have_a_drop_on_both_data_are_compared(results: Results) -> None:
    """On the balanced data one small group has none: as the data are it is left out, too, and nothing differs."""
    label, small = "Pruned 90 %, fine-tuned", int(np.flatnonzero(~results.groups.large)[0])
    own = network(results, label)
    never = own.by_group[DROP].copy()
    never[:, small] = np.nan
    lost = own._replace(by_group=own.by_group | {DROP: never})
    balanced = results._replace(variants=tuple(lost if v is own else v for v in results.variants))
    found = imbalance.change(results._replace(rebalanced={"balanced": balanced}), "balanced", own)
    assert float(found.mean.value) == pytest.approx(0, abs=1e-12)


def test_the_differences_on_other_data_are_corrected_for_their_number(results: Results) -> None:
    rows = imbalance.rows(results._replace(rebalanced={"balanced": results}))
    raw, corrected = (np.array([row[name] for row in rows]) for name in ("p_value", "corrected"))
    np.testing.assert_allclose(corrected, holm(raw))
    assert np.isfinite(raw).sum() > 1
    assert (corrected > raw).any()
    names = list(rows[0])  # as a published page has them: beside its p-value, not beside another difference
    assert names[names.index("difference_points") :][:3] == ["difference_points", "p_value", "corrected"]


def test_what_each_group_lost_on_other_data_is_counted_from_the_control_there(results: Results) -> None:
    """On data of as many images of each group that change nothing else."""
    even = results._replace(groups=results.groups._replace(train_count=np.full(GROUPS, 60)))
    rows = imbalance.group_rows(results._replace(rebalanced={"balanced": even}))
    label, before = "Pruned 90 %, fine-tuned", "Full network, fine-tuned"
    kinds = [[row for row in rows if row["network"] == label and row["data"] == data] for data in DATA]
    names = [results.groups.names[g] for g in results.groups.order]
    assert [[row["group"] for row in some] for some in kinds] == [names, names]
    assert [row["images"] for row in kinds[1]] == [60] * GROUPS
    accuracy = [network(results, of).by_group["accuracy"].mean(axis=0)[results.groups.order] for of in (before, label)]
    expected = drops(results, label, before).mean(axis=0)[results.groups.order]
    for some in kinds:
        assert [row["control_accuracy"].mean for row in some] == pytest.approx(accuracy[0])
        assert [row["lost_points"].mean for row in some] == pytest.approx(100 * (accuracy[0] - accuracy[1]))
        assert [row[HARM].mean for row in some] == pytest.approx(expected, nan_ok=True)


def test_drops_are_counted_from_what_was_trained_alike(results: Results) -> None:
    found = {claim.name: claim for claim in decide_all(results)}
    tuned = drops(results, "Pruned 90 %, fine-tuned", "Full network, fine-tuned")
    three = drops(results, "3 bits", "Full network")
    for key, lost in (("pruning", tuned), ("quantization", three)):
        small, large = lost[:, 2:].mean(axis=1), lost[:, :2].mean(axis=1)
        assert found[f"small_lose_more ({key})"].value == pytest.approx((small - large).mean())
        assert found[f"large_unharmed ({key})"].value == pytest.approx(large.mean())
    gradual = drops(results, "Pruned 90 % gradually", "Full network, fine-tuned")
    assert found["gradual_milder"].value == pytest.approx((tuned - gradual)[:, 2:].mean())
    raw = drops(results, "Pruned 90 %", "Full network")
    apart = (raw - tuned)[:, 2:].mean() - (raw - tuned)[:, :2].mean()
    assert found["tuning_helps"].value == pytest.approx(apart)
    controls = {v.label: v.control.label if v.control else "" for v in results.variants}
    assert controls["SNL 90"] == "Matched to SNL 90"
    assert controls["Pruned 90 %"] == controls["3 bits"] == ""  # 90 is no budget of ReLUs here
    assert controls["Pruned 90 %, fine-tuned"] == controls["Pruned 90 % gradually"] == "Full network, fine-tuned"
    assert found["global_milder"].verdict == "not enough data"
    assert set(found) >= {f"{name} ({key})" for name in ("harm_grows", "softmax_gap_foretells_drop") for key in
                          claims.FAMILIES}  # fmt: skip


def test_what_is_foretold_is_compared_with_what_came(results: Results) -> None:
    found = {claim.name: claim for claim in decide_all(results)}
    for key, weakest, strongest in (("pruning", "Pruned 50 %", "Pruned 90 %"), ("quantization", "8 bits", "3 bits")):
        for which, label in (("weakest", weakest), ("strongest", strongest)):
            both = found[f"both_terms_foretells_rise ({key}, {which})"]
            assert both.value == pytest.approx(1.0)
            assert both.p_value == pytest.approx(2 / 120)  # of 5! orders of the groups, both ends
            assert both.verdict == "not supported: not after correction"
            assert both.note.endswith(label)
            assert found[f"second_term_foretells_rise ({key}, {which})"].value == 0  # it ties
    rows = {row["network"]: row for row in page.expansion_rows(results)}
    assert set(rows) == {v.label for v in results.variants if v.method in ("pruned-global", "quantized")}
    for label, row in rows.items():
        rise = network(results, label).by_group["loss_rise"]
        left = (rise**2).sum(axis=1) / ((rise - rise.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
        assert row["r2"].mean == pytest.approx(1 - np.exp(np.log(left).mean()))
        assert row["rank"].mean == pytest.approx(1.0)
        assert row["foretold_small"].mean == pytest.approx(2 * row["rise_small"].mean)


def test_the_answer_is_of_what_the_study_has(results: Results) -> None:
    """Gradual pruning alone, which has no findings of its own, or nothing."""
    alone = ("full", "control", "pruned-gradual-tuned")
    some = results._replace(variants=tuple(v for v in results.variants if v.method in alone))
    assert page.answer(some).startswith("At Pruned 90 % gradually, against the full network trained alike, ")
    none = some._replace(variants=some.variants[:2])
    assert page.answer(none) == "No network of the study is pruned or rounded. There is nothing to compare."


def test_small_groups_that_lose_are_found_and_the_answer_names_them(results: Results) -> None:
    """Plant it: large groups lose nothing, small ones all but a tenth of what they had."""
    control, label = network(results, "Full network, fine-tuned"), "Pruned 90 %, fine-tuned"
    small = results.group >= 2
    correct = control.correct * ~(small & (np.arange(len(small)) % 10 > 0))
    by_group = np.array([[row[results.group == g].mean() for g in range(GROUPS)] for row in correct])
    planted = network(results, label)._replace(
        correct=correct, by_group={**network(results, label).by_group, "accuracy": by_group}
    )
    variants = tuple(planted if v.label == label else v for v in results.variants)
    made = results._replace(variants=variants)
    found = {claim.name: claim for claim in decide_all(made)}
    assert found["small_lose_more (pruning)"].verdict == "supported"
    assert found["large_unharmed (pruning)"].value == 0
    said = page.answer(made)
    assert said.startswith(f"At {label}, against the full network trained alike, g")
    assert " points more than g0 (" in said
    assert "At 3 bits, " in said
    assert DROP in planted.by_group
