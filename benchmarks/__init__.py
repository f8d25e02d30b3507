"""Benchmarks: ``measure`` times jaxfair beside other libraries and writes JSON, ``report`` makes tables of it."""

import os
import sys

from jaxfair.kernels import prefer_onednn

if not any(
    "gpt" in word for word in sys.argv
):  # attention's Hessian product is wrong by them (see ``jaxfair.kernels``)
    prefer_onednn(os.environ)  # before JAX is imported, which reads its flags then
