"""Running a protocol from here: its environment, the child process, and what the engine's profile says of the costs."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.private import engine
from experiments.private.settings import ENVIRONMENT, ROOT, Protocol
from jaxfair import processes
from jaxfair.errors import JaxfairError
from jaxfair.networks import Gathered, layers

CONSTRAINTS = ROOT / "constraints-mpc.txt"
SETUP = "make mpc"
PYTHONS = ("python3.11", "python3.10")
BITS = range(4, 25)
"""Fraction bits for numbers of 64 bits: a product has twice as many, and needs as many again for its whole part."""

LAST = 400
"""How many of the last letters that a process said are shown."""


class Part(NamedTuple):
    """What a part of an inference costs, means over the parties.

    Attributes:
        sent: bytes that a party sends.
        messages: how many it sends.
        seconds: that a party was in it, in which it may have waited for another.
    """

    sent: float
    messages: float
    seconds: float


class Answer(NamedTuple):
    """What a protocol revealed, and what it took.

    Attributes:
        logits: of all images, shape (n, classes).
        comparisons: signs of secret numbers and the products with them.
        linear: convolutions and dense layers.
        whole: everything.
        compared: how many secret numbers were compared, by the program that was run.
        seconds: from the parties' start to their end, without network and without compilation.
        versions: of what computed.
    """

    logits: np.ndarray
    comparisons: Part
    linear: Part
    whole: Part
    compared: int
    seconds: float
    versions: Mapping[str, str]


def set_up(environment: Path, python: str | None = None) -> None:
    """Make the environment that protocols run in, with the exact versions of ``constraints-mpc.txt``.

    Args:
        environment: its folder; an incomplete one is made again.
        python: the Python to use, 3.10 or 3.11; by default the first of ``PYTHONS`` that starts.

    Raises:
        JaxfairError: there is no such Python, or the packages cannot be installed.
    """
    chosen = next((name for name in ([python] if python else [*PYTHONS, sys.executable]) if _fits(name)), None)
    if chosen is None:
        given = f"'{python}' is not one that starts" if python else "none of the name python3.11 or python3.10 starts"
        raise JaxfairError(f"SPU needs Python 3.10 or 3.11, and {given}; install one, or name it by --python.")
    shutil.rmtree(environment, ignore_errors=True)
    interpreter = str(environment / "bin" / "python")
    install = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(CONSTRAINTS)]
    for command in ([chosen, "-m", "venv", str(environment)], install):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(environment, ignore_errors=True)
            raise JaxfairError(f"The environment for SPU cannot be made: {_last(done.stdout + done.stderr)}")


def _fits(python: str) -> bool:
    """Return whether a Python starts (one on the path can be a shim that refuses) and has a version that SPU takes."""
    code = "import sys; sys.exit(sys.version_info[:2] not in ((3, 10), (3, 11)))"
    try:
        return subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def check_environment(environment: Path) -> None:
    """Raise a JaxfairError if there is no environment to run a protocol in."""
    if not (environment / "bin" / "python").exists():
        raise JaxfairError(f"There is no environment for private inference in '{environment.name}'; make it: {SETUP}.")


def infer(
    network: Gathered,
    images: np.ndarray,
    protocol: Protocol,
    fraction_bits: int,
    *,
    environment: Path = ENVIRONMENT,
    timeout: float = 600,
    batch: int = 256,
) -> Answer:
    """Compute a network's logits on secret shares of its weights and of the images.

    Args:
        network: what is computed; its layers and positions are public, its weights secret.
        images: normalised, shape (n, h, w, c).
        protocol: ``aby3`` has three parties, of which two may not collude (Mohassel and Rindal 2018); ``cheetah`` two
            (Huang et al. 2022).
        fraction_bits: of the fixed-point numbers, which have 64 bits.
        environment: made by ``set_up``.
        timeout: seconds after which the process is ended.
        batch: images at once, whose messages are shared.

    Raises:
        JaxfairError: there is no environment, the number of bits cannot be computed with, or the process died or took
            too long; the message has its last lines.
    """
    check_environment(environment)
    if fraction_bits not in BITS:
        raise JaxfairError(f"There are to be {fraction_bits} fraction bits; give {BITS[0]} to {BITS[-1]}.")
    with tempfile.TemporaryDirectory(prefix="jaxfair-private-") as name:
        folder = Path(name)
        write_request(folder, network, images, protocol=protocol, fraction_bits=fraction_bits, batch=batch)
        said = _run(environment, folder, protocol, timeout)
        answer = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
        with np.load(folder / "answer.npz") as stored:
            logits = stored["logits"]
    costs = costs_of(said, engine.PARTIES[protocol])
    return Answer(logits, *costs, answer["compared"], answer["seconds"], answer["versions"])


def write_request(folder: Path, network: Gathered, images: np.ndarray, **settings: Any) -> None:
    """Write what the engine is to compute, as JSON and arrays that any NumPy reads."""
    request = {**settings, "interpreter": layers.__file__, "layers": network.layers}
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    stored: dict[str, Any] = {f"weights:{key}": array for key, array in network.weights.items()}
    stored |= {f"kept:{key}": array for key, array in network.kept.items()}
    stored["images:"] = np.asarray(images, np.float32)
    np.savez(folder / "request.npz", **stored)


def _run(environment: Path, folder: Path, protocol: str, timeout: float) -> str:
    """Run the engine on a request and return what it printed."""
    log = folder / "log.txt"
    # XLA stops at flags that it does not know, and the compilation cache is of another JAX.
    child = {name: value for name, value in os.environ.items() if not name.startswith(("XLA_", "JAX_", "PYTHON"))}
    command = [str(environment / "bin" / "python"), "-I", engine.__file__, str(folder)]
    with processes.leash() as stdin, log.open("wb") as out:
        try:
            ended = subprocess.run(
                command,
                env={**child, "JAX_PLATFORMS": "cpu"},
                stdin=stdin,
                stdout=out,
                stderr=out,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise JaxfairError(
                f"Private inference by {protocol} took longer than {timeout:g} seconds; give fewer images, or more "
                f"time by --timeout. Its last lines: {_last(log.read_text(errors='replace'))}"
            ) from error
    said = log.read_text(errors="replace")
    if ended.returncode or not (folder / "answer.json").exists():
        raise JaxfairError(
            f"The process of private inference by {protocol} ended with status {ended.returncode}; its last lines: "
            f"{_last(said)}"
        )
    return said


def _last(said: str) -> str:
    return repr(" ".join(said.split())[-LAST:]) if said.strip() else "none."


LINE = re.compile(
    r"- (?P<name>[\w.]+), executed \d+ times, duration (?P<seconds>[\d.e+-]+)s, send bytes (?P<sent>\d+) .*?"
    r"send actions (?P<messages>\d+)"
)
LINKS = re.compile(r"Link details: total send bytes (\d+), recv bytes \d+, send actions (\d+)")
SECONDS = re.compile(r"execution took ([\d.e+-]+)s")
COMPARISONS = ("f_less", "f_greater", "mixed_mul", "select")
PRODUCTS = ("f_tensordot", "f_mmul")


def costs_of(said: str, parties: int) -> tuple[Part, Part, Part]:
    """Return the costs of comparisons, of linear layers, and of everything, by SPU's profiles of all parties.

    A party's profile has three levels, which count the same bytes; the middle one names what the costs are for. The
    parties' lines may stand between each other, but a name is of one level.

    Args:
        said: what the engine printed.
        parties: how many took part.

    Raises:
        JaxfairError: no profile is found, as where another version of SPU prints another one.
    """
    every = [match.groupdict() for match in LINE.finditer(said)]
    links = np.array([[int(n) for n in match.groups()] for match in LINKS.finditer(said)], float)
    if not every or not len(links):
        raise JaxfairError(f"SPU printed no profile that is understood; run '{SETUP}' again for the version that does.")

    def part(names: Sequence[str]) -> Part:
        of = [one for one in every if one["name"] in names]
        sent, messages, seconds = (sum(float(one[key]) for one in of) for key in ("sent", "messages", "seconds"))
        return Part(sent / parties, messages / parties, seconds / parties)

    total = links.sum(axis=0) / parties
    took = sum(float(match[1]) for match in SECONDS.finditer(said)) / parties
    return part(COMPARISONS), part(PRODUCTS), Part(float(total[0]), float(total[1]), took)
