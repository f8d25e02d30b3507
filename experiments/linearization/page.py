"""What is said on the page of a linearization study: its networks, what its numbers mean, and its answer."""

from collections.abc import Sequence

from experiments.analyses import differences, statistics
from experiments.analyses.page import ACCURACIES, COUNTED, LINEARIZED, Words
from experiments.analyses.results import CONTROLS, RANDOM, Results
from experiments.reporting.tables import Column
from experiments.reporting.verdicts import Claim

WORK = Column("million_passes", "work after the full network (million passes)", ".3g")
SUMMARY = (Column("network"), Column("relus", "ReLUs"), *ACCURACIES, WORK)
LOST = (
    "A group's relative accuracy drop is the share of the full network's accuracy that it loses by linearization, in "
    "percent. What it lost beyond the reference group is in points of that, and where the study has controls it is "
    "counted from them. p is the probability of a difference as large if there were none; corrected is p for the "
    "number of groups compared (Holm 1979)."
)
NETWORKS = {
    **LINEARIZED,
    "snl-balanced": "SNL n (balanced) is SNL with every group counting the same in the descent's loss.",
    "senet": "SENet n divides n ReLUs among the layers by their sensitivity to pruning, and in each keeps those units "
    "whose activations differed most from the full network's (Kundu et al. 2023).",
    "senet-balanced": "SENet n (balanced) counts every group the same in both.",
    "bcd": "BCD n starts from SNL's network of twice as many ReLUs and removes random blocks whose loss costs little "
    "training accuracy, with fine-tuning between (block coordinate descent, arXiv 2511.11781).",
    "bcd-loss": "BCD n (loss) accepts blocks by the mean training loss.",
    "bcd-worst-group": "BCD n (worst group) accepts blocks by the training loss of the worst group.",
    "bcd-cvar": "BCD n (CVaR) accepts them by the mean of the largest training losses, without groups.",
    "random": "Random n is the full network with n ReLUs that were drawn at random, fine-tuned; its control is the "
    "fine-tuned full network.",
    "matched": "The networks matched to SNL n, to DeepReDuce or to another method are the controls: trained as these "
    "were, by the same optimizer on the same images in the same order, with all ReLUs kept. What is lost is counted "
    "from them.",
    "random-matched": "Random n after equal training is the control of SNL n with n ReLUs that were drawn at random, "
    "fine-tuned.",
    "control": "The fine-tuned full network had the linearized ones' fine-tuning, with all its ReLUs.",
    "mitigated": "Mitigated networks were fine-tuned against unequal losses of the groups: mu is the rate at which the "
    "Lagrangian's multipliers grow, level the share of the worst images that CVaR looks at, rate the step of ARL's "
    "adversary; lagrangian-detached has the penalty as the authors' code has it, without its gradient, and "
    "lagrangian-published the weight of the distillation too.",
}
MEANINGS = {
    "ReLUs": "units that are still ReLUs; all others are the identity.",
    "Work after the full network": "all training, and all trying of ReLUs, that made the network of the full one, in "
    "millions of forward passes of one image; a gradient counts three, by counting convolutions. SNL's is that of the "
    "descent to this budget, though one descent serves all.",
    "Parameter distance": "L2 distance between the parameters of the linearized and the full network. It ignores that "
    "permuted networks are equal; blank for networks of another size.",
}
HEADERS = f"{COUNTED} Million passes are the work that made a network of the full one, in forward passes of one image."
WORDS = Words(SUMMARY, LOST, NETWORKS, MEANINGS)


def answer(results: Results, found: Sequence[Claim] = ()) -> str:
    """Say who lost more than whom at the tightest budget, of SNL's if there are any, and small groups than large.

    Args:
        results: of the study.
        found: its findings, whose verdicts count here too.
    """
    linearized = [v for v in results.variants[1:] if not v.base and v.method not in (*CONTROLS, *RANDOM)]
    linearized = [v for v in linearized if v.method == "snl"] or linearized
    if not linearized:
        return "No network of the study is linearized. There is nothing to compare."
    tightest = min(linearized, key=lambda v: v.relu_count)
    claim = next((one for one in found if one.name == "small_lose_more"), None)
    return differences.answer(results, tightest, statistics.together(results, tightest, claim))
