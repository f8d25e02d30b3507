"""Benchmarks: ``measure`` times jaxfair beside other libraries and writes JSON, ``report`` makes tables of it."""

import itertools
import os
import sys

from jaxfair.kernels import prefer_onednn
from jaxfair.processes import keep_memory

keep_memory()
PROBLEM = "".join(after for word, after in itertools.pairwise(sys.argv) if word == "--problem")
if "gpt" not in PROBLEM:  # by oneDNN's calls attention's Hessian product is wrong (``jaxfair.kernels``)
    prefer_onednn(os.environ)  # before JAX is imported, which reads its flags then, and so before options are parsed
