"""What a network of a study took to make, after the full network, from the records of its runs."""

import math
from collections.abc import Mapping
from typing import Any

from jaxfair import runs
from jaxfair.errors import JaxfairError
from jaxfair.runs import Run
from jaxfair.training.batches import FORWARD, GRADIENT
from jaxfair.training.config import TrainConfig
from jaxfair.training.fit import images_seen


def passes(run: Run) -> float:
    """Return the work of a run and of those that it was made of, in forward passes of one image.

    A gradient counts three, a teacher's scores one (by counting convolutions). The full network is not counted, nor
    what is measured. NaN where a run that it was made of is not there.
    """
    found, at = 0.0, run
    while at.config["stage"] != "train":
        found += _own(at)
        digest = _made_of(at.config)
        paths = sorted(at.path.parent.glob(f"*-{digest}")) if digest else []
        if not paths:
            return math.nan
        try:
            at = runs.read(paths[0])
        except JaxfairError:
            return math.nan
    return found


def _made_of(config: Mapping[str, Any]) -> str | None:
    """Return the digest of the run whose network this one was made of."""
    parents = config.get("parents", {})
    if config["variant"]["method"] == "random-matched" and config["stage"] == "linearize":
        return parents["matched"]
    return next((parents[name] for name in ("network", "start", "full") if name in parents), None)


def _own(run: Run) -> float:
    """Return what a run itself took."""
    config = run.config
    if config["stage"] == "finetune":
        return _seen(config, config["train"], config["train"]["epochs"]) * (FORWARD + GRADIENT)
    if config["stage"] != "linearize":
        return 0.0
    result = run.json("result.json")
    if "snl" in config:
        return _seen(config, config["snl"], result["epochs"]) * (FORWARD + GRADIENT)
    return float(result.get("passes", 0.0))


def _seen(config: Mapping[str, Any], training: Mapping[str, Any], epochs: int) -> int:
    """Return the number of images that a training saw."""
    return images_seen(TrainConfig(epochs, training["batch_size"]), sum(config["data"]["train_count"]))
