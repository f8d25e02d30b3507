"""The toy studies of Das et al. 2024: two classes in the plane (Fig. 2), and linear pieces (Fig. 10, Prop. 4.1, 4.2).

    python -m experiments.toy boundary
    python -m experiments.toy pieces

``boundary`` trains a small network on two groups, with all of its ReLUs and with a random half of its hidden units
linear, and compares what each group loses. ``pieces`` counts the linear pieces of random networks exactly, against the
formula for how many there can be, and compares trained networks with the best piecewise linear approximation.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np

from experiments import cli
from experiments.reporting import drawing
from experiments.running.progress import Progress, say
from experiments.toy.boundary import Boundary, check_boundary, compare, draw_boundary, print_boundary
from experiments.toy.networks import Toy
from experiments.toy.pieces import Pieces, check_pieces, draw_pieces, measure, print_pieces
from jaxfair import hardware, processes, runs
from jaxfair.errors import JaxfairError

STUDIES: dict[str, tuple[type[Toy], Callable, Callable, Callable]] = {
    "boundary": (Boundary, compare, draw_boundary, print_boundary),
    "pieces": (Pieces, measure, draw_pieces, print_pieces),
}


def make(name: str, config: Toy) -> None:
    """Make a study, unless it was finished before, and print its table and where it lies."""
    import matplotlib as mpl

    _, compute, draw, show = STUDIES[name]
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    commands = {
        name: cli.Command(options, lambda config, _, name=name: make(name, config))
        for name, (options, *_) in STUDIES.items()
    }
    return cli.main("python -m experiments.toy", __doc__, commands, arguments)
