"""What a plain function reads beside its arguments, so that a program compiled for it is not taken once that changed.

To JAX a function is the same as long as it is one object: its globals, its closure and its ``self`` are what they were
when it was first traced. A network that is trained on under the same name would be measured as it was before.
"""

import types
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType

from jaxfair.errors import JaxfairError

MOST = 5000
"""Things that are looked at: enough for any network, and an end where a function holds a whole program."""
PLAIN = (int, float, complex, str, bytes, type(None), types.EllipsisType)
"""What is equal where it is not one object."""


class Captured:
    """A function that is equal to another one if both have the same code and read the same.

    Arrays of JAX, which nothing changes, are the same if they are one object, NumPy's if they have the same numbers.
    """

    def __init__(self, function: Callable) -> None:
        """Look at what the function reads, now.

        Raises:
            JaxfairError: It reads an array that only a program on a mesh can take.
        """
        self.function = function
        self._read = tuple(_read(function))
        if any(isinstance(value, jax.Array) and _is_bound_to_mesh(value) for value in self._read):
            raise JaxfairError(
                "The function reads an array that lies on a mesh of several devices; bind it by a "
                "jax.tree_util.Partial, or fetch it by jax.device_get."
            )

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Call the function."""
        return self.function(*arguments, **keywords)

    def __eq__(self, other: object) -> bool:
        """Compare what both read, in order."""
        if not isinstance(other, Captured) or len(self._read) != len(other._read):
            return False
        return all(map(_same, self._read, other._read))

    def __hash__(self) -> int:
        """Return a number that does not depend on what may change unseen."""
        return hash(len(self._read))


def _is_bound_to_mesh(array: jax.Array) -> bool:
    """Return whether an array's type names a mesh, as of meshes by ``jax.make_mesh``, which no other program takes."""
    mesh = getattr(array.sharding, "mesh", None)
    return len(array.devices()) > 1 and AxisType.Explicit in getattr(mesh, "axis_types", ())


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and isinstance(one, (*PLAIN, tuple)) and one == other)


def _read(function: Callable) -> Iterator[Any]:
    """Yield plain values, fingerprints of arrays and objects that stand for themselves, in an order that is theirs."""
    home = getattr(getattr(function, "__func__", function), "__globals__", None)
    seen, left, number = {}, [function], 0
    while left and number < MOST:
        value, number = left.pop(), number + 1
        if isinstance(value, PLAIN):
            yield value
        elif isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
            yield value.shape, str(value.dtype), zlib.crc32(value.tobytes())
        elif id(value) not in seen:
            seen[id(value)] = value  # kept, or another one might be given its number
            stands, parts = _parts(value, home)
            yield value if stands else (type(value).__name__, len(parts))
            left.extend(reversed(parts))


def _parts(value: Any, home: Any) -> tuple[bool, list[Any]]:
    """Return whether a value stands for itself, or for its parts alone; and what else it reads."""
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_full(cell)]
        named = [value.__globals__[name] for name in _names(value.__code__) if name in value.__globals__]
        # Functions of libraries read what no user changes, and there are many.
        read = named if value.__globals__ is home else []
        return False, [value.__code__, value.__defaults__, value.__kwdefaults__, *cells, *read]
    if isinstance(value, types.MethodType):
        return False, [value.__func__, value.__self__]
    if type(value) is partial:
        return False, [value.func, value.args, value.keywords]
    if isinstance(value, dict):
        return False, [part for item in list(value.items()) for part in item]
    if isinstance(value, list | tuple | set | frozenset):
        return False, list(value)
    if isinstance(value, jax.Array | np.ndarray | types.ModuleType | types.CodeType | type):
        return True, []
    return True, _attributes(value)


def _attributes(value: Any) -> list[Any]:
    """Return what an object holds by name, in its dictionary and in slots, as variables of NNX have them."""
    slots = [getattr(kind, "__slots__", ()) for kind in type(value).__mro__]
    names = [name for some in slots for name in ((some,) if isinstance(some, str) else some)]
    held = [getattr(value, name, None) for name in names if not name.startswith("__")]
    return [*([vars(value)] if hasattr(value, "__dict__") else []), *held]


def _is_full(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # of a name that has no value yet
        return False


def _names(code: types.CodeType) -> list[str]:
    """Return the names that code reads, with those of functions inside of it."""
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return [*code.co_names, *(name for one in inner for name in _names(one))]
