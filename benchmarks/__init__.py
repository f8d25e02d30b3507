"""Benchmarks: ``measure`` times jaxfair beside other libraries and writes JSON, ``report`` makes tables of it."""
