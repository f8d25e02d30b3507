"""What is said on the page of a compression study: its networks, what its numbers mean, and its answer."""

from collections.abc import Sequence
from typing import Any

from experiments.analyses import differences, quantities, statistics
from experiments.analyses.page import ACCURACIES, LINEARIZED, Words
from experiments.analyses.results import Results
from experiments.compression.claims import FAMILIES, kept, networks
from experiments.compression.figures import CHANGES, saving
from experiments.reporting.series import Estimate, over_seeds
from experiments.reporting.tables import Column
from experiments.reporting.verdicts import Claim, Missing
from jaxfair.taylor import KINKS, agreement

SUMMARY = (
    Column("network"),
    Column("saves"),
    Column("kept_percent", "of it is kept (%)", ".3g"),
    *ACCURACIES,
)
EXPANSION = (
    Column("network"),
    Column("parameter_distance", form=".3g"),
    Column("foretold_small", "foretold, small groups (nats)", ".3g"),
    Column("rise_small", "rise of the loss, small groups (nats)", ".3g"),
    Column("foretold_large", "foretold, large groups (nats)", ".3g"),
    Column("rise_large", "rise of the loss, large groups (nats)", ".3g"),
    Column("r2", "R2 over groups", ".2f"),
    Column("rank", "rank correlation over groups", ".2f"),
)
LOST = (
    "A group's relative accuracy drop is the share of the full network's accuracy that it loses by the change, in "
    "percent. What it lost beyond the reference group is in points of that, and of networks trained further it is "
    "counted from the full network trained on as long. p is the probability of a difference as large if there were "
    "none; corrected is p for the number of groups compared (Holm 1979)."
)
AT_ONCE = "Pruned n % has lost the n % smallest weights of its convolutions and dense layers, all at once"
NETWORKS = {
    "pruned-global": f"{AT_ONCE}; by layer, the smallest of each layer.",
    "pruned-gradual-tuned": "Pruned gradually: in rounds with fine-tuning between, of as many epochs together.",
    "quantized": "Bits: weights rounded to so many bits, with a step for each output channel, batch norm built in "
    "first; not trained further.",
    "format": "bf16, fp16, tf32: weights and the operands of all products rounded to that format.",
    "control": "The fine-tuned full network had the pruned ones' fine-tuning, with all its weights.",
    **LINEARIZED,
    "matched": "The networks matched to SNL n or to DeepReDuce were trained as these were, with all ReLUs kept.",
    "mitigated": "Mitigated networks were fine-tuned against unequal losses of the groups.",
}
MEANINGS = {
    "Saves, kept": "what the change saves, and how much of it is left: ReLUs, weights that are not zero, bits of 32.",
    "Foretold": "g . d + 1/2 d^T H d, with d the change of the weights, g gradient and H Hessian of the group's loss "
    f"on the full network: the change of the loss to second order. {KINKS} R2 compares it with the rise over groups, "
    "seed by seed: 1 is exact, 0 no better than one number for all groups, negative worse; over seeds it is 1 less the "
    "geometric mean of what is left unexplained, with a 95 % interval for these groups.",
    "Parameter distance": "L2 distance between the parameters of the changed and the full network.",
}
WORDS = Words(SUMMARY, LOST, NETWORKS, MEANINGS)


def answer(results: Results, found: Sequence[Claim] = ()) -> str:
    """Say who lost more than whom at the strongest change of each family, or else at the strongest of what saves alike.

    Args:
        results: of the study.
        found: its findings, whose verdicts count here too.
    """
    said, by_name = [], {claim.name: claim for claim in found}
    for key, family in FAMILIES.items():
        try:
            strongest = networks(results, family.method)[0]
            claim = by_name.get(f"small_lose_more ({key})")
            said.append(differences.answer(results, strongest, statistics.together(results, strongest, claim)))
        except Missing:
            continue
    others = [] if said else [v for v in results.variants if "kept" in v.about and not v.base]
    for saves in dict.fromkeys(v.about["saves"] for v in others):  # by layer or gradually alone, or formats
        alike = [v for v in others if v.about["saves"] == saves]
        strongest = min(alike, key=lambda v: (kept(v), not v.method.endswith("-tuned")))
        said.append(differences.answer(results, strongest, statistics.together(results, strongest)))
    return "\n\n".join(said) or "No network of the study is pruned or rounded. There is nothing to compare."


def summary_rows(results: Results) -> list[dict[str, Any]]:
    """Return one row a network: what it saves, accuracies, and drops of large and small groups, with intervals."""
    rows = []
    for row, network in zip(quantities.summary_rows(results), results.variants, strict=True):
        changed = network.method in CHANGES or "saves" in network.about
        saves = network.about.get("saves", "ReLUs") if changed else ""
        first = {"network": row.pop("network"), "saves": saves}
        first["kept_percent"] = 100 * saving(network) if changed else float("nan")
        rows.append(first | {name: value for name, value in row.items() if name != "relus"})
    return rows


def expansion_rows(results: Results) -> list[dict[str, Any]]:
    """Return one row a network compressed without training: what was foretold of the losses, and their rise."""
    rows, large = [], results.groups.large
    for network in results.variants:
        if "loss_rise" not in network.by_group:
            continue
        foretold, rise = network.by_group["first_term"] + network.by_group["second_term"], network.by_group["loss_rise"]
        row: dict[str, Any] = {"network": network.label, "seeds": len(network.seeds)}
        row["parameter_distance"] = over_seeds(network.parameter_distance, "positive")
        for name, who in (("small", ~large), ("large", large)):
            if who.any():
                row |= {f"foretold_{name}": over_seeds(foretold[:, who].mean(axis=1))}
                row |= {f"rise_{name}": over_seeds(rise[:, who].mean(axis=1))}
        if rise.shape[1] > 1:
            how = agreement(foretold, rise)
            row["r2"], row["rank"] = Estimate(how.r2, *how.r2_interval), Estimate(how.rank, *how.rank_interval)
        rows.append(row)
    return rows
