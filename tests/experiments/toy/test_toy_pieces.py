"""Linear pieces against exact brute force, errors against linear programs."""

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from experiments.toy import networks
from experiments.toy import pieces as toy_pieces
from jaxfair.errors import JaxfairError
from tests.experiments.toy.cases import exact_breakpoints

# ---------------------------------------------------------------------------------------------------- linear pieces


@st.composite
def tied_networks(draw: st.DrawFn) -> networks.Layers:
    """Networks of few units and small multiples of 1/2: dead units, equal zeros and kinks that cancel are common."""
    widths = [1, *draw(st.lists(st.integers(1, 3), min_size=1, max_size=2)), 1]
    halves = st.integers(-3, 3).map(lambda value: value / 2)
    return [
        (
            np.array(draw(st.lists(halves, min_size=m * n, max_size=m * n))).reshape(m, n),
            np.array([draw(halves) for _ in range(n)]),
        )
        for m, n in itertools.pairwise(widths)
    ]


@given(tied_networks(), st.integers(-4, 4), st.integers(1, 6))
def test_breakpoints_equal_exact_brute_force(layers: networks.Layers, low: int, length: int) -> None:
    expected = exact_breakpoints(layers)
    assert toy_pieces.breakpoints(layers) == expected
    assert toy_pieces.breakpoints(layers, (low, low + length)) == [t for t in expected if low < t < low + length]
    assert toy_pieces.breakpoints(layers, (low, np.inf)) == [t for t in expected if t > low]


@given(st.integers(0, 10_000), st.lists(st.integers(1, 7), min_size=1, max_size=4))
def test_a_random_network_is_linear_between_its_breakpoints(seed: int, widths: list[int]) -> None:
    layers = networks.init((seed,), (1, *widths, 1))
    found = np.array(toy_pieces.breakpoints(layers), float)
    assert (np.diff(found) > 0).all()
    assert len(found) + 1 <= np.prod(np.array(widths) + 1) <= toy_pieces.most_pieces(widths)
    if len(widths) == 1:
        assert len(found) + 1 == toy_pieces.most_pieces(widths)
    ends = np.concatenate([[-100.0], found[np.abs(found) < 100], [100.0]])
    inside = ends[:-1, None] + np.diff(ends)[:, None] * np.linspace(0, 1, 9)
    heights = networks.forward(layers, inside[..., None], networks.all_relus(layers))
    straight = heights[:, :1] + (heights[:, -1:] - heights[:, :1]) * np.linspace(0, 1, 9)
    np.testing.assert_allclose(heights, straight, atol=1e-10 * np.abs(heights).max())


@pytest.mark.parametrize("widths", [(5,), (4, 3), (3, 3, 3)])
def test_breakpoints_on_a_fine_grid(widths: tuple[int, ...]) -> None:
    grid = np.linspace(-3, 3, 60_001)
    compared = 0
    for seed in range(20):
        layers = networks.init((seed, 7), (1, *widths, 1))
        bends = np.abs(np.diff(networks.forward(layers, grid[:, None], networks.all_relus(layers)), 2)) > 1e-9
        starts = np.flatnonzero(bends & ~np.roll(bends, 1))
        if (np.diff(starts) < 4).any():
            continue  # two bends in neighbouring cells cannot be told apart on a grid
        found = np.array(toy_pieces.breakpoints(layers, (-3, 3)), float)
        np.testing.assert_allclose(found, grid[starts + 1], atol=2e-4)
        compared += 1
    assert compared > 10


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_sawtooth_has_exponentially_many_pieces(depth: int) -> None:
    """Tents x -> 2 relu(x) - 4 relu(x - 1/2) put into each other bend at all multiples of 2^-depth (Telgarsky 2016)."""
    tent, bias = np.array([[2.0, 2.0], [-4.0, -4.0]]), np.array([0.0, -0.5])
    layers = [(np.ones((1, 2)), bias), *[(tent, bias)] * (depth - 1), (tent[:, :1], np.zeros(1))]
    found = toy_pieces.breakpoints(layers, (0, 1))
    assert found == [Fraction(i, 2**depth) for i in range(1, 2**depth)]


def test_scale_of_the_weights_does_not_matter() -> None:
    layers = networks.init((3,), (1, 6, 6, 1))
    tiny = [(weight * 2.0**-400, bias * 2.0 ** (-400 * (i + 1))) for i, (weight, bias) in enumerate(layers[:2])]
    assert toy_pieces.breakpoints([*tiny, layers[2]]) == toy_pieces.breakpoints(layers)


@pytest.mark.parametrize(("widths", "most"), [((4,), 5), ((4, 4), 40), ((3, 2, 5), 160), ((16, 16, 16), 17_408)])
def test_the_formula(widths: tuple[int, ...], most: int) -> None:
    assert toy_pieces.most_pieces(widths) == most


@pytest.mark.parametrize(("interval", "what"), [((1, 1), "interval is 1 to 1"), ((np.nan, 1), "interval is nan to 1")])
def test_breakpoints_of_no_interval(interval: tuple[float, float], what: str) -> None:
    with pytest.raises(JaxfairError, match=what):
        toy_pieces.breakpoints(networks.init((0,), (1, 2, 1)), interval)


def test_breakpoints_of_weights_that_are_not_finite() -> None:
    with pytest.raises(JaxfairError, match="not finite"):
        toy_pieces.breakpoints([(np.full((1, 1), np.inf), np.zeros(1)), (np.ones((1, 1)), np.zeros(1))])


# ------------------------------------------------------------------------------------------------------ approximation


def line_error(function: Any, low: float, high: float) -> float:
    """Return the smallest largest error of a line on [low, high], by a linear program on a grid."""
    x = np.linspace(low, high, 801)
    rows = np.stack([np.ones_like(x), x], axis=1)
    limits = np.concatenate([np.hstack([rows, -np.ones((801, 1))]), np.hstack([-rows, -np.ones((801, 1))])])
    values = np.concatenate([function(x), -function(x)])
    return linprog([0, 0, 1], limits, values, bounds=[(None, None)] * 2 + [(0, None)]).fun


@pytest.mark.parametrize("interval", [(-1.0, 1.0), (0.0, 3.0), (-10.0, -7.0)])
@pytest.mark.parametrize("pieces", [1, 2, 5])
@pytest.mark.parametrize("name", toy_pieces.FUNCTIONS)
def test_the_best_error_can_be_reached_and_not_beaten(name: str, pieces: int, interval: tuple[float, float]) -> None:
    """No line does better on any of the segments, and one of any p pieces covers one of the p segments whole."""
    function = toy_pieces.FUNCTIONS[name][0]
    error, knots = toy_pieces.best_error(name, pieces, interval)
    assert len(knots) == pieces + 1
    assert (knots[0], knots[-1]) == interval
    for low, high in itertools.pairwise(knots):
        # In units of the error, since the program's tolerance is absolute.
        assert line_error(lambda x: function(x) / error, low, high) == pytest.approx(1, rel=1e-4)
    x = np.linspace(*interval, 20_001)
    reached = np.interp(x, knots, function(np.array(knots)) - error)
    assert np.abs(reached - function(x)).max() == pytest.approx(error, rel=1e-5)


def test_the_solved_error_equals_the_closed_form_of_the_square(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(toy_pieces.FUNCTIONS, "solved", toy_pieces.FUNCTIONS["x²"])
    for pieces in (1, 3, 20):
        assert toy_pieces.best_error("solved", pieces, (-1, 2))[0] == pytest.approx(9 / pieces**2 / 8, rel=1e-9)


def test_the_best_error_falls_as_the_theory_says() -> None:
    """Its limit is (integral of sqrt(f''))² / (16 p²); for exp the integral is 2 (exp(high / 2) - exp(low / 2))."""
    error, _ = toy_pieces.best_error("exp x", 200, (-1, 1))
    assert error * 200**2 == pytest.approx((2 * (np.exp(0.5) - np.exp(-0.5))) ** 2 / 16, rel=1e-4)


@pytest.mark.parametrize("name", toy_pieces.FUNCTIONS)
def test_the_largest_error_of_a_network(name: str) -> None:
    x = np.linspace(-1, 2, 300_001)
    function = toy_pieces.FUNCTIONS[name][0]
    slope = (function(2.0) - function(-1.0)) / 3  # the chord errs between its ends only
    chord = [(np.ones((1, 1)), np.array([1.0])), (np.array([[slope]]), np.array([function(-1.0)]))]
    for layers in [chord, *(networks.init((seed,), (1, 5, 3, 1)) for seed in range(5))]:
        on_grid = np.abs(networks.forward(layers, x[:, None], networks.all_relus(layers)) - function(x)).max()
        error = toy_pieces.largest_error(layers, name, (-1, 2))
        assert on_grid - 1e-12 <= error <= on_grid + 1e-4
