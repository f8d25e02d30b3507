"""The page of private inference: what an inference costs, and who is predicted otherwise."""

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from experiments.private import study
from experiments.private.settings import Private
from experiments.private.study import Found
from experiments.reporting import html
from experiments.reporting.tables import Column, Table

COSTS = (
    Column("network"),
    Column("relus", "ReLUs"),
    Column("protocol"),
    Column("comparison_bytes", "bytes, comparisons", ",.0f"),
    Column("linear_bytes", "bytes, convolutions and head", ",.0f"),
    Column("bytes", "bytes, all", ",.0f"),
    Column("bytes_a_relu", "bytes of comparisons a ReLU", ",.1f"),
    Column("messages", "messages", ",.0f"),
    Column("comparison_seconds", "seconds, comparisons", ".2f"),
    Column("linear_seconds", "seconds, convolutions and head", ".2f"),
    Column("seconds", "seconds, all, no network", ".2f"),
    Column("lan_seconds", "LAN, formula (s)", ".2f"),
    Column("wan_seconds", "WAN, formula (s)", ".2f"),
    Column("garbled_bytes", "bytes, garbled circuits", ",.0f"),
)
ACCURACY = (
    Column("network"),
    Column("relus", "ReLUs"),
    Column("bits", "fraction bits"),
    Column("images"),
    Column("float_accuracy", "accuracy, floating point (%)", ".1f"),
    Column("accuracy", "accuracy, fixed point (%)", ".1f"),
    Column("flips", "predictions that differ"),
    Column("flipped", "they are (%)", ".2f"),
    Column("error", "largest error of a logit", ".2g"),
    Column("bound", "largest bound", ".2g"),
    Column("of_bound", "largest error over its bound", ".2g"),
)
GROUPS = (
    Column("network"),
    Column("bits", "fraction bits"),
    Column("group"),
    Column("images"),
    Column("float_accuracy", "accuracy, floating point (%)", ".1f"),
    Column("accuracy", "accuracy, fixed point (%)", ".1f"),
    Column("flipped", "predictions that differ (%)", ".1f"),
    Column("broken", "right, then wrong (%)", ".1f"),
    Column("mended", "wrong, then right (%)", ".1f"),
    Column("mcnemar", "McNemar's p", ".2g"),
)
DIFFERENCES = (
    Column("network"),
    Column("group"),
    Column("reference", "compared with"),
    Column("difference_points", "relative drop minus that of the reference (points)", ".1f"),
    Column("p_value", "p", ".2g"),
    Column("corrected", "p, corrected", ".2g"),
    Column("lost", "lost, compared with the reference"),
)
MEANINGS = {
    "Protocol": "aby3: three parties, of which no two collude (Mohassel and Rindal 2018), 64-bit numbers. cheetah: two "
    "parties, homomorphic encryption for products and oblivious transfer for comparisons (Huang et al. 2022). Both as "
    "SPU has them; weights and images are secret, the architecture and which units are compared are public.",
    "Bytes, messages": "that one party sends during an inference, the mean over the parties. Shares of weights and "
    "images are dealt before and not counted. Messages stand for rounds; one that nobody waits for is counted too. "
    "What cheetah sets up once is in the part that first needs it.",
    "Comparisons": "the signs of the kept units, and their products with the units.",
    "Seconds, no network": "all parties are threads of one process on this machine, and share its cores. Those of "
    "comparisons and of convolutions are means over the parties, in which one may have waited for another.",
    "LAN, WAN": "bytes of a party / bandwidth + messages x latency: communication alone, by formula and not measured.",
    "Garbled circuits": f"{study.GARBLED:,} bytes a ReLU, Delphi's protocol (Mishra et al. 2020) as published in the "
    "artifact of Garimella et al. 2023; of ReLUs alone, and not measured here.",
    "Bound": "on the error of a logit, for each image and logit by itself, of the first few images: how far rounding "
    "the weights and the image moves it, and what cutting every product can move it by at most, through the network's "
    "derivatives and the units that may change their sign. An error over its bound is at most 1.",
    "Relative drop minus that of the reference": "in percentage points, from floating point to fixed point. All groups "
    "of all networks are judged together: the intervals are wider than 95 %, so that all of them hold at once "
    "(Bonferroni), and corrected is p for their number (Holm 1979). The images are all their noise.",
    "McNemar's p": "that breaking and mending are equally likely, of each group and network for itself.",
    "Interval": "elsewhere 95 %, Wilson, over images: of these networks, other seeds would differ.",
}


def page(config: Private, title: str, found: Found, facts: Mapping[str, Any]) -> str:
    """Return what was found as one HTML page that loads nothing."""
    lan, wan = ((config.lan_bandwidth, config.lan_latency), (config.wan_bandwidth, config.wan_latency))
    constants = " ".join(
        f"{name}: {bandwidth / 1e6:g} MB a second, {1000 * latency:g} ms a message."
        for name, (bandwidth, latency) in {"LAN": lan, "WAN": wan}.items()
    )
    images = f"{config.cost_images} image{'s' * (config.cost_images > 1)}, {config.cost_bits} fraction bits"
    groups = study.group_rows({key: of for key, of in found.changes.items() if key[1] == found.coarsest})
    apart = study.difference_rows(found)
    compared = html.folded("Each group of each network against the reference", html.table(Table(DIFFERENCES, apart)))
    parts = [
        html.answer(study.answer(found)),
        html.heading(f"What an inference costs ({images})"),
        html.table(Table(COSTS, found.costs)),
        html.paragraph(f"{constants} Bytes are for one image, messages and seconds for an inference."),
        html.heading("Fixed point against floating point (aby3)"),
        html.table(Table(ACCURACY, found.accuracy)),
        html.heading(f"By group, {found.coarsest} fraction bits"),
        *map(html.paragraph, study.judged(found)),
        *([compared] if apart else []),
        html.folded("Groups of every network", html.table(Table(GROUPS, groups))),
    ]
    made = html.folded("Command, runs and versions", f"<pre>{escape(json.dumps(facts, indent=1))}</pre>")
    return html.page(title, [*parts, html.meanings(MEANINGS, parts), html.heading("How this was made"), made])
