"""The findings of Das et al. 2024 as numbers: one statistic each, its interval over seeds, and whether it is borne out.

The intervals are over training seeds. All seeds share one split, so they say nothing about other test images. "Small"
and "large" groups are those of ``tables.Results``, and every group counts the same in a mean over groups.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from experiments import tables
from experiments.tables import Results, Variant
from jaxfair import mitigate
from jaxfair.bounds import excess_loss_bound
from jaxfair.groups import seed_interval
from jaxfair.runs import Run

Verdict = Literal["supported", "not supported: contradicted", "not supported: not shown", "not enough data"]
Side = Literal["above", "below"]

UNHARMED = 2.0  # "nearly unharmed" is a smaller relative drop, in percent
SEVERAL = 3  # times as much
CHEAP = 0.01  # "little cost" is less accuracy
COMPARABLE = 2  # ReLU counts that differ by a larger factor are not compared
RANKED = 3  # a rank correlation of two is 1 or -1, so seeds that agree by chance would show anything
DIGITS = 9  # decimals that are kept; below them a sum in another order differs
METHODS = "|".join(name for name in get_args(mitigate.Method) if name != "none")
TERMS = (("first", "gradient"), ("second", "eigenvalue"))
FEWER, RHO = "Spearman correlation over budgets of fewer ReLUs with", "Spearman correlation over groups of"
SUSPECTS: tuple[tuple[str, str, str, Side], ...] = (
    ("gradient_norm", "gradient norm", "larger", "above"),
    ("top_eigenvalue", "top Hessian eigenvalue", "larger", "above"),
    ("softmax_gap", "distance to the boundary (softmax gap)", "smaller", "below"),
    ("linearized_distance", "distance to the boundary (linearised)", "smaller", "below"),
)


class Claim(NamedTuple):
    """A finding and what the runs say about it.

    Attributes:
        name, statement: the finding, for programs and in words.
        statistic: what is measured for each seed, its unit, and on which side of what it is claimed to be.
        value, low, high, seeds: its mean over so many seeds and Student's t interval, 95 %; NaN where there is none.
        verdict: supported: the interval is wholly on the claimed side; contradicted: on the other; not shown: on both.
        note: networks, budgets and groups concerned, or why there are not enough data.
    """

    name: str
    statement: str
    statistic: str
    value: float
    low: float
    high: float
    seeds: int
    verdict: Verdict
    note: str


class Missing(Exception):
    """The runs that a finding needs are absent; the message says which."""


def claims(analysed: Results | Sequence[Run]) -> list[Claim]:
    """Decide every finding; one that cannot be decided is listed too.

    Args:
        analysed: finished analyses, or ``tables.collect`` of them. A network that was made with mitigation has the
            label of the one made without it, followed by the mitigation: ``SNL 50 + lagrangian``.

    Raises:
        JaxfairError: the analyses do not belong together.
    """
    results = analysed if isinstance(analysed, Results) else tables.collect(analysed)
    return [*_of_harm(results), *_of_suspects(results), *_of_mitigation(results)]


def rows(found: Sequence[Claim]) -> list[dict[str, Any]]:
    """Return one row a claim for JSON or ``tables.write_csv``; None where there is no number."""
    return [{k: None if isinstance(v, float) and np.isnan(v) else v for k, v in c._asdict().items()} for c in found]


def markdown(found: Sequence[Claim]) -> str:
    """Return the claims as a Markdown table, and a sentence on the intervals."""
    lines = ["| finding | statistic | mean over seeds | seeds | verdict | note |", "|---|---|---|---|---|---|"]
    for claim in found:
        value = f"{claim.value:.3g}" if np.isfinite(claim.value) else ""
        value += f" ({claim.low:.3g} to {claim.high:.3g})" if np.isfinite(claim.low) else ""
        cells = (claim.statement, claim.statistic, value, str(claim.seeds), claim.verdict, claim.note)
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    foot = "In brackets: Student's t, 95 %, over seeds that share one split; not corrected for the number of findings."
    return "\n".join([*lines, "", foot, ""])


# fmt: off
def _of_harm(results: Results) -> list[Claim]:
    decide = partial(_decide, results)
    return [
        decide("small_lose_more", "Small groups lose more than large ones at the tightest SNL budget",
               "relative drop of small - of large groups, percentage points", _lose, "small"),
        decide("smallest_several_times", f"There the smallest group loses over {SEVERAL} times as much as large ones",
               f"relative drop of the smallest - {SEVERAL} x of large groups (or 0), points", _lose, "smallest"),
        decide("large_unharmed", "Large groups are nearly unharmed there",
               "relative drop of large groups, percent", _lose, "large", side="below", threshold=UNHARMED),
        decide("harm_grows", "Small groups lose more the fewer ReLUs are left (SNL)",
               f"{FEWER} the relative drop of small groups", _as_relus_go, "relative_drop_percent"),
        decide("snl_milder", "SNL is milder than DeepReDuce at the nearest budgets",
               "relative drop with DeepReDuce - with SNL, mean over groups, percentage points", _methods, np.mean),
        decide("snl_steadier", "SNL is steadier than DeepReDuce there: groups differ less in what they lose",
               "standard deviation over groups of the drop with DeepReDuce - with SNL, points", _methods, np.std),
        decide("bound_holds", "The bound of Theorem 4.4 holds for most groups at the tightest SNL budget",
               "share of groups whose loss rises by no more than the bound", _bound, "bound", threshold=0.5),
        *(decide(f"bound_{key}_foretells_loss", f"The {name} term of that bound tells which groups' loss rises more",
                 f"{RHO} the {name} term with the rise of the loss", _bound, key) for key, name in TERMS),
    ]


def _of_suspects(results: Results) -> list[Claim]:
    decide = partial(_decide, results)
    return [
        *(decide(f"small_{key}", f"On the full network small groups have a {what} {name}",
                 f"{name}, {'log2 of small / large' if side == 'above' else 'small - large'} groups",
                 _small_against_large, key, side == "above", side=side)
          for key, name, what, side in SUSPECTS),
        *(decide(f"{key}_foretells_drop", f"Groups with a {what} {name} before linearization lose more",
                 f"{RHO} {name} with the relative drop at the tightest SNL budget", _foretells_drop, key, side=side)
          for key, name, what, side in SUSPECTS),
        *(decide(f"{key}_falls", f"The {name} falls as ReLUs go (SNL)", f"{FEWER} the {name}, mean over groups",
                 _as_relus_go, key, side=side) for key, name, _, side in SUSPECTS[2:]),
    ]


def _of_mitigation(results: Results) -> list[Claim]:
    found, decide = [], partial(_decide, results)
    for kind in dict.fromkeys(kind for v in results.variants if (kind := _mitigation(v.label)[1])) or ("any",):
        found.append(decide(f"mitigation_helps ({kind})", f"Mitigation ({kind}) helps small groups",
                            "relative drop of small groups without - with it, points", _mitigated, kind, "drop"))
        found.append(decide(f"mitigation_cheap ({kind})", f"Mitigation ({kind}) costs little accuracy",
                            "accuracy without - with it", _mitigated, kind, "all", side="below", threshold=CHEAP))
    return found


def _decide(results: Results, name: str, statement: str, statistic: str, measure: Callable[..., Any], *arguments: Any,
            side: Side = "above", threshold: float = 0.0) -> Claim:
    """Judge by ``measure(results, *arguments)``, which returns one number a seed and notes, or raises ``Missing``."""
    statistic = f"{statistic}; claimed {side} {threshold:g}"
    try:
        values, *notes = measure(results, *arguments)
    except Missing as missing:
        return Claim(name, statement, statistic, np.nan, np.nan, np.nan, 0, "not enough data", str(missing))
    value, low, high = (round(float(x), DIGITS) for x in (values.mean(), *seed_interval(values)))
    verdict: Verdict = "not supported: not shown"
    if len(values) < 2:
        verdict, notes = "not enough data", ["an interval needs at least 2 seeds", *notes]
    elif low > threshold or high < threshold:
        verdict = "supported" if (low > threshold) == (side == "above") else "not supported: contradicted"
        notes += ["all seeds agree exactly, so the interval has no width"] * (low == high)
    return Claim(name, statement, statistic, value, low, high, len(values), verdict, "; ".join(filter(None, notes)))
# fmt: on


def _mitigation(label: str) -> tuple[str, str]:
    """Split a label into that of the network without mitigation and the mitigation, which may be empty."""
    found = re.search(rf"(?<!\w)({METHODS})(?![\w-]).*", label, re.IGNORECASE | re.DOTALL)
    return (label[: found.start()].rstrip(" +,;:/([-"), found[0].rstrip(" )]")) if found else (label, "")


def _networks(results: Results, method: str) -> list[Variant]:
    """Return the networks that a method made without mitigation, from the fewest ReLUs."""
    found = [network for network in results.variants if network.method == method and not _mitigation(network.label)[1]]
    if not found:
        raise Missing(f"there is no network of method '{method}'")
    return sorted(found, key=lambda network: network.relu_count)


def _named(results: Results, *networks: Variant) -> str:
    lost = ", ".join(results.group_names[g] for g in np.flatnonzero(~_known(networks[0])))
    named = ", ".join(f"{network.label} ({network.relu_count:,} ReLUs)" for network in networks)
    return named + (f"; without a drop, as some seed's full network is never right there: {lost}" if lost else "")


def _small(results: Results) -> np.ndarray:
    if results.large.all():
        raise Missing("no group has fewer training images than the average")
    return ~results.large


def _quantity(network: Variant, name: str) -> np.ndarray:
    """Return a quantity of every group, shape (seeds, groups)."""
    if not np.isfinite(network.groups.get(name, np.nan)).all():
        raise Missing(f"the runs of {network.label} do not store '{name}' for every seed and group")
    return network.groups[name]


def _known(network: Variant) -> np.ndarray:
    """Which groups have a relative drop for every seed; the same ones for all networks of a study."""
    return np.asarray(np.isfinite(network.groups["relative_drop_percent"]).all(axis=0))


def _drops(network: Variant, members: np.ndarray) -> np.ndarray:
    """Return the relative drops of those of some groups that have one, shape (seeds, groups)."""
    if not (members & _known(network)).any():
        raise Missing("in these groups the full network of some seed is never right")
    return network.groups["relative_drop_percent"][:, members & _known(network)]


def _rank_correlations(x: np.ndarray, y: np.ndarray, of: str) -> tuple[np.ndarray, str]:
    """Return Spearman's correlation of each seed's row; 0 where a row ties throughout and so ranks nothing."""
    from scipy.stats import spearmanr

    if x.shape[1] < RANKED:
        raise Missing(f"a rank correlation needs at least {RANKED} {of}, there are {x.shape[1]}")
    y = np.round(y, DIGITS)
    tied = (np.ptp(x, axis=1) == 0) | (np.ptp(y, axis=1) == 0)
    values = [0.0 if t else spearmanr(a, b)[0] for t, a, b in zip(tied, x, y, strict=True)]
    return np.array(values), f"{of} all tie for {tied.sum()} seeds, which count as 0" if tied.any() else ""


def _lose(results: Results, who: Literal["large", "small", "smallest"]) -> tuple[np.ndarray, str]:
    network, counts = _networks(results, "snl")[0], results.train_count
    values = large = _drops(network, results.large).mean(axis=1)
    if who == "small":
        values = _drops(network, _small(results)).mean(axis=1) - large
    if who == "smallest":  # not a ratio, which has no mean near 0; where large groups gained, any loss will do
        values = _drops(network, _small(results) & (counts == counts.min())).mean(axis=1) - SEVERAL * large.clip(0)
    return values, _named(results, network)


def _as_relus_go(results: Results, name: str) -> tuple[np.ndarray, str, str]:
    networks = _networks(results, "snl")
    if name == "relative_drop_percent":  # of the full network it is 0 by definition
        values = [_drops(network, _small(results)).mean(axis=1) for network in networks]
    else:
        networks += _networks(results, "full")
        values = [_quantity(network, name).mean(axis=1) for network in networks]
    fewer = np.array([[-network.relu_count for network in networks]] * len(values[0]))  # ranks as -log r does, 0 too
    return *_rank_correlations(fewer, np.stack(values, axis=1), "budgets"), _named(results, *networks)


def _small_against_large(results: Results, name: str, ratio: bool) -> tuple[np.ndarray, str]:
    full = _networks(results, "full")[0]
    small, large = (_quantity(full, name)[:, who].mean(axis=1) for who in (_small(results), results.large))
    if ratio and (np.minimum(small, large) <= 0).any():
        raise Missing(f"a mean of '{name}' is not positive for some seed, so there is no ratio")
    return np.log2(small / large) if ratio else small - large, f"small {small.mean():.3g}, large {large.mean():.3g}"


def _foretells_drop(results: Results, name: str) -> tuple[np.ndarray, str, str]:
    full, network = _networks(results, "full")[0], _networks(results, "snl")[0]
    x, y = _quantity(full, name)[:, _known(network)], _drops(network, _known(network))
    return *_rank_correlations(x, y, "groups"), _named(results, network)


def _methods(results: Results, over_groups: Callable[..., np.ndarray]) -> tuple[np.ndarray, str]:
    def apart(pair: tuple[Variant, Variant]) -> float:
        few, many = sorted(network.relu_count for network in pair)
        return (many + 0.5) / (few + 0.5)  # of counts, above 2 exactly where many > 2 few; 0 equals 0

    pairs = [(snl, other) for snl in _networks(results, "snl") for other in _networks(results, "deepreduce")]
    pair = min(pairs, key=apart)  # the tightest of equals
    if apart(pair) > COMPARABLE:
        raise Missing(f"the nearest budgets differ by more than a factor of {COMPARABLE}: {_named(results, *pair)}")
    snl, deepreduce = (over_groups(_drops(network, _known(network)), axis=1) for network in pair)
    return deepreduce - snl, _named(results, *pair)


def _bound(results: Results, term: str) -> tuple[np.ndarray, str, str]:
    """Compare Theorem 4.4, at the full network, with the rise of the loss; its sum, or the rank of one of its terms."""
    full, network = _networks(results, "full")[0], _networks(results, "snl")[0]
    if (full.groups.get("curvature_count", results.test_count) != results.test_count).any():  # other images
        raise Missing("gradients are of the training images, losses of the test images; use --analysis.split test")
    if not np.isfinite(network.parameter_distance).all():
        raise Missing(f"the parameter distance of {network.label} is not known")
    top = _quantity(full, "top_eigenvalue") + _quantity(full, "top_eigenvalue_residual")  # Lanczos ends below it
    rise = _quantity(network, "loss") - _quantity(full, "loss")
    terms = zip(_quantity(full, "gradient_norm"), top, network.parameter_distance, rise, strict=True)
    found = [excess_loss_bound(g, t, float(d), r) for g, t, d, r in terms]
    note = f"{_named(results, network)}; the change of the masks is no part of the bound"
    if term == "bound":
        medians = f"medians: bound {np.median([b.bound for b in found]):.3g}, rise {np.median(rise):.3g} nats"
        return np.array([bound.holds.mean() for bound in found]), note, medians
    return *_rank_correlations(np.array([getattr(bound, term) for bound in found]), rise, "groups"), note


def _mitigated(results: Results, kind: str, what: Literal["drop", "all"]) -> tuple[np.ndarray, str]:
    """Compare the tightest network with a mitigation, SNL before others, with the same one without it."""
    split = [(network, *_mitigation(network.label)) for network in results.variants]
    plain = {base: network for network, base, its_kind in split if not its_kind}
    pairs = [(network, plain[base]) for network, base, its_kind in split if its_kind == kind and base in plain]
    if not pairs:
        raise Missing(f"no label is that of another network followed by a mitigation ({METHODS.replace('|', ', ')})")
    network, other = min(pairs, key=lambda pair: (pair[1].method != "snl", pair[1].relu_count))
    if what == "all":
        return other.accuracy - network.accuracy, _named(results, network, other)
    saved = _drops(other, _small(results)) - _drops(network, _small(results))
    return saved.mean(axis=1), _named(results, network, other)
