"""The one door for options: each is of its annotated type and among the names that exist, whether it is the field of a
configuration (``Options``) or the argument of a public function (``checked``).

A name that is misspelt would otherwise take the branch of another one without a word, and a number in quotes fail long
after the work has begun. Arrays have a door of their own, ``inputs``. Read by command lines, so without JAX.
"""

import collections.abc
import contextlib
import functools
import inspect
import itertools
import numbers
import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from jaxfair.errors import JaxfairError, did_you_mean, short

INF, LARGEST, LARGEST_SEED = float("inf"), 2**63 - 1, 2**31 - 1
ARRAYS = ("jax", "jaxlib", "jaxtyping", "numpy")
"""Packages whose classes are no options but arrays, which are read from lists and frames too."""
HOLDERS = ("jaxfair.networks.network", "jaxfair.data.dataset")
"""Where the classes are that hold arrays: a training step, or a user's, may have taken these."""
WITHIN = ("network", "train")
"""Where results hold what functions take: the network of what was trained, the training images of what was loaded."""

P = ParamSpec("P")
R = TypeVar("R")


class From(NamedTuple):
    """What an ``Annotated`` number has to be beside of its type: finite and at least, or more than, a number."""

    least: float
    itself: bool = True

    def __call__(self, name: str, value: Any) -> None:
        """Raise a JaxfairError that names the value, unless it is; NaN is not."""
        if not (self.least <= value < INF if self.itself else self.least < value < INF):
            said = "at least" if self.itself else "more than"
            raise JaxfairError(f"{name} is {_shown(value)}; give {said} {self.least:g}.")


def _check_seed(_: str, seed: int) -> None:
    if not 0 <= seed <= LARGEST_SEED:
        raise JaxfairError(f"A seed is {_shown(seed)}; give a whole number from 0 to {LARGEST_SEED}.")


def _check_level(_: str, level: float) -> None:
    if not 0 < level < 1:
        raise JaxfairError(f"The level is {level}; give one between 0 and 1.")


def _check_tolerance(_: str, tolerance: float) -> None:
    if not 0 <= tolerance < 1:  # nothing is known of a value that may be off by as much as itself
        raise JaxfairError(f"The tolerance is {_shown(tolerance)}; give a relative error, from 0 to below 1.")


Seed = Annotated[int, _check_seed]
Count = Annotated[int, From(1)]
Level = Annotated[float, _check_level]
Natural = Annotated[int, From(0)]
Positive = Annotated[float, From(0, itself=False)]
NotNegative = Annotated[float, From(0)]
Tolerance = Annotated[float, _check_tolerance]
"""Kinds of numbers that arguments and fields are annotated with."""


class Options:
    """What a dataclass of options inherits: each field has to hold what its annotation says.

    Whole numbers of NumPy are whole numbers, and Python's from then on; any real number is a float; a boolean is
    neither.
    """

    def __post_init__(self) -> None:
        """Raise a JaxfairError that names the first field that is of another type, or a name that there is not."""
        for name, kind in _kinds(type(self)).items():
            value = getattr(self, name)
            check_kind(f"{type(self).__name__}.{name}", value, kind)
            object.__setattr__(self, name, _of_python(value, kind))


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Let a public function raise a JaxfairError that names the first argument of another kind than it is annotated.

    It is raised when the function is called, also by one that yields. Arrays, and what may be anything, pass. What the
    caller hands over is on the host as a rule, and calling the function asks for it to be moved: that is no transfer by
    the way, such as ``jax_transfer_guard`` disallows. Nor are infinite results what ``jax_debug_infs`` is to stop at.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def door(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError:  # Python says best which argument there is not
            return function(*args, **kwargs)
        kinds = _kinds(function)
        for name, value in given.arguments.items():
            check_kind(name, value, kinds.get(name, Any))
            given.arguments[name] = _of_python(_held(name, value), kinds.get(name, Any))
        _check_one_order(given.arguments)
        with _at_work():
            found = function(*given.args, **given.kwargs)
        return _each_at_work(found) if inspect.isgenerator(found) else found  # pyright: ignore[reportReturnType]

    return door


def _each_at_work(steps: Any) -> Any:
    """Yield what a function yields, whose work is done when each is asked for and not when the function is called."""
    try:
        while True:
            with _at_work():
                try:
                    step = next(steps)
                except StopIteration:
                    return
            yield step
    finally:
        steps.close()


def _held(name: str, value: Any) -> Any:
    """Return an object of this library, or several; one whose arrays lie on a mesh by their types, with these fetched.

    Raises:
        JaxfairError: It holds what cannot be computed with: an array that has been donated, or a network's parameter
            that is no array of floating-point numbers.
    """
    own = [one for one in (value if isinstance(value, list | tuple) else [value]) if type(one).__module__ in HOLDERS]
    jax: Any = sys.modules.get("jax")
    if not own or not jax:
        return value

    def is_there(leaf: Any) -> bool:
        return isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)

    arrays = list(filter(is_there, jax.tree.leaves(own)))
    if any(array.is_deleted() for array in arrays):
        raise JaxfairError(f"{name} holds an array that was donated to a jitted function and is gone; keep a copy.")
    for leaf in jax.tree.leaves([getattr(one, "params", None) for one in own]):
        if said := _is_no_parameter(leaf, jax):
            raise JaxfairError(f"{name} has a parameter {said}; give arrays of floating-point numbers, as init does.")
    kinds = [getattr(getattr(array.sharding, "mesh", None), "axis_types", ()) for array in arrays]
    if not any(jax.sharding.AxisType.Explicit in of for of in kinds):  # other programs take arrays of all others
        return value
    return jax.tree.map(lambda leaf: jax.device_get(leaf) if is_there(leaf) else leaf, value)


def _is_no_parameter(leaf: Any, jax: Any) -> str:
    """Say what a network's parameter is that JAX does not take, or takes for other numbers than it holds; or ""."""
    if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) and type(leaf).__module__ != "numpy":  # such as a mask's
        return f"of type {type(leaf).__name__}"
    if not jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating):
        return f"of type {leaf.dtype}"
    # Of arrays of another order compiled functions read the bytes as they are, and longer numbers than 64 bits not.
    return "" if leaf.dtype.isnative and leaf.dtype.itemsize <= 8 else f"of type {leaf.dtype}"


def _check_one_order(given: Mapping[str, Any]) -> None:
    """Raise a JaxfairError if tables or columns of pandas name the same rows in another order: these go by position.

    An index that counts rows names none, and predictions of a shuffled table have it. A list holds tables of runs.
    """
    lists = {name: value for name, value in given.items() if isinstance(value, list)}
    runs = {f"{name}[{i}]": one for name, some in lists.items() for i, one in enumerate(some) if hasattr(one, "iloc")}
    indices: dict[str, Any] = {name: getattr(value, "index", None) for name, value in {**given, **runs}.items()}
    named = [name for name, rows in indices.items() if getattr(rows, "is_unique", False) is True]
    named = [name for name in named if not _counts_rows(indices[name])]
    for one, other in itertools.combinations(named, 2):
        rows, others = indices[one], indices[other]
        if len(rows) == len(others) and not rows.equals(others) and set(rows) == set(others):
            raise JaxfairError(
                f"The index of {other} is that of {one} in another order, and rows are taken by position; give "
                f"{other}.loc[{one}.index], or {other}.to_numpy() if its rows do agree."
            )


def _counts_rows(index: Any) -> bool:
    """Return whether an index of pandas is 0, 1, 2 and so on, which a reversed table's is not."""
    return type(index).__name__ == "RangeIndex" and (index.start, index.step) == (0, 1)


@contextlib.contextmanager
def _at_work() -> Iterator[None]:
    """Let arrays be moved where JAX is told to disallow or log it, and numbers be infinite where it is to stop at them.

    A distance is where no boundary is, as is the logit of a class that is ruled out.
    """
    jax: Any = sys.modules.get("jax")
    ways = ("host_to_device", "device_to_host", "device_to_device")
    with contextlib.ExitStack() as settings:
        if jax and any(getattr(jax.config, f"jax_transfer_guard_{way}") in ("disallow", "log") for way in ways):
            settings.enter_context(jax.transfer_guard("allow"))
        if jax and jax.config.jax_debug_infs:
            settings.enter_context(jax.debug_infs(False))
        yield


def check_kind(name: str, value: Any, kind: Any) -> None:
    """Raise a JaxfairError that names a value, unless it is of a kind, an annotation, and within what that allows."""
    if _fits(value, kind):
        return _check_rules(name, value, kind)
    verb, members = "is", [get_args(one)[0] for one in (kind, *get_args(kind)) if _is_of_lists(one)]
    said, wanted = _said(kind), kind
    if members and _is_list(value):  # then one of its members is wrong
        (wanted,) = members
        value = next(one for one in value if not _fits(one, wanted))
        verb = "holds" if _is_plain(value) else "holds one"
    raise JaxfairError(f"{name} {verb} {_shown(value)}; give {said}{_near(value, wanted)}")


def _of_python(value: Any, kind: Any) -> Any:
    """Return a whole number as Python's where one is asked for: one of NumPy's of 8 bits has no product above 127."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return int(value) if whole and _is_of_numbers(kind) else value


def _is_of_numbers(kind: Any) -> bool:
    within = get_origin(kind) in (Annotated, Union, types.UnionType)
    return kind in (int, float) or (within and any(map(_is_of_numbers, get_args(kind))))


def _check_rules(name: str, value: Any, kind: Any) -> None:
    origin, of = get_origin(kind), get_args(kind)
    if origin is Annotated:
        for rule in of[1:]:
            rule(name, value)
    elif origin in (Union, types.UnionType):
        for one in of:
            if _fits(value, one):
                _check_rules(name, value, one)
    elif _is_of_lists(kind) and get_origin(of[0]) is Annotated:
        for one in value:
            _check_rules(name, one, of[0])


def _is_of_lists(kind: Any) -> bool:
    return get_origin(kind) is collections.abc.Sequence


@functools.cache
def _kinds(config: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(config, include_extras=True)


def _fits(value: Any, kind: Any) -> bool:
    origin, of = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _fits(value, of[0])
    if origin is collections.abc.Callable:
        return callable(value)
    if _is_of_lists(kind):
        return _is_list(value) and (of[0] is Any or all(_fits(one, of[0]) for one in value))
    if origin is Literal:
        return isinstance(value, str) and value in of
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in of)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(one, of[0]) for one in value)
    if kind is int or kind is float:
        return _is_number(value, numbers.Integral if kind is int else numbers.Real)
    if kind is bool:
        return isinstance(value, bool) or (str(getattr(value, "dtype", "")) == "bool" and not value.shape)
    if kind is Path:
        return isinstance(value, str | os.PathLike)
    if _is_array(kind):
        return value is not None
    if kind is Any or not isinstance(kind, type):
        return True
    return isinstance(value, kind)


def _is_array(kind: Any) -> bool:
    return isinstance(kind, type) and kind.__module__.split(".")[0] in ARRAYS


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and not _is_too_large(value)


def _is_too_large(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and abs(int(value)) > LARGEST


def _is_list(value: Any) -> bool:
    """Return whether a value has members in an order, as lists, arrays and frames' columns have."""
    if isinstance(value, str | bytes | collections.abc.Mapping | collections.abc.Set) or getattr(value, "ndim", 1) == 0:
        return False
    return isinstance(value, collections.abc.Iterable) and isinstance(value, collections.abc.Sized)


def _said(kind: Any) -> str:
    origin, of = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(f"'{name}'" for name in of)
    if origin is Annotated:
        return _said(of[0])
    if _is_array(kind):
        return "an array"
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_said(one) for one in of))
    if origin is tuple:
        return f"a tuple of {_several(of[0])}"
    if origin is collections.abc.Callable:
        return "a function"
    if _is_of_lists(kind):
        members = "" if of[0] is Any else f" of {_several(of[0])}"
        return f"a list{members}"
    plain = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", Path: "a path"}
    plain[types.NoneType] = "None"
    return plain.get(kind) or f"a {getattr(kind, '__name__', kind)}"


def _several(kind: Any) -> str:
    return f"{_said(kind).removeprefix('an ').removeprefix('a ')}s"


def _near(value: Any, kind: Any) -> str:
    close = did_you_mean(value, get_args(kind)) if get_origin(kind) is Literal and isinstance(value, str) else ""
    if close.startswith("; did"):
        return close
    if _is_too_large(value) and any(one in (int, float) for one in (kind, *get_args(kind))):
        return f" of at most {LARGEST}."
    within = (name for name in WITHIN if isinstance(kind, type) and isinstance(getattr(value, name, None), kind))
    return next((f", such as its .{name}." for name in within), ".")


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | bool | numbers.Number | types.NoneType)


def _shown(value: Any) -> str:
    of_numbers = isinstance(value, list | tuple) and value and all(isinstance(one, int | float) for one in value)
    if not (_is_plain(value) or of_numbers):
        return f"of type {type(value).__name__}"
    text = f"'{value}'" if isinstance(value, str) else str(value)
    return short(text, 40)
