"""The libraries that are timed, a file ``<name>_jobs.py`` each.

A file has a function for each of ``products``, ``training``, ``eigenvalues``, ``density`` and ``margins`` that its
library can do, and ``DISTRIBUTION``, what pip calls it. Importing the file imports the library, so a missing one is
missed by name.
"""

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from benchmarks.problems import Problem
from jaxfair.errors import JaxfairError, did_you_mean

NAMES = ("jaxfair", "pytorch", "pyhessian", "curvlinops", "eigenthings", "matfree", "foolbox")


def load(names: Sequence[str]) -> tuple[dict[str, ModuleType], dict[str, str]]:
    """Import libraries; return those that are there, and why the others are not.

    Raises:
        JaxfairError: a name is unknown.
    """
    found, missing = {}, {}
    for name in names:
        if name not in NAMES:
            raise JaxfairError(f"There is no library '{name}'{did_you_mean(name, NAMES)}")
        try:
            found[name] = importlib.import_module(f"benchmarks.libraries.{name}_jobs")
        except Exception as error:  # one that is there may not load, such as a PyTorch that is for another CUDA
            if name == NAMES[0]:
                raise
            missing[name] = reason(error)
    return found, missing


def reason(error: Exception) -> str:
    """Return in one line why another library failed."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def jobs(
    libraries: dict[str, ModuleType], operation: str, problem: Problem, missing: dict[str, str] | None = None
) -> dict[str, Any]:
    """Return what the libraries have of an operation, by ``library: name``.

    Args:
        libraries: by name.
        operation: one of the functions of their files.
        problem: to be computed.
        missing: to which other libraries that fail already at this are added, with the reason, as those do whose
            kernels are for older GPUs; None raises what they raise.
    """
    found = {}
    for library, module in libraries.items():
        try:
            made = getattr(module, operation)(problem) if hasattr(module, operation) else {}
        except Exception as error:  # what other libraries raise may be anything
            if missing is None or library == NAMES[0]:
                raise
            missing[f"{library}: {operation}"] = reason(error)
            continue
        found |= {f"{library}: {name}": job for name, job in made.items()}
    return found
