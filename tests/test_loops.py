"""The epoch loop: what is saved when, and what a later call goes on from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxfair import checkpoints
from jaxfair.errors import JaxfairError
from jaxfair.loops import epochs, stop

FRESH = {"sum": np.float32(0), "seen": np.zeros(5, np.int32)}


def run(epoch: int, state: dict[str, Any]) -> dict[str, Any]:
    return {"sum": np.float32(state["sum"] * 2 + epoch), "seen": np.asarray(state["seen"]) + (np.arange(5) == epoch)}


def test_a_loop_left_in_the_middle_goes_on_from_the_epoch_before(tmp_path: Path) -> None:
    """What the caller had not taken in whole is done again, and nothing else."""
    straight = dict(epochs(run, (0, FRESH), 5))
    assert list(straight) == [1, 2, 3, 4, 5]
    for done, _ in epochs(run, checkpoints.resume(tmp_path, FRESH), 5, tmp_path, 0.0):
        if done == 3:
            break
    start = checkpoints.resume(tmp_path, FRESH)
    assert start[0] == 2
    rest = dict(epochs(run, start, 5, tmp_path, 0.0))
    assert list(rest) == [3, 4, 5]
    for done, state in rest.items():
        np.testing.assert_array_equal(state["sum"], straight[done]["sum"])
        np.testing.assert_array_equal(state["seen"], np.arange(5) < done)


@pytest.mark.parametrize(("seconds", "keep_last", "left"), [(0.0, False, 5), (1e9, False, None), (1e9, True, 5)])
def test_when_a_checkpoint_is_written(tmp_path: Path, seconds: float, keep_last: bool, left: int | None) -> None:
    """The last one in any case where the caller wants it: nothing is left to do then, and its state is there."""
    last = dict(epochs(run, (0, FRESH), 5, tmp_path, seconds, keep_last=keep_last))[5]
    assert checkpoints.latest_step(tmp_path) == left
    done, state = checkpoints.resume(tmp_path, FRESH)
    assert (done, float(state["sum"])) == (left or 0, float(last["sum"]) if left else 0.0)
    assert [done for done, _ in epochs(run, (done, state), 5)] == list(range(done + 1, 6))


def test_damaged_progress_is_made_again_and_anothers_refused(tmp_path: Path) -> None:
    last = dict(epochs(run, (0, FRESH), 5, tmp_path, 0.0))[5]
    with pytest.raises(JaxfairError, match="belongs to another model"):
        checkpoints.resume(tmp_path, {"sum": np.float32(0)})
    for file in list((tmp_path / "5").rglob("*")):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.warns(UserWarning, match="of unfinished work in .* is damaged; it begins again"):
        start = checkpoints.resume(tmp_path, FRESH)
    assert start == (0, FRESH)
    again = dict(epochs(run, start, 5, tmp_path, 0.0))[5]
    np.testing.assert_array_equal(again["sum"], last["sum"])


def test_without_a_folder_work_begins_afresh() -> None:
    assert checkpoints.resume(None, FRESH) == (0, FRESH)


def test_a_loop_that_is_asked_to_end_finishes_its_epoch_and_saves(tmp_path: Path) -> None:
    """Between loops there is nothing to wait for."""
    straight = dict(epochs(run, (0, FRESH), 5))
    assert not stop.after_epoch()

    def asked(epoch: int, state: dict[str, Any]) -> dict[str, Any]:
        if epoch == 2:
            assert stop.after_epoch()
        return run(epoch, state)

    taken = []
    try:
        with pytest.raises(KeyboardInterrupt):
            taken.extend(done for done, _ in epochs(asked, (0, FRESH), 5, tmp_path, 1e9))
    finally:
        stop.asked = False
    step, state = checkpoints.resume(tmp_path, FRESH)
    assert step == 3
    np.testing.assert_array_equal(state["sum"], straight[3]["sum"])
    assert not stop.after_epoch()
