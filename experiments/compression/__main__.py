"""The command ``python -m experiments.compression``."""

import os

from experiments import cli
from jaxfair.kernels import prefer_onednn

cli.listen()
prefer_onednn(os.environ)  # before JAX is imported, which reads its flags then

from experiments.compression.study import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
