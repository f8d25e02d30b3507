"""The README's Python examples run as printed, in order, and do what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
WHAT_THEY_DID = """
import numpy as np
from jaxfair.networks.network import predict
accuracy = float(np.mean(predict(tuned.network, test_set).argmax(-1) == np.asarray(test_set.label)))
print(accuracy, bool(measured.converged.all()))
"""


def test_the_examples_run() -> None:
    """In a process with XLA's own optimization: without it, training takes longer than compiling does with it."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    program = "\n".join([*blocks, WHAT_THEY_DID])
    child = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
    *said, last = child.stdout.splitlines()
    assert len(said) >= 2
    # The linearized network is worth having, and its groups were measured.
    accuracy, converged = last.split()
    assert float(accuracy) > 0.9
    assert converged == "True"
