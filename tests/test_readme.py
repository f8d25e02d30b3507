"""The README's Python examples run as printed, in order, and do what it says."""

import re
from pathlib import Path

import numpy as np
import pytest

from jaxfair.networks.network import predict

README = Path(__file__).parents[1] / "README.md"


def test_the_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(compile(block, str(README), "exec"), names)
    assert len(capsys.readouterr().out.splitlines()) >= 2
    # The linearized network is worth having, and its groups were measured.
    logits = predict(names["tuned"].network, names["test_set"])
    assert np.mean(logits.argmax(-1) == np.asarray(names["test_set"].label)) > 0.9
    assert names["measured"].converged.all()
