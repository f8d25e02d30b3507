"""The one door for arrays: what users hand to public functions, as arrays of a known kind, or one sentence.

Rows are examples and are taken by position, never by an index that a table carries. A masked or missing value is never
silently a number. Every refusal comes before anything is computed, and quotes a few values at most.
"""

import contextlib
import numbers
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType

from jaxfair.errors import MISSING_TEXTS, JaxfairError, short, warn


def quoted(values: Any, most: int = 5) -> str:
    """Return a few values as text of bounded length."""
    shown = [short(" ".join(str(value).split()), 30) for value in list(values)[:most]]  # of arrays, too, on one line
    more = len(values) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def as_array(values: Any, what: str) -> Any:
    """Return an array of NumPy or JAX with the values in their order.

    Takes arrays, lists, columns and tables of pandas and polars, tensors of PyTorch, data sets of HDF5 and alike, and
    masked arrays that mask nothing. An array of JAX that lies on several devices or on a mesh comes back to the host.

    Args:
        values: What the user gave.
        what: Its name in an error, a plural such as ``labels``. Of ``inputs`` that another library reads from disk the
            result is ``Stored``, and of ``labels`` the columns of a table are classes.

    Raises:
        JaxfairError: They are no numbers or texts in a regular shape, some are masked, or classes are out of order.
    """
    if isinstance(values, Tracer):
        return values  # inside of a jitted function nothing can be asked of the values
    if isinstance(values, jax.Array):
        if values.is_deleted():
            raise JaxfairError(f"The {what} were donated to a jitted function and are gone; keep a copy.")
        if jnp.issubdtype(values.dtype, jax.dtypes.extended):
            raise JaxfairError(f"The {what} are random keys; give an array of numbers.")
        return values if len(values.devices()) == 1 and not is_bound_to_mesh(values) else np.asarray(values)
    if isinstance(values, np.ma.MaskedArray):
        if np.ma.getmaskarray(values).any():
            raise JaxfairError(f"{np.ma.count_masked(values)} of the {what} are masked; fill them or leave them out.")
        values = values.data
    kind = type(values)
    if issubclass(kind, Mapping) and not issubclass(kind, dict):  # of which NumPy would take the keys
        raise JaxfairError(f"The {what} are a {kind.__name__}; give a plain dictionary of them, by dict(...).")
    if what == "labels":
        _check_one_hot_columns(values)
    if callable(getattr(values, "to_pylist", None)) and not column_names(values):  # of Arrow, whose nulls are None then
        values = values.to_pylist()
    for method in ("detach", "cpu", "to_numpy", "numpy"):  # a tensor leaves its tape and device first
        if not isinstance(values, np.ndarray) and callable(call := getattr(values, method, None)):
            with _reading(what):
                values = call()
    if callable(getattr(values, "toarray", None)):
        raise JaxfairError(f"The {what} are sparse; give them as an array that holds the zeros too: .toarray().")
    if hasattr(values, "shape") and hasattr(values, "dtype") and not isinstance(values, np.ndarray | np.generic):
        rows = Stored(values, what)
        return rows if what == "inputs" else np.asarray(rows)
    try:
        with _reading(what):
            array = np.asarray(values)
    except ValueError as error:
        if isinstance(error, JaxfairError):
            raise
        raise JaxfairError(f"The {what} have no regular shape; give an array with one row an example.") from error
    _check_several(array, what)
    if array.dtype.names:
        raise JaxfairError(f"The {what} are records of {quoted(array.dtype.names)}; give an array without names.")
    if array.dtype.kind == "T":  # NumPy's own texts, whose missing ones would be counted as any other
        return array.astype(object)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:  # NumPy's longest, which JAX has not
        return array.astype(np.float64)
    return _native(array)


def _native(array: np.ndarray) -> np.ndarray:
    """Return an array in this machine's order of bytes; compiled functions read those of any other as if in it."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _check_several(array: np.ndarray, what: str) -> None:
    """Raise a JaxfairError if NumPy made one object of what was given, such as a generator, None or a text."""
    if array.ndim or array.dtype.kind not in "OUS" or isinstance(one := array.item(), numbers.Real | Decimal):
        return
    way = "give an array or a list of them"
    if what == "labels" and isinstance(one, dict):
        way = (
            "stack what a loss takes into one array, or let logits_fn take x = (inputs, targets) and return the losses"
        )
    raise JaxfairError(f"The {what} are {'None' if one is None else f'one {type(one).__name__}'}; {way}.")


class Stored:
    """Rows that another library holds, such as a data set of HDF5, and that are read when they are asked for.

    Such a library may give sorted positions alone, each once, where chunks repeat some and shift all of them.

    Attributes:
        shape: The shape of the array that the rows would make.
        dtype: The type of its numbers.
    """

    def __init__(self, rows: Any, what: str) -> None:
        """Take the rows, of which nothing is read yet, and what they are called in an error, a plural.

        Raises:
            JaxfairError: They have no numbers, a length that nobody knows, or numbers that NumPy has not.
        """
        if not hasattr(rows, "__getitem__"):
            raise JaxfairError(f"The {what} are a {type(rows).__name__}, which holds no numbers; give an array.")
        self._rows, self._what = rows, what
        with _reading(what):
            self.shape = tuple(map(operator.index, rows.shape))
            self.dtype: np.dtype = as_array(np.empty(0, rows.dtype), what).dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read rows by a slice, or by an array of positions or booleans."""
        positions = np.arange(len(self))[index]
        ordered, place = np.unique(positions, return_inverse=True)
        if not ordered.size:
            return np.empty((*positions.shape, *self.shape[1:]), self.dtype)
        first, after = int(ordered[0]), int(ordered[-1]) + 1
        # A single stretch is read many times as fast as single rows, of which it may hold twice as many.
        dense = after - first <= 2 * len(ordered)
        rows = self._read(slice(first, after))[ordered - first] if dense else self._read(ordered)
        return rows[place.reshape(positions.shape)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read all of them."""
        return np.asarray(self[:] if self.shape else self._read(()), dtype)

    def _read(self, index: Any) -> np.ndarray:
        try:
            found = np.asanyarray(self._rows[index])  # which may be masked
        except Exception as error:  # whatever the other library raises
            said = short(" ".join(str(error).split()), 100)
            raise JaxfairError(
                f"The {self._what} cannot be read by their {type(self._rows).__name__} ({said}); read them into an "
                "array of NumPy first."
            ) from error
        return within_int32(as_array(found, self._what), self._what)


@contextlib.contextmanager
def _reading(what: str) -> Iterator[None]:
    """Raise a JaxfairError where another library cannot give its values to NumPy, such as bfloat16 or sparse ones."""
    try:
        yield
    except (TypeError, RuntimeError) as error:
        said = " ".join(str(error).split())[:100]
        raise JaxfairError(f"NumPy cannot read the {what} ({said}); give dense float32, such as .float().") from error


def column_names(table: Any) -> list[str]:
    """Return the names of a table's columns, which Arrow has by another name; none of what is no table."""
    return [str(name) for name in getattr(table, "column_names", getattr(table, "columns", ()))]


def out_of_order(table: Any) -> list[str]:
    """Return the names of a table's columns where they say another order of classes than that in which they stand.

    They do if they are numbers, or differ in numbers alone, as ``logits_10`` before ``logits_2`` where a table was
    sorted by its names. Empty where they say no order, or this one.
    """
    names = [name.strip() for name in column_names(table)]
    try:
        order = [(float(name),) for name in names]
    except ValueError:
        parts = [re.split("([0-9]+)", name) for name in names]
        if any(part[::2] != parts[0][::2] for part in parts):
            return []
        order = [tuple(map(float, part[1::2])) for part in parts]
    return names if order != sorted(order) else []


def _check_one_hot_columns(table: Any) -> None:
    """Raise a JaxfairError if a table is one-hot rows whose columns name the classes in another order."""
    names = out_of_order(table)
    if names and is_one_hot(np.asarray(table)):
        raise JaxfairError(f"The labels have one-hot columns {quoted(names)}; give the classes in their order.")


def check_untraced(tree: Any, what: str) -> None:
    """Raise a JaxfairError if JAX traces an array, of whose values nothing can be asked then."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree)):
        raise JaxfairError(f"The {what} are traced by JAX; call this outside of jit, grad and vmap.")


def check_outside_of_jit() -> None:
    """Raise a JaxfairError inside of a function that JAX compiles, where even what nobody traces has no values.

    Inside of one that is differentiated or mapped all that does not depend on its argument has.
    """
    if isinstance(jnp.zeros(()), Tracer):
        raise JaxfairError("This is called inside of a function that JAX compiles; call it outside of jit.")


def on_host(values: Any, what: str) -> np.ndarray:
    """Return what ``as_array`` does as an array of NumPy.

    Raises:
        JaxfairError: They are traced by JAX and have no numbers; or what ``as_array`` refuses.
    """
    array = as_array(values, what)
    check_untraced(array, what)
    return np.asarray(array)


def as_values(values: Any, what: str) -> np.ndarray:
    """Return numbers as an array of float64; NaN is a number that is not known.

    Raises:
        JaxfairError: They are no numbers, or some are masked.
    """
    array = unboxed(on_host(values, what))
    if array.dtype.kind == "c":  # whose imaginary part would be dropped
        raise JaxfairError(f"The {what} are complex; give real numbers.")
    if array.dtype.kind in "mMUS":  # NumPy makes numbers of them: nanoseconds, and what a text says
        raise JaxfairError(f"The {what} are no numbers but of type {array.dtype}; give an array of numbers.")
    try:
        return np.asarray(array, np.float64)
    except (TypeError, ValueError) as error:
        gone = int(absent(array.ravel()).sum()) if array.dtype == object else 0  # as pandas.NA is, which is no NaN
        said = f"{gone} of the {what} are missing; fill them" if gone else f"The {what} are no numbers; give numbers"
        raise JaxfairError(f"{said}.") from error


def within_int32(array: Any, what: str) -> Any:
    """Return an array, unless it has whole numbers that JAX would wrap to others where it computes in 32 bits."""
    if isinstance(array, np.ndarray) and array.dtype.kind in "iu" and array.dtype.itemsize >= 4 and array.size:
        ends, narrow = (int(array.min()), int(array.max())), jax.dtypes.canonicalize_dtype(np.int64) == np.int32
        kept = np.iinfo(jax.dtypes.canonicalize_dtype(array.dtype) if what == "inputs" else np.int32)
        if narrow and not kept.min <= ends[0] <= ends[1] <= kept.max:
            raise JaxfairError(
                f"The {what} have whole numbers from {ends[0]} to {ends[1]}, which JAX cannot hold in 32 bits; give "
                "floating-point numbers."
            )
    return array


def of_doubles() -> Any:
    """Return what NumPy knows of the type that JAX makes of numbers of 64 bits: one of 32, unless told otherwise."""
    return np.finfo(jax.dtypes.canonicalize_dtype(np.float64))


ROUNDED = 1e-3
"""Share of what tells the examples of a column apart that may be lost where it is rounded to 32 bits."""


def check_rounding(array: Any, what: str) -> None:
    """Raise a JaxfairError for numbers of 64 bits that 32 cannot hold, where JAX computes in these.

    Warn where they lose in 32 what tells their examples apart, such as times since 1970 in seconds. Of parameters there
    are no examples, and each array's numbers are told apart.
    """
    if not isinstance(array, np.ndarray) or array.dtype != np.float64 or not array.size:
        return
    kind, size = of_doubles(), max(np.fmax.reduce(array, axis=None), -np.fmin.reduce(array, axis=None))
    verb = "have" if what.endswith("s") else "has"
    if float(kind.max) < size < np.inf:
        raise JaxfairError(
            f"The {what} {verb} numbers up to {size:.3g}, which {kind.dtype} cannot hold; rescale them, or enable "
            "jax_enable_x64."
        )
    if array.ndim == 0 or len(array) < 2:
        return
    some = array[:: len(array) // 10_000 + 1]
    with np.errstate(invalid="ignore", over="ignore"):
        lost = np.abs(some - some.astype(jax.dtypes.canonicalize_dtype(np.float64))).max(axis=0)
        apart = np.ptp(some, axis=0)
        if np.any((lost > ROUNDED * apart) & (apart > 0)):
            warn(
                f"The {what} {verb} numbers up to {np.nanmax(np.abs(some)):.3g} that differ by less than float32 tells "
                "apart; subtract what they have in common, or enable jax_enable_x64."
            )


def as_inputs(x: Any) -> Any:
    """Return inputs as a pytree of arrays with the examples along their first axis, all equally many.

    Raises:
        JaxfairError: There is none, one is a single number or no numbers at all, or they differ in length.
    """
    if x is None:
        raise JaxfairError("There are no inputs; give an array with the examples along its first axis.")
    arrays = [unboxed(as_array(leaf, "inputs")) for leaf in leaves(x, "inputs", _is_rows)]
    if not arrays:
        raise JaxfairError("There are no inputs; give an array with the examples along its first axis.")
    for array in arrays:
        if not array.shape:
            raise JaxfairError("An input is a single number; give arrays with the examples along their first axis.")
        if not holds_numbers(array):
            gone = array.dtype == object and int(absent(array.ravel()).sum())
            also = f", and {gone} are missing; fill them or leave these examples out" if gone else "; give numbers"
            raise JaxfairError(f"Inputs have type {array.dtype}{also}.")
        check_rounding(within_int32(array, "inputs"), "inputs")
    if len({len(array) for array in arrays}) > 1:
        raise JaxfairError(f"The inputs have {quoted(sorted({len(a) for a in arrays}))} examples; give equally many.")
    return jax.tree.unflatten(jax.tree.structure(x, is_leaf=_is_rows), arrays)


def _is_rows(values: Any) -> bool:
    """Whether a list or tuple holds numbers, in rows or not, rather than arrays that are inputs of their own.

    Rows may be tuples, as a database has them, but in a list alone: a tuple of tuples is one of inputs.
    """
    rows = (list, tuple) if isinstance(values, list) else list
    return isinstance(values, list | tuple) and all(
        np.isscalar(v) or (isinstance(v, rows) and _is_rows(v)) for v in values
    )


def holds_numbers(array: Any) -> bool:
    """Return whether an array is of numbers or booleans; a difference of times is a whole number to NumPy alone."""
    return array.dtype == bool or (jnp.issubdtype(array.dtype, jnp.number) and array.dtype.kind != "m")


def are_whole(values: np.ndarray) -> np.ndarray:
    """Return which floating-point numbers are whole numbers, each told from its neighbours in 64 bits."""
    return (np.abs(values) < 2**53) & (values == np.round(values))


def check_told_apart(codes: np.ndarray, what: str) -> None:
    """Raise a JaxfairError if codes have a type that rounded some of them to others, as bfloat16 does from 256 on.

    A batch that was cast to half precision as a whole has such labels.
    """
    if not jnp.issubdtype(codes.dtype, jnp.floating) or codes.dtype.itemsize > 4:
        return
    size = np.abs(codes.astype(np.float64))
    if (lost := np.isfinite(size) & (size >= 2.0 ** (jnp.finfo(codes.dtype).nmant + 1))).any():
        raise JaxfairError(
            f"The {what} go up to {size[lost].max():.9g} and are {codes.dtype}, which cannot tell such numbers from "
            "the next ones; give the integers that they were before."
        )


def unboxed(values: Any) -> Any:
    """Return an array of objects as one of numbers, where they are numbers; any other array as it is."""
    if not isinstance(values, np.ndarray) or values.dtype != object:
        return values
    try:
        found = np.array(values.tolist())
        # The decimals of a database stay objects to NumPy.
        boxed = found.dtype == object and all(isinstance(v, numbers.Real | Decimal) for v in found.ravel())
        return found.astype(np.float64) if boxed else found
    except (OverflowError, ValueError):
        return values


def is_one_hot(rows: np.ndarray) -> bool:
    """Return whether rows of several numbers each are one 1 and else 0."""
    return rows.shape[1] > 1 and bool(np.isin(rows, (0, 1)).all() and (rows.sum(axis=1) == 1).all())


def absent(values: np.ndarray) -> np.ndarray:
    """Return which values are missing: None, masked, not a number or a time, or a text that says so.

    NaN is the one value that is not itself. NumPy and pandas write what is missing among texts, as files have it.
    """
    if values.dtype.kind == "O":
        return np.array([_is_missing(value) for value in values], bool)
    if values.dtype.kind in "US":
        kinds, codes = np.unique(values, return_inverse=True)
        return np.array([_is_missing(kind) for kind in kinds], bool)[codes]
    return values != values if values.dtype.kind in "fcmM" else np.zeros(len(values), bool)


def _is_missing(value: Any) -> bool:
    """Return whether a group is missing, or a part of an intersection of several is."""
    if isinstance(value, tuple):
        return any(_is_missing(part) for part in value)
    if isinstance(value, str | bytes):
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        return text.strip().lower() in MISSING_TEXTS
    try:
        return value is None or value is np.ma.masked or bool(value != value)
    except Exception as error:  # whatever another library raises, whose arrays have no truth value
        if isinstance(value, Decimal) or type(value).__name__ == "NAType":  # sNaN has no comparison, pandas.NA no truth
            return True
        raise JaxfairError(
            f"A group or class is a {type(value).__name__}, of which nobody knows whether it is missing; give one "
            "number or text for each example, or a tuple of several."
        ) from error


def written_as(value: Any) -> str:
    """Return what a missing value is written as, for the sentence that refuses it; empty where nothing is written."""
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    return f", which has '{quoted([text])}'" if isinstance(text, str) and text.strip() else ""


ADDED = "whose losses would add up; give jaxfair.group_weights(group, G)."
"""What is said of weights that are none, but members of a group."""


def as_weights(weights: Any) -> np.ndarray:
    """Return weights of examples as an array; negative ones subtract.

    A row of 0 and 1 alone is that of a group of a single example. With several 1 it is refused among rows, and warned
    of where it stands alone, as a sum may be meant.

    Raises:
        JaxfairError: They are no numbers, some are masked or not finite, all of a group's leave the range of the type
            that JAX computes in, or rows of them say by booleans, whole numbers or 0 and 1 alone who is in a group.
    """
    found = unboxed(on_host(weights, "weights"))
    if found.dtype.kind in "biu":
        kind = "booleans" if found.dtype == bool else "whole numbers"
        raise JaxfairError(f"The weights are {kind}, {ADDED}")
    if not np.isfinite(found := _real(found, "weights")).all():
        raise JaxfairError("A weight is not a finite number; an example of no weight has 0.")
    largest, kind = np.abs(np.atleast_1d(found)).max(axis=-1, initial=0.0).astype(np.float64), of_doubles()
    if (lost := (largest > 0) & ((largest < float(kind.tiny)) | (largest > float(kind.max)))).any():
        raise JaxfairError(
            f"The largest weight is {largest[lost].flat[0]:.3g} in size, which {kind.dtype} cannot hold; give weights "
            "that sum to 1."
        )
    if found.ndim and (((found == 0) | (found == 1)).all(axis=-1) & (found.sum(axis=-1) > 1)).any():
        if found.ndim > 1:
            raise JaxfairError(f"The weights of a group are 0 and 1 alone, {ADDED}")
        warn(f"The weights are 0 and 1 alone, {ADDED}")
    return found


def as_directions(vectors: Any, shape: tuple[int, int], what: str) -> np.ndarray:
    """Return vectors as the rows of an array of this shape, each of length 1.

    Raises:
        JaxfairError: They have another shape, are no real numbers, or one is 0 or not finite.
    """
    found = _real(unboxed(on_host(vectors, what)), what)
    if found.shape != shape:
        raise JaxfairError(
            f"The {what} have shape {found.shape}; give {shape}, a vector of all parameters for each group."
        )
    found = found.astype(np.float64)
    largest = np.abs(found).max(axis=1, keepdims=True)
    if wrong := np.flatnonzero(~(np.isfinite(largest) & (largest > 0))).tolist():
        raise JaxfairError(f"Row [{quoted(wrong)}] of the {what} is 0 or not finite; give each a direction.")
    found = np.ldexp(found, -np.frexp(largest)[1])  # squares of 1e200 or 1e-200 leave the range of float64
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def _real(found: np.ndarray, what: str) -> np.ndarray:
    """Return the array, or raise a JaxfairError unless it is of real numbers."""
    if found.dtype == bool or not holds_numbers(found) or found.dtype.kind == "c":
        raise JaxfairError(f"The {what} have type {found.dtype}; give real numbers.")
    return found


def check_lengths(**lengths: int) -> None:
    """Raise a JaxfairError unless all are equal; the names are those of the arguments."""
    if len(set(lengths.values())) > 1:
        given = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise JaxfairError(f"There are {given}; give one of each for every example.")


def leaves(tree: Any, what: str, is_leaf: Callable[[Any], bool] | None = None) -> list[Any]:
    """Return the leaves of a pytree, or raise a JaxfairError if JAX cannot put its dictionaries' keys in order."""
    try:
        return jax.tree.leaves(tree, is_leaf=is_leaf)
    except ValueError as error:
        raise JaxfairError(
            f"The {what} have a dictionary whose keys cannot be sorted; give keys of one type."
        ) from error


def check_there(values: Iterable[Any]) -> None:
    """Raise a JaxfairError if an array of JAX among these is no longer there."""
    if any(isinstance(value, jax.Array) and not isinstance(value, Tracer) and value.is_deleted() for value in values):
        raise JaxfairError("An array that a function binds was donated to a jitted function and is gone; keep a copy.")


def is_bound_to_mesh(array: jax.Array) -> bool:
    """Return whether an array's type names a mesh, as of meshes by ``jax.make_mesh``, which no other program takes.

    One that JAX traces lies nowhere.
    """
    if isinstance(array, Tracer):
        return False
    return AxisType.Explicit in getattr(getattr(array.sharding, "mesh", None), "axis_types", ())


def on_one_device(tree: Any) -> Any:
    """Return arrays on the host, each once, if they lie on several devices or on a mesh, of one device too.

    That is, if they are replicated, sharded, or each on another. Otherwise they stay as they are, so that whoever chose
    a device for all of them computes there. Those of NumPy come in this machine's order of bytes.
    """
    tree = jax.tree.map(lambda leaf: _native(leaf) if isinstance(leaf, np.ndarray) else leaf, tree)
    arrays = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer)]
    check_there(arrays)
    bound = {device for array in arrays if array.committed for device in array.devices()}
    if len(bound) < 2 and all(len(array.devices()) == 1 and not is_bound_to_mesh(array) for array in arrays):
        return tree
    fetched = {id(array): np.asarray(array) for array in arrays}
    return jax.tree.map(lambda leaf: fetched.get(id(leaf), leaf), tree)
