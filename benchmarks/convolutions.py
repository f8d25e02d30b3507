"""Time the convolutions of a ResNet-18, or their kernel gradients alone, XLA's and ours, in turn, and write JSON.

    python -m benchmarks.convolutions --width 64 --images 32 --out benchmarks/results/convolutions/w64.json

    python -m benchmarks.convolutions --width 8 --images 128 --pixels 16 --whole \\
        --out benchmarks/results/convolutions/w8-16px.json

Ours are ``jaxfair.networks.convolutions``; where oneDNN is not asked for, both are XLA's but for small images.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import command, measure, timing
from jaxfair import runs
from jaxfair.errors import JaxfairError
from jaxfair.networks import convolutions

OURS, XLAS = "jaxfair", "XLA"
FUNCTIONS = {XLAS: lax.conv_general_dilated, OURS: convolutions.conv_general_dilated}


def layers(width: int, row: int = 32) -> Iterator[tuple[str, int, int, int, int, int]]:
    """Yield name, pixels of a row, channels in and out, size of the kernel and stride of every kind of layer."""
    yield "stem", row, 3, width, 3, 1
    for stage in range(4):
        pixels, channels = row >> stage, width << stage
        if stage:
            yield f"stage {stage + 1}, stride 2", pixels * 2, channels // 2, channels, 3, 2
            yield f"stage {stage + 1}, shortcut", pixels * 2, channels // 2, channels, 1, 2
        yield f"stage {stage + 1}", pixels, channels, channels, 3, 1


def jobs(
    images: int, layer: tuple[str, int, int, int, int, int], *, whole: bool = False
) -> tuple[dict[str, Callable[[], Any]], float]:
    """Return both libraries' kernel gradient of one layer, or the result and both gradients, and their GFLOP."""
    _, pixels, channels, out, size, stride = layer
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(images, pixels, pixels, channels)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(size, size, channels, out)), jnp.float32)
    cotangent = jnp.asarray(rng.normal(size=(images, pixels // stride, pixels // stride, out)), jnp.float32)
    options: dict[str, Any] = {"window_strides": (stride, stride), "padding": [(size // 2, size // 2)] * 2}

    def gradient(convolve: Any) -> Callable[[], Any]:
        function = partial(convolve, **options, dimension_numbers=convolutions.LAYOUT)

        def of_kernel(x: Any, kernel: Any, cotangent: Any) -> Any:
            return jax.vjp(partial(function, x), kernel)[1](cotangent)

        def of_all(x: Any, kernel: Any, cotangent: Any) -> Any:
            found, pull_back = jax.vjp(function, x, kernel)
            return found, *pull_back(cotangent)

        compiled = jax.jit(of_all if whole else of_kernel)
        return lambda: compiled(x, kernel, cotangent)

    gflop = (3 if whole else 1) * 2 * cotangent.size * kernel.size / out / 1e9
    return {name: gradient(convolve) for name, convolve in FUNCTIONS.items()}, gflop


def measured(layer: tuple[str, int, int, int, int, int], chosen: argparse.Namespace) -> dict[str, Any]:
    """Time one layer, print its line, and return what was found."""
    both, gflop = jobs(chosen.images, layer, whole=chosen.whole)
    one, other = (np.concatenate([np.ravel(part) for part in job()]) for job in both.values())
    apart = float(np.linalg.norm(one - other) / np.linalg.norm(other))
    seconds = timing.in_turn(both, chosen.repeats)
    times = ", ".join(f"{name} {found['median'] * 1e3:.2f} ms" for name, found in seconds.items())
    ratio = seconds[XLAS]["median"] / seconds[OURS]["median"]
    print(f"{layer[0]:20s} {times}, ratio {ratio:.2f}, apart {apart:.0e}", flush=True)
    return {"layer": layer[0], "gflop": gflop, "apart": apart, **seconds}


def main(arguments: Sequence[str] | None = None) -> None:
    """Time, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--pixels", type=int, default=32, help="of a row of an image, at least 8")
    parser.add_argument("--whole", action="store_true", help="time the results and both gradients together")
    parser.add_argument("--repeats", type=int, default=9, help="timed rounds; there is one more, which is not counted")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    chosen = parser.parse_args(arguments)
    timing.configure()
    words = ["python", "-m", "benchmarks.convolutions", *(sys.argv[1:] if arguments is None else arguments)]
    given = {name: getattr(chosen, name) for name in ("width", "images", "pixels", "whole", "repeats")}
    with command.making(chosen.out):
        if chosen.pixels < 8 or min(chosen.width, chosen.images, chosen.repeats) < 1:
            shown = " ".join(f"--{name} {given[name]}" for name in ("width", "images", "pixels", "repeats"))
            raise JaxfairError(f"There is nothing to time with {shown}; give 8 pixels or more, and 1 of the others.")
        given["layers"] = [measured(layer, chosen) for layer in layers(chosen.width, chosen.pixels)]
        runs.write_json(chosen.out, {"command": shlex.join(words), **given, "environment": measure.describe({}, {})})


if __name__ == "__main__":
    main()
