"""The hardware study's numbers in closed form, and its findings made true and false on purpose."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from experiments.hardware import claims, differences, figures, report
from experiments.hardware import tables as numbers
from experiments.hardware.differences import answer, rounding
from experiments.hardware.page import profile_table
from experiments.hardware.results import Hardware
from experiments.reporting import drawing
from experiments.reporting import tables as written
from experiments.reporting.sampling import FREE
from experiments.reporting.series import of
from experiments.reporting.verdicts import Missing, rank_correlations
from jaxfair.intervals import over_seeds_and_examples
from tests.experiments.page import Page
from tests.hardware_study import ALL, BASE, PROFILES, STEPS, changed, make_hardware, right, sampled
from tests.study import sketch


@pytest.fixture(scope="module")
def hardware() -> Hardware:
    return make_hardware(trainings=ALL)


def with_losses(reference: Any, profiles: Any, ulps: Any) -> Hardware:
    """Return one seed of three groups with these losses of the reference, (g,), and of others, (m, g) and (k, g)."""
    kinds = [(f"p{i}", f"p{i} (native)", "native") for i in range(len(profiles))]
    groups: dict[str, Any] = {"group_names": "abc", "train_count": (30, 20, 10), "test_count": (40, 40, 40)}
    made = make_hardware(seeds=1, profiles=kinds, ulps=len(ulps), **groups)
    made = changed(made, "reference", 0, {"loss": np.array([reference])})
    for part, values in (("profiles", profiles), ("ulps", ulps)):
        for i, value in enumerate(values):
            made = changed(made, part, i, {"loss": np.array([value])})
    return made


def test_the_quantities_of_the_paper_by_hand() -> None:
    made = with_losses([1.0, 2.0, 3.0], [[1.5, 2.0, 2.0], [1.0, 1.0, 5.0]], [[1.0, 2.0, 3.5]])
    plain = made.comparisons[0]
    np.testing.assert_allclose(numbers.delta(plain, plain.profiles), [[0.5, 1.0, 2.0]])
    np.testing.assert_allclose(numbers.xi(plain, plain.profiles), [1.5])
    np.testing.assert_allclose(numbers.pair_xi(plain, plain.profiles), [1.5])  # (1 - 0 + 2 - 0) / 2
    np.testing.assert_allclose(numbers.pair_xi(plain, plain.ulps), [0.5])
    made = changed(
        changed(made, "profiles", 0, {}, distance=np.array([3.0])), "profiles", 1, {}, distance=np.array([2.0])
    )
    values = {"gradient_norm": [1, 2, 0.1], "top_eigenvalue": [2, 4, 0.2], "top_eigenvalue_residual": [0, 1, 0]}
    made = changed(made, "reference", 0, {name: np.array([value], float) for name, value in values.items()})
    np.testing.assert_array_equal(numbers.rho(made.comparisons[0]), [3.0])
    rows = {row["group"]: row for row in numbers.group_rows(made)}
    assert [row["delta"].mean for row in rows.values()] == [0.5, 1.0, 2.0]
    assert [row["delta_native"].mean for row in rows.values()] == [0.5, 1.0, 2.0]
    assert all(np.isnan(row["delta_emulated"]).all() for row in rows.values())
    assert [row["delta_ulps"].mean for row in rows.values()] == [0.0, 0.0, 0.5]
    # gradient norm times 3, plus half of eigenvalue and residual times 9
    np.testing.assert_allclose([row["bound"].mean for row in rows.values()], [3 + 9, 6 + 22.5, 0.3 + 0.9])
    assert [row["bound_holds"] for row in rows.values()] == [1, 1, 0]
    assert rows["c"]["tightness"].mean == pytest.approx(2 / 1.2)


def test_a_bound_that_is_far_away_says_nothing(hardware: Hardware) -> None:
    near, far = (at_reference(hardware, gradient_norm=norm, top_eigenvalue=0.001) for norm in (1.0, 1000.0))
    assert [claims._bound(made)[0].idle for made in (near, far)] == [False, True]


def test_a_bound_needs_gradients_of_the_images_whose_loss_it_bounds(hardware: Hardware) -> None:
    shape = hardware.comparisons[0].reference.by_group["loss"].shape
    other = changed(hardware, "reference", 0, {"curvature_count": np.broadcast_to(hardware.groups.train_count, shape)})
    with pytest.raises(Missing, match=r"--analysis\.split test"):
        numbers.bounds(other, other.comparisons[0])
    (claim,) = [claim for claim in claims.claims(other) if claim.name == "bound_holds"]
    assert claim.verdict == "not enough data"
    assert all(np.isnan(row["bound"].mean) for row in numbers.group_rows(other) if row["training"] == "plain")


def test_profiles_are_told_from_controls_and_rejoin_them(hardware: Hardware) -> None:
    ulps, inside = hardware.comparisons[0].ulps, np.array([0, 1, 1, 1, 1])
    assert ulps[0].curve is not None
    curve = np.where(inside, ulps[0].curve, 1.0)
    made = changed(hardware, "profiles", 0, {}, curve=curve)
    made = changed(made, "profiles", 1, {}, curve=np.where(inside[::-1], ulps[0].curve, 1.0))
    made = changed(made, "profiles", 2, {}, curve=None)
    rows = [row for row in numbers.profile_rows(made) if row["training"] == "plain"]
    labels = [label for _, label, _ in PROFILES]
    controls = [f"{BASE}, ulp 1", f"{BASE}, ulp 2", f"{BASE}, repeated", f"{BASE}, other data order"]
    controls += [f"{BASE}, batches twice as large"]
    assert [row["hardware"] for row in rows] == [BASE, *labels, *controls]
    assert [row["role"] for row in rows] == ["reference", *["profile"] * 3, *["control"] * 5]
    said = [row["as_far_as_ulps_from_step"] for row in rows]
    assert said[:4] == ["", "1", "not by the last step", ""]
    assert said[4:7] == ["", "", "same bits"]
    assert [row["same_bits_seeds"] for row in rows] == [3, 0, 0, 0, 0, 0, 3, 0, 0]
    plain = made.comparisons[0]
    assert np.isnan([rows[0][name].mean for name in ("largest_loss_difference", "distance")]).all()
    _, of_reference, *of_others = written.texts(profile_table(rows, "plain"))
    assert of_reference[3:] == [""] * 4, "nothing of the reference against itself"
    assert [line[5] for line in of_others] == [f"{same} of 3" for same in (0, 0, 0, 0, 0, 3, 0, 0)]
    for row, series in zip(rows[1:], plain.every[1:], strict=True):
        largest = np.abs(series.by_group["loss"] - plain.reference.by_group["loss"]).max(axis=1)
        np.testing.assert_allclose(row["largest_loss_difference"].mean, largest.mean())
    one = plain._replace(ulps=plain.ulps[:1])
    assert numbers.rejoining(hardware._replace(steps=np.array(STEPS)), one) != {}  # three seeds are three curves
    assert numbers.rejoining(hardware, plain._replace(ulps=())) == {}


def test_spread_is_tested_for_each_profile_and_group(hardware: Hardware) -> None:
    rows = [row for row in numbers.spread_rows(hardware) if row["training"] == "plain"]
    assert len(rows) == 2 * 3 * 4
    plain = hardware.comparisons[0]
    for name in ("loss", "accuracy"):
        base = plain.reference.by_group[name]
        control = np.mean([np.abs(u.by_group[name] - base) for u in plain.ulps], axis=0)
        for series in plain.profiles:
            mine = [row for row in rows if (row["quantity"], row["hardware"]) == (name, series.label)]
            spread = np.abs(series.by_group[name] - base)
            for row, g in zip(mine, hardware.groups.order, strict=True):
                assert row["group"] == hardware.groups.names[g]
                excess = spread[:, g] - control[:, g]
                ends = stats.t.interval(0.95, 2, excess.mean(), stats.sem(excess))
                found = [row["spread"], row["control"], *row["excess"]]
                np.testing.assert_allclose(found, [spread[:, g].mean(), control[:, g].mean(), excess.mean(), *ends])
                assert 1 / 27 == row["smallest_p_value"] <= row["p_value"] <= row["family_p_value"] <= 1


def of_one_population(rng: np.random.Generator, tests: list[int]) -> Hardware:
    """Return results whose losses move alike from image to image, whatever the group, in all seeds."""
    made = make_hardware(
        group_names=[str(count) for count in tests], train_count=tests, test_count=tests, seeds=5, ulps=0, others=()
    )
    for i in range(3):
        own, every = rng.normal(size=(5, sum(tests))), rng.normal(size=sum(tests))
        loss = made.comparisons[0].reference.loss + 0.1 * every + 0.05 * own
        means = np.stack([loss[:, made.group == g].mean(axis=1) for g in range(len(tests))], axis=1)
        made = changed(made, "profiles", i, {"loss": means}, loss=loss)
    return made


def test_delta_at_equal_counts_is_no_larger_of_few_images() -> None:
    made = of_one_population(np.random.default_rng(0), [3000, 300, 100, 30])
    plain = made.comparisons[0]
    equal, plainly = (
        np.mean(found, axis=0)
        for found in (
            numbers.equal_count_delta(made, plain, plain.profiles),
            numbers.delta(plain, plain.profiles),
        )
    )
    assert equal[3] == pytest.approx(plainly[3])  # of the smallest all images are taken
    assert plainly[3] > 5 * plainly[0]
    assert equal.max() < 2 * equal.min()
    alike = of_one_population(np.random.default_rng(0), [40, 40, 40])
    plain = alike.comparisons[0]
    found = numbers.equal_count_delta(alike, plain, plain.profiles)
    np.testing.assert_allclose(found, numbers.delta(plain, plain.profiles))


@pytest.mark.slow
@pytest.mark.parametrize("tests", [[4000, 2000, 1000, 500, 250, 120, 60, 30], [900, 800, 700, 600, 500, 400, 300]])
def test_small_groups_are_seldom_said_to_be_more_sensitive_where_none_is(tests: list[int]) -> None:
    rng, said, times = np.random.default_rng(0), 0, 150
    for _ in range(times):
        found, *_ = claims._ranks(of_one_population(rng, tests), "train_count", "native")
        assert found.p_value is not None
        said += found.p_value < 0.05 and float(found.mean.value) < 0
    print(f"{tests}: {100 * said / times:.1f} %")
    # 2.5 % where groups may be exchanged, which those of few images may not quite: their Delta varies more. By Delta
    # itself it is said in 99 % and in 20 %. Two standard errors are 3 %.
    assert said / times <= 0.05 + 0.03


def of_random_parts(rng: np.random.Generator, count: int, apart: float = 0.0) -> Hardware:
    """Return results of logistic regression whose groups are random parts of one population, or lie apart.

    The largest eigenvalue of a group's Hessian comes with its quotients over blocks of images, as it is measured.
    """
    made = make_hardware(group_names="abcdef", train_count=[90] * 6, test_count=[count] * 6, seeds=5, ulps=0, others=())
    weights = rng.normal(size=10) / 10**0.5
    gap, top, blocks = np.empty((5, 6)), np.empty((5, 6)), np.empty((5, 6, 20))
    for g in range(6):
        images = rng.normal(size=(count, 10)) * np.exp(apart * g)
        for seed in range(5):
            own = 2 * weights + 0.2 * np.random.default_rng(seed).normal(size=10)
            right = 1 / (1 + np.exp(-images @ own))
            gap[seed, g] = np.abs(2 * right - 1).mean()
            values, vectors = np.linalg.eigh((images * (right * (1 - right))[:, None]).T @ images / count)
            top[seed, g] = values[-1]
            quotients = right * (1 - right) * (images @ vectors[:, -1]) ** 2
            blocks[seed, g] = quotients.reshape(20, -1).mean(axis=1)
    free = {"softmax_gap": gap, "top_eigenvalue": top, FREE["top_eigenvalue"]: top}
    return changed(made, "reference", 0, free, parts={"top_eigenvalue": blocks})


def test_groups_that_are_apart_have_an_order_to_explain() -> None:
    """And those that are random parts of one population have none, nor those whose sampling was not measured."""
    rng, said = np.random.default_rng(1), {}
    made = {"apart": of_random_parts(rng, 200, 0.3), "parts": of_random_parts(rng, 200)}
    made["unknown"] = changed(made["apart"], "reference", 0, {}, parts={})
    for name, one in made.items():
        said[name] = claims._ranks(one, "softmax_gap", "top_eigenvalue")[0].nothing
    assert said == {
        "apart": "",
        "parts": "no group is known to have a larger or smaller eigenvalue than a, beyond noise",
        "unknown": "how far few images set the groups' eigenvalues apart was not measured for all of them",
    }
    assert not claims._ranks(made["parts"], "train_count", "top_eigenvalue")[0].nothing, "which is of no images"


@pytest.mark.slow
@pytest.mark.parametrize("count", [40, 200, 1000])
def test_random_parts_are_seldom_said_to_have_eigenvalues_by_their_boundary(count: int) -> None:
    """Both are of the same images, so that random parts of one population seem to follow each other in 20 of 100."""
    rng, times, ranked, said = np.random.default_rng(0), 300, 0, 0
    for _ in range(times):
        made = of_random_parts(rng, count)
        of_groups = made.comparisons[0].reference.by_group
        alone, _ = rank_correlations(of_groups["softmax_gap"], of_groups["top_eigenvalue"], "groups")
        found, *_ = claims._ranks(made, "softmax_gap", "top_eigenvalue")
        assert found.p_value is not None
        assert alone.p_value is not None
        ranked += alone.p_value < 0.05
        said += found.p_value < 0.05 and not found.nothing
    print(f"{count} images: {100 * said / times:.1f} %, by ranks alone {100 * ranked / times:.1f} %")
    assert said / times <= 0.05 + 0.025
    assert ranked / times > 0.1


def with_gradients(rng: np.random.Generator, count: int) -> Hardware:
    """Return results of logistic regression whose groups are random parts of one population, moved by other hardware.

    The gradient norm of each group is that of the same images as the losses, without its sampling part.
    """
    made = make_hardware(group_names="abcdef", train_count=[90] * 6, test_count=[count] * 6, seeds=5, ulps=0, others=())
    weights, x = rng.normal(size=10) / 10**0.5, rng.normal(size=(6 * count, 10))
    y = rng.random(6 * count) < 1 / (1 + np.exp(-2 * x @ weights))
    loss, norms, members = np.empty((4, 5, 6 * count)), np.empty((5, 6)), [made.group == g for g in range(6)]
    for seed in range(5):
        own = 2 * weights + 0.2 * rng.normal(size=10)
        for i, theta in enumerate([own, *(own + 0.2 * rng.normal(size=(3, 10)))]):
            loss[i, seed] = np.logaddexp(0, x @ theta) - y * (x @ theta)
        gradients = (1 / (1 + np.exp(-x @ own)) - y)[:, None] * x
        for g, images in enumerate(members):
            blocks = np.array([part.mean(axis=0) for part in np.array_split(gradients[images], 20)])
            products = blocks @ blocks.T
            norms[seed, g] = np.sqrt(max((products.sum() - np.trace(products)) / 380, 0))
    means = np.stack([loss[:, :, images].mean(axis=2) for images in members], axis=2)
    first = {"loss": means[0], "gradient_norm": norms, FREE["gradient_norm"]: norms}
    made = changed(made, "reference", 0, first, loss=loss[0], parts={"gradient_norm": np.zeros((5, 6, 20))})
    for i in range(3):
        made = changed(made, "profiles", i, {"loss": means[i + 1]}, loss=loss[i + 1])
    return made


def test_groups_whose_delta_is_alike_beyond_noise_tie() -> None:
    """Of random parts no gradient norm tells whose Delta is larger; of one that is moved further its place is known."""
    made = with_gradients(np.random.default_rng(0), 200)
    plain = made.comparisons[0]
    assert not numbers.order_of_delta(made, plain, plain.profiles).any()
    found, *_ = claims._ranks(made, "gradient_norm", "native")
    assert found.p_value == 1
    loss = plain.profiles[0].loss + 2.0 * (made.group == 3)
    apart = changed(made, "profiles", 0, {}, loss=loss)
    order = numbers.order_of_delta(apart, apart.comparisons[0], apart.comparisons[0].profiles)
    np.testing.assert_array_equal(order, [-1, -1, -1, 5, -1, -1])


@pytest.mark.slow
@pytest.mark.parametrize("count", [40, 200, 1000])
def test_gradients_of_random_parts_seldom_seem_to_foretell_delta(count: int) -> None:
    """Both are of the same images; by the order of all groups it is said in 12 to 15 of 100 studies (nominal: 2.5)."""
    rng, times = np.random.default_rng(0), 200
    found = [claims._ranks(with_gradients(rng, count), "gradient_norm", "native")[0] for _ in range(times)]
    said = np.mean([of.p_value is not None and of.p_value < 0.05 and float(of.mean.value) > 0 for of in found])
    print(f"{count} images: {100 * said:.1f} %")
    assert said <= 0.025 + 3 * np.sqrt(0.025 / times)


# What makes a finding true, given Delta or differences of (s, g) that rise by this much from the largest group on.
RISING = np.array([0.2, 0.4, 0.1, 0.3])  # groups of 300, 20, 400 and 100 images
BORNE_OUT: dict[str, Callable[[Hardware, float], Hardware]] = {
    "small_more_sensitive (native)": lambda h, sign: moved(h, "native", 0.5 + sign * RISING),
    "small_more_sensitive (emulated)": lambda h, sign: moved(h, "emulated", 0.5 + sign * RISING),
    "gradient_norm_foretells_delta (native)": lambda h, sign: both(h, "gradient_norm", "native", sign),
    "top_eigenvalue_foretells_delta (emulated)": lambda h, sign: both(h, "top_eigenvalue", "emulated", sign),
    "small_larger_gradient": lambda h, sign: at_reference(h, gradient_norm=0.5 + sign * RISING),
    "eigenvalue_near_boundary": lambda h, sign: at_reference(h, softmax_gap=-RISING, top_eigenvalue=1 + sign * RISING),
    "bound_holds": lambda h, sign: at_reference(h, gradient_norm=100 + sign * 100, top_eigenvalue=0.001),
    "loss_beyond_rounding (native)": lambda h, sign: moved(h, "native", 0.5 + sign * 0.4, ulps=0.5),
    "loss_beyond_rounding (emulated)": lambda h, sign: moved(h, "emulated", 0.5 + sign * 0.4, ulps=0.5),
    "accuracy_beyond_rounding (native)": lambda h, sign: moved(h, "native", 0.5 + sign * 0.4, "accuracy", ulps=0.5),
    "xi_beyond_rounding (native)": lambda h, sign: moved(h, "native", (0.5 + sign * 0.4) * RISING, ulps=0.5 * RISING),
    "loss_alike (native)": lambda h, sign: moved(h, "native", 0.5 + (1 - sign) * 0.1, ulps=0.5),
    "accuracy_alike (emulated)": lambda h, sign: moved(h, "emulated", 0.5 + (1 - sign) * 0.1, "accuracy", ulps=0.5),
    "alignment_lowers_xi (profiles)": lambda h, sign: aligned(moved(h, "", (0.5 + sign * 0.4) * RISING)),
    "alignment_lowers_xi (ulps)": lambda h, sign: aligned(moved(h, "", 1.0, ulps=(0.5 + sign * 0.4) * RISING)),
    "linearized_more_sensitive": lambda h, sign: aligned(moved(h, "", 0.5 - sign * 0.4), 0.5, 2),
    "alignment_cheap": lambda h, sign: changed(
        h, "reference", 0, {}, correct=np.full_like(h.comparisons[1].reference.correct, (1 - sign) / 2)
    ),
}


def moved(made: Hardware, kind: str, by: Any, name: str = "loss", ulps: Any = None) -> Hardware:
    """Move a quantity of the profiles of a kind (all: ""), and of the one-ulp controls, from the reference's."""
    base = made.comparisons[0].reference.by_group[name]
    for i, series in enumerate(made.comparisons[0].profiles):
        if kind in ("", series.kind):
            made = changed(made, "profiles", i, {name: base + by})
    for i in range(len(made.comparisons[0].ulps)) if ulps is not None else ():
        made = changed(made, "ulps", i, {name: base + ulps})
    return made


def at_reference(made: Hardware, **values: Any) -> Hardware:
    shape = made.comparisons[0].reference.by_group["loss"].shape
    return changed(made, "reference", 0, {name: np.broadcast_to(value, shape) for name, value in values.items()})


def both(made: Hardware, name: str, kind: str, sign: float) -> Hardware:
    return at_reference(moved(made, kind, 0.5 + sign * RISING), **{name: RISING})


def aligned(made: Hardware, by: Any = 0.5 * RISING, index: int = 1) -> Hardware:
    """Move the losses of all profiles and controls of another training than the plain one."""
    first = made._replace(comparisons=made.comparisons[index:])
    others = moved(first, "", by, ulps=by).comparisons[0]
    return made._replace(comparisons=(*made.comparisons[:index], others, *made.comparisons[index + 1 :]))


@pytest.mark.parametrize("name", BORNE_OUT)
def test_a_finding_is_borne_out_or_contradicted(hardware: Hardware, name: str) -> None:
    """Three seeds are too few for a verdict, so what counts is the side of the threshold on which the value lies."""
    for sign in (1.0, -1.0):
        (claim,) = [c for c in claims.claims(BORNE_OUT[name](hardware, sign)) if c.name == name]
        said = re.search(r"claimed (above|below|within) (\S+)", claim.statistic)
        assert said is not None
        value = abs(claim.value) if said[1] == "within" else claim.value
        ahead = (value - float(said[2])) * (1 if said[1] == "above" else -1)
        assert ahead * sign > 0, claim
        assert claim.verdict == "too few seeds"


def test_a_profile_of_the_references_bits_is_no_other_hardware(hardware: Hardware) -> None:
    """It moves nothing, and would halve what the other one is seen to move."""
    native = [i for i, series in enumerate(hardware.comparisons[0].profiles) if series.kind == "native"]
    first, same = native[0], native[-1]
    base = hardware.comparisons[0].reference.by_group
    alone = changed(hardware, "profiles", same, dict(base), same_bits=np.ones(3, bool))
    plain = alone.comparisons[0]
    others = numbers.of_kind(plain, "native")
    assert plain.profiles[same] not in others
    np.testing.assert_allclose(numbers.pair_xi(plain, others), numbers.pair_xi(plain, [plain.profiles[first]]))
    assert len(numbers.spread_test(plain, "loss").spread) == len(plain.profiles) - 1
    assert plain.profiles[same].label not in [axes.get_title() for axes in figures.differences_by_group(alone).axes]
    every = alone
    for i in range(len(plain.profiles)):
        every = changed(every, "profiles", i, dict(base), same_bits=np.ones(3, bool))
    assert "no profile beside the reference that ends in other bits" in answer(every)


def test_a_training_that_diverged_is_no_small_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "save", sketch)
    made = make_hardware(trainings=ALL, **TEN)
    loss = made.comparisons[0].profiles[0].by_group["loss"].copy()
    loss[0, 1] = np.nan
    lost = changed(made, "profiles", 0, {"loss": loss})
    label, kind = lost.comparisons[0].profiles[0].label, lost.comparisons[0].profiles[0].kind
    assert f"On {label} a group's loss is not finite, which is no small move; it is not tested." in rounding(lost)
    found = {claim.name: claim for claim in claims.claims(lost)}
    for name in (f"loss_beyond_rounding ({kind})", f"loss_alike ({kind})", f"xi_beyond_rounding ({kind})"):
        assert (found[name].verdict, found[name].note) == ("not enough data", "a loss is not finite")
    (row,) = [row for row in numbers.profile_rows(lost) if row["hardware"] == label and row["training"] == "plain"]
    assert np.isnan(row["largest_loss_difference"].mean)
    report.publish(lost, tmp_path / "report", ["c"])


def test_what_controls_change_as_much_is_training(hardware: Hardware) -> None:
    """The linearized network's losses move further over hardware, and among its one-ulp controls no less."""
    made = make_hardware(trainings=ALL, **TEN)
    base = made.comparisons[2].reference.by_group["loss"]
    rng = np.random.default_rng(0)

    def moved_by(by: float, ulps: float) -> str:
        tight = made.comparisons[2]
        parts = {"profiles": by, "ulps": ulps}
        new = {
            part: tuple(
                series._replace(by_group=series.by_group | {"loss": base + size * rng.uniform(0.9, 1.1, base.shape)})
                for series in getattr(tight, part)
            )
            for part, size in parts.items()
        }
        of = made._replace(comparisons=(*made.comparisons[:2], tight._replace(**new)))
        (claim,) = [one for one in claims.claims(of) if one.name == "linearized_more_sensitive"]
        return claim.verdict

    assert moved_by(3.0, 3.0) == "nothing to explain"
    assert moved_by(3.0, 0.01) in ("supported", "not supported: not after correction")
    full = numbers.delta(made.comparisons[0], made.comparisons[0].profiles).mean()
    less = moved_by(0.01 * full, full)  # which the controls do not show: it is less sensitive
    assert less in ("not supported: contradicted", "not supported: not after correction")


def test_accuracies_and_what_is_gained_know_the_test_images(hardware: Hardware) -> None:
    plain = hardware.comparisons[0]
    other = plain.profiles[0]
    found, gained = numbers.accuracies(hardware, other), numbers.gains(hardware, other, plain.reference)
    for g in range(len(hardware.groups.names)):
        table = other.correct[:, hardware.group == g]
        np.testing.assert_allclose(found.at(g), of(over_seeds_and_examples([table]), "share"))
    expected = 100 * (other.by_group["accuracy"] - plain.reference.by_group["accuracy"]).mean(axis=0)
    np.testing.assert_allclose(gained.mean, expected, atol=1e-9)
    assert (gained.low < gained.mean).all()
    assert (gained.mean < gained.high).all()
    rows = {row["group"]: row["accuracy"] for row in numbers.group_rows(hardware) if row["training"] == plain.title}
    np.testing.assert_allclose(rows["b"], numbers.accuracies(hardware, plain.reference).at(1))


def test_findings_and_figures_take_what_is_free_of_sampling(hardware: Hardware) -> None:
    """Where it was measured; the bound is of the loss on these very images, and takes the plain numbers."""
    free, reference = sampled(hardware), hardware.comparisons[0].reference
    found, plain = ({claim.name: claim for claim in claims.claims(one)} for one in (free, hardware))
    for name, column, said in (
        ("small_larger_gradient", "gradient_norm", "without its sampling part"),
        ("eigenvalue_near_boundary", "top_eigenvalue", "at the image count of the smallest group"),
    ):
        assert plain[name].note.endswith("; not corrected for sampling, which inflates it, more so on few images")
        assert found[name].note.endswith(f"; {said}, at the reference")
        values = free.comparisons[0].reference.by_group[FREE[column]]
        x = -np.asarray(hardware.groups.train_count) if "small" in name else -reference.by_group["softmax_gap"]
        expected: Any = [
            stats.spearmanr(a, b)[0] for a, b in zip(np.broadcast_to(x, values.shape), values, strict=True)
        ]
        assert found[name].value == pytest.approx(-np.mean(expected))
    assert found["gradient_norm_foretells_delta (native)"].note.endswith("without its sampling part, at the reference")
    assert found["bound_holds"].value == plain["bound_holds"].value
    axes = figures.reference_and_distance(free).axes[1]
    assert axes.get_ylabel() == "gradient norm without\nits sampling part"
    assert figures.reference_and_distance(hardware).axes[1].get_ylabel() == "gradient norm"
    (row, *_) = [row for row in numbers.group_rows(free) if row["group"] == "a"]
    blocks = free.comparisons[0].reference.parts["gradient_norm"][:, 0]
    np.testing.assert_allclose(row["gradient_norm_corrected"], of(over_seeds_and_examples([blocks]), "positive"))
    assert row["gradient_norm"].mean == pytest.approx(reference.by_group["gradient_norm"][:, 0].mean())


def test_what_is_measured_on_several_devices_is_their_mean(hardware: Hardware) -> None:
    """Fig. 3 of the paper averages; an emulated profile is no device."""
    made, rising = sampled(hardware), np.arange(4.0)
    (first,) = [i for i, s in enumerate(made.comparisons[0].profiles) if s.label == "AVX (native)"]
    own = made.comparisons[0].reference
    free = {column: own.by_group[column] + rising for column in FREE.values()}
    made = changed(made, "profiles", first, free, parts=own.parts)
    values, how = numbers.over_devices(made.comparisons[0], "gradient_norm")
    np.testing.assert_allclose(values, own.by_group[FREE["gradient_norm"]] + rising / 2)
    assert how == "without its sampling part, mean over 2 devices"
    (claim,) = [c for c in claims.claims(made) if c.name == "small_larger_gradient"]
    assert claim.note.endswith("mean over 2 devices")


def test_every_finding_is_listed_whatever_there_is(hardware: Hardware) -> None:
    names = {claim.name for claim in claims.claims(hardware)}
    of_nats = [claim for claim in claims.claims(hardware) if "nats" in claim.statistic]
    assert of_nats
    assert all("by 0.01 or more" in claim.statistic or "claimed within" in claim.statistic for claim in of_nats)
    bare = make_hardware(profiles=(), ulps=0, others=(), steps=())
    found = claims.claims(bare)
    assert {claim.name for claim in found} == {name for name in names if "emulated" not in name}
    decided = {claim.name for claim in found if claim.verdict != "not enough data"}
    assert decided == {"small_larger_gradient", "eigenvalue_near_boundary"}
    assert all(claim.note for claim in found if claim.name not in decided)


TEN: dict[str, Any] = {"seeds": 10, "ulps": 3, "test_count": (200, 200, 200, 200), "profiles": PROFILES[1:]}


def run_apart(rng: np.random.Generator, made: Hardware, small: float, emulated: float) -> Hardware:
    """Let every run end elsewhere by chance: small groups by so many times as much, and emulated hardware, too.

    Accuracies on emulated hardware fall, by two points in large groups for each time.
    """
    base = made.comparisons[0].reference.by_group
    size = np.where(made.groups.large, 1.0, small)
    for part in ("profiles", "ulps"):
        for i, series in enumerate(getattr(made.comparisons[0], part)):
            far = emulated if series.kind == "emulated" else 1.0
            loss = base["loss"] + 0.01 * far * size * rng.normal(size=base["loss"].shape)
            lost = 0.02 * (far - 1.0) * size * (1 + 0.1 * rng.normal(size=loss.shape))
            accuracy = np.clip(base["accuracy"] - lost, 0, 1)
            correct = right(accuracy, made.groups.test_count)
            made = changed(made, part, i, {"loss": loss, "accuracy": accuracy}, correct=correct)
    return made


@pytest.mark.parametrize("beyond", [False, True])
def test_verdicts_from_predictions_to_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beyond: bool) -> None:
    """Small groups vary ten times as much on all hardware; it is to be explained only where rounding does not."""
    monkeypatch.setattr(drawing, "save", sketch)
    made = make_hardware(**TEN)
    groups = at_reference(made, accuracy=0.9, gradient_norm=np.array([1.0, 10.0, 0.9, 1.1]))
    groups = changed(groups, "reference", 0, {}, correct=right(np.full((10, 4), 0.9), made.groups.test_count))
    found = run_apart(np.random.default_rng(0), groups, 10.0, 4.0 if beyond else 1.0)
    report.publish(found, tmp_path / "report", ["c"])
    page = Page((tmp_path / "report" / "report.html").read_text(encoding="utf-8"))
    verdicts = {row[0]: row[5] for row in page.rows if len(row) == 7}
    foretold = "Groups with a larger gradient norm are more sensitive"
    for kind in ("native", "emulated"):
        (verdict,) = [verdict for finding, verdict in verdicts.items() if finding.startswith(f"{foretold} ({kind})")]
        assert (verdict == "nothing to explain") == (kind == "native" or not beyond)
    further = "Hardware (emulated) moves small groups' loss further"
    (moved,) = [verdict for finding, verdict in verdicts.items() if finding.startswith(further)]
    assert moved == ("supported" if beyond else "not supported: not shown")
    said = page.text.split("beyond noise?")[2]
    if beyond:
        assert said.startswith("On other hardware, b lost 6")
        assert " points more than c on bfloat16 (emulated) (" in said[:90]
        assert re.search(r"\): (a loss of )?[0-9.]+ % of its accuracy against (a gain of )?[0-9.]+ %", said)
        assert "further than one rounding error does: bfloat16 (emulated), for " in said
    else:
        nobody = "On other hardware, no group lost more or less accuracy than c beyond noise."
        assert said.startswith(f"{nobody}No hardware is shown")  # and no largest difference, where all are 0
        assert "No hardware is shown to move a group's test loss further than one rounding error does" in said


def test_text_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    """Of every table, with groups that look like numbers."""
    hardware = make_hardware(trainings=ALL, group_names=("250.0", "2.5e2", "1.2345", "1e3"))
    made = [differences.rows(hardware), numbers.profile_rows(hardware), numbers.training_rows(hardware)]
    for rows in (*made, numbers.group_rows(hardware), numbers.spread_rows(hardware)):
        written.write_csv(tmp_path / "table.csv", rows)
        for row, read in zip(rows, written.read_csv(tmp_path / "table.csv").rows, strict=True):
            assert {name: read[name] for name, cell in row.items() if isinstance(cell, str)} == {
                name: cell for name, cell in row.items() if isinstance(cell, str)
            }


def test_two_sentences_say_why_nothing_can_be_said() -> None:
    assert "no profile beside the reference" in answer(make_hardware(profiles=()))
    alone = make_hardware(group_names=("a",), train_count=(900,), test_count=(9,))
    assert "no second group" in answer(alone)
    assert answer(make_hardware(seeds=1)).startswith("On other hardware, no difference between groups can be told from")
    assert rounding(make_hardware(ulps=0)) == ""
    for seeds in (1, 4):
        assert "too few seeds and controls" in rounding(make_hardware(seeds=seeds, ulps=2))
