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
        except ImportError as error:
            missing[name] = str(error)
    return found, missing


def jobs(libraries: dict[str, ModuleType], operation: str, problem: Problem) -> dict[str, Any]:
    """Return what the libraries have of an operation, by ``library: name``."""
    found = {}
    for library, module in libraries.items():
        if hasattr(module, operation):
            found |= {f"{library}: {name}": job for name, job in getattr(module, operation)(problem).items()}
    return found
