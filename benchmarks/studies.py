"""Studies by their functions, each in a process of its own that ``benchmarks.stages`` starts by this file's path.

A machine that has an accelerator may lack tyro, which reads command lines: its marks on settings decide nothing here.
The package would ask for oneDNN's convolutions when it is imported, which a hardware profile's environment decides.
"""

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from experiments import cli
from jaxfair.errors import JaxfairError

if __name__ == "__main__":
    cli.begin()


def quickstart(out: str, small: str) -> None:
    """Make the quickstart's study, or where ``small`` is not empty one of a seed and a budget."""
    from experiments.linearization import study
    from experiments.linearization.settings import QUICKSTART

    less: dict[str, Any] = {"seeds": 1, "deepreduce": (), "budgets": (0.05,)}
    less["train"] = dataclasses.replace(QUICKSTART.train, epochs=1)
    chosen = dataclasses.replace(QUICKSTART, out=Path(out), **(less if small else {}))
    study.run(chosen, ["python -m experiments.linearization", "--preset", "quickstart"])


def forecast(preset: str, data: str, out: str) -> None:
    """Print the plan of a preset for the images of an npz file."""
    from experiments.linearization import study
    from experiments.linearization.settings import PRESETS

    of_npz = dataclasses.replace(PRESETS[preset].data, name="npz", path=Path(data))
    chosen = dataclasses.replace(PRESETS[preset], data=of_npz, out=Path(out), dry_run=True)
    study.run(chosen, ["python -m experiments.linearization", "--preset", preset])


def bundle(profile: str, out: str, file: str, small: str) -> None:
    """Make and pack the hardware study's runs of a profile, by whose environment this process was started."""
    from experiments.hardware import bundles, study
    from experiments.hardware.settings import QUICKSTART
    from jaxfair import hardware

    less: dict[str, Any] = {"seeds": 1, "ulps": 0, "controls": ()}
    less["train"] = dataclasses.replace(QUICKSTART.train, epochs=1)
    chosen = dataclasses.replace(QUICKSTART, profiles=(profile,), out=Path(out), **(less if small else {}))
    study.make(chosen, hardware.named(profile), ["python -m experiments.hardware", "--profiles", profile])
    bundles.listed(chosen.out, [profile])
    bundles.pack(chosen.out, Path(file))


def do_without_tyro() -> None:
    """Let settings be imported where there is no tyro."""
    try:
        import tyro  # noqa: F401
    except ImportError:
        marks = SimpleNamespace(Positional=None, OmitArgPrefixes=None, arg=lambda **_: None)
        marks.configure = lambda *_: lambda kind: kind
        sys.modules["tyro"] = SimpleNamespace(conf=marks, MISSING=None)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    do_without_tyro()
    cli.configure_jax()
    try:
        {"quickstart": quickstart, "forecast": forecast, "bundle": bundle}[sys.argv[1]](*sys.argv[2:])
    except JaxfairError as error:
        raise SystemExit(str(error)) from None
