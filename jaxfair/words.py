"""Numbers, and differences between groups, in words: the same ones in the library's reports and the studies' pages."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

ROUNDING = 1e-9
"""What is smaller is 0, but for rounding."""
HUGE = 1e6
"""From here on a number is written with two digits and an exponent."""
NAMED = 3
"""Groups that an answer names; the others are counted."""
_LETTERS = "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]++"
RIGHT = re.compile(f"{_LETTERS}(?:[ '-]++{_LETTERS})*+(?=.)")
"""Words of scripts that are read from the right, as Hebrew and Arabic, after which something else follows."""
FROM_LEFT = "\u200e"
"""Unicode's mark, which is not seen, that what stands beside it is read from the left."""
TURNS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
"""Unicode's classes of what turns the rest of a line around."""


def written(number: float, form: str = ".1f") -> str:
    """Return a number as text that is 0 only where the number is: an end beyond 0 never looks as if it touched 0.

    Args:
        number: to write.
        form: a format specification; what it would round to 0 is written with one digit instead, unless it is below
            ``ROUNDING``. Digits that stand for nothing, of numbers from ``HUGE`` on, are left out, below which ``.3g``
            has no exponent: 2418.3 is 2,420.
    """
    said = format(number, form if abs(number) < HUGE or not form.endswith("f") else ".2g")
    if "e+" in said and form.endswith("g") and abs(number) < HUGE:
        return f"{float(said):,.0f}"
    if said.strip("-0.%"):
        return said
    return format(number, ".1g") if abs(number) >= ROUNDING else format(0.0, form)


def in_order(text: str) -> str:
    """Return a text in which a name that is read from the right does not turn the numbers and stops after it around.

    A mark that is not seen stands after each such name: what follows is read from the left again.

    Example:
        >>> from jaxfair.words import in_order
        >>> in_order("from \u05d0 7. 95 %").split("\u200e")[1]
        ' 7. 95 %'
    """
    return RIGHT.sub(lambda found: found[0] + FROM_LEFT, text)


def cut(names: Sequence[str], most: int = 100) -> list[str]:
    """Return names on one line each, the long ones without most of their middles; names that differ stay different.

    One that differs from another in blanks alone, or in what is not seen, is quoted as Python does. What would turn a
    line around or end it is escaped in any.

    Args:
        names: all that are to be told apart.
        most: letters from which on a name is cut.

    Example:
        >>> from jaxfair.words import cut
        >>> cut(["18 to 64 years of age", "65 years of age"], most=15)
        ['18 to 6… of age', '65 years of age']
        >>> cut(["district 10 of the north", "district 11 of the north"], most=15)
        ['distr…0 of…north', 'distr…1 of…north']
        >>> cut(["male", "male "])
        ['male', "'male '"]
    """
    lines, half, alike = _lines(names), (most - 1) // 2, dict[str, list[str]]()
    for name, line in lines.items():
        short = line if len(line) <= most else f"{line[:half]}…{line[-half:]}"
        alike.setdefault(short, []).append(name)
    found: dict[str, str] = {}
    for short, own in alike.items():
        found.update(zip(own, _apart(short, [lines[name] for name in own], most), strict=True))
    return [found[name] for name in names]


def _lines(names: Sequence[str]) -> dict[str, str]:
    """Return each name as a line, on which it is seen where two would look the same."""
    lines = {name: " ".join("".join(map(_harmless, name)).split()) for name in names}
    seen = {name: "".join(c for c in line if unicodedata.category(c) != "Cf") for name, line in lines.items()}
    times = Counter(seen.values())
    return {
        name: repr(name).replace("  ", " \\x20") if name != look and (times[look] > 1 or not look) else lines[name]
        for name, look in seen.items()
    }


def _harmless(letter: str) -> str:
    """Return a letter, escaped if it controls what is read after it: a terminal, or the direction of a line."""
    controls = unicodedata.category(letter) in ("Cc", "Cs") and not letter.isspace()
    turns = unicodedata.bidirectional(letter) in TURNS
    return letter.encode("unicode_escape").decode() if controls or turns else letter


def _apart(short: str, names: Sequence[str], most: int) -> list[str]:
    """Return names that are the same once they are cut with what they differ in; if need be with a number."""
    if len(names) == 1:
        return [short]
    shortest, third = min(map(len, names)), most // 3
    first = next((i for i in range(shortest) if len({name[i] for name in names}) > 1), shortest)
    found = [f"{name[:third]}…{name[first : first + third - 1]}…{name[-third:]}" for name in names]
    if len(set(found)) < len(found):
        found = [f"{said} ({number})" for number, said in enumerate(found, 1)]
    return found


def in_words(
    group: str, reference: str, difference: tuple[float, float, float], lost: tuple[float, float], also: str = ""
) -> str:
    """Say what a group lost more or less than the reference group, and what both lost.

    Args:
        group: name, as ``cut`` has it.
        reference: its name, with what else is said after it; empty where it was named before, with what it lost.
        difference: in points of relative drop, and the ends of its interval.
        lost: relative drops of the group and of the reference, in percent.
        also: said of the interval.

    Example:
        >>> from jaxfair.words import in_words
        >>> in_words("b", "a", (8.5, 2.4, 14.6), (12.0, 3.5))
        'b lost 8.5 points more than a (2.4 to 14.6): 12.0 % of its accuracy against 3.5 %'
        >>> in_words("b", "a", (8.5, 2.4, 14.6), (5.0, -3.5))
        'b lost 8.5 points more than a (2.4 to 14.6): a loss of 5.0 % of its accuracy against a gain of 3.5 %'
    """
    size, interval = more_or_less(difference, also)
    own, other = _shares(lost if reference else lost[:1])
    than, against = (f" than {reference}", f" against {other}") if reference else ("", "")
    said = f"{group} lost {size}{than} {interval}".rstrip()
    return f"{said}: {own} of its accuracy{against}"


def _shares(lost: tuple[float, ...]) -> tuple[str, str]:
    """Return relative drops in percent, of a group and of the reference if it is there, as what was lost or gained."""
    found = [_turned((share, math.nan, math.nan)) for share in lost]
    if all(is_loss for *_, is_loss in found):
        said = [f"{size} %" for size, *_ in found]
    else:
        said = [f"a {'loss' if is_loss else 'gain'} of {size} %" for size, _, is_loss in found]
    return said[0], said[-1]


def more_or_less(difference: tuple[float, float, float], also: str = "", form: str = ".1f") -> tuple[str, str]:
    """Return a difference in points, and its interval, as text: ``("8.5 points more", "(2.4 to 14.6)")``."""
    size, interval, more = _turned(difference, also, form)
    return f"{size} points {'more' if more else 'less'}", interval


def lost_or_gained(accuracy: tuple[float, float, float], unit: str = "points of accuracy") -> str:
    """Say what was lost, or else gained, in points of accuracy or in another unit.

    Args:
        accuracy: lost, and the ends of its interval, NaN where there is none; negative is a gain.
        unit: in which.

    Example:
        >>> from jaxfair.words import lost_or_gained
        >>> lost_or_gained((5.0, -1.0, 11.0)), lost_or_gained((-39.0, -49.0, -29.0))
        ('lost 5.0 points of accuracy (-1.0 to 11.0)', 'gained 39.0 points of accuracy (29.0 to 49.0)')
    """
    size, interval, lost = _turned(accuracy)
    return f"{'lost' if lost else 'gained'} {size} {unit} {interval}".strip()


def _turned(value: tuple[float, float, float], also: str = "", form: str = ".1f") -> tuple[str, str, bool]:
    """Return a number without its sign, its interval turned alike, and whether it was 0 or above, up to rounding."""
    mean, low, high = value
    above = not mean <= -ROUNDING
    mean, low, high = (mean, low, high) if above else (-mean, -high, -low)
    size, *ends = (written(part, form) for part in (mean, low, high))
    known = math.isfinite(low) and math.isfinite(high)
    if low < 0 < high:  # digits beyond those of an interval that reaches to both sides would say more than is known
        size = format(abs(mean), form)
    return size, f"({' to '.join(ends)}{also})" if known else "", above
