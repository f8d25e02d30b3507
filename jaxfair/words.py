"""Numbers, and differences between groups, in words: the same ones in the library's reports and the studies' pages."""


def written(number: float, form: str = ".1f") -> str:
    """Return a number as text that is 0 only where the number is: an end beyond 0 never looks as if it touched 0.

    Args:
        number: to write.
        form: a format specification; what it would round to 0 is written with one digit instead, unless it is below
            1e-9, which is rounding.
    """
    said = format(number, form)
    if said.strip("-0.%"):
        return said
    return format(number, ".1g") if abs(number) >= 1e-9 else format(0.0, form)


def in_words(
    group: str, reference: str, difference: tuple[float, float, float], lost: tuple[float, float], also: str = ""
) -> str:
    """Say what a group lost more or less than the reference group, and what both lost.

    Args:
        group: name.
        reference: name, with what else is said after it; empty where it was named before, with what it lost.
        difference: in points of relative drop, and the ends of its interval.
        lost: relative drops of the group and of the reference, in percent.
        also: said of the interval.

    Example:
        >>> from jaxfair.words import in_words
        >>> in_words("b", "a", (8.5, 2.4, 14.6), (12.0, 3.5))
        'b lost 8.5 points more than a (2.4 to 14.6): 12.0 % of its accuracy against 3.5 %'
    """
    size, interval = more_or_less(difference, also)
    than, against = (f" than {reference}", f" against {written(lost[1])} %") if reference else ("", "")
    return f"{group} lost {size}{than} {interval}: {written(lost[0])} % of its accuracy{against}"


def more_or_less(difference: tuple[float, float, float], also: str = "") -> tuple[str, str]:
    """Return a difference in points, and its interval, as text: ``("8.5 points more", "(2.4 to 14.6)")``."""
    mean, low, high = difference
    mean, low, high, word = (mean, low, high, "more") if mean >= 0 else (-mean, -high, -low, "less")
    size, *ends = map(written, (mean, low, high))
    return f"{size} points {word}", f"({' to '.join(ends)}{also})"
