"""Findings made true, false and undecidable on purpose; the statistics from closed forms, not from the module."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.linearization import results as tables
from experiments.linearization.claims import claims
from experiments.linearization.results import Results
from experiments.reporting.tables import write_csv
from experiments.reporting.verdicts import Claim, markdown, rows
from tests.study import make_analyses, mitigated

T3 = 4.302652729911275  # 97.5 % quantile of Student's t with 2 degrees of freedom, from a printed table: 4.3027
LARGE, SMALL, SMALLEST = [0, 2, 3], [1, 4], 4  # by the counts below, whose average is 214
GROUPS: dict[str, Any] = {"group_names": "abcde", "train_count": (400, 30, 320, 300, 20), "test_count": (9,) * 5}
NETWORKS: Any = (
    ("Full network", "full", 768),
    *((f"SNL {count}", "snl", count) for count in (300, 50, 200)),
    *(("DeepReDuce C12", "deepreduce", 0), ("DeepReDuce C1", "deepreduce", 120)),
    *(mitigated(f"SNL {count}", count) for count in (50, 200)),
    mitigated("SNL 5", 5, method="cvar"),
    *((f"Random {count}", "random", count) for count in (300, 50)),
)
MITIGATED = "SNL 50 + lagrangian (mu 0.01)"
DROP, GAP, LINEAR = "relative_drop_percent", "softmax_gap", "linearized_distance"
Made = tuple[Results, np.ndarray]  # a study, and the statistic of each seed

# What is claimed to be above 0, seed by seed. Ends of the intervals are more than 0.1 from 0.
EFFECTS = {"supported": [0.7, 1.0, 1.1], "not supported: contradicted": [-0.7, -1.0, -1.1]}
EFFECTS |= {"not supported: not shown": [-1.0, 0.2, 1.1]}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return tables.collect(make_analyses(tmp_path_factory.mktemp("claims"), **GROUPS, networks=NETWORKS))


def change(results: Results, label: str, values: dict[str, np.ndarray]) -> Results:
    """Replace quantities of one network's groups."""
    assert label in [network.label for network in results.variants]
    changed = [v._replace(by_group=v.by_group | values) if v.label == label else v for v in results.variants]
    return results._replace(variants=tuple(changed))


def by_name(found: list[Claim]) -> dict[str, Claim]:
    return {claim.name: claim for claim in found}


def split(results: Results, small: np.ndarray, large: np.ndarray, label: str, name: str) -> Results:
    """Give small and large groups these means, shape (seeds,), without making their groups equal."""
    values = np.empty((3, 5))
    values[:, LARGE] = large[:, None] * [0.5, 1.0, 1.5]
    values[:, SMALL] = small[:, None] * [0.75, 1.25]
    return change(results, label, {name: values})


def small_lose_more(results: Results, effect: np.ndarray) -> Made:
    return split(results, effect - 2.0, np.full(3, -2.0), "SNL 50", DROP), effect


def smallest_several_times(results: Results, effect: np.ndarray) -> Made:
    large = np.array([1.0, 4.0, -2.0])  # where they gained, the smallest group only has to lose
    drops = np.repeat(large[:, None], 5, axis=1)
    drops[:, SMALLEST] = np.array([3.0, 12.0, 0.0]) + effect
    return change(results, "SNL 50", {DROP: drops}), effect


def large_unharmed(results: Results, effect: np.ndarray) -> Made:
    return split(results, np.full(3, 9.0), 2.0 - effect, "SNL 50", DROP), 2.0 - effect


def small_have_more(name: str, results: Results, effect: np.ndarray) -> Made:
    large = np.array([0.1, 2.0, 50.0])
    return split(results, large * 2**effect, large, "Full network", name), effect


def small_are_nearer(name: str, results: Results, effect: np.ndarray) -> Made:
    large = np.array([0.9, 0.5, -0.1])  # a signed distance may be negative
    return split(results, large - effect, large, "Full network", name), -effect


def permutations(effect: np.ndarray, count: int, sign: int) -> tuple[np.ndarray, np.ndarray]:
    """Rank ``count`` items up or down, in the first seed with two neighbours exchanged; Spearman in closed form."""
    ranks = [np.arange(count) if e * sign > 0 else np.arange(count)[::-1] for e in effect]
    ranks[0] = np.concatenate([ranks[0][:-2], ranks[0][:-3:-1]])
    squares = np.square(np.array(ranks) - np.arange(count)).sum(axis=1)
    return np.array(ranks), 1 - 6 * squares / (count * (count**2 - 1))


def over_budgets(labels: Sequence[str], name: str, sign: int, results: Results, effect: np.ndarray) -> Made:
    """Order the small groups' mean (all groups' for distances) of networks with fewer and fewer ReLUs."""
    ranks, expected = permutations(effect, len(labels), sign)
    for label, rank in zip(labels, ranks.T, strict=True):
        results = split(results, 1.0 + rank, 1.0 + rank if name != DROP else -rank, label, name)
    return results, expected


def foretells(name: str, sign: int, results: Results, effect: np.ndarray) -> Made:
    ranks, expected = permutations(effect, 5, sign)
    where = [3, 1, 4, 0, 2]
    suspect, drops = np.empty((3, 5)), np.empty((3, 5))
    suspect[:, where], drops[:, where] = np.exp(np.arange(5.0)), ranks**3 - 20.0
    return change(change(results, "Full network", {name: suspect}), "SNL 50", {DROP: drops}), expected


def snl_milder(results: Results, effect: np.ndarray) -> Made:
    drops = np.arange(15.0).reshape(3, 5)
    snl = change(results, "SNL 200", {DROP: drops})
    return change(snl, "DeepReDuce C1", {DROP: drops[:, ::-1] + effect[:, None]}), effect


def snl_steadier(results: Results, effect: np.ndarray) -> Made:
    shape = np.array([-1.0, 1.0, -1.0, 1.0, 0.0]) * np.sqrt(5 / 4)  # of standard deviation 1
    snl = change(results, "SNL 200", {DROP: 3.0 + np.full((3, 1), 2.0) * shape})
    return change(snl, "DeepReDuce C1", {DROP: (2.0 + effect)[:, None] * shape}), effect


def bound_holds(results: Results, effect: np.ndarray) -> Made:
    """Let the loss rise a little past the bound in some groups, or stay below it by less than the residual adds."""
    share = np.clip(np.round(2.5 + 2.5 * effect) / 5, 0, 1)
    d = np.array([50.0, 51.0, 52.0])[:, None]  # the distances of the hand-made analyses
    values = {"gradient_norm": 0.2, "top_eigenvalue": 1.0, "top_eigenvalue_residual": 0.1, "loss": 0.3}
    results = change(results, "Full network", {name: np.full((3, 5), value) for name, value in values.items()})
    rise = 0.2 * d + 0.5 * 1.1 * d**2 + np.where(np.arange(5) < 5 * share[:, None], -1.0, 1.0)
    return change(results, "SNL 50", {"loss": 0.3 + rise}), share


def term(name: str, results: Results, effect: np.ndarray) -> Made:
    ranks, expected = permutations(effect, 5, 1)
    values = {"top_eigenvalue_residual": np.zeros((3, 5)), "loss": np.arange(15.0).reshape(3, 5)[:, ::-1]}
    results = change(results, "Full network", values | {name: np.tile(np.arange(5.0) - (name[0] == "t"), (3, 1))})
    return change(results, "SNL 50", {"loss": values["loss"] + ranks}), expected


def mitigation_helps(results: Results, effect: np.ndarray) -> Made:
    without = split(results, np.full(3, 5.0), np.ones(3), "SNL 50", DROP)
    return split(without, 5.0 - effect, np.ones(3), MITIGATED, DROP), effect


def mitigation_cheap(results: Results, effect: np.ndarray) -> Made:
    made = [v._replace(accuracy=0.8 + (effect - 1) / 100 * (v.label == MITIGATED)) for v in results.variants]
    return results._replace(variants=tuple(made)), 0.01 - effect / 100


def mitigation_narrows(results: Results, effect: np.ndarray) -> Made:
    """Groups' losses of 0 but one, which is 5/4 of its distance from their mean; the others are 1/4 of it away."""

    def gaps(values: np.ndarray) -> dict[str, np.ndarray]:
        return {"loss": values[:, None] * np.eye(1, 5, 2) * 5 / 4}

    results = change(results, "SNL 50", gaps(np.array([3.0, 4.0, 5.0])))
    return change(results, MITIGATED, gaps(np.array([3.0, 4.0, 5.0]) - effect)), effect


def snl_beats_random(results: Results, effect: np.ndarray) -> Made:
    made = [v._replace(accuracy=0.5 + effect / 9) if v.label == "SNL 50" else v for v in results.variants]
    made = [v._replace(accuracy=np.full(3, 0.5)) if v.label == "Random 50" else v for v in made]
    return results._replace(variants=tuple(made)), effect / 9


FEWER = ("SNL 300", "SNL 200", "SNL 50")
CASES: dict[str, Callable[[Results, np.ndarray], Made]] = {
    "small_lose_more": small_lose_more,
    "smallest_several_times": smallest_several_times,
    "large_unharmed": large_unharmed,
    "harm_grows": partial(over_budgets, FEWER, DROP, 1),
    "small_gradient_norm": partial(small_have_more, "gradient_norm"),
    "small_top_eigenvalue": partial(small_have_more, "top_eigenvalue"),
    "small_softmax_gap": partial(small_are_nearer, GAP),
    "small_linearized_distance": partial(small_are_nearer, LINEAR),
    "gradient_norm_foretells_drop": partial(foretells, "gradient_norm", 1),
    "top_eigenvalue_foretells_drop": partial(foretells, "top_eigenvalue", 1),
    "softmax_gap_foretells_drop": partial(foretells, GAP, -1),
    "linearized_distance_foretells_drop": partial(foretells, LINEAR, -1),
    "softmax_gap_falls": partial(over_budgets, ("Full network", *FEWER), GAP, -1),
    "linearized_distance_falls": partial(over_budgets, ("Full network", *FEWER), LINEAR, -1),
    "snl_milder": snl_milder,
    "snl_steadier": snl_steadier,
    "bound_holds": bound_holds,
    "bound_first_foretells_loss": partial(term, "gradient_norm"),
    "bound_second_foretells_loss": partial(term, "top_eigenvalue"),
    "mitigation_helps (lagrangian (mu 0.01))": mitigation_helps,
    "mitigation_narrows (lagrangian (mu 0.01))": mitigation_narrows,
    "mitigation_cheap (lagrangian (mu 0.01))": mitigation_cheap,
    "snl_beats_random": snl_beats_random,
}


@pytest.mark.parametrize("verdict", EFFECTS)
@pytest.mark.parametrize("name", CASES)
def test_each_finding_is_judged_by_its_statistic(results: Results, name: str, verdict: str) -> None:
    made, expected = CASES[name](results, np.array(EFFECTS[verdict]))
    claim = by_name(claims(made))[name]
    half = T3 * expected.std(ddof=1) / np.sqrt(3)
    ends = (expected.mean(), expected.mean() - half, expected.mean() + half)
    assert (claim.value, claim.low, claim.high) == pytest.approx(ends, rel=1e-7, abs=1e-8)
    assert (claim.verdict, claim.seeds) == (verdict, 3)


def test_every_finding_has_its_case(results: Results) -> None:
    assert sorted(c.name for c in claims(results) if "cvar" not in c.name) == sorted(CASES)


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    found = by_name(claims(make_analyses(tmp_path, **GROUPS, networks=NETWORKS, seeds=1)))
    assert {claim.verdict for claim in found.values()} == {"not enough data"}
    assert np.isfinite(found["small_lose_more"][3:6]).tolist() == [True, False, False]
    assert "2 seeds" in found["small_lose_more"].note


ABOUT_SNL = {name for name in CASES if not name.startswith(("small_g", "small_t", "small_s", "small_linear", "mitig"))}


@pytest.mark.parametrize(
    ("study", "undecided", "reason"),
    [
        ({"networks": NETWORKS[::4]}, ABOUT_SNL, "no network of method 'snl'"),
        ({"networks": NETWORKS[1:4]}, {"small_gradient_norm", "bound_holds"}, "no network of method 'full'"),
        ({"networks": NETWORKS[:4]}, {"snl_milder", "snl_steadier"}, "no network of method 'deepreduce'"),
        ({"networks": NETWORKS[:5]}, {"snl_milder", "snl_steadier"}, "factor of 2: SNL 50 (50 ReLUs), DeepReDuce C12"),
        ({"networks": NETWORKS[:4]}, {"snl_beats_random"}, "no network of method 'random'"),
        ({"networks": [*NETWORKS[:4], ("Random 7", "random", 7)]}, {"snl_beats_random"}, "keeps as many"),
        ({"networks": NETWORKS[:3]}, {"harm_grows"}, "at least 3 budgets, there are 2"),
        (
            {"networks": NETWORKS[:6]},
            {"mitigation_helps (any)", "mitigation_cheap (any)"},
            "beside the same one without",
        ),
        ({"networks": NETWORKS}, {"mitigation_helps (cvar (level 0.1))"}, "beside the same one without"),
        ({"networks": NETWORKS}, {"small_linearized_distance"}, "do not store 'linearized_distance'"),
        ({"train_count": (50,) * 5}, {"small_lose_more", "harm_grows", "small_softmax_gap"}, "no group has fewer"),
        ({"never_right": (1, 4)}, {"small_lose_more", "smallest_several_times", "harm_grows"}, "never right"),
        ({"never_right": (4,)}, {"smallest_several_times"}, "never right"),
        ({"never_right": (0, 1, 2)}, {"gradient_norm_foretells_drop"}, "at least 3 groups, there are 2"),
    ],
)
def test_what_is_absent_is_said(tmp_path: Path, study: dict[str, Any], undecided: set[str], reason: str) -> None:
    found = by_name(claims(make_analyses(tmp_path, **(GROUPS | {"networks": NETWORKS[:6]} | study))))
    assert len(found) >= len(CASES)
    for name in undecided:
        assert (found[name].verdict, found[name].seeds) == ("not enough data", 0), name
        assert reason in found[name].note
        assert np.isnan(found[name][3:6]).all()


def test_what_the_bound_needs(results: Results) -> None:
    for counts, seeds in (
        (results.groups.train_count, 0),
        (results.groups.test_count, 3),
    ):  # of the images of the gradients
        found = by_name(claims(change(results, "Full network", {"curvature_count": np.tile(counts, (3, 1))})))
        assert {found[name].seeds for name in CASES if name.startswith("bound")} == {seeds}
    lost = tuple(v._replace(parameter_distance=np.array([1.0, np.nan, 1.0])) for v in results.variants)
    assert by_name(claims(results._replace(variants=lost)))["bound_holds"].verdict == "not enough data"


@pytest.mark.parametrize(("value", "reason"), [(-1.0, "not positive"), (np.nan, "do not store 'top_eigenvalue'")])
def test_no_verdict_without_numbers(results: Results, value: float, reason: str) -> None:
    eigenvalues = {"top_eigenvalue": np.array([[1.0] * 5, [1.0] * 5, [value] * 5])}
    claim = by_name(claims(change(results, "Full network", eigenvalues)))["small_top_eigenvalue"]
    assert (claim.verdict, reason in claim.note) == ("not enough data", True)


def test_a_group_that_is_never_right_for_some_seed_is_left_out_and_named(results: Results) -> None:
    for network in results.variants:
        unknown = np.where(np.arange(15).reshape(3, 5) == 7, np.nan, network.by_group[DROP])
        results = change(results, network.label, {DROP: unknown})
    found, drop = by_name(claims(results)), results.variants[2].by_group[DROP]
    expected = drop[:, [1, 4]].mean() - drop[:, [0, 3]].mean()
    assert found["small_lose_more"].value == pytest.approx(expected, abs=1e-8)
    for name in ("small_lose_more", "harm_grows", "softmax_gap_foretells_drop", "snl_milder"):
        assert "never right there: c" in found[name].note, found[name]
    assert not any(np.isnan(claim.value) for claim in found.values() if claim.seeds)


def test_ties_decide_nothing(results: Results) -> None:
    for network in results.variants:
        results = change(results, network.label, {DROP: np.full((3, 5), 0.1), GAP: np.full((3, 5), 0.7)})
    results = change(results, "SNL 50", {DROP: np.full((3, 5), 0.1) + 1e-14 * np.arange(5)})  # as sums leave it
    found = by_name(claims(results))
    for name in ("small_lose_more", "harm_grows", "small_softmax_gap", "softmax_gap_foretells_drop", "snl_steadier"):
        assert found[name][3:6] == (0, 0, 0), found[name]
        assert found[name].verdict == "not supported: not shown"
    assert "3 seeds, which count as 0" in found["harm_grows"].note


def test_seeds_that_agree_exactly_are_pointed_out(results: Results) -> None:
    claim = by_name(claims(large_unharmed(results, np.ones(3))[0]))["large_unharmed"]
    assert (claim.verdict, claim.low, claim.high) == ("supported", 1, 1)
    assert "no width" in claim.note


def test_kinds_of_mitigation_are_told_apart(tmp_path: Path) -> None:
    networks = [*NETWORKS[:5], mitigated("SNL 50", 50), mitigated("SNL 50", 50, rate=0.1)]
    networks += [mitigated("SNL 50", 50, method="cvar"), mitigated("DeepReDuce C12", 0, method="cvar")]
    networks += [("SNL 9 + cvar", "snl", 9)]  # a name is not a mitigation, so this is the tightest network
    found = by_name(claims(make_analyses(tmp_path, networks=networks)))
    kinds = ("lagrangian (mu 0.01)", "lagrangian (mu 0.1)", "cvar (level 0.1)")
    assert {name for name in found if name.startswith("mitigation_cheap")} == {f"mitigation_cheap ({k})" for k in kinds}
    assert found["small_lose_more"].note == "SNL 9 + cvar (9 ReLUs)"
    of_cvar = found["mitigation_helps (cvar (level 0.1))"]
    assert of_cvar.note == "SNL 50 + cvar (level 0.1) (50 ReLUs), SNL 50 (50 ReLUs)"  # not DeepReDuce


def test_tables_of_claims(tmp_path: Path, results: Results) -> None:
    found = claims(results._replace(groups=results.groups._replace(names=("a|b", "c\nd", *"efg"))))
    text = markdown([*found, found[0]._replace(note="a|b\nc", value=0.12345, low=-1.0, high=2.0)])
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == len(found) + 3
    assert {line.replace("\\|", "").count("|") for line in table} == {7}
    assert "| 0.123 (-1 to 2) | 3 |" in table[-1]
    assert all(claim.statement in text for claim in found)
    made = rows(found)
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert [row["verdict"] for row in made] == [claim.verdict for claim in found]
    assert {row["value"] for row in made if row["seeds"] == 0} == {None}
    write_csv(tmp_path / "claims.csv", made)
    assert (tmp_path / "claims.csv").read_text().startswith("name,statement,statistic,value,low,high,seeds,verdict")
