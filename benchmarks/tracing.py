"""Where a job's time goes: XLA's operations by kind and by program, from a trace of one run."""

import collections
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from benchmarks import timing

KINDS = {
    "transpositions and copies": ("transpose", "copy", "reverse", "pad"),
    "convolutions of a library": ("custom-call", "cudnn"),
    "convolutions of XLA": ("convolution",),
    "matrix products": ("dot", "gemm", "cublas"),
}
"""Of each kind, what the names of XLA's operations have in them; the first kind that fits counts."""
OTHER = "elementwise operations and sums"
PROGRAMS = {"jit_apply": "products", "jit_product": "products"}
PROGRAMS |= dict.fromkeys(("jit__keep", "jit__loss_and_gradient"), "gradients and kept passes")
"""What compiled functions of ``jaxfair.curvature.programs`` do, by the names that XLA gives them."""


def kind(operation: str) -> str:
    """Return the kind of an operation by its name, such as ``wrapped_convolution.12``."""
    return next((name for name, parts in KINDS.items() if any(part in operation for part in parts)), OTHER)


def trace(run: Callable[[], Any]) -> dict[str, Any]:
    """Run a job that is compiled already, and return what kept the machine busy.

    Returns:
        ``seconds`` that the run took, ``busy_seconds`` of all operations, which add up over threads, and the shares of
        these by ``kinds`` and by ``programs``.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # which would take longer than small operations do
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            seconds = timing.clock(run)
        (path,) = Path(folder).rglob("*.xplane.pb")
        found = list(_operations(path))
    busy = sum(duration for *_, duration in found)
    kinds, programs = collections.defaultdict[str, float](float), collections.defaultdict[str, float](float)
    for operation, program, duration in found:
        kinds[kind(operation)] += duration / busy
        programs[PROGRAMS.get(program, "other")] += duration / busy
    return {
        "seconds": seconds,
        "busy_seconds": busy,
        "kinds": _largest_first(kinds),
        "programs": _largest_first(programs),
    }


def _largest_first(shares: dict[str, float]) -> dict[str, float]:
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _operations(path: Path) -> Iterator[tuple[str, str, float]]:
    """Yield name, program and seconds of every operation of a trace."""
    data: Any = jax.profiler.ProfileData.from_file(str(path))
    for event in (event for plane in data.planes for line in plane.lines for event in line.events):
        said = dict(event.stats)
        if "hlo_op" in said:
            yield event.name, said.get("hlo_module", ""), event.duration_ns / 1e9
