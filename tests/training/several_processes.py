"""One of two processes that train one network, run by ``test_sharing.py``: folder, port, its number.

On a cluster it has no number, since SLURM's variables tell it (``test_slurm.py``). What it asserts is said in its
output, and its end is its status. It writes what it trained into the folder.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxfair import checkpoints, loops
from jaxfair.errors import JaxfairError
from jaxfair.linearize import snl
from jaxfair.training.fit import Stopping, fit

SNL = snl.SnlConfig(batch_size=8, learning_rate=4e-3, kappa=1e-2)


def main(folder: Path, port: str, number: int | None = None) -> None:
    jax.config.update("jax_enable_x64", True)
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=number if number is None else 2, process_id=number)
    number = jax.process_index()
    assert (jax.process_count(), jax.device_count(), jax.local_device_count()) == (2, 4, 2)
    from tests.training.several_devices import DATA, MITIGATED, MODULE, PLAIN, leaves, network  # on the devices

    every = jax.device_count()
    for devices, batch_size in ((2, 8), (every, 9)):
        with pytest.raises(JaxfairError, match=f"give all {every} and a batch size that they divide"):
            fit([network()], DATA, replace(PLAIN, batch_size=batch_size), seeds=[0], devices=devices)
    with pytest.raises(JaxfairError, match="2 seeds at once cannot be shared"):
        fit([network(), network()], DATA, PLAIN, seeds=[0, 1], devices=every, at_once=2)

    teachers: dict[str, Any] = {"teachers": [network(10, MODULE)]}
    (one,) = fit([network(0, MODULE)], DATA, MITIGATED, seeds=[0], devices=every, **teachers)
    (matched,) = snl.matched(network(), DATA, SNL, ends=[1], seed=0, devices=every)
    trained = {"step": one.network, "matched": matched.network}
    trained["resumed"] = resumed(number, every, folder)
    stopping = Stopping(DATA, 1)
    (stopped,) = fit([network()], DATA, replace(PLAIN, epochs=3), seeds=[0], devices=every, stopping=stopping)
    assert stopped.epoch is not None
    for leaf in jax.tree.leaves(trained):
        assert leaf.is_fully_addressable
    for name, tree in trained.items():
        np.savez(folder / f"{name}-{number}.npz", *leaves(tree))


def resumed(number: int, every: int, folder: Path) -> Any:
    """Train two networks; the last process alone is asked to stop in the first epoch, and alone sees the folder."""
    from tests.training.several_devices import DATA, PLAIN, network

    own, seen = folder / str(number), list[int]()
    options: dict[str, Any] = {"seeds": [0, 1], "devices": every, "progress_dirs": [own / "a", own / "b"]}

    def asked(done: int, *_: object) -> None:
        assert done == 1
        if number == 1:
            assert loops.stop.after_epoch()

    with pytest.raises(KeyboardInterrupt):
        list(fit([network(), network(1)], DATA, PLAIN, **options, on_epoch=asked))
    loops.stop.asked = False
    written = [checkpoints.latest_step(place) for place in own.glob("a/*")]
    assert written == ([1] if number == 0 else [])
    first, _ = fit([network(), network(1)], DATA, PLAIN, **options, on_epoch=lambda done, *_: seen.append(done))
    assert seen == [2, 1, 2]
    return first.network


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
