"""Breakpoints of a toy network by brute force in exact arithmetic. Not a test itself."""

import itertools
from fractions import Fraction

import numpy as np

from experiments.toy import networks


def exact_output(layers: networks.Layers, x: Fraction) -> Fraction:
    values = [x]
    for depth, (weight, bias) in enumerate(layers):
        sums = [
            sum((v * Fraction(float(w)) for v, w in zip(values, column, strict=True)), Fraction(float(b)))
            for column, b in zip(np.transpose(weight), bias, strict=True)
        ]
        values = sums if depth + 1 == len(layers) else [max(s, Fraction(0)) for s in sums]
    return values[0]


def exact_breakpoints(layers: networks.Layers) -> list[Fraction]:
    """Try every pattern of active units: each zero of a unit under each pattern may be a breakpoint; keep the kinks."""
    candidates = set()
    for pattern in itertools.product((0, 1), repeat=sum(len(bias) for _, bias in layers[:-1])):
        bits, lines = iter(pattern), [(Fraction(1), Fraction(0))]
        for weight, bias in layers[:-1]:
            sums = [
                (
                    sum(Fraction(float(w)) * a for w, (a, _) in zip(column, lines, strict=True)),
                    sum(Fraction(float(w)) * b for w, (_, b) in zip(column, lines, strict=True)) + Fraction(float(own)),
                )
                for column, own in zip(np.transpose(weight), bias, strict=True)
            ]
            candidates |= {-b / a for a, b in sums if a != 0}
            lines = [(a * bit, b * bit) for (a, b), bit in zip(sums, bits, strict=False)]
    inner = sorted(candidates)
    if not inner:
        return []
    points = [inner[0] - 1, *inner, inner[-1] + 1]
    heights = [exact_output(layers, point) for point in points]
    slopes = [(b - a) / (q - p) for (p, a), (q, b) in itertools.pairwise(zip(points, heights, strict=True))]
    return [point for point, before, after in zip(inner, slopes[:-1], slopes[1:], strict=True) if before != after]
