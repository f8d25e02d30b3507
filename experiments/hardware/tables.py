"""The numbers of a hardware study: what profiles change, group by group, and what one rounding error changes.

``Delta`` is of the mean cross-entropy of a group's TEST images, each network evaluated on its own profile's arithmetic.
``m`` is always the study's reference profile. Functions raise ``verdicts.Missing`` where the study lacks something.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.hardware.results import Comparison, Hardware, Series
from experiments.reporting import sampling
from experiments.reporting.comparisons import points_lost
from experiments.reporting.series import UNKNOWN, Estimate, over_seeds, right, stack, with_interval
from experiments.reporting.tables import Row
from experiments.reporting.verdicts import Missing, order_beyond_noise, stored
from jaxfair import intervals
from jaxfair.bounds import TaylorBound, sensitivity_bound
from jaxfair.judging import LEVEL
from jaxfair.sensitivity import (
    SpreadTest,
    fairness_violation,
    group_sensitivity,
    rejoining_step,
    spread_against_control,
)

KINDS = ("native", "emulated")
DRAWS = 200
"""Random parts of a group that ``equal_count_delta`` is the mean over."""
SHARES = ("softmax_gap", "impurity")  # which lie in [0, 1]


def quantity(series: Series, name: str) -> np.ndarray:
    """Return a quantity of every seed and group, shape (s, g)."""
    return stored(series.by_group, name, series.label)


def measured(series: Series, name: str) -> tuple[np.ndarray, Estimate, str]:
    """Return a quantity of every seed and group, free of what few images add to it where that was measured.

    Returns:
        The quantity, shape (s, g); its mean with its interval; how it is free of sampling, empty for one that none has.
    """
    if name not in sampling.FREE:
        values = quantity(series, name)
        return values, over_seeds(values, "share" if name in SHARES else "real"), ""
    if name not in series.parts:
        values = quantity(series, name)
        return values, over_seeds(values, "positive"), sampling.PLAIN
    free = sampling.free_of_sampling(series.by_group, series.parts, name)
    return quantity(series, sampling.FREE[name]), free, sampling.SAID[name]


def accuracies(hardware: Hardware, one: Series) -> Estimate:
    """Return the accuracy of each group, shape (g,), with its interval over seeds and test images."""
    return stack([right([one.correct[:, images]]) for images in _images(hardware)])


def gains(hardware: Hardware, one: Series, reference: Series) -> Estimate:
    """Return how much more accurate each group is than on the reference, in points, shape (g,), the same way."""
    lost = stack([points_lost(reference.correct[:, i], one.correct[:, i]) for i in _images(hardware)])
    return Estimate(-lost.mean, -lost.high, -lost.low)


def _images(hardware: Hardware) -> list[np.ndarray]:
    return [np.flatnonzero(hardware.group == g) for g in range(len(hardware.groups.names))]


def over_devices(comparison: Comparison, name: str) -> tuple[np.ndarray, str]:
    """Return a quantity of every seed and group, shape (s, g), and how it was measured (Nelaturu et al. 2024, Fig. 3).

    What is free of sampling is the mean over the reference and the native profiles that are other hardware, where it
    was measured.
    """
    values, _, how = measured(comparison.reference, name)
    if name not in comparison.reference.parts:
        return values, how
    devices = [series for series in of_kind(comparison, "native") if name in series.parts]
    every = [values, *(measured(series, name)[0] for series in devices)]
    return np.mean(every, axis=0), f"{how}, mean over {len(every)} devices" if devices else f"{how}, at the reference"


def of_kind(comparison: Comparison, kind: str) -> tuple[Series, ...]:
    """Return the profiles that are ``native`` or ``emulated`` and not the reference's arithmetic by another name."""
    return tuple(series for series in comparison.elsewhere if series.kind == kind)


def known(values: np.ndarray) -> np.ndarray:
    """Return numbers of losses or accuracies; ``Missing`` if one is not finite, as of a training that diverged."""
    if not np.isfinite(values).all():
        raise Missing("a loss is not finite")
    return values


def differences(comparison: Comparison, others: Sequence[Series], name: str = "loss") -> np.ndarray:
    """Return ``|other - reference|`` of a quantity, shape (others, s, g)."""
    if not others:
        raise Missing("there is nothing to compare the reference with")
    return np.abs(np.stack([series.by_group[name] for series in others]) - comparison.reference.by_group[name])


def delta(comparison: Comparison, others: Sequence[Series]) -> np.ndarray:
    """Return ``Delta(a, m)`` in nats of the reference m among ``others``, shape (s, g) (Nelaturu et al. 2024, 3)."""
    if not others:
        raise Missing("there is nothing to compare the reference with")
    losses = np.stack([series.by_group["loss"] for series in (comparison.reference, *others)], axis=1)
    return group_sensitivity(losses)[:, 0]


def equal_count_delta(hardware: Hardware, comparison: Comparison, others: Sequence[Series]) -> np.ndarray:
    """Return Delta as it is on average over as many random images of each group as the smallest has, shape (s, g).

    A maximum of absolute differences is the larger the fewer images the losses are means of. All seeds share these, so
    groups of unlike numbers of test images are ranked by that alone, by Delta itself.
    """
    if not others:
        raise Missing("there is nothing to compare the reference with")
    moved = np.stack([series.loss for series in others]) - comparison.reference.loss
    images, rng = _images(hardware), np.random.default_rng(0)
    count, found = min(map(len, images)), []
    for members in images:
        drawn = rng.permuted(np.tile(members, (DRAWS if len(members) > count else 1, 1)), axis=1)[:, :count]
        means = np.stack([moved[:, :, one].mean(axis=-1) for one in drawn])
        found.append(np.abs(means).max(axis=1).mean(axis=0))
    return np.stack(found, axis=1)


def order_of_delta(hardware: Hardware, comparison: Comparison, others: Sequence[Series]) -> np.ndarray:
    """Return the order of the groups by ``equal_count_delta`` beyond noise (``verdicts.order_beyond_noise``).

    The noise is that of seeds and images, to first order: of the profile that moves a group's loss furthest, in the
    direction in which it does.
    """
    delta = known(equal_count_delta(hardware, comparison, others)).mean(axis=0)
    moved, tables = np.stack([series.loss for series in others]) - comparison.reference.loss, []
    for images in _images(hardware):
        means = moved[:, :, images].mean(axis=-1)
        furthest, seeds = np.abs(means).argmax(axis=0), np.arange(means.shape[1])
        sign = np.sign(means[furthest, seeds])
        tables.append(sign[:, None] * moved[furthest, seeds][:, images])

    def difference(one: int, other: int) -> intervals.Estimate:
        found = intervals.over_seeds_and_examples([tables[one], tables[other]], (1.0, -1.0))
        return found._replace(value=np.asarray(delta[one] - delta[other]))

    return order_beyond_noise(len(tables), difference)


def xi(comparison: Comparison, others: Sequence[Series]) -> np.ndarray:
    """Return ``xi(D, m)`` in nats, shape (s,); it grows with the number of others, being a range of maxima."""
    return fairness_violation(delta(comparison, others))


def pair_xi(comparison: Comparison, others: Sequence[Series]) -> np.ndarray:
    """Return the mean over others of xi between the reference and each alone, shape (s,).

    Its expectation does not depend on how many others there are, so profiles and controls may be compared by it.
    """
    return fairness_violation(differences(comparison, others)).mean(axis=0)


def rho(comparison: Comparison) -> np.ndarray:
    """Return ``rho(m) = max_m' ||theta_m - theta_m'||``, shape (s,) (Nelaturu et al. 2024, Theorem 4.1)."""
    if not comparison.profiles:
        raise Missing("there is no profile beside the reference")
    return np.max([series.distance for series in comparison.profiles], axis=0)


def bounds(hardware: Hardware, comparison: Comparison) -> list[TaylorBound]:
    """Compare Delta over all profiles with Theorem 4.1 at the reference, for each seed."""
    reference = comparison.reference
    tested = hardware.groups.test_count
    if (reference.by_group.get("curvature_count", tested) != tested).any():
        raise Missing("gradients are of the training images, losses of the test images; use --analysis.split test")
    # Lanczos ends below the largest eigenvalue, by no more than the residual.
    top = quantity(reference, "top_eigenvalue") + quantity(reference, "top_eigenvalue_residual")
    terms = quantity(reference, "gradient_norm"), top, rho(comparison), delta(comparison, comparison.profiles)
    return [sensitivity_bound(g, t, float(d), a) for g, t, d, a in zip(*terms, strict=True)]


def spread_test(comparison: Comparison, name: str) -> SpreadTest:
    """Test whether the profiles that are other hardware move a quantity further than the one-ulp controls do."""
    if not comparison.elsewhere or not comparison.ulps:
        raise Missing("the study has no profile beside the reference that ends in other bits, or no one-ulp control")
    parts = comparison.elsewhere, comparison.ulps
    profiles, controls = (np.stack([series.by_group[name] for series in part]) for part in parts)
    return spread_against_control(comparison.reference.by_group[name], profiles, controls)


def beyond_rounding(comparison: Comparison, others: Sequence[Series]) -> np.ndarray | None:
    """Return 1 where profiles move a group's loss further than the one-ulp controls do, shape (profiles, groups).

    By permutation tests at 5 %, corrected for the number of groups and of all profiles that are other hardware; 0 where
    it is not shown, and NaN where a loss is not finite. None if no p-value can be so small with so few seeds and
    controls.
    """
    test, every = spread_test(comparison, "loss"), comparison.elsewhere
    if test.smallest_p_value * len(every) >= LEVEL:
        return None
    chosen = [i for i, series in enumerate(every) if any(series is other for other in others)]
    found = corrected_p_values(test)[chosen]
    return np.where(np.isfinite(found), found < LEVEL, np.nan)


def corrected_p_values(test: SpreadTest) -> np.ndarray:
    """Return the p-values of a permutation test, corrected for the number of groups and of profiles, of its shape."""
    return np.minimum(test.family_p_value * len(test.family_p_value), 1.0)


def rejoining(hardware: Hardware, comparison: Comparison) -> dict[str, float]:
    """Return by label from which step on a series is as far from the reference as the one-ulp controls; NaN: never.

    Empty where first steps were not recorded; two control curves are needed. Nothing is said of the controls.
    """
    ulps = [series.curve for series in comparison.ulps if series.curve is not None]
    wanted = [s for s in (*comparison.profiles, *comparison.others) if s.curve is not None]
    if not wanted or sum(len(curve) for curve in ulps) < 2:
        return {}
    found = rejoining_step(hardware.steps, np.stack([s.curve for s in wanted if s.curve is not None]), np.stack(ulps))
    return dict(zip((series.label for series in wanted), found, strict=True))


def said_to_rejoin(series: Series, found: Mapping[str, float]) -> str:
    """Write the step for a table: empty where it is not known."""
    if series.label not in found:
        return ""
    never = "same bits" if series.same_bits.all() else "not by the last step"
    return never if np.isnan(found[series.label]) else str(int(found[series.label]))


def profile_rows(hardware: Hardware) -> list[Row]:
    """Return one row a training and series: what it is, accuracy, distances from the reference, with intervals."""
    rows = []
    for comparison in hardware.comparisons:
        found = rejoining(hardware, comparison)
        for series in comparison.every:
            is_profile = any(series is other for other in comparison.profiles)
            role = "reference" if series is comparison.reference else "profile" if is_profile else "control"
            row: dict[str, Any] = {"training": comparison.title, "hardware": series.label, "kind": series.kind}
            row |= {"role": role, "control": series.control, "seeds": len(series.accuracy)}
            row["accuracy"] = right([series.correct])
            row |= {"largest_loss_difference": UNKNOWN, "distance": UNKNOWN}  # of the reference from itself
            if role != "reference":
                largest = differences(comparison, [series])[0].max(axis=1)  # unknown where one is
                row["largest_loss_difference"] = over_seeds(largest, "positive")
                row["distance"] = over_seeds(series.distance, "positive")
            row["same_bits_seeds"] = int(series.same_bits.sum())
            rows.append(row | {"as_far_as_ulps_from_step": said_to_rejoin(series, found)})
    return rows


def group_rows(hardware: Hardware) -> list[Row]:
    """Return one row a training and group: counts, Delta over profiles and among controls, and Theorem 4.1's terms."""
    return [row for comparison in hardware.comparisons for row in _rows_of_groups(hardware, comparison)]


def _rows_of_groups(hardware: Hardware, comparison: Comparison) -> list[Row]:
    groups, own = hardware.groups, comparison.reference.by_group
    nothing = np.full_like(own["loss"], np.nan)
    sets = {"delta": comparison.profiles, **{f"delta_{kind}": of_kind(comparison, kind) for kind in KINDS}}
    sets["delta_ulps"] = comparison.ulps
    values = {name: own.get(name, nothing) for name in ("loss", "gradient_norm", "top_eigenvalue")}
    values |= {name: delta(comparison, others) if others else nothing for name, others in sets.items()}
    known = {"accuracy": accuracies(hardware, comparison.reference)}
    known |= {name: _where_it_can_lie(v) for name, v in values.items()}
    parts = comparison.reference.parts
    for name, column in sampling.FREE.items():
        known[column] = sampling.free_of_sampling(own, parts, name) if name in parts else over_seeds(nothing)
    try:
        found = bounds(hardware, comparison)
    except Missing:
        found = [TaylorBound(*[part] * 6) for part in nothing]
    tested = np.all([np.isfinite(bound.actual) for bound in found], axis=0)
    names = {"gradient_term": "first", "eigenvalue_term": "second", "bound": "bound", "tightness": "tightness"}
    terms = {of: _where_it_can_lie(np.array([getattr(b, name) for b in found])) for of, name in names.items()}
    holds = np.where(tested, np.mean([b.holds for b in found], axis=0), np.nan)
    rows = []
    for g in groups.order:
        row: dict[str, Any] = {"training": comparison.title, "group": groups.names[g]}
        row |= {"train_count": groups.train_count[g], "test_count": groups.test_count[g], "seeds": len(nothing)}
        row |= {name: value.at(g) for name, value in known.items()}
        rows.append(row | {name: value.at(g) for name, value in terms.items()} | {"bound_holds": holds[g]})
    return rows


def _where_it_can_lie(values: np.ndarray) -> Estimate:
    """Return the mean over seeds with its interval: above 0, unless an eigenvalue is not and what is made of it."""
    return over_seeds(values, "real" if (values < 0).any() else "positive")


def spread_rows(hardware: Hardware) -> list[Row]:
    """Return one row a training, quantity, profile and group: its spread, the controls', and the test of the excess."""
    rows = []
    for comparison in hardware.comparisons:
        for name in ("loss", "accuracy"):
            try:
                test = spread_test(comparison, name)
            except Missing:
                continue
            excess, corrected = with_interval(test.excess, test.interval), corrected_p_values(test)
            for i, series in enumerate(comparison.elsewhere):
                for g in hardware.groups.order:
                    row: dict[str, Any] = {"training": comparison.title, "quantity": name, "hardware": series.label}
                    row |= {"kind": series.kind, "group": hardware.groups.names[g], "seeds": len(series.accuracy)}
                    row |= {"controls": len(comparison.ulps), "spread": test.spread[i, g], "control": test.control[g]}
                    row |= {"excess": excess.at((i, g)), "p_value": test.p_value[i, g]}
                    row |= {"family_p_value": test.family_p_value[i, g], "corrected": corrected[i, g]}
                    row["smallest_p_value"] = test.smallest_p_value
                    rows.append(row)
    return rows


def training_rows(hardware: Hardware) -> list[Row]:
    """Return one row a training: accuracy on the reference, rho, and xi as the paper has it and between two runs."""
    rows = []
    for comparison in hardware.comparisons:
        profiles, ulps, correct = comparison.profiles, comparison.ulps, comparison.reference.correct
        row: dict[str, Any] = {"training": comparison.title, "seeds": len(correct), "profiles": len(profiles)}
        row |= {"ulps": len(ulps), "accuracy": right([correct])}
        row["rho"] = over_seeds(rho(comparison), "positive") if profiles else UNKNOWN
        for name, others in {"profiles": profiles, "ulps": ulps}.items():
            row[f"xi_{name}"] = over_seeds(xi(comparison, others), "positive") if others else UNKNOWN
        for name, others in {**{kind: of_kind(comparison, kind) for kind in KINDS}, "ulps": ulps}.items():
            row[f"pair_xi_{name}"] = over_seeds(pair_xi(comparison, others), "positive") if others else UNKNOWN
        rows.append(row)
    return rows
