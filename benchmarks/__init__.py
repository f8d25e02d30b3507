"""Benchmarks: ``measure`` times jaxfair beside other libraries and writes JSON, ``report`` makes tables of it."""

import os

from jaxfair.kernels import prefer_onednn

prefer_onednn(os.environ)  # before JAX is imported, which reads its flags then
