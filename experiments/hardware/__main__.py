"""The hardware study (Nelaturu et al. 2024): does the machine change who the model fails, beyond noise?

    python -m experiments.hardware --preset quickstart
    python -m experiments.hardware pack STUDY FILE
    python -m experiments.hardware merge STUDY STUDY ... --out FOLDER

Trains the same networks from the same initial parameters on every hardware profile, each in a process of its own, and
on the first one, the reference, also with controls: the same again, one weight changed by one unit in the last place,
another order of the data, batches twice as large. Finished runs are kept: the same command goes on where it was
interrupted. ``merge`` compares studies that were made on several machines.
"""

from collections.abc import Sequence

from experiments import cli

if __name__ == "__main__":
    cli.begin()

from experiments.hardware.settings import PRESETS, Merge, Pack, ignored


def _run() -> cli.Work:
    from experiments.hardware import study

    return study.run


def _merge() -> cli.Work:
    from experiments.hardware import study

    return study.merge


def _pack() -> cli.Work:
    from experiments.hardware import bundles

    return lambda given, _: bundles.pack(given.study, given.file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    commands = {
        "": cli.Command(PRESETS, _run, once=cli.several(PRESETS), unused=ignored),
        "pack": cli.Command(Pack, _pack, "the study is untouched, and the same command starts over"),
        "merge": cli.Command(Merge, _merge, "the studies are untouched, and the same command starts over"),
    }
    return cli.main("python -m experiments.hardware", __doc__, commands, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
