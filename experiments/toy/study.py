"""A toy study, from its settings to its figure and table."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np

from experiments.reporting import drawing
from experiments.running.progress import Progress, say
from experiments.running.settings import check_place
from experiments.toy.boundary import check_boundary, compare, draw_boundary, print_boundary
from experiments.toy.pieces import check_pieces, draw_pieces, measure, print_pieces
from experiments.toy.settings import Boundary, Pieces, Toy
from jaxfair import hardware, processes, runs
from jaxfair.errors import JaxfairError

STUDIES: dict[type[Toy], tuple[str, Callable, Callable, Callable]] = {
    Boundary: ("boundary", compare, draw_boundary, print_boundary),
    Pieces: ("pieces", measure, draw_pieces, print_pieces),
}


def make(config: Toy, _: Sequence[str]) -> None:
    """Make a study, unless it was finished before, and print its table and where it lies."""
    import matplotlib as mpl

    name, compute, draw, show = STUDIES[type(config)]
    check_place(config.out, config.seeds)
    check(config)
    settings = {key: value for key, value in dataclasses.asdict(config).items() if key != "out"}
    named = {"stage": "toy", "name": name, **settings}
    found = runs.locate(config.out, named)
    with processes.locked(found.path, say):
        if found.done and (wrong := found.damage()):
            say(f"The study was damaged ({wrong}) and is made again.")
        run = runs.start(config.out, named)
        if run.done:
            say("The study was finished before and is kept.")
        else:
            began, environment = time.monotonic(), runs.environment()
            with Progress() as progress:
                result, shown = compute(config, progress)
            run.write_json("result.json", result)
            with mpl.rc_context({**drawing.STYLE, "text.parse_math": True}):
                drawing.save(draw(result, shown), run.path / name)
            finished = {"finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
            environment |= {**hardware.describe(), **finished, "seconds": round(time.monotonic() - began, 2)}
            run.write_json("environment.json", environment)
            run.finish()
    show(run.json("result.json"))
    print(f"\nNumbers and figure: {run.path}")


def check(config: Toy) -> None:
    """Find impossible settings before anything is made.

    Raises:
        JaxfairError: a setting is impossible.
    """
    if config.seeds < 1 or config.steps < 1 or not 0 < config.learning_rate < np.inf:
        raise JaxfairError(
            f"The study has {config.seeds} seeds and {config.steps} steps at learning rate {config.learning_rate}; "
            "give at least one seed and step, and a positive rate."
        )
    if isinstance(config, Boundary):
        check_boundary(config)
    elif isinstance(config, Pieces):
        check_pieces(config)
