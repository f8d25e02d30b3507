"""A finding as a number: its statistic for each seed, the interval of the mean, and whether it is borne out."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.reporting import tables
from experiments.reporting.series import Estimate, over_seeds
from experiments.reporting.tables import Column, Table
from jaxfair.errors import JaxfairError

Verdict = Literal["supported", "not supported: contradicted", "not supported: not shown", "not enough data"]
Side = Literal["above", "below"]

RANKED = 3  # a rank correlation of two is 1 or -1, so seeds that agree by chance would show anything
DIGITS = 9  # decimals that are kept; below them a sum in another order differs


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


class Missing(JaxfairError):
    """The runs that a finding or a figure needs are absent; the message says which."""


COLUMNS = (
    Column("finding", under="statistic"),
    Column("value", "mean over seeds"),
    Column("seeds"),
    Column("verdict"),
    Column("note"),
)
FOOT = "In brackets: Student's t, 95 %, over seeds that share one split; not corrected for the number of findings."


def rows(found: Sequence[Claim]) -> list[dict[str, Any]]:
    """Return one row a claim for JSON or ``tables.write_csv``; None where there is no number."""
    return [{k: None if isinstance(v, float) and np.isnan(v) else v for k, v in c._asdict().items()} for c in found]


def table(found: Sequence[Claim]) -> Table:
    """Return the claims as readers see them."""
    shown = [{**c._asdict(), "finding": c.statement, "value": Estimate(c.value, c.low, c.high)} for c in found]
    return Table(COLUMNS, shown)


def markdown(found: Sequence[Claim]) -> str:
    """Return the claims as a Markdown table, and a sentence on the intervals."""
    return f"{tables.markdown(table(found))}\n\n{FOOT}\n"


# fmt: off
def decide(results: Any, name: str, statement: str, statistic: str, measure: Callable[..., Any], *arguments: Any,
           side: Side = "above", threshold: float = 0.0) -> Claim:
    """Judge a finding by the interval of a statistic's mean over seeds.

    Args:
        results: of a study, whatever ``measure`` takes.
        name: see ``Claim``, as for the next two.
        statement: the finding.
        statistic: what is measured.
        measure: ``(results, *arguments) -> values, *notes``, a value for each seed; raises ``Missing`` without data.
        arguments: for ``measure``.
        side: on which the statistic is claimed to be.
        threshold: of what.
    """
    statistic = f"{statistic}; claimed {side} {threshold:g}"
    try:
        values, *notes = measure(results, *arguments)
    except Missing as missing:
        return Claim(name, statement, statistic, np.nan, np.nan, np.nan, 0, "not enough data", str(missing))
    value, low, high = (round(float(x), DIGITS) for x in over_seeds(values))
    verdict: Verdict = "not supported: not shown"
    if len(values) < 2:
        verdict, notes = "not enough data", ["an interval needs at least 2 seeds", *notes]
    elif low > threshold or high < threshold:
        verdict = "supported" if (low > threshold) == (side == "above") else "not supported: contradicted"
        notes += ["all seeds agree exactly, so the interval has no width"] * (low == high)
    return Claim(name, statement, statistic, value, low, high, len(values), verdict, "; ".join(filter(None, notes)))
# fmt: on


def rank_correlations(x: np.ndarray, y: np.ndarray, of: str) -> tuple[np.ndarray, str]:
    """Return Spearman's correlation of each seed's row; 0 where a row ties throughout and so ranks nothing."""
    from scipy.stats import spearmanr

    if x.shape[1] < RANKED:
        raise Missing(f"a rank correlation needs at least {RANKED} {of}, there are {x.shape[1]}")
    y = np.round(y, DIGITS)
    tied = (np.ptp(x, axis=1) == 0) | (np.ptp(y, axis=1) == 0)
    values = [0.0 if t else spearmanr(a, b)[0] for t, a, b in zip(tied, x, y, strict=True)]
    return np.array(values), f"{of} all tie for {tied.sum()} seeds, which count as 0" if tied.any() else ""
