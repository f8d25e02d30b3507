"""What a reader needs of any figure, whatever it shows. Not a test itself."""

import itertools
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

APART = 12
"""Pixels between two titles in one line, or they would be read as one."""


def check(figure: Any) -> None:
    """Fail if labels of a laid-out figure overlap, an axis tells no scale, or two series of a panel look alike."""
    for axes in figure.axes:
        if axes.get_visible():
            assert axes.lines or axes.collections, "a panel is empty"
            for axis in (axes.xaxis, axes.yaxis):
                _check_ticks(axis)
        handles, names = axes.get_legend_handles_labels()
        looks = [_look(handle) for handle in handles]
        assert len(set(looks)) == len(looks), f"some look alike of {names}"
    titles = [axes.title for axes in figure.axes if axes.get_visible() and axes.title.get_text()]
    for first, second in itertools.combinations(titles, 2):
        a, b = first.get_window_extent(), second.get_window_extent()
        side_by_side = a.y0 < b.y1 and b.y0 < a.y1
        assert not side_by_side or b.x0 - a.x1 > APART or a.x0 - b.x1 > APART, (
            f"{first.get_text()!r}, {second.get_text()!r}"
        )


def _check_ticks(axis: Any) -> None:
    low, high = sorted(axis.get_view_interval())
    slack = 1e-9 * (high - low)
    ticks = [tick for tick in axis.get_major_ticks() if low - slack <= tick.get_loc() <= high + slack]
    shown = [tick.label1 for tick in ticks if tick.label1.get_visible() and tick.label1.get_text()]
    boxes = [box_of(text) for text in shown]
    for first, second, a, b in zip(shown, shown[1:], boxes, boxes[1:], strict=False):
        assert not overlaps(a, b), f"{first.get_text()!r} and {second.get_text()!r} overlap"
    if isinstance(axis.get_major_locator(), LogLocator) and shown:
        assert len(shown) > 1, f"a logarithmic axis has one number, {shown[0].get_text()}"
    if isinstance(axis.get_major_locator(), MaxNLocator) and shown:
        assert len(shown) > 2, f"an axis has the numbers {[text.get_text() for text in shown]} alone"


def _look(handle: Any) -> tuple[str, ...]:
    """Return colour, marker and line of a series, which may be points with bars."""
    line = handle.lines[0] if hasattr(handle, "lines") else handle
    return str(line.get_color()), str(line.get_marker()), str(line.get_linestyle())


def overlaps(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two boxes with axes along the text, shape (4, 2), share an inner point: no side parts them."""
    for box in (a, b):
        for side in (box[1] - box[0], box[2] - box[1]):
            first, second = a @ side, b @ side
            slack = 0.02 * np.linalg.norm(side) ** 2
            if first.max() <= second.min() + slack or second.max() <= first.min() + slack:
                return False
    return True


def box_of(text: Any) -> np.ndarray:
    """Return the corners of a drawn text, however it is rotated, shape (4, 2)."""
    rotation = text.get_rotation()
    anchor = text.get_transform().transform(text.get_unitless_position())
    text.set_rotation(0)
    corners = text.get_window_extent().corners()[[0, 1, 3, 2]] - anchor
    text.set_rotation(rotation)
    turn = np.deg2rad(rotation)
    return corners @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + anchor
