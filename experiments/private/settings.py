"""What private inference is told."""

import dataclasses
from pathlib import Path
from typing import Literal

from experiments.running.settings import StudyFolder

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".venv-mpc"

Protocol = Literal["aby3", "cheetah"]


@dataclasses.dataclass(frozen=True)
class Private:
    """Run the networks of a finished linearization study under private inference.

    Attributes:
        study: folder that the study was told as ``--out``.
        out: folder; the page is written into ``report`` in it.
        methods: which networks, by how they were linearized; ``full`` is the one with all ReLUs.
        seed: of the networks; by default the study's first.
        fraction_bits: of the fixed-point numbers, which have 64 bits; accuracy is found for each.
        images: of the test set, drawn without replacement; the whole set where it has no more.
        bound_images: how many of them the errors of the logits are bounded for, which takes a derivative for each ReLU.
        protocols: whose costs are found; accuracy is found under aby3.
        cost_images: for one inference whose costs are found.
        cost_bits: fraction bits of that inference.
        lan_bandwidth: bytes a second of a local network.
        lan_latency: seconds that a message takes there.
        wan_bandwidth: bytes a second of a wide-area network.
        wan_latency: seconds that a message takes there.
        environment: what ``setup`` made.
        timeout: seconds after which one run of a protocol is ended.
    """

    study: StudyFolder
    out: Path
    methods: tuple[str, ...] = ("full", "snl")
    seed: int | None = None
    fraction_bits: tuple[int, ...] = (8, 12, 18)
    images: int = 500
    bound_images: int = 8
    protocols: tuple[Protocol, ...] = ("aby3", "cheetah")
    cost_images: int = 1
    cost_bits: int = 18
    lan_bandwidth: float = 1.25e8
    lan_latency: float = 5e-4
    wan_bandwidth: float = 1.25e7
    wan_latency: float = 0.05
    environment: Path = ENVIRONMENT
    timeout: float = 600


@dataclasses.dataclass(frozen=True)
class Setup:
    """Make the environment that SPU needs: Python 3.10 or 3.11, and the versions of ``constraints-mpc.txt``.

    Attributes:
        python: the Python to use; by default the first of python3.11 and python3.10 that starts.
        environment: folder of the environment.
    """

    python: str | None = None
    environment: Path = ENVIRONMENT
