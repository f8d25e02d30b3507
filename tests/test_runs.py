"""Run directories: digests, atomic files, and what reading refuses."""

import dataclasses
import errno
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfair import runs
from jaxfair.errors import JaxfairError, StorageError

CONFIG = {"stage": "train", "name": "digits-seed0", "seed": 0, "rates": [0.1, 0.01], "model": {"width": 8, "depth": 2}}

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)
configs = st.dictionaries(st.text(), values)


@pytest.fixture
def run(tmp_path: Path) -> runs.Run:
    return runs.start(tmp_path, CONFIG)


def finish(run: runs.Run) -> runs.Run:
    run.write_json("result.json", {"accuracy": 0.5})
    run.write_arrays("examples.npz", {"loss": np.arange(3.0)})
    return run.finish()


def reversed_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return [reversed_keys(item) for item in value] if isinstance(value, list) else value


def tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: tuples(item) for key, item in value.items()}
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value


@given(configs)
def test_digest_depends_on_content_only(config: dict[str, Any]) -> None:
    expected = runs.digest(config)
    assert re.fullmatch("[0-9a-f]{12}", expected)
    assert runs.digest(reversed_keys(config)) == expected
    assert runs.digest(tuples(config)) == expected
    assert runs.digest(json.loads(json.dumps(config))) == expected


@given(configs, configs, values, values)
def test_digest_changes_with_content(config: dict, other: dict, value: Any, changed: Any) -> None:
    def text(content: Any) -> str:
        return json.dumps(content, sort_keys=True)

    assert (runs.digest(config) == runs.digest(other)) == (text(config) == text(other))
    same = runs.digest({**config, "k": [{"x": value}]}) == runs.digest({**config, "k": [{"x": changed}]})
    assert same == (text(value) == text(changed))


def test_digest_does_not_tell_numpy_from_python() -> None:
    @dataclasses.dataclass(frozen=True)
    class Model:
        width: int = 8
        depth: int = 2

    given = {"rates": np.array([0.1, 0.01]), "seed": np.int64(0), "model": Model(), "name": np.str_("digits-seed0")}
    assert runs.digest({**CONFIG, **given}) == runs.digest(CONFIG)
    assert runs.digest({**CONFIG, "out": Path("a") / "b"}) == runs.digest({**CONFIG, "out": "a/b"})
    assert runs.digest({**CONFIG, "rates": np.array([0.01, 0.1])}) != runs.digest(CONFIG)


def test_start_writes_the_configuration_and_finds_it_again(tmp_path: Path) -> None:
    run = runs.start(tmp_path, CONFIG)
    assert json.loads((run.path / "config.json").read_text()) == CONFIG
    assert run.path == tmp_path / f"train-digits-seed0-{runs.digest(CONFIG)}"
    assert not run.done
    again = runs.start(tmp_path, dict(reversed(CONFIG.items())))
    assert (again.path, again.digest) == (run.path, run.digest)
    assert runs.start(tmp_path, {**CONFIG, "seed": 1}).path != run.path


def test_a_finished_run_is_opened_without_writing(run: runs.Run, tmp_path: Path) -> None:
    finish(run)
    before = (run.path / "config.json").stat().st_mtime_ns
    assert runs.start(tmp_path, CONFIG).done
    assert (run.path / "config.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["a/b c:<>*|?", "../../etc", "résumé ☃", "", ".", "x" * 500, "a\nb"])
def test_names_make_one_plain_folder(tmp_path: Path, name: str) -> None:
    run = runs.start(tmp_path / "runs", {"stage": "train", "name": name})
    assert run.path.parent == tmp_path / "runs"
    assert re.fullmatch(r"train-[A-Za-z0-9_.+-]*", run.path.name)
    assert len(run.path.name) <= 100
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]
    assert run.config["name"] == name
    assert runs.start(tmp_path / "runs", {"stage": "train", "name": name + "!"}).path != run.path


def test_nan_becomes_null(run: runs.Run) -> None:
    run.write_json(
        "result.json", {"a": np.nan, "b": [np.float32(np.inf), 1.5], "c": np.array([1.0, np.nan]), "d": True}
    )
    run.write_rows("metrics.jsonl", [{"loss": np.float32(0.5)}, {"loss": np.nan}])
    run.finish()
    assert run.json("result.json") == {"a": None, "b": [None, 1.5], "c": [1.0, None], "d": True}
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"loss": 0.5}, {"loss": None}]


def test_equal_arrays_give_equal_bytes(run: runs.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {"loss": np.arange(5.0), "label": np.arange(5)}
    run.write_arrays("a.npz", arrays)
    monkeypatch.setattr("time.time", lambda: 2e9)
    run.write_arrays("b.npz", {name: array.copy() for name, array in arrays.items()})
    assert (run.path / "a.npz").read_bytes() == (run.path / "b.npz").read_bytes()
    run.finish()
    read = run.arrays("b.npz")
    assert list(read) == list(arrays)
    np.testing.assert_array_equal(read["loss"], arrays["loss"])
    assert read["label"].dtype == arrays["label"].dtype


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def one_sentence(error: BaseException) -> bool:
    text = str(error)
    return "\n" not in text and text.endswith(".") and not re.search(r"[.?!] [A-Z]", text)


def test_a_failing_write_leaves_the_old_file(run: runs.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(run)

    def half_written(file: Path, **_: np.ndarray) -> None:
        file.write_bytes(b"PK half an archive")
        no_space()

    monkeypatch.setattr(os, "fsync", no_space)
    monkeypatch.setattr(np, "savez", half_written)
    with pytest.raises(JaxfairError, match=r"No space left.*free some space"):
        run.write_json("result.json", {"accuracy": 0.9})
    with pytest.raises(JaxfairError, match="No space left") as caught:
        run.write_arrays("examples.npz", {"loss": np.ones(2)})
    assert one_sentence(caught.value)
    assert run.json("result.json") == {"accuracy": 0.5}
    np.testing.assert_array_equal(run.arrays("examples.npz")["loss"], [0.0, 1.0, 2.0])


def test_rows_that_fail_half_way_leave_the_old_file(run: runs.Run) -> None:
    def rows(fail: bool) -> Any:
        yield {"epoch": 1}
        if fail:
            raise RuntimeError("training broke off")

    run.write_rows("metrics.jsonl", rows(fail=False))
    with pytest.raises(RuntimeError):
        run.write_rows("metrics.jsonl", rows(fail=True))
    assert (run.path / "metrics.jsonl").read_text() == '{"epoch": 1}\n'


def test_a_full_disk_while_finishing_leaves_the_run_unfinished(run: runs.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.write_json("result.json", {})
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(JaxfairError, match="free some space"):
        run.finish()
    assert not run.done


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        JaxfairError, match="cannot be written: there is a file where a folder is needed; choose another folder"
    ) as caught:
        runs.start(tmp_path / "file" / "runs", CONFIG)
    assert one_sentence(caught.value)


def test_a_root_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(JaxfairError, match="Permission denied; choose another folder"):
        runs.start(tmp_path / "runs", CONFIG)


def test_an_unfinished_run_is_refused(run: runs.Run, tmp_path: Path) -> None:
    with pytest.raises(
        JaxfairError, match=r"is not finished \(DONE is missing\); give its study's command again"
    ) as caught:
        runs.read(run.path)
    assert one_sentence(caught.value)
    with pytest.raises(JaxfairError, match="There is no run"):
        runs.read(tmp_path / "nothing")


def test_finish_removes_unfinished_work_and_lists_every_file(run: runs.Run) -> None:
    for folder in (run.progress_dir / "seed0", run.checkpoint_dir / "0"):
        folder.mkdir(parents=True)
        (folder / "array").write_bytes(b"1")
    finish(run)
    assert not run.progress_dir.exists()
    listed = json.loads((run.path / "DONE").read_text())
    assert sorted(listed) == ["checkpoint/0/array", "config.json", "examples.npz", "result.json"]
    assert runs.read(run.path).config == CONFIG


@pytest.mark.parametrize("name", ["config.json", "result.json", "examples.npz", "DONE"])
@pytest.mark.parametrize("damage", ["one bit", "cut", "removed"])
def test_a_tampered_run_is_refused(run: runs.Run, name: str, damage: str) -> None:
    finish(run)
    path = run.path / name
    old = path.read_bytes()
    path.write_bytes(old[: len(old) // 2] if damage == "cut" else old[:-5] + bytes([old[-5] ^ 1]) + old[-4:])
    if damage == "removed":
        path.unlink()

    def read_all() -> None:
        opened = runs.read(run.path)
        opened.json("result.json")
        opened.arrays("examples.npz")

    with pytest.raises(JaxfairError, match=re.escape(run.path.name)) as caught:
        read_all()
    assert one_sentence(caught.value)


def test_environment_is_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = json.loads(json.dumps(runs.environment()))
    assert found["versions"]["jax"] == jax.__version__
    assert found["versions"]["numpy"] == np.__version__
    assert found["commit"] is None or re.fullmatch("[0-9a-f]{40}", found["commit"])
    assert (found["uncommitted_changes"] is None) == (found["commit"] is None)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["started"])
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "jaxfair" / "runs.py"))
    outside = runs.environment()
    assert outside["commit"] is None
    assert outside["uncommitted_changes"] is None


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_checkout_is_asked_by_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Once before and once after a tracked file changes, as two processes of a study would ask."""
    real, asked = subprocess.run, []
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    (tmp_path / "tracked").write_text("as committed")
    for command in (("init",), ("add", "tracked"), (*identity, "commit", "-m", "one")):
        real(["git", *command], cwd=tmp_path, check=True, capture_output=True)
    commit = real(["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "jaxfair" / "runs.py"))
    monkeypatch.setattr(subprocess, "run", lambda *a, **options: asked.append(a) or real(*a, **options))
    for text, changed in (("as committed", False), ("changed", True)):
        (tmp_path / "tracked").write_text(text)
        (tmp_path / "untracked").write_text(text)
        runs._checkout.cache_clear()
        asked.clear()
        for _ in range(3):
            found = runs.environment()
            assert (found["commit"], found["uncommitted_changes"]) == (commit, changed)
        assert len(asked) == 1


def test_a_run_is_finished_before_its_unfinished_work_is_removed(
    run: runs.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the process killed in between, nothing would have to be made again."""
    run.progress_dir.mkdir(parents=True)
    (run.progress_dir / "array").write_bytes(b"1")
    monkeypatch.setattr(runs.Run, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run.seal()
    assert (run.progress_dir / "array").exists()


def test_what_cannot_be_read_is_not_damaged(run: runs.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a disk that is away for a while."""
    finish(run)
    away = OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    monkeypatch.setattr(runs, "file_digest", lambda _: (_ for _ in ()).throw(away))
    with pytest.raises(StorageError, match=r"cannot be read: .*; nothing was removed, give the same command when it"):
        run.damage()
    with pytest.raises(StorageError, match="nothing was removed"):
        runs.start(run.path.parent, CONFIG)
    monkeypatch.undo()
    assert run.damage() is None


def test_files_of_the_system_are_no_part_of_a_run(run: runs.Run) -> None:
    run.checkpoint_dir.mkdir(parents=True)
    (run.checkpoint_dir / ".DS_Store").write_bytes(b"1")
    finish(run)
    (run.checkpoint_dir / ".DS_Store").write_bytes(b"2")
    assert run.damage() is None
