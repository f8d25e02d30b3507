"""The one door for options: each field of a configuration is of its annotated type and among the names that exist.

A name that is misspelt would otherwise take the branch of another one without a word, and a number in quotes fail long
after the work has begun. Read by command lines, so without JAX.
"""

import functools
import numbers
import os
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jaxfair.errors import JaxfairError, did_you_mean

LARGEST_SEED = 2**31 - 1


class Options:
    """What a dataclass of options inherits: each field has to hold what its annotation says.

    Whole numbers of NumPy are whole numbers, and any real number is a float; a boolean is neither.
    """

    def __post_init__(self) -> None:
        """Raise a JaxfairError that names the first field that is of another type, or a name that there is not."""
        for name, kind in _kinds(type(self)).items():
            if not _fits(value := getattr(self, name), kind):
                given = f"{type(self).__name__}.{name} is {_shown(value)}"
                raise JaxfairError(f"{given}; give {_said(kind)}{_near(value, kind)}")


def check_is(config: Any, kind: type) -> None:
    """Raise a JaxfairError unless a configuration is one of that kind; another argument may be in its place."""
    if not isinstance(config, kind):
        raise JaxfairError(f"The configuration is {_shown(config)}; give a {kind.__name__}.")


def check_seed(seed: Any) -> None:
    """Raise a JaxfairError unless a seed is a whole number that a random generator takes."""
    if not _fits(seed, int) or not 0 <= seed <= LARGEST_SEED:
        raise JaxfairError(f"A seed is {_shown(seed)}; give a whole number from 0 to {LARGEST_SEED}.")


@functools.cache
def _kinds(config: type) -> dict[str, Any]:
    return get_type_hints(config)


def _fits(value: Any, kind: Any) -> bool:
    origin, of = get_origin(kind), get_args(kind)
    if origin is Literal:
        return isinstance(value, str) and value in of
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in of)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(one, of[0]) for one in value)
    if kind is int or kind is float:
        number = numbers.Integral if kind is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool)
    if kind is Path:
        return isinstance(value, str | os.PathLike)
    return not isinstance(kind, type) or isinstance(value, kind)


def _said(kind: Any) -> str:
    origin, of = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(f"'{name}'" for name in of)
    if origin in (Union, types.UnionType):
        return " or ".join(_said(one) for one in of)
    if origin is tuple:
        return f"a tuple of {_said(of[0]).removeprefix('a ')}s"
    plain = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", types.NoneType: "None"}
    return plain.get(kind, f"a {kind.__name__}")


def _near(value: Any, kind: Any) -> str:
    close = did_you_mean(value, get_args(kind)) if get_origin(kind) is Literal and isinstance(value, str) else ""
    return close if close.startswith("; did") else "."


def _shown(value: Any) -> str:
    text = f"'{value}'" if isinstance(value, str) else str(value)
    text = text if len(text) <= 40 else f"{text[:39]}…"
    plain = isinstance(value, str | bool | numbers.Number | types.NoneType)
    return text if plain else f"of type {type(value).__name__}"
