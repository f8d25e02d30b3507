"""The settings of the toy studies."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Toy:
    """Settings of both studies.

    Attributes:
        out: folder of the results.
        seeds: number of networks of each kind, 0 to seeds - 1.
        steps: of Adam, each on all training points.
        learning_rate: at the first step; it falls to 0 by a cosine.
    """

    out: Path = Path("results/toy")
    seeds: int = 20
    steps: int = 5000
    learning_rate: float = 0.02


@dataclasses.dataclass(frozen=True)
class Boundary(Toy):
    """Settings of the two groups in the plane; by default half of the ReLUs are too few for the minority's boundary.

    The four units of the default were chosen among other sizes because half of them are too few. Where half of the
    units can still draw the boundary the drop fades: the minority loses (20 seeds, 95 %) 5.2 to 10.6 points more than
    the majority with ``--widths 4``, 2.5 to 6.9 with 6, -0.3 to 3.2 with 8, -0.1 to 2.0 with 16, -2.3 to -0.2 with 4 4.

    Attributes:
        points: training points of each seed.
        minority: share of the minority among them.
        widths: hidden units of each layer.
        restarts: initial weights tried for each network; the one with the lowest training loss is kept, so that the
            networks differ by their units and not by the luck of a start.
    """

    steps: int = 3000
    learning_rate: float = 0.05
    points: int = 1000
    minority: float = 0.1
    widths: tuple[int, ...] = (4,)
    restarts: int = 10


@dataclasses.dataclass(frozen=True)
class Pieces(Toy):
    """Settings of the linear pieces.

    Attributes:
        networks: hidden widths of the random networks: 8x4 has 8 units and then 4.
        pieces: of the approximations; a trained network has one hidden unit fewer, so that it cannot have more.
        interval: where functions are approximated.
    """

    networks: tuple[str, ...] = ("4", "16", "4x4", "8x8", "16x16", "4x4x4", "8x8x8", "16x16x16", "8x8x8x8")
    pieces: tuple[int, ...] = (2, 3, 5, 9, 17, 33)
    interval: tuple[float, float] = (-1.0, 1.0)
