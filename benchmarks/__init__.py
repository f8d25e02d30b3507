"""Benchmarks: measure writes JSON, and a table of it."""
