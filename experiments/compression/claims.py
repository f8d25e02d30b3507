"""The findings of Tran et al. 2022 on pruning, asked of quantization too: one statistic each, and its verdict.

Intervals are as in ``experiments.linearization.claims``. Drops are counted from the control: for what was fine-tuned
the full network trained on as long, and else the full network itself.
"""

import functools
from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from experiments.analyses import imbalance
from experiments.analyses import results as arrays
from experiments.analyses.results import Results, Variant
from experiments.analyses.statistics import (
    RHO,
    SUSPECTS,
    UNHARMED,
    contrast,
    foretells_drop,
    group_drops,
    in_all,
    lost_by,
    mean_weights,
    named,
    of_small_groups,
    order_of_rises,
    quantity,
    small_less_large,
)
from experiments.reporting.verdicts import (
    NATS,
    POINTS,
    Claim,
    Measured,
    Missing,
    corrected,
    decide,
    rank_correlations,
    small_groups,
    too_small,
)
from jaxfair.runs import Run


class Family(NamedTuple):
    """Networks that differ only in how much they save.

    Attributes:
        title: of the change, where it is strongest.
        method: of the networks that are used.
        raw: of the same without training, of which the change of the weights is known.
        stronger: what a stronger change has.
    """

    title: str
    method: str
    raw: str
    stronger: str


FAMILIES = {
    "pruning": Family(
        "the highest sparsity (fine-tuned)", "pruned-global-tuned", "pruned-global", "more weights are pruned"
    ),
    "quantization": Family("the fewest bits", "quantized", "quantized", "fewer bits are left"),
}


def claims(analysed: Results | Sequence[Run]) -> list[Claim]:
    """Decide every finding; one that cannot be decided is listed too.

    Args:
        analysed: finished analyses, or ``results.collect`` of them.

    Raises:
        JaxfairError: the analyses do not belong together.
    """
    return [*_judged(analysed if isinstance(analysed, Results) else arrays.collect(analysed))]


@functools.lru_cache(maxsize=8)  # a page and what is printed ask for them
def _judged(results: Results) -> tuple[Claim, ...]:
    found = of_small_groups(results)
    for key, family in FAMILIES.items():
        found += [*_of_harm(results, key, family), *_of_terms(results, key, family)]
        found += imbalance.claims(results, partial(_strongest, family), f"at {family.title}", f" ({key})")
    return tuple(corrected([*found, *_of_pruning(results)]))


# fmt: off
def _of_harm(results: Results, key: str, family: Family) -> list[Claim]:
    judge = partial(decide, results)
    return [
        judge(f"small_lose_more ({key})", f"Small groups lose more than large ones at {family.title}",
              "relative drop of small - of large groups, percentage points", _lose, family, "small", floor=POINTS),
        judge(f"large_unharmed ({key})", f"Large groups are nearly unharmed at {family.title}",
              "relative drop of large groups, percent", _lose, family, "large", side="below", threshold=UNHARMED),
        judge(f"harm_grows ({key})", f"Small groups lose more the {family.stronger}",
              "Spearman correlation over strengths of what is saved with the relative drop of small groups",
              _as_more_is_saved, family),
        *(judge(f"{name}_foretells_drop ({key})", f"Groups with a {what} {title} before lose more at {family.title}",
                f"{RHO} {title} with the relative drop", _foretells, family, name, side=side)
          for name, title, what, side in SUSPECTS),
    ]


def _of_terms(results: Results, key: str, family: Family) -> list[Claim]:
    judge, found = partial(decide, results), []
    for which in ("weakest", "strongest"):
        for terms, words in ((("first_term",), "The gradient term g.d foretells"),
                             (("second_term",), "The Hessian term 1/2 d'Hd foretells"),
                             (("first_term", "second_term"), "Both terms together foretell")):
            name = "both_terms" if len(terms) > 1 else terms[0]
            found.append(judge(
                f"{name}_foretells_rise ({key}, {which})",
                f"{words} which groups' loss rises more at the {which} {key}, before any training",
                f"{RHO} what is foretold with the rise of the loss", _terms, family, terms, which))
    return found


def _of_pruning(results: Results) -> list[Claim]:
    judge, kinds = partial(decide, results), dict.fromkeys(filter(None, map(_kind, results.variants)))
    return [
        judge("gradual_milder", "Gradual pruning is milder to small groups than pruning at once, at equal training",
              "relative drop of small groups, pruned at once - gradually, points", _apart, "pruned-gradual-tuned",
              floor=POINTS),
        judge("global_milder", "Pruning the smallest of all weights is milder to small groups than by layer",
              "relative drop of small groups, by layer - of all weights, points", _apart, "pruned-layer-tuned",
              floor=POINTS),
        judge("tuning_helps", "Fine-tuning gives small groups back more than large ones (pruned at once)",
              "relative drop without - with fine-tuning, small - large groups, points", _recovered, floor=POINTS),
        *(judge(f"mitigation_helps ({kind})", f"Mitigation ({kind}) helps small groups of pruned networks",
                "relative drop of small groups without - with it, points", _mitigated, kind, floor=POINTS)
          for kind in kinds),
    ]


# fmt: on


def kept(network: Variant) -> float:
    """Return the share that a compressed network keeps of what it saves."""
    return float(network.about["kept"])


def networks(results: Results, method: str) -> list[Variant]:
    """Return the networks that a method made, from the one that keeps least; ``Missing`` if there are none."""
    found = [network for network in results.variants if network.method == method and not network.base]
    if not found:
        raise Missing(f"there is no network of method '{method}'")
    return sorted(found, key=kept)


def _kind(network: Variant) -> str:
    return network.label.removeprefix(f"{network.base} + ") if network.base and "saves" in network.about else ""


def _named(results: Results, *found: Variant) -> str:
    return named(results, found, *(network.label for network in found))


def _strongest(family: Family, results: Results) -> tuple[Variant, str]:
    network = networks(results, family.method)[0]
    return network, _named(results, network)


def _lose(results: Results, family: Family, who: Literal["large", "small"]) -> tuple[Measured, str]:
    network, called = _strongest(family, results)
    return lost_by(results, network, who), called


def _as_more_is_saved(results: Results, family: Family) -> tuple[Measured, str, str]:
    found = networks(results, family.method)
    small = small_groups(results.groups) & in_all(found)
    values = [group_drops(network, small).mean(axis=1) for network in found]
    saved = np.array([[-kept(network) for network in found]] * len(values[0]))
    ranked, tied = rank_correlations(saved, np.stack(values, axis=1), "budgets")
    return ranked._replace(small=too_small(values[0] - values[-1], POINTS, "points")), tied, _named(results, *found)


def _foretells(results: Results, family: Family, name: str) -> tuple[Measured, str, str, str]:
    network = networks(results, family.method)[0]
    found, note, how = foretells_drop(results, name, network)
    return found, note, _named(results, network), how


def _terms(
    results: Results, family: Family, terms: Sequence[str], which: Literal["weakest", "strongest"]
) -> tuple[Measured, str, str]:
    """Correlate terms at the full network with the rise of the loss, over all groups: losses need no accuracy."""
    network = networks(results, family.raw)[-1 if which == "weakest" else 0]
    foretold = np.sum([quantity(network, term) for term in terms], axis=0)
    rise = quantity(network, "loss_rise")
    ranked, tied = rank_correlations(foretold, rise, "groups", order=order_of_rises(results, network))
    return ranked._replace(small=too_small(np.ptp(rise, axis=1), NATS, "nats")), tied, network.label


def _apart(results: Results, method: str) -> tuple[Measured, str]:
    """Compare what small groups lose at the highest sparsity by another way of pruning and at once, of all weights."""
    once, other = networks(results, FAMILIES["pruning"].method)[0], networks(results, method)[0]
    if kept(once) != kept(other):
        raise Missing(f"{once.label} and {other.label} are not equally sparse")
    weights = mean_weights(small_groups(results.groups), once, other)
    one, two = (once, other) if method == "pruned-gradual-tuned" else (other, once)
    return contrast(results, (one, weights), (two, -weights)), _named(results, once, other)


def _recovered(results: Results) -> tuple[Measured, str]:
    """Compare small and large groups; the drops are from the full network, and from the control where tuned."""
    tuned, raw = (networks(results, method)[0] for method in ("pruned-global-tuned", "pruned-global"))
    weights = small_less_large(results, tuned, raw)
    return contrast(results, (raw, weights), (tuned, -weights)), _named(results, raw, tuned)


def _mitigated(results: Results, kind: str) -> tuple[Measured, str]:
    """Compare the sparsest network with a mitigation with the same one without it."""
    plain = {network.label: network for network in results.variants if not network.base}
    pairs = [(v, plain[v.base]) for v in results.variants if v.base in plain and _kind(v) == kind]
    if not pairs:
        raise Missing("no network was made with mitigation beside the same one without it")
    network, other = min(pairs, key=lambda pair: kept(pair[0]))
    weights = mean_weights(small_groups(results.groups), network, other)
    return contrast(results, (other, weights), (network, -weights)), _named(results, network, other)
