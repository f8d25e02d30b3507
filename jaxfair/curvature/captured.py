"""What a plain function reads beside its arguments, so that a program compiled for it is not taken once that changed.

To JAX a function is the same as long as it is one object: its globals, its closure and its ``self`` are what they were
when it was first traced. A network that is trained on under the same name would be measured as it was before.
"""

import array
import functools
import os
import re
import site
import sys
import sysconfig
import types
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np

from jaxfair.errors import JaxfairError
from jaxfair.inputs import check_there, is_bound_to_mesh

MOST = 100_000
"""Things that are looked at: enough for any network. A function that reads more is never the same as another."""
BY_TEXT = {"getattr", "vars", "globals", "locals", "eval", "exec", "attrgetter", "__dict__", "__getattribute__"}
"""What looks values up by names that code holds as texts."""
PLAIN = (int, float, complex, str, bytes, type(None), types.EllipsisType)
"""What is equal where it is not one object."""

VIEWS = tuple(type(view) for view in ({}.keys(), {}.values(), {}.items()))
"""What shows a dictionary as it is."""


class Captured:
    """A function that is equal to another one if both have the same code and read the same.

    Arrays of JAX, which nothing changes, are the same if they are one object, those of others, such as NumPy's, pandas'
    and PyTorch's, if they have the same numbers.
    """

    def __init__(self, function: Callable) -> None:
        """Look at what the function reads, now.

        Raises:
            JaxfairError: It reads an array that only a program on a mesh can take.
        """
        self.function = function
        self._read = tuple(_read(function))
        check_there(self._read)
        if any(isinstance(value, jax.Array) and is_bound_to_mesh(value) for value in self._read):
            raise JaxfairError(
                "The function reads an array that lies on a mesh of devices; bind it by a jax.tree_util.Partial, or "
                "fetch it by jax.device_get."
            )

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Call the function."""
        return self.function(*arguments, **keywords)

    def __eq__(self, other: object) -> bool:
        """Compare what both read, in order."""
        if not isinstance(other, Captured) or len(self._read) != len(other._read):
            return False
        if len(self._read) >= MOST:
            return self is other
        return all(map(_same, self._read, other._read))

    def __hash__(self) -> int:
        """Return a number that does not depend on what may change unseen."""
        return hash(len(self._read))


def _same(one: Any, other: Any) -> bool:
    if one is other or type(one) is not type(other) or not isinstance(one, (*PLAIN, tuple)):
        return one is other
    return one == other and (not isinstance(one, float | complex) or repr(one) == repr(other))  # 0.0 is equal to -0.0


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
        elif isinstance(value, bytearray | array.array):
            yield type(value).__name__, bytes(value)
        elif id(value) not in seen:
            seen[id(value)] = value, len(seen)  # kept, or another one might be given its number
            stands, parts = _parts(value, home)
            yield value if stands else (type(value).__name__, len(parts))
            left.extend(reversed(parts))
        else:  # which of those seen it is: two may be alike but for which of them a name stands for
            yield (seen[id(value)][1],)


def _parts(value: Any, home: Any) -> tuple[bool, list[Any]]:
    """Return whether a value stands for itself, or for its parts alone; and what else it reads."""
    if isinstance(value, types.FunctionType):
        code, names = value.__code__, _names(value.__code__)
        cells = zip(code.co_freevars, value.__closure__ or (), strict=True)
        closure = {name: cell.cell_contents for name, cell in cells if _is_full(cell)}
        # Functions of libraries read what no user changes, and there are many.
        users = value.__globals__ is home or _is_users(value.__module__)
        read = [*_named(closure, [*closure, *names]), *(_named(value.__globals__, names) if users else [])]
        return False, [code, value.__defaults__, value.__kwdefaults__, vars(value), *read]
    if isinstance(value, types.MethodType):
        return False, [value.__func__, value.__self__]
    if isinstance(value, classmethod | staticmethod):
        return False, [value.__func__]
    if isinstance(value, property):
        return False, [value.fget]
    if type(value) is functools.partial:
        return False, [value.func, value.args, value.keywords]
    if isinstance(value, dict):
        return False, [part for item in list(value.items()) for part in item]
    if isinstance(value, types.MappingProxyType):
        return False, [dict(value)]
    if isinstance(value, (list, tuple, set, frozenset, deque, *VIEWS)):
        return False, list(value)
    if isinstance(value, memoryview):
        return False, [value.shape, value.format, value.tobytes()]
    if isinstance(value, weakref.ref):
        return False, [value()]
    if isinstance(value, ContextVar):
        return True, [value.get(None)]
    if isinstance(value, types.BuiltinFunctionType | types.MethodWrapperType):  # as ``scales.__getitem__``
        return True, [value.__self__]
    if isinstance(value, np.ndarray):  # of objects
        return False, [value.shape, *value.ravel()]
    if isinstance(value, type):
        return True, _of_class(value)
    if isinstance(value, jax.Array | types.ModuleType | types.CodeType):
        return True, []
    return True, [*(_contents(value) or _attributes(value)), type(value)]


def _contents(value: Any) -> list[Any]:
    """Return what tables and tensors keep outside of Python: their numbers, and a table's names and types.

    What does not give its numbers, though it says that it has some, is never the same.
    """
    table, array = (hasattr(type(value), name) for name in ("to_numpy", "__array__"))
    if not (table or array) or hasattr(type(value), "__jax_array__"):  # which holds an array of JAX's by a name
        return []
    try:
        if table:
            held = [getattr(value, name, None) for name in ("columns", "index", "name", "attrs")]
            kinds = np.asarray(getattr(value, "dtypes", ()), object)  # columns of several make an array of one
            return [value.to_numpy(), *map(str, kinds.ravel()), *held]
        held = _attributes(value)
        for method in ("detach", "cpu"):  # a tensor leaves its tape and device first
            value = getattr(value, method)() if hasattr(type(value), method) else value
        return [np.asarray(value), *held]
    except Exception:
        return [object()]


def _named(held: dict[str, Any], names: Sequence[str]) -> list[Any]:
    """Return what has one of the names, and has one in a module of the user's that has one: ``settings.scale``."""
    found, modules, left = [], {id(held)}, [held]
    while left:
        within = left.pop()
        for value in [within[name] for name in names if name in within]:
            found.append(value)
            if isinstance(value, types.ModuleType) and id(vars(value)) not in modules and _is_users(value.__name__):
                modules.add(id(vars(value)))
                left.append(vars(value))
    return found


def _of_class(value: type) -> list[Any]:
    """Return what a class of the user's and its bases hold, but for what Python keeps there of its own."""
    bases = [base for base in value.__mro__ if _is_users(base.__module__)]
    items = [item for base in bases for item in list(vars(base).items())]
    return [part for name, part in items if isinstance(part, types.FunctionType) or not name.startswith("__")]


@functools.cache
def _is_users(module: str | None) -> bool:
    """Return whether a module is neither of a library nor of Python, so that what it holds may change between calls."""
    if module is None or module.partition(".")[0] == __name__.partition(".")[0] or module in sys.builtin_module_names:
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    paths = sysconfig.get_paths()
    libraries = [paths["stdlib"], paths["platstdlib"], paths["purelib"], paths["platlib"]]
    libraries += [*site.getsitepackages(), site.getusersitepackages()]
    return file is None or not file.startswith(tuple(f"{folder}{os.sep}" for folder in libraries))


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
    """Return the names that code and the functions inside of it read, with the words of its texts if it looks some up.

    Texts such as ``params`` are keys as a rule, and are globals of as many scripts.
    """
    codes = list(_codes(code))
    names = [name for one in codes for name in one.co_names]
    if not BY_TEXT & {*names}:
        return names
    held = _members(tuple(const for one in codes for const in one.co_consts))
    return [*names, *(word for text in held if isinstance(text, str) for word in re.findall(r"[^\W\d]\w*", text))]


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _codes(const)


def _members(const: Any) -> Iterator[Any]:
    """Yield what a constant of code holds, which may be a tuple of names."""
    if isinstance(const, tuple | frozenset):
        for one in const:
            yield from _members(one)
    else:
        yield const
