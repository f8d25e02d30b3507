"""Checkpoints: save and restore a pytree of arrays by Orbax, atomically.

A folder holds one finished checkpoint, in a sub-folder named by its step. A process killed while it saves leaves the
previous one whole, since Orbax renames a checkpoint into place when all of it is written.
"""

import hashlib
import os
import re
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxfair.errors import STORAGE, JaxfairError, StorageError, is_of_storage, short, warn
from jaxfair.options import Natural, checked

Tree = TypeVar("Tree")

_orbax = threading.Lock()
"""Held while Orbax works: it numbers operations by the process, and takes two threads' for one."""


@checked
def save(directory: Path, step: Natural, tree: object) -> None:
    """Write ``tree`` as the checkpoint of ``step`` and remove the other ones.

    Of several processes (``jax.distributed``) each that calls this writes alone, and so only one should.

    Args:
        directory: the folder of one piece of work, made if it is new; other files in it are left alone.
        step: counts what was done, such as epochs.
        tree: a pytree of JAX or NumPy arrays and numbers.

    Raises:
        JaxfairError: the step is no whole number from 0 on, or a leaf of the tree is no array.
        StorageError: the folder cannot be written or the disk is full; the previous checkpoint is kept.
    """
    directory = Path(directory).absolute()
    # Of several processes, Orbax takes an array for a part of one that all of them save; NumPy's are whole.
    whole = np.asarray if jax.process_count() > 1 else jnp.asarray
    try:
        arrays = {name: whole(leaf) for name, leaf in _flat(tree).items()}
    except TypeError as error:
        raise JaxfairError(f"A checkpoint holds arrays and numbers alone ({error}); leave other leaves out.") from error
    # Orbax would delete a checkpoint of the same step before it writes the new one.
    written, final = directory / f"{step}.new", directory / str(step)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for half_written in directory.glob(f"{written.name}.orbax-checkpoint-tmp*"):  # or Orbax tells of it
            shutil.rmtree(half_written, ignore_errors=True)
        with _orbax, _checkpointer() as checkpointer:
            checkpointer.save(written, arrays, force=True)
        if final.exists():  # put aside first: killed between both, what is there is whole under its other name
            aside = directory / f"{step}.orbax-checkpoint-tmp-before"
            shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed before it removed this
            final.rename(aside)
        written.rename(final)
    except Exception as error:
        if not isinstance(error, OSError) and not is_of_storage(error):
            raise
        # Orbax quotes its own database, file by file, before it says that a disk is full.
        why = next((text for text in map(os.strerror, STORAGE) if text in str(error)), short(str(error)))
        raise StorageError(
            f"The checkpoint cannot be written to '{directory}': {why}; earlier results are kept."
        ) from error
    for other in directory.iterdir():
        if re.fullmatch(r"\d+(\.new)?(\.orbax-checkpoint-tmp.*)?", other.name) and other != final:
            shutil.rmtree(other, ignore_errors=True)


def key(*parts: object) -> str:
    """Return a folder name for unfinished work: a digest of the text of all that decides its result.

    Progress is then only ever continued by what began it. Text does not tell large arrays apart, so pass
    ``tree_digest`` of networks and a data set's ``fingerprint`` instead of these.
    """
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def tree_digest(tree: Any) -> str:
    """Return 16 hexadecimal digits of all arrays and their places: equal bits, equal digest, on any machine."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)}{array.dtype.str}{array.shape}".encode())
        digest.update(array.view(np.uint8).data)  # bfloat16 has no buffer of its own
    return digest.hexdigest()[:16]


def latest_step(directory: Path) -> int | None:
    """Return the step of the newest finished checkpoint, or None."""
    directory = Path(directory)
    names = [d.name.removesuffix(".new") for d in directory.iterdir()] if directory.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=None)


def _place(directory: Path, step: int) -> Path:
    """Return where a checkpoint is: what was to replace one of the same step is whole, too, once it has its name."""
    final = directory / str(step)
    return final if final.exists() else directory / f"{step}.new"


def restore(directory: Path, like: Tree) -> Tree:
    """Read the newest checkpoint.

    Args:
        directory: the folder that was given to ``save``.
        like: a pytree of arrays, or of ``jax.ShapeDtypeStruct``, of the structure, shapes and types that are expected.

    Returns:
        The tree, of JAX arrays on the default device (``jax.default_device``).

    Raises:
        JaxfairError: there is no checkpoint, it is damaged, or it holds the arrays of another model.
    """
    directory = Path(directory).absolute()
    step = latest_step(directory)
    if step is None:
        raise JaxfairError(f"There is no finished checkpoint in '{directory}'; run the stage that writes it first.")
    wanted = {k: jax.ShapeDtypeStruct(np.shape(v), jnp.result_type(v)) for k, v in _flat(like).items()}
    place = _place(directory, step)
    with _orbax, _checkpointer() as checkpointer:
        arrays = _read(checkpointer, place, wanted)
        found = _stored(checkpointer, place) if isinstance(arrays, Exception) else arrays
    for failed in (arrays, found):
        if isinstance(failed, MemoryError) or (isinstance(failed, Exception) and is_of_storage(failed)):
            raise StorageError(f"The checkpoint '{place}' cannot be read: {failed}; nothing was removed.") from failed
    if not isinstance(found, Exception):
        for name in [*wanted, *found]:
            if _describe(wanted.get(name)) != _describe(found.get(name)):
                raise JaxfairError(
                    f"The checkpoint '{directory}' belongs to another model: {name} is {_describe(found.get(name))} "
                    f"there and {_describe(wanted.get(name))} here; use the configuration that it was written with."
                )
    if isinstance(arrays, Exception):
        raise JaxfairError(f"The checkpoint '{place}' is damaged ({arrays}); delete it and rerun.") from arrays
    # As new arrays are: bound to no device, so that a program compiled for these serves restored ones too.
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(arrays[name]) for name in wanted])


def resume(directory: Path | None, fresh: Tree, *, together: bool = False) -> tuple[int, Tree]:
    """Return the step and the tree of the newest checkpoint, or 0 and ``fresh`` where there is none.

    One that is damaged counts as none: a warning says so, and the work begins again; it is kept as ``STEP.unreadable``
    until the work is finished, as another version of Orbax may read it.

    Args:
        directory: where checkpoints of unfinished work lie, named by ``key``; None where none are kept.
        fresh: what the work begins with, of the structure, shapes and types of a checkpoint.
        together: whether all processes (``jax.distributed``) call this for one work; what the first one finds is then
            what each returns, in NumPy arrays.

    Raises:
        JaxfairError: the checkpoint holds other arrays, as for ``restore``.
    """
    if together:
        first = jax.process_index() == 0
        return _shared(*resume(directory if first else None, fresh))
    step = None if directory is None else latest_step(directory)
    if directory is None or step is None:
        return 0, fresh
    try:
        return step, restore(directory, fresh)
    except StorageError:
        raise
    except JaxfairError as error:
        if error.__cause__ is None:  # it can be read, but is another model's
            raise
        place, aside = _place(Path(directory), step), Path(directory) / f"{step}.unreadable"
        shutil.rmtree(aside, ignore_errors=True)
        place.rename(aside)
        warn(f"The checkpoint of unfinished work in '{directory}' is damaged; it begins again.")
        return 0, fresh


def _shared(step: int, tree: Tree) -> tuple[int, Tree]:
    """Return what the first process gave, bit for bit; all processes call this, with arrays of the same shapes."""
    from jax.experimental import multihost_utils

    arrays, structure = jax.tree.flatten((np.int64(step), tree))
    arrays = [np.asarray(array) for array in arrays]
    told = multihost_utils.broadcast_one_to_all([np.frombuffer(array.tobytes(), np.uint8) for array in arrays])
    same = [np.asarray(new).view(old.dtype).reshape(old.shape) for new, old in zip(told, arrays, strict=True)]
    first, tree = jax.tree.unflatten(structure, same)
    return int(first), tree


def _checkpointer() -> Any:
    """Return what saves and restores in this process, whatever other processes do."""
    import orbax.checkpoint as ocp

    if jax.process_count() == 1:
        return ocp.PyTreeCheckpointer()
    here = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process-{here}"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _read(checkpointer: Any, path: Path, names: Iterable[str]) -> dict[str, np.ndarray] | Exception:
    """Return the arrays of these names as they are stored, or why they cannot be read.

    That they are what is expected is seen afterwards: to ask for their shapes first takes as long as to read them.
    """
    import orbax.checkpoint as ocp

    as_stored = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
    try:
        return checkpointer.restore(path, item=dict.fromkeys(names, np.zeros(())), restore_args=as_stored)
    except Exception as error:
        return error


def _stored(checkpointer: Any, path: Path) -> dict[str, Any] | Exception:
    """Return shape and type of all arrays that are stored, or why they cannot be read."""
    try:
        return dict(checkpointer.metadata(path).item_metadata.tree)
    except Exception as error:
        return error


def _flat(tree: object) -> dict[str, Any]:
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in pairs}


def _describe(struct: Any) -> str:
    """Say shape and type of an array, or of what has them, in words that differ where these do."""
    return "absent" if struct is None else f"{struct.dtype}{list(struct.shape)}"
