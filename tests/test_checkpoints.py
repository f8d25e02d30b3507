"""Checkpoints: exact, one at a time, never half a one, and refused where they do not fit."""

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxfair import checkpoints
from jaxfair.errors import JaxfairError, StorageError

ROOT = Path(__file__).resolve().parents[1]


def make_tree(seed: int = 0) -> Any:
    """Make a tree like that of training: nested, several types, a scalar, values that no decimal holds."""
    rng = np.random.default_rng(seed)
    special = jnp.array([np.pi, -0.0, np.inf, np.nan, 1e-45, seed], jnp.float32)
    return {
        "params": {"conv": jnp.asarray(rng.normal(size=(64, 64)), jnp.float32), "special": special},
        "history": (np.arange(3, dtype=np.float32), [jnp.ones((2, 3), jnp.bfloat16)]),
        "step": jnp.int32(2**31 - 1),
        "images": rng.integers(0, 256, (2, 3), dtype=np.uint8),
    }


def same_bits(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


def shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_roundtrip_keeps_every_bit_and_the_structure(tmp_path: Path) -> None:
    """Into arrays and into shape structs."""
    tree = make_tree()
    checkpoints.save(tmp_path / "new" / "folder", 3, tree)
    for like in (make_tree(seed=1), shapes(tree)):
        restored = checkpoints.restore(tmp_path / "new" / "folder", like)
        assert jax.tree.structure(restored) == jax.tree.structure(tree)
        assert same_bits(restored, tree)


def test_the_newest_is_kept_and_earlier_ones_are_removed(tmp_path: Path) -> None:
    assert checkpoints.latest_step(tmp_path / "absent") is None
    assert checkpoints.latest_step(tmp_path) is None
    for step in (1, 9, 10):
        checkpoints.save(tmp_path, step, make_tree(step))
        assert names(tmp_path) == [str(step)]
        assert checkpoints.latest_step(tmp_path) == step
    assert same_bits(checkpoints.restore(tmp_path, make_tree()), make_tree(10))


def test_the_latest_of_two_counts(tmp_path: Path) -> None:
    """A process killed before it removes the earlier checkpoint leaves both; 10 comes after 9, as numbers."""
    for step in (9, 10):
        checkpoints.save(tmp_path / str(step), step, make_tree(step))
        shutil.copytree(tmp_path / str(step) / str(step), tmp_path / "both" / str(step))
    assert checkpoints.latest_step(tmp_path / "both") == 10
    assert same_bits(checkpoints.restore(tmp_path / "both", make_tree()), make_tree(10))


def test_a_step_can_be_written_again(tmp_path: Path) -> None:
    for seed in (0, 1):
        checkpoints.save(tmp_path, 5, make_tree(seed))
    assert same_bits(checkpoints.restore(tmp_path, make_tree()), make_tree(1))


def test_other_files_and_folders_are_left_alone(tmp_path: Path) -> None:
    """A user may keep things beside checkpoints; only steps and unfinished ones are ours to remove."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    (tmp_path / "3.orbax-checkpoint-tmp").mkdir()
    checkpoints.save(tmp_path, 1, make_tree())
    checkpoints.save(tmp_path, 2, make_tree())
    assert names(tmp_path) == ["2", "mine"]
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


def test_an_unfinished_checkpoint_is_not_the_latest(tmp_path: Path) -> None:
    """Orbax renames a folder into place when all of it is written; a kill before that leaves this name."""
    checkpoints.save(tmp_path, 1, make_tree())
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
    assert checkpoints.latest_step(tmp_path) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {**t, "step": jnp.zeros(2, jnp.int32)}, r"step is int32\[\] there and int32\[2\] here"),
        (lambda t: {**t, "step": jnp.float32(0)}, r"step is int32\[\] there and float32\[\] here"),
        (lambda t: {**t, "extra": jnp.zeros(2)}, r"extra is absent there and float32\[2\] here"),
        (lambda t: {k: v for k, v in t.items() if k != "step"}, r"step is int32\[\] there and absent here"),
        (
            lambda t: {**t, "params": {**t["params"], "conv": jnp.zeros((64, 32))}},
            r"params/conv is float32\[64, 64\] there and float32\[64, 32\] here",
        ),
    ],
)
def test_the_checkpoint_of_another_model_is_refused(tmp_path: Path, change: Callable[[Any], Any], words: str) -> None:
    checkpoints.save(tmp_path, 1, make_tree())
    with pytest.raises(JaxfairError, match=f"belongs to another model: {words}"):
        checkpoints.restore(tmp_path, change(make_tree()))


def test_an_absent_checkpoint_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(JaxfairError, match=f"no finished checkpoint in '{folder}'"):
            checkpoints.restore(folder, make_tree())


RESTORES_ON_THE_SECOND = """
import jax, numpy as np, sys
from jaxfair import checkpoints
checkpoints.save(sys.argv[1], 1, {"a": np.ones(3)})
first, second = jax.devices()
with jax.default_device(second):
    assert checkpoints.restore(sys.argv[1], {"a": np.ones(3, np.float32)})["a"].devices() == {second}
assert checkpoints.restore(sys.argv[1], {"a": np.ones(3, np.float32)})["a"].devices() == {first}
"""


def test_arrays_land_on_the_device_that_the_user_set(tmp_path: Path) -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    path = os.pathsep.join(sys.path)
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", RESTORES_ON_THE_SECOND, str(tmp_path)], env=environment, check=True)


def test_a_program_compiled_for_new_arrays_serves_restored_ones(tmp_path: Path) -> None:
    tree = {"a": jnp.ones(3), "b": jnp.zeros((2, 2), jnp.bfloat16)}
    checkpoints.save(tmp_path, 1, tree)
    compiled = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree))
    compiled(tree)
    compiled({**checkpoints.restore(tmp_path, tree), "a": jnp.ones(3)})  # some restored, some not, as a training has it
    assert compiled._cache_size() == 1  # pyright: ignore[reportAttributeAccessIssue]


def test_a_digest_is_of_bits_shapes_and_names() -> None:
    zeros = jnp.zeros((2, 3))
    others = [zeros.astype(jnp.float16), zeros.astype(jnp.bfloat16)]
    trees = [{"a": zeros}, {"b": zeros}, *({"a": leaf} for leaf in (zeros.T, -zeros, *others))]
    assert len({checkpoints.tree_digest(tree) for tree in trees}) == 6
    assert checkpoints.tree_digest({"a": np.zeros((2, 3), np.float32)}) == checkpoints.tree_digest(trees[0])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def outcome(folder: Path) -> str:
    """Say what restoring leads to: the values of ``make_tree``, others, or an error."""
    try:
        restored = checkpoints.restore(folder, make_tree())
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "exact" if same_bits(restored, make_tree()) else "wrong values"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax closes its event loop early
@pytest.mark.parametrize("damage", [Path.unlink, cut])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Any one file is lost or cut: the values are the right ones all the same, or one sentence says what is wrong."""
    whole = tmp_path / "whole"
    checkpoints.save(whole, 1, make_tree())
    outcomes = {}
    for i, file in enumerate(path.relative_to(whole) for path in whole.rglob("*") if path.is_file()):
        folder = tmp_path / str(i)
        shutil.copytree(whole, folder)
        damage(folder / file)
        outcomes[str(file)] = outcome(folder)
    refused = {file: text for file, text in outcomes.items() if text != "exact"}
    assert len(refused) >= 2
    assert not {file: text for file, text in refused.items() if not re.match("JaxfairError: .*/1' is damaged", text)}


def full_disk(*_: Any, **__: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("step", [1, 2], ids=["same step", "next step"])
@pytest.mark.parametrize(
    ("owner", "method"),
    [(ocp.Checkpointer, "save"), (ocp.type_handlers.ArrayHandler, "serialize")],
    ids=["at once", "while writing arrays"],
)
def test_a_full_disk_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, method: str, step: int
) -> None:
    """Also where the same step is written again; and the next save works."""
    checkpoints.save(tmp_path, 1, make_tree())
    with monkeypatch.context() as patch:
        patch.setattr(owner, method, full_disk)
        with pytest.raises(JaxfairError, match=r"cannot be written .*No space left on device; earlier results"):
            checkpoints.save(tmp_path, step, make_tree(1))
    assert same_bits(checkpoints.restore(tmp_path, make_tree()), make_tree())
    checkpoints.save(tmp_path, 3, make_tree(1))
    assert names(tmp_path) == ["3"]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JaxfairError, match=f"cannot be written to '{tmp_path / 'file'}'"):
        checkpoints.save(tmp_path / "file", 1, make_tree())


def test_other_exceptions_are_not_disguised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("a bug")

    monkeypatch.setattr(ocp.Checkpointer, "save", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        checkpoints.save(tmp_path, 1, make_tree())


def test_a_step_that_is_written_again_is_whole_whenever_the_process_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one is put aside, and the new one gets its name: ended between both, the new one is found."""
    checkpoints.save(tmp_path, 5, make_tree(0))
    rename = Path.rename

    def once(self: Path, target: Path) -> Path:
        if self.name == "5.new":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", once)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(tmp_path, 5, make_tree(1))
    monkeypatch.undo()
    assert checkpoints.latest_step(tmp_path) == 5
    assert same_bits(checkpoints.restore(tmp_path, make_tree()), make_tree(1))
    rename(tmp_path / "5.new", tmp_path / "5")  # ended after both, before the old one was removed
    checkpoints.save(tmp_path, 5, make_tree(3))
    assert same_bits(checkpoints.restore(tmp_path, make_tree()), make_tree(3))
    checkpoints.save(tmp_path, 6, make_tree(2))
    assert names(tmp_path) == ["6"]


def test_unfinished_work_that_cannot_be_understood_is_kept(tmp_path: Path) -> None:
    """It may be another version's: a save of what begins again does not remove it."""
    checkpoints.save(tmp_path, 39, make_tree(0))
    for file in (tmp_path / "39").rglob("*"):
        if file.is_file():
            file.write_bytes(b"x")
    with pytest.warns(UserWarning, match="is damaged; it begins again"):
        assert checkpoints.resume(tmp_path, make_tree(1))[0] == 0
    checkpoints.save(tmp_path, 1, make_tree(1))
    assert names(tmp_path) == ["1", "39.unreadable"]
    assert checkpoints.resume(tmp_path, make_tree())[0] == 1


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOSPC])
def test_what_a_library_says_of_the_disk_is_the_disks(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has an exception of its own, with the system's words."""

    class Full:
        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None: ...

        def save(self, *_: object, **__: object) -> None:
            raise ValueError(f"INTERNAL: [OS error: {os.strerror(number)}]")

        restore = save

    checkpoints.save(tmp_path, 1, make_tree())
    monkeypatch.setattr(checkpoints, "_checkpointer", Full)
    with pytest.raises(StorageError, match="cannot be written"):
        checkpoints.save(tmp_path, 2, make_tree())
    with pytest.raises(StorageError, match=r"cannot be read: .*; nothing was removed"):
        checkpoints.resume(tmp_path, make_tree())
    assert names(tmp_path) == ["1"]


def test_a_full_disk_is_said_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orbax tells of each of its files that it cannot write."""

    def full() -> None:
        raise ValueError("RESOURCE_EXHAUSTED: " + 'Error writing "a/b" in OCDBT; ' * 99 + os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints, "_checkpointer", full)
    with pytest.raises(StorageError) as refused:
        checkpoints.save(tmp_path / "kept", 0, {"a": np.zeros(2)})
    said = f"The checkpoint cannot be written to '{tmp_path / 'kept'}': No space left on device; earlier results are"
    assert str(refused.value) == f"{said} kept."


FULL = """
import resource, sys
from pathlib import Path
from experiments import cli
cli.begin()
import numpy as np
from jaxfair import checkpoints
from jaxfair.errors import StorageError

resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
for _ in range(2):
    try:
        checkpoints.save(Path(sys.argv[1]), 0, {f"{i}": np.random.rand(20_000) for i in range(9)})
    except StorageError as error:
        print(error, file=sys.stderr)
"""


def test_of_a_full_disk_a_command_prints_nothing_else(tmp_path: Path) -> None:
    """Orbax's threads log what they raise, writes that are given up fail later, and what is half written is known."""
    command = [sys.executable, "-c", FULL, str(tmp_path / "kept")]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stderr
    line = f"The checkpoint cannot be written to '{tmp_path / 'kept'}': File too large; earlier results are kept.\n"
    assert said == 2 * line
